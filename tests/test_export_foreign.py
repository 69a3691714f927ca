"""Foreign Keras models: what devices can run is exported; errors name the layer and what would do."""

import contextlib
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from export_models import dense, normal
from keras import layers, ops

import keras_dl
from keras_dl import tracing
from keras_dl.compat import bare_operations
from keras_dl.export import Exporter, ExportError, graph, litert, load, saved_model
from keras_dl.export import export as export_
from keras_dl.export.signatures import collect

SUFFIXES = {"litert": ".tflite", "onnx": ".onnx", "saved_model": ""}


def export(model, folder, format="litert", **arguments):
    return export_(model, folder / f"model{SUFFIXES[format]}", format=format, **arguments)


def functional(function, *shape, name="x", **options):
    x = keras.Input(shape, name=name, **options)
    return keras.Model(x, function(x))


def check_equal(model, report, atol=1e-6, **arrays):
    """The file gives what the model itself gives, eagerly."""
    found = load(report.path).serve("serve", **arrays)
    expected = model(*arrays.values() if len(arrays) == 1 else [arrays], training=False)
    (value,) = found.values()
    np.testing.assert_allclose(value, ops.convert_to_numpy(expected), atol=atol)


# Ops of Keras that have another form on a device.


@pytest.mark.parametrize("format", SUFFIXES)
@pytest.mark.parametrize("function", [ops.argmax, ops.argmin])
def test_the_largest_and_least_of_floats(function, format, tmp_path):
    """Keras finds them by ops on bits, to tell -0.0 from 0.0."""

    def indices(x):
        per_row = function(layers.Dense(5)(x), axis=-1, keepdims=True)
        return ops.concatenate([per_row, ops.reshape(function(x * 2), (1, 1)), function(x, keepdims=True)], axis=-1)

    model, x = functional(indices, 4), normal(1, 4)
    report = export(model, tmp_path, format, calibration={"x": normal(9, 4)})
    if format == "litert":
        assert report.ops[f"ARG_{function.__name__[3:].upper()}"] == 3
        assert not [op for op in report.ops if "SELECT" in op or "BIT" in op]
    check_equal(model, report, x=x)
    assert function(np.array([0.0, -0.0])) == int(function is ops.argmin), "Keras's own function is as it was"


def test_the_largest_value_in_int8(tmp_path):
    model, rows = functional(lambda x: ops.argmax(layers.Dense(5)(x), axis=-1), 4), normal(64, 4)
    report = export(model, tmp_path, quantization="int8", calibration={"x": rows})
    assert report.ops == {"FULLY_CONNECTED": 1, "ARG_MAX": 1}
    assert (load(report.path).serve("serve", x=rows)["argmax"] == np.argmax(model.layers[1](rows), -1)).mean() > 0.9


held = tf.constant(normal(20, 20, seed=3))


@tf.function(jit_compile=True)
def compiled(x):
    return tf.nn.relu(x @ held)


class Compiled(layers.Layer):
    """A layer with a function that XLA compiles, with a tensor of its own, beside weights."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(20,), initializer="normal")

    def call(self, x):
        return compiled(x) * self.scale


@pytest.mark.parametrize(
    ("layer", "shape", "op"),
    [
        (layers.Conv1D(4, 3, groups=2), (8, 4), "Conv"),
        (layers.Conv2D(4, 3, groups=2), (6, 6, 4), "Conv"),
        (layers.Conv3D(2, 2, data_format="channels_first"), (2, 4, 4, 4), "Conv"),
        (Compiled(), (20,), "MatMul"),
    ],
)
def test_layers_that_xla_compiles_in_onnx(layer, shape, op, tmp_path):
    model = functional(layer, *shape)
    report = export(model, tmp_path, "onnx")
    assert report.ops[op] == 1
    assert list(report.signatures["serve"]["inputs"]) == ["x"]
    check_equal(model, report, atol=1e-5, x=normal(1, *shape))


# Loops of Keras's recurrent layers.


def recurrent(layer, *shape):
    return functional(lambda x: layers.Dense(2, name="head")(layer(x)), *shape)


@pytest.mark.parametrize(
    ("layer", "shape", "names", "fused"),
    [
        (lambda: layers.LSTM(8, name="a"), (5, 3), "a", 1),
        (
            lambda: layers.Bidirectional(layers.LSTM(8, return_sequences=True, name="a")),
            (5, 3),
            "backward_a, forward_a",
            2,
        ),
        (lambda: layers.GRU(8, name="a"), (5, 3), "a", 0),
        (lambda: layers.Bidirectional(layers.GRU(8, name="a"), merge_mode="sum"), (5, 3), "backward_a, forward_a", 0),
        (lambda: layers.SimpleRNN(8, go_backwards=True, name="a"), (5, 3), "a", 0),
        (lambda: layers.RNN([layers.LSTMCell(4), layers.GRUCell(4)], name="a"), (5, 3), "a", 0),
        (lambda: layers.ConvLSTM1D(2, 3, name="a"), (3, 6, 2), "a", 0),
        (lambda: keras_dl.GRU(8, name="a"), (5, 3), None, 0),
    ],
)
def test_loops_are_written_out_in_int8(layer, shape, names, fused, tmp_path):
    """Keras's LSTM is one fused op, the others step by step; the model itself stays as it was."""
    model, rows = recurrent(layer(), *shape), normal(200, *shape)
    before, config = model(rows), model.get_config()
    report = export(model, tmp_path, quantization="int8", calibration={"x": rows})
    assert report.ops.get("UNIDIRECTIONAL_SEQUENCE_LSTM", 0) == fused
    assert "WHILE" not in report.ops
    said = [warning for warning in report.warnings if "cannot hold loops" in warning]
    assert [warning.rpartition(": ")[2] for warning in said] == ([f"{names}."] if names else [])
    proof = report.proof["signatures"]["serve"]["head"]
    assert proof["cosine"] > 0.995
    fresh = normal(32, *shape, seed=1)
    found, expected = load(report.path).serve("serve", x=fresh)["head"], model(fresh)
    assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()
    np.testing.assert_array_equal(model(rows), before)
    assert model.get_config() == config
    with tracing.without_loops(model):
        np.testing.assert_allclose(model(rows), before, atol=1e-6)


def test_masked_recurrent_layers_in_int8(tmp_path):
    tokens = keras.Input((6,), dtype="int32", name="tokens")
    normal_values = keras.initializers.RandomNormal(stddev=1.0, seed=0)
    h = layers.Embedding(12, 8, embeddings_initializer=normal_values, mask_zero=True)(tokens)
    h = layers.GRU(8, seed=1)(layers.LSTM(8, return_sequences=True, seed=2)(h))
    model = keras.Model(tokens, layers.Dense(2, name="head")(h))
    rows = np.random.default_rng(0).integers(1, 12, (200, 6))
    rows[np.arange(6) >= np.random.default_rng(1).integers(2, 7, (200, 1))] = 0
    expected = model(rows)
    with tracing.without_loops(model):
        np.testing.assert_allclose(model(rows), expected, atol=1e-6)
    report = export(model, tmp_path, quantization="int8", calibration={"tokens": rows})
    assert "WHILE" not in report.ops
    assert report.proof["signatures"]["serve"]["head"]["cosine"] > 0.99


@pytest.mark.parametrize("layer", [layers.LSTM, keras_dl.LSTM])
def test_int16x8_has_no_fused_lstm(layer, tmp_path):
    """It is written step by step, beside an int8 file with the fused op."""
    rows = {"x": np.tanh(normal(400, 5, 3))}  # without tails, which calibration would miss
    reports = export(recurrent(layer(8), 5, 3), tmp_path, quantization=["int8", "int16x8"], calibration=rows)
    assert [report.ops.get("UNIDIRECTIONAL_SEQUENCE_LSTM", 0) for report in reports.values()] == [1, 0]
    assert reports["int16x8"].ops["TANH"] == 10
    assert reports["int16x8"].proof["signatures"]["serve"]["head"]["cosine"] > 0.999


def test_loops_stay_in_float_files(tmp_path):
    """They begin anew in each call, unlike the states of a fused op."""
    report = export(recurrent(layers.LSTM(8), 5, 3), tmp_path)
    assert report.ops["WHILE"] == 1
    assert not any("last call" in warning for warning in report.warnings)


# Weights of embeddings and fused LSTMs in int8.


def embedding(rows, width, units):
    tokens = keras.Input((6,), dtype="int32", name="tokens")
    h = layers.GlobalAveragePooling1D()(layers.Embedding(rows, width, name="table")(tokens))
    return keras.Model(tokens, layers.Dense(units, name="values")(h))


def test_a_quantized_table_is_not_in_the_file_twice(tmp_path):
    reports = export(embedding(500, 32, 3), tmp_path, quantization=["none", "dynamic_int8"])
    saved = reports["none"].bytes - reports["dynamic_int8"].bytes
    assert saved > 2.5 * 500 * 32, "of four bytes each, three"


@pytest.mark.parametrize("quantization", ["dynamic_int8", "weight_only_int8"])
@pytest.mark.parametrize(
    ("model", "count"),
    [
        (lambda: embedding(20, 8, 50), 2),  # each of fewer than 1,024 elements
        (lambda: embedding(200, 16, 3), 2),
        (lambda: recurrent(layers.Bidirectional(keras_dl.LSTM(8)), 5, 3), 17),
        (lambda: functional(layers.Embedding(30, 8), 6, name="tokens", dtype="int32"), 1),
    ],
    ids=["small", "large", "lstm", "table"],
)
def test_tables_and_lstms_are_quantized_whatever_their_size(model, count, quantization, tmp_path):
    model = model()
    (x,) = model.inputs
    rows = np.random.default_rng(0).integers(0, 20, (64, 6)) if x.name == "tokens" else normal(64, 5, 3)
    report = export(model, tmp_path, quantization=quantization, calibration={x.name: rows})
    assert report.tensors["weights"] == {"int8": count}
    (proof,) = report.proof["signatures"]["serve"].values()
    assert proof["cosine"] > 0.999


# What a model does not say of its inputs.


def test_shapes_that_the_model_leaves_open(tmp_path):
    model = functional(lambda x: layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3)(x)), None, None, 3)
    with pytest.raises(
        ValueError, match=r"dynamic shape \(1, None, None, 3\).*input_shapes=\{'x': \(1, 224, 224, 3\)\}"
    ):
        export(model, tmp_path)
    report = export(model, tmp_path, input_shapes={"x": (1, 8, 10, 3)})
    assert report.signatures["serve"]["inputs"]["x"]["shape"] == [1, 8, 10, 3]
    check_equal(model, report, x=normal(1, 8, 10, 3))
    series = functional(layers.LSTM(4), None, 3)
    metric = ("mean", lambda serve: float(next(iter(serve("serve", x=normal(2, 7, 3)).values())).mean()))
    report = export(series, tmp_path, batch_size=2, input_shapes={"x": [2, 7, 3]}, metric=metric)
    assert report.metric["keras"] == pytest.approx(report.metric["artifact"], abs=1e-5)


@pytest.mark.parametrize(
    ("shapes", "error", "message"),
    [
        ({"y": (1, 8, 8, 3)}, ValueError, r"input_shapes has \['y'\].*\['x'\]"),
        ({"x": (1, 8, 8, 4)}, ValueError, r"'x' has \(1, 8, 8, 4\); the model takes \(1, None, None, 3\)"),
        ({"x": (1, 8, 8)}, ValueError, "the model takes"),
        ({"x": (2, 8, 8, 3)}, ValueError, "begins with the batch 2; batch_size=1"),
        ({"x": (1, None, 8, 3)}, ValueError, "it must be sizes"),
        ({"x": 3}, ValueError, "it must be sizes"),
        ((1, 8, 8, 3), TypeError, "must be a dict of shapes"),
    ],
)
def test_bad_shapes(shapes, error, message, tmp_path):
    model = functional(layers.GlobalAveragePooling2D(), None, None, 3)
    with pytest.raises(error, match=message):
        export(model, tmp_path, input_shapes=shapes)


class Called(keras.Model):
    """A subclassed model that was only called."""

    def __init__(self):
        super().__init__(name="called")
        self.dense = layers.Dense(2)

    def call(self, x, training=False):
        return self.dense(x)


class CalledOnADict(Called):
    def call(self, inputs):
        return {"sum": self.dense(inputs["a"]) + inputs["b"][0], "b": inputs["b"][0]}


class CalledOnTwo(Called):
    def call(self, left, right, scale=None):
        return self.dense(left) * right


class CalledOnTokens(Called):
    def __init__(self):
        super().__init__()
        self.table = layers.Embedding(20, 4)

    def call(self, tokens):
        return self.table(tokens)


@pytest.mark.parametrize("format", SUFFIXES)
def test_a_model_that_was_called_once(format, tmp_path):
    model = Called()
    model(normal(3, 4))
    report = export(model, tmp_path, format, batch_size=2)
    inputs = report.signatures["serve"]["inputs"]
    assert inputs == {"x": {"shape": [2, 4], "dtype": "float32"}}
    assert any("dtype of x: float32 is assumed" in warning for warning in report.warnings)
    check_equal(model, report, x=normal(2, 4, seed=1))


def test_structures_of_a_call(tmp_path):
    model, b = CalledOnADict(), normal(3, 2, seed=1)
    model({"a": normal(3, 4), "b": [b]})
    report = export(model, tmp_path)
    assert {name: x["shape"] for name, x in report.signatures["serve"]["inputs"].items()} == {
        "a": [1, 4],
        "b_0": [1, 2],
    }
    found = load(report.path).serve("serve", a=normal(3, 4), b_0=b)
    np.testing.assert_allclose(found["sum"], model({"a": normal(3, 4), "b": [b]})["sum"], atol=1e-6)


def test_several_arguments_of_a_call(tmp_path):
    """Keras keeps the shape of the first one only."""
    model, left, right = CalledOnTwo(), normal(2, 4), normal(2, 2, seed=1)
    model(left, right)
    with pytest.raises(ValueError, match=r"takes left, right, scale.*left alone. Give input_shapes=\{'right': "):
        export(model, tmp_path)
    report = export(model, tmp_path, input_shapes={"right": (1, 2)})
    found = load(report.path).serve("serve", left=left, right=right)["output_0"]
    np.testing.assert_allclose(found, model(left, right), atol=1e-6)


def test_the_dtypes_of_a_call(tmp_path):
    model, tokens = CalledOnTokens(), np.random.default_rng(0).integers(0, 20, (8, 5))
    model(tokens)
    by_data = export(model, tmp_path, calibration=tokens)
    by_name = export(model, tmp_path, input_shapes={"tokens": keras.KerasTensor((1, 7), "int32")})
    for report, size in ((by_data, 5), (by_name, 7)):
        assert report.signatures["serve"]["inputs"]["tokens"] == {"shape": [1, size], "dtype": "int32"}
        assert not any("is assumed" in warning for warning in report.warnings)


def test_the_path_of_a_model(tmp_path):
    model = dense()
    model.save(tmp_path / "mine.keras")
    check_equal(model, export(tmp_path / "mine.keras", tmp_path), features=normal(2, 4))
    (tmp_path / "letter.keras").write_text("Dear reader")
    with pytest.raises(ValueError, match=r"letter\.keras is not a model that Keras can load"):
        export(str(tmp_path / "letter.keras"), tmp_path)
    for model in (None, 3, layers.Dense(2)):
        with pytest.raises(TypeError, match=f"a keras.Model or the path of a .keras file, not {type(model).__name__}"):
            export(model, tmp_path)
        with pytest.raises(TypeError, match=r"a keras\.Model or the path"):
            Exporter(model)


# Calibration data as users have it.


def two_inputs():
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    return keras.Model([a, b], layers.Dense(2, name="y")(layers.Concatenate()([a, b])))


X, A, B, Y = normal(9, 4), normal(9, 4), normal(9, 3, seed=1), np.arange(9)


@pytest.mark.parametrize(
    "calibration",
    [
        lambda: X,
        lambda: tf.constant(X),
        lambda: list(X),
        lambda: iter(X[:, None]),
        lambda: [[row] for row in X],
        lambda: lambda: ([row[None]] for row in X),  # TFLite's representative_dataset
        lambda: tf.data.Dataset.from_tensor_slices(X).batch(4),
        lambda: tf.data.Dataset.from_tensor_slices((X, Y)),
        lambda: tf.data.Dataset.from_tensor_slices((X, Y, Y)).batch(4),
        lambda: tf.data.Dataset.from_tensor_slices(({"features": X}, Y)).batch(4),
        lambda: {"serve": tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)},
    ],
)
def test_calibration_of_one_input(calibration):
    (signature,) = collect(dense()).items()
    exporter = Exporter(dense(), calibration=calibration())
    samples = exporter._source.samples[signature[0]]
    exporter.close()
    np.testing.assert_array_equal(np.concatenate([sample["features"] for sample in samples]), X)


@pytest.mark.parametrize(
    "calibration",
    [
        lambda: lambda: ([a[None], b[None]] for a, b in zip(A, B, strict=True)),
        lambda: [(A, B)],
        lambda: tf.data.Dataset.from_tensor_slices(((A, B), Y)).batch(4),
        lambda: tf.data.Dataset.from_tensor_slices(({"b": B, "a": A}, Y)),
        lambda: ((a, b) for a, b in zip(A, B, strict=True)),
    ],
)
def test_calibration_of_several_inputs(calibration):
    exporter = Exporter(two_inputs(), calibration=calibration())
    samples = exporter._source.samples["serve"]
    exporter.close()
    for name, rows in (("a", A), ("b", B)):
        np.testing.assert_array_equal(np.concatenate([sample[name] for sample in samples]), rows)


@pytest.mark.parametrize("calibration", [A, [[A]], [(A, B, Y)], [[A, Y], [A, "b"]], "samples.npz", [{A.shape: A}]])
def test_calibration_of_unclear_inputs(calibration):
    with pytest.raises(
        (TypeError, ValueError), match=r"calibration of 'serve'.*(\(a, b\)|\['a', 'b'\]|'b' has shape \(9,\))"
    ):
        Exporter(two_inputs(), calibration=calibration)


# Errors that say where, and what would do.


def nothing(x):
    return x


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (
            lambda: functional(lambda x: layers.Dense(2)(ops.reshape(x, (4, 8))), 8, batch_size=4),
            {},
            r"in operation 'reshape[_0-9]*' .*fixed batch of 4: export it with batch_size=4",
        ),
        (
            lambda: functional(layers.LSTM(3, stateful=True, name="memory"), 5, 3, batch_size=2),
            {},
            r"in layer 'memory' \(LSTM\): ValueError: If an RNN is stateful.*batch_size=2",
        ),
        (
            lambda: functional(layers.LSTM(3, stateful=True, name="memory"), 5, 3, batch_size=1),
            {},
            r"changes a variable .*'memory'.* stateful=False",
        ),
        (
            lambda: functional(
                lambda x: layers.Lambda(lambda y: y + tf.cast(1, "float16"), dtype="mixed_float16", name="half")(x), 4
            ),
            {},
            r"in layer 'half' \(Lambda\): TypeError: .*float16.*cast to the dtype of its input",
        ),
        (
            lambda: functional(layers.Conv2DTranspose(2, 3, dilation_rate=2, name="up"), 6, 6, 2),
            {},
            r"Conv2DBackpropInput in layer 'up'\. .*dilation_rate=1",
        ),
        (
            lambda: functional(layers.IntegerLookup(vocabulary=[1, 2], name="look"), 1, dtype="int64"),
            {},
            r"LookupTableFindV2 in layer 'look'\. Look up outside of the file",
        ),
        (
            lambda: functional(layers.AveragePooling3D(2, name="pool"), 4, 4, 4, 2),
            {},
            r"AvgPool3D in layer 'pool'\. Pool two dimensions and then the third",
        ),
        (
            lambda: functional(layers.Conv3D(4, 3, name="volume"), 4, 4, 4, 2),
            dict(quantization="int16x8", calibration={"x": normal(9, 4, 4, 4, 2)}),
            r"no int16x8 kernel for CONV_3D in layer 'volume'\. Choose float16",
        ),
        (
            lambda: functional(layers.ELU(name="curve"), 4),
            dict(quantization="int16x8", calibration={"x": normal(9, 4)}),
            r"no int16x8 kernel for ELU in layer 'curve'\. Choose int8",
        ),
        (
            lambda: functional(layers.CategoryEncoding(9, name="counts"), 3, dtype="int32"),
            {},
            r"DenseBincount in layer 'counts'\. Add up keras\.ops\.one_hot",
        ),
        (
            lambda: functional(
                lambda x: layers.Embedding(20, 8)(ops.where(x < 0, x + 20, x)), 6, name="tokens", dtype="int32"
            ),
            dict(quantization="int16x8", calibration={"tokens": np.arange(54).reshape(9, 6) % 20}),
            r"no range for the integers of .*tokens\. Choose int8",
        ),
        (
            lambda: functional(lambda x: ops.linalg.svd(layers.Reshape((2, 2), name="square")(x))[1], 4),
            {},
            r"Svd in the operation 'svd[_0-9]*' on 'square'\.",
        ),
    ],
    ids=[
        "batch",
        "stateful",
        "state",
        "half",
        "dilated",
        "lookup",
        "pool",
        "volume",
        "curve",
        "counts",
        "tokens",
        "operation",
    ],
)
def test_errors_say_where_and_what_would_do(model, options, message, tmp_path):
    with pytest.raises(ExportError, match=message) as caught:
        export(model(), tmp_path, **options)
    assert "\n" not in str(caught.value)
    assert "Exception encountered" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert keras.config.is_traceback_filtering_enabled()


class CalledOnItself(Called):
    def call(self, x):
        return ops.linalg.svd(self.dense(x))[1]


def test_ops_of_the_model_itself(tmp_path):
    model = CalledOnItself()
    model(normal(1, 2, 2))
    with pytest.raises(ExportError, match=r"Svd in the call of model 'called' itself\."):
        export(model, tmp_path)


def test_a_fixed_batch_is_exported_with_it(tmp_path):
    model = functional(lambda x: layers.Dense(2)(ops.reshape(x, (4, 8))), 8, batch_size=4)
    report = export(model, tmp_path, batch_size=np.int64(4))
    check_equal(model, report, x=normal(4, 8))


def test_a_model_that_keras_has_quantized(tmp_path):
    model = functional(layers.Dense(4, name="wide"), 8)
    model.quantize("int8")
    with pytest.raises(ExportError, match=r"layers wide were quantized by Keras.*as it was before.*dynamic_int8"):
        export(model, tmp_path)


def test_the_last_op_keeps_its_layer(tmp_path):
    """The converter names outputs after the file; `float_layers` and warnings go by layers and operations."""
    x = keras.Input((4,), name="x")
    h = layers.Dense(6, name="first")(x)
    named = {"p": layers.Softmax(name="sm")(h), "q": ops.tanh(h)}
    model = keras.Model(x, named)
    (tanh,) = bare_operations(model)
    report = export(
        model, tmp_path, quantization="int8", calibration={"x": normal(128, 4)}, float_layers=["sm", tanh.name]
    )
    assert report.tensors["float_layers"] == ["sm", tanh.name]
    assert report.warnings == []
    last = {op.name: op for op in graph.read(report.path).ops if op.name in ("SOFTMAX", "TANH")}
    assert {name: op.outputs[0].dtype for name, op in last.items()} == {"SOFTMAX": "float32", "TANH": "float32"}
    assert saved_model.located("SOFTMAX", last["SOFTMAX"].layer, model) == "SOFTMAX in layer 'sm'"
    assert saved_model.located("TANH", last["TANH"].layer, model) == f"TANH in the operation {tanh.name!r} on 'first'"
    found = load(report.path).serve("serve", x=normal(3, 4))
    assert set(found) == {"p", "q"}
    assert not pathlib.Path(tmp_path, "first").exists()


def test_int8_that_attention_ruins_names_its_layers(tmp_path, monkeypatch):
    """As Keras's masks of -1e9 do, unless they are bounded."""
    monkeypatch.setattr(saved_model, "bounded_masks", contextlib.nullcontext)
    model = functional(
        lambda x: layers.MultiHeadAttention(2, 8, name="heads", seed=0)(x, x, use_causal_mask=True), 8, 16
    )
    rows = {"x": normal(128, 8, 16)}
    with pytest.raises(ExportError, match=r"float_layers=\['heads'\] computes MultiHeadAttention in float32"):
        export(model, tmp_path, quantization="int8", calibration=rows)
    report = export(model, tmp_path, quantization="int8", calibration=rows, float_layers=["heads"])
    (proof,) = report.proof["signatures"]["serve"].values()
    assert proof["cosine"] > 0.99


def test_what_takes_long_says_so(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(litert, "_SECONDS_BETWEEN_NOTES", 0)
    with caplog.at_level("INFO", "keras_dl.export"):
        export(dense(), tmp_path, quantization="int8", calibration=normal(3, 4))
    said = [record.getMessage() for record in caplog.records]
    steps = ["Tracing 'serve'.", "Writing model.tflite.", "Converting to LiteRT."]
    steps += [f"Calibrating: {count} samples so far." for count in range(3)]
    assert said == [*steps, "Comparing model.tflite with the model."]
