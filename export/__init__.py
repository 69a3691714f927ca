"""From a Keras model to a verified file: LiteRT, ONNX or a SavedModel, float or quantized, for a device."""

from keras_dl.export.decoding import beam_search
from keras_dl.export.errors import ExportError
from keras_dl.export.exporter import Exporter, export
from keras_dl.export.inspection import inspect
from keras_dl.export.report import Report
from keras_dl.export.runners import KerasRunner, Runner, load
from keras_dl.export.snippets import snippet
from keras_dl.export.training import export_training
from keras_dl.files import FileError

__all__ = [
    "ExportError",
    "Exporter",
    "FileError",
    "KerasRunner",
    "Report",
    "Runner",
    "beam_search",
    "export",
    "export_training",
    "inspect",
    "load",
    "snippet",
]
