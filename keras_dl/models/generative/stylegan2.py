"""StyleGAN2: images from styles that scale the kernels of convolutions.

    w = f(z),   x_0 = c,   x_l = lrelu(Conv(x_(l-1), w_l) + strength_l noise + b_l),   image = sum_r up(rgb_r(x, w))
    D: min E softplus(-D(x)) + E softplus(D(G(z))) + gamma / 2 E |grad_x D(x)|^2
    G: min E softplus(-D(G(z))) + E (|J_w^T y| - a)^2,   y ~ N(0, 1) / sqrt(pixels),   a = the running mean of |J_w^T y|

`Conv` is demodulated (`style_layers.ModulatedConv2D`). Images of all sizes are added up (skip connections); the
discriminator is a residual net. R1, `|grad_x D|^2`, and the path length are computed lazily, in every 16th and 4th
step. They are steps of their own with the interval as a weight; `optimizers` makes up for these further steps.

Reference: Karras et al. 2019, "Analyzing and Improving the Image Quality of StyleGAN", arXiv:1912.04958 (section 2.2
demodulation, 3.1 lazy regularization, 3.2 path length, 4.1 architecture, appendix B), with the settings of the authors'
code (NVlabs/stylegan2, configuration F; NVlabs/stylegan2-ada-pytorch, whose weights load).

Deviations:
- Both penalties follow the steps of both sides. The code has the path length between them.
- The moving average of the weights has a warm-up: see `adversarial`.
- No labels of classes, no augmentation of the discriminator's images (ADA).
"""

import math

import keras
from keras import layers, ops

from keras_dl.arguments import ImageShape, NumberIn, Rate, Size, arguments
from keras_dl.layers.pixels import PixelNormalization
from keras_dl.models.generative.equalized import EqualizedConv2D, EqualizedDense, Filter, MinibatchDeviation
from keras_dl.models.generative.style_based import (
    FIRST_SIDE,
    PIXELS,
    StyleBased,
    mapping,
    synthesis_inputs,
    widths,
)
from keras_dl.models.generative.style_layers import ConstantMap, ModulatedConv2D
from keras_dl.models.generative.stylegan2_weights import load_nvidia
from keras_dl.ops.resampling import upsample
from keras_dl.weights import Weights


@keras.saving.register_keras_serializable(package="keras_dl")
class Upsample(keras.layers.Layer):
    """Images of twice the size, by an FIR filter."""

    def __init__(self, fir, **kwargs):
        super().__init__(**kwargs)
        self.fir = tuple(fir)

    def get_config(self):
        return super().get_config() | {"fir": self.fir}

    def call(self, x):
        return upsample(x, self.fir)

    def compute_output_shape(self, x_shape):
        batch, height, width, channels = x_shape
        return (batch, 2 * height, 2 * width, channels)


def synthesis(image_shape, style_dim, filters, fir, name) -> keras.Model:
    """Styles and maps of noise to images: float32, unclipped pixels. Layers of a size have its side in their names."""
    rgb = dict(kernel_size=1, demodulate=False, add_noise=False, rectify=False)
    map_sides = [n for n in filters for _ in range(1 if n == FIRST_SIDE else 2)]
    styles, maps = synthesis_inputs(len(map_sides) + 1, style_dim, map_sides)
    hidden, images, layer = ConstantMap(FIRST_SIDE, filters[FIRST_SIDE], name="constant")(styles), None, 0
    for side in filters:
        if side > FIRST_SIDE:
            conv = ModulatedConv2D(filters[side], 3, double=True, fir=fir, name=f"up_{side}")
            hidden, layer = conv(hidden, styles[:, layer], maps[layer]), layer + 1
        conv = ModulatedConv2D(filters[side], 3, name=f"conv_{side}")
        hidden, layer = conv(hidden, styles[:, layer], maps[layer]), layer + 1  # (batch, side, side, filters)
        colors = ModulatedConv2D(image_shape[-1], **rgb, name=f"rgb_{side}")(hidden, styles[:, layer])
        # Each in the unit of pixels: a sum that is scaled at last gets a wrong scale in an int8 file.
        offset = PIXELS if side == image_shape[0] else 0.0
        colors = layers.Rescaling(PIXELS, offset, dtype="float32", name=f"pixels_{side}")(colors)
        if images is not None:
            images = Upsample(fir, dtype="float32", name=f"skip_{side}")(images)  # (batch, side, side, channels)
            colors = layers.Add(dtype="float32", name=f"sum_{side}")([images, colors])
        images = colors
    return keras.Model([styles, *maps], images, name=name)


def discriminator(image_shape, filters, fir, group_size) -> keras.Model:
    """Images in [0, 255] to one float32 logit, `(batch,)`."""
    images = keras.Input(image_shape, name="images")
    hidden = PixelNormalization(PIXELS, PIXELS, name="scaled")(images)
    largest = image_shape[0]
    hidden = EqualizedConv2D(filters[largest], 1, rectify=True, gain=math.sqrt(2), name="from_rgb")(hidden)
    for side in reversed(filters):
        if side == FIRST_SIDE:
            break
        # (batch, side / 2, side / 2, filters), as the sum of two halves of the variance.
        down = dict(halve="filter", fir=fir)
        skip = EqualizedConv2D(
            filters[side // 2], 1, rectify=False, gain=math.sqrt(0.5), use_bias=False, **down, name=f"skip_{side}"
        )(hidden)
        hidden = EqualizedConv2D(filters[side], 3, gain=math.sqrt(2), name=f"conv_{side}")(hidden)
        hidden = EqualizedConv2D(filters[side // 2], 3, gain=1.0, **down, name=f"down_{side}")(hidden)
        hidden = layers.Add(name=f"sum_{side}")([skip, hidden])
    # The last part in float32, as the authors have it.
    options = dict(dtype="float32", gain=math.sqrt(2))
    hidden = MinibatchDeviation(group_size, dtype="float32", name="deviation")(hidden)
    hidden = EqualizedConv2D(filters[FIRST_SIDE], 3, name="last_conv", **options)(hidden)
    hidden = layers.Flatten(dtype="float32", name="flat")(hidden)
    hidden = EqualizedDense(filters[FIRST_SIDE], rectify=True, name="last_dense", **options)(hidden)
    logit = EqualizedDense(1, dtype="float32", name="logit")(hidden)
    return keras.Model(images, layers.Reshape((), dtype="float32", name="logits")(logit), name="discriminator")


PRESETS = {
    # Configuration F. Trainable parameters of the generator and the discriminator: 30,370,060 and 29,012,513.
    "config_f_1024": dict(image_shape=(1024, 1024, 3)),
    # 30,276,583 and 28,982,849.
    "config_f_512": dict(image_shape=(512, 512, 3)),
    # 30,034,338 and 28,864,129.
    "config_f_256": dict(image_shape=(256, 256, 3)),
    # `paper256` of the ADA code, with half of the channels: 24,767,458 and 24,001,089.
    "ada_paper256": dict(image_shape=(256, 256, 3), base_filters=16384, r1_weight=1.0, averaging=0.5 ** (64 / 20_000)),
}


@keras.saving.register_keras_serializable(package="keras_dl")
class StyleGAN2(StyleBased):
    """A style-based generator with demodulated convolutions, and its adversary.

    Compile it with both optimizers of `optimizers`, and no loss: `compile(*model.optimizers(0.002))`. `fit(images)`
    needs no targets. `generate` makes images of noise; `map` and `synthesize` are its two halves, between which styles
    can be mixed, truncated and interpolated; `project` finds the style of an image. In the logs, `loss` is the
    discriminator's, and 1.386 (ln 4) where it cannot tell; `r1` and `path_length` are those of the last lazy steps.

    Args:
        image_shape: `(side, side, channels)`. The side is a power of 2, at least 8.
        noise_dim: int.
        style_dim: int.
        mapping_layers: int.
        base_filters: int. Maps of a side have `base_filters / side` channels,
        max_filters: int. but no more than these.
        fir: coefficients of the filter by which maps and images are resampled.
        mixing_rate: float in [0, 1). Share of the batches with two styles an image.
        group_size: int. Images that the discriminator compares. It divides the batch. 1 for no comparison.
        r1_weight: float, `gamma`. 0 for no R1. The ADA code has `0.0002 side^2 / batch size`.
        r1_interval: int. Steps from one R1 to the next.
        path_length_weight: float. 0 for no regularization of the path length.
        path_length_interval: int. Steps from one to the next.
        averaging: float in [0, 1). Decay per step of the moving average of the generator's weights, which `generate`
            and the served functions use. `0.5 ** (batch size / 10_000)` is that of the paper. 0 for none.
        seed: int or None. Of the noise.

    Call arguments:
        noise: float, `(batch, noise_dim)`, as `draw_noise` makes it.
        training: bool. Whether the trained weights are used rather than their average.

    Returns:
        float32, `(batch, *image_shape)`: images in [0, 255].

    Raises:
        ValueError: if an argument is out of its range; the message has its name and value. By `fit`, if a batch does
            not consist of whole groups, or images are not raw pixels in [0, 255].

    Reference: arXiv:1912.04958, configuration F.

    Example:

    >>> model = StyleGAN2((16, 16, 1), 8, 8, mapping_layers=2, base_filters=64, max_filters=8)
    >>> styles = model.map(model.draw_noise(2), truncation=0.7)
    >>> styles.shape, model.synthesize(styles).shape
    (TensorShape([2, 6, 8]), TensorShape([2, 16, 16, 1]))
    """

    presets = PRESETS
    order = ("generator", "discriminator")
    figures = ("real_logit", "fake_logit", "r1", "path_length")
    path_decay = 0.01

    @arguments
    def __init__(
        self,
        image_shape: ImageShape = (256, 256, 3),
        noise_dim: Size = 512,
        style_dim: Size = 512,
        mapping_layers: Size = 8,
        base_filters: Size = 32768,
        max_filters: Size = 512,
        fir: Filter = (1, 3, 3, 1),
        mixing_rate: Rate = 0.9,
        group_size: Size = 4,
        r1_weight: NumberIn(0) = 10.0,
        r1_interval: Size = 16,
        path_length_weight: NumberIn(0) = 2.0,
        path_length_interval: Size = 4,
        averaging: Rate = 0.5 ** (32 / 10_000),
        seed: int | None = None,
        dtype=None,
        **kwargs,
    ):
        super().__init__(dtype=dtype, **kwargs)
        filters = widths(image_shape, base_filters, max_filters)

        def make_nets(prefix):
            net = mapping(noise_dim, style_dim, mapping_layers, 1.0, math.sqrt(2), f"{prefix}mapping")
            return net, synthesis(image_shape, style_dim, filters, fir, f"{prefix}synthesis")

        map_sides = [n for n in filters for _ in range(1 if n == FIRST_SIDE else 2)]
        judge = discriminator(image_shape, filters, fir, group_size)
        self._hold_nets(make_nets, judge, len(map_sides) + 1, map_sides, averaging, seed)
        self.path_length = self.add_weight(shape=(), initializer="zeros", trainable=False, name="path_length")

    def optimizers(self, learning_rate: float = 0.002, beta_2: float = 0.99):
        """Two Adam optimizers with the settings of the paper, for `compile`.

        Lazy regularization makes `k + 1` steps of an optimizer in `k` training steps. With `c = k / (k + 1)`, the rate
        is `c` times as high, and the moving averages of Adam have the decay `beta^c`.

        Args:
            learning_rate: float.
            beta_2: float. Decay of the mean of squared gradients. That of the mean of gradients is 0.

        Returns:
            `(optimizer, discriminator_optimizer)`.
        """

        def lazy(weight, interval):
            c = interval / (interval + 1) if weight else 1.0
            return keras.optimizers.Adam(c * learning_rate, beta_1=0.0, beta_2=beta_2**c, epsilon=1e-8)

        return lazy(self.path_length_weight, self.path_length_interval), lazy(self.r1_weight, self.r1_interval)

    def regularize(self, data):
        if self.path_length_weight:
            count = max(1, data.shape[0] // 2) if data.shape[0] else ops.maximum(1, ops.shape(data)[0] // 2)
            self.every(self.path_length_interval, lambda: self.minimize("generator", self.path_penalty, count))
        if self.r1_weight:
            self.every(self.r1_interval, lambda: self.minimize("discriminator", self.r1_penalty, data))

    def r1_penalty(self, images):
        """R1 as the optimizer minimizes it, and the figures."""
        penalty = self.r1(images)
        return self.r1_interval * self.r1_weight / 2 * penalty, {"r1": penalty}

    def path_penalty(self, count):
        """The penalty of path lengths as the optimizer minimizes it, on `count` new images, and the figures."""
        styles = self.training_styles(count)
        directions = self.draw_directions(count)
        lengths = self.path_lengths(styles, directions)
        mean = self.path_length + self.path_decay * (ops.mean(lengths) - self.path_length)
        self.path_length.assign(ops.stop_gradient(mean))
        penalty = ops.mean(ops.square(lengths - mean))
        return self.path_length_interval * self.path_length_weight * penalty, {"path_length": ops.mean(lengths)}

    def draw_directions(self, count):
        """`y`, of images in [-1, 1]: float32, `(count, *image_shape)`."""
        shape = (count, *self.image_shape)
        return keras.random.normal(shape, seed=self.seed_generator) / math.sqrt(math.prod(self.image_shape[:2]))

    def path_lengths(self, styles, directions):
        """`|J^T y|`: how far an image moves by a small step of its style, in one direction.

        Args:
            styles: float32, `(batch, num_styles, style_dim)`.
            directions: float32, `(batch, *image_shape)`: `y`.

        Returns:
            float32, `(batch,)`: the root of the mean over the layers of the squared lengths.
        """
        slopes = self.slopes(lambda w: self.training_images(w) * (directions / PIXELS), styles)
        return ops.sqrt(ops.mean(ops.sum(ops.square(slopes), axis=2), axis=1))

    def load_torch(self, generator: Weights | None = None, discriminator: Weights | None = None) -> None:
        """Loads weights in the layout of NVIDIA's stylegan2-ada-pytorch, whose networks have no labels.

        All files are checked before the first weight changes. The published files are pickles, which run code when
        they are opened: convert them to safetensors where torch is installed.

        Args:
            generator: the `state_dict` of `G_ema` (or `G`) as NumPy arrays by name, or the path of a `.safetensors`
                file. The moving average starts again from it. The noise and the mean style are in it, too.
            discriminator: the same of `D`.

        Raises:
            ValueError: if neither is given; or if entries are missing, unknown or of another shape, or filters differ
                from `fir`. No weight is changed then.
        """
        if generator is None and discriminator is None:
            raise ValueError("generator=None and discriminator=None: give the weights of one of them, or of both.")
        load_nvidia(self, generator, discriminator)
        if generator is not None:
            for net, average in self.averages:
                average.set_weights(net.get_weights())
