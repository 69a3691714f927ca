"""The layout of TFDS's `coco` for images that are cut into tiles, with boxes and perhaps a map of instances.

A tile shows a piece of some objects. One that holds less than a quarter of an object is marked as a crowd: what a
detector finds there is not judged.
"""

import numpy as np
import tensorflow_datasets as tfds

SMALLEST_SHARE = 0.25


def features(side, channels, labels, instances):
    """The features of a data set of tiles.

    Args:
        side: int, pixels.
        channels: int.
        labels: sequence of str: the names of the classes.
        instances: bool. Whether there is an `instance_map`.

    Returns:
        `tfds.features.FeaturesDict`.
    """
    map_ = {"instance_map": tfds.features.Image(shape=(side, side, 1), use_colormap=True)} if instances else {}
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(side, side, channels), encoding_format="png"),
            "image/filename": tfds.features.Text(),
            "image/id": np.int64,
            **map_,
            "objects": tfds.features.Sequence(
                {
                    "id": np.int64,
                    "area": np.int64,
                    "bbox": tfds.features.BBoxFeature(),
                    "label": tfds.features.ClassLabel(names=labels),
                    "is_crowd": np.bool_,
                }
            ),
        }
    )


def annotation(box, side, label, object_id, area, share):
    """One entry of `objects`.

    Args:
        box: left, top, right, bottom in pixels of the tile.
        side: int, pixels.
        label: int.
        object_id: int.
        area: int, pixels.
        share: float. How much of the object is in the tile.
    """
    x1, y1, x2, y2 = (float(x) / side for x in box)
    return {
        "id": object_id,
        "area": int(area),
        "bbox": tfds.features.BBox(ymin=y1, xmin=x1, ymax=y2, xmax=x2),
        "label": label,
        "is_crowd": bool(share < SMALLEST_SHARE),
    }


def corners(height, width, side, left=0, right=None):
    """The upper left corners of the tiles of an image, row by row: list of (y, x). What fills no tile is left out.

    Example:

    >>> corners(250, 400, 100, left=100, right=350)
    [(0, 100), (0, 200), (100, 100), (100, 200)]
    """
    right = width if right is None else min(right, width)
    return [(y, x) for y in range(0, height - side + 1, side) for x in range(left, right - side + 1, side)]
