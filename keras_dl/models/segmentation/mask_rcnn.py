"""Mask R-CNN: Faster R-CNN with a head that draws the mask of each object in its box.

    boxes -> RoIAlign 14x14 -> conv 3x3 four times -> transposed conv 2x2, to 28x28 -> conv 1x1 to a mask for each class

    loss = that of Faster R-CNN + mask

The loss of masks is a binary cross-entropy of the true class's mask alone, so that classes do not compete. It is the
mean over all pixels of the boxes that have an object. In inference, masks are drawn in the final boxes.

    ResNet-50, 91 classes of torchvision, of which one is the background    44,401,393 without the frozen norms
    the same with the four numbers of each frozen norm                      44,507,633

Reference: He, Gkioxari, Dollár, Girshick 2017, "Mask R-CNN", arXiv:1703.06870, section 3. Sizes are those of
torchvision's `maskrcnn_resnet50_fpn`, whose weights `load_torchvision` takes.

Deviations from torchvision, which conventions="torchvision" undoes, besides those of `FasterRCNN`:
- The mask that is learned is cut with the middle of a pixel at 0.5, and masks are pasted at the middles of pixels. With
  torchvision's conventions, true masks of small objects do not come back as they were: see docs/detection.md.
"""

from functools import partial
from typing import NamedTuple

import keras
import tensorflow as tf
from keras import layers

from keras_dl.arguments import Size, Sizes, arguments
from keras_dl.models.detection.faster_rcnn import POSITIVE_SHARE, TORCHVISION, FasterRCNN
from keras_dl.models.detection.roi_heads import region_labels
from keras_dl.models.vision.resnet import HE_FAN_OUT
from keras_dl.ops.boxes import full_precision
from keras_dl.ops.masks import mask_targets, paste_masks
from keras_dl.ops.nms import filled
from keras_dl.weights import Weights

BINS = 14  # of a box along each axis
SIDE = 2 * BINS  # of a mask

PRESETS = {"maskrcnn_resnet50_fpn": TORCHVISION}


class MaskDetections(NamedTuple):
    """Detections of a batch of images with masks, by falling score.

    Attributes:
        boxes, scores, classes, count: as of `keras_dl.ops.Detections`.
        masks: float32, in [0, 1]: the probability that a pixel is of the object; 0 in slots that hold no box.
            `(batch, max_boxes, 28, 28)`, stretched to the box; or pasted into the image, `(batch, max_boxes, height,
            width)`.
    """

    boxes: tf.Tensor
    scores: tf.Tensor
    classes: tf.Tensor
    count: tf.Tensor
    masks: tf.Tensor


def mask_head(channels, mask_dims, num_classes):
    """From features `(n, 14, 14, channels)` to logits of masks `(n, 28, 28, num_classes + 1)`, the background last.

    As in torchvision, the background has a mask, which is never used.
    """
    features = hidden = keras.Input((BINS, BINS, channels), name="features")
    normal = keras.initializers.VarianceScaling(**HE_FAN_OUT)
    for i, width in enumerate(mask_dims):
        options = dict(padding="same", activation="relu", kernel_initializer=normal.clone(), name=f"conv_{i}")
        hidden = layers.Conv2D(width, 3, **options)(hidden)
    options = dict(activation="relu", kernel_initializer=normal.clone(), name="enlarge")
    hidden = layers.Conv2DTranspose(mask_dims[-1], 2, 2, **options)(hidden)  # (n, 28, 28, channels)
    logits = layers.Conv2D(num_classes + 1, 1, kernel_initializer=normal.clone(), name="masks")(hidden)
    return keras.Model(features, logits, name="mask_head")


@keras.saving.register_keras_serializable(package="keras_dl")
class MaskRCNN(FasterRCNN):
    """Two-stage detector with instance masks on the pyramid of a ResNet, by default ResNet-50.

    Targets are `boxes`, `classes` and `instance_map`: see `keras_dl.objects`. Nets: those of `FasterRCNN`, and
    `mask_head`.

    Args:
        **kwargs: see `FasterRCNN`.
        mask_dims: sequence of int. Channels of the convolutions of the mask head.
        mask_samples: int. Boxes of an image at most whose masks are learned in a step: of those with an object.
        paste: bool. Whether detections hold masks of the whole image, which take `height * width` numbers each: 427 MB
            for 100 masks of 800 x 1333. Else `keras_dl.ops.paste_masks` brings those of 28 x 28 to the image, a few at
            a time.

    Call arguments:
        images: uint8 or float, `(batch, *image_shape)`, raw pixels in [0, 255].

    Returns:
        As of `FasterRCNN`. See `detect` for detections and masks.

    Raises:
        ValueError: if an argument is out of its range; the message names it and its value.

    Example:

    >>> sizes = dict(num_blocks=(1, 1), filters=(8, 8), pyramid_filters=8, head_dims=(16,), mask_dims=(8,))
    >>> model = MaskRCNN(image_shape=(32, 48, 3), num_classes=2, anchor_sizes=((8,), (16,)), paste=True, **sizes)
    >>> model.detect(tf.zeros((1, 32, 48, 3))).masks.shape
    TensorShape([1, 100, 32, 48])
    """

    presets = PRESETS
    loss_names = (*FasterRCNN.loss_names, "mask")
    target_names = (*FasterRCNN.target_names, "instance_map")

    @arguments(like=FasterRCNN)
    def __init__(
        self, mask_dims: Sizes = (256, 256, 256, 256), mask_samples: Size = 128, paste: bool = False, **kwargs
    ):
        super().__init__(**kwargs)
        self.mask_head = mask_head(self.pyramid_filters, mask_dims, self.num_classes)

    def _draw(self, outputs, boxes, classes, training=False):
        """The masks of boxes in their classes: logits, float32 `(batch, boxes, 28, 28)`."""
        logits = full_precision(self.mask_head(self.pool(outputs, boxes, BINS), training=training))
        own = tf.one_hot(tf.reshape(classes, (-1,)), logits.shape[-1])  # (batch * boxes, num_classes + 1)
        logits = tf.reshape(logits, (-1, SIDE * SIDE, logits.shape[-1]))
        return tf.reshape(tf.matmul(logits, tf.expand_dims(own, -1)), (-1, boxes.shape[1], SIDE, SIDE))

    def further_losses(self, outputs, regions, targets, training):
        shape = targets["instance_map"].shape
        if shape.rank != 3 or tuple(shape[1:]) != tuple(self.image_shape[:2]):
            raise ValueError(
                f"targets['instance_map'] has the shape {tuple(shape)}; it must be {('batch', *self.image_shape[:2])}."
            )
        count = min(self.mask_samples, int(POSITIVE_SHARE * self.box_samples))  # positive ones are the first
        loss = partial(self._mask_loss, outputs, regions, targets, training)
        if self.jit_compile:  # XLA takes minutes to compile the branches
            return {"mask": loss(count)}
        # Few slots hold an object, and the mask head is most of a step: it sees the smallest size that holds all.
        sizes = sorted({max(count // parts, 1) for parts in (8, 4, 2, 1)})
        most = tf.reduce_max(tf.reduce_sum(tf.cast(regions.positive[:, :count], tf.int32), axis=1))
        index = tf.reduce_sum(tf.cast(most > tf.constant(sizes[:-1], tf.int32), tf.int32))
        return {"mask": tf.switch_case(index, [partial(loss, size) for size in sizes])}

    def _mask_loss(self, outputs, regions, targets, training, count):
        """The loss of the first `count` regions of each image."""
        theirs = self.conventions == "torchvision"
        regions = type(regions)(*(x[:, :count] for x in regions))
        labels = region_labels(regions, targets["classes"], self.num_classes)
        numbers = tf.where(regions.positive, regions.objects + 1, 0)
        options = dict(samples=None if theirs else 2, aligned=not theirs)
        wanted = mask_targets(targets["instance_map"], numbers, regions.boxes, SIDE, **options)
        logits = self._draw(outputs, regions.boxes, labels, training)
        entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels=wanted, logits=logits)
        weights = tf.cast(regions.positive, tf.float32)
        return tf.reduce_sum(tf.reduce_mean(entropy, axis=(2, 3)) * weights) / tf.maximum(tf.reduce_sum(weights), 1.0)

    def postprocess(self, **outputs):
        """`MaskDetections` of what `raw` returned."""
        found = super().postprocess(**outputs)
        masks = tf.sigmoid(self._draw(outputs, found.boxes, found.classes))
        if self.paste:
            convention = "torchvision" if self.conventions == "torchvision" else "pixel_centers"
            masks = paste_masks(masks, found.boxes, self.image_shape[:2], convention)
        held = filled(found.count, self.max_detections)
        return MaskDetections(*found, tf.where(held[..., None, None], masks, 0.0))

    def detect(self, images):
        """Finds objects and their masks.

        Args:
            images: uint8 or float, `(batch, *image_shape)`, raw pixels in [0, 255].

        Returns:
            `MaskDetections`.

        Raises:
            ValueError: if the shape is another one, or a pixel is not finite.
        """
        return super().detect(images)

    def load_torchvision(self, weights: Weights, head: bool = True) -> None:
        """Takes the weights of torchvision's `maskrcnn_resnet50_fpn`, or of one on another ResNet of these sizes.

        Args and errors: as of `FasterRCNN.load_torchvision`.
        """
        super().load_torchvision(weights, head)
