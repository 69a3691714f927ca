"""PointNet++ for ModelNet40 (one scale) against the same network in torch; and sampling and grouping alone.

torch has no farthest point sampling or ball query. Those here are loops and sorts of plain operations, as in
Pointnet_Pointnet2_pytorch. The figures are in docs/speed.md.
"""

import itertools

import numpy as np

from keras_dl.benchmarks.contenders import Task
from keras_dl.benchmarks.devices import exported, keras_infer, keras_train, torch_call, torch_descent
from keras_dl.extras import require

CLOUD, CLASSES, BATCH = (1024, 3), 40, 8
COUNTS = (1024, 4096, 16384)  # of points; a quarter of them are centers
RADIUS, SIZE = 0.2, 32


def ours():
    import keras_dl

    return keras_dl.PointNet2.from_preset("modelnet40")


def sample(points, count):
    """Farthest point sampling in torch: numbers of points, `(batch, count)`."""
    torch = require("torch", extra="benchmarks")
    found = torch.zeros(len(points), count, dtype=torch.long)
    distances = torch.full(points.shape[:2], torch.inf)
    chosen, clouds = torch.zeros(len(points), dtype=torch.long), torch.arange(len(points))
    for i in range(count):
        found[:, i] = chosen
        distances = torch.minimum(distances, (points - points[clouds, chosen][:, None]).square().sum(-1))
        chosen = distances.argmax(-1)
    return found


def group(points, centers, radius, size):
    """Ball query in torch: numbers of points, `(batch, centers, size)`."""
    torch = require("torch", extra="benchmarks")
    far = torch.cdist(centers, points) >= radius
    found = torch.arange(points.shape[1]).expand(far.shape).masked_fill(far, points.shape[1])
    found = found.sort(-1).values[:, :, :size]
    return torch.where(found < points.shape[1], found, found[:, :, :1])


def take(points, indices):
    torch = require("torch", extra="benchmarks")
    clouds = torch.arange(len(points)).view(-1, *[1] * (indices.dim() - 1))
    return points[clouds, indices]


def theirs():
    """1,475,688 parameters, as ours; in inference it computes the same."""
    torch = require("torch", extra="benchmarks")
    nn = torch.nn

    def shared(*widths):
        layers = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
        return nn.Sequential(*layers)

    def dense(inputs, outputs):
        return nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU(), nn.Dropout(0.5))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.levels = nn.ModuleList(
                [shared(3, 64, 64, 128), shared(131, 128, 128, 256), shared(259, 256, 512, 1024)]
            )
            self.head = nn.Sequential(dense(1024, 512), dense(512, 256), nn.Linear(256, CLASSES))

        def forward(self, points):
            features = None
            for mlp, (count, radius, size) in zip(self.levels, ((512, 0.2, 32), (128, 0.4, 64)), strict=False):
                centers = take(points, sample(points, count))
                indices = group(points, centers, radius, size)
                parts = [take(points, indices) - centers[:, :, None]]
                if features is not None:
                    parts.append(take(features, indices))
                features = mlp(torch.cat(parts, -1).permute(0, 3, 2, 1)).amax(2).mT  # (batch, centers, channels)
                points = centers
            whole = torch.cat([points, features], -1).mT[..., None]
            return self.head(self.levels[-1](whole).amax((2, 3)))

    return Net()


def torch_train():
    torch = require("torch", extra="benchmarks")
    torch.manual_seed(0)
    model = theirs().train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    points, labels = torch.randn(BATCH, *CLOUD), torch.randint(0, CLASSES, (BATCH,))

    return torch_descent(optimizer, lambda: torch.nn.functional.cross_entropy(model(points), labels))


def keras_call(function, *shape, jit):
    """A compiled function of random points in a cube."""

    def set_up():
        import tensorflow as tf

        points = tf.constant(np.random.default_rng(0).random(shape).astype("float32"))
        compiled = tf.function(function, jit_compile=jit)
        return lambda: compiled(points).numpy()

    return set_up


def our_sample(points):
    from keras_dl.ops import farthest_points

    return farthest_points(points, points.shape[1] // 4)


def our_groups(points):
    from keras_dl.ops import ball_query

    return ball_query(points, points[:, : points.shape[1] // 4], RADIUS, SIZE)[0]


def their_sample():
    return lambda points: sample(points, points.shape[1] // 4)


def their_groups():
    return lambda points: group(points, points[:, : points.shape[1] // 4], RADIUS, SIZE)


def _of_ops(name, what, of_ours, of_theirs, count):
    return Task(
        f"{name}-{count}",
        f"{what} of {count:,} points, {count // 4:,} centers, batch 1, float32",
        {
            "keras_dl graph": keras_call(of_ours, 1, count, 3, jit=False),
            "keras_dl xla": keras_call(of_ours, 1, count, 3, jit=True),
            "torch eager": torch_call(of_theirs, 1, count, 3),
        },
        steps=5,
        warmup=2,
    )


TASKS = [
    Task(
        "pointnet2-train",
        f"PointNet++ of one scale, one training step, batch {BATCH}, 1,024 points, float32",
        {
            "keras_dl graph": keras_train(ours, CLOUD, CLASSES, BATCH, jit=False),
            "keras_dl xla": keras_train(ours, CLOUD, CLASSES, BATCH, jit=True),
            "torch eager": torch_train,
        },
        steps=3,
        warmup=1,
    ),
    Task(
        "pointnet2-infer",
        "PointNet++ of one scale, inference, batch 1, 1,024 points, float32, two threads",
        {
            "LiteRT file": exported(ours, CLOUD, "litert", dtype="float32"),
            "keras_dl graph": keras_infer(ours, CLOUD, 1),
            "torch eager": torch_call(lambda: theirs().eval(), 1, *CLOUD),
        },
        steps=10,
        warmup=2,
    ),
    *(_of_ops("sample", "Farthest point sampling", our_sample, their_sample, count) for count in COUNTS),
    *(
        _of_ops("group", f"Ball query, radius {RADIUS}, {SIZE} points", our_groups, their_groups, count)
        for count in COUNTS
    ),
]
