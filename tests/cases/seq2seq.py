"""Encoder-decoders of recurrent nets."""

import keras
import numpy as np
from case import Case, no_targets

import keras_dl

SOURCE_LENGTH, TARGET_LENGTH, HIDDEN = 3, 4, 32
SOURCES, TARGETS = 11, 9


def pairs(rng, n):
    """Short sources with padding behind, and targets that depend on them, with the end token 4."""
    sources = np.zeros((n, SOURCE_LENGTH), "int32")
    targets = np.zeros((n, TARGET_LENGTH), "int32")
    for source, target in zip(sources, targets, strict=True):
        length = rng.integers(1, SOURCE_LENGTH + 1)
        source[:length] = rng.integers(1, SOURCES, length)
        target[:length] = 5 + source[:length] % 4
        target[length] = 4
    return {"source": sources, "target": targets}


def more_padding(inputs):
    return inputs | {"source": np.pad(inputs["source"], [(0, 0), (0, 2)])}


def tokens(rng, n):
    return {"tokens": pairs(rng, n)["source"]}


def a_step(**states):
    """Tokens and states of the given shapes."""

    def make(rng, n):
        values = {name: rng.uniform(-0.8, 0.8, (n, *shape)).astype("float32") for name, shape in states.items()}
        if "memory" in states:
            values["memory_mask"] = np.arange(SOURCE_LENGTH) <= rng.integers(0, SOURCE_LENGTH, (n, 1))
        return {"tokens": rng.integers(1, TARGETS, n)} | values

    return make


TRAINING = dict(
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight"),
    weighted_metrics=["accuracy"],
)
BAD = (
    (dict(source_vocabulary_size=1), "source_vocabulary_size"),
    (dict(hidden_dim=0), "hidden_dim"),
    (dict(cell="rnn"), "cell"),
    (dict(attention="local"), "attention"),
    (dict(dropout_rate=1.0), "dropout_rate"),
    (dict(sampling_rate=-0.1), "sampling_rate"),
    (dict(end_token=9), "end_token"),
    (dict(start_token=0), "start_token"),
    (dict(source_length=2.5), "source_length"),
)
SHARED = dict(
    source_vocabulary_size=SOURCES,
    target_vocabulary_size=TARGETS,
    embedding_dim=16,
    hidden_dim=HIDDEN,
    num_layers=2,
    reverse_source=True,
    attention_dim=32,
    maxout_dim=12,
    dropout_rate=0.05,
    sampling_rate=0.1,
    sampling_steps=10,
    source_length=SOURCE_LENGTH,
    target_length=TARGET_LENGTH,
    start_token=3,
    end_token=4,
    seed=3,
)


def like_trained(model, inputs):
    """Embeddings of ordinary size. New ones are so small that the states are, too: and sigmoid and tanh have fixed
    scales in int8, 1/256 and 1/128, against which nothing would be left of them."""
    for part in (model.encoder, model.decoder):
        part.embedding.embeddings.assign(20.0 * part.embedding.embeddings)


DATA = dict(
    inputs=pairs,
    targets=no_targets,
    compile=TRAINING,
    padded=more_padding,
    integer_signatures=("encode", "decode_step"),
    prepare=like_trained,
    tolerances=dict(int8=0.15),  # measured 0.10, after two layers and three steps
    agreements=dict(dynamic_int8=0.9),  # measured 0.94 and 1
)
SKIPS = {
    "trains_equally_under_xla": "dropout and sampling draw other numbers under XLA; test_seq2seq.py compares without"
}

CASES = [
    Case(
        name="seq2seq_attention",
        architecture="seq2seq",
        model=keras_dl.Seq2Seq,
        arguments=SHARED | dict(num_layers=1, cell="gru", bidirectional=True, attention="additive", feed_context=False),
        forced=dict(feed_context="attention feeds its own", num_layers="the other case has two"),
        served=dict(
            encode=tokens,
            translate=tokens,
            decode_step=a_step(
                hidden_0=(HIDDEN,),
                memory=(SOURCE_LENGTH, 2 * HIDDEN),
                keys=(SOURCE_LENGTH, 32),
            ),
        ),
        bad_arguments=(*BAD, (dict(feed_context=True), "feed_context")),
        skips=SKIPS,
        **DATA,
    ),
    Case(
        name="seq2seq_context",
        slow=True,
        architecture="seq2seq",
        model=keras_dl.Seq2Seq,
        arguments=SHARED | dict(cell="lstm", bidirectional=False, attention=None, feed_context=True),
        forced=dict.fromkeys(("cell", "bidirectional", "attention"), "the other case has the others"),
        served=dict(
            encode=tokens,
            translate=tokens,
            decode_step=a_step(
                **{f"{name}_{i}": (HIDDEN,) for name in ("hidden", "cell") for i in range(2)}, context=(HIDDEN,)
            ),
        ),
        bad_arguments=BAD,
        skips=SKIPS,
        **DATA,
    ),
]
