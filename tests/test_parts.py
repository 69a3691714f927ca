"""What one of several readers prepares of each batch: its rows of whole batches, or rows of its own files."""

import contextlib
import json
import os
import subprocess

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_dl.processes import python
from keras_dl.recipes.training import cluster, folder, pipelines, recipe
from keras_dl.recipes.training.recipe import Data, OptionError, Options, Part

ROWS, BATCH = 42, 8
SECONDS = 1800  # of a busy machine


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    """Images that hold their number, in four files."""
    features = {"image": tfds.features.Image(shape=(2, 2, 1)), "label": tfds.features.ClassLabel(num_classes=ROWS)}

    def rows(count):
        return tf.data.Dataset.range(count).map(
            lambda i: {"image": tf.fill((2, 2, 1), tf.cast(i, tf.uint8)), "label": i}
        )

    return tfds.dataset_builders.store_as_tfds_dataset(
        name="numbered",
        version="1.0.0",
        data_dir=tmp_path_factory.mktemp("tfds"),
        features=tfds.features.FeaturesDict(features),
        split_datasets={"train": rows(ROWS), "test": rows(4)},
        download_config=tfds.download.DownloadConfig(num_shards=4),
        disable_shuffling=True,
    )


@pytest.fixture
def data(builder, monkeypatch):
    monkeypatch.setattr(pipelines, "open_dataset", lambda options: builder)
    monkeypatch.setattr(pipelines, "origin", lambda builder: dict(dataset="numbered", version="1", licence="none"))

    def noisy(image, seed):
        return tf.cast(image, tf.float32) + tf.random.stateless_uniform(image.shape, seed) / 2

    return pipelines.images(Options("cnn", "numbered", 3, BATCH), noisy)


def read(data, epoch, part):
    return [(x, y) for x, y in data.train(tf.constant(epoch), part=part).as_numpy_iterator()]


@pytest.mark.parametrize("readers", [2, 4])
def test_rows_of_whole_batches(data, readers):
    """Together, the readers have the batches of one, augmented by the same random numbers."""
    whole = list(data.train(tf.constant(1)).as_numpy_iterator())
    parts = [read(data, 1, Part(i, readers)) for i in range(readers)]
    assert [len(part) for part in parts] == [len(whole)] * readers == [ROWS // BATCH] * readers
    for step, batch in enumerate(whole):
        for column, expected in enumerate(batch):
            found = np.concatenate([part[step][column] for part in parts])
            np.testing.assert_array_equal(found, expected)


def test_rows_of_own_files(data):
    epochs = [[read(data, epoch, Part(i, 2, own_files=True)) for i in range(2)] for epoch in (0, 1, 0)]
    labels = [[np.concatenate([y for _, y in part]) for part in parts] for parts in epochs]
    for first, second in labels:
        assert len(first) == len(second) == ROWS // BATCH * BATCH // 2
        assert len({*first, *second}) == len(first) + len(second), "each row once"
        assert max(first) < min(second), "each has its own files"
    assert not np.array_equal(labels[0][0], labels[1][0])
    for (x, y), (again, labels_again) in zip(epochs[0][1], epochs[2][1], strict=True):
        np.testing.assert_array_equal(x, again)
        np.testing.assert_array_equal(y, labels_again)


def test_files_of_others_are_not_needed(data, builder):
    """A worker reads its part on a machine that has no other file of the training."""
    expected = read(data, 0, Part(1, 2, own_files=True))
    others = sorted(builder.data_path.glob("*train*"))[:2]
    assert len(sorted(builder.data_path.glob("*train*"))) == 4
    with contextlib.ExitStack() as held:
        for path in others:
            away = path.with_name(f"{path.name}.away")
            path.rename(away)
            held.callback(away.rename, path)
        data = pipelines.images(Options("cnn", "numbered", 3, BATCH))
        found = read(data, 0, Part(1, 2, own_files=True))
        assert [y.tolist() for _, y in found] == [y.tolist() for _, y in expected]
        with pytest.raises(tf.errors.NotFoundError):
            read(data, 0, Part(0, 2, own_files=True))


class Four(cluster.Alone):
    """Four workers with two replicas each."""

    index, workers, replicas = 2, 4, 8


def data_that_divides(how):
    return Data(*[None] * 2, 64, 8, "images", "1", "none", None, (), (), "", divides=how)


def test_what_cannot_be_read():
    found = recipe.find("cnn")
    alone, four = cluster.Alone(), Four()
    sharded = found.options(shards=True)
    for team, options, how, addresses, message in (
        (alone, sharded, "files", (), "--shards is for --distribute multi_worker"),
        (four, sharded, "rows", (), "--shards: cnn reads all files of images"),
        (four, sharded, "files", ("a",), "--shards and --data-service exclude each other"),
        (alone, found.options(), "", ("a", "b"), "is given 2 times, and cnn on images prepares whole batches"),
        (four, found.options(batch_size=12), "", (), "--batch-size 12 must be a multiple of the 8 replicas"),
        (four, found.options(batch_size=40), "rows", ("a", "b", "c", "d"), r"a multiple of 16, .* services, 4 x 4"),
    ):
        with pytest.raises(OptionError, match=message):
            cluster.check_reading(found, options, data_that_divides(how), team, addresses)
    cluster.check_reading(found, found.options(batch_size=16, shards=True), data_that_divides("files"), four)


def test_part_of_a_worker():
    options = recipe.find("cnn").options(shards=True)
    assert cluster.part_of(data_that_divides("files"), options, Four()) == Part(2, 4, True)
    assert cluster.part_of(data_that_divides(""), options, Four()) is None
    assert cluster.part_of(data_that_divides("rows"), options, cluster.Alone()) is None


def test_as_many_workers_as_before(tmp_path):
    """With shards, another number of workers would read other rows."""
    options = recipe.find("cnn").options(shards=True)
    with folder.open_run(tmp_path / "run", options) as run:
        folder.note_replicas(run, 2, 2)
    with folder.open_run(tmp_path / "run", options, resume=True) as run:
        folder.note_replicas(run, 4, 2)
        with pytest.raises(OptionError, match="trained by 2 workers with --shards, and these are 3"):
            folder.note_replicas(run, 3, 3)


@pytest.mark.slow  # two data sets are built
@pytest.mark.parametrize(("name", "dataset"), [("yolo", None), ("fcn", None)])
def test_rows_of_scenes(name, dataset):
    """Mosaics of four images, and images with a class for each pixel."""
    found = recipe.find(name)
    options = found.options(dataset, smoke=True, batch_size=8)
    data = found.load_data(options, found.variants(options)[0])
    assert data.divides == "rows"
    whole = list(data.train(tf.constant(0)).take(2).as_numpy_iterator())
    parts = [list(data.train(tf.constant(0), part=Part(i, 2)).take(2).as_numpy_iterator()) for i in range(2)]
    for step, batch in enumerate(whole):
        halves = [tf.nest.flatten(part[step]) for part in parts]
        for expected, *found in zip(tf.nest.flatten(batch), *halves, strict=True):
            np.testing.assert_array_equal(np.concatenate(found), expected)


@pytest.mark.slow  # two processes that import everything, and a training
def test_workers_with_shards(tmp_path):
    """Each of two workers trains on its own part of the files."""
    command = ("launch", "--workers", "2", "train", "cnn", "--smoke", "--batch-size", "32", "--shards")
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    command = python("-m", "keras_dl", *command, "--output", tmp_path / "run")
    subprocess.run(command, check=True, env=environment, timeout=SECONDS)
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert report["replicas"] == 2
    assert report["command"].endswith("--shards --smoke --distribute multi_worker")
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert (record["workers"], record["options"]["shards"]) == (2, True)
