"""Layers of equalized rates, and what the discriminators of StyleGAN compare images by.

    y = gain rate / sqrt(fan_in) W x + rate b,   W ~ N(0, 1 / rate^2)

A weight has variance 1 at the start, whatever the size of the layer. So Adam, whose steps do not depend on how large a
gradient is, moves all layers at the same relative rate.

Reference: Karras et al. 2017, "Progressive Growing of GANs", arXiv:1710.10196, sections 3 and 4.1.
"""

import math
from typing import Annotated

import keras
import tensorflow as tf
from keras import initializers, ops

from keras_dl.arguments import NumberIn, OneOf, Positive, Size, arguments
from keras_dl.base import Layer
from keras_dl.checks import asserted
from keras_dl.ops.resampling import blur, downsampled_convolution, fir_filter

SLOPE = 0.2  # of the leaky rectifier
EPSILON = 1e-8
CLAMP = 256.0  # of activations in float16, as the authors have it, whose training keeps far below


def _check_filter(name, value):
    """The coefficients as a tuple of floats, which `fir_filter` takes."""
    try:
        fir_filter(value)
        return tuple(float(x) for x in value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}={value!r} must be the coefficients of a filter, such as (1, 3, 3, 1).") from error


Filter = Annotated[tuple[float, ...], _check_filter]


def rectified(x, gain: float, clamp: bool = False):
    """The leaky rectifier times a gain. `sqrt(2)` keeps the variance of normal inputs, up to 4%."""
    x = gain * ops.leaky_relu(x, SLOPE)
    return ops.clip(x, -CLAMP * gain, CLAMP * gain) if clamp else x


class Equalized(Layer):
    """A layer with a kernel of equalized rate, a bias, and perhaps a leaky rectifier."""

    def _add_weights(self, shape, fan_in, bias_initial=0.0):
        rate = getattr(self, "rate", 1.0)
        self.scale = self.kernel_gain * rate / math.sqrt(fan_in)
        self.kernel = self.add_weight(
            shape=shape, initializer=initializers.RandomNormal(0.0, 1.0 / rate), name="kernel"
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                shape=shape[-1:], initializer=initializers.Constant(bias_initial / rate), name="bias"
            )

    def _finish(self, x, rate=1.0):
        if self.bias is not None:
            x = x + rate * self.bias
        if self.rectify:
            return rectified(x, self.gain, self.compute_dtype == "float16")
        return x if self.gain == 1.0 else self.gain * x


@keras.saving.register_keras_serializable(package="keras_dl")
class EqualizedDense(Equalized):
    """A dense layer of equalized rate: see the module.

    Args:
        units: int.
        rate: float. Of learning, against that of other layers: 0.01 in mapping networks.
        kernel_gain: float. Of the kernel.
        rectify: bool. Whether a leaky rectifier follows.
        gain: float. Of the output.
        use_bias: bool.
        bias_initial: float. What the bias adds at first.

    Call arguments:
        x: float, `(batch, features)`.

    Returns:
        float, `(batch, units)`.
    """

    @arguments
    def __init__(
        self,
        units: Size,
        rate: Positive = 1.0,
        kernel_gain: Positive = 1.0,
        rectify: bool = False,
        gain: Positive = 1.0,
        use_bias: bool = True,
        bias_initial: NumberIn(-10, 10) = 0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)

    def build(self, x_shape):
        self._add_weights((x_shape[-1], self.units), x_shape[-1], self.bias_initial)

    def call(self, x):
        return self._finish(ops.matmul(x, self.scale * self.kernel), self.rate)

    def compute_output_shape(self, x_shape):
        return (x_shape[0], self.units)


@keras.saving.register_keras_serializable(package="keras_dl")
class EqualizedConv2D(Equalized):
    """A convolution of equalized rate that keeps or halves the size: see the module.

    Args:
        filters: int.
        kernel_size: int, odd.
        halve: "no"; "filter" for an FIR filter and a stride of 2; or "average" for the filter, the convolution, and the
            mean of 2x2 pixels.
        fir: coefficients of the filter, as of `ops.resampling.fir_filter`.
        kernel_gain: float. Of the kernel.
        rectify: bool. Whether a leaky rectifier follows.
        gain: float. Of the output.
        use_bias: bool.

    Call arguments:
        x: float, `(batch, height, width, channels)`.

    Returns:
        float, `(batch, height, width, filters)`, or half of both sides.
    """

    @arguments
    def __init__(
        self,
        filters: Size,
        kernel_size: Size,
        halve: OneOf("no", "filter", "average") = "no",
        fir: Filter = (1, 3, 3, 1),
        kernel_gain: Positive = 1.0,
        rectify: bool = True,
        gain: Positive = 1.0,
        use_bias: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)

    def build(self, x_shape):
        size = self.kernel_size
        self._add_weights((size, size, x_shape[-1], self.filters), size**2 * x_shape[-1])

    def call(self, x):
        kernel = self.scale * self.kernel
        if self.halve == "filter":
            return self._finish(downsampled_convolution(x, kernel, self.fir))
        if self.halve == "average":
            x = blur(x, self.fir)
        x = tf.nn.conv2d(x, kernel, 1, "SAME")
        if self.halve == "average":
            x = tf.nn.avg_pool2d(x, 2, 2, "VALID")  # (batch, height / 2, width / 2, filters)
        return self._finish(x)

    def compute_output_shape(self, x_shape):
        batch, height, width, _ = x_shape
        step = 1 if self.halve == "no" else 2
        return (batch, height // step, width // step, self.filters)


@keras.saving.register_keras_serializable(package="keras_dl")
class MinibatchDeviation(Layer):
    """Appends a map of how much the images of a group differ: the mean of the standard deviations of all activations.

    A discriminator sees by it that a generator makes one image over and over. The groups are `x[i::n]`, with the
    batch divided into `n` groups.

    Args:
        group_size: int. Images of a group. A smaller batch is one group.

    Call arguments:
        x: float, `(batch, height, width, channels)`.

    Returns:
        float, `(batch, height, width, channels + 1)`.

    Raises:
        ValueError: if the batch is of one image, or does not consist of whole groups. An `InvalidArgumentError` in a
            graph that was traced for any batch.
    """

    @arguments
    def __init__(self, group_size: Size = 4, **kwargs):
        super().__init__(**kwargs)

    def call(self, x):
        batch, height, width, channels = ops.shape(x)
        known = isinstance(batch, int)
        size = min(self.group_size, batch) if known else ops.minimum(self.group_size, batch)
        whole = (batch >= min(2, self.group_size)) & (batch % size == 0)
        if not known:
            x = asserted(x, whole, self._message("a batch"))
        elif not whole:
            raise ValueError(self._message(f"a batch of {batch}"))
        groups = ops.cast(ops.reshape(x, (size, -1, height * width * channels)), "float32")
        deviations = ops.sqrt(ops.mean(ops.square(groups - ops.mean(groups, axis=0, keepdims=True)), axis=0) + EPSILON)
        means = ops.mean(deviations, axis=-1)  # (groups,)
        maps = ops.reshape(ops.tile(means, (size,)), (-1, 1, 1, 1))  # (batch, 1, 1, 1)
        maps = ops.broadcast_to(ops.cast(maps, x.dtype), (batch, height, width, 1))
        return ops.concatenate([x, maps], axis=-1)

    def _message(self, batch):
        return (
            f"{batch} cannot be divided into groups of group_size={self.group_size}, within which the discriminator "
            "compares images. Give a multiple of it as batch_size, and drop what does not fill a batch; or "
            "group_size=1 for no comparison."
        )

    def compute_output_shape(self, x_shape):
        return (*x_shape[:-1], x_shape[-1] + 1)
