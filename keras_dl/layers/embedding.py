"""Embeddings of a sequence: vectors of tokens, of segments and of positions.

    E(t)          = sqrt(d) table[t],   logits = x table^T              tied embedding (section 3.4)
    P(pos, 2i)    = sin(pos / 10000^(2i / d)),   P(pos, 2i + 1) = cos(pos / 10000^(2i / d))       (section 3.5)

Reference: Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_dl.arguments import Size, arguments
from keras_dl.base import Layer
from keras_dl.checks import asserted
from keras_dl.initializers import new_initializer
from keras_dl.inputs import as_integers
from keras_dl.tokens import known_tokens


def sinusoids(length: int, dim: int) -> np.ndarray:
    """The positions of section 3.5: even columns are sines, odd columns are cosines.

    Args:
        length: int.
        dim: int. If it is odd, the last column is a sine.

    Returns:
        NumPy float32, `(length, dim)`, in [-1, 1].

    Example:

    >>> [[round(float(x), 3) for x in row] for row in sinusoids(2, 4)]
    [[0.0, 1.0, 0.0, 1.0], [0.841, 0.54, 0.01, 1.0]]
    """
    angles = np.arange(length)[:, None] / 10_000 ** (np.arange(0, dim, 2) / dim)  # (length, ceil(dim / 2))
    table = np.empty((length, dim))
    table[:, 0::2], table[:, 1::2] = np.sin(angles), np.cos(angles)[:, : dim // 2]
    return table.astype("float32")


@keras.saving.register_keras_serializable(package="keras_dl")
class TokenEmbedding(Layer):
    """A table with one vector per token, which also turns vectors into logits of tokens.

    Args:
        vocabulary_size: int.
        dim: int. Width of a vector.
        scaled: bool. Whether vectors are multiplied by `sqrt(dim)`.
        initializer: as Keras takes it. None for a normal distribution with a deviation of `dim ** -0.5` if scaled, else
            of 0.02.

    Call arguments:
        tokens: int, `(batch, n)`. An id outside of the vocabulary raises an error eagerly, and counts as padding in a
            graph. With `reverse`: float, `(batch, n, dim)`.
        reverse: bool. Whether to turn vectors into logits, as `logits` does. A functional model needs it as a call: a
            clone then has one table for both directions.

    Returns:
        float, `(batch, n, dim)`; with `reverse` float32, `(batch, n, vocabulary_size)`.

    Raises:
        ValueError: if an argument is out of its range; eagerly also if an id is not in the vocabulary.

    Example:

    >>> embedding = TokenEmbedding(vocabulary_size=10, dim=4)
    >>> vectors = embedding(ops.array([[1, 9, 0]]))
    >>> vectors.shape, embedding.logits(vectors).shape
    (TensorShape([1, 3, 4]), TensorShape([1, 3, 10]))
    """

    @arguments
    def __init__(
        self,
        vocabulary_size: Size,
        dim: Size,
        scaled: bool = True,
        initializer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)

    def build(self, tokens_shape):
        normal = keras.initializers.RandomNormal(stddev=self.dim**-0.5 if self.scaled else 0.02)
        initializer = normal if self.initializer is None else new_initializer(self.initializer)
        self.embeddings = self.add_weight(
            shape=(self.vocabulary_size, self.dim), initializer=initializer, name="embeddings"
        )

    def call(self, tokens, reverse=False):
        if reverse:
            return self.logits(tokens)
        tokens = known_tokens("tokens", tokens, self.vocabulary_size)
        vectors = ops.take(ops.cast(self.embeddings, self.compute_dtype), tokens, axis=0)  # (batch, n, dim)
        return vectors * self.dim**0.5 if self.scaled else vectors

    def compute_output_shape(self, tokens_shape, reverse=False):
        return (*tokens_shape[:-1], self.vocabulary_size) if reverse else (*tokens_shape, self.dim)

    def compute_output_spec(self, tokens, reverse=False):
        # From only the shape, Keras would not see that logits are float32.
        dtype = "float32" if reverse else self.compute_dtype
        return keras.KerasTensor(self.compute_output_shape(tokens.shape, reverse), dtype)

    def logits(self, states):
        """Logits of the tied softmax: from `(..., dim)` to float32, `(..., vocabulary_size)`."""
        table = ops.cast(self.embeddings, self.compute_dtype)
        return ops.cast(ops.matmul(states, ops.transpose(table)), "float32")


@keras.saving.register_keras_serializable(package="keras_dl")
class Positions(Layer):
    """Adds to each vector the embedding of its position: sinusoids, or learned.

    Args:
        max_length: int. Number of positions.
        learned: bool. False for sinusoids.
        initializer: as Keras takes it, of learned positions. None for a normal distribution with a deviation of 0.02.

    Call arguments:
        states: float, `(batch, n, width)`.
        position: None, for the positions 0 to n - 1; or int, `(batch,)`: the position of each row, where n is 1. A
            position out of range counts as the nearest in range.

    Returns:
        float, the shape of `states`.

    Raises:
        ValueError: if n is known to be 0, or more than `max_length`.
        tf.errors.InvalidArgumentError: if a graph sees such an n only when it runs. Under XLA the message is another.

    Example:

    >>> Positions(max_length=16)(ops.zeros((1, 1, 4))).numpy().tolist()
    [[[0.0, 1.0, 0.0, 1.0]]]
    """

    @arguments
    def __init__(self, max_length: Size, learned: bool = False, initializer=None, **kwargs):
        super().__init__(**kwargs)

    def build(self, states_shape):
        width = states_shape[-1]
        if self.learned:
            normal = keras.initializers.RandomNormal(stddev=0.02)
            initializer = normal if self.initializer is None else new_initializer(self.initializer)
            self.table = self.add_weight(shape=(self.max_length, width), initializer=initializer, name="table")
        else:
            self.table = sinusoids(self.max_length, width)

    def call(self, states, position=None):
        table = ops.cast(self.table, self.compute_dtype)  # (max_length, width)
        if position is not None:
            position = ops.clip(position, 0, self.max_length - 1)
            return states + ops.expand_dims(ops.take(table, position, axis=0), 1)  # (batch, 1, width)
        length = states.shape[1]
        too_long = f"longer than the {self.max_length} positions of {self.name}."
        if length is None:
            length = tf.shape(states)[1]
            fits = tf.logical_and(length > 0, length <= self.max_length)
            states = asserted(states, fits, f"a sequence has no token, or is {too_long}")
        elif length == 0:  # there is nothing to attend to, or to begin a cache with
            raise ValueError(f"a sequence has no place for a token; {self.name} needs one at least.")
        elif length > self.max_length:
            raise ValueError(f"a sequence of {length} tokens is {too_long}")
        return states + table[: ops.shape(states)[1]]


@keras.saving.register_keras_serializable(package="keras_dl")
class SegmentEmbedding(Layer):
    """Adds one learned vector to each token of a segment.

    Args:
        num_segments: int. Kinds of tokens, such as those of a first and of a second sentence.
        initializer: as Keras takes it. None for a normal distribution with a deviation of 0.02.

    Call arguments:
        states: float, `(batch, n, width)`.
        segments: int, `(batch, n)`. A segment out of range counts as the nearest in range. None for segment 0
            everywhere.

    Returns:
        float, `(batch, n, width)`.

    Raises:
        ValueError: if `num_segments` is less than 1, or segments are not int.

    Example:

    >>> SegmentEmbedding(2)(ops.ones((1, 3, 4)), ops.array([[0, 0, 1]])).shape
    TensorShape([1, 3, 4])
    """

    @arguments
    def __init__(self, num_segments: Size, initializer=None, **kwargs):
        super().__init__(**kwargs)

    def build(self, states_shape):
        normal = keras.initializers.RandomNormal(stddev=0.02)
        initializer = normal if self.initializer is None else new_initializer(self.initializer)
        shape = (self.num_segments, states_shape[-1])
        self.table = self.add_weight(shape=shape, initializer=initializer, name="table")

    def call(self, states, segments=None):
        table = ops.cast(self.table, self.compute_dtype)  # (num_segments, width)
        if segments is None:
            return states + table[0]
        segments = ops.clip(as_integers("segments", segments), 0, self.num_segments - 1)
        return states + ops.take(table, segments, axis=0)  # (batch, n, width)
