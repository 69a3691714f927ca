"""How a diffusion model with discrete steps samples: its settings, its noise, the walk, and images between images."""

import math

import keras
import numpy as np
import tensorflow as tf

from keras_dl.arguments import NumberIn, OneOf
from keras_dl.checks import check_size
from keras_dl.diffusion.ancestral import ddim_steps, posterior_steps, take_steps
from keras_dl.diffusion.walking import seeded_noise
from keras_dl.models.upkeep import traced

SAMPLERS = ("ddim", "ancestral")


class DiscreteSampling:
    """A mixin of diffusion models whose `process` is a `keras_dl.diffusion.Betas`.

    The attributes `sampler`, `sampling_steps`, `eta`, `guidance` and `variance` are arguments of the model's
    constructor. `_split` and `log_variance` are methods of the model.
    """

    def _sampled(self, start, noise, labels, num_steps, sampler, eta, guidance, **options):
        """The sampler's walk, from noise to data in [-1, 1]."""
        process = self.process
        if num_steps != process.size:
            process = process.respaced(num_steps)
        if sampler == "ddim":
            steps = ddim_steps(process, eta)
        else:
            steps = posterior_steps(process, "fixed_small" if self.variance == "learned" else self.variance)
        learned = self.variance == "learned" and sampler == "ancestral"

        def predict(x, i):
            t = tf.gather(tf.constant(process.places, "int32"), i)
            prediction, share = self._split(self.guided(x, t, labels, guidance))
            data = process.convert(prediction, x, i, self.predicts, "data")
            data = tf.clip_by_value(data, -1.0, 1.0)
            return (data, tf.exp(self.log_variance(process, i, share, x))) if learned else data

        return take_steps(predict, start, noise, process, steps, **options)

    def _settings(self, num_steps=None, sampler=None, eta=None, guidance=None):
        """The numbers of a sampler, checked; None is the model's own."""
        num_steps = self.sampling_steps if num_steps is None else check_size("num_steps", num_steps)
        if num_steps > self.process.size:
            raise ValueError(f"num_steps={num_steps} is more than the {self.process.size} steps that were trained.")
        settings = dict(num_steps=num_steps, sampler=sampler, eta=eta, guidance=guidance)
        for name, allowed in (("sampler", OneOf(*SAMPLERS)), ("eta", NumberIn(0, 1)), ("guidance", NumberIn(0))):
            if settings[name] is None:
                settings[name] = getattr(self, name)
            (check,) = allowed.__metadata__
            settings[name] = check(name, settings[name])
        return settings

    def num_draws(self, num_steps=None, sampler=None, eta=None) -> int:
        """Draws of noise that a sampler takes for each image: one to start with, and one for each step that draws."""
        settings = self._settings(num_steps, sampler, eta)
        draws = settings["sampler"] == "ancestral" or settings["eta"] > 0
        return settings["num_steps"] if draws else 1

    def draw_chains(self, count: int, seed=None, **settings):
        """All the noise that `sample` and its file take: float32, `(count, num_draws(), size of an image)`.

        Args:
            count: int. Number of images.
            seed: int or `keras.random.SeedGenerator`; None for the model's own.
            settings: of the sampler, as of `num_draws`.
        """
        noise = self.draw_noise(count, self.num_draws(**settings), seed)
        return tf.reshape(noise, (count, -1, math.prod(self.data_shape)))

    def sample(
        self, num_images=None, labels=None, *, noise=None, num_steps=None, sampler=None, eta=None, guidance=None,
        seed=None, num_kept=0,
    ):  # fmt: skip
        """Images of noise, by the moving average of the weights: float32, in [0, 255].

        Args:
            num_images: int. Not needed if `noise` is given.
            labels: int, `(num_images,)`, or None: of any class.
            noise: float, `(num_images, num_draws(), size)`, as `draw_chains` makes it: what each image starts from, and
                then the draws of its steps. None draws it, step by step.
            num_steps, sampler, eta, guidance: as of the constructor; None for the model's own.
            seed: int or `keras.random.SeedGenerator`, for noise that is drawn; None for the model's own.
            num_kept: int. With 2 or more, the result has so many states of the walk, spread evenly from noise to image:
                `(num_kept, num_images, *image_shape)`.

        Raises:
            ValueError: if an argument is out of its range, the noise has another shape, or the labels are of another
                number or no classes.
        """
        settings = self._settings(num_steps, sampler, eta, guidance)
        draws = self.num_draws(num_steps, sampler, eta)
        if noise is None:
            count = check_size("num_images", num_images)
            generator = seed if isinstance(seed, keras.random.SeedGenerator) else self.seed_generator
            if isinstance(seed, int):
                generator = keras.random.SeedGenerator(seed)
            start, drawn = self.draw_noise(count, seed=generator), tf.cast(generator.next(), "int32")
        else:
            drawn = tf.convert_to_tensor(np.asarray(noise, "float32"))
            wanted = (num_images or "num_images", draws, math.prod(self.data_shape))
            if drawn.shape.rank != 3 or tuple(drawn.shape[1:]) != wanted[1:] or num_images not in (None, len(drawn)):
                raise ValueError(f"noise has the shape {tuple(drawn.shape)}; these settings take {wanted}.")
            start = self._start(drawn)

        def run(start, drawn, labels):
            step_noise = None
            if draws > 1:
                step_noise = self._draws(drawn) if drawn.shape.rank == 3 else seeded_noise(tf.shape(start), drawn)
            found = self._sampled(start, step_noise, labels, num_kept=num_kept, **settings)
            return self.from_inner(found[1] if num_kept else found)

        labels = None if labels is None else tf.convert_to_tensor(self._checked_labels(labels, len(start)))
        key = ("sample", *settings.values(), num_kept, labels is None, noise is None)
        return traced(self, key, run)(start, drawn, labels)

    def _checked_labels(self, labels, count):
        labels = np.asarray(labels, "int32")
        if labels.shape != (count,):
            raise ValueError(f"labels has the shape {labels.shape}; {count} images take {(count,)}.")
        if self.num_classes is not None:
            self.check_labels(labels.min(), labels.max())
        return labels

    def _start(self, chains):
        """What each image starts from."""
        return tf.reshape(tf.gather(chains, 0, axis=1), (-1, *self.data_shape))

    def _draws(self, chains):
        """The noise of each step. The last step draws nothing: any noise does."""
        last = chains.shape[1] - 1
        return lambda i: tf.reshape(tf.gather(chains, tf.minimum(i + 1, last), axis=1), (-1, *self.data_shape))

    def interpolate(self, first, second, num_images: int = 9, time: int | None = None, seed: int = 0):
        """Images between two images: both are made noisy up to some time with the same noise, mixed, and denoised.

        Args:
            first, second: `image_shape`, in [0, 255].
            num_images: int, at least 2. The ends are denoised, too.
            time: int. None for half of the process. The later, the less is left of the images.
            seed: int.

        Returns:
            float32, `(num_images, *image_shape)`, in [0, 255].
        """
        check_size("num_images", num_images, 2)
        time = self.process.size // 2 if time is None else time
        if not 0 <= time < self.process.size:
            raise ValueError(f"time={time!r} must be from 0 to {self.process.size - 1}.")

        def run(images, shares):
            times = tf.fill([2], time)
            noise = tf.repeat(self.draw_noise(1, seed=seed), 2, axis=0)
            ends = self.q_sample(images, times, noise)  # (2, height, width, channels)
            start = (1.0 - shares) * ends[:1] + shares * ends[1:]
            draws = seeded_noise((1, *self.data_shape), seed + 1)  # the same for all
            settings = self._settings(self.process.size, "ancestral", guidance=0.0) | {"first": time}
            return self.from_inner(self._sampled(start, draws, None, **settings))

        shares = tf.reshape(tf.linspace(0.0, 1.0, num_images), (-1, 1, 1, 1))
        images = tf.stack([tf.cast(image, "float32") for image in (first, second)])
        return traced(self, ("interpolate", time, seed), run)(images, shares)
