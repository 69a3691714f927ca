"""The variational bound of a diffusion model, in its terms.

    -log p(x_0) <= L_T + sum_{t > 0} L_t + L_0
    L_T = KL(q(x_T | x_0) || N(0, 1)),   L_t = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)),   L_0 = -log p(x_0 | x_1)

The last term is a likelihood of whole pixels: the normal distribution's share of the bin of each value, the outer bins
reaching to infinity.

Reference: Ho, Jain, Abbeel 2020, arXiv:2006.11239, eq. 5 and 13.
"""

import math

import numpy as np
import tensorflow as tf

LEVELS = 256  # values of a pixel


def normal_kl(mean, log_variance, other_mean, other_log_variance):
    """`KL(N(mean, ..) || N(other_mean, ..))` of each element, in nats.

    Args:
        mean, log_variance, other_mean, other_log_variance: float, shapes that fit.

    Example:

    >>> round(float(normal_kl(1.0, 0.0, 0.0, 0.0)), 3)
    0.5
    """
    difference = tf.convert_to_tensor(log_variance - other_log_variance)
    squares = tf.square(mean - other_mean) * tf.exp(-other_log_variance)
    # exp(d) - 1 - d, which is 0 where both variances are equal
    return 0.5 * (tf.math.expm1(difference) - difference + squares)


def pixel_log_likelihood(pixels, mean, log_variance):
    """The log of a normal distribution's share of the bins of pixels, in nats.

    Args:
        pixels: float: values k / 127.5 - 1 for k from 0 to 255.
        mean, log_variance: float, of the normal distribution, in the same unit.

    Returns:
        float, the common shape. The share is at least 1e-12, as in the authors' code.

    Example:

    >>> float(pixel_log_likelihood(tf.constant(0.2), 0.2, -30.0))
    0.0
    """
    pixels = tf.convert_to_tensor(pixels)
    mean, log_variance = (tf.cast(x, pixels.dtype) for x in (mean, log_variance))
    half = 1.0 / (LEVELS - 1)
    inverse = tf.exp(-0.5 * log_variance)
    lower, upper = ((pixels + side - mean) * inverse for side in (-half, half))
    # The mirror image where both edges are above the mean, where a share is the difference of two numbers near 1.
    above = lower > 0
    lower, upper = tf.where(above, -upper, lower), tf.where(above, -lower, upper)
    is_first, is_last = pixels < -1 + half, pixels > 1 - half
    zero_edge = tf.where(above, is_last, is_first)  # the lower edge is -infinity
    one_edge = tf.where(above, is_first, is_last)  # the upper edge is infinity
    share = tf.where(one_edge, 1.0, _phi(upper)) - tf.where(zero_edge, 0.0, _phi(lower))
    return tf.math.log(tf.maximum(share, 1e-12))


def _phi(x):
    return 0.5 * tf.math.erfc(-x / math.sqrt(2.0))


def prior_kl(process, data):
    """L_T: how far the last step is from standard normal noise, in nats: float32, the shape of `data`.

    Args:
        process: `keras_dl.diffusion.Betas`.
        data: float: x_0.
    """
    last = process.kept[-1]
    log_variance = np.float32(np.log1p(-last))
    return normal_kl(np.float32(np.sqrt(last)) * data, log_variance, 0.0, 0.0)


def to_bits(nats):
    """Bits for each dimension: the mean over all axes but the first, float32, `(batch,)`."""
    return tf.reduce_mean(nats, axis=list(range(1, len(nats.shape)))) / math.log(2.0)
