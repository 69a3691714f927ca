"""The recipe of PointNet++: the order of a digit's points, thinned clouds, the baseline, and the published networks."""

import types

import h5py
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_dl.recipes import pointnet2
from keras_dl.recipes.tasks import clouds
from keras_dl.recipes.training import recipe

RECIPE = recipe.find("pointnet2")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    with tfds.testing.mock_data(num_examples=8):
        options = RECIPE.options("mnist", batch_size=2, data_dir=str(tmp_path_factory.mktemp("tfds")))
        found = RECIPE.load_data(options, "ssg")
        list(found.test)  # into the cache
    return found


def test_shuffled_digits_have_the_same_points_in_one_order():
    """Any first points of a digit are then a sample of all of it, not its upper rows."""
    images = np.zeros((2, 28, 28, 1), "uint8")
    images[0, 4:24, 10:18] = 255
    images[1] = 255
    plain, shuffled = (np.asarray(clouds.digit_points(images, 256, order)) for order in (False, True))
    for count, a, b in zip((160, 256), plain, shuffled, strict=True):
        assert len(np.unique(b, axis=0)) == count
        if count == 160:
            assert {tuple(x) for x in a} == {tuple(x) for x in b}
            assert len(np.unique(b[:160], axis=0)) == 160  # repetitions come last
        assert b[:40, 1].max() - b[:40, 1].min() > 0.8 * (b[:, 1].max() - b[:, 1].min())
        assert a[:40, 1].max() - a[:40, 1].min() < 0.4 * (a[:, 1].max() - a[:, 1].min())


def test_thinned_clouds_are_their_first_points(data):
    whole, labels = next(iter(data.test))
    points, same = next(iter(pointnet2.thinned(data, 16).test))
    np.testing.assert_array_equal(points, np.tile(whole[:, :16], (1, 16, 1)))
    np.testing.assert_array_equal(labels, same)


def test_accuracies_of_all_densities_are_kept(data):
    """A model that is right for the digits with most of their points alone."""
    labels = np.concatenate([y for _, y in data.test.as_numpy_iterator()])

    def serve(name, points):
        right = len(np.unique(points[0], axis=0)) > 20
        return {"probabilities": np.eye(10)[labels if right else (labels + 1) % 10]}

    assert RECIPE.evaluate(serve, data) == 1
    assert data.arrays["accuracies"][0] == 1
    assert data.arrays["accuracies"][-1] == 0


def test_the_networks_are_no_larger_than_the_baseline(data):
    options = RECIPE.options("mnist", batch_size=2)
    counts = {name: RECIPE.build_model(data, options, name).count_params() for name in ("ssg", "msg", "pointnet")}
    assert max(counts["ssg"], counts["msg"]) < counts["pointnet"]
    trained = {"ssg": types.SimpleNamespace(value=0.9), "pointnet": types.SimpleNamespace(value=0.8)}
    assert RECIPE.baseline(types.SimpleNamespace(trained=trained, options=options)) == ("PointNet", 0.8)


def test_published_clouds_reach_the_published_network(tmp_path):
    folder = tmp_path / "modelnet40_ply_hdf5_2048"
    folder.mkdir()
    (folder / "shape_names.txt").write_text("chair\ntable\n")
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        (folder / f"{split}_files.txt").write_text(f"{folder.name}/{split}.h5\n")
        with h5py.File(folder / f"{split}.h5", "w") as file:
            file["data"] = rng.normal(size=(4, 16, 3)).astype("float32")
            file["label"] = np.arange(4)[:, None] % 2
    options = RECIPE.options("modelnet40", batch_size=2, data_dir=str(tmp_path))
    found = RECIPE.load_data(options, "model")
    model = RECIPE.build_model(found, options, "model")
    assert (model.num_points, model.output.shape) == (1024, (None, 2))
    assert next(iter(found.train(tf.constant(0))))[0].shape == (2, 1024, 3)
