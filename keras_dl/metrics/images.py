"""Metrics of images."""

import keras
import tensorflow as tf
from keras import ops

from keras_dl.arguments import Positive, arguments


@keras.saving.register_keras_serializable(package="keras_dl")
class PSNR(keras.metrics.Metric):
    """Peak signal-to-noise ratio in dB, of the mean squared error of all colors seen.

        psnr = -10 log10(mean |y_true - y_pred|^2 / max_value^2)

    It is that of the mean error, not the mean over images: the two differ if the errors of the images do.

    Args:
        max_value: float, positive. The largest color.
        name: str.

    Call arguments:
        y_true, y_pred: float, of one shape: colors of rays or of images.
        sample_weight: float, `(batch,)`, or None.

    Returns:
        float32, scalar: at most 100.

    Raises:
        ValueError: if `max_value` is not positive.

    Example:

    >>> metric = PSNR()
    >>> metric.update_state(ops.zeros((2, 3)), 0.1 * ops.ones((2, 3)))
    >>> round(float(metric.result()), 4)
    20.0
    """

    @arguments
    def __init__(self, max_value: Positive = 1.0, name="psnr", **kwargs):
        super().__init__(name=name, **kwargs)
        self._direction = "up"
        self.error = self.add_variable((), "zeros", name="error")
        self.count = self.add_variable((), "zeros", name="count")

    def update_state(self, y_true, y_pred, sample_weight=None):
        difference = (ops.cast(y_true, "float32") - ops.cast(y_pred, "float32")) / self.max_value
        errors = ops.reshape(ops.square(difference), (ops.shape(difference)[0], -1))  # (batch, values)
        errors = ops.mean(errors, axis=-1)
        weight = ops.ones_like(errors) if sample_weight is None else ops.cast(sample_weight, "float32")
        self.error.assign_add(ops.sum(weight * errors))
        self.count.assign_add(ops.sum(weight))

    def result(self):
        mean = self.error / ops.maximum(self.count, 1e-12)
        return -10.0 * ops.log10(ops.maximum(mean, 1e-10))

    def get_config(self):
        return super().get_config() | {"max_value": self.max_value}


@keras.saving.register_keras_serializable(package="keras_dl")
class SSIM(keras.metrics.Mean):
    """Mean structural similarity of images: windows of 11 pixels, Gaussian weights of 1.5 pixels, `tf.image.ssim`.

    Args:
        max_value: float, positive. The largest color.
        name: str.

    Call arguments:
        y_true, y_pred: float, `(batch, height, width, channels)`, sides of at least 11.
        sample_weight: float, `(batch,)`, or None.

    Returns:
        float32, scalar, at most 1: equal images.

    Raises:
        ValueError: if `max_value` is not positive.

    Example:

    >>> metric = SSIM()
    >>> image = keras.random.uniform((1, 16, 16, 3), seed=0)
    >>> metric.update_state(image, image)
    >>> float(metric.result())
    1.0

    Reference: Wang, Bovik, Sheikh, Simoncelli 2004, "Image Quality Assessment: From Error Visibility to Structural
    Similarity", IEEE Transactions on Image Processing 13.
    """

    @arguments
    def __init__(self, max_value: Positive = 1.0, name="ssim", **kwargs):
        super().__init__(name=name, **kwargs)
        self._direction = "up"

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_true, y_pred = ops.cast(y_true, "float32"), ops.cast(y_pred, "float32")
        return super().update_state(tf.image.ssim(y_true, y_pred, self.max_value), sample_weight)

    def get_config(self):
        return super().get_config() | {"max_value": self.max_value}
