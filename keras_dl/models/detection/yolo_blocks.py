"""Blocks of the anchor-free YOLO: a net of convolutions with batch normalization, from pixels to maps of some levels.

Layers are called as the tensors of published files: `model.2.m.0.cv1.conv` is the first convolution of the first
bottleneck of the third block. Such names are facts; this file is written from the papers and from tables of sizes.

References: Wang et al. 2019, "CSPNet", arXiv:1911.11929 (blocks of which a part of the maps goes around); He et al.
2014, arXiv:1406.4729 (pooling at several sizes); Liu et al. 2018, "Path Aggregation Network", arXiv:1803.01534.
"""

import itertools
import math

import keras
import tensorflow as tf
from keras import layers, ops

from keras_dl.arguments import arguments
from keras_dl.base import Layer
from keras_dl.layers.norm import BatchNormalization
from keras_dl.layers.pixels import PixelNormalization
from keras_dl.layers.unet import double

STRIDES = (8, 16, 32)
CHANNELS = {4: 128, 8: 256, 16: 512, 32: 1024}  # of the levels, by stride, before the factor
LARGEST_SIDE = 640  # of the images for which the biases of the head start


@keras.saving.register_keras_serializable(package="keras_dl")
class NearestDoubling(Layer):
    """Doubles the sides of maps: each place becomes four. Inference is one op that NPUs have.

    Call arguments:
        maps: float, `(batch, height, width, channels)`, sides known.
        training: bool. Whether a gradient is needed, which the op of inference lacks under XLA.

    Returns:
        The layer's compute dtype, `(batch, 2 height, 2 width, channels)`.

    Example:

    >>> NearestDoubling()(ops.reshape(ops.array([1.0, 2.0]), (1, 1, 2, 1)))[0, :, :, 0].numpy()
    array([[1., 1., 2., 2.],
           [1., 1., 2., 2.]], dtype=float32)
    """

    @arguments
    def __init__(self, **kwargs):
        super().__init__(**kwargs)

    def call(self, maps, training=False):
        if training:
            return double(maps)
        _, height, width, _ = maps.shape
        return tf.raw_ops.ResizeNearestNeighbor(images=maps, size=[2 * height, 2 * width])

    def compute_output_shape(self, maps_shape):
        batch, height, width, channels = maps_shape
        return (batch, 2 * height, 2 * width, channels)


class Net:
    """Builds a net: what all of its blocks have in common.

    Args:
        activation: str. The activation of all blocks.
        depth: float. Factor of the numbers of bottlenecks.
        width: float. Factor of the numbers of maps.
        max_channels: int. The most maps, before the factor.
        strides: ints. Of the levels with a head, from 4 or 8 on, each twice the one before.
    """

    def __init__(self, activation, depth, width, max_channels, strides=STRIDES):
        self.activation = activation
        self.depth = depth
        self.width = width
        self.max_channels = max_channels
        self.strides = strides

    def channels(self, count):
        """The maps of a block, a multiple of 8."""
        return 8 * math.ceil(min(count, self.max_channels) * self.width / 8)

    def repeats(self, count):
        """The bottlenecks of a block."""
        return max(round(count * self.depth), 1)

    def conv(self, maps, filters, kernel_size=1, strides=1, *, name):
        """Convolution, batch normalization, activation. A strided one pads all sides alike."""
        if strides > 1:
            maps = layers.ZeroPadding2D(kernel_size // 2)(maps)
        maps = layers.Conv2D(
            filters,
            kernel_size,
            strides,
            padding="same" if strides == 1 else "valid",
            use_bias=False,
            kernel_initializer=uniform(),
            name=f"{name}.conv",
        )(maps)
        maps = BatchNormalization(momentum=0.97, epsilon=1e-3, name=f"{name}.bn")(maps)
        return layers.Activation(self.activation, name=f"{name}.act")(maps)

    def down(self, maps, filters, name):
        """Half the sides."""
        return self.conv(maps, self.channels(filters), 3, 2, name=name)

    def c2f(self, maps, filters, count, shortcut, name):
        """Half of the maps goes through bottlenecks, one after the other; all of their results are joined."""
        filters = self.channels(filters)
        maps = self.conv(maps, filters, name=f"{name}.cv1")
        parts = list(ops.split(maps, 2, axis=-1))  # (batch, height, width, filters / 2), twice
        for i in range(self.repeats(count)):
            hidden = self.conv(parts[-1], filters // 2, 3, name=f"{name}.m.{i}.cv1")
            hidden = self.conv(hidden, filters // 2, 3, name=f"{name}.m.{i}.cv2")
            parts.append(layers.Add()([parts[-1], hidden]) if shortcut else hidden)
        joined = layers.Concatenate()(parts)  # (batch, height, width, (2 + bottlenecks) filters / 2)
        return self.conv(joined, filters, name=f"{name}.cv2")

    def sppf(self, maps, filters, name):
        """Maxima of windows of 5, 9 and 13, as three poolings of 5, one after the other."""
        filters = self.channels(filters)
        parts = [self.conv(maps, filters // 2, name=f"{name}.cv1")]
        for _ in range(3):
            parts.append(layers.MaxPooling2D(5, 1, "same")(parts[-1]))
        return self.conv(layers.Concatenate()(parts), filters, name=f"{name}.cv2")

    def backbone(self, images):
        """The maps of the strides 4, 8, 16 and 32: a dict by stride."""
        maps = PixelNormalization(0.0, 255.0, name="pixels")(images)
        maps = self.down(maps, 64, "model.0")
        levels = {}
        for i, (stride, count) in enumerate(zip(CHANNELS, (3, 6, 6, 3), strict=True)):
            maps = self.down(maps, CHANNELS[stride], f"model.{2 * i + 1}")
            maps = self.c2f(maps, CHANNELS[stride], count, True, f"model.{2 * i + 2}")
            levels[stride] = maps
        return levels | {32: self.sppf(maps, CHANNELS[32], "model.9")}

    def neck(self, levels):
        """The levels hear of each other: first from stride 32 to the finest one, then back. A dict by stride."""
        levels, numbers = dict(levels), itertools.count(12, 3)  # of blocks: what is before each of them counts, too

        def join(maps, stride, number):
            joined = layers.Concatenate()([maps, levels[stride]])
            levels[stride] = self.c2f(joined, CHANNELS[stride], 3, False, f"model.{number}")

        for stride in (stride for stride in (16, 8, 4) if stride >= self.strides[0]):
            join(NearestDoubling()(levels[2 * stride]), stride, next(numbers))
        for before, stride in itertools.pairwise(self.strides):
            number = next(numbers)
            join(self.down(levels[before], CHANNELS[before], f"model.{number - 2}"), stride, number)
        return {stride: levels[stride] for stride in self.strides}

    @property
    def head_name(self):
        """The head comes after all blocks of the neck."""
        upward = sum(self.strides[0] <= stride < 32 for stride in CHANNELS)
        return f"model.{9 + 3 * (upward + len(self.strides) - 1) + 1}"

    def head(self, levels, num_classes, bins):
        """Of each level, logits of the four distances and of the classes: dict of float32 maps by name."""
        finest = levels[self.strides[0]].shape[-1]
        box_width, class_width = max(16, finest // 4, 4 * bins), max(finest, min(num_classes, 100))
        outputs = {}
        for i, (stride, maps) in enumerate(levels.items()):
            # As many objects as five in an image of 640 x 640, at every place alike.
            rare = math.log(5 / num_classes / (LARGEST_SIDE / stride) ** 2)
            for what, branch, width, size, bias in (
                ("boxes", "cv2", box_width, 4 * bins, 1.0),
                ("classes", "cv3", class_width, num_classes, rare),
            ):
                name, hidden = f"{self.head_name}.{branch}.{i}", maps
                for j in range(2):
                    hidden = self.conv(hidden, width, 3, name=f"{name}.{j}")
                outputs[f"{what}_{stride}"] = layers.Conv2D(  # (batch, height / stride, width / stride, size)
                    size,
                    1,
                    kernel_initializer=uniform(),
                    bias_initializer=keras.initializers.Constant(bias),
                    dtype="float32",
                    name=f"{name}.2",
                )(hidden)
        return outputs


def uniform():
    """Uniform in +-1 / sqrt(inputs of a value): what convolutions of torch start at."""
    return keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
