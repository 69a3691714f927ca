"""Published sets of point clouds, read from the folders that their authors made: ModelNet40, ShapeNetPart, S3DIS.

They cannot be downloaded without consent to their terms, so that a user brings the folder. Layouts:

    ModelNet40                      CLASS/train/CLASS_0001.off, CLASS/test/..., the original meshes
    modelnet40_ply_hdf5_2048        train_files.txt, test_files.txt, shape_names.txt, *.h5 (data, label, normal)
    modelnet40_normal_resampled     modelnet40_{train,test,shape_names}.txt, CLASS/CLASS_0001.txt of `x,y,z,nx,ny,nz`
    hdf5_data (ShapeNetPart)        {train,val,test}_hdf5_file_list.txt, all_object_categories.txt,
                                    overallid_to_catid_partid.json, *.h5 (data, label, pid)
    shapenetcore_partanno_segmentation_benchmark_v0_normal
                                    synsetoffset2category.txt, SYNSET/OBJECT.txt of `x y z nx ny nz part`,
                                    train_test_split/shuffled_{train,val,test}_file_list.json
    indoor3d_sem_seg_hdf5_data      all_files.txt, room_filelist.txt, *.h5 (data, label): blocks of S3DIS of
                                    1 m x 1 m, of 4,096 points of x, y, z, red, green, blue and the place in the room
    Stanford3dDataset_v1.2_Aligned_Version     Area_1/office_1/Annotations/chair_1.txt of `x y z r g b`

Lists of files name them with the folder in which the authors had them; only the name counts.
"""

import json
import pathlib
from typing import NamedTuple

import numpy as np

from keras_dl.extras import require
from keras_dl.recipes.datasets.wheels import DataError

S3DIS_CLASSES = (
    *("ceiling", "floor", "wall", "beam", "column", "window", "door"),
    *("table", "chair", "sofa", "bookcase", "board", "clutter"),
)
MIN_POINTS = 100  # of a block of a room; smaller ones are left out, as in the authors' code


class Clouds(NamedTuple):
    """A set of clouds in memory.

    Attributes:
        splits: dict by "train" and "test" of dicts of arrays: `points`, float32 `(n, points, channels)`; `target`,
            int32, `(n,)` for classes, `(n, points)` for parts and scenes; `category`, int32 `(n,)`, for parts.
        labels: tuple of str. Names of the targets.
        parts: list of lists of int: the targets that each category can have. None where there are no categories.
    """

    splits: dict
    labels: tuple[str, ...]
    parts: list[list[int]] | None = None


def modelnet40(folder, normals=False, num_points=2048, seed=0) -> Clouds:
    """ModelNet40, in one of its three layouts.

    Args:
        folder: str or path.
        normals: bool. Whether points have normals, as three further channels.
        num_points: int. Points that are drawn on each mesh, evenly by area, and then moved to the unit ball. The other
            layouts hold points.
        seed: int. Of these draws.

    Raises:
        DataError: if the folder has none of the layouts, or a file does not hold what it must.
    """
    folder = pathlib.Path(folder)
    channels = 6 if normals else 3
    if (folder / "train_files.txt").exists():
        names = _lines(folder / "shape_names.txt")
        splits = {}
        for split in ("train", "test"):
            keys = ("data", "label", "normal") if normals else ("data", "label")
            data, label, *normal = _h5(folder, _lines(folder / f"{split}_files.txt"), keys)
            splits[split] = _rows(folder, np.concatenate([data, *normal], -1), label.reshape(-1), len(names))
        return Clouds(splits, tuple(names))
    if not (folder / "modelnet40_train.txt").exists():
        return _modelnet_meshes(folder, channels, num_points, np.random.default_rng(seed))
    names = _lines(folder / "modelnet40_shape_names.txt")
    splits = {}
    for split in ("train", "test"):
        objects = _lines(folder / f"modelnet40_{split}.txt")
        classes = [_number(name.rsplit("_", 1)[0], names, folder / f"modelnet40_{split}.txt") for name in objects]
        files = [folder / names[i] / f"{name}.txt" for i, name in zip(classes, objects, strict=True)]
        points = np.stack([_table(file, 6, ",")[:, :channels] for file in files])
        splits[split] = _rows(folder, points, np.array(classes), len(names))
    return Clouds(splits, tuple(names))


def _modelnet_meshes(folder, channels, num_points, random):
    names = sorted(path.name for path in folder.glob("*") if (path / "train").is_dir())
    if not names:
        raise DataError(
            f"{folder} has neither train_files.txt, nor modelnet40_train.txt, nor CLASS/train: it is not ModelNet40."
        )
    splits = {}
    for split in ("train", "test"):
        files = [(i, file) for i, name in enumerate(names) for file in sorted((folder / name / split).glob("*.off"))]
        if not files:
            raise DataError(f"{folder} has no files CLASS/{split}/*.off.")
        clouds = np.stack([sample_mesh(*read_off(file), num_points, random) for _, file in files])
        clouds = clouds[..., [0, 2, 1, 3, 5, 4]] * [1, 1, -1, 1, 1, -1]  # z points up, and y in the other layouts
        splits[split] = _rows(folder, clouds[..., :channels], np.array([i for i, _ in files]), len(names))
    return Clouds(splits, tuple(names))


def read_off(path):
    """A mesh: vertices, float `(v, 3)`, and triangles, int `(t, 3)`. Faces of more corners are cut into triangles."""
    words = _text(pathlib.Path(path)).removeprefix("OFF").split()  # some files have no space after OFF
    try:
        num_vertices, num_faces = int(words[0]), int(words[1])
        end = 3 + 3 * num_vertices
        vertices = np.array(words[3:end], float).reshape(num_vertices, 3)
        triangles = []
        for _ in range(num_faces):
            corners = [int(word) for word in words[end + 1 : end + 1 + int(words[end])]]
            triangles += [(corners[0], corners[k], corners[k + 1]) for k in range(1, len(corners) - 1)]
            end += 1 + len(corners)
        triangles = np.array(triangles)
        if triangles.min() < 0:
            raise ValueError("a face names a vertex by a negative number")
        vertices[triangles]
    except (ValueError, IndexError) as error:
        raise DataError(f"{path} is not a mesh of the format OFF: {error}") from error
    return vertices, triangles


def sample_mesh(vertices, triangles, num_points, random):
    """Points and normals on a mesh, spread evenly by area, in the unit ball: float `(num_points, 6)`.

    Args:
        vertices, triangles: as `read_off` returns them.
        num_points: int.
        random: `np.random.Generator`.
    """
    a, b, c = vertices[triangles].transpose(1, 0, 2)
    normals = np.cross(b - a, c - a)
    areas = np.linalg.norm(normals, axis=-1)
    chosen = random.choice(len(areas), num_points, p=areas / areas.sum())
    u, v = random.uniform(size=(2, num_points, 1))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)  # of a parallelogram, the half that is there
    points = a[chosen] + u * (b - a)[chosen] + v * (c - a)[chosen]
    points = points - points.mean(0)
    return np.concatenate(
        [points / np.linalg.norm(points, axis=-1).max(), normals[chosen] / areas[chosen, None]], axis=1
    )


def shapenet_part(folder, num_points=2048) -> Clouds:
    """The parts of ShapeNet, in one of two layouts. The validation objects are training objects.

    Args:
        folder: str or path.
        num_points: int. Of an object of the layout in text: evenly chosen, or repeated. The other layout has 2,048.

    Raises:
        DataError: if the folder has neither layout, or a file does not hold what it must.
    """
    folder = pathlib.Path(folder)
    if (folder / "synsetoffset2category.txt").exists():
        return _shapenet_text(folder, num_points)
    rows = [line.split() for line in _lines(folder / "all_object_categories.txt")]
    kinds, synsets = [row[0] for row in rows], [row[1] for row in rows]
    owners = [
        (synsets.index(synset), part) for synset, part in json.loads(_text(folder / "overallid_to_catid_partid.json"))
    ]
    labels = tuple(f"{kinds[kind].lower()}/{part}" for kind, part in owners)
    parts = [[i for i, (owner, _) in enumerate(owners) if owner == kind] for kind in range(len(kinds))]
    splits = {}
    for split, lists in (("train", ("train", "val")), ("test", ("test",))):
        files = [name for part in lists for name in _lines(folder / f"{part}_hdf5_file_list.txt")]
        data, label, pid = _h5(folder, files, ("data", "label", "pid"))
        splits[split] = _rows(folder, data, pid, len(labels))
        splits[split]["category"] = _in_range(folder, "label", label.reshape(-1), len(kinds))
    return Clouds(splits, labels, parts)


def _shapenet_text(folder, num_points):
    rows = [line.split() for line in _lines(folder / "synsetoffset2category.txt")]
    kinds, synsets = [row[0] for row in rows], [row[1] for row in rows]
    clouds = {"train": [], "test": []}
    for part in ("train", "val", "test"):
        for name in json.loads(_text(folder / "train_test_split" / f"shuffled_{part}_file_list.json")):
            synset, name = name.split("/")[-2:]
            table = _table(folder / synset / f"{name}.txt", 7, None)
            table = table[np.arange(num_points) * len(table) // num_points]
            kind = _number(synset, synsets, folder / "train_test_split")
            clouds["test" if part == "test" else "train"].append((kind, table))
    owners = {int(part): kind for rows in clouds.values() for kind, table in rows for part in np.unique(table[:, 6])}
    labels = tuple(f"{kinds[owners[i]].lower() if i in owners else 'unused'}/{i}" for i in range(max(owners) + 1))
    parts = [[i for i in range(len(labels)) if owners.get(i) == kind] for kind in range(len(kinds))]
    splits = {}
    for split, rows in clouds.items():
        tables = np.stack([table for _, table in rows])
        splits[split] = _rows(folder, tables[..., :3], tables[..., 6].astype(int), len(labels))
        splits[split]["category"] = np.array([kind for kind, _ in rows], "int32")
    return Clouds(splits, labels, parts)


def s3dis(folder, test_area=5, num_points=4096, seed=0) -> Clouds:
    """S3DIS: blocks of rooms, those of one area for the test. The authors' blocks, or blocks of the original rooms.

    Args:
        folder: str or path.
        test_area: int, from 1 to 6.
        num_points: int. Points of a block, drawn at random, from the original rooms.
        seed: int. Of these draws.

    Raises:
        DataError: if the folder has neither layout, an area is missing, or a file does not hold what it must.
    """
    folder = pathlib.Path(folder)
    if (folder / "all_files.txt").exists():
        points, target = _h5(folder, _lines(folder / "all_files.txt"), ("data", "label"))
        rooms = _lines(folder / "room_filelist.txt")
        if len(rooms) != len(points):
            raise DataError(f"{folder}: room_filelist.txt has {len(rooms)} lines for {len(points)} blocks.")
    else:
        annotations = sorted(folder.glob("Area_*/*/Annotations"))
        if not annotations:
            raise DataError(f"{folder} has neither all_files.txt nor Area_*/*/Annotations: it is not S3DIS.")
        random, points, target, rooms = np.random.default_rng(seed), [], [], []
        for room in annotations:
            blocks, classes = room_blocks(*read_room(room), num_points, random)
            points.append(blocks)
            target.append(classes)
            rooms += [f"{room.parts[-3]}_{room.parts[-2]}"] * len(blocks)
        points, target = np.concatenate(points), np.concatenate(target)
    test = np.array([name.startswith(f"Area_{test_area}_") for name in rooms])
    if test.all() or not test.any():
        raise DataError(
            f"{folder}: test_area={test_area} has {test.sum()} of {len(test)} blocks; both splits need some."
        )
    rows = _rows(folder, points, target, len(S3DIS_CLASSES))
    splits = {"train": ~test, "test": test}
    return Clouds({split: {k: x[mask] for k, x in rows.items()} for split, mask in splits.items()}, S3DIS_CLASSES)


def read_room(annotations):
    """A room of S3DIS from the files of its objects, moved so that its lowest corner is the origin.

    Returns:
        points: float64, `(n, 6)`: x, y, z in meters, red, green, blue in [0, 255].
        classes: int, `(n,)`. What is not one of `S3DIS_CLASSES`, such as stairs, is clutter.
    """
    points, classes = [], []
    for file in sorted(pathlib.Path(annotations).glob("*.txt")):
        name = file.stem.split("_")[0]
        points.append(_table(file, 6, None))
        number = S3DIS_CLASSES.index(name if name in S3DIS_CLASSES else "clutter")
        classes.append(np.full(len(points[-1]), number))
    if not points:
        raise DataError(f"{annotations} has no files *.txt of objects.")
    points = np.concatenate(points)
    points[:, :3] -= points[:, :3].min(0)
    return points, np.concatenate(classes)


def room_blocks(points, classes, num_points, random, size=1.0):
    """Blocks of a room of `size` meters in x and y, of the whole height, without overlap.

    Args:
        points, classes: as `read_room` returns them.
        num_points: int. A block of more points loses some at random, one of fewer has some twice.
        random: `np.random.Generator`.

    Returns:
        points: float32, `(blocks, num_points, 9)`: x and y from the middle of the block, z, colors in [0, 1], and the
            place in the room as a share of its size.
        classes: int, `(blocks, num_points)`.
    """
    limit = points[:, :3].max(0)
    found, targets = [], []
    for i, k in np.ndindex(*np.maximum(np.ceil(limit[:2] / size), 1).astype(int)):
        corner = np.array([i, k]) * size
        inside = np.flatnonzero(((points[:, :2] >= corner) & (points[:, :2] <= corner + size)).all(1))
        if len(inside) < MIN_POINTS:
            continue
        if len(inside) >= num_points:
            chosen = random.choice(inside, num_points, replace=False)
        else:
            chosen = np.concatenate([inside, random.choice(inside, num_points - len(inside))])
        block = points[chosen]
        middle = np.array([*(block[:, :2].min(0) + size / 2), 0])
        found.append(np.concatenate([block[:, :3] - middle, block[:, 3:] / 255, block[:, :3] / limit], 1))
        targets.append(classes[chosen])
    shape = (len(found), num_points)
    return np.array(found, "float32").reshape(*shape, 9), np.array(targets, int).reshape(shape)


def _text(path):
    try:
        return path.read_text()
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing. See keras_dl.recipes.datasets.point_folders for the layout.") from error


def _lines(path):
    return [line.strip() for line in _text(path).splitlines() if line.strip()]


def _number(name, names, where):
    if name not in names:
        raise DataError(f"{where} names {name!r}, which is none of the {len(names)} classes.")
    return names.index(name)


def _table(path, columns, delimiter):
    try:
        table = np.loadtxt(path, delimiter=delimiter, ndmin=2)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not a table of numbers: {error}") from error
    if not table.size or table.shape[1] != columns:
        raise DataError(f"{path} has the shape {table.shape}; it must have {columns} columns.")
    return table


def _h5(folder, files, keys):
    """The arrays of several HDF5 files, joined: one for each key."""
    h5py = require("h5py", extra="recipes")
    found = {key: [] for key in keys}
    for name in files:
        path = folder / pathlib.PurePosixPath(name).name
        if not path.exists():
            raise DataError(f"{path} is missing, which a list of files in {folder} names.")
        with h5py.File(path) as file:
            missing = set(keys) - set(file)
            if missing:
                raise DataError(f"{path} has no {' and no '.join(sorted(missing))}; it has {', '.join(file)}.")
            for key in keys:
                found[key].append(file[key][()])
    return [np.concatenate(arrays) for arrays in found.values()]


def _rows(folder, points, target, classes):
    points, target = np.asarray(points, "float32"), np.asarray(target)
    if points.ndim != 3 or target.shape not in (points.shape[:1], points.shape[:2]):
        raise DataError(f"{folder}: points of the shape {points.shape} with targets of the shape {target.shape}.")
    if not np.isfinite(points).all():
        raise DataError(
            f"{folder}: cloud {int(np.argwhere(~np.isfinite(points))[0][0])} has a point that is not finite."
        )
    return {"points": points, "target": _in_range(folder, "target", target, classes)}


def _in_range(folder, name, numbers, count):
    if numbers.size and not (numbers.min() >= 0 and numbers.max() < count):
        raise DataError(f"{folder}: {name} {numbers.min()} to {numbers.max()} must be in [0, {count}).")
    return numbers.astype("int32")
