"""The recipe of StyleGAN: the papers' faces, what is served to a file, and a run."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

import keras_dl
from keras_dl.recipes import stylegan
from keras_dl.recipes.tasks import generation
from keras_dl.recipes.training import recipe, runner

RECIPE = recipe.find("stylegan")


def test_the_papers_faces_go_through_the_same_pipeline(tmp_path, monkeypatch):
    small = dict(
        image_shape=(256, 256, 3), style_dim=4, mapping_layers=1, base_filters=256, max_filters=2, group_size=2
    )
    monkeypatch.setitem(keras_dl.StyleGAN2.presets, "ada_paper256", small)
    with tfds.testing.mock_data(num_examples=4):
        options = RECIPE.options(stylegan.FACES, batch_size=2, data_dir=str(tmp_path))
        data = RECIPE.load_data(options, "model")
        (images,) = next(iter(data.train(tf.constant(0))))
    assert data.input_shape == (256, 256, 3)
    assert images.shape == (2, 256, 256, 3)
    assert 0 <= np.min(images) < 70 < 180 < np.max(images) <= 255
    assert data.arrays["noise"].shape[1] == 512
    model = RECIPE.build_model(data, options, "model")
    model.run_eagerly, model.jit_compile = True, False
    assert np.isfinite(model.train_on_batch(images, return_dict=True)["loss"])


def test_the_first_version_on_mnist(tmp_path):
    with tfds.testing.mock_data(num_examples=16):
        options = RECIPE.options("mnist", batch_size=4, epochs=3, data_dir=str(tmp_path))
        data = RECIPE.load_data(options, "stylegan")
    model = RECIPE.build_model(data, options, "stylegan")
    assert (type(model).__name__, model.image_shape) == ("StyleGAN", (32, 32, 1))
    assert model.level_after(3 * 16) == 0  # grown at the end
    assert list(data.arrays["map_sides"]) == model.map_sides


def test_calibration_has_rows_for_every_signature():
    model = keras_dl.StyleGAN2((16, 16, 1), 6, 5, 1, 16, 2)
    assert stylegan.maps_of(16, "stylegan") == keras_dl.StyleGAN((16, 16, 1), 6, 5, 1, 16, 2).map_sides

    class Data:
        arrays = {"noise": np.zeros((3, 6), "float32"), "map_sides": np.array(stylegan.maps_of(16, "stylegan2"))}

    found = stylegan.calibrate(lambda name, noise: {"styles": np.asarray(model.map(noise))}, Data, 7)
    for name, signature in model.serving_signatures().items():
        assert len(found[name]) == 7
        for row in found[name]:
            assert {key: x.shape for key, x in row.items()} == {
                key: (1, *spec.shape[1:]) for key, spec in signature.inputs.items()
            }


@pytest.mark.slow  # half a minute of tracing
def test_smoke_run(tmp_path):
    options = RECIPE.options("mnist_5k", smoke=True, jit="off")
    document = runner.train(RECIPE, options, tmp_path / "run")
    assert json.loads((tmp_path / "run/report.json").read_text()) == document
    assert {"recall", "class_entropy", "digit_fid at psi 0.5"} <= set(document["figures"])
    assert min(tf.io.decode_png((tmp_path / "run/picture.png").read_bytes()).shape[:2]) >= 600


def test_a_picture_needs_no_training(tmp_path):
    """The grids of mixing, truncation and interpolation, of a new model."""
    model = keras_dl.StyleGAN2((32, 32, 1), 6, 5, 1, 32, 2, seed=0)
    data = type("Data", (), dict(arrays={"noise": generation.draw(4, 6, "normal", 0)}))
    history = [dict(loss=1.0, generator_loss=1.0)]
    trained = {"stylegan2": recipe.Trained(1.0, history, 1.0, data)}
    figure = stylegan.picture(recipe.Outcome(None, None, model, trained))
    figure.savefig(tmp_path / "picture.png")
    assert len(figure.get_axes()) == 5
