"""Embeddings of a sequence: vectors of tokens, of segments and of positions.

    E(t)          = sqrt(d) table[t],   logits = x table^T              tied embedding (section 3.4)
    P(pos, 2i)    = sin(pos / 10000^(2i / d)),   P(pos, 2i + 1) = cos(pos / 10000^(2i / d))       (section 3.5)

Reference: Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_dl.base import Layer
from keras_dl.checks import asserted
from keras_dl.tokens import known_tokens


def sinusoids(length, dim):
    """The positions of section 3.5: NumPy float32, `(length, dim)`; even columns are sines, odd ones cosines.

    Args:
        length: int.
        dim: int. For an odd one, the last column is a sine.

    Example:

    >>> [[round(float(x), 3) for x in row] for row in sinusoids(2, 4)]
    [[0.0, 1.0, 0.0, 1.0], [0.841, 0.54, 0.01, 1.0]]
    """
    angles = np.arange(length)[:, None] / 10_000 ** (np.arange(0, dim, 2) / dim)
    table = np.empty((length, dim))
    table[:, 0::2], table[:, 1::2] = np.sin(angles), np.cos(angles)[:, : dim // 2]
    return table.astype("float32")


@keras.saving.register_keras_serializable(package="keras_dl")
class TokenEmbedding(Layer):
    """A table of one vector a token, which also turns vectors into logits of tokens.

    Args:
        vocabulary_size: int.
        dim: int. Width of a vector.
        scaled: bool. True multiplies vectors by `sqrt(dim)`, and begins with a standard deviation of `dim ** -0.5`;
            False leaves them, and begins with 0.02.
        initial_range: float, or None. The table begins uniform in plus and minus this, in the place of normal.

    Call arguments:
        tokens: int, `(batch, n)`. An id outside of the vocabulary counts as padding, and eagerly raises an error. In
            reverse: float, `(batch, n, dim)`.
        reverse: bool. Whether vectors are turned into logits, as by `logits`: as a call, for models of Keras's inputs
            and outputs, where a clone then has one table for both.

    Returns:
        float, `(batch, n, dim)`; in reverse float32, `(batch, n, vocabulary_size)`.
    """

    def __init__(self, vocabulary_size, dim, scaled=True, initial_range=None, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.dim = dim
        self.scaled = scaled
        self.initial_range = initial_range

    def build(self, tokens_shape):
        initializer = keras.initializers.RandomNormal(stddev=self.dim**-0.5 if self.scaled else 0.02)
        if self.initial_range is not None:
            initializer = keras.initializers.RandomUniform(-self.initial_range, self.initial_range)
        self.embeddings = self.add_weight(
            shape=(self.vocabulary_size, self.dim), initializer=initializer, name="embeddings"
        )

    def call(self, tokens, reverse=False):
        if reverse:
            return self.logits(tokens)
        tokens = known_tokens("tokens", tokens, self.vocabulary_size)
        vectors = ops.take(ops.cast(self.embeddings, self.compute_dtype), tokens, axis=0)
        return vectors * self.dim**0.5 if self.scaled else vectors

    def compute_output_shape(self, tokens_shape, reverse=False):
        return (*tokens_shape[:-1], self.vocabulary_size) if reverse else (*tokens_shape, self.dim)

    def compute_output_spec(self, tokens, reverse=False):
        # Of the shape alone, Keras would not see that logits are float32.
        dtype = "float32" if reverse else self.compute_dtype
        return keras.KerasTensor(self.compute_output_shape(tokens.shape, reverse), dtype)

    def logits(self, states):
        """The tied softmax's input: float32, `(..., vocabulary_size)`, of `(..., dim)`."""
        table = ops.cast(self.embeddings, self.compute_dtype)
        return ops.cast(ops.matmul(states, ops.transpose(table)), "float32")


@keras.saving.register_keras_serializable(package="keras_dl")
class Positions(Layer):
    """Adds to each vector that of its place: sinusoids by formula, or learned.

    Args:
        max_length: int. Places that there are.
        learned: bool.

    Call arguments:
        states: float, `(batch, n, width)`.
        position: None, for the places 0 to n - 1; or int, `(batch,)`: the one place of each row, where n is 1. A place
            that there is not counts as the nearest.

    Returns:
        float, the shape of `states`.

    Raises:
        ValueError: if n is known to be 0, or more than `max_length`.
        tf.errors.InvalidArgumentError: if a graph finds it to be when it runs; under XLA without words of its own.
    """

    def __init__(self, max_length, learned=False, **kwargs):
        super().__init__(**kwargs)
        self.max_length = max_length
        self.learned = learned

    def build(self, states_shape):
        width = states_shape[-1]
        if self.learned:
            self.table = self.add_weight(
                shape=(self.max_length, width), initializer=keras.initializers.RandomNormal(stddev=0.02), name="table"
            )
        else:
            self.table = sinusoids(self.max_length, width)

    def call(self, states, position=None):
        table = ops.cast(self.table, self.compute_dtype)
        if position is not None:
            place = ops.clip(position, 0, self.max_length - 1)
            return states + ops.expand_dims(ops.take(table, place, axis=0), 1)
        length = states.shape[1]
        too_long = f"longer than the {self.max_length} positions of {self.name}."
        if length is None:
            found = tf.shape(states)[1]
            fits = tf.logical_and(found > 0, found <= self.max_length)
            states = asserted(states, fits, f"a sequence has no token, or is {too_long}")
        elif length == 0:  # nothing to attend to, and no cache to begin
            raise ValueError(f"a sequence has no place for a token; {self.name} needs one at least.")
        elif length > self.max_length:
            raise ValueError(f"a sequence of {length} tokens is {too_long}")
        return states + table[: ops.shape(states)[1]]


@keras.saving.register_keras_serializable(package="keras_dl")
class SegmentEmbedding(Layer):
    """Adds one learned vector to each token of a segment.

    Args:
        num_segments: int.

    Call arguments:
        states: float, `(batch, n, width)`.
        segments: int, `(batch, n)`; one that there is not counts as the nearest. None for segment 0 throughout.
    """

    def __init__(self, num_segments, **kwargs):
        super().__init__(**kwargs)
        self.num_segments = num_segments

    def build(self, states_shape):
        self.table = self.add_weight(
            shape=(self.num_segments, states_shape[-1]),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="table",
        )

    def call(self, states, segments=None):
        table = ops.cast(self.table, self.compute_dtype)
        if segments is None:
            return states + table[0]
        return states + ops.take(table, ops.clip(ops.cast(segments, "int32"), 0, self.num_segments - 1), axis=0)
