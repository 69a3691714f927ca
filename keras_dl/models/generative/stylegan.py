"""StyleGAN: images from styles that set the mean and deviation of every map, by nets that grow in training.

    w = f(z),   x_0 = c,   x_l = AdaIN(lrelu(Conv(x_(l-1)) + strengths_l noise + b_l), A_l w_l)
    image = lerp(up(rgb_(r-1)), rgb_r, share of r)
    D: min E softplus(-D(x)) + E softplus(D(G(z))) + gamma / 2 E |grad_x D(x)|^2,   G: min E softplus(-D(G(z)))

The nets begin at a small size. When they have seen enough images, layers for twice the size fade in. The level of
detail says how often the size is still halved: 2.3 is 70% of the way to the second halving. Real images are shown at
the same level.

Reference: Karras, Laine, Aila 2018, "A Style-Based Generator Architecture for Generative Adversarial Networks",
arXiv:1812.04948 (section 2, fig. 1, table 1 row F, appendix B and C), with the settings of the authors' code
(NVlabs/stylegan); Karras et al. 2017, "Progressive Growing of GANs", arXiv:1710.10196, for the growth.

Deviations:
- All levels are computed in every step, and those that are not there yet get no weight. So the step is traced once, and
  a step at a low level takes as long as one at the highest.
- The state of the optimizers is kept when a level is added, and one batch size serves all levels.
- The moving average of the weights has a warm-up: see `adversarial`.
"""

import math

import keras
import tensorflow as tf
from keras import layers, ops

from keras_dl.arguments import AtLeast, ImageShape, NumberIn, Rate, Size, arguments
from keras_dl.layers.pixels import PixelNormalization
from keras_dl.models.generative.equalized import EqualizedConv2D, EqualizedDense, Filter, MinibatchDeviation
from keras_dl.models.generative.style_based import (
    FIRST_SIDE,
    PIXELS,
    StyleBased,
    in_pixels,
    mapping,
    sides,
    synthesis_inputs,
    widths,
)
from keras_dl.models.generative.style_layers import ConstantMap, StyledConv2D
from keras_dl.replicas import replica_sum

GAIN = math.sqrt(2)  # of kernels before a leaky rectifier


@keras.saving.register_keras_serializable(package="keras_dl")
class FadeIn(keras.layers.Layer):
    """What a level adds, in the share that it has: `new + clip(level - at, 0, 1) (old - new)`."""

    def __init__(self, at, **kwargs):
        super().__init__(**kwargs)
        self.at = at

    def get_config(self):
        return super().get_config() | {"at": self.at}

    def call(self, new, old, level):
        share = ops.reshape(ops.clip(ops.cast(level, new.dtype) - self.at, 0.0, 1.0), (-1, 1, 1, 1))
        return new + share * (old - new)


def synthesis(image_shape, style_dim, filters, fir, name) -> tuple[keras.Model, keras.Model]:
    """Styles and maps of noise to images: float32, unclipped pixels.

    Returns:
        two models with the same layers: one that also takes a level of detail, `(batch, 1)`, and the grown one.
    """
    map_sides = [n for n in filters for _ in range(2)]
    styles, maps = synthesis_inputs(len(map_sides), style_dim, map_sides)
    level = keras.Input((1,), dtype="float32", name="level")
    hidden, images, layer = ConstantMap(FIRST_SIDE, filters[FIRST_SIDE], "ones", name="constant")(styles), None, 0
    for side, width in filters.items():
        for first in (True, False):
            change = "same" if not first else "none" if side == FIRST_SIDE else "double"
            conv = StyledConv2D(width, change, fir, name=f"{'first' if first else 'second'}_{side}")
            hidden, layer = conv(hidden, styles[:, layer], maps[layer]), layer + 1  # (batch, side, side, width)
        rgb = EqualizedConv2D(image_shape[-1], 1, rectify=False, dtype="float32", name=f"rgb_{side}")
        colors = rgb(hidden)
        if images is not None:
            images = layers.UpSampling2D(2, dtype="float32", name=f"double_{side}")(images)
            at = float(math.log2(image_shape[0] // side))
            images = FadeIn(at, dtype="float32", name=f"fade_{side}")(colors, images, level)
        else:
            images = colors
    growing = keras.Model([styles, *maps, level], in_pixels(images), name=name)
    return growing, keras.Model([styles, *maps], in_pixels(colors), name=f"grown_{name}")


def discriminator(image_shape, filters, fir, group_size) -> keras.Model:
    """Images in [0, 255] and a level of detail, `(batch, 1)`, to one float32 logit, `(batch,)`."""
    images = keras.Input(image_shape, name="images")
    level = keras.Input((1,), dtype="float32", name="level")
    small = PixelNormalization(PIXELS, PIXELS, name="scaled")(images)
    options = dict(kernel_gain=GAIN, rectify=True)

    def from_rgb(side, x):
        return EqualizedConv2D(filters[side], 1, name=f"from_rgb_{side}", **options)(x)

    hidden = from_rgb(image_shape[0], small)
    for side in reversed(filters):
        if side == FIRST_SIDE:
            break
        hidden = EqualizedConv2D(filters[side], 3, name=f"conv_{side}", **options)(hidden)
        down = EqualizedConv2D(filters[side // 2], 3, "average", fir, name=f"down_{side}", **options)
        hidden = down(hidden)  # (batch, side / 2, side / 2, filters)
        small = layers.AveragePooling2D(2, name=f"small_{side}")(small)
        at = float(math.log2(image_shape[0] // side))
        hidden = FadeIn(at, name=f"fade_{side}")(hidden, from_rgb(side // 2, small), level)
    options = dict(dtype="float32", **options)
    hidden = MinibatchDeviation(group_size, dtype="float32", name="deviation")(hidden)
    hidden = EqualizedConv2D(filters[FIRST_SIDE], 3, name="last_conv", **options)(hidden)
    hidden = layers.Flatten(dtype="float32", name="flat")(hidden)
    hidden = EqualizedDense(filters[FIRST_SIDE], name="last_dense", **options)(hidden)
    logit = EqualizedDense(1, dtype="float32", name="logit")(hidden)
    logits = layers.Reshape((), dtype="float32", name="logits")(logit)
    return keras.Model([images, level], logits, name="discriminator")


def at_level(images, level, levels: int):
    """Images as they are at a level of detail: mixtures of copies with means of 1x1, 2x2, 4x4, ... pixels.

    Args:
        images: float, `(batch, side, side, channels)`.
        level: float, scalar, in [0, levels].
        levels: int.
    """
    total = 0.0
    for k in range(levels + 1):
        size = 2**k
        copy = tf.nn.avg_pool2d(images, size, size, "VALID") if k else images
        copy = ops.repeat(ops.repeat(copy, size, axis=1), size, axis=2) if k else copy
        total = total + ops.cast(ops.relu(1.0 - ops.abs(level - k)), images.dtype) * copy
    return total


PRESETS = {
    # Row F. Trainable parameters of the generator and the discriminator: 26,219,627 and 23,087,249.
    "karras2018_1024": dict(image_shape=(1024, 1024, 3)),
    # 26,086,229 and 23,052,353.
    "karras2018_256": dict(image_shape=(256, 256, 3)),
}


@keras.saving.register_keras_serializable(package="keras_dl")
class StyleGAN(StyleBased):
    """The first style-based generator, and its adversary, which grow in training.

    Compile it with the optimizers of `optimizers`, and no loss: `compile(*model.optimizers(0.001))`. It is used as
    `StyleGAN2` is. A file that is exported before the nets are grown has the levels of that moment.

    Args:
        image_shape: `(side, side, channels)`. The side is a power of 2, at least 8.
        noise_dim: int.
        style_dim: int.
        mapping_layers: int.
        base_filters: int. Maps of a side have `base_filters / side` channels,
        max_filters: int. but no more than these.
        fir: coefficients of the filter that blurs maps of a new size.
        mixing_rate: float in [0, 1). Share of the batches with two styles an image.
        group_size: int. Images that the discriminator compares. It divides the batch. 1 for no comparison.
        r1_weight: float, `gamma`, of R1 in each step. 0 for none.
        first_side: int. The size at which the training begins, a power of 2 from 4 to the side of the image, which is
            no growth.
        growing_images: int. Images to see at one size, and again as many while the next one fades in.
        averaging: float in [0, 1). Decay per step of the moving average of the generator's weights, which `generate`
            and the served functions use. 0 for none.
        seed: int or None. Of the noise.

    Call arguments:
        noise: float, `(batch, noise_dim)`, as `draw_noise` makes it.
        training: bool. Whether the trained weights are used rather than their average.

    Returns:
        float32, `(batch, *image_shape)`: images in [0, 255].

    Raises:
        ValueError: if an argument is out of its range; the message has its name and value. By `fit`, if a batch does
            not consist of whole groups, or images are not raw pixels in [0, 255].

    Reference: arXiv:1812.04948, table 1, row F.

    Example:

    >>> model = StyleGAN((16, 16, 1), 8, 8, mapping_layers=2, base_filters=64, max_filters=8)
    >>> [model.level_after(n) for n in (0, 900_000, 1_500_000)]  # at 8x8; half of 16x16; 16x16
    [1.0, 0.5, 0.0]
    >>> model.generate(model.draw_noise(2)).shape
    TensorShape([2, 16, 16, 1])
    """

    presets = PRESETS
    order = ("generator", "discriminator")
    figures = ("real_logit", "fake_logit", "r1", "level")

    @arguments
    def __init__(
        self,
        image_shape: ImageShape = (256, 256, 3),
        noise_dim: Size = 512,
        style_dim: Size = 512,
        mapping_layers: Size = 8,
        base_filters: Size = 16384,
        max_filters: Size = 512,
        fir: Filter = (1, 2, 1),
        mixing_rate: Rate = 0.9,
        group_size: Size = 4,
        r1_weight: NumberIn(0) = 10.0,
        first_side: AtLeast(FIRST_SIDE) = 8,
        growing_images: Size = 600_000,
        averaging: Rate = 0.5 ** (32 / 10_000),
        seed: int | None = None,
        dtype=None,
        **kwargs,
    ):
        super().__init__(dtype=dtype, **kwargs)
        filters = widths(image_shape, base_filters, max_filters)
        if first_side not in filters:
            raise ValueError(f"first_side={first_side} must be one of {', '.join(map(str, filters))}.")

        def make_nets(prefix):
            growing, grown = synthesis(image_shape, style_dim, filters, fir, f"{prefix}synthesis")
            vars(self).setdefault("_grown", {})[growing.name] = grown  # the same layers, past Keras
            return mapping(noise_dim, style_dim, mapping_layers, GAIN, 1.0, f"{prefix}mapping"), growing

        map_sides = [n for n in filters for _ in range(2)]
        judge = discriminator(image_shape, filters, fir, group_size)
        self._hold_nets(make_nets, judge, len(map_sides), map_sides, averaging, seed)
        self._first_level = len(sides(image_shape)) - 1 - list(filters).index(first_side)
        self.images_seen = self.add_weight(
            shape=(), dtype="int64", initializer="zeros", trainable=False, name="images_seen"
        )
        level = keras.initializers.Constant(self._first_level)
        self.level = self.add_weight(shape=(), initializer=level, trainable=False, name="level")

    def optimizers(self, learning_rate: float = 0.001):
        """Two Adam optimizers with the settings of the paper, for `compile`."""
        return tuple(keras.optimizers.Adam(learning_rate, beta_1=0.0, beta_2=0.99, epsilon=1e-8) for _ in range(2))

    def level_after(self, images: int) -> float:
        """The level of detail after a number of images: 0 is all of it."""
        return float(self._level(tf.constant(images, "int64")))

    def _level(self, images):
        span = 2 * self.growing_images
        phase, rest = images // span, images % span
        faded = ops.cast(ops.maximum(rest - self.growing_images, 0), "float32") / self.growing_images
        return ops.maximum(self._first_level - ops.cast(phase, "float32") - faded, 0.0)

    def draw(self, synthesis, styles, maps, training=False):
        if vars(self).get("_serves_grown"):
            return self._grown[synthesis.name]([styles, *maps], training=training)
        return synthesis([styles, *maps, self._levels(styles)], training=training)

    def judge(self, images, training=False):
        images = ops.convert_to_tensor(images)
        return self.discriminator([images, self._levels(images)], training=training)

    def _levels(self, x):
        return ops.broadcast_to(ops.reshape(ops.convert_to_tensor(self.level), (1, 1)), (ops.shape(x)[0], 1))

    def draw_crossover(self):
        layers_there = self.num_styles - 2 * ops.cast(self.level, "int32")
        layer = keras.random.randint((), 1, layers_there, seed=self.seed_generator)
        mixed = keras.random.uniform((), seed=self.seed_generator) < self.mixing_rate
        return ops.where(mixed, layer, self.num_styles)

    def discriminator_loss(self, data, made):
        data = at_level(ops.cast(data, "float32"), self.level, self._first_level)
        loss, figures = super().discriminator_loss(data, made)
        penalty = self.r1(data) if self.r1_weight else ops.zeros(())
        return loss + self.r1_weight / 2 * penalty, figures | {"r1": penalty, "level": self.level}

    def train_step(self, data):
        logs = super().train_step(data)
        count = ops.shape(keras.utils.unpack_x_y_sample_weight(data)[0])[0]
        self.images_seen.assign_add(replica_sum(ops.cast(count, "int64")))
        self.level.assign(self._level(ops.convert_to_tensor(self.images_seen)))
        return logs

    def serving_signatures(self, batch_size: int = 1):
        signatures = super().serving_signatures(batch_size)
        if float(self.level) > 0:
            return signatures

        def grown(function):
            def run(**inputs):
                vars(self)["_serves_grown"] = True
                try:
                    return function(**inputs)
                finally:
                    vars(self)["_serves_grown"] = False

            return run

        return {name: x._replace(function=grown(x.function)) for name, x in signatures.items()}
