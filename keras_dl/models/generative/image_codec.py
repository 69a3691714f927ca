"""Image codecs: the encoder and the decoder that all autoencoders of images share."""

import math

import keras
from keras import layers, ops

from keras_dl.arguments import SizesAtLeast
from keras_dl.base import FunctionalModel
from keras_dl.layers.pixels import PixelNormalization
from keras_dl.signatures import Signature

# Widths of hidden layers, of which there may be none.
Widths = SizesAtLeast(allow_empty=True)


def check_halvings(image_shape, filters) -> None:
    """Refuses images whose sides cannot be halved once for each of `filters`.

    Example:

    >>> check_halvings((28, 30, 1), (8, 16))
    Traceback (most recent call last):
    ...
    ValueError: filters=(8, 16) halves the sides of image_shape=(28, 30, 1) 2 times: both must be multiples of 4.
    """
    stride = 2 ** len(filters)
    if any(side % stride for side in image_shape[:2]):
        raise ValueError(
            f"filters={filters} halves the sides of image_shape={image_shape} {len(filters)} times: "
            f"both must be multiples of {stride}."
        )


def encoder(image_shape, filters, hidden_dims, latent_dim, activation, heads) -> keras.Model:
    """Images in [0, 255] to one float32 `(batch, latent_dim)` for each of `heads`; a dict if there are several."""
    images = keras.Input(image_shape, name="images")
    hidden = PixelNormalization(0.0, 255.0, name="pixels")(images)
    for i, channels in enumerate(filters):
        # (batch, height / 2^(i + 1), width / 2^(i + 1), channels)
        hidden = layers.Conv2D(channels, 3, 2, "same", activation=activation, name=f"conv_{i}")(hidden)
    hidden = layers.Flatten(name="flatten")(hidden)  # (batch, height * width * channels)
    for i, width in enumerate(hidden_dims):
        hidden = layers.Dense(width, activation=activation, name=f"dense_{i}")(hidden)  # (batch, width)
    outputs = {name: layers.Dense(latent_dim, dtype="float32", name=name)(hidden) for name in heads}
    return keras.Model(images, outputs if len(outputs) > 1 else next(iter(outputs.values())), name="encoder")


def mirrored(image_shape, filters, hidden_dims, latent_dim, activation):
    """The encoder's layers in reverse, as `(latents, logits)`: `(batch, latent_dim)` to logits of pixels, float32."""
    height, width, channels = image_shape
    latents = hidden = keras.Input((latent_dim,), name="latents")
    for i, n in enumerate(reversed(hidden_dims)):
        hidden = layers.Dense(n, activation=activation, name=f"dense_{i}")(hidden)  # (batch, n)
    if not filters:
        # (batch, height * width * channels)
        hidden = layers.Dense(math.prod(image_shape), dtype="float32", name="logits")(hidden)
        return latents, layers.Reshape(image_shape, dtype="float32", name="image")(hidden)
    smallest = (height >> len(filters), width >> len(filters), filters[-1])
    hidden = layers.Dense(math.prod(smallest), activation=activation, name="maps")(hidden)
    hidden = layers.Reshape(smallest, name="image")(hidden)  # (batch, *smallest)
    for i, n in enumerate(reversed(filters[:-1])):
        # both sides twice as long: (batch, 2^(i + 1) smallest[0], 2^(i + 1) smallest[1], n)
        hidden = layers.Conv2DTranspose(n, 3, 2, "same", activation=activation, name=f"conv_{i}")(hidden)
    # (batch, height, width, channels)
    return latents, layers.Conv2DTranspose(channels, 3, 2, "same", dtype="float32", name="logits")(hidden)


class ImageCodec(FunctionalModel):
    """A model with layers "encoder" and "decoder", and how they are used and served.

    Subclasses define `encode`, and `_unit_pixels`, which returns the pixels in [0, 1] expected from latents.
    """

    @property
    def encoder(self) -> keras.Model:
        """From images in [0, 255] to the latents, or to the parameters of their distribution."""
        return self.get_layer("encoder")

    @property
    def decoder(self) -> keras.Model:
        """From latents to pixels, or to the parameters of their distribution."""
        return self.get_layer("decoder")

    def encode(self, images):
        """The latents of images: float32, `(batch, latent_dim)`. Of the variational model, the mean of `q(z|x)`.

        Args:
            images: `(batch, height, width, channels)`, in [0, 255].
        """
        raise NotImplementedError

    def decode(self, latents):
        """The pixels expected from latents: float32, `(batch, *image_shape)`, in [0, 255].

        Args:
            latents: float, `(batch, latent_dim)`.
        """
        return 255.0 * self._unit_pixels(latents)

    def _signatures(self, batch_size, encode) -> dict[str, Signature]:
        images = keras.KerasTensor((batch_size, *self.image_shape), "uint8", name="images")
        latents = keras.KerasTensor((batch_size, self.latent_dim), "float32", name="latents")
        return {
            "encode": Signature(lambda images: encode(ops.cast(images, "float32")), {"images": images}),
            "decode": Signature(lambda latents: {"images": self.decode(latents)}, {"latents": latents}),
        }
