"""DCGAN: adversarial nets of strided convolutions, for images.

    G: noise -> 4 x 4 -> 8 x 8 -> ... -> image,    D: image -> half -> ... -> 4 x 4 -> one logit

Transposed convolutions in `G` and convolutions in `D`, all of 4x4 and stride 2, so that both nets learn how to change
the size; batch normalization in all layers but the last of `G` and the first and last of `D`; rectified linear units in
`G`, leaky ones in `D`; no dense hidden layers; weights from N(0, 0.02).

Reference: Radford, Metz, Chintala 2015, "Unsupervised Representation Learning with Deep Convolutional Generative
Adversarial Networks", arXiv:1511.06434, section 3 and 4, fig. 1, with the kernels and widths of the authors' torch code
(soumith/dcgan.torch), which PyTorch's example has, too.

Deviations:
- The paper's noise is uniform in [-1, 1]. The code has N(0, 1), as here; "uniform" has the same variance.
- `G` takes noise of its own in its step, as in algorithm 1 of Goodfellow et al. The code takes that of `D`'s step.
- The first layer of `G`, a transposed convolution of one pixel, is a dense layer: the same sum, in one product.
"""

import math

import keras
from keras import initializers, layers

from keras_dl.arguments import ImageShapeAtLeast, OneOf, Rate, Size, arguments
from keras_dl.layers.pixels import PixelNormalization
from keras_dl.models.generative.adversarial import OBJECTIVES
from keras_dl.models.generative.noise_to_data import NOISES, NoiseToData
from keras_dl.weights import Entry, Weights, load_entries, read_safetensors, torch_entries

SMALLEST, LARGEST = 4, 7  # the shorter side of the first maps


def first_maps(image_shape) -> tuple[int, int, int]:
    """Height and width of the smallest maps, and how often they are doubled to the size of the image.

    Example:

    >>> first_maps((64, 64, 3)), first_maps((28, 28, 1)), first_maps((32, 64, 3))
    ((4, 4, 4), (7, 7, 2), (4, 8, 3))
    >>> first_maps((30, 30, 1))
    Traceback (most recent call last):
    ...
    ValueError: image_shape=(30, 30, 1): the shorter side must be 4 to 7 times a power of 2, such as 28, 32, 48 or 64,
    and the longer side a multiple of the same power.
    """
    height, width, _ = image_shape
    doublings = 0
    while height % 2 == 0 and width % 2 == 0 and min(height, width) >= 2 * SMALLEST:
        height, width, doublings = height // 2, width // 2, doublings + 1
    if not doublings or min(height, width) > LARGEST:
        raise ValueError(
            f"image_shape={image_shape}: the shorter side must be {SMALLEST} to {LARGEST} times a power of 2, such as "
            "28, 32, 48 or 64, and the longer side a multiple of the same power."
        )
    return height, width, doublings


def kernels():
    """N(0, 0.02)."""
    return initializers.RandomNormal(0.0, 0.02)


def norm(name):
    """Batch normalization as in torch: epsilon 1e-5, momentum 0.9; its scale starts at N(1, 0.02)."""
    gamma = initializers.RandomNormal(1.0, 0.02)
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, gamma_initializer=gamma, name=name)


def up(channels, name, **kwargs):
    """Doubles both sides."""
    return layers.Conv2DTranspose(
        channels, 4, 2, "same", use_bias=False, kernel_initializer=kernels(), name=name, **kwargs
    )


def generator(image_shape, noise_dim, filters, name="generator") -> keras.Model:
    """Noise to float32 images in [0, 255]."""
    height, width, doublings = first_maps(image_shape)
    noise = keras.Input((noise_dim,), name="noise")
    channels = filters * 2 ** (doublings - 1)
    size = height * width * channels
    hidden = layers.Dense(size, use_bias=False, kernel_initializer=kernels(), name="first")(noise)
    hidden = layers.Reshape((height, width, channels), name="maps")(hidden)  # (batch, height, width, channels)
    hidden = layers.ReLU(name="first_relu")(norm("first_norm")(hidden))
    for i in range(doublings - 1):
        channels //= 2
        # (batch, 2^(i + 1) height, 2^(i + 1) width, channels)
        hidden = up(channels, f"up_{i}")(hidden)
        hidden = layers.ReLU(name=f"up_{i}_relu")(norm(f"up_{i}_norm")(hidden))
    images = up(image_shape[-1], "last", dtype="float32")(hidden)  # (batch, *image_shape)
    images = layers.Activation("tanh", dtype="float32", name="tanh")(images)
    return keras.Model(noise, layers.Rescaling(127.5, 127.5, dtype="float32", name="pixels")(images), name=name)


def discriminator(image_shape, filters) -> keras.Model:
    """Images in [0, 255] to one float32 logit, `(batch,)`."""
    height, width, doublings = first_maps(image_shape)
    images = keras.Input(image_shape, name="images")
    hidden = PixelNormalization(127.5, 127.5, name="scaled")(images)
    for i in range(doublings):
        # (batch, image height / 2^(i + 1), image width / 2^(i + 1), filters 2^i)
        down = layers.Conv2D(
            filters * 2**i, 4, 2, "same", use_bias=False, kernel_initializer=kernels(), name=f"down_{i}"
        )
        hidden = down(hidden)
        if i > 0:
            hidden = norm(f"down_{i}_norm")(hidden)
        hidden = layers.LeakyReLU(0.2, name=f"down_{i}_relu")(hidden)
    size = (height, width)
    logit = layers.Conv2D(1, size, use_bias=False, kernel_initializer=kernels(), dtype="float32", name="logit")(hidden)
    return keras.Model(images, layers.Reshape((), dtype="float32", name="logits")(logit), name="discriminator")


PRESETS = {
    # The torch code: 3,576,704 and 2,765,568 parameters.
    "dcgan64": dict(image_shape=(64, 64, 3), filters=64),
    # Fig. 1 of the paper, with 1,024 channels at first: 12,658,432 and 11,036,160.
    "radford2015_lsun": dict(image_shape=(64, 64, 3), filters=128),
    "dcgan32": dict(image_shape=(32, 32, 3), filters=64),
    "dcgan28": dict(image_shape=(28, 28, 1), filters=64),
}


@keras.saving.register_keras_serializable(package="keras_dl")
class DCGAN(NoiseToData):
    """Adversarial nets of strided convolutions, which generate images from noise.

    Compile it with one optimizer, of which the discriminator gets a copy, or with two, and no loss. The paper has
    `compile(keras.optimizers.Adam(2e-4, beta_1=0.5))` and batches of 128. `fit(images)` needs no targets. `call` and
    `generate` make images of noise. In the logs, `loss` is the discriminator's, and 1.386 (ln 4) where it cannot tell.

    Args:
        image_shape: `(height, width, channels)`. The shorter side is 4 to 7 times a power of 2.
        noise_dim: int.
        filters: int. Channels of the largest maps. They double with each halving of the sides.
        noise: "normal" or "uniform", of variance 1.
        objective: "non_saturating", "saturating", "least_squares" or "hinge": see `adversarial`.
        averaging: float in [0, 1). Decay per step of a moving average of the generator's weights, which `generate` and
            the served function then use. 0 for none, as in the paper.
        seed: int or None. Of the noise.

    Call arguments:
        noise: float, `(batch, noise_dim)`, as `draw_noise` makes it.
        training: bool. Whether batch normalization takes the statistics of the batch.

    Returns:
        float32, `(batch, *image_shape)`: images in [0, 255].

    Raises:
        ValueError: if an argument is out of its range; the message has its name and value. By `fit`, after the first
            step, if images are not raw pixels in [0, 255], or a batch has one image alone.

    Reference: arXiv:1511.06434, section 3 and 4.

    Example:

    >>> model = DCGAN.from_preset("dcgan64")
    >>> for net in (model.generator, model.discriminator):
    ...     print(sum(variable.value.shape.num_elements() for variable in net.trainable_variables))
    3576704
    2765568
    >>> model.generate(model.draw_noise(2)).shape
    TensorShape([2, 64, 64, 3])
    """

    presets = PRESETS
    pixels = True
    min_batch = 2

    @arguments
    def __init__(
        self,
        image_shape: ImageShapeAtLeast(2 * SMALLEST) = (64, 64, 3),
        noise_dim: Size = 100,
        filters: Size = 64,
        noise: OneOf(*NOISES) = "normal",
        objective: OneOf(*OBJECTIVES) = "non_saturating",
        averaging: Rate = 0.0,
        seed: int | None = None,
        dtype=None,
        **kwargs,
    ):
        super().__init__(dtype=dtype, **kwargs)

        def make_generator(name):
            return generator(image_shape, noise_dim, filters, name)

        self._hold(make_generator, discriminator(image_shape, filters), averaging, seed)

    def load_torch(self, generator: Weights | None = None, discriminator: Weights | None = None) -> None:
        """Loads weights in the layout of PyTorch's example `dcgan`, whose nets have `main.0`, `main.1`, ...

        Both files are checked before the first weight changes.

        Args:
            generator: the `state_dict` of `netG` as NumPy arrays by name, or the path of a `.safetensors` file. None
                leaves the generator as it is. A moving average starts again from it.
            discriminator: the same of `netD`.

        Raises:
            ValueError: if neither is given; or if entries are missing, unknown or of another shape. The message lists
                them, and no weight is changed.
        """
        if generator is None and discriminator is None:
            raise ValueError("generator=None and discriminator=None: give the weights of one of them, or of both.")
        entries, weights = {}, {}
        for side, given, found in (
            ("generator", generator, self._generator_entries),
            ("discriminator", discriminator, self._discriminator_entries),
        ):
            if given is not None:
                given = given if hasattr(given, "keys") else read_safetensors(given)
                entries |= {f"{side}: {name}": entry for name, entry in found().items()}
                weights |= {f"{side}: {name}": array for name, array in given.items()}
        load_entries(entries, weights)
        if generator is not None and self.average is not None:
            self.average.set_weights(self.generator.get_weights())

    def _generator_entries(self):
        get = self.generator.get_layer
        height, width, doublings = first_maps(self.image_shape)
        kernel = get("first").kernel
        shape = (self.noise_dim, kernel.shape[1] // (height * width), height, width)
        entries = {
            "main.0.weight": Entry(
                kernel, shape, lambda array: array.transpose(0, 2, 3, 1).reshape(self.noise_dim, math.prod(shape[1:]))
            )
        }
        entries |= torch_entries("main.1", get("first_norm"))
        for i in range(doublings - 1):
            entries |= torch_entries(f"main.{3 * i + 3}", get(f"up_{i}"))
            entries |= torch_entries(f"main.{3 * i + 4}", get(f"up_{i}_norm"))
        return entries | torch_entries(f"main.{3 * doublings}", get("last"))

    def _discriminator_entries(self):
        get = self.discriminator.get_layer
        doublings = first_maps(self.image_shape)[2]
        entries = torch_entries("main.0", get("down_0"))
        for i in range(1, doublings):
            entries |= torch_entries(f"main.{3 * i - 1}", get(f"down_{i}"))
            entries |= torch_entries(f"main.{3 * i}", get(f"down_{i}_norm"))
        return entries | torch_entries(f"main.{3 * doublings - 1}", get("logit"))
