"""Random changes of images and of clouds of points by a seed: equal seeds give equal results.

Pixels stay in [0, 255].
"""

import math

import tensorflow as tf


def affine(image, seed, pixels, degrees, zoom=0.0, shear=0.0):
    """Shifts, rotates, scales and shears an image about its center, with bilinear interpolation and black borders.

    Each amount is drawn from the uniform distribution between its negative and itself.

    Args:
        image: `(height, width, channels)`.
        seed: int32, `(2,)`.
        pixels: float. Largest shift in each direction.
        degrees: float. Largest rotation.
        zoom: float in [0, 1). Largest change of the width as a share of it, and another one of the height.
        shear: float. Largest shift of a row, as a share of its distance from the middle row.

    Returns:
        float32, with the shape of `image`.
    """
    height, width, _ = image.shape
    right, down, turn, wide, high, slant = tf.unstack(tf.random.stateless_uniform((6,), seed, -1.0, 1.0))
    cos, sin = tf.cos(turn * math.radians(degrees)), tf.sin(turn * math.radians(degrees))
    wide, high, slant = 1.0 + zoom * wide, 1.0 + zoom * high, shear * slant
    # The map from a position in the result to the position in the image that it shows, both from the center.
    a, b, c, d = wide * cos, slant * cos - high * sin, wide * sin, slant * sin + high * cos
    # The op counts both from the upper left corner.
    x, y = (width - 1) / 2, (height - 1) / 2
    left = x - a * x - b * y + pixels * right
    top = y - c * x - d * y + pixels * down
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(image, tf.float32)[None],
        transforms=tf.stack([a, b, left, c, d, top, 0.0, 0.0])[None],
        output_shape=(height, width),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )[0]


def flip_and_crop(image, seed, padding):
    """Flips half of the images, pads them with `padding` black pixels, and crops them back to their size.

    With `padding=4`, this is the augmentation of He et al. 2015 for CIFAR (section 4.2).

    Args:
        image: `(height, width, channels)`.
        seed: int32, `(2,)`.
        padding: int, pixels.

    Returns:
        float32, with the shape of `image`.
    """
    flip_seed, crop_seed = tf.unstack(tf.random.split(seed))
    shape = image.shape
    image = tf.image.stateless_random_flip_left_right(tf.cast(image, tf.float32), flip_seed)
    image = tf.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    return tf.image.stateless_random_crop(image, shape, crop_seed)


def random_resized_crop(image, seed, shape):
    """Crops 8% to 100% of the area at an aspect ratio of 3:4 to 4:3, resizes the crop, and flips half of them.

    This is the augmentation of Szegedy et al. 2014 (section 6), which is usual for ImageNet classifiers.

    Args:
        image: `(height, width, channels)`.
        seed: int32, `(2,)`.
        shape: `(height, width, channels)` of the result.

    Returns:
        float32, of `shape`.
    """
    flip_seed, crop_seed = tf.unstack(tf.random.split(seed))
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image),
        bounding_boxes=tf.zeros((1, 0, 4)),
        seed=crop_seed,
        min_object_covered=0.0,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(0.08, 1.0),
        use_image_if_no_bounding_boxes=True,
    )
    part = tf.slice(image, begin, size)
    part = tf.image.resize(part, shape[:2], antialias=True)
    return tf.ensure_shape(tf.image.stateless_random_flip_left_right(part, flip_seed), shape)


def rotate_about_up(points, seed, up=1):
    """Rotates each cloud about the vertical axis by an angle of its own, uniform in [0, 360) degrees.

    Args:
        points: float, `(batch, points, channels)`. The first three channels are coordinates; the next three, if there
            are any, are a normal and rotated too.
        seed: int32, `(2,)`.
        up: int. The coordinate that points up: 1 in ModelNet and ShapeNet, 2 in S3DIS.

    Returns:
        The dtype and shape of `points`.
    """
    angles = tf.random.stateless_uniform((tf.shape(points)[0],), seed, 0.0, 2 * math.pi)
    cos, sin = tf.cos(angles), tf.sin(angles)
    one, zero = tf.ones_like(cos), tf.zeros_like(cos)
    a, b = (i for i in range(3) if i != up)
    rows = {(a, a): cos, (a, b): sin, (b, a): -sin, (b, b): cos, (up, up): one}
    matrix = tf.stack([tf.stack([rows.get((i, j), zero) for j in range(3)], -1) for i in range(3)], -2)
    vectors = 2 if points.shape[-1] >= 6 else 1
    turned = [tf.matmul(points[..., 3 * i : 3 * i + 3], matrix) for i in range(vectors)]
    return tf.concat([*turned, points[..., 3 * vectors :]], axis=-1)  # (batch, points, channels)


def scale(points, seed, low=0.8, high=1.25):
    """Scales the three coordinates of each cloud by a factor of its own, uniform in [low, high).

    Args:
        points: float, `(batch, points, channels)`.
        seed: int32, `(2,)`.
        low, high: float, positive.

    Returns:
        The dtype and shape of `points`.
    """
    factors = tf.random.stateless_uniform((tf.shape(points)[0], 1, 1), seed, low, high)
    return tf.concat([points[..., :3] * factors, points[..., 3:]], axis=-1)


def jitter(points, seed, sigma=0.01, clip=0.05, num_coordinates=None):
    """Adds normal noise to the coordinates of each point.

    Args:
        points: float, `(batch, points, channels)`.
        seed: int32, `(2,)`.
        sigma: float. Standard deviation, in the unit of the coordinates.
        clip: float. Largest amount in each coordinate.
        num_coordinates: int. The first channels. None for all.

    Returns:
        The dtype and shape of `points`.
    """
    count = points.shape[-1] if num_coordinates is None else num_coordinates
    shape = tf.concat([tf.shape(points)[:-1], [count]], 0)
    noise = tf.clip_by_value(sigma * tf.random.stateless_normal(shape, seed), -clip, clip)
    return points + tf.pad(noise, ((0, 0), (0, 0), (0, points.shape[-1] - count)))
