"""From a Keras model to a file, proven against the model before it takes its name."""

import contextlib
import hashlib
import importlib.metadata
import math
import numbers
import os
import pathlib
import platform
import shutil

from keras_dl.export import graph, latency, names, onnx, quantize, saved_model
from keras_dl.export.errors import ExportError, SignatureError
from keras_dl.export.inspection import inspect
from keras_dl.export.metadata import encode, into_litert, into_saved_model
from keras_dl.export.report import Report
from keras_dl.export.runners import KerasRunner, load
from keras_dl.export.samples import PROOF_BATCHES, draw_inputs, read_calibration
from keras_dl.export.saved_model import located
from keras_dl.export.signatures import collect, computing_in_float32
from keras_dl.export.targets import Context, get_target
from keras_dl.export.verify import prove, reference
from keras_dl.extras import require
from keras_dl.files import replacing
from keras_dl.version import __version__

FORMATS = {"litert": ".tflite", "onnx": ".onnx", "saved_model": ""}

# What makes and runs the files of a format: modules, and the distributions that the report gives the versions of.
_MODULES = {"litert": ("ai_edge_litert.interpreter",), "onnx": ("tf2onnx", "onnxruntime"), "saved_model": ()}
_DISTRIBUTIONS = {"litert": ("ai-edge-litert",), "onnx": ("tf2onnx", "onnx", "onnxruntime"), "saved_model": ()}


def export(
    model,
    path,
    format="litert",
    quantization="none",
    target="cpu",
    calibration=None,
    verify=True,
    metadata=None,
    metric=None,
    batch_size=1,
    signatures=None,
    float_layers=(),
):
    """Writes what a model serves to a file for a device, and proves that the file computes what the model does.

    The file holds the model's `serving_signatures(batch_size)`, or its `call` where it has none. Everything happens
    in a scratch folder: only when each check has passed do the file, the target's files and the report
    (`<path>.json`) take their names. Until then, what stood there stays as it was.

    A model of another precision (float16, bfloat16, float64) is exported computing in float32, and compared with itself
    computing so.

    Args:
        model: a built `keras.Model`.
        path: str or path. Ends with `.tflite` for LiteRT, `.onnx` for ONNX; a folder for a SavedModel.
        format: str: `"litert"`, `"onnx"` (one signature a file), or `"saved_model"`.
        quantization: str: `"none"`, `"float16"`, `"dynamic_int8"`, `"int8"`, `"int16x8"` or `"weight_only_int8"`; what
            each means stands in `keras_dl.export.quantize`. Only LiteRT has others than `"none"`. Inputs
            of uint8 become int8 (or int16) in `"int8"` (`"int16x8"`) files, with the scale that the report gives.
        target: str: the device that the file is checked, compiled or run for; `keras_dl.export.targets` has the names.
        calibration: real inputs, raw as the signature takes them: an iterable (such as a `tf.data.Dataset`) of dicts
            `{input name: array}`, each of any number of rows; for several signatures, a dict of such iterables by
            signature. At most 256 batches of `batch_size` rows are read. `"int8"` and `"int16x8"` need it. The proof
            runs on its first 64 batches; without it, on random inputs, and the report warns so.
        verify: bool. Whether to hold the proof: see `keras_dl.export.verify`.
        metadata: dict that JSON can hold; it travels inside the file (labels, input range, licence of the data, ...).
        metric: `(name, function)`, where `function(serve)` is a float and `serve(signature, **arrays)` returns a dict
            of arrays for any number of rows. Measured on the Keras model and on the file; the report has both.
        batch_size: int. The static batch of the file's inputs.
        signatures: names of the signatures wanted; None for all.
        float_layers: names of layers, also of layers inside layers, that an `"int8"` file computes in float32, between
            two conversions: where one of them ruins it. Integer hardware leaves them to the CPU.

    Returns:
        `Report`.

    Raises:
        TypeError: if an argument is of a wrong type.
        ValueError: if an argument has a wrong value, or two do not go together; the message says what would do.
        ExportError: if the format cannot express the model, or the proof did not hold; no file is left behind.
        ImportError: if a package is missing; the message holds the pip command.

    Example:

    >>> import keras, tempfile
    >>> model = keras.Sequential([keras.Input((4,), name="features"), keras.layers.Dense(2)])
    >>> report = export(model, tempfile.mkdtemp() + "/model.tflite")
    >>> report.ops, report.flex_ops
    ({'FULLY_CONNECTED': 1}, 0)
    """
    path = _checked_path(path, format)
    _check_quantization(format, quantization)
    target = get_target(target)
    target.check(format, quantization)
    for module in _MODULES[format]:
        require(module, extra="export")
    _check_metric(metric)
    float_layers = quantize.check_float_layers(float_layers, quantization, model)
    encode({} if metadata is None else metadata)
    entries = collect(model, batch_size, signatures)
    if format == "onnx" and len(entries) > 1:
        raise ValueError(
            f"An ONNX file holds one signature, and model={model.name!r} serves {', '.join(entries)}. "
            f"Export each to a file of its own, with signatures={next(iter(entries))!r} and so on."
        )
    samples = read_calibration(calibration, entries)
    missing = [name for name in entries if name not in samples]
    if quantization in quantize.CALIBRATED and missing:
        raise ValueError(f"quantization={quantization!r} needs calibration data, and {missing[0]!r} has none.")
    samples |= {name: draw_inputs(entries[name]) for name in missing}
    proof_samples = {name: samples[name][:PROOF_BATCHES] for name in entries}
    warnings = _warnings(model, missing, verify)
    traced = saved_model.trace(model, entries)
    if verify:
        expected = reference(KerasRunner(model, batch_size, list(entries), traced), proof_samples)

    document = {**(metadata or {}), "keras_dl": {"version": __version__, "model": model.name}}
    # Left in the opposite order: the target's files take their names first, then the artifact, last its report.
    with (
        replacing(path.with_name(path.name + ".json")) as report_file,
        replacing(path) as file,
        contextlib.ExitStack() as further_files,
    ):
        _write(file, model, format, quantization, entries, traced, samples, document, float_layers)
        found, artifact = _opened(file)
        if found["flex_ops"] or found["custom_ops"]:
            raise ExportError(f"The file holds ops that are no builtins: {found['ops']}.")
        if format == "litert":
            content = graph.read(file)
            found["tensors"] |= quantize.check(content, quantization, model, float_layers)
            warnings += _litert_warnings(found["tensors"]["float_ops"], content, model, float_layers)

        proof = {}
        if verify:
            proof = prove(artifact, expected, proof_samples, quantization)
            proof["inputs"] = {name: "random" if name in missing else "calibration" for name in entries}
        measured = None
        if metric:
            try:
                measured = _measure(metric, KerasRunner(model, batch_size, list(entries)), artifact)
            except SignatureError as error:
                if signatures is None:  # the file has all that there are
                    raise
                warnings.append(f"The metric {metric[0]!r} is not measured: it takes more than the file has. {error}")
        milliseconds = latency.measure(file, format, proof_samples)
        report = Report(
            **found | {"path": str(path), "signatures": {name: found["signatures"][name] for name in entries}},
            quantization=quantization,
            target=target.name,
            sha256=_sha256(file),
            proof=proof,
            metric=measured,
            latency_ms=milliseconds[next(iter(entries))],
            target_report={},
            versions=_versions(format),
            warnings=warnings,
        )
        for name, times in milliseconds.items():
            report.signatures[name]["latency_ms"] = times
        folder = file.parent / "target"
        folder.mkdir()
        report.target_report = target.run(file, Context(folder, quantization, proof_samples))
        for name in report.target_report.get("files", ()):
            shutil.move(folder / name, further_files.enter_context(replacing(path.with_name(name))))
        report.save(report_file)
    return report


def _checked_path(path, format):
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a str or path, not {type(path).__name__}.")
    if format not in FORMATS:
        raise ValueError(f"format={format!r} is unknown. Choose one of: {', '.join(FORMATS)}.")
    path = pathlib.Path(path)
    suffix = FORMATS[format]
    if suffix:
        if path.suffix != suffix:
            raise ValueError(f"path={str(path)!r} must end with {suffix} for format={format!r}.")
        if path.is_dir():
            raise ValueError(f"path={str(path)!r} is a folder; format={format!r} writes a file.")
    else:
        if path.suffix in (".tflite", ".onnx", ".h5", ".keras", ".pb"):
            raise ValueError(f"path={str(path)!r} must name a folder for format={format!r}, not a {path.suffix} file.")
        if path.exists() and not (path / "saved_model.pb").exists():
            raise ValueError(f"path={str(path)!r} exists and is not a SavedModel; it is not replaced.")
    return path


def _check_quantization(format, quantization):
    if quantization not in quantize.QUANTIZATIONS:
        raise ValueError(
            f"quantization={quantization!r} is unknown. Choose one of: {', '.join(quantize.QUANTIZATIONS)}."
        )
    if format != "litert" and quantization != "none":
        raise ValueError(
            f"format={format!r} takes quantization='none' alone; quantization={quantization!r} needs format='litert'."
        )


def _check_metric(metric):
    if metric is None:
        return
    if not isinstance(metric, tuple | list) or len(metric) != 2:
        raise TypeError(f"metric must be a pair (name, function), not {metric!r}.")
    if not isinstance(metric[0], str) or not callable(metric[1]):
        raise TypeError(f"metric must be a pair of a str and a function, not {metric!r}.")


def _write(file, model, format, quantization, entries, traced, samples, document, float_layers):
    match format:
        case "litert":
            content = quantize.to_litert(model, entries, traced, quantization, samples, float_layers)
            file.write_bytes(into_litert(names.shortened(content), document))
        case "onnx":
            ((name, signature),) = entries.items()
            file.write_bytes(onnx.convert(model, name, signature, traced[name].concrete, document))
        case "saved_model":
            saved_model.write(model, traced, file)
            into_saved_model(file, document)


def _opened(file):
    try:
        return inspect(file), load(file)
    except ValueError as error:
        reason = str(error).replace(str(file), file.name)  # the file is still in the scratch folder
        raise ExportError(f"The runtime refuses the file that was made: {reason}") from error


def _warnings(model, missing, verify):
    warnings = []
    with computing_in_float32(model) as changed:
        if changed:
            warnings.append(
                f"The model has layers that compute in {', '.join(sorted(changed))}. The file computes in float32, and "
                "is compared with the model computing so."
            )
    if not verify:
        warnings.append("The proof was switched off: nothing says that the file computes what the model does.")
    elif missing:
        warnings.append(
            f"No calibration data for {', '.join(missing)}: the proof ran on random inputs, which are unlike real ones."
        )
    return warnings


def _litert_warnings(float_ops, content, model, float_layers):
    warnings = []
    loops = dict.fromkeys(located(op.name, op.layer, model) for op in content.ops if op.name == "WHILE")
    if loops:
        warnings.append(
            f"These run step by step in a loop, slower than unrolled or fused, and not in int8: {', '.join(loops)}."
        )
    stateful_ops = content.stateful
    if float_ops:
        reason = "LiteRT has no integer kernel for these" + ", or they stand by a layer of float32" * bool(float_layers)
        warnings.append(f"{reason}; they compute in float32: {', '.join(float_ops)}.")
    if stateful_ops:
        ops = dict.fromkeys(located(op.name, op.layer, model) for op in stateful_ops)
        warnings.append(
            "These go on from where their last call ended, unless the runtime resets its variables, as "
            f"keras_dl.export.load does before each call: {', '.join(ops)}."
        )
    return warnings


def _measure(metric, keras_runner, artifact):
    name, function = metric
    values = {}
    for key, runner in (("keras", keras_runner), ("artifact", artifact)):
        value = function(runner.serve)
        if not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise ExportError(f"The metric {name!r} gave {value!r} for the {key}, not a finite number.")
        values[key] = float(value)
    return {"name": name, **values}


def _sha256(file):
    file = file / "saved_model.pb" if file.is_dir() else file
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _versions(format):
    names = ("keras", "numpy", "tensorflow", *_DISTRIBUTIONS[format])
    versions = {name: importlib.metadata.version(name) for name in names}
    return {"python": platform.python_version(), "keras_dl": __version__, **versions}
