"""Detections of a float file and their equals in Keras, and what near ties change.

The box and the score of a partner differ by at most the tolerance: a share of the largest magnitude of
Keras's boxes and scores. As many as possible get one. One without needs a reason, which is one of these:

- `threshold`: its score is within the tolerance of the lowest score that any sample has, or is below it.
- `full`: all slots of the other side hold a detection of the image, and its score is within the tolerance of the lowest
  of these, or is below it.
- `tie`: the other side has one without a partner whose score is within the tolerance, and which overlaps it and is of
  its class, or has its box and another class. In suppression, either of the two may win.
- `overlap`: it overlaps a detection of its side, class and at least its score, as far as any two that were both kept.
  So the threshold of suppression is near.
- `displaced`: the other side has one without a partner that has a reason, is of its class, overlaps it and has at least
  its score. Suppression took it away for that one.

The thresholds themselves are not known here: the lowest score and the largest overlap of all samples stand for them. So
these reasons are bounds, and at most `EXCEPTIONS` of the detections may need them.
"""

from typing import NamedTuple

import numpy as np

from keras_dl.export.errors import ExportError

# Largest share of detections of a float file, of both sides, that may have no partner but a reason. Two always may: a
# tie has two.
EXCEPTIONS = {"none": 0.01, "float16": 0.05}
ALWAYS_ALLOWED = 2
# Lowest IoU of boxes that errors speak of as one object.
SAME_IOU = 0.5


class Found(NamedTuple):
    """The detections of an image: arrays with one row for each."""

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    masks: np.ndarray | None


class Limits(NamedTuple):
    """What decides whether detections of a float file are equal, and which may have no partner."""

    box: float  # largest difference of a coordinate
    score: float
    lowest: float  # score of all samples
    overlap: float  # largest of two detections of a class
    slots: int


def overlaps(a, b):
    """The IoU of all boxes, xyxy, `(m, 4)` with all of `(n, 4)`: `(m, n)`. 0 where a box has no area.

    Example:

    >>> overlaps(np.float64([[0, 0, 4, 4]]), np.float64([[0, 0, 4, 2], [4, 0, 8, 4]]))
    array([[0.5, 0. ]])
    """
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    common = np.maximum(sides, 0.0).prod(axis=-1)  # (m, n)
    areas = [np.maximum(x[:, 2:] - x[:, :2], 0.0).prod(axis=-1) for x in (a, b)]
    union = areas[0][:, None] + areas[1][None, :] - common
    return np.divide(common, union, out=np.zeros_like(common), where=common > 0)


def of_one_class(a, b):
    return a.classes[:, None] == b.classes[None, :]  # (m, n)


def limits_of(images, keras, tolerance, slots):
    """`Limits` of all images of both sides; the magnitudes are those of Keras alone."""
    boxes, scores = (np.concatenate([getattr(x, name).ravel() for x in keras]) for name in ("boxes", "scores"))
    kept = [overlaps(x.boxes, x.boxes) * of_one_class(x, x) * ~np.eye(len(x.scores), dtype=bool) for x in images]
    return Limits(
        box=tolerance * np.abs(boxes).max(initial=0.0),
        score=tolerance * np.abs(scores).max(initial=0.0),
        lowest=min((x.scores.min() for x in images if len(x.scores)), default=0.0),
        overlap=max((x.max(initial=0.0) for x in kept), default=0.0),
        slots=slots,
    )


def _distances(a, b, limits):
    """How far boxes and scores differ, in units of what is allowed: two arrays `(m, n)`."""
    boxes = np.abs(a.boxes[:, None] - b.boxes[None]).max(axis=-1)
    scores = np.abs(a.scores[:, None] - b.scores[None])
    with np.errstate(divide="ignore", invalid="ignore"):  # of zeros alone, no difference is allowed
        return [np.nan_to_num(x / limit, posinf=np.inf) for x, limit in ((boxes, limits.box), (scores, limits.score))]


def equal_pairs(found, keras, limits):
    """As many pairs as possible within the tolerance: dict of places in `keras` by places in `found`."""
    boxes, scores = _distances(found, keras, limits)
    distance = np.where(of_one_class(found, keras), np.maximum(boxes, scores), np.inf)
    places, others = np.nonzero(distance <= 1)
    near = sorted(zip(distance[places, others], places.tolist(), others.tolist(), strict=True))
    choices = {i: [k for _, j, k in near if j == i] for i in set(places.tolist())}
    by_keras = {}
    for _, i, k in near:  # the nearest first
        if k not in by_keras and i not in by_keras.values():
            by_keras[k] = i

    def given(i, seen):
        """Gives `i` a partner, for which others may have to take another one."""
        for k in choices[i]:
            if k not in seen:
                seen.add(k)
                if k not in by_keras or given(by_keras[k], seen):
                    by_keras[k] = i
                    return True
        return False

    for i in choices:
        if i not in by_keras.values():
            given(i, set())
    return {i: k for k, i in by_keras.items()}


def alone_of(found, keras, partners):
    """The places without a partner, of the file and of Keras."""
    taken = set(partners), set(partners.values())
    return [[i for i in range(len(x.scores)) if i not in y] for x, y in zip((found, keras), taken, strict=True)]


def check_equal(what, found, keras, partners, limits, share):
    """Checks that what has no partner has a reason, and that these are few: `{"exceptions": {reason: number}}`."""
    counts, first = {}, ""
    for image, (*sides, pairs) in enumerate(zip(found, keras, partners, strict=True)):
        alone = alone_of(*sides, pairs)
        if not any(alone):
            continue
        explained = reasons(sides, alone, limits)
        for place in [(side, i) for side in (1, 0) for i in alone[side]]:
            difference = _difference(image, sides, *place, limits)
            if place not in explained:
                raise ExportError(f"{what}: {difference}")
            counts[explained[place]] = counts.get(explained[place], 0) + 1
            first = first or difference
    total = sum(len(x.scores) for x in (*found, *keras))
    if sum(counts.values()) > max(ALWAYS_ALLOWED, share * total):
        raise ExportError(
            f"{what}: {sum(counts.values())} of {total} detections, of Keras and of the file, have no equal. Near ties "
            f"explain {share:.0%} at most. The first: {first}"
        )
    return {"exceptions": counts}


def reasons(sides, alone, limits):
    """The reasons of those without a partner, by side and place: dict. One without a reason is not in it."""
    found = {}
    for side in (0, 1):
        own, other = sides[side], sides[1 - side]
        rivals = alone[1 - side]
        boxes, scores = _distances(own, other, limits)
        one_class, shared = of_one_class(own, other), overlaps(own.boxes, other.boxes)
        same = of_one_class(own, own) & (own.scores[None, :] >= own.scores[:, None] - limits.score)
        same &= ~np.eye(len(own.scores), dtype=bool)
        within = overlaps(own.boxes, own.boxes)
        smallest = np.maximum((own.boxes[:, 2:] - own.boxes[:, :2]).min(axis=-1, initial=np.inf), limits.box)
        for i in alone[side]:
            tied = scores[i, rivals] <= 1
            won = (one_class[i, rivals] & (shared[i, rivals] > 0)) | (~one_class[i, rivals] & (boxes[i, rivals] <= 1))
            # Edges that move by `box` change an IoU by about four times their share of a side.
            near = limits.overlap - 4 * limits.box / smallest[i]
            if own.scores[i] <= limits.lowest + limits.score:
                found[side, i] = "threshold"
            elif len(other.scores) == limits.slots and own.scores[i] <= other.scores.min() + limits.score:
                found[side, i] = "full"
            elif (tied & won).any():
                found[side, i] = "tie"
            elif (same[i] & (within[i] > 0) & (within[i] >= near)).any():
                found[side, i] = "overlap"
    before = None
    while before != len(found):
        before = len(found)
        for side in (0, 1):
            own, other = sides[side], sides[1 - side]
            for i in (i for i in alone[side] if (side, i) not in found):
                for k in (k for k in alone[1 - side] if (1 - side, k) in found):
                    higher = other.scores[k] >= own.scores[i] - limits.score
                    overlap = overlaps(own.boxes[[i]], other.boxes[[k]])[0, 0] > 0
                    if own.classes[i] == other.classes[k] and higher and overlap:
                        found[side, i] = "displaced"
    return found


def _difference(image, sides, side, i, limits):
    """In words, what has no partner, and what comes nearest to it."""
    own, other = sides[side], sides[1 - side]
    names = ("the file", "Keras") if side == 0 else ("Keras", "the file")
    text = f"in image {image}, {names[0]} finds class {own.classes[i]} with a score of {own.scores[i]:.4g} at "
    text += f"{_box(own.boxes[i])}, and {names[1]} does not"
    shared = overlaps(own.boxes[[i]], other.boxes)[0]
    if shared.max(initial=0.0) < SAME_IOU:
        return f"{text}."
    # The class first, then the place.
    k = int(np.argmax(shared + (other.classes == own.classes[i]) * (shared >= SAME_IOU)))
    return (
        f"{text}. It has class {other.classes[k]} with a score of {other.scores[k]:.4g} at {_box(other.boxes[k])} "
        f"there; {limits.score:.1e} of the score and {limits.box:.1e} of a coordinate are allowed."
    )


def _box(box):
    return f"[{', '.join(f'{x:.5g}' for x in box)}]"
