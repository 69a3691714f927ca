"""What a score and an equation are good for: samples, inpainting, classes, latents and likelihoods.

The functions of `keras_dl.diffusion` on the moving average of a model, as graphs, and in the units of its data.

Reference: Song et al. 2021, arXiv:2011.13456, section 4 and 5, appendices D to I.
"""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_dl.checks import check_size
from keras_dl.diffusion import probability_flow as flow
from keras_dl.diffusion.predictor_corrector import draws_per_step, guided, predictor_corrector
from keras_dl.diffusion.walking import seeded_noise
from keras_dl.models.generative.diffusion_model import DiffusionModel, broadcast_mask
from keras_dl.models.upkeep import traced
from keras_dl.ops.odeint import Solver


class SDEModel(DiffusionModel):
    """A diffusion model whose `process` is a `keras_dl.diffusion.SDE`.

    The attributes `num_steps`, `predictor`, `corrector`, `snr`, `norms`, `flow_steps` and `tolerance` are arguments of
    the constructor of a subclass.
    """

    def score(self, x, t):
        """The score of the data with noise, by the moving average of the net: float32, the shape of `x`.

        Args:
            x: float, `(batch, *data_shape)`, in the scale of the process.
            t: float, `(batch,)`, in (0, 1].
        """
        return self.predict_as("score", x, t)

    # Samples.

    def sample(self, count: int, num_steps: int | None = None, *, guide: Callable | None = None, seed=None, num_kept=0):
        """Samples by predictor-corrector steps: as the data that `fit` took, `(count, *data_shape)`.

        Args:
            count: int.
            num_steps: int; None for the model's.
            guide: function of `(x, t)`, in the scale of the process, that returns `(batch,)`: the log-probability that
                what is wanted holds, as `class_guide` makes it. Its gradient is added to the score (eq. 14).
            seed: int or `keras.random.SeedGenerator`; None for the model's own.
            num_kept: int. With 2 or more, so many states from noise to data are returned, too.

        Returns:
            float32; with `num_kept`, a tuple of it and `(num_kept, count, *data_shape)`.
        """
        start, state = self._start(count, seed)
        num_steps = self._checked_steps(num_steps)

        def run(start, state):
            score = self.score if guide is None else guided(self.score, guide)
            noise = seeded_noise(self._draws(1, count), state)
            return self._walk(score, start, noise, num_steps, num_kept=num_kept)

        # A guide can hold anything: its graph is not kept.
        found = traced(self, ("sample", count, num_steps, num_kept), run) if guide is None else tf.function(run)
        found = found(start, state)
        return tuple(map(self.from_inner, found)) if num_kept else self.from_inner(found)

    def inpaint(self, data, keep, num_steps: int | None = None, *, seed=None):
        """Samples of what is missing in data (appendix I.2): float32, the shape of `data`.

        Args:
            data: float, `(batch, *data_shape)`, as `fit` takes them. Where they are missing, any number.
            keep: number or bool, of a shape that multiplies `data`: 1 where they are known.
            num_steps, seed: as of `sample`.

        Raises:
            ValueError: if the data have another shape, or the mask does not fit it.
        """
        data, keep = ops.cast(data, "float32"), broadcast_mask("keep", ops.cast(keep, "float32"), data, self.data_shape)
        count, num_steps = len(data), self._checked_steps(num_steps)
        known = self.to_inner(data)
        start, state = self._start(count, seed)

        def run(start, state, known, keep):
            noise = seeded_noise(self._draws(1, count, inpainting=True), state)
            return self._walk(self.score, start, noise, num_steps, known=known, keep=keep)

        found = self.from_inner(traced(self, ("inpaint", count, num_steps), run)(start, state, known, keep))
        return tf.where(keep > 0, data, found)

    def class_guide(self, classifier, labels) -> Callable:
        """The guide of `sample` to classes.

        Args:
            classifier: function, such as a Keras model, of the dict that this model takes, to logits. Train it on what
                `corrupt` makes of data, with their labels.
            labels: int, `(count,)`.
        """

        def log_prob(x, t):
            logits = ops.cast(classifier({self.data_name: x, "times": t}), "float32")
            return tf.gather(tf.nn.log_softmax(logits), labels, batch_dims=1)

        return log_prob

    def _checked_steps(self, num_steps):
        return self.num_steps if num_steps is None else check_size("num_steps", num_steps)

    def _start(self, count, seed):
        """The state of the walk at time 1, and two integers from which its noise is made."""
        check_size("count", count)
        given = keras.random.SeedGenerator(seed) if isinstance(seed, int) else seed
        generator = self.seed_generator if given is None else given
        start = self.draw_noise(count, seed=generator) * self.process.prior_std
        return start, tf.cast(tf.convert_to_tensor(generator.next()), "int32")

    def noise_rows(self) -> int:
        """Rows of noise that the exported sampler takes for each sample: one to start with, and those of its steps."""
        return 1 + self._draws(self.num_steps, 1)[0]

    def _draws(self, num_steps, count, inpainting=False):
        """The shape of the noise of so many steps."""
        draws = draws_per_step(self.predictor, self.corrector, inpainting=inpainting)
        return (num_steps * draws * count, *self.data_shape)

    def _walk(self, score, start, noise, num_steps, **others):
        return predictor_corrector(
            tf.function(score, autograph=False),  # one trace for predictor and corrector
            self.process,
            start,
            noise,
            num_steps,
            predictor=self.predictor,
            corrector=self.corrector,
            snr=self.snr,
            norms=self.norms,
            **others,
        )

    # The probability flow.

    def _solver(self, fixed=False):
        if fixed:
            return Solver("rk4", self.flow_steps)
        return Solver("dopri5", rtol=self.tolerance, atol=self.tolerance, max_num_steps=10_000)

    def encode(self, data):
        """The noise that belongs to data: float32, `(batch, *data_shape)`, of the scale of the process at time 1."""
        run = traced(self, ("encode",), lambda x: flow.encode(self.score, self.process, x, self._solver()))
        return run(self.to_inner(data))

    def decode(self, latents):
        """The data that belong to noise, as `fit` takes them: float32, `(batch, *data_shape)`.

        Of new noise, `decode(draw_noise(n) * process.prior_std)`, these are samples without further draws.
        """

        def run(latents):
            return flow.decode(self.score, self.process, latents, self._solver(), self.process.sampling_time)

        return self.from_inner(traced(self, ("decode",), run)(ops.cast(latents, "float32")))

    def interpolate(self, first, second, count: int = 8):
        """What lies between examples, by their noise (appendix D.3): float32, `(count, *shape of first)`.

        Args:
            first, second: float, `(batch, *data_shape)`, as `fit` takes them.
            count: int, at least 2. The first and the last are `first` and `second`, as the flow gives them back.
        """
        check_size("count", count, 2)
        ends = [self.encode(x) for x in (first, second)]
        return tf.stack([self.decode(flow.spherical(*ends, share)) for share in np.linspace(0.0, 1.0, count)])

    def _log_density(self, x, seed):
        """In the scale of the process."""

        def run(x, *signs):
            arguments = (self.score, self.process, x, self._solver(), *signs)
            return flow.log_likelihood(*arguments)[0]

        if seed is None:
            return traced(self, ("likelihood",), run)(x)
        return traced(self, ("estimate",), run)(x, flow.random_signs(ops.shape(x), seed))
