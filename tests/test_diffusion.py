"""The mathematics that diffusion models share: processes, predictions, betas, walks, and the base of the models."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from reference import policy

from keras_dl import diffusion
from keras_dl.diffusion.process import PREDICTIONS
from keras_dl.layers.unet import PixelAttention, TimedResidualBlock, TimeEmbedding, double, halve
from keras_dl.models.generative.diffusion_model import DiffusionModel

# Processes.


@keras.saving.register_keras_serializable("tests")
@dataclasses.dataclass(frozen=True)
class Cooling(diffusion.ContinuousProcess):
    """A process in continuous time: alpha 1, sigma t."""

    slope: float = 2.0

    def marginal(self, t):
        return tf.ones_like(t), self.slope * t


PROCESSES = [diffusion.LinearBetas(40), diffusion.CosineBetas(30), diffusion.LinearBetas().respaced(7), Cooling(3.0)]
IDS = [type(process).__name__ for process in PROCESSES]


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_noisy_data_have_the_moments_of_the_process(process):
    count = 200_000
    t = tf.fill([count], process.evaluation_times(4)[2])
    x = process.perturb(tf.fill([count, 1], 3.0), t, keras.random.normal((count, 1), seed=0))
    alpha, sigma = (float(v) for v in process.marginal(t[0]))
    # Deviations of a mean and of a deviation of this many draws; five of them.
    assert abs(float(tf.reduce_mean(x)) - 3 * alpha) < 5 * sigma / count**0.5
    assert abs(float(tf.math.reduce_std(x)) - sigma) < 5 * sigma / (2 * count) ** 0.5


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_times_are_spread_over_the_process(process):
    drawn = process.draw_times(50_000, seed=1).numpy().astype("float64")
    fixed = process.evaluation_times(64).numpy()
    discrete = isinstance(process, diffusion.DiscreteProcess)
    size = process.size if discrete else 1.0
    assert drawn.dtype.kind == "f"
    assert drawn.min() >= 0
    assert drawn.max() < size + (not discrete)
    mean = (size - 1) / 2 if discrete else 0.5
    assert abs(drawn.mean() - mean) < 5 * size / (12 * 50_000) ** 0.5
    assert (np.diff(fixed) >= 0).all()
    assert fixed.max() < size
    assert abs(fixed.mean() - mean) < 0.02 * size
    assert process.draw_times(5, seed=1).dtype == fixed.dtype


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_a_process_comes_back_from_its_config(process):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(process)))
    copy = keras.saving.deserialize_keras_object(config)
    assert copy == process
    assert hash(copy) == hash(process)
    np.testing.assert_array_equal(copy.marginal(copy.evaluation_times(5)), process.marginal(copy.evaluation_times(5)))


@pytest.mark.parametrize("given", PREDICTIONS)
@pytest.mark.parametrize("wanted", PREDICTIONS)
def test_each_prediction_gives_the_others(given, wanted):
    rng = np.random.default_rng(0)
    data, noise = (tf.constant(rng.normal(size=(4, 5)), "float32") for _ in range(2))
    for process in PROCESSES:
        t = process.evaluation_times(4)
        x = process.perturb(data, t, noise)
        found = process.convert(process.target(given, data, t, noise), x, t, given, wanted)
        alpha, sigma = (v.numpy() for v in process.marginal(t))
        # The data are x / alpha less the noise: an error of a rounding of x grows by alpha's and sigma's inverses.
        allowed = 1e-6 * (1 + sigma / alpha + alpha / sigma + 1 / sigma**2)
        expected = process.target(wanted, data, t, noise)
        assert (np.abs(found - expected).max(1) <= allowed * (1 + np.abs(expected).max(1))).all()


def test_predictions_have_names_and_times_have_ends():
    process = diffusion.LinearBetas(40)
    with pytest.raises(ValueError, match="prediction='epsilon' must be one of 'noise'"):
        process.target("epsilon", tf.zeros((1, 1)), tf.constant([0]), tf.zeros((1, 1)))
    with pytest.raises(ValueError, match="t has values from 3 to 40; they must be from 0 to 39"):
        process.marginal(tf.constant([3, 40]))
    with pytest.raises(ValueError, match="dtype float32; the times of LinearBetas are integers"):
        process.marginal(tf.constant([0.5]))
    with pytest.raises(ValueError, match="weighting='likely' must be one of"):
        Cooling().weights("likely", tf.zeros((1,)))


# Betas.


def test_linear_betas_are_those_of_the_paper():
    process = diffusion.LinearBetas()
    np.testing.assert_array_equal(process.variances, np.linspace(1e-4, 0.02, 1000))
    np.testing.assert_allclose(process.kept, np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)), rtol=1e-12)
    assert process.kept[-1] == pytest.approx(4.04e-5, rel=2e-3)
    assert diffusion.LinearBetas(100).variances[[0, -1]] == pytest.approx([1e-3, 0.2])


def test_cosine_betas_follow_the_formula():
    process = diffusion.CosineBetas(1000)
    grid = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(process.kept[:999], grid[1:1000] / grid[0], rtol=1e-9)
    assert process.variances[0] == pytest.approx(4.128e-5, rel=1e-3)
    assert process.variances[-1] == 0.999
    assert process.kept[-1] == pytest.approx(2.4e-9, rel=0.02)


def test_respaced_betas_keep_what_is_left_of_the_data():
    process = diffusion.CosineBetas(100)
    for spacing, ends in (("linspace", [0, 99]), ("leading", [0, 90]), ("trailing", [9, 99])):
        fewer = process.respaced(10, spacing)
        np.testing.assert_allclose(fewer.kept, process.kept[fewer.timesteps], rtol=1e-9)
        assert fewer.timesteps[[0, -1]].tolist() == ends
        np.testing.assert_array_equal(fewer.condition(tf.range(10)), fewer.timesteps)
        whole = process.respaced(100, spacing)
        np.testing.assert_allclose(whole.variances, process.variances, rtol=1e-9)
        np.testing.assert_array_equal(whole.timesteps, np.arange(100))
    assert process.respaced(1).timesteps.tolist() == [99]
    assert (
        process.respaced(20).respaced(5).timesteps.tolist()
        == process.respaced(20).timesteps[[0, 5, 10, 14, 19]].tolist()
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: diffusion.LinearBetas(0), "num_steps=0 must be"),
        (lambda: diffusion.LinearBetas(20), "num_steps=20 is too small: .* would reach 1"),
        (lambda: diffusion.LinearBetas(first=-1.0), "first=-1.0 must be"),
        (lambda: diffusion.CosineBetas(largest=1.0), "largest=1.0 must be"),
        (lambda: diffusion.CosineBetas(50).respaced(51), "num_steps=51 is more than the 50 steps that were trained"),
        (lambda: diffusion.CosineBetas(50).respaced(0), "num_steps=0 must be"),
        (lambda: diffusion.CosineBetas(50).respaced(5, "even"), "spacing='even' must be one of"),
    ],
)
def test_betas_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Walks.


def test_a_walk_is_its_steps():
    start = tf.constant([[1.0], [2.0]])
    noise = tf.reshape(tf.range(6.0), (6, 1))
    expected = [start.numpy()]
    for i in range(3):
        expected.append(expected[-1] * 2 + noise[2 * i : 2 * i + 2] + i)

    def step(x, i, z):
        return 2 * x + z + tf.cast(i, "float32")

    for jit in (False, True):
        for unroll in (False, True):
            run = tf.function(
                lambda s, z, unroll=unroll: diffusion.walk(step, s, z, num_steps=3, num_kept=3, unroll=unroll),
                jit_compile=jit,
            )
            last, kept = run(start, noise)
            np.testing.assert_array_equal(last, expected[3])
            np.testing.assert_array_equal(kept, [expected[0], expected[2], expected[3]])
    by_function = diffusion.walk(step, start, lambda i: noise[2 * i : 2 * i + 2], num_steps=3)
    np.testing.assert_array_equal(by_function, expected[3])
    np.testing.assert_array_equal(diffusion.walk(lambda x, i, z: x + 1, start, num_steps=4), start + 4)
    # Two draws in a step.
    twice = diffusion.walk(lambda x, i, z: x + z[:2] * z[2:], start, tf.concat([noise, noise], 0), num_steps=3)
    np.testing.assert_array_equal(twice - start, [[0 * 2 + 4 * 0 + 2 * 4], [1 * 3 + 5 * 1 + 3 * 5]])
    # A batch of unknown size.
    open_batch = tf.function(
        lambda s, z: diffusion.walk(step, s, z, num_steps=3), [tf.TensorSpec((None, 1)), tf.TensorSpec((None, 1))]
    )
    np.testing.assert_array_equal(open_batch(start, noise), expected[3])


def test_seeded_noise_repeats_and_differs_by_step():
    noise = diffusion.seeded_noise((50, 40), seed=3)
    np.testing.assert_array_equal(noise(2), diffusion.seeded_noise((50, 40), seed=3)(2))
    pairs = [(noise(0), noise(1)), (noise(0), diffusion.seeded_noise((50, 40), seed=4)(0))]
    generator = keras.random.SeedGenerator(3)
    pairs.append([diffusion.seeded_noise((50, 40), generator)(0) for _ in range(2)])
    for a, b in pairs:
        assert abs(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]) < 5 / 2000**0.5
    assert abs(float(tf.math.reduce_std(noise(0))) - 1) < 5 / 4000**0.5


def test_walks_refuse_wrong_noise():
    start = tf.zeros((2, 3))
    with pytest.raises(ValueError, match=r"noise has the shape \(5, 3\); 3 steps of \(2, 3\) take \(6, 3\), or"):
        diffusion.walk(lambda x, i, z: x + z, start, tf.zeros((5, 3)), num_steps=3)
    with pytest.raises(ValueError, match="num_steps=0 must be"):
        diffusion.walk(lambda x, i, z: x, start, num_steps=0)
    with pytest.raises(ValueError, match="num_kept=6 must be 0, or from 2 to num_steps"):
        diffusion.walk(lambda x, i, z: x, start, num_steps=4, num_kept=6)


# Layers of U-Nets.


def test_times_are_embedded_in_float32():
    keras.utils.set_random_seed(0)
    embedding = TimeEmbedding(8)
    times = np.array([0, 1, 999], "float32")
    angles = times[:, np.newaxis] * 10000.0 ** (-np.arange(4) / 3)
    expected = np.concatenate([np.sin(angles), np.cos(angles)], -1)
    np.testing.assert_allclose(embedding(times), expected, atol=1e-4)  # a rounding of 999 is 6e-5
    with policy("mixed_float16"):
        half = TimeEmbedding(8)
        assert half(times).dtype == "float32"
        np.testing.assert_array_equal(half(times), embedding(times))


def test_resampling_and_new_blocks_keep_the_image():
    images = tf.constant(np.random.default_rng(0).normal(size=(2, 4, 6, 8)), "float32")
    np.testing.assert_array_equal(double(images), np.repeat(np.repeat(images, 2, 1), 2, 2))
    np.testing.assert_allclose(halve(double(images)), images, atol=1e-6)
    time = tf.ones((2, 16))
    # A branch that starts near 0.
    for rescale, factor in ((False, 1.0), (True, 0.5**0.5)):
        for block in (TimedResidualBlock(8, 4, rescale=rescale), PixelAttention(4, 2, rescale=rescale)):
            inputs = (images, time) if isinstance(block, TimedResidualBlock) else (images,)
            np.testing.assert_allclose(block(*inputs), factor * images, atol=1e-3)
    for resample, shape in (("down", (2, 2, 3, 12)), ("up", (2, 8, 12, 12))):
        block = TimedResidualBlock(12, None, resample=resample)
        assert block(images, time).shape == block.compute_output_shape(images.shape, time.shape) == shape
    with pytest.raises(ValueError, match="groups=3 must divide the 8 channels"):
        PixelAttention(3)(images)
    with pytest.raises(ValueError, match="num_heads=3 must divide the 8 channels"):
        PixelAttention(4, 3)(images)


def test_attention_of_pixels_is_the_formula():
    keras.utils.set_random_seed(0)
    layer = PixelAttention(groups=2, num_heads=2)
    images = tf.constant(np.random.default_rng(0).normal(size=(2, 3, 3, 4)), "float32")
    layer.build(images.shape)
    layer.out.kernel.assign(np.eye(4))
    x = np.reshape(layer.norm(images), (2, 9, 4))
    q, k, v = (np.asarray(each(x)).reshape(2, 9, 2, 2) for each in (layer.query, layer.key, layer.value))
    scores = np.einsum("bqhc,bkhc->bhqk", q, k) / 2**0.5
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    expected = np.einsum("bhqk,bkhc->bqhc", weights, v).reshape(2, 3, 3, 4)
    np.testing.assert_allclose(layer(images), images + expected, atol=1e-5)


# The base of the models.


COSINE = diffusion.CosineBetas(20)


@keras.saving.register_keras_serializable("tests")
class TinyDiffusion(DiffusionModel):
    """One dense layer for each pixel, which is told the time, and perhaps a label."""

    def __init__(self, process=COSINE, num_classes=None, label_dropout=0.0, averaging=0.9, **kwargs):
        super().__init__(**kwargs)
        self.process, self.averaging = process, averaging
        self.num_classes, self.label_dropout = num_classes, label_dropout

        def make(name):
            inputs = {"images": keras.Input((4, 4, 1), name="images"), "times": keras.Input((), name="times")}
            time = keras.layers.Reshape((1, 1, 4))(TimeEmbedding(4)(inputs["times"]))
            if num_classes is not None:
                inputs["labels"] = keras.Input((), dtype="int32", name="labels")
                label = keras.layers.Embedding(num_classes + 1, 4)(inputs["labels"])
                time = time + keras.layers.Reshape((1, 1, 4))(label)
            hidden = keras.layers.Conv2D(4, 1)(inputs["images"]) + time
            return keras.Model(inputs, keras.layers.Conv2D(1, 3, padding="same")(hidden), name=name)

        self._hold(make, averaging, seed=0)

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config["process"] = keras.saving.deserialize_keras_object(config["process"])
        return super().from_config(config)


def _pixels(n=16):
    return np.random.default_rng(0).integers(0, 256, (n, 4, 4, 1)).astype("float32")


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_a_diffusion_model_trains_and_reloads_as_if_never_stopped(dtype, tmp_path):
    with policy(dtype):
        model = TinyDiffusion(num_classes=3, label_dropout=0.5)
    model.compile(keras.optimizers.Adam(1e-2), jit_compile=dtype == "float32")
    data = (_pixels(), np.arange(16) % 3)
    history = model.fit(*data, batch_size=8, epochs=3, verbose=0, shuffle=False).history["loss"]
    assert np.isfinite(history).all()
    assert int(model.step_count) == 6
    weights, average = model.network.get_weights(), model.average.get_weights()
    assert all(not np.array_equal(a, b) for a, b in zip(weights, average, strict=True))
    assert model.evaluate(*data, verbose=0) == model.evaluate(*data, verbose=0)

    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    assert copy.process == model.process
    assert int(copy.step_count) == 6
    for each in (model, copy):
        keras.utils.set_random_seed(0)
        each.fit(*data, batch_size=8, verbose=0, shuffle=False)
    for a, b in zip(model.variables, copy.variables, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=a.path)


def test_the_average_follows_the_weights():
    model = TinyDiffusion(averaging=0.3)
    model.compile(keras.optimizers.SGD(1.0), run_eagerly=True)
    expected = model.network.get_weights()
    for n in (1, 2, 3, 4):
        model.fit(_pixels(), batch_size=16, verbose=0)
        beta = min(0.3, (1 + n) / (10 + n))
        expected = [beta * a + (1 - beta) * w for a, w in zip(expected, model.network.get_weights(), strict=True)]
        for a, b in zip(model.average.get_weights(), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    inputs = {"images": tf.ones((2, 4, 4, 1)), "times": tf.constant([1, 2])}
    told = inputs | {"times": model.process.condition(inputs["times"])}
    np.testing.assert_array_equal(model(inputs), model.average(told))
    np.testing.assert_array_equal(model(inputs, training=True), model.network(told))


def test_guidance_goes_beyond_the_label():
    model = TinyDiffusion(num_classes=3)
    x, t, labels = tf.ones((2, 4, 4, 1)), tf.constant([1, 2]), tf.constant([0, 2])
    with_label = model({"images": x, "times": t, "labels": labels})
    without = model({"images": x, "times": t, "labels": tf.constant([3, 3])})
    np.testing.assert_array_equal(model.guided(x, t), without)
    np.testing.assert_array_equal(model.guided(x, t, labels), with_label)
    np.testing.assert_allclose(model.guided(x, t, labels, 1.5), 2.5 * with_label - 1.5 * without, atol=1e-5)
    with pytest.raises(ValueError, match=r"guidance=2\.0 needs labels"):
        model.guided(x, t, guidance=2.0)
    with pytest.raises(ValueError, match="num_classes is None"):
        TinyDiffusion().guided(x, t, labels)


def test_labels_are_dropped_at_the_rate():
    model = TinyDiffusion(num_classes=3, label_dropout=0.25)
    seen = []
    model.network_call = model.corrupt
    model.corrupt = lambda *arguments: seen.append(arguments[4]) or model.network_call(*arguments)
    model.compile("sgd", run_eagerly=True)
    model.fit(_pixels(4000), np.ones(4000), batch_size=4000, verbose=0)
    assert abs(float(tf.reduce_mean(tf.cast(seen[0], "float32"))) - 0.75) < 5 * (0.25 * 0.75 / 4000) ** 0.5


def test_a_diffusion_model_refuses_what_it_cannot_learn_from():
    model = TinyDiffusion()
    model.compile("sgd", run_eagerly=True)
    with pytest.raises(ValueError, match=r"images has values from .* to 0.99.* raw pixels in \[0, 255\]"):
        model.fit(_pixels() / 256, verbose=0)
    with pytest.raises(ValueError, match="data has values from nan to nan; all must be finite"):
        model.fit(_pixels() * np.nan, verbose=0)
    with pytest.raises(ValueError, match="y was given: this TinyDiffusion has no classes"):
        model.fit(_pixels(), np.ones(16), verbose=0)
    with pytest.raises(ValueError, match=r"images has the shape \(1, 5, 4, 1\)"):
        model({"images": tf.zeros((1, 5, 4, 1)), "times": tf.constant([0])})
    with pytest.raises(ValueError, match="takes a dict of \\['images', 'times'\\]"):
        model(tf.zeros((1, 4, 4, 1)))
    model = TinyDiffusion(num_classes=2)
    model.compile("sgd", run_eagerly=True)
    with pytest.raises(ValueError, match="y=None: this TinyDiffusion has num_classes=2"):
        model.fit(_pixels(), verbose=0)
    for labels, found in ((np.arange(16) % 2 + 1, "1 to 2"), (np.full(16, -1), "-1 to -1")):  # 2 is "none"
        model.compile("sgd", run_eagerly=True)
        with pytest.raises(ValueError, match=f"labels has values from {found}; num_classes=2 has the classes 0 to 1"):
            model.fit(_pixels(), labels, verbose=0)


def test_pixels_go_in_and_come_out():
    model = TinyDiffusion()
    pixels = _pixels()
    inner = model.to_inner(pixels)
    assert float(tf.reduce_min(inner)) >= -1
    assert float(tf.reduce_max(inner)) <= 1
    np.testing.assert_allclose(model.from_inner(inner), pixels, atol=1e-4)
    np.testing.assert_array_equal(model.from_inner(tf.constant([-1.2, 1.2])), [0, 255])
    assert model.draw_noise(2, 3).shape == (6, 4, 4, 1)
