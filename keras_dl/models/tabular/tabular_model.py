"""What networks on columns of numbers share: standardising inside, task, entry point on a device."""

import keras
import numpy as np
import tensorflow as tf
from keras import KerasTensor, layers, ops

from keras_dl.base import FunctionalModel, Signature
from keras_dl.checks import check_size, check_sizes
from keras_dl.layers.standardization import Standardization

TASKS = ("classification", "regression")


class TabularModel(FunctionalModel):
    """A `Model` from raw columns to logits, or to values in the targets' own unit.

    Subclasses build their net between `columns_in` and `answers_out`, and have the
    attributes `feature_shape`, `num_outputs` and `task`.
    """

    def adapt(self, features, targets=None):
        """Measures the mean and variance by which the model standardises. Call it before `fit`, on the training data.

        Args:
            features: array, `(n, *feature_shape)`: raw columns, measured each, or images, measured by channel.
                Or a `tf.data.Dataset` of batches `(features, targets)`; without targets it will do for classification.
            targets: for regression, array `(n,)` or `(n, num_outputs)`; else not used.

        Raises:
            ValueError: if the model is for regression and targets are missing, or if values are not finite.
        """
        if isinstance(features, tf.data.Dataset):
            if self.task == "regression":
                targets = features.map(lambda x, y, *_: y)
            features = features.map(lambda x, *_: x)
        if self.task == "regression":
            if targets is None:
                raise ValueError("targets=None: a model with task='regression' also standardises its targets.")
            self.get_layer("unstandardize").adapt(self._columns(targets))
        self.get_layer("standardize").adapt(features)

    def _columns(self, targets):
        if isinstance(targets, tf.data.Dataset):
            return targets.map(lambda y: tf.reshape(y, (-1, self.num_outputs)))
        return np.reshape(targets, (-1, self.num_outputs))

    def serving_signatures(self, batch_size=1):
        """What a device runs: dict of one `Signature`.

        For columns `predict(features: float32, (batch_size, *feature_shape))`; for images
        `classify(images: uint8, (batch_size, height, width, channels))`, or `predict(images)` for regression.
        It returns `{"probabilities": float32, (batch_size, num_outputs)}`; for regression `{"values": ...}`, in
        the targets' unit.
        """
        shape = feature_shape_tuple(self.feature_shape)
        key, dtype = ("images", "uint8") if len(shape) == 3 else ("features", "float32")

        def predict(**inputs):
            outputs = ops.cast(self(ops.cast(inputs[key], "float32"), training=False), "float32")
            return {"values": outputs} if self.task == "regression" else {"probabilities": ops.softmax(outputs)}

        name = "classify" if key == "images" and self.task == "classification" else "predict"
        return {name: Signature(predict, {key: KerasTensor((batch_size, *shape), dtype, name=key)})}


def feature_shape_tuple(feature_shape):
    """`(30,)` of 30, and a tuple of any other shape, checked."""
    if isinstance(feature_shape, list | tuple):
        return check_sizes("feature_shape", feature_shape)
    return (check_size("feature_shape", feature_shape),)


def columns_in(feature_shape, dtype):
    """The model's input, and the standardised, flattened columns after it: float, `(batch, columns)`."""
    shape = feature_shape_tuple(feature_shape)
    inputs = keras.Input(shape, name="images" if len(shape) == 3 else "features")
    columns = Standardization(dtype="float32", name="standardize")(inputs)
    return inputs, layers.Flatten(dtype=dtype, name="columns")(columns)


def answers_out(hidden, num_outputs, task, dtype):
    """Logits, or values in the targets' unit, in float32: `(batch, num_outputs)`."""
    answers = layers.Dense(num_outputs, dtype=dtype, name="head")(hidden)
    if task == "regression":
        answers = Standardization(invert=True, dtype="float32", name="unstandardize")(answers)
    return answers
