"""Exports a model of the pool in all quantizations, and measures each file on inputs that its calibration never saw."""

import contextlib
from unittest import mock

import keras
import numpy as np

from keras_dl.export import Exporter, ExportError, load
from keras_dl.export.quantize import QUANTIZATIONS
from keras_dl.export.signatures import collect
from keras_dl.export.targets import Context, get_target, micro

ROWS = 128  # of calibration data, and of fresh inputs
SECONDS = 20  # for tflite-micro, in which one of the loops never ends
# The files on which each target is tried: the first one that was exported.
FILES = {
    "micro": ("int8", "none"),
    "ethos-u55-128": ("int8",),
    "edgetpu": ("int8",),
    "gpu": ("none",),
}


def measure(foreign, folder, targets=tuple(FILES)):
    """Exports a model of the pool.

    Args:
        foreign: `foreign_models.Foreign`.
        folder: path. The files are written there.
        targets: names of `FILES`.

    Returns:
        dict: `files`, by quantization `{"error": float}`, see `error`, or `{"refused": str}`; and `targets`, by name
        the share of ops on the device, in [0, 1], or a str: why the target refuses the file.
    """
    model = foreign.make()
    (signature,) = collect(model).values()
    calibration, fresh = (foreign.inputs(signature, ROWS, seed) for seed in (10, 11))
    given = fresh if len(fresh) > 1 else next(iter(fresh.values()))
    expected = [np.asarray(x) for x in keras.tree.flatten(model(given))]
    result = {"files": {}, "targets": {}}
    with contextlib.closing(Exporter(model, calibration)) as exporter:
        for quantization in QUANTIZATIONS:
            path = folder / f"{quantization}.tflite"
            try:
                exporter.export(path, quantization=quantization)
            except (ExportError, ValueError) as refusal:
                result["files"][quantization] = {"refused": str(refusal)}
                continue
            actual = load(path).serve("serve", **fresh)
            result["files"][quantization] = {"error": error(list(actual.values()), expected, quantization)}
    for name in targets:
        made = [x for x in FILES[name] if "error" in result["files"][x]]
        result["targets"][name] = _on(name, folder, made[0], calibration) if made else "no file"
    return result


def error(actual, expected, quantization):
    """How far outputs of a file are from those of Keras; the largest of all outputs.

    Float files: the largest error as a share of the largest value. Quantized files: the root mean square of the errors
    as a share of the values' standard deviation over the rows. Integers: the share of unequal values.
    """

    def one(a, b):
        if b.dtype.kind in "biu":
            return np.mean(a != b)
        a, b = a.astype("float64"), b.astype("float64")
        if quantization in ("none", "float16"):
            return np.abs(a - b).max() / np.abs(b).max()
        return np.sqrt(np.mean((a - b) ** 2) / np.mean((b - b.mean(axis=0)) ** 2))

    return float(max(one(a, b) for a, b in zip(actual, expected, strict=True)))


def _on(name, folder, quantization, calibration):
    """The share of a file's ops on a target, or why the target refuses the file."""
    scratch = folder / name
    scratch.mkdir()
    samples = [{key: x[i : i + 1] for key, x in calibration.items()} for i in range(16)]
    target = get_target(name)
    try:
        with mock.patch.object(micro, "MAX_SECONDS", SECONDS):
            report = target.run(folder / f"{quantization}.tflite", Context(scratch, quantization, {"serve": samples}))
    except ExportError as refusal:
        return str(refusal)
    return report.get("npu_op_share", report.get("delegated_share", 1.0))
