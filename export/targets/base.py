"""The base class of device targets, and the context that the exporter gives them."""

import dataclasses
import pathlib

from keras_dl.extras import require


@dataclasses.dataclass(frozen=True)
class Context:
    """Further inputs of a target, in addition to the LiteRT file.

    Attributes:
        folder: for further files of the target, in the exporter's scratch folder. The exporter moves every file that
            the report lists under `"files"` next to the exported file.
        quantization: str. How the file was quantized: `"none"`, `"int8"`, ...
        samples: dict of lists by signature. Each sample is a dict of arrays by input name: one batch of the
            signature's static shape, with real values that are not quantized yet.
    """

    folder: pathlib.Path
    quantization: str
    samples: dict[str, list[dict]]


class Target:
    """A device for which a LiteRT file is checked, compiled or run.

    Attributes:
        name: str. As given to `keras_dl.export.export(target=...)`.
        requires_quantization: tuple of the quantizations that the target supports, or None for any.
        formats: tuple of the formats that it supports.
        requires: tuple of the modules that it imports from the extra `edge`.
    """

    requires_quantization: tuple[str, ...] | None = None
    formats: tuple[str, ...] = ("litert",)
    requires: tuple[str, ...] = ()

    def __init__(self, name):
        self.name = name

    def check(self, format: str, quantization: str) -> None:
        """Raises an error for a format or quantization that the target does not support, before any work is done.

        Args:
            format: str. The format of the export.
            quantization: str. The quantization of the export.

        Raises:
            ValueError: if it does not support the format or the quantization. The message names those it supports.
            ImportError: if a package of the target is missing. The message has the pip command.
        """
        if format not in self.formats:
            raise ValueError(f"target={self.name!r} needs format {_either(self.formats)}, not format={format!r}.")
        allowed = self.requires_quantization
        if allowed is not None and quantization not in allowed:
            raise ValueError(
                f"target={self.name!r} needs quantization {_either(allowed)}, not quantization={quantization!r}."
            )
        for module in self.requires:
            require(module, extra="edge")

    def run(self, litert_path, context: Context) -> dict:
        """Checks, compiles or runs the file.

        Args:
            litert_path: path of a `.tflite` file. It is only read.
            context: `Context`.

        Returns:
            dict that JSON can hold: the report's `target_report`. Its `"files"` are the names of the files that
            the target wrote into `context.folder`; its `"summary"` is a list of str, the lines for the terminal.

        Raises:
            ExportError: if the file cannot run on the target. The message says why.
        """
        raise NotImplementedError


class Cpu(Target):
    """Any CPU with the runtime of the format. It adds nothing to the exporter's proof."""

    formats = ("litert", "onnx", "saved_model")

    def run(self, litert_path, context: Context) -> dict:
        return {"summary": [], "files": []}


def _either(names):
    return " or ".join(repr(name) for name in names)


def on_the_cpu(refused) -> list[str]:
    """A line for each kind of op and reason.

    Args:
        refused: list of dicts with `op`, `layer` and `reason`, in the order of execution.

    Returns:
        list of str, in the order of the first op of each kind.
    """
    layers = {}
    for found in refused:
        layers.setdefault((found["op"], found["reason"]), []).append(found["layer"])
    return [
        f"{op} in {first!r} stays on the CPU: {reason}"
        if not others
        else f"{op} in {first!r} and {len(others)} more stay on the CPU: {reason}"
        for (op, reason), (first, *others) in layers.items()
    ]
