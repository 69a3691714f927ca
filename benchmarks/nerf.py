"""NeRF for the Blender scenes against the same in torch, and the memory of images of several sizes.

The figures are in docs/speed.md.
"""

import functools

import numpy as np

from keras_dl.benchmarks.contenders import Task
from keras_dl.benchmarks.devices import torch_descent
from keras_dl.extras import require

RAYS, CHUNK = 128, 256
NEAR, FAR, SAMPLES, FURTHER = 2.0, 6.0, 64, 128
SIZE, FOCAL = 16, 20.0
SMALL = dict(num_samples=32, num_fine_samples=32, num_layers=4, hidden_dim=128, skips=(1,))


def camera():
    from keras_dl.ops.rays import look_at

    return look_at([4.0, 0.0, 1.0])


def rays(count):
    rng = np.random.default_rng(0)
    directions, colors = rng.normal(size=(count, 3)), rng.uniform(size=(count, 3))
    origins = -4 * directions + rng.normal(scale=0.3, size=(count, 3))
    return [x.astype("float32") for x in (origins, directions, colors)]


def keras_train(jit):
    def set_up():
        import keras
        import tensorflow as tf

        import keras_dl

        keras.utils.set_random_seed(0)
        model = keras_dl.NeRF.from_preset("blender")
        model.compile(keras.optimizers.Adam(5e-4), jit_compile=jit)
        model.optimizer.build(model.trainable_variables)
        origins, directions, colors = map(tf.constant, rays(RAYS))
        function = tf.function(model.train_step, jit_compile=jit, reduce_retracing=True)
        return lambda: float(function(({"directions": directions, "origins": origins}, colors))["loss"])

    return set_up


def keras_render(size=SIZE, **sizes):
    """An image of `size x size` pixels, in chunks."""
    import keras

    import keras_dl

    keras.utils.set_random_seed(0)
    model, view = keras_dl.NeRF.from_preset("blender", **sizes), camera()
    return lambda: model.render(view, FOCAL, (size, size), chunk=CHUNK)["rgb"]


def theirs():
    """Two networks of 595,844 parameters, and a function that renders rays with them."""
    torch = require("torch", extra="benchmarks")
    nn = torch.nn

    def encoded(x, count):
        angles = (x[..., None, :] * 2.0 ** torch.arange(count)[:, None]).flatten(-2)
        return torch.cat([x, angles.sin(), angles.cos()], -1)

    class Field(nn.Module):
        def __init__(self, width=256):
            super().__init__()
            inputs = [63, *[width] * 4, width + 63, *[width] * 2]
            self.layers = nn.ModuleList([nn.Linear(n, width) for n in inputs])
            self.density, self.feature = nn.Linear(width, 1), nn.Linear(width, width)
            self.view, self.color = nn.Linear(width + 27, width // 2), nn.Linear(width // 2, 3)

        def forward(self, points, views):
            hidden = points
            for i, layer in enumerate(self.layers):
                hidden = layer(torch.cat([points, hidden], -1) if i == 5 else hidden).relu()
            views = views[:, None].expand(-1, points.shape[1], -1)
            view = self.view(torch.cat([self.feature(hidden), views], -1)).relu()
            return self.color(view).sigmoid(), self.density(hidden)[..., 0].relu()

    def seen(field, origins, directions, views, distances):
        points = origins[:, None] + distances[..., None] * directions[:, None]
        color, density = field(encoded(points, 10), views)
        steps = torch.cat([distances[:, 1:] - distances[:, :-1], torch.full_like(distances[:, :1], 1e10)], 1)
        thickness = density * steps * directions.norm(dim=-1, keepdim=True)
        in_front = torch.cat([torch.zeros_like(distances[:, :1]), thickness[:, :-1].cumsum(1)], 1)
        weights = (1 - torch.exp(-thickness)) * torch.exp(-in_front)
        return (weights[..., None] * color).sum(1) + 1 - weights.sum(1, keepdim=True), weights

    def render(coarse, fine, origins, directions, training):
        views = encoded(directions / directions.norm(dim=-1, keepdim=True), 4)
        evenly = torch.linspace(NEAR, FAR, SAMPLES).expand(len(origins), -1)
        middle = (evenly[:, 1:] + evenly[:, :-1]) / 2
        distances, places = evenly, torch.linspace(0, 1, FURTHER).expand(len(origins), -1)
        if training:
            low, high = (torch.cat(x, 1) for x in ((evenly[:, :1], middle), (middle, evenly[:, -1:])))
            distances, places = low + (high - low) * torch.rand_like(evenly), torch.rand_like(places)
            middle = (distances[:, 1:] + distances[:, :-1]) / 2
        first, weights = seen(coarse, origins, directions, views, distances)
        with torch.no_grad():
            weights = weights[:, 1:-1] + 1e-5
            steps = torch.nn.functional.pad((weights / weights.sum(1, keepdim=True)).cumsum(1), (1, 0))
            above = torch.searchsorted(steps, places.contiguous(), right=True).clamp(1, steps.shape[1] - 1)
            (a, b), (u, v) = ((x.gather(1, above - 1), x.gather(1, above)) for x in (steps, middle))
            further = u + ((places - a) / (b - a)).clamp(0, 1) * (v - u)
            distances = torch.cat([distances, further], 1).sort(1)[0]
        return first, seen(fine, origins, directions, views, distances)[0]

    torch.manual_seed(0)
    return Field(), Field(), render


def torch_train():
    torch = require("torch", extra="benchmarks")
    coarse, fine, render = theirs()
    optimizer = torch.optim.Adam([*coarse.parameters(), *fine.parameters()], 5e-4)
    origins, directions, colors = map(torch.from_numpy, rays(RAYS))

    def loss():
        images = render(coarse, fine, origins, directions, training=True)
        return sum(((image - colors) ** 2).mean() for image in images)

    return torch_descent(optimizer, loss)


def torch_render():
    torch = require("torch", extra="benchmarks")
    from keras_dl.ops.rays import camera_rays

    coarse, fine, render = theirs()
    of_image = [np.reshape(x, (-1, 3)) for x in camera_rays(camera(), FOCAL, (SIZE, SIZE))]
    chunks = list(zip(*(torch.from_numpy(x).split(CHUNK) for x in of_image), strict=True))

    def step():
        with torch.inference_mode():
            return torch.cat([render(coarse, fine, *chunk, training=False)[1] for chunk in chunks]).numpy()

    return step


TASKS = [
    Task(
        "nerf-train",
        f"NeRF for the Blender scenes, one training step, {RAYS} rays, float32",
        {"keras_dl graph": keras_train(jit=False), "keras_dl xla": keras_train(jit=True), "torch eager": torch_train},
        steps=4,
        warmup=2,
    ),
    Task(
        "nerf-render",
        f"NeRF for the Blender scenes, {SIZE}x{SIZE} pixels, {CHUNK} rays at a time, float32",
        {"keras_dl graph": keras_render, "torch eager": torch_render},
        steps=4,
        warmup=1,
    ),
    Task(
        "nerf-memory",
        f"a NeRF of 4 layers of 128, images of several sizes, {CHUNK} rays at a time",
        {f"{n}x{n}": functools.partial(keras_render, n, **SMALL) for n in (16, 64, 128)},
        steps=1,
        warmup=1,
    ),
]
