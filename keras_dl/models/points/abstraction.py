"""Parts of PointNet++: sampling, grouping, set abstraction, and feature propagation.

Sampling, grouping and interpolation have layers of their own: `sample`, `group_1`, `group_2`, ... (one for each scale
of a level), and `nearest`. They compute in float32 under any dtype policy, and in int8 files too (`float_layers` of
the models), since the points that they choose are not those of rounded distances.
"""

from typing import Annotated

import keras
from keras import ops

from keras_dl.arguments import Positive, Rate, Size, Sizes, arguments
from keras_dl.base import Layer
from keras_dl.checks import check_positive, check_size, check_sizes
from keras_dl.models.points.blocks import CleanCloud, JoinedMLP, SharedMLP
from keras_dl.ops.neighbors import (
    ball_query,
    farthest_points,
    interpolate,
    interpolation_weights,
    k_nearest,
    take_points,
)

NEIGHBORS = 3  # of a point in the interpolation, as in the paper


def _check_scales(name, value):
    try:
        scales = tuple(
            (check_positive(name, radius), check_size(name, size), check_sizes(name, dims))
            for radius, size, dims in value
        )
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name}={value!r} must be a sequence of scales (radius, size, dims): a positive number, the points of a "
            f"group, and the widths of its MLP. {error}"
        ) from error
    if not scales:
        raise ValueError(f"{name}={value!r} needs at least one scale (radius, size, dims).")
    return scales


def _check_levels(name, value):
    try:
        levels = tuple((check_size(name, count), _check_scales(name, scales)) for count, scales in value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name}={value!r} must be a sequence of levels (centers, scales), where a scale is (radius, size, dims). "
            f"{error}"
        ) from error
    counts = [count for count, _ in levels]
    if not levels or counts != sorted(counts, reverse=True):
        raise ValueError(
            f"{name}={value!r} needs at least one level, and none may have more centers than the one before: {counts}."
        )
    return levels


def _check_sequence_of_sizes(name, value):
    try:
        return tuple(check_sizes(name, dims) for dims in value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}={value!r} must be a sequence of sequences of integers of at least 1.") from error


SequenceOfSizes = Annotated[tuple[tuple[int, ...], ...], _check_sequence_of_sizes]
# The scales of a level: radius, points of a group, widths of its MLP. And levels: number of centers, scales.
Scales = Annotated[tuple[tuple[float, int, tuple[int, ...]], ...], _check_scales]
Levels = Annotated[tuple[tuple[int, tuple], ...], _check_levels]


@keras.saving.register_keras_serializable(package="keras_dl")
class FarthestPoints(Layer):
    """Chooses the centers of all levels by one farthest point sampling, since its order nests.

    Args:
        counts: sequence of int. The centers of each level; none has more than the one before.

    Call arguments:
        points: float32, `(batch, points, dims)`: coordinates.
        kept: bool, `(batch, points)`, or None. True = a point of the cloud.

    Returns:
        list of float32 `(batch, count, dims)`, one for each level.

    Raises:
        ValueError: if `counts` are no positive integers.
    """

    @arguments
    def __init__(self, counts: Sizes, dtype="float32", **kwargs):
        super().__init__(dtype=dtype, **kwargs)

    def call(self, points, kept=None):
        centers = take_points(points, farthest_points(points, self.counts[0], kept))
        return [centers[:, :count] for count in self.counts]

    def compute_output_shape(self, points_shape, kept_shape=None):
        return [(points_shape[0], count, points_shape[2]) for count in self.counts]


@keras.saving.register_keras_serializable(package="keras_dl")
class Group(Layer):
    """Finds the points in a ball around each center, and where they are relative to it.

    Args:
        radius: float, positive, in the unit of the points.
        size: int. Points of a group: the first ones, and repetitions of the first where there are fewer.

    Call arguments:
        points: float32, `(batch, points, dims)`: coordinates.
        centers: float32, `(batch, centers, dims)`.
        kept: bool, `(batch, points)`, or None. True = a point of the cloud.

    Returns:
        offsets: float32, `(batch, centers, size, dims)`.
        indices: int32, `(batch, centers, size)`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    @arguments
    def __init__(self, radius: Positive, size: Size, dtype="float32", **kwargs):
        super().__init__(dtype=dtype, **kwargs)

    def call(self, points, centers, kept=None):
        indices, _ = ball_query(points, centers, self.radius, self.size, kept)
        return take_points(points, indices) - ops.expand_dims(centers, 2), indices


@keras.saving.register_keras_serializable(package="keras_dl")
class Nearest(Layer):
    """Finds the three nearest centers of each point, and their weights in an interpolation.

    Call arguments:
        points: float32, `(batch, points, dims)`: coordinates.
        centers: float32, `(batch, centers, dims)`.

    Returns:
        indices: int32, `(batch, points, 3)`; fewer where there are fewer centers.
        weights: float32, of that shape. Those of a point have the sum 1.
    """

    @arguments
    def __init__(self, dtype="float32", **kwargs):
        super().__init__(dtype=dtype, **kwargs)

    def call(self, points, centers):
        indices, distances = k_nearest(centers, points, min(NEIGHBORS, centers.shape[1]))
        return indices, interpolation_weights(distances)


@keras.saving.register_keras_serializable(package="keras_dl")
class GroupedDense(Layer):
    """A dense layer on the offset and the features of each point of a group.

        y_ij = W [x_j - c_i; f_j] + b = W_x (x_j - c_i) + (W_f f_j) + b

    `W_f f_j` is computed once for each point, before the groups take it. This is equal, and a point is in many groups.

    Args:
        units: int. Width of the result.

    Call arguments:
        inputs: list of the offsets, float `(batch, centers, size, dims)`; of the numbers of the points, int32
            `(batch, centers, size)`; and of the features of all points, float `(batch, points, c)` each.

    Returns:
        float, `(batch, centers, size, units)`.

    Raises:
        ValueError: if `units` is not positive.
    """

    @arguments
    def __init__(self, units: Size, **kwargs):
        super().__init__(**kwargs)

    def build(self, shapes):
        offsets, _, *parts = shapes
        rows = offsets[-1] + sum(shape[-1] for shape in parts)
        self.kernel = self.add_weight((rows, self.units), name="kernel")
        self.bias = self.add_weight((self.units,), "zeros", name="bias")

    def call(self, inputs):
        offsets, indices, *parts = inputs
        row = offsets.shape[-1]
        # (batch, centers, size, units)
        outputs = ops.matmul(ops.cast(offsets, self.compute_dtype), self.kernel[:row]) + self.bias
        of_points = []
        for part in parts:
            rows = self.kernel[row : row + part.shape[-1]]
            row += part.shape[-1]
            of_points.append(ops.matmul(ops.cast(part, self.compute_dtype), rows))  # (batch, points, units)
        return outputs + take_points(sum(of_points[1:], of_points[0]), indices) if parts else outputs

    def compute_output_shape(self, shapes):
        return (*shapes[0][:-1], self.units)


@keras.saving.register_keras_serializable(package="keras_dl")
class GroupMLP(SharedMLP):
    """`SharedMLP` on the points of groups, which begins with a `GroupedDense`.

    Args:
        dims, activate_last, momentum, return_each: as of `SharedMLP`.

    Call arguments:
        points: list, as of `GroupedDense`.
        training: bool. Whether batch normalization uses the statistics of the batch.

    Returns:
        As `SharedMLP`, `(batch, centers, size, dims[-1])`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    first_class = GroupedDense

    def places(self, points_shape):
        return points_shape[0][:-1]


@keras.saving.register_keras_serializable(package="keras_dl")
class SetAbstraction(Layer):
    """A small PointNet around each center: an MLP on the points of a ball, and the maximum over them.

    With several scales there is one for each radius (multi-scale grouping).

    Args:
        scales: sequence of (radius, size, dims): the radius of the ball, the points of a group, the widths of the MLP.
        momentum: float in [0, 1). Of batch normalization.

    Call arguments:
        points: float32, `(batch, points, dims)`: coordinates.
        centers: float32, `(batch, centers, dims)`.
        parts: list of float `(batch, points, c)`: the features of the points. Empty for coordinates alone.
        kept: bool, `(batch, points)`, or None. True = a point of the cloud.
        training: bool. Whether batch normalization uses the statistics of the batch.

    Returns:
        list of float `(batch, centers, dims[-1])`: the features of each scale. (Joined, they would need one scale of
        numbers in an int8 file.)

    Raises:
        ValueError: if an argument is out of its range.

    Reference: Qi et al. 2017, arXiv:1706.02413, sections 3.2 and 3.3.
    """

    @arguments
    def __init__(self, scales: Scales, momentum: Rate = 0.9, **kwargs):
        super().__init__(**kwargs)
        self.groups = [Group(radius, size, name=f"group_{i}") for i, (radius, size, _) in enumerate(scales, start=1)]
        self.mlps = [
            GroupMLP(dims, momentum=momentum, dtype=self.dtype_policy, name=f"mlp_{i}")
            for i, (_, _, dims) in enumerate(scales, start=1)
        ]

    def build(self, points_shape, centers_shape, parts_shape=(), kept_shape=None):
        for (_, size, _), mlp in zip(self.scales, self.mlps, strict=True):
            indices = (*centers_shape[:2], size)
            mlp.build([(*indices, points_shape[-1]), indices, *parts_shape])

    def call(self, points, centers, parts=(), kept=None, training=False):
        outputs = []
        for group, mlp in zip(self.groups, self.mlps, strict=True):
            offsets, indices = group(points, centers, kept)
            features = mlp([offsets, indices, *parts], training=training)  # (batch, centers, size, dims[-1])
            outputs.append(ops.max(features, axis=2))
        return outputs

    def compute_output_shape(self, points_shape, centers_shape, parts_shape=(), kept_shape=None):
        return [(*centers_shape[:2], dims[-1]) for _, _, dims in self.scales]


@keras.saving.register_keras_serializable(package="keras_dl")
class FeaturePropagation(Layer):
    """Brings the features of centers back to the points: an interpolation, joined with the points' own, and an MLP.

    Args:
        dims: sequence of int. Widths of the MLP.
        momentum: float in [0, 1). Of batch normalization.

    Call arguments:
        points: float32, `(batch, points, dims)`: coordinates.
        centers: float32, `(batch, centers, dims)`.
        parts: list of float `(batch, centers, c)`: features of the centers.
        skipped: list of float `(batch, points, c)` or `(batch, c)`: features of the points, and of their cloud. It can
            be empty.
        training: bool. Whether batch normalization uses the statistics of the batch.

    Returns:
        float, `(batch, points, dims[-1])`.

    Raises:
        ValueError: if an argument is out of its range.

    Reference: Qi et al. 2017, arXiv:1706.02413, section 3.4, eq. 2.
    """

    @arguments
    def __init__(self, dims: Sizes, momentum: Rate = 0.9, **kwargs):
        super().__init__(**kwargs)
        self.nearest = Nearest(name="nearest")
        self.mlp = JoinedMLP(dims, momentum=momentum, dtype=self.dtype_policy, name="mlp")

    def build(self, points_shape, centers_shape, parts_shape, skipped_shape=()):
        self.mlp.build([*skipped_shape, *((*points_shape[:2], shape[-1]) for shape in parts_shape)])

    def call(self, points, centers, parts, skipped=(), training=False):
        indices, weights = self.nearest(points, centers)
        interpolated = [interpolate(part, indices, weights) for part in parts]  # (batch, points, c)
        return self.mlp([*skipped, *interpolated], training=training)

    def compute_output_shape(self, points_shape, centers_shape, parts_shape, skipped_shape=()):
        return (*points_shape[:2], self.dims[-1])


def abstract(inputs, num_coordinates, levels, momentum, absolute=False):
    """The layers from a cloud to its levels, `clean`, `sample`, `level_1`, `level_2`, ...

    Args:
        inputs: dict of the symbolic inputs `points` and, for clouds with padding, `mask`.
        num_coordinates: int. The first channels of a point.
        levels: as of `PointNet2`.
        momentum: float. Of batch normalization.
        absolute: bool. Whether the coordinates of a point, as they are, also count as features.

    Returns:
        list of `(points, parts)`: the cloud itself and each level: coordinates, and a list of features.
    """
    kept = inputs.get("mask")
    cloud = CleanCloud(dtype="float32", name="clean")(inputs["points"], kept)
    points = cloud if cloud.shape[-1] == num_coordinates else cloud[:, :, :num_coordinates]
    features = [] if points is cloud else [cloud[:, :, num_coordinates:]]
    parts = [cloud] if absolute else features
    found = [(points, parts)]
    chosen = FarthestPoints([count for count, _ in levels], name="sample")(points, kept)
    for i, ((_, scales), centers) in enumerate(zip(levels, chosen, strict=True), start=1):
        parts = SetAbstraction(scales, momentum, name=f"level_{i}")(points, centers, parts, kept)
        points, kept = centers, None
        found.append((points, parts))
    return found


def geometry(levels, masked) -> tuple[str, ...]:
    """The names of the layers of `abstract` that choose points, and of that which fills padding before they do.

    Example:

    >>> geometry([(8, [(0.2, 4, [6]), (0.4, 4, [6])]), (4, [(0.5, 4, [9])])], masked=False)
    ('sample', 'group_1', 'group_2')
    """
    groups = (f"group_{i}" for i in range(1, 1 + max(len(scales) for _, scales in levels)))
    return (*["clean"] * masked, "sample", *groups)
