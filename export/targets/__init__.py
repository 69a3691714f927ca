"""Device targets: a LiteRT file is checked, compiled or run for a microcontroller, an NPU, an Edge TPU or a GPU."""

from keras_dl.export.targets.base import Context, Cpu, Target
from keras_dl.export.targets.edgetpu import EdgeTpu
from keras_dl.export.targets.ethos_u import NAMES, EthosU
from keras_dl.export.targets.gpu import Gpu
from keras_dl.export.targets.micro import Micro

_ALL = [Cpu("cpu"), Micro("micro"), *(EthosU(name) for name in NAMES), EdgeTpu("edgetpu"), Gpu("gpu")]
_TARGETS = {target.name: target for target in _ALL}


def target_names() -> list[str]:
    """The names that `get_target` knows, in a fixed order."""
    return list(_TARGETS)


def get_target(name: str) -> Target:
    """The target called `name`.

    Raises:
        ValueError: if there is none. The message lists the names.
    """
    if name not in _TARGETS:
        raise ValueError(f"target={name!r} is unknown. Choose one of: {', '.join(_TARGETS)}.")
    return _TARGETS[name]


__all__ = ["Context", "Target", "get_target", "target_names"]
