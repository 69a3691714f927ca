"""The proof of detections: those of an image are a set, and are compared as sets.

The order of a detector's rows depends on its scores. Two that are nearly equal may change places in a file, and all
rows below them may move. So each detection of Keras gets a partner among those of the file, one to one, of the same
image and class.

**Float files.** Each detection has an equal, but for near ties: see `keras_dl.export.ties`.

**Quantized files.** The partner is the one of the largest IoU, at least 0.5; the best scores choose first. The measure
is the IoU of the two sets, weighted by scores. A pair has the lower of its two scores in common:

    agreement = sum of min(score, score') over pairs / (sum of max(score, score') over pairs + scores without a partner)

It is 1 for equal sets. A lost detection, an added one, another class, a box elsewhere and another scale of the scores
all lower it; F1 would not see the last. The mean IoU of the pairs says how exact the boxes are. A file that gives the
same detections for each image may agree well where objects are always in the same places. So the agreement beyond that
of sets of different images is bounded, too (kappa).
"""

import numpy as np

from keras_dl.export.errors import ExportError
from keras_dl.export.ties import (
    EXCEPTIONS,
    Found,
    alone_of,
    check_equal,
    equal_pairs,
    limits_of,
    of_one_class,
    overlaps,
)

FIELDS = ("boxes", "scores", "classes", "count")
OUTPUTS = (*FIELDS, "masks")  # there may be no masks
# Lowest IoU of partners in a quantized file.
PARTNER_IOU = 0.5
# Lowest agreement of the sets in a quantized file.
AGREEMENT_BOUND = {"weight_only_int8": 0.9, "dynamic_int8": 0.9, "int16x8": 0.9, "int8": 0.8}
# Lowest mean IoU of its pairs. A pair of 0.75 is right by the stricter of COCO's two thresholds.
IOU_BOUND = {"weight_only_int8": 0.9, "dynamic_int8": 0.9, "int16x8": 0.9, "int8": 0.75}
# Lowest agreement beyond that of sets of different images, as a share of what is left.
KAPPA_BOUND = 0.6
# Largest share of the pixels of masks that may differ in a float file by more than the tolerance: those at the edge of
# a box that is rounded to whole pixels, and in boolean masks those of a probability near 0.5.
MASK_PIXELS = 1e-3


def compare(what, actual, expected, quantization, tolerance, random):
    """Compares the detections of a file with those of Keras.

    Args:
        what: str. The signature's name in errors.
        actual: dict of arrays `(samples, batch, ...)` of the file.
        expected: dict of arrays of Keras, with as many samples or more. The first ones are those of `actual`.
        quantization: str.
        tolerance: float: for a float file, the largest error of boxes and scores as a share of their largest
            magnitudes. None for other files.
        random: bool. Whether the samples are random.

    Returns:
        `(pairs, figures)`. `pairs`: dict by output of two arrays, those of the file and of Keras with a row for each
        pair: `boxes`, `scores` and perhaps `masks`. `figures`: dict, see `keras_dl.export.report.Report`.

    Raises:
        ExportError: if outputs are not detections, or the file does not hold what the head of this module says.
    """
    population = _images(what, expected, "Keras")
    found = _images(what, actual, "the file")
    keras = population[: len(found)]
    total = sum(len(x.scores) for x in keras)
    figures = {"images": len(found), "expected": total, "found": sum(len(x.scores) for x in found)}
    if not total and tolerance is None and not random:
        raise ExportError(
            f"{what}: Keras finds no detection in {len(found)} images. The proof would show nothing. Give calibration "
            "data with objects that the model finds, or lower its score threshold."
        )
    if tolerance is not None:
        limits = limits_of(population + found, population, tolerance, expected["scores"].shape[2])
        partners = [equal_pairs(a, b, limits) for a, b in zip(found, keras, strict=True)]
        figures |= check_equal(what, found, keras, partners, limits, EXCEPTIONS[quantization])
    else:
        partners = [_overlapping(a, b) for a, b in zip(found, keras, strict=True)]
    figures |= _agreement(found, keras, partners)
    if tolerance is None and total + figures["found"]:
        _check_agreement(what, found, keras, figures, quantization, random)
    pairs = _pairs(found, keras, partners)
    if "masks" in pairs and pairs["masks"][1].size:
        figures["mean_mask_iou"] = _mask_iou(*pairs["masks"])
        _check_masks(what, *pairs["masks"], figures["mean_mask_iou"], tolerance, IOU_BOUND.get(quantization))
    return pairs, figures


def bounds(quantization):
    """What `compare` asks of a file of this quantization: dict, for a proof."""
    if quantization in EXCEPTIONS:
        return {"exceptions": EXCEPTIONS[quantization]}
    return {"agreement": AGREEMENT_BOUND[quantization], "mean_iou": IOU_BOUND[quantization], "kappa": KAPPA_BOUND}


def doubt(what, figures, inputs):
    """What the comparison leaves open: str, or None.

    Args:
        what: str. The signature's name.
        figures: dict, as `compare` returns it.
        inputs: str, `"random"` or others.
    """
    if figures["expected"]:
        return None
    cure = "Give calibration data with objects." if inputs == "random" else "The data hold none that the model finds."
    return (
        f"{what}: Keras finds no detection in the {figures['images']} images of the proof. It shows nothing of boxes, "
        f"scores and classes. {cure}"
    )


def _images(what, outputs, side):
    """list of `Found` of outputs `(samples, batch, ...)`."""
    shapes = {name: outputs[name].shape[2:] for name in FIELDS if name in outputs}
    slots = shapes.get("scores", ())
    if len(shapes) < len(FIELDS) or shapes != dict(zip(FIELDS, ((*slots, 4), slots, slots, ()), strict=True)):
        raise ExportError(
            f"{what} is said to give detections, and of {side} it gives {shapes} beside the batch. It must give boxes "
            "(slots, 4), scores (slots,), classes (slots,) and count ()."
        )
    flat = {name: x.reshape(-1, *x.shape[2:]) for name, x in outputs.items() if name in OUTPUTS}
    images = []
    for i, count in enumerate(flat["count"]):
        held = np.arange(*slots) < count
        if not 0 <= count <= slots[0] or ((flat["classes"][i] >= 0) != held).any():
            raise ExportError(
                f"{what}: in image {i}, {side} gives count={count} and {np.sum(flat['classes'][i] >= 0)} classes of at "
                "least 0. The first `count` slots must hold a detection, and the others the class -1."
            )
        count = int(count)
        masks = flat["masks"][i, :count] if "masks" in flat else None
        boxes, scores = (flat[name][i, :count].astype("float64") for name in ("boxes", "scores"))
        images.append(Found(boxes, scores, flat["classes"][i, :count].astype("int64"), masks))
    return images


# Quantized files.


def _overlapping(found, keras):
    """Pairs by IoU: dict of places in `keras` by places in `found`. The highest scores of Keras choose first."""
    shared = overlaps(found.boxes, keras.boxes) * of_one_class(found, keras)
    partners = {}
    for k in np.argsort(-keras.scores, kind="stable").tolist():
        column = [0.0 if i in partners else x for i, x in enumerate(shared[:, k])]
        if max(column, default=0.0) >= PARTNER_IOU:
            partners[int(np.argmax(column))] = k
    return partners


def _agreement(found, keras, partners):
    """dict: `agreement` of all images, 1 if there are no detections; and what the pairs say."""
    common = union = 0.0
    ious, errors = [], []
    for a, b, pairs in zip(found, keras, partners, strict=True):
        low, high = (f(a.scores[list(pairs)], b.scores[list(pairs.values())]) for f in (np.minimum, np.maximum))
        common += low.sum()
        union += high.sum() + sum(x.scores[y].sum() for x, y in zip((a, b), alone_of(a, b, pairs), strict=True))
        ious += [overlaps(a.boxes[[i]], b.boxes[[k]])[0, 0] for i, k in pairs.items()]
        errors += (high - low).tolist()
    return {
        "pairs": len(ious),
        "agreement": float(common / union) if union else 1.0,
        "mean_iou": float(np.mean(ious)) if ious else 1.0,
        "mean_score_error": float(np.mean(errors)) if errors else 0.0,
    }


def _check_agreement(what, found, keras, figures, quantization, random):
    agreement, iou = AGREEMENT_BOUND[quantization], IOU_BOUND[quantization]
    numbers = f"Keras finds {figures['expected']} detections, the file {figures['found']}, and {figures['pairs']} agree"
    if figures["agreement"] < agreement:
        raise ExportError(
            f"{what}: {numbers}. Weighted by their scores, the sets agree by {figures['agreement']:.3f}; it must be at "
            f"least {agreement}."
        )
    if figures["mean_iou"] < iou:
        raise ExportError(
            f"{what}: {numbers}. Their boxes have a mean IoU of {figures['mean_iou']:.3f}; it must be at least {iou}."
        )
    if len(found) < 2:
        return
    # Those of other images: half of all images further.
    others = keras[len(keras) // 2 :] + keras[: len(keras) // 2]
    chance = _agreement(found, others, [_overlapping(a, b) for a, b in zip(found, others, strict=True)])["agreement"]
    figures["chance"] = chance
    # With fewer, it is mostly noise. Random images may all look alike.
    if random or (1 - chance) * figures["expected"] < 5:
        return
    figures["kappa"] = (figures["agreement"] - chance) / (1 - chance)
    if figures["kappa"] < KAPPA_BOUND:
        raise ExportError(
            f"{what}: {numbers}. The sets agree by {figures['agreement']:.3f}, and those of different images by "
            f"{chance:.3f}. Beyond this, it is {figures['kappa']:.2f} (kappa); it must be at least {KAPPA_BOUND}."
        )


# Both.


def _pairs(found, keras, partners):
    """The values of all pairs by output, of the file and of Keras."""
    result = {}
    for name in ("boxes", "scores") if keras[0].masks is None else ("boxes", "scores", "masks"):
        rows = [
            [getattr(x, name)[list(places)] for x, places in ((a, pairs), (b, pairs.values()))]
            for a, b, pairs in zip(found, keras, partners, strict=True)
        ]
        result[name] = [np.concatenate(side) for side in zip(*rows, strict=True)]
    return result


def _mask_iou(found, keras):
    """The mean IoU of pairs of masks, 1 for two empty ones."""
    a, b = (x >= 0.5 if x.dtype.kind == "f" else x > 0 for x in (found, keras))
    axes = tuple(range(1, a.ndim))
    union = (a | b).sum(axis=axes)
    return float(np.where(union, (a & b).sum(axis=axes) / np.maximum(union, 1), 1.0).mean())


def _check_masks(what, found, keras, iou, tolerance, bound):
    if tolerance is None:
        if iou < bound:
            raise ExportError(f"{what}: the masks of pairs have a mean IoU of {iou:.3f}; it must be at least {bound}.")
        return
    allowed = tolerance * np.abs(keras).max() if keras.dtype.kind == "f" else 0
    share = float((np.abs(found - keras) > allowed if allowed else found != keras).mean())
    if share > MASK_PIXELS:
        raise ExportError(f"{what}: {share:.2%} of the pixels of masks differ; {MASK_PIXELS:.1%} may.")
