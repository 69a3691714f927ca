"""The recipe of score-based models: its data, the mixture beside it, samples by a served score, and a run."""

import json
import math

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_dl import ScoreSDE
from keras_dl.diffusion import VP, bits_per_dimension
from keras_dl.export.errors import SignatureError
from keras_dl.recipes.training import recipe, runner

RECIPE = recipe.find("score_sde")
MODULE = __import__("keras_dl.recipes.score_sde", fromlist=["filled"])


def options(dataset, tmp_path, **others):
    return RECIPE.options(dataset, batch_size=4, data_dir=str(tmp_path), **others)


def test_the_papers_data_goes_through_the_same_pipeline(tmp_path):
    with tfds.testing.mock_data(num_examples=8):
        chosen = options("cifar10", tmp_path, smoke=True)
        data = RECIPE.load_data(chosen, "model")
        (images,) = next(iter(data.train(tf.constant(0))))
        (again,) = next(iter(data.train(tf.constant(0))))
        (later,) = next(iter(data.train(tf.constant(1))))
        row = next(iter(data.calibration(2)["score"]))
    assert data.input_shape == (32, 32, 3)
    assert images.shape == (4, 32, 32, 3)
    assert 0 <= np.min(images) < 70 < 180 < np.max(images) <= 255
    np.testing.assert_array_equal(images, again)
    assert not np.array_equal(images, later)
    assert row["images"].shape == (1, 32, 32, 3)
    assert row["times"].shape == (1,)
    assert RECIPE.tasks["cifar10"].batch_size == 128


def test_pixels_are_filled_and_the_mixture_has_bits(tmp_path):
    data = RECIPE.load_data(options("optdigits", tmp_path), "model")
    assert data.arrays["train"].shape == (1447, 8, 8, 1)
    filled = MODULE.filled(data, "train", seed=0)
    assert filled.shape == (1447, 64)
    assert -1.002 < filled.min() < -0.99
    assert 0.99 < filled.max() < 1.002
    levels = np.floor((filled + 1) / 2 * 17)
    # 255 / 16 is no whole number, so that a few of the noise fall beside their level.
    assert np.mean(levels == np.rint(data.arrays["train"].reshape(1447, -1) / 255 * 16)) > 0.98
    mixture = MODULE.fitted_mixture(data, most=2)
    bits = bits_per_dimension(mixture.score_samples(filled).mean(), 64, 2 / 17)
    assert 1.0 < bits < math.log2(17)
    assert MODULE.of_mixture(mixture, data).shape == data.arrays["test"].shape


def test_samples_by_a_served_score_of_normal_pixels(tmp_path):
    """The exact score of pixels that are all N(0, 1/4) in [-1, 1]."""
    data = RECIPE.load_data(options("optdigits", tmp_path), "model")

    def serve(name, images=None, times=None, noise=None):
        if name != "score":
            raise SignatureError("There is no signature 'sample'.")
        alpha, sigma = (np.reshape(x, (-1, 1, 1, 1)) for x in VP().marginal(times))
        return {"scaled_score": -images * sigma / (alpha**2 / 4 + sigma**2)}

    samples = MODULE.sampled(serve, data)
    assert samples.shape == data.arrays["test"].shape
    inner = (samples / 255 * 16 + 0.5) / 17 * 2 - 1
    assert inner.mean() == pytest.approx(0.0, abs=0.01)
    assert inner.std() == pytest.approx(0.48, abs=0.02)  # clipped to the range
    model = ScoreSDE((8, 8, 1), process="vp", multipliers=(1,), filters=4, num_blocks=1, levels=17, num_steps=30)
    np.testing.assert_allclose(model.to_inner(samples), inner, atol=1e-4)


@pytest.mark.slow  # likelihoods of a grid, and all samplers
@pytest.mark.parametrize("dataset", ["two_moons", "optdigits"])
def test_smoke_run(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(MODULE, "EULER", MODULE.EULER | dict(num_steps=4))
    found = RECIPE.options(dataset, smoke=True, baseline=True)
    document = runner.train(RECIPE, found, tmp_path / "run")
    assert json.loads((tmp_path / "run/report.json").read_text()) == document
    assert np.isfinite([document["value"], document["baseline_value"]]).all()
    picture = tf.io.decode_png((tmp_path / "run/picture.png").read_bytes())
    assert min(picture.shape[:2]) >= 600
    assert np.unique(picture).size > 50
