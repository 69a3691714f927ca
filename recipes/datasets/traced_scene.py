"""Views of a scene of a few objects, made by a ray tracer that is a formula: shapes, texture, shadow, highlights."""

from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from keras_dl.ops.rays import camera_rays, look_at
from keras_dl.recipes.datasets.builder import Builder

LICENCE = "Apache-2.0: made by this package"
LIGHT = np.array([0.45, -0.35, 0.82]) / np.linalg.norm([0.45, -0.35, 0.82])  # toward the sun
AMBIENT, SHADOW_BIAS = 0.35, 1e-4
TABLE = (0.0, 1.35)  # height and radius of the disc that all stands on
BOTTOM = -0.12  # of the disc


class Hit(NamedTuple):
    """Where rays meet a surface.

    Attributes:
        distance: float, `(n,)`, in lengths of the direction; infinite where there is none.
        normal: float, `(n, 3)`, outward.
    """

    distance: np.ndarray
    normal: np.ndarray


def _first(near, far, ok):
    """The nearer of two distances that is positive."""
    distance = np.where(near > 1e-6, near, far)
    return np.where(ok & (distance > 1e-6), distance, np.inf)


def sphere(center, radius):
    """`hit(origins, directions) -> Hit` of a sphere."""

    def hit(origins, directions):
        start = origins - center
        a, b = (directions**2).sum(-1), (start * directions).sum(-1)
        root = b * b - a * ((start**2).sum(-1) - radius**2)
        half = np.sqrt(np.maximum(root, 0))
        distance = _first((-b - half) / a, (-b + half) / a, root > 0)
        places = start + _finite(distance)[:, None] * directions
        return Hit(distance, places / radius)

    return hit


def box(center, size, angle):
    """The same of a box that is turned about the vertical by `angle`."""
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])  # world to box
    half = np.array(size) / 2

    def hit(origins, directions):
        start, way = (origins - center) @ turn.T, directions @ turn.T
        with np.errstate(divide="ignore"):
            first, second = (-half - start) / way, (half - start) / way
        enter, leave = np.minimum(first, second), np.maximum(first, second)
        near, far = enter.max(-1), leave.min(-1)
        distance = _first(near, far, near < far)
        places = start + _finite(distance)[:, None] * way
        axis = np.abs(places / half).argmax(-1)
        normal = np.eye(3)[axis] * np.sign(np.take_along_axis(places, axis[:, None], -1))
        return Hit(distance, normal @ turn)

    return hit


def cylinder(center, radius, bottom, top):
    """The same of an upright cylinder with both ends. `center` is `(x, y)`."""

    def hit(origins, directions):
        start, way = origins[:, :2] - center, directions[:, :2]
        a, b = np.maximum((way**2).sum(-1), 1e-12), (start * way).sum(-1)
        root = b * b - a * ((start**2).sum(-1) - radius**2)
        half = np.sqrt(np.maximum(root, 0))
        with np.errstate(divide="ignore"):
            low, high = (bottom - origins[:, 2]) / directions[:, 2], (top - origins[:, 2]) / directions[:, 2]
        enter, leave = np.minimum(low, high), np.maximum(low, high)
        near, far = np.maximum((-b - half) / a, enter), np.minimum((-b + half) / a, leave)
        distance = _first(near, far, (root > 0) & (near < far))
        place = start + _finite(distance)[:, None] * way
        flat = (place**2).sum(-1) < (radius - 1e-6) ** 2
        side = np.concatenate([place / radius, np.zeros((len(place), 1))], -1)
        height = origins[:, 2] + _finite(distance) * directions[:, 2]
        end = np.stack([0 * height, 0 * height, np.where(height > (bottom + top) / 2, 1.0, -1.0)], -1)
        return Hit(distance, np.where(flat[:, None], end, side))

    return hit


def _finite(distance):
    return np.where(np.isfinite(distance), distance, 0.0)


# What hits it, its two colors, the side of the squares of its texture (0: stripes by height), shininess.
OBJECTS = (
    (cylinder((0.0, 0.0), TABLE[1], BOTTOM, TABLE[0]), (0.86, 0.82, 0.72), (0.35, 0.42, 0.52), 0.45, 0.15),
    (sphere((0.45, -0.35, 0.42), 0.42), (0.84, 0.16, 0.14), (0.84, 0.16, 0.14), 1.0, 0.75),
    (box((-0.5, 0.35, 0.35), (0.6, 0.5, 0.7), 0.5), (0.16, 0.45, 0.85), (0.95, 0.9, 0.3), 0.25, 0.1),
    (cylinder((0.45, 0.65), 0.22, 0.0, 0.85), (0.2, 0.65, 0.32), (0.92, 0.95, 0.9), 0.0, 0.4),
    (sphere((-0.45, -0.6, 0.24), 0.24), (0.95, 0.55, 0.12), (0.5, 0.15, 0.5), 0.16, 0.5),
)


def nearest(origins, directions):
    """The first surface on each ray: its distance, normal, and the number of its object, -1 for none."""
    hits = [hit(origins, directions) for hit, *_ in OBJECTS]
    distances = np.stack([hit.distance for hit in hits])  # (objects, n)
    first = distances.argmin(0)
    rows = np.arange(len(origins))
    distance = distances[first, rows]
    normal = np.stack([hit.normal for hit in hits])[first, rows]
    return distance, normal, np.where(np.isfinite(distance), first, -1)


def trace(origins, directions):
    """Colors of rays: texture, light of the sun and of the sky, shadows, and highlights that move with the viewer.

    Args:
        origins, directions: float, `(n, 3)`.

    Returns:
        colors: float64, `(n, 3)`, in [0, 1]. White where there is nothing.
        distance: float64, `(n,)`, in lengths of the direction; infinite where there is nothing.
    """
    distance, normal, number = nearest(origins, directions)
    colors = np.ones((len(origins), 3))
    seen = number >= 0
    places, normal, number = (origins + _finite(distance)[:, None] * directions)[seen], normal[seen], number[seen]
    first, second = (np.array([row[i] for row in OBJECTS])[number] for i in (1, 2))
    side, shine = (np.array([row[i] for row in OBJECTS])[number] for i in (3, 4))
    squares = np.floor(places / np.where(side, side, 1.0)[:, None] + 0.25).astype(int).sum(-1)
    stripes = np.floor(places[:, 2] / 0.17).astype(int)
    albedo = np.where((np.where(side > 0, squares, stripes) % 2 == 0)[:, None], first, second)
    lifted = places + SHADOW_BIAS * normal
    lit = (nearest(lifted, np.broadcast_to(LIGHT, lifted.shape))[2] < 0) * np.maximum(normal @ LIGHT, 0)
    view = -directions[seen] / np.linalg.norm(directions[seen], axis=-1, keepdims=True)
    half = view + LIGHT
    half /= np.linalg.norm(half, axis=-1, keepdims=True)
    gloss = np.where(lit > 0, np.maximum((normal * half).sum(-1), 0) ** 24, 0.0)
    sky = AMBIENT * (0.75 + 0.25 * normal[:, 2])
    colors[seen] = albedo * (sky + (1 - AMBIENT) * lit)[:, None] + (shine * gloss)[:, None]
    return np.clip(colors, 0, 1), distance


def draw_view(camera_to_world, focal, size, samples=3):
    """A view of the scene.

    Args:
        camera_to_world: float, `(3, 4)`, in the convention "opengl".
        focal: float, in pixels.
        size: int. Height and width.
        samples: int. A pixel is the mean of `samples x samples` rays.

    Returns:
        image: uint8, `(size, size, 3)`.
        depth: float32, `(size, size)`: the distance, along the axis of the camera, of what the middle of the pixel
            shows. Infinite where there is nothing.
    """
    fine = size * samples
    origins, directions = (
        np.reshape(x, (-1, 3)).astype("float64") for x in _rays(camera_to_world, focal * samples, fine)
    )
    colors = trace(origins, directions)[0].reshape(size, samples, size, samples, 3).mean((1, 3))
    origins, directions = (np.reshape(x, (-1, 3)).astype("float64") for x in _rays(camera_to_world, focal, size))
    depth = nearest(origins, directions)[0].reshape(size, size)
    return np.rint(255 * colors).astype("uint8"), depth.astype("float32")


def _rays(camera_to_world, focal, size):
    return camera_rays(camera_to_world, focal, (size, size))


def cameras(num_views, turn):
    """Cameras on the upper half of a sphere of radius 4, spread evenly by the golden angle, that look at the scene.

    Args:
        num_views: int.
        turn: float, in radians. Where the first one is.

    Returns:
        float32, `(num_views, 3, 4)`.
    """
    number = np.arange(num_views)
    height = 0.12 + 0.76 * (number + 0.5) / num_views  # sine of the elevation
    angle = turn + number * np.pi * (3 - np.sqrt(5))
    across = np.sqrt(1 - height**2)
    target = np.array([0.0, 0.0, 0.2])
    return look_at(target + 4.0 * np.stack([across * np.cos(angle), across * np.sin(angle), height], -1), target)


class TracedScene(Builder):
    """Views of one scene from known places."""

    name = "traced_scene"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Five objects, 64x64 pixels."}
    TITLE = "Views of a ray-traced scene of five objects, 64x64, with cameras and depth"
    LICENCE = LICENCE
    SOURCE = None
    ORIGIN = "formula"
    EXAMPLES = {"train": 60, "validation": 6, "test": 12}
    SIZE, FOCAL = 64, 80.0
    TURNS = {"train": 0.0, "validation": 1.0, "test": 2.0}

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"""
            Generated: two spheres, a box and a cylinder on a disc, before white, by ray tracing with textures, the
            light of a sun and of a sky, shadows, and highlights that move with the viewer. {self.SIZE}x{self.SIZE}
            pixels, each the mean of 9 rays; a focal length of {self.FOCAL} pixels. The cameras are on the upper half of
            a sphere of radius 4, those of a split evenly by the golden angle. `camera_to_world` has the axes right, up,
            backward. `depth` is along the axis of the camera, infinite before the background. z is up. License:
            {self.LICENCE}.
            """,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(self.SIZE, self.SIZE, 3)),
                    "depth": tfds.features.Tensor(shape=(self.SIZE, self.SIZE), dtype=np.float32),
                    "camera_to_world": tfds.features.Tensor(shape=(3, 4), dtype=np.float32),
                    "focal": tfds.features.Tensor(shape=(), dtype=np.float32),
                }
            ),
            homepage="https://arxiv.org/abs/2003.08934",
            license=self.LICENCE,
            metadata=tfds.core.MetadataDict(source="formula"),
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self.EXAMPLES}

    def _generate_examples(self, split):
        for i, camera in enumerate(cameras(self.EXAMPLES[split], self.TURNS[split])):
            image, depth = draw_view(camera, self.FOCAL, self.SIZE)
            yield i, {"image": image, "depth": depth, "camera_to_world": camera, "focal": np.float32(self.FOCAL)}
