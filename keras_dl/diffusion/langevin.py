"""Annealed Langevin dynamics: walks along the score, at less and less noise.

    alpha_i = eps sigma_i^2 / sigma_L^2                                     the step size at level i
    x <- x + alpha_i s(x, i) + sqrt(2 alpha_i) z                            T steps at each level, i = 1 .. L
    x <- x + sigma_L^2 s(x, L)                                              at the end: the expected data

This is the convention of the authors' code. The first paper's algorithm 1 has half of the step in front of the score
and its root in front of the noise: its eps is twice this one.

Without annealing, the dynamics mix modes that are far apart too slowly to get their weights right. With it they mix
at the first levels, where the modes run together.

References: Song, Ermon 2019, arXiv:1907.05600, algorithm 1, and algorithm 2 of appendix B.3 for inpainting; Song,
Ermon 2020, arXiv:2006.09011, algorithm 1; Jolicoeur-Martineau et al. 2020, "Adversarial score matching and improved
sampling for image generation", arXiv:2009.05475, for the last step.
"""

import tensorflow as tf

from keras_dl.checks import check_positive, check_size
from keras_dl.diffusion.noise_levels import Levels
from keras_dl.diffusion.walking import walk


def annealed_langevin(
    score,
    start,
    noise,
    levels: Levels,
    step_size: float,
    steps_per_level: int,
    denoise: bool = True,
    known=None,
    is_known=None,
    known_noise=None,
    num_kept: int = 0,
    unroll: bool = False,
):
    """Data by annealed Langevin dynamics.

    Args:
        score: `score(x, t)` returns the score of the noisy data, the shape of `x`. `t` is int32, `(batch,)`: the time
            of the process, which is `size - 1` at the first level.
        start: float, `(batch, ...)`. The chains begin there.
        noise: standard normal noise of each step, as of `keras_dl.diffusion.walk`, for `levels.size * steps_per_level`
            steps.
        levels: `Levels`, such as `GeometricLevels`.
        step_size: float, eps: the step size at the last level.
        steps_per_level: int, T.
        denoise: bool. Whether the last step, which adds no noise, is taken.
        known: float, `(batch, ...)`, or None. Data of which `is_known` says what is known: before each step, that part
            of the state is the known data with the noise of the level, and at the end the known data themselves.
        is_known: bool, in a shape that broadcasts to that of `start`. With `known` alone.
        known_noise: function of the number of a step, as `keras_dl.diffusion.seeded_noise`: the noise of the known
            part. With `known` alone.
        num_kept: int. As of `walk`; the path does not have the last step.
        unroll: bool. As of `walk`.

    Returns:
        float, the shape of `start`. With `num_kept`, a tuple of it and the path.

    Raises:
        ValueError: if a step size or a number of steps is not positive, the step size is so large that the dynamics
            diverge (twice sigma_L squared), or only one of `known`, `is_known` and `known_noise` is given.

    Example: the score of data that are all 3, and the last step finds them.

    >>> from keras_dl.diffusion import GeometricLevels, annealed_langevin, seeded_noise
    >>> levels = GeometricLevels(10.0, 0.01, 5)
    >>> def score(x, t):
    ...     return (3.0 - x) / levels.coefficients(t, x)[1] ** 2
    >>> annealed_langevin(score, tf.zeros((2, 1)), seeded_noise((2, 1), 0), levels, 1e-5, 3).numpy().round(4)
    array([[3.],
           [3.]], dtype=float32)
    """
    check_positive("step_size", step_size)
    check_size("steps_per_level", steps_per_level)
    sigmas = levels.sigmas
    if step_size >= 2 * sigmas[-1] ** 2:
        raise ValueError(
            f"step_size={step_size} must be below {2 * sigmas[-1] ** 2:g}, twice the square of the smallest noise "
            f"{sigmas[-1]:g}: longer steps diverge."
        )
    given = [x is not None for x in (known, is_known, known_noise)]
    if any(given) and not all(given):
        raise ValueError("known, is_known and known_noise go together: give all of them, or none.")
    steps = step_size * (sigmas / sigmas[-1]) ** 2
    tables = {"step": steps, "spread": (2 * steps) ** 0.5, "sigma": sigmas}
    tables = {name: tf.constant(table, "float32") for name, table in tables.items()}
    start = tf.convert_to_tensor(start)

    def times(level):
        return tf.fill([tf.shape(start)[0] if start.shape[0] is None else start.shape[0]], levels.size - 1 - level)

    def step(x, i, z):
        level = i // steps_per_level
        step, spread, sigma = (tf.gather(tables[name], level) for name in ("step", "spread", "sigma"))
        if known is not None:
            x = tf.where(is_known, known + sigma * known_noise(i), x)
        return x + step * score(x, times(level)) + spread * z

    count = levels.size * steps_per_level
    found = walk(step, start, noise, num_steps=count, num_kept=num_kept, unroll=unroll)
    x, path = found if num_kept else (found, None)
    if denoise:
        x = x + float(sigmas[-1] ** 2) * score(x, times(levels.size - 1))
    if known is not None:
        x = tf.where(is_known, known, x)
    return (x, path) if num_kept else x
