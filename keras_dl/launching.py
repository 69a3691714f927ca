"""`keras-dl launch`: several processes of one training on this machine, to try out what runs on several.

The command line loads this file without the package, so it imports only the standard library.
"""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time

from keras_dl.processes import python

SECONDS_TO_END = 30.0  # for processes that another one's end concerns: they say what happened, and end by themselves
SECONDS_TO_CLEAN_UP = 10.0  # after SIGTERM


def launch(workers: int, arguments) -> int:
    """Runs `keras-dl train ...` in several processes, and waits for all. When one fails, all others are ended.

    Args:
        workers: int, at least 1.
        arguments: list of str: `["train", NAME, ...]`, with or without `--distribute multi_worker`.

    Returns:
        int: 0, or the exit code of the first process that failed.

    Raises:
        ValueError: if the arguments are not those of a training.
    """
    if not arguments or arguments[0] != "train":
        raise ValueError(f"launch starts trainings: launch --workers {workers} train ..., not {' '.join(arguments)!r}.")
    given = re.findall(r"--distribute[ =](\S+)", " ".join(arguments))
    if others := [value for value in given if value != "multi_worker"]:
        raise ValueError(f"launch starts several workers, not --distribute {others[0]}. Leave this option out.")
    arguments = [*arguments, "--distribute", "multi_worker"]
    addresses = [f"127.0.0.1:{port}" for port in free_ports(workers)]
    processes, copies = [], []
    try:
        for index in range(workers):
            config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            environment = os.environ | {"TF_CONFIG": json.dumps(config)}
            streams = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT) if index else {}  # else as without others
            process = subprocess.Popen(python("-m", "keras_dl", *arguments), env=environment, **streams)
            processes.append(process)
            if index:
                copies.append(threading.Thread(target=_copy, args=(process.stdout, f"worker {index}: "), daemon=True))
                copies[-1].start()
        return _wait(processes)
    finally:
        _end(processes)
        for thread in copies:
            thread.join(1)


def free_ports(count: int) -> list[int]:
    """Numbers of ports that no process uses now."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _wait(processes):
    """The exit code of the first process that fails, or 0 when all are done."""
    failed, until = 0, None
    while any(process.poll() is None for process in processes):
        codes = [process.poll() for process in processes]
        if until is None and any(codes):
            index, failed = next((i, code) for i, code in enumerate(codes) if code)
            how = f"was ended by signal {-failed}" if failed < 0 else f"failed with exit code {failed}"
            print(f"keras-dl: worker {index} {how}; the others end.", file=sys.stderr, flush=True)
            until = time.monotonic() + SECONDS_TO_END
        if until is not None and time.monotonic() > until:
            break
        time.sleep(0.1)
    failed = failed or next((process.returncode for process in processes if process.returncode), 0)
    return 1 if failed < 0 else failed


def _end(processes):
    for process in processes:
        if process.poll() is None:
            process.terminate()
    until = time.monotonic() + SECONDS_TO_CLEAN_UP
    for process in processes:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _copy(lines, prefix):
    """Shows what a process writes on stderr, each line with its name."""
    for line in lines:
        sys.stderr.write(prefix + line.decode(errors="replace"))
        sys.stderr.flush()
