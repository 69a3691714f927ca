"""Solvers of ordinary differential equations, with gradients by the adjoint method.

    dy/dt = f(t, y),  y(t_0) given                                            what is solved

    k_i = h f(t + c_i h, y + sum_j a_ij k_j),  y(t + h) = y + sum_i b_i k_i   an explicit Runge-Kutta step

    a(t) = dL/dy(t),  da/dt = -a df/dy,  dL/dw = int a df/dw dt               the adjoint, solved backward in time

The fixed steps (Euler, midpoint, two of fourth order) are loops of a length that is known when the graph is built: they
compile under XLA, and they export. Dormand and Prince's pair with its adaptive step is that of TensorFlow Probability.

Two gradients. "backprop" differentiates the steps themselves and keeps what each of them computed. "adjoint" keeps the
solution at the times asked for and nothing in between: it solves y again, backward, together with its adjoint, so that
memory does not grow with the number of steps. It is the gradient of the differential equation rather than of the steps:
both agree as far as the steps follow the solution. In eager mode a tape of the caller's own records every step all the
same; the memory is saved inside `tf.function`, where `fit` runs.

Where the caller runs eagerly, a solver that fails raises `SolverError`. Inside `tf.function` it raises TensorFlow's
`InvalidArgumentError` with the same words. XLA has no way to raise: there the solution is NaN.

References: Chen, Rubanova, Bettencourt, Duvenaud 2018, "Neural Ordinary Differential Equations", arXiv:1806.07366,
section 2 and appendix B and C. Hairer, Norsett, Wanner 1993, "Solving Ordinary Differential Equations I", II.1 and
II.5.
"""

import functools
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_dl.checks import check_choice, check_size


class Tableau(NamedTuple):
    """Coefficients of an explicit Runge-Kutta method: `order`, nodes `c`, strictly lower rows `a`, weights `b`."""

    order: int
    c: tuple
    a: tuple
    b: tuple


TABLEAUS = {
    "euler": Tableau(1, (0.0,), ((),), (1.0,)),
    "midpoint": Tableau(2, (0.0, 1 / 2), ((), (1 / 2,)), (0.0, 1.0)),
    "rk4": Tableau(
        4, (0.0, 1 / 2, 1 / 2, 1.0), ((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)
    ),
    # Kutta's 3/8 rule, which torchdiffeq calls rk4.
    "rk4_38": Tableau(
        4, (0.0, 1 / 3, 2 / 3, 1.0), ((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)), (1 / 8, 3 / 8, 3 / 8, 1 / 8)
    ),
}
ADAPTIVE = "dopri5"
METHODS = (*TABLEAUS, ADAPTIVE)
GRADIENTS = ("adjoint", "backprop")


class SolverError(ArithmeticError):
    """The adaptive solver has not reached the last time within its number of steps; the message has that number."""


def odeint(
    function,
    initial_state,
    times,
    method="rk4",
    num_steps=1,
    gradient="adjoint",
    unroll=False,
    rtol=1e-3,
    atol=1e-6,
    max_num_steps=1000,
):
    """Solves `dy/dt = function(t, y)` from `y(times[0]) = initial_state`.

    Gradients reach the initial state, the times if they are a tensor, and the variables that `function` reads. They do
    not reach other tensors that it closes over: put those into the state, with a derivative of zero.

    Args:
        function: `function(t, state)` returns the derivatives, in the structure of the state. `t` is a float scalar, or
            `(batch,)` where each row has times of its own.
        initial_state: float tensor, or a nest of them, all of one dtype. Half precision is solved in float32.
        times: float, `(n,)` with n >= 2, increasing; or `(batch, n)`, a row of times for each row of the state, in
            which a time may be repeated. With times of their own the rows must not depend on each other.
        method: "euler", "midpoint", "rk4", "rk4_38" (Kutta's 3/8 rule), or "dopri5", which takes one row of times.
        num_steps: int. Steps of a fixed solver between two neighbouring times.
        gradient: "adjoint", or "backprop" (not for "dopri5").
        unroll: bool. Writes the steps of a fixed solver one after the other into the graph instead of a loop.
        rtol, atol: float. Error that "dopri5" allows in a step, relative and absolute, as a root of a mean square.
        max_num_steps: int. Steps, rejected ones included, after which "dopri5" gives up.

    Returns:
        The state at all times: the structure of the state, each tensor `(n, *its shape)`.

    Raises:
        ValueError: if the times do not increase, the derivatives do not have the shape of the state, or another
            argument is none of the above.
        SolverError: if, called eagerly, "dopri5" gives up; the message has the number of its steps.

    Example:

    >>> y = odeint(lambda t, y: -y, tf.constant([1.0]), [0.0, 1.0, 2.0], num_steps=10)
    >>> y.numpy().round(4).ravel()  # exp(-t)
    array([1.    , 0.3679, 0.1353], dtype=float32)
    """
    check_choice("method", method, METHODS)
    check_choice("gradient", gradient, GRADIENTS)
    check_size("num_steps", num_steps)
    check_size("max_num_steps", max_num_steps)
    state = tf.nest.map_structure(_full_precision, initial_state)
    flat = tf.nest.flatten(state)
    times = _checked_times(times, flat[0].dtype)

    def derivatives(t, flat_state):
        found = function(t, tf.nest.pack_sequence_as(state, flat_state))
        return _checked_derivatives(found, state, flat_state)

    if method == ADAPTIVE:
        if gradient == "backprop":
            raise ValueError("gradient='backprop' is not to be had of method='dopri5'. Choose 'adjoint'.")
        if times.shape.rank == 2:
            raise ValueError(
                f"times of shape {tuple(times.shape)}: method='dopri5' has one step size for all rows and takes one "
                "row of times. Choose a fixed solver."
            )
        solver = _Adaptive(rtol, atol, max_num_steps)
    else:
        solver = _Fixed(TABLEAUS[method], num_steps, unroll)
    if gradient == "backprop":
        solution = solver.solve(derivatives, times, flat)
    else:
        solution = _solve_with_adjoint(solver, derivatives, times, flat)
    return tf.nest.pack_sequence_as(state, solution)


def _full_precision(x):
    x = tf.convert_to_tensor(x)
    if not x.dtype.is_floating:
        raise ValueError(f"initial_state has the dtype {x.dtype.name}; it must be a float.")
    return tf.cast(x, tf.float32) if x.dtype.size < 4 else x


def _checked_times(times, dtype):
    times = tf.cast(tf.convert_to_tensor(times), dtype)
    if times.shape.rank not in (1, 2) or times.shape[-1] is None or times.shape[-1] < 2:
        raise ValueError(
            f"times of shape {tuple(times.shape)} must be (n,) or (batch, n), with n known and at least 2."
        )
    values = tf.get_static_value(times)
    if values is not None:
        steps = np.diff(values)
        if not ((steps > 0) if times.shape.rank == 1 else (steps >= 0)).all():
            raise ValueError(
                f"times={np.array2string(values, threshold=12)} must be increasing. To solve backward in time, "
                "solve dy/ds = -f(-s, y) for s = -t."
            )
    return times


def _checked_derivatives(found, state, flat_state):
    try:
        tf.nest.assert_same_structure(state, found)
    except (ValueError, TypeError) as error:
        raise ValueError(f"function must return the structure of the state: {error}") from None
    found = [tf.cast(d, y.dtype) for d, y in zip(tf.nest.flatten(found), flat_state, strict=True)]
    for d, y in zip(found, flat_state, strict=True):
        if not d.shape.is_compatible_with(y.shape):
            raise ValueError(f"function returned derivatives of shape {d.shape} for a state of shape {y.shape}.")
    return found


def _solve_with_adjoint(solver, derivatives, times, flat):
    @tf.custom_gradient
    def solve(times, *flat):
        solution = solver.solve(derivatives, times, list(flat))

        def gradient(*upstream, variables=()):
            adjoint, of_variables = solver.solve_adjoint(derivatives, times, solution, list(upstream), list(variables))
            of_times = _gradient_of_times(derivatives, times, solution, upstream, adjoint)
            adjoint = [a + u[0] for a, u in zip(adjoint, upstream, strict=True)]
            of_inputs = (of_times, *adjoint)
            return (of_inputs, of_variables) if variables else of_inputs

        return solution, gradient

    return solve(times, *flat)


def _gradient_of_times(derivatives, times, solution, upstream, adjoint):
    """dL/dt_i = (dL/dy_i) f(t_i, y_i), and of the first time -a(t_0) f(t_0, y_0): the shape of `times`."""

    def along(i):
        y = [tf.gather(x, i) for x in solution]
        weights = [tf.where(i == 0, -a, tf.gather(u, i)) for a, u in zip(adjoint, upstream, strict=True)]
        found = derivatives(tf.gather(times, i, axis=-1), y)
        first = 0 if times.shape.rank == 1 else 1  # of each row by itself, where each has times of its own
        return tf.add_n([tf.reduce_sum(w * d, range(first, d.shape.rank)) for w, d in zip(weights, found, strict=True)])

    count = times.shape[-1]
    found = tf.map_fn(along, tf.range(count), fn_output_signature=times.dtype)
    return found if times.shape.rank == 1 else tf.transpose(found)


def _pull_back(derivatives, t, y, cotangent, variables):
    """`f(t, y)`, and the cotangent times the Jacobians of f by each of `y` and by each of the variables."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(y)
        tape.watch(variables)
        found = derivatives(t, y)
    gradients = tape.gradient(found, [*y, *variables], cotangent, unconnected_gradients="zero")
    gradients = [tf.convert_to_tensor(g) for g in gradients]  # of an embedding they are sparse
    return found, gradients[: len(y)], gradients[len(y) :]


class _Fixed:
    """A Runge-Kutta method with as many equal steps between any two neighbouring times."""

    def __init__(self, tableau, num_steps, unroll):
        self.tableau = tableau
        self.num_steps = num_steps
        self.unroll = unroll

    def solve(self, derivatives, times, y):
        def increments(t, h, y):
            return [_times(h, d) for d in derivatives(t, y)], []

        last = times.shape[-1] - 1
        if self.unroll or last == 1:
            states = [y]
            for i in range(last):
                y, _ = self._advance(increments, times[..., i], times[..., i + 1], y, [])
                states.append(y)
            return [tf.stack(x) for x in zip(*states, strict=True)]

        def body(i, y, arrays):
            y, _ = self._advance(increments, tf.gather(times, i, axis=-1), tf.gather(times, i + 1, axis=-1), y, [])
            return i + 1, y, [array.write(i + 1, x) for array, x in zip(arrays, y, strict=True)]

        arrays = [tf.TensorArray(x.dtype, last + 1, element_shape=x.shape).write(0, x) for x in y]
        arrays = tf.while_loop(lambda i, *_: i < last, body, (0, y, arrays), maximum_iterations=last)[2]
        return [array.stack() for array in arrays]

    def solve_adjoint(self, derivatives, times, solution, upstream, variables):
        """`a(t_0)` without what flows into it at t_0 itself, and the gradient of each variable."""
        size = len(solution)

        def increments(t, h, state):
            y, a = state[:size], state[size:]
            # h is in the cotangent: where each row has an h of its own, a sum over rows could not be given it later.
            found, by_state, by_variables = _pull_back(derivatives, t, y, [_times(h, x) for x in a], variables)
            return [*(_times(h, d) for d in found), *(-x for x in by_state)], [-x for x in by_variables]

        def back(i, a, sums):
            state = [
                *(tf.gather(x, i) for x in solution),
                *(x + tf.gather(u, i) for x, u in zip(a, upstream, strict=True)),
            ]
            start, stop = tf.gather(times, i, axis=-1), tf.gather(times, i - 1, axis=-1)
            state, sums = self._advance(increments, start, stop, state, sums)
            return i - 1, state[size:], sums

        last = times.shape[-1] - 1
        a, sums = [tf.zeros_like(x[0]) for x in solution], [tf.zeros(v.shape, v.dtype) for v in variables]
        if self.unroll or last == 1:
            for i in range(last, 0, -1):
                _, a, sums = back(i, a, sums)
        else:
            _, a, sums = tf.while_loop(lambda i, *_: i > 0, back, (last, a, sums), maximum_iterations=last)
        return a, sums

    def _advance(self, increments, start, stop, y, sums):
        """From one time to the next: `y`, and `sums` of what is integrated beside it and acts back on nothing."""
        h = (stop - start) / self.num_steps
        if self.unroll or self.num_steps == 1:
            for i in range(self.num_steps):
                y, sums = self._step(increments, start + i * h, h, y, sums)
            return y, sums

        def body(i, y, sums):
            return i + 1, *self._step(increments, start + tf.cast(i, h.dtype) * h, h, y, sums)

        loop = tf.while_loop(lambda i, *_: i < self.num_steps, body, (0, y, sums), maximum_iterations=self.num_steps)
        return loop[1:]

    def _step(self, increments, t, h, y, sums):
        stages = []
        for node, row in zip(self.tableau.c, self.tableau.a, strict=True):
            stage = [_weighted(x, row, [k[i] for k, _ in stages]) for i, x in enumerate(y)]
            stages.append(increments(t + node * h, h, stage))
        weights = self.tableau.b
        y = [_weighted(x, weights, [k[i] for k, _ in stages]) for i, x in enumerate(y)]
        return y, [_weighted(x, weights, [q[i] for _, q in stages]) for i, x in enumerate(sums)]


def _weighted(x, weights, terms):
    for weight, term in zip(weights, terms, strict=True):
        if weight:
            x = x + (term if weight == 1.0 else weight * term)
    return x


def _times(h, x):
    """`h x`, where h is a scalar or has one value for each row of x."""
    return x * (h if h.shape.rank == 0 else tf.reshape(h, (-1, *[1] * (x.shape.rank - 1))))


class _Adaptive:
    """Dormand and Prince's pair of orders 5 and 4, by TensorFlow Probability."""

    def __init__(self, rtol, atol, max_num_steps):
        self.rtol = rtol
        self.atol = atol
        self.max_num_steps = max_num_steps

    def solve(self, derivatives, times, y):
        found, steps, reached = self._run(derivatives, times[0], y, times[1:])
        found = [tf.concat([tf.expand_dims(x, 0), later], 0) for x, later in zip(y, found, strict=True)]
        return self._require(reached, steps, "solution", found)

    def solve_adjoint(self, derivatives, times, solution, upstream, variables):
        """As that of the fixed solvers."""
        size = len(solution)

        def rates(s, state):  # of s = -t, which increases
            y, a = state[:size], state[size : 2 * size]
            found, by_state, by_variables = _pull_back(derivatives, -s, y, a, variables)
            return [*(-d for d in found), *by_state, *by_variables]

        def back(i, a, sums, steps, reached):
            state = [
                *(tf.gather(x, i) for x in solution),
                *(x + tf.gather(u, i) for x, u in zip(a, upstream, strict=True)),
            ]
            start, stop = tf.gather(times, i), tf.gather(times, i - 1)
            found, further, arrived = self._run(rates, -start, [*state, *sums], tf.expand_dims(-stop, 0))
            found = [x[0] for x in found]
            return i - 1, found[size : 2 * size], found[2 * size :], steps + further, reached & arrived

        last = times.shape[0] - 1
        a, sums = [tf.zeros_like(x[0]) for x in solution], [tf.zeros(v.shape, v.dtype) for v in variables]
        start = (tf.constant(last), a, sums, tf.constant(0), tf.constant(True))
        _, a, sums, steps, reached = tf.while_loop(lambda i, *_: i > 0, back, start, maximum_iterations=last)
        found = self._require(reached, steps, "adjoint", [*a, *sums])
        return found[:size], found[size:]

    def _run(self, derivatives, start, y, times):
        """The states at `times`, the number of steps, and whether the last time was reached."""
        solver = _bounded_dormand_prince()(self.max_num_steps, self.rtol, self.atol, 0.05 * (times[0] - start))
        results = solver.solve(lambda t, state: tuple(derivatives(t, list(state))), start, tuple(y), times)
        steps = results.diagnostics.num_ode_fn_evaluations // solver.ODE_FN_EVALS_PER_STEP
        return list(results.states), steps, tf.equal(results.diagnostics.status, 0)

    def _require(self, reached, steps, what, tensors):
        words = (
            f"method='dopri5' gave up on the {what}: rtol={self.rtol} and atol={self.atol} were not met within "
            f"max_num_steps={self.max_num_steps}. Allow more steps or a larger error, or see whether the derivatives "
            "are finite and not stiff. Steps taken:"
        )
        if tf.executing_eagerly():
            if not bool(reached):
                raise SolverError(f"{words} {int(steps)}.")
            return tensors
        with tf.control_dependencies([tf.debugging.Assert(reached, [words, steps])]):
            return [tf.where(reached, x, tf.constant(float("nan"), x.dtype)) for x in tensors]


@functools.cache
def _bounded_dormand_prince():
    """TFP's solver with an end: its own `max_num_steps` is an assertion, which XLA drops and then steps for ever."""
    from tensorflow_probability import math  # it takes seconds to import: only who solves so waits for it

    class BoundedDormandPrince(math.ode.DormandPrince):
        def __init__(self, limit, rtol, atol, first_step_size):
            super().__init__(rtol=rtol, atol=atol, first_step_size=first_step_size)
            self.limit = limit

        def _step(self, solver_state, diagnostics, **settings):
            solver_state, diagnostics = super()._step(solver_state, diagnostics, **settings)
            over = diagnostics.num_ode_fn_evaluations > self.limit * self.ODE_FN_EVALS_PER_STEP
            # The loops around run until this time is past the ones asked for.
            time = tf.where(over, tf.constant(float("inf"), solver_state.current_time.dtype), solver_state.current_time)
            status = tf.where(over, -1, diagnostics.status)
            return solver_state._replace(current_time=time), diagnostics._replace(status=status)

    return BoundedDormandPrince
