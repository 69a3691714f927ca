"""What models of scores at noise levels share: the weighted loss, and samples by annealed Langevin dynamics.

    L = E_i E_x E_z 1/2 sigma_i^2 |s(x + sigma_i z, i) + z / sigma_i|^2 = E 1/2 |sigma_i s + z|^2

The factor sigma_i^2 makes the levels weigh about the same. Written in the second way, nothing is divided by a small
sigma. `s(x, i)` is best where it is the gradient of the log-density of the noisy data.

References: Song, Ermon 2019, arXiv:1907.05600, eq. 5 and 6; Vincent 2011, "A Connection Between Score Matching and
Denoising Autoencoders", for the target.
"""

import math

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_dl.base import Layer
from keras_dl.checks import check_size
from keras_dl.compat import is_eager
from keras_dl.diffusion import along, annealed_langevin, choose_step_size
from keras_dl.models.generative.diffusion_model import DiffusionModel, broadcast_mask
from keras_dl.models.upkeep import traced
from keras_dl.signatures import Signature


@keras.saving.register_keras_serializable(package="keras_dl")
class TimesLevel(Layer):
    """Data times a number of their level, in float32 under any policy.

    Args:
        factors: sequence of float: the number of each level.

    Call arguments:
        data: float, `(batch, ...)`.
        level: int32, `(batch,)`.

    Returns:
        float32, the shape of `data`.
    """

    def __init__(self, factors, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.factors = tuple(float(x) for x in factors)

    def get_config(self):
        return {"name": self.name, "trainable": self.trainable, "factors": self.factors}

    def call(self, data, level):
        return tf.cast(data, "float32") * along(tf.gather(tf.constant(self.factors, "float32"), level), data)

    def compute_output_spec(self, data, level):
        return keras.KerasTensor(data.shape, "float32")


class LangevinModel(DiffusionModel):
    """A model of the score of noisy data, `s(x, i)`, that samples by annealed Langevin dynamics.

    A subclass's constructor builds the network and hands it to `_hold`. Its arguments `process`, `step_size`,
    `steps_per_level`, `denoise` and `averaging` are attributes. The network takes the paper's number of a level, int32,
    as `"times"`.

    Attributes:
        center: float. The chains begin at this value with the first level's noise.
    """

    predicts = "score"
    center = 0.5

    def _hold(self, make_network, averaging, seed):
        super()._hold(make_network, averaging, seed)
        if self.step_size is None:
            self._step_size = choose_step_size(self.process, self.steps_per_level)

    @property
    def num_draws(self) -> int:
        """How often a chain draws noise: at its start and at each step."""
        return 1 + self.process.size * self.steps_per_level

    def example_losses(self, prediction, inputs, targets):
        _, sigma = self.process.coefficients(inputs["times"], prediction)
        error = sigma * prediction + targets["noise"]
        return 0.5 * ops.sum(ops.square(error), axis=list(range(1, len(error.shape))))

    def score(self, data, level):
        """The score of noisy data, by the moving average of the weights.

        Args:
            data: float, `(batch, ...)`: noisy data, of pixels divided by 255.
            level: int, `(batch,)`: the paper's number of the level, from 0 for the most noise.

        Returns:
            float32, the shape of `data`.

        Raises:
            ValueError: if a level is known and there is no such level, or the data have another shape.
        """
        level = tf.cast(level, "int32")
        last = self.process.size - 1
        if is_eager(level) and not (int(tf.reduce_min(level)) >= 0 and int(tf.reduce_max(level)) <= last):
            lowest, highest = int(tf.reduce_min(level)), int(tf.reduce_max(level))
            raise ValueError(f"level has values from {lowest} to {highest}; it must be from 0 to {last}.")
        return self({self.data_name: data, "times": last - level}, training=False)

    # Samples.

    def draw_chains(self, count, seed=None):
        """All noise of some chains: float32, `(count, num_draws, numbers of an example)`, standard normal.

        Args:
            count: int.
            seed: int or `keras.random.SeedGenerator`; None for the model's own.
        """
        shape = (count, self.num_draws, math.prod(self.data_shape))
        return keras.random.normal(shape, seed=self.seed_generator if seed is None else seed, dtype="float32")

    def _chain(self, first, noise, **options):
        step_size = self.step_size if self.step_size is not None else self._step_size
        return annealed_langevin(
            lambda x, t: self({self.data_name: x, "times": t}, training=False),
            self.center + float(self.process.sigmas[0]) * first,
            noise,
            self.process,
            step_size,
            self.steps_per_level,
            denoise=self.denoise,
            **options,
        )

    def sample(self, num_samples=None, *, noise=None, seed=None, num_kept=0):
        """Data of the model: float32, `(num_samples, ...)`, as the data that it was trained on.

        Args:
            num_samples: int. Not needed if `noise` is given.
            noise: float, as of `draw_chains`: equal noise gives equal data, here and in a file. None draws it, step by
                step, so that not all of it is in memory.
            seed: int or `keras.random.SeedGenerator`, for noise that is drawn; None for the model's own.
            num_kept: int. With 2 or more, the result has so many states of the walk, spread evenly from noise to data:
                `(num_kept, num_samples, ...)`.

        Raises:
            ValueError: if `num_samples` is not positive, the noise has another shape, or `num_kept` is 1 or more than
                there are states.
        """
        if noise is not None:
            noise = tf.convert_to_tensor(np.asarray(noise, "float32"))
            return traced(self, ("noise", num_kept), lambda noise: self._of_noise(noise, num_kept))(noise)
        count = check_size("num_samples", num_samples)
        shape = (count, *self.data_shape)

        def run(key):
            return self._finished(self._chain(*_drawn(shape, key), num_kept=num_kept))

        return traced(self, ("seed", count, num_kept), run)(self._key(seed))

    def _of_noise(self, noise, num_kept=0):
        size = math.prod(self.data_shape)
        if len(noise.shape) != 3 or noise.shape[1:] != (self.num_draws, size):
            raise ValueError(f"noise has the shape {tuple(noise.shape)}; it must be (batch, {self.num_draws}, {size}).")

        def draw(i):
            return tf.reshape(tf.gather(noise, i, axis=1), (noise.shape[0], *self.data_shape))

        return self._finished(self._chain(draw(0), lambda i: draw(i + 1), num_kept=num_kept))

    def _finished(self, found):
        """What `annealed_langevin` returned, in the data's range: samples, or the states of the walk up to them."""
        if isinstance(found, tuple):
            samples, path = found
            found = tf.concat([path[:-1], tf.expand_dims(samples, 0)], 0)
        return self.from_inner(found)

    def inpaint(self, data, is_known, seed=None):
        """The data with new values where they are not known.

        Args:
            data: `(batch, ...)`, as the data that the model was trained on. Values that are not known do not matter.
            is_known: bool, in a shape that broadcasts to that of the data.
            seed: int or `keras.random.SeedGenerator`; None for the model's own.

        Returns:
            float32, `(batch, ...)`: what is known is as it was.

        Raises:
            ValueError: if the data have another shape, or the mask does not fit it.
        """
        data, is_known = tf.cast(tf.convert_to_tensor(data), "float32"), tf.cast(is_known, "bool")
        is_known, shape = broadcast_mask("is_known", is_known, data, self.data_shape), tuple(data.shape)

        def run(key, known, is_known):
            _, other = _drawn(shape, tf.random.experimental.stateless_fold_in(key, -2))
            return self._chain(*_drawn(shape, key), known=known, is_known=is_known, known_noise=other)

        found = traced(self, ("inpaint", shape), run)(self._key(seed), self.to_inner(data), is_known)
        return tf.where(is_known, data, self.from_inner(found))

    def _key(self, seed):
        seed = self.seed_generator if seed is None else seed
        key = seed.next() if isinstance(seed, keras.random.SeedGenerator) else (seed, 0)
        return tf.cast(tf.convert_to_tensor(key), "int32")

    def serving_signatures(self, batch_size: int = 1) -> dict[str, Signature]:
        """The entry points of a device: dict of two `Signature`.

        `score(images: float32, (batch_size, ...), level: int32, (batch_size,))` returns `{"scores": ...}`, as the
        method does.

        `sample(noise: float32, (batch_size, num_draws, numbers of an example))` returns `{"images": ...}`, pixels in
        [0, 255]: the whole chain, in one loop. The device draws the noise, so that equal noise gives equal images.
        """
        size = math.prod(self.data_shape)
        data = keras.KerasTensor((batch_size, *self.data_shape), "float32", name=self.data_name)
        level = keras.KerasTensor((batch_size,), "int32", name="level")
        noise = keras.KerasTensor((batch_size, self.num_draws, size), "float32", name="noise")
        network = self.network if self.average is None else self.average

        def score(**inputs):
            return {"scores": network({self.data_name: inputs[self.data_name], "times": inputs["level"]})}

        return {
            "score": Signature(score, {self.data_name: data, "level": level}),
            "sample": Signature(lambda noise: {self.data_name: self._of_noise(noise)}, {"noise": noise}),
        }


def _drawn(shape, key):
    """Normal noise of a chain by a key: that of its start, and a function of the number of a step."""

    def draw(i):
        return tf.random.stateless_normal(shape, tf.random.experimental.stateless_fold_in(key, i))

    return draw(-1), draw
