"""DDPM's samplers: ancestral sampling, and DDIM.

    q(x_{t-1} | x_t, x_0) = N(a_t x_0 + b_t x_t, beta~_t)                                           the posterior
    a_t = sqrt(abar_{t-1}) beta_t / (1 - abar_t),    b_t = sqrt(1 - beta_t) (1 - abar_{t-1}) / (1 - abar_t)
    beta~_t = beta_t (1 - abar_{t-1}) / (1 - abar_t)

    x_{t-1} = sqrt(abar_{t-1}) x_0 + sqrt(1 - abar_{t-1} - s^2) e + s z,    s = eta sqrt(beta~_t)    DDIM
    e = (x_t - sqrt(abar_t) x_0) / sqrt(1 - abar_t)

Both replace `x_0` by what a net makes of `x_t`, and both are `x_{t-1} = a x_0 + b x_t + s z` with numbers that only
depend on the step. So they are tables, in float64, and one loop. DDIM with eta 1 is ancestral sampling with the
variance of the posterior.

References: Ho, Jain, Abbeel 2020, arXiv:2006.11239, eq. 7 and algorithm 2; Song, Meng, Ermon 2020, "Denoising Diffusion
Implicit Models", arXiv:2010.02502, eq. 12 and 16.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_dl.checks import check_choice, check_number
from keras_dl.diffusion.betas import Betas
from keras_dl.diffusion.process import along
from keras_dl.diffusion.walking import walk

VARIANCES = ("fixed_small", "fixed_large")


class Steps(NamedTuple):
    """What the steps of a sampler multiply: float64, each `(size,)`, by the index of the process.

    Attributes:
        of_data: of the predicted data.
        of_state: of the state.
        of_noise: of the noise. 0 at index 0.
    """

    of_data: np.ndarray
    of_state: np.ndarray
    of_noise: np.ndarray


def left_before(process: Betas) -> tuple[np.ndarray, np.ndarray]:
    """`abar_{t-1}` and `1 - abar_{t-1}`, the second without a difference of near numbers. 1 and 0 at index 0."""
    logs = np.cumsum(np.log1p(-process.variances))
    logs = np.concatenate([[0.0], logs[:-1]])
    return np.exp(logs), 0.0 - np.expm1(logs)  # 0.0 and not -0.0 at index 0


def posterior_variances(process: Betas) -> np.ndarray:
    """beta~ of each index: float64, `(size,)`. 0 at index 0.

    Example:

    >>> from keras_dl.diffusion.betas import LinearBetas
    >>> [round(float(variance), 8) for variance in posterior_variances(LinearBetas())[:2]]
    [0.0, 5.453e-05]
    """
    return process.variances * left_before(process)[1] / process.tables[1] ** 2


def posterior_steps(process: Betas, variance: str = "fixed_small") -> Steps:
    """Ancestral sampling: the mean of the posterior.

    Args:
        process: `Betas`.
        variance: "fixed_small", that of the posterior, or "fixed_large", beta.
    """
    check_choice("variance", variance, VARIANCES)
    kept, lost = left_before(process)
    all_lost = process.tables[1] ** 2
    spread = posterior_variances(process) if variance == "fixed_small" else process.variances
    of_noise = np.sqrt(spread)
    of_noise[0] = 0.0  # the last step returns the mean
    return Steps(
        np.sqrt(kept) * process.variances / all_lost, np.sqrt(1 - process.variances) * lost / all_lost, of_noise
    )


def ddim_steps(process: Betas, eta: float = 0.0) -> Steps:
    """DDIM.

    Args:
        process: `Betas`.
        eta: float in [0, 1]. 0 draws no noise. 1 is `posterior_steps`.
    """
    check_number("eta", eta, 0, 1)
    kept, lost = left_before(process)
    alpha, sigma = process.tables
    # 1 - abar_{t-1} - s^2, written as a product
    direction = np.sqrt(np.maximum(lost * (1 - eta**2 * process.variances / sigma**2), 0.0))
    of_state = direction / sigma
    return Steps(np.sqrt(kept) - of_state * alpha, of_state, eta * np.sqrt(posterior_variances(process)))


def take_steps(predict, start, noise, process: Betas, steps: Steps, *, first=None, num_kept: int = 0, unroll=False):
    """`x_{i-1} = a_i x_0 + b_i x_i + s_i z` from the last index of a process, or from `first`, down to 0.

    Args:
        predict: `predict(x, i)` returns the data that it sees in `x`, float32; or a tuple of them and the variance of
            the step, in the shape of `x`, which then takes the place of `s^2`. `i` is int32, `(batch,)`.
        start: float, `(batch, ...)`: standard normal noise, or the noisy data of index `first`.
        noise: as of `walk`: a tensor `((first + 1) * batch, ...)`, a function of the number of the step, or None for
            zeros.
        process: `Betas`. Fewer steps are a process of their own: `process.respaced(50)`.
        steps: `Steps`.
        first: int, or None for the last index.
        num_kept, unroll: as of `walk`.

    Returns:
        As of `walk`: the data.

    Example: with a net that knows that all data are 3.

    >>> from keras_dl.diffusion.betas import CosineBetas
    >>> process = CosineBetas(50).respaced(10)
    >>> start = tf.random.normal((4, 2))
    >>> take_steps(lambda x, i: 3.0 * tf.ones_like(x), start, None, process, ddim_steps(process))[0].numpy()
    array([3., 3.], dtype=float32)
    """
    first = process.size - 1 if first is None else first
    if not 0 <= first < process.size:
        raise ValueError(f"first={first} must be from 0 to {process.size - 1}, the last index of the process.")
    tables = [table[: first + 1][::-1] for table in steps]  # by the number of the step
    is_last = np.arange(first + 1) == first

    def step(x, j, z):
        i = tf.fill(tf.shape(x)[:1], first - j)
        data = predict(x, i)
        variance = None
        if isinstance(data, tuple):
            data, variance = data
        a, b, s = (along(tf.gather(tf.constant(table, "float32"), j), x) for table in tables)
        x = a * data + b * x
        if z is None:
            return x
        if variance is not None:
            s = tf.sqrt(variance) * along(tf.gather(tf.constant(1.0 - is_last, "float32"), j), x)
        return x + s * z

    return walk(step, start, noise, num_steps=first + 1, num_kept=num_kept, unroll=unroll)


def ancestral(predict, start, noise, process: Betas, variance: str = "fixed_small", **options):
    """Ancestral sampling: `take_steps` with `posterior_steps`."""
    return take_steps(predict, start, noise, process, posterior_steps(process, variance), **options)


def ddim(predict, start, process: Betas, eta: float = 0.0, noise=None, **options):
    """DDIM: `take_steps` with `ddim_steps`."""
    return take_steps(predict, start, noise, process, ddim_steps(process, eta), **options)
