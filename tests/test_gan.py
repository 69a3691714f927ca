"""GANs: the optimal discriminator, closed forms of the losses, who moves when, reloading, and torch's steps."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from oracles import load_oracle, state_dict
from reference import write_safetensors

from keras_dl import DCGAN, GAN
from keras_dl.export import KerasRunner
from keras_dl.models.generative.adversarial import (
    OBJECTIVES,
    AdversarialModel,
    discriminator_objective,
    generator_objective,
    r1_penalty,
)
from keras_dl.models.generative.gan import Maxout
from keras_dl.recipes.training import resume

TINY = dict(image_shape=(8, 8, 1), noise_dim=4, filters=4)


def pixels(n=16, shape=(8, 8, 1), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape)).astype("float32")


def compiled(model, *optimizers, **options):
    optimizers = optimizers or (keras.optimizers.Adam(2e-3, beta_1=0.5),)
    model.compile(*optimizers, **{"run_eagerly": True} | options)
    return model


def values(variables):
    return [np.array(v.numpy()) for v in variables]


def equal(some, others):
    return [np.array_equal(a, b) for a, b in zip(some, others, strict=True)]


def given(model, *noises):
    """Makes the model draw these, one after the other."""
    queue = iter(noises)
    model.draw_noise = lambda count, seed=None: tf.constant(next(queue))
    return model


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


# Who moves.


@pytest.mark.parametrize("side", ["generator", "discriminator"])
def test_a_step_moves_its_own_side_alone(side):
    model = compiled(DCGAN(**TINY))
    other = {"generator": "discriminator", "discriminator": "generator"}[side]
    before = {name: values(model.trained_by(name)) for name in ("generator", "discriminator")}
    states = values(model.optimizer.variables), values(model.discriminator_optimizer.variables)
    model.minimize(side, getattr(model, f"{side}_loss"), tf.constant(pixels()), {})
    assert all(equal(values(model.trained_by(other)), before[other]))
    assert not any(equal(values(model.trained_by(side)), before[side]))
    moved = [not all(equal(values(o.variables), s)) for o, s in zip(_optimizers(model), states, strict=True)]
    assert moved == [side == "generator", side == "discriminator"]


def _optimizers(model):
    return model.optimizer, model.discriminator_optimizer


def test_the_second_optimizer_is_a_copy_or_the_one_that_is_given():
    schedule = keras.optimizers.schedules.ExponentialDecay(1e-2, 2, 0.5)
    model = compiled(DCGAN(**TINY), keras.optimizers.Adam(schedule, beta_1=0.5))
    first, second = _optimizers(model)
    assert first is not second
    assert first.get_config() == second.get_config()
    model.fit(pixels(), batch_size=8, epochs=2, verbose=0)
    assert float(first.learning_rate) == float(second.learning_rate) == pytest.approx(1e-2 * 0.5**2)
    assert (int(first.iterations), int(second.iterations), int(model.step_count)) == (4, 4, 4)

    constant = keras.optimizers.SGD(0.1)
    model = compiled(DCGAN(**TINY), keras.optimizers.Adam(schedule), constant)
    model.fit(pixels(), batch_size=8, epochs=1, verbose=0)
    assert model.discriminator_optimizer is constant
    assert float(model.optimizer.learning_rate) == pytest.approx(5e-3)
    assert float(constant.learning_rate) == pytest.approx(0.1)


def test_each_loss_has_its_own_scale():
    """An overflow on one side halves its scale, skips its step, and leaves the other side alone."""
    model = compiled(DCGAN(**TINY, dtype="mixed_float16"))
    first, second = _optimizers(model)
    assert all(isinstance(x, keras.optimizers.LossScaleOptimizer) for x in (first, second))
    second.dynamic_scale.assign(1e38)
    before = values(model.trained_by("discriminator"))
    logs = model.train_on_batch(pixels(), return_dict=True)
    assert np.isfinite(list(logs.values())).all()
    assert float(second.dynamic_scale) == pytest.approx(5e37)
    assert float(first.dynamic_scale) == first.initial_scale
    assert all(equal(values(model.trained_by("discriminator")), before))
    assert (int(first.iterations), int(second.iterations)) == (1, 0)


def test_the_moving_average():
    """`beta = min(averaging, (1 + n) / (10 + n))`; statistics of normalization are copied."""
    model = compiled(DCGAN(**TINY, averaging=0.25))
    noise = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    np.testing.assert_array_equal(model.generate(noise), model.generator(noise))  # it starts as the generator
    expected = values(model.generator.weights)
    for n in range(1, 4):
        model.train_on_batch(pixels(seed=n))
        beta = min(0.25, (1 + n) / (10 + n))
        for i, weight in enumerate(model.generator.weights):
            new = weight.numpy()
            expected[i] = beta * expected[i] + (1 - beta) * new if weight.trainable else new
    for a, b in zip(model.average.weights, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(model.generate(noise), model.average(noise))
    assert np.abs(model.generate(noise) - model.generator(noise)).max() > 0.01
    served = KerasRunner(model).serve("generate", noise=noise)["images"]
    np.testing.assert_allclose(served, model.generate(noise), atol=1e-4)


def test_xla_trains_as_the_graph_on_equal_noise():
    results = []
    noises = np.random.default_rng(0).normal(size=(8, 8, 4)).astype("float32")
    for jit in (False, True):
        keras.utils.set_random_seed(0)
        model = DCGAN(**TINY, averaging=0.9)
        table = tf.constant(noises)
        model.draw_noise = lambda count, seed=None, model=model, table=table: tf.gather(table, model.step_count.value)
        compiled(model, keras.optimizers.SGD(0.05), run_eagerly=False, jit_compile=jit)
        x = tf.data.Dataset.from_tensor_slices(pixels(32)).batch(8, drop_remainder=True)
        results.append(model.fit(x, epochs=2, verbose=0).history)
        assert model.train_function is not None
    for name, expected in results[0].items():
        np.testing.assert_allclose(results[1][name], expected, rtol=2e-3, atol=1e-4, err_msg=name)


class GeneratorFirst(DCGAN):
    """The generator moves first, and the discriminator sees the same images."""

    order = ("generator", "discriminator")

    def generator_loss(self, data, made):
        made["fake"] = self.generator(self.draw_noise(8), training=True)
        return generator_objective(self.objective, self.discriminator(made["fake"], training=True)), {}

    def discriminator_loss(self, data, made):
        fake = self.discriminator(ops.stop_gradient(made["fake"]), training=True)
        real = self.discriminator(data, training=True)
        figures = {"real_logit": ops.mean(real), "fake_logit": ops.mean(fake)}
        return discriminator_objective(self.objective, real, fake), figures


def test_another_order_in_which_one_side_hands_on_what_it_made():
    noise = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    model, copy = GeneratorFirst(**TINY), DCGAN(**TINY)
    copy.set_weights(model.get_weights())
    given(compiled(model, keras.optimizers.SGD(0.1)), noise)  # one draw is enough
    fake = copy.generator(noise, training=True)
    logs = model.train_on_batch(pixels(8), return_dict=True)
    assert logs["fake_logit"] == pytest.approx(float(ops.mean(copy.discriminator(fake, training=True))), rel=1e-4)


# Reloading.


def state(model):
    return {v.path + str(i): v.numpy() for i, v in enumerate(resume.state_variables(model))}.values()


@pytest.mark.parametrize(
    ("make", "policy"),
    [
        ("dcgan", "float32"),
        ("dcgan", "mixed_float16"),
        ("gan", "float32"),
        pytest.param("gan", "mixed_float16", marks=pytest.mark.slow),  # the same loss scales as of dcgan
    ],
)
def test_a_reloaded_model_goes_on_as_if_it_had_never_stopped(make, policy, tmp_path):
    """Bit by bit: weights, averages, both optimizers with their schedules and loss scales, noise and dropout."""
    schedule = keras.optimizers.schedules.ExponentialDecay(1e-2, 1, 0.9)
    if make == "dcgan":
        model, data = DCGAN(**TINY, averaging=0.9, dtype=policy), pixels()
    else:
        model = GAN((3,), 4, (8,), (6,), averaging=0.9, data_range="unbounded", dtype=policy)
        data = pixels(shape=(3,)) / 100
    compiled(model, keras.optimizers.Adam(schedule, beta_1=0.5), keras.optimizers.RMSprop(1e-3))
    options = dict(batch_size=8, shuffle=False, verbose=0)
    model.fit(data, epochs=2, **options)
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    assert type(copy.discriminator_optimizer) is type(model.discriminator_optimizer)
    assert all(equal(state(copy), state(model)))
    histories = [each.fit(data, epochs=2, **options).history for each in (model, copy)]
    assert histories[0] == histories[1]
    assert len(state(model)) == len(state(copy)) > 25
    assert all(equal(state(copy), state(model)))
    assert int(copy.step_count) == 8


def test_a_checkpoint_of_the_runner_holds_everything(tmp_path):
    models = [compiled(DCGAN(**TINY, averaging=0.9, seed=seed)) for seed in (1, 2)]
    models[0].fit(pixels(), batch_size=8, verbose=0)
    resume.save(tmp_path / "state.npz", models[0], resume.Checkpoint(1, [{}], 0.0, snapshots={1: np.arange(3)}))
    found = resume.restore(tmp_path / "state.npz", models[1])
    np.testing.assert_array_equal(found.snapshots[1], [0, 1, 2])
    for model in models:
        model.fit(pixels(), batch_size=8, shuffle=False, verbose=0)
    assert all(equal(state(models[0]), state(models[1])))


# Lazy regularization.


def test_r1_is_the_squared_slope():
    weights = tf.constant([1.0, -2.0, 0.5])
    images = tf.random.stateless_normal((6, 3), (0, 1))
    assert float(r1_penalty(lambda x: tf.linalg.matvec(x, weights), images)) == pytest.approx(1 + 4 + 0.25)
    squares = r1_penalty(lambda x: tf.reduce_sum(x**2, -1), images)
    assert float(squares) == pytest.approx(float(4 * tf.reduce_mean(tf.reduce_sum(images**2, -1))), rel=1e-5)


class Lazy(GAN):
    """The dense nets with R1 in every third step."""

    def regularize(self, data):
        def penalty():
            # Small, or its scaled gradient would be beyond float16 at first.
            return 3 * 0.01 * r1_penalty(lambda x: self.discriminator(x, training=True), data), {}

        self.every(3, lambda: self.minimize("discriminator", penalty))


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_lazy_regularization_runs_in_its_steps_without_another_trace(policy):
    keras.utils.set_random_seed(0)
    sizes = dict(data_range="unbounded", pieces=1, input_dropout_rate=0.0, dropout_rate=0.0, discriminator_range=None)
    model = Lazy((3,), 4, (8,), (6,), **sizes, dtype=policy)
    xla = policy == "float32"
    compiled(model, run_eagerly=not xla, jit_compile=xla)
    data = tf.data.Dataset.from_tensor_slices(pixels(56, (3,)) / 100).batch(8, drop_remainder=True)
    history = model.fit(data, verbose=0).history
    assert np.isfinite(list(history.values())).all()
    iterations = [int(x.iterations) for x in _optimizers(model)]
    assert iterations == [7, 7 + 3]  # in the steps 0, 3 and 6
    if policy == "mixed_float16":
        assert float(model.discriminator_optimizer.dynamic_scale) == model.discriminator_optimizer.initial_scale


# Wrong use.


def test_wrong_optimizers_are_refused():
    model, adam = DCGAN(**TINY), keras.optimizers.Adam()
    for arguments, message in (
        ({}, r"optimizer=None: DCGAN needs one for its generators"),
        (dict(discriminator_optimizer=adam), r"discriminator_optimizer alone does not do"),
        (dict(optimizer=adam, discriminator_optimizer=adam), "same object"),
        (dict(optimizer=keras.optimizers.Adam(use_ema=True)), "has use_ema=True"),
        (dict(optimizer="adam", discriminator_optimizer=keras.optimizers.SGD(use_ema=True)), "discriminator_optimizer"),
        (dict(optimizer="adam", loss="mse"), "loss='mse' would not be used"),
        (dict(optimizer="adam", metrics=["mae"]), r"metrics=\['mae'\] would not be used"),
    ):
        with pytest.raises(ValueError, match=message):
            model.compile(**arguments)
    model.compile("adam", "adam")
    assert not hasattr(AdversarialModel(), "discriminator_optimizer")


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
