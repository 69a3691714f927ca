"""Meshes and how they are extracted: multi-resolution extraction is the whole grid; balls, windings, distances."""

import builtins
import itertools
import json

import numpy as np
import pytest
import trimesh

from keras_dl.ops import isosurface, meshes
from keras_dl.ops.isosurface import Mesh, extract, grid_points, marching_cubes, write_mesh

CORNERS = np.array(list(itertools.product((0.0, 1.0), repeat=3)))
# Two triangles for each side of the unit cube, counterclockwise from outside.
CUBE = np.array(
    [
        *([0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1]),
        *([2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]),
    ]
)


def ball(radius, center=(0.0, 0.0, 0.0)):
    return lambda points: radius - np.linalg.norm(points - np.array(center, "float32"), axis=-1)


def torus(points):
    return 0.12 - np.hypot(np.hypot(points[:, 0], points[:, 1]) - 0.33, points[:, 2])


def two(points):
    return np.maximum(ball(0.2, (-0.25, 0, 0))(points), ball(0.2, (0.25, 0.1, 0))(points))


@pytest.fixture(scope="module")
def ball_mesh():
    return marching_cubes(extract(ball(0.4), resolution=16, steps=1).values)


# Extraction.


def test_grid_points_fill_the_cube():
    points = grid_points(5, side=1.1).reshape(5, 5, 5, 3)
    np.testing.assert_allclose(points[0, 0, 0], -0.55)
    np.testing.assert_allclose(points[4, 2, 1], [0.55, 0, -0.275], atol=1e-7)


@pytest.mark.parametrize("function", [ball(0.4), torus, two], ids=["ball", "torus", "two balls"])
def test_extraction_gives_the_mesh_of_the_whole_grid(function):
    """All that marching cubes looks at is equal: the sides of all points, and the values around the surface."""
    found, whole = extract(function, resolution=16, steps=2), extract(function, resolution=64, steps=0)
    assert whole.queries == 65**3
    assert found.queries < 0.2 * whole.queries
    assert found.queries == extract(function, resolution=16, steps=2).queries
    np.testing.assert_array_equal(found.values >= 0, whole.values >= 0)
    for ours, dense in zip(marching_cubes(found.values)[:2], marching_cubes(whole.values)[:2], strict=True):
        np.testing.assert_array_equal(ours, dense)


def test_every_point_is_asked_about_once():
    asked = []

    def function(points):
        asked.append(points)
        return ball(0.4)(points)

    found = extract(function, resolution=8, steps=3)
    points = np.concatenate(asked)
    assert len(np.unique(points, axis=0)) == len(points) == found.queries
    assert np.abs(points).max() == np.float32(0.55)


def test_a_thread_that_leaves_its_coarse_cells_is_followed():
    """A thin rod through cells with all corners outside: seen at one end, found to the other."""

    def rod(points):
        along = np.clip(points[:, 0], -0.4, 0.4)
        distance = np.linalg.norm(points - np.stack([along, 0.03 + 0 * along, 0.03 + 0 * along], -1), axis=-1)
        return np.maximum(0.02 - distance, 0.15 - np.linalg.norm(points + np.array([0.4, 0, 0]), axis=-1))

    found, whole = extract(rod, resolution=8, steps=3), extract(rod, resolution=64, steps=0)
    np.testing.assert_array_equal(found.values >= 0, whole.values >= 0)
    assert found.queries < 0.1 * whole.queries


def test_what_no_coarse_point_hits_is_not_found():
    """The limit that the documentation names."""
    small = ball(0.02, (0.03, 0.03, 0.03))
    assert not (extract(small, resolution=8, steps=2, side=1.1).values > 0).any()
    assert (extract(small, resolution=64, steps=0).values > 0).any()


def test_ball(ball_mesh):
    """Closed, of one piece, of the formula's volume to the order of the square of a cell, and turned outwards."""
    meshes.check_watertight(*ball_mesh[:2])
    edges = len(np.unique(np.sort(ball_mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1), axis=0))
    assert len(ball_mesh.vertices) - edges + len(ball_mesh.faces) == 2
    errors = []
    for resolution in (8, 16, 32):
        mesh = marching_cubes(extract(ball(0.4), resolution=resolution, steps=0).values)
        errors.append(1 - meshes.mesh_volume(*mesh[:2]) / (4 / 3 * np.pi * 0.4**3))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.15)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.15)


def test_a_shape_that_meets_the_border_is_closed_there():
    mesh = marching_cubes(extract(ball(0.7), resolution=16, steps=1).values)
    meshes.check_watertight(*mesh[:2])
    assert np.abs(mesh.vertices).max() == pytest.approx(0.55, abs=1e-3)
    full = marching_cubes(np.ones((4, 4, 4)), side=2.0)
    meshes.check_watertight(*full[:2])
    assert meshes.mesh_volume(*full[:2]) == pytest.approx(8, rel=1e-4)


def test_nothing_inside_is_a_mesh_without_faces():
    mesh = marching_cubes(np.zeros((4, 4, 4)), threshold=0.5)
    assert (len(mesh.vertices), len(mesh.faces)) == (0, 0)


@pytest.mark.parametrize("suffix", isosurface.FORMATS)
@pytest.mark.parametrize("with_normals", [False, True])
def test_files_hold_the_mesh(suffix, with_normals, ball_mesh, tmp_path):
    normals = ball_mesh.vertices / np.linalg.norm(ball_mesh.vertices, axis=-1, keepdims=True)
    path = tmp_path / f"ball{suffix}"
    write_mesh(path, ball_mesh._replace(normals=normals if with_normals else None))
    read = trimesh.load(path, force="mesh", process=False)
    assert read.is_watertight
    np.testing.assert_allclose(read.bounds, [ball_mesh.vertices.min(0), ball_mesh.vertices.max(0)], atol=1e-6)
    assert read.volume == pytest.approx(meshes.mesh_volume(*ball_mesh[:2]), rel=1e-5)
    assert len(read.faces) == len(ball_mesh.faces)
    content = path.read_bytes()  # trimesh computes normals anew when it reads
    if suffix == ".obj":
        found = np.array([line.split()[1:] for line in content.decode().splitlines() if line.startswith("vn ")])
        found = found.astype(float).reshape(-1, 3)
        assert len(found) == (len(normals) if with_normals else 0)
        np.testing.assert_allclose(found, normals[: len(found)], atol=1e-6)
    elif suffix == ".ply":
        assert (b"property float nx" in content) == with_normals
        assert (np.hstack([ball_mesh.vertices, normals]).astype("<f4").tobytes() in content) == with_normals
    else:
        length = int.from_bytes(content[12:16], "little")  # of the JSON, between a header of 20 bytes and one of 8
        scene = json.loads(content[20 : 20 + length])
        names = scene["meshes"][0]["primitives"][0]["attributes"]
        assert ("NORMAL" in names) == with_normals
        if with_normals:
            start = scene["bufferViews"][scene["accessors"][names["NORMAL"]]["bufferView"]]["byteOffset"] + 28 + length
            found = np.frombuffer(content, "<f4", normals.size, start).reshape(-1, 3)
            np.testing.assert_allclose(found, normals, atol=1e-6)


def test_wrong_arguments_of_extraction_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="resolution=0"):
        extract(ball(0.4), resolution=0)
    with pytest.raises(ValueError, match=r"returned the shape \(125, 1\) for 125 points"):
        extract(lambda points: points[:, :1], resolution=4)
    with pytest.raises(ValueError, match="function returned nan at "):
        extract(lambda points: np.full(len(points), np.nan), resolution=4)
    with pytest.raises(ValueError, match=r"values has the shape \(3, 3, 4\)"):
        marching_cubes(np.zeros((3, 3, 4)))
    with pytest.raises(ValueError, match="holds 1 numbers that are not finite"):
        marching_cubes(np.where(np.arange(27).reshape(3, 3, 3) == 5, np.inf, 0))
    with pytest.raises(ValueError, match=r"must end with one of \.ply, \.obj, \.glb"):
        write_mesh(tmp_path / "a.stl", (CORNERS, CUBE))
    with pytest.raises(ValueError, match=r"faces has the shape \(0, 3\)"):
        write_mesh(tmp_path / "a.ply", Mesh(CORNERS, CUBE[:0]))
    assert not list(tmp_path.iterdir())

    def absent(name, *arguments, **options):
        if name.split(".")[0] in ("trimesh", "skimage"):
            raise ModuleNotFoundError(name, name=name)
        return real(name, *arguments, **options)

    real = builtins.__import__
    monkeypatch.setattr("importlib.import_module", absent)
    for call in (lambda: marching_cubes(np.ones((3, 3, 3))), lambda: write_mesh(tmp_path / "a.ply", (CORNERS, CUBE))):
        with pytest.raises(ImportError, match=r"pip install 'keras_dl\[meshes\]'"):
            call()


# Meshes.


def test_winding_numbers_of_a_cube_and_of_a_ball(ball_mesh):
    random = np.random.default_rng(0)
    points = random.uniform(-1, 2, (3000, 3))
    found = meshes.winding_numbers(points, CORNERS, CUBE)
    np.testing.assert_allclose(found, ((points > 0) & (points < 1)).all(1), atol=1e-5)
    np.testing.assert_allclose(meshes.winding_numbers(points, CORNERS, CUBE[:, ::-1]), -found, atol=1e-5)
    points = random.uniform(-0.55, 0.55, (1000, 3))
    away = np.linalg.norm(points, axis=-1)
    near = np.abs(away - 0.4) < 1e-3  # the mesh is made of chords
    np.testing.assert_array_equal(meshes.is_inside(points, *ball_mesh[:2])[~near], (away < 0.4)[~near])
    np.testing.assert_allclose(meshes.winding_numbers(points, *ball_mesh[:2]) % 1, 0, atol=1)


def test_overlapping_parts_are_united():
    vertices = np.concatenate([CORNERS, CORNERS + 0.5])
    faces = np.concatenate([CUBE, CUBE + 8])
    points = np.array([[0.25, 0.25, 0.25], [0.75, 0.75, 0.75], [1.25, 1.25, 1.25], [0.25, 1.25, 0.25]])
    np.testing.assert_allclose(meshes.winding_numbers(points, vertices, faces), [1, 2, 1, 0], atol=1e-5)
    np.testing.assert_array_equal(meshes.is_inside(points, vertices, faces), [True, True, True, False])
    # Of each surface of 6, three quarters of three sides are outside the other.
    surface, normals = meshes.sample_outer_surface(vertices, faces, 4000, np.random.RandomState(0))
    assert (meshes.winding_numbers(surface + 1e-3 * normals, vertices, faces) < 0.5).all()
    inner = (surface > 0.5 + 1e-6).all(1) & (surface < 1 - 1e-6).all(1)
    assert not inner.any()
    drawn, _ = meshes.sample_surface(vertices, faces, 8000, np.random.RandomState(0))
    # Three sides of each cube are a quarter inside of the other: 1.5 of 12.
    hidden = meshes.is_inside(drawn, vertices * 0.999 + 7e-4, faces) & ((drawn >= 0.5) & (drawn <= 1)).all(1)
    assert hidden.mean() == pytest.approx(1.5 / 12, abs=0.015)


def test_parts_are_asked_about_alone(ball_mesh):
    """Points in the boxes of one, both or none of three parts: the same as by all faces together."""
    parts = [(ball_mesh.vertices + move, ball_mesh.faces) for move in (0.0, 0.5, 3.0)]
    shifts = np.cumsum([0, *(len(v) for v, _ in parts[:-1])])
    vertices = np.concatenate([v for v, _ in parts])
    faces = np.concatenate([f + shift for (_, f), shift in zip(parts, shifts, strict=True)])
    points = np.random.default_rng(0).uniform(-0.6, 1.2, (60, 3))
    expected = meshes.winding_numbers(points, vertices, faces) >= 0.5
    np.testing.assert_array_equal(meshes.is_inside(points, vertices, faces), expected)
    assert 1 < expected.sum() < 30


def test_rays_through_edges_and_corners_are_counted_once():
    """Points above, below and beside the edges and corners of a cube on the same grid, but not on its surface."""
    steps = np.arange(-2, 7) / 4.0
    points = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    touches = ((points >= 0) & (points <= 1)).all(1) & ((points == 0) | (points == 1)).any(1)
    expected = ((points > 0) & (points < 1)).all(1)
    np.testing.assert_array_equal(meshes.is_inside(points, CORNERS, CUBE)[~touches], expected[~touches])
    assert expected.sum() == 27


def test_a_hole_in_a_solid_is_outside(ball_mesh):
    """A ball with a hollow ball inside, whose faces look the other way; large and small faces in one grid."""
    vertices = np.concatenate([CORNERS - 0.5, ball_mesh.vertices])
    faces = np.concatenate([CUBE, ball_mesh.faces[:, ::-1] + len(CORNERS)])
    points = np.random.default_rng(0).uniform(-0.6, 0.6, (300, 3))
    found = meshes.is_inside(points, vertices, faces)
    np.testing.assert_array_equal(found, meshes.winding_numbers(points, vertices, faces) >= 0.5)
    assert 50 < found.sum() < 150


def test_a_hole_is_said_and_not_guessed():
    meshes.check_watertight(CORNERS, CUBE)
    with pytest.raises(ValueError, match="not watertight: 3 of 18 edges have no face on one side"):
        meshes.is_inside(np.zeros((1, 3)), CORNERS, CUBE[1:])
    turned = CUBE.copy()
    turned[0] = turned[0, ::-1]
    with pytest.raises(ValueError, match="not watertight: 3 of 18"):
        meshes.check_watertight(CORNERS, turned)
    with pytest.raises(ValueError, match="faces point inwards"):
        meshes.check_watertight(CORNERS, CUBE[:, ::-1])
    soup = CORNERS[CUBE].reshape(-1, 3)  # no two faces share a vertex
    with pytest.raises(ValueError, match="merge equal vertices"):
        meshes.check_watertight(soup, np.arange(36).reshape(12, 3))
    merged = meshes.merge_vertices(soup, np.arange(36).reshape(12, 3))
    meshes.check_watertight(*merged)
    assert len(merged[0]) == 8


@pytest.mark.parametrize(
    ("vertices", "faces", "message"),
    [
        (CORNERS[:, :2], CUBE, r"vertices has the shape \(8, 2\)"),
        (CORNERS, CUBE[:0], r"faces has the shape \(0, 3\)"),
        (CORNERS, CUBE + 1, r"faces holds 1 to 8; they must be in \[0, 8\)"),
        (CORNERS, CUBE.astype(float), "faces has the dtype float64"),
        (np.where(CORNERS > 0, np.nan, CORNERS), CUBE, r"vertices\[1\] = .* is not finite"),
    ],
)
def test_wrong_meshes_are_refused(vertices, faces, message):
    for call in (meshes.check_watertight, lambda v, f: meshes.winding_numbers(np.zeros((1, 3)), v, f)):
        with pytest.raises(ValueError, match=message):
            call(vertices, faces)


def test_samples_are_spread_evenly_and_normals_are_radial(ball_mesh):
    random = np.random.RandomState(0)
    points, normals = meshes.sample_surface(*ball_mesh[:2], 20_000, random)
    np.testing.assert_allclose(np.linalg.norm(points, axis=-1), 0.4, atol=2e-3)
    assert (normals * points).sum(-1).min() / 0.4 > 0.99
    np.testing.assert_allclose(points.mean(0), 0, atol=4 * 0.4 / np.sqrt(3 * 20_000))
    # Archimedes: slices of equal height of a ball have equal areas.
    share = np.histogram(points[:, 2], np.linspace(-0.4, 0.4, 9))[0] / 20_000
    np.testing.assert_allclose(share, 1 / 8, atol=0.01)
    with pytest.raises(ValueError, match="no area"):
        meshes.sample_surface(np.zeros((3, 3)), np.array([[0, 1, 2]]), 5, random)


# Metrics.


def test_iou_of_two_balls_is_that_of_the_formula():
    """V = pi (4 r + d) (2 r - d)^2 / 12 is in both, of points in a cube within the error of their number."""
    points = np.random.default_rng(0).uniform(-0.55, 0.55, (200_000, 3))
    r = 0.35
    for d in (0.0, 0.1, 0.3):
        one, other = ball(r, (d / 2, 0, 0))(points) > 0, ball(r, (-d / 2, 0, 0))(points) > 0
        both = np.pi * (4 * r + d) * (2 * r - d) ** 2 / 12
        expected = both / (2 * 4 / 3 * np.pi * r**3 - both)
        assert meshes.volume_iou(one, other) == pytest.approx(expected, abs=4 * 0.5 / np.sqrt(0.1 * 200_000))
    np.testing.assert_array_equal(meshes.volume_iou(np.zeros((2, 3)), [[0, 0, 0], [0, 1, 0]]), [1, 0])


def test_distances_of_balls(ball_mesh):
    random = np.random.RandomState(0)
    sides = [meshes.sample_surface(*ball_mesh[:2], 20_000, random) for _ in range(2)]
    same = meshes.surface_distances(*sides[0], *sides[1])
    # 20,000 points on an area of 2 have a neighbor at 0.005 on average: half of the root of the area of each.
    assert same["chamfer_l1"] == pytest.approx(0.5 * np.sqrt(4 * np.pi * 0.16 / 20_000), rel=0.05)
    assert same["normal_consistency"] > 0.998
    assert same["f_score"] > 0.95
    itself = meshes.surface_distances(*sides[0], *sides[0])
    assert (itself["chamfer_l1"], itself["f_score"]) == (0, 1)
    grown = meshes.surface_distances(sides[0][0] * 1.1, sides[0][1], *sides[1])
    assert grown["accuracy"] == pytest.approx(0.04, rel=0.02)
    assert grown["completeness"] == pytest.approx(0.04, rel=0.02)
    assert grown["f_score"] == 0
    turned = meshes.surface_distances(sides[0][0], -sides[0][1], *sides[1])
    assert turned["normal_consistency"] == pytest.approx(same["normal_consistency"], abs=1e-6)
    with pytest.raises(ValueError, match="points has no points"):
        meshes.surface_distances(sides[0][0][:0], sides[0][1][:0], *sides[1])
