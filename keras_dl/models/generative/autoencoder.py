"""Autoencoders: latents from which the input can be rebuilt; plain and denoising.

    x' = decoder(encoder(x)),   loss |x' - x|^2                                             autoencoder
    x' = decoder(encoder(corrupt(x))), the same loss                                        denoising

The variational ones are in `vae`.

References: Hinton, Salakhutdinov 2006, "Reducing the Dimensionality of Data with Neural Networks", Science 313;
Vincent et al. 2008, "Extracting and Composing Robust Features with Denoising Autoencoders".

Deviation: no layer-wise pre-training (Hinton 2006). Glorot's initialization makes it unnecessary.
"""

import keras
from keras import layers, ops

from keras_dl.arguments import ActivationName, ImageShape, NumberIn, OneOf, Size, arguments
from keras_dl.models.generative.image_codec import ImageCodec, Widths, check_halvings, encoder, mirrored
from keras_dl.signatures import Signature

CORRUPTIONS = ("none", "gaussian", "masking", "salt_and_pepper")


def corrupt(images, kind: str, level: float, seed):
    """Damages images as denoising autoencoders see them.

    Args:
        images: float, `(batch, height, width, channels)`, in [0, 255].
        kind: "gaussian" adds `N(0, (255 level)^2)`; "masking" sets a share `level` of the pixels to 0;
            "salt_and_pepper" sets a share `level` of them to 0 or 255, evenly; "none" does nothing.
        level: float in [0, 1].
        seed: int or `keras.random.SeedGenerator`.

    Returns:
        float, as `images`. Gaussian noise may go beyond [0, 255].
    """
    if kind == "none":
        return images
    shape = ops.shape(images)
    if kind == "gaussian":
        return images + 255.0 * level * keras.random.normal(shape, dtype=images.dtype, seed=seed)
    draw = keras.random.uniform(shape, dtype=images.dtype, seed=seed)
    damaged = ops.where(draw < level / 2, 255.0, 0.0) if kind == "salt_and_pepper" else ops.zeros_like(images)
    return ops.where(draw < level, ops.cast(damaged, images.dtype), images)


PRESETS = {
    # The network for MNIST: 784-1000-500-250-30 and back, 2,837,314 parameters by these sizes.
    "hinton2006_mnist": dict(
        image_shape=(28, 28, 1), latent_dim=30, hidden_dims=(1000, 500, 250), activation="sigmoid"
    ),
    # 784-2000-784, the size of the paper's hidden layers for MNIST, with its masking noise: 3,138,784 parameters.
    "vincent2008_mnist": dict(
        image_shape=(28, 28, 1),
        latent_dim=2000,
        hidden_dims=(),
        activation="sigmoid",
        corruption="masking",
        corruption_level=0.25,
    ),
}


@keras.saving.register_keras_serializable(package="keras_dl")
class Autoencoder(ImageCodec):
    """Dense or convolutional autoencoder of images, which denoises if its inputs are corrupted in training.

    `fit(images)` rebuilds its inputs, `fit(noisy, clean)` given targets, both in [0, 255]. Compile it with a loss
    of pixels in [0, 1], such as `"mse"`. With `corruption`, `fit` and `evaluate` corrupt their inputs and compare
    the outputs with the clean images. `predict` and the served functions corrupt nothing.

    Args:
        image_shape: `(height, width, channels)`.
        latent_dim: int. Size of the latents, which have no activation.
        hidden_dims: sequence of int. Dense layers of the encoder; the decoder has them in reverse.
        filters: sequence of int. Channels of the 3x3 convolutions of stride 2 before them; none makes a dense
            network. Both sides must be multiples of `2 ** len(filters)`. The decoder has transposed ones in reverse.
        activation: str. Of all hidden layers, by its name in Keras.
        corruption: "none", "gaussian", "masking" or "salt_and_pepper": see `corrupt`.
        corruption_level: float in [0, 1]. Standard deviation of the noise over 255, or the share of pixels.
        seed: int or None. Of the corruption.

    Call arguments:
        images: `(batch, height, width, channels)`, raw pixels in [0, 255].

    Returns:
        float32, the shape of `images`: pixels in [0, 1].

    Raises:
        ValueError: if an argument is out of its range; the message has its name and value.

    Example:

    >>> model = Autoencoder((28, 28, 1), latent_dim=16, filters=(8, 16), hidden_dims=())
    >>> model.encode(keras.ops.zeros((2, 28, 28, 1))).shape
    TensorShape([2, 16])
    """

    presets = PRESETS

    @arguments
    def __init__(
        self,
        image_shape: ImageShape = (28, 28, 1),
        latent_dim: Size = 32,
        hidden_dims: Widths = (512,),
        filters: Widths = (),
        activation: ActivationName = "relu",
        corruption: OneOf(*CORRUPTIONS) = "none",
        corruption_level: NumberIn(0, 1) = 0.0,
        seed: int | None = None,
        dtype=None,
        **kwargs,
    ):
        check_halvings(image_shape, filters)
        network = (image_shape, filters, hidden_dims, latent_dim, activation)

        images = keras.Input(image_shape, name="images")
        latents = encoder(*network, heads=("latents",))(images)  # (batch, latent_dim)
        inputs, logits = mirrored(*network)
        pixels = layers.Activation("sigmoid", dtype="float32")(logits)
        pixels = keras.Model(inputs, pixels, name="decoder")(latents)  # (batch, height, width, channels)
        super().__init__(inputs=images, outputs=pixels, **kwargs)

        self.seed_generator = keras.random.SeedGenerator(seed)

    def train_step(self, data):
        return super().train_step(self._corrupted_pair(data))

    def test_step(self, data):
        return super().test_step(self._corrupted_pair(data))

    def _corrupted_pair(self, data):
        images, clean, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        clean = ops.cast(images if clean is None else clean, "float32")
        images = corrupt(ops.cast(images, "float32"), self.corruption, self.corruption_level, self.seed_generator)
        return images, clean / 255.0, sample_weight

    def encode(self, images):
        return self.encoder(images)

    def _unit_pixels(self, latents):
        return self.decoder(latents)

    def serving_signatures(self, batch_size: int = 1) -> dict[str, Signature]:
        """The entry points of a device: dict of `Signature`.

        `encode(images: uint8, (batch_size, *image_shape))` returns `{"latents": float32, (batch_size, latent_dim)}`;
        `decode(latents)` returns `{"images": float32, (batch_size, *image_shape), in [0, 255]}`.
        """
        return self._signatures(batch_size, lambda images: {"latents": self.encode(images)})
