"""ConvNeXt: a residual network with the choices of a vision transformer, and no attention.

    x_0 = norm(patches(images))                                    patch_size x patch_size, with that stride
    x'  = x + drop(scale * W_2 gelu(W_1 norm(depthwise(x))))       7x7 depthwise, then widths d, 4d, d
    x   = conv(norm(x'))                                           2x2, stride 2: between two stages
    y   = head(norm(mean(x)))

Reference: Liu et al. 2022, "A ConvNet for the 2020s", arXiv:2201.03545. Section 2 and fig. 4 describe the block,
table 5 the training; layer scale and stochastic depth are there.

Deviations from the paper:
- The rate of stochastic depth rises linearly from 0 at the first block to `stochastic_depth_rate` at the last, as in
  the authors' code.
- Under a half-precision policy the residual stream stays in float32, for a branch scaled by 1e-6 would be lost in it.
"""

import keras
import numpy as np
from keras import layers, ops

from keras_dl.base import Layer
from keras_dl.checks import check_image_shape, check_rate, check_size, check_sizes
from keras_dl.layers.norm import LayerNormalization
from keras_dl.layers.pixels import IMAGENET_MEAN, IMAGENET_STD, PixelNormalization
from keras_dl.layers.residual import LayerScale, StochasticDepth
from keras_dl.models.vision.classifier import ImageClassifier
from keras_dl.ops.activations import gelu
from keras_dl.weights import Entry, load_entries, torch_entries

_EPSILON = 1e-6  # of every layer normalisation


def _initial_kernel():
    return keras.initializers.TruncatedNormal(stddev=0.02)


@keras.saving.register_keras_serializable(package="keras_dl")
class ConvNeXtBlock(Layer):
    """Depthwise convolution, normalisation and an inverted bottleneck, on a scaled residual branch.

    Args:
        kernel_size: int, pixels. Odd, so that the convolution has a centre.
        initial_scale: float. What `LayerScale` starts with.
        stochastic_depth_rate: float in [0, 1).

    Call arguments:
        maps: float, `(batch, height, width, channels)`.

    Returns:
        float, same shape; float32 under a half-precision policy.
    """

    def __init__(self, kernel_size=7, initial_scale=1e-6, stochastic_depth_rate=0.0, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.kernel_size = kernel_size
        self.initial_scale = initial_scale
        self.stochastic_depth_rate = stochastic_depth_rate
        shared = dict(dtype=self.dtype_policy)
        # A grouped Conv2D with as many groups as channels is the same function, and many times slower to train.
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
        hidden = self.expand(self.norm(self.depthwise(maps)))
        return self.scale(self.project(gelu(hidden, training)))

    def torch_entries(self, prefix, names, scale_name, scale_shape):
        """The block's weights by the names of a torch module, as `keras_dl.weights.load_entries` takes them.

        Args:
            prefix: str. The module's name.
            names: of what is in it: depthwise convolution, normalisation and the two dense layers.
            scale_name: str. Name of its layer scale.
            scale_shape: tuple of int. Its sizes after the channels.
        """
        scale = self.scale.scale
        entries = {f"{prefix}.{scale_name}": Entry(scale, (*scale.shape, *scale_shape), np.ravel)}
        for name, layer in zip(names, (self.depthwise, self.norm, self.expand, self.project), strict=True):
            entries |= torch_entries(f"{prefix}.{name}", layer)
        return entries


# Section 3 of the paper: channels and blocks of the four stages; rates of table 5 for ImageNet-1K.
# With 1,000 classes: 28,589,128, 50,223,688, 88,591,464 and 197,767,336 parameters.
PRESETS = {
    "convnext_tiny": dict(depths=(3, 3, 9, 3), hidden_dims=(96, 192, 384, 768), stochastic_depth_rate=0.1),
    "convnext_small": dict(depths=(3, 3, 27, 3), hidden_dims=(96, 192, 384, 768), stochastic_depth_rate=0.4),
    "convnext_base": dict(depths=(3, 3, 27, 3), hidden_dims=(128, 256, 512, 1024), stochastic_depth_rate=0.5),
    "convnext_large": dict(depths=(3, 3, 27, 3), hidden_dims=(192, 384, 768, 1536), stochastic_depth_rate=0.5),
}


@keras.saving.register_keras_serializable(package="keras_dl")
class ConvNeXt(ImageClassifier):
    """ConvNeXt classifier.

    Args:
        image_shape: `(height, width, channels)`. Sides of at least `patch_size * 2 ** (stages - 1)`.
        num_classes: int.
        depths: sequence of int. Blocks of each stage.
        hidden_dims: sequence of int, as many. Channels of each stage.
        patch_size: int, pixels. Side and stride of the first convolution; small images want less than 4.
        kernel_size: int, pixels, odd. Of the depthwise convolutions.
        initial_scale: float. What the layer scales start with.
        stochastic_depth_rate: float in [0, 1). Of the last block; it rises from 0 at the first.
        mean: float, or one a channel, in [0, 255] pixels.
        std: float, or one a channel, in [0, 255] pixels.

    Call arguments:
        images: `(batch, height, width, channels)`, raw pixels in [0, 255].

    Returns:
        float, `(batch, num_classes)`: logits.

    Raises:
        ValueError: if the image is too small for the stages, the numbers of depths and widths differ, the kernel
            has no centre, or the rate is out of range.

    Example:

    >>> model = ConvNeXt((32, 32, 3), 10, depths=(1, 1), hidden_dims=(8, 16), patch_size=2)
    >>> model(keras.ops.zeros((1, 32, 32, 3))).shape
    TensorShape([1, 10])
    """

    presets = PRESETS

    def __init__(
        self,
        image_shape=(224, 224, 3),
        num_classes=1000,
        depths=(3, 3, 9, 3),
        hidden_dims=(96, 192, 384, 768),
        patch_size=4,
        kernel_size=7,
        initial_scale=1e-6,
        stochastic_depth_rate=0.1,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        dtype=None,
        **kwargs,
    ):
        num_classes = check_size("num_classes", num_classes)
        depths = check_sizes("depths", depths)
        hidden_dims = check_sizes("hidden_dims", hidden_dims)
        patch_size = check_size("patch_size", patch_size)
        kernel_size = check_size("kernel_size", kernel_size)
        stochastic_depth_rate = check_rate("stochastic_depth_rate", stochastic_depth_rate)
        if len(hidden_dims) != len(depths):
            raise ValueError(f"hidden_dims={hidden_dims} and depths={depths} must have one value for each stage.")
        if kernel_size % 2 == 0:
            raise ValueError(
                f"kernel_size={kernel_size} must be odd: a convolution between pixels would shift the maps."
            )
        image_shape = check_image_shape("image_shape", image_shape, min_side=patch_size * 2 ** (len(depths) - 1))

        def norm(maps, name):
            return LayerNormalization(epsilon=_EPSILON, dtype=dtype, name=name)(maps)

        def conv(maps, width, size, name):
            return layers.Conv2D(width, size, size, kernel_initializer=_initial_kernel(), dtype=dtype, name=name)(maps)

        images = keras.Input(image_shape, name="images")
        maps = PixelNormalization(mean, std, dtype=dtype, name="pixels")(images)
        maps = norm(conv(maps, hidden_dims[0], patch_size, "patches"), "patches_norm")
        last = max(sum(depths) - 1, 1)
        for stage, (depth, width) in enumerate(zip(depths, hidden_dims, strict=True)):
            if stage:
                maps = norm(maps, f"downsample_{stage}_norm")
                maps = conv(maps, width, 2, f"downsample_{stage}")
            for i in range(depth):
                rate = stochastic_depth_rate * (sum(depths[:stage]) + i) / last
                name = f"stage_{stage}_block_{i}"
                maps = ConvNeXtBlock(kernel_size, initial_scale, rate, dtype=dtype, name=name)(maps)
        features = norm(layers.GlobalAveragePooling2D(dtype=dtype, name="pool")(maps), "norm")
        head = layers.Dense(num_classes, kernel_initializer=_initial_kernel(), dtype=dtype, name="head")
        super().__init__(inputs=images, outputs=head(features), dtype=dtype, **kwargs)

        self.image_shape = image_shape
        self.num_classes = num_classes
        self.depths = depths
        self.hidden_dims = hidden_dims
        self.patch_size = patch_size
        self.kernel_size = kernel_size
        self.initial_scale = initial_scale
        self.stochastic_depth_rate = stochastic_depth_rate
        self.mean = self.get_layer("pixels").mean
        self.std = self.get_layer("pixels").std

    def load_torchvision(self, weights):
        """Takes the weights of a torchvision ConvNeXt of the same size.

        torchvision's checkpoints want pixels normalised by the constants that are this class's defaults.

        Args:
            weights: mapping from torchvision's names to NumPy arrays, or the path of a `.safetensors` file.

        Raises:
            ValueError: if entries are missing, unknown or of another shape; the message lists all of
                them, and the model stays as it was.
        """
        modules = {"features.0.0": "patches", "features.0.1": "patches_norm"}
        modules |= {"classifier.0": "norm", "classifier.2": "head"}
        names = [f"block.{i}" for i in (0, 2, 3, 5)]
        block = dict(names=names, scale_name="layer_scale", scale_shape=(1, 1))
        self._load(weights, modules, lambda n: f"features.{2 * n}", lambda n: f"features.{2 * n + 1}", block)

    def load_transformers(self, weights):
        """Takes the weights of transformers' ConvNextForImageClassification of the same size.

        Facebook's checkpoints want pixels normalised by the constants that are this class's defaults. The last
        normalisation adds 1e-12 to variances there, and 1e-6 here.

        Args:
            weights: mapping from transformers' names to NumPy arrays, or the path of a `.safetensors` file.

        Raises:
            ValueError: if entries are missing, unknown or of another shape; the message lists all of
                them, and the model stays as it was.
        """
        embeddings = "convnext.embeddings"
        modules = {f"{embeddings}.patch_embeddings": "patches", f"{embeddings}.layernorm": "patches_norm"}
        modules |= {"convnext.layernorm": "norm", "classifier": "head"}
        names = ("dwconv", "layernorm", "pwconv1", "pwconv2")
        block = dict(names=names, scale_name="layer_scale_parameter", scale_shape=())
        stages = "convnext.encoder.stages.{}".format
        self._load(
            weights, modules, lambda n: f"{stages(n)}.downsampling_layer", lambda n: f"{stages(n)}.layers", block
        )

    def _load(self, weights, modules, downsampling, blocks, block):
        """Loads a torch checkpoint by the names of its modules.

        Args:
            weights: as the callers take them.
            modules: dict of this model's layers by name in the checkpoint.
            downsampling: function of a stage's number: the name of the layers before it.
            blocks: function of a stage's number: the name of its blocks.
            block: dict. How the parts of a block are called: arguments of `ConvNeXtBlock.torch_entries`.
        """
        entries = {}
        for n, depth in enumerate(self.depths):
            if n:
                modules |= {f"{downsampling(n)}.0": f"downsample_{n}_norm", f"{downsampling(n)}.1": f"downsample_{n}"}
            for i in range(depth):
                entries |= self.get_layer(f"stage_{n}_block_{i}").torch_entries(f"{blocks(n)}.{i}", **block)
        for name, ours in modules.items():
            entries |= torch_entries(name, self.get_layer(ours))
        load_entries(entries, weights)
