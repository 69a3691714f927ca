"""The nets of score-based models of images: NCSN++ and DDPM++.

NCSN++ is the U-Net of DDPM with the residual blocks of BigGAN, which change the sides themselves; sums divided by the
square root of 2; images filtered by [1, 3, 3, 1] where they are resampled; a pyramid of smaller inputs, added on the
way down; and random Fourier features of log sigma. DDPM++ has the blocks and the scaled sums only, and takes the time
as DDPM does.

Reference: Song et al. 2021, arXiv:2011.13456, appendix H, with the layers and initial weights of the authors' code
(yang-song/score_sde_pytorch). The blocks are those of `keras_dl.layers.unet`.

Deviation: the nets return the noise. That of the authors returns its negative for VE; `entries` turns the sign of the
last layer.
"""

import functools
import math

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from keras_dl.arguments import Size, arguments
from keras_dl.base import Layer
from keras_dl.diffusion.sdes import VE
from keras_dl.layers.norm import GroupNormalization
from keras_dl.layers.unet import PixelAttention, TimedResidualBlock, fan_average
from keras_dl.models.generative.time_features import FourierFeatures, embedded
from keras_dl.ops.resampling import downsample, downsampled_convolution, upsample
from keras_dl.weights import Entry, torch_entries


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
    embedding, modules = embedded(times, filters, 4 * filters, time_features, process)

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
