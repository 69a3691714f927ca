"""Variational autoencoders of images, trained on the ELBO or on the importance-weighted bound.

    ELBO = E_q(z|x)[log p(x|z)] - beta KL(q(z|x) || p(z)),   q = N(mean, exp(log_variance))
    L_k = E log 1/k sum_i p(x|z_i) p(z_i) / q(z_i|x),   z_i ~ q(z|x)                        importance-weighted

`ELBO = L_1 <= L_k <= log p(x)`: the bound tightens as k grows. Likelihoods are summed over pixels, so that the bound
is in nats per image, as the literature reports it. A mean over pixels would weigh the KL 784 times on MNIST.

References: Kingma, Welling 2013, "Auto-Encoding Variational Bayes", arXiv:1312.6114, eq. 3 and appendices B and C;
Higgins et al. 2017, "beta-VAE"; Burda, Grosse, Salakhutdinov 2015, "Importance Weighted Autoencoders",
arXiv:1509.00519, eq. 8.

Deviations from the papers:
- The Gaussian likelihood has one learned variance for all pixels, where Kingma's appendix C.2 has one per pixel: the
  density of a pixel that is always black would have no bound.
- Kernels start at Glorot's uniform distribution and biases at 0, as in Burda et al. Kingma and Welling draw all
  parameters from N(0, 0.01).
- The importance-weighted bound takes beta too: it weighs `log p(z) - log q(z|x)` in every weight. 1 is the paper's.
"""

import math

import keras
from keras import layers, ops

from keras_dl.arguments import ActivationName, ImageShape, NumberIn, OneOf, Size, arguments
from keras_dl.base import Layer
from keras_dl.checks import check_size
from keras_dl.models.generative.image_codec import ImageCodec, Widths, check_halvings, encoder, mirrored
from keras_dl.signatures import Signature


@keras.saving.register_keras_serializable(package="keras_dl")
class SharedLogVariance(Layer):
    """One learned log-variance for all pixels, in the shape of its input, float32.

    Call arguments:
        mean: float, any shape.

    Returns:
        float32, the shape of `mean`. It starts at -4.6: a standard deviation of 0.1.
    """

    def build(self, mean_shape):
        start = keras.initializers.Constant(2 * math.log(0.1))
        self.log_variance = self.add_weight(shape=(), initializer=start, name="log_variance")

    def call(self, mean):
        return ops.zeros_like(mean, dtype="float32") + ops.cast(self.log_variance, "float32")

    def compute_output_spec(self, mean):
        return keras.KerasTensor(mean.shape, "float32")


PRESETS = {
    # Section 5 and fig. 2: one hidden layer of 500 tanh units for MNIST, here with 20 latents; 815,824 parameters.
    "kingma2013_mnist": dict(image_shape=(28, 28, 1), latent_dim=20, hidden_dims=(500,), activation="tanh"),
    # Section 5 of Burda 2015, one stochastic layer: 425,284 parameters. Its table 1 has test nats of
    # 86.76 (k = 1), and for the ELBO 86.47 (k = 5), 86.35 (k = 50).
    "burda2015_vae": dict(image_shape=(28, 28, 1), latent_dim=50, hidden_dims=(200, 200), activation="tanh"),
    # The same network by the importance-weighted bound: 85.54 (k = 5), 84.78 (k = 50).
    "burda2015_iwae": dict(
        image_shape=(28, 28, 1), latent_dim=50, hidden_dims=(200, 200), activation="tanh", bound="iwae", num_samples=50
    ),
}


@keras.saving.register_keras_serializable(package="keras_dl")
class VAE(ImageCodec):
    """Variational autoencoder of images, trained on the ELBO or on the importance-weighted bound.

    Compile it with an optimizer and no loss: its own loss is the negative bound in nats per image. Random draws are
    made in the loss, not in `call`, so that `call` is one function of its inputs in training and in inference.

    Args:
        image_shape: `(height, width, channels)`.
        latent_dim: int. Size of `z`.
        hidden_dims: sequence of int. Dense layers of the encoder; the decoder has them in reverse.
        filters: sequence of int. Channels of the 3x3 convolutions of stride 2 before them; none makes a dense
            network. Both sides must be multiples of `2 ** len(filters)`. The decoder has transposed ones in reverse.
        activation: str. Of all hidden layers, by its name in Keras.
        likelihood: "bernoulli", for pixels that are 0 or 255 (for values in between, the loss is a cross-entropy and
            not a likelihood), or "gaussian", for pixels divided by 255, with one learned variance.
        bound: "elbo", with the KL in closed form, averaged over `num_samples`; or "iwae", L_k of `num_samples`.
        num_samples: int, k. Draws of `z` per image.
        beta: float, at least 0. Weight of the KL.
        seed: int or None. Of the draws.

    Call arguments:
        images: `(batch, height, width, channels)`, raw pixels in [0, 255].

    Returns:
        dict of float32: `"log_variance"` and `"mean"` of `q(z|x)`, each `(batch, latent_dim)`, and
        `"reconstruction"`, the shape of `images`: the pixels in [0, 1] expected at `z = mean`.

    Raises:
        ValueError: if an argument is out of its range; the message has its name and value.

    Example:

    >>> model = VAE.from_preset("burda2015_vae")
    >>> model.count_params()
    425284
    >>> model.prior().event_shape
    TensorShape([50])
    """

    presets = PRESETS
    has_own_loss = True

    @arguments
    def __init__(
        self,
        image_shape: ImageShape = (28, 28, 1),
        latent_dim: Size = 20,
        hidden_dims: Widths = (500,),
        filters: Widths = (),
        activation: ActivationName = "tanh",
        likelihood: OneOf("bernoulli", "gaussian") = "bernoulli",
        bound: OneOf("elbo", "iwae") = "elbo",
        num_samples: Size = 1,
        beta: NumberIn(0) = 1.0,
        seed: int | None = None,
        dtype=None,
        **kwargs,
    ):
        check_halvings(image_shape, filters)
        network = (image_shape, filters, hidden_dims, latent_dim, activation)

        images = keras.Input(image_shape, name="images")
        posterior = encoder(*network, heads=("log_variance", "mean"))(images)  # each (batch, latent_dim)
        inputs, logits = mirrored(*network)
        parameters = {"logits": logits}
        if likelihood == "gaussian":
            mean = layers.Activation("sigmoid", dtype="float32", name="mean")(logits)
            parameters = {"log_variance": SharedLogVariance(dtype="float32", name="pixel_variance")(mean), "mean": mean}
        parameters = keras.Model(inputs, parameters, name="decoder")(posterior["mean"])
        # (batch, height, width, channels)
        pixels = parameters["mean"] if likelihood == "gaussian" else ops.sigmoid(parameters["logits"])
        super().__init__(inputs=images, outputs={**posterior, "reconstruction": pixels}, **kwargs)

        self.seed_generator = keras.random.SeedGenerator(seed)
        self.distortion = keras.metrics.Mean(name="distortion")
        self.rate = keras.metrics.Mean(name="rate")

    def posterior(self, images):
        """`q(z|x)`: a `tfp.distributions.Distribution` of batch `(batch,)` and event `(latent_dim,)`.

        Args:
            images: `(batch, height, width, channels)`, in [0, 255].
        """
        parameters = self.encoder(images)
        return _diagonal_normal(parameters["mean"], parameters["log_variance"], 1)

    def prior(self):
        """`p(z)`, standard normal: a `tfp.distributions.Distribution` of event `(latent_dim,)`."""
        return _diagonal_normal(ops.zeros((self.latent_dim,)), ops.zeros((self.latent_dim,)), 1)

    def pixels(self, latents):
        """`p(x|z)`: a `tfp.distributions.Distribution` of pixels in [0, 1], of event `image_shape`.

        Args:
            latents: float, `(..., latent_dim)`. The axes before the last one are the distribution's batch.
        """
        tfd = _distributions()
        batch = ops.shape(latents)[:-1]
        parameters = self.decoder(ops.reshape(latents, (-1, self.latent_dim)))  # (n, *image_shape), n of all axes
        parameters = {name: ops.reshape(x, (*batch, *self.image_shape)) for name, x in parameters.items()}
        if self.likelihood == "gaussian":
            return _diagonal_normal(parameters["mean"], parameters["log_variance"], 3)
        return tfd.Independent(tfd.Bernoulli(logits=parameters["logits"], dtype="float32"), 3)

    def log_weights(self, images, num_samples: int, seed=None):
        """`log p(x|z_i) + log p(z_i) - log q(z_i|x)` of draws from `q(z|x)`, in nats.

        Args:
            images: `(batch, height, width, channels)`, in [0, 255].
            num_samples: int, k.
            seed: int or `keras.random.SeedGenerator`; None for the model's own.

        Returns:
            float32, `(num_samples, batch)`. `importance_weighted_bound` makes L_k of it.
        """
        likelihood, log_ratio = self._draw(images, images, num_samples, seed)
        return likelihood - log_ratio

    def _draw(self, images, targets, num_samples, seed=None):
        """`log p(x|z_i)` and `log q(z_i|x) - log p(z_i)` of draws from `q(z|x)`, each `(k, batch)`."""
        q, prior = self.encoder(images), self.prior()
        shape = (num_samples, *ops.shape(q["mean"]))
        noise = keras.random.normal(shape, seed=seed if seed is not None else self.seed_generator)
        latents = q["mean"] + ops.exp(0.5 * q["log_variance"]) * noise  # (k, batch, latent_dim)
        # Of the noise, not of z: (z - mean) / std has no digits left where the posterior is narrow.
        log_posterior = prior.log_prob(noise) - 0.5 * ops.sum(q["log_variance"], axis=-1)  # (k, batch)
        likelihood = self.pixels(latents).log_prob(ops.cast(targets, "float32") / 255.0)  # (k, batch)
        return likelihood, log_posterior - prior.log_prob(latents)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The negative bound in nats, averaged over images. `y` are the images to rebuild; `x` if it is None."""
        likelihood, log_ratio = self._draw(x, x if y is None else y, self.num_samples)
        if self.bound == "elbo":
            log_ratio = self.posterior(x).kl_divergence(self.prior())  # (batch,)
            bound = ops.mean(likelihood, axis=0) - self.beta * log_ratio  # (batch,)
        else:
            bound = importance_weighted_bound(likelihood - self.beta * log_ratio)  # (batch,)
        self.distortion.update_state(-likelihood)
        self.rate.update_state(log_ratio)
        if sample_weight is not None:
            bound = bound * ops.cast(sample_weight, bound.dtype)
        return -ops.mean(bound)

    def encode(self, images):
        return self.encoder(images)["mean"]

    def _unit_pixels(self, latents):
        parameters = self.decoder(latents)
        return parameters["mean"] if self.likelihood == "gaussian" else ops.sigmoid(parameters["logits"])

    def sample(self, num_images: int, seed=None):
        """Draws `z` from the prior: float32, `(num_images, *image_shape)`, the pixels expected from it, in [0, 255].

        Args:
            num_images: int, at least 1.
            seed: int or `keras.random.SeedGenerator`; None for the model's own.

        Raises:
            ValueError: if `num_images` is less than 1.
        """
        check_size("num_images", num_images)
        seed = seed if seed is not None else self.seed_generator
        return self.decode(keras.random.normal((num_images, self.latent_dim), seed=seed))

    def serving_signatures(self, batch_size: int = 1) -> dict[str, Signature]:
        """The entry points of a device: dict of `Signature`.

        `encode(images: uint8, (batch_size, *image_shape))` returns `mean` and `log_variance` of `q(z|x)`, float32,
        `(batch_size, latent_dim)`; `decode(latents)` returns `{"images": float32, (batch_size, *image_shape), in
        [0, 255]}`, the expected pixels; `sample(noise: float32, (batch_size, latent_dim))` makes an image of
        standard normal noise, which the device draws: LiteRT has no seeded generator among its builtin ops.
        """

        def sample(noise):
            return {"images": self.decode(noise)}  # the prior is standard normal: its noise is a draw of z

        noise = keras.KerasTensor((batch_size, self.latent_dim), "float32", name="noise")
        return self._signatures(batch_size, self.encoder) | {"sample": Signature(sample, {"noise": noise})}


def importance_weighted_bound(log_weights):
    """`L_k = log 1/k sum_i w_i`, in nats. With one sample it is a draw of the ELBO.

    Args:
        log_weights: float, `(k, ...)`.

    Returns:
        float, `(...)`.

    Example:

    >>> bound = importance_weighted_bound(keras.ops.log([[1.0], [3.0]]))[0]  # log((1 + 3) / 2)
    >>> round(float(bound), 4)
    0.6931
    """
    return ops.logsumexp(log_weights, axis=0) - math.log(log_weights.shape[0])


def _distributions():
    """`tensorflow_probability.distributions`. It takes seconds to import, so that it is imported where it is used."""
    from tensorflow_probability import distributions

    return distributions


def _diagonal_normal(mean, log_variance, event_dims):
    tfd = _distributions()
    return tfd.Independent(tfd.Normal(mean, ops.exp(0.5 * log_variance)), event_dims)
