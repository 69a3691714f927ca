"""Convolutions on groups of turns and mirror images, and the layers that go with them.

    lifting   (f * k)(x, g) = sum_y f(y) k(g^-1 (y - x))                             eq. 10
    group     (f * k)(x, g) = sum_y sum_h f(y, h) k(g^-1 (y - x), g^-1 h)            eq. 11

Both are plain convolutions whose kernel consists of turned and mirrored copies of the trained one. The last axis of a
feature map holds the elements of the group, and within each element its channels (see `keras_dl.ops.groups`).

A turned image gives turned feature maps only if the places at which a kernel is applied turn into each other. They do
if the first place begins where the image begins, and the last place ends where the image ends: if `strides` divides
`size + 2 * margin - kernel_size`. Otherwise the layers raise an error.

Reference: Cohen, Welling 2016, "Group Equivariant Convolutional Networks", arXiv:1602.07576, sections 4 to 7.
"""

from typing import Annotated

import keras
from keras import layers, ops

from keras_dl.arguments import OneOf, Size, arguments
from keras_dl.base import Layer
from keras_dl.checks import check_size
from keras_dl.layers.norm import BatchNormalization
from keras_dl.ops.groups import GROUPS, kernel_places

GroupName = OneOf(*GROUPS)
PoolingMode = OneOf("max", "mean")


def _check_square_kernel(name, value):
    """A pair of equal sides is kept as one of them."""
    sides = value if isinstance(value, list | tuple) else (value, value)
    if len(sides) != 2 or sides[0] != sides[1]:
        raise ValueError(f"{name}={value} must be square: a turned kernel would have another shape.")
    return check_size(name, sides[0])


SquareKernelSize = Annotated[int, _check_square_kernel]


def aligned_places(what, size, kernel_size, strides, margin=0) -> int:
    """The number of places of a window along a side of `size` pixels, which must be the same seen from either end.

    Raises:
        ValueError: if they are not, or the window is larger than the side.
    """
    rest = size + 2 * margin - kernel_size
    if rest < 0:
        raise ValueError(f"{what} of {kernel_size} pixels is larger than maps of {size} with a margin of {margin}.")
    if rest % strides:
        raise ValueError(
            f"strides={strides} of {what} would break the symmetry: it does not divide {size} + 2 * {margin} - "
            f"{kernel_size} = {rest}, so that the last window does not end where the maps do. Use maps of "
            f"{size - rest % strides} or {size + strides - rest % strides} pixels, or another window."
        )
    return rest // strides + 1


@keras.saving.register_keras_serializable(package="keras_dl")
class GroupConv2D(Layer):
    """Convolution of feature maps on a group.

    Args:
        filters: int. Channels of the result for each element of the group.
        kernel_size: int, pixels; or a pair of the same.
        group: "z2" (a plain convolution), "p4" or "p4m".
        strides: int. Must keep the symmetry: see the head of this file.
        padding: "valid", or "same": `(kernel_size - 1) / 2` zeros on each side, for odd kernels.
        use_bias: bool. Whether to add one bias per channel, which all elements share.

    Call arguments:
        maps: float, `(batch, height, width, order * channels)`.

    Returns:
        float, `(batch, new_height, new_width, order * filters)`.

    Raises:
        ValueError: if the kernel is not square, is even with padding "same", or is larger than the maps; if the
            strides break the symmetry; or if the group's order does not divide the channels.

    Example:

    >>> maps = LiftingConv2D(8, 3, "p4")(ops.ones((2, 9, 9, 3)))
    >>> maps.shape, GroupConv2D(16, 3, "p4")(maps).shape
    (TensorShape([2, 7, 7, 32]), TensorShape([2, 5, 5, 64]))
    """

    lifting = False

    @arguments
    def __init__(
        self,
        filters: Size,
        kernel_size: SquareKernelSize,
        group: GroupName = "p4",
        strides: Size = 1,
        padding: OneOf("valid", "same") = "valid",
        use_bias: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.order = GROUPS[group].order
        if padding == "same" and kernel_size % 2 == 0:
            raise ValueError(
                f"kernel_size={kernel_size} must be odd with padding='same': an even one has no center, and would "
                "shift the maps to one side."
            )

    def build(self, maps_shape):
        self.compute_output_shape(maps_shape)  # refuses strides that break the symmetry
        inputs = 1 if self.lifting else self.order
        channels = maps_shape[-1] // inputs
        if channels * inputs != maps_shape[-1]:
            raise ValueError(
                f"group={self.group!r} has {self.order} elements, which do not divide {maps_shape[-1]} maps."
            )
        self._places = kernel_places(self.kernel_size, self.group, self.lifting)
        self.kernel = self.add_weight(
            shape=(self.kernel_size, self.kernel_size, inputs * channels, self.filters),
            initializer=keras.initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal"),
            name="kernel",
        )
        if self.use_bias:
            self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")

    def plain_weights(self):
        """Kernel and bias of the plain convolution that this layer is.

        Returns:
            list of tensors: the kernel, `(kernel_size, kernel_size, input maps, order * filters)`, and the
            bias, `(order * filters,)`, if there is one.
        """
        size, _, maps, filters = self.kernel.shape
        inputs = self._places.shape[2]
        values = ops.reshape(self.kernel, (size * size * inputs, maps // inputs, filters))
        copies = ops.take(values, self._places, axis=0)  # (size, size, inputs, order, channels, filters)
        kernel = ops.reshape(ops.transpose(copies, (0, 1, 2, 4, 3, 5)), (size, size, maps, self.order * filters))
        return [kernel, ops.tile(self.bias, (self.order,))] if self.use_bias else [kernel]

    def plain(self) -> layers.Conv2D:
        """A new `keras.layers.Conv2D` that computes the same with the weights of `plain_weights`."""
        return layers.Conv2D(
            self.order * self.filters,
            self.kernel_size,
            self.strides,
            self.padding,
            use_bias=self.use_bias,
            name=self.name,
        )

    def call(self, maps):
        kernel, *bias = self.plain_weights()
        # Where the places are aligned, "same" puts as many zeros before the maps as after them.
        outputs = ops.conv(maps, kernel, self.strides, self.padding)  # (batch, height', width', order * filters)
        return outputs + bias[0] if bias else outputs

    def compute_output_shape(self, maps_shape):
        what = f"kernel_size={self.kernel_size}"
        margin = self.kernel_size // 2 if self.padding == "same" else 0
        sides = [aligned_places(what, side, self.kernel_size, self.strides, margin) for side in maps_shape[1:3]]
        return (maps_shape[0], *sides, self.order * self.filters)


@keras.saving.register_keras_serializable(package="keras_dl")
class LiftingConv2D(GroupConv2D):
    """Convolution from an image to a feature map on a group. Only its input differs from that of `GroupConv2D`.

    Args:
        As of `GroupConv2D`.

    Call arguments:
        maps: float, `(batch, height, width, channels)`.

    Returns:
        float, `(batch, new_height, new_width, order * filters)`.

    Example:

    >>> LiftingConv2D(8, 3, "p4")(ops.ones((2, 9, 9, 3))).shape
    TensorShape([2, 7, 7, 32])
    """

    lifting = True


@keras.saving.register_keras_serializable(package="keras_dl")
class GroupBatchNormalization(Layer):
    """Batch normalization of feature maps on a group: one mean and one variance per channel, over all elements.

    Args:
        group: "z2", "p4" or "p4m".

    Call arguments:
        maps: float, `(batch, height, width, order * channels)`.
        training: bool. Whether to take the statistics of the batch.

    Returns:
        float, same shape.

    Example:

    >>> maps = ops.ones((2, 5, 5, 4 * 3))
    >>> layer = GroupBatchNormalization("p4")
    >>> layer(maps).shape, layer.norm.gamma.shape
    (TensorShape([2, 5, 5, 12]), TensorShape([3]))
    """

    @arguments
    def __init__(self, group: GroupName = "p4", **kwargs):
        super().__init__(**kwargs)
        self.order = GROUPS[group].order
        self.norm = BatchNormalization(dtype=self.dtype_policy, name="norm")

    def build(self, maps_shape):
        self.norm.build(self._by_channel(maps_shape))

    def _by_channel(self, shape):
        """`(batch, height, width * order, channels)`: the shape with the elements side by side, like pixels."""
        batch, height, width, maps = shape
        return batch, height, width * self.order, maps // self.order

    def call(self, maps, training=False):
        _, height, width, channels = self._by_channel(maps.shape)
        normed = self.norm(ops.reshape(maps, (-1, height, width, channels)), training=training)
        return ops.reshape(normed, (-1, *maps.shape[1:]))  # (batch, height, width, order * channels)

    def compute_output_shape(self, maps_shape):
        return maps_shape

    def plain_weights(self):
        """Weights of the plain layer that computes the same in inference: each value is repeated for each element."""
        return [ops.tile(weight, (self.order,)) for weight in self.norm.weights]

    def plain(self):
        """A new `BatchNormalization` that computes the same in inference with the weights of `plain_weights`."""
        return BatchNormalization(momentum=self.norm.momentum, epsilon=self.norm.epsilon, name=self.name)


@keras.saving.register_keras_serializable(package="keras_dl")
class GroupPooling(Layer):
    """The largest or the mean value over the elements of a group. The resulting maps turn as images do.

    Args:
        group: "z2", "p4" or "p4m".
        mode: "max" or "mean".

    Call arguments:
        maps: float, `(..., order * channels)`.

    Returns:
        float, `(..., channels)`.

    Example:

    >>> GroupPooling("p4", "mean")(ops.array([[1.0, 2.0, 3.0, 6.0]])).numpy().tolist()
    [[3.0]]
    """

    @arguments
    def __init__(self, group: GroupName = "p4", mode: PoolingMode = "max", **kwargs):
        super().__init__(**kwargs)
        self.order = GROUPS[group].order

    def call(self, maps):
        # Every accelerator takes slices of the last axis; not every one takes a reduction of a tensor of rank 5.
        first, *others = ops.split(maps, self.order, axis=-1)  # (..., channels) each
        for element in others:
            first = ops.maximum(first, element) if self.mode == "max" else first + element
        return first if self.mode == "max" else first / self.order

    def compute_output_shape(self, maps_shape):
        return (*maps_shape[:-1], maps_shape[-1] // self.order)


@keras.saving.register_keras_serializable(package="keras_dl")
class AlignedPooling2D(Layer):
    """Pooling of windows that cover a map evenly, so that they turn into each other when the map turns. No padding.

    Args:
        pool_size: int, pixels. Side of the window.
        strides: int, pixels. None means `pool_size`. Must divide `size - pool_size`.
        mode: "max" or "mean".

    Call arguments:
        maps: float, `(batch, height, width, maps)`.

    Returns:
        float, `(batch, (height - pool_size) / strides + 1, (width - pool_size) / strides + 1, maps)`.

    Raises:
        ValueError: if the strides break the symmetry.

    Example:

    >>> AlignedPooling2D(2)(ops.reshape(ops.arange(4.0), (1, 2, 2, 1))).numpy().item()
    3.0
    """

    @arguments
    def __init__(self, pool_size: Size = 2, strides: Size | None = None, mode: PoolingMode = "max", **kwargs):
        super().__init__(**kwargs)
        self.strides = pool_size if strides is None else strides

    def build(self, maps_shape):
        self.compute_output_shape(maps_shape)  # refuses strides that break the symmetry

    def call(self, maps):
        pool = ops.max_pool if self.mode == "max" else ops.average_pool
        return pool(maps, self.pool_size, self.strides, padding="valid")

    def compute_output_shape(self, maps_shape):
        what = f"pool_size={self.pool_size}"
        sides = [aligned_places(what, side, self.pool_size, self.strides) for side in maps_shape[1:3]]
        return (maps_shape[0], *sides, maps_shape[-1])
