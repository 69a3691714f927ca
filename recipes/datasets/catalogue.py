"""The list of data sets, and their preparation."""

import contextlib
import difflib
import io
import os
import pathlib
import re
import sys
from importlib.metadata import version
from typing import NamedTuple

import tensorflow as tf
import tensorflow_datasets as tfds

from keras_dl.files import reason
from keras_dl.recipes.datasets.adding_problem import AddingProblem
from keras_dl.recipes.datasets.bible import Bible
from keras_dl.recipes.datasets.citations import Citeseer, Cora, Pubmed
from keras_dl.recipes.datasets.cmudict import Cmudict
from keras_dl.recipes.datasets.digit_scenes import DigitScenes
from keras_dl.recipes.datasets.emoji_styles import EmojiStyles
from keras_dl.recipes.datasets.formulas import CopyMemory, SequenceReversal
from keras_dl.recipes.datasets.furniture import Furniture
from keras_dl.recipes.datasets.gaussian_pair import GaussianPair
from keras_dl.recipes.datasets.gaussian_ring import GaussianRing
from keras_dl.recipes.datasets.hela_nuclei import HelaNuclei
from keras_dl.recipes.datasets.mnist_5k import Mnist5k
from keras_dl.recipes.datasets.mnist_optdigits import MnistOptdigits
from keras_dl.recipes.datasets.molecules import Freesolv, Solubility
from keras_dl.recipes.datasets.network import reachable_hosts_only
from keras_dl.recipes.datasets.points_and_paths import Spirals, TwoMoons
from keras_dl.recipes.datasets.primitive_parts import PrimitiveParts
from keras_dl.recipes.datasets.rotated_mnist import RotatedMnist
from keras_dl.recipes.datasets.series import BasicMotions, GunPoint, ItalyPowerDemand, JapaneseVowels
from keras_dl.recipes.datasets.solids import AnalyticSolids, RandomObjects
from keras_dl.recipes.datasets.tables import BreastCancer, Diabetes, Optdigits
from keras_dl.recipes.datasets.traced_scene import TracedScene
from keras_dl.recipes.datasets.tree_crowns import TreeCrowns
from keras_dl.recipes.datasets.wheels import DataError

BUILDERS = (
    Mnist5k,
    RotatedMnist,
    DigitScenes,
    Optdigits,
    BreastCancer,
    Diabetes,
    Cora,
    Citeseer,
    Pubmed,
    Freesolv,
    Solubility,
    JapaneseVowels,
    BasicMotions,
    GunPoint,
    ItalyPowerDemand,
    AddingProblem,
    CopyMemory,
    SequenceReversal,
    Cmudict,
    Bible,
    TwoMoons,
    Spirals,
    GaussianRing,
    GaussianPair,
    PrimitiveParts,
    Furniture,
    TracedScene,
    RandomObjects,
    AnalyticSolids,
    MnistOptdigits,
    EmojiStyles,
    HelaNuclei,
    TreeCrowns,
)


class Entry(NamedTuple):
    """One data set of the catalogue.

    Attributes:
        name: str, as `tfds.load` takes it.
        title: str, one line.
        licence: str, one line.
        source: str. Distribution and version with the data, or "formula" for generated data.
        size: int. Bytes to download; 0 if the data is installed already.
        examples: dict of int. Number of examples by split.
    """

    name: str
    title: str
    licence: str
    source: str
    size: int
    examples: dict[str, int]


def catalogue():
    """All data sets of this package: list of `Entry`."""
    return [_entry(builder) for builder in BUILDERS]


def _entry(builder):
    files = builder.SOURCE if isinstance(builder.SOURCE, list) else [builder.SOURCE] if builder.SOURCE else []
    origin = builder.ORIGIN or f"scikit-learn {version('scikit-learn')}"
    source = ", ".join(f"{file.distribution} {file.version}" for file in files) or origin
    size = sum(file.bytes for file in files)
    return Entry(builder.name, builder.TITLE, builder.LICENCE, source, size, builder.EXAMPLES)


def prepare(name, data_dir=None, quiet=False):
    """Downloads and builds one data set, unless it is already prepared.

    The messages of TFDS go to stderr, not to stdout.

    Args:
        name: str. A data set of the catalogue, or any other that TFDS knows, with its config
            (`"coco/2017"`) where it has several.
        data_dir: str or path. Where TFDS keeps data: by default the environment variable
            `TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
        quiet: bool. Says nothing and shows no progress bars, which are on again afterwards.

    Returns:
        The `tfds.core.DatasetBuilder`, ready for `as_dataset`.

    Raises:
        ValueError: if no data set has that name; the message names near ones.
        DataError: if its data cannot be downloaded, cannot be written, or is damaged.
    """
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        known = [*(b.name for b in BUILDERS), *tfds.list_builders(with_community_datasets=False)]
        near = difflib.get_close_matches(name, dict.fromkeys(known))
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        ours = ", ".join(b.name for b in BUILDERS)
        raise ValueError(f"There is no data set name={name!r}.{hint} Choose one of {ours}, or one of TFDS.") from error
    except (AssertionError, ValueError) as error:  # no such version or configuration, or no name at all
        why = " ".join(str(error).rpartition('": ')[2].split())
        raise ValueError(f"There is no data set name={name!r}: {why}") from error
    except Exception as error:
        if type(error).__name__ != "ParseError":  # of protobuf, of which only TFDS knows
            raise
        files = " or ".join(map(str, _info_files(name, data_dir)))
        why = reason(error).rpartition('}": ')[2]  # behind the arguments of the builder
        again = f"Delete its folder, and have it prepared again: keras-dl data prepare {name}."
        raise DataError(f"{files} is damaged: {why}. {again}") from error
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(io.StringIO() if quiet else sys.stderr))
        if quiet:
            tfds.disable_progress_bar()
            stack.callback(tfds.enable_progress_bar)
        stack.enter_context(reachable_hosts_only())
        try:
            builder.download_and_prepare()
        except AssertionError as error:  # so TFDS says that files are missing which only the user can get
            raise DataError(f"{name} could not be prepared: {' '.join(str(error).split())}") from error
        except (OSError, tf.errors.OpError) as error:
            network = isinstance(error, ConnectionError)
            check = "the network" if network else "that this folder can be written and its disk has room"
            raise DataError(f"{name} could not be prepared in {builder.data_dir}: {error} Check {check}.") from error
    return builder


def _info_files(name, data_dir):
    """The descriptions that TFDS has written of a data set: list of paths."""
    folder = pathlib.Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    return sorted((folder / re.split("[:/]", name)[0]).rglob("dataset_info.json"))
