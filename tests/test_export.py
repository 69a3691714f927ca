"""Exporting: what goes in, what comes out, and what is refused."""

import json
import pathlib
import subprocess
import sys

import export_models as models
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_dl import Signature
from keras_dl.export import ExportError, KerasRunner, Report, exporter, inspect, load
from keras_dl.export import export as export_
from keras_dl.export.signatures import collect

SUFFIXES = {"litert": ".tflite", "onnx": ".onnx", "saved_model": ""}


def export(model, folder, format="litert", **arguments):
    return export_(model, folder / f"model{SUFFIXES[format]}", format=format, **arguments)


def check_equal(model, report, **arrays):
    """The file alone, opened again, gives what the model gives."""
    (name,) = report.signatures
    found, expected = load(report.path).serve(name, **arrays), KerasRunner(model).serve(name, **arrays)
    assert found.keys() == expected.keys()
    for key in expected:
        assert found[key].dtype == expected[key].dtype
        np.testing.assert_allclose(found[key], expected[key], atol=1e-6, err_msg=key)
    return expected


def test_importing_imports_nothing_of_the_extras():
    modules = ("ai_edge_litert", "ai_edge_quantizer", "onnx", "onnxruntime", "tf2onnx", "ethosu", "tflite_micro")
    code = f"import sys, keras_dl.export; print([name for name in {modules} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("format", SUFFIXES)
def test_formats(format, tmp_path):
    model = models.convolutional()
    report = export(model, tmp_path, format, metadata={"labels": ["a", "b", "c"]})
    check_equal(model, report, images=models.normal(5, models.SIDE, models.SIDE, 1))
    assert (report.flex_ops, report.custom_ops) == (0, 0)
    assert sum(report.ops.values()) > 3
    assert report.proof["signatures"]["serve"]["probabilities"]["max_rel_error"] <= 1e-4
    assert report.proof["inputs"] == {"serve": "random"}
    assert any("random" in warning for warning in report.warnings)
    assert report.metadata["labels"] == ["a", "b", "c"]
    assert report.metadata["keras_dl"]["model"] == "convolutional"
    assert report.latency_ms
    assert all(milliseconds > 0 for milliseconds in report.latency_ms.values())
    assert report.versions["keras"] == keras.__version__
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [f"model{SUFFIXES[format]}", f"model{SUFFIXES[format]}.json"]
    )
    assert Report.load(tmp_path / f"model{SUFFIXES[format]}.json") == report
    assert inspect(report.path)["ops"] == report.ops
    assert "probabilities" in str(report)


def test_calibration_is_what_the_proof_runs_on(tmp_path):
    """tf.data pipelines of batches are cut into the signature's batch; the last one is filled up."""
    rows = {"images": models.pixels(11)}
    dataset = tf.data.Dataset.from_tensor_slices(rows).batch(4)
    report = export(models.Classifier(), tmp_path, calibration=dataset, batch_size=2)
    assert report.signatures["classify"]["inputs"]["images"] == {"shape": [2, 8, 8, 1], "dtype": "uint8"}
    assert report.proof["samples"] == {"classify": 6}
    assert report.proof["inputs"] == {"classify": "calibration"}
    assert report.warnings == []


def test_endless_calibration_ends(tmp_path):
    dataset = tf.data.Dataset.from_tensors({"features": models.normal(1, 4)}).repeat()
    assert export(models.dense(), tmp_path, calibration=dataset).proof["samples"] == {"serve": 64}


@pytest.mark.parametrize("format", ["litert", "saved_model"])
def test_several_signatures(format, tmp_path):
    model = models.Autoencoder()
    calibration = {
        "encode": [{"x": models.normal(6, 4)}],
        "decode": {"codes": models.normal(6, 6), "gains": models.normal(6, 1)},
    }
    calibration["decode"] = [calibration["decode"]]
    report = export(model, tmp_path, format, calibration=calibration)
    assert list(report.signatures) == ["encode", "decode"]
    decoded = load(report.path).serve("decode", codes=models.normal(3, 6, seed=1), gains=models.normal(3, 1, seed=2))
    expected = model.decode(models.normal(3, 6, seed=1), models.normal(3, 1, seed=2))
    np.testing.assert_allclose(decoded["x"], expected["x"], atol=1e-6)
    np.testing.assert_array_equal(decoded["largest"], expected["largest"])
    assert decoded["largest"].dtype == np.int32
    assert report.proof["signatures"]["decode"]["largest"]["agreement"] == 1


def test_onnx_holds_one_signature(tmp_path):
    model = models.Autoencoder()
    with pytest.raises(ValueError, match=r"encode, decode.*signatures='encode'"):
        export(model, tmp_path, "onnx")
    report = export(model, tmp_path, "onnx", signatures="decode")
    assert list(load(report.path).signatures) == list(report.signatures) == ["decode"]
    with pytest.raises(ValueError, match=r"signatures=.*paint.*encode, decode"):
        export(model, tmp_path, signatures=["paint"])


def two_inputs_two_outputs():
    a, b = keras.Input((4,), name="a"), keras.Input((2,), name="b-2")
    joined = layers.Concatenate()([a, b])
    return keras.Model([a, b], [layers.Dense(2, name="p")(joined), layers.Dense(3, name="q")(joined)])


def dict_in_dict_out():
    a, b = keras.Input((4,), name="a"), keras.Input((2,), name="b_2")
    joined = layers.Concatenate()([a, b])
    return keras.Model({"b_2": b, "a": a}, {"p": layers.Dense(2)(joined), "q": layers.Dense(3)(joined)})


def one_layer_two_outputs():
    a, b = keras.Input((4,), name="a"), keras.Input((2,), name="b_2")
    sequence = layers.Reshape((3, 2))(layers.Concatenate()([a, b]))
    last, hidden, cell = layers.LSTM(2, return_state=True, unroll=True)(sequence)
    return keras.Model([a, b], [layers.Concatenate()([last, hidden]), cell])


@pytest.mark.parametrize("format", SUFFIXES)
@pytest.mark.parametrize("create", [two_inputs_two_outputs, dict_in_dict_out, one_layer_two_outputs])
def test_foreign_models(create, format, tmp_path):
    model = create()
    outputs = check_equal(
        model, export(model, tmp_path, format), a=models.normal(3, 4), b_2=models.normal(3, 2, seed=1)
    )
    assert len(outputs) == len(model.outputs)


def test_outputs_of_one_layer_are_all_served(tmp_path):
    x = keras.Input((3, 2), name="x")
    model = keras.Model(x, layers.LSTM(2, return_state=True, unroll=True)(x))
    outputs = check_equal(model, export(model, tmp_path), x=models.normal(2, 3, 2))
    assert list(outputs) == ["output_0", "output_1", "output_2"]


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16"])
@pytest.mark.parametrize("format", SUFFIXES)
def test_other_precisions_compute_in_float32(policy, format, tmp_path):
    x = keras.Input((6, 6, 2), name="x")
    h = layers.Normalization(mean=[0.5, 1.0], variance=[2.0, 3.0], dtype=policy)(x)
    h = layers.BatchNormalization(dtype=policy)(layers.Conv2D(4, 3, dtype=policy)(h))
    model = keras.Model(x, layers.Dense(2, dtype=policy, name="y")(layers.Flatten(dtype=policy)(h)))
    policies = [layer.dtype_policy for layer in model.layers]
    report = export(model, tmp_path, format)
    assert report.signatures["serve"]["outputs"]["y"]["dtype"] == "float32"
    assert any(policy.removeprefix("mixed_") in warning for warning in report.warnings)
    assert [layer.dtype_policy for layer in model.layers] == policies
    rows = models.normal(4, 6, 6, 2)
    found = load(report.path).serve("serve", x=rows)["y"]
    half = KerasRunner(model).serve("serve", x=rows)["y"].astype("float32")
    assert 0 < np.abs(found - half).max() < 0.1


class Noise(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed = keras.random.SeedGenerator(1)

    def call(self, x):
        return x + keras.random.normal(ops.shape(x), seed=self.seed)


class Counter(layers.Layer):
    def build(self, shape):
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x):
        self.count.assign_add(1.0)
        return x * self.count


class SingularValues(layers.Layer):
    def call(self, x):
        return ops.linalg.svd(x)[1]

    def compute_output_shape(self, shape):
        return shape[:-1]


def chain(*stack):
    return keras.Sequential([keras.Input((4, 4), name="x"), *stack])


@pytest.mark.parametrize("format", ["litert", "onnx"])
def test_an_op_without_a_builtin_is_named_with_its_layer(format, tmp_path):
    block = chain(layers.Dense(4), SingularValues(name="values"))
    x = keras.Input((4, 4), name="x")
    model = keras.Model(x, keras.Sequential([block], name="outer")(x))
    with pytest.raises(ExportError, match=r"Svd in layer 'outer/.*values'") as caught:
        export(model, tmp_path, format)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", SUFFIXES)
def test_noise_and_state_are_refused(format, tmp_path):
    with pytest.raises(ExportError, match=r"random numbers.*'noise'"):
        export(chain(Noise(name="noise")), tmp_path, format)
    with pytest.raises(ExportError, match=r"changes a variable.*'counter'"):
        export(chain(Counter(name="counter")), tmp_path, format)


def test_what_is_random_in_training_alone_is_no_noise(tmp_path):
    export(chain(layers.Dropout(0.5), layers.GaussianNoise(0.1), layers.Dense(2)), tmp_path)


def test_exact_gelu_in_onnx(tmp_path):
    model = chain(layers.Dense(4, activation=lambda x: ops.gelu(x, approximate=False)))
    check_equal(model, export(model, tmp_path, "onnx"), x=models.normal(2, 4, 4))


def test_tensors_that_a_model_holds_are_constants_in_onnx(tmp_path):
    """TensorFlow hands tensors of more than 128 elements to a graph as inputs."""
    held = tf.constant(models.normal(20, 20))
    model = keras.Sequential([keras.Input((20,), name="x"), layers.Lambda(lambda x: x @ held)])
    report = export(model, tmp_path, "onnx")
    assert list(report.signatures["serve"]["inputs"]) == ["x"]
    check_equal(model, report, x=models.normal(2, 20))


class Unusable(keras.Model):
    """A model whose signatures are what the test says."""

    def __init__(self, signatures):
        super().__init__()
        self.built, self.signatures = True, signatures

    def serving_signatures(self, batch_size=1):
        return self.signatures


FEATURES = {"x": keras.KerasTensor((1, 4), name="x")}


@pytest.mark.parametrize(
    ("signatures", "error", "message"),
    [
        ({}, ValueError, "no signature"),
        ([1], TypeError, "must return a dict of keras_dl.Signature"),
        ({"serve": 1}, TypeError, "must return a dict of keras_dl.Signature"),
        ({"serve": Signature(lambda x: x, FEATURES)}, ExportError, "dict of named tensors"),
        ({"serve": Signature(lambda x: {}, FEATURES)}, ExportError, "dict of named tensors"),
        (
            {"serve": Signature(lambda x: {"y": ops.matmul(x, x)}, FEATURES)},
            ExportError,
            "'serve' failed on its declared",
        ),
        ({"serve": Signature(lambda x: {"y": tf.where(x > 0)}, FEATURES)}, ExportError, "'y'.*dynamic shape"),
        (
            {"serve": Signature(lambda x: {"y": x}, {"x": keras.KerasTensor((1, None, 4))})},
            ValueError,
            r"'x' of signature 'serve' has the dynamic shape \(1, None, 4\)",
        ),
        ({"serve": Signature(lambda **x: x, {"x-1": FEATURES["x"]})}, ValueError, "'x-1'.*Python variable"),
        ({"serve": Signature(lambda x: {"y": x}, {"x": keras.KerasTensor((1,), "string")})}, ValueError, "strings"),
    ],
)
def test_unusable_signatures(signatures, error, message, tmp_path):
    with pytest.raises(error, match=message):
        export(Unusable(signatures), tmp_path)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="subclassed")
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x)


def test_models_that_cannot_be_served(tmp_path):
    with pytest.raises(ValueError, match="'subclassed' was never built"):
        export(Subclassed(), tmp_path)
    with pytest.raises(ValueError, match="was never built"):
        export(keras.Sequential([layers.Dense(2)]), tmp_path)
    declared = Subclassed()
    declared.built = True
    with pytest.raises(ValueError, match=r"'subclassed' has no known inputs.*serving_signatures"):
        export(declared, tmp_path)
    with pytest.raises(ValueError, match=r"dynamic shape \(1, None, 4\)"):
        export(keras.Sequential([keras.Input((None, 4)), layers.Dense(2)]), tmp_path)
    with pytest.raises(TypeError, match=r"keras.Model or the path of a .keras file, not Dense"):
        export(layers.Dense(2), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(path="model.onnx"), ValueError, "model.onnx' must end with .tflite for format='litert'"),
        (dict(path="model.tflite", format="onnx"), ValueError, "must end with .onnx"),
        (dict(path="model.tflite", format="saved_model"), ValueError, "must name a folder"),
        (dict(path="taken.tflite"), ValueError, "taken.tflite' is a folder"),
        (dict(path="taken", format="saved_model"), ValueError, "not a SavedModel; it is not replaced"),
        (dict(path=3), TypeError, "path must be a str or path, not int"),
        (dict(format="tflite"), ValueError, "format='tflite' is unknown. Choose one of: litert, onnx, saved_model"),
        (dict(quantization="int4"), ValueError, "quantization='int4' is unknown.*weight_only_int8"),
        (dict(path="model.onnx", format="onnx", quantization="int8"), ValueError, "needs format='litert'"),
        (dict(target="toaster"), ValueError, "target='toaster' is unknown.*cpu.*micro"),
        (dict(target="ethos-u55-128"), ValueError, "needs quantization 'int8'"),
        (dict(path="model.onnx", format="onnx", target="micro"), ValueError, "needs format 'litert'"),
        (dict(batch_size=0), ValueError, "batch_size=0"),
        (dict(batch_size="2"), TypeError, "batch_size must be an int, not '2'"),
        (dict(metadata=["label"]), TypeError, "metadata must be a dict, not list"),
        (dict(metadata={"labels": {1, 2}}), TypeError, "metadata must be what JSON can hold"),
        (dict(metadata={"mean": float("nan")}), TypeError, "metadata must be what JSON can hold"),
        (dict(metric="accuracy"), TypeError, "metric must be a pair"),
        (dict(metric=("accuracy", 1)), TypeError, "metric must be a pair of a str and a function"),
        (dict(quantization="int8"), ValueError, "'int8' needs calibration data, and 'serve' has none"),
        (dict(calibration=[]), ValueError, "calibration of 'serve' is empty"),
        (dict(calibration=3), TypeError, "calibration of 'serve' must be an iterable of dicts of arrays, not int"),
        (dict(calibration=["row"]), TypeError, "dicts of arrays by input name.*not str"),
        (dict(calibration=[[np.zeros((1, 4)), 1]]), TypeError, "in the order of these inputs, not a list of 2"),
        (dict(calibration={"features": np.zeros((0, 4))}), ValueError, "no rows"),
        (dict(calibration={"features": np.zeros((1, 5))}), ValueError, r"\(1, 5\); it must be \(1, 4\) or \(rows, 4\)"),
        (dict(calibration=[{"x": np.zeros((1, 4))}]), ValueError, r"must have the names \['features'\], not \['x'\]"),
        (dict(calibration={"detect": []}), ValueError, "data for detect, and the model serves serve"),
        (dict(calibration={"features": np.full((1, 4), np.nan)}), ValueError, "not finite"),
        (dict(calibration={"features": np.full((1, 4), "a")}), ValueError, "must be numbers"),
    ],
)
def test_bad_arguments(arguments, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("taken.tflite", "taken"):
        pathlib.Path(name).mkdir()
        pathlib.Path(name, "letter.txt").write_text("keep me")
    with pytest.raises(error, match=message):
        export_(models.dense(), **{"path": "model.tflite"} | arguments)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["letter.txt", "letter.txt", "taken", "taken.tflite"]


def test_labels_are_the_names_of_the_classes(tmp_path):
    """A file with a wrong number of them names the wrong class."""
    with pytest.raises(ValueError, match="metadata has 2 labels, and the outputs have 3 values in their last axis"):
        export(models.dense(), tmp_path, metadata={"labels": ["cat", "dog"]})
    assert list(tmp_path.iterdir()) == []
    export(models.dense(), tmp_path, metadata={"labels": ["cat", "dog", "cow"]})
    export(models.dense(1), tmp_path, metadata={"labels": ["cat", "dog"]})  # of one probability
    export(models.Autoencoder(), tmp_path, metadata={"labels": ["cat", "dog"]})  # of indices
    export(models.dense(), tmp_path, metadata={"labels": {"cat": 1}})  # a meaning of its own


def test_pixels_that_are_no_bytes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'images' has dtype float32 \(from 0.5 to 0.5\); it must be uint8"):
        export(models.Classifier(), tmp_path, calibration={"images": np.full((1, 8, 8, 1), 0.5, "float32")})


@pytest.mark.parametrize("format", SUFFIXES)
@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_export_leaves_the_old_file(format, failure, tmp_path, monkeypatch):
    export(models.dense(), tmp_path, format)

    def content():
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    old = content()

    def interrupt(*_):
        raise failure

    monkeypatch.setattr(exporter.latency, "measure", interrupt)
    with pytest.raises(failure):
        export(models.dense(units=5), tmp_path, format)
    assert content() == old


@pytest.mark.parametrize("format", SUFFIXES)
def test_a_file_is_replaced_whole(format, tmp_path):
    export(models.dense(), tmp_path, format)
    report = export(models.dense(units=5), tmp_path, format)
    assert load(report.path).signatures["serve"]["outputs"]["output_0"]["shape"] == [1, 5]
    assert json.loads((tmp_path / f"model{SUFFIXES[format]}.json").read_text()) == report.to_dict()


def test_the_metric_is_measured_on_both(tmp_path):
    model, rows = models.Classifier(), models.pixels(20)
    calls = []

    def spread(serve):
        values = serve("classify", images=rows)["probabilities"]
        calls.append(values)
        return np.std(values)

    report = export(model, tmp_path, metric=("spread", spread), calibration={"images": rows}, quantization="int8")
    assert [values.shape for values in calls] == [(20, 3), (20, 3)]
    assert report.metric == {"name": "spread", "keras": np.std(calls[0]), "artifact": np.std(calls[1])}
    assert report.metric["keras"] != report.metric["artifact"]
    assert "spread" in str(report)
    scalar = export(model, tmp_path, metric=("one", lambda serve: tf.constant(1)))
    assert scalar.metric == {"name": "one", "keras": 1.0, "artifact": 1.0}
    with pytest.raises(ExportError, match="'loss' gave nan for the keras"):
        export(model, tmp_path, metric=("loss", lambda serve: float("nan")))


def test_without_the_proof_the_report_says_so(tmp_path):
    report = export(models.dense(), tmp_path, verify=False)
    assert report.proof == {}
    assert any("switched off" in warning for warning in report.warnings)


def test_collect_keeps_the_order_of_the_names():
    assert list(collect(models.Autoencoder(), 2, ["decode", "encode"])) == ["decode", "encode"]
    assert collect(models.Autoencoder(), 2)["encode"].inputs["x"].shape == (2, 4)
