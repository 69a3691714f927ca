"""Reductions over the edges of each node, for batches of padded graphs.

Each edge has a value, and `index` says which node (the segment) it belongs to. The rows of a batch are disjoint parts
of one graph of `batch * num_segments` nodes. So one flat reduction handles all rows, at a cost that grows linearly with
the edges. In LiteRT these are the builtin ops GATHER, UNSORTED_SEGMENT_SUM and UNSORTED_SEGMENT_MAX.

Half precision is summed in float32: a node may have thousands of edges.
"""

from keras import ops


def gather(values, index):
    """Picks a row of `values` for each entry of `index`.

    Args:
        values: `(batch, n, ...)`.
        index: int, `(batch, m)`, in [0, n).

    Returns:
        `(batch, m, ...)`: the dtype of `values`.

    Example:

    >>> gather(ops.array([[[1.0], [2.0]]]), ops.array([[1, 1, 0]])).numpy().ravel()
    array([2., 2., 1.], dtype=float32)
    """
    flat = ops.reshape(values, (-1, *values.shape[2:]))  # (batch * n, ...)
    picked = ops.take(flat, _flat_index(index, size(values, 1)), axis=0)  # (batch * m, ...)
    return ops.reshape(picked, (size(index, 0), size(index, 1), *values.shape[2:]))


def segment_sum(values, index, num_segments: int):
    """Sums the values of each segment; 0 for a segment that has none.

    Args:
        values: float, `(batch, m, ...)`.
        index: int, `(batch, m)`, in [0, num_segments).
        num_segments: int. The same for each row of the batch.

    Returns:
        `(batch, num_segments, ...)`: the dtype of `values`.

    Example:

    >>> segment_sum(ops.array([[1.0, 2.0, 4.0]]), ops.array([[0, 2, 2]]), 3).numpy()
    array([[1., 0., 6.]], dtype=float32)
    """
    return ops.cast(_reduce(ops.segment_sum, ops.cast(values, "float32"), index, num_segments), values.dtype)


def segment_max(values, index, num_segments: int):
    """The largest value of each segment.

    Args:
        values, index, num_segments: as of `segment_sum`.

    Returns:
        float32, `(batch, num_segments, ...)`; the lowest float32 for a segment without values.

    Example:

    >>> segment_max(ops.array([[1.0, 2.0, 4.0]]), ops.array([[0, 1, 1]]), 2).numpy()
    array([[1., 4.]], dtype=float32)
    """
    return _reduce(ops.segment_max, ops.cast(values, "float32"), index, num_segments)


def segment_softmax(scores, index, num_segments: int, mask=None):
    """Softmax among the scores of each segment, in float32.

    The largest score of a segment is subtracted first, so that no exponential overflows.

    Args:
        scores: float, `(batch, m, ...)`.
        index: int, `(batch, m)`, in [0, num_segments).
        num_segments: int.
        mask: bool, `(batch, m)`, True = keep. The others have the weight 0.

    Returns:
        float32, the shape of `scores`: in [0, 1], with sum 1 over each segment that keeps a score.

    Example:

    >>> segment_softmax(ops.array([[1000.0, 1000.0, -1000.0]]), ops.array([[0, 0, 1]]), 2).numpy()
    array([[0.5, 0.5, 1. ]], dtype=float32)
    """
    scores = ops.cast(scores, "float32")
    if mask is not None:
        mask = ops.reshape(mask, (size(mask, 0), size(mask, 1), *[1] * (len(scores.shape) - 2)))
        # The lowest score is never above another one. Minus infinity would stretch the range of a quantized file.
        scores = ops.where(mask, scores, ops.stop_gradient(ops.min(scores)))
    # The result does not depend on the subtracted score, which therefore needs no gradient.
    largest = gather(ops.stop_gradient(segment_max(scores, index, num_segments)), index)
    powers = ops.exp(scores - largest)  # (batch, m, ...)
    if mask is not None:
        powers = powers * ops.cast(mask, "float32")  # in a segment that is all masked, the powers above are 1
    totals = gather(segment_sum(powers, index, num_segments), index)
    return powers / ops.maximum(totals, 0.5)  # a total is at least 1, or 0 where no score is kept


def _reduce(reduction, values, index, num_segments):
    flat = ops.reshape(values, (-1, *values.shape[2:]))  # (batch * m, ...)
    reduced = reduction(flat, _flat_index(index, num_segments), size(index, 0) * num_segments)
    return ops.reshape(reduced, (size(index, 0), num_segments, *values.shape[2:]))


def _flat_index(index, rows):
    """Indices into the rows of each batch entry as indices into all rows: `(batch, m)` to `(batch * m,)`."""
    if index.shape[0] != 1:
        offsets = ops.arange(size(index, 0), dtype=index.dtype) * rows
        index = index + ops.expand_dims(offsets, 1)
    return ops.reshape(index, (-1,))


def size(values, axis):
    """The size of an axis: an int if it is known, else a tensor."""
    return values.shape[axis] if values.shape[axis] is not None else ops.shape(values)[axis]
