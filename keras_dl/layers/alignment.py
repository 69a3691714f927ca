"""Attention that aligns a decoder with what an encoder has read: additive, and Luong's global and local forms.

A query q attends to the vectors m_1 to m_S of a memory. Each vector has a score. A softmax over the vectors that the
mask keeps turns scores into weights. The context is the weighted mean of the memory:

    a_s = softmax_s(score(q, m_s)),   context = sum_s a_s m_s

    additive   v^T tanh(W q + U m + b)         Bahdanau et al., appendix A.1.2
    dot        q^T m                           Luong et al., eq. 8
    general    q^T W m
    concat     v^T tanh(W [q; m])

Luong's local forms attend only to a window of D places on both sides of p_t:

    monotonic    p_t = t                                                            local-m
    predictive   p_t = S sigmoid(v_p^T tanh(W_p q)),                                local-p, eq. 9
                 a_s exp(-(s - p_t)^2 / (2 sigma^2)), sigma = D / 2                 eq. 10

References:
- Bahdanau, Cho, Bengio 2014, "Neural Machine Translation by Jointly Learning to Align and Translate", arXiv:1409.0473.
- Luong, Pham, Manning 2015, "Effective Approaches to Attention-based Neural Machine Translation", arXiv:1508.04025.

Deviations: places are counted from 0, not from 1. The softmax is over the places of the window that exist and are not
masked.
"""

import keras
from keras import initializers, ops

from keras_dl.arguments import OneOf, Size, arguments
from keras_dl.base import Layer
from keras_dl.ops.attention import masked_softmax

Score = OneOf("dot", "general", "concat")
Locality = OneOf("global", "monotonic", "predictive")


class _Alignment(Layer):
    """Shared parts of both: queries of rank 2 and 3, checks of shapes, weights."""

    def _check_shapes(self, query_shape, memory_shape):
        if len(query_shape) not in (2, 3) or query_shape[-1] is None:
            raise ValueError(
                f"query of shape {tuple(query_shape)} must be (batch, width) or (batch, queries, width), width known."
            )
        if len(memory_shape) != 3 or memory_shape[-1] is None:
            raise ValueError(f"memory of shape {tuple(memory_shape)} must be (batch, length, width), width known.")

    def compute_mask(self, query, previous_mask=None):
        """None: the mask of the inputs belongs to the memory, and the outputs belong to the query."""

    def _matrix(self, name, *shape):
        return self.add_weight(shape=shape, initializer=initializers.get(self.kernel_initializer), name=name)

    def _vector(self, name, size):
        """A weight `(size, 1)`, for a product of matrices."""
        return self.add_weight(shape=(size, 1), initializer=initializers.get(self.kernel_initializer), name=name)


def _additive_scores(query, memory, vector):
    """`v^T tanh(q + m)` for each query and place: `(batch, queries, length)`."""
    hidden = ops.tanh(ops.expand_dims(query, 2) + ops.expand_dims(memory, 1))  # (batch, queries, length, units)
    return ops.squeeze(ops.matmul(hidden, vector), -1)  # (batch, queries, length)


def _keep(mask, memory_mask, memory):
    """Both masks as one of shape `(batch, queries or 1, length)`; None for none."""
    keep = None
    for name, x in (("mask", mask), ("memory_mask", memory_mask)):
        if x is None:
            continue
        x = ops.cast(x, "bool")
        if len(x.shape) not in (2, 3) or (
            None not in (x.shape[-1], memory.shape[1]) and x.shape[-1] != memory.shape[1]
        ):
            raise ValueError(
                f"{name} of shape {tuple(x.shape)} must be (batch, length) or (batch, queries, length), the length "
                f"{memory.shape[1]} of the memory."
            )
        x = ops.expand_dims(x, 1) if len(x.shape) == 2 else x  # (batch, queries or 1, length)
        keep = x if keep is None else ops.logical_and(keep, x)
    return keep


def _context(weights, memory, single):
    """The weighted mean of the memory, and the weights; without the axis of queries for a `single` query."""
    weights = ops.cast(weights, memory.dtype)  # (batch, queries, length)
    context = ops.matmul(weights, memory)  # (batch, queries, memory width)
    return (ops.squeeze(context, 1), ops.squeeze(weights, 1)) if single else (context, weights)


@keras.saving.register_keras_serializable(package="keras_dl")
class AdditiveAttention(_Alignment):
    """Bahdanau's attention: a small network scores each place of the memory.

    A decoder attends to one memory many times. It computes the memory's part of the score once, with `project`, and
    passes it to `attend` at each step.

    Args:
        units: int. Width of the network's hidden layer.
        use_bias: bool. Whether the hidden layer has a bias.
        kernel_initializer: as Keras takes it.

    Call arguments:
        query: float, `(batch, width)` or `(batch, queries, width)`.
        memory: float, `(batch, length, memory width)`.
        mask: bool, `(batch, length)` or `(batch, queries, length)`, True = keep; None for all.
        memory_mask: bool, `(batch, length)`, True = keep. Keras gives it where a layer before made one. Both hold.

    Returns:
        The context `(batch, memory width)` and the weights `(batch, length)`, with an axis of queries after the batch
        if the query has one. Weights sum to 1; where nothing is kept, both are zeros.

    Raises:
        ValueError: if `units` is less than 1, or a shape does not fit; it names the shape.

    Example:

    >>> context, weights = AdditiveAttention(8)(ops.ones((2, 3)), ops.ones((2, 5, 4)))
    >>> context.shape, weights.shape
    (TensorShape([2, 4]), TensorShape([2, 5]))
    """

    @arguments
    def __init__(self, units: Size, use_bias: bool = True, kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)

    def build(self, query_shape, memory_shape):
        self._check_shapes(query_shape, memory_shape)
        self.query_kernel = self._matrix("query_kernel", query_shape[-1], self.units)
        self.memory_kernel = self._matrix("memory_kernel", memory_shape[-1], self.units)
        self.bias = self.add_weight(shape=(self.units,), initializer="zeros", name="bias") if self.use_bias else None
        self.vector = self._vector("vector", self.units)

    def project(self, memory):
        """The memory's part of the score, `U m + b`: `(batch, length, units)`."""
        projected = ops.matmul(memory, self.memory_kernel)  # (batch, length, units)
        return projected if self.bias is None else projected + self.bias

    def attend(self, query, memory, projected, mask=None):
        """As `call`, with the result of `project(memory)`."""
        single = len(query.shape) == 2
        query = ops.expand_dims(query, 1) if single else query  # (batch, queries, width)
        query = ops.matmul(query, self.query_kernel)  # (batch, queries, units)
        scores = _additive_scores(query, projected, self.vector)
        return _context(masked_softmax(scores, _keep(mask, None, memory)), memory, single)

    def call(self, query, memory, mask=None, memory_mask=None):
        return self.attend(query, memory, self.project(memory), _keep(mask, memory_mask, memory))


@keras.saving.register_keras_serializable(package="keras_dl")
class LuongAttention(_Alignment):
    """Luong's attention, global or local, with the paper's three scores.

    Args:
        score: "dot", for which the query has the memory's width; "general"; or "concat".
        locality: "global"; "monotonic" (local-m); or "predictive" (local-p).
        window: int, D. The local forms attend to the places from p_t - D to p_t + D.
        units: int. Width of the hidden layers of "concat" and "predictive"; None for the query's.
        kernel_initializer: as Keras takes it.

    Call arguments:
        query: float, `(batch, width)` or `(batch, queries, width)`.
        memory: float, `(batch, length, memory width)`.
        mask: bool, `(batch, length)` or `(batch, queries, length)`, True = keep; None for all.
        position: int, `()` or `(batch,)`: the step t of a query without an axis of queries, for "monotonic". Queries
            with an axis are at 0, 1, 2, ...
        memory_mask: bool, `(batch, length)`, True = keep. Keras gives it where a layer before made one. Both hold.

    Returns:
        The context `(batch, memory width)` and the weights `(batch, length)`, with an axis of queries after the batch
        if the query has one. Weights sum to 1 (less in "predictive", by eq. 10); where nothing is kept, both are zeros.

    Raises:
        ValueError: if an argument is not one of those named, a shape does not fit, the query and the memory of "dot"
            have different widths, or a single query of "monotonic" has no position.

    Example:

    >>> layer = LuongAttention("general", "monotonic", window=1)
    >>> context, weights = layer(ops.ones((2, 3)), ops.ones((2, 5, 4)), position=ops.array([0, 4]))
    >>> weights.numpy().tolist()
    [[0.5, 0.5, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.5, 0.5]]
    """

    @arguments
    def __init__(
        self,
        score: Score = "general",
        locality: Locality = "global",
        window: Size = 10,
        units: Size | None = None,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)

    def build(self, query_shape, memory_shape):
        self._check_shapes(query_shape, memory_shape)
        width, memory_width = query_shape[-1], memory_shape[-1]
        units = self.units or width
        if self.score == "dot" and width != memory_width:
            raise ValueError(
                f"score='dot' needs a query as wide as the memory, not {width} and {memory_width}; 'general' does not."
            )
        if self.score == "general":
            self.kernel = self._matrix("kernel", width, memory_width)
        elif self.score == "concat":
            self.query_kernel = self._matrix("query_kernel", width, units)
            self.memory_kernel = self._matrix("memory_kernel", memory_width, units)
            self.vector = self._vector("vector", units)
        if self.locality == "predictive":
            self.position_kernel = self._matrix("position_kernel", width, units)
            self.position_vector = self._vector("position_vector", units)

    def _scores(self, query, memory):
        """float, `(batch, queries, length)`."""
        if self.score == "concat":
            # (batch, queries, units), (batch, length, units)
            parts = ops.matmul(query, self.query_kernel), ops.matmul(memory, self.memory_kernel)
            return _additive_scores(*parts, self.vector)
        if self.score == "general":
            query = ops.matmul(query, self.kernel)  # (batch, queries, memory width)
        return ops.matmul(query, ops.swapaxes(memory, 1, 2))

    def _center(self, query, keep, length, position, single):
        """p_t: float32, `(batch or 1, queries, 1)`."""
        if self.locality == "predictive":
            hidden = ops.tanh(ops.matmul(query, self.position_kernel))  # (batch, queries, units)
            share = ops.sigmoid(ops.cast(ops.matmul(hidden, self.position_vector), "float32"))  # (batch, queries, 1)
            if keep is None:
                return share * ops.cast(length, "float32")
            return share * ops.sum(ops.cast(keep, "float32"), axis=-1, keepdims=True)
        if not single:
            return ops.reshape(ops.arange(ops.shape(query)[1], dtype="float32"), (1, -1, 1))
        if position is None:
            raise ValueError("locality='monotonic' with a query of rank 2 needs its position, not position=None.")
        return ops.reshape(ops.cast(position, "float32"), (-1, 1, 1))

    def call(self, query, memory, mask=None, position=None, memory_mask=None):
        keep = _keep(mask, memory_mask, memory)
        single = len(query.shape) == 2
        query = ops.expand_dims(query, 1) if single else query  # (batch, queries, width)
        scores = self._scores(query, memory)  # (batch, queries, length)
        if self.locality == "global":
            return _context(masked_softmax(scores, keep), memory, single)
        length = ops.shape(memory)[1]
        places = ops.reshape(ops.arange(length, dtype="float32"), (1, 1, -1))
        offset = places - self._center(query, keep, length, position, single)  # (batch or 1, queries, length)
        near = ops.abs(offset) <= float(self.window)
        weights = masked_softmax(scores, near if keep is None else ops.logical_and(near, keep))
        if self.locality == "predictive":
            weights = weights * ops.exp(-ops.square(offset) * (2.0 / self.window**2))  # sigma = window / 2
        return _context(weights, memory, single)
