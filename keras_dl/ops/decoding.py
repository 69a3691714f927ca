"""Decoding: whole sequences from a model that gives one token at a time, by greedy search, beam search or sampling.

A model is a function `step(tokens, position, state) -> (log_probabilities, state)` on rows. Shapes are static, and the
loop is inside the graph. So XLA compiles all three, and the greedy one is a builtin WHILE in LiteRT. Tokens go into a
buffer of fixed size, by a comparison with the position.

    log P(y | x) = sum_t log P(y_t | y_<t, x)
    score(y) = log P(y | x) / lp(y),   lp(y) = ((5 + |y|) / 6)^alpha        (Wu et al., eq. 14, without coverage)

`|y|` counts the end token. Padding is token 0, or another one: it is never chosen and never scored, unless it is the
end token too. A token whose log-probability is NaN counts as impossible. Where no token is left to choose, the score is
minus infinity and no token follows.

Beam search keeps `beam_size` live hypotheses of each sequence. Of all their continuations, those among the first
`beam_size` that end are put aside, and the best `beam_size` that do not end live on. A sequence is complete when
`beam_size` hypotheses have ended. (So a beam of 1 is the greedy search, with any penalty.) After that it does not
change, while others in the batch go on. Hypotheses that reach `max_length` without an end come after those that have
ended.

References: Wu et al. 2016, "Google's Neural Machine Translation System", arXiv:1609.08144, section 7. Sutskever,
Vinyals, Le 2014, arXiv:1409.3215, section 3.2. Gumbel 1954, "Statistical Theory of Extreme Values", for `sample`.

Deviation: Wu et al. prune by the scores of single tokens and of hypotheses that have ended. Here their number is the
only limit.
"""

import math
import numbers
import random
from typing import Any, NamedTuple

import tensorflow as tf

from keras_dl.checks import check_size
from keras_dl.tokens import PADDING


class Hypotheses(NamedTuple):
    """The sequences that a search has written.

    Attributes:
        tokens: int32, `(batch, max_length)`, or `(batch, beam_size, max_length)` with the best hypothesis first. The
            end token is part of it; padding follows.
        lengths: int32, `(batch,)` or `(batch, beam_size)`. Number of tokens, the end token included.
        log_probabilities: float32, in the shape of `lengths`: the sum over the tokens.
        scores: float32, in the shape of `lengths`: `log_probabilities` divided by the length penalty. Where there are
            fewer sequences than `beam_size`, the rest have the score minus infinity and no tokens.
    """

    tokens: Any
    lengths: Any
    log_probabilities: Any
    scores: Any


def length_penalty_of(length, alpha: float):
    """`((5 + length) / 6) ** alpha`: float32, 1 for one token.

    Args:
        length: int, or an int tensor. Number of tokens, the end token included.
        alpha: float.

    Example:

    >>> float(length_penalty_of(7, 1.0))
    2.0
    """
    return tf.pow((5.0 + tf.cast(length, "float32")) / 6.0, alpha)


def repeat(structure, times: int):
    """Repeats each row of each tensor `times` times. Tensors that a step of a beam search captures need this."""
    return tf.nest.map_structure(lambda x: tf.repeat(x, times, axis=0), structure)


def greedy(step, state, start, end: int, max_length: int, padding: int = PADDING) -> Hypotheses:
    """The most probable token at each step, until the end token.

    Args:
        step: `step(tokens, position, state) -> (log_probabilities, state)`. It gets int32 `(batch,)`, the tokens
            before; int32 `(batch,)`, the number of tokens written so far, the same in all rows; and the state. It
            returns float `(batch, vocabulary)`, and the state in the same structure, shapes and dtypes.
        state: nested structure of tensors `(batch, ...)`, at least one.
        start: int, or int `(batch,)`. The token before the first.
        end: int.
        max_length: int. Number of tokens at most, the end token included.
        padding: int. The token that fills up what has ended. It may be `end`.

    Returns:
        `Hypotheses` without an axis for beams. Scores are log-probabilities.

    Raises:
        ValueError: if `max_length` is not a positive integer, or `state` has no tensor.

    Example:

    >>> table = tf.math.log([[0.0, 0.0, 0.1, 0.9], [0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.8, 0.2]])
    >>> best = greedy(lambda tokens, _, state: (tf.gather(table, tokens), state), tf.zeros((1, 1)), 0, 2, 4)
    >>> best.tokens.numpy().tolist(), round(math.exp(best.log_probabilities[0]), 2)
    ([[3, 2, 0, 0]], 0.72)
    """

    def most_probable(log_p, position):
        return tf.argmax(log_p, axis=-1, output_type=tf.int32), tf.reduce_max(log_p, axis=-1)

    return _write(step, state, start, end, max_length, padding, most_probable)


def sample(
    step, state, start, end: int, max_length: int, temperature=1.0, seed=(0, 0), padding: int = PADDING
) -> Hypotheses:
    """Tokens drawn from `p(token) ** (1 / temperature)`, normalized, at each step, until the end token.

    The draw is the token of the largest `log p + temperature * g`, where g is noise of Gumbel's distribution, drawn for
    each token (Gumbel 1954). So there is no division by the temperature, and 0 is the greedy search.

    Args:
        step, state, start, end, max_length: as for `greedy`.
        temperature: float, or a scalar tensor, at least 0.
        seed: int `(2,)`, as `tf.random.stateless_uniform` takes it. Equal seeds give equal draws.
        padding: int, as for `greedy`.

    Returns:
        `Hypotheses` without an axis for beams. Log-probabilities are the model's own, whatever the temperature.

    Raises:
        ValueError: if `max_length` is not a positive integer, or `state` has no tensor.

    Example:

    >>> table = tf.math.log([[0.0, 0.5, 0.1, 0.4]] * 4)
    >>> drawn = sample(lambda tokens, _, state: (tf.gather(table, tokens), state), tf.zeros((2, 1)), 1, 2, 3)
    >>> drawn.tokens.shape
    TensorShape([2, 3])
    """

    def draw(log_p, position):
        # Above 0, where the logarithm is finite.
        uniform = tf.random.stateless_uniform(tf.shape(log_p), tf.random.fold_in(seed, position), 1e-20, 1.0)
        tokens = tf.argmax(log_p - temperature * tf.math.log(-tf.math.log(uniform)), axis=-1, output_type=tf.int32)
        return tokens, tf.gather(log_p, tokens, batch_dims=1)

    return _write(step, state, start, end, max_length, padding, draw)


def seed_pair(seed: int | None):
    """A seed of `sample`, int64 `(2,)`, from an int of at least 0; None for a new one.

    A new one follows `keras.utils.set_random_seed`.
    """
    seed = random.randint(0, 2**31 - 1) if seed is None else check_size("seed", seed, 0)
    return tf.constant([seed, 0], "int64")


def _write(step, state, start, end, max_length, padding, choose):
    """One token per row and step, until all rows have ended: `choose(log_p, position) -> (tokens, their log_p)`."""
    max_length = check_size("max_length", max_length)
    batch = _rows(state)
    columns = tf.range(max_length)

    def unfinished(position, last, tokens, total, finished, state):
        return tf.logical_and(position < max_length, tf.reduce_any(tf.logical_not(finished)))

    def body(position, last, tokens, total, finished, state):
        log_p, state = step(last, tf.fill([batch], position), state)  # (batch, vocabulary)
        chosen, gained = choose(_possible(log_p, padding, end), position)
        if padding != 0:  # the token that is chosen where none is possible
            chosen = tf.where(tf.equal(gained, -math.inf), padding, chosen)
        last = tf.where(finished, padding, chosen)
        total += tf.where(finished, 0.0, gained)
        tokens = tf.where(tf.equal(columns, position), tf.expand_dims(last, -1), tokens)  # (batch, max_length)
        return position + 1, last, tokens, total, tf.logical_or(finished, tf.equal(last, end)), state

    _, _, tokens, total, _, _ = tf.while_loop(
        unfinished,
        body,
        (
            tf.constant(0),
            _first(start, batch),
            tf.fill([batch, max_length], padding),
            tf.fill([batch], 0.0),
            tf.fill([batch], False),
            state,
        ),
    )
    return Hypotheses(tokens, _lengths(tokens, total, padding, end), total, total)


def beam_search(
    step,
    state,
    start,
    end: int,
    beam_size: int,
    max_length: int,
    length_penalty: float = 0.0,
    padding: int = PADDING,
) -> Hypotheses:
    """The `beam_size` best sequences that a beam of that size finds.

    Args:
        step: as for `greedy`, on `batch * beam_size` rows: the beams of a sequence stand together. The state is
            gathered after each step. So a tensor that never changes, such as an encoder's output, should not be in
            the state: let `step` capture it, repeated by `repeat`.
        state: nested structure of tensors `(batch, ...)`, at least one.
        start: int, or int `(batch,)`. The token before the first.
        end: int.
        beam_size: int. May be larger than the vocabulary.
        max_length: int. Number of tokens at most, the end token included.
        length_penalty: float, alpha, at least 0. 0 compares log-probabilities; larger values prefer longer sequences.
        padding: int, as for `greedy`.

    Returns:
        `Hypotheses`. Those that have ended come first; each kind is ordered by falling score.

    Raises:
        ValueError: if `beam_size` or `max_length` is not a positive integer, `length_penalty` is not a number of at
            least 0, `state` has no tensor, or the vocabulary holds nothing but padding.

    Example:

    >>> table = tf.math.log([[0.0, 0.0, 0.1, 0.9], [0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.8, 0.2]])
    >>> best = beam_search(lambda tokens, _, state: (tf.gather(table, tokens), state), tf.zeros((1, 1)), 0, 2, 2, 4)
    >>> best.tokens.numpy().tolist(), [round(math.exp(score), 2) for score in best.scores[0]]
    ([[[3, 2, 0, 0], [2, 0, 0, 0]]], [0.72, 0.1])
    """
    beam_size, max_length = check_size("beam_size", beam_size), check_size("max_length", max_length)
    length_penalty = check_length_penalty(length_penalty)
    batch = _rows(state)
    columns, ranks = tf.range(max_length), tf.range(2 * beam_size)
    nothing = tf.fill([batch, beam_size], -math.inf)
    no_tokens = tf.fill([batch, beam_size, max_length], padding)
    first_rows = tf.expand_dims(tf.range(batch) * beam_size, -1)  # (batch, 1)

    def unfinished(position, last, live, ended, state):
        return tf.logical_and(position < max_length, tf.reduce_any(tf.logical_not(_complete(ended))))

    def body(position, last, live, ended, state):
        log_p, state = step(last, tf.fill([batch * beam_size], position), state)  # (batch * beam_size, vocabulary)
        vocabulary = log_p.shape[-1]
        if vocabulary < 2:
            raise ValueError(f"step gives log-probabilities of {vocabulary} token. It needs padding and another one.")
        log_p = tf.reshape(_possible(log_p, padding, end), [batch, beam_size, vocabulary])
        # (batch, beam_size * vocabulary)
        sums = tf.reshape(tf.expand_dims(live.log_probabilities, -1) + log_p, [batch, beam_size * vocabulary])
        # As each live hypothesis ends in one way, at least `beam_size` of twice as many do not end.
        sums, chosen = tf.math.top_k(sums, 2 * beam_size)  # (batch, 2 * beam_size)
        parent, token = chosen // vocabulary, chosen % vocabulary
        tokens = tf.where(  # (batch, 2 * beam_size, max_length)
            tf.equal(columns, position), tf.expand_dims(token, -1), tf.gather(live.tokens, parent, batch_dims=1)
        )
        ends = tf.equal(token, end)

        ending = tf.logical_and(ends, ranks < beam_size)
        ending = tf.logical_and(ending, tf.expand_dims(tf.logical_not(_complete(ended)), -1))
        scores = tf.where(ending, sums / length_penalty_of(position + 1, length_penalty), -math.inf)
        ended = _best(ended, _Set(tokens, sums, scores), beam_size)

        sums, order = tf.math.top_k(tf.where(ends, -math.inf, sums), beam_size)  # (batch, beam_size)
        live = _Set(tf.gather(tokens, order, batch_dims=1), sums, sums)
        last = tf.reshape(tf.gather(token, order, batch_dims=1), [batch * beam_size])
        rows = tf.reshape(first_rows + tf.gather(parent, order, batch_dims=1), [batch * beam_size])
        state = tf.nest.map_structure(lambda x: tf.gather(x, rows), state)
        return position + 1, last, live, ended, state

    one = tf.where(tf.equal(tf.range(beam_size), 0), 0.0, nothing)  # all beams are the same at first: one is enough
    _, _, live, ended, _ = tf.while_loop(
        unfinished,
        body,
        (
            tf.constant(0),
            _first(start, batch, beam_size),
            _Set(no_tokens, one, one),
            _Set(no_tokens, nothing, nothing),
            repeat(state, beam_size),
        ),
    )
    # Now a sequence that is not complete has live hypotheses of `max_length` tokens. Those that ended come first.
    cut_off = live.log_probabilities / length_penalty_of(max_length, length_penalty)
    scores = tf.concat([ended.scores, cut_off], axis=1)  # (batch, 2 * beam_size)
    kind = tf.where(
        tf.math.is_inf(scores), 0, tf.concat([tf.fill([batch, beam_size], 2), tf.ones_like(one, "int32")], 1)
    )
    _, order = tf.math.top_k(kind, beam_size)  # of equals, the first comes first
    tokens, sums, scores = (
        tf.gather(x, order, batch_dims=1)
        for x in (
            tf.concat([ended.tokens, live.tokens], axis=1),
            tf.concat([ended.log_probabilities, live.log_probabilities], axis=1),
            scores,
        )
    )
    return Hypotheses(tokens, _lengths(tokens, scores, padding, end), sums, scores)


def check_length_penalty(value) -> float:
    """`value` as a float, which must be finite and at least 0."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= value < math.inf:
        raise ValueError(f"length_penalty={value!r} must be a number of at least 0.")
    return float(value)


class _Set(NamedTuple):
    """Hypotheses of a batch: int32 `(batch, n, max_length)` and two of float32 `(batch, n)`."""

    tokens: Any
    log_probabilities: Any
    scores: Any


def _best(ended, others, beam_size):
    """The `beam_size` hypotheses of the best scores of two sets. Of equals, those of the first set."""
    scores, order = tf.math.top_k(tf.concat([ended.scores, others.scores], axis=1), beam_size)
    sums = tf.where(tf.math.is_inf(others.scores), -math.inf, others.log_probabilities)
    tokens, sums = (
        tf.gather(tf.concat(pair, axis=1), order, batch_dims=1)
        for pair in ((ended.tokens, others.tokens), (ended.log_probabilities, sums))
    )
    return _Set(tokens, sums, scores)


def _complete(ended):
    """bool, `(batch,)`: whether `beam_size` hypotheses have ended."""
    return tf.reduce_all(tf.math.is_finite(ended.scores), axis=-1)


def _possible(log_p, padding, end):
    """float32 log-probabilities, minus infinity where they are NaN, and at padding that is not the end too."""
    log_p = tf.cast(log_p, "float32")
    possible = log_p >= -math.inf  # NaN compares as False
    if padding != end:
        possible = tf.logical_and(tf.not_equal(tf.range(log_p.shape[-1]), padding), possible)
    return tf.where(possible, log_p, -math.inf)


def _lengths(tokens, scores, padding, end):
    """int32: tokens of each hypothesis, the end token included."""
    lengths = tf.reduce_sum(tf.cast(tf.not_equal(tokens, padding), "int32"), axis=-1)
    if padding != end:
        return lengths
    # The end token was not counted, where there is one.
    return tf.where(tf.equal(scores, -math.inf), lengths, tf.minimum(lengths + 1, tokens.shape[-1]))


def _first(start, batch, beam_size=1):
    """The tokens before the first ones: int32, `(batch * beam_size,)`."""
    if isinstance(start, numbers.Integral):
        return tf.fill([batch * beam_size], int(start))
    start = tf.cast(start, "int32")
    return start if beam_size == 1 else tf.repeat(start, beam_size)


def _rows(state):
    """The number of rows: an int where it is known."""
    leaves = tf.nest.flatten(state)
    if not leaves:
        raise ValueError("state must hold at least one tensor, whose first axis is the batch.")
    return leaves[0].shape[0] if leaves[0].shape[0] is not None else tf.shape(leaves[0])[0]
