"""The nets of score-based models: NCSN++ and DDPM++ for images, a dense net for points.

NCSN++ is the U-Net of DDPM with the residual blocks of BigGAN, which change the sides themselves; sums divided by the
square root of 2; images filtered by [1, 3, 3, 1] where they are resampled; a pyramid of smaller inputs, added on the
way down; and random Fourier features of log sigma. DDPM++ has the blocks and the scaled sums only, and takes the time
as DDPM does.

Reference: Song et al. 2021, arXiv:2011.13456, appendix H, with the layers and initial weights of the authors' code
(yang-song/score_sde_pytorch). The blocks are those of `keras_dl.layers.unet`.

The net of points is not of the paper.

Deviation: the nets return the noise. That of the authors returns its negative for VE; `entries` turns the sign of the
last layer.
"""

import functools
import math

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from keras_dl.arguments import Positive, PositivePerChannel, Size, arguments
from keras_dl.base import Layer
from keras_dl.diffusion.process import ProcessOf
from keras_dl.diffusion.sdes import SDE, VE
from keras_dl.layers.norm import GroupNormalization
from keras_dl.layers.unet import (
    PixelAttention,
    TimedResidualBlock,
    TimeEmbedding,
    fan_average,
)
from keras_dl.ops.resampling import downsample, downsampled_convolution, upsample
from keras_dl.weights import Entry, torch_entries

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


@keras.saving.register_keras_serializable(package="keras_dl")
class FilteredResidualBlock(TimedResidualBlock):
    """A `TimedResidualBlock` that filters images by [1, 3, 3, 1] where it resamples them."""

    def resampled(self, images):
        if self.resample == "down":
            return downsample(images)
        return upsample(images) if self.resample == "up" else images


@keras.saving.register_keras_serializable(package="keras_dl")
class PyramidStep(Layer):
    """The next smaller input of the pyramid: the filter [1, 3, 3, 1] or none, and a 3x3 convolution of stride 2.

    Args:
        channels: int.
        fir: bool. Whether the images are filtered first.

    Call arguments:
        images: float, `(batch, height, width, channels in)`.

    Returns:
        The layer's compute dtype, `(batch, height / 2, width / 2, channels)`.
    """

    @arguments
    def __init__(self, channels: Size, fir: bool = True, **kwargs):
        super().__init__(**kwargs)

    def build(self, images_shape):
        self.conv = layers.Conv2D(
            self.channels, 3, 2, "valid", kernel_initializer=fan_average(), dtype=self.dtype_policy, name="conv"
        )
        batch, height, width, channels = images_shape
        self.conv.build((batch, height + 1, width + 1, channels))

    def call(self, images):
        if self.fir:
            images = downsampled_convolution(images, ops.cast(self.conv.kernel, images.dtype))
            return images + ops.cast(self.conv.bias, images.dtype)
        return self.conv(tf.pad(images, ((0, 0), (0, 1), (0, 1), (0, 0))))  # as DDPM: zeros below and to the right

    def compute_output_shape(self, images_shape):
        batch, height, width, _ = images_shape
        return (batch, height // 2, width // 2, self.channels)


def check_sides(data_shape, multipliers):
    """Refuses images whose sides the net cannot halve.

    Example:

    >>> check_sides((28, 28, 1), (1, 2, 2, 2))
    Traceback (most recent call last):
    ...
    ValueError: data_shape=(28, 28, 1): multipliers=(1, 2, 2, 2) halve the sides 3 times, so they must be multiples of
    8.
    """
    factor = 2 ** (len(multipliers) - 1)
    if any(side % factor for side in data_shape[:2]):
        raise ValueError(
            f"data_shape={tuple(data_shape)}: multipliers={tuple(multipliers)} halve the sides {len(multipliers) - 1} "
            f"times, so they must be multiples of {factor}."
        )


def _embedded(times, dim, width, time_features, process):
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


def image_net(
    data_shape, filters, multipliers, num_blocks, attention_sides, dropout_rate, fir, pyramid, time_features, process,
    name="network",
):  # fmt: skip
    """NCSN++ or DDPM++: `(images, times)` to the noise of the images, float32.

    Args:
        data_shape: `(height, width, channels)`.
        filters: int. Channels of the first level, a multiple of 4.
        multipliers: sequence of int. Channels of each level, in multiples of `filters`.
        num_blocks: int. Residual blocks of a level on the way down; one more on the way up.
        attention_sides: sequence of int. Heights of the levels with attention.
        dropout_rate: float in [0, 1).
        fir, pyramid: bool. NCSN++ has both.
        time_features: "fourier" or "sinusoidal".
        process: `SDE`. With VE the data are in [0, 1], else in [-1, 1].
        name: str.

    Returns:
        `keras.Model` with an attribute `modules`, its layers with weights in the order of the authors' code.
    """
    block = FilteredResidualBlock if fir else TimedResidualBlock
    block = functools.partial(block, groups=None, dropout_rate=dropout_rate, rescale=True)
    images, times = keras.Input(data_shape, name="images"), keras.Input((), name="times")
    embedding, modules = _embedded(times, filters, 4 * filters, time_features, process)

    def then(layer, *tensors):
        modules.append(layer)
        return layer(*tensors)

    def attended(x, name):
        has_attention = x.shape[1] in attention_sides
        return then(PixelAttention(groups=None, rescale=True, name=name), x) if has_attention else x

    x = images if not isinstance(process, VE) else layers.Rescaling(2.0, -1.0, dtype="float32", name="centered")(images)
    small = x
    x = then(layers.Conv2D(filters, 3, padding="same", kernel_initializer=fan_average(), name="first"), x)
    kept = [x]
    for level, multiple in enumerate(multipliers):
        for i in range(num_blocks):
            x = then(block(filters * multiple, name=f"down_{level}_{i}"), x, embedding)
            x = attended(x, f"down_{level}_{i}_attention")
            kept.append(x)
        if level < len(multipliers) - 1:
            # (batch, height / 2, width / 2, channels)
            x = then(block(filters * multiple, resample="down", name=f"down_{level}"), x, embedding)
            if pyramid:
                small = then(PyramidStep(filters * multiple, fir, name=f"pyramid_{level}"), small)
                small = layers.Add(name=f"pyramid_{level}_sum")([small, x])
                small = layers.Rescaling(math.sqrt(0.5), name=f"pyramid_{level}_scaled")(small)
                x = small
            kept.append(x)
    x = then(block(x.shape[-1], name="middle_0"), x, embedding)
    x = then(PixelAttention(groups=None, rescale=True, name="middle_attention"), x)
    x = then(block(x.shape[-1], name="middle_1"), x, embedding)
    for level, multiple in reversed(list(enumerate(multipliers))):
        for i in range(num_blocks + 1):
            x = layers.Concatenate(name=f"up_{level}_{i}_both")([x, kept.pop()])
            x = then(block(filters * multiple, name=f"up_{level}_{i}"), x, embedding)
        x = attended(x, f"up_{level}_attention")
        if level:
            # (batch, 2 height, 2 width, channels)
            x = then(block(filters * multiple, resample="up", name=f"up_{level}"), x, embedding)
    x = then(GroupNormalization(min(x.shape[-1] // 4, 32), epsilon=1e-6, name="last_norm"), x)
    x = layers.Activation("silu", name="last_silu")(x)
    last = layers.Conv2D(
        data_shape[-1], 3, padding="same", kernel_initializer=fan_average(0.0), dtype="float32", name="last"
    )
    net = keras.Model({"images": images, "times": times}, then(last, x), name=name)
    net.modules = modules
    return net


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
    embedding = _embedded(times, filters, 4 * filters, time_features, process)[0]
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


def entries(net, sign: float) -> dict[str, Entry]:
    """The entries of a checkpoint of the authors' code for a net of `image_net`, whose names begin with `all_modules`.

    Args:
        net: as `image_net` returns it.
        sign: 1.0, or -1.0 for a net that returns the negative of the noise, as those of VE do.
    """
    found = {}
    for i, layer in enumerate(net.modules):
        prefix = f"all_modules.{i}"
        if isinstance(layer, FourierFeatures):
            found[f"{prefix}.W"] = Entry(layer.frequencies, (layer.size,), np.asarray)
        elif isinstance(layer, TimedResidualBlock):
            found |= _of_block(prefix, layer)
        elif isinstance(layer, PixelAttention):
            found |= torch_entries(f"{prefix}.GroupNorm_0", layer.norm)
            for j, dense in enumerate((layer.query, layer.key, layer.value, layer.out)):
                found |= _of_dense(f"{prefix}.NIN_{j}", dense)
        elif isinstance(layer, PyramidStep):
            found |= torch_entries(f"{prefix}.{'Conv2d_0' if layer.fir else 'Conv_0'}", layer.conv)
        elif layer.name == "last":
            of_last = torch_entries(prefix, layer)
            found |= {name: _signed(entry, sign) for name, entry in of_last.items()}
        else:
            found |= torch_entries(prefix, layer)
    return found


def _of_block(prefix, block):
    parts = {
        "GroupNorm_0": block.norm1, "Conv_0": block.conv1, "Dense_0": block.time,
        "GroupNorm_1": block.norm2, "Conv_1": block.conv2,
    }  # fmt: skip
    if block.shortcut is not None:
        parts["Conv_2"] = block.shortcut
    return {
        name: entry for key, layer in parts.items() for name, entry in torch_entries(f"{prefix}.{key}", layer).items()
    }


def _of_dense(prefix, dense):
    """Of a dense layer over the channels, `(in, out)` in both."""
    return {
        f"{prefix}.W": Entry(dense.kernel, tuple(dense.kernel.shape), np.asarray),
        f"{prefix}.b": Entry(dense.bias, tuple(dense.bias.shape), np.asarray),
    }


def _signed(entry, sign):
    return Entry(entry.variable, entry.shape, lambda array: sign * entry.convert(array))
