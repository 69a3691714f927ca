"""Adversarial training: who moves when, both optimizers and their loss scales, averages, reloading, lazy steps."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from adversarial import TINY, compiled, equal, given, pixels, values
from keras import ops

from keras_dl import DCGAN, GAN
from keras_dl.export import KerasRunner
from keras_dl.models.generative.adversarial import (
    AdversarialModel,
    discriminator_objective,
    generator_objective,
    r1_penalty,
)
from keras_dl.recipes.training import resume

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


class Summing(GAN):
    """What `fit` takes as targets belongs to the data."""

    def examples(self, data):
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        return x + y


def test_a_model_can_say_what_its_losses_get():
    settings = dict(data_range="unbounded", input_dropout_rate=0.0, dropout_rate=0.0)
    some, others = pixels(shape=(3,)) / 100, pixels(shape=(3,), seed=1) / 100
    noise = np.random.default_rng(0).normal(size=(2, 16, 4)).astype("float32")
    model, copy = (compiled(cls((3,), 4, (8,), (6,), **settings)) for cls in (Summing, GAN))
    copy.set_weights(model.get_weights())
    logs = given(model, *noise).train_on_batch(some, others, return_dict=True)
    assert logs == given(copy, *noise).train_on_batch(some + others, return_dict=True)
