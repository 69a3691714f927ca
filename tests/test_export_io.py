"""The dtype of the inputs and outputs of integer files: the integers inside are the same, and the proof holds."""

import contextlib

import export_models as models
import numpy as np
import pytest

from keras_dl.export import Exporter, graph, inspect, load
from keras_dl.export.io_types import IO, check_io


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory):
    """The reports of one classifier of pixels, by `io`."""
    folder, rows = tmp_path_factory.mktemp("io"), models.pixels(120)
    with contextlib.closing(Exporter(models.Classifier(), [{"images": rows}])) as exporter:
        return {
            io: exporter.export(
                folder / f"{io}.tflite", quantization="int8", io=io, metadata={"input_range": "[0, 255]"}
            )
            for io in (None, "int8", "uint8", "float32")
        }


@pytest.mark.parametrize("io", [None, *IO["int8"]])
def test_the_file_has_this_dtype(classifiers, io):
    report = classifiers[io]
    served = report.signatures["classify"]
    images, probabilities = served["inputs"]["images"], served["outputs"]["probabilities"]
    assert {images["dtype"], probabilities["dtype"]} == {io or "int8"}
    assert report.tensors.get("io") == report.metadata["keras_dl"].get("io") == io
    assert report.proof["inputs"] == {"classify": "held_out"}
    assert report.tensors["weights"] == {"int8": 3}
    integer = report.metadata.get("integer_inputs", {}).get("classify", {}).get("images")
    if io == "uint8":  # raw pixels are what the file takes
        assert integer == {"dtype": "uint8", "scale": pytest.approx(1, abs=1e-6), "zero_point": 0}
    elif io == "float32":
        assert integer is None
        assert report.metadata["input_range"] == "[0, 255]"
    assert inspect(report.path)["signatures"]["classify"]["inputs"]["images"]["dtype"] == (io or "int8")


def test_the_integers_inside_are_the_same(classifiers):
    pixels = models.pixels(1, seed=3)
    runners = {io: load(classifiers[io].path, trust=True) for io in IO["int8"]}
    fed = {"int8": (pixels.astype("int16") - 128).astype("int8"), "uint8": pixels, "float32": pixels.astype("float32")}
    given = {io: runner.run("classify", {"images": fed[io]})["probabilities"] for io, runner in runners.items()}
    assert (given["uint8"] == given["int8"].astype("int16") + 128).all()
    output = runners["int8"].signatures["classify"]["outputs"]["probabilities"]
    real = output["scale"] * (given["int8"].astype("float64") - output["zero_point"])
    np.testing.assert_allclose(given["float32"], real, rtol=1e-6)
    assert len(np.unique(given["int8"])) > 1
    # The rounding of the output is allowed alike, and the figures of the proof are of the same numbers.
    proofs = [classifiers[io].proof["signatures"]["classify"]["probabilities"]["r2"] for io in runners]
    assert max(proofs) - min(proofs) < 1e-6


@pytest.mark.parametrize(("quantization", "io"), [("int8", "uint8"), ("int8", "float32"), ("int16x8", "float32")])
def test_each_signature_has_it_and_integers_stay(quantization, io, tmp_path):
    """An output of indices is no real number. (ARG_MAX has no kernel for int16x8.)"""
    names = ["encode", "decode"] if quantization == "int8" else ["encode"]
    rows = {"encode": [{"x": models.normal(120, 4)}]}
    rows["decode"] = [{"codes": models.normal(120, 6), "gains": 1 + np.abs(models.normal(120, 1))}]
    with contextlib.closing(Exporter(models.Autoencoder(), rows)) as exporter:
        report = exporter.export(tmp_path / "file.tflite", signatures=names, quantization=quantization, io=io)
    dtypes = {
        key: x["dtype"]
        for signature in report.signatures.values()
        for key, x in (signature["inputs"] | signature["outputs"]).items()
    }
    found = dict.fromkeys(("codes", "x"), io)
    assert dtypes == found | ({"gains": io, "largest": "int32"} if "decode" in names else {})
    assert not [op for op in graph.read(report.path).ops if op.custom]


def test_a_file_with_a_float_layer_has_it_too(tmp_path):
    images = models.normal(120, models.SIDE, models.SIDE, 1)
    with contextlib.closing(Exporter(models.convolutional(), [{"images": images}])) as exporter:
        report = exporter.export(tmp_path / "f.tflite", quantization="int8", float_layers=["second"], io="uint8")
    served = report.signatures["serve"]
    assert {x["dtype"] for x in (served["inputs"] | served["outputs"]).values()} == {"uint8"}


def test_of_several_files_the_integer_ones_have_it(tmp_path):
    from keras_dl.export import export

    images = models.normal(120, models.SIDE, models.SIDE, 1)
    reports = export(
        models.convolutional(), tmp_path / "f.tflite", quantization=["none", "int8"], calibration=images, io="uint8"
    )
    assert {name: x.signatures["serve"]["inputs"]["images"]["dtype"] for name, x in reports.items()} == {
        "none": "float32",
        "int8": "uint8",
    }


@pytest.mark.parametrize(
    ("quantization", "io"),
    [("none", "uint8"), ("float16", "int8"), ("int16x8", "uint8"), ("int8", "int16"), ("int8", 8)],
)
def test_what_does_not_fit_is_one_error(quantization, io, tmp_path):
    message = rf"io={io!r} does not fit quantization='{quantization}'.*int8, uint8 or float32 with quantization='int8'"
    with pytest.raises(ValueError, match=message):
        check_io(io, quantization)
    with pytest.raises(ValueError, match=message), contextlib.closing(Exporter(models.dense())) as exporter:
        exporter.export(tmp_path / "file.tflite", quantization=quantization, io=io)
