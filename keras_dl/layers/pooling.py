"""Pooling of maps of any size to one size."""

import keras
import numpy as np
from keras import ops

from keras_dl.arguments import Size, arguments
from keras_dl.base import Layer


def averaging_matrix(size: int, cells: int) -> np.ndarray:
    """The matrix that averages `size` places in each of some cells: float32, `(cells, size)`.

    Cell i goes from `floor(i size / cells)` to `ceil((i + 1) size / cells)`, as in torch. So neighbors overlap where
    the size is no multiple, and share places where there are more cells than places.

    Example:

    >>> averaging_matrix(3, 2)
    array([[0.5, 0.5, 0. ],
           [0. , 0.5, 0.5]], dtype=float32)
    """
    matrix = np.zeros((cells, size), "float32")
    for i in range(cells):
        start, end = i * size // cells, -(-(i + 1) * size // cells)
        matrix[i, start:end] = 1 / (end - start)
    return matrix


@keras.saving.register_keras_serializable(package="keras_dl")
class AdaptivePooling2D(Layer):
    """Averages maps to one size, whatever size they have: `nn.AdaptiveAvgPool2d` of torch.

    `keras.layers.AdaptiveAveragePooling2D` fails for maps that are smaller than the result.

    Args:
        size: int. Height and width of the result.

    Call arguments:
        maps: float, `(batch, height, width, channels)`, of known sides.

    Returns:
        float, `(batch, size, size, channels)`.

    Raises:
        ValueError: if a side is not known.

    Example:

    >>> AdaptivePooling2D(2)(ops.ones((1, 3, 1, 4))).shape
    TensorShape([1, 2, 2, 4])
    """

    @arguments
    def __init__(self, size: Size, **kwargs):
        super().__init__(**kwargs)

    def build(self, maps_shape):
        _, height, width, _ = maps_shape
        if height is None or width is None:
            raise ValueError(f"maps has the shape {tuple(maps_shape)}; {self.name} needs maps of known sides.")
        self.matrices = averaging_matrix(height, self.size), averaging_matrix(width, self.size)

    def call(self, maps):
        rows, columns = (ops.cast(matrix.T, maps.dtype) for matrix in self.matrices)
        # Constants on the right are weights to LiteRT, in any quantization.
        maps = ops.matmul(ops.transpose(maps, (0, 2, 3, 1)), rows)  # (batch, width, channels, size)
        maps = ops.matmul(ops.transpose(maps, (0, 2, 3, 1)), columns)  # (batch, channels, size, size)
        return ops.transpose(maps, (0, 2, 3, 1))

    def compute_output_shape(self, maps_shape):
        return (maps_shape[0], self.size, self.size, maps_shape[3])
