"""The base of nets that give each pixel of an image a class: what they check of their data."""

import keras
import tensorflow as tf
from keras import ops

from keras_dl.base import FunctionalModel
from keras_dl.losses import PixelCrossentropy
from keras_dl.models.upkeep import BatchRange, FirstBatch, Observation, check_raw_pixels
from keras_dl.replicas import values_of_replicas

OF_NUMBERS = (PixelCrossentropy, keras.losses.SparseCategoricalCrossentropy)  # losses of labels, not of shares


@keras.saving.register_keras_serializable(package="keras_dl")
class WrongLabels(Observation):
    """The lowest and the highest label out of range that was seen; 0 if there was none."""

    def __init__(self, name="wrong_labels", **kwargs):
        super().__init__(name=name, **kwargs)
        self.values = self.add_variable(shape=(2,), initializer="zeros", name="values")

    def update_state(self, labels, wrong):
        labels = ops.where(wrong, labels, 0.0)
        low, high = ops.unstack(self.values, 2)
        self.values.assign(ops.stack([ops.minimum(low, ops.min(labels)), ops.maximum(high, ops.max(labels))]))

    def result(self):
        return self.values


class PixelClassifier(FirstBatch, FunctionalModel):
    """A model from images to logits of each pixel. A subclass calls `_hold` at the end of its constructor.

    `fit` and `evaluate` raise ValueError if labels are out of range, or do not have the sides of the images. `fit` also
    raises it if a pixel of the first batch is not finite or not in [0, 255], and warns if all are in [0, 1].
    """

    returns_logits = True

    def _hold(self):
        self.batch_range = BatchRange()
        self.wrong_labels = WrongLabels()

    def train_step(self, data):
        self.batch_range.update_state(keras.utils.unpack_x_y_sample_weight(data)[0])
        return super().train_step(data)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return super().compute_loss(x, self._checked_labels(x, y), y_pred, sample_weight, training)

    def _checked_labels(self, images, labels):
        """The labels, with 0 in the place of wrong ones, which the step then names."""
        if labels is None:
            raise ValueError(f"{type(self).__name__} is trained on (images, labels); there are no labels.")
        labels = tf.convert_to_tensor(labels)
        one_hot = labels.shape.rank == 4 and labels.shape[-1] == self.num_classes
        if one_hot or not (labels.dtype.is_integer or isinstance(self.loss, OF_NUMBERS)):  # for a loss of the user
            return labels
        numbers = tf.cast(labels, tf.int32)
        if numbers.shape.rank not in (None, 3) or not images.shape[1:3].is_compatible_with(numbers.shape[1:3]):
            raise ValueError(
                f"labels have the shape {labels.shape}, and images {images.shape}; labels must be (batch, height, "
                "width), with the sides of the images."
            )
        wrong = (numbers < 0) | (numbers >= self.num_classes)
        ignored = self._ignored_label()
        if ignored is not None:
            wrong = wrong & (numbers != ignored)
        if labels.dtype.is_floating:  # such as of a mask that was resized between its pixels
            wrong = wrong | (labels != tf.cast(numbers, labels.dtype))
        self.wrong_labels.update_state(tf.cast(labels, tf.float32), wrong)
        return tf.where(wrong, tf.zeros_like(numbers), numbers)

    def _ignored_label(self):
        """The label that the compiled loss does not judge; None if it judges all."""
        return getattr(self.loss, "ignored_label", getattr(self.loss, "ignore_class", None))

    def _check_batch(self, lowest, highest, rows):
        check_raw_pixels(lowest, highest)

    def _check_each_batch(self):
        low, high = values_of_replicas(self.wrong_labels.values).T
        low, high = low.min(), high.max()
        if not (low == 0 and high == 0):  # they may be NaN
            self.wrong_labels.reset_state()  # the next training starts anew
            ignored = self._ignored_label()
            raise ValueError(
                f"labels hold {low if low < 0 else high:g}; they must be integers in [0, {self.num_classes})"
                + ("." if ignored is None else f", or {ignored} in pixels that are not judged.")
            )
