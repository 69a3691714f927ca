"""Tasks to measure, and the contenders that perform them.

Each file `benchmarks/NAME.py` holds `TASKS`. Each contender of a task is a function that sets everything up and returns
one step to be timed. The set-up includes the imports, because each contender runs in a process of its own. The step
must not return before its work is done.
"""

from collections.abc import Callable
from typing import NamedTuple


class Task(NamedTuple):
    """One comparison.

    Attributes:
        name: of the task, such as "resnet50-train".
        title: description of the measurement: the step, the batch, the shape.
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
    """Returns the tasks of `benchmarks/name.py` by name.

    Raises:
        ValueError: if there is no such file. The message lists the benchmarks.
    """
    import importlib
    import pathlib

    others = ("__init__", "contenders", "paired", "worker", "devices", "streaming")
    known = sorted(path.stem for path in pathlib.Path(__file__).parent.glob("*.py") if path.stem not in others)
    if name not in known:
        raise ValueError(f"there is no benchmark {name!r}. Choose one of: {', '.join(known)}.")
    return {task.name: task for task in importlib.import_module(f"keras_dl.benchmarks.{name}").TASKS}
