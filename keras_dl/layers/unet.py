"""Blocks of U-Nets that are told a time: the embedding of the time, residual blocks and attention over pixels.

References: Ho, Jain, Abbeel 2020, arXiv:2006.11239, appendix B; Song et al. 2021, arXiv:2011.13456, appendix H, for
residual blocks that resample and for sums divided by the square root of 2.
"""

import math

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from keras_dl.arguments import AtLeast, OneOf, Positive, Rate, Size, arguments
from keras_dl.base import Layer
from keras_dl.layers.norm import GroupNormalization


def fan_average(scale=1.0):
    """Uniform, of variance `scale` over the mean of fan-in and fan-out. A scale of 0 is 1e-10, as in DDPM's code."""
    return keras.initializers.VarianceScaling(scale or 1e-10, "fan_avg", "uniform")


def double(images):
    """Images of twice the sides, each pixel four times: `(batch, 2 height, 2 width, channels)`.

    It has a gradient under XLA, and no tensor of more than four axes, where `keras.layers.UpSampling2D` has five.
    """
    return tf.nn.depth_to_space(tf.concat([images] * 4, axis=-1), 2)


def halve(images):
    """Images of half the sides, each pixel the mean of four."""
    return ops.average_pool(images, 2, 2, "valid")


@keras.saving.register_keras_serializable(package="keras_dl")
class Doubling(Layer):
    """Doubles the sides of images: each pixel becomes four.

    Call arguments:
        images: float, `(batch, height, width, channels)`.

    Returns:
        The layer's compute dtype, `(batch, 2 height, 2 width, channels)`.

    Example:

    >>> Doubling()(ops.reshape(ops.array([1.0, 2.0]), (1, 1, 2, 1)))[0, :, :, 0].numpy()
    array([[1., 1., 2., 2.],
           [1., 1., 2., 2.]], dtype=float32)
    """

    @arguments
    def __init__(self, **kwargs):
        super().__init__(**kwargs)

    def call(self, images):
        return double(images)

    def compute_output_shape(self, images_shape):
        batch, *sides, channels = images_shape
        return (batch, *(None if n is None else 2 * n for n in sides), channels)


@keras.saving.register_keras_serializable(package="keras_dl")
class TimeEmbedding(Layer):
    """Sines and cosines of a time, at frequencies from 1 down to 1 / max_period: float32 whatever the policy.

    Args:
        dim: int, even, at least 4.
        max_period: float.

    Call arguments:
        times: int or float, `(batch,)`.

    Returns:
        float32, `(batch, dim)`: first the sines, then the cosines.

    Raises:
        ValueError: if `dim` is odd.

    Example:

    >>> TimeEmbedding(4)(np.array([0, 1])).numpy().round(3)
    array([[0.   , 0.   , 1.   , 1.   ],
           [0.841, 0.   , 0.54 , 1.   ]], dtype=float32)
    """

    @arguments
    def __init__(self, dim: AtLeast(4), max_period: Positive = 10000.0, **kwargs):
        if dim % 2:
            raise ValueError(f"dim={dim} must be even.")
        super().__init__(autocast=False, **{"dtype": "float32"} | kwargs)

    def call(self, times):
        half = self.dim // 2
        frequencies = np.exp(-math.log(self.max_period) * np.arange(half) / (half - 1)).astype("float32")
        angles = ops.expand_dims(ops.cast(times, "float32"), -1) * frequencies  # (batch, half)
        return ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)

    def compute_output_shape(self, times_shape):
        return (*times_shape, self.dim)

    def compute_output_spec(self, times):
        return keras.KerasTensor((*times.shape, self.dim), "float32")


@keras.saving.register_keras_serializable(package="keras_dl")
class TimedResidualBlock(Layer):
    """Two 3x3 convolutions around a vector that says the time, added to the input.

        h = conv1(resample(act(norm1(x)))) + dense(act(time)),   y = (s(resample(x)) + conv2(dropout(act(norm2(h))))) k

    `s` is the identity, or a 1x1 convolution where the number of channels changes or the sides do. `conv2` starts near
    0. `k` is 1, or `1 / sqrt(2)` with `rescale`.

    Args:
        channels: int.
        groups: int. Of the normalizations; must divide both numbers of channels. None for a quarter of the channels,
            at most 32.
        dropout_rate: float in [0, 1).
        resample: None, "down" or "up": halves the sides by means of 2x2, or doubles them.
        rescale: bool.
        epsilon: float. Of the normalizations.

    Call arguments:
        images: float, `(batch, height, width, channels in)`.
        embedding: float, `(batch, width)`: of the time.
        training: bool. Whether dropout is on.

    Returns:
        The layer's compute dtype, `(batch, height', width', channels)`.

    Raises:
        ValueError: if `groups` does not divide the channels.

    Example:

    >>> TimedResidualBlock(8, groups=4)(ops.ones((2, 4, 4, 4)), ops.ones((2, 16))).shape
    TensorShape([2, 4, 4, 8])
    """

    @arguments
    def __init__(
        self,
        channels: Size,
        groups: Size | None = 32,
        dropout_rate: Rate = 0.0,
        resample: OneOf(None, "down", "up") = None,
        rescale: bool = False,
        epsilon: Positive = 1e-6,
        **kwargs,
    ):
        super().__init__(**kwargs)

    def resampled(self, images):
        """`images` in the sides of the output. A subclass can filter them."""
        return {None: lambda x: x, "down": halve, "up": double}[self.resample](images)

    def build(self, images_shape, embedding_shape):
        channels = images_shape[-1]
        policy = self.dtype_policy

        def norm(width, name):
            groups = min(width // 4, 32) if self.groups is None else self.groups
            if width % groups:
                raise ValueError(f"groups={groups} must divide the {width} channels of {self.name!r}.")
            layer = GroupNormalization(groups, epsilon=self.epsilon, dtype=policy, name=name)
            layer.build((*images_shape[:-1], width))
            return layer

        def conv(width, kernel_size, name, scale=1.0):
            layer = layers.Conv2D(
                self.channels, kernel_size, padding="same", kernel_initializer=fan_average(scale), dtype=policy,
                name=name,
            )  # fmt: skip
            layer.build((*images_shape[:-1], width))
            return layer

        self.norm1, self.conv1 = norm(channels, "norm1"), conv(channels, 3, "conv1")
        self.time = layers.Dense(self.channels, kernel_initializer=fan_average(), dtype=policy, name="time")
        self.time.build(embedding_shape)
        self.norm2, self.conv2 = norm(self.channels, "norm2"), conv(self.channels, 3, "conv2", 0.0)
        self.dropout = layers.Dropout(self.dropout_rate, dtype=policy, name="dropout")
        has_shortcut = channels != self.channels or self.resample is not None
        self.shortcut = conv(channels, 1, "shortcut") if has_shortcut else None

    def call(self, images, embedding, training=False):
        h = self.conv1(self.resampled(ops.silu(self.norm1(images))))  # (batch, height', width', channels)
        time = self.time(ops.silu(embedding))  # (batch, channels)
        h = h + ops.reshape(time, (-1, 1, 1, self.channels))
        h = self.conv2(self.dropout(ops.silu(self.norm2(h)), training=training))
        images = self.resampled(images)
        if self.shortcut is not None:
            images = self.shortcut(images)
        return (images + h) * math.sqrt(0.5) if self.rescale else images + h

    def compute_output_shape(self, images_shape, embedding_shape):
        batch, height, width, _ = images_shape
        sides = {None: lambda n: n, "down": lambda n: n // 2, "up": lambda n: 2 * n}[self.resample]
        return (batch, *(None if n is None else sides(n) for n in (height, width)), self.channels)


@keras.saving.register_keras_serializable(package="keras_dl")
class PixelAttention(Layer):
    """Self-attention of one or more heads among the pixels of an image, added to it.

        y = (x + out(softmax(q k^T / sqrt(d)) v)) k,    q, k, v = dense(norm(x))

    `out` starts near 0. `k` is 1, or `1 / sqrt(2)` with `rescale`. Tensors have three axes inside, and four with
    several heads.

    Args:
        groups: int. Of the normalization; must divide the channels. None for a quarter of the channels, at most 32.
        num_heads: int. Must divide the channels.
        rescale: bool.
        epsilon: float. Of the normalization.

    Call arguments:
        images: float, `(batch, height, width, channels)`, of known sides.

    Returns:
        The layer's compute dtype, same shape. The softmax is computed in float32.

    Raises:
        ValueError: if `groups` or `num_heads` does not divide the channels.

    Example:

    >>> PixelAttention(groups=4)(ops.ones((2, 4, 4, 8))).shape
    TensorShape([2, 4, 4, 8])
    """

    @arguments
    def __init__(
        self,
        groups: Size | None = 32,
        num_heads: Size = 1,
        rescale: bool = False,
        epsilon: Positive = 1e-6,
        **kwargs,
    ):
        super().__init__(**kwargs)

    def build(self, images_shape):
        channels = images_shape[-1]
        groups = min(channels // 4, 32) if self.groups is None else self.groups
        for name, divisor in (("groups", groups), ("num_heads", self.num_heads)):
            if channels % divisor:
                raise ValueError(f"{name}={divisor} must divide the {channels} channels of {self.name!r}.")
        self.norm = GroupNormalization(groups, epsilon=self.epsilon, dtype=self.dtype_policy, name="norm")
        self.norm.build(images_shape)
        for name in ("query", "key", "value", "out"):
            kernel = fan_average(0.0 if name == "out" else 1.0)
            layer = layers.Dense(channels, kernel_initializer=kernel, dtype=self.dtype_policy, name=name)
            layer.build((images_shape[0], None, channels))
            setattr(self, name, layer)

    def call(self, images):
        _, height, width, channels = images.shape
        x = ops.reshape(self.norm(images), (-1, height * width, channels))  # (batch, pixels, channels)
        q, k, v = (self._by_head(layer(x)) for layer in (self.query, self.key, self.value))
        transposed = ops.swapaxes(k, -1, -2)  # (batch, [heads,] width of a head, pixels)
        scores = ops.matmul(q * (channels // self.num_heads) ** -0.5, transposed)  # (batch, [heads,] pixels, pixels)
        weights = ops.cast(ops.softmax(ops.cast(scores, "float32"), axis=-1), v.dtype)
        x = ops.matmul(weights, v)  # (batch, [heads,] pixels, width of a head)
        if self.num_heads > 1:
            x = ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, height * width, channels))
        x = ops.reshape(self.out(x), (-1, height, width, channels))  # (batch, height, width, channels)
        return (images + x) * math.sqrt(0.5) if self.rescale else images + x

    def _by_head(self, x):
        if self.num_heads == 1:
            return x
        x = ops.reshape(x, (-1, x.shape[1], self.num_heads, x.shape[2] // self.num_heads))
        return ops.transpose(x, (0, 2, 1, 3))  # (batch, heads, pixels, width of a head)

    def compute_output_shape(self, images_shape):
        return images_shape
