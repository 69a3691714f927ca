"""Runs a LiteRT file in tflite-micro, in a process of its own: what crashes the interpreter does not end the caller.

    python micro_run.py MODEL INPUTS.npz OUTPUTS.npz

INPUTS holds `<sample>/<input index>`; OUTPUTS gets `<sample>/<output index>`. Prints the smallest arena, in bytes, in
which the file can be set up, and in which these outputs were computed.
"""

import os
import pathlib
import sys

import numpy as np
from tflite_micro.python.tflite_micro import runtime

LARGEST = 1 << 28  # bytes; its untouched pages cost nothing
STEP = 16  # bytes; the interpreter aligns the arena to it


def main(model, inputs, outputs):
    content = pathlib.Path(model).read_bytes()
    arena = smallest_arena(content)
    interpreter = runtime.Interpreter.from_bytes(content, arena_size=arena)
    samples, results = {}, {}
    for key, array in np.load(inputs).items():
        sample, index = key.split("/")
        samples.setdefault(sample, {})[int(index)] = array
    for sample, arrays in samples.items():
        interpreter.reset()
        for index, array in arrays.items():
            interpreter.set_input(array, index)
        interpreter.invoke()
        for index in range(outputs_of(content)):
            results[f"{sample}/{index}"] = interpreter.get_output(index)
    np.savez(outputs, **results)
    print(arena)


def smallest_arena(content):
    """Bisects for the smallest arena, in bytes, with which `content` can be set up. RuntimeError if none is enough."""
    runtime.Interpreter.from_bytes(content, arena_size=LARGEST)
    too_small, enough = 0, LARGEST
    while enough - too_small > STEP:
        middle = (too_small + enough) // 2 // STEP * STEP
        if can_set_up(content, middle):
            enough = middle
        else:
            too_small = middle
    return enough


def can_set_up(content, arena):
    """Whether an arena of so many bytes is enough; tried in a child, for very small ones crash the interpreter."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the interpreter complains of what it lacks
    try:
        runtime.Interpreter.from_bytes(content, arena_size=arena)
    except RuntimeError:
        os._exit(1)
    os._exit(0)


def outputs_of(content):
    """The number of outputs of subgraph 0, the one that tflite-micro runs."""
    return len(runtime.convert_bytearray_to_object(content).subgraphs[0].outputs)


if __name__ == "__main__":
    main(*sys.argv[1:])
