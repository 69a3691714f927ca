"""VGG: a deep network of 3x3 convolutions.

    stage    n blocks, each a convolution 3x3 with relu; max pool 2x2/2;   five stages of 64, 128, 256, 512, 512 maps
    dense    4,096, 4,096, classes, with relu and dropout

    net       A (VGG-11)     B (VGG-13)     D (VGG-16)     E (VGG-19)
    n         1 1 2 2 2      2 2 2 2 2      2 2 3 3 3      2 2 4 4 4
    weights   132,863,336    133,047,848    138,357,544    143,667,240

Reference: Simonyan, Zisserman 2014, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
arXiv:1409.1556, tables 1 and 2. The layout of weights that `load_torchvision` reads is torchvision's.

Deviations from the paper:
- Weights start at Glorot's uniform distribution. The paper found it to work (section 3.1) as well as its own way of
  growing the deep nets from a trained net A.
- Pixels are divided by their standard deviation.
- Net C, with 1x1 convolutions, and the response normalization of A-LRN are left out.
"""

import keras
from keras import layers

from keras_dl.arguments import ImageShape, PerChannel, PositivePerChannel, Rate, Size, Sizes, arguments
from keras_dl.checks import check_image_shape, check_stages
from keras_dl.layers.pixels import IMAGENET_MEAN, IMAGENET_STD, PixelNormalization
from keras_dl.models.vision.classifier import ImageClassifier, dense_head
from keras_dl.weights import Weights, load_torch

PRESETS = {
    "vgg11": dict(num_blocks=(1, 1, 2, 2, 2)),
    "vgg13": dict(num_blocks=(2, 2, 2, 2, 2)),
    "vgg16": dict(num_blocks=(2, 2, 3, 3, 3)),
    "vgg19": dict(num_blocks=(2, 2, 4, 4, 4)),
}


@keras.saving.register_keras_serializable(package="keras_dl")
class VGG(ImageClassifier):
    """VGG, by default net D, VGG-16.

    Layers of interest by name: `conv_1_1` and so on (stage, and place in it), `pool_1` to `pool_5`, `dense_1`,
    `dense_2`, `features`, `head`.

    Args:
        image_shape: `(height, width, channels)`. Sides of at least 2 to the power of the number of stages.
        num_classes: int. None for a model without a head, which returns features.
        num_blocks: sequence of int. Convolutions of each stage.
        filters: sequence of int, one per stage. Maps of its convolutions.
        hidden_dim: int. Width of the two hidden dense layers.
        dropout_rate: float in [0, 1). After each hidden dense layer.
        pool_size: int, or None. Maps of other sides are averaged to so many, so that the dense layers have the same
            weights for all image sizes. 7 is torchvision's. None leaves them as they are, which is the same at 224x224.
        mean: float, or one per channel, in units of [0, 255] pixels. Subtracted from the image.
        std: float, or one per channel, in units of [0, 255] pixels. Divides the image.

    Call arguments:
        images: `(batch, height, width, channels)`, raw pixels in [0, 255].

    Returns:
        float, `(batch, num_classes)`: logits. Without a head: features, `(batch, channels)`.

    Raises:
        ValueError: if an argument is not one of those above; the message names it and its value.

    Example:

    >>> model = VGG((32, 32, 3), 10, filters=(4, 8, 8, 16, 16), hidden_dim=32)
    >>> model(keras.ops.zeros((1, 32, 32, 3))).shape
    TensorShape([1, 10])
    """

    presets = PRESETS
    renamed_arguments = {"num_convs": "num_blocks"}

    @arguments
    def __init__(
        self,
        image_shape: ImageShape = (224, 224, 3),
        num_classes: Size | None = 1000,
        num_blocks: Sizes = (2, 2, 3, 3, 3),
        filters: Sizes = (64, 128, 256, 512, 512),
        hidden_dim: Size = 4096,
        dropout_rate: Rate = 0.5,
        pool_size: Size | None = None,
        mean: PerChannel = IMAGENET_MEAN,
        std: PositivePerChannel = IMAGENET_STD,
        dtype=None,
        **kwargs,
    ):
        check_stages(num_blocks, filters)
        check_image_shape("image_shape", image_shape, min_side=2 ** len(filters))

        images = keras.Input(image_shape, name="images")
        maps = PixelNormalization(mean, std, name="pixels")(images)
        for stage, (blocks, channels) in enumerate(zip(num_blocks, filters, strict=True), start=1):
            for i in range(1, blocks + 1):
                maps = layers.Conv2D(channels, 3, padding="same", activation="relu", name=f"conv_{stage}_{i}")(maps)
            maps = layers.MaxPooling2D(2, name=f"pool_{stage}")(maps)  # (batch, height', width', channels)
        logits = dense_head(maps, hidden_dim, num_classes, dropout_rate, pool_size, "glorot_uniform")
        super().__init__(inputs=images, outputs=logits, **kwargs)

    def load_torchvision(self, weights: Weights, head: bool = True) -> None:
        """Takes the weights of a torchvision VGG of the same size, without batch normalization.

        Args:
            weights: mapping from torchvision's names to NumPy arrays, or the path of a `.safetensors` file.
            head: bool. Whether the last layer is loaded too. False leaves it as it is, whatever classes `weights` has.

        Raises:
            ValueError: if entries are missing, unknown or of another shape. The message lists all of them, and
                the model stays as it was.
        """
        modules, index = {}, 0
        for stage, blocks in enumerate(self.num_blocks, start=1):
            for i in range(1, blocks + 1):
                modules[f"features.{index}"] = self.get_layer(f"conv_{stage}_{i}")
                index += 2  # torchvision counts the relu
            index += 1  # and the pool
        without = self._without(head, "classifier.6")
        for name, ours in (("classifier.0", "dense_1"), ("classifier.3", "dense_2"), ("classifier.6", "head")):
            if name not in without:
                modules[name] = self.get_layer(ours)
        flattened = self.get_layer("flatten").input.shape[1:]
        load_torch(modules, weights, {"classifier.0": flattened}, without)
