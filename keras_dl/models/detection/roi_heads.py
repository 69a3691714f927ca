"""What is done with proposals: the choice of those to learn from, the head that classifies and corrects them, and what
becomes a detection.

The last class is the background. Each class has codes of its own. As in torchvision, so has the background, whose codes
are never used.

References: Girshick 2015, "Fast R-CNN", arXiv:1504.08083, section 2; Ren et al. 2015, arXiv:1506.01497, section 3.2.
"""

from typing import NamedTuple

import keras
import tensorflow as tf
from keras import layers

from keras_dl.models.detection.rpn import huber
from keras_dl.ops.boxes import box_iou, clip_boxes, decode_boxes, encode_boxes, full_precision, pairwise
from keras_dl.ops.matching import IGNORED, hashed_uniform, match_by_iou, sample_balanced
from keras_dl.ops.nms import detections

CODE_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
SMALLEST_SIDE = 1e-2  # of a detection, in pixels
CANDIDATES = 1000  # of all classes together, which the suppression sees


def box_head(inputs, hidden_dims, num_classes):
    """From the features of a box to logits `(n, num_classes + 1)` and codes `(n, (num_classes + 1) * 4)`.

    Args:
        inputs: int. The number of features.
        hidden_dims: sequence of int. Widths of dense layers with relu.
        num_classes: int, without the background.

    Returns:
        `keras.Model`. Initial weights of the last layers are those of Fast R-CNN, section 2.3.
    """

    def normal(deviation):
        return keras.initializers.RandomNormal(stddev=deviation)

    features = hidden = keras.Input((inputs,), name="features")
    for i, width in enumerate(hidden_dims):
        hidden = layers.Dense(width, "relu", kernel_initializer="lecun_uniform", name=f"fc_{i}")(hidden)
    logits = layers.Dense(num_classes + 1, kernel_initializer=normal(0.01), name="classes")(hidden)
    codes = layers.Dense(4 * (num_classes + 1), kernel_initializer=normal(0.001), name="codes")(hidden)
    return keras.Model(features, {"logits": logits, "codes": codes}, name="box_head")


class Regions(NamedTuple):
    """Boxes to learn from: positive ones first, then those of the background, then slots that hold none.

    Attributes:
        boxes: float32 `(batch, size, 4)`.
        objects: int32 `(batch, size)`: the number of the object of a positive box; 0 elsewhere.
        positive, chosen: bool `(batch, size)`: whether the slot holds a box with an object, and whether it holds a box.
    """

    boxes: tf.Tensor
    objects: tf.Tensor
    positive: tf.Tensor
    chosen: tf.Tensor


def sample_regions(proposals, held, targets, seed, *, samples, positive_share, iou_threshold=0.5):
    """Chooses what the head learns from, of the proposals and of the true boxes.

    Args:
        proposals: float32 `(batch, slots, 4)`.
        held: bool `(batch, slots)`: which slots hold a proposal.
        targets: dict of `boxes` and `classes`.
        seed: integers, for the choice.
        samples: int. Boxes of an image.
        positive_share: float in [0, 1]. At most so many of them have an object.
        iou_threshold: float. From this IoU on a box has an object; else it is background.

    Returns:
        `Regions`.
    """
    present = targets["classes"] >= 0
    boxes, held = tf.concat([proposals, targets["boxes"]], 1), tf.concat([held, present], 1)
    matches = match_by_iou(pairwise(box_iou, targets["boxes"], boxes), present, iou_threshold)
    matches = tf.where(held, matches, IGNORED)
    sample = sample_balanced(matches, hashed_uniform(tf.shape(matches), seed), samples, positive_share)
    # The sample may have more slots than there are boxes; those are not chosen, and point to the first box.
    objects = tf.where(sample.positive, tf.gather(matches, sample.indices, batch_dims=1), 0)
    return Regions(tf.gather(boxes, sample.indices, batch_dims=1), objects, sample.positive, sample.chosen)


def region_labels(regions, classes, num_classes):
    """The class of each region: `num_classes` for the background. int32 `(batch, size)`."""
    return tf.where(regions.positive, tf.gather(classes, regions.objects, batch_dims=1), num_classes)


def box_losses(logits, codes, regions, targets, class_weights=None):
    """What the head is trained with.

        class    weighted mean over the regions of the cross-entropy
        box      sum over the positive ones of the loss of the codes of their class, divided by the number of regions

    Args:
        logits: `(batch * size, num_classes + 1)`.
        codes: `(batch * size, (num_classes + 1) * 4)`.
        regions: `Regions`.
        targets: dict of `boxes` and `classes`.
        class_weights: sequence of float, one for each class; None for 1. The background has 1.

    Returns:
        class, box: float32 scalars.
    """
    size, outputs = regions.boxes.shape[1], logits.shape[-1]
    logits = tf.reshape(full_precision(logits), (-1, size, outputs))
    codes = tf.reshape(full_precision(codes), (-1, size, outputs, 4))
    labels = region_labels(regions, targets["classes"], outputs - 1)
    weights = tf.cast(regions.chosen, tf.float32)
    count = tf.maximum(tf.reduce_sum(weights), 1.0)
    if class_weights is not None:
        weights *= tf.gather(tf.constant([*class_weights, 1.0], tf.float32), labels)
    entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    of_class = tf.reduce_sum(entropy * weights) / tf.maximum(tf.reduce_sum(weights), 1e-6)
    wanted = tf.gather(targets["boxes"], regions.objects, batch_dims=1)
    wanted = encode_boxes(wanted, regions.boxes, CODE_WEIGHTS)
    own = tf.gather(codes, labels, batch_dims=2)  # (batch, size, 4)
    return of_class, tf.reduce_sum(tf.where(regions.positive, huber(own, wanted), 0.0)) / count


def detected(logits, codes, proposals, held, image_shape, *, score_threshold, iou_threshold, max_detections):
    """From the head's outputs for proposals to `keras_dl.ops.Detections`.

    Args:
        logits, codes: as of `box_losses`.
        proposals: float32 `(batch, slots, 4)`.
        held: bool `(batch, slots)`.
        image_shape: `(height, width)`, to which boxes are clipped.
        score_threshold: float. The probability of the class must be above it.
        iou_threshold: float. Of boxes of a class that overlap more, the best remains.
        max_detections: int.
    """
    slots, outputs = proposals.shape[1], logits.shape[-1]
    scores = tf.nn.softmax(tf.reshape(full_precision(logits), (-1, slots, outputs)))[..., :-1]
    codes = tf.reshape(full_precision(codes), (-1, slots, outputs, 4))[:, :, :-1]
    boxes = clip_boxes(decode_boxes(codes, tf.expand_dims(proposals, 2), CODE_WEIGHTS), *image_shape)
    return detections(
        boxes,  # (batch, slots, num_classes, 4)
        tf.where(tf.expand_dims(held, -1), scores, 0.0),
        iou_threshold=iou_threshold,
        score_threshold=score_threshold,
        max_boxes=max_detections,
        candidates=CANDIDATES,
        smallest_side=SMALLEST_SIDE,
    )
