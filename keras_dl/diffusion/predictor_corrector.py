"""Predictor-corrector sampling: steps of the reverse-time equation, each after steps of Langevin dynamics.

    dx = (f x - g^2 score) dt + g dw, backward in time                         the reverse equation (eq. 6)

    x <- (2 - scale_i) x + noise_i^2 score + noise_i z                         reverse diffusion (eq. 46)
    x <- (x + beta_i score) / sqrt(1 - beta_i) + sqrt(beta_i) z                ancestral, VP (eq. 4)
    x <- x + (s_i^2 - s_(i-1)^2) score + s_(i-1) noise_i / s_i z               ancestral, VE (eq. 47)
    x <- x - (f x - g^2 score) / N + g / sqrt(N) z                             Euler and Maruyama
    x <- x + h score + sqrt(2 h) z,  h = 2 alpha_i (snr |z| / |score|)^2       the corrector (algorithms 4 and 5)

The corrector comes first, as in the authors' code, where the paper's algorithm 1 has the predictor first. The last
step adds no noise. Times go evenly from 1 to `final_time`; step i has the i-th coefficients of the discrete chain from
its end.

Reference: Song et al. 2021, arXiv:2011.13456, section 4.2, appendices E to G.

Inpainting puts the known part, with the noise of the time, in the place of what was sampled there, after each step
(appendix I.2). Deviation: the authors' code gives it the noise of the time before a predictor's step, not after it.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_dl.checks import check_choice, check_number, check_positive, check_size
from keras_dl.diffusion.process import along
from keras_dl.diffusion.sdes import SDE, SubVP
from keras_dl.diffusion.walking import walk

PREDICTORS = ("reverse_diffusion", "ancestral", "euler_maruyama", "none")
CORRECTORS = ("langevin", "none")
NORMS = ("batch", "sample", "sigma")


def draws_per_step(predictor: str, corrector: str, corrector_steps: int = 1, inpainting: bool = False) -> int:
    """How often a step of `predictor_corrector` draws noise of the shape of the data."""
    moves = (predictor != "none") + (corrector != "none") * corrector_steps
    return moves * (2 if inpainting else 1)


def predictor_corrector(
    score: Callable,
    sde: SDE,
    start,
    noise,
    num_steps: int = 1000,
    *,
    predictor: str = "reverse_diffusion",
    corrector: str = "langevin",
    snr: float = 0.16,
    corrector_steps: int = 1,
    norms: str = "batch",
    final_time: float | None = None,
    known=None,
    keep=None,
    num_kept: int = 0,
    unroll: bool = False,
):
    """Samples from noise.

    Args:
        score: `score(x, t)` with `t` `(batch,)` returns the score of the density at these times, in the shape of `x`.
        sde: `SDE`.
        start: float, `(batch, ...)`: noise of the standard deviation `sde.prior_std`.
        noise: standard normal, `(num_steps * draws * batch, ...)` with `draws` of `draws_per_step`: each step takes its
            rows in order; or a function of the number of a step that returns its `(draws * batch, ...)`, such as
            `keras_dl.diffusion.seeded_noise`.
        num_steps: int. N.
        predictor: "reverse_diffusion", "ancestral" (not for sub-VP), "euler_maruyama" or "none".
        corrector: "langevin" or "none".
        snr: float, positive. The corrector's signal-to-noise ratio: 0.16 for NCSN++ on CIFAR-10.
        corrector_steps: int. Its steps before each step of the predictor.
        norms: how `|z| / |score|` is taken. "batch": by the means of both over the batch, as in the paper, where a
            sample depends on its neighbors. "sample": for each row alone, which needs data of many dimensions, for a
            score near 0 would make a step without bound. "sigma": as sigma(t), what it is where noise prevails.
        final_time: float in [0, 1). None for `sde.sampling_time`.
        known, keep: for inpainting. Data in the scale of the process, `(batch, ...)`, and 1.0 where they are known, 0.0
            where they are to be sampled.
        num_kept, unroll: as of `walk`.

    Returns:
        float32, the shape of `start`; with `num_kept`, also the states on the way.

    Raises:
        ValueError: if an argument is out of its range; the message has its name and value.

    Example: exact samples of N(0, 1), whose score at any time of VP is -x.

    >>> from keras_dl.diffusion import VP, seeded_noise
    >>> start = tf.random.stateless_normal((1000, 1), (0, 0))
    >>> noise = seeded_noise((2000, 1), seed=1)
    >>> x = predictor_corrector(lambda x, t: -x, VP(), start, noise, num_steps=50)
    >>> bool(abs(tf.math.reduce_std(x) - 1.0) < 0.1)
    True
    """
    check_choice("predictor", predictor, PREDICTORS)
    check_choice("corrector", corrector, CORRECTORS)
    check_choice("norms", norms, NORMS)
    check_size("num_steps", num_steps)
    check_size("corrector_steps", corrector_steps)
    check_positive("snr", snr)
    if predictor == corrector == "none":
        raise ValueError("predictor='none' and corrector='none' would not move the noise: give one of them.")
    if (known is None) != (keep is None):
        raise ValueError("known and keep belong together: the data, and 1.0 where they are known.")
    final_time = sde.sampling_time if final_time is None else check_number("final_time", final_time, 0.0, 1.0)
    start = tf.cast(start, "float32")
    times = np.linspace(1.0, final_time, num_steps)
    # What is written over the known part has the noise of the time where the state arrives.
    arrivals = np.append(times[1:], final_time)
    predict = _predictor(predictor, sde, times, num_steps)
    correct = _corrector(sde, times, num_steps, snr, norms) if corrector != "none" else None
    draws = draws_per_step(predictor, corrector, corrector_steps, known is not None)

    def step(x, i, z):
        parts = iter(tf.split(z, draws))

        def imputed(x, at):
            if known is None:
                return x
            alpha, sigma = sde.marginal(_entry(at, i))
            return keep * (alpha * known + sigma * next(parts)) + (1.0 - keep) * x

        t = tf.ones_like(x[(slice(None), *[0] * (len(x.shape) - 1))]) * _entry(times, i)  # (batch,)
        if correct is not None:
            for _ in range(corrector_steps):
                x = imputed(correct(x, score(x, t), next(parts), i), times)
        if predict is not None:
            x = imputed(predict(x, score(x, t), next(parts), i), arrivals)
        return x

    _check_rows(noise, num_steps * draws, start)
    found = walk(step, start, noise, num_steps=num_steps, num_kept=num_kept, unroll=unroll)
    if known is None:
        return found
    sample, *path = found if num_kept else (found,)
    sample = keep * known + (1.0 - keep) * sample
    return (sample, *path) if num_kept else sample


def _entry(table, i):
    return tf.gather(tf.constant(table, "float32"), i)


def _check_rows(noise, draws, start):
    shape = getattr(noise, "shape", None)
    if shape is None or shape[0] is None or start.shape[0] is None:
        return  # a function, or a batch that only the graph knows
    if shape[0] != draws * start.shape[0]:
        raise ValueError(
            f"noise has the shape {tuple(shape)}; with {draws} draws for {tuple(start.shape)} it must be "
            f"{(draws * start.shape[0], *start.shape[1:])}."
        )


def _predictor(name, sde, times, num_steps):
    """`predict(x, score, z, i)`; None for "none"."""
    if name == "none":
        return None
    if name == "euler_maruyama":
        with tf.init_scope():  # numbers, also where a graph is traced
            rate, noise = (np.asarray(f(times), "float64") for f in (sde.drift, sde.diffusion))
        of_x, of_score, of_noise = 1.0 - rate / num_steps, noise**2 / num_steps, noise / np.sqrt(num_steps)
    else:
        # Of the last step of the chain first.
        scale, noise = (x[::-1] for x in sde.discretization(num_steps))
        of_x, of_score, of_noise = 2.0 - scale, noise**2, noise
        if name == "ancestral":
            if isinstance(sde, SubVP):
                raise ValueError("predictor='ancestral' needs the chain of VE or VP: sub-VP has none.")
            of_x, of_score = 1.0 / scale, noise**2 / scale
            # The standard deviation before the step over that after it: of VP, the paper takes 1.
            after = np.sqrt(np.cumsum(noise[::-1] ** 2))[::-1]
            of_noise = noise * (np.append(after[1:], 0.0) / after if (scale == 1.0).all() else 1.0)
    of_noise = np.append(of_noise[:-1], 0.0)
    return lambda x, score, z, i: _entry(of_x, i) * x + _entry(of_score, i) * score + _entry(of_noise, i) * z


def _corrector(sde, times, num_steps, snr, norms):
    """`correct(x, score, z, i)`: one step of Langevin dynamics."""
    alphas = sde.correction(num_steps)[::-1]
    with tf.init_scope():
        sigmas = np.asarray(sde.marginal(times)[1])

    def norm(x):
        lengths = tf.sqrt(tf.reduce_sum(tf.square(x), axis=range(1, len(x.shape))))  # (batch,)
        return tf.reduce_mean(lengths, keepdims=True) if norms == "batch" else lengths

    def ratio_of(z, score):
        length = norm(score)
        return norm(z) * length / tf.maximum(tf.square(length), 1e-12)  # 0, no step, where there is no score

    def correct(x, score, z, i):
        ratio = _entry(sigmas, i) if norms == "sigma" else along(ratio_of(z, score), x)  # (batch or 1, 1, ..., 1)
        size = 2.0 * _entry(alphas, i) * tf.square(snr * ratio)
        return x + size * score + tf.sqrt(2.0 * size) * z

    return correct


def guided(score: Callable, log_prob: Callable, scale: float = 1.0) -> Callable:
    """The score of data for which something holds: `score + scale grad_x log p(y | x, t)` (eq. 14).

    Args:
        score: `score(x, t)`.
        log_prob: `log_prob(x, t)` with `t` `(batch,)` returns `(batch,)`: the log-probability, of a classifier that was
            trained on data with the noise of all times, that what is wanted holds.
        scale: float. 1 is Bayes' rule. More makes samples typical of the class, and alike.

    Returns:
        function of `(x, t)`.

    Example: of N(0, 1), what a measurement `y = x + N(0, 1)` of 2 leaves: N(1, 1/2), whose score is 2 - 2 x.

    >>> score = guided(lambda x, t: -x, lambda x, t: -0.5 * tf.reduce_sum((2.0 - x) ** 2, axis=-1))
    >>> score(tf.constant([[0.0], [1.0]]), tf.zeros(2)).numpy().ravel()
    array([2., 0.], dtype=float32)
    """

    def conditional(x, t):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            value = log_prob(x, t)
        return score(x, t) + scale * tf.cast(tape.gradient(value, x), "float32")

    return conditional
