"""Style-based generation: what StyleGAN and StyleGAN2 share.

    w = f(z),   image = g(w_1, ..., w_L, noise),   w_l = w but for mixing and truncation

A mapping network `f` makes a style of a latent vector. A synthesis network `g` begins with learned maps, and takes a
style and noise in each of its layers. So a style that is replaced from layer k on changes what layer k and the later
ones draw, and nothing before: coarse layers have pose and shape, fine ones have strokes and colors.

    mixing      in training, the layers from a random one on get the style of another latent vector
    truncation  w <- mean + psi (w - mean), with the running mean of all styles: less variety, more typical images

References: see `stylegan` and `stylegan2`.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from keras_dl.models.generative.adversarial import discriminator_objective, generator_objective
from keras_dl.models.generative.equalized import EqualizedDense
from keras_dl.models.generative.noise_to_data import BatchRange, NoiseToData
from keras_dl.models.generative.projection import project
from keras_dl.models.generative.style_layers import normalized
from keras_dl.signatures import Signature

FIRST_SIDE = 4  # pixels of the learned maps
SIZE_RULE = "must be (side, side, channels), with a side that is a power of 2 and at least 8"
PIXELS = 127.5  # of an image's unit: nets compute with images in [-1, 1]


def sides(image_shape) -> list[int]:
    """The sides of all maps, 4, 8, ..., up to that of the image.

    Example:

    >>> sides((32, 32, 3))
    [4, 8, 16, 32]
    >>> sides((48, 48, 3))
    Traceback (most recent call last):
    ...
    ValueError: image_shape=(48, 48, 3) must be (side, side, channels), with a side that is a power of 2 and at least 8.
    """
    height, width, _ = image_shape
    if height != width or height < 2 * FIRST_SIDE or height & (height - 1):
        raise ValueError(f"image_shape={image_shape} {SIZE_RULE}.")
    return [2**i for i in range(2, height.bit_length())]


def widths(image_shape, base: int, most: int) -> dict[int, int]:
    """The channels of the maps of each side: `min(base // side, most)`.

    Example:

    >>> widths((32, 32, 3), 512, 64)
    {4: 64, 8: 64, 16: 32, 32: 16}
    """
    if base < max(image_shape[:2]):
        raise ValueError(f"base_filters={base} must be at least the side of image_shape={image_shape}.")
    return {side: min(base // side, most) for side in sides(image_shape)}


@keras.saving.register_keras_serializable(package="keras_dl")
class Normalized(keras.layers.Layer):
    """Vectors divided by the root of their mean square."""

    def call(self, x):
        return normalized(x)


def mapping(noise_dim, style_dim, num_layers, kernel_gain, gain, name) -> keras.Model:
    """Latent vectors to styles, of dense layers with a hundredth of the rate. float32 under any policy."""
    noise = keras.Input((noise_dim,), dtype="float32", name="noise")
    hidden = Normalized(dtype="float32", name="normalized")(noise)
    for i in range(num_layers):
        dense = EqualizedDense(
            style_dim, 0.01, kernel_gain, rectify=True, gain=gain, dtype="float32", name=f"dense_{i}"
        )
        hidden = dense(hidden)  # (batch, style_dim)
    return keras.Model(noise, hidden, name=name)


def synthesis_inputs(num_styles, style_dim, map_sides):
    """Inputs of a synthesis network: the styles of all layers, and a map of noise for each."""
    styles = keras.Input((num_styles, style_dim), dtype="float32", name="styles")
    maps = [keras.Input((n, n, 1), dtype="float32", name=f"noise_{i}") for i, n in enumerate(map_sides)]
    return styles, maps


def in_pixels(images):
    """A layer's output in [-1, 1] to float32 pixels, which it can leave."""
    return layers.Rescaling(PIXELS, PIXELS, dtype="float32", name="pixels")(images)


class StyleBased(NoiseToData):
    """A model of a mapping network, a synthesis network and a discriminator.

    A subclass builds the nets and hands them to `_hold_nets`. Its constructor has the arguments `noise_dim`,
    `style_dim`, `mixing_rate`, `averaging`, `group_size` and `seed`.

    Attributes:
        num_styles: int. Layers of the synthesis that take a style.
        map_sides: list of int. The sides of the maps of noise, in the order of the layers.
        mean_style: float32 variable, `(style_dim,)`. The running mean of the styles.
        noise_maps: list of float32 variables, `(1, side, side, 1)`. Noise that stays, for images that can be repeated.
    """

    pixels = True
    noise = "normal"
    objective = "non_saturating"
    mean_decay = 0.995
    generator = None

    def _hold_nets(self, make_nets, discriminator, num_styles, map_sides, averaging, seed):
        """Keeps the nets. `make_nets(prefix)` returns a mapping and a synthesis, and is called again for averages."""
        self.num_styles, self.map_sides = num_styles, list(map_sides)
        self.mapping, self.synthesis = make_nets("")
        self.discriminator = discriminator
        self.average_mapping = self.average_synthesis = None
        if averaging:
            self.average_mapping, self.average_synthesis = make_nets("average_")
            for net, average in self.averages:
                average.trainable = False
                average.set_weights(net.get_weights())
        self.mean_style = self.add_weight(
            shape=(self.mapping.output_shape[-1],), initializer="zeros", trainable=False, name="mean_style"
        )
        # The same in every model, so that its images can be repeated without a file.
        random = np.random.default_rng(0)
        self.noise_maps = [
            self.add_weight(
                shape=(1, n, n, 1),
                initializer=_constant(random.standard_normal((1, n, n, 1))),
                trainable=False,
                name=f"noise_map_{i}",
            )
            for i, n in enumerate(self.map_sides)
        ]
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.batch_range = BatchRange()
        self.built = True

    @property
    def generators(self):
        return [self.mapping, self.synthesis]

    @property
    def averages(self):
        if self.average_mapping is None:
            return []
        return [(self.mapping, self.average_mapping), (self.synthesis, self.average_synthesis)]

    @property
    def min_batch(self):
        return min(2, self.group_size)

    # What training draws.

    def draw_noise_maps(self, count, seed=None):
        """Noise for each layer: list of float32 `(count, side, side, 1)`."""
        seed = self.seed_generator if seed is None else seed
        return [keras.random.normal((count, n, n, 1), seed=seed, dtype="float32") for n in self.map_sides]

    def draw_crossover(self):
        """The first layer with the second style: int32, in [1, num_styles]. `num_styles` is none."""
        layer = keras.random.randint((), 1, self.num_styles, seed=self.seed_generator)
        mixed = keras.random.uniform((), seed=self.seed_generator) < self.mixing_rate
        return ops.where(mixed, layer, self.num_styles)

    def training_styles(self, count):
        """Styles of new noise, mixed, `(count, num_styles, style_dim)`. They move the running mean."""
        first = self.mapping(self.draw_noise(count), training=True)  # (count, style_dim)
        mean = ops.stop_gradient(ops.mean(first, axis=0))
        self.mean_style.assign(mean + self.mean_decay * (self.mean_style - mean))
        styles = self._for_all_layers(first)
        if not self.mixing_rate:
            return styles
        second = self._for_all_layers(self.mapping(self.draw_noise(count), training=True))
        later = ops.arange(self.num_styles) >= self.draw_crossover()
        return ops.where(ops.reshape(later, (1, -1, 1)), second, styles)

    def _for_all_layers(self, style):
        return ops.tile(ops.expand_dims(style, 1), (1, self.num_styles, 1))

    def training_images(self, styles):
        """Images of styles and new noise, `(count, *image_shape)`, unclipped."""
        return self.draw(self.synthesis, styles, self.draw_noise_maps(ops.shape(styles)[0]), training=True)

    def draw(self, synthesis, styles, maps, training=False):
        """Images of a synthesis network, unclipped."""
        return synthesis([styles, *maps], training=training)

    def discriminator_loss(self, data, made):
        fake = ops.stop_gradient(self.training_images(self.training_styles(ops.shape(data)[0])))
        real_logits, fake_logits = self.judge(data, training=True), self.judge(fake, training=True)
        loss = discriminator_objective(self.objective, real_logits, fake_logits)
        return loss, {"real_logit": ops.mean(real_logits), "fake_logit": ops.mean(fake_logits)}

    def generator_loss(self, data, made):
        fake = self.training_images(self.training_styles(ops.shape(data)[0]))
        return generator_objective(self.objective, self.judge(fake, training=True)), {}

    def slopes(self, function, x):
        """The gradient of the sum of a function's outputs by `x`: float32, as `x`. It is of the outputs as they are."""
        x = tf.convert_to_tensor(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = ops.sum(ops.cast(function(x), "float32"))
        return ops.cast(tape.gradient(total, x), "float32")

    def r1(self, images):
        """`E |grad D|^2` by images in [-1, 1], as the papers have it: float32, scalar."""
        slopes = PIXELS * self.slopes(lambda x: self.judge(x, training=True), ops.cast(images, "float32"))
        return ops.mean(ops.sum(ops.square(slopes), axis=(1, 2, 3)))

    def test_step(self, data):
        """Both losses, without penalties."""
        logs = super().test_step(data)
        return {name: value for name, value in logs.items() if name not in self.figures[2:]}

    # What users call.

    def call(self, noise, training=False):
        net = self.mapping if training or self.average_mapping is None else self.average_mapping
        return self._images(self._for_all_layers(net(noise, training=training)), self.noise_maps, training)

    def _images(self, styles, maps, training=False):
        return ops.clip(self.unclipped(styles, maps, training), 0.0, 255.0)

    def unclipped(self, styles, maps=None, training=False):
        """Images as `synthesize` makes them, before they are cut to [0, 255], which has no gradient outside."""
        net = self.synthesis if training or self.average_synthesis is None else self.average_synthesis
        count = ops.shape(styles)[0]
        maps = self.noise_maps if maps is None else maps
        maps = [ops.broadcast_to(ops.convert_to_tensor(x), (count, *x.shape[1:])) for x in maps]
        return self.draw(net, styles, maps, training)

    def compute_output_shape(self, noise_shape):
        return (noise_shape[0], *self.image_shape)

    def map(self, noise, truncation: float = 1.0, cutoff: int | None = None):
        """Styles of noise, by the moving average of the weights if there is one.

        Args:
            noise: float, `(batch, noise_dim)`, as `draw_noise` makes it.
            truncation: float, `psi`. 1 changes nothing; 0 gives the mean style; 0.5 to 0.7 gives typical images.
            cutoff: int or None. Layers that are truncated, from the first on. None for all.

        Returns:
            float32, `(batch, num_styles, style_dim)`.

        Raises:
            ValueError: if the noise has another shape, or `truncation` or `cutoff` is out of range.
        """
        noise = self._checked("noise", noise, (self.noise_dim,))
        if not np.isfinite(truncation) or abs(truncation) > 10:
            raise ValueError(f"truncation={truncation!r} must be a number in [-10, 10]: 1 for none, 0 for the mean.")
        cutoff = self.num_styles if cutoff is None else cutoff
        if cutoff not in range(self.num_styles + 1):
            raise ValueError(f"cutoff={cutoff!r} must be a number of layers from 0 to {self.num_styles}.")
        net = self.average_mapping or self.mapping
        styles = self._for_all_layers(net(noise, training=False))
        if truncation == 1:
            return styles
        truncated = self.mean_style + truncation * (styles - self.mean_style)
        return ops.where(ops.reshape(ops.arange(self.num_styles) < cutoff, (1, -1, 1)), truncated, styles)

    def synthesize(self, styles, noise_maps=None):
        """Images of styles.

        Args:
            styles: float, `(batch, num_styles, style_dim)`, one style for each layer.
            noise_maps: list of float `(batch or 1, side, side, 1)`, as `draw_noise_maps` makes it. None for the noise
                of the model, which is always the same.

        Returns:
            float32, `(batch, *image_shape)`, in [0, 255].

        Raises:
            ValueError: if the styles or the noise have other shapes.
        """
        styles = self._checked("styles", styles, (self.num_styles, self.mean_style.shape[0]))
        maps = self.noise_maps if noise_maps is None else list(noise_maps)
        shapes = [tuple(x.shape[1:]) for x in maps]
        wanted = [(n, n, 1) for n in self.map_sides]
        if shapes != wanted:
            raise ValueError(f"noise_maps has the shapes {shapes} after the batch; they must be {wanted}.")
        return self._images(styles, maps)

    def generate(self, noise, truncation: float = 1.0, cutoff: int | None = None, noise_maps=None):
        """Images of noise: `synthesize` of `map`. The arguments are theirs."""
        return self.synthesize(self.map(noise, truncation, cutoff), noise_maps)

    def mix(self, styles, others, first: int, last: int | None = None):
        """`styles` with those of `others` in the layers from `first` to before `last`.

        Two layers have each size of the maps: 4x4 has layer 0 of StyleGAN2, and 0 and 1 of StyleGAN.

        Args:
            styles, others: float, `(batch, num_styles, style_dim)`.
            first: int.
            last: int or None, for all later layers.

        Raises:
            ValueError: if the layers are not there.
        """
        last = self.num_styles if last is None else last
        if not 0 <= first <= last <= self.num_styles:
            raise ValueError(f"first={first}, last={last}: the layers are 0 to {self.num_styles}.")
        layer = np.arange(self.num_styles)
        taken = ops.convert_to_tensor(((layer >= first) & (layer < last))[None, :, None])
        return ops.where(taken, others, styles)

    def interpolate(self, styles, others, steps: int):
        """Styles on the straight line between two: `(steps, num_styles, style_dim)`, both ends included.

        Args:
            styles, others: float, `(num_styles, style_dim)`: one row each of what `map` returns.
            steps: int, at least 2.
        """
        if steps < 2:
            raise ValueError(f"steps={steps} must be at least 2: both ends are included.")
        shares = ops.reshape(ops.linspace(0.0, 1.0, steps), (-1, 1, 1))
        return (1.0 - shares) * styles + shares * others

    def project(self, images, steps: int = 300, learning_rate: float = 0.1, per_layer: bool = False, seed: int = 0):
        """Styles whose images are nearest to given ones: see `projection.project`."""
        images = self._checked("images", images, self.image_shape)
        return project(self, images, steps, learning_rate, per_layer, seed)

    def _checked(self, name, x, shape):
        x = ops.convert_to_tensor(x, "float32")
        if tuple(x.shape[1:]) != tuple(shape):
            raise ValueError(
                f"{name} has the shape {tuple(x.shape)}; it must be (batch, {', '.join(map(str, shape))})."
            )
        return x

    def serving_signatures(self, batch_size: int = 1) -> dict[str, Signature]:
        """The entry points of a device: dict of three `Signature`. `B` is `batch_size`.

        `generate(noise: float32, (B, noise_dim))` returns `{"images": float32, (B, *image_shape), in [0, 255]}`. The
        noise of the layers is that of the model.

        `map(noise)` returns `{"styles": float32, (B, num_styles, style_dim)}`, which a device can mix or move towards
        the mean.

        `synthesize(styles, noise_0, noise_1, ...)` returns `{"images"}`, with the noise of each layer as an input,
        `(B, side, side, 1)`.
        """
        noise = keras.KerasTensor((batch_size, self.noise_dim), "float32", name="noise")
        shape = (batch_size, self.num_styles, self.mean_style.shape[0])
        inputs = {"styles": keras.KerasTensor(shape, "float32", name="styles")}
        for i, n in enumerate(self.map_sides):
            inputs[f"noise_{i}"] = keras.KerasTensor((batch_size, n, n, 1), "float32", name=f"noise_{i}")

        def synthesize(styles, **maps):
            return {"images": self._images(styles, [maps[f"noise_{i}"] for i in range(len(maps))])}

        return {
            "generate": Signature(lambda noise: {"images": self(noise, training=False)}, {"noise": noise}),
            "map": Signature(lambda noise: {"styles": self.map(noise)}, {"noise": noise}),
            "synthesize": Signature(synthesize, inputs),
        }


def _constant(values):
    return lambda shape, dtype=None: ops.convert_to_tensor(values, dtype)
