"""Autoencoders: a code from which the input can be rebuilt; plain, denoising, variational, importance-weighted.

    x' = decoder(encoder(x)),   loss |x' - x|^2                                             autoencoder
    x' = decoder(encoder(corrupt(x))), the same loss                                        denoising
    ELBO = E_q(z|x)[log p(x|z)] - beta KL(q(z|x) || p(z)),   q = N(mean, exp(log_variance))   variational
    L_k = E log 1/k sum_i p(x|z_i) p(z_i) / q(z_i|x),   z_i ~ q(z|x)                        importance-weighted

`ELBO = L_1 <= L_k <= log p(x)`: the bound tightens as k grows. Likelihoods are summed over pixels, so that the bound
is in nats an image, as the literature reports it; a mean over pixels would weigh the KL 784 times on MNIST.

References: Hinton, Salakhutdinov 2006, "Reducing the Dimensionality of Data with Neural Networks", Science 313;
Vincent et al. 2008, "Extracting and Composing Robust Features with Denoising Autoencoders";
Kingma, Welling 2013, "Auto-Encoding Variational Bayes", arXiv:1312.6114, eq. 3 and appendices B and C;
Higgins et al. 2017, "beta-VAE"; Burda, Grosse, Salakhutdinov 2015, "Importance Weighted Autoencoders",
arXiv:1509.00519, eq. 8.

Deviations from the papers:
- No layer-wise pre-training (Hinton 2006): what it was for, initialisation, Glorot's rule does.
- The Gaussian likelihood has one learned variance for all pixels, where Kingma's appendix C.2 has one a pixel: the
  density of a pixel that is always black would have no bound.
- The importance-weighted bound takes beta too: it weighs `log p(z) - log q(z|x)` in every weight. 1 is the paper's.
"""

import math

import keras
from keras import layers, ops

from keras_dl.base import FunctionalModel, Layer, Signature
from keras_dl.checks import check_choice, check_image_shape, check_size, check_sizes
from keras_dl.layers.pixels import PixelNormalization

CORRUPTIONS = ("none", "gaussian", "masking", "salt_and_pepper")
LIKELIHOODS = ("bernoulli", "gaussian")
BOUNDS = ("elbo", "iwae")


def corrupt(images, kind, level, seed):
    """Damages images as denoising autoencoders see them.

    Args:
        images: float, `(batch, height, width, channels)`, in [0, 255].
        kind: "gaussian" adds `N(0, (255 level)^2)`; "masking" sets a share `level` of the pixels to 0;
            "salt_and_pepper" sets a share `level` of them to 0 or 255, evenly; "none" does nothing.
        level: float in [0, 1].
        seed: int or `keras.random.SeedGenerator`.

    Returns:
        float, as `images`. Gaussian noise may leave [0, 255].
    """
    if kind == "none":
        return images
    shape = ops.shape(images)
    if kind == "gaussian":
        return images + 255.0 * level * keras.random.normal(shape, dtype=images.dtype, seed=seed)
    draw = keras.random.uniform(shape, dtype=images.dtype, seed=seed)
    damaged = ops.where(draw < level / 2, 255.0, 0.0) if kind == "salt_and_pepper" else ops.zeros_like(images)
    return ops.where(draw < level, ops.cast(damaged, images.dtype), images)


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


def _encoder(image_shape, filters, hidden_dims, latent_dim, activation, heads, dtype):
    """`images` in [0, 255] to one float32 `(batch, latent_dim)` for each of `heads`; a dict if there are several."""
    images = keras.Input(image_shape, name="images")
    x = PixelNormalization(0.0, 255.0, dtype=dtype, name="pixels")(images)
    for i, channels in enumerate(filters):
        x = layers.Conv2D(channels, 3, 2, "same", activation=activation, dtype=dtype, name=f"conv_{i}")(x)
    x = layers.Flatten(dtype=dtype, name="flatten")(x)
    for i, width in enumerate(hidden_dims):
        x = layers.Dense(width, activation=activation, dtype=dtype, name=f"dense_{i}")(x)
    outputs = {name: layers.Dense(latent_dim, dtype="float32", name=name)(x) for name in heads}
    return keras.Model(images, outputs if len(outputs) > 1 else next(iter(outputs.values())), name="encoder")


def _decoder(image_shape, filters, hidden_dims, latent_dim, activation, dtype):
    """The encoder's mirror: `latents` `(batch, latent_dim)` to float32 logits of pixels, as `(inputs, outputs)`."""
    height, width, channels = image_shape
    latents = x = keras.Input((latent_dim,), name="latents")
    for i, n in enumerate(reversed(hidden_dims)):
        x = layers.Dense(n, activation=activation, dtype=dtype, name=f"dense_{i}")(x)
    if not filters:
        x = layers.Dense(math.prod(image_shape), dtype="float32", name="logits")(x)
        return latents, layers.Reshape(image_shape, dtype="float32", name="image")(x)
    smallest = (height >> len(filters), width >> len(filters), filters[-1])
    x = layers.Dense(math.prod(smallest), activation=activation, dtype=dtype, name="maps")(x)
    x = layers.Reshape(smallest, dtype=dtype, name="image")(x)
    for i, n in enumerate(reversed(filters[:-1])):
        x = layers.Conv2DTranspose(n, 3, 2, "same", activation=activation, dtype=dtype, name=f"conv_{i}")(x)
    return latents, layers.Conv2DTranspose(channels, 3, 2, "same", dtype="float32", name="logits")(x)


def _check_network(image_shape, latent_dim, hidden_dims, filters):
    """The arguments that both models share, as they are kept."""
    image_shape = check_image_shape("image_shape", image_shape)
    latent_dim = check_size("latent_dim", latent_dim)
    hidden_dims = check_sizes("hidden_dims", hidden_dims, allow_empty=True)
    filters = check_sizes("filters", filters, allow_empty=True)
    stride = 2 ** len(filters)
    if any(side % stride for side in image_shape[:2]):
        raise ValueError(
            f"filters={filters} halves the sides of image_shape={image_shape} {len(filters)} times: "
            f"both must be multiples of {stride}."
        )
    return image_shape, latent_dim, hidden_dims, filters


class _ImageCodec(FunctionalModel):
    """What both models share: an encoder, a decoder, and how they are served."""

    @property
    def encoder(self):
        """`keras.Model` from images in [0, 255] to the code."""
        return self.get_layer("encoder")

    @property
    def decoder(self):
        """`keras.Model` from latents to what `decode` makes pixels of."""
        return self.get_layer("decoder")

    def encode(self, images):
        """The code of images: float32, `(batch, latent_dim)`. Of the variational model, the mean of `q(z|x)`.

        Args:
            images: `(batch, height, width, channels)`, in [0, 255].
        """
        raise NotImplementedError

    def decode(self, latents):
        """The pixels expected from latents: float32, `(batch, *image_shape)`, in [0, 255].

        Args:
            latents: float, `(batch, latent_dim)`.
        """
        return 255.0 * self._unit_pixels(latents)

    def _signatures(self, batch_size, encode):
        images = keras.KerasTensor((batch_size, *self.image_shape), "uint8", name="images")
        latents = keras.KerasTensor((batch_size, self.latent_dim), "float32", name="latents")
        return {
            "encode": Signature(lambda images: encode(ops.cast(images, "float32")), {"images": images}),
            "decode": Signature(lambda latents: {"images": self.decode(latents)}, {"latents": latents}),
        }


AUTOENCODER_PRESETS = {
    # The network for MNIST: 784-1000-500-250-30 and back, 2,837,314 parameters by these sizes.
    "hinton2006_mnist": dict(
        image_shape=(28, 28, 1), latent_dim=30, hidden_dims=(1000, 500, 250), activation="sigmoid"
    ),
    # 784-2000-784, the size of the paper's hidden layers for MNIST, with its masking noise: 3,138,784 parameters.
    "vincent2008_mnist": dict(
        image_shape=(28, 28, 1),
        latent_dim=2000,
        hidden_dims=(),
        activation="sigmoid",
        corruption="masking",
        corruption_level=0.25,
    ),
}


@keras.saving.register_keras_serializable(package="keras_dl")
class Autoencoder(_ImageCodec):
    """Dense or convolutional autoencoder of images; denoising, if told how its inputs are corrupted in training.

    `fit(images)` rebuilds its inputs, `fit(noisy, clean)` given targets, both in [0, 255]. Compile it with a loss
    of pixels in [0, 1], such as `"mse"`. With `corruption`, `fit` and `evaluate` corrupt what goes in and compare
    with what was clean; `predict` and what is served corrupt nothing.

    Args:
        image_shape: `(height, width, channels)`.
        latent_dim: int. Size of the code, which has no activation.
        hidden_dims: dense layers of the encoder; the decoder has them in reverse.
        filters: channels of the 3x3 convolutions of stride 2 before them; none makes a dense network. Both sides
            have to be multiples of `2 ** len(filters)`. The decoder has transposed ones in reverse.
        activation: str. Of all hidden layers, by its name in Keras.
        corruption: "none", "gaussian", "masking" or "salt_and_pepper": see `corrupt`.
        corruption_level: float in [0, 1]. Standard deviation of the noise over 255, or the share of pixels.
        seed: int or None. Of the corruption.

    Call arguments:
        images: `(batch, height, width, channels)`, raw pixels in [0, 255].

    Returns:
        float32, the shape of `images`: pixels in [0, 1].

    Raises:
        ValueError: if a size, the corruption or its level is none of the above; it says which and what it was.

    Example:

    >>> model = Autoencoder((28, 28, 1), latent_dim=16, filters=(8, 16), hidden_dims=())
    >>> model.encode(keras.ops.zeros((2, 28, 28, 1))).shape
    TensorShape([2, 16])
    """

    presets = AUTOENCODER_PRESETS

    def __init__(
        self,
        image_shape=(28, 28, 1),
        latent_dim=32,
        hidden_dims=(512,),
        filters=(),
        activation="relu",
        corruption="none",
        corruption_level=0.0,
        seed=None,
        dtype=None,
        **kwargs,
    ):
        image_shape, latent_dim, hidden_dims, filters = _check_network(image_shape, latent_dim, hidden_dims, filters)
        check_choice("corruption", corruption, CORRUPTIONS)
        if not 0 <= corruption_level <= 1:
            raise ValueError(f"corruption_level={corruption_level} must be in [0, 1].")
        encoder = _encoder(image_shape, filters, hidden_dims, latent_dim, activation, ("code",), dtype)
        latents, logits = _decoder(image_shape, filters, hidden_dims, latent_dim, activation, dtype)
        decoder = keras.Model(latents, layers.Activation("sigmoid", dtype="float32")(logits), name="decoder")

        images = keras.Input(image_shape, name="images")
        super().__init__(inputs=images, outputs=decoder(encoder(images)), dtype=dtype, **kwargs)

        self.image_shape = image_shape
        self.latent_dim = latent_dim
        self.hidden_dims = hidden_dims
        self.filters = filters
        self.activation = activation
        self.corruption = corruption
        self.corruption_level = corruption_level
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def train_step(self, data):
        return super().train_step(self._corrupted_pair(data))

    def test_step(self, data):
        return super().test_step(self._corrupted_pair(data))

    def _corrupted_pair(self, data):
        images, clean, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        clean = ops.cast(images if clean is None else clean, "float32")
        images = corrupt(ops.cast(images, "float32"), self.corruption, self.corruption_level, self.seed_generator)
        return images, clean / 255.0, sample_weight

    def encode(self, images):
        return self.encoder(images)

    def _unit_pixels(self, latents):
        return self.decoder(latents)

    def serving_signatures(self, batch_size=1):
        """What a device runs: dict of `Signature`.

        `encode(images: uint8, (batch_size, *image_shape))` returns `{"latents": float32, (batch_size, latent_dim)}`;
        `decode(latents)` returns `{"images": float32, (batch_size, *image_shape), in [0, 255]}`.
        """
        return self._signatures(batch_size, lambda images: {"latents": self.encode(images)})


VAE_PRESETS = {
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
class VAE(_ImageCodec):
    """Variational autoencoder of images, trained on the ELBO or on the importance-weighted bound.

    Compile it with an optimizer alone: it brings its own loss, the negative bound in nats an image. Random draws
    are made in the loss, not in `call`, so that `call` is one function of its inputs in training and in inference.

    Args:
        image_shape: `(height, width, channels)`.
        latent_dim: int. Size of `z`.
        hidden_dims: dense layers of the encoder; the decoder has them in reverse.
        filters: channels of the 3x3 convolutions of stride 2 before them; none makes a dense network. Both sides
            have to be multiples of `2 ** len(filters)`. The decoder has transposed ones in reverse.
        activation: str. Of all hidden layers, by its name in Keras.
        likelihood: "bernoulli", for pixels that are 0 or 255 (for those between, the loss is cross-entropy and no
            likelihood), or "gaussian", for pixels over 255, with one learned variance.
        bound: "elbo", with the KL in closed form, averaged over `num_samples`; or "iwae", L_k of `num_samples`.
        num_samples: int, k. Draws of `z` an image.
        beta: float, at least 0. Weight of the KL.
        seed: int or None. Of the draws.

    Call arguments:
        images: `(batch, height, width, channels)`, raw pixels in [0, 255].

    Returns:
        dict of float32: `"log_variance"` and `"mean"` of `q(z|x)`, each `(batch, latent_dim)`, and
        `"reconstruction"`, the shape of `images`: the pixels in [0, 1] expected at `z = mean`.

    Raises:
        ValueError: if an argument is none of the above; it says which and what it was.

    Example:

    >>> model = VAE.from_preset("burda2015_vae")
    >>> model.count_params()
    425284
    >>> model.prior().event_shape
    TensorShape([50])
    """

    presets = VAE_PRESETS

    def __init__(
        self,
        image_shape=(28, 28, 1),
        latent_dim=20,
        hidden_dims=(500,),
        filters=(),
        activation="tanh",
        likelihood="bernoulli",
        bound="elbo",
        num_samples=1,
        beta=1.0,
        seed=None,
        dtype=None,
        **kwargs,
    ):
        image_shape, latent_dim, hidden_dims, filters = _check_network(image_shape, latent_dim, hidden_dims, filters)
        check_choice("likelihood", likelihood, LIKELIHOODS)
        check_choice("bound", bound, BOUNDS)
        num_samples = check_size("num_samples", num_samples)
        if not 0 <= beta < math.inf:
            raise ValueError(f"beta={beta} must be a number of at least 0.")
        encoder = _encoder(image_shape, filters, hidden_dims, latent_dim, activation, ("log_variance", "mean"), dtype)
        latents, logits = _decoder(image_shape, filters, hidden_dims, latent_dim, activation, dtype)
        parameters = {"logits": logits}
        if likelihood == "gaussian":
            mean = layers.Activation("sigmoid", dtype="float32", name="mean")(logits)
            parameters = {"log_variance": SharedLogVariance(name="pixel_variance")(mean), "mean": mean}
        decoder = keras.Model(latents, parameters, name="decoder")

        images = keras.Input(image_shape, name="images")
        code = encoder(images)
        pixels = decoder(code["mean"])
        pixels = pixels["mean"] if likelihood == "gaussian" else ops.sigmoid(pixels["logits"])
        super().__init__(inputs=images, outputs={**code, "reconstruction": pixels}, dtype=dtype, **kwargs)

        self.image_shape = image_shape
        self.latent_dim = latent_dim
        self.hidden_dims = hidden_dims
        self.filters = filters
        self.activation = activation
        self.likelihood = likelihood
        self.bound = bound
        self.num_samples = num_samples
        self.beta = beta
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.distortion = keras.metrics.Mean(name="distortion")
        self.rate = keras.metrics.Mean(name="rate")

    def posterior(self, images):
        """`q(z|x)`: a `tfp.distributions.Distribution` of batch `(batch,)` and event `(latent_dim,)`.

        Args:
            images: `(batch, height, width, channels)`, in [0, 255].
        """
        code = self.encoder(images)
        return _diagonal_normal(code["mean"], code["log_variance"], 1)

    def prior(self):
        """`p(z)`, standard normal: a `tfp.distributions.Distribution` of event `(latent_dim,)`."""
        return _diagonal_normal(ops.zeros((self.latent_dim,)), ops.zeros((self.latent_dim,)), 1)

    def pixels(self, latents):
        """`p(x|z)`: a `tfp.distributions.Distribution` of pixels in [0, 1], of event `image_shape`.

        Args:
            latents: float, `(..., latent_dim)`. What stands before the last axis is the distribution's batch.
        """
        tfd = _distributions()
        lead = ops.shape(latents)[:-1]
        parameters = self.decoder(ops.reshape(latents, (-1, self.latent_dim)))
        parameters = {name: ops.reshape(x, (*lead, *self.image_shape)) for name, x in parameters.items()}
        if self.likelihood == "gaussian":
            return _diagonal_normal(parameters["mean"], parameters["log_variance"], 3)
        return tfd.Independent(tfd.Bernoulli(logits=parameters["logits"], dtype="float32"), 3)

    def log_weights(self, images, num_samples, seed=None):
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
        code, prior = self.encoder(images), self.prior()
        shape = (num_samples, *ops.shape(code["mean"]))
        noise = keras.random.normal(shape, seed=seed if seed is not None else self.seed_generator)
        latents = code["mean"] + ops.exp(0.5 * code["log_variance"]) * noise
        # Of the noise, not of z: (z - mean) / std has no digits left where the posterior is narrow.
        log_posterior = prior.log_prob(noise) - 0.5 * ops.sum(code["log_variance"], axis=-1)
        likelihood = self.pixels(latents).log_prob(ops.cast(targets, "float32") / 255.0)
        return likelihood, log_posterior - prior.log_prob(latents)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The negative bound in nats, averaged over images. `y` is what is rebuilt, `x` if it is None."""
        likelihood, log_ratio = self._draw(x, x if y is None else y, self.num_samples)
        if self.bound == "elbo":
            log_ratio = self.posterior(x).kl_divergence(self.prior())
            bound = ops.mean(likelihood, axis=0) - self.beta * log_ratio
        else:
            bound = importance_weighted_bound(likelihood - self.beta * log_ratio)
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

    def sample(self, num_images, seed=None):
        """Draws `z` from the prior: float32, `(num_images, *image_shape)`, the pixels expected from it, in [0, 255].

        Args:
            num_images: int.
            seed: int or `keras.random.SeedGenerator`; None for the model's own.
        """
        seed = seed if seed is not None else self.seed_generator
        return self.decode(keras.random.normal((num_images, self.latent_dim), seed=seed))

    def serving_signatures(self, batch_size=1):
        """What a device runs: dict of `Signature`.

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
    """TFP takes seconds to import: only what needs it waits for it."""
    from tensorflow_probability import distributions

    return distributions


def _diagonal_normal(mean, log_variance, event_dims):
    tfd = _distributions()
    return tfd.Independent(tfd.Normal(mean, ops.exp(0.5 * log_variance)), event_dims)
