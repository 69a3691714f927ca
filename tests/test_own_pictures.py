"""Own images without classes: how they are read, what generators make of them, and what is refused."""

import types

import numpy as np
import own
import pytest
import tensorflow as tf
from PIL import Image

from keras_dl.files import FileError
from keras_dl.recipes import stylegan
from keras_dl.recipes.data import find_form, headers, open_data, understand
from keras_dl.recipes.prediction import predict, reading
from keras_dl.recipes.tasks import generation
from keras_dl.recipes.training import commands, pipelines, recipe
from keras_dl.recipes.training.recipe import OptionError

GENERATORS = recipe.takers("pictures")


def write(folder, count=10, **look):
    """A flat folder of pictures."""
    return own.write_pictures(folder, count, names=("",), **look)


def uneven(i):
    return (18 + i, 30 - i)


# Reading.


def test_pictures_are_those_of_a_folder_and_of_all_folders_in_it(tmp_path):
    own.write_pictures(tmp_path / "photos/summer/sea", 3, sides=uneven)
    write(tmp_path / "photos/winter", 3)
    write(tmp_path / "more", 4)
    for file in (tmp_path / "more").iterdir():
        file.rename(tmp_path / "photos" / f"top-{file.name}")
    (tmp_path / "photos/winter/notes.txt").write_text("no picture")
    (tmp_path / "photos/.hidden.png").write_text("no picture")
    (tmp_path / "photos/winter/above").symlink_to(tmp_path / "photos")
    data = open_data(tmp_path / "photos", "pictures")
    assert (data.form, data.labels, data.counts) == ("pictures", (), {"train": 10, "test": 3})
    assert data.how == "a fifth for the test, by the seed 0"
    assert set(data.features) == {"image"}
    assert "left out 1 file that is no picture: notes.txt" in data.notes
    train, test = (set(data.splits[split]["image"]) for split in ("train", "test"))
    assert len(train | test) == 13
    assert not train & test
    assert set(open_data(tmp_path / "photos", "pictures", seed=1).splits["test"]["image"]) != test
    again = open_data(tmp_path / "photos", "pictures")
    np.testing.assert_array_equal(again.splits["test"]["image"], data.splits["test"]["image"])


def test_given_splits_of_pictures_are_kept_and_what_is_beside_them_is_counted(tmp_path):
    for split, count in (("train", 8), ("val", 3), ("test/indoors", 2)):
        write(tmp_path / split, count)
    own.picture("bar", 0).save(tmp_path / "loose.png")
    data = open_data(tmp_path, "pictures")
    assert data.counts == {"train": 8, "validation": 3, "test": 2}
    assert data.how == "as the folders have it"
    assert any(note.startswith("left out 1 picture that is in no folder of a split") for note in data.notes)
    assert f"such as {tmp_path / 'loose.png'}" in " ".join(data.notes)


def test_folders_by_class_are_pictures_where_no_classes_are_wanted(tmp_path):
    folder = own.write_pictures(tmp_path / "shapes", 5)
    assert find_form(folder).name == "images"
    assert find_form(folder, ["pictures"]).name == "pictures"
    document = understand(folder)
    assert document["form"] == "images"
    assert set(document["also"]["pictures"]) == set(GENERATORS)
    document = understand(folder, "pictures")
    assert (document["classes"], set(document["recipes"])) == ({}, set(GENERATORS))
    assert "cnn" in document["also"]["images"]
    with pytest.raises(FileError, match="What needs no classes reads the pictures by --form"):
        open_data(own.write_pictures(tmp_path / "one", 10, names=("bar",)))
    with pytest.raises(OptionError, match="It has pictures, but no folder for each class"):
        find_form(folder / "bar", ["images"])
    with pytest.raises(OptionError, match="It looks like images with masks of classes"):
        find_form(own.write_masks(tmp_path / "cells"), ["pictures"])


def too_few(folder):
    for i in (1, 2):
        (folder / f"{i:02d}.png").unlink()


def no_test(folder):
    write(folder / "train", 8)
    (folder / "test").mkdir()


def small_test(folder):
    write(folder / "train", 8)
    write(folder / "test", 1)


def other_kind(folder):
    own.picture("bar", 0).save(folder / "x.webp")


def no_picture(folder):
    (folder / "02.png").write_text("a text")


@pytest.mark.parametrize(
    ("spoil", "file", "message"),
    [
        (
            too_few,
            "",
            r"has too few images in the train split: 6 \(a fifth for the test, by the seed 0\)",
        ),
        (no_test, "test", r"holds no picture \(.jpg"),
        (small_test, "", r"has too few images in the test split: 1 \(as the folders have it\)"),
        (other_kind, "x.webp", "is of a kind that is not read. Convert it"),
        (no_picture, "02.png", "is no picture"),
    ],
)
def test_wrong_pictures_are_named(spoil, file, message, tmp_path):
    spoil(write(tmp_path / "photos"))
    with pytest.raises(FileError, match=message) as error:
        open_data(tmp_path / "photos", "pictures")
    assert error.value.path == str(tmp_path / "photos" / file)


# Pipelines.


def options(name, folder, **others):
    return recipe.find(name).options("pictures", data=str(folder), batch_size=4, **others)


def load(folder, side=16, **others):
    served = ("generate", 5, "normal")
    return generation.own_pictures(options("gan", folder, **others), served, generation.multiples(8, side))


def test_squares_are_what_predict_makes_of_the_files(tmp_path):
    folder = write(tmp_path / "photos", sides=uneven)
    exif = Image.Exif()
    exif[headers.ORIENTATION] = 6
    own.picture("bar", 5, (20, 40)).save(folder / "turned.png")
    for i in range(3):
        own.picture("bar", i, (20, 40)).save(folder / f"turned-{i}.jpg", exif=exif)
    builder, data = open_data(folder), load(folder)
    assert (data.form, data.num_train, data.num_test, data.input_shape) == ("pictures", 11, 3, (16, 16, 3))
    for split in ("train", "test"):
        given = reading.pictures(builder.splits[split]["image"], (16, 16, 3), whole=False)
        np.testing.assert_array_equal(data.arrays[split], np.concatenate([one.value for one in given]))
    ((batch,),) = data.train(tf.constant(0)).take(1).as_numpy_iterator()
    assert (batch.shape, batch.dtype) == ((4, 16, 16, 3), np.float32)
    known = data.arrays["train"].astype("float32")
    assert all((image == known).all((1, 2, 3)).any() for image in batch)


def test_squares_in_memory_and_from_files_are_the_same(tmp_path, monkeypatch):
    folder, parts = write(tmp_path / "photos", 12, sides=uneven), []
    for most in (pipelines.MOST_BYTES, 0):
        monkeypatch.setattr(pipelines, "MOST_BYTES", most)
        data = load(folder)
        parts.append([x for (x,) in data.train(tf.constant(1)).as_numpy_iterator()])
        assert data.num_train == 10
    np.testing.assert_array_equal(*parts)


def test_gray_pictures_have_one_channel_and_are_no_digits(tmp_path):
    gray = load(write(tmp_path / "mnist_5k", mode="L"))  # a name that a data set has, too
    assert (gray.input_shape, gray.dataset) == ((16, 16, 1), "mnist_5k")
    assert not generation.is_digits(gray)
    assert generation.distance(gray, gray.arrays["test"]) == pytest.approx(0, abs=1e-9)
    mixed = write(tmp_path / "mixed", mode="L")
    own.picture("bar", 1).save(mixed / "00.png")
    assert load(mixed).input_shape == (16, 16, 3)
    digits = types.SimpleNamespace(input_shape=(28, 28, 1), form="")
    assert generation.is_digits(digits)


def test_thumbnails_are_means_of_cells():
    images = np.random.default_rng(0).uniform(0, 255, (3, 16, 24, 2))
    expected = images.reshape(3, 8, 2, 8, 3, 2).mean((2, 4)).reshape(3, -1) / 255
    np.testing.assert_allclose(generation._thumbnails(images), expected, rtol=1e-12)
    for side in (8, 28, 50):
        np.testing.assert_allclose(generation._cells(side).sum(1), 1, rtol=1e-12)
        np.testing.assert_allclose(generation._cells(side).sum(0), 8 / side, rtol=1e-12)  # no pixel is lost


# The sides of pictures of 70x90 and of 24x24 pixels, and one that the net does not take.
SIDES = [
    ("autoencoder", (64, 24), 36, "a multiple of 8, at least 8"),
    ("gan", (64, 24), 36, "4 to 7 times a power of 2"),
    ("stylegan", (32, 32), 24, "a power of 2, at least 8"),
    ("ncsn", (32, 24), 9, "a multiple of 2, at least 8"),
    ("score_sde", (32, 24), 20, "a multiple of 8, at least 8"),
    ("ddpm", (32, 24), 30, "a multiple of 4, at least 8"),
]


def test_each_generator_has_its_sides():
    assert {name for name, *_ in SIDES} == set(GENERATORS)


@pytest.mark.parametrize(("name", "sides", "wrong", "rule"), SIDES)
def test_own_pictures_get_a_side_that_the_net_takes(name, sides, wrong, rule, tmp_path):
    found = recipe.find(name)
    variant = found.own["pictures"].variants[0]
    large, small = write(tmp_path / "large", sides=(70, 90)), write(tmp_path / "small", sides=(24, 24))
    shapes = [found.load_data(options(name, folder), variant).input_shape for folder in (large, small)]
    assert shapes == [(side, side, 3) for side in sides]
    with pytest.raises(OptionError, match=f"--image-size {wrong}: the side of images for {name} is {rule}"):
        found.load_data(options(name, large, image_size=wrong), variant)


@pytest.mark.parametrize(("count", "sizes"), [(8, [8]), (3, [3]), (5, [4]), (206, [200, 4, 2])])
def test_the_losses_of_stylegan_are_of_whole_groups(count, sizes):
    images = tf.data.Dataset.range(count)
    found = stylegan._in_groups(images)
    assert [len(batch) for batch in found] == sizes
    assert int(found.cardinality()) == len(sizes)


# From a folder to an image.


def run_through(name, folder, output, side, **others):
    """Trains for two epochs, measures the run and its file, and returns the report and the file."""
    report = commands.train(name, data=folder, output=output, image_size=side, jit="off", smoke=True, **others)
    assert (report["form"], report["labels"], report["metric"]) == (
        "pictures",
        [],
        recipe.find(name).own["pictures"].metric,
    )
    assert np.isfinite(report["value"])
    assert (output / "picture.png").exists()
    assert commands.evaluate(output)["value"] == report["value"]
    return report


def test_from_a_folder_to_an_image(tmp_path):
    folder, run = own.write_pictures(tmp_path / "photos", 12, sides=uneven), tmp_path / "run"
    report = run_through("gan", folder, run, 8, baseline=True)
    assert (report["train_examples"], report["test_examples"], report["batch_size"]) == (19, 5, 8)
    assert report["baseline"] == "normal distribution"
    assert report["figures"]["thumbnail Frechet distance of training examples, the floor"] > 0
    assert commands.train("gan", output=run, resume=True)["value"] == report["value"]  # complete
    file = commands.export(run)["path"]
    assert commands.evaluate(file)["value"] == pytest.approx(report["value"], rel=1e-3)
    noise = np.random.default_rng(0).normal(size=(2, 100)).astype("float32")
    (tmp_path / "noise.csv").write_text("\n".join(",".join(map(str, row)) for row in noise))
    for source in (run, file):
        answers = predict(source, [tmp_path / "noise.csv"], signature="generate", output=tmp_path / "drawn")
        assert [np.shape(answer["images"]) for answer in answers] == [(8, 8, 3)] * 2
        assert [x.name for x in sorted((tmp_path / "drawn").iterdir())] == ["noise.csv-1.png", "noise.csv-2.png"]
        with pytest.raises(OptionError, match="none of them answers a question about one input"):
            predict(source, [folder / "bar/00.png"])


@pytest.mark.slow  # each trains, samples and exports a whole run; the test above is the cheapest of the six
@pytest.mark.parametrize("name", [name for name in GENERATORS if name != "gan"])
def test_the_other_generators_go_the_same_way(name, tmp_path):
    folder, run = write(tmp_path / "photos", 20, sides=uneven, mode="L"), tmp_path / "run"
    report = run_through(name, folder, run, 8, baseline=True)
    integers = next(x for x in recipe.find(name).own["pictures"].exports if "int8" in x.quantization)
    file = commands.export(run, **integers._asdict(), calibration_samples=16)["path"]
    tolerance = 0.02 if name == "autoencoder" else 2.0  # a squared error of pixels, or a distance
    assert commands.evaluate(file)["value"] == pytest.approx(report["value"], abs=tolerance)
    assert report["baseline"].startswith("PCA" if name == "autoencoder" else "normal distribution")
    if name == "autoencoder":
        (answer,) = predict(run, [folder / "00.png"], signature="encode")
        assert np.shape(answer["mean"]) == (32,)
