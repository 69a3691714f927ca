"""Solids: closed meshes, `.ply`, `.off`, `.obj`, `.stl` or `.glb`, in a folder and in all folders in it.

    FOLDER/1.ply, FOLDER/chairs/2.off           a split is made by seed
    FOLDER/train/1.ply, FOLDER/test/2.ply       the split is given; `val` is a third part, or the test

A mesh is watertight if each of its edges is passed as often in one direction as in the other. Only then is it known
which points are inside. Equal vertices are merged before. Each solid is moved and scaled so that its bounding box is
around the origin and its longest side is 1.
"""

import functools
import pathlib
from typing import NamedTuple

import numpy as np

from keras_dl.extras import require
from keras_dl.files import FileError
from keras_dl.ops.meshes import merge_vertices, mesh_volume, open_edges
from keras_dl.recipes.data.meshes import CURE, read_mesh
from keras_dl.recipes.data.own import OwnData, divided, mixed, split_folders, with_test
from keras_dl.recipes.data.pictures import files_in
from keras_dl.recipes.datasets.solids import described

SUFFIXES = (".ply", ".off", ".obj", ".stl", ".glb")
SHOWN = 5  # broken files that are named beside the first
FLAT = 1e-7  # the volume from which on a mesh is a solid, where its longest side is 1
THIN = 1e-3  # the volume below which few of the points around a solid are inside


class Solid(NamedTuple):
    """A closed mesh.

    Attributes:
        vertices: float32, `(n, 3)`. The bounding box is around the origin, and its longest side is 1.
        faces: int32, `(m, 3)`, counterclockwise as seen from outside.
        turned: bool. Whether they were clockwise in the file.
    """

    vertices: np.ndarray
    faces: np.ndarray
    turned: bool


def accepts(path):
    """Whether a path is a folder with meshes, in it or in its folders."""
    if not path.is_dir():
        return False
    return any(_files(part) for part in (split_folders(path) or {"": path}).values())


def _files(folder):
    """The meshes of a folder and of all folders in it: list of paths."""
    return [file for file in files_in(folder) if file.suffix.lower() in SUFFIXES]


def read(path, seed=0, target=None) -> OwnData:
    """The solids of a folder. Without a validation split, a fifth of the training split becomes one.

    Raises:
        FileError: if a mesh is not watertight, or cannot be read; the message says what would do, and names others. Or
            if there are too few.
    """
    given = split_folders(path)
    parts = with_test({split: _files(folder) for split, folder in (given or {"train": path}).items()})
    if empty := next((split for split, files in parts.items() if not files), None):
        raise FileError(path, f"has no mesh in its split {empty} ({', '.join(SUFFIXES)}).")
    files = sorted(file for part in parts.values() for file in part)
    beside = sorted(set(_files(path)) - set(files))
    found = _solids(files)
    parts, how = _split({split: [part[i] for i in mixed(len(part), seed)] for split, part in parts.items()}, seed, path)
    sizes = [len(solid.faces) for solid in found.values()]
    turned = sum(solid.turned for solid in found.values())
    thin = sum(mesh_volume(solid.vertices, solid.faces) < THIN for solid in found.values())
    return OwnData(
        path=path,
        form="solids",
        features={"mesh": require("tensorflow_datasets", extra="recipes").features.Text()},
        splits={split: {"mesh": np.array([str(file) for file in parts[split]])} for split in parts},
        files=files,
        how=how,
        facts={
            "triangles": f"{sum(sizes):,}, {min(sizes):,} to {max(sizes):,} in a mesh; all meshes are watertight",
            "scale": "each is moved to the origin, and its longest side becomes 1",
        },
        notes=[
            *[f"left out {len(beside)} meshes that are in no folder of a split, such as {file}" for file in beside[:1]],
            *[f"{turned} of the meshes had faces that look inwards, and were turned around"] * bool(turned),
            *[f"{thin} of the solids are so thin that their IoU says little"] * bool(thin),
        ],
        metadata={"described": lambda file, *seeds: _described(pathlib.Path(file), *seeds)},
    )


def _split(parts, seed, path):
    """Files by all three splits, and where the splits come from, in words."""
    how, of = [], " of the rest" if "test" not in parts else " of the training split"
    for split, least, source in (("test", 3, ""), ("validation", 2, of)):
        if split in parts:
            continue
        files = parts["train"]
        if len(files) < least:
            raise FileError(
                path,
                f"has {len(files)} solids to train on and no split {split}. Three are needed at least: to train, to "
                "choose the threshold, and for the test.",
            )
        train, other = divided(len(files), seed)
        parts = parts | {"train": [files[i] for i in train], split: [files[i] for i in other]}
        how.append(f"a fifth{source} for the {split}")
    return parts, f"{' and '.join(how)}, by the seed {seed}" if how else "as the folders have it"


def _solids(files):
    """`Solid` by file; or an error that names all files that are none."""
    found, broken = {}, []
    for file in files:
        try:
            found[file] = _solid(file, file.stat().st_mtime_ns)
        except FileError as error:
            broken.append(error)
    if not broken:
        return found
    first, *others = broken
    named = ", ".join(pathlib.Path(error.path).name for error in others[:SHOWN])
    more = f" {len(others)} of the other {len(files) - 1} files are no solids either: {named}"
    more += ", ..." if len(others) > SHOWN else "."
    raise FileError(first.path, first.problem + more * bool(others))


@functools.cache
def _solid(file, changed):
    """The solid of a file; `changed` is its time, so that another file is read again."""
    vertices, faces = read_mesh(file)
    if not len(faces):
        raise FileError(file, "has no triangles. Which points are inside is known of closed meshes alone.")
    if not np.isfinite(vertices).all():
        raise FileError(file, f"has vertices that are not finite. {CURE}")
    try:
        vertices, faces = merge_vertices(vertices, faces)
    except ValueError as error:
        raise FileError(file, f"is no mesh: {error} {CURE}") from error
    if len(found := open_edges(faces)):
        raise FileError(file, _leak(vertices, faces, found))
    low, high = vertices.min(0), vertices.max(0)
    vertices = ((vertices - (low + high) / 2) / max(np.max(high - low), np.finfo(float).tiny)).astype("float32")
    volume = mesh_volume(vertices, faces) if len(faces) else 0.0
    if abs(volume) < FLAT:
        raise FileError(file, "is flat: it encloses no volume. Leave it out.")
    return Solid(vertices, (faces if volume > 0 else faces[:, ::-1]).astype("int32"), volume < 0)


def _described(file, *seeds):
    """What training needs of a solid, as `keras_dl.recipes.datasets.solids.described` returns it: dict of arrays."""
    return _measured(file, file.stat().st_mtime_ns, seeds)


@functools.cache
def _measured(file, changed, seeds):
    """`_described`; a run opens its data several times, and meshes of 100,000 triangles take a second each."""
    solid = _solid(file, changed)
    return described(solid.vertices, solid.faces, np.random.RandomState(seeds))


def _leak(vertices, faces, edges):
    """Why the inside of a mesh with such edges is not defined, and what would do."""
    everything = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    kinds, counts = np.unique(everything, axis=0, return_counts=True)
    first = " and ".join(f"({', '.join(f'{x:g}' for x in vertices[i])})" for i in edges[0])
    if (counts % 2 == 0).all():
        return (
            f"has faces that are wound in opposite ways: {len(edges)} of its {len(kinds)} edges, the first between "
            f"{first}, are passed twice in one direction. What is inside is then not defined. Wind them alike, by "
            "trimesh.repair.fix_normals or in a modeling program."
        )
    return (
        f"is not watertight: {len(edges)} of its {len(kinds)} edges have no face on one side, the first between "
        f"{first}. What is inside is then not defined. Close its holes and join its pieces, by "
        "trimesh.repair.fill_holes or in a modeling program, or leave the file out."
    )
