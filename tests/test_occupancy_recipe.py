"""The data of the occupancy network's recipe: objects of a small wheel, solids by formula, the authors' files."""

import functools
import types
import zipfile

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_dl.ops import meshes
from keras_dl.ops.isosurface import Mesh
from keras_dl.recipes import datasets
from keras_dl.recipes.datasets import solid_folders, solids
from keras_dl.recipes.tasks import solids as task
from keras_dl.recipes.training import recipe

RECIPE = recipe.find("occupancy_network")
SIZE = np.array([4.0, 2.0, 1.0])


def cuboid(low, high):
    """An OBJ file of a box: eight vertices, six sides of four corners, counterclockwise from outside."""
    low, high = np.array(low), np.array(high)
    corners = [(low, high)[i] for i in (0, 1)]
    lines = [f"v {corners[i][0]} {corners[k][1]} {corners[n][2]}" for i in (0, 1) for k in (0, 1) for n in (0, 1)]
    sides = ("1 2 4 3", "5 7 8 6", "1 5 6 2", "3 4 8 7", "1 3 7 5", "2 6 8 4")
    return "\n".join(["o convex_0", *lines, *(f"f {side}" for side in sides)])


# Objects of the wheel.


def test_obj_files_are_read():
    vertices, faces = solids.parse_obj("# a\nv 0 0 0\nv 1 0 0 \nvn 0 0 1\nv 1 1 0\nv 0 1 0\nf 1/1/1 2//1 3 4\n\n")
    np.testing.assert_array_equal(vertices, [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    np.testing.assert_array_equal(faces, [[0, 1, 2], [0, 2, 3]])
    with pytest.raises(datasets.DataError, match=r"Line 2 of an OBJ file is not a vertex or a face: 'v 1 x 0'"):
        solids.parse_obj("v 0 0 0\nv 1 x 0\n")


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel of six objects, of which four are closed. No test reads the real one, of 103 MB."""
    path = tmp_path / solids.PYBULLET.filename
    box = cuboid((0, 0, 0), SIZE)
    files = [box, "", cuboid((1, 1, 1), (2, 2, 2)), box.rpartition("\n")[0], cuboid((0, 0, 0), (1, 5, 5)), "v nan 0 0"]
    files[4] += "\n" + cuboid((0, 0, 0), (5, 1, 5)).replace("f ", "f +").replace("+", "")
    with zipfile.ZipFile(path, "w") as archive:
        for number, text in enumerate(files):
            archive.writestr(solids.MEMBER.format(number), text)
    monkeypatch.setattr(solids.Wheel, "fetch", lambda self: path)
    monkeypatch.setattr(solids, "read_objects", functools.partial(solids.read_objects, count=len(files)))
    return path


def test_only_closed_objects_are_kept(wheel):
    found = solids.read_objects()
    assert [number for number, _, _ in found] == [0, 2, 4]
    vertices, faces = found[0][1:]
    np.testing.assert_allclose(np.abs(vertices), np.tile(SIZE / 8, (8, 1)))
    assert faces.shape == (12, 3)
    assert meshes.mesh_volume(vertices, faces) == pytest.approx(np.prod(SIZE / 4))


def test_random_objects(wheel, tmp_path, monkeypatch):
    """The features say what the mesh is; a rerun gives the same; the pipeline reads them; the information is whole."""
    monkeypatch.setattr(solids.RandomObjects, "EXAMPLES", {"train": 1, "validation": 1, "test": 1})
    options = RECIPE.options("random_objects", batch_size=1, data_dir=str(tmp_path / "tfds"))
    data = RECIPE.load_data(options, "model")
    builder = tfds.builder("random_objects", data_dir=tmp_path / "tfds")
    entry = next(entry for entry in datasets.catalogue() if entry.name == "random_objects")
    assert (entry.source, entry.size) == ("pybullet 3.2.7", 103_196_742)
    assert entry.licence in builder.info.description
    assert (data.num_train, data.num_test) == (1, 1)
    numbers = set()
    for split in solids.RandomObjects.EXAMPLES:
        (row,) = builder.as_dataset(split=split).as_numpy_iterator()
        numbers.add(row["number"])
        points, occupied = solids.places(row["points"]), np.unpackbits(row["occupancies"]).astype(bool)
        np.testing.assert_array_equal(meshes.is_inside(points, row["vertices"], row["faces"]), occupied)
        assert np.abs(points).max() < 0.55
        assert np.ptp(row["vertices"], axis=0).max() == pytest.approx(1)
        outside = row["cloud"] + 2e-3 * row["normals"]
        assert not meshes.is_inside(outside, row["vertices"], row["faces"]).any()
        inside = row["cloud"] - 1e-4 * row["normals"]
        assert meshes.is_inside(inside, row["vertices"], row["faces"]).mean() > 0.99
    assert numbers == {0, 2, 4}
    assert data.arrays["test/meshes"][0][1].shape[1] == 3
    assert RECIPE.evaluate(oracle_of(data), data) == 1
    expected = meshes.volume_iou(task.nearest_occupied(data), data.arrays["test/occupied"])
    assert 0 < expected.mean() < 1


def oracle_of(data):
    """Serves the true occupancies, found by the clouds."""
    rows = [(split, row) for split in ("validation", "test") for row in range(len(data.arrays[f"{split}/cloud"]))]
    clouds = np.concatenate([data.arrays[f"{split}/cloud"] for split in ("validation", "test")])

    def serve(name, **inputs):
        if name == "encode":
            found = [int(np.argmin(np.abs(clouds - cloud).sum((1, 2)))) for cloud in inputs["cloud"]]
            return {"code": np.array(found, "float32")[:, None]}
        found = []
        for points, (number,) in zip(inputs["points"], inputs["code"], strict=True):
            split, row = rows[int(number)]
            every = data.arrays[f"{split}/points"][row]
            start = int(np.flatnonzero((every == points[0]).all(1))[0])
            found.append(data.arrays[f"{split}/occupied"][row][start : start + len(points)])
        return {"occupancies": np.array(found, "float32")}

    return serve


# Solids by formula.


def test_distances_of_solids():
    """Zero on the surface, of slope one, and the volumes of the textbook."""
    random = np.random.RandomState(0)
    points = random.uniform(-1, 1, (200_000, 3))
    volumes = [
        (solids.ball(0.6), 4 / 3 * np.pi * 0.6**3),
        (solids.box((0.3, 0.5, 0.7)), 8 * 0.3 * 0.5 * 0.7),
        (solids.cylinder(0.4, 0.6), np.pi * 0.4**2 * 1.2),
        (solids.torus(0.6, 0.25), 2 * np.pi**2 * 0.6 * 0.25**2),
        (solids.capsule(0.3, 0.5), np.pi * 0.3**2 * (4 / 3 * 0.3 + 1.0)),
        (solids.difference(solids.box((0.5, 0.5, 0.5)), solids.cylinder(0.3, 2.0)), 1 - np.pi * 0.09),
    ]
    for distance, volume in volumes:
        share = (distance(points) < 0).mean()
        assert 8 * share == pytest.approx(volume, abs=4 * 8 * np.sqrt(share / len(points)))
        on, normals = solids.surface(distance, 500, random)
        np.testing.assert_allclose(distance(on), 0, atol=1e-6)
        assert (distance(on + 1e-3 * normals) > 0).all()
        slopes = np.linalg.norm(solids.gradient(distance, points[:500]), axis=-1)
        assert np.median(slopes) == pytest.approx(1, abs=1e-4)


def test_rotations_are_rotations():
    for _ in range(20):
        turn = solids.draw_rotation(np.random.RandomState(_))
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(turn) == pytest.approx(1)


def test_analytic_solids(tmp_path, monkeypatch):
    monkeypatch.setattr(solids.AnalyticSolids, "EXAMPLES", {"train": 7, "validation": 2, "test": 7})
    options = RECIPE.options("analytic_solids", batch_size=3, data_dir=str(tmp_path))
    data = RECIPE.load_data(options, "model")
    builder = tfds.builder("analytic_solids", data_dir=tmp_path)
    entry = next(entry for entry in datasets.catalogue() if entry.name == "analytic_solids")
    assert (entry.source, entry.size) == ("formula", 0)
    assert "Generated" in builder.info.description
    assert entry.licence in builder.info.description
    assert (data.num_train, data.num_test) == (7, 7)
    surface, normals = data.arrays["test/surface"], data.arrays["test/normals"]
    np.testing.assert_allclose(np.ptp(surface, axis=1).max(1), 1, atol=0.03)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(data.arrays["test/occupied"].mean(), 0.154262, atol=1e-6)  # the numbers never change
    assert "test/meshes" not in data.arrays
    assert RECIPE.evaluate(oracle_of(data), data) == 1
    hull = task.hull_occupied(data.arrays["test/cloud"][1], data.arrays["test/points"][1])  # of a box
    assert meshes.volume_iou(hull, data.arrays["test/occupied"][1]) > 0.85


# Batches.


@pytest.fixture(scope="module")
def smoke():
    options = RECIPE.options(smoke=True, batch_size=4)
    return options, RECIPE.load_data(options, "model")


def test_batches_depend_on_the_seed_and_the_epoch(smoke):
    _, data = smoke
    inputs, occupied = next(iter(data.train(tf.constant(0))))
    again, _ = next(iter(data.train(tf.constant(0))))
    later, _ = next(iter(data.train(tf.constant(1))))
    assert {name: x.shape for name, x in inputs.items()} == {"cloud": (4, 300, 3), "points": (4, 256, 3)}
    assert occupied.shape == (4, 256)
    assert set(np.unique(occupied)) == {0, 1}
    assert np.abs(inputs["points"]).max() < 0.55
    for name in inputs:
        np.testing.assert_array_equal(inputs[name], again[name])
        assert not np.array_equal(inputs[name], later[name])
    fixed, targets = next(iter(data.validation))
    assert fixed["points"].shape[:2] == targets.shape
    (sample,) = data.calibration(1)
    assert sample["cloud"].shape == (1, 300, 3)


def test_symmetries_of_the_cube():
    random = np.random.default_rng(0)
    found = {tuple(np.round(task.cube_symmetry(random)).astype(int).ravel()) for _ in range(1000)}
    assert len(found) == 48
    for matrix in found:
        np.testing.assert_array_equal(np.reshape(matrix, (3, 3)) @ np.reshape(matrix, (3, 3)).T, np.eye(3))


def test_points_and_cloud_are_turned_together(smoke):
    """A point that is inside has the surface around it: it is nearer to the middle of the cloud than others are."""
    _, data = smoke
    inputs, occupied = next(iter(data.train(tf.constant(3))))
    for cloud, points, inside in zip(inputs["cloud"].numpy(), inputs["points"].numpy(), occupied.numpy(), strict=True):
        low, high = cloud.min(0) - 0.05, cloud.max(0) + 0.05
        within = ((points >= low) & (points <= high)).all(1)
        assert within[inside > 0].all()


# What is measured.


def test_metrics_of_reconstructions():
    random = np.random.RandomState(0)
    vertices, faces = solids.parse_obj(cuboid((-0.5, -0.5, -0.5), (0.5, 0.5, 0.5)))
    surface, normals = meshes.sample_surface(vertices, faces, 2000, random)
    arrays = {"test/surface": np.stack([surface] * 2), "test/normals": np.stack([normals] * 2)}
    data = types.SimpleNamespace(arrays=arrays)
    empty = Mesh(np.zeros((0, 3)), np.zeros((0, 3), int))
    found = task.of_surfaces([Mesh(vertices, faces), empty], data)
    assert found["empty"] == 1
    assert found["chamfer_l1"] < 0.02
    assert found["normal_consistency"] > 0.97
    assert task.of_surfaces([empty], data) == {"empty": 1}


def test_clouds_of_too_few_points_have_no_hull():
    points = np.zeros((1, 3))
    assert task.hull_occupied(np.vstack([np.eye(3), -np.eye(3)]), points).all()
    with pytest.raises(ValueError, match="cloud has 3 points, which have no volume"):
        task.hull_occupied(np.eye(3), points)
    with pytest.raises(ValueError, match="cloud has 5 points; 300 are needed"):
        task.noisy(np.zeros((5, 3)), 300, 0.0, np.random.default_rng(0), first=True)


# The authors' files, at a tiny size.


@pytest.fixture
def shapenet(tmp_path):
    random = np.random.default_rng(0)
    for split, names in (("train", "ab"), ("val", "c"), ("test", "d")):
        folder = tmp_path / "ShapeNet/02691156"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{split}.lst").write_text("\n".join(names) + "\n")
        for name in names:
            (folder / name).mkdir()
            points = random.uniform(-0.55, 0.55, (8196, 3)).astype("float16")
            inside = np.linalg.norm(points.astype("float32"), axis=-1) < 0.4
            packed = dict(occupancies=np.packbits(inside), loc=np.zeros(3), scale=1.0)
            np.savez(folder / name / "points.npz", points=points, **packed)
            normals = random.normal(size=(3000, 3))
            normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
            surface = dict(points=(0.4 * normals).astype("float16"), normals=normals.astype("float16"))
            np.savez(folder / name / "pointcloud.npz", **surface)
    return tmp_path


def test_shapes_of_the_authors(shapenet):
    paths = solid_folders.list_shapes(shapenet / "ShapeNet", "train")
    assert [path.name for path in paths] == ["a", "b"]
    shape = solid_folders.read_shape(paths[0], np.random.default_rng(1))
    assert (shape.points.shape, shape.occupied.shape) == ((8196, 3), (8196,))
    near = np.abs(np.linalg.norm(shape.points, axis=-1) - 0.4) < 2e-3
    np.testing.assert_array_equal(shape.occupied[~near], (np.linalg.norm(shape.points, axis=-1) < 0.4)[~near])
    with np.load(paths[0] / "points.npz") as file:
        moved = shape.points - file["points"].astype("float32")
    assert moved.std() == pytest.approx(solid_folders.BREAK_SYMMETRY, rel=0.05)
    np.testing.assert_allclose(np.linalg.norm(shape.cloud, axis=-1), 0.4, atol=1e-3)


@pytest.mark.parametrize(
    ("variant", "cloud", "count"), [("local_planes", 3000, 1_978_209), ("points", 300, 10_373_889)]
)
def test_published_shapes_reach_the_published_networks(variant, cloud, count, shapenet):
    options = RECIPE.options("shapenet", batch_size=2, data_dir=str(shapenet))
    data = RECIPE.load_data(options, variant)
    assert (data.num_train, data.num_test, data.dataset) == (2, 1, "shapenet")
    inputs, occupied = next(iter(data.train(tf.constant(0))))
    assert (inputs["cloud"].shape, inputs["points"].shape, occupied.shape) == ((2, cloud, 3), (2, 2048, 3), (2, 2048))
    assert data.arrays["test/points"].shape == (1, 8192, 3)
    assert RECIPE.evaluate(oracle_of(data), data) == 1
    model = RECIPE.build_model(data, options, variant)
    assert sum(np.prod(v.shape) for v in model.trainable_variables) == count
    assert float(model.optimizer.learning_rate) == pytest.approx(1e-4)


def test_wrong_files_are_named(shapenet, tmp_path):
    with pytest.raises(datasets.DataError, match=r"shapenet is not downloaded.*--data-dir"):
        RECIPE.load_data(RECIPE.options("shapenet", data_dir=str(tmp_path / "none")), "model")
    with pytest.raises(datasets.DataError, match=r"has no CATEGORY/train\.lst"):
        solid_folders.list_shapes(tmp_path / "none", "train")
    folder = shapenet / "ShapeNet/02691156"
    with pytest.raises(datasets.DataError, match=r"00000000/train\.lst is missing"):
        solid_folders.list_shapes(folder.parent, "train", ["00000000"])
    random = np.random.default_rng(0)
    with np.load(folder / "a/points.npz") as file:
        arrays = dict(file)
    np.savez(folder / "a/points.npz", **arrays | {"occupancies": arrays["occupancies"][:-3]})
    with pytest.raises(datasets.DataError, match="has 1022 occupancies for 8196 points"):
        solid_folders.read_shape(folder / "a", random)
    np.savez(folder / "a/points.npz", points=arrays["points"])
    with pytest.raises(datasets.DataError, match="has no occupancies; it has points"):
        solid_folders.read_shape(folder / "a", random)
    (folder / "b/pointcloud.npz").write_bytes(b"PK\x03\x04 damaged")
    with pytest.raises(datasets.DataError, match=r"b/pointcloud\.npz"):
        solid_folders.read_shape(folder / "b", random)
    (folder / "b/pointcloud.npz").unlink()
    with pytest.raises(datasets.DataError, match=r"pointcloud\.npz is missing"):
        solid_folders.read_shape(folder / "b", random)
    (folder / "b/points.npz").unlink()
    with pytest.raises(datasets.DataError, match=r"b/points\.npz is missing, and 0 others of 2 shapes"):
        solid_folders.list_shapes(folder.parent, "train")
