"""Resampling by FIR filters against slow NumPy, with asymmetric filters, gradients, XLA and files."""

import numpy as np
import pytest
import tensorflow as tf

from keras_dl.ops import resampling
from keras_dl.ops.resampling import blur, downsample, downsampled_convolution, upsample, upsampled_convolution

FILTERS = {
    "stylegan2": (1, 3, 3, 1),
    "stylegan": (1, 2, 1),
    "asymmetric": (1, -2, 4, 3, 2),
    "of two dimensions": [[1.0, 2.0, 0.5, 3.0], [0.0, 1.0, -1.0, 2.0], [5.0, 1.0, 1.0, 1.0]],
    "wide": [[1, 2, 3, 4]],
}


def slow(x, coefficients, up=1, down=1, padding=((0, 0), (0, 0))):
    """Zeros after each pixel, padding, convolution, and every `down`-th pixel, by loops, in float64."""
    f = np.asarray(coefficients, "float64")
    f = np.outer(f, f) if f.ndim == 1 else f
    f = up**2 * f / f.sum()
    batch, height, width, channels = x.shape
    wide = np.zeros((batch, up * height, up * width, channels))
    wide[:, ::up, ::up] = x
    wide = np.pad(wide, ((0, 0), *(tuple(max(n, 0) for n in side) for side in padding), (0, 0)))
    (top, bottom), (left, right) = ((max(-n, 0) for n in side) for side in padding)
    wide = wide[:, top : wide.shape[1] - bottom, left : wide.shape[2] - right]
    rows, columns = (size - n + 1 for size, n in zip(wide.shape[1:3], f.shape, strict=True))
    y = np.zeros((batch, rows, columns, channels))
    for i, j in np.ndindex(rows, columns):
        for p, q in np.ndindex(f.shape):
            y[:, i, j] += f[-1 - p, -1 - q] * wide[:, i + p, j + q]
    return y[:, ::down, ::down]


def sizes(coefficients):
    return np.shape(coefficients) if np.ndim(coefficients) == 2 else 2 * np.shape(coefficients)


def images(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


CASES = [
    (lambda x, f: blur(x, f), lambda n: (n // 2, (n - 1) // 2), 1, 1),
    (lambda x, f: downsample(x, f), lambda n: ((n - 1) // 2, (n - 2) // 2), 1, 2),
    (lambda x, f: downsample(x, f, 3), lambda n: ((n - 2) // 2, (n - 3) // 2), 1, 3),
    (lambda x, f: upsample(x, f), lambda n: ((n + 1) // 2, (n - 2) // 2), 2, 1),
    (lambda x, f: upsample(x, f, 3), lambda n: ((n + 2) // 2, (n - 3) // 2), 3, 1),
]
NAMES = ["blur", "half", "a third", "twice", "three times"]


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize(("function", "padding", "up", "down"), CASES, ids=NAMES)
def test_against_slow_numpy(name, function, padding, up, down):
    x, f = images(2, 6, 12, 3), FILTERS[name]
    if min(sizes(f)) < max(up, down):
        with pytest.raises(ValueError, match="are fewer than factor"):
            function(tf.constant(x), f)
        return
    expected = slow(x, f, up, down, [padding(n) for n in sizes(f)])
    # Sums of at most 25 products of about 1.
    scale = np.abs(f).sum() ** 2 / abs(np.sum(f)) ** 2 * up**2
    np.testing.assert_allclose(function(tf.constant(x), f), expected, atol=2e-6 * scale)
    compiled = tf.function(lambda x: function(x, f), jit_compile=True)
    np.testing.assert_allclose(compiled(x), expected, atol=2e-6 * scale)
    assert expected.shape[1:3] == (6 * up // down, 12 * up // down)


def test_known_values():
    """Constant images stay constant within; the mean of (1, 3, 3, 1) is between two pixels."""
    ones = tf.ones((1, 8, 8, 2))
    for function in (blur, downsample, upsample):
        np.testing.assert_allclose(function(ones)[:, 2:-2, 2:-2], 1, rtol=1e-6)
    impulse = np.zeros((1, 5, 5, 1), "float32")
    impulse[0, 2, 2] = 16
    expected = np.zeros((10, 10))
    expected[3:7, 3:7] = np.outer([1, 3, 3, 1], [1, 3, 3, 1])
    np.testing.assert_allclose(upsample(tf.constant(impulse))[0, ..., 0], expected, atol=1e-6)
    # As zero padding, bilinear interpolation and a cut.
    x = images(2, 4, 6, 3)
    wide = tf.image.resize(tf.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (12, 16))[:, 2:-2, 2:-2]
    np.testing.assert_allclose(upsample(tf.constant(x)), wide, atol=1e-6)


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("name", ["stylegan2", "stylegan", "of two dimensions"])
def test_convolutions_that_resample(name, size):
    """The zeros, the kernel and the filter one after the other, each padded as if alone."""
    x, f = images(2, 6, 8, 3), FILTERS[name]
    kernel = images(size, size, 3, 4, seed=1)
    half = size // 2

    wide = np.zeros((2, 12, 16, 3), "float32")
    wide[:, ::2, ::2] = x
    pads = [((n + 1) // 2 + half, (n - 2) // 2 + half) for n in sizes(f)]
    mirrored = tf.constant(kernel[::-1, ::-1])
    wide = tf.nn.conv2d(tf.pad(wide, ((0, 0), *pads, (0, 0))), mirrored, 1, "VALID")
    expected = 4 * slow(wide.numpy(), f)
    found = upsampled_convolution(tf.constant(x), tf.constant(kernel), f)
    np.testing.assert_allclose(found, expected, atol=2e-4)

    blurred = slow(x, f, padding=[((n - 1) // 2 + half, (n - 2) // 2 + half) for n in sizes(f)])
    expected = tf.nn.conv2d(blurred.astype("float32"), kernel, 2, "VALID")
    found = downsampled_convolution(tf.constant(x), tf.constant(kernel), f)
    np.testing.assert_allclose(found, expected, atol=1e-4)


FUNCTIONS = {
    "blur": blur,
    "downsample": downsample,
    "upsample": upsample,
    "upsampled_convolution": lambda x: upsampled_convolution(x, KERNEL),
    "downsampled_convolution": lambda x: downsampled_convolution(x, KERNEL),
}
KERNEL = tf.constant(images(3, 3, 2, 2, seed=2))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_of_gradients(name):
    """Of the squared gradient of a sum of cubes, which a regularizer of gradients needs: against finite differences."""
    x = tf.constant(images(1, 4, 4, 2))
    direction = tf.constant(images(1, 4, 4, 2, seed=3))

    def squared_slope(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(FUNCTIONS[name](x) ** 3)
        return tf.reduce_sum(tape.gradient(y, x) ** 2)

    def slope(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = squared_slope(x)
        return tf.reduce_sum(direction * tape.gradient(value, x))

    step = 1e-2
    expected = (squared_slope(x + step * direction) - squared_slope(x - step * direction)) / (2 * step)
    for function in (tf.function(slope), tf.function(slope, jit_compile=True)):
        # The error of the difference is of the order of step^2, and of the rounding over the step.
        assert float(function(x)) == pytest.approx(float(expected), rel=5e-3)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_files_have_builtin_operators_alone(name):
    function = tf.function(FUNCTIONS[name]).get_concrete_function(tf.TensorSpec((1, 4, 6, 2)))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    interpreter = tf.lite.Interpreter(model_content=converter.convert())
    interpreter.allocate_tensors()
    x = images(1, 4, 6, 2)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(found, FUNCTIONS[name](tf.constant(x)), atol=1e-5)
    assert max(len(detail["shape"]) for detail in interpreter.get_tensor_details()) <= 4


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_keeps_its_dtype(dtype):
    x = tf.cast(images(1, 4, 4, 2), dtype)
    for function in (blur, downsample, upsample):
        y = function(x)
        assert y.dtype == dtype
        precision = {"float16": 2**-10, "bfloat16": 2**-7}[dtype]
        np.testing.assert_allclose(tf.cast(y, "float32"), function(tf.cast(x, "float32")), atol=8 * precision)


def test_unknown_sizes():
    function = tf.function(upsample).get_concrete_function(tf.TensorSpec((None, None, None, 2)))
    x = tf.constant(images(2, 3, 5, 2))
    np.testing.assert_allclose(function(x), upsample(x), atol=1e-6)


@pytest.mark.parametrize("wrong", [(), (1, -1), (1, float("nan")), [[[1.0]]]])
def test_wrong_filters_are_refused(wrong):
    with pytest.raises(ValueError, match=r"coefficients=.* must be finite numbers"):
        resampling.fir_filter(wrong)
    with pytest.raises(ValueError, match=r"coefficients=\(1, 2\) are fewer than factor=3"):
        upsample(tf.ones((1, 4, 4, 1)), (1, 2), 3)
