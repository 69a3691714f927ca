"""Residual MLP: the residual block on columns of numbers.

    h_0     = A x + a
    h_{i+1} = h_i + dropout(C_i dropout(relu(B_i norm(h_i) + b_i)) + c_i)
    y       = D relu(norm(h_n)) + d

Reference: Gorishniy, Rubachev, Khrulkov, Babenko 2021, "Revisiting Deep Learning Models for Tabular Data",
arXiv:2106.11959, section 3.2 (their ResNet).

Deviations from the paper:
- Layer normalization can replace batch normalization.
- The model standardizes the columns. The paper transforms them to quantiles before the model.
- `B_i` start at He's normal distribution, other matrices at Glorot's uniform one. The authors' code has torch's
  defaults.
"""

import keras
from keras import layers

from keras_dl.arguments import OneOf, Rate, Size, arguments
from keras_dl.layers.norm import BatchNormalization, LayerNormalization
from keras_dl.models.tabular.tabular_model import FeatureShape, TabularModel, Task, answers_out, columns_in


@keras.saving.register_keras_serializable(package="keras_dl")
class ResidualMLP(TabularModel):
    """Residual MLP for classification and regression.

    Call `adapt` on the training data before `fit`. See `MLP` for the scale of the loss of regression.

    Args:
        feature_shape: int, the number of columns, or a tuple. Three axes are an image, `(height, width, channels)`.
        num_outputs: int. Classes, or target columns.
        hidden_dim: int. Width of the residual stream.
        mlp_dim: int. Width of the hidden layer of a block.
        num_blocks: int.
        normalization: "batch" or "layer".
        hidden_dropout_rate: float in [0, 1). After the hidden layer of a block.
        residual_dropout_rate: float in [0, 1). At the end of a block's branch.
        task: "classification" or "regression".

    Call arguments:
        features: `(batch, *feature_shape)`: raw columns, or raw pixels in [0, 255].

    Returns:
        float, `(batch, num_outputs)`: logits, or float32 values in the targets' unit.

    Raises:
        ValueError: if an argument is not one of those above; the message names it and its value.

    Example:

    >>> model = ResidualMLP(10, 1, hidden_dim=16, mlp_dim=32, num_blocks=2, task="regression")
    >>> model(keras.ops.zeros((1, 10))).shape
    TensorShape([1, 1])
    """

    @arguments
    def __init__(
        self,
        feature_shape: FeatureShape,
        num_outputs: Size,
        hidden_dim: Size = 128,
        mlp_dim: Size = 256,
        num_blocks: Size = 4,
        normalization: OneOf("batch", "layer") = "batch",
        hidden_dropout_rate: Rate = 0.0,
        residual_dropout_rate: Rate = 0.0,
        task: Task = "classification",
        dtype=None,
        **kwargs,
    ):
        def norm(name):
            if normalization == "batch":
                return BatchNormalization(name=name)
            return LayerNormalization(epsilon=1e-5, name=name)

        inputs, columns = columns_in(feature_shape)  # (batch, columns)
        hidden = layers.Dense(hidden_dim, name="embed")(columns)  # (batch, hidden_dim)
        for i in range(num_blocks):
            branch = norm(f"block_{i}_norm")(hidden)
            expand = layers.Dense(mlp_dim, activation="relu", kernel_initializer="he_normal", name=f"block_{i}_expand")
            branch = layers.Dropout(hidden_dropout_rate)(expand(branch))  # (batch, mlp_dim)
            branch = layers.Dense(hidden_dim, name=f"block_{i}_project")(branch)  # (batch, hidden_dim)
            branch = layers.Dropout(residual_dropout_rate)(branch)
            hidden = layers.Add(name=f"block_{i}")([hidden, branch])
        hidden = layers.ReLU(name="last_relu")(norm("last_norm")(hidden))
        super().__init__(inputs=inputs, outputs=answers_out(hidden, num_outputs, task), **kwargs)
