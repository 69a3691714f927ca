"""How near generated data are to real data, by the features that some net has of both. NumPy, in float64.

The two answer different questions. The Frechet distance is one number for everything. Precision and recall tell bad
samples from missing ones: a generator that has collapsed to a few good samples has a high precision and a low recall.

References: Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium",
arXiv:1706.08500, eq. 6; Kynkaanniemi et al. 2019, "Improved Precision and Recall Metric for Assessing Generative
Models", arXiv:1904.06991, eq. 1 and 2.
"""

from typing import NamedTuple

import numpy as np

_ROWS = 64  # of a block of differences, which has rows * others * size numbers


def frechet_distance(features, others) -> float:
    """The squared Frechet distance of the normal distributions with the means and covariances of two samples.

        |m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1^1/2 C_2 C_1^1/2)^1/2)

    It is 0 only where both are equal. Of samples it is too large, by an amount that falls with their size: compare
    values of equal sizes alone, and with that of two samples of real data.

    Args:
        features: float, `(n, size)`, n of at least 2.
        others: float, `(m, size)`, m of at least 2.

    Returns:
        float, in the squared unit of the features.

    Raises:
        ValueError: if the shapes do not fit, or a value is not finite.

    Example:

    >>> points = np.random.default_rng(0).normal(size=(100, 2))
    >>> round(frechet_distance(points, points + [3.0, 4.0]), 6)
    25.0
    """
    first, second = _checked(features, others, minimum=2)
    (mean, covariance), (other_mean, other_covariance) = (
        (x.mean(0), np.atleast_2d(np.cov(x, rowvar=False))) for x in (first, second)
    )
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    # Of a symmetric matrix, so that no eigenvalue is complex. Rounding can make a 0 negative.
    products = np.linalg.eigvalsh(root @ other_covariance @ root)
    spread = np.trace(covariance) + np.trace(other_covariance) - 2 * np.sqrt(np.maximum(products, 0)).sum()
    return float(max(np.sum((mean - other_mean) ** 2) + spread, 0.0))


class PrecisionRecall(NamedTuple):
    """Shares of two samples, in [0, 1].

    Attributes:
        precision: float. Of the generated samples, those within the real ones: quality.
        recall: float. Of the real samples, those within the generated ones: diversity.
    """

    precision: float
    recall: float


def precision_recall(real, generated, k: int = 3) -> PrecisionRecall:
    """Which share of each of two samples lies within the other one.

    A sample is the union of balls, one about each of its points, which reach to the k-th nearest other point of it.

    Args:
        real: float, `(n, size)`: features of real data, n above k.
        generated: float, `(m, size)`: features of generated data, m above k. Sizes other than n make the two shares
            unlike.
        k: int. 3 in the paper.

    Returns:
        `PrecisionRecall`.

    Raises:
        ValueError: if the shapes do not fit, a value is not finite, or `k` is not in [1, rows).

    Example:

    >>> real = np.arange(100.0)[:, None]
    >>> precision_recall(real, real[:50] + 0.5)  # half of the data is missing
    PrecisionRecall(precision=1.0, recall=0.53)
    """
    if k < 1:
        raise ValueError(f"k={k} must be at least 1.")
    real, generated = _checked(real, generated, minimum=k + 1)
    return PrecisionRecall(_share_within(generated, real, k), _share_within(real, generated, k))


def _share_within(points, sample, k):
    """The share of `points` within a ball of `sample`."""
    # The nearest point of a sample to one of its points is itself.
    radii = np.concatenate([np.partition(block, k, axis=1)[:, k] for block in _squares(sample, sample)])
    return float(np.mean(np.concatenate([(block <= radii).any(1) for block in _squares(points, sample)])))


def _squares(points, others):
    """Squared distances, `(rows, len(others))` for some rows of `points` at a time."""
    for i in range(0, len(points), _ROWS):
        yield np.square(points[i : i + _ROWS, None] - others[None]).sum(-1)


def _checked(features, others, minimum):
    arrays = [np.asarray(x, "float64") for x in (features, others)]
    shapes = [x.shape for x in arrays]
    if any(x.ndim != 2 for x in arrays) or shapes[0][1] != shapes[1][1] or min(map(len, arrays)) < minimum:
        raise ValueError(
            f"features have the shapes {shapes[0]} and {shapes[1]}; both must be (rows, size) of one size, "
            f"of at least {minimum} rows."
        )
    if not all(np.isfinite(x).all() for x in arrays):
        raise ValueError("features must be finite; some are nan or infinite.")
    return arrays
