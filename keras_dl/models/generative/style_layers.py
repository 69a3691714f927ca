"""Layers that a style changes: modulated convolutions, and adaptive instance normalization.

    modulated     y_o = d_o sum_i W_oi * (s_i x_i),   d_o = 1 / sqrt(sum_i,k (s_i W_oik)^2 + 1e-8),   s = A w
    adaptive      y_c = (1 + s_c) (x_c - mean x_c) / sqrt(var x_c + 1e-8) + b_c,   (s, b) = A w

The modulated convolution scales its input and its output, not its kernel: `d_o` times the convolution of `s_i x_i` is
the convolution with the demodulated kernel. So a batch has one kernel, and so has a file.
"""

import math

import keras
import tensorflow as tf
from keras import initializers, ops

from keras_dl.arguments import OneOf, Size, arguments
from keras_dl.base import Layer
from keras_dl.models.generative.equalized import CLAMP, EPSILON, Equalized, EqualizedDense, Filter, rectified
from keras_dl.ops.resampling import blur, upsampled_convolution


def normalized(x):
    """Vectors divided by the root of their mean square: `(batch, features)`."""
    return x * ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + EPSILON)


def per_channel(vectors):
    """`(batch, channels)` to `(batch, 1, 1, channels)`."""
    return ops.expand_dims(ops.expand_dims(vectors, 1), 1)


@keras.saving.register_keras_serializable(package="keras_dl")
class ModulatedConv2D(Layer):
    """The convolution of StyleGAN2, whose kernel a style scales: see the module.

    Each style is first divided by its largest magnitude, and under float16 the kernel, too. With demodulation, this
    changes nothing but the range of the sums.

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
        if self.demodulate:
            # Demodulation undoes it, and so it has no gradient. All sums come near to 1, which int8 and float16 need.
            largest = ops.stop_gradient(ops.max(ops.square(scales), axis=-1, keepdims=True))
            scales = scales * ops.rsqrt(largest + EPSILON)
        else:
            scales = scales / math.sqrt(math.prod(kernel.shape[:3]))
        if self.demodulate and half:
            largest = ops.stop_gradient(ops.max(ops.abs(kernel), axis=(0, 1, 2), keepdims=True))
            kernel = kernel / (math.sqrt(math.prod(kernel.shape[:3])) * largest)
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
class StyledConv2D(Equalized):
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
