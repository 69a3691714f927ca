"""Trains small models on two replicas, as a process of its own: `replica_training.py STRATEGY FOLDER TASK...`.

STRATEGY is "mirrored", on two logical CPUs, or "multi_worker", by TF_CONFIG. For each task, FOLDER gets the variables
after the training, and after each epoch, `TASK-WORKER.npz`. The first process trains the same on one device, too.
"""

import contextlib
import json
import os
import pathlib
import sys
from unittest import mock

import keras
import numpy as np
import tensorflow as tf
import toy_detector
from adversarial import TINY, pixels
from keras.src.backend.tensorflow import random

import keras_dl
from keras_dl import distributing
from keras_dl.distributing import distributed
from keras_dl.recipes.training.resume import state_variables
from keras_dl.replicas import in_replica, local_value

BATCH, EPOCHS = 8, 2


@contextlib.contextmanager
def draws_of_the_whole_batch():
    """Lets a replica draw the random numbers of all rows, and use those of its own: what one device draws, too."""

    def own(x):
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group if in_replica() else 0
        rows = tf.shape(x)[0] // (tf.distribute.get_strategy().num_replicas_in_sync if in_replica() else 1)
        return x[replica * rows : (replica + 1) * rows]

    def whole(shape):
        replicas = tf.distribute.get_strategy().num_replicas_in_sync if in_replica() else 1
        return (replicas * shape[0], *(shape[i] for i in range(1, len(shape))))

    def of_whole(draw):
        return lambda shape, *args, **kwargs: (
            own(draw(whole(shape), *args, **kwargs)) if in_replica() else draw(shape, *args, **kwargs)
        )

    def dropout(inputs, rate, noise_shape=None, seed=None):
        assert noise_shape is None
        kept = keras_dropout(tf.ones(whole(keras.ops.shape(inputs)), inputs.dtype), rate, seed=seed)
        return inputs * own(kept)

    keras_dropout = random.dropout
    with contextlib.ExitStack() as held:
        held.enter_context(mock.patch.object(distributing, "_SEED_STRIDE", 0))
        held.enter_context(mock.patch.object(random, "dropout", dropout))
        for name in ("normal", "uniform", "randint"):
            held.enter_context(mock.patch.object(random, name, of_whole(getattr(random, name))))
        yield


def points(n=80):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, 4)).astype("float32")
    return x, (x.sum(axis=1) > 0).astype("int32")


def perceptron(synchronized=True, **options):
    """Plain Keras, with a callable metric, which Keras builds by the data."""
    layers = [keras.Input((4,)), keras.layers.Dense(8, use_bias=False)]
    layers += [keras.layers.BatchNormalization(synchronized=synchronized), keras.layers.ReLU(), keras.layers.Dense(2)]
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9, **options), loss, metrics=["accuracy"])
    return distributed(model) if tf.distribute.has_strategy() else model, points()


def own_statistics():
    return perceptron(synchronized=False)


def accumulating():
    return perceptron(gradient_accumulation_steps=2)


def averaging():
    model, data = perceptron()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras_dl.averaging.RampedSGD(0.1, ramp=5.0), loss)
    return model, data


def by_layers():
    """Two optimizers in one, each of which clips the norm of its gradient: of that of the whole batch."""
    layers = [keras.Input((4,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(2, name="head")]
    model = keras.Sequential(layers)
    both = keras.optimizers.SGD(0.1, clipnorm=0.05), keras.optimizers.SGD(0.3, momentum=0.9, clipnorm=0.05)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(both[0], {".*head.*": both[1]})), loss)
    return distributed(model) if tf.distribute.has_strategy() else model, points()


def dropping():
    """Random layers: what they draw is in the weights."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    x, y = points()
    return distributed(model) if tf.distribute.has_strategy() else model, (x, y.astype("float32"))


def detector():
    model = toy_detector.Toy()
    model.compile(keras.optimizers.SGD(0.01))
    boxes = np.tile(np.float32([[[0, 0, 8, 8], [8, 8, 16, 16]]]), (BATCH, 1, 1))
    classes = np.stack([np.arange(BATCH) % 3, np.full(BATCH, -1)], axis=1).astype("int32")
    return model, (pixels(BATCH, (32, 32, 3)), {"boxes": boxes, "classes": classes})


def half(precision="mixed_float16"):
    """Rows in the second share of a batch have infinite gradients in float16: both replicas skip the step.

    With accumulated gradients and an average, which are then inside of the condition.
    """
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    layers = [keras.Input((4,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(2, dtype="float32")]
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras_dl.averaging.RampedSGD(0.1, momentum=0.9, ramp=5.0, gradient_accumulation_steps=2)
    model.compile(optimizer, loss)
    keras.config.set_dtype_policy(policy)
    x, y = points()
    if precision == "mixed_float16":
        x[3 * BATCH + 5 : 3 * BATCH + 7] = 1e4  # the same with both labels, one of which must be wrong
        y[3 * BATCH + 5 : 3 * BATCH + 7] = 0, 1
    return distributed(model) if tf.distribute.has_strategy() else model, (x, y)


def bfloat():
    return half("mixed_bfloat16")


def adversarial():
    """Two optimizers and an average."""
    sizes = dict(noise_dim=4, generator_dims=(16,), discriminator_dims=(8,), pieces=2, generator_range=None)
    sizes |= dict(discriminator_range=None, input_dropout_rate=0.2)
    model = keras_dl.GAN((4, 4, 1), **sizes, dropout_rate=0.5, averaging=0.5, seed=3)
    model.compile(*(keras.optimizers.SGD(0.05, momentum=0.5) for _ in range(2)))
    return model, (pixels(16, (4, 4, 1)),)


def convolutional():
    """The same with batch normalization, whose statistics are of shares."""
    model = keras_dl.DCGAN(**TINY, averaging=0.5)
    model.compile(keras.optimizers.Adam(2e-3, beta_1=0.5))
    return model, (pixels(16),)


def language():
    """Texts of several lengths: the shares of a batch hold different numbers of tokens."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, 12, (16, 7)).astype("int32")
    tokens[::2, 3:] = 0
    model = keras_dl.RecurrentLM(12, embedding_dim=8, hidden_dims=(16,))
    model.compile(keras.optimizers.SGD(0.5), keras_dl.losses.SmoothedCrossentropy(0.0))
    return model, (tokens[:, :-1], tokens[:, 1:])


def sampled_feeding():
    rng = np.random.default_rng(0)
    model = keras_dl.Seq2Seq(12, 12, hidden_dim=8, embedding_dim=8, sampling_rate=0.5, sampling_steps=1, seed=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    model.compile(keras.optimizers.SGD(0.5), loss, weighted_metrics=["accuracy"])
    return model, ({name: rng.integers(3, 12, (16, 5)).astype("int32") for name in ("source", "target")},)


def without_targets():
    model = keras_dl.Autoencoder((4, 4, 1), latent_dim=2, hidden_dims=(8,))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model, (pixels(16, (4, 4, 1)),)


def diffusion():
    import cases.ddpm

    case = cases.ddpm.CASES[0]
    model = case.create()
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), **case.compile)
    case.prepare(model, None)
    return model, case.data(16)


def adversarial_half():
    """Each of two optimizers has a loss scale."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    found = adversarial()
    keras.config.set_dtype_policy(policy)
    return found


TASKS = (perceptron, own_statistics, accumulating, averaging, by_layers, dropping, detector, half, bfloat, language)
TASKS += (adversarial, adversarial_half, convolutional, sampled_feeding, without_targets, diffusion)
TASKS = {task.__name__: task for task in TASKS}
DRAWING = (adversarial, adversarial_half, sampled_feeding, diffusion)


class EachEpoch(keras.callbacks.Callback):
    """Keeps all variables, those of optimizers too, as they are after each epoch."""

    def __init__(self):
        super().__init__()
        self.states = []

    def on_epoch_end(self, epoch, logs=None):
        self.states.append([local_value(v) for v in state_variables(self.model)])


def train(task, path, scope):
    keras.utils.set_random_seed(1)
    with scope:
        model, data = task()
    epochs = EachEpoch()
    options = dict(batch_size=BATCH, epochs=EPOCHS, shuffle=False, verbose=0, callbacks=[epochs])
    history = model.fit(*data, validation_data=data if len(data) == 2 else None, **options).history
    arrays = {f"epoch{i}_{j}": x for i, state in enumerate(epochs.states) for j, x in enumerate(state)}
    arrays |= {f"final_{j}": local_value(v) for j, v in enumerate(state_variables(model))}
    if task is perceptron:
        rows = data[0][:9]  # the last batch has fewer rows than there are replicas
        arrays["predicted"] = model.predict(rows, batch_size=4, verbose=0)
        arrays["evaluated"] = np.array(model.evaluate(rows, data[1][:9], batch_size=4, verbose=0))
    np.savez(path, history=json.dumps({k: [float(x) for x in v] for k, v in history.items()}), **arrays)


def main(kind, folder, *names):
    folder, worker = pathlib.Path(folder), 0
    if kind == "mirrored":
        devices = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    else:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        worker = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    for task in (TASKS[name] for name in names):
        with draws_of_the_whole_batch() if task in DRAWING else contextlib.nullcontext():
            train(task, folder / f"{task.__name__}-{worker}.npz", strategy.scope())
            if worker == 0:
                train(task, folder / f"{task.__name__}-one.npz", tf.device("CPU:0"))


if __name__ == "__main__":
    main(*sys.argv[1:])
