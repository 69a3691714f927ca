"""What models with steps of their own check of their data, keep in `.keras` files, and trace."""

from collections.abc import Callable, Hashable

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_dl import objects
from keras_dl.replicas import values_of_replicas


class Observation(keras.metrics.Metric):
    """A metric that is not logged: a step leaves in it what Python then looks at. It is not part of files."""

    def save_own_variables(self, store):
        pass

    def load_own_variables(self, store):
        pass


@keras.saving.register_keras_serializable(package="keras_dl")
class BatchRange(Observation):
    """The lowest and the highest value of the last batch, and its number of rows."""

    def __init__(self, name="batch_range", **kwargs):
        super().__init__(name=name, **kwargs)
        self.values = self.add_variable(shape=(3,), initializer="zeros", name="values")

    def update_state(self, batch):
        rows = ops.cast(ops.shape(batch)[0], "float32")
        self.values.assign(ops.stack([ops.cast(ops.min(batch), "float32"), ops.cast(ops.max(batch), "float32"), rows]))

    def result(self):
        return self.values

    def observed(self):
        """The range of what all replicas saw, and the smallest number of rows that one of them had: NumPy array."""
        low, high, rows = values_of_replicas(self.values).T
        return np.stack([low.min(), high.max(), rows.min()])


class FirstBatch:
    """A mixin of models that look at the first batch of a training, of which a graph knows no values before.

    The constructor sets `batch_range = BatchRange()`, and `train_step` updates it with the data. Then `_check_batch` is
    called once, or after each step until it passes. A model of several kinds of data has a range of each, and its own
    `_check_first_batch`. `_check_each_batch` is called after every step of training and of evaluation.
    """

    @property
    def metrics(self):
        """Those that are logged."""
        return [metric for metric in super().metrics if not isinstance(metric, Observation)]

    def make_train_function(self, force=False):
        function = super().make_train_function(force)
        trained = self.train_function
        if getattr(trained, "is_checked", False):
            return function

        def checked(iterator):
            logs = trained(iterator)
            self._check_each_batch()
            if not checked.has_looked:
                self._check_first_batch()
                checked.has_looked = True
            return logs

        checked.is_checked, checked.has_looked = True, False
        self.train_function = checked
        return checked

    def _check_first_batch(self):
        self._check_batch(*self.batch_range.observed())

    def make_test_function(self, force=False):
        function = super().make_test_function(force)
        tested = self.test_function
        if getattr(tested, "is_checked", False):
            return function

        def checked(iterator):
            logs = tested(iterator)
            self._check_each_batch()
            return logs

        checked.is_checked = True
        self.test_function = checked
        return checked

    def _check_batch(self, lowest, highest, rows):
        raise NotImplementedError

    def _check_each_batch(self):
        """Nothing, unless a model says otherwise."""


def check_finite(lowest, highest, name="data"):
    """Refuses data that are not all finite."""
    if not np.isfinite([lowest, highest]).all():
        raise ValueError(f"{name} has values from {lowest:g} to {highest:g}; all must be finite.")


def check_raw_pixels(lowest, highest):
    """Refuses images that are not pixels in [0, 255], and warns of those that seem to be scaled to [0, 1]."""
    check_finite(lowest, highest, "images")
    if lowest < 0 or highest > 255:
        raise ValueError(f"images have values from {lowest:g} to {highest:g}; they must be in [0, 255].")
    objects.check_pixels(np.float32([lowest, highest]))


def check_pixels(model, lowest, highest, name="images"):
    """Refuses images that are not raw pixels in [0, 255]."""
    if lowest < 0 or highest > 255 or (lowest < highest <= 1):
        raise ValueError(
            f"{name} has values from {lowest:g} to {highest:g} in the first batch; {type(model).__name__} takes raw "
            "pixels in [0, 255], which it scales itself."
        )


class SavedSeeds:
    """A mixin of models whose `.keras` files keep the states of random generators, which Keras does not save."""

    def _seeds(self):
        return {f"seed_{i}": v for i, v in enumerate(x for x in self.variables if "seed_generator" in x.path)}

    def save_own_variables(self, store):
        super().save_own_variables(store)
        for key, state in self._seeds().items():
            store[key] = state

    def load_own_variables(self, store):
        for key, state in self._seeds().items():
            state.assign(store[key])
        own = [key for key in store.keys() if not key.startswith("seed_")]  # noqa: SIM118, a store of HDF5
        super().load_own_variables({key: store[key] for key in own})


def update_average(net, average, decay: float, step_count) -> None:
    """`average = beta average + (1 - beta) weight`, beta = min(decay, (1 + n) / (10 + n)) after n steps.

    Without the second term, the first weights would stay in the average for `1 / (1 - decay)` steps.

    Args:
        net, average: built models of the same structure.
        decay: float in [0, 1).
        step_count: int, or a scalar tensor or variable: n.
    """
    n = ops.cast(step_count, "float32")
    beta = ops.minimum(decay, (1.0 + n) / (10.0 + n))
    for weight, mean in zip(net.weights, average.weights, strict=True):
        # Statistics of normalization are averages already.
        mean.assign(beta * mean + (1.0 - beta) * weight if weight.trainable else weight)


def traced(model, key: Hashable, function: Callable) -> Callable:
    """`function` as a graph that the model keeps: it is traced once for each key and shape.

    Args:
        model: a model, whose weights `function` uses.
        key: what the graph depends on besides the shapes of its inputs.
        function: function of tensors.
    """
    graphs = vars(model).setdefault("_graphs", {})  # past Keras, which would track a dict
    if key not in graphs:
        graphs[key] = tf.function(function)
    return graphs[key]
