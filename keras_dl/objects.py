"""The one format of targets for detection and instance segmentation: padded arrays, made from ragged lists.

    boxes           float32 (batch, max_boxes, 4)     left, top, right, bottom in pixels; 0 in slots of no object
    classes         int32   (batch, max_boxes)        0 ... num_classes - 1; -1 in slots of no object
    crowd           bool    (batch, max_boxes)        regions that are not judged; only for an evaluation
    instance_map    int32   (batch, height, width)    i + 1 in the pixels of object i, 0 elsewhere; with masks

There is no class for the background. An image may hold no object. Images are raw pixels in [0, 255].
"""

import warnings
from collections.abc import Sequence

import numpy as np

from keras_dl.checks import check_choice, check_size

NO_CLASS = -1
LARGEST_NORMALIZED = 16  # pixels of which a mean was subtracted, and which were divided by a deviation, are below


def pad_targets(
    boxes: Sequence,
    classes: Sequence,
    image_shapes: Sequence,
    *,
    num_classes: int,
    max_boxes: int,
    masks: Sequence | None = None,
    crowd: Sequence | None = None,
    names: Sequence | None = None,
    faulty: str = "raise",
) -> dict[str, np.ndarray]:
    """Targets of a batch of images, from one list of objects for each image. All of it is checked.

    Boxes are clipped to their image. Of more than `max_boxes` objects the first are kept, and a warning says how many
    are cut.

    Args:
        boxes: for each image `(n, 4)`: left, top, right, bottom in pixels. n may be 0.
        classes: for each image `(n,)`, int in [0, num_classes).
        image_shapes: for each image its `(height, width)`.
        num_classes: int, at least 1, without a background.
        max_boxes: int, at least 1.
        masks: for each image `(n, height, width)`, bool; all images then have one shape. Where masks overlap, the later
            object lies above. None for no masks.
        crowd: for each image `(n,)`, bool: regions that are not judged. None for no such key.
        names: for each image what messages call it, such as its file. None for its number.
        faulty: "raise", or "drop" to leave out objects without area or outside of their image, with a warning.

    Returns:
        dict of arrays: see this module.

    Raises:
        ValueError: if an object is wrong. The message names the image, the object, and what would do.

    Example:

    >>> targets = pad_targets([[[2, 3, 30, 40]], []], [[1], []], [(32, 32)] * 2, num_classes=3, max_boxes=2)
    >>> targets["boxes"][0].tolist(), targets["classes"].tolist()
    ([[2.0, 3.0, 30.0, 32.0], [0.0, 0.0, 0.0, 0.0]], [[1, -1], [-1, -1]])
    """
    check_size("num_classes", num_classes)
    check_size("max_boxes", max_boxes)
    check_choice("faulty", faulty, ("raise", "drop"))
    count = len(boxes)
    for key, values in dict(classes=classes, image_shapes=image_shapes, masks=masks, crowd=crowd, names=names).items():
        if values is not None and len(values) != count:
            raise ValueError(f"{key} has {len(values)} entries, and boxes {count}: one for each image.")
    result = {
        "boxes": np.zeros((count, max_boxes, 4), "float32"),
        "classes": np.full((count, max_boxes), NO_CLASS, "int32"),
    }
    if crowd is not None:
        result["crowd"] = np.zeros((count, max_boxes), bool)
    if masks is not None:
        result["instance_map"] = np.zeros((count, *_one_shape(image_shapes)), "int32")
    for i in range(count):
        what = f"image {i if names is None else _text(names[i])}"
        given = _read(what, boxes[i], classes[i], image_shapes[i], num_classes)
        kept = _usable(what, given, faulty)
        if len(kept) > max_boxes:
            warnings.warn(
                f"{what} has {len(kept)} objects, and max_boxes={max_boxes}: {len(kept) - max_boxes} are cut.",
                stacklevel=2,
            )
            kept = kept[:max_boxes]
        result["boxes"][i, : len(kept)] = given["clipped"][kept]
        result["classes"][i, : len(kept)] = given["classes"][kept]
        if crowd is not None:
            result["crowd"][i, : len(kept)] = _of_objects(what, "crowd", crowd[i], given)[kept]
        if masks is not None:
            own = _of_objects(what, "masks", masks[i], given, image_shapes[i])
            for slot, j in enumerate(kept):
                result["instance_map"][i][own[j].astype(bool)] = slot + 1
    return result


def _one_shape(image_shapes):
    shapes = {tuple(shape) for shape in image_shapes}
    if len(shapes) != 1:
        raise ValueError(f"image_shapes={sorted(shapes)} must be one shape where there are masks.")
    return shapes.pop()


def _read(what, boxes, classes, image_shape, num_classes):
    """Boxes, clipped boxes and classes of one image, of right shapes and ranges."""
    boxes, classes = np.asarray(boxes, "float32"), np.asarray(classes)
    boxes = boxes.reshape(-1, 4) if boxes.size == 0 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4 or classes.shape != boxes.shape[:1]:
        raise ValueError(
            f"{what}: boxes and classes have the shapes {boxes.shape} and {classes.shape}, not (n, 4) and (n,)."
        )
    if len(classes) and classes.dtype.kind not in "biuf":
        raise ValueError(f"{what}: classes[0] = {classes[0]!r} must be an integer in [0, {num_classes}).")
    if len(image_shape) != 2:
        raise ValueError(f"{what}: image_shapes has {tuple(image_shape)}; it must be (height, width).")
    wrong = np.flatnonzero((classes < 0) | (classes >= num_classes) | (classes != np.floor(classes)))
    if len(wrong):
        j = wrong[0]
        raise ValueError(
            f"{what}: classes[{j}] = {classes[j]} must be an integer in [0, {num_classes}); there is no class for the "
            "background, and classes have no gaps."
        )
    if not np.isfinite(boxes).all():
        j = np.flatnonzero(~np.isfinite(boxes).all(1))[0]
        raise ValueError(f"{what}: boxes[{j}] = {boxes[j].tolist()} is not finite.")
    height, width = image_shape
    if len(boxes) and boxes.max() <= 1 and min(height, width) > 1:
        warnings.warn(f"{what}: all boxes are within one pixel; they must be in pixels, not in shares.", stacklevel=3)
    clipped = np.clip(boxes, 0, np.float32([width, height, width, height]))
    return dict(boxes=boxes, clipped=clipped, classes=classes, shape=(height, width))


def _usable(what, given, faulty):
    """Indices of the objects that have an area in the image."""
    found = []
    for name, boxes in (("has no area: boxes are left, top, right, bottom", "boxes"), ("is outside", "clipped")):
        bad = (given[boxes][:, 2:] <= given[boxes][:, :2]).any(1)
        found.append(bad)
        if bad.any() and faulty == "raise":
            j = np.flatnonzero(bad)[0]
            height, width = given["shape"]
            raise ValueError(
                f"{what}: boxes[{j}] = {given['boxes'][j].tolist()} {name}, in an image of {height} x {width} pixels. "
                "Mend it, or leave it out with faulty='drop'."
            )
    bad = found[0] | found[1]
    if bad.any():
        warnings.warn(f"{what}: {bad.sum()} objects without area or outside of the image are left out.", stacklevel=3)
    return np.flatnonzero(~bad)


def _of_objects(what, key, values, given, shape=()):
    """An array with one entry of `shape` for each object of an image."""
    values, expected = np.asarray(values), (len(given["boxes"]), *shape)
    if values.size == 0 and not len(given["boxes"]):
        return values.reshape(expected)
    if values.shape != expected:
        raise ValueError(f"{what}: {key} has the shape {values.shape}; it must be {expected}.")
    return values


def _text(name):
    return name.decode() if isinstance(name, bytes) else str(name)


def check_pixels(images, name: str = "images") -> None:
    """Warns of float images that seem to be scaled to [0, 1], or normalized, where raw pixels are asked for.

    Args:
        images: array, or an eager tensor.
        name: str, for the message.

    Raises:
        ValueError: if a pixel is not finite.

    Example:

    >>> check_pixels(np.full((1, 8, 8, 3), 255.0))
    """
    images = np.asarray(images)
    if images.dtype.kind != "f" or not images.size:
        return
    if not np.isfinite(images).all():
        raise ValueError(f"{name} hold a pixel that is not finite.")
    low, high = images.min(), images.max()
    if 0 < high <= 1 or (low < 0 and high < LARGEST_NORMALIZED):
        warnings.warn(
            f"{name} are in [{min(low, 0):.3g}, {high:.3g}]; they must be raw pixels in [0, 255].", stacklevel=3
        )
