"""DDPM's process: data become noise in a number of small steps.

    q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t),      abar_t = prod_{s <= t} (1 - beta_s)
    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) z,                 t = 0 .. T - 1, as in the authors' code

    linear      beta from 1e-4 to 0.02 for T = 1000, both times 1000 / T for others
    cosine      abar(s) = cos^2((s / T + 0.008) / 1.008 pi / 2),  beta_t = min(1 - abar(t + 1) / abar(t), 0.999)

Tables are computed in float64.

References: Ho, Jain, Abbeel 2020, arXiv:2006.11239, section 2 and 4; Nichol, Dhariwal 2021, "Improved Denoising
Diffusion Probabilistic Models", arXiv:2102.09672, eq. 17 and section 4 (respacing). The factor 1000 / T is that of the
second paper's code.
"""

import dataclasses
import functools

import keras
import numpy as np

from keras_dl.checks import check_number, check_positive, check_size
from keras_dl.diffusion.process import DiscreteProcess

SPACINGS = ("linspace", "leading", "trailing")


@dataclasses.dataclass(frozen=True)
class Betas(DiscreteProcess):
    """A process by its betas. A subclass has `betas`.

    Example: a schedule of one's own.

    >>> @keras.saving.register_keras_serializable("example")
    ... @dataclasses.dataclass(frozen=True)
    ... class SigmoidBetas(Betas):
    ...     num_steps: int = 1000
    ...
    ...     def betas(self):
    ...         return 1e-4 + 0.02 / (1 + np.exp(-np.linspace(-6, 6, self.num_steps)))
    >>> alpha, sigma = SigmoidBetas().marginal([0, 999])
    >>> (alpha**2 + sigma**2).numpy().round(4)
    array([1., 1.], dtype=float32)
    """

    def betas(self) -> np.ndarray:
        """Variance that each step adds: float64, `(size,)`, in (0, 1)."""
        raise NotImplementedError

    def levels(self):
        return np.sqrt(self.kept), np.sqrt(-np.expm1(np.cumsum(np.log1p(-self.variances))))

    @functools.cached_property
    def variances(self) -> np.ndarray:
        """`betas()`, checked and kept.

        Raises:
            ValueError: if they are not in (0, 1).
        """
        betas = np.asarray(self.betas(), "float64")
        if betas.ndim != 1 or not betas.size or not ((betas > 0) & (betas < 1)).all():
            raise ValueError(f"{type(self).__name__}: betas={betas} must be a row of numbers in (0, 1).")
        return betas

    @functools.cached_property
    def kept(self) -> np.ndarray:
        """abar: the share of the data's variance that is left after each step, float64."""
        return np.exp(np.cumsum(np.log1p(-self.variances)))

    @property
    def places(self) -> np.ndarray:
        """Indices in the process that a net was trained on: int, `(size,)`."""
        return np.arange(self.size)

    @property
    def timesteps(self) -> np.ndarray:
        """What a net is told of each index: int, `(size,)`."""
        return self.places

    def condition(self, t):
        return self.look_up(self.timesteps, t)

    def respaced(self, num_steps: int, spacing: str = "linspace") -> "RespacedBetas":
        """The process of `num_steps` of these steps: see `RespacedBetas`."""
        return RespacedBetas(self, num_steps, spacing)


@keras.saving.register_keras_serializable(package="keras_dl")
@dataclasses.dataclass(frozen=True)
class LinearBetas(Betas):
    """Betas that grow linearly.

    Args:
        num_steps: int, T.
        first, last: float. Betas of the first and the last step for T = 1000. They are multiplied by `1000 / T`, so
            that the data are as lost for any T.

    Raises:
        ValueError: if an argument is out of its range, or T is so small that a beta reaches 1.

    Example:

    >>> round(float(LinearBetas().kept[-1]), 7)
    4.04e-05
    """

    num_steps: int = 1000
    first: float = 1e-4
    last: float = 0.02

    def __post_init__(self):
        check_size("num_steps", self.num_steps)
        check_positive("first", self.first)
        check_positive("last", self.last)
        scale = 1000 / self.num_steps
        if max(self.first, self.last) * scale >= 1:
            raise ValueError(
                f"num_steps={self.num_steps} is too small: betas up to {max(self.first, self.last)} for 1000 steps "
                f"would reach {max(self.first, self.last) * scale:g}, and must be below 1. Take more steps, or "
                "'cosine', and choose the number of steps of a sampler there."
            )

    def betas(self):
        scale = 1000 / self.num_steps
        return np.linspace(scale * self.first, scale * self.last, self.num_steps)


@keras.saving.register_keras_serializable(package="keras_dl")
@dataclasses.dataclass(frozen=True)
class CosineBetas(Betas):
    """Betas of which abar falls as a squared cosine.

    Args:
        num_steps: int, T.
        offset: float. Keeps the first betas from being too small.
        largest: float below 1. No beta is larger.

    Example:

    >>> round(float(CosineBetas().variances[0]), 9)
    4.1284e-05
    """

    num_steps: int = 1000
    offset: float = 0.008
    largest: float = 0.999

    def __post_init__(self):
        check_size("num_steps", self.num_steps)
        check_positive("offset", self.offset)
        check_number("largest", self.largest, 1e-6, 1 - 1e-6)

    def betas(self):
        grid = np.arange(self.num_steps + 1) / self.num_steps
        kept = np.cos((grid + self.offset) / (1 + self.offset) * np.pi / 2) ** 2
        return np.minimum(1 - kept[1:] / kept[:-1], self.largest)


@keras.saving.register_keras_serializable(package="keras_dl")
@dataclasses.dataclass(frozen=True)
class RespacedBetas(Betas):
    """Fewer steps of a process: betas are recomputed, so that abar at the steps that are kept stays as it was.

        beta'_i = 1 - abar(t_i) / abar(t_{i-1})

    A net is told the original steps.

    Args:
        process: `Betas`.
        num_steps: int, from 1 to the number of steps of `process`.
        spacing: "linspace", from the first step to the last; "leading", every n-th from the first; "trailing", every
            n-th down from the last.

    Raises:
        ValueError: if an argument is out of its range.

    Example:

    >>> LinearBetas().respaced(5).timesteps
    array([  0, 250, 500, 749, 999])
    >>> LinearBetas().respaced(5, "leading").timesteps, LinearBetas().respaced(5, "trailing").timesteps
    (array([  0, 200, 400, 600, 800]), array([199, 399, 599, 799, 999]))
    """

    process: Betas
    num_steps: int
    spacing: str = "linspace"

    def __post_init__(self):
        check_size("num_steps", self.num_steps)
        if self.num_steps > self.process.size:
            raise ValueError(
                f"num_steps={self.num_steps} is more than the {self.process.size} steps that were trained."
            )
        if self.spacing not in SPACINGS:
            raise ValueError(f"spacing={self.spacing!r} must be one of {', '.join(map(repr, SPACINGS))}.")

    @functools.cached_property
    def places(self) -> np.ndarray:
        """Indices of the steps that are kept: int, increasing."""
        size, count = self.process.size, self.num_steps
        if self.spacing == "leading":
            return np.arange(count) * (size // count)
        if self.spacing == "trailing":
            return np.round(np.arange(size, 0, -size / count)[:count]).astype(int)[::-1] - 1
        if count == 1:
            return np.array([size - 1])
        return np.round(np.linspace(0, size - 1, count)).astype(int)

    @property
    def timesteps(self):
        return self.process.timesteps[self.places]

    def betas(self):
        # Of logarithms: late values of abar are tiny, and their differences have few digits.
        logs = np.cumsum(np.log1p(-self.process.variances))[self.places]
        return -np.expm1(np.diff(logs, prepend=0.0))
