"""The recipes and their pipelines: each trains on its own data, and reads the papers' data by the same code."""

import dataclasses
import importlib
import json
import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_dl.compat import all_layers
from keras_dl.export import KerasRunner
from keras_dl.recipes import detr
from keras_dl.recipes.training import augment, commands, pipelines, recipe, runner

IMAGES = ("mnist", "fashion_mnist", "cifar10", "imagenet2012")
# Which read images as points, or have no labels: those with tests of their own.
OTHERS = [name for name in recipe.NAMES if pathlib.Path(__file__).with_name(f"test_{name}_recipe.py").exists()]
LAZY = {"stylegan": 4 / 5}  # shares of the rate: every fourth step is followed by a further one
PAIRS = [
    (name, dataset)
    for name in recipe.NAMES
    for dataset in IMAGES
    if name not in OTHERS and dataset in recipe.find(name).tasks
]
# One net takes one of the sets in `make test`, and the others in `make test-all`: the pipeline is the same.
FIRST = dict(reversed(PAIRS))
BIG = {
    ("cnn", "imagenet2012"): "a step of VGG-16 needs 2 GB",
    ("vit", "imagenet2012"): "a step of ViT-B/16 needs 1.4 GB",
    ("convnext", "imagenet2012"): "a step of ConvNeXt-T takes half a minute; keras-dl benchmark convnext runs it",
    ("resnet", "imagenet2012"): "a step of ResNet-50 takes half a minute; keras-dl benchmark resnet runs it",
    ("gcnn", "cifar10"): "a step of the p4m ResNet takes half a minute; the battery trains a smaller one",
}


@pytest.mark.parametrize(
    ("name", "dataset"),
    [
        *[("mlp", None), ("mlp", "diabetes"), ("mlp", "mnist_5k"), ("cnn", None), ("tcn", "mnist_5k")],
        pytest.param("pointnet", None, marks=pytest.mark.slow),  # a picture of its own, and 20 s of tracing
        pytest.param("pointnet", "primitive_parts", marks=pytest.mark.slow),  # the same
        pytest.param("nerf", None, marks=pytest.mark.slow),  # the same, and 78 views to trace
        pytest.param("pointnet2", None, marks=pytest.mark.slow),  # the same
        pytest.param("pointnet2", "primitive_parts", marks=pytest.mark.slow),  # the same
        pytest.param("occupancy_network", None, marks=pytest.mark.slow),  # meshes of all test shapes
    ],
)
def test_smoke_run(name, dataset, tmp_path):
    found = recipe.find(name)
    task = found.tasks[dataset or next(iter(found.tasks))]
    options = found.options(dataset, smoke=True, variants=task.variants, baseline=True)
    document = runner.train(found, options, tmp_path / "run")
    assert set(document["variants"]) == set(found.tasks[document["dataset"]].variants)
    assert document["baseline_value"] > 0
    assert json.loads((tmp_path / "run/report.json").read_text()) == document
    picture = tf.io.decode_png((tmp_path / "run/picture.png").read_bytes())
    assert min(picture.shape[:2]) >= 600
    assert np.unique(picture).size > 50


@pytest.mark.slow
def test_smoke_run_of_resnet_with_two_of_its_nets(tmp_path):
    found = recipe.find("resnet")
    task = found.tasks["mnist_5k"]
    assert task.variants == ("resnet20", "resnet56", "plain20", "plain56")
    options = found.options(epochs=1, smoke=True, variants=("resnet20", "plain20"), baseline=True)
    document = runner.train(found, options, tmp_path / "run")
    assert document["parameters"] > 270_000
    assert document["baseline_value"] == document["variants"]["plain20"]


def test_defaults_go_with_a_smoke_run():
    """One variant, and batches that its few examples fill."""
    for name in recipe.NAMES:
        found = recipe.find(name)
        for dataset, task in found.tasks.items():
            options = found.options(dataset, smoke=True)
            assert options.batch_size <= recipe.SMOKE_TRAIN, (name, dataset)
            assert found.variants(options) == task.variants[:1], (name, dataset)
            assert set(task.baselines) < set(task.variants), (name, dataset)
            assert task.variants[0] not in task.baselines, (name, dataset)
    found = recipe.find("neural_ode")
    options = found.options("two_moons", smoke=True)
    assert found.load_data(options, "flow").num_train >= options.batch_size


@pytest.mark.parametrize("name", recipe.NAMES)
def test_a_learning_rate_reaches_the_optimizer_or_is_refused(name, monkeypatch):
    monkeypatch.setattr(detr, "train_first", lambda *given: None)  # it takes most of the time, with a rate of its own
    found = recipe.find(name)
    if not found.takes_learning_rate:
        with pytest.raises(recipe.OptionError, match=f"the schedule of {name} has none to set"):
            found.options(learning_rate=0.1)
        return
    options = found.options(smoke=True, learning_rate=0.0123)
    data, variant = found.load_data(options, found.variants(options)[0]), found.variants(options)[0]
    rate = found.build_model(data, options, variant).optimizer._learning_rate
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        assert 0.0123 in keras.tree.flatten(rate.get_config())
    else:
        assert float(rate) == pytest.approx(LAZY.get(name, 1.0) * 0.0123)


@pytest.mark.parametrize("name", recipe.NAMES)
def test_layers_that_files_compute_in_float32_are_in_the_model(name):
    found = recipe.find(name)
    wanted = {layer for task in found.tasks.values() for file in task.exports for layer in file.float_layers}
    if wanted:
        options = found.options(smoke=True)
        variant = found.variants(options)[0]
        model = found.build_model(found.load_data(options, variant), options, variant)
        assert wanted <= {layer.name for layer in all_layers(model)}


@pytest.mark.slow  # a whole smoke run for each recipe
@pytest.mark.parametrize("name", [name for name in recipe.NAMES if name not in ("mlp", "cnn")])
def test_smoke_run_of_the_first_variant_alone(name, tmp_path):
    found = recipe.find(name)
    document = runner.train(found, found.options(smoke=True), tmp_path / "run")
    assert list(document["variants"]) == [next(iter(found.tasks.values())).variants[0]]
    assert document["baseline"] is None


def _other_variants():
    """Of each recipe whose first task has variants of several kinds, the first one of the second kind."""
    for name in recipe.NAMES:
        first, *rest = next(iter(recipe.find(name).tasks.values())).variants
        kind = re.match("[a-z]+", first)[0]
        yield from [(name, variant) for variant in rest if not variant.startswith(kind)][:1]


@pytest.mark.slow  # trainings whose picture is of another network than the first
@pytest.mark.parametrize(("name", "variant"), _other_variants())
def test_smoke_run_of_another_variant(name, variant, tmp_path):
    found = recipe.find(name)
    document = runner.train(found, found.options(smoke=True, variants=(variant,)), tmp_path / "run")
    assert list(document["variants"]) == [variant]


@pytest.mark.parametrize(
    ("name", "dataset"),
    [pytest.param(*pair, marks=[pytest.mark.slow] * (pair not in FIRST.items() and pair not in BIG)) for pair in PAIRS],
)
def test_the_papers_data_goes_through_the_same_pipeline(name, dataset, tmp_path):
    found = recipe.find(name)
    variant = found.tasks[dataset].variants[0]
    with tfds.testing.mock_data(num_examples=8):
        options = found.options(dataset, batch_size=2, data_dir=str(tmp_path))
        data = found.load_data(options, variant)
        images, labels = next(iter(data.train(tf.constant(0))))
        again, _ = next(iter(data.train(tf.constant(0))))
        later, _ = next(iter(data.train(tf.constant(1))))
        test_images, test_labels = next(iter(data.test))
        (sample,) = data.calibration(1)
    height = 224 if dataset == "imagenet2012" else 32 if dataset == "cifar10" else 28
    assert images.shape == (2, *data.input_shape)
    assert data.input_shape[0] == height
    assert (test_images.shape, test_images.dtype) == ((8, *data.input_shape), tf.uint8)
    assert (sample["images"].shape, sample["images"].dtype) == ((1, *data.input_shape), tf.uint8)
    assert len(data.labels) == (1000 if dataset == "imagenet2012" else 10)
    assert test_labels.shape == (8,)
    assert (data.num_train, data.num_test) == (8, 8)
    assert 0 <= np.min(images) <= np.max(images) <= 255
    np.testing.assert_array_equal(images, again)
    assert not np.array_equal(images, later)

    if (name, dataset) in BIG:
        pytest.skip(BIG[name, dataset])
    model = found.build_model(data, options, variant)
    assert np.isfinite(model.train_on_batch(images, labels)).all()
    probabilities = KerasRunner(model, 8).serve("classify", images=test_images.numpy())["probabilities"]
    assert probabilities.shape == (8, len(data.labels))


def _digit():
    return tf.constant(np.random.default_rng(0).integers(0, 256, (28, 28, 1)), tf.uint8)


def test_affine_of_nothing_is_the_image():
    image = _digit()
    same = augment.affine(image, (1, 2), pixels=0, degrees=0)
    np.testing.assert_allclose(same, image, atol=1e-3)


def test_affine_depends_on_the_seed_and_stays_in_range():
    image, amounts = _digit(), dict(pixels=2, degrees=12, zoom=0.1, shear=0.2)
    one = augment.affine(image, (1, 2), **amounts)
    np.testing.assert_array_equal(one, augment.affine(image, (1, 2), **amounts))
    assert not np.array_equal(one, augment.affine(image, (1, 3), **amounts))
    assert 0 <= np.min(one) <= np.max(one) <= 255


def test_affine_turns_about_the_middle():
    """A disc in the middle stays where it is under rotation, and moves by at most `pixels` under a shift."""
    y, x = np.mgrid[:29, :29] - 14
    disc = tf.constant(255.0 * (x**2 + y**2 < 64), tf.float32)[..., None]

    def middle(image):
        ink = np.asarray(image)[..., 0]
        return np.array([np.sum(ink * x), np.sum(ink * y)]) / np.sum(ink)

    for seed in range(5):
        turned = augment.affine(disc, (0, seed), pixels=0, degrees=90, zoom=0.2)
        np.testing.assert_allclose(middle(turned), 0, atol=0.05)
        moved = np.abs(middle(augment.affine(disc, (0, seed), pixels=3, degrees=0)))
        assert moved.max() <= 3.01
        assert moved.max() > 0.1


def test_flip_and_crop_cuts_out_of_the_padded_image():
    image = np.asarray(_digit(), "float32")
    mirrored = 0
    for seed in range(8):
        found = np.asarray(augment.flip_and_crop(image, (0, seed), padding=2))
        places = []
        for flip in (False, True):
            padded = np.pad(image[:, ::-1] if flip else image, ((2, 2), (2, 2), (0, 0)))
            for i in range(5):
                places += [flip for j in range(5) if np.array_equal(padded[i : i + 28, j : j + 28], found)]
        (flip,) = places
        mirrored += flip
    assert 0 < mirrored < 8


def test_random_resized_crop_has_the_shape_and_the_range():
    image = tf.random.stateless_uniform((50, 70, 3), (0, 0), 0, 256, tf.int32)
    found = augment.random_resized_crop(tf.cast(image, tf.uint8), (0, 1), (32, 24, 3))
    assert (found.shape, found.dtype) == ((32, 24, 3), tf.float32)
    assert 0 <= np.min(found) <= np.max(found) <= 255
    grey = augment.random_resized_crop(tf.fill((50, 70, 3), tf.cast(9, tf.uint8)), (0, 1), (32, 24, 3))
    np.testing.assert_allclose(grey, 9, rtol=1e-6)


def test_resize_and_crop():
    image = _digit()
    assert pipelines.resize_and_crop(image, (28, 28, 1)) is image
    wide = tf.concat([tf.zeros((64, 32, 1)), tf.fill((64, 64, 1), 200.0), tf.zeros((64, 32, 1))], 1)
    found = pipelines.resize_and_crop(wide, (56, 56, 1))  # scaled by 1, and the middle cut out
    assert (found.shape, found.dtype) == ((56, 56, 1), tf.uint8)
    np.testing.assert_array_equal(found, 200)


SIZED = [name for name in recipe.NAMES if recipe.find(name).takes_image_size]


@pytest.mark.parametrize("name", SIZED)
def test_image_sizes_reach_the_images_and_the_model(name):
    found = recipe.find(name)
    options = found.options(smoke=True, image_size=24)
    variant = found.variants(options)[0]
    data = found.load_data(options, variant)
    served = {"train": data.train(0), "test": data.test}
    parts = {part: next(dataset.as_numpy_iterator())[0] for part, dataset in served.items()}
    (parts["calibration"],) = next(data.calibration(1).as_numpy_iterator()).values()
    shape = (24, 24, data.input_shape[-1])
    assert {part: x.shape[1:] for part, x in parts.items()} == dict.fromkeys(parts, shape)
    assert parts["test"].dtype == parts["calibration"].dtype == np.uint8
    assert found.build_model(data, options, variant).image_shape == shape


def test_images_of_one_size_are_scaled_whole():
    original = recipe.find("gcnn").options(smoke=True)
    images = [
        next(pipelines.images(dataclasses.replace(original, image_size=size)).test.as_numpy_iterator())[0]
        for size in (None, 14, 56)
    ]
    halves = images[0].reshape(-1, 14, 2, 14, 2, 1).mean((2, 4))
    assert np.abs(images[1] - halves).mean() < 8  # the op has a wider filter: 5.7 of 255, and of a cut one 53.8
    np.testing.assert_allclose(images[2].mean((1, 2)), images[0].mean((1, 2)), atol=1)


def test_a_run_at_another_image_size_can_be_exported_and_evaluated(tmp_path):
    run = tmp_path / "run"
    report = commands.train("cnn", output=run, smoke=True, image_size=20, epochs=1)
    assert report["command"].endswith("--image-size 20 --smoke")
    file = commands.export(run)["path"]
    assert commands.evaluate(file)["value"] == commands.evaluate(run)["value"] == report["value"]


def test_folds_test_every_row_once():
    found = recipe.find("mlp")
    options = found.options()
    parts = [found.load_data(options, variant) for variant in found.tasks["breast_cancer"].variants]
    rows = np.concatenate([data.arrays["x_test"] for data in parts])
    assert len(rows) == 569 == len(np.unique(rows, axis=0))
    for data in parts:
        assert data.num_train + data.num_test == 569
        assert np.mean(data.arrays["y_test"]) == pytest.approx(357 / 569, abs=0.005)
        train, test = ({row.tobytes() for row in data.arrays[key]} for key in ("x_train", "x_test"))
        assert not train & test
    seen = np.concatenate([x for x, _ in parts[0].train(tf.constant(0))])
    assert len(seen) == len(np.unique(seen, axis=0)) == 32 * (parts[0].num_train // 32)


def test_accuracy_counts_every_test_example():
    found = recipe.find("cnn")
    data = found.load_data(found.options(smoke=True), "lenet5")
    labels = np.concatenate([y for _, y in data.test.as_numpy_iterator()])

    def always_three(name, images):
        assert (name, images.dtype) == ("classify", np.uint8)
        return {"probabilities": np.eye(10)[np.full(len(images), 3)]}

    assert len(labels) == recipe.SMOKE_TEST
    assert pipelines.accuracy(always_three, data) == np.mean(labels == 3)


def test_recipes_say_what_they_reach():
    """The header of a recipe has the parts that make it a recipe, in one order, with the aim that its task has."""
    for name in recipe.NAMES:
        module = importlib.import_module(f"keras_dl.recipes.{name}")
        parts = re.findall(r"^(\w+):  +(.+)$", module.__doc__, re.MULTILINE)
        assert [part for part, _ in parts][:6] == ["Paper", "Data", "Command", "Aim", "Baseline", "Reaches"], name
        texts = dict(parts)
        assert texts["Command"].startswith(f"keras-dl train {name}")
        aim = next(iter(module.RECIPE.tasks.values())).aim
        assert {f"{aim:g}", f"{100 * aim:g}%"} & set(re.findall(r"[\d.]*\d%?", texts["Aim"])), (name, aim)
        assert keras.saving.get_registered_object(f"keras_dl>{module.RECIPE.model}")
