"""AdamW with a learning rate of its own for some of the variables.

    rate(v) = factor(v) rate          variable v; its decay is factor(v) rate decay v

`keras.optimizers.MultiOptimizer` has an optimizer for each group of variables. They clip the norm of the gradient each
for its own group, have no common learning rate to schedule or to look at, and cannot be scaled for float16. Here all of
that is one.
"""

import math
import re

import keras

from keras_dl.compat import variable_index


@keras.saving.register_keras_serializable(package="keras_dl")
class AdamW(keras.optimizers.Adam):
    """Adam with decoupled weight decay, and factors of the learning rate for variables by their paths.

    All variables decay. The decay of a step is that of the old value, as in `keras.optimizers.AdamW`.

    Args:
        learning_rate: float or schedule.
        weight_decay: float, at least 0.
        rate_factors: dict from a regular expression to a factor of at least 0. A factor holds for the variables in
            whose path the expression is found. None for none.
        **kwargs: as `keras.optimizers.Adam` takes them, such as `global_clipnorm`.

    Raises:
        ValueError: if a factor is negative or not finite, or an expression is none. In the first step, if a variable
            has two factors, or no variable has a factor.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="body"), keras.layers.Dense(2)])
    >>> model.compile(AdamW(1e-4, weight_decay=1e-4, rate_factors={"body/": 0.1}, global_clipnorm=0.1), "mse")

    Reference: Loshchilov, Hutter 2017, "Decoupled Weight Decay Regularization", arXiv:1711.05101.
    """

    def __init__(self, learning_rate=1e-3, weight_decay=4e-3, rate_factors=None, **kwargs):
        if not 0 <= weight_decay < math.inf:
            raise ValueError(f"weight_decay={weight_decay!r} must be a number of at least 0.")
        for pattern, factor in (rate_factors or {}).items():
            if not 0 <= factor < math.inf:
                raise ValueError(f"rate_factors[{pattern!r}]={factor!r} must be a number of at least 0.")
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"rate_factors has {pattern!r}, which is no regular expression: {error}.") from error
        super().__init__(learning_rate, **kwargs)
        self.decay = float(weight_decay)
        self.rate_factors = dict(rate_factors or {})
        self._factors = []

    def build(self, variables):
        super().build(variables)
        self._factors = [self._factor(variable.path) for variable in variables]
        found = [any(re.search(pattern, variable.path) for variable in variables) for pattern in self.rate_factors]
        for pattern, used in zip(self.rate_factors, found, strict=True):
            if not used:
                first = ", ".join(variable.path for variable in variables[:3])
                raise ValueError(
                    f"rate_factors has {pattern!r}, which is in the path of no trainable variable: {first}, ..."
                )

    def _factor(self, path):
        found = {pattern: factor for pattern, factor in self.rate_factors.items() if re.search(pattern, path)}
        if len(found) > 1:
            raise ValueError(f"rate_factors has {len(found)} factors for {path!r}: {', '.join(map(repr, found))}.")
        return next(iter(found.values()), 1.0)

    def update_step(self, gradient, variable, learning_rate):
        rate = learning_rate * self._factors[variable_index(self, variable)]
        if self.decay:
            self.assign_sub(variable, variable * keras.ops.cast(self.decay * rate, variable.dtype))
        super().update_step(gradient, variable, rate)

    def get_config(self):
        return super().get_config() | {"weight_decay": self.decay, "rate_factors": self.rate_factors}
