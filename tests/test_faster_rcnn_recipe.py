"""Faster R-CNN's recipe: how scenes change, what the data sets' nets are, its figures and its picture."""

import keras
import matplotlib.figure
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from test_object_data import mocked

from keras_dl.recipes import faster_rcnn
from keras_dl.recipes.datasets import digit_scenes
from keras_dl.recipes.training import augment_objects as augment
from keras_dl.recipes.training.recipe import Outcome, Trained

RECIPE = faster_rcnn.RECIPE


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The options, and the data of ten scenes for training and five for the test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digit_scenes.DigitScenes, "EXAMPLES", {"train": 10, "test": 5})
        options = RECIPE.options(batch_size=5, epochs=2, data_dir=str(tmp_path_factory.mktemp("tfds")))
        return options, RECIPE.load_data(options, "model")


def truth(targets):
    """The truth as detections."""
    kept = targets["classes"] >= 0
    return {
        "boxes": targets["boxes"],
        "scores": np.where(kept, 0.9, 0).astype("float32"),
        "classes": targets["classes"],
        "count": kept.sum(1).astype("int32"),
    }


def test_scenes_become_other_scenes_in_each_epoch(digits):
    _, data = digits
    assert (data.num_train, data.num_test, data.labels) == (10, 5, tuple("0123456789"))
    first, again, later = (list(data.train(tf.constant(n)).as_numpy_iterator()) for n in (0, 0, 1))
    for (images, targets), (same, _), (others, _) in zip(first, again, later, strict=True):
        assert images.shape == (5, 96, 96, 3)
        assert targets["boxes"].shape == (5, 8, 4)
        np.testing.assert_array_equal(images, same)
        assert np.abs(images - others).mean() > 5
    assert next(data.test.as_numpy_iterator())[0].dtype == "uint8"


def test_colors_change_places_and_turn_over():
    """Of a pixel, to all six orders and their negatives; boxes stay."""
    pixel = np.float32([10, 20, 240])
    sample = {"image": tf.constant(np.tile(pixel, (2, 2, 1))), "boxes": tf.constant([[0.0, 0, 1, 1]])}
    seen = set()
    for i in range(80):
        found = augment.recolor(sample, (i, 0))
        assert found["boxes"] is sample["boxes"]
        seen.add(tuple(found["image"][1, 0].numpy()))
    assert len(seen) == 12
    assert all(sorted(x) in ([10, 20, 240], [15, 235, 245]) for x in seen)


def test_the_truth_has_all_points(digits):
    _, data = digits
    ((_images, targets),) = data.test.as_numpy_iterator()
    assert RECIPE.evaluate(lambda signature, images: truth(targets), data) == 1


def test_anchors_fit_what_they_are_for():
    """A digit of any size that scenes have is covered by half."""
    from keras_dl.ops import coverage, level_anchors

    sizes = faster_rcnn.DIGITS
    anchors = level_anchors((96, 96), [(24, 24), (12, 12), (6, 6)], sizes["anchor_sizes"], sizes["anchor_ratios"])
    sides = np.float32([(10, 15), (19, 24), (36, 42), (24, 40), (40, 46)])  # width, height
    boxes = np.concatenate([np.full((5, 2), 25), 25 + sides], 1)
    assert coverage(boxes, anchors).min() > 0.5


@pytest.mark.parametrize(("name", "key"), [("coco/2017", "is_crowd"), ("voc/2007", "is_difficult")])
@pytest.mark.filterwarnings("ignore:image .* objects without area")
def test_papers_data_and_settings(name, key, tmp_path, monkeypatch):
    built = []
    monkeypatch.setattr(
        faster_rcnn.keras_dl, "FasterRCNN", lambda *args, **options: built.append((args, options)) or net
    )
    net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with tfds.testing.mock_data(num_examples=4, as_dataset_fn=mocked(key)):
        options = RECIPE.options(name, batch_size=2, image_size=64, data_dir=str(tmp_path))
        data = RECIPE.load_data(options, "model")
        images, targets = next(data.train(tf.constant(0)).as_numpy_iterator())
    assert images.shape == (2, 64, 64, 3)
    assert targets["boxes"].shape == (2, 100, 4)
    model = RECIPE.build_model(data, options, "model")
    assert built == [(((64, 64, 3), 80 if name == "coco/2017" else 20), {"seed": 0})]  # all at its default
    assert isinstance(model.optimizer, keras.optimizers.SGD)
    warmup = min(1000, data.steps(options) // 2)
    assert float(model.optimizer._learning_rate(warmup)) == pytest.approx(0.02)


def test_a_run_has_figures_and_a_picture(digits):
    options, data = digits
    keras.utils.set_random_seed(0)
    model = RECIPE.build_model(data, options, "model")
    assert model.roi_form == "matrix"
    row = {f"val_{name}_loss": 0.5 for name in model.loss_names}
    trained = Trained(value=0.1, history=[row, row], seconds=1.0, data=data)
    outcome = Outcome(options, RECIPE.tasks[options.dataset], model, {"model": trained})
    assert set(RECIPE.figures(outcome)) == {"box_AP", "box_AP75", "box_AR"}
    figure = RECIPE.picture(outcome)
    assert isinstance(figure, matplotlib.figure.Figure)
    assert "5 test images" in figure.subfigs[0].get_suptitle()
    assert len(figure.subfigs[1].axes[0].lines) == 4
