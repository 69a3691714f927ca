"""Anchors: the boxes, and the points, from which a detector starts. NumPy, since they depend on shapes alone.

A level is one map of features, of a stride: one place of it stands for `stride x stride` pixels. Places are in the
order of a map that is reshaped: row by row, and all anchors of a place one after the other.

References: Ren et al. 2015, "Faster R-CNN", arXiv:1506.01497, section 3.1.1; Lin et al. 2016, "Feature Pyramid
Networks", arXiv:1612.03144, section 4.1; Tian et al. 2019, "FCOS", arXiv:1904.01355 (points).
"""

import numpy as np

_ROWS = 256  # boxes whose overlaps with all anchors are in memory at once


def base_anchors(sizes, ratios, rounded=False):
    """Anchors about the origin.

    Args:
        sizes: sequence of numbers: square roots of the areas, in pixels.
        ratios: sequence of numbers: height / width. The outer loop.
        rounded: bool. Corners are whole numbers, as in torchvision; or exact, as in detectron2.

    Returns:
        float32, `(ratios * sizes, 4)`, xyxy.

    Raises:
        ValueError: if a size or a ratio is not positive.

    Example:

    >>> base_anchors([32], [0.5, 1.0], rounded=True)
    array([[-23., -11.,  23.,  11.],
           [-16., -16.,  16.,  16.]], dtype=float32)
    """
    for name, values in (("sizes", sizes), ("ratios", ratios)):
        if not len(values) or not all(0 < value < np.inf for value in values):
            raise ValueError(f"{name}={values!r} must be positive numbers, at least one.")
    sizes, roots = np.asarray(sizes, "float32"), np.sqrt(np.asarray(ratios, "float32"))
    widths, heights = ((1 / roots)[:, None] * sizes).ravel(), (roots[:, None] * sizes).ravel()
    corners = np.stack([-widths, -heights, widths, heights], axis=1) / 2
    return np.round(corners) + np.float32(0) if rounded else corners  # -0 becomes 0


def grid_points(map_shape, stride, offset=0.5):
    """A point for each place of a level.

    Args:
        map_shape: `(height, width)` of the level.
        stride: number, or `(vertical, horizontal)`, in pixels.
        offset: float, in strides: 0.5 for the middles of places, 0 for their upper left corners.

    Returns:
        float32, `(height * width, 2)`: x, y in pixels.

    Example:

    >>> grid_points((1, 3), stride=8).tolist()
    [[4.0, 4.0], [12.0, 4.0], [20.0, 4.0]]
    """
    height, width = map_shape
    vertical, horizontal = np.broadcast_to(stride, (2,))
    y, x = np.mgrid[:height, :width].astype("float32") + np.float32(offset)
    return np.stack([x * horizontal, y * vertical], axis=-1).reshape(-1, 2).astype("float32")


def level_anchors(image_shape, map_shapes, sizes, ratios=(0.5, 1.0, 2.0), rounded=False, offset=0.0):
    """The anchors of all levels.

    Args:
        image_shape: `(height, width)` of the image that the network sees, padding included. A stride is its side,
            divided by that of the map, and rounded down.
        map_shapes: sequence of `(height, width)`, one for each level.
        sizes: sequence with a sequence of sizes for each level: see `base_anchors`.
        ratios: sequence of numbers, those of each level.
        rounded: bool. True for torchvision's anchors.
        offset: float, in strides. 0 puts centers at `i * stride`, as in torchvision and detectron2.

    Returns:
        list of float32, `(height * width * ratios * sizes, 4)`, xyxy in pixels, one for each level. Anchors may reach
        across the border of the image.

    Raises:
        ValueError: if there are not as many levels in `sizes` as in `map_shapes`, or a map has more places than pixels.

    Example:

    >>> fine, coarse = level_anchors((32, 32), [(4, 4), (2, 2)], sizes=[[8], [16]])
    >>> fine.shape, coarse.shape, fine[1].tolist()
    ((48, 4), (12, 4), [-4.0, -4.0, 4.0, 4.0])
    """
    if len(sizes) != len(map_shapes):
        raise ValueError(f"sizes={sizes!r} must have one sequence for each of the {len(map_shapes)} levels.")
    found = []
    for map_shape, level_sizes in zip(map_shapes, sizes, strict=True):
        stride = [side // places for side, places in zip(image_shape, map_shape, strict=True)]
        if min(stride) < 1:
            raise ValueError(f"map_shapes={map_shapes!r} has more places than image_shape={image_shape!r} has pixels.")
        base = base_anchors(level_sizes, ratios, rounded)
        points = np.tile(grid_points(map_shape, stride, offset), 2)  # (places, 4)
        found.append((points[:, None] + base).reshape(-1, 4))
    return found


def coverage(boxes, anchors):
    """The IoU of each box of a data set with the anchor that fits it best: to look at before a training.

    A box that no anchor covers by the threshold of positives is learned only as the best of its anchors. Choose `sizes`
    so that few boxes are below it.

    Args:
        boxes: `(n, 4)`, xyxy in pixels of the image that the network sees.
        anchors: `(m, 4)`, or what `level_anchors` returns.

    Returns:
        float32, `(n,)`.

    Example:

    >>> best = coverage([[0, 0, 8, 8], [0, 0, 2, 20]], level_anchors((32, 32), [(8, 8)], sizes=[[8]]))
    >>> best.round(2)
    array([1.  , 0.28], dtype=float32)
    """
    boxes = np.asarray(boxes, "float32").reshape(-1, 4)
    anchors = np.concatenate(anchors) if isinstance(anchors, list | tuple) else np.asarray(anchors)
    x1, y1, x2, y2 = anchors.T.astype("float32")
    areas = (x2 - x1) * (y2 - y1)
    best = np.zeros(len(boxes), "float32")
    for i in range(0, len(boxes), _ROWS):
        left, top, right, bottom = boxes[i : i + _ROWS].T[..., None]
        width = np.maximum(np.minimum(right, x2) - np.maximum(left, x1), 0)
        common = width * np.maximum(np.minimum(bottom, y2) - np.maximum(top, y1), 0)  # (rows, anchors)
        union = np.maximum((right - left) * (bottom - top), 0) + areas - common
        best[i : i + _ROWS] = (common / np.maximum(union, np.finfo("float32").tiny)).max(1, initial=0)
    return best
