"""Names and structures that a file cannot have as the model has them: made safe, unique and flat, and reported."""

import keras
import numpy as np
import pytest
from export_models import normal
from keras import layers

from keras_dl import Signature
from keras_dl.export import KerasRunner, export, load
from keras_dl.export.samples import read_calibration
from keras_dl.export.signatures import collect

SUFFIXES = {"litert": ".tflite", "onnx": ".onnx", "saved_model": ""}


def check_equal(model, report, **arrays):
    """The file, opened again, gives what the model gives; returns the outputs."""
    found, expected = load(report.path).serve("serve", **arrays), KerasRunner(model).serve("serve", **arrays)
    assert found.keys() == expected.keys()
    for key in expected:
        np.testing.assert_allclose(found[key], expected[key], atol=1e-6, err_msg=key)
    return expected


def model_names(report, kind):
    return {key: x["model_name"] for key, x in report.signatures["serve"][kind].items() if "model_name" in x}


def hard_to_name():
    """Names with blanks, brackets and other letters, of the model, a layer with weights, and inputs."""
    names = ("class", "self", "a b", "a_b", "größe", "1st", "_x", "x.y")
    inputs = [keras.Input((2,), name=name) for name in names]
    joined = layers.Concatenate(name="all of them")(inputs)
    outputs = [layers.Dense(2, name="p (1)")(joined), layers.Dense(3, name="länge")(joined)]
    return keras.Model(inputs, outputs, name="my model v1 (b)")


@pytest.mark.parametrize("format", SUFFIXES)
def test_names_are_made_safe_and_unique(format, tmp_path):
    model = hard_to_name()
    report = export(model, tmp_path / f"model{SUFFIXES[format]}", format=format)
    names = ("class_", "self_", "a_b_1", "a_b", "gr__e", "input_1st", "input_x", "x_y")
    assert set(report.signatures["serve"]["inputs"]) == set(names)
    outputs = check_equal(model, report, **{name: normal(3, 2, seed=i) for i, name in enumerate(names)})
    assert list(outputs) == ["p (1)", "länge"]
    given = [x.name for x in model.inputs]
    assert model_names(report, "inputs") == {a: b for a, b in zip(names, given, strict=True) if a != b}
    assert "Of the inputs of 'serve', the model's 'class' is 'class_' in the file." in report.warnings
    assert "'größe' is 'gr__e'" in str(report)
    assert model.name == "my model v1 (b)"
    assert [layer.name for layer in model.layers[-2:]] == ["p (1)", "länge"]
    assert model.layers[-1].kernel.value.name.startswith("länge/")


def test_layers_with_such_names_are_found_in_int8_files(tmp_path):
    """Calibration data may have the names of the file's inputs, or those of the model's."""
    model, rows = hard_to_name(), normal(64, 2)
    in_the_model = {x.name: rows + i for i, x in enumerate(model.inputs)}
    single_rows = [{name: x[i] for name, x in in_the_model.items()} for i in range(len(rows))]
    signatures = collect(model)
    in_the_file = dict(zip(signatures["serve"].inputs, in_the_model.values(), strict=True))
    batches = [read_calibration(x, signatures)["serve"] for x in (in_the_file, in_the_model, single_rows)]
    for other in batches[1:]:
        assert all(np.array_equal(a[name], b[name]) for a, b in zip(batches[0], other, strict=True) for name in a)
    calibration = [in_the_file, in_the_model]
    options = dict(quantization="int8", calibration=calibration, float_layers=["p (1)"])
    report = export(model, tmp_path / "model.tflite", **options)
    assert report.tensors["float_layers"] == ["p (1)"]
    assert report.tensors["weights"] == {"float32": 1, "int8": 1}
    with pytest.raises(ValueError, match=r"p_1.*no such layer.*länge, p "):
        export(model, tmp_path / "model.tflite", **options | dict(float_layers=["p_1"]))


def nested():
    """Nested inputs and outputs; the paths of two outputs are joined to one name."""
    a, b, c = (keras.Input((2,), name=name) for name in ("a", "b", "c"))
    joined = layers.Concatenate()([a, b, c])
    outputs = {
        "first": {"boxes": layers.Dense(2)(joined), "scores": layers.Dense(1)(joined)},
        "first_boxes": layers.Dense(3)(joined),
        "rest": [layers.Dense(4)(joined), (layers.Dense(5)(joined),)],
    }
    return keras.Model({"left": {"x": a, "y": [b]}, "right": c}, outputs)


@pytest.mark.parametrize("format", SUFFIXES)
def test_nested_structures_are_flattened_by_path(format, tmp_path):
    model = nested()
    report = export(model, tmp_path / f"model{SUFFIXES[format]}", format=format)
    rows = {name: normal(3, 2, seed=i) for i, name in enumerate(("left_x", "left_y_0", "right"))}
    outputs = check_equal(model, report, **rows)
    sizes = {"first_boxes_1": 2, "first_scores": 1, "first_boxes": 3, "rest_0": 4, "rest_1_0": 5}
    assert {name: x.shape[1] for name, x in outputs.items()} == sizes
    assert model_names(report, "inputs") == {"left_x": "left/x", "left_y_0": "left/y/0"}
    paths = {"first_boxes_1": "first/boxes", "first_scores": "first/scores", "rest_0": "rest/0", "rest_1_0": "rest/1/0"}
    assert model_names(report, "outputs") == paths
    structured = model({"left": {"x": rows["left_x"], "y": [rows["left_y_0"]]}, "right": rows["right"]})
    np.testing.assert_allclose(outputs["first_boxes_1"], structured["first"]["boxes"], atol=1e-6)
    np.testing.assert_allclose(outputs["first_boxes"], structured["first_boxes"], atol=1e-6)


def test_items_of_lists_are_outputs_by_number(tmp_path):
    x = keras.Input((2,), name="x")
    model = keras.Model(x, [{"p": layers.Dense(2)(x)}, layers.Dense(3)(x)])
    report = export(model, tmp_path / "model.tflite")
    assert sorted(check_equal(model, report, x=normal(1, 2))) == ["output_0_p", "output_1"]
    assert model_names(report, "outputs") == {"output_0_p": "0/p", "output_1": "1"}


def test_ordinary_names_stay(tmp_path):
    x = {name: keras.Input((2,), name=name) for name in ("left", "right")}
    model = keras.Model(x, {"sum": layers.Add()(list(x.values()))}, name="sums")
    report = export(model, tmp_path / "model.tflite")
    assert list(report.signatures["serve"]["inputs"]) == ["left", "right"]
    assert not model_names(report, "inputs")
    assert not model_names(report, "outputs")
    assert not any("in the file" in warning for warning in report.warnings)


@pytest.mark.parametrize("name", ["class", "self", "a b"])
def test_signatures_of_a_model_must_have_safe_names(name):
    class Foreign(keras.Model):
        def serving_signatures(self, batch_size=1):
            return {"serve": Signature(lambda **x: x, {name: keras.KerasTensor((1, 2))})}

    model = Foreign()
    model.built = True
    with pytest.raises(ValueError, match=f"{name!r} of signature 'serve' must be named like a Python variable"):
        collect(model)
