"""Non-maximum suppression per class, with results of fixed sizes.

Boxes are taken by falling score; one is left out if its IoU with a box of its class that was taken is above a
threshold. Of equal scores, the first comes first. A score that is NaN, or not above the score threshold, is no box.

TensorFlow has five ops for it. `NonMaxSuppressionV4` alone compiles under XLA and is one builtin op of LiteRT, with
outputs of fixed sizes. It takes one image: with a known batch, there is one op for each image; else a loop. It
knows no classes: boxes of a class are moved away from those of the others, by more than the extent of all boxes. In
float32, an extent of 640 pixels and 80 classes round coordinates to 1/256 pixel.

Slots that hold no box are filled here; the op leaves them undefined. `count` says how many hold one.
"""

from typing import NamedTuple

import tensorflow as tf

from keras_dl.ops.boxes import full_precision

NO_SCORE = -1e30  # below each threshold


class Kept(NamedTuple):
    """What a suppression keeps.

    Attributes:
        indices: int32, `(batch, max_boxes)`, by falling score; 0 in slots that hold no box.
        count: int32, `(batch,)`. How many slots hold a box.
    """

    indices: tf.Tensor
    count: tf.Tensor


class Detections(NamedTuple):
    """Detections of a batch of images, by falling score.

    Attributes:
        boxes: float32, `(batch, max_boxes, 4)`, xyxy; 0 in slots that hold no box.
        scores: float32, `(batch, max_boxes)`; 0 there.
        classes: int32, `(batch, max_boxes)`; -1 there.
        count: int32, `(batch,)`. How many slots hold a box.
    """

    boxes: tf.Tensor
    scores: tf.Tensor
    classes: tf.Tensor
    count: tf.Tensor


def nms(boxes, scores, classes=None, *, iou_threshold, max_boxes, score_threshold=0.0):
    """Non-maximum suppression of each image of a batch.

    Args:
        boxes: `(batch, boxes, 4)`, xyxy. There may be none.
        scores: `(batch, boxes)`.
        classes: int, `(batch, boxes)`; boxes suppress those of their class alone. None for one class.
        iou_threshold: float in [0, 1]. Boxes whose IoU is above it exclude each other.
        max_boxes: int, at least 1: the slots of the result.
        score_threshold: float. Scores must be above it.

    Returns:
        `Kept`. It has no gradient.

    Raises:
        ValueError: if a threshold or `max_boxes` is out of its range, or the number of boxes is not known.

    Example:

    >>> boxes = tf.constant([[[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.0], [8.0, 8.0, 9.0, 9.0]]])
    >>> kept = nms(boxes, tf.constant([[0.5, 0.9, 0.7]]), iou_threshold=0.5, max_boxes=4)
    >>> kept.indices.numpy(), kept.count.numpy()
    (array([[1, 2, 0, 0]], dtype=int32), array([2], dtype=int32))
    """
    _check(iou_threshold, max_boxes)
    boxes, scores = (tf.stop_gradient(full_precision(x)) for x in (boxes, scores))
    if boxes.shape[1] is None:
        raise ValueError("boxes has an unknown number of boxes; sizes must be static. Choose some by `tf.math.top_k`.")
    scores, order = _sorted(scores, score_threshold, boxes.shape[1])
    boxes = tf.gather(boxes, order, batch_dims=1)
    classes = None if classes is None else tf.gather(classes, order, batch_dims=1)
    indices, count = _of_sorted(boxes, scores, classes, iou_threshold, max_boxes)
    if boxes.shape[1]:
        indices = tf.gather(order, indices, batch_dims=1)
    return Kept(tf.where(filled(count, max_boxes), indices, 0), count)


def _sorted(scores, threshold, count):
    """The `count` highest scores, and their numbers: `(batch, count)`. Those that count for nothing come last."""
    return tf.math.top_k(tf.where(scores > threshold, scores, NO_SCORE), count)  # nothing is above NaN either


def _of_sorted(boxes, scores, classes, iou_threshold, max_boxes):
    """The suppression of boxes that `_sorted` put in order: indices, 0 in slots of no box, and count.

    The op gets ranks and not scores: the runtimes differ in the order of equal scores.
    """
    boxes = tf.where(tf.math.is_finite(boxes), boxes, 0.0)
    ranks = tf.range(boxes.shape[1], 0, -1, dtype=tf.float32)
    ranks = tf.where(scores > NO_SCORE / 2, ranks, 0.0)  # (batch, boxes)
    if classes is not None:
        extent = tf.reduce_max(boxes, axis=(1, 2), keepdims=True) - tf.reduce_min(boxes, axis=(1, 2), keepdims=True)
        boxes += tf.expand_dims(tf.cast(classes, boxes.dtype), -1) * (extent + 1.0)
    missing = max_boxes - boxes.shape[1]
    if missing > 0:  # under XLA, there must be as many boxes as slots, and one at least
        boxes, ranks = tf.pad(boxes, ((0, 0), (0, missing), (0, 0))), tf.pad(ranks, ((0, 0), (0, missing)))

    def one(image):
        found = tf.raw_ops.NonMaxSuppressionV4(
            boxes=image[0],  # the op does not ask which axis comes first
            scores=image[1],
            max_output_size=max_boxes,
            iou_threshold=float(iou_threshold),
            score_threshold=0.0,
            pad_to_max_output_size=True,
        )
        return tuple(found)

    images = tf.cast(boxes, tf.float32), ranks
    if boxes.shape[0] is None:
        indices, count = tf.map_fn(one, images, fn_output_signature=(tf.int32, tf.int32))
    else:
        images = zip(*map(tf.unstack, images), strict=True)
        indices, count = (tf.stack(x) for x in zip(*map(one, images), strict=True))
    indices = tf.ensure_shape(indices, (boxes.shape[0], max_boxes))
    return tf.where(filled(count, max_boxes), indices, 0), count


def filled(count, slots):
    """Which slots hold something.

    Args:
        count: int32, `(batch,)`.
        slots: int.

    Returns:
        bool, `(batch, slots)`: True in the first `count`.

    Example:

    >>> filled(tf.constant([2, 0]), 3).numpy()
    array([[ True,  True, False],
           [False, False, False]])
    """
    return tf.expand_dims(tf.range(slots), 0) < tf.expand_dims(count, 1)


def detections(
    boxes, scores, *, iou_threshold, score_threshold, max_boxes=100, candidates=1000, several=False, smallest_side=0.0
):
    """From all boxes of a detector to its detections: the best candidates, suppression by class, and the best of these.

    Args:
        boxes: `(batch, boxes, 4)`, xyxy; or `(batch, boxes, classes, 4)`, where each class has a box of its own.
        scores: `(batch, boxes, classes)`, without a background.
        iou_threshold: float in [0, 1].
        score_threshold: float. Scores must be above it.
        max_boxes: int, at least 1.
        candidates: int, at least 1. The suppression sees so many boxes at most: those of the highest scores.
        several: bool. Whether a box may be detected as several classes; else as its best alone. With a box for each
            class, it may always.
        smallest_side: float, in the unit of the boxes. Boxes with a shorter side are left out.

    Returns:
        `Detections`. They have no gradient.

    Raises:
        ValueError: if a size or a threshold is out of its range, or shapes do not fit.

    Example:

    >>> boxes = tf.constant([[[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.0], [8.0, 8.0, 9.0, 9.0]]])
    >>> scores = tf.constant([[[0.1, 0.8], [0.1, 0.9], [0.7, 0.2]]])
    >>> found = detections(boxes, scores, iou_threshold=0.5, score_threshold=0.3, max_boxes=3)
    >>> found.classes.numpy(), found.scores.numpy(), found.count.numpy()
    (array([[ 1,  0, -1]], dtype=int32), array([[0.9, 0.7, 0. ]], dtype=float32), array([2], dtype=int32))
    """
    _check(iou_threshold, max_boxes)
    if candidates < 1:
        raise ValueError(f"candidates={candidates} must be at least 1.")
    boxes, scores = (tf.stop_gradient(full_precision(x)) for x in (boxes, scores))
    own = boxes.shape.rank == 4
    if None in scores.shape[1:] or boxes.shape[1:-1] != scores.shape[1 : 3 if own else 2] or boxes.shape[-1] != 4:
        raise ValueError(
            f"boxes of the shape {boxes.shape} do not fit scores of the shape {scores.shape}: they must be "
            "(batch, boxes, 4) or (batch, boxes, classes, 4), and (batch, boxes, classes), with known sizes."
        )
    _, count, num_classes = scores.shape
    if own:
        boxes = tf.reshape(boxes, (-1, count * num_classes, 4))
    each = own or several  # an entry for each class of each box
    scores = tf.where(tf.math.is_nan(scores), NO_SCORE, scores)
    labels = None if each else tf.argmax(scores, axis=-1, output_type=tf.int32)
    scores = tf.reshape(scores, (-1, count * num_classes)) if each else tf.reduce_max(scores, axis=-1)
    if smallest_side > 0:
        x1, y1, x2, y2 = tf.unstack(boxes, 4, axis=-1)
        large = tf.minimum(x2 - x1, y2 - y1) >= smallest_side
        large = large if own or not several else tf.repeat(large, num_classes, axis=-1)
        scores = tf.where(large, scores, NO_SCORE)
    scores, chosen = _sorted(scores, score_threshold, min(candidates, scores.shape[1]))
    if each:
        classes = tf.math.floormod(chosen, num_classes)
        chosen = chosen if own else tf.math.floordiv(chosen, num_classes)
    else:
        classes = tf.gather(labels, chosen, batch_dims=1)
    boxes = tf.gather(boxes, chosen, batch_dims=1)  # (batch, candidates, 4)
    indices, number = _of_sorted(boxes, scores, classes, iou_threshold, max_boxes)
    held = filled(number, max_boxes)
    boxes, scores, classes = (tf.gather(x, indices, batch_dims=1) for x in (boxes, scores, classes))
    return Detections(
        tf.where(tf.expand_dims(held, -1), boxes, 0.0),
        tf.where(held, scores, 0.0),
        tf.where(held, classes, -1),
        number,
    )


def _check(iou_threshold, max_boxes):
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold={iou_threshold} must be in [0, 1].")
    if max_boxes < 1:
        raise ValueError(f"max_boxes={max_boxes} must be at least 1.")
