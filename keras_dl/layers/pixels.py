"""Pixel normalization: from raw pixels to the range in which a network is trained."""

import warnings

import keras
import numpy as np
from keras import ops

from keras_dl.arguments import PerChannel, PositivePerChannel, arguments
from keras_dl.base import Layer
from keras_dl.compat import is_eager

# Mean and standard deviation of the training images, in units of [0, 255] pixels, red, green and blue.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
CIFAR10_MEAN = (125.307, 122.950, 113.865)
CIFAR10_STD = (62.993, 62.089, 66.705)

# Pixels that were scaled before are in [0, 1] or [-1, 1], or have a standard deviation of 1.
SCALED = 4.0


@keras.saving.register_keras_serializable(package="keras_dl")
class PixelNormalization(Layer):
    """`(pixels - mean) / std` with constants, so that a model takes raw pixels and a device needs no preprocessing.

    It computes in float32 under any dtype policy, because half precision would round the mean, and returns its compute
    dtype. The first eager call warns of images that were scaled before.

    Args:
        mean: float, or a sequence of floats, one per channel, in units of the pixels.
        std: float, or a sequence of floats, one per channel, in units of the pixels. Positive.

    Call arguments:
        images: any number type, `(batch, height, width, channels)`, usually in [0, 255].

    Returns:
        The layer's compute dtype, same shape.

    Raises:
        ValueError: if `std` is not positive, or if the number of values is not the number of channels.

    Example:

    >>> PixelNormalization(mean=127.5, std=127.5)(np.array([[[[0.0], [255.0]]]])).numpy().ravel()
    array([-1.,  1.], dtype=float32)
    """

    @arguments
    def __init__(self, mean: PerChannel, std: PositivePerChannel, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self._has_looked = False

    def build(self, images_shape):
        for name in ("mean", "std"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != images_shape[-1]:
                raise ValueError(
                    f"{name}={value} has {len(value)} values for images of {images_shape[-1]} channels. "
                    "Give one number, or one per channel."
                )

    def _warn_of_scaled(self, images):
        """Warns if the constants are those of [0, 255], and the images are not black, but all within `SCALED`."""
        pixels = np.asarray(images)  # of a tensor with values that a graph captures, too, where ops give symbols
        lowest, highest = float(pixels.min()), float(pixels.max())
        if lowest < highest and max(-lowest, highest) <= SCALED < np.max(self.std):
            warnings.warn(
                f"images has values from {lowest:g} to {highest:g}, and the model takes raw pixels in [0, 255], which "
                "it scales itself. Give images that were not scaled before.",
                stacklevel=2,
            )

    def call(self, images):
        if not self._has_looked and is_eager(images) and 0 not in images.shape:
            self._has_looked = True
            self._warn_of_scaled(images)
        mean, std = np.asarray(self.mean, "float32"), np.asarray(self.std, "float32")
        return ops.cast((ops.cast(images, "float32") - mean) / std, self.compute_dtype)

    def compute_output_shape(self, images_shape):
        return images_shape
