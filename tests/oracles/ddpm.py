"""What diffusers computes: its U-Net of DDPM with the gradients of a training step, and its schedulers step by step.

    python tests/oracles/ddpm.py        with diffusers 0.42.1 and torch 2.13

The U-Net has all kinds of layers of `google/ddpm-cifar10-32` in small, one block a level. Its weights are random, so
that no term drops out. The schedulers get a net that is a formula, `net` below, and noise that is given.
"""

import pathlib
from unittest import mock

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from diffusers.schedulers import scheduling_ddpm

TRAINED, TAKEN, BATCH = 1000, 10, 2
BETAS = {"linear": dict(beta_schedule="linear"), "cosine": dict(beta_schedule="squaredcos_cap_v2")}


def net(x, t):
    """A formula in place of a net, with the channels of a learned variance behind."""
    return torch.cat([torch.sin(2 * x) * (0.5 + t / TRAINED), torch.cos(x + t)], 1)


def unet():
    model = UNet2DModel(
        sample_size=8,
        in_channels=2,
        out_channels=2,
        layers_per_block=1,
        block_out_channels=(4, 8),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=2,
        norm_eps=1e-6,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        attention_head_dim=None,
        mid_block_scale_factor=1,
        num_class_embeds=3,
    )
    for name, parameter in model.named_parameters():
        scale = 0.5 * torch.randn_like(parameter)
        with torch.no_grad():
            parameter.copy_(1 + scale if "norm" in name and name.endswith("weight") else scale * 0.6)
    return model


def trained(found):
    model = unet()
    scheduler = DDPMScheduler(TRAINED)
    data, noise = torch.rand(BATCH, 2, 8, 8) * 2 - 1, torch.randn(BATCH, 2, 8, 8)
    t, labels = torch.tensor([3, 700]), torch.tensor([2, 0])
    noisy = scheduler.add_noise(data, noise, t)
    seen = model(noisy, t, labels).sample
    loss = torch.nn.functional.mse_loss(seen, noise)
    loss.backward()
    found |= {f"weight/{name}": x.detach().numpy() for name, x in model.named_parameters()}
    found |= {f"gradient/{name}": x.grad.numpy() for name, x in model.named_parameters()}
    arrays = dict(data=data, noise=noise, t=t, labels=labels, noisy=noisy, seen=seen, loss=loss)
    found |= {f"unet/{name}": x.detach().numpy() for name, x in arrays.items()}


def walked(found):
    start, draws = torch.randn(BATCH, 2, 3, 3), torch.randn(TAKEN, BATCH, 2, 3, 3)
    found |= {"start": start.numpy(), "draws": draws.numpy()}

    def walk(name, scheduler, learned=False, **options):
        scheduler.set_timesteps(TAKEN)
        x, path = start, []
        for i, t in enumerate(scheduler.timesteps):
            output = net(x, t) if learned else net(x, t)[:, :2]
            given = dict(variance_noise=draws[i]) if isinstance(scheduler, DDIMScheduler) else {}
            with mock.patch.object(scheduling_ddpm, "randn_tensor", lambda *a, i=i, **k: draws[i]):
                x = scheduler.step(output, t, x, **given, **options).prev_sample
            path.append(x.numpy())
        found[f"path/{name}"] = np.stack(path)
        found[f"timesteps/{name}"] = scheduler.timesteps.numpy()

    for betas, schedule in BETAS.items():
        for variance in ("fixed_small", "fixed_large", "learned_range"):
            scheduler = DDPMScheduler(TRAINED, **schedule, variance_type=variance, timestep_spacing="leading")
            walk(f"ancestral/{betas}/{variance}/noise", scheduler, learned=variance == "learned_range")
        for eta in (0.0, 0.5, 1.0):
            spacing = "trailing" if eta == 0 else "leading"
            scheduler = DDIMScheduler(TRAINED, **schedule, timestep_spacing=spacing)
            walk(f"ddim/{betas}/{eta}/noise", scheduler, eta=eta, use_clipped_model_output=True)
    for theirs, ours in (("sample", "data"), ("v_prediction", "velocity")):
        scheduler = DDPMScheduler(TRAINED, prediction_type=theirs, timestep_spacing="leading")
        walk(f"ancestral/linear/fixed_small/{ours}", scheduler)
        scheduler = DDIMScheduler(TRAINED, prediction_type=theirs, timestep_spacing="leading")
        walk(f"ddim/linear/0.0/{ours}", scheduler, use_clipped_model_output=True)


def counted(found):
    """Parameters of the published sizes, and the names of a file of the hub."""
    for name, sizes in {
        "cifar10": dict(widths=(128, 256, 256, 256), side=32, attention=(16,)),
        "lsun": dict(widths=(128, 128, 256, 256, 512, 512), side=256, attention=(16,)),
    }.items():
        sides = [sizes["side"] // 2**i for i in range(len(sizes["widths"]))]
        kinds = ["Attn" if side in sizes["attention"] else "" for side in sides]
        with torch.device("meta"):
            model = UNet2DModel(
                sample_size=sizes["side"],
                block_out_channels=sizes["widths"],
                down_block_types=[f"{kind}DownBlock2D" for kind in kinds],
                up_block_types=[f"{kind}UpBlock2D" for kind in reversed(kinds)],
                attention_head_dim=None,
            )
        found[f"count/{name}"] = np.array(sum(x.numel() for x in model.parameters()))


def main():
    torch.manual_seed(0)
    found = {}
    trained(found)
    walked(found)
    counted(found)
    print({name: int(x) for name, x in found.items() if name.startswith("count/")})
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **found)


if __name__ == "__main__":
    main()
