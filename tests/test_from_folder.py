"""Own data in code: what `from_folder` gives `fit`, in each form. The models of docs/own_data.md train on it."""

import json

import numpy as np
import own
import pytest
import tensorflow as tf

from keras_dl.recipes.data import FORMS, from_folder
from keras_dl.recipes.training import recipe
from keras_dl.recipes.training.recipe import OptionError
from keras_dl.text import Subwords, Symbols


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return own.write_forms(tmp_path_factory.mktemp("own") / "data")


# By form: the path, what is chosen so that an epoch has all training examples, and the shapes of a batch.
IMAGES = (8, 32, 32, 3)
CASES = {
    "images": ("photos", dict(batch_size=4), ((4, 20, 20, 3), (4,))),
    "pictures": ("photos", dict(batch_size=19, form="pictures"), ((19, 20, 20, 3),)),
    "boxes": (
        "street",
        dict(image_size=32, batch_size=8, recipe="detr"),
        (IMAGES, dict(boxes=(8, 1, 4), classes=(8, 1))),
    ),
    "instances": (
        "street",
        dict(image_size=32, batch_size=8, form="instances"),
        (IMAGES, dict(boxes=(8, 1, 4), classes=(8, 1), instance_map=(8, 32, 32))),
    ),
    "masks": ("cells", dict(image_size=32, batch_size=8), (IMAGES, (8, 32, 32))),
    "series": ("waves", dict(batch_size=8), (dict(features=(8, 15, 2), mask=(8, 15)), (8,))),
    "points": ("solids", dict(batch_size=8), ((8, 512, 3), (8,))),
    "table": ("plants.csv", dict(target="kind", batch_size=8), ((8, 5), (8,))),
    "values": ("plants.csv", dict(target="weight", batch_size=8), ((8, 7), (8,))),
}
CHANGED = ("images", "boxes", "instances", "masks", "series", "points")  # what recipes augment


def shapes(batch):
    return tf.nest.map_structure(lambda x: tuple(x.shape), batch)


def examples(dataset):
    """Each example of one pass as bytes, in the order in which it comes."""
    rows = [tf.nest.flatten(row) for row in dataset.unbatch().as_numpy_iterator()]
    return [b"".join(np.asarray(x).tobytes() for x in row) for row in rows]


@pytest.mark.parametrize("form", CASES)
def test_each_pass_has_the_same_examples_in_another_order(form, folder):
    path, given, expected = CASES[form]
    data = from_folder(folder / path, **given)
    for trained, tested in zip(*(tf.nest.flatten(next(iter(x))[0]) for x in (data.train, data.test)), strict=True):
        assert trained.shape[1:] == tested.shape[1:]
    tested = len(examples(data.test))
    assert int(data.test.cardinality()) == -(-tested // given["batch_size"]) > 0
    passes = [examples(data.train) for _ in range(2)]
    assert int(data.train.cardinality()) * given["batch_size"] == len(passes[0]) == len(set(passes[0]))
    assert passes[0] != passes[1]
    assert sorted(passes[0]) == sorted(passes[1])
    again = from_folder(folder / path, **given).train
    assert shapes(next(iter(again))) == expected  # a pass, which has begun
    assert examples(again) == passes[0]


@pytest.mark.parametrize("form", CHANGED)
def test_examples_change_with_augment(form, folder):
    path, given, expected = CASES[form]
    data = from_folder(folder / path, augment=True, **given)
    passes = [set(examples(data.train)) for _ in range(2)]
    assert not passes[0] & passes[1]
    assert shapes(next(iter(data.train))) == expected


def test_every_form_that_a_recipe_takes_is_read(folder):
    """The others have tests of their own, for their passes differ in more than the order."""
    others = {"text", "pairs", "graph", "scene", "domains", "solids"}
    assert {form for form in FORMS if recipe.takers(form)} == set(CASES) | others


def test_texts_come_with_their_tokenizer(folder):
    data = from_folder(folder / "verses.txt")
    (characters,) = data.tokenizers.values()
    assert isinstance(characters, Symbols)
    inputs, targets = next(data.train.as_numpy_iterator())
    np.testing.assert_array_equal(inputs[:, 1:], targets[:, :-1])
    texts = {text for _, targets in data.train.as_numpy_iterator() for text in characters.decode(targets)}
    lines = set((folder / "verses.txt").read_text().splitlines())
    assert len(texts) == 32
    assert texts < lines


def test_pairs_are_tokens_of_the_recipe_that_is_named(folder):
    data = from_folder(folder / "pairs.tsv", form="pairs")
    assert data.recipe == "transformer"
    words = data.tokenizers["subwords"]
    assert isinstance(words, Subwords)
    inputs, targets = next(data.test.as_numpy_iterator())
    for source, target in zip(words.decode(inputs["source"]), words.decode(targets), strict=True):
        assert target == source.replace("number", "Nummer")
    data = from_folder(folder / "pairs.tsv", recipe="seq2seq")  # which takes no tables
    assert (data.recipe, set(data.tokenizers)) == ("seq2seq", {"source", "target"})
    batch = next(data.train.as_numpy_iterator())
    sources, targets = (data.tokenizers[side].decode(batch[side]) for side in ("source", "target"))
    assert [x.replace("number", "Nummer") for x in sources] == targets


def test_a_graph_weighs_the_nodes_of_its_batch(folder):
    data = from_folder(folder / "people", target="club", batch_size=11)
    (first, second) = data.train.as_numpy_iterator()
    weights = first[2] + second[2]
    np.testing.assert_array_equal(np.unique(weights, return_counts=True), [[0, 1], [18, 22]])  # each training node once
    assert {name: x.shape for name, x in data.arrays["row"].items()} == {name: x.shape for name, x in first[0].items()}
    assert [column["name"] for column in data.columns] == ["age", "town"]
    assert (data.labels, next(iter(data.validation))[2].numpy().sum()) == (("chess", "choir"), 6)


def test_a_scene_comes_with_its_cameras(folder):
    data = from_folder(folder / "statue", batch_size=64)
    rays, colors = next(data.train.as_numpy_iterator())
    assert shapes(rays) == {"directions": (64, 3), "origins": (64, 3)}
    assert colors.min() >= 0
    assert colors.max() <= 1
    usual = from_folder(folder / "statue").train
    assert usual.element_spec[1].shape[0] == 512  # rays, of which the 8 views have 6,144
    near, far = data.arrays["bounds"]
    assert 0 < near < far
    assert data.arrays["test/cameras"].shape == (2, 3, 4)
    assert data.arrays["test/images"].shape == (2, 24, 32, 3)
    document = json.loads((folder / "statue/transforms.json").read_text())
    assert data.arrays["focal"] == pytest.approx(16 / np.tan(document["camera_angle_x"] / 2))


def test_two_sets_meet_in_other_pairs(folder):
    data = from_folder(folder / "animals", form="domains", batch_size=2, image_size=16)
    assert shapes(data.train.element_spec) == ((2, 16, 16, 3),) * 2
    assert data.arrays["test_a"].shape == data.arrays["test_b"].shape == (2, 16, 16, 3)
    passes = [
        [{x.tobytes() for batch in side for x in batch} for side in zip(*data.train.as_numpy_iterator(), strict=True)]
        for _ in range(2)
    ]
    assert [len(side) for side in passes[0]] == [8, 8]
    assert passes[0] == passes[1]  # the pictures of each set are as they are
    changed = from_folder(folder / "animals", form="domains", batch_size=2, image_size=16, augment=True)
    assert not {x.tobytes() for a, _ in changed.train.as_numpy_iterator() for x in a} & passes[0][0]


def test_solids_come_with_points_inside_and_outside(folder):
    data = from_folder(folder / "meshes", batch_size=8)
    inputs, inside = next(data.train.as_numpy_iterator())
    assert (shapes(inputs), inside.shape) == (dict(cloud=(8, 300, 3), points=(8, 256, 3)), (8, 256))
    assert set(np.unique(inside)) == {0.0, 1.0}
    assert np.abs(inputs["cloud"]).max() < 0.55  # the longest side of a solid is 1
    assert len(data.arrays["test/meshes"]) == 2
    assert not any(callable(x) for x in data.arrays.values())


def test_sizes_of_images(folder):
    assert from_folder(folder / "photos", image_size=(16, 24)).input_shape == (16, 24, 3)
    assert from_folder(folder / "photos", image_size=(16, 24), augment=True).input_shape == (16, 24, 3)
    assert from_folder(folder / "photos").input_shape == (20, 20, 3)
    small = from_folder(folder / "photos", recipe="cnn", image_size=48)
    assert (small.recipe, small.input_shape) == ("cnn", (48, 48, 3))


@pytest.mark.parametrize(
    ("path", "given", "message"),
    [
        ("photos", dict(batch_size=0), "batch_size=0 must be an int of at least 1"),
        ("photos", dict(batch_size=21), "batch_size=21 is more than the 20 training examples"),
        ("photos", dict(image_size=0), r"image_size=0 must be in \[1, 4096\] pixels"),
        ("photos", dict(image_size="32"), "image_size='32' must be an int, or a height and a width"),
        ("cells", dict(image_size=(16, 24)), "a height and a width are for images by class"),
        ("plants.csv", dict(target="kind", image_size=32), "--image-size: mlp has none to set"),
        ("plants.csv", dict(target="kind", form="boxes"), "does not have the form boxes"),
        ("photos", dict(form="photos"), "--form photos must be one of"),
        ("photos", dict(recipe="yolo"), "does not have a form that yolo takes: images with boxes"),
        (
            "street",
            dict(recipe="yolo", form="instances"),
            "form='instances' is not among the forms of recipe='yolo'",
        ),
        ("plants.csv", dict(recipe="gan"), "does not have a form that gan takes: images without classes"),
        ("photos", dict(recipe="lenet"), "There is no recipe 'lenet'"),
        ("nothing", {}, "does not exist"),
    ],
)
def test_what_does_not_fit_is_one_error(path, given, message, folder):
    with pytest.raises(OptionError, match=message):
        from_folder(folder / path, **given)
