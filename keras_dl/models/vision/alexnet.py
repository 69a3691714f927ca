"""AlexNet: five convolutions and three dense layers, the network that won the ImageNet challenge of 2012.

    b_i = a_i / (k + alpha sum_j a_j^2)^beta        j over the n maps around i; k = 2, n = 5, alpha = 1e-4, beta = 3/4

    layer      two towers (2012)                        one tower (2014)
    conv 1     11x11/4, 96, relu, norm, pool            11x11/4, 64, relu, pool
    conv 2     5x5, 256 in 2 groups, relu, norm, pool   5x5, 192, relu, pool
    conv 3     3x3, 384, relu                           3x3, 384, relu
    conv 4     3x3, 384 in 2 groups, relu               3x3, 256, relu
    conv 5     3x3, 256 in 2 groups, relu, pool         3x3, 256, relu, pool
    dense      4,096, 4,096, classes                    the same
    weights    60,965,224                               61,100,840

Pools take the maximum of 3x3 pixels with a stride of 2. Each group is the half of the maps that one of two GPUs held:
a map sees only the maps of its own half.

References:
- Krizhevsky, Sutskever, Hinton 2012, "ImageNet Classification with Deep Convolutional Neural Networks", NeurIPS 25,
  section 3.
- One tower: Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks", arXiv:1404.5997,
  with the sizes of torchvision, whose layout of weights `load_torchvision` reads.

Deviations from the paper:
- The first convolution pads the image with 2 pixels of zeros. Without them 224x224 pixels do not give 55x55 maps.
- Local response normalization runs over all maps of a layer, as its formula says. The authors' code runs over the maps
  of one GPU.
- Weights start at He's normal distribution and biases at 0. The paper's N(0, 0.01) with biases of 0 and 1 suits pixels
  that are not scaled.
- Pixels are divided by their standard deviation. The mean of each color is subtracted, not the mean image.
"""

from typing import Annotated

import keras
import numpy as np
from keras import layers, ops

from keras_dl.arguments import (
    AtLeast,
    ImageShapeAtLeast,
    Number,
    OddSize,
    OneOf,
    PerChannel,
    Positive,
    PositivePerChannel,
    Rate,
    Size,
    Sizes,
    arguments,
)
from keras_dl.base import Layer
from keras_dl.layers.pixels import IMAGENET_MEAN, IMAGENET_STD, PixelNormalization
from keras_dl.models.vision.classifier import ImageClassifier, dense_head
from keras_dl.weights import Weights, load_torch


def _check_five(name, values):
    if len(values) != 5:
        raise ValueError(f"{name}={values} must have one value for each of five convolutions.")
    return values


FiveSizes = Annotated[Sizes, _check_five]


@keras.saving.register_keras_serializable(package="keras_dl")
class LocalResponseNormalization(Layer):
    """Divides each map by a power of the energy of its neighbors, at each pixel, in float32.

    `y_i = x_i / (bias + alpha sum_j x_j^2)^(3/4)`, `j` from `i - depth_radius` to `i + depth_radius`.

    The sum is a 1x1 convolution with a band of ones, and the power is a product of reciprocal roots. Both have int8
    kernels on devices. On a CPU they take half the time of `tf.nn.lrn`.

    Args:
        depth_radius: int. Neighbors on each side.
        bias: float, positive.
        alpha: float.

    Call arguments:
        maps: float, `(batch, height, width, channels)`.

    Returns:
        The layer's compute dtype, same shape.
    """

    @arguments
    def __init__(self, depth_radius: AtLeast(0) = 2, bias: Positive = 2.0, alpha: Number = 1e-4, **kwargs):
        super().__init__(autocast=False, **kwargs)

    def call(self, maps):
        maps = ops.cast(maps, "float32")
        index = np.arange(maps.shape[-1])
        band = np.abs(index[:, None] - index) <= self.depth_radius
        energy = self.bias + ops.conv(maps * maps, self.alpha * band[None, None].astype("float32"))
        root = ops.rsqrt(energy)
        return ops.cast(maps * root * ops.rsqrt(energy * root), self.compute_dtype)  # root sqrt(root) = energy^(-3/4)

    def compute_output_shape(self, maps_shape):
        return maps_shape


@keras.saving.register_keras_serializable(package="keras_dl")
class TowerConv2D(Layer):
    """Convolutions side by side, each from its share of the input maps to its share of the output maps, then relu.

    Each tower is a convolution of its own. `Conv2D(groups=...)` computes the same, but its gradient is slow on a CPU.

    Args:
        filters: int. Maps of all towers together; `towers` must divide it.
        kernel_size: int, pixels, odd. Zeros around the input keep its size.
        towers: int. Must divide the input maps.

    Call arguments:
        maps: float, `(batch, height, width, channels)`.

    Returns:
        float, `(batch, height, width, filters)`.

    Raises:
        ValueError: if `towers` does not divide the maps.
    """

    @arguments
    def __init__(self, filters: Size, kernel_size: OddSize, towers: Size = 1, **kwargs):
        super().__init__(**kwargs)
        if filters % towers:
            raise ValueError(f"towers={towers} must divide filters={filters}.")

    def build(self, maps_shape):
        if maps_shape[-1] % self.towers:
            raise ValueError(f"towers={self.towers} must divide the {maps_shape[-1]} maps of the input.")
        self.convs = []
        for i in range(self.towers):
            conv = layers.Conv2D(
                self.filters // self.towers,
                self.kernel_size,
                padding="same",
                activation="relu",
                kernel_initializer="he_normal",
                dtype=self.dtype_policy,
                name=f"tower_{i}",
            )
            conv.build((*maps_shape[:-1], maps_shape[-1] // self.towers))
            self.convs.append(conv)

    def call(self, maps):
        # (batch, height, width, channels / towers) each
        shares = ops.split(maps, self.towers, axis=-1) if self.towers > 1 else [maps]
        outputs = [conv(share) for conv, share in zip(self.convs, shares, strict=True)]
        return ops.concatenate(outputs, axis=-1) if self.towers > 1 else outputs[0]  # (batch, height, width, filters)

    def compute_output_shape(self, maps_shape):
        return (*maps_shape[:-1], self.filters)


PRESETS = {
    "alexnet": dict(filters=(96, 256, 384, 384, 256), towers=2, response_normalization=True),  # 60,965,224
    "alexnet_one_tower": dict(filters=(64, 192, 384, 256, 256), towers=1, response_normalization=False),  # 61,100,840
}


@keras.saving.register_keras_serializable(package="keras_dl")
class AlexNet(ImageClassifier):
    """AlexNet, by default as of 2012.

    Layers of interest by name: `conv_1` to `conv_5`, `pool_5`, `dense_1`, `dense_2`, `features`, `head`.

    Args:
        image_shape: `(height, width, channels)`. Sides of at least 63 pixels.
        num_classes: int. None for a model without a head, which returns features.
        filters: five ints. Maps of the convolutions.
        towers: 1 or 2. In how many groups convolutions 2, 4 and 5 are split.
        response_normalization: bool. Whether local response normalization follows convolutions 1 and 2.
        hidden_dim: int. Width of the two hidden dense layers.
        dropout_rate: float in [0, 1). After each hidden dense layer.
        pool_size: int, or None. Maps of other sides are averaged to so many, so that the dense layers have the same
            weights for all image sizes. 6 is torchvision's. None leaves them as they are, which is the same at 224x224.
        mean: float, or one per channel, in units of [0, 255] pixels. Subtracted from the image.
        std: float, or one per channel, in units of [0, 255] pixels. Divides the image.

    Call arguments:
        images: `(batch, height, width, channels)`, raw pixels in [0, 255].

    Returns:
        float, `(batch, num_classes)`: logits. Without a head: features, `(batch, channels)`.

    Raises:
        ValueError: if an argument is not one of those above; the message names it and its value.

    Example:

    >>> model = AlexNet((64, 64, 3), 10, filters=(8, 16, 16, 16, 16), hidden_dim=32)
    >>> model(keras.ops.zeros((1, 64, 64, 3))).shape
    TensorShape([1, 10])
    """

    presets = PRESETS

    @arguments
    def __init__(
        self,
        image_shape: ImageShapeAtLeast(63) = (224, 224, 3),  # smaller images leave nothing for the last pool
        num_classes: Size | None = 1000,
        filters: FiveSizes = (96, 256, 384, 384, 256),
        towers: OneOf(1, 2) = 2,
        response_normalization: bool = True,
        hidden_dim: Size = 4096,
        dropout_rate: Rate = 0.5,
        pool_size: Size | None = None,
        mean: PerChannel = IMAGENET_MEAN,
        std: PositivePerChannel = IMAGENET_STD,
        dtype=None,
        **kwargs,
    ):
        def respond_and_pool(maps, i):
            if response_normalization:
                maps = LocalResponseNormalization(name=f"norm_{i}")(maps)
            return layers.MaxPooling2D(3, 2, name=f"pool_{i}")(maps)

        images = keras.Input(image_shape, name="images")
        maps = PixelNormalization(mean, std, name="pixels")(images)
        maps = layers.ZeroPadding2D(2)(maps)
        maps = layers.Conv2D(filters[0], 11, 4, activation="relu", kernel_initializer="he_normal", name="conv_1")(maps)
        maps = respond_and_pool(maps, 1)  # (batch, 27, 27, filters[0]) of 224x224 pixels
        maps = TowerConv2D(filters[1], 5, towers, name="conv_2")(maps)
        maps = respond_and_pool(maps, 2)  # (batch, 13, 13, filters[1])
        maps = TowerConv2D(filters[2], 3, name="conv_3")(maps)  # sees the maps of both towers
        maps = TowerConv2D(filters[3], 3, towers, name="conv_4")(maps)
        maps = TowerConv2D(filters[4], 3, towers, name="conv_5")(maps)
        maps = layers.MaxPooling2D(3, 2, name="pool_5")(maps)  # (batch, 6, 6, filters[4])
        logits = dense_head(maps, hidden_dim, num_classes, dropout_rate, pool_size, "he_normal")
        super().__init__(inputs=images, outputs=logits, **kwargs)

    def load_torchvision(self, weights: Weights, head: bool = True) -> None:
        """Takes the weights of torchvision's AlexNet, which has one tower and no response normalization.

        Args:
            weights: mapping from torchvision's names to NumPy arrays, or the path of a `.safetensors` file.
            head: bool. Whether the last layer is loaded too. False leaves it as it is, whatever classes `weights` has.

        Raises:
            ValueError: if the model has two towers, or if entries are missing, unknown or of another shape.
                The message lists all of them, and the model stays as it was.
        """
        if self.towers != 1 or self.response_normalization:
            raise ValueError(
                f"towers={self.towers} with response_normalization={self.response_normalization} has no counterpart in "
                "torchvision; build the model with AlexNet.from_preset('alexnet_one_tower')."
            )
        modules = {"features.0": self.get_layer("conv_1")}
        for name, ours in (("3", "conv_2"), ("6", "conv_3"), ("8", "conv_4"), ("10", "conv_5")):
            modules[f"features.{name}"] = self.get_layer(ours).convs[0]
        without = self._without(head, "classifier.6")
        for name, ours in (("classifier.1", "dense_1"), ("classifier.4", "dense_2"), ("classifier.6", "head")):
            if name not in without:
                modules[name] = self.get_layer(ours)
        load_torch(modules, weights, {"classifier.1": self.get_layer("flatten").input.shape[1:]}, without)
