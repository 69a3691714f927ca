"""Continuous normalizing flow: a differential equation transforms the standard normal density into another one.

    z(0) ~ N(0, 1),  dz/dt = f(t, z),  x = z(T)
    log p(x) = log N(z(0)) - int_0^T tr(df/dz) dt                              Chen et al., theorem 1 (eq. 8)
    tr(df/dz) = E e' (df/dz) e,  e of independent signs                        Hutchinson's estimate; FFJORD, eq. 7

f can be any net. It needs no inverse, since the equation is solved backward, from x to z(0). Here f is a stack of
layers `(W h + b) sigmoid(g t + c) + d t`, with an activation between any two. The trace is computed in forward mode
beside the values: derivatives along every axis for the exact trace, only along e for the estimate. So a device can
compute it too.

References: Chen, Rubanova, Bettencourt, Duvenaud 2018, "Neural Ordinary Differential Equations", arXiv:1806.07366,
section 4; Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud 2019, "FFJORD", arXiv:1810.01367.

Deviations: one flow, where FFJORD stacks several for images; the end time is fixed, where its code can learn it.
Kernels start at Glorot's uniform distribution; that code has torch's defaults.
"""

import functools

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_dl.arguments import OneOf, PerChannel, Positive, PositivePerChannel, Size, Sizes, arguments
from keras_dl.base import FunctionalModel, Layer
from keras_dl.checks import check_size
from keras_dl.models.continuous.solving import SolvingLayer, until
from keras_dl.ops.odeint import AnySolver, Gradient, Method, Solver
from keras_dl.signatures import Signature

Squashing = OneOf("tanh", "softplus")
Trace = OneOf("exact", "hutchinson")

# FFJORD's net for two-dimensional densities (section 4.1 and its code): three hidden layers of 64, T = 0.5.
PRESETS = {"ffjord_toy": dict(dim=2, hidden_dims=(64, 64, 64), activation="tanh", method="dopri5", end_time=0.5)}


@keras.saving.register_keras_serializable(package="keras_dl")
class ConcatSquash(Layer):
    """`(W h + b) sigmoid(g t + c) + d t`, and the derivatives along given directions.

    Args:
        units: int.

    Call arguments:
        hidden: float, `(batch, features)`.
        tangents: float, `(batch or 1, directions, features)`: derivatives of `hidden`; or None.
        time: float scalar.

    Returns:
        `(batch, units)`, and `(batch or 1, directions, units)` or None.
    """

    @arguments
    def __init__(self, units: Size, **kwargs):
        super().__init__(autocast=False, **kwargs)

    def build(self, hidden_shape):
        weight = functools.partial(self.add_weight, initializer="zeros")
        self.kernel = weight(shape=(hidden_shape[-1], self.units), initializer="glorot_uniform", name="kernel")
        self.bias = weight(shape=(self.units,), name="bias")
        self.gate_kernel = weight(shape=(self.units,), initializer="random_normal", name="gate_kernel")
        self.gate_bias = weight(shape=(self.units,), name="gate_bias")
        self.time_kernel = weight(shape=(self.units,), initializer="random_normal", name="time_kernel")

    def call(self, hidden, tangents, time):
        time = ops.cast(time, self.compute_dtype)
        gate = ops.sigmoid(time * self.gate_kernel + self.gate_bias)  # (units,)
        hidden = (ops.matmul(hidden, self.kernel) + self.bias) * gate + time * self.time_kernel
        return hidden, None if tangents is None else ops.matmul(tangents, self.kernel) * gate


@keras.saving.register_keras_serializable(package="keras_dl")
class Flow(SolvingLayer):
    """The equation of a flow, its solution in both directions, and the change of the log-density on the way.

    Args:
        dim, hidden_dims, activation, trace, end_time, mean, std, seed: as of `ContinuousFlow`.
        solver: `keras_dl.ops.odeint.Solver`.

    Call arguments:
        points: float, `(batch, dim)`.
        training: bool. With `trace="hutchinson"`, the trace is estimated in training.

    Returns:
        float32: `(batch, dim)`, the latents of the points, and `(batch,)`, their log-density in nats.
    """

    @arguments
    def __init__(
        self,
        dim: Size,
        hidden_dims: Sizes,
        solver: AnySolver,
        activation: Squashing = "tanh",
        trace: Trace = "exact",
        end_time: Positive = 1.0,
        mean: PerChannel = 0.0,
        std: PositivePerChannel = 1.0,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        for name, value in (("mean", mean), ("std", std)):
            if isinstance(value, tuple) and len(value) != dim:
                raise ValueError(f"{name}={value!r} must be a number, or one for each of {dim} axes.")
        self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, points_shape):
        widths = (*self.hidden_dims, self.dim)
        self.stack = [ConcatSquash(n, dtype=self.dtype_policy, name=f"squash_{i}") for i, n in enumerate(widths)]
        for layer, size in zip(self.stack, (self.dim, *self.hidden_dims), strict=True):
            layer.build((None, size))

    def velocity(self, time, points, directions=None):
        """`f(t, z)`, and its derivatives along directions.

        Args:
            time: float scalar.
            points: float, `(batch, dim)`.
            directions: float, `(batch or 1, n, dim)`, or None.

        Returns:
            `(batch, dim)`, and `(batch, n, dim)` or None: the Jacobian times each direction. The compute dtype.
        """
        hidden = ops.cast(points, self.compute_dtype)
        tangents = None if directions is None else ops.cast(directions, self.compute_dtype)
        for i, layer in enumerate(self.stack):
            hidden, tangents = layer(hidden, tangents, time)
            if i < len(self.hidden_dims):
                raw, hidden = hidden, getattr(ops, self.activation)(hidden)  # (batch, width)
                if tangents is not None:
                    slope = 1 - hidden * hidden if self.activation == "tanh" else ops.sigmoid(raw)
                    tangents = tangents * ops.expand_dims(slope, 1)  # (batch, n, width)
        return hidden, tangents

    def divergence(self, time, points, noise=None):
        """`f(t, z)`, and `tr(df/dz)`: `(batch, dim)` and `(batch,)`.

        Args:
            time: float scalar.
            points: float, `(batch, dim)`.
            noise: float, `(batch, dim)`: e of Hutchinson's estimate. None for the exact trace.
        """
        # (1, dim, dim), all axes, or (batch, 1, dim)
        directions = np.eye(self.dim, dtype="float32")[None] if noise is None else ops.expand_dims(noise, 1)
        velocity, tangents = self.velocity(time, points, directions)
        return velocity, ops.sum(tangents * ops.cast(directions, tangents.dtype), axis=(1, 2))

    def signs(self, points):
        """Noise of Hutchinson's estimate for a batch of points: -1 and 1, evenly."""
        draw = keras.random.uniform(ops.shape(points), dtype="float32", seed=self.seed_generator)
        return ops.where(draw < 0.5, -1.0, 1.0)

    def to_latents(self, points, noise=None, time: float | None = None):
        """Follows points from `time` back to 0: their latents, and their log-density at `time`, in nats.

        Args:
            points: float, `(batch, dim)`.
            noise: as of `divergence`.
            time: float in (0, end_time]; None for `end_time`.

        Returns:
            float32, `(batch, dim)` and `(batch,)`.
        """
        times = until(self.end_time if time is None else time)
        return self._solved(self._backward, times, ops.cast(points, "float32"), noise)

    def _backward(self, times, points, noise):
        std = np.broadcast_to(np.asarray(self.std, "float32"), (self.dim,))
        points = (points - np.asarray(self.mean, "float32")) / std

        def derivative(s, state):
            velocity, trace = self.divergence(times[-1] - s, state[0], noise)
            return -velocity, -trace

        start = (points, ops.zeros_like(points[:, 0]))
        latents, change = (x[-1] for x in self.solver.solve(derivative, start, times))  # (batch, dim), (batch,)
        log_normal = -0.5 * ops.sum(ops.square(latents) + np.float32(np.log(2 * np.pi)), axis=-1)
        return latents, log_normal + change - np.float32(np.log(std).sum())

    def to_points(self, latents, time: float | None = None):
        """Follows latents from 0 to `time` (by default `end_time`): float32, `(batch, dim)`."""
        times = until(self.end_time if time is None else time)
        return self._solved(self._forward, times, ops.cast(latents, "float32"))

    def _forward(self, times, latents):
        points = self.solver.solve(lambda t, state: self.velocity(t, state)[0], latents, times)[-1]  # (batch, dim)
        return points * np.asarray(self.std, "float32") + np.asarray(self.mean, "float32")

    def call(self, points, training=False):
        estimate = training and self.trace == "hutchinson"
        return self.to_latents(points, self.signs(points) if estimate else None)

    def compute_output_spec(self, points, training=False):
        return keras.KerasTensor(points.shape, "float32"), keras.KerasTensor(points.shape[:1], "float32")


@keras.saving.register_keras_serializable(package="keras_dl")
class ContinuousFlow(FunctionalModel):
    """A density on vectors, fitted by maximum likelihood: a continuous normalizing flow.

    Compile it with an optimizer and no loss: its own loss is the negative log-likelihood, in nats per point.
    `distribution()` returns the density as a distribution of TensorFlow Probability.

    Args:
        dim: int. Size of a point.
        hidden_dims: sequence of int. Hidden layers of the net f.
        activation: "tanh" or "softplus".
        trace: "exact", at `dim` times the cost; or "hutchinson", an estimate for training, with one draw for a whole
            solution. Inference is always exact.
        method: "euler", "midpoint", "rk4", "rk4_38" or "dopri5": see `keras_dl.ops.odeint`. Devices run "rk4" in place
            of "dopri5".
        num_steps: int. Steps of a fixed solver, and of the served functions.
        gradient: "adjoint", whose memory does not grow with the steps, or "backprop", through the steps.
        end_time: float, positive. T.
        unroll: bool. Whether fixed steps are written out in the graph instead of a loop: integer files need it.
        tolerance: float, positive. Relative and absolute error that "dopri5" allows in a step.
        mean: float, or one per axis, in units of the points. Subtracted from them first.
        std: float, or one per axis, in units of the points. Divides them.
        seed: int or None. Of the draws.

    Call arguments:
        points: float, `(batch, dim)`.

    Returns:
        dict of float32: `"latents"`, `(batch, dim)`, z(0) of the points; and `"log_prob"`, `(batch,)`, in nats.

    Raises:
        ValueError: if an argument is out of its range; the message has its name and value.
        keras_dl.ops.odeint.SolverError: if, called eagerly, "dopri5" gives up; the message has the number of steps.

    Example:

    >>> flow = ContinuousFlow(dim=2, hidden_dims=(8,), num_steps=2)
    >>> density = flow.distribution()
    >>> density.log_prob(density.sample(5, seed=1)).shape
    TensorShape([5])
    """

    presets = PRESETS
    has_own_loss = True

    @arguments
    def __init__(
        self,
        dim: Size,
        hidden_dims: Sizes = (64, 64, 64),
        activation: Squashing = "tanh",
        trace: Trace = "exact",
        method: Method = "rk4",
        num_steps: Size = 8,
        gradient: Gradient = "adjoint",
        end_time: Positive = 1.0,
        unroll: bool = False,
        tolerance: Positive = 1e-5,
        mean: PerChannel = 0.0,
        std: PositivePerChannel = 1.0,
        seed: int | None = None,
        dtype=None,
        **kwargs,
    ):
        solver = Solver(method, num_steps, gradient, unroll, tolerance, tolerance)
        points = keras.Input((dim,), name="points")
        flow = Flow(dim, hidden_dims, solver, activation, trace, end_time, mean, std, seed, name="flow")
        latents, log_prob = flow(points)  # (batch, dim), (batch,)
        super().__init__(inputs=points, outputs={"latents": latents, "log_prob": log_prob}, **kwargs)

    @property
    def flow(self) -> Flow:
        """The layer `Flow`: the net f, its trace, and the solutions in both directions."""
        return self.get_layer("flow")

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The negative log-likelihood of the points, averaged, in nats. There are no targets."""
        log_prob = y_pred["log_prob"]
        if sample_weight is not None:
            log_prob = log_prob * ops.cast(sample_weight, log_prob.dtype)
        return -ops.mean(log_prob)

    def log_prob(self, points, time: float | None = None):
        """The log-density of points in nats, `(batch,)`: at the end of the flow, or at an earlier time in (0, T]."""
        return self.flow.to_latents(points, time=time)[1]

    def sample(self, num_points: int, seed=None, time: float | None = None):
        """Draws from the density: float32, `(num_points, dim)`.

        Args:
            num_points: int, at least 1.
            seed: int or `keras.random.SeedGenerator`; None for the model's own.
            time: float in (0, T]. Draws from the density at an earlier time of the flow. Default: T.

        Raises:
            ValueError: if `num_points` is less than 1.
        """
        check_size("num_points", num_points)
        seed = seed if seed is not None else self.flow.seed_generator
        return self.flow.to_points(keras.random.normal((num_points, self.dim), seed=seed), time)

    def distribution(self):
        """The density as a `tfp.distributions.Distribution` with `log_prob` and `sample`, of event shape `(dim,)`."""
        return _distribution_class()(self)

    def serving_signatures(self, batch_size: int = 1) -> dict[str, Signature]:
        """The entry points of a device: dict of `Signature`.

        `density(points: float32, (batch_size, dim))` returns `{"log_prob": float32, (batch_size,)}`, in nats;
        `sample(noise: float32, (batch_size, dim))` makes `points` of standard normal noise, which the device draws.
        """

        def density(points):
            with self.flow.fixed_steps():
                return {"log_prob": self.flow.to_latents(points)[1]}

        def sample(noise):
            with self.flow.fixed_steps():
                return {"points": self.flow.to_points(noise)}

        points, noise = (
            keras.KerasTensor((batch_size, self.dim), "float32", name=name) for name in ("points", "noise")
        )
        return {"density": Signature(density, {"points": points}), "sample": Signature(sample, {"noise": noise})}


@functools.cache
def _distribution_class():
    """A class of TensorFlow Probability, which takes seconds to import, so that it is imported where it is used."""
    from tensorflow_probability import distributions as tfd

    class FlowDistribution(tfd.Distribution):
        """The density of a `ContinuousFlow`."""

        def __init__(self, model, name="ContinuousFlow"):
            parameters = dict(locals())
            super().__init__(
                dtype=tf.float32,
                reparameterization_type=tfd.FULLY_REPARAMETERIZED,
                validate_args=False,
                allow_nan_stats=False,
                parameters=parameters,
                name=name,
            )
            self.model = model
            self.base = tfd.MultivariateNormalDiag(tf.zeros(model.dim))

        @classmethod
        def _parameter_properties(cls, dtype, num_classes=None):
            return {}

        def _batch_shape(self):
            return tf.TensorShape([])

        def _event_shape(self):
            return tf.TensorShape([self.model.dim])

        def _log_prob(self, points):
            log_prob = self.model.log_prob(tf.reshape(points, (-1, self.model.dim)))
            return tf.reshape(log_prob, tf.shape(points)[:-1])

        def _sample_n(self, n, seed=None):
            return self.model.flow.to_points(self.base.sample(n, seed=seed))

    return FlowDistribution
