"""The error of an export that cannot be trusted."""


class ExportError(RuntimeError):
    """A proof did not hold, or the format or the device cannot express the model; no file was left behind."""
