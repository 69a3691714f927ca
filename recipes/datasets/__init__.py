"""Data sets that need no hub. Importing this package makes them known to TensorFlow Datasets.

After `import keras_dl.recipes.datasets`, plain `tfds.load("mnist_5k")` works, and so does each other name of
`catalogue()`.
"""

from keras_dl.extras import require

require("tensorflow_datasets", extra="recipes")

from keras_dl.recipes.datasets.adding_problem import AddingProblem  # noqa: E402
from keras_dl.recipes.datasets.bible import Bible  # noqa: E402
from keras_dl.recipes.datasets.catalogue import Entry, catalogue, prepare  # noqa: E402
from keras_dl.recipes.datasets.citations import Citeseer, Cora, Pubmed  # noqa: E402
from keras_dl.recipes.datasets.cmudict import Cmudict  # noqa: E402
from keras_dl.recipes.datasets.debs import Deb  # noqa: E402
from keras_dl.recipes.datasets.digit_scenes import DigitScenes  # noqa: E402
from keras_dl.recipes.datasets.emoji_styles import EmojiStyles  # noqa: E402
from keras_dl.recipes.datasets.formulas import CopyMemory, SequenceReversal  # noqa: E402
from keras_dl.recipes.datasets.furniture import Furniture  # noqa: E402
from keras_dl.recipes.datasets.gaussian_ring import GaussianRing  # noqa: E402
from keras_dl.recipes.datasets.hela_nuclei import HelaNuclei  # noqa: E402
from keras_dl.recipes.datasets.mnist_5k import Mnist5k  # noqa: E402
from keras_dl.recipes.datasets.mnist_optdigits import MnistOptdigits  # noqa: E402
from keras_dl.recipes.datasets.molecules import Freesolv, Solubility  # noqa: E402
from keras_dl.recipes.datasets.points_and_paths import Spirals, TwoMoons  # noqa: E402
from keras_dl.recipes.datasets.primitive_parts import PrimitiveParts  # noqa: E402
from keras_dl.recipes.datasets.rotated_mnist import RotatedMnist  # noqa: E402
from keras_dl.recipes.datasets.series import (  # noqa: E402
    BasicMotions,
    GunPoint,
    ItalyPowerDemand,
    JapaneseVowels,
)
from keras_dl.recipes.datasets.solids import AnalyticSolids, RandomObjects  # noqa: E402
from keras_dl.recipes.datasets.tables import BreastCancer, Diabetes, Optdigits  # noqa: E402
from keras_dl.recipes.datasets.tarballs import Tarball  # noqa: E402
from keras_dl.recipes.datasets.traced_scene import TracedScene  # noqa: E402
from keras_dl.recipes.datasets.tree_crowns import TreeCrowns  # noqa: E402
from keras_dl.recipes.datasets.wheels import DataError, Wheel, cache_dir  # noqa: E402

__all__ = [
    "AddingProblem",
    "AnalyticSolids",
    "BasicMotions",
    "Bible",
    "BreastCancer",
    "Citeseer",
    "Cmudict",
    "CopyMemory",
    "Cora",
    "DataError",
    "Deb",
    "Diabetes",
    "DigitScenes",
    "EmojiStyles",
    "Entry",
    "Freesolv",
    "Furniture",
    "GaussianRing",
    "GunPoint",
    "HelaNuclei",
    "ItalyPowerDemand",
    "JapaneseVowels",
    "Mnist5k",
    "MnistOptdigits",
    "Optdigits",
    "PrimitiveParts",
    "Pubmed",
    "RandomObjects",
    "RotatedMnist",
    "SequenceReversal",
    "Solubility",
    "Spirals",
    "Tarball",
    "TracedScene",
    "TreeCrowns",
    "TwoMoons",
    "Wheel",
    "cache_dir",
    "catalogue",
    "prepare",
]
