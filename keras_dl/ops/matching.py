"""Which object an anchor or a point learns: matching by IoU, sampling, and task-aligned assignment.

Objects are padded: a mask says which are objects. True = an object, False = padding, which nothing is matched to.

Random choices go by keys that an integer hash makes, because TensorFlow's random numbers differ between XLA and other
graphs. Equal seeds give equal choices everywhere.

References: Ren et al. 2015, "Faster R-CNN", arXiv:1506.01497, section 3.1.2 and 3.1.3; Feng et al. 2021, "TOOD",
arXiv:2108.07755, section 3.2.
"""

from typing import NamedTuple

import tensorflow as tf

from keras_dl.ops.boxes import box_ciou, full_precision, pairwise, xyxy_to_ltrb

NEGATIVE, IGNORED = -1, -2


def match_by_iou(iou, mask, high, low=None, keep_best=False):
    """Gives each anchor the object of the highest IoU, if that is high enough.

    Args:
        iou: float, `(batch, objects, anchors)`.
        mask: bool, `(batch, objects)`. True = an object, False = padding.
        high: float in (0, 1]. Anchors of at least this IoU are matched.
        low: float in [0, high]. Anchors below it are `NEGATIVE`, those between `IGNORED`. None for `high`.
        keep_best: bool. Whether the anchors that fit an object best are matched at any IoU above 0, all of several
            equal ones. Such an anchor learns the object that it fits best, which may be another one.

    Returns:
        int32, `(batch, anchors)`: the object of each anchor, or `NEGATIVE` (-1), or `IGNORED` (-2). No gradient.

    Raises:
        ValueError: if the thresholds are out of their range.

    Example:

    >>> iou = tf.constant([[[0.8, 0.5, 0.1, 0.0], [0.0, 0.0, 0.2, 0.0]]])
    >>> match_by_iou(iou, tf.constant([[True, True]]), 0.7, 0.3, keep_best=True).numpy()
    array([[ 0, -2,  1, -1]], dtype=int32)
    """
    low = high if low is None else low
    if not 0 < high <= 1 or not 0 <= low <= high:
        raise ValueError(f"high={high} must be in (0, 1], and low={low} in [0, high].")
    iou = tf.where(tf.expand_dims(mask, -1), tf.stop_gradient(full_precision(iou)), -1.0)
    best = tf.reduce_max(iou, axis=1)  # (batch, anchors)
    objects = tf.argmax(iou, axis=1, output_type=tf.int32)
    matched = best >= high
    if keep_best:
        highest = tf.reduce_max(iou, axis=2, keepdims=True)  # of each object
        fits = tf.logical_and(tf.equal(iou, highest), highest > 0)
        matched = tf.logical_or(matched, tf.reduce_any(fits, axis=1))
    return tf.where(matched, objects, tf.where(best < low, NEGATIVE, IGNORED))


def hashed_uniform(shape, seed):
    """Numbers that look random, the same for a seed in eager code, in graphs and under XLA.

    They are for choices, not for statistics: there are 2**24 different ones.

    Args:
        shape: sequence of int, or int32 tensor of rank 1.
        seed: int, or integer tensor of rank 0 or 1, such as the number of the step. Its last 32 bits count.

    Returns:
        float32, of `shape`, in [0, 1).

    Example:

    >>> bool(tf.reduce_all(hashed_uniform((3,), 7) == hashed_uniform((3,), [7])))
    True
    """
    count = tf.cast(tf.reduce_prod(shape), tf.int32)
    x = tf.cast(tf.range(count), tf.uint32)
    for number in tf.unstack(tf.reshape(tf.cast(seed, tf.uint32), (-1,))):
        x = _mixed(x + _mixed(number + tf.constant(0x9E3779B9, tf.uint32)))
    return tf.reshape(tf.cast(tf.bitwise.right_shift(x, tf.constant(8, tf.uint32)), tf.float32) * 2.0**-24, shape)


def _mixed(x):
    """The last step of MurmurHash3, by Austin Appleby, in the public domain: each bit changes half of the others."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(shift, tf.uint32)))
        x = x * tf.constant(factor, tf.uint32)
    return x


class Sample(NamedTuple):
    """Chosen anchors of each image: positives first, then negatives, then slots that hold none.

    Attributes:
        indices: int32, `(batch, size)`; 0 in slots that hold none.
        positive: bool, `(batch, size)`.
        chosen: bool, `(batch, size)`. Whether the slot holds an anchor.
    """

    indices: tf.Tensor
    positive: tf.Tensor
    chosen: tf.Tensor


def sample_balanced(matches, keys, size, positive_share):
    """Chooses anchors to learn from: at most a share of positives, the rest negatives.

    Args:
        matches: int32, `(batch, anchors)`, as of `match_by_iou`. Negatives take the places of missing positives; the
            places of missing negatives stay free.
        keys: float, `(batch, anchors)`, such as of `hashed_uniform`: the anchors of the lowest keys are chosen.
        size: int, at least 1.
        positive_share: float in [0, 1].

    Returns:
        `Sample`.

    Raises:
        ValueError: if `size` or `positive_share` is out of its range.

    Example:

    >>> keys = tf.constant([[0.1, 0.2, 0.3, 0.4, 0.5]])
    >>> sample_balanced(tf.constant([[-1, 3, -2, 0, -1]]), keys, size=4, positive_share=0.25).indices.numpy()
    array([[1, 0, 4, 0]], dtype=int32)
    """
    if size < 1 or not 0 <= positive_share <= 1:
        raise ValueError(f"size={size} must be at least 1, and positive_share={positive_share} in [0, 1].")
    order = 1.0 - tf.cast(keys, tf.float32)  # (0, 1], so that 0 is none
    missing = size - (matches.shape[1] or 0)  # of an unknown number, there may be none
    if missing > 0:
        order = tf.pad(order, ((0, 0), (0, missing)))
        matches = tf.pad(matches, ((0, 0), (0, missing)), constant_values=IGNORED)
    found = []
    for kind in (matches >= 0, tf.equal(matches, NEGATIVE)):
        values, indices = tf.math.top_k(tf.where(kind, order, 0.0), size)
        found.append((indices, tf.reduce_sum(tf.cast(values > 0, tf.int32), axis=-1, keepdims=True)))
    (positives, num_positive), (negatives, num_negative) = found
    num_positive = tf.minimum(num_positive, int(size * positive_share))
    slots = tf.expand_dims(tf.range(size), 0)
    positive = slots < num_positive  # (batch, size)
    chosen = slots < num_positive + num_negative
    # The negatives begin where the positives end.
    shifted = tf.gather(negatives, tf.maximum(slots - num_positive, 0), batch_dims=1)
    indices = tf.where(positive, positives, shifted)
    return Sample(tf.where(chosen, indices, 0), positive, chosen)


class Alignment(NamedTuple):
    """What each point learns.

    Attributes:
        objects: int32, `(batch, points)`: the number of an object; -1 for none.
        weights: float32, `(batch, points)`: the score that the point should give the class of its object, in [0, 1];
            0 for none.
    """

    objects: tf.Tensor
    weights: tf.Tensor


def align_tasks(
    scores, predictions, points, boxes, classes, *, k=10, alpha=0.5, beta=6.0, smallest_side=0.0, overlap=box_ciou
):
    """Task-aligned assignment: a point learns the object that it both classifies and locates best.

        t = s^alpha u^beta      s: the score of the object's class, u: the overlap of the two boxes, at least 0

    Of the points inside of its box, an object takes the `k` of the highest `t`. A point that several objects take goes
    to the one of the highest overlap. Its target is `t / max t * max u`, both maxima over the points of the object.

    Args:
        scores: float, `(batch, points, classes)`: probabilities.
        predictions: float, `(batch, points, 4)`: predicted boxes, xyxy in pixels.
        points: float, `(points, 2)`: x, y in pixels.
        boxes: float, `(batch, objects, 4)`: the objects, xyxy in pixels.
        classes: int, `(batch, objects)`; -1 = no object.
        k: int, at least 1. 13 in the paper.
        alpha, beta: float, at least 0. 1 and 6 in the paper.
        smallest_side: float, in pixels. A shorter side of an object counts as this when its points are looked for: a
            box between the points of a grid would have none, and never be learned.
        overlap: function of two tensors of boxes, such as `box_ciou` or `box_iou`. The paper takes IoU.

    Returns:
        `Alignment`. It has no gradient.

    Raises:
        ValueError: if `k` is less than 1.

    Example:

    >>> points, boxes = tf.constant([[2.0, 2.0], [9.0, 9.0]]), tf.constant([[[0.0, 0.0, 4.0, 4.0]]])
    >>> found = align_tasks(tf.fill((1, 2, 1), 0.5), tf.repeat(boxes, 2, axis=1), points, boxes, tf.constant([[0]]))
    >>> found.objects.numpy(), found.weights.numpy()
    (array([[ 0, -1]], dtype=int32), array([[1., 0.]], dtype=float32))
    """
    if k < 1:
        raise ValueError(f"k={k} must be at least 1.")
    scores, predictions, points, boxes = (
        tf.stop_gradient(tf.cast(x, tf.float32)) for x in (scores, predictions, points, boxes)
    )
    count = points.shape[0]
    kept = tf.expand_dims(classes >= 0, -1)  # (batch, objects, 1)
    inside = tf.logical_and(_holds(boxes, points, smallest_side), kept)  # (batch, objects, points)
    by_class = tf.transpose(scores, (0, 2, 1))
    score = tf.gather(by_class, tf.maximum(classes, 0), batch_dims=1)  # (batch, objects, points)
    u = tf.where(inside, tf.maximum(pairwise(overlap, boxes, predictions), 0.0), 0.0)
    t = tf.where(inside, tf.pow(tf.maximum(score, 0.0), alpha) * tf.pow(u, beta), 0.0)
    t = tf.where(tf.math.is_finite(t), t, 0.0)
    values, places = tf.math.top_k(t, min(k, count))
    # Of points with equal values, `top_k` takes the first.
    last, place = values[:, :, -1:], places[:, :, -1:]
    first = tf.logical_and(tf.equal(t, last), tf.range(count) <= place)
    taken = tf.logical_and(tf.logical_or(t > last, first), t > 0)
    best = tf.argmax(tf.where(taken, u, -1.0), axis=1, output_type=tf.int32)  # (batch, points)
    number = tf.expand_dims(tf.range(tf.shape(boxes)[1]), -1)  # (objects, 1)
    taken = tf.logical_and(taken, tf.equal(number, tf.expand_dims(best, 1)))
    t, u = tf.where(taken, t, 0.0), tf.where(taken, u, 0.0)
    most_t, most_u = (tf.reduce_max(x, axis=-1, keepdims=True) for x in (t, u))
    weights = tf.where(most_t > 0, t / tf.where(most_t > 0, most_t, 1.0) * most_u, 0.0)
    return Alignment(tf.where(tf.reduce_any(taken, axis=1), best, -1), tf.reduce_max(weights, axis=1))


def _holds(boxes, points, smallest_side):
    """Whether boxes hold points: bool, `(batch, objects, points)`."""
    x1, y1, x2, y2 = tf.unstack(boxes, 4, axis=-1)
    x, y = 0.5 * tf.maximum(smallest_side - (x2 - x1), 0.0), 0.5 * tf.maximum(smallest_side - (y2 - y1), 0.0)
    boxes = tf.stack([x1 - x, y1 - y, x2 + x, y2 + y], axis=-1)
    return tf.reduce_min(xyxy_to_ltrb(tf.expand_dims(boxes, 2), points), axis=-1) > 1e-9
