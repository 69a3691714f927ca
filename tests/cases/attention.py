"""Attention layers, each in a model that gives out all that the layer does."""

import keras
import numpy as np
from case import DROPOUT_UNDER_XLA, ONE_LAYER, Case

import keras_dl

QUERIES, LENGTH, WIDTH, MEMORY_WIDTH = 3, 6, 5, 4


def memories(rng, n):
    """Queries, and memories of 2 to 6 places."""
    lengths = rng.integers(2, LENGTH + 1, (n, 1))
    return {
        "mask": np.arange(LENGTH) < lengths,
        "memory": rng.normal(size=(n, LENGTH, MEMORY_WIDTH)).astype("float32"),
        "query": rng.normal(size=(n, QUERIES, WIDTH)).astype("float32"),
    }


def other_padding(rows):
    return rows | {"memory": np.where(rows["mask"][..., None], rows["memory"], 1e6).astype("float32")}


def _inputs():
    return {
        "mask": keras.Input((LENGTH,), dtype="bool", name="mask"),
        "memory": keras.Input((LENGTH, MEMORY_WIDTH), name="memory"),
        "query": keras.Input((QUERIES, WIDTH), name="query"),
    }


def aligned(layer):
    """The context of each query, and beside it the weights."""
    inputs = _inputs()
    outputs = layer(inputs["query"], inputs["memory"], mask=inputs["mask"])
    return keras.Model(inputs, keras.layers.Concatenate(dtype=layer.dtype_policy)(outputs))


def attended(layer):
    """The output of the layer; its mean weight of each key beside it."""
    inputs = _inputs()
    mask = keras.ops.expand_dims(inputs["mask"], 1)
    output, weights = layer(inputs["query"], inputs["memory"], attention_mask=mask, return_attention_scores=True)
    return keras.Model(
        inputs, keras.layers.Concatenate(dtype=layer.dtype_policy)([output, keras.ops.mean(weights, axis=1)])
    )


CASES = [
    Case(
        name="attention_multi_head",
        architecture="attention",
        model=keras_dl.MultiHeadAttention,
        arguments=dict(
            num_heads=2,
            key_dim=4,
            value_dim=3,
            dropout=0.05,
            use_bias=False,
            output_shape=6,
            attention_axes=1,
            sliding_window=None,
            flash_attention=False,
            kernel_initializer="he_normal",
            bias_initializer="ones",
            kernel_regularizer="l2",
            bias_regularizer="l1",
            activity_regularizer=None,
            kernel_constraint="non_neg",
            bias_constraint="non_neg",
            use_gate=False,
            seed=3,
            chunk_size=None,
            output_initializer="he_uniform",
        ),
        forced={
            "chunk_size": "its loop cannot be calibrated for int8; test_attention.py exports it",
            **dict.fromkeys(("sliding_window", "activity_regularizer", "use_gate"), "this layer has none"),
        },
        inputs=memories,
        targets=lambda rng, n: rng.normal(size=(n, QUERIES, 6 + LENGTH)),
        compile=dict(loss="mse"),
        bad_arguments=(
            (dict(num_heads=0), "num_heads"),
            (dict(key_dim=-1), "key_dim"),
            (dict(value_dim=0), "value_dim"),
            (dict(output_shape=1.5), "output_shape"),
            (dict(output_shape=(2, 3)), "output_shape"),
            (dict(dropout=1.0), "dropout"),
            (dict(attention_axes=2), "attention_axes"),
            (dict(sliding_window=4), "sliding_window"),
            (dict(flash_attention=True), "flash_attention"),
            (dict(activity_regularizer="l2"), "activity_regularizer"),
            (dict(use_gate=True), "use_gate"),
            (dict(chunk_size=0), "chunk_size"),
        ),
        padded=other_padding,
        around=attended,
        skips=DROPOUT_UNDER_XLA | ONE_LAYER,
    ),
    Case(
        name="attention_additive",
        architecture="attention",
        model=keras_dl.AdditiveAttention,
        arguments=dict(units=7, use_bias=False, kernel_initializer="he_normal"),
        inputs=memories,
        targets=lambda rng, n: rng.normal(size=(n, QUERIES, MEMORY_WIDTH + LENGTH)),
        compile=dict(loss="mse"),
        bad_arguments=((dict(units=0), "units"),),
        padded=other_padding,
        around=aligned,
        skips=ONE_LAYER,
    ),
    Case(
        name="attention_luong",
        architecture="attention",
        model=keras_dl.LuongAttention,
        arguments=dict(score="concat", locality="predictive", window=3, units=7, kernel_initializer="he_normal"),
        inputs=memories,
        targets=lambda rng, n: rng.normal(size=(n, QUERIES, MEMORY_WIDTH + LENGTH)),
        compile=dict(loss="mse"),
        bad_arguments=(
            (dict(score="additive"), "score"),
            (dict(locality="local"), "locality"),
            (dict(window=0), "window"),
            (dict(units=-2), "units"),
        ),
        padded=other_padding,
        around=aligned,
        skips=ONE_LAYER,
    ),
]
