"""Generators of data from noise: one generator, one discriminator, and how they are trained, used and served."""

import math

import keras
from keras import ops

from keras_dl.models.generative.adversarial import AdversarialModel, discriminator_objective, generator_objective
from keras_dl.models.upkeep import BatchRange, FirstBatch, check_finite, check_pixels
from keras_dl.signatures import Signature

NOISES = ("normal", "uniform")


class NoiseToData(FirstBatch, AdversarialModel):
    """A model with a `generator` from noise, and a `discriminator` from data to one logit `(batch,)`.

    A subclass builds the nets and hands them to `_hold`. The attributes `noise_dim`, `noise`, `objective` and
    `averaging` are arguments of its constructor, and `pixels` says whether its data are pixels in [0, 255].
    """

    figures = ("real_logit", "fake_logit")
    min_batch = 1
    output_name = "images"

    def _hold(self, make_generator, discriminator, averaging, seed):
        """Keeps the nets. `make_generator` is called again for the moving average, if there is one."""
        self.generator = make_generator("generator")
        self.discriminator = discriminator
        self.average = None
        if averaging:
            self.average = make_generator("average")
            self.average.trainable = False
            self.average.set_weights(self.generator.get_weights())
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.batch_range = BatchRange()
        self.built = True

    @property
    def generators(self):
        return [self.generator]

    @property
    def discriminators(self):
        return [self.discriminator]

    @property
    def averages(self):
        return [(self.generator, self.average)] if self.average else []

    def draw_noise(self, count, seed=None):
        """Noise of mean 0 and variance 1: float32, `(count, noise_dim)`.

        Args:
            count: int.
            seed: int or `keras.random.SeedGenerator`; None for the model's own.
        """
        seed = self.seed_generator if seed is None else seed
        if self.noise == "normal":
            return keras.random.normal((count, self.noise_dim), seed=seed, dtype="float32")
        limit = math.sqrt(3.0)
        return keras.random.uniform((count, self.noise_dim), -limit, limit, seed=seed, dtype="float32")

    def call(self, noise, training=False):
        net = self.generator if training or self.average is None else self.average
        return net(noise, training=training)

    def compute_output_shape(self, noise_shape):
        return (noise_shape[0], *self.generator.output_shape[1:])

    def compute_output_spec(self, noise, training=False):
        return keras.KerasTensor(self.compute_output_shape(noise.shape), "float32")

    def generate(self, noise):
        """Data of noise, in inference mode, so that no row depends on the others in its batch.

        With `averaging`, by the moving average of the weights.

        Args:
            noise: float, `(batch, noise_dim)`, as `draw_noise` makes it.

        Returns:
            float32, `(batch, ...)`, as the data that the model was trained on.

        Raises:
            ValueError: if the noise has another shape.
        """
        shape = tuple(ops.shape(noise))
        if len(shape) != 2 or shape[1] != self.noise_dim:
            raise ValueError(f"noise has the shape {shape}; it must be (batch, {self.noise_dim}).")
        return self(noise, training=False)

    def judge(self, data, training=False):
        """The discriminator's logits, `(batch,)`."""
        return self.discriminator(data, training=training)

    def discriminator_loss(self, data, made):
        fake = ops.stop_gradient(self.generator(self.draw_noise(ops.shape(data)[0]), training=True))
        # In batches of their own: the statistics of a joint batch would tell which is which.
        real_logits = self.judge(data, training=True)
        fake_logits = self.judge(fake, training=True)
        loss = discriminator_objective(self.objective, real_logits, fake_logits)
        return loss, {"real_logit": ops.mean(real_logits), "fake_logit": ops.mean(fake_logits)}

    def generator_loss(self, data, made):
        fake = self.generator(self.draw_noise(ops.shape(data)[0]), training=True)
        return generator_objective(self.objective, self.judge(fake, training=True)), {}

    def train_step(self, data):
        self.batch_range.update_state(keras.utils.unpack_x_y_sample_weight(data)[0])
        return super().train_step(data)

    def test_step(self, data):
        """Both losses in inference mode, on the same noise each time.

        The moving statistics of the discriminator are of real and of generated batches by turns. So its losses here
        jump from epoch to epoch.
        """
        data, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        fake = self(self.draw_noise(ops.shape(data)[0], seed=0), training=False)
        real_logits, fake_logits = (self.judge(x) for x in (data, fake))
        self.trackers["real_logit"].update_state(real_logits)
        self.trackers["fake_logit"].update_state(fake_logits)
        discriminator = discriminator_objective(self.objective, real_logits, fake_logits)
        return self._logged(
            dict(discriminator=discriminator, generator=generator_objective(self.objective, fake_logits))
        )

    def _check_batch(self, lowest, highest, rows):
        if rows < self.min_batch:
            raise ValueError(
                f"a batch of {int(rows)} is too small: batch normalization needs at least {self.min_batch} examples, "
                "or each would be its own mean. Give batch_size=64, and drop what does not fill a batch."
            )
        check_finite(lowest, highest)
        if self.pixels:
            check_pixels(self, lowest, highest)

    def serving_signatures(self, batch_size: int = 1) -> dict[str, Signature]:
        """The entry point of a device: dict of one `Signature`.

        `generate(noise: float32, (batch_size, noise_dim))` returns `{"images": float32, (batch_size, *image_shape), in
        [0, 255]}`, or `"samples"` where the data are no pixels. The device draws the noise, so that equal noise gives
        equal images everywhere.
        """
        noise = keras.KerasTensor((batch_size, self.noise_dim), "float32", name="noise")
        return {"generate": Signature(lambda noise: {self.output_name: self(noise, training=False)}, {"noise": noise})}
