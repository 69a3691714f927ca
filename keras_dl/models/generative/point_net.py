"""A dense net that learns the score of points, such as those of a density in the plane. It is not of the paper."""

import keras
from keras import layers, ops

from keras_dl.arguments import Positive, arguments
from keras_dl.base import Layer
from keras_dl.diffusion.process import ProcessOf
from keras_dl.diffusion.sdes import SDE, VE
from keras_dl.layers.unet import fan_average
from keras_dl.models.generative.time_features import embedded


@keras.saving.register_keras_serializable(package="keras_dl")
class Sigma(Layer):
    """The standard deviation of the noise: float32 whatever the policy.

    Args:
        process: `keras_dl.diffusion.SDE`.

    Call arguments:
        times: float, `(batch,)`.
    """

    @arguments
    def __init__(self, process: ProcessOf(SDE), **kwargs):
        super().__init__(autocast=False, **{"dtype": "float32"} | kwargs)

    def call(self, times):
        return self.process.marginal(times)[1]

    def compute_output_shape(self, times_shape):
        return times_shape

    def get_config(self):
        return super().get_config() | {"process": keras.saving.serialize_keras_object(self.process)}


@keras.saving.register_keras_serializable(package="keras_dl")
class BoundedScore(Layer):
    """`x sigma / sqrt(sigma^2 + smallest^2)`: noise whose score, `-noise / sigma`, has a bound at all times. float32.

    Args:
        smallest: float, positive. Of the details of the data, whose standard deviation is 1.

    Call arguments:
        x: float, `(batch, dim)`.
        sigma: float, `(batch,)`.
    """

    @arguments
    def __init__(self, smallest: Positive = 0.1, **kwargs):
        super().__init__(autocast=False, **{"dtype": "float32"} | kwargs)

    def call(self, x, sigma):
        return x * ops.expand_dims(sigma * ops.rsqrt(ops.square(sigma) + self.smallest**2), -1)

    def compute_output_shape(self, x_shape, sigma_shape):
        return x_shape


@keras.saving.register_keras_serializable(package="keras_dl")
class UnitVariance(Layer):
    """`x / sqrt(1 + sigma^2)`: data of variance 1 with noise of variance sigma^2, back at variance 1. float32.

    Call arguments:
        x: float, `(batch, dim)`.
        sigma: float, `(batch,)`.
    """

    @arguments
    def __init__(self, **kwargs):
        super().__init__(autocast=False, **{"dtype": "float32"} | kwargs)

    def call(self, x, sigma):
        return x * ops.expand_dims(ops.rsqrt(1.0 + ops.square(sigma)), -1)

    def compute_output_shape(self, x_shape, sigma_shape):
        return x_shape


def point_net(dim, hidden_dims, time_features, filters, process, name="network"):
    """Dense layers: `(points, times)` to the noise of the points, float32.

        h <- silu(W h + b + V e),    e = silu(dense(silu(dense(features of the time))))
        noise = (W h + b) sigma / sqrt(sigma^2 + 0.01)

    Args:
        dim: int.
        hidden_dims: sequence of int.
        time_features: "fourier" or "sinusoidal".
        filters: int. Number of features of the time.
        process: `SDE`. With VE, the points are scaled back to a variance of 1.
        name: str.
    """
    points, times = keras.Input((dim,), name="points"), keras.Input((), name="times")
    embedding = embedded(times, filters, 4 * filters, time_features, process)[0]
    embedding = layers.Activation("silu", name="time_silu_2")(embedding)
    sigma = Sigma(process, name="sigma")(times)
    x = UnitVariance(name="scaled")(points, sigma) if isinstance(process, VE) else points
    for i, width in enumerate(hidden_dims):
        x = layers.Dense(width, name=f"dense_{i}")(x)
        of_time = layers.Dense(width, use_bias=False, name=f"dense_{i}_time")(embedding)
        x = layers.Activation("silu", name=f"silu_{i}")(layers.Add(name=f"sum_{i}")([x, of_time]))
    x = layers.Dense(dim, kernel_initializer=fan_average(0.0), dtype="float32", name="last")(x)
    x = BoundedScore(name="bounded")(x, sigma)
    return keras.Model({"points": points, "times": times}, x, name=name)
