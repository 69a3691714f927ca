"""Masks of instances: cut out of a map for training, and pasted into the image.

A network sees the mask of an object as a small square that its box is stretched to. `mask_targets` makes that square
from a map of instances, and `paste_masks` brings a square back to the pixels.

An instance map is `(batch, height, width)`: 0 is the background, and `i + 1` the object `i`. It takes less memory than
a mask for each object, and a pixel belongs to one object.

References: He et al. 2017, "Mask R-CNN", arXiv:1703.06870, section 3.
"""

import tensorflow as tf

from keras_dl.checks import check_choice
from keras_dl.ops.boxes import full_precision
from keras_dl.ops.roi_align import bin_samples


def mask_targets(instance_map, numbers, boxes, size=28, *, samples=2, aligned=True):
    """What a mask head should predict for each box: RoIAlign of the mask of an object.

    Args:
        instance_map: int, `(batch, height, width)`.
        numbers: int, `(batch, boxes)`: the number of each box's object in the map, which is its index + 1; 0 for none.
        boxes: `(batch, boxes, 4)`, xyxy in pixels: such as proposals.
        size: int. Side of the result.
        samples: int, at least 1: places of a cell along each axis. None for as many as a cell has pixels, rounded up.
        aligned: bool. False for torchvision's masks, which are half a pixel off.

    Returns:
        float32, `(batch, boxes, size, size)`: the share of each cell that is of the object, in [0, 1]; 0 without
        object. It has no gradient.

    Example:

    >>> objects = tf.constant([[[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 2]]])
    >>> mask_targets(objects, tf.constant([[1]]), [[[1.0, 1.0, 3.0, 3.0]]], size=2).numpy()[0, 0]
    array([[0.765625, 0.765625],
           [0.765625, 0.765625]], dtype=float32)
    """
    boxes = tf.stop_gradient(tf.cast(boxes, tf.float32))
    boxes = tf.where(tf.math.is_finite(boxes), boxes, 0.0)
    batch, height, width = tf.shape(instance_map)[0], *instance_map.shape[1:]
    count, most = boxes.shape[1], samples
    if samples is None:
        most = -(-max(height, width) // size)
    elif samples < 1:
        raise ValueError(f"samples={samples} must be at least 1, or None.")
    x1, y1, x2, y2 = tf.unstack(boxes, 4, axis=-1)
    axes = []
    for low, high, places in ((y1, y2, height), (x1, x2, width)):
        before, share, weight = bin_samples(low, high, size, places, (most,) if samples is None else most, aligned)
        after = tf.minimum(before + 1, places - 1)
        axes.append(((before, (1 - share) * weight), (after, share * weight)))  # (batch, boxes, size * most)
    table = tf.reshape(instance_map, (batch, height * width))
    numbers = tf.reshape(tf.cast(numbers, table.dtype), (batch, count, 1, 1))
    total = 0.0
    for rows, row_weights in axes[0]:
        for columns, column_weights in axes[1]:
            index = tf.expand_dims(rows * width, 3) + tf.expand_dims(columns, 2)
            taken = tf.reshape(tf.gather(table, tf.reshape(index, (batch, -1)), batch_dims=1), tf.shape(index))
            own = tf.cast(tf.logical_and(tf.equal(taken, numbers), numbers > 0), tf.float32)
            total += own * tf.expand_dims(row_weights, 3) * tf.expand_dims(column_weights, 2)
    total = tf.reduce_sum(tf.reshape(total, (-1, size, most)), axis=-1)  # columns
    total = tf.reduce_sum(tf.reshape(total, (-1, size, most, size)), axis=2)  # rows
    return tf.reshape(total, (batch, count, size, size))


def paste_masks(masks, boxes, image_shape, convention="pixel_centers"):
    """Small masks in their boxes, as masks of the image.

    It takes `height * width` numbers for each mask: paste a few at a time for large images.

    Args:
        masks: float, `(..., masks, side, side)`, in [0, 1].
        boxes: `(..., masks, 4)`, xyxy in pixels.
        image_shape: `(height, width)`.
        convention: "pixel_centers" reads the mask at the middle of each pixel, and counts it as 0 outside, as
            detectron2 does. "torchvision" rounds boxes to pixels, as its function does.

    Returns:
        float32, `(..., masks, height, width)`. A pixel is of the object where it is at least 0.5.

    Raises:
        ValueError: if `convention` is another.

    Example:

    >>> paste_masks(tf.ones((1, 2, 2)), [[1.0, 0.0, 3.0, 2.0]], (2, 4)).numpy()[0]
    array([[0., 1., 1., 0.],
           [0., 1., 1., 0.]], dtype=float32)
    """
    check_choice("convention", convention, ("pixel_centers", "torchvision"))
    masks, boxes = tf.cast(masks, tf.float32), tf.cast(full_precision(boxes), tf.float32)
    side, weights = masks.shape[-1], _centered if convention == "pixel_centers" else _rounded
    x1, y1, x2, y2 = tf.unstack(boxes, 4, axis=-1)
    height, width = image_shape
    vertical, horizontal = weights(y1, y2, side, height), weights(x1, x2, side, width)  # (..., masks, pixels, side)
    return tf.matmul(tf.matmul(vertical, masks), horizontal, transpose_b=True)


def _centered(low, high, side, pixels):
    """Weights of the cells of a mask in each pixel of one axis: `(..., pixels, side)`."""
    low, length = tf.expand_dims(low, -1), tf.expand_dims(tf.maximum(high - low, 1e-6), -1)
    place = (tf.range(pixels, dtype=tf.float32) + 0.5 - low) * (side / length) - 0.5
    return tf.nn.relu(1.0 - tf.abs(tf.expand_dims(place, -1) - tf.range(side, dtype=tf.float32)))


def _rounded(low, high, side, pixels):
    """As `_centered`. The mask has a border of one cell; the box grows with it, and then its corners lose fractions."""
    middle, half = 0.5 * (high + low), 0.5 * (high - low) * ((side + 2) / side)
    first, last = (tf.expand_dims(_whole(middle + sign * half), -1) for sign in (-1, 1))
    length = tf.maximum(last - first + 1.0, 1.0)
    pixel = tf.range(pixels, dtype=tf.float32)
    place = (pixel - first + 0.5) * ((side + 2) / length) - 0.5
    place = tf.minimum(tf.maximum(place, 0.0), side + 1.0) - 1.0  # of the cells within the border
    hats = tf.nn.relu(1.0 - tf.abs(tf.expand_dims(place, -1) - tf.range(side, dtype=tf.float32)))
    inside = tf.logical_and(pixel >= first, pixel <= first + length - 1.0)
    return hats * tf.expand_dims(tf.cast(inside, tf.float32), -1)


def _whole(x):
    """Without its fraction: rounded towards 0."""
    return tf.sign(x) * tf.floor(tf.abs(x))
