"""Equations from data to noise: moments, chains, and samplers and likelihoods of densities that are known."""

import functools
import math

import numpy as np
import pytest
import tensorflow as tf
from scipy.integrate import solve_ivp

from keras_dl.diffusion import (
    SDE,
    VE,
    VP,
    LinearBetas,
    SubVP,
    along,
    bits_per_dimension,
    decode,
    encode,
    guided,
    log_likelihood,
    predictor_corrector,
    seeded_noise,
)
from keras_dl.diffusion.predictor_corrector import CORRECTORS, PREDICTORS
from keras_dl.diffusion.probability_flow import divergence, random_signs, spherical, velocity
from keras_dl.ops.odeint import Solver

SDES = [VE(0.05, 8.0), VP(0.2, 12.0), SubVP(0.2, 12.0)]
NAMES = ["ve", "vp", "sub_vp"]
every_sde = pytest.mark.parametrize("sde", SDES, ids=NAMES)
TIMES = np.linspace(0.0, 1.0, 9).astype("float32")


def coefficients(sde, times):
    return [np.asarray(f(times), "float64") for f in (sde.drift, sde.diffusion)]


# Moments.


@every_sde
def test_marginals_solve_the_equations_of_the_moments(sde):
    """`m' = f m`, `v' = 2 f v + g^2`, from the moments at the first time."""

    def rates(t, state):
        f, g = coefficients(sde, np.float32(t))
        return [f * state[0], 2 * f * state[1] + g**2]

    alpha, sigma = (np.asarray(x, "float64") for x in sde.marginal(TIMES))
    found = solve_ivp(rates, (0, 1), [alpha[0], sigma[0] ** 2], t_eval=TIMES, rtol=1e-8, atol=1e-10).y
    # float32 coefficients, at float32 times: relative errors of 1e-7 times the exponents, up to 12.
    np.testing.assert_allclose(found[0], alpha, rtol=1e-5)
    np.testing.assert_allclose(np.sqrt(found[1]), sigma, rtol=1e-5, atol=1e-6)


@every_sde
def test_simulated_paths_have_the_moments(sde):
    """Euler and Maruyama in 400 steps on 20,000 paths from 1.5."""
    rng, n, steps = np.random.default_rng(0), 20_000, 400
    x = np.full(n, 1.5) + sde.marginal(0.0)[1].numpy() * rng.normal(size=n)
    f, g = coefficients(sde, (np.arange(steps, dtype="float32") + 0.5) / steps)
    for i in range(steps):
        x = x + f[i] * x / steps + g[i] / math.sqrt(steps) * rng.normal(size=n)
        if i + 1 in (steps // 4, steps):
            alpha, sigma = (float(v) for v in sde.marginal((i + 1) / steps))
            # Five standard errors, and the error of the steps: (f / steps)^2 in each.
            assert np.mean(x) == pytest.approx(1.5 * alpha, abs=5 * sigma / math.sqrt(n) + 0.005)
            assert np.std(x) == pytest.approx(sigma, rel=5 / math.sqrt(2 * n) + 0.005)


def test_sub_vp_has_never_more_variance_than_vp():
    for betas in ((0.1, 20.0), (0.0, 1.0)):
        vp, sub = (np.asarray(sde(*betas).marginal(np.linspace(0, 1, 101))[1]) for sde in (VP, SubVP))
        assert (sub <= vp).all()
        assert (sub[1:] < vp[1:]).any()
    assert float(VP().marginal(1.0)[0]) == pytest.approx(0.00657, abs=1e-5)
    assert float(VP().marginal(1.0)[1]) == pytest.approx(0.99998, abs=1e-5)
    # In float32, 1 - exp(-1e-6) would have two digits.
    assert float(VP().marginal(1e-5)[1]) == pytest.approx(math.sqrt(-math.expm1(-0.1e-5 - 0.5 * 19.9e-10)), rel=1e-6)


# The table of the paper: which chain is which equation.


def test_the_chain_of_vp_is_ddpm_and_that_of_ve_is_ncsn():
    scale, noise = VP().discretization(1000)
    np.testing.assert_allclose(noise**2, np.linspace(1e-4, 0.02, 1000), rtol=1e-12)
    np.testing.assert_allclose(scale**2 + noise**2, 1.0, rtol=1e-12)
    alphas, sigmas = LinearBetas().levels()
    np.testing.assert_allclose(np.cumprod(scale), alphas, rtol=1e-9)
    np.testing.assert_allclose(1 - np.cumprod(scale**2), sigmas**2, rtol=1e-9)

    scale, noise = VE(0.01, 50.0).discretization(10)
    np.testing.assert_allclose(np.sqrt(np.cumsum(noise**2)), np.geomspace(0.01, 50.0, 10), rtol=1e-12)
    np.testing.assert_array_equal(scale, 1.0)


@every_sde
def test_chains_have_the_moments_of_their_equations_in_the_limit(sde):
    scale, noise = sde.discretization(20_000)
    alpha, variance = 1.0, 0.0
    for a, s in zip(scale, noise, strict=True):
        alpha, variance = a * alpha, a**2 * variance + s**2
    expected = [float(x) for x in sde.marginal(1.0)]
    assert [alpha, math.sqrt(variance)] == pytest.approx(expected, rel=2e-3)


def test_bad_equations_are_refused():
    for make, words in (
        (lambda: VE(1.0, 1.0), "sigma_max=1.0 must be above sigma_min=1.0"),
        (lambda: VE(0.0, 1.0), "sigma_min=0.0"),
        (lambda: VE(2.0, 1.0), "sigma_max=1.0"),
        (lambda: VP(-0.1, 20.0), "beta_min=-0.1"),
        (lambda: VP(2.0, 1.0), "beta_max=1.0 must be at least beta_min=2.0"),
        (lambda: SubVP(0.1, math.inf), "beta_max=inf"),
        (lambda: VP().discretization(20), "num_steps=20 is too small for beta_max=20.0.*num_steps=21"),
        (lambda: VP().weights("none", TIMES), "weighting='none'"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
    assert SDE.from_config is not None


# Data N(mean, s^2), whose score at all times is known.

MEAN, SPREAD = np.array([0.5, -1.0], "float32"), np.array([0.4, 1.2], "float32")


def exact_score(sde):
    def score(x, t):
        alpha, sigma = sde.coefficients(t, x)
        return -(x - alpha * MEAN) / (tf.square(alpha * SPREAD) + tf.square(sigma))

    return score


def deviations(sde, t):
    alpha, sigma = (np.asarray(x, "float64") for x in sde.marginal(t))
    return alpha, np.sqrt((alpha * SPREAD) ** 2 + sigma**2)


def draws(n, seed=0):
    return (MEAN + SPREAD * np.random.default_rng(seed).normal(size=(n, 2))).astype("float32")


@pytest.mark.parametrize("sde", [VE(0.02, 400.0), VP(0.1, 20.0), SubVP(0.1, 20.0)], ids=NAMES)
def test_the_flow_of_a_normal_density_is_linear_and_has_its_likelihood(sde):
    x, solver = draws(40), Solver("rk4", 100)
    first = sde.smallest_time
    (alpha, start), (last, end) = deviations(sde, first), deviations(sde, 1.0)
    log_prob, latents = tf.function(lambda x: log_likelihood(exact_score(sde), sde, x, solver))(x)
    expected = last * MEAN + (x - alpha * MEAN) * end / start
    np.testing.assert_allclose(latents, expected, rtol=1e-3, atol=1e-3)

    # The density at the first time, and the prior in the place of the density at time 1, which it is not quite.
    exact = -0.5 * np.sum(((x - alpha * MEAN) / start) ** 2 + np.log(2 * np.pi * start**2), axis=-1)
    prior = sde.prior_std
    exact += np.sum(
        -0.5 * (expected / prior) ** 2 + 0.5 * ((expected - last * MEAN) / end) ** 2 + np.log(end / prior), axis=-1
    )
    np.testing.assert_allclose(log_prob, exact, atol=1e-3)
    np.testing.assert_allclose(
        log_prob, -0.5 * np.sum(((x - MEAN) / SPREAD) ** 2 + np.log(2 * np.pi * SPREAD**2), axis=-1), atol=0.05
    )

    again = decode(exact_score(sde), sde, latents, solver, first)
    np.testing.assert_allclose(again, x, atol=1e-3)
    np.testing.assert_allclose(encode(exact_score(sde), sde, x, solver), latents, rtol=1e-5, atol=1e-5)


def test_the_adaptive_flow_of_a_file_under_xla():
    """dopri5 agrees with fixed steps, and fixed steps compile."""
    sde, x = VP(), draws(8)
    expected = encode(exact_score(sde), sde, x, Solver("rk4", 100))
    compiled = tf.function(lambda x: encode(exact_score(sde), sde, x, Solver("rk4", 100)), jit_compile=True)
    np.testing.assert_allclose(compiled(x), expected, rtol=1e-4, atol=1e-5)
    adaptive = tf.function(lambda x: encode(exact_score(sde), sde, x, Solver("dopri5", rtol=1e-5, atol=1e-5)))
    np.testing.assert_allclose(adaptive(x), expected, rtol=1e-3, atol=1e-3)


def test_hutchinsons_estimate_has_the_trace_as_its_mean():
    matrix = np.random.default_rng(0).normal(size=(4, 4)).astype("float32")
    function = lambda x: tf.tanh(x @ matrix) * x[:, :1]  # noqa: E731
    x = tf.constant(np.random.default_rng(1).normal(size=(3, 4)), tf.float32)
    values, exact = divergence(function, x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    np.testing.assert_allclose(exact, np.trace(tape.batch_jacobian(y, x), axis1=1, axis2=2), rtol=1e-5)
    np.testing.assert_allclose(values, y, rtol=1e-6)
    # All signs there are.
    signs = np.array(np.meshgrid(*[[-1.0, 1.0]] * 4)).reshape(4, -1).T.astype("float32")
    found = [divergence(function, x, tf.tile(s[None], (3, 1)))[1] for s in signs]
    np.testing.assert_allclose(np.mean(found, 0), exact, rtol=1e-4, atol=1e-5)
    assert np.std(found, 0).max() > 0.1
    signs = random_signs((2000, 3), seed=0).numpy()
    assert set(np.unique(signs)) == {-1.0, 1.0}
    assert np.abs(signs.mean(0)).max() < 5 / math.sqrt(2000)


@every_sde
@pytest.mark.parametrize("predictor", ["reverse_diffusion", "ancestral", "euler_maruyama"])
def test_predictors_and_correctors_give_back_the_density(sde, predictor):
    """Means and deviations of 4,000 samples in 300 steps: five standard errors, and an error of the steps."""
    n, steps = 4000, 300
    start = sde.prior_std * tf.random.stateless_normal((n, 2), (0, 1))
    options = dict(num_steps=steps, predictor=predictor, snr=0.1)
    for corrector, count, norms in (("none", 1, "batch"), ("langevin", 2, "batch"), ("langevin", 2, "sigma")):
        noise = seeded_noise((count * n, 2), seed=1)
        arguments = (exact_score(sde), sde, start, noise)
        sample = functools.partial(predictor_corrector, *arguments, corrector=corrector, norms=norms, **options)
        if predictor == "ancestral" and isinstance(sde, SubVP):
            with pytest.raises(ValueError, match="predictor='ancestral' needs the chain of VE or VP"):
                sample()
            continue
        x = tf.function(sample)().numpy()
        errors = 5 * SPREAD / math.sqrt(n)
        assert (np.abs(x.mean(0) - MEAN) <= errors + 0.03).all()
        assert (np.abs(x.std(0) - SPREAD) <= errors / math.sqrt(2) + 0.06 * SPREAD).all()


def test_the_corrector_alone_moves_towards_the_density():
    """At one time, Langevin steps leave the density of that time as it is."""
    sde, n = VP(), 4000
    start = tf.constant(draws(n))
    x = predictor_corrector(
        lambda x, t: exact_score(sde)(x, 0.0 * t + 1e-5), sde, start, seeded_noise((n, 2), 3), 50,
        predictor="none", corrector="langevin", snr=0.1,
    )  # fmt: skip
    np.testing.assert_allclose(x.numpy().std(0), SPREAD, rtol=0.1)
    np.testing.assert_allclose(x.numpy().mean(0), MEAN, atol=0.1)


@every_sde
def test_reverse_equation_and_flow_have_equal_marginals(sde):
    """At time 0.3, which both reach from the same noise."""
    n = 4000
    start = sde.prior_std * tf.random.stateless_normal((n, 2), (0, 5))
    by_flow = decode(exact_score(sde), sde, start, Solver("rk4", 40), first_time=0.3).numpy()
    # Steps from time 1 to 0.3 are those of an equation whose time runs as fast.
    inner = _Part(sde, 0.3)
    by_steps = predictor_corrector(
        lambda x, t: exact_score(sde)(x, inner.time(t)), inner, start, seeded_noise((n, 2), 6), 300,
        predictor="euler_maruyama", corrector="none", final_time=0.0,
    ).numpy()  # fmt: skip
    _, expected = deviations(sde, 0.3)
    for x in (by_flow, by_steps):
        np.testing.assert_allclose(x.std(0), expected, rtol=5 / math.sqrt(2 * n) + 0.02)
    np.testing.assert_allclose(by_flow.mean(0), by_steps.mean(0), atol=0.2 * expected.max())


class _Part(SDE):
    """An equation from the time `first` on, in a time from 0 to 1."""

    def __init__(self, sde, first):
        vars(self).update(sde=sde, first=first)

    def time(self, t):
        return self.first + (1 - self.first) * t

    def drift(self, t):
        return self.sde.drift(self.time(t)) * (1 - self.first)

    def diffusion(self, t):
        return self.sde.diffusion(self.time(t)) * math.sqrt(1 - self.first)


# Conditional sampling.


def test_inpainting_samples_the_conditional_density():
    """Two correlated values, of which one is known."""
    sde, rho, n = VP(), 0.8, 3000
    covariance = np.array([[1.0, rho], [rho, 1.0]], "float32")

    def score(x, t):
        alpha, sigma = sde.marginal(t[0])
        return -x @ tf.linalg.inv(alpha**2 * covariance + sigma**2 * np.eye(2, dtype="float32"))

    known = np.full((n, 2), 1.5, "float32")
    start = tf.random.stateless_normal((n, 2), (0, 7))
    x = predictor_corrector(
        score, sde, start, seeded_noise((4 * n, 2), 8), 200, known=known, keep=np.array([1.0, 0.0], "float32")
    ).numpy()
    np.testing.assert_array_equal(x[:, 0], 1.5)
    # Replacement is an approximation: it does not draw the known part together with the rest.
    assert x[:, 1].mean() == pytest.approx(rho * 1.5, abs=0.25)
    assert x[:, 1].std() == pytest.approx(math.sqrt(1 - rho**2), abs=0.2)


def test_a_guide_makes_the_score_of_a_class():
    """A mixture of two normal densities: with the gradient of a class, its score is the score of that class."""
    sde, centers = VE(0.1, 5.0), np.array([-2.0, 2.0], "float32")

    def logits(x, t):
        _, sigma = sde.coefficients(t, x)
        return -0.5 * tf.square(x - centers) / (0.25 + tf.square(sigma))  # (batch, 2)

    def score(x, t):
        _, sigma = sde.coefficients(t, x)
        shares = tf.nn.softmax(logits(x, t))
        return tf.reduce_sum(shares * (centers - x), -1, keepdims=True) / (0.25 + tf.square(sigma))

    x, t = tf.constant([[-1.0], [0.3], [2.5]]), tf.constant([0.1, 0.5, 0.9])
    found = guided(score, lambda x, t: tf.nn.log_softmax(logits(x, t))[:, 1])(x, t)
    _, sigma = sde.coefficients(t, x)
    np.testing.assert_allclose(found, (2.0 - x) / (0.25 + tf.square(sigma)), rtol=1e-4, atol=1e-5)
    twice = guided(score, lambda x, t: tf.nn.log_softmax(logits(x, t))[:, 1], scale=2.0)(x, t)
    np.testing.assert_allclose(twice, 2 * found - score(x, t), rtol=1e-4, atol=1e-5)


# What the functions refuse, and their small parts.


def test_bad_sampling_is_refused():
    sde, start = VP(), tf.zeros((2, 3))
    run = lambda **options: predictor_corrector(  # noqa: E731
        lambda x, t: -x, sde, start, **(dict(noise=seeded_noise((4, 3), 0), num_steps=30) | options)
    )
    for options, words in (
        (dict(num_steps=0), "num_steps=0"),
        (dict(num_steps=10), "num_steps=10 is too small"),
        (dict(predictor="heun"), "predictor='heun'"),
        (dict(corrector="hmc"), "corrector='hmc'"),
        (dict(norms="pixel"), "norms='pixel'"),
        (dict(predictor="none", corrector="none"), "would not move the noise"),
        (dict(snr=0.0), "snr=0.0"),
        (dict(corrector_steps=0), "corrector_steps=0"),
        (dict(final_time=1.5), "final_time=1.5"),
        (dict(known=start), "known and keep belong together"),
        (dict(noise=tf.zeros((60, 3))), r"60, 3.*must be \(120, 3\)"),
    ):
        with pytest.raises(ValueError, match=words):
            run(**options)
    for first in (0.0, 1.0, -1.0):
        with pytest.raises(ValueError, match="first_time"):
            encode(lambda x, t: -x, sde, start, Solver(), first_time=first)
    assert "none" in PREDICTORS
    assert "none" in CORRECTORS


def test_norms_of_a_batch_and_of_each_sample():
    """The step of "sample" does not depend on the neighbors; that of "batch" is the same for all, as in the paper."""
    sde, n = VP(), 3
    start, noise = tf.random.stateless_normal((n, 4), (0, 0)), tf.random.stateless_normal((60 * n, 4), (0, 1))
    run = lambda start, noise, norms: predictor_corrector(lambda x, t: -x, sde, start, noise, 30, norms=norms)  # noqa: E731
    alone = run(start[:1], noise[::n], "sample")
    np.testing.assert_allclose(run(start, noise, "sample")[:1], alone, rtol=1e-5, atol=1e-6)
    assert np.abs(run(start, noise, "batch")[:1] - alone).max() > 1e-3
    np.testing.assert_allclose(run(start[:1], noise[::n], "batch"), alone, rtol=1e-5, atol=1e-6)


def test_bits_of_pixels():
    """A density that is even over [-1, 1], or [0, 1], takes 8 bits; one twice as narrow, 7."""
    size = 12
    for width, step in ((2.0, 2 / 256), (1.0, 1 / 256)):
        assert bits_per_dimension(-size * math.log(width), size, step) == pytest.approx(8.0)
        assert bits_per_dimension(-size * math.log(width / 2), size, step) == pytest.approx(7.0)


def test_interpolated_noise_has_the_length_of_noise():
    first, second = (tf.random.stateless_normal((2, 50), (0, i)) for i in range(2))
    np.testing.assert_allclose(spherical(first, second, 0.0), first, atol=1e-5)
    np.testing.assert_allclose(spherical(first, second, 1.0), second, atol=1e-5)
    for share in (0.25, 0.5):
        lengths = [np.linalg.norm(x, axis=-1) for x in (first, second, spherical(first, second, share))]
        assert (lengths[2] > 0.9 * np.minimum(*lengths[:2])).all()
    np.testing.assert_allclose(spherical(first, first, 0.3), first, atol=1e-5)


def test_the_velocity_is_bounded_in_the_time_of_the_solver():
    """`u dx/dt` of VP does not grow towards 0, where `dx/dt` does."""
    sde = VP()
    speeds = []
    for t in (1e-5, 1e-3):
        x = sde.marginal(t)[1] * tf.ones((1, 1))
        speeds.append(float(velocity(lambda x, t: -x / along(sde.marginal(t)[1] ** 2, x), sde)(x, t)[0, 0]))
    assert speeds[0] > 5 * speeds[1]
    assert speeds[0] * math.sqrt(1e-5) == pytest.approx(speeds[1] * math.sqrt(1e-3), rel=0.2)
