"""Encoder-decoders turn the spelling of English words into phonemes, with and without attention.

Paper:     Sutskever et al. 2014, arXiv:1409.3215; Bahdanau et al. 2014, arXiv:1409.0473
Data:      cmudict without the digits of stress, as in the literature: 40,000 of the 112,052 training words, and all
           12,000 test words. Each pronunciation of a word counts as right.
Command:   keras-dl train seq2seq
Aim:       a phoneme error rate of 0.12. With all training words and many hours, papers have 0.05 to 0.06 (Yao and Zweig
           2015, arXiv:1506.00196; Toshniwal and Livescu 2016, arXiv:1610.06540).
Baseline:  the most frequent phonemes of each letter, by an alignment of counts: 0.427, with 97.3% of the words wrong
Reaches:   0.088 with attention and 35.9% of the words wrong; 0.145 without attention. A beam of 4 with length penalty
           0.6: 0.086 and 35.3%. 1,065 s for eight epochs of both models on two very busy cores.
Files:     dynamic int8 0.088; int8 0.0875 on the first 1,000 test words, where Keras has 0.0865

Each batch has sequences of similar lengths, as in section 3.4 of the first paper.

`--dataset wmt14_translate/fr-en`: the first paper's data; the tokens are words, the 30,000 most frequent of each
language. Not measured.
`--data PATH.tsv`: your own pairs of texts, whose tokens are words if the texts have several, and letters otherwise.
"""

import keras
import numpy as np
import tensorflow as tf

import keras_dl
from keras_dl.recipes.tasks import translation
from keras_dl.recipes.tasks.pairs import draw_alignment, error_rate, in_memory, own_pairs, shared, written
from keras_dl.recipes.training import pictures
from keras_dl.recipes.training.batches import TEST_BATCH, fold_in, limit, open_dataset, origin, read, shuffled
from keras_dl.recipes.training.recipe import (
    DYNAMIC_INT8,
    FLOAT,
    Data,
    Export,
    Recipe,
    Task,
    run_as_script,
)
from keras_dl.text import Symbols

WORDS = 40_000  # for training; a word with several pronunciations gives several pairs
LENGTH = 20  # letters or phonemes, including the end; longer words are not trained on, and are cut in the test
SENTENCE, DICTIONARY = 50, 30_000  # for the paper's data: words of a sentence, and of each language
NAMES = {"cmudict": ("letter", "phonemes", "words")}  # of the tokens of both sides, and of the texts
OTHERS = ("token", "tokens", "texts")


def load_data(options, variant):
    builder = open_dataset(options)
    parts = {"cmudict": _pronunciations, "pairs": own_pairs}.get(options.dataset, _translations)
    return Data(**parts(builder, options), **origin(builder), labels=())


def _pronunciations(builder, options):
    """Letters and phonemes. The training uses all pronunciations of a word, and each of them counts as right."""

    def pronounced(split, most=-1):
        for row in read(builder, split, options, most):
            spoken = ("".join(c for c in text.decode() if not c.isdigit()) for text in row["pronunciations"])
            yield row["word"].decode(), list(dict.fromkeys(spoken))

    words = list(pronounced("train", WORDS))
    tested, answers = zip(*pronounced("test"), strict=True)
    pairs = [(word, text) for word, spoken in words for text in spoken if max(len(word), len(text.split())) < LENGTH]
    spelled, spoken = zip(*pairs, strict=True)
    letters, phonemes = Symbols.of(spelled), Symbols.of(spoken, " ")
    return in_memory(options, (letters, phonemes), (spelled, spoken), tested, answers, LENGTH)


def _translations(builder, options):
    """Sentences in English and the other language. Tokens are the most frequent words, split at spaces."""
    other = next(name for name in builder.info.features if name != "en")

    def split(name):
        dataset = builder.as_dataset(split=name, shuffle_files=False).map(lambda row: (row["en"], row[other]))
        return dataset.take(limit(name, options))

    def decoded(dataset):
        return zip(*((a.decode(), b.decode()) for a, b in dataset.as_numpy_iterator()), strict=True)

    train, test = split("train"), split("test")
    first = list(decoded(train.take(10 * DICTIONARY)))
    english, foreign = (Symbols.of(texts, " ", DICTIONARY) for texts in first)

    def encoded(dataset):
        def encode(vocabulary, texts):
            numbers = lambda texts: vocabulary.encode([text.decode() for text in texts], SENTENCE)  # noqa: E731
            return tf.ensure_shape(tf.numpy_function(numbers, [texts], tf.int32), (None, SENTENCE))

        return dataset.map(lambda a, b: {"source": encode(english, a), "target": encode(foreign, b)})

    def epoch(number):
        mixed = shuffled(train, fold_in(options.seed, number))
        return encoded(mixed.batch(options.batch_size, drop_remainder=True))

    tested, answers = decoded(test)
    some = (
        vocabulary.encode(texts[:1000], SENTENCE) for vocabulary, texts in zip((english, foreign), first, strict=True)
    )
    return dict(
        train=epoch,
        test=encoded(test.batch(TEST_BATCH)),
        num_train=int(train.cardinality()),
        num_test=len(tested),
        **shared(english, foreign, *some, english.encode(tested, SENTENCE), [foreign.encode([a]) for a in answers]),
    )


def build_model(data, options, variant):
    sizes = {f"{side}_vocabulary_size": len(Symbols.from_json(text)) for side, text in data.vocabularies.items()}
    net = dict(bidirectional=True, attention="additive") if variant == "attention" else dict(reverse_source=True)
    model = keras_dl.Seq2Seq(
        **sizes,
        **net,
        embedding_dim=64,
        hidden_dim=128,
        cell="gru",
        dropout_rate=0.1,
        source_length=data.input_shape[0],
        target_length=data.input_shape[0],
        seed=options.seed,
    )
    rate = keras.optimizers.schedules.CosineDecay(options.rate(3e-3), data.steps(options))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    model.compile(keras.optimizers.Adam(rate, global_clipnorm=1.0), loss, weighted_metrics=["accuracy"])
    return model


def evaluate(serve, data):
    return error_rate(serve, data)


def calibrate(serve, data, samples):
    return translation.calibration_of_translator(serve, data.arrays["source"][:samples])


def baseline(outcome):
    """Replaces each token of the source by its most frequent target tokens, by an alignment of counts."""
    arrays = outcome.data.arrays
    count = 2_000_000 // outcome.data.input_shape[0] ** 2
    pairs = zip(written(arrays["source"][:count]), written(arrays["target"][:count]), strict=True)
    table = translation.letter_baseline(list(pairs))
    predicted = [tuple(t for symbol in row for t in table.get(symbol, ())) for row in written(arrays["tested"])]
    rate, wrong = translation.error_rates(predicted, arrays["answers"])
    token, tokens, texts = NAMES.get(outcome.options.dataset, OTHERS)
    return f"each {token}'s most frequent {tokens} ({wrong:.1%} of {texts} wrong)", rate


def picture(outcome):
    """Alignments of test words, the loss over the epochs, and predictions beside the right answers."""
    arrays, model = outcome.data.arrays, outcome.model
    source, target = (Symbols.from_json(outcome.data.vocabularies[side]) for side in ("source", "target"))
    predicted, count = translated_by(model, arrays["tested"]), len(arrays["tested"])
    # From longer to shorter ones, evenly spaced.
    rows = np.argsort(-(arrays["tested"] > 0).sum(1), kind="stable")[count // 8 :: max(count // 20, 1)]
    figure = pictures.figure(12, 7.5)
    above, below = figure.subfigures(2, 1, height_ratios=(1.15, 1))
    for axis, row in zip(above.subplots(1, 3), rows if model.attention else (), strict=False):
        tokens, words = (ids[row][ids[row] > 0] for ids in (arrays["tested"], predicted))
        draw_alignment(axis, model, source, target, tokens, words, f"Attention: {source.decode([tokens])[0]}")
    left, right = below.subplots(1, 2, width_ratios=(1, 1.3))
    pictures.curves(left, outcome.trained, "val_loss")
    left.legend(frameon=False)
    pictures.style(left, "Cross-entropy of a test token, in nats", "epoch")
    _, wrong = translation.error_rates(written(predicted), arrays["answers"])
    rates = ", ".join(f"{name} {trained.value:.3f}" for name, trained in outcome.trained.items())
    right.set_axis_off()
    texts = NAMES.get(outcome.options.dataset, OTHERS)[-1]
    pictures.style(right, f"{outcome.task.metric.capitalize()}: {rates}; {wrong:.1%} of {texts} wrong")
    lines = [(texts[:-1], "written", "right, where that is wrong", pictures.FAINT)]
    for row in rows[3:17]:
        answers = arrays["answers"][row]
        correct = written(predicted[row : row + 1])[0] in answers
        shown = source.decode(arrays["tested"][row : row + 1]) + target.decode(predicted[row : row + 1])
        shown += [""] if correct else target.decode(answers[:1])
        lines.append((*shown, pictures.INK if correct else pictures.COLORS[1]))
    for i, (*shown, color) in enumerate(lines):
        for x, text in zip((0.0, 0.22, 0.62), shown, strict=True):
            right.text(x, 0.95 - i / 16, text, fontsize=8, color=color, transform=right.transAxes)
    return figure


def translated_by(model, sources):
    """Greedy translations by the model itself, in batches of one size."""
    size = min(TEST_BATCH, len(sources))
    starts = [min(i, len(sources) - size) for i in range(0, len(sources), size)]
    predicted = np.zeros_like(sources, shape=(len(sources), model.target_length))
    for start in starts:
        predicted[start : start + size] = model.greedy(sources[start : start + size]).tokens
    return predicted


# A whole translation is a loop, which an integer file cannot have.
FILES = (FLOAT, DYNAMIC_INT8, Export("int8", "cpu", ("encode", "decode_step")))
PAIR = dict(metric="phoneme error rate", variants=("attention", "fixed"), higher_is_better=False, exports=FILES)
RECIPE = Recipe(
    name="seq2seq",
    model="Seq2Seq",
    summary="recurrent encoder-decoders pronounce English words, with and without attention",
    tasks={
        "cmudict": Task(epochs=8, batch_size=64, aim=0.12, **PAIR),
        "wmt14_translate/fr-en": Task(epochs=8, batch_size=128, **(PAIR | dict(metric="word error rate"))),
    },
    own={
        "pairs": Task(
            epochs=30, batch_size=32, metric="token error rate", variants=("attention",), higher_is_better=False
        )
    },
    load_data=load_data,
    build_model=build_model,
    evaluate=evaluate,
    baseline=baseline,
    picture=picture,
    calibrate=calibrate,
)

if __name__ == "__main__":
    run_as_script("seq2seq")
