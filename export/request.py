"""The request for one file. Wrong requests are refused before any work on the model."""

import collections.abc
import dataclasses
import os
import pathlib

import keras

from keras_dl.export import quantize
from keras_dl.export.io_types import check_io
from keras_dl.export.metadata import encode
from keras_dl.export.targets import Target, get_target
from keras_dl.extras import require
from keras_dl.files import FileError
from keras_dl.loading import load_model

FORMATS = {"litert": ".tflite", "onnx": ".onnx", "saved_model": ""}

# The modules that make and run the files of a format.
_MODULES = {"litert": ("ai_edge_litert.interpreter",), "onnx": ("tf2onnx", "onnxruntime"), "saved_model": ()}


@dataclasses.dataclass
class Request:
    """The request for one file. Errors that do not depend on the model are raised here.

    Attributes:
        path, format, quantization, target, metadata, metric, verify, float_layers, io: as `export` takes them for one
            file.
    """

    path: pathlib.Path
    format: str
    quantization: str
    target: Target
    metadata: dict | None
    metric: tuple | None
    verify: bool
    float_layers: tuple
    io: str | None = None

    def __post_init__(self):
        self.path = _checked_path(self.path, self.format)
        _check_quantization(self.format, self.quantization)
        check_io(self.io, self.quantization)
        self.target = get_target(self.target)
        self.target.check(self.format, self.quantization)
        for module in _MODULES[self.format]:
            require(module, extra="export")
        _check_metric(self.metric)
        if not isinstance(self.float_layers, str):  # `check_float_layers` refuses one str
            self.float_layers = tuple(self.float_layers)
        encode({} if self.metadata is None else self.metadata)


def loaded(model):
    """The model; loaded if it is the path of a `.keras` file.

    Raises:
        TypeError: if it is neither.
        FileError: if Keras cannot load the file, or must not. A ValueError.
    """
    if isinstance(model, str | os.PathLike):
        try:
            return load_model(model)
        except FileError as error:
            if "Could not locate" not in str(error.__cause__):
                raise
            how = "If it has layers of your own, import their module first, and register them with keras.saving."
            raise FileError(model, f"{error.problem} {how}") from error
    if not isinstance(model, keras.Model):
        raise TypeError(f"model must be a keras.Model or the path of a .keras file, not {type(model).__name__}.")
    return model


def paths_of(path, quantization):
    """The path of each file: dict by quantization.

    Args:
        path, quantization: as `keras_dl.export.export` takes them.

    Raises:
        TypeError: if the path of several files has a wrong type.
        ValueError: if no quantization is named, or one is named twice; or if the paths do not match the quantizations.
    """
    if isinstance(quantization, str) or not isinstance(quantization, collections.abc.Iterable):
        return {quantization: path}
    names = list(quantization)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"quantization={names!r} must name at least one quantization, and none twice.")
    if isinstance(path, collections.abc.Mapping):
        if set(path) != set(names):
            raise ValueError(f"path has the keys {list(path)}; they must be the quantizations {names}.")
        if len({pathlib.Path(x) for x in path.values()}) < len(path):
            raise ValueError(f"path={dict(path)!r} gives two files one name.")
        return {name: path[name] for name in names}
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a str or path, or a dict of them by quantization, not {type(path).__name__}.")
    path = pathlib.Path(path)
    return {name: path.with_name(f"{path.stem}-{name}{path.suffix}") for name in names}


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
            f"format={format!r} supports only quantization='none'; quantization={quantization!r} needs format='litert'."
        )


def _check_metric(metric):
    if metric is None:
        return
    if not isinstance(metric, tuple | list) or len(metric) != 2:
        raise TypeError(f"metric must be a pair (name, function), not {metric!r}.")
    if not isinstance(metric[0], str) or not callable(metric[1]):
        raise TypeError(f"metric must be a pair of a str and a function, not {metric!r}.")
