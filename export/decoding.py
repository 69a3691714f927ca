"""Beam search over the signatures of a model or file, for Python programs on a device.

The search itself needs only NumPy. It works for any model that serves these two signatures:

    encode(tokens: int32, (batch, source_length)) -> {state: tensor (batch, ...)}
    decode_step(tokens: int32, (batch,); position: int32, (batch,); states) -> {"log_probabilities": float,
                                                                     (batch, vocabulary); new states}

`tokens` of `decode_step` are the tokens before the next ones. `position`, which is optional, is the number of tokens
written so far. Each state that `encode` returns and `decode_step` takes is passed on by its name. An output of
`decode_step` with the name of an input is its next value. Other inputs keep their values. If a step takes `position`
and a cache `keys`, the second to last axis of `keys` is the number of places, and the search cannot be longer.

The search is that of `keras_dl.ops.decoding`, whose docstring has its rules and the length penalty.
"""

import math
import numbers
from typing import NamedTuple

import numpy as np

from keras_dl.tokens import PADDING


class Hypotheses(NamedTuple):
    """The sequences that the search found, the best one of each row first.

    Attributes:
        tokens: int32, `(batch, beam_size, max_length)`. The end token is part of it; 0 follows.
        lengths: int32, `(batch, beam_size)`. Number of tokens, the end token included.
        log_probabilities: float32, `(batch, beam_size)`: the sum over the tokens.
        scores: float32, `(batch, beam_size)`: `log_probabilities` divided by the length penalty. If there are fewer
            sequences than `beam_size`, the rest have the score minus infinity and no tokens. A token whose
            log-probability is NaN is never chosen.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    log_probabilities: np.ndarray
    scores: np.ndarray


def beam_search(
    runner,
    tokens,
    beam_size: int,
    max_length: int,
    start: int = 1,
    end: int = 2,
    length_penalty: float = 0.0,
    encode: str = "encode",
    decode_step: str = "decode_step",
) -> Hypotheses:
    """Finds the best sequences for source tokens.

    Args:
        runner: `keras_dl.export.Runner` of a model or file, or any object with its `signatures` and `serve`.
        tokens: int, `(batch, source_length)`, as `encode` takes them; any number of rows.
        beam_size: int. May be larger than the vocabulary. 1 is the greedy search.
        max_length: int. Maximum number of tokens, the end token included. At most the places of a static cache.
        start: int, in [0, vocabulary). The token before the first.
        end: int, in [1, vocabulary).
        length_penalty: float, at least 0.
        encode: str. Name of the signature `encode`.
        decode_step: str. Name of the signature `decode_step`.

    Returns:
        `Hypotheses`. Those that have ended come first. Both groups are in the order of descending scores.

    Raises:
        ValueError: if an argument has a wrong value, or the signatures do not match. Also if `encode` is a signature
            that reads a prompt, such as `prefill` of `TransformerLM`: this search starts at position 0.
    """
    for name, value in (("beam_size", beam_size), ("max_length", max_length)):
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
            raise ValueError(f"{name}={value!r} must be an integer of at least 1.")
    if not isinstance(length_penalty, numbers.Real) or not 0 <= length_penalty < math.inf:
        raise ValueError(f"length_penalty={length_penalty!r} must be a number of at least 0.")
    tokens = np.asarray(tokens)
    if tokens.ndim != 2 or not tokens.size:
        raise ValueError(f"tokens has the shape {tokens.shape}; it must be (batch, source_length), and not empty.")
    if not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(f"tokens has the dtype {tokens.dtype}; it must be int.")
    batch = len(tokens)
    _check(runner, encode, decode_step, max_length, start, end)
    state, takes_position = _begin(runner, tokens.astype("int32"), encode, decode_step)
    state = {name: np.repeat(x, beam_size, axis=0) for name, x in state.items()}

    last = np.full(batch * beam_size, start, "int32")
    live_tokens = np.full((batch, beam_size, max_length), PADDING, "int32")
    live = np.full((batch, beam_size), -math.inf, "float32")
    live[:, 0] = 0.0  # all beams are the same at first: one is enough
    ended_tokens, ended = live_tokens.copy(), np.full_like(live, -math.inf)
    ended_scores = ended.copy()

    for position in range(max_length):
        complete = np.isfinite(ended_scores).all(1)
        if complete.all():
            break
        fed = {"tokens": last} | ({"position": np.full_like(last, position)} if takes_position else {})
        outputs = runner.serve(decode_step, **fed, **state)
        log_p = outputs["log_probabilities"].astype("float32").reshape(batch, beam_size, -1)
        vocabulary = log_p.shape[-1]
        log_p[np.isnan(log_p)] = -math.inf
        log_p[..., PADDING] = -math.inf
        sums = (live[..., None] + log_p).reshape(batch, -1)  # (batch, beam_size * vocabulary)
        chosen = _top(sums, 2 * beam_size)  # (batch, 2 * beam_size)
        sums = np.take_along_axis(sums, chosen, 1)
        parent, token = chosen // vocabulary, (chosen % vocabulary).astype("int32")
        sequences = np.take_along_axis(live_tokens, parent[..., None], 1)  # (batch, 2 * beam_size, max_length)
        sequences[:, :, position] = token

        ends = token == end
        ending = ends & (np.arange(2 * beam_size) < beam_size) & ~complete[:, None] & np.isfinite(sums)
        scores = np.where(ending, sums / _penalty(position + 1, length_penalty), -math.inf).astype("float32")
        ended_tokens, ended, ended_scores = _best(
            (ended_tokens, ended, ended_scores), (sequences, np.where(ending, sums, -math.inf), scores), beam_size
        )

        order = _top(np.where(ends, -math.inf, sums), beam_size)
        live = np.take_along_axis(np.where(ends, -math.inf, sums), order, 1)
        live_tokens = np.take_along_axis(sequences, order[..., None], 1)
        last = np.take_along_axis(token, order, 1).ravel()
        rows = (np.arange(batch)[:, None] * beam_size + np.take_along_axis(parent, order, 1)).ravel()
        state |= {name: outputs[name][rows] for name in state if name in outputs}

    cut_off = (live / _penalty(max_length, length_penalty)).astype("float32")
    scores = np.concatenate([ended_scores, cut_off], 1)
    kind = np.where(np.isinf(scores), 0, np.repeat([2, 1], beam_size))
    order = _top(kind, beam_size)
    tokens = np.take_along_axis(np.concatenate([ended_tokens, live_tokens], 1), order[..., None], 1)
    sums = np.take_along_axis(np.concatenate([ended, live], 1), order, 1)
    lengths = (tokens != PADDING).sum(-1).astype("int32")
    return Hypotheses(tokens, lengths, sums.astype("float32"), np.take_along_axis(scores, order, 1))


def _check(runner, encode, decode_step, max_length, start, end):
    """Refuses signatures that do not support the search, or have no room for `max_length` tokens."""
    for name in (encode, decode_step):
        if name not in runner.signatures:
            raise ValueError(f"There is no signature {name!r}. Choose one of: {', '.join(runner.signatures)}.")
    inputs, outputs = (runner.signatures[decode_step][kind] for kind in ("inputs", "outputs"))
    if "log_probabilities" not in outputs:
        raise ValueError(f"The signature {decode_step!r} has no output 'log_probabilities'.")
    vocabulary = outputs["log_probabilities"]["shape"][-1]
    for name, token, minimum in (("start", start, 0), ("end", end, 1)):
        whole = isinstance(token, numbers.Integral) and not isinstance(token, bool)
        if not whole or not minimum <= token < vocabulary:
            raise ValueError(f"{name}={token!r} must be an id in [{minimum}, {vocabulary}), the vocabulary.")
    if "position" in inputs and "keys" in inputs:
        places = inputs["keys"]["shape"][-2]
        if max_length > places:
            raise ValueError(f"max_length={max_length} must be at most {places}, the places of the file's cache.")
        if "length" in runner.signatures[encode]["outputs"]:
            raise ValueError(
                f"encode={encode!r} goes on from the prompt that it reads, and this search starts at position 0. "
                "Use a signature 'generate', or the model's own beam_search."
            )


def _begin(runner, tokens, encode, decode_step):
    """The states before the first step, and whether a step takes the position."""
    wanted = set(runner.signatures[decode_step]["inputs"])
    outputs = runner.serve(encode, tokens=tokens)
    missing = sorted(wanted - {"tokens", "position"} - set(outputs))
    if missing:
        raise ValueError(f"The signature {decode_step!r} takes {', '.join(missing)}, which {encode!r} does not return.")
    return {name: x for name, x in outputs.items() if name in wanted}, "position" in wanted


def _penalty(length, alpha):
    return np.float32(((5.0 + length) / 6.0) ** alpha)


def _top(values, count):
    """The indices of the `count` largest values of each row. Equal values keep their order."""
    return np.argsort(-values, axis=1, kind="stable")[:, :count]


def _best(ended, others, beam_size):
    merged = [np.concatenate(pair, axis=1) for pair in zip(ended, others, strict=True)]
    order = _top(merged[2], beam_size)
    tokens, sums, scores = merged
    return (
        np.take_along_axis(tokens, order[..., None], 1),
        np.take_along_axis(sums, order, 1),
        np.take_along_axis(scores, order, 1),
    )
