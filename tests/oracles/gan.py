"""What a DCGAN of torch's layers computes: images, logits, and two alternating training steps. Run with torch 2.13.

    python tests/oracles/gan.py

The nets have the layout of PyTorch's example `dcgan` (and of soumith/dcgan.torch): `main` is a `Sequential` of
transposed convolutions, normalizations and activations. They are smaller, and all weights are random, so that no term
drops out. The steps are of SGD with momentum: Adam's first step is the sign of a gradient, which rounding decides where
the gradient is small. The discriminator moves first; the generator then takes noise of its own.
"""

import pathlib

import numpy as np
import torch
from torch import nn

NOISE, FILTERS, CHANNELS, BATCH, STEPS = 5, 2, 2, 4, 2
REAL, FAKE = 1.0, 0.0


def generator():
    """32x32: 4x4, 8x8, 16x16, 32x32."""
    widths = (NOISE, 4 * FILTERS, 2 * FILTERS, FILTERS)
    parts = []
    for i in range(3):
        stride, padding = (1, 0) if i == 0 else (2, 1)
        parts += [nn.ConvTranspose2d(widths[i], widths[i + 1], 4, stride, padding, bias=False)]
        parts += [nn.BatchNorm2d(widths[i + 1]), nn.ReLU(True)]
    return nn.Sequential(*parts, nn.ConvTranspose2d(FILTERS, CHANNELS, 4, 2, 1, bias=False), nn.Tanh())


def discriminator():
    parts = [nn.Conv2d(CHANNELS, FILTERS, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
    for width in (FILTERS, 2 * FILTERS):
        parts += [nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * width), nn.LeakyReLU(0.2)]
    return nn.Sequential(*parts, nn.Conv2d(4 * FILTERS, 1, 4, 1, 0, bias=False), nn.Flatten(0))


class Net(nn.Module):
    def __init__(self, main):
        super().__init__()
        self.main = main
        for name, tensor in self.state_dict().items():
            if tensor.dtype == torch.float32:
                positive = name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight"))
                tensor.copy_(torch.rand_like(tensor) + 0.5 if positive else 0.2 * torch.randn_like(tensor))

    def forward(self, x):
        return self.main(x)


def arrays(prefix, net):
    state = net.state_dict().items()
    return {f"{prefix}/{name}": x.numpy().copy() for name, x in state if not name.endswith("tracked")}


def main():
    torch.manual_seed(0)
    nets = {"generator": Net(generator()), "discriminator": Net(discriminator())}
    found = {}
    for name, net in nets.items():
        found |= arrays(f"before/{name}", net)
    noise = torch.randn(1 + 2 * STEPS, BATCH, NOISE)
    real = torch.rand(STEPS, BATCH, CHANNELS, 32, 32) * 2 - 1
    fake_of = lambda i: nets["generator"](noise[i][:, :, None, None])  # noqa: E731
    with torch.inference_mode():
        for net in nets.values():
            net.eval()
        images = fake_of(0)
        found |= {"images": images.numpy(), "logits": nets["discriminator"](real[0]).numpy()}

    loss_of = nn.BCEWithLogitsLoss()
    optimizers = {name: torch.optim.SGD(net.parameters(), 0.05, momentum=0.5) for name, net in nets.items()}
    losses = []
    for net in nets.values():
        net.train()
    for i in range(STEPS):
        optimizers["discriminator"].zero_grad()
        parts = [nets["discriminator"](real[i]), nets["discriminator"](fake_of(1 + 2 * i).detach())]
        loss = sum(loss_of(x, torch.full_like(x, y)) for x, y in zip(parts, (REAL, FAKE), strict=True))
        loss.backward()
        optimizers["discriminator"].step()
        losses.append(loss.item())

        optimizers["generator"].zero_grad()
        logits = nets["discriminator"](fake_of(2 + 2 * i))
        loss = loss_of(logits, torch.full_like(logits, REAL))
        loss.backward()
        optimizers["generator"].step()
        losses.append(loss.item())
    for name, net in nets.items():
        found |= arrays(f"after/{name}", net)
    found |= {"noise": noise.numpy(), "real": real.numpy(), "losses": np.array(losses)}
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **found)


if __name__ == "__main__":
    main()
