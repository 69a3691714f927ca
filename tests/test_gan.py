"""GANs: counts, the optimal discriminator, closed forms of the losses, refusals, and torch's steps."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from adversarial import TINY, compiled, equal, given, pixels, values
from keras import ops
from oracles import load_oracle, state_dict
from reference import write_safetensors

from keras_dl import DCGAN, GAN
from keras_dl.models.generative.adversarial import (
    OBJECTIVES,
    discriminator_objective,
    generator_objective,
)
from keras_dl.models.generative.gan import Maxout

# Counts.


def trainable(net):
    return sum(math.prod(v.shape) for v in net.trainable_variables)


@pytest.mark.parametrize(
    ("cls", "preset", "generator", "discriminator"),
    [
        (GAN, "goodfellow2014_mnist", 2_503_984, 1_231_441),
        (DCGAN, "dcgan64", 3_576_704, 2_765_568),
        (DCGAN, "radford2015_lsun", 12_658_432, 11_036_160),
        (
            DCGAN,
            "dcgan32",
            100 * 256 * 16 + 512 + (256 * 128 + 128 * 64 + 64 * 3) * 16 + 256 + 128,
            (3 * 64 + 64 * 128 + 128 * 256 + 256) * 16 + 256 + 512,
        ),
        (
            DCGAN,
            "dcgan28",
            100 * 128 * 49 + 256 + (128 * 64 + 64) * 16 + 128,
            (64 + 64 * 128) * 16 + 128 * 49 + 256,
        ),
    ],
)
def test_presets_have_the_counts_of_their_code(cls, preset, generator, discriminator):
    with keras.StatelessScope(initialize_variables=False):  # shapes alone, no memory
        model = cls.from_preset(preset)
    assert (trainable(model.generator), trainable(model.discriminator)) == (generator, discriminator)


def test_the_gray_discriminator_of_64_pixels_has_its_count():
    with keras.StatelessScope(initialize_variables=False):
        model = DCGAN((64, 64, 1))
    assert (trainable(model.generator), trainable(model.discriminator)) == (3_574_656, 2_763_520)


def test_weights_start_as_in_the_papers():
    keras.utils.set_random_seed(0)
    model = DCGAN((32, 32, 3), filters=16)
    for net in (model.generator, model.discriminator):
        for variable in net.trainable_variables:
            n, mean = math.prod(variable.shape), 1.0 if variable.name == "gamma" else 0.0
            spread = 0.0 if variable.name == "beta" else 0.02
            assert variable.name in ("kernel", "gamma", "beta")
            # Five standard errors of a mean and of a deviation.
            assert abs(np.mean(variable) - mean) <= 5 * spread / math.sqrt(n)
            assert abs(np.std(variable) - spread) <= 5 * spread / math.sqrt(2 * n)
    model = GAN()
    for net, limit in ((model.generator, 0.05), (model.discriminator, 0.005)):
        for variable in net.trainable_variables:
            largest = np.abs(variable).max()
            assert largest <= limit
            if variable.name == "kernel" and math.prod(variable.shape) > 1000:
                assert largest > 0.99 * limit


def test_maxout_is_the_largest_of_its_pieces():
    layer = Maxout(3, pieces=2)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    found = layer(x)
    sums = x @ layer.dense.kernel.numpy() + layer.dense.bias.numpy()
    np.testing.assert_allclose(found, sums.reshape(5, 3, 2).max(-1), rtol=1e-5, atol=1e-6)


# Truths without training.


def test_the_value_of_the_game_is_minus_ln_4_where_nothing_can_be_told():
    zeros = ops.zeros(7)
    assert float(discriminator_objective("non_saturating", zeros, zeros)) == pytest.approx(math.log(4), rel=1e-6)
    assert float(generator_objective("saturating", zeros)) == pytest.approx(-math.log(2), rel=1e-6)
    # At the optimum for other densities it is -ln 4 + 2 JSD: here of two coins, p = (3/4, 1/4) and q = (1/4, 3/4).
    p, q = np.array([0.75, 0.25]), np.array([0.25, 0.75])
    logits, middle = np.log(p / q), (p + q) / 2
    counts = 4  # of each outcome, in a sample with exactly these shares
    real, fake = (np.repeat(logits, (counts * x).astype(int)) for x in (p, q))
    divergence = 0.5 * (np.sum(p * np.log(p / middle)) + np.sum(q * np.log(q / middle)))
    found = -float(discriminator_objective("non_saturating", real, fake))
    assert found == pytest.approx(2 * divergence - math.log(4), rel=1e-6)


def test_the_discriminator_finds_the_log_ratio_of_two_normal_densities():
    """D* = p / (p + q): its logit is `m^2 / 2 - m x` for N(0, 1) against N(m, 1)."""
    mean, n = 1.5, 4000
    quantiles = np.array([math.sqrt(2) * v for v in _erfinv(2 * (np.arange(n) + 0.5) / n - 1)], "float32")[:, None]
    real, fake = quantiles, quantiles + np.float32(mean)
    slope, bias = tf.Variable(0.0), tf.Variable(0.0)
    for _ in range(25):  # Newton's method on a convex loss
        with tf.GradientTape(persistent=True) as outer:
            with tf.GradientTape() as tape:
                loss = discriminator_objective("non_saturating", slope * real + bias, slope * fake + bias)
            gradient = tf.stack(tape.gradient(loss, [slope, bias]))
            parts = tf.unstack(gradient)
        hessian = tf.stack([tf.stack(outer.gradient(part, [slope, bias])) for part in parts])
        step = tf.linalg.solve(hessian, gradient[:, None])[:, 0]
        slope.assign_sub(step[0])
        bias.assign_sub(step[1])
    assert float(slope) == pytest.approx(-mean, abs=5e-3)  # the quantiles are a sample of 4,000
    assert float(bias) == pytest.approx(mean**2 / 2, abs=5e-3)


def _erfinv(x):
    from scipy.special import erfinv

    return erfinv(x)


def test_gradients_of_the_generators_losses():
    """`-sigmoid(-a)` and `-sigmoid(a)`: equal at 0; where D is sure that a sample is false, only the first is left."""
    logits = tf.constant([-30.0, -2.0, 0.0, 3.0, 30.0])
    slopes = {}
    for objective in OBJECTIVES:
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = 5 * generator_objective(objective, logits)
        slopes[objective] = tape.gradient(loss, logits).numpy()
    a = logits.numpy().astype("float64")
    np.testing.assert_allclose(slopes["non_saturating"], -1 / (1 + np.exp(a)), rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(slopes["saturating"], -1 / (1 + np.exp(-a)), rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(slopes["least_squares"], a - 1, rtol=1e-6)
    np.testing.assert_array_equal(slopes["hinge"], -1)
    assert slopes["saturating"][0] > -1e-12
    assert slopes["non_saturating"][2] == slopes["saturating"][2] == -0.5


def test_losses_in_closed_form_and_far_out():
    real, fake = np.array([2.0, -1.0, 0.5]), np.array([-3.0, 1.0, 0.0])
    sigmoid = lambda a: 1 / (1 + np.exp(-a))  # noqa: E731
    expected = {
        "non_saturating": -np.mean(np.log(sigmoid(real))) - np.mean(np.log(1 - sigmoid(fake))),
        "least_squares": 0.5 * np.mean((real - 1) ** 2) + 0.5 * np.mean(fake**2),
        "hinge": np.mean(np.maximum(0, 1 - real)) + np.mean(np.maximum(0, 1 + fake)),
    }
    for objective, value in (expected | {"saturating": expected["non_saturating"]}).items():
        assert float(discriminator_objective(objective, real, fake)) == pytest.approx(value, rel=1e-6)
    assert float(generator_objective("saturating", fake)) == pytest.approx(np.mean(np.log(1 - sigmoid(fake))), rel=1e-6)
    assert float(generator_objective("least_squares", fake)) == pytest.approx(np.mean((fake - 1) ** 2) / 2, rel=1e-6)
    far = np.array([1e4, -1e4], "float16")  # whose exponential no float32 holds
    for objective in OBJECTIVES:
        assert np.isfinite(discriminator_objective(objective, far, far))
        assert np.isfinite(generator_objective(objective, far))


def test_a_joint_batch_would_tell_real_from_generated():
    """Batch normalization of both together gives other logits than of each alone, which are those in training."""
    sizes = TINY | dict(image_shape=(16, 16, 1))
    model, copy = DCGAN(**sizes), DCGAN(**sizes)
    real, fake = pixels(shape=(16, 16, 1)), 0.2 * pixels(shape=(16, 16, 1), seed=1)
    joint = model.discriminator(np.concatenate([real, fake]), training=True)
    alone = np.concatenate([model.discriminator(x, training=True) for x in (real, fake)])
    assert np.abs(joint - alone).max() > 0.1 * np.abs(alone).max()

    noises = np.random.default_rng(0).normal(size=(2, 16, 4)).astype("float32")
    copy.set_weights(model.get_weights())
    expected = [
        float(ops.mean(copy.discriminator(x, training=True))) for x in (real, copy.generator(noises[0], training=True))
    ]
    logs = given(compiled(model), *noises).train_on_batch(real, return_dict=True)
    assert [logs["real_logit"], logs["fake_logit"]] == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_wrong_data_is_refused():
    model = compiled(DCGAN(**TINY))
    with pytest.raises(ValueError, match=r"y was given: DCGAN is trained on data alone"):
        model.fit(pixels(), np.zeros(16), verbose=0)
    with pytest.raises(ValueError, match=r"images has values from 0 to 1 .* raw pixels in \[0, 255\]"):
        model.fit(pixels() // 200, batch_size=8, verbose=0)
    for wrong in (pixels() / 127.5 - 1, 2 * pixels()):
        with pytest.raises(ValueError, match="raw pixels"):
            compiled(DCGAN(**TINY), run_eagerly=False, jit_compile=False).fit(wrong, batch_size=8, verbose=0)
    with pytest.raises(ValueError, match="a batch of 1 is too small"):
        compiled(DCGAN(**TINY)).fit(pixels(), batch_size=1, verbose=0)
    with pytest.raises(ValueError, match="all must be finite"):
        compiled(GAN((3,), 4, (8,), (6,), data_range="unbounded")).fit(np.full((4, 3), np.nan, "float32"), verbose=0)
    with pytest.raises(ValueError, match=r"noise has the shape \(2, 5\); it must be \(batch, 4\)"):
        model.generate(np.zeros((2, 5)))


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_noise_has_variance_1(kind):
    noise = np.asarray(DCGAN(**TINY, noise=kind, seed=1).draw_noise(20_000))
    assert np.abs(noise.mean()) < 5 / math.sqrt(noise.size)
    assert noise.var() == pytest.approx(1, abs=0.03)
    assert (np.abs(noise).max() <= math.sqrt(3)) == (kind == "uniform")


# Torch.


@pytest.fixture(scope="module")
def oracle():
    return load_oracle("gan")


def theirs():
    return DCGAN((32, 32, 2), noise_dim=5, filters=2, averaging=0.5)


def as_pixels(images):
    return 127.5 + 127.5 * images.transpose(0, 2, 3, 1)


def test_torch_weights_give_the_same_outputs(oracle, tmp_path):
    model = theirs()
    for side in ("generator", "discriminator"):
        write_safetensors(tmp_path / f"{side}.safetensors", state_dict(oracle, f"before/{side}"))
    model.load_torch(tmp_path / "generator.safetensors")
    model.load_torch(discriminator=tmp_path / "discriminator.safetensors")
    np.testing.assert_allclose(model.generate(oracle["noise"][0]), as_pixels(oracle["images"]), atol=1e-3)
    logits = model.discriminator(as_pixels(oracle["real"][0]), training=False)
    np.testing.assert_allclose(logits, oracle["logits"], rtol=1e-4, atol=1e-4)


def test_wrong_torch_weights_change_nothing(oracle):
    model = theirs()
    before = values(model.weights)
    weights = state_dict(oracle, "before/generator")
    with pytest.raises(ValueError, match="give the weights of one of them"):
        model.load_torch()
    with pytest.raises(ValueError, match=r"missing: discriminator: main\.0\.weight \(2, 2, 4, 4\)"):
        model.load_torch(weights, {})
    assert all(equal(values(model.weights), before))


def test_torch_training_steps(oracle):
    """Two alternating steps: every loss, every weight, and the moving statistics."""
    steps = len(oracle["real"])
    model = theirs()
    model.load_torch(state_dict(oracle, "before/generator"), state_dict(oracle, "before/discriminator"))
    given(compiled(model, keras.optimizers.SGD(0.05, momentum=0.5)), *oracle["noise"][1:])
    losses = []
    for real in oracle["real"]:
        logs = model.train_on_batch(as_pixels(real), return_dict=True)
        losses += [logs["loss"], logs["generator_loss"]]
        model.reset_metrics()
    np.testing.assert_allclose(losses, oracle["losses"], rtol=1e-4)

    expected = theirs()
    after = {side: state_dict(oracle, f"after/{side}") for side in ("generator", "discriminator")}
    expected.load_torch(after["generator"], after["discriminator"])
    for side, updates, batch in (("generator", 2 * steps, 4), ("discriminator", 3 * steps, 4)):
        net = getattr(model, side)
        for found, wanted, path in zip(net.weights, getattr(expected, side).weights, net.weights, strict=True):
            found, wanted = found.numpy(), wanted.numpy()
            if path.name == "moving_variance":  # torch's is that of a sample: n / (n - 1) times ours in each update
                start = 0.9**updates * _start(oracle, side, model, path)
                n = batch * _positions(net, path)
                found = start + (found - start) * n / (n - 1)
            np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-5, err_msg=path.path)


def _start(oracle, side, model, variable):
    fresh = theirs()
    fresh.load_torch(state_dict(oracle, "before/generator"), state_dict(oracle, "before/discriminator"))
    index = [v is variable for v in getattr(model, side).weights].index(True)
    return getattr(fresh, side).weights[index].numpy()


def _positions(net, variable):
    """Height times width of the maps that a statistic is taken over."""
    (layer,) = [x for x in net.layers if any(v is variable for v in x.weights)]
    return math.prod(layer.output.shape[1:3])
