"""Parts of convolutional occupancy networks: planes of features, on which a cloud is projected, instead of one code.

    u = clip(p / (1 + padding + 1e-5) + 1/2, 0, 1 - 1e-5)
    cell of p = floor(r u),    place of p among the features = (r - 1) u

`u` has three coordinates, of which each plane takes two: the first chooses the column, the second the row. `r` is the
resolution of a plane. Cells and places differ by at most one: that is how the authors' code has it.

The planes of a shape are one below the other, `(batch, planes * r, r, channels)`.

Reference: Peng, Niemeyer, Mescheder, Pollefeys, Geiger 2020, "Convolutional Occupancy Networks", arXiv:2003.04618,
sections 3.1 to 3.3. What the paper does not print is as in the code autonomousvision/convolutional_occupancy_networks.
"""

from typing import Annotated

import keras
from keras import layers, ops

from keras_dl.arguments import AtLeast, NumberIn, Size, arguments
from keras_dl.base import Layer
from keras_dl.models.scenes.occupancy_blocks import ResidualDense
from keras_dl.ops.segments import gather, segment_max, segment_sum, size

PLANES = {"xz": (0, 2), "xy": (0, 1), "yz": (1, 2)}  # the coordinates of the columns and of the rows
MARGIN = 1e-5


def check_planes(name, planes) -> tuple[str, ...]:
    """`planes` as a tuple.

    Raises:
        ValueError: if there are none, one is unknown, or one is named twice.

    Example:

    >>> check_planes("planes", ["xz"])
    ('xz',)
    """
    known = isinstance(planes, list | tuple) and all(plane in tuple(PLANES) for plane in planes)
    if not known or not planes or len(set(planes)) < len(planes):
        raise ValueError(f"{name}={planes!r} must be a sequence of some of {', '.join(map(repr, PLANES))}, each once.")
    return tuple(planes)


Planes = Annotated[tuple[str, ...], check_planes]


def check_plane_sides(plane_resolution: int, unet_depth: int) -> None:
    """Checks that the U-Net can halve a plane as often as it does.

    Raises:
        ValueError: if it cannot.
    """
    halved = 2 ** max(unet_depth - 1, 0)
    if plane_resolution % halved:
        raise ValueError(
            f"plane_resolution={plane_resolution} must be a multiple of {halved}: unet_depth={unet_depth} halves it "
            f"{unet_depth - 1} times."
        )


def in_unit_square(points, padding):
    """Coordinates from the cube of side `1 + padding` to [0, 1); those outside of it are at its border.

    Args:
        points: float, `(..., 3)`.
        padding: float.

    Returns:
        float32, the shape of `points`.

    Example:

    >>> in_unit_square(ops.array([-0.55, 0.0, 3.0]), 0.1).numpy().round(5)
    array([0.     , 0.5    , 0.99999], dtype=float32)
    """
    return ops.clip(ops.cast(points, "float32") / (1 + padding + MARGIN) + 0.5, 0.0, 1.0 - MARGIN)


def whole(places, most):
    """The whole part of numbers, at least 0 and at most `most`: int32. That of NaN is 0.

    A file in float16 rounds the upper end of `in_unit_square` to 1, for which an index would be out of range. So would
    be that of NaN.
    """
    # Not `ops.clip`: of int32 from 0 to 6, LiteRT's converter makes a Relu6, which has no kernel.
    return ops.minimum(ops.cast(ops.where(places >= 0, ops.floor(places), 0.0), "int32"), most)


def plane_index(columns_and_rows, planes, resolution):
    """The number of a cell among the cells of all planes.

    Args:
        columns_and_rows: int32, `(batch, n, 3)`, in [0, resolution): the cells along each axis of the cube.
        planes: sequence of str.
        resolution: int.

    Returns:
        int32, `(batch, planes * n)`, in `[0, planes * resolution**2)`: those of the first plane come first.

    Example:

    >>> plane_index(ops.array([[[1, 2, 3]]]), ("xz", "xy"), 10).numpy()
    array([[ 31, 121]], dtype=int32)
    """
    x = [columns_and_rows[..., axis] for axis in range(3)]  # (batch, n) each
    found = []
    for i, plane in enumerate(planes):
        column, row = (x[axis] for axis in PLANES[plane])
        found.append((i * resolution + row) * resolution + column)
    return ops.concatenate(found, axis=1)


def over_planes(features, count):
    """The sum over planes: `(batch, planes * n, channels)` to `(batch, n, channels)`."""
    if count == 1:
        return features
    n = size(features, 1) // count
    return sum(features[:, i * n : (i + 1) * n] for i in range(count))


@keras.saving.register_keras_serializable(package="keras_dl")
class PlaneCells(Layer):
    """The cell of each plane that each point of a cloud falls into. It computes in float32.

    Args:
        planes: sequence of "xz", "xy" and "yz".
        resolution: int. Cells along each side of a plane.
        padding: float. The cube that the planes cover has the side `1 + padding`. Points outside are in cells at the
            border.

    Call arguments:
        cloud: float, `(batch, n, 3)`.

    Returns:
        int32, `(batch, planes * n)`: numbers of cells, as of `plane_index`.

    Raises:
        ValueError: if an argument is out of its range.

    Example:

    >>> PlaneCells(("xz",), 4, 0.0)(ops.array([[[-0.5, 0.0, -0.5], [0.5, 0.0, 9.0]]])).numpy()
    array([[ 0, 15]], dtype=int32)
    """

    @arguments
    def __init__(
        self, planes: Planes = ("xz", "xy", "yz"), resolution: Size = 64, padding: NumberIn(0.0) = 0.1, **kwargs
    ):
        super().__init__(autocast=False, **kwargs)

    def call(self, cloud):
        places = in_unit_square(cloud, self.padding) * self.resolution
        return plane_index(whole(places, self.resolution - 1), self.planes, self.resolution)

    def compute_output_spec(self, cloud):
        n = None if cloud.shape[1] is None else len(self.planes) * cloud.shape[1]
        return keras.KerasTensor((cloud.shape[0], n), "int32")


@keras.saving.register_keras_serializable(package="keras_dl")
class CellPooling(Layer):
    """The features of a cloud, pooled over the points of each cell of each plane. It computes in float32.

    With `back`, each point gets the largest value of each channel in its cell, summed over planes. Else each cell gets
    the mean of its points, and 0 if it has none.

    Args:
        planes: int. The number of planes.
        resolution: int. Cells along each side of a plane.
        back: bool.

    Call arguments:
        features: float, `(batch, n, channels)`.
        cells: int32, `(batch, planes * n)`, as of `PlaneCells`.

    Returns:
        The layer's compute dtype: with `back`, `(batch, n, channels)`; else `(batch, planes * resolution, resolution,
        channels)`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    @arguments
    def __init__(self, planes: Size = 3, resolution: Size = 64, back: bool = True, **kwargs):
        super().__init__(autocast=False, **kwargs)

    def call(self, features, cells):
        count = self.planes * self.resolution**2
        repeated = ops.concatenate([ops.cast(features, "float32")] * self.planes, axis=1)  # (batch, planes * n, c)
        if self.back:
            largest = gather(segment_max(repeated, cells, count), cells)
            return ops.cast(over_planes(largest, self.planes), self.compute_dtype)
        sums = segment_sum(repeated, cells, count)  # (batch, planes * resolution**2, channels)
        points = segment_sum(ops.ones_like(repeated[..., :1]), cells, count)
        means = ops.cast(sums / ops.maximum(points, 1.0), self.compute_dtype)
        return ops.reshape(means, (-1, self.planes * self.resolution, self.resolution, features.shape[-1]))

    def compute_output_shape(self, features_shape, cells_shape):
        batch, n, channels = features_shape
        return (batch, n, channels) if self.back else (batch, self.planes * self.resolution, self.resolution, channels)


@keras.saving.register_keras_serializable(package="keras_dl")
class PlaneUNet(Layer):
    """A U-Net of images, without normalization. Each level has twice the channels of the one above it.

        down   relu(conv 3x3), relu(conv 3x3); then the largest of 2x2 pixels, but at the lowest level
        up     transposed conv 2x2, joined with what left the level on the way down; relu(conv 3x3), relu(conv 3x3)
        end    conv 1x1

    Args:
        units: int. Channels of the result.
        depth: int. Levels.
        filters: int. Channels of the first level.

    Call arguments:
        images: float, `(batch, height, width, channels)`; sides are multiples of `2**(depth - 1)`.

    Returns:
        float, `(batch, height, width, units)`.

    Raises:
        ValueError: if an argument is not positive.

    Reference: Ronneberger, Fischer, Brox 2015, arXiv:1505.04597; Peng et al. 2020, section 3.1.
    """

    @arguments
    def __init__(self, units: Size, depth: Size = 4, filters: Size = 32, **kwargs):
        super().__init__(**kwargs)

    def build(self, images_shape):
        batch, height, width, channels = images_shape

        def conv(kind, name, inputs, filters, side, level, **options):
            layer = kind(filters, side, dtype=self.dtype_policy, name=name, **options)
            layer.build((batch, height // 2**level, width // 2**level, inputs))
            return layer

        def pair(way, level, inputs, filters):
            options = dict(padding="same", activation="relu", kernel_initializer="glorot_normal")
            return [
                conv(layers.Conv2D, f"{way}_{level}_{i}", n, filters, 3, level, **options)
                for i, n in enumerate((inputs, filters))
            ]

        widths = [self.filters * 2**level for level in range(self.depth)]
        self.down = [
            pair("down", level, inputs, filters)
            for level, (inputs, filters) in enumerate(zip([channels, *widths], widths, strict=False))
        ]
        self.enlarging, self.up = [], []
        for level in reversed(range(self.depth - 1)):
            inputs, filters = widths[level + 1], widths[level]
            name = f"enlarging_{level}"
            self.enlarging.append(conv(layers.Conv2DTranspose, name, inputs, filters, 2, level + 1, strides=2))
            self.up.append(pair("up", level, 2 * filters, filters))
        self.last = conv(layers.Conv2D, "last", self.filters, self.units, 1, 0, kernel_initializer="glorot_normal")

    def call(self, images):
        kept = []
        for level, (first, second) in enumerate(self.down):
            if level:
                images = ops.max_pool(images, 2, 2)
            images = second(first(images))
            kept.append(images)
        for enlarging, (first, second), skipped in zip(self.enlarging, self.up, kept[-2::-1], strict=True):
            images = second(first(ops.concatenate([enlarging(images), skipped], axis=-1)))
        return self.last(images)

    def compute_output_shape(self, images_shape):
        return (*images_shape[:-1], self.units)


@keras.saving.register_keras_serializable(package="keras_dl")
class PlaneEncoder(Layer):
    """Planes of features of a cloud of points, whose order does not matter.

    Each residual block but the first also gets, for every point, the largest value of each channel among the points of
    its cell, summed over planes. The mean over the points of a cell makes the planes. A U-Net goes over each of them,
    with the same weights.

    Args:
        units: int. Channels of the planes.
        hidden_dim: int. Width of the blocks.
        num_blocks: int.
        planes: sequence of "xz", "xy" and "yz".
        resolution: int. Cells along each side of a plane.
        padding: float. The planes cover a cube of side `1 + padding`.
        unet_depth: int. Levels of the U-Net; 0 for none.
        unet_filters: int. Channels of its first level.

    Call arguments:
        cloud: float, `(batch, n, 3)`.

    Returns:
        float, `(batch, planes * resolution, resolution, units)`.

    Raises:
        ValueError: if an argument is out of its range.

    Reference: Peng et al. 2020, section 3.1 and supplementary material, section 1.
    """

    @arguments
    def __init__(
        self,
        units: Size = 32,
        hidden_dim: Size = 32,
        num_blocks: Size = 5,
        planes: Planes = ("xz", "xy", "yz"),
        resolution: AtLeast(2) = 64,
        padding: NumberIn(0.0) = 0.1,
        unet_depth: AtLeast(0) = 4,
        unet_filters: Size = 32,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        check_plane_sides(resolution, unet_depth)

    def build(self, cloud_shape):
        place, hidden = tuple(cloud_shape[:-1]), self.hidden_dim
        options = dict(dtype=self.dtype_policy)
        sides = dict(planes=len(self.planes), resolution=self.resolution)
        self.cells = PlaneCells(self.planes, self.resolution, self.padding, name="cells", **options)
        self.position = layers.Dense(2 * hidden, kernel_initializer="lecun_uniform", name="position", **options)
        self.position.build(cloud_shape)
        self.blocks = []
        for i in range(self.num_blocks):
            block = ResidualDense(hidden, name=f"block_{i}", **options)
            block.build([(*place, hidden), (*place, hidden)] if i else (*place, 2 * hidden))
            self.blocks.append(block)
        self.pooling = [CellPooling(**sides, name=f"pooling_{i}", **options) for i in range(1, self.num_blocks)]
        self.last = layers.Dense(self.units, name="last", **options)
        self.last.build((*place, hidden))
        self.means = CellPooling(**sides, back=False, name="means", **options)
        self.unet = None
        if self.unet_depth:
            self.unet = PlaneUNet(self.units, self.unet_depth, self.unet_filters, name="unet", **options)
            self.unet.build((place[0], self.resolution, self.resolution, self.units))

    def call(self, cloud):
        cells = self.cells(cloud)  # (batch, planes * n)
        points = self.blocks[0](self.position(cloud))  # (batch, n, hidden_dim)
        for pooling, block in zip(self.pooling, self.blocks[1:], strict=True):
            points = block([points, pooling(points, cells)])
        planes = self.means(self.last(points), cells)  # (batch, planes * resolution, resolution, units)
        if self.unet is None:
            return planes
        images = self.unet(ops.reshape(planes, (-1, self.resolution, self.resolution, self.units)))
        return ops.reshape(images, (-1, *self.compute_output_shape(cloud.shape)[1:]))

    def compute_output_shape(self, cloud_shape):
        return (cloud_shape[0], len(self.planes) * self.resolution, self.resolution, self.units)


@keras.saving.register_keras_serializable(package="keras_dl")
class PlaneSampling(Layer):
    """The features of planes at points, interpolated between four of them and summed over planes.

    Places are computed in float32. The first and the last feature of a side are at the faces of the cube.

    Args:
        planes: sequence of "xz", "xy" and "yz".
        padding: float. The planes cover a cube of side `1 + padding`. A point outside of it has the features of the
            nearest place.

    Call arguments:
        points: float, `(batch, n, 3)`.
        code: float, `(batch, planes * r, r, channels)`.

    Returns:
        The layer's compute dtype, `(batch, n, channels)`.

    Raises:
        ValueError: if an argument is out of its range.

    Reference: Peng et al. 2020, section 3.2.
    """

    @arguments
    def __init__(self, planes: Planes = ("xz", "xy", "yz"), padding: NumberIn(0.0) = 0.1, **kwargs):
        super().__init__(autocast=False, **kwargs)

    def call(self, points, code):
        resolution, channels = code.shape[2:]
        code = ops.cast(code, self.compute_dtype)
        table = ops.reshape(code, (-1, len(self.planes) * resolution**2, channels))
        place = in_unit_square(points, self.padding) * (resolution - 1)  # (batch, n, 3)
        low = whole(place, resolution - 2)
        index = plane_index(low, self.planes, resolution)  # (batch, planes * n)
        share = place - ops.cast(low, "float32")  # in [0, 1]
        total = 0.0
        for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
            weights = []
            for plane in self.planes:
                x, y = (share[..., axis] for axis in PLANES[plane])
                weights.append((x if right else 1 - x) * (y if down else 1 - y))
            weight = ops.cast(ops.concatenate(weights, axis=1), self.compute_dtype)
            features = gather(table, index + (down * resolution + right))  # (batch, planes * n, channels)
            total = total + features * ops.expand_dims(weight, -1)
        return over_planes(total, len(self.planes))

    def compute_output_shape(self, points_shape, code_shape):
        return (*points_shape[:-1], code_shape[-1])
