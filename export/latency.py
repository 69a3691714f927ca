"""The latency of a file's signatures on this machine."""

import os
import statistics
import time

import tensorflow as tf

from keras_dl.export.runners import load

_WARM_UP = 3
_CALLS = 50
_SECONDS = 0.5


def measure(path, format, samples, threads=(1, 2)):
    """Median latency of each signature of a file.

    Args:
        path: path of the artifact.
        format: str. A SavedModel is measured on TensorFlow's threads, whose number is fixed for a process.
        samples: dict by signature of lists of dicts of arrays, of the signature's static shapes.
        threads: numbers of threads to measure with.

    Returns:
        dict by signature of `{"1": milliseconds, "2": milliseconds}`: medians of up to 50 calls or half a second,
        after 3 that are not counted. Calls with different numbers of threads alternate, so that a change of the
        machine's speed affects all of them.
    """
    if format == "saved_model":
        threads = (tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count(),)
    runners = {str(n): load(path, n, trust=True) for n in threads}
    return {name: _alternate(runners, name, batches[0]) for name, batches in samples.items()}


def _alternate(runners, name, batch):
    times = {key: [] for key in runners}
    inputs = {key: runner.quantized(name, batch) for key, runner in runners.items()}
    start = time.perf_counter()
    for i in range(_WARM_UP + _CALLS):
        for key, runner in runners.items():
            before = time.perf_counter()
            runner.run(name, inputs[key])
            if i >= _WARM_UP:
                times[key].append(1e3 * (time.perf_counter() - before))
        if i >= _WARM_UP and time.perf_counter() - start > _SECONDS:
            break
    return {key: round(statistics.median(values), 4) for key, values in times.items()}
