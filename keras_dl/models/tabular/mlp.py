"""Multilayer perceptron: affine maps with a nonlinearity between them.

    h_0 = (x - mean) / std
    h_i = dropout(activation(norm(W_i h_{i-1} + b_i)))        i = 1 .. n
    y   = W h_n + b                                           logits, or values after y std' + mean'

Mean and standard deviation are those of the training data, kept inside the model, so that it takes raw columns.

Reference: Rumelhart, Hinton, Williams 1986, "Learning representations by back-propagating errors", Nature 323,
eq. 1 and 2.

Deviations from the paper: any activation in the place of the logistic function; softmax cross-entropy in the
place of squared error for classes; batch or layer normalisation and dropout are options that came later.
"""

import keras
from keras import layers

from keras_dl.checks import check_choice, check_rate, check_size, check_sizes
from keras_dl.layers.norm import BatchNormalization, LayerNormalization
from keras_dl.models.tabular.tabular_model import TASKS, TabularModel, answers_out, columns_in

NORMALIZATIONS = (None, "batch", "layer")


@keras.saving.register_keras_serializable(package="keras_dl")
class MLP(TabularModel):
    """Multilayer perceptron for classification and regression, on columns of numbers or on images as vectors.

    Call `adapt` on the training data before `fit`. Weights start at He's normal
    distribution. For regression the loss is in the square of the targets' unit: the scale does not matter to Adam,
    but the learning rate of SGD has to be divided by the targets' variance.

    Args:
        feature_shape: int, the number of columns, or a tuple. Three axes are an image `(height, width, channels)`.
        num_outputs: int. Classes, or target columns.
        hidden_dims: sequence of int. Widths of the hidden layers. Empty makes a linear model.
        activation: str. Any name that `keras.activations.get` knows.
        normalization: None, "batch" or "layer". Comes between the affine map and the activation.
        dropout_rate: float in [0, 1). After each activation.
        task: "classification" or "regression".

    Call arguments:
        features: `(batch, *feature_shape)`: raw columns, or raw pixels in [0, 255].

    Returns:
        float, `(batch, num_outputs)`: logits, or float32 values in the targets' unit.

    Raises:
        ValueError: if an argument is not as said; the message names it and its value.

    Example:

    >>> model = MLP(30, 2, hidden_dims=(16,))
    >>> model(keras.ops.zeros((1, 30))).shape
    TensorShape([1, 2])
    """

    def __init__(
        self,
        feature_shape,
        num_outputs,
        hidden_dims=(64, 64),
        activation="relu",
        normalization=None,
        dropout_rate=0.0,
        task="classification",
        dtype=None,
        **kwargs,
    ):
        num_outputs = check_size("num_outputs", num_outputs)
        hidden_dims = check_sizes("hidden_dims", hidden_dims, allow_empty=True)
        check_activation(activation)
        check_choice("normalization", normalization, NORMALIZATIONS)
        dropout_rate = check_rate("dropout_rate", dropout_rate)
        check_choice("task", task, TASKS)

        inputs, hidden = columns_in(feature_shape, dtype)
        for i, width in enumerate(hidden_dims, start=1):
            hidden = layers.Dense(
                width,
                use_bias=normalization != "batch",  # which subtracts any bias again
                kernel_initializer="he_normal",
                dtype=dtype,
                name=f"hidden_{i}",
            )(hidden)
            if normalization == "batch":
                hidden = BatchNormalization(dtype=dtype, name=f"norm_{i}")(hidden)
            elif normalization == "layer":
                hidden = LayerNormalization(epsilon=1e-5, dtype=dtype, name=f"norm_{i}")(hidden)
            hidden = layers.Activation(activation, dtype=dtype, name=f"activation_{i}")(hidden)
            if dropout_rate:
                hidden = layers.Dropout(dropout_rate, dtype=dtype, name=f"dropout_{i}")(hidden)
        super().__init__(inputs=inputs, outputs=answers_out(hidden, num_outputs, task, dtype), dtype=dtype, **kwargs)

        self.feature_shape = tuple(feature_shape) if isinstance(feature_shape, list) else feature_shape
        self.num_outputs = num_outputs
        self.hidden_dims = hidden_dims
        self.activation = activation
        self.normalization = normalization
        self.dropout_rate = dropout_rate
        self.task = task


def check_activation(activation):
    """`activation`, which must be the name of a Keras activation."""
    try:
        if isinstance(activation, str) and keras.activations.get(activation):
            return activation
    except ValueError:
        pass
    raise ValueError(f"activation={activation!r} must be the name of a Keras activation, such as 'relu'.")
