"""YOLO's recipe: how scenes change, what the papers' data become, files of a part; its baseline, and its pictures."""

import keras
import matplotlib.figure
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from test_object_data import mocked

import keras_dl
from keras_dl.averaging import RampedAdamW, RampedSGD
from keras_dl.export.errors import SignatureError
from keras_dl.recipes import yolo
from keras_dl.recipes.datasets import digit_scenes
from keras_dl.recipes.tasks import detection_baseline, detection_pictures
from keras_dl.recipes.training.recipe import Data

RECIPE = yolo.RECIPE
SMALL = dict(depth=0.1, width=0.06, bins=4, max_detections=9)


@pytest.fixture
def digits(tmp_path, monkeypatch):
    """The options, and the data of ten scenes for training and five for the test."""
    monkeypatch.setattr(digit_scenes.DigitScenes, "EXAMPLES", {"train": 10, "test": 5})
    options = RECIPE.options(batch_size=5, epochs=12, data_dir=str(tmp_path))
    return options, RECIPE.load_data(options, "model")


# Data.


def test_scenes_become_other_scenes_in_each_epoch(digits):
    _, data = digits
    assert (data.num_train, data.num_test, data.labels) == (10, 5, tuple("0123456789"))
    epochs = [list(data.train(tf.constant(n)).as_numpy_iterator()) for n in (0, 0, 11)]
    for images, targets in epochs[0]:
        assert images.shape == (5, 96, 96, 3)
        assert 0 <= images.min() < images.max() <= 255
        assert targets["boxes"].shape == (5, 24, 4)
        assert targets["classes"].shape == (5, 24)
    np.testing.assert_array_equal(epochs[0][0][0], epochs[1][0][0])
    counts = [np.concatenate([(t["classes"] >= 0).sum(1) for _, t in epoch]) for epoch in (epochs[0], epochs[2])]
    assert counts[0].max() > 6 >= counts[1].max()  # the last ten epochs have no mosaics
    images, targets = next(data.test.as_numpy_iterator())
    assert images.dtype == "uint8"
    assert targets["boxes"].shape == (5, 6, 4)


def test_an_object_is_under_its_box_after_a_change():
    """A white rectangle on black: the bright pixels and the box agree to a pixel."""
    image = np.zeros((96, 96, 3), "float32")
    image[30:60, 40:56] = 255
    sample = {"image": tf.constant(image), "boxes": tf.constant([[40.0, 30, 56, 60]]), "classes": tf.constant([3])}
    shapes = set()
    for seed in range(12):
        found = yolo.stretched(sample, (seed, 0), (96, 96))
        rows, columns = np.nonzero(np.asarray(found["image"])[..., 0] > 200)
        bright = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(found["boxes"][0], bright, atol=1.0)
        left, top, right, bottom = found["boxes"][0].numpy()
        shapes.add((round(float(right - left), 1), round(float((bottom - top) / (right - left)), 2)))
    ratios = [ratio for _, ratio in shapes]
    assert 30 / 16 / 1.16 < min(ratios) < max(ratios) < 30 / 16 * 1.16
    assert max(ratios) / min(ratios) > 1.1


def test_tints_stay_in_range():
    image = np.random.default_rng(0).uniform(0, 255, (4, 5, 3)).astype("float32")
    tinted = np.asarray(yolo.tinted(image, (0, 0)))
    assert 0 <= tinted.min() < tinted.max() <= 255
    assert np.abs(tinted - image).max() > 1


@pytest.mark.parametrize(("name", "key"), [("coco/2017", "is_crowd"), ("voc/2007", "is_difficult")])
@pytest.mark.filterwarnings("ignore:image .* objects without area")
def test_papers_data_and_settings(name, key, tmp_path, monkeypatch):
    monkeypatch.setitem(yolo.SIDES, name, 64)
    with tfds.testing.mock_data(num_examples=4, as_dataset_fn=mocked(key)):
        options = RECIPE.options(name, batch_size=2, data_dir=str(tmp_path))
        data = RECIPE.load_data(options, "model")
        images, targets = next(data.train(tf.constant(0)).as_numpy_iterator())
    assert images.shape == (2, 64, 64, 3)
    assert targets["boxes"].shape == (2, yolo.MAX_BOXES[name] * (4 if name == "coco/2017" else 1), 4)
    if name == "voc/2007":
        small = keras_dl.YOLOv1(image_shape=data.input_shape, num_classes=20, width=0.02, hidden_dim=4)
        monkeypatch.setattr(yolo, "net", lambda data, dataset: small)
    model = RECIPE.build_model(data, options, "model")
    rate = model.optimizer._learning_rate
    steps = data.steps(options)
    if name == "coco/2017":
        assert isinstance(model.optimizer, RampedSGD)
        assert model.optimizer.ema_momentum == 0.9999
        assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == 3_157_184
        assert float(rate(steps)) == pytest.approx(1e-4)
    else:
        epochs = np.array([0, 50, 90, 120]) * steps // 135
        assert [float(rate(n)) for n in epochs] == pytest.approx([1e-3, 1e-2, 1e-3, 1e-4])
        model.run_eagerly = True
        logs = model.fit(images, targets, batch_size=2, verbose=0).history
        assert np.isfinite(logs["loss"][0])


# Evaluation.


def truth(images, targets):
    """The truth as detections."""
    kept = targets["classes"] >= 0
    return {
        "boxes": targets["boxes"],
        "scores": np.where(kept, 0.9, 0).astype("float32"),
        "classes": targets["classes"],
        "count": kept.sum(1).astype("int32"),
    }


def test_the_truth_has_all_points_and_a_part_of_a_model_as_many_as_the_whole(digits, monkeypatch):
    options, data = digits
    ((images, targets),) = data.test.as_numpy_iterator()
    assert RECIPE.evaluate(lambda signature, images: truth(images, targets), data) == 1
    monkeypatch.setitem(yolo.MODELS, yolo.DIGITS, SMALL)
    keras.utils.set_random_seed(0)
    model = RECIPE.build_model(data, options, "model")
    assert isinstance(model.optimizer, RampedAdamW)

    def raw_alone(signature, images):
        if signature != "raw":
            raise SignatureError("no such signature")
        return model.raw(images)

    whole = yolo.whole(raw_alone, data)("detect", images=images)
    for name, x in model.detect(images)._asdict().items():
        np.testing.assert_allclose(whole[name], x, atol=1e-4)
    given = RECIPE.calibrate(lambda name, images: model.raw(images), data, 3)
    for name, signature in model.serving_signatures().items():
        assert len(given[name]) == 3
        assert {k: x.shape for k, x in given[name][0].items()} == {k: x.shape for k, x in signature.inputs.items()}


# The baseline.


def test_components_are_bright_and_dark_parts():
    image = np.full((96, 96, 3), 120, "uint8")
    image[10:30, 20:30] = 250
    image[50:80, 60:75] = 10
    image[5:7, 90:92] = 250  # too small
    boxes, crops = detection_baseline.components(image)
    assert boxes == [[20, 10, 30, 30], [60, 50, 75, 80]]
    assert [crop.shape for crop in crops] == [(20, 10), (30, 15)]
    assert min(crop.min() for crop in crops) == pytest.approx(255)
    digit = detection_baseline.centered(crops[0])
    assert digit.shape == (28, 28)
    rows, columns = np.nonzero(digit > 127)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 23, 9, 18)
    assert detection_baseline.detect(np.full((96, 96, 3), 50), None)[0].shape == (0, 4)


def test_a_clear_digit_is_found_and_read(digits):
    _, data = digits
    image = np.zeros((96, 96, 3), "uint8")
    image[20:60, 45:51] = 200  # a one
    boxes, scores, classes = detection_baseline.detect(image, detection_baseline._digits)
    assert boxes.tolist() == [[45, 20, 51, 60]]
    assert (classes.tolist(), scores[0] > 0.5) == ([1], True)
    name, figure = RECIPE.baseline(type("Outcome", (), {"data": data}))
    assert name == "components and a classifier"
    assert 0 < figure < 1


def test_other_objects_are_of_the_most_frequent_class():
    """Two images of one object each. The second class is the more frequent one in training."""
    images = np.zeros((2, 64, 64, 3), "uint8")
    images[:, 20:40, 10:40] = 255
    targets = {
        "boxes": np.tile(np.float32([10, 20, 40, 40]), (2, 1, 1)),
        "classes": np.int32([[1], [1]]),
        "crowd": np.zeros((2, 1), bool),
        "image_shape": np.int32([[64, 64]] * 2),
    }
    seen = tf.data.Dataset.from_tensors((images, {"classes": np.int32([[1, 1, -1], [0, -1, -1]])}))
    data = Data(
        train=lambda epoch: seen,
        test=tf.data.Dataset.from_tensors((images, targets)),
        num_train=2,
        num_test=2,
        dataset="of this test",
        version="1",
        licence="none",
        calibration=None,
        labels=("a", "b"),
        input_shape=(64, 64, 3),
        input_range="",
    )
    assert detection_baseline.components_and_classifier(data) == ("components", 1.0)


# Pictures.


def test_mistakes_are_false_and_missed_objects():
    one, two = [0, 0, 10, 10], [20, 20, 40, 40]
    real = {"boxes": np.float32([one, two]), "classes": np.int32([3, 4])}

    def badness(boxes, classes, scores):
        return detection_pictures.mistakes(np.float32(boxes).reshape(-1, 4), np.int32(classes), scores, real)

    assert badness([one, two], [3, 4], [0.9, 0.8]) == 0
    assert badness([], [], []) == 2
    assert badness([one], [4], [0.9]) == pytest.approx(2.9)  # another class
    assert badness([one, one, two], [3, 3, 4], [0.9, 0.7, 0.6]) == pytest.approx(0.7)  # found twice
    empty = {"boxes": np.zeros((0, 4), "float32"), "classes": np.zeros(0, "int32")}
    assert detection_pictures.mistakes(np.float32([one]), np.int32([1]), [0.5], empty) == 0.5


def test_the_worst_image_comes_first(digits):
    _, data = digits
    ((images, targets),) = data.test.as_numpy_iterator()
    counts = (targets["classes"] >= 0).sum(1)

    def nothing_in_one(signature, images):
        found = truth(images, targets)
        found["count"] = np.where(np.arange(5) == counts.argmax(), 0, found["count"])
        return found

    found = detection_pictures.worst(nothing_in_one, data, 2)
    assert [x.badness for x in found] == [counts.max(), 0]
    np.testing.assert_array_equal(found[0].image, images[counts.argmax()])
    figure = matplotlib.figure.Figure()
    detection_pictures.grid(figure, nothing_in_one, data, rows=2, columns=2)
    assert "5 test images, 1 with a mistake" in figure.get_suptitle()
    texts = [len(axis.texts) for axis in figure.axes]
    assert texts[0] == 0 < max(texts)


def test_masks_are_drawn():
    figure = matplotlib.figure.Figure()
    axis = figure.subplots()
    mask = np.zeros((1, 8, 8), bool)
    mask[0, 2:4, 2:4] = True
    image = np.full((8, 8, 3), 100, "uint8")
    detection_pictures.draw(axis, image, [[2, 2, 4, 4]], [1], [0.87], mask, labels=("a", "b"))
    shown = axis.images[0].get_array()
    assert (shown[0, 0] == 100).all()
    assert (shown[2, 2] != 100).any()
    assert axis.texts[0].get_text() == "b 87"
