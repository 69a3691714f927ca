"""StyleGAN2 draws handwritten digits, whose coarse and fine styles can be mixed.

Paper:     Karras, Laine, Aila 2018, "A Style-Based Generator Architecture for Generative Adversarial Networks",
           arXiv:1812.04948; Karras et al. 2019, "Analyzing and Improving the Image Quality of StyleGAN",
           arXiv:1912.04958. Their figures (Inception FID of faces) are not these.
Data:      mnist_5k, padded to 32x32: 4,000 digits for training, each shifted, rotated, scaled and sheared a little in
           each epoch; 1,000 for the test
Command:   keras-dl train stylegan
Aim:       a digit-FID of 50
Baseline:  the digit-FID of DCGAN, which sees as many images
Reaches:   17.3 after 80,000 images, where DCGAN has 30.2, in 3,837 s for both on a very busy machine of two cores
Files:     float32 17.3, float16 17.4; int8 18.5, with 80% of the ops and all multiplications on an Ethos-U55

The digit-FID is that of `keras_dl.recipes.gan`: in the features of the package's own classifier, and no Inception FID.

`--data PATH` trains StyleGAN2 on your images, 32x32 by default, with the weight of R1 that the ADA code takes for such
a size and batch. The metric is the Frechet distance of thumbnails. Not tuned for photographs.

`--dataset mnist`: the first version, which grows from 8x8 to 32x32. `--dataset celeb_a_hq/256`: the settings of the ADA
code for 256 pixels with half of the channels, on faces. Not measured.
"""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

import keras_dl
from keras_dl.export import KerasRunner
from keras_dl.models.generative.style_based import FIRST_SIDE
from keras_dl.recipes import gan
from keras_dl.recipes.tasks import digit_judge, generation
from keras_dl.recipes.training import pictures
from keras_dl.recipes.training.recipe import ETHOS_U55, FLOAT, INT8, Export, Recipe, Task, run_as_script
from keras_dl.recipes.training.runner import EVALUATION_BATCH

FACES, OWN = "celeb_a_hq/256", "pictures"  # the second is the form of own data
NOISE_DIM, STYLE_DIM = 64, 64
SMALL = dict(
    noise_dim=NOISE_DIM, style_dim=STYLE_DIM, mapping_layers=4, base_filters=512, max_filters=32, averaging=0.995
)
RATE, R1_WEIGHT, PATH_LENGTH_WEIGHT = 0.004, 8.0, 0.1
SIDES = generation.Sides(32, lambda n: n >= 2 * FIRST_SIDE and not n & (n - 1), "a power of 2, at least 8")
CHANNELS = 16  # of the largest maps, for own images
TEST_BATCH = 200  # a multiple of the groups that the discriminator compares
GROUP = 4  # images of them
PSI = (0.0, 0.25, 0.5, 0.75, 1.0)


def load_data(options, variant):
    if options.dataset == FACES:
        data = generation.faces(options, ("generate", 512, "normal"), side=256)
    elif options.dataset == OWN:
        data = generation.own_pictures(options, ("generate", NOISE_DIM, "normal"), SIDES)
    else:
        served = ("generate", gan.NOISE_DIM if variant == "dcgan" else NOISE_DIM, "normal")
        moves = dict(pixels=0.25, degrees=3.0, zoom=0.03, shear=0.06) if options.dataset == "mnist_5k" else {}
        data = generation.digits(options, served, 2, **moves)
    data.arrays["map_sides"] = np.array(maps_of(data.input_shape[0], variant))
    parts = {"test": data.test} | ({} if data.validation is None else {"validation": data.validation})
    return dataclasses.replace(data, **{name: _in_groups(part.unbatch()) for name, part in parts.items()})


def _in_groups(rows):
    """Batches that the discriminator can divide into groups, of which a last batch is one. A single image that would be
    the last batch is left out of the losses; the metric has it."""
    count = int(rows.reduce(np.int64(0), lambda n, _: n + 1))
    rest = count % GROUP
    found = rows.take(count - rest).batch(TEST_BATCH)
    if rest > 1:
        found = found.concatenate(rows.skip(count - rest).batch(rest))
    # Keras warns of data that end without having said when.
    return found.apply(tf.data.experimental.assert_cardinality(-(-(count - rest) // TEST_BATCH) + (rest > 1)))


def maps_of(side, variant):
    """The sides of the maps of noise: two of each size, and one of the first in StyleGAN2."""
    doubled = [4 * 2 ** (i // 2) for i in range(2 * side.bit_length() - 4)]
    return doubled if variant == "stylegan" else doubled[1:]


def build_model(data, options, variant):
    if variant == "dcgan":
        model = keras_dl.DCGAN(data.input_shape, gan.NOISE_DIM, seed=options.seed, **gan.SMALL)
        model.compile(keras.optimizers.Adam(options.rate(2e-4), beta_1=0.5))
        return model
    if options.dataset == FACES:
        model = keras_dl.StyleGAN2.from_preset("ada_paper256", seed=options.seed)
        model.compile(*model.optimizers(options.rate(0.0025)))
        return model
    if variant == "stylegan":
        model = keras_dl.StyleGAN(
            data.input_shape,
            seed=options.seed,
            r1_weight=R1_WEIGHT,
            growing_images=max(1, options.epochs * data.num_train // 6),  # grown after two thirds
            **SMALL,
        )
    else:
        side, r1_weight, settings = data.input_shape[0], R1_WEIGHT, SMALL
        if options.dataset == OWN:
            r1_weight = 0.0002 * side**2 / options.batch_size  # that of the ADA code
            settings = SMALL | dict(base_filters=CHANNELS * side)
        model = keras_dl.StyleGAN2(
            data.input_shape,
            seed=options.seed,
            r1_weight=r1_weight,
            path_length_weight=PATH_LENGTH_WEIGHT,
            group_size=GROUP,
            **settings,
        )
    model.compile(*model.optimizers(options.rate(RATE)))
    return model


def calibrate(serve, data, samples):
    """Noise for all signatures, and the styles that `map` makes of it."""
    noise = generation.draw(samples, data.arrays["noise"].shape[1], "normal", 1)
    styles = serve("map", noise=noise)["styles"]
    random = np.random.default_rng(2)
    rows = {"styles": styles}
    for i, side in enumerate(data.arrays["map_sides"]):
        rows[f"noise_{i}"] = random.standard_normal((samples, side, side, 1)).astype("float32")
    columns = {"generate": {"noise": noise}, "map": {"noise": noise}, "synthesize": rows}
    return {
        signature: [{name: array[i : i + 1] for name, array in arrays.items()} for i in range(samples)]
        for signature, arrays in columns.items()
    }


def evaluate(serve, data):
    """Digit-FID; of other images, the Frechet distance of thumbnails."""
    return generation.distance(data, generation.generated(serve, data))


def baseline(outcome):
    """DCGAN after as many images; without it, a normal distribution with the mean and covariance of the data."""
    if "dcgan" in outcome.trained:
        return "DCGAN, as many images", outcome.trained["dcgan"].value
    data = outcome.data
    return "normal distribution", generation.distance(
        data, generation.of_normal_distribution(data.arrays["train"], data.num_test)
    )


def figures(outcome):
    """What a collapse would show in, what truncation does, and what to compare with."""
    data, model, test = outcome.data, outcome.model, outcome.data.arrays["test"]
    if not hasattr(model, "map"):
        return {}
    if not generation.is_digits(data):
        floor = generation.distance(data, data.arrays["train"][: len(test)])
        return {f"{outcome.task.metric} of training examples, the floor": floor}
    images = generation.generated(KerasRunner(model, EVALUATION_BATCH).serve, data)
    found = digit_judge.quality(test, images)
    del found["digit_fid"]  # the metric itself
    for psi in (0.7, 0.5):
        truncated = np.concatenate(
            [np.asarray(model.generate(x, psi)) for x in np.array_split(data.arrays["noise"], 10)]
        )
        quality = digit_judge.quality(test, truncated)
        found |= {f"{key} at psi {psi}": quality[key] for key in ("digit_fid", "precision", "recall")}
    judge = digit_judge.judge()
    floor = generation.distance(data, data.arrays["train"][: len(test)])
    return found | {
        "digit-FID of training examples, the floor": floor,
        "images seen": len(next(iter(outcome.trained.values())).history)
        * (data.num_train // outcome.options.batch_size)
        * outcome.options.batch_size,
        "accuracy of the judge": judge.accuracy,
        "weights of the judge": judge.hash,
    }


def picture(outcome):
    """Samples, styles that are mixed, truncation, and a walk between styles; the losses."""
    model, name = outcome.model, next(iter(outcome.trained))
    figure = pictures.figure(12, 10)
    above, below = figure.subfigures(2, 1, height_ratios=(1.15, 1))
    left, right = above.subfigures(1, 2, width_ratios=(1, 1.15))
    width = outcome.data.arrays["noise"].shape[1]
    draw_images(left.subplots(), np.asarray(model.generate(generation.draw(64, width, "normal", 2))), 8)
    left.suptitle(f"Samples of {name}, not chosen", fontsize=11, color=pictures.INK, fontweight="bold")
    if not hasattr(model, "map"):
        gan.losses(right.subplots(), outcome.trained[name].history)
        return figure
    mixing(right, model, width)
    first, second, third = below.subplots(1, 3, width_ratios=(1, 1.3, 1.2))
    truncation(first, model, width)
    walk(second, model, width)
    gan.losses(third, outcome.trained[name].history)
    return figure


def draw_images(axis, images, columns):
    pictures.show_image(axis, pictures.tiled(images, columns))


def mixing(figure, model, width, count=6):
    """A grid: the coarse styles of each row's image, and the fine ones of each column's."""
    rows, columns = (model.map(generation.draw(count, width, "normal", seed)) for seed in (4, 5))
    first = 3  # StyleGAN2's first layer at 16x16; the last one of 8x8 images
    lines = [np.concatenate([np.zeros((1, *model.image_shape)), model.synthesize(columns)])]
    for i in range(count):
        same = np.repeat(np.asarray(rows)[i : i + 1], count, 0)
        mixed = model.synthesize(model.mix(same, columns, first))
        lines.append(np.concatenate([model.synthesize(same[:1]), mixed]))
    figure.suptitle(
        "4x4 and 8x8 of the left, 16x16 and finer of the top", fontsize=11, color=pictures.INK, fontweight="bold"
    )
    draw_images(figure.subplots(), np.concatenate(lines), count + 1)


def truncation(axis, model, width, count=6):
    noise = generation.draw(count, width, "normal", 6)
    images = np.stack([np.asarray(model.generate(noise, psi)) for psi in PSI], axis=1)
    draw_images(axis, images.reshape(-1, *model.image_shape), len(PSI))
    axis.set_title(f"psi = {', '.join(map(str, PSI))}", fontsize=9, color=pictures.INK)


def walk(axis, model, width, count=6, steps=8):
    styles = np.asarray(model.map(generation.draw(2 * count, width, "normal", 7)))
    lines = [model.synthesize(model.interpolate(styles[i], styles[count + i], steps)) for i in range(count)]
    draw_images(axis, np.concatenate(lines), steps)
    axis.set_title("From one style to another", fontsize=9, color=pictures.INK)


RECIPE = Recipe(
    name="stylegan",
    model="StyleGAN2",
    summary="StyleGAN2 draws handwritten digits, whose coarse and fine styles can be mixed",
    tasks={
        "mnist_5k": Task(
            epochs=20,
            batch_size=8,
            metric="digit-FID",
            aim=50.0,
            variants=("stylegan2", "dcgan"),
            baselines=("dcgan",),
            higher_is_better=False,
            # int16x8 has no kernel for squares.
            exports=(FLOAT, Export("float16", "cpu"), INT8, ETHOS_U55),
        ),
        "mnist": Task(
            epochs=10,
            batch_size=8,
            metric="digit-FID",
            variants=("stylegan",),
            higher_is_better=False,
            exports=(FLOAT, INT8),
        ),
        FACES: Task(
            epochs=250,
            batch_size=64,
            metric=generation.THUMBNAILS,
            higher_is_better=False,
            exports=(FLOAT, INT8),
        ),
    },
    own={
        OWN: Task(
            epochs=60,
            batch_size=8,
            metric=generation.THUMBNAILS,
            variants=("stylegan2",),
            higher_is_better=False,
            exports=(FLOAT, Export("float16", "cpu"), INT8),
        )
    },
    load_data=load_data,
    build_model=build_model,
    evaluate=evaluate,
    baseline=baseline,
    picture=picture,
    calibrate=calibrate,
    figures=figures,
)

if __name__ == "__main__":
    run_as_script("stylegan")
