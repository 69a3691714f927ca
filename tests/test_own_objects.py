"""Own boxes and masks in COCO's JSON: how they are read, what is defined, the pipeline, and what is refused."""

import json
import re

import numpy as np
import own
import pytest
import tensorflow as tf

from keras_dl.files import FileError
from keras_dl.ops import letterbox, letterbox_boxes
from keras_dl.recipes.data import open_data, understand
from keras_dl.recipes.prediction import predict
from keras_dl.recipes.tasks import detection
from keras_dl.recipes.training import commands, recipe
from keras_dl.recipes.training.recipe import OptionError

SHAPE = (32, 48)


def options(name, folder, **others):
    (form,) = recipe.find(name).own
    return recipe.find(name).options(form, data=str(folder), batch_size=2, **others)


def rewrite(folder, document, **changes):
    (folder / "annotations.json").write_text(json.dumps(document | changes))


def test_what_is_read(tmp_path):
    document = own.write_coco(tmp_path)
    first = document["annotations"][0]
    crowd = first | {"id": 90, "iscrowd": 1}
    flat, outside = (first | {"id": i, "bbox": box} for i, box in ((91, [3, 3, 0, 5]), (92, [500, 3, 5, 5])))
    beyond = first | {"id": 93, "image_id": 4, "bbox": [-5, 30, 20, 100]}
    rewrite(tmp_path, document, annotations=[*document["annotations"], crowd, flat, outside, beyond])
    data = open_data(tmp_path)
    assert (data.form, data.labels, data.counts) == ("boxes", ("wide", "tall"), {"train": 8, "test": 2})
    rows = {}
    for split, columns in data.splits.items():
        for values in zip(*columns.values(), strict=True):
            row = dict(zip(columns, values, strict=True))
            rows[row["image/filename"]] = row | {"split": split}
    assert len(rows) == 10
    for entry in document["annotations"]:
        x, y, w, h = entry["bbox"]
        row = rows[f"{entry['image_id']:03d}.png"]
        assert row["boxes"][0].tolist() == [x, y, x + w, y + h]
        assert data.labels[row["classes"][0]] == ("tall" if entry["category_id"] == 7 else "wide")
    assert rows["000.png"]["crowd"].tolist() == [False, True]
    assert rows["004.png"]["boxes"].tolist() == [[0, 30, 15, 44]]
    assert rows["009.png"]["boxes"].shape == (0, 4)
    assert data.notes == [
        "2 boxes without an area in their image are left out",
        "1 images without an object",
        "1 categories have no object, and are no classes",
    ]
    found = understand(tmp_path)
    assert found["recipes"] == ["yolo", "faster_rcnn", "detr"]
    assert sum(sum(counts.values()) for counts in found["classes"].values()) == 9
    assert found["facts"]["objects"] == "10, at most 2 in an image"


def test_the_pipeline_gives_boxes_and_masks_of_the_letterbox(tmp_path):
    own.write_coco(tmp_path)
    for name, masks in (("yolo", False), ("mask_rcnn", True)):
        data = detection.objects(options(name, tmp_path, image_size=48), SHAPE, 0, masks=masks)
        assert (data.num_train, data.num_test, data.labels) == (8, 2, ("wide", "tall"))
        rows = open_data(tmp_path).splits["test"]
        ((images, targets),) = data.test.as_numpy_iterator()
        assert (images.shape, images.dtype) == ((2, *SHAPE, 3), np.uint8)
        for i, path in enumerate(rows["image"]):
            whole = tf.io.decode_image(tf.io.read_file(path))
            expected = np.asarray(letterbox(whole, SHAPE))
            assert np.abs(images[i] - np.float32(expected)).max() <= 1
            count = len(rows["classes"][i])
            boxes = letterbox_boxes(rows["boxes"][i], tuple(rows["sides"][i]), SHAPE)
            np.testing.assert_allclose(targets["boxes"][i][:count], boxes, atol=1e-3)
            assert targets["classes"][i].tolist() == [*rows["classes"][i], *[-1] * (1 - count)]
        batches = list(data.train(tf.constant(0)).as_numpy_iterator())
        assert len(batches) == 4
        if not masks:
            continue
        seen = 0
        for _, targets in batches:
            for boxes, classes, numbers in zip(
                *(targets[k] for k in ("boxes", "classes", "instance_map")), strict=True
            ):
                assert (numbers.max() == 1) == (classes[0] >= 0)
                if classes[0] >= 0:
                    seen += 1
                    ys, xs = np.nonzero(numbers)
                    np.testing.assert_allclose([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], boxes[0], atol=1)
        assert seen == sum(len(classes) for classes in open_data(tmp_path).splits["train"]["classes"])
        assert len(list(data.calibration(3))) == 3


def test_splits_as_coco_and_as_roboflow_have_them(tmp_path):
    for split, start in (("train", 0), ("valid", 10)):
        folder = tmp_path / "flat" / split
        own.write_coco(folder, 5, start=start, name="_annotations.coco.json", images=".")
    assert open_data(tmp_path / "flat").counts == {"train": 5, "test": 5}
    for split, start in (("train", 0), ("val", 10)):
        own.write_coco(tmp_path / "coco", 5, start=start, name=f"instances_{split}2017.json")
    data = open_data(tmp_path / "coco")
    assert data.counts == {"train": 5, "test": 5}
    assert {path.rsplit("/", 1)[1][:2] for path in data.splits["test"]["image"]} == {"01"}
    assert data.how == "as the files have it"


@pytest.mark.slow  # a detector is traced three times
@pytest.mark.parametrize(("name", "form"), [("yolo", "boxes"), ("detr", "boxes"), ("mask_rcnn", "instances")])
def test_from_annotations_to_an_answer(name, form, tmp_path):
    own.write_coco(tmp_path / "boxes", 40)
    run = tmp_path / "run"
    report = commands.train(name, data=tmp_path / "boxes", output=run, image_size=64, jit="off", smoke=True)
    assert (report["labels"], report["image_size"], report["form"]) == (["wide", "tall"], 64, form)
    file = commands.export(run)["path"]
    assert commands.evaluate(file)["value"] == pytest.approx(report["value"], abs=0.05)
    (answer,) = predict(file, [tmp_path / "boxes/images/000.png"])
    assert {o["label"] for o in answer["objects"]} <= {"wide", "tall"}


def test_only_the_name_of_a_path_of_another_machine_counts(tmp_path):
    document = own.write_coco(tmp_path / "data")
    (tmp_path / "secret.png").write_bytes((tmp_path / "data/images/000.png").read_bytes())
    for i, name in enumerate(("/home/someone/000.png", "C:\\labels\\001.png")):
        document["images"][i]["file_name"] = name
    rewrite(tmp_path / "data", document)
    found = {path.rsplit("/", 1)[1] for part in open_data(tmp_path / "data").splits.values() for path in part["image"]}
    assert found == {f"{i:03d}.png" for i in range(10)}
    document["images"][0]["file_name"] = "../secret.png"
    rewrite(tmp_path / "data", document)
    with pytest.raises(FileError, match=r"names the image \.\./secret\.png, which is not there"):
        open_data(tmp_path / "data")


def missing_image(document):
    document["images"].append({"id": 99, "file_name": "nowhere.png"})


def other_size(document):
    document["images"][3]["width"] = 7


def twice(document):
    document["images"].append(document["images"][0])


def unknown_image(document):
    document["annotations"][0]["image_id"] = 77


def unknown_category(document):
    document["annotations"][0]["category_id"] = 1


def no_number(document):
    document["annotations"][0]["bbox"] = [1, 2, None, 4]


def shares(document):
    for entry in document["annotations"]:
        entry["bbox"] = [0.1, 0.1, 0.2, 0.3]


def no_objects(document):
    document["annotations"] = []


def no_categories(document):
    del document["categories"]


def no_mask(document):
    document["annotations"][2]["segmentation"] = []


def half_a_point(document):
    document["annotations"][2]["segmentation"] = [[1, 2, 3, 4, 5]]


@pytest.mark.parametrize(
    ("spoil", "form", "message"),
    [
        (missing_image, "boxes", r"names the image nowhere.png, which is not there. It was looked for in .*images"),
        (other_size, "boxes", r"003.png has 43 x 57 pixels, and annotations.json says 43 x 7"),
        (twice, "boxes", "has two images with the id 0"),
        (unknown_image, "boxes", "has the annotation 0 of the image 77, which it does not list"),
        (unknown_category, "boxes", "has the annotation 0 of the category 1, which it does not list"),
        (no_number, "boxes", r"has the annotation 0 of 000.png with the bbox \[1, 2, None, 4\]"),
        (shares, "boxes", "has boxes within one pixel. COCO's are in pixels"),
        (no_objects, "boxes", "has no object with a box that has an area"),
        (no_categories, "boxes", "it has no 'categories'"),
        (no_mask, "instances", "has the annotation 2 of 002.png without a segmentation"),
        (half_a_point, "instances", "has the annotation 2 of 002.png with a wrong segmentation"),
    ],
)
def test_what_is_wrong_is_named(spoil, form, message, tmp_path):
    document = own.write_coco(tmp_path)
    spoil(document)
    rewrite(tmp_path, document)
    with pytest.raises(FileError, match=message):
        open_data(tmp_path, form)


def test_no_json_and_wrong_sizes_are_named(tmp_path):
    own.write_coco(tmp_path)
    with pytest.raises(OptionError, match="does not have a form that cnn takes"):
        commands.train("cnn", data=tmp_path, output=tmp_path / "run")
    (tmp_path / "annotations.json").write_text('{"images": [')
    with pytest.raises(FileError, match=re.escape("annotations.json is not COCO's JSON of annotations")):
        open_data(tmp_path)
