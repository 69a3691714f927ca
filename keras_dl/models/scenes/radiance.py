"""The layers of a radiance field: from rays to distances, points, their colors and densities, and what a ray sees.

All but the network itself compute in float32 under any dtype policy: the highest frequency of an encoding makes 512
times the error of a coordinate, and the sum of many densities is an exponent.
"""

import keras
import numpy as np
from keras import layers, ops

from keras_dl.arguments import NumberIn, OneOf, Positive, Size, SizesAtLeast, arguments
from keras_dl.base import Layer
from keras_dl.compat import is_eager
from keras_dl.ops.rays import composite, frequency_encoding, importance_distances, ndc_rays, stratified_distances

DensityActivation = OneOf("relu", "softplus")


class _Float32(Layer):
    """A layer that computes in float32 and casts no inputs."""

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **(kwargs | {"dtype": "float32"}))


@keras.saving.register_keras_serializable(package="keras_dl")
class Rays(_Float32):
    """Checks rays, moves them to normalized device coordinates if wanted, and says from where they look.

    Args:
        ndc: pair of float, or None: the scale of `keras_dl.ops.ndc_rays`.

    Call arguments:
        origins, directions: float, `(rays, 3)`.

    Returns:
        origins, directions, view directions: float32, `(rays, 3)`. View directions have the length 1, and are those of
        the world in normalized device coordinates too.

    Raises:
        ValueError: if, called eagerly, a number is not finite, a direction is zero, or, with `ndc`, a ray does not look
            along -z.
    """

    @arguments
    def __init__(self, ndc=None, **kwargs):
        super().__init__(**kwargs)

    def call(self, origins, directions):
        if is_eager(origins) and is_eager(directions):
            self._check(np.asarray(origins), np.asarray(directions))
        origins, directions = ops.cast(origins, "float32"), ops.cast(directions, "float32")
        views = directions / ops.sqrt(ops.sum(ops.square(directions), axis=-1, keepdims=True))
        if self.ndc is not None:
            origins, directions = ndc_rays(origins, directions, self.ndc)
        return origins, directions, views

    def _check(self, origins, directions):
        wrong = {
            "is not finite": ~(np.isfinite(origins) & np.isfinite(directions)).all(-1),
            "has no direction": ~directions.any(-1),
        }
        if self.ndc is not None:
            wrong["does not look along -z, as rays with ndc must"] = ~(directions[:, 2] < 0)
        for what, rows in wrong.items():
            if rows.any():
                row = int(np.argmax(rows))
                raise ValueError(
                    f"ray {row} {what}: origins[{row}] = {origins[row].tolist()}, directions[{row}] = "
                    f"{directions[row].tolist()}. There are {int(rows.sum())} such rays."
                )

    def compute_output_shape(self, origins_shape, directions_shape):
        return (origins_shape,) * 3


@keras.saving.register_keras_serializable(package="keras_dl")
class CoarseDistances(_Float32):
    """Distances spread over a ray: at random in their strata in training, the same for all rays otherwise.

    Args:
        near, far: float.
        num_samples: int.
        perturb: bool. False never draws.
        seed: int or None.

    Call arguments:
        origins: float, `(rays, 3)`. Only their number counts.
        training: bool.

    Returns:
        float32, `(rays, num_samples)`.
    """

    @arguments
    def __init__(self, near, far, num_samples, perturb: bool = True, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, origins, training=False):
        noise = None
        if training and self.perturb:
            shape = (ops.shape(origins)[0], self.num_samples)
            noise = keras.random.uniform(shape, dtype="float32", seed=self.seed_generator)
        distances = stratified_distances(self.near, self.far, self.num_samples, noise)
        return distances + ops.zeros_like(origins[:, :1])  # (rays, num_samples)

    def compute_output_shape(self, origins_shape):
        return (origins_shape[0], self.num_samples)


@keras.saving.register_keras_serializable(package="keras_dl")
class FineDistances(_Float32):
    """The distances of the coarse samples, and further ones where their weights are large. No gradient goes through.

    A bin ends half way between two coarse samples. Its weight is that of the sample in it.

    Args:
        num_samples: int. Further distances.
        perturb: bool. Whether they are drawn at random in training. Otherwise they are spread evenly over the weights.
        seed: int or None.

    Call arguments:
        distances: float, `(rays, n)`, n at least 3.
        weights: float, `(rays, n)`.
        training: bool.

    Returns:
        float32, `(rays, n + num_samples)`, not decreasing.
    """

    @arguments
    def __init__(self, num_samples: Size, perturb: bool = True, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, distances, weights, training=False):
        if training and self.perturb:
            shape = (ops.shape(distances)[0], self.num_samples)
            places = keras.random.uniform(shape, dtype="float32", seed=self.seed_generator)
        else:
            places = np.linspace(0.0, 1.0, self.num_samples, dtype="float32")[None]
        middle = (distances[:, 1:] + distances[:, :-1]) / 2.0
        further = importance_distances(middle, weights[:, 1:-1], places)
        return ops.stop_gradient(ops.sort(ops.concatenate([distances, further], axis=-1), axis=-1))

    def compute_output_shape(self, distances_shape, weights_shape):
        return (distances_shape[0], distances_shape[1] + self.num_samples)


@keras.saving.register_keras_serializable(package="keras_dl")
class EncodedPoints(_Float32):
    """The encoding of points on rays: `frequency_encoding(origins + distances * directions)`.

    Args:
        num_frequencies: int.

    Call arguments:
        origins, directions: float, `(rays, 3)`.
        distances: float, `(rays, n)`.

    Returns:
        float32, `(rays, n, 3 + 6 num_frequencies)`.
    """

    @arguments
    def __init__(self, num_frequencies: int, **kwargs):
        super().__init__(**kwargs)

    def call(self, origins, directions, distances):
        origins, directions = ops.expand_dims(origins, 1), ops.expand_dims(directions, 1)
        points = origins + ops.expand_dims(distances, -1) * directions  # (rays, n, 3)
        return frequency_encoding(points, self.num_frequencies)

    def compute_output_shape(self, origins_shape, directions_shape, distances_shape):
        return (*distances_shape, 3 + 6 * self.num_frequencies)


@keras.saving.register_keras_serializable(package="keras_dl")
class EncodedDirections(_Float32):
    """`frequency_encoding` of directions of the length 1.

    Args:
        num_frequencies: int.

    Call arguments:
        views: float, `(rays, 3)`.

    Returns:
        float32, `(rays, 3 + 6 num_frequencies)`.
    """

    @arguments
    def __init__(self, num_frequencies: int, **kwargs):
        super().__init__(**kwargs)

    def call(self, views):
        return frequency_encoding(views, self.num_frequencies)

    def compute_output_shape(self, views_shape):
        return (views_shape[0], 3 + 6 * self.num_frequencies)


@keras.saving.register_keras_serializable(package="keras_dl")
class PairDense(Layer):
    """A dense layer on two joined tensors, the second of which may be the same for all points of a ray.

        y = W [a; b] + c = W_a a + W_b b + c

    Each tensor is multiplied by its rows of the kernel. So the joined one is never made, what belongs to a ray is
    computed once, and the two need no common scale in an int8 file. All products are of two matrices: a batch of
    matrices times one has a gradient with a kernel for each element of the batch.

    Args:
        units: int.

    Call arguments:
        first: float, `(rows, channels)`.
        second: float, `(rows, channels)`, or `(rays, channels)` with `rows = rays * n`, where the rows of a ray are
            next to each other.
        count: int: n.

    Returns:
        float, `(rows, units)`.
    """

    @arguments
    def __init__(self, units: Size, **kwargs):
        super().__init__(**kwargs)

    def build(self, first_shape, second_shape):
        self.rows = first_shape[-1]
        self.kernel = self.add_weight((self.rows + second_shape[-1], self.units), name="kernel")
        self.bias = self.add_weight((self.units,), "zeros", name="bias")

    def call(self, first, second, count=1):
        first, second = ops.matmul(first, self.kernel[: self.rows]), ops.matmul(second, self.kernel[self.rows :])
        if count == 1:
            return first + second + self.bias
        joined = ops.reshape(first, (-1, count, self.units)) + ops.expand_dims(second + self.bias, 1)
        return ops.reshape(joined, (-1, self.units))

    def compute_output_shape(self, first_shape, second_shape):
        return (first_shape[0], self.units)


@keras.saving.register_keras_serializable(package="keras_dl")
class RadianceField(Layer):
    """The network: the density of a point, and its color as seen from a direction.

        points, num_layers dense layers with relu, of which some take the encoded point again
            -> density
            -> dense, joined with the encoded direction, dense with relu of half the width -> color

    Args:
        num_layers: int.
        hidden_dim: int, at least 2.
        skips: sequence of int. The layers, counted from 0, after which the encoded point comes in again. Not the last.
        density_activation: "relu", as in the paper; or "softplus" of the value minus 1, whose gradient is never zero.
        density_noise: float, at least 0. Standard deviation of the noise that is added to the density before its
            activation in training.
        seed: int or None. Of the noise.

    Call arguments:
        points: float, `(rays, n, channels)`, encoded.
        directions: float, `(rays, channels)`, encoded; or None: then the color does not depend on the direction, and
            comes from one layer with the density.
        training: bool. Whether noise is added.

    Returns:
        colors: float32, `(rays, n, 3)`, in [0, 1].
        density: float32, `(rays, n)`, at least 0.

    Raises:
        ValueError: if an argument is out of its range.

    Reference: Mildenhall et al. 2020, appendix A.
    """

    @arguments
    def __init__(
        self,
        num_layers: Size = 8,
        hidden_dim: Size = 256,
        skips: SizesAtLeast(0, allow_empty=True) = (4,),
        density_activation: DensityActivation = "relu",
        density_noise: NumberIn(0) = 0.0,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_widths(num_layers, hidden_dim, skips)
        self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, points_shape, directions_shape=None):
        width, channels = self.hidden_dim, points_shape[-1]
        policy = self.dtype_policy

        def dense(name, inputs, units):
            layer = layers.Dense(units, dtype=policy, name=name)
            layer.build((None, inputs))
            return layer

        def pair(name, first, second, units):
            layer = PairDense(units, dtype=policy, name=name)
            layer.build((None, first), (None, second))
            return layer

        self.hidden = [
            pair(f"dense_{i}", channels, width, width)
            if i - 1 in self.skips
            else dense(f"dense_{i}", width if i else channels, width)
            for i in range(self.num_layers)
        ]
        if directions_shape is None:
            self.output_layer = dense("output", width, 4)
            return
        self.density_layer = dense("density", width, 1)
        self.feature = dense("feature", width, width)
        self.view = pair("view", width, directions_shape[-1], width // 2)
        self.color = dense("color", width // 2, 3)

    def call(self, points, directions=None, training=False):
        count = points.shape[1]
        points = ops.reshape(points, (-1, points.shape[-1]))  # (rays * n, channels)
        hidden = points
        for layer in self.hidden:
            hidden = layer(points, hidden) if isinstance(layer, PairDense) else layer(hidden)
            hidden = ops.relu(hidden)  # (rays * n, hidden_dim)
        if directions is None:
            raw = self.output_layer(hidden)  # (rays * n, 4)
            color, density = raw[:, :3], raw[:, 3:]
        else:
            density = self.density_layer(hidden)
            view = ops.relu(self.view(self.feature(hidden), directions, count=count))  # (rays * n, hidden_dim / 2)
            color = self.color(view)
        color = ops.reshape(ops.sigmoid(ops.cast(color, "float32")), (-1, count, 3))
        density = ops.reshape(ops.cast(density, "float32"), (-1, count))
        if training and self.density_noise:
            noise = keras.random.normal(ops.shape(density), dtype="float32", seed=self.seed_generator)
            density = density + self.density_noise * noise
        return color, self._activated(density)

    def _activated(self, density):
        if self.density_activation == "relu":
            return ops.relu(density)
        return _softplus(density - 1.0)

    def compute_output_spec(self, points, directions=None, training=False):
        shape = points.shape[:2]
        return keras.KerasTensor((*shape, 3), "float32"), keras.KerasTensor(shape, "float32")


def _softplus(x):
    """`log(1 + exp(x))` to the last digits, of small values too, in a file as in Keras.

    LiteRT computes exp(x) in `ops.softplus`, which overflows, and has no `log1p`: a logarithm of 1 + y rounds y to a
    multiple of 6e-8, and fine samples lie where the smallest densities say. So `log(1 + y) = 2 artanh(y / (2 + y))` is
    a series here, whose rest is below 2e-9 of it.
    """
    y = ops.exp(-ops.abs(x))  # in [0, 1]
    z = y / (2.0 + y)  # at most 1/3
    square, series = z * z, 1 / 17
    for power in range(15, 0, -2):
        series = series * square + 1 / power
    return ops.relu(x) + 2.0 * z * series


def check_widths(num_layers, hidden_dim, skips):
    """Refuses a network whose color has no width, or that takes the encoded point after its last layer."""
    if hidden_dim < 2:
        raise ValueError(f"hidden_dim={hidden_dim} must be at least 2: the color has half of it.")
    if any(i >= num_layers - 1 for i in skips):
        raise ValueError(f"skips={skips} must be below {num_layers - 1}: the last of num_layers={num_layers} has none.")


@keras.saving.register_keras_serializable(package="keras_dl")
class Composite(_Float32):
    """What rays see: `keras_dl.ops.composite`.

    Args:
        far: float or None, as of `composite`.
        background: float. The color behind everything.

    Call arguments:
        colors: float, `(rays, n, 3)`.
        density: float, `(rays, n)`.
        distances: float, `(rays, n)`.
        directions: float, `(rays, 3)`.

    Returns:
        dict of float32, as of `composite`.
    """

    @arguments
    def __init__(self, far: Positive | None = None, background: NumberIn(0, 1) = 0.0, **kwargs):
        super().__init__(**kwargs)

    def call(self, colors, density, distances, directions):
        lengths = ops.sqrt(ops.sum(ops.square(directions), axis=-1, keepdims=True))  # (rays, 1)
        return composite(colors, density, distances, lengths, self.far, self.background)

    def compute_output_spec(self, colors, density, distances, directions):
        shape = density.shape
        shapes = dict(rgb=(shape[0], 3), depth=shape[:1], opacity=shape[:1], weights=shape)
        return {name: keras.KerasTensor(x, "float32") for name, x in shapes.items()}
