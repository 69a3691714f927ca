"""What a score-based net is told of the time: features of the level of the noise, and two dense layers.

Reference: Song et al. 2021, arXiv:2011.13456, appendix H; Tancik et al. 2020, "Fourier Features Let Networks Learn High
Frequency Functions in Low Dimensional Domains", arXiv:2006.10739.
"""

import math

import keras
import numpy as np
from keras import layers, ops

from keras_dl.arguments import Positive, PositivePerChannel, Size, arguments
from keras_dl.base import Layer
from keras_dl.diffusion.sdes import VE
from keras_dl.layers.unet import TimeEmbedding, fan_average

TIME_FEATURES = ("fourier", "sinusoidal")


@keras.saving.register_keras_serializable(package="keras_dl")
class FourierFeatures(Layer):
    """`sin(2 pi w log(x))` and `cos(2 pi w log(x))` with fixed random w: float32 whatever the policy.

    There are up to a hundred turns, and a float16 file rounds all constants. So w starts with the digits of float16,
    other factors are sums of two numbers, and whole turns are left out before pi.

    Args:
        size: int. Number of w.
        scale: float, positive. Their standard deviation.
        ends: pair of float, or None. With them, x is `first (last / first)^t` for the times t that the layer takes: the
            standard deviation of the noise of VE.

    Call arguments:
        x: float, positive, `(batch,)`; or times.

    Returns:
        float32, `(batch, 2 * size)`: first the sines.
    """

    @arguments
    def __init__(self, size: Size, scale: Positive = 16.0, ends: PositivePerChannel | None = None, **kwargs):
        super().__init__(autocast=False, **{"dtype": "float32"} | kwargs)

    def build(self, x_shape):
        normal = keras.initializers.RandomNormal(0.0, self.scale)

        def rounded(shape, dtype=None):
            return ops.cast(ops.cast(normal(shape), "float16"), dtype)

        self.frequencies = self.add_weight((self.size,), rounded, trainable=False, name="frequencies")

    def call(self, x):
        x = ops.cast(x, "float32")
        if self.ends is None:
            logs = ops.log(x)
        else:
            first, last = self.ends
            (slope, start), (more_slope, more_start) = zip(
                _parts(math.log(last / first)), _parts(math.log(first)), strict=True
            )
            logs = (x * slope + start) + (x * more_slope + more_start)
        turns = ops.expand_dims(logs, -1) * self.frequencies  # (batch, size)
        angles = 2 * math.pi * (turns - ops.round(turns))
        return ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)

    def compute_output_spec(self, x):
        return keras.KerasTensor((*x.shape, 2 * self.size), "float32")


def _parts(x):
    """Two numbers with the sum x: the first is one of float16."""
    coarse = float(np.float16(x))
    return coarse, x - coarse


def embedded(times, dim, width, time_features, process):
    """Two dense layers on features of the time: `(batch, width)`, and the layers with weights in order.

    The features are those of sigma for VE. For the others they are of 999 t, as if they were DDPM of 1,000 steps.
    """
    of_sigma = isinstance(process, VE)
    level = times if of_sigma else layers.Rescaling(999.0, dtype="float32", name="level")(times)
    if time_features == "fourier":
        ends = (process.sigma_min, process.sigma_max) if of_sigma else None
        features = FourierFeatures(dim, ends=ends, name="fourier")
    else:
        features = TimeEmbedding(dim, name="sines")
    first = layers.Dense(width, kernel_initializer=fan_average(), name="time_1")
    second = layers.Dense(width, kernel_initializer=fan_average(), name="time_2")
    kept = [features] if time_features == "fourier" else []
    hidden = second(layers.Activation("silu", name="time_silu")(first(features(level))))
    return hidden, [*kept, first, second]
