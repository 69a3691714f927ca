"""Continuous normalising flow: a density that a differential equation makes of the standard normal one.

    z(0) ~ N(0, 1),  dz/dt = f(t, z),  x = z(T)
    log p(x) = log N(z(0)) - int_0^T tr(df/dz) dt                              Chen et al., theorem 1 (eq. 8)
    tr(df/dz) = E e' (df/dz) e,  e of independent signs                        Hutchinson's estimate; FFJORD, eq. 7

Any net f will do: it needs no inverse, for the equation is solved backward, from x to z(0). f is a stack of layers
`(W h + b) sigmoid(g t + c) + d t`, with an activation between any two. The trace goes forward through them beside the
values: derivatives along every axis for the exact one, along e alone for the estimate. So a device can compute it too.

References: Chen, Rubanova, Bettencourt, Duvenaud 2018, "Neural Ordinary Differential Equations", arXiv:1806.07366,
section 4; Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud 2019, "FFJORD", arXiv:1810.01367.

Deviations: one flow, where FFJORD stacks several for images; the end time is fixed, where its code can learn it.
"""

import functools

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_dl.base import FunctionalModel, Layer, Signature
from keras_dl.checks import check_choice, check_size, check_sizes
from keras_dl.models.continuous.neural_ode import check_solver
from keras_dl.ops.odeint import ADAPTIVE, odeint

TRACES = ("exact", "hutchinson")
ACTIVATIONS = ("tanh", "softplus")

# FFJORD's net for two-dimensional densities (section 4.1 and its code): three hidden layers of 64, T = 0.5.
PRESETS = {"ffjord_toy": dict(dim=2, hidden_dims=(64, 64, 64), activation="tanh", method="dopri5", end_time=0.5)}


@keras.saving.register_keras_serializable(package="keras_dl")
class ConcatSquash(Layer):
    """`(W h + b) sigmoid(g t + c) + d t`, and the derivatives along given directions.

    Args:
        units: int.

    Call arguments:
        hidden: float, `(batch, features)`.
        tangents: float, `(batch or 1, directions, features)`: derivatives of `hidden`. None for none.
        time: float scalar.

    Returns:
        `(batch, units)`, and `(batch or 1, directions, units)` or None.
    """

    def __init__(self, units, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.units = units

    def build(self, hidden_shape):
        weight = functools.partial(self.add_weight, initializer="zeros")
        self.kernel = weight(shape=(hidden_shape[-1], self.units), initializer="glorot_uniform", name="kernel")
        self.bias = weight(shape=(self.units,), name="bias")
        self.gate_kernel = weight(shape=(self.units,), initializer="random_normal", name="gate_kernel")
        self.gate_bias = weight(shape=(self.units,), name="gate_bias")
        self.time_kernel = weight(shape=(self.units,), initializer="random_normal", name="time_kernel")

    def call(self, hidden, tangents, time):
        time = ops.cast(time, self.compute_dtype)
        gate = ops.sigmoid(time * self.gate_kernel + self.gate_bias)
        hidden = (ops.matmul(hidden, self.kernel) + self.bias) * gate + time * self.time_kernel
        return hidden, None if tangents is None else ops.matmul(tangents, self.kernel) * gate


@keras.saving.register_keras_serializable(package="keras_dl")
class Flow(Layer):
    """The equation of a flow, its solution in both directions, and the change of the log-density on the way.

    Args:
        dim, hidden_dims, activation, trace, method, num_steps, gradient, end_time, unroll, tolerance, mean, std, seed:
            as of `ContinuousFlow`.

    Call arguments:
        points: float, `(batch, dim)`.
        training: bool. With `trace="hutchinson"`, the trace is estimated in training.

    Returns:
        float32: `(batch, dim)`, where the points come from, and `(batch,)`, their log-density in nats.
    """

    def __init__(
        self,
        dim,
        hidden_dims,
        activation="tanh",
        trace="exact",
        method="rk4",
        num_steps=8,
        gradient="adjoint",
        end_time=1.0,
        unroll=False,
        tolerance=1e-5,
        mean=0.0,
        std=1.0,
        seed=None,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        self.dim = dim
        self.hidden_dims = hidden_dims
        self.activation = activation
        self.trace = trace
        self.method = method
        self.num_steps = num_steps
        self.gradient = gradient
        self.end_time = end_time
        self.unroll = unroll
        self.tolerance = tolerance
        self.mean = mean
        self.std = std
        self.seed = seed
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
                raw, hidden = hidden, getattr(ops, self.activation)(hidden)
                if tangents is not None:
                    slope = 1 - hidden * hidden if self.activation == "tanh" else ops.sigmoid(raw)
                    tangents = tangents * ops.expand_dims(slope, 1)
        return hidden, tangents

    def divergence(self, time, points, noise=None):
        """`f(t, z)`, and `tr(df/dz)`: `(batch, dim)` and `(batch,)`.

        Args:
            time: float scalar.
            points: float, `(batch, dim)`.
            noise: float, `(batch, dim)`: e of Hutchinson's estimate. None for the exact trace.
        """
        directions = np.eye(self.dim, dtype="float32")[None] if noise is None else ops.expand_dims(noise, 1)
        velocity, tangents = self.velocity(time, points, directions)
        return velocity, ops.sum(tangents * ops.cast(directions, tangents.dtype), axis=(1, 2))

    def signs(self, points):
        """Noise of Hutchinson's estimate for a batch of points: -1 and 1, evenly."""
        draw = keras.random.uniform(ops.shape(points), dtype="float32", seed=self.seed_generator)
        return ops.where(draw < 0.5, -1.0, 1.0)

    def _solve(self, function, state, time, fixed):
        fixed = fixed and self.method == ADAPTIVE
        return odeint(
            function,
            state,
            np.array([0.0, time], "float32"),
            method="rk4" if fixed else self.method,
            num_steps=self.num_steps,
            gradient=self.gradient,
            unroll=self.unroll,
            rtol=self.tolerance,
            atol=self.tolerance,
        )

    def to_latents(self, points, noise=None, time=None, fixed=False):
        """Follows points from `time` back to 0: where they come from, and their log-density at `time`, in nats.

        Args:
            points: float, `(batch, dim)`.
            noise: as of `divergence`.
            time: float in (0, end_time]; None for `end_time`.
            fixed: bool. Whether an adaptive solver is replaced by "rk4" with `num_steps`.

        Returns:
            float32, `(batch, dim)` and `(batch,)`.
        """
        time = self.end_time if time is None else time
        std = np.broadcast_to(np.asarray(self.std, "float32"), (self.dim,))
        points = (ops.cast(points, "float32") - np.asarray(self.mean, "float32")) / std

        def backward(s, state):
            velocity, trace = self.divergence(time - s, state[0], noise)
            return -velocity, -trace

        start = (points, ops.zeros_like(points[:, 0]))
        latents, change = (x[-1] for x in self._solve(backward, start, time, fixed))
        log_normal = -0.5 * ops.sum(ops.square(latents) + np.float32(np.log(2 * np.pi)), axis=-1)
        return latents, log_normal + change - np.float32(np.log(std).sum())

    def to_points(self, latents, time=None, fixed=False):
        """Follows latents from 0 to `time` (by default `end_time`): float32, `(batch, dim)`."""
        time = self.end_time if time is None else time

        def forward(t, state):
            return self.velocity(t, state)[0]

        points = self._solve(forward, ops.cast(latents, "float32"), time, fixed)[-1]
        return points * np.asarray(self.std, "float32") + np.asarray(self.mean, "float32")

    def call(self, points, training=False):
        estimate = training and self.trace == "hutchinson"
        return self.to_latents(points, self.signs(points) if estimate else None)

    def compute_output_spec(self, points, training=False):
        return keras.KerasTensor(points.shape, "float32"), keras.KerasTensor(points.shape[:1], "float32")


@keras.saving.register_keras_serializable(package="keras_dl")
class ContinuousFlow(FunctionalModel):
    """A density on vectors, fitted by maximum likelihood: a continuous normalising flow.

    Compile it with an optimizer alone: its loss is the negative log-likelihood, in nats a point. `distribution()` is
    the density as TensorFlow Probability's.

    Args:
        dim: int. Size of a point.
        hidden_dims: sequence of int. Hidden layers of the net f.
        activation: "tanh" or "softplus".
        trace: "exact", at `dim` times the cost; or "hutchinson", an estimate, in training alone, with one draw for a
            whole solution. Inference is always exact.
        method: "euler", "midpoint", "rk4", "rk4_38" or "dopri5": see `keras_dl.ops.odeint`. In place of "dopri5", a
            device is served "rk4".
        num_steps: int. Steps of a fixed solver, and of what is served.
        gradient: "adjoint", whose memory does not grow with the steps, or "backprop", through the steps.
        end_time: float, positive. T.
        unroll: bool. Whether fixed steps are written out in the graph instead of a loop: integer files need it.
        tolerance: float, positive. Relative and absolute error that "dopri5" allows in a step.
        mean: float, or one for each axis. Of the points: they are standardised first.
        std: float, or one for each axis.
        seed: int or None. Of the draws.

    Call arguments:
        points: float, `(batch, dim)`.

    Returns:
        dict of float32: `"latents"`, `(batch, dim)`, where the points come from; and `"log_prob"`, `(batch,)`, in nats.

    Raises:
        ValueError: if an argument is none of the above; it says which and what it was.
        keras_dl.ops.odeint.SolverError: if, called eagerly, "dopri5" gives up; the message has the number of steps.

    Example:

    >>> flow = ContinuousFlow(dim=2, hidden_dims=(8,), num_steps=2)
    >>> density = flow.distribution()
    >>> density.log_prob(density.sample(5, seed=1)).shape
    TensorShape([5])
    """

    presets = PRESETS

    def __init__(
        self,
        dim,
        hidden_dims=(64, 64, 64),
        activation="tanh",
        trace="exact",
        method="rk4",
        num_steps=8,
        gradient="adjoint",
        end_time=1.0,
        unroll=False,
        tolerance=1e-5,
        mean=0.0,
        std=1.0,
        seed=None,
        dtype=None,
        **kwargs,
    ):
        dim = check_size("dim", dim)
        hidden_dims = check_sizes("hidden_dims", hidden_dims)
        check_choice("activation", activation, ACTIVATIONS)
        check_choice("trace", trace, TRACES)
        check_solver(method, num_steps, gradient)
        for name, value in (("end_time", end_time), ("tolerance", tolerance), ("std", std)):
            if not np.all(np.asarray(value) > 0):
                raise ValueError(f"{name}={value!r} must be positive.")
        for name, value in (("mean", mean), ("std", std)):
            if np.shape(value) not in ((), (dim,)):
                raise ValueError(f"{name}={value!r} must be a number, or one for each of {dim} axes.")
        mean, std = (tuple(x) if np.ndim(x) else x for x in (mean, std))

        flow = Flow(
            dim,
            hidden_dims,
            activation=activation,
            trace=trace,
            method=method,
            num_steps=num_steps,
            gradient=gradient,
            end_time=end_time,
            unroll=unroll,
            tolerance=tolerance,
            mean=mean,
            std=std,
            seed=seed,
            dtype=dtype,
            name="flow",
        )
        points = keras.Input((dim,), name="points")
        latents, log_prob = flow(points)
        super().__init__(inputs=points, outputs={"latents": latents, "log_prob": log_prob}, dtype=dtype, **kwargs)

        self.dim = dim
        self.hidden_dims = hidden_dims
        self.activation = activation
        self.trace = trace
        self.method = method
        self.num_steps = num_steps
        self.gradient = gradient
        self.end_time = end_time
        self.unroll = unroll
        self.tolerance = tolerance
        self.mean = mean
        self.std = std
        self.seed = seed

    @property
    def flow(self):
        """The layer `Flow`: the net f, its trace, and the solutions in both directions."""
        return self.get_layer("flow")

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The negative log-likelihood of the points, averaged, in nats. There are no targets."""
        log_prob = y_pred["log_prob"]
        if sample_weight is not None:
            log_prob = log_prob * ops.cast(sample_weight, log_prob.dtype)
        return -ops.mean(log_prob)

    def log_prob(self, points, time=None):
        """The log-density of points in nats, `(batch,)`: at the end of the flow, or at an earlier time in (0, T]."""
        return self.flow.to_latents(points, time=time)[1]

    def sample(self, num_points, seed=None, time=None):
        """Draws from the density: float32, `(num_points, dim)`; from that at an earlier time in (0, T], if given."""
        seed = seed if seed is not None else self.flow.seed_generator
        return self.flow.to_points(keras.random.normal((num_points, self.dim), seed=seed), time)

    def distribution(self):
        """The density as a `tfp.distributions.Distribution` with `log_prob` and `sample`, of event shape `(dim,)`."""
        return _distribution_class()(self)

    def serving_signatures(self, batch_size=1):
        """What a device runs: dict of `Signature`.

        `density(points: float32, (batch_size, dim))` returns `{"log_prob": float32, (batch_size,)}`, in nats;
        `sample(noise: float32, (batch_size, dim))` makes `points` of standard normal noise, which the device draws.
        """

        def density(points):
            return {"log_prob": self.flow.to_latents(points, fixed=True)[1]}

        def sample(noise):
            return {"points": self.flow.to_points(noise, fixed=True)}

        points, noise = (
            keras.KerasTensor((batch_size, self.dim), "float32", name=name) for name in ("points", "noise")
        )
        return {"density": Signature(density, {"points": points}), "sample": Signature(sample, {"noise": noise})}


@functools.cache
def _distribution_class():
    """TFP takes seconds to import: only what needs it waits for it."""
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
            found = self.model.log_prob(tf.reshape(points, (-1, self.model.dim)))
            return tf.reshape(found, tf.shape(points)[:-1])

        def _sample_n(self, n, seed=None):
            return self.model.flow.to_points(self.base.sample(n, seed=seed))

    return FlowDistribution
