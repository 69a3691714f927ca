"""DETR's recipe: what places of maps are taught first, how scenes change, and the papers' data."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from test_object_data import mocked

import keras_dl
from keras_dl.recipes import detr
from keras_dl.recipes.datasets import digit_scenes
from keras_dl.recipes.training.recipe import Outcome, Trained

RECIPE = detr.RECIPE
TINY = dict(
    num_blocks=(1, 1),
    filters=(6, 8),
    num_queries=5,
    hidden_dim=8,
    num_heads=2,
    mlp_dim=8,
    num_encoder_layers=1,
    num_decoder_layers=1,
    max_detections=5,
)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The options, and the data of twelve scenes for training and four for the test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digit_scenes.DigitScenes, "EXAMPLES", {"train": 12, "test": 4})
        options = RECIPE.options(batch_size=4, epochs=2, smoke=True, data_dir=str(tmp_path_factory.mktemp("data")))
        return options, RECIPE.load_data(options, "model")


@pytest.fixture(scope="module")
def model(digits):
    """A tiny model, built and compiled by the recipe."""
    options, data = digits
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detr, "SMALL", detr.SMALL | TINY)
        keras.utils.set_random_seed(0)
        return RECIPE.build_model(data, options, "model")


# Places.


def test_objects_of_places():
    """A large box, a smaller one in it, one that holds no center of a place, and a slot of no object."""
    boxes = tf.constant([[[0.0, 0, 40, 40], [0, 0, 20, 20], [49, 33, 55, 39], [0, 0, 0, 0]]])
    classes = tf.constant([[3, 1, 2, -1]])
    places = detr.centers((48, 64), (3, 4))
    assert places[:5].tolist() == [[8, 8], [24, 8], [40, 8], [56, 8], [8, 24]]
    found = detr.covering(boxes, classes, places, [16.0, 16.0], (48, 64), none=9).numpy()[0]
    assert found[:, 0].reshape(3, 4).tolist() == [[1, 3, 9, 9], [3, 3, 9, 9], [9, 9, 9, 2]]
    np.testing.assert_allclose(found[0, 1:], [10 / 64, 10 / 48, 20 / 64, 20 / 48])
    np.testing.assert_allclose(found[11, 1:], [52 / 64, 36 / 48, 6 / 64, 6 / 48])


def test_loss_of_places():
    target = np.float32([[[2, 0.5, 0.5, 0.2, 0.2], [3, 0, 0, 0, 0]]])  # an object, and none
    sure = np.where(np.eye(4, dtype="float32")[[[2, 3]]], 30.0, 0.0)
    boxes = np.float32([[[0.5, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1]]])
    right = tf.constant(np.concatenate([sure, boxes], -1), tf.float32)
    np.testing.assert_allclose(detr.loss_of_places(target, right), 0, atol=1e-5)
    shifted = boxes + np.float32([[[0.1, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]]])
    unsure = tf.constant(np.concatenate([0 * sure, shifted], -1), tf.float32)
    giou = 1 / 3  # half of each box is common, and the hull is the union
    expected = detr.FIRST_CLASS_LOSS * np.log(4) + 5 * 0.1 + 2 * (1 - giou)
    np.testing.assert_allclose(detr.loss_of_places(target, unsure), expected, rtol=1e-5)
    assert float(detr.accuracy_of_objects(target, right)) == 1
    assert float(detr.accuracy_of_objects(np.float32([[[1, 0, 0, 0, 0], [3, 0, 0, 0, 0]]]), right)) == 0


def test_all_but_the_decoder_learns_first(model):
    """The backbone's norms are then frozen, with statistics of the data."""
    norms = [x for x in model.backbone.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert norms
    assert not any(x.trainable for x in norms)
    assert np.abs(norms[0].moving_mean).max() > 0


def test_trains_and_is_drawn(model, digits):
    options, data = digits
    model.run_eagerly = True
    images, targets = next(data.train(tf.constant(0)).as_numpy_iterator())
    assert images.shape == (4, 96, 96, 3)
    assert targets["boxes"].shape == (4, 6, 4)
    logs = model.fit(images, targets, validation_data=(images, targets), batch_size=4, verbose=0).history
    logs = {name: values[0] for name, values in logs.items()}
    assert np.isfinite(list(logs.values())).all()
    factors = {v.path: f for v, f in zip(model.trainable_variables, model.optimizer._factors, strict=True)}
    assert factors["stem/kernel"] == detr.BODY_FACTOR
    assert factors["transformer/queries"] == 1
    task = RECIPE.tasks[detr.SCENES]
    outcome = Outcome(options, task, model, {"model": Trained(0.0, [logs, logs], 1.0, data)})
    assert {axis.get_title(loc="left") for axis in detr.picture(outcome).axes} >= {"Loss of all decoder layers"}
    assert list(detr.figures(outcome)) == ["box AP", "box AP75"]


# Data and metric.


def test_scenes_change_with_their_boxes():
    """A white rectangle on black is under its box, inverted or not."""
    image = np.zeros((96, 96, 3), "float32")
    image[30:60, 40:56] = 255
    sample = {"image": tf.constant(image), "boxes": tf.constant([[40.0, 30, 56, 60]]), "classes": tf.constant([3])}
    inverted, widths = set(), set()
    for seed in range(12):
        found = detr.changed_scene(sample, tf.constant([seed, 1]))
        shown, (left, top, right, bottom) = found["image"].numpy()[..., 0], found["boxes"][0].numpy()
        assert found["classes"].numpy().tolist() == [3]
        middle = shown[int(top + bottom) // 2, int(left + right) // 2]
        inverted.add(bool(middle < 128))
        rows, columns = np.nonzero(np.abs(shown - middle) < 40)
        edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose([left, top, right, bottom], edges, atol=1.01)
        widths.add(round(float(right - left)))
    assert inverted == {True, False}
    assert len(widths) > 3


def test_truth_has_the_best_metric(digits):
    _, data = digits
    truth = iter([targets for _, targets in data.test.as_numpy_iterator()])

    def serve(signature, images):
        targets = next(truth)
        kept = targets["classes"] >= 0  # objects come first
        return {"boxes": targets["boxes"], "scores": kept * 0.9, "classes": targets["classes"], "count": kept.sum(1)}

    assert RECIPE.evaluate(serve, data) == pytest.approx(1.0)


@pytest.mark.parametrize(("name", "key"), [("coco/2017", "is_crowd"), ("voc/2007", "is_difficult")])
@pytest.mark.filterwarnings("ignore:image .* objects without area")
def test_papers_data_and_settings(name, key, tmp_path, monkeypatch):
    monkeypatch.setitem(detr.PUBLISHED, name, ((64, 96), 7))
    with tfds.testing.mock_data(num_examples=4, as_dataset_fn=mocked(key)):
        options = RECIPE.options(name, batch_size=2, data_dir=str(tmp_path))
        data = RECIPE.load_data(options, "model")
        images, targets = next(data.train(tf.constant(0)).as_numpy_iterator())
    assert images.shape == (2, 64, 96, 3)
    assert targets["boxes"].shape == (2, 7, 4)
    preset = keras_dl.DETR.presets["detr_resnet50"]
    monkeypatch.setitem(keras_dl.DETR.presets, "detr_resnet50", preset | TINY)
    model = RECIPE.build_model(data, options, "model")
    assert model.num_classes == len(data.labels)
    assert not model.frozen_norms
    assert (model.optimizer.decay, model.optimizer.global_clipnorm) == (1e-4, 0.1)
    assert model.optimizer.rate_factors == {keras_dl.DETR.BODY: 0.1}
