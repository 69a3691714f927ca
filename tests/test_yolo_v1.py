"""The YOLO of 2015: its size, and its loss against a slow version by the paper and darknet."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_dl
from keras_dl.models.detection.yolo_v1 import CONVOLUTIONS, POOL, pretraining_classifier

SHAPE, CLASSES = (128, 192, 3), 3  # 2 x 3 cells


def tiny(**arguments):
    given = dict(image_shape=SHAPE, num_classes=CLASSES, width=0.02, hidden_dim=8, dropout_rate=0.0)
    return keras_dl.YOLOv1(**(given | arguments))


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return tiny()


@pytest.fixture
def outputs():
    rng = np.random.default_rng(0)
    shapes = dict(boxes=(2, 2, 3, 2, 4), confidences=(2, 2, 3, 2), classes=(2, 2, 3, CLASSES))
    return {name: rng.uniform(-0.2, 1, shape).astype("float32") for name, shape in shapes.items()}


def targets():
    """Two objects in cells of their own and one that shares a cell; none in the second image."""
    boxes = np.zeros((2, 4, 4), "float32")
    boxes[0, :3] = [(10, 20, 60, 50), (100, 60, 190, 126), (12, 22, 40, 52)]
    classes = np.int32([[1, 2, 0, -1], [-1] * 4])
    return {"boxes": boxes, "classes": classes}


def losses(model, outputs, y):
    outputs, y = ({k: tf.constant(v) for k, v in x.items()} for x in (outputs, y))
    return {k: float(v) for k, v in model.detection_losses(outputs, np.zeros((2, *SHAPE)), y, True).items()}


def iou(a, b):
    """Of two boxes cx, cy, w, h."""
    (a_low, a_high), (b_low, b_high) = ((x[:2] - x[2:] / 2, x[:2] + x[2:] / 2) for x in map(np.array, (a, b)))
    sides = np.minimum(a_high, b_high) - np.maximum(a_low, b_low)
    common = max(sides[0], 0) * max(sides[1], 0)
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def slow_losses(outputs, y, box_weight=5.0, empty_weight=0.5):
    """Cell by cell, in shares of the image."""
    rows, columns = outputs["boxes"].shape[1:3]
    sums, taken = dict(box=0.0, confidence=0.0), set()
    sums["class"] = 0.0
    owners = {}
    for image in range(2):
        for box, label in zip(y["boxes"][image], y["classes"][image], strict=True):
            if label < 0:
                continue
            left, top, right, bottom = box / np.tile([SHAPE[1], SHAPE[0]], 2)
            truth = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
            cell = (image, int(truth[1] * rows), int(truth[0] * columns))
            owners.setdefault(cell, (truth, label))
    for cell in np.ndindex(2, rows, columns):
        responsible = None
        if cell in owners:
            truth, label = owners[cell]
            predicted = []
            for x, y_, w, h in outputs["boxes"][cell]:
                predicted.append(((cell[2] + x) / columns, (cell[1] + y_) / rows, w * w, h * h))
            overlaps = [iou(p, truth) for p in predicted]
            distances = [np.sqrt(np.sum(np.square(np.subtract(p, truth)))) for p in predicted]
            responsible = int(np.argmax(overlaps)) if max(overlaps) > 0 else int(np.argmin(distances))
            taken.add((cell, responsible, max(overlaps) > 0))
            x, y_, w, h = outputs["boxes"][cell][responsible]
            sums["box"] += box_weight * (
                (x - (truth[0] * columns - cell[2])) ** 2
                + (y_ - (truth[1] * rows - cell[1])) ** 2
                + (w - np.sqrt(truth[2])) ** 2
                + (h - np.sqrt(truth[3])) ** 2
            )
            sums["confidence"] += (outputs["confidences"][cell][responsible] - overlaps[responsible]) ** 2
            sums["class"] += np.sum((outputs["classes"][cell] - np.eye(CLASSES)[label]) ** 2)
        for i, confidence in enumerate(outputs["confidences"][cell]):
            if i != responsible:
                sums["confidence"] += empty_weight * confidence**2
    return {name: x / 2 for name, x in sums.items()}, taken


def test_published_sizes():
    """By the shapes of the weights: the net itself takes a gigabyte."""
    channels, total = 3, 0
    for entry in CONVOLUTIONS:
        if entry is not POOL:
            total, channels = total + entry[0] * (channels * entry[1] ** 2 + 1), entry[0]
    hidden = 7 * 7 * channels * 4096 + 4096
    assert total + hidden + (4096 + 1) * 7 * 7 * 30 == 271_703_550
    assert sum(entry is not POOL for entry in CONVOLUTIONS) == 24
    assert keras_dl.YOLOv1.presets == {"redmon2015_voc": dict(image_shape=(448, 448, 3), num_classes=20)}


def test_the_published_net():
    with keras.StatelessScope(initialize_variables=False):  # shapes alone: the net takes a gigabyte
        model = keras_dl.YOLOv1.from_preset("redmon2015_voc")
        assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == 271_703_550
    assert model.grid == (7, 7)


def test_losses_are_the_sums_of_the_paper(model, outputs):
    expected, taken = slow_losses(outputs, targets())
    assert {cell for cell, _, _ in taken} == {(0, 0, 0), (0, 1, 2)}
    assert losses(model, outputs, targets()) == pytest.approx(expected, rel=1e-5)


def test_the_nearest_box_is_responsible_where_none_overlaps(model, outputs):
    """Box 1 is nearer to the object than box 0, and neither overlaps it."""
    outputs["boxes"][0, 0, 0] = [(8, 8, 0.1, 0.1), (3, 3, 0.1, 0.1)]
    expected, taken = slow_losses(outputs, targets())
    assert ((0, 0, 0), 1, False) in taken
    assert losses(model, outputs, targets()) == pytest.approx(expected, rel=1e-5)


def test_sizes_are_squares_of_what_is_predicted_and_have_finite_gradients(model, outputs):
    outputs["boxes"][..., 2:] = -0.5
    centers = model.decode(outputs["boxes"])
    np.testing.assert_allclose(centers[..., 2:], np.broadcast_to([48.0, 32.0], centers[..., 2:].shape))
    outputs["boxes"][..., 2:] = 0.0
    maps = {name: tf.Variable(x) for name, x in outputs.items()}
    with tf.GradientTape() as tape:
        y = {name: tf.constant(x) for name, x in targets().items()}
        loss = sum(model.detection_losses(maps, np.zeros((2, *SHAPE)), y, True).values())
    assert all(np.isfinite(g).all() for g in tape.gradient(loss, list(maps.values())))


def test_the_target_of_a_confidence_has_no_gradient(model, outputs):
    boxes = tf.Variable(outputs["boxes"])
    y = {name: tf.constant(x) for name, x in targets().items()}
    with tf.GradientTape() as tape:
        loss = model.detection_losses(outputs | {"boxes": boxes}, np.zeros((2, *SHAPE)), y, True)["confidence"]
    assert tape.gradient(loss, boxes) is None


def test_images_without_objects_teach_that_there_are_none(model, outputs):
    y = targets() | {"classes": np.full((2, 4), -1, "int32")}
    found = losses(model, outputs, y)
    assert found == {"box": 0, "class": 0, "confidence": pytest.approx(0.25 * np.sum(outputs["confidences"] ** 2))}


def test_objects_that_share_a_cell_are_counted(model):
    with pytest.warns(UserWarning, match="1 of 3 objects share a cell of 64 x 64"):
        assert model.lost_objects(targets()) == 1
    y = targets()
    y["classes"][0, 2] = -1
    assert model.lost_objects(y) == 0


def test_a_center_on_the_border_is_of_the_last_cell(model):
    y = targets()
    y["boxes"][0, 0] = 190, 126, 194, 130
    cells, objects = model.cells(y)
    assert (int(cells[0, 0]), int(objects[0, 5])) == (5, 0)


def test_scores_are_confidence_times_class(model, outputs):
    outputs = {name: np.zeros_like(x) for name, x in outputs.items()}
    outputs["confidences"][1, 1, 2, 1] = 0.5
    outputs["classes"][1, 1, 2] = 0.8, 0.0, 0.4
    outputs["boxes"][1, 1, 2, 1] = 0.5, 0.25, 0.5, -0.5
    found = model.postprocess(**outputs)
    assert found.count.numpy().tolist() == [0, 2]
    assert found.classes[1, :2].numpy().tolist() == [0, 2]
    np.testing.assert_allclose(found.scores[1, :2], [0.4, 0.2], rtol=1e-6)
    x, y = 2.5 * 64, 1.25 * 64
    np.testing.assert_allclose(found.boxes[1, 0], [x - 24, y - 16, x + 24, y + 16])


def test_a_pretrained_trunk_is_taken(model):
    classifier = pretraining_classifier((64, 64, 3), 4, width=0.02)
    fresh = tiny()
    fresh.load_trunk(classifier)
    for number in (1, 20):
        name = f"conv_{number}"
        np.testing.assert_array_equal(fresh.net.get_layer(name).kernel, classifier.get_layer(name).kernel)
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"classifier has a kernel conv_1 of the shape \(7, 7, 3, 3\)"):
        model.load_trunk(pretraining_classifier((64, 64, 3), 4, width=0.05))
    np.testing.assert_array_equal(before[0], model.get_weights()[0])
