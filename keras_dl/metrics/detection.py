"""Average precision of detections and of instance masks, by COCO's own evaluator.

`pycocotools` computes it; what this module adds is the way from padded arrays to its format and back, where much can go
wrong without an error. The evaluator takes at most 100 detections of an image. What has no object in the truth, such as
a size, has no average precision: it is None here and -1 there. Detections of a class that no image holds cost nothing.

Needs the extra "detection".

References: Lin et al. 2014, "Microsoft COCO", arXiv:1405.0312; https://cocodataset.org/#detection-eval.
"""

import contextlib
import io
from collections.abc import Callable, Iterable, Mapping

import keras
import numpy as np

from keras_dl.extras import require

# The names of results by their place in the evaluator's list.
_NAMES = {0: "AP", 1: "AP50", 2: "AP75", 3: "AP_small", 4: "AP_medium", 5: "AP_large", 8: "AR"}


class CocoMetric:
    """Average precision of all images that it was given.

    Args:
        num_classes: int. Classes are `0 ... num_classes - 1`, without a background.
        masks: bool. Whether masks are compared, too.

    Raises:
        ImportError: if pycocotools is missing; the message holds the pip command.

    Example:

    >>> metric = CocoMetric(num_classes=2)
    >>> truth = {"boxes": [[[0, 0, 50, 50], [0, 0, 0, 0]]], "classes": [[1, -1]]}
    >>> found = {"boxes": [[[0, 0, 50, 40]]], "scores": [[0.9]], "classes": [[1]], "count": [1]}
    >>> metric.update(found, truth)
    >>> {name: metric.result()[name] for name in ("box_AP", "box_AP50", "box_AP_small")}
    {'box_AP': 0.7, 'box_AP50': 1.0, 'box_AP_small': None}
    """

    def __init__(self, num_classes: int, masks: bool = False):
        self._coco = require("pycocotools.coco", extra="detection")
        self._evaluation = require("pycocotools.cocoeval", extra="detection")
        self._encoding = require("pycocotools.mask", extra="detection")
        self.num_classes, self.masks = num_classes, masks
        self.reset()

    def reset(self) -> None:
        """Forgets all images."""
        self._images, self._truth, self._found = [], [], []

    def update(self, detections: Mapping, targets: Mapping) -> None:
        """Adds a batch of images.

        Args:
            detections: dict, or a named tuple, of arrays: `boxes` `(batch, m, 4)`, xyxy in pixels; `scores` and
                `classes` `(batch, m)`; `count` `(batch,)`, of which the first slots hold a detection; with masks,
                `masks` `(batch, m, height, width)`, of the image: True or at least 0.5 = the object.
            targets: dict of arrays: `boxes` `(batch, n, 4)`, xyxy in pixels; `classes` `(batch, n)`, -1 in slots of no
                object; `crowd` `(batch, n)`, True for regions whose detections count neither as right nor as wrong, may
                be missing; with masks, `instance_map` `(batch, height, width)`, `i + 1` in the pixels of object `i`, or
                `masks` `(batch, n, height, width)`. With masks or an instance map, the size of an object is the number
                of its pixels, else the area of its box.

        Raises:
            ValueError: if an array is missing or wrong. The message names the image by its number. No image of the
                batch is then added.
        """
        detections = detections._asdict() if hasattr(detections, "_asdict") else detections
        detections = {name: np.asarray(x) for name, x in detections.items() if x is not None}
        targets = {name: np.asarray(x) for name, x in targets.items() if x is not None}
        self._require(detections, "detections", "boxes", "scores", "classes", "count", *["masks"] * self.masks)
        self._require(targets, "targets", "boxes", "classes")
        if self.masks and not {"masks", "instance_map"} & set(targets):
            raise ValueError("targets must hold masks or instance_map, for masks are compared.")
        self._check_shapes(detections, targets)
        # All images are read before one is kept, so that a batch that is refused leaves nothing.
        first = len(self._images)
        rows = [self._read(i, first + i, detections, targets) for i in range(len(targets["boxes"]))]
        for image, truth, found in rows:
            self._images.append(image)
            self._truth += truth
            self._found += found

    def result(self) -> dict[str, float | None]:
        """The figures of all images so far.

        Returns:
            dict: `box_AP`, the mean over the IoU thresholds 0.5, 0.55 ... 0.95 and over the classes; `box_AP50` and
            `box_AP75` at one threshold; `box_AP_small`, `box_AP_medium` and `box_AP_large` of objects below 32^2,
            between, and above 96^2 pixels; `box_AR`, the recall. With masks, `mask_AP` and so on, too. None where the
            truth has no such object.

        Raises:
            ValueError: if there is no image.
        """
        figures = {}
        for kind in ("box", "mask")[: 1 + self.masks]:
            evaluated = self._evaluate(kind)
            figures |= {f"{kind}_{name}": _known(evaluated.stats[i]) for i, name in _NAMES.items()}
        return figures

    def by_class(self, kind: str = "box") -> list[float | None]:
        """The average precision of each class; None for a class that no image holds.

        Args:
            kind: "box" or "mask".
        """
        precision = self._evaluate(kind).eval["precision"][:, :, :, 0, -1]  # (thresholds, recalls, classes)
        return [_known(x[x > -1].mean() if (x > -1).any() else -1) for x in np.moveaxis(precision, 2, 0)]

    def _evaluate(self, kind):
        if not self._images:
            raise ValueError("There is no image to judge: call update first.")
        with contextlib.redirect_stdout(io.StringIO()):
            # The size of a detected box is its own area, that of an object is always the number of its pixels.
            own = [x | {"area": x["bbox"][2] * x["bbox"][3]} if kind == "box" else x for x in self._found]
            truth, found = self._dataset(self._truth), self._dataset(own)
            evaluated = self._evaluation.COCOeval(truth, found, "segm" if kind == "mask" else "bbox")
            evaluated.evaluate()
            evaluated.accumulate()
            evaluated.summarize()
        return evaluated

    def _dataset(self, annotations):
        # Not by `loadRes`, which fails without detections. An id of 0 would count as no match.
        coco = self._coco.COCO()
        numbered = [{**x, "id": i} for i, x in enumerate(annotations, 1)]
        categories = [{"id": i, "name": str(i)} for i in range(self.num_classes)]
        coco.dataset = {"images": self._images, "annotations": numbered, "categories": categories}
        coco.createIndex()
        return coco

    def _check_shapes(self, detections, targets):
        batch = len(targets["boxes"])
        for what, given in (("targets", targets), ("detections", detections)):
            slots = given["boxes"].shape[1:2]
            # By name: the first axes, and the number of all.
            axes = dict.fromkeys(("classes", "scores", "crowd"), ((batch, *slots), 2))
            axes |= dict(boxes=((batch, *slots), 3), count=((batch,), 1), instance_map=((batch,), 3))
            axes |= dict(masks=((batch, *slots), 4)) if self.masks or what == "targets" else {}
            for name, (start, rank) in axes.items():
                shape = given[name].shape if name in given else None
                if shape and (len(shape) != rank or shape[: len(start)] != start):
                    raise ValueError(
                        f"{what} hold {name} of the shape {shape}; it must have {rank} axes, the first ones {start}: "
                        "one entry for each image of targets, and one for each slot of boxes."
                    )
        if not self.masks:
            return
        found, known = (x["masks" if "masks" in x else "instance_map"].shape[-2:] for x in (detections, targets))
        if found != known:
            raise ValueError(
                f"detections hold masks of {found[0]} x {found[1]} pixels, and targets those of {known[0]} x "
                f"{known[1]}. Masks must be of the image: keras_dl.ops.paste_masks makes them of those of boxes, and "
                "MaskRCNN(paste=True) detects them."
            )

    def _read(self, i, number, detections, targets):
        """What the evaluator gets of an image: the image, the annotations of the truth, and those of what is found."""
        count = int(detections["count"][i])
        if not 0 <= count <= detections["boxes"].shape[1]:
            raise ValueError(f"count={count} of image {number} is more than the slots of detections.")
        kept = targets["classes"][i] >= 0
        truth = {name: targets[name][i][kept] for name in ("boxes", "classes")}
        found = {name: detections[name][i][:count] for name in ("boxes", "classes", "scores")}
        for name, part in (("targets", truth), ("detections", found)):
            self._check(f"{name} of image {number}", part)
        crowd = targets["crowd"][i][kept] if "crowd" in targets else np.zeros(len(truth["boxes"]), bool)
        masks = _masks(targets, i, kept)
        size = {} if masks is None else dict(zip(("height", "width"), masks.shape[1:], strict=True))
        truth = self._annotations(number, truth, masks, iscrowd=crowd.astype(int))
        masks = detections["masks"][i][:count] if self.masks else None
        found = self._annotations(number, found, masks, score=found["scores"].astype(float))
        return {"id": number} | size, truth, found

    def _annotations(self, number, part, masks, **more):
        rows = []
        for i, (box, label) in enumerate(zip(part["boxes"].astype(float), part["classes"], strict=True)):
            x, y, width, height = box[0], box[1], box[2] - box[0], box[3] - box[1]
            row = dict(image_id=number, category_id=int(label), bbox=[x, y, width, height], area=width * height)
            row |= {"iscrowd": 0} | {name: values[i].item() for name, values in more.items()}
            if masks is not None:
                mask = np.asfortranarray(masks[i] >= 0.5, dtype="uint8")
                row["area"] = int(mask.sum())
                if self.masks:
                    row["segmentation"] = self._encoding.encode(mask)
            rows.append(row)
        return rows

    def _check(self, what, part):
        boxes, classes = part["boxes"], part["classes"]
        if not np.isfinite(boxes).all():
            raise ValueError(f"{what} hold a box that is not finite.")
        if (boxes[:, 2:] < boxes[:, :2]).any():
            box = boxes[(boxes[:, 2:] < boxes[:, :2]).any(1)][0].tolist()
            raise ValueError(f"{what} hold the box {box}; boxes must be left, top, right, bottom.")
        wrong = classes[(classes < 0) | (classes >= self.num_classes)]
        if len(wrong):
            raise ValueError(f"{what} hold the class {int(wrong[0])}; classes must be in [0, {self.num_classes}).")
        if not np.isfinite(part.get("scores", 0)).all():
            raise ValueError(f"{what} hold a score that is not finite.")

    @staticmethod
    def _require(given, what, *names):
        missing = [name for name in names if name not in given]
        if missing:
            raise ValueError(f"{what} must hold {', '.join(missing)}; there are {', '.join(given) or 'none'}.")


def _masks(targets, i, kept):
    """bool `(objects, height, width)` of one image, or None."""
    if "masks" in targets:
        return targets["masks"][i][kept].astype(float)
    if "instance_map" in targets:
        return (targets["instance_map"][i] == 1 + np.flatnonzero(kept)[:, None, None]).astype(float)
    return None


def _known(value):
    # The evaluator adds a rounding error of 1 to the numbers that it divides by, so that 1 would be less.
    return None if value == -1 else round(float(value), 12)


def coco_scores(detect: Callable, data: Iterable, num_classes: int, masks: bool = False) -> dict[str, float | None]:
    """Average precision of a detector, which may be a model or an exported file, on a data set.

    Args:
        detect: function from images to detections, such as `model.detect`, or
            `lambda images: file.serve("detect", images=images)` for a file that `keras_dl.export.load` opened.
        data: iterable of batches `(images, targets)`: see `CocoMetric.update`.
        num_classes: int.
        masks: bool. Whether masks are compared, too.

    Returns:
        dict, as of `CocoMetric.result`.

    Raises:
        ValueError: as of `CocoMetric`.
        ImportError: if pycocotools is missing.

    Example:

    >>> def nothing(images):
    ...     empty = np.zeros((len(images), 1))
    ...     return {"boxes": empty[..., None] * np.ones(4), "scores": empty, "classes": empty, "count": empty[:, 0]}
    >>> data = [(np.zeros((1, 8, 8, 3)), {"boxes": [[[0, 0, 5, 5]]], "classes": [[0]]})]
    >>> coco_scores(nothing, data, num_classes=1)["box_AP50"]
    0.0
    """
    metric = CocoMetric(num_classes, masks)
    for images, targets in data:
        metric.update(detect(images), targets)
    return metric.result()


class CocoCallback(keras.callbacks.Callback):
    """Average precision at the end of epochs, in the history as `val_box_AP50` and so on. What is None is left out.

    Args:
        data: iterable of batches `(images, targets)`, the same at each pass: see `CocoMetric.update`.
        num_classes: int.
        masks: bool. Whether masks are compared, too.
        every: int. Epochs from one measurement to the next.

    Raises:
        ImportError: if pycocotools is missing.

    Example:

    >>> callback = CocoCallback(data=[], num_classes=10, every=5)
    """

    def __init__(self, data: Iterable, num_classes: int, masks: bool = False, every: int = 1):
        super().__init__()
        self.data, self.every = data, every
        self._options = num_classes, masks
        CocoMetric(num_classes, masks)  # whether pycocotools is installed shows before the training

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every == 0 and logs is not None:
            scores = coco_scores(self.model.detect, self.data, *self._options)
            logs.update({f"val_{name}": value for name, value in scores.items() if value is not None})
