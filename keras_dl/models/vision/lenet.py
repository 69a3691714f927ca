"""LeNet-5: convolutions and trainable subsampling, the network that read the digits of bank checks.

    a = W * x + b,   x' = A tanh(S a)                          every unit up to F6, A = 1.7159, S = 2/3
    a = w (x_1 + x_2 + x_3 + x_4) + b                          S2, S4: one w and one b per map
    y_i = sum_j (x_j - w_ij)^2                                 output, eq. 7: distance to a bitmap of class i

    layer    C1    S2    C3      S4    C5       F6       output
    maps     6     6     16      16    120      84       10
    side     28    14    10      5     1        -        -
    weights  156   12    1,516   32    48,120   10,164   0        60,000 in all

Reference: LeCun, Bottou, Bengio, Haffner 1998, "Gradient-Based Learning Applied to Document Recognition",
Proceedings of the IEEE 86(11), section II.B, table I and appendix A.

Deviations from the paper:
- The logits are `-y_i`. Train them with `keras_dl.losses.RejectionCrossentropy`, the paper's loss (eq. 9). Plain
  softmax cross-entropy has no rubbish class, which is what pulls F6 to the bitmaps.
- The paper prints its 7x12 bitmaps as a picture (fig. 3). Those below are redrawn in that style.
- Weights start at `N(0, 1 / fan_in)` instead of `U(-2.4 / fan_in, 2.4 / fan_in)`. The first author recommends it for
  this tanh in "Efficient BackProp" (1998, eq. 16). The coefficients of S2 and S4 start at 1/4, so that each map starts
  as an average.
- `head="softmax"`, the default, replaces the bitmaps by 10 trained linear units (850 weights).
"""

from typing import Annotated

import keras
import numpy as np
from keras import layers, ops

from keras_dl.arguments import ImageShape, OneOf, PerChannel, PositivePerChannel, Size, arguments
from keras_dl.base import Layer
from keras_dl.layers.pixels import PixelNormalization
from keras_dl.models.vision.classifier import ImageClassifier, logits_of

# Table I: the maps of S2 that each map of C3 sees. The last sees all; no two see the same.
C3_INPUTS = (
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    (0, 1, 2, 3, 4, 5),
)

# The targets of F6: 7 columns and 12 rows per digit, +1 for ink and -1 for background.
BITMAPS = """
..###.. ...##.. .#####. .#####. ....##. ####### ..####. ####### .#####. .#####.
.##.##. ..###.. ##...## ##...## ...###. ##..... .##.... ##...## ##...## ##...##
##...## .####.. ##...## .....## ..####. ##..... ##..... .....## ##...## ##...##
##...## ...##.. .....## .....## .##.##. ##..... ##..... .....## ##...## ##...##
##...## ...##.. .....## .....## ##..##. ######. ##..... ....##. .##.##. ##...##
##...## ...##.. ....##. ..####. ##..##. ##...## ######. ....##. ..###.. ##...##
##...## ...##.. ...##.. .....## ##..##. .....## ##...## ...##.. .##.##. .######
##...## ...##.. ..##... .....## ####### .....## ##...## ...##.. ##...## .....##
##...## ...##.. .##.... .....## ....##. .....## ##...## ..##... ##...## .....##
##...## ...##.. ##..... .....## ....##. .....## ##...## ..##... ##...## .....##
.##.##. ...##.. ##..... ##...## ....##. ##...## ##...## ..##... ##...## ....##.
..###.. .###### ####### .#####. ....##. .#####. .#####. ..##... .#####. .####..
"""


def digit_codes() -> np.ndarray:
    """The bitmaps as centers of the output units: float32, `(10, 84)`, -1 and +1, row by row of the picture."""
    rows = [[[1.0 if c == "#" else -1.0 for c in digit] for digit in row.split()] for row in BITMAPS.split("\n") if row]
    return np.transpose(np.asarray(rows, "float32"), (1, 0, 2)).reshape(10, 84)


@keras.saving.register_keras_serializable(package="keras_dl")
def scaled_tanh(x):
    """`1.7159 tanh(2x / 3)`: it maps 1 to 1 and -1 to -1, where its curvature is largest (appendix A)."""
    return 1.7159 * ops.tanh(x * (2 / 3))


def _check_at_most_32(name, image_shape):
    if max(image_shape[:2]) > 32:
        raise ValueError(f"{name}={image_shape} must have sides of at most 32 pixels.")
    return image_shape


SmallImageShape = Annotated[ImageShape, _check_at_most_32]


def _check_table(name, table):
    return tuple(tuple(row) for row in table)


Table = Annotated[tuple[tuple[int, ...], ...], _check_table]


def _lecun_normal(fan_in):
    return keras.initializers.RandomNormal(stddev=fan_in**-0.5)


@keras.saving.register_keras_serializable(package="keras_dl")
class TableConv2D(Layer):
    """A convolution in which each output map sees only the input maps that a table names. It has no other weights.

    Args:
        kernel_size: int, pixels. Side of the kernel. There is no padding.
        table: sequence of sequences of int. For each output map, the indices of the input maps that it sees.

    Call arguments:
        maps: float, `(batch, height, width, channels)`.

    Returns:
        float, `(batch, height - kernel_size + 1, width - kernel_size + 1, len(table))`.

    Raises:
        ValueError: if the table names a map that the input does not have, the same one twice, or none.
    """

    @arguments
    def __init__(self, kernel_size: Size, table: Table, **kwargs):
        super().__init__(**kwargs)

    def build(self, maps_shape):
        channels = maps_shape[-1]
        for row in self.table:
            if not row or len(set(row)) < len(row) or min(row) < 0 or max(row) >= channels:
                raise ValueError(f"table has a row {row}, which must name some of {channels} input maps, each once.")
        pairs = [(source, target) for target, row in enumerate(self.table) for source in row]
        fan_in = np.asarray([self.kernel_size**2 * len(self.table[target]) for _, target in pairs])
        normal = keras.initializers.RandomNormal(stddev=1.0)
        self.kernel = self.add_weight(
            shape=(self.kernel_size**2, len(pairs)),  # one small kernel for each pair of maps that the table connects
            initializer=lambda shape, dtype: normal(shape, dtype) * (fan_in**-0.5).astype(dtype),
            name="kernel",
        )
        self.bias = self.add_weight(shape=(len(self.table),), initializer="zeros", name="bias")
        self._place = np.zeros((len(pairs), channels * len(self.table)), "float32")
        for i, (source, target) in enumerate(pairs):
            self._place[i, source * len(self.table) + target] = 1.0

    def call(self, maps):
        # A product with constants writes the small kernels into the dense one. An exported file holds the result.
        kernel = ops.matmul(self.kernel, ops.cast(self._place, self.compute_dtype))  # (size^2, inputs * outputs)
        kernel = ops.reshape(kernel, (self.kernel_size, self.kernel_size, maps.shape[-1], len(self.table)))
        return ops.conv(maps, kernel, padding="valid") + self.bias

    def compute_output_shape(self, maps_shape):
        batch, height, width, _ = maps_shape
        return batch, height - self.kernel_size + 1, width - self.kernel_size + 1, len(self.table)


@keras.saving.register_keras_serializable(package="keras_dl")
class TrainableSubsampling(Layer):
    """Halves the sides: the sum of each 2x2 square, times a trained coefficient, plus a trained bias.

    There is one coefficient and one bias per map.

    Call arguments:
        maps: float, `(batch, height, width, channels)`.

    Returns:
        float, `(batch, height // 2, width // 2, channels)`.
    """

    def build(self, maps_shape):
        self.coefficient = self.add_weight(
            shape=(maps_shape[-1],), initializer=keras.initializers.Constant(0.25), name="coefficient"
        )
        self.bias = self.add_weight(shape=(maps_shape[-1],), initializer="zeros", name="bias")

    def call(self, maps):
        means = ops.average_pool(maps, 2)  # (batch, height // 2, width // 2, channels)
        return means * (4.0 * self.coefficient) + self.bias


@keras.saving.register_keras_serializable(package="keras_dl")
class DigitCodes(Layer):
    """Negative squared distances to the ten bitmaps: the last layer of LeNet-5, which is not trained (eq. 7).

    Call arguments:
        code: float, `(batch, 84)`.

    Returns:
        float, `(batch, 10)`: at most 0, and 0 where the code is the bitmap of the class.
    """

    def call(self, code):
        centers = ops.cast(digit_codes(), code.dtype)  # (10, 84)
        squared_norms = ops.sum(code * code, axis=-1, keepdims=True) + 84.0  # a center has the squared norm 84
        return 2.0 * ops.matmul(code, ops.transpose(centers)) - squared_norms  # (batch, 10)

    def compute_output_shape(self, code_shape):
        return (*code_shape[:-1], 10)


@keras.saving.register_keras_serializable(package="keras_dl")
class LeNet5(ImageClassifier):
    """LeNet-5.

    Layers of interest by name: `c1` to `c5` and `f6`, as the paper calls them, `features`, `head`.

    Args:
        image_shape: `(height, width, channels)`. Sides of at most 32 pixels. Smaller images are centered on 32x32
            black pixels, as the paper does with 28x28.
        num_classes: int. Must be 10 with `head="rbf"`. None for a model without a head, which returns features.
        head: "softmax", trained linear units, or "rbf", the paper's distances to bitmaps of the digits.
        mean: float, or one per channel, in units of [0, 255] pixels. Subtracted from the image. The defaults of `mean`
            and `std` make a black pixel -0.1 and a white one 1.175, as the paper does.
        std: float, or one per channel, in units of [0, 255] pixels. Divides the image.

    Call arguments:
        images: `(batch, height, width, channels)`, raw pixels in [0, 255], light ink on black.

    Returns:
        float, `(batch, num_classes)`: logits. With `head="rbf"` they are float32 under any dtype policy, and at most 0.

    Raises:
        ValueError: if the image is larger than 32x32, the head is unknown, or `num_classes` is not 10 with "rbf".

    Example:

    >>> model = LeNet5((28, 28, 1), head="rbf")
    >>> sum(w.shape.num_elements() for w in model.trainable_weights)
    60000
    """

    @arguments
    def __init__(
        self,
        image_shape: SmallImageShape = (28, 28, 1),
        num_classes: Size | None = 10,
        head: OneOf("softmax", "rbf") = "softmax",
        mean: PerChannel = 20.0,
        std: PositivePerChannel = 200.0,
        dtype=None,
        **kwargs,
    ):
        if head == "rbf" and num_classes != 10:
            raise ValueError(f"num_classes={num_classes} must be 10 with head='rbf', which has bitmaps of ten digits.")
        height, width, channels = image_shape
        top, left = (32 - height) // 2, (32 - width) // 2
        margins = ((top, 32 - height - top), (left, 32 - width - left))

        def squash(maps, name=None):
            return layers.Activation(scaled_tanh, name=name)(maps)

        images = keras.Input(image_shape, name="images")
        maps = layers.ZeroPadding2D(margins, dtype="float32", name="margin")(images)
        maps = PixelNormalization(mean, std, name="pixels")(maps)  # (batch, 32, 32, channels)
        maps = squash(layers.Conv2D(6, 5, kernel_initializer=_lecun_normal(25 * channels), name="c1")(maps))
        maps = squash(TrainableSubsampling(name="s2")(maps))  # (batch, 14, 14, 6)
        maps = squash(TableConv2D(5, C3_INPUTS, name="c3")(maps))  # (batch, 10, 10, 16)
        maps = squash(TrainableSubsampling(name="s4")(maps))  # (batch, 5, 5, 16)
        maps = squash(layers.Conv2D(120, 5, kernel_initializer=_lecun_normal(400), name="c5")(maps))
        code = layers.Flatten()(maps)  # (batch, 120)
        code = layers.Dense(84, kernel_initializer=_lecun_normal(120), name="f6")(code)
        features = squash(code, name="features")  # (batch, 84)
        rbf = head == "rbf"
        logits = DigitCodes(dtype="float32", name="head")(features) if rbf else logits_of(features, num_classes)
        super().__init__(inputs=images, outputs=logits, **kwargs)
