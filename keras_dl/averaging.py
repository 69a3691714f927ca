"""Means of the weights of a training, which are often better than the last weights.

`mean_weights`, `CheckpointAverage`: the mean of the last checkpoints, as of Vaswani et al. 2017, arXiv:1706.03762,
section 6.1, who take the last 5 (base) or 20 (big). `RampedSGD`, `RampedAdamW`: a moving average by the optimizer.
"""

import collections

import keras
import numpy as np
from keras import ops

from keras_dl.arguments import Size, arguments


def mean_weights(checkpoints: list[list[np.ndarray]]) -> list[np.ndarray]:
    """The mean of several lists of weights.

    Args:
        checkpoints: list of results of `model.get_weights()`, at least one, all of the same model.

    Returns:
        list of arrays, for `model.set_weights`. The mean is computed in float64. Integers, such as counts, are those of
        the last checkpoint.

    Raises:
        ValueError: if there is no checkpoint, or if they differ in number or shapes.

    Example:

    >>> mean_weights([[np.float32([1, 3])], [np.float32([3, 3])]])
    [array([2., 3.], dtype=float32)]
    """
    checkpoints = [list(map(np.asarray, weights)) for weights in checkpoints]
    shapes = {tuple(w.shape for w in weights) for weights in checkpoints}
    if len(shapes) != 1:
        raise ValueError(f"checkpoints={len(checkpoints)} lists of weights of {len(shapes)} models: one is needed.")
    return [
        same[-1] if same[-1].dtype.kind in "biu" else np.mean(same, axis=0, dtype="float64").astype(same[-1].dtype)
        for same in zip(*checkpoints, strict=True)
    ]


class CheckpointAverage(keras.callbacks.Callback):
    """Ends a training with the mean of the weights after its last epochs.

    Metrics during the training are those of the current weights, not of the mean.

    Args:
        count: int. Number of epochs. A shorter training uses all of its epochs.

    Raises:
        ValueError: if `count` is not a positive integer.

    Example:

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> history = model.fit(np.ones((4, 1)), np.ones(4), epochs=3, callbacks=[CheckpointAverage(2)], verbose=0)
    """

    @arguments
    def __init__(self, count: Size = 5):
        super().__init__()
        self.checkpoints = collections.deque(maxlen=count)

    def on_train_begin(self, logs=None):
        self.checkpoints.clear()

    def on_epoch_end(self, epoch, logs=None):
        self.checkpoints.append(self.model.get_weights())

    def on_train_end(self, logs=None):
        if self.checkpoints:
            self.model.set_weights(mean_weights(self.checkpoints))


class _Ramped:
    """A moving average of the weights whose decay rises from 0, so that it forgets the initial weights.

    average = d average + (1 - d) weights        d = ema_momentum (1 - exp(-t / ramp)) in step t = 1, 2, ...
    """

    def __init__(self, *args, ramp=2000.0, use_ema=True, ema_momentum=0.9999, **kwargs):
        if not ramp > 0:
            raise ValueError(f"ramp={ramp} must be positive.")
        super().__init__(*args, use_ema=use_ema, ema_momentum=ema_momentum, **kwargs)
        self.ramp = ramp

    @property
    def ema_momentum(self):
        """The decay of the current step, a tensor; or the last one, before a training."""
        if not self.built:
            return self._last_momentum
        step = ops.cast(self.iterations, "float32") + 1
        return self._last_momentum * (1 - ops.exp(-step / self.ramp))

    @ema_momentum.setter
    def ema_momentum(self, value):
        self._last_momentum = value

    def get_config(self):
        return super().get_config() | {"ema_momentum": self._last_momentum, "ramp": self.ramp}


@keras.saving.register_keras_serializable(package="keras_dl")
class RampedSGD(_Ramped, keras.optimizers.SGD):
    """SGD with a moving average of the weights, whose decay rises from 0. `fit` ends with the average.

    Moving statistics of batch normalization are not averaged.

    Args:
        ramp: float, positive: after so many steps, the decay is 63% of its last value.
        use_ema: bool. Whether there is an average.
        ema_momentum: float in [0, 1]: the last value of the decay.
        **kwargs: as of `keras.optimizers.SGD`.

    Example:

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    >>> model.compile(RampedSGD(0.01, momentum=0.937, nesterov=True), "mse")
    >>> history = model.fit(np.ones((4, 1)), np.ones(4), epochs=3, verbose=0)
    """


@keras.saving.register_keras_serializable(package="keras_dl")
class RampedAdamW(_Ramped, keras.optimizers.AdamW):
    """AdamW with a moving average of the weights, whose decay rises from 0: see `RampedSGD`.

    Args:
        ramp, use_ema, ema_momentum: as of `RampedSGD`.
        **kwargs: as of `keras.optimizers.AdamW`.

    Example:

    >>> RampedAdamW(1e-3, ramp=500).get_config()["ramp"]
    500
    """
