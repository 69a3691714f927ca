"""NeRF: a scene as a function from a point and a direction to a density and a color, learned from images of it.

    C(r) = sum_i T_i (1 - exp(-density_i delta_i)) color_i,   T_i = exp(-sum_{j<i} density_j delta_j)          (eq. 3)
    loss = |C_coarse(r) - C(r)|^2 + |C_fine(r) - C(r)|^2                                                       (eq. 6)

A ray through a pixel is sampled in strata. A coarse network says where the scene is, and further samples go there. A
fine network sees all of them. Both have the same layers, and take the sines and cosines of the coordinates at rising
frequencies.

References: Mildenhall, Srinivasan, Tancik, Barron, Ramamoorthi, Ng 2020, "NeRF: Representing Scenes as Neural Radiance
Fields for View Synthesis", arXiv:2003.08934. Initial weights, the last interval and the additions to weights are those
of the authors' code. `load_torch` reads the layout of nerf-pytorch, `load_keras` that of the authors' code.

Deviations:
- One layer follows the direction, as in the authors' code. The paper's appendix A is about four in an earlier version.
- The loss is the mean over the colors of a ray. The paper has the sum, three times as much.
- Without view directions, the network returns four values. The authors' code has a fifth one, which it does not use.
- The last factor of the transmittance has no 1e-10, which the authors' code adds to keep a product above 0.
- The depth of a ray counts what passes through everything as the last distance, in place of 0.
"""

from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_dl.arguments import AtLeast, NumberIn, Positive, Size, SizesAtLeast, arguments
from keras_dl.base import FunctionalModel
from keras_dl.checks import check_positive_per_channel, check_size, check_sizes
from keras_dl.models.scenes import nerf_weights
from keras_dl.models.scenes.radiance import (
    CoarseDistances,
    Composite,
    DensityActivation,
    EncodedDirections,
    EncodedPoints,
    FineDistances,
    RadianceField,
    Rays,
)
from keras_dl.ops.rays import camera_rays
from keras_dl.signatures import Signature
from keras_dl.weights import Weights


def _check_scale(name, value):
    scale = check_positive_per_channel(name, value)
    if not isinstance(scale, tuple) or len(scale) != 2:
        raise ValueError(f"{name}={value!r} must be None or a pair: 2 focal / width, 2 focal / height of the images.")
    return scale


def _check_image_size(name, value):
    size = check_sizes(name, value)
    if len(size) != 2:
        raise ValueError(f"{name}={value!r} must be (height, width).")
    return size


# Section 5.3 and the authors' config for the Blender scenes. Each of the two networks has 595,844 parameters.
PRESETS = {"blender": dict(near=2.0, far=6.0, num_samples=64, num_fine_samples=128, white_background=True)}


@keras.saving.register_keras_serializable(package="keras_dl")
class NeRF(FunctionalModel):
    """Renders a scene from any place, after it has learned its color along the rays of some images.

    Compile it with an optimizer and no loss: its own loss is the squared error of the coarse and of the fine color.
    Train it by `fit({"origins": ..., "directions": ...}, colors)` on rays of all images in random order. Compiled
    metrics, such as `keras_dl.metrics.PSNR`, see the color of the last network only.

    A forward-facing scene in normalized device coordinates has `near=0.0, far=1.0`, and `ndc`.

    A camera inside of an object is a camera like any other: what is nearer than `near` is not seen.

    Args:
        near: float, at least 0. The distance on a ray where the scene begins, in lengths of the direction.
        far: float, above `near`. Where it ends.
        num_samples: int, at least 3. Samples of a ray that the coarse network sees.
        num_fine_samples: int. Further samples. The fine network sees both. 0: there is no fine network.
        point_frequencies: int. Frequencies of the encoding of a point.
        direction_frequencies: int. Frequencies of the encoding of a direction.
        view_dependent: bool. Whether colors depend on the direction.
        num_layers, hidden_dim, skips, density_activation, density_noise: as of
            `keras_dl.models.scenes.radiance.RadianceField`, of both networks.
        white_background: bool. What is behind the scene: white or black.
        infinite_end: bool. Whether the last sample stands for all that is behind it, as in the authors' code. Otherwise
            the scene ends at `far`, as it must with "softplus": that is positive everywhere, so that every ray would
            end in an opaque sample.
        ndc: pair of float, or None. The scale of `keras_dl.ops.ndc_rays`: rays are then moved to normalized device
            coordinates, where `near` and `far` count.
        perturb: bool. Whether samples are drawn at random in training. False makes training deterministic, if
            `density_noise` is 0.
        served_rays: int. Rays in one call of the exported `render_rays`.
        served_size: `(height, width)`, int. The image of the exported `render_image`.
        seed: int or None. Of the samples and the noise.

    Call arguments:
        inputs: dict of `directions` and `origins`, float, `(rays, 3)`, in the units and axes of the world. Directions
            need no particular length: see `keras_dl.ops.camera_rays`.

    Returns:
        dict of float32: `"rgb"`, `(rays, 3)`, in [0, 1]; `"depth"`, `(rays,)`, the expected distance in lengths of the
        direction, from `near` to `far`; `"opacity"`, `(rays,)`, in [0, 1]. With a fine network, these are its, and
        `"coarse_rgb"`, `(rays, 3)`, is that of the coarse one.

    Raises:
        ValueError: if an argument is out of its range; and if, called eagerly, a ray is not finite, has the direction
            zero or, with `ndc`, does not look along -z. A compiled graph does not look at the values.

    Example:

    >>> model = NeRF(num_samples=8, num_fine_samples=8, num_layers=2, hidden_dim=16, skips=())
    >>> view = model.render(np.eye(4), focal=20.0, size=(4, 6))
    >>> view["rgb"].shape, view["depth"].shape
    ((4, 6, 3), (4, 6))
    """

    presets = PRESETS
    has_own_loss = True

    @arguments
    def __init__(
        self,
        near: NumberIn(0) = 2.0,
        far: Positive = 6.0,
        num_samples: AtLeast(3) = 64,
        num_fine_samples: AtLeast(0) = 128,
        point_frequencies: AtLeast(0) = 10,
        direction_frequencies: AtLeast(0) = 4,
        view_dependent: bool = True,
        num_layers: Size = 8,
        hidden_dim: Size = 256,
        skips: SizesAtLeast(0, allow_empty=True) = (4,),
        density_activation: DensityActivation = "relu",
        density_noise: NumberIn(0) = 0.0,
        white_background: bool = False,
        infinite_end: bool = True,
        ndc: Annotated[tuple[float, float], _check_scale] | None = None,
        perturb: bool = True,
        served_rays: Size = 256,
        served_size: Annotated[tuple[int, int], _check_image_size] = (32, 32),
        seed: int | None = None,
        dtype=None,
        **kwargs,
    ):
        if not near < far:
            raise ValueError(f"near={near} must be below far={far}.")
        if ndc is not None and far > 1:
            raise ValueError(f"far={far} must be at most 1 with ndc={ndc}: 1 is at infinity.")
        if infinite_end and density_activation == "softplus":
            raise ValueError("infinite_end=True needs density_activation='relu': a softplus is 0 nowhere.")
        end = dict(far=None if infinite_end else far, background=float(white_background))
        seeds = [None] * 4 if seed is None else [4 * seed + i for i in range(4)]

        def field(name, seed):
            widths = (num_layers, hidden_dim, skips)
            return RadianceField(*widths, density_activation, density_noise, seed, name=name)

        inputs = {name: keras.Input((3,), name=name) for name in ("directions", "origins")}
        origins, directions, views = Rays(ndc, name="rays")(inputs["origins"], inputs["directions"])
        directions_encoded = EncodedDirections(direction_frequencies, name="encoded_directions")
        views = directions_encoded(views) if view_dependent else None  # (rays, channels)
        points_encoded = EncodedPoints(point_frequencies, name="encoded_points")
        distances = CoarseDistances(near, far, num_samples, perturb, seeds[0], name="coarse_distances")(origins)
        points = points_encoded(origins, directions, distances)  # (rays, num_samples, channels)
        colors, density = field("coarse", seeds[1])(points, views)  # (rays, num_samples, 3), (rays, num_samples)
        seen = Composite(**end, name="coarse_composite")(colors, density, distances, directions)
        outputs = {}
        if num_fine_samples:
            outputs["coarse_rgb"] = seen["rgb"]
            further = FineDistances(num_fine_samples, perturb, seeds[2], name="fine_distances")
            distances = further(distances, seen["weights"])  # (rays, num_samples + num_fine_samples)
            points = points_encoded(origins, directions, distances)
            colors, density = field("fine", seeds[3])(points, views)
            seen = Composite(**end, name="fine_composite")(colors, density, distances, directions)
        outputs |= {name: seen[name] for name in ("depth", "opacity", "rgb")}
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)

    @property
    def fields(self) -> dict[str, RadianceField]:
        """The networks by name: `coarse`, and `fine` if there is one."""
        return {name: self.get_layer(name) for name in (("coarse", "fine") if self.num_fine_samples else ("coarse",))}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The mean squared error of the colors of each network, added. `y` is float, `(rays, 3)`, in [0, 1]."""
        losses = 0.0
        for name in ("coarse_rgb", "rgb") if self.num_fine_samples else ("rgb",):
            losses += ops.mean(ops.square(y_pred[name] - ops.cast(y, "float32")), axis=-1)  # (rays,)
        if sample_weight is not None:
            losses = losses * ops.cast(sample_weight, "float32")
        return ops.mean(losses)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return super().compute_metrics(x, y, y_pred["rgb"], sample_weight)

    def render(self, camera_to_world, focal: float, size, center=None, pixel_offset: float = 0.5, chunk: int = 4096):
        """Images of the scene, `chunk` rays at a time: so the memory does not grow with the image.

        A turntable is `model.render(keras_dl.ops.orbit_cameras(60, radius=4.0, height=2.0), focal, size)`.

        Args:
            camera_to_world: float, `(3, 4)` or `(4, 4)`, or several, `(n, 3, 4)`: in the convention "opengl".
            focal: float. The focal length in pixels.
            size: `(height, width)`, int.
            center: `(x, y)`, float: the principal point in pixels. Default: the middle of the image.
            pixel_offset: float. Where in a pixel its ray goes through: as of `keras_dl.ops.camera_rays`.
            chunk: int. Rays that are computed at once.

        Returns:
            dict of NumPy arrays of float32, each with the axis of the cameras first if there are several: `"rgb"`,
            `(height, width, 3)`, in [0, 1]; `"depth"` and `"opacity"`, `(height, width)`.

        Raises:
            ValueError: if a shape, a size or a focal length does not fit.
        """
        check_size("chunk", chunk)
        cameras = np.asarray(camera_to_world, "float32")
        if cameras.ndim > 2:
            views = [self.render(camera, focal, size, center, pixel_offset, chunk) for camera in cameras]
            return {name: np.stack([view[name] for view in views]) for name in views[0]}
        rays = [np.reshape(x, (-1, 3)) for x in camera_rays(cameras, focal, size, center, pixel_offset)]
        count = len(rays[0])
        seen = []
        for start in range(0, count, chunk):
            # One shape, so that one graph serves all. Rows after the last ray repeat it.
            rows = np.minimum(np.arange(start, start + min(chunk, count)), count - 1)
            outputs = self._seen(*(x[rows] for x in rays))
            seen.append({name: x.numpy()[: count - start] for name, x in outputs.items()})
        joined = {name: np.concatenate([part[name] for part in seen]) for name in seen[0]}
        return {name: x.reshape(*size, *x.shape[1:]) for name, x in joined.items()}

    def _seen(self, origins, directions):
        # Not an attribute: TensorFlow would write it into every SavedModel.
        graphs = self.__dict__.setdefault("_graphs", {})
        if "render" not in graphs:
            graphs["render"] = tf.function(self._render, autograph=False, reduce_retracing=True)
        return graphs["render"](tf.constant(origins), tf.constant(directions))

    def _render(self, origins, directions):
        outputs = self({"directions": directions, "origins": origins}, training=False)
        return {name: outputs[name] for name in ("rgb", "depth", "opacity")}

    def load_torch(self, coarse: Weights, fine: Weights | None = None) -> None:
        """Takes the weights of nerf-pytorch. The model then renders the same.

        Args:
            coarse: mapping from torch's names to NumPy arrays, or the path of a `.safetensors` file. In a checkpoint of
                that repository they are under `network_fn_state_dict`.
            fine: the same, of the fine network: `network_fine_state_dict`. None if the model has none.

        Raises:
            ValueError: if entries are missing, unknown or of another shape, or if there is a fine network and no
                weights for it, or the reverse. The model stays as it was.
        """
        nerf_weights.load_torch(self, coarse, fine)

    def load_keras(self, coarse, fine=None) -> None:
        """Takes the weights of the authors' code: what `get_weights` of its networks returned.

        It keeps them in `model_200000.npy` and `model_fine_200000.npy`, which hold pickled objects, so that opening
        them can run code: `list(np.load(path, allow_pickle=True))` where that is no risk.

        Args:
            coarse: list of arrays: kernel and bias of each layer, the color before the density.
            fine: the same, of the fine network. None if the model has none.

        Raises:
            ValueError: as of `load_torch`; and if the lists have other numbers of arrays, or the model does not depend
                on directions, which the authors' code keeps in another order.
        """
        nerf_weights.load_keras(self, coarse, fine)

    def serving_signatures(self, batch_size: int = 1) -> dict[str, Signature]:
        """The entry points of a device, all of them deterministic: dict of `Signature`.

        - `render_rays(directions, origins: float32, (served_rays, 3))` returns `{"rgb": float32, (served_rays, 3);
          "depth", "opacity": float32, (served_rays,)}`, as `call` does. The number of rays is not `batch_size`.
        - `render_image(camera_to_world: float32, (batch_size, 3, 4); focal: float32, (batch_size, 1))`, the focal
          length in pixels of the served image, returns the same with `(batch_size, *served_size)` before the channels.
        - `coarse` and `fine`, the networks alone: `(directions: float32, (served_rays, channels); points: float32,
          (served_rays, n, channels))`, both encoded by `keras_dl.ops.frequency_encoding`, return `{"colors": float32,
          (served_rays, n, 3); "density": float32, (served_rays, n)}`. A file of these in int8 computes in integers
          throughout; `render_rays` needs its other layers in float32: `float_layers`. Without view directions they take
          points only.
        """

        def render_image(camera_to_world, focal):
            origins, directions = camera_rays(camera_to_world, focal[:, 0], self.served_size)
            seen = self._render(ops.reshape(origins, (-1, 3)), ops.reshape(directions, (-1, 3)))
            shape = (batch_size, *self.served_size)
            return {name: ops.reshape(x, (*shape, *x.shape[1:])) for name, x in seen.items()}

        def network(field):
            def evaluate(points, directions=None):
                colors, density = field(points, directions)
                return {"colors": colors, "density": density}

            return evaluate

        def inputs(**shapes):
            return {name: keras.KerasTensor(shape, "float32", name=name) for name, shape in shapes.items()}

        rays = self.served_rays
        signatures = {
            "render_rays": Signature(
                lambda origins, directions: self._render(origins, directions),
                inputs(directions=(rays, 3), origins=(rays, 3)),
            ),
            "render_image": Signature(render_image, inputs(camera_to_world=(batch_size, 3, 4), focal=(batch_size, 1))),
        }
        for name, field in self.fields.items():
            count = self.num_samples + (self.num_fine_samples if name == "fine" else 0)
            shapes = dict(points=(rays, count, 3 + 6 * self.point_frequencies))
            if self.view_dependent:
                shapes["directions"] = (rays, 3 + 6 * self.direction_frequencies)
            signatures[name] = Signature(network(field), inputs(**dict(sorted(shapes.items()))))
        return signatures
