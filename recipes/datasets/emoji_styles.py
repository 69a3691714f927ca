"""Emoji of two designers: not paired for training, paired for the test, in the splits of TFDS's `cycle_gan`."""

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_dl.recipes.datasets.builder import Builder
from keras_dl.recipes.datasets.tarballs import Tarball

TWITTER = Tarball(
    "emoji-datasource-twitter-16.0.0.tgz",
    sha256="f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
    licence="MIT",
    bytes=61683754,
)
GOOGLE = Tarball(
    "emoji-datasource-google-16.0.0.tgz",
    sha256="fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    licence="MIT",
    bytes=74344091,
)
SEED = 2026
TESTED = 500  # pairs
TONES = tuple(f"1f3f{digit}" for digit in "bcdef")  # in the names of emoji with a color of skin


def read_emoji(tarball, style):
    """The emoji of one designer on white: dict of uint8 `(64, 64, 3)` by code points, such as `"1f600"`.

    Those with a color of skin are left out: a pair of them in both halves would be nearly a pair of images.

    Raises:
        DataError: if the package is not available.
    """
    found = {}
    for name, content in tarball.members(f"package/img/{style}/64"):
        code = name.removesuffix(".png")
        if not any(tone in code.split("-") for tone in TONES):
            image = tf.io.decode_png(content, channels=4).numpy().astype("float32")
            cover = image[..., 3:] / 255
            found[code] = np.rint(image[..., :3] * cover + 255 * (1 - cover)).astype(np.uint8)
    return found


def halves(codes, seed=SEED, tested=TESTED):
    """Emoji of domain A, of domain B, and of the test, which no two share: dict of lists of str.

    Args:
        codes: list of str, those that both designers have drawn.
        seed: int.
        tested: int.

    Example:

    >>> {split: len(codes) for split, codes in halves([f"1f6{i:02x}" for i in range(30)], tested=10).items()}
    {'test': 10, 'trainA': 10, 'trainB': 10}
    """
    order = np.random.RandomState(seed).permutation(sorted(codes)).tolist()
    middle = tested + (len(order) - tested) // 2
    return {"test": order[:tested], "trainA": order[tested:middle], "trainB": order[middle:]}


class EmojiStyles(Builder):
    """Emoji by Twitter and by Google."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "703 emoji of each designer for training, no emoji in both; 500 pairs for the test."}
    TITLE = "Emoji by Twitter and by Google: not paired for training, paired for the test, 64x64"
    LICENCE = "MIT (emoji-datasource); drawings: CC BY 4.0 (Twitter), Apache-2.0 (Google)"
    SOURCE = [TWITTER, GOOGLE]
    EXAMPLES = {"trainA": 703, "trainB": 703, "testA": 500, "testB": 500}

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"""
            Composed: emoji on white, in the drawings of Twitter (domain A) and of Google (domain B), without those that
            differ in the color of skin alone. The emoji that A has for training are others than those of B. The test
            splits hold the same {TESTED} emoji in both drawings, with the same `code`, drawn with the seed {SEED}.
            License: {self.LICENCE}.
            """,
            features=tfds.features.FeaturesDict(
                {"image": tfds.features.Image(shape=(64, 64, 3)), "code": tfds.features.Text()}
            ),
            homepage="https://github.com/iamcal/emoji-data",
            license=self.LICENCE,
            citation="""
            @misc{emoji-data,
              title={emoji-data: Easy to parse data and spritesheets for emoji},
              author={Henderson, Cal},
              howpublished={https://github.com/iamcal/emoji-data}
            }
            """,
            metadata=tfds.core.MetadataDict(
                source=[file.requirement for file in self.SOURCE], sha256=[file.sha256 for file in self.SOURCE]
            ),
        )

    def _split_generators(self, dl_manager):
        drawn = {
            side: read_emoji(tarball, style)
            for side, style, tarball in zip("AB", ("twitter", "google"), self.SOURCE, strict=True)
        }
        codes = halves([code for code in drawn["A"] if code in drawn["B"]])
        chosen = {
            f"{part}{side}": codes.get(f"{part}{side}", codes["test"]) for part in ("train", "test") for side in "AB"
        }
        return {split: self._generate_examples(drawn[split[-1]], names) for split, names in chosen.items()}

    def _generate_examples(self, drawn, codes):
        for code in codes:
            yield code, {"image": drawn[code], "code": code}
