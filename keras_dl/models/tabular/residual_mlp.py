"""Residual MLP: the residual block on columns of numbers.

    h_0     = A x + a
    h_{i+1} = h_i + dropout(C_i dropout(relu(B_i norm(h_i) + b_i)) + c_i)
    y       = D relu(norm(h_n)) + d

Reference: Gorishniy, Rubachev, Khrulkov, Babenko 2021, "Revisiting Deep Learning Models for Tabular Data",
arXiv:2106.11959, section 3.2 (their ResNet).

Deviation from the paper: layer normalisation may stand in for batch normalisation; columns are standardised inside the
model, where the paper transforms them to quantiles outside.
"""

import keras
from keras import layers

from keras_dl.checks import check_choice, check_rate, check_size
from keras_dl.layers.norm import BatchNormalization, LayerNormalization
from keras_dl.models.tabular.tabular_model import TASKS, TabularModel, answers_out, columns_in


@keras.saving.register_keras_serializable(package="keras_dl")
class ResidualMLP(TabularModel):
    """Residual MLP for classification and regression.

    Call `adapt` on the training data before `fit`; see `MLP` for the scale of the loss of regression.

    Args:
        feature_shape: int, the number of columns, or a tuple. Three axes are an image `(height, width, channels)`.
        num_outputs: int. Classes, or target columns.
        hidden_dim: int. Width of the vector that the blocks add to.
        mlp_dim: int. Width inside a block.
        num_blocks: int.
        normalization: "batch" or "layer".
        hidden_dropout_rate: float in [0, 1). Inside a block.
        residual_dropout_rate: float in [0, 1). On what a block adds.
        task: "classification" or "regression".

    Call arguments:
        features: `(batch, *feature_shape)`: raw columns, or raw pixels in [0, 255].

    Returns:
        float, `(batch, num_outputs)`: logits, or float32 values in the targets' unit.

    Raises:
        ValueError: if an argument is not as said; the message names it and its value.

    Example:

    >>> model = ResidualMLP(10, 1, hidden_dim=16, mlp_dim=32, num_blocks=2, task="regression")
    >>> model(keras.ops.zeros((1, 10))).shape
    TensorShape([1, 1])
    """

    def __init__(
        self,
        feature_shape,
        num_outputs,
        hidden_dim=128,
        mlp_dim=256,
        num_blocks=4,
        normalization="batch",
        hidden_dropout_rate=0.0,
        residual_dropout_rate=0.0,
        task="classification",
        dtype=None,
        **kwargs,
    ):
        num_outputs = check_size("num_outputs", num_outputs)
        hidden_dim = check_size("hidden_dim", hidden_dim)
        mlp_dim = check_size("mlp_dim", mlp_dim)
        num_blocks = check_size("num_blocks", num_blocks)
        check_choice("normalization", normalization, ("batch", "layer"))
        hidden_dropout_rate = check_rate("hidden_dropout_rate", hidden_dropout_rate)
        residual_dropout_rate = check_rate("residual_dropout_rate", residual_dropout_rate)
        check_choice("task", task, TASKS)

        def norm(name):
            if normalization == "batch":
                return BatchNormalization(dtype=dtype, name=name)
            return LayerNormalization(epsilon=1e-5, dtype=dtype, name=name)

        inputs, columns = columns_in(feature_shape, dtype)
        hidden = layers.Dense(hidden_dim, dtype=dtype, name="embed")(columns)
        for i in range(num_blocks):
            branch = norm(f"block_{i}_norm")(hidden)
            branch = layers.Dense(
                mlp_dim, activation="relu", kernel_initializer="he_normal", dtype=dtype, name=f"block_{i}_expand"
            )(branch)
            branch = layers.Dropout(hidden_dropout_rate, dtype=dtype)(branch)
            branch = layers.Dense(hidden_dim, dtype=dtype, name=f"block_{i}_project")(branch)
            branch = layers.Dropout(residual_dropout_rate, dtype=dtype)(branch)
            hidden = layers.Add(dtype=dtype, name=f"block_{i}")([hidden, branch])
        hidden = layers.ReLU(dtype=dtype, name="last_relu")(norm("last_norm")(hidden))
        super().__init__(inputs=inputs, outputs=answers_out(hidden, num_outputs, task, dtype), dtype=dtype, **kwargs)

        self.feature_shape = tuple(feature_shape) if isinstance(feature_shape, list) else feature_shape
        self.num_outputs = num_outputs
        self.hidden_dim = hidden_dim
        self.mlp_dim = mlp_dim
        self.num_blocks = num_blocks
        self.normalization = normalization
        self.hidden_dropout_rate = hidden_dropout_rate
        self.residual_dropout_rate = residual_dropout_rate
        self.task = task
