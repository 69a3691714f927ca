"""Own scenes: how their cameras are placed, their pipeline, a training, and what is refused."""

import json

import numpy as np
import pytest
from own import ANGLE, SCALE, write_scene
from PIL import Image

from keras_dl.files import FileError
from keras_dl.recipes.data import open_data, understand
from keras_dl.recipes.data.scenes import DISTANCE
from keras_dl.recipes.tasks import views
from keras_dl.recipes.training import commands, recipe


def test_a_scene_is_moved_to_the_middle_and_scaled(tmp_path):
    write_scene(tmp_path)
    data = open_data(tmp_path)
    assert (data.form, data.counts) == ("scene", {"train": 8, "test": 2})
    cameras = np.concatenate([np.stack(columns["camera"]) for columns in data.splits.values()])
    np.testing.assert_allclose(np.linalg.norm(cameras[:, :, 3], axis=-1), DISTANCE, rtol=1e-5)
    assert data.metadata["bounds"] == pytest.approx((DISTANCE / 2, 1.5 * DISTANCE), rel=1e-5)
    assert data.metadata["focal_of_width"] == pytest.approx(0.5 / np.tan(ANGLE / 2))
    assert understand(tmp_path)["recipes"] == ["nerf"]
    found = views.own(recipe.find("nerf").options("scene", data=str(tmp_path), batch_size=64), longest=16)
    assert found.arrays["train/images"].shape == (8, 12, 16, 3)
    assert not found.arrays["white"]
    # The middle of each view sees the ball, its corners the ground.
    for image in np.concatenate([found.arrays["train/images"], found.arrays["test/images"]]):
        np.testing.assert_array_equal(image[6, 8], [220, 120, 40])
        np.testing.assert_array_equal(image[0, 0], [20, 30, 60])
    # The ray of the middle pixel passes by the origin.
    rays, colors = next(found.test.as_numpy_iterator())
    nearest = np.linalg.norm(np.cross(rays["origins"], rays["directions"]), axis=-1)
    nearest /= np.linalg.norm(rays["directions"], axis=-1)
    bright = colors[:, 0] > 0.8
    radius = 0.6 * DISTANCE / np.hypot(3.0, 1.0)
    assert nearest[bright].max() < 1.2 * radius < 1.4 * radius < nearest[colors[:, 0] < 0.1].max()


def test_images_that_would_be_too_small_are_refused(tmp_path):
    write_scene(tmp_path, 5)
    options = recipe.find("nerf").options("scene", data=str(tmp_path), batch_size=64, image_size=8)
    with pytest.raises(recipe.OptionError, match="--image-size 8: images would have 6 x 8 pixels; each side needs 11"):
        views.own(options, longest=16)


def test_splits_bounds_and_sizes_of_a_scene(tmp_path):
    write_scene(tmp_path, 6, "transforms_train.json", mode="RGBA", near=2.0, far=12.0)
    write_scene(tmp_path, 3, "transforms_val.json")
    data = open_data(tmp_path)
    assert data.counts == {"train": 6, "test": 3}  # the validation split is the test, where there is no other
    scale = DISTANCE / (SCALE * np.hypot(3.0, 1.0))
    assert data.metadata["bounds"] == pytest.approx((2 * scale, 12 * scale), rel=1e-5)
    assert data.metadata["white"]
    write_scene(tmp_path, 2, "transforms_test.json")
    assert open_data(tmp_path).counts == {"train": 6, "validation": 3, "test": 2}


def missing(folder, document):
    (folder / document["frames"][1]["file_path"]).unlink()


def other_size(folder, document):
    Image.new("RGB", (9, 5)).save(folder / document["frames"][1]["file_path"])


def bent(folder, document):
    document["k1"] = 0.02


def parallel(folder, document):
    for i, frame in enumerate(document["frames"]):
        frame["transform_matrix"] = [[1, 0, 0, i], [0, 1, 0, 0], [0, 0, 1, 0]]


def wrong_bounds(folder, document):
    document |= {"near": 3, "far": 2}


def one_frame(folder, document):
    del document["frames"][1:]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (missing, r"-1\.png is missing, and a frame"),
        (other_size, r"-1\.png has 9 x 5 pixels, and .*-0\.png has 32 x 24"),
        (bent, r"transforms\.json .*distorted \(k1 = 0\.02\): straighten them"),
        (parallel, r"transforms\.json has cameras that look in one direction"),
        (wrong_bounds, r"transforms\.json .*its near and far are \(3\.0, 2\.0\)"),
        (one_frame, r"transforms\.json has cameras that look in one direction"),
    ],
)
def test_wrong_scenes_are_named(spoil, message, tmp_path):
    write_scene(tmp_path, 5)
    file = tmp_path / "transforms.json"
    document = json.loads(file.read_text())
    spoil(tmp_path, document)
    file.write_text(json.dumps(document))
    with pytest.raises(FileError, match=message):
        open_data(tmp_path)


@pytest.mark.slow  # trains, renders and exports
def test_from_a_scene_to_a_file(tmp_path):
    (tmp_path / "data").mkdir()
    write_scene(tmp_path / "data", 12)
    report = commands.train("nerf", data=tmp_path / "data", output=tmp_path / "run", jit="off", smoke=True)
    assert (report["form"], report["metric"]) == ("scene", "PSNR, dB")
    file = commands.export(tmp_path / "run", signatures=["render_rays"])["path"]
    assert commands.evaluate(file)["value"] == pytest.approx(report["value"], abs=0.01)
