"""ConvNeXt: a residual network with the design choices of a vision transformer, without attention.

    x_0 = norm(patches(images))                                    patch_size x patch_size, with that stride
    x'  = x + drop(scale * W_2 gelu(W_1 norm(depthwise(x))))       7x7 depthwise, then widths d, 4d, d
    x   = conv(norm(x'))                                           2x2, stride 2: between two stages
    y   = head(norm(mean(x)))

Reference: Liu et al. 2022, "A ConvNet for the 2020s", arXiv:2201.03545. Section 2 and fig. 4 describe the block,
table 5 the training; layer scale and stochastic depth are there.

Kernels start at a normal distribution with a deviation of 0.02 and biases at 0, as in the authors' code.

Deviations from the paper:
- The rate of stochastic depth rises linearly from 0 at the first block to `stochastic_depth_rate` at the last, as in
  the authors' code.
- Under a half-precision policy the residual stream stays in float32. A branch scaled by 1e-6 would be lost in half
  precision.
"""

import keras
import numpy as np
from keras import layers, ops

from keras_dl.arguments import ImageShape, Number, OddSize, PerChannel, PositivePerChannel, Rate, Size, Sizes, arguments
from keras_dl.base import Layer
from keras_dl.checks import check_image_shape, check_stages
from keras_dl.layers.norm import LayerNormalization
from keras_dl.layers.pixels import IMAGENET_MEAN, IMAGENET_STD, PixelNormalization
from keras_dl.layers.residual import LayerScale, StochasticDepth
from keras_dl.models.vision.classifier import ImageClassifier, logits_of
from keras_dl.ops.activations import gelu
from keras_dl.weights import Entry, Weights, load_entries, torch_entries

_EPSILON = 1e-6  # of every layer normalization


def _initial_kernel():
    """As the authors' code, whose bounds of -2 and 2 cut nothing off: see `keras_dl.initializers`."""
    return keras.initializers.RandomNormal(stddev=0.02)


@keras.saving.register_keras_serializable(package="keras_dl")
class ConvNeXtBlock(Layer):
    """Depthwise convolution, normalization and an inverted bottleneck, on a scaled residual branch.

    Args:
        kernel_size: int, pixels. Odd, so that the convolution has a center.
        initial_scale: float. Initial value of `LayerScale`.
        stochastic_depth_rate: float in [0, 1).

    Call arguments:
        maps: float, `(batch, height, width, channels)`.
        training: bool. Whether to drop branches at random.

    Returns:
        float32 under any policy, same shape.
    """

    @arguments
    def __init__(
        self, kernel_size: OddSize = 7, initial_scale: Number = 1e-6, stochastic_depth_rate: Rate = 0.0, **kwargs
    ):
        super().__init__(autocast=False, **kwargs)
        shared = dict(dtype=self.dtype_policy)
        # A Conv2D with as many groups as channels computes the same, and is many times slower to train.
        self.depthwise = layers.DepthwiseConv2D(
            kernel_size, padding="same", depthwise_initializer=_initial_kernel(), name="depthwise", **shared
        )
        self.norm = LayerNormalization(epsilon=_EPSILON, name="norm", **shared)
        self.scale = LayerScale(initial_scale, name="scale", **shared)
        self.drop = StochasticDepth(stochastic_depth_rate, name="drop", **shared)

    def build(self, maps_shape):
        channels = maps_shape[-1]
        shared = dict(kernel_initializer=_initial_kernel(), dtype=self.dtype_policy)
        self.expand = layers.Dense(4 * channels, name="expand", **shared)
        self.project = layers.Dense(channels, name="project", **shared)

        self.depthwise.build(maps_shape)
        self.norm.build(maps_shape)
        self.expand.build(maps_shape)
        self.project.build((*maps_shape[:-1], 4 * channels))
        self.scale.build(maps_shape)

    def call(self, maps, training=False):
        maps = ops.cast(maps, "float32")
        branch = (
            self.scale.magnify_gradient(lambda maps: self._branch(maps, training), maps)
            if self.compute_dtype == "float16"
            else self._branch(maps, training)
        )
        return maps + self.drop(branch, training=training)

    def _branch(self, maps, training):
        hidden = self.expand(self.norm(self.depthwise(maps)))  # (batch, height, width, 4 * channels)
        return self.scale(self.project(gelu(hidden, training)))  # (batch, height, width, channels)

    def torch_entries(self, prefix, names, scale_name, scale_shape) -> dict[str, Entry]:
        """The block's weights by the names of a torch module, as `keras_dl.weights.load_entries` takes them.

        Args:
            prefix: str. The module's name.
            names: sequence of str. Names of the depthwise convolution, the normalization and the two dense layers.
            scale_name: str. Name of its layer scale.
            scale_shape: tuple of int. Sizes of the layer scale after the channels.
        """
        scale = self.scale.scale
        entries = {f"{prefix}.{scale_name}": Entry(scale, (*scale.shape, *scale_shape), np.ravel)}
        for name, layer in zip(names, (self.depthwise, self.norm, self.expand, self.project), strict=True):
            entries |= torch_entries(f"{prefix}.{name}", layer)
        return entries


# Section 3 of the paper: channels and blocks of the four stages; rates of table 5 for ImageNet-1K.
# With 1,000 classes: 28,589,128, 50,223,688, 88,591,464 and 197,767,336 parameters.
PRESETS = {
    "convnext_tiny": dict(num_blocks=(3, 3, 9, 3), filters=(96, 192, 384, 768), stochastic_depth_rate=0.1),
    "convnext_small": dict(num_blocks=(3, 3, 27, 3), filters=(96, 192, 384, 768), stochastic_depth_rate=0.4),
    "convnext_base": dict(num_blocks=(3, 3, 27, 3), filters=(128, 256, 512, 1024), stochastic_depth_rate=0.5),
    "convnext_large": dict(num_blocks=(3, 3, 27, 3), filters=(192, 384, 768, 1536), stochastic_depth_rate=0.5),
}


@keras.saving.register_keras_serializable(package="keras_dl")
class ConvNeXt(ImageClassifier):
    """ConvNeXt classifier.

    Layers of interest by name: `patches`, `stage_1_block_0` and so on, `features`, `head`.

    Args:
        image_shape: `(height, width, channels)`. Sides of at least `patch_size * 2 ** (stages - 1)`.
        num_classes: int. None for a model without a head, which returns features.
        num_blocks: sequence of int. Blocks of each stage.
        filters: sequence of int, one per stage. Channels of each stage.
        patch_size: int, pixels. Side and stride of the first convolution. Small images need less than 4.
        kernel_size: int, pixels, odd. Of the depthwise convolutions.
        initial_scale: float. Initial value of the layer scales.
        stochastic_depth_rate: float in [0, 1). Rate of the last block. It rises linearly from 0 at the first.
        mean: float, or one per channel, in units of [0, 255] pixels. Subtracted from the image.
        std: float, or one per channel, in units of [0, 255] pixels. Divides the image.

    Call arguments:
        images: `(batch, height, width, channels)`, raw pixels in [0, 255].

    Returns:
        float, `(batch, num_classes)`: logits. Without a head: features, `(batch, channels)`.

    Raises:
        ValueError: if the image is too small for the stages, `num_blocks` and `filters` differ in length, the kernel
            has no center, or the rate is out of range.

    Example:

    >>> model = ConvNeXt((32, 32, 3), 10, num_blocks=(1, 1), filters=(8, 16), patch_size=2)
    >>> model(keras.ops.zeros((1, 32, 32, 3))).shape
    TensorShape([1, 10])
    """

    presets = PRESETS
    renamed_arguments = {"depths": "num_blocks", "hidden_dims": "filters"}

    @arguments
    def __init__(
        self,
        image_shape: ImageShape = (224, 224, 3),
        num_classes: Size | None = 1000,
        num_blocks: Sizes = (3, 3, 9, 3),
        filters: Sizes = (96, 192, 384, 768),
        patch_size: Size = 4,
        kernel_size: OddSize = 7,
        initial_scale: Number = 1e-6,
        stochastic_depth_rate: Rate = 0.1,
        mean: PerChannel = IMAGENET_MEAN,
        std: PositivePerChannel = IMAGENET_STD,
        dtype=None,
        **kwargs,
    ):
        check_stages(num_blocks, filters)
        check_image_shape("image_shape", image_shape, min_side=patch_size * 2 ** (len(num_blocks) - 1))

        def norm(maps, name):
            return LayerNormalization(epsilon=_EPSILON, name=name)(maps)

        def conv(maps, width, size, name):
            return layers.Conv2D(width, size, size, kernel_initializer=_initial_kernel(), name=name)(maps)

        images = keras.Input(image_shape, name="images")
        maps = PixelNormalization(mean, std, name="pixels")(images)
        maps = norm(conv(maps, filters[0], patch_size, "patches"), "patches_norm")
        rates = iter(np.linspace(0, stochastic_depth_rate, sum(num_blocks)).tolist())
        for stage, (blocks, width) in enumerate(zip(num_blocks, filters, strict=True), start=1):
            if stage > 1:  # halves both sides: (batch, height', width', width)
                maps = conv(norm(maps, f"downsample_{stage}_norm"), width, 2, f"downsample_{stage}")
            for i in range(blocks):
                maps = ConvNeXtBlock(kernel_size, initial_scale, next(rates), name=f"stage_{stage}_block_{i}")(maps)
        features = norm(layers.GlobalAveragePooling2D(name="pool")(maps), "features")  # (batch, channels)
        logits = logits_of(features, num_classes, kernel_initializer=_initial_kernel())
        super().__init__(inputs=images, outputs=logits, **kwargs)

    def load_torchvision(self, weights: Weights, head: bool = True) -> None:
        """Takes the weights of a torchvision ConvNeXt of the same size.

        torchvision's checkpoints want pixels normalized by the constants that are this class's defaults.

        Args:
            weights: mapping from torchvision's names to NumPy arrays, or the path of a `.safetensors` file.
            head: bool. Whether the last layer is loaded too. False leaves it as it is, whatever classes `weights` has.

        Raises:
            ValueError: if entries are missing, unknown or of another shape. The message lists all of
                them, and the model stays as it was.
        """
        modules = {"features.0.0": "patches", "features.0.1": "patches_norm"}
        modules |= {"classifier.0": "features", "classifier.2": "head"}
        names = [f"block.{i}" for i in (0, 2, 3, 5)]
        block = dict(names=names, scale_name="layer_scale", scale_shape=(1, 1))
        without = self._without(head, "classifier.2")
        self._load(weights, modules, lambda n: f"features.{2 * n}", lambda n: f"features.{2 * n + 1}", block, without)

    def load_transformers(self, weights: Weights, head: bool = True) -> None:
        """Takes the weights of transformers' ConvNextForImageClassification of the same size.

        Facebook's checkpoints want pixels normalized by the constants that are this class's defaults. The last
        normalization adds 1e-12 to variances there, and 1e-6 here.

        Args:
            weights: mapping from transformers' names to NumPy arrays, or the path of a `.safetensors` file.
            head: bool. Whether the last layer is loaded too. False leaves it as it is, whatever classes `weights` has.

        Raises:
            ValueError: if entries are missing, unknown or of another shape. The message lists all of
                them, and the model stays as it was.
        """
        embeddings = "convnext.embeddings"
        modules = {f"{embeddings}.patch_embeddings": "patches", f"{embeddings}.layernorm": "patches_norm"}
        modules |= {"convnext.layernorm": "features", "classifier": "head"}
        names = ("dwconv", "layernorm", "pwconv1", "pwconv2")
        block = dict(names=names, scale_name="layer_scale_parameter", scale_shape=())
        stages = "convnext.encoder.stages.{}".format
        names = (lambda n: f"{stages(n)}.downsampling_layer"), (lambda n: f"{stages(n)}.layers")
        self._load(weights, modules, *names, block, self._without(head, "classifier"))

    def _load(self, weights, modules, downsampling, blocks, block, without):
        """Loads a torch checkpoint by the names of its modules.

        Args:
            weights: mapping or path, as the callers take it.
            modules: dict of the names of this model's layers, by name in the checkpoint.
            downsampling: function from a stage's number, from 0, to the name of the layers before the stage.
            blocks: function from a stage's number, from 0, to the name of its blocks.
            block: dict. Arguments of `ConvNeXtBlock.torch_entries`: the names of the parts of a block.
            without: tuple of str. Modules that are left out.
        """
        entries = {}
        for n, blocks_of_stage in enumerate(self.num_blocks):  # checkpoints count stages from 0, layers from 1
            if n:
                downsample = f"downsample_{n + 1}"
                modules |= {f"{downsampling(n)}.0": f"{downsample}_norm", f"{downsampling(n)}.1": downsample}
            for i in range(blocks_of_stage):
                entries |= self.get_layer(f"stage_{n + 1}_block_{i}").torch_entries(f"{blocks(n)}.{i}", **block)
        for name, ours in modules.items():
            if name not in without:
                entries |= torch_entries(name, self.get_layer(ours))
        load_entries(entries, weights, without)
