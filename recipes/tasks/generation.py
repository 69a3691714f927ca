"""Generation from noise, for recipes: data without targets, samples of fixed noise, and what to compare them with.

`Data.arrays` holds `train` and `test`, raw examples; `noise`, one row for each test example, from which every model and
file is measured; and `signature`, the name of the served function that takes it.
"""

import math

import numpy as np
import tensorflow as tf

from keras_dl import metrics
from keras_dl.extras import require
from keras_dl.recipes.tasks import digit_judge
from keras_dl.recipes.training import augment, batches
from keras_dl.recipes.training.recipe import Data

MOST = 2000  # examples of large data that are kept in memory, and faces for the test
THUMBNAIL = 8  # pixels of a side


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

    range_ = "uint8 pixels in [0, 255]"
    return without_targets(options, arrays, served, prepare, input_range=range_, **batches.origin(builder))


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
    range_ = "uint8 pixels in [0, 255]"
    return _data(arrays, served, train=epoch, num_train=count, input_range=range_, **batches.origin(builder))


def faces(options, served, side: int) -> Data:
    """`photographs` of `celeb_a`."""
    return photographs(options, served, side)


def generated(serve, data):
    """Samples of the fixed noise of `data`, by a model or a file: float array, one row for each test example."""
    (samples,) = serve(str(data.arrays["signature"]), noise=data.arrays["noise"]).values()
    return samples


def distance(data, samples) -> float:
    """Digit-FID of digits; of other images, the Frechet distance of thumbnails."""
    if samples.shape[-1] == 1:
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
        images, others: `(n, side, side, channels)`, in [0, 255]. The side is a multiple of 8.
    """

    def features(x):
        n, side, _, channels = x.shape
        cells = (n, THUMBNAIL, side // THUMBNAIL, THUMBNAIL, side // THUMBNAIL, channels)
        return np.asarray(x, "float64").reshape(cells).mean((2, 4)).reshape(n, -1) / 255.0

    return metrics.frechet_distance(features(images), features(others))
