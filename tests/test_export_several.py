"""Several files from one trace of a model: their names, their proofs, and that they come together or not at all."""

import contextlib

import export_models as models
import numpy as np
import pytest

from keras_dl.export import Exporter, ExportError, Report, export, exporter, load, quantize, saved_model

ROWS = {"images": models.pixels(16)}
NAMES = ["none", "float16", "dynamic_int8", "int8", "int16x8"]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def traces(monkeypatch):
    """The names of the signatures that were traced, in order."""
    seen, trace = [], saved_model.trace_signature

    def recorded(model, name, *arguments):
        seen.append(name)
        return trace(model, name, *arguments)

    monkeypatch.setattr(saved_model, "trace_signature", recorded)
    return seen


def test_each_file_is_that_of_an_export_of_its_own(tmp_path, traces):
    model = models.Classifier()
    reports = export(model, tmp_path / "model.tflite", quantization=NAMES, calibration=ROWS)
    assert traces == ["classify", "classify"], "once as it is, and once with float inputs for integer quantization"
    assert list(reports) == NAMES
    for name, report in reports.items():
        path = tmp_path / f"model-{name}.tflite"
        assert report.path == str(path)
        assert Report.load(f"{path}.json") == report
        inputs = "held_out" if name in quantize.CALIBRATED else "calibration"
        assert (report.quantization, report.proof["inputs"]) == (name, {"classify": inputs})
        alone = export(model, tmp_path / "alone.tflite", quantization=name, calibration=ROWS)
        assert (alone.ops, alone.tensors, alone.bytes) == (report.ops, report.tensors, report.bytes)
        assert alone.proof == report.proof
        found, expected = (load(x.path).serve("classify", **ROWS)["probabilities"] for x in (report, alone))
        np.testing.assert_array_equal(found, expected)
    assert len(names(tmp_path)) == 2 * len(NAMES) + 2


def test_paths_can_be_given(tmp_path):
    paths = {"float16": tmp_path / "half.tflite", "none": str(tmp_path / "sub" / "whole.tflite")}
    reports = export(models.dense(), paths, quantization=("none", "float16"))
    assert [report.path for report in reports.values()] == [str(paths["none"]), str(paths["float16"])]
    assert names(tmp_path) == ["half.tflite", "half.tflite.json", "sub"]


def test_none_takes_its_name_if_one_does_not_pass(tmp_path, monkeypatch):
    """What stood there before stays as it was."""
    model, convert = models.dense(), quantize.to_litert
    options = dict(quantization=["none", "float16"], calibration={"features": models.normal(16, 4)})
    export(model, tmp_path / "model.tflite", **options)
    old = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def spoiled(source, signatures, quantization, *others):
        weights = model.get_weights()
        model.set_weights([-w if quantization == "float16" else 2 * w for w in weights])
        try:
            source._converters.clear()  # which hold the weights that the model had
            return convert(source, signatures, quantization, *others)
        finally:
            model.set_weights(weights)

    monkeypatch.setattr(quantize, "to_litert", spoiled)
    with pytest.raises(ExportError, match="is off by"):
        export(model, tmp_path / "model.tflite", **options)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == old


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_nothing(failure, tmp_path, monkeypatch):
    calls, measure = [], exporter.latency.measure

    def interrupt(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise failure
        return measure(*arguments)

    monkeypatch.setattr(exporter.latency, "measure", interrupt)
    with pytest.raises(failure):
        export(models.dense(), tmp_path / "model.tflite", quantization=["none", "float16"])
    assert len(calls) == 2
    assert names(tmp_path) == []


def test_float_layers_are_those_of_the_int8_file(tmp_path):
    options = dict(quantization=["none", "int8"], calibration=ROWS, float_layers=["second"])
    reports = export(models.Classifier(), tmp_path / "model.tflite", **options)
    assert reports["int8"].tensors["float_layers"] == ["second"]
    assert reports["none"].tensors["float_layers"] == []
    with pytest.raises(ValueError, match="needs quantization='int8', not 'none'"):
        export(models.Classifier(), tmp_path / "model.tflite", **options | dict(quantization=["none", "float16"]))


def test_keras_is_measured_once(tmp_path):
    calls = []

    def spread(serve):
        calls.append(serve("classify", **ROWS)["probabilities"])
        return np.std(calls[-1])

    options = dict(quantization=["none", "float16"], calibration=ROWS, metric=("spread", spread))
    reports = export(models.Classifier(), tmp_path / "model.tflite", **options)
    assert len(calls) == 3
    assert reports["none"].metric["keras"] == reports["float16"].metric["keras"] == np.std(calls[0])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(quantization=[]), ValueError, r"quantization=\[\] must name at least one"),
        (dict(quantization=["none", "none"]), ValueError, "none twice"),
        (dict(quantization=["none", "int4"]), ValueError, "quantization='int4' is unknown"),
        (dict(quantization=["none", "int8"]), ValueError, "'int8' needs calibration data"),
        (dict(quantization=["none", "int8"], target="ethos-u55-128"), ValueError, "needs quantization 'int8'"),
        (dict(quantization=["none", "int8"], format="onnx"), ValueError, "must end with .onnx"),
        (dict(quantization=["none", "float16"], path={"none": "a.tflite"}), ValueError, "must be the quantizations"),
        (
            dict(quantization=["none", "float16"], path={"none": "a.tflite", "float16": "a.tflite"}),
            ValueError,
            "gives two files one name",
        ),
        (dict(quantization=["none"], path=3), TypeError, "path must be a str or path, or a dict"),
        (dict(path={"none": "a.tflite"}), TypeError, "path must be a str or path, not dict"),
        (dict(quantization=None), ValueError, "quantization=None is unknown"),
    ],
)
def test_bad_arguments(arguments, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        export(models.dense(), **{"path": "model.tflite"} | arguments)
    assert names(tmp_path) == []


def test_an_exporter_makes_files_of_parts_of_a_model_and_of_several_formats(tmp_path, traces):
    rows = {
        "encode": [{"x": models.normal(64, 4)}],
        "decode": [{"codes": models.normal(64, 6), "gains": np.ones((64, 1))}],
    }
    with contextlib.closing(Exporter(models.Autoencoder(), calibration=rows)) as files:
        whole = files.export(tmp_path / "whole.tflite", target="gpu")
        part = files.export(tmp_path / "part.tflite", quantization="int8", signatures=["encode"])
        onnx = files.export(tmp_path / "decode.onnx", format="onnx", signatures="decode")
        folder = files.export(tmp_path / "folder", format="saved_model")
        with pytest.raises(ValueError, match=r"ONNX file holds one signature.*encode, decode"):
            files.export(tmp_path / "both.onnx", format="onnx")
        with pytest.raises(ValueError, match=r"signatures=.*paint.*encode, decode"):
            files.export(tmp_path / "other.tflite", signatures="paint")
    assert sorted(traces) == ["decode", "encode"]
    assert [list(x.signatures) for x in (whole, part, onnx, folder)] == [
        ["encode", "decode"],
        ["encode"],
        ["decode"],
        ["encode", "decode"],
    ]
    assert whole.target_report["ops"] > 0
    assert list(load(part.path).signatures) == ["encode"]
