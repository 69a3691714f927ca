"""Group equivariant convolutional networks: turn the image, and every feature map turns with it.

    (L_u f)(x, g) = f(u^-1 x, u^-1 g)              how a quarter turn or mirror image u moves a feature map (eq. 12)
    layer(L_u f) = L_u layer(f)                    for every layer; for the logits L_u is the identity

    P4CNN, for 28x28 digits         conv 3x3, conv 3x3, max pool 2x2, four times conv 3x3, conv 4x4, max over turns
    p4m-ResNet44, for CIFAR-10      conv 3x3, three stages of seven residual blocks, mean over the group and the pixels

Batch normalization and relu follow each convolution but the last of P4CNN. With the group "z2", which has one element,
the networks are the plain ones that the paper compares with.

Reference: Cohen, Welling 2016, "Group Equivariant Convolutional Networks", arXiv:1602.07576, section 8 and table 1.

Deviations from the paper:
- P4CNN has dropout after each normalized layer, at one rate. The paper does not say where it is, and at which rate.
- The paper's ResNet halves the sides by convolutions of stride 2. On maps of even size their windows are not placed
  symmetrically, so that the network would be only nearly equivariant. Here means of 2x2 pixels halve even sides before
  the stage, and taking every second pixel halves odd sides.
- The shortcut of a block that widens the maps is a 1x1 group convolution with batch normalization.
"""

from typing import Annotated

import keras
from keras import layers, ops

from keras_dl.arguments import AtLeast, ImageShape, PerChannel, PositivePerChannel, Rate, Size, Sizes, arguments
from keras_dl.checks import check_image_shape, check_stages
from keras_dl.layers.group_convolution import (
    AlignedPooling2D,
    GroupBatchNormalization,
    GroupConv2D,
    GroupName,
    GroupPooling,
    LiftingConv2D,
)
from keras_dl.layers.pixels import CIFAR10_MEAN, CIFAR10_STD, PixelNormalization
from keras_dl.models.vision.classifier import ImageClassifier, logits_of
from keras_dl.signatures import Signature


def _check_square(name, image_shape):
    """A quarter turn of another image would not fit the network."""
    if image_shape[0] != image_shape[1]:
        raise ValueError(f"{name}={image_shape} must be square, so that a turned image has the same shape.")
    return image_shape


SquareImageShape = Annotated[ImageShape, _check_square]


class GroupClassifier(ImageClassifier):
    """Shared part of the two models: they fold into plain convolutional networks."""

    def fold(self) -> keras.Model:
        """The plain convolutional network that computes the same in inference.

        Returns:
            `keras.Model` of ordinary layers in float32, from the images that this model takes to its logits. Its
            kernels are turned and mirrored copies of this model's present kernels.
        """

        def plain(layer):
            copy = layer.plain() if hasattr(layer, "plain") else type(layer).from_config(layer.get_config())
            copy.dtype_policy = "float32"
            return copy

        network = keras.Model(self.input, self.output)
        folded = keras.models.clone_model(network, clone_function=plain)
        for layer in network.layers:
            weights = layer.plain_weights() if hasattr(layer, "plain_weights") else layer.weights
            folded.get_layer(layer.name).set_weights([ops.convert_to_numpy(weight) for weight in weights])
        return folded

    def serving_signatures(self, batch_size: int = 1) -> dict[str, Signature]:
        """The entry points of a device, as for other image classifiers, computed by the folded network.

        The kernels are constants, computed from the weights when this method is called.
        """
        folded = self.fold()
        trained = [ops.convert_to_numpy(v) for v in folded.trainable_variables]
        others = [ops.convert_to_numpy(v) for v in folded.non_trainable_variables]

        def compute(images):
            return folded.stateless_call(trained, others, images, training=False)[0]

        return self._served(compute, batch_size)


# Section 8.1: 24,620 trainable parameters for P4CNN; Z2CNN has 21,630.
PRESETS = {
    "p4cnn": dict(group="p4", filters=10),
    "z2cnn": dict(group="z2", filters=20),
}


@keras.saving.register_keras_serializable(package="keras_dl")
class GCNN(GroupClassifier):
    """P4CNN, and with other groups p4m-CNN and the plain Z2CNN.

    Layers of interest by name: `conv_0` and so on, `features`, the maps before the last convolution, and `head`, the
    last convolution.

    Args:
        image_shape: `(side, side, channels)`. The side is even, and large enough for the layers.
        num_classes: int. None for a model without a head, which returns features.
        group: "z2", "p4" or "p4m".
        filters: int. Channels of each convolution for each element of the group.
        num_layers: int, at least 3. Number of convolutions. The kernel of the last covers the whole map before it.
        dropout_rate: float in [0, 1). After each normalized layer.
        mean: float, or one per channel, in units of [0, 255] pixels. Subtracted from the image.
        std: float, or one per channel, in units of [0, 255] pixels. Divides the image.

    Call arguments:
        images: `(batch, side, side, channels)`, raw pixels in [0, 255].

    Returns:
        float, `(batch, num_classes)`: logits. They stay the same when an element of the group acts on the image.
        Without a head: features, `(batch, side', side', order * filters)`, which turn with the image.

    Raises:
        ValueError: if the image is not square, too small, or of an odd side; or if there is no such group.

    Example:

    >>> model = GCNN(group="p4m", filters=2)
    >>> images = keras.random.uniform((1, 28, 28, 1), 0, 255)
    >>> mirrored_and_turned = keras.ops.rot90(keras.ops.flip(images, 2), axes=(1, 2))
    >>> bool(keras.ops.all(abs(model(images) - model(mirrored_and_turned)) < 1e-5))
    True
    """

    presets = PRESETS

    @arguments
    def __init__(
        self,
        image_shape: SquareImageShape = (28, 28, 1),
        num_classes: Size | None = 10,
        group: GroupName = "p4",
        filters: Size = 10,
        num_layers: AtLeast(3) = 7,
        dropout_rate: Rate = 0.2,
        mean: PerChannel = 33.0,
        std: PositivePerChannel = 79.0,
        dtype=None,
        **kwargs,
    ):
        side = image_shape[0]
        last_size = (side - 4) // 2 - 2 * (num_layers - 3)
        if side % 2 or last_size < 1:
            raise ValueError(
                f"image_shape={image_shape} must have an even side, which 2x2 windows cover evenly, of at least "
                f"{6 + 4 * (num_layers - 3)} pixels for num_layers={num_layers}."
            )

        images = keras.Input(image_shape, name="images")
        maps = PixelNormalization(mean, std, name="pixels")(images)
        for i in range(num_layers - 1):  # (batch, side, side, order * filters); the side shrinks by 2
            convolution = GroupConv2D if i else LiftingConv2D
            maps = convolution(filters, 3, group, use_bias=False, name=f"conv_{i}")(maps)
            maps = GroupBatchNormalization(group, name=f"norm_{i}")(maps)
            maps = layers.ReLU(name=f"relu_{i}")(maps)
            last = i == num_layers - 2
            maps = layers.Dropout(dropout_rate, name="features" if last and i > 1 else f"dropout_{i}")(maps)
            if i == 1:
                maps = AlignedPooling2D(2, name="features" if last else "pool")(maps)
        if num_classes is not None:
            maps = GroupConv2D(num_classes, last_size, group, name="head")(maps)  # (batch, 1, 1, order * num_classes)
            maps = GroupPooling(group, "max", name="group_pool")(maps)  # (batch, 1, 1, num_classes)
            maps = layers.Flatten(name="logits")(maps)  # (batch, num_classes)
        super().__init__(inputs=images, outputs=maps, **kwargs)


# Section 8.2 and table 1, for CIFAR-10: 2,618,679 and 2,636,458 trainable parameters, printed as 2.62M and 2.64M.
RESNET_PRESETS = {
    "p4m_resnet44": dict(group="p4m", filters=(11, 23, 45)),
    "z2_resnet44": dict(group="z2", filters=(32, 64, 128)),
}


@keras.saving.register_keras_serializable(package="keras_dl")
class GroupResNet(GroupClassifier):
    """Residual network on a group, for small images.

    Args:
        image_shape: `(side, side, channels)`. The side has at least 2 pixels for each halving.
        num_classes: int. None for a model without a head, which returns features.
        group: "z2", "p4" or "p4m".
        num_blocks: sequence of int. Blocks of each stage. Each stage after the first halves the sides.
        filters: sequence of int, one per stage. Channels for each element of the group.
        mean: float, or one per channel, in units of [0, 255] pixels. Subtracted from the image.
        std: float, or one per channel, in units of [0, 255] pixels. Divides the image.

    Call arguments:
        images: `(batch, side, side, channels)`, raw pixels in [0, 255].

    Returns:
        float, `(batch, num_classes)`: logits. Without a head: features, `(batch, channels)`. They stay the same when an
        element of the group acts on the image.

    Raises:
        ValueError: if the image is not square or too small, the stages do not match, or there is no such group.

    Example:

    >>> model = GroupResNet((9, 9, 3), 5, group="p4", num_blocks=(1, 1), filters=(2, 4))
    >>> model(keras.ops.zeros((1, 9, 9, 3))).shape
    TensorShape([1, 5])
    """

    presets = RESNET_PRESETS

    @arguments
    def __init__(
        self,
        image_shape: SquareImageShape = (32, 32, 3),
        num_classes: Size | None = 10,
        group: GroupName = "p4m",
        num_blocks: Sizes = (7, 7, 7),
        filters: Sizes = (11, 23, 45),
        mean: PerChannel = CIFAR10_MEAN,
        std: PositivePerChannel = CIFAR10_STD,
        dtype=None,
        **kwargs,
    ):
        check_stages(num_blocks, filters)
        check_image_shape("image_shape", image_shape, min_side=2 ** (len(filters) - 1))

        def conv(maps, width, size, name, convolution=GroupConv2D):
            maps = convolution(width, size, group, padding="same", use_bias=False, name=name)(maps)
            return GroupBatchNormalization(group, name=f"{name}_norm")(maps)

        def relu(maps, name):
            return layers.ReLU(name=name)(maps)

        images = keras.Input(image_shape, name="images")
        maps = PixelNormalization(mean, std, name="pixels")(images)
        maps = relu(conv(maps, filters[0], 3, "stem", LiftingConv2D), "stem_relu")  # (batch, side, side, order * width)
        for stage, (blocks, width) in enumerate(zip(num_blocks, filters, strict=True), start=1):
            if stage > 1:
                window = 1 if maps.shape[1] % 2 else 2
                maps = AlignedPooling2D(window, 2, "mean", name=f"halve_{stage}")(maps)
            for i in range(blocks):  # (batch, side / 2^(stage - 1), side / 2^(stage - 1), order * width)
                name = f"stage_{stage}_block_{i}"
                branch = relu(conv(maps, width, 3, f"{name}_conv_0"), f"{name}_relu_0")
                branch = conv(branch, width, 3, f"{name}_conv_1")
                if maps.shape[-1] != branch.shape[-1]:
                    maps = conv(maps, width, 1, f"{name}_shortcut")
                maps = relu(layers.Add(name=f"{name}_add")([maps, branch]), f"{name}_relu_1")
        maps = GroupPooling(group, "mean", name="group_pool")(maps)  # (batch, side', side', width)
        features = layers.GlobalAveragePooling2D(name="features")(maps)  # (batch, width)
        super().__init__(inputs=images, outputs=logits_of(features, num_classes), **kwargs)
