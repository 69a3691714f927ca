"""Makes stylegan.npz: what the networks of stylegan2-ada-pytorch compute at tiny widths, and one training step.

    python tests/oracles/stylegan.py FOLDER

FOLDER has `training/networks.py`, `torch_utils/` and `dnnlib/` of NVlabs/stylegan2-ada-pytorch at its commit
d72cc7d041b4. On a CPU they run in plain torch. All weights are random, so that no term drops out.

    keys                        what
    before/{side}/...           the state dicts; side is generator or discriminator
    noise, images               latent vectors and their images in [-1, 1], with the constant noise
    truncated                   the same with psi 0.6 in the first 3 layers
    styles                      those of all layers
    real, logits, r1            images in [-1, 1], their logits, and |grad D|^2 of each
    directions, path_lengths    y, and |J^T y| of the images of `noise`
    latents, crossovers, losses what the four losses of one training step take, and their values
    after/{side}/...            the state dicts after that step

The step, with the constant noise: generator, discriminator, path length, R1, each by SGD with momentum. The state of
the optimizers is shared by the two steps of each side, and the running mean of the path length starts at 0.

Made with torch 2.13.0 on CPU, in an environment of its own.
"""

import pathlib
import sys

import numpy as np
import torch

BATCH, SIDE, CHANNELS, NOISE, STYLE = 4, 16, 2, 5, 3
LAYERS = 6
RATE, MOMENTUM = 0.02, 0.5
R1_WEIGHT, R1_INTERVAL, PATH_WEIGHT, PATH_INTERVAL = 0.3, 2, 0.5, 3
CROSSOVERS = (2, 6, 4)  # of the generator's step, the discriminator's and the path length's


def arrays(prefix, net):
    return {f"{prefix}/{name}": x.numpy().copy() for name, x in net.state_dict().items()}


def randomized(net):
    for name, x in [*net.named_parameters(), *net.named_buffers()]:
        if name.endswith(("bias", "noise_strength", "w_avg")):
            x.data.add_(0.3 * torch.randn_like(x))
    return net


def main(folder):
    sys.path.insert(0, folder)
    from training.networks import Discriminator, Generator

    torch.manual_seed(0)
    widths = dict(channel_base=32, channel_max=4)
    generator = Generator(
        NOISE, 0, STYLE, SIDE, CHANNELS, mapping_kwargs=dict(num_layers=2), synthesis_kwargs=dict(widths)
    )
    judge = Discriminator(0, SIDE, CHANNELS, **widths, epilogue_kwargs=dict(mbstd_group_size=2))
    nets = {"generator": randomized(generator).eval(), "discriminator": randomized(judge).eval()}
    found = {}
    for name, net in nets.items():
        found |= arrays(f"before/{name}", net)

    def draw(styles):
        return generator.synthesis(styles, noise_mode="const", fused_modconv=True)

    noise = torch.randn(BATCH, NOISE)
    real = torch.rand(BATCH, CHANNELS, SIDE, SIDE) * 2 - 1
    y = torch.randn(BATCH, CHANNELS, SIDE, SIDE) / SIDE

    def r1(images):
        images = images.detach().requires_grad_(True)
        (slopes,) = torch.autograd.grad(judge(images, None).sum(), images, create_graph=True)
        return slopes.square().sum([1, 2, 3])

    def path_lengths(styles, y):
        (slopes,) = torch.autograd.grad((draw(styles) * y).sum(), styles, create_graph=True)
        return slopes.square().sum(2).mean(1).sqrt()

    with torch.no_grad():
        styles = generator.mapping(noise, None)
        found |= {"noise": noise, "images": draw(styles), "styles": styles, "real": real}
        found["truncated"] = draw(generator.mapping(noise, None, truncation_psi=0.6, truncation_cutoff=3))
        found["logits"] = judge(real, None)[:, 0]
    found["r1"] = r1(real).detach()
    found |= {"directions": y, "path_lengths": path_lengths(styles.clone().requires_grad_(True), y).detach()}

    latents = torch.randn(3, 2, BATCH, NOISE)

    def mixed(i, count=BATCH):
        first, second = (generator.mapping(x[:count], None) for x in latents[i])
        return torch.cat([first[:, : CROSSOVERS[i]], second[:, CROSSOVERS[i] :]], 1)

    softplus = torch.nn.functional.softplus
    optimizers = {name: torch.optim.SGD(net.parameters(), RATE, MOMENTUM) for name, net in nets.items()}
    losses = []

    def step(side, loss):
        for optimizer in optimizers.values():
            optimizer.zero_grad(set_to_none=False)
        loss.backward()
        optimizers[side].step()
        losses.append(loss.item())

    step("generator", softplus(-judge(draw(mixed(0)), None)).mean())
    fake = judge(draw(mixed(1)).detach(), None)
    step("discriminator", softplus(-judge(real, None)).mean() + softplus(fake).mean())
    half = BATCH // 2
    lengths = path_lengths(mixed(2, half), y[:half])
    mean = 0.01 * lengths.mean()
    step("generator", PATH_INTERVAL * PATH_WEIGHT * (lengths - mean).square().mean())
    step("discriminator", R1_INTERVAL * R1_WEIGHT / 2 * r1(real).mean())
    for name, net in nets.items():
        found |= arrays(f"after/{name}", net)
    found |= {"latents": latents, "crossovers": np.array(CROSSOVERS), "losses": np.array(losses)}
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **{k: np.asarray(v) for k, v in found.items()})


if __name__ == "__main__":
    main(sys.argv[1])
