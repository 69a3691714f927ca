"""The layers of style-based nets: equal rates, modulation, demodulation, and the deviation of a minibatch."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dl.models.generative.equalized import CLAMP, EqualizedConv2D, EqualizedDense, MinibatchDeviation
from keras_dl.models.generative.style_layers import ModulatedConv2D, StyledConv2D


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def test_equalized_layers_start_with_variance_1():
    """Outputs of normal inputs have variance 1, whatever the rate; the weights have that of their rate."""
    keras.utils.set_random_seed(0)
    dense = EqualizedDense(400, rate=0.01, bias_initial=0.5)
    y = dense(normal(500, 300))
    assert np.std(dense.kernel) == pytest.approx(100, rel=0.02)
    assert np.mean(y) == pytest.approx(0.5, abs=0.02)
    assert np.std(y) == pytest.approx(1, rel=0.02)
    conv = EqualizedConv2D(64, 3, rectify=False, use_bias=False)
    assert np.std(conv(normal(4, 12, 12, 32))[:, 1:-1, 1:-1]) == pytest.approx(1, rel=0.03)


def test_the_rate_of_a_layer_scales_its_steps():
    """The same gradient step moves what a layer with rate 0.01 computes by 0.01^2 of another's."""
    x, moves = normal(8, 5), []
    for rate in (1.0, 0.01):
        layer = EqualizedDense(3, rate=rate)
        layer.build(x.shape)
        layer.kernel.assign(normal(5, 3, seed=1) / rate)
        before = layer(x)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(x))
        kernel, bias = tape.gradient(loss, [layer.kernel, layer.bias])
        layer.kernel.assign_sub(0.1 * kernel)
        layer.bias.assign_sub(0.1 * bias)
        moves.append(np.asarray(layer(x) - before))
    np.testing.assert_allclose(moves[1], 1e-4 * moves[0], rtol=2e-3, atol=1e-7)


@pytest.mark.parametrize("double", [False, True])
def test_modulation_is_that_of_the_kernel(double):
    """Scaling inputs and outputs equals each image's own kernel, whose norm after demodulation is 1."""
    x, style = normal(3, 6, 6, 4), 2.0 * normal(3, 5, seed=1)
    layer = ModulatedConv2D(7, 3, double=double, add_noise=False, rectify=False)
    found = layer(x, style)
    scales = layer.affine(style).numpy()
    kernels = layer.kernel.numpy()[None] * scales[:, None, None, :, None]
    kernels = kernels / np.sqrt(np.square(kernels).sum((1, 2, 3), keepdims=True) + 1e-8)
    np.testing.assert_allclose(np.square(kernels).sum((1, 2, 3)), 1, rtol=1e-5)
    plain = ModulatedConv2D(7, 3, double=double, demodulate=False, add_noise=False, rectify=False)
    plain.build(x.shape, style.shape)
    plain.affine.kernel.assign(tf.zeros_like(plain.affine.kernel))  # scales of 1
    for i in range(3):
        plain.kernel.assign(math.sqrt(36) * kernels[i])
        np.testing.assert_allclose(found[i : i + 1], plain(x[i : i + 1], style[i : i + 1]), atol=2e-5)


def test_demodulated_outputs_have_unit_variance():
    """Whatever the style and the scale of the kernel."""
    keras.utils.set_random_seed(0)
    layer = ModulatedConv2D(64, 3, add_noise=False, rectify=False)
    x = normal(4, 24, 24, 48)
    for factor in (1.0, 30.0):
        layer(x, normal(4, 8))
        layer.kernel.assign(factor * layer.kernel)
        y = layer(x, 10 * normal(4, 8, seed=int(factor)))[:, 1:-1, 1:-1]
        np.testing.assert_allclose(np.var(y, axis=(1, 2, 3)), 1, rtol=0.06)  # 4 deviations of 484 correlated pixels


def test_float16_changes_nothing_but_rounding():
    x, style = 30.0 * normal(2, 6, 6, 4), 40.0 * normal(2, 5, seed=1)
    noise = normal(2, 6, 6, 1, seed=2)
    layers = [ModulatedConv2D(7, 3, dtype=dtype) for dtype in ("float32", "mixed_float16")]
    for layer in layers:
        layer.build(x.shape, style.shape, noise.shape)
        layer.strength.assign(0.5)
        for a, b in zip(layer.weights, layers[0].weights, strict=True):
            a.assign(b)
    expected, found = (layer(x, style, noise) for layer in layers)
    assert found.dtype == "float16"
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())
    layers[1].bias.assign(layers[1].bias + 6e4)
    assert np.max(layers[1](x, style, noise)) == pytest.approx(CLAMP * math.sqrt(2), rel=1e-3)  # nothing overflows


def test_the_deviation_of_a_minibatch():
    x = normal(6, 2, 3, 4)
    layer = MinibatchDeviation(3)  # the groups are x[0::2] and x[1::2]
    found = layer(x)
    for group in range(2):
        expected = np.sqrt(np.var(x[group::2].astype("float64"), axis=0) + 1e-8).mean()
        np.testing.assert_allclose(found[group::2, ..., 4], expected, rtol=1e-5)
    np.testing.assert_array_equal(found[..., :4], x)
    np.testing.assert_allclose(layer(np.repeat(x[:1], 3, 0))[..., 4], 1e-4, rtol=1e-3)  # equal images
    function = tf.function(layer).get_concrete_function(tf.TensorSpec((None, 2, 3, 4)))
    np.testing.assert_allclose(function(x), found, rtol=1e-6)
    with pytest.raises(tf.errors.InvalidArgumentError, match="a batch cannot be divided into groups of group_size=3"):
        function(x[:4])
    with pytest.raises(ValueError, match=r"a batch of 1 cannot be divided into groups of group_size=3"):
        layer(x[:1])
    with pytest.raises(ValueError, match=r"a batch of 5 .* group_size=3"):
        layer(x[:5])
    assert MinibatchDeviation(1)(x[:1]).shape == (1, 2, 3, 5)


def test_adaptive_normalization_sets_mean_and_deviation():
    x, style, noise = normal(2, 5, 5, 3), normal(2, 4, seed=1), normal(2, 10, 10, 1, seed=2)
    layer = StyledConv2D(6, "double")
    layer.build(x.shape, style.shape, noise.shape)
    layer.strength.assign(normal(6, seed=3))
    y = layer(x, style, noise)
    scales, shifts = np.split(np.asarray(layer.affine(style)), 2, axis=-1)
    np.testing.assert_allclose(np.mean(y, axis=(1, 2)), shifts, atol=1e-5)
    np.testing.assert_allclose(np.std(y, axis=(1, 2)), np.abs(1 + scales), rtol=1e-4)


def test_the_doubling_of_stylegan_is_that_of_nearest_pixels():
    x = normal(1, 4, 6, 3)
    layer = StyledConv2D(2, "double", fir=(1,))
    layer.build(x.shape, (1, 4), (1, 8, 12, 1))
    mirrored = layer.scale * layer.kernel.numpy()[::-1, ::-1]
    expected = tf.nn.leaky_relu(tf.nn.conv2d(x.repeat(2, 1).repeat(2, 2), mirrored, 1, "SAME"), 0.2)
    found = layer(x, np.zeros((1, 4), "float32"), np.zeros((1, 8, 12, 1), "float32"))
    centered = expected - np.mean(expected, axis=(1, 2))
    np.testing.assert_allclose(found, centered / np.std(expected, axis=(1, 2)), atol=1e-4)
