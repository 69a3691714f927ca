"""PointNet for ModelNet40, in the sizes of Pointnet_Pointnet2_pytorch, against the same network of torch's layers.

The figures are in docs/speed.md.
"""

import itertools

from keras_dl.benchmarks.contenders import Task
from keras_dl.benchmarks.devices import exported, keras_infer, keras_train, torch_call, torch_descent
from keras_dl.extras import require

CLOUD, CLASSES, BATCH = (1024, 3), 40, 16


def ours():
    import keras_dl

    return keras_dl.PointNet.from_preset("modelnet40_torch", orthogonality=0.0)


def theirs():
    """3,471,473 parameters, as ours; in inference it computes the same."""
    torch = require("torch", extra="benchmarks")
    nn = torch.nn

    def shared(*widths, last=True):
        layers = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Conv1d(inputs, outputs, 1), nn.BatchNorm1d(outputs), nn.ReLU()]
        return nn.Sequential(*(layers if last else layers[:-1]))

    def dense(*widths):
        layers = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
        return nn.Sequential(*layers)

    class Transform(nn.Module):
        def __init__(self, size):
            super().__init__()
            self.mlp, self.head = shared(size, 64, 128, 1024), dense(1024, 512, 256)
            self.last = nn.Linear(256, size * size)
            self.size = size

        def forward(self, points):
            flat = self.last(self.head(self.mlp(points).amax(2)))
            matrix = flat.view(-1, self.size, self.size) + torch.eye(self.size)
            return (points.mT @ matrix).mT

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.points = nn.Sequential(Transform(3), shared(3, 64), Transform(64), shared(64, 128, 1024, last=False))
            self.head = nn.Sequential(dense(1024, 512), nn.Dropout(0.4), dense(512, 256), nn.Dropout(0.4))
            self.last = nn.Linear(256, CLASSES)

        def forward(self, points):
            return self.last(self.head(self.points(points).amax(2)))

    return Net()


def torch_train():
    torch = require("torch", extra="benchmarks")
    torch.manual_seed(0)
    model = theirs().train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    points, labels = torch.randn(BATCH, *CLOUD).mT.contiguous(), torch.randint(0, CLASSES, (BATCH,))

    return torch_descent(optimizer, lambda: torch.nn.functional.cross_entropy(model(points), labels))


TASKS = [
    Task(
        "pointnet-train",
        f"PointNet, one training step, batch {BATCH}, 1,024 points, float32",
        {
            "keras_dl graph": keras_train(ours, CLOUD, CLASSES, BATCH, jit=False),
            "keras_dl xla": keras_train(ours, CLOUD, CLASSES, BATCH, jit=True),
            "torch eager": torch_train,
        },
        steps=5,
        warmup=2,
    ),
    Task(
        "pointnet-infer",
        "PointNet, inference, batch 1, 1,024 points, float32, two threads",
        {
            "LiteRT file": exported(ours, CLOUD, "litert", dtype="float32"),
            "keras_dl graph": keras_infer(ours, CLOUD, 1),
            "torch eager": torch_call(lambda: theirs().eval(), 1, *reversed(CLOUD)),  # channels first
        },
        steps=30,
        warmup=5,
    ),
]
