"""Files: what is in them, how they are run, and what is refused as no such file."""

import json
import shutil

import export_models as models
import flatbuffers
import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given
from hypothesis import strategies as st

from keras_dl.export import KerasRunner, Report, export, flatbuffer, inspect, load, names
from keras_dl.export.metadata import from_litert, into_litert
from keras_dl.export.samples import batches, draw_inputs
from keras_dl.export.signatures import collect

FORMATS = {"litert": "model.tflite", "onnx": "model.onnx", "saved_model": "model"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One model in every format, and in int8."""
    folder, model = tmp_path_factory.mktemp("files"), models.Classifier()
    metadata = {"labels": ["zero", "one", "zwölf"], "input_range": [0, 255]}
    rows = [{"images": models.pixels(16)}]
    for format, name in FORMATS.items():
        export(model, folder / name, format=format, metadata=metadata, calibration=rows)
    export(model, folder / "int8.tflite", quantization="int8", metadata=metadata, calibration=rows)
    return folder


@pytest.mark.parametrize("name", [*FORMATS.values(), "int8.tflite"])
def test_inspect(name, files):
    found = inspect(files / name)
    assert json.loads(json.dumps(found)) == found
    assert found["metadata"]["labels"] == ["zero", "one", "zwölf"]
    assert found["metadata"]["keras_dl"]["model"] == "classifier"
    parts = [files / name, *(files / name).rglob("*")]
    assert found["bytes"] == sum(part.stat().st_size for part in parts if part.is_file())
    assert (found["flex_ops"], found["custom_ops"]) == (0, 0)
    assert list(found["ops"].values()) == sorted(found["ops"].values(), reverse=True)
    (signature,) = found["signatures"].values()
    images, probabilities = signature["inputs"]["images"], signature["outputs"]["probabilities"]
    assert images["shape"] == [1, models.SIDE, models.SIDE, 1]
    assert probabilities["shape"] == [1, models.CLASSES]
    assert (images["dtype"], probabilities["dtype"]) == (
        ("int8", "int8") if name == "int8.tflite" else ("uint8", "float32")
    )
    assert ("scale" in images) == (name == "int8.tflite")


def test_inspect_counts_tensors(files):
    tensors = inspect(files / "int8.tflite")["tensors"]
    assert tensors["constants"]["int8"] == 3
    assert set(tensors["activations"]) == {"int8"}


@pytest.mark.parametrize("name", FORMATS.values())
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_any_number_of_rows(name, rows, files):
    images = models.pixels(rows, seed=rows)
    found = load(files / name, num_threads=1).serve("classify", images=images)["probabilities"]
    assert found.shape == (rows, models.CLASSES)
    alone = [load(files / name).serve("classify", images=images[i : i + 1])["probabilities"] for i in range(rows)]
    np.testing.assert_array_equal(found, np.concatenate(alone))


def test_the_last_batch_is_filled_up_and_cut(tmp_path):
    model, images = models.Classifier(), models.pixels(7)
    export(model, tmp_path / "model.tflite", batch_size=4)
    found = load(tmp_path / "model.tflite").serve("classify", images=images)["probabilities"]
    np.testing.assert_allclose(found, model(images), atol=1e-6)


def test_integers_are_converted(files):
    """Real pixels go in, probabilities come out; so do the rows of a metric."""
    images = models.pixels(9)
    found = load(files / "int8.tflite").serve("classify", images=images)["probabilities"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(
        found, load(files / "int8.tflite").serve("classify", images=images.astype("float64"))["probabilities"]
    )
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=0.02)


@pytest.mark.parametrize("name", [*FORMATS.values(), "int8.tflite"])
def test_wrong_inputs(name, files):
    runner = load(files / name)
    with pytest.raises(ValueError, match=r"no signature 'detect'. Choose one of: classify"):
        runner.serve("detect", images=models.pixels(1))
    with pytest.raises(ValueError, match=r"must have the names \['images'\], not \['pictures'\]"):
        runner.serve("classify", pictures=models.pixels(1))
    with pytest.raises(
        ValueError, match=r"'images' has shape \(1, 8, 8\); it must be \(1, 8, 8, 1\) or \(rows, 8, 8, 1\)"
    ):
        runner.serve("classify", images=models.pixels(1)[..., 0])
    with pytest.raises(ValueError, match="there are no rows"):
        runner.serve("classify", images=models.pixels(0))
    with pytest.raises(ValueError, match="must be numbers"):
        runner.serve("classify", images=np.full((1, 8, 8, 1), "a"))


def test_results_outlive_the_next_call(files):
    """They are copies: a live view of a tensor would change, and block the interpreter."""
    runner = load(files / "model.tflite")
    first = runner.serve("classify", images=models.pixels(1))["probabilities"]
    kept = first.copy()
    runner.serve("classify", images=models.pixels(1, seed=5))
    np.testing.assert_array_equal(first, kept)


def test_rows_of_outputs_that_are_not_those_of_the_inputs():
    x = keras.Input((4,), name="x")
    model = keras.Model(x, keras.layers.Lambda(lambda x: keras.ops.mean(x), output_shape=(), name="mean")(x))
    runner = KerasRunner(model)
    assert runner.serve("serve", x=np.ones((1, 4)))["mean"].shape == ()
    with pytest.raises(ValueError, match="its rows are not those of the inputs"):
        runner.serve("serve", x=np.ones((3, 4)))


@given(st.integers(1, 20), st.integers(1, 6))
def test_batches(count, size):
    """Every row once, in order; all batches of one shape; the last filled up."""
    rows = np.arange(count)[:, None]
    found = batches({"x": rows}, {"x": ((size, 1), "int64")})
    assert all(batch["x"].shape == (size, 1) for batch, _ in found)
    kept = [batch["x"][:n] if n is not None else batch["x"] for batch, n in found]
    np.testing.assert_array_equal(np.concatenate(kept), rows)
    assert len(found) == -(-count // size)


def test_batches_need_the_same_rows():
    shapes = {"a": ((1, 2), "float32"), "b": ((1,), "int32")}
    with pytest.raises(ValueError, match=r"same number of rows, not \{'a': 3, 'b': 2\}"):
        batches({"a": np.zeros((3, 2)), "b": np.zeros(2, int)}, shapes)
    ((batch, rows),) = batches({"a": np.zeros((1, 2)), "b": np.zeros(1, "int64")}, shapes)
    assert (batch["a"].dtype, batch["b"].dtype, rows) == (np.float32, np.int32, None)
    with pytest.raises(ValueError, match="'b' has dtype float64"):
        batches({"a": np.zeros((1, 2)), "b": np.full(1, 0.5)}, shapes)
    with pytest.raises(ValueError, match="'b' has dtype int64"):
        batches({"a": np.zeros((1, 2)), "b": np.full(1, 2**40)}, shapes)


def test_drawn_inputs_repeat_and_span_their_dtype():
    signature = collect(models.Classifier())["classify"]
    drawn, again = draw_inputs(signature, 32), draw_inputs(signature, 32)
    np.testing.assert_array_equal(drawn[5]["images"], again[5]["images"])
    values = np.concatenate([x["images"].ravel() for x in drawn])
    assert (values.dtype, values.min(), values.max()) == (np.uint8, 0, 255)


def test_metadata_leaves_the_model_alone(files):
    """Data of tensors lies at multiples of 16 bytes, and a second document replaces the first."""
    content = (files / "model.tflite").read_bytes()
    changed = into_litert(content, {"licence": "CC0"})
    assert from_litert(changed) == {"licence": "CC0"}
    model = schema.Model.GetRootAs(changed, 0)
    names = [model.Metadata(i).Name() for i in range(model.MetadataLength())]
    assert names.count(b"keras_dl") == 1
    assert b"min_runtime_version" in names
    for i in range(model.BuffersLength()):
        table = model.Buffers(i)._tab
        if model.Buffers(i).DataLength():
            assert table.Vector(table.Offset(4)) % 16 == 0
    old = schema.ModelT.InitFromPackedBuf(content, 0)
    for a, b in zip(old.buffers, schema.ModelT.InitFromPackedBuf(changed, 0).buffers, strict=False):
        if a.data is not None and not bytes(a.data).startswith(b"{"):
            np.testing.assert_array_equal(a.data, b.data)


def test_inner_tensors_have_short_names(files, tmp_path):
    content = (files / "model.tflite").read_bytes()
    assert names.shortened(content) is content
    model = flatbuffer.unpacked(content)
    (subgraph,) = model.subgraphs
    for tensor in subgraph.tensors:
        tensor.name = b"classifier/dense/MatMul;" + b"classifier/dense/BiasAdd;" * 40
    changed = names.shortened(flatbuffer.packed(model))
    (new,) = flatbuffer.unpacked(changed).subgraphs
    public = {*new.inputs, *new.outputs}
    inner = [tensor.name for index, tensor in enumerate(new.tensors) if index not in public]
    assert len(set(inner)) == len(inner) > 2
    assert all(name.startswith(b"classifier/dense/MatMul;") and len(name) < 30 for name in inner)
    assert all(len(new.tensors[index].name) > 900 for index in public)
    (tmp_path / "model.tflite").write_bytes(changed)
    images = {"images": models.pixels(2)}
    found, expected = (load(folder / "model.tflite").serve("classify", **images) for folder in (tmp_path, files))
    np.testing.assert_array_equal(found["probabilities"], expected["probabilities"])


def without_signatures(content):
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    model.signatureDefs, model.metadata = None, None
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def test_a_file_that_names_nothing(files, tmp_path):
    path = tmp_path / "foreign.tflite"
    path.write_bytes(without_signatures((files / "model.tflite").read_bytes()))
    found = inspect(path)
    assert found["signatures"] == found["metadata"] == {}
    assert found["ops"] == inspect(files / "model.tflite")["ops"]


@pytest.mark.parametrize(("op", "counts"), [("flex", (1, 0)), ("custom", (0, 1))])
def test_a_foreign_file_with_an_op_that_is_no_builtin(op, counts, tmp_path):
    functions = {"flex": lambda x: {"y": tf.bitwise.bitwise_and(x, 3)}, "custom": lambda x: {"y": tf.math.erfinv(x)}}
    spec = {"flex": tf.TensorSpec((3,), tf.int32, name="x"), "custom": tf.TensorSpec((3,), name="x")}[op]
    concrete = tf.function(functions[op]).get_concrete_function(x=spec)
    tf.saved_model.save(tf.Module(), tmp_path / "foreign", signatures={"serve": concrete})
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "foreign"))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    converter.allow_custom_ops = True
    path = tmp_path / "foreign.tflite"
    path.write_bytes(converter.convert())
    found = inspect(path)
    assert (found["flex_ops"], found["custom_ops"]) == counts
    with pytest.raises(ValueError, match=r"foreign.tflite cannot be run by LiteRT: "):
        load(path).serve("serve", x=np.zeros(3, spec.dtype.name))


def test_a_foreign_saved_model(tmp_path):
    model = models.dense()
    model.export(tmp_path / "foreign", verbose=False)
    assert inspect(tmp_path / "foreign")["metadata"] == {}
    assert load(tmp_path / "foreign").signatures.keys() == {"serve"}


def damaged(content, kind):
    return {"cut": content[: len(content) // 3], "empty": b"", "zeros": content[:8] + bytes(len(content) - 8)}[kind]


@pytest.mark.parametrize("function", [inspect, load])
@pytest.mark.parametrize("kind", ["cut", "empty", "zeros"])
@pytest.mark.parametrize("name", FORMATS.values())
def test_corrupt_files(name, kind, function, files, tmp_path):
    broken = tmp_path / name
    if name == "model":
        shutil.copytree(files / name, broken)
        file = broken / "saved_model.pb"
    else:
        file = broken
        shutil.copyfile(files / name, file)
    file.write_bytes(damaged(file.read_bytes(), kind))
    with pytest.raises(ValueError, match=r"model.* is n"):
        function(broken)


@pytest.mark.parametrize("function", [inspect, load])
def test_files_that_are_none(function, tmp_path):
    (tmp_path / "letter.txt").write_text("Dear reader")
    (tmp_path / "letter.tflite").write_text("Dear reader")
    with pytest.raises(FileNotFoundError, match=r"nothing.tflite does not exist"):
        function(tmp_path / "nothing.tflite")
    with pytest.raises(ValueError, match=r"is a folder without saved_model.pb"):
        function(tmp_path)
    for name in ("letter.txt", "letter.tflite"):
        with pytest.raises(ValueError, match=f"{name} is neither a LiteRT file, an ONNX file"):
            function(tmp_path / name)


@pytest.mark.parametrize("content", ["{", "[]", '{"path": "a"}', "null"])
def test_a_report_that_is_none(content, tmp_path):
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(ValueError, match=r"report.json is not a report of an export"):
        Report.load(tmp_path / "report.json")


def test_the_report_in_the_terminal(files):
    text = str(Report.load(files / "int8.tflite.json"))
    assert "int8.tflite" in text
    assert "images int8[1, 8, 8, 1] (scale 1, zero point -128) -> probabilities int8[1, 3]" in text
    assert "cosine 0.99" in text
    assert "1 thread, " in text
    assert max(map(len, text.splitlines())) < 200
