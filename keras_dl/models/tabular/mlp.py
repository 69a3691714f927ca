"""Multilayer perceptron: affine maps with a nonlinearity between them.

    h_0 = (x - mean) / std
    h_i = dropout(activation(norm(W_i h_{i-1} + b_i)))        i = 1 .. n
    y   = W h_n + b                                           logits, or values after y std' + mean'

The mean and standard deviation of the training data are weights of the model, so that it takes raw columns.

Reference: Rumelhart, Hinton, Williams 1986, "Learning representations by back-propagating errors", Nature 323,
eq. 1 and 2.

Deviations from the paper:
- Any activation can replace the logistic function.
- Softmax cross-entropy replaces the squared error for classes.
- Batch normalization, layer normalization and dropout are options that came later.
"""

import keras
from keras import layers

from keras_dl.arguments import ActivationName, OneOf, Rate, Size, SizesAtLeast, arguments
from keras_dl.layers.norm import BatchNormalization, LayerNormalization
from keras_dl.models.tabular.tabular_model import FeatureShape, TabularModel, Task, answers_out, columns_in


@keras.saving.register_keras_serializable(package="keras_dl")
class MLP(TabularModel):
    """Multilayer perceptron for classification and regression, on columns of numbers or on images as vectors.

    Call `adapt` on the training data before `fit`. Weights start at He's normal distribution. The loss of regression is
    in the square of the targets' unit. Its scale does not matter to Adam. Divide the learning rate of SGD by the
    targets' variance.

    Args:
        feature_shape: int, the number of columns, or a tuple. Three axes are an image, `(height, width, channels)`.
        num_outputs: int. Classes, or target columns.
        hidden_dims: sequence of int. Widths of the hidden layers. Empty makes a linear model.
        activation: str. Any name that `keras.activations.get` knows.
        normalization: None, "batch" or "layer". It is between the affine map and the activation.
        dropout_rate: float in [0, 1). After each activation.
        task: "classification" or "regression".

    Call arguments:
        features: `(batch, *feature_shape)`: raw columns, or raw pixels in [0, 255].

    Returns:
        float, `(batch, num_outputs)`: logits, or float32 values in the targets' unit.

    Raises:
        ValueError: if an argument is not one of those above; the message names it and its value.

    Example:

    >>> model = MLP(30, 2, hidden_dims=(16,))
    >>> model(keras.ops.zeros((1, 30))).shape
    TensorShape([1, 2])
    """

    @arguments
    def __init__(
        self,
        feature_shape: FeatureShape,
        num_outputs: Size,
        hidden_dims: SizesAtLeast(1, allow_empty=True) = (64, 64),
        activation: ActivationName = "relu",
        normalization: OneOf(None, "batch", "layer") = None,
        dropout_rate: Rate = 0.0,
        task: Task = "classification",
        dtype=None,
        **kwargs,
    ):
        inputs, hidden = columns_in(feature_shape)  # (batch, columns)
        for i, width in enumerate(hidden_dims, start=1):
            hidden = layers.Dense(
                width,
                use_bias=normalization != "batch",  # which subtracts any bias again
                kernel_initializer="he_normal",
                name=f"hidden_{i}",
            )(hidden)  # (batch, width)
            if normalization == "batch":
                hidden = BatchNormalization(name=f"norm_{i}")(hidden)
            elif normalization == "layer":
                hidden = LayerNormalization(epsilon=1e-5, name=f"norm_{i}")(hidden)
            hidden = layers.Activation(activation, name=f"activation_{i}")(hidden)
            if dropout_rate:
                hidden = layers.Dropout(dropout_rate, name=f"dropout_{i}")(hidden)
        super().__init__(inputs=inputs, outputs=answers_out(hidden, num_outputs, task), **kwargs)
