"""Language models of characters: texts, a network, bits per character, a trigram baseline and a picture."""

import textwrap

import keras
import numpy as np
import tensorflow as tf

import keras_dl
from keras_dl.losses import SmoothedCrossentropy
from keras_dl.recipes.tasks import series, translation
from keras_dl.recipes.training import pictures
from keras_dl.recipes.training.baselines import trigram_bits
from keras_dl.recipes.training.batches import TEST_BATCH, fold_in, open_dataset, origin, read, shuffled
from keras_dl.recipes.training.recipe import Data
from keras_dl.text import PADDING, START, Symbols

FEATURES = {"bible": "kjv", "lm1b": "text", "text": "text"}  # the last is the form of own data
LENGTH = 256  # characters of a text, including the end; longer texts are cut: 0.7% of the Bible's characters
CHARACTERS = 252  # at most; all rarer ones are one token
COUNTED = 100_000  # texts at most for the vocabulary and the trigrams
MEASURED = 2000  # texts at most of the test split
BEGINNING = 24  # characters of a text that the continuations in the picture start with


def load_data(options, variant):
    """Texts as characters: `tokens` that begin with the start token; the targets are the same texts one step later."""
    builder = open_dataset(options)
    validates = "validation" in builder.info.splits

    def texts(split, most):
        return [row[FEATURES[options.dataset]].decode() for row in read(builder, split, options, most)]

    counted = texts("train", COUNTED)
    symbols = Symbols.of(counted, size=CHARACTERS)
    counted = symbols.encode(counted, LENGTH)
    parts = {
        split: symbols.encode(texts(split, MEASURED), LENGTH)
        for split in (("test", "validation") if validates else ("test",))
    }
    count = int(builder.as_dataset(split="train", shuffle_files=False).cardinality())
    whole = options.smoke or count <= COUNTED
    if whole:

        def epoch(number):
            key = fold_in(options.seed, number)
            batches = translation.batches_of_like_lengths(
                shifted(counted), counted, options.batch_size, key, multiple=64
            )
            return batches.map(lambda batch: (batch["source"], batch["target"]))

    else:
        train = builder.as_dataset(split="train", shuffle_files=False).map(
            lambda row: (row[FEATURES[options.dataset]],), tf.data.AUTOTUNE
        )

        def encode(texts):
            texts = symbols.encode([text.decode() for text in texts], LENGTH)
            return shifted(texts), texts

        def epoch(number):
            mixed = shuffled(train, fold_in(options.seed, number)).batch(options.batch_size, drop_remainder=True)
            batches = mixed.map(lambda texts: tf.numpy_function(encode, [texts], (tf.int32, tf.int32)))
            shape = (options.batch_size, LENGTH)
            return batches.map(lambda *rows: tuple(tf.ensure_shape(x, shape) for x in rows))

    def batches(split):
        return tf.data.Dataset.from_tensor_slices((shifted(parts[split]), parts[split])).batch(TEST_BATCH)

    return Data(
        train=epoch,
        test=batches("test"),
        num_train=len(counted) if whole else count,
        num_test=len(parts["test"]),
        **origin(builder),
        calibration=lambda samples: [{"tokens": row[None]} for row in shifted(_longest(counted, samples))],
        labels=(),
        input_shape=(LENGTH,),
        input_range="int32 ids of characters, 1 before the first, padding 0 after the last",
        arrays=dict(train=counted, test=parts["test"]),
        vocabularies={"characters": symbols.to_json()},
        validation=batches("validation") if validates else None,
    )


def shifted(texts):
    """The inputs to predict `texts`, int32 `(n, length)`: the start token, and each text without its last token."""
    return np.pad(texts[:, :-1], ((0, 0), (1, 0)), constant_values=START)


def _longest(texts, count):
    """The longest texts: the outputs for padding mean nothing, and need neither calibration nor proof."""
    return texts[np.argsort(-(texts != PADDING).sum(1), kind="stable")[:count]]


def build_model(data, options, variant):
    """One layer of 256 units, compiled with Adam and clipped gradients."""
    model = keras_dl.RecurrentLM(
        len(Symbols.from_json(data.vocabularies["characters"])), cell=variant, serving_length=data.input_shape[0]
    )
    rate = keras.optimizers.schedules.CosineDecay(options.rate(4e-3), data.steps(options))
    model.compile(keras.optimizers.Adam(rate, global_clipnorm=1.0), SmoothedCrossentropy(0.0))
    return model


def bits(serve, texts):
    """Bits of each character: float `(n, length)`, 0 for padding. Outputs of an int8 file are normalized again."""
    log_p = serve("sequence", tokens=shifted(texts))["log_probabilities"].astype("float64")
    log_p = log_p - np.log(np.exp(log_p).sum(-1, keepdims=True))
    return np.where(texts != PADDING, -np.take_along_axis(log_p, texts[..., None], -1)[..., 0] / np.log(2), 0)


def evaluate(serve, data):
    """Bits per character of the test texts. Their ends count as characters, and the first ones have no context."""
    texts = data.arrays["test"]
    return float(np.sum(bits(serve, texts)) / np.sum(texts != PADDING))


def baseline(outcome):
    arrays = outcome.data.arrays
    size = len(Symbols.from_json(outcome.data.vocabularies["characters"]))
    return "trigram model", trigram_bits(arrays["train"], arrays["test"], size)


def calibrate(serve, data, samples):
    return series.streamed(serve, data.calibration(samples))


def picture(outcome):
    """Bits over the epochs and over the positions in a text, and texts that the network continues."""
    data, model = outcome.data, outcome.model
    texts = data.arrays["test"]
    symbols = Symbols.from_json(data.vocabularies["characters"])
    name, counted = baseline(outcome)
    figure = pictures.figure(13, 8.5)
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.1))
    left, right = top.subplots(1, 2)
    pictures.curves(left, outcome.trained, "val_loss", lambda nats: nats / np.log(2), label="validation")
    left.axhline(counted, color=pictures.FAINT, linestyle="--", linewidth=1.2, label=f"{name}, test: {counted:.2f}")
    left.legend(frameon=False)
    pictures.style(left, f"Bits per character; test: {outcome.value:.3f}", "epoch")

    costs = bits(lambda _, tokens: {"log_probabilities": _log_probabilities(model, tokens)}, texts)
    counts = (texts != PADDING).sum(0)
    places = np.flatnonzero(counts >= max(1, len(texts) // 20))
    right.plot(places + 1, costs.sum(0)[places] / counts[places], color=pictures.COLORS[0], linewidth=1.2)
    pictures.style(right, "Bits of the characters at each position of a test text", "position")

    lengths = (texts != PADDING).sum(1)
    chosen = np.flatnonzero(lengths >= min(2 * BEGINNING, lengths.max()))[:5]
    begun = shifted(texts[chosen])[:, : BEGINNING + 1]
    axis = bottom.subplots()
    axis.set_axis_off()
    pictures.style(axis, f"{BEGINNING} characters of a test text | how it continues, and how the network continues it")
    ways = {"most probable": 0.0, "drawn at 0.7": 0.7}
    drawn = {
        way: symbols.decode(model.sample(begun, 130, temperature, outcome.options.seed).tokens)
        for way, temperature in ways.items()
    }
    for i, row in enumerate(chosen):
        (text,) = symbols.decode(texts[row : row + 1])
        head = text[:BEGINNING]
        lines = {"text": text[BEGINNING:]} | {way: texts_of_way[i] for way, texts_of_way in drawn.items()}
        for k, ((what, rest), color) in enumerate(zip(lines.items(), (pictures.INK, *pictures.COLORS), strict=False)):
            y = 0.97 - (i + k / 3.6) / len(chosen)
            axis.text(0.0, y, what, fontsize=8, color=color, va="top", fontweight="bold")
            line = textwrap.shorten(f"{head}|{rest}", 150, placeholder="...")
            axis.text(0.1, y, line, fontsize=8, color=color, va="top").set_in_layout(False)
    return figure


def _log_probabilities(model, tokens):
    return np.asarray(keras.ops.log_softmax(model.predict(tokens, batch_size=TEST_BATCH, verbose=0)))
