"""Elman's recurrent network: the layer, and a network of two directions on padded sequences."""

import keras
import numpy as np
from case import DROPOUT_UNDER_XLA, NO_MASK, Case, classification, labels

import keras_dl

STATEFUL = "keeps the batch of its first call; test_rnn.py has it"
STEPS, FEATURES = 4, 5


def sequences(features=FEATURES):
    """Makes sequences with a trend, of `STEPS` steps."""

    def make(rng, n):
        slope = rng.normal(size=(n, 1, features))
        noise = 0.3 * rng.normal(size=(n, STEPS, features))
        return (slope * np.linspace(-1, 1, STEPS)[:, None] + noise).astype("float32")

    return make


def padded_sequences(features=FEATURES):
    """Makes the same, of lengths of their own, with a mask."""

    def make(rng, n):
        lengths = rng.integers(1, STEPS + 1, n)
        return {"features": sequences(features)(rng, n), "mask": np.arange(STEPS) < lengths[:, None]}

    return make


def other_padding(rows):
    """The same sequences, with other values behind their ends."""
    return rows | {"features": np.where(rows["mask"][..., None], rows["features"], 1e6).astype("float32")}


def around(layer):
    """A model of the layer and a head, on sequences of static length."""
    x = keras.Input((STEPS, FEATURES), name="sequence")
    outputs = layer(x)
    first = outputs[0] if isinstance(outputs, list | tuple) else outputs
    return keras.Model(x, keras.layers.Dense(3, name="head")(first))


def initializer():
    return keras.initializers.VarianceScaling(seed=7)


# Arguments that all three layers share, each off its default.
SHARED = dict(
    units=6,
    use_bias=False,
    kernel_initializer=initializer(),
    recurrent_initializer=initializer(),
    bias_initializer=keras.initializers.Ones(),
    kernel_regularizer=keras.regularizers.L2(1e-4),
    recurrent_regularizer=keras.regularizers.L2(1e-4),
    bias_regularizer=keras.regularizers.L2(1e-4),
    activity_regularizer=keras.regularizers.L2(1e-4),
    kernel_constraint=keras.constraints.MaxNorm(4.0),
    recurrent_constraint=keras.constraints.MaxNorm(4.0),
    bias_constraint=keras.constraints.MaxNorm(4.0),
    dropout=0.05,
    recurrent_dropout=0.05,
    seed=3,
    return_sequences=True,
    return_state=True,
    go_backwards=True,
    stateful=False,
    unroll=True,
    bptt_steps=3,
)


def layer_case(name, layer, bad_arguments=(), skips=None, tolerances=None, **arguments):
    return Case(
        name=f"{name}_layer",
        architecture=name,
        model=layer,
        arguments=SHARED | arguments,
        forced={"stateful": STATEFUL},
        around=around,
        inputs=sequences(),
        targets=lambda rng, n: rng.integers(0, 3, (n, STEPS)),
        compile=classification(),
        bad_arguments=((dict(bptt_steps=0), "bptt_steps"), *bad_arguments),
        tolerances=tolerances or {},
        skips=NO_MASK | DROPOUT_UNDER_XLA | (skips or {}),
    )


def states(*names, features=FEATURES, units=4):
    """Makes rows of the signature `step`: features, and the states before them."""

    def make(rng, n):
        rows = {"features": sequences(features)(rng, n)[:, 0]}
        return rows | {name: rng.uniform(-0.8, 0.8, (n, units)).astype("float32") for name in names}

    return make


def adapt(model, rows):
    model.adapt(rows["features"], rows["mask"]) if isinstance(rows, dict) else model.adapt(rows)


def network_case(name, skips=None, **others):
    defaults = dict(
        num_features=FEATURES,
        num_outputs=3,
        dropout_rate=0.05,
        bptt_steps=3,
        serving_length=STEPS,
    )
    arguments = defaults | others.pop("arguments")
    options = dict(
        bad_arguments=(
            (dict(cell="transformer"), "cell"),
            (dict(hidden_dims=(0,)), "hidden_dims"),
            (dict(pooling="max"), "pooling"),
            (dict(dropout_rate=1.0), "dropout_rate"),
            (dict(bptt_steps=-1), "bptt_steps"),
            (dict(serving_length=0), "serving_length"),
        ),
        targets=labels(3),
        compile=classification(),
    )
    return Case(
        name=f"{name}_network",
        architecture=name,
        model=keras_dl.RecurrentNetwork,
        arguments=arguments,
        skips=DROPOUT_UNDER_XLA | (skips or {}),
        **(options | others),
    )


CASES = [
    layer_case(
        "rnn",
        keras_dl.SimpleRNN,
        activation=keras.activations.relu,
        tolerances={"int8": 0.3},  # units without bounds: 0.22 measured, beyond the range of those that calibrate
    ),
    network_case(
        "rnn",
        arguments=dict(
            cell="irnn",
            hidden_dims=(5,),
            bidirectional=True,
            pooling="mean",
            task="regression",
            masked=True,
            standardize=False,
        ),
        inputs=padded_sequences(),
        targets=lambda rng, n: rng.normal(size=(n, 3)),
        compile=dict(loss="mse"),
        padded=other_padding,
        tolerances={"int8": 2e-1},  # five units without bounds, and an answer of about their size: 0.14 measured
    ),
]
