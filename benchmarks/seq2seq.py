"""One training step of encoder-decoders, against the same models built from layers of Keras and of torch.nn.

Without attention, one LSTM encodes and another decodes. With attention, a bidirectional GRU encodes, and another GRU
attends to all of its outputs before each step. Keras and torch.nn have no layer for that. The counterpart in Keras is a
cell for `keras.layers.RNN` that carries the memory in its states. There is none in torch.
"""

import numpy as np

from keras_dl.benchmarks.contenders import Task
from keras_dl.benchmarks.devices import torch_descent
from keras_dl.extras import require

BATCH, LENGTH, VOCABULARY, EMBEDDING, UNITS = 64, 32, 1000, 128, 256


def _tokens():
    """Source and target tokens, of which a quarter is padding."""
    rng = np.random.default_rng(0)
    there = np.arange(LENGTH) < rng.integers(LENGTH // 2, LENGTH + 1, (BATCH, 1))
    return [(rng.integers(3, VOCABULARY, (BATCH, LENGTH)) * there).astype("int32") for _ in range(2)]


def ours(attention):
    def create():
        import keras_dl

        options = dict(cell="gru", bidirectional=True, attention="additive", attention_dim=UNITS) if attention else {}
        return keras_dl.Seq2Seq(VOCABULARY, VOCABULARY, EMBEDDING, UNITS, **options)

    return create


def theirs(attention):
    def create():
        import keras
        from keras import layers, ops

        sources, targets = (keras.Input((LENGTH,), dtype="int32", name=name) for name in ("source", "target"))
        begun = ops.pad(targets[:, :-1], [[0, 0], [1, 0]], constant_values=1)
        x = layers.Embedding(VOCABULARY, EMBEDDING)(sources)
        y = layers.Embedding(VOCABULARY, EMBEDDING)(begun)
        mask = ops.not_equal(sources, 0)
        if attention:
            memory, *ends = layers.Bidirectional(layers.GRU(UNITS, return_sequences=True, return_state=True))(
                x, mask=mask
            )
            first = layers.Dense(UNITS, "tanh")(layers.Concatenate()(ends))
            keys = layers.Dense(UNITS)(memory)
            seen = [first, memory, keys, ops.cast(mask, "float32")]
            hidden = layers.RNN(_attentive_cell(), return_sequences=True)(y, initial_state=seen)
        else:
            _, *states = layers.LSTM(UNITS, return_state=True)(x, mask=mask)
            hidden = layers.LSTM(UNITS, return_sequences=True)(y, initial_state=states)
        logits = layers.Dense(VOCABULARY)(hidden)
        return keras.Model({"source": sources, "target": targets}, logits)

    return create


def _attentive_cell():
    """A GRU cell that attends before each step (Bahdanau et al.) and outputs its state and the context."""
    import keras
    from keras import layers, ops

    class Cell(layers.Layer):
        def __init__(self):
            super().__init__()
            self.cell = layers.GRUCell(UNITS)
            self.query, self.vector = layers.Dense(UNITS, use_bias=False), layers.Dense(1, use_bias=False)
            self.state_size = [UNITS, (LENGTH, 2 * UNITS), (LENGTH, UNITS), LENGTH]
            self.output_size = 3 * UNITS

        def build(self, shape):
            self.cell.build((None, EMBEDDING + 2 * UNITS))
            self.query.build((None, UNITS))
            self.vector.build((None, LENGTH, UNITS))

        def call(self, x, states, training=False):
            hidden, memory, keys, mask = states
            scores = self.vector(ops.tanh(ops.expand_dims(self.query(hidden), 1) + keys))[..., 0]
            weights = ops.softmax(scores - 1e9 * (1 - mask))
            context = ops.squeeze(ops.matmul(ops.expand_dims(weights, 1), memory), 1)
            hidden, _ = self.cell(ops.concatenate([x, context], -1), [hidden], training=training)
            return ops.concatenate([hidden, context], -1), [hidden, memory, keys, mask]

    return keras.saving.register_keras_serializable(package="benchmarks")(Cell)()


def keras_step(create, jit):
    """One `train_step`, compiled as `fit` compiles it."""

    def set_up():
        import keras
        import tensorflow as tf

        keras.utils.set_random_seed(0)
        model = create()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
        model.compile(keras.optimizers.Adam(1e-3), loss, jit_compile=jit)
        model.optimizer.build(model.trainable_variables)
        sources, targets = map(tf.constant, _tokens())
        data = {"source": sources, "target": targets}, targets, tf.cast(targets != 0, tf.float32)
        function = tf.function(model.train_step, jit_compile=jit, reduce_retracing=True)
        return lambda: float(function(data)["loss"])

    return set_up


def torch_step():
    """The model without attention. Padding is at the end, and the state before it goes to the decoder."""
    torch = require("torch", extra="benchmarks")
    nn = torch.nn
    torch.manual_seed(0)
    torch.set_flush_denormal(True)  # as TensorFlow does
    tables = [nn.Embedding(VOCABULARY, EMBEDDING) for _ in range(2)]
    reader, writer = (nn.LSTM(EMBEDDING, UNITS, batch_first=True) for _ in range(2))
    head = nn.Linear(UNITS, VOCABULARY)
    optimizer = torch.optim.Adam(nn.ModuleList([*tables, reader, writer, head]).parameters(), 1e-3)
    sources, targets = (torch.from_numpy(x.astype("int64")) for x in _tokens())
    begun = nn.functional.pad(targets[:, :-1], (1, 0), value=1)
    lengths = (sources != 0).sum(1)

    def loss():
        read = nn.utils.rnn.pack_padded_sequence(tables[0](sources), lengths, batch_first=True, enforce_sorted=False)
        hidden, _ = writer(tables[1](begun), reader(read)[1])
        return nn.functional.cross_entropy(head(hidden).flatten(0, 1), targets.flatten(), ignore_index=0)

    return torch_descent(optimizer, loss)


def _contenders(attention):
    return {
        "keras_dl XLA": keras_step(ours(attention), jit=True),
        "keras_dl graph": keras_step(ours(attention), jit=False),
        "Keras layers XLA": keras_step(theirs(attention), jit=True),
        "Keras layers graph": keras_step(theirs(attention), jit=False),
    }


SIZES = f"batch {BATCH}, lengths {LENGTH}, {VOCABULARY:,} tokens, {UNITS} units, Adam, float32"
TASKS = [
    Task(
        "seq2seq-train",
        f"LSTM encoder-decoder, one training step, {SIZES}",
        _contenders(attention=False) | {"torch.nn eager": torch_step},
    ),
    Task(
        "seq2seq-attention-train",
        f"GRU encoder-decoder with additive attention, one training step, {SIZES}",
        _contenders(attention=True),
    ),
]
