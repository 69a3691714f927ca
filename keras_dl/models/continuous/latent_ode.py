"""Latent ODE: a series seen at irregular times is one path of a differential equation, seen through noise.

    z(0) ~ N(0, 1),  dz/dt = f(z),  x(t) ~ N(decoder(z(t)), noise_std^2)
    q(z(0) | x) = N(mean, exp(log_variance)) = recognition net(x at its times)
    ELBO = E_q log p(x | z(0)) - KL(q | p)

The recognition net reads the series backward, from its last observation to time 0. "ode_rnn" follows an equation of its
own between observations, `dh/dt = g(h)`, and updates h by a GRU at each one. "rnn" is only the GRU, whose inputs
include the time between the observations. Each row has its own times. Rows are padded; masks mark the observations.

References: Chen, Rubanova, Bettencourt, Duvenaud 2018, "Neural Ordinary Differential Equations", arXiv:1806.07366,
section 5; Rubanova, Chen, Duvenaud 2019, "Latent ODEs for Irregularly-Sampled Time Series", arXiv:1907.03907,
algorithm 1 and section 3.2.

Deviations: Chen's recognition net is a plain tanh cell that sees no times; here it is a GRU that does. Both papers
solve at the times of all rows together with adaptive steps; here each row has its own times and a fixed number of
steps between any two, so that shapes are static. No Poisson process of the times (Rubanova, section 3.3). Kernels
start at Glorot's uniform distribution; Rubanova's code draws them from a normal one with a deviation of 0.1.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from keras_dl.arguments import NumberIn, OneOf, Positive, Size, Sizes, SizesAtLeast, arguments
from keras_dl.base import FunctionalModel, Layer
from keras_dl.ops.odeint import AnySolver, FixedMethod, Gradient, Solver
from keras_dl.signatures import Signature

Encoder = OneOf("ode_rnn", "rnn")


def _mlp(hidden_dims, activation, inputs, outputs, dtype):
    """A list of dense layers, built for vectors of width `inputs`."""
    stack = [layers.Dense(n, activation=activation, dtype=dtype, name=f"dense_{i}") for i, n in enumerate(hidden_dims)]
    stack.append(layers.Dense(outputs, dtype=dtype, name="outputs"))
    for layer in stack:
        layer.build((None, inputs))
        inputs = layer.units
    return stack


def _run(stack, x):
    for layer in stack:
        x = layer(x)
    return x


@keras.saving.register_keras_serializable(package="keras_dl")
class SeriesEncoder(Layer):
    """Reads an irregular series backward in time, from its last observation to time 0.

    Args:
        kind: "ode_rnn" or "rnn".
        units: int. Size of the state h.
        hidden_dims: sequence of int. Hidden layers of g.
        latent_dim: int.
        solver: `keras_dl.ops.odeint.Solver` with fixed steps.

    Call arguments:
        values: float, `(batch, length, features)`.
        mask: bool, `(batch, length, features)`, True = observed.
        times: float, `(batch, length)`, at least 0, increasing among the observed.

    Returns:
        float32, `(batch, latent_dim)` twice: mean and log-variance of `q(z(0))`.

    Raises:
        ValueError: if, called eagerly, the times are not as above.
    """

    @arguments
    def __init__(
        self,
        kind: Encoder,
        units: Size,
        hidden_dims: Sizes,
        latent_dim: Size,
        solver: AnySolver,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)

    def build(self, values_shape, mask_shape=None, times_shape=None):
        policy = self.dtype_policy
        self.cell = layers.GRUCell(self.units, dtype=policy, name="cell")
        self.cell.build((None, 2 * values_shape[-1] + (self.kind == "rnn")))
        follows = self.kind == "ode_rnn"
        self.drift = _mlp(self.hidden_dims, "tanh", self.units, self.units, policy) if follows else []
        self.posterior = layers.Dense(2 * self.latent_dim, dtype="float32", name="posterior")
        self.posterior.build((None, self.units))

    def call(self, values, mask, times):
        _check_observed(times, mask)
        observed = ops.any(mask, axis=-1)  # (batch, length)
        times = ops.where(observed, ops.cast(times, "float32"), 0.0)
        # (batch, length, 2 * features)
        inputs = ops.concatenate([ops.where(mask, ops.cast(values, "float32"), 0.0), ops.cast(mask, "float32")], -1)

        def back(i, hidden, later):
            now, here = ops.take(times, i, axis=1), ops.take(observed, i, axis=1)
            gap = ops.where(here, later - now, 0.0)  # (batch,)
            x = ops.take(inputs, i, axis=1)  # (batch, 2 * features)
            if self.kind == "rnn":
                x = ops.concatenate([x, ops.expand_dims(gap, -1)], -1)  # (batch, 2 * features + 1)
            hidden = self._drift(hidden, gap)  # (batch, units)
            updated, _ = self.cell(ops.cast(x, self.compute_dtype), [ops.cast(hidden, self.compute_dtype)])
            hidden = ops.where(ops.expand_dims(here, -1), ops.cast(updated, "float32"), hidden)
            return i - 1, hidden, ops.where(here, now, later)

        last = times.shape[1] - 1
        # The reading starts at the last observation: no time passes before it.
        state = (last, ops.zeros((ops.shape(times)[0], self.units)), ops.max(times, axis=1))
        if self.solver.unroll:
            for _ in range(last + 1):
                state = back(*state)
        else:
            state = tf.while_loop(lambda i, *_: i >= 0, back, state, maximum_iterations=last + 1)
        _, hidden, first = state
        # (batch, latent_dim) each
        mean, log_variance = ops.split(self.posterior(self._drift(hidden, first)), 2, axis=-1)
        return mean, log_variance

    def _drift(self, hidden, gap):
        """h, `gap` earlier: g is followed backward in time."""
        if self.kind == "rnn":
            return hidden
        path = self.solver.solve(
            lambda _, h: _run(self.drift, ops.cast(h, self.compute_dtype)),
            hidden,
            ops.stack([ops.zeros_like(gap), gap], axis=-1),  # (batch, 2)
        )
        return path[-1]  # (batch, units)

    def compute_output_spec(self, values, mask, times):
        return tuple(keras.KerasTensor((values.shape[0], self.latent_dim), "float32") for _ in range(2))


def _check_observed(times, mask):
    times, mask = tf.get_static_value(times), tf.get_static_value(mask)
    if times is None or mask is None:
        return
    for row, (moments, seen) in enumerate(zip(times, mask.any(-1), strict=True)):
        moments = moments[seen]
        if not ((np.diff(moments) > 0).all() and (moments >= 0).all()):
            raise ValueError(
                f"times of row {row}, {np.array2string(moments, threshold=12)}, must be at least 0 and increasing "
                "among the observed."
            )


@keras.saving.register_keras_serializable(package="keras_dl")
class LatentPath(Layer):
    """Follows `dz/dt = f(z)` from time 0 to the times of each row, and decodes z at each of them.

    Args:
        hidden_dims: sequence of int. Hidden layers of f.
        decoder_dims: sequence of int. Hidden layers of the decoder.
        num_features: int.
        solver: `keras_dl.ops.odeint.Solver` with fixed steps.

    Call arguments:
        latents: float, `(batch, latent_dim)`, at time 0.
        times: float, `(batch, n)`, at least 0, not decreasing.

    Returns:
        float32, `(batch, n, num_features)`.
    """

    @arguments
    def __init__(
        self,
        hidden_dims: Sizes,
        decoder_dims: SizesAtLeast(allow_empty=True),
        num_features: Size,
        solver: AnySolver,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)

    def build(self, latents_shape, times_shape=None):
        latent_dim, policy = latents_shape[-1], self.dtype_policy
        self.drift = _mlp(self.hidden_dims, "tanh", latent_dim, latent_dim, policy)
        self.decoder = _mlp(self.decoder_dims, "relu", latent_dim, self.num_features, policy)

    def solve(self, latents, times):
        """The path itself, at `times`: float32, `(batch, n, latent_dim)`."""
        times = ops.cast(times, "float32")
        path = self.solver.solve(
            lambda _, z: _run(self.drift, ops.cast(z, self.compute_dtype)),
            ops.cast(latents, "float32"),
            ops.concatenate([ops.zeros_like(times[:, :1]), times], axis=-1),  # (batch, 1 + n)
        )  # (1 + n, batch, latent_dim)
        return ops.transpose(path[1:], (1, 0, 2))  # (batch, n, latent_dim)

    def call(self, latents, times):
        path = self.solve(latents, times)
        return ops.cast(_run(self.decoder, ops.cast(path, self.compute_dtype)), "float32")

    def compute_output_spec(self, latents, times):
        return keras.KerasTensor((*times.shape, self.num_features), "float32")


@keras.saving.register_keras_serializable(package="keras_dl")
class LatentODE(FunctionalModel):
    """Fits, fills in and continues series that are seen at irregular times.

    Compile it with an optimizer and no loss: its own loss is the negative ELBO, in nats per series. Train it by
    `fit(inputs, targets)`, with inputs as below and targets `(batch, num_queries, num_features)` at `query_times`. The
    sample weights, `(batch, num_queries, num_features)` or `(batch, num_queries)`, are 0 where there is no target. A
    row with fewer times than there is room for repeats its last one.

    Args:
        num_features: int.
        length: int. Room for observations in a row.
        num_queries: int. Room for the times of the predictions.
        latent_dim: int. Size of z.
        encoder: "ode_rnn" or "rnn".
        encoder_dim: int. Size of the recognition net's state.
        hidden_dims: sequence of int. Hidden layers of f and of g, tanh.
        decoder_dims: sequence of int. Hidden layers of the decoder, ReLU.
        noise_std: float, positive. Of the observations.
        num_samples: int. Draws of z per series in the loss, averaged.
        kl_weight: float, at least 0.
        method: "euler", "midpoint", "rk4" or "rk4_38": see `keras_dl.ops.odeint`. Not "dopri5", which has
            one step size for all rows, while each row has its own times.
        num_steps: int. Steps between two neighboring times.
        gradient: "adjoint" or "backprop", of the path that is decoded.
        unroll: bool. Whether loops are written out in the graph. Integer files need this.
        seed: int or None. Of the draws of z.

    Call arguments:
        inputs: dict of `mask`, bool, `(batch, length, num_features)`, True = observed; `query_times`, float,
            `(batch, num_queries)`, at least 0, not decreasing; `times`, float, `(batch, length)`, at least 0,
            increasing among the observed; `values`, float, `(batch, length, num_features)`. Masked values and times
            can be any numbers.

    Returns:
        dict of float32: `"log_variance"` and `"mean"` of `q(z(0))`, `(batch, latent_dim)`, and `"predictions"`,
        `(batch, num_queries, num_features)`: the values expected at the query times for `z(0) = mean`.

    Raises:
        ValueError: if an argument is out of its range, or if, called eagerly, the times of a row do not increase.

    Example:

    >>> model = LatentODE(num_features=2, length=5, num_queries=3)
    >>> series = dict(values=np.ones((1, 5, 2)), mask=np.ones((1, 5, 2), bool), times=[[0.1, 0.2, 0.5, 0.6, 1.0]])
    >>> series = series | dict(query_times=[[1.0, 1.5, 2.0]])
    >>> model({name: ops.array(x) for name, x in series.items()})["predictions"].shape
    TensorShape([1, 3, 2])
    """

    has_own_loss = True

    @arguments
    def __init__(
        self,
        num_features: Size,
        length: Size,
        num_queries: Size,
        latent_dim: Size = 4,
        encoder: Encoder = "ode_rnn",
        encoder_dim: Size = 25,
        hidden_dims: Sizes = (20, 20),
        decoder_dims: SizesAtLeast(allow_empty=True) = (20,),
        noise_std: Positive = 0.3,
        num_samples: Size = 1,
        kl_weight: NumberIn(0) = 1.0,
        method: FixedMethod = "rk4",
        num_steps: Size = 2,
        gradient: Gradient = "adjoint",
        unroll: bool = False,
        seed: int | None = None,
        dtype=None,
        **kwargs,
    ):
        inputs = dict(
            mask=keras.Input((length, num_features), dtype="bool", name="mask"),
            query_times=keras.Input((num_queries,), name="query_times"),
            times=keras.Input((length,), name="times"),
            values=keras.Input((length, num_features), name="values"),
        )
        # The loop over observations keeps h at each of them anyway: the adjoint would save no memory.
        solver = Solver(method, num_steps, "backprop", unroll)
        encode = SeriesEncoder(encoder, encoder_dim, hidden_dims, latent_dim, solver, name="encoder")
        mean, log_variance = encode(inputs["values"], inputs["mask"], inputs["times"])  # each (batch, latent_dim)
        solver = Solver(method, num_steps, gradient, unroll)
        path = LatentPath(hidden_dims, decoder_dims, num_features, solver, name="path")
        predictions = path(mean, inputs["query_times"])  # (batch, num_queries, num_features)
        outputs = dict(log_variance=log_variance, mean=mean, predictions=predictions)
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)

        self.seed_generator = keras.random.SeedGenerator(seed)

    def encode(self, values, mask, times):
        """`mean` and `log_variance` of `q(z(0))`, float32, `(batch, latent_dim)`, of series as `call` takes them."""
        return self.get_layer("encoder")(values, mask, times)

    def decode(self, latents, times):
        """The values expected at `times`, `(batch, n)`, of paths that begin at `latents`, `(batch, latent_dim)`."""
        return self.get_layer("path")(latents, times)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The negative ELBO of draws of z(0), in nats, averaged over series. `y` are the values at the query times."""
        mean, log_variance = y_pred["mean"], y_pred["log_variance"]
        noise = keras.random.normal((self.num_samples, *ops.shape(mean)), seed=self.seed_generator)
        # (num_samples * batch, latent_dim)
        latents = ops.reshape(mean + ops.exp(0.5 * log_variance) * noise, (-1, self.latent_dim))
        decoded = self.decode(latents, ops.tile(x["query_times"], (self.num_samples, 1)))
        decoded = ops.reshape(decoded, (self.num_samples, *ops.shape(y)))  # (num_samples, batch, num_queries, features)
        error = (ops.cast(y, "float32") - decoded) / self.noise_std
        likelihood = -0.5 * ops.square(error) - np.float32(np.log(self.noise_std * np.sqrt(2 * np.pi)))
        if sample_weight is not None:
            weight = ops.cast(sample_weight, "float32")
            likelihood = likelihood * (ops.expand_dims(weight, -1) if len(weight.shape) == 2 else weight)
        kl = 0.5 * ops.sum(ops.exp(log_variance) + ops.square(mean) - 1.0 - log_variance, axis=-1)  # (batch,)
        return ops.mean(self.kl_weight * kl - ops.mean(ops.sum(likelihood, axis=(2, 3)), axis=0))

    def serving_signatures(self, batch_size: int = 1) -> dict[str, Signature]:
        """The entry points of a device: dict of `Signature`.

        `encode(values, mask, times)` returns `mean` and `log_variance` of `q(z(0))`, float32,
        `(batch_size, latent_dim)`; `decode(latents: float32, (batch_size, latent_dim); times: float32, (batch_size,
        num_queries))` returns `{"predictions": float32, (batch_size, num_queries, num_features)}`; `predict(values,
        mask, times, query_times)` returns the same of the mean. Inputs are as `call` takes them.
        """

        def encode(values, mask, times):
            mean, log_variance = self.encode(values, mask, times)
            return {"mean": mean, "log_variance": log_variance}

        def decode(latents, times):
            return {"predictions": self.decode(latents, times)}

        def predict(values, mask, times, query_times):
            return {"predictions": self.decode(self.encode(values, mask, times)[0], query_times)}

        def inputs(**shapes):
            dtypes = {"mask": "bool"}
            return {
                name: keras.KerasTensor((batch_size, *shape), dtypes.get(name, "float32"), name=name)
                for name, shape in shapes.items()
            }

        steps = (self.length, self.num_features)
        series = dict(values=steps, mask=steps, times=(self.length,))
        queries = (self.num_queries,)
        return {
            "predict": Signature(predict, inputs(**series, query_times=queries)),
            "encode": Signature(encode, inputs(**series)),
            "decode": Signature(decode, inputs(latents=(self.latent_dim,), times=queries)),
        }
