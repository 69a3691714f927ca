"""Parts of occupancy networks: residual blocks of points, conditional batch normalization, and the encoders."""

import math

import keras
import numpy as np
from keras import layers, ops

from keras_dl.arguments import OneOf, Rate, Size, Sizes, arguments
from keras_dl.base import Layer
from keras_dl.compat import is_eager
from keras_dl.layers.norm import BatchNormalization
from keras_dl.models.points.blocks import JoinedDense


@keras.saving.register_keras_serializable(package="keras_dl")
class CheckedPoints(Layer):
    """Points as they are, in the layer's compute dtype. Called eagerly, it refuses points that are not finite.

    Args:
        what: str. Their name in an error.

    Call arguments:
        points: float, `(batch, points, coordinates)`.

    Returns:
        float, the shape of `points`.

    Raises:
        ValueError: if there are no points, or, called eagerly, if one is not finite.
    """

    @arguments
    def __init__(self, what: str = "points", **kwargs):
        super().__init__(autocast=False, **kwargs)

    def call(self, points):
        if points.shape[1] == 0:
            raise ValueError(f"{self.what} has the shape {tuple(points.shape)}; it must hold at least one point.")
        if is_eager(points):
            finite = np.isfinite(np.asarray(points)).all(-1)
            if not finite.all():
                row, place = np.argwhere(~finite)[0]
                raise ValueError(
                    f"{self.what}[{row}, {place}] = {np.asarray(points)[row, place].tolist()} is not finite. There are "
                    f"{int((~finite).sum())} such points: remove them."
                )
        return ops.cast(points, self.compute_dtype)

    def compute_output_shape(self, points_shape):
        return points_shape


@keras.saving.register_keras_serializable(package="keras_dl")
class ResidualDense(Layer):
    """A residual block of points: two dense layers, and a dense shortcut where the width changes.

        y = s(x) + W_1 relu(W_0 relu(x) + b_0) + b_1

    `W_1` starts at zero, so that the block starts as its shortcut.

    Args:
        units: int. Width of the result.

    Call arguments:
        parts: float, `(batch, points, c)`, or a list of such and of `(batch, c)`, features of a point and of all points
            of its cloud, which are joined.

    Returns:
        float, `(batch, points, units)`.

    Raises:
        ValueError: if `units` is not positive.

    Reference: Mescheder et al. 2018, supplementary material, section 1.1.
    """

    @arguments
    def __init__(self, units: Size, **kwargs):
        super().__init__(**kwargs)

    def build(self, shapes):
        shapes = shapes if isinstance(shapes, list) else [shapes]
        place = next(shape for shape in shapes if len(shape) == 3)[:-1]
        self.first = JoinedDense(self.units, dtype=self.dtype_policy, name="first")
        self.first.build(shapes)
        self.second = layers.Dense(self.units, kernel_initializer="zeros", dtype=self.dtype_policy, name="second")
        self.second.build((*place, self.units))
        self.shortcut = None
        if sum(shape[-1] for shape in shapes) != self.units:
            self.shortcut = JoinedDense(self.units, use_bias=False, dtype=self.dtype_policy, name="shortcut")
            self.shortcut.build(shapes)

    def call(self, parts):
        parts = parts if isinstance(parts, list) else [parts]
        hidden = self.first([ops.relu(part) for part in parts])
        change = self.second(ops.relu(hidden))  # (batch, points, units)
        return change + (parts[0] if self.shortcut is None else self.shortcut(parts))

    def compute_output_shape(self, shapes):
        shapes = shapes if isinstance(shapes, list) else [shapes]
        return (*next(shape for shape in shapes if len(shape) == 3)[:-1], self.units)


@keras.saving.register_keras_serializable(package="keras_dl")
class ConditionalBatchNormalization(Layer):
    """Batch normalization whose scale and offset depend on a code.

        y = gamma(c) (x - mean) / sqrt(variance + 1e-5) + beta(c),    gamma(c) = V c + 1,    beta(c) = W c

    Mean and variance are those of a channel over all points of all shapes of the batch, in inference the moving ones.
    `V` and `W` start at zero, and have biases, which start at 1 and 0: the code then changes nothing.

    Args:
        momentum: float in [0, 1). Share of the old moving statistics that a training step keeps.

    Call arguments:
        points: float, `(batch, points, channels)`.
        code: float, `(batch, code_dim)`.
        training: bool. Whether the statistics are those of the batch.

    Returns:
        float, the shape of `points`.

    Raises:
        ValueError: if `momentum` is out of its range.

    Reference: Mescheder et al. 2018, section 3.3 and supplementary material, section 1.1; De Vries et al. 2017,
    "Modulating early visual processing by language", arXiv:1707.00683.
    """

    @arguments
    def __init__(self, momentum: Rate = 0.9, **kwargs):
        super().__init__(**kwargs)

    def build(self, points_shape, code_shape):
        channels = points_shape[-1]
        options = dict(kernel_initializer="zeros", dtype=self.dtype_policy)
        self.gamma = layers.Dense(channels, bias_initializer="ones", name="gamma", **options)
        self.beta = layers.Dense(channels, name="beta", **options)
        self.norm = BatchNormalization(
            momentum=self.momentum, center=False, scale=False, dtype=self.dtype_policy, name="norm"
        )
        self.gamma.build(code_shape)
        self.beta.build(code_shape)
        self.norm.build(points_shape)

    def call(self, points, code, training=False):
        gamma, beta = self.gamma(code), self.beta(code)  # (batch, channels)
        if training:
            points = self.norm(points, training=True)
        else:  # one product and one sum for each point
            deviation = ops.rsqrt(self.norm.moving_variance + self.norm.epsilon)
            gamma = gamma * ops.cast(deviation, gamma.dtype)
            beta = beta - gamma * ops.cast(self.norm.moving_mean, gamma.dtype)
        return points * ops.expand_dims(gamma, 1) + ops.expand_dims(beta, 1)

    def compute_output_shape(self, points_shape, code_shape):
        return points_shape


@keras.saving.register_keras_serializable(package="keras_dl")
class ConditionalBlock(Layer):
    """A residual block of points of constant width, with conditional batch normalization before each relu.

        y = x + W_1 relu(N_1(W_0 relu(N_0(x, c)) + b_0, c)) + b_1

    `W_1` starts at zero, so that the block starts as the identity.

    Args:
        momentum: float in [0, 1). Of batch normalization.

    Call arguments:
        points: float, `(batch, points, channels)`.
        code: float, `(batch, code_dim)`.
        training: bool. Whether batch normalization uses the statistics of the batch.

    Returns:
        float, the shape of `points`.

    Raises:
        ValueError: if `momentum` is out of its range.

    Reference: Mescheder et al. 2018, supplementary material, section 1.1 and fig. 1.
    """

    @arguments
    def __init__(self, momentum: Rate = 0.9, **kwargs):
        super().__init__(**kwargs)

    def build(self, points_shape, code_shape):
        self.norms, self.dense = [], []
        for i, start in enumerate(("glorot_uniform", "zeros")):
            norm = ConditionalBatchNormalization(self.momentum, dtype=self.dtype_policy, name=f"norm_{i}")
            dense = layers.Dense(points_shape[-1], kernel_initializer=start, dtype=self.dtype_policy, name=f"dense_{i}")
            norm.build(points_shape, code_shape)
            dense.build(points_shape)
            self.norms.append(norm)
            self.dense.append(dense)

    def call(self, points, code, training=False):
        hidden = points
        for norm, dense in zip(self.norms, self.dense, strict=True):
            hidden = dense(ops.relu(norm(hidden, code, training=training)))  # (batch, points, channels)
        return points + hidden

    def compute_output_shape(self, points_shape, code_shape):
        return points_shape


@keras.saving.register_keras_serializable(package="keras_dl")
class CloudEncoder(Layer):
    """ResNet-PointNet: a code of a cloud of points, whose order does not matter.

    After each residual block but the last, every point also gets the largest value of each channel over the cloud.

    Args:
        units: int. Width of the code.
        hidden_dim: int. Width of the blocks.
        num_blocks: int.

    Call arguments:
        cloud: float, `(batch, points, coordinates)`.

    Returns:
        float, `(batch, units)`.

    Raises:
        ValueError: if an argument is not positive.

    Reference: Mescheder et al. 2018, supplementary material, section 1.2.
    """

    @arguments
    def __init__(self, units: Size, hidden_dim: Size = 512, num_blocks: Size = 5, **kwargs):
        super().__init__(**kwargs)

    def build(self, cloud_shape):
        place, hidden = tuple(cloud_shape[:-1]), self.hidden_dim
        # By the three inputs alone: with Glorot's values, codes of different clouds would hardly differ at the start.
        self.position = layers.Dense(
            2 * hidden, kernel_initializer="lecun_uniform", dtype=self.dtype_policy, name="position"
        )
        self.position.build(cloud_shape)
        self.blocks = []
        for i in range(self.num_blocks):
            block = ResidualDense(hidden, dtype=self.dtype_policy, name=f"block_{i}")
            block.build([(*place, hidden), (place[0], hidden)] if i else (*place, 2 * hidden))
            self.blocks.append(block)
        self.last = layers.Dense(self.units, dtype=self.dtype_policy, name="last")
        self.last.build((place[0], hidden))

    def call(self, cloud):
        parts = self.position(cloud)
        for block in self.blocks:
            points = block(parts)  # (batch, points, hidden_dim)
            largest = ops.max(points, axis=1)  # (batch, hidden_dim)
            parts = [points, largest]
        return self.last(ops.relu(largest))

    def compute_output_shape(self, cloud_shape):
        return (cloud_shape[0], self.units)


@keras.saving.register_keras_serializable(package="keras_dl")
class SlicedConvolution3D(Layer):
    """A 3x3x3 convolution of volumes with one zero around them, computed as a convolution of images.

    Each slice takes the channels of the slices before and after it as its own. So no tensor has more than four axes,
    and the layer is quantized: LiteRT has no convolution of volumes in integers.

    Args:
        width: int. Voxels along the last axis.
        filters: int.
        strides: int, 1 or 2. 2 halves each side, rounded up.

    Call arguments:
        volume: float, `(batch, depth, height, width * channels)`, all but the batch known.

    Returns:
        float, `(batch, depth', height', width' * filters)`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    @arguments
    def __init__(self, width: Size, filters: Size, strides: OneOf(1, 2) = 1, **kwargs):
        super().__init__(**kwargs)

    def build(self, volume_shape):
        channels = volume_shape[-1] // self.width
        self.kernel = self.add_weight((3, 3, 3, channels, self.filters), name="kernel")
        self.bias = self.add_weight((self.filters,), "zeros", name="bias")

    def call(self, volume):
        _, depth, height, _ = volume.shape
        channels = volume.shape[-1] // self.width
        padded = ops.pad(volume, ((0, 0), (1, 1), (0, 0), (0, 0)))
        slices = [
            ops.reshape(padded[:, k : k + depth : self.strides], (-1, height, self.width, channels)) for k in range(3)
        ]
        images = ops.concatenate(slices, axis=-1)  # (batch * depth', height, width, 3 * channels)
        images = ops.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
        kernel = ops.reshape(ops.transpose(self.kernel, (1, 2, 0, 3, 4)), (3, 3, 3 * channels, self.filters))
        images = ops.conv(images, kernel, self.strides, "valid") + self.bias
        return ops.reshape(images, (-1, *self.compute_output_shape(volume.shape)[1:]))

    def compute_output_shape(self, volume_shape):
        depth, height, width = (-(-n // self.strides) for n in (*volume_shape[1:3], self.width))
        return (volume_shape[0], depth, height, width * self.filters)


@keras.saving.register_keras_serializable(package="keras_dl")
class VoxelEncoder(Layer):
    """A code of a grid of voxels: 3x3x3 convolutions, of which all but the first halve the grid, and a dense layer.

    Args:
        units: int. Width of the code.
        filters: sequence of int. Channels of the convolutions.

    Call arguments:
        voxels: float, `(batch, n, n, n)`, 1 for an occupied voxel and 0 for an empty one.

    Returns:
        float, `(batch, units)`.

    Raises:
        ValueError: if an argument is not positive.

    Reference: Mescheder et al. 2018, supplementary material, section 1.2.
    """

    @arguments
    def __init__(self, units: Size, filters: Sizes = (32, 64, 128, 256, 512), **kwargs):
        super().__init__(**kwargs)

    def build(self, voxels_shape):
        shape, width = tuple(voxels_shape), voxels_shape[-1]
        self.convolutions = []
        for i, filters in enumerate(self.filters):
            strides = 2 if i else 1
            layer = SlicedConvolution3D(width, filters, strides, dtype=self.dtype_policy, name=f"conv_{i}")
            layer.build(shape)
            shape, width = layer.compute_output_shape(shape), -(-width // strides)
            self.convolutions.append(layer)
        self.last = layers.Dense(self.units, dtype=self.dtype_policy, name="last")
        self.last.build((shape[0], math.prod(shape[1:])))

    def call(self, voxels):
        for layer in self.convolutions:
            voxels = ops.relu(layer(voxels))
        return self.last(ops.reshape(voxels, (-1, math.prod(voxels.shape[1:]))))

    def compute_output_shape(self, voxels_shape):
        return (voxels_shape[0], self.units)


@keras.saving.register_keras_serializable(package="keras_dl")
class LatentEncoder(Layer):
    """The posterior `q(z | points, occupancies, c)`: mean and logarithm of the standard deviation of each latent.

    Args:
        latent_dim: int.
        hidden_dim: int. Width of the layers.

    Call arguments:
        points: float, `(batch, points, coordinates)`.
        occupancies: float, `(batch, points)`, 1 inside and 0 outside.
        code: float, `(batch, code_dim)`, or None for a network without a condition.

    Returns:
        dict of `"log_std"` and `"mean"`, each float32 `(batch, latent_dim)`.

    Raises:
        ValueError: if an argument is not positive.

    Reference: Mescheder et al. 2018, section 3.2 and supplementary material, section 1.2.
    """

    @arguments
    def __init__(self, latent_dim: Size, hidden_dim: Size = 128, **kwargs):
        super().__init__(**kwargs)

    def build(self, points_shape, occupancies_shape, code_shape=None):
        place, hidden = tuple(points_shape[:-1]), self.hidden_dim
        options = dict(dtype=self.dtype_policy)
        self.position = layers.Dense(hidden, name="position", **options)
        self.occupied = layers.Dense(hidden, name="occupied", **options)
        self.position.build(points_shape)
        self.occupied.build((*place, 1))
        self.condition = None
        if code_shape is not None:
            self.condition = layers.Dense(hidden, name="condition", **options)
            self.condition.build(code_shape)
        self.first = layers.Dense(hidden, name="first", **options)
        self.first.build((*place, hidden))
        self.joined = [JoinedDense(hidden, name=f"joined_{i}", **options) for i in range(2)]
        for layer in self.joined:
            layer.build([(*place, hidden), (place[0], hidden)])
        self.heads = {name: layers.Dense(self.latent_dim, dtype="float32", name=name) for name in ("log_std", "mean")}
        for head in self.heads.values():
            head.build((place[0], hidden))

    def call(self, points, occupancies, code=None):
        hidden = self.position(points) + self.occupied(ops.expand_dims(occupancies, -1))  # (batch, points, hidden_dim)
        if self.condition is not None:
            hidden = hidden + ops.expand_dims(self.condition(code), 1)
        hidden = self.first(ops.relu(hidden))
        for layer in self.joined:
            hidden = layer([ops.relu(hidden), ops.relu(ops.max(hidden, axis=1))])
        largest = ops.max(hidden, axis=1)  # (batch, hidden_dim)
        return {name: head(largest) for name, head in self.heads.items()}

    def compute_output_shape(self, points_shape, occupancies_shape, code_shape=None):
        return dict.fromkeys(("log_std", "mean"), (points_shape[0], self.latent_dim))


@keras.saving.register_keras_serializable(package="keras_dl")
class Draw(Layer):
    """A draw from a normal distribution in training, its mean in inference; and the KL as a loss.

        z = mean + exp(log_std) epsilon,    KL(q || N(0, 1)) = 1/2 sum (std^2 + mean^2 - 1 - 2 log_std)

    The layer adds the mean of the KL over the batch, in nats, to the loss.

    Args:
        seed: int or None.

    Call arguments:
        mean, log_std: float32, `(batch, latent_dim)`.
        training: bool.

    Returns:
        The layer's compute dtype, `(batch, latent_dim)`.

    Reference: Kingma, Welling 2013, arXiv:1312.6114, appendix B; Mescheder et al. 2018, eq. 4.
    """

    @arguments
    def __init__(self, seed: int | None = None, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, mean, log_std, training=False):
        mean, log_std = ops.cast(mean, "float32"), ops.cast(log_std, "float32")
        divergence = 0.5 * ops.sum(ops.exp(2 * log_std) + ops.square(mean) - 1 - 2 * log_std, axis=-1)  # (batch,)
        self.add_loss(ops.mean(divergence))
        if training:
            noise = keras.random.normal(ops.shape(mean), seed=self.seed_generator)
            mean = mean + ops.exp(log_std) * noise
        return ops.cast(mean, self.compute_dtype)

    def compute_output_shape(self, mean_shape, log_std_shape):
        return mean_shape
