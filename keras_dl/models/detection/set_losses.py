"""The losses of predictions that are a set: a matching of objects to predictions, and what it costs.

    cost(object, query) = -w_class p(class) + w_l1 |b - b'|_1 - w_giou GIoU(b, b')        the least sum decides
    class loss          = sum w_c (-log p(c)) / sum w_c         over all queries; c is "no object" where none is matched
    l1, giou loss       = sum |b - b'|_1 / n, sum (1 - GIoU(b, b')) / n                   over the matched pairs

`n` is the number of objects of the batch, at least 1. Each decoder layer has a matching of its own. All of it is
float32. A query whose logits or box are not finite is matched only where no other is left.

Reference: Carion et al. 2020, arXiv:2005.12872, section 3.1 and appendix A.2. The mean by the sum of the weights is
that of the authors' code.
"""

import tensorflow as tf

from keras_dl.ops.assignment import linear_assignment
from keras_dl.ops.boxes import box_giou, cxcywh_to_xyxy, pairwise, xyxy_to_cxcywh
from keras_dl.replicas import replica_mean


def match_queries(logits, boxes, targets, classes, weights):
    """The query of each object.

    Args:
        logits: float32, `(batch, queries, classes + 1)`.
        boxes: float32, `(batch, queries, 4)`, cxcywh as shares of the image.
        targets: float32, `(batch, objects, 4)`, xyxy as shares of the image.
        classes: int32, `(batch, objects)`. -1 in slots of no object.
        weights: the weights of the class, of L1 and of GIoU in the cost.

    Returns:
        int32, `(batch, objects)`: -1 in slots of no object, and for objects that are left over where there are more of
        them than queries. It has no gradient.

    Example:

    >>> boxes = tf.constant([[[0.2, 0.2, 0.1, 0.1], [0.7, 0.7, 0.2, 0.2]]])
    >>> targets = tf.constant([[[0.6, 0.6, 0.8, 0.8], [0.0, 0.0, 0.0, 0.0]]])
    >>> match_queries(tf.zeros((1, 2, 4)), boxes, targets, tf.constant([[2, -1]]), (1.0, 5.0, 2.0)).numpy()
    array([[ 1, -1]], dtype=int32)
    """
    by_class, by_l1, by_giou = weights
    probabilities = tf.transpose(tf.nn.softmax(logits), (0, 2, 1))  # (batch, classes + 1, queries)
    costs = -by_class * tf.gather(probabilities, tf.maximum(classes, 0), batch_dims=1)  # (batch, objects, queries)
    distances = tf.abs(tf.expand_dims(xyxy_to_cxcywh(targets), 2) - tf.expand_dims(boxes, 1))
    costs += by_l1 * tf.reduce_sum(distances, axis=-1)
    costs -= by_giou * pairwise(box_giou, targets, cxcywh_to_xyxy(boxes))
    return linear_assignment(costs, classes >= 0)


def set_losses(outputs, targets, classes, matching, class_weights):
    """The losses of each decoder layer, not weighted against each other.

    Args:
        outputs: dict of `logits`, float32 `(batch, layers, queries, classes + 1)`, and `boxes`, float32
            `(batch, layers, queries, 4)`, cxcywh as shares of the image.
        targets: float32, `(batch, objects, 4)`, xyxy as shares of the image.
        classes: int32, `(batch, objects)`. -1 in slots of no object.
        matching: the weights of the class, of L1 and of GIoU in the cost of the matching.
        class_weights: float, `(classes + 1,)`: of each class in the class loss, that of "no object" last.

    Returns:
        dict of `class`, `l1` and `giou`, float32 `(layers,)` each.

    Example:

    >>> outputs = {"logits": tf.zeros((1, 1, 2, 4)), "boxes": tf.fill((1, 1, 2, 4), 0.5)}
    >>> targets, classes = tf.constant([[[0.25, 0.25, 0.75, 0.75]]]), tf.constant([[2]])
    >>> losses = set_losses(outputs, targets, classes, (1.0, 5.0, 2.0), [1.0, 1.0, 1.0, 0.1])
    >>> {name: round(float(x[0]), 4) for name, x in losses.items()}
    {'class': 1.3863, 'l1': 0.0, 'giou': 0.0}
    """
    logits, boxes = (tf.cast(outputs[name], tf.float32) for name in ("logits", "boxes"))
    layers, queries, channels = logits.shape[1:]
    number = tf.maximum(replica_mean(tf.reduce_sum(tf.cast(classes >= 0, tf.float32))), 1.0)
    # Every layer is an image of its own.
    logits, boxes = tf.reshape(logits, (-1, queries, channels)), tf.reshape(boxes, (-1, queries, 4))
    targets, classes = tf.repeat(targets, layers, axis=0), tf.repeat(classes, layers, axis=0)
    matched = match_queries(logits, boxes, targets, classes, matching)  # (batch * layers, objects)

    own = tf.equal(tf.expand_dims(matched, -1), tf.range(queries))  # (batch * layers, objects, queries)
    labels = tf.reduce_max(tf.where(own, tf.expand_dims(classes, -1), -1), axis=1)  # (batch * layers, queries)
    labels = tf.where(labels < 0, channels - 1, labels)
    entropies = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    weights = tf.gather(tf.constant(class_weights, tf.float32), labels)

    pairs = tf.cast(matched >= 0, tf.float32)  # (batch * layers, objects)
    predicted = tf.gather(boxes, tf.maximum(matched, 0), batch_dims=1)  # (batch * layers, objects, 4)
    l1 = tf.reduce_sum(tf.abs(predicted - xyxy_to_cxcywh(targets)), axis=-1) * pairs
    giou = (1.0 - box_giou(cxcywh_to_xyxy(predicted), targets)) * pairs

    def of_layers(x):
        return tf.reduce_sum(tf.reshape(x, (-1, layers, x.shape[-1])), axis=(0, 2))  # (layers,)

    return {
        "class": of_layers(entropies * weights) / of_layers(weights),
        "l1": of_layers(l1) / number,
        "giou": of_layers(giou) / number,
    }
