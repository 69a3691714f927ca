"""Time series for classification: sets of the UCR and UEA archives, read from the `.ts` files in the wheel of aeon.

Each has the split of its archive. To add another of the sets in the wheel, subclass `Series`.
"""

import numpy as np
import tensorflow_datasets as tfds

from keras_dl.recipes.datasets.builder import Builder
from keras_dl.recipes.datasets.wheels import DataError, Wheel

AEON = Wheel(
    "aeon-1.6.0-py3-none-any.whl",
    sha256="d05227086706f80111ac5fee8de4d5d3115bb3bcfd1c786c8629393055816409",
    licence="BSD-3-Clause",
    bytes=6421000,
)
HOMEPAGE = "https://www.timeseriesclassification.com"
ARCHIVE = """
@article{bagnall2018uea,
  title={The UEA multivariate time series classification archive, 2018},
  author={Bagnall, Anthony and Dau, Hoang Anh and Lines, Jason and Flynn, Michael and Large, James and
    Bostrom, Aaron and Southam, Paul and Keogh, Eamonn},
  journal={arXiv:1811.00075},
  year={2018}
}
"""


def read_ts(text):
    """Reads a `.ts` file: one series per line, channels separated by colons, the class after the last channel.

    Args:
        text: str.

    Returns:
        sequences: list of float32 arrays `(steps, channels)`.
        names: list of str, the class of each.

    Raises:
        ValueError: if a line has channels of different lengths, or a value that is missing.

    Example:

    >>> sequences, names = read_ts("@data\\n1,2,3:4,5,6:north\\n7:8:south\\n")
    >>> sequences[0].shape, sequences[1].shape, names
    ((3, 2), (1, 2), ['north', 'south'])
    """
    lines = [line.strip() for line in text.splitlines()]
    start = next(i for i, line in enumerate(lines) if line.lower() == "@data")
    sequences, names = [], []
    for line in filter(None, lines[start + 1 :]):
        *channels, name = line.split(":")
        columns = [np.array(channel.split(","), "float32") for channel in channels]
        sequence = np.stack(columns, axis=-1)
        if not np.isfinite(sequence).all():
            raise ValueError(f"A series of class {name} has missing values.")
        sequences.append(sequence)
        names.append(name)
    return sequences, names


class Series(Builder, skip_registration=True):
    """The base class of the data sets.

    Attributes that a subclass sets beside those of `Builder`:
        MEMBER: str. The set's name in the archive and in the wheel.
        CHANNELS: int.
        STEPS: int. Of the longest series.
        CLASSES: tuple of str, as the file has them.
        ABOUT: str. The measurement, and its authors.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "The archive's split."}
    LICENCE = "BSD-3-Clause (aeon); the archive's makers name none"
    SOURCE = AEON

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"""
            {self.ABOUT} Series of up to {self.STEPS} steps with {self.CHANNELS} channels, as they are, not
            standardized; {len(self.CLASSES)} classes. The split is the archive's. Read from
            `aeon/datasets/data/{self.MEMBER}` in the wheel {AEON.filename}.
            License: {self.LICENCE}.
            """,
            features=tfds.features.FeaturesDict(
                {
                    "sequence": tfds.features.Tensor(shape=(None, self.CHANNELS), dtype=np.float32),
                    "label": tfds.features.ClassLabel(names=list(self.CLASSES)),
                }
            ),
            supervised_keys=("sequence", "label"),
            homepage=HOMEPAGE,
            citation=ARCHIVE,
            license=self.LICENCE,
            metadata=tfds.core.MetadataDict(source=AEON.requirement, sha256=AEON.sha256, steps=self.STEPS),
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self.EXAMPLES}

    def _generate_examples(self, split):
        member = f"aeon/datasets/data/{self.MEMBER}/{self.MEMBER}_{split.upper()}.ts"
        sequences, names = read_ts(AEON.read(member).decode())
        if len(sequences) != self.EXAMPLES[split]:
            raise DataError(f"{member} has {len(sequences)} series, not {self.EXAMPLES[split]}.")
        for i, (sequence, name) in enumerate(zip(sequences, names, strict=True)):
            yield i, {"sequence": sequence, "label": self.CLASSES.index(name)}


class JapaneseVowels(Series):
    """Japanese Vowels."""

    TITLE = "Japanese Vowels: 640 utterances of two vowels by 9 speakers, 12 channels, 7 to 29 steps"
    LICENCE = "BSD-3-Clause (aeon); the data itself: CC BY 4.0 (UCI)"
    EXAMPLES = {"train": 270, "test": 370}
    MEMBER, CHANNELS, STEPS = "JapaneseVowels", 12, 29
    CLASSES = tuple("123456789")
    ABOUT = """Nine male speakers say the vowels a and e (Kudo, Toyama and Shimbo 1999, Pattern Recognition Letters 20):
            who is it? The channels are the coefficients of a linear prediction of degree 12."""


class BasicMotions(Series):
    """Basic Motions."""

    TITLE = "Basic Motions: 80 recordings of a smart watch in 4 activities, 6 channels, 100 steps"
    EXAMPLES = {"train": 40, "test": 40}
    MEMBER, CHANNELS, STEPS = "BasicMotions", 6, 100
    CLASSES = ("Standing", "Running", "Walking", "Badminton")
    ABOUT = """Students stand, run, walk and play badminton with a smart watch, whose accelerometer and gyroscope have
            three axes each, ten times a second."""


class GunPoint(Series):
    """Gun Point."""

    TITLE = "Gun Point: 200 movements of a hand, with a gun or without, 1 channel, 150 steps"
    EXAMPLES = {"train": 50, "test": 150}
    MEMBER, CHANNELS, STEPS = "GunPoint", 1, 150
    CLASSES = ("1", "2")
    ABOUT = """An actor and an actress draw a gun from the hip and point it, or point a finger (Ratanamahatana and
            Keogh). The channel is the horizontal place of the right hand; class 1 has the gun."""


class ItalyPowerDemand(Series):
    """Italy Power Demand."""

    TITLE = "Italy Power Demand: 1,096 days, summer or winter, 1 channel, 24 steps"
    EXAMPLES = {"train": 67, "test": 1029}
    MEMBER, CHANNELS, STEPS = "ItalyPowerDemand", 1, 24
    CLASSES = ("1", "2")
    ABOUT = """Electrical power demand in Italy over a day (Keogh, Wei, Xi, Lonardi, Shieh and Sirowy 2006, VLDB): class
            1 is October to March, class 2 April to September."""
