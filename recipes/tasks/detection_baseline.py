"""A baseline of detectors that learns nothing of boxes: a threshold, connected components, and a classifier of digits.

    luminance -> distance from its median -> threshold, bright and dark -> connected components -> class of each

Each component is a box. The class of digits is that of the judge of `keras_dl.recipes.tasks.digit_judge`, and its
probability is the score. Of other objects, all components are of the class that is the most frequent in training.
"""

import numpy as np

from keras_dl.extras import require
from keras_dl.recipes.tasks.detection import coco_figures
from keras_dl.recipes.tasks.digit_judge import judge

THRESHOLD = 50.0  # of the luminance: the best of 30, 40, 50, 60 and 70 on the training scenes of digits
SMALLEST, LARGEST = 0.08, 0.75  # longer side of a component, as a share of the image
MAX_DETECTIONS = 100
DIGITS = tuple("0123456789")
LUMINANCE = np.float32([0.299, 0.587, 0.114])  # ITU-R BT.601


def components_and_classifier(data):
    """The mean average precision at an IoU of 0.5 of the baseline.

    Args:
        data: `Data` of `keras_dl.recipes.tasks.detection.objects`.

    Returns:
        `(name, figure)`.
    """
    if tuple(data.labels) == DIGITS:
        name, classify = "components and a classifier", _digits
    else:
        name, frequent = "components", _most_frequent(data)

        def classify(crops):
            return np.full(len(crops), frequent), np.array([crop.mean() for crop in crops])

    def serve(signature, images):
        return padded([detect(image, classify) for image in np.asarray(images)])

    return name, float(coco_figures(serve, data)["box_AP50"] or 0.0)


def detect(image, classify):
    """Boxes, scores and classes of an image.

    Args:
        image: `(height, width, 3)`, in [0, 255].
        classify: function from a list of crops, float32 in [0, 255] of any sides, to classes and scores.

    Returns:
        `(boxes, scores, classes)`: `(n, 4)`, `(n,)` and `(n,)`.
    """
    boxes, crops = components(image)
    if not boxes:
        return np.zeros((0, 4), "float32"), np.zeros(0, "float32"), np.zeros(0, "int32")
    classes, scores = classify(crops)
    order = np.argsort(-scores, kind="stable")[:MAX_DETECTIONS]
    return np.float32(boxes)[order], np.float32(scores)[order], np.int32(classes)[order]


def components(image, threshold=THRESHOLD):
    """Connected parts of an image that are brighter or darker than its median.

    Returns:
        `(boxes, crops)`: lists of xyxy in pixels, and of arrays `(height, width)`: the distance from the median in the
        pixels of the component, scaled to at most 255, and 0 elsewhere.
    """
    measure = require("scipy.ndimage", extra="recipes")
    luminance = np.asarray(image, "float32") @ LUMINANCE
    luminance = luminance - np.median(luminance)
    boxes, crops = [], []
    for sign in (1, -1):
        distance = sign * luminance
        numbers, _ = measure.label(distance > threshold, np.ones((3, 3)))  # diagonal neighbors are connected
        for number, place in enumerate(measure.find_objects(numbers), start=1):
            rows, columns = place
            side = max(rows.stop - rows.start, columns.stop - columns.start) / max(numbers.shape)
            if not SMALLEST <= side <= LARGEST:
                continue
            crop = np.where(numbers[place] == number, distance[place], 0.0)
            boxes.append([columns.start, rows.start, columns.stop, rows.stop])
            crops.append(np.minimum(crop * (255 / np.percentile(crop[crop > 0], 75)), 255).astype("float32"))
    return boxes, crops


def _digits(crops):
    """Classes and probabilities of the judge."""
    _, probabilities = judge().look(np.stack([centered(crop) for crop in crops])[..., None])
    return probabilities.argmax(-1), probabilities.max(-1)


def centered(crop, ink=20, side=28):
    """A crop as MNIST has its digits: the longer side of 20 pixels, the center of mass in the middle of 28.

    Returns:
        float32, `(28, 28)`.
    """
    measure = require("scipy.ndimage", extra="recipes")
    scale = ink / max(crop.shape)
    center = np.array(measure.center_of_mass(crop))
    # Each pixel of the result is the mean of four, read between the pixels of the crop.
    fine = (np.arange(2 * side) + 0.5) / 2 - side / 2
    y, x = np.meshgrid(center[0] + fine / scale, center[1] + fine / scale, indexing="ij")
    read = measure.map_coordinates(crop, [y, x], order=1, mode="constant")
    return read.reshape(side, 2, side, 2).mean((1, 3)).astype("float32")


def _most_frequent(data):
    counts = np.zeros(len(data.labels), int)
    for _, targets in data.train(0).as_numpy_iterator():
        classes = targets["classes"]
        counts += np.bincount(classes[classes >= 0], minlength=len(counts))
    return int(counts.argmax())


def padded(found):
    """Detections of several images as one dict of arrays: `boxes`, `scores`, `classes` and `count`.

    Args:
        found: list of `(boxes, scores, classes)`.
    """
    result = {
        "boxes": np.zeros((len(found), MAX_DETECTIONS, 4), "float32"),
        "scores": np.zeros((len(found), MAX_DETECTIONS), "float32"),
        "classes": np.full((len(found), MAX_DETECTIONS), -1, "int32"),
        "count": np.array([len(boxes) for boxes, _, _ in found], "int32"),
    }
    for i, (boxes, scores, classes) in enumerate(found):
        result["boxes"][i, : len(boxes)] = boxes
        result["scores"][i, : len(boxes)] = scores
        result["classes"][i, : len(boxes)] = classes
    return result
