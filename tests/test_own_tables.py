"""Own tables: columns, targets, splits, the way from a CSV file to an answer, and what is refused, with its line."""

import re

import numpy as np
import own
import pytest

from keras_dl.files import FileError
from keras_dl.recipes.data import from_folder, open_data, understand
from keras_dl.recipes.prediction import as_text, predict
from keras_dl.recipes.training import commands
from keras_dl.recipes.training.recipe import OptionError


def write(path, lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_columns_and_targets(tmp_path):
    file = write(tmp_path / "plants.csv", own.table(50))
    data = open_data(file, target="kind")
    assert (data.form, data.labels) == ("table", ("broad", "short", "tall"))
    assert data.metadata["columns"] == [
        {"name": "height", "kind": "number"},
        {"name": "width", "kind": "number"},
        {"name": "soil", "kind": "category", "values": ["clay", "sand"]},
        {"name": "weight", "kind": "number"},
    ]
    x, y = data.splits["train"]["features"], data.splits["train"]["label"]
    assert (x.shape, x.dtype, y.dtype) == ((data.counts["train"], 5), np.float32, np.int64)
    np.testing.assert_array_equal(x[:, 2] + x[:, 3], 1)
    np.testing.assert_array_equal(y == 2, x[:, 0] > 5)
    assert sum(data.counts.values()) == 50
    values = open_data(file, target="weight")
    assert (values.form, values.labels) == ("values", ())
    assert values.splits["test"]["target"].dtype == np.float32
    assert values.facts["target"].startswith("weight, a value from ")
    rows, answers = next(iter(from_folder(file, target="weight", batch_size=8).test))
    np.testing.assert_array_equal(rows, values.splits["test"]["features"][:8])
    np.testing.assert_array_equal(answers, values.splits["test"]["target"][:8])


@pytest.mark.parametrize(
    ("cells", "form", "labels"),
    [
        (["0", "1", "10", "2"], "table", ("0", "1", "2", "10")),
        (["0.0", "1.0", "10.0", "2.0"], "values", ()),
        ([str(i) for i in range(21)], "values", ()),
        (["yes", "no", "yes", "no"], "table", ("no", "yes")),
    ],
)
def test_a_target_is_a_class_or_a_value(cells, form, labels, tmp_path):
    file = write(tmp_path / "t.csv", ["a;b", *(f"{i},5;{cell}" for i, cell in enumerate(cells * 2))])
    with pytest.raises(FileError, match="different texts"):  # decimal commas are no numbers
        open_data(write(tmp_path / "long.csv", ["a;b", *(f"{i},5;{i % 2}" for i in range(300))]), target="b")
    data = open_data(file, target="b")
    assert (data.form, data.labels) == (form, labels)


def test_given_splits_and_categories_that_training_does_not_have(tmp_path):
    write(tmp_path / "train.csv", ["soil,kind", "clay,a", "sand,b"])
    write(tmp_path / "test.csv", ["kind,soil", "a,clay", "b,rock"])
    data = open_data(tmp_path, target="kind")
    assert data.counts == {"train": 2, "test": 2}
    found = sorted(zip(data.splits["test"]["label"].tolist(), data.splits["test"]["features"].tolist(), strict=True))
    assert found == [(0, [1.0, 0.0]), (1, [0.0, 0.0])]
    assert data.notes == ["test: 1 cells have a category that the training split does not have; all 0"]


def test_from_a_table_to_an_answer(tmp_path):
    file, run = write(tmp_path / "plants.csv", own.table(120)), tmp_path / "run"
    report = commands.train("mlp", data=file, target="kind", output=run, epochs=60, jit="off", baseline=True)
    assert (report["dataset"], report["target"], report["labels"]) == ("plants", "kind", ["broad", "short", "tall"])
    assert report["value"] > 0.7
    assert report["baseline_value"] > 0.5
    assert "--target kind" in report["command"]
    exported = commands.export(run)["path"]
    asked = write(tmp_path / "new.csv", ["id,soil,weight,width,height,kind", "1,sand,16.2,200,8,", "2,clay,5,200,2,"])
    for source in (run, exported):
        answers = predict(source, [asked])
        assert [a["classes"][0]["label"] for a in answers] == ["tall", "broad"]
        assert as_text(answers).startswith(f"{asked}:2: tall ")
    assert commands.evaluate(exported)["value"] == report["value"]
    for lines, message in (
        (["soil,weight,width", "sand,1,2"], "has no column 'height'. The model takes height, width, soil, weight"),
        (
            ["soil,weight,width,height", "rock,1,2,3"],
            "has 'rock', which is none of clay, sand, in line 2, column 'soil'",
        ),
        (["soil,weight,width,height", "clay,1,,3"], r"has no value in line 2, column 'width' \(''\)"),
        (["soil,weight,width,height", "clay,1,x,3"], "has 'x', which is no number, in line 2, column 'width'"),
    ):
        with pytest.raises(FileError, match=message):
            predict(exported, [write(tmp_path / "wrong.csv", lines)])
    file.write_text(file.read_text() + "3,200,clay,broad,7\n")
    with pytest.raises(OptionError, match="is not the data that the run began with"):
        commands.evaluate(run)


def test_from_a_table_to_a_value(tmp_path):
    file = write(tmp_path / "plants.csv", own.table(80))
    report = commands.train("mlp", data=file, target="weight", output=tmp_path / "run", epochs=1, jit="off", smoke=True)
    assert (report["metric"], report["form"], report["higher_is_better"]) == ("RMSE", "values", False)
    (answer, *_) = predict(tmp_path / "run", [file])
    assert len(answer["values"]) == 1


HEAD = "a,b,kind"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([HEAD, "1,2,x", "1,,y"], r"has no value in line 3, column 'b' \(''\). Fill it in, or leave the row out"),
        ([HEAD, "1,2,x", "", "1,NaN,y"], r"has no value in line 4, column 'b' \('NaN'\)"),
        ([HEAD, "1,2,x", "1,2"], "has 2 cells in line 3, and 3 columns"),
        ([HEAD, *["1,2,x", "3,4,y"] * 8, "1,o,y"], "has 'o', where other rows have numbers, in line 18, column 'b'"),
        ([HEAD], "has no row below the names"),
        (["1,2,3", "4,5,6"], "has no names of columns in line 1, but numbers"),
        (["a,a,kind", "1,2,x"], "has the column 'a' twice, in line 1"),
        (["a,,kind", "1,2,x"], "has a column without a name, in line 1"),
        ([HEAD, "1,2,x", "3,4,x"], "has the one class 'x' in column 'kind'"),
        ([HEAD, "1,2,x", "3,4,y", "3,4,y"], "has one example of the class 'x', and no test split"),
        (["kind", *"xyxy"], "has no column but 'kind'"),
        ([HEAD, '1,"2,x'], "is no table: unexpected end of data, in line 2"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(lines, message, tmp_path):
    file = write(tmp_path / "t.csv", lines)
    with pytest.raises(FileError, match=message) as error:
        open_data(file, target="kind" if "kind" in lines[0] else "x")
    assert error.value.path == str(file)


def test_other_bytes_and_wrong_splits_are_named(tmp_path):
    (tmp_path / "latin.csv").write_bytes("a,kind\n1,x\n2,é\n".encode("latin-1"))
    with pytest.raises(FileError, match="is not in UTF-8: line 3 has other bytes"):
        open_data(tmp_path / "latin.csv", target="kind")
    write(tmp_path / "train.csv", [HEAD, "1,2,x", "3,4,y"])
    write(tmp_path / "test.csv", [HEAD, "1,2,x", "3,4,z"])
    message = r"test.csv has the class 'z', which the training split does not have, in line 3, column 'kind'"
    with pytest.raises(FileError, match=message):
        open_data(tmp_path, target="kind")
    write(tmp_path / "test.csv", ["a,kind", "1,x"])
    with pytest.raises(FileError, match=r"test.csv has no column 'b', which train.csv has"):
        open_data(tmp_path, target="kind")


def test_the_target_is_asked_for(tmp_path):
    file = write(tmp_path / "plants.csv", own.table(10))
    for target in (None, "sort"):
        with pytest.raises(OptionError, match=re.escape("to predict by --target: height, width, soil, kind, weight")):
            commands.train("mlp", data=file, target=target, output=tmp_path / "run")
    with pytest.raises(OptionError, match=r"does not have a form that cnn takes: .*It looks like a table"):
        commands.train("cnn", data=file, target="kind", output=tmp_path / "run")
    assert understand(file, target="kind")["recipes"] == ["mlp"]
