"""Pairs of sequences: batches of similar lengths, translation by a model or a file, error rates and a baseline."""

import collections
import types

import numpy as np
import tensorflow as tf

from keras_dl.export.decoding import beam_search
from keras_dl.export.errors import SignatureError
from keras_dl.text import START

# So many batches are drawn together and sorted by length, before they are shuffled again.
SORTED_BATCHES = 64


def batches_of_like_lengths(sources, targets, batch_size, key, multiple=4):
    """One epoch of pairs for `keras_dl.Seq2Seq`, in batches of similar lengths, each cut to its longest sequence.

    With such batches, Sutskever et al. (section 3.4) trained twice as fast. The lengths are multiples of a number, so
    that XLA compiles few steps.

    Args:
        sources, targets: int32 arrays `(pairs, length)`, 0 after the end.
        batch_size: int. The rest that fills no batch is dropped.
        key: int32, `(2,)`: a seed, as `keras_dl.recipes.training.batches.fold_in` returns it; may be symbolic.
        multiple: int. The lengths of batches are multiples of it.

    Returns:
        `tf.data.Dataset` of dicts of `source` and `target`, both `(batch_size, length)`.
    """
    lengths = np.maximum((sources > 0).sum(1), (targets > 0).sum(1)).astype("int32")
    limit = max(sources.shape[1], targets.shape[1])
    count = len(sources) // batch_size
    order = tf.random.experimental.stateless_shuffle(tf.range(len(sources)), key)[: count * batch_size]
    block = tf.range(count * batch_size) // (SORTED_BATCHES * batch_size)
    order = tf.gather(order, tf.argsort(block * (limit + 1) + tf.gather(lengths, order), stable=True))
    order = tf.random.experimental.stateless_shuffle(tf.reshape(order, (count, batch_size)), tf.random.fold_in(key, 1))

    def cut(rows):
        longest = tf.reduce_max(tf.gather(lengths, rows))
        length = (longest + multiple - 1) // multiple * multiple
        return {"source": tf.gather(sources, rows)[:, :length], "target": tf.gather(targets, rows)[:, :length]}

    return tf.data.Dataset.from_tensor_slices(order).map(cut, tf.data.AUTOTUNE)


def translated(serve, tokens, stepped, takes_position=False):
    """Greedy translations by the signatures of a translator.

    An int8 file has no loop, and so no `translate`. Then each step is called from Python, which is slow.

    Args:
        serve: as `Recipe.evaluate` receives it.
        tokens: int32 array `(rows, length)`.
        stepped: int. The number of rows, from the first on, that are translated without `translate`.
        takes_position: bool. Whether `decode_step` takes the position.

    Returns:
        int32 array `(rows, length)`: tokens, 0 after the end.
    """
    try:
        return serve("translate", tokens=tokens)["tokens"]
    except SignatureError:
        tokens = tokens[:stepped]
    # The `signatures` of a runner, as one call of each shows them.
    state, start = serve("encode", tokens=tokens[:1]), np.array([START], "int32")
    fed = {"tokens": start} | state | ({"position": np.zeros_like(start)} if takes_position else {})
    signatures = {
        "encode": {"outputs": _described(state)},
        "decode_step": {"inputs": _described(fed), "outputs": _described(serve("decode_step", **fed))},
    }
    runner = types.SimpleNamespace(serve=serve, signatures=signatures)
    parts = np.array_split(tokens, -(-len(tokens) // 500))
    return np.concatenate([beam_search(runner, part, 1, tokens.shape[1]).tokens[:, 0] for part in parts])


def _described(arrays):
    return {name: {"shape": x.shape} for name, x in arrays.items()}


def calibration_of_translator(serve, sources, takes_position=False):
    """Calibration data of `encode`, and of `decode_step` with the states that greedy search visits.

    Args:
        serve: as `Recipe.calibrate` receives it.
        sources: int32 array `(samples, length)`.
        takes_position: bool. Whether `decode_step` takes the position.

    Returns:
        dict by signature of lists of single rows: as many for `decode_step` as for `encode`, at all positions.
    """
    state, last, steps = serve("encode", tokens=sources), np.full(len(sources), START, "int32"), []
    for position in range(sources.shape[1]):
        fed = {"tokens": last} | ({"position": np.full_like(last, position)} if takes_position else {}) | state
        steps += [{name: x[i : i + 1] for name, x in fed.items()} for i in range(position, len(last), sources.shape[1])]
        outputs = serve("decode_step", **fed)
        last = outputs["log_probabilities"].argmax(-1).astype("int32")
        state = {name: outputs.get(name, x) for name, x in state.items()}
    tokens = [{"tokens": row[None]} for row in sources]
    return {"encode": tokens, "decode_step": steps, "translate": tokens}


def edit_distance(predicted, expected):
    """The smallest number of insertions, deletions and replacements that turn `expected` into `predicted`: int.

    Example:

    >>> edit_distance("kitten", "sitting")
    3
    """
    row = list(range(len(expected) + 1))
    for i, a in enumerate(predicted, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(expected, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


def error_rates(predicted, references):
    """Edits from sequences to the nearest of their references, and the share of wrong sequences.

    Args:
        predicted: sequence of sequences.
        references: sequence of sequences of right answers, at least one for each prediction.

    Returns:
        Two floats: the edits as a share of the length of the nearest references, over all sequences together; and the
        share of sequences that equal none of their references.

    Example:

    >>> error_rates(["abc", "xyz"], [["abd", "abcd"], ["xyz"]])
    (0.14285714285714285, 0.5)
    """
    edits = length = wrong = 0
    for sequence, answers in zip(predicted, references, strict=True):
        distance, size = min((edit_distance(sequence, answer), -len(answer)) for answer in answers)
        edits, length, wrong = edits + distance, length - size, wrong + (distance > 0)
    return edits / length, wrong / len(predicted)


def letter_baseline(pairs, iterations=4, widest=2):
    """The most frequent symbols of the target for each symbol of a source, by counts over alignments.

    Each symbol of a source is aligned with 0 to `widest` symbols of the target, in order. The most likely alignment of
    each pair under the counts so far gives the next counts. The first alignment uses how often two symbols are in a
    pair together.

    Args:
        pairs: sequence of `(source, target)`: strings, or tuples of symbols.
        iterations: int.
        widest: int.

    Returns:
        dict of tuples by symbol.

    Example:

    >>> letter_baseline([("ab", "xy"), ("b", "y"), ("aca", "xx")])
    {'a': ('x',), 'b': ('y',), 'c': ()}
    """
    together, single = collections.Counter(), collections.Counter()
    for source, target in pairs:
        single.update(("source", symbol) for symbol in set(source))
        single.update(("target", symbol) for symbol in set(target))
        together.update((a, b) for a in set(source) for b in set(target))

    def cost(symbol, piece):
        """1 less Dice's coefficient: 0 for two symbols that always come together, 1 for two that never do. And 1 more
        for each symbol above or below one."""
        likeness = [2 * together[symbol, x] / (single["source", symbol] + single["target", x]) for x in piece]
        return 1.0 + abs(len(piece) - 1) - (sum(likeness) / len(likeness) if piece else 0.0)

    for _ in range(iterations):
        counts = {}
        for source, target in pairs:
            for symbol, piece in _aligned(source, tuple(target), cost, widest):
                counts.setdefault(symbol, {}).setdefault(piece, 0)
                counts[symbol][piece] += 1
        costs = {
            symbol: {piece: -np.log(n / sum(pieces.values())) for piece, n in pieces.items()}
            for symbol, pieces in counts.items()
        }
        cost = lambda symbol, piece, costs=costs: costs.get(symbol, {}).get(piece, 20.0)  # noqa: E731
    return {symbol: min(pieces, key=pieces.get) for symbol, pieces in sorted(costs.items())}


def _aligned(source, target, cost, widest):
    """The cheapest `[(symbol, piece of the target)]`; empty if the target is too long for the source."""
    best = {0: (0.0, ())}  # by the number of target symbols written: cost, and the pieces as a linked list
    for symbol in source:
        following = {}
        for written, (price, path) in best.items():
            for width in range(min(widest, len(target) - written) + 1):
                piece = target[written : written + width]
                total = price + cost(symbol, piece)
                if written + width not in following or total < following[written + width][0]:
                    following[written + width] = (total, (path, piece))
        best = following
    if len(target) not in best:
        return []
    pieces, path = [], best[len(target)][1]
    while path:
        path, piece = path
        pieces.append(piece)
    return list(zip(source, reversed(pieces), strict=True))
