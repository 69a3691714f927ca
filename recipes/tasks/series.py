"""Series and the adding problem for rnn, lstm and gru: data, network, metric, baselines and picture."""

import keras
import numpy as np
import tensorflow as tf

import keras_dl
from keras_dl.extras import require
from keras_dl.recipes.training import pictures
from keras_dl.recipes.training.batches import TEST_BATCH, fold_in, open_dataset, origin, read, shuffled_batches
from keras_dl.recipes.training.recipe import Data, Task

ADDING = "adding_problem/"
GUESS = 1 / 6  # the mean squared error of always saying 1, which is the mean of the sums
NOISE = 0.7  # standard deviation of the noise on training series, as a share of each channel's own
UNITS = {"rnn": 64, "irnn": 64, "lstm": 48, "gru": 48}  # for the adding problem
RATES = {"rnn": 1e-3, "irnn": 1e-3, "lstm": 1e-2, "gru": 1e-2}
STATES = 8  # number of steps of a sequence at which the signature `step` is calibrated


def load_data(options, variant):
    """Sequences of the adding problem; or series and their classes, padded to the longest, with masks."""
    builder = open_dataset(options)
    adding = options.dataset.startswith(ADDING)
    parts, lengths = {}, {}
    for split in ("train", "test"):
        examples = read(builder, split, options)
        answers = np.stack([x["target" if adding else "label"] for x in examples])
        parts[split] = [x["sequence"] for x in examples], answers[:, None] if adding else answers
        lengths[split] = max(map(len, parts[split][0]))
    steps = lengths["train"] if adding else int(builder.info.metadata["steps"])
    arrays = {split: (padded(sequences, steps), answers) for split, (sequences, answers) in parts.items()}
    if adding:  # all are of one length
        arrays = {split: (rows["features"], answers) for split, (rows, answers) in arrays.items()}

    def batches(number, size):
        return shuffled_batches(arrays["train"], size, fold_in(options.seed, number))

    def noisy(number):
        """With noise: a few hundred series would be memorized."""
        key = fold_in(options.seed, number)
        channels = arrays["train"][0]["features"][arrays["train"][0]["mask"]].std(0)

        def blur(index, batch):
            rows, answers = batch
            noise = tf.random.stateless_normal(tf.shape(rows["features"]), tf.random.fold_in(key, index))
            return rows | {"features": rows["features"] + NOISE * channels * noise}, answers

        return batches(number, options.batch_size).enumerate().map(blur)

    def calibration(samples):
        rows = batches(-1, 1).take(samples).map(lambda row, answer: row)
        return rows.map(lambda features: {"features": features}) if adding else rows

    return Data(
        train=noisy if options.augment and not adding else lambda number: batches(number, options.batch_size),
        test=tf.data.Dataset.from_tensor_slices(arrays["test"]).batch(TEST_BATCH),
        num_train=len(arrays["train"][1]),
        num_test=len(arrays["test"][1]),
        **origin(builder),
        calibration=calibration,
        labels=() if adding else tuple(builder.info.features["label"].names),
        input_shape=(steps, parts["train"][0][0].shape[-1]),
        input_range="numbers in [0, 1) and marks" if adding else "raw channels, with a mask of the steps that exist",
        arrays=arrays,
    )


def padded(sequences, steps):
    """`features`, float32 `(n, steps, channels)` with zeros after each end, and `mask`, bool `(n, steps)`."""
    features = np.zeros((len(sequences), steps, sequences[0].shape[-1]), "float32")
    for row, sequence in zip(features, sequences, strict=True):
        row[: len(sequence)] = sequence
    lengths = np.array([len(sequence) for sequence in sequences])
    return {"features": features, "mask": np.arange(steps) < lengths[:, None]}


def build_model(data, options, variant):
    """A network with the cell that the variant names, compiled with Adam and clipped gradients."""
    cell = variant
    regression = not data.labels
    model = keras_dl.RecurrentNetwork(
        num_features=data.input_shape[-1],
        num_outputs=1 if regression else len(data.labels),
        cell=cell,
        hidden_dims=(UNITS[cell] if regression else 64,),
        dropout_rate=0.0 if regression else 0.5,
        task="regression" if regression else "classification",
        masked=not regression,
        standardize=not regression,
        serving_length=data.input_shape[0],
    )
    if not regression:
        rows, _ = data.arrays["train"]
        model.adapt(**rows)
    steps = data.steps(options)
    peak = options.rate(RATES[cell] if regression else 3e-3)
    rate = keras.optimizers.schedules.CosineDecay(peak, steps, alpha=0.05)
    if regression and cell == "lstm":  # it learns the marks late and suddenly, at a step that no cosine can know
        rate = keras.optimizers.schedules.PiecewiseConstantDecay([steps * 3 // 4], [peak, peak / 10])
    loss = "mse" if regression else keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # Clipped by the norm of all gradients together, which keeps their direction (Pascanu, Mikolov, Bengio 2013).
    optimizer = keras.optimizers.AdamW(rate, weight_decay=0.0 if regression else 0.01, global_clipnorm=1.0)
    model.compile(optimizer, loss, metrics=None if regression else ["accuracy"])
    return model


def evaluate(serve, data):
    """The mean squared error of the sums, or the accuracy, on the test split."""
    rows, answers = data.arrays["test"]
    if data.labels:
        return float(np.mean(serve("sequence", **rows)["probabilities"].argmax(-1) == answers))
    return float(np.mean(np.square(serve("sequence", features=rows)["values"] - answers)))


def calibrate(serve, data, samples):
    """As `streamed`."""
    return streamed(serve, list(data.calibration(samples).as_numpy_iterator()))


def streamed(serve, sequences):
    """Calibration data: sequences for `sequence`; for `step` some of their steps, with the states before them.

    Args:
        serve: of a model that streams.
        sequences: list of single rows, each a dict of the inputs of `sequence`. The input that `step` has too is given
            step by step.
    """
    inputs = serve.__self__.signatures["step"]["inputs"]
    (name,) = inputs.keys() & sequences[0].keys()
    values = np.concatenate([row[name] for row in sequences])
    zeros = {key: np.zeros((len(values), *x["shape"][1:]), "float32") for key, x in inputs.items() if key != name}
    states, steps = zeros, []
    for t in range(values.shape[1]):
        row = {name: values[:, t], **states}
        if t % max(1, values.shape[1] // STATES) == 0:
            steps += [{key: x[i : i + 1] for key, x in row.items()} for i in range(0, len(values), STATES)]
        after = serve("step", **row)
        states = {key.removeprefix("next_"): x for key, x in after.items() if key.startswith("next_")}
    return {"sequence": sequences, "step": steps}


def baseline(outcome):
    """A plain RNN or the mean; for classes logistic regression on each channel's mean and deviation."""
    data = outcome.data
    if not data.labels:
        if "rnn" in outcome.trained:
            return "plain RNN", outcome.trained["rnn"].value
        return "predicting the mean", float(np.var(data.arrays["test"][1]))
    return "logistic regression on means and deviations", _logistic(data)


def _logistic(data):
    linear = require("sklearn.linear_model", extra="recipes")
    scaling = require("sklearn.preprocessing", extra="recipes")
    pipeline = require("sklearn.pipeline", extra="recipes")

    def moments(rows):
        steps = [sequence[mask] for sequence, mask in zip(rows["features"], rows["mask"], strict=True)]
        return np.stack([np.concatenate([x.mean(0), x.std(0)]) for x in steps])

    (x, y), (x_test, y_test) = data.arrays["train"], data.arrays["test"]
    model = pipeline.make_pipeline(scaling.StandardScaler(), linear.LogisticRegression(max_iter=1000))
    return float(model.fit(moments(x), y).score(moments(x_test), y_test))


def picture(outcome):
    """The metric over the epochs; beside it predicted and true sums, or the confusion matrix."""
    figure = pictures.figure(11, 4.6)
    left, right = figure.subplots(1, 2)
    data, trained = outcome.data, outcome.trained
    if not data.labels:
        pictures.curves(left, trained, "val_loss")
        left.axhline(GUESS, color=pictures.FAINT, linewidth=1, linestyle="--", label="always saying 1")
        left.set_yscale("log")
        pictures.style(left, f"{data.input_shape[0]} steps: squared error on the test split", "epoch")
        rows, answers = data.arrays["test"]
        values = outcome.model.predict(rows, verbose=0)
        right.scatter(answers, values, s=6, alpha=0.5, color=pictures.COLORS[0])
        right.axline((1, 1), slope=1, color=pictures.FAINT, linewidth=1)
        title = f"{next(iter(trained)).upper()}: mean squared error {outcome.value:.1e}"
        pictures.style(right, title, "sum of the marked numbers", "answer")
    else:
        pictures.curves(left, trained, "val_accuracy")
        pictures.style(left, f"{data.dataset}: accuracy on the test split", "epoch")
        rows, answers = data.arrays["test"]
        predicted = np.argmax(outcome.model.predict(rows, verbose=0), -1)
        table = np.zeros((len(data.labels),) * 2, int)
        np.add.at(table, (answers, predicted), 1)
        right.imshow(table, cmap="Blues")
        for (i, j), count in np.ndenumerate(table):
            if count:
                ink = "white" if count > table.max() / 2 else pictures.INK
                right.text(j, i, count, ha="center", va="center", fontsize=8, color=ink)
        places = range(len(data.labels))
        right.set_xticks(places, data.labels)
        right.set_yticks(places, data.labels)
        pictures.style(right, f"{int(table.trace())} of {table.sum()} right", "taken for", "is")
        right.grid(visible=False)
    left.legend(frameon=False)
    return figure


SUMS = dict(metric="mean squared error", higher_is_better=False)


def series_tasks(cell, aim):
    """The tasks that classify series with one cell. `aim` is for Japanese Vowels."""
    shared = dict(epochs=40, variants=(cell,))
    small = ("basic_motions", "gun_point", "italy_power_demand")
    return {"japanese_vowels": Task(batch_size=30, aim=aim, reproduced=True, **shared)} | {
        name: Task(batch_size=10, **shared) for name in small
    }


def own_tasks(cell):
    """The task of own series with one cell."""
    return {"series": Task(epochs=40, batch_size=16, variants=(cell,))}


FUNCTIONS = dict(
    load_data=load_data,
    build_model=build_model,
    evaluate=evaluate,
    baseline=baseline,
    picture=picture,
    calibrate=calibrate,
)
