"""One training step of SimpleRNN, LSTM and GRU, in a graph and under XLA, against the layers of Keras and torch.nn."""

import numpy as np

from keras_dl.benchmarks.contenders import Task
from keras_dl.benchmarks.devices import torch_descent
from keras_dl.extras import require

BATCH, STEPS, FEATURES, UNITS = 64, 200, 32, 128


def _batch():
    rng = np.random.default_rng(0)
    return rng.normal(size=(BATCH, STEPS, FEATURES)).astype("float32"), rng.normal(size=(BATCH, 1)).astype("float32")


def keras_step(create, jit):
    """A layer and a dense layer on its last step, trained with SGD as `fit` does it."""

    def set_up():
        import keras
        import tensorflow as tf

        keras.utils.set_random_seed(0)
        x = keras.Input((STEPS, FEATURES))
        model = keras.Model(x, keras.layers.Dense(1)(create()(x)))
        model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse", jit_compile=jit)
        model.optimizer.build(model.trainable_variables)
        data = tuple(map(tf.constant, _batch()))
        function = tf.function(model.train_step, jit_compile=jit, reduce_retracing=True)
        return lambda: float(function(data)["loss"])

    return set_up


def torch_step(name):
    def set_up():
        torch = require("torch", extra="benchmarks")
        torch.manual_seed(0)
        # As TensorFlow does. Gradients over so many steps become subnormal numbers, which take ten times as long.
        torch.set_flush_denormal(True)
        layer = getattr(torch.nn, name)(FEATURES, UNITS, batch_first=True)
        head = torch.nn.Linear(UNITS, 1)
        optimizer = torch.optim.SGD([*layer.parameters(), *head.parameters()], 0.01, momentum=0.9)
        features, targets = map(torch.from_numpy, _batch())

        return torch_descent(optimizer, lambda: torch.nn.functional.mse_loss(head(layer(features)[0][:, -1]), targets))

    return set_up


def ours(name):
    def create():
        import keras_dl

        return getattr(keras_dl, name)(UNITS)

    return create


def theirs(name):
    def create():
        import keras

        return getattr(keras.layers, name)(UNITS)

    return create


TASKS = [
    Task(
        f"{name.lower()}-train",
        f"{name} of {UNITS} units, one training step, batch {BATCH}, {STEPS} steps of {FEATURES} features, float32",
        {
            "keras_dl XLA": keras_step(ours(name), jit=True),
            "keras_dl graph": keras_step(ours(name), jit=False),
            "keras XLA": keras_step(theirs(name), jit=True),
            "keras graph": keras_step(theirs(name), jit=False),
            "torch eager": torch_step({"SimpleRNN": "RNN"}.get(name, name)),
        },
    )
    for name in ("LSTM", "GRU", "SimpleRNN")
]
