"""Walks from noise to data: the loop of all samplers, with the noise as an input.

A sampler is one step and this loop. So the same code runs in Keras, under XLA, and in a file, where the loop is one
WHILE and equal noise gives equal data.
"""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from keras_dl.checks import check_size


def walk(step: Callable, start, noise=None, *, num_steps: int, num_kept: int = 0, unroll: bool = False):
    """`x_{i+1} = step(x_i, i, z_i)` for i = 0 .. num_steps - 1.

    Args:
        step: `step(x, i, z)` returns the next `x`, in its shape and dtype. `i` is an int32 scalar; with `unroll`, an
            int. `z` is None if `noise` is.
        start: float, `(batch, ...)`.
        noise: what is drawn in each step. A tensor `(num_steps * k * batch, ...)`, of which step i takes the i-th block
            of `k * batch` rows, for k draws in a step; or a function of `i`, such as `seeded_noise`; or None.
        num_steps: int.
        num_kept: int. With 2 or more, the walk also returns so many of its states, spread evenly from start to end.
        unroll: bool. Whether the steps are written out. An int8 file needs this: a loop cannot be calibrated.

    Returns:
        float, the shape of `start`: the last state. With `num_kept`, a tuple of it and `(num_kept, batch, ...)`.

    Raises:
        ValueError: if `num_steps` is not positive, if `num_kept` is 1 or more than there are states, or if the noise
            has another number of rows or another shape of rows.

    Example: a sampler of ten lines, unadjusted Langevin dynamics.

    >>> def langevin(score, start, noise, num_steps, step_size):
    ...     def step(x, i, z):
    ...         return x + step_size * score(x) + tf.sqrt(2.0 * step_size) * z
    ...     return walk(step, start, noise, num_steps=num_steps)
    >>> def score(x):
    ...     return -(x - 3.0)  # of N(3, 1)
    >>> points = langevin(score, tf.zeros((2000, 1)), seeded_noise((2000, 1), seed=0), num_steps=100, step_size=0.1)
    >>> bool(abs(tf.reduce_mean(points) - 3.0) < 0.1)
    True
    """
    check_size("num_steps", num_steps)
    if num_kept != 0 and not 2 <= num_kept <= num_steps + 1:
        raise ValueError(f"num_kept={num_kept!r} must be 0, or from 2 to num_steps + 1 = {num_steps + 1}.")
    start = tf.convert_to_tensor(start)
    noise_of = _noise_of(noise, start, num_steps)
    # Row i: which of the kept states is the one after i steps.
    stops = np.linspace(0, num_steps, num_kept).round()
    is_kept = np.arange(num_steps + 1)[:, np.newaxis] == stops
    # (num_kept, batch, ...)
    kept = tf.repeat(tf.expand_dims(start, 0), num_kept, axis=0) if num_kept else tf.zeros((0,), start.dtype)

    def body(i, x, kept):
        x = tf.ensure_shape(step(x, i, noise_of(i)), start.shape)
        if num_kept:
            here = tf.reshape(tf.gather(tf.constant(is_kept), i + 1), (num_kept, *[1] * len(x.shape)))
            kept = tf.where(here, tf.expand_dims(x, 0), kept)
        return i + 1, x, kept

    if unroll:
        state = (0, start, kept)
        for _ in range(num_steps):
            state = body(*state)
    else:
        state = tf.while_loop(
            lambda i, *_: i < num_steps, body, (tf.constant(0), start, kept), maximum_iterations=num_steps
        )
    return state[1:] if num_kept else state[1]


def _noise_of(noise, start, num_steps):
    """A function from the number of a step to its noise."""
    if noise is None:
        return lambda i: None
    if callable(noise):
        return noise
    noise = tf.convert_to_tensor(noise)
    batch, rows = start.shape[0], noise.shape[0]
    whole = batch is None or rows is None or (rows > 0 and rows % (num_steps * batch) == 0)
    if noise.shape[1:] != start.shape[1:] or not whole:
        raise ValueError(
            f"noise has the shape {tuple(noise.shape)}; {num_steps} steps of {tuple(start.shape)} take "
            f"{(num_steps * (batch or 1), *start.shape[1:])}, or a multiple of these rows."
        )
    block = (tf.shape(noise)[0] if rows is None else rows) // num_steps
    return lambda i: tf.gather(noise, i * block + tf.range(block))


def seeded_noise(shape, seed) -> Callable:
    """Standard normal noise for each step of a walk, without a tensor of all steps.

    Args:
        shape: tuple of int: that of the state.
        seed: int, `keras.random.SeedGenerator`, or a tensor of two integers.

    Returns:
        function of `i`, which returns float32 of this shape, each time the same for the same `i`.
    """
    if isinstance(seed, keras.random.SeedGenerator):
        seed = seed.next()
    elif isinstance(seed, int):
        seed = (seed, 0)
    state = tf.cast(tf.convert_to_tensor(seed), "int32")
    return lambda i: tf.random.stateless_normal(shape, tf.random.experimental.stateless_fold_in(state, i))
