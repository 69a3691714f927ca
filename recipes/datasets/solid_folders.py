"""Shapes in the format of the authors of occupancy networks, from a folder that a user has: their ShapeNet.

    FOLDER/metadata.yaml                    names of the categories; not read
    FOLDER/CATEGORY/{train,val,test}.lst    names of shapes, one a line
    FOLDER/CATEGORY/SHAPE/points.npz        points (100000, 3), float16; occupancies (12500,), uint8: one bit each, the
                                            first point in the highest bit; loc and scale, which are not read
    FOLDER/CATEGORY/SHAPE/pointcloud.npz    points and normals of the surface, each (100000, 3), float16

Shapes stay on the disk until they are used: all together have 60 GB.
"""

import pathlib
from typing import NamedTuple

import numpy as np

from keras_dl.files import FileError, read_arrays
from keras_dl.recipes.datasets.wheels import DataError

SPLITS = {"train": "train", "validation": "val", "test": "test"}
# Equal coordinates in float16 are moved apart, as in the authors' code: standard deviation.
BREAK_SYMMETRY = 1e-4


class Shape(NamedTuple):
    """A shape, as the data sets of solids describe it.

    Attributes:
        points: float32, `(p, 3)`, spread evenly over the cube around the shape.
        occupied: bool, `(p,)`. Whether they are inside.
        cloud, normals: float32, `(c, 3)`: points of the surface, spread evenly, and the directions outwards.
    """

    points: np.ndarray
    occupied: np.ndarray
    cloud: np.ndarray
    normals: np.ndarray


def list_shapes(folder, split: str, categories=None) -> list[pathlib.Path]:
    """The folders of the shapes of a split.

    Args:
        folder: str or path.
        split: "train", "validation" or "test".
        categories: names of folders; None for all that have a list.

    Raises:
        DataError: if a list or a shape is missing, or there is none.
    """
    folder, name = pathlib.Path(folder), f"{SPLITS[split]}.lst"
    lists = [folder / category / name for category in categories or ()] or sorted(folder.glob(f"*/{name}"))
    if not lists:
        raise DataError(f"{folder} has no CATEGORY/{name}: it is not a data set of occupancy networks.")
    shapes = []
    for path in lists:
        if not path.exists():
            raise DataError(f"{path} is missing.")
        shapes += [path.parent / line.strip() for line in path.read_text().splitlines() if line.strip()]
    if not shapes:
        raise DataError(f"{folder} has no shapes of the split {split}: all of its lists {name} are empty.")
    missing = [shape for shape in shapes if not (shape / "points.npz").exists()]
    if missing:
        raise DataError(f"{missing[0]}/points.npz is missing, and {len(missing) - 1} others of {len(shapes)} shapes.")
    return shapes


def read_shape(folder, random) -> Shape:
    """One shape.

    Args:
        folder: str or path, with points.npz and pointcloud.npz.
        random: `np.random.Generator`, which moves apart what float16 has made equal.

    Raises:
        DataError: if a file is missing, damaged, or does not hold what it must.
    """
    folder = pathlib.Path(folder)
    field = _arrays(folder / "points.npz", ("points", "occupancies"))
    surface = _arrays(folder / "pointcloud.npz", ("points", "normals"))
    points, bits = field["points"], field["occupancies"]
    if bits.dtype == np.uint8 and len(bits) == -(-len(points) // 8):
        occupied = np.unpackbits(bits)[: len(points)] > 0
    elif len(bits) == len(points):
        occupied = np.asarray(bits) >= 0.5
    else:
        raise DataError(f"{folder}/points.npz has {len(bits)} occupancies for {len(points)} points.")
    parts = {"points": points, "cloud": surface["points"], "normals": surface["normals"]}
    for name, array in parts.items():
        if array.ndim != 2 or array.shape[1] != 3 or not len(array):
            raise DataError(f"{folder}: {name} has the shape {array.shape}; it must be (n, 3).")
        if not np.isfinite(array.astype("float32")).all():
            raise DataError(f"{folder}: {name} has a number that is not finite.")
    if len(parts["cloud"]) != len(parts["normals"]):
        raise DataError(f"{folder}/pointcloud.npz has other numbers of points and normals.")
    if points.dtype == np.float16:
        parts["points"] = points.astype("float32") + BREAK_SYMMETRY * random.standard_normal(points.shape)
    return Shape(occupied=occupied, **{name: array.astype("float32") for name, array in parts.items()})


def _arrays(path, names):
    try:
        arrays = read_arrays(path, "an archive of arrays")
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing.") from error
    except FileError as error:
        raise DataError(str(error)) from error
    missing = [name for name in names if name not in arrays]
    if missing:
        raise DataError(f"{path} has no {' and no '.join(missing)}; it has {', '.join(arrays)}.")
    return {name: np.asarray(arrays[name]) for name in names}
