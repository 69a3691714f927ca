"""Mask R-CNN's recipe: nuclei and their masks change together; its baseline; its figures and its picture."""

import keras
import matplotlib.figure
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_dl.recipes import mask_rcnn
from keras_dl.recipes.datasets import digit_scenes, hela_nuclei
from keras_dl.recipes.tasks import detection_pictures
from keras_dl.recipes.training.recipe import Outcome, Trained

RECIPE = mask_rcnn.RECIPE


@pytest.fixture(scope="module")
def nuclei(tmp_path_factory):
    """The options, and the data of small frames: disks that are brighter than their ground."""
    rng = np.random.default_rng(0)
    masks = np.zeros((1, 256, 900), "uint16")
    y, x = np.mgrid[:256, :900]
    for number in range(1, 60):
        masks[0][np.hypot(y - rng.integers(10, 246), x - rng.integers(10, 890)) < 12] = number
    frames = np.where(masks > 0, 34000, 33000) + rng.integers(0, 100, masks.shape)
    path = tmp_path_factory.mktemp("tfds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hela_nuclei, "read_frames", lambda name: frames if name == "img" else masks)
        tfds.builder("hela_nuclei", data_dir=path).download_and_prepare()
    options = RECIPE.options(batch_size=5, epochs=2, data_dir=str(path))
    return options, RECIPE.load_data(options, "model")


def test_masks_change_with_their_nuclei(nuclei):
    _, data = nuclei
    assert (data.num_train, data.labels) == (10, ("nucleus",))
    first, later = (list(data.train(tf.constant(n)).as_numpy_iterator()) for n in (0, 1))
    for (images, targets), (others, _) in zip(first, later, strict=True):
        assert images.shape == (5, 128, 128, 3)
        assert targets["instance_map"].shape == (5, 128, 128)
        assert not np.array_equal(images, others)
        for image, instance_map, classes in zip(images, targets["instance_map"], targets["classes"], strict=True):
            assert set(np.unique(instance_map)) <= {0, *(1 + np.flatnonzero(classes >= 0))}
            assert image[instance_map > 0].mean() > 180  # of 255 in a nucleus; edges are read between the pixels


def true_masks(targets):
    kept = targets["classes"] >= 0
    numbers = np.arange(1, kept.shape[1] + 1)[:, None, None]
    return {
        "boxes": targets["boxes"],
        "scores": np.where(kept, 0.9, 0).astype("float32"),
        "classes": targets["classes"],
        "count": kept.sum(1).astype("int32"),
        "masks": targets["instance_map"][:, None] == numbers,
    }


def test_the_truth_has_all_points(nuclei):
    _, data = nuclei
    ((_images, targets),) = data.test.as_numpy_iterator()
    targets = targets | {"crowd": np.zeros_like(targets["crowd"])}
    assert mask_rcnn.judged(lambda signature, images: true_masks(targets), data)["mask_AP50"] > 0.99


def test_two_disks_that_touch_are_parted():
    y, x = np.mgrid[:64, :64] + 0.5
    disks = np.stack([np.hypot(y - 32, x - 22) < 11, np.hypot(y - 32, x - 42) < 10])
    image = np.where(disks.any(0), 200, 30)[..., None] * np.ones(3)
    masks, boxes, scores = mask_rcnn.parted(image)
    assert len(masks) == 2
    for mask, disk in zip(masks, disks, strict=True):  # the larger one first
        assert (mask & disk).sum() / (mask | disk).sum() > 0.85
    assert scores[0] > scores[1] > 0
    np.testing.assert_allclose(boxes[0], [11, 21, 32, 43], atol=2)


def test_otsu_parts_two_groups():
    values = np.concatenate([np.random.default_rng(0).normal(50, 5, 900), np.random.default_rng(1).normal(150, 9, 100)])
    assert 65 < mask_rcnn.otsu(values) < 125


def test_the_baseline_is_judged_by_masks(nuclei):
    _, data = nuclei
    name, figure = RECIPE.baseline(type("Outcome", (), {"data": data}))
    assert name == "Otsu's threshold, parted between centers"
    assert 0.1 < figure <= 1


def test_digits_have_masks_and_other_colors(tmp_path, monkeypatch):
    monkeypatch.setattr(digit_scenes.DigitScenes, "EXAMPLES", {"train": 4, "test": 2})
    options = RECIPE.options("digit_scenes/96_empty", batch_size=2, data_dir=str(tmp_path))
    data = RECIPE.load_data(options, "model")
    images, targets = next(data.train(tf.constant(0)).as_numpy_iterator())
    assert images.shape == (2, 96, 96, 3)
    assert targets["instance_map"].max() >= 1
    model = RECIPE.build_model(data, options, "model")
    assert model.num_classes == 10


def test_a_run_has_figures_and_a_picture(nuclei, monkeypatch):
    options, data = nuclei
    few = dict(filters=(4, 4, 4), pyramid_filters=4, proposals=(20, 10), max_detections=4)  # masks to judge and to draw
    monkeypatch.setattr(mask_rcnn, "SMALL", mask_rcnn.SMALL | few)
    keras.utils.set_random_seed(0)
    model = RECIPE.build_model(data, options, "model")
    row = {f"val_{name}_loss": 0.5 for name in model.loss_names}
    trained = Trained(value=0.1, history=[row, row], seconds=1.0, data=data)
    outcome = Outcome(options, RECIPE.tasks[options.dataset], model, {"model": trained})
    assert {"mask_AP", "box_AP50"} <= set(RECIPE.figures(outcome))
    figure = RECIPE.picture(outcome)
    assert isinstance(figure, matplotlib.figure.Figure)
    assert len(figure.subfigs[1].axes[0].lines) == 5


def test_masks_are_drawn_where_they_are_probable():
    axis = matplotlib.figure.Figure().subplots()
    mask = np.full((1, 8, 8), 0.2)
    mask[0, 2:4, 2:4] = 0.7
    detection_pictures.draw(axis, np.full((8, 8, 3), 100), [[1, 1, 5, 5]], [0], [0.9], mask)
    tinted = (np.asarray(axis.images[0].get_array()) != 100).any(-1)
    np.testing.assert_array_equal(tinted, mask[0] >= 0.5)
