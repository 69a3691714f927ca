"""AdamW with rates by variable: equal to Keras's without factors, and to two optimizers with them."""

import keras
import numpy as np
import pytest

from keras_dl.optimizers import AdamW


def net():
    keras.utils.set_random_seed(0)
    layers = [keras.Input((4,)), keras.layers.Dense(3, "tanh", name="body"), keras.layers.Dense(2, name="head")]
    return keras.Sequential(layers)


def trained(optimizer, steps=3, model=None, **options):
    model = net() if model is None else model
    rng = np.random.default_rng(1)
    model.compile(optimizer, "mse", **options)
    model.fit(rng.normal(size=(8, 4)), rng.normal(size=(8, 2)), batch_size=8, epochs=steps, verbose=0, shuffle=False)
    return model


def test_without_factors_it_is_keras_adamw():
    options = dict(weight_decay=0.1, global_clipnorm=0.05)
    ours, theirs = trained(AdamW(1e-2, **options)), trained(keras.optimizers.AdamW(1e-2, **options))
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)


@pytest.mark.parametrize("jit", [False, True])
def test_factors(jit):
    """The body as if the rate were a tenth, decay included, and the head as before: Adam scales each variable alone."""
    start = net().get_weights()
    whole, tenth = (trained(keras.optimizers.AdamW(rate, weight_decay=0.1), steps=1) for rate in (1e-2, 1e-3))
    mixed = trained(AdamW(1e-2, weight_decay=0.1, rate_factors={"body/": 0.1}), steps=1, jit_compile=jit)
    expected = tenth.get_weights()[:2] + whole.get_weights()[2:]
    for found, value, old in zip(mixed.get_weights(), expected, start, strict=True):
        np.testing.assert_allclose(found, value, atol=1e-7)
        assert np.any(found != old)


def test_a_factor_of_zero_freezes():
    start, found = net().get_weights(), trained(AdamW(1e-2, rate_factors={"body": 0.0})).get_weights()
    for old, new in zip(start[:2], found[:2], strict=True):
        np.testing.assert_array_equal(old, new)
    assert np.any(start[2] != found[2])


def test_in_a_file_and_in_half_precision(tmp_path):
    schedule = keras.optimizers.schedules.CosineDecay(1e-2, 10)
    model = trained(AdamW(schedule, weight_decay=0.1, rate_factors={"body": 0.1}, global_clipnorm=1.0))
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    assert copy.optimizer.get_config() == model.optimizer.get_config()
    for each in (model, copy):
        each.fit(np.ones((8, 4)), np.ones((8, 2)), batch_size=8, verbose=0)
    for a, b in zip(model.get_weights(), copy.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    scaled = keras.optimizers.LossScaleOptimizer(AdamW(1e-2, rate_factors={"body": 0.1}))
    assert all(np.isfinite(x).all() for x in trained(scaled).get_weights())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (dict(weight_decay=-1), "weight_decay=-1 must be"),
        (dict(rate_factors={"body": -0.1}), "rate_factors.'body'.=-0.1 must be"),
        (dict(rate_factors={"(": 0.1}), "which is no regular expression"),
        (dict(rate_factors={"tail": 0.1}), "'tail', which is in the path of no trainable variable: .*body/kernel"),
        (dict(rate_factors={"body": 0.1, "kernel": 0.2}), "has 2 factors for '.*body/kernel'"),
    ],
)
def test_bad_arguments(options, expected):
    with pytest.raises(ValueError, match=expected):
        AdamW(**options).build(net().trainable_variables)
