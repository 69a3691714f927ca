"""Own graphs: how the tables of nodes and edges are read, the way to an answer, and what is refused."""

import numpy as np
import pytest
from own import write_graph

from keras_dl.files import FileError
from keras_dl.recipes import gnn
from keras_dl.recipes.data import open_data, understand
from keras_dl.recipes.prediction import predict
from keras_dl.recipes.training import commands, recipe


def test_a_graph_of_two_tables(tmp_path):
    data = open_data(write_graph(tmp_path), target="club")
    assert (data.form, data.labels) == ("graph", ("chess", "choir"))
    assert data.counts == {"train": 22, "test": 8, "validation": 6}
    assert data.facts["graph"] == "40 nodes, 80 edges"
    assert data.facts["unknown"] == "4 nodes without a class"
    assert data.notes == [
        "left out 2 edges that are there twice, or go from a node to itself",
        "left out the columns since of edges.csv",
    ]
    features, edges = data.metadata["features"], data.metadata["edges"]
    np.testing.assert_allclose(features.mean(0), [0, 0.5, 0.5], atol=1e-6)
    np.testing.assert_allclose(features[:, 0].std(), 1, rtol=1e-5)
    assert {(1, 0), (0, 1), (39, 20), (20, 39)} <= set(map(tuple, edges.tolist()))
    rows = np.concatenate([columns["node"] for columns in data.splits.values()])
    assert sorted(rows) == [i for i in range(40) if i % 10]
    assert understand(tmp_path, target="club")["recipes"] == ["gnn"]
    options = recipe.find("gnn").options("graph", data=str(tmp_path), target="club", batch_size=24)
    found = gnn.load_data(options, "gcn-0")
    inputs, labels, weights = next(found.test.as_numpy_iterator())
    assert (inputs["nodes"].shape, inputs["edges"].shape) == ((1, 40, 3), (1, 160, 2))
    np.testing.assert_array_equal(
        labels[0, weights[0] > 0], data.splits["test"]["label"][np.argsort(data.splits["test"]["node"])]
    )
    assert not gnn.load_data(options, "mlp-0").arrays["row"]["edge_mask"].any()


def test_a_graph_with_its_own_split(tmp_path):
    data = open_data(write_graph(tmp_path, split=True), target="club")
    assert sorted(data.splits["test"]["node"]) == [i for i in range(40) if i % 3 == 0 and i % 10]
    assert data.how == "as the table has it; a fifth of the rest to stop by"
    assert not set(data.splits["train"]["node"]) & set(data.splits["validation"]["node"])


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("nodes.csv", "p2,", "p1,", "has the name 'p1', which line 3 has too, in line 4, column 'name'"),
        ("nodes.csv", ",south,chess", ",,chess", r"has no value \(''\) in line 4, column 'town'"),
        ("nodes.csv", "choir", "chess", "has the one class 'chess' in column 'club'"),
        ("edges.csv", "p2,p3,", "p2,p99,", "has 'p99', which is no node of nodes.csv, in line 6, column 'to'"),
        ("nodes.csv", ",train", ",tran", "has 'tran', which is not train, validation, test or nothing, in line 3"),
        ("nodes.csv", "south,,", "south,,test", "has 'test' for a node without a class in line 2"),
    ],
)
def test_wrong_graphs_are_named(file, old, new, message, tmp_path):
    path = write_graph(tmp_path, split=True) / file
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(FileError, match=message):
        open_data(tmp_path, target="club")


def test_targets_of_graphs(tmp_path):
    write_graph(tmp_path)
    with pytest.raises(recipe.OptionError, match="with the classes by --target: age, town, club"):
        open_data(tmp_path)
    with pytest.raises(FileError, match="has values, and not at least two classes, in column 'age'"):
        open_data(tmp_path, target="age")


def test_from_a_graph_to_an_answer(tmp_path):
    folder, run = write_graph(tmp_path / "people"), tmp_path / "run"
    report = commands.train("gnn", data=folder, target="club", output=run, jit="off", epochs=30, learning_rate=0.05)
    assert report["value"] >= 5 / 6
    file = commands.export(run)["path"]
    for source in (run, file):
        answers = {answer["input"]: answer["classes"][0]["label"] for answer in predict(source, [folder])}
        # Those whose club is not known, too: their neighbors tell it.
        assert [answers[f"p{i}"] for i in (0, 10, 20, 30)] == ["chess", "chess", "choir", "choir"]
    with pytest.raises(FileError, match=r"has 60 nodes and 120 edges; the model takes 40 and 80\."):
        predict(file, [write_graph(tmp_path / "more", 60)])
    with pytest.raises(FileError, match=r"is no folder with nodes\.csv and edges\.csv"):
        predict(run, [folder / "nodes.csv"])
