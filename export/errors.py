"""The errors of exporting, and of running a file."""


class ExportError(RuntimeError):
    """A check failed, or the format or the device cannot express the model. No file is written."""


class SignatureError(ValueError):
    """A file does not have the signature that was asked for."""


class RuntimeFailure(ValueError):
    """The runtime cannot run a file that it could load."""


class CalibrationMissing(ValueError):
    """A quantization needs calibration data, and there is none."""
