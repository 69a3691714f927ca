"""Pictures of detections: images with predicted boxes, classes and scores against the truth, the worst mistakes first.

A predicted box has the color of its class and a solid line; the truth is a thin, dashed, white line.
"""

from typing import NamedTuple

import numpy as np

from keras_dl.extras import require
from keras_dl.ops import box_iou, pairwise
from keras_dl.recipes.tasks.detection import serving
from keras_dl.recipes.training import pictures

SHOWN_SCORE = 0.25  # boxes below it are not drawn, and are no mistakes
MATCHING_IOU = 0.5


class Example(NamedTuple):
    """A test image with what is found in it.

    Attributes:
        image: `(height, width, 3)`, in [0, 255].
        boxes, classes, scores: `(n, 4)`, `(n,)` and `(n,)`: detections of at least `SHOWN_SCORE`.
        masks: `(n, height, width)`, bool, or probabilities; or None.
        truth: dict of `boxes` `(m, 4)` and `classes` `(m,)`.
        badness: float. How sure wrong detections are, and 1 for each object that is missed.
    """

    image: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    masks: np.ndarray | None
    truth: dict
    badness: float


def draw(axis, image, boxes, classes, scores=None, masks=None, labels=(), truth=None):
    """Draws an image with boxes.

    Args:
        axis: matplotlib axis.
        image: `(height, width, 3)`, in [0, 255].
        boxes: `(n, 4)`, xyxy in pixels.
        classes: `(n,)`, int.
        scores: `(n,)`, or None.
        masks: `(n, height, width)`, bool, or probabilities; or None.
        labels: sequence of str. Names of the classes; empty for their numbers.
        truth: `(m, 4)`, boxes that are drawn dashed, or None.
    """
    image = np.asarray(image, "float32")
    if masks is not None:
        for mask, number in zip(masks, classes, strict=True):
            image = np.where((np.asarray(mask) >= 0.5)[..., None], 0.5 * image + 0.5 * _rgb(_color(number)), image)
    pictures.show_image(axis, image)
    for box in () if truth is None else truth:
        _rectangle(axis, box, edgecolor="white", linewidth=0.8, linestyle=(0, (2, 2)), zorder=3)
    for i, (box, number) in enumerate(zip(boxes, classes, strict=True)):
        _rectangle(axis, box, edgecolor=_color(number), linewidth=1.2)
        text = str(labels[number]) if len(labels) else str(number)
        text = text if scores is None else f"{text} {100 * scores[i]:.0f}"
        look = dict(facecolor=_color(number), edgecolor="none", pad=0.6)
        axis.text(*(box[0], box[1], text), fontsize=5.5, color="white", va="bottom", clip_on=True, bbox=look, zorder=4)


def _rectangle(axis, box, **look):
    patches = require("matplotlib.patches", extra="recipes")
    left, top, right, bottom = (float(side) - 0.5 for side in box)  # pixel 0 is drawn from -0.5 to 0.5
    axis.add_patch(patches.Rectangle((left, top), right - left, bottom - top, fill=False, **look))


def _color(number):
    return pictures.COLORS[int(number) % len(pictures.COLORS)]


def _rgb(color):
    return np.float32([int(color[i : i + 2], 16) for i in (1, 3, 5)])


def examples(serve, data, signature="detect"):
    """All test images with what is found in them, in the order of the data: a list of `Example`.

    Args:
        serve: `serve(signature, **inputs)`, as recipes get it.
        data: `Data` of `keras_dl.recipes.tasks.detection.objects`.
        signature: str.
    """
    result = []
    for images, targets in data.test.as_numpy_iterator():
        found = serve(signature, images=images)
        for i, image in enumerate(images):
            kept = np.flatnonzero(np.asarray(found["scores"][i]) >= SHOWN_SCORE)
            kept = kept[kept < found["count"][i]]
            boxes, classes, scores = (np.asarray(found[name][i])[kept] for name in ("boxes", "classes", "scores"))
            masks = np.asarray(found["masks"][i])[kept] if "masks" in found else None
            judged = (targets["classes"][i] >= 0) & ~targets["crowd"][i]
            truth = {name: targets[name][i][judged] for name in ("boxes", "classes")}
            badness = mistakes(boxes, classes, scores, truth)
            result.append(Example(image, boxes, classes, scores, masks, truth, badness))
    return result


def mistakes(boxes, classes, scores, truth) -> float:
    """How wrong detections are: the sum of the scores of false ones, and 1 for each object that none finds.

    A detection finds the object of its class with the highest IoU, if that is at least 0.5 and no surer one found it.

    Args:
        boxes, classes, scores: detections, by falling score.
        truth: dict of `boxes` and `classes`.
    """
    free, wrong = np.ones(len(truth["classes"]), bool), 0.0
    iou = np.asarray(pairwise(box_iou, boxes, truth["boxes"])) if len(boxes) and len(free) else None
    for i, score in enumerate(scores):
        fits = np.where(free & (truth["classes"] == classes[i]), iou[i], 0.0) if iou is not None else np.zeros(1)
        if fits.max() >= MATCHING_IOU:
            free[fits.argmax()] = False
        else:
            wrong += float(score)
    return wrong + float(free.sum())


def worst(serve, data, count, signature="detect"):
    """The test images with the worst mistakes, the worst first: a list of at most `count` of `Example`.

    Args:
        serve, data, signature: as of `examples`.
        count: int.
    """
    found = examples(serve, data, signature)
    order = np.argsort([-example.badness for example in found], kind="stable")
    return [found[i] for i in order[:count]]


def grid(figure, serve, data, rows, columns, signature="detect"):
    """Draws the test images with the worst mistakes, and then others.

    Args:
        figure: matplotlib figure or subfigure.
        serve, data, signature: as of `examples`.
        rows, columns: int. Size of the grid.
    """
    found = examples(serve, data, signature)
    order = np.argsort([-example.badness for example in found], kind="stable")[: rows * columns]
    wrong = sum(example.badness > 0 for example in found)
    figure.suptitle(
        f"{len(found):,} test images, {wrong} with a mistake (the worst first); dashed: the truth",
        fontsize=11,
        color=pictures.INK,
        fontweight="bold",
    )
    for axis, i in zip(figure.subplots(rows, columns, squeeze=False).flat, order, strict=False):
        example = found[i]
        draw(axis, *example[:5], labels=data.labels, truth=example.truth["boxes"])


def worst_and_losses(outcome):
    """The figure of a recipe: the worst mistakes, and the losses over the epochs on the test images."""
    whole = pictures.figure(13, 7.4)
    left, right = whole.subfigures(1, 2, width_ratios=(3, 1))
    grid(left, serving(outcome.model), outcome.data, rows=4, columns=6)
    axis = right.subplots()
    for color, name in zip(pictures.COLORS, outcome.model.loss_names, strict=False):
        pictures.curves(axis, outcome.trained, f"val_{name}_loss", color=color, label=name.replace("_", " "))
    pictures.style(axis, "Losses on the test images", "epoch")
    axis.set_yscale("log")
    axis.legend(frameon=False)
    return whole
