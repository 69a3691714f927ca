"""Exports a Keras model to a file, and compares the file with the model before the file gets its name."""

import contextlib
import importlib.metadata
import logging
import math
import numbers
import os
import platform
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence

import keras
import numpy as np

from keras_dl import notices
from keras_dl.compat import all_layers
from keras_dl.export import graph, latency, onnx, quantize, saved_model, standard_metadata
from keras_dl.export.errors import CalibrationMissing, ExportError, RuntimeFailure, SignatureError
from keras_dl.export.file_set import open_seals, report_path, sha256
from keras_dl.export.inspection import inspect
from keras_dl.export.io_types import IO, steps
from keras_dl.export.metadata import check_labels, into_saved_model
from keras_dl.export.report import Report
from keras_dl.export.request import Request, loaded, paths_of
from keras_dl.export.runners import KerasRunner, load
from keras_dl.export.samples import like_pixels, review
from keras_dl.export.saved_model import located
from keras_dl.export.signatures import computing_in_float32, select
from keras_dl.export.source import LOG, Source
from keras_dl.export.targets import Context
from keras_dl.export.verify import doubts, prove
from keras_dl.files import replacing
from keras_dl.interrupts import heard
from keras_dl.version import __version__

Path = str | os.PathLike
Calibration = Iterable | Callable[[], Iterable] | Mapping[str, Iterable]
Metric = tuple[str, Callable[..., float]]

# Layers that scale their inputs, so that pixels may be what a model takes.
_SCALING = (keras.layers.Rescaling, keras.layers.Normalization)
_ATTENTION = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention, keras.layers.Attention)
_MORE_EXACT = {
    "int8": "int16x8, dynamic_int8 and float16 are",
    "int16x8": "dynamic_int8 and float16 are",
    "dynamic_int8": "float16 is",
    "weight_only_int8": "float16 is",
}
_CUT = (
    "The usual cut for integers is two files: the nets alone, and what makes detections of their outputs in float32. "
    "Detectors of keras_dl have the signatures 'raw' and 'postprocess' for them."
)
# The report gives the versions of these distributions, which make and run the files of a format.
_DISTRIBUTIONS = {"litert": ("ai-edge-litert",), "onnx": ("tf2onnx", "onnx", "onnxruntime"), "saved_model": ()}


def export(
    model: keras.Model | Path,
    path: Path | Mapping[str, Path],
    format: str = "litert",
    quantization: str | Sequence[str] = "none",
    target: str = "cpu",
    calibration: Calibration | None = None,
    verify: bool = True,
    metadata: dict | None = None,
    metric: Metric | None = None,
    batch_size: int = 1,
    signatures: str | Sequence[str] | None = None,
    float_layers: Sequence[str] = (),
    input_shapes: Mapping | None = None,
    io: str | None = None,
) -> Report | dict[str, Report]:
    """Writes what a model serves to a file for a device, and proves that the file computes what the model does.

    The file holds the model's `serving_signatures(batch_size)`, or its `call` if the model has no such method. All work
    is done in a scratch folder. When all checks have passed, the file, the target's files and the report
    (`<path>.json`) get their names. Until then, existing files of these names do not change. If the process dies while
    they get their names, the report says so.

    A model of another precision (float16, bfloat16, float64) is exported in float32. The file is compared with the
    model computing in float32.

    What takes long says so to the log `keras_dl.export`, at the level `INFO`. Notices that converters write to stderr
    are shown only if the log is at the level `DEBUG`.

    Several quantizations give several files, each with its own proof and report. The model is traced once for all of
    them. They get their names together, when the last one has passed.

    Args:
        model: a built `keras.Model`, or the path of a `.keras` file.
        path: str or path. Ends with `.tflite` for LiteRT, `.onnx` for ONNX; a folder for a SavedModel. For several
            quantizations, each file has `-` and its quantization before the suffix; or give a dict of paths by
            quantization.
        format: str: `"litert"`, `"onnx"` (one signature per file), or `"saved_model"`.
        quantization: str: `"none"`, `"float16"`, `"dynamic_int8"`, `"int8"`, `"int16x8"` or `"weight_only_int8"`. They
            are explained in `keras_dl.export.quantize`. Formats other than LiteRT support only `"none"`. Inputs of
            uint8 become int8 in `"int8"` files and int16 in `"int16x8"` files, with the scale that the report gives.
            Give a sequence of these names for several files.
        target: str: the device that the file is checked, compiled or run for; `keras_dl.export.targets` has the names.
        calibration: real inputs, raw as the signature takes them: an iterable (such as a `tf.data.Dataset`) of dicts
            `{input name: array}`, each with any number of rows; for several signatures, a dict of such iterables by
            signature. Also taken: an array for a model of one input, a data set of `(inputs, targets)` as `fit` takes
            it, and TFLite's generator function of lists of arrays in the order of the inputs. At most 256 batches of
            `batch_size` rows are read. `"int8"` and `"int16x8"` need it: at least 100 rows, as different as those that
            the file will see. Every fourth batch of eight and more is kept out of their calibration, and the proof runs
            on these. The proof of other files runs on the first 64 batches.
            Without calibration data it runs on random inputs, and the report has a warning.
        verify: bool. Whether to compare the file with the model: see `keras_dl.export.verify`.
        metadata: dict that JSON can hold. It is stored in the file (labels, input range, license of the data, ...).
            `labels`, a list, has one for each class.
        metric: `(name, function)`, where `function(serve)` is a float and `serve(signature, **arrays)` returns a dict
            of arrays for any number of rows. Measured on the Keras model and on the file; the report has both.
        batch_size: int. The static batch of the file's inputs.
        signatures: names of the signatures to export; None for all.
        float_layers: names of layers, also of layers inside layers, that an `"int8"` file computes in float32, between
            two conversions. Use it if one layer ruins the file. Integer hardware runs these layers on the CPU. None
            are those that the model itself names, in its attribute `float_layers`.
        input_shapes: dict by input name of shapes, the batch included, for a model that does not know its sizes:
            `{"images": (1, 224, 224, 3)}`. A `keras.KerasTensor` in the place of a shape also gives the dtype.
        io: str: the dtype of the inputs and outputs of an integer file that hold real numbers: `"int8"`, `"uint8"` or
            `"float32"` for `"int8"`, `"int16"` or `"float32"` for `"int16x8"`. None is `"int8"` or `"int16"`. Of
            several quantizations, it is for the integer files.

    Returns:
        `Report`; for several quantizations a dict of reports by quantization.

    Raises:
        TypeError: if an argument has a wrong type.
        ValueError: if an argument has a wrong value, or two arguments exclude each other. The message names valid ones.
        ExportError: if the format cannot express the model, or the file differs from the model. No file is written.
        ImportError: if a package is missing. The message has the pip command.

    Example:

    >>> import keras, tempfile
    >>> model = keras.Sequential([keras.Input((4,), name="features"), keras.layers.Dense(2)])
    >>> report = export(model, tempfile.mkdtemp() + "/model.tflite")
    >>> report.ops, report.flex_ops
    ({'FULLY_CONNECTED': 1}, 0)
    >>> reports = export(model, tempfile.mkdtemp() + "/model.tflite", quantization=["none", "float16"])
    >>> [report.path.rpartition("/")[-1] for report in reports.values()]
    ['model-none.tflite', 'model-float16.tflite']
    """
    model, paths = loaded(model), paths_of(path, quantization)
    shared = dict(target=target, metadata=metadata, metric=metric, verify=verify)
    requests = []
    for name, one in paths.items():
        layers = float_layers if name == "int8" or "int8" not in paths else ()
        dtype = io if name in IO or not set(IO) & set(paths) else None
        requests.append(Request(one, format, name, float_layers=layers, io=dtype, **shared))
    for x in requests:
        quantize.check_float_layers(x.float_layers, x.quantization, model)
    with contextlib.closing(Exporter(model, calibration, batch_size, signatures, input_shapes)) as exporter:
        reports = exporter.make(requests)
    return reports[0] if isinstance(quantization, str) else dict(zip(paths, reports, strict=True))


class Exporter:
    """Exports one model to several files. Its signatures are traced, run and written for the converter once.

    The model must not change meanwhile. `close` deletes the scratch folder.

    Args:
        model, calibration, batch_size, signatures, input_shapes: as `export` takes them.

    Attributes:
        model: the model.

    Raises:
        TypeError, ValueError: as `export`.

    Example:

    >>> import contextlib, keras, tempfile
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, bias_initializer="ones")])
    >>> folder = tempfile.mkdtemp()
    >>> with contextlib.closing(Exporter(model)) as exporter:
    ...     gpu = exporter.export(folder + "/gpu.tflite", target="gpu")
    ...     onnx = exporter.export(folder + "/model.onnx", format="onnx")
    >>> gpu.target_report["delegated_ops"], onnx.format
    (1, 'onnx')
    """

    def __init__(
        self,
        model: keras.Model | Path,
        calibration: Calibration | None = None,
        batch_size: int = 1,
        signatures: str | Sequence[str] | None = None,
        input_shapes: Mapping | None = None,
    ):
        self.model, self._all = loaded(model), signatures is None
        self._source = Source(self.model, batch_size, signatures, calibration, input_shapes)
        self._measured, self._reviews = {}, {}

    def close(self) -> None:
        """Deletes the scratch folder."""
        self._source.close()

    def export(
        self,
        path: Path,
        format: str = "litert",
        quantization: str = "none",
        target: str = "cpu",
        verify: bool = True,
        metadata: dict | None = None,
        metric: Metric | None = None,
        signatures: str | Sequence[str] | None = None,
        float_layers: Sequence[str] = (),
        io: str | None = None,
    ) -> Report:
        """Writes one file: see `keras_dl.export.export`, with one quantization.

        Args:
            signatures: names of some of the exporter's signatures; None for all of them.

        Returns:
            `Report`.
        """
        request = Request(path, format, quantization, target, metadata, metric, verify, float_layers, io)
        return self.make([request], signatures)[0]

    def make(self, requests: list[Request], signatures: str | Sequence[str] | None = None) -> list[Report]:
        """Writes files that get their names together.

        Args:
            requests: list of `keras_dl.export.request.Request`.
            signatures: as `export` takes them.

        Returns:
            list of `Report`.
        """
        source = self._source
        names = list(source.signatures if signatures is None else select(source.signatures, signatures))
        for x in requests:
            self._check(x, names)
        with quiet(), heard(), contextlib.ExitStack() as files:
            reports = [self._make(x, names, signatures is None and self._all, files) for x in requests]
            sets = {x.path: report.target_report.get("files", ()) for x, report in zip(requests, reports, strict=True)}
            files.callback(open_seals, sets)  # the first thing to happen when `files` is closed
            return reports

    def _check(self, request, names):
        model = self.model
        if request.quantization == "int8" and not request.float_layers:
            request.float_layers = getattr(model, "float_layers", ())
        quantize.check_float_layers(request.float_layers, request.quantization, model)
        if request.format == "onnx" and len(names) > 1:
            raise ValueError(
                f"An ONNX file holds one signature, and model={model.name!r} serves {', '.join(names)}. "
                f"Export each to a file of its own, with signatures={names[0]!r} and so on."
            )
        missing = [name for name in names if name in self._source.drawn]
        if request.quantization in quantize.CALIBRATED and missing:
            raise CalibrationMissing(
                f"quantization={request.quantization!r} needs calibration data, and {missing[0]!r} has none. Give "
                f"calibration: some hundred real inputs, {_inputs(self._source.signatures[missing[0]])}."
            )
        self._review(request.quantization, names)

    def _review(self, quantization, names):
        """Warnings about the calibration data."""
        warnings = []
        for name in names:
            if name in self._source.drawn:
                continue
            if (quantization, name) not in self._reviews:
                samples, what = self._source.samples[name], f"calibration of {name!r}"
                found = review(samples, quantization, what)
                pixels = like_pixels(samples)
                if pixels and not any(isinstance(layer, _SCALING) for layer in all_layers(self.model)):
                    found.append(
                        f"{what}: {', '.join(pixels)} looks like pixels from 0 to 255. The file is right for such "
                        "inputs alone, and only you know whether the model was trained on them."
                    )
                self._reviews[quantization, name] = found
            warnings += self._reviews[quantization, name]
        return warnings

    def _make(self, request, names, whole, files):
        """Makes one file and proves it. When `files` is closed, the file and its companions get their names."""
        source, format, quantization = self._source, request.format, request.quantization
        missing = [name for name in names if name in source.drawn]
        reviewed = self._review(quantization, names)
        warnings = _warnings(self.model, missing, request.verify) + reviewed
        if source.assumed:
            warnings.append(
                f"The model does not say the dtype of {', '.join(source.assumed)}: float32 is assumed. Say another "
                f"with input_shapes={{{source.assumed[0]!r}: keras.KerasTensor(shape, dtype)}}, or by calibration data."
            )
        traced, samples = source.traced(names), source.proof_samples(names)
        of_detections = [name for name in names if source.signatures[name].detections]
        if whole:  # the classes may be the output of a signature that is left out
            outputs = [x for one in traced.values() for x in one.concrete.structured_outputs.values()]
            check_labels(request.metadata, [(tuple(x.shape), x.dtype.name) for x in outputs])
        # Closed in reverse order: the target's files get their names first, then the file, and last its report.
        report_file = files.enter_context(replacing(report_path(request.path)))
        file = files.enter_context(replacing(request.path))
        LOG.info("Writing %s.", request.path.name)
        self._write(file, request, names, traced)
        # After the conversion, whose error names the layer and what would do: some ops have no kernel on some CPUs.
        expected = source.expected(names) if request.verify else None
        if quantization in quantize.CALIBRATED and (changed := source.unlooped_layers(names)):
            warnings.append(
                "Integer files cannot hold loops. These layers are written without, as one fused op or step by step, "
                f"and compute the same: {', '.join(changed)}."
            )
        with _accepted_by_the_runtime(file, ValueError):
            contents, artifact = inspect(file, trust=True), load(file, trust=True)
        if contents["flex_ops"] or contents["custom_ops"]:
            raise ExportError(f"The file holds ops that are not builtins: {contents['ops']}.")
        if format == "litert":
            content = graph.read(file)
            contents["tensors"] |= quantize.check(content, quantization, self.model, request.float_layers, request.io)
            float_ops = contents["tensors"]["float_ops"]
            warnings += _litert_warnings(float_ops, content, self.model, request.float_layers)

        proof = {}
        if request.verify:
            LOG.info("Comparing %s with the model.", request.path.name)
            with _accepted_by_the_runtime(file, RuntimeFailure), _advised(self.model, request, reviewed, of_detections):
                held_out = source.held_out if quantization in quantize.CALIBRATED else None
                found = None if request.io is None else steps(content)
                proof = prove(artifact, expected, samples, quantization, held_out, missing, of_detections, found)
            warnings += doubts(proof)
        measured = None
        if request.metric:
            try:
                measured = self._measure(request.metric, names, artifact)
            except SignatureError as error:
                if whole:  # the file has all signatures of the model
                    raise
                warnings.append(
                    f"The metric {request.metric[0]!r} is not measured: it needs signatures that the file does not "
                    f"have. {error}"
                )
        with _accepted_by_the_runtime(file, RuntimeFailure):
            milliseconds = latency.measure(file, format, samples)
        in_order = {name: contents["signatures"][name] for name in names}
        report = Report(
            **contents | {"path": str(request.path), "signatures": in_order},
            quantization=quantization,
            target=request.target.name,
            sha256=sha256(file),
            proof=proof,
            metric=measured,
            latency_ms=milliseconds[names[0]],
            target_report={},
            versions=versions(format),
            warnings=warnings,
        )
        for name, times in milliseconds.items():
            report.signatures[name]["latency_ms"] = times
            for kind, model_names in source.signatures[name].model_names.items():
                for key, other in model_names.items():
                    report.signatures[name][kind][key]["model_name"] = other
                    report.warnings.append(f"Of the {kind} of {name!r}, the model's {other!r} is {key!r} in the file.")
        folder = file.parent / "target"
        folder.mkdir()
        report.target_report = request.target.run(file, Context(folder, quantization, samples))
        for name in report.target_report.get("files", ()):
            shutil.move(folder / name, files.enter_context(replacing(request.path.with_name(name))))
        report.save(report_file)
        return report

    def _write(self, file, request, names, traced):
        source = self._source
        own = {"version": __version__, "model": self.model.name}
        if of_detections := [name for name in names if source.signatures[name].detections]:
            own["detections"] = of_detections
        if request.io is not None:
            own["io"] = request.io
        metadata = request.metadata or {}
        document = {**metadata, "keras_dl": own}
        match request.format:
            case "litert":
                content = quantize.to_litert(source, names, request.quantization, request.float_layers, request.io)
                content = standard_metadata.with_metadata(content, source.signatures, metadata, own, self.model.name)
                file.write_bytes(content)
            case "onnx":
                (name,) = names
                concrete = traced[name].concrete
                file.write_bytes(onnx.convert(self.model, name, source.signatures[name], concrete, document))
            case "saved_model":
                saved_model.write(self.model, traced, file)
                into_saved_model(file, document)

    def _measure(self, metric, names, artifact):
        """The metric of the file and of the Keras model. The latter is measured once."""
        key = (*metric, *names)
        if key not in self._measured:
            runner = KerasRunner(self.model, self._source.batch_size, names, entries=self._source.signatures)
            self._measured[key] = _value(metric, runner, "keras")
        return {"name": metric[0], "keras": self._measured[key], "artifact": _value(metric, artifact, "artifact")}


def quiet():
    """A block in which notices of the converters are not shown, unless the log is at the level `DEBUG`."""
    return contextlib.nullcontext() if LOG.isEnabledFor(logging.DEBUG) else notices.hidden()


@contextlib.contextmanager
def _accepted_by_the_runtime(file, error_type):
    try:
        yield
    except error_type as error:
        reason = str(error).replace(str(file), file.name)  # the file is still in the scratch folder
        raise ExportError(f"The runtime refuses the exported file: {reason}") from error


@contextlib.contextmanager
def _advised(model, request, reviewed, of_detections):
    """Adds to a failed proof of a quantized file what is wrong with its calibration data, or what may help."""
    try:
        yield
    except ExportError as error:
        if request.quantization not in _MORE_EXACT:
            raise
        if reviewed and request.quantization in quantize.CALIBRATED:
            raise ExportError(" ".join([str(error), *reviewed])) from error
        advice = f"{_MORE_EXACT[request.quantization]} more exact."
        if any(f"Signature {name!r}:" in str(error) for name in of_detections):
            raise ExportError(f"{error} {_CUT} Else, {advice}") from error
        attention = [x for x in all_layers(model) if isinstance(x, _ATTENTION) and x.name not in request.float_layers]
        if request.quantization == "int8" and attention:
            names, classes = [x.name for x in attention], dict.fromkeys(type(x).__name__ for x in attention)
            advice = (
                f"Attention is often the cause in int8: float_layers={names} computes {', '.join(classes)} in float32. "
                f"{advice}"
            )
        elif request.quantization == "int8":
            advice = f"float_layers=[...] computes layers in float32, if some of them are to blame. {advice}"
        raise ExportError(f"{error} {advice}") from error


def _inputs(signature):
    """The inputs of a signature in words: `x float32 (1, 4)`."""
    return ", ".join(f"{name} {x.dtype} {tuple(x.shape)}" for name, x in signature.inputs.items())


def _warnings(model, missing, verify):
    warnings = []
    with computing_in_float32(model) as changed:
        if changed:
            warnings.append(
                f"The model has layers that compute in {', '.join(sorted(changed))}. The file computes in float32, and "
                "is compared with the model computing in float32."
            )
    if not verify:
        warnings.append("The proof was switched off: the file was not compared with the model.")
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
            f"These are loops. Unrolled or fused layers are faster, and int8 files need them: {', '.join(loops)}."
        )
    stateful_ops = content.stateful
    if float_ops:
        reason = "LiteRT has no integer kernel for these" + ", or they are next to a float32 layer" * bool(float_layers)
        warnings.append(f"{reason}; they compute in float32: {', '.join(float_ops)}.")
    if stateful_ops:
        ops = dict.fromkeys(located(op.name, op.layer, model) for op in stateful_ops)
        warnings.append(
            "These continue from their last call, unless the runtime resets its variables, as "
            f"keras_dl.export.load does before each call: {', '.join(ops)}."
        )
    return warnings


def _value(metric, runner, what):
    name, function = metric
    value = function(runner.serve)
    if hasattr(value, "__array__") and np.ndim(value) == 0:  # a scalar of TensorFlow
        value = np.asarray(value).item()
    if not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ExportError(f"The metric {name!r} gave {value!r} for the {what}, not a finite number.")
    return float(value)


def versions(format):
    """Of Python and of the packages that make and run the files of a format: dict."""
    names = ("keras", "numpy", "tensorflow", *_DISTRIBUTIONS[format])
    installed = {name: importlib.metadata.version(name) for name in names}
    return {"python": platform.python_version(), "keras_dl": __version__, **installed}
