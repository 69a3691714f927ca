"""Surfaces of functions in space: the places where a function of points has one value, as meshes.

The space is a cube around the origin. A function is asked at the points of a grid, and marching cubes makes triangles
of the values. Most of the grid is far from the surface. Multi-resolution extraction (MISE) asks at the points of a
coarse grid, divides the cells whose corners are on both sides of the surface, and asks only there, again and again:

    32^3 cells -> ask at 33^3 points -> divide the cells on the surface -> ask at their new points -> ... -> 128^3 cells

A cell that a finer level finds to be on the surface is asked about as well, so that the values around the surface are
those of the whole grid. What MISE cannot find is a part that no point of the coarse grid hits.

All is NumPy on the host. Marching cubes is that of scikit-image, files are written by trimesh: `keras_dl[meshes]`.

References: Mescheder et al. 2018, "Occupancy Networks", arXiv:1812.03828, section 3.3 and fig. 2; Lewiner et al. 2003,
"Efficient Implementation of Marching Cubes' Cases with Topological Guarantees".
"""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from keras_dl.checks import check_positive, check_size
from keras_dl.extras import require
from keras_dl.files import replacing
from keras_dl.ops.meshes import check_mesh

FORMATS = (".ply", ".obj", ".glb")
_OUTSIDE = -1e6  # the values around the grid, so that a surface that meets its border is closed there


class Mesh(NamedTuple):
    """Triangles in space.

    Attributes:
        vertices: float32, `(n, 3)`.
        faces: int32, `(m, 3)`. Places in `vertices`, counterclockwise if seen from outside.
        normals: float32, `(n, 3)`, of length 1, or None. They point outwards.
    """

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray | None = None


class Extraction(NamedTuple):
    """The values of a function on a grid.

    Attributes:
        values: float32, `(n, n, n)`, for the points of `grid_points(n, side)` in their order. Around the surface they
            are the function's; elsewhere they may be copies of a neighbor's.
        queries: int. How many points the function was asked about, of `n ** 3`.
    """

    values: np.ndarray
    queries: int


def grid_points(count: int, side: float = 1.1):
    """The points of a grid that fills a cube around the origin, its faces included.

    Args:
        count: int, at least 2. Points along each axis.
        side: float. Length of the cube's edges.

    Returns:
        float32, `(count ** 3, 3)`. The last coordinate changes fastest.

    Example:

    >>> grid_points(2, side=2.0)[:3].tolist()
    [[-1.0, -1.0, -1.0], [-1.0, -1.0, 1.0], [-1.0, 1.0, -1.0]]
    """
    count, side = check_size("count", count, 2), check_positive("side", side)
    return _places(np.indices((count,) * 3).reshape(3, -1).T, count, side)


def _places(indices, count, side):
    return (side * (indices / (count - 1) - 0.5)).astype("float32")


def extract(
    function: Callable, threshold: float = 0.0, resolution: int = 32, steps: int = 2, side: float = 1.1
) -> Extraction:
    """Multi-resolution extraction: the values of a function on a grid, exact around the surface `threshold`.

    Args:
        function: from points, float32 `(n, 3)`, to values, float `(n,)`. A value of at least `threshold` is inside.
        threshold: float.
        resolution: int. Cells of the coarse grid along each axis. Parts that no point of it hits are not found.
        steps: int, at least 0. How many times cells are halved: the fine grid has `resolution * 2 ** steps` cells along
            each axis, and one point more. 0 asks for the whole grid.
        side: float. Length of the edges of the cube, which is around the origin.

    Returns:
        `Extraction`.

    Raises:
        ValueError: if an argument is out of its range, or the function returns another number of values, or one that is
            not finite.

    Example:

    >>> found = extract(lambda points: 0.4 - np.linalg.norm(points, axis=-1))
    >>> found.values.shape, found.queries < 0.1 * found.values.size
    ((129, 129, 129), True)
    """
    resolution, steps = check_size("resolution", resolution), check_size("steps", steps, 0)
    side = check_positive("side", side)

    def ask(indices, count):
        values = np.asarray(function(_places(indices, count, side)), "float32")
        if values.shape != (len(indices),):
            raise ValueError(f"function returned the shape {values.shape} for {len(indices)} points.")
        if not np.isfinite(values).all():
            wrong = int(np.argmin(np.isfinite(values)))
            place = _places(indices[wrong], count, side).tolist()
            raise ValueError(f"function returned {values[wrong]} at {place}: all of its values must be finite.")
        return values

    count = resolution + 1
    values = ask(np.indices((count,) * 3).reshape(3, -1).T, count).reshape((count,) * 3)
    known = np.ones_like(values, bool)
    queries = values.size
    for _ in range(steps):
        active = _mixed(values >= threshold).repeat(2, 0).repeat(2, 1).repeat(2, 2)  # the halved cells
        count = 2 * count - 1
        values = values.repeat(2, 0).repeat(2, 1).repeat(2, 2)[:count, :count, :count]
        fine = np.zeros_like(values, bool)
        fine[::2, ::2, ::2] = known
        known = fine
        while True:
            missing = np.argwhere(_corners(active) & ~known)
            if not len(missing):
                break
            place = tuple(missing.T)
            values[place], known[place] = ask(missing, count), True
            queries += len(missing)
            # Their values may show that the surface goes on in a cell that seemed to be on one side.
            active = _mixed(values >= threshold)
    return Extraction(values, queries)


def _mixed(inside):
    """The cells with corners on both sides, by the sides of the points: bool, one less along each axis."""
    first = inside[:-1, :-1, :-1]
    mixed = np.zeros_like(first)
    for corner in _slices():
        mixed |= inside[corner] != first
    return mixed


def _corners(cells):
    """The points that are corners of these cells: bool, one more along each axis."""
    points = np.zeros([n + 1 for n in cells.shape], bool)
    for corner in _slices():
        points[corner] |= cells
    return points


def _slices():
    ends = (slice(None, -1), slice(1, None))
    return [(a, b, c) for a in ends for b in ends for c in ends]


def marching_cubes(values, threshold: float = 0.0, side: float = 1.1) -> Mesh:
    """The surface on which interpolated values of a grid are `threshold`, as a watertight mesh.

    The grid is surrounded by values of -1,000,000, so that a shape that meets its border is closed there.

    Args:
        values: float, `(n, n, n)`, n at least 2. Larger values are inside.
        threshold: float.
        side: float. Length of the edges of the cube that the grid fills, which is around the origin.

    Returns:
        `Mesh` without normals. It has no faces if no value is above the threshold.

    Raises:
        ValueError: if `values` has another shape, or one that is not finite.
        ImportError: if scikit-image is not installed.

    Example:

    >>> values = extract(lambda points: 0.4 - np.linalg.norm(points, axis=-1), steps=0).values
    >>> mesh = marching_cubes(values)
    >>> len(mesh.vertices) - 3 * len(mesh.faces) // 2 + len(mesh.faces)  # Euler's number of a ball
    2
    """
    measure = require("skimage.measure", extra="meshes")
    values = np.asarray(values, "float32")
    if values.ndim != 3 or len(set(values.shape)) > 1 or len(values) < 2:
        raise ValueError(f"values has the shape {values.shape}; it must be (n, n, n) with n of at least 2.")
    if not np.isfinite(values).all():
        raise ValueError(f"values holds {int((~np.isfinite(values)).sum())} numbers that are not finite.")
    if not (values > threshold).any():
        return Mesh(np.zeros((0, 3), "float32"), np.zeros((0, 3), "int32"))
    padded = np.pad(values, 1, constant_values=_OUTSIDE)
    vertices, faces, _, _ = measure.marching_cubes(padded, threshold, gradient_direction="ascent")
    # In units of cells, from the first value: (vertices - 1) of n - 1 cells.
    return Mesh(_places(vertices - 1, len(values), side), np.ascontiguousarray(faces, "int32"))


def write_mesh(path, mesh: Mesh) -> None:
    """Writes a mesh to a file for other programs: `.ply`, `.obj` or `.glb`, by the suffix.

    Args:
        path: str or path.
        mesh: `Mesh`, or a tuple of vertices and faces.

    Raises:
        ValueError: if the suffix is another one, or the mesh has no faces or wrong ones.
        ImportError: if trimesh is not installed.
    """
    path = pathlib.Path(path)
    if path.suffix not in FORMATS:
        raise ValueError(f"path={str(path)!r} must end with one of {', '.join(FORMATS)}.")
    trimesh = require("trimesh", extra="meshes")
    mesh = Mesh(*mesh)
    vertices, faces = check_mesh(mesh.vertices, mesh.faces)
    shape = trimesh.Trimesh(vertices, faces, vertex_normals=mesh.normals, process=False)
    with replacing(path) as temporary:
        option = "vertex_normal" if path.suffix == ".ply" else "include_normals"
        shape.export(str(temporary), file_type=path.suffix[1:], **{option: mesh.normals is not None})
