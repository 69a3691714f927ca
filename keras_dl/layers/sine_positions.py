"""Sine positions of the pixels of maps, for attention between them.

    y = n_y / (N_y + 1e-6) 2 pi                          n_y: the pixel's number among the N_y valid ones of its column
    P(2i) = sin(y / T^(4i / d)),   P(2i + 1) = cos(y / T^(4i / d)),   i = 0 ... d / 4 - 1

The first half of the `d` channels holds `y`, the second half `x` of the rows in the same way. Numbers count from 1, and
pixels of padding are not counted: an image has the same positions wherever it lies in its frame.

Reference: Carion et al. 2020, "End-to-End Object Detection with Transformers", arXiv:2005.12872, appendix A.4. What it
leaves open is as in the authors' code.
"""

import math

import keras
import numpy as np
from keras import ops

from keras_dl.arguments import AtLeast, Positive, arguments
from keras_dl.base import Layer

EPSILON = 1e-6


@keras.saving.register_keras_serializable(package="keras_dl")
class SinePositions(Layer):
    """Sine positions of maps of known sides. The layer has no weights.

    Args:
        dim: int, a multiple of 4. Channels of a position.
        temperature: float, positive. The longest wave is so many times the sides of the image.

    Call arguments:
        maps: `(batch, height, width, channels)`: their sides are known, and their values are not used.
        valid: bool, `(batch, height, width)`. False = padding. None for maps without padding: the positions then are a
            constant.

    Returns:
        The layer's compute dtype, `(batch, height, width, dim)`, in [-1, 1]; `(1, height, width, dim)` without `valid`.

    Raises:
        ValueError: if `dim` is not a multiple of 4, or a side is not known.

    Example:

    >>> positions = SinePositions(dim=8)
    >>> positions(keras.ops.zeros((2, 3, 5, 1))).shape
    TensorShape([1, 3, 5, 8])
    >>> valid = keras.ops.array([[[False, True, True]], [[True, True, False]]])
    >>> found = positions(keras.ops.zeros((2, 1, 3, 1)), valid)
    >>> bool(keras.ops.all(found[0, :, 1:] == found[1, :, :2]))
    True
    """

    @arguments
    def __init__(self, dim: AtLeast(4), temperature: Positive = 10000.0, **kwargs):
        if dim % 4:
            raise ValueError(f"dim={dim} must be a multiple of 4: sines and cosines of y and of x.")
        super().__init__(**kwargs)

    def call(self, maps, valid=None):
        _, height, width, _ = maps.shape
        if height is None or width is None:
            raise ValueError(f"maps has the shape {maps.shape}; {self.name} needs known sides.")
        if valid is None:
            rows = np.broadcast_to(np.arange(1, height + 1, dtype="float32")[:, None], (height, width))
            columns = np.broadcast_to(np.arange(1, width + 1, dtype="float32"), (height, width))
            rows, columns = rows[None] / (height + EPSILON), columns[None] / (width + EPSILON)
            return ops.cast(ops.convert_to_tensor(self._encoded(rows, columns, np)), self.compute_dtype)
        valid = ops.cast(valid, "float32")
        rows, columns = ops.cumsum(valid, axis=1), ops.cumsum(valid, axis=2)  # (batch, height, width)
        rows, columns = rows / (rows[:, -1:] + EPSILON), columns / (columns[:, :, -1:] + EPSILON)
        return ops.cast(self._encoded(rows, columns, ops), self.compute_dtype)

    def _encoded(self, rows, columns, library):
        """The positions of shares in [0, 1], `(batch, height, width)` each, by NumPy for constants or by Keras."""
        quarter = self.dim // 4
        frequencies = np.float32(2 * math.pi / self.temperature ** (np.arange(quarter) / quarter))
        halves = []
        for shares in (rows, columns):
            angles = shares[..., None] * frequencies  # (batch, height, width, dim / 4)
            waves = library.stack([library.sin(angles), library.cos(angles)], axis=-1)
            halves.append(library.reshape(waves, (-1, *shares.shape[1:], 2 * quarter)))
        return library.concatenate(halves, axis=-1)

    def compute_output_shape(self, maps_shape, valid_shape=None):
        return (1 if valid_shape is None else maps_shape[0], *maps_shape[1:3], self.dim)
