"""Learning rate schedules."""

import keras
from keras import ops

from keras_dl.arguments import Positive, Size, arguments


@keras.saving.register_keras_serializable(package="keras_dl")
class InverseSquareRoot(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of the transformer: it rises linearly at first, then falls with the square root of the step.

        rate(n) = scale * hidden_dim^-0.5 * min(n^-0.5, n * warmup_steps^-1.5),   n = 1, 2, ...

    Args:
        hidden_dim: int. Width of the model.
        warmup_steps: int. The step at which the rate is highest.
        scale: float, positive. The paper has 1.

    Raises:
        ValueError: if an argument is not positive. The message names it.

    Reference: Vaswani et al. 2017, arXiv:1706.03762, eq. 3.

    Example:

    >>> rate = InverseSquareRoot(512, warmup_steps=4000)
    >>> [round(1e4 * float(rate(step)), 3) for step in (0, 1999, 3999, 15999)]
    [0.002, 3.494, 6.988, 3.494]
    """

    @arguments
    def __init__(self, hidden_dim: Size, warmup_steps: Size = 4000, scale: Positive = 1.0):
        super().__init__()

    def __call__(self, step):
        n = ops.cast(step, "float32") + 1.0  # the optimizer counts the completed steps
        return self.scale * self.hidden_dim**-0.5 * ops.minimum(n**-0.5, n * self.warmup_steps**-1.5)

    def get_config(self):
        return {"hidden_dim": self.hidden_dim, "warmup_steps": self.warmup_steps, "scale": self.scale}
