"""Matching, sampling and task-aligned assignment against torchvision's values and slow NumPy versions."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from keras_dl.ops.boxes import box_ciou, box_iou, pairwise
from keras_dl.ops.matching import align_tasks, hashed_uniform, match_by_iou, sample_balanced

ORACLE = np.load(pathlib.Path(__file__).parent / "oracles" / "detection.npz")


@pytest.fixture(params=["eager", "graph", "xla"])
def run(request):
    if request.param == "eager":
        return lambda function, *x: function(*map(tf.constant, x))
    return lambda function, *x: tf.function(function, jit_compile=request.param == "xla")(*map(tf.constant, x))


@pytest.mark.parametrize(("name", "options"), [("rpn", (0.7, 0.3, True)), ("head", (0.5, 0.5, False))])
def test_matching_is_torchvisions(run, name, options):
    iou = ORACLE["matching/iou"][None]
    high, low, keep_best = options
    found = run(lambda iou, mask: match_by_iou(iou, mask, high, low, keep_best), iou, np.ones((1, 6), bool))
    np.testing.assert_array_equal(found[0], ORACLE[f"matching/{name}"])
    assert len(set(found[0].numpy())) > 2
    padded = np.concatenate([iou, np.full((1, 3, iou.shape[2]), 0.9, "float32")], 1)
    mask = np.arange(9)[None] < 6
    again = run(lambda iou, mask: match_by_iou(iou, mask, high, low, keep_best), padded, mask)
    np.testing.assert_array_equal(again, found)


def test_without_objects_all_are_negative(run):
    iou = np.full((1, 2, 5), 0.8, "float32")
    found = run(lambda *x: match_by_iou(*x, 0.7, 0.3, keep_best=True), iou, np.zeros((1, 2), bool))
    assert (found.numpy() == -1).all()
    # torchvision would match each anchor to an object that overlaps with none.
    found = run(lambda *x: match_by_iou(*x, 0.7, 0.3, keep_best=True), 0 * iou, np.ones((1, 2), bool))
    assert (found.numpy() == -1).all()


def test_hashed_numbers_are_the_same_everywhere_and_even(run):
    found = run(lambda seed: hashed_uniform((4, 5000), seed), np.int32([3, -1])).numpy()
    np.testing.assert_array_equal(found, hashed_uniform((4, 5000), [3, -1]))
    counts = np.histogram(found, 20, (0, 1))[0]
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(950)  # five standard deviations
    other = hashed_uniform((4, 5000), [3, 0]).numpy()
    assert abs(np.corrcoef(found.ravel(), other.ravel())[0, 1]) < 5 / np.sqrt(found.size)
    assert abs(np.corrcoef(found.ravel()[1:], found.ravel()[:-1])[0, 1]) < 5 / np.sqrt(found.size)


def slow_sample(matches, keys, size, share):
    positive = sorted(np.flatnonzero(matches >= 0), key=lambda i: (keys[i], i))[: int(size * share)]
    negative = sorted(np.flatnonzero(matches == -1), key=lambda i: (keys[i], i))[: size - len(positive)]
    return positive, negative


@pytest.mark.parametrize("count", [300, 20])
def test_sampling_is_numpys(run, count):
    random = np.random.default_rng(0)
    matches = random.choice([-2, -1, 0, 3], (6, count), p=[0.2, 0.4, 0.2, 0.2]).astype("int32")
    matches[0], matches[1], matches[2] = -1, 5, -2
    matches[3, 4:] = -1
    keys = np.floor(random.uniform(0, 1, matches.shape) * 64).astype("float32") / 64  # many are equal
    found = run(lambda *x: sample_balanced(*x, 32, 0.25), matches, keys)
    for i in range(6):
        positive, negative = slow_sample(matches[i], keys[i], 32, 0.25)
        p, n = len(positive), len(negative)
        np.testing.assert_array_equal(found.indices[i], positive + negative + [0] * (32 - p - n))
        np.testing.assert_array_equal(found.positive[i], np.arange(32) < p)
        np.testing.assert_array_equal(found.chosen[i], np.arange(32) < p + n)


def test_a_sample_of_an_unknown_number():
    specs = [tf.TensorSpec((None, None), dtype) for dtype in (tf.int32, tf.float32)]
    sample = tf.function(lambda *x: sample_balanced(*x, 4, 0.5), input_signature=specs)
    for count in (0, 3, 9):
        matches, keys = np.full((2, count), -1, "int32"), np.linspace(0, 0.9, 2 * count, dtype="float32")
        found = sample(matches, keys.reshape(2, count))
        assert found.chosen.numpy().sum(1).tolist() == [min(count, 4)] * 2
        np.testing.assert_array_equal(found.indices[0], [*range(min(count, 4)), *[0] * (4 - min(count, 4))])


def slow_alignment(scores, predictions, points, boxes, classes, k, alpha, beta, smallest_side):
    """The object and the weight of each point of one image."""
    u = np.maximum(np.asarray(pairwise(box_ciou, boxes, predictions)), 0)
    t = np.zeros_like(u)
    for i, (box, label) in enumerate(zip(boxes, classes, strict=True)):
        middle, half = (box[:2] + box[2:]) / 2, np.maximum(box[2:] - box[:2], smallest_side) / 2
        inside = (np.abs(points - middle) < half - 1e-9).all(1) & (label >= 0)
        t[i] = np.where(inside, scores[:, label] ** np.float32(alpha) * u[i] ** np.float32(beta), 0)
    taken = np.zeros_like(t, bool)
    for i in range(len(boxes)):
        taken[i, sorted(range(len(points)), key=lambda p: (-t[i, p], p))[:k]] = True
    taken &= t > 0
    objects, weights = np.full(len(points), -1), np.zeros(len(points))
    for p in np.flatnonzero(taken.any(0)):
        objects[p] = max(np.flatnonzero(taken[:, p]), key=lambda i: u[i, p])
    for i in range(len(boxes)):
        own = objects == i
        if own.any():
            weights[own] = t[i, own] / t[i, own].max() * u[i, own].max()
    return objects, weights


@pytest.mark.parametrize(
    "options",
    [dict(k=5, alpha=0.5, beta=6.0, smallest_side=0.0), dict(k=13, alpha=1.0, beta=6.0, smallest_side=16.0)],
    ids=["plain", "enlarged"],
)
def test_alignment_is_numpys(run, options):
    random = np.random.default_rng(0)
    points = (np.stack(np.meshgrid(*[np.arange(8)] * 2), -1).reshape(-1, 2) * 8 + 4).astype("float32")
    corner = random.uniform(0, 40, (3, 6, 2))
    boxes = np.concatenate([corner, corner + random.uniform(3, 24, (3, 6, 2))], -1).astype("float32")
    boxes[0, 5] = boxes[0, 4] + 1  # nearly the same points
    boxes[1, 0] = [17, 17, 19, 19]  # between the points
    classes = random.integers(0, 3, (3, 6)).astype("int32")
    classes[1, 4:], classes[2] = -1, -1
    scores = random.uniform(0, 1, (3, 64, 3)).astype("float32")
    predictions = np.concatenate([points - 8, points + 8], 1) + random.normal(0, 3, (3, 64, 4))
    predictions = predictions.astype("float32")
    predictions[1, 18] = [17, 17, 20, 20]
    found = run(lambda *x: align_tasks(*x, **options), scores, predictions, points, boxes, classes)
    for i in range(3):
        objects, weights = slow_alignment(scores[i], predictions[i], points, boxes[i], classes[i], **options)
        np.testing.assert_array_equal(found.objects[i], objects)
        np.testing.assert_allclose(found.weights[i], weights, rtol=1e-4, atol=1e-6)
    assert (found.objects[2].numpy() == -1).all()
    assert (0 in found.objects[1].numpy()) == (options["smallest_side"] > 0)


def test_alignment_survives_nan():
    points = tf.constant([[2.0, 2.0], [3.0, 3.0]])
    boxes = tf.constant([[[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 0.0, 0.0]]])
    scores = tf.constant([[[np.nan], [0.5]]], tf.float32)
    found = align_tasks(scores, tf.repeat(boxes[:, :1], 2, 1), points, boxes, tf.constant([[0, 0]]), overlap=box_iou)
    assert found.objects.numpy().tolist() == [[-1, 0]]
    np.testing.assert_allclose(found.weights, [[0, 1]])


def test_wrong_arguments_are_refused():
    iou, mask = tf.zeros((1, 2, 3)), tf.ones((1, 2), bool)
    for call, message in (
        (lambda: match_by_iou(iou, mask, 1.5), r"high=1.5 must be in \(0, 1\]"),
        (lambda: match_by_iou(iou, mask, 0.5, 0.7), "low=0.7"),
        (lambda: sample_balanced(tf.zeros((1, 3), tf.int32), tf.zeros((1, 3)), 0, 0.5), "size=0"),
        (lambda: sample_balanced(tf.zeros((1, 3), tf.int32), tf.zeros((1, 3)), 2, 1.5), "positive_share=1.5"),
        (lambda: align_tasks(iou, iou, iou, iou, iou, k=0), "k=0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
