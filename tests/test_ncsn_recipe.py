"""The recipe of NCSN: the pair of Gaussians, data of the papers, samples by a file's score, and runs."""

import contextlib
import json

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

import keras_dl
from keras_dl.diffusion import GeometricLevels
from keras_dl.export.errors import SignatureError
from keras_dl.recipes import datasets, ncsn
from keras_dl.recipes.datasets import gaussian_pair
from keras_dl.recipes.datasets.gaussian_pair import GaussianPair
from keras_dl.recipes.training import recipe, runner

RECIPE = recipe.find("ncsn")


def test_gaussian_pair(tmp_path, monkeypatch):
    entry = next(entry for entry in datasets.catalogue() if entry.name == "gaussian_pair")
    assert (entry.source, entry.size, entry.examples) == ("formula", 0, {"train": 20_000, "test": 5_000})
    monkeypatch.setattr(GaussianPair, "EXAMPLES", {"train": 100, "test": 5_000})
    builder = datasets.prepare("gaussian_pair", data_dir=tmp_path, quiet=True)
    assert entry.licence in builder.info.description
    assert {split: info.num_examples for split, info in builder.info.splits.items()} == {"train": 100, "test": 5_000}
    rows = list(builder.as_dataset(split="test").as_numpy_iterator())
    points, modes = (np.stack([row[key] for row in rows]) for key in ("point", "mode"))
    assert modes.mean() == pytest.approx(0.2, abs=0.02)
    residuals = points - gaussian_pair.MEANS[modes]
    np.testing.assert_allclose(np.cov(residuals, rowvar=False), np.eye(2), atol=0.06)
    assert gaussian_pair.share(points) == pytest.approx(1 - modes.mean(), abs=1e-3)
    assert np.abs(points[:100]).mean() == pytest.approx(FIRST, rel=1e-6)


FIRST = 4.945578  # mean distance from the axes, so that the points never change


def test_the_exact_score_is_the_gradient_of_the_density():
    points, step = np.random.default_rng(0).uniform(-8, 8, (50, 2)), 1e-5

    def log_density(x, sigma):
        squares = np.square(x[:, np.newaxis] - gaussian_pair.MEANS).sum(-1)
        return np.log((gaussian_pair.WEIGHTS * np.exp(-squares / (2 * (1 + sigma**2)))).sum(-1))

    for sigma in (0.0, 3.0):
        ends = [[log_density(points + sign * step * axis, sigma) for sign in (1, -1)] for axis in np.eye(2)]
        slopes = np.stack([(up - down) / (2 * step) for up, down in ends], -1)
        np.testing.assert_allclose(gaussian_pair.score(points, sigma), slopes, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dataset", ["cifar10", "celeb_a", "mnist_5k"])
def test_the_papers_data_goes_through_the_same_pipeline(dataset, monkeypatch):
    tiny = dict(filters=2, multipliers=(1,), dilations=())
    for preset in ("song2020_cifar10", "song2020_celeba64"):
        monkeypatch.setitem(keras_dl.NCSN.presets, preset, keras_dl.NCSN.presets[preset] | tiny)
    monkeypatch.setitem(ncsn.NETS, "mnist_5k", tiny)
    mocked = contextlib.nullcontext() if dataset == "mnist_5k" else tfds.testing.mock_data(num_examples=8)
    with mocked:
        options = RECIPE.options(dataset, batch_size=4, smoke=True)
        data = RECIPE.load_data(options, "ncsn")
        (images,) = next(iter(data.train(tf.constant(0))))
    side = {"cifar10": 32, "celeb_a": 64, "mnist_5k": 28}[dataset]
    assert data.input_shape == (side, side, 1 if dataset == "mnist_5k" else 3)
    assert images.shape == (4, *data.input_shape)
    assert 0 <= np.min(images) < 70 < 180 < np.max(images) <= 255
    model = RECIPE.build_model(data, options, "ncsn")
    kept = ncsn.settings(data)
    if dataset == "mnist_5k":
        assert 10 < kept["process"].largest < 28  # the farthest pair of digits
        assert model.step_size == pytest.approx(8.6e-6, rel=0.2)
    else:
        assert model.process == {32: GeometricLevels(50.0, 0.01, 232), 64: GeometricLevels(90.0, 0.01, 500)}[side]
    model.run_eagerly, model.jit_compile = True, False
    assert np.isfinite(model.train_on_batch(images, return_dict=True)["loss"])
    assert ncsn.chains(data, 0, 2).shape == (2, model.num_draws, side * side * data.input_shape[-1])


@pytest.fixture(scope="module")
def points():
    """Data of the pair, and a model that is not trained, which takes few steps."""
    data = RECIPE.load_data(RECIPE.options("gaussian_pair", smoke=True), "ncsn")
    return data, keras_dl.DenseNCSN(2, (4,), data_scale=5.0, seed=0, **ncsn.settings(data))


def test_a_file_with_the_score_alone_gives_the_same_samples(points, monkeypatch):
    data, model = points
    monkeypatch.setattr(ncsn, "PAIR_STEPS", 2)
    model = keras_dl.DenseNCSN(2, (4,), data_scale=5.0, seed=0, **ncsn.settings(data))

    def whole(name, noise):
        return {"points": model.sample(noise=noise).numpy()}

    def score_alone(name, **arrays):
        if name == "sample":
            raise SignatureError("There is none.")
        return {"scores": model.score(arrays["points"], arrays["level"]).numpy()}

    expected = ncsn.generated(whole, data)
    assert expected.shape == (data.num_test, 2)
    np.testing.assert_allclose(ncsn.generated(score_alone, data), expected, rtol=1e-3, atol=1e-3)


def test_calibration_has_all_levels(points):
    data, model = points
    found = RECIPE.calibrate(None, data, 40)
    levels = np.concatenate([row["level"] for row in found["score"]])
    np.testing.assert_array_equal(np.bincount(levels), [2] * 20)
    assert found["score"][0]["points"].shape == (1, 2)
    assert found["sample"][0]["noise"].shape == (1, model.num_draws, 2)


@pytest.mark.parametrize(
    "dataset",
    ["gaussian_pair", pytest.param("optdigits", marks=pytest.mark.slow)],  # minutes of tracing and sampling
)
def test_smoke_run(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(ncsn, "PAIR_STEPS", 2)
    options = RECIPE.options(dataset, smoke=True, jit="off", baseline=True)
    document = runner.train(RECIPE, options, tmp_path / "run")
    assert json.loads((tmp_path / "run/report.json").read_text()) == document
    wanted = "missed share of the score, noise 20" if dataset == "gaussian_pair" else "noise levels"
    assert wanted in document["figures"]
    assert min(tf.io.decode_png((tmp_path / "run/picture.png").read_bytes()).shape[:2]) >= 600
