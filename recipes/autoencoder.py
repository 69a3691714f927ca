"""Variational and importance-weighted autoencoders of binary digits, and a plain autoencoder, against PCA.

Paper:     Kingma, Welling 2013, "Auto-Encoding Variational Bayes", arXiv:1312.6114; Burda et al. 2015, "Importance
           Weighted Autoencoders", arXiv:1509.00519. Its table 1 has, for one stochastic layer on MNIST, 86.76 nats
           (VAE) and 85.54 (IWAE, k = 5), from 60,000 digits and with 5,000 samples in the bound.
Data:      mnist_5k: 4,000 digits for training, 1,000 for the test. As in the papers, each pixel becomes black or white
           with its brightness as the probability: again in each epoch, and once for the test digits, by the seed. Each
           training digit is also shifted, rotated, scaled and sheared a little in each epoch.
Command:   keras-dl train autoencoder
Aim:       a mean squared error of 0.03 for pixels of 0 and 1
Baseline:  PCA with 20 components: 0.042
Reaches:   VAE 0.0310 (the aim is missed), IWAE 0.0296, plain autoencoder 0.0259. Bounds on the test digits: 104.7 nats
           (VAE), 101.0 (IWAE, 5 samples). 945 s for 180 epochs of all three on two very busy cores.

`--data PATH` trains convolutional nets of 32 latents on your images, 64x64 by default, in all of their gray levels or
colors. Where the pixels of the digits are Bernoulli variables, black or white, those of your images are Gaussian with
one learned variance. The baseline is PCA with as many components. Not tuned for photographs.

`--dataset binarized_mnist`: the papers' data; the metric is the bound in nats. Not measured.
"""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

import keras_dl
from keras_dl.extras import require
from keras_dl.recipes.tasks import generation
from keras_dl.recipes.training import batches, pictures
from keras_dl.recipes.training.augment import affine
from keras_dl.recipes.training.recipe import (
    EDGETPU,
    ETHOS_U55,
    FLOAT,
    INT8,
    Data,
    Recipe,
    Task,
    run_as_script,
)

OWN = "pictures"  # the form of own data
LATENT_DIM, OWN_LATENT_DIM = 20, 32
SIDES = generation.multiples(8, default=64)  # halved three times
MOST_SEEN = 10_000  # images that PCA is fitted to
CONVOLUTIONAL = dict(hidden_dims=(256,), filters=(32, 64, 128))
SAMPLES = 5
MOVED = dict(pixels=0.25, degrees=3.0, zoom=0.03, shear=0.06)
# Table 1 of Burda et al.: test nats on MNIST, after 60,000 digits.
PAPER_NATS = {"vae": 86.76, "iwae": 85.54}


def load_data(options, variant):
    return _own(options) if options.dataset == OWN else _digits(options)


def _own(options):
    """`Data` of own images, which are their own targets."""
    data = generation.own_pictures(options, ("decode", OWN_LATENT_DIM, "normal"), SIDES)
    arrays = {split: data.arrays[split] for split in ("train", "test")}
    train = tf.data.Dataset.from_tensor_slices((arrays["train"],))

    def paired(dataset):
        return None if dataset is None else dataset.map(lambda images: (images, images))

    def calibration(samples):
        served = batches.shuffled(train, batches.fold_in(options.seed, -1)).take(samples)
        return _calibration(served.map(lambda image: {"images": image[None]}), samples, OWN_LATENT_DIM, options.seed)

    others = {"validation": paired(data.validation), "calibration": calibration, "arrays": arrays}
    return dataclasses.replace(data, train=lambda number: paired(data.train(number)), test=paired(data.test), **others)


def _calibration(images, samples, latent_dim, seed):
    """Images for `encode`, and draws of the prior for the other signatures."""
    noise = np.random.default_rng(seed).standard_normal((samples, 1, latent_dim)).astype("float32")
    return {"encode": images} | {
        name: tf.data.Dataset.from_tensor_slices({key: noise})
        for name, key in (("decode", "latents"), ("sample", "noise"))
    }


def _digits(options):
    builder = batches.open_dataset(options)
    images, labels = {}, {}
    for split in ("train", "test"):
        rows = batches.read(builder, split, options)
        images[split] = np.stack([row["image"] for row in rows])
        labels[split] = np.array([row.get("label", 0) for row in rows])  # binarized_mnist has none
        if options.dataset == "binarized_mnist":  # TFDS has its pixels as 0 and 1
            images[split] = np.where(images[split] > 0, 255, 0).astype("uint8")
    train = tf.data.Dataset.from_tensor_slices((images["train"],))
    scarce = options.dataset == "mnist_5k"  # 4,000 digits would be memorized

    def binary(dataset, key, moved=False):
        """Draws each pixel as 0 or 255; with `moved`, of digits that are moved a little."""

        def draw(i, image):
            seed = tf.random.fold_in(key, i)
            image = affine(image, seed, **MOVED) if moved else tf.cast(image, tf.float32)
            return tf.where(image > tf.random.stateless_uniform(image.shape, seed, 0.0, 255.0), 255.0, 0.0)

        return dataset.enumerate().map(lambda i, row: draw(i, row[0]), tf.data.AUTOTUNE)

    def epoch(number):
        key = batches.fold_in(options.seed, number)
        dataset = binary(batches.shuffled(train, key), key, scarce).batch(options.batch_size, drop_remainder=True)
        return dataset.map(lambda x: (x, x))

    def calibration(samples):
        key = batches.fold_in(options.seed, -1)
        served = binary(batches.shuffled(train, key).take(samples), key)
        served = served.map(lambda x: {"images": tf.cast(x, tf.uint8)[None]})
        return _calibration(served, samples, LATENT_DIM, options.seed)

    test = binary(tf.data.Dataset.from_tensor_slices((images["test"],)), batches.fold_in(options.seed, -2))
    test = np.stack(list(test.as_numpy_iterator()))
    seen = np.stack(list(binary(train, batches.fold_in(options.seed, -3)).as_numpy_iterator()))
    return Data(
        train=epoch,
        test=tf.data.Dataset.from_tensor_slices((test, test)).batch(batches.TEST_BATCH),
        num_train=len(images["train"]),
        num_test=len(test),
        **batches.origin(builder),
        calibration=calibration,
        labels=(),
        input_shape=test.shape[1:],
        input_range="uint8 pixels, 0 or 255",
        arrays=dict(train=seen, test=test, labels=labels["test"]),
    )


def build_model(data, options, variant):
    network = dict(image_shape=data.input_shape, latent_dim=LATENT_DIM, hidden_dims=(400, 200), activation="relu")
    if options.dataset == OWN:
        network |= CONVOLUTIONAL | dict(latent_dim=OWN_LATENT_DIM)
    if variant == "autoencoder":
        model = keras_dl.Autoencoder(**network)
    else:
        bound = dict(bound="iwae", num_samples=SAMPLES) if variant == "iwae" else dict(bound="elbo")
        pixels = "gaussian" if options.dataset == OWN else "bernoulli"
        model = keras_dl.VAE(**network, **bound, likelihood=pixels, seed=options.seed)
    steps = data.steps(options)
    schedule = keras.optimizers.schedules.CosineDecay(options.rate(1.5e-3), steps)
    model.compile(optimizer=keras.optimizers.Adam(schedule), loss="mse" if variant == "autoencoder" else None)
    return model


def reconstruction_error(serve, data):
    """The mean squared error of test pixels in [0, 1] after `encode` and `decode`."""
    code = serve("encode", images=data.arrays["test"].astype("uint8"))
    rebuilt = serve("decode", latents=code["mean"] if "mean" in code else code["latents"])["images"]
    return float(np.mean(np.square((rebuilt - data.arrays["test"]) / 255)))


def nats(serve, data, num_samples=SAMPLES, seed=0):
    """`-L_k` of the test images by `encode` and `decode`, in nats per image; lower is better."""
    rng = np.random.default_rng(seed)
    images = data.arrays["test"]
    code = serve("encode", images=images.astype("uint8"))
    log_weights = []
    for _ in range(num_samples):
        noise = rng.standard_normal(code["mean"].shape)
        latents = (code["mean"] + np.exp(code["log_variance"] / 2) * noise).astype("float32")
        # An int8 file returns 0 or 1 where the model is close to it: a pixel then costs at most 12 nats.
        probabilities = np.clip(serve("decode", latents=latents)["images"].astype("float64") / 255, 6e-6, 1 - 6e-6)
        likelihood = np.log(np.where(images > 0, probabilities, 1 - probabilities)).sum((1, 2, 3))
        log_ratio = 0.5 * (noise**2 + code["log_variance"] - latents**2).sum(-1)
        log_weights.append(likelihood + log_ratio)
    return float(-np.mean(np.logaddexp.reduce(log_weights, axis=0) - np.log(num_samples)))


def evaluate(serve, data):
    in_nats = data.dataset == "binarized_mnist" and not data.form
    return nats(serve, data) if in_nats else reconstruction_error(serve, data)


def baseline(outcome):
    if outcome.options.dataset == "binarized_mnist":
        return "Burda et al. 2015, VAE", PAPER_NATS["vae"]
    rebuilt, components = _pca(outcome)
    error = np.mean(np.square(rebuilt - outcome.data.arrays["test"])) / 255**2
    return f"PCA, {components} components", float(error)


def _pca(outcome):
    """The test images, reconstructed from as many principal components of the training images as there are latents,
    or as there are images; and the number of components."""
    decomposition = require("sklearn.decomposition", extra="recipes")
    arrays = outcome.data.arrays
    seen, test = arrays["train"][:MOST_SEEN], arrays["test"]
    seen = seen.reshape(len(seen), -1)
    components = min(OWN_LATENT_DIM if outcome.data.form else LATENT_DIM, len(seen))
    pca = decomposition.PCA(components, random_state=0).fit(seen)
    return pca.inverse_transform(pca.transform(test.reshape(len(test), -1))).reshape(test.shape), components


def picture(outcome):
    """Reconstructed test images, samples of the prior, an interpolation of two images, and a map of the codes."""
    decomposition = require("sklearn.decomposition", extra="recipes")
    model, test, labels = outcome.model, outcome.data.arrays["test"], outcome.data.arrays.get("labels")
    mean = np.asarray(model.encode(test))
    rebuilt = np.asarray(model.decode(mean[:10]))
    draws = isinstance(model, keras_dl.VAE)
    samples = np.asarray(model.sample(60, seed=outcome.options.seed)) if draws else ()
    walk = np.asarray(model.decode(np.linspace(mean[0], mean[1], 10)))

    figure = pictures.figure(11, 6.2)
    left, right = figure.subfigures(1, 2, width_ratios=(1.1, 1))
    name = next(iter(outcome.trained)).upper()
    what = "images" if labels is None else "digits"
    rows = [(what, test[:10]), ("PCA", np.clip(_pca(outcome)[0][:10], 0, 255)), (name, rebuilt), ("walk", walk)]
    rows += [("samples" if i == 0 else "", samples[10 * i : 10 * i + 10]) for i in range(len(samples) // 10)]
    axes = left.subplots(len(rows), 10)
    for line, (name, images) in zip(axes, rows, strict=True):
        for axis in line[len(images) :]:  # a test of few images
            axis.set_axis_off()
        for axis, image in zip(line, images, strict=False):
            pictures.show_image(axis, image)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)

    axis = right.subplots()
    places = decomposition.PCA(2, random_state=0).fit_transform(mean)
    if labels is None:
        axis.scatter(*places.T, s=9, color=pictures.COLORS[0])
    else:
        points = axis.scatter(*places.T, c=labels, s=9, cmap="tab10", vmin=-0.5, vmax=9.5)
        right.colorbar(points, ax=axis, ticks=range(10), label="digit", shrink=0.6)
    bounds = {name: outcome.trained[name].history[-1]["val_loss"] for name in PAPER_NATS if name in outcome.trained}
    title = "\n".join(
        f"{name.upper()}: {value:.1f} nats" + ("" if labels is None else f" ({PAPER_NATS[name]} in the paper)")
        for name, value in bounds.items()
    )
    pictures.style(axis, title, f"codes of test {what}, first component", "second")
    return figure


RECIPE = Recipe(
    name="autoencoder",
    model="VAE",
    summary="variational autoencoders of binary digits",
    tasks={
        "mnist_5k": Task(
            epochs=180,
            batch_size=100,
            metric="reconstruction error",
            aim=0.03,
            variants=("vae", "iwae", "autoencoder"),
            higher_is_better=False,
            # tflite-micro takes one signature per file.
            exports=(FLOAT, INT8, ETHOS_U55, EDGETPU),
        ),
        "binarized_mnist": Task(
            epochs=400, batch_size=100, metric="nats", variants=("vae", "iwae"), higher_is_better=False
        ),
    },
    own={
        OWN: Task(
            epochs=100,
            batch_size=64,
            metric="reconstruction error",
            variants=("vae", "iwae", "autoencoder"),
            higher_is_better=False,
            exports=(FLOAT, INT8, ETHOS_U55, EDGETPU),
        )
    },
    load_data=load_data,
    build_model=build_model,
    evaluate=evaluate,
    baseline=baseline,
    picture=picture,
)

if __name__ == "__main__":
    run_as_script("autoencoder")
