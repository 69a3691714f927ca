"""Residual networks: layers that learn what to add to their input.

    y = relu(F(x) + s(x))                  v1:  F is conv, norm, relu, conv, norm
    y = F(x) + s(x)                        v2:  F is norm, relu, conv, norm, relu, conv

    basic        conv 3x3, conv 3x3
    bottleneck   conv 1x1, conv 3x3, conv 1x1 to four times as many maps

The shortcut `s` is the identity. Where the number of maps or their size changes, option A takes every second pixel and
appends maps of zeros, and option B is a strided 1x1 convolution (with batch normalization in v1). The first 1x1
convolution of a bottleneck halves the sides in v1. In v1.5 the 3x3 convolution does, which skips no pixel. In v2 norm
and relu follow the first convolution of the net and the last block. Blocks that change the shape share their first norm
and relu with the shortcut.

    ImageNet   conv 7x7/2, max pool 3x3/2, stages of 64, 128, 256, 512 maps, global average, dense
    CIFAR      conv 3x3, stages of 16, 32, 64 maps of n basic blocks: 6n + 2 layers, option A

References:
- v1: He, Zhang, Ren, Sun 2015, "Deep Residual Learning for Image Recognition", arXiv:1512.03385, fig. 2
  and 5, table 1, section 4.2.
- v2: He, Zhang, Ren, Sun 2016, "Identity Mappings in Deep Residual Networks", arXiv:1603.05027, fig. 4e and appendix.
- Weights: He, Zhang, Ren, Sun 2015, "Delving Deep into Rectifiers", arXiv:1502.01852, eq. 14 (fan-out).
- A residual branch that starts at zero: Goyal et al. 2017, arXiv:1706.02677, section 5.1.
- v1.5 and the layout of weights that `load_torchvision` reads are those of torchvision.

Deviations from the papers:
- v2 halves in the 3x3 convolution as v1.5 does; its authors' code does so in the 1x1.
- The mean of each color over the data set is subtracted, not the mean image. The result is divided by the standard
  deviation.
- The dense layer starts at Glorot's uniform distribution. Its initial values are not in the papers.
"""

import keras
from keras import layers, ops

from keras_dl.arguments import ImageShape, NumberIn, OneOf, PerChannel, PositivePerChannel, Size, Sizes, arguments
from keras_dl.base import Layer
from keras_dl.checks import check_stages
from keras_dl.layers.norm import BatchNormalization
from keras_dl.layers.pixels import CIFAR10_MEAN, CIFAR10_STD, IMAGENET_MEAN, IMAGENET_STD, PixelNormalization
from keras_dl.models.vision.classifier import ImageClassifier, logits_of
from keras_dl.weights import Weights, load_torch

Version = OneOf("v1", "v1.5", "v2")
Block = OneOf("basic", "bottleneck")
Shortcut = OneOf("A", "B")

HE_FAN_OUT = dict(scale=2.0, mode="fan_out", distribution="untruncated_normal")


def conv(filters, kernel_size, strides=1, *, dilation=1, zeros=False, dtype=None, name=None):
    """A convolution without bias. Stride 1 keeps the size. A strided one does not pad: `pad` has padded its input."""
    return layers.Conv2D(
        filters,
        kernel_size,
        strides,
        dilation_rate=dilation,
        padding="same" if strides == 1 else "valid",
        use_bias=False,
        kernel_initializer="zeros" if zeros else keras.initializers.VarianceScaling(**HE_FAN_OUT),
        dtype=dtype,
        name=name,
    )


def pad(maps, margin):
    """Zeros on all four sides. ("same" would put more zeros after a map of even size than before it.)"""
    return ops.pad(maps, ((0, 0), (margin, margin), (margin, margin), (0, 0))) if margin else maps


@keras.saving.register_keras_serializable(package="keras_dl")
class ResidualBlock(Layer):
    """One block of two (basic) or three (bottleneck) convolutions and its shortcut.

    Args:
        filters: int. Maps of the inner convolutions. A bottleneck returns four times as many.
        strides: int, 1 or 2. 2 halves the sides of the maps.
        block: "basic" or "bottleneck".
        version: "v1", "v1.5" or "v2": see the head of this file.
        shortcut: "A" or "B": the replacement of the identity where the shape changes.
        residual: bool. False leaves the shortcut out, which makes a plain network.
        zero_init_residual: bool. Whether the residual branch starts at zero, so that the block starts as the identity.
            The scale of the last normalization starts at zero in v1 and v1.5, the last kernel in v2.
        preactivate: bool. False leaves out the first norm and relu of a v2 block, for the first block of a net.
        dilation: int. Between the pixels that a 3x3 convolution sees. Above 1, `strides` must be 1.
        norm_epsilon: float, at least 0. Added to variances.

    Call arguments:
        maps: float, `(batch, height, width, channels)`.
        training: bool. Whether batch normalization uses the statistics of the batch.

    Returns:
        float, `(batch, ceil(height / strides), ceil(width / strides), filters)`, or `4 * filters` of a bottleneck.

    Raises:
        ValueError: if an argument is not one of those above, or if shortcut A would have to drop maps.
    """

    @arguments
    def __init__(
        self,
        filters: Size,
        strides: OneOf(1, 2) = 1,
        block: Block = "bottleneck",
        version: Version = "v1.5",
        shortcut: Shortcut = "B",
        residual: bool = True,
        zero_init_residual: bool = False,
        preactivate: bool = True,
        dilation: Size = 1,
        norm_epsilon: NumberIn(0) = 1e-5,
        **kwargs,
    ):
        if dilation > 1 and strides > 1:
            raise ValueError(f"dilation={dilation} needs strides=1; strides={strides}.")
        super().__init__(**kwargs)

    @property
    def out_channels(self) -> int:
        """Channels of the result."""
        return 4 * self.filters if self.block == "bottleneck" else self.filters

    def build(self, maps_shape):
        if self.block == "basic":
            kernel_sizes, strides = (3, 3), (self.strides, 1)
        else:
            kernel_sizes = (1, 3, 1)
            strides = (self.strides, 1, 1) if self.version == "v1" else (1, self.strides, 1)
        last = len(kernel_sizes) - 1
        widths = [self.out_channels if i == last else self.filters for i in range(last + 1)]
        zero_gamma = self.zero_init_residual and self.version != "v2"
        zero_kernel = self.zero_init_residual and self.version == "v2"

        self.convs, self.norms, self._margins = [], [], []
        shape = tuple(maps_shape)
        for i, (width, size, stride) in enumerate(zip(widths, kernel_sizes, strides, strict=True)):
            layer = conv(
                width,
                size,
                stride,
                dilation=self.dilation if size > 1 else 1,
                zeros=zero_kernel and i == last,
                dtype=self.dtype_policy,
                name=f"conv_{i}",
            )
            gamma = "zeros" if zero_gamma and i == last else "ones"
            norm = self._norm(f"norm_{i}", gamma)
            margin = size // 2 if stride > 1 else 0
            layer.build(_padded(shape, margin))
            after = (*_halved(shape, stride), width)
            if self.version != "v2":
                norm.build(after)
            elif i > 0 or self.preactivate:
                norm.build(shape)
            else:
                norm = None
            self.convs.append(layer)
            self.norms.append(norm)
            self._margins.append(margin)
            shape = after

        self.projection = self.projection_norm = None
        self._changes_shape = self.strides > 1 or maps_shape[-1] != self.out_channels
        if self.residual and self._changes_shape and self.shortcut == "B":
            self.projection = conv(self.out_channels, 1, self.strides, dtype=self.dtype_policy, name="projection")
            self.projection.build(maps_shape)
            if self.version != "v2":
                self.projection_norm = self._norm("projection_norm")
                self.projection_norm.build(shape)
        elif self.residual and maps_shape[-1] > self.out_channels:
            raise ValueError(f"shortcut='A' cannot go from {maps_shape[-1]} maps to {self.out_channels}.")

    def _norm(self, name, gamma="ones"):
        options = dict(epsilon=self.norm_epsilon, gamma_initializer=gamma)
        return BatchNormalization(dtype=self.dtype_policy, name=name, **options)

    def call(self, maps, training=False):
        if self.version == "v2":
            return self._call_v2(maps, training)
        hidden = maps
        for i, (convolve, norm, margin) in enumerate(zip(self.convs, self.norms, self._margins, strict=True)):
            hidden = ops.relu(hidden) if i else hidden
            hidden = norm(convolve(pad(hidden, margin)), training=training)
        if self.residual:
            hidden = hidden + self._shortcut(maps, training)
        return ops.relu(hidden)

    def _call_v2(self, maps, training):
        hidden = maps
        for i, (convolve, norm, margin) in enumerate(zip(self.convs, self.norms, self._margins, strict=True)):
            if norm is not None:
                hidden = ops.relu(norm(hidden, training=training))
            if i == 0 and self._changes_shape:
                maps = hidden
            hidden = convolve(pad(hidden, margin))
        return hidden + self._shortcut(maps, training) if self.residual else hidden

    def _shortcut(self, maps, training):
        if self.projection is not None:
            maps = self.projection(maps)
            return maps if self.projection_norm is None else self.projection_norm(maps, training=training)
        if self.strides > 1:
            maps = ops.average_pool(maps, 1, self.strides)  # every second pixel: (batch, height', width', channels)
        if maps.shape[-1] < self.out_channels:
            # maps of zeros: (batch, height', width', out_channels)
            maps = ops.pad(maps, ((0, 0), (0, 0), (0, 0), (0, self.out_channels - maps.shape[-1])))
        return maps

    def compute_output_shape(self, maps_shape):
        return (*_halved(maps_shape, self.strides), self.out_channels)

    def torch_modules(self, prefix: str) -> dict[str, keras.Layer]:
        """The block's layers by their names in torchvision, as `keras_dl.weights.load_torch` takes them."""
        modules = {f"{prefix}.conv{i}": layer for i, layer in enumerate(self.convs, start=1)}
        modules |= {f"{prefix}.bn{i}": layer for i, layer in enumerate(self.norms, start=1)}
        if self.projection is not None:
            modules |= {f"{prefix}.downsample.0": self.projection, f"{prefix}.downsample.1": self.projection_norm}
        return modules


def _padded(shape, margin):
    """The shape `(batch, height, width, channels)` after `pad`; an unknown side stays unknown."""
    return (shape[0], *(None if n is None else n + 2 * margin for n in shape[1:3]), shape[3])


def _halved(shape, strides):
    """`(batch, height, width)` after a stride, rounded up; an unknown side stays unknown."""
    return (shape[0], *(None if n is None else -(-n // strides) for n in shape[1:3]))


def resnet_stages(
    maps, num_blocks, filters, *, stem="imagenet", dilated=(), norm_epsilon=1e-5, version="v1.5", **options
):
    """The stem and the stages of a residual network: a list of the maps after each stage.

    Layers are called `stem`, `stem_norm`, `stage_1_block_0` and so on.

    Args:
        maps: float, `(batch, height, width, channels)`: normalized pixels.
        num_blocks, filters, stem, version: as of `ResNet`.
        dilated: sequence of int. Stages without stride, whose 3x3 convolutions see pixels twice as far apart instead.
            As in torchvision, the first block of such a stage keeps the dilation before it.
        norm_epsilon: float, at least 0. Of batch normalization.
        **options: as of `ResidualBlock`.
    """
    imagenet = stem == "imagenet"
    if imagenet:
        maps = layers.ZeroPadding2D(3)(maps)
    maps = conv(filters[0], *((7, 2) if imagenet else (3, 1)), name="stem")(maps)
    maps = BatchNormalization(epsilon=norm_epsilon, name="stem_norm")(maps)
    maps = layers.ReLU(name="stem_relu")(maps)
    if imagenet:
        maps = layers.ZeroPadding2D(1)(maps)  # after relu, zeros are never the maximum by mistake
        maps = layers.MaxPooling2D(3, 2, name="stem_pool")(maps)
    stages, dilation = [], 1
    for stage, (blocks, width) in enumerate(zip(num_blocks, filters, strict=True), start=1):
        for i in range(blocks):
            maps = ResidualBlock(  # (batch, height / stride, width / stride, channels)
                width,
                strides=2 if stage > 1 and i == 0 and stage not in dilated else 1,
                dilation=dilation,
                norm_epsilon=norm_epsilon,
                version=version,
                preactivate=stage > 1 or i > 0,
                name=f"stage_{stage}_block_{i}",
                **options,
            )(maps)
            if i == 0 and stage in dilated:
                dilation *= 2
        stages.append(maps)
    return stages


def torch_stages(net, num_blocks, prefix="") -> dict[str, keras.Layer]:
    """The layers of `resnet_stages` by their names in torchvision, as `keras_dl.weights.load_torch` takes them.

    Args:
        net: `keras.Model` with the layers.
        num_blocks: sequence of int.
        prefix: str, before each name, such as "backbone.".
    """
    modules = {f"{prefix}conv1": net.get_layer("stem"), f"{prefix}bn1": net.get_layer("stem_norm")}
    for stage, blocks in enumerate(num_blocks, start=1):
        for i in range(blocks):
            modules |= net.get_layer(f"stage_{stage}_block_{i}").torch_modules(f"{prefix}layer{stage}.{i}")
    return modules


def transformers_stages(net, num_blocks, prefix="") -> dict[str, keras.Layer]:
    """As `torch_stages`, by the names in transformers.

    Args:
        net: `keras.Model` with the layers of `resnet_stages`.
        num_blocks: sequence of int.
        prefix: str, before each name, such as "resnet.".
    """
    modules = {}

    def add(name, convolve, norm):
        modules[f"{prefix}{name}.convolution"], modules[f"{prefix}{name}.normalization"] = convolve, norm

    add("embedder.embedder", net.get_layer("stem"), net.get_layer("stem_norm"))
    for stage, blocks in enumerate(num_blocks):
        for i in range(blocks):
            name, block = f"encoder.stages.{stage}.layers.{i}", net.get_layer(f"stage_{stage + 1}_block_{i}")
            for j, pair in enumerate(zip(block.convs, block.norms, strict=True)):
                add(f"{name}.layer.{j}", *pair)
            if block.projection is not None:
                add(f"{name}.shortcut", block.projection, block.projection_norm)
    return modules


def _imagenet(block, num_blocks):
    return dict(image_shape=(224, 224, 3), num_classes=1000, block=block, num_blocks=num_blocks)


def _cifar(depth):
    return dict(
        image_shape=(32, 32, 3),
        num_classes=10,
        block="basic",
        num_blocks=(depth // 6,) * 3,
        filters=(16, 32, 64),
        stem="cifar",
        shortcut="A",
        mean=CIFAR10_MEAN,
        std=CIFAR10_STD,
    )


# Table 1 and section 4.2 of the paper. Trainable parameters, of which batch normalization has two per map:
# 11,689,512, 21,797,672, 25,557,032, 44,549,160 and 60,192,808 for ImageNet;
# 269,722, 464,154, 658,586, 853,018 and 1,727,962 for CIFAR (printed as 0.27M, 0.46M, 0.66M, 0.85M and 1.7M).
PRESETS = {
    "resnet18": _imagenet("basic", (2, 2, 2, 2)),
    "resnet34": _imagenet("basic", (3, 4, 6, 3)),
    "resnet50": _imagenet("bottleneck", (3, 4, 6, 3)),
    "resnet101": _imagenet("bottleneck", (3, 4, 23, 3)),
    "resnet152": _imagenet("bottleneck", (3, 8, 36, 3)),
    "resnet20": _cifar(20),
    "resnet32": _cifar(32),
    "resnet44": _cifar(44),
    "resnet56": _cifar(56),
    "resnet110": _cifar(110),
}


@keras.saving.register_keras_serializable(package="keras_dl")
class ResNet(ImageClassifier):
    """Residual network for images, and the plain network that it is compared with.

    Layers of interest by name: `stem`, `stage_1_block_0` and so on, `features`, `head`.

    Args:
        image_shape: `(height, width, channels)`.
        num_classes: int. None for a model without a head, which returns features.
        num_blocks: sequence of int. Blocks of each stage. Each stage after the first halves the sides of the maps.
        filters: sequence of int, one per stage. Maps of its blocks' inner convolutions.
        block: "basic" or "bottleneck".
        version: "v1", "v1.5" or "v2". A basic block is the same in v1 and v1.5.
        stem: "imagenet", a 7x7 convolution and a max pool, each of stride 2, or "cifar", a 3x3 convolution of stride 1.
        shortcut: "A" or "B": maps of zeros or a convolution where the shape changes.
        residual: bool. False makes the plain network of the same depth, without any shortcut.
        zero_init_residual: bool. Whether each residual branch starts at zero.
        mean: float, or one per channel, in units of [0, 255] pixels. Subtracted from the image.
        std: float, or one per channel, in units of [0, 255] pixels. Divides the image.

    Call arguments:
        images: `(batch, height, width, channels)`, raw pixels in [0, 255].

    Returns:
        float, `(batch, num_classes)`: logits. Without a head: features, `(batch, channels)`.

    Raises:
        ValueError: if an argument is not one of those above, or `num_blocks` and `filters` differ in length.

    Example:

    >>> model = ResNet.from_preset("resnet20", image_shape=(28, 28, 1), mean=33.0, std=79.0)
    >>> model(keras.ops.zeros((1, 28, 28, 1))).shape
    TensorShape([1, 10])
    """

    presets = PRESETS

    @arguments
    def __init__(
        self,
        image_shape: ImageShape = (224, 224, 3),
        num_classes: Size | None = 1000,
        num_blocks: Sizes = (3, 4, 6, 3),
        filters: Sizes = (64, 128, 256, 512),
        block: Block = "bottleneck",
        version: Version = "v1.5",
        stem: OneOf("imagenet", "cifar") = "imagenet",
        shortcut: Shortcut = "B",
        residual: bool = True,
        zero_init_residual: bool = False,
        mean: PerChannel = IMAGENET_MEAN,
        std: PositivePerChannel = IMAGENET_STD,
        dtype=None,
        **kwargs,
    ):
        check_stages(num_blocks, filters)
        images = keras.Input(image_shape, name="images")
        *_, maps = resnet_stages(
            PixelNormalization(mean, std, name="pixels")(images),
            num_blocks,
            filters,
            stem=stem,
            block=block,
            version=version,
            shortcut=shortcut,
            residual=residual,
            zero_init_residual=zero_init_residual,
        )
        if version == "v2":
            maps = BatchNormalization(name="last_norm")(maps)
            maps = layers.ReLU(name="last_relu")(maps)
        features = layers.GlobalAveragePooling2D(name="features")(maps)  # (batch, channels)
        super().__init__(inputs=images, outputs=logits_of(features, num_classes), **kwargs)

    def load_torchvision(self, weights: Weights, head: bool = True) -> None:
        """Takes the weights of a torchvision ResNet of the same size. The model then gives the same outputs.

        torchvision's pretrained ResNets are v1.5 with shortcut B and an ImageNet stem. They take pixels normalized by
        the constants that are this class's defaults.

        Args:
            weights: mapping from torchvision's names to NumPy arrays, or the path of a `.safetensors` file.
            head: bool. Whether the last layer is loaded too. False leaves it as it is, whatever classes `weights` has.

        Raises:
            ValueError: if the model computes something else (v2, v1 of bottlenecks, without shortcuts), or if entries
                are missing, unknown or of another shape. The message lists all of them, and the model stays as it was.
        """
        self._check_torch("torchvision")
        without = self._without(head, "fc")
        modules = {name: layer for name, layer in self.torch_modules().items() if name not in without}
        load_torch(modules, weights, without=without)

    def _check_torch(self, library):
        # In basic blocks v1 is v1.5. In bottlenecks its weights have the same shapes, and strides stand elsewhere.
        if self.version == "v2" or (self.version == "v1" and self.block == "bottleneck"):
            raise ValueError(
                f"version={self.version!r} of {self.block} blocks has no counterpart in {library}, whose ResNets are "
                "v1.5. Build the model with version='v1.5'."
            )
        if not self.residual:
            raise ValueError(f"residual=False has no counterpart in {library}, whose ResNets have shortcuts.")

    def load_transformers(self, weights: Weights, head: bool = True) -> None:
        """Takes the weights of transformers' ResNetForImageClassification of the same size.

        Microsoft's checkpoints want pixels normalized by the constants that are this class's defaults.

        Args:
            weights: mapping from transformers' names to NumPy arrays, or the path of a `.safetensors` file.
            head: bool. Whether the last layer is loaded too. False leaves it as it is, whatever classes `weights` has.

        Raises:
            ValueError: as of `load_torchvision`.
        """
        self._check_torch("transformers")
        without = self._without(head, "classifier.1")
        modules = {} if "classifier.1" in without else {"classifier.1": self.get_layer("head")}
        load_torch(modules | transformers_stages(self, self.num_blocks, "resnet."), weights, without=without)

    def torch_modules(self) -> dict[str, keras.Layer]:
        """The layers by their names in torchvision, as `keras_dl.weights.load_torch` takes them."""
        head = {} if self.num_classes is None else {"fc": self.get_layer("head")}
        return head | torch_stages(self, self.num_blocks)
