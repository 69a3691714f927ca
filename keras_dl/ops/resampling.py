"""Resampling of images by finite impulse response (FIR) filters, without the aliasing of strides and nearest pixels.

    upsample    y = up^2 f * x',   x' = x with up - 1 zeros after each pixel
    downsample  y = (f * x) at every down-th pixel

`*` is the convolution of each channel with a filter `f`, whose coefficients sum to 1: `(1, 3, 3, 1)` of StyleGAN2, or
`(1, 2, 1)` of StyleGAN. Pixels beyond the border are 0. The padding is as of `upfirdn2d` of StyleGAN2's authors, so
that the size is exactly multiplied or divided by the factor.

All of it is rank 4 and linear in `x`, and has gradients of any order. The filters are depthwise convolutions, which
LiteRT has builtin. XLA compiles depthwise convolutions on CPUs to slow loops, and gets sums of shifted images instead.

Reference: Karras et al. 2019, "Analyzing and Improving the Image Quality of StyleGAN", arXiv:1912.04958, appendix B;
Zhang 2019, "Making Convolutional Networks Shift-Invariant Again", arXiv:1904.11486.
"""

import numpy as np
import tensorflow as tf
from keras import ops

from keras_dl.compat import in_xla

FIR = (1, 3, 3, 1)


def fir_filter(coefficients) -> np.ndarray:
    """A filter of two dimensions, whose coefficients sum to 1: float64, `(height, width)`.

    Args:
        coefficients: sequence of numbers: those of rows and of columns alike. Or two dimensions of them.

    Raises:
        ValueError: if there are none, or they are not finite, or sum to 0.

    Example:

    >>> 16 * fir_filter((1, 2, 1))
    array([[1., 2., 1.],
           [2., 4., 2.],
           [1., 2., 1.]])
    """
    f = np.asarray(coefficients, "float64")
    if f.ndim not in (1, 2) or not f.size or not np.isfinite(f).all() or np.isclose(f.sum(), 0, atol=1e-12):
        raise ValueError(
            f"coefficients={coefficients!r} must be finite numbers of one or two dimensions, with a sum other than 0."
        )
    f = np.outer(f, f) if f.ndim == 1 else f
    return f / f.sum()


def blur(x, coefficients=FIR):
    """`f * x`, of the size of `x`.

    Args:
        x: float, `(batch, height, width, channels)`.
        coefficients: as of `fir_filter`.

    Returns:
        As `x`.

    Example:

    >>> 4 * blur(tf.constant([[[[0.0], [4.0], [0.0]]]]), [[1, 2, 1]])[0, 0, :, 0].numpy()
    array([4., 8., 4.], dtype=float32)
    """
    f = fir_filter(coefficients)
    return _correlate(x, f[::-1, ::-1], [(size // 2, (size - 1) // 2) for size in f.shape])


def downsample(x, coefficients=FIR, factor: int = 2):
    """`f * x` at every `factor`-th pixel.

    Args:
        x: float, `(batch, height, width, channels)`.
        coefficients: as of `fir_filter`.
        factor: int.

    Returns:
        As `x`, `(batch, ceil(height / factor), ceil(width / factor), channels)`.

    Raises:
        ValueError: if the filter has fewer coefficients than `factor`, so that pixels would be left out.

    Example:

    >>> downsample(tf.ones((1, 8, 8, 1)))[0, :, 2, 0].numpy()  # beyond the border, there are zeros
    array([0.875, 1.   , 1.   , 0.875], dtype=float32)
    """
    f = _filter(coefficients, factor)
    return _correlate(x, f[::-1, ::-1], [((n - factor + 1) // 2, (n - factor) // 2) for n in f.shape], factor)


def upsample(x, coefficients=FIR, factor: int = 2):
    """`factor^2 f * x'`: images that are larger by a factor.

    Each of the `factor^2` pixels that one becomes has its own part of the filter. So no zero is multiplied.

    Args:
        x: float, `(batch, height, width, channels)`.
        coefficients: as of `fir_filter`.
        factor: int.

    Returns:
        As `x`, `(batch, factor height, factor width, channels)`.

    Raises:
        ValueError: if the filter has fewer coefficients than `factor`, so that pixels would be 0.

    Example:

    >>> upsample(tf.ones((1, 4, 4, 1)))[0, :, 4, 0].numpy()  # beyond the border, there are zeros
    array([0.75, 1.  , 1.  , 1.  , 1.  , 1.  , 1.  , 0.75], dtype=float32)
    """
    f = factor**2 * _filter(coefficients, factor)[::-1, ::-1]
    rows, columns = ([_phase(n, factor, i) for i in range(factor)] for n in f.shape)
    _, height, width, channels = ops.shape(x)
    lines = []
    for row, above_below in rows:
        pixels = [_correlate(x, f[row, column], (above_below, beside)) for column, beside in columns]
        # (batch, height, factor width, channels)
        lines.append(tf.reshape(tf.concat(pixels, -1), (-1, height, factor * width, channels)))
    return tf.reshape(tf.concat(lines, 2), (-1, factor * height, factor * width, channels))


def upsampled_convolution(x, kernel, coefficients=FIR):
    """Twice the size by a transposed convolution of stride 2, then the filter: `4 f * (kernel * x')`.

    Args:
        x: float, `(batch, height, width, channels)`.
        kernel: float, `(size, size, channels, filters)`, of an odd size. It is not mirrored: `x'` is convolved with it.
        coefficients: as of `fir_filter`.

    Returns:
        As `x`, `(batch, 2 height, 2 width, filters)`.

    Example:

    >>> upsampled_convolution(tf.ones((1, 4, 4, 3)), tf.ones((3, 3, 3, 8))).shape
    TensorShape([1, 8, 8, 8])
    """
    f = 4 * _filter(coefficients, 2)
    size = kernel.shape[0]
    batch, height, width, _ = ops.shape(x)
    shape = (batch, 2 * height + size - 2, 2 * width + size - 2, kernel.shape[-1])
    y = tf.nn.conv2d_transpose(x, tf.transpose(kernel, (0, 1, 3, 2)), shape, 2, "VALID")
    # `upsample` has (n + 1) // 2 zeros before and (n - 2) // 2 after. The kernel's own size // 2 come off and on again.
    extra = size // 2
    return _correlate(y, f[::-1, ::-1], [((n + 1) // 2 - extra, n // 2 - extra) for n in f.shape])


def downsampled_convolution(x, kernel, coefficients=FIR):
    """The filter, then half the size by a convolution of stride 2.

    Args:
        x: float, `(batch, height, width, channels)`, with even sides.
        kernel: float, `(size, size, channels, filters)`, of an odd size.
        coefficients: as of `fir_filter`.

    Returns:
        As `x`, `(batch, height / 2, width / 2, filters)`.

    Example:

    >>> downsampled_convolution(tf.ones((1, 8, 8, 3)), tf.ones((3, 3, 3, 8))).shape
    TensorShape([1, 4, 4, 8])
    """
    if kernel.shape[0] == 1:  # only the pixels that are left need the filter
        return tf.nn.conv2d(downsample(x, coefficients), kernel, 1, "VALID")
    f = _filter(coefficients, 2)
    extra = kernel.shape[0] // 2
    y = _correlate(x, f[::-1, ::-1], [((n - 1) // 2 + extra, (n - 2) // 2 + extra) for n in f.shape])
    return tf.nn.conv2d(y, kernel, 2, "VALID")


def _filter(coefficients, factor):
    f = fir_filter(coefficients)
    if min(f.shape) < factor:
        raise ValueError(f"coefficients={coefficients!r} are fewer than factor={factor}: pixels would be left out.")
    return f


def _phase(size, factor, i):
    """The part of a mirrored filter that makes the i-th pixel of each, and the padding for it.

    With `p` zeros before `x'`, pixel `factor q + i` is the sum over j of `f[j] x'[factor q + i + j - p]`, in which only
    every `factor`-th j meets a pixel of `x`.
    """
    before = (size + factor - 1) // 2
    first = (before - i) % factor
    left = (before - i - first) // factor
    return slice(first, None, factor), (left, len(range(first, size, factor)) - 1 - left)


def _correlate(x, f, padding, stride=1):
    """The sum of shifted images times the coefficients of `f`, `(height, width)`. Negative padding cuts."""
    x = _padded(x, padding)
    if in_xla():
        for factor in _factors(f):
            x = _shifted_sum(x, factor)
        return x[:, ::stride, ::stride]
    channels = x.shape[-1]
    filters = tf.constant(np.broadcast_to(f[..., None, None], (*f.shape, channels, 1)), x.dtype)
    return tf.nn.depthwise_conv2d(x, filters, (1, stride, stride, 1), "VALID")


def _padded(x, padding):
    if any(n > 0 for side in padding for n in side):
        x = tf.pad(x, ((0, 0), *(tuple(max(n, 0) for n in side) for side in padding), (0, 0)))
    for axis, (before, after) in enumerate(padding, 1):
        if min(before, after) < 0:
            kept = slice(max(-before, 0), min(after, 0) or None)
            x = x[:, kept] if axis == 1 else x[:, :, kept]
    return x


def _factors(f):
    """A column and a row whose product is `f`; `f` itself if there are none."""
    columns, values, rows = np.linalg.svd(f)
    if min(f.shape) > 1 and values[1:].max() < 1e-12 * values[0]:
        return [values[0] * columns[:, :1], rows[:1]]
    return [f]


def _shifted_sum(x, f):
    height, width = (size - n + 1 for size, n in zip(ops.shape(x)[1:3], f.shape, strict=True))
    terms = [
        tf.cast(value, x.dtype) * x[:, i : i + height, j : j + width] for (i, j), value in np.ndenumerate(f) if value
    ]
    return tf.add_n(terms)
