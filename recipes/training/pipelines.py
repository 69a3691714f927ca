"""Pipelines from TensorFlow Datasets to `Data`: images with one label, and tables by folds of a cross-validation."""

import functools

import numpy as np
import tensorflow as tf

from keras_dl.extras import require
from keras_dl.recipes.training.augment import affine, flip_and_crop, random_resized_crop
from keras_dl.recipes.training.batches import TEST_BATCH, fold_in, limit, open_dataset, origin, shuffled
from keras_dl.recipes.training.recipe import WHOLE, Data

IMAGENET_SHAPE = (224, 224, 3)
OWN_SIDE = 64  # of own images, by default: small networks from scratch take minutes on two cores
MOST_BYTES = 1 << 29  # of decoded own images in memory


def augmented_images(options, own_side=OWN_SIDE, fits=None, **digits):
    """`images` with the usual augmentation of the data set: crops for ImageNet, flips and shifts for CIFAR-10.

    Args:
        options: `Options`.
        own_side, fits: as `own_shape` takes them, for own images.
        digits: keyword arguments of `keras_dl.recipes.training.augment.affine`, for any other data set. `pixels` are
            those of an image of 28 pixels. Own images are not mirrored, since signs and letters would become others.
    """
    if options.data is not None:
        moved = functools.partial(_moved, digits)
        return images(options, moved, own_side=own_side, fits=fits)
    if options.dataset == "imagenet2012":
        shape = sized(options, IMAGENET_SHAPE)
        return images(options, lambda i, seed: random_resized_crop(i, seed, shape), IMAGENET_SHAPE)
    if options.dataset == "cifar10":
        return images(options, lambda i, seed: flip_and_crop(i, seed, padding=4))
    return images(options, lambda i, seed: affine(i, seed, **digits))


def _moved(digits, image, seed):
    """An own image, by `pixels` of an image of 28 pixels."""
    return affine(image, seed, **digits | {"pixels": digits["pixels"] / 28 * image.shape[0]})


def images(options, augment=None, image_shape=None, own_side=OWN_SIDE, fits=None):
    """`Data` of a TFDS set with features `image` and `label`, raw pixels throughout.

    Args:
        options: `Options`.
        augment: `augment(image, seed) -> image`, for training images. None for no augmentation.
        image_shape: `(height, width, channels)` of the model's input. None for the shape of the data set, which must
            then be the same for all images. `--image-size` sets its sides. Images of one size are scaled to it. Test
            images of several sizes are scaled to cover it with a margin of 1/7 (256 pixels for 224), and cropped in
            the middle. Own images are scaled first, without a margin as `keras-dl predict` does, and then augmented;
            by default to `own_shape`.
        own_side, fits: as `own_shape` takes them, for own images.

    Returns:
        `Data`. Test images are uint8; training images are uint8, or float32 with augmentation.

    Raises:
        DataError: if the data set is not available.
    """
    tfds = require("tensorflow_datasets", extra="recipes")
    augment = augment if options.augment else None
    builder = open_dataset(options)
    feature = builder.info.features["image"]
    own = options.data is not None
    image_shape = sized(options, own_shape(feature.shape, own_side, fits) if own else image_shape or feature.shape)
    same_size = None not in feature.shape and not (own and _is_large(builder))
    margin = 0 if same_size or own else 1 / 7
    # Images of several sizes cannot be batched for shuffling: they stay encoded until they are used.
    decoders = None if same_size else {"image": tfds.decode.SkipDecoding()}
    decode = (lambda image: image) if same_size else feature.decode_example
    if own and not same_size:  # photographs are large: only their paths are shuffled
        decode = functools.partial(builder.decode, "image")

    def split(name, part=None):
        if own and not same_size:
            dataset = builder.rows(name)
        else:
            rows = name if part is None else _shard(name, part, options)
            dataset = builder.as_dataset(split=rows, decoders=decoders, shuffle_files=False)
        dataset = dataset.map(lambda example: (example["image"], example["label"]), tf.data.AUTOTUNE)
        dataset = dataset if part else dataset.take(limit(name, options))
        return dataset.cache() if same_size else dataset

    shard = functools.cache(functools.partial(split, "train"))

    train = split("train")
    test = split("test" if "test" in _splits(builder) else "validation")
    validation = split("validation") if own and "validation" in builder.counts else None
    num_train = _count(train)

    def epoch(number, part=WHOLE):
        order = fold_in(options.seed, number, *([part.index] if part.own_files else []))

        def prepare(index, example):
            image, label = example
            image = decode(image)
            if own:
                image = resize_and_crop(image, image_shape, margin)
            if augment is None:
                return resize_and_crop(image, image_shape, margin), label
            return _scaled(augment(image, tf.random.fold_in(order, index)), image_shape, margin), label

        rows = shuffled(shard(part) if part.own_files else train, order).enumerate()
        dataset = part.of(rows, options, num_train).map(prepare, tf.data.AUTOTUNE)
        return dataset.batch(part.size(options), drop_remainder=True)

    def as_served(image, label):
        return resize_and_crop(decode(image), image_shape, margin), label

    def calibration(samples):
        dataset = shuffled(train, fold_in(options.seed, -1)).take(samples)
        return dataset.map(as_served).map(lambda image, label: {"images": image[None]})

    return Data(
        train=epoch,
        test=test.map(as_served, tf.data.AUTOTUNE).batch(TEST_BATCH).prefetch(1),
        num_train=num_train,
        num_test=_count(test),
        calibration=calibration,
        divides="rows" if own else "files",
        labels=tuple(builder.info.features["label"].names),
        input_shape=image_shape,
        input_range="uint8 pixels in [0, 255]",
        validation=None if validation is None else validation.map(as_served).batch(TEST_BATCH).prefetch(1),
        **origin(builder),
    )


def _shard(split, part, options):
    """The part of a split of TFDS that a reader reads: whole files where it can, rows of one where it must."""
    tfds = require("tensorflow_datasets", extra="recipes")
    most = limit(split, options)
    return tfds.even_splits(split if most < 0 else f"{split}[:{most}]", part.count)[part.index]


def own_shape(shape, own_side=OWN_SIDE, fits=None):
    """The default shape for own images: theirs, if all have one that is not larger than a side and fits the model.

    Args:
        shape: `(height, width, channels)`, None for sides that differ.
        own_side: int. The side of other images, which become square.
        fits: function from a shape to bool: whether the model takes it. None if it takes any.

    Example:

    >>> own_shape((28, 28, 1)), own_shape((None, None, 3)), own_shape((480, 640, 3))
    ((28, 28, 1), (64, 64, 3), (64, 64, 3))
    >>> own_shape((40, 40, 3), own_side=32), own_shape((28, 20, 1), fits=lambda shape: shape[0] == shape[1])
    ((32, 32, 3), (64, 64, 1))
    """
    height, width, channels = shape
    small = None not in (height, width) and max(height, width) <= own_side
    return tuple(shape) if small and (fits is None or fits(shape)) else (own_side, own_side, channels)


def _is_large(builder):
    """Whether the decoded images of own data fill too much memory."""
    return sum(builder.counts.values()) * int(np.prod(builder.info.features["image"].shape)) > MOST_BYTES


def folds(options, fold, num_folds=5):
    """`Data` of one fold of a table: a TFDS set with features `features` and `label` or `target`, in one split.

    Each row is in the test part of exactly one fold. Each fold has the same share of each class, and the folds depend
    only on the seed.

    Args:
        options: `Options`.
        fold: int in [0, num_folds).
        num_folds: int.

    Returns:
        `Data`, with `arrays` of `x_train`, `y_train`, `x_test` and `y_test`.

    Raises:
        DataError: if the data set is not available.
    """
    model_selection = require("sklearn.model_selection", extra="recipes")
    tfds = require("tensorflow_datasets", extra="recipes")
    builder = open_dataset(options)
    columns = list(tfds.as_numpy(builder.as_dataset(split="train", batch_size=-1, shuffle_files=False)).items())
    table = dict(columns)
    x = table["features"]
    labels = tuple(builder.info.features["label"].names) if "label" in table else ()
    y = table["label" if labels else "target"]
    splitter = model_selection.StratifiedKFold if labels else model_selection.KFold
    parts = splitter(num_folds, shuffle=True, random_state=options.seed).split(x, y)
    train_rows, test_rows = list(parts)[fold]
    arrays = dict(x_train=x[train_rows], y_train=y[train_rows], x_test=x[test_rows], y_test=y[test_rows])
    return _of_arrays(options, arrays, labels, **origin(builder))


def table(options):
    """`Data` of an own table, whose split it has or is made by seed: with `arrays` as of `folds`, and `columns`.

    Raises:
        FileError: if a value is missing or wrong.
    """
    builder, arrays = open_dataset(options), {}
    for split in ("train", "test"):
        rows, most = builder.splits[split], limit(split, options, most=None)
        answer = "label" if "label" in rows else "target"
        arrays |= {f"x_{split}": rows["features"][:most], f"y_{split}": rows[answer][:most]}
    validation = builder.splits.get("validation")
    if validation is not None:
        validation = (validation["features"], validation["label" if "label" in validation else "target"])
        validation = tf.data.Dataset.from_tensor_slices(validation).batch(TEST_BATCH)
    columns = builder.metadata["columns"]
    return _of_arrays(options, arrays, builder.labels, columns=columns, validation=validation, **origin(builder))


def _of_arrays(options, arrays, labels, **others):
    """`Data` of a table in memory."""
    train = tf.data.Dataset.from_tensor_slices((arrays["x_train"], arrays["y_train"]))

    def epoch(number):
        dataset = shuffled(train, fold_in(options.seed, number))
        return dataset.batch(options.batch_size, drop_remainder=True)

    def calibration(samples):
        dataset = shuffled(train, fold_in(options.seed, -1)).take(samples)
        return dataset.map(lambda features, target: {"features": features[None]})

    return Data(
        train=epoch,
        test=tf.data.Dataset.from_tensor_slices((arrays["x_test"], arrays["y_test"])).batch(TEST_BATCH),
        num_train=len(arrays["x_train"]),
        num_test=len(arrays["x_test"]),
        calibration=calibration,
        labels=labels,
        input_shape=arrays["x_train"].shape[1:],
        input_range="float32 columns, raw",
        arrays=arrays,
        **others,
    )


def sized(options, image_shape):
    """`(height, width, channels)` with the sides of `--image-size`, if it is given."""
    size = options.image_size
    if size is None:
        return tuple(image_shape)
    return (*((size, size) if isinstance(size, int) else size), image_shape[-1])


def resize_and_crop(image, shape, margin=1 / 7):
    """The middle of an image, uint8, of `shape`: scaled to cover it with a margin, unless it has this shape.

    Args:
        image: `(height, width, channels)`, in [0, 255].
        shape: `(height, width, channels)` of the result.
        margin: float. What is cut off, as a share of the result's sides.
    """
    scaled = _scaled(image, shape, margin)
    return image if scaled is image else tf.cast(tf.clip_by_value(tf.round(scaled), 0.0, 255.0), tf.uint8)


def _scaled(image, shape, margin):
    """`resize_and_crop` before it is rounded: float32, or the image itself."""
    if image.shape.is_fully_defined() and tuple(image.shape) == tuple(shape):
        return image
    height, width, _ = shape
    sides = tf.cast(tf.shape(image)[:2], tf.float32)
    scale = tf.reduce_max(tf.constant([height, width], tf.float32) * (1 + margin) / sides)
    sides = tf.math.ceil(sides * scale - 1e-3)  # a rounding error must not add a pixel
    scaled = tf.image.resize(image, tf.cast(sides, tf.int32), antialias=True)
    return tf.ensure_shape(tf.image.resize_with_crop_or_pad(scaled, height, width), shape)


def accuracy(serve, data, signature="classify", name="images"):
    """The share of `data.test` whose most probable class is right: float in [0, 1]."""
    correct = 0
    for inputs, labels in data.test.as_numpy_iterator():
        probabilities = serve(signature, **{name: inputs})["probabilities"]
        correct += int(np.sum(np.argmax(probabilities, axis=-1) == labels))
    return correct / data.num_test


def as_arrays(data):
    """The examples as arrays, for baselines that are not trained by epochs.

    Returns:
        `(x_train, y_train, x_test, y_test)`: arrays with one row per example. Images are flattened.
    """
    if data.arrays:
        return tuple(data.arrays[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    parts = []
    for dataset in (data.train(0), data.test):
        x, y = zip(*dataset.as_numpy_iterator(), strict=True)
        parts += [np.concatenate(x).reshape(sum(map(len, x)), -1).astype("float32"), np.concatenate(y)]
    return tuple(parts)


def _splits(builder):
    """Names of the splits."""
    return set(builder.info.splits) or set(builder.as_dataset(shuffle_files=False))


def _count(dataset):
    """Number of elements: known for prepared data, else counted."""
    known = int(dataset.cardinality())
    return known if known >= 0 else int(dataset.reduce(np.int64(0), lambda n, _: n + 1))
