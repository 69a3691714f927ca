"""Group equivariant convolutional networks: turn the image, and every feature map turns with it.

    (L_u f)(x, g) = f(u^-1 x, u^-1 g)              how a quarter turn or mirror image u moves a feature map (eq. 12)
    layer(L_u f) = L_u layer(f)                    for every layer; for the logits L_u is the identity

    P4CNN, for 28x28 digits         conv 3x3, conv 3x3, max pool 2x2, four times conv 3x3, conv 4x4, max over turns
    p4m-ResNet44, for CIFAR-10      conv 3x3, three stages of seven residual blocks, mean over the group and the pixels

All convolutions but the last of P4CNN are followed by batch normalisation and relu. With the group "z2", which has one
element, the networks are the plain ones that the paper compares with.

Reference: Cohen, Welling 2016, "Group Equivariant Convolutional Networks", arXiv:1602.07576, section 8 and table 1.

Deviations from the paper:
- P4CNN draws dropout after each normalised layer at one rate; the paper does not say where and how much.
- The paper's ResNet halves by convolutions of stride 2. On maps of even size their places are not symmetric: the maps
  would turn only nearly. Here means of 2x2 halve even sizes, and every second pixel odd ones, before the stage.
- The shortcut of a block that widens the maps is a 1x1 group convolution with batch normalisation.
"""

import keras
from keras import layers, ops

from keras_dl.base import Signature
from keras_dl.checks import check_image_shape, check_rate, check_size, check_sizes
from keras_dl.layers.group_convolution import (
    AlignedPooling2D,
    GroupBatchNormalization,
    GroupConv2D,
    GroupPooling,
    LiftingConv2D,
)
from keras_dl.layers.pixels import CIFAR10_MEAN, CIFAR10_STD, PixelNormalization
from keras_dl.models.vision.classifier import ImageClassifier
from keras_dl.ops.groups import find_group


class GroupClassifier(ImageClassifier):
    """What the two models share: they fold into plain convolutional networks."""

    def fold(self):
        """The plain convolutional network that computes the same in inference.

        Returns:
            `keras.Model` of ordinary layers in float32, from images as this model takes them to its logits. Its kernels
            are the turned and mirrored copies of this model's as they are now.
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

    def serving_signatures(self, batch_size=1):
        """What a device runs: `classify`, as other image classifiers serve it, by the folded network.

        The kernels are constants, computed from the weights as they are when this method is called.
        """
        folded = self.fold()
        trained = [ops.convert_to_numpy(v) for v in folded.trainable_variables]
        others = [ops.convert_to_numpy(v) for v in folded.non_trainable_variables]

        def classify(images):
            logits, _ = folded.stateless_call(trained, others, ops.cast(images, "float32"), training=False)
            return {"probabilities": ops.softmax(logits)}

        images = keras.KerasTensor((batch_size, *self.image_shape), "uint8", name="images")
        return {"classify": Signature(classify, {"images": images})}


def check_square(image_shape):
    """`image_shape` as a tuple, which must have equal sides: a quarter turn of another image would not fit the net."""
    image_shape = check_image_shape("image_shape", image_shape)
    if image_shape[0] != image_shape[1]:
        raise ValueError(f"image_shape={image_shape} must be square, so that a turned image has the same shape.")
    return image_shape


# Section 8.1: 24,620 trainable parameters for P4CNN; Z2CNN has 21,630.
PRESETS = {
    "p4cnn": dict(group="p4", filters=10),
    "z2cnn": dict(group="z2", filters=20),
}


@keras.saving.register_keras_serializable(package="keras_dl")
class GCNN(GroupClassifier):
    """P4CNN, and with other groups p4m-CNN and the plain Z2CNN.

    Args:
        image_shape: `(side, side, channels)`. The side is even, and large enough for the layers.
        num_classes: int.
        group: "z2", "p4" or "p4m".
        filters: int. Channels of each convolution for each element of the group.
        num_layers: int, at least 3. Convolutions; the last one's kernel covers what is left of the maps.
        dropout_rate: float in [0, 1). After each normalised layer.
        mean: float, or one a channel, in [0, 255] pixels.
        std: float, or one a channel, in [0, 255] pixels.

    Call arguments:
        images: `(batch, side, side, channels)`, raw pixels in [0, 255].

    Returns:
        float, `(batch, num_classes)`: logits. No element of the group changes them by acting on the image.

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

    def __init__(
        self,
        image_shape=(28, 28, 1),
        num_classes=10,
        group="p4",
        filters=10,
        num_layers=7,
        dropout_rate=0.2,
        mean=33.0,
        std=79.0,
        dtype=None,
        **kwargs,
    ):
        side, *_ = image_shape = check_square(image_shape)
        num_classes = check_size("num_classes", num_classes)
        find_group(group)
        filters = check_size("filters", filters)
        num_layers = check_size("num_layers", num_layers, minimum=3)
        dropout_rate = check_rate("dropout_rate", dropout_rate)
        last_size = (side - 4) // 2 - 2 * (num_layers - 3)
        if side % 2 or last_size < 1:
            raise ValueError(
                f"image_shape={image_shape} must have an even side, which 2x2 windows cover evenly, of at least "
                f"{6 + 4 * (num_layers - 3)} pixels for num_layers={num_layers}."
            )

        images = keras.Input(image_shape, name="images")
        maps = PixelNormalization(mean, std, dtype=dtype, name="pixels")(images)
        for i in range(num_layers - 1):
            convolution = GroupConv2D if i else LiftingConv2D
            maps = convolution(filters, 3, group, use_bias=False, dtype=dtype, name=f"conv_{i}")(maps)
            maps = GroupBatchNormalization(group, dtype=dtype, name=f"norm_{i}")(maps)
            maps = layers.ReLU(dtype=dtype, name=f"relu_{i}")(maps)
            maps = layers.Dropout(dropout_rate, dtype=dtype, name=f"dropout_{i}")(maps)
            if i == 1:
                maps = AlignedPooling2D(2, dtype=dtype, name="pool")(maps)
        maps = GroupConv2D(num_classes, last_size, group, dtype=dtype, name=f"conv_{num_layers - 1}")(maps)
        maps = GroupPooling(group, "max", dtype=dtype, name="group_pool")(maps)  # (batch, 1, 1, num_classes)
        logits = layers.Flatten(dtype=dtype, name="logits")(maps)
        super().__init__(inputs=images, outputs=logits, dtype=dtype, **kwargs)

        self.image_shape = image_shape
        self.num_classes = num_classes
        self.group = group
        self.filters = filters
        self.num_layers = num_layers
        self.dropout_rate = dropout_rate
        self.mean = self.get_layer("pixels").mean
        self.std = self.get_layer("pixels").std


# Section 8.2 and table 1, for CIFAR-10: 2,618,679 and 2,636,458 trainable parameters, printed as 2.62M and 2.64M.
RESNET_PRESETS = {
    "p4m_resnet44": dict(group="p4m", filters=(11, 23, 45)),
    "z2_resnet44": dict(group="z2", filters=(32, 64, 128)),
}


@keras.saving.register_keras_serializable(package="keras_dl")
class GroupResNet(GroupClassifier):
    """Residual network on a group, for small images.

    Args:
        image_shape: `(side, side, channels)`, of any side from 2 pixels for each halving.
        num_classes: int.
        group: "z2", "p4" or "p4m".
        num_blocks: sequence of int. Blocks of each stage. Each stage after the first halves the sides.
        filters: sequence of int, one a stage. Channels for each element of the group.
        mean: float, or one a channel, in [0, 255] pixels.
        std: float, or one a channel, in [0, 255] pixels.

    Call arguments:
        images: `(batch, side, side, channels)`, raw pixels in [0, 255].

    Returns:
        float, `(batch, num_classes)`: logits. No element of the group changes them by acting on the image.

    Raises:
        ValueError: if the image is not square or too small, the stages do not match, or there is no such group.

    Example:

    >>> model = GroupResNet((9, 9, 3), 5, group="p4", num_blocks=(1, 1), filters=(2, 4))
    >>> model(keras.ops.zeros((1, 9, 9, 3))).shape
    TensorShape([1, 5])
    """

    presets = RESNET_PRESETS

    def __init__(
        self,
        image_shape=(32, 32, 3),
        num_classes=10,
        group="p4m",
        num_blocks=(7, 7, 7),
        filters=(11, 23, 45),
        mean=CIFAR10_MEAN,
        std=CIFAR10_STD,
        dtype=None,
        **kwargs,
    ):
        num_blocks = check_sizes("num_blocks", num_blocks)
        filters = check_sizes("filters", filters)
        if len(num_blocks) != len(filters):
            raise ValueError(f"num_blocks={num_blocks} and filters={filters} must have one value for each stage.")
        image_shape = check_square(check_image_shape("image_shape", image_shape, min_side=2 ** (len(filters) - 1)))
        num_classes = check_size("num_classes", num_classes)
        find_group(group)

        def conv(maps, width, size, name, convolution=GroupConv2D):
            maps = convolution(width, size, group, padding="same", use_bias=False, dtype=dtype, name=name)(maps)
            return GroupBatchNormalization(group, dtype=dtype, name=f"{name}_norm")(maps)

        def relu(maps, name):
            return layers.ReLU(dtype=dtype, name=name)(maps)

        images = keras.Input(image_shape, name="images")
        maps = PixelNormalization(mean, std, dtype=dtype, name="pixels")(images)
        maps = relu(conv(maps, filters[0], 3, "stem", LiftingConv2D), "stem_relu")
        for stage, (blocks, width) in enumerate(zip(num_blocks, filters, strict=True), start=1):
            if stage > 1:
                window = 1 if maps.shape[1] % 2 else 2
                maps = AlignedPooling2D(window, 2, "mean", dtype=dtype, name=f"halve_{stage}")(maps)
            for i in range(blocks):
                name = f"stage_{stage}_block_{i}"
                branch = relu(conv(maps, width, 3, f"{name}_conv_0"), f"{name}_relu_0")
                branch = conv(branch, width, 3, f"{name}_conv_1")
                if maps.shape[-1] != branch.shape[-1]:
                    maps = conv(maps, width, 1, f"{name}_shortcut")
                maps = relu(layers.Add(dtype=dtype, name=f"{name}_add")([maps, branch]), f"{name}_relu_1")
        maps = GroupPooling(group, "mean", dtype=dtype, name="group_pool")(maps)
        features = layers.GlobalAveragePooling2D(dtype=dtype, name="features")(maps)
        logits = layers.Dense(num_classes, dtype=dtype, name="head")(features)
        super().__init__(inputs=images, outputs=logits, dtype=dtype, **kwargs)

        self.image_shape = image_shape
        self.num_classes = num_classes
        self.group = group
        self.num_blocks = num_blocks
        self.filters = filters
        self.mean = self.get_layer("pixels").mean
        self.std = self.get_layer("pixels").std
