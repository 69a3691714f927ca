"""Sampling and grouping of points: farthest points, balls, nearest neighbors, and the interpolation between these.

All of it is plain TensorFlow of static shapes, which XLA compiles and LiteRT has builtin ops for. What is found are
indices, which have no gradient. `take_points` reads points by them and has one.

Squared distances are sums of squared differences. The form `a^2 - 2 a b + b^2` would be one product of matrices, but it
loses the digits that decide whether a point is inside of a small ball.

A mask says which points are of the cloud: True = a point, False = padding, which is never found. Points must be finite:
called eagerly, these functions check it. A compiled graph does not look at values; what it finds for points that are
not finite is undefined, but still an index of a point.
"""

import functools
import operator

import numpy as np
import tensorflow as tf

from keras_dl.compat import in_xla, is_eager
from keras_dl.tracing import is_unrolled

FAR = np.finfo("float32").max  # farther than any point
MOST_POINTS = 2**24  # whose numbers are exact in float32


def check_points(points, mask=None, name="points"):
    """Checks the values of eager tensors; those of a graph are not known.

    Args:
        points: float, `(batch, points, channels)`.
        mask: bool, `(batch, points)`, or None.
        name: str, for messages.

    Raises:
        ValueError: if a point is not finite, or no point of a cloud is kept.
    """
    if not is_eager(points) or not (mask is None or is_eager(mask)):
        return
    points = np.asarray(points)
    wrong = ~np.isfinite(points).all(-1)
    if wrong.any():
        cloud, point = np.argwhere(wrong)[0]
        raise ValueError(
            f"{name}[{cloud}, {point}] = {points[cloud, point].tolist()} is not finite: remove such points, "
            f"or set them to a point of their cloud. There are {int(wrong.sum())}."
        )
    if mask is not None and not np.asarray(mask).any(1).all():
        cloud = int(np.argmin(np.asarray(mask).any(1)))
        raise ValueError(f"mask[{cloud}] is all False: a cloud needs at least one point.")


def take_points(points, indices):
    """Points by their numbers. It has a gradient by `points`: a point that is taken twice gets the sum.

    Args:
        points: `(batch, points, ...)`.
        indices: int32, `(batch, ...)`, in [0, points).

    Returns:
        The dtype of `points`, of the shape of `indices` and then that of a point.

    Example:

    >>> take_points(tf.constant([[[1.0], [2.0], [3.0]]]), tf.constant([[2, 0]])).numpy().ravel()
    array([3., 1.], dtype=float32)
    """
    return tf.gather(points, indices, batch_dims=1)


def squared_distances(queries, points):
    """The squared distance of each query from each point.

    Args:
        queries: float, `(batch, queries, dims)`.
        points: float, `(batch, points, dims)`.

    Returns:
        The dtype of `points`, `(batch, queries, points)`.

    Example:

    >>> squared_distances(tf.constant([[[3.0, 4.0]]]), tf.constant([[[0.0, 0.0], [3.0, 5.0]]])).numpy()
    array([[[25.,  1.]]], dtype=float32)
    """
    # One coordinate after the other: (batch, queries, points, dims) would take several times the memory.
    return _sum(
        tf.square(tf.expand_dims(a, 2) - tf.expand_dims(b, 1))
        for a, b in zip(_axes(queries), _axes(points), strict=True)
    )


def farthest_points(points, count: int, mask=None):
    """Farthest point sampling: the first point, then again and again the point farthest from those chosen before.

    Of several points that are equally far, the first is chosen. The order nests: the first `m` of the result are those
    that `count=m` gives, and they are what sampling `m` of the result gives.

    Args:
        points: float, `(batch, points, dims)`.
        count: int, at least 1.
        mask: bool, `(batch, points)`, or None for points alone. At least one of a cloud is True.

    Returns:
        int32, `(batch, count)`: numbers of points, each at most once while there are places left. Where a cloud has
        fewer different places than `count`, the first number fills the rest.

    Raises:
        ValueError: if `count` is less than 1; and, called eagerly, as of `check_points`.

    Example:

    >>> line = tf.constant([[[0.0], [1.0], [2.0], [9.0], [4.0]]])
    >>> farthest_points(line, 4).numpy()
    array([[0, 3, 4, 2]], dtype=int32)

    Reference: Qi et al. 2017, arXiv:1706.02413, section 3.2; Eldar et al. 1997.
    """
    if count < 1:
        raise ValueError(f"count={count} must be at least 1.")
    points, mask = _constant(points), _constant(mask)
    check_points(points, mask)
    axes = _axes(points)
    # Padding is nearer than any point, and stays so.
    distances = tf.fill(tf.shape(axes[0]), FAR) if mask is None else tf.where(mask, FAR, -1.0)
    distances = tf.cast(distances, points.dtype)

    def choose(distances):
        """The number of the farthest point, and the distances after it is chosen."""
        chosen = _largest(distances)  # (batch,)
        to_chosen = _sum(tf.square(x - tf.expand_dims(tf.gather(x, chosen, batch_dims=1), 1)) for x in axes)
        return chosen, tf.minimum(distances, to_chosen)

    if is_unrolled():
        found = []
        for _ in range(count):
            chosen, distances = choose(distances)
            found.append(chosen)
        return tf.stack(found, axis=1)

    def body(i, distances, found):
        chosen, distances = choose(distances)
        # LiteRT has no array that a loop writes to.
        return i + 1, distances, tf.where(tf.equal(tf.range(count), i), tf.expand_dims(chosen, 1), found)

    found = tf.zeros((tf.shape(points)[0], count), tf.int32)
    start = (tf.constant(0), distances, found)
    shapes = (tf.TensorShape([]), distances.shape, tf.TensorShape((points.shape[0], count)))
    # Keras traces a functional model with an unknown batch.
    _, _, found = tf.while_loop(
        lambda i, *_: i < count, body, start, shape_invariants=shapes, maximum_iterations=count, parallel_iterations=1
    )
    return found


def ball_query(points, centers, radius: float, size: int, mask=None):
    """The first `size` points, by their numbers, that are nearer to a center than `radius`.

    They are the first ones and not the nearest, as in the authors' code: where a ball holds more than `size`, and the
    order of points is random, the group is a random sample of it.

    Args:
        points: float, `(batch, points, dims)`.
        centers: float, `(batch, centers, dims)`.
        radius: float, positive, in the unit of the points.
        size: int, at least 1.
        mask: bool, `(batch, points)`, or None for points alone.

    Returns:
        indices: int32, `(batch, centers, size)`, in increasing order. Where a ball holds fewer points, the first fills
            the rest. A ball without points, whose center is no point, has 0 everywhere.
        counts: int32, `(batch, centers)`: how many of them are different points; 0 for a ball without points.

    Raises:
        ValueError: if `radius` or `size` are out of their range, or there are 2**24 points or more; and, called
            eagerly, as of `check_points`.

    Example:

    >>> line = tf.constant([[[0.0], [1.0], [2.0], [9.0], [4.0]]])
    >>> indices, counts = ball_query(line, line[:, 2:4], radius=1.5, size=2)
    >>> indices.numpy(), counts.numpy()
    (array([[[1, 2],
            [3, 3]]], dtype=int32), array([[2, 1]], dtype=int32))

    Reference: Qi et al. 2017, section 3.2.
    """
    if not 0 < radius < np.inf:
        raise ValueError(f"radius={radius} must be positive and finite.")
    if size < 1:
        raise ValueError(f"size={size} must be at least 1.")
    points, centers, mask = map(_constant, (points, centers, mask))
    check_points(points, mask)
    check_points(centers, name="centers")
    inside = squared_distances(centers, points) < radius**2  # (batch, centers, points)
    if mask is not None:
        inside = tf.logical_and(inside, tf.expand_dims(mask, 1))
    count = _count(points)
    order = tf.where(inside, -tf.range(count), -count)
    most = _smaller(size, count)
    if in_xla():  # where to sort integers is slow
        order = tf.cast(order, "float32")
    found = -tf.cast(tf.math.top_k(order, most).values, tf.int32)  # (batch, centers, most)
    first = found[:, :, :1]
    counts = tf.reduce_sum(tf.cast(found < count, tf.int32), axis=-1)
    first = tf.where(first < count, first, 0)
    found = tf.where(found < count, found, first)
    if not isinstance(most, int) or most < size:  # fewer points than places
        rest = tf.repeat(first, size - most, axis=-1)
        found = tf.ensure_shape(tf.concat([found, rest], -1), (points.shape[0], centers.shape[1], size))
    return found, counts


def k_nearest(points, queries, k: int, mask=None):
    """The `k` nearest points of each query, the nearest first. Of equally near ones, the first comes first.

    Args:
        points: float, `(batch, points, dims)`.
        queries: float, `(batch, queries, dims)`.
        k: int, at least 1.
        mask: bool, `(batch, points)`, or None for points alone. Where a cloud has fewer than `k`, padding comes last,
            at the distance `FAR`.

    Returns:
        indices: int32, `(batch, queries, k)`.
        distances: `(batch, queries, k)`: squared distances, with the dtype of `points`.

    Raises:
        ValueError: if `k` is less than 1 or more than the points; and, called eagerly, as of `check_points`.

    Example:

    >>> line = tf.constant([[[0.0], [1.0], [2.0], [9.0], [4.0]]])
    >>> indices, distances = k_nearest(line, tf.constant([[[5.0]]]), 2)
    >>> indices.numpy(), distances.numpy()
    (array([[[4, 2]]], dtype=int32), array([[[1., 9.]]], dtype=float32))
    """
    points, queries, mask = map(_constant, (points, queries, mask))
    if k < 1 or k > (points.shape[1] or k):
        raise ValueError(f"k={k} must be at least 1, and at most the {points.shape[1]} points.")
    check_points(points, mask)
    check_points(queries, name="queries")
    distances = squared_distances(queries, points)  # (batch, queries, points)
    if mask is not None:
        distances = tf.where(tf.expand_dims(mask, 1), distances, tf.cast(FAR, points.dtype))
    if not is_unrolled():
        nearest, indices = tf.math.top_k(-distances, k)
        return indices, -nearest
    found = []  # one after the other: an int8 file would round the distances that it sorts
    number = tf.range(_count(points))
    for _ in range(k):
        indices = _largest(-distances)  # (batch, queries)
        found.append((indices, tf.reduce_min(distances, axis=-1)))
        distances = tf.where(tf.equal(number, tf.expand_dims(indices, -1)), tf.cast(FAR, points.dtype), distances)
    return tuple(tf.stack(x, axis=-1) for x in zip(*found, strict=True))


def interpolation_weights(distances, smallest: float = 1e-10):
    """The weights of neighbors: the inverse squared distances, as shares of their sum.

    Args:
        distances: float, `(..., neighbors)`: squared distances.
        smallest: float, positive. Smaller ones count as this: a query at a point takes all from it.

    Returns:
        The dtype and shape of `distances`. The sum over the last axis is 1.

    Example:

    >>> interpolation_weights(tf.constant([[1.0, 4.0], [0.0, 9.0]])).numpy().round(6)
    array([[0.8, 0.2],
           [1. , 0. ]], dtype=float32)

    Reference: Qi et al. 2017, eq. 2, with the floor of the authors' code.
    """
    # The factor cancels. Without it, the floor would be 0 among the constants of a float16 file.
    inverse = 1.0 / tf.maximum(distances * 2.0**15, smallest * 2.0**15)
    return inverse / tf.reduce_sum(inverse, axis=-1, keepdims=True)


def interpolate(features, indices, weights):
    """Features between points: the sum of those of the neighbors, by their weights.

    Args:
        features: float, `(batch, points, channels)`.
        indices: int32, `(batch, queries, neighbors)`, as of `k_nearest`.
        weights: float, `(batch, queries, neighbors)`, as of `interpolation_weights`.

    Returns:
        The dtype of `features`, `(batch, queries, channels)`.

    Example:

    >>> features = tf.constant([[[0.0], [10.0]]])
    >>> interpolate(features, tf.constant([[[0, 1]]]), tf.constant([[[0.25, 0.75]]])).numpy()
    array([[[7.5]]], dtype=float32)

    Reference: Qi et al. 2017, eq. 2.
    """
    taken = take_points(features, indices)  # (batch, queries, neighbors, channels)
    return tf.reduce_sum(taken * tf.expand_dims(tf.cast(weights, features.dtype), -1), axis=2)


def _constant(x):
    """A tensor that no gradient goes through; None stays None."""
    return None if x is None else tf.stop_gradient(tf.convert_to_tensor(x))


def _largest(x):
    """The number of the largest value of the last axis, the first one of several: int32."""
    if not is_unrolled():
        return tf.argmax(x, axis=-1, output_type=tf.int32)
    # Vela, the compiler for Ethos-U, refuses files with an ARG_MAX of float32.
    largest = tf.reduce_max(x, axis=-1, keepdims=True)
    return tf.reduce_min(tf.where(x >= largest, tf.range(x.shape[-1]), x.shape[-1] - 1), axis=-1)


def _axes(points):
    """The coordinates, one tensor `(batch, points)` for each. (An int8 file would round the outputs of one UNPACK.)"""
    return [points[:, :, i] for i in range(points.shape[-1])]


def _sum(tensors):
    """As `sum`, which begins with a 0."""
    return functools.reduce(operator.add, tensors)


def _count(points):
    """The number of points, an int where it is known."""
    count = points.shape[1]
    if count is None:
        return tf.shape(points)[1]
    if count >= MOST_POINTS:
        raise ValueError(f"points has {count} points; at most {MOST_POINTS - 1} can be numbered in float32.")
    return count


def _smaller(size, count):
    return min(size, count) if isinstance(count, int) else tf.minimum(size, count)
