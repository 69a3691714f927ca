"""Token ids: the id of padding, and the checks of every model that reads tokens.

`check_tokens` checks all of a model's input. The checks after it are its parts. A graph (`fit`, XLA, a device's file)
cannot raise an error for a value. So an id outside the vocabulary is an error if called eagerly, and counts as padding
in a graph.
"""

import tensorflow as tf
from keras import ops

from keras_dl.checks import check_size
from keras_dl.compat import is_eager

PADDING = 0


def key_mask(tokens):
    """bool, `(batch, 1, keys)`: True where a token is not padding, for any query."""
    return ops.expand_dims(ops.not_equal(tokens, PADDING), 1)


def check_tokens(name: str, tokens, vocabulary_size: int, max_length: int | None = None):
    """`tokens` as an int32 tensor `(batch, n)`, in which an id outside the vocabulary counts as padding.

    Raises:
        ValueError: if `tokens` are not int or have another shape, if there is no row, or if n is 0 or more than
            `max_length`. If called eagerly, also if an id is not in the vocabulary.

    Example:

    >>> check_tokens("source", [[1, 2, 3]], vocabulary_size=9, max_length=2)
    Traceback (most recent call last):
    ...
    ValueError: source of shape (1, 3) must have 1 to 2 tokens in each row.
    """
    tokens = check_ids(name, tokens)
    check_sequences(name, tokens)
    rows, length = tokens.shape
    if rows == 0:
        raise ValueError(f"{name} of shape {tuple(tokens.shape)} must have at least one row.")
    if length is not None and max_length is not None and length > max_length:
        raise ValueError(f"{name} of shape {tuple(tokens.shape)} must have 1 to {max_length} tokens in each row.")
    return known_tokens(name, tokens, vocabulary_size)


def check_ids(name: str, tokens):
    """`tokens` as a tensor, which must have an int dtype. Floats would be cut down to other tokens.

    Example:

    >>> check_ids("tokens", [1.5])
    Traceback (most recent call last):
    ...
    ValueError: tokens has the dtype float32; it must be int.
    """
    tokens = tf.convert_to_tensor(tokens)
    if not tokens.dtype.is_integer:
        raise ValueError(f"{name} has the dtype {tokens.dtype.name}; it must be int.")
    return tokens


def check_sequences(name: str, tokens) -> None:
    """Refuses tokens that are not `(batch, n)`, a single row for example, and sequences of length 0.

    Example:

    >>> check_sequences("source", ops.zeros((2, 0)))
    Traceback (most recent call last):
    ...
    ValueError: source of shape (2, 0) has no place for a token. It needs at least one.
    """
    if len(tokens.shape) != 2:
        raise ValueError(f"{name} of shape {tuple(tokens.shape)} must be (batch, n).")
    if tokens.shape[1] == 0:
        raise ValueError(f"{name} of shape {tuple(tokens.shape)} has no place for a token. It needs at least one.")


def known_tokens(name: str, tokens, vocabulary_size: int):
    """`tokens` as int32, in which an id outside the vocabulary counts as padding.

    Raises:
        ValueError: if called eagerly, and an id is not one of `0 ... vocabulary_size - 1`.

    Example:

    >>> known_tokens("source", [[1, 9]], vocabulary_size=4)
    Traceback (most recent call last):
    ...
    ValueError: source holds the id 9; the vocabulary has the ids 0 to 3.
    """
    tokens = ops.cast(tokens, "int32")
    known = ops.logical_and(tokens >= 0, tokens < vocabulary_size)
    if is_eager(known) and not bool(ops.all(known)):
        wrong = int(tokens[~known][0])
        raise ValueError(f"{name} holds the id {wrong}; the vocabulary has the ids 0 to {vocabulary_size - 1}.")
    return ops.where(known, tokens, PADDING)


def check_token(name: str, value: int, vocabulary_size: int, size_name: str = "vocabulary_size") -> int:
    """`value` as an int, which must be a token of the vocabulary other than padding.

    `size_name` is the name that the size of the vocabulary has in the error.
    """
    value = check_size(name, value)
    if value >= vocabulary_size:
        raise ValueError(f"{name}={value} must be less than {size_name}={vocabulary_size}.")
    return value


def lengths(tokens):
    """int32, `(batch,)`: tokens of each row up to its padding at the end. A row of padding counts as one token.

    Example:

    >>> lengths(ops.array([[5, 9, 0], [4, 0, 0]])).numpy()
    array([2, 1], dtype=int32)
    """
    places = ops.arange(1, tokens.shape[1] + 1, dtype="int32")  # (n,)
    return ops.maximum(ops.max(ops.where(ops.not_equal(tokens, PADDING), places, 0), axis=1), 1)


def last_tokens(tokens):
    """int32, `(batch,)`: the token in front of each row's padding."""
    places = ops.arange(1, tokens.shape[1] + 1, dtype="int32")  # (n,)
    last = ops.equal(places, ops.expand_dims(lengths(tokens), 1))  # (batch, n)
    return ops.sum(ops.where(last, ops.cast(tokens, "int32"), 0), axis=1)
