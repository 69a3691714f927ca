"""YOLO n against the same net in plain torch: one training step, and inference.

The step of torch has no assignment of objects: its loss is the mean square of the maps. docs/speed.md has the figures.
"""

import numpy as np

from keras_dl.benchmarks.contenders import Task
from keras_dl.benchmarks.devices import torch_infer, torch_step
from keras_dl.extras import require

SHAPE, CLASSES, BATCH, OBJECTS = (320, 320, 3), 80, 2, 8


def ours():
    import keras_dl

    return keras_dl.YOLO.from_preset("n", image_shape=SHAPE)


def torchs():
    """The net of size n, in torch's own layers: 3,157,184 parameters."""
    torch = require("torch", extra="benchmarks")
    nn = torch.nn

    def conv(inputs, outputs, size=1, stride=1):
        layers = (nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False), nn.BatchNorm2d(outputs, 1e-3, 0.03))
        return nn.Sequential(*layers, nn.SiLU(inplace=True))

    class C2f(nn.Module):
        def __init__(self, inputs, outputs, count, shortcut):
            super().__init__()
            half = outputs // 2
            self.shortcut, self.first = shortcut, conv(inputs, outputs)
            self.middle = nn.ModuleList(nn.Sequential(conv(half, half, 3), conv(half, half, 3)) for _ in range(count))
            self.last = conv((2 + count) * half, outputs)

        def forward(self, x):
            parts = list(self.first(x).chunk(2, 1))
            for block in self.middle:
                parts.append(parts[-1] + block(parts[-1]) if self.shortcut else block(parts[-1]))
            return self.last(torch.cat(parts, 1))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(conv(3, 16, 3, 2), conv(16, 32, 3, 2), C2f(32, 32, 1, True))
            self.stages = nn.ModuleList(
                nn.Sequential(conv(n, 2 * n, 3, 2), C2f(2 * n, 2 * n, count, True))
                for n, count in ((32, 2), (64, 2), (128, 1))
            )
            self.pool, self.before, self.after = nn.MaxPool2d(5, 1, 2), conv(256, 128), conv(512, 256)
            self.up = nn.Upsample(scale_factor=2)
            sizes = ((384, 128), (192, 64), (192, 128), (384, 256))
            self.necks = nn.ModuleList(C2f(*size, 1, False) for size in sizes)
            self.downs = nn.ModuleList(conv(n, n, 3, 2) for n in (64, 128))
            self.heads = nn.ModuleList(
                nn.Sequential(conv(n, width, 3), conv(width, width, 3), nn.Conv2d(width, outputs, 1))
                for n in (64, 128, 256)
                for width, outputs in ((64, 64), (80, CLASSES))
            )

        def forward(self, images):
            maps = [self.stem(images / 255)]
            for stage in self.stages:
                maps.append(stage(maps[-1]))
            parts = [self.before(maps[3])]
            for _ in range(3):
                parts.append(self.pool(parts[-1]))
            coarse = self.after(torch.cat(parts, 1))
            middle = self.necks[0](torch.cat([self.up(coarse), maps[2]], 1))
            fine = self.necks[1](torch.cat([self.up(middle), maps[1]], 1))
            middle = self.necks[2](torch.cat([self.downs[0](fine), middle], 1))
            coarse = self.necks[3](torch.cat([self.downs[1](middle), coarse], 1))
            levels = (fine, fine, middle, middle, coarse, coarse)
            return [head(level) for head, level in zip(self.heads, levels, strict=True)]

    return Net()


def batch():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH, *SHAPE)).astype("float32")
    corners = rng.uniform(0, 200, (BATCH, OBJECTS, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(20, 120, corners.shape)], -1).astype("float32")
    return images, {"boxes": boxes, "classes": rng.integers(0, CLASSES, (BATCH, OBJECTS)).astype("int32")}


def keras_step(jit):
    """One `train_step` with SGD and momentum, compiled as `fit` compiles it."""

    def set_up():
        import keras
        import tensorflow as tf

        keras.utils.set_random_seed(0)
        model = ours()
        model.compile(keras.optimizers.SGD(0.01, momentum=0.9), jit_compile=jit)
        model.optimizer.build(model.trainable_variables)
        images, targets = batch()
        data = tf.constant(images), {name: tf.constant(x) for name, x in targets.items()}
        function = tf.function(model.train_step, jit_compile=jit, reduce_retracing=True)
        return lambda: float(function(data)["loss"])

    return set_up


def keras_call():
    import tensorflow as tf

    model, images = ours(), tf.constant(batch()[0])
    function = tf.function(model.raw)
    return lambda: [x.numpy() for x in function(images).values()]


def torch_loss(torch, outputs):
    return sum(x.square().mean() for x in outputs)


def arrays(outputs):
    return [x.numpy() for x in outputs]


TASKS = [
    Task(
        "yolo-n-train",
        f"YOLO n, one training step, batch {BATCH}, 320x320x3, float32",
        {
            "keras_dl graph": keras_step(jit=False),
            "keras_dl xla": keras_step(jit=True),
            "torch eager, without assignment": torch_step(torchs, batch()[0], torch_loss),
        },
        steps=6,
        warmup=2,
    ),
    Task(
        "yolo-n-infer",
        f"YOLO n, maps of three levels, batch {BATCH}, 320x320x3, float32",
        {"keras_dl graph": keras_call, "torch eager": torch_infer(torchs, SHAPE, BATCH, arrays)},
        steps=20,
    ),
]
