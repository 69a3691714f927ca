"""Solvers of ordinary differential equations, with gradients by the adjoint method.

    dy/dt = f(t, y),  y(t_0) given                                            the problem

    k_i = h f(t + c_i h, y + sum_j a_ij k_j),  y(t + h) = y + sum_i b_i k_i   an explicit Runge-Kutta step

    a(t) = dL/dy(t),  da/dt = -a df/dy,  dL/dw = int a df/dw dt               the adjoint, solved backward in time

The fixed steps (Euler, midpoint, two of fourth order) are loops of a length that is known when the graph is built. So
they compile under XLA and export. Dormand and Prince's pair with its adaptive step is TensorFlow Probability's.

There are two gradients. "backprop" differentiates the steps themselves, and keeps the results of each. "adjoint" keeps
only the solution at the requested times. It solves y again, backward, together with its adjoint, so that memory does
not grow with the number of steps. It is the gradient of the differential equation, not of the steps: both agree as far
as the steps follow the solution. In eager mode a tape of the caller records every step all the same. The memory is
saved inside `tf.function`, where `fit` runs.

Called eagerly, adaptive steps are slow, since each is run from Python. Call them inside `tf.function`. The models of
this package do so themselves (`keras_dl.models.continuous.solving`).

A solver that fails raises `SolverError` if it is called eagerly. Inside `tf.function` it raises TensorFlow's
`InvalidArgumentError` with the same words. XLA cannot raise errors: there the solution is NaN.

References: Chen, Rubanova, Bettencourt, Duvenaud 2018, "Neural Ordinary Differential Equations", arXiv:1806.07366,
section 2 and appendix B and C. Hairer, Norsett, Wanner 1993, "Solving Ordinary Differential Equations I", II.1 and
II.5.
"""

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Annotated, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_dl.arguments import OneOf
from keras_dl.checks import check_choice, check_number, check_size
from keras_dl.compat import is_eager


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

# The types of these arguments of models.
Method = OneOf(*METHODS)
FixedMethod = OneOf(*TABLEAUS)
Gradient = OneOf(*GRADIENTS)


class SolverError(ArithmeticError):
    """The adaptive solver has not reached the last time within its number of steps; the message has that number."""


def solver_error(error: tf.errors.InvalidArgumentError) -> SolverError | None:
    """The `SolverError` that a graph raised as `error`; None if `error` is another one."""
    words = re.search(r"\[(method=[^\[]*gave up[^\[]*Steps taken:)\] \[(\d+)\]", error.message)
    return None if words is None else SolverError(f"{words[1]} {words[2]}.".replace("\\'", "'"))


@keras.saving.register_keras_serializable(package="keras_dl")
@dataclasses.dataclass(frozen=True)
class Solver:
    """How equations are solved: the options of `odeint`, checked once.

    Args:
        method: "euler", "midpoint", "rk4", "rk4_38" (Kutta's 3/8 rule), or "dopri5", which takes one row of times.
        num_steps: int. Steps of a fixed solver between two neighboring times.
        gradient: "adjoint", or "backprop" (not for "dopri5").
        unroll: bool. Whether the steps of a fixed solver are written out in the graph, one after the other, instead of
            a loop.
        rtol, atol: float, at least 0. Error that "dopri5" allows in a step, relative and absolute, as a root of a mean
            square.
        max_num_steps: int. Steps, rejected ones included, after which "dopri5" gives up.

    Raises:
        ValueError: if an argument is out of its range; the message has its name and value.

    Example:

    >>> solver = Solver("dopri5", num_steps=8)
    >>> solver.fixed().method, solver.fixed().num_steps
    ('rk4', 8)
    """

    method: str = "rk4"
    num_steps: int = 1
    gradient: str = "adjoint"
    unroll: bool = False
    rtol: float = 1e-3
    atol: float = 1e-6
    max_num_steps: int = 1000

    def __post_init__(self):
        check_choice("method", self.method, METHODS)
        check_choice("gradient", self.gradient, GRADIENTS)
        check_size("num_steps", self.num_steps)
        check_size("max_num_steps", self.max_num_steps)
        check_number("rtol", self.rtol, 0)
        check_number("atol", self.atol, 0)
        if self.adaptive and self.gradient == "backprop":
            raise ValueError("gradient='backprop' is not available for method='dopri5'. Choose 'adjoint'.")

    @property
    def adaptive(self) -> bool:
        """Whether the method chooses its steps."""
        return self.method == ADAPTIVE

    def fixed(self) -> "Solver":
        """The same with fixed steps: "rk4" in place of "dopri5"."""
        return dataclasses.replace(self, method="rk4") if self.adaptive else self

    def solve(self, function: Callable, initial_state, times):
        """`odeint(function, initial_state, times)` with these options."""
        return odeint(function, initial_state, times, **dataclasses.asdict(self))

    def get_config(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict) -> "Solver":
        return cls(**config)


def check_solver(name, value) -> Solver:
    """`value` as a `Solver`, which it must be, or its config."""
    solver = keras.saving.deserialize_keras_object(value) if isinstance(value, dict) else value
    if not isinstance(solver, Solver):
        raise ValueError(f"{name}={value!r} must be a keras_dl.ops.odeint.Solver.")
    return solver


# The type of a layer's argument `solver`.
AnySolver = Annotated[Solver, check_solver]


def odeint(
    function: Callable,
    initial_state,
    times,
    method: str = "rk4",
    num_steps: int = 1,
    gradient: str = "adjoint",
    unroll: bool = False,
    rtol: float = 1e-3,
    atol: float = 1e-6,
    max_num_steps: int = 1000,
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
        method, num_steps, gradient, unroll, rtol, atol, max_num_steps: as of `Solver`.

    Returns:
        The state at all times: the structure of the state, each tensor `(n, *its shape)`.

    Raises:
        ValueError: if the times do not increase, the derivatives do not have the shape of the state, or another
            argument is out of its range.
        SolverError: if, called eagerly, "dopri5" gives up; the message has the number of its steps.

    Example:

    >>> y = odeint(lambda t, y: -y, tf.constant([1.0]), [0.0, 1.0, 2.0], num_steps=10)
    >>> y.numpy().round(4).ravel()  # exp(-t)
    array([1.    , 0.3679, 0.1353], dtype=float32)
    """
    options = Solver(method, num_steps, gradient, unroll, rtol, atol, max_num_steps)
    state = tf.nest.map_structure(_full_precision, initial_state)
    flat = tf.nest.flatten(state)
    times = checked_times(times, flat[0].dtype)

    def derivatives(t, flat_state):
        rates = function(t, tf.nest.pack_sequence_as(state, flat_state))
        return _checked_derivatives(rates, state, flat_state)

    if options.adaptive:
        if times.shape.rank == 2:
            raise ValueError(
                f"times of shape {tuple(times.shape)}: method='dopri5' has one step size for all rows and takes one "
                "row of times. Choose a fixed solver."
            )
        stepper = _Adaptive(rtol, atol, max_num_steps)
    else:
        stepper = _Fixed(TABLEAUS[method], num_steps, unroll)
    if gradient == "backprop":
        solution = stepper.solve(derivatives, times, flat)
    else:
        solution = _solve_with_adjoint(stepper, derivatives, times, flat)
    return tf.nest.pack_sequence_as(state, solution)


def _full_precision(x):
    x = tf.convert_to_tensor(x)
    if not x.dtype.is_floating:
        raise ValueError(f"initial_state has the dtype {x.dtype.name}; it must be a float.")
    return tf.cast(x, tf.float32) if x.dtype.size < 4 else x


def checked_times(times, dtype=tf.float32) -> tf.Tensor:
    """`times` as a tensor, whose shape is that of times of a solution, and whose values, where known, increase."""
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


def _checked_derivatives(rates, state, flat_state):
    try:
        tf.nest.assert_same_structure(state, rates)
    except (ValueError, TypeError) as error:
        raise ValueError(f"function must return the structure of the state: {error}") from None
    rates = [tf.cast(d, y.dtype) for d, y in zip(tf.nest.flatten(rates), flat_state, strict=True)]
    for d, y in zip(rates, flat_state, strict=True):
        if not d.shape.is_compatible_with(y.shape):
            raise ValueError(f"function returned derivatives of shape {d.shape} for a state of shape {y.shape}.")
    return rates


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
        rates = derivatives(tf.gather(times, i, axis=-1), y)
        first = 0 if times.shape.rank == 1 else 1  # of each row by itself, where each has times of its own
        return tf.add_n([tf.reduce_sum(w * d, range(first, d.shape.rank)) for w, d in zip(weights, rates, strict=True)])

    by_time = tf.map_fn(along, tf.range(times.shape[-1]), fn_output_signature=times.dtype)  # (n,) or (n, batch)
    return by_time if times.shape.rank == 1 else tf.transpose(by_time)


def _pull_back(derivatives, t, y, cotangent, variables):
    """`f(t, y)`, and the cotangent times the Jacobians of f by each of `y` and by each of the variables."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(y)
        tape.watch(variables)
        rates = derivatives(t, y)
    gradients = tape.gradient(rates, [*y, *variables], cotangent, unconnected_gradients="zero")
    gradients = [tf.convert_to_tensor(g) for g in gradients]  # of an embedding they are sparse
    return rates, gradients[: len(y)], gradients[len(y) :]


class _Fixed:
    """A Runge-Kutta method with the same number of equal steps between any two neighboring times."""

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
        """`a(t_0)`, without the gradient that reaches it at t_0 itself, and the gradient of each variable."""
        size = len(solution)

        def increments(t, h, state):
            y, a = state[:size], state[size:]
            # h is in the cotangent: where each row has an h of its own, a sum over rows could not be given it later.
            rates, by_state, by_variables = _pull_back(derivatives, t, y, [_times(h, x) for x in a], variables)
            return [*(_times(h, d) for d in rates), *(-x for x in by_state)], [-x for x in by_variables]

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
        """From one time to the next: `y`, and `sums`, integrals beside it that y does not depend on."""
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
        states, steps, reached = self._run(derivatives, times[0], y, times[1:])
        states = [tf.concat([tf.expand_dims(x, 0), later], 0) for x, later in zip(y, states, strict=True)]
        return self._require(reached, steps, "solution", states)

    def solve_adjoint(self, derivatives, times, solution, upstream, variables):
        """As that of the fixed solvers."""
        size = len(solution)

        def rates(s, state):  # of s = -t, which increases
            y, a = state[:size], state[size : 2 * size]
            derivative, by_state, by_variables = _pull_back(derivatives, -s, y, a, variables)
            return [*(-d for d in derivative), *by_state, *by_variables]

        def back(i, a, sums, steps, reached):
            state = [
                *(tf.gather(x, i) for x in solution),
                *(x + tf.gather(u, i) for x, u in zip(a, upstream, strict=True)),
            ]
            start, stop = tf.gather(times, i), tf.gather(times, i - 1)
            states, further, arrived = self._run(rates, -start, [*state, *sums], tf.expand_dims(-stop, 0))
            end = [x[0] for x in states]
            return i - 1, end[size : 2 * size], end[2 * size :], steps + further, reached & arrived

        last = times.shape[0] - 1
        a, sums = [tf.zeros_like(x[0]) for x in solution], [tf.zeros(v.shape, v.dtype) for v in variables]
        start = (tf.constant(last), a, sums, tf.constant(0), tf.constant(True))
        _, a, sums, steps, reached = tf.while_loop(lambda i, *_: i > 0, back, start, maximum_iterations=last)
        gradients = self._require(reached, steps, "adjoint", [*a, *sums])
        return gradients[:size], gradients[size:]

    def _run(self, derivatives, start, y, times):
        """The states at `times`, the number of steps, and whether the last time was reached."""
        solver = _bounded_dormand_prince()(self.max_num_steps, self.rtol, self.atol, 0.05 * (times[0] - start))
        results = solver.solve(lambda t, state: tuple(derivatives(t, list(state))), start, tuple(y), times)
        steps = results.diagnostics.num_ode_fn_evaluations // solver.ODE_FN_EVALS_PER_STEP
        return list(results.states), steps, tf.equal(results.diagnostics.status, 0)

    def _require(self, reached, steps, kind, tensors):
        words = (
            f"method='dopri5' gave up on the {kind}: rtol={self.rtol} and atol={self.atol} were not met within "
            f"max_num_steps={self.max_num_steps}. Allow more steps or a larger error, or see whether the derivatives "
            "are finite and not stiff. Steps taken:"
        )
        if is_eager(reached):
            if not bool(reached):
                raise SolverError(f"{words} {int(steps)}.")
            return tensors
        with tf.control_dependencies([tf.debugging.Assert(reached, [words, steps])]):
            return [tf.where(reached, x, tf.constant(float("nan"), x.dtype)) for x in tensors]


@functools.cache
def _bounded_dormand_prince():
    """TFP's solver with an end: its own `max_num_steps` is an assertion, which XLA drops and then steps for ever."""
    from tensorflow_probability import math  # it takes seconds to import

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
