"""Boxes: formats, areas, overlaps, and the codes that a detector predicts.

The format is in each name:

    xyxy    left, top, right, bottom
    xywh    left, top, width, height
    cxcywh  center, width, height
    yxyx    top, left, bottom, right: that of TensorFlow Datasets, as shares of the sides
    ltrb    the distances of a point from the four sides

Where no format is named, it is xyxy. A box ends at its right and bottom side: its width is `right - left`, without a 1
added. A side that is negative counts as 0.

All results are float32, or float64 if the first argument is: half precision has not the digits for a box of a large
image. No gradient is NaN or infinite for boxes of no area.

References: Rezatofighi et al. 2019, "Generalized Intersection over Union", arXiv:1902.09630; Zheng et al. 2019,
"Distance-IoU Loss", arXiv:1911.08287 (CIoU: eq. 8 to 11); Girshick et al. 2013, arXiv:1311.2524 (codes: appendix C).
"""

import math

import tensorflow as tf

EPSILON = 1e-7  # of an area, or of a squared length
SMALLEST_SIDE = 1e-6  # whose logarithm a code can be
LARGEST_LOG = math.log(1000 / 16)  # by which a code can enlarge a side: that of Detectron


def full_precision(x):
    """`x` as a tensor of float32, or of float64 if that is its dtype.

    Args:
        x: array or tensor of numbers.

    Returns:
        Tensor of float32 or float64.

    Example:

    >>> full_precision(tf.constant([1], "float16")).dtype.name
    'float32'
    """
    x = tf.convert_to_tensor(x)
    return x if x.dtype == tf.float64 else tf.cast(x, tf.float32)


def _parts(boxes, dtype=None):
    """The four numbers of each box, `(...)` each."""
    boxes = full_precision(boxes)
    return tf.unstack(tf.cast(boxes, dtype or boxes.dtype), 4, axis=-1)


def _boxes(*parts):
    return tf.stack(parts, axis=-1)


def xyxy_to_xywh(boxes):
    """Corners to a corner and a size.

    Args:
        boxes: `(..., 4)`, xyxy.

    Returns:
        `(..., 4)`, xywh.

    Example:

    >>> xyxy_to_xywh([1.0, 2.0, 4.0, 8.0]).numpy()
    array([1., 2., 3., 6.], dtype=float32)
    """
    x1, y1, x2, y2 = _parts(boxes)
    return _boxes(x1, y1, x2 - x1, y2 - y1)


def xywh_to_xyxy(boxes):
    """A corner and a size to corners.

    Args:
        boxes: `(..., 4)`, xywh.

    Returns:
        `(..., 4)`, xyxy.

    Example:

    >>> xywh_to_xyxy([1.0, 2.0, 3.0, 6.0]).numpy()
    array([1., 2., 4., 8.], dtype=float32)
    """
    x, y, width, height = _parts(boxes)
    return _boxes(x, y, x + width, y + height)


def xyxy_to_cxcywh(boxes):
    """Corners to a center and a size.

    Args:
        boxes: `(..., 4)`, xyxy.

    Returns:
        `(..., 4)`, cxcywh.

    Example:

    >>> xyxy_to_cxcywh([1.0, 2.0, 4.0, 8.0]).numpy()
    array([2.5, 5. , 3. , 6. ], dtype=float32)
    """
    x1, y1, x2, y2 = _parts(boxes)
    return _boxes(0.5 * (x1 + x2), 0.5 * (y1 + y2), x2 - x1, y2 - y1)


def cxcywh_to_xyxy(boxes):
    """A center and a size to corners.

    Args:
        boxes: `(..., 4)`, cxcywh.

    Returns:
        `(..., 4)`, xyxy.

    Example:

    >>> cxcywh_to_xyxy([2.5, 5.0, 3.0, 6.0]).numpy()
    array([1., 2., 4., 8.], dtype=float32)
    """
    x, y, width, height = _parts(boxes)
    return _boxes(x - 0.5 * width, y - 0.5 * height, x + 0.5 * width, y + 0.5 * height)


def yxyx_to_xyxy(boxes, height=1.0, width=1.0):
    """Boxes of TensorFlow Datasets, as shares of the sides of an image, to pixels.

    Args:
        boxes: `(..., 4)`, yxyx.
        height, width: the sides of the image in pixels; 1 leaves the unit.

    Returns:
        `(..., 4)`, xyxy.

    Example:

    >>> yxyx_to_xyxy([0.1, 0.5, 0.2, 1.0], height=100, width=200).numpy()
    array([100.,  10., 200.,  20.], dtype=float32)
    """
    y1, x1, y2, x2 = _parts(boxes)
    height, width = (tf.cast(side, x1.dtype) for side in (height, width))
    return _boxes(x1 * width, y1 * height, x2 * width, y2 * height)


def xyxy_to_yxyx(boxes, height=1.0, width=1.0):
    """Pixels to boxes of TensorFlow Datasets, as shares of the sides of an image.

    Args:
        boxes: `(..., 4)`, xyxy.
        height, width: the sides of the image in pixels; 1 leaves the unit.

    Returns:
        `(..., 4)`, yxyx.

    Example:

    >>> xyxy_to_yxyx([100.0, 10.0, 200.0, 20.0], height=100, width=200).numpy()
    array([0.1, 0.5, 0.2, 1. ], dtype=float32)
    """
    x1, y1, x2, y2 = _parts(boxes)
    height, width = (tf.cast(side, x1.dtype) for side in (height, width))
    return _boxes(y1 / height, x1 / width, y2 / height, x2 / width)


def ltrb_to_xyxy(distances, points):
    """Boxes about points, as an anchor-free detector predicts them.

    Args:
        distances: `(..., 4)`: how far the left, top, right and bottom side are from the point.
        points: `(..., 2)`: x, y, in the same unit.

    Returns:
        `(..., 4)`, xyxy.

    Example:

    >>> ltrb_to_xyxy([1.0, 2.0, 3.0, 4.0], [10.0, 20.0]).numpy()
    array([ 9., 18., 13., 24.], dtype=float32)
    """
    left, top, right, bottom = _parts(distances)
    x, y = tf.unstack(tf.cast(points, left.dtype), 2, axis=-1)
    return _boxes(x - left, y - top, x + right, y + bottom)


def xyxy_to_ltrb(boxes, points):
    """How far the sides of boxes are from points. A point is inside of a box where all four are positive.

    Args:
        boxes: `(..., 4)`, xyxy.
        points: `(..., 2)`: x, y, in the same unit.

    Returns:
        `(..., 4)`: left, top, right, bottom.

    Example:

    >>> xyxy_to_ltrb([9.0, 18.0, 13.0, 24.0], [10.0, 20.0]).numpy()
    array([1., 2., 3., 4.], dtype=float32)
    """
    x1, y1, x2, y2 = _parts(boxes)
    x, y = tf.unstack(tf.cast(points, x1.dtype), 2, axis=-1)
    return _boxes(x - x1, y - y1, x2 - x, y2 - y)


def _sides(x1, y1, x2, y2):
    # The gradient of relu is 0 at 0: a box of no area, which would have that of a quotient by 0, has none.
    return tf.nn.relu(x2 - x1), tf.nn.relu(y2 - y1)


def box_area(boxes):
    """The area of each box.

    Args:
        boxes: `(..., 4)`, xyxy.

    Returns:
        `(...)`, at least 0.

    Example:

    >>> box_area([[1.0, 2.0, 4.0, 8.0], [4.0, 8.0, 1.0, 2.0]]).numpy()
    array([18.,  0.], dtype=float32)
    """
    width, height = _sides(*_parts(boxes))
    return width * height


def clip_boxes(boxes, height, width):
    """What of each box lies in the image. A box outside becomes one of no area, at the border.

    Args:
        boxes: `(..., 4)`, xyxy, in pixels.
        height, width: the sides of the image in pixels.

    Returns:
        `(..., 4)`, xyxy.

    Example:

    >>> clip_boxes([[-5.0, 2.0, 9.0, 30.0], [40.0, 1.0, 50.0, 2.0]], height=10, width=20).numpy()
    array([[ 0.,  2.,  9., 10.],
           [20.,  1., 20.,  2.]], dtype=float32)
    """
    x1, y1, x2, y2 = _parts(boxes)
    height, width = (tf.cast(side, x1.dtype) for side in (height, width))
    x1, x2 = (tf.minimum(tf.maximum(x, 0.0), width) for x in (x1, x2))
    y1, y2 = (tf.minimum(tf.maximum(y, 0.0), height) for y in (y1, y2))
    return _boxes(x1, y1, x2, y2)


def _overlap(boxes, others):
    """IoU, the area of the union, and the parts of both."""
    ours = _parts(boxes)
    theirs = _parts(others, ours[0].dtype)
    corners = [tf.maximum(ours[i], theirs[i]) for i in (0, 1)] + [tf.minimum(ours[i], theirs[i]) for i in (2, 3)]
    width, height = _sides(*corners)
    (w, h), (other_w, other_h) = _sides(*ours), _sides(*theirs)
    intersection = width * height
    union = w * h + other_w * other_h - intersection
    return intersection / tf.maximum(union, EPSILON), union, ours, theirs


def _hull(ours, theirs):
    """The sides of the smallest box that holds both."""
    low = [tf.minimum(ours[i], theirs[i]) for i in (0, 1)]
    high = [tf.maximum(ours[i], theirs[i]) for i in (2, 3)]
    return _sides(*low, *high)


def box_iou(boxes, others):
    """Intersection over union, box by box.

    Args:
        boxes, others: `(..., 4)`, xyxy, of shapes that broadcast.

    Returns:
        `(...)`, in [0, 1]. It is 0 if neither box has an area.

    Example:

    >>> box_iou([0.0, 0.0, 2.0, 2.0], [[1.0, 0.0, 3.0, 2.0], [5.0, 5.0, 5.0, 5.0]]).numpy().round(4)
    array([0.3333, 0.    ], dtype=float32)
    """
    return _overlap(boxes, others)[0]


def box_giou(boxes, others):
    """Generalized IoU, box by box: it has a gradient where boxes do not overlap.

        GIoU = IoU - (area of the hull - area of the union) / area of the hull

    Args:
        boxes, others: `(..., 4)`, xyxy, of shapes that broadcast.

    Returns:
        `(...)`, in (-1, 1].

    Example:

    >>> box_giou([0.0, 0.0, 2.0, 2.0], [[2.0, 2.0, 4.0, 4.0]]).numpy()
    array([-0.5], dtype=float32)
    """
    iou, union, ours, theirs = _overlap(boxes, others)
    width, height = _hull(ours, theirs)
    hull = width * height
    return iou - (hull - union) / tf.maximum(hull, EPSILON)


def box_ciou(boxes, others):
    """Complete IoU, box by box: overlap, distance of the centers, and likeness of the shapes.

        CIoU = IoU - d^2 / c^2 - alpha v      v = 4 / pi^2 (atan(w' / h') - atan(w / h))^2
                                          alpha = v / (1 - IoU + v), which has no gradient

    `d` is the distance of the centers, and `c` the diagonal of the hull.

    Args:
        boxes, others: `(..., 4)`, xyxy, of shapes that broadcast.

    Returns:
        `(...)`, at most 1.

    Example:

    >>> box_ciou([0.0, 0.0, 2.0, 2.0], [[0.0, 0.0, 2.0, 2.0], [2.0, 2.0, 4.0, 4.0]]).numpy()
    array([ 1.  , -0.25], dtype=float32)
    """
    iou, _, ours, theirs = _overlap(boxes, others)
    width, height = _hull(ours, theirs)
    diagonal = width**2 + height**2 + EPSILON
    x, y = ((theirs[i] + theirs[i + 2] - ours[i] - ours[i + 2]) / 2 for i in (0, 1))
    v = (4 / math.pi**2) * tf.square(_angle(*_sides(*theirs)) - _angle(*_sides(*ours)))
    alpha = tf.stop_gradient(v / (1 - iou + v + EPSILON))
    return iou - (x**2 + y**2) / diagonal - alpha * v


def _angle(width, height):
    """atan(width / height). A box without sides has that of a square, and no gradient."""
    none = tf.maximum(width, height) < EPSILON
    return tf.atan2(tf.where(none, tf.ones_like(width), width), tf.where(none, tf.ones_like(height), height))


def pairwise(overlap, boxes, others):
    """An overlap of each box with each other one.

    Args:
        overlap: function of two tensors of boxes, such as `box_iou`, `box_giou` or `box_ciou`.
        boxes: `(..., n, 4)`, xyxy.
        others: `(..., m, 4)`, xyxy.

    Returns:
        `(..., n, m)`.

    Example:

    >>> pairwise(box_iou, [[0.0, 0.0, 2.0, 2.0]], [[0.0, 0.0, 2.0, 2.0], [0.0, 1.0, 2.0, 2.0]]).numpy()
    array([[1. , 0.5]], dtype=float32)
    """
    return overlap(tf.expand_dims(full_precision(boxes), -2), tf.expand_dims(full_precision(others), -3))


def encode_boxes(boxes, anchors, weights=(1.0, 1.0, 1.0, 1.0)):
    """What a detector has to predict so that anchors become boxes.

        tx = wx (x - xa) / wa    ty = wy (y - ya) / ha    tw = ww log(w / wa)    th = wh log(h / ha)

    Sides of boxes and anchors count as at least 1e-6, so that padding has finite codes.

    Args:
        boxes: `(..., 4)`, xyxy.
        anchors: `(..., 4)`, xyxy, of a shape that broadcasts with that of `boxes`.
        weights: four numbers: wx, wy, ww, wh.

    Returns:
        `(..., 4)`: tx, ty, tw, th.

    Example:

    >>> encode_boxes([1.0, 0.0, 3.0, 2.0], [0.0, 0.0, 2.0, 2.0], weights=(10, 10, 5, 5)).numpy()
    array([5., 0., 0., 0.], dtype=float32)
    """
    x, y, width, height = tf.unstack(xyxy_to_cxcywh(boxes), 4, axis=-1)
    xa, ya, wa, ha = _parts(xyxy_to_cxcywh(anchors), x.dtype)
    width, height, wa, ha = (tf.maximum(side, SMALLEST_SIDE) for side in (width, height, wa, ha))
    wx, wy, ww, wh = map(float, weights)
    return _boxes(wx * (x - xa) / wa, wy * (y - ya) / ha, ww * tf.math.log(width / wa), wh * tf.math.log(height / ha))


def decode_boxes(codes, anchors, weights=(1.0, 1.0, 1.0, 1.0), largest_log=LARGEST_LOG):
    """Boxes from what a detector predicts: the inverse of `encode_boxes`.

    Args:
        codes: `(..., 4)`: tx, ty, tw, th.
        anchors: `(..., 4)`, xyxy, of a shape that broadcasts with that of `codes`.
        weights: four numbers: wx, wy, ww, wh.
        largest_log: float. The logarithm of the largest factor between the sides of an anchor and of a box.

    Returns:
        `(..., 4)`, xyxy.

    Example:

    >>> decode_boxes([5.0, 0.0, 0.0, 0.0], [0.0, 0.0, 2.0, 2.0], weights=(10, 10, 5, 5)).numpy()
    array([1., 0., 3., 2.], dtype=float32)
    """
    tx, ty, tw, th = _parts(codes)
    xa, ya, wa, ha = _parts(xyxy_to_cxcywh(anchors), tx.dtype)
    wx, wy, ww, wh = map(float, weights)
    width = wa * tf.exp(tf.minimum(tw / ww, largest_log))
    height = ha * tf.exp(tf.minimum(th / wh, largest_log))
    return cxcywh_to_xyxy(_boxes(xa + wa * tx / wx, ya + ha * ty / wy, width, height))
