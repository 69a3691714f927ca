"""Checks of the data in the first step of a training: a graph knows no values before it runs."""

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable(package="keras_dl")
class BatchRange(keras.metrics.Metric):
    """The lowest and the highest value of the last batch, and its number of rows."""

    def __init__(self, name="batch_range", **kwargs):
        super().__init__(name=name, **kwargs)
        self.values = self.add_variable(shape=(3,), initializer="zeros", name="values")

    def update_state(self, batch):
        rows = ops.cast(ops.shape(batch)[0], "float32")
        self.values.assign(ops.stack([ops.cast(ops.min(batch), "float32"), ops.cast(ops.max(batch), "float32"), rows]))

    def result(self):
        return self.values


def checked_once(train_function, check):
    """The function with a `check()` after its first step; after each step until one passes.

    Args:
        train_function: as `make_train_function` of Keras sets it. One that is checked already comes back as it is.
        check: function without arguments.
    """
    if getattr(train_function, "is_checked", False):
        return train_function

    def checked(iterator):
        logs = train_function(iterator)
        if not checked.has_looked:
            check()
            checked.has_looked = True
        return logs

    checked.is_checked, checked.has_looked = True, False
    return checked


def check_values(name: str, lowest: float, highest: float, pixels_of: str | None = None) -> None:
    """Refuses values that are not finite, or are no raw pixels.

    Args:
        name: str. Of the data in the message.
        lowest, highest: float.
        pixels_of: str or None. The name of the model that takes raw pixels.
    """
    if not np.isfinite([lowest, highest]).all():
        raise ValueError(f"{name} has values from {lowest:g} to {highest:g}; all must be finite.")
    if pixels_of and (lowest < 0 or highest > 255 or (lowest < highest <= 1)):
        raise ValueError(
            f"{name} has values from {lowest:g} to {highest:g} in the first batch; {pixels_of} takes raw pixels in "
            "[0, 255], which it scales itself."
        )
