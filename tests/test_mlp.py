"""MLP: an affine chain, dropout that keeps the mean, statistics that stay with the model."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_dl import MLP, ResidualMLP
from keras_dl.layers import Standardization

ACTIVATIONS = {"relu": lambda x: np.maximum(x, 0), "tanh": np.tanh, "linear": lambda x: x}


def columns(n=64, seed=0):
    """Raw columns of very different units, one of them constant."""
    rng = np.random.default_rng(seed)
    x = rng.normal((1e5, -3.0, 0.02, 7.0), (4e4, 2.0, 0.005, 0.0), (n, 4))
    return x.astype("float32")


def chain(model, x):
    """The formula at the head of mlp.py in NumPy, in float64, with the weights of `model`."""
    weights = {v.path: keras.ops.convert_to_numpy(v).astype("float64") for v in model.variables}
    mean, variance = weights["standardize/mean"], weights["standardize/variance"]
    h = (x - mean) / np.where(variance > 0, np.sqrt(variance), 1.0)
    h = h.reshape(len(x), -1)
    for i in range(1, len(model.hidden_dims) + 1):
        h = h @ weights[f"hidden_{i}/kernel"] + weights.get(f"hidden_{i}/bias", 0.0)
        if model.normalization == "batch":
            h = (h - weights[f"norm_{i}/moving_mean"]) / np.sqrt(weights[f"norm_{i}/moving_variance"] + 1e-5)
        elif model.normalization == "layer":
            h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-5)
        if model.normalization:
            h = h * weights[f"norm_{i}/gamma"] + weights[f"norm_{i}/beta"]
        h = ACTIVATIONS[model.activation](h)
    y = h @ weights["head/kernel"] + weights["head/bias"]
    if model.task == "regression":
        y = y * np.sqrt(weights["unstandardize/variance"]) + weights["unstandardize/mean"]
    return y


@settings(max_examples=12, deadline=None)
@given(
    hidden_dims=st.lists(st.integers(1, 9), max_size=3),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    normalization=st.sampled_from([None, "batch", "layer"]),
    task=st.sampled_from(["classification", "regression"]),
    seed=st.integers(0, 1000),
)
def test_it_is_an_affine_chain(hidden_dims, activation, normalization, task, seed):
    keras.utils.set_random_seed(seed)
    model = MLP(4, 3, hidden_dims, activation, normalization, dropout_rate=0.3, task=task)
    x = columns(seed=seed)
    model.adapt(x, np.random.default_rng(seed).normal(50.0, 20.0, (64, 3)))
    rng = np.random.default_rng(seed)
    for v in model.variables:
        if v.name in ("bias", "beta", "gamma", "moving_mean", "moving_variance"):
            v.assign(rng.uniform(0.5, 1.5, v.shape))
    expected = chain(model, x.astype("float64"))
    # A layer normalization divides by a deviation of at least sqrt(1e-5): rounding becomes up to 316 times as large.
    error = 1e-4 if normalization == "layer" else 1e-5
    np.testing.assert_allclose(model(x), expected, rtol=0, atol=error * np.abs(expected).max())


def test_images_are_vectors():
    model = MLP((3, 4, 2), 5, hidden_dims=(6,))
    images = np.random.default_rng(0).integers(0, 256, (20, 3, 4, 2)).astype("uint8")
    model.adapt(images)
    np.testing.assert_allclose(model.get_layer("standardize").adapt_mean, images.mean(axis=(0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(model(images), chain(model, images.astype("float64")), rtol=1e-4, atol=1e-5)


def test_dropout_keeps_the_mean_and_is_off_in_inference():
    model = MLP(3, 2, hidden_dims=(400,), dropout_rate=0.25)
    hidden = keras.Model(model.input, [model.get_layer("activation_1").output, model.get_layer("dropout_1").output])
    x = np.random.default_rng(0).normal(size=(200, 3))
    before, after = (np.asarray(h) for h in hidden(x, training=True))
    alive = before > 0
    kept = after[alive] != 0
    n = kept.size
    assert abs(kept.mean() - 0.75) < 4 * np.sqrt(0.75 * 0.25 / n)  # four standard errors
    np.testing.assert_allclose(after[alive][kept], before[alive][kept] / 0.75, rtol=1e-5)
    ratio = after[alive] / before[alive]
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(n)
    np.testing.assert_array_equal(*hidden(x, training=False))


def test_columns_come_out_standardised():
    x = columns(1000)
    model = MLP(4, 2)
    model.adapt(x)
    found = np.asarray(keras.Model(model.input, model.get_layer("standardize").output)(x))
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(found.std(axis=0), (1, 1, 1, 0), atol=1e-4)  # a constant column is not blown up
    assert np.asarray(model(x + np.float32([0, 0, 0, 1e-3]))).max() < 100


def test_a_dataset_adapts_as_its_arrays_do():
    x, y = columns(), np.random.default_rng(0).normal(9.0, 3.0, 64).astype("float32")
    models = [MLP(4, 1, task="regression", name="net") for _ in range(2)]
    models[0].adapt(x, y)
    models[1].adapt(tf.data.Dataset.from_tensor_slices((x, y)).batch(10))
    for name in ("standardize", "unstandardize"):
        for a, b in zip(*(model.get_layer(name).get_weights()[:2] for model in models), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-8)
    classifier = MLP(4, 2)
    classifier.adapt(tf.data.Dataset.from_tensor_slices(x).batch(10))
    found, expected = (model.get_layer("standardize").adapt_mean for model in (classifier, models[0]))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("cls", [MLP, ResidualMLP])
@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_statistics_survive(cls, dtype, tmp_path):
    """Through `.keras`, weights files, config and `set_weights`, and into a function that was traced before."""
    x, y = columns(), np.random.default_rng(0).normal(500.0, 30.0, 64)
    model = cls(4, 1, task="regression", dtype=dtype)
    model.predict(x, verbose=0)
    model.adapt(x, y)
    expected = np.asarray(model(x))
    assert abs(expected.mean() - 500) < 100
    rounding = 1e-5 if dtype == "float32" else 1e-3  # a graph may round to float16 elsewhere than eager execution
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, rtol=rounding)

    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras")(x), expected)
    model.save_weights(tmp_path / "model.weights.h5")
    copies = [cls.from_config(model.get_config()) for _ in range(2)]
    for copy in copies:
        copy.predict(x, verbose=0)
    copies[0].load_weights(tmp_path / "model.weights.h5")
    copies[1].set_weights(model.get_weights())
    for copy in copies:
        np.testing.assert_array_equal(copy(x), expected)
        np.testing.assert_allclose(copy.predict(x, verbose=0), expected, rtol=rounding)


def test_large_columns_survive_half_precision():
    """A column of 1e5 is infinite in float16: standardising stays in float32."""
    x = columns()
    keras.utils.set_random_seed(3)
    full = MLP(4, 2)
    half = MLP(4, 2, dtype="mixed_float16")
    half.set_weights(full.get_weights())
    for model in (full, half):
        model.adapt(x)
    np.testing.assert_allclose(keras.ops.cast(half(x), "float32"), full(x), atol=1e-2)


def test_regression_learns_in_the_unit_of_the_targets():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 3)).astype("float32") * [1.0, 100.0, 0.01]
    y = 1e4 + 2e3 * x[:, 0] - 30.0 * x[:, 1] + 5e4 * x[:, 2]
    model = MLP(3, 1, hidden_dims=(), task="regression")
    model.adapt(x, y)
    model.compile(keras.optimizers.Adam(0.05), "mse", metrics=["mae"])
    model.fit(x, y, epochs=40, batch_size=32, verbose=0)
    assert model.evaluate(x, y, verbose=0)[1] < 0.01 * y.std()


@pytest.mark.parametrize(
    ("shape", "task", "name", "key", "dtype", "output"),
    [
        (4, "classification", "predict", "features", "float32", "probabilities"),
        (4, "regression", "predict", "features", "float32", "values"),
        ((2, 3, 1), "classification", "classify", "images", "uint8", "probabilities"),
        ((2, 3, 1), "regression", "predict", "images", "uint8", "values"),
    ],
)
def test_serving(shape, task, name, key, dtype, output):
    model = MLP(shape, 3, task=task)
    ((found_name, signature),) = model.serving_signatures(2).items()
    spec = signature.inputs[key]
    assert (found_name, set(signature.inputs), spec.dtype) == (name, {key}, dtype)
    x = np.random.default_rng(0).integers(0, 256, spec.shape).astype(dtype)
    result = signature.function(**{key: tf.constant(x)})
    outputs = keras.ops.softmax(model(x)) if task == "classification" else model(x)
    assert set(result) == {output}
    np.testing.assert_allclose(result[output], outputs, rtol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (dict(feature_shape=0), "feature_shape=0"),
        (dict(feature_shape=(4, -1)), r"feature_shape=\(4, -1\)"),
        (dict(num_outputs=1.5), "num_outputs=1.5"),
        (dict(hidden_dims=(8, 0)), r"hidden_dims=\(8, 0\)"),
        (dict(hidden_dims=8), "hidden_dims=8"),
        (dict(activation="rely"), "activation='rely'"),
        (dict(normalization="group"), "normalization='group' must be one of None, 'batch', 'layer'"),
        (dict(dropout_rate=1.0), "dropout_rate=1.0"),
        (dict(task="ranking"), "task='ranking'"),
    ],
)
def test_bad_arguments(overrides, message):
    with pytest.raises(ValueError, match=message):
        MLP(**dict(feature_shape=4, num_outputs=2) | overrides)


def test_bad_statistics_are_refused():
    model = MLP(4, 1, task="regression")
    with pytest.raises(ValueError, match="targets=None"):
        model.adapt(columns())
    x = columns()
    x[3, 2] = np.nan
    layer = Standardization()
    layer.adapt(columns())
    before = layer.get_weights()
    with pytest.raises(ValueError, match=r"missing or infinite values in columns \[2\]"):
        layer.adapt(x)
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("name", ["axis", "mean", "variance"])
def test_arguments_of_keras_that_standardization_does_not_take(name):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
        Standardization(**{name: 1.0})


def test_standardisation_inverts():
    x = columns()
    forward, backward = Standardization(), Standardization(invert=True)
    for layer in (forward, backward):
        layer.adapt(x)
    np.testing.assert_allclose(backward(forward(x)), x, rtol=1e-5)
    copy = Standardization.from_config(backward.get_config())
    assert copy.invert
