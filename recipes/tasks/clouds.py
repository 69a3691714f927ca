"""Clouds of points for recipes: digits as the places of their ink, and objects with parts."""

import dataclasses
import pathlib

import numpy as np
import tensorflow as tf

from keras_dl.extras import require
from keras_dl.recipes.datasets import point_folders
from keras_dl.recipes.datasets.point_folders import Clouds
from keras_dl.recipes.training import augment, pipelines
from keras_dl.recipes.training.batches import TEST_BATCH, fold_in, limit, open_dataset, origin, read, shuffled_rows
from keras_dl.recipes.training.recipe import Data

INK = 128  # a pixel above it is a point, as in the paper


def digit_points(images, num_points: int, shuffled: bool = False):
    """The places of the ink of digits, as clouds of one size.

    A digit of fewer pixels of ink has its points repeatedly, and one of more has evenly chosen ones.

    Args:
        images: `(batch, height, width, 1)`, 0 is paper and 255 is ink.
        num_points: int.
        shuffled: bool. The pixels are in a random order, the same for all digits, instead of row by row.

    Returns:
        float32, `(batch, num_points, 2)`: x to the right and y up, in units of half the width, from the middle. An
        image without ink is its upper left corner.
    """
    height, width = images.shape[1:3]
    ink = tf.reshape(tf.cast(images, tf.float32) > INK, (-1, height * width))
    count = tf.maximum(tf.reduce_sum(tf.cast(ink, tf.int32), axis=1), 1)[:, None]  # (batch, 1)
    place = np.arange(height * width, dtype="int32")
    if shuffled:
        np.random.default_rng(0).shuffle(place)
    order = tf.argsort(tf.where(ink, 0, height * width) + place, axis=1)  # ink first
    number = tf.range(num_points)[None]
    rank = tf.where(count < num_points, number % count, number * count // num_points)  # (batch, num_points)
    pixel = tf.gather(order, rank, batch_dims=1)
    x, y = pixel % width, pixel // width
    places = tf.stack([2 * x - (width - 1), (height - 1) - 2 * y], axis=-1)
    return tf.ensure_shape(tf.cast(places, tf.float32) / width, (None, num_points, 2))


def digits(options, num_points: int, sigma: float, shuffled: bool = False, **changes) -> Data:
    """`Data` of a set of images, as clouds.

    Args:
        options: `Options`.
        num_points: int.
        sigma: float. Standard deviation of the jitter of training points, in units of half the width.
        shuffled: bool. The order of points, as of `digit_points`.
        changes: of training images, as `pipelines.augmented_images` takes them.
    """
    data = pipelines.augmented_images(options, **changes)

    def epoch(number):
        key = fold_in(options.seed, number)

        def prepare(index, batch):
            images, labels = batch
            seed = tf.random.fold_in(key, index)
            return augment.jitter(digit_points(images, num_points, shuffled), seed, sigma), labels

        return data.train(number).enumerate().map(prepare, tf.data.AUTOTUNE)

    return dataclasses.replace(
        data,
        train=epoch,
        test=data.test.map(lambda images, labels: (digit_points(images, num_points, shuffled), labels)).cache(),
        calibration=lambda samples: data.calibration(samples).map(
            lambda row: {"points": digit_points(row["images"], num_points, shuffled)}
        ),
        input_shape=(num_points, 2),
        input_range="float32 places of ink, in [-1, 1]",
    )


def from_memory(options, clouds: Clouds, num_points: int, moves: bool, **origin_of) -> Data:
    """`Data` of clouds in memory.

    Args:
        options: `Options`.
        clouds: `Clouds`.
        num_points: int. In each epoch, as many are drawn from the points of a training cloud. A test cloud has its
            first ones. Where a cloud has fewer, they are repeated.
        moves: bool. Whether training clouds are rotated about the vertical axis y, scaled and jittered at random.
        origin_of: arguments of `Data`: `dataset`, `version` and `licence`.
    """
    splits = {
        split: {name: x[: limit(split, options, most=None)] for name, x in rows.items()}
        for split, rows in clouds.splits.items()
    }
    train, test = splits["train"], splits["test"]
    first = np.arange(num_points) % test["points"].shape[1]
    test["points"] = test["points"][:, first]
    if test["target"].ndim > 1:
        test["target"] = test["target"][:, first]
    names = [name for name in ("category", "points") if name in train]

    def as_model(rows):
        return {name: rows[name] for name in names} if len(names) > 1 else rows["points"]

    def read_rows(numbers):
        """The rows of a batch. The arrays may be too large to be constants of a graph."""
        keys = (*names, "target")
        types = [train[key].dtype for key in keys]
        found = tf.numpy_function(lambda rows: [train[key][rows] for key in keys], [numbers], types, stateful=False)
        for key, x in zip(keys, found, strict=True):
            x.set_shape((numbers.shape[0], *train[key].shape[1:]))
        return dict(zip(keys, found, strict=True))

    def epoch(number):
        key = fold_in(options.seed, number)

        def prepare(index, numbers):
            rows = read_rows(numbers)
            seeds = tf.unstack(tf.random.split(tf.random.fold_in(key, index), 4))
            size = rows["points"].shape[1]
            order = tf.range(size)
            if options.augment:
                order = tf.random.experimental.stateless_shuffle(order, seeds[0])
            chosen = tf.gather(order, tf.range(num_points) % size)
            points = tf.gather(rows["points"], chosen, axis=1)
            if moves:
                points = augment.rotate_about_up(points, seeds[1])
                points = augment.scale(points, seeds[2])
                points = augment.jitter(points, seeds[3], num_coordinates=3)
            target = rows["target"]
            if target.shape.rank > 1:
                target = tf.gather(target, chosen, axis=1)
            return as_model(rows | {"points": points}), target

        batches = shuffled_rows(len(train["target"]), options.batch_size, key)
        return batches.enumerate().map(prepare, tf.data.AUTOTUNE)

    def calibration(samples):
        rows = {name: train[name][:samples, None] for name in names}
        rows["points"] = rows["points"][:, :, np.arange(num_points) % train["points"].shape[1]]
        return tf.data.Dataset.from_tensor_slices(rows)

    arrays = {f"test/{name}": x for name, x in test.items()}
    if clouds.parts is not None:  # (categories, parts)
        arrays["parts"] = np.array([[i in own for i in range(len(clouds.labels))] for own in clouds.parts])
    return Data(
        train=epoch,
        test=tf.data.Dataset.from_tensor_slices((as_model(test), test["target"])).batch(TEST_BATCH),
        num_train=len(train["target"]),
        num_test=len(test["target"]),
        calibration=calibration,
        labels=tuple(clouds.labels),
        input_shape=(num_points, train["points"].shape[-1]),
        input_range="float32 points: coordinates, then other channels",
        arrays=arrays,
        **origin_of,
    )


def primitive_parts(options, num_points: int) -> Data:
    """`Data` of the set `primitive_parts`."""
    builder = open_dataset(options)
    splits = {}
    for split in ("train", "test"):
        rows = read(builder, split, options)
        columns = {name: np.stack([row[name] for row in rows]) for name in ("points", "category", "part")}
        category, target = (columns[name].astype("int32") for name in ("category", "part"))
        splits[split] = dict(category=category, points=columns["points"], target=target)
    labels = tuple(builder.info.features["part"].feature.names)
    kinds = builder.info.features["category"].names
    parts = [[i for i, label in enumerate(labels) if label.split("/")[0] == kind] for kind in kinds]
    return from_memory(options, Clouds(splits, labels, parts), num_points, moves=True, **origin(builder))


def folds(options, num_points: int, fold: int, num_folds: int) -> Data:
    """`Data` of one fold of a set of clouds with a class each, in one split: `furniture`.

    Each cloud is in the test part of exactly one fold. Each fold has nearly the same share of each class, and the folds
    depend only on the seed.
    """
    model_selection = require("sklearn.model_selection", extra="recipes")
    builder = open_dataset(options)
    rows = sorted(read(builder, "train", options), key=lambda row: row["file"])
    points, target = np.stack([row["points"] for row in rows]), np.array([row["label"] for row in rows], "int32")
    splitter = model_selection.StratifiedKFold(num_folds, shuffle=True, random_state=options.seed)
    parts = dict(zip(("train", "test"), list(splitter.split(points, target))[fold], strict=True))
    splits = {split: dict(points=points[own], target=target[own]) for split, own in parts.items()}
    labels = tuple(builder.info.features["label"].names)
    return from_memory(options, Clouds(splits, labels), num_points, moves=True, **origin(builder))


# By data set: the names that its folder can have, what reads it, and whether training clouds are moved.
FOLDERS = {
    "modelnet40": (
        ("modelnet40_ply_hdf5_2048", "modelnet40_normal_resampled", "ModelNet40"),
        point_folders.modelnet40,
        True,
    ),
    "shapenet_part": (
        ("hdf5_data", "shapenetcore_partanno_segmentation_benchmark_v0_normal"),
        point_folders.shapenet_part,
        False,
    ),
    "s3dis": (("indoor3d_sem_seg_hdf5_data", "Stanford3dDataset_v1.2_Aligned_Version"), point_folders.s3dis, False),
}


def published(options, num_points: int) -> Data:
    """`Data` of a published set, from the folder that `--data-dir` holds.

    Raises:
        DataError: if there is no such folder, or it does not hold what it must.
    """
    names, load, moves = FOLDERS[options.dataset]
    folders = [pathlib.Path(options.data_dir or ".", name) for name in names]
    found = next((folder for folder in folders if folder.is_dir()), None)
    if found is None:
        raise point_folders.DataError(
            f"{options.dataset} is not downloaded. Give the folder that holds its folder {' or '.join(names)} "
            f"by --data-dir, which is {options.data_dir}."
        )
    licence = "see its authors' terms"
    return from_memory(
        options, load(found), num_points, moves, dataset=options.dataset, version=found.name, licence=licence
    )


def own(options, num_points: int) -> Data:
    """`Data` of own clouds with a class each."""
    builder = open_dataset(options)
    splits = {
        split: {"points": columns["points"], "target": columns["label"].astype("int32")}
        for split, columns in builder.splits.items()
    }
    return from_memory(options, Clouds(splits, builder.labels), num_points, moves=options.augment, **origin(builder))


def segmented(serve, data):
    """The predicted class of each test point; of objects, among those that its category can have: int `(n, points)`."""
    inputs = {name: data.arrays[f"test/{name}"] for name in ("category", "points") if f"test/{name}" in data.arrays}
    probabilities = serve("segment", **inputs)["probabilities"]
    return np.where(possible(data)[:, None], probabilities, -1).argmax(-1)


def possible(data):
    """The classes that the points of each test cloud can have: bool `(n, classes)`."""
    if "parts" in data.arrays:
        return data.arrays["parts"][data.arrays["test/category"]]
    return np.ones((data.num_test, len(data.labels)), bool)


def macro_accuracy(predicted, targets):
    """The mean over classes of the share of their clouds that are found. A class that no cloud has is left out.

    Args:
        predicted, targets: int, `(n,)`.

    Example:

    >>> macro_accuracy(np.array([0, 0, 0, 0]), np.array([0, 0, 0, 1]))
    0.5
    """
    return float(np.mean([(predicted[targets == label] == label).mean() for label in np.unique(targets)]))


def shape_distributions(points, pairs: int = 4096, bins: int = 64):
    """How often points of a cloud are how far apart: the descriptor D2.

    Args:
        points: float, `(n, points, coordinates)`, in the unit ball.
        pairs: int. Random pairs of points, the same for all clouds.
        bins: int. Of the distances from 0 to 2.

    Returns:
        float64, `(n, bins)`. The sum of a row is 1.

    Reference: Osada, Funkhouser, Chazelle, Dobkin 2002, "Shape Distributions".
    """
    first, second = np.random.default_rng(0).integers(0, points.shape[1], (2, pairs))
    distances = np.linalg.norm(points[:, first] - points[:, second], axis=-1)  # (n, pairs)
    return np.stack([np.histogram(row, bins, (0.0, 2.0))[0] for row in distances]) / pairs


def class_iou(predicted, targets, classes):
    """The mean over classes of the intersection over union of all points. A class that no point has is left out.

    Args:
        predicted, targets: int arrays of one shape.
        classes: int.

    Example:

    >>> class_iou(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), 3)
    0.5833333333333333
    """
    confusion = np.bincount(targets.ravel() * classes + predicted.ravel(), minlength=classes**2).reshape(
        classes, classes
    )
    both, either = np.diag(confusion), confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
    return float((both / np.maximum(either, 1))[either > 0].mean())


def mean_iou(predicted, targets, possible):
    """The mean over objects of the mean intersection over union of the parts that an object's category can have.

    A part that an object does not have and that no point of it is taken for counts 1, as in the paper.

    Args:
        predicted, targets: int, `(n, points)`.
        possible: bool, `(n, parts)`.

    Example:

    >>> mean_iou(np.array([[0, 0, 1, 1]]), np.array([[0, 1, 1, 1]]), np.array([[True, True, True, False]]))
    0.7222222222222222
    """
    parts = np.arange(possible.shape[1])
    found, true = predicted[..., None] == parts, targets[..., None] == parts  # (n, points, parts)
    both, either = (found & true).sum(1), (found | true).sum(1)
    iou = np.where(either > 0, both / np.maximum(either, 1), 1.0)
    return float(((iou * possible).sum(1) / possible.sum(1)).mean())
