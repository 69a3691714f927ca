"""AlexNet: five convolutions and three dense layers, the network that won ImageNet's contest of 2012.

    b_i = a_i / (k + alpha sum_j a_j^2)^beta        j over the n maps around i; k = 2, n = 5, alpha = 1e-4, beta = 3/4

    layer      two towers (2012)                        one tower (2014)
    conv 1     11x11/4, 96, relu, norm, pool            11x11/4, 64, relu, pool
    conv 2     5x5, 256 in 2 groups, relu, norm, pool   5x5, 192, relu, pool
    conv 3     3x3, 384, relu                           3x3, 384, relu
    conv 4     3x3, 384 in 2 groups, relu               3x3, 256, relu
    conv 5     3x3, 256 in 2 groups, relu, pool         3x3, 256, relu, pool
    dense      4,096, 4,096, classes                    the same
    weights    60,965,224                               61,100,840

Pools take the maximum of 3x3 pixels every second pixel. The groups are the halves that two GPUs held: a map sees the
maps of its own half only.

References:
- Krizhevsky, Sutskever, Hinton 2012, "ImageNet Classification with Deep Convolutional Neural Networks", NeurIPS 25,
  section 3.
- One tower: Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks", arXiv:1404.5997,
  with the sizes of torchvision, whose layout of weights `load_torchvision` reads.

Deviations from the paper:
- The first convolution puts 2 pixels of zeros around the image, without which 224x224 gives no 55x55 maps.
- Local response normalisation runs over all maps of a layer, as its formula says; the authors' code keeps to one GPU's.
- Weights start at He's normal distribution and biases at 0. The paper's N(0, 0.01) with biases of 0 and 1 suits pixels
  that are not scaled.
- Pixels are divided by their standard deviation, and the mean of each colour is subtracted, not the mean image.
"""

import keras
import numpy as np
from keras import layers, ops

from keras_dl.base import Layer
from keras_dl.checks import check_choice, check_image_shape, check_rate, check_size, check_sizes
from keras_dl.layers.pixels import IMAGENET_MEAN, IMAGENET_STD, PixelNormalization
from keras_dl.models.vision.classifier import ImageClassifier
from keras_dl.weights import load_torch


@keras.saving.register_keras_serializable(package="keras_dl")
class LocalResponseNormalization(Layer):
    """Divides each map by a power of the energy of its neighbours, at each pixel, in float32.

    `y_i = x_i / (bias + alpha sum_j x_j^2)^(3/4)`, `j` from `i - depth_radius` to `i + depth_radius`.

    The sum is a 1x1 convolution with a band of ones, and the power a product of
    reciprocal roots: both have int8 kernels on devices, and on a CPU take half the time of `tf.nn.lrn`.

    Args:
        depth_radius: int. Neighbours on each side.
        bias: float, positive.
        alpha: float.

    Call arguments:
        maps: float, `(batch, height, width, channels)`.

    Returns:
        The layer's compute dtype, same shape.
    """

    def __init__(self, depth_radius=2, bias=2.0, alpha=1e-4, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.depth_radius = depth_radius
        self.bias = bias
        self.alpha = alpha

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

    Each tower is a convolution of its own: `Conv2D(groups=...)` computes the same, and its gradient is slow on a CPU.

    Args:
        filters: int. Maps of all towers; `towers` must divide it.
        kernel_size: int, odd. Zeros around the input keep its size.
        towers: int. Must divide the input maps.

    Call arguments:
        maps: float, `(batch, height, width, channels)`.

    Returns:
        float, `(batch, height, width, filters)`.

    Raises:
        ValueError: if `towers` does not divide the maps.
    """

    def __init__(self, filters, kernel_size, towers=1, **kwargs):
        super().__init__(**kwargs)
        if filters % towers:
            raise ValueError(f"towers={towers} must divide filters={filters}.")
        self.filters = filters
        self.kernel_size = kernel_size
        self.towers = towers

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
        shares = ops.split(maps, self.towers, axis=-1) if self.towers > 1 else [maps]
        outputs = [conv(share) for conv, share in zip(self.convs, shares, strict=True)]
        return ops.concatenate(outputs, axis=-1) if self.towers > 1 else outputs[0]

    def compute_output_shape(self, maps_shape):
        return (*maps_shape[:-1], self.filters)


PRESETS = {
    "alexnet": dict(filters=(96, 256, 384, 384, 256), towers=2, response_normalization=True),  # 60,965,224
    "alexnet_one_tower": dict(filters=(64, 192, 384, 256, 256), towers=1, response_normalization=False),  # 61,100,840
}


@keras.saving.register_keras_serializable(package="keras_dl")
class AlexNet(ImageClassifier):
    """AlexNet, by default as of 2012.

    Args:
        image_shape: `(height, width, channels)`. Sides of at least 63 pixels.
        num_classes: int.
        filters: five ints. Maps of the convolutions.
        towers: 1 or 2. In how many groups convolutions 2, 4 and 5 are split.
        response_normalization: bool. Whether local response normalisation follows convolutions 1 and 2.
        hidden_dim: int. Width of the two hidden dense layers.
        dropout_rate: float in [0, 1). After each hidden dense layer.
        mean: float, or one a channel, in [0, 255] pixels. Subtracted from the image.
        std: float, or one a channel, in [0, 255] pixels. Divides it.

    Call arguments:
        images: `(batch, height, width, channels)`, raw pixels in [0, 255].

    Returns:
        float, `(batch, num_classes)`: logits.

    Raises:
        ValueError: if an argument is not as said; the message names it and its value.

    Example:

    >>> model = AlexNet((64, 64, 3), 10, filters=(8, 16, 16, 16, 16), hidden_dim=32)
    >>> model(keras.ops.zeros((1, 64, 64, 3))).shape
    TensorShape([1, 10])
    """

    presets = PRESETS

    def __init__(
        self,
        image_shape=(224, 224, 3),
        num_classes=1000,
        filters=(96, 256, 384, 384, 256),
        towers=2,
        response_normalization=True,
        hidden_dim=4096,
        dropout_rate=0.5,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        dtype=None,
        **kwargs,
    ):
        image_shape = check_image_shape(
            "image_shape", image_shape, min_side=63
        )  # smaller ones leave nothing for the last pool
        num_classes = check_size("num_classes", num_classes)
        filters = check_sizes("filters", filters)
        if len(filters) != 5:
            raise ValueError(f"filters={filters} must have one value for each of five convolutions.")
        check_choice("towers", towers, (1, 2))
        hidden_dim = check_size("hidden_dim", hidden_dim)
        dropout_rate = check_rate("dropout_rate", dropout_rate)

        def respond_and_pool(maps, name):
            if response_normalization:
                maps = LocalResponseNormalization(dtype=dtype, name=f"norm_{name}")(maps)
            return layers.MaxPooling2D(3, 2, dtype=dtype, name=f"pool_{name}")(maps)

        images = keras.Input(image_shape, name="images")
        maps = PixelNormalization(mean, std, dtype=dtype, name="pixels")(images)
        maps = layers.ZeroPadding2D(2, dtype=dtype)(maps)
        maps = layers.Conv2D(
            filters[0], 11, 4, activation="relu", kernel_initializer="he_normal", dtype=dtype, name="conv_1"
        )(maps)
        maps = respond_and_pool(maps, 1)
        maps = TowerConv2D(filters[1], 5, towers, dtype=dtype, name="conv_2")(maps)
        maps = respond_and_pool(maps, 2)
        maps = TowerConv2D(filters[2], 3, dtype=dtype, name="conv_3")(maps)  # sees the maps of both towers
        maps = TowerConv2D(filters[3], 3, towers, dtype=dtype, name="conv_4")(maps)
        maps = TowerConv2D(filters[4], 3, towers, dtype=dtype, name="conv_5")(maps)
        maps = layers.MaxPooling2D(3, 2, dtype=dtype, name="pool_5")(maps)
        logits = dense_head(maps, hidden_dim, num_classes, dropout_rate, "he_normal", dtype)
        super().__init__(inputs=images, outputs=logits, dtype=dtype, **kwargs)

        self.image_shape = image_shape
        self.num_classes = num_classes
        self.filters = filters
        self.towers = towers
        self.response_normalization = response_normalization
        self.hidden_dim = hidden_dim
        self.dropout_rate = dropout_rate
        self.mean = self.get_layer("pixels").mean
        self.std = self.get_layer("pixels").std

    def load_torchvision(self, weights):
        """Takes the weights of torchvision's AlexNet, which has one tower and no response normalisation.

        Args:
            weights: mapping from torchvision's names to NumPy arrays, or the path of a `.safetensors` file.

        Raises:
            ValueError: if the model has two towers, or if entries are missing, unknown or of another shape;
                the message lists all of them, and the model stays as it was.
        """
        if self.towers != 1 or self.response_normalization:
            raise ValueError(
                f"towers={self.towers} with response_normalization={self.response_normalization} has no counterpart in "
                "torchvision; build the model with AlexNet.from_preset('alexnet_one_tower')."
            )
        modules = {"features.0": self.get_layer("conv_1")}
        for name, ours in (("3", "conv_2"), ("6", "conv_3"), ("8", "conv_4"), ("10", "conv_5")):
            modules[f"features.{name}"] = self.get_layer(ours).convs[0]
        for name, ours in (("1", "dense_1"), ("4", "dense_2"), ("6", "head")):
            modules[f"classifier.{name}"] = self.get_layer(ours)
        load_torch(modules, weights, flattened={"classifier.1": self.get_layer("pool_5").output.shape[1:]})


def dense_head(maps, hidden_dim, num_classes, dropout_rate, kernel_initializer, dtype):
    """Two hidden dense layers with relu and dropout, and the logits: what AlexNet and VGG end in."""
    hidden = layers.Flatten(dtype=dtype, name="flatten")(maps)
    for name in ("dense_1", "dense_2"):
        hidden = layers.Dense(
            hidden_dim, activation="relu", kernel_initializer=kernel_initializer, dtype=dtype, name=name
        )(hidden)
        hidden = layers.Dropout(dropout_rate, dtype=dtype)(hidden)
    return layers.Dense(num_classes, dtype=dtype, name="head")(hidden)
