"""A score network draws small digits by Langevin dynamics at less and less noise; and modes get their weights.

Paper:     Song, Ermon 2019, "Generative Modeling by Estimating Gradients of the Data Distribution", arXiv:1907.05600;
           Song, Ermon 2020, "Improved Techniques for Training Score-Based Generative Models", arXiv:2006.09011
Data:      optdigits: 1,447 digits of 8x8 for training, 350 for the test
Command:   keras-dl train ncsn
Aim:       a digit-FID of 6.8: three times that of training digits, 2.27
Baseline:  the digit-FID of samples of a VAE with dense layers
Reaches:   3.59, where training digits have 2.27, the VAE 23.0, and DCGAN 20.9 (`keras-dl train gan --dataset
           optdigits`). 1,648 s for both trainings on two very busy cores
Files:     float32 3.59, from noise to image in one file. int8 weights: not measured

The digit-FID is the Frechet distance between the 350 test digits and as many generated ones, in the 64 features of the
package's own classifier of 8x8 digits (`keras_dl.recipes.tasks.digit_judge`). It is no Inception FID, and cannot be
compared with values at 28x28. Samples take the second paper's techniques: levels from the largest distance of two
digits down to 0.01, at the ratio that their dimension asks for, 10 steps at each, and the moving average of the
weights.

`--dataset gaussian_pair` (generated): two modes of weights 0.8 and 0.2, far apart. The metric is how far the share of
the larger one is from 0.8. The baseline is Langevin dynamics of as many steps by the same net at the least noise. The
error is 0.0198 after 36 s, that of the baseline 0.185. The aim of 0.02 is reached with this noise, and with that of the
picture it is missed: 0.021. The same sampler has 0.009 with the exact scores, of which the learned ones miss 0.01% of
the square (noise 20) to 3.6% (noise 0.1). File: float32 0.0198, of 64 chains in a call.

`--data PATH` trains the second paper's net for 32x32 pixels with an eighth of its channels on your images, 32x32 by
default, with its techniques and 3 steps at each level. The metric is the Frechet distance of thumbnails. Not tuned for
photographs. A sample takes hundreds of passes of the net: `--image-size 16` is much faster.

`--dataset mnist_5k`: the same at 28x28. Not measured: it takes hours. `--dataset cifar10` and `celeb_a` train the
second paper's nets. Not measured: a step takes a minute on two cores.
"""

import keras
import numpy as np
import tensorflow as tf

import keras_dl
from keras_dl import diffusion as processes
from keras_dl.export import KerasRunner
from keras_dl.export.errors import SignatureError
from keras_dl.recipes.datasets import gaussian_pair
from keras_dl.recipes.tasks import diffusion, generation
from keras_dl.recipes.training import pictures
from keras_dl.recipes.training.recipe import FLOAT, Export, Recipe, Task, run_as_script
from keras_dl.recipes.training.runner import EVALUATION_BATCH

# int8, int16x8 and dynamic_int8 are refused: see docs/recipes.md.
INT8_WEIGHTS = Export("weight_only_int8", "cpu", signatures=("score",))
PAIR = "gaussian_pair"
# With the exact scores, 10 levels and 100 steps miss the weight by 0.034: docs/recipes.md.
PAIR_LEVELS, PAIR_STEP, PAIR_STEPS = processes.GeometricLevels(20.0, 0.1, 20), 1e-3, 200
PAIR_FILE = FLOAT._replace(batch_size=EVALUATION_BATCH)  # one by one, 5,000 chains of 4,000 steps are too slow
OWN = "pictures"  # the form of own data
SIDES = generation.multiples(2, default=32)  # one of the stages halves them
PRESETS = {"cifar10": ("song2020_cifar10", 32), "celeb_a": ("song2020_celeba64", 64)}
NETS = {
    "optdigits": dict(filters=24, multipliers=(1, 2, 2), dilations=(2,)),
    "mnist_5k": dict(filters=16, multipliers=(1, 2, 2, 2), dilations=(2, 4)),
    OWN: dict(filters=16, multipliers=(1, 2, 2, 2), dilations=(2, 4)),
}
SMALLEST, STEPS, OWN_STEPS = 0.01, 10, 3  # noise of the last level, and steps at each; of own images, as for LSUN
LATENT_DIM = 8  # of the VAE
FARTHEST = 2000  # examples among which the largest distance is looked for
SEED, BLOCK = 0, EVALUATION_BATCH  # of the noise that samples start from; samples whose noise is in memory
SHOWN = 16  # samples of a snapshot


def load_data(options, variant):
    served = ("sample", LATENT_DIM, "normal")
    if options.dataset == PAIR:
        data = generation.points(options, served)
    elif options.dataset in PRESETS:
        data = generation.photographs(options, served, PRESETS[options.dataset][1], mirror=True)
    elif options.dataset == OWN:
        data = generation.own_pictures(options, served, SIDES, diffusion.MOST_OWN)
    else:
        data = generation.digits(options, served)
    if variant != "vae":  # chains draw noise of their own
        del data.arrays["noise"], data.arrays["signature"]
    return data


def settings(data) -> dict:
    """The arguments of the model that belong to the sampler: levels, step size, steps."""
    if is_pair(data):
        return dict(process=PAIR_LEVELS, step_size=PAIR_STEP, steps_per_level=PAIR_STEPS)
    if data.dataset in PRESETS and not data.form:
        preset = keras_dl.NCSN.presets[PRESETS[data.dataset][0]]
        return {name: preset[name] for name in ("process", "step_size", "steps_per_level")}
    largest = processes.largest_distance(data.arrays["train"][:: max(1, data.num_train // FARTHEST)] / 255.0)
    levels = processes.choose_levels(int(np.prod(data.input_shape)), largest, SMALLEST)
    steps = OWN_STEPS if data.form else STEPS
    return dict(process=levels, step_size=processes.choose_step_size(levels, steps), steps_per_level=steps)


def is_pair(data):
    """Whether data are the points of two modes."""
    return data.dataset == PAIR and not data.form


def build_model(data, options, variant):
    steps = data.steps(options)
    if variant == "vae":
        model = keras_dl.VAE(data.input_shape, LATENT_DIM, (128,), activation="relu", seed=options.seed)
        model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1.5e-3, steps)))
        return model
    shared = dict(seed=options.seed, **settings(data))
    if options.dataset == PAIR:
        model = keras_dl.DenseNCSN(2, (128, 128), data_scale=5.0, **shared)
    elif options.dataset in PRESETS:
        model = keras_dl.NCSN.from_preset(PRESETS[options.dataset][0], image_shape=data.input_shape, **shared)
        model.compile(keras.optimizers.Adam(options.rate(1e-4)))
        return model
    else:
        model = keras_dl.NCSN(data.input_shape, activation="silu", **NETS[options.dataset], **shared)
    rate = options.rate(5e-3 if options.dataset == PAIR else 1e-3)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps)))
    return model


def evaluate(serve, data):
    """Digit-FID; of points, the error of a mode's weight; of other images, the Frechet distance of thumbnails."""
    return score(generated(serve, data), data)


def score(samples, data):
    """The metric of samples of any origin."""
    if is_pair(data):
        return abs(gaussian_pair.share(samples) - gaussian_pair.WEIGHTS[0])
    return generation.distance(data, samples)


def generated(serve, data):
    """Samples of fixed noise, one for each test example, by a model or a file.

    By the signature `sample`; by annealed Langevin dynamics around `score`, where a file has that alone, as integer
    files do.
    """
    if "noise" in data.arrays:  # the VAE's
        return generation.generated(serve, data)
    found, kept = [], settings(data)
    levels = kept["process"]
    name = "points" if is_pair(data) else "images"
    center, scale = (0.0, 1.0) if is_pair(data) else (0.5, 255.0)
    for start in range(0, data.num_test, BLOCK):
        count = min(BLOCK, data.num_test - start)
        noise = chains(data, start, count)
        try:
            found.append(serve("sample", noise=noise)[name])
            continue
        except SignatureError:
            noise = noise.reshape(count, -1, *data.input_shape)

        def predicted(x, t):
            level = (levels.size - 1 - t.numpy()).astype("int32")
            return serve("score", **{name: np.float32(x)}, level=level)["scores"]

        first = center + np.float32(levels.sigmas[0]) * noise[:, 0]
        draw = tf.constant(noise)
        x = processes.annealed_langevin(
            predicted, first, lambda i, draw=draw: draw[:, i + 1], levels, kept["step_size"], kept["steps_per_level"],
            unroll=True,
        )  # fmt: skip
        found.append(x if is_pair(data) else np.clip(scale * x, 0, 255))
    return np.concatenate(found)


def chains(data, start, count):
    """The noise of the samples from `start` on: float32, `(count, draws, numbers of an example)`."""
    kept = settings(data)
    draws = 1 + kept["process"].size * kept["steps_per_level"]
    random = np.random.default_rng((SEED, start))
    return random.standard_normal((count, draws, int(np.prod(data.input_shape)))).astype("float32")


def calibrate(serve, data, samples):
    """Training examples with the noise of all levels, evenly; and the noise of chains."""
    random = np.random.default_rng(1)
    levels, train = settings(data)["process"], data.arrays["train"]
    rows = train[random.choice(len(train), samples, replace=samples > len(train))].astype("float32")
    name = "points" if is_pair(data) else "images"
    rows = rows if is_pair(data) else rows / 255
    times = random.permutation(levels.evaluation_times(samples).numpy()).astype("int32")
    noisy = levels.perturb(rows, times, random.standard_normal(rows.shape).astype("float32")).numpy()
    level = (levels.size - 1 - times).astype("int32")
    return {
        "score": [{name: noisy[i : i + 1], "level": level[i : i + 1]} for i in range(samples)],
        "sample": [{"noise": chains(data, data.num_test + i, 1)} for i in range(min(samples, 64))],
    }


def baseline(outcome):
    """The VAE of the same run; of points, dynamics without annealing; else a normal distribution."""
    data = outcome.data
    if "vae" in outcome.trained:
        return "VAE", outcome.trained["vae"].value
    if is_pair(data):
        return "Langevin dynamics without annealing", score(plain(outcome.model, data), data)
    drawn = generation.of_normal_distribution(data.arrays["train"], data.num_test)
    return "normal distribution", score(drawn, data)


def plain(model, data):
    """Points by as many steps at the last level alone, from a square that has both modes."""

    def scores(x, t):
        return model({"points": x, "times": tf.zeros_like(t)}, training=False)

    start = tf.random.stateless_uniform((data.num_test, 2), (SEED, 0), -8.0, 8.0)
    last = processes.NoiseLevels((float(PAIR_LEVELS.sigmas[-1]),))
    return walked(scores, start, last, PAIR_LEVELS.size * PAIR_STEPS)


def by_exact_scores(data):
    """Points by the same levels and steps, with the exact scores: what the sampler itself misses."""

    def scores(x, t):
        _, sigma = PAIR_LEVELS.coefficients(t[0], x[0])
        found = tf.numpy_function(lambda *given: np.float32(gaussian_pair.score(*given)), [x, sigma], tf.float32)
        return tf.ensure_shape(found, x.shape)

    start = np.float32(PAIR_LEVELS.sigmas[0]) * tf.random.stateless_normal((data.num_test, 2), (SEED, 0))
    return walked(scores, start, PAIR_LEVELS, PAIR_STEPS)


def walked(scores, start, levels, steps):
    """Points by `steps` of Langevin dynamics at each of the levels, in a graph: float32, the shape of `start`."""
    noise = processes.seeded_noise(start.shape, SEED)
    return tf.function(lambda: processes.annealed_langevin(scores, start, noise, levels, PAIR_STEP, steps))().numpy()


def figures(outcome):
    data, model = outcome.data, outcome.model
    if is_pair(data):
        found = {f"missed share of the score, noise {s:.2g}": x for s, x in missed(model, data)}
        return found | {f"{outcome.task.metric} with the exact scores": score(by_exact_scores(data), data)}
    if isinstance(model, keras_dl.VAE):
        return {}
    kept = settings(data)
    found = {"noise levels": float(kept["process"].size), "largest noise": kept["process"].largest}
    found |= {"step size": kept["step_size"], "draws of a sample": float(model.num_draws)}
    samples = ()
    if generation.is_digits(data):  # which are judged further; a sample takes long
        samples = generated(KerasRunner(model, EVALUATION_BATCH, ["sample"]).serve, data)
    found |= diffusion.compared(data, samples, outcome.task.metric)
    normal = generation.of_normal_distribution(data.arrays["train"], data.num_test)
    return found | {f"{outcome.task.metric} of a normal distribution": score(normal, data)}


def missed(model, data):
    """At each level, the share of the exact score's square that the learned score misses, on noisy test points."""
    found = []
    for level, sigma in enumerate(PAIR_LEVELS.sigmas):
        points = data.arrays["test"] + sigma * np.random.default_rng(level).normal(size=data.arrays["test"].shape)
        exact = gaussian_pair.score(points, sigma)
        error = model.score(points.astype("float32"), np.full(len(points), level)) - exact
        found.append((sigma, float(np.square(error).mean() / np.square(exact).mean())))
    return found


def snapshot(options, epoch, model):
    """Samples of fixed noise, at epochs that lie the closer the earlier they are."""
    shares = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)
    if isinstance(model, keras_dl.VAE) or options.dataset == PAIR:
        return None
    if epoch not in {max(1, round(share * options.epochs)) for share in shares}:
        return None
    return np.rint(model.sample(SHOWN if options.dataset != OWN else SHOWN // 2, seed=2))


def picture(outcome):
    """Samples, the walk through the levels, completed images, and losses; of points, the scores and both dynamics."""
    name, trained = next(iter(outcome.trained.items()))
    if name == "vae":
        figure = pictures.figure(8, 6)
        diffusion.show_tiled(figure.subplots(), outcome.model.sample(80, seed=outcome.options.seed), 10, "Samples")
        return figure
    if is_pair(outcome.data):
        return picture_of_pair(outcome, trained)
    model, test = outcome.model, outcome.data.arrays["test"]
    figure = pictures.figure(12, 10.5)
    upper, middle, lower = figure.subfigures(3, 1, height_ratios=(2.2, 0.9, 1.5))
    left, right = upper.subfigures(1, 2, width_ratios=(1.5, 1))
    random = np.random.default_rng(0).permutation(len(test))
    diffusion.show_grid(left, model.sample(36 if outcome.data.form else 72, seed=0), test[random])
    diffusion.show_walk(right.subplots(), model.sample(8, seed=1, num_kept=9), "Through the levels, noise clipped")
    moments = sorted(trained.snapshots)
    for axis, epoch in zip(middle.subplots(1, len(moments), squeeze=False)[0], moments, strict=True):
        diffusion.show_tiled(axis, trained.snapshots[epoch], 8, f"epoch {epoch}")
    first, second, third = lower.subplots(1, 3, width_ratios=(1, 1, 1.3))
    pictures.curves(first, {"training": trained}, "loss")
    pictures.curves(first, {"test, average": trained}, "val_loss", color=pictures.COLORS[1], label="test, average")
    first.legend(frameon=False)
    pictures.style(first, "Loss", "epoch")
    times, losses = diffusion.losses_by_time(model, test[:: max(len(test) // 100, 1)], count=model.process.size)
    second.plot(model.process.sigmas[::-1][times], losses, color=pictures.COLORS[0], marker=".", linewidth=1.4)
    second.set(xscale="log")
    pictures.style(second, "Loss by noise", "sigma")
    known = np.zeros((*test.shape[1:3], 1), bool)
    known[: len(known) // 2] = True
    shown = test[random[:5]]
    filled = [model.inpaint(shown, known, seed=seed) for seed in range(4)]
    rows = np.stack([shown, np.where(known, shown, 0), *filled], 1).reshape(-1, *test.shape[1:])
    diffusion.show_tiled(third, rows, 6, "Test images, the known part, completions")
    return figure


def picture_of_pair(outcome, trained):
    """The paper's fig. 2 and 3 on what was learned here."""
    model, data = outcome.model, outcome.data
    figure = pictures.figure(12, 8)
    upper, lower = figure.subplots(2, 3)
    side = np.linspace(-8, 8, 17)
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    for axis, level in zip(upper, (0, PAIR_LEVELS.size // 3, PAIR_LEVELS.size - 1), strict=True):
        sigma = PAIR_LEVELS.sigmas[level]
        arrows = (gaussian_pair.score(grid, sigma), model.score(grid.astype("float32"), np.full(len(grid), level)))
        for color, (arrow, look) in enumerate(zip(arrows, (("exact", 0.008), ("learned", 0.004)), strict=True)):
            label, width = look
            unit = np.square(arrows[0]).sum(-1).max() ** 0.5
            axis.quiver(
                *grid.T, *(np.asarray(arrow) / unit).T, color=pictures.COLORS[color], width=width, scale=18, label=label
            )
        pictures.style(axis, f"Scores at the noise {sigma:.2g}")
    upper[0].legend(frameon=False, loc="upper left", fontsize=8)
    annealed = np.asarray(model.sample(data.num_test, seed=SEED))
    shown = (("Data", data.arrays["test"]), ("Without annealing", plain(model, data)), ("Annealed", annealed))
    for axis, (title, points) in zip(lower, shown, strict=True):
        axis.scatter(*points[:2000].T, s=3, color=pictures.COLORS[0], linewidths=0, alpha=0.5)
        axis.set(xlim=(-9, 9), ylim=(-9, 9))
        pictures.style(axis, f"{title}: {gaussian_pair.share(points):.1%} in the upper mode")
    return figure


RECIPE = Recipe(
    name="ncsn",
    model="NCSN",
    summary="A score network draws small digits by annealed Langevin dynamics; modes get their weights",
    tasks={
        "optdigits": Task(
            epochs=200,
            batch_size=32,
            metric="digit-FID",
            aim=6.8,
            variants=("ncsn", "vae"),
            baselines=("vae",),
            higher_is_better=False,
            exports=(FLOAT,),
        ),
        PAIR: Task(
            epochs=40,
            batch_size=256,
            metric="error of a mode's weight",
            aim=0.02,
            variants=("ncsn",),
            higher_is_better=False,
            exports=(PAIR_FILE,),
            reproduced=True,
        ),
        "mnist_5k": Task(
            epochs=60,
            batch_size=64,
            metric="digit-FID",
            variants=("ncsn",),
            higher_is_better=False,
            exports=(FLOAT, INT8_WEIGHTS),
        ),
        **{
            dataset: Task(
                epochs=768 if dataset == "cifar10" else 170,
                batch_size=128,
                metric=generation.THUMBNAILS,
                variants=("ncsn",),
                higher_is_better=False,
                exports=(FLOAT,),
            )
            for dataset in PRESETS
        },
    },
    own={
        OWN: Task(
            epochs=150,
            batch_size=32,
            metric=generation.THUMBNAILS,
            variants=("ncsn",),
            higher_is_better=False,
            exports=(FLOAT, INT8_WEIGHTS),
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
    run_as_script("ncsn")
