"""One training step of the paper's temporal convolutional network for the adding problem, against torch."""

import numpy as np

from keras_dl.benchmarks.contenders import Task
from keras_dl.benchmarks.devices import torch_descent
from keras_dl.extras import require

BATCH, LENGTH, WIDTH, BLOCKS, KERNEL = 32, 600, 24, 8, 8


def ours(jit):
    """One `train_step`, compiled as `fit` compiles it."""

    def set_up():
        import keras
        import tensorflow as tf

        import keras_dl

        keras.utils.set_random_seed(0)
        model = keras_dl.TCN.from_preset("adding_600")
        model.compile(keras.optimizers.Adam(1e-3), "mse", jit_compile=jit)
        model.optimizer.build(model.trainable_variables)
        data = tuple(tf.constant(x) for x in _batch())
        function = tf.function(model.train_step, jit_compile=jit, reduce_retracing=True)
        return lambda: float(function(data)["loss"])

    return set_up


def torchs():
    """The same network, in eager torch."""
    torch = require("torch", extra="benchmarks")
    nn = torch.nn
    torch.manual_seed(0)

    class Block(nn.Module):
        def __init__(self, before, dilation):
            super().__init__()
            self.reach = (KERNEL - 1) * dilation
            normalized = nn.utils.parametrizations.weight_norm
            self.first = normalized(nn.Conv1d(before, WIDTH, KERNEL, dilation=dilation))
            self.second = normalized(nn.Conv1d(WIDTH, WIDTH, KERNEL, dilation=dilation))
            self.shortcut = nn.Conv1d(before, WIDTH, 1) if before != WIDTH else nn.Identity()

        def forward(self, x):
            hidden = x
            for convolution in (self.first, self.second):
                hidden = convolution(nn.functional.pad(hidden, (self.reach, 0))).relu()
            return (hidden + self.shortcut(x)).relu()

    body = nn.Sequential(*(Block(2 if i == 0 else WIDTH, 2**i) for i in range(BLOCKS)))
    head = nn.Linear(WIDTH, 1)
    optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()], 1e-3)
    inputs, targets = map(torch.from_numpy, _batch())
    inputs = inputs.transpose(1, 2).contiguous()

    return torch_descent(optimizer, lambda: nn.functional.mse_loss(head(body(inputs)[..., -1]), targets))


def _batch():
    rng = np.random.default_rng(0)
    return rng.random((BATCH, LENGTH, 2)).astype("float32"), rng.random((BATCH, 1)).astype("float32")


TASKS = [
    Task(
        "tcn-train",
        f"TCN of {BLOCKS} blocks, width {WIDTH}, kernel {KERNEL}, one training step, batch {BATCH}, length {LENGTH}",
        {"keras_dl graph": ours(jit=False), "keras_dl XLA": ours(jit=True), "torch eager": torchs},
        steps=5,
        warmup=2,
    ),
]
