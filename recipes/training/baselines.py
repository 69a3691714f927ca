"""Baselines that several recipes have to beat: the nearest training image, and a language model that counts."""

import numpy as np

from keras_dl.extras import require
from keras_dl.recipes.training import pipelines
from keras_dl.text import PADDING, START

MOST_PIXELS = 10**9  # of all training images together; with more, the search takes longer than the training


def nearest_neighbor(outcome):
    """Accuracy of the label of the nearest training image, by the distance of raw pixels; or of guessing.

    It learns nothing. Where the search would take too long, guessing is the baseline.

    Returns:
        `(name, accuracy)`.
    """
    data = outcome.data
    if data.num_train * np.prod(data.input_shape) > MOST_PIXELS:
        return "guessing", 1 / len(data.labels)
    neighbors = require("sklearn.neighbors", extra="recipes")
    x_train, y_train, x_test, y_test = pipelines.as_arrays(pipelines.images(outcome.options))
    classifier = neighbors.KNeighborsClassifier(1).fit(x_train, y_train)
    return "nearest neighbor", float(classifier.score(x_test, y_test))


def trigram_bits(train, test, vocabulary_size):
    """Bits per token of a trigram model with the interpolation of Witten and Bell, which has no setting to choose.

        P(c | h) = (n(h c) + t(h) P(c | h')) / (n(h) + t(h))

    `n` are counts, `t(h)` is the number of different tokens seen after the history `h`, and `h'` is `h` without its
    first token. Below single tokens, all tokens except padding and start are equally likely.

    Args:
        train, test: int arrays `(texts, length)`, END included, padding after it.
        vocabulary_size: int. Counts of all triples are kept: about 8 bytes times its cube.

    Returns:
        float: the mean of -log2 P over all tokens of `test` that are not padding.

    Reference: Witten and Bell 1991, "The zero-frequency problem", IEEE Transactions on Information Theory 37(4), method
    C; Chen and Goodman 1998, "An Empirical Study of Smoothing Techniques", section 2.4, for the interpolation.

    Example:

    >>> seen = np.array([[4, 2]] * 999)
    >>> round(trigram_bits(seen, np.array([[4, 2, 0]]), 6), 2), round(trigram_bits(seen, np.array([[5, 2]]), 6), 2)
    (0.0, 16.45)
    """
    counts = np.zeros((vocabulary_size,) * 3)
    np.add.at(counts, _triples(train), 1)
    probabilities = np.full(vocabulary_size, 1 / (vocabulary_size - 2))
    probabilities[[PADDING, START]] = 0
    for axes in ((0, 1), (0,), ()):
        table = counts.sum(axes) if axes else counts
        seen, kinds = table.sum(-1, keepdims=True), (table > 0).sum(-1, keepdims=True)
        # A history that was never seen says nothing: the shorter one stands.
        probabilities = np.where(seen > 0, (table + kinds * probabilities) / np.maximum(seen + kinds, 1), probabilities)
    return float(-np.log2(probabilities[_triples(test)]).mean())


def _triples(texts):
    """For each token of texts, the two before it and the token itself: three arrays."""
    padded = np.pad(texts, ((0, 0), (2, 0)), constant_values=START)
    present = texts != PADDING
    return tuple(padded[:, i : i + texts.shape[1]][present] for i in range(3))
