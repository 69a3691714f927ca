"""Two own sets of images: how they are read, their pipeline, what is refused, and pictures that predict translates."""

import numpy as np
import own
import pytest
import tensorflow as tf
from PIL import Image

import keras_dl
from keras_dl.export import export
from keras_dl.files import FileError
from keras_dl.recipes import cyclegan
from keras_dl.recipes.data import as_text as as_text_of_data
from keras_dl.recipes.data import find_form, open_data, understand
from keras_dl.recipes.prediction import as_text, predict
from keras_dl.recipes.training import commands, recipe
from keras_dl.recipes.training.recipe import OptionError

RECIPE = recipe.find("cyclegan")
TINY = dict(filters=4, num_blocks=1, discriminator_filters=4, discriminator_layers=1)


def options(folder, **others):
    return RECIPE.options("domains", data=str(folder), batch_size=2, **others)


def test_the_layout_of_the_authors(tmp_path):
    own.write_domains(tmp_path, {"trainA": 5, "trainB": 4, "testA": 3, "testB": 2})
    data = open_data(tmp_path)  # and not four classes
    assert (data.form, data.labels, data.how) == ("domains", ("A", "B"), "as the folders have it")
    assert data.counts == {"train": 9, "test": 5}
    for columns in data.splits.values():
        for path, label in zip(columns["image"], columns["label"], strict=True):
            assert path.split("/")[-2].endswith("AB"[label])
    document = understand(tmp_path)
    assert (document["recipes"], document["also"]) == (["cyclegan"], {})
    assert document["classes"] == {"A": {"train": 5, "test": 3}, "B": {"train": 4, "test": 2}}
    assert "two sets of images\nexamples   9 train, 5 test" in as_text_of_data(document)
    with pytest.raises(OptionError, match=r"form that cnn takes.* It looks like two sets of images"):
        find_form(tmp_path, ["images"], "cnn")


def test_two_folders_are_two_sets_if_they_are_wanted_as_such(tmp_path):
    own.write_domains(tmp_path / "plain", {"zebra": 8, "horse": 10})
    assert open_data(tmp_path / "plain").form == "images"
    assert "cyclegan" in understand(tmp_path / "plain")["also"]["domains"]
    data = open_data(tmp_path / "plain", wanted=RECIPE.own, who="cyclegan")
    assert (data.form, data.labels) == ("domains", ("horse", "zebra"))
    assert data.counts == {"train": 14, "test": 4}
    assert data.how == "a fifth for the test, by the seed 0"
    assert np.bincount(data.splits["test"]["label"]).tolist() == [2, 2]
    for part, count in (("train", 4), ("val", 2), ("test", 3)):
        own.write_domains(tmp_path / "split" / part, {"horse": count, "zebra": count})
    data = open_data(tmp_path / "split", "domains")
    assert data.counts == {"train": 8, "validation": 4, "test": 6}
    found = RECIPE.load_data(options(tmp_path / "split"), "model")
    assert [x.shape for x in next(iter(found.validation))] == [(2, 20, 20, 3)] * 2
    own.write_domains(tmp_path / "three", {"a": 8, "b": 8, "c": 8})
    with pytest.raises(OptionError, match="does not have a form that cyclegan takes"):
        open_data(tmp_path / "three", wanted=RECIPE.own, who="cyclegan")


def test_images_of_the_models_size_are_trained_on_as_they_are(tmp_path):
    own.write_domains(tmp_path, {"trainA": 5, "trainB": 3, "testA": 3, "testB": 2})
    data = RECIPE.load_data(options(tmp_path), "model")
    assert (data.input_shape, data.num_train, data.num_test, data.domains) == ((20, 20, 3), 5, 5, ("A", "B"))
    files = {side: [np.array(Image.open(x)) for x in (tmp_path / f"train{side}").iterdir()] for side in "AB"}
    batches = [list(data.train(tf.constant(number)).as_numpy_iterator()) for number in (0, 0, 1)]
    for a, b in batches[0]:
        for images, side in ((a, "A"), (b, "B")):
            assert images.shape == (2, 20, 20, 3)
            for image in images:
                assert any(np.array_equal(image, file) for file in files[side])
    np.testing.assert_array_equal(batches[0][0][0], batches[1][0][0])
    assert any(not np.array_equal(x[0], y[0]) for x, y in zip(batches[0], batches[2], strict=True))
    for side, label in zip("ab", (0, 1), strict=True):
        paths = open_data(tmp_path).splits["test"]
        paths = paths["image"][paths["label"] == label]
        np.testing.assert_array_equal(data.arrays[f"test_{side}"], [np.array(Image.open(x)) for x in paths])


def test_other_images_are_scaled_and_a_square_is_cut_out(tmp_path):
    own.write_domains(tmp_path, {"trainA": 4, "trainB": 4, "testA": 2, "testB": 2}, sides=(90, 120))
    data = RECIPE.load_data(options(tmp_path, image_size=32), "model")
    seen = np.concatenate([a for n in range(8) for a, _ in data.train(tf.constant(n)).as_numpy_iterator()])
    assert seen.shape == (32, 32, 32, 3)
    assert 0 <= seen.min() < seen.max() <= 255
    assert len({image.tobytes() for image in seen}) > 8  # of 4 images
    (row,) = data.calibration(1)["a_to_b"].as_numpy_iterator()
    assert (row["images"].shape, row["images"].dtype) == ((1, 32, 32, 3), np.uint8)
    assert RECIPE.load_data(options(tmp_path), "model").input_shape == (64, 64, 3)
    with pytest.raises(OptionError, match="--image-size 30: the side of images for cyclegan is a multiple of 4"):
        RECIPE.load_data(options(tmp_path, image_size=30), "model")


def test_the_nets_are_the_authors_from_128_pixels_on(tmp_path):
    own.write_domains(tmp_path, {"trainA": 2, "trainB": 2, "testA": 2, "testB": 2})
    for side, expected in ((64, cyclegan.SMALL[cyclegan.OWN]), (128, {"num_blocks": 6}), (256, {"num_blocks": 9})):
        given = options(tmp_path, image_size=side)
        assert cyclegan.settings_of(RECIPE.load_data(given, "model"), given) == expected


def test_the_distance_falls_from_the_other_set_to_the_set_itself(tmp_path):
    own.write_domains(tmp_path, {"trainA": 2, "trainB": 2, "testA": 9, "testB": 9})
    data = RECIPE.load_data(options(tmp_path), "model")
    perfect = {x: data.arrays[f"test_{x}"].astype("float32") for x in "ab"}
    assert cyclegan.score(perfect, data) == pytest.approx(0, abs=1e-6)
    untouched = {"a": perfect["b"], "b": perfect["a"]}
    assert cyclegan.score(untouched, data) > 1


def few(folder):
    for file in list((folder / "trainB").iterdir())[1:]:
        file.unlink()


def no_test(folder):
    for file in (folder / "testB").iterdir():
        file.unlink()
    (folder / "testB").rmdir()


def twice(folder):
    own.write_domains(folder, {"train_A": 1})


def empty(folder):
    for file in (folder / "trainA").iterdir():
        file.unlink()


def no_picture(folder):
    (folder / "trainA/01.png").write_text("no picture")


@pytest.mark.parametrize(
    ("spoil", "file", "message"),
    [
        (few, "trainB", "has 1 picture. A set needs at least 2"),
        (no_test, "", "has the sets A in test, and A and B in train"),
        (twice, "train_A", "is the same set as trainA"),
        (empty, "trainA", "holds no picture"),
        (no_picture, "trainA/01.png", "is no picture"),
    ],
)
def test_wrong_sets_are_named(spoil, file, message, tmp_path):
    spoil(own.write_domains(tmp_path, {"trainA": 3, "trainB": 3, "testA": 2, "testB": 2}))
    with pytest.raises(FileError, match=message) as error:
        open_data(tmp_path, "domains")
    assert error.value.path == str(tmp_path / file).rstrip("/")


def test_too_few_images_for_a_split_are_refused(tmp_path):
    own.write_domains(tmp_path, {"trainA": 8, "trainB": 7})
    with pytest.raises(FileError, match="trainB has 7 pictures, and there is no test split"):
        open_data(tmp_path)


def test_predict_translates_pictures_in_both_directions(tmp_path):
    model = keras_dl.CycleGAN((16, 16, 3), **TINY)
    model.save(tmp_path / "model.keras")
    file = tmp_path / "model.tflite"
    export(model, file, metadata={"domains": ["horse", "zebra"]}, verify=False)
    own.picture("bar", 0, (16, 16)).save(tmp_path / "one.png")
    image = np.array(Image.open(tmp_path / "one.png"))[None]
    for source, names in ((tmp_path / "model.keras", ("A", "B")), (file, ("horse", "zebra"))):
        for signature, expected, (first, last) in (
            (None, model.a_to_b(image), names),
            ("b_to_a", model.b_to_a(image), names[::-1]),
        ):
            written = tmp_path / f"{last}.png"
            (answer,) = predict(source, [tmp_path / "one.png"], signature=signature, output=written)
            assert (answer["from"], answer["to"], answer["output"]) == (first, last, str(written))
            np.testing.assert_allclose(np.array(Image.open(written)), expected[0], atol=0.51)
            assert as_text([answer]).endswith(f"{first} as {last}, 16 x 16 pixels, in {written}")
    (answer,) = predict(file, [tmp_path / "one.png"])
    assert as_text([answer]).endswith("horse as zebra, 16 x 16 pixels; --output FILE writes it")
    predict(file, [tmp_path / "one.png", tmp_path / "horse.png"], output=tmp_path / "both")
    assert sorted(x.name for x in (tmp_path / "both").iterdir()) == ["horse.png", "one.png"]


@pytest.mark.slow  # two generators and two discriminators are traced for training, and again for each file
def test_from_two_sets_to_a_translated_picture(tmp_path, monkeypatch):
    monkeypatch.setitem(cyclegan.SMALL, cyclegan.OWN, TINY | {"filters": 8})
    folder, run = own.write_domains(tmp_path / "shapes", {"bars": 12, "rings": 10}), tmp_path / "run"
    report = commands.train("cyclegan", data=folder, output=run, epochs=1, jit="off")
    assert (report["domains"], report["labels"], report["form"]) == (["bars", "rings"], [], "domains")
    assert report["baseline"] == "no translation"
    assert {"distance, to rings", "distance without a translation, to bars"} <= set(report["figures"])
    assert commands.train("cyclegan", output=run, resume=True)["value"] == report["value"]
    for quantization in ("none", "int8"):
        file = commands.export(run, quantization=quantization, verify=False)["path"]
        assert commands.evaluate(file)["value"] == pytest.approx(report["value"], rel=0.1)
        (answer,) = predict(file, [folder / "rings/00.png"], signature="b_to_a", output=tmp_path / "bar.png")
        assert (answer["from"], answer["to"]) == ("rings", "bars")
    (folder / "rings/00.png").unlink()
    with pytest.raises(OptionError, match="is not the data that the run began with"):
        commands.evaluate(file)
