"""Generated data for neural ODEs: points of two moons, and spirals that are observed at irregular times."""

import numpy as np
import tensorflow_datasets as tfds

from keras_dl.recipes.datasets.builder import Builder

SEED = 2026
LICENCE = "Apache-2.0: made by this package"
# The streams of the splits; RandomState's is frozen by NumPy's policy, that of a Generator may change with a version.
STREAMS = {"train": 0, "test": 1}


class TwoMoons(Builder):
    """Points around two half circles."""

    name = "two_moons"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Noise of 0.1."}
    TITLE = "Two moons: points of the plane around two half circles"
    LICENCE = LICENCE
    SOURCE = None
    ORIGIN = "formula"
    EXAMPLES = {"train": 4000, "test": 2000}
    NOISE = 0.1

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"""
            Generated, from the seed {SEED}: an angle drawn evenly from [0, pi) is a place on the half circle
            (cos a, sin a) or, for every second point, on (1 - cos a, 1/2 - sin a); normal noise of standard deviation
            {self.NOISE} is added to both coordinates. License: {LICENCE}.
            """,
            features=tfds.features.FeaturesDict({"point": tfds.features.Tensor(shape=(2,), dtype=np.float32)}),
            homepage="https://scikit-learn.org/stable/modules/generated/sklearn.datasets.make_moons.html",
            license=LICENCE,
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self.EXAMPLES}

    def _generate_examples(self, split):
        random, count = np.random.RandomState([SEED, STREAMS[split]]), self.EXAMPLES[split]
        points = moons(random.uniform(0, np.pi, count), np.arange(count) % 2)
        for i, point in enumerate(points + random.normal(0, self.NOISE, points.shape)):
            yield i, {"point": point.astype(np.float32)}


def moons(angles, second):
    """Points on the half circles, `(n, 2)`: on the second one where `second` is True."""
    x, y = np.cos(angles), np.sin(angles)
    return np.where(np.asarray(second, bool)[:, None], np.stack([1 - x, 0.5 - y], -1), np.stack([x, y], -1))


def moons_log_density(points, noise=TwoMoons.NOISE, count=4000):
    """The log-density of `two_moons` in nats, `(n,)`, by the midpoint rule over the angle."""
    angles = (np.arange(count) + 0.5) * np.pi / count
    total = 0.0
    for second in (0, 1):
        squares = ((np.asarray(points)[:, None] - moons(angles, np.full(count, second))) ** 2).sum(-1)
        total = total + np.exp(-0.5 * squares / noise**2).mean(-1) / (4 * np.pi * noise**2)
    return np.log(total)


class Spirals(Builder):
    """Parts of two spirals."""

    name = "spirals"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "10 to 40 observations, and 40 query times."}
    TITLE = "Spirals: paths in the plane, observed with noise at 10 to 40 irregular times"
    LICENCE = LICENCE
    SOURCE = None
    ORIGIN = "formula"
    EXAMPLES = {"train": 1000, "test": 200}
    LENGTH, QUERIES, NOISE = 40, 40, 0.3
    TURN, SPAN = 6 * np.pi, 0.6 * np.pi

    def _info(self):
        def tensor(*shape, dtype=np.float32, doc=None):
            return tfds.features.Tensor(shape=shape, dtype=dtype, doc=doc)

        return tfds.core.DatasetInfo(
            builder=self,
            description=f"""
            Generated, from the seed {SEED}, by the formulas of Chen et al. 2018, section 5.1 and their code: half
            of the paths follow a spiral that opens, (0.3 a cos a + 5, 0.3 a sin a), half one that closes, of radius
            15 / c at the angle c = 6 pi + 1 - a, about (-5, 0), each from an angle a of its own. {self.LENGTH // 4} to
            {self.LENGTH} `values` are seen at irregular `times` of the first 0.6 pi, with noise of standard deviation
            {self.NOISE}; what is left of the row is padding, where `mask` is False. To be told are the places at
            {self.QUERIES} `query_times` of the first 1.2 pi, half of them after the last time that could be seen:
            `noisy_targets` with noise of the same size, `targets` without. License: {LICENCE}.
            """,
            features=tfds.features.FeaturesDict(
                {
                    "values": tensor(self.LENGTH, 2),
                    "mask": tensor(self.LENGTH, 2, dtype=np.bool_),
                    "times": tensor(self.LENGTH, doc="Radians, from the beginning of the path."),
                    "query_times": tensor(self.QUERIES),
                    "noisy_targets": tensor(self.QUERIES, 2),
                    "targets": tensor(self.QUERIES, 2),
                }
            ),
            homepage="https://arxiv.org/abs/1806.07366",
            license=LICENCE,
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self.EXAMPLES}

    def _generate_examples(self, split):
        random = np.random.RandomState([SEED, STREAMS[split]])
        for i in range(self.EXAMPLES[split]):
            # As in the authors' code, no path begins in the first or ends in the last tenth of its spiral.
            start = random.uniform(self.SPAN, self.TURN - 3 * self.SPAN)
            seen = random.randint(self.LENGTH // 4, self.LENGTH + 1)
            times = np.zeros(self.LENGTH)
            times[:seen] = np.sort(random.uniform(0, self.SPAN, seen))
            halves = [random.uniform(low, low + self.SPAN, self.QUERIES // 2) for low in (0, self.SPAN)]
            queries = np.sort(np.concatenate(halves))
            values, targets = (spiral(start + t, closing=i % 2) for t in (times, queries))
            noise = random.normal(0, self.NOISE, (2, self.LENGTH, 2))
            mask = np.repeat(np.arange(self.LENGTH)[:, None] < seen, 2, axis=1)
            yield (
                i,
                {
                    "values": np.where(mask, values + noise[0], 0).astype(np.float32),
                    "mask": mask,
                    "times": times.astype(np.float32),
                    "query_times": queries.astype(np.float32),
                    "noisy_targets": (targets + noise[1]).astype(np.float32),
                    "targets": targets.astype(np.float32),
                },
            )


def spiral(angles, closing):
    """Points `(n, 2)` on the opening or on the closing spiral at the angles `(n,)` in radians."""
    turned = Spirals.TURN + 1 - angles if closing else angles
    radius = 15 / turned if closing else 0.3 * angles
    return np.stack([radius * np.cos(turned) + (-5 if closing else 5), radius * np.sin(turned)], -1)
