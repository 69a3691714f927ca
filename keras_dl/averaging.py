"""The mean of the weights of a training's last checkpoints, which often does better than the last of them.

Vaswani et al. 2017, arXiv:1706.03762, section 6.1, take the mean of the last 5 (base) or 20 (big).
"""

import collections

import keras
import numpy as np

from keras_dl.checks import check_size


def mean_weights(checkpoints):
    """The mean of several lists of weights.

    Args:
        checkpoints: list of what `model.get_weights()` gives, at least one, all of one model.

    Returns:
        list of arrays, for `model.set_weights`. The mean is taken in float64; integers, such as counts, are the last
        checkpoint's.

    Raises:
        ValueError: if there is none, or they differ in number or shapes.

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

    What is measured while it trains is measured on the weights of the moment.

    Args:
        count: int. How many epochs; fewer where there were not so many.

    Raises:
        ValueError: if `count` is no positive integer.

    Example:

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> history = model.fit(np.ones((4, 1)), np.ones(4), epochs=3, callbacks=[CheckpointAverage(2)], verbose=0)
    """

    def __init__(self, count=5):
        super().__init__()
        self.checkpoints = collections.deque(maxlen=check_size("count", count))

    def on_train_begin(self, logs=None):
        self.checkpoints.clear()

    def on_epoch_end(self, epoch, logs=None):
        self.checkpoints.append(self.model.get_weights())

    def on_train_end(self, logs=None):
        if self.checkpoints:
            self.model.set_weights(mean_weights(self.checkpoints))
