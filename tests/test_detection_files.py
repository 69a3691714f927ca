"""Detection in files: suppression is one builtin op, and Keras, LiteRT and ONNX keep the same boxes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dl import Signature
from keras_dl.export import KerasRunner, export, inspect, load
from keras_dl.ops.masks import paste_masks
from keras_dl.ops.nms import detections
from keras_dl.ops.roi_align import roi_align

SIDE, BOXES, CLASSES = 16, 30, 3


class Detector(keras.Model):
    """Boxes and scores that depend on the image, and all that is done with them."""

    def __init__(self):
        super().__init__(name="detector")
        self.net = keras.Sequential(
            [
                keras.Input((SIDE, SIDE, 1)),
                keras.layers.Rescaling(1 / 255),
                keras.layers.Conv2D(4, 3, padding="same", activation="relu"),
            ]
        )
        self.coarse = keras.layers.AveragePooling2D(2)
        self.head = keras.layers.Dense(BOXES * (4 + CLASSES))
        self.head.build((None, SIDE * SIDE * 4))
        self.built = True

    def call(self, images):
        features = self.net(tf.cast(images, "float32"))
        outputs = self.head(tf.reshape(features, (-1, SIDE * SIDE * 4)))
        outputs = tf.reshape(outputs, (-1, BOXES, 4 + CLASSES))
        center, size = 8 + 8 * tf.tanh(outputs[:, :, :2]), 3 + 2 * tf.tanh(outputs[:, :, 2:4])
        return features, tf.concat([center - size, center + size], -1), tf.sigmoid(outputs[:, :, 4:])

    def detect(self, images):
        _, boxes, scores = self(images)
        return detections(boxes, scores, iou_threshold=0.3, score_threshold=0.4, max_boxes=8, candidates=20)._asdict()

    def pool(self, images):
        features, boxes, _ = self(images)
        maps = [features, self.coarse(features)]
        options = dict(size=3, strides=(1, 2), canonical_side=6.0, canonical_level=1)
        pooled = {form: roi_align(maps, boxes[:, :5], form=form, **options) for form in ("gather", "matrix")}
        masks = tf.reshape(tf.reduce_mean(pooled["gather"], -1), (-1, 5, 3, 3))
        return pooled | {"pasted": paste_masks(masks, boxes[:, :5], (SIDE, SIDE))}

    def serving_signatures(self, batch_size=1):
        inputs = {"images": keras.KerasTensor((batch_size, SIDE, SIDE, 1), "uint8", name="images")}
        return {"detect": Signature(self.detect, inputs), "pool": Signature(self.pool, inputs)}


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return Detector()


@pytest.fixture(scope="module")
def images():
    """The last one is black: all of its boxes and scores are equal."""
    images = np.random.default_rng(0).integers(0, 256, (6, 2, SIDE, SIDE, 1), "uint8")
    images[-1] = 0
    return images


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    """The runner of each signature by format."""
    folder = tmp_path_factory.mktemp("files")
    export(model, folder / "both.tflite", batch_size=2)
    for name in ("detect", "pool"):
        export(model, folder / f"{name}.onnx", format="onnx", batch_size=2, signatures=name)
    litert = load(folder / "both.tflite")
    return {
        "litert": {"detect": litert, "pool": litert},
        "onnx": {name: load(folder / f"{name}.onnx") for name in ("detect", "pool")},
        "path": folder / "both.tflite",
    }


@pytest.mark.parametrize("format", ["litert", "onnx"])
def test_files_detect_as_keras(model, images, files, format):
    keras_runner, counts = KerasRunner(model, 2), set()
    for pair in images:
        found, expected = (x.serve("detect", images=pair) for x in (files[format]["detect"], keras_runner))
        for name in ("count", "classes"):
            np.testing.assert_array_equal(found[name], expected[name])
        for name in ("boxes", "scores"):
            np.testing.assert_allclose(found[name], expected[name], atol=1e-4)
        counts |= set(found["count"].tolist())
    assert len(counts) > 1


@pytest.mark.parametrize("format", ["litert", "onnx"])
def test_files_pool_and_paste_as_keras(model, images, files, format):
    keras_runner = KerasRunner(model, 2)
    found, expected = (x.serve("pool", images=images[0]) for x in (files[format]["pool"], keras_runner))
    for name in ("gather", "matrix", "pasted"):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-4)
    np.testing.assert_allclose(found["gather"], found["matrix"], atol=1e-4)


def test_suppression_is_one_builtin_op_for_each_image(files):
    ops = inspect(files["path"])["ops"]
    assert ops["NON_MAX_SUPPRESSION_V4"] == 2
    assert not any("WHILE" in op or "Flex" in op for op in ops)
