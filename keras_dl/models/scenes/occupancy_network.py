"""Occupancy network: the surface of a shape as the decision boundary of a classifier of points in space.

    f(p, c) = log odds that the point p is inside the shape that c describes
    loss    = sum over points of the cross-entropy of f(p, c), mean over shapes

`c` is the code of an observation: a noisy cloud of points on the surface, an image, or a grid of voxels. The classifier
is a residual network of points, in which the code sets scale and offset of each batch normalization (CBN):

    fc 3 -> 256, 5 blocks of [CBN, relu, fc, CBN, relu, fc] with a shortcut, CBN, relu, fc 256 -> 1

The generative network has latents instead: an encoder of points and their occupancies gives q(z | p, o). Its loss is
the negative of the evidence lower bound, the sum above plus KL(q || N(0, 1)). Any resolution can be asked for. The mesh
of a shape is extracted by MISE and marching cubes (`keras_dl.ops.isosurface`). Its normals are gradients of `f`.

A convolutional network has no single code: its encoder leaves features on planes, and `f` takes those that are
interpolated at the point (`keras_dl.models.scenes.occupancy_planes`). So a detail is described where it is. The
classifier adds a dense layer of the features before each residual block, without normalization:

    fc 3 -> 32, 5 blocks of [+ fc(features), relu, fc, relu, fc with a shortcut], relu, fc 32 -> 1

Shapes are in a unit cube around the origin. Points are drawn evenly from a cube that is larger by 10%.

References: Mescheder, Oechsle, Niemeyer, Nowozin, Geiger 2018, "Occupancy Networks: Learning 3D Reconstruction in
Function Space", arXiv:1812.03828, section 3, fig. 2 and supplementary material, section 1. Sizes, initial values and
the threshold that the paper does not print are those of the authors' code, autonomousvision/occupancy_networks. Peng,
Niemeyer, Mescheder, Pollefeys, Geiger 2020, "Convolutional Occupancy Networks", arXiv:2003.04618, for planes, with the
code autonomousvision/convolutional_occupancy_networks.

Deviations:
- Dense layers start at Glorot's uniform distribution, that of the coordinates of a cloud at LeCun's, and their biases
  at 0. torch draws both from a uniform distribution of its own, with which the codes of different clouds are nearly
  equal at the start. What starts at zero in the authors' code starts at zero here.
- The mesh is neither simplified nor refined after marching cubes. The authors' code leaves both out by default.
- Of convolutional networks there are planes, one or several. Grids of features in space, and scenes that are larger
  than the cube, are left out.
- The ResNet-18 of images is not pretrained, unless `load_torch` gives it weights.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_dl.arguments import AtLeast, ImageShape, NumberIn, OneOf, Rate, Size, Sizes, arguments
from keras_dl.base import FunctionalModel
from keras_dl.checks import check_size
from keras_dl.inputs import checked_inputs
from keras_dl.models.scenes import occupancy_weights
from keras_dl.models.scenes.occupancy_blocks import (
    CheckedPoints,
    CloudEncoder,
    Draw,
    LatentEncoder,
    VoxelEncoder,
)
from keras_dl.models.scenes.occupancy_decoders import code_decoder, local_decoder
from keras_dl.models.scenes.occupancy_planes import PlaneEncoder, Planes, check_plane_sides
from keras_dl.models.vision.resnet import ResNet
from keras_dl.ops.isosurface import Mesh, extract, grid_points, marching_cubes
from keras_dl.signatures import Signature
from keras_dl.weights import Weights

# The configurations of the authors' code: pointcloud, img, voxels and unconditional. Trainable parameters: 10,373,889,
# 13,414,465, 7,857,473 and 298,369. Of convolutional ones, pointcloud/shapenet_3plane and shapenet_1plane: 1,978,209
# each, since the planes share a U-Net.
LOCAL = dict(encoder="local_points", decoder="local", code_dim=32, hidden_dim=32, encoder_dim=32, cloud_size=3000)
PRESETS = {
    "points": dict(encoder="points", code_dim=512, hidden_dim=256, encoder_dim=512),
    "image": dict(encoder="image", code_dim=256, hidden_dim=256, image_shape=(224, 224, 3)),
    "voxels": dict(encoder="voxels", code_dim=256, hidden_dim=256, voxel_resolution=32),
    "unconditional": dict(encoder=None, decoder="additive", hidden_dim=128, latent_dim=128),
    "local_planes": LOCAL,
    "local_plane": LOCAL | dict(planes=("xz",)),
}
# The name of the observation, by the encoder.
INPUTS = {"points": "cloud", "local_points": "cloud", "image": "images", "voxels": "voxels"}
CHUNK = 32_768  # points at a time, when many are asked about


@keras.saving.register_keras_serializable(package="keras_dl")
class OccupancyNetwork(FunctionalModel):
    """Tells which points are inside a shape, of which it is given an observation or latents.

    Compile it with an optimizer and no loss: its own loss is the cross-entropy in nats, summed over the points and
    averaged over the shapes, and with latents the KL on top.

    Layers of interest by name: `encoder`, `latent_encoder`, `decoder`, and in it `coordinates`, `block_0` and so on.

    Args:
        encoder: "points", "local_points", "image", "voxels", or None for no observation. "local_points" makes planes of
            features of a cloud, the others one vector.
        decoder: "conditional_norm", in which the code sets scale and offset of batch normalization; "additive", without
            normalization, in which a dense layer of the code is added to the features of every point; or "local", for
            the encoder "local_points" alone, which needs it.
        code_dim: int. Width of the code, or channels of the planes.
        latent_dim: int. Number of latents; 0 makes the network discriminative. Planes have none.
        hidden_dim: int. Width of the decoder.
        num_blocks: int. Residual blocks of the decoder.
        encoder_dim: int. Width of the encoder of clouds.
        encoder_blocks: int. Residual blocks of the encoder of clouds.
        planes: sequence of "xz", "xy" and "yz": those of the encoder "local_points".
        plane_resolution: int, at least 2. Cells along each side of a plane.
        unet_depth: int. Levels of the U-Net that goes over each plane; 0 for none. All but the first halve the sides.
        unet_filters: int. Channels of its first level; the others have twice those of the level above.
        latent_hidden_dim: int. Width of the encoder of latents.
        cloud_size: int. Points of the cloud that a device takes. Training takes any number.
        image_shape: `(height, width, channels)`.
        image_blocks, image_filters: sequences of int: those of the ResNet that encodes images.
        voxel_resolution: int. Voxels along each axis.
        voxel_filters: sequence of int. Channels of the convolutions of voxels; all but the first halve the grid.
        num_points: int. Points of a shape that a device tells of in one call. Training takes any number.
        grid_size: int, at least 2. Points along each axis of the grid that a device computes at once.
        padding: float, at least 0. The cube of the points is larger than the unit cube of the shape by this share.
        threshold: float in [0, 1]. Points of at least this probability are inside.
        momentum: float in [0, 1). Of conditional batch normalization.
        seed: int or None. Of the draws of latents in training.

    Call arguments:
        inputs: dict of
            `points`: float, `(batch, points, 3)`, anywhere in the cube of side `1 + padding` around the origin.
            `cloud`: float, `(batch, n, 3)`, points of the surface, for the encoders "points" and "local_points".
            `images`: float, `(batch, *image_shape)`, raw pixels in [0, 255], for "image".
            `voxels`: float, `(batch, r, r, r)`, 1 for an occupied voxel and 0 for an empty one, for "voxels".
            `occupancies`: float, `(batch, points)`, 1 for a point inside and 0 outside, with latents: what the
            posterior is inferred from. In training latents are drawn from it; in inference they are its mean.

    Returns:
        float, `(batch, points)`: logits. The target of `fit` is `occupancies`.

    Raises:
        ValueError: if an argument is out of its range, or two exclude each other; and if, called eagerly, a point is
            not finite.

    Example:

    >>> model = OccupancyNetwork.from_preset("points", hidden_dim=8, encoder_dim=8, code_dim=4)
    >>> cloud = np.random.default_rng(0).normal(size=(2, 300, 3))
    >>> model({"points": np.zeros((2, 50, 3)), "cloud": cloud}).shape
    TensorShape([2, 50])
    """

    presets = PRESETS
    returns_logits = True
    has_own_loss = True

    @arguments
    def __init__(
        self,
        encoder: OneOf("points", "local_points", "image", "voxels", None) = "points",
        decoder: OneOf("conditional_norm", "additive", "local") = "conditional_norm",
        code_dim: Size = 512,
        latent_dim: AtLeast(0) = 0,
        hidden_dim: Size = 256,
        num_blocks: Size = 5,
        encoder_dim: Size = 512,
        encoder_blocks: Size = 5,
        planes: Planes = ("xz", "xy", "yz"),
        plane_resolution: AtLeast(2) = 64,
        unet_depth: AtLeast(0) = 4,
        unet_filters: Size = 32,
        latent_hidden_dim: Size = 128,
        cloud_size: Size = 300,
        image_shape: ImageShape = (224, 224, 3),
        image_blocks: Sizes = (2, 2, 2, 2),
        image_filters: Sizes = (64, 128, 256, 512),
        voxel_resolution: Size = 32,
        voxel_filters: Sizes = (32, 64, 128, 256, 512),
        num_points: Size = 2048,
        grid_size: AtLeast(2) = 32,
        padding: NumberIn(0.0) = 0.1,
        threshold: NumberIn(0.0, 1.0) = 0.2,
        momentum: Rate = 0.9,
        seed: int | None = None,
        dtype=None,
        **kwargs,
    ):
        if encoder is None and not latent_dim:
            raise ValueError("encoder=None needs latent_dim of at least 1: without either, all shapes are the same.")
        if encoder is None and decoder == "conditional_norm":
            raise ValueError("decoder='conditional_norm' needs a code, and encoder=None gives none: use 'additive'.")

        local = encoder == "local_points"
        if local != (decoder == "local"):
            raise ValueError(
                f"encoder={encoder!r} and decoder={decoder!r} do not fit: encoder='local_points' makes planes of "
                "features, which decoder='local' takes, and no other."
            )
        if local and latent_dim:
            raise ValueError(f"latent_dim={latent_dim} must be 0 with encoder='local_points': planes have no latents.")
        if local:
            check_plane_sides(plane_resolution, unet_depth)

        inputs = {"points": keras.Input((None, 3), name="points")}
        exact = dict(dtype="float32") if local else {}  # half precision would move points to other cells
        points = CheckedPoints("points", name="checked_points", **exact)(inputs["points"])
        code = None
        if INPUTS.get(encoder) == "cloud":
            inputs["cloud"] = keras.Input((None, 3), name="cloud")
            cloud = CheckedPoints("cloud", name="checked_cloud", **exact)(inputs["cloud"])
        if local:
            sizes = (code_dim, encoder_dim, encoder_blocks, planes, plane_resolution, padding, unet_depth, unet_filters)
            code = PlaneEncoder(*sizes, name="encoder")(cloud)  # (batch, planes * resolution, resolution, code_dim)
        elif encoder == "points":
            code = CloudEncoder(code_dim, encoder_dim, encoder_blocks, name="encoder")(cloud)  # (batch, code_dim)
        elif encoder == "image":
            inputs["images"] = keras.Input(image_shape, name="images")
            sizes = dict(num_blocks=image_blocks, filters=image_filters, block="basic")
            code = ResNet(image_shape, code_dim, **sizes, name="encoder")(inputs["images"])
        elif encoder == "voxels":
            inputs["voxels"] = keras.Input((voxel_resolution,) * 3, name="voxels")
            code = VoxelEncoder(code_dim, voxel_filters, name="encoder")(inputs["voxels"])

        described = {} if code is None else {"code": code}
        if latent_dim:
            inputs["occupancies"] = keras.Input((None,), name="occupancies")
            posterior = LatentEncoder(latent_dim, latent_hidden_dim, name="latent_encoder")(
                points, inputs["occupancies"], code
            )
            described["latents"] = Draw(seed, name="latents")(posterior["mean"], posterior["log_std"])
        if local:
            network = local_decoder(code.shape[1:], hidden_dim, num_blocks, planes, padding)
        else:
            network = code_decoder(decoder, code_dim, latent_dim, hidden_dim, num_blocks, momentum, described)
        logits = network(described | {"points": points})  # (batch, points)
        super().__init__(inputs=inputs, outputs=logits, **kwargs)

    @property
    def observation(self) -> str | None:
        """The name of the input that the encoder takes; None without an encoder."""
        return INPUTS.get(self.encoder)

    @property
    def code_shape(self) -> tuple[int, ...]:
        """The shape of the code of one observation: `(code_dim,)`, or that of its planes, one below the other."""
        if self.encoder != "local_points":
            return (self.code_dim,)
        return (len(self.planes) * self.plane_resolution, self.plane_resolution, self.code_dim)

    @property
    def float_layers(self) -> tuple[str, ...]:
        """The layers of planes that an int8 file computes in float32.

        A cell without points has the lowest number as its largest value, which would stretch the range of the others.
        In the decoder, features are as large as hundreds, and the logits at the surface near 0: eight bits of the sums
        cost 0.04 of IoU (`docs/recipes.md`). The decoder is small in float32, and on a CPU faster.
        """
        if self.encoder != "local_points":
            return ()
        pooling = [f"pooling_{i}" for i in range(1, self.encoder_blocks)]
        return ("cells", *pooling, "means", "decoder")

    @property
    def side(self) -> float:
        """Length of the edges of the cube of the points."""
        return 1.0 + self.padding

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The cross-entropy in nats, summed over points, averaged over shapes; plus the KL and other losses of layers.

        `sample_weight` is `(batch,)` or `(batch, points)`.
        """
        logits, y = ops.cast(y_pred, "float32"), ops.cast(y, "float32")
        entropy = ops.relu(logits) - logits * y + ops.log1p(ops.exp(-ops.abs(logits)))  # (batch, points)
        if sample_weight is not None:
            weight = ops.cast(sample_weight, "float32")
            entropy = entropy * (weight if len(weight.shape) == 2 else ops.expand_dims(weight, -1))
        loss = ops.mean(ops.sum(entropy, axis=-1))
        for other in self.losses:
            loss = loss + ops.cast(other, "float32")
        return loss

    def encode(self, observation):
        """The code of each observation: float, `(batch, *code_shape)`.

        Args:
            observation: the input `cloud`, `images` or `voxels`, as a call of the model takes it.

        Raises:
            ValueError: if the model has no encoder, the observation has another shape, or a point is not finite.
        """
        if self.encoder is None:
            raise ValueError("encoder=None: the model takes no observation.")
        observation = self._checked({self.observation: observation}, self.input)[self.observation]
        if self.observation == "cloud":
            observation = self.get_layer("checked_cloud")(observation)
        return self.get_layer("encoder")(observation, training=False)

    def infer(self, points, occupancies, code=None):
        """The posterior of the latents, given points and their occupancies.

        Args:
            points: float, `(batch, points, 3)`.
            occupancies: float, `(batch, points)`.
            code: float, `(batch, code_dim)`, with an encoder.

        Returns:
            dict of `"log_std"` and `"mean"`, each float32 `(batch, latent_dim)`.

        Raises:
            ValueError: if the model has no latents; if the code is missing, or the model has none; and if one of the
                three has another shape, or, called eagerly, a point is not finite.
        """
        if not self.latent_dim:
            raise ValueError("latent_dim=0: the model infers no latents.")
        self._check_described(code, True)
        wanted = {name: self.input[name] for name in ("points", "occupancies")}
        if self.encoder is not None:
            wanted["code"] = self.get_layer("decoder").input["code"]
        given = self._checked(dict(points=points, occupancies=occupancies, code=code), wanted)
        return self.get_layer("latent_encoder")(given["points"], given["occupancies"], given.get("code"))

    def logits(self, points, code=None, latents=None):
        """The log odds that points are inside, of shapes by their codes or latents.

        Args:
            points: float, `(batch, points, 3)`.
            code: float, `(batch, *code_shape)`, as `encode` returns it; with an encoder.
            latents: float, `(batch, latent_dim)`, with latents.

        Returns:
            float, `(batch, points)`.

        Raises:
            ValueError: if the code or the latents are missing, or the model has none; if one of the three has another
                shape or number of rows; and if, called eagerly, a point is not finite.
        """
        self._check_described(code, latents)
        decoder = self.get_layer("decoder")
        given = self._checked({"code": code, "latents": latents, "points": points}, decoder.input)
        return decoder(given, training=False)

    def _checked(self, given, wanted):
        """What is given and not None, in float32, with the shapes of `wanted`, as many rows each, and finite points."""
        given = {name: ops.convert_to_tensor(x, "float32") for name, x in given.items() if x is not None}
        given = checked_inputs(given, {name: wanted[name] for name in given})
        if "points" in given:
            given["points"] = self.get_layer("checked_points")(given["points"])
        return given

    def _check_described(self, code, latents):
        needed = {"code": self.encoder is not None, "latents": self.latent_dim > 0}
        for (name, need), given in zip(needed.items(), (code, latents), strict=True):
            if need != (given is not None):
                raise ValueError(f"{name} is {'needed' if need else 'not taken'} by a model with {self._kind()}.")

    def _kind(self):
        return f"encoder={self.encoder!r} and latent_dim={self.latent_dim}"

    def draw_latents(self, num_shapes: int, seed=None):
        """Latents of new shapes, drawn from the prior: float32, `(num_shapes, latent_dim)`.

        Args:
            num_shapes: int, at least 1.
            seed: int, `keras.random.SeedGenerator` or None.

        Raises:
            ValueError: if the model has no latents, or `num_shapes` is less than 1.
        """
        if not self.latent_dim:
            raise ValueError("latent_dim=0: the model draws no shapes, it reconstructs them.")
        return keras.random.normal((check_size("num_shapes", num_shapes), self.latent_dim), seed=seed)

    def meshes(
        self, code=None, latents=None, threshold=None, resolution: int = 32, steps: int = 2, normals: bool = True
    ) -> list[Mesh]:
        """The surface of each shape as a watertight mesh, at which points have the probability `threshold`.

        Args:
            code: float, `(batch, *code_shape)`, as `encode` returns it; with an encoder.
            latents: float, `(batch, latent_dim)`, with latents.
            threshold: float in (0, 1). None for the model's.
            resolution: int. Cells along each axis of the coarse grid; parts that no point of it hits are not found.
            steps: int. How many times the cells at the surface are halved.
            normals: bool. Whether vertices get normals: the direction in which the probability falls fastest.

        Returns:
            list of `keras_dl.ops.isosurface.Mesh`. One of no faces means that no point of the grid is inside.

        Raises:
            ValueError: if an argument is out of its range.
            ImportError: if scikit-image is not installed.
        """
        threshold = self.threshold if threshold is None else threshold
        if not 0 < threshold < 1:
            raise ValueError(f"threshold={threshold!r} must be a number between 0 and 1.")
        level = float(np.log(threshold) - np.log1p(-threshold))
        self._check_described(code, latents)
        found = []
        for row in range(len(code if latents is None else latents)):
            own = [None if x is None else ops.convert_to_tensor(x)[row : row + 1] for x in (code, latents)]
            values, _ = extract(lambda points, own=own: self._values(points, *own), level, resolution, steps, self.side)
            mesh = marching_cubes(values, level, self.side)
            if normals and len(mesh.faces):
                mesh = mesh._replace(normals=self._normals(mesh.vertices, *own))
            found.append(mesh)
        return found

    def _values(self, points, code, latents):
        """The log odds of many points `(n, 3)` of one shape: NumPy `(n,)`."""
        chunks = (points[None, i : i + CHUNK] for i in range(0, len(points), CHUNK))
        return np.concatenate([np.asarray(self.logits(chunk, code, latents), "float32")[0] for chunk in chunks])

    def _normals(self, points, code, latents):
        """The unit vectors against the gradient of the log odds at points `(n, 3)` of one shape; 0 where it is 0."""
        found = []
        for i in range(0, len(points), CHUNK):
            chunk = tf.constant(points[None, i : i + CHUNK])
            with tf.GradientTape() as tape:
                tape.watch(chunk)
                total = ops.sum(self.logits(chunk, code, latents))
            found.append(-np.asarray(tape.gradient(total, chunk))[0])
        normals = np.concatenate(found)
        return normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), np.finfo("float32").tiny)

    def load_torch(self, weights: Weights) -> None:
        """Takes the weights of the authors' code. The model then gives the same outputs.

        Args:
            weights: mapping from torch's names to NumPy arrays, or the path of a `.safetensors` file. In a checkpoint
                of the authors' code they are under `model`.

        Raises:
            ValueError: if entries are missing, unknown or of another shape. The message lists all of them, and the
                model stays as it was.
        """
        occupancy_weights.load(self, weights)

    def serving_signatures(self, batch_size: int = 1) -> dict[str, Signature]:
        """The entry points of a device: dict of `Signature`.

        `encode` takes the observation, `cloud` at `cloud_size` points, `images` as uint8, or `voxels`, and returns
        `{"code": float32, (batch_size, *code_shape)}`. `infer(points, occupancies)`, and `code` with an encoder,
        returns mean and logarithm of the standard deviation of the latents.

        `occupancy` takes `points: float32, (batch_size, num_points, 3)`, and `code`, `latents` or both. It returns
        `{"occupancies": float32, (batch_size, num_points)}`, the probabilities to be inside.

        `grid` takes a cube, `center: float32, (batch_size, 3)` and `side: float32, (batch_size, 1)`, and `code`,
        `latents` or both. It returns the probabilities of the points of `grid_points(grid_size, side)` around the
        center, `(batch_size, grid_size, grid_size, grid_size)`. A side of `1 + padding` asks for the whole shape, and
        a smaller one for a part in more detail.
        """

        def tensor(name, *shape, dtype="float32"):
            return keras.KerasTensor((batch_size, *shape), dtype, name=name)

        def probabilities(points, code=None, latents=None):
            return ops.sigmoid(ops.cast(self.logits(points, code, latents), "float32"))

        def occupancy(points, **described):
            return {"occupancies": probabilities(points, **described)}

        def grid(center, side, **described):
            # The cube is an input: of constant points the converter would keep the features of the first layer.
            places = ops.expand_dims(side, 1) * grid_points(self.grid_size, 1.0)[None] + ops.expand_dims(center, 1)
            found = probabilities(places, **described)
            return {"occupancies": ops.reshape(found, (batch_size, *(self.grid_size,) * 3))}

        def encode(**observation):
            (observed,) = observation.values()
            return {"code": ops.cast(self.encode(observed), "float32")}

        points = tensor("points", self.num_points, 3)
        described, signatures = {}, {}
        if self.encoder is not None:
            described["code"] = tensor("code", *self.code_shape)
            observation = {
                "cloud": tensor("cloud", self.cloud_size, 3),
                "images": tensor("images", *self.image_shape, dtype="uint8"),
                "voxels": tensor("voxels", *(self.voxel_resolution,) * 3),
            }[self.observation]
            signatures["encode"] = Signature(encode, {self.observation: observation})
        if self.latent_dim:
            given = {"points": points, "occupancies": tensor("occupancies", self.num_points)} | described
            signatures["infer"] = Signature(self.infer, given)
            described = described | {"latents": tensor("latents", self.latent_dim)}
        signatures["occupancy"] = Signature(occupancy, {"points": points} | described)
        cube = {"center": tensor("center", 3), "side": tensor("side", 1)}
        return signatures | {"grid": Signature(grid, cube | described)}
