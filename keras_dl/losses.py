"""Losses."""

import keras
from keras import ops

from keras_dl.checks import check_rate


@keras.saving.register_keras_serializable(package="keras_dl")
class RejectionCrossentropy(keras.losses.Loss):
    """Softmax cross-entropy over the classes and one more, a rubbish class whose logit is constant.

        loss = penalty_t + log(exp(-j) + sum_i exp(-penalty_i)),    logit_i = -penalty_i

    Where every class has a penalty far above `j`, the loss is the penalty of the right class less `j`, and draws it
    down by itself; where others are below `j`, it pushes them up. LeNet-5 needs both, for its last layer holds no
    weights.

    Args:
        penalty: float, `j`. The penalty of the rubbish class.

    Call arguments:
        y_true: int, `(batch,)`: classes.
        y_pred: float, `(batch, num_classes)`: logits.

    Returns:
        float, scalar: the mean of the batch, unless `reduction` says otherwise.

    Reference: LeCun, Bottou, Bengio, Haffner 1998, "Gradient-Based Learning Applied to Document Recognition", eq. 9.

    Example:

    >>> loss = RejectionCrossentropy(penalty=0.0)(ops.array([1]), ops.zeros((1, 2)))
    >>> round(float(ops.exp(loss)), 5)  # three classes of equal logits
    3.0
    """

    def __init__(self, penalty=10.0, reduction="sum_over_batch_size", name="rejection_crossentropy", **kwargs):
        super().__init__(reduction=reduction, name=name, **kwargs)
        self.penalty = penalty

    def call(self, y_true, y_pred):
        rubbish = ops.zeros_like(y_pred[..., :1]) - self.penalty
        logits = ops.concatenate([y_pred, rubbish], axis=-1)
        return keras.losses.sparse_categorical_crossentropy(y_true, logits, from_logits=True)

    def get_config(self):
        return super().get_config() | {"penalty": self.penalty}


@keras.saving.register_keras_serializable(package="keras_dl")
class SmoothedCrossentropy(keras.losses.Loss):
    """Softmax cross-entropy of tokens with smoothed labels, in which padding is never scored.

        loss = (1 - s) (-log p_y) + s / V sum_i (-log p_i),   the mean over the tokens that are no padding

    Each token counts alike, whatever sequence of the batch it is of. A batch of nothing but padding has the loss 0.

    Args:
        smoothing: float in [0, 1). The share of the label that is spread over all tokens.
        padding: int. The token that is not scored. One that is not in the vocabulary is not scored either.

    Call arguments:
        y_true: int, `(batch, n)`: tokens.
        y_pred: float, `(batch, n, vocabulary)`: logits.

    Returns:
        float, scalar, in nats a token; with another `reduction`, of what each token adds to it, times the number of
        tokens.

    Raises:
        ValueError: if `smoothing` is none of the above.

    Reference: Szegedy et al. 2015, "Rethinking the Inception Architecture", arXiv:1512.00567, section 7; Vaswani et
    al. 2017, arXiv:1706.03762, section 5.4, with 0.1.

    Example:

    >>> loss = SmoothedCrossentropy(0.0)(ops.array([[1, 2, 0]]), ops.zeros((1, 3, 4)))
    >>> round(float(ops.exp(loss)), 5)  # two tokens of four equal logits
    4.0
    """

    def __init__(
        self, smoothing=0.1, padding=0, reduction="sum_over_batch_size", name="smoothed_crossentropy", **kwargs
    ):
        super().__init__(reduction=reduction, name=name, **kwargs)
        self.smoothing = check_rate("smoothing", smoothing)
        self.padding = padding

    def call(self, y_true, y_pred):
        tokens = ops.cast(y_true, "int32")
        vocabulary = y_pred.shape[-1]
        scored = ops.logical_and(ops.not_equal(tokens, self.padding), ops.logical_and(tokens >= 0, tokens < vocabulary))
        tokens = ops.where(scored, tokens, 0)
        losses = keras.losses.sparse_categorical_crossentropy(tokens, y_pred, from_logits=True)
        if self.smoothing:
            # The mean of -log p_i is that of the right token, plus its logit, less the mean logit.
            of_token = ops.take_along_axis(y_pred, ops.expand_dims(tokens, -1), axis=-1)[..., 0]
            losses = losses + self.smoothing * (of_token - ops.mean(y_pred, axis=-1))
        scored = ops.cast(scored, losses.dtype)
        # Keras divides by the number of all tokens; the mean is to be that of the scored ones.
        return losses * scored * ops.cast(ops.size(scored), losses.dtype) / ops.maximum(ops.sum(scored), 1.0)

    def get_config(self):
        return super().get_config() | {"smoothing": self.smoothing, "padding": self.padding}
