"""`--jit auto`: whether XLA or the plain graph trains faster on this device, by timing both on the recipe's batch.

The two give different weights. XLA draws other random numbers than the graph for the same seed, in dropout and wherever
else a step is random; and it rounds differently. The choice depends on the load of the machine, so the report's command
repeats the run with `--jit on` or `--jit off`.
"""

import statistics
import time

import numpy as np

from keras_dl.recipes.training.resume import state_variables

SECONDS = 3.0  # for the timed steps of both together
MIN_STEPS, MAX_STEPS = 3, 30


def supported(model):
    """Whether Keras lets XLA compile `model` on this device."""
    model.jit_compile = True
    return model.jit_compile


def choose(model, batches):
    """Times training steps of `model` with and without XLA, and sets the model to the faster one.

    Weights, optimizer and random states are restored afterwards: the timing itself changes no result. The training
    that follows uses the functions that were compiled here.

    Args:
        model: a built and compiled `keras.Model`.
        batches: an infinite `tf.data.Dataset` of batches with the element spec of the training data.

    Returns:
        dict of `jit` (bool, the choice), `jit_ms` and `graph_ms` (medians of one training step in milliseconds),
        `jit_compile_s` and `graph_compile_s` (seconds of the first step, not counted above).
    """
    variables = state_variables(model)
    before = [np.array(v.numpy()) for v in variables]
    batches = iter(batches)
    functions, compile_seconds, steps = {}, {}, {False: [], True: []}

    def timed_step(jit):
        start = time.perf_counter()
        logs = functions[jit](batches)
        float(next(iter(logs.values())))  # reading a result waits for the step
        return time.perf_counter() - start

    for jit in (False, True):
        model.jit_compile = jit
        model.make_train_function(force=True)
        functions[jit] = model.train_function
        compile_seconds[jit] = timed_step(jit)
        timed_step(jit)
    start = time.perf_counter()
    while len(steps[True]) < MIN_STEPS or (
        len(steps[True]) < MAX_STEPS and time.perf_counter() - start < SECONDS
    ):  # alternating, so that both run on the machine in the same state
        for jit, times in steps.items():
            times.append(timed_step(jit))
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)
    model.reset_metrics()

    medians = {jit: round(1e3 * statistics.median(times), 3) for jit, times in steps.items()}
    choice = medians[True] < medians[False]
    model.jit_compile = choice
    model.train_function = functions[choice]
    return {
        "jit": choice,
        "jit_ms": medians[True],
        "graph_ms": medians[False],
        "jit_compile_s": round(compile_seconds[True], 2),
        "graph_compile_s": round(compile_seconds[False], 2),
    }
