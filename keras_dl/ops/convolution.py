"""A dilated convolution over time that trains on every device."""

import tensorflow as tf


def dilated_convolution(x, kernel, dilation_rate):
    """Cross-correlation over time, without padding: `y[t] = sum_i x[t + dilation_rate i] kernel[i]`.

    TensorFlow's own gradient of it fails on CPUs for which TensorFlow does not use oneDNN (those without AVX-512, Arm):
    "Current CPU implementations do not yet support dilation rates larger than 1". The one here is made of what every
    CPU has: the convolution itself, with the mirrored kernel, for `x`, and a matrix product a tap for the kernel.

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

    @tf.custom_gradient  # takes tensors alone
    def convolve(x, kernel):
        # Of an image that is one pixel high: tf.nn.convolution would cut the sequence into interleaved ones instead of
        # dilating the kernel, where LiteRT has a dilated CONV_2D.
        image, filters = tf.expand_dims(x, 1), tf.expand_dims(kernel, 0)
        y = tf.nn.conv2d(image, filters, 1, "VALID", dilations=(1, 1, dilation_rate, 1))

        def gradient(upstream):
            padded = tf.pad(upstream, ((0, 0), (reach, reach), (0, 0)))
            mirrored = tf.transpose(tf.reverse(kernel, [0]), (0, 2, 1))
            length = tf.shape(upstream)[1]
            starts = range(0, reach + 1, dilation_rate)
            of_taps = [tf.tensordot(x[:, i : i + length], upstream, ((0, 1), (0, 1))) for i in starts]
            return dilated_convolution(padded, mirrored, dilation_rate), tf.stack(of_taps)

        return tf.squeeze(y, 1), gradient

    return convolve(x, kernel)
