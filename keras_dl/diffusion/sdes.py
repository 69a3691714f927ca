"""Stochastic differential equations that turn data into noise: variance exploding, variance preserving, sub-VP.

    dx = f(t) x dt + g(t) dw,  t in [0, 1]                                                               (eq. 5)
    x(t) = alpha(t) x(0) + sigma(t) z,  z ~ N(0, 1)                                                      (eq. 29)

    VE       f = 0          g = sigma sqrt(2 log(b / a))                 alpha = 1           sigma = a (b / a)^t
    VP       f = -beta / 2  g = sqrt(beta)                               alpha = exp(-B/2)   sigma = sqrt(1 - exp(-B))
    sub-VP   f = -beta / 2  g = sqrt(beta (1 - exp(-2 B)))               alpha = exp(-B/2)   sigma = 1 - exp(-B)

with beta(t) = beta_min + t (beta_max - beta_min), B(t) its integral from 0, and a, b the smallest and the largest
sigma. NCSN is VE at some times, DDPM is VP: `discretization` returns their chains (eq. 10, 12; table 1 of appendix).

Reference: Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole 2021, "Score-Based Generative Modeling through Stochastic
Differential Equations", arXiv:2011.13456, section 3, appendix B and C.
"""

import dataclasses
import math
from typing import ClassVar

import keras
import numpy as np
from keras import ops

from keras_dl.checks import check_choice, check_number, check_positive
from keras_dl.diffusion.process import ContinuousProcess

WEIGHTINGS = ("simple", "likelihood")


@dataclasses.dataclass(frozen=True)
class SDE(ContinuousProcess):
    """An equation `dx = f(t) x dt + g(t) dw`. A subclass has `marginal`, `drift`, `diffusion` and `discretization`.

    Attributes:
        smallest_time: float. Where training and likelihoods begin.
        sampling_time: float. Where sampling ends, as in the authors' code.
        prior_std: float. Standard deviation of the noise that the data have become at time 1.
        step_power: int. Solvers take equal steps in `u` with `t = u^step_power`: small ones where the score is large.
    """

    sampling_time: ClassVar[float] = 1e-3
    step_power: ClassVar[int] = 2

    @property
    def prior_std(self) -> float:
        return 1.0

    def drift(self, t):
        """`f(t)`, of which the drift is the product with x: float32, the shape of `t`."""
        raise NotImplementedError

    def diffusion(self, t):
        """`g(t)`: float32, the shape of `t`."""
        raise NotImplementedError

    def discretization(self, num_steps: int):
        """The chain `x_i = scale_i x_(i-1) + noise_i z` of which the equation is the limit.

        Args:
            num_steps: int.

        Returns:
            float64 arrays `(num_steps,)`, `scale` and `noise`.
        """
        raise NotImplementedError

    def correction(self, num_steps: int):
        """The factor alpha_i of a corrector's steps, in algorithm 5: float64, `(num_steps,)`. 1 for VE."""
        return np.ones(num_steps)

    def weights(self, weighting, t):
        """1 ("simple"), or `g^2 / sigma^2` ("likelihood"), which makes the loss a bound of the likelihood.

        Reference for the second: Song, Durkan, Murray, Ermon 2021, "Maximum Likelihood Training of Score-Based
        Diffusion Models", arXiv:2101.09258, theorem 1; and appendix A for `likelihood_times`.
        """
        check_choice("weighting", weighting, WEIGHTINGS)
        if weighting == "simple":
            return super().weights(weighting, t)
        return ops.square(self.diffusion(t) / self.marginal(t)[1])

    def likelihood_times(self, shares):
        """Times with the density of the likelihood's weight, `g^2 / sigma^2` over `likelihood_mass`.

        The weight has no bound near 0. Errors at uniform times with that weight would hardly train a net.

        Args:
            shares: float in [0, 1], evenly spread.

        Returns:
            float32, the shape of `shares`, from `smallest_time` to 1.
        """
        raise NotImplementedError

    @property
    def likelihood_mass(self) -> float:
        """The integral of `g^2 / sigma^2` from `smallest_time` to 1."""
        raise NotImplementedError

    def log_prior(self, latents):
        """The log-density of `latents` `(batch, ...)` under N(0, prior_std^2), in nats: float32, `(batch,)`."""
        axes = tuple(range(1, len(latents.shape)))
        size, variance = math.prod(latents.shape[1:]), self.prior_std**2
        squares = ops.sum(ops.square(ops.cast(latents, "float32")), axis=axes)
        return -0.5 * (squares / variance + size * math.log(2 * math.pi * variance))


def _time(t):
    return ops.convert_to_tensor(t, "float32")


def _lost(integral):
    """`1 - exp(-B)`, with all digits near 0. ONNX has no `expm1`."""
    half = ops.tanh(0.5 * integral)
    return 2.0 * half / (1.0 + half)


@keras.saving.register_keras_serializable(package="keras_dl")
@dataclasses.dataclass(frozen=True)
class VE(SDE):
    """The variance-exploding equation, whose discrete form is NCSN.

    Args:
        sigma_min: float, positive. The smallest standard deviation of the noise, in units of the scaled data.
        sigma_max: float, above `sigma_min`. The largest: about the largest distance of two examples (technique 1 of
            NCSN v2).

    Raises:
        ValueError: if an argument is out of its range; the message has its name and value.

    Example:

    >>> alpha, sigma = VE(0.01, 50.0).marginal([0.0, 0.5, 1.0])
    >>> sigma.numpy().round(3)
    array([1.00e-02, 7.07e-01, 5.00e+01], dtype=float32)
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    sampling_time: ClassVar[float] = 1e-5
    step_power: ClassVar[int] = 1

    def __post_init__(self):
        check_positive("sigma_min", self.sigma_min)
        check_positive("sigma_max", self.sigma_max)
        if self.sigma_max <= self.sigma_min:
            raise ValueError(f"sigma_max={self.sigma_max} must be above sigma_min={self.sigma_min}.")

    @property
    def prior_std(self):
        return float(self.sigma_max)

    @property
    def _log_ratio(self):
        return math.log(self.sigma_max / self.sigma_min)

    def marginal(self, t):
        t = _time(t)
        return ops.ones_like(t), self.sigma_min * ops.exp(self._log_ratio * t)

    def drift(self, t):
        return ops.zeros_like(_time(t))

    def diffusion(self, t):
        return self.marginal(t)[1] * math.sqrt(2 * self._log_ratio)

    def likelihood_times(self, shares):
        return self.smallest_time + (1.0 - self.smallest_time) * _time(shares)

    @property
    def likelihood_mass(self):
        return 2 * self._log_ratio * (1.0 - self.smallest_time)

    def sigmas(self, num_steps: int):
        """The standard deviations of NCSN with `num_steps` levels, increasing: float64, `(num_steps,)`."""
        return np.exp(np.linspace(math.log(self.sigma_min), math.log(self.sigma_max), num_steps))

    def discretization(self, num_steps):
        variances = self.sigmas(num_steps) ** 2
        return np.ones(num_steps), np.sqrt(np.diff(variances, prepend=0.0))


@dataclasses.dataclass(frozen=True)
class _Betas(SDE):
    """What VP and sub-VP share: beta, and alpha."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self):
        check_number("beta_min", self.beta_min, 0.0)
        check_positive("beta_max", self.beta_max)
        if self.beta_max < self.beta_min:
            raise ValueError(f"beta_max={self.beta_max} must be at least beta_min={self.beta_min}.")

    def beta(self, t):
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def integral(self, t):
        """B(t), of beta from 0 to t."""
        return t * (self.beta_min + 0.5 * t * (self.beta_max - self.beta_min))

    def drift(self, t):
        return -0.5 * self.beta(_time(t))

    def likelihood_times(self, shares):
        first, last = self._ends
        integral = self._integral_of(first + (last - first) * _time(shares))
        slope = self.beta_max - self.beta_min
        times = 2.0 * integral / (self.beta_min + ops.sqrt(self.beta_min**2 + 2.0 * slope * integral))
        return ops.clip(times, self.smallest_time, 1.0)

    @property
    def likelihood_mass(self):
        first, last = self._ends
        return last - first

    @property
    def _ends(self):
        return [self._mass(self.integral(t)) for t in (self.smallest_time, 1.0)]

    def betas(self, num_steps: int):
        """Those of DDPM with `num_steps` steps: float64, `(num_steps,)`."""
        return np.linspace(self.beta_min / num_steps, self.beta_max / num_steps, num_steps)

    def _checked_betas(self, num_steps):
        betas = self.betas(num_steps)
        if betas[-1] >= 1:
            least = math.floor(self.beta_max) + 1
            raise ValueError(
                f"num_steps={num_steps} is too small for beta_max={self.beta_max}: the last of the discrete betas, "
                f"beta_max / num_steps, must be below 1. Give num_steps={least} or more, or predictor='euler_maruyama' "
                "without a corrector."
            )
        return betas

    def correction(self, num_steps):
        return 1.0 - self._checked_betas(num_steps)


@keras.saving.register_keras_serializable(package="keras_dl")
@dataclasses.dataclass(frozen=True)
class VP(_Betas):
    """The variance-preserving equation, whose discrete form is DDPM.

    Args:
        beta_min: float, at least 0. beta at time 0.
        beta_max: float, positive. beta at time 1.

    Raises:
        ValueError: if an argument is out of its range; the message has its name and value.

    Example:

    >>> alpha, sigma = VP().marginal(1.0)
    >>> print(f"{float(alpha):.5f} {float(sigma):.5f}")
    0.00657 0.99998
    """

    def marginal(self, t):
        integral = self.integral(_time(t))
        return ops.exp(-0.5 * integral), ops.sqrt(_lost(integral))

    def diffusion(self, t):
        return ops.sqrt(self.beta(_time(t)))

    @staticmethod
    def _mass(integral):
        """An antiderivative of the likelihood's weight, by B."""
        return math.log(math.expm1(integral))

    @staticmethod
    def _integral_of(mass):
        return ops.softplus(mass)

    def discretization(self, num_steps):
        betas = self._checked_betas(num_steps)
        return np.sqrt(1.0 - betas), np.sqrt(betas)


@keras.saving.register_keras_serializable(package="keras_dl")
@dataclasses.dataclass(frozen=True)
class SubVP(_Betas):
    """The sub-VP equation: the mean of VP with a variance that is never above that of VP.

    Args:
        beta_min: float, at least 0. beta at time 0.
        beta_max: float, positive. beta at time 1.

    Raises:
        ValueError: if an argument is out of its range; the message has its name and value.

    Example:

    >>> print(f"{float(SubVP().marginal(0.1)[1]):.4f} {float(VP().marginal(0.1)[1]):.4f}")
    0.1037 0.3221
    """

    def marginal(self, t):
        integral = self.integral(_time(t))
        return ops.exp(-0.5 * integral), _lost(integral)

    def diffusion(self, t):
        t = _time(t)
        return ops.sqrt(self.beta(t) * _lost(2.0 * self.integral(t)))

    @staticmethod
    def _mass(integral):
        """An antiderivative of the likelihood's weight, by B."""
        return 2 * math.log(math.sinh(integral / 2))

    @staticmethod
    def _integral_of(mass):
        return 2.0 * ops.arcsinh(ops.exp(0.5 * mass))

    def discretization(self, num_steps):
        """Steps of Euler and Maruyama: sub-VP has no chain of its own."""
        betas, times = self._checked_betas(num_steps), np.linspace(0.0, 1.0, num_steps)
        return 1.0 - 0.5 * betas, np.sqrt(betas * -np.expm1(-2.0 * self.integral(times)))


SDES = {"ve": VE, "vp": VP, "sub_vp": SubVP}
