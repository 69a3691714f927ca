"""Pairs of texts for recurrent translators: own ones and those of data sets, in memory, and where attention looks."""

import numpy as np
import tensorflow as tf

from keras_dl.recipes.tasks import translation
from keras_dl.recipes.training import pictures
from keras_dl.recipes.training.batches import TEST_BATCH, fold_in, read
from keras_dl.recipes.training.progress import say
from keras_dl.recipes.training.recipe import OptionError
from keras_dl.text import END, PADDING, Symbols

OWN_LENGTH, OWN_DICTIONARY = 40, 4_000  # of own pairs: tokens of a text with its end, and of each side
STEPPED = 1000  # texts that an int8 file is measured on


def own_pairs(builder, options):
    """Own pairs of texts. Each translation of a test text counts as right."""
    pairs = {
        split: [(row["source"].decode(), row["target"].decode()) for row in read(builder, split, options)]
        for split in ("train", "test")
    }
    sides = [list(side) for side in zip(*pairs["train"], strict=True)]
    vocabularies = [Symbols.of(texts, _separator(texts), OWN_DICTIONARY) for texts in sides]

    def fits(pair):
        return all(
            vocabulary.encode([text]).shape[1] <= OWN_LENGTH
            for vocabulary, text in zip(vocabularies, pair, strict=True)
        )

    kept = {split: [pair for pair in part if fits(pair)] for split, part in pairs.items()}
    for split, part in kept.items():
        if len(part) < len(pairs[split]):
            say(
                f"data: {len(pairs[split]) - len(part):,} {split} pairs have a text of more than {OWN_LENGTH} tokens, "
                "and are left out"
            )
        if not part:
            raise OptionError(f"{options.data}: no {split} pair has texts of at most {OWN_LENGTH} tokens.")
    answers = {}
    for source, target in kept["test"]:
        answers.setdefault(source, []).append(target)
    return in_memory(
        options, vocabularies, zip(*kept["train"], strict=True), list(answers), list(answers.values()), OWN_LENGTH
    )


def _separator(texts):
    """ " " where most texts have several words, which are then the tokens; "" for letters."""
    return " " if np.mean([" " in text for text in texts]) > 0.5 else ""


def in_memory(options, vocabularies, pairs, tested, answers, length):
    """Entries of data whose texts are all in memory.

    Args:
        options: `Options`.
        vocabularies: two `Symbols`.
        pairs: two sequences of texts for training.
        tested, answers: texts of the test, and for each a list of right ones.
        length: int. Tokens of a text with its end; the longer ones of the test are cut.
    """
    first, last = vocabularies
    sources, targets = (words.encode(list(texts), length) for words, texts in zip(vocabularies, pairs, strict=True))

    def epoch(number):
        key = fold_in(options.seed, number)
        return translation.batches_of_like_lengths(sources, targets, options.batch_size, key)

    test = {"source": first.encode(tested, length), "target": last.encode([a[0] for a in answers], length)}
    return dict(
        train=epoch,
        test=tf.data.Dataset.from_tensor_slices(test).batch(TEST_BATCH),
        num_train=len(sources),
        num_test=len(tested),
        **shared(first, last, sources, targets, test["source"], [last.encode(a) for a in answers]),
    )


def shared(source, target, sources, targets, tested, answers):
    """Entries of both kinds of data, from vocabularies, some training tokens, and the test data."""
    return dict(
        calibration=lambda samples: {"encode": [{"tokens": row[None]} for row in sources[:samples]]},
        input_shape=sources.shape[1:],
        input_range="int32 tokens; 2 at the end, 0 after it",
        arrays=dict(source=sources, target=targets, tested=tested, answers=[written(rows) for rows in answers]),
        vocabularies={"source": source.to_json(), "target": target.to_json()},
    )


def written(rows):
    """Token ids before the end of each row, as tuples."""
    return [tuple(int(i) for i in row[: int(np.argmax(np.append(row, END) == END))] if i != PADDING) for row in rows]


def error_rate(serve, data) -> float:
    """The token error rate of the test texts, by a model or a file."""
    predicted = written(translation.translated(serve, data.arrays["tested"], STEPPED))
    return translation.error_rates(predicted, data.arrays["answers"][: len(predicted)])[0]


def draw_alignment(axis, model, source, target, tokens, words, title="", fontsize=8):
    """Where attention looks: read tokens from left to right, written ones from top to bottom.

    Args:
        axis: matplotlib axis.
        model: `keras_dl.Seq2Seq` with attention.
        source, target: `Symbols` of both sides.
        tokens, words: int32, `(n,)` and `(m,)`, without padding.
        title: str.
        fontsize: float.

    Returns:
        The image, for a color bar.
    """
    weights = np.asarray(model.alignment(tokens[None], words[None]))[0]  # (written, read)
    shown = axis.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for places, vocabulary, ids in ((axis.set_xticks, source, tokens), (axis.set_yticks, target, words)):
        places(range(len(ids)), [vocabulary.decode([[token]])[0] or "end" for token in ids], fontsize=fontsize)
    pictures.style(axis, title, "read", "written")
    axis.grid(visible=False)
    axis.tick_params(labelsize=fontsize)
    return shown
