"""The errors of an export that cannot be trusted, and of a file that does not hold what is asked for."""


class ExportError(RuntimeError):
    """A proof did not hold, or the format or the device cannot express the model; no file was left behind."""


class SignatureError(ValueError):
    """A signature was asked for that a file does not hold."""
