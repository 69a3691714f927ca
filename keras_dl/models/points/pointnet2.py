"""PointNet++: small PointNets on the neighborhoods of some points of a cloud, level by level.

    c = sample(x),    f'_i = max_{j: |x_j - c_i| < r} h([x_j - c_i; f_j])                    a set abstraction level

The centers `c` are a farthest point sample of the points, and the points of the next level. A neighborhood is the ball
around a center. With several scales, each radius has its own MLP `h` (MSG, multi-scale grouping), and a center has the
features of all of them; with one, it is SSG. The last level is one group of all that is left, at absolute coordinates:
a PointNet.

    512 centers, r 0.2, 32 points, MLP 64, 64, 128 · 128 centers, r 0.4, 64 points, MLP 128, 128, 256
    all, MLP 256, 512, 1024 · MLP 512, 256, logits

Radii are in the unit of the coordinates: scale each cloud to the unit ball (`keras_dl.ops.unit_ball`).

References: Qi, Yi, Su, Guibas 2017, "PointNet++: Deep Hierarchical Feature Learning on Point Sets in a Metric Space",
arXiv:1706.02413, section 3, appendix B; the authors' code. `load_torch` reads the layout of Pointnet_Pointnet2_pytorch.

Deviations:
- One farthest point sampling serves all levels, since its order nests: the centers of a level are the first ones of the
  level before. This gives the centers of the authors' code, which samples each level anew. Sampling starts at the first
  point, as there. Pointnet_Pointnet2_pytorch starts at a random one.
- A ball holds what is nearer than its radius, as in the authors' code. Pointnet_Pointnet2_pytorch has the points at the
  radius, too.
- Batch normalization adds 1e-5 to the variance, as in torch. The authors' code adds 1e-3. The momentum is constant,
  unless `keras_dl.schedules.NormalizationMomentum` raises it as the authors' code does.
- Multi-resolution grouping (MRG) of section 3.3 is left out. The authors' code does not have it either.
"""

import keras
from keras import layers

from keras_dl.arguments import AtLeast, Rate, Size, Sizes, arguments
from keras_dl.models.classifier import Classifier
from keras_dl.models.points import pointnet2_weights
from keras_dl.models.points.abstraction import Levels, abstract, geometry
from keras_dl.models.points.blocks import JoinedMLP, logits_of, served_classifier
from keras_dl.models.points.pointnet import cloud_inputs
from keras_dl.signatures import Signature
from keras_dl.weights import Weights

SSG = (
    (512, ((0.2, 32, (64, 64, 128)),)),
    (128, ((0.4, 64, (128, 128, 256)),)),
)
MSG = (
    (512, ((0.1, 16, (32, 32, 64)), (0.2, 32, (64, 64, 128)), (0.4, 128, (64, 96, 128)))),
    (128, ((0.2, 32, (64, 64, 128)), (0.4, 64, (128, 128, 256)), (0.8, 128, (128, 128, 256)))),
)
# The authors' networks. Those of Pointnet_Pointnet2_pytorch have the same layers. Trainable parameters for 40 classes:
# 1,475,688, 1,475,880, 1,747,368 and 1,747,848. The paper's 91.9% are of 5,000 points with normals.
PRESETS = {
    "modelnet40": dict(num_points=1024, num_classes=40),
    "modelnet40_normals": dict(num_points=1024, num_classes=40, num_features=3),
    "modelnet40_msg": dict(num_points=1024, num_classes=40, levels=MSG, dropout_rate=0.6),
    "modelnet40_msg_normals": dict(num_points=5000, num_classes=40, num_features=3, levels=MSG, dropout_rate=0.6),
}


@keras.saving.register_keras_serializable(package="keras_dl")
class PointNet2(Classifier):
    """PointNet++, which classifies clouds of points.

    Layers of interest by name: `sample` (the centers of all levels), `level_1`, `level_2`, ... (the features of each
    scale), `features` (those of the cloud), `head`.

    Args:
        num_points: int. Points, padding included, of the cloud that a device takes. Training takes any number.
        num_classes: int. None for a model without a head, which returns features.
        num_coordinates: int, at least 2. Coordinates of a point.
        num_features: int. Further channels of a point, such as normals or colors.
        levels: sequence of (centers, scales): the number of centers of a level, at most that of the level before, and
            the scales around each, (radius, size, dims): the radius of the ball, in the unit of the coordinates; the
            points of a group; the widths of its MLP. The first `size` points in the ball are the group.
        global_dims: sequence of int. Widths of the MLP on all that the last level leaves, up to the maximum.
        head_dims: sequence of int. Widths of the hidden layers after the maximum.
        dropout_rate: float in [0, 1). After each hidden layer of the head.
        momentum: float in [0, 1). Of batch normalization: the share of the old statistics that a step keeps.
        masked: bool. Adds the input `mask` for clouds of several sizes in one batch.

    Call arguments:
        points: float, `(batch, points, num_coordinates + num_features)`, coordinates first, any number of points. With
            `masked`, a dict of `points` and of `mask`: bool, `(batch, points)`, True = a point of the cloud, False =
            padding, whose values change nothing as long as they are finite. It is never sampled and never in a group.

            Order matters little: sampling starts at the first point, and the first points of a ball are its group. A
            cloud with fewer different points than centers has its first point several times among these.

    Returns:
        float, `(batch, num_classes)`: logits. Without a head: features, `(batch, global_dims[-1])`.

    Raises:
        ValueError: if an argument is out of its range, a cloud has no points, or the points have another number of
            channels; and if, called eagerly, a point is not finite or a mask is all False. A compiled graph does not
            look at the values.

    Example:

    >>> from keras_dl.ops import unit_ball
    >>> model = PointNet2.from_preset("modelnet40", num_classes=10)
    >>> model(unit_ball(keras.random.normal((2, 100, 3)))).shape
    TensorShape([2, 10])

    Reference: Qi et al. 2017, arXiv:1706.02413, section 3.
    """

    presets = PRESETS

    @arguments
    def __init__(
        self,
        num_points: Size = 1024,
        num_classes: Size | None = 40,
        num_coordinates: AtLeast(2) = 3,
        num_features: AtLeast(0) = 0,
        levels: Levels = SSG,
        global_dims: Sizes = (256, 512, 1024),
        head_dims: Sizes = (512, 256),
        dropout_rate: Rate = 0.5,
        momentum: Rate = 0.9,
        masked: bool = False,
        dtype=None,
        **kwargs,
    ):
        inputs = cloud_inputs(num_coordinates + num_features, masked)
        points, parts = abstract(inputs, num_coordinates, levels, momentum)[-1]
        points = JoinedMLP(global_dims, momentum=momentum, name="global_mlp")([points, *parts])
        features = layers.GlobalMaxPooling1D(name="features")(points)  # (batch, global_dims[-1])
        outputs = logits_of(features, num_classes, head_dims, dropout_rate, momentum)
        super().__init__(inputs=inputs if masked else inputs["points"], outputs=outputs, **kwargs)

    @property
    def float_layers(self) -> tuple[str, ...]:
        """The layers that choose points, which an int8 file computes in float32."""
        return geometry(self.levels, self.masked)

    def load_torch(self, weights: Weights, head: bool = True) -> None:
        """Takes the weights of a classifier of Pointnet_Pointnet2_pytorch. The model then gives the same outputs.

        They are the same where its sampling starts at the first point, too. All presets have its sizes.

        Args:
            weights: mapping from torch's names to NumPy arrays, or the path of a `.safetensors` file. In a checkpoint
                of that repository they are under `model_state_dict`.
            head: bool. Whether the last layer is loaded. False leaves it as it is, for a training on other classes. A
                model without a head takes the backbone alone.

        Raises:
            ValueError: if entries are missing, unknown or of another shape. The message lists all of them, and the
                model stays as it was.
        """
        pointnet2_weights.load_classifier(self, weights, head)

    def serving_signatures(self, batch_size: int = 1) -> dict[str, Signature]:
        """The entry points of a device: dict of one `Signature`, `classify`, or `extract` without a head.

        It takes the model's inputs at `num_points` points, samples and groups them, and returns
        `{"probabilities": float32, (batch_size, num_classes)}`. `extract` returns
        `{"features": float32, (batch_size, global_dims[-1])}`.
        """
        return served_classifier(self, batch_size)
