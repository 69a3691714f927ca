"""NCSN: the authors' nets and samplers, the learned score against the exact one, and how it is trained and served."""

import json
import math
import os
import pathlib
import subprocess

import keras
import numpy as np
import pytest
import tensorflow as tf
from reference import policy

import keras_dl
from keras_dl import export
from keras_dl.diffusion import GeometricLevels, annealed_langevin
from keras_dl.export.runners import LiteRTRunner
from keras_dl.models.generative import refinenet
from keras_dl.processes import python
from keras_dl.recipes.datasets import gaussian_pair

ORACLE = np.load(pathlib.Path(__file__).parent / "oracles/ncsn.npz")
LEVELS = GeometricLevels(1.0, 0.01, 4)
DEEPEST = (1, 2, 2, 2, 4, 4)


def tiny(**options):
    defaults = dict(image_shape=(4, 4, 1), filters=2, multipliers=(1,), dilations=(), activation="relu", seed=0)
    return keras_dl.NCSN(**defaults | dict(process=GeometricLevels(0.8, 0.1, 3), steps_per_level=2) | options)


def pixels(n=8, shape=(4, 4, 1), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape)).astype("float32")


# The nets of the authors.


@pytest.mark.parametrize(
    ("preset", "count"),
    [
        ("song2019_mnist", 7_638_657),
        ("song2019_cifar10", 30_117_635),
        pytest.param("song2020_cifar10", 29_694_083, marks=pytest.mark.slow),  # 3 s each
        pytest.param("song2020_celeba64", 29_694_083, marks=pytest.mark.slow),
        pytest.param("song2020_lsun_church", 83_445_379, marks=pytest.mark.slow),
        pytest.param("song2020_lsun_bedroom", 83_445_379, marks=pytest.mark.slow),
        pytest.param("song2020_ffhq", 94_132_611, marks=pytest.mark.slow),
    ],
)
def test_published_counts(preset, count):
    model = keras_dl.NCSN.from_preset(preset, averaging=0.0)
    assert sum(math.prod(v.shape) for v in model.network.trainable_variables) == count


def weights(layout):
    """As in the script of the oracle."""
    found, k = {}, 1
    for name, shape in layout.items():
        count = math.prod(shape)
        values = np.sqrt(2) * np.sin(np.arange(k, k + count, dtype="float64") ** 2).reshape(shape)
        values = values / np.sqrt(count / shape[0]) if len(shape) == 4 else 0.3 * values
        scale = name.endswith(("gamma", "alpha", "embed.weight"))
        found[name], k = (values + 1.0 if scale else values).astype("float32"), k + count
    return found


def of_the_authors(name, **options):
    """A model with the authors' weights, the layout of these, and the times of the oracle's levels."""
    layout = json.loads(str(ORACLE[f"{name}/layout"]))
    with policy("float64"):  # so that what is rounded is theirs alone, on any CPU
        model = keras_dl.NCSN(
            ORACLE[f"{name}/images"].shape[1:],
            filters=2,
            multipliers=DEEPEST if name == "deepest" else (1, 2, 2, 2),
            conditioning="norms" if name == "v1" else "division",
            process=LEVELS,
            averaging=0.0,
            **options,
        )
    model.load_torch({f"module.{key}": array for key, array in weights(layout).items()})
    return model, layout, LEVELS.size - 1 - ORACLE[f"{name}/level"]


@pytest.mark.parametrize("name", ["v1", "v2", "deepest"])
def test_scores_are_those_of_the_authors(name):
    model, _, times = of_the_authors(name)
    images, level, expected = (ORACLE[f"{name}/{key}"] for key in ("images", "level", "scores"))
    # Some 60 layers of float32 after one another.
    tolerance = 2e-6 * np.abs(expected).max()
    np.testing.assert_allclose(model.score(images, level), expected, atol=tolerance)
    np.testing.assert_allclose(model({"images": images, "times": times}), expected, atol=tolerance)


@pytest.mark.parametrize("name", ["v1", "v2"])
def test_the_loss_and_its_gradient_are_those_of_the_authors(name):
    """v2 in a graph, where dilated convolutions and enlarged maps have gradients of their own."""
    model, layout, times = of_the_authors(name)
    images, noise = (tf.constant(ORACLE[f"{name}/{key}"]) for key in ("images", "noise"))
    entries = refinenet.entries(model.network)
    variables = [entries[key].variable.value for key in layout]

    def run():
        with tf.GradientTape() as tape:
            inputs, targets = model.corrupt(255.0 * images, None, times, noise)
            outputs = model(inputs, training=True)
            loss = model.compute_loss(x=inputs, y=targets, y_pred=outputs)
        return loss, [tf.convert_to_tensor(g) for g in tape.gradient(loss, variables)]

    loss, gradients = tf.function(run)() if name == "v2" else run()
    np.testing.assert_allclose(loss, ORACLE[f"{name}/loss"], rtol=1e-5)
    found = [np.transpose(g, (3, 2, 0, 1)) if len(g.shape) == 4 else g.numpy() for g in gradients]
    expected = ORACLE[f"{name}/gradient"]
    np.testing.assert_allclose(
        np.concatenate([np.ravel(g) for g in found]), expected, atol=1e-5 * np.abs(expected).max()
    )


def test_chains_are_those_of_the_authors():
    model, _, _ = of_the_authors("v2")
    start, noise, end = (ORACLE[f"v2/chain_{key}"] for key in ("start", "noise", "end"))

    def score(x, t):
        return model({"images": x, "times": t})

    rows = noise.reshape(-1, *noise.shape[2:])
    found = annealed_langevin(score, start, rows, LEVELS, 2e-5, 2)
    np.testing.assert_allclose(found, end, atol=1e-4)
    start, known = ORACLE["v2/fill_start"], ORACLE["v2/fill_known"]
    # The net has no sides of its own, but the model has.
    model = keras_dl.NCSN(start.shape[1:], filters=2, process=LEVELS, averaging=0.0)
    model.load_torch(weights(json.loads(str(ORACLE["v2/layout"]))))
    half = np.pad(ORACLE["v2/fill_noise_known"], ((0, 0), (0, 0), (0, 0), (0, 4), (0, 0)))
    path = annealed_langevin(
        score,
        start,
        lambda i: tf.constant(ORACLE["v2/fill_noise_step"])[i],
        LEVELS,
        2e-5,
        2,
        known=np.repeat(known, 2, 0),
        is_known=np.arange(8)[:, np.newaxis] < 4,
        known_noise=lambda i: tf.constant(half)[i],
        num_kept=9,
    )[1]
    # They return the state before the last step, but for its known half, which already has the noise of that step.
    np.testing.assert_allclose(path[7][:, :, 4:], ORACLE["v2/fill_end"][:, :, 4:], atol=1e-4)
    with_noise = known[:, :, :4] + 0.01 * ORACLE["v2/fill_noise_known"][7]
    np.testing.assert_allclose(with_noise, ORACLE["v2/fill_end"][:, :, :4], atol=1e-6)


def test_wrong_weights_are_refused():
    model, layout, _ = of_the_authors("v2")
    given = weights(layout)
    with pytest.raises(ValueError, match=r"weights have 5 noise levels from 1 to 0.1; the model's process="):
        model.load_torch(given | {"sigmas": np.geomspace(1, 0.1, 5)})
    model.load_torch(given | {"sigmas": LEVELS.sigmas.astype("float32")})
    with pytest.raises(ValueError, match=r"missing: res1.0.conv1.weight \(2, 2, 3, 3\)"):
        model.load_torch({name: x for name, x in given.items() if name != "res1.0.conv1.weight"})


# What is learned.


def test_the_loss_of_the_best_score_is_known():
    """Of normal data: s = -x / (s^2 + sigma^2), and the loss is D / 2 s^2 / (s^2 + sigma^2)."""
    model = keras_dl.DenseNCSN(num_dims=3, hidden_dims=(2,), process=GeometricLevels(4.0, 0.1, 5))
    count, variance = 50_000, 1.5**2
    data, noise = (keras.random.normal((count, 3), seed=seed) for seed in (0, 1))
    for t, sigma in enumerate(model.process.sigmas[::-1]):
        inputs, targets = model.corrupt(1.5 * data, None, tf.fill([count], t), noise)
        losses = model.example_losses(-inputs["points"] / (variance + sigma**2), inputs, targets).numpy()
        expected = 1.5 * variance / (variance + sigma**2)
        assert losses.mean() == pytest.approx(expected, abs=5 * float(losses.std()) / count**0.5)
        # Nothing is better: a score that is a little larger or smaller loses.
        for factor in (0.8, 1.2):
            worse = model.example_losses(-factor * inputs["points"] / (variance + sigma**2), inputs, targets).numpy()
            assert worse.mean() > losses.mean()


def test_a_learned_score_is_that_of_the_mixture():
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    modes = (rng.uniform(size=4096) >= 0.8).astype(int)
    data = (gaussian_pair.MEANS[modes] + rng.normal(size=(4096, 2))).astype("float32")
    levels = GeometricLevels(20.0, 0.5, 6)
    model = keras_dl.DenseNCSN(2, (64, 64), data_scale=5.0, process=levels, step_size=0.025, seed=0)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(8e-3, 480)), jit_compile=False)
    model.fit(data, batch_size=256, epochs=30, verbose=0)
    for level, sigma in enumerate(levels.sigmas):
        noisy = data[:1000] + sigma * rng.normal(size=(1000, 2))
        exact = gaussian_pair.score(noisy, sigma)
        found = model.score(noisy.astype("float32"), np.full(1000, level))
        # The share of the score's square that is missed.
        assert np.square(found - exact).mean() < 0.05 * np.square(exact).mean(), level
    points = model.sample(4000, seed=1)
    assert gaussian_pair.share(points) == pytest.approx(0.8, abs=0.04)


# Training and sampling.


def test_pixels_are_spread_over_the_numbers_between_them():
    model = tiny(dequantize=True)
    seed = keras.random.SeedGenerator(0)
    spread = model.to_inner(np.full((4000, 1), 255.0), seed).numpy()
    assert spread.min() >= 255 / 256
    assert spread.max() < 1 + 1e-6
    assert spread.mean() == pytest.approx(255.5 / 256, abs=1e-4)
    np.testing.assert_array_equal(model.to_inner(np.float32([[0, 255]])), [[0, 1]])
    np.testing.assert_array_equal(tiny().to_inner(np.float32([[255]]), seed), [[1]])


def test_a_training_goes_on_where_a_file_was_saved(tmp_path):
    def compiled():
        keras.utils.set_random_seed(0)
        model = tiny(dequantize=True, averaging=0.9)
        model.compile(keras.optimizers.Adam(1e-3), run_eagerly=True)
        return model

    whole, halved = compiled(), compiled()
    options = dict(batch_size=4, shuffle=False, verbose=0)
    whole.fit(pixels(), epochs=2, **options)
    halved.fit(pixels(), epochs=1, **options)
    halved.save(tmp_path / "half.keras")
    halved = keras.models.load_model(tmp_path / "half.keras")
    halved.fit(pixels(), epochs=1, **options)
    for a, b in zip(halved.variables, whole.variables, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=b.path)
    # The average follows the weights: beta = (1 + n) / (10 + n) at first.
    assert int(whole.step_count) == 4
    assert not np.array_equal(whole.average.weights[0], whole.network.weights[0])


@pytest.mark.slow  # 24 s; the battery compiles a step
def test_training_under_xla_follows_the_graph():
    """With noise that is given: both draw other numbers. With two sizes of maps, which are enlarged."""
    losses = []
    for jit in (False, True):
        keras.utils.set_random_seed(0)
        model = tiny(multipliers=(1, 1), averaging=0.5)
        noise = np.random.default_rng(0).standard_normal((4, 4, 4, 1)).astype("float32")
        model.draw_noise = lambda *_, noise=noise, **__: tf.constant(noise)
        model.process.__dict__["draw_times"] = lambda count, seed: tf.constant([0, 1, 2, 1])
        model.compile(keras.optimizers.Adam(1e-2), jit_compile=jit)
        losses.append(model.fit(pixels(4), batch_size=4, epochs=3, verbose=0).history["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


@pytest.mark.slow  # TensorFlow is imported once more
def test_dilated_convolutions_train_where_there_is_no_onednn():
    """There TensorFlow has no gradient of its own for them: see `keras_dl.ops.convolution`."""
    code = """
import numpy as np, keras, keras_dl
sizes = dict(filters=2, multipliers=(1, 1), dilations=(2,))
model = keras_dl.NCSN((4, 4, 1), process=keras_dl.diffusion.GeometricLevels(), seed=0, **sizes)
model.compile("adam", jit_compile=False)
images = np.random.default_rng(0).uniform(0, 255, (4, 4, 4, 1))
assert np.isfinite(model.fit(images, batch_size=4, verbose=0).history["loss"]).all()
"""
    subprocess.run(python("-c", code), check=True, env=os.environ | {"TF_ENABLE_ONEDNN_OPTS": "0"})


def test_equal_noise_gives_equal_images():
    model = tiny(averaging=0.0)
    noise = model.draw_chains(3, seed=1)
    assert noise.shape == (3, 7, 16)
    images = model.sample(noise=noise)
    assert images.shape == (3, 4, 4, 1)
    assert np.min(images) >= 0
    assert np.max(images) <= 255
    np.testing.assert_allclose(model.sample(noise=noise[1:2]), images[1:2], atol=1e-3)  # no row depends on others
    walk = model.sample(noise=noise, num_kept=4)
    assert walk.shape == (4, 3, 4, 4, 1)
    np.testing.assert_allclose(walk[-1], images, atol=1e-3)
    np.testing.assert_allclose(walk[0], model.from_inner(0.5 + 0.8 * np.reshape(noise[:, 0], (3, 4, 4, 1))), atol=1e-3)
    np.testing.assert_array_equal(model.sample(2, seed=5), model.sample(2, seed=5))
    assert not np.array_equal(model.sample(2), model.sample(2))


def test_inpainting_keeps_what_is_known():
    model = tiny()
    images, is_known = pixels(3), np.arange(4)[:, np.newaxis, np.newaxis] < 2
    found = model.inpaint(images, is_known, seed=0).numpy()
    np.testing.assert_array_equal(found[:, :2], images[:, :2])
    assert not np.array_equal(found[:, 2:], images[:, 2:])
    # What is not known does not matter.
    np.testing.assert_array_equal(model.inpaint(np.where(is_known, images, 0), is_known, seed=0), found)
    with pytest.raises(ValueError, match=r"is_known has the shape \(3,\), which does not fit"):
        model.inpaint(images, np.ones(3))
    with pytest.raises(ValueError, match=r"data has the shape \(2, 4, 5, 1\)"):
        model.inpaint(np.zeros((2, 4, 5, 1)), True)


def test_a_file_holds_the_whole_chain(tmp_path):
    """Ten steps in one loop, of noise that is given."""
    model = tiny(process=GeometricLevels(0.8, 0.1, 5))
    path = tmp_path / "ncsn.tflite"
    noise = [{"noise": model.draw_chains(1, seed=i).numpy()} for i in range(4)]
    report = export.export(model, path, signatures=["sample"], calibration={"sample": noise})
    assert report.ops["WHILE"] == 1
    given = model.draw_chains(4, seed=9)
    found = LiteRTRunner(path).serve("sample", noise=given.numpy())["images"]
    np.testing.assert_allclose(found, model.sample(noise=given), atol=1e-4 * 255)


def test_bad_input_is_refused():
    model = tiny()
    model.compile("adam", run_eagerly=True)
    for images, message in (
        (pixels() / 255, "takes raw pixels in"),
        (pixels() - 128, "takes raw pixels in"),
        (np.full((8, 4, 4, 1), np.nan), "must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            model.fit(images, batch_size=8, verbose=0)
    with pytest.raises(ValueError, match="t has values from -1 to -1; they must be from 0 to 2"):
        model.process.marginal(model.process.size - 1 - tf.constant([3]))
    with pytest.raises(ValueError, match="level has values from 3 to 3; it must be from 0 to 2"):
        model.score(pixels(1), np.array([3]))
    with pytest.raises(ValueError, match=r"images has the shape \(1, 4, 5, 1\)"):
        model.score(np.zeros((1, 4, 5, 1), "float32"), np.array([0]))
    with pytest.raises(ValueError, match=r"noise has the shape \(2, 6, 16\); it must be \(batch, 7, 16\)"):
        model.sample(noise=np.zeros((2, 6, 16)))
    with pytest.raises(ValueError, match="num_samples=0 must be"):
        model.sample(0)
    with pytest.raises(ValueError, match=r"image_shape=\(6, 5, 1\): 1 of 2 stages halve the sides"):
        tiny(image_shape=(6, 5, 1), multipliers=(1, 2))
    with pytest.raises(ValueError, match=r"step_size=0.03 must be below 0.02"):
        tiny(step_size=0.03).sample(1)


def test_half_precision_of_large_noise_is_finite():
    model = tiny(process=GeometricLevels(90.0, 0.01, 6), dtype="mixed_float16")
    model.compile(keras.optimizers.Adam(1e-3), run_eagerly=True)
    assert np.isfinite(model.fit(pixels(), batch_size=8, epochs=2, verbose=0).history["loss"]).all()
    assert np.isfinite(model.sample(2, seed=0)).all()
