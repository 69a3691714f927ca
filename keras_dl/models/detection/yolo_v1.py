"""YOLO of 2015: one net that sees the whole image, and says of each cell of a grid which object has its center there.

    24 convolutions and 4 poolings, of stride 64 -> 4,096 units -> for each of S x S cells:
        B boxes x, y, sqrt(w), sqrt(h), with a confidence each; C probabilities of classes

`x` and `y` are relative to the cell, `w` and `h` to the image. A score of a box is its confidence times the probability
of the class. All outputs are linear, and the loss is a sum of squares, the mean over the images of

    5 sum_responsible (x - x')^2 + (y - y')^2 + (sqrt w - sqrt w')^2 + (sqrt h - sqrt h')^2
    + sum_responsible (c - IoU)^2 + 1/2 sum_others c^2 + sum_cells with an object sum_classes (p - p')^2

Of the boxes of a cell with an object, the one with the highest IoU is responsible; if none overlaps, the one with the
least distance of x, y, w, h. The target of its confidence is its IoU, which has no gradient.

The net predicts the square roots themselves: the root of a linear output would be NaN below 0. A cell learns one
object: of several with their center there the first, as `lost_objects` counts.

Reference: Redmon, Divvala, Girshick, Farhadi 2015, "You Only Look Once: Unified, Real-Time Object Detection",
arXiv:1506.02640, fig. 3, section 2.2, eq. 3. What the paper leaves open is that of darknet (public domain): roots that
are predicted, the distance where no box overlaps, and the IoU as the target.

Deviations:
- Classes, confidences and boxes come from three layers, so that they share no scale in int8. They have as many weights
  as the paper's one layer.
- The paper sets S = 7 for images of 448 x 448. Here S is a 64th of the sides.
- Convolutions start at He's normal distribution. The paper starts from weights of ImageNet: see `load_trunk`.
- Fast YOLO, with 9 convolutions, is not among the presets: the paper does not print its filters.
"""

import warnings

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from keras_dl.arguments import ImageShape, NumberIn, Positive, PositivePerChannel, Rate, Size, arguments
from keras_dl.layers.pixels import PixelNormalization
from keras_dl.models.detection.class_weights import checked_class_weights
from keras_dl.models.detection.detector import Detector
from keras_dl.ops import box_iou, clip_boxes, cxcywh_to_xyxy, detections, grid_points, xyxy_to_cxcywh

STRIDE = 64
POOL = None
# Fig. 3: filters and kernel size, and where maps are pooled. The first convolution has stride 2, and so has the 22nd.
CONVOLUTIONS = (
    *((64, 7), POOL),
    *((192, 3), POOL),
    *((128, 1), (256, 3), (256, 1), (512, 3), POOL),
    *((256, 1), (512, 3)) * 4,
    *((512, 1), (1024, 3), POOL),
    *((512, 1), (1024, 3)) * 2,
    *((1024, 3), (1024, 3), (1024, 3), (1024, 3)),
)
STRIDED = (1, 22)
TRUNK = 20  # convolutions that are trained on ImageNet first

PRESETS = {"redmon2015_voc": dict(image_shape=(448, 448, 3), num_classes=20)}  # 271,703,550 parameters


def trunk(images, width, slope, convolutions):
    """The first convolutions, called `conv_1` and so on: maps."""
    maps = PixelNormalization(127.5, 127.5, name="pixels")(images)  # [-1, 1]
    number = 0
    for entry in CONVOLUTIONS:
        if number == convolutions:
            break
        if entry is POOL:
            maps = layers.MaxPooling2D(2)(maps)
            continue
        number += 1
        filters, size = entry
        strides = 2 if number in STRIDED else 1
        if strides > 1:
            maps = layers.ZeroPadding2D(size // 2)(maps)
        maps = layers.Conv2D(  # (batch, height / stride, width / stride, filters)
            max(round(filters * width), 1),
            size,
            strides,
            padding="valid" if strides > 1 else "same",
            kernel_initializer="he_normal",
            name=f"conv_{number}",
        )(maps)
        maps = layers.LeakyReLU(slope, name=f"conv_{number}_relu")(maps)
    return maps


def pretraining_classifier(image_shape=(224, 224, 3), num_classes=1000, width=1.0, slope=0.1) -> keras.Model:
    """The net that the paper trains on ImageNet first: 20 convolutions, the mean of the maps, one dense layer.

    Args:
        image_shape: `(height, width, channels)`.
        num_classes: int.
        width, slope: as of `YOLOv1`.

    Returns:
        `keras.Model` from raw pixels in [0, 255] to logits, whose weights `YOLOv1.load_trunk` takes.

    Example:

    >>> pretraining_classifier().count_params()
    23428136
    """
    images = keras.Input(image_shape, name="images")
    features = layers.GlobalAveragePooling2D(name="features")(trunk(images, width, slope, TRUNK))
    return keras.Model(images, layers.Dense(num_classes, name="head")(features), name="classifier")


@keras.saving.register_keras_serializable(package="keras_dl")
class YOLOv1(Detector):
    """Finds objects in one pass, from one grid of cells.

    Compile it with an optimizer and no loss. The paper has SGD of momentum 0.9 and weight decay 5e-4, batches of 64,
    rates that rise from 1e-3 to 1e-2, 75 epochs in all, then 30 epochs of 1e-3 and 30 of 1e-4.

    Args:
        image_shape: `(height, width, channels)`, sides that are multiples of 64: a cell is 64 pixels wide.
        num_classes: int.
        boxes_per_cell: int.
        width: float. Factor of the numbers of filters.
        hidden_dim: int. Units between the maps and the outputs.
        dropout_rate: float in [0, 1), after these units.
        slope: float in [0, 1], of the leaky rectified linear units.
        box_weight: float, at least 0. Weight of places and sizes.
        empty_weight: float, at least 0. Weight of the confidences of boxes that are not responsible.
        class_weights: float, or one for each class. Factors in the loss of classes, against classes that are rare.
        score_threshold: float in [0, 1]. Detections have higher scores. About 0.2 to look at.
        iou_threshold: float in [0, 1]. Of boxes of a class that overlap more, the best is kept.
        max_detections: int. The slots of detections.

    Call arguments:
        images: `(batch, *image_shape)`, raw pixels in [0, 255].
        training: bool. Whether units are dropped.

    Returns:
        dict of float32: `boxes`, `(batch, rows, columns, boxes_per_cell, 4)`: x and y in cells from the upper left
        corner of the cell, roots of the sides as shares of the image; `confidences`, `(batch, rows, columns,
        boxes_per_cell)`; `classes`, `(batch, rows, columns, num_classes)`.

    Raises:
        ValueError: if an argument is out of its range. By `fit`, if targets or pixels are: see `Detector`.

    Example:

    >>> model = YOLOv1(image_shape=(128, 128, 3), num_classes=2, width=0.05, hidden_dim=16)
    >>> model.detect(np.zeros((1, 128, 128, 3), "uint8")).boxes.shape
    TensorShape([1, 100, 4])

    Reference: see this module.
    """

    presets = PRESETS
    loss_names = ("box", "confidence", "class")

    @arguments
    def __init__(
        self,
        image_shape: ImageShape = (448, 448, 3),
        num_classes: Size = 20,
        boxes_per_cell: Size = 2,
        width: Positive = 1.0,
        hidden_dim: Size = 4096,
        dropout_rate: Rate = 0.5,
        slope: NumberIn(0.0, 1.0) = 0.1,
        box_weight: NumberIn(0.0) = 5.0,
        empty_weight: NumberIn(0.0) = 0.5,
        class_weights: PositivePerChannel = 1.0,
        score_threshold: NumberIn(0.0, 1.0) = 0.001,
        iou_threshold: NumberIn(0.0, 1.0) = 0.5,
        max_detections: Size = 100,
        dtype=None,
        **kwargs,
    ):
        if any(side % STRIDE for side in image_shape[:2]):
            raise ValueError(f"image_shape={image_shape} must have sides that are multiples of {STRIDE}.")
        super().__init__(dtype=dtype, **kwargs)
        self._class_weights = checked_class_weights(class_weights, num_classes)
        images = keras.Input(image_shape, name="images")
        maps = trunk(images, width, slope, len(CONVOLUTIONS))  # (batch, rows, columns, 1024 width)
        rows, columns = maps.shape[1:3]
        hidden = layers.Dense(hidden_dim, name="hidden")(layers.Flatten()(maps))
        hidden = layers.Dropout(dropout_rate, name="dropout")(layers.LeakyReLU(slope, name="hidden_relu")(hidden))
        shapes = dict(boxes=(boxes_per_cell, 4), confidences=(boxes_per_cell,), classes=(num_classes,))
        outputs = {}
        for name, shape in shapes.items():
            shape = (rows, columns, *shape)
            values = layers.Dense(int(np.prod(shape)), dtype="float32", name=name)(hidden)
            outputs[name] = layers.Reshape(shape, dtype="float32", name=f"{name}_of_cells")(values)
        self.net = keras.Model(images, outputs, name="net")
        self.grid = (rows, columns)
        self._hold(num_classes)

    def call(self, images, training=False):
        return self.net(images, training=training)

    def compute_output_shape(self, images_shape):
        return dict(sorted(self.net.compute_output_shape(images_shape).items()))  # in the order of a call

    def decode(self, boxes):
        """Boxes of the net as center and size in pixels: `(batch, rows, columns, boxes_per_cell, 4)`, cxcywh."""
        rows, columns = self.grid
        height, width, _ = self.image_shape
        corners = grid_points(self.grid, STRIDE, offset=0.0).reshape(rows, columns, 1, 2)
        centers = corners + STRIDE * boxes[..., :2]
        return tf.concat([centers, tf.square(boxes[..., 2:]) * np.float32([width, height])], -1)

    def postprocess(self, boxes, confidences, classes):
        boxes, confidences, classes = (tf.cast(x, tf.float32) for x in (boxes, confidences, classes))
        count = self.grid[0] * self.grid[1] * self.boxes_per_cell
        scores = confidences[..., None] * classes[..., None, :]  # (batch, rows, columns, boxes_per_cell, num_classes)
        boxes = tf.reshape(cxcywh_to_xyxy(self.decode(boxes)), (-1, count, 4))
        return detections(
            clip_boxes(boxes, *self.image_shape[:2]),
            tf.reshape(scores, (-1, count, self.num_classes)),
            iou_threshold=self.iou_threshold,
            score_threshold=self.score_threshold,
            max_boxes=self.max_detections,
            several=True,
            smallest_side=1.0,  # a linear output near 0 is a box of no area
        )

    def cells(self, targets):
        """The cell of each object, and the object of each cell.

        Args:
            targets: dict of `boxes` and `classes`, as of `keras_dl.objects`.

        Returns:
            `(cells, objects)`: int32, `(batch, slots)`, the cell that holds the center, row by row, -1 for no object;
            and `(batch, rows * columns)`, the first object of the cell, -1 for none.
        """
        rows, columns = self.grid
        centers = xyxy_to_cxcywh(targets["boxes"])[..., :2] / STRIDE
        column, row = tf.unstack(tf.cast(tf.floor(centers), tf.int32), axis=-1)
        column, row = tf.clip_by_value(column, 0, columns - 1), tf.clip_by_value(row, 0, rows - 1)
        cells = tf.where(targets["classes"] >= 0, row * columns + column, -1)
        held = tf.equal(cells[..., None], tf.range(rows * columns))  # (batch, slots, cells)
        first = tf.argmax(tf.cast(held, tf.int32), axis=1, output_type=tf.int32)
        return cells, tf.where(tf.reduce_any(held, axis=1), first, -1)

    def lost_objects(self, targets) -> int:
        """How many objects of targets are never learned, since another one has its center in their cell. It warns.

        Args:
            targets: dict of `boxes` and `classes`, as of `keras_dl.objects`.
        """
        cells, objects = self.cells(targets)
        known = int(np.sum(np.asarray(cells) >= 0))
        lost = known - int(np.sum(np.asarray(objects) >= 0))
        if lost:
            warnings.warn(
                f"{lost} of {known} objects share a cell of {STRIDE} x {STRIDE} pixels with another one, and a cell "
                "learns one object. Give larger images.",
                stacklevel=2,
            )
        return lost

    def detection_losses(self, outputs, images, targets, training):
        rows, columns = self.grid
        height, width, _ = self.image_shape
        boxes, confidences, classes = (tf.cast(outputs[n], tf.float32) for n in ("boxes", "confidences", "classes"))
        _, objects = self.cells(targets)
        held = tf.reshape(tf.cast(objects >= 0, tf.float32), (-1, rows, columns, 1))
        number = tf.maximum(objects, 0)
        truth = tf.gather(targets["boxes"], number, batch_dims=1)
        truth = tf.reshape(truth, (-1, rows, columns, 1, 4))
        labels = tf.reshape(tf.gather(targets["classes"], number, batch_dims=1), (-1, rows, columns))

        centers = xyxy_to_cxcywh(truth)
        predicted = tf.stop_gradient(self.decode(boxes))  # (batch, rows, columns, boxes_per_cell, 4)
        iou = box_iou(cxcywh_to_xyxy(predicted), truth)
        sides = np.float32([width, height, width, height])
        distance = tf.reduce_sum(tf.square((predicted - centers) / sides), -1)
        overlaps = tf.reduce_max(iou, -1, keepdims=True) > 0
        best = tf.argmax(tf.where(overlaps, iou, -distance), -1, output_type=tf.int32)
        responsible = held * tf.one_hot(best, self.boxes_per_cell)  # (batch, rows, columns, boxes_per_cell)

        corners = grid_points(self.grid, STRIDE, offset=0.0).reshape(rows, columns, 1, 2)
        roots = tf.sqrt(centers[..., 2:] / np.float32([width, height]))
        wanted = tf.concat([(centers[..., :2] - corners) / STRIDE, roots], -1)
        box = responsible * tf.reduce_sum(tf.square(boxes - wanted), -1)
        target = responsible * iou  # 0 for all others
        weights = responsible + self.empty_weight * (1 - responsible)
        confidence = weights * tf.square(confidences - target)
        factors = np.float32(self._class_weights)
        category = held * factors * tf.square(classes - tf.one_hot(labels, self.num_classes))
        count = tf.cast(tf.shape(images)[0], tf.float32)
        return {
            "box": self.box_weight * tf.reduce_sum(box) / count,
            "confidence": tf.reduce_sum(confidence) / count,
            "class": tf.reduce_sum(category) / count,
        }

    def load_trunk(self, classifier: keras.Model) -> None:
        """Takes the convolutions of a `pretraining_classifier` of the same width.

        Raises:
            ValueError: if it has other convolutions; then no weight changes.
        """
        names = [f"conv_{number}" for number in range(1, TRUNK + 1)]
        pairs = [(self.net.get_layer(name), classifier.get_layer(name)) for name in names]
        for mine, other in pairs:
            if mine.kernel.shape != other.kernel.shape:
                raise ValueError(
                    f"classifier has a kernel {mine.name} of the shape {tuple(other.kernel.shape)}; it must be "
                    f"{tuple(mine.kernel.shape)}: build it with the same width and channels."
                )
        for mine, other in pairs:
            mine.set_weights(other.get_weights())
