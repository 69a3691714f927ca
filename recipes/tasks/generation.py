"""Generation from noise, for recipes: data without targets, samples of fixed noise, and what to compare them with.

`Data.arrays` holds `train` and `test`, raw examples; `noise`, one row for each test example, from which every model and
file is measured; and `signature`, the name of the served function that takes it.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_dl import metrics
from keras_dl.extras import require
from keras_dl.recipes.tasks import digit_judge
from keras_dl.recipes.training import augment, batches, pipelines
from keras_dl.recipes.training.recipe import Data, OptionError

MOST = 2000  # examples of large data that are kept in memory, and faces for the test
THUMBNAIL = 8  # pixels of a side
THUMBNAILS = "thumbnail Frechet distance"  # the metric of images that are no digits
PIXELS = "uint8 pixels in [0, 255]"


class Sides(NamedTuple):
    """The sides of square images that a net takes.

    Attributes:
        default: int.
        fits: function from a side to bool.
        rule: str. What fits, in words, for errors.
    """

    default: int
    fits: Callable
    rule: str


def multiples(divisor: int, default: int) -> Sides:
    """The sides of a net that halves them so often that they must be multiples of a number."""
    least = max(divisor, THUMBNAIL)
    return Sides(default, lambda n: n >= least and n % divisor == 0, f"a multiple of {divisor}, at least {least}")


def draw(count: int, size: int, kind: str, seed: int):
    """Noise of variance 1: float32, `(count, size)`.

    Args:
        count, size: int.
        kind: "normal" or "uniform".
        seed: int.
    """
    random = np.random.default_rng(seed)
    if kind == "normal":
        return random.standard_normal((count, size)).astype("float32")
    return random.uniform(-math.sqrt(3), math.sqrt(3), (count, size)).astype("float32")


def without_targets(options, arrays, served, prepare=lambda row, seed: row, **others) -> Data:
    """`Data` of examples in memory.

    Args:
        options: `Options`.
        arrays: dict of arrays, `train` and `test`.
        served: `(signature, size of its noise, kind of the noise)`.
        prepare: function from a training example and a seed to what the model is trained on.
        others: arguments of `Data`.
    """
    rows = tf.data.Dataset.from_tensor_slices((arrays["train"],))

    def epoch(number):
        key = batches.fold_in(options.seed, number)
        dataset = batches.shuffled(rows, key).enumerate()
        dataset = dataset.map(lambda i, row: prepare(row[0], tf.random.fold_in(key, i)), tf.data.AUTOTUNE)
        return _batches(dataset, options)

    return _data(arrays, served, train=epoch, num_train=len(arrays["train"]), **others)


def _batches(dataset, options):
    return dataset.batch(options.batch_size, drop_remainder=True).map(lambda batch: (batch,))


def _data(arrays, served, **others):
    signature, size, kind = served
    test = arrays["test"]
    return Data(
        test=tf.data.Dataset.from_tensor_slices((test,)).batch(batches.TEST_BATCH),
        num_test=len(test),
        calibration=lambda samples: tf.data.Dataset.from_tensor_slices(
            {"noise": draw(samples, size, kind, 1)[:, None]}
        ),
        labels=(),
        input_shape=test.shape[1:],
        arrays=arrays | dict(noise=draw(len(test), size, kind, 0), signature=np.array(signature)),
        **others,
    )


def digits(options, served, margin: int = 0, **moves) -> Data:
    """`Data` of digits with a black margin of some pixels.

    Args:
        options: `Options`.
        served: as of `without_targets`.
        margin: int. 2 makes 32x32 of 28x28.
        moves: amounts by which `augment.affine` moves training digits. None for none.
    """
    builder = batches.open_dataset(options)
    pad = ((0, 0), (margin, margin), (margin, margin), (0, 0))
    arrays = {}
    for split in ("train", "test"):
        images = np.stack([row["image"] for row in batches.read(builder, split, options)])
        arrays[split] = np.pad(images, pad)

    def prepare(image, seed):
        return augment.affine(image, seed, **moves) if moves else tf.cast(image, tf.float32)

    return without_targets(options, arrays, served, prepare, input_range=PIXELS, **batches.origin(builder))


def points(options, served) -> Data:
    """`Data` of points in the plane."""
    builder = batches.open_dataset(options)
    arrays = {
        split: np.stack([row["point"] for row in batches.read(builder, split, options)]) for split in ("train", "test")
    }
    range_ = "float32 coordinates"
    return without_targets(options, arrays, served, input_range=range_, **batches.origin(builder))


def photographs(options, served, side: int, mirror: bool = False) -> Data:
    """`Data` of the images of a set of photographs: the shorter side becomes `side` pixels, and the middle is cut out.

    That is what the DCGAN of PyTorch's examples sees. Training images are read again in each epoch.

    Args:
        options: `Options`.
        served: as of `without_targets`.
        side: int.
        mirror: bool. Whether half of the training images are mirrored.
    """
    builder = batches.open_dataset(options)
    feature = builder.info.features["image"]
    same_size = None not in feature.shape
    # Images of several sizes cannot be batched for shuffling: they stay encoded until they are used.
    decoders = None if same_size else {"image": require("tensorflow_datasets", extra="recipes").decode.SkipDecoding()}

    def resized(row):
        image = tf.cast(row["image"] if same_size else feature.decode_example(row["image"]), tf.float32)
        sides = tf.cast(tf.shape(image)[:2], tf.float32)
        sides = tf.cast(tf.round(sides * side / tf.reduce_min(sides)), tf.int32)
        image = tf.image.resize_with_crop_or_pad(tf.image.resize(image, sides, antialias=True), side, side)
        return tf.ensure_shape(tf.clip_by_value(image, 0.0, 255.0), (side, side, 3))

    def read(split, most):
        dataset = builder.as_dataset(split=split, decoders=decoders, shuffle_files=False)
        return dataset.take(batches.limit(split, options, most))

    held_out = "test" if "test" in builder.info.splits else "validation"  # lsun has no test split

    def first(split):
        images = read(split, MOST).map(resized, tf.data.AUTOTUNE)
        return np.stack(list(images.as_numpy_iterator())).round().astype("uint8")

    train = read("train", -1)

    def epoch(number):
        key = batches.fold_in(options.seed, number)
        rows = batches.shuffled(train.map(lambda row: (row["image"],), tf.data.AUTOTUNE), key).enumerate()

        def prepare(i, row):
            image = resized({"image": row[0]})
            if mirror:
                image = tf.image.stateless_random_flip_left_right(image, tf.random.fold_in(key, i))
            return image

        return _batches(rows.map(prepare, tf.data.AUTOTUNE), options)

    arrays = {"train": first("train"), "test": first(held_out)}
    count = int(train.cardinality())
    return _data(arrays, served, train=epoch, num_train=count, input_range=PIXELS, **batches.origin(builder))


def faces(options, served, side: int) -> Data:
    """`photographs` of `celeb_a`."""
    return photographs(options, served, side)


def own_pictures(options, served, sides: Sides, most_test: int = MOST) -> Data:
    """`Data` of own images of the form `pictures`, gray or in color: squares, each cut out of the middle of an image
    that is scaled to cover it, as `keras-dl predict` does. They are not changed in training.

    The squares are in memory, unless they fill more than `pipelines.MOST_BYTES`: then those for training are read in
    each epoch, and `arrays` has the first ones.

    Args:
        options: `Options`.
        served: as of `without_targets`.
        sides: `Sides`. By default, images have `sides.default`, or their own if that is smaller and fits.
        most_test: int. Images that are taken for the test.

    Raises:
        OptionError: if `--image-size` does not fit.
    """
    side = options.image_size
    if side is not None and not sides.fits(side):
        raise OptionError(f"--image-size {side}: the side of images for {options.recipe} is {sides.rule}.")
    builder = batches.open_dataset(options)
    own = pipelines.own_shape(
        builder.features["image"].shape, sides.default, lambda shape: shape[0] == shape[1] and sides.fits(shape[0])
    )
    shape = pipelines.sized(options, own)
    whole = builder.counts["train"] * math.prod(shape) <= pipelines.MOST_BYTES
    arrays = dict(_squares(options, shape, -1 if whole else MOST, most_test, builder.fingerprint))
    validation = arrays.pop("validation", None)
    if validation is not None:
        validation = tf.data.Dataset.from_tensor_slices((validation,)).batch(batches.TEST_BATCH)
    others = dict(validation=validation, input_range=PIXELS, **batches.origin(builder))
    if whole:
        return without_targets(options, arrays, served, lambda image, seed: tf.cast(image, tf.float32), **others)
    count = batches.limit("train", options, builder.counts["train"])
    rows = builder.rows("train").take(count).map(lambda row: (row["image"],))

    def epoch(number):
        shuffled = batches.shuffled(rows, batches.fold_in(options.seed, number))
        squares = shuffled.map(lambda path: _square(builder, path, shape), tf.data.AUTOTUNE)
        return _batches(squares.map(lambda image: tf.cast(image, tf.float32)), options)

    return _data(arrays, served, train=epoch, num_train=count, **others)


def _square(builder, path, shape):
    return pipelines.resize_and_crop(builder.decode("image", path), shape, margin=0)


@functools.lru_cache(maxsize=1)  # the variants of a run read the same files
def _squares(options, shape, most, most_test, fingerprint):
    """The images of own data by split: uint8 `(n, *shape)`; of the training at most `most`, -1 for all."""
    builder, arrays = batches.open_dataset(options), {}
    for split in builder.counts:
        rows = builder.rows(split).take(batches.limit(split, options, most if split == "train" else most_test))
        images = rows.map(lambda row: _square(builder, row["image"], shape), tf.data.AUTOTUNE)
        arrays[split] = np.stack(list(images.as_numpy_iterator()))
    return arrays


def generated(serve, data):
    """Samples of the fixed noise of `data`, by a model or a file: float array, one row for each test example."""
    (samples,) = serve(str(data.arrays["signature"]), noise=data.arrays["noise"]).values()
    return samples


def is_digits(data) -> bool:
    """Whether data are images that the classifiers of digits judge: the gray ones, unless they are a user's."""
    return data.input_shape[-1] == 1 and not data.form


def distance(data, samples) -> float:
    """Digit-FID of digits; of other images, the Frechet distance of thumbnails."""
    if is_digits(data):
        return digit_judge.digit_fid(data.arrays["test"], samples)
    return thumbnail_distance(data.arrays["test"], samples)


def of_normal_distribution(examples, count: int, seed: int = 0):
    """Samples of the normal distribution with the mean and the covariance of some examples.

    Args:
        examples: `(n, ...)`.
        count: int.
        seed: int.

    Returns:
        float64, `(count, ...)`.
    """
    rows = np.asarray(examples, "float64").reshape(len(examples), -1)
    mean = rows.mean(0)
    # Sums of the deviations with independent weights have their covariance, however many dimensions there are.
    weights = np.random.default_rng(seed).standard_normal((count, len(rows)))
    return (mean + weights @ (rows - mean) / math.sqrt(len(rows))).reshape(count, *examples.shape[1:])


def thumbnail_distance(images, others) -> float:
    """The Frechet distance of images, made smaller to 8x8 pixels of colors in [0, 1].

    Args:
        images, others: `(n, height, width, channels)`, in [0, 255].
    """
    return metrics.frechet_distance(_thumbnails(images), _thumbnails(others))


def _thumbnails(images):
    """The means of images over 8x8 cells: float64, `(n, 64 channels)`, in [0, 1]."""
    _, height, width, _ = images.shape
    images = np.asarray(images, "float64") / 255.0
    return np.einsum("ah,nhwc,bw->nabc", _cells(height), images, _cells(width), optimize=True).reshape(len(images), -1)


def _cells(side):
    """The shares of pixels in cells: float64, `(8, side)`, with rows of the sum 1.

    Example:

    >>> _cells(12)[:2, :4].round(3).tolist()
    [[0.667, 0.333, 0.0, 0.0], [0.0, 0.333, 0.667, 0.0]]
    """
    edges, cells = np.arange(side + 1) * (THUMBNAIL / side), np.arange(THUMBNAIL)[:, None]
    return np.clip(np.minimum(edges[1:], cells + 1) - np.maximum(edges[:-1], cells), 0, None)
