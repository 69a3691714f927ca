"""Objects that are composed of boxes, cylinders, cones and rings, as points on their surfaces, each with its part."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from keras_dl.recipes.datasets.builder import Builder

SEED = 2026
LICENCE = "Apache-2.0: made by this package"
# The streams of the splits; RandomState's is frozen by NumPy's policy, that of a Generator may change with a version.
STREAMS = {"train": 0, "test": 1}
PARTS = {
    "chair": ("seat", "back", "leg"),
    "hammer": ("handle", "head"),
    "lamp": ("base", "pole", "shade"),
    "mug": ("body", "handle"),
    "rocket": ("body", "nose", "fin"),
    "table": ("top", "leg"),
}
LABELS = tuple(f"{kind}/{part}" for kind, parts in PARTS.items() for part in parts)


class Surface(NamedTuple):
    """A piece of a surface.

    Attributes:
        area: float.
        sample: `sample(random, n)` returns n points, spread evenly over the piece: float `(n, 3)`. y points up.
    """

    area: float
    sample: Callable


def box(center, size) -> list[Surface]:
    """The six sides of a box: its center, and its sides along x, y and z."""
    center, size = np.array(center, float), np.array(size, float)

    def side(axis, sign):
        def sample(random, n):
            points = random.uniform(-0.5, 0.5, (n, 3))
            points[:, axis] = sign / 2
            return center + points * size

        return Surface(np.prod(np.delete(size, axis)), sample)

    return [side(axis, sign) for axis in range(3) for sign in (-1, 1)]


def disc(center, radius) -> Surface:
    """A level disc."""

    def sample(random, n):
        distance, angle = radius * np.sqrt(random.uniform(size=n)), random.uniform(0, 2 * np.pi, n)
        return np.array(center) + np.stack([distance * np.cos(angle), np.zeros(n), distance * np.sin(angle)], -1)

    return Surface(np.pi * radius**2, sample)


def cone(bottom, height, radius, top_radius) -> Surface:
    """The side of an upright cone, of a frustum, or of a cylinder. `bottom` is the middle of its lower end."""
    slant = np.hypot(height, radius - top_radius)

    def sample(random, n):
        u, angle = random.uniform(size=n), random.uniform(0, 2 * np.pi, n)
        # The distance from the axis has a density that grows with itself.
        distance = np.sqrt(radius**2 + u * (top_radius**2 - radius**2))
        rise = u if radius == top_radius else (distance - radius) / (top_radius - radius)
        points = np.stack([distance * np.cos(angle), rise * height, distance * np.sin(angle)], -1)
        return np.array(bottom) + points

    return Surface(np.pi * (radius + top_radius) * slant, sample)


def cylinder(bottom, height, radius, top=True) -> list[Surface]:
    """An upright cylinder with its lower end, and its upper end if `top`."""
    x, y, z = bottom
    ends = [disc((x, y, z), radius)] + ([disc((x, y + height, z), radius)] if top else [])
    return [cone(bottom, height, radius, radius), *ends]


def half_ring(center, radius, thickness) -> Surface:
    """The right half of an upright ring: `radius` to the middle of its tube, and the tube's own radius."""

    def sample(random, n):
        turn = random.uniform(-np.pi / 2, np.pi / 2, n)
        around = np.empty(0)
        while len(around) < n:  # the outer half of the tube is longer
            angle = random.uniform(0, 2 * np.pi, 2 * n + 8)
            kept = random.uniform(0, radius + thickness, len(angle)) < radius + thickness * np.cos(angle)
            around = np.concatenate([around, angle[kept]])
        around = around[:n]
        distance = radius + thickness * np.cos(around)
        points = [distance * np.cos(turn), distance * np.sin(turn), thickness * np.sin(around)]
        return np.array(center) + np.stack(points, -1)

    return Surface(2 * np.pi**2 * radius * thickness, sample)


def _legs(random, width, depth, height):
    """Four posts under the corners of a board."""
    thick = random.uniform(0.06, 0.12)
    x, z = (width - thick) / 2, (depth - thick) / 2
    corners = [(i * x, height / 2, k * z) for i in (-1, 1) for k in (-1, 1)]
    return [side for corner in corners for side in box(corner, (thick, height, thick))]


def _table(random):
    width, depth, height = random.uniform(0.9, 1.6), random.uniform(0.7, 1.0), random.uniform(0.5, 0.9)
    board = random.uniform(0.05, 0.12)
    if random.uniform() < 0.5:
        return [box((0, height + board / 2, 0), (width, board, depth)), _legs(random, width, depth, height)]
    foot = cylinder((0, 0, 0), 0.05, random.uniform(0.25, 0.4))
    post = cone((0, 0.05, 0), height - 0.05, 0.06, random.uniform(0.05, 0.12))
    return [cylinder((0, height, 0), board, depth / 1.6), [*foot, post]]


def _chair(random):
    width, depth, height = random.uniform(0.5, 0.7), random.uniform(0.5, 0.7), random.uniform(0.35, 0.6)
    back, thick = random.uniform(0.4, 0.8), random.uniform(0.05, 0.1)
    seat = box((0, height + thick / 2, 0), (width, thick, depth))
    behind = box((0, height + thick + back / 2, -(depth - thick) / 2), (width, back, thick))
    return [seat, behind, _legs(random, width, depth, height)]


def _lamp(random):
    height, radius = random.uniform(0.8, 1.5), random.uniform(0.2, 0.4)
    shade, wide = random.uniform(0.25, 0.45), random.uniform(0.25, 0.45)
    base = cylinder((0, 0, 0), random.uniform(0.04, 0.1), radius)
    pole = [cone((0, 0.04, 0), height, 0.03, 0.03)]
    return [base, pole, [cone((0, height - shade / 2, 0), shade, wide, wide * random.uniform(0.4, 0.9))]]


def _mug(random):
    height, radius = random.uniform(0.6, 1.1), random.uniform(0.3, 0.45)
    ring = height * random.uniform(0.22, 0.36)
    handle = half_ring((radius, height * random.uniform(0.45, 0.55), 0), ring, random.uniform(0.04, 0.08))
    return [cylinder((0, 0, 0), height, radius, top=False), [handle]]


def _rocket(random):
    height, radius = random.uniform(0.9, 1.6), random.uniform(0.12, 0.25)
    nose = cone((0, height, 0), random.uniform(0.25, 0.6), radius, 0.0)
    span, tall, count = random.uniform(0.15, 0.35), random.uniform(0.2, 0.45), random.randint(3, 5)
    fins = []
    for angle in 2 * np.pi * np.arange(count) / count:
        turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        for area, sample in box((radius + span / 2, tall / 2, 0), (span, tall, 0.03)):
            fins.append(Surface(area, lambda random, n, sample=sample, turn=turn: sample(random, n) @ turn))
    return [cylinder((0, 0, 0), height, radius, top=False), [nose], fins]


def _hammer(random):
    height, radius = random.uniform(0.9, 1.5), random.uniform(0.04, 0.08)
    length, thick = random.uniform(0.35, 0.7), random.uniform(0.12, 0.22)
    shift = random.uniform(-0.15, 0.15)
    return [cylinder((0, 0, 0), height, radius), box((shift, height, 0), (length, thick, thick))]


SHAPES = {"chair": _chair, "hammer": _hammer, "lamp": _lamp, "mug": _mug, "rocket": _rocket, "table": _table}


def draw_object(random, kind, num_points):
    """A random object of a kind.

    Args:
        random: `np.random.RandomState`.
        kind: str, a key of `PARTS`.
        num_points: int.

    Returns:
        points: float32, `(num_points, 3)`, in the unit ball, y up, turned about the vertical axis at random.
        parts: int, `(num_points,)`: places in `PARTS[kind]`. A part has as many points as its surface asks for.
    """
    pieces = [(part, piece) for part, surfaces in enumerate(SHAPES[kind](random)) for piece in surfaces]
    areas = np.array([piece.area for _, piece in pieces])
    counts = random.multinomial(num_points, areas / areas.sum())
    points = np.concatenate([piece.sample(random, n) for (_, piece), n in zip(pieces, counts, strict=True)])
    parts = np.repeat([part for part, _ in pieces], counts)
    angle = random.uniform(0, 2 * np.pi)
    points = points @ np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    points -= points.mean(0)
    points /= np.linalg.norm(points, axis=-1).max()
    order = random.permutation(num_points)  # the place of a point in its cloud must not tell its part
    return points[order].astype(np.float32), parts[order]


class PrimitiveParts(Builder):
    """Composed objects with parts."""

    name = "primitive_parts"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Six kinds, 15 parts, 512 points."}
    TITLE = "Six kinds of objects of boxes, cylinders, cones and rings: points with parts"
    LICENCE = LICENCE
    SOURCE = None
    ORIGIN = "formula"
    EXAMPLES = {"train": 1200, "test": 300}
    POINTS = 512

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"""
            Generated, from the seed {SEED}: objects of {len(PARTS)} kinds ({", ".join(PARTS)}), equally many of each,
            of boxes, cylinders, cones and half rings of random proportions. {self.POINTS} points lie evenly on their
            surfaces, and each has one of {len(LABELS)} parts as its label. An object is turned about the vertical axis
            y at random, moved so that the mean of its points is the origin, and scaled to the unit ball.
            License: {self.LICENCE}.
            """,
            features=tfds.features.FeaturesDict(
                {
                    "points": tfds.features.Tensor(shape=(self.POINTS, 3), dtype=np.float32),
                    "category": tfds.features.ClassLabel(names=list(PARTS)),
                    "part": tfds.features.Sequence(tfds.features.ClassLabel(names=list(LABELS)), length=self.POINTS),
                }
            ),
            homepage="https://arxiv.org/abs/1612.00593",
            license=self.LICENCE,
            metadata=tfds.core.MetadataDict(source="formula", seed=SEED),
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self.EXAMPLES}

    def _generate_examples(self, split):
        random = np.random.RandomState([SEED, STREAMS[split]])
        kinds = list(PARTS)
        for i in range(self.EXAMPLES[split]):
            kind = kinds[i % len(kinds)]
            points, parts = draw_object(random, kind, self.POINTS)
            first = LABELS.index(f"{kind}/{PARTS[kind][0]}")
            yield i, {"points": points, "category": kind, "part": (first + parts).tolist()}
