"""Diffusion models in recipes: images and noise, samples by a model or a file, what they are compared with, pictures.

`Data.arrays` holds `train` and `test`, raw images; `noise`, one row for each test image, from which every model and
file starts; and `num_steps`, the steps of its sampler.
"""

import dataclasses
import math

import numpy as np
import tensorflow as tf

from keras_dl.diffusion import ddim
from keras_dl.export.errors import SignatureError
from keras_dl.recipes.tasks import digit_judge, generation
from keras_dl.recipes.training import pictures

SEED = 0  # of the noise that samples start from
MOST_OWN = 256  # own images for the test: as many samples take minutes
ATTENDED = 16  # pixels of the largest side of maps with attention


def with_noise(data, num_steps: int):
    """`Data` of `generation`, with noise as a sampler takes it that draws none on its way: `(n, 1, size)`.

    Args:
        data: `Data`.
        num_steps: int. Steps of the sampler that is measured.
    """
    noise = draw_starts(data, data.num_test)
    return dataclasses.replace(data, arrays=data.arrays | dict(noise=noise, num_steps=np.array(num_steps)))


def draw_starts(data, count: int):
    """What `count` samples start from, as the first test images of `with_noise`: float32, `(count, 1, size)`."""
    shape = (count, 1, math.prod(data.input_shape))
    return np.random.default_rng(SEED).standard_normal(shape).astype("float32")


def attended_side(side: int, halvings: int) -> int:
    """The largest side of the maps of a net that has at most `ATTENDED` pixels; the papers' nets have attention there.

    Example:

    >>> attended_side(32, 3), attended_side(40, 2), attended_side(128, 2)
    (16, 10, 32)
    """
    sides = [side // 2**i for i in range(halvings + 1)]
    return next((n for n in sides if n <= ATTENDED), sides[-1])


def digits(options, num_steps: int, margin: int = 0, **moves):
    """`Data` of digits, as `generation.digits`, with noise."""
    return with_noise(generation.digits(options, ("sample", 1, "normal"), margin, **moves), num_steps)


def photographs(options, num_steps: int, side: int):
    """`Data` of the images of any set, with the shorter side made `side` pixels and the middle cut out, half of them
    mirrored in training."""
    data = generation.photographs(options, ("sample", 1, "normal"), side, mirror=True)
    return with_noise(data, num_steps)


def own_pictures(options, num_steps: int, sides: generation.Sides):
    """`Data` of own images, as `generation.own_pictures`, with noise."""
    return with_noise(generation.own_pictures(options, ("sample", 1, "normal"), sides, MOST_OWN), num_steps)


def generated(serve, data, process, predicts: str = "noise"):
    """Samples of the fixed noise of `data`: float32, one for each test image, in [0, 255].

    By the signature `sample`; by DDIM around `denoise`, where a file has that alone, as integer files do.

    Args:
        serve: as of `Recipe.evaluate`.
        data: `Data`.
        process: `keras_dl.diffusion.Betas` that the net was trained on.
        predicts: what `denoise` returns.
    """
    noise = data.arrays["noise"]
    try:
        return serve("sample", noise=noise)["images"]
    except SignatureError:
        fewer = process.respaced(int(data.arrays["num_steps"]))

    def predict(x, i):
        times = fewer.places[i.numpy()].astype("int32")
        prediction = serve("denoise", images=x.numpy(), times=times)[predicts]
        return tf.clip_by_value(fewer.convert(prediction, x, i, predicts, "data"), -1.0, 1.0)

    return (ddim(predict, noise.reshape(-1, *data.input_shape), fewer).numpy() + 1.0) * 127.5


def calibration(data, process, samples: int):
    """Single rows for the signatures `denoise` and `sample`: training images with the noise of all times, evenly."""
    random = np.random.default_rng(1)
    chosen = random.choice(len(data.arrays["train"]), samples, replace=samples > len(data.arrays["train"]))
    images = data.arrays["train"][chosen].astype("float32") / 127.5 - 1.0
    noise = random.standard_normal(images.shape).astype("float32")
    times = random.permutation(process.evaluation_times(samples).numpy()).astype("int32")
    noisy = process.perturb(images, times, noise).numpy()
    return {
        "denoise": [{"images": noisy[i : i + 1], "times": times[i : i + 1]} for i in range(samples)],
        "sample": [{"noise": noise[i : i + 1].reshape(1, 1, -1)} for i in range(samples)],
    }


def compared(data, samples, metric: str) -> dict[str, float]:
    """What the report says beside the metric: quality and diversity of digits, and the metric of other samples."""
    test, seen = data.arrays["test"], data.arrays["train"]
    others = {
        "training examples, the floor": seen[: len(test)],
        "noise": np.random.default_rng(0).uniform(0, 255, test.shape),
    }
    found = {f"{metric} of {name}": generation.distance(data, x) for name, x in others.items()}
    if not generation.is_digits(data):
        return found
    judge = digit_judge.judge_of(test)
    quality = digit_judge.quality(test, samples)
    del quality["digit_fid"]  # the metric itself
    return quality | found | {"accuracy of the judge": judge.accuracy, "weights of the judge": judge.hash}


def losses_by_time(model, images, count: int = 25, seed: int = 0):
    """The loss of each of `count` times, spread evenly over the process: `(times, losses)`, each `(count,)`.

    Args:
        model: `DiffusionModel`, without labels.
        images: raw images, all of them at each time.
    """
    images = tf.convert_to_tensor(np.asarray(images, "float32"))

    @tf.function
    def loss(t, noise):
        inputs, targets = model.corrupt(images, None, tf.fill([len(images)], t), noise)
        return tf.reduce_mean(model.example_losses(model(inputs, training=False), inputs, targets))

    times = model.process.evaluation_times(count)
    return times.numpy(), np.array([loss(t, model.draw_noise(len(images), seed=seed)) for t in times])


# Pictures.


def show_tiled(axis, images, columns: int, title: str):
    """Draws images in rows, with a title."""
    pictures.show_image(axis, pictures.tiled(np.rint(images), columns))
    axis.set_title(title, loc="left", fontsize=10, color=pictures.INK, fontweight="bold")


def show_grid(figure, samples, real, columns: int = 12, title: str = "Samples, not chosen; below, real images"):
    """Draws generated images under a row of real ones, which stand below a gap."""
    figure.suptitle(title, fontsize=11, color=pictures.INK, fontweight="bold")
    rows = len(samples) // columns
    upper, lower = figure.subplots(2, 1, height_ratios=(rows, 1))
    pictures.show_image(upper, pictures.tiled(np.rint(samples), columns))
    pictures.show_image(lower, pictures.row(real, columns))


def show_walk(axis, kept, title: str):
    """Draws the walk from noise to images: `(states, images, height, width, channels)`, one image in a row."""
    states, count = kept.shape[:2]
    images = np.asarray(kept).swapaxes(0, 1).reshape(states * count, *kept.shape[2:])
    show_tiled(axis, images, states, title)


def show_losses(axis, times, losses, title: str = "Loss by time"):
    """Draws the loss of each time."""
    axis.plot(times, losses, color=pictures.COLORS[0], marker=".", linewidth=1.4)
    axis.set_yscale("log")
    pictures.style(axis, title, "time")
