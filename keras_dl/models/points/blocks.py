"""Parts of networks on point clouds: the shared MLP, the transform networks, the checks of a cloud, what is served."""

from typing import Annotated

import keras
import numpy as np
from keras import layers, ops

from keras_dl.arguments import NumberIn, Rate, Size, Sizes, arguments
from keras_dl.base import Layer
from keras_dl.checks import check_sizes
from keras_dl.layers.norm import BatchNormalization
from keras_dl.ops.neighbors import check_points
from keras_dl.ops.points import fill_padding
from keras_dl.signatures import Signature


def _check_transform(name, value):
    try:
        before, after = (check_sizes(name, dims) for dims in value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name}={value!r} must be None, or two sequences of integers of at least 1: the widths of the T-Net "
            "before and after its pooling."
        ) from error
    return before, after


# The widths of a transform network: those of the layers before the pooling, and those of the layers after it.
TransformDims = Annotated[tuple[tuple[int, ...], tuple[int, ...]], _check_transform]


@keras.saving.register_keras_serializable(package="keras_dl")
class CleanCloud(Layer):
    """Replaces padding by a point of the cloud. Called eagerly, it also checks the points.

    Call arguments:
        points: float, `(batch, points, channels)`. Padding can be any finite numbers.
        kept: bool, `(batch, points)`, or None. True = a point of the cloud, at least one in each. (Keras would take an
            argument called `mask` for one of its own.)

    Returns:
        The layer's compute dtype, the shape of `points`.

    Raises:
        ValueError: if a cloud has no points, or, called eagerly, if a point is not finite or a mask is all False.
    """

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)

    def call(self, points, kept=None):
        if points.shape[1] == 0:
            raise ValueError(f"points has the shape {tuple(points.shape)}: a cloud needs at least one point.")
        check_points(points, kept)
        if kept is not None:
            points = fill_padding(points, kept)
        return ops.cast(points, self.compute_dtype)

    def compute_output_shape(self, points_shape, kept_shape=None):
        return points_shape


@keras.saving.register_keras_serializable(package="keras_dl")
class SharedMLP(Layer):
    """Dense, batch normalization and relu for each width, with the same weights for every point.

    The dense layers have biases, as in the authors' code, although the normalization subtracts them again.

    Args:
        dims: sequence of int. Widths of the layers.
        activate_last: bool. False leaves out the relu of the last layer.
        momentum: float in [0, 1). Of batch normalization.
        return_each: bool. Returns the outputs of all layers, not only that of the last.

    Call arguments:
        points: float, `(batch, points, channels)`, or another shape `(..., channels)`.
        training: bool. Whether batch normalization uses the statistics of the batch.

    Returns:
        float, `(batch, points, dims[-1])`; with `return_each` a list of one such tensor for each width.

    Raises:
        ValueError: if an argument is out of its range.
    """

    first_class = layers.Dense  # of the first layer, which alone reads the inputs

    @arguments
    def __init__(
        self, dims: Sizes, activate_last: bool = True, momentum: Rate = 0.9, return_each: bool = False, **kwargs
    ):
        super().__init__(**kwargs)

    def build(self, points_shape):
        self.dense, self.norms = [], []
        shape = points_shape
        for i, width in enumerate(self.dims, start=1):
            kind = self.first_class if i == 1 else layers.Dense
            dense = kind(width, dtype=self.dtype_policy, name=f"dense_{i}")
            norm = BatchNormalization(momentum=self.momentum, dtype=self.dtype_policy, name=f"norm_{i}")
            dense.build(shape)
            shape = dense.compute_output_shape(shape)
            norm.build(shape)
            self.dense.append(dense)
            self.norms.append(norm)

    def call(self, points, training=False):
        outputs = []
        for i, (dense, norm) in enumerate(zip(self.dense, self.norms, strict=True), start=1):
            points = norm(dense(points), training=training)  # (batch, points, width)
            if i < len(self.dims) or self.activate_last:
                points = ops.relu(points)
            outputs.append(points)
        return outputs if self.return_each else points

    def compute_output_shape(self, points_shape):
        shapes = [(*self.places(points_shape), width) for width in self.dims]
        return shapes if self.return_each else shapes[-1]

    def places(self, points_shape):
        """The shape of the outputs without their channels."""
        return points_shape[:-1]


@keras.saving.register_keras_serializable(package="keras_dl")
class TransformNet(Layer):
    """T-Net: predicts a matrix from the whole cloud, and multiplies every point by it.

        A = I + reshape(W h(max_i g(x_i)) + b),    y_i = x_i A

    `g` is a shared MLP, `h` an MLP. `W` and `b` start at zero, so that the layer starts as the identity. The matrix is
    computed in float32 under any dtype policy.

    Args:
        size: int. The first channels of a point, which the matrix transforms. The network reads all channels.
        dims: sequence of int. Widths of `g`.
        head_dims: sequence of int. Widths of `h`.
        orthogonality: float, at least 0. The layer adds `orthogonality / 2 * sum |I - A A'|^2` to the loss, summed over
            the matrices of the batch.
        momentum: float in [0, 1). Of batch normalization.

    Call arguments:
        points: float, `(batch, points, channels)`.
        training: bool. Whether batch normalization uses the statistics of the batch.

    Returns:
        float, the shape of `points`.

    Raises:
        ValueError: if an argument is out of its range, or `size` is more than the channels.

    Reference: Qi et al. 2016, arXiv:1612.00593, section 4.2, eq. 2.
    """

    @arguments
    def __init__(
        self,
        size: Size,
        dims: Sizes = (64, 128, 1024),
        head_dims: Sizes = (512, 256),
        orthogonality: NumberIn(0.0) = 0.0,
        momentum: Rate = 0.9,
        **kwargs,
    ):
        super().__init__(**kwargs)

    def build(self, points_shape):
        if points_shape[-1] < self.size:
            raise ValueError(f"size={self.size} is more than the {points_shape[-1]} channels of the points.")
        options = dict(momentum=self.momentum, dtype=self.dtype_policy)
        self.mlp = SharedMLP(self.dims, name="mlp", **options)
        self.head = SharedMLP(self.head_dims, name="head", **options)
        self.last = layers.Dense(self.size**2, kernel_initializer="zeros", dtype="float32", name="last")
        self.mlp.build(points_shape)
        self.head.build((points_shape[0], self.dims[-1]))
        self.last.build((points_shape[0], self.head_dims[-1]))

    def matrix(self, features, training=False):
        """The matrix of a cloud, float32 `(batch, size, size)`, by the features `mlp(points)` of its points."""
        hidden = self.head(ops.max(features, axis=1), training=training)  # (batch, head_dims[-1])
        flat = self.last(hidden) + np.eye(self.size, dtype="float32").ravel()
        return ops.reshape(flat, (-1, self.size, self.size))

    def transform(self, points, matrix):
        """Multiplies the first `size` channels of every point by the matrix of its cloud."""
        turned = ops.matmul(points[..., : self.size], ops.cast(matrix, points.dtype))
        if self.size == points.shape[-1]:
            return turned
        return ops.concatenate([turned, points[..., self.size :]], axis=-1)  # (batch, points, channels)

    def call(self, points, training=False):
        matrix = self.matrix(self.mlp(points, training=training), training=training)
        if self.orthogonality:
            product = ops.matmul(matrix, ops.transpose(matrix, (0, 2, 1)))
            self.add_loss(0.5 * self.orthogonality * ops.sum(ops.square(product - np.eye(self.size, dtype="float32"))))
        return self.transform(points, matrix)

    def compute_output_shape(self, points_shape):
        return points_shape


@keras.saving.register_keras_serializable(package="keras_dl")
class JoinedDense(Layer):
    """A dense layer on several features of a point, joined; those of its cloud are the same for each of its points.

        y_i = W [u; x_i] + b = W_u u + W_x x_i + b

    Each part is multiplied by its rows of the kernel. So the joined tensor is never made, what belongs to the cloud is
    computed once, and the parts need no common scale in an int8 file.

    Args:
        units: int. Width of the result.
        use_bias: bool. Whether `b` is added.

    Call arguments:
        parts: list of float tensors, `(batch, c)` or `(batch, points, c)`, at least one of these.

    Returns:
        float, `(batch, points, units)`.

    Raises:
        ValueError: if `units` is not positive.
    """

    @arguments
    def __init__(self, units: Size, use_bias: bool = True, **kwargs):
        super().__init__(**kwargs)

    def build(self, shapes):
        self.kernel = self.add_weight((sum(shape[-1] for shape in shapes), self.units), name="kernel")
        self.bias = self.add_weight((self.units,), "zeros", name="bias") if self.use_bias else None

    def call(self, parts):
        of_cloud, of_points, row = self.bias, 0.0, 0
        for part in parts:
            rows = self.kernel[row : row + part.shape[-1]]
            row += part.shape[-1]
            product = ops.matmul(part, rows)  # (batch, units) or (batch, points, units)
            if len(part.shape) == 3:
                of_points = of_points + product
            else:
                of_cloud = product if of_cloud is None else of_cloud + product
        if of_cloud is None:
            return of_points
        return of_points + (of_cloud if len(of_cloud.shape) == 1 else of_cloud[:, None])

    def compute_output_shape(self, shapes):
        return (*next(shape for shape in shapes if len(shape) == 3)[:-1], self.units)


@keras.saving.register_keras_serializable(package="keras_dl")
class JoinedMLP(SharedMLP):
    """`SharedMLP` on several features of a point, joined as by `JoinedDense`.

    Args:
        dims, activate_last, momentum, return_each: as of `SharedMLP`.

    Call arguments:
        points: list of float tensors, as of `JoinedDense`.
        training: bool. Whether batch normalization uses the statistics of the batch.

    Returns:
        As `SharedMLP`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    first_class = JoinedDense

    def places(self, points_shape):
        return next(shape for shape in points_shape if len(shape) == 3)[:-1]


def head(hidden, dims, dropout_rate, momentum):
    """Dense, batch normalization, relu and dropout for each width: layers `head_1`, `head_1_norm`, `head_2`, ...

    Args:
        hidden: symbolic tensor `(batch, width)`, or a list of such and of `(batch, points, width)`, which are joined.
    """
    for i, width in enumerate(dims, start=1):
        if isinstance(hidden, list):
            hidden = JoinedDense(width, name=f"head_{i}")(hidden)
        else:
            hidden = layers.Dense(width, name=f"head_{i}")(hidden)
        hidden = BatchNormalization(momentum=momentum, name=f"head_{i}_norm")(hidden)
        hidden = layers.ReLU(name=f"head_{i}_relu")(hidden)
        if dropout_rate:
            hidden = layers.Dropout(dropout_rate, name=f"head_{i}_dropout")(hidden)
    return hidden


def logits_of(features, num_classes, dims, dropout_rate, momentum):
    """The logits of the features of a cloud, by `head` and a dense layer of this name: `(batch, num_classes)`.

    Without classes, the features themselves.
    """
    if num_classes is None:
        return features
    hidden = head(features, dims, dropout_rate, momentum)  # (batch, dims[-1])
    return layers.Dense(num_classes, name="head")(hidden)


def served_classifier(model, batch_size: int) -> dict[str, Signature]:
    """The entry point of a classifier: `classify`, or `extract` without a head."""
    if model.returns_logits:
        return {"classify": served_probabilities(model, batch_size)}
    return {"extract": _served(model, batch_size, lambda features: {"features": features})}


def served_probabilities(model, batch_size: int) -> Signature:
    """An entry point of a device: the softmax of a model's logits, at the number of points that the device takes."""
    return _served(model, batch_size, lambda logits: {"probabilities": ops.softmax(logits)})


def _served(model, batch_size, answer):
    def serve(**inputs):
        outputs = model(inputs if len(inputs) > 1 else inputs["points"], training=False)
        return answer(ops.cast(outputs, "float32"))

    inputs = {
        x.name: keras.KerasTensor(
            (batch_size, *[model.num_points if n is None else n for n in x.shape[1:]]), x.dtype, name=x.name
        )
        for x in model.inputs
    }
    return Signature(serve, inputs)
