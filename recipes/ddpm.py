"""A U-Net learns to remove noise, and draws handwritten digits by removing all of it, step by step.

Paper:     Ho, Jain, Abbeel 2020, "Denoising Diffusion Probabilistic Models", arXiv:2006.11239; Nichol, Dhariwal 2021,
           arXiv:2102.09672 (cosine betas); Song, Meng, Ermon 2020, arXiv:2010.02502 (DDIM)
Data:      mnist_5k: 4,000 digits of 28x28 for training, 1,000 for the test
Command:   keras-dl train ddpm
Aim:       a digit-FID of 14.66, which is DCGAN's on the same test digits
Baseline:  the digit-FID of a normal distribution with the mean and covariance of the digits
Reaches:   a digit-FID of 14.2 after 100 epochs and 1,805 s on a very busy machine of two cores; the baseline has 185
Files:     float32 14.2; dynamic_int8, of `denoise` alone, 14.2

The digit-FID is the Frechet distance between the 1,000 test digits and as many generated ones, in the 64 features of
the package's own classifier (`keras_dl.recipes.tasks.digit_judge`). It is no Inception FID. Samples take 25 steps of
DDIM from fixed noise, by the moving average of the weights.

The U-Net has 703,076 weights, and sees patches of 2x2 pixels as channels. The paper's net has 35.7 million. It predicts
the velocity, where the paper's predicts the noise: see docs/recipes.md.

`--data PATH` trains a small U-Net of the same kind on your images, 32x32 by default. The metric is the Frechet distance
of thumbnails. Not tuned for photographs.

`--dataset cifar10`, `lsun` and `celeb_a`: the net, the betas and the optimizer of the paper. Not measured: a step takes
a minute on two cores.
"""

import math

import keras
import numpy as np

import keras_dl
from keras_dl.export import KerasRunner
from keras_dl.recipes.tasks import diffusion, generation
from keras_dl.recipes.training import pictures
from keras_dl.recipes.training.recipe import FLOAT, Export, Recipe, Task, run_as_script
from keras_dl.recipes.training.runner import EVALUATION_BATCH

# int8 and int16x8 are refused: see docs/recipes.md.
DYNAMIC_INT8 = Export("dynamic_int8", "cpu", signatures=("denoise",))
PAPER = {"cifar10": ("ho2020_cifar10", 32), "lsun/bedroom": ("ho2020_lsun", 256), "celeb_a": ("ho2020_lsun", 64)}
OWN = "pictures"  # the form of own data
SIDES = generation.multiples(4, default=32)  # patches of 2 pixels, halved once or more
NUM_STEPS = 25
WARMUP = 200  # steps
PREDICTS = "velocity"  # of the small nets
SHOWN = 16  # samples of a snapshot
BOUNDED, OWN_BOUNDED = 32, 4  # test digits of which the variational bound is measured; own images, by a larger net


def load_data(options, variant):
    if options.dataset in PAPER:
        _, side = PAPER[options.dataset]
        return diffusion.photographs(options, NUM_STEPS, side)
    if options.dataset == OWN:
        return diffusion.own_pictures(options, NUM_STEPS, SIDES)
    return diffusion.digits(options, NUM_STEPS)


def build_model(data, options, variant):
    if options.dataset in PAPER:
        preset, _ = PAPER[options.dataset]
        model = keras_dl.DDPM.from_preset(
            preset, image_shape=data.input_shape, sampling_steps=NUM_STEPS, seed=options.seed
        )
        peak, warmup = options.rate(2e-4), 5000
        rate = keras.optimizers.schedules.CosineDecay(0.0, 1, alpha=1.0, warmup_target=peak, warmup_steps=warmup)
    else:
        settings = dict(predicts=PREDICTS, averaging=0.998, sampling_steps=NUM_STEPS, seed=options.seed)
        if options.dataset == OWN:
            settings |= dict(image_shape=data.input_shape) | small_net(data.input_shape[0])
        model = keras_dl.DDPM.from_preset("digits28", **settings)
        steps = max(data.steps(options) - WARMUP, 1)
        peak = options.rate(2e-3)
        rate = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=peak, warmup_steps=WARMUP)
    model.compile(keras.optimizers.Adam(rate, global_clipnorm=1.0))
    return model


def small_net(side):
    """The arguments of a small U-Net: patches of 2 pixels, halved until a side is odd or has 4, and wider than first.

    Example:

    >>> small_net(32)["multipliers"], small_net(28)["multipliers"], small_net(64)["multipliers"]
    ((1, 2, 2), (1, 2), (1, 2, 2, 2))
    """
    side, halvings = side // 2, 0
    while (side >> halvings) % 2 == 0 and side >> halvings > 4:
        halvings += 1
    attended = diffusion.attended_side(side, halvings)
    return dict(filters=48, multipliers=(1, *[2] * halvings), attention_sides=(attended,))


def is_of_paper(data):
    """Whether data are those for which the net and the betas are the paper's."""
    return data.dataset in PAPER and not data.form


def evaluate(serve, data):
    """Digit-FID; of other images, the Frechet distance of thumbnails."""
    return generation.distance(data, samples(serve, data))


def samples(serve, data):
    """Samples of a model or a file, from the noise of `data`."""
    return diffusion.generated(serve, data, betas(data), "noise" if is_of_paper(data) else PREDICTS)


def betas(data):
    return keras_dl.diffusion.LinearBetas() if is_of_paper(data) else keras_dl.diffusion.CosineBetas()


def calibrate(serve, data, count):
    return diffusion.calibration(data, betas(data), count)


def baseline(outcome):
    data = outcome.data
    drawn = generation.of_normal_distribution(data.arrays["train"], data.num_test)
    return "normal distribution", generation.distance(data, drawn)


def figures(outcome):
    data, metric = outcome.data, outcome.task.metric
    serve = KerasRunner(outcome.model, EVALUATION_BATCH, ["sample"]).serve
    found = diffusion.compared(data, samples(serve, data), metric)
    most = OWN_BOUNDED if data.form else BOUNDED
    bounded = data.arrays["test"][:: max(data.num_test // most, 1)][:most]
    bound = outcome.model.bound(bounded)
    return found | {f"bits for each dimension, bound, {len(bounded)} test images": float(np.mean(bound["total"]))}


def snapshot(options, epoch, model):
    """Samples of fixed noise, at epochs that lie the closer the earlier they are."""
    shares = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)
    if epoch not in {max(1, round(share * options.epochs)) for share in shares}:
        return None
    noise = np.random.default_rng(2).standard_normal((SHOWN, 1, math.prod(model.image_shape)))
    return np.rint(model.sample(noise=noise))


def picture(outcome):
    """Samples at the end and over time, the walk from noise to image, the loss by time, and images between images."""
    model, data = outcome.model, outcome.data
    (trained,) = outcome.trained.values()
    figure = pictures.figure(12, 10.5)
    upper, middle, lower = figure.subfigures(3, 1, height_ratios=(2.2, 0.9, 1.5))
    left, right = upper.subfigures(1, 2, width_ratios=(1.5, 1))
    test, noise = data.arrays["test"], diffusion.draw_starts(data, 72)
    diffusion.show_grid(left, model.sample(noise=noise), test)
    walk = model.sample(noise=noise[:8], num_kept=9)
    diffusion.show_walk(right.subplots(), walk, "From noise to images")
    moments = sorted(trained.snapshots)
    for axis, epoch in zip(middle.subplots(1, len(moments), squeeze=False)[0], moments, strict=True):
        diffusion.show_tiled(axis, trained.snapshots[epoch], 8, f"epoch {epoch}")
    first, second, third = lower.subplots(1, 3, width_ratios=(1, 1, 1.3))
    pictures.curves(first, {"training": trained}, "loss")
    pictures.curves(first, {"test, average": trained}, "val_loss", color=pictures.COLORS[1], label="test, average")
    first.legend(frameon=False)
    pictures.style(first, "Loss", "epoch")
    diffusion.show_losses(second, *diffusion.losses_by_time(model, test[:: max(len(test) // 50, 1)]))
    ends = test[:: max(len(test) // 10, 1)][:8]
    between = np.concatenate([model.interpolate(ends[i], ends[i + 1], 9, seed=i) for i in range(0, len(ends) - 1, 2)])
    diffusion.show_tiled(third, between, 9, "Between two test images, noisy to half")
    return figure


RECIPE = Recipe(
    name="ddpm",
    model="DDPM",
    summary="A U-Net draws digits by removing noise, step by step",
    tasks={
        "mnist_5k": Task(
            epochs=100,
            batch_size=32,
            metric="digit-FID",
            aim=14.66,
            higher_is_better=False,
            exports=(FLOAT, DYNAMIC_INT8),
        ),
        **{
            dataset: Task(
                epochs=2000 if dataset == "cifar10" else 100,
                batch_size=128,
                metric=generation.THUMBNAILS,
                higher_is_better=False,
                exports=(FLOAT,),
            )
            for dataset in PAPER
        },
    },
    own={
        OWN: Task(
            epochs=200,
            batch_size=32,
            metric=generation.THUMBNAILS,
            higher_is_better=False,
            exports=(FLOAT, DYNAMIC_INT8),
        )
    },
    load_data=load_data,
    build_model=build_model,
    evaluate=evaluate,
    baseline=baseline,
    picture=picture,
    calibrate=calibrate,
    snapshot=snapshot,
    figures=figures,
)

if __name__ == "__main__":
    run_as_script("ddpm")
