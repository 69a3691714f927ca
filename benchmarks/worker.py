"""Times one contender at one task in this process, and prints one JSON object.

python benchmarks/worker.py resnet resnet50-train "keras_dl graph"

A contender of torch, by the first word of its label, runs in a process without TensorFlow, as users of torch have it.
In one process, the two libraries do not share threads and memory well, and torch has crashed beside TensorFlow.
"""

import importlib.util
import json
import os
import pathlib
import resource
import sys
import time
import types

TORCHS = ("torch", "transformers", "diffusers")  # torchvision too


def measure(benchmark, task_name, label):
    if label.startswith(TORCHS):
        _spare_tensorflow()
    from keras_dl.benchmarks.contenders import tasks_of

    task = tasks_of(benchmark)[task_name]
    try:
        step = task.contenders[label]()
    except ImportError as error:
        return {"left_out": str(error)}
    for _ in range(task.warmup):
        step()
    milliseconds = []
    for _ in range(task.steps):
        start = time.perf_counter()
        step()
        milliseconds.append(1e3 * (time.perf_counter() - start))
    return {"milliseconds": milliseconds, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def _spare_tensorflow():
    """Replaces `keras_dl` by an empty package, whose modules can be imported without TensorFlow."""
    package = types.ModuleType("keras_dl")
    package.__path__ = list(importlib.util.find_spec("keras_dl").submodule_search_locations)
    sys.modules["keras_dl"] = package


if __name__ == "__main__":
    # Python puts the script's folder first, where this package's modules would hide others of the same names.
    sys.path[:] = [path for path in sys.path if path != str(pathlib.Path(__file__).parent)]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    print(json.dumps(measure(*sys.argv[1:])))
