"""PointNet: a function of a set of points that does not depend on their order.

    f({x_1, ..., x_n}) = h(max_i g(x_i))

`g` is an MLP that every point shares, the maximum is taken channel by channel, and `h` is an MLP. Two transform
networks (T-Nets), small PointNets themselves, predict a matrix from the cloud. One turns the coordinates, the other the
features of the points.

    coordinates, T-Net of size 3, MLP 64, 64, T-Net of size 64, MLP 64, 128, 1024, max, MLP 512, 256, logits

The maximum of a channel is that of one point. These points, at most one for each channel, are the critical points. The
network answers the same for any set between them and the upper-bound shape, which is all that can be added.

References: Qi, Su, Mo, Guibas 2016, "PointNet: Deep Learning on Point Sets for 3D Classification and Segmentation",
arXiv:1612.00593, section 4, theorem 2, appendix C. Layer sizes, dropout and initial weights that the paper does not
print are those of the authors' code. `load_torch` reads the layout of Pointnet_Pointnet2_pytorch.

Deviations:
- The regularizer is that of the authors' code: `orthogonality / 2 * |I - A A'|^2`, summed over the batch, for the
  T-Net of features alone. The paper's eq. 2 has no factor 1/2 and no sum.
- Batch normalization adds 1e-5 to the variance, as in torch. The authors' code adds 1e-3. The momentum is constant,
  unless `keras_dl.schedules.NormalizationMomentum` raises it as the authors' code does.
- Both layers of the head have dropout, as in the authors' code. The paper has it on the last one.
"""

import keras
import numpy as np
from keras import layers, ops

from keras_dl.arguments import AtLeast, NumberIn, Rate, Size, Sizes, arguments
from keras_dl.models.classifier import Classifier
from keras_dl.models.points import pointnet_weights
from keras_dl.models.points.blocks import (
    CleanCloud,
    SharedMLP,
    TransformDims,
    TransformNet,
    logits_of,
    served_classifier,
)
from keras_dl.signatures import Signature
from keras_dl.weights import Weights

DIMS = ((64, 128, 1024), (512, 256))  # of both transform networks

# The authors' code, and that of Pointnet_Pointnet2_pytorch, which has one layer before the T-Net of features, and no
# relu before the pooling. Trainable parameters for 40 classes: 3,480,049, 819,624, 3,471,473 and 3,471,857.
_TORCH = dict(point_dims=(64,), global_dims=(128, 1024), activate_last=False, dropout_rate=0.4)
PRESETS = {
    "modelnet40": dict(num_points=1024, num_classes=40),
    "modelnet40_vanilla": dict(num_points=1024, num_classes=40, input_transform=None, feature_transform=None),
    "modelnet40_torch": dict(num_points=1024, num_classes=40, **_TORCH),
    "modelnet40_torch_normals": dict(num_points=1024, num_classes=40, num_features=3, **_TORCH),
}


@keras.saving.register_keras_serializable(package="keras_dl")
class PointNet(Classifier):
    """Classifies clouds of points.

    Layers of interest by name: `input_transform`, `feature_transform`, `features` (the maximum over points), `head`.

    Args:
        num_points: int. Points, padding included, of the cloud that a device takes. Training takes any number.
        num_classes: int. None for a model without a head, which returns features.
        num_coordinates: int, at least 2. Coordinates of a point.
        num_features: int. Further channels of a point, such as normals or colors.
        point_dims: sequence of int. Widths of the shared MLP before the transform of features.
        global_dims: sequence of int. Widths of the shared MLP after it, up to the maximum.
        head_dims: sequence of int. Widths of the hidden layers after the maximum.
        input_transform: pair of sequences of int, or None for no transform of coordinates. Widths of its T-Net before
            and after the maximum.
        feature_transform: pair of sequences of int, or None for no transform of features.
        activate_last: bool. False leaves out the relu before the maximum.
        dropout_rate: float in [0, 1). After each hidden layer of the head.
        orthogonality: float, at least 0. Weight of the regularizer of the transform of features. Divide it by the batch
            size for a mean over the clouds.
        momentum: float in [0, 1). Of batch normalization: the share of the old statistics that a step keeps.
        masked: bool. Adds the input `mask` for clouds of several sizes in one batch.

    Call arguments:
        points: float, `(batch, points, num_coordinates + num_features)`, coordinates first, any number of points. The
            recipes center each cloud and scale it to the unit ball (`keras_dl.ops.unit_ball`). With `masked`, a dict
            of `points` and of `mask`: bool, `(batch, points)`, True = a point of the cloud, False = padding, whose
            values change nothing as long as they are finite.

            Points that occur twice change nothing either, so that a cloud can also be padded by repeating points. In
            training, batch normalization counts them, and counts padding as the first point of the cloud.

    Returns:
        float, `(batch, num_classes)`: logits. Without a head: features, `(batch, global_dims[-1])`.

    Raises:
        ValueError: if an argument is out of its range, a cloud has no points, or the points have another number of
            channels; and if, called eagerly, a point is not finite or a mask is all False. A compiled graph does not
            look at the values.

    Example:

    >>> model = PointNet.from_preset("modelnet40", num_classes=10)
    >>> clouds = np.random.default_rng(0).normal(size=(2, 100, 3))
    >>> model(clouds).shape
    TensorShape([2, 10])
    >>> critical = model.critical_points(clouds) > 0
    >>> critical.shape
    (2, 100)
    """

    presets = PRESETS

    @arguments
    def __init__(
        self,
        num_points: Size = 1024,
        num_classes: Size | None = 40,
        num_coordinates: AtLeast(2) = 3,
        num_features: AtLeast(0) = 0,
        point_dims: Sizes = (64, 64),
        global_dims: Sizes = (64, 128, 1024),
        head_dims: Sizes = (512, 256),
        input_transform: TransformDims | None = DIMS,
        feature_transform: TransformDims | None = DIMS,
        activate_last: bool = True,
        dropout_rate: Rate = 0.3,
        orthogonality: NumberIn(0.0) = 1e-3,
        momentum: Rate = 0.9,
        masked: bool = False,
        dtype=None,
        **kwargs,
    ):
        inputs = cloud_inputs(num_coordinates + num_features, masked)
        points = CleanCloud(name="clean")(inputs["points"], inputs.get("mask"))
        if input_transform is not None:
            points = TransformNet(num_coordinates, *input_transform, momentum=momentum, name="input_transform")(points)
        points = SharedMLP(point_dims, momentum=momentum, name="point_mlp")(points)  # (batch, points, point_dims[-1])
        if feature_transform is not None:
            transform = TransformNet(
                point_dims[-1], *feature_transform, orthogonality, momentum, name="feature_transform"
            )
            points = transform(points)
        points = SharedMLP(global_dims, activate_last, momentum, name="global_mlp")(points)
        features = layers.GlobalMaxPooling1D(name="features")(points)  # (batch, global_dims[-1])
        outputs = logits_of(features, num_classes, head_dims, dropout_rate, momentum)
        super().__init__(inputs=inputs if masked else inputs["points"], outputs=outputs, **kwargs)

    def critical_points(self, points, mask=None):
        """The points that decide the answer: the cloud of these alone has the same logits.

        They have the largest value of a channel, before the last pooling or before that of a transform network. Of
        several points with the same value, the first counts. A channel in which all points are equal needs none.

        Args:
            points: float, `(batch, points, channels)`, as the model takes them.
            mask: bool, `(batch, points)`, or None. True = a point of the cloud.

        Returns:
            NumPy array of int, `(batch, points)`: the number of channels that a point decides. 0 = not critical.

        Raises:
            ValueError: if a point is not finite, or a mask is all False.

        Reference: Qi et al. 2016, theorem 2 and section 5.3.
        """
        points = np.asarray(self.get_layer("clean")(points, mask))
        mask = np.ones(points.shape[:2], bool) if mask is None else np.asarray(mask)
        critical = np.zeros(points.shape[:2], int)
        for features, _ in self._pooled(points, points):
            features = np.where(mask[..., None], features, -np.inf)
            decides = features.max(1) > np.where(mask[..., None], features, np.inf).min(1)  # (batch, channels)
            clouds, channels = np.nonzero(decides)
            np.add.at(critical, (clouds, features.argmax(1)[clouds, channels]), 1)
        none = ~critical.any(1)  # all points are equal
        critical[none, mask[none].argmax(1)] = 1
        return critical

    def upper_bound(self, points, candidates, mask=None):
        """Which candidates belong to the upper-bound shape of a cloud: those that can be added to it, all or in part,
        without another answer.

        No value of a candidate is above the largest of the cloud, before any pooling. Rounding of 1e-6 is allowed for.

        Args:
            points: float, `(batch, points, channels)`, as the model takes them.
            candidates: float, `(batch, candidates, channels)`, such as a grid that fills a cube.
            mask: bool, `(batch, points)`, or None. True = a point of the cloud.

        Returns:
            NumPy array of bool, `(batch, candidates)`.

        Raises:
            ValueError: if a point or a candidate is not finite, or a mask is all False.

        Reference: Qi et al. 2016, theorem 2 and section 5.3.
        """
        clean = self.get_layer("clean")
        points, candidates = np.asarray(clean(points, mask)), np.asarray(clean(candidates))
        inside = np.ones(candidates.shape[:2], bool)
        for features, largest in self._pooled(candidates, points):
            rounding = 1e-6 * np.maximum(np.abs(largest), 1)
            inside &= (features <= largest + rounding).all(-1)
        return inside

    def _pooled(self, points, cloud):
        """For each pooling of the network: the values of `points` before it, and the largest of those of `cloud`.

        Both are turned by the matrices of `cloud`.
        """
        pooled = []

        def keep(of_points, of_cloud):
            pooled.append((np.asarray(of_points, "float32"), np.asarray(of_cloud, "float32").max(1, keepdims=True)))

        def turn(name, points, cloud):
            transform = self.get_layer(name)
            features = transform.mlp(cloud)
            keep(transform.mlp(points), features)
            matrix = transform.matrix(features)
            return transform.transform(points, matrix), transform.transform(cloud, matrix)

        points, cloud = ops.convert_to_tensor(points), ops.convert_to_tensor(cloud)
        if self.input_transform is not None:
            points, cloud = turn("input_transform", points, cloud)
        points, cloud = map(self.get_layer("point_mlp"), (points, cloud))
        if self.feature_transform is not None:
            points, cloud = turn("feature_transform", points, cloud)
        keep(*map(self.get_layer("global_mlp"), (points, cloud)))
        return pooled

    def load_torch(self, weights: Weights, head: bool = True) -> None:
        """Takes the weights of a classifier of Pointnet_Pointnet2_pytorch. The model then gives the same outputs.

        The presets `modelnet40_torch` and `modelnet40_torch_normals` have its sizes.

        Args:
            weights: mapping from torch's names to NumPy arrays, or the path of a `.safetensors` file. In a checkpoint
                of that repository they are under `model_state_dict`.
            head: bool. Whether the last layer is loaded. False leaves it as it is, for a training on other classes. A
                model without a head takes the backbone alone.

        Raises:
            ValueError: if the model has no transforms or a relu before the pooling, or if entries are missing, unknown
                or of another shape. The message lists all of them, and the model stays as it was.
        """
        pointnet_weights.load_classifier(self, weights, head)

    def serving_signatures(self, batch_size: int = 1) -> dict[str, Signature]:
        """The entry points of a device: dict of one `Signature`, `classify`, or `extract` without a head.

        It takes the model's inputs at `num_points` points, and returns
        `{"probabilities": float32, (batch_size, num_classes)}`. `extract` returns
        `{"features": float32, (batch_size, global_dims[-1])}`.
        """
        return served_classifier(self, batch_size)


def cloud_inputs(num_channels, masked) -> dict[str, keras.KerasTensor]:
    """The inputs of a cloud by name, for any number of points."""
    inputs = {"points": keras.Input((None, num_channels), name="points")}
    return {"mask": keras.Input((None,), dtype="bool", name="mask")} | inputs if masked else inputs
