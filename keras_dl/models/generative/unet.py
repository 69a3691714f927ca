"""DDPM's U-Net: from noisy images, times and perhaps labels to images.

    in        3x3 conv to `filters` channels
    down      for each level: residual blocks, each with attention at some sides; then a 3x3 conv of stride 2
    middle    residual block, attention, residual block
    up        for each level: one block more, each with a skip from the way down; then each pixel four times, 3x3 conv
    out       norm, swish, 3x3 conv that starts near 0

The embedding of the time goes through two dense layers of `4 filters` units, and into every residual block. So does
that of a label, which is added to it.

Reference: Ho, Jain, Abbeel 2020, arXiv:2006.11239, appendix B, and its code.
"""

import keras
import tensorflow as tf
from keras import layers

from keras_dl.arguments import Size, arguments
from keras_dl.base import Layer
from keras_dl.layers.norm import GroupNormalization
from keras_dl.layers.unet import Doubling, PixelAttention, TimedResidualBlock, TimeEmbedding, fan_average


@keras.saving.register_keras_serializable(package="keras_dl")
class SpaceToDepth(Layer):
    """Patches of pixels become channels: `(batch, height / n, width / n, n^2 channels)`.

    Args:
        patch_size: int, n.
    """

    @arguments
    def __init__(self, patch_size: Size, **kwargs):
        super().__init__(**kwargs)

    def call(self, images):
        return tf.nn.space_to_depth(images, self.patch_size)

    def compute_output_shape(self, images_shape):
        batch, height, width, channels = images_shape
        n = self.patch_size
        return (batch, height // n, width // n, channels * n**2)


@keras.saving.register_keras_serializable(package="keras_dl")
class DepthToSpace(Layer):
    """The inverse of `SpaceToDepth`."""

    @arguments
    def __init__(self, patch_size: Size, **kwargs):
        super().__init__(**kwargs)

    def call(self, images):
        return tf.nn.depth_to_space(images, self.patch_size)

    def compute_output_shape(self, images_shape):
        batch, height, width, channels = images_shape
        n = self.patch_size
        return (batch, height * n, width * n, channels // n**2)


def check_unet(image_shape, filters, multipliers, groups, num_heads, patch_size):
    """Refuses sizes that do not divide each other."""
    height, width, _ = image_shape
    divisor = patch_size * 2 ** (len(multipliers) - 1)
    if height % divisor or width % divisor:
        raise ValueError(
            f"image_shape={image_shape}: both sides must be multiples of {divisor}: patch_size={patch_size}, and "
            f"multipliers={multipliers} halve them {len(multipliers) - 1} times."
        )
    if filters % 2 or filters < 4:
        raise ValueError(f"filters={filters} must be even and at least 4: half of them are sines of the time.")
    if filters % groups:
        raise ValueError(f"groups={groups} must divide filters={filters}.")
    if filters % num_heads:
        raise ValueError(f"num_heads={num_heads} must divide filters={filters}.")


def unet(
    image_shape,
    out_channels,
    filters,
    multipliers,
    num_blocks,
    attention_sides,
    dropout_rate,
    groups,
    num_heads,
    patch_size,
    num_classes,
    name,
) -> keras.Model:
    """A model of a dict of `"images"`, `"times"` and, with `num_classes`, `"labels"`, where `num_classes` is "none".

    Its layers have names: `down_LEVEL_block_N`, `down_LEVEL_attention_N`, `down_LEVEL_halving`, `middle_block_N`,
    `up_LEVEL_block_N`, and so on. It returns float32, `(batch, height, width, out_channels)`.
    """
    inputs = {
        "images": keras.Input(image_shape, name="images"),
        "times": keras.Input((), dtype="float32", name="times"),
    }
    hidden = TimeEmbedding(filters, name="time_waves")(inputs["times"])  # (batch, filters)
    hidden = layers.Dense(4 * filters, "silu", kernel_initializer=fan_average(), name="time_1")(hidden)
    time = layers.Dense(4 * filters, kernel_initializer=fan_average(), name="time_2")(hidden)  # (batch, 4 filters)
    if num_classes is not None:
        inputs["labels"] = keras.Input((), dtype="int32", name="labels")
        normal = keras.initializers.RandomNormal(stddev=1.0)
        labels = layers.Embedding(num_classes + 1, 4 * filters, embeddings_initializer=normal, name="label")
        time = layers.Add(name="time_and_label")([time, labels(inputs["labels"])])

    def block(x, channels, name):
        return TimedResidualBlock(channels, groups, dropout_rate, name=name)(x, time)

    def attention(x, name):
        return PixelAttention(groups, num_heads, name=name)(x)

    def conv(x, channels, name, strides=1):
        return layers.Conv2D(channels, 3, strides, "same", kernel_initializer=fan_average(), name=name)(x)

    x = inputs["images"]
    if patch_size > 1:
        x = SpaceToDepth(patch_size, name="patches")(x)
    side = max(x.shape[1:3])
    x = conv(x, filters, "in")  # (batch, height, width, filters)
    skips = [x]
    levels = list(enumerate(multipliers))
    for level, multiplier in levels:
        has_attention = side // 2**level in attention_sides
        for i in range(num_blocks):
            x = block(x, filters * multiplier, f"down_{level}_block_{i}")
            if has_attention:
                x = attention(x, f"down_{level}_attention_{i}")
            skips.append(x)
        if level < len(levels) - 1:
            x = conv(x, filters * multiplier, f"down_{level}_halving", 2)  # (batch, height / 2, width / 2, channels)
            skips.append(x)

    x = block(x, filters * multipliers[-1], "middle_block_0")
    x = block(attention(x, "middle_attention"), filters * multipliers[-1], "middle_block_1")

    for level, multiplier in reversed(levels):
        has_attention = side // 2**level in attention_sides
        for i in range(num_blocks + 1):
            x = layers.Concatenate(name=f"up_{level}_skip_{i}")([x, skips.pop()])
            x = block(x, filters * multiplier, f"up_{level}_block_{i}")
            if has_attention:
                x = attention(x, f"up_{level}_attention_{i}")
        if level:
            x = Doubling(name=f"up_{level}_doubling")(x)  # (batch, 2 height, 2 width, channels)
            x = conv(x, filters * multiplier, f"up_{level}_conv")

    x = GroupNormalization(groups, epsilon=1e-6, name="out_norm")(x)
    x = layers.Activation("silu", name="out_silu")(x)
    x = layers.Conv2D(
        out_channels * patch_size**2,
        3,
        padding="same",
        kernel_initializer=fan_average(0.0),
        dtype="float32",
        name="out",
    )(x)
    if patch_size > 1:
        x = DepthToSpace(patch_size, dtype="float32", name="pixels")(x)
    return keras.Model(inputs, x, name=name)


def diffusers_layers(network, multipliers, num_blocks) -> dict[str, tuple]:
    """The layers of a U-Net by the names of diffusers' `UNet2DModel`: `{prefix: layer}`.

    Of attention, dense layers have the new names: `to_q`, `to_k`, `to_v`, `to_out.0`.
    """
    names = {layer.name: layer for layer in network.layers}
    found = {
        "conv_in": names["in"],
        "time_embedding.linear_1": names["time_1"],
        "time_embedding.linear_2": names["time_2"],
        "conv_norm_out": names["out_norm"],
        "conv_out": names["out"],
    }
    if "label" in names:
        found["class_embedding"] = names["label"]

    def add_block(prefix, layer):
        parts = dict(norm1="norm1", conv1="conv1", time_emb_proj="time", norm2="norm2", conv2="conv2")
        parts |= {"conv_shortcut": "shortcut"} if layer.shortcut is not None else {}
        found.update({f"{prefix}.{theirs}": getattr(layer, ours) for theirs, ours in parts.items()})

    def add_attention(prefix, layer):
        parts = {"group_norm": "norm", "to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "out"}
        found.update({f"{prefix}.{theirs}": getattr(layer, ours) for theirs, ours in parts.items()})

    last = len(multipliers) - 1
    for way, count in (("down", num_blocks), ("up", num_blocks + 1)):
        for level in range(last + 1):
            number = level if way == "down" else last - level  # theirs count from the smallest on the way up
            for i in range(count):
                add_block(f"{way}_blocks.{number}.resnets.{i}", names[f"{way}_{level}_block_{i}"])
                if f"{way}_{level}_attention_{i}" in names:
                    add_attention(f"{way}_blocks.{number}.attentions.{i}", names[f"{way}_{level}_attention_{i}"])
            if way == "down" and level < last:
                found[f"down_blocks.{number}.downsamplers.0.conv"] = names[f"down_{level}_halving"]
            if way == "up" and level:
                found[f"up_blocks.{number}.upsamplers.0.conv"] = names[f"up_{level}_conv"]
    for i in (0, 1):
        add_block(f"mid_block.resnets.{i}", names[f"middle_block_{i}"])
    add_attention("mid_block.attentions.0", names["middle_attention"])
    return found
