"""Solid shapes for recipes: noisy clouds with points inside and outside, and how good a reconstruction is."""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_dl.extras import require
from keras_dl.ops.meshes import is_inside, sample_surface, surface_distances, volume_iou
from keras_dl.recipes.datasets import solid_folders, solids
from keras_dl.recipes.datasets.solid_folders import Shape
from keras_dl.recipes.training.batches import fold_in, limit, open_dataset, origin, read, shuffled_rows
from keras_dl.recipes.training.progress import say
from keras_dl.recipes.training.recipe import Data

VALIDATION_POINTS = 1024  # of each shape of the validation split, after each epoch
TEST_SEED = 2026  # of the noise of test clouds
SMOKE = {"train": 32, "validation": 8, "test": 12}  # solids by formula, in the place of any other set
MOST_TEST_POINTS = 8192  # of a shape


class Solids(NamedTuple):
    """A split.

    Attributes:
        count: int.
        shape: function from a number and a `np.random.Generator` to a `Shape`.
        meshes: list of `(vertices, faces)`, or None where there are none.
    """

    count: int
    shape: Callable
    meshes: list | None = None


def load(options, cloud_size: int, num_points: int, noise: float) -> Data:
    """`Data` of a set of solids: TFDS sets of this package, own meshes, a folder of the authors, or a smoke run's few.

    Args:
        options: `Options`.
        cloud_size: int. Points of a cloud, drawn anew in each epoch.
        num_points: int. Points of a shape in a training batch, drawn anew in each epoch.
        noise: float. Standard deviation of the noise of clouds.

    Raises:
        DataError: if the data is not available.
    """
    if options.data is not None:
        splits, source = _own(options)
    elif options.smoke:
        say(f"a smoke run takes {sum(SMOKE.values())} solids by formula in the place of {options.dataset}")
        splits, source = _smoke()
    elif options.dataset == "shapenet":
        splits, source = _folder(options)
    else:
        builder = open_dataset(options)
        splits = {name: in_memory(read(builder, name, options)) for name in SMOKE}
        source = origin(builder)
    train = splits["train"]

    def batch(rows, key):
        """Rows of the training split, in numbers that depend on the key alone."""
        random = np.random.default_rng(np.ravel(key).tolist())
        points = np.empty((len(rows), num_points, 3), "float32")
        cloud, occupied = np.empty((len(rows), cloud_size, 3), "float32"), np.empty((len(rows), num_points), "float32")
        for i, row in enumerate(rows):
            shape = train.shape(row, random)
            chosen = random.integers(0, len(shape.points), num_points)
            turn = cube_symmetry(random)
            points[i], occupied[i] = shape.points[chosen] @ turn, shape.occupied[chosen]
            cloud[i] = noisy(shape.cloud, cloud_size, noise, random) @ turn
        return cloud, points, occupied

    def epoch(number):
        key = fold_in(options.seed, number)

        def prepare(index, rows):
            seed = tf.bitcast(tf.random.fold_in(key, index), tf.uint32)
            found = tf.numpy_function(batch, [rows, seed], [tf.float32] * 3, stateful=False)
            for x, shape in zip(found, ((cloud_size, 3), (num_points, 3), (num_points,)), strict=True):
                x.set_shape((rows.shape[0], *shape))
            return {"cloud": found[0], "points": found[1]}, found[2]

        batches = shuffled_rows(train.count, options.batch_size, key)
        return batches.enumerate().map(prepare, tf.data.AUTOTUNE)

    arrays = {}
    for name in ("validation", "test"):
        random = np.random.default_rng(TEST_SEED)
        shapes = [splits[name].shape(row, random) for row in range(splits[name].count)]
        arrays[f"{name}/cloud"] = np.stack([noisy(x.cloud, cloud_size, noise, random, first=True) for x in shapes])
        arrays[f"{name}/points"] = np.stack([x.points[:MOST_TEST_POINTS] for x in shapes])
        arrays[f"{name}/occupied"] = np.stack([x.occupied[:MOST_TEST_POINTS] for x in shapes])
        arrays[f"{name}/surface"] = np.stack([x.cloud[: len(shapes[0].cloud)] for x in shapes])
        arrays[f"{name}/normals"] = np.stack([x.normals[: len(shapes[0].cloud)] for x in shapes])

    def fixed(name):
        points, occupied = (arrays[f"{name}/{key}"][:, :VALIDATION_POINTS] for key in ("points", "occupied"))
        inputs = {"cloud": arrays[f"{name}/cloud"], "points": points}
        return tf.data.Dataset.from_tensor_slices((inputs, occupied.astype("float32"))).batch(16)

    def calibration(samples):
        clouds, _, _ = batch(np.arange(samples) % train.count, np.array([options.seed, 0], "uint32"))
        return tf.data.Dataset.from_tensor_slices({"cloud": clouds[:, None]})

    meshes = {f"{name}/meshes": split.meshes for name, split in splits.items() if split.meshes is not None}
    return Data(
        train=epoch,
        test=fixed("test"),
        validation=fixed("validation"),
        num_train=train.count,
        num_test=splits["test"].count,
        calibration=calibration,
        labels=(),
        input_shape=(cloud_size, 3),
        input_range="float32 points in a unit cube around the origin",
        arrays=arrays | meshes | {"train": train, "batch": batch},
        **source,
    )


def noisy(cloud, count, noise, random, first=False):
    """Points of a cloud with normal noise, any or the first ones: float32 `(count, 3)`."""
    if len(cloud) < count and first:
        raise ValueError(f"cloud has {len(cloud)} points; {count} are needed.")
    chosen = np.arange(count) if first else random.integers(0, len(cloud), count)
    return (cloud[chosen] + noise * random.standard_normal((count, 3))).astype("float32")


def cube_symmetry(random):
    """One of the 48 rotations and reflections of a cube: float32 `(3, 3)`. It keeps the cube of the points as it is."""
    return (np.eye(3)[random.permutation(3)] * random.choice([-1.0, 1.0], 3)).astype("float32")


def in_memory(rows):
    """The split of rows of a TFDS set of solids."""
    rows = sorted(rows, key=lambda row: row["number"])
    meshes = [(row["vertices"], row["faces"]) for row in rows]
    shapes = [
        (row["points"], np.unpackbits(row["occupancies"]).astype(bool), row["cloud"], row["normals"]) for row in rows
    ]

    def shape(row, random):
        points, *others = shapes[row]
        return Shape(solids.places(points), *others)

    return Solids(len(shapes), shape, meshes if all(len(faces) for _, faces in meshes) else None)


def _smoke():
    splits = {}
    for name, count in SMOKE.items():
        rows = []
        for i in range(count):
            random = np.random.RandomState([solids.SEED, solids.STREAMS[name], i])
            solid = solids.draw_solid(random, solids.KINDS[i % len(solids.KINDS)])
            rows.append({"number": i, **solids.described_solid(solid, random)})
        splits[name] = in_memory(rows)
    return splits, dict(dataset="analytic_solids", version="1.0.0", licence=solids.AnalyticSolids.LICENCE)


def _own(options):
    data, splits = open_dataset(options), {}
    for name, stream in solids.STREAMS.items():
        files = data.splits[name]["mesh"][: limit(name, options, None)]
        rows = [
            {"number": i} | data.metadata["described"](file, options.seed, stream, i) for i, file in enumerate(files)
        ]
        splits[name] = in_memory(rows)
    return splits, origin(data)


def _folder(options):
    folder = pathlib.Path(options.data_dir or ".", "ShapeNet")
    if not folder.is_dir():
        raise solid_folders.DataError(
            f"shapenet is not downloaded. Give the folder that holds its folder ShapeNet, in the format of the authors "
            f"of occupancy networks, by --data-dir, which is {options.data_dir}."
        )
    splits = {}
    for name in SMOKE:
        paths = solid_folders.list_shapes(folder, name)
        splits[name] = Solids(len(paths), lambda row, random, paths=paths: solid_folders.read_shape(paths[row], random))
    return splits, dict(dataset="shapenet", version="occupancy networks", licence="ShapeNet's terms of use")


# How good a reconstruction is.


def probabilities(serve, clouds, points, num_points: int):
    """The probabilities of the points of each shape, by a model or a file: float32 `(n, p)`.

    Args:
        serve: as `Recipe.evaluate` gets it.
        clouds: float32, `(n, c, 3)`.
        points: float32, `(n, p, 3)`.
        num_points: int. Points that the signature takes in one call; `p` is a multiple.
    """
    codes = serve("encode", cloud=clouds)["code"]
    pieces = points.shape[1] // num_points
    rows = points.reshape(-1, num_points, 3)
    found = serve("occupancy", points=rows, code=np.repeat(codes, pieces, 0))["occupancies"]
    return found.reshape(points.shape[:2])


def hull_occupied(cloud, points):
    """Which points are in the convex hull of a cloud: bool `(p,)`.

    Raises:
        ValueError: if the cloud has fewer than four points, or all are in one plane.
    """
    spatial = require("scipy.spatial", extra="meshes")
    try:
        equations = spatial.ConvexHull(cloud).equations  # (faces, 4)
    except spatial.QhullError as error:
        raise ValueError(f"cloud has {len(cloud)} points, which have no volume: no hull can be made.") from error
    return (points @ equations[:, :3].T + equations[:, 3] <= 0).all(1)


def nearest_shapes(clouds, train, random, count=128):
    """The training shape whose cloud is nearest to each cloud, by the symmetric mean distance: int `(n,)`.

    Args:
        clouds: float32, `(n, c, 3)`.
        train: `Solids`.
        random: `np.random.Generator`.
        count: int. Points of each training cloud that are compared.
    """
    others = np.stack([noisy(train.shape(row, random).cloud, count, 0.0, random) for row in range(train.count)])
    squares = (others**2).sum(-1)  # (train, count)
    nearest = []
    for cloud in clouds:
        products = others @ cloud.T  # (train, count, c)
        distances = np.sqrt(np.maximum(squares[..., None] - 2 * products + (cloud**2).sum(-1), 0))
        nearest.append(int((distances.min(1).mean(1) + distances.min(2).mean(1)).argmin()))
    return np.array(nearest)


def nearest_occupied(data):
    """The occupancies of the nearest training shape at the test points: bool `(n, p)`. It needs meshes."""
    nearest = nearest_shapes(data.arrays["test/cloud"], data.arrays["train"], np.random.default_rng(0))
    meshes, points = data.arrays["train/meshes"], data.arrays["test/points"]
    return np.stack([is_inside(own, *meshes[row]) for own, row in zip(points, nearest, strict=True)])


def of_surfaces(meshes, data, split="test"):
    """The mean metrics of reconstructed meshes against the true surfaces: dict of float.

    A mesh without faces has no distance; `"empty"` counts these.
    """
    rows, random = [], np.random.RandomState(0)
    surfaces, normals = data.arrays[f"{split}/surface"], data.arrays[f"{split}/normals"]
    for mesh, target, facing in zip(meshes, surfaces, normals, strict=False):
        if len(mesh.faces):
            points, own = sample_surface(mesh.vertices, mesh.faces, 20_000, random)
            rows.append(surface_distances(points, own, target, facing))
    means = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]} if rows else {}
    return means | {"empty": len(meshes) - len(rows)}


def iou(probabilities, occupied, threshold):
    """The mean intersection over union of shapes at a threshold."""
    return float(np.mean(volume_iou(probabilities >= threshold, occupied)))
