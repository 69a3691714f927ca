"""Autoencoders: closed forms of every term of the bound, the order of the bounds, and what denoising is for."""

import itertools
import math

import keras
import numpy as np
import pytest
from keras import ops
from scipy.special import logsumexp
from scipy.stats import norm

from keras_dl import VAE, Autoencoder
from keras_dl.models.generative.autoencoder import corrupt


@pytest.fixture(scope="module")
def digits():
    """Digits of 8x8 pixels in [0, 255]: 1,437 to train on, 360 to test on."""
    from sklearn.datasets import load_digits

    images = load_digits().images[..., None].astype("float32") * (255 / 16)
    return images[:1437], images[1437:]


def _binary(images):
    return np.where(images > 127, 255.0, 0.0).astype("float32")


def _trained_vae(images, latent_dim=2, **options):
    model = VAE((8, 8, 1), latent_dim, (32,), seed=1, **options)
    model.compile(keras.optimizers.Adam(5e-3), jit_compile=True)
    model.fit(images, batch_size=100, epochs=15, verbose=0)
    return model


@pytest.fixture(scope="module")
def vae(digits):
    keras.utils.set_random_seed(0)
    return _trained_vae(_binary(digits[0]))


@pytest.mark.parametrize(
    ("model", "counts"),
    [
        (Autoencoder, dict(hinton2006_mnist=2_837_314, vincent2008_mnist=3_138_784)),
        (VAE, dict(kingma2013_mnist=815_824, burda2015_vae=425_284, burda2015_iwae=425_284)),
    ],
)
def test_presets_have_the_sizes_of_the_papers(model, counts):
    assert set(counts) == set(model.presets)
    for name, count in counts.items():
        assert model.from_preset(name).count_params() == count


def test_analytic_kl_is_the_monte_carlo_kl(vae, digits):
    images = _binary(digits[1][:16])
    posterior, prior = vae.posterior(images), vae.prior()
    latents = posterior.sample(20_000, seed=(1, 2))
    draws = np.asarray(posterior.log_prob(latents) - prior.log_prob(latents))
    error = np.abs(draws.mean(0) - posterior.kl_divergence(prior)) / (draws.std(0) / math.sqrt(len(draws)))
    assert error.max() < 4.5  # standard errors, of 16 draws
    code = vae.encoder(images)
    mean, log_variance = np.asarray(code["mean"]), np.asarray(code["log_variance"])
    closed = 0.5 * (np.exp(log_variance) + mean**2 - 1 - log_variance).sum(-1)  # Kingma, Welling, appendix B
    np.testing.assert_allclose(posterior.kl_divergence(prior), closed, rtol=1e-5)


def _log_marginal(model, images):
    """log p(x) of a model with two latents, by the trapezoidal rule on a grid: float64, `(batch,)`."""
    grid = np.linspace(-6, 6, 241)
    latents = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2).astype("float32")
    log_prior = norm.logpdf(latents.astype("float64")).sum(-1)
    logits = np.concatenate([model.decoder(part)["logits"] for part in np.array_split(latents, 20)])
    logits = logits.reshape(len(latents), -1).astype("float64")
    pixels = (images / 255).reshape(len(images), -1).astype("float64")
    log_likelihood = logits @ pixels.T - np.logaddexp(0, logits).sum(-1, keepdims=True)
    return logsumexp(log_likelihood + log_prior[:, None], axis=0) + 2 * math.log(grid[1] - grid[0])


def test_bounds_rise_with_k_to_the_log_likelihood(vae, digits):
    images = _binary(digits[1][:24])
    exact = _log_marginal(vae, images)
    log_weights = np.asarray(vae.log_weights(images, 4096, seed=3), "float64")
    mean_bounds = {}
    for k in (1, 8, 64, 512, 4096):  # every bound is estimated from the same draws, cut into groups of k
        groups = log_weights.reshape(-1, k, len(images))
        mean_bounds[k] = (logsumexp(groups, axis=1) - math.log(k)).mean()
    elbo = np.asarray(log_weights.mean(0))
    values = list(mean_bounds.values())
    assert all(a < b for a, b in itertools.pairwise(values)), mean_bounds
    assert values[-1] == pytest.approx(exact.mean(), abs=0.02)  # nats
    assert exact.mean() - values[0] > 0.1  # or the order above would say nothing
    assert mean_bounds[1] == pytest.approx(elbo.mean(), abs=1e-9)


def test_one_sample_of_the_weighted_bound_is_the_elbo(vae, digits):
    """With k = 1, L_1 and the ELBO with its KL in closed form have one expectation."""
    images = _binary(digits[1][:200])
    draws = {}
    for bound in ("elbo", "iwae"):
        model = VAE((8, 8, 1), 2, (32,), bound=bound, seed=5)
        model.set_weights(vae.get_weights()[: len(model.weights)])
        draws[bound] = np.asarray([model.compute_loss(images) for _ in range(60)])
    error = math.sqrt(sum(x.var() / len(x) for x in draws.values()))
    assert abs(draws["elbo"].mean() - draws["iwae"].mean()) < 4 * error
    assert error < 0.1  # nats


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("bound", ["elbo", "iwae"])
def test_loss_in_closed_form(likelihood, bound):
    """With kernels at zero the pixels do not depend on z, and q(z|x) is the same for every image."""
    model = VAE((4, 6, 2), 3, (5,), likelihood=likelihood, bound=bound, num_samples=4, beta=0.5, seed=1)
    for weight in model.trainable_weights:
        weight.assign(ops.zeros_like(weight))
    pixels = np.random.default_rng(0).integers(0, 2, (8, 4, 6, 2)).astype("float32")
    if likelihood == "gaussian":
        log_variance = -1.3
        model.decoder.get_layer("pixel_variance").log_variance.assign(log_variance)
        expected = norm.logpdf(pixels, 0.5, math.exp(log_variance / 2)).reshape(8, -1).sum(-1).mean()
    else:
        expected = 48 * math.log(0.5)
    assert float(model.compute_loss(255 * pixels)) == pytest.approx(-expected, rel=1e-6)
    # Now q = N(m, v): the KL is paid, at half price.
    mean, log_variance = np.asarray([0.3, -1.0, 0.0]), np.asarray([0.0, -0.7, 0.4])
    model.encoder.get_layer("mean").bias.assign(mean)
    model.encoder.get_layer("log_variance").bias.assign(log_variance)
    kl = 0.5 * (np.exp(log_variance) + mean**2 - 1 - log_variance).sum()
    if bound == "elbo":
        assert float(model.compute_loss(255 * pixels)) == pytest.approx(-expected + 0.5 * kl, rel=1e-6)
    else:  # between the log-likelihood, which does not depend on q, and the ELBO
        losses = [float(model.compute_loss(255 * pixels)) for _ in range(100)]
        assert -expected < np.mean(losses) < -expected + 0.5 * kl


def test_likelihood_is_summed_over_pixels_and_averaged_over_images(vae, digits):
    images = _binary(digits[1][:32])
    code = np.asarray(vae.encode(images))
    probabilities = np.asarray(vae.decode(code), "float64") / 255
    x = images / 255
    by_hand = (x * np.log(probabilities) + (1 - x) * np.log1p(-probabilities)).sum((1, 2, 3))
    np.testing.assert_allclose(vae.pixels(code).log_prob(x), by_hand, rtol=1e-4)
    history = vae.evaluate(images, verbose=0, return_dict=True)
    assert history["loss"] == pytest.approx(history["distortion"] + history["rate"], rel=1e-5)


@pytest.mark.slow
def test_larger_beta_lowers_the_rate(digits):
    images = _binary(digits[0][:500])
    rates = [_trained_vae(images, beta=beta).evaluate(images, verbose=0, return_dict=True)["rate"] for beta in (1, 8)]
    assert rates[1] < rates[0] / 2


def test_gaussian_model_learns_the_variance_of_the_pixels():
    """Images that are one picture plus noise of standard deviation 0.2: nothing else is left to be explained."""
    rng = np.random.default_rng(0)
    images = 255 * (0.5 + 0.2 * rng.standard_normal((512, 4, 4, 1))).astype("float32")
    model = VAE((4, 4, 1), 1, (), likelihood="gaussian", seed=1)
    model.compile(keras.optimizers.Adam(0.02), jit_compile=True)
    model.fit(images, batch_size=64, epochs=30, verbose=0)
    log_variance = float(model.decoder.get_layer("pixel_variance").log_variance)
    assert math.exp(log_variance / 2) == pytest.approx(0.2, rel=0.05)


def test_training_under_xla_equals_the_graph():
    """With a posterior that is a point, so that the draws, which differ between the two, make no difference."""
    images = np.random.default_rng(0).integers(0, 256, (16, 4, 4, 1)).astype("float32")
    losses = []
    for jit in (False, True):
        keras.utils.set_random_seed(0)
        model = VAE((4, 4, 1), 2, (8,), likelihood="gaussian", num_samples=4, seed=1)
        model.encoder.get_layer("log_variance").bias.assign([-40.0, -40.0])
        model.compile(keras.optimizers.Adam(1e-2), jit_compile=jit)
        losses.append(model.fit(images, batch_size=8, epochs=3, shuffle=False, verbose=0).history["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_samples_are_decoded_noise_of_the_prior(vae):
    generator = keras.random.SeedGenerator(4)
    noise = keras.random.normal((5, 2), seed=keras.random.SeedGenerator(4))
    served = vae.serving_signatures(5)["sample"].function(noise)["images"]
    np.testing.assert_allclose(vae.sample(5, seed=generator), served, atol=1e-4)
    assert np.asarray(served).min() >= 0 <= np.asarray(served).max() <= 255


def test_a_number_of_samples_below_one_is_refused(vae):
    with pytest.raises(ValueError, match="num_images=-1 must be an integer of at least 1"):
        vae.sample(-1)


@pytest.mark.parametrize("kind", ["masking", "salt_and_pepper", "gaussian", "none"])
def test_corruption_is_what_it_is_called(kind):
    images = np.full((40, 32, 32, 1), 100.0, "float32")
    damaged = np.asarray(corrupt(images, kind, 0.3, seed=7))
    n = damaged.size
    share = lambda value: (damaged == value).mean()  # noqa: E731
    tolerance = 4 * math.sqrt(0.25 / n)
    if kind == "gaussian":
        assert damaged.mean() == pytest.approx(100, abs=4 * 76.5 / math.sqrt(n))
        assert damaged.std() == pytest.approx(0.3 * 255, rel=4 / math.sqrt(2 * n))
    else:
        black = {"masking": 0.3, "salt_and_pepper": 0.15, "none": 0.0}[kind]
        white = 0.15 if kind == "salt_and_pepper" else 0.0
        assert share(0) == pytest.approx(black, abs=tolerance)
        assert share(255) == pytest.approx(white, abs=tolerance)
        assert share(100) == pytest.approx(1 - black - white, abs=tolerance)


@pytest.mark.slow
def test_denoising_reduces_the_error_on_noisy_input(digits):
    train, clean = digits
    noisy = np.asarray(corrupt(clean, "masking", 0.4, seed=11))
    errors = {"noisy": np.square(noisy - clean).mean()}
    for corruption in ("none", "masking"):
        keras.utils.set_random_seed(0)
        model = Autoencoder((8, 8, 1), 32, (128,), corruption=corruption, corruption_level=0.4, seed=2)
        model.compile(keras.optimizers.Adam(3e-3), "mse", jit_compile=True)
        model.fit(train, batch_size=50, epochs=20, verbose=0)
        errors[corruption] = np.square(255 * model.predict(noisy, verbose=0) - clean).mean()
    assert errors["masking"] < 0.6 * errors["none"]
    assert errors["masking"] < 0.6 * errors["noisy"]


def test_targets_may_be_given(digits):
    """`fit(noisy, clean)` compares with `clean`; without targets the input is compared with itself."""
    train, _ = digits
    model = Autoencoder((8, 8, 1), 4, ())
    model.compile("sgd", "mse")
    output = model.predict(train[:64], verbose=0)
    zeros = np.zeros_like(train[:64])
    assert model.evaluate(train[:64], verbose=0) == pytest.approx(np.square(output - train[:64] / 255).mean(), rel=1e-5)
    assert model.evaluate(train[:64], zeros, verbose=0) == pytest.approx(np.square(output).mean(), rel=1e-5)


def test_convolutional_decoder_restores_the_shape():
    model = Autoencoder((12, 20, 3), 7, (9,), filters=(4, 5))
    assert [layer.name for layer in model.encoder.layers][2:] == ["conv_0", "conv_1", "flatten", "dense_0", "latents"]
    assert model.encoder.get_layer("conv_1").output.shape == (None, 3, 5, 5)
    assert model.decoder.get_layer("image").output.shape == (None, 3, 5, 5)
    assert model.output_shape == (None, 12, 20, 3)


def test_binarized_mnist_goes_through_the_same_pipeline(tmp_path):
    import tensorflow as tf
    import tensorflow_datasets as tfds

    from keras_dl.export import KerasRunner
    from keras_dl.recipes.autoencoder import RECIPE

    with tfds.testing.mock_data(num_examples=8):
        options = RECIPE.options("binarized_mnist", batch_size=4, data_dir=str(tmp_path))
        data = RECIPE.load_data(options, "iwae")
        images, targets = next(iter(data.train(tf.constant(0))))
        samples = data.calibration(3)
    assert (images.shape, data.num_train, data.num_test) == ((4, 28, 28, 1), 8, 8)
    assert set(np.unique(images)) <= {0.0, 255.0}
    np.testing.assert_array_equal(images, targets)
    assert {name: len(list(rows)) for name, rows in samples.items()} == dict(encode=3, decode=3, sample=3)
    model = RECIPE.build_model(data, options, "iwae")
    assert np.isfinite(model.train_on_batch(images, targets)).all()
    assert RECIPE.evaluate(KerasRunner(model).serve, data) > 0
