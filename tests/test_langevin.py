"""Noise levels and annealed Langevin dynamics: what is known of them in closed form."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dl import diffusion
from keras_dl.diffusion.noise_levels import variance_ratio
from keras_dl.recipes.datasets import gaussian_pair

# Noise levels.


def test_levels_have_one_ratio_and_times_from_the_least_noise():
    levels = diffusion.GeometricLevels(50.0, 0.01, 232)
    np.testing.assert_allclose(levels.sigmas[:-1] / levels.sigmas[1:], (50 / 0.01) ** (1 / 231), rtol=1e-12)
    np.testing.assert_allclose(levels.sigmas[[0, -1]], [50, 0.01], rtol=1e-12)
    alpha, sigma = levels.marginal(tf.range(232))
    np.testing.assert_array_equal(alpha, 1)
    np.testing.assert_array_equal(sigma, levels.sigmas[::-1].astype("float32"))
    np.testing.assert_array_equal(levels.condition(tf.constant([0, 231])), [231, 0])  # the paper's numbers
    for process in (levels, diffusion.NoiseLevels((3.0, 1.0))):
        assert keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(process)) == process


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: diffusion.GeometricLevels(0.01, 1.0, 10), "largest=0.01 must be above smallest=1.0: levels decrease"),
        (lambda: diffusion.GeometricLevels(1.0, 1.0, 10), "largest=1.0 must be above"),
        (lambda: diffusion.GeometricLevels(1.0, 0.0, 10), "smallest=0.0 must be"),
        (lambda: diffusion.GeometricLevels(1.0, 0.1, 1), "num_levels=1 must be"),
        (lambda: diffusion.NoiseLevels((1.0, 2.0)), r"values=\(1.0, 2.0\) must be positive numbers that decrease"),
        (lambda: diffusion.NoiseLevels((1.0, 1.0)), "that decrease"),
        (lambda: diffusion.NoiseLevels((1.0, -1.0)), "that decrease"),
        (lambda: diffusion.NoiseLevels(()), "that decrease"),
        (lambda: diffusion.largest_distance(np.ones((3, 2))), "all examples are equal"),
        (lambda: diffusion.largest_distance(np.full((3, 2), np.nan)), "all finite"),
        (lambda: diffusion.level_ratio(0), "num_dimensions=0"),
        (lambda: diffusion.choose_step_size(diffusion.GeometricLevels(), 0), "steps_per_level=0"),
    ],
)
def test_levels_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_technique_1_finds_the_farthest_pair():
    points = np.random.default_rng(0).normal(size=(600, 3, 2))
    rows = points.reshape(600, -1)
    slow = np.sqrt(np.square(rows[:, None] - rows).sum(-1)).max()
    assert diffusion.largest_distance(points) == pytest.approx(slow, rel=1e-12)
    # Far from the origin a distance has few digits left in |a|^2 + |b|^2 - 2ab.
    assert diffusion.largest_distance(points + 1e6) == pytest.approx(slow, rel=1e-8)


@pytest.mark.parametrize(("size", "ratio"), [(64, 1.361), (784, 1.082), (3072, 1.040)])
def test_technique_2_lets_neighboring_levels_overlap_by_half(size, ratio):
    found = diffusion.level_ratio(size)
    assert found == pytest.approx(ratio, abs=6e-4)  # the paper's configurations round so

    def below(x):
        return (1 + math.erf(x / math.sqrt(2))) / 2

    center = math.sqrt(2 * size) * (found - 1)
    assert below(center + 3 * found) - below(center - 3 * found) == pytest.approx(0.5, abs=1e-9)
    # That is the share of the samples of a level that is within three deviations of the next radius: by simulation.
    radii = np.linalg.norm(np.random.default_rng(0).normal(0, found, (20_000, size)), axis=1)
    inside = np.mean(np.abs(radii - math.sqrt(size)) < 3 * found / math.sqrt(2))
    assert inside == pytest.approx(0.5, abs=0.05 if size > 64 else 0.1)  # a radius is normal for large dimensions alone
    levels = diffusion.choose_levels(size, 10.0)
    assert levels.sigmas[0] / levels.sigmas[1] <= found
    assert diffusion.GeometricLevels(10.0, 0.01, levels.num_levels - 1).sigmas[-2] / 0.01 > found


def test_technique_4_has_the_steps_of_the_paper():
    for levels, steps, published in (
        (diffusion.GeometricLevels(50.0, 0.01, 232), 5, 6.2e-6),  # CIFAR-10
        (diffusion.GeometricLevels(90.0, 0.01, 500), 5, 3.3e-6),  # CelebA
        (diffusion.GeometricLevels(190.0, 0.01, 1086), 3, 1.8e-6),  # LSUN
        (diffusion.GeometricLevels(348.0, 0.01, 2311), 3, 0.9e-6),  # FFHQ
    ):
        assert diffusion.choose_step_size(levels, steps) == pytest.approx(published, rel=0.06)  # of two digits


# Langevin dynamics. The score of normal data is linear, so that a chain is a sum of its noise, each times a number. A
# batch of chains with one unit of noise each gives all of the numbers, and their squares add up to the variance.


def variances(levels, step_size, steps, variance, denoise, start=0.0):
    """The variance of a chain that starts with the deviation `start`, found without random numbers."""
    count = levels.size * steps

    def score(x, t):
        _, sigma = levels.coefficients(t, x)
        return -x / (variance + tf.square(sigma))

    units = tf.eye(count + 1)[:, :, tf.newaxis]  # (step, chain, 1); that of the last chain is its start
    run = diffusion.annealed_langevin(
        score, start * units[count], lambda i: units[i], levels, step_size, steps, denoise=denoise
    )
    return float(tf.reduce_sum(tf.square(run)))


def test_the_stationary_variance_of_discrete_langevin_dynamics():
    """`s^2 / (1 - alpha / (2 s^2))`, with s^2 = 1.5 + 0.5^2 and not 1.5."""
    levels, wanted = diffusion.NoiseLevels((0.5,)), 1.5 + 0.25
    for step_size in (0.01, 0.1, 0.4):
        found = variances(levels, step_size, 1000 if step_size < 0.05 else 200, 1.5, denoise=False)
        assert found == pytest.approx(wanted / (1 - step_size / (2 * wanted)), rel=1e-4)


@pytest.mark.parametrize("denoise", [False, True])
def test_the_variance_along_the_levels(denoise):
    levels, step_size, steps = diffusion.GeometricLevels(4.0, 0.2, 6), 6e-3, 5
    expected = 0.0
    for sigma in levels.sigmas:
        alpha, total = step_size * sigma**2 / 0.2**2, 0.3 + sigma**2
        for _ in range(steps):
            expected = (1 - alpha / total) ** 2 * expected + 2 * alpha
    if denoise:
        expected *= (1 - 0.2**2 / (0.3 + 0.2**2)) ** 2
    assert variances(levels, step_size, steps, 0.3, denoise) == pytest.approx(expected, rel=1e-5)


def test_technique_4_is_the_variance_of_chains_to_one_point():
    """From the level before, whose variance is larger by the square of the ratio."""
    levels, steps = diffusion.GeometricLevels(1.0, 0.01, 40), 5
    ratio, step_size = levels.sigmas[0] / levels.sigmas[1], diffusion.choose_step_size(levels, steps)

    def reached(step_size):
        last = diffusion.NoiseLevels((0.01,))
        return variances(last, step_size, steps, 0.0, denoise=False, start=0.01 * ratio) / 0.01**2

    assert reached(step_size) == pytest.approx(variance_ratio(step_size / 0.01**2, ratio, steps), rel=1e-5)
    for factor in (0.8, 0.95, 1.05, 1.25):
        assert abs(reached(factor * step_size) - 1) > abs(reached(step_size) - 1)


def test_the_last_step_is_exact_for_one_point():
    levels, point = diffusion.GeometricLevels(3.0, 0.1, 4), np.float32([[2.0, -1.0]])

    def score(x, t):
        _, sigma = levels.coefficients(t, x)
        return (point - x) / tf.square(sigma)

    start = tf.random.stateless_normal((50, 2), (0, 1))
    noisy, clean = (
        diffusion.annealed_langevin(score, start, diffusion.seeded_noise((50, 2), 0), levels, 1e-3, 3, denoise=denoise)
        for denoise in (False, True)
    )
    assert np.abs(noisy - point).mean() > 0.05
    np.testing.assert_allclose(clean, np.tile(point, (50, 1)), atol=1e-6)


COUNT = 10_000  # points: their share deviates by 0.004


def pair(levels, start, step_size, steps):
    """Points by the exact score of the pair of Gaussians."""
    weights, means = (tf.constant(x, "float32") for x in (gaussian_pair.WEIGHTS, gaussian_pair.MEANS))

    def score(x, t):
        _, sigma = levels.coefficients(t, x)
        variance = 1.0 + tf.square(sigma)  # (batch, 1)
        differences = means - x[:, tf.newaxis]  # (batch, modes, 2)
        logits = tf.math.log(weights) - tf.reduce_sum(tf.square(differences), -1) / (2 * variance)
        return tf.reduce_sum(tf.nn.softmax(logits)[..., tf.newaxis] * differences, 1) / variance

    np.testing.assert_allclose(
        score(start[:5], tf.zeros((5,), "int32")), gaussian_pair.score(start[:5], levels.sigmas[-1]), rtol=1e-4
    )

    @tf.function
    def run(start):
        return diffusion.annealed_langevin(
            score, start, diffusion.seeded_noise(start.shape, 1), levels, step_size, steps
        )

    return gaussian_pair.share(run(start))


def test_the_weights_of_modes_are_right_only_when_annealed():
    start = tf.random.stateless_uniform((COUNT, 2), (0, 0), -8.0, 8.0)
    annealed = pair(diffusion.GeometricLevels(20.0, 0.1, 10), start, 1e-3, 100)
    plain = pair(diffusion.NoiseLevels((0.1,)), start, 1e-3, 1000)
    assert annealed == pytest.approx(0.8, abs=0.02)
    assert abs(plain - 0.8) > 0.2


def test_known_data_stay_and_guide_the_rest():
    """Two numbers with the correlation 0.9: the one that is known moves the mean and the variance of the other."""
    levels = diffusion.GeometricLevels(4.0, 0.05, 20)
    covariance = np.array([[1.0, 0.9], [0.9, 1.0]], "float32")

    def score(x, t):
        _, sigma = levels.marginal(t)
        total = covariance + tf.reshape(tf.square(sigma), (-1, 1, 1)) * tf.eye(2)
        return -tf.linalg.solve(total, x[..., tf.newaxis])[..., 0]

    known = np.tile(np.float32([[1.5, 99.0]]), (4000, 1))

    @tf.function
    def run():
        return diffusion.annealed_langevin(
            score,
            tf.zeros((4000, 2)),
            diffusion.seeded_noise((4000, 2), 0),
            levels,
            2e-4,
            20,
            known=known,
            is_known=tf.constant([True, False]),
            known_noise=diffusion.seeded_noise((4000, 2), 1),
        )

    found = run().numpy()
    np.testing.assert_array_equal(found[:, 0], 1.5)
    assert found[:, 1].mean() == pytest.approx(0.9 * 1.5, abs=0.15)  # of algorithm 2, which is no exact sampler
    assert found[:, 1].std() == pytest.approx(math.sqrt(1 - 0.9**2), abs=0.1)


def test_wrong_steps_are_refused():
    levels = diffusion.GeometricLevels(1.0, 0.1, 3)

    def run(step_size=1e-3, steps=2, **options):
        return diffusion.annealed_langevin(
            lambda x, t: -x, tf.zeros((1, 1)), tf.zeros((6, 1)), levels, step_size, steps, **options
        )

    assert run().shape == (1, 1)
    with pytest.raises(ValueError, match=r"step_size=0.0 must be"):
        run(0.0)
    with pytest.raises(ValueError, match=r"step_size=0.021 must be below 0.02, .* longer steps diverge"):
        run(0.021)
    with pytest.raises(ValueError, match="steps_per_level=0 must be"):
        run(steps=0)
    with pytest.raises(ValueError, match="known, is_known and known_noise go together"):
        run(known=tf.zeros((1, 1)))
    with pytest.raises(ValueError, match=r"noise has the shape \(6, 1\); 9 steps"):
        run(steps=3)
