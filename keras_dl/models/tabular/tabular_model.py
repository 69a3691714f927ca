"""Shared parts of networks on columns of numbers: standardization, the task, the entry point on a device."""

from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from keras import KerasTensor, layers, ops

from keras_dl.arguments import OneOf
from keras_dl.base import FunctionalModel
from keras_dl.checks import check_size, check_sizes, shape_of, shapes_agree
from keras_dl.layers.standardization import Standardization, warn_if_not_adapted
from keras_dl.signatures import Signature

Task = OneOf("classification", "regression")


def _check_feature_shape(name, value):
    return check_sizes(name, value) if isinstance(value, list | tuple) else check_size(name, value)


FeatureShape = Annotated[int | tuple[int, ...], _check_feature_shape]


class TabularModel(FunctionalModel):
    """A `FunctionalModel` from raw columns to logits, or to values in the targets' own unit.

    Subclasses build their network between `columns_in` and `answers_out`, and have the arguments `feature_shape`,
    `num_outputs` and `task`.
    """

    @property
    def returns_logits(self) -> bool:
        """Whether a call returns logits: for classification."""
        return self.task == "classification"

    def check_training(self) -> None:
        super().check_training()
        warn_if_not_adapted(self)

    def adapt(self, features, targets=None) -> None:
        """Measures the mean and variance with which the model standardizes. Call it before `fit`, on the training data.

        Args:
            features: array, `(n, *feature_shape)`: raw columns, each with its own statistics, or images, each channel
                with its own. Or a `tf.data.Dataset` of batches `(features, targets)`; for classification `features`
                is enough.
            targets: array `(n,)` or `(n, num_outputs)`. Only used for regression.

        Raises:
            ValueError: if features or targets have another shape, the model is for regression and targets are missing,
                or values are not finite.
        """
        if isinstance(features, tf.data.Dataset):
            if self.task == "regression":
                targets = features.map(lambda x, y, *_: y)
            features = features.map(lambda x, *_: x)
        shape = _axes(self.feature_shape)
        _check_rows_of("features", features, [shape], f"n rows of feature_shape={self.feature_shape}")
        if self.task == "regression":
            if targets is None:
                raise ValueError("targets=None: a model with task='regression' also standardizes its targets.")
            columns = (self.num_outputs,)
            shapes = [columns, ()] if self.num_outputs == 1 else [columns]
            _check_rows_of("targets", targets, shapes, f"n rows of num_outputs={self.num_outputs}")
            self.get_layer("unstandardize").adapt(self._columns(targets))
        self.get_layer("standardize").adapt(features)

    def _columns(self, targets):
        if isinstance(targets, tf.data.Dataset):
            return targets.map(lambda y: tf.reshape(y, (-1, self.num_outputs)))
        return np.reshape(targets, (-1, self.num_outputs))

    def serving_signatures(self, batch_size: int = 1) -> dict[str, Signature]:
        """The entry points of a device: dict of one `Signature`.

        It is `predict(features: float32, (batch_size, *feature_shape))` for columns. For images it is
        `classify(images: uint8, (batch_size, height, width, channels))`, or `predict(images)` for regression.
        It returns `{"probabilities": float32, (batch_size, num_outputs)}`, or for regression `{"values": ...}` in the
        targets' unit.
        """
        shape = _axes(self.feature_shape)
        key, dtype = ("images", "uint8") if len(shape) == 3 else ("features", "float32")

        def predict(**inputs):
            outputs = ops.cast(self(ops.cast(inputs[key], "float32"), training=False), "float32")
            return {"values": outputs} if self.task == "regression" else {"probabilities": ops.softmax(outputs)}

        name = "classify" if key == "images" and self.task == "classification" else "predict"
        return {name: Signature(predict, {key: KerasTensor((batch_size, *shape), dtype, name=key)})}


def _check_rows_of(name, data, shapes, wanted):
    """Refuses an array, or a dataset of batches, whose rows have none of `shapes`."""
    dataset = isinstance(data, tf.data.Dataset)
    given = shape_of(data.element_spec if dataset else data)
    if given is None or (dataset and len(given) == 1 and given in shapes):  # Keras batches single rows of columns
        return
    if not any(shapes_agree(given[1:], shape) for shape in shapes):
        raise ValueError(f"{name} has the shape {given}; it must be {wanted}.")


def _axes(feature_shape):
    return feature_shape if isinstance(feature_shape, tuple) else (feature_shape,)


def columns_in(feature_shape):
    """The model's input, and its standardized, flattened columns: float, `(batch, columns)`."""
    shape = _axes(feature_shape)
    inputs = keras.Input(shape, name="images" if len(shape) == 3 else "features")
    columns = Standardization(dtype="float32", name="standardize")(inputs)  # (batch, *feature_shape)
    return inputs, layers.Flatten(name="columns")(columns)  # (batch, columns)


def answers_out(hidden, num_outputs, task):
    """Logits, or float32 values in the targets' unit: `(batch, num_outputs)`."""
    answers = layers.Dense(num_outputs, name="head")(hidden)
    if task == "regression":
        answers = Standardization(invert=True, dtype="float32", name="unstandardize")(answers)
    return answers
