"""PointNet for segmentation: the features of a point and those of its whole cloud, joined, name its part or its class.

    y_i = h([max_j g(x_j); category; s(x_i)])

`s` are features of the point from inside of `g`: those after the T-Net of features (fig. 2 of the paper), the outputs
of all layers (the paper's network of parts), or the last output (that of scenes). The category of the object, where it
is given, is a vector of zeros with a single one.

References: Qi, Su, Mo, Guibas 2016, arXiv:1612.00593, fig. 2, sections 5.1 and 5.2, appendix C and fig. 9; the authors'
code. `load_torch` reads the layout of Pointnet_Pointnet2_pytorch.

Deviations, beside those of `keras_dl.models.points.pointnet`:
- The dropout of the head comes after each of its hidden layers. The authors' network of parts has it after the first
  two of three, that of scenes after the last of two.
- The authors' network of parts has a second head, which classifies objects. Its loss has the weight 0, and it is left
  out.
"""

import keras
import numpy as np
from keras import layers, ops

from keras_dl.arguments import AtLeast, NumberIn, OneOf, Rate, Size, Sizes, SizesAtLeast, arguments
from keras_dl.base import FunctionalModel, Layer
from keras_dl.compat import is_eager
from keras_dl.models.points import pointnet_weights
from keras_dl.models.points.blocks import CleanCloud, SharedMLP, TransformDims, TransformNet, head, served_probabilities
from keras_dl.models.points.pointnet import DIMS, cloud_inputs
from keras_dl.signatures import Signature
from keras_dl.weights import Weights

_PARTS = dict(
    num_points=2048,
    num_classes=50,
    num_categories=16,
    point_dims=(64, 128, 128),
    global_dims=(512, 2048),
    head_dims=(256, 256, 128),
    local_features="all",
)
# Trainable parameters. Of the authors' code: fig. 2 of the paper for 50 classes, parts of ShapeNet, scenes of S3DIS,
# whose network has no transforms. Of Pointnet_Pointnet2_pytorch: 8,342,395 for parts, 3,529,558 for scenes.
PRESETS = {
    "paper": dict(num_points=1024, num_classes=50, dropout_rate=0.0),
    "shapenet_part": dict(
        _PARTS,
        input_transform=((64, 128, 1024), (128, 128)),
        feature_transform=((256, 1024), (512, 256)),
        dropout_rate=0.2,
    ),
    "shapenet_part_torch": dict(_PARTS, activate_last=False, dropout_rate=0.0),
    "shapenet_part_torch_normals": dict(_PARTS, num_features=3, activate_last=False, dropout_rate=0.0),
    "s3dis": dict(
        num_points=4096,
        num_classes=13,
        num_features=6,
        cloud_dims=(256, 128),
        head_dims=(512, 256),
        input_transform=None,
        feature_transform=None,
        local_features="last",
    ),
    "s3dis_torch": dict(
        num_points=4096,
        num_classes=13,
        num_features=6,
        point_dims=(64,),
        global_dims=(128, 1024),
        head_dims=(512, 256, 128),
        activate_last=False,
        dropout_rate=0.0,
    ),
}


@keras.saving.register_keras_serializable(package="keras_dl")
class Category(Layer):
    """The category of an object as a vector of zeros with a single one. Called eagerly, it checks the number.

    Args:
        num_categories: int.

    Call arguments:
        category: int, `(batch,)`, in [0, num_categories).

    Returns:
        The layer's compute dtype, `(batch, num_categories)`.

    Raises:
        ValueError: if, called eagerly, a number is out of its range.
    """

    @arguments
    def __init__(self, num_categories: Size, **kwargs):
        super().__init__(autocast=False, **kwargs)

    def call(self, category):
        if is_eager(category):
            numbers = np.asarray(category)
            wrong = (numbers < 0) | (numbers >= self.num_categories)
            if wrong.any():
                raise ValueError(
                    f"category[{int(wrong.argmax())}] = {numbers[wrong][0]} must be in [0, {self.num_categories})."
                )
        equal = ops.equal(ops.expand_dims(category, 1), np.arange(self.num_categories, dtype="int32"))
        return ops.cast(equal, self.compute_dtype)  # (batch, num_categories)

    def compute_output_shape(self, category_shape):
        return (*category_shape, self.num_categories)


@keras.saving.register_keras_serializable(package="keras_dl")
class PointNetSegmentation(FunctionalModel):
    """Classifies the points of clouds: parts of objects, or classes of a scene.

    Args:
        num_points: int. Points, padding included, of the cloud that a device takes. Training takes any number.
        num_classes: int. Parts of all categories together, or classes.
        num_categories: int. Categories of objects, of which each cloud is one. 0 for scenes.
        num_coordinates: int, at least 2. Coordinates of a point.
        num_features: int. Further channels of a point. Those of S3DIS are three colors and the place in the room.
        point_dims: sequence of int. Widths of the shared MLP before the transform of features.
        global_dims: sequence of int. Widths of the shared MLP after it, up to the maximum.
        cloud_dims: sequence of int, possibly empty. Widths of layers on the maximum, before it joins the points.
        head_dims: sequence of int. Widths of the hidden layers on the joined features.
        input_transform, feature_transform: as of `PointNet`.
        local_features: "transformed", "all" or "last": the features of a point that join those of its cloud. They are
            those after the transform of features, the outputs of all layers of the shared MLPs, or the last of these.
        activate_last: bool. False leaves out the relu before the maximum.
        dropout_rate: float in [0, 1). After each hidden layer of the head.
        orthogonality, momentum, masked: as of `PointNet`.

    Call arguments:
        points: float, `(batch, points, num_coordinates + num_features)`, coordinates first, any number of points. With
            categories or `masked`, a dict of `points` and of:
        category: int, `(batch,)`, in [0, num_categories), if there are categories.
        mask: bool, `(batch, points)`, if `masked`. True = a point of the cloud, False = padding, whose values change
            nothing.

    Returns:
        float, `(batch, points, num_classes)`: logits. Those at padding are those of the first point of the cloud; give
        them the sample weight 0.

    Raises:
        ValueError: as of `PointNet`; and if, called eagerly, a category is out of its range.

    Example:

    >>> model = PointNetSegmentation(num_classes=4, num_categories=2, global_dims=(16,), head_dims=(8,))
    >>> model({"points": np.ones((3, 50, 3)), "category": np.array([0, 1, 1])}).shape
    TensorShape([3, 50, 4])
    """

    presets = PRESETS
    returns_logits = True

    @arguments
    def __init__(
        self,
        num_points: Size = 1024,
        num_classes: Size = 50,
        num_categories: AtLeast(0) = 0,
        num_coordinates: AtLeast(2) = 3,
        num_features: AtLeast(0) = 0,
        point_dims: Sizes = (64, 64),
        global_dims: Sizes = (64, 128, 1024),
        cloud_dims: SizesAtLeast(1, allow_empty=True) = (),
        head_dims: Sizes = (512, 256, 128, 128),
        input_transform: TransformDims | None = DIMS,
        feature_transform: TransformDims | None = DIMS,
        local_features: OneOf("transformed", "all", "last") = "transformed",
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
        before = SharedMLP(point_dims, momentum=momentum, return_each=True, name="point_mlp")(points)
        points = before[-1]  # (batch, points, point_dims[-1])
        if feature_transform is not None:
            transform = TransformNet(
                point_dims[-1], *feature_transform, orthogonality, momentum, name="feature_transform"
            )
            points = transform(points)
        after = SharedMLP(global_dims, activate_last, momentum, return_each=True, name="global_mlp")(points)
        local = {"transformed": [points], "all": [*before, *after], "last": after[-1:]}[local_features]

        cloud = layers.GlobalMaxPooling1D(name="features")(after[-1])  # (batch, global_dims[-1])
        if cloud_dims:
            cloud = SharedMLP(cloud_dims, momentum=momentum, name="cloud_mlp")(cloud)
        joined = [cloud, *local]
        if num_categories:
            inputs = {"category": keras.Input((), dtype="int32", name="category")} | inputs
            joined.insert(1, Category(num_categories, name="one_hot")(inputs["category"]))
        hidden = head(joined, head_dims, dropout_rate, momentum)  # (batch, points, head_dims[-1])
        logits = layers.Dense(num_classes, name="head")(hidden)  # (batch, points, num_classes)
        super().__init__(inputs=inputs if len(inputs) > 1 else inputs["points"], outputs=logits, **kwargs)

    def load_torch(self, weights: Weights, head: bool = True) -> None:
        """Takes the weights of a segmentation of Pointnet_Pointnet2_pytorch. The model then gives the same outputs.

        The presets `shapenet_part_torch` and `s3dis_torch` have its sizes. A model with categories takes the names of
        the network of parts, one without those of the network of scenes.

        Args:
            weights: mapping from torch's names to NumPy arrays, or the path of a `.safetensors` file. In a checkpoint
                of that repository they are under `model_state_dict`.
            head: bool. Whether the last layer is loaded. False leaves it as it is, for a training on other classes.

        Raises:
            ValueError: as of `PointNet.load_torch`.
        """
        pointnet_weights.load_segmentation(self, weights, head)

    def serving_signatures(self, batch_size: int = 1) -> dict[str, Signature]:
        """The entry points of a device: dict of one `Signature`, `segment`.

        It takes the model's inputs at `num_points` points, and returns
        `{"probabilities": float32, (batch_size, num_points, num_classes)}`.
        """
        return {"segment": served_probabilities(self, batch_size)}
