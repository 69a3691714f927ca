"""CycleGAN writes digits of MNIST as those of another set, and back; and draws emoji in another designer's style.

Paper:     Zhu, Park, Isola, Efros 2017, "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial
           Networks", arXiv:1703.10593
Data:      mnist_optdigits: 4,000 digits of MNIST and 1,447 of optdigits, 32x32, not paired; 1,000 and 350 for the test
Command:   keras-dl train cyclegan
Aim:       85% of the digits kept, the worse of both ways
Baseline:  the digits as they are, read by the classifier of the other set: 81.2%
Reaches:   84.1% (MNIST as optdigits) and 95.4% (optdigits as MNIST) after 4 epochs, 489 s on two very busy cores: short
           of the aim by 0.9 points. Without a translation 81.2% and 91.1%. A fifth of the sixes are read as fours
Files:     float32 and int16x8 84.1%, int8 84.5%, with all ops of both generators on an Ethos-U55 of 128 MACs

A digit is kept if a classifier of the domain that it was translated into reads it as before:
`keras_dl.recipes.tasks.digit_judge`, which reads 98.7% of the real digits of MNIST, and 99.4% of those of optdigits.
Digits of MNIST are made upright and stretched to the frame of optdigits: see docs/recipes.md.

`--dataset emoji_styles` translates emoji of Twitter and of Google; the metric is the mean absolute difference from the
other designer's drawings of emoji that were not trained on. It is 0.154 after 8 epochs and 1,531 s on two very busy
cores, and 0.160 without a translation. The SSIM is not beaten: 0.338 (as Twitter) and 0.313 (as Google), and 0.358
without a translation. Files: float32 0.154, int8 0.159.

`--dataset cycle_gan/horse2zebra`: the nets, the optimizer and the 200 epochs of the authors. Not measured.

`--data PATH`: your own two sets of images. `--image-size` of 128 and more takes the nets of the authors.
"""

import keras
import numpy as np

import keras_dl
from keras_dl.export import KerasRunner
from keras_dl.recipes.tasks import digit_judge, domains, generation
from keras_dl.recipes.training import pictures
from keras_dl.recipes.training.recipe import (
    ETHOS_U55,
    FLOAT,
    INT8,
    INT16X8,
    Recipe,
    Task,
    run_as_script,
)
from keras_dl.recipes.training.runner import EVALUATION_BATCH

DIGITS, EMOJI = "mnist_optdigits", "emoji_styles"
PHOTOGRAPHS, OWN = "cycle_gan/horse2zebra", "domains"
SMALL = {
    DIGITS: dict(filters=16, num_blocks=3, discriminator_filters=16, discriminator_layers=1),
    OWN: dict(filters=16, num_blocks=4, discriminator_filters=16, discriminator_layers=2),
}
SMALL[EMOJI] = SMALL[OWN] | dict(identity_weight=2.0)
NAMES = {DIGITS: ("MNIST", "optdigits"), EMOJI: ("Twitter", "Google"), PHOTOGRAPHS: ("horse", "zebra")}
# Of own images: the smallest side, and the first for which the nets are the authors', of 6 blocks, and of 9.
LEAST, AUTHORS, DEEP = 16, 128, 256
SHOWN = 12


def load_data(options, variant):
    if options.data is not None:
        return domains.own(options, lambda side: side % 4 == 0 and side >= LEAST, f"a multiple of 4, at least {LEAST}")
    prepare = domains.flipped_crop if options.dataset not in SMALL else domains.as_they_are
    return domains.unpaired(options, prepare, NAMES[options.dataset])


def settings_of(data, options):
    """Arguments of the model."""
    if options.data is None:
        return SMALL.get(options.dataset, {})
    side = data.input_shape[0]
    return SMALL[OWN] if side < AUTHORS else dict(num_blocks=9 if side >= DEEP else 6)


def build_model(data, options, variant):
    steps = data.num_train // options.batch_size
    settings = settings_of(data, options)
    default = 5e-4 if settings in SMALL.values() else 2e-4
    model = keras_dl.CycleGAN(data.input_shape, **settings, seed=options.seed)
    # Half of the epochs at the full rate, and half of them towards 0.
    constant = max(1, options.epochs // 2)
    rate = keras_dl.schedules.LinearDecay(options.rate(default), steps, constant, max(1, options.epochs - constant))
    model.compile(keras.optimizers.Adam(rate, beta_1=0.5))
    return model


def evaluate(serve, data):
    """Of digits, the share kept, the worse of both ways. Of pairs, their distance. Else, that of the sets."""
    return score(domains.translated(serve, data), data)


def score(images, data):
    """The metric of translated test images of any origin."""
    if "label_a" in data.arrays:
        return min(domains.kept(images, data).values())
    if data.arrays["paired"]:
        return domains.distance_of_pairs(images, data)
    return float(np.mean(list(domains.distances_of_sets(images, data).values())))


def baseline(outcome):
    """The images as they are."""
    return "no translation", score(domains.untouched(outcome.data), outcome.data)


def figures(outcome):
    """Both ways apart, and what to compare with; the diversity of what was made; how well images come back."""
    data = outcome.data
    images = domains.translated(KerasRunner(outcome.model, EVALUATION_BATCH).serve, data)
    found = {"mean difference there and back": domains.mean_distance_of_cycles(outcome.model, data)}
    if outcome.options.dataset == DIGITS:
        found |= domains.figures_of_digits(images, data)
        found["weights of the judges"] = ", ".join(digit_judge.judge(side).hash for side in domains.JUDGES.values())
        return found
    what, measure = (
        ("SSIM", domains.ssim_of_pairs) if data.arrays["paired"] else ("distance", domains.distances_of_sets)
    )
    reached, before = (measure(x, data) for x in (images, domains.untouched(data)))
    for domain, name in zip("ab", data.domains, strict=True):
        found |= {f"{what}, to {name}": reached[domain], f"{what} without a translation, to {name}": before[domain]}
    return found


def picture(outcome):
    """Both ways there and back, not chosen; and the mistakes with the confusions, or pairs."""
    data = outcome.data
    serve = KerasRunner(outcome.model, EVALUATION_BATCH).serve
    above, below = 2.1, 4.7 if data.arrays["paired"] else 3.5  # inches: the images fill the width
    whole = pictures.figure(13, above + below)
    upper, lower = whole.subfigures(2, 1, height_ratios=(above, below))
    names = data.domains
    for figure, domain in zip(upper.subfigures(1, 2), "ab", strict=True):
        there_and_back(figure, outcome.model, data, domain, names)
    left, right = lower.subfigures(1, 2, width_ratios=(1.3, 1))
    images = domains.translated(serve, data)
    if outcome.options.dataset == DIGITS:
        worst_digits(left, images, data, names)
        confusions(right, images, data, names)
    else:
        worst_pairs(left, images, data, names)
        losses(right.subplots(), outcome.trained["model"].history)
    return whole


TITLE = dict(fontsize=11, color=pictures.INK, fontweight="bold")


def there_and_back(figure, model, data, domain, names):
    """The first test images, their translations, and these translated back."""
    images = data.arrays[f"test_{domain}"][:SHOWN]
    there, back = (np.asarray(x) for x in model.cycle(images, domain))
    source, target = names if domain == "a" else names[::-1]
    figure.suptitle(f"{source}, as {target}, and back; not chosen", **TITLE)
    axis = figure.subplots()
    pictures.show_image(axis, pictures.tiled(np.concatenate([images, there, back]).clip(0, 255), len(images)))


def worst_digits(figure, images, data, names):
    """Digits that are not kept, those first of whose new class the judge is the surest."""
    kept = domains.kept(images, data)
    figure.suptitle(
        f"Mistakes, the surest ones: {kept['b']:.1%} kept as {names[1]}, {kept['a']:.1%} as {names[0]}", **TITLE
    )
    rows = figure.subplots(4, 8)
    for domain, axes in zip("ba", (rows[:2], rows[2:]), strict=True):
        other = "a" if domain == "b" else "b"
        sure = digit_judge.judge(domains.JUDGES[domain]).look(domains.seen_by_judge(images[domain], domain))[1]
        labels, classes = data.arrays[f"label_{other}"], sure.argmax(-1)
        order = [i for i in np.argsort(-sure.max(-1)) if classes[i] != labels[i]][: axes.size]
        for axis in axes.flat:
            axis.set_axis_off()
        for axis, i in zip(axes.flat, order, strict=False):
            axis.set_axis_on()
            pair = np.concatenate([data.arrays[f"test_{other}"][i], images[domain][i]], axis=1)
            pictures.show_image(axis, pair, f"{labels[i]} read as {classes[i]}", pictures.COLORS[1])


def confusions(figure, images, data, names):
    """Which digits became which."""
    figure.suptitle("Digits before (rows) and after, as read by the judges, %", **TITLE)
    for axis, domain, name in zip(figure.subplots(1, 2), "ba", names[::-1], strict=True):
        counts = domains.confusion(images[domain], data, domain)
        shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=100)
        for row, column in np.argwhere(shares >= 2):
            color = "white" if shares[row, column] > 50 else pictures.INK
            axis.text(column, row, f"{shares[row, column]:.0f}", ha="center", va="center", fontsize=6, color=color)
        axis.set(xticks=range(10), yticks=range(10))
        axis.tick_params(labelsize=7, colors=pictures.INK)
        axis.set_xlabel(f"as {name}", fontsize=9, color=pictures.INK)


def worst_pairs(figure, images, data, names):
    """Pairs whose translation is the farthest from the truth; of sets without pairs, any translations."""
    axes = figure.subplots(2, 1)
    for axis, domain, name in zip(axes, "ba", names[::-1], strict=True):
        source = data.arrays["test_a" if domain == "b" else "test_b"].astype("float32")
        rows, order = [source, images[domain]], np.arange(len(source))
        if data.arrays["paired"]:
            truth = data.arrays[f"test_{domain}"].astype("float32")
            order = np.argsort(-np.abs(images[domain] - truth).mean((1, 2, 3)))
            rows.append(truth)
        shown = order[:SHOWN]
        pictures.show_image(axis, pictures.tiled(np.concatenate([x[shown] for x in rows]).clip(0, 255), len(shown)))
        axis.set_title(f"as {name}", fontsize=9, color=pictures.INK)
    figure.suptitle("The worst pairs: before, translated, true" if data.arrays["paired"] else "Translations", **TITLE)


def losses(axis, history):
    """The losses over the epochs."""
    for (key, label), color in zip(
        (("loss", "discriminators"), ("adversarial_loss", "generators"), ("cycle_loss", "there and back")),
        pictures.COLORS,
        strict=False,
    ):
        axis.plot(range(1, len(history) + 1), [row[key] for row in history], color=color, label=label)
    pictures.style(axis, "Losses of training", "epoch")
    axis.legend(frameon=False)


# The Edge TPU has no MIRROR_PAD: 4 of 218 ops would run there.
FILES = (FLOAT, INT8, INT16X8, ETHOS_U55)
RECIPE = Recipe(
    name="cyclegan",
    model="CycleGAN",
    summary="CycleGAN writes digits of MNIST as those of optdigits, and back, from sets that are not paired",
    tasks={
        DIGITS: Task(epochs=4, batch_size=4, metric="digits kept, the worse way", aim=0.85, exports=FILES),
        EMOJI: Task(
            epochs=8,
            batch_size=4,
            metric="mean absolute difference of pairs",
            higher_is_better=False,
            exports=(FLOAT, INT8),
            reproduced=True,
        ),
        PHOTOGRAPHS: Task(
            epochs=200,
            batch_size=1,
            metric=generation.THUMBNAILS,
            higher_is_better=False,
            exports=(FLOAT, INT8),
        ),
    },
    own={
        OWN: Task(
            epochs=100,
            batch_size=4,
            metric=generation.THUMBNAILS,
            higher_is_better=False,
            exports=(FLOAT, INT8),
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
    run_as_script("cyclegan")
