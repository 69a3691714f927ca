"""Schedules: of the learning rate, and of the momentum of batch normalization."""

import keras
from keras import ops

from keras_dl.arguments import NumberIn, Positive, Rate, Size, arguments
from keras_dl.compat import all_layers


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


@keras.saving.register_keras_serializable(package="keras_dl")
class LinearDecay(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that is constant for some epochs, and then falls linearly, epoch by epoch, towards 0.

        rate(e) = initial_rate * (1 - max(0, e + 1 - constant_epochs) / (decay_epochs + 1)),   e = 0, 1, ...

    After the last epoch, it stays 0.

    Args:
        initial_rate: float, positive.
        steps_per_epoch: int.
        constant_epochs: int.
        decay_epochs: int.

    Raises:
        ValueError: if an argument is not positive. The message names it.

    Reference: Zhu et al. 2017, arXiv:1703.10593, section 4, with the formula of the authors' code.

    Example:

    >>> rate = LinearDecay(2e-4, steps_per_epoch=10)
    >>> [round(float(rate(10 * epoch)) / 2e-4 * 101, 3) for epoch in (0, 98, 99, 100, 199, 200)]
    [101.0, 101.0, 101.0, 100.0, 1.0, 0.0]
    """

    @arguments
    def __init__(
        self, initial_rate: Positive, steps_per_epoch: Size, constant_epochs: Size = 100, decay_epochs: Size = 100
    ):
        super().__init__()

    def __call__(self, step):
        epoch = ops.cast(ops.cast(step, "int32") // self.steps_per_epoch, "float32")
        share = ops.clip((epoch + 1.0 - self.constant_epochs) / (self.decay_epochs + 1), 0.0, 1.0)
        return self.initial_rate * (1.0 - share)

    def get_config(self):
        names = ("initial_rate", "steps_per_epoch", "constant_epochs", "decay_epochs")
        return {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable(package="keras_dl")
class ScaledForBatch(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate for larger batches: that of another schedule, times a factor that rises from 1 at first.

        rate(n) = schedule(n) * (1 + (factor - 1) * min(1, n / warmup_steps)),   n = 0, 1, ...

    Args:
        schedule: float, or `keras.optimizers.schedules.LearningRateSchedule`.
        factor: float, positive. The authors take that of the batch size.
        warmup_steps: int. The authors take those of five epochs.

    Raises:
        ValueError: if an argument is not positive. The message names it.

    Reference: Goyal et al. 2017, arXiv:1706.02677, sections 2.1 and 2.2.

    Example:

    >>> rate = ScaledForBatch(0.1, factor=8.0, warmup_steps=10)
    >>> [round(float(rate(step)), 3) for step in (0, 5, 10, 1000)]
    [0.1, 0.45, 0.8, 0.8]
    """

    @arguments
    def __init__(self, schedule, factor: Positive, warmup_steps: Size):
        super().__init__()
        if not callable(schedule) and not float(schedule) > 0:
            raise ValueError(f"schedule={schedule} must be a positive learning rate, or a schedule.")

    def __call__(self, step):
        rate = self.schedule(step) if callable(self.schedule) else self.schedule
        share = ops.minimum(ops.cast(step, "float32") / self.warmup_steps, 1.0)
        return rate * (1.0 + (self.factor - 1.0) * share)

    def get_config(self):
        config = {"factor": self.factor, "warmup_steps": self.warmup_steps}
        return {"schedule": keras.saving.serialize_keras_object(self.schedule)} | config

    @classmethod
    def from_config(cls, config):
        return cls(**config | {"schedule": keras.saving.deserialize_keras_object(config["schedule"])})


class NormalizationMomentum(keras.callbacks.Callback):
    """Raises the momentum of batch normalization in steps: at first the moving statistics follow fast, later slowly.

        momentum(n) = min(limit, 1 - (1 - initial) * rate^floor(n / decay_steps)),   n = 0, 1, ...

    It is set at the beginning of each epoch, by the steps of the optimizer so far, so that a training that is continued
    goes on as it would have. The training step is traced again when it changes. The layers keep the last value.

    Args:
        decay_steps: int. Training steps between two changes. The authors of PointNet have 200,000 clouds, which are
            6,250 steps of 32.
        initial: float in [0, 1).
        rate: float in [0, 1].
        limit: float in [0, 1).

    Raises:
        ValueError: if an argument is out of its range. The message names it.

    Reference: Qi et al. 2016, arXiv:1612.00593, appendix C.

    Example:

    >>> momentum = NormalizationMomentum(decay_steps=100)
    >>> [momentum(step) for step in (0, 99, 100, 250, 9999)]
    [0.5, 0.5, 0.75, 0.875, 0.99]
    """

    @arguments
    def __init__(self, decay_steps: Size, initial: Rate = 0.5, rate: NumberIn(0.0, 1.0) = 0.5, limit: Rate = 0.99):
        super().__init__()

    def __call__(self, step):
        return min(self.limit, 1.0 - (1.0 - self.initial) * self.rate ** (int(step) // self.decay_steps))

    def on_epoch_begin(self, epoch, logs=None):
        momentum = self(self.model.optimizer.iterations)
        norms = [x for x in all_layers(self.model) if isinstance(x, keras.layers.BatchNormalization)]
        if any(norm.momentum != momentum for norm in norms):
            for norm in norms:
                norm.momentum = momentum
            self.model.make_train_function(force=True)
