"""Own masks, series and clouds: how they are read, their pipelines, the way to an answer, and what is refused."""

import numpy as np
import own
import pytest
import tensorflow as tf
from PIL import Image

from keras_dl.files import FileError
from keras_dl.recipes.data import FORMS, find_form, open_data, understand
from keras_dl.recipes.data.points import read_cloud
from keras_dl.recipes.prediction import predict
from keras_dl.recipes.tasks import clouds, segmentation, series
from keras_dl.recipes.training import commands, recipe
from keras_dl.recipes.training.recipe import OptionError


def options(name, folder, **others):
    (form,) = recipe.find(name).own
    return recipe.find(name).options(form, data=str(folder), batch_size=4, **others)


@pytest.mark.parametrize("form", FORMS)
def test_a_form_that_the_path_does_not_have_is_refused(form, tmp_path):
    (tmp_path / "notes.md").write_text("no data")
    for path in (tmp_path, tmp_path / "notes.md"):
        with pytest.raises(OptionError, match=f"{path.name} does not have the form {form}: .* \\(PATH"):
            open_data(path, form)


def test_what_has_no_form_is_told_what_it_lacks(tmp_path):
    with pytest.raises(OptionError, match="It is an empty folder"):
        open_data(tmp_path)
    own.write_pictures(tmp_path / "photos", 2)
    with pytest.raises(OptionError, match="It has pictures, but no folder for each class"):
        find_form(next((tmp_path / "photos").iterdir()), ["images"])


# Masks


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ((0, 1), ("background", "class 1")),
        ((0, 255), ("background", "class 1")),
        ((0, 2, 255), ("background", "class 1", "class 2")),
    ],
)
def test_masks_and_their_values(values, labels, tmp_path):
    data = open_data(own.write_masks(tmp_path, values=values))
    assert (data.form, data.labels, data.counts) == ("masks", labels, {"train": 8, "test": 2})
    found = segmentation.pixels(options("fcn", tmp_path), (48, 48))
    ((images, targets),) = found.test.as_numpy_iterator()
    assert (images.shape, images.dtype, targets.shape) == ((2, 48, 48, 3), np.uint8, (2, 48, 48))
    inside = targets > 0 if values == (0, 2, 255) else targets == 1
    for i, path in enumerate(data.splits["test"]["mask"]):
        mask = np.array(Image.open(path))
        top = (48 - len(mask)) // 2
        expected = np.minimum(mask, 1) if values == (0, 255) else mask
        np.testing.assert_array_equal(targets[i, top : top + len(mask)], expected)
        assert (images[i][inside[i] & (targets[i] != 255)] > 100).all()
    (first, *_) = found.train(tf.constant(0)).as_numpy_iterator()
    assert set(np.unique(first[1])) <= {*(x if values != (0, 255) else x // 255 for x in values), 255}


def test_names_of_masks_are_in_a_file(tmp_path):
    own.write_masks(tmp_path)
    (tmp_path / "classes.txt").write_text("sky\nplane\n")
    assert understand(tmp_path)["facts"]["classes"] == "sky, plane"
    before = open_data(tmp_path).fingerprint
    (tmp_path / "classes.txt").write_text("sky\nkite\n")
    assert open_data(tmp_path).fingerprint != before


def no_mask(folder):
    (folder / "masks/3.png").unlink()


def other_size(folder):
    Image.new("L", (5, 6)).save(folder / "masks/3.png")


def colored(folder):
    Image.open(folder / "masks/3.png").convert("RGB").save(folder / "masks/3.png")


def too_few_names(folder):
    Image.fromarray(np.full((43, 48), 4, "uint8")).save(folder / "masks/3.png")
    (folder / "classes.txt").write_text("sky\nplane\n")


def one_name(folder):
    (folder / "classes.txt").write_text("sky\n")


def background(folder):
    for file in (folder / "masks").iterdir():
        Image.fromarray(np.array(Image.open(file)) * 0).save(file)


@pytest.mark.parametrize(
    ("spoil", "file", "message"),
    [
        (no_mask, "images/3.png", r"has no mask: there is no .*masks/3.png"),
        (other_size, "masks/3.png", "has 6 x 5 pixels, and its image 43 x 48"),
        (colored, "masks/3.png", "is of the mode RGB"),
        (too_few_names, "masks/3.png", "has the class 4, and classes.txt names 2"),
        (one_name, "classes.txt", "must name two classes or more"),
        (background, "", "has masks of the background alone"),
    ],
)
def test_wrong_masks_are_named(spoil, file, message, tmp_path):
    spoil(own.write_masks(tmp_path))
    with pytest.raises(FileError, match=message) as error:
        open_data(tmp_path)
    assert error.value.path == str(tmp_path / file)


@pytest.mark.slow  # a net of 19 layers is traced several times
def test_from_masks_to_an_answer(tmp_path):
    own.write_masks(tmp_path / "data", 24)
    run = tmp_path / "run"
    report = commands.train("fcn", data=tmp_path / "data", output=run, image_size=32, jit="off", smoke=True)
    file = commands.export(run, quantization="int8")["path"]
    assert commands.evaluate(file)["value"] == pytest.approx(report["value"], abs=0.05)
    (answer,) = predict(file, [tmp_path / "data/images/0.png"])
    assert set(answer["shares"]) == {"background", "class 1"}


# Series


def test_series_of_folders_and_of_ts_files(tmp_path):
    data = open_data(own.write_series(tmp_path / "waves"))
    assert (data.form, data.labels, data.counts) == ("series", ("fast", "slow"), {"train": 16, "test": 4})
    assert (data.facts["steps"], data.facts["channels"]) == ("12 to 15", "2")
    lines = []
    for kind in ("fast", "slow"):
        for i in range(5):
            columns = [",".join(f"{x:.4f}" for x in column) for column in own.series(kind, i).T]
            lines.append(":".join([*columns, kind]))
    for split, part in (("TRAIN", lines), ("TEST", lines[::2])):
        (tmp_path / f"Waves_{split}.ts").write_text("\n".join(["@problemName waves", "@data", *part]) + "\n")
    data = open_data(tmp_path)
    assert data.counts == {"train": 10, "test": 5}
    found = series.load_data(options("gru", tmp_path), "gru")
    rows, answers = found.arrays["test"]
    assert (found.input_shape, rows["features"].shape, rows["mask"].dtype) == ((15, 2), (5, 15, 2), bool)
    for row, mask, answer in zip(rows["features"], rows["mask"], answers, strict=True):
        kind = ("fast", "slow")[answer]
        near = min(np.abs(row[mask] - own.series(kind, i)).max() for i in range(5) if 12 + i % 4 == mask.sum())
        assert near < 1e-4


def test_from_series_to_an_answer(tmp_path):
    folder, run = own.write_series(tmp_path / "waves", 15), tmp_path / "run"
    report = commands.train("rnn", data=folder, output=run, epochs=2, jit="off", smoke=True)
    assert (report["labels"], report["form"]) == (["fast", "slow"], "series")
    file = commands.export(run, verify=False, signatures=["sequence"])["path"]
    short = [folder / "slow/0.csv", folder / "fast/3.csv"]
    for source in (run, file):
        answers = predict(source, short)
        assert {c["label"] for a in answers for c in a["classes"]} == {"fast", "slow"}
    (tmp_path / "long.csv").write_text("1,2\n" * 16)
    with pytest.raises(FileError, match="has 16 steps of time; the model takes at most 15"):
        predict(run, [tmp_path / "long.csv"])


@pytest.mark.slow  # trains, exports and proves a whole run; test_tcn.py has the masks of the model
def test_a_tcn_learns_own_series(tmp_path):
    folder, run = own.write_series(tmp_path / "waves", 40), tmp_path / "run"
    report = commands.train("tcn", data=folder, output=run, epochs=12, jit="off")
    assert (report["labels"], report["baseline"]) == (
        ["fast", "slow"],
        "logistic regression on means and deviations",
    )
    assert report["value"] > 0.9
    file = commands.export(run, quantization="int8")["path"]
    assert commands.evaluate(file)["value"] == pytest.approx(report["value"], abs=0.1)
    for source in (run, file):
        first, second = predict(source, [folder / "slow/0.csv", folder / "fast/3.csv"])
        assert (first["classes"][0]["label"], second["classes"][0]["label"]) == ("slow", "fast")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2\n3,\n", "has no value in line 2, column 2"),
        ("x,y\n1,2\n3,z\n", "has 'z', which is no number, in line 3, column 2"),
        ("1,2\n3\n", "has 1 cells in line 2, and 2 before"),
        ("x,y\n", "has no row of numbers"),
        ("1,2,3\n", "has 3 channels; the first series has 2"),
    ],
)
def test_wrong_series_are_named_with_their_line(text, message, tmp_path):
    folder = own.write_series(tmp_path, 2)
    (folder / "slow/1.csv").write_text(text)
    with pytest.raises(FileError, match=message) as error:
        open_data(folder)
    assert error.value.path == str(folder / "slow/1.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2:a\n", "has no line @data"),
        ("@data\n1,2:a\n1,?:b\n", r"has a wrong series in line 3: could not convert string to float: '\?'"),
        ("@data\n1,2:3:a\n", "has a wrong series in line 2"),
        ("@data\n1,2\n", "has no class in line 2"),
        ("@data\n1,2:a\n1,2:3,4:b\n", "has 2 channels in line 3; the first series has 1"),
        ("@data\n1,2:a\n2,2:a\n", "has the class 'a' alone"),
    ],
)
def test_wrong_ts_files_are_named_with_their_line(text, message, tmp_path):
    (tmp_path / "waves.ts").write_text(text)
    with pytest.raises(FileError, match=message):
        open_data(tmp_path / "waves.ts")


# Clouds


def test_clouds_of_arrays_and_meshes(tmp_path):
    data = open_data(own.write_clouds(tmp_path))
    assert (data.form, data.labels, data.counts) == ("points", ("ball", "box"), {"train": 8, "test": 2})
    found = clouds.own(options("pointnet", tmp_path), 64)
    (points, targets), *_ = found.train(tf.constant(0)).as_numpy_iterator()
    assert (points.shape, targets.shape, found.input_shape) == ((4, 64, 3), (4,), (64, 3))
    ball = read_cloud(tmp_path / "ball/0.npy", 500)
    np.testing.assert_allclose(np.linalg.norm(ball, axis=1), 1, atol=0.15)
    box = read_cloud(tmp_path / "box/0.off", 500)
    assert np.linalg.norm(box, axis=1).max() == pytest.approx(1)
    low, high = box.min(0), box.max(0)
    on_a_face = np.minimum(np.abs(box - low), np.abs(box - high)).min(1)
    assert on_a_face.max() < 0.02
    np.testing.assert_array_equal(read_cloud(tmp_path / "box/0.off", 500), box)


@pytest.mark.slow  # a PointNet is traced three times
def test_from_clouds_to_an_answer(tmp_path):
    folder, run = own.write_clouds(tmp_path / "solids", 12), tmp_path / "run"
    report = commands.train("pointnet", data=folder, output=run, jit="off", smoke=True)
    file = commands.export(run, quantization="int8", verify=False)["path"]
    answers = predict(file, [folder / "ball/0.npy", folder / "box/0.off"])
    assert {c["label"] for a in answers for c in a["classes"]} == {"ball", "box"} == set(report["labels"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ball/0.npy", b"", "is no array of NumPy"),
        ("box/0.off", b"OFF\n8 6", "cannot be read as OFF"),
        ("ball/0.npy", np.zeros((5, 2)), r"has the shape \(5, 2\) of float64"),
        ("ball/0.npy", np.zeros((5, 3)), "has all of its points in one place"),
        ("ball/0.npy", np.full((5, 3), np.nan), "has points that are not finite"),
        ("ball/0.npy", np.zeros((0, 3)), "has no points"),
        ("ball/0.npy", np.array([{}]), "is no array of NumPy: Object arrays cannot be loaded"),
    ],
)
def test_wrong_clouds_are_named(name, content, message, tmp_path):
    own.write_clouds(tmp_path, 2)
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        np.save(tmp_path / name, content, allow_pickle=True)
    with pytest.raises(FileError, match=message) as error:
        open_data(tmp_path)
    assert error.value.path == str(tmp_path / name)
