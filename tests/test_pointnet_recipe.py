"""The data of PointNet's recipe: digits as points, composed objects, the authors' files, and how clouds are changed."""

import json

import h5py
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_dl.recipes import datasets
from keras_dl.recipes.datasets import point_folders, primitive_parts
from keras_dl.recipes.tasks import clouds
from keras_dl.recipes.training import augment, recipe

RECIPE = recipe.find("pointnet")


# Digits.


def test_digits_are_the_places_of_their_ink():
    image = np.zeros((3, 5, 7, 1), "uint8")
    image[0, 1, 2], image[0, 4, 6], image[0, 0, 0] = 255, 129, 128
    image[1] = 200
    points = np.asarray(clouds.digit_points(image, 12))
    assert points.shape == (3, 12, 2)
    places = [((2 * x - 6) / 7, (4 - 2 * y) / 7) for x, y in ((2, 1), (6, 4))]
    np.testing.assert_allclose(points[0], np.tile(places, (6, 1)), atol=1e-6)
    assert len(np.unique(points[1], axis=0)) == 12  # of 35, evenly
    np.testing.assert_allclose(points[2], [[-6 / 7, 4 / 7]] * 12, atol=1e-6)


def test_the_papers_digits_go_through_the_same_pipeline(tmp_path):
    with tfds.testing.mock_data(num_examples=8):
        options = RECIPE.options("mnist", batch_size=2, data_dir=str(tmp_path))
        data = RECIPE.load_data(options, "pointnet")
        points, labels = next(iter(data.train(tf.constant(0))))
        again, _ = next(iter(data.train(tf.constant(0))))
        later, _ = next(iter(data.train(tf.constant(1))))
        test_points, _ = next(iter(data.test))
        (sample,) = data.calibration(1)
    assert points.shape == (2, *data.input_shape) == (2, 256, 2)
    assert test_points.shape == (8, 256, 2)
    assert sample["points"].shape == (1, 256, 2)
    assert np.abs(test_points).max() < 1
    np.testing.assert_array_equal(points, again)
    assert not np.array_equal(points, later)
    assert labels.shape == (2,)


# Changes of clouds.


def test_rotation_about_up_keeps_heights_and_distances():
    points = np.random.default_rng(0).normal(size=(4, 9, 7)).astype("float32")
    for up in (1, 2):
        turned = np.asarray(augment.rotate_about_up(points, (0, 1), up))
        np.testing.assert_array_equal(turned, augment.rotate_about_up(points, (0, 1), up))
        for first in (0, 3):  # places, and normals beside them
            before, after = points[..., first : first + 3], turned[..., first : first + 3]
            np.testing.assert_allclose(after[..., up], before[..., up], atol=1e-6)
            grams = [x @ x.transpose(0, 2, 1) for x in (before, after)]
            np.testing.assert_allclose(*grams, atol=1e-5)
        matrices = (
            np.linalg.lstsq(points[0, :, :3], turned[0, :, :3])[0],
            np.linalg.lstsq(points[1, :, :3], turned[1, :, :3])[0],
        )
        assert np.abs(matrices[0] - matrices[1]).max() > 0.1  # each cloud has its own angle
        assert np.linalg.det(matrices[0]) == pytest.approx(1, abs=1e-4)
        np.testing.assert_array_equal(turned[..., 6], points[..., 6])


def test_scale_and_jitter():
    points = np.random.default_rng(0).normal(size=(500, 20, 4)).astype("float32")
    factors = np.asarray(augment.scale(points, (0, 1)))[..., :3] / points[..., :3]
    np.testing.assert_allclose(factors, np.broadcast_to(factors[:, :1, :1], factors.shape), rtol=1e-4)
    assert 0.8 <= factors.min() < 0.82 < 1.23 < factors.max() <= 1.25 + 1e-4
    noise = np.asarray(augment.jitter(points, (0, 1), num_coordinates=3)) - points
    assert not noise[..., 3].any()
    assert noise[..., :3].std() == pytest.approx(0.01, rel=0.02)
    wild = np.asarray(augment.jitter(points, (0, 1), sigma=0.1)) - points
    assert np.abs(wild).max() == pytest.approx(0.05, abs=1e-6)
    assert np.asarray(augment.jitter(points, (0, 2), 0.1, 10)).std() > points.std()


# Metrics.


def test_mean_iou_counts_absent_parts_as_found():
    possible = np.array([[True, True, False], [False, False, True]])
    targets = np.array([[0, 0, 0, 0], [2, 2, 2, 2]])
    assert clouds.mean_iou(targets, targets, possible) == 1
    wrong = np.array([[0, 0, 1, 1], [2, 2, 2, 2]])
    assert clouds.mean_iou(wrong, targets, possible) == pytest.approx(((2 / 4 + 0) / 2 + 1) / 2)


# Objects with parts.


def test_surfaces_lie_where_they_should():
    """Distances and areas of every piece; evenly spread means that halves have as many points as area."""
    random, n = np.random.RandomState(0), 4000
    points = primitive_parts.cone((1, 2, 3), 2.0, 0.5, 1.5).sample(random, n) - [1, 2, 3]
    np.testing.assert_allclose(np.hypot(points[:, 0], points[:, 2]), 0.5 + points[:, 1] / 2, atol=1e-9)
    low = (0.5 + 1.0) / 2 / (0.5 + 1.5)  # the share of the area of the lower half of a frustum
    assert (points[:, 1] < 1).mean() == pytest.approx(low, abs=0.03)
    ring = primitive_parts.half_ring((0, 0, 0), 1.0, 0.3)
    points = ring.sample(random, n)
    tube = np.hypot(np.hypot(points[:, 0], points[:, 1]) - 1.0, points[:, 2])
    np.testing.assert_allclose(tube, 0.3, atol=1e-9)
    assert (np.hypot(points[:, 0], points[:, 1]) > 1).mean() == pytest.approx(0.5 + 0.3 / np.pi, abs=0.03)
    assert ring.area == pytest.approx(np.pi * 1.0 * 2 * np.pi * 0.3)
    assert sum(side.area for side in primitive_parts.box((0, 0, 0), (1, 2, 3))) == pytest.approx(22)
    assert sum(x.area for x in primitive_parts.cylinder((0, 0, 0), 2, 1)) == pytest.approx(6 * np.pi)


def test_objects_fill_the_unit_ball_and_have_their_parts():
    random = np.random.RandomState(0)
    for kind, parts in primitive_parts.PARTS.items():
        counts = 0
        for _ in range(20):
            points, part = primitive_parts.draw_object(random, kind, 512)
            assert points.shape == (512, 3)
            assert points.dtype == np.float32
            np.testing.assert_allclose(points.mean(0), 0, atol=1e-5)
            assert np.linalg.norm(points, axis=-1).max() == pytest.approx(1, rel=1e-5)
            counts = counts + np.bincount(part, minlength=len(parts))
        assert (counts > 20).all(), (kind, counts)


def test_primitive_parts(tmp_path, monkeypatch):
    """The information is complete, the splits share nothing, and the numbers never change; the pipeline reads them."""
    monkeypatch.setattr(primitive_parts.PrimitiveParts, "EXAMPLES", {"train": 24, "test": 12})
    options = RECIPE.options("primitive_parts", batch_size=4, data_dir=str(tmp_path))
    data = RECIPE.load_data(options, "model")
    builder = tfds.builder("primitive_parts", data_dir=tmp_path)
    entry = next(entry for entry in datasets.catalogue() if entry.name == "primitive_parts")
    assert (entry.source, entry.size) == ("formula", 0)
    assert entry.licence in builder.info.description
    assert "Generated" in builder.info.description
    assert (data.num_train, data.num_test, len(data.labels)) == (24, 12, 15)
    possible = clouds.possible(data)
    assert possible.sum(1).tolist() == [len(primitive_parts.PARTS[name]) for name in _kinds(data)]
    assert all(possible[i, part].all() for i, part in enumerate(data.arrays["test/target"]))
    points = data.arrays["test/points"]
    first = points[[k for k, kind in enumerate(_kinds(data)) if kind == "lamp"]]
    np.testing.assert_allclose(np.sort(np.abs(first).mean((1, 2))), [0.265752, 0.340356], rtol=1e-5)

    inputs, targets = next(iter(data.train(tf.constant(0))))
    again, _ = next(iter(data.train(tf.constant(0))))
    assert {name: x.shape for name, x in inputs.items()} == {"category": (4,), "points": (4, 512, 3)}
    assert targets.shape == (4, 512)
    np.testing.assert_array_equal(inputs["points"], again["points"])
    for kind, part in zip(inputs["category"].numpy(), targets.numpy(), strict=True):
        assert data.arrays["parts"][kind][part].all()
    perfect = {"segment": np.eye(15)[data.arrays["test/target"]]}
    assert RECIPE.evaluate(lambda name, **inputs: {"probabilities": perfect[name]}, data) == 1


def _kinds(data):
    return [list(primitive_parts.PARTS)[i] for i in data.arrays["test/category"]]


# The authors' files, at a tiny size.


def h5(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values


def random_points(*shape):
    return np.random.default_rng(len(shape)).normal(size=shape).astype("float32")


@pytest.fixture
def modelnet_h5(tmp_path):
    folder = tmp_path / "modelnet40_ply_hdf5_2048"
    folder.mkdir()
    (folder / "shape_names.txt").write_text("airplane\nbathtub\nbed\n")
    for split, counts in (("train", (3, 2)), ("test", (2,))):
        names = [f"ply_data_{split}{i}.h5" for i in range(len(counts))]
        (folder / f"{split}_files.txt").write_text("".join(f"data/modelnet40_ply_hdf5_2048/{name}\n" for name in names))
        for name, n in zip(names, counts, strict=True):
            label = np.arange(n, dtype="uint8")[:, None]
            h5(folder / name, data=random_points(n, 16, 3), normal=random_points(n, 16, 3) + 1, label=label)
    return folder


def test_modelnet_of_hdf5(modelnet_h5):
    found = point_folders.modelnet40(modelnet_h5)
    assert found.labels == ("airplane", "bathtub", "bed")
    assert found.splits["train"]["target"].tolist() == [0, 1, 2, 0, 1]
    assert found.splits["train"]["points"].shape == (5, 16, 3)
    np.testing.assert_array_equal(found.splits["test"]["points"], random_points(2, 16, 3))
    with_normals = point_folders.modelnet40(modelnet_h5, normals=True).splits["test"]["points"]
    np.testing.assert_array_equal(with_normals[..., 3:], random_points(2, 16, 3) + 1)


def test_modelnet_of_text(tmp_path):
    (tmp_path / "modelnet40_shape_names.txt").write_text("bed\nnight_stand\n")
    for split, names in (("train", ("bed_0001", "night_stand_0003")), ("test", ("night_stand_0009",))):
        (tmp_path / f"modelnet40_{split}.txt").write_text("\n".join(names))
        for name in names:
            folder = tmp_path / name.rsplit("_", 1)[0]
            folder.mkdir(exist_ok=True)
            np.savetxt(folder / f"{name}.txt", random_points(8, 6), fmt="%.6f", delimiter=",")
    found = point_folders.modelnet40(tmp_path)
    assert found.splits["train"]["target"].tolist() == [0, 1]
    np.testing.assert_allclose(found.splits["test"]["points"][0], random_points(8, 6)[:, :3], atol=1e-6)
    assert point_folders.modelnet40(tmp_path, normals=True).splits["test"]["points"].shape == (1, 8, 6)
    (tmp_path / "bed" / "bed_0001.txt").write_text("1,2,3\n")
    with pytest.raises(point_folders.DataError, match=r"bed_0001.txt has the shape \(1, 3\); it must have 6 columns"):
        point_folders.modelnet40(tmp_path)


def test_modelnet_of_meshes(tmp_path):
    """A square and a triangle, which has half its area; the format as it is, and without a space after OFF."""
    mesh = "5 2 0\n0 0 0\n2 0 0\n2 0 2\n0 0 2\n4 0 2\n4 0 1 2 3\n3 1 4 2\n"
    for split, head in (("train", "OFF\n"), ("test", "OFF")):
        for name in ("bed", "night_stand"):
            folder = tmp_path / name / split
            folder.mkdir(parents=True)
            (folder / f"{name}_0001.off").write_text(head + mesh)
    vertices, triangles = point_folders.read_off(folder / "night_stand_0001.off")
    assert vertices.shape == (5, 3)
    assert triangles.tolist() == [[0, 1, 2], [0, 2, 3], [1, 4, 2]]
    points = point_folders.sample_mesh(vertices, triangles, 6000, np.random.default_rng(0))
    assert np.linalg.norm(points[:, :3], axis=-1).max() == pytest.approx(1)
    np.testing.assert_allclose(np.abs(points[:, 3:]), np.tile([0, 1, 0], (6000, 1)), atol=1e-9)
    right = points[:, 0] > points[:, 0].min() + (points[:, 0].max() - points[:, 0].min()) / 2
    assert right.mean() == pytest.approx(1 / 3, abs=0.03)
    found = point_folders.modelnet40(tmp_path, num_points=32)
    assert found.labels == ("bed", "night_stand")
    assert found.splits["test"]["points"].shape == (2, 32, 3)
    flat = point_folders.modelnet40(tmp_path, normals=True).splits["test"]["points"]
    np.testing.assert_allclose(np.abs(flat[..., 2]), 0, atol=1e-9)  # y of the mesh, whose z points up
    np.testing.assert_allclose(np.abs(flat[..., 5]), 1, atol=1e-6)
    (folder / "night_stand_0001.off").write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n")
    with pytest.raises(point_folders.DataError, match=r"night_stand_0001\.off is not a mesh of the format OFF"):
        point_folders.modelnet40(tmp_path)


def test_parts_of_shapenet_in_text(tmp_path):
    (tmp_path / "synsetoffset2category.txt").write_text("Airplane\t02691156\nBag\t02773838\n")
    (tmp_path / "train_test_split").mkdir()
    objects = {"train": ["02691156/a1"], "val": ["02773838/b1"], "test": ["02691156/a2", "02773838/b2"]}
    for split, names in objects.items():
        listed = json.dumps([f"shape_data/{name}" for name in names])
        (tmp_path / f"train_test_split/shuffled_{split}_file_list.json").write_text(listed)
        for name in names:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            part = np.array([0, 1, 1, 0, 0] if "/a" in name else [2, 2, 3, 3, 3])
            np.savetxt(tmp_path / f"{name}.txt", np.concatenate([random_points(5, 6), part[:, None]], 1), fmt="%.6f")
    found = point_folders.shapenet_part(tmp_path, num_points=10)
    assert found.labels == ("airplane/0", "airplane/1", "bag/2", "bag/3")
    assert found.parts == [[0, 1], [2, 3]]
    assert found.splits["train"]["category"].tolist() == [0, 1]
    assert found.splits["test"]["target"].tolist() == [[0, 0, 1, 1, 1, 1, 0, 0, 0, 0], [2, 2, 2, 2, 3, 3, 3, 3, 3, 3]]
    np.testing.assert_allclose(found.splits["test"]["points"][0, ::2], random_points(5, 6)[:, :3], atol=1e-6)


def test_parts_of_shapenet(tmp_path):
    (tmp_path / "all_object_categories.txt").write_text("Airplane\t02691156\nBag\t02773838\n")
    owners = [["02691156", 1], ["02691156", 2], ["02773838", 1]]
    (tmp_path / "overallid_to_catid_partid.json").write_text(json.dumps(owners))
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}_hdf5_file_list.txt").write_text(f"ply_data_{split}0.h5\n")
        label, pid = np.array([[0], [1]], "uint8"), np.array([[0, 1, 1, 0], [2, 2, 2, 2]], "uint8")
        h5(tmp_path / f"ply_data_{split}0.h5", data=random_points(2, 4, 3), label=label, pid=pid)
    found = point_folders.shapenet_part(tmp_path)
    assert found.labels == ("airplane/1", "airplane/2", "bag/1")
    assert found.parts == [[0, 1], [2]]
    assert found.splits["train"]["category"].tolist() == [0, 1, 0, 1]
    assert found.splits["test"]["target"].tolist() == [[0, 1, 1, 0], [2, 2, 2, 2]]
    h5(tmp_path / "ply_data_test0.h5", data=random_points(2, 4, 3), label=label, pid=pid + 1)
    with pytest.raises(point_folders.DataError, match=r"target 1 to 3 must be in \[0, 3\)"):
        point_folders.shapenet_part(tmp_path)


def test_blocks_of_s3dis(tmp_path):
    (tmp_path / "all_files.txt").write_text("indoor3d_sem_seg_hdf5_data/ply_data_all_0.h5\n")
    (tmp_path / "room_filelist.txt").write_text("Area_1_office_1\nArea_5_hallway_2\nArea_5_hallway_2\n")
    h5(tmp_path / "ply_data_all_0.h5", data=random_points(3, 6, 9), label=np.full((3, 6), 12, "uint8"))
    found = point_folders.s3dis(tmp_path)
    assert {split: len(rows["points"]) for split, rows in found.splits.items()} == {"train": 1, "test": 2}
    assert found.labels[12] == "clutter"
    with pytest.raises(point_folders.DataError, match="test_area=2 has 0 of 3 blocks"):
        point_folders.s3dis(tmp_path, test_area=2)
    (tmp_path / "room_filelist.txt").write_text("Area_1_office_1\n")
    with pytest.raises(point_folders.DataError, match="has 1 lines for 3 blocks"):
        point_folders.s3dis(tmp_path)


def test_rooms_of_s3dis(tmp_path):
    rng = np.random.default_rng(0)
    for room in ("Area_1/office_1", "Area_5/office_2"):
        folder = tmp_path / room / "Annotations"
        folder.mkdir(parents=True)
        for name, height in (("floor_1", 0.0), ("stairs_1", 1.0), ("table_2", 2.0)):
            places = rng.uniform([5, -3, height], [6.9, -2.1, height], (300, 3))
            table = np.concatenate([places, rng.integers(0, 256, (300, 3))], 1)
            np.savetxt(folder / f"{name}.txt", table, fmt="%.3f %.3f %.3f %d %d %d")
    points, classes = point_folders.read_room(tmp_path / "Area_1/office_1/Annotations")
    np.testing.assert_allclose(points[:, :3].min(0), 0)
    assert sorted(set(classes.tolist())) == [1, 7, 12]
    found = point_folders.s3dis(tmp_path, num_points=512)
    rows = found.splits["train"]
    assert rows["points"].shape == (2, 512, 9)  # two blocks of one meter
    assert np.abs(rows["points"][..., :2]).max() <= 0.5 + 1e-6
    assert (rows["points"][..., 3:6].min(), rows["points"][..., 3:6].max()) == (0, 1)
    np.testing.assert_allclose(rows["points"][..., 8].max(), 1, atol=1e-6)
    heights = {1: 0.0, 12: 0.5, 7: 1.0}
    for number, height in heights.items():
        np.testing.assert_allclose(rows["points"][rows["target"] == number][:, 8], height, atol=1e-6)


def test_missing_files_are_named(modelnet_h5, tmp_path):
    with pytest.raises(point_folders.DataError, match="not ModelNet40"):
        point_folders.modelnet40(tmp_path)
    with pytest.raises(point_folders.DataError, match=r"all_object_categories\.txt is missing"):
        point_folders.shapenet_part(tmp_path)
    with pytest.raises(point_folders.DataError, match="not S3DIS"):
        point_folders.s3dis(tmp_path)
    with pytest.raises(point_folders.DataError, match=r"s3dis is not downloaded.*--data-dir"):
        RECIPE.load_data(RECIPE.options("s3dis", data_dir=str(tmp_path)), "model")
    h5(modelnet_h5 / "ply_data_test0.h5", data=np.full((1, 4, 3), np.nan), label=[[0]])
    with pytest.raises(point_folders.DataError, match="cloud 0 has a point that is not finite"):
        point_folders.modelnet40(modelnet_h5)
    h5(modelnet_h5 / "ply_data_test0.h5", data=random_points(1, 4, 3))
    with pytest.raises(point_folders.DataError, match="has no label; it has data"):
        point_folders.modelnet40(modelnet_h5)
    (modelnet_h5 / "ply_data_test0.h5").unlink()
    with pytest.raises(point_folders.DataError, match=r"ply_data_test0\.h5 is missing"):
        point_folders.modelnet40(modelnet_h5)


def test_published_clouds_reach_the_published_network(modelnet_h5):
    """The recipe's own way from the folder to batches, the network and the metric."""
    options = RECIPE.options("modelnet40", batch_size=2, data_dir=str(modelnet_h5.parent))
    data = RECIPE.load_data(options, "model")
    assert (data.num_train, data.num_test, data.dataset) == (5, 2, "modelnet40")
    model = RECIPE.build_model(data, options, "model")
    assert model.num_points == 1024
    assert model.output.shape == (None, 3)
    points, labels = next(iter(data.train(tf.constant(0))))
    assert points.shape == (2, 1024, 3)  # of 16, repeated
    assert labels.shape == (2,)
    assert next(iter(data.test))[0].shape == data.arrays["test/points"].shape == (2, 1024, 3)
    perfect = np.eye(3)[np.concatenate([y for _, y in data.test.as_numpy_iterator()])]
    assert RECIPE.evaluate(lambda name, **inputs: {"probabilities": perfect}, data) == 1
