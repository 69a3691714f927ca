"""COCO's metric through padded arrays, beside the evaluator fed by its own files; and mean IoU with ignored labels."""

import contextlib
import io
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from pycocotools import mask as encoding
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from keras_dl.metrics import CocoCallback, CocoMetric, MeanIoU, coco_scores

SIDE, CLASSES = 140, 3


def scenes(count=8, seed=0):
    """Targets and detections of images; some without objects, some without detections."""
    random = np.random.default_rng(seed)
    n, m = 6, 9
    corner = random.integers(0, 60, (count, n, 2))
    boxes = np.concatenate([corner, corner + random.integers(6, 75, (count, n, 2))], -1).astype("float32")
    classes = random.integers(0, CLASSES, (count, n))
    classes[0], classes[1:, 4:] = -1, -1
    found = np.concatenate([boxes + random.normal(0, 3, boxes.shape), boxes[:, :3] + 40], 1).astype("float32")
    found[..., 2:] = np.maximum(found[..., 2:], found[..., :2])
    labels = np.concatenate([np.maximum(classes, 0), random.integers(0, CLASSES, (count, 3))], 1)
    counts = random.integers(2, m + 1, count)
    counts[1] = 0
    y, x = np.mgrid[:SIDE, :SIDE]
    rings = [
        (np.abs(x - b[..., :1, None]) < 30) & (np.abs(y - b[..., 1:2, None]) < 25) for b in (boxes + 20, found + 20)
    ]
    scores = random.uniform(size=(count, m))
    targets = dict(boxes=boxes, classes=classes, crowd=random.uniform(size=(count, n)) < 0.2, masks=rings[0])
    return targets, dict(boxes=found, classes=labels, scores=scores, count=counts, masks=rings[1])


def by_files(targets, detections, kind, folder):
    """What the evaluator says of JSON files."""
    images, truth, found = [], [], []
    for i in range(len(targets["boxes"])):
        images.append(dict(id=i + 1, width=SIDE, height=SIDE))
        for j in np.flatnonzero(targets["classes"][i] >= 0):
            x1, y1, x2, y2 = map(float, targets["boxes"][i, j])
            mask = encoding.encode(np.asfortranarray(targets["masks"][i, j], "uint8"))
            mask["counts"] = mask["counts"].decode()
            row = dict(id=len(truth) + 1, image_id=i + 1, category_id=int(targets["classes"][i, j]) + 1)
            row |= dict(bbox=[x1, y1, x2 - x1, y2 - y1], iscrowd=int(targets["crowd"][i, j]), segmentation=mask)
            truth.append(row | dict(area=int(targets["masks"][i, j].sum())))
        for j in range(detections["count"][i]):
            x1, y1, x2, y2 = map(float, detections["boxes"][i, j])
            row = dict(image_id=i + 1, category_id=int(detections["classes"][i, j]) + 1)
            row |= dict(score=float(detections["scores"][i, j]))
            if kind == "box":
                found.append(row | dict(bbox=[x1, y1, x2 - x1, y2 - y1]))
            else:
                mask = encoding.encode(np.asfortranarray(detections["masks"][i, j], "uint8"))
                found.append(row | dict(segmentation=mask | {"counts": mask["counts"].decode()}))
    categories = [dict(id=i + 1, name=str(i)) for i in range(CLASSES)]
    for name, content in (("truth", dict(images=images, annotations=truth, categories=categories)), ("found", found)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(folder / "truth.json")
        evaluated = COCOeval(coco, coco.loadRes(str(folder / "found.json")), "segm" if kind == "mask" else "bbox")
        evaluated.evaluate()
        evaluated.accumulate()
        evaluated.summarize()
    return evaluated.stats


NAMES = ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", None, None, "AR"]


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_figures_are_those_of_files(kind, tmp_path):
    targets, detections = scenes()
    expected = by_files(targets, detections, kind, tmp_path)
    metric = CocoMetric(CLASSES, masks=True)
    for part in (slice(0, 3), slice(3, 8)):
        metric.update(*({name: x[part] for name, x in given.items()} for given in (detections, targets)))
    found = metric.result()
    for name, value in zip(NAMES, expected, strict=False):
        if name:
            assert found[f"{kind}_{name}"] == (None if value == -1 else pytest.approx(value)), name
    assert 0.05 < found[f"{kind}_AP"] < 0.95
    per_class = metric.by_class(kind)
    assert np.mean(per_class) == pytest.approx(found[f"{kind}_AP"])


def test_an_instance_map_says_the_same_as_masks():
    targets, detections = scenes()
    masks = targets["masks"].copy()
    for j in range(6):
        masks[:, :j] &= ~masks[:, j : j + 1]  # later objects lie over earlier ones
    instance_map = (masks * np.arange(1, 7)[:, None, None]).sum(1)
    results = []
    for given in (dict(masks=masks), dict(instance_map=instance_map)):
        metric = CocoMetric(CLASSES, masks=True)
        metric.update(detections, {name: targets[name] for name in ("boxes", "classes")} | given)
        results.append(metric.result())
    assert results[0] == results[1]


def test_a_perfect_detector_and_none():
    targets, _ = scenes()
    count = np.full(8, 6)
    labels = targets["classes"].copy()
    count[0], count[1:], labels[0] = 0, 4, 0
    perfect = dict(boxes=targets["boxes"], classes=labels, scores=np.full((8, 6), 0.9), count=count)
    del targets["crowd"]
    metric = CocoMetric(CLASSES)
    metric.update(perfect, targets)
    assert metric.result()["box_AP"] == metric.result()["box_AR"] == 1
    metric.reset()
    metric.update(perfect | {"count": 0 * count}, targets)
    assert metric.result()["box_AP"] == 0
    metric.reset()
    metric.update(perfect, targets | {"classes": np.full((8, 6), -1)})
    assert set(metric.result().values()) == {None}  # no truth
    metric.reset()
    with pytest.raises(ValueError, match="no image to judge"):
        metric.result()


def test_detections_in_a_crowd_are_not_wrong():
    targets = dict(boxes=np.float32([[[0, 0, 50, 50], [60, 0, 140, 90]]]), classes=[[0, 0]], crowd=[[False, True]])
    found = dict(boxes=[[[70, 10, 90, 40], [0, 0, 50, 50]]], scores=[[0.9, 0.5]], classes=[[0, 0]], count=[2])
    for crowd, expected in ((targets["crowd"], 1.0), ([[False, False]], 0.2525)):
        metric = CocoMetric(1)
        metric.update(found, targets | {"crowd": crowd})
        assert metric.result()["box_AP50"] == pytest.approx(expected, abs=1e-3)


def test_wrong_arrays_are_refused():
    targets, detections = scenes()
    metric = CocoMetric(CLASSES)
    for change, message in (
        (dict(boxes=-detections["boxes"]), "detections of image 0 hold the box .*must be left, top, right, bottom"),
        (dict(classes=detections["classes"] + 1), r"detections of image . hold the class 3; .* in \[0, 3\)"),
        (dict(scores=np.full((8, 9), np.nan)), "a score that is not finite"),
        (dict(boxes=np.full((8, 9, 4), np.nan)), "a box that is not finite"),
        (dict(count=np.full(8, 10)), "count=10 of image 0"),
        (dict(scores=None), "detections must hold scores"),
    ):
        metric.reset()
        with pytest.raises(ValueError, match=message):
            metric.update(detections | change, targets)
    with pytest.raises(ValueError, match="masks or instance_map"):
        CocoMetric(CLASSES, masks=True).update(detections, {"boxes": targets["boxes"], "classes": targets["classes"]})
    for given, change, message in (
        (0, dict(count=np.full((8, 1), 2)), r"detections hold count of the shape \(8, 1\); it must have 1 axes"),
        (0, dict(scores=detections["scores"][:, :4]), r"detections hold scores of the shape \(8, 4\).* ones \(8, 9\)"),
        (0, {name: x[:7] for name, x in detections.items()}, r"detections hold classes of the shape \(7, 9\)"),
        (1, {name: x[:7] for name, x in targets.items()}, r"detections hold classes of .*the first ones \(7, 9\)"),
        (1, dict(classes=targets["classes"][:, :1]), r"targets hold classes of the shape \(8, 1\)"),
        (1, dict(boxes=targets["boxes"][..., 0]), r"targets hold boxes of the shape \(8, 6\); it must have 3 axes"),
    ):
        metric.reset()
        both = [detections, targets]
        both[given] = both[given] | change
        with pytest.raises(ValueError, match=message):
            metric.update(*both)
    wrong = targets["boxes"][..., ::-1]
    metric.reset()
    with pytest.raises(ValueError, match="targets of image 1 hold the box"):
        metric.update(detections, targets | {"boxes": wrong})
    with pytest.raises(ValueError, match="no image"):  # nor was the first one, which is right, added
        metric.result()


def test_masks_of_boxes_are_refused():
    """The evaluator would find no overlap with them, and say 0."""
    targets, detections = scenes()
    small = detections | {"masks": np.ones((8, 9, 28, 28))}
    for given in (targets, {name: x for name, x in targets.items() if name != "masks"}):
        given = given if "masks" in given else given | {"instance_map": np.zeros((8, SIDE, SIDE), int)}
        with pytest.raises(ValueError, match=r"masks of 28 x 28 pixels, and targets those of 140 x 140\. .*paste=True"):
            CocoMetric(CLASSES, masks=True).update(small, given)
    CocoMetric(CLASSES).update(small, targets)  # not looked at


def test_the_callback_adds_to_the_history():
    targets, detections = scenes()

    class Detector(keras.Sequential):
        def detect(self, images):
            return {name: x for name, x in detections.items() if name != "masks"}

    model = Detector([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(loss="mse")
    data = [(np.zeros((8, 1)), {name: targets[name] for name in ("boxes", "classes", "crowd")})]
    x = np.zeros((4, 1))
    history = model.fit(x, x, epochs=4, verbose=0, callbacks=[CocoCallback(data, CLASSES, every=2)]).history
    assert len(history["val_box_AP50"]) == 2
    assert history["val_box_AP50"][0] == coco_scores(model.detect, data, CLASSES)["box_AP50"] > 0


# Mean IoU


def slow_mean_iou(truth, found, classes, ignored):
    truth, found = truth[truth != ignored], found[truth != ignored]
    values = []
    for c in range(classes):
        union = ((truth == c) | (found == c)).sum()
        if union:
            values.append(((truth == c) & (found == c)).sum() / union)
    return np.mean(values)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_mean_iou_is_numpys(jit_compile):
    random = np.random.default_rng(0)
    truth = random.choice([0, 1, 2, 255], (4, 9, 7), p=[0.5, 0.2, 0.1, 0.2]).astype("uint8")
    logits = random.normal(size=(4, 9, 7, 5)).astype("float32")
    logits[..., 4] = -9  # neither in the truth nor predicted
    metric = MeanIoU(num_classes=5)
    update = tf.function(metric.update_state, jit_compile=jit_compile)
    for i in (0, 2):
        update(tf.constant(truth[i : i + 2]), tf.constant(logits[i : i + 2]))
    found = logits.argmax(-1)
    assert float(metric.result()) == pytest.approx(slow_mean_iou(truth, found, 5, 255))
    assert np.isnan(metric.by_class()).tolist() == [False] * 4 + [True]
    others = MeanIoU.from_config(metric.get_config() | {"background": False})
    others.update_state(truth[..., None], found)
    assert float(others.result()) == pytest.approx(np.mean(metric.by_class()[1:4]))


def test_unjudged_and_wrong_labels():
    metric = MeanIoU(num_classes=2)
    labels = np.array([[[0, 1, 1]]])
    metric.update_state(np.full((1, 1, 3), 255), labels)
    assert float(metric.result()) == 0
    metric.update_state(np.array([[[0, 1, 0]]]), labels, sample_weight=np.array([[[1.0, 1.0, 0.0]]]))
    assert float(metric.result()) == 1
    metric.update_state(labels + 1, labels)
    assert np.isnan(float(metric.result()))
    with pytest.raises(ValueError, match="num_classes=0"):
        MeanIoU(0)


def test_counts_are_exact_above_2_to_the_24():
    metric = MeanIoU(num_classes=2)
    metric.confusion.assign(np.int64([[2**24, 0], [0, 2**24]]))
    metric.update_state(np.array([[[0, 1]]]), np.array([[[0, 0]]]))
    assert metric.confusion.numpy().tolist() == [[2**24 + 1, 0], [1, 2**24]]
