"""A dilated convolution over time that trains on every device."""

import tensorflow as tf


def dilated_convolution(x, kernel, dilation_rate: int):
    """Cross-correlation over time, without padding: `y[t] = sum_i x[t + dilation_rate i] kernel[i]`.

    TensorFlow's own gradient fails on CPUs on which TensorFlow does not use oneDNN (Arm, and those without AVX-512):
    "Current CPU implementations do not yet support dilation rates larger than 1". The gradient here uses only ops that
    every CPU supports: for `x` the convolution itself with the mirrored kernel, for the kernel one matrix product per
    tap.

    Args:
        x: float tensor, `(batch, length, channels)`.
        kernel: float tensor, `(taps, channels, filters)`.
        dilation_rate: int.

    Returns:
        Tensor, `(batch, length - dilation_rate (taps - 1), filters)`, of the dtype of `x`.

    Example:

    >>> x = tf.reshape(tf.range(6.0), (1, 6, 1))
    >>> dilated_convolution(x, tf.ones((2, 1, 1)), 3)[0, :, 0]  # x[t] + x[t + 3]
    <tf.Tensor: shape=(3,), dtype=float32, numpy=array([3., 5., 7.], dtype=float32)>
    """
    reach = dilation_rate * (kernel.shape[0] - 1)

    @tf.custom_gradient  # which takes only tensors
    def convolve(x, kernel):
        # The sequence is an image that is one pixel high, since LiteRT has a dilated CONV_2D. tf.nn.convolution would
        # cut the sequence into interleaved ones instead of dilating the kernel.
        image, filters = tf.expand_dims(x, 1), tf.expand_dims(kernel, 0)  # (batch, 1, length, channels)
        y = tf.nn.conv2d(image, filters, 1, "VALID", dilations=(1, 1, dilation_rate, 1))

        def gradient(upstream):
            padded = tf.pad(upstream, ((0, 0), (reach, reach), (0, 0)))
            mirrored = tf.transpose(tf.reverse(kernel, [0]), (0, 2, 1))  # (taps, filters, channels)
            length = tf.shape(upstream)[1]
            starts = range(0, reach + 1, dilation_rate)
            of_taps = [tf.tensordot(x[:, i : i + length], upstream, ((0, 1), (0, 1))) for i in starts]
            return dilated_convolution(padded, mirrored, dilation_rate), tf.stack(of_taps)

        return tf.squeeze(y, 1), gradient

    return convolve(x, kernel)
