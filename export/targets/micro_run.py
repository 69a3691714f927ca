"""Runs a LiteRT file in tflite-micro, in its own process: if the interpreter crashes, the caller continues.

    python micro_run.py MODEL INPUTS.npz OUTPUTS.npz

INPUTS holds `<sample>/<input index>`, and OUTPUTS gets `<sample>/<output index>`. The script prints the size of the
smallest arena in bytes with which the file can be set up. The outputs are computed with this arena.
"""

import os
import pathlib
import sys

import numpy as np
from tflite_micro.python.tflite_micro import runtime

LARGEST = 1 << 28  # bytes; pages that are not touched cost nothing
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
    """The smallest arena in bytes with which `content` can be set up, by bisection. RuntimeError if none is enough."""
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
    """Whether an arena of so many bytes is enough. A child tries, because small arenas crash the interpreter."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the interpreter prints how much it lacks
    try:
        runtime.Interpreter.from_bytes(content, arena_size=arena)
    except RuntimeError:
        os._exit(1)
    os._exit(0)


def outputs_of(content):
    """The number of outputs of subgraph 0, which tflite-micro runs."""
    return len(runtime.convert_bytearray_to_object(content).subgraphs[0].outputs)


if __name__ == "__main__":
    main(*sys.argv[1:])
