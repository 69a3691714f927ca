"""A recipe of a second: noisy sines in two classes, a small net with all that a checkpoint has to hold.

    python tests/toy.py FOLDER [WHERE]

trains it; WHERE is a moment at which the process kills itself: `step:N`, the N-th training step of this process;
`write:N`, half-way through the N-th file of a checkpoint; `variant:N`, before the N-th variant is built; `picture`.
"""

import os
import signal
import sys

import keras
import matplotlib.figure
import numpy as np
import tensorflow as tf

from keras_dl.recipes.training import batches, runner
from keras_dl.recipes.training.recipe import Data, Recipe, Task

TRAIN, TEST, LENGTH = 128, 40, 12


def _sines(count, seed):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, count)
    phases = random.uniform(0, 6.28, (count, 1))
    waves = np.sin(np.linspace(0, 1, LENGTH) * (4 + 4 * labels[:, None]) + phases)
    return waves.astype("float32"), labels


def load_data(options, variant):
    x, y = _sines(TRAIN, 1)
    train = tf.data.Dataset.from_tensor_slices((x, y))

    def epoch(number):
        order = batches.fold_in(options.seed, number)

        def noisy(index, example):
            wave, label = example
            return wave + 0.3 * tf.random.stateless_normal((LENGTH,), tf.random.fold_in(order, index)), label

        return batches.shuffled(train, order).enumerate().map(noisy).batch(options.batch_size, drop_remainder=True)

    return Data(
        train=epoch,
        test=tf.data.Dataset.from_tensor_slices(_sines(TEST, 2)).batch(16),
        num_train=TRAIN,
        num_test=TEST,
        dataset="sines",
        version="1.0.0",
        licence="none needed",
        calibration=lambda n: train.take(n).map(lambda wave, label: {"waves": wave[None]}),
        labels=("slow", "fast"),
        input_shape=(LENGTH,),
        input_range="float32 in [-2, 2]",
    )


def build_model(data, options, variant):
    width = {"wide": 16, "narrow": 4}[variant]
    model = keras.Sequential(
        [
            keras.Input(data.input_shape, name="waves"),
            keras.layers.Dense(width, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(2),
        ]
    )
    rate = keras.optimizers.schedules.CosineDecay(
        options.rate(0.01), options.epochs * (data.num_train // options.batch_size)
    )
    model.compile(
        keras.optimizers.Adam(rate, use_ema=True, ema_momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def evaluate(serve, data):
    right = 0
    for waves, labels in data.test.as_numpy_iterator():
        (logits,) = serve("serve", waves=waves).values()
        right += int(np.sum(np.argmax(logits, axis=-1) == labels))
    return right / data.num_test


def picture(outcome):
    figure = matplotlib.figure.Figure()
    figure.subplots().plot([row["loss"] for row in next(iter(outcome.trained.values())).history])
    return figure


RECIPE = Recipe(
    name="toy",
    model="Sequential",
    summary="a small net tells slow sines from fast ones",
    tasks={"sines": Task(epochs=4, batch_size=16, aim=0.7, variants=("wide", "narrow"), baselines=("narrow",))},
    load_data=load_data,
    build_model=build_model,
    evaluate=evaluate,
    baseline=lambda outcome: ("a coin", 0.5),
    picture=picture,
)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def _countdown(number, function):
    """Calls `function` at the `number`-th call of what it returns."""
    left = [number]

    def tick():
        left[0] -= 1
        if left[0] == 0:
            function()

    return tick


def _arm(where):
    """Makes this process kill itself at `where`."""
    place, _, number = where.partition(":")
    tick = _countdown(int(number or 1), die)
    if place == "step":
        original = runner._Keeper.on_train_batch_end
        runner._Keeper.on_train_batch_end = lambda self, *a, **k: (original(self, *a, **k), tick())
    elif place == "write":

        def half(path, **arrays):
            with open(path, "wb") as file:
                file.write(b"half of a")
                file.flush()
                tick()
            original(path, **arrays)

        original, np.savez = np.savez, half
    elif place == "variant":
        build = RECIPE.build_model
        object.__setattr__(RECIPE, "build_model", lambda *a: (tick(), build(*a))[1])
    else:
        object.__setattr__(RECIPE, "picture", lambda outcome: tick())


if __name__ == "__main__":
    if len(sys.argv) > 2:
        _arm(sys.argv[2])
    runner.train(RECIPE, RECIPE.options(jit="off"), sys.argv[1], resume=True)
