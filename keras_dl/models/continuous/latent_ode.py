"""Latent ODE: a series seen at irregular times is one path of a differential equation, seen through noise.

    z(0) ~ N(0, 1),  dz/dt = f(z),  x(t) ~ N(decoder(z(t)), noise_std^2)
    q(z(0) | x) = N(mean, exp(log_variance)) = recognition net(x at its times)
    ELBO = E_q log p(x | z(0)) - KL(q | p)

The recognition net reads the series backward, from its last observation to time 0. "ode_rnn" follows an equation of its
own between observations, `dh/dt = g(h)`, and updates h by a GRU at each; "rnn" is the GRU alone, which is told the time
to the observation before. Times are of each row alone: rows are padded, and masks say what was observed.

References: Chen, Rubanova, Bettencourt, Duvenaud 2018, "Neural Ordinary Differential Equations", arXiv:1806.07366,
section 5; Rubanova, Chen, Duvenaud 2019, "Latent ODEs for Irregularly-Sampled Time Series", arXiv:1907.03907,
algorithm 1 and section 3.2.

Deviations: Chen's recognition net is a plain tanh cell that sees no times; here it is a GRU that does. Both papers
solve at the times of all rows together with adaptive steps; here each row has its own times and a fixed number of
steps between any two, so that shapes are static. No Poisson process of the times (Rubanova, section 3.3).
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from keras_dl.base import FunctionalModel, Layer, Signature
from keras_dl.checks import check_choice, check_size, check_sizes
from keras_dl.models.continuous.neural_ode import check_solver
from keras_dl.ops.odeint import TABLEAUS, odeint

ENCODERS = ("ode_rnn", "rnn")


def _mlp(hidden_dims, activation, outputs, dtype):
    hidden = [layers.Dense(n, activation=activation, dtype=dtype, name=f"dense_{i}") for i, n in enumerate(hidden_dims)]
    return [*hidden, layers.Dense(outputs, dtype=dtype, name="outputs")]


def _run(stack, x):
    for layer in stack:
        x = layer(x)
    return x


def _build(stack, size):
    for layer in stack:
        layer.build((None, size))
        size = layer.units


@keras.saving.register_keras_serializable(package="keras_dl")
class SeriesEncoder(Layer):
    """Reads an irregular series backward in time, from its last observation to time 0.

    Args:
        kind: "ode_rnn" or "rnn".
        units: int. Size of the state h.
        hidden_dims: sequence of int. Hidden layers of g.
        latent_dim: int.
        method, num_steps, unroll: as of `LatentODE`.

    Call arguments:
        values: float, `(batch, length, features)`.
        mask: bool, `(batch, length, features)`, True = observed.
        times: float, `(batch, length)`, at least 0, increasing among the observed.

    Returns:
        float32, `(batch, latent_dim)` twice: mean and log-variance of `q(z(0))`.

    Raises:
        ValueError: if, called eagerly, the times are not as above.
    """

    def __init__(self, kind, units, hidden_dims, latent_dim, method="rk4", num_steps=1, unroll=False, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.kind = kind
        self.units = units
        self.hidden_dims = hidden_dims
        self.latent_dim = latent_dim
        self.method = method
        self.num_steps = num_steps
        self.unroll = unroll

    def build(self, values_shape, mask_shape=None, times_shape=None):
        policy = self.dtype_policy
        self.cell = layers.GRUCell(self.units, dtype=policy, name="cell")
        self.cell.build((None, 2 * values_shape[-1] + (self.kind == "rnn")))
        self.drift = _mlp(self.hidden_dims, "tanh", self.units, policy) if self.kind == "ode_rnn" else []
        _build(self.drift, self.units)
        self.posterior = layers.Dense(2 * self.latent_dim, dtype="float32", name="posterior")
        self.posterior.build((None, self.units))

    def call(self, values, mask, times):
        _check_observed(times, mask)
        observed = ops.any(mask, axis=-1)  # (batch, length)
        times = ops.where(observed, ops.cast(times, "float32"), 0.0)
        inputs = ops.concatenate([ops.where(mask, ops.cast(values, "float32"), 0.0), ops.cast(mask, "float32")], -1)

        def back(i, hidden, later):
            now, here = ops.take(times, i, axis=1), ops.take(observed, i, axis=1)
            gap = ops.where(here, later - now, 0.0)
            x = ops.take(inputs, i, axis=1)
            if self.kind == "rnn":
                x = ops.concatenate([x, ops.expand_dims(gap, -1)], -1)
            hidden = self._drift(hidden, gap)
            updated, _ = self.cell(ops.cast(x, self.compute_dtype), [ops.cast(hidden, self.compute_dtype)])
            hidden = ops.where(ops.expand_dims(here, -1), ops.cast(updated, "float32"), hidden)
            return i - 1, hidden, ops.where(here, now, later)

        last = times.shape[1] - 1
        # The last observation is where the reading starts: no time passes before it.
        state = (last, ops.zeros((ops.shape(times)[0], self.units)), ops.max(times, axis=1))
        if self.unroll:
            for _ in range(last + 1):
                state = back(*state)
        else:
            state = tf.while_loop(lambda i, *_: i >= 0, back, state, maximum_iterations=last + 1)
        _, hidden, first = state
        mean, log_variance = ops.split(self.posterior(self._drift(hidden, first)), 2, axis=-1)
        return mean, log_variance

    def _drift(self, hidden, gap):
        """h, `gap` earlier: g is followed backward in time."""
        if self.kind == "rnn":
            return hidden
        return odeint(
            lambda _, h: _run(self.drift, ops.cast(h, self.compute_dtype)),
            hidden,
            ops.stack([ops.zeros_like(gap), gap], axis=-1),
            method=self.method,
            num_steps=self.num_steps,
            gradient="backprop",  # the loop over observations keeps h at each of them anyway
            unroll=self.unroll,
        )[-1]

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
    """Follows `dz/dt = f(z)` from time 0 to the times of each row, and decodes where it has come to.

    Args:
        hidden_dims: sequence of int. Hidden layers of f.
        decoder_dims: sequence of int. Hidden layers of the decoder.
        num_features: int.
        method, num_steps, gradient, unroll: as of `LatentODE`.

    Call arguments:
        latents: float, `(batch, latent_dim)`, at time 0.
        times: float, `(batch, n)`, at least 0, not decreasing.

    Returns:
        float32, `(batch, n, num_features)`.
    """

    def __init__(
        self,
        hidden_dims,
        decoder_dims,
        num_features,
        method="rk4",
        num_steps=1,
        gradient="adjoint",
        unroll=False,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        self.hidden_dims = hidden_dims
        self.decoder_dims = decoder_dims
        self.num_features = num_features
        self.method = method
        self.num_steps = num_steps
        self.gradient = gradient
        self.unroll = unroll

    def build(self, latents_shape, times_shape=None):
        policy = self.dtype_policy
        self.drift = _mlp(self.hidden_dims, "tanh", latents_shape[-1], policy)
        self.decoder = _mlp(self.decoder_dims, "relu", self.num_features, policy)
        _build(self.drift, latents_shape[-1])
        _build(self.decoder, latents_shape[-1])

    def solve(self, latents, times):
        """The path itself, at `times`: float32, `(batch, n, latent_dim)`."""
        times = ops.cast(times, "float32")
        path = odeint(
            lambda _, z: _run(self.drift, ops.cast(z, self.compute_dtype)),
            ops.cast(latents, "float32"),
            ops.concatenate([ops.zeros_like(times[:, :1]), times], axis=-1),
            method=self.method,
            num_steps=self.num_steps,
            gradient=self.gradient,
            unroll=self.unroll,
        )
        return ops.transpose(path[1:], (1, 0, 2))

    def call(self, latents, times):
        path = self.solve(latents, times)
        return ops.cast(_run(self.decoder, ops.cast(path, self.compute_dtype)), "float32")

    def compute_output_spec(self, latents, times):
        return keras.KerasTensor((*times.shape, self.num_features), "float32")


@keras.saving.register_keras_serializable(package="keras_dl")
class LatentODE(FunctionalModel):
    """Fits, fills in and continues series that are seen at irregular times.

    Compile it with an optimizer alone: its loss is the negative ELBO, in nats a series. `fit(inputs, targets)`, with
    inputs as below and targets `(batch, num_queries, num_features)` at `query_times`; the sample weights,
    `(batch, num_queries, num_features)` or `(batch, num_queries)`, are 0 where there is no target. A row with fewer
    times than there is room for repeats its last one.

    Args:
        num_features: int.
        length: int. Room for observations in a row.
        num_queries: int. Room for times at which values are asked for.
        latent_dim: int. Size of z.
        encoder: "ode_rnn" or "rnn".
        encoder_dim: int. Size of the recognition net's state.
        hidden_dims: sequence of int. Hidden layers of f and of g, tanh.
        decoder_dims: sequence of int. Hidden layers of the decoder, ReLU.
        noise_std: float, positive. Of the observations.
        num_samples: int. Draws of z a series in the loss, averaged.
        kl_weight: float, at least 0.
        method: "euler", "midpoint", "rk4" or "rk4_38": see `keras_dl.ops.odeint`. "dopri5" has one step for all rows,
            and each has times of its own.
        num_steps: int. Steps between two neighbouring times.
        gradient: "adjoint" or "backprop", of the path that is decoded.
        unroll: bool. Whether loops are written out in the graph: integer files need it.
        seed: int or None. Of the draws of z.

    Call arguments:
        inputs: dict of `mask`, bool, `(batch, length, num_features)`, True = observed; `query_times`, float,
            `(batch, num_queries)`, at least 0, not decreasing; `times`, float, `(batch, length)`, at least 0,
            increasing among the observed; `values`, float, `(batch, length, num_features)`. Nothing is asked of what
            is masked but that it is there.

    Returns:
        dict of float32: `"log_variance"` and `"mean"` of `q(z(0))`, `(batch, latent_dim)`, and `"predictions"`,
        `(batch, num_queries, num_features)`: the values expected at the query times for `z(0) = mean`.

    Raises:
        ValueError: if an argument is none of the above, or if, called eagerly, the times of a row do not increase.

    Example:

    >>> model = LatentODE(num_features=2, length=5, num_queries=3)
    >>> series = dict(values=np.ones((1, 5, 2)), mask=np.ones((1, 5, 2), bool), times=[[0.1, 0.2, 0.5, 0.6, 1.0]])
    >>> series = series | dict(query_times=[[1.0, 1.5, 2.0]])
    >>> model({name: ops.array(x) for name, x in series.items()})["predictions"].shape
    TensorShape([1, 3, 2])
    """

    def __init__(
        self,
        num_features,
        length,
        num_queries,
        latent_dim=4,
        encoder="ode_rnn",
        encoder_dim=25,
        hidden_dims=(20, 20),
        decoder_dims=(20,),
        noise_std=0.3,
        num_samples=1,
        kl_weight=1.0,
        method="rk4",
        num_steps=2,
        gradient="adjoint",
        unroll=False,
        seed=None,
        dtype=None,
        **kwargs,
    ):
        for name, value in (("num_features", num_features), ("length", length), ("num_queries", num_queries)):
            check_size(name, value)
        check_size("latent_dim", latent_dim)
        check_size("num_samples", num_samples)
        check_choice("encoder", encoder, ENCODERS)
        check_size("encoder_dim", encoder_dim)
        hidden_dims = check_sizes("hidden_dims", hidden_dims)
        decoder_dims = check_sizes("decoder_dims", decoder_dims, allow_empty=True)
        if not noise_std > 0:
            raise ValueError(f"noise_std={noise_std!r} must be positive.")
        if not kl_weight >= 0:
            raise ValueError(f"kl_weight={kl_weight!r} must be at least 0.")
        check_solver(method, num_steps, gradient, tuple(TABLEAUS))

        solver = dict(method=method, num_steps=num_steps, unroll=unroll, dtype=dtype)
        inputs = dict(
            mask=keras.Input((length, num_features), dtype="bool", name="mask"),
            query_times=keras.Input((num_queries,), name="query_times"),
            times=keras.Input((length,), name="times"),
            values=keras.Input((length, num_features), name="values"),
        )
        encode = SeriesEncoder(encoder, encoder_dim, hidden_dims, latent_dim, name="encoder", **solver)
        path = LatentPath(hidden_dims, decoder_dims, num_features, gradient=gradient, name="path", **solver)
        mean, log_variance = encode(inputs["values"], inputs["mask"], inputs["times"])
        outputs = dict(log_variance=log_variance, mean=mean, predictions=path(mean, inputs["query_times"]))
        super().__init__(inputs=inputs, outputs=outputs, dtype=dtype, **kwargs)

        self.num_features = num_features
        self.length = length
        self.num_queries = num_queries
        self.latent_dim = latent_dim
        self.encoder = encoder
        self.encoder_dim = encoder_dim
        self.hidden_dims = hidden_dims
        self.decoder_dims = decoder_dims
        self.noise_std = noise_std
        self.num_samples = num_samples
        self.kl_weight = kl_weight
        self.method = method
        self.num_steps = num_steps
        self.gradient = gradient
        self.unroll = unroll
        self.seed = seed
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
        latents = ops.reshape(mean + ops.exp(0.5 * log_variance) * noise, (-1, self.latent_dim))
        found = self.decode(latents, ops.tile(x["query_times"], (self.num_samples, 1)))
        found = ops.reshape(found, (self.num_samples, *ops.shape(y)))
        error = (ops.cast(y, "float32") - found) / self.noise_std
        likelihood = -0.5 * ops.square(error) - np.float32(np.log(self.noise_std * np.sqrt(2 * np.pi)))
        if sample_weight is not None:
            weight = ops.cast(sample_weight, "float32")
            likelihood = likelihood * (ops.expand_dims(weight, -1) if len(weight.shape) == 2 else weight)
        kl = 0.5 * ops.sum(ops.exp(log_variance) + ops.square(mean) - 1.0 - log_variance, axis=-1)
        return ops.mean(self.kl_weight * kl - ops.mean(ops.sum(likelihood, axis=(2, 3)), axis=0))

    def serving_signatures(self, batch_size=1):
        """What a device runs: dict of `Signature`.

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
