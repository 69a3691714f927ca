"""The metric of occupancies in training. That of NumPy arrays is `keras_dl.ops.meshes.volume_iou`."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_dl")
class OccupancyIoU(keras.metrics.MeanMetricWrapper):
    """Mean over shapes of the intersection over union of the points that are inside, at a probability of one half.

    Args:
        name: str.
        dtype: str or None.

    Call arguments:
        y_true: number or bool, `(batch, points)`: 1 for a point inside, 0 outside.
        y_pred: float, `(batch, points)`: logits.
        sample_weight: float, `(batch,)`, or None.

    Returns:
        float32, scalar in [0, 1]. A shape of no point counts as 1 if none is found.

    Reference: Mescheder et al. 2018, "Occupancy Networks", arXiv:1812.03828, supplementary material, section 3.

    Example:

    >>> metric = OccupancyIoU()
    >>> metric.update_state([[1, 1, 0], [0, 0, 0]], [[2.0, -1.0, -1.0], [-1.0, -1.0, -1.0]])
    >>> float(metric.result())
    0.75
    """

    def __init__(self, name="iou", dtype=None):
        super().__init__(_iou, name=name, dtype=dtype)
        self._direction = "up"

    def get_config(self):
        return {"name": self.name, "dtype": self.dtype}


def _iou(y_true, y_pred):
    """The IoU of each shape: float32, `(batch,)`."""
    inside, found = ops.cast(y_true, "float32") > 0.5, ops.convert_to_tensor(y_pred) >= 0  # (batch, points)
    both = ops.sum(ops.cast(ops.logical_and(inside, found), "float32"), -1)
    either = ops.sum(ops.cast(ops.logical_or(inside, found), "float32"), -1)
    return ops.where(either > 0, both / ops.maximum(either, 1.0), 1.0)
