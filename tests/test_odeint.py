"""Solvers of ordinary differential equations: order, adjoints, memory, errors, and torchdiffeq's results."""

import itertools
import math
import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dl.ops.odeint import TABLEAUS, SolverError, odeint

ORACLE = np.load(pathlib.Path(__file__).parent / "oracles" / "neural_ode.npz")
FIXED = list(TABLEAUS)


@pytest.fixture(scope="module")
def net():
    """A derivative that depends on the time, with weights, in float32."""
    keras.utils.set_random_seed(3)
    dense = keras.Sequential([keras.Input((3,)), keras.layers.Dense(6, "tanh"), keras.layers.Dense(3)])

    def derivative(t, y):
        return dense(y) * tf.reshape(tf.cos(t), (-1, 1))

    derivative.variables = dense.trainable_variables
    return derivative


STATE = tf.constant(np.random.default_rng(0).normal(size=(4, 3)), tf.float32)
TIMES = tf.constant([0.0, 0.3, 1.0])
TIMES_OF_ROWS = tf.constant([[0.0, 0.3, 1.0], [0.0, 0.5, 0.5], [0.1, 0.2, 2.0], [0.0, 1.0, 1.1]])


def gradients(net, times, **arguments):
    """The solution, and the gradients of a loss of all its times: for the state, the times and the weights."""

    def run(state, times):
        with tf.GradientTape() as tape:
            tape.watch([state, times])
            solution = odeint(net, state, times, **arguments)
            loss = tf.reduce_sum(solution[1:] ** 2 * [[[1.0]], [[2.0]]])
        return solution, *tape.gradient(loss, [state, times, *net.variables])

    return run


def assert_near(found, expected, tolerance):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance * np.abs(b).max(), rtol=0)


# The solvers


@pytest.mark.parametrize("method", FIXED)
def test_error_falls_with_the_order_of_the_method(method):
    """y' = y cos t has the solution exp(sin t)."""
    start, times = tf.ones((1,), tf.float64), [0.0, 2.0]
    ends = [
        odeint_graph(lambda t, y: y * tf.cos(t), start, times, dict(method=method, num_steps=n)) for n in (64, 128, 256)
    ]
    errors = [abs(float(end[0]) - math.exp(math.sin(2))) for end in ends]
    slopes = np.log2(errors[:-1]) - np.log2(errors[1:])
    assert slopes == pytest.approx(TABLEAUS[method].order, abs=0.1)


def test_error_of_the_adaptive_solver_follows_its_tolerance():
    """The tolerance is that of a step: the error of the whole may be some times larger."""
    errors = []
    for tolerance in (1e-3, 1e-5, 1e-7, 1e-9):
        solution = odeint(
            lambda t, y: y * tf.cos(t), tf.ones((1,), tf.float64), [0.0, 2.0], "dopri5", rtol=tolerance, atol=tolerance
        )
        errors.append(abs(float(solution[1, 0]) - math.exp(math.sin(2))))
        assert errors[-1] < 100 * tolerance
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("method", [*FIXED, "dopri5"])
def test_forward_then_backward_is_the_identity(method, net):
    steps = {"euler": 20_000, "midpoint": 500}.get(method, 30)
    options = dict(method=method, num_steps=steps, rtol=1e-6, atol=1e-6)
    end = odeint_graph(net, STATE, [0.0, 1.5], options)
    back = odeint_graph(lambda s, y: -net(1.5 - s, y), end, [0.0, 1.5], options)
    np.testing.assert_allclose(back, STATE, atol={"euler": 3e-4, "dopri5": 1e-4}.get(method, 2e-5))
    assert np.abs(end - STATE).max() > 0.3


def odeint_graph(function, state, times, options):
    return tf.function(lambda state: odeint(function, state, times, **options)[-1], autograph=False)(state)


@pytest.mark.parametrize("method", FIXED)
def test_rows_with_times_of_their_own_are_solved_as_if_alone(method, net):
    together = odeint(net, STATE, TIMES_OF_ROWS, method, num_steps=3)
    for row, times in enumerate(TIMES_OF_ROWS.numpy()):
        kept = np.r_[True, np.diff(times) > 0]
        alone = odeint(net, STATE[row : row + 1], times[kept], method, num_steps=3)
        np.testing.assert_allclose(together[:, row][kept], alone[:, 0], atol=1e-6)
        np.testing.assert_array_equal(together[2, row][~kept[2:].repeat(3)], together[1, row][~kept[2:].repeat(3)])


def test_states_may_be_nested_and_of_half_precision():
    state = {"a": tf.ones((2, 3), tf.float16), "b": (tf.zeros((2,), tf.float16),)}
    solution = odeint(lambda t, s: {"a": -s["a"], "b": (tf.reduce_sum(s["a"], -1),)}, state, [0.0, 1.0], num_steps=9)
    assert solution["a"].dtype == tf.float32
    np.testing.assert_allclose(solution["a"][1], np.full((2, 3), math.exp(-1)), atol=1e-5)
    np.testing.assert_allclose(solution["b"][0][1], np.full(2, 3 - 3 * math.exp(-1)), atol=1e-5)


# The gradients


def _methods_and_times():
    """All pairs; `make test` runs two methods once, and both kinds of times."""
    steps = {"midpoint": 90, "rk4": 8, "rk4_38": 8}
    kinds = {"one row of times": TIMES, "times of each row": TIMES_OF_ROWS}
    often = {("midpoint", "times of each row"), ("rk4", "one row of times")}
    for method, kind in itertools.product(steps, kinds):
        marks = [] if (method, kind) in often else [pytest.mark.slow]
        yield pytest.param(method, steps[method], kinds[kind], id=f"{method}, {kind}", marks=marks)


@pytest.mark.parametrize(("method", "steps", "times"), list(_methods_and_times()))
def test_adjoint_equals_backprop(method, steps, times, net):
    found, expected = (
        tf.function(gradients(net, times, method=method, num_steps=steps, gradient=kind), autograph=False)(STATE, times)
        for kind in ("adjoint", "backprop")
    )
    assert_near(found[:1], expected[:1], 1e-6)
    assert_near(found[1:], expected[1:], 1e-4)


def test_adjoint_approaches_backprop_with_the_order_of_the_method():
    """They are gradients of an equation and of its steps: the difference is the error of the steps."""
    weight = tf.Variable(0.7, dtype=tf.float64)

    def difference(method, steps):
        found = []
        for kind in ("adjoint", "backprop"):
            with tf.GradientTape() as tape:
                y = odeint(
                    lambda t, y: tf.sin(weight * y) + t, tf.ones((1,), "float64"), [0.0, 1.0], method, steps, kind
                )
                loss = tf.reduce_sum(y[1])
            found.append(float(tape.gradient(loss, weight)))
        return abs(found[0] - found[1])

    for method in FIXED:
        slope = math.log2(difference(method, 4) / difference(method, 8))
        assert slope == pytest.approx(TABLEAUS[method].order, abs=0.5)


# The battery's models train by backpropagation, under XLA too.
@pytest.mark.parametrize("kind", ["adjoint", pytest.param("backprop", marks=pytest.mark.slow)])
def test_gradients_under_xla_and_unrolled_are_the_same(kind, net):
    options = dict(method="midpoint", num_steps=3, gradient=kind)
    expected = gradients(net, TIMES, **options)(STATE, TIMES)
    compiled = tf.function(gradients(net, TIMES, **options), jit_compile=True, autograph=False)
    assert_near(compiled(STATE, TIMES), expected, 1e-5)
    assert_near(gradients(net, TIMES, unroll=True, **options)(STATE, TIMES), expected, 1e-5)


@pytest.mark.slow  # those of dopri5 are compared with torchdiffeq's in make test
@pytest.mark.parametrize("jit", [False, True])
def test_gradients_of_the_adaptive_solver(jit, net):
    expected = gradients(net, TIMES, method="rk4", num_steps=12, gradient="backprop")(STATE, TIMES)
    run = gradients(net, TIMES, method="dopri5", rtol=1e-6, atol=1e-7)
    assert_near(tf.function(run, jit_compile=jit, autograph=False)(STATE, TIMES), expected, 1e-4)


@pytest.mark.slow  # measures processes of their own
def test_memory_of_the_adjoint_does_not_grow_with_the_steps(net):
    """The largest array that XLA's program holds; benchmarks/neural_ode.py measures the process."""

    def largest(kind, steps):
        run = tf.function(gradients(net, TIMES, num_steps=steps, gradient=kind), jit_compile=True)
        program = run.experimental_get_compiler_ir(STATE, TIMES)(stage="optimized_hlo")
        shapes = re.findall(r"f32\[([\d,]+)\]", program)
        return max(math.prod(map(int, shape.split(","))) for shape in shapes)

    sizes = {kind: [largest(kind, steps) for steps in (50, 400)] for kind in ("adjoint", "backprop")}
    assert sizes["adjoint"][0] == sizes["adjoint"][1]
    assert sizes["backprop"][1] == 8 * sizes["backprop"][0] > sizes["adjoint"][1]


# What is wrong


def test_a_solver_that_does_not_converge_says_so_with_its_steps():
    stiff = dict(method="dopri5", max_num_steps=40)
    for function in (lambda t, y: -1e6 * (y - tf.cos(t)), lambda t, y: y * float("nan")):
        with pytest.raises(SolverError, match=r"max_num_steps=40\..*Steps taken: 41"):
            odeint(function, tf.ones((2,)), [0.0, 10.0], **stiff)
        compiled = tf.function(lambda f=function: odeint(f, tf.ones((2,)), [0.0, 10.0], **stiff), autograph=False)
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"(?s)max_num_steps=40.*Steps taken:\] \[41\]"):
            compiled()
    # XLA cannot raise: what did not converge must not look like a result.
    assert np.isnan(tf.function(compiled, jit_compile=True)()).all()


def test_an_adjoint_that_does_not_converge_says_so():
    """Forward, y' = -90 y is easy after a moment; backward it grows by exp(90)."""
    weight = tf.Variable(-90.0)

    @tf.function(autograph=False)
    def run():
        with tf.GradientTape() as tape:
            y = odeint(lambda t, y: weight * (y - 1.0), tf.constant([2.0]), [0.0, 1.0], "dopri5", max_num_steps=80)
            loss = tf.reduce_sum(y[1])
        return tape.gradient(loss, weight)

    with pytest.raises(tf.errors.InvalidArgumentError, match=r"(?s)gave up on the adjoint.*Steps taken:\] \[81\]"):
        run()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (dict(times=[0.0, 1.0, 0.5]), r"times=\[0\. +1\. +0\.5\] must be increasing"),
        (dict(times=[0.0, 0.0]), r"times=\[0\. 0\.\] must be increasing"),
        (dict(times=[[0.0, 1.0], [1.0, 0.0]]), "must be increasing"),
        (dict(times=[0.0]), r"times of shape \(1,\)"),
        (dict(times=[[0.0, 1.0], [0.0, 2.0]], method="dopri5"), r"times of shape \(2, 2\).*one row"),
        (dict(method="bdf"), "method='bdf'"),
        (dict(method="dopri5", gradient="backprop"), "gradient='backprop'"),
        (dict(num_steps=0), "num_steps=0"),
        (dict(function=lambda t, y: y[:1]), r"shape \(1, 3\) for a state of shape \(2, 3\)"),
        (dict(function=lambda t, y: (y, y)), "structure of the state"),
        (dict(initial_state=tf.ones((2, 3), tf.int32)), "int32"),
    ],
)
def test_bad_arguments_of_the_solver_are_named(changed, words):
    arguments = dict(function=lambda t, y: -y, initial_state=tf.ones((2, 3)), times=[0.0, 1.0])
    with pytest.raises(ValueError, match=words):
        odeint(**arguments | changed)


# torchdiffeq


def oracle_net():
    weights = {name: tf.Variable(ORACLE[f"ode/{name}"]) for name in ("A", "u", "b", "B")}

    def derivative(t, y):
        return tf.tanh(y @ weights["A"] + t * weights["u"] + weights["b"]) @ weights["B"]

    return derivative, weights


@pytest.mark.parametrize("method", ["euler", "midpoint", "rk4_38", "dopri5"])
def test_solutions_and_gradients_are_those_of_torchdiffeq(method):
    derivative, weights = oracle_net()
    state, times = tf.constant(ORACLE["ode/y0"]), tf.constant(ORACLE["ode/times"])
    with tf.GradientTape() as tape:
        tape.watch([state, times])
        solution = odeint(derivative, state, times, method, rtol=1e-9, atol=1e-10)
        loss = tf.reduce_sum(ORACLE["ode/weights"] * solution)
    sources = {"y0": state, "times": times, **weights}
    tolerance = 1e-6 if method == "dopri5" else 1e-12
    np.testing.assert_allclose(solution, ORACLE[f"ode/{method}/solution"], rtol=tolerance, atol=tolerance)
    for name, found in zip(sources, tape.gradient(loss, list(sources.values())), strict=True):
        expected = ORACLE[f"ode/{method}/d{name}"]
        if name == "times" and method != "dopri5":  # torchdiffeq integrates that of the first time, by the same steps
            found, expected = found[1:], expected[1:]
        np.testing.assert_allclose(found, expected, rtol=10 * tolerance, atol=10 * tolerance, err_msg=name)
