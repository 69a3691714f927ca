"""RefineNet: the net of NCSN, from a noisy image to a map of its size.

    stages      residual blocks; the first stage keeps the size, the next ones halve it, and the last ones are dilated
                instead of halved
    refinement  from the last stage to the first: each takes its stage and what came before, adds them at the size of
                the stage, pools over chains of 5x5 windows, and convolves

InstanceNorm++ also keeps what an instance norm removes, how the means of the channels differ:

    gamma (IN(x) + alpha (mu - m) / sqrt(v + 1e-5)) + beta,    mu the channels' means, m and v their mean and variance

With a number of levels, `alpha`, `beta` and `gamma` are rows of a table, picked by the level, and every block has
norms, also those of the refinement. Without one they are plain weights, and only the stages have norms.

References: Song, Ermon 2019, "Generative Modeling by Estimating Gradients of the Data Distribution", arXiv:1907.05600,
appendix A, and the code (ermongroup/ncsn); the same 2020, "Improved Techniques for Training Score-Based Generative
Models", arXiv:2006.09011, appendix B, and the code (ermongroup/ncsnv2); Lin et al. 2016, "RefineNet",
arXiv:1611.06612. Two things follow the code, of which the papers do not speak: `v` is the unbiased variance, and the
windows are pooled by their means with levels, and by their maxima without.
"""

import math

import keras
import tensorflow as tf
from keras import initializers, layers, ops

from keras_dl.base import Layer
from keras_dl.weights import Entry, torch_entries

WINDOW = 5  # pixels of a side that the refinement pools over


@keras.saving.register_keras_serializable(package="keras_dl")
class InstanceNormPlus(Layer):
    """Instance normalization that keeps how the means of the channels differ: `InstanceNorm++`.

    Args:
        num_levels: int or None. Number of noise levels with weights of their own. None for one set of weights.

    Call arguments:
        images: float, `(batch, height, width, channels)`, of at least 2 channels.
        level: int32, `(batch,)`, in [0, num_levels). None without levels.

    Returns:
        The layer's compute dtype, the shape of `images`; statistics are taken in float32.
    """

    def __init__(self, num_levels=None, **kwargs):
        super().__init__(**kwargs)
        self.num_levels = num_levels

    def build(self, images_shape, level_shape=None):
        channels = images_shape[-1]
        if self.num_levels is None:
            near_one = initializers.RandomNormal(1.0, 0.02)
            self.alpha = self.add_weight(shape=(channels,), initializer=near_one.clone(), name="alpha")
            self.gamma = self.add_weight(shape=(channels,), initializer=near_one, name="gamma")
            self.beta = self.add_weight(shape=(channels,), initializer="zeros", name="beta")
            return

        def near_one_and_zero(shape, dtype=None):
            table = keras.random.normal((shape[0], 2 * channels), 1.0, 0.02, dtype=dtype)
            return ops.concatenate([table, ops.zeros((shape[0], channels), dtype)], axis=1)

        self.table = self.add_weight(
            shape=(self.num_levels, 3 * channels), initializer=near_one_and_zero, name="embeddings"
        )

    def call(self, images, level=None):
        x = ops.cast(images, keras.backend.result_type(images.dtype, "float32"))
        means = ops.mean(x, axis=(1, 2), keepdims=True)  # (batch, 1, 1, channels)
        x = x - means
        x = x * ops.rsqrt(ops.mean(x * x, axis=(1, 2), keepdims=True) + 1e-5)
        channels = x.shape[-1]
        means = means - ops.mean(means, axis=-1, keepdims=True)
        variance = ops.sum(means * means, axis=-1, keepdims=True) / (channels - 1)
        means = means * ops.rsqrt(variance + 1e-5)
        if self.num_levels is None:
            gamma, alpha, beta = (ops.cast(w, x.dtype) for w in (self.gamma, self.alpha, self.beta))
        else:
            rows = tf.gather(ops.cast(self.table, x.dtype), level)  # (batch, 3 channels)
            rows = ops.reshape(rows, (-1, 1, 1, 3 * channels))
            gamma, alpha, beta = (rows[..., i * channels : (i + 1) * channels] for i in range(3))
        return ops.cast((x + means * alpha) * gamma + beta, self.compute_dtype)

    def compute_output_spec(self, images, level=None):
        return keras.KerasTensor(images.shape, self.compute_dtype)

    def entries(self) -> dict[str, Entry]:
        """Its weights, by the names that they have in the authors' checkpoints."""
        if self.num_levels is not None:
            return {f"{self.name}.embed.weight": Entry(self.table, tuple(self.table.shape), lambda array: array)}
        weights = (self.alpha, self.gamma, self.beta)
        return {f"{self.name}.{w.name}": Entry(w, tuple(w.shape), lambda array: array) for w in weights}


@keras.saving.register_keras_serializable(package="keras_dl")
class Enlarged(Layer):
    """Images of another size by bilinear interpolation, the corners of which stay where they are.

    Args:
        size: `(height, width)`.

    Call arguments:
        images: float, `(batch, height, width, channels)`.

    Returns:
        The layer's compute dtype, `(batch, *size, channels)`.
    """

    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size = tuple(size)

    def call(self, images):
        images = tf.cast(images, "float32")
        # Of TensorFlow's public functions, only a deprecated one keeps the corners.
        images = tf.raw_ops.ResizeBilinear(images=images, size=self.size, align_corners=True)
        return ops.cast(images, self.compute_dtype)

    def compute_output_spec(self, images):
        return keras.KerasTensor((images.shape[0], *self.size, images.shape[-1]), self.compute_dtype)


def halvings(multipliers, dilations) -> int:
    """How often the sides are halved."""
    return len(multipliers) - 1 - len(dilations)


class _Builder:
    """Makes the layers. Their names are those of the modules in the authors' code."""

    def __init__(self, num_levels, level, activation):
        self.num_levels, self.level, self.activation = num_levels, level, activation

    def act(self, x):
        return layers.Activation(self.activation)(x)

    def norm(self, x, name):
        norm = InstanceNormPlus(self.num_levels, name=name)
        return norm(x) if self.level is None else norm(x, self.level)

    def conv(self, x, filters, name, size=3, dilation=1, use_bias=True, **options):
        # The range of torch's own initial values: 1 / sqrt(fan in).
        limit = 1 / math.sqrt(size * size * x.shape[-1])
        return layers.Conv2D(
            filters,
            size,
            padding="same",
            dilation_rate=dilation,
            use_bias=use_bias,
            kernel_initializer=initializers.RandomUniform(-limit, limit),
            bias_initializer=initializers.RandomUniform(-limit, limit),
            name=name,
            **options,
        )(x)

    def halved(self, x, filters, name, size=3):
        return layers.AveragePooling2D(2)(self.conv(x, filters, f"{name}.conv", size))

    def residual(self, x, filters, name, down=False, dilation=1):
        """norm, act, conv, norm, act, conv. The first block of a stage that is dilated has no halving."""
        hidden = self.act(self.norm(x, f"{name}.normalize1"))
        hidden = self.conv(hidden, x.shape[-1] if down else filters, f"{name}.conv1", dilation=dilation)
        hidden = self.act(self.norm(hidden, f"{name}.normalize2"))
        if down and dilation == 1:
            hidden = self.halved(hidden, filters, f"{name}.conv2")
            return hidden + self.halved(x, filters, f"{name}.shortcut", size=1)
        hidden = self.conv(hidden, filters, f"{name}.conv2", dilation=dilation)
        return hidden + (self.conv(x, filters, f"{name}.shortcut", dilation=dilation) if down else x)

    def convolved(self, x, num_blocks, name):
        """RCU: residual blocks of two plain convolutions."""
        for i in range(1, num_blocks + 1):
            shortcut = x
            for j in (1, 2):
                if self.level is not None:
                    x = self.norm(x, f"{name}.{i}_{j}_norm")
                x = self.conv(self.act(x), x.shape[-1], f"{name}.{i}_{j}_conv", use_bias=False)
            x = x + shortcut
        return x

    def fused(self, maps, filters, name):
        """MSF: maps of several sizes, each convolved, enlarged to the first's size, and added."""
        total = None
        for i, x in enumerate(maps):
            if self.level is not None:
                x = self.norm(x, f"{name}.norms.{i}")
            x = self.conv(x, filters, f"{name}.convs.{i}")
            if x.shape[1:3] != maps[0].shape[1:3]:
                x = Enlarged(maps[0].shape[1:3])(x)
            total = x if total is None else total + x
        return total

    def pooled(self, x, name):
        """CRP: a chain of two poolings over windows, of which each link is added."""
        x = path = self.act(x)
        for i in range(2):
            if self.level is not None:
                path = self.norm(path, f"{name}.norms.{i}")
                path = layers.ZeroPadding2D(WINDOW // 2)(path)  # zeros count as pixels
                path = layers.AveragePooling2D(WINDOW, 1)(path)
            else:
                path = layers.MaxPooling2D(WINDOW, 1, "same")(path)
            path = self.conv(path, x.shape[-1], f"{name}.convs.{i}", use_bias=False)
            x = x + path
        return x

    def refined(self, maps, filters, name, last):
        maps = [self.convolved(x, 2, f"{name}.adapt_convs.{i}") for i, x in enumerate(maps)]
        x = self.fused(maps, filters, f"{name}.msf") if len(maps) > 1 else maps[0]
        return self.convolved(self.pooled(x, f"{name}.crp"), 3 if last else 1, f"{name}.output_convs")


def refinenet(images, image_shape, filters, multipliers, dilations, activation, num_levels=None, level=None):
    """Maps of images that are in [-1, 1] but for their noise: float32, of the same shape.

    Args:
        images: float, `(batch, *image_shape)`.
        image_shape: `(height, width, channels)`.
        filters: int. Channels of the first stage.
        multipliers: tuple of int. Channels of each stage, as multiples of `filters`.
        dilations: tuple of int. Dilations of the last stages.
        activation: str, as Keras knows it.
        num_levels: int, or None for norms without levels.
        level: int32, `(batch,)`, with `num_levels`.
    """
    build = _Builder(num_levels, level, activation)
    # (batch, height, width, channels of the first stage)
    x = build.conv(images, multipliers[0] * filters, "begin_conv")
    stages = range(len(multipliers))
    # Of six stages, the deepest net of the authors, one has a name of its own.
    numbers = ["1", "2", "3", "31", "4", "5"] if len(stages) == 6 else [str(i + 1) for i in stages]
    maps = []
    for i, multiplier in enumerate(multipliers):
        dilation = (*[1] * (len(stages) - len(dilations)), *dilations)[i]
        for k, down in enumerate((i > 0, False)):
            x = build.residual(x, multiplier * filters, f"res{numbers[i]}.{k}", down, dilation)
        maps.append(x)
    numbers = ["1", "2", "31", "3", "4", "5"] if len(stages) == 6 else numbers
    for number, i in zip(numbers, reversed(stages), strict=True):
        inputs = [maps[i]] if i == stages[-1] else [maps[i], x]
        width = multipliers[-1] if len(inputs) == 1 else multipliers[max(i - 1, 0)]
        x = build.refined(inputs, width * filters, f"refine{number}", last=i == 0)
    x = build.act(build.norm(x, "normalizer"))
    return build.conv(x, image_shape[-1], "end_conv", dtype="float32")


def entries(net) -> dict[str, Entry]:
    """The weights of a model around a `refinenet`, by the names that they have in the authors' checkpoints."""
    found = {}
    for layer in net.layers:
        if isinstance(layer, InstanceNormPlus):
            found |= layer.entries()
        elif layer.weights:
            found |= torch_entries(layer.name, layer)
    return found
