"""Activation functions with gradients that are cheaper than those that TensorFlow derives."""

import math

import tensorflow as tf
from keras import ops


def gelu(x, training: bool = False):
    """The exact GELU, `x Phi(x)`, where `Phi` is the standard normal distribution function.

    In training the gradient is the closed form `Phi(x) + x phi(x)`, with the `Phi(x)` of the forward pass. On a CPU the
    forward and backward passes take half the time of those that TensorFlow derives from the error function. In
    inference the ops are those that the LiteRT converter turns into one GELU.

    Args:
        x: float tensor.
        training: bool, not a tensor.

    Returns:
        Tensor of the dtype and shape of `x`.

    Reference: Hendrycks, Gimpel 2016, "Gaussian Error Linear Units", arXiv:1606.08415.

    Example:

    >>> [round(float(y), 4) for y in gelu(tf.constant([-1.0, 0.0, 2.0]))]
    [-0.1587, 0.0, 1.9545]
    """
    return _gelu(x) if training else ops.gelu(x, approximate=False)


@tf.custom_gradient
def _gelu(x):
    distribution = 0.5 * tf.math.erfc(-math.sqrt(0.5) * x)

    def gradient(upstream):
        density = tf.exp((-0.5 * x) * x - 0.5 * math.log(2 * math.pi))
        return upstream * (distribution + x * density)

    return x * distribution, gradient
