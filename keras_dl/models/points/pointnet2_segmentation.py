"""PointNet++ for segmentation: the levels of PointNet++, and the way back to every point.

    f_i = h([f_i of the level itself; sum_j w_ij f'_j]),    w_ij ~ 1 / |x_i - c_j|^2                 feature propagation

`j` are the three centers nearest to the point `i`, and the weights have the sum 1. The features of the whole cloud, if
there are any, join those of the last level. At the end of the way, each point can have its coordinates and features and
the category of its object once more.

References: Qi, Yi, Su, Guibas 2017, arXiv:1706.02413, section 3.4, appendix B; the authors' code. `load_torch` reads
the layout of Pointnet_Pointnet2_pytorch.

Deviations, beside those of `keras_dl.models.points.pointnet2`:
- The floor of squared distances is 1e-10, as in the authors' code. Pointnet_Pointnet2_pytorch adds 1e-8 to them.
- The joined features are in the order of Pointnet_Pointnet2_pytorch: those of the point before the interpolated ones.
"""

import keras
from keras import layers

from keras_dl.arguments import AtLeast, Rate, Size, Sizes, SizesAtLeast, arguments
from keras_dl.base import FunctionalModel
from keras_dl.models.points import pointnet2_weights
from keras_dl.models.points.abstraction import FeaturePropagation, Levels, SequenceOfSizes, abstract, geometry
from keras_dl.models.points.blocks import JoinedMLP, head, served_probabilities
from keras_dl.models.points.pointnet import cloud_inputs
from keras_dl.models.points.pointnet2 import SSG
from keras_dl.models.points.pointnet_segmentation import Category
from keras_dl.signatures import Signature
from keras_dl.weights import Weights

BACK = ((256, 256), (256, 128), (128, 128, 128))
_PARTS = dict(num_points=2048, num_classes=50)
_PARTS_MSG = dict(
    _PARTS,
    num_categories=16,
    levels=(
        (512, ((0.1, 32, (32, 32, 64)), (0.2, 64, (64, 64, 128)), (0.4, 128, (64, 96, 128)))),
        (128, ((0.4, 64, (128, 128, 256)), (0.8, 128, (128, 196, 256)))),
    ),
    propagation_dims=(*BACK[:2], (128, 128)),
)
_SCENES = dict(global_dims=(), propagation_dims=((256, 256), (256, 256), (256, 128), (128, 128, 128)))
_SCENES_SSG = dict(
    _SCENES,
    levels=(
        (1024, ((0.1, 32, (32, 32, 64)),)),
        (256, ((0.2, 32, (64, 64, 128)),)),
        (64, ((0.4, 32, (128, 128, 256)),)),
        (16, ((0.8, 32, (256, 256, 512)),)),
    ),
)
_SCENES_MSG = dict(
    _SCENES,
    levels=(
        (1024, ((0.05, 16, (16, 16, 32)), (0.1, 32, (32, 32, 64)))),
        (256, ((0.1, 16, (64, 64, 128)), (0.2, 32, (64, 96, 128)))),
        (64, ((0.2, 16, (128, 196, 256)), (0.4, 32, (128, 196, 256)))),
        (16, ((0.4, 16, (256, 256, 512)), (0.8, 32, (256, 384, 512)))),
    ),
)
_S3DIS = dict(num_points=4096, num_classes=13, num_features=6, absolute=True, join_inputs=False)
# The authors' networks for parts of ShapeNet (with normals) and scenes of ScanNet (coordinates alone), and those of
# Pointnet_Pointnet2_pytorch. Trainable parameters of these: parts 1,411,250 and 1,740,958, with normals 1,411,826 and
# 1,741,822; scenes 968,269 and 1,883,269.
PRESETS = {
    "shapenet_part": dict(_PARTS, num_features=3, levels=((512, ((0.2, 64, (64, 64, 128)),)), SSG[1])),
    "shapenet_part_msg": dict(_PARTS_MSG, num_features=3),
    "scannet": dict(_SCENES_SSG, num_points=8192, num_classes=21, join_inputs=False),
    "shapenet_part_torch": dict(_PARTS, num_categories=16, absolute=True),
    "shapenet_part_torch_normals": dict(_PARTS, num_categories=16, num_features=3, absolute=True),
    "shapenet_part_msg_torch": dict(_PARTS_MSG, absolute=True),
    "shapenet_part_msg_torch_normals": dict(_PARTS_MSG, num_features=3, absolute=True),
    "s3dis_torch": dict(_SCENES_SSG, **_S3DIS),
    "s3dis_msg_torch": dict(_SCENES_MSG, **_S3DIS),
}


@keras.saving.register_keras_serializable(package="keras_dl")
class PointNet2Segmentation(FunctionalModel):
    """PointNet++, which classifies the points of clouds: parts of objects, or classes of a scene.

    Layers of interest by name: `sample`, `level_1`, ..., `global_mlp`, `back_1` (the way back, from the last level on),
    ..., `head`.

    Args:
        num_points: int. Points, padding included, of the cloud that a device takes. Training takes any number.
        num_classes: int. Parts of all categories together, or classes.
        num_categories: int. Categories of objects, of which each cloud is one. 0 for scenes.
        num_coordinates: int, at least 2. Coordinates of a point.
        num_features: int. Further channels of a point. Those of S3DIS are three colors and the place in the room.
        levels: as of `PointNet2`.
        global_dims: sequence of int. Widths of the MLP on all that the last level leaves, up to the maximum. Empty for
            no features of the whole cloud.
        propagation_dims: sequence of sequences of int. Widths of the MLPs on the way back: one for each level, from the
            last to the first, and before these one that joins the features of the cloud to the last level, if there
            are any.
        head_dims: sequence of int. Widths of the hidden layers after it.
        absolute: bool. Whether the coordinates of a point, as they are, also count as features.
        join_inputs: bool. Whether coordinates and features of each point join the last step of the way back.
        dropout_rate: float in [0, 1). After each hidden layer of the head.
        momentum, masked: as of `PointNet2`.

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
        ValueError: as of `PointNet2`; and if, called eagerly, a category is out of its range.

    Example:

    >>> from keras import ops
    >>> level = (16, [(0.5, 8, (8, 16))])
    >>> model = PointNet2Segmentation(
    ...     num_classes=4, num_categories=2, levels=[level], global_dims=(16,), propagation_dims=[(16,), (8,)]
    ... )
    >>> model({"points": ops.ones((3, 50, 3)), "category": ops.array([0, 1, 1])}).shape
    TensorShape([3, 50, 4])

    Reference: Qi et al. 2017, arXiv:1706.02413, section 3.4.
    """

    presets = PRESETS
    returns_logits = True

    @arguments
    def __init__(
        self,
        num_points: Size = 2048,
        num_classes: Size = 50,
        num_categories: AtLeast(0) = 0,
        num_coordinates: AtLeast(2) = 3,
        num_features: AtLeast(0) = 0,
        levels: Levels = SSG,
        global_dims: SizesAtLeast(1, allow_empty=True) = (256, 512, 1024),
        propagation_dims: SequenceOfSizes = BACK,
        head_dims: Sizes = (128,),
        absolute: bool = False,
        join_inputs: bool = True,
        dropout_rate: Rate = 0.5,
        momentum: Rate = 0.9,
        masked: bool = False,
        dtype=None,
        **kwargs,
    ):
        wanted = len(levels) + bool(global_dims)
        if len(propagation_dims) != wanted:
            raise ValueError(
                f"propagation_dims={propagation_dims!r} must have {wanted} items: one for each of the {len(levels)} "
                f"levels{', and one before them for the features of the cloud' * bool(global_dims)}."
            )
        inputs = cloud_inputs(num_coordinates + num_features, masked)
        (points, own), *found = abstract(inputs, num_coordinates, levels, momentum, absolute)
        own = [points, *own] if join_inputs else []
        if num_categories:
            inputs = {"category": keras.Input((), dtype="int32", name="category")} | inputs
            own.insert(0, Category(num_categories, name="one_hot")(inputs["category"]))

        centers, features = found[-1]
        dims = iter(enumerate(propagation_dims, start=1))
        if global_dims:
            cloud = JoinedMLP(global_dims, momentum=momentum, name="global_mlp")([centers, *features])
            cloud = layers.GlobalMaxPooling1D(name="features")(cloud)  # (batch, global_dims[-1])
            i, widths = next(dims)
            features = [JoinedMLP(widths, momentum=momentum, name=f"back_{i}")([*features, cloud])]
        for (finer, skipped), (i, widths) in zip([*found[-2::-1], (points, own)], dims, strict=True):
            back = FeaturePropagation(widths, momentum, name=f"back_{i}")
            features = [back(finer, centers, features, skipped)]  # (batch, points of the level, widths[-1])
            centers = finer
        hidden = head(features[0], head_dims, dropout_rate, momentum)  # (batch, points, head_dims[-1])
        logits = layers.Dense(num_classes, name="head")(hidden)  # (batch, points, num_classes)
        super().__init__(inputs=inputs if len(inputs) > 1 else inputs["points"], outputs=logits, **kwargs)

    @property
    def float_layers(self) -> tuple[str, ...]:
        """The layers that choose points, which an int8 file computes in float32. The category is one of them, too: the
        converter (of TensorFlow 2.21) gives its 0 and 1 two scales, so that 0 becomes 0.5.
        """
        return (*geometry(self.levels, self.masked), "nearest", *["one_hot"] * bool(self.num_categories))

    def load_torch(self, weights: Weights, head: bool = True) -> None:
        """Takes the weights of a segmentation of Pointnet_Pointnet2_pytorch. The model then gives the same outputs.

        They are the same where its sampling starts at the first point, too. The presets with `_torch` in their names
        have its sizes.

        Args:
            weights: mapping from torch's names to NumPy arrays, or the path of a `.safetensors` file. In a checkpoint
                of that repository they are under `model_state_dict`.
            head: bool. Whether the last layer is loaded. False leaves it as it is, for a training on other classes.

        Raises:
            ValueError: as of `PointNet2.load_torch`.
        """
        pointnet2_weights.load_segmentation(self, weights, head)

    def serving_signatures(self, batch_size: int = 1) -> dict[str, Signature]:
        """The entry points of a device: dict of one `Signature`, `segment`.

        It takes the model's inputs at `num_points` points, and returns
        `{"probabilities": float32, (batch_size, num_points, num_classes)}`.
        """
        return {"segment": served_probabilities(self, batch_size)}
