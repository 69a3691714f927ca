"""Own images in folders by class: how they are read, the way from a folder to an answer, and what is refused."""

import json
import shutil

import numpy as np
import own
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

import keras_dl_cli
from keras_dl.files import FileError
from keras_dl.recipes.data import as_text, from_folder, headers, open_data, understand
from keras_dl.recipes.prediction import predict, reading
from keras_dl.recipes.training import commands, pipelines, recipe
from keras_dl.recipes.training.recipe import OptionError


def uneven(i):
    return (18 + i, 30 - i)


def test_a_split_is_made_by_seed_with_a_fifth_of_each_class(tmp_path):
    folder = own.write_pictures(tmp_path / "shapes", sides=uneven)
    data = open_data(folder)
    assert (data.form, data.labels, data.counts) == ("images", own.SHAPES, {"train": 16, "test": 4})
    assert data.splits["test"]["label"].tolist().count(0) == 2
    paths = [set(data.splits[split]["image"]) for split in ("train", "test")]
    assert not paths[0] & paths[1]
    assert len(paths[0] | paths[1]) == 20
    for split, columns in data.splits.items():
        for path, label in zip(columns["image"], columns["label"], strict=True):
            assert path.split("/")[-2] == own.SHAPES[label], split
    again = open_data(folder)
    np.testing.assert_array_equal(again.splits["test"]["image"], data.splits["test"]["image"])
    assert set(open_data(folder, seed=1).splits["test"]["image"]) != paths[1]
    assert data.how == "a fifth for the test, by the seed 0"


def test_given_splits_are_kept(tmp_path):
    for split, count in (("Train", 3), ("val", 2), ("test", 4)):
        own.write_pictures(tmp_path / split, count)
    data = open_data(tmp_path)
    assert data.counts == {"train": 6, "validation": 4, "test": 8}
    assert all("/test/" in path for path in data.splits["test"]["image"])
    shutil.rmtree(tmp_path / "test")
    assert open_data(tmp_path).counts == {"train": 6, "test": 4}
    shutil.rmtree(tmp_path / "val")
    assert open_data(tmp_path).counts == {"train": 4, "test": 2}


def test_photographs_are_turned_as_cameras_say(tmp_path):
    """Each of EXIF's orientations, as Pillow applies them; also in `predict`."""
    folder = own.write_pictures(tmp_path / "shapes", 2)
    random = np.random.default_rng(0)
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[headers.ORIENTATION] = turn
        blocks = np.kron(random.integers(0, 255, (3, 4, 1)), np.ones((8, 8, 3))).astype("uint8")
        Image.fromarray(blocks).save(folder / "bar" / f"turned-{turn}.jpg", exif=exif, quality=95)
    data = open_data(folder)
    assert "turned 7 as their cameras say (EXIF)" in data.notes
    assert understand(folder)["facts"]["sizes"] == "20 to 32 pixels high, 20 to 32 wide"
    seen = {}
    for split in data.splits:
        for path, row in zip(data.splits[split]["image"], data.as_dataset(split), strict=True):
            seen[path] = row["image"].numpy()
    files = sorted(path for path in seen if "turned-" in path)
    given = reading.pictures(files, (16, 16, 3), whole=True)
    assert len(files) == 8
    for path, one in zip(files, given, strict=True):
        expected = np.asarray(ImageOps.exif_transpose(Image.open(path)))
        np.testing.assert_allclose(seen[path], expected, atol=2)  # two decoders of JPEG
        np.testing.assert_array_equal(one.original, seen[path])


def test_gray_images_have_one_channel_and_mixed_ones_three(tmp_path):
    own.write_pictures(tmp_path / "gray", 2, mode="L")
    own.write_pictures(tmp_path / "mixed", 2, mode="L")
    own.picture("bar", 9, mode="RGBA").save(tmp_path / "mixed/bar/colored.png")
    own.picture("bar", 9, mode="P").save(tmp_path / "mixed/bar/palette.png")
    assert from_folder(tmp_path / "gray", batch_size=1).input_shape == (20, 20, 1)
    mixed = from_folder(tmp_path / "mixed", batch_size=1)
    assert mixed.input_shape == (20, 20, 3)
    assert sum(len(images) for part in (mixed.train, mixed.test) for images, _ in part) == 6


def test_what_a_model_takes_in_training_is_what_predict_gives_it(tmp_path):
    """The middle of an image, scaled to cover the model's sides."""
    folder = own.write_pictures(tmp_path / "shapes", sides=uneven)
    options = recipe.find("cnn").options("images", data=str(folder), batch_size=4, image_size=16)
    data = pipelines.images(options)
    rows = open_data(folder).splits["test"]
    images, labels = next(data.test.as_numpy_iterator())
    assert (images.shape, images.dtype) == ((4, 16, 16, 3), np.uint8)
    np.testing.assert_array_equal(labels, rows["label"])
    for image, path in zip(images, rows["image"], strict=True):
        whole = tf.constant(np.array(Image.open(path)))
        np.testing.assert_array_equal(image, pipelines.resize_and_crop(whole, (16, 16, 3), margin=0))
    in_code = from_folder(folder, image_size=16, batch_size=4)
    np.testing.assert_array_equal(next(in_code.test.as_numpy_iterator())[0], images)
    trained = [x for x, _ in pipelines.augmented_images(options, pixels=2, degrees=12).train(tf.constant(0))]
    assert [x.shape for x in trained] == [(4, 16, 16, 3)] * 4


def test_images_in_memory_and_from_files_are_the_same(tmp_path, monkeypatch):
    folder = own.write_pictures(tmp_path / "shapes", 4)
    options = recipe.find("cnn").options("images", data=str(folder), batch_size=3)
    parts = []
    for most in (pipelines.MOST_BYTES, 0):
        monkeypatch.setattr(pipelines, "MOST_BYTES", most)
        parts.append([x for x, _ in pipelines.images(options).train(tf.constant(1)).as_numpy_iterator()])
    np.testing.assert_array_equal(*parts)
    assert options.image_size is None
    assert parts[0][0].shape == (3, 20, 20, 3)


def test_from_a_folder_to_an_answer(tmp_path):
    """Training, a file in int8, its metric, the names of the classes, moving and changing the data, resuming."""
    folder, run = own.write_pictures(tmp_path / "shapes", 12, mode="L"), tmp_path / "run"
    report = commands.train("cnn", data=folder, output=run, epochs=2, seed=1, jit="off", smoke=True)
    assert (report["dataset"], report["form"], report["labels"]) == ("shapes", "images", list(own.SHAPES))
    assert report["data"] == str(folder)
    assert report["dataset_version"] == open_data(folder).fingerprint
    assert f"--data {folder} " in report["command"]
    assert (report["train_examples"], report["test_examples"], report["batch_size"]) == (20, 4, 8)
    assert (run / "picture.png").exists()
    file = commands.export(run, quantization="int8")["path"]
    assert commands.evaluate(file)["value"] == pytest.approx(commands.evaluate(run)["value"], abs=0.25)
    (answer,) = predict(file, [folder / "ring/03.png"])
    assert {c["label"] for c in answer["classes"]} == set(own.SHAPES)
    assert str(tmp_path).encode() not in (tmp_path / file).read_bytes()

    moved = folder.rename(tmp_path / "moved")
    with pytest.raises(OptionError, match=r"The data of the run, .*shapes, is missing. Give its new place by --data"):
        commands.evaluate(run)
    assert commands.evaluate(run, data=moved)["value"] == report["value"]
    assert commands.evaluate(file, data=moved)["test_examples"] == 4
    assert commands.train("cnn", output=run, resume=True, data=moved)["value"] == report["value"]  # complete
    copy = shutil.copy(file, tmp_path / "copy.tflite")
    with pytest.raises(OptionError, match=r"made from own data, shapes\. Give its place by --data PATH"):
        commands.evaluate(copy)
    own.picture("bar", 99).save(moved / "bar/03.png")
    for call in (
        lambda: commands.evaluate(run, data=moved),
        lambda: commands.export(run, data=moved),
        lambda: commands.train("cnn", output=run, resume=True, data=moved),
    ):
        with pytest.raises(OptionError, match="is not the data that the run began with"):
            call()


def test_the_command_says_what_it_understood(tmp_path, capfd):
    own.write_pictures(tmp_path / "shapes", 5, sides=uneven)
    (tmp_path / "shapes/bar/notes.txt").write_text("no picture")

    def call(*arguments):
        with pytest.raises(SystemExit) as exit_:
            keras_dl_cli.main([str(x) for x in arguments])
        return exit_.value.code, capfd.readouterr()

    code, (out, _) = call("data", "check", tmp_path / "shapes", "--json")
    document = json.loads(out)
    assert code == 0
    assert document == understand(tmp_path / "shapes")
    assert document["classes"] == {"bar": {"train": 4, "test": 1}, "ring": {"train": 4, "test": 1}}
    assert document["facts"]["sizes"] == "18 to 22 pixels high, 26 to 30 wide"
    assert document["notes"] == ["left out 1 file that is no picture: notes.txt"]
    assert "cnn" in document["recipes"]
    assert "bar                  4 train, 1 test" in as_text(document)
    code, (out, err) = call("data", "check", tmp_path / "nothing")
    assert (code, out) == (2, "")
    assert f"--data {tmp_path}/nothing does not exist" in err


def empty_class(folder):
    (folder / "empty").mkdir()


def nested(folder):
    own.write_pictures(folder / "more", 1)


def one_class(folder):
    shutil.rmtree(folder / "ring")


def one_image(folder):
    for i in range(1, 5):
        (folder / f"bar/{i:02d}.png").unlink()


def other_kind(folder):
    own.picture("bar", 0).save(folder / "bar/x.webp")


def other_content(folder):
    own.picture("bar", 0).save(folder / "bar/x.png", format="GIF")


def no_picture(folder):
    (folder / "bar/02.png").write_text("a text")


def nothing_in_it(folder):
    (folder / "bar/02.png").write_bytes(b"")


def unknown_class(folder):
    own.write_pictures(folder / "train", 2)
    own.write_pictures(folder / "test", 2, names=("bar", "star"))
    for name in own.SHAPES:
        shutil.rmtree(folder / name)


def split_twice(folder):
    own.write_pictures(folder / "train", 2)
    own.write_pictures(folder / "training", 2)


@pytest.mark.parametrize(
    ("spoil", "file", "message"),
    [
        (empty_class, "empty", "is the folder of a class, and holds no picture"),
        (nested, "more", "has the folder bar: give --data .*/more, if its folders are the classes"),
        (one_class, "", "has the class 'bar' alone. A classifier needs two folders"),
        (one_image, "", "has one example of the class 'bar', and no test split"),
        (other_kind, "bar/x.webp", "is of a kind that is not read. Convert it to PNG or JPEG"),
        (other_content, "bar/x.png", "holds GIF, in spite of its name"),
        (no_picture, "bar/02.png", "is no picture: cannot identify image file"),
        (nothing_in_it, "bar/02.png", "is no picture: it is empty"),
        (unknown_class, "test/star", "is a class that the training split does not have"),
        (split_twice, "training", "is the same split as train"),
    ],
)
def test_what_is_wrong_is_named(spoil, file, message, tmp_path):
    folder = own.write_pictures(tmp_path / "shapes", 5)
    spoil(folder)
    with pytest.raises(FileError, match=message) as error:
        open_data(folder)
    assert error.value.path == str(folder / file)


def test_a_damaged_picture_is_named_by_the_check_and_in_training(tmp_path):
    folder = own.write_pictures(tmp_path / "shapes", 5, suffix="jpg")
    damaged = folder / "ring/03.jpg"
    damaged.write_bytes(damaged.read_bytes()[:-200])
    assert open_data(folder).counts == {"train": 8, "test": 2}  # its beginning is that of a picture
    for call in (
        lambda: understand(folder),
        lambda: commands.train("cnn", data=folder, output=tmp_path / "run", smoke=True, jit="off"),
    ):
        with pytest.raises(FileError, match="is damaged: it begins as a picture") as error:
            call()
        assert error.value.path == str(damaged)


SIZED = [
    ("cnn", (40, 40), (32, 32)),
    ("cnn", (30, 20), (30, 20)),
    ("vit", (30, 20), (64, 64)),
    ("vit", (20, 28), (20, 28)),
    ("gcnn", (24, 20), (64, 64)),
    ("gcnn", (24, 24), (24, 24)),
]
LARGE = [
    pytest.param(name, (70, 90), (32, 32) if name == "cnn" else (64, 64), marks=pytest.mark.slow)  # further recipes
    for name in recipe.takers("images")
]


@pytest.mark.parametrize(("name", "sides", "expected"), [*SIZED, *LARGE])
def test_own_images_get_a_size_that_the_model_takes(name, sides, expected, tmp_path):
    found = recipe.find(name)
    folder = own.write_pictures(tmp_path / "shapes", 3, sides=sides)
    options = found.options("images", data=str(folder), batch_size=2)
    variant = found.own["images"].variants[0]
    data = found.load_data(options, variant)
    assert data.input_shape == (*expected, 3)
    assert found.build_model(data, options, variant).input_shape == (None, *expected, 3)


def test_each_recipe_takes_own_data():
    assert [name for name in recipe.NAMES if not recipe.find(name).own] == []


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("attention", {}, "does not have a form that attention takes: pairs of texts"),
        ("cnn", {"dataset": "mnist"}, "--dataset mnist and --data .* exclude each other"),
        ("cnn", {"target": "x"}, "--target x is for tables"),
        ("cnn", {"target": "x", "data": None}, "--target x is for an own table: give it by --data PATH"),
        ("cnn", {"data": "nowhere"}, "--data .*nowhere does not exist"),
        ("cnn", {"data": __file__}, r"does not have a form that cnn takes: images .*PATH/CLASS/\*.jpg"),
        ("cnn", {"batch_size": 9}, "--batch-size 9 is more than the 8 training examples"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(name, given, message, tmp_path):
    folder = own.write_pictures(tmp_path / "shapes", 5)
    with pytest.raises(OptionError, match=message):
        commands.train(name, **{"data": folder, "output": tmp_path / "run"} | given)
    assert not (tmp_path / "run").exists()
