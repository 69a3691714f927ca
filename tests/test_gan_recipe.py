"""The recipe of GANs: metrics of generated data, the judge of digits, the ring, and what a collapse looks like."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from scipy.linalg import sqrtm

import keras_dl
from keras_dl import metrics
from keras_dl.recipes import datasets
from keras_dl.recipes.datasets import mnist_5k
from keras_dl.recipes.datasets.gaussian_ring import GaussianRing, centers, coverage
from keras_dl.recipes.tasks import digit_judge, generation
from keras_dl.recipes.training import recipe, runner

RECIPE = recipe.find("gan")


# The Frechet distance.


def sample(n, size, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, size)) @ rng.normal(size=(size, size)) + rng.normal(size=size)


def test_the_frechet_distance_is_its_formula():
    some, others = sample(300, 6), sample(200, 6, seed=1)
    first, second = np.cov(some, rowvar=False), np.cov(others, rowvar=False)
    root = sqrtm(first @ second).real
    expected = np.sum((some.mean(0) - others.mean(0)) ** 2) + np.trace(first + second - 2 * root)
    assert metrics.frechet_distance(some, others) == pytest.approx(expected, rel=1e-9)
    assert metrics.frechet_distance(others, some) == pytest.approx(expected, rel=1e-9)


def test_the_frechet_distance_in_closed_form():
    points = sample(500, 4)
    assert metrics.frechet_distance(points, points) == pytest.approx(0, abs=1e-9)
    # Twice as wide about the same mean: tr C (2 - 1)^2.
    wide = points.mean(0) + 2 * (points - points.mean(0))
    assert metrics.frechet_distance(points, wide) == pytest.approx(np.trace(np.cov(points, rowvar=False)), rel=1e-9)
    flat = np.pad(points, ((0, 0), (0, 3)))  # features that are always 0 have a covariance without an inverse
    assert metrics.frechet_distance(flat, flat + 1.0) == pytest.approx(7.0, rel=1e-9)
    assert metrics.frechet_distance(points.astype("float32"), points) == pytest.approx(0, abs=1e-6)


def test_the_frechet_distance_of_samples_falls_with_their_size():
    rng = np.random.default_rng(0)
    values = []
    for n in (50, 200, 800):
        values.append(np.mean([metrics.frechet_distance(*rng.normal(size=(2, n, 8))) for _ in range(5)]))
    assert values[0] > 3 * values[1] > 9 * values[2] > 0


def test_wrong_features_are_refused():
    points = sample(10, 3)
    for function in (metrics.frechet_distance, metrics.precision_recall):
        with pytest.raises(ValueError, match=r"shapes \(10, 3\) and \(10, 2\)"):
            function(points, points[:, :2])
        with pytest.raises(ValueError, match="must be finite"):
            function(points, np.full((10, 3), np.nan))
        with pytest.raises(ValueError, match="at least"):
            function(points, points[:1])
    with pytest.raises(ValueError, match="k=0"):
        metrics.precision_recall(points, points, k=0)


# Precision and recall.


def slow_precision_recall(real, generated, k):
    def radius(point, points):
        return sorted(np.linalg.norm(point - other) for other in points)[k]  # the first is the point itself

    def share(points, manifold):
        inside = [any(np.linalg.norm(p - m) <= radius(m, manifold) for m in manifold) for p in points]
        return sum(inside) / len(inside)

    return share(generated, real), share(real, generated)


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_are_their_definition(k):
    rng = np.random.default_rng(k)
    real, generated = rng.normal(size=(60, 2)), 0.5 + 0.6 * rng.normal(size=(70, 2))  # more rows than a block
    found = metrics.precision_recall(real, generated, k)
    assert found == pytest.approx(slow_precision_recall(real, generated, k), abs=1e-12)
    assert 0 < found.recall < found.precision


def test_precision_and_recall_of_extremes():
    real = sample(100, 3)
    assert metrics.precision_recall(real, real) == (1, 1)
    assert metrics.precision_recall(real, real + 1000) == (0, 0)
    collapsed = real[:1] + 1e-3 * sample(100, 3, seed=1)
    precision, recall = metrics.precision_recall(real, collapsed)
    assert precision == 1
    assert recall <= 0.02


# The judge.


@pytest.fixture(scope="module")
def digits():
    found = mnist_5k.read_digits()
    rows = mnist_5k.split_rows(found.labels)
    return {split: (found.images[rows[split]][..., None], found.labels[rows[split]]) for split in rows}


def test_the_judge_reads_what_it_says(digits):
    judge = digit_judge.judge()
    images, labels = digits["test"]
    features, probabilities = judge.look(images)
    assert (features.shape, probabilities.shape) == ((1000, 64), (1000, 10))
    assert np.mean(probabilities.argmax(-1) == labels) == pytest.approx(judge.accuracy, abs=0.0015)  # one digit
    assert judge.accuracy > 0.98
    assert f"{100 * judge.accuracy:.1f}%" in digit_judge.__doc__
    assert judge.hash in digit_judge.__doc__
    padded = np.pad(images[:20], ((0, 0), (2, 2), (2, 2), (0, 0)))
    np.testing.assert_allclose(judge.look(padded)[0], features[:20], atol=1e-4)
    with pytest.raises(ValueError, match=r"images has the shape \(2, 8, 8, 1\)"):
        judge.look(np.zeros((2, 8, 8, 1)))


def test_the_judge_of_small_digits_reads_what_it_says(tmp_path):
    builder = datasets.prepare("optdigits", data_dir=tmp_path, quiet=True)
    rows = {split: list(builder.as_dataset(split=split).as_numpy_iterator()) for split in ("train", "test")}
    images = {split: np.stack([row["image"] for row in rows[split]]) for split in rows}
    judge = digit_judge.judge_of(images["test"])
    features, probabilities = judge.look(images["test"])
    assert (judge.side, features.shape, probabilities.shape) == (8, (350, 64), (350, 10))
    right = np.mean(probabilities.argmax(-1) == [row["label"] for row in rows["test"]])
    assert right == pytest.approx(judge.accuracy, abs=0.003)  # one digit
    assert f"{100 * judge.accuracy:.1f}%" in digit_judge.__doc__
    assert judge.hash in digit_judge.__doc__
    good = digit_judge.quality(images["test"], images["train"][:350])
    bad = digit_judge.quality(images["test"], np.random.default_rng(0).uniform(0, 255, images["test"].shape))
    assert good["sure"] > 0.95
    assert good["recall"] > 0.8
    assert bad["recall"] < 0.2
    assert bad["digit_fid"] > 20 * good["digit_fid"]


def test_a_collapse_shows_in_the_figures(digits):
    """All classes, one class, and one digit over and over: quality stays, and what tells diversity falls."""
    test, (train, labels) = digits["test"][0], digits["train"]
    good = digit_judge.quality(test, train[::4])  # they are sorted by class
    one_class = digit_judge.quality(test, np.resize(train[labels == 7], (1000, 28, 28, 1)))
    one_digit = digit_judge.quality(test, np.repeat(train[:1], 1000, 0))
    assert good["recall"] > 0.8
    assert good["class_entropy"] > 2.25
    assert good["sure"] > 0.9
    for found, recall, entropy in ((one_class, 0.2, 0.2), (one_digit, 0.02, 1e-6)):
        assert found["precision"] > 0.85
        assert found["recall"] < recall
        assert found["class_entropy"] < entropy
        assert found["digit_fid"] > 20 * good["digit_fid"]
    noise = digit_judge.quality(test, np.random.default_rng(0).uniform(0, 255, (1000, 28, 28, 1)))
    assert noise["recall"] < 0.02
    assert noise["digit_fid"] > 20 * good["digit_fid"]


# The ring.


def test_gaussian_ring(tmp_path, monkeypatch):
    entry = next(entry for entry in datasets.catalogue() if entry.name == "gaussian_ring")
    assert (entry.source, entry.size, entry.examples) == ("formula", 0, {"train": 20_000, "test": 2_500})
    monkeypatch.setattr(GaussianRing, "EXAMPLES", {"train": 100, "test": 2_500})
    builder = datasets.prepare("gaussian_ring", data_dir=tmp_path, quiet=True)
    assert entry.licence in builder.info.description
    assert "Generated" in builder.info.description
    assert {split: info.num_examples for split, info in builder.info.splits.items()} == {"train": 100, "test": 2_500}
    rows = list(builder.as_dataset(split="test").as_numpy_iterator())
    points, modes = (np.stack([row[key] for row in rows]) for key in ("point", "mode"))
    residuals = points - centers()[modes]
    assert residuals.std() == pytest.approx(0.02, rel=0.03)
    np.testing.assert_allclose(np.linalg.norm(centers(), axis=1), 2)
    assert np.abs(points[:100]).mean() == pytest.approx(FIRST, rel=1e-6)
    found = coverage(points)
    assert found["modes"] == 8
    assert found["high_quality"] == pytest.approx(1 - np.exp(-(3**2) / 2), abs=0.005)  # within 3 deviations, in 2-D
    assert found["kl_to_uniform"] < 0.005


FIRST = 1.1905919  # mean distance from the axes, so that the points never change


def test_coverage_of_few_modes():
    assert coverage(np.repeat(centers()[:2], 50, axis=0))["modes"] == 2
    assert coverage(np.zeros((10, 2))) == {"modes": 0, "high_quality": 0, "kl_to_uniform": pytest.approx(2.0794)}
    rare = np.concatenate([np.repeat(centers()[:1], 995, axis=0), np.repeat(centers()[1:2], 5, axis=0)])
    assert coverage(rare)["modes"] == 1  # the other has less than 1%


# Data and runs.


def test_a_normal_distribution_keeps_mean_and_covariance():
    examples = sample(400, 3).reshape(400, 3, 1)
    found = generation.of_normal_distribution(examples, 20_000)
    assert found.shape == (20_000, 3, 1)
    np.testing.assert_allclose(found.mean(0), examples.mean(0), atol=0.06)
    wanted = np.cov(examples[..., 0], rowvar=False)
    np.testing.assert_allclose(np.cov(found[..., 0], rowvar=False), wanted, atol=0.04 * np.trace(wanted))


@pytest.mark.parametrize("dataset", ["mnist", "celeb_a"])
def test_the_papers_data_goes_through_the_same_pipeline(dataset, tmp_path, monkeypatch):
    monkeypatch.setitem(keras_dl.DCGAN.presets, "dcgan64", dict(filters=4))
    with tfds.testing.mock_data(num_examples=8):
        options = RECIPE.options(dataset, batch_size=4, data_dir=str(tmp_path))
        data = RECIPE.load_data(options, "model")
        (images,) = next(iter(data.train(tf.constant(0))))
        (again,) = next(iter(data.train(tf.constant(0))))
        (later,) = next(iter(data.train(tf.constant(1))))
        (test,) = next(iter(data.test))
        (row,) = data.calibration(1)
    assert data.input_shape == ((28, 28, 1) if dataset == "mnist" else (64, 64, 3))
    assert images.shape == (4, *data.input_shape)
    assert (test.shape, test.dtype) == ((8, *data.input_shape), tf.uint8)
    assert row["noise"].shape == (1, 100)
    assert data.arrays["noise"].shape == (8, 100)
    assert (data.num_train, data.num_test) == (8, 8)
    assert 0 <= np.min(images) < 70 < 180 < np.max(images) <= 255
    np.testing.assert_array_equal(images, again)
    assert not np.array_equal(images, later)
    model = RECIPE.build_model(data, options, "model")
    assert (model.noise, type(model).__name__) == (("uniform", "GAN") if dataset == "mnist" else ("normal", "DCGAN"))
    model.run_eagerly, model.jit_compile = True, False
    assert np.isfinite(model.train_on_batch(images, return_dict=True)["loss"])
    served = data.arrays["noise"][:, None][0]
    assert model.generate(served).shape == (1, *data.input_shape)


@pytest.mark.parametrize(
    "dataset",
    ["gaussian_ring", pytest.param("mnist_5k", marks=pytest.mark.slow)],  # 25 s of tracing and of the VAE
)
def test_smoke_run(dataset, tmp_path):
    options = RECIPE.options(dataset, smoke=True, jit="off", baseline=True)
    document = runner.train(RECIPE, options, tmp_path / "run")
    assert json.loads((tmp_path / "run/report.json").read_text()) == document
    names = {"modes", "high_quality", "kl_to_uniform"} if dataset == "gaussian_ring" else {"recall", "class_entropy"}
    assert names <= set(document["figures"])
    assert min(tf.io.decode_png((tmp_path / "run/picture.png").read_bytes()).shape[:2]) >= 600
