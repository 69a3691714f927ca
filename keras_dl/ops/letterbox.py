"""Letterboxes: images of any sides in one shape, without distortion; and the way back for boxes.

The image is scaled so that it just fits, and its sides are rounded to pixels. The border is of one color, equally wide
on both sides; of an odd number, the pixel more is on the right or at the bottom. Each axis has the factor of its
rounded side, so that the way back is exact.
"""

import tensorflow as tf

from keras_dl.ops.boxes import clip_boxes, full_precision

FILL = 114  # the gray of most detectors


def letterbox_frame(height, width, shape):
    """Where the image is in its letterbox.

    Args:
        height, width: int, or integer tensors: the sides of the image.
        shape: `(height, width)` of the letterbox, or integer tensors.

    Returns:
        int32 tensors top, left, height, width: the place of the scaled image.

    Example:

    >>> [int(x) for x in letterbox_frame(100, 200, (64, 64))]
    [16, 0, 32, 64]
    """
    sides = tf.cast(tf.stack([height, width]), tf.float64)
    target = tf.cast(tf.stack([shape[0], shape[1]]), tf.float64)
    scaled = tf.round(sides * tf.reduce_min(target / sides))
    scaled = tf.minimum(tf.maximum(scaled, 1.0), target)
    before = tf.floor((target - scaled) / 2)
    top, left = tf.unstack(tf.cast(before, tf.int32))
    return top, left, *tf.unstack(tf.cast(scaled, tf.int32))


def letterbox(image, shape, fill=FILL):
    """An image in a letterbox.

    Args:
        image: `(height, width, channels)`, pixels.
        shape: `(height, width)` of the result.
        fill: number: the color of the border.

    Returns:
        The dtype of `image`, `(*shape, channels)`.

    Example:

    >>> letterbox(tf.ones((1, 2, 1)), (2, 2), fill=0).numpy()[:, :, 0]
    array([[1., 1.],
           [0., 0.]], dtype=float32)
    """
    image = tf.convert_to_tensor(image)
    size = tf.shape(image)
    top, left, height, width = letterbox_frame(size[0], size[1], shape)
    scaled = tf.image.resize(image, tf.stack([height, width]), antialias=True)
    border = [[top, shape[0] - top - height], [left, shape[1] - left - width], [0, 0]]
    boxed = tf.pad(scaled, border, constant_values=tf.cast(fill, scaled.dtype))
    if image.dtype.is_integer:
        boxed = tf.round(boxed)
    return tf.ensure_shape(tf.cast(boxed, image.dtype), (*shape, image.shape[-1]))


def letterbox_boxes(boxes, image_shape, shape):
    """Boxes of an image in its letterbox.

    Args:
        boxes: `(..., 4)`, xyxy in pixels of the image.
        image_shape: `(height, width)` of the image, or integer tensors.
        shape: `(height, width)` of the letterbox.

    Returns:
        `(..., 4)`, xyxy in pixels of the letterbox.

    Example:

    >>> letterbox_boxes([0.0, 0.0, 200.0, 100.0], (100, 200), (64, 64)).numpy()
    array([ 0., 16., 64., 48.], dtype=float32)
    """
    boxes = full_precision(boxes)
    factors, offsets = _factors(image_shape, shape, boxes.dtype)
    return boxes * factors + offsets


def unletterbox_boxes(boxes, image_shape, shape):
    """Boxes of a letterbox in its image: the inverse of `letterbox_boxes`, clipped to the image.

    Args:
        boxes: `(..., 4)`, xyxy in pixels of the letterbox.
        image_shape: `(height, width)` of the image, or integer tensors.
        shape: `(height, width)` of the letterbox.

    Returns:
        `(..., 4)`, xyxy in pixels of the image.

    Example:

    >>> unletterbox_boxes([0.0, 16.0, 64.0, 48.0], (100, 200), (64, 64)).numpy()
    array([  0.,   0., 200., 100.], dtype=float32)
    """
    boxes = full_precision(boxes)
    factors, offsets = _factors(image_shape, shape, boxes.dtype)
    return clip_boxes((boxes - offsets) / factors, *image_shape)


def _factors(image_shape, shape, dtype):
    """What the numbers of a box are multiplied with, and what is added then: `(4,)` each."""
    top, left, height, width = letterbox_frame(*image_shape, shape)
    x, y = (tf.cast(a, dtype) / tf.cast(b, dtype) for a, b in ((width, image_shape[1]), (height, image_shape[0])))
    return tf.stack([x, y, x, y]), tf.cast(tf.stack([left, top, left, top]), dtype)
