"""StyleGAN2 at 64 pixels with an eighth of the channels: a step of both nets, the two penalties, and the generator.

The other side is the same net of torch's functions, written for this comparison: modulated kernels as a grouped
convolution, filters as grouped convolutions. The figures are in docs/speed.md.
"""

import math
import pathlib
import tempfile

from keras_dl.benchmarks.contenders import Task
from keras_dl.benchmarks.devices import keras_infer, litert_runner, torch_call
from keras_dl.extras import require

SIDE, CHANNELS, NOISE, STYLE, LAYERS, BASE, MOST, BATCH = 64, 3, 64, 64, 8, 4096, 64, 8
FIR = (1, 3, 3, 1)


def widths():
    return {2**i: min(BASE // 2**i, MOST) for i in range(2, SIDE.bit_length())}


def ours(**options):
    import keras_dl

    return keras_dl.StyleGAN2(
        (SIDE, SIDE, CHANNELS), NOISE, STYLE, LAYERS, BASE, MOST, FIR, mixing_rate=0.0, averaging=0.0, seed=0, **options
    )


def keras_step(jit, penalties):
    """One step of both sides, or of both penalties, with Adam, compiled as `fit` compiles it."""

    def set_up():
        import keras
        import numpy as np
        import tensorflow as tf

        keras.utils.set_random_seed(0)
        model = ours() if penalties else ours(r1_weight=0.0, path_length_weight=0.0)
        model.compile(*model.optimizers(), jit_compile=jit)
        images = tf.constant(np.random.default_rng(0).uniform(0, 255, (BATCH, SIDE, SIDE, CHANNELS)).astype("float32"))

        def both_penalties(data):
            model.minimize("generator", model.path_penalty, BATCH // 2)
            return {"loss": model.minimize("discriminator", model.r1_penalty, data[0])}

        function = both_penalties if penalties else model.train_step
        function = tf.function(function, jit_compile=jit, reduce_retracing=True)
        return lambda: float(function((images,))["loss"])

    return set_up


def nets():
    """Mapping, synthesis and discriminator in torch, with as many parameters as ours."""
    torch = require("torch", extra="benchmarks")
    nn, functional = torch.nn, torch.nn.functional
    taps = torch.tensor(FIR, dtype=torch.float32)
    taps = torch.outer(taps, taps) / taps.sum() ** 2

    def filtered(x, gain, padding, stride=1):
        kernel = (gain * taps)[None, None].repeat(x.shape[1], 1, 1, 1)
        return functional.conv2d(functional.pad(x, padding), kernel, stride=stride, groups=x.shape[1])

    def doubled(x):
        wide = functional.conv_transpose2d(
            x, torch.ones(x.shape[1], 1, 1, 1), stride=2, output_padding=1, groups=x.shape[1]
        )
        return filtered(wide, 4.0, (2, 1, 2, 1))

    def rectified(x):
        return math.sqrt(2) * functional.leaky_relu(x, 0.2)

    class Dense(nn.Module):
        def __init__(self, inputs, outputs, rate=1.0, bias=0.0, active=False):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
            self.bias = nn.Parameter(torch.full((outputs,), bias / rate))
            self.rate, self.active = rate, active

        def forward(self, x):
            y = functional.linear(x, self.weight * (self.rate / math.sqrt(x.shape[1])), self.bias * self.rate)
            return rectified(y) if self.active else y

    class Conv(nn.Module):
        def __init__(self, inputs, outputs, size, down=False, bias=True, gain=1.0):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(outputs, inputs, size, size))
            self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
            self.down, self.gain, self.scale = down, gain, 1 / math.sqrt(inputs * size**2)

        def forward(self, x):
            weight, half = self.weight * self.scale, self.weight.shape[-1] // 2
            if self.down:
                pad = 1 + half
                x = filtered(x, 1.0, (pad, pad, pad, pad), 1 if half else 2)
                y = functional.conv2d(x, weight, self.bias, stride=2 if half else 1)
            else:
                y = functional.conv2d(x, weight, self.bias, padding=half)
            return self.gain * (y if self.bias is None else rectified(y))

    class Modulated(nn.Module):
        def __init__(self, inputs, outputs, size, up=False, rgb=False):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(outputs, inputs, size, size))
            self.affine = Dense(STYLE, inputs, bias=1.0)
            self.bias = nn.Parameter(torch.zeros(outputs))
            self.strength = None if rgb else nn.Parameter(torch.zeros(()))
            self.up, self.rgb = up, rgb

        def forward(self, x, style):
            batch, inputs, height, _ = x.shape
            outputs, _, size, _ = self.weight.shape
            scales = self.affine(style) / (math.sqrt(inputs * size**2) if self.rgb else 1.0)
            kernels = self.weight[None] * scales[:, None, :, None, None]
            if not self.rgb:
                kernels = kernels * (kernels.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
            x = x.reshape(1, -1, height, height)
            if self.up:
                kernels = kernels.transpose(1, 2).reshape(-1, outputs, size, size)
                y = functional.conv_transpose2d(x, kernels, stride=2, groups=batch)
                y = filtered(y.reshape(batch, outputs, *y.shape[2:]), 4.0, (1, 1, 1, 1))
            else:
                y = functional.conv2d(x, kernels.reshape(-1, inputs, size, size), padding=size // 2, groups=batch)
                y = y.reshape(batch, outputs, height, height)
            bias = self.bias[:, None, None]
            if self.rgb:
                return y + bias
            return rectified(y + self.strength * torch.randn(batch, 1, *y.shape[2:]) + bias)

    class Generator(nn.Module):
        def __init__(self):
            super().__init__()
            self.mapping = nn.Sequential(
                *[Dense(STYLE if i else NOISE, STYLE, 0.01, active=True) for i in range(LAYERS)]
            )
            self.constant = nn.Parameter(torch.randn(1, widths()[4], 4, 4))
            self.parts = nn.ModuleList()
            before = widths()[4]
            for side, width in widths().items():
                self.parts.append(Modulated(before, width, 3, up=side > 4))
                if side > 4:
                    self.parts.append(Modulated(width, width, 3))
                self.parts.append(Modulated(width, CHANNELS, 1, rgb=True))
                before = width

        def styles(self, noise):
            noise = noise * (noise.square().mean(1, keepdim=True) + 1e-8).rsqrt()
            return self.mapping(noise)[:, None].repeat(1, sum(not x.rgb for x in self.parts) + 1, 1)

        def draw(self, styles):
            x, image, layer = self.constant.repeat(len(styles), 1, 1, 1), None, 0
            for part in self.parts:
                if part.rgb:
                    colors = part(x, styles[:, layer])
                    image = colors if image is None else doubled(image) + colors
                else:
                    x, layer = part(x, styles[:, layer]), layer + 1
            return image

        def forward(self, noise):
            return self.draw(self.styles(noise))

    class Block(nn.Module):
        def __init__(self, inputs, outputs):
            super().__init__()
            self.skip = Conv(inputs, outputs, 1, down=True, bias=False, gain=math.sqrt(0.5))
            self.main = nn.Sequential(Conv(inputs, inputs, 3), Conv(inputs, outputs, 3, down=True, gain=math.sqrt(0.5)))

        def forward(self, x):
            return self.skip(x) + self.main(x)

    class Deviation(nn.Module):
        def forward(self, x):
            groups = x.reshape(4, -1, *x.shape[1:])
            means = (groups.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))
            return torch.cat([x, means.repeat(4)[:, None, None, None].expand(-1, 1, *x.shape[2:])], 1)

    sizes = widths()
    blocks = [Block(sizes[n], sizes[n // 2]) for n in reversed(sizes) if n > 4]
    last = sizes[4]
    discriminator = nn.Sequential(
        Conv(CHANNELS, sizes[SIDE], 1),
        *blocks,
        Deviation(),
        Conv(last + 1, last, 3),
        nn.Flatten(),
        Dense(16 * last, last, active=True),
        Dense(last, 1),
    )
    return Generator(), discriminator


def torch_step(penalties):
    def set_up():
        torch = require("torch", extra="benchmarks")
        torch.manual_seed(0)
        generator, discriminator = (net.to(memory_format=torch.channels_last).train() for net in nets())
        optimizers = [
            torch.optim.Adam(net.parameters(), 0.002, betas=(0.0, 0.99)) for net in (generator, discriminator)
        ]
        softplus = torch.nn.functional.softplus
        images = torch.rand(BATCH, CHANNELS, SIDE, SIDE) * 2 - 1
        images = images.contiguous(memory_format=torch.channels_last)

        def move(side, loss):
            optimizers[side].zero_grad()
            loss.backward()
            optimizers[side].step()
            return loss.item()

        def both_sides():
            move(0, softplus(-discriminator(generator(torch.randn(BATCH, NOISE)))).mean())
            fake = generator(torch.randn(BATCH, NOISE)).detach()
            return move(1, softplus(-discriminator(images)).mean() + softplus(discriminator(fake)).mean())

        def both_penalties():
            styles = generator.styles(torch.randn(BATCH // 2, NOISE))
            drawn = generator.draw(styles)
            total = (drawn * torch.randn_like(drawn) / SIDE).sum()
            (slopes,) = torch.autograd.grad(total, styles, create_graph=True)
            lengths = slopes.square().sum(2).mean(1).sqrt()
            move(0, 8 * (lengths - 0.01 * lengths.mean()).square().mean())
            real = images.detach().requires_grad_(True)
            (slopes,) = torch.autograd.grad(discriminator(real).sum(), real, create_graph=True)
            return move(1, 80 * slopes.square().sum((1, 2, 3)).mean())

        return both_penalties if penalties else both_sides

    return set_up


def their_generator():
    torch = require("torch", extra="benchmarks")
    return nets()[0].to(memory_format=torch.channels_last).eval()


def generator_file():
    """One call of the exported signature `generate`."""
    import numpy as np

    from keras_dl.export import export

    with tempfile.TemporaryDirectory() as folder:
        path = str(pathlib.Path(folder) / "model.tflite")
        export(ours(), path, verify=False, signatures=["generate"])
        run = litert_runner(path, 2, "generate")
    noise = np.random.default_rng(0).standard_normal((1, NOISE)).astype("float32")
    return lambda: run(noise=noise)["images"]


def contenders(penalties):
    return {
        "keras_dl graph": keras_step(False, penalties),
        "keras_dl xla": keras_step(True, penalties),
        "torch eager": torch_step(penalties),
    }


TASKS = [
    Task(
        "stylegan2-train",
        f"StyleGAN2, one step of both nets without penalties, batch {BATCH}, {SIDE}x{SIDE}, float32",
        contenders(penalties=False),
        steps=5,
        warmup=2,
    ),
    Task(
        "stylegan2-penalties",
        f"StyleGAN2, one path length of {BATCH // 2} images and one R1 of {BATCH}, {SIDE}x{SIDE}, float32",
        contenders(penalties=True),
        steps=5,
        warmup=2,
    ),
    Task(
        "stylegan2-infer",
        f"StyleGAN2's generator, one {SIDE}x{SIDE} image, float32",
        {
            "LiteRT file": generator_file,
            "keras_dl graph": keras_infer(ours, (NOISE,), 1),
            "torch eager": torch_call(their_generator, 1, NOISE),
        },
        steps=30,
        warmup=5,
    ),
]
