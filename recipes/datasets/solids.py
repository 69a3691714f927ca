"""Solid shapes with their surface and with points that are inside or outside: random objects, and shapes by formula."""

import io
import itertools
import zipfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from keras_dl.ops.meshes import is_inside, merge_vertices, mesh_volume, open_edges, sample_outer_surface
from keras_dl.recipes.datasets.builder import Builder
from keras_dl.recipes.datasets.wheels import DataError, Wheel

SEED = 2026
SIDE = 1.1  # of the cube of the points, around a shape whose longest side is 1
CLOUD, POINTS = 2048, 8192
# The streams of the splits; RandomState's is frozen by NumPy's policy, that of a Generator may change with a version.
STREAMS = {"train": 0, "validation": 1, "test": 2}
_LEVELS = 2**16  # places of the points along each side of the cube

PYBULLET = Wheel(
    "pybullet-3.2.7-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    sha256="5d858abf7c12a21ef3ed351cf81dac1b5e486ec25c9ab59bfc84beb89034edff",
    licence="zlib",
    bytes=103196742,
)
MEMBER = "pybullet_data/random_urdfs/{0:03d}/{0:03d}.obj"
OBJECTS = 1000
PAPER = """
@inproceedings{mescheder2019occupancy,
  title={Occupancy Networks: Learning 3D Reconstruction in Function Space},
  author={Mescheder, Lars and Oechsle, Michael and Niemeyer, Michael and Nowozin, Sebastian and Geiger, Andreas},
  booktitle={IEEE Conference on Computer Vision and Pattern Recognition},
  year={2019}
}
"""


def places(numbers):
    """The points that the data sets keep as whole numbers: float32, in the cube of side 1.1 around the origin.

    Args:
        numbers: uint16, any shape.

    Example:

    >>> places(np.array([0, 65535], "uint16")).tolist()
    [-0.5499916076660156, 0.5499916076660156]
    """
    return (SIDE * ((np.asarray(numbers, "float64") + 0.5) / _LEVELS - 0.5)).astype("float32")


def normalized(vertices):
    """Vertices moved and scaled so that their bounding box is around the origin and its longest side is 1."""
    low, high = np.min(vertices, 0), np.max(vertices, 0)
    return (np.asarray(vertices) - (low + high) / 2) / np.max(high - low)


def parse_obj(text: str):
    """Vertices and faces of a Wavefront OBJ file, polygons as fans of triangles; other lines are skipped.

    Returns:
        `(vertices, faces)`, float64 `(n, 3)` and int64 `(m, 3)`.

    Raises:
        DataError: if a line cannot be read.
    """
    vertices, faces = [], []
    for number, line in enumerate(io.StringIO(text), 1):
        kind, *words = line.split() or [""]
        try:
            if kind == "v":
                vertices.append([float(word) for word in words[:3]])
            elif kind == "f":
                first, *others = (int(word.split("/")[0]) - 1 for word in words)
                faces += [[first, a, b] for a, b in itertools.pairwise(others)]
        except ValueError as error:
            raise DataError(f"Line {number} of an OBJ file is not a vertex or a face: {line.strip()!r}.") from error
    return np.array(vertices, float).reshape(-1, 3), np.array(faces, int).reshape(-1, 3)


def read_objects(count=OBJECTS):
    """The random objects whose inside is defined, in the order of the wheel.

    Returns:
        list of `(number, vertices, faces)`, normalized. One object is empty; it is left out.

    Raises:
        DataError: if the wheel is not available.
    """
    found = []
    with zipfile.ZipFile(PYBULLET.fetch()) as archive:
        for number in range(count):
            vertices, faces = parse_obj(archive.read(MEMBER.format(number)).decode())
            if not len(faces) or not np.isfinite(vertices).all():
                continue
            vertices, faces = merge_vertices(vertices, faces)
            if not len(open_edges(faces)) and mesh_volume(vertices, faces) > 0:
                found.append((number, normalized(vertices).astype("float32"), faces.astype("int32")))
    return found


class _Solids(Builder, skip_registration=True):
    """Sets of solid shapes with the same features."""

    LICENCE = ""

    def _features(self):
        tensor = tfds.features.Tensor
        return tfds.features.FeaturesDict(
            {
                "number": np.int64,
                "cloud": tensor(shape=(CLOUD, 3), dtype=np.float32),
                "normals": tensor(shape=(CLOUD, 3), dtype=np.float32),
                "points": tensor(shape=(POINTS, 3), dtype=np.uint16),
                "occupancies": tensor(shape=(POINTS // 8,), dtype=np.uint8),
                "vertices": tensor(shape=(None, 3), dtype=np.float32),
                "faces": tensor(shape=(None, 3), dtype=np.int32),
            }
        )


_ABOUT = f"""
The bounding box of a shape is around the origin, and its longest side is 1. `cloud` has {CLOUD:,} points that are
spread evenly over its surface, and `normals` points outwards there. `points` has {POINTS:,} points that are spread
evenly over the cube of side {SIDE} around the origin, as whole numbers from 0 to 65,535 along each side
(`keras_dl.recipes.datasets.solids.places` turns them into coordinates). `occupancies` says which are inside: one bit
each, the first point in the highest bit, as np.packbits writes them.
"""


class RandomObjects(_Solids):
    """Random objects of robotics, which are unions of convex pieces."""

    name = "random_objects"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "999 objects."}
    TITLE = "999 random watertight objects: surface, normals, and points inside and outside"
    LICENCE = "zlib (pybullet); the objects have no license of their own"
    SOURCE = PYBULLET
    EXAMPLES = {"train": 840, "validation": 60, "test": 99}

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"""
            999 objects of random shape, made for the grasping of robots, as triangle meshes: unions of convex pieces,
            half of them of less than 362 triangles. Read from {MEMBER.format(0)} and so on in the wheel
            {PYBULLET.filename}; of its {OBJECTS:,} objects one is empty. The source has no split: here
            {self.EXAMPLES["validation"]} objects for validation and {self.EXAMPLES["test"]} for the test are drawn with
            the seed {SEED}. {_ABOUT} A point is inside if the winding number of the mesh is at least one half. What of
            a piece's surface lies inside another piece is not in `cloud`. License: {self.LICENCE}.
            """,
            features=self._features(),
            homepage="https://github.com/bulletphysics/bullet3",
            citation=PAPER,
            license=self.LICENCE,
            metadata=tfds.core.MetadataDict(source=PYBULLET.requirement, sha256=PYBULLET.sha256, seed=SEED),
        )

    def _split_generators(self, dl_manager):
        objects = read_objects()
        order = np.random.RandomState(SEED).permutation(len(objects))
        ends = np.cumsum(list(self.EXAMPLES.values()))
        return {
            split: self._generate_examples([objects[i] for i in sorted(rows)])
            for split, rows in zip(self.EXAMPLES, np.split(order, ends)[:-1], strict=True)
        }

    def _generate_examples(self, objects):
        for number, vertices, faces in objects:
            yield number, {"number": number, **described(vertices, faces, np.random.RandomState([SEED, number]))}


def described(vertices, faces, random):
    """The features of a watertight mesh that is normalized.

    Args:
        vertices: float32, `(n, 3)`.
        faces: int32, `(m, 3)`.
        random: `np.random.RandomState`.

    Raises:
        ValueError: if the mesh is not watertight.
    """
    points = random.randint(0, _LEVELS, (POINTS, 3)).astype("uint16")
    occupied = is_inside(places(points), vertices, faces)
    cloud, normals = sample_outer_surface(vertices, faces, CLOUD, random)
    surface = dict(cloud=cloud, normals=normals, vertices=vertices, faces=faces)
    return dict(points=points, occupancies=np.packbits(occupied), **surface)


class Solid(NamedTuple):
    """A shape with a known distance.

    Attributes:
        kind: str.
        distance: function from points, float `(n, 3)`, to the signed distance to the surface, negative inside. (Of a
            drilled box it is exact near one surface only; its sign is always right.)
    """

    kind: str
    distance: Callable


def ball(radius, center=(0.0, 0.0, 0.0)):
    return lambda p: np.linalg.norm(p - np.array(center), axis=-1) - radius


def box(half):
    def distance(p):
        q = np.abs(p) - np.array(half)
        return np.linalg.norm(np.maximum(q, 0), axis=-1) + np.minimum(q.max(-1), 0)

    return distance


def cylinder(radius, half_height):
    """Around the z axis."""

    def distance(p):
        q = np.stack([np.hypot(p[:, 0], p[:, 1]) - radius, np.abs(p[:, 2]) - half_height], -1)
        return np.linalg.norm(np.maximum(q, 0), axis=-1) + np.minimum(q.max(-1), 0)

    return distance


def torus(radius, thickness):
    """Around the z axis: `radius` to the middle of its tube, and the tube's own radius."""
    return lambda p: np.hypot(np.hypot(p[:, 0], p[:, 1]) - radius, p[:, 2]) - thickness


def capsule(radius, half_height):
    """Around the z axis: all points nearer than `radius` to a segment."""

    def distance(p):
        rest = p[:, 2] - np.clip(p[:, 2], -half_height, half_height)
        return np.sqrt(p[:, 0] ** 2 + p[:, 1] ** 2 + rest**2) - radius

    return distance


def union(*distances):
    return lambda p: np.min([distance(p) for distance in distances], axis=0)


def difference(first, second):
    return lambda p: np.maximum(first(p), -second(p))


def draw_solid(random, kind):
    """A random `Solid` of a kind, of a size of about 1, in its own axes.

    Args:
        random: `np.random.RandomState`.
        kind: str, one of `KINDS`.
    """
    a, b, c = random.uniform(0.15, 0.5, 3)
    shapes = {
        "balls": lambda: union(ball(a), ball(b, (0.8 * (a + b), 0, 0))),
        "box": lambda: box((a, b, c)),
        "capsule": lambda: capsule(a, b),
        "cylinder": lambda: cylinder(a, b),
        "drilled box": lambda: difference(box((a, b, 0.2 + c)), cylinder(0.6 * min(a, b), 2.0)),
        "dumbbell": lambda: union(cylinder(0.4 * a, 0.5), ball(a, (0, 0, 0.5)), ball(0.6 * (a + b), (0, 0, -0.5))),
        "torus": lambda: torus(0.5, 0.3 * (a + 0.2)),
    }
    return Solid(kind, shapes[kind]())


KINDS = ("balls", "box", "capsule", "cylinder", "drilled box", "dumbbell", "torus")


def gradient(distance, points, step=1e-5):
    """The gradient of a function of points, by central differences: float `(n, 3)`."""
    moves = step * np.eye(3)
    return np.stack([distance(points + move) - distance(points - move) for move in moves], -1) / (2 * step)


def surface(distance, count, random, reach=1.5, shell=0.02):
    """Points on the surface of a solid, nearly evenly spread, and normals.

    Points are drawn evenly in a box around the solid. Those inside that are nearer than `shell` to the surface are
    moved onto it.

    Returns:
        `(points, normals)`, float64, each `(count, 3)`.
    """
    points = random.uniform(-reach, reach, (20_000, 3))
    points = points[distance(points) < 0.1]
    low, high = points.min(0), points.max(0)
    found = np.zeros((0, 3))
    while len(found) < count:
        points = random.uniform(low, high, (40_000, 3))
        depth = distance(points)
        found = np.concatenate([found, points[(depth < 0) & (depth > -shell)]])
    points = found[:count]
    for _ in range(3):
        points = points - distance(points)[:, None] * gradient(distance, points)
    normals = gradient(distance, points - 1e-4 * gradient(distance, points))  # not on an edge
    return points, normals / np.linalg.norm(normals, axis=-1, keepdims=True)


def draw_rotation(random):
    """A random rotation, evenly distributed: float `(3, 3)`."""
    matrix, triangle = np.linalg.qr(random.normal(size=(3, 3)))
    matrix = matrix * np.sign(np.diag(triangle))
    return matrix * np.sign(np.linalg.det(matrix))


class AnalyticSolids(_Solids):
    """Balls, boxes, rings and what is made of them."""

    name = "analytic_solids"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Seven kinds."}
    TITLE = "Seven kinds of solids with a known distance: surface, normals, and points inside and outside"
    LICENCE = "Apache-2.0: made by this package"
    SOURCE = None
    ORIGIN = "formula"
    EXAMPLES = {"train": 980, "validation": 70, "test": 105}

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"""
            Generated, from the seed {SEED}: solids of {len(KINDS)} kinds ({", ".join(KINDS)}), equally many of each, of
            random proportions and turned at random. {_ABOUT} A point is inside if its signed distance is negative.
            There are no meshes: `vertices` and `faces` are empty. License: {self.LICENCE}.
            """,
            features=self._features(),
            homepage="https://iquilezles.org/articles/distfunctions/",
            citation=PAPER,
            license=self.LICENCE,
            metadata=tfds.core.MetadataDict(source="formula", seed=SEED),
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self.EXAMPLES}

    def _generate_examples(self, split):
        for i in range(self.EXAMPLES[split]):
            random = np.random.RandomState([SEED, STREAMS[split], i])
            yield i, {"number": i, **described_solid(draw_solid(random, KINDS[i % len(KINDS)]), random)}


def described_solid(solid, random):
    """The features of a solid that is turned at random and normalized.

    Args:
        solid: `Solid`.
        random: `np.random.RandomState`.
    """
    turn = draw_rotation(random)
    wide, normals = surface(solid.distance, 4 * CLOUD, random)
    wide = wide @ turn
    low, high = wide.min(0), wide.max(0)
    middle, size = (low + high) / 2, np.max(high - low)
    points = random.randint(0, _LEVELS, (POINTS, 3)).astype("uint16")
    inside = solid.distance((places(points).astype("float64") * size + middle) @ turn.T) < 0
    return dict(
        points=points,
        occupancies=np.packbits(inside),
        cloud=((wide[:CLOUD] - middle) / size).astype("float32"),
        normals=(normals[:CLOUD] @ turn).astype("float32"),
        vertices=np.zeros((0, 3), "float32"),
        faces=np.zeros((0, 3), "int32"),
    )
