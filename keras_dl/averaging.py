"""The mean of the weights of the last checkpoints of a training, which is often better than the last checkpoint.

Vaswani et al. 2017, arXiv:1706.03762, section 6.1, take the mean of the last 5 (base) or 20 (big).
"""

import collections

import keras
import numpy as np

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
