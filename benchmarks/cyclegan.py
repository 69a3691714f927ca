"""CycleGAN at 128 pixels, in the sizes of its authors: a training step of all four nets, and one translation.

The counterpart in torch has the modules of the authors' networks.py: 7,837,699 and 2,764,737 parameters, as ours.
The figures are in docs/speed.md.
"""

import itertools
import random

from keras_dl.benchmarks.contenders import Task
from keras_dl.benchmarks.devices import exported, keras_infer, torch_call
from keras_dl.extras import require

IMAGE, FILTERS, BLOCKS, POOL = (128, 128, 3), 64, 6, 50


def ours():
    import keras_dl

    return keras_dl.CycleGAN(IMAGE, FILTERS, BLOCKS, discriminator_filters=FILTERS, seed=0)


def keras_step(jit):
    """One step of both sides with Adam on a pair of images, compiled as `fit` compiles it."""

    def set_up():
        import keras
        import numpy as np
        import tensorflow as tf

        keras.utils.set_random_seed(0)
        model = ours()
        model.compile(keras.optimizers.Adam(2e-4, beta_1=0.5), jit_compile=jit)
        pair = np.random.default_rng(0).uniform(0, 255, (2, 1, *IMAGE)).astype("float32")
        data = tuple(tf.constant(images) for images in pair)
        function = tf.function(model.train_step, jit_compile=jit, reduce_retracing=True)
        return lambda: float(function(data)["loss"])

    return set_up


def _normalized(nn, layer, width):
    return [layer, nn.InstanceNorm2d(width), nn.ReLU(True)]


def generator():
    nn = require("torch", extra="benchmarks").nn

    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            first = [nn.ReflectionPad2d(1), *_normalized(nn, nn.Conv2d(width, width, 3), width)]
            second = [nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width)]
            self.conv_block = nn.Sequential(*first, *second)

        def forward(self, x):
            return x + self.conv_block(x)

    parts = [nn.ReflectionPad2d(3), *_normalized(nn, nn.Conv2d(IMAGE[-1], FILTERS, 7), FILTERS)]
    for width in (FILTERS, 2 * FILTERS):
        parts += _normalized(nn, nn.Conv2d(width, 2 * width, 3, 2, 1), 2 * width)
    parts += [Block(4 * FILTERS) for _ in range(BLOCKS)]
    for width in (4 * FILTERS, 2 * FILTERS):
        parts += _normalized(nn, nn.ConvTranspose2d(width, width // 2, 3, 2, 1, 1), width // 2)
    return nn.Sequential(*parts, nn.ReflectionPad2d(3), nn.Conv2d(FILTERS, IMAGE[-1], 7), nn.Tanh())


def discriminator():
    nn = require("torch", extra="benchmarks").nn
    widths = [IMAGE[-1], *(FILTERS * 2**i for i in range(4))]
    parts = []
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        parts += [nn.Conv2d(inputs, outputs, 4, 2 if i < 3 else 1, 1)]
        parts += [nn.InstanceNorm2d(outputs)] if i else []
        parts += [nn.LeakyReLU(0.2, True)]
    return nn.Sequential(*parts, nn.Conv2d(widths[-1], 1, 4, 1, 1))


def torch_step():
    """The same step, in the order of the authors, with their pool."""
    torch = require("torch", extra="benchmarks")
    torch.manual_seed(0)
    random.seed(0)
    place = dict(memory_format=torch.channels_last)
    nets = [net().to(**place).train() for net in (generator, generator, discriminator, discriminator)]
    g_a, g_b, d_a, d_b = nets
    sides = (nets[:2], nets[2:])
    optimizers = [
        torch.optim.Adam(itertools.chain(*(net.parameters() for net in side)), 2e-4, betas=(0.5, 0.999))
        for side in sides
    ]
    a, b = ((torch.rand(1, IMAGE[-1], *IMAGE[:2]) * 2 - 1).to(**place) for _ in range(2))
    square, distance = torch.nn.MSELoss(), torch.nn.L1Loss()
    pools = ([], [])

    def query(pool, image):
        if len(pool) < POOL:
            pool.append(image)
            return image
        if random.random() > 0.5:
            place = random.randrange(POOL)
            pool[place], image = image, pool[place]
        return image

    def aim(logits, target):
        return square(logits, torch.full_like(logits, target))

    def step():
        for parameter in itertools.chain(d_a.parameters(), d_b.parameters()):
            parameter.requires_grad = False
        optimizers[0].zero_grad()
        fake_b, fake_a = g_a(a), g_b(b)
        loss = aim(d_a(fake_b), 1.0) + aim(d_b(fake_a), 1.0)
        loss = loss + 10 * (distance(g_b(fake_b), a) + distance(g_a(fake_a), b))
        loss = loss + 5 * (distance(g_a(b), b) + distance(g_b(a), a))
        loss.backward()
        optimizers[0].step()
        for parameter in itertools.chain(d_a.parameters(), d_b.parameters()):
            parameter.requires_grad = True
        optimizers[1].zero_grad()
        total = 0.0
        for pool, net, real, fake in ((pools[0], d_a, b, fake_b), (pools[1], d_b, a, fake_a)):
            part = 0.5 * (aim(net(real), 1.0) + aim(net(query(pool, fake.detach())), 0.0))
            part.backward()
            total += part.item()
        optimizers[1].step()
        return total

    return step


def their_generator():
    torch = require("torch", extra="benchmarks")
    return generator().to(memory_format=torch.channels_last).eval()


TASKS = [
    Task(
        "cyclegan-train",
        "CycleGAN, one step of all four nets, one pair of 128x128, ResNet-6, float32",
        {"keras_dl graph": keras_step(jit=False), "keras_dl xla": keras_step(jit=True), "torch eager": torch_step},
        steps=3,
        warmup=1,
    ),
    Task(
        "cyclegan-infer",
        "CycleGAN's generator, one 128x128 image, float32",
        {
            "LiteRT file": exported(ours, IMAGE, "litert", dtype="uint8", signature="a_to_b"),
            "keras_dl graph": keras_infer(ours, IMAGE, 1),
            "torch eager": torch_call(their_generator, 1, IMAGE[-1], *IMAGE[:2]),
        },
        steps=10,
        warmup=2,
    ),
]
