"""YOLO without anchors: one net that says at each place of three levels which object is there, and how far its sides.

    backbone    convolutions of stride 2, each with a C2f block after it, to strides 8, 16, 32; SPPF
    neck        from the coarse level to the fine one, and back (PAN)
    head        of each level two branches: 4 x 16 logits of distances, and a logit of each class

At a place, the distance to each side of the box is a distribution over 0, 1, ..., 15 strides. Its mean is the distance:

    d = s sum_i i softmax(z)_i        box = (x - d_left, y - d_top, x + d_right, y + d_bottom)

Task-aligned assignment says which places learn an object, and what score they should give its class (see
`keras_dl.ops.align_tasks`). With these targets t, summed over all places and divided by T = max(sum of t, 1):

    class loss   0.5 / T sum BCE(logit, t)                                  all places and classes
    box loss     7.5 / T sum t (1 - CIoU)                                   places with an object
    DFL          1.5 / T sum t CE(softmax(z), the two bins about d / s)     mean of the four sides

References:
- Li et al. 2020, "Generalized Focal Loss", arXiv:2006.04388, eq. 3 to 6: distances as distributions (DFL).
- Feng et al. 2021, "TOOD", arXiv:2108.07755: task-aligned assignment.
- Zheng et al. 2019, arXiv:1911.08287: CIoU. Blocks: see `yolo_blocks`.
- The generation of 2023, called YOLOv8 by its authors, has no paper. Sizes, weights of losses and settings of the
  training are those that its documentation and its users report. Redmon et al. 2015 is `YOLOv1`.

Deviations:
- The losses are divided by T alone. The published code multiplies them by the size of the batch, too, so that with SGD
  its rate of learning is that of a sum.
- The 16 numbers 0 to 15 are no weights. The published counts have them: they are higher by 16.
- A place is detected as its best class alone. `several=True` is for an evaluation by COCO's rules.
"""

import keras
import numpy as np
import tensorflow as tf

from keras_dl.arguments import (
    ActivationName,
    AtLeast,
    ImageShape,
    NumberIn,
    Positive,
    PositivePerChannel,
    Size,
    Sizes,
    arguments,
)
from keras_dl.models.detection.class_weights import checked_class_weights
from keras_dl.models.detection.detector import Detector
from keras_dl.models.detection.yolo_blocks import CHANNELS, STRIDES, Net
from keras_dl.ops import align_tasks, box_ciou, clip_boxes, detections, grid_points, ltrb_to_xyxy, xyxy_to_ltrb
from keras_dl.replicas import replica_mean
from keras_dl.weights import Weights, load_torch

# Depth, width and most maps. Trainable parameters for 80 classes: 3,157,184, 11,166,544, 25,902,624, 43,691,504 and
# 68,229,632; those published are higher by 16.
PRESETS = {
    "n": dict(depth=0.33, width=0.25, max_channels=1024),
    "s": dict(depth=0.33, width=0.5, max_channels=1024),
    "m": dict(depth=0.67, width=0.75, max_channels=768),
    "l": dict(depth=1.0, width=1.0, max_channels=512),
    "x": dict(depth=1.0, width=1.25, max_channels=512),
}


@keras.saving.register_keras_serializable(package="keras_dl")
class YOLO(Detector):
    """Finds objects in one pass, without anchors: the generation of 2023, in the sizes n, s, m, l and x.

    Compile it with an optimizer and no loss: `keras_dl.averaging.RampedSGD` averages weights as published. Batch
    normalization follows convolutions alone, and an exported file holds none: the converter puts it into their kernels.

    Args:
        image_shape: `(height, width, channels)`, sides that are multiples of 32.
        num_classes: int.
        depth: float. Factor of the numbers of bottlenecks.
        width: float. Factor of the numbers of maps.
        max_channels: int. The most maps, before the factor.
        strides: ints. The levels that detect, a part of 4, 8, 16, 32 without gaps, from 4 or 8 on. Published are
            (8, 16, 32), and (4, 8, 16, 32) for small objects. The net always has maps of stride 32.
        bins: int, at least 2. Values of a distance, in strides: 0, 1, ..., bins - 1. A box may be twice as large.
        activation: str. "silu", or "relu" for NPUs that have no sigmoid.
        box_weight: float, at least 0. Weight of the loss of CIoU.
        class_weight: float, at least 0. Weight of the loss of classes.
        dfl_weight: float, at least 0. Weight of the loss of distributions.
        class_weights: float, or one for each class. Factors in the loss of classes, against classes that are rare.
        positives: int. The most places that learn an object: `k` of `align_tasks`.
        score_power: float, at least 0. `alpha` of `align_tasks`.
        overlap_power: float, at least 0. `beta` of `align_tasks`.
        smallest_side: float, in pixels. Shorter sides of objects count as this when places are looked for. Without, a
            box between the places of the finest level would never be learned.
        score_threshold: float in [0, 1]. Detections have higher scores. 0.001 for an evaluation, about 0.25 to look at.
        iou_threshold: float in [0, 1]. Of boxes of a class that overlap more, the best is kept.
        several: bool. Whether a place may be several classes.
        candidates: int. The most boxes that the suppression looks at.
        max_detections: int. The slots of detections.

    Call arguments:
        images: `(batch, *image_shape)`, raw pixels in [0, 255], red, green, blue.
        training: bool. Whether batch normalization uses the statistics of the batch.

    Returns:
        dict of float32 maps by name, of each of the strides: `boxes_8`, `(batch, height / 8, width / 8,
        4 * bins)`, logits of the distances to the left, top, right and bottom side; `classes_8`,
        `(batch, height / 8, width / 8, num_classes)`, logits; and so on.

    Raises:
        ValueError: if an argument is out of its range. By `fit`, if targets or pixels are: see `Detector`.

    Example:

    >>> model = YOLO.from_preset("n", num_classes=2, image_shape=(96, 96, 3))
    >>> found = model.detect(np.zeros((1, 96, 96, 3), "uint8"))
    >>> found.boxes.shape
    TensorShape([1, 300, 4])

    Reference: see this module.
    """

    presets = PRESETS
    loss_names = ("box", "class", "dfl")

    @arguments
    def __init__(
        self,
        image_shape: ImageShape = (640, 640, 3),
        num_classes: Size = 80,
        depth: Positive = 0.33,
        width: Positive = 0.25,
        max_channels: Size = 1024,
        strides: Sizes = STRIDES,
        bins: AtLeast(2) = 16,
        activation: ActivationName = "silu",
        box_weight: NumberIn(0.0) = 7.5,
        class_weight: NumberIn(0.0) = 0.5,
        dfl_weight: NumberIn(0.0) = 1.5,
        class_weights: PositivePerChannel = 1.0,
        positives: Size = 10,
        score_power: NumberIn(0.0) = 0.5,
        overlap_power: NumberIn(0.0) = 6.0,
        smallest_side: NumberIn(0.0) = 16.0,
        score_threshold: NumberIn(0.0, 1.0) = 0.001,
        iou_threshold: NumberIn(0.0, 1.0) = 0.7,
        several: bool = False,
        candidates: Size = 1000,
        max_detections: Size = 300,
        dtype=None,
        **kwargs,
    ):
        coarsest = max(CHANNELS)
        if any(side % coarsest for side in image_shape[:2]):
            raise ValueError(f"image_shape={image_shape} must have sides that are multiples of {coarsest}.")
        allowed = [tuple(CHANNELS)[first:end] for first in (0, 1) for end in range(first + 1, len(CHANNELS) + 1)]
        if strides not in allowed:
            raise ValueError(f"strides={strides} must be one of {', '.join(map(str, allowed))}.")
        super().__init__(dtype=dtype, **kwargs)
        self._class_weights = checked_class_weights(class_weights, num_classes)
        images = keras.Input(image_shape, name="images")
        net = Net(activation, depth, width, max_channels, strides)
        self.net = keras.Model(images, net.head(net.neck(net.backbone(images)), num_classes, bins), name="net")
        height, width, _ = image_shape
        points = [grid_points((height // stride, width // stride), stride) for stride in strides]
        self.points = np.concatenate(points)  # (places, 2)
        self.steps = np.repeat(np.float32(strides), [len(x) for x in points])[:, None]  # (places, 1)
        self._head = net.head_name
        self._hold(num_classes)

    def call(self, images, training=False):
        return self.net(images, training=training)

    def compute_output_shape(self, images_shape):
        return dict(sorted(self.net.compute_output_shape(images_shape).items()))  # in the order of a call

    def decode(self, outputs):
        """Boxes and logits of all places.

        Args:
            outputs: dict of maps, as of a call.

        Returns:
            `(boxes, classes, distances)`, float32: xyxy in pixels, `(batch, places, 4)`; logits of classes,
            `(batch, places, num_classes)`; logits of distances, `(batch, places, 4, bins)`.
        """

        def joined(what, size):
            maps = [tf.cast(outputs[f"{what}_{stride}"], tf.float32) for stride in self.strides]
            places = [height * width for _, height, width, _ in (x.shape for x in maps)]
            return tf.concat([tf.reshape(x, (-1, n, size)) for x, n in zip(maps, places, strict=True)], 1)

        distances = tf.reshape(joined("boxes", 4 * self.bins), (-1, len(self.points), 4, self.bins))
        sides = tf.reduce_sum(tf.nn.softmax(distances) * np.arange(self.bins, dtype="float32"), -1)
        boxes = ltrb_to_xyxy(sides * self.steps, self.points)  # (batch, places, 4)
        return boxes, joined("classes", self.num_classes), distances

    def postprocess(self, **outputs):
        boxes, logits, _ = self.decode(outputs)
        return detections(
            clip_boxes(boxes, *self.image_shape[:2]),
            tf.sigmoid(logits),
            iou_threshold=self.iou_threshold,
            score_threshold=self.score_threshold,
            max_boxes=self.max_detections,
            candidates=self.candidates,
            several=self.several,
        )

    def detection_losses(self, outputs, images, targets, training):
        predicted, logits, distances = self.decode(outputs)
        found = align_tasks(
            tf.sigmoid(logits),
            predicted,
            self.points,
            targets["boxes"],
            targets["classes"],
            k=self.positives,
            alpha=self.score_power,
            beta=self.overlap_power,
            smallest_side=self.smallest_side,
        )
        number = tf.maximum(found.objects, 0)
        boxes = tf.gather(targets["boxes"], number, batch_dims=1)  # (batch, places, 4)
        classes = tf.gather(targets["classes"], number, batch_dims=1)  # (batch, places)
        weights = found.weights  # 0 where there is no object
        total = tf.maximum(replica_mean(tf.reduce_sum(weights)), 1.0)
        scores = weights[..., None] * tf.one_hot(classes, self.num_classes)  # (batch, places, num_classes)
        entropy = tf.nn.sigmoid_cross_entropy_with_logits(scores, logits) * np.float32(self._class_weights)
        box = 1 - box_ciou(predicted, boxes)
        dfl = distribution_focal_loss(distances, xyxy_to_ltrb(boxes, self.points) / self.steps)
        return {
            "box": self.box_weight * tf.reduce_sum(weights * box) / total,
            "class": self.class_weight * tf.reduce_sum(entropy) / total,
            "dfl": self.dfl_weight * tf.reduce_sum(weights * dfl) / total,
        }

    def load_tensors(self, weights: Weights, head: bool = True) -> None:
        """Takes weights whose tensors have the names of published files of this generation, such as
        `model.0.conv.weight`.

        The package has no such file. Those that Ultralytics publishes are under the AGPL-3.0 or a license that one
        buys, and so may be what is made of them: see https://www.ultralytics.com/license.

        Args:
            weights: mapping from these names to NumPy arrays, or the path of a `.safetensors` file.
            head: bool. Whether the layers that depend on the number of classes are loaded, too.

        Raises:
            ValueError: if entries are missing, unknown or of another shape. The message lists all of them, and the
                model stays as it was.
        """
        without = () if head else tuple(f"{self._head}.cv3.{i}" for i in range(len(self.strides)))
        load_torch(self.torch_modules(), weights, without=(*without, f"{self._head}.dfl"))

    def torch_modules(self) -> dict[str, keras.Layer]:
        """The layers by the names that their tensors have in files, as `keras_dl.weights.load_torch` takes them."""
        return {layer.name: layer for layer in self.net.layers if layer.weights}


def distribution_focal_loss(logits, values):
    """Cross entropy of a distribution over 0, 1, ..., n - 1 and of the two numbers about a value, by how near they are.

    Args:
        logits: float32, `(..., sides, n)`.
        values: float32, `(..., sides)`, clipped to [0, n - 1 - 0.01].

    Returns:
        float32, `(...)`: the mean over the sides.

    Reference: Li et al. 2020, eq. 6.

    Example:

    >>> print(distribution_focal_loss(tf.constant([[0.0, 0.0, 0.0]]), tf.constant([0.5])).numpy().round(4))
    1.0986
    """
    bins = logits.shape[-1]
    values = tf.clip_by_value(values, 0.0, bins - 1 - 0.01)
    # The weight of a number falls with its distance from the value, and is 0 from 1 on: the two about it are left.
    weights = tf.nn.relu(1.0 - tf.abs(values[..., None] - np.arange(bins, dtype="float32")))
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(tf.stop_gradient(weights), logits), -1)
