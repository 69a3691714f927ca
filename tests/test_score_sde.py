"""Score SDE: counts, the authors' scores, losses, samples and bits, likelihoods, and what a user calls."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases.score_sde import IMAGES
from keras import ops
from oracles import load_oracle, state_dict
from reference import write_safetensors

from keras_dl import ScoreSDE
from keras_dl.diffusion import VE, VP, SubVP, log_likelihood, predictor_corrector
from keras_dl.diffusion.predictor_corrector import draws_per_step
from keras_dl.diffusion.probability_flow import bits_per_dimension
from keras_dl.export import export
from keras_dl.export.runners import LiteRTRunner
from keras_dl.ops.odeint import Solver

# Counts.


@pytest.mark.parametrize(
    ("preset", "trained", "fixed"),
    [
        ("ncsnpp_cifar10", 62_758_787, 128),
        ("ncsnpp_deep_cifar10", 107_586_947, 128),
        ("ddpmpp_cifar10", 61_804_419, 0),
        ("ddpmpp_deep_cifar10", 106_632_579, 0),
        ("ddpmpp_deep_sub_vp_cifar10", 106_632_579, 0),
        ("plane", None, 0),
    ],
)
def test_presets_have_the_counts_of_their_code(preset, trained, fixed):
    with keras.StatelessScope(initialize_variables=False):  # shapes alone, no memory
        net = ScoreSDE.from_preset(preset, averaging=0.0).network
    count = lambda variables: sum(math.prod(v.shape) for v in variables)  # noqa: E731
    assert trained in (None, count(net.trainable_variables))
    assert count(v for v in net.non_trainable_variables if "seed" not in v.path) == fixed


# The authors' code.


@pytest.fixture(scope="module")
def oracle():
    return load_oracle("score_sde")


SIZES = dict(
    data_shape=(8, 8, 2), filters=4, multipliers=(1, 2), num_blocks=1, attention_sides=(4,), num_steps=4, tolerance=1e-6
)


def theirs(kind, **options):
    if kind == "ve":
        options = dict(process=VE(0.01, 20.0), fir=True, pyramid=True, time_features="fourier") | options
    else:
        options = dict(process=VP(0.1, 3.0), fir=False, pyramid=False, time_features="sinusoidal") | options
    return ScoreSDE(**SIZES | dict(averaging=0.5) | options)


def last(x):
    """Channels last: `(..., channels, height, width)` to `(..., height, width, channels)`."""
    return np.moveaxis(x, -3, -1)


@pytest.mark.parametrize("kind", ["ve", "vp"])
def test_the_authors_weights_give_their_scores_losses_samples_and_bits(oracle, kind, tmp_path):
    model = theirs(kind)
    weights = {name: x.astype("float32") for name, x in state_dict(oracle, f"{kind}/weights").items()}
    write_safetensors(tmp_path / "model.safetensors", {f"module.{name}": x for name, x in weights.items()})
    model.load_torch(tmp_path / "model.safetensors")
    get = lambda name: oracle[f"{kind}/{name}"]  # noqa: E731
    x = last(get("x"))
    score = tf.function(model.score)
    expected = last(get("score"))
    np.testing.assert_allclose(score(x, get("t")), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())

    # The losses, with their times and noise. Theirs is half a sum for VE.
    t, z = 1e-5 + (1 - 1e-5) * get("loss/u"), last(get("loss/z"))
    factor = 0.5 * math.prod(model.data_shape) if kind == "ve" else 1.0
    inputs = {"images": model.process.perturb(x, t, z), "times": t}
    prediction = model(inputs)
    losses = model.example_losses(prediction, inputs, {"data": x, "noise": z})
    for weighting in ("simple", "likelihood"):
        loss = ops.mean(losses * model.process.weights(weighting, t))
        assert factor * float(loss) == pytest.approx(float(get(f"loss/{weighting}")), rel=1e-3)

    # Samples of given noise: with a corrector, and without.
    noise = last(get("noise"))
    for predictor, corrector in (("reverse_diffusion", "langevin"), ("ancestral", "none"), ("euler_maruyama", "none")):
        draws = draws_per_step(predictor, corrector)
        found = predictor_corrector(
            score, model.process, model.process.prior_std * noise[0],
            np.concatenate(noise[1 : 1 + 4 * draws]), 4, predictor=predictor, corrector=corrector, final_time=1e-3,
        )  # fmt: skip
        expected = last(get(f"sample/{predictor}"))
        np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max(), err_msg=predictor)


@pytest.mark.slow  # a gradient of a net in a graph of an adaptive solver: half a minute
@pytest.mark.parametrize("kind", ["ve", "vp"])
def test_the_authors_weights_give_their_bits(oracle, kind):
    model = theirs(kind)
    model.load_torch(state_dict(oracle, f"{kind}/weights"))
    get = lambda name: oracle[f"{kind}/{name}"]  # noqa: E731
    solver = Solver("dopri5", rtol=1e-5, atol=1e-5, max_num_steps=5000)
    bits = tf.function(lambda x, signs: log_likelihood(model.score, model.process, x, solver, signs, 0.3))
    density, latents = bits(last(get("x")), last(get("signs")))
    found = bits_per_dimension(density, math.prod(model.data_shape), 1 / 256 if kind == "ve" else 2 / 256)
    # Each solver keeps errors of 1e-5 in each of its steps.
    np.testing.assert_allclose(found, get("bits"), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(latents, last(get("latents")), atol=1e-3 * np.abs(get("latents")).max())


def test_wrong_weights_change_nothing(oracle):
    model = theirs("ve")
    before = model.get_weights()
    weights = state_dict(oracle, "ve/weights")
    with pytest.raises(ValueError, match=r"missing: all_modules\.0\.W \(4,\)"):
        model.load_torch({name: x for name, x in weights.items() if name != "all_modules.0.W"})
    with pytest.raises(ValueError, match="unknown"):
        theirs("vp").load_torch(weights)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))
    with pytest.raises(ValueError, match="nets of images"):
        plane().load_torch(weights)


# Points: a net whose score is exact, so that everything else must be.

MEAN, STD = np.array([1.0, -2.0], "float32"), np.array([2.0, 0.5], "float32")


def plane(cls=ScoreSDE, **options):
    defaults = dict(
        data_shape=(2,), process="vp", time_features="sinusoidal", filters=4, hidden_dims=(8,), mean=MEAN.tolist(),
        std=STD.tolist(), num_steps=60, flow_steps=80, averaging=0.0, seed=1,
    )  # fmt: skip
    return cls(**defaults | options)


class Exact(ScoreSDE):
    """Of data that are N(0, 1/4) in the scale of the process: points from N(mean, (std / 2)^2)."""

    def call(self, inputs, training=False):
        x = inputs[self.data_name]
        alpha, sigma = self.process.coefficients(inputs["times"], x)
        return sigma * x / (tf.square(alpha) / 4 + tf.square(sigma))


def exact(**options):
    return plane(Exact, **options)


SLOW = pytest.mark.slow  # tests/test_sdes.py has the same of all equations, without the graphs of a model


@pytest.mark.parametrize(
    "process",
    [VP(), pytest.param(SubVP(), marks=SLOW), pytest.param(VE(0.01, 200.0), marks=SLOW)],
    ids=["vp", "sub_vp", "ve"],
)
def test_likelihoods_and_latents_of_a_known_density(process):
    model = exact(process=process, time_features="fourier")
    points = (MEAN + STD / 2 * np.random.default_rng(0).normal(size=(50, 2))).astype("float32")
    expected = -0.5 * np.sum(((points - MEAN) / (STD / 2)) ** 2 + np.log(2 * np.pi * STD**2 / 4), axis=-1)
    found = model.log_likelihood(points)
    np.testing.assert_allclose(found, expected, atol=0.05)
    served = model.serving_signatures(batch_size=50)["likelihood"]
    np.testing.assert_allclose(tf.function(served.function)(points=points)["log_prob"], found, atol=2e-3)
    np.testing.assert_allclose(model.decode(model.encode(points)), points, atol=0.02)
    ends = model.interpolate(points[:3], points[3:6], count=3)
    np.testing.assert_allclose(ends[0], points[:3], atol=0.02)
    np.testing.assert_allclose(ends[2], points[3:6], atol=0.02)


def test_samples_of_a_known_density():
    model = exact(num_steps=200)
    for points in (model.sample(2000, seed=0), model.decode(model.draw_noise(2000, seed=1))):
        np.testing.assert_allclose(np.mean(points, 0), MEAN, atol=0.1)
        np.testing.assert_allclose(np.std(points, 0), STD / 2, rtol=0.1)
    points, path = model.sample(4, 40, seed=0, num_kept=5)
    assert path.shape == (5, 4, 2)
    np.testing.assert_array_equal(path[-1], points)
    np.testing.assert_array_equal(model.sample(4, 40, seed=0), points)
    assert np.abs(model.sample(4, 40, seed=1) - points).max() > 0.1
    first = model.sample(4, 40)
    assert np.abs(model.sample(4, 40) - first).max() > 0.1

    known = np.full((300, 2), [3.0, 99.0], "float32")
    filled = model.inpaint(known, keep=[True, False], seed=0)
    np.testing.assert_array_equal(filled[:, 0], 3.0)
    assert np.mean(filled[:, 1]) == pytest.approx(MEAN[1], abs=0.1)
    assert np.std(filled[:, 1]) == pytest.approx(STD[1] / 2, rel=0.2)


def test_a_classifier_guides_samples():
    """Two halves of a normal density: the classifier is told the noise, and knows the exact answer."""
    model = exact(num_steps=150)

    def classifier(inputs):
        alpha, sigma = model.process.coefficients(inputs["times"], inputs["points"])
        x = inputs["points"][:, :1] * alpha / 4 / (tf.square(alpha) / 4 + tf.square(sigma))  # expected data
        return tf.concat([-40.0 * x, 40.0 * x], -1)

    labels = np.arange(200) % 2
    points = model.sample(200, guide=model.class_guide(classifier, labels), seed=0).numpy()
    right = (points[:, 0] > MEAN[0]) == labels
    assert right.mean() > 0.9


def test_a_file_holds_the_whole_chain(tmp_path):
    """Ten steps of predictor and corrector in one loop, of noise that is given."""
    model = theirs("vp", num_steps=10)
    for variable in model.average.trainable_variables:  # last layers start near 0
        if variable.name == "kernel" and float(np.abs(variable).max()) < 1e-3:
            variable.assign(0.2 * np.random.default_rng(1).standard_normal(variable.shape))
    path = tmp_path / "score_sde.tflite"
    report = export(model, path, signatures=["sample"], verify=False)
    assert report.ops["WHILE"] == 1
    assert (report.flex_ops, report.custom_ops) == (0, 0)
    noise = np.random.default_rng(2).standard_normal((1, model.noise_rows(), 128)).astype("float32")
    found = LiteRTRunner(path).serve("sample", noise=noise)["images"]
    expected = model.serving_signatures()["sample"].function(tf.constant(noise))["images"]
    assert np.ptp(expected) > 100
    np.testing.assert_allclose(found / 255, expected / 255, atol=1e-4)


# Training.


def images(n=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 8, 4, 2)).astype("uint8")


def small(cls=ScoreSDE, **options):
    return cls(**IMAGES | dict(levels=256, weighting="simple") | options)


def test_training_under_xla_is_that_of_a_graph_on_the_same_noise():
    """Steps on given times and noise."""
    losses, rng = [], np.random.default_rng(0)
    points, noise = rng.normal(size=(2, 8, 2)).astype("float32")
    times = rng.uniform(0.1, 1, 8).astype("float32")
    for jit in (False, True):
        keras.utils.set_random_seed(0)
        model = plane(averaging=0.5)
        model.compile(keras.optimizers.SGD(0.1), jit_compile=jit)
        object.__setattr__(model, "corrupt", _given(model, tf.constant(times), tf.constant(noise)))
        losses.append(model.fit(points, batch_size=8, epochs=3, shuffle=False, verbose=0).history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert losses[0][2] < losses[0][0]


def _given(model, times, noise):
    corrupt = type(model).corrupt
    return lambda data, labels, t, z, keep_label=None, seed=None: corrupt(model, data, labels, times, noise)


@pytest.mark.parametrize("process", [VP(), SubVP(), VE(0.01, 20.0)], ids=["vp", "sub_vp", "ve"])
def test_times_of_the_likelihood_give_its_weighted_loss(process):
    """The mean over times drawn in proportion to the weight is the integral over uniform times with the weight."""
    model = exact(process=process, weighting="likelihood", time_features="fourier")
    shares = (np.arange(4000, dtype="float32") + 0.5) / 4000
    first = process.smallest_time
    data, noise = (np.random.default_rng(i).normal(size=(4000, 2)).astype("float32") for i in range(2))
    inputs, targets = model.corrupt(MEAN + STD * data / 2, None, first + (1 - first) * shares, noise)
    found = float(ops.mean(model.example_losses(model(inputs), inputs, targets)))

    # In closed form: E |z - E z|^2 = 1 - sigma^2 / (alpha^2 / 4 + sigma^2) = alpha^2 / (alpha^2 + 4 sigma^2).
    t = np.geomspace(first, 1, 20_000)
    alpha, sigma = (np.asarray(x, "float64") for x in process.marginal(t))
    errors = alpha**2 / (alpha**2 + 4 * sigma**2)
    expected = np.trapezoid(np.asarray(process.weights("likelihood", t)) * errors, t)
    assert found == pytest.approx(expected, rel=0.03)
    times = np.asarray(inputs["times"])
    assert (np.diff(times) > 0).all()
    assert (times >= first).all()
    assert times[-1] == pytest.approx(1.0, abs=1e-2)
    mass = np.trapezoid(np.asarray(process.weights("likelihood", t), "float64"), t)
    assert process.likelihood_mass == pytest.approx(mass, rel=1e-3)


@pytest.mark.parametrize("process", ["ve", "vp"])
def test_levels_are_filled_and_found_again(process):
    model = small(process=process, time_features="fourier", levels=17, num_steps=30)
    pixels = np.random.default_rng(0).choice(np.rint(np.linspace(0, 255, 17)), (4, 8, 4, 2))
    low, high = model.inner_range
    inner = model.to_inner(pixels, seed=keras.random.SeedGenerator(0)).numpy()
    levels = np.floor((inner - low) / (high - low) * 17)
    # 255 / 16 is no whole number, so that a few of the noise fall beside their level.
    assert np.mean(levels == np.rint(pixels / 15.9375)) > 0.9
    assert low - 0.01 <= inner.min() < inner.max() < high + 0.01
    np.testing.assert_allclose(model.from_inner(model.to_inner(pixels)), pixels, atol=1e-2)
    for other, words in ((small(levels=None), "levels=None"), (plane(), "levels=None")):
        with pytest.raises(ValueError, match=words):
            other.bits_per_dimension(pixels)
    with pytest.raises(ValueError, match="bits_per_dimension"):
        model.log_likelihood(pixels)


def test_bits_of_a_known_density():
    model = small(Exact, process="vp", levels=17, num_steps=30)
    pixels = np.random.default_rng(0).choice(np.rint(np.linspace(0, 255, 17)), (20, 8, 4, 2)).astype("float32")
    inner = model.to_inner(pixels, keras.random.SeedGenerator(5)).numpy().reshape(20, -1)
    nats = np.sum(0.5 * (2 * inner) ** 2 + 0.5 * math.log(2 * math.pi / 4), axis=-1)
    expected = nats / (64 * math.log(2)) - math.log2(2 / 17)
    np.testing.assert_allclose(model.bits_per_dimension(pixels, seed=5), expected, atol=0.01)


def test_wrong_data_is_refused():
    model = small()
    model.compile("adam", run_eagerly=True)
    with pytest.raises(ValueError, match="raw pixels"):
        model.fit(images() / 255.0, verbose=0)
    with pytest.raises(ValueError, match="y was given"):
        model.fit(images(), np.zeros(8), verbose=0)
    with pytest.raises(ValueError, match=r"images has the shape"):
        model({"images": np.zeros((2, 8, 8, 2), "float32"), "times": np.ones(2, "float32")})
    with pytest.raises(ValueError, match="count=0"):
        model.sample(0)
    with pytest.raises(ValueError, match="num_steps=0"):
        model.sample(2, 0)
    with pytest.raises(ValueError, match=r"keep has the shape \(3,\), which does not fit \(8, 8, 4, 2\)"):
        model.inpaint(images(), np.ones(3))
    with pytest.raises(ValueError, match=r"data has the shape \(8, 8, 2, 2\); it must be"):
        model.inpaint(images()[:, :, :2], True)
    model = plane()
    model.compile("adam", run_eagerly=True)
    with pytest.raises(ValueError, match="all must be finite"):
        model.fit(np.full((4, 2), np.nan, "float32"), verbose=0)
