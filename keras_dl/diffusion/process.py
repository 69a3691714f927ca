"""Processes that turn data into noise, and what a net can predict of them.

    x_t = alpha(t) x_0 + sigma(t) z,    z ~ N(0, 1)                                             the process

    noise       z                                    data     x_0
    velocity    v = alpha z - sigma x_0              score    grad log p(x_t | x_0) = -z / sigma

A process is its two functions `alpha` and `sigma` of the time. DDPM's betas, the geometric levels of NCSN and the
differential equations of Song et al. 2021 are instances. Each of the four predictions gives the other three.

References: Ho, Jain, Abbeel 2020, "Denoising Diffusion Probabilistic Models", arXiv:2006.11239, eq. 4; Song et al.
2021, "Score-Based Generative Modeling through Stochastic Differential Equations", arXiv:2011.13456, eq. 29; Salimans,
Ho 2022, "Progressive Distillation for Fast Sampling of Diffusion Models", arXiv:2202.00512, section 4, for the
velocity.
"""

import dataclasses
import functools
from typing import Annotated, Any

import keras
import numpy as np
import tensorflow as tf

from keras_dl.checks import check_choice
from keras_dl.compat import is_eager

PREDICTIONS = ("noise", "data", "velocity", "score")


def along(values, x):
    """Values of the rows of `x`, in a shape that multiplies `x`: `(batch,)` becomes `(batch, 1, ..., 1)`.

    Args:
        values: tensor, `(batch,)`, or a scalar, which stays one value for all rows.
        x: tensor, `(batch, ...)`.

    Returns:
        tensor of the rank of `x`.

    Example:

    >>> along(tf.constant([1.0, 2.0]), tf.zeros((2, 8, 8, 3))).shape
    TensorShape([2, 1, 1, 1])
    """
    return tf.reshape(values, (-1, *[1] * (len(x.shape) - 1)))


def convert(prediction, x, alpha, sigma, given: str, wanted: str):
    """One prediction from another: the noise, the data, the velocity or the score.

    Args:
        prediction: float, the shape of `x`.
        x: float, `(batch, ...)`: the noisy data.
        alpha, sigma: float, in a shape that multiplies `x`, as `Process.coefficients` gives them.
        given, wanted: one of `PREDICTIONS`.

    Returns:
        float, the shape of `x`. The data of a noise, and the noise of data, have no digits left where alpha or sigma
        is near 0.

    Example:

    >>> x = 0.6 * 2.0 + 0.8 * -1.0  # of the data 2 and the noise -1
    >>> round(float(convert(-1.0, x, 0.6, 0.8, "noise", "data")), 4)
    2.0
    """
    check_choice("given", given, PREDICTIONS)
    check_choice("wanted", wanted, PREDICTIONS)
    if given == wanted:
        return prediction
    if wanted == "data":
        if given == "velocity":
            return (alpha * x - sigma * prediction) / (tf.square(alpha) + tf.square(sigma))
        noise = prediction if given == "noise" else -sigma * prediction
        return (x - sigma * noise) / alpha
    if given == "data":
        noise = (x - alpha * prediction) / sigma
    elif given == "velocity":
        noise = (sigma * x + alpha * prediction) / (tf.square(alpha) + tf.square(sigma))
    else:
        noise = prediction if given == "noise" else -sigma * prediction
    if wanted == "noise":
        return noise
    if wanted == "score":
        return -noise / sigma
    return alpha * noise - sigma * convert(prediction, x, alpha, sigma, given, "data")


@dataclasses.dataclass(frozen=True)
class Process:
    """The base of all processes. A subclass is a frozen dataclass of numbers with `marginal`, registered with Keras.

    Subclass `DiscreteProcess` for steps by index, `ContinuousProcess` for a time from 0 to 1.
    """

    def marginal(self, t):
        """`(alpha, sigma)` at the times `t`: float32, the shape of `t`."""
        raise NotImplementedError

    def draw_times(self, count, seed):
        """`(count,)` times, uniform over the process.

        Args:
            count: int, or a scalar tensor.
            seed: int or `keras.random.SeedGenerator`.
        """
        raise NotImplementedError

    def evaluation_times(self, count):
        """`(count,)` fixed times, spread evenly over the process: those of a validation loss."""
        raise NotImplementedError

    def condition(self, t):
        """What a net is told of the times `t`: float32, the shape of `t`."""
        return tf.cast(t, "float32")

    def weights(self, weighting: str, t):
        """What the squared error of the noise is multiplied by: float32, the shape of `t`.

        "simple" is 1, as in DDPM. Subclasses know others, such as "likelihood".
        """
        check_choice("weighting", weighting, ("simple",))
        return tf.ones(tf.shape(t), "float32")

    def coefficients(self, t, x):
        """`marginal(t)` in the shape that multiplies `x`: each `(batch, 1, ..., 1)`."""
        alpha, sigma = self.marginal(t)
        return along(alpha, x), along(sigma, x)

    def perturb(self, data, t, noise):
        """`x_t = alpha(t) x_0 + sigma(t) z`: float32, the shape of `data`."""
        alpha, sigma = self.coefficients(t, data)
        return alpha * tf.cast(data, "float32") + sigma * noise

    def target(self, prediction: str, data, t, noise):
        """What a net that predicts "noise", "data", "velocity" or "score" should have returned."""
        check_choice("prediction", prediction, PREDICTIONS)
        alpha, sigma = self.coefficients(t, data)
        if prediction == "velocity":
            return alpha * noise - sigma * tf.cast(data, "float32")
        return {"noise": noise, "data": data, "score": -noise / sigma}[prediction]

    def convert(self, prediction, x, t, given: str, wanted: str):
        """`convert` with this process's coefficients."""
        return convert(prediction, x, *self.coefficients(t, x), given, wanted)

    def get_config(self) -> dict:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            name: keras.saving.serialize_keras_object(value) if isinstance(value, Process) else value
            for name, value in values.items()
        }

    @classmethod
    def from_config(cls, config: dict) -> "Process":
        # A sequence came back from JSON as a list, which has no hash.
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in config.items()}
        return cls(
            **{
                name: keras.saving.deserialize_keras_object(value) if isinstance(value, dict) else value
                for name, value in values.items()
            }
        )


@dataclasses.dataclass(frozen=True)
class DiscreteProcess(Process):
    """A process by index. A subclass has `levels`, computed once in float64. Times are int32, from 0 to `size - 1`."""

    def levels(self) -> tuple[np.ndarray, np.ndarray]:
        """`alpha` and `sigma` of each index: float64, `(size,)`."""
        raise NotImplementedError

    @functools.cached_property
    def tables(self) -> tuple[np.ndarray, np.ndarray]:
        """`levels()`, which this keeps."""
        return tuple(np.asarray(x, "float64") for x in self.levels())

    @property
    def size(self) -> int:
        """Number of indices."""
        return len(self.tables[0])

    def look_up(self, table, t):
        """The entries of a table `(size,)` at the indices `t`: float32, the shape of `t`.

        Raises:
            ValueError: if an index is known and the table has no such entry.
        """
        t = tf.convert_to_tensor(t)
        if not t.dtype.is_integer:
            raise ValueError(f"t has the dtype {t.dtype.name}; the times of {type(self).__name__} are integers.")
        if is_eager(t) and t.shape.num_elements():
            lowest, highest = int(tf.reduce_min(t)), int(tf.reduce_max(t))
            if lowest < 0 or highest >= len(table):
                raise ValueError(f"t has values from {lowest} to {highest}; they must be from 0 to {len(table) - 1}.")
        return tf.gather(tf.constant(table, "float32"), t)

    def marginal(self, t):
        return tuple(self.look_up(table, t) for table in self.tables)

    def draw_times(self, count, seed):
        return keras.random.randint((count,), 0, self.size, seed=seed)

    def evaluation_times(self, count):
        shares = (tf.range(count, dtype="float32") + 0.5) / tf.cast(count, "float32")
        return tf.minimum(tf.cast(shares * self.size, "int32"), self.size - 1)


@dataclasses.dataclass(frozen=True)
class ContinuousProcess(Process):
    """A process in continuous time, float32. A subclass has `marginal`.

    Attributes:
        smallest_time: float. Training draws times from here to 1: at 0, where sigma is 0, the score has no bound.
    """

    smallest_time = 1e-5

    def draw_times(self, count, seed):
        return keras.random.uniform((count,), self.smallest_time, 1.0, seed=seed, dtype="float32")

    def evaluation_times(self, count):
        shares = (tf.range(count, dtype="float32") + 0.5) / tf.cast(count, "float32")
        return self.smallest_time + (1.0 - self.smallest_time) * shares


def ProcessOf(base: type, **short_names) -> Any:
    """The type of an argument that is a process: an object of `base`, its config, or a short name.

    Args:
        base: a subclass of `Process`.
        short_names: functions without arguments that make a process, by name.
    """

    def check(name, value):
        process = keras.saving.deserialize_keras_object(value) if isinstance(value, dict) else value
        if isinstance(value, str) and value in short_names:
            process = short_names[value]()
        if not isinstance(process, base):
            names = "".join(f"{short!r}, " for short in short_names)
            raise ValueError(f"{name}={value!r} must be {names}or a {base.__module__}.{base.__name__}.")
        return process

    return Annotated[object, check]
