"""Runs the contenders of a benchmark in turn, round after round, and compares their medians within each round.

The speed of a machine drifts. Figures of one round were measured next to each other, so their ratio is more reliable
than the milliseconds.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys

from keras_dl.benchmarks.contenders import tasks_of
from keras_dl.processes import python


def run_benchmark(name, rounds=3, only=None, progress=lambda line: None):
    """Measures every task of `benchmarks/name.py`.

    Args:
        name: str. The benchmark, such as "resnet".
        rounds: int. How often each contender is measured, each time in a new process.
        only: iterable of task names, or None for all.
        progress: called with a line of text after each process.

    Returns:
        dict that can be written as JSON. Each task has its title and, for each contender: the median of its rounds'
        medians in milliseconds, the ratio to the first contender (median, lowest and highest of the rounds), and the
        peak memory of the process in MiB; or the reason why the contender was left out.

    Raises:
        ValueError: if there is no such benchmark or task, or `rounds` is less than 1.
        RuntimeError: if a contender fails, unless a package is missing.
    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds} must be at least 1.")
    tasks = tasks_of(name)
    if unknown := set(only or ()) - set(tasks):
        raise ValueError(f"only={sorted(unknown)}: {name} has no such task. Choose from: {', '.join(tasks)}.")
    results = {}
    for task in tasks.values():
        if only and task.name not in only:
            continue
        measured = {label: [] for label in task.contenders}
        for round_ in range(rounds):
            labels = list(measured) if round_ % 2 == 0 else list(reversed(measured))  # no contender always comes first
            for label in labels:
                result = _in_a_process(name, task.name, label)
                measured[label].append(result)
                progress(f"{task.name}, round {round_ + 1} of {rounds}, {label}: {_in_words(result)}")
        results[task.name] = {"title": task.title, "contenders": _compare(measured)}
    return {"benchmark": name, "rounds": rounds, "tasks": results}


def _in_a_process(*arguments):
    command = python(pathlib.Path(__file__).with_name("worker.py"), *arguments)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}  # finds packages as this process does
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if run.returncode:
        how = f"ended with exit code {run.returncode}"
        raise RuntimeError(f"benchmark {' '.join(arguments)} {how}:\n{run.stderr.strip()}")
    return json.loads(run.stdout.splitlines()[-1])


def _in_words(result):
    if "left_out" in result:
        return f"left out ({result['left_out']})"
    return f"{statistics.median(result['milliseconds']):.1f} ms, {result['peak_mib']:.0f} MiB"


def _compare(measured):
    reference = next(iter(measured.values()))
    compared = {}
    for label, results in measured.items():
        if "left_out" in results[0]:
            compared[label] = results[0]
            continue
        medians = [statistics.median(result["milliseconds"]) for result in results]
        ratios = [m / statistics.median(r["milliseconds"]) for m, r in zip(medians, reference, strict=True)]
        compared[label] = {
            "milliseconds": round(statistics.median(medians), 2),
            "ratio": {
                "median": round(statistics.median(ratios), 3),
                "lowest": round(min(ratios), 3),
                "highest": round(max(ratios), 3),
            },
            "peak_mib": round(max(result["peak_mib"] for result in results)),
        }
    return compared
