"""FCN on a dilated ResNet: a head of two convolutions, and an auxiliary one on the stage before.

    stages 1 and 2 as in ResNet, stages 3 and 4 without stride: stride 8
    head   conv 3x3 to a quarter of the maps, norm, relu, dropout, conv 1x1 to the classes, bilinear to the image
    loss   cross-entropy of the head + 0.5 of that of the auxiliary head on stage 3

A stage without stride has convolutions of twice the dilation instead, so that each still sees as far. The first block
of such a stage keeps the dilation before it, as in torchvision, whose weights `load_torchvision` takes.

    ResNet-50, 21 classes   35,322,218 with the auxiliary head, 32,957,013 without

References: Long, Shelhamer, Darrell 2014, arXiv:1411.4038; Chen et al. 2016, "DeepLab", arXiv:1606.00915 (dilation);
torchvision's `fcn_resnet50`.
"""

import keras
from keras import layers, ops

from keras_dl.arguments import ImageShape, NumberIn, PerChannel, PositivePerChannel, Rate, Size, Sizes, arguments
from keras_dl.base import Layer
from keras_dl.checks import check_stages
from keras_dl.layers.norm import BatchNormalization
from keras_dl.layers.pixels import IMAGENET_MEAN, IMAGENET_STD, PixelNormalization
from keras_dl.models.segmentation.pixel_classifier import PixelClassifier
from keras_dl.models.vision.resnet import conv, resnet_stages, torch_stages
from keras_dl.signatures import Signature
from keras_dl.weights import Weights, load_torch

PRESETS = {
    "fcn_resnet50": dict(num_blocks=(3, 4, 6, 3)),
    "fcn_resnet101": dict(num_blocks=(3, 4, 23, 3)),
}


@keras.saving.register_keras_serializable(package="keras_dl")
class ResizeLike(Layer):
    """Enlarges maps to the sides of others, with bilinear interpolation between the middles of pixels, in float32.

    Call arguments:
        inputs: list of `(batch, height, width, channels)`: the maps, and those of the sides.

    Returns:
        float32, the channels of the first, the sides of the second.
    """

    def __init__(self, **kwargs):
        super().__init__(**(kwargs | {"dtype": "float32"}))

    def call(self, inputs):
        maps, others = inputs
        return ops.image.resize(maps, ops.shape(others)[1:3], "bilinear")

    def compute_output_shape(self, input_shape):
        maps, others = input_shape
        return (*others[:3], maps[-1])


@keras.saving.register_keras_serializable(package="keras_dl")
class FCNResNet(PixelClassifier):
    """Fully convolutional network on a dilated ResNet, by default ResNet-50.

    A call takes images of any size. `compile` takes one loss, which both heads get.

    Args:
        image_shape: `(height, width, channels)` of exported files. A call asks for the channels alone.
        num_classes: int, the background included.
        num_blocks: four int. Blocks of each stage.
        filters: four int. Maps of the inner convolutions of each stage; blocks return four times as many.
        auxiliary_weight: float, at least 0. Of the loss of the auxiliary head; 0 leaves the head out.
        dropout_rate: float in [0, 1). Before the last convolution of a head.
        mean: float, or one per channel, in units of [0, 255] pixels. Subtracted from the image.
        std: float, or one per channel, in units of [0, 255] pixels. Divides the image.

    Call arguments:
        images: `(batch, height, width, channels)`, raw pixels in [0, 255], any size.

    Returns:
        dict of float32 `(batch, height, width, num_classes)`: `logits`, and `auxiliary` if there is such a head.

    Raises:
        ValueError: if an argument is not one of those above; the message names it and its value. By `fit`, if labels
            are out of range, or pixels are not raw.

    Example:

    >>> model = FCNResNet((32, 32, 3), 2, num_blocks=(1, 1, 1, 1), filters=(4, 4, 4, 4))
    >>> model(keras.ops.zeros((1, 50, 41, 3)))["logits"].shape
    TensorShape([1, 50, 41, 2])
    """

    presets = PRESETS

    @arguments
    def __init__(
        self,
        image_shape: ImageShape = (224, 224, 3),
        num_classes: Size = 21,
        num_blocks: Sizes = (3, 4, 6, 3),
        filters: Sizes = (64, 128, 256, 512),
        auxiliary_weight: NumberIn(0) = 0.5,
        dropout_rate: Rate = 0.1,
        mean: PerChannel = IMAGENET_MEAN,
        std: PositivePerChannel = IMAGENET_STD,
        dtype=None,
        **kwargs,
    ):
        check_stages(num_blocks, filters)
        if len(filters) != 4:
            raise ValueError(f"filters={filters} must have one value for each of the four stages.")
        images = keras.Input((None, None, image_shape[-1]), name="images")
        pixels = PixelNormalization(mean, std, name="pixels")(images)
        stages = resnet_stages(pixels, num_blocks, filters, dilated=(3, 4))
        found = {"logits": (stages[3], "head")}
        found |= {"auxiliary": (stages[2], "auxiliary_head")} if auxiliary_weight else {}
        outputs = {}
        for key, (maps, name) in found.items():
            maps = conv(maps.shape[-1] // 4, 3, name=f"{name}_conv")(maps)
            maps = layers.ReLU(name=f"{name}_relu")(BatchNormalization(name=f"{name}_norm")(maps))
            maps = layers.Dropout(dropout_rate, name=f"{name}_dropout")(maps)
            scores = layers.Conv2D(num_classes, 1, name=name)(maps)  # (batch, height / 8, width / 8, num_classes)
            outputs[key] = ResizeLike(name=key)([scores, images])
        super().__init__(inputs=images, outputs=outputs, **kwargs)
        self._hold()

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x, y, y_pred["logits"], sample_weight, training)
        if self.auxiliary_weight:
            auxiliary = super().compute_loss(x, y, y_pred["auxiliary"], sample_weight, training)
            loss = loss + self.auxiliary_weight * auxiliary
        return loss

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return super().compute_metrics(x, y, y_pred["logits"], sample_weight)

    def load_torchvision(self, weights: Weights) -> None:
        """Takes the weights of torchvision's `fcn_resnet50` or `fcn_resnet101`. The model then gives the same outputs.

        Args:
            weights: mapping from torchvision's names to NumPy arrays, or the path of a `.safetensors` file.

        Raises:
            ValueError: if entries are missing, unknown or of another shape. The message lists all of them, and the
                model stays as it was.
        """
        modules = torch_stages(self, self.num_blocks, prefix="backbone.")
        heads = {"classifier": "head"} | ({"aux_classifier": "auxiliary_head"} if self.auxiliary_weight else {})
        for theirs, ours in heads.items():
            for index, name in ((0, f"{ours}_conv"), (1, f"{ours}_norm"), (4, ours)):
                modules[f"{theirs}.{index}"] = self.get_layer(name)
        load_torch(modules, weights)

    def serving_signatures(self, batch_size: int = 1) -> dict[str, Signature]:
        """`segment`: the probabilities of each pixel's classes. `logits`: at stride 8, before they are enlarged."""
        images = {"images": keras.KerasTensor((batch_size, *self.image_shape), "uint8", name="images")}
        coarse = keras.Model(self.input, self.get_layer("head").output)

        def segment(images):
            logits = self(images, training=False)["logits"]
            return {"probabilities": ops.softmax(logits)}

        def logits(images):
            return {"logits": coarse(images, training=False)}

        return {"segment": Signature(segment, images), "logits": Signature(logits, images)}
