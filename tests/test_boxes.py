"""Boxes and anchors against torchvision's values and NumPy; gradients of boxes without area."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from keras_dl.ops import boxes as box_ops
from keras_dl.ops.anchors import base_anchors, coverage, grid_points, level_anchors

ORACLE = np.load(pathlib.Path(__file__).parent / "oracles" / "detection.npz")


def random_boxes(count, seed=0, side=100.0):
    random = np.random.default_rng(seed)
    corner = random.uniform(0, side, (count, 2))
    return np.concatenate([corner, corner + random.uniform(1, 40, (count, 2))], 1)


@pytest.mark.parametrize(
    ("there", "back"),
    [
        (box_ops.xyxy_to_xywh, box_ops.xywh_to_xyxy),
        (box_ops.xyxy_to_cxcywh, box_ops.cxcywh_to_xyxy),
        (lambda x: box_ops.xyxy_to_yxyx(x, 50, 80), lambda x: box_ops.yxyx_to_xyxy(x, 50, 80)),
        (lambda x: box_ops.xyxy_to_ltrb(x, [[7.0, 9.0]]), lambda x: box_ops.ltrb_to_xyxy(x, [[7.0, 9.0]])),
        (
            lambda x: box_ops.encode_boxes(x, random_boxes(20, seed=1), (10, 10, 5, 5)),
            lambda x: box_ops.decode_boxes(x, random_boxes(20, seed=1), (10, 10, 5, 5)),
        ),
    ],
    ids=["xywh", "cxcywh", "yxyx", "ltrb", "codes"],
)
def test_there_and_back(there, back):
    boxes = random_boxes(20)
    np.testing.assert_allclose(back(there(boxes)), boxes, rtol=1e-12)
    assert there(boxes.astype("float16")).dtype == tf.float32
    assert np.abs(there(boxes) - boxes).max() > 1


@pytest.mark.parametrize("name", ["iou", "giou", "ciou"])
def test_overlaps_are_torchvisions(name):
    a, b = ORACLE["overlap/a"], ORACLE["overlap/b"]
    function = getattr(box_ops, f"box_{name}")
    found = box_ops.pairwise(function, a, b)
    np.testing.assert_allclose(found, ORACLE[f"overlap/{name}"], rtol=1e-5, atol=1e-6)
    if name == "iou":
        return
    x = tf.Variable(a[:9])
    with tf.GradientTape() as tape:
        loss = 1 - function(x, b)
        total = tf.reduce_sum(loss)
    np.testing.assert_allclose(loss, ORACLE[f"overlap/{name}_loss"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(tape.gradient(total, x), ORACLE[f"overlap/{name}_gradient"], rtol=1e-4, atol=1e-6)


def slow_overlaps(a, b):
    """IoU, GIoU and CIoU of two boxes."""
    (w, h), (v, g) = (x[2:] - x[:2] for x in (a, b))
    width, height = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    union = w * h + v * g - width * height
    iou = width * height / union
    hull = np.maximum(a[2:], b[2:]) - np.minimum(a[:2], b[:2])
    distance = np.sum(((a[:2] + a[2:]) / 2 - (b[:2] + b[2:]) / 2) ** 2) / np.sum(hull**2)
    shape = 4 / np.pi**2 * (np.arctan(w / h) - np.arctan(v / g)) ** 2
    return iou, iou - 1 + union / hull.prod(), iou - distance - shape**2 / (1 - iou + shape)


def test_overlaps_are_numpys():
    a, b = random_boxes(30), random_boxes(30, seed=2)
    expected = [slow_overlaps(x, y) for x, y in zip(a, b, strict=True)]
    found = [function(a, b) for function in (box_ops.box_iou, box_ops.box_giou, box_ops.box_ciou)]
    np.testing.assert_allclose(np.stack(found, 1), expected, rtol=1e-6, atol=1e-8)


DEGENERATE = {
    "a point and itself": ([5, 5, 5, 5], [5, 5, 5, 5]),
    "a line and itself": ([5, 5, 5, 9], [5, 5, 5, 9]),
    "a point in a box": ([5, 5, 5, 5], [0, 0, 9, 9]),
    "a point at a corner": ([0, 0, 0, 0], [0, 0, 9, 9]),
    "a flat line": ([1, 5, 8, 5], [0, 0, 9, 9]),
    "turned over": ([8, 8, 2, 2], [0, 0, 9, 9]),
    "equal": ([0, 0, 9, 9], [0, 0, 9, 9]),
    "apart": ([0, 0, 2, 2], [50, 50, 60, 60]),
}


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("function", [box_ops.box_iou, box_ops.box_giou, box_ops.box_ciou])
def test_boxes_without_area_have_finite_gradients(function, jit_compile):
    @tf.function(jit_compile=jit_compile)
    def gradients(a, b):
        value = function(a, b)
        return value, *tf.gradients(value, [a, b])

    a, b = (tf.constant(list(x), tf.float32) for x in zip(*DEGENERATE.values(), strict=True))
    for values in (a, b), (b, a), (a * 1e-8, b * 1e-8):
        value, *found = gradients(*values)
        for x in (value, *found):
            assert np.isfinite(x).all()
    assert np.abs(gradients(a, b)[1]).max() < 10


def test_codes_are_torchvisions():
    anchors, weights = ORACLE["codes/anchors"], (10.0, 10.0, 5.0, 5.0)
    found = box_ops.encode_boxes(ORACLE["codes/boxes"], anchors, weights)
    np.testing.assert_allclose(found, ORACLE["codes/encoded"], rtol=1e-5, atol=1e-5)
    decoded = box_ops.decode_boxes(ORACLE["codes/raw"], anchors, weights)
    np.testing.assert_allclose(decoded, ORACLE["codes/decoded"], rtol=1e-5, atol=1e-3)
    padding = box_ops.encode_boxes(np.zeros((8, 4), "float32"), anchors, weights)
    assert np.isfinite(padding).all()


# Anchors


def test_anchors_are_torchvisions():
    found = level_anchors((96, 128), [(12, 16), (5, 8)], sizes=[(32,), (64, 100)], rounded=True)
    np.testing.assert_array_equal(np.concatenate(found), ORACLE["anchors/all"])


def test_exact_anchors_have_the_area_and_the_ratio():
    base = base_anchors([32, 50], [0.5, 1.0, 3.0])
    width, height = (base[:, 2:] - base[:, :2]).T
    np.testing.assert_allclose(width * height, np.tile([32**2, 50**2], 3), rtol=1e-6)
    np.testing.assert_allclose(height / width, np.repeat([0.5, 1, 3], 2), rtol=1e-6)
    np.testing.assert_array_equal(base[:, :2], -base[:, 2:])


def test_points_and_anchors_are_in_the_order_of_a_map():
    points = grid_points((3, 5), (8, 16)).reshape(3, 5, 2)
    assert points[2, 1].tolist() == [24.0, 20.0]
    anchors = level_anchors((24, 80), [(3, 5)], sizes=[[4]], ratios=[1, 4], offset=0.5)[0].reshape(3, 5, 2, 4)
    middles = (anchors[..., :2] + anchors[..., 2:]) / 2
    np.testing.assert_allclose(middles, np.broadcast_to(points[:, :, None], (3, 5, 2, 2)))


def test_coverage_is_the_highest_iou():
    anchors = level_anchors((64, 64), [(8, 8), (4, 4)], sizes=[[8], [16]])
    boxes = random_boxes(300, side=50)
    best = np.max(box_ops.pairwise(box_ops.box_iou, boxes, np.concatenate(anchors)), axis=1)
    np.testing.assert_allclose(coverage(boxes, anchors), best, rtol=1e-5)
    assert coverage(np.zeros((0, 4)), anchors).shape == (0,)
    assert coverage([[3, 3, 3, 3]], anchors) == 0


def test_wrong_anchors_are_refused():
    for call, message in (
        (lambda: base_anchors([0], [1]), r"sizes=\[0\]"),
        (lambda: base_anchors([8], []), r"ratios=\[\]"),
        (lambda: level_anchors((8, 8), [(2, 2)], [[8], [16]]), "one sequence for each of the 1 levels"),
        (lambda: level_anchors((8, 8), [(16, 2)], [[8]]), "more places than"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
