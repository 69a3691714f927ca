"""Each kind of file that users give, damaged in fixed ways: one kind of error, with the path of the file in it."""

import dataclasses
import io
import json
import os
import pathlib
import shutil

import export_models as models
import keras
import numpy as np
import pytest
import toy

from keras_dl.export import Report, export, flatbuffer, inspect, load
from keras_dl.export.metadata import from_litert, into_litert
from keras_dl.files import FileError, read_json, replacing
from keras_dl.loading import load_model
from keras_dl.models.sequence import bert_weights
from keras_dl.recipes import datasets
from keras_dl.recipes.datasets import DataError
from keras_dl.recipes.training import exporting, folder, report, resume, runner
from keras_dl.recipes.training.batches import naming_damaged_data, open_dataset
from keras_dl.recipes.training.recipe import OptionError, Options
from keras_dl.text import Symbols, read_vocabularies
from keras_dl.weights import read_safetensors

REPORT = {
    **dict.fromkeys(
        ("recipe", "model", "dataset", "dataset_version", "metric", "baseline", "precision", "command"), "a"
    ),
    **{"value": 0.5, "baseline_value": 0.25, "seconds": 1.5, "epochs": 2, "seed": 0, "cpus": 2},
    **{"higher_is_better": True, "smoke": False, "jit": False, "variants": {"a": 0.5}, "aim": None, "aim_met": None},
}


def compiled():
    model = keras.Sequential([keras.Input((4,), name="features"), keras.layers.Dense(3)])
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with one whole file of each kind."""
    path = tmp_path_factory.mktemp("whole")
    model = compiled()
    model.save(path / "model.keras")
    model.save(path / "model.h5")
    resume.save(path / "state.npz", model, resume.Checkpoint(1, [{"loss": 0.5}], 2.0))
    export(model, path / "model.tflite")
    rows = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    export(model, path / "int8.tflite", quantization="int8", calibration=rows)
    export(model, path / "model.onnx", format="onnx")
    export(model, path / "saved_model", format="saved_model", metadata={"labels": ["a", "b", "c"]})
    (path / "report.json").write_text(json.dumps(REPORT))
    options = {"recipe": "cnn", "dataset": "mnist_5k", "epochs": 1, "batch_size": 8}
    record = {"options": options, "versions": {}, "jit": None, "resumed": 0, "replaces": None}
    (path / "run.json").write_text(json.dumps(record))
    header = json.dumps({"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}).encode()
    (path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    (path / "config.json").write_text(json.dumps({"model_type": "bert", "num_attention_heads": 2}))
    (path / "vocabularies.json").write_text(json.dumps({"letters": Symbols("abc").to_json()}))
    np.savez(path / "rows.npz", features=np.ones((5, 4), "float32"))
    datasets.prepare("two_moons", data_dir=path / "data", quiet=True)
    return path


BERT = {f"embeddings.{name}_embeddings.weight": np.zeros((3, 2)) for name in ("word", "position", "token_type")} | {
    "encoder.layer.0.intermediate.dense.weight": np.zeros((4, 2))
}


def two_moons(path):
    """Reads the data set in the folder `data` above a file."""
    with naming_damaged_data():
        root = next(parent for parent in path.parents if parent.name == "data")
        builder = open_dataset(Options("neural_ode", "two_moons", 1, 8, data_dir=str(root)))
        return [list(builder.as_dataset(split=split).as_numpy_iterator()) for split in ("train", "test")]


# How each file is read.
READ = {
    "report.json": lambda path: report.read(path.parent),
    "run.json": lambda path: folder.read_run(path.parent),
    "model.tflite.json": Report.load,
    "saved_model/assets.extra/keras_dl.json": lambda path: inspect(path.parent.parent),
    "saved_model/saved_model.pb": lambda path: load(path.parent),
    "model.keras": load_model,
    "model.h5": load_model,
    "model.tflite": lambda path: (inspect(path), load(path).serve("serve", features=np.ones((2, 4)))),
    "model.onnx": lambda path: (inspect(path), load(path).serve("serve", features=np.ones((2, 4)))),
    "w.safetensors": read_safetensors,
    "config.json": lambda path: bert_weights.read(BERT, path),
    "state.npz": lambda path: resume.restore(path, compiled()),
    "vocabularies.json": read_vocabularies,
    "rows.npz": lambda path: exporting.read_calibration(path, 4),
    "data/two_moons/1.0.0/dataset_info.json": two_moons,
    "data/two_moons/1.0.0/two_moons-train.tfrecord-00000-of-00001": two_moons,
}
# A changed byte of these files may be one that their formats do not check: of a weight, a name or a number.
UNCHECKED = tuple(name for name in READ if not name.endswith((".keras", ".npz", "-00001")))


def flipped(content, place):
    """The content with one bit of a byte changed; `place` is a share of the length."""
    changed = bytearray(content)
    changed[int(place * len(content))] ^= 0x10
    return bytes(changed)


def same_arrays(content, changed):
    """Whether two `.npz` files, as bytes, hold the same arrays by the same names."""
    first, second = (dict(np.load(io.BytesIO(x))) for x in (content, changed))
    return first.keys() == second.keys() and all(np.array_equal(first[key], second[key]) for key in first)


def error_of(read, path):
    """The message of the error that a damaged file may raise; None if it is read."""
    try:
        read(path)
    except (FileError, OptionError, DataError) as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", READ)
def test_a_damaged_file_is_named(whole, tmp_path, name):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    path = tmp_path / name
    content = path.read_bytes()
    READ[name](path)
    damaged = {"cut": content[: len(content) // 2], "empty": b"", "another type": b"[1, 2]", "zeros": bytes(64)}
    damaged |= {f"a bit at {place}": flipped(content, place) for place in (0.0, 0.2, 0.4, 0.6, 0.8)}
    for how, changed in damaged.items():
        path.write_bytes(changed)
        error = error_of(READ[name], path)
        if error is None:
            assert how.startswith("a bit"), f"{how} was not noticed"
            # A date or another field that a zip archive does not check changes no array.
            assert name in UNCHECKED or same_arrays(content, changed), how
        else:
            named = path.parent if name.endswith((".pb", "keras_dl.json", "run.json")) else path
            assert str(named) in error, how
            assert "\n" not in error, how


def test_a_damaged_checkpoint_names_the_way_out(whole, tmp_path):
    path = tmp_path / "state.npz"
    path.touch()
    with pytest.raises(FileError, match=r"state\.npz is not a whole checkpoint: it is empty\. .*--overwrite"):
        resume.restore(path, compiled())
    model = compiled()
    model.optimizer.learning_rate.assign(0.5)
    before = [np.asarray(v) for v in resume.state_variables(model)]
    path.write_bytes(flipped((whole / "state.npz").read_bytes(), 0.5))
    with pytest.raises(FileError, match="--overwrite"):
        resume.restore(path, model)
    for variable, value in zip(resume.state_variables(model), before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_run_with_a_damaged_checkpoint_starts_again_with_overwrite(tmp_path):
    def broken_off(outcome):
        raise RuntimeError("broken off")

    options = toy.RECIPE.options(epochs=1, jit="off")
    with pytest.raises(RuntimeError, match="broken off"):
        runner.train(dataclasses.replace(toy.RECIPE, picture=broken_off), options, tmp_path / "run")
    (tmp_path / "run/checkpoints/narrow.npz").write_bytes(b"")
    with pytest.raises(FileError, match=r"checkpoints/narrow\.npz is not a whole checkpoint: .*--overwrite"):
        runner.train(toy.RECIPE, options, tmp_path / "run", resume=True)
    assert runner.train(toy.RECIPE, options, tmp_path / "run", overwrite=True)["resumed"] == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a" 1}', r"it is not JSON \(Expecting ':' delimiter: line 1 column 6 \(char 5\)\)"),
        (b"\xff\xfe", "'utf-8' codec can't decode byte 0xff in position 0"),
        (b"[" * 100_000, "recursion"),
        (b"9" * 5000, "4300 digits"),
        (b'"text"', "it holds no JSON object"),
        (b'{"a": "b"}', "its 'a' is 'b'"),
        (b"{}", "it has no 'a'"),
    ],
)
def test_json_that_cannot_be_read(tmp_path, content, message):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(FileError, match=rf"x\.json is not a letter: .*{message}.* Write it again\.") as found:
        read_json(path, "a letter", "Write it again.", types={"a": int})
    assert found.value.path == str(path)


def test_metadata_of_a_litert_file_that_is_no_json(whole, tmp_path):
    model = flatbuffer.unpacked(into_litert((whole / "model.tflite").read_bytes(), {"labels": ["a"]}))
    (entry,) = [x for x in model.metadata if x.name == b"keras_dl"]
    model.buffers[entry.buffer].data = np.frombuffer(b'{"labels": ', np.uint8)
    path = tmp_path / "model.tflite"
    path.write_bytes(flatbuffer.packed(model))
    with pytest.raises(
        FileError, match=r"model\.tflite is not a whole file: its metadata cannot be read: it is not JSON"
    ):
        inspect(path)
    assert from_litert((whole / "model.tflite").read_bytes())["keras_dl"]["model"] == "sequential"


def test_a_file_that_ends_the_interpreter_ends_only_its_process(tmp_path):
    """LiteRT aborts at a scale of zero in an addition."""
    path = tmp_path / "int8.tflite"
    export(models.Classifier(), path, quantization="int8", calibration=[{"images": models.pixels(4)}])
    model = flatbuffer.unpacked(path.read_bytes())
    (tensor,) = [x for x in model.subgraphs[0].tensors if x.name.endswith(b"/Add")]
    tensor.quantization.scale = np.zeros(1, "float32")
    path.write_bytes(flatbuffer.packed(model))
    for _ in range(2):  # and the runner says so again
        runner = load(path)
        for _ in range(2):
            with pytest.raises(FileError, match=r"int8\.tflite ended the process that ran it in LiteRT, by SIGABRT"):
                runner.serve("classify", images=models.pixels(3))


@pytest.mark.parametrize(
    ("place", "scales", "zero_points", "message"),
    [
        ("input", [0.0], [0], r"a scale of 0\.0 for the input 'features' of signature 'serve', not a number above 0"),
        ("input", [np.nan], [0], r"a scale of nan for the input 'features'"),
        ("input", [-0.5], [0], r"a scale of -0\.5 for the input"),
        ("output", [np.inf], [0], r"a scale of inf for the output '\w+' of signature 'serve'"),
        ("output", [0.5, 0.25, 0.5], [0, 0, 0], r"3 scales for the output '\w+' of signature 'serve', which has one"),
        ("output", [0.5], [300], r"a zero point of 300 for the output '\w+' of signature 'serve', which int8 cannot"),
        ("weights", [np.nan, 0.5, 0.5], [0, 0, 0], r"a scale of nan for a tensor of FULLY_CONNECTED in '.*dense.*',"),
    ],
)
def test_scales_that_convert_nothing_are_refused(tmp_path, whole, place, scales, zero_points, message):
    """LiteRT computes with them, and a metric of what comes out is measured without a word."""
    path = tmp_path / "int8.tflite"
    model = flatbuffer.unpacked((whole / "int8.tflite").read_bytes())
    graph = model.subgraphs[0]
    index = {"input": graph.inputs[0], "output": graph.outputs[0], "weights": graph.operators[0].inputs[1]}[place]
    quantization = graph.tensors[index].quantization
    quantization.scale, quantization.zeroPoint = np.array(scales, "float32"), np.array(zero_points, "int64")
    quantization.quantizedDimension = int(place == "output")  # of its shape, (1, 3)
    path.write_bytes(flatbuffer.packed(model))
    for read in (load, inspect):
        with pytest.raises(FileError, match=message):
            read(path)


def test_a_scale_of_floats_is_not_used(tmp_path, whole):
    """Some converters leave one where nothing is quantized."""
    model = flatbuffer.unpacked((whole / "model.tflite").read_bytes())
    graph = model.subgraphs[0]
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    quantization = graph.tensors[graph.inputs[0]].quantization = schema.QuantizationParametersT()
    quantization.scale, quantization.zeroPoint = np.array([0.5], "float32"), np.array([1], "int64")
    (tmp_path / "model.tflite").write_bytes(flatbuffer.packed(model))
    rows = {"features": np.random.default_rng(0).normal(size=(3, 4)).astype("float32")}
    found, expected = (load(folder / "model.tflite").serve("serve", **rows) for folder in (tmp_path, whole))
    assert "scale" not in load(tmp_path / "model.tflite").signatures["serve"]["inputs"]["features"]
    np.testing.assert_array_equal(*(next(iter(x.values())) for x in (found, expected)))


def test_the_process_of_a_file_and_this_one_compute_the_same(whole):
    rows = np.random.default_rng(0).normal(size=(150, 4)).astype("float32")  # more than one request holds
    found, expected = (load(whole / "model.tflite", 1, trust).serve("serve", features=rows) for trust in (False, True))
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    """Else a power cut can leave an empty file under the name of the old one."""
    done = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor):
        done.append(("fsync", os.fstat(descriptor).st_ino))
        fsync(descriptor)

    def noted_replace(source, target):
        done.append(("replace", pathlib.Path(source).stat().st_ino))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    with replacing(tmp_path / "file.txt") as temporary:
        temporary.write_text("whole")
    file = (tmp_path / "file.txt").stat().st_ino
    assert done == [("fsync", file), ("replace", file), ("fsync", tmp_path.stat().st_ino)]
    done.clear()
    with replacing(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (temporary / "inner.txt").write_text("whole")
    inner, outer = (path.stat().st_ino for path in (tmp_path / "folder/inner.txt", tmp_path / "folder"))
    assert done == [("fsync", inner), ("fsync", outer), ("replace", outer), ("fsync", tmp_path.stat().st_ino)]
