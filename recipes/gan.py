"""DCGAN draws handwritten digits; and the dense nets of 2014 find eight modes on a circle.

Paper:     Goodfellow et al. 2014, "Generative Adversarial Networks", arXiv:1406.2661; Radford, Metz, Chintala 2015,
           "Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks",
           arXiv:1511.06434. Their figures (Parzen windows, accuracy of a classifier on the features) are not these.
Data:      mnist_5k, padded to 32x32: 4,000 digits for training, each shifted, rotated, scaled and sheared a little in
           each epoch; 1,000 for the test
Command:   keras-dl train gan
Aim:       a digit-FID of 25
Baseline:  the digit-FID of samples of a convolutional VAE, trained as long: 68.8
Reaches:   14.7 after 70 epochs, with precision 0.76 and recall 0.87. Training digits have 3.3, a normal distribution
           with the mean and covariance of the digits 185, noise 449. 1,328 s for both trainings on two very busy cores.
Files:     float32 and float16 14.7; int16x8 14.8; int8 14.4, with all 10 ops on an Ethos-U55 of 128 MACs and on an Edge
           TPU

The digit-FID is the Frechet distance between the test digits and as many generated ones, in the 64 features of the
package's own classifier (`keras_dl.recipes.tasks.digit_judge`). It is no Inception FID.

`--dataset gaussian_ring` (generated): dense nets of 128 units find 8 of 8 modes after 100 epochs and 165 s on two very
busy cores. 93.8% of 2,500 points are within 3 standard deviations of a mode, and the shares of the modes are 0.011 nats
from even ones. A normal distribution finds no mode.

`--dataset optdigits`: 8x8 digits, to compare with the score models of the same digits, `ncsn` and `score_sde`. The
digit-FID is 20.9 after 200 epochs, of 288,000 images; a normal distribution has 25.0. Nothing was searched for.

`--data PATH` trains DCGAN with half of its authors' channels on your images, 64x64 by default. The metric is the
Frechet distance of thumbnails. Not tuned for photographs.

`--dataset mnist`: the nets and the optimizer of the 2014 paper. `--dataset celeb_a`: DCGAN as its authors trained it,
on faces of 64x64. Not measured.
"""

import keras
import numpy as np

import keras_dl
from keras_dl.export import KerasRunner
from keras_dl.models.generative.dcgan import first_maps
from keras_dl.recipes.datasets.gaussian_ring import centers, coverage
from keras_dl.recipes.tasks import digit_judge, generation
from keras_dl.recipes.training import pictures
from keras_dl.recipes.training.recipe import EDGETPU, ETHOS_U55, FLOAT, INT8, Export, Recipe, Task, run_as_script
from keras_dl.recipes.training.runner import EVALUATION_BATCH

FLOAT16, INT16X8 = Export("float16", "cpu"), Export("int16x8", "cpu")
RING, SMALL_DIGITS = "gaussian_ring", "optdigits"
OWN = "pictures"  # the form of own data
NOISE_DIM, LATENT_DIM = 100, 20
SMALL = dict(filters=32, averaging=0.999)
WIDTHS = (128, 128)  # of both nets for the ring
SHOWN = 64  # samples of a snapshot of images; of points, ten times as many


def _is_doubled(side):
    """Whether DCGAN's generator can double its first maps to this side."""
    try:
        first_maps((side, side, 1))
    except ValueError:
        return False
    return True


SIDES = generation.Sides(64, _is_doubled, "4 to 7 times a power of 2, such as 28, 32, 48 or 64")


def load_data(options, variant):
    served = ("sample", LATENT_DIM, "normal") if variant == "vae" else ("generate", *_noise(options))
    if options.dataset == RING:
        return generation.points(options, served)
    if options.dataset == "celeb_a":
        return generation.faces(options, served, side=64)
    if options.dataset == OWN:
        return generation.own_pictures(options, served, SIDES)
    as_they_are = options.dataset in ("mnist", SMALL_DIGITS)
    margin = 0 if as_they_are else 2
    moves = {} if as_they_are else dict(pixels=0.25, degrees=3.0, zoom=0.03, shear=0.06)
    return generation.digits(options, served, margin, **moves)


def _noise(options):
    """Size and kind of the noise that the generator takes."""
    return {RING: (2, "normal"), "mnist": (NOISE_DIM, "uniform")}.get(options.dataset, (NOISE_DIM, "normal"))


def build_model(data, options, variant):
    steps = data.steps(options)
    if variant == "vae":
        model = keras_dl.VAE(
            data.input_shape, LATENT_DIM, (256,), filters=(32, 64), activation="relu", seed=options.seed
        )
        model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1.5e-3, steps)))
        return model
    size, noise = _noise(options)
    if options.dataset == RING:
        model = keras_dl.GAN(
            data.input_shape,
            noise_dim=size,
            generator_dims=WIDTHS,
            discriminator_dims=WIDTHS,
            pieces=1,
            input_dropout_rate=0.0,
            dropout_rate=0.0,
            data_range="unbounded",
            noise=noise,
            generator_range=None,
            discriminator_range=None,
            averaging=0.999,
            seed=options.seed,
        )
        rate = keras.optimizers.schedules.CosineDecay(options.rate(1e-3), steps)
        model.compile(keras.optimizers.Adam(rate, beta_1=0.5))
    elif options.dataset == "mnist":
        model = keras_dl.GAN.from_preset("goodfellow2014_mnist", seed=options.seed)
        rate = keras.optimizers.schedules.ExponentialDecay(options.rate(0.1), 1, 1 / 1.000004)
        model.compile(keras.optimizers.SGD(rate, momentum=0.5))
    else:
        settings = SMALL if options.dataset in ("mnist_5k", SMALL_DIGITS, OWN) else {}
        rate = 5e-4 if options.dataset in ("mnist_5k", SMALL_DIGITS) else 2e-4
        model = keras_dl.DCGAN(data.input_shape, size, noise=noise, seed=options.seed, **settings)
        model.compile(keras.optimizers.Adam(options.rate(rate), beta_1=0.5))
    return model


def evaluate(serve, data):
    """Digit-FID; of points, the modes that are found; of other images, the Frechet distance of thumbnails."""
    return score(generation.generated(serve, data), data)


def score(samples, data):
    """The metric of samples of any origin."""
    if samples.ndim == 2:
        return coverage(samples)["modes"]
    return generation.distance(data, samples)


def baseline(outcome):
    """The VAE of the same run; without one, a normal distribution with the mean and covariance of the data."""
    if "vae" in outcome.trained:
        return "VAE", outcome.trained["vae"].value
    data = outcome.data
    return "normal distribution", score(generation.of_normal_distribution(data.arrays["train"], data.num_test), data)


def figures(outcome):
    """What a collapse would show in: recall and the entropy of the classes, or the modes; and what to compare with."""
    data, test = outcome.data, outcome.data.arrays["test"]
    seen = data.arrays["train"]
    serve = KerasRunner(outcome.model, EVALUATION_BATCH).serve
    samples = generation.generated(serve, data)
    if outcome.options.dataset == RING:
        return coverage(samples)
    others = {
        "training examples, the floor": seen[: len(test)],
        "a normal distribution": generation.of_normal_distribution(seen, len(test)),
        "noise": np.random.default_rng(0).uniform(0, 255, test.shape),
    }
    compared = {f"{outcome.task.metric} of {name}": score(x, data) for name, x in others.items()}
    if not generation.is_digits(data):
        return compared
    judge = digit_judge.judge_of(test)
    found = digit_judge.quality(test, samples)
    del found["digit_fid"]  # the metric itself
    return found | compared | {"accuracy of the judge": judge.accuracy, "weights of the judge": judge.hash}


def snapshot(options, epoch, model):
    """Samples of fixed noise, at epochs that lie the closer the earlier they are."""
    shares = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)
    if isinstance(model, keras_dl.VAE) or epoch not in {max(1, round(share * options.epochs)) for share in shares}:
        return None
    count = 10 * SHOWN if options.dataset == RING else SHOWN
    samples = model.generate(generation.draw(count, *_noise(options), seed=2))
    return np.asarray(samples if options.dataset == RING else np.rint(samples), "float32")


def picture(outcome):
    """Samples at the end and over time, and the losses of both nets."""
    name, trained = next(iter(outcome.trained.items()))
    if name == "vae":
        return picture_of_vae(outcome)
    figure = pictures.figure(12, 7.2)
    upper, lower = figure.subfigures(2, 1, height_ratios=(2.3, 1))
    left, right = upper.subfigures(1, 2, width_ratios=(1.25, 1))
    moments = sorted(trained.snapshots)
    last = trained.snapshots[moments[-1]]
    columns = lower.subplots(1, len(moments), squeeze=False)[0]
    if outcome.options.dataset == RING:
        draw_points(left.subplots(), outcome, last)
    else:
        grid(left, outcome, last)
    losses(right.subplots(), trained.history)
    for axis, epoch in zip(columns, moments, strict=True):
        shown = trained.snapshots[epoch]
        if outcome.options.dataset == RING:
            draw_points(axis, outcome, shown, small=True)
        else:
            pictures.show_image(axis, pictures.tiled(shown[:16], 4))
        axis.set_title(f"epoch {epoch}", fontsize=8, color=pictures.INK)
    return figure


def grid(figure, outcome, samples):
    """Generated images, not chosen, under a row of real ones."""
    title = f"Samples, not chosen, in epoch {outcome.options.epochs}; below the line, real examples"
    figure.suptitle(title, fontsize=11, color=pictures.INK, fontweight="bold")
    upper, lower = figure.subplots(2, 1, height_ratios=(5, 1))
    pictures.show_image(upper, pictures.tiled(samples[:60], 12))
    pictures.show_image(lower, pictures.row(outcome.data.arrays["test"], 12))


def draw_points(axis, outcome, points, small=False):
    """Generated points over real ones."""
    axis.scatter(*outcome.data.arrays["test"].T, s=2, color=pictures.FAINT, linewidths=0)
    axis.scatter(*points.T, s=2 if small else 6, color=pictures.COLORS[0], linewidths=0, alpha=0.6)
    axis.scatter(*centers().T, s=10 if small else 60, color=pictures.COLORS[1], marker="+", linewidths=0.8)
    axis.set(xlim=(-2.8, 2.8), ylim=(-2.8, 2.8), aspect="equal")
    if small:
        axis.set_xticks([])
        axis.set_yticks([])
        return
    found = coverage(points)
    pictures.style(
        axis, f"{found['modes']:.0f} of 8 modes; {found['high_quality']:.0%} of the points within 3 deviations"
    )


def losses(axis, history):
    """Both losses, and where they are if the discriminator cannot tell."""
    for key, label, color in (("loss", "discriminator", 0), ("generator_loss", "generator", 1)):
        axis.plot(range(1, len(history) + 1), [row[key] for row in history], color=pictures.COLORS[color], label=label)
    axis.axhline(np.log(4), color=pictures.COLORS[0], linewidth=0.8, linestyle=":")
    axis.axhline(np.log(2), color=pictures.COLORS[1], linewidth=0.8, linestyle=":")
    pictures.style(axis, "Losses; dotted, where D cannot tell", "epoch", "nats")
    axis.legend(frameon=False)


def picture_of_vae(outcome):
    """Samples of the VAE alone."""
    figure = pictures.figure(8, 6)
    samples = outcome.model.sample(80, seed=outcome.options.seed)
    pictures.show_image(figure.subplots(), pictures.tiled(samples, 10))
    return figure


RECIPE = Recipe(
    name="gan",
    model="DCGAN",
    summary="DCGAN draws handwritten digits; dense nets find eight modes on a circle",
    tasks={
        "mnist_5k": Task(
            epochs=70,
            batch_size=64,
            metric="digit-FID",
            aim=25.0,
            variants=("dcgan", "vae"),
            baselines=("vae",),
            higher_is_better=False,
            exports=(FLOAT, FLOAT16, INT8, INT16X8, ETHOS_U55, EDGETPU),
        ),
        SMALL_DIGITS: Task(
            epochs=200,
            batch_size=32,
            metric="digit-FID",
            variants=("dcgan",),
            higher_is_better=False,
            exports=(FLOAT, INT8),
            reproduced=True,
        ),
        RING: Task(epochs=100, batch_size=256, metric="modes found", aim=8, exports=(FLOAT, INT8), reproduced=True),
        "mnist": Task(epochs=100, batch_size=100, metric="digit-FID", higher_is_better=False, exports=(FLOAT, INT8)),
        "celeb_a": Task(
            epochs=25,
            batch_size=128,
            metric=generation.THUMBNAILS,
            higher_is_better=False,
            exports=(FLOAT, INT8),
        ),
    },
    own={
        OWN: Task(
            epochs=200,
            batch_size=64,
            metric=generation.THUMBNAILS,
            higher_is_better=False,
            exports=(FLOAT, FLOAT16, INT8, INT16X8),
        )
    },
    load_data=load_data,
    build_model=build_model,
    evaluate=evaluate,
    baseline=baseline,
    picture=picture,
    snapshot=snapshot,
    figures=figures,
)

if __name__ == "__main__":
    run_as_script("gan")
