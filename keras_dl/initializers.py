"""Initial values of weights: those that several references share, and what Keras's initializers need.

`keras.initializers.TruncatedNormal` draws again what is beyond two deviations. So its actual deviation is 0.88 of its
argument, as in TensorFlow 1. torch's `trunc_normal_` has the absolute bounds -2 and 2. With a deviation of 0.02 these
are 100 deviations away: it is a normal distribution.
"""

import keras
import numpy as np
from keras import initializers, ops


@keras.saving.register_keras_serializable(package="keras_dl")
class Bilinear(initializers.Initializer):
    """The kernel of a transposed convolution that interpolates between the pixels of each map.

        k(i) = 1 - |i - c| / f    along each axis, f = ceil(size / 2), c the middle of the kernel

    With the stride f it enlarges maps by f. A kernel of size 2f or 2f - 1 is the usual one.

    Example:

    >>> Bilinear()((4, 4, 1, 1)).numpy()[1, :, 0, 0]
    array([0.1875, 0.5625, 0.5625, 0.1875], dtype=float32)

    Reference: Long, Shelhamer, Darrell 2014, arXiv:1411.4038, section 3.3.
    """

    def __call__(self, shape, dtype=None):
        height, width, maps, channels = shape  # as of `keras.layers.Conv2DTranspose`
        vertical, horizontal = (1 - np.abs(np.arange(n) - (n - 1) / 2) / np.ceil(n / 2) for n in (height, width))
        kernel = np.outer(vertical, horizontal)[..., None, None] * np.eye(maps, channels)
        return ops.convert_to_tensor(kernel, dtype=dtype or "float32")

    def get_config(self):
        return {}


def new_initializer(initializer):
    """An initializer that draws other numbers than `initializer`, from the same distribution.

    An object of Keras draws the same numbers again for each weight that it is given to.

    Args:
        initializer: as Keras takes it: a name, a config, an object or a function.
    """
    initializer = initializers.get(initializer)
    return initializer.clone() if isinstance(initializer, initializers.Initializer) else initializer
