"""Random changes of images with objects, by a seed. Boxes, classes and instance maps change with the image.

A sample is a dict of one image: `image` `(height, width, channels)`, and `boxes`, `classes` and perhaps `instance_map`
as `keras_dl.objects` has them, without the axis of the batch. Sizes are static. An object that leaves the image, or of
which too little is left, becomes padding: class -1, a box of 0, and background in the map.

All changes of place are one: the image is scaled and shifted along its axes, and read between its pixels.
"""

import tensorflow as tf

from keras_dl.objects import NO_CLASS
from keras_dl.ops.letterbox import FILL, letterbox_frame

MIN_VISIBLE = 0.25  # of the area of a box
MIN_SIDE = 1.0  # of what is left of a box, in pixels


def place(sample, scale, shift, shape, window=None, fill=FILL, min_visible=MIN_VISIBLE):
    """Scales a sample about the upper left corner, shifts it, and shows it in a new canvas.

        x' = scale x + shift

    Args:
        sample: dict.
        scale: float `(2,)`: vertical, horizontal. Negative ones turn the image over.
        shift: float `(2,)`: down and to the right, in pixels of the canvas.
        shape: `(height, width)` of the canvas.
        window: float `(4,)`, xyxy in pixels: the part of the canvas that is shown. None for all of it.
        fill: number: the color outside of the image.
        min_visible: float. An object stays if so large a share of its box is in the window.

    Returns:
        dict. The image is float32.
    """
    (down_scale, right_scale), (down, right) = tf.unstack(scale), tf.unstack(shift)
    zero, one = tf.zeros_like(down), tf.ones_like(down)
    # Where a pixel of the canvas is read. Middles of pixels are at halves; the op counts from the middle of the first.
    left, top = ((0.5 - s) / f - 0.5 for s, f in ((right, right_scale), (down, down_scale)))
    transform = tf.stack([one / right_scale, zero, left, zero, one / down_scale, top, zero, zero])
    result = dict(sample)
    result["image"] = _read(tf.cast(sample["image"], tf.float32), transform, shape, "BILINEAR", fill)
    if "instance_map" in sample:
        result["instance_map"] = _read(sample["instance_map"][..., None], transform, shape, "NEAREST", 0)[..., 0]
    if window is None:
        window = tf.constant([0, 0, shape[1], shape[0]], tf.float32)
    else:
        y, x = tf.range(shape[0], dtype=tf.float32)[:, None] + 0.5, tf.range(shape[1], dtype=tf.float32) + 0.5
        shown = (x > window[0]) & (x < window[2]) & (y > window[1]) & (y < window[3])
        result["image"] = tf.where(shown[..., None], result["image"], float(fill))
        if "instance_map" in sample:
            result["instance_map"] = tf.where(shown, result["instance_map"], 0)
    factors = tf.stack([right_scale, down_scale, right_scale, down_scale])
    boxes = sample["boxes"] * factors + tf.stack([right, down, right, down])
    first, second = boxes[:, :2], boxes[:, 2:]
    boxes = tf.concat([tf.minimum(first, second), tf.maximum(first, second)], 1)  # of images that are turned over
    low, high = tf.maximum(boxes[:, :2], window[:2]), tf.minimum(boxes[:, 2:], window[2:])
    sides = tf.maximum(high - low, 0.0)
    share = tf.reduce_prod(sides, 1) / tf.maximum(tf.reduce_prod(boxes[:, 2:] - boxes[:, :2], 1), 1e-6)
    kept = (share >= min_visible) & (tf.reduce_min(sides, 1) >= MIN_SIDE) & (sample["classes"] >= 0)
    return only(result | {"boxes": tf.concat([low, high], 1)}, kept)


def _read(image, transform, shape, interpolation, fill):
    channels = image.shape[-1]
    image = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=transform[None],
        output_shape=shape,
        fill_value=float(fill),
        interpolation=interpolation,
        fill_mode="CONSTANT",
    )[0]
    return tf.ensure_shape(image, (*shape, channels))


def only(sample, kept):
    """A sample with the objects of `kept`, bool `(objects,)`; the others become padding."""
    result = dict(sample)
    result["boxes"] = tf.where(kept[:, None], sample["boxes"], 0.0)
    result["classes"] = tf.where(kept, sample["classes"], NO_CLASS)
    if "instance_map" in sample:
        numbers = tf.concat([[0], tf.where(kept, tf.range(1, tf.shape(kept)[0] + 1), 0)], 0)
        numbers = tf.cast(numbers, sample["instance_map"].dtype)
        result["instance_map"] = tf.gather(numbers, tf.cast(sample["instance_map"], tf.int32))
    return result


def flip(sample, seed):
    """Turns half of the images over, left to right."""
    height, width = sample["image"].shape[:2]
    turned = tf.random.stateless_uniform((), seed) < 0.5
    scale = tf.where(turned, [1.0, -1.0], [1.0, 1.0])
    return place(sample, scale, tf.where(turned, [0.0, float(width)], [0.0, 0.0]), (height, width), min_visible=0.0)


def recolor(sample, seed):
    """Red, green and blue change places, and half of the images become negatives: for drawn scenes, not for photos."""
    seeds = tf.random.split(seed, 2)
    order = tf.argsort(tf.random.stateless_uniform((3,), seeds[0]))
    image = tf.gather(tf.cast(sample["image"], tf.float32), order, axis=-1)
    negative = tf.random.stateless_uniform((), seeds[1]) < 0.5
    return sample | {"image": tf.where(negative, 255.0 - image, image)}


def jitter(sample, seed, shape, low=0.5, high=2.0, fill=FILL):
    """Scales an image by a factor and shows it at a random place: a crop if it is larger than the canvas.

    The image is first scaled so that it fits, as in a letterbox; then by the factor.

    Args:
        sample: dict.
        seed: int32, `(2,)`.
        shape: `(height, width)` of the canvas.
        low, high: float, positive: the range of the factor, even in its logarithm.
        fill: number: the color outside of the image.
    """
    height, width = sample["image"].shape[:2]
    random = tf.random.stateless_uniform((3,), seed)
    fit = min(shape[0] / height, shape[1] / width)
    factor = fit * tf.exp(tf.math.log(low) + random[0] * tf.math.log(high / low))
    space = tf.constant(shape, tf.float32) - factor * tf.constant([height, width], tf.float32)
    return place(sample, tf.stack([factor, factor]), random[1:] * space, shape, fill=fill)


def fit(sample, shape, fill=FILL):
    """A sample in a letterbox: `keras_dl.ops.letterbox`, read between the pixels."""
    height, width = sample["image"].shape[:2]
    top, left, *sides = letterbox_frame(height, width, shape)
    scale = tf.cast(tf.stack(sides), tf.float32) / tf.constant([height, width], tf.float32)
    return place(sample, scale, tf.cast(tf.stack([top, left]), tf.float32), shape, fill=fill, min_visible=0.0)


def mosaic(samples, seed, shape, low=0.5, high=1.5, fill=FILL, min_visible=MIN_VISIBLE):
    """Four images about a random point of one canvas, each with a factor of its own.

    Args:
        samples: four dicts. Instance maps are not used.
        seed: int32, `(2,)`.
        shape: `(height, width)` of the canvas.
        low, high: float, positive: the range of the factors. At 1, an image has half of the canvas.
        fill: number: the color between the images.
        min_visible: float. An object stays if so large a share of its box is in the window of its image.

    Returns:
        dict, with the slots of all four.
    """
    height, width = (float(side) for side in shape)
    random = tf.random.stateless_uniform((6,), seed)
    y, x = (0.25 + 0.5 * random[0]) * height, (0.25 + 0.5 * random[1]) * width
    parts = []
    for i, sample in enumerate(samples):
        below, right = i // 2, i % 2
        sides = [float(side) for side in sample["image"].shape[:2]]
        fit = min(height / sides[0], width / sides[1]) / 2
        factor = fit * tf.exp(tf.math.log(low) + random[2 + i] * tf.math.log(high / low))
        # A corner of the image is at the point, and the image ends there.
        shift = tf.stack([y if below else y - factor * sides[0], x if right else x - factor * sides[1]])
        window = tf.stack([x if right else 0.0, y if below else 0.0, width if right else x, height if below else y])
        # The last channel says how much of a pixel is of the image.
        image = tf.cast(sample["image"], tf.float32)
        image = tf.concat([image, tf.ones((*image.shape[:2], 1))], -1)
        sample = {"image": image, "boxes": sample["boxes"], "classes": sample["classes"]}
        parts.append(place(sample, tf.stack([factor, factor]), shift, shape, window, 0, min_visible))
    image = tf.add_n([part["image"] for part in parts])
    image = image[..., :-1] + fill * (1.0 - image[..., -1:])
    return {"image": image} | {name: tf.concat([part[name] for part in parts], 0) for name in ("boxes", "classes")}


def mixup(sample, other, seed, concentration=32.0):
    """The mean of two images of one shape with random weights, and the objects of both.

    Args:
        sample, other: dicts. Instance maps are not used.
        seed: int32, `(2,)`.
        concentration: float. The weight is of the distribution Beta(c, c), which is near 1/2 for a large c.

    Returns:
        dict, with the slots of both.
    """
    first, second = tf.unstack(tf.random.stateless_gamma((2,), seed, concentration))
    share = first / (first + second)
    images = [tf.cast(x["image"], tf.float32) for x in (sample, other)]
    image = share * images[0] + (1 - share) * images[1]
    return {"image": image} | {name: tf.concat([sample[name], other[name]], 0) for name in ("boxes", "classes")}


def resize_slots(sample, max_boxes):
    """A sample with `max_boxes` slots, objects first. More objects than slots must not be given: the rest is lost.

    An instance map keeps the numbers of the slots before, so that it is left out.
    """
    order = tf.argsort(tf.cast(sample["classes"] < 0, tf.int32), stable=True)[:max_boxes]
    missing = max(0, max_boxes - sample["classes"].shape[0])
    boxes, classes = (tf.gather(sample[name], order) for name in ("boxes", "classes"))
    return {
        "image": sample["image"],
        "boxes": tf.pad(boxes, ((0, missing), (0, 0))),
        "classes": tf.pad(classes, ((0, missing),), constant_values=NO_CLASS),
    }
