"""DCGAN at 64 pixels, in the sizes of its authors' code: a training step of both nets, against torch's layers.

The figures are in docs/speed.md.
"""

import itertools

from keras_dl.benchmarks.contenders import Task
from keras_dl.benchmarks.devices import exported, keras_infer, torch_call
from keras_dl.extras import require

IMAGE, NOISE, FILTERS, BATCH = (64, 64, 3), 100, 64, 32


def ours():
    import keras_dl

    return keras_dl.DCGAN(IMAGE, NOISE, FILTERS, seed=0)


def keras_step(jit):
    """One step of both sides with Adam, compiled as `fit` compiles it."""

    def set_up():
        import keras
        import numpy as np
        import tensorflow as tf

        keras.utils.set_random_seed(0)
        model = ours()
        model.compile(keras.optimizers.Adam(2e-4, beta_1=0.5), jit_compile=jit)
        images = tf.constant(np.random.default_rng(0).uniform(0, 255, (BATCH, *IMAGE)).astype("float32"))
        function = tf.function(model.train_step, jit_compile=jit, reduce_retracing=True)
        return lambda: float(function((images,))["loss"])

    return set_up


def nets():
    """Generator and discriminator: 3,576,704 and 2,765,568 parameters, as ours."""
    nn = require("torch", extra="benchmarks").nn
    up, down = [], [nn.Conv2d(IMAGE[-1], FILTERS, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, True)]
    widths = [FILTERS * 2**i for i in range(4)]
    for i, (inputs, outputs) in enumerate(itertools.pairwise([NOISE, *reversed(widths)])):
        place = (1, 0) if i == 0 else (2, 1)  # stride and padding
        up += [nn.ConvTranspose2d(inputs, outputs, 4, *place, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(True)]
    for inputs, outputs in itertools.pairwise(widths):
        down += [nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2, True)]
    up += [nn.ConvTranspose2d(FILTERS, IMAGE[-1], 4, 2, 1, bias=False), nn.Tanh()]
    return nn.Sequential(*up), nn.Sequential(*down, nn.Conv2d(widths[-1], 1, 4, 1, 0, bias=False), nn.Flatten(0))


def torch_step():
    """The same step: real and generated images in batches of their own, and new noise for the generator."""
    torch = require("torch", extra="benchmarks")
    torch.manual_seed(0)
    generator, discriminator = (net.to(memory_format=torch.channels_last).train() for net in nets())
    optimizers = [torch.optim.Adam(x.parameters(), 2e-4, betas=(0.5, 0.999)) for x in (discriminator, generator)]
    softplus = torch.nn.functional.softplus
    images = torch.rand(BATCH, IMAGE[-1], *IMAGE[:2]) * 2 - 1
    images = images.contiguous(memory_format=torch.channels_last)

    def step():
        optimizers[0].zero_grad()
        fake = generator(torch.randn(BATCH, NOISE, 1, 1)).detach()
        loss = softplus(-discriminator(images)).mean() + softplus(discriminator(fake)).mean()
        loss.backward()
        optimizers[0].step()
        optimizers[1].zero_grad()
        softplus(-discriminator(generator(torch.randn(BATCH, NOISE, 1, 1)))).mean().backward()
        optimizers[1].step()
        return loss.item()

    return step


def their_generator():
    torch = require("torch", extra="benchmarks")
    return nets()[0].to(memory_format=torch.channels_last).eval()


TASKS = [
    Task(
        "dcgan-train",
        f"DCGAN, one step of both nets, batch {BATCH}, 64x64, float32",
        {"keras_dl graph": keras_step(jit=False), "keras_dl xla": keras_step(jit=True), "torch eager": torch_step},
        steps=5,
        warmup=2,
    ),
    Task(
        "dcgan-infer",
        "DCGAN's generator, one 64x64 image, float32",
        {
            "LiteRT file": exported(ours, (NOISE,), "litert", dtype="float32"),
            "keras_dl graph": keras_infer(ours, (NOISE,), 1),
            "torch eager": torch_call(their_generator, 1, NOISE, 1, 1),
        },
        steps=30,
        warmup=5,
    ),
]
