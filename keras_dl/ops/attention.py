"""Attention as pure functions: scaled dot products, whole and by chunks of the keys, and the softmax under a mask.

    attention(Q, K, V) = softmax(Q K^T / sqrt(d)) V                                        Vaswani et al., eq. 1

A mask is bool, True = keep. **A query whose keys are all masked gets zeros**: its output, weights and gradient are
zero in every precision. Softmax is computed in float32 (float64 for float64).

`chunked_attention` never holds the matrix of weights. It goes through the keys in chunks. For each query it keeps the
largest score m so far, the sum l of exp(score - m), and the sum o of exp(score - m) V (the online softmax):

    m' = max(m, max S),   l' = e^(m - m') l + sum e^(S - m'),   o' = e^(m - m') o + e^(S - m') V,   output = o / l

Its gradient computes the scores of each chunk again, from log-sum-exp = m + log l. The memory of both directions grows
with queries x chunk size; that of `dot_product_attention` grows with queries x keys. The gradient takes 5/4 of the
arithmetic.

References:
- Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762.
- Milakov, Gimelshein 2018, "Online normalizer calculation for softmax", arXiv:1805.02867.
- Rabe, Staats 2021, "Self-attention Does Not Need O(n^2) Memory", arXiv:2112.05682: chunks.
- Dao et al. 2022, "FlashAttention", arXiv:2205.14135, algorithm 4: the gradient.

Deviation: the queries are not cut into chunks, because their cost is linear in any case.
"""

import tensorflow as tf
from keras import ops, random

# A masked score is set this far below the lowest score that is kept. Its exponential is then at most e^-30 = 1e-13 of
# any other, which float32 rounds away. A value such as -1e9 would take the whole range of an int8 file.
_MARGIN = 30.0
_LOWEST = -1e30  # below every score; finite, because the difference of two infinities is NaN


def causal_mask(num_queries, num_keys) -> tf.Tensor:
    """The mask with which query i may attend only to the keys 0 to i.

    Args:
        num_queries, num_keys: int, or int scalar tensors.

    Returns:
        bool, `(num_queries, num_keys)`: True = keep.

    Example:

    >>> causal_mask(2, 3).numpy().tolist()
    [[True, False, False], [True, True, False]]
    """
    return tf.expand_dims(tf.range(num_queries), 1) >= tf.expand_dims(tf.range(num_keys), 0)


def masked_softmax(scores, mask=None) -> tf.Tensor:
    """Softmax over the last axis, over the places that the mask keeps; zeros in a row that keeps nothing.

    Args:
        scores: float, `(..., keys)`. Masked scores are ignored.
        mask: bool, broadcastable to `scores`, True = keep; or None for all.

    Returns:
        The shape of `scores`: float64 for float64, else float32.

    Example:

    >>> masked_softmax(ops.array([[0.0, 0.0, 9.0]]), [[True, True, False]]).numpy().tolist()
    [[0.5, 0.5, 0.0]]
    """
    scores = ops.cast(scores, _precise(scores))
    if mask is None or 0 in scores.shape:  # without scores there is no minimum
        return ops.softmax(scores, axis=-1)
    mask = ops.cast(mask, "bool")
    lowest = ops.min(ops.where(mask, scores, 0.0), axis=-1, keepdims=True)
    weights = ops.softmax(ops.where(mask, scores, ops.stop_gradient(lowest) - _MARGIN), axis=-1)
    return weights * ops.cast(mask, weights.dtype)


def dot_product_attention(
    query, key, value, mask=None, causal=False, scale=None, dropout_rate=0.0, seed=None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Each query's mean of the values, weighted by the softmax of its products with the keys.

    Args:
        query: float, `(..., queries, dim)`.
        key: float, `(..., keys, dim)`.
        value: float, `(..., keys, value_dim)`.
        mask: bool, broadcastable to `(..., queries, keys)`, True = keep; or None for all.
        causal: bool. Whether query i may attend only to the keys 0 to i, in addition to `mask`.
        scale: float. Factor of the products; None for `dim ** -0.5`.
        dropout_rate: float in [0, 1). Share of the weights that is set to zero; the rest is scaled up.
        seed: int or `keras.random.SeedGenerator`. Seed of the dropout.

    Returns:
        The output `(..., queries, value_dim)` and the weights `(..., queries, keys)` before dropout, in the dtype of
        `value`. Without any key the output is zeros.

    Raises:
        ValueError: if the shapes do not fit one another; it names them.

    Example:

    >>> output, weights = dot_product_attention(ops.ones((2, 4, 8)), ops.ones((2, 6, 8)), ops.ones((2, 6, 3)))
    >>> output.shape, weights.shape
    (TensorShape([2, 4, 3]), TensorShape([2, 4, 6]))
    """
    query, key, value = (ops.convert_to_tensor(x) for x in (query, key, value))
    _check(query, key, value, mask)
    # Scaled before the product, which could overflow float16.
    scores = ops.matmul(query * _scale(key, scale), ops.swapaxes(key, -1, -2))  # (..., queries, keys)
    if causal:
        allowed = causal_mask(ops.shape(query)[-2], ops.shape(key)[-2])
        mask = allowed if mask is None else ops.logical_and(allowed, ops.cast(mask, "bool"))
    weights = ops.cast(masked_softmax(scores, mask), value.dtype)
    used = random.dropout(weights, dropout_rate, seed=seed) if dropout_rate else weights
    return ops.matmul(used, value), weights  # (..., queries, value_dim) and (..., queries, keys)


def chunked_attention(
    query, key, value, mask=None, causal=False, scale=None, chunk_size=512, dropout_rate=0.0, seed=None
) -> tf.Tensor:
    """The output of `dot_product_attention` in memory that grows linearly with the length.

    Outputs and gradients are equal up to rounding. Dropout draws other numbers of the same distribution. A mask
    `(..., queries, keys)` is itself quadratic: use `causal` for a causal mask, and `(..., 1, keys)` for padding.

    Args:
        query, key, value, mask, causal, scale, dropout_rate, seed: as in `dot_product_attention`; `query`, `key` and
            `value` have the same leading axes.
        chunk_size: int. Number of keys of a chunk.

    Returns:
        `(..., queries, value_dim)`, in the dtype of `value`. There are no weights to return.

    Raises:
        ValueError: if the shapes do not fit one another, or `chunk_size` is less than 1.

    Example:

    >>> x = ops.ones((2, 10, 8))
    >>> chunked_attention(x, x, x, causal=True, chunk_size=4).shape
    TensorShape([2, 10, 8])
    """
    query, key, value = (ops.convert_to_tensor(x) for x in (query, key, value))
    _check(query, key, value, mask)
    if chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size} must be at least 1.")
    if not query.shape[:-2] == key.shape[:-2] == value.shape[:-2]:
        raise ValueError(
            f"query {tuple(query.shape)}, key {tuple(key.shape)} and value {tuple(value.shape)} must share the axes "
            "before the last two."
        )
    if seed is not None and dropout_rate:
        seed = tf.cast(seed.next() if hasattr(seed, "next") else [seed, 0], tf.int32)
    elif dropout_rate:
        seed = tf.random.uniform((2,), maxval=2**31 - 1, dtype=tf.int32)
    walk = _Walk(query, key, mask, causal, _scale(key, scale), chunk_size, dropout_rate, seed)

    @tf.custom_gradient
    def attend(query, key, value):
        output, log_sum = walk.forward(query, key, value)
        return output, lambda upstream: walk.backward(query, key, value, output, log_sum, upstream)

    return attend(query, key, value)


class _Walk:
    """The forward and backward loops. Statistics and sums are in float32, products in the dtype of the inputs."""

    def __init__(self, query, key, mask, causal, scale, chunk_size, dropout_rate, seed):
        self.scale, self.causal, self.dropout_rate, self.seed = scale, causal, dropout_rate, seed
        self.precise = tf.as_dtype(_precise(query))
        self.num_queries, self.num_keys = ops.shape(query)[-2], ops.shape(key)[-2]
        if isinstance(self.num_keys, int):  # a short sequence is one chunk, without padding
            chunk_size = max(1, min(chunk_size, self.num_keys))
        self.size = chunk_size
        self.count = (self.num_keys + chunk_size - 1) // chunk_size
        self.padding = self.count * chunk_size - self.num_keys
        self.full = isinstance(self.padding, int) and self.padding == 0  # no chunk extends past the last key
        self.mask = mask
        if mask is not None:
            mask = tf.cast(mask, tf.bool)
            if mask.shape[-1] == 1:
                mask = tf.repeat(mask, self.num_keys, axis=-1)
            self.mask = self._padded(mask, axis=-1)

    def _padded(self, x, axis):
        """`x`, its keys on `axis` padded to whole chunks."""
        if self.full:
            return x
        return tf.pad(x, [[0, self.padding if i == x.shape.rank + axis else 0] for i in range(x.shape.rank)])

    def _chunk(self, x, i, axis):
        """The part of `x` for chunk `i`, its keys on `axis`."""
        place = x.shape.rank + axis
        begin = [i * self.size if j == place else 0 for j in range(x.shape.rank)]
        size = [self.size if j == place else n for j, n in enumerate(ops.shape(x))]
        return tf.slice(x, begin, size)

    def _scores(self, query, key, i):
        """Scaled scores of chunk `i`, and the mask of those that are kept (None for all)."""
        scores = self.scale * tf.cast(tf.matmul(query, key, transpose_b=True), self.precise)  # (..., queries, size)
        places = i * self.size + tf.range(self.size)
        keep = None if self.full else places < self.num_keys
        if self.causal:
            allowed = tf.expand_dims(tf.range(self.num_queries), 1) >= places
            keep = allowed if keep is None else allowed & keep
        if self.mask is not None:
            chunk = self._chunk(self.mask, i, -1)
            keep = chunk if keep is None else chunk & keep
        return scores, keep

    def _dropped(self, weights, i):
        """Dropout of the weights of chunk `i`, the same each time."""
        if not self.dropout_rate:
            return weights
        noise = tf.random.stateless_uniform(tf.shape(weights), tf.random.fold_in(self.seed, i), dtype=weights.dtype)
        return tf.where(noise >= self.dropout_rate, weights / (1 - self.dropout_rate), 0.0)

    def _loop(self, body, *state):
        # One iteration at a time: parallel ones would hold several chunks in memory.
        limit = self.count if isinstance(self.count, int) else None
        condition = lambda i, *state: i < self.count  # noqa: E731
        return tf.while_loop(condition, body, (0, *state), parallel_iterations=1, maximum_iterations=limit)[1:]

    def forward(self, query, key, value):
        """The output `(..., queries, value_dim)`, and log-sum-exp `(..., queries, 1)`."""
        key, value = self._padded(key, -2), self._padded(value, -2)
        zeros = tf.zeros_like(query[..., :1], self.precise)  # (..., queries, 1)
        total = tf.zeros((*ops.shape(query)[:-1], ops.shape(value)[-1]), self.precise)

        def body(i, largest, total, mean):
            part = self._chunk(value, i, -2)
            scores, keep = self._scores(query, self._chunk(key, i, -2), i)  # (..., queries, size)
            if keep is not None:
                scores = tf.where(keep, scores, _LOWEST)
            new = tf.maximum(largest, tf.reduce_max(scores, -1, keepdims=True))  # (..., queries, 1)
            weights = tf.exp(scores - new)
            if keep is not None:
                weights *= tf.cast(keep, weights.dtype)
            fade = tf.exp(largest - new)
            seen = tf.cast(self._dropped(weights, i), part.dtype)
            mean = fade * mean + tf.cast(tf.matmul(seen, part), mean.dtype)  # (..., queries, value_dim)
            return i + 1, new, fade * total + tf.reduce_sum(weights, -1, keepdims=True), mean

        largest, sums, total = self._loop(body, zeros + _LOWEST, zeros, total)
        sums = tf.where(sums > 0, sums, 1.0)  # without keys the output is zero
        return tf.cast(total / sums, value.dtype), largest + tf.math.log(sums)

    def backward(self, query, key, value, output, log_sum, upstream):
        """The gradients of query, key and value."""
        padded_key, padded_value = self._padded(key, -2), self._padded(value, -2)
        shared = tf.reduce_sum(tf.cast(upstream * output, self.precise), -1, keepdims=True)
        arrays = [
            tf.TensorArray(x.dtype, self.count, element_shape=(*x.shape[:-2], self.size, x.shape[-1]))
            for x in (key, value)
        ]

        def body(i, for_query, for_keys, for_values):
            keys, values = self._chunk(padded_key, i, -2), self._chunk(padded_value, i, -2)
            scores, keep = self._scores(query, keys, i)  # (..., queries, size)
            if keep is not None:
                scores = tf.where(keep, scores, _LOWEST)
            weights = tf.exp(scores - log_sum)
            if keep is not None:
                weights *= tf.cast(keep, weights.dtype)
            for_weights = self._dropped(tf.cast(tf.matmul(upstream, values, transpose_b=True), self.precise), i)
            for_scores = tf.cast(self.scale * weights * (for_weights - shared), query.dtype)
            seen = tf.cast(self._dropped(weights, i), upstream.dtype)
            return (
                i + 1,
                for_query + tf.cast(tf.matmul(for_scores, keys), for_query.dtype),
                for_keys.write(i, tf.matmul(for_scores, query, transpose_a=True)),
                for_values.write(i, tf.matmul(seen, upstream, transpose_a=True)),
            )

        start = tf.zeros_like(query, self.precise)
        for_query, for_keys, for_values = self._loop(body, start, *arrays)
        return tf.cast(for_query, query.dtype), self._joined(for_keys, key), self._joined(for_values, value)

    def _joined(self, array, like):
        """The chunks of a TensorArray as one tensor, without the padding of the keys."""
        chunks = array.stack()  # (chunks, ..., size, dim)
        rank = chunks.shape.rank
        chunks = tf.transpose(chunks, [*range(1, rank - 2), 0, rank - 2, rank - 1])  # (..., chunks, size, dim)
        shape = ops.shape(like)
        joined = tf.reshape(chunks, (*shape[:-2], self.count * self.size, shape[-1]))  # (..., chunks * size, dim)
        return joined if self.full else joined[..., : self.num_keys, :]


def _precise(x):
    return "float64" if x.dtype == "float64" else "float32"


def _scale(key, scale):
    return key.shape[-1] ** -0.5 if scale is None else scale


def _check(query, key, value, mask):
    for name, x in (("query", query), ("key", key), ("value", value)):
        if len(x.shape) < 2 or x.shape[-1] is None:
            raise ValueError(f"{name} of shape {tuple(x.shape)} must be (..., length, dim) with a known dim.")
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(f"query {tuple(query.shape)} and key {tuple(key.shape)} must have the same last size.")
    if None not in (key.shape[-2], value.shape[-2]) and key.shape[-2] != value.shape[-2]:
        raise ValueError(f"key {tuple(key.shape)} and value {tuple(value.shape)} must have the same length.")
    if mask is not None:
        expected = (query.shape[-2], key.shape[-2])
        given = tuple(ops.convert_to_tensor(mask).shape[-2:])
        for n, size in zip(reversed(given), reversed(expected), strict=False):
            if None not in (n, size) and n not in (1, size):
                raise ValueError(f"mask of shape {tuple(mask.shape)} must end with (queries, keys) = {expected}.")
