"""A transformer translates the King James Version into modern English.

Paper:     Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762: BLEU 28.4 (big) and 27.3 (base) on WMT14
           from English to German
Data:      bible: verses of at most 32 tokens on both sides, 12,377 for training and 441 for the test. BLEU is measured
           on the first 250 of these.
Command:   keras-dl train transformer
Aim:       BLEU 60
Baseline:  copying the source: BLEU 48.8
Reaches:   BLEU 64.1 after 10 epochs; 974 s of training on two very busy cores
Files:     int8, step by step: BLEU 64.2

As in the paper: one vocabulary of subwords, learned from the training split of both sides; embeddings tied with the
softmax; warm-up and inverse square root; label smoothing 0.1; Adam with 0.9, 0.98 and 1e-9. Instead of the mean of the
last checkpoints it takes a running mean of the weights, which a resumed run continues. A file is measured by its greedy
`translate`.

`--dataset wmt14_translate/de-en`: the paper's data, in the direction that TFDS names, with the base model. All of it is
held in memory. Not measured.
"""

import textwrap

import keras
import numpy as np
import tensorflow as tf

import keras_dl
from keras_dl.extras import require
from keras_dl.losses import SmoothedCrossentropy
from keras_dl.recipes.tasks import translation
from keras_dl.recipes.training import pictures
from keras_dl.recipes.training.batches import TEST_BATCH, fold_in, open_dataset, origin, read
from keras_dl.recipes.training.progress import say
from keras_dl.recipes.training.recipe import (
    DYNAMIC_INT8,
    FLOAT,
    Data,
    Export,
    Recipe,
    Task,
    run_as_script,
)
from keras_dl.schedules import InverseSquareRoot
from keras_dl.text import START, Subwords

# By dataset: the two sides, the size of the vocabulary, the tokens of a text, the model and its warm-up.
SMALL = dict(num_layers=2, hidden_dim=128, mlp_dim=512, num_heads=4, dropout_rate=0.1, norm_first=True)
SETUPS = {
    "bible": dict(source="kjv", target="modern", vocabulary=2000, length=32, model=SMALL, warmup=800),
    "wmt14_translate/de-en": dict(
        source="de", target="en", vocabulary=37_000, length=128, model=keras_dl.Transformer.presets["base"], warmup=4000
    ),
}
# Own pairs of texts.
SETUPS["pairs"] = dict(source="source", target="target", vocabulary=4000, length=64, model=SMALL, warmup=800)
LEARNED_FROM = 500_000  # texts of each side, at most, that the vocabulary is learned from
MEASURED = 250  # test pairs for BLEU, so that a file is measured in less than a minute


def load_data(options, variant):
    builder = open_dataset(options)
    setup = SETUPS[options.dataset]
    texts = {}
    for split in ("train", "test"):
        examples = read(builder, split, options)
        rows = [(row[setup["source"]].decode(), row[setup["target"]].decode()) for row in examples]
        texts[split] = [list(side) for side in zip(*rows, strict=True)]
    words = Subwords.learn([t for side in texts["train"] for t in side[:LEARNED_FROM]], setup["vocabulary"])
    arrays = {split: _fitting(words, *sides, setup["length"]) for split, sides in texts.items()}
    tokens = {split: pair[0] for split, pair in arrays.items()}
    if options.data is not None and (cut := sum(len(texts[x][0]) - len(arrays[x][1]) for x in texts)):
        say(f"data: {cut:,} pairs have a text of more than {setup['length']} tokens, and are left out")

    def pairs(source, labels):
        begun = tf.concat([tf.fill([tf.shape(labels)[0], 1], START), labels[:, :-1]], axis=1)
        return {"source": source, "target": begun}, labels

    def epoch(number):
        key = fold_in(options.seed, number)
        batches = translation.batches_of_like_lengths(*tokens["train"], options.batch_size, key, multiple=8)
        return batches.map(lambda batch: pairs(batch["source"], batch["target"]))

    return Data(
        train=epoch,
        test=tf.data.Dataset.from_tensor_slices(tokens["test"]).batch(TEST_BATCH).map(pairs),
        num_train=len(tokens["train"][0]),
        num_test=len(tokens["test"][0]),
        **origin(builder),
        calibration=None,
        labels=(),
        input_shape=(setup["length"],),
        input_range="int32 ids of subwords, the end token 2 after them, then padding 0",
        arrays=dict(trained=tokens["train"][0], source=tokens["test"][0][:MEASURED], texts=arrays["test"][1]),
        vocabularies={"subwords": words.to_json()},
    )


def _fitting(words, sources, targets, length):
    """The pairs whose texts have at most `length` tokens each, including the end: tokens and texts."""
    tokens = [words.encode(side, length + 1) for side in (sources, targets)]
    fits = np.flatnonzero((tokens[0][:, -1] == 0) & (tokens[1][:, -1] == 0))
    return tuple(side[fits, :length] for side in tokens), [(sources[i], targets[i]) for i in fits]


def build_model(data, options, variant):
    setup, words = SETUPS[options.dataset], vocabulary(data)
    (length,) = data.input_shape
    model = keras_dl.Transformer(len(words), source_length=length, target_length=length, **setup["model"])
    rate = InverseSquareRoot(model.hidden_dim, setup["warmup"])
    optimizer = keras.optimizers.Adam(rate, beta_1=0.9, beta_2=0.98, epsilon=1e-9, use_ema=True, ema_momentum=0.98)
    model.compile(optimizer, SmoothedCrossentropy(0.1))
    return model


def vocabulary(data):
    """The `Subwords` of the run."""
    return Subwords.from_json(data.vocabularies["subwords"])


def evaluate(serve, data):
    """BLEU of the greedy translation of the first test pairs."""
    source = data.arrays["source"]
    translations = vocabulary(data).decode(translation.translated(serve, source, len(source), takes_position=True))
    return bleu(translations, [target for _, target in data.arrays["texts"][: len(translations)]])


def calibrate(serve, data, samples):
    return translation.calibration_of_translator(serve, data.arrays["trained"][:samples], takes_position=True)


def bleu(translations, references):
    """Corpus BLEU as sacrebleu's defaults compute it (13a, mixed case): float in [0, 100]."""
    return float(require("sacrebleu", extra="recipes").corpus_bleu(translations, [references]).score)


def baseline(outcome):
    pairs = outcome.data.arrays["texts"][:MEASURED]
    return "copying the source", bleu(*(list(side) for side in zip(*pairs, strict=True)))


def picture(outcome):
    """The loss over the epochs, the attention of the decoder on one verse, and translations beside references."""
    data, model, words = outcome.data, outcome.model, vocabulary(outcome.data)
    source = data.arrays["source"]
    translations = np.asarray(model.beam_search(source[:6], 4, length_penalty=0.6).tokens)[:, 0]
    figure = pictures.figure(13, 9.5)
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.35, 1))
    left, right = top.subplots(1, 2, width_ratios=(1, 1.5))
    history = outcome.trained["model"].history
    for color, key, name in zip(pictures.COLORS, ("loss", "val_loss"), ("training", "test"), strict=False):
        left.plot(range(1, len(history) + 1), [row[key] for row in history], color=color, label=name, linewidth=1.8)
    left.legend(frameon=False)
    pictures.style(left, f"BLEU {outcome.value:.1f}, copying {baseline(outcome)[1]:.1f}", "epoch", "loss, nats a token")

    target = np.concatenate([[START], translations[0]])
    written = int(np.sum(translations[0] > 0))
    weights = np.asarray(model.alignment(source[:1], target[None, :-1]))[0].mean(0)[:written, : np.sum(source[0] > 0)]
    right.imshow(weights, cmap="Blues", aspect="auto", vmin=0)
    right.set_xticks(range(weights.shape[1]), words.pieces(source[0]), rotation=60, ha="right", fontsize=7)
    right.set_yticks(range(written), words.pieces(translations[0]), fontsize=7)
    pictures.style(right, "Attention of the last block to the source (mean of its heads)")
    right.grid(visible=False)

    axis = bottom.subplots()
    axis.set_axis_off()
    lines = []
    sides = ("KJV", "modern") if outcome.options.data is None else ("source", "target")
    for (old, new), text in zip(data.arrays["texts"], words.decode(translations), strict=False):
        lines += [(sides[0], old, pictures.FAINT), (sides[1], new, pictures.INK), ("model", text, pictures.COLORS[0])]
    for i, (name, text, color) in enumerate(lines):
        y = 1 - (i + 0.45 * (i // 3)) / (len(lines) + 2.5)
        for x, words_here, weight in ((0.0, name, "bold"), (0.05, textwrap.shorten(text, 170), "normal")):
            # Excluded from the layout, which a long line would make narrow.
            axis.text(x, y, words_here, fontsize=8, color=color, va="top", fontweight=weight).set_in_layout(False)
    return figure


# A whole translation is a loop, which an integer file cannot have.
STEPS = ("encode", "decode_step")
FILES = (
    FLOAT,
    Export("float16", "cpu"),
    DYNAMIC_INT8,
    Export("int8", "cpu", STEPS),
    Export("int8", "ethos-u55-128", STEPS),
)
RECIPE = Recipe(
    name="transformer",
    model="Transformer",
    summary="a transformer brings the King James Version into modern English",
    tasks={
        "bible": Task(epochs=10, batch_size=32, metric="BLEU", aim=60.0, exports=FILES),
        "wmt14_translate/de-en": Task(epochs=10, batch_size=256, metric="BLEU"),
    },
    own={"pairs": Task(epochs=20, batch_size=32, metric="BLEU")},
    load_data=load_data,
    build_model=build_model,
    evaluate=evaluate,
    baseline=baseline,
    picture=picture,
    calibrate=calibrate,
    takes_learning_rate=False,  # the schedule of the paper has only a warm-up
)

if __name__ == "__main__":
    run_as_script("transformer")
