"""FCN: a classifier whose dense layers are convolutions, and whose coarse scores are enlarged to the image.

    VGG's five stages; fc6 conv 7x7, fc7 conv 1x1, with relu and dropout; score conv 1x1 to the classes, stride 32

    FCN-32s   up32(score)
    FCN-16s   up16(up2(score) + score4(pool4))
    FCN-8s    up8(up2(up2(score) + score4(pool4)) + score3(pool3))

`up` is a transposed convolution with a kernel of twice its stride, which interpolates bilinearly. Scores of stages
start at zero, so that FCN-16s starts as FCN-32s, and FCN-8s as FCN-16s: see `take_weights`.

    learned weights, 21 classes, VGG-16   32s 134,346,581    16s 134,357,354    8s 134,362,751

Reference: Long, Shelhamer, Darrell 2014, "Fully Convolutional Networks for Semantic Segmentation", arXiv:1411.4038,
sections 3.2 to 4.3. Offsets of the crops follow from the maps of coordinates, and are those of the authors' code.

Deviations from the paper:
- padding="same" pads each convolution to keep the size, and crops nothing. The authors pad the image by 100 pixels and
  crop, which padding="paper" does.
- batch_normalization=True adds it after each convolution of the stages. Without the weights of a classifier, the
  published net learns nothing.
- The kernels of `up` are fixed by default, as in the authors' code.
- Pixels are divided by their standard deviation, as torchvision's VGG wants them.
"""

import keras
import numpy as np
from keras import layers, ops

from keras_dl.arguments import ImageShape, OneOf, PerChannel, PositivePerChannel, Rate, Size, Sizes, arguments
from keras_dl.base import Layer
from keras_dl.checks import check_stages
from keras_dl.initializers import Bilinear
from keras_dl.layers.norm import BatchNormalization
from keras_dl.layers.pixels import IMAGENET_MEAN, IMAGENET_STD, PixelNormalization
from keras_dl.models.segmentation.pixel_classifier import PixelClassifier
from keras_dl.signatures import Signature
from keras_dl.weights import Entry, Weights, load_entries, torch_entries

MARGIN = 100  # pixels, of padding="paper"
CROPS = {32: 19, 16: 27, 8: 31}  # of the last scores, by their stride
SKIP_CROPS = (5, 9)  # of the scores of pool4 and of pool3
AT_ONCE = (0.01, 0.0001)  # what pool4 and pool3 are multiplied with where all is trained at once

PRESETS = {f"fcn{stride}s_vgg16": dict(stride=stride, padding="paper") for stride in (32, 16, 8)}


@keras.saving.register_keras_serializable(package="keras_dl")
class CropLike(Layer):
    """Cuts maps to the sides of others, from an offset.

    Args:
        offset: int, pixels from the top and from the left.

    Call arguments:
        inputs: list of `(batch, height, width, channels)`: the maps, and those of the sides.

    Returns:
        The dtype and channels of the first, the sides of the second.
    """

    @arguments
    def __init__(self, offset: int = 0, **kwargs):
        super().__init__(**kwargs)

    def call(self, inputs):
        maps, others = inputs
        height, width = ops.shape(others)[1:3]
        return maps[:, self.offset : self.offset + height, self.offset : self.offset + width, :]

    def compute_output_shape(self, input_shape):
        maps, others = input_shape
        return (*others[:3], maps[-1])


@keras.saving.register_keras_serializable(package="keras_dl")
class FCN(PixelClassifier):
    """Fully convolutional network on VGG, by default FCN-8s on VGG-16.

    A call takes images of any size. Layers of interest by name: `conv_1_1` and so on, `pool_3`, `pool_4`, `fc6`, `fc7`,
    `score`, `score_pool_4`, `score_pool_3`.

    Args:
        image_shape: `(height, width, channels)` of exported files. A call asks for the channels alone.
        num_classes: int, the background included.
        stride: 32, 16 or 8: that of the finest scores.
        padding: "same", or "paper": a margin of 100 pixels, and crops.
        num_blocks: five int. Convolutions of each stage.
        filters: five int. Maps of the convolutions of each stage.
        hidden_dim: int. Maps of fc6 and fc7.
        dropout_rate: float in [0, 1). After fc6 and fc7.
        batch_normalization: bool. Whether the convolutions of the stages are normalized.
        at_once: bool. Whether pool4 and pool3 are scaled by 0.01 and 0.0001, to train all strides at once.
        learned_upsampling: bool. Whether the kernels that enlarge are trained.
        mean: float, or one per channel, in units of [0, 255] pixels. Subtracted from the image.
        std: float, or one per channel, in units of [0, 255] pixels. Divides the image.

    Call arguments:
        images: `(batch, height, width, channels)`, raw pixels in [0, 255], any size.

    Returns:
        float, `(batch, height, width, num_classes)`: logits of each pixel.

    Raises:
        ValueError: if an argument is not one of those above; the message names it and its value. By `fit`, if labels
            are out of range, or pixels are not raw.

    Example:

    >>> model = FCN((32, 32, 3), 2, filters=(4, 4, 8, 8, 8), hidden_dim=16)
    >>> model(keras.ops.zeros((1, 50, 41, 3))).shape
    TensorShape([1, 50, 41, 2])
    """

    presets = PRESETS

    @arguments
    def __init__(
        self,
        image_shape: ImageShape = (224, 224, 3),
        num_classes: Size = 21,
        stride: OneOf(32, 16, 8) = 8,
        padding: OneOf("same", "paper") = "same",
        num_blocks: Sizes = (2, 2, 3, 3, 3),
        filters: Sizes = (64, 128, 256, 512, 512),
        hidden_dim: Size = 4096,
        dropout_rate: Rate = 0.5,
        batch_normalization: bool = False,
        at_once: bool = False,
        learned_upsampling: bool = False,
        mean: PerChannel = IMAGENET_MEAN,
        std: PositivePerChannel = IMAGENET_STD,
        dtype=None,
        **kwargs,
    ):
        check_stages(num_blocks, filters)
        if len(filters) != 5:
            raise ValueError(f"filters={filters} must have one value for each of the five stages.")
        paper = padding == "paper"
        images = keras.Input((None, None, image_shape[-1]), name="images")
        maps = PixelNormalization(mean, std, name="pixels")(images)
        if paper:
            maps = layers.ZeroPadding2D(MARGIN, name="margin")(maps)
        pools = {}
        for stage, (blocks, width) in enumerate(zip(num_blocks, filters, strict=True), start=1):
            for i in range(1, blocks + 1):
                maps = _conv(
                    maps, width, "valid" if paper and stage == i == 1 else "same", stage, i, batch_normalization
                )
            maps = layers.MaxPooling2D(2, padding="same", name=f"pool_{stage}")(maps)  # sides are rounded up
            pools[stage] = maps
        for name, size, pad in (("fc6", 7, "valid" if paper else "same"), ("fc7", 1, "same")):
            maps = layers.Conv2D(hidden_dim, size, padding=pad, activation="relu", name=name)(maps)
            maps = layers.Dropout(dropout_rate, name=f"{name}_dropout")(maps)
        scores = layers.Conv2D(num_classes, 1, kernel_initializer="zeros", name="score")(maps)

        def up(maps, factor, name):
            return layers.Conv2DTranspose(
                num_classes,
                2 * factor,
                factor,
                padding="valid" if paper else "same",
                use_bias=False,
                kernel_initializer=Bilinear(),
                trainable=learned_upsampling,
                name=name,
            )(maps)

        skips = zip((4, 3)[: {32: 0, 16: 1, 8: 2}[stride]], SKIP_CROPS, AT_ONCE, strict=False)
        for stage, offset, factor in skips:
            scores = up(scores, 2, f"up_{stage}")
            maps = layers.Rescaling(factor, name=f"scale_pool_{stage}")(pools[stage]) if at_once else pools[stage]
            skip = layers.Conv2D(num_classes, 1, kernel_initializer="zeros", name=f"score_pool_{stage}")(maps)
            if paper:  # the skip is the larger one
                skip = CropLike(offset, name=f"crop_pool_{stage}")([skip, scores])
            else:
                scores = CropLike(name=f"crop_{stage}")([scores, skip])
            scores = layers.Add(name=f"fuse_{stage}")([scores, skip])
        scores = layers.Activation("linear", dtype="float32", name="coarse")(scores)
        logits = up(scores, stride, "up")
        logits = CropLike(CROPS[stride] if paper else 0, name="logits")([logits, images])
        super().__init__(inputs=images, outputs=logits, **kwargs)
        self._hold()

    def take_weights(self, other: "FCN") -> None:
        """Takes the weights of an FCN of a coarser stride. The scores that it has not start at zero.

        The model then gives nearly the same logits: it enlarges them in two steps.

        Args:
            other: `FCN` of the same arguments but the stride.

        Raises:
            ValueError: if a layer of `other` is missing here or has other shapes. The model stays as it was.
        """
        ours = {layer.name: layer for layer in self.layers if layer.weights}
        theirs = {layer.name: layer for layer in other.layers if layer.weights and not layer.name.startswith("up")}
        for name, layer in theirs.items():
            shapes = [[tuple(w.shape) for w in x.weights] for x in (layer, ours[name])] if name in ours else ()
            if not shapes or shapes[0] != shapes[1]:
                raise ValueError(f"other has the layer {name!r}, which this model has not in that shape.")
        for name, layer in theirs.items():
            ours[name].set_weights(layer.get_weights())

    def load_torchvision(self, weights: Weights) -> None:
        """Takes the weights of a torchvision VGG of the same size, a classifier: what FCNs are trained from.

        Its dense layers become `fc6` and `fc7`. Its last layer is left out: scores keep their values.

        Args:
            weights: mapping from torchvision's names to NumPy arrays, or the path of a `.safetensors` file.

        Raises:
            ValueError: if entries are missing, unknown or of another shape. The message lists all of them, and
                the model stays as it was.
        """
        entries, index = {}, 0
        for stage, blocks in enumerate(self.num_blocks, start=1):
            for i in range(1, blocks + 1):
                entries |= torch_entries(f"features.{index}", self.get_layer(f"conv_{stage}_{i}"))
                index += 1
                if self.batch_normalization:
                    entries |= torch_entries(f"features.{index}", self.get_layer(f"norm_{stage}_{i}"))
                    index += 1
                index += 1  # torchvision counts the relu
            index += 1  # and the pool
        entries |= _dense_entries("classifier.0", self.get_layer("fc6"))
        entries |= _dense_entries("classifier.3", self.get_layer("fc7"))
        load_entries(entries, weights, without=("classifier.6",))

    def serving_signatures(self, batch_size: int = 1) -> dict[str, Signature]:
        """`segment`: the probabilities of each pixel's classes. `logits`: at the stride, before the last `up`."""
        images = {"images": keras.KerasTensor((batch_size, *self.image_shape), "uint8", name="images")}
        coarse = keras.Model(self.input, self.get_layer("coarse").output)

        def segment(images):
            logits = self(images, training=False)
            return {"probabilities": ops.softmax(logits)}

        def logits(images):
            return {"logits": coarse(images, training=False)}

        return {"segment": Signature(segment, images), "logits": Signature(logits, images)}


def _conv(maps, width, padding, stage, i, normalized):
    name = f"conv_{stage}_{i}"
    activation = None if normalized else "relu"
    maps = layers.Conv2D(width, 3, padding=padding, activation=activation, use_bias=True, name=name)(maps)
    if normalized:
        maps = BatchNormalization(name=f"norm_{stage}_{i}")(maps)
        maps = layers.ReLU(name=f"relu_{stage}_{i}")(maps)
    return maps


def _dense_entries(prefix, layer):
    """A dense layer of torch as a convolution over all pixels of its maps."""
    height, width, channels, units = layer.kernel.shape

    def convert(array):
        return np.asarray(array).reshape(units, channels, height, width).transpose(2, 3, 1, 0)

    kernel = Entry(layer.kernel, (units, channels * height * width), convert)
    return {f"{prefix}.weight": kernel, f"{prefix}.bias": Entry(layer.bias, (units,), np.asarray)}
