"""The nets of CycleGAN: a generator of residual blocks, and a discriminator that judges patches.

    generator       c7s1-64, d128, d256, 9 x R256, u128, u64, c7s1-3 with tanh
    discriminator   C64, C128, C256, C512, and a convolution to one logit of each patch

Reference: Zhu et al. 2017, arXiv:1703.10593, section 7.2, with padding, slope and normalization of the authors' code.
"""

import keras
from keras import initializers, layers, ops

from keras_dl.arguments import Size, arguments
from keras_dl.base import Layer
from keras_dl.layers.norm import InstanceNormalization

KERNEL = 4  # side of all kernels of the discriminator
WIDEST = 8  # channels of its widest maps, as a multiple of the first ones


@keras.saving.register_keras_serializable(package="keras_dl")
class ReflectionPadding2D(Layer):
    """Continues images beyond their borders by their mirror image, without the pixels of the border itself.

    Args:
        padding: int. Pixels on each side.

    Call arguments:
        images: `(batch, height, width, channels)`, with more than `padding` pixels a side.

    Returns:
        Same dtype, `(batch, height + 2 padding, width + 2 padding, channels)`.

    Example:

    >>> ReflectionPadding2D(1)(ops.reshape(ops.array([1.0, 2.0, 3.0, 4.0]), (1, 2, 2, 1))).numpy()[0, :, :, 0]
    array([[4., 3., 4., 3.],
           [2., 1., 2., 1.],
           [4., 3., 4., 3.],
           [2., 1., 2., 1.]], dtype=float32)
    """

    @arguments
    def __init__(self, padding: Size, **kwargs):
        super().__init__(**kwargs)

    def call(self, images):
        sides = (self.padding, self.padding)
        return ops.pad(images, ((0, 0), sides, sides, (0, 0)), "reflect")

    def compute_output_shape(self, images_shape):
        batch, *sides, channels = images_shape
        return (batch, *(None if side is None else side + 2 * self.padding for side in sides), channels)


def kernels():
    """N(0, 0.02)."""
    return initializers.RandomNormal(0.0, 0.02)


def conv(channels, size, stride, name, layer=layers.Conv2D, **options):
    """A convolution that pads nothing."""
    return layer(channels, size, stride, kernel_initializer=kernels(), name=name, **options)


def normalized(maps, name):
    """Instance normalization and the rectifier."""
    return layers.ReLU(name=f"{name}_relu")(InstanceNormalization(name=f"{name}_norm")(maps))


def residual_block(maps, channels, name):
    """Two 3x3 convolutions with the rectifier between them, beside the identity."""
    hidden = ReflectionPadding2D(1, name=f"{name}_pad_0")(maps)
    hidden = normalized(conv(channels, 3, 1, f"{name}_0")(hidden), f"{name}_0")
    hidden = conv(channels, 3, 1, f"{name}_1")(ReflectionPadding2D(1, name=f"{name}_pad_1")(hidden))
    return layers.Add(name=f"{name}_sum")([maps, InstanceNormalization(name=f"{name}_1_norm")(hidden)])


def generator(channels, filters, num_blocks, name) -> keras.Model:
    """Images in [-1, 1] of any size that 4 divides, to float32 images of the same size, in [-1, 1]."""
    images = keras.Input((None, None, channels), name="images")
    hidden = ReflectionPadding2D(3, name="first_pad")(images)
    hidden = normalized(conv(filters, 7, 1, "first")(hidden), "first")  # (batch, height, width, filters)
    for i, width in enumerate((2 * filters, 4 * filters)):
        # (batch, height / 2^(i + 1), width / 2^(i + 1), filters 2^(i + 1))
        hidden = layers.ZeroPadding2D(1, name=f"down_{i}_pad")(hidden)
        hidden = normalized(conv(width, 3, 2, f"down_{i}")(hidden), f"down_{i}")
    for i in range(num_blocks):
        hidden = residual_block(hidden, 4 * filters, f"block_{i}")
    for i, width in enumerate((2 * filters, filters)):
        hidden = conv(width, 3, 2, f"up_{i}", layers.Conv2DTranspose)(hidden)
        # Of 2 n + 1 rows and columns, torch's padding of 1 and output padding of 1 keep the last 2 n.
        hidden = normalized(layers.Cropping2D(((1, 0), (1, 0)), name=f"up_{i}_crop")(hidden), f"up_{i}")
    hidden = ReflectionPadding2D(3, name="last_pad")(hidden)
    made = conv(channels, 7, 1, "last", dtype="float32")(hidden)  # (batch, height, width, channels)
    return keras.Model(images, layers.Activation("tanh", dtype="float32", name="tanh")(made), name=name)


def discriminator(channels, filters, num_layers, name) -> keras.Model:
    """Images in [-1, 1] to float32 logits of overlapping patches, `(batch, rows, columns, 1)`."""
    hidden = images = keras.Input((None, None, channels), name="images")
    for i in range(num_layers + 1):
        width, stride = filters * min(2**i, WIDEST), 2 if i < num_layers else 1
        hidden = layers.ZeroPadding2D(1, name=f"down_{i}_pad")(hidden)
        hidden = conv(width, KERNEL, stride, f"down_{i}")(hidden)
        if i > 0:
            hidden = InstanceNormalization(name=f"down_{i}_norm")(hidden)
        hidden = layers.LeakyReLU(0.2, name=f"down_{i}_relu")(hidden)
    hidden = layers.ZeroPadding2D(1, name="logit_pad")(hidden)
    return keras.Model(images, conv(1, KERNEL, 1, "logit", dtype="float32")(hidden), name=name)


def patch_size(num_layers) -> int:
    """The side of the patch that a logit of the discriminator sees, but for the means of its normalization.

    Example:

    >>> [patch_size(num_layers) for num_layers in (1, 2, 3, 4, 5)]
    [16, 34, 70, 142, 286]
    """
    side = 1
    for stride in (1, 1, *[2] * num_layers):
        side = (side - 1) * stride + KERNEL
    return side


def generator_layers(num_blocks) -> dict[str, str]:
    """The names of the generator's convolutions in the authors' code, by their names here."""
    names = {"first": "model.1", "down_0": "model.4", "down_1": "model.7"}
    for i in range(num_blocks):
        names |= {f"block_{i}_0": f"model.{10 + i}.conv_block.1", f"block_{i}_1": f"model.{10 + i}.conv_block.5"}
    after = 10 + num_blocks
    return names | {"up_0": f"model.{after}", "up_1": f"model.{after + 3}", "last": f"model.{after + 7}"}


def discriminator_layers(num_layers) -> dict[str, str]:
    """The same of the discriminator."""
    names = {"down_0": "model.0"} | {f"down_{i}": f"model.{3 * i - 1}" for i in range(1, num_layers + 1)}
    return names | {"logit": f"model.{3 * num_layers + 2}"}
