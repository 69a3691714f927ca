"""Own data once it is read: its rows by split, and what pipelines ask of a builder of TensorFlow Datasets.

Files of images stay where they are, and are read when they are used. `tfds.ImageFolder` does the same, but makes no
split, and leaves out files that it does not know without a word.
"""

import dataclasses
import functools
import hashlib
import pathlib
import types
from typing import Any

import numpy as np
import tensorflow as tf

from keras_dl.extras import require
from keras_dl.files import FileError
from keras_dl.recipes.data.headers import PLAIN, upright
from keras_dl.recipes.training.recipe import OptionError

TEST_SHARE = 0.2  # of the examples, where the data has no test split
WHOLE = 1 << 20  # bytes: larger files enter the fingerprint by their size, their first and their last bytes
ENDS = 1 << 16
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclasses.dataclass
class OwnData:
    """Data of a user, with the interface of a TFDS builder that the pipelines use.

    Attributes:
        path: `pathlib.Path`. The folder or file.
        form: str, one of `keras_dl.recipes.data.FORMS`.
        features: dict of `tfds.features` by name. Those that are images hold paths in `splits`.
        splits: dict by "train", "test" and perhaps "validation" of dicts of columns, sequences of one length.
        files: list of paths that were read or are going to be, for the fingerprint.
        how: str. Where the split comes from, in words.
        facts: dict of what `keras-dl data check` says beside classes and counts.
        notes: list of str. What was left out or changed.
        labels: tuple of str. Names of the classes; empty for regression and text.
        metadata: dict of what a pipeline needs beside the rows.
        problem: function without arguments that reads all files and returns what is wrong with the first broken one, a
            `FileError`, or None.
    """

    path: pathlib.Path
    form: str
    features: dict
    splits: dict[str, dict]
    files: list
    how: str
    facts: dict = dataclasses.field(default_factory=dict)
    notes: list = dataclasses.field(default_factory=list)
    labels: tuple[str, ...] = ()
    metadata: dict = dataclasses.field(default_factory=dict)
    problem: Any = None

    name = "own"

    def __post_init__(self):
        self.fingerprint = fingerprint(self.path, self.files)
        self.counts = {split: len(next(iter(columns.values()))) for split, columns in self.splits.items()}
        self.info = types.SimpleNamespace(
            features=self.features,
            splits={split: types.SimpleNamespace(num_examples=count) for split, count in self.counts.items()},
            metadata=self.metadata,
        )

    @property
    def origin(self) -> dict:
        """Name, version, license and form, as arguments of `Data`. The version is the fingerprint."""
        return dict(dataset=self.path.stem, version=self.fingerprint, licence="your own data", form=self.form)

    def rows(self, split):
        """A `tf.data.Dataset` of dicts: the rows of a split in their fixed order, with paths in the place of images."""
        columns = self.splits[split]
        if all(isinstance(column, np.ndarray) for column in columns.values()):
            return tf.data.Dataset.from_tensor_slices(columns)
        signature = {name: _spec(column) for name, column in columns.items()}

        def each():
            for values in zip(*columns.values(), strict=True):
                yield dict(zip(columns, values, strict=True))

        dataset = tf.data.Dataset.from_generator(each, output_signature=signature)
        return dataset.apply(tf.data.experimental.assert_cardinality(self.counts[split]))

    def decode(self, name, path):
        """The image of a path, a scalar string tensor, as it is seen: turned, where the metadata has `turns`."""
        image = self.features[name].decode_example(tf.io.read_file(path))
        return image if self._turns is None else upright(image, self._turns.lookup(path))

    @functools.cached_property
    def _turns(self):
        """A table of EXIF's orientations by path, where there are any."""
        turns = self.metadata.get("turns")
        if not turns:
            return None
        with tf.init_scope():  # `decode` is called while a pipeline is traced
            pairs = tf.lookup.KeyValueTensorInitializer(list(turns), list(turns.values()), tf.string, tf.int32)
            return tf.lookup.StaticHashTable(pairs, default_value=PLAIN)

    def as_dataset(self, split, decoders=None, shuffle_files=False):
        """As of a TFDS builder: rows with their images, or with encoded images for `decoders`."""
        images = require("tensorflow_datasets", extra="recipes").features.Image
        skipped = set(decoders or ())

        def read(row):
            return {
                name: x
                if not isinstance(self.features.get(name), images)
                else tf.io.read_file(x)
                if name in skipped
                else self.decode(name, x)
                for name, x in row.items()
            }

        return self.rows(split).map(read, tf.data.AUTOTUNE)

    def check_unchanged(self, expected):
        """Refuses data that is not that of a run.

        Raises:
            OptionError: if the fingerprint differs from `expected`, str or None for any.
        """
        if expected is not None and expected != self.fingerprint:
            raise OptionError(
                f"{self.path} is not the data that the run began with: its files have the fingerprint "
                f"{self.fingerprint}, and those of the run had {expected}. Put the old files back, or train anew with "
                "another --output."
            )


def _spec(column):
    """The `tf.TensorSpec` of an entry. The first axis of arrays may differ from row to row."""
    first = column[0]
    if isinstance(first, str):
        return tf.TensorSpec((), tf.string)
    first = np.asarray(first)
    return tf.TensorSpec((None, *first.shape[1:]) if first.ndim else (), first.dtype)


def fingerprint(path, files) -> str:
    """16 hexadecimal digits that change with the names and contents of files, and not with the folder's place.

    Of files of more than 1 MiB, only the size and the first and last 64 KiB count.

    Args:
        path: the folder that the names start at, or the only file.
        files: paths.
    """
    path, total = pathlib.Path(path), hashlib.sha256()
    for file in sorted(map(pathlib.Path, files)):
        name = file.relative_to(path).as_posix() if path.is_dir() else ""
        size = file.stat().st_size
        with open(file, "rb") as opened:
            if size <= WHOLE:
                content = opened.read()
            else:
                content = opened.read(ENDS)
                opened.seek(-ENDS, 2)
                content += opened.read()
        total.update(f"{name}\0{size}\0".encode() + hashlib.sha256(content).digest())
    return total.hexdigest()[:16]


def divided(labels, seed, names=None, path=None):
    """Rows of a train and of a test split: a fifth of each class is for the test, at least one example.

    Args:
        labels: int array `(n,)`; or the number of rows, for data without classes.
        seed: int.
        names: names of the classes, and `path`, of the data: for errors.

    Returns:
        Two int arrays of row numbers, each in a random order.

    Raises:
        FileError: if a class, or all of the data, has one example.

    Example:

    >>> train, test = divided(np.array([0] * 10 + [1] * 5), seed=0)
    >>> len(train), sorted(np.array([0] * 10 + [1] * 5)[test].tolist())
    (12, [0, 0, 1])
    """
    labels = np.zeros(labels, int) if np.ndim(labels) == 0 else np.asarray(labels)
    # The stream of RandomState is frozen by NumPy's policy; that of a Generator may change with a version.
    random, parts = np.random.RandomState(seed), ([], [])
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        if len(rows) < 2:
            of = "" if names is None else f" of the class {names[label]!r}"
            raise FileError(path, f"has one example{of}, and no test split. Two are needed, one for the test.")
        count = max(1, round(TEST_SHARE * len(rows)))
        parts[1].append(rows[:count])
        parts[0].append(rows[count:])
    train, test = (random.permutation(np.concatenate(part)) for part in parts)
    return train, test


def by_seed(seed):
    """How `divided` splits, in words."""
    return f"a fifth for the test, by the seed {seed}"


def mixed(count, seed):
    """Row numbers of a split that the data has, in a random order: a smoke run takes the first ones."""
    return np.random.RandomState(seed).permutation(count)


def subfolders(path):
    """The folders in a folder that are not hidden, by name."""
    return sorted(
        (x for x in path.iterdir() if x.is_dir() and not x.name.startswith((".", "__"))), key=lambda x: x.name
    )


def split_folders(path):
    """dict of folders by "train", "test" and "validation", where one of the folders in `path` is `train`; else None.

    Raises:
        FileError: if two folders are one split.
    """
    found = {}
    for folder in subfolders(path):
        split = SPLITS.get(folder.name.lower())
        if split in found:
            raise FileError(folder, f"is the same split as {found[split].name}. Give one of the two.")
        if split:
            found[split] = folder
    return found if "train" in found else None


def with_test(splits):
    """Splits whose validation split is the test split, where there is no other."""
    if "test" not in splits and "validation" in splits:
        return {"test" if split == "validation" else split: x for split, x in splits.items()}
    return splits
