"""Points of eight narrow Gaussians on a circle: the usual test of whether a generative model finds every mode."""

import numpy as np
import tensorflow_datasets as tfds

from keras_dl.recipes.datasets.builder import Builder

SEED = 2026
# The streams of the splits; RandomState's is frozen by NumPy's policy, that of a Generator may change with a version.
STREAMS = {"train": 0, "test": 1}
METZ = """
@article{metz2016unrolled,
  title={Unrolled Generative Adversarial Networks},
  author={Metz, Luke and Poole, Ben and Pfau, David and Sohl-Dickstein, Jascha},
  journal={arXiv:1611.02163},
  year={2016}
}
"""


class GaussianRing(Builder):
    """Eight Gaussians on a circle."""

    name = "gaussian_ring"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Eight modes, radius 2, standard deviation 0.02."}
    TITLE = "Points of eight Gaussians on a circle"
    LICENCE = "Apache-2.0: made by this package"
    SOURCE = None
    ORIGIN = "formula"
    EXAMPLES = {"train": 20_000, "test": 2_500}
    MODES, RADIUS, STD = 8, 2.0, 0.02

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"""
            Generated, from the seed {SEED}, as in the toy problem of Metz et al. 2016: each point is drawn from one of
            {self.MODES} normal distributions of standard deviation {self.STD}, evenly, whose means are on a circle of
            radius {self.RADIUS}, the first one at (2, 0), the others counter-clockwise. `mode` is the number of the
            distribution. License: {self.LICENCE}.
            """,
            features=tfds.features.FeaturesDict(
                {
                    "point": tfds.features.Tensor(shape=(2,), dtype=np.float32),
                    "mode": tfds.features.ClassLabel(num_classes=self.MODES),
                }
            ),
            supervised_keys=("point", "mode"),
            homepage="https://arxiv.org/abs/1611.02163",
            citation=METZ,
            license=self.LICENCE,
            metadata=tfds.core.MetadataDict(source="formula", seed=SEED),
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self.EXAMPLES}

    def _generate_examples(self, split):
        random, count = np.random.RandomState([SEED, STREAMS[split]]), self.EXAMPLES[split]
        modes = random.randint(0, self.MODES, count)
        points = centers()[modes] + random.normal(0, self.STD, (count, 2))
        for i, (point, mode) in enumerate(zip(points, modes, strict=True)):
            yield i, {"point": point.astype(np.float32), "mode": int(mode)}


def centers():
    """The means of the modes: float64, `(8, 2)`."""
    angles = 2 * np.pi * np.arange(GaussianRing.MODES) / GaussianRing.MODES
    return GaussianRing.RADIUS * np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def coverage(points) -> dict[str, float]:
    """How well points cover the modes, by the rules of the toy problem.

    Args:
        points: float, `(n, 2)`.

    Returns:
        dict of float: `modes`, how many have at least 1% of all points within 3 standard deviations; `high_quality`,
        the share of points within 3 standard deviations of any; `kl_to_uniform`, the divergence of the shares of the
        modes among those points from even shares, in nats, 0 at best, ln 8 = 2.079 if one mode has all, or none any.

    Example:

    >>> coverage(np.repeat(centers()[:4], 25, axis=0))
    {'modes': 4.0, 'high_quality': 1.0, 'kl_to_uniform': 0.6931}
    """
    distances = np.linalg.norm(np.asarray(points, "float64")[:, None] - centers(), axis=-1)  # (n, modes)
    near = distances.min(-1) <= 3 * GaussianRing.STD
    counts = np.bincount(distances.argmin(-1)[near], minlength=GaussianRing.MODES)
    shares = counts / max(counts.sum(), 1)
    entropy = -np.sum(shares * np.log(np.maximum(shares, 1e-12)))
    return {
        "modes": float(np.sum(counts >= 0.01 * len(points))),
        "high_quality": float(near.mean()),
        "kl_to_uniform": round(float(np.log(GaussianRing.MODES) - entropy), 4),
    }
