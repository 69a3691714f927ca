"""What is measured: a task, and those who do it.

Each file `benchmarks/NAME.py` holds `TASKS`. A task's contenders are functions that do the
whole set-up (imports too, for each runs in a process of its own) and return one step to be
timed, which must not return before its work is done.
"""

from collections.abc import Callable
from typing import NamedTuple


class Task(NamedTuple):
    """One comparison.

    Attributes:
        name: of the task, such as "resnet50-train".
        title: what is timed, in words: the step, the batch, the shape.
        contenders: by label; the first is the reference of the ratios.
        steps: timed steps in a process.
        warmup: steps before them, which trace, compile and fill caches.
    """

    name: str
    title: str
    contenders: dict[str, Callable[[], Callable[[], None]]]
    steps: int = 10
    warmup: int = 3


def tasks_of(name):
    """The tasks of `benchmarks/name.py`, by name.

    Raises:
        ValueError: if there is no such file; the message lists those that exist.
    """
    import importlib
    import pathlib

    others = ("__init__", "contenders", "paired", "worker", "devices", "streaming")
    known = sorted(path.stem for path in pathlib.Path(__file__).parent.glob("*.py") if path.stem not in others)
    if name not in known:
        raise ValueError(f"there is no benchmark {name!r}. Choose one of: {', '.join(known)}.")
    return {task.name: task for task in importlib.import_module(f"keras_dl.benchmarks.{name}").TASKS}
