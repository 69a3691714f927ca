"""Encoder and decoder of `keras_dl.Seq2Seq`, where the equations stand."""

import functools

import keras
from keras import layers, ops

from keras_dl.base import Layer
from keras_dl.layers.alignment import AdditiveAttention
from keras_dl.layers.gru import GRU
from keras_dl.layers.lstm import LSTM
from keras_dl.ops.attentive_recurrence import Memory, attentive_scan
from keras_dl.tokens import PADDING, check_places, known_tokens

CELLS = {"lstm": LSTM, "gru": GRU}
# What the states of a layer are called: `hidden_0`, `cell_0`, `hidden_1`, ...
STATES = {"lstm": ("hidden", "cell"), "gru": ("hidden",)}


@keras.saving.register_keras_serializable(package="keras_dl")
class SequenceEncoder(Layer):
    """Reads source tokens, and gives a decoder its first state and what it may look at.

    Args:
        vocabulary_size, embedding_dim, hidden_dim, num_layers, cell, bidirectional, reverse_source, dropout_rate: as in
            `keras_dl.Seq2Seq`.
        keeps: "state", what a decoder without attention needs; "context", the vector that is fed at every step; or
            "memory", what attention looks at.

    Call arguments:
        sources: int, `(batch, source_length)`; 0 is padding.

    Returns:
        dict: the decoder's first state, `(batch, hidden_dim)` each; `context`, `(batch, hidden_dim)`; or `memory`,
        `(batch, source_length, width)`, and `memory_mask`, bool, True = a token.
    """

    def __init__(
        self,
        vocabulary_size,
        embedding_dim,
        hidden_dim,
        num_layers=1,
        cell="lstm",
        bidirectional=False,
        reverse_source=False,
        dropout_rate=0.0,
        keeps="state",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.embedding_dim = embedding_dim
        self.hidden_dim = hidden_dim
        self.num_layers = num_layers
        self.cell = cell
        self.bidirectional = bidirectional
        self.reverse_source = reverse_source
        self.dropout_rate = dropout_rate
        self.keeps = keeps
        shared = dict(dtype=self.dtype_policy)
        self.embedding = layers.Embedding(vocabulary_size, embedding_dim, name="embedding", **shared)
        self.dropout = layers.Dropout(dropout_rate, **shared)

        def stack(name, **options):
            options |= dict(return_sequences=True, return_state=True, **shared)
            return [CELLS[cell](hidden_dim, name=f"{name}_{i}", **options) for i in range(num_layers)]

        self.forward = stack("forward")
        self.backward = stack("backward", go_backwards=True) if bidirectional else []
        # The decoder's states are as wide as one direction's; Cho et al. make them of the context.
        self.bridges = {}
        if bidirectional or keeps == "context":
            names = [f"{name}_{i}" for i in range(num_layers) for name in STATES[cell]]
            self.bridges = {name: layers.Dense(hidden_dim, "tanh", name=f"to_{name}", **shared) for name in names}
        self.summary = layers.Dense(hidden_dim, "tanh", name="context", **shared) if keeps == "context" else None

    def build(self, sources_shape):
        self.embedding.build(sources_shape)
        directions = 1 + self.bidirectional
        for i in range(self.num_layers):
            width = directions * self.hidden_dim if i else self.embedding_dim
            for stack in (self.forward, self.backward)[:directions]:
                stack[i].build((None, None, width))
        for bridge in self.bridges.values():
            bridge.build((None, self.hidden_dim if self.summary else directions * self.hidden_dim))
        if self.summary:
            self.summary.build((None, directions * self.hidden_dim))

    def call(self, sources, training=False):
        check_places("sources", sources)
        tokens = known_tokens("sources", sources, self.vocabulary_size)
        mask = ops.not_equal(tokens, PADDING)
        if self.reverse_source:  # padding then stands in front, where the mask keeps the state at zero
            tokens, read = ops.flip(tokens, axis=1), ops.flip(mask, axis=1)
        else:
            read = mask
        x = self.dropout(self.embedding(tokens), training=training)
        states = []
        for i, layer in enumerate(self.forward):
            x, states_i = _run(layer, x, read, training, self.backward[i] if self.backward else None)
            states.append(states_i)
            x = self.dropout(x, training=training) if i + 1 < self.num_layers else x
        found = {
            f"{name}_{i}": state
            for i, states_i in enumerate(states)
            for name, state in zip(STATES[self.cell], states_i, strict=True)
        }
        if self.keeps == "context":
            context = self.summary(found[f"hidden_{self.num_layers - 1}"])
            found = dict.fromkeys(found, context) | {"context": context}
        found |= {name: bridge(found[name]) for name, bridge in self.bridges.items()}
        if self.keeps == "memory":
            found |= {"memory": ops.flip(x, axis=1) if self.reverse_source else x, "memory_mask": mask}
        return dict(sorted(found.items()))


def _run(layer, x, mask, training, backward=None):
    """Outputs `(batch, length, width)` and last states of one layer, of one direction or two."""
    outputs, *states = layer(x, mask=mask, training=training)
    if backward is None:
        return outputs, states
    others, *other_states = backward(x, mask=mask, training=training)
    outputs = ops.concatenate([outputs, ops.flip(others, axis=1)], axis=-1)
    return outputs, [ops.concatenate(pair, axis=-1) for pair in zip(states, other_states, strict=True)]


@keras.saving.register_keras_serializable(package="keras_dl")
class SequenceDecoder(Layer):
    """Gives the logits of target tokens, each from the tokens before it; of a whole sequence, or step by step.

    Args:
        vocabulary_size, embedding_dim, hidden_dim, num_layers, cell, dropout_rate, maxout_dim, start_token: as in
            `keras_dl.Seq2Seq`.
        looks_at: "state", "context" or "memory", as the encoder's `keeps`.
        attention_dim: int. Hidden width of the attention, for "memory".

    Call arguments:
        tokens: int, `(batch, target_length)`: the targets, of which each place sees those before it; or `(batch,)`: the
            tokens before the next ones, for one step.
        state: dict, as the encoder gives it. For a step also `keys`, which `prepared` adds.
        alignment: bool. Whether the attention's weights are wanted, of a whole sequence.

    Returns:
        float32 logits, `(batch, target_length, vocabulary_size)`; or the weights, `(batch, target_length,
        source_length)`; or, for a step, a dict of float32 `logits`, `(batch, vocabulary_size)`, the new states, and
        with attention its weights `alignment`, `(batch, source_length)`.
    """

    def __init__(
        self,
        vocabulary_size,
        embedding_dim,
        hidden_dim,
        num_layers=1,
        cell="lstm",
        looks_at="state",
        attention_dim=0,
        maxout_dim=0,
        dropout_rate=0.0,
        start_token=1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.embedding_dim = embedding_dim
        self.hidden_dim = hidden_dim
        self.num_layers = num_layers
        self.cell = cell
        self.looks_at = looks_at
        self.attention_dim = attention_dim
        self.maxout_dim = maxout_dim
        self.dropout_rate = dropout_rate
        self.start_token = start_token
        shared = dict(dtype=self.dtype_policy)
        self.embedding = layers.Embedding(vocabulary_size, embedding_dim, name="embedding", **shared)
        self.dropout = layers.Dropout(dropout_rate, **shared)
        self.recurrent = [
            CELLS[cell](hidden_dim, return_sequences=True, name=f"{cell}_{i}", **shared) for i in range(num_layers)
        ]
        self.attention = AdditiveAttention(attention_dim, name="attention", **shared) if looks_at == "memory" else None
        self.maxout = layers.Dense(2 * maxout_dim, name="maxout", **shared) if maxout_dim else None
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
        """The state with what a step needs of the memory and does not change: the attention's `keys`."""
        return state | {"keys": self.attention.project(state["memory"])} if self.attention else state

    def call(self, tokens, state, alignment=False, training=False):
        name = "targets" if len(tokens.shape) == 2 else "tokens"
        check_places(name, tokens)
        tokens = known_tokens(name, tokens, self.vocabulary_size)
        if len(tokens.shape) == 1:
            return self._step(tokens, state)
        start = ops.full_like(tokens[:, :1], self.start_token)
        embedded = self.embedding(ops.concatenate([start, tokens[:, :-1]], axis=1))
        embedded = self.dropout(embedded, training=training)
        first = self.recurrent[0]
        seen = []
        if self.attention:
            hidden, context, weights = self._attending(embedded, self.prepared(state))
            if alignment:
                return weights
            seen = [context]
        else:
            x = embedded
            if self.looks_at == "context":
                context = ops.expand_dims(state["context"], 1) + ops.zeros_like(x[..., :1])
                x, seen = ops.concatenate([x, context], axis=-1), [context]
            hidden = first(x, initial_state=self._states(state, 0), training=training)
        for i, layer in enumerate(self.recurrent[1:], 1):
            hidden = self.dropout(hidden, training=training)
            hidden = layer(hidden, initial_state=self._states(state, i), training=training)
        return self._logits(hidden, embedded, seen, training)

    def _attending(self, embedded, state):
        """The first layer, which looks at the memory before each step, from the state that it has then.

        Returns:
            hidden states, contexts and weights, each `(batch, target_length, ...)`.
        """
        cell, attention, values = self.recurrent[0].cell, self.attention, state["memory"]
        width = values.shape[-1]
        # One product for the embeddings of all steps; that of the contexts has to wait for them.
        rows = cell.project(ops.pad(embedded, [[0, 0], [0, 0], [0, width]]))
        cast = functools.partial(ops.cast, dtype=rows.dtype)
        memory = Memory(
            values,
            state["keys"],
            state["memory_mask"],
            *map(cast, (attention.query_kernel, attention.vector, cell.kernel[-width:])),
        )
        found = attentive_scan(
            cell.advance,
            ops.transpose(rows, (1, 0, 2)),
            memory,
            [None if w is None else cast(w) for w in cell.recurrent_weights()],
            self._states(state, 0),
            cell.additive,
        )
        return [ops.transpose(x, (1, 0, 2)) for x in found]

    def _step(self, tokens, state):
        embedded = x = self.embedding(tokens)
        seen, found = [], {}
        if self.attention:
            context, found["alignment"] = self.attention.attend(
                state["hidden_0"], state["memory"], state["keys"], state["memory_mask"]
            )
            seen = [context]
        elif self.looks_at == "context":
            seen = [state["context"]]
        if seen:
            x = ops.concatenate([x, *seen], axis=-1)
        for i, layer in enumerate(self.recurrent):
            new = layer.cell.step(layer.cell.project(x), self._states(state, i))
            found |= {f"{name}_{i}": value for name, value in zip(STATES[self.cell], new, strict=True)}
            x = new[0]
        return found | {"logits": self._logits(x, embedded, seen)}

    def _states(self, state, i):
        return [state[f"{name}_{i}"] for name in STATES[self.cell]]

    def _logits(self, hidden, embedded, seen, training=False):
        features = [hidden, *seen]
        if self.maxout:
            pairs = self.maxout(ops.concatenate([*features, embedded], axis=-1))
            x = ops.maximum(pairs[..., : self.maxout_dim], pairs[..., self.maxout_dim :])
        else:
            x = ops.concatenate(features, axis=-1) if seen else hidden
        return self.readout(self.dropout(x, training=training))
