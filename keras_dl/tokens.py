"""Token ids: the id of padding, and the checks of every model that reads tokens.

`check_tokens` checks all of a model's input. The checks after it are its parts. A graph (`fit`, XLA, a device's file)
cannot raise an error for a value. So an id outside the vocabulary is an error if called eagerly, and counts as padding
in a graph. The id is looked at before it is cast: 2**32 + 5 is not 5.

Padding is token 0, except in models that have an argument for it.
"""

import numpy as np
import tensorflow as tf
from keras import ops

from keras_dl.checks import check_size, shape_of, shapes_agree
from keras_dl.compat import is_eager

PADDING = 0


def key_mask(tokens, padding: int = PADDING):
    """bool, `(batch, 1, keys)`: True where a token is not padding, for any query."""
    return ops.expand_dims(ops.not_equal(tokens, padding), 1)


def check_tokens(name: str, tokens, vocabulary_size: int, max_length: int | None = None, padding: int = PADDING):
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
    return known_tokens(name, tokens, vocabulary_size, padding)


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


def check_same_shape(name: str, x, tokens) -> None:
    """Refuses `x`, which goes with the tokens, if it has another shape, as far as both are known.

    Example:

    >>> check_same_shape("segments", [[0, 0]], ops.ones((2, 2)))
    Traceback (most recent call last):
    ...
    ValueError: segments has the shape (1, 2); it must be that of the tokens, (2, 2).
    """
    shape = shape_of(x)
    if shape is not None and not shapes_agree(shape, tokens.shape):
        raise ValueError(f"{name} has the shape {shape}; it must be that of the tokens, {tuple(tokens.shape)}.")


def check_mask(name: str, mask, tokens):
    """`mask` as bool, `(batch, n)`, True = keep.

    Raises:
        ValueError: if `mask` has another shape than the tokens. If called eagerly, also if it holds numbers other than
            0 and 1, as a mask does that is added to scores.

    Example:

    >>> check_mask("mask", [[0.0, -1e9]], ops.ones((1, 2)))
    Traceback (most recent call last):
    ...
    ValueError: mask holds -1e+09; it must be bool, or 0 and 1, where True and 1 keep a token.
    """
    check_same_shape(name, mask, tokens)
    mask = tf.convert_to_tensor(mask)
    if mask.dtype == "bool":
        return mask
    if is_eager(mask):
        values = np.asarray(mask)
        others = values[(values != 0) & (values != 1)]
        if others.size:
            raise ValueError(f"{name} holds {others[0]:g}; it must be bool, or 0 and 1, where True and 1 keep a token.")
    return tf.cast(mask, "bool")


def known_tokens(name: str, tokens, vocabulary_size: int, padding: int = PADDING):
    """`tokens` as int32, in which an id outside the vocabulary counts as padding.

    Raises:
        ValueError: if `tokens` are not int. If called eagerly, also if an id is not one of `0 ... vocabulary_size - 1`.

    Example:

    >>> known_tokens("source", [[1, 9]], vocabulary_size=4)
    Traceback (most recent call last):
    ...
    ValueError: source holds the id 9; the vocabulary has the ids 0 to 3.
    """
    tokens = check_ids(name, tokens)
    # In a dtype that holds the sizes of vocabularies, and the ids as they were given.
    fits = tokens.dtype.size < 4 or tokens.dtype == "int32"
    tokens = tf.cast(tokens, "int32" if fits else "int64")
    known = ops.logical_and(tokens >= 0, tokens < vocabulary_size)
    if is_eager(known) and not bool(ops.all(known)):
        wrong = int(tokens[~known][0])
        raise ValueError(f"{name} holds the id {wrong}; the vocabulary has the ids 0 to {vocabulary_size - 1}.")
    return tf.cast(ops.where(known, tokens, padding), "int32")


def check_token(
    name: str, value: int, vocabulary_size: int, size_name: str = "vocabulary_size", minimum: int = 1
) -> int:
    """`value` as an int, which must be a token of the vocabulary, by default other than 0.

    `size_name` is the name that the size of the vocabulary has in the error.
    """
    value = check_size(name, value, minimum)
    if value >= vocabulary_size:
        raise ValueError(f"{name}={value} must be less than {size_name}={vocabulary_size}.")
    return value


def lengths(tokens, padding: int = PADDING):
    """int32, `(batch,)`: tokens of each row up to its padding at the end. A row of padding counts as one token.

    Example:

    >>> lengths(ops.array([[5, 9, 0], [4, 0, 0]])).numpy()
    array([2, 1], dtype=int32)
    """
    places = ops.arange(1, tokens.shape[1] + 1, dtype="int32")  # (n,)
    return ops.maximum(ops.max(ops.where(ops.not_equal(tokens, padding), places, 0), axis=1), 1)


def last_tokens(tokens, padding: int = PADDING):
    """int32, `(batch,)`: the token in front of each row's padding."""
    places = ops.arange(1, tokens.shape[1] + 1, dtype="int32")  # (n,)
    last = ops.equal(places, ops.expand_dims(lengths(tokens, padding), 1))  # (batch, n)
    return ops.sum(ops.where(last, ops.cast(tokens, "int32"), 0), axis=1)
