"""Files that calibration makes wrong: they are refused or right, and what a proof cannot see is said."""

import pathlib

import export_models as models
import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_dl import LSTM
from keras_dl.export import ExportError, KerasRunner, flatbuffer, graph, load, samples
from keras_dl.export import export as export_
from keras_dl.signatures import default_signatures

ROWS = 128


def export(model, folder, calibration, quantization="int8", **arguments):
    return export_(model, folder / "model.tflite", quantization=quantization, calibration=calibration, **arguments)


def scaled(layer, size):
    """`layer` with weights so large that its outputs follow its inputs: first weights give almost equal outputs."""
    layer.kernel_initializer = keras.initializers.RandomNormal(stddev=size, seed=0)
    return layer


def image_net(*first, dtype="float32"):
    x = h = keras.Input((8, 8, 1), name="x", dtype=dtype)
    for layer in (*first, layers.Conv2D(6, 3, activation="relu"), layers.Flatten(), scaled(layers.Dense(5), 0.3)):
        h = layer(h)
    return keras.Model(x, layers.Softmax(name="p")(h))


def test_boxes_beside_scores_in_one_tensor_are_refused(tmp_path):
    """The step of the boxes is larger than the scores. As two outputs they are right."""
    x = keras.Input((8,), name="x")
    boxes = layers.Rescaling(320.0)(layers.Dense(4, activation="sigmoid")(x))
    scores = layers.Dense(3, activation="sigmoid", name="scores")(x)
    rows = {"x": models.normal(ROWS, 8)}
    with pytest.raises(ExportError, match=r"loses 3 of 7 channels: of channel [456], .*need names of their own"):
        export(keras.Model(x, layers.Concatenate()([boxes, scores])), tmp_path, rows)
    assert list(tmp_path.iterdir()) == []
    report = export(keras.Model(x, {"boxes": boxes, "scores": scores}), tmp_path, rows)
    assert all(found["channel_r2"] > 0.99 for found in report.proof["signatures"]["serve"].values())


@pytest.mark.parametrize("quantization", ["int8", "float16"])
def test_a_small_deviation_beside_a_large_mean_is_refused(quantization, tmp_path):
    """In float16 alone, the bias is off by 0.2: a file's mean counts too."""
    model = keras.Sequential([keras.Input((4,), name="x"), layers.Dense(1, name="price")])
    model.set_weights([np.full((4, 1), 0.25), np.array([1000.3])])  # the deviation of the output is 0.5
    with pytest.raises(ExportError, match=r"reproduces R2 = .* standard deviation is 0\.\d+; it must be at least"):
        export(model, tmp_path, {"x": models.normal(ROWS, 4)}, quantization)
    report = export(model, tmp_path, {"x": models.normal(ROWS, 4)}, "none")
    (found,) = report.proof["signatures"]["serve"].values()
    assert found["r2"] > 0.9999


def test_a_constant_set_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"calibration of 'serve' is constant: 'x' is always 0\. It must be real inputs"
    ):
        export(image_net(), tmp_path, {"x": np.zeros((4, 8, 8, 1))})
    report = export(image_net(), tmp_path, {"x": np.zeros((4, 8, 8, 1))}, "float16")
    assert any("x never changes" in warning for warning in report.warnings)


def test_pixels_for_a_model_that_does_not_scale_them_are_named(tmp_path):
    """Only the user knows what the model was trained on: a file is right for inputs like those that calibrate."""
    rows = {"x": models.pixels(ROWS)}
    report = export(image_net(), tmp_path, rows)
    (warning,) = report.warnings
    assert "x looks like pixels from 0 to 255" in warning
    assert export(image_net(layers.Rescaling(1 / 255)), tmp_path, rows).warnings == []


def test_an_outlier_is_refused(tmp_path):
    rows = models.normal(16, 8, 8, 1)
    rows[5, 0, 0, 0] = 1e30
    with pytest.raises(
        ValueError, match=r"row 5 of 'x' reaches 1e\+30, and most rows at most [34]\..* Drop what is not"
    ):
        export(image_net(), tmp_path, {"x": rows})
    report = export(image_net(), tmp_path, {"x": rows}, "none")
    assert any("row 5 of 'x'" in warning for warning in report.warnings)


def test_one_sample_is_refused(tmp_path):
    row = models.normal(1, 8, 8, 1)
    for rows in (row, np.repeat(row, 16, axis=0)):
        with pytest.raises(ExportError, match=r"has one sample, and no output varies with it\. .*at least 100"):
            export(image_net(), tmp_path, {"x": rows})
    x = keras.Input((8, 8, 1), name="x")
    pixelwise = keras.Model(x, layers.Conv2D(2, 3)(x))  # whose outputs vary from place to place
    report = export(pixelwise, tmp_path, {"x": row})
    assert any("has 1 different sample." in warning for warning in report.warnings)
    assert report.proof["inputs"] == {"serve": "calibration"}


def test_few_samples_are_named(tmp_path):
    report = export(image_net(), tmp_path, {"x": models.normal(99, 8, 8, 1)})
    assert any("has 99 different samples. In each tensor, about 2%" in warning for warning in report.warnings)
    assert export(image_net(), tmp_path, {"x": models.normal(100, 8, 8, 1)}).warnings == []


def test_the_proof_sees_samples_that_calibration_does_not(tmp_path):
    """Every fourth is far outside of the range of the others."""
    rows = models.normal(ROWS, 4)
    rows[3::4] *= 20
    with pytest.raises(ExportError, match=r"R2|cosine"):
        export(models.dense(), tmp_path, {"features": rows})
    report = export(models.dense(), tmp_path, {"features": np.roll(rows, 1, axis=0)})
    assert report.proof["samples"] == {"serve": ROWS // 4}
    assert report.proof["inputs"] == {"serve": "held_out"}


def test_an_unsure_output_of_random_inputs_is_named(tmp_path):
    model = keras.Sequential([keras.Input((4,), name="x"), layers.Dense(1, name="price")])
    model.set_weights([np.full((4, 1), 0.25), np.array([1000.3])])
    report = export(model, tmp_path, None, "float16")
    assert any("of signature 'serve' the random inputs show little" in warning for warning in report.warnings)


def test_samples_are_divided():
    assert samples.split([1, 2, 3]) == ([1, 2, 3], [1, 2, 3], 0)
    calibrating, proving, held_out = samples.split(list(range(256)))
    assert (len(calibrating), len(proving), held_out) == (192, 64, 64)
    assert not set(calibrating) & set(proving)


@pytest.mark.parametrize("sequential", [True, False])
def test_pixels_of_functional_models_stay_integers(sequential, tmp_path):
    """Keras casts their inputs to uint8 again, which integer hardware does not compute."""
    model = image_net(layers.Rescaling(1 / 255), dtype="uint8")
    if sequential:
        model = keras.Sequential([keras.Input((8, 8, 1), name="x", dtype="uint8"), *model.layers[1:]])
    for quantization in ("int8", "int16x8"):
        report = export(model, tmp_path, {"x": models.pixels(ROWS)}, quantization)
        assert set(report.ops) == {"CONV_2D", "RESHAPE", "FULLY_CONNECTED", "SOFTMAX"}
        assert report.signatures["serve"]["inputs"]["x"]["dtype"] == quantization.removesuffix("x8")
    assert KerasRunner(model).signatures["serve"]["inputs"]["x"]["dtype"] == "uint8", "the model is as it was"


def pyramid():
    x = keras.Input((12, 12, 3), name="x")
    h = layers.Conv2D(6, 3, padding="same")(x)
    pooled = layers.AveragePooling2D(4)(h)
    resized = layers.UpSampling2D(2, interpolation="bilinear")(layers.AveragePooling2D(8)(h))
    up = layers.Resizing(3, 3, interpolation="bilinear")(h)
    return keras.Model(x, layers.Concatenate(name="joined")([pooled, up, layers.Resizing(3, 3)(resized)]))


def adaptive():
    x = keras.Input((7, 7, 3), name="x")
    return keras.Model(x, layers.AdaptiveAveragePooling2D((3, 3), name="joined")(layers.Conv2D(6, 3)(x)))


def parted():
    """The average is split before it is joined, as channels are that get shuffled."""
    x = keras.Input((8, 8, 4), name="x")
    h = layers.Conv2D(6, 3, padding="same")(x)
    first, second = ops.split(layers.AveragePooling2D(4)(h), 2, axis=-1)
    return keras.Model(x, layers.Concatenate(name="joined")([second, first]))


@pytest.mark.parametrize("model", [pyramid, adaptive, parted])
@pytest.mark.parametrize("quantization", ["int8", "int16x8"])
def test_averages_before_a_concatenation_have_a_scale_of_their_own(model, quantization, tmp_path):
    """The converter gives what is averaged the scale of the averages, and cuts it off."""
    model = model()
    report = export(model, tmp_path, {"x": models.normal(ROWS, *model.input_shape[1:])}, quantization)
    assert report.proof["signatures"]["serve"]["joined"]["r2"] > 0.99
    assert "MUL" not in report.ops
    assert report.tensors["float_ops"] == []


def test_columns_that_one_scale_of_a_table_loses_are_named(tmp_path):
    """The input has steps of some 1.5, and two columns vary by less."""
    x = keras.Input((3,), name="table")
    norm = layers.Normalization()
    rows = models.normal(ROWS, 3) * [0.1, 50, 1] + [0.5, 200, -3]
    norm.adapt(rows)
    model = keras.Model(x, layers.Dense(1, kernel_initializer="ones", name="price")(norm(x)))
    with pytest.raises(ExportError, match=r"columns 0, 2 of 'table' have a deviation below one of the 255 steps"):
        export(model, tmp_path, {"table": rows.astype("float32")})
    report = export(model, tmp_path, {"table": rows.astype("float32")}, "int16x8")
    assert not any("column" in warning for warning in report.warnings)


CUTTING = {
    "least": lambda x: {"y": ops.minimum(x, 0.0), "x": x * 2},
    "bounded": lambda x: {"y": ops.clip(x, -0.5, 0.5), "x": x * 2},
    "larger of two": lambda x: {"y": ops.maximum(x, 0.1 * x), "x": x * 2},
    "chosen": lambda x: {"y": ops.where(x > 0, x, 0.1 * x), "x": x * 2},
    "moved": lambda x: {"y": ops.minimum(ops.transpose(x, (0, 2, 1)), 0.0), "x": x * 2},
    "part": lambda x: {"y": ops.minimum(ops.split(x, 5, -1)[0], 0.0), "x": ops.split(x, 5, -1)[1] * 2},
    "input": lambda x: keras.activations.celu(x),
}


@pytest.mark.parametrize("kind", CUTTING)
def test_what_one_op_cuts_off_keeps_its_range_for_the_others(kind, tmp_path):
    """The converter gives what such an op reads the range of what it writes: the cosine of `celu` was 0.48."""
    x = keras.Input((6, 4), name="x")
    model = keras.Model(x, CUTTING[kind](x if kind == "input" else layers.Dense(5)(x)))
    report = export(model, tmp_path, {"x": models.normal(ROWS, 6, 4)})
    assert all(found["r2"] > 0.99 for found in report.proof["signatures"]["serve"].values())
    # The converter computes a SPLIT in float32 if one of its parts gets another scale.
    assert [op for op in report.tensors["float_ops"] if not op.startswith("SPLIT ")] == []


def test_what_only_one_op_reads_is_cut_off(tmp_path):
    """Nobody misses what is lost there, so that the file needs no further op."""
    x = keras.Input((4,), name="x")
    report = export(keras.Model(x, ops.minimum(layers.Dense(5)(x), 0.0)), tmp_path, {"x": models.normal(ROWS, 4)})
    assert report.ops == {"FULLY_CONNECTED": 1, "MINIMUM": 1}


def test_sums_leave_the_range_of_their_terms(tmp_path):
    """The converter gives sums of 16 bits the scale of their terms: the cosine of 48 terms was 0.91."""
    x = keras.Input((48,), name="x")
    model = keras.Model(x, {"one": ops.sum(layers.Dense(48)(x), -1), "all": ops.sum(x, -1, keepdims=True)})
    report = export(model, tmp_path, {"x": models.normal(ROWS, 48)}, "int16x8")
    assert all(found["r2"] > 0.999 for found in report.proof["signatures"]["serve"].values())


@pytest.mark.parametrize("layer", ["dense", "convolution"])
def test_a_layer_that_is_called_twice_has_two_biases(layer, tmp_path):
    """Their integers have the scales of two inputs. The converter has one bias in files of int16x8."""
    x = keras.Input((6, 6, 4), name="x")
    shared = layers.Dense(3) if layer == "dense" else layers.Conv2D(3, 3)
    model = keras.Model(x, {"small": shared(x), "large": shared(x * 10)})
    shared.bias.assign([3.0, -3.0, 1.0])
    report = export(model, tmp_path, {"x": models.normal(ROWS, 6, 6, 4)}, "int16x8")
    assert all(found["r2"] > 0.999 for found in report.proof["signatures"]["serve"].values())


def test_signatures_that_share_a_layer_have_its_weights(tmp_path):
    """The converter quantizes a buffer of int16x8 again for the next signature, as if its integers were floats."""
    x = keras.Input((64,), name="x")
    model = keras.Model(x, layers.Dense(256, bias_initializer="ones", name="y")(x))
    serve = default_signatures(model)["serve"]
    model.serving_signatures = lambda batch_size: {"one": serve, "two": serve}
    rows = [{"x": models.normal(ROWS, 64)}]
    report = export(model, tmp_path, {"one": rows, "two": rows}, "int16x8")
    assert all(found["r2"] > 0.999 for one in report.proof["signatures"].values() for found in one.values())
    buffers = flatbuffer.unpacked(pathlib.Path(report.path).read_bytes()).buffers
    assert [len(x.data) for x in buffers if x.data is not None].count(64 * 256) == 1  # the file has them once


@pytest.mark.parametrize("find", [ops.argmax, ops.argmin])
def test_indices_of_an_output_are_found_in_integers(find, tmp_path):
    """The converter dequantizes an output before such an op, which an NPU does not run."""
    x = keras.Input((8,), name="x")
    scores = layers.Dense(6)(x)
    model = keras.Model(x, {"scores": scores, "index": find(scores, axis=-1)})
    report = export(model, tmp_path, {"x": models.normal(ROWS, 8)}, target="ethos-u55-128")
    assert report.tensors["float_ops"] == []
    assert set(report.ops) == {"FULLY_CONNECTED", "ARG_MAX" if find is ops.argmax else "ARG_MIN"}
    outputs = load(report.path).serve("serve", x=models.normal(64, 8, seed=1))
    np.testing.assert_array_equal(outputs["index"], np.asarray(find(outputs["scores"], axis=-1)))


MASKED = {
    "products": lambda x: layers.MultiHeadAttention(2, 8, name="y", seed=0)(x, x, use_causal_mask=True),
    "scores": lambda x: layers.MultiHeadAttention(2, 8, dropout=0.1, name="y", seed=0)(x, x, use_causal_mask=True),
    "groups": lambda x: layers.GroupQueryAttention(8, 4, 2, name="y", seed=0)(x, x, use_causal_mask=True),
    "attention": lambda x: layers.Attention(name="y")([x, x], use_causal_mask=True),
    "softmax": lambda x: layers.Softmax(name="y")(x, mask=np.tri(12, 16, dtype="bool")[None]),
}


@pytest.mark.parametrize("kind", MASKED)
@pytest.mark.parametrize("quantization", ["int8", "int16x8"])
def test_masks_leave_steps_to_the_scores(kind, quantization, tmp_path):
    """Keras sets masked scores to -1e9, which would take the range: R2 was 0.8."""
    x = keras.Input((12, 16), name="x")
    report = export(keras.Model(x, MASKED[kind](x)), tmp_path, {"x": models.normal(ROWS, 12, 16)}, quantization)
    (found,) = report.proof["signatures"]["serve"].values()
    assert found["r2"] > 0.99
    assert report.tensors["float_ops"] == []


def test_masks_of_padding_leave_steps_to_the_scores(tmp_path):
    tokens = keras.Input((12,), name="tokens", dtype="int32")
    h = layers.Embedding(20, 16, mask_zero=True, embeddings_initializer="random_normal")(tokens)
    h = layers.MultiHeadAttention(2, 8, name="heads", seed=0)(h, h)
    model = keras.Model(tokens, layers.Dense(3, name="y")(layers.GlobalAveragePooling1D()(h)))
    rows = np.random.default_rng(0).integers(1, 20, (ROWS, 12)) * (np.arange(12) < np.arange(ROWS)[:, None] % 9 + 4)
    report = export(model, tmp_path, {"tokens": rows.astype("int32")})
    assert report.proof["signatures"]["serve"]["y"]["r2"] > 0.97


def test_embeddings_are_looked_up_and_nothing_else(tmp_path):
    """Keras adds the number of rows to negative ids, by a SELECT that microcontrollers do not have."""
    tokens = keras.Input((6,), name="tokens", dtype="int32")
    h = layers.Flatten()(layers.Embedding(20, 8, name="table")(tokens))
    model = keras.Model(tokens, layers.Dense(3, name="y")(h))
    rows = {"tokens": np.random.default_rng(0).integers(0, 20, (ROWS, 6)).astype("int32")}
    report = export(model, tmp_path, rows, target="micro")
    assert sorted(op.name for op in graph.read(report.path).ops) == ["FULLY_CONNECTED", "GATHER", "RESHAPE"]
    assert report.proof["signatures"]["serve"]["y"]["r2"] > 0.99
    ends = model.get_layer("table")(np.array([-1, 19]))
    np.testing.assert_array_equal(ends[0], ends[1], "Keras's own layer is as it was")


def test_recurrent_weights_of_zeros_have_an_ordinary_scale(tmp_path):
    """The converter gives them 4e-9. From such scales a kernel computes multipliers out of its range."""
    x = keras.Input((5, 3), name="x")
    layer = LSTM(4, return_sequences=True, recurrent_initializer="zeros", name="y")
    report = export(keras.Model(x, layer(x)), tmp_path, {"x": models.normal(ROWS, 5, 3)})
    (op,) = (op for op in graph.read(report.path).ops if op.name == "UNIDIRECTIONAL_SEQUENCE_LSTM")
    assert not any(weights.values.any() for weights in op.inputs[5:9])
    assert {weights.scales for weights in op.inputs[5:9]} == {(2.0**-7,)}
    assert report.proof["signatures"]["serve"]["y"]["r2"] > 0.99
