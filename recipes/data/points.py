"""Clouds of points in folders by class: `.npy`, `.ply`, `.off` or `.obj`.

    FOLDER/chair/1.ply, FOLDER/table/2.off                    a split is made by seed
    FOLDER/train/chair/1.ply, FOLDER/test/chair/2.ply         the split is given

An `.npy` file holds an array `(points, 3)`; further columns are left out. On a mesh, points are drawn evenly by area.
Each cloud is moved to the origin and scaled into the unit ball.
"""

import numpy as np

from keras_dl.extras import require
from keras_dl.files import FileError
from keras_dl.ops.meshes import sample_surface
from keras_dl.recipes.data.meshes import CURE, read_mesh
from keras_dl.recipes.data.own import OwnData, by_seed, divided, mixed, split_folders, subfolders, with_test

SUFFIXES = (".npy", ".ply", ".off", ".obj")
POINTS = 2048  # of each cloud


def accepts(path):
    """Whether a folder holds folders of clouds."""
    if not path.is_dir():
        return False
    above = (split_folders(path) or {"": path}).values()
    return any(_is_cloud(file) for part in above for folder in subfolders(part) for file in folder.iterdir())


def _is_cloud(file):
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".")


def read(path, seed=0, target=None) -> OwnData:
    """Clouds and their classes.

    Raises:
        FileError: if a file holds no points. The message begins with its name.
    """
    given = split_folders(path)
    parts = with_test({split: _files(folder) for split, folder in (given or {"train": path}).items()})
    names = tuple(sorted({name for part in parts.values() for name, _ in part}))
    if len(names) < 2:
        raise FileError(path, f"has the class {names[0]!r} alone. A classifier needs two folders of clouds.")
    known = {name for name, _ in parts["train"]}
    for name, file in (pair for part in parts.values() for pair in part):
        if name not in known:
            raise FileError(file.parent, "is a class that the training split does not have.")
    if "test" in parts:
        parts = {split: [part[i] for i in mixed(len(part), seed)] for split, part in parts.items()}
    else:
        files = parts["train"]
        train, test = divided(np.array([names.index(name) for name, _ in files]), seed, names, path)
        parts |= {"train": [files[i] for i in train], "test": [files[i] for i in test]}
    features = require("tensorflow_datasets", extra="recipes").features
    return OwnData(
        path=path,
        form="points",
        features={
            "points": features.Tensor(shape=(POINTS, 3), dtype=np.float32),
            "label": features.ClassLabel(names=names),
        },
        splits={
            split: {
                "points": np.stack([read_cloud(file, POINTS) for _, file in part]),
                "label": np.array([names.index(name) for name, _ in part], "int64"),
            }
            for split, part in parts.items()
        },
        files=sorted(file for part in parts.values() for _, file in part),
        how="as the folders have it" if given and len(given) > 1 else by_seed(seed),
        labels=names,
        facts={"points": f"{POINTS:,} of each cloud, in the unit ball"},
    )


def _files(folder):
    """`[(class, file)]`."""
    found = []
    for one in subfolders(folder):
        files = sorted(file for file in one.iterdir() if _is_cloud(file))
        if not files:
            raise FileError(one, f"is the folder of a class, and holds no cloud ({', '.join(SUFFIXES)}).")
        found += [(one.name, file) for file in files]
    if not found:
        raise FileError(folder, "has no folder for each class.")
    return found


def read_cloud(file, num_points):
    """Points of a file, in the unit ball: float32 `(num_points, 3)`. The draw is the same each time.

    Raises:
        FileError: if it holds no points, or all are in one place.
    """
    points = draw_points(file, num_points)
    points = points - points.mean(0)
    return (points / np.linalg.norm(points, axis=-1).max()).astype("float32")


def draw_points(file, num_points):
    """Points of a file as it has them: float64 `(num_points, 3)`. The draw is the same each time.

    Those of a mesh are spread evenly over it. Those of a cloud of fewer points are repeated.

    Raises:
        FileError: if it holds no points, or all are in one place.
    """
    random = np.random.RandomState(0)
    points, triangles = _array(file) if file.suffix.lower() == ".npy" else read_mesh(file)
    if not len(points) or not np.isfinite(points).all():
        raise FileError(file, f"has {'points that are not finite' if len(points) else 'no points'}. {CURE}")
    if len(triangles) and _area(points, triangles) > 0:
        points = sample_surface(points, triangles, num_points, random)[0].astype("float64")
    else:
        order = random.permutation(len(points))
        points = points[order[np.arange(num_points) % len(points)]]
    if not np.ptp(points, axis=0).any():
        raise FileError(file, f"has all of its points in one place. {CURE}")
    return points


def _array(file):
    try:
        points = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FileError(file, f"is no array of NumPy: {str(error).splitlines()[0]}") from error
    if points.ndim != 2 or points.shape[1] < 3 or points.dtype.kind not in "fiu":
        raise FileError(file, f"has the shape {points.shape} of {points.dtype}; it must be numbers, (points, 3).")
    return points[:, :3].astype("float64"), ()


def _area(vertices, triangles):
    a, b, c = vertices[triangles].transpose(1, 0, 2)
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=-1).sum())
