"""A score-based model draws digits and tells how likely they are; a small one does so with points in the plane.

Paper:     Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole 2021, "Score-Based Generative Modeling through Stochastic
           Differential Equations", arXiv:2011.13456: CIFAR-10 with FID 2.20 (NCSN++, VE) and 2.99 bits per dimension
           (DDPM++, sub-VP)
Data:      optdigits: 1,447 digits of 8x8 pixels in 17 gray levels for training; 350 of other writers for the test
Command:   keras-dl train score_sde
Aim:       a digit-FID of 6.8: three times that of training digits
Baseline:  the digit-FID of a Gaussian mixture with full covariances, fitted to the same pixels
Reaches:   4.59, where training digits have 2.27, the mixture 19.3, and DCGAN 20.9 (`keras-dl train gan --dataset
           optdigits`); 1.95 bits per dimension, where the mixture has 2.72. 474 s of training on two very busy cores
Files:     float32 4.59, from noise to image in one file too; int8 5.23, of the score alone

The digit-FID is the Frechet distance between the test digits and as many generated ones, in the 64 features of the
package's own classifier of 8x8 digits (`keras_dl.recipes.tasks.digit_judge`). It is no Inception FID. Files are
measured by sampling with their `score`.

`--data PATH` trains a small NCSN++ of four levels on your images, 32x32 by default, with the VP equation and 100 steps
of Euler and Maruyama. The metric is the Frechet distance of thumbnails, and the report has the bits per dimension of up
to 8 test images. Not tuned for photographs.

`--dataset two_moons` (generated): the likelihood of test points. It is -1.11 nats after 107 s: not the aim of -1.06.
The density that made them has -1.03, a mixture of 16 Gaussians -1.04. Files: float32 -1.11; int8 weights -1.07.

`--dataset mnist_5k`: digits of 28x28. `--dataset cifar10`: NCSN++ as its authors trained it. Not measured.
"""

import dataclasses
import math

import keras
import numpy as np
import tensorflow as tf

import keras_dl
from keras_dl.diffusion import VE, VP, along, bits_per_dimension, predictor_corrector, seeded_noise
from keras_dl.export import KerasRunner
from keras_dl.export.errors import SignatureError
from keras_dl.extras import require
from keras_dl.models.generative.score_sde import to_pixels
from keras_dl.recipes.datasets.points_and_paths import moons_log_density
from keras_dl.recipes.tasks import diffusion, generation
from keras_dl.recipes.training import augment, batches, pictures
from keras_dl.recipes.training.recipe import DYNAMIC_INT8, FLOAT, Data, Export, Recipe, Task, run_as_script
from keras_dl.recipes.training.runner import EVALUATION_BATCH

POINTS = "two_moons"
OWN = "pictures"  # the form of own data
SIDES = generation.multiples(8, default=32)  # halved three times
LEVELS = {"optdigits": 17, "mnist_5k": 256, OWN: 256}
STEPS = 100  # of a sampler
SMALL = dict(num_blocks=2, attention_sides=(4,), multipliers=(1, 2), filters=32, fir=True, pyramid=True)
MEDIUM = SMALL | dict(num_blocks=1, attention_sides=(7,), multipliers=(1, 2, 4), filters=16)
OWN_NET = MEDIUM | dict(multipliers=(1, 2, 2, 2), filters=24)
EULER = dict(predictor="euler_maruyama", corrector="none", num_steps=STEPS)
PAPER = dict(predictor="reverse_diffusion", corrector="langevin", num_steps=STEPS)  # which has 1,000
MEASURED = 8  # own images whose likelihood is measured
SHOWN = 12


def load_data(options, variant) -> Data:
    if options.dataset == OWN:
        data = generation.own_pictures(options, ("sample", 1, "normal"), SIDES, diffusion.MOST_OWN)
    else:
        data = _data(options)
    train = data.arrays["train"]
    return dataclasses.replace(data, calibration=lambda samples: calibration(options, train, samples))


def _data(options):
    builder = batches.open_dataset(options)
    key, range_ = ("point", "float32 coordinates") if options.dataset == POINTS else ("image", "uint8 pixels, 0 to 255")
    arrays = {
        split: np.stack([row[key] for row in batches.read(builder, split, options)]) for split in ("train", "test")
    }

    def prepare(row, seed):
        if options.dataset == "cifar10":
            return tf.image.stateless_random_flip_left_right(row, seed)
        moves = dict(pixels=0.25, degrees=3.0, zoom=0.03, shear=0.06)
        return augment.affine(row, seed, **moves) if options.dataset == "mnist_5k" else row

    return generation.without_targets(
        options, arrays, ("sample", 1, "normal"), prepare, input_range=range_, **batches.origin(builder)
    )


def levels_of(data):
    """The gray levels of the pixels of data, or None, where the model does not count them."""
    return LEVELS.get(data.form or data.dataset)


def calibration(options, examples, samples):
    """Examples with the noise of all times alike; noise of a whole walk; and points."""
    random, model = np.random.default_rng(1), build_net(options, examples)
    examples = np.resize(examples, (samples, *examples.shape[1:]))
    times = random.permutation(((np.arange(samples) + 0.5) / samples).astype("float32"))
    noise = random.standard_normal(examples.shape).astype("float32")
    noisy = model.process.perturb(model.to_inner(examples), times, noise).numpy()
    rows, size = model.noise_rows(), math.prod(examples.shape[1:])
    signatures = {
        "score": {model.data_name: noisy[:, None], "times": times[:, None]},
        "sample": {"noise": random.standard_normal((min(samples, 64), 1, rows, size)).astype("float32")},
    }
    if model.data_name == "points":
        signatures["likelihood"] = {"points": examples[:, None].astype("float32")}
    return {key: tf.data.Dataset.from_tensor_slices(inputs) for key, inputs in signatures.items()}


def build_net(options, examples):
    """The model of a dataset, not compiled."""
    shared = dict(data_shape=examples.shape[1:], seed=options.seed, averaging=0.999)
    if options.dataset == POINTS:
        scale = dict(mean=examples.mean(0).tolist(), std=examples.std(0).tolist())
        plane = dict(filters=32, hidden_dims=(128, 128, 128), time_features="sinusoidal", flow_steps=40)
        return keras_dl.ScoreSDE(process=VP(), weighting="likelihood", **EULER, **plane, **scale, **shared)
    if options.dataset == "cifar10" and not options.smoke:
        return keras_dl.ScoreSDE.from_preset("ncsnpp_cifar10", seed=options.seed, **PAPER)
    net = {"optdigits": SMALL, OWN: OWN_NET}.get(options.dataset, MEDIUM)
    if options.dataset == OWN:
        halvings = len(net["multipliers"]) - 1
        net = net | dict(attention_sides=(diffusion.attended_side(examples.shape[1], halvings),))
    if options.dataset == "cifar10":
        return keras_dl.ScoreSDE(**net, **PAPER, **shared)
    # Of bits, which need no more digits.
    shared |= dict(process=VP(), time_features="sinusoidal", levels=LEVELS[options.dataset], tolerance=1e-3)
    return keras_dl.ScoreSDE(**net, **EULER, **shared)


def build_model(data, options, variant):
    model = build_net(options, data.arrays["train"])
    steps = data.steps(options)
    if options.dataset == "cifar10":
        rate = keras.optimizers.schedules.CosineDecay(
            0.0, 1, alpha=1.0, warmup_target=options.rate(2e-4), warmup_steps=5000
        )  # constant after the warm-up
    else:
        warmup, peak = max(1, min(100, steps // 10)), 5e-3 if options.dataset == POINTS else 2e-3
        rate = keras.optimizers.schedules.CosineDecay(
            0.0, max(1, steps - warmup), warmup_target=options.rate(peak), warmup_steps=warmup
        )
    model.compile(keras.optimizers.Adam(rate, global_clipnorm=1.0))
    return model


def evaluate(serve, data):
    """Digit-FID of samples; of points, the log-likelihood in nats; of others, the distance of thumbnails."""
    test = data.arrays["test"]
    if test.ndim == 2:
        return float(np.mean(serve("likelihood", points=test)["log_prob"]))
    return generation.distance(data, sampled(serve, data))


def sampled(serve, data):
    """As many samples as test images, from fixed noise, by a model or a file: in [0, 255].

    By the signature `sample`; by the same steps around `score`, where a file has that alone, as integer files do.
    """
    shape, levels, found = data.input_shape, levels_of(data), []
    process, sampler = (VP(), EULER) if levels else (VE(), PAPER)
    rows = 1 + sampler["num_steps"] * (1 if levels else 2)
    random = np.random.default_rng(0)

    def score(x, t):
        served = serve("score", images=np.asarray(x), times=np.asarray(t))["scaled_score"]
        return served / along(process.marginal(t)[1], x)

    for start in range(0, data.num_test, EVALUATION_BATCH):  # the noise of all samples would fill the memory
        count = min(EVALUATION_BATCH, data.num_test - start)
        noise = random.standard_normal((count, rows, math.prod(shape))).astype("float32")
        try:
            found.append(serve("sample", noise=noise)["images"])
            continue
        except SignatureError:
            first, draws = np.split(noise.swapaxes(0, 1).reshape(-1, *shape), [count])
        # A loop of TensorFlow could not call a file.
        samples = predictor_corrector(score, process, process.prior_std * first, draws, **sampler, unroll=True)
        found.append(np.asarray(to_pixels(samples, (-1.0, 1.0) if levels else (0.0, 1.0), levels)))
    return np.concatenate(found)


def baseline(outcome):
    """A Gaussian mixture, fitted to the same data; of photographs, a normal distribution."""
    data = outcome.data
    if data.form or data.dataset not in (POINTS, *LEVELS):
        drawn = generation.of_normal_distribution(data.arrays["train"][: generation.MOST], data.num_test)
        return "normal distribution", generation.distance(data, drawn)
    mixture = fitted_mixture(data)
    name = f"Gaussian mixture, {mixture.n_components} components"
    if outcome.options.dataset == POINTS:
        return name, float(mixture.score(data.arrays["test"]))
    return name, generation.distance(data, of_mixture(mixture, data))


def fitted_mixture(data, most=32):
    """The mixture, of 1, 2, 4, ... components, under which held-out training examples are likeliest."""
    mixtures = require("sklearn.mixture", extra="recipes")
    examples = filled(data, "train", seed=1)
    most = min(most, 2048 // examples.shape[-1])
    held = len(examples) // 5
    order = np.random.default_rng(0).permutation(len(examples))
    seen, others = examples[order[held:]], examples[order[:held]]
    floor = 1e-6 if examples.shape[-1] == 2 else 1e-3

    def fit(count, x):
        return mixtures.GaussianMixture(count, random_state=0, reg_covar=floor).fit(x)

    counts = [2**i for i in range(1 + int(math.log2(most))) if 2**i <= max(1, len(seen) // 20)]
    return fit(max(counts, key=lambda count: fit(count, seen).score(others)), examples)


def filled(data, split, seed):
    """Examples as vectors: points; pixels with uniform noise that fills their levels, in [-1, 1]."""
    examples = data.arrays[split]
    if examples.ndim == 2:
        return examples
    levels = levels_of(data) or 256
    noise = np.random.default_rng(seed).uniform(size=examples.shape)
    return (2 / levels * (examples * ((levels - 1) / 255) + noise) - 1).reshape(len(examples), -1)


def of_mixture(mixture, data):
    """As many samples of a mixture as there are test images."""
    mixture.random_state = 0
    samples = mixture.sample(data.num_test)[0].reshape(data.arrays["test"].shape)
    return np.asarray(to_pixels(samples.astype("float32"), (-1.0, 1.0), levels_of(data) or 256))


def figures(outcome):
    """Likelihoods beside those of a mixture and of what made the data; quality of samples by each sampler."""
    data, model, test = outcome.data, outcome.model, outcome.data.arrays["test"]
    if outcome.options.dataset == POINTS:
        mixture = fitted_mixture(data)
        return {
            "log-likelihood, nats, of the density that made the points": float(moons_log_density(test).mean()),
            "log-likelihood, nats, of the mixture": float(mixture.score(test)),
            "log-likelihood, nats, with an adaptive solver": float(np.mean(model.log_likelihood(test))),
            "largest error of points encoded and decoded": float(
                np.abs(model.decode(model.encode(test[:500])) - test[:500]).max()
            ),
        }
    if data.form:
        shown = test[:MEASURED]
        name = f"bits per dimension, {len(shown)} test images"
        return diffusion.compared(data, (), outcome.task.metric) | {
            name: float(np.mean(model.bits_per_dimension(shown, seed=0)))
        }
    samples = sampled(KerasRunner(model, EVALUATION_BATCH, ["sample"]).serve, data)
    found = diffusion.compared(data, samples, outcome.task.metric)
    if data.dataset not in LEVELS:
        return found
    mixture, size, metric = fitted_mixture(data), math.prod(test.shape[1:]), outcome.task.metric
    parts = np.array_split(test, max(1, len(test) // 200))
    bits = [model.bits_per_dimension(x, seed=i) for i, x in enumerate(parts)]
    found["bits per dimension"] = float(np.mean(np.concatenate(bits)))
    density = mixture.score_samples(filled(data, "test", seed=2)).mean()
    found["bits per dimension of the mixture"] = float(bits_per_dimension(density, size, 2 / model.levels))
    start = tf.constant(generation.draw(len(test) * size, 1, "normal", 3).reshape(test.shape))
    noise, score = seeded_noise((2 * len(test), *test.shape[1:]), seed=4), tf.function(model.score)
    half = dict(num_steps=STEPS // 2, norms="sample")
    others = {
        f"{STEPS // 2} steps of predictor and corrector": model.from_inner(
            predictor_corrector(score, model.process, start, noise, **PAPER | half)
        ),
        "the probability flow": model.decode(start),
        "the mixture": of_mixture(mixture, data),
    }
    return found | {f"{metric} of {name}": generation.distance(data, np.asarray(x)) for name, x in others.items()}


def picture(outcome):
    """Samples, the walk to them, what is filled in, and what lies between two; or densities of points."""
    if outcome.options.dataset == POINTS:
        return picture_of_points(outcome)
    model, test = outcome.model, outcome.data.arrays["test"].astype("float32")
    figure = pictures.figure(12, 7.5)
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.1))
    rows = SHOWN // 3 if outcome.data.form else SHOWN
    samples, path = model.sample(rows * SHOWN, seed=0, num_kept=SHOWN)
    diffusion.show_grid(left, np.asarray(samples), test)
    keep = np.ones(test.shape[1:], "float32")
    keep[:, keep.shape[1] // 2 :] = 0  # the left half is known
    known = test[:SHOWN]
    filled_in = [model.inpaint(known, keep, seed=i) for i in range(3)]
    pairs = min(4, len(test) // 2)
    between = np.asarray(model.interpolate(test[:pairs], test[pairs : 2 * pairs], SHOWN)).swapaxes(0, 1)
    rows = {
        "From noise to samples": np.asarray(path)[:, :4].swapaxes(0, 1),
        "Test images, their left halves, and three completions": np.stack([known, known * keep, *filled_in]),
        "Between two test images, by their noise": between,
    }
    for axis, (title, images) in zip(right.subplots(3, 1), rows.items(), strict=True):
        diffusion.show_tiled(axis, images.reshape(-1, *test.shape[1:]), images.shape[1], title)
    return figure


def picture_of_points(outcome):
    """The density of the model beside the one that made the points, samples of both samplers, and the loss."""
    model, test = outcome.model, outcome.data.arrays["test"]
    side, limits = 60, ((-1.6, 2.6), (-1.1, 1.6))
    grid = np.stack(np.meshgrid(*(np.linspace(*limit, side) for limit in limits)), -1).reshape(-1, 2).astype("float32")
    found = np.asarray(model.log_likelihood(grid))
    panels = {"log-density by the probability flow": found, "log-density that made the points": moons_log_density(grid)}
    samples = {
        f"{STEPS} steps of the reverse equation": model.sample(1000, seed=0),
        "probability flow": model.decode(model.draw_noise(1000, seed=1)),
    }
    figure = pictures.figure(12, 7)
    axes = figure.subplots(2, 3).ravel()
    for axis, (title, values) in zip(axes, panels.items(), strict=False):
        axis.imshow(values.reshape(side, side), origin="lower", extent=(*limits[0], *limits[1]), vmin=-8, vmax=0.5)
        pictures.style(axis, title)
    for axis, (title, points) in zip(axes[2:], samples.items(), strict=False):
        axis.scatter(*test.T, s=2, color=pictures.FAINT, linewidths=0)
        axis.scatter(*np.asarray(points).T, s=4, color=pictures.COLORS[0], linewidths=0)
        axis.set(xlim=limits[0], ylim=limits[1])
        pictures.style(axis, title)
    axes[4].scatter(moons_log_density(test), model.log_likelihood(test), s=3, color=pictures.COLORS[1], linewidths=0)
    axes[4].plot([-6, 0], [-6, 0], color=pictures.INK, linewidth=0.8)
    pictures.style(axes[4], "log-density of test points", "true, nats", "model, nats")
    history = next(iter(outcome.trained.values())).history
    axes[5].plot(range(1, len(history) + 1), [row["val_loss"] for row in history], color=pictures.COLORS[0])
    pictures.style(axes[5], "loss of the average on test points", "epoch")
    return figure


SCORE = ("score",)  # of integer files: a loop cannot be calibrated
RECIPE = Recipe(
    name="score_sde",
    model="ScoreSDE",
    summary="A score-based model draws digits and tells how likely they are",
    tasks={
        "optdigits": Task(
            epochs=100,
            batch_size=64,
            metric="digit-FID",
            aim=6.8,
            higher_is_better=False,
            exports=(FLOAT, Export("int8", "cpu", SCORE)),
        ),
        POINTS: Task(
            epochs=450,
            batch_size=1000,
            metric="log-likelihood, nats",
            aim=-1.06,
            exports=(FLOAT, DYNAMIC_INT8),
            reproduced=True,
        ),
        "mnist_5k": Task(
            epochs=60,
            batch_size=64,
            metric="digit-FID",
            aim=14.6,
            higher_is_better=False,
            exports=(FLOAT, Export("int8", "cpu", SCORE)),
        ),
        "cifar10": Task(
            epochs=3400,
            batch_size=128,
            metric=generation.THUMBNAILS,
            higher_is_better=False,
            exports=(FLOAT, Export("int8", "cpu", SCORE)),
        ),
    },
    own={
        OWN: Task(
            epochs=200,
            batch_size=32,
            metric=generation.THUMBNAILS,
            higher_is_better=False,
            exports=(FLOAT, Export("int8", "cpu", SCORE)),
        )
    },
    load_data=load_data,
    build_model=build_model,
    evaluate=evaluate,
    baseline=baseline,
    picture=picture,
    figures=figures,
)

if __name__ == "__main__":
    run_as_script("score_sde")
