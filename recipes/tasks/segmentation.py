"""Segmentation: one pipeline from images with masks to images and a class for each pixel, and the metric on a file.

    image, mask -> random view, for training; letterbox, for the test -> batches of (images, labels)

Images are raw pixels. Labels are int32: the classes from 0, the background, on, and 255 where nothing is judged:
borders of objects, and what is not part of the image.
"""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_dl.extras import require
from keras_dl.metrics import MeanIoU
from keras_dl.ops.letterbox import FILL, letterbox, letterbox_frame
from keras_dl.recipes.datasets import DataError, mask_folders
from keras_dl.recipes.training.batches import fold_in, limit, open_dataset, origin, shuffled
from keras_dl.recipes.training.recipe import WHOLE, Data

TEST_BATCH = 50
IGNORED = 255
SHUFFLED_FILES = 1024  # encoded images in memory at a time


class Layout(NamedTuple):
    """What a set of TensorFlow Datasets has.

    Attributes:
        labels: tuple of str. Names of the classes, the background first.
        mask: str. The feature that holds the mask, `(height, width, 1)`.
        classes: function from a mask without its last axis to int32 labels.
        turned: bool. Whether images have no side that is up.
    """

    labels: tuple[str, ...]
    mask: str
    classes: Callable
    turned: bool = False


def _nuclei(mask):
    return tf.cast(mask > 0, tf.int32)


def _pets(mask):
    """1 is the pet, 2 the background, 3 the border between."""
    return tf.where(mask == 1, 1, tf.where(mask == 2, 0, IGNORED))


LAYOUTS = {
    "hela_nuclei": Layout(("background", "nucleus"), "instance_map", _nuclei, turned=True),
    "oxford_iiit_pet": Layout(("background", "pet"), "segmentation_mask", _pets),
}
# Sets that a user has as a folder: its possible places in `--data-dir`, and what reads it.
FOLDERS = {"voc/2012": (("VOCdevkit/VOC2012", "VOC2012"), mask_folders.voc2012)}


def pixels(options, shape, low=0.75, high=1.33) -> Data:
    """`Data` of images of any sides, with a class for each pixel.

    Args:
        options: `Options`.
        shape: `(height, width)` of the model's images.
        low, high: float. A training image is scaled by a random factor between them, beside that of a letterbox.

    Returns:
        `Data`. Training images are float32, those of the test uint8.

    Raises:
        DataError: if the data set is not available.
    """
    if options.data is not None:
        source = _own(options)
    else:
        source = _folder(options) if options.dataset in FOLDERS else _of_tfds(options)
    train, test = (source.splits[split].take(limit(split, options)) for split in ("train", "test"))
    validation = source.splits.get("validation")
    if source.same_size:
        train, test = train.cache(), test.cache()

    num_train = int(train.cardinality())

    def epoch(number, part=WHOLE):
        order = fold_in(options.seed, number)
        rows = shuffled(train, order, *() if source.same_size else (SHUFFLED_FILES,)).enumerate()

        def changed(index, row):
            if not options.augment:
                return as_served(*row)
            return random_view(*source.decode(*row), tf.random.fold_in(order, index), shape, low, high, source.turned)

        dataset = part.of(rows, options, num_train).map(changed, tf.data.AUTOTUNE)
        return dataset.batch(part.size(options), drop_remainder=True)

    def calibration(samples):
        block = len(train) if source.same_size else samples
        rows = shuffled(train, fold_in(options.seed, -1), block).take(samples)
        return rows.map(lambda *row: {"images": as_served(*row)[0][None]})

    def as_served(*row):
        return fitted(*source.decode(*row), shape)

    return Data(
        train=epoch,
        test=test.map(as_served, tf.data.AUTOTUNE).batch(TEST_BATCH).prefetch(1),
        validation=None if validation is None else validation.map(as_served).batch(TEST_BATCH).prefetch(1),
        num_train=num_train,
        num_test=int(test.cardinality()),
        calibration=calibration,
        divides="rows",
        labels=source.labels,
        input_shape=(*shape, source.channels),
        input_range="uint8 pixels in [0, 255]",
        **source.names,
    )


class _Source(NamedTuple):
    """Where images come from.

    Attributes:
        splits: dict by "train", "test" and perhaps "validation" of a `tf.data.Dataset` of rows: tuples whose shapes are
            all the same, so that files of images of unequal sides are not read yet.
        decode: function from a row to an image, uint8 `(height, width, channels)`, and int32 labels `(height, width)`.
        same_size: bool. Whether rows hold the images.
        channels: int.
        labels, turned: as of `Layout`.
        names: dict of arguments of `Data`.
    """

    splits: dict
    decode: Callable
    same_size: bool
    channels: int
    labels: tuple[str, ...]
    turned: bool
    names: dict


def _of_tfds(options):
    layout, builder = LAYOUTS[options.dataset], open_dataset(options)
    image, mask = (builder.info.features[name] for name in ("image", layout.mask))
    same_size = None not in image.shape
    skipped = require("tensorflow_datasets", extra="recipes").decode.SkipDecoding()
    decoders = None if same_size else {"image": skipped, layout.mask: skipped}

    def rows(split):
        dataset = builder.as_dataset(split=split, decoders=decoders, shuffle_files=False)
        return dataset.map(lambda example: (example["image"], example[layout.mask]))

    def decode(pixels, numbers):
        if not same_size:
            pixels, numbers = image.decode_example(pixels), mask.decode_example(numbers)
        return pixels, layout.classes(numbers[..., 0])

    splits = {split: rows(split) for split in ("train", "test")}
    return _Source(splits, decode, same_size, image.shape[-1], layout.labels, layout.turned, origin(builder))


def _own(options):
    """Own images and masks: paths, until they are used."""
    builder = open_dataset(options)

    def decode(image, mask):
        mask = tf.numpy_function(builder.metadata["read_mask"], [mask], tf.int32, stateful=False)
        return builder.decode("image", image), tf.ensure_shape(mask, (None, None))

    splits = {split: builder.rows(split).map(lambda row: (row["image"], row["mask"])) for split in builder.counts}
    return _Source(splits, decode, False, 3, builder.labels, False, origin(builder))


def _folder(options):
    places, load = FOLDERS[options.dataset]
    folders = [pathlib.Path(options.data_dir or ".", place) for place in places]
    found = next((folder for folder in folders if folder.is_dir()), None)
    if found is None:
        raise DataError(
            f"{options.dataset} is not downloaded: TensorFlow Datasets has its boxes, and not its masks. Give the "
            f"folder that holds {' or '.join(places)} by --data-dir, which is {options.data_dir}."
        )
    masks = load(found)

    def decode(image, mask):
        image = tf.io.decode_jpeg(tf.io.read_file(image), channels=3)
        mask = tf.numpy_function(
            lambda path: mask_folders.read_mask(path.decode(), len(masks.labels)), [mask], tf.int32, stateful=False
        )
        return image, tf.ensure_shape(mask, (None, None))

    splits = {
        split: tf.data.Dataset.from_tensor_slices(tuple(map(np.array, zip(*pairs, strict=True))))
        for split, pairs in masks.splits.items()
    }
    names = dict(dataset=options.dataset, version=found.name, licence="see its authors' terms")
    return _Source(splits, decode, False, 3, masks.labels, False, names)


def fitted(image, labels, shape):
    """An image in a letterbox, and its labels: 255 in the bars.

    Args:
        image: uint8, `(height, width, channels)`.
        labels: int32, `(height, width)`.
        shape: `(height, width)`.

    Returns:
        uint8 `(*shape, channels)`, int32 `shape`.
    """
    size = tf.shape(labels)
    top, left, *sides = letterbox_frame(size[0], size[1], shape)
    scaled = tf.image.resize(labels[..., None], tf.stack(sides), "nearest") - IGNORED
    boxed = tf.image.pad_to_bounding_box(scaled, top, left, *shape)[..., 0] + IGNORED
    return letterbox(image, shape), tf.ensure_shape(boxed, shape)


def random_view(image, labels, seed, shape, low, high, turned=False):
    """A random part of an image at a random scale, mirrored half of the time, and its labels.

    Args:
        image: uint8, `(height, width, channels)`.
        labels: int32, `(height, width)`.
        seed: int32, `(2,)`.
        shape: `(height, width)` of the view.
        low, high: float: bounds of the factor, beside that of a letterbox. What is not in the image is gray, and 255.
        turned: bool. Whether the view is also turned upside down half of the time. If it is a square, its axes are
            also swapped then.

    Returns:
        float32 `(*shape, channels)`, in [0, 255]; int32 `shape`.
    """
    seeds, channels = tf.random.split(seed, 6), image.shape[-1]
    size, target = tf.cast(tf.shape(labels), tf.float32), tf.constant(shape, tf.float32)
    factor = tf.exp(tf.random.stateless_uniform((), seeds[0], np.log(low), np.log(high)))
    sides = tf.cast(tf.maximum(tf.round(size * tf.reduce_min(target / size) * factor), 1), tf.int32)
    image = tf.image.resize(image, sides, antialias=True) - FILL
    labels = tf.image.resize(labels[..., None], sides, "nearest") - IGNORED
    room = tf.stack(shape) - sides  # negative where the view is smaller than the image
    place = tf.random.stateless_uniform((2,), seeds[1]) * tf.cast(tf.abs(room) + 1, tf.float32)
    place = tf.cast(place, tf.int32)
    pad, cut = tf.where(room > 0, place, 0), tf.where(room < 0, place, 0)
    border = tf.concat([tf.stack([pad, tf.maximum(room, 0) - pad], 1), [[0, 0]]], 0)  # (3, 2)
    image, labels = (tf.pad(x, border)[cut[0] : cut[0] + shape[0], cut[1] : cut[1] + shape[1]] for x in (image, labels))
    image, labels = tf.ensure_shape(image + FILL, (*shape, channels)), labels + IGNORED
    labels = tf.ensure_shape(labels, (*shape, 1))
    swaps = [tf.image.flip_left_right, *[tf.image.flip_up_down] * turned]
    swaps += [tf.image.transpose] if turned and shape[0] == shape[1] else []
    for seed, swap in zip(tf.unstack(seeds[2:5], num=3), swaps, strict=False):
        chosen = tf.random.stateless_uniform((), seed) < 0.5
        image, labels = (tf.where(chosen, swap(x), x) for x in (image, labels))
    gain = tf.exp(tf.random.stateless_uniform((), seeds[5], -0.2, 0.2))
    return tf.clip_by_value(image * gain, 0.0, 255.0), labels[..., 0]


def predicted(serve, images):
    """The class of each pixel that a model or a file gives: int32, `(batch, height, width)`."""
    return np.argmax(serve("segment", images=images)["probabilities"], -1).astype("int32")


def mean_iou(serve, data, background=True):
    """The mean IoU of the classes on `data.test`, of what `serve(signature, **inputs)` gives: float."""
    metric = MeanIoU(len(data.labels), IGNORED, background)
    for images, labels in data.test.as_numpy_iterator():
        metric.update_state(labels, predicted(serve, images))
    return float(metric.result())


def iou_by_class(labels, found, num_classes):
    """The IoU of each class: list of float, NaN for classes that do not occur.

    Args:
        labels, found: int arrays of one shape.
        num_classes: int.
    """
    metric = MeanIoU(num_classes, IGNORED)
    metric.update_state(labels, found)
    return np.asarray(metric.by_class()).tolist()


def otsu(image):
    """Otsu's threshold of a gray image: the pixels above it, and those up to it, vary least among themselves.

    Args:
        image: uint8 array.

    Returns:
        int, in [0, 255].

    Reference: Otsu 1979, "A Threshold Selection Method from Gray-Level Histograms".

    Example:

    >>> otsu(np.uint8([3, 4, 5, 200, 201]))
    5
    """
    counts = np.bincount(np.asarray(image, "uint8").ravel(), minlength=256).astype("float64")
    below, mass = np.cumsum(counts), np.cumsum(counts * np.arange(256))
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (mass * above - (mass[-1] - mass) * below) ** 2 / (below * above)
    return int(np.nanargmax(np.where(np.isfinite(between), between, -1.0)))


def by_threshold(data):
    """Mean IoU on `data.test` of gray images whose pixels above Otsu's threshold, by image, are class 1: float."""
    return _of_images(data, lambda image: image[..., 0] > otsu(image))


def by_majority(data):
    """Mean IoU on `data.test` of the class that most training pixels have: float."""
    counts = np.zeros(IGNORED + 1, "int64")
    for _, labels in data.train(tf.constant(0)).as_numpy_iterator():
        counts += np.bincount(labels.ravel(), minlength=IGNORED + 1)
    return _of_images(data, lambda image: np.full(image.shape[:2], counts[:IGNORED].argmax()))


def _of_images(data, found):
    metric = MeanIoU(len(data.labels), IGNORED)
    for images, labels in data.test.as_numpy_iterator():
        metric.update_state(labels, np.stack([found(image) for image in images]).astype("int32"))
    return float(metric.result())
