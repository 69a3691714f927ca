"""A temporal convolutional network against an LSTM, a GRU and a plain RNN with as many weights, on long memories.

Paper:     Bai, Kolter, Koltun 2018, arXiv:1803.01271, table 1. Adding problem with 600 steps: TCN 5.8e-5, GRU 5.3e-5,
           LSTM 0.164, RNN 0.177. The authors train on 50,000 sequences for 10 epochs, which is 50 epochs here.
Data:      adding_problem/200: 10,000 generated sequences of 200 steps for training, 1,000 for the test. In the second
           half of the epochs, other numbers of each sequence are marked each time.
Command:   keras-dl train tcn
Aim:       a mean squared error of 0.001
Baseline:  an LSTM with as many weights, trained in the same way except for its learning rate: 0.0011
Reaches:   0.00036 after 10 epochs; GRU 0.00020, plain RNN 0.167. 689 s of training for all four on two busy cores.
Files:     int8 0.00070

`--dataset adding_problem/600`: 0.000093 after 30 epochs (aim 0.001) and 1,807 s on the same cores; int8 0.00062. The
LSTM is not measured.
`--dataset copy_memory`: ten symbols after 500 blanks. 100% recalled (aim 99%) after 419 s; int8 99.25%.
`--dataset mnist_5k`: digits row by row. 98.7% (aim 97%), also in an int8 file; the LSTM with as many weights has 98.0%.
117 s for both.

`--data PATH` classifies your own series, which may have unequal lengths, as `rnn`, `lstm` and `gru` do. Not measured.

How the settings were chosen is in docs/recipes.md.
"""

import keras
import numpy as np
import tensorflow as tf

import keras_dl
from keras_dl.recipes.tasks import series
from keras_dl.recipes.training import pictures
from keras_dl.recipes.training.augment import affine
from keras_dl.recipes.training.batches import (
    TEST_BATCH,
    fold_in,
    open_dataset,
    origin,
    read,
    shuffled_batches,
)
from keras_dl.recipes.training.recipe import (
    ETHOS_U55,
    FLOAT,
    INT8,
    Data,
    Recipe,
    Task,
    run_as_script,
)

KERNEL, WIDTH = 8, 24
# Units of the recurrent networks with as many weights as the TCN, by the number of its blocks.
UNITS = {3: {"lstm": 72}, 4: {"lstm": 89, "gru": 103, "rnn": 180}}
RATES = {"tcn": 4e-3, "lstm": 1e-2, "gru": 4e-3, "rnn": 1e-3}


def load_data(options, variant):
    if options.data is not None:
        return series.load_data(options, variant)
    builder = open_dataset(options)
    kind = options.dataset.split("/")[0]
    train, test = (_columns(kind, read(builder, split, options)) for split in ("train", "test"))

    def epoch(number):
        key = fold_in(options.seed, number)
        batches = shuffled_batches(train, options.batch_size, key)
        if kind == "adding_problem" and number >= options.epochs // 2:

            def marked_anew(index, batch):
                return _marked(batch[0][..., 0], tf.random.fold_in(key, index))

            return batches.enumerate().map(marked_anew)
        if kind != "mnist_5k":
            return batches

        def changed(index, example):
            image, label = example
            seed = tf.random.fold_in(key, index)
            return affine(image[..., None], seed, pixels=2, degrees=12, zoom=0.12, shear=0.2)[..., 0], label

        changes = batches.unbatch().enumerate().map(changed, tf.data.AUTOTUNE)
        return changes.batch(options.batch_size, drop_remainder=True)

    return Data(
        train=epoch,
        test=tf.data.Dataset.from_tensor_slices(test).batch(TEST_BATCH),
        num_train=len(train[0]),
        num_test=len(test[0]),
        **origin(builder),
        calibration=None,
        labels=tuple(map(str, range(10))) if kind != "adding_problem" else (),
        input_shape=train[0].shape[1:],
        input_range="float32, as drawn" if kind == "adding_problem" else "float32, pixels over 255 or symbols over 9",
        arrays=dict(x_train=train[0], x_test=test[0], y_test=test[1]),
    )


def _marked(numbers, seed):
    """Marks two random numbers of each sequence: sequences `(n, time, 2)` of the adding problem, and sums `(n, 1)`."""
    count, steps = numbers.shape[0], numbers.shape[1]
    half = steps // 2
    places = tf.random.stateless_uniform((2, count), seed, maxval=half, dtype=tf.int32)
    places += [[0], [half]]
    marks = tf.reduce_sum(tf.one_hot(places, steps), 0)
    return tf.stack([numbers, marks], -1), tf.reduce_sum(numbers * marks, 1, keepdims=True)


def _columns(kind, rows):
    """Sequences `(n, time, features)` and targets of one data set; a digit is read row by row."""
    if kind == "adding_problem":
        return np.stack([row["sequence"] for row in rows]), np.stack([row["target"] for row in rows])[:, None]
    if kind == "copy_memory":
        inputs, targets = (np.stack([row[name] for row in rows]) for name in ("inputs", "targets"))
        return inputs[..., None].astype("float32") / 9, targets.astype("int32")
    images = np.stack([row["image"] for row in rows])[..., 0]
    return images.astype("float32") / 255, np.array([row["label"] for row in rows])


def _blocks(data):
    """The smallest number of blocks that cover a whole sequence: 3 for 28 rows, 4 for 200 steps, 6 for 600."""
    return next(n for n in range(3, 12) if 2 * (KERNEL - 1) * (2**n - 1) >= data.input_shape[0])


def _own(data):
    """Whether it is a user's series, which are padded."""
    return "train" in data.arrays


def _ends(data):
    """The arguments for inputs and outputs."""
    return dict(
        masked=_own(data),
        standardize=_own(data),
        num_features=data.input_shape[1],
        num_outputs=len(data.labels) or 1,
        task="classification" if data.labels else "regression",
        pooling=None if data.dataset == "copy_memory" else "last",
        serving_length=data.input_shape[0],
    )


def _network(data):
    return keras_dl.TCN(**_ends(data), hidden_dims=(WIDTH,) * _blocks(data), kernel_size=KERNEL)


def build_model(data, options, variant):
    if variant == "tcn":
        model = _network(data)
    else:
        sizes = dict(cell=variant, hidden_dims=(UNITS[_blocks(data)][variant],))
        model = keras_dl.RecurrentNetwork(**_ends(data), **sizes)
    if _own(data):
        rows, _ = data.arrays["train"]
        model.adapt(**rows)
    rate = keras.optimizers.schedules.CosineDecay(options.rate(RATES[variant]), data.steps(options))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True) if data.labels else "mse"
    optimizer = keras.optimizers.Adam(rate, global_clipnorm=1.0)
    model.compile(optimizer, loss, metrics=["accuracy"] if data.labels else [])
    return model


def evaluate(serve, data):
    """The mean squared error of sums; the share of right digits, or of right symbols where there is one to copy."""
    if _own(data):
        return series.evaluate(serve, data)
    predicted, expected = serve("sequence", features=data.arrays["x_test"]), data.arrays["y_test"]
    if not data.labels:
        return float(np.mean(np.square(predicted["values"] - expected)))
    right = predicted["probabilities"].argmax(-1) == expected
    return float(right[expected > 0].mean() if expected.ndim > 1 else right.mean())


def calibrate(serve, data, samples):
    """Sequences, and steps of the stream with their states, spread over the sequences."""
    if _own(data):
        return series.calibrate(serve, data, samples)
    sequences = data.arrays["x_train"][:samples]
    states = {name: np.asarray(x) for name, x in _network(data).initial_states(len(sequences)).items()}
    if not set(states) <= set(serve.__self__.signatures["step"]["inputs"]):  # a recurrent network
        return series.streamed(serve, [{"features": row[None]} for row in sequences])
    steps = []
    for t in range(sequences.shape[1]):
        one = {"features": sequences[:, t]} | states
        rows = range(t, len(sequences), sequences.shape[1])
        steps += [{name: x[i : i + 1] for name, x in one.items()} for i in rows]
        outputs = serve("step", **one)
        states = {name: outputs[f"next_{name}"] for name in states}
    return {"sequence": [{"features": row[None]} for row in sequences], "step": steps}


def baseline(outcome):
    if _own(outcome.data):
        return series.baseline(outcome)
    if "lstm" in outcome.trained:
        return "LSTM of as many weights", outcome.trained["lstm"].value
    expected = outcome.data.arrays["y_test"]
    if not outcome.data.labels:
        return "always saying 1", float(np.mean(np.square(expected - 1)))
    return "any symbol", 1 / 8


def picture(outcome):
    """The test error of each network over the epochs, and predictions of the TCN against the truth."""
    if _own(outcome.data):
        return series.picture(outcome)
    figure = pictures.figure(12, 4.8)
    left, right = figure.subplots(1, 2, width_ratios=(1.4, 1))
    shown = f"Predictions of the {next(iter(outcome.trained)).upper()}"
    arrays, adding = outcome.data.arrays, not outcome.data.labels
    for i, (name, trained) in enumerate(outcome.trained.items()):
        label = f"{name.upper()}: {trained.value:.{'2g' if adding else '4f'}}"
        values = [row["val_loss"] for row in trained.history]
        # The first curve is drawn above the others, where they coincide.
        look = dict(color=pictures.COLORS[i], marker="o", markersize=4, linewidth=1.8, zorder=9 - i)
        left.plot(range(1, len(values) + 1), values, label=label, **look)
    left.set_yscale("log")
    left.xaxis.get_major_locator().set_params(integer=True)
    if adding:
        left.axhline(1 / 6, color=pictures.FAINT, linewidth=1, linestyle="--", label="always 1: 0.167")
    left.legend(frameon=False, title=f"{outcome.task.metric} at the end")
    title = "mean squared error" if adding else "cross-entropy"
    pictures.style(left, f"{outcome.options.dataset}: {title} on the test split", "epoch")
    x = arrays["x_test"][:400]
    predicted = np.asarray(outcome.model.predict(x, verbose=0))
    if adding:
        right.scatter(arrays["y_test"][:400], predicted, s=8, alpha=0.6, color=pictures.COLORS[0])
        right.axline((1, 1), slope=1, color=pictures.FAINT, linewidth=1)
        pictures.style(right, shown, "sum of the marked numbers", "answer")
    else:
        expected = arrays["y_test"][:400]
        seen = expected > 0 if expected.ndim > 1 else np.ones_like(expected, bool)
        counts = np.zeros((10, 10))
        np.add.at(counts, (expected[seen], predicted.argmax(-1)[seen]), 1)
        right.imshow(counts / np.maximum(counts.sum(1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
        pictures.style(right, shown, "answer", "right")
        right.grid(visible=False)
        right.set_xticks(range(10))
        right.set_yticks(range(10))
    return figure


# tflite-micro takes one signature per file, and these files have two.
FILES = dict(exports=(FLOAT, INT8, ETHOS_U55), reproduced=True)
FOUR = dict(variants=("tcn", "lstm", "gru", "rnn"), baselines=("lstm", "gru", "rnn"))
SUMS = dict(metric="mean squared error", higher_is_better=False, **FILES)
RECIPE = Recipe(
    name="tcn",
    model="TCN",
    summary="a temporal convolutional network against recurrent nets of as many weights, on long memories",
    tasks={
        "adding_problem/200": Task(epochs=10, batch_size=32, aim=1e-3, **FOUR, **SUMS),
        "adding_problem/600": Task(epochs=30, batch_size=32, aim=1e-3, variants=("tcn",), **SUMS),
        "copy_memory": Task(epochs=4, batch_size=32, metric="symbols recalled", aim=0.99, variants=("tcn",), **FILES),
        "mnist_5k": Task(epochs=40, batch_size=50, aim=0.97, variants=("tcn", "lstm"), baselines=("lstm",), **FILES),
    },
    own=series.own_tasks("tcn"),
    load_data=load_data,
    build_model=build_model,
    evaluate=evaluate,
    baseline=baseline,
    picture=picture,
    calibrate=calibrate,
)

if __name__ == "__main__":
    run_as_script("tcn")
