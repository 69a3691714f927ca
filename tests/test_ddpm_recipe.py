"""The recipe of DDPM: the papers' data, samples by both signatures, calibration, and the losses by time."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from reference import randomized

import keras_dl
from keras_dl.export import KerasRunner
from keras_dl.recipes.tasks import diffusion
from keras_dl.recipes.training import pictures, recipe, runner

RECIPE = recipe.find("ddpm")
# Of four levels: the middle, where all places attend to all, has 32 x 32 of 256 x 256.
TINY = dict(filters=4, multipliers=(1, 1, 1, 1), num_blocks=1, attention_sides=(), groups=2, dropout_rate=0.0)


@pytest.mark.parametrize("dataset", ["cifar10", "lsun/bedroom", "celeb_a"])
def test_the_papers_data_goes_through_the_same_pipeline(dataset, tmp_path, monkeypatch):
    for preset in ("ho2020_cifar10", "ho2020_lsun"):
        monkeypatch.setitem(keras_dl.DDPM.presets, preset, TINY)
    with tfds.testing.mock_data(num_examples=4):
        options = RECIPE.options(dataset, batch_size=2, data_dir=str(tmp_path))
        data = RECIPE.load_data(options, "model")
        batches = list(data.train(tf.constant(0)))
        again, later = (next(iter(data.train(tf.constant(i))))[0] for i in (0, 1))
        (test,) = next(iter(data.test))
    side = {"cifar10": 32, "lsun/bedroom": 256, "celeb_a": 64}[dataset]
    assert data.input_shape == (side, side, 3)
    assert [images.shape for (images,) in batches] == [(2, side, side, 3)] * 2
    assert (test.shape, test.dtype) == ((4, side, side, 3), tf.uint8)
    assert data.arrays["noise"].shape == (4, 1, side * side * 3)
    np.testing.assert_array_equal(batches[0][0], again)
    assert not np.array_equal(batches[0][0], later)
    model = RECIPE.build_model(data, options, "model")
    assert model.process == keras_dl.diffusion.LinearBetas()
    assert float(model.optimizer.learning_rate) == 0  # it warms up
    model.run_eagerly, model.jit_compile = True, False
    assert np.isfinite(model.train_on_batch(batches[0][0], return_dict=True)["loss"])


def small_data(count=6):
    images = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 1)).astype("uint8")
    data = recipe.Data(
        train=None, test=None, num_train=count, num_test=count, dataset="", version="", licence="", calibration=None,
        labels=(), input_shape=(8, 8, 1), input_range="", arrays=dict(train=images, test=images),
    )  # fmt: skip
    return diffusion.with_noise(data, num_steps=6)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    model = keras_dl.DDPM((8, 8, 1), **TINY, process="cosine", predicts="velocity", sampling_steps=6, seed=0)
    randomized(model.network)
    model.average.set_weights(model.network.get_weights())
    return model


def test_samples_around_denoise_are_those_of_sample(model):
    data, process = small_data(), model.process
    whole = diffusion.generated(KerasRunner(model, 4).serve, data, process, "velocity")
    stepped = diffusion.generated(KerasRunner(model, 4, ["denoise"]).serve, data, process, "velocity")
    assert whole.shape == stepped.shape == (6, 8, 8, 1)
    assert np.ptp(whole) > 100
    np.testing.assert_allclose(whole, stepped, atol=0.05)


def test_calibration_covers_all_times(model):
    data = small_data()
    rows = diffusion.calibration(data, model.process, 40)
    times = np.concatenate([row["times"] for row in rows["denoise"]])
    assert np.sort(times).tolist() == model.process.evaluation_times(40).numpy().tolist()
    noisy = np.stack([row["images"] for row in rows["denoise"]])
    assert noisy.shape == (40, 1, 8, 8, 1)
    assert np.abs(noisy[times < 100]).max() < 2 < np.abs(noisy[times > 900]).max()
    served = KerasRunner(model).serve
    for name, given in rows.items():
        assert all(np.isfinite(x).all() for x in served(name, **given[0]).values())


def test_losses_by_time_are_those_of_training(model):
    data = small_data()
    times, losses = diffusion.losses_by_time(model, data.arrays["test"], count=4)
    assert times.tolist() == [125, 375, 625, 875]
    images, noise = data.arrays["test"], model.draw_noise(6, seed=0)
    t = tf.fill([6], 375)
    inputs, targets = model.corrupt(images, None, t, noise)
    expected = np.mean((model(inputs) - model.process.target("velocity", targets["data"], t, noise)) ** 2)
    assert losses[1] == pytest.approx(expected, rel=1e-4)


def test_images_in_rows():
    images = np.arange(4).reshape(4, 1, 1, 1) * np.ones((4, 2, 2, 1))
    rows = [[0, 0, 0, 1, 1]] * 2 + [[0] * 5] + [[2, 2, 0, 3, 3]] * 2  # a blank pixel apart
    assert pictures.tiled(images, 2)[..., 0].tolist() == rows


@pytest.mark.slow  # 40 s of tracing: samples, the walk, the bound and the interpolation
def test_smoke_run(tmp_path):
    options = RECIPE.options(smoke=True, jit="off", baseline=True)
    document = runner.train(RECIPE, options, tmp_path / "run")
    assert json.loads((tmp_path / "run/report.json").read_text()) == document
    assert {"recall", "class_entropy", "digit-FID of noise"} <= set(document["figures"])
    assert min(tf.io.decode_png((tmp_path / "run/picture.png").read_bytes()).shape[:2]) >= 600
