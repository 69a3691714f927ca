"""Metrics of semantic segmentation."""

import keras
import tensorflow as tf
from keras import ops

from keras_dl.arguments import AtLeast, Size, arguments


@keras.saving.register_keras_serializable(package="keras_dl")
class MeanIoU(keras.metrics.Metric):
    """Mean intersection over union of classes, by the confusion matrix of all pixels seen.

        IoU of a class = right pixels / (pixels of the class + pixels predicted as the class - right pixels)

    A class that is neither in the truth nor predicted is left out of the mean. Pixels of the ignored label count for
    nothing, whatever is predicted there.

    Args:
        num_classes: int, the background included.
        ignored_label: int, or None. The label of pixels that are not judged: 255 in PASCAL VOC.
        background: bool. Whether class 0 is part of the mean, as in PASCAL VOC.
        name: str.

    Call arguments:
        y_true: int, `(batch, height, width)` or with one channel: labels in [0, num_classes), or the ignored one.
        y_pred: float, `(batch, height, width, num_classes)`: logits or probabilities; or int, in the shape of `y_true`:
            labels.
        sample_weight: float, of a shape that broadcasts with the pixels, or None. Pixels of weight 0 are not judged;
            others count once.

    Returns:
        float32, scalar, in [0, 1]; 0 if no pixel was judged; NaN if a label was out of its range.

    Raises:
        ValueError: if an argument is out of its range.

    Example:

    >>> metric = MeanIoU(num_classes=3)
    >>> metric.update_state([[[0, 0, 1, 255]]], ops.array([[[0, 1, 1, 2]]]))
    >>> float(metric.result())
    0.5

    Reference: Everingham et al. 2010, "The PASCAL Visual Object Classes Challenge", section 4.
    """

    @arguments
    def __init__(
        self,
        num_classes: Size,
        ignored_label: AtLeast(0) | None = 255,
        background: bool = True,
        name="mean_iou",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        self._direction = "up"
        # Float32 would stop to count at 2**24 pixels.
        self.wrong = self.add_variable((), "zeros", dtype="int64", name="wrong")
        self.confusion = self.add_variable((num_classes, num_classes), "zeros", dtype="int64", name="confusion")

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_true, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        if y_pred.dtype.is_floating:
            y_pred = tf.argmax(y_pred, axis=-1)
        shape = ops.shape(y_pred)
        truth, found = (tf.reshape(tf.cast(x, tf.int32), (-1,)) for x in (y_true, y_pred))
        judged = tf.ones_like(truth, tf.bool)
        if self.ignored_label is not None:
            judged = tf.not_equal(truth, self.ignored_label)
        if sample_weight is not None:
            weight = tf.cast(sample_weight, tf.float32)
            weight = tf.reshape(weight, (*weight.shape, *[1] * (len(shape) - len(weight.shape))))
            judged = tf.logical_and(judged, tf.reshape(tf.broadcast_to(weight, shape) > 0, (-1,)))
        known = tf.reduce_all([truth >= 0, truth < self.num_classes, found >= 0, found < self.num_classes], axis=0)
        self.wrong.assign_add(tf.math.count_nonzero(tf.logical_and(judged, tf.logical_not(known))))
        judged = tf.logical_and(judged, known)
        place = tf.where(judged, truth * self.num_classes + found, self.num_classes**2)
        counts = tf.math.unsorted_segment_sum(tf.ones_like(place), place, self.num_classes**2 + 1)
        self.confusion.assign_add(tf.cast(tf.reshape(counts[:-1], self.confusion.shape), tf.int64))

    def by_class(self):
        """The IoU of each class: float32, `(num_classes,)`, NaN for classes that did not occur."""
        counts = tf.cast(self.confusion, tf.float64)
        right = tf.linalg.diag_part(counts)
        union = tf.reduce_sum(counts, 0) + tf.reduce_sum(counts, 1) - right
        return tf.cast(tf.where(union > 0, right / tf.where(union > 0, union, 1), float("nan")), tf.float32)

    def result(self):
        values = self.by_class()[0 if self.background else 1 :]
        seen = tf.logical_not(tf.math.is_nan(values))
        total = tf.reduce_sum(tf.where(seen, values, 0.0))
        mean = total / tf.maximum(tf.reduce_sum(tf.cast(seen, tf.float32)), 1.0)
        return tf.where(self.wrong > 0, float("nan"), mean)

    def get_config(self):
        names = ("num_classes", "ignored_label", "background")
        return super().get_config() | {name: getattr(self, name) for name in names}
