"""Padded sequences: their padding set to zero, one output for each of them, and standardization by their steps."""

import keras
import tensorflow as tf
from keras import ops

from keras_dl.arguments import OneOf, arguments
from keras_dl.base import Layer
from keras_dl.checks import check_shapes
from keras_dl.compat import is_eager
from keras_dl.layers.standardization import warn_if_not_adapted
from keras_dl.tracing import is_unrolled


@keras.saving.register_keras_serializable(package="keras_dl")
class Pool(Layer):
    """The output at the last step of each row, or their mean over its steps.

    Args:
        pooling: "last" or "mean".

    Call arguments:
        hidden: float, `(batch, time, width)`.
        keep: float, `(batch, time)`, 1 up to the row's last step and 0 behind it; None where all rows are whole.

    Returns:
        float, `(batch, width)`. Zeros for a row without any step.

    Raises:
        ValueError: if `pooling` is neither of the two.
    """

    @arguments
    def __init__(self, pooling: OneOf("last", "mean") = "last", **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def compute_mask(self, inputs, previous_mask=None):
        """None, because no time axis is left."""

    def call(self, hidden, keep=None):
        if keep is None:
            return hidden[:, -1] if self.pooling == "last" else ops.mean(hidden, axis=1)
        weights = ops.cast(keep, hidden.dtype)  # (batch, time)
        if self.pooling == "last":
            weights = weights - ops.pad(weights[:, 1:], ((0, 0), (0, 1)))  # 1 at the last step, 0 elsewhere
        else:
            weights = weights / ops.maximum(ops.sum(weights, axis=1, keepdims=True), 1)
        return ops.squeeze(ops.matmul(ops.expand_dims(weights, 1), hidden), 1)  # (batch, width)

    def compute_output_shape(self, hidden_shape, keep_shape=None):
        return (hidden_shape[0], hidden_shape[2])


@keras.saving.register_keras_serializable(package="keras_dl")
class CleanSequence(Layer):
    """Sets the values of padding to 0. Called eagerly, it checks that padding stands only at the end of each row.

    On a device it multiplies by the mask, because NPUs do not select. So the values of padding must be finite there.

    Call arguments:
        sequence: float, `(batch, time, features)`.
        keep: float, `(batch, time)`, 1 up to the row's last step and 0 behind it.

    Returns:
        float, `(batch, time, features)`.

    Raises:
        ValueError: eagerly, if the mask has holes.
    """

    def call(self, sequence, keep):
        if is_eager(keep) and bool(tf.reduce_any(keep[:, :-1] < keep[:, 1:])):
            raise ValueError("mask must be True up to the last step of each row and False behind it.")
        keep = ops.expand_dims(keep, -1)  # (batch, time, 1)
        return sequence * keep if is_unrolled() else ops.where(keep > 0, sequence, 0)

    def compute_output_shape(self, sequence_shape, keep_shape):
        return sequence_shape


class StandardizesSteps:
    """For models of sequences with `task`, `standardize`, `num_features` and, if they standardize, such a layer."""

    @property
    def returns_logits(self) -> bool:
        """Whether a call returns logits: for classification."""
        return self.task == "classification"

    def check_training(self) -> None:
        super().check_training()
        if self.standardize:
            warn_if_not_adapted(self)

    def adapt(self, features, mask=None) -> None:
        """Measures the mean and variance of each feature, for standardization. Call it before `fit`.

        Args:
            features: array `(n, time, num_features)`.
            mask: bool array `(n, time)`, or None. Steps that are False do not count.

        Raises:
            ValueError: if the model was made with `standardize=False`, features or mask have another shape, or a value
                is not finite.
        """
        if not self.standardize:
            raise ValueError("standardize=False: this model takes its features as they are.")
        given = {"features": features} | ({} if mask is None else {"mask": mask})
        shapes = {"features": ("n", "time", self.num_features), "mask": ("n", "time")}
        check_shapes("data", given, {name: shapes[name] for name in given}, f"num_features={self.num_features}")
        steps = ops.convert_to_numpy(features)
        if mask is not None:
            steps = steps[ops.convert_to_numpy(mask).astype("bool")]  # (kept steps, num_features)
        steps = steps.reshape(-1, self.num_features)
        self.get_layer("standardize").adapt(steps[:, None])
