"""Published sets of images with a class for each pixel, read from the folder that a user has.

TensorFlow Datasets has PASCAL VOC's boxes, and not its masks. The folder of the challenge has them:

    VOC2012        JPEGImages/NAME.jpg, SegmentationClass/NAME.png, ImageSets/Segmentation/{train,val}.txt

The masks are images with a palette, whose indices are the classes. 255 is the border of objects, which is not judged.
"""

import pathlib
from typing import NamedTuple

import numpy as np

from keras_dl.extras import require
from keras_dl.recipes.datasets.wheels import DataError

VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


class Masks(NamedTuple):
    """Images and masks as files.

    Attributes:
        splits: dict by "train" and "test" of lists of `(image, mask)`: paths, str.
        labels: tuple of str. Names of the classes.
    """

    splits: dict
    labels: tuple[str, ...]


def voc2012(folder) -> Masks:
    """PASCAL VOC 2012: its train split, and its val split for the test.

    Raises:
        DataError: if a list or a file that it names is missing.
    """
    folder = pathlib.Path(folder)
    splits = {}
    for split, name in (("train", "train"), ("test", "val")):
        listed = folder / "ImageSets/Segmentation" / f"{name}.txt"
        if not listed.is_file():
            raise DataError(f"{listed} is missing: {folder} is not the folder VOC2012 of the challenge.")
        names = listed.read_text(encoding="utf-8").split()
        splits[split] = [
            (str(folder / f"JPEGImages/{x}.jpg"), str(folder / f"SegmentationClass/{x}.png")) for x in names
        ]
        if not names:
            raise DataError(f"{listed} names no image.")
        for path in (path for pair in splits[split] for path in pair if not pathlib.Path(path).is_file()):
            raise DataError(f"{path} is missing, and {listed} names it.")
    return Masks(splits, VOC_CLASSES)


def read_mask(path, num_classes):
    """The classes of the pixels of a mask with a palette: int32, `(height, width)`.

    Raises:
        DataError: if it has no palette, or a class is out of its range.
    """
    image = require("PIL.Image", extra="recipes")
    with image.open(path) as file:
        mask, mode = np.array(file), file.mode
    if mode not in ("P", "L"):
        raise DataError(f"{path} is an image of mode {mode}; it must have a palette (P) or gray values (L) as classes.")
    wrong = mask[(mask >= num_classes) & (mask != 255)]
    if wrong.size:
        raise DataError(f"{path} has the class {wrong[0]}; it must be in [0, {num_classes}), or 255 for none.")
    return mask.astype("int32")
