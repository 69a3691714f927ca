"""Makes ncsn.npz: the nets, losses and samplers of the authors' code, at tiny widths.

    python tests/oracles/ncsn.py FIRST SECOND

FIRST is ermongroup/ncsn at its commit 7f27f4a, SECOND is ermongroup/ncsnv2 at 1bcea03. The nets are v1's
`CondRefineNetDilated`, and v2's `NCSNv2` and `NCSNv2Deepest`. No weight is 0, so that no term drops out. They are sines
of squares, which `weights` here and the test compute alike, and are not in the file.

    keys                       what
    {net}/layout               JSON: the shapes of the state dict by its names, in order; net is v1, v2 or deepest
    {net}/images, .../level    float32, (batch, height, width, channels), in [0, 1]; int32, (batch,)
    {net}/scores               float32, the shape of the images
    {net}/noise                float32, standard normal, the shape of the images; not of deepest
    {net}/loss                 of the images with that noise, `anneal_dsm_score_estimation`; not of deepest
    {net}/gradient             its gradient by all weights of the layout, one after the other; not of deepest
    v2/chain_start, v2/chain_noise, v2/chain_end
                               `anneal_Langevin_dynamics` with its last, denoising step
    v2/fill_start, v2/fill_known, v2/fill_noise_known, v2/fill_noise_step, v2/fill_end
                               `anneal_Langevin_dynamics_inpainting` of the right half, with the noise of the known half
                               and of the whole image for each step; it returns the state before its last step

Made with torch 2.13.0 on CPU, in an environment of its own.
"""

import importlib
import json
import math
import pathlib
import sys
import types

import numpy as np
import torch

SIZE, CHANNELS, WIDTH, BATCH, LEVELS = (8, 16), 3, 2, 2, 4
EPS, STEPS = 2e-5, 2


def config(channels, size):
    model = dict(ngf=WIDTH, num_classes=LEVELS, sigma_begin=1.0, sigma_end=0.01, sigma_dist="geometric")
    model |= dict(normalization="InstanceNorm++", nonlinearity="elu")
    data = dict(channels=channels, image_size=size, logit_transform=False, rescaled=False)
    return types.SimpleNamespace(
        model=types.SimpleNamespace(**model), data=types.SimpleNamespace(**data), device=torch.device("cpu")
    )


def module(folder, name):
    """A module of one of the two folders, which have packages of the same names."""
    for known in [key for key in sys.modules if key.split(".")[0] in ("models", "losses")]:
        del sys.modules[known]
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)


def weights(layout):
    """Arrays of some shapes by name, of `sin(k^2)` for k = 1, 2, ...; scales are near 1."""
    found, k = {}, 1
    for name, shape in layout.items():
        count = math.prod(shape)
        values = np.sqrt(2) * np.sin(np.arange(k, k + count, dtype="float64") ** 2).reshape(shape)
        values = values / np.sqrt(count / shape[0]) if len(shape) == 4 else 0.3 * values
        scale = name.endswith(("gamma", "alpha", "embed.weight"))
        found[name], k = (values + 1.0 if scale else values).astype("float32"), k + count
    return found


def prepared(net):
    """A net with those weights, and their layout."""
    layout = {name: list(x.shape) for name, x in net.state_dict().items() if name != "sigmas"}
    net.load_state_dict({name: torch.tensor(x) for name, x in weights(layout).items()}, strict=False)
    return net.eval(), layout


def recorded(function, *arguments, **options):
    """The result of a function, and the noise that it drew, in order."""
    drawn, draw = [], torch.randn_like

    def record(x):
        drawn.append(draw(x))
        return drawn[-1]

    torch.randn_like = record
    try:
        return function(*arguments, **options), drawn
    finally:
        torch.randn_like = draw


def plain(x):
    """As NumPy; images with their channels last."""
    x = x.detach()
    return (x.permute(0, 2, 3, 1) if x.ndim == 4 else x).numpy().copy()


def of_net(name, prepared_net, loss, channels):
    net, layout = prepared_net
    images, level = torch.rand(BATCH, channels, *SIZE), torch.tensor([LEVELS - 1, 1])
    found = {"layout": np.array(json.dumps(layout)), "images": plain(images), "level": level.numpy().astype("int32")}
    found["scores"] = plain(net(images, level))
    if loss is not None:
        value, (noise,) = recorded(loss, net, images, level)
        value.backward()
        gradients = dict(net.named_parameters())
        gradient = np.concatenate([gradients[key].grad.numpy().ravel() for key in layout])
        found |= dict(noise=plain(noise), loss=plain(value), gradient=gradient)
    return {f"{name}/{key}": x for key, x in found.items()}


def chains(models, net):
    start = torch.rand(BATCH, CHANNELS, *SIZE)
    options = dict(n_steps_each=STEPS, step_lr=EPS)
    (end,), noise = recorded(models.anneal_Langevin_dynamics, start, net, net.sigmas, final_only=True, **options)
    found = dict(chain_start=plain(start), chain_noise=np.stack([plain(z) for z in noise]), chain_end=plain(end))
    # It wants square images, of as many channels, and pairs of a batch of references and starts for each.
    start, known = torch.rand(1, BATCH, CHANNELS, 8, 8), torch.rand(1, CHANNELS, 8, 8)
    kept = start.clone()
    states, noise = recorded(
        models.anneal_Langevin_dynamics_inpainting, start, known, net, net.sigmas.numpy(), 8, **options
    )
    found |= dict(fill_start=plain(kept[0]), fill_known=plain(known), fill_end=plain(states[-1]))
    found |= dict(fill_noise_known=np.stack([plain(z) for z in noise[::2]]))
    found |= dict(fill_noise_step=np.stack([plain(z) for z in noise[1::2]]))
    return {f"v2/{key}": x for key, x in found.items()}


def main(first, second):
    torch.manual_seed(0)
    nets = module(first, "models.cond_refinenet_dilated")
    losses = module(first, "losses.dsm")
    sigmas = torch.exp(torch.linspace(0.0, np.log(0.01), LEVELS))

    def first_loss(net, images, level):
        return losses.anneal_dsm_score_estimation(net, images, level, sigmas)

    found = of_net("v1", prepared(nets.CondRefineNetDilated(config(1, 28))), first_loss, channels=1)
    nets = module(second, "models.ncsnv2")
    models, losses = sys.modules["models"], module(second, "losses.dsm")
    net, layout = prepared(nets.NCSNv2(config(CHANNELS, 32)))

    def second_loss(net, images, level):
        return losses.anneal_dsm_score_estimation(net, images, net.sigmas, level)

    found |= of_net("v2", (net, layout), second_loss, CHANNELS)
    found |= chains(models, net)
    found |= of_net("deepest", prepared(nets.NCSNv2Deepest(config(1, 256))), None, channels=1)
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **found)


if __name__ == "__main__":
    main(*map(pathlib.Path, sys.argv[1:]))
