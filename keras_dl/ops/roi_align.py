"""RoIAlign: features of a fixed size for each box, from the level of a pyramid that suits its size.

A box is divided into `height x width` bins, and each bin into `samples x samples` places. The feature of a bin is the
mean of the features at its places, which are interpolated between four neighbors. No coordinate is rounded.

The places form a grid, so that both axes can be done one after the other. There are two forms, which compute the same:

- "gather" reads the four neighbors of each place out of a table of all levels. It suits many boxes.
- "matrix" multiplies each level with matrices of weights from both sides. It needs no GATHER, which some devices lack,
  and takes work and memory for each box on each level.

References: He et al. 2017, "Mask R-CNN", arXiv:1703.06870, section 3; Lin et al. 2016, "Feature Pyramid Networks",
arXiv:1612.03144, eq. 1 (levels).
"""

import math

import tensorflow as tf

from keras_dl.checks import check_choice
from keras_dl.ops.boxes import box_area, full_precision


def box_levels(boxes, strides, canonical_side=224.0, canonical_level=4):
    """The level of a pyramid that suits the size of each box.

        level = floor(k0 + log2(sqrt(area) / s0) + 1e-6), clipped to the levels that there are

    Args:
        boxes: `(..., 4)`, xyxy in pixels.
        strides: sequence of int, powers of 2 that follow each other. The level of a stride is its logarithm.
        canonical_side: float, s0 in pixels. 224 for images of about 800 pixels; smaller images want less.
        canonical_level: int, k0.

    Returns:
        int32, `(...)`: an index into `strides`.

    Raises:
        ValueError: if the strides are no powers of 2 that follow each other.

    Example:

    >>> box_levels([[0.0, 0.0, 50.0, 50.0], [0.0, 0.0, 224.0, 224.0]], strides=(4, 8, 16, 32)).numpy()
    array([0, 2], dtype=int32)
    """
    first = _first_level(strides)
    sides = tf.sqrt(tf.maximum(box_area(boxes), 1e-12))
    log2 = tf.math.log(sides / canonical_side) / math.log(2)
    level = tf.cast(tf.floor(canonical_level - first + log2 + 1e-6), tf.int32)
    return tf.minimum(tf.maximum(level, 0), len(strides) - 1)


def _first_level(strides):
    first = round(math.log2(strides[0])) if len(strides) and strides[0] > 0 else 0
    if not len(strides) or list(strides) != [2 ** (first + i) for i in range(len(strides))]:
        raise ValueError(f"strides={strides!r} must be powers of 2, each twice the one before.")
    return first


def bin_samples(low, high, bins, size, samples, aligned):
    """Where the bins of one axis are sampled.

    Args:
        low, high: float, `(...)`: both ends of each box, in places of the map.
        bins: int. Bins of a box.
        size: int, or `(...)`: places of the map along this axis.
        samples: int: places of a bin; or `(most,)`, a tuple: a bin then has as many as its length, rounded up, and at
            most so many.
        aligned: bool. Whether the middle of the first pixel is at 0.5, as it should; else it is at 0, and a box is at
            least as long as one place.

    Returns:
        low: int32, `(..., bins * samples)`: the place before each sample.
        share: float, `(..., bins * samples)`: how much of the sample is of the place after it, in [0, 1].
        weight: float, `(..., bins * samples)`: what the sample adds to its bin; 0 outside of the map.

    Example:

    >>> low, share, weight = bin_samples(tf.constant([1.0]), tf.constant([5.0]), 2, 8, samples=1, aligned=True)
    >>> (tf.cast(low, tf.float32) + share).numpy(), weight.numpy()
    (array([[1.5, 3.5]], dtype=float32), array([[1., 1.]], dtype=float32))
    """
    length = high - low if aligned else tf.maximum(high - low, 1.0)
    start = low - 0.5 if aligned else low
    if isinstance(samples, tuple):
        (most,) = samples
        count = tf.minimum(tf.maximum(tf.math.ceil(length / bins), 1.0), float(most))  # (...)
    else:
        most, count = samples, tf.fill(tf.shape(length), float(samples))
    number = tf.constant([[i, j] for i in range(bins) for j in range(most)], length.dtype)  # of the bin, and in it
    number, within = tf.unstack(number, 2, axis=-1)  # (bins * samples,)
    start, length, count = (tf.expand_dims(x, -1) for x in (start, length, tf.cast(count, length.dtype)))
    place = start + (number + (within + 0.5) / count) * (length / bins)
    size = tf.cast(size, length.dtype)
    size = size if size.shape.rank == 0 else tf.expand_dims(size, -1)
    inside = tf.logical_and(tf.logical_and(place >= -1.0, place <= size), within < count)
    place = tf.minimum(tf.maximum(place, 0.0), size - 1.0)
    before = tf.floor(place)
    return tf.cast(before, tf.int32), place - before, tf.cast(inside, length.dtype) / count


def roi_align(
    maps,
    boxes,
    size=7,
    strides=(4, 8, 16, 32),
    *,
    samples=2,
    aligned=True,
    canonical_side=224.0,
    canonical_level=4,
    form="gather",
):
    """Features of a fixed size for each box.

    Args:
        maps: sequence of `(batch, height, width, channels)`, one for each level, the finest first.
        boxes: `(batch, boxes, 4)`, xyxy in pixels of the image. They have no gradient. A box outside of the image has
            features of 0; a number that is not finite counts as 0.
        size: int, or `(height, width)`: the bins of a box.
        strides: sequence of int, one for each level: see `box_levels`. A single level may have any stride.
        samples: int, at least 1: places of a bin along each axis.
        aligned: bool. False for weights of torchvision: places are then half a pixel off, and a box has at least the
            side of one place.
        canonical_side, canonical_level: see `box_levels`.
        form: "gather" or "matrix".

    Returns:
        The dtype of the maps, `(batch * boxes, height, width, channels)`: the boxes of the first image come first.

    Raises:
        ValueError: if the levels do not fit the strides, or a size or `form` is wrong.

    Example:

    >>> ramp = tf.tile(tf.reshape(tf.range(8.0), (1, 1, 8, 1)), (1, 8, 1, 1))
    >>> roi_align([ramp], [[[8.0, 8.0, 24.0, 24.0]]], size=2, strides=(4,)).numpy()[0, :, :, 0]
    array([[2.5, 4.5],
           [2.5, 4.5]], dtype=float32)
    """
    check_choice("form", form, ("gather", "matrix"))
    maps = [tf.convert_to_tensor(x) for x in maps]
    if len(maps) != len(strides):
        raise ValueError(f"There are {len(maps)} maps; strides={strides!r} must have one number for each.")
    if samples < 1:
        raise ValueError(f"samples={samples} must be at least 1.")
    bins = (size, size) if isinstance(size, int) else tuple(size)
    boxes = tf.stop_gradient(full_precision(boxes))
    boxes = tf.where(tf.math.is_finite(boxes), boxes, 0.0)
    if len(maps) == 1:
        levels = tf.zeros(tf.shape(boxes)[:-1], tf.int32)
    else:
        levels = box_levels(boxes, strides, canonical_side, canonical_level)
    function = _by_gather if form == "gather" else _by_matrix
    pooled = function(maps, boxes, levels, bins, strides, samples, aligned)
    return tf.ensure_shape(pooled, (None, *bins, maps[0].shape[-1]))


def _by_gather(maps, boxes, levels, bins, strides, samples, aligned):
    channels, shapes = maps[0].shape[-1], [x.shape[1:3] for x in maps]
    batch, count = tf.shape(boxes)[0], boxes.shape[1]
    table = tf.concat([tf.reshape(x, (batch, h * w, channels)) for x, (h, w) in zip(maps, shapes, strict=True)], 1)
    starts = [sum(h * w for h, w in shapes[:i]) for i in range(len(shapes))]

    def of_level(values):
        return tf.gather(tf.constant(values), levels)  # (batch, boxes)

    heights, widths = of_level([h for h, _ in shapes]), of_level([w for _, w in shapes])
    x1, y1, x2, y2 = tf.unstack(boxes / tf.expand_dims(tf.cast(of_level(list(strides)), boxes.dtype), -1), 4, axis=-1)
    axes = []
    for low, high, number, places in ((y1, y2, bins[0], heights), (x1, x2, bins[1], widths)):
        before, share, weight = bin_samples(low, high, number, places, samples, aligned)
        after = tf.minimum(before + 1, tf.expand_dims(places - 1, -1))
        axes.append(((before, (1 - share) * weight), (after, share * weight)))  # (batch, boxes, bins * samples)
    total = 0.0
    for rows, row_weights in axes[0]:
        rows = tf.expand_dims(of_level(starts), -1) + rows * tf.expand_dims(widths, -1)
        for columns, column_weights in axes[1]:
            index = tf.expand_dims(rows, 3) + tf.expand_dims(columns, 2)  # (batch, boxes, rows, columns)
            weights = tf.expand_dims(row_weights, 3) * tf.expand_dims(column_weights, 2)
            taken = tf.gather(table, tf.reshape(index, (batch, -1)), batch_dims=1)  # (batch, places, channels)
            total += taken * tf.cast(tf.reshape(weights, (batch, -1, 1)), table.dtype)
    # The mean over the samples of a bin is a sum, since the weights are shares: first of columns, then of rows.
    height, width = bins
    total = tf.reduce_sum(tf.reshape(total, (-1, width, samples, channels)), axis=2)
    total = tf.reduce_sum(tf.reshape(total, (-1, samples, width, channels)), axis=1)
    return tf.reshape(total, (batch * count, height, width, channels))


def _by_matrix(maps, boxes, levels, bins, strides, samples, aligned):
    batch, count = tf.shape(boxes)[0], boxes.shape[1]
    height, width = bins
    total = 0.0
    for level, (features, stride) in enumerate(zip(maps, strides, strict=True)):
        _, rows, columns, channels = features.shape
        x1, y1, x2, y2 = tf.unstack(boxes / float(stride), 4, axis=-1)
        vertical = sample_matrix(*bin_samples(y1, y2, height, rows, samples, aligned), height, rows)
        horizontal = sample_matrix(*bin_samples(x1, x2, width, columns, samples, aligned), width, columns)
        here = tf.cast(tf.equal(levels, level), vertical.dtype)  # (batch, boxes)
        vertical *= tf.reshape(here, (batch, count, 1, 1))
        vertical, horizontal = (tf.cast(x, features.dtype) for x in (vertical, horizontal))
        vertical = tf.reshape(vertical, (batch, count * height, rows))
        part = tf.matmul(vertical, tf.reshape(features, (batch, rows, columns * channels)))
        part = tf.reshape(part, (batch * count, height, columns, channels))
        horizontal = tf.reshape(horizontal, (batch * count, 1, width, columns))
        total += tf.matmul(horizontal, part)  # (batch * boxes, height, width, channels)
    return total


def sample_matrix(before, share, weight, bins, size):
    """The samples of one axis as matrices, that take a map to bins.

    Args:
        before, share, weight: `(..., bins * samples)`, as of `bin_samples`.
        bins: int.
        size: int. Places of the map.

    Returns:
        float, `(..., bins, size)`.

    Example:

    >>> low, share, weight = bin_samples(tf.constant(1.0), tf.constant(5.0), 2, 6, samples=1, aligned=True)
    >>> sample_matrix(low, share, weight, 2, 6).numpy()
    array([[0. , 0.5, 0.5, 0. , 0. , 0. ],
           [0. , 0. , 0. , 0.5, 0.5, 0. ]], dtype=float32)
    """
    place = tf.expand_dims(tf.cast(before, share.dtype) + share, -1)
    hats = tf.nn.relu(1.0 - tf.abs(place - tf.range(size, dtype=share.dtype))) * tf.expand_dims(weight, -1)
    shape = tf.concat([tf.shape(weight)[:-1], [bins, weight.shape[-1] // bins, size]], 0)
    return tf.reduce_sum(tf.reshape(hats, shape), axis=-2)
