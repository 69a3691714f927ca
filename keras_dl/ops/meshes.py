"""Triangle meshes on the host, in NumPy: what is inside, points on the surface, and how far apart two surfaces are.

A mesh is `vertices`, float `(n, 3)`, and `faces`, int `(m, 3)`: places in `vertices`, counterclockwise if seen from
outside. The inside is where the winding number is at least one half. It is only defined if the mesh is watertight.

    w(q) = 1 / 4 pi sum_faces Omega(q),    tan(Omega / 2) = det(a, b, c) / (|a||b||c| + ab |c| + bc |a| + ca |b|)

`a`, `b`, `c` are the corners of a face as seen from `q`. Several closed parts may overlap: their union is the inside.

References: Jacobson, Kavan, Sorkine-Hornung 2013, "Robust Inside-Outside Segmentation using Generalized Winding
Numbers", eq. 5 and 6; Van Oosterom, Strackee 1983, "The Solid Angle of a Plane Triangle". The metrics are those of
Mescheder et al. 2018, arXiv:1812.03828, section 4, and of Tatarchenko et al. 2019, arXiv:1905.03678, eq. 1 to 3.
"""

import math
from typing import NamedTuple

import numpy as np

from keras_dl.extras import require

_PAIRS = 400_000  # points times faces at a time: the arrays then fit into the cache of a core
_ENTRIES = 5_000_000  # faces in all columns of a grid together, at most
_ASIDE = np.array([7.31e-10, 3.17e-10])  # of the size of a mesh: far below float32, far above the rounding of float64


def check_mesh(vertices, faces):
    """`vertices` as float64 and `faces` as int64, checked.

    Raises:
        ValueError: if a shape is wrong, there is no face, a vertex is not finite, or a face names a vertex that is not
            there.
    """
    vertices, faces = np.asarray(vertices, "float64"), np.asarray(faces)
    for name, array in (("vertices", vertices), ("faces", faces)):
        if array.ndim != 2 or array.shape[1] != 3 or not len(array):
            raise ValueError(f"{name} has the shape {array.shape}; it must be (n, 3) with n of at least 1.")
    if not np.isfinite(vertices).all():
        first = int(np.argwhere(~np.isfinite(vertices))[0][0])
        raise ValueError(f"vertices[{first}] = {vertices[first].tolist()} is not finite.")
    if not np.issubdtype(faces.dtype, np.integer):
        raise ValueError(f"faces has the dtype {faces.dtype}; it must be int.")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise ValueError(f"faces holds {faces.min()} to {faces.max()}; they must be in [0, {len(vertices)}).")
    return vertices, faces.astype("int64")


def merge_vertices(vertices, faces):
    """The same mesh in which equal vertices are one, and faces with two equal corners are left out.

    Files of meshes often repeat vertices, so that faces that touch share none.

    Returns:
        `(vertices, faces)`, float64 and int64.
    """
    vertices, faces = check_mesh(vertices, faces)
    vertices, places = np.unique(vertices, axis=0, return_inverse=True)
    faces = places.reshape(-1)[faces]
    return vertices, faces[(faces != np.roll(faces, 1, axis=1)).all(1)]


def open_edges(faces):
    """The edges that a face passes in one direction and no other face in the opposite one: int `(n, 2)`, vertices.

    A mesh without such edges is watertight: winding numbers are whole, and the inside is defined.
    """
    faces = np.asarray(faces)
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    sign = np.where(edges[:, 0] < edges[:, 1], 1, -1)
    kinds, place = np.unique(np.sort(edges, axis=1), axis=0, return_inverse=True)
    return kinds[np.bincount(place.reshape(-1), sign, len(kinds)) != 0]


def check_watertight(vertices, faces):
    """Refuses a mesh whose inside is not defined.

    Raises:
        ValueError: if the mesh is not watertight, or its faces point inwards; or as `check_mesh`.

    Example:

    >>> corners = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    >>> check_watertight(corners, [[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    >>> check_watertight(corners, [[0, 2, 1], [0, 1, 3], [0, 3, 2]])
    Traceback (most recent call last):
    ...
    ValueError: The mesh is not watertight: 3 of 6 edges have no face on one side, the first between the vertices 1 and 2. Its inside is not defined. Close its holes, and merge equal vertices.
    """  # noqa: E501
    vertices, faces = check_mesh(vertices, faces)
    found = open_edges(faces)
    if len(found):
        edges = len(np.unique(np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1), axis=0))
        raise ValueError(
            f"The mesh is not watertight: {len(found)} of {edges} edges have no face on one side, the first between "
            f"the vertices {found[0][0]} and {found[0][1]}. Its inside is not defined. Close its holes, and merge "
            "equal vertices."
        )
    if (volume := mesh_volume(vertices, faces)) <= 0:
        raise ValueError(
            f"The faces point inwards, or the mesh is flat: its volume is {volume:.3g}. Turn the faces around: "
            "faces[:, ::-1]."
        )


def mesh_volume(vertices, faces) -> float:
    """The volume of a watertight mesh. It is negative if the faces point inwards. Overlapping parts count twice."""
    a, b, c = (np.asarray(vertices, "float64")[np.asarray(faces)[:, i]] for i in range(3))
    return float((a * np.cross(b, c)).sum() / 6)


def winding_numbers(points, vertices, faces):
    """How many times a mesh goes around each point. A watertight mesh has whole numbers: 0 outside, 1 inside.

    The solid angles of all faces are summed, so that there is no ray that could graze an edge. A point and a face take
    about 80 nanoseconds (one core of an AMD EPYC).

    Args:
        points: float, `(n, 3)`.
        vertices: float, `(v, 3)`.
        faces: int, `(f, 3)`.

    Returns:
        float32, `(n,)`. It is not defined on the surface itself.

    Raises:
        ValueError: as `check_mesh`.
    """
    points = np.asarray(points, "float64").reshape(-1, 3)
    vertices, faces = check_mesh(vertices, faces)
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    edges, place = np.unique(np.sort(edges, axis=1), axis=0, return_inverse=True)
    place = place.reshape(-1, 3)
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    # All are linear in the point, but for its own square: products of matrices.
    normals = np.cross(a, b) + np.cross(b, c) + np.cross(c, a)  # (faces, 3)
    volumes = (a * np.cross(b, c)).sum(-1)
    squares = (vertices**2).sum(-1)
    sums, products = vertices[edges].sum(1), vertices[edges].prod(1).sum(-1)
    found = np.empty(len(points), "float32")
    step = max(1, _PAIRS // len(faces))
    for start in range(0, len(points), step):
        q = points[start : start + step]
        own = (q**2).sum(-1, keepdims=True)
        lengths = np.sqrt(np.maximum(own - 2 * q @ vertices.T + squares, 0)).astype("float32")  # (points, vertices)
        dots = (own - q @ sums.T + products).astype("float32")  # (points, edges)
        volume = (volumes - q @ normals.T).astype("float32")  # (points, faces)
        la, lb, lc = (lengths[:, faces[:, i]] for i in range(3))
        ab, bc, ca = (dots[:, place[:, i]] for i in range(3))
        angle = np.arctan2(volume, la * lb * lc + ab * lc + bc * la + ca * lb)
        found[start : start + step] = angle.sum(1) / (2 * math.pi)
    return found


def is_inside(points, vertices, faces):
    """Which points a watertight mesh holds: bool `(n,)`.

    The winding number is that of `winding_numbers`, counted along a ray upwards: a face that the ray leaves through
    counts 1, one that it enters through -1. Faces are looked up by columns of a grid: 8,192 points and the 81,920
    faces of a ball take 0.9 seconds (one busy core).

    Args:
        points: float, `(n, 3)`.
        vertices: float, `(v, 3)`.
        faces: int, `(f, 3)`.

    Raises:
        ValueError: if the mesh is not watertight: its inside is not guessed.
    """
    check_watertight(vertices, faces)
    points = np.asarray(points, "float64").reshape(-1, 3)
    vertices, faces = check_mesh(vertices, faces)
    low, size = vertices.min(0), np.ptp(vertices, axis=0).max()
    # Mesh and points are often on one grid. A ray that is moved aside by less than float32 can tell hits no edge.
    rays = points[:, :2] + _ASIDE * size
    columns = _columns(vertices, faces, low[:2], size)
    total = np.zeros(len(points), int)
    step = max(1, _PAIRS // columns.most)
    for start in range(0, len(points), step):
        row, face = columns.faces_of(rays[start : start + step])
        turn = _turn_around(rays[start + row], vertices[:, :2], faces[face])
        crossed = np.flatnonzero(turn)
        row, face, turn = row[crossed], face[crossed], turn[crossed]
        a, b, c = (vertices[faces[face, i]] for i in range(3))
        # The ray passes above the point where the point is behind a face that looks up, or in front of one below.
        side = (np.cross(b - a, c - a) * (points[start + row] - a)).sum(-1)
        above = side * turn < 0
        total[start : start + step] += np.bincount(
            row[above], turn[above], minlength=len(points[start : start + step])
        ).astype(int)
    return total >= 1


class _Columns(NamedTuple):
    """Faces by the columns of a grid over the plane of the first two axes.

    Attributes:
        low: float, `(2,)`. The corner of the grid.
        width: float. Of a column.
        count: int. Columns along each axis.
        starts: int, `(count ** 2 + 1,)`. Where the faces of each column begin in `faces`.
        faces: int, `(entries,)`.
    """

    low: np.ndarray
    width: float
    count: int
    starts: np.ndarray
    faces: np.ndarray

    @property
    def most(self):
        """The faces of the fullest column, at least 1."""
        return max(1, int(np.diff(self.starts).max()))

    def faces_of(self, places):
        """Pairs of a place and a face in its column: `(rows of places, faces)`."""
        cell = np.floor((places - self.low) / self.width).astype(int)  # (places, 2)
        inside = np.flatnonzero(((cell >= 0) & (cell < self.count)).all(1))
        column = cell[inside, 0] * self.count + cell[inside, 1]
        counts = self.starts[column + 1] - self.starts[column]
        return np.repeat(inside, counts), self.faces[_ranges(self.starts[column], counts)]


def _columns(vertices, faces, low, size):
    """`_Columns` of a mesh whose lowest corner is `low` and whose largest side is `size`."""
    flat = vertices[faces][:, :, :2]  # (faces, 3, 2)
    count = max(1, int(np.sqrt(len(faces))))
    while True:
        width = size * (1 + 1e-6) / count
        first, last = (
            np.clip(np.floor((edge - low) / width).astype(int), 0, count - 1) for edge in (flat.min(1), flat.max(1))
        )
        spans = last - first + 1  # (faces, 2)
        entries = spans.prod(1)
        if count == 1 or entries.sum() <= _ENTRIES:
            break
        count //= 2  # large faces lie in many columns
    face = np.repeat(np.arange(len(faces)), entries)
    number = _ranges(np.zeros(len(faces), int), entries)
    i, j = np.divmod(number, spans[face, 1])
    column = (first[face, 0] + i) * count + first[face, 1] + j
    order = np.argsort(column, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(column, minlength=count**2))])
    return _Columns(low, width, count, starts, face[order])


def _ranges(starts, counts):
    """`start, start + 1, ...`, `count` of them, for each pair, one after the other: int."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - counts), counts)


def _turn_around(places, flat, faces):
    """How a triangle goes around a place in the plane: 1 counterclockwise, -1 clockwise, 0 not at all: int `(pairs,)`.

    Args:
        places: float, `(pairs, 2)`.
        flat: float, `(v, 2)`. Vertices.
        faces: int, `(pairs, 3)`. The triangle of each pair.
    """
    signs = []
    for i, j in ((0, 1), (1, 2), (2, 0)):
        # From the lower vertex: both faces at an edge then round alike, and a ray passes through one of them.
        a, b = np.minimum(faces[:, i], faces[:, j]), np.maximum(faces[:, i], faces[:, j])
        (ax, ay), (bx, by), (x, y) = flat[a].T, flat[b].T, places.T
        left = (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0
        signs.append(np.where(left == (a == faces[:, i]), 1, -1))
    total = sum(signs)
    return np.where(np.abs(total) == 3, np.sign(total), 0)


def sample_surface(vertices, faces, count: int, random):
    """Points on a mesh, spread evenly by area, with the normals of their faces.

    Args:
        vertices: float, `(v, 3)`.
        faces: int, `(f, 3)`.
        count: int.
        random: `np.random.RandomState` or `np.random.Generator`.

    Returns:
        `(points, normals)`, float32, each `(count, 3)`.

    Raises:
        ValueError: if the mesh has no area; or as `check_mesh`.
    """
    vertices, faces = check_mesh(vertices, faces)
    corners = vertices[faces]  # (faces, 3, 3)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    areas = np.linalg.norm(normals, axis=-1)
    if not areas.sum() > 0:
        raise ValueError("The mesh has no area: all of its faces are lines or points.")
    chosen = np.searchsorted(np.cumsum(areas) / areas.sum(), random.uniform(size=count), side="right")
    chosen = np.minimum(chosen, len(faces) - 1)
    u, v = np.sqrt(random.uniform(size=count)), random.uniform(size=count)
    weights = np.stack([1 - u, u * (1 - v), u * v], -1)  # even over a triangle
    points = (corners[chosen] * weights[..., None]).sum(1)
    normals = normals[chosen] / np.maximum(areas[chosen, None], np.finfo(float).tiny)
    return points.astype("float32"), normals.astype("float32")


def sample_outer_surface(vertices, faces, count: int, random, offset: float = 1e-3):
    """As `sample_surface`, without what lies inside another part of the mesh.

    Args:
        vertices, faces, count, random: as of `sample_surface`.
        offset: float. A point counts as inner if the point so far in front of its face is inside the mesh.

    Raises:
        ValueError: as `is_inside` and `sample_surface`, or if too little of the surface lies outside.
    """
    points, normals = np.zeros((0, 3), "float32"), np.zeros((0, 3), "float32")
    for _ in range(20):
        new, facing = sample_surface(vertices, faces, count, random)
        outer = ~is_inside(new + offset * facing, vertices, faces)
        points, normals = np.concatenate([points, new[outer]]), np.concatenate([normals, facing[outer]])
        if len(points) >= count:
            return points[:count], normals[:count]
    raise ValueError(f"Only {len(points)} of {20 * count} points of the mesh's surface lie outside of it.")


def volume_iou(occupied, expected):
    """Intersection over union of the points that two shapes hold.

    Points that are spread evenly over a box around both give an unbiased estimate of either volume.

    Args:
        occupied, expected: bool, `(..., points)`.

    Returns:
        float64, `(...)`. 1 where both hold no point.

    Example:

    >>> float(volume_iou(np.array([True, True, False]), np.array([True, False, False])))
    0.5
    """
    occupied, expected = np.asarray(occupied, bool), np.asarray(expected, bool)
    both, either = (occupied & expected).sum(-1), (occupied | expected).sum(-1)
    return np.where(either > 0, both / np.maximum(either, 1), 1.0)[()]


def surface_distances(points, normals, target, target_normals, threshold: float = 0.01):
    """How far apart two surfaces are, by points on them: the metrics of the papers.

    Args:
        points, normals: float, `(n, 3)`: of the surface that is measured, evenly spread.
        target, target_normals: float, `(m, 3)`: of the true one.
        threshold: float. Of the F-score, in the unit of the points: 0.01 is 1% of the side of a unit cube.

    Returns:
        dict of float: `"accuracy"`, the mean distance of a point to the nearest of the target; `"completeness"`, that
        of the target's points to the nearest of the points; `"chamfer_l1"`, the mean of both;
        `"normal_consistency"`, the mean over both directions of the absolute cosine between the normals of nearest
        points; `"f_score"`, the harmonic mean of the shares of either side's points that are nearer than `threshold`.

    Raises:
        ValueError: if a side has no points. A surface that was not found has no distance.
        ImportError: if SciPy is not installed.
    """
    trees = require("scipy.spatial", extra="meshes")
    for name, array in (("points", points), ("target", target)):
        if len(array) == 0:
            raise ValueError(f"{name} has no points: a surface that is empty has no distance.")
    accuracy, nearest = trees.cKDTree(target).query(points)
    completeness, nearest_point = trees.cKDTree(points).query(target)
    cosines = np.abs((np.asarray(normals) * np.asarray(target_normals)[nearest]).sum(-1)).mean()
    cosines_back = np.abs((np.asarray(target_normals) * np.asarray(normals)[nearest_point]).sum(-1)).mean()
    precision, recall = (accuracy < threshold).mean(), (completeness < threshold).mean()
    return {
        "accuracy": float(accuracy.mean()),
        "completeness": float(completeness.mean()),
        "chamfer_l1": float((accuracy.mean() + completeness.mean()) / 2),
        "normal_consistency": float((cosines + cosines_back) / 2),
        "f_score": float(2 * precision * recall / max(precision + recall, np.finfo(float).tiny)),
    }
