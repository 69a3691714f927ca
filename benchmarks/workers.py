"""What two workers on two cores cost against one process: the time of a training step, in turn, in one run.

    python -m keras_dl.benchmarks.workers

Three ways to take the same step, each in processes of its own that are bound to their cores: one process on one core,
one process on all cores, and a worker on each core, with its share of the batch, over the loopback network. A round
measures all three, so that ratios are those of one time on one machine. Linux only, which can bind a process.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

from keras_dl.launching import free_ports
from keras_dl.processes import python

BATCH, WARMUP = 64, 3
WAYS = ("one core", "all cores", "workers")


def measure(workers=2, rounds=3, steps=20, progress=lambda line: None):
    """Measures all ways, round after round.

    Args:
        workers: int, at least 2, of which the batch of 64 is a multiple.
        rounds, steps: int. Steps that are timed in each round.
        progress: called with a line of text after each measurement.

    Returns:
        dict that can be written as JSON: `milliseconds` of a step by way, medians of the rounds' medians; and the
        ratios `workers / all cores` and `one core / workers`, each with the median, the lowest and the highest of the
        rounds.

    Raises:
        ValueError: if there are fewer cores than workers, or an argument is out of its range.
        RuntimeError: if a process fails, or the system does not bind processes to cores.
    """
    for name, value in (("rounds", rounds), ("steps", steps)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1.")
    if not hasattr(os, "sched_setaffinity"):
        raise RuntimeError(f"{sys.platform} does not bind processes to cores: measure on Linux.")
    cores = sorted(os.sched_getaffinity(0))
    if not 2 <= workers <= len(cores) or BATCH % workers:
        raise ValueError(f"workers={workers} must be in [2, {len(cores)}], the number of cores, and divide {BATCH}.")
    cores = cores[:workers]
    times = {way: [] for way in WAYS}
    for round_ in range(rounds):
        for way in WAYS if round_ % 2 == 0 else reversed(WAYS):
            times[way].append(_run(way, cores, steps))
            progress(f"round {round_ + 1} of {rounds}, {way}: {times[way][-1]:.1f} ms a step")
    return summary(times) | {"workers": workers, "rounds": rounds, "steps": steps, "batch": BATCH}


def summary(times):
    """The figures of a list of milliseconds by way, one for each round."""

    def ratio(first, second):
        ratios = [a / b for a, b in zip(times[first], times[second], strict=True)]
        return {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}

    return {
        "milliseconds": {way: statistics.median(found) for way, found in times.items()},
        "workers / all cores": ratio("workers", "all cores"),
        "one core / workers": ratio("one core", "workers"),
    }


def _run(way, cores, steps):
    """Milliseconds of a step."""
    groups = [[core] for core in cores] if way == "workers" else [cores[:1] if way == "one core" else cores]
    addresses = [f"127.0.0.1:{port}" for port in free_ports(len(groups))]
    processes, failed = [], []

    def ended(process):
        """What a process said. If it fails, the others, which would wait for it, are ended."""
        said, error = process.communicate()
        if process.returncode:
            failed.append(f"{way} ended with exit code {process.returncode}:\n{error.strip()[-2000:]}")
            for other in processes:
                other.kill()
        return said

    try:
        for index, group in enumerate(groups):
            config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": os.pathsep.join(sys.path)}
            environment |= {"TF_CONFIG": json.dumps(config)} if way == "workers" else {}
            command = python(pathlib.Path(__file__), "--steps", steps, "--cores", ",".join(map(str, group)))
            pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            processes.append(subprocess.Popen(command, env=environment, **pipes))
        with concurrent.futures.ThreadPoolExecutor(len(processes)) as pool:
            said = list(pool.map(ended, processes))
    finally:
        for process in processes:
            process.kill()
            process.wait()
    if failed:
        raise RuntimeError(failed[0])
    return statistics.median(json.loads(said[0].splitlines()[-1]))


def _train(cores, steps):
    """Prints the milliseconds of each step of a small ResNet, as one of the processes."""
    os.sched_setaffinity(0, cores)  # before TensorFlow starts threads
    import contextlib

    import keras
    import numpy as np
    import tensorflow as tf

    import keras_dl

    tf.config.threading.set_intra_op_parallelism_threads(len(cores))
    tf.config.threading.set_inter_op_parallelism_threads(len(cores))
    has_others = "TF_CONFIG" in os.environ
    strategy = tf.distribute.MultiWorkerMirroredStrategy() if has_others else None
    keras.utils.set_random_seed(0)
    with strategy.scope() if has_others else contextlib.nullcontext():
        model = keras_dl.ResNet.from_preset("resnet20")
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, jit_compile=False)
    random = np.random.default_rng(0)
    rows = BATCH * (WARMUP + steps)
    x = random.integers(0, 256, (rows, *model.input_shape[1:]), dtype="uint8")
    y = random.integers(0, 10, rows)
    ends = []
    note = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: ends.append(time.perf_counter()))
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[note])
    print(json.dumps([1000 * seconds for seconds in np.diff(ends)[WARMUP - 1 :]]))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cores", help=argparse.SUPPRESS)  # of a process that is measured
    options = parser.parse_args(arguments)
    if options.cores:
        _train([int(core) for core in options.cores.split(",")], options.steps)
        return
    found = measure(options.workers, options.rounds, options.steps, lambda line: print(line, file=sys.stderr))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
