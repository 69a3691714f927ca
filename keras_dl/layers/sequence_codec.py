"""Encoder and decoder of `keras_dl.Seq2Seq`, where the equations stand.

The encoder passes on to the decoder its last states only (Sutskever et al.), a context that is fed at every step (Cho
et al.), or a memory that is attended to (Bahdanau et al.): `passes_on`.
"""

import functools

import keras
from keras import layers, ops

from keras_dl.arguments import AtLeast, OneOf, Rate, Size, arguments
from keras_dl.base import Layer
from keras_dl.layers.alignment import AdditiveAttention
from keras_dl.layers.gru import GRU
from keras_dl.layers.lstm import LSTM
from keras_dl.layers.recurrent import STATES
from keras_dl.ops.attentive_recurrence import Memory, attentive_scan
from keras_dl.tokens import PADDING, check_sequences, known_tokens

CELLS = {"lstm": LSTM, "gru": GRU}
Cell = OneOf(*CELLS)
PassesOn = OneOf("state", "context", "memory")


@keras.saving.register_keras_serializable(package="keras_dl")
class SequenceEncoder(Layer):
    """Reads source tokens, and gives a decoder its first state and what it may look at.

    Args:
        vocabulary_size, embedding_dim, hidden_dim, num_layers, cell, dropout_rate, bidirectional, reverse_source: as in
            `keras_dl.Seq2Seq`.
        passes_on: "state", the last states only; "context", also a vector that is fed at every step; or "memory", also
            the states of all steps, which attention looks at.

    Call arguments:
        source: int, `(batch, n)`; 0 is padding.

    Returns:
        dict of the decoder's first state, float `(batch, hidden_dim)` each. With "context", also `context`, float
        `(batch, hidden_dim)`. With "memory", also `memory`, float `(batch, n, width)`, and `memory_mask`, bool `(batch,
        n)`, True = a token.
    """

    renamed_arguments = {"keeps": "passes_on"}

    @arguments
    def __init__(
        self,
        vocabulary_size: AtLeast(2),
        embedding_dim: Size,
        hidden_dim: Size,
        num_layers: Size = 1,
        cell: Cell = "lstm",
        dropout_rate: Rate = 0.0,
        passes_on: PassesOn = "state",
        bidirectional: bool = False,
        reverse_source: bool = False,
        dtype=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.embedding = layers.Embedding(vocabulary_size, embedding_dim, name="embedding")
        self.dropout = layers.Dropout(dropout_rate)

        def stack(name, **options):
            options |= dict(return_sequences=True, return_state=True)
            return [CELLS[cell](hidden_dim, name=f"{name}_{i}", **options) for i in range(num_layers)]

        self.forward = stack("forward")
        self.backward = stack("backward", go_backwards=True) if bidirectional else []
        # The decoder's states are as wide as one direction's. Cho et al. make them of the context.
        self.bridges = {}
        if bidirectional or passes_on == "context":
            names = [f"{name}_{i}" for i in range(num_layers) for name in STATES[cell]]
            self.bridges = {name: layers.Dense(hidden_dim, "tanh", name=f"to_{name}") for name in names}
        self.summary = layers.Dense(hidden_dim, "tanh", name="context") if passes_on == "context" else None

    def build(self, source_shape):
        self.embedding.build(source_shape)
        directions = 1 + self.bidirectional
        for i in range(self.num_layers):
            width = directions * self.hidden_dim if i else self.embedding_dim
            for stack in (self.forward, self.backward)[:directions]:
                stack[i].build((None, None, width))
        for bridge in self.bridges.values():
            bridge.build((None, self.hidden_dim if self.summary else directions * self.hidden_dim))
        if self.summary:
            self.summary.build((None, directions * self.hidden_dim))

    def call(self, source, training=False):
        check_sequences("source", source)
        tokens = known_tokens("source", source, self.vocabulary_size)
        mask = ops.not_equal(tokens, PADDING)  # (batch, n)
        if self.reverse_source:  # padding then stands in front, where the mask keeps the state at zero
            tokens, read = ops.flip(tokens, axis=1), ops.flip(mask, axis=1)
        else:
            read = mask
        x = self.dropout(self.embedding(tokens), training=training)  # (batch, n, embedding_dim)
        state = {}
        for i, layer in enumerate(self.forward):
            x = self.dropout(x, training=training) if i else x
            backward = self.backward[i] if self.backward else None
            x, states = _run(layer, x, read, training, backward)  # (batch, n, hidden_dim), twice the width of two
            state |= {f"{name}_{i}": value for name, value in zip(STATES[self.cell], states, strict=True)}
        if self.passes_on == "context":
            context = self.summary(state[f"hidden_{self.num_layers - 1}"])  # (batch, hidden_dim)
            state = dict.fromkeys(state, context) | {"context": context}
        state |= {name: bridge(state[name]) for name, bridge in self.bridges.items()}
        if self.passes_on == "memory":
            state |= {"memory": ops.flip(x, axis=1) if self.reverse_source else x, "memory_mask": mask}
        return dict(sorted(state.items()))


def _run(layer, x, mask, training, backward=None):
    """Outputs `(batch, n, width)` and last states of one layer, in one direction or two."""
    outputs, *states = layer(x, mask=mask, training=training)
    if backward is None:
        return outputs, states
    others, *other_states = backward(x, mask=mask, training=training)
    outputs = ops.concatenate([outputs, ops.flip(others, axis=1)], axis=-1)  # (batch, n, 2 * units)
    return outputs, [ops.concatenate(pair, axis=-1) for pair in zip(states, other_states, strict=True)]


@keras.saving.register_keras_serializable(package="keras_dl")
class SequenceDecoder(Layer):
    """Gives the logits of target tokens, each from the tokens before it: of a whole sequence, or step by step.

    Args:
        vocabulary_size, embedding_dim, hidden_dim, num_layers, cell, dropout_rate, maxout_dim, start_token: as in
            `keras_dl.Seq2Seq`.
        passes_on: "state", "context" or "memory": the result of the encoder.
        attention_dim: int. Hidden width of the attention, for "memory".

    Call arguments:
        tokens: int, `(batch, m)`: the target, each place of which sees those before it. Or, for one step, `(batch,)`:
            the tokens before the next ones.
        state: dict, as the encoder returns it. For a step also with `keys`, which `prepared` adds.
        alignment: bool. Whether to return the attention's weights, for a whole sequence.

    Returns:
        For a sequence, float32 logits `(batch, m, vocabulary_size)`, or the weights `(batch, m, n)`. For a step, a dict
        of float32 `logits`, `(batch, vocabulary_size)`; the new states; and with attention its weights `alignment`,
        `(batch, n)`.
    """

    renamed_arguments = {"looks_at": "passes_on"}

    @arguments
    def __init__(
        self,
        vocabulary_size: AtLeast(2),
        embedding_dim: Size,
        hidden_dim: Size,
        num_layers: Size = 1,
        cell: Cell = "lstm",
        dropout_rate: Rate = 0.0,
        passes_on: PassesOn = "state",
        attention_dim: Size = 128,
        maxout_dim: AtLeast(0) = 0,
        start_token: Size = 1,
        dtype=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.embedding = layers.Embedding(vocabulary_size, embedding_dim, name="embedding")
        self.dropout = layers.Dropout(dropout_rate)
        self.recurrent = [CELLS[cell](hidden_dim, return_sequences=True, name=f"{cell}_{i}") for i in range(num_layers)]
        self.attention = AdditiveAttention(attention_dim, name="attention") if passes_on == "memory" else None
        self.maxout = layers.Dense(2 * maxout_dim, name="maxout") if maxout_dim else None
        self.readout = layers.Dense(vocabulary_size, dtype="float32", name="logits")

    def build(self, tokens_shape, state_shape):
        seen = state_shape.get("memory", state_shape.get("context", (None, 0)))[-1]
        self.embedding.build(tokens_shape)
        for i, layer in enumerate(self.recurrent):
            layer.build((None, None, self.hidden_dim if i else self.embedding_dim + seen))
        if self.attention:
            self.attention.build((None, self.hidden_dim), state_shape["memory"])
        width = self.hidden_dim + seen
        if self.maxout:
            self.maxout.build((None, width + self.embedding_dim))
            width = self.maxout_dim
        self.readout.build((None, width))

    def prepared(self, state):
        """The state, with what a step needs of the memory and does not change: the attention's `keys`."""
        return state | {"keys": self.attention.project(state["memory"])} if self.attention else state

    def call(self, tokens, state, alignment=False, training=False):
        if len(tokens.shape) == 1:
            return self._step(known_tokens("tokens", tokens, self.vocabulary_size), state)
        check_sequences("target", tokens)
        tokens = known_tokens("target", tokens, self.vocabulary_size)
        start = ops.full_like(tokens[:, :1], self.start_token)
        embedded = self.embedding(ops.concatenate([start, tokens[:, :-1]], axis=1))  # (batch, m, embedding_dim)
        embedded = self.dropout(embedded, training=training)
        if self.attention:
            hidden, context, weights = self._attending(embedded, self.prepared(state))
            if alignment:
                return weights
            seen = [context]
        else:
            x, seen = embedded, []
            if self.passes_on == "context":
                context = ops.expand_dims(state["context"], 1) + ops.zeros_like(x[..., :1])  # (batch, m, hidden_dim)
                x, seen = ops.concatenate([x, context], axis=-1), [context]
            hidden = self.recurrent[0](x, initial_state=self._states(state, 0), training=training)
        for i, layer in enumerate(self.recurrent[1:], 1):
            hidden = self.dropout(hidden, training=training)
            hidden = layer(hidden, initial_state=self._states(state, i), training=training)  # (batch, m, hidden_dim)
        return self._logits(hidden, embedded, seen, training)

    def _attending(self, embedded, state):
        """The first layer, which looks at the memory before each step, from the state that it then has.

        Returns:
            hidden states, contexts and weights, each `(batch, m, ...)`.
        """
        cell, attention, values = self.recurrent[0].cell, self.attention, state["memory"]
        width = values.shape[-1]
        # One product for the embeddings of all steps; that of the contexts has to wait for them.
        rows = cell.project(ops.pad(embedded, [[0, 0], [0, 0], [0, width]]))  # (batch, m, gates)
        cast = functools.partial(ops.cast, dtype=rows.dtype)
        memory = Memory(
            values,
            state["keys"],
            state["memory_mask"],
            *map(cast, (attention.query_kernel, attention.vector, cell.kernel[-width:])),
        )
        outputs = attentive_scan(
            cell.advance,
            ops.transpose(rows, (1, 0, 2)),  # (m, batch, gates)
            memory,
            [None if w is None else cast(w) for w in cell.recurrent_weights()],
            self._states(state, 0),
            cell.additive,
        )
        return [ops.transpose(x, (1, 0, 2)) for x in outputs]

    def _step(self, tokens, state):
        embedded = x = self.embedding(tokens)  # (batch, embedding_dim)
        seen, outputs = [], {}
        if self.attention:
            context, outputs["alignment"] = self.attention.attend(
                state["hidden_0"], state["memory"], state["keys"], state["memory_mask"]
            )
            seen = [context]
        elif self.passes_on == "context":
            seen = [state["context"]]
        if seen:
            x = ops.concatenate([x, *seen], axis=-1)  # (batch, embedding_dim + width)
        for i, layer in enumerate(self.recurrent):
            states = layer.cell.step(layer.cell.project(x), self._states(state, i))
            outputs |= {f"{name}_{i}": value for name, value in zip(STATES[self.cell], states, strict=True)}
            x = states[0]  # (batch, hidden_dim)
        return outputs | {"logits": self._logits(x, embedded, seen)}

    def _states(self, state, i):
        """The states of layer `i`, in the order of its cell."""
        return [state[f"{name}_{i}"] for name in STATES[self.cell]]

    def _logits(self, hidden, embedded, seen, training=False):
        features = [hidden, *seen]
        if self.maxout:
            pairs = self.maxout(ops.concatenate([*features, embedded], axis=-1))  # (..., 2 * maxout_dim)
            x = ops.maximum(pairs[..., : self.maxout_dim], pairs[..., self.maxout_dim :])  # (..., maxout_dim)
        else:
            x = ops.concatenate(features, axis=-1) if seen else hidden  # (..., hidden_dim + width)
        return self.readout(self.dropout(x, training=training))  # (..., vocabulary_size)
