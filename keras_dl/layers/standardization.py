"""Standardization: columns to zero mean and unit variance, by statistics that are saved with the weights."""

import warnings

import keras
import numpy as np
from keras import ops

from keras_dl.arguments import arguments


@keras.saving.register_keras_serializable(package="keras_dl")
class Standardization(keras.layers.Normalization):
    """`keras.layers.Normalization` over the last axis, which reads its statistics from its weights in each call.

    Keras's layer copies the statistics when it is adapted or loaded from a file. After `set_weights`, after a
    checkpoint is restored, and in a function that was traced before, it uses old ones. Two more things differ:

    - A column without variance is shifted and not scaled. (Keras divides by 1e-7.)
    - Until it is adapted, it is the identity.

    Args:
        invert: bool. True maps standardized values back to the unit of the data.

    Call arguments:
        inputs: `(..., columns)`. A column is the last axis: one channel of images, say.

    Returns:
        The layer's compute dtype, same shape. Make the layer with `dtype="float32"` in a model of lower precision: raw
        columns may be outside the range of float16.

    Example:

    >>> layer = Standardization()
    >>> layer.adapt(np.array([[1.0, 5.0], [3.0, 5.0]]))
    >>> layer(np.array([[5.0, 6.0]])).numpy()
    array([[3., 1.]], dtype=float32)
    """

    @arguments
    def __init__(self, invert: bool = False, **kwargs):
        for name in {"axis", "mean", "variance"} & kwargs.keys():
            raise TypeError(
                f"Standardization() got an unexpected keyword argument {name!r}. The axis is the last one, and the "
                "statistics are weights: call adapt or set_weights."
            )
        super().__init__(axis=-1, invert=invert, **kwargs)

    def adapt(self, data) -> None:
        """Measures mean and variance of each column.

        Args:
            data: array `(n, ..., columns)`, or a `tf.data.Dataset` of batches of it.

        Raises:
            ValueError: if a column has no finite mean or variance. The weights then stay as they were.
        """
        before = self.get_weights() if self.built else None
        super().adapt(data)
        statistics = np.stack(self.get_weights()[:2])
        bad = np.flatnonzero(~np.isfinite(statistics).all(axis=0))
        if bad.size:
            if before:
                self.set_weights(before)
            raise ValueError(f"data has missing or infinite values in columns {bad.tolist()}, or no rows.")

    @property
    def is_identity(self) -> bool:
        """Whether it changes nothing, as before it is adapted."""
        mean, variance = self.get_weights()[:2]
        return bool((mean == 0).all() and (variance == 1).all())

    def finalize_state(self):
        """Nothing to copy: `call` reads the weights."""

    def call(self, inputs):
        mean = ops.cast(self.adapt_mean, self.compute_dtype)
        variance = ops.cast(self.adapt_variance, self.compute_dtype)
        std = ops.where(variance > 0, ops.sqrt(variance), 1.0)
        return inputs * std + mean if self.invert else (inputs - mean) / std

    def get_config(self):
        config = super().get_config()
        return {name: value for name, value in config.items() if name not in ("axis", "mean", "variance")}


def warn_if_not_adapted(model) -> None:
    """Warns once of a model that is about to learn from raw features.

    Args:
        model: a model with a layer `standardize`.
    """
    if vars(model).get("_warned_of_raw_features") or not model.get_layer("standardize").is_identity:
        return
    vars(model)["_warned_of_raw_features"] = True
    warnings.warn(
        f"{type(model).__name__} was not adapted, and learns from features as they are. Unless they are standardized, "
        "call adapt on the training data before fit.",
        stacklevel=2,
    )
