"""The occupancy network of point clouds in the sizes of its authors, against the same network of torch's layers.

Not measured yet.
"""

import numpy as np

from keras_dl.benchmarks.contenders import Task
from keras_dl.benchmarks.devices import torch_descent
from keras_dl.extras import require

BATCH, POINTS, CLOUD = 4, 2048, 300


def _arrays():
    random = np.random.default_rng(0)
    cloud, points = (random.uniform(-0.5, 0.5, (BATCH, n, 3)).astype("float32") for n in (CLOUD, POINTS))
    return cloud, points, (np.linalg.norm(points, axis=-1) < 0.4).astype("float32")


def keras_train(jit):
    def make():
        import keras

        import keras_dl

        model = keras_dl.OccupancyNetwork.from_preset("points")
        model.compile(keras.optimizers.Adam(1e-4), jit_compile=jit)
        cloud, points, occupied = _arrays()
        return lambda: model.train_on_batch({"cloud": cloud, "points": points}, occupied)

    return make


def theirs():
    """10,373,889 parameters, as ours; in inference it computes the same."""
    torch = require("torch", extra="benchmarks")
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self, inputs, units):
            super().__init__()
            self.first, self.second = nn.Linear(inputs, units), nn.Linear(units, units)
            self.shortcut = nn.Linear(inputs, units, bias=False)

        def forward(self, x):
            return self.shortcut(x) + self.second(self.first(x.relu()).relu())

    class Norm(nn.Module):
        def __init__(self, code, units):
            super().__init__()
            self.gamma, self.beta = nn.Linear(code, units), nn.Linear(code, units)
            self.norm = nn.BatchNorm1d(units, affine=False)

        def forward(self, x, code):
            return self.norm(x.mT).mT * self.gamma(code)[:, None] + self.beta(code)[:, None]

    class Net(nn.Module):
        def __init__(self, code=512, wide=512, units=256):
            super().__init__()
            self.position = nn.Linear(3, 2 * wide)
            self.blocks = nn.ModuleList(Block(2 * wide, wide) for _ in range(5))
            self.code = nn.Linear(wide, code)
            self.coordinates, self.out = nn.Linear(3, units), nn.Linear(units, 1)
            self.norms = nn.ModuleList(Norm(code, units) for _ in range(11))
            self.dense = nn.ModuleList(nn.Linear(units, units) for _ in range(10))

        def forward(self, cloud, points):
            hidden = self.position(cloud)
            for block in self.blocks:
                x = block(hidden)
                hidden = torch.cat([x, x.amax(1, keepdim=True).expand(x.shape)], 2)
            code = self.code(x.amax(1).relu())
            x = self.coordinates(points)
            for i in range(5):
                y = self.dense[2 * i](self.norms[2 * i](x, code).relu())
                x = x + self.dense[2 * i + 1](self.norms[2 * i + 1](y, code).relu())
            return self.out(self.norms[10](x, code).relu())[..., 0]

    return Net()


def torch_train():
    torch = require("torch", extra="benchmarks")
    torch.manual_seed(0)
    model = theirs().train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    cloud, points, occupied = map(torch.tensor, _arrays())

    def loss():
        logits = model(cloud, points)
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, occupied, reduction="none")
        return entropy.sum(1).mean()

    return torch_descent(optimizer, loss)


TASKS = [
    Task(
        "occupancy-train",
        f"Occupancy network, one training step, {BATCH} clouds of {CLOUD} points, {POINTS:,} points each, float32",
        {"keras_dl graph": keras_train(False), "keras_dl xla": keras_train(True), "torch eager": torch_train},
        steps=5,
        warmup=2,
    ),
]
