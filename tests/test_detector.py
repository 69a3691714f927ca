"""The base of detectors, by one that is as small as can be: what it logs, checks, detects and serves."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from toy_detector import SIDE, Toy

from keras_dl.export import export, load
from keras_dl.metrics import CocoCallback, coco_scores


def images(count=4):
    return np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3)).astype("float32")


def targets(boxes=(1, 1, 9, 9), label=1, count=4):
    """Each image holds one object, and one slot of none, whose numbers count for nothing."""
    boxes = np.tile(np.float32([boxes, (np.nan, 0, 0, 0)]), (count, 1, 1))
    return {"boxes": boxes, "classes": np.tile(np.int32([label, -1]), (count, 1))}


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    model = Toy()
    model.compile("adam", jit_compile=True)
    return model


def test_a_log_has_each_loss_and_their_sum_in_training_and_validation(model):
    logs = model.fit(images(), targets(), verbose=0, validation_data=(images(), targets())).history
    for prefix in ("", "val_"):
        parts = [logs[f"{prefix}{name}_loss"][0] for name in Toy.loss_names]
        assert logs[f"{prefix}loss"][0] == pytest.approx(sum(parts), rel=1e-6)
        assert np.isfinite(parts).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(label=3), r"hold 3; they must be in \[0, 3\)"),
        (dict(label=-2), r"hold -2"),
        (dict(boxes=(9, 1, 1, 9)), "hold 4 boxes that are not finite or not left, top, right, bottom"),
        (dict(boxes=(1, 1, np.inf, 9)), "hold 4 boxes"),
    ],
)
def test_wrong_targets_are_refused_and_leave_no_nan(model, wrong, message):
    for run in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=message):
            run(images(), targets(**wrong), verbose=0)
        assert all(np.isfinite(w).all() for w in model.get_weights())
    model.fit(images(), targets(), verbose=0)  # the fault of the data before is forgotten


def test_a_wrong_target_after_the_first_batch_is_refused(model):
    wrong = targets(count=12)
    wrong["classes"][-1, 0] = 7
    with pytest.raises(ValueError, match="hold 7"):
        model.fit(images(12), wrong, batch_size=4, shuffle=False, verbose=0)


def test_what_is_no_dict_of_targets_is_refused(model):
    with pytest.raises(ValueError, match="targets a dict of boxes, classes; targets: classes"):
        model.fit(images(), {"classes": targets()["classes"]}, verbose=0)
    with pytest.raises(ValueError, match=r"must be \(batch, slots, 4\)"):
        model.fit(images(), targets() | {"boxes": np.zeros((4, 2, 5))}, verbose=0)
    for wrong in (np.zeros((4, 1), int), np.zeros((4, 3), int)):  # one slot would count for both
        with pytest.raises(ValueError, match=r"targets\['classes'\] \(.*, [13]\); they must be \(batch, slots, 4\)"):
            model.fit(images(), targets() | {"classes": wrong}, verbose=0)
    with pytest.raises(ValueError, match="sample_weight"):
        model.fit(images(), targets(), sample_weight=np.ones(4), verbose=0)


@pytest.mark.parametrize("slots", [0, None], ids=["no slot", "unknown slots"])
def test_a_batch_without_an_object_may_have_no_slot(model, slots):
    def batch():
        yield images(), {"boxes": np.zeros((4, 0, 4), "float32"), "classes": np.zeros((4, 0), "int32")}

    specs = {"boxes": tf.TensorSpec((4, slots, 4)), "classes": tf.TensorSpec((4, slots), tf.int32)}
    data = tf.data.Dataset.from_generator(batch, output_signature=(tf.TensorSpec((4, SIDE, SIDE, 3)), specs))
    model.compile("adam", jit_compile=False)
    assert np.isfinite(model.evaluate(data, verbose=0)).all()


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ((0.1, 0.1, 0.9, 1.0), "within one pixel; they must be in pixels"),
        ((1, 1, 9, SIDE + 2), f"hold 4 boxes that reach outside of the images of {SIDE} x {SIDE} pixels"),
        ((-2, 1, 9, 9), "hold 4 boxes that reach outside"),
    ],
)
def test_boxes_in_another_unit_are_warned_of(model, boxes, message):
    model.compile("adam", jit_compile=False)
    with pytest.warns(UserWarning, match=message):
        model.fit(images(), targets(boxes), verbose=0)


def test_boxes_of_rounded_sides_are_not_warned_of(model):
    model.compile("adam", jit_compile=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.fit(images(), targets((-0.5, 0, SIDE, SIDE + 0.5)), verbose=0)


def test_pixels_of_another_range_are_warned_of_or_refused(model):
    with pytest.warns(UserWarning, match=r"raw pixels in \[0, 255\]"):
        model.fit(images() / 255, targets(), verbose=0)
    for wrong, message in ((images() - 128, "from -128"), (images() * np.nan, "finite")):
        fresh = Toy()
        fresh.compile("adam")
        with pytest.raises(ValueError, match=message):
            fresh.fit(wrong, targets(), verbose=0)


def test_detections_are_the_same_in_the_model_and_after_reloading(model, tmp_path):
    found = model.detect(images().astype("uint8"))
    assert found.boxes.shape == (4, 5, 4)
    model.save(tmp_path / "toy.keras")
    for a, b in zip(found, keras.models.load_model(tmp_path / "toy.keras").detect(images()), strict=True):
        np.testing.assert_array_equal(a, b)
    model.max_detections = 3  # a graph has been traced for five
    assert model.detect(images()).boxes.shape == (4, 3, 4)
    with pytest.raises(ValueError, match=r"\(4, 16, 32, 3\); it must be \('batch', 32, 32, 3\)"):
        model.detect(images()[:, :16])


def test_average_precision_in_a_training_and_of_a_file(model, tmp_path):
    model.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    found = model.detect(images())
    truth = {"boxes": found.boxes.numpy()[:, 1:], "classes": found.classes.numpy()[:, 1:]}  # all but the best
    data = [(images().astype("uint8"), truth)]
    callback = CocoCallback(data, num_classes=3)
    history = model.fit(images(), targets(), epochs=2, verbose=0, callbacks=[callback]).history
    scores = coco_scores(model.detect, data, 3)
    assert len(history["val_box_AP"]) == 2
    assert 0 < history["val_box_AP"][-1] == scores["box_AP"] < 1
    export(model, tmp_path / "toy.tflite", signatures="detect")  # of one image; the file serves four, one by one
    file = load(tmp_path / "toy.tflite")
    assert coco_scores(lambda images: file.serve("detect", images=images), data, 3) == scores


def test_the_parts_that_are_served_make_the_whole(model):
    served = model.serving_signatures(2)
    assert {name: x.detections for name, x in served.items()} == dict(detect=True, raw=False, postprocess=True)
    pair = images(2).astype("uint8")
    whole = served["detect"].function(images=pair)
    assert list(whole) == ["boxes", "scores", "classes", "count"]
    outputs = served["raw"].function(images=pair)
    assert {n: x.shape for n, x in served["postprocess"].inputs.items()} == {n: x.shape for n, x in outputs.items()}
    for name, x in served["postprocess"].function(**outputs).items():
        np.testing.assert_array_equal(x, whole[name])
