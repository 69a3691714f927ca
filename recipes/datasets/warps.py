"""Bilinear resampling of images in NumPy, so that a data set does not depend on the version of an image library."""

import numpy as np


def warp(image, matrix, shape):
    """Resamples an image by an affine map, with bilinear interpolation and zeros outside of the image.

    Args:
        image: `(height, width)`, any real dtype.
        matrix: float, `(2, 3)`. Takes an output pixel `(row, column, 1)` to the point
            `(row, column)` of the image at which it is sampled. Pixel centers are at integers.
        shape: `(rows, columns)` of the output.

    Returns:
        float64, `shape`.
    """
    padded = np.pad(np.asarray(image, np.float64), 1)
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    points = (down * rows + across * columns + shift for down, across, shift in matrix)
    # A point outside of the padded image lies on its rim of zeros after clipping.
    row, column = (np.clip(p + 1, 0, side - 1) for p, side in zip(points, padded.shape, strict=True))
    top, left = row.astype(int), column.astype(int)
    bottom, right = np.minimum(top + 1, padded.shape[0] - 1), np.minimum(left + 1, padded.shape[1] - 1)
    down, across = row - top, column - left
    upper = padded[top, left] * (1 - across) + padded[top, right] * across
    lower = padded[bottom, left] * (1 - across) + padded[bottom, right] * across
    return upper * (1 - down) + lower * down


def placement(degrees, scale, source_shape, shape):
    """The matrix for `warp` that scales an image, rotates it, and moves its center to the center of the output.

    Args:
        degrees: float. Counter-clockwise, as seen by the viewer.
        scale: float. Output pixels for a pixel of the image.
        source_shape: `(height, width)` of the image.
        shape: `(rows, columns)` of the output.

    Returns:
        float64, `(2, 3)`.
    """
    angle = np.deg2rad(degrees)
    linear = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / scale
    source_center, center = ((np.array(s) - 1) / 2 for s in (source_shape, shape))
    return np.column_stack([linear, source_center - linear @ center])
