"""A detector that is as small as can be, for the tests of what all detectors share."""

import keras
import tensorflow as tf

from keras_dl.arguments import ImageShape, Size, arguments
from keras_dl.models.detection.detector import Detector
from keras_dl.ops import detections

SIDE, CELLS = 32, 16


@keras.saving.register_keras_serializable(package="toy_detector")
class Toy(Detector):
    """One box for each cell of 8 x 8 pixels: the cell itself, moved by nothing."""

    loss_names = ("box", "class")

    @arguments
    def __init__(
        self, image_shape: ImageShape = (SIDE, SIDE, 3), num_classes: Size = 3, max_detections: Size = 5, **kwargs
    ):
        super().__init__(**kwargs)
        images = keras.Input(image_shape)
        maps = keras.layers.Conv2D(8, 8, 8, activation="relu")(keras.layers.Rescaling(1 / 255)(images))
        outputs = {name: keras.layers.Conv2D(n, 1)(maps) for name, n in (("sizes", 4), ("logits", num_classes))}
        self.net = keras.Model(images, outputs)
        self._hold(num_classes)

    def call(self, images, training=False):
        return self.net(images, training=training)

    def postprocess(self, sizes, logits):
        corners = tf.stack(tf.meshgrid(*[tf.range(0.0, SIDE, 8.0)] * 2), axis=-1)
        corners = tf.reshape(corners, (1, CELLS, 2)) + 0 * tf.reshape(sizes, (-1, CELLS, 4))[..., :2]
        boxes = tf.concat([corners, corners + 8.0], axis=-1)
        scores = tf.sigmoid(tf.reshape(logits, (-1, CELLS, self.num_classes)))
        return detections(boxes, scores, iou_threshold=0.5, score_threshold=0.1, max_boxes=self.max_detections)

    def detection_losses(self, outputs, images, targets, training):
        known = tf.cast(targets["classes"] >= 0, "float32")
        return {
            "box": tf.reduce_mean(outputs["sizes"] ** 2) + tf.reduce_sum(known[..., None] * targets["boxes"]) / 1e3,
            "class": tf.reduce_mean(outputs["logits"] ** 2),
        }
