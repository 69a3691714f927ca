"""Learning rates over the steps of a training."""

import keras
from keras import ops

from keras_dl.checks import check_size


@keras.saving.register_keras_serializable(package="keras_dl")
class InverseSquareRoot(keras.optimizers.schedules.LearningRateSchedule):
    """The rate of the transformer: it rises in a line for some steps, and falls with the root of the step after them.

        rate(n) = scale * hidden_dim^-0.5 * min(n^-0.5, n * warmup_steps^-1.5),   n = 1, 2, ...

    Args:
        hidden_dim: int. Width of the model.
        warmup_steps: int. Where the rate is highest.
        scale: float. 1 is the paper's.

    Raises:
        ValueError: if an argument is not positive; it says which.

    Reference: Vaswani et al. 2017, arXiv:1706.03762, eq. 3.

    Example:

    >>> rate = InverseSquareRoot(512, warmup_steps=4000)
    >>> [round(1e4 * float(rate(step)), 3) for step in (0, 1999, 3999, 15999)]
    [0.002, 3.494, 6.988, 3.494]
    """

    def __init__(self, hidden_dim, warmup_steps=4000, scale=1.0):
        super().__init__()
        self.hidden_dim = check_size("hidden_dim", hidden_dim)
        self.warmup_steps = check_size("warmup_steps", warmup_steps)
        if not scale > 0:
            raise ValueError(f"scale={scale!r} must be a positive number.")
        self.scale = scale

    def __call__(self, step):
        n = ops.cast(step, "float32") + 1.0  # the optimizer counts the steps that are done
        return self.scale * self.hidden_dim**-0.5 * ops.minimum(n**-0.5, n * self.warmup_steps**-1.5)

    def get_config(self):
        return {"hidden_dim": self.hidden_dim, "warmup_steps": self.warmup_steps, "scale": self.scale}
