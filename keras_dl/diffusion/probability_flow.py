"""The probability flow: an ordinary differential equation with the densities of the stochastic one at all times.

    dx/dt = f x - g^2 score / 2                                                                     (eq. 13)
    log p_0(x(0)) = log p_1(x(1)) + int_0^1 div(dx/dt) dt                                           (eq. 39)
    div = E e' J e,  e of independent signs                                                         Hutchinson (eq. 40)

So data and noise belong to each other one to one: noise can be sampled without further draws, encoded, interpolated,
and the likelihood of data is known. Solvers take equal steps in u with t = u^2, but for VE: the velocity then has a
bound where the score has none.

Reference: Song et al. 2021, arXiv:2011.13456, section 4.3, appendix D.
"""

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_dl.diffusion.sdes import SDE
from keras_dl.ops.odeint import Solver


def velocity(score: Callable, sde: SDE) -> Callable:
    """`dx/dt` of the probability flow: a function of `x` `(batch, ...)` and the scalar `t`."""

    def rate(x, t):
        t = tf.cast(t, "float32")
        times = tf.ones_like(x[(slice(None), *[0] * (len(x.shape) - 1))]) * t  # (batch,)
        return sde.drift(t) * x - 0.5 * tf.square(sde.diffusion(t)) * score(x, times)

    return rate


def encode(score: Callable, sde: SDE, data, solver: Solver, first_time: float | None = None):
    """The noise that belongs to data: float32, the shape of `data`.

    Args:
        score: `score(x, t)` with `t` `(batch,)`.
        sde: `SDE`.
        data: float, `(batch, ...)`, in the scale of the process.
        solver: `keras_dl.ops.odeint.Solver`.
        first_time: float in (0, 1). Where the flow begins. None for `sde.smallest_time`.
    """
    return _solved(velocity(score, sde), sde, tf.cast(data, "float32"), solver, first_time)


def decode(score: Callable, sde: SDE, latents, solver: Solver, first_time: float | None = None):
    """The data that belong to noise of the standard deviation `sde.prior_std`: the inverse of `encode`.

    Args:
        score, sde, solver: as of `encode`.
        latents: float, `(batch, ...)`.
        first_time: float in (0, 1). Where the flow, followed backward, ends. None for `sde.smallest_time`.
    """
    return _solved(velocity(score, sde), sde, tf.cast(latents, "float32"), solver, first_time, backward=True)


def log_likelihood(score: Callable, sde: SDE, data, solver: Solver, signs=None, first_time: float | None = None):
    """The log-density of data in nats, and the noise that belongs to them.

    Args:
        score, sde, data, solver, first_time: as of `encode`. `score` must treat each row by itself.
        signs: float, the shape of `data`: e of Hutchinson's estimate, as `random_signs` makes it. None for the exact
            divergence, at the cost of one gradient for each dimension.

    Returns:
        float32, `(batch,)` and the shape of `data`.

    Example: N(0, 1), whose score at any time of VP is -x.

    >>> from keras_dl.diffusion import VP
    >>> log_prob, _ = log_likelihood(lambda x, t: -x, VP(), tf.constant([[0.0], [1.0]]), Solver("rk4", 20))
    >>> log_prob.numpy().round(3)
    array([-0.919, -1.419], dtype=float32)
    """
    flow = velocity(score, sde)

    def rates(state, t):
        return divergence(lambda x: flow(x, t), state[0], signs)

    data = tf.cast(data, "float32")
    start = (data, tf.zeros_like(data[(slice(None), *[0] * (len(data.shape) - 1))]))
    latents, change = _solved(rates, sde, start, solver, first_time)
    return sde.log_prior(latents) + change, latents


def divergence(function: Callable, x, signs=None):
    """A vector field of rows at `x`, and its divergence there.

    Args:
        function: from `(batch, ...)` to the same shape, each row by itself.
        x: float, `(batch, ...)`.
        signs: float, the shape of `x`: e of `e' J e`. None for the exact trace.

    Returns:
        float, the shape of `x`, and `(batch,)`.

    Example:

    >>> matrix = tf.constant([[1.0, 2.0], [3.0, 4.0]])
    >>> divergence(lambda x: x @ matrix, tf.zeros((1, 2)))[1].numpy()
    array([5.], dtype=float32)
    """
    size = math.prod(x.shape[1:])
    directions, rows = signs, x
    if signs is None:  # each row once for each axis
        axes = np.eye(size, dtype="float32")[np.newaxis]  # (1, size, size)
        flat = tf.expand_dims(tf.reshape(x, (-1, size)), 1) + tf.zeros((1, size, 1), x.dtype)  # (batch, size, size)
        directions = tf.reshape(tf.zeros_like(flat) + axes, (-1, *x.shape[1:]))  # (batch * size, ...)
        rows = tf.reshape(flat, (-1, *x.shape[1:]))
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(rows)
        values = function(rows)
    products = tape.gradient(values, rows, directions)
    found = tf.reduce_sum(tf.reshape(products * directions, (-1, size if signs is not None else size * size)), axis=-1)
    if signs is not None:
        return values, found
    values = tf.reshape(values, (-1, size, size))[:, 0]  # all rows of an example are equal
    return tf.reshape(values, (-1, *x.shape[1:])), found


def random_signs(shape, seed):
    """-1 and 1, evenly: float32. `seed` is an int or a `keras.random.SeedGenerator`."""
    import keras

    draw = keras.random.uniform(shape, seed=seed, dtype="float32")
    return tf.sign(draw - 0.5) + tf.cast(tf.equal(draw, 0.5), "float32")


def bits_per_dimension(log_density, size: int, step: float):
    """Bits for each of `size` values of data with values in steps, from a density of data with uniform noise added.

        -log2 P(x) <= -log2 p(x + u) - size log2 step                           Theis et al. 2016, arXiv:1511.01844

    The noise `u` must fill the step. Without it, the density of a grid has no bound, nor have the bits.

    Args:
        log_density: float, `(batch,)`, in nats.
        size: int. Values of an example.
        step: float. One step of the values in the scale of the density: 1/256 for pixels in [0, 1], 2/256 in [-1, 1].

    Returns:
        float, `(batch,)`.

    Example: the uniform density on [-1, 1] takes 8 bits.

    >>> print(round(bits_per_dimension(-3 * math.log(2), 3, 2 / 256), 4))
    8.0
    """
    return -log_density / (size * math.log(2)) - math.log2(step)


def spherical(first, second, share):
    """Between two latents, along the great circle, so that noise stays as long as noise is.

    Args:
        first, second: float, `(batch, ...)`.
        share: float in [0, 1], of the second.

    Example:

    >>> spherical(tf.constant([[1.0, 0.0]]), tf.constant([[0.0, 1.0]]), 0.5).numpy().round(4)
    array([[0.7071, 0.7071]], dtype=float32)
    """
    first, second = tf.cast(first, "float32"), tf.cast(second, "float32")
    axes = tuple(range(1, len(first.shape)))

    def dot(a, b):
        return tf.reduce_sum(a * b, axis=axes, keepdims=True)

    cosine = dot(first, second) / tf.sqrt(dot(first, first) * dot(second, second))
    angle = tf.acos(tf.clip_by_value(cosine, -1.0, 1.0))
    # Parallel latents have no angle: there the straight line is the same.
    small = tf.sin(angle) < 1e-4
    sine = tf.where(small, tf.ones_like(angle), tf.sin(angle))
    weights = [tf.where(small, tf.ones_like(angle) * w, tf.sin(w * angle) / sine) for w in (1.0 - share, share)]
    return weights[0] * first + weights[1] * second


def _solved(rates, sde, state, solver, first_time, backward=False):
    """The state at time 1, from `first_time`; or the other way. `rates(state, t)` is its derivative."""
    first_time = sde.smallest_time if first_time is None else first_time
    if not 0 < first_time < 1:
        raise ValueError(f"first_time={first_time!r} must be above 0 and below 1.")
    power, length = sde.step_power, 1.0 - first_time

    def derivative(v, state):
        u = 1.0 - v if backward else v
        speed = length * power * u ** (power - 1)
        rate = rates(state, first_time + length * u**power)
        return tf.nest.map_structure(lambda x: -speed * x if backward else speed * x, rate)

    if not tf.executing_eagerly():  # a solver has it several times in its graph: one trace does for all
        derivative = tf.function(derivative, autograph=False)
    solution = solver.solve(derivative, state, np.array([0.0, 1.0], "float32"))
    return tf.nest.map_structure(lambda x: x[-1], solution)
