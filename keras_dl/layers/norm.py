"""Normalization layers."""

import math

import keras
import tensorflow as tf
from keras import ops

from keras_dl.arguments import Positive, arguments
from keras_dl.base import Layer
from keras_dl.compat import variables_of_class


@keras.saving.register_keras_serializable(package="keras_dl")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization`, trained by TensorFlow's fused operation.

    Keras 3 composes batch normalization of several elementwise operations; the fused operation makes a single pass.
    Inference keeps Keras's product and sum: TensorFlow with oneDNN merges the fused operation into the convolution
    before it, which takes many times longer than both. Two things differ from Keras:

    - `momentum` and `epsilon` default to 0.9 and 1e-5, as in the residual networks' own code.
    - The moving variance follows the unbiased variance of the batch (divided by `n - 1`), as in
      torch and in TensorFlow's own layer before Keras 3. Outputs in training are the same.

    Weights and their names are Keras's. Inputs that are not normalized over the last axis, those with a mask, and
    float64, which the fused operation does not take, use Keras's implementation.

    Args:
        axis: int. The axis of the channels.
        momentum: float. Share of the old moving statistics that a training step keeps.
        epsilon: float. Added to the variance.
        **kwargs: as `keras.layers.BatchNormalization`.

    Call arguments:
        inputs: float, `(..., channels)`: images, or points of clouds.
        training: bool. True normalizes by the batch and updates the moving statistics. A layer that is not trainable
            always uses the moving statistics.

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
        plain = not self.synchronized and not self.renorm and mask is None
        plain = plain and self.compute_dtype != "float64"
        training = bool(training and self.trainable)
        if not (training and plain and self.axis in (-1, len(inputs.shape) - 1)):
            return super().call(inputs, training=training, mask=mask)
        x = ops.cast(inputs, self.compute_dtype)
        if len(inputs.shape) != 4:  # the operation is for images: (values, 1, 1, channels)
            x = ops.reshape(x, (-1, 1, 1, inputs.shape[-1]))
        empty = tf.constant([], "float32")
        fused = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=self.gamma if self.scale else tf.ones_like(self.moving_mean),
            offset=self.beta if self.center else tf.zeros_like(self.moving_mean),
            mean=empty,
            variance=empty,
            epsilon=self.epsilon,
        )
        for moving, batch in ((self.moving_mean, fused.batch_mean), (self.moving_variance, fused.batch_variance)):
            moving.assign(moving * self.momentum + batch * (1.0 - self.momentum))
        return fused.y if len(inputs.shape) == 4 else ops.reshape(fused.y, ops.shape(inputs))


@keras.saving.register_keras_serializable(package="keras_dl")
class LayerNormalization(keras.layers.LayerNormalization):
    """`keras.layers.LayerNormalization`, composed of operations that integer hardware has.

        c = x - mean(x),    y = c * rsqrt(mean(c * c) + epsilon) * gamma + beta

    Keras computes `x * s + (beta - mean * s)` with `s = gamma * rsqrt(...)`. In an int8 file this is a negation in
    float32 between two conversions, a product of a column with a row, which Arm's NPUs do not support, and the
    difference of two large numbers in 8 bits. Here the scale and the offset can also be merged into a dense layer that
    follows. The square is a product on purpose: the converter makes SQUARED_DIFFERENCE of other forms.

    Weights and their names are Keras's. An `axis` other than the last, and `rms_scaling`, use Keras's implementation.

    Args:
        axis: int. The axis that is normalized.
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
            x = ops.reshape(x, (-1, math.prod(places), channels))  # (batch, height * width, channels)
        centered = x - ops.mean(x, axis=-1, keepdims=True)
        outputs = centered * ops.rsqrt(ops.mean(centered * centered, axis=-1, keepdims=True) + self.epsilon)
        if self.gamma is not None:
            outputs = outputs * ops.cast(self.gamma, x.dtype)
        if self.beta is not None:
            outputs = outputs + ops.cast(self.beta, x.dtype)
        if len(x.shape) != len(inputs.shape):
            outputs = ops.reshape(outputs, (-1, *inputs.shape[1:]))  # (batch, height, width, channels)
        return ops.cast(outputs, self.compute_dtype)


@keras.saving.register_keras_serializable(package="keras_dl")
class GroupNormalization(keras.layers.GroupNormalization):
    """`keras.layers.GroupNormalization` of images, without tensors of more than four axes.

    Keras splits the channels of an image into a fifth axis, which edge devices do not take. Here means are taken of
    channels first, and then of groups. `epsilon` defaults to 1e-5, as in the paper's own code and in torch.

    Weights and their names are Keras's. Inputs other than `(batch, height, width, channels)`, normalized over the last
    axis, use Keras's implementation.

    Args:
        groups: int. Must divide the channels.
        epsilon: float, positive. Added to the variance.
        **kwargs: as `keras.layers.GroupNormalization`.

    Call arguments:
        images: float, `(batch, height, width, channels)`.

    Returns:
        The layer's compute dtype, same shape; statistics are taken in float32.

    Raises:
        ValueError: if `groups` does not divide the channels.

    Example:

    >>> images = ops.reshape(ops.arange(4.0), (1, 1, 1, 4))
    >>> GroupNormalization(groups=2)(images).numpy().round(3).ravel()
    array([-1.,  1., -1.,  1.], dtype=float32)

    Reference: Wu, He 2018, "Group Normalization", arXiv:1803.08494, eq. 1 and 7.
    """

    def __init__(self, groups=32, epsilon=1e-5, **kwargs):
        super().__init__(groups=groups, epsilon=epsilon, **kwargs)

    def call(self, images):
        if len(images.shape) != 4 or self.axis not in (-1, 3):
            return super().call(images)
        x = ops.cast(images, keras.backend.result_type(images.dtype, "float32"))
        # Over the pixels first: a mean over two axes that are not neighbors takes several times as long.
        x = x - self._of_groups(ops.mean(x, axis=(1, 2)))
        x = x * ops.rsqrt(self._of_groups(ops.mean(ops.square(x), axis=(1, 2))) + self.epsilon)
        x = ops.cast(x, self.compute_dtype)
        if self.gamma is not None:
            x = x * ops.cast(self.gamma, x.dtype)
        return x if self.beta is None else x + ops.cast(self.beta, x.dtype)

    def _of_groups(self, means):
        """From a mean of each channel that of its group: `(batch, channels)` to `(batch, 1, 1, channels)`."""
        channels = means.shape[-1]
        size = channels // self.groups
        means = ops.reshape(means, (-1, self.groups, size))
        means = ops.mean(means, axis=-1, keepdims=True)  # (batch, groups, 1)
        return ops.reshape(ops.concatenate([means] * size, axis=-1), (-1, 1, 1, channels))

    def load_own_variables(self, store):
        # In files of version 0.1.0 the class was called GroupNorm.
        super().load_own_variables(store if len(store) else variables_of_class(store, "group_norm"))


@keras.saving.register_keras_serializable(package="keras_dl")
class InstanceNormalization(Layer):
    """Normalizes each channel of each image over its pixels.

        c = x - mean(x),    y = c * rsqrt(mean(c * c) + epsilon)    (means over height and width)

    The mean of the squares is the biased variance, as in torch's `InstanceNorm2d`. Training and inference are the same:
    there are no moving statistics. All tensors have four axes, and all operations run in an int8 file.

    Args:
        epsilon: float, positive. Added to the variance. torch has 1e-5.
        affine: bool. Whether each channel has a trained scale `gamma` and offset `beta`, which torch calls weight and
            bias.

    Call arguments:
        images: float, `(batch, height, width, channels)`, of at least two pixels.

    Returns:
        The layer's compute dtype, same shape; statistics are taken in float32.

    Raises:
        ValueError: if the images have one pixel, which is its own mean, so that the output would be 0 for all images;
            or if they do not have four axes.

    Example:

    >>> images = ops.reshape(ops.array([-3.0, 1.0]), (1, 2, 1, 1))
    >>> InstanceNormalization()(images).numpy().round(3).ravel()
    array([-1.,  1.], dtype=float32)

    Reference: Ulyanov, Vedaldi, Lempitsky 2016, "Instance Normalization: The Missing Ingredient for Fast Stylization",
    arXiv:1607.08022, eq. 2.
    """

    @arguments
    def __init__(self, epsilon: Positive = 1e-5, affine: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.gamma = self.beta = None

    def build(self, images_shape):
        if self.affine:
            shape = (images_shape[-1],)
            self.gamma = self.add_weight(shape=shape, initializer="ones", name="gamma")
            self.beta = self.add_weight(shape=shape, initializer="zeros", name="beta")

    def call(self, images):
        shape = tuple(images.shape)
        if len(shape) != 4 or shape[1:3] == (1, 1):
            raise ValueError(
                f"images has the shape {shape}; {self.name} takes (batch, height, width, channels) of at least two "
                "pixels, since the mean of one pixel is the pixel. Give larger images, or use fewer strides before."
            )
        x = ops.cast(images, keras.backend.result_type(images.dtype, "float32"))
        x = x - ops.mean(x, axis=(1, 2), keepdims=True)
        x = x * ops.rsqrt(ops.mean(x * x, axis=(1, 2), keepdims=True) + self.epsilon)
        if self.affine:
            x = x * ops.cast(self.gamma, x.dtype) + ops.cast(self.beta, x.dtype)
        return ops.cast(x, self.compute_dtype)

    def compute_output_shape(self, images_shape):
        return images_shape
