"""Losses."""

import keras
from keras import ops

from keras_dl.arguments import Number, Rate, arguments
from keras_dl.replicas import replica_mean
from keras_dl.tokens import PADDING


@keras.saving.register_keras_serializable(package="keras_dl")
class RejectionCrossentropy(keras.losses.Loss):
    """Softmax cross-entropy over the classes and a rubbish class whose logit is constant.

        loss = penalty_t + log(exp(-j) + sum_i exp(-penalty_i)),    logit_i = -penalty_i

    If the penalties of all classes are far above `j`, the loss is the penalty of the right class minus `j`, and
    decreases only that penalty. If penalties of wrong classes are below `j`, the loss also increases those. LeNet-5
    needs both, because its last layer has no weights.

    Args:
        penalty: float, `j`. The penalty of the rubbish class.
        reduction: str or None, as of Keras's losses.
        name: str.

    Call arguments:
        y_true: int, `(batch,)`: classes.
        y_pred: float, `(batch, num_classes)`: logits.

    Returns:
        float, scalar: the mean over the batch. Another `reduction` gives another shape.

    Reference: LeCun, Bottou, Bengio, Haffner 1998, "Gradient-Based Learning Applied to Document Recognition", eq. 9.

    Example:

    >>> loss = RejectionCrossentropy(penalty=0.0)(ops.array([1]), ops.zeros((1, 2)))
    >>> round(float(ops.exp(loss)), 5)  # three classes of equal logits
    3.0
    """

    @arguments
    def __init__(
        self, penalty: Number = 10.0, reduction="sum_over_batch_size", name="rejection_crossentropy", **kwargs
    ):
        super().__init__(reduction=reduction, name=name, **kwargs)

    def call(self, y_true, y_pred):
        rubbish = ops.zeros_like(y_pred[..., :1]) - self.penalty  # (batch, 1)
        logits = ops.concatenate([y_pred, rubbish], axis=-1)  # (batch, num_classes + 1)
        return keras.losses.sparse_categorical_crossentropy(y_true, logits, from_logits=True)

    def get_config(self):
        return super().get_config() | {"penalty": self.penalty}


@keras.saving.register_keras_serializable(package="keras_dl")
class SmoothedCrossentropy(keras.losses.Loss):
    """Softmax cross-entropy of tokens with smoothed labels. Padding is not scored.

        loss = (1 - s) (-log p_y) + s / V sum_i (-log p_i),   the mean over the tokens that are not padding

    Each token has the same weight, in sequences of any length. A batch that holds only padding has the loss 0.

    Args:
        smoothing: float in [0, 1). The share of the label that is spread over all tokens.
        padding: int. The token that is not scored. A token outside of the vocabulary is not scored either.
        reduction: str or None, as of Keras's losses.
        name: str.

    Call arguments:
        y_true: int, `(batch, n)`: tokens.
        y_pred: float, `(batch, n, vocabulary)`: logits.

    Returns:
        float, scalar, in nats per token. With another `reduction`, the part that each token adds to the loss, times the
        number of tokens.

    Raises:
        ValueError: if `smoothing` is not in [0, 1).

    Reference: Szegedy et al. 2015, "Rethinking the Inception Architecture", arXiv:1512.00567, section 7; Vaswani et
    al. 2017, arXiv:1706.03762, section 5.4, with 0.1.

    Example:

    >>> loss = SmoothedCrossentropy(0.0)(ops.array([[1, 2, 0]]), ops.zeros((1, 3, 4)))
    >>> round(float(ops.exp(loss)), 5)  # two tokens of four equal logits
    4.0
    """

    @arguments
    def __init__(
        self,
        smoothing: Rate = 0.1,
        padding: int = PADDING,
        reduction="sum_over_batch_size",
        name="smoothed_crossentropy",
        **kwargs,
    ):
        super().__init__(reduction=reduction, name=name, **kwargs)

    def call(self, y_true, y_pred):
        tokens = ops.cast(y_true, "int32")
        vocabulary = y_pred.shape[-1]
        scored = ops.logical_and(ops.not_equal(tokens, self.padding), ops.logical_and(tokens >= 0, tokens < vocabulary))
        tokens = ops.where(scored, tokens, 0)
        losses = keras.losses.sparse_categorical_crossentropy(tokens, y_pred, from_logits=True)
        if self.smoothing:
            # The mean of -log p_i is -log p of the right token, plus its logit, minus the mean logit.
            of_token = ops.take_along_axis(y_pred, ops.expand_dims(tokens, -1), axis=-1)[..., 0]  # (batch, n)
            losses = losses + self.smoothing * (of_token - ops.mean(y_pred, axis=-1))
        scored = ops.cast(scored, losses.dtype)
        # Keras divides by the number of all tokens. The mean must be over the scored ones.
        return (
            losses * scored * ops.cast(ops.size(scored), losses.dtype) / ops.maximum(replica_mean(ops.sum(scored)), 1.0)
        )

    def get_config(self):
        return super().get_config() | {"smoothing": self.smoothing, "padding": self.padding}


@keras.saving.register_keras_serializable(package="keras_dl")
class PixelCrossentropy(keras.losses.Loss):
    """Softmax cross-entropy of pixels, the mean over those that are judged.

        loss = sum_i w_{y_i} (-log p_{y_i}) / sum_i w_{y_i},    i over the pixels of no ignored label

    Images without a judged pixel have the loss 0, where torch's is NaN.

    Args:
        ignored_label: int, or None. The label of pixels that are not judged: 255 in PASCAL VOC.
        class_weights: sequence of float, one for each class; None for equal ones.
        reduction: str or None, as of Keras's losses.
        name: str.

    Call arguments:
        y_true: int, `(batch, height, width)`: labels.
        y_pred: float, `(batch, height, width, num_classes)`: logits.

    Returns:
        float, scalar. With another `reduction`, the part that each pixel adds to the loss, times their number.

    Example:

    >>> loss = PixelCrossentropy()(ops.array([[[1, 255]]]), ops.zeros((1, 1, 2, 4)))
    >>> round(float(ops.exp(loss)), 5)  # one pixel of four equal logits
    4.0
    """

    @arguments
    def __init__(
        self,
        ignored_label: int | None = 255,
        class_weights: tuple[float, ...] | None = None,
        reduction="sum_over_batch_size",
        name="pixel_crossentropy",
        **kwargs,
    ):
        super().__init__(reduction=reduction, name=name, **kwargs)

    def call(self, y_true, y_pred):
        labels, logits = ops.cast(y_true, "int32"), ops.cast(y_pred, "float32")
        judged = ops.ones_like(labels, dtype="bool")
        if self.ignored_label is not None:
            judged = ops.not_equal(labels, self.ignored_label)
        labels = ops.where(judged, labels, 0)
        losses = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        weights = ops.cast(judged, "float32")
        if self.class_weights is not None:
            weights = weights * ops.take(ops.array(self.class_weights, "float32"), labels)
        # Keras divides by the number of all pixels. The mean must be over the judged ones.
        return (
            losses
            * weights
            * ops.cast(ops.size(weights), "float32")
            / ops.maximum(replica_mean(ops.sum(weights)), 1e-6)
        )

    def get_config(self):
        return super().get_config() | {"ignored_label": self.ignored_label, "class_weights": self.class_weights}
