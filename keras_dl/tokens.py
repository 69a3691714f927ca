"""Token ids: the id of padding, and the checks of every model that reads tokens."""

import tensorflow as tf
from keras import ops

from keras_dl.checks import check_size
from keras_dl.compat import is_eager

PADDING = 0


def key_mask(tokens):
    """bool, `(batch, 1, keys)`: True where a token is not padding, for any query."""
    return ops.expand_dims(ops.not_equal(tokens, PADDING), 1)


def check_ids(name, tokens):
    """`tokens` as a tensor, which must be of an int dtype: floats would be cut down to other tokens.

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


def check_rank(name, tokens):
    """Refuses tokens that are not `(batch, n)`: a single row, for example."""
    if len(tokens.shape) != 2:
        raise ValueError(f"{name} of shape {tuple(tokens.shape)} must be (batch, n).")


def check_places(name, tokens):
    """Refuses sequences of length 0."""
    if 0 in tokens.shape[1:]:
        raise ValueError(f"{name} of shape {tuple(tokens.shape)} has no place for a token. It needs at least one.")


def known_tokens(name, tokens, vocabulary_size):
    """`tokens` as int32, in which an id outside of the vocabulary counts as padding.

    A graph (`fit`, XLA, a file on a device) cannot raise an error for a value; called eagerly, this does.

    Raises:
        ValueError: eagerly, if an id is not one of `0 ... vocabulary_size - 1`.

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


def check_token(name, value, vocabulary_size):
    """`value` as an int, which must be a token of the vocabulary other than padding."""
    value = check_size(name, value)
    if value >= vocabulary_size:
        raise ValueError(f"{name}={value} must be less than vocabulary_size={vocabulary_size}.")
    return value


def check_tokens(name, tokens, vocabulary_size, max_length=None):
    """`tokens` as an int32 tensor, `(batch, n)`, checked by value.

    Raises:
        ValueError: if tokens are not int or have another shape, if n is 0 or more than `max_length`, or if an id is not
            in the vocabulary.
    """
    tokens = check_ids(name, tokens)
    check_rank(name, tokens)
    if 0 in tokens.shape or (max_length is not None and tokens.shape[1] > max_length):
        many = "at least one token" if max_length is None else f"1 to {max_length} tokens"
        raise ValueError(f"{name} of shape {tuple(tokens.shape)} must have a row, and {many} in it.")
    return known_tokens(name, tokens, vocabulary_size)
