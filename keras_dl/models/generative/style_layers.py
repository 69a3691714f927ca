"""Layers of style-based generators and of their discriminators: equalized rates, modulation, noise, deviations.

    equalized     y = gain rate / sqrt(fan in) W x + rate b,   W ~ N(0, 1 / rate^2)
    modulated     y_o = d_o sum_i W_oi * (s_i x_i),   d_o = 1 / sqrt(sum_i,k (s_i W_oik)^2 + 1e-8),   s = A w
    adaptive      y_c = (1 + s_c) (x_c - mean x_c) / sqrt(var x_c + 1e-8) + b_c,   (s, b) = A w

A weight of an equalized layer has variance 1 at all times of its training, so that Adam, whose steps do not depend on
the size of a gradient, moves all layers at the same relative rate.

The modulated convolution scales its input and its output, not its kernel: `d_o` times the convolution of `s_i x_i` is
the convolution with the demodulated kernel. So a batch has one kernel, and so has a file.
"""

import math
from typing import Annotated

import keras
import tensorflow as tf
from keras import initializers, ops

from keras_dl.arguments import NumberIn, OneOf, Positive, Size, arguments
from keras_dl.base import Layer
from keras_dl.ops.resampling import blur, downsampled_convolution, fir_filter, upsampled_convolution

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


def normalized(x):
    """Vectors divided by the root of their mean square: `(batch, features)`."""
    return x * ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + EPSILON)


def per_channel(vectors):
    """`(batch, channels)` to `(batch, 1, 1, channels)`."""
    return ops.expand_dims(ops.expand_dims(vectors, 1), 1)


class _Equalized(Layer):
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
class EqualizedDense(_Equalized):
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
class EqualizedConv2D(_Equalized):
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
class ModulatedConv2D(Layer):
    """The convolution of StyleGAN2, whose kernel a style scales: see the module.

    Under float16, kernel and style are first divided by their largest magnitudes. With demodulation, this changes
    nothing but the range of the sums.

    Args:
        filters: int.
        kernel_size: int, odd.
        double: bool. Whether the sides are doubled, by a transposed convolution and an FIR filter.
        demodulate: bool. Whether the outputs get variance 1. Else the kernel is scaled by `1 / sqrt(fan in)`.
        add_noise: bool. Whether noise of a learned strength is added, which is 0 at first.
        rectify: bool. Whether a leaky rectifier with a gain of sqrt(2) follows.
        fir: coefficients of the filter.

    Call arguments:
        x: float, `(batch, height, width, channels)`.
        style: float, `(batch, style_dim)`.
        noise: float, `(batch or 1, height, width, 1)` in the size of the output, or None without `add_noise`.

    Returns:
        float, `(batch, height, width, filters)`, with twice the sides if `double`.
    """

    @arguments
    def __init__(
        self,
        filters: Size,
        kernel_size: Size,
        double: bool = False,
        demodulate: bool = True,
        add_noise: bool = True,
        rectify: bool = True,
        fir: Filter = (1, 3, 3, 1),
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)

    def build(self, x_shape, style_shape, noise_shape=None):
        size, channels = self.kernel_size, x_shape[-1]
        self.affine = EqualizedDense(channels, bias_initial=1.0, dtype="float32", name="affine")
        self.affine.build(style_shape)
        self.demodulation = Demodulation(dtype="float32", name="demodulation")
        self.kernel = self.add_weight(
            shape=(size, size, channels, self.filters), initializer=initializers.RandomNormal(0.0, 1.0), name="kernel"
        )
        self.strength = None
        if self.add_noise:
            self.strength = self.add_weight(shape=(), initializer="zeros", name="strength")
        self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")

    def call(self, x, style, noise=None):
        kernel, scales = ops.convert_to_tensor(self.kernel), self.affine(style)  # (batch, channels)
        half = self.compute_dtype == "float16"
        if not self.demodulate:
            scales = scales / math.sqrt(math.prod(kernel.shape[:3]))
        elif half:
            largest = ops.max(ops.abs(kernel), axis=(0, 1, 2), keepdims=True)
            kernel = kernel / (math.sqrt(math.prod(kernel.shape[:3])) * largest)
            scales = scales / ops.max(ops.abs(scales), axis=-1, keepdims=True)
        x = self._to(x) * per_channel(self._to(scales))
        if self.double:
            x = upsampled_convolution(x, self._to(kernel), self.fir)
        else:
            x = tf.nn.conv2d(x, self._to(kernel), 1, "SAME")
        if self.demodulate:
            x = x * per_channel(self._to(self.demodulation(scales, kernel)))
        if self.add_noise:
            x = x + self._to(self.strength * ops.cast(noise, "float32"))
        x = x + self._to(self.bias)
        if self.rectify:
            return rectified(x, math.sqrt(2), half)
        return ops.clip(x, -CLAMP, CLAMP) if half else x

    def _to(self, x):
        return ops.cast(x, self.compute_dtype)

    def compute_output_shape(self, x_shape, style_shape, noise_shape=None):
        batch, height, width, _ = x_shape
        step = 2 if self.double else 1
        return (batch, step * height, step * width, self.filters)


@keras.saving.register_keras_serializable(package="keras_dl")
class Demodulation(Layer):
    """One over the norms of modulated kernels, which an int8 file can compute in float32.

    Call arguments:
        scales: float, `(batch, channels)`.
        kernel: float, `(size, size, channels, filters)`.

    Returns:
        float, `(batch, filters)`.
    """

    def call(self, scales, kernel):
        squares = ops.sum(ops.square(kernel), axis=(0, 1))  # (channels, filters)
        return ops.rsqrt(ops.matmul(ops.square(scales), squares) + EPSILON)


@keras.saving.register_keras_serializable(package="keras_dl")
class ConstantMap(Layer):
    """Learned maps that do not depend on the input: where the synthesis begins.

    Args:
        side: int.
        channels: int.
        initial: "normal" or "ones".

    Call arguments:
        x: anything with a batch.

    Returns:
        float, `(batch, side, side, channels)`.
    """

    @arguments
    def __init__(self, side: Size, channels: Size, initial: OneOf("normal", "ones") = "normal", **kwargs):
        super().__init__(**kwargs)

    def build(self, x_shape):
        initializer = initializers.RandomNormal(0.0, 1.0) if self.initial == "normal" else "ones"
        shape = (1, self.side, self.side, self.channels)
        self.maps = self.add_weight(shape=shape, initializer=initializer, name="maps")

    def call(self, x):
        return ops.broadcast_to(self.maps, (ops.shape(x)[0], *self.maps.shape[1:]))

    def compute_output_shape(self, x_shape):
        return (x_shape[0], self.side, self.side, self.channels)


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
        ValueError: if the batch is known to be of one image, or not to consist of whole groups.
    """

    @arguments
    def __init__(self, group_size: Size = 4, **kwargs):
        super().__init__(**kwargs)

    def call(self, x):
        batch, height, width, channels = ops.shape(x)
        if isinstance(batch, int):
            self._check(batch)
        size = ops.minimum(self.group_size, batch)
        groups = ops.cast(ops.reshape(x, (size, -1, height * width * channels)), "float32")
        deviations = ops.sqrt(ops.mean(ops.square(groups - ops.mean(groups, axis=0, keepdims=True)), axis=0) + EPSILON)
        means = ops.mean(deviations, axis=-1)  # (groups,)
        maps = ops.reshape(ops.tile(means, (size,)), (-1, 1, 1, 1))  # (batch, 1, 1, 1)
        maps = ops.broadcast_to(ops.cast(maps, x.dtype), (batch, height, width, 1))
        return ops.concatenate([x, maps], axis=-1)

    def _check(self, batch):
        if batch < min(2, self.group_size) or batch % min(batch, self.group_size):
            raise ValueError(
                f"a batch of {batch} cannot be divided into groups of group_size={self.group_size}, within which the "
                f"discriminator compares images. Give a multiple of it as batch_size, and drop what does not fill a "
                "batch, or group_size=1 for no comparison."
            )

    def compute_output_shape(self, x_shape):
        return (*x_shape[:-1], x_shape[-1] + 1)


@keras.saving.register_keras_serializable(package="keras_dl")
class StyledConv2D(_Equalized):
    """The layer of StyleGAN: a convolution, noise, a bias, a leaky rectifier, and adaptive instance normalization.

    Args:
        filters: int.
        change: "none" for no convolution, where the maps are learned; "same", or "double" for one with twice the sides,
            of nearest pixels, which is blurred.
        fir: coefficients of the blur.

    Call arguments:
        x: float, `(batch, height, width, channels)`.
        style: float, `(batch, style_dim)`.
        noise: float, `(batch or 1, height, width, 1)` in the size of the output.

    Returns:
        float, `(batch, height, width, filters)`, with twice the sides if doubled.
    """

    kernel_gain = math.sqrt(2)
    use_bias = True

    @arguments
    def __init__(
        self, filters: Size, change: OneOf("none", "same", "double") = "same", fir: Filter = (1, 2, 1), **kwargs
    ):
        super().__init__(autocast=False, **kwargs)

    def build(self, x_shape, style_shape, noise_shape):
        if self.change == "none":
            self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")
        else:
            self._add_weights((3, 3, x_shape[-1], self.filters), 9 * x_shape[-1])
        self.strength = self.add_weight(shape=(self.filters,), initializer="zeros", name="strength")
        self.affine = EqualizedDense(2 * self.filters, dtype="float32", name="affine")
        self.affine.build(style_shape)

    def call(self, x, style, noise):
        x = ops.cast(x, self.compute_dtype)
        if self.change != "none":
            kernel = ops.cast(self.scale * ops.convert_to_tensor(self.kernel), self.compute_dtype)
            if self.change == "double":
                # With this filter, the transposed convolution is that of the image of nearest pixels.
                x = blur(upsampled_convolution(x, kernel, (1, 1)), self.fir)
            else:
                x = tf.nn.conv2d(x, kernel, 1, "SAME")
        x = ops.cast(x, "float32") + self.strength * ops.cast(noise, "float32") + self.bias
        x = rectified(x, 1.0)
        # Statistics in float32.
        x = x - ops.mean(x, axis=(1, 2), keepdims=True)
        x = x * ops.rsqrt(ops.mean(ops.square(x), axis=(1, 2), keepdims=True) + EPSILON)
        scales, shifts = ops.split(self.affine(style), 2, axis=-1)  # (batch, filters)
        return ops.cast(x * per_channel(1.0 + scales) + per_channel(shifts), self.compute_dtype)

    def compute_output_shape(self, x_shape, style_shape, noise_shape):
        batch, height, width, _ = x_shape
        step = 2 if self.change == "double" else 1
        return (batch, step * height, step * width, self.filters)
