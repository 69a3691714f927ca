"""Normalisation layers."""

import math

import keras
import tensorflow as tf
from keras import ops


@keras.saving.register_keras_serializable(package="keras_dl")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` for images, trained by TensorFlow's fused operation.

    Keras 3 composes batch normalisation of several elementwise operations, of which the fused one makes a single pass.
    In inference it stays Keras's product and sum, for TensorFlow with oneDNN merges the fused one into the convolution
    before it, and that takes many times longer than both. Two things differ from Keras:

    - `momentum` and `epsilon` default to 0.9 and 1e-5, as in the residual networks' own code.
    - The moving variance follows the unbiased variance of the batch (divided by `n - 1`), as in
      torch and in TensorFlow's own layer before Keras 3. Outputs in training are the same.

    Weights and their names are Keras's. Inputs that are not `(batch, height, width, channels)`
    normalised over the last axis are left to Keras's implementation.

    Args:
        axis: int. The axis of the channels.
        momentum: float. Share of the old moving statistics that a training step keeps.
        epsilon: float. Added to the variance.
        **kwargs: as `keras.layers.BatchNormalization`.

    Call arguments:
        inputs: float, `(batch, height, width, channels)`.
        training: bool. True normalises by the batch and updates the moving statistics;
            a layer that is not trainable always uses the moving statistics.

    Returns:
        The layer's compute dtype, same shape.

    Example:

    >>> images = ops.reshape(ops.array([-1.0, 1.0]), (2, 1, 1, 1))
    >>> BatchNormalization()(images, training=True).numpy().round(3).ravel()
    array([-1.,  1.], dtype=float32)
    """

    def __init__(self, axis=-1, momentum=0.9, epsilon=1e-5, **kwargs):
        super().__init__(axis=axis, momentum=momentum, epsilon=epsilon, **kwargs)

    def call(self, inputs, training=None, mask=None):
        plain = self.scale and self.center and not self.synchronized and not self.renorm and mask is None
        training = bool(training and self.trainable)
        if not (training and plain and len(inputs.shape) == 4 and self.axis in (-1, 3)):
            return super().call(inputs, training=training, mask=mask)
        empty = tf.constant([], "float32")
        fused = tf.raw_ops.FusedBatchNormV3(
            x=ops.cast(inputs, self.compute_dtype),
            scale=self.gamma,
            offset=self.beta,
            mean=empty,
            variance=empty,
            epsilon=self.epsilon,
        )
        for moving, batch in ((self.moving_mean, fused.batch_mean), (self.moving_variance, fused.batch_variance)):
            moving.assign(moving * self.momentum + batch * (1.0 - self.momentum))
        return fused.y


@keras.saving.register_keras_serializable(package="keras_dl")
class LayerNormalization(keras.layers.LayerNormalization):
    """`keras.layers.LayerNormalization`, composed of operations that integer hardware has.

        c = x - mean(x),    y = c * rsqrt(mean(c * c) + epsilon) * gamma + beta

    Keras computes `x * s + (beta - mean * s)` with `s = gamma * rsqrt(...)`. In an int8 file that is a negation in
    float32 between two conversions, a product of a column with a row, which no NPU of Arm has, and the difference of
    two large numbers in 8 bits. Here the scale and the offset are also free to be merged into a dense layer that
    follows. The square is a product on purpose: the converter would make SQUARED_DIFFERENCE of another.

    Weights and their names are Keras's. Any `axis` but the last, and `rms_scaling`, are left to Keras's implementation.

    Args:
        axis: int. The axis that is normalised.
        epsilon: float. Added to the variance.
        **kwargs: as `keras.layers.LayerNormalization`.

    Call arguments:
        inputs: float, `(..., channels)`.

    Returns:
        The layer's compute dtype, same shape. Half precision is computed in float32.

    Example:

    >>> LayerNormalization()(ops.array([[1.0, 3.0]])).numpy().round(3)
    array([[-1.,  1.]], dtype=float32)
    """

    def call(self, inputs):
        if self.axis not in (-1, [-1], len(inputs.shape) - 1, [len(inputs.shape) - 1]) or self.rms_scaling:
            return super().call(inputs)
        x = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        _, *places, channels = inputs.shape
        if len(places) > 1 and None not in places:  # the Ethos-U has no mean over the channels of height by width
            x = ops.reshape(x, (-1, math.prod(places), channels))
        centred = x - ops.mean(x, axis=-1, keepdims=True)
        outputs = centred * ops.rsqrt(ops.mean(centred * centred, axis=-1, keepdims=True) + self.epsilon)
        if self.gamma is not None:
            outputs = outputs * ops.cast(self.gamma, x.dtype)
        if self.beta is not None:
            outputs = outputs + ops.cast(self.beta, x.dtype)
        if len(x.shape) != len(inputs.shape):
            outputs = ops.reshape(outputs, (-1, *inputs.shape[1:]))
        return ops.cast(outputs, self.compute_dtype)
