"""What the nets of CycleGAN compute in torch: images, logits, losses, and two steps of training. Run with torch 2.13.

    python tests/oracles/cyclegan.py

The nets have the modules of `ResnetGenerator` and `NLayerDiscriminator` in the authors' networks.py, with instance
normalization, in their order; the step is that of their cycle_gan_model.py: generators first, then discriminators on
images from a pool. They are smaller, and all weights are random. The pool is small and its draws are given, so that it
fills and exchanges within two steps of two images. The steps are of SGD: Adam's first step is the sign of a gradient,
which rounding decides where the gradient is small.
"""

import itertools
import pathlib

import numpy as np
import torch
from torch import nn

CHANNELS, SIDE, WIDTH, BLOCKS, LAYERS, BATCH, STEPS, POOL = 2, 32, 2, 1, 3, 2, 2, 3
RATE, CYCLE, IDENTITY = 0.02, 10.0, 0.5


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        parts = []
        for last in (False, True):
            parts += [nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width)]
            parts += [] if last else [nn.ReLU(True)]
        self.conv_block = nn.Sequential(*parts)

    def forward(self, x):
        return x + self.conv_block(x)


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        parts = [nn.ReflectionPad2d(3), nn.Conv2d(CHANNELS, WIDTH, 7), nn.InstanceNorm2d(WIDTH), nn.ReLU(True)]
        for width in (WIDTH, 2 * WIDTH):
            parts += [nn.Conv2d(width, 2 * width, 3, 2, 1), nn.InstanceNorm2d(2 * width), nn.ReLU(True)]
        parts += [Block(4 * WIDTH) for _ in range(BLOCKS)]
        for width in (4 * WIDTH, 2 * WIDTH):
            half = width // 2
            parts += [nn.ConvTranspose2d(width, half, 3, 2, 1, 1), nn.InstanceNorm2d(half), nn.ReLU(True)]
        parts += [nn.ReflectionPad2d(3), nn.Conv2d(WIDTH, CHANNELS, 7), nn.Tanh()]
        self.model = nn.Sequential(*parts)

    def forward(self, x):
        return self.model(x)


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        widths = [CHANNELS, *(WIDTH * min(2**i, 8) for i in range(LAYERS + 1))]
        parts = []
        for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
            parts += [nn.Conv2d(inputs, outputs, 4, 2 if i < LAYERS else 1, 1)]
            parts += [nn.InstanceNorm2d(outputs)] if i else []
            parts += [nn.LeakyReLU(0.2, True)]
        self.model = nn.Sequential(*parts, nn.Conv2d(widths[-1], 1, 4, 1, 1))

    def forward(self, x):
        return self.model(x)


class Pool:
    """Images one after the other: kept while it fills; then exchanged where the draw says so."""

    def __init__(self):
        self.images = []

    def query(self, images, exchange, places):
        found = []
        for image, swap, place in zip(images, exchange, places, strict=True):
            if len(self.images) < POOL:
                self.images.append(image)
                found.append(image)
            elif swap:
                found.append(self.images[place])
                self.images[place] = image
            else:
                found.append(image)
        return torch.stack(found)


def arrays(prefix, net):
    return {f"{prefix}/{name}": x.numpy().copy() for name, x in net.state_dict().items()}


def main():
    torch.manual_seed(0)
    nets = {"g_a": Generator(), "g_b": Generator(), "d_a": Discriminator(), "d_b": Discriminator()}
    found = {}
    for name, net in nets.items():
        for x in net.state_dict().values():
            x.copy_(torch.round(64 * (0.3 if x.ndim == 4 else 0.1) * torch.randn_like(x)) / 64)  # a small file
        found |= arrays(f"before/{name}", net)
    g_a, g_b, d_a, d_b = nets.values()
    pixels = torch.randint(0, 256, (STEPS, 2, BATCH, CHANNELS, SIDE, SIDE))
    real = pixels / 127.5 - 1
    exchange = torch.tensor([[[True, False], [False, True]], [[True, True], [True, False]]])  # step, pool, image
    places = torch.tensor([[[0, 1], [2, 0]], [[2, 2], [1, 0]]])
    with torch.inference_mode():
        found |= {
            "fake_b": g_a(real[0, 0, :1]).numpy(),
            "fake_a": g_b(real[0, 1, :1]).numpy(),
            "logits_b": d_a(real[0, 1]).numpy(),
            "logits_a": d_b(real[0, 0]).numpy(),
        }

    square, distance = nn.MSELoss(), nn.L1Loss()
    of_generators = torch.optim.SGD([*g_a.parameters(), *g_b.parameters()], RATE)
    of_discriminators = torch.optim.SGD([*d_a.parameters(), *d_b.parameters()], RATE)
    pools, losses = (Pool(), Pool()), []
    for step in range(STEPS):
        a, b = real[step]
        fake_b, fake_a = g_a(a), g_b(b)
        adversarial = [square(x, torch.ones_like(x)) for x in (d_a(fake_b), d_b(fake_a))]
        cycle = [distance(g_b(fake_b), a), distance(g_a(fake_a), b)]
        identity = [distance(g_a(b), b), distance(g_b(a), a)]
        loss = sum(adversarial) + CYCLE * sum(cycle) + CYCLE * IDENTITY * sum(identity)
        of_generators.zero_grad()
        loss.backward()
        of_generators.step()

        of_discriminators.zero_grad()
        total = 0.0
        draws = zip(pools, (d_a, d_b), (b, a), (fake_b, fake_a), exchange[step], places[step], strict=True)
        for pool, net, true, fake, swap, place in draws:
            logits = net(true), net(pool.query(fake.detach(), swap, place.tolist()))
            part = sum(square(x, torch.full_like(x, y)) for x, y in zip(logits, (1.0, 0.0), strict=True)) * 0.5
            part.backward()
            total += part.item()
        of_discriminators.step()
        losses.append([total, loss.item(), *(sum(x).item() for x in (adversarial, cycle, identity))])
    for name, net in nets.items():
        found |= arrays(f"after/{name}", net)
    found |= {
        "real": pixels.numpy().astype("uint8"),
        "exchange": exchange.numpy(),
        "places": places.numpy(),
        "losses": np.array(losses),
    }
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **found)


if __name__ == "__main__":
    main()
