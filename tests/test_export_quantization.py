"""Quantization: each name is exactly what the file's tensors say."""

import contextlib
import re
import uuid

import export_models as models
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from keras import layers, ops

from keras_dl import LSTM
from keras_dl.export import ExportError, KerasRunner, graph, litert, load, names, quantize, runners, saved_model, source
from keras_dl.export import export as export_

# (dtype of weights, of activations, of inputs and outputs)
MEANING = {
    "none": ("float32", "float32", "float32"),
    "float16": ("float16", "float32", "float32"),
    "weight_only_int8": ("int8", "float32", "float32"),
    "dynamic_int8": ("int8", "float32", "float32"),
    "int16x8": ("int8", "int16", "int16"),
    "int8": ("int8", "int8", "int8"),
}
# Above the errors measured (2e-7, 4e-4, 5e-3, 7e-3, 4e-3 and 2e-2), as shares of the largest value.
ERRORS = {"none": 1e-6, "float16": 1e-3, "weight_only_int8": 2e-2, "dynamic_int8": 2e-2, "int16x8": 2e-2, "int8": 4e-2}


def export(model, folder, quantization, calibration=None, **arguments):
    return export_(model, folder / "model.tflite", quantization=quantization, calibration=calibration, **arguments)


def test_every_name_is_tested():
    assert set(MEANING) == set(quantize.QUANTIZATIONS)


@pytest.mark.parametrize("quantization", MEANING)
def test_the_tensors_of_the_file_are_what_the_name_says(quantization, tmp_path):
    model, images = models.convolutional(), models.normal(16, models.SIDE, models.SIDE, 1)
    report = export(model, tmp_path, quantization, [{"images": images}])
    weights, activations, ends = MEANING[quantization]
    assert report.tensors["weights"] == {weights: 3}
    assert set(report.tensors["activations"]) == {activations}
    assert report.tensors["float_ops"] == []
    (signature,) = report.signatures.values()
    tensors = [*signature["inputs"].values(), *signature["outputs"].values()]
    assert {x["dtype"] for x in tensors} == {ends}
    assert all(("scale" in x) == (ends != "float32") for x in tensors)

    file = graph.read(report.path)
    products = [op for op in file.ops if op.name in ("CONV_2D", "FULLY_CONNECTED")]
    assert len(products) == 3
    for op in products:
        assert op.inputs[0].dtype == op.outputs[0].dtype == activations
        computes = weights if quantization not in ("float16", "weight_only_int8") else "float32"
        assert op.inputs[1].dtype == computes
        if computes == "int8" and op.name == "CONV_2D":
            assert len(op.inputs[1].scales) == op.inputs[1].shape[0] > 1  # one a channel

    found = load(report.path).serve("serve", images=images)["probabilities"]
    expected = KerasRunner(model).serve("serve", images=images)["probabilities"]
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= ERRORS[quantization] * np.abs(expected).max()


def test_a_layer_that_stays_in_float(tmp_path):
    """The other layers, and what goes in and comes out, are of int8; the error is less than with all of them."""
    model, images = models.convolutional(), models.normal(16, models.SIDE, models.SIDE, 1)
    spared = "second"
    reports = {
        layers_: export(model, tmp_path, "int8", [{"images": images}], float_layers=layers_)
        for layers_ in ((), (spared,))
    }
    report = reports[(spared,)]
    assert report.tensors["float_layers"] == [spared]
    assert report.tensors["float_ops"] == []
    assert report.tensors["weights"] == {"int8": 2, "float32": 1}
    (signature,) = report.signatures.values()
    assert {x["dtype"] for x in (*signature["inputs"].values(), *signature["outputs"].values())} == {"int8"}
    floats = [op for op in graph.read(report.path).ops if op.outputs[0].dtype == "float32" and op.macs]
    assert [saved_model.layer_path(op.layer, {spared: spared}) for op in floats] == [[spared]]
    errors = [r.proof["signatures"]["serve"]["probabilities"]["mean_abs_error"] for r in reports.values()]
    assert errors[1] < errors[0]


def test_layers_of_long_paths_are_found(tmp_path):
    """Their names say where they are, also where the path alone is longer than a tensor's name should be."""

    def block(number):
        x = inner = keras.Input((models.SIDE, models.SIDE, 2))
        for place in ("first", "second"):
            inner = layers.Conv2D(2, 3, padding="same", name=f"the_{place}_convolution_of_block_{number}")(inner)
        inner = keras.Model(x, inner, name=f"a_block_with_a_name_of_many_characters_{number}")(x)
        return keras.Model(x, inner, name=f"a_stage_with_a_name_of_many_characters_{number}")

    x = keras.Input((models.SIDE, models.SIDE, 2), name="x")
    h = layers.Add()([x, block(1)(x)])
    model = keras.Model(x, layers.Add()([h, block(2)(h)]))
    spared = "the_second_convolution_of_block_1"
    calibration = {"x": models.normal(16, models.SIDE, models.SIDE, 2)}
    report = export(model, tmp_path, "int8", calibration, float_layers=[spared])
    assert report.tensors["weights"] == {"int8": 3, "float32": 1}
    known = saved_model.layer_names(model)
    convolutions = [op for op in graph.read(report.path).ops if op.name == "CONV_2D"]
    assert all(len(op.layer) > names.LONGEST for op in convolutions)
    paths = [saved_model.layer_path(op.layer, known) for op in convolutions]
    expected = [f"the_{place}_convolution_of_block_{number}" for number in (1, 2) for place in ("first", "second")]
    assert [path[-1] for path in paths] == expected
    (spared_op,) = (op for op in convolutions if op.outputs[0].dtype == "float32")
    assert saved_model.located("CONV_2D", spared_op.layer, model).endswith(f"{spared}'")


def test_layers_that_cannot_stay_in_float(tmp_path):
    model, images = models.convolutional(), [{"images": models.normal(4, models.SIDE, models.SIDE, 1)}]
    with pytest.raises(ValueError, match=r"float_layers=\['nothing'\]: the model has no such layer\. It has "):
        export(model, tmp_path, "int8", images, float_layers=["nothing"])
    with pytest.raises(ValueError, match=r"needs quantization='int8', not 'float16'"):
        export(model, tmp_path, "float16", images, float_layers=[model.layers[-1].name])
    with pytest.raises(TypeError, match="must be a sequence of names"):
        export(model, tmp_path, "int8", images, float_layers=model.layers[-1].name)


def test_integers_are_smaller(tmp_path):
    images = [{"images": models.normal(8, models.SIDE, models.SIDE, 1)}]
    sizes = {q: export(models.convolutional(), tmp_path, q, images).bytes for q in ("none", "float16", "int8")}
    assert sizes["none"] > sizes["float16"] > sizes["int8"]


def test_large_weights(tmp_path):
    """The converter's quantizer writes them elsewhere in the file, where the classes of the schema do not read them."""
    model = keras.Sequential([keras.Input((640,), name="x"), layers.Dense(640, activation="relu"), layers.Dense(2)])
    reports = export(model, tmp_path, tuple(MEANING), [{"x": models.normal(16, 640)}])
    assert all(report.bytes > 640 * 640 for report in reports.values())
    file = graph.read(reports["dynamic_int8"].path)
    (kernel,) = (x for op in file.ops for x in op.inputs if x and x.shape == (640, 640))
    assert np.abs(kernel.values).max() == 127


def test_a_file_that_ends_within_its_weights_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((640,), name="x"), layers.Dense(640)])
    with contextlib.closing(source.Source(model)) as traced:
        content = quantize.to_litert(traced, ["serve"], "dynamic_int8", ())
    graph.parse(content)
    with pytest.raises(ValueError, match="is not a whole LiteRT file"):
        graph.parse(content[:-1000])


@pytest.mark.parametrize(("low", "high"), [(0, 256), (90, 120)])
def test_int8_pixels_keep_every_grey_value(low, high, tmp_path):
    """Also where the calibration images do not reach from black to white."""
    rows = {"images": models.pixels(20, low=low, high=high)}
    report = export(models.Classifier(), tmp_path, "int8", [rows], metadata={"input_range": "uint8 pixels"})
    stored = report.metadata["integer_inputs"]["classify"]["images"]
    assert stored == {"dtype": "int8", "scale": pytest.approx(1.0), "zero_point": -128}
    assert report.metadata["input_range"].startswith("real values: uint8 pixels; ")
    images = report.signatures["classify"]["inputs"]["images"]
    assert images["dtype"] == "int8"
    assert images["zero_point"] == -128
    assert images["scale"] == pytest.approx(1.0, abs=1e-6)
    grey = np.arange(256, dtype="uint8")
    np.testing.assert_array_equal(runners.quantize(grey, images["scale"], -128, "int8"), grey.astype(int) - 128)
    assert "CAST" not in report.ops


def test_float_files_take_pixels(tmp_path):
    for quantization in ("none", "float16", "dynamic_int8", "weight_only_int8"):
        report = export(models.Classifier(), tmp_path, quantization, [{"images": models.pixels(4)}])
        assert report.signatures["classify"]["inputs"]["images"]["dtype"] == "uint8"


@pytest.mark.parametrize("quantization", ["int8", "dynamic_int8"])
def test_several_signatures(quantization, tmp_path):
    calibration = {
        "encode": [{"x": models.normal(32, 4)}],
        "decode": [{"codes": models.normal(32, 6), "gains": models.normal(32, 1)}],
    }
    report = export(models.Autoencoder(), tmp_path, quantization, calibration)
    assert report.signatures["decode"]["outputs"]["largest"] == {"shape": [1], "dtype": "int32"}
    runner, keras_runner = load(report.path), KerasRunner(models.Autoencoder())
    codes = runner.serve("encode", x=models.normal(5, 4, seed=3))["codes"]
    assert codes.shape == (5, 6)
    assert set(keras_runner.signatures) == set(runner.signatures)


def test_calibration_is_needed_for_every_signature(tmp_path):
    with pytest.raises(ValueError, match="'int8' needs calibration data, and 'decode' has none"):
        export(models.Autoencoder(), tmp_path, "int8", {"encode": [{"x": models.normal(4, 4)}]})


def embedding():
    tokens = keras.Input((6,), name="tokens", dtype="int32")
    h = layers.GlobalAveragePooling1D()(layers.Embedding(200, 16, name="table")(tokens))
    return keras.Model(tokens, layers.Dense(3, name="values")(h))


@pytest.mark.parametrize("quantization", ["float16", "dynamic_int8", "int8"])
def test_embeddings_are_quantized_and_tokens_stay_integers(quantization, tmp_path):
    tokens = np.random.default_rng(0).integers(0, 200, (32, 6))
    report = export(embedding(), tmp_path, quantization, {"tokens": tokens})
    assert report.signatures["serve"]["inputs"]["tokens"]["dtype"] == "int32"
    ops = graph.read(report.path).ops
    assert [op.name for op in ops].count("GATHER") == 1
    (table,) = (x for op in ops for x in op.inputs if x and x.constant and x.shape == (200, 16))
    assert table.dtype == MEANING[quantization][0]


def test_weights_that_stay_float_are_refused(tmp_path):
    x = keras.Input((4, 4, 4, 8), name="x")
    h = layers.Flatten()(layers.Conv3D(8, 3, name="volume")(x))
    model = keras.Model(x, layers.Dense(3)(h))
    for quantization in ("weight_only_int8", "dynamic_int8"):
        with pytest.raises(ExportError, match=r"1728 of 1920 weights are not quantized, in CONV_3D in layer 'volume'"):
            export(model, tmp_path, quantization)
    assert list(tmp_path.iterdir()) == []


class Doubling(layers.Layer):
    def call(self, x):
        return tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, y * 2.0), (0, x))[1]


def test_loops_cannot_be_calibrated(tmp_path):
    """The converter's calibrator would end the process with a segmentation fault."""
    model = keras.Sequential([keras.Input((4,), name="x"), layers.Dense(3), Doubling(name="loop")])
    with pytest.raises(ExportError, match=r"'int8' cannot calibrate .* WHILE in layer 'loop'.*float16 or dynamic_int8"):
        export(model, tmp_path, "int8", {"x": models.normal(4, 4)})
    assert export(model, tmp_path, "dynamic_int8").tensors["weights"] == {"int8": 1}


def test_an_op_without_an_integer_kernel(tmp_path):
    """int8 leaves it in float32 and says so; int16x8 has no such way."""
    x = keras.Input((6, 8), name="x")
    model = keras.Model(x, layers.Dense(3)(layers.LayerNormalization(name="norm")(x)))
    calibration = {"x": models.normal(16, 6, 8)}
    report = export(model, tmp_path, "int8", calibration)
    assert report.tensors["float_ops"] == ["NEG in layer 'norm'"]
    assert any("NEG in layer 'norm'" in warning for warning in report.warnings)
    with pytest.raises(ExportError, match="no int16x8 kernel for NEG in layer 'norm'"):
        export(model, tmp_path, "int16x8", calibration)


class FusedLSTM(layers.Layer):
    """A recurrence that the converter turns into one UNIDIRECTIONAL_SEQUENCE_LSTM."""

    units = 64

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 4 * self.units))
        self.recurrent = self.add_weight(shape=(self.units, 4 * self.units))
        self.bias = self.add_weight(shape=(4 * self.units,))

    def call(self, x):
        attributes = {
            "api_implements": f"lstm_{uuid.uuid4()}",
            "api_preferred_device": "CPU",
            "time_major": False,
            "go_backwards": False,
        }
        state = tf.zeros((1, self.units))
        recurrence = tf.function(_recurrence, autograph=False, experimental_attributes=attributes)
        weights = [tf.convert_to_tensor(w) for w in (self.kernel, self.recurrent, self.bias)]
        return recurrence(x, state, state, *weights)[1]

    def compute_output_shape(self, shape):
        return (*shape[:-1], self.units)


def _recurrence(inputs, init_h, init_c, kernel, recurrent_kernel, bias):
    h, c, outputs = init_h, init_c, []
    for x in tf.unstack(inputs, axis=1):
        i, f, g, o = tf.split(x @ kernel + h @ recurrent_kernel + bias, 4, axis=1)
        c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
        h = tf.sigmoid(o) * tf.tanh(c)
        outputs.append(h)
    return h, tf.stack(outputs, axis=1), h, c, tf.constant(1.0)


@pytest.mark.parametrize("quantization", ["none", "float16", "dynamic_int8", "int8"])
def test_fused_lstms_are_quantized_and_forget_between_calls(quantization, tmp_path):
    x = keras.Input((5, 32), name="x", batch_size=1)
    model = keras.Model(x, FusedLSTM(name="lstm")(x))
    rows = models.normal(8, 5, 32)
    report = export(model, tmp_path, quantization, {"x": rows})
    assert report.ops["UNIDIRECTIONAL_SEQUENCE_LSTM"] == 1
    assert report.tensors["weights"] == {MEANING[quantization][0]: 8}
    assert any("last call" in warning for warning in report.warnings)
    runner = load(report.path)
    first, again = (runner.serve("serve", x=rows[:1]) for _ in range(2))
    np.testing.assert_array_equal(first["lstm"], again["lstm"])


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_fused_lstms_are_found_in_their_layers(quantization, tmp_path):
    """Also two with the same zeros as first states, which the converter makes one and takes the names from."""
    x = keras.Input((5, 3), name="x")
    before = layers.Dense(6, activation="relu", name="before")(x)
    h = layers.Bidirectional(LSTM(4, return_sequences=True, name="lstm"), name="both")(before)
    model = keras.Model(x, layers.Dense(2, name="after")(LSTM(7, return_sequences=True, name="last")(h)))
    report = export(model, tmp_path, quantization, {"x": models.normal(16, 5, 3)})
    known = saved_model.layer_names(model)
    fused = [op for op in graph.read(report.path).ops if op.name == "UNIDIRECTIONAL_SEQUENCE_LSTM"]
    found = {"/".join(saved_model.layer_path(op.layer, known)).removesuffix("/lstm_cell") for op in fused}
    assert found == {"both/forward_lstm", "both/backward_lstm", "last"}
    (warning,) = (warning for warning in report.warnings if "last call" in warning)
    assert "outside" not in warning


def test_a_name_that_the_converter_lost_is_not_guessed():
    model = models.dense()
    lost = saved_model.located("STRIDED_SLICE", "tfl.strided_slice", model)
    assert lost == "STRIDED_SLICE in a layer that the converter did not write down"
    assert saved_model.located("ADD", "elsewhere_1/add", model) == "ADD outside of the model's layers"


@given(
    st.lists(st.floats(-100, 100), min_size=1),
    st.floats(1e-3, 1.0),
    st.integers(-128, 127),
)
def test_round_trip_of_quantized_values(values, scale, zero_point):
    """Within half a step inside the range; at its ends outside."""
    values = np.array(values)
    integers = runners.quantize(values, scale, zero_point, "int8")
    assert integers.dtype == np.int8
    back = runners.dequantize(integers, scale, zero_point)
    assert back.dtype == np.float32
    low, high = scale * (-128 - zero_point), scale * (127 - zero_point)
    clipped = np.clip(values, low, high)
    np.testing.assert_allclose(back, clipped, atol=0.5 * scale * (1 + 1e-6) + 1e-5)
    np.testing.assert_array_equal(runners.quantize(back, scale, zero_point, "int8"), integers)


def test_a_file_that_is_something_else_is_refused(tmp_path):
    """Each file is refused under every other name but those that its tensors fit."""
    model, calibration = models.convolutional(), [{"images": models.normal(8, models.SIDE, models.SIDE, 1)}]
    for quantization in MEANING:
        export(model, tmp_path, quantization, calibration)
        file = graph.read(tmp_path / "model.tflite")
        for other in MEANING:
            if other == quantization:
                quantize.check(file, other, model)
            else:
                with pytest.raises(ExportError, match=f"'{other}' is not available"):
                    quantize.check(file, other, model)


def test_models_without_weights(tmp_path):
    model = keras.Sequential([keras.Input((4,), name="x"), layers.Lambda(lambda x: ops.tanh(x) + 1.0)])
    report = export(model, tmp_path, "int8", {"x": models.normal(16, 4)})
    assert report.tensors["weights"] == {}


@pytest.mark.parametrize("quantization", ["dynamic_int8", "weight_only_int8"])
def test_a_row_of_numbers_that_is_looked_up_keeps_its_digits(quantization, tmp_path):
    """Such as the noise levels of a sampler. As int8, 1e-3 beside 10 would be 0."""
    levels = np.geomspace(1e-3, 10, 64).astype("float32")

    class Levels(keras.layers.Layer):
        def call(self, x):
            return keras.ops.take(levels, x)

    index = keras.Input((), dtype="int32")
    path = tmp_path / "levels.tflite"
    hidden = keras.layers.Reshape((1,))(Levels()(index))
    export_(
        keras.Model(index, keras.layers.Concatenate()([hidden, keras.layers.Dense(1)(hidden)])),
        path,
        quantization=quantization,
    )
    (name,) = load(path).signatures["serve"]["inputs"]
    (found,) = load(path).serve("serve", **{name: np.arange(64, dtype="int32")}).values()
    np.testing.assert_array_equal(found[:, 0], levels)


class OnTheLeft(layers.Layer):
    """A product with a constant on its left, as an interpolation is."""

    def build(self, shape):
        self.matrix = self.add_weight(shape=(1, 5, shape[-2]), name="matrix")

    def call(self, x):
        return tf.matmul(self.matrix, x)


@pytest.mark.parametrize("quantization", ["dynamic_int8", "weight_only_int8"])
def test_a_constant_on_the_left_of_a_product(quantization, tmp_path):
    """LiteRT multiplies by int8 on the right alone; on the left, it refused the file."""
    x = keras.Input((6, 8), name="x")
    model = keras.Model(x, layers.Dense(3)(OnTheLeft(name="left")(x)))
    report = export(model, tmp_path, quantization, {"x": models.normal(16, 6, 8)})
    assert report.tensors["weights"] == {"int8": 2}
    assert report.ops["BATCH_MATMUL"] == 1


def test_a_quantizer_without_a_message_is_explained():
    """LiteRT's C++ writes some reasons to standard error alone."""
    message = litert._explain(RuntimeError(""), models.convolutional())
    assert re.search(r"Its reason.* stands above this error\. .*float_layers", message)
    message = litert._explain(AssertionError(), models.convolutional())  # of Python, which writes nothing
    assert message == "The LiteRT converter failed with AssertionError, without a reason."
