"""Points of two Gaussians, one of which is rare: whether a model gets the weights of modes right."""

import numpy as np
import tensorflow_datasets as tfds

from keras_dl.recipes.datasets.builder import Builder

SEED = 2026
# The streams of the splits; RandomState's is frozen by NumPy's policy, that of a Generator may change with a version.
STREAMS = {"train": 0, "test": 1}
WEIGHTS = np.array([0.8, 0.2])
MEANS = np.array([[5.0, 5.0], [-5.0, -5.0]])


class GaussianPair(Builder):
    """Two Gaussians of unlike weights."""

    name = "gaussian_pair"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Means (5, 5) and (-5, -5), weights 0.8 and 0.2, variance 1."}
    TITLE = "Points of two Gaussians of weights 0.8 and 0.2"
    LICENCE = "Apache-2.0: made by this package"
    SOURCE = None
    ORIGIN = "formula"
    EXAMPLES = {"train": 20_000, "test": 5_000}

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"""
            Generated, from the seed {SEED}, as in the toy problem of Song and Ermon 2019: each point is drawn from the
            normal distribution about (5, 5) with the probability 0.8, else from that about (-5, -5); the covariance is
            the identity. `mode` is the number of the distribution. License: {self.LICENCE}.
            """,
            features=tfds.features.FeaturesDict(
                {
                    "point": tfds.features.Tensor(shape=(2,), dtype=np.float32),
                    "mode": tfds.features.ClassLabel(num_classes=2),
                }
            ),
            supervised_keys=("point", "mode"),
            homepage="https://arxiv.org/abs/1907.05600",
            citation="""
            @inproceedings{song2019generative,
              title={Generative Modeling by Estimating Gradients of the Data Distribution},
              author={Song, Yang and Ermon, Stefano},
              booktitle={Advances in Neural Information Processing Systems},
              volume={32},
              year={2019}
            }
            """,
            license=self.LICENCE,
            metadata=tfds.core.MetadataDict(source="formula", seed=SEED),
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self.EXAMPLES}

    def _generate_examples(self, split):
        random, count = np.random.RandomState([SEED, STREAMS[split]]), self.EXAMPLES[split]
        modes = (random.uniform(size=count) >= WEIGHTS[0]).astype(int)
        points = MEANS[modes] + random.normal(size=(count, 2))
        for i, (point, mode) in enumerate(zip(points, modes, strict=True)):
            yield i, {"point": point.astype(np.float32), "mode": int(mode)}


def score(points, sigma):
    """The gradient of the log-density of the noisy points: float64, `(n, 2)`.

    Args:
        points: float, `(n, 2)`.
        sigma: float. Standard deviation of the noise, 0 for none.
    """
    variance = 1.0 + sigma**2
    differences = MEANS - np.asarray(points, "float64")[:, np.newaxis]  # (n, modes, 2)
    logits = np.log(WEIGHTS) - np.square(differences).sum(-1) / (2 * variance)
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares = shares / shares.sum(1, keepdims=True)
    return (shares[..., np.newaxis] * differences).sum(1) / variance


def share(points) -> float:
    """The share of points that are nearer to the first mean: 0.8 of the data.

    Example:

    >>> share(np.array([[5.0, 4.0], [-4.0, -5.0]]))
    0.5
    """
    return float(np.mean(np.asarray(points, "float64").sum(-1) > 0))
