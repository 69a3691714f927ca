"""MLP."""

from case import (
    DROPOUT_UNDER_XLA,
    NO_MASK,
    Case,
    adapt_columns,
    adapt_columns_and_values,
    classification,
    columns,
    labels,
)

import keras_dl

CASES = [
    Case(
        name="mlp_classifier",
        architecture="mlp",
        model=keras_dl.MLP,
        arguments=dict(
            feature_shape=4,
            num_outputs=3,
            hidden_dims=(16, 12),
            activation="gelu",
            normalization="layer",
            dropout_rate=0.1,
            task="classification",
        ),
        forced=dict(task="the other case has the other value"),
        inputs=columns(4),
        targets=labels(3),
        compile=classification(),
        prepare=adapt_columns,
        bad_arguments=(
            (dict(feature_shape=0), "feature_shape"),
            (dict(hidden_dims=(16, 0)), "hidden_dims"),
            (dict(activation="reglu"), "activation"),
            (dict(normalization="group"), "normalization"),
            (dict(dropout_rate=1.0), "dropout_rate"),
            (dict(task="ranking"), "task"),
        ),
        skips=NO_MASK | DROPOUT_UNDER_XLA,
    ),
    Case(
        name="mlp_regressor",
        slow=True,  # mlp_classifier is of the same class
        architecture="mlp",
        model=keras_dl.MLP,
        arguments=dict(
            feature_shape=5,
            num_outputs=2,
            hidden_dims=(16,),
            activation="tanh",
            normalization="batch",
            dropout_rate=0.1,
            task="regression",
        ),
        inputs=columns(5),
        targets=lambda rng, n: (40.0 + 9.0 * rng.normal(size=(n, 2))).astype("float32"),
        compile=dict(loss="mse"),
        prepare=adapt_columns_and_values,
        bad_arguments=((dict(num_outputs=-1), "num_outputs"),),
        skips=NO_MASK | DROPOUT_UNDER_XLA,
    ),
]
