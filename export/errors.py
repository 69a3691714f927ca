"""The errors of exporting, and of running a file. `keras_dl.files.FileError` is that of a file that cannot be read."""

from keras_dl.files import FileError


class ExportError(RuntimeError):
    """A check failed, or the format or the device cannot express the model. No file is written."""


class SignatureError(ValueError):
    """A file does not have the signature that was asked for."""


class RuntimeFailure(FileError):
    """The runtime cannot run a file that it could load."""


class CalibrationMissing(ValueError):
    """A quantization needs calibration data, and there is none."""
