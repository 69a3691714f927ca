"""Non-maximum suppression against NumPy: eager, in a graph of unknown batch, under XLA, in LiteRT and in ONNX."""

import numpy as np
import pytest
import tensorflow as tf

from keras_dl.ops.nms import detections, nms

THRESHOLDS = dict(iou_threshold=0.5, score_threshold=0.3)


def slow_nms(boxes, scores, classes, iou_threshold, score_threshold, max_boxes):
    """The kept indices of one image."""
    kept = []
    for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        if not scores[i] > score_threshold or len(kept) == max_boxes:
            continue
        if all(classes[i] != classes[j] or slow_iou(boxes[i], boxes[j]) <= iou_threshold for j in kept):
            kept.append(i)
    return kept


def slow_iou(a, b):
    width, height = (max(min(a[i + 2], b[i + 2]) - max(a[i], b[i]), 0) for i in (0, 1))
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    union = sum(areas) - width * height
    return width * height / union if union > 0 else 0.0


def scenes(batch=3, n=40, classes=4, seed=0):
    """Boxes in clusters, so that many overlap. Some scores are equal."""
    random = np.random.default_rng(seed)
    centers = random.uniform(10, 90, (batch, 8, 2))[:, random.integers(0, 8, n)] + random.normal(0, 3, (batch, n, 2))
    sides = random.uniform(8, 24, (batch, n, 2))
    boxes = np.concatenate([centers - sides / 2, centers + sides / 2], -1).astype("float32")
    scores = random.uniform(0, 1, (batch, n, classes)).astype("float32")
    return boxes, np.round(scores, 1) if seed % 2 else scores


@pytest.fixture(params=["eager", "unknown batch", "xla"])
def run(request):
    def call(function, *arrays):
        tensors = [tf.constant(x) for x in arrays]
        if request.param == "eager":
            return function(*tensors)
        if request.param == "xla":
            return tf.function(function, jit_compile=True)(*tensors)
        specs = [tf.TensorSpec((None, *x.shape[1:]), x.dtype) for x in tensors]
        return tf.function(function, input_signature=specs)(*tensors)

    return call


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("by_class", [False, True])
def test_it_keeps_what_numpy_keeps(run, seed, by_class):
    boxes, scores = scenes(seed=seed)
    scores = scores[..., 0]
    classes = np.random.default_rng(seed).integers(0, 4, scores.shape) if by_class else np.zeros(scores.shape, int)
    given = (boxes, scores, classes.astype("int32")) if by_class else (boxes, scores)
    kept = run(lambda *x: nms(*x, max_boxes=9, **THRESHOLDS), *given)
    for i in range(len(boxes)):
        expected = slow_nms(boxes[i], scores[i], classes[i], **THRESHOLDS, max_boxes=9)
        assert kept.count[i] == len(expected)
        np.testing.assert_array_equal(kept.indices[i], expected + [0] * (9 - len(expected)))
    assert len(set(kept.count.numpy())) > 1 or kept.count[0] == 9


def test_unusual_boxes_and_scores(run):
    """An image: nothing above the threshold; NaN scores; NaN boxes; boxes of no area; equal boxes and scores."""
    boxes = np.tile(np.float32([[0, 0, 4, 4], [0, 0, 4, 4], [9, 9, 9, 9], [20, 20, 30, 30]]), (5, 1, 1))
    scores = np.tile(np.float32([0.9, 0.9, 0.8, 0.7]), (5, 1))
    scores[0] = 0.3
    scores[1] = np.nan
    scores[2, 3] = np.nan
    boxes[3, 0] = np.nan
    boxes[4] = 7
    kept = run(lambda *x: nms(*x, max_boxes=6, **THRESHOLDS), boxes, scores)
    assert kept.count.numpy().tolist() == [0, 0, 2, 4, 4]  # boxes of no area overlap with nothing
    expected = [[0] * 6, [0] * 6, [0, 2, 0, 0, 0, 0], [0, 1, 2, 3, 0, 0], [0, 1, 2, 3, 0, 0]]
    np.testing.assert_array_equal(kept.indices, expected)


def test_an_iou_at_the_threshold_is_kept(run):
    boxes = np.float32([[[0, 0, 4, 4], [0, 0, 4, 2]]])  # an IoU of 0.5
    kept = run(lambda *x: nms(*x, iou_threshold=0.5, max_boxes=2), boxes, np.float32([[0.9, 0.8]]))
    assert kept.count.numpy() == [2]


def test_no_boxes_at_all(run):
    kept = run(
        lambda *x: nms(*x, max_boxes=3, **THRESHOLDS),
        np.zeros((2, 0, 4), "float32"),
        np.zeros((2, 0), "float32"),
        np.zeros((2, 0), "int32"),
    )
    assert kept.count.numpy().tolist() == [0, 0]
    assert kept.indices.shape == (2, 3)


def slow_detections(boxes, scores, several, smallest_side=0.0, candidates=1000, max_boxes=9):
    """Boxes, scores and classes of one image, by falling score."""
    entries = []
    for i, c in np.ndindex(scores.shape):
        box = boxes[i, c] if boxes.ndim == 3 else boxes[i]
        best = several or boxes.ndim == 3 or c == scores[i].argmax()
        if best and scores[i, c] > THRESHOLDS["score_threshold"] and (box[2:] - box[:2]).min() >= smallest_side:
            entries.append((box, scores[i, c], c))
    entries = sorted(entries, key=lambda x: -x[1])[:candidates]
    if not entries:
        return []
    kept = slow_nms(*zip(*entries, strict=True), **THRESHOLDS, max_boxes=max_boxes)
    return [entries[i] for i in kept]


@pytest.mark.parametrize(
    ("own", "options"),
    [
        (False, dict(several=False)),
        (False, dict(several=True, smallest_side=10.0)),
        (True, dict(several=True, candidates=30)),
    ],
)
def test_detections_are_numpys(run, own, options):
    boxes, scores = scenes(classes=3)
    scores[2] = 0.1
    scores[1, 5] = np.nan
    if own:
        boxes = boxes[:, :, None] + np.float32([[0], [3], [-3]])
    found = run(lambda *x: detections(*x, max_boxes=9, **THRESHOLDS, **options), boxes, scores)
    held = np.nan_to_num(scores)
    for i in range(3):
        expected = slow_detections(boxes[i], held[i], **options)
        count = len(expected)
        assert found.count[i] == count
        for j, (box, score, label) in enumerate(expected):
            np.testing.assert_array_equal(found.boxes[i, j], box)
            assert (found.scores[i, j], found.classes[i, j]) == (score, label)
        assert not found.boxes[i, count:].numpy().any()
        assert not found.scores[i, count:].numpy().any()
        assert (found.classes[i, count:].numpy() == -1).all()
    assert found.count[2] == 0


def test_wrong_arguments_are_refused():
    boxes, scores = map(tf.constant, scenes())
    for call, message in (
        (lambda: nms(boxes, scores[..., 0], iou_threshold=1.5, max_boxes=3), "iou_threshold=1.5"),
        (lambda: nms(boxes, scores[..., 0], iou_threshold=0.5, max_boxes=0), "max_boxes=0"),
        (lambda: detections(boxes, scores, **THRESHOLDS, candidates=0), "candidates=0"),
        (lambda: detections(boxes[:, :7], scores, **THRESHOLDS), r"boxes of the shape \(3, 7, 4\) do not fit"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
