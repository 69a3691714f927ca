"""NCSN's process: data with normal noise of a sequence of levels, and how to choose the levels.

    x = x_0 + sigma_i z,    sigma_1 > sigma_2 > ... > sigma_L > 0,    sigma_i / sigma_{i+1} = gamma

The paper counts levels from the most noise. As of all processes, times here count from the least: the time `t` is the
level `L - 1 - t`, counted from 0. `condition` gives the level, which is what a net is told.

The second paper chooses the numbers by the data and their dimension D:

    technique 1     sigma_1 is the largest distance between two examples
    technique 2     Phi(sqrt(2 D) (gamma - 1) + 3 gamma) - Phi(sqrt(2 D) (gamma - 1) - 3 gamma) = 0.5: half of what one
                    level samples is at a radius at which the next level has trained
    technique 4     the step size with which T steps at each level come nearest to the variance of that level

References: Song, Ermon 2019, "Generative Modeling by Estimating Gradients of the Data Distribution", arXiv:1907.05600,
section 4.1; the same 2020, "Improved Techniques for Training Score-Based Generative Models", arXiv:2006.09011,
techniques 1, 2 and 4.
"""

import dataclasses
import math

import keras
import numpy as np
import tensorflow as tf

from keras_dl.checks import check_positive, check_size
from keras_dl.diffusion.process import DiscreteProcess


@dataclasses.dataclass(frozen=True)
class Levels(DiscreteProcess):
    """The base of processes by noise levels. A subclass has `decreasing`."""

    def decreasing(self) -> np.ndarray:
        """sigma_1 to sigma_L: float64, `(size,)`, decreasing."""
        raise NotImplementedError

    def levels(self):
        sigmas = self.decreasing()[::-1]
        return np.ones_like(sigmas), sigmas

    @property
    def sigmas(self) -> np.ndarray:
        """sigma_1 to sigma_L: float64, `(size,)`, decreasing."""
        return self.tables[1][::-1]

    def condition(self, t):
        """The paper's number of the level, from 0 for the most noise: float32, the shape of `t`."""
        return tf.cast(self.size - 1 - t, "float32")


@keras.saving.register_keras_serializable(package="keras_dl")
@dataclasses.dataclass(frozen=True)
class NoiseLevels(Levels):
    """Noise levels that are given one by one.

    Args:
        values: sequence of float, decreasing, positive.

    Raises:
        ValueError: if they do not decrease, or one is not positive.

    Example:

    >>> alpha, sigma = NoiseLevels((1.0, 0.5, 0.1)).marginal(tf.constant([0, 2]))
    >>> alpha.numpy(), sigma.numpy()  # from the least noise
    (array([1., 1.], dtype=float32), array([0.1, 1. ], dtype=float32))
    >>> NoiseLevels((0.1, 0.5))
    Traceback (most recent call last):
    ...
    ValueError: values=(0.1, 0.5) must be positive numbers that decrease.
    """

    values: tuple[float, ...]

    def __post_init__(self):
        values = np.asarray(self.values, "float64")
        if values.ndim != 1 or not values.size or not np.isfinite(values).all() or not values[-1] > 0:
            raise ValueError(f"values={self.values} must be positive numbers that decrease.")
        if not (np.diff(values) < 0).all():
            raise ValueError(f"values={self.values} must be positive numbers that decrease.")
        object.__setattr__(self, "values", tuple(values.tolist()))

    def decreasing(self):
        return np.array(self.values)


@keras.saving.register_keras_serializable(package="keras_dl")
@dataclasses.dataclass(frozen=True)
class GeometricLevels(Levels):
    """Noise levels with one ratio between neighbors.

    Args:
        largest, smallest: float. sigma_1 and sigma_L. Pixels are in [0, 1].
        num_levels: int, L, at least 2.

    Raises:
        ValueError: if an argument is out of its range, or the levels would not decrease.

    Example:

    >>> GeometricLevels(1.0, 0.01, 3).sigmas
    array([1.  , 0.1 , 0.01])
    """

    largest: float = 1.0
    smallest: float = 0.01
    num_levels: int = 10

    def __post_init__(self):
        check_positive("smallest", self.smallest)
        check_positive("largest", self.largest)
        check_size("num_levels", self.num_levels, minimum=2)
        if self.largest <= self.smallest:
            raise ValueError(
                f"largest={self.largest} must be above smallest={self.smallest}: levels decrease, from the most noise."
            )

    def decreasing(self):
        return np.geomspace(self.largest, self.smallest, self.num_levels)


def largest_distance(data) -> float:
    """The largest Euclidean distance between two examples: technique 1's sigma_1.

    Args:
        data: float, `(n, ...)`, n of at least 2, in the range that the net sees: pixels in [0, 1]. It takes `n^2`
            distances: give some thousand examples.

    Raises:
        ValueError: if there are fewer than 2 examples, all are equal, or one is not finite.

    Example:

    >>> largest_distance(np.array([[0.0, 0.0], [3.0, 4.0], [1.0, 1.0]]))
    5.0
    """
    rows = np.asarray(data, "float64").reshape(len(data), -1)
    if len(rows) < 2 or not np.isfinite(rows).all():
        raise ValueError(f"data has the shape {np.shape(data)}; at least 2 examples are needed, all finite.")
    rows = rows - rows.mean(0)
    norms = np.square(rows).sum(1)
    blocks = range(0, len(rows), 256)
    farthest = [(norms[i : i + 256, np.newaxis] + norms - 2 * rows[i : i + 256] @ rows.T).argmax() for i in blocks]
    pairs = [(i + place // len(rows), place % len(rows)) for i, place in zip(blocks, farthest, strict=True)]
    # The difference itself: the formula above loses digits.
    largest = max(float(np.linalg.norm(rows[a] - rows[b])) for a, b in pairs)
    if not largest:
        raise ValueError("data: all examples are equal, so that no distance is above 0.")
    return largest


def level_ratio(num_dimensions: int) -> float:
    """Technique 2's gamma, the ratio of neighboring levels for data of D numbers.

    Example:

    >>> [round(level_ratio(n), 4) for n in (64, 784, 3072)]
    [1.3608, 1.082, 1.0398]
    """
    check_size("num_dimensions", num_dimensions)

    def overlap(ratio):
        center = math.sqrt(2 * num_dimensions) * (ratio - 1)
        upper, lower = (math.erf((center + side * 3 * ratio) / math.sqrt(2)) for side in (1, -1))
        return (upper - lower) / 2

    low, high = 1.0, 2.0
    while overlap(high) > 0.5:  # one or two dimensions
        high *= 2
        if high > 1e6:
            raise ValueError(
                f"num_dimensions={num_dimensions} is too small: neighboring levels overlap by half at any ratio. "
                "Choose GeometricLevels yourself."
            )
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if overlap(middle) > 0.5 else (low, middle)
    return low


def choose_levels(num_dimensions: int, largest: float, smallest: float = 0.01) -> GeometricLevels:
    """Levels from `largest` to `smallest` at technique 2's ratio, or a little closer.

    Example:

    >>> choose_levels(784, 15.3).num_levels, choose_levels(64, 5.0).num_levels
    (95, 22)
    """
    GeometricLevels(largest, smallest)
    count = math.log(largest / smallest) / math.log(level_ratio(num_dimensions))
    return GeometricLevels(largest, smallest, max(2, 1 + math.ceil(count)))


def variance_ratio(step_share, ratio: float, steps_per_level: int):
    """The variance that Langevin dynamics reach at one level, as a share of the variance of that level.

        (1 - u)^2T (gamma^2 - 2 / (2 - u)) + 2 / (2 - u),    u = step size / sigma_L^2

    It is exact where the data are one point and the chain comes from the level before: a step multiplies the
    deviation by `1 - u` and adds the variance `2 u sigma^2`.
    """
    limit = 2 / (2 - step_share)
    return (1 - step_share) ** (2 * steps_per_level) * (ratio**2 - limit) + limit


def choose_step_size(levels: Levels, steps_per_level: int) -> float:
    """Technique 4's step size: that with which the variance is nearest to that of each level.

    Args:
        levels: `Levels` of one ratio, such as `GeometricLevels`.
        steps_per_level: int, T.

    Returns:
        float, eps: the step size at the last level.

    Example: the paper has 6.2e-6 for CIFAR-10.

    >>> f"{choose_step_size(GeometricLevels(50.0, 0.01, 232), 5):.1e}"
    '6.2e-06'
    """
    check_size("steps_per_level", steps_per_level)
    sigmas = levels.sigmas
    ratio = float((sigmas[0] / sigmas[-1]) ** (1 / (len(sigmas) - 1)))
    shares = np.arange(1, 200_000) / 200_000
    errors = np.abs(variance_ratio(shares, ratio, steps_per_level) - 1)
    return float(shares[errors.argmin()] * sigmas[-1] ** 2)
