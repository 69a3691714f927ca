"""The region proposal network: from the maps of a pyramid to the boxes that may hold an object of any class.

    conv 3x3, relu; conv 1x1 to a score for each anchor, conv 1x1 to its four codes: the same for all levels

Levels are handled apart until the last choice: the best anchors of each level become boxes, boxes suppress those of
their level, and the best of all levels are proposals.

References: Ren et al. 2015, arXiv:1506.01497, sections 3.1 and 3.3; Lin et al. 2016, arXiv:1612.03144, section 4.1.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from keras_dl.ops.boxes import box_iou, clip_boxes, decode_boxes, encode_boxes, full_precision, pairwise
from keras_dl.ops.matching import hashed_uniform, match_by_iou, sample_balanced
from keras_dl.ops.nms import NO_SCORE, filled, nms

SMALLEST_SIDE = 1e-3  # of a proposal, in pixels
BETA = 1 / 9  # where the loss of codes becomes linear


class RegionHead:
    """The layers of the network, for all levels.

    Args:
        filters: int. Channels of the maps.
        num_anchors: int, of each place.
    """

    def __init__(self, filters, num_anchors):
        def conv(channels, size, name, **options):
            normal = keras.initializers.RandomNormal(stddev=0.01)
            return layers.Conv2D(channels, size, padding="same", kernel_initializer=normal, name=name, **options)

        self.conv = conv(filters, 3, "rpn_conv", activation="relu")
        self.objectness = conv(num_anchors, 1, "rpn_objectness")
        self.codes = conv(4 * num_anchors, 1, "rpn_codes")

    def __call__(self, maps):
        """Scores `(batch, height, width, anchors)` and codes `(batch, height, width, 4 anchors)` of one level."""
        hidden = self.conv(maps)
        return self.objectness(hidden), self.codes(hidden)


def in_rows(objectness, codes):
    """One level as rows, in the order of `keras_dl.ops.level_anchors`: float32 `(batch, n)` and `(batch, n, 4)`."""
    count = int(np.prod(objectness.shape[1:]))
    objectness = tf.reshape(full_precision(objectness), (-1, count))
    return objectness, tf.reshape(full_precision(codes), (-1, count, 4))


def propose(objectness, codes, anchors, image_shape, *, candidates, count, iou_threshold=0.7):
    """The boxes that may hold an object.

    Args:
        objectness: list of `(batch, n)`, one for each level: logits.
        codes: list of `(batch, n, 4)`.
        anchors: list of float32 `(n, 4)`, NumPy.
        image_shape: `(height, width)`, to which boxes are clipped.
        candidates: int. So many anchors of each level are considered, the best ones.
        count: int. Proposals of an image.
        iou_threshold: float. Of boxes of a level that overlap more, the best remains.

    Returns:
        boxes: float32 `(batch, slots, 4)`, by falling score, without gradient; 0 in slots of no proposal. There are
            `count` slots, or as many as candidates if those are fewer.
        held: bool `(batch, slots)`: which slots hold a proposal.
    """
    boxes, scores, levels = [], [], []
    for level, (logits, level_codes, level_anchors) in enumerate(zip(objectness, codes, anchors, strict=True)):
        k = min(candidates, len(level_anchors))
        logits = tf.where(tf.math.is_nan(logits), NO_SCORE, logits)
        best, places = tf.math.top_k(tf.stop_gradient(logits), k)
        # In one table with the codes: one of constants alone is a weight for a file of int8 weights, which rounds it.
        rows = tf.concat([tf.stop_gradient(level_codes), level_anchors + tf.zeros_like(level_codes)], -1)
        rows = tf.gather(rows, places, batch_dims=1)  # (batch, k, 8)
        boxes.append(decode_boxes(rows[..., :4], rows[..., 4:]))  # (batch, k, 4)
        scores.append(best)
        levels += [level] * k
    boxes, scores = clip_boxes(tf.concat(boxes, 1), *image_shape), tf.concat(scores, 1)
    x1, y1, x2, y2 = tf.unstack(boxes, 4, axis=-1)
    scores = tf.where(tf.minimum(x2 - x1, y2 - y1) >= SMALLEST_SIDE, scores, NO_SCORE)
    slots = min(count, len(levels))
    levels = tf.zeros_like(scores, tf.int32) + tf.constant(levels)
    options = dict(iou_threshold=iou_threshold, max_boxes=slots, score_threshold=NO_SCORE / 4)
    indices, number = nms(boxes, scores, levels, **options)
    held = filled(number, slots)
    return tf.where(held[..., None], tf.gather(boxes, indices, batch_dims=1), 0.0), held


def huber(codes, targets):
    """The loss of four codes, summed: quadratic below `BETA`, linear above."""
    error = tf.abs(codes - targets)
    return tf.reduce_sum(tf.where(error < BETA, 0.5 * error**2 / BETA, error - 0.5 * BETA), axis=-1)


def region_losses(objectness, codes, anchors, targets, seed, *, samples, high=0.7, low=0.3):
    """What the network is trained with.

        objectness    mean over the sampled anchors of the binary cross-entropy
        region_box    sum over the sampled positive ones of the loss of codes, divided by the number of all sampled

    Args:
        objectness: float32 `(batch, n)`, of all levels.
        codes: float32 `(batch, n, 4)`.
        anchors: float32 `(n, 4)`.
        targets: dict of `boxes` and `classes`: see `keras_dl.objects`.
        seed: integers, for the choice of samples.
        samples: int. Anchors of an image that are learned, at most half of them positive.
        high, low: float. From this IoU on an anchor is positive, and below that one negative. The best anchors of an
            object are positive at any IoU above 0.

    Returns:
        objectness, region_box: float32 scalars.
    """
    iou = pairwise(box_iou, targets["boxes"], anchors)  # (batch, objects, n)
    matches = match_by_iou(iou, targets["classes"] >= 0, high, low, keep_best=True)
    sample = sample_balanced(matches, hashed_uniform(tf.shape(matches), seed), samples, 0.5)
    chosen, positive = (tf.cast(x, tf.float32) for x in (sample.chosen, sample.positive))
    count = tf.maximum(tf.reduce_sum(chosen), 1.0)
    logits = tf.gather(objectness, sample.indices, batch_dims=1)  # (batch, samples)
    entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels=positive, logits=logits)
    places = tf.gather(tf.constant(anchors), sample.indices)
    objects = tf.maximum(tf.gather(matches, sample.indices, batch_dims=1), 0)
    wanted = encode_boxes(tf.gather(targets["boxes"], objects, batch_dims=1), places)
    errors = huber(tf.gather(codes, sample.indices, batch_dims=1), wanted)
    return tf.reduce_sum(entropy * chosen) / count, tf.reduce_sum(errors * positive) / count
