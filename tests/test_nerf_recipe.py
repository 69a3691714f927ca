"""The data of NeRF's recipe: the ray-traced scene, posed images in folders, and rendering by the networks alone."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_dl import ops
from keras_dl.files import FileError
from keras_dl.recipes import datasets, nerf
from keras_dl.recipes.datasets import traced_scene, view_folders
from keras_dl.recipes.datasets.wheels import DataError
from keras_dl.recipes.tasks import views
from keras_dl.recipes.training import recipe

RECIPE = recipe.find("nerf")


# The scene.


def rays_at(target, n=400, seed=0):
    """Rays from around toward places near a target."""
    rng = np.random.default_rng(seed)
    origins = rng.normal(size=(n, 3))
    origins = target + 4 * origins / np.linalg.norm(origins, axis=-1, keepdims=True)
    return origins, target + rng.normal(scale=0.4, size=(n, 3)) - origins


def test_shapes_are_met_on_their_surface():
    """The distance leads to a point of the surface, none before it is inside, and the normal points outward."""
    center = np.array([0.3, -0.2, 0.5])
    inside = {
        "sphere": (traced_scene.sphere(center, 0.7), lambda p: np.linalg.norm(p - center, axis=-1) - 0.7),
        "box": (
            traced_scene.box(center, (0.8, 0.8, 0.8), 0.0),
            lambda p: np.abs(p - center).max(-1) - 0.4,
        ),
        "cylinder": (
            traced_scene.cylinder(center[:2], 0.5, 0.1, 0.9),
            lambda p: np.maximum(np.linalg.norm((p - center)[..., :2], axis=-1) - 0.5, np.abs(p[..., 2] - 0.5) - 0.4),
        ),
    }
    for name, (hit, depth_inside) in inside.items():
        origins, directions = rays_at(center)
        distance, normal = hit(origins, directions)
        met = np.isfinite(distance)
        assert 0.2 < met.mean() <= 1, name
        steps = np.linspace(0, 2, 400)[:, None, None]
        signed = depth_inside(origins + steps * directions)  # (steps, rays), below 0 inside
        assert (signed[:, ~met] > -0.02).all(), name
        places = (origins + distance[:, None] * directions)[met]
        np.testing.assert_allclose(depth_inside(places), 0, atol=1e-6, err_msg=name)
        before = steps[:, :, 0] < distance[met] - 1e-6
        assert (signed[:, met][before] > -1e-6).all(), name
        np.testing.assert_allclose(np.linalg.norm(normal[met], axis=-1), 1, atol=1e-6)
        assert ((normal[met] * directions[met]).sum(-1) < 1e-9).all(), name
        assert (depth_inside(places + 1e-3 * normal[met]) > 0).all(), name


def test_highlights_move_with_the_viewer_and_shadows_do_not():
    """The same places of the red ball and of the disc, seen from two sides."""
    ball, light = np.array([0.45, -0.35, 0.42]), traced_scene.LIGHT
    across = np.array([0.0, 0.0, 1.0]) - light[2] * light  # square to the light, upward
    edge = ball + 0.3 * across / np.linalg.norm(across)
    sides = np.array([[-0.3, -1.0, 1.5], [0.0, 0.2, 2.0]])
    mirror = light + sides[0] / np.linalg.norm(sides[0])  # the normal where the first viewer sees the sun
    places = {
        "ball": ball + 0.42 * mirror / np.linalg.norm(mirror),
        "shade": edge - edge[2] / light[2] * light,
        "lit": np.array([-1.0, -0.1, 0.0]),
    }
    colors = {}
    for name, place in places.items():
        seen = []
        for side in sides:
            color, distance = traced_scene.trace((place + side)[None], -side[None])
            assert distance[0] == pytest.approx(1, abs=1e-6), name
            seen.append(color[0])
        colors[name] = np.array(seen)
    assert np.abs(np.diff(colors["ball"], axis=0)).max() > 0.1
    assert colors["shade"].max() < 0.4
    assert colors["lit"].max() > 0.3
    above = traced_scene.trace(np.array([[0.0, 0.0, 5.0]]), np.array([[0.0, 0.0, 1.0]]))
    np.testing.assert_array_equal(above[0], [[1, 1, 1]])
    assert np.isinf(above[1][0])


def test_a_view_is_the_same_each_time():
    camera = traced_scene.cameras(12, 2.0)[3]
    image, depth = traced_scene.draw_view(camera, 20.0, 16)
    assert image.shape == (16, 16, 3)
    np.testing.assert_array_equal(image[0, 0], [255, 255, 255])
    assert np.isinf(depth[0, 0])
    inside = depth[np.isfinite(depth)]
    assert len(inside) > 80
    assert nerf.SMALL["near"] < inside.min() < inside.max() < nerf.SMALL["far"]
    assert int(image.astype(int).sum()) == 148995


def test_the_set_is_complete(tmp_path):
    """Built with two views of each split."""
    builder = tfds.builder("traced_scene", data_dir=tmp_path)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(max_examples_per_split=2))
    entry = next(entry for entry in datasets.catalogue() if entry.name == "traced_scene")
    assert (entry.source, entry.size) == ("formula", 0)
    assert entry.licence in builder.info.description
    assert "Generated" in builder.info.description
    for split in entry.examples:
        rows = list(builder.as_dataset(split=split).as_numpy_iterator())
        assert len(rows) == 2
        camera = rows[0]["camera_to_world"]
        known = traced_scene.cameras(entry.examples[split], traced_scene.TracedScene.TURNS[split])[:2]
        assert min(np.abs(known - camera).max((1, 2))) < 1e-6
        image, depth = traced_scene.draw_view(camera, 80.0, 64)
        np.testing.assert_array_equal(rows[0]["image"], image)
        np.testing.assert_array_equal(rows[0]["depth"], depth)
        assert rows[0]["focal"] == 80.0


def test_splits_share_no_camera():
    places = np.concatenate([traced_scene.cameras(n, turn)[:, :, 3] for n, turn in ((60, 0.0), (6, 1.0), (12, 2.0))])
    distances = np.linalg.norm(places[:, None] - places, axis=-1) + 10 * np.eye(78)
    assert distances.min() > 0.05
    np.testing.assert_allclose(np.linalg.norm(places - [0, 0, 0.2], axis=-1), 4, rtol=1e-6)


# Folders.


def write_png(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tf.io.encode_png(image).numpy())


def blender_scene(folder, splits=("train", "test"), count=3, size=(4, 6)):
    """A scene of the layout; its images are transparent but for one pixel. The cameras."""
    rng = np.random.default_rng(0)
    cameras = {}
    for split in splits:
        frames = []
        for i in range(count):
            image = np.zeros((*size, 4), "uint8")
            image[1, 2] = (10 * i, 100, 200, 255)
            image[0, 0] = (100, 0, 0, 51)
            write_png(folder / split / f"r_{i}.png", image)
            camera = np.concatenate([rng.normal(size=(3, 4)), [[0, 0, 0, 1]]])
            frames.append({"file_path": f"./{split}/r_{i}", "rotation": 0.1, "transform_matrix": camera.tolist()})
            cameras[split, i] = camera
        document = {"camera_angle_x": 0.8, "frames": frames}
        (folder / f"transforms_{split}.json").write_text(json.dumps(document))
    return cameras


def test_blender_folder(tmp_path):
    cameras = blender_scene(tmp_path, ("train", "val", "test"))
    found = view_folders.blender(tmp_path)
    assert list(found) == ["train", "val", "test"]
    train = found["train"]
    assert train.images.shape == (3, 4, 6, 3)
    np.testing.assert_array_equal(train.images[2, 1, 2], [20, 100, 200])
    np.testing.assert_array_equal(train.images[0, 0, 0], [224, 204, 204])  # a fifth of (100, 0, 0) on white
    np.testing.assert_array_equal(train.images[0, 3, 3], [255, 255, 255])
    np.testing.assert_allclose(found["test"].cameras[1], cameras["test", 1][:3], rtol=1e-6)
    assert train.focal == pytest.approx(3 / np.tan(0.4))
    assert (train.near, train.far, train.ndc) == (2.0, 6.0, None)
    half = view_folders.blender(tmp_path, half=True, test_skip=2)
    assert half["train"].images.shape == (3, 2, 3, 3)
    assert half["train"].focal == pytest.approx(train.focal / 2)
    np.testing.assert_array_equal(half["train"].images[0, 0, 0], np.rint([247.25, 242.25, 242.25]))
    assert len(half["test"].images) == 2


def test_blender_folders_that_are_damaged(tmp_path):
    with pytest.raises(DataError, match=r"has no transforms_train\.json"):
        view_folders.blender(tmp_path)
    blender_scene(tmp_path)
    (tmp_path / "test/r_1.png").unlink()
    with pytest.raises(DataError, match=r"r_1\.png is missing, which .*transforms_test\.json names; 1 of 3 images are"):
        view_folders.blender(tmp_path)
    write_png(tmp_path / "test/r_1.png", np.zeros((4, 5, 3), "uint8"))
    with pytest.raises(DataError, match=r"r_1\.png has the shape \(4, 5, 3\), and .*r_0\.png has \(4, 6, 3\)"):
        view_folders.blender(tmp_path)
    (tmp_path / "test/r_1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"r_1\.png is not an image"):
        view_folders.blender(tmp_path)
    path = tmp_path / "transforms_train.json"
    document = json.loads(path.read_text())
    for change, message in (
        ({"camera_angle_x": 0.0}, "camera_angle_x is 0.0"),
        ({"frames": []}, "no frames"),
        ({"frames": [{"file_path": "a"}]}, "transform_matrix"),
        ({"frames": [document["frames"][0] | {"transform_matrix": [[1.0, 2.0]]}]}, "shape"),
    ):
        path.write_text(json.dumps(document | change))
        with pytest.raises(FileError, match=rf"transforms_train\.json is not a file of transforms: .*{message}"):
            view_folders.blender(tmp_path)
    path.write_text(json.dumps({"frames": document["frames"]}))
    with pytest.raises(FileError, match="it has no camera_angle_x, and no fl_x and w"):
        view_folders.blender(tmp_path)


def llff_scene(folder, count=5, size=(6, 8)):
    """Cameras on a line that all look the same way, 3 to 40 away from the scene; their places."""
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn)
    places = np.array([1.0, 2.0, 3.0]) + np.linspace(-1, 1, count)[:, None] * turn[:, 0]
    camera = np.concatenate([np.tile(turn, (count, 1, 1)), places[..., None]], -1)
    poses = ops.convert_cameras(camera, "opengl", "llff")
    intrinsics = np.tile(np.array([8 * size[0], 8 * size[1], 80.0])[:, None], (count, 1, 1))
    table = np.concatenate([np.concatenate([poses, intrinsics], -1).reshape(count, 15), [[3.0, 40.0]] * count], -1)
    np.save(folder / "poses_bounds.npy", table)
    for i in range(count):
        write_png(folder / f"images_8/image{i:03d}.png", np.full((*size, 3), 10 * i, "uint8"))
    return places


def test_llff_folder(tmp_path):
    llff_scene(tmp_path)
    found = view_folders.llff(tmp_path, hold_out=4)
    assert [len(found[split].images) for split in ("train", "test")] == [3, 2]
    np.testing.assert_array_equal(found["test"].images[:, 0, 0, 0], [0, 40])
    train = found["train"]
    assert train.focal == pytest.approx(10.0)  # an eighth of 80
    assert train.ndc == pytest.approx((2.5, 20 / 6))
    assert (train.near, train.far) == (0.0, 1.0)
    cameras = np.concatenate([found["test"].cameras, train.cameras])
    np.testing.assert_allclose(cameras[:, :, :3], np.tile(np.eye(3), (5, 1, 1)), atol=1e-6)  # the mean is the world
    np.testing.assert_allclose(found["test"].cameras[:, :, 3], [[-1 / 2.25, 0, 0], [1 / 2.25, 0, 0]], atol=1e-6)


def test_llff_folders_that_are_damaged(tmp_path):
    with pytest.raises(DataError, match=r"poses_bounds\.npy is missing"):
        view_folders.llff(tmp_path)
    llff_scene(tmp_path)
    (tmp_path / "images_8/image004.png").unlink()
    with pytest.raises(DataError, match=r"images_8 has 4 images, and .*poses_bounds\.npy has 5 poses"):
        view_folders.llff(tmp_path)
    with pytest.raises(DataError, match="images_4 is missing"):
        view_folders.llff(tmp_path, factor=4)
    np.save(tmp_path / "poses_bounds.npy", np.ones((5, 12)))
    with pytest.raises(FileError, match=r"poses_bounds\.npy is not a table of poses and bounds: .*\(5, 12\)"):
        view_folders.llff(tmp_path)
    np.save(tmp_path / "poses_bounds.npy", np.ones((5, 17)))
    with pytest.raises(FileError, match="the near one below the far one"):
        view_folders.llff(tmp_path)
    np.save(tmp_path / "poses_bounds.npy", np.array([{}] * 5), allow_pickle=True)
    with pytest.raises(FileError, match=r"poses_bounds\.npy"):
        view_folders.llff(tmp_path)


# From views to batches, and back to images.


def test_batches_hold_the_rays_of_their_colors(tmp_path):
    """Each color of a batch is that of the pixel that its ray goes through; the first steps see the middle only."""
    blender_scene(tmp_path, ("train", "val", "test"), size=(8, 12))
    options = RECIPE.options("blender", batch_size=16, data_dir=str(tmp_path))
    data = RECIPE.load_data(options, "model")
    assert (data.num_train, data.num_test, data.version) == (3 * 96, 3 * 96, "folder")
    images, cameras = data.arrays["train/images"], data.arrays["train/cameras"]
    for number, low, high in ((0, 0.25, 0.75), (1, 0.0, 1.0)):  # 18 steps of an epoch: less than 500
        batches = list(data.train(tf.constant(number)).as_numpy_iterator())
        assert len(batches) == 18
        rows = []
        for rays, colors in batches:
            for origin, direction, color in zip(rays["origins"], rays["directions"], colors, strict=True):
                view = np.linalg.norm(cameras[:, :, 3] - origin, axis=-1).argmin()
                x, y, z = np.linalg.solve(cameras[view, :, :3], direction)
                assert z == pytest.approx(-1, abs=1e-3)
                column, row = float(data.arrays["focal"]) * np.array([x, -y]) + (6, 4) - 0.5
                assert abs(column - round(column)) + abs(row - round(row)) < 1e-2
                np.testing.assert_allclose(color, images[view, round(row), round(column)] / 255, atol=1e-6)
                rows.append(((row + 0.5) / 8, (column + 0.5) / 12))
        rows = np.array(rows)
        assert (rows > low).all()
        assert (rows < high).all()
        assert (rows < low + 0.2).any(0).all()
        assert (rows > high - 0.2).any(0).all()
    again = next(iter(data.train(tf.constant(1))))
    np.testing.assert_array_equal(again[1], batches[0][1])
    colors = np.concatenate([y for _, y in data.test.as_numpy_iterator()])
    np.testing.assert_allclose(colors, data.arrays["test/images"].reshape(-1, 3) / 255, atol=1e-6)
    assert sum(len(y) for _, y in data.validation.as_numpy_iterator()) == 3 * 96 / 16
    views_left = iter(data.arrays["test/images"].reshape(3, -1, 3) / np.float32(255))
    assert RECIPE.evaluate(lambda name, **rays: {"rgb": next(views_left)}, data) == 100
    model = RECIPE.build_model(data, options, "model")
    assert (model.near, model.far, model.count_params()) == (2.0, 6.0, 1_191_688)


def test_forward_facing_scenes_get_their_network(tmp_path):
    llff_scene(tmp_path)
    options = RECIPE.options("llff", batch_size=16, data_dir=str(tmp_path))
    data = RECIPE.load_data(options, "model")
    model = RECIPE.build_model(data, options, "model")
    assert (model.near, model.far, model.density_noise, model.white_background) == (0.0, 1.0, 1.0, False)
    np.testing.assert_allclose(model.ndc, (2.5, 20 / 6), rtol=1e-6)
    with pytest.raises(DataError, match=r"llff is not downloaded.*--data-dir"):
        RECIPE.load_data(RECIPE.options("llff"), "model")


def test_rendering_by_the_networks_is_rendering():
    """What is between the networks, computed outside of a file, is what the model computes."""
    settings = nerf.SMALL | dict(num_samples=6, num_fine_samples=4, num_layers=2, hidden_dim=8, skips=())
    model = nerf.keras_dl.NeRF(**settings, served_rays=5)
    signatures = model.serving_signatures()
    rng = np.random.default_rng(0)
    rays = {name: rng.normal(size=(5, 3)).astype("float32") for name in ("directions", "origins")}
    rays["directions"] *= 2
    asked = []

    def serve(name, **arrays):
        asked.append(name)
        shapes = {key: tuple(x.shape) for key, x in signatures[name].inputs.items()}
        assert shapes == {key: x.shape for key, x in arrays.items()}
        return {key: x.numpy() for key, x in signatures[name].function(**arrays).items()}

    found = views.by_networks(serve, rays, settings)
    np.testing.assert_allclose(found, model(rays)["rgb"], atol=1e-5)
    assert asked == ["coarse", "fine"]
