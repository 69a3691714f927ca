"""Transformer: sequence to sequence by attention alone.

    memory  = encoder(sqrt(d) E(source) + P)
    logits  = decoder(sqrt(d) E(target) + P, memory) E^T          one table E for both languages and the softmax
    block   = norm(x + dropout(sublayer(x))) for each sublayer: self-attention, attention to the memory, MLP

Decoding takes one position a step: the keys and values of earlier positions are kept in a cache of static size, those
of the memory are computed once.

Reference: Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762: sections 3 and 5, table 3; the schedule
is `keras_dl.schedules.InverseSquareRoot`, the loss `keras_dl.losses.SmoothedCrossentropy`, the mean of the last
checkpoints `keras_dl.averaging`.

Deviations from the paper:
- `norm_first` offers pre-norm, which trains without a long warm-up; then both stacks end with a layer norm.
- Lengths of source and target are bounded, since a file has static shapes: `source_length`, `target_length`.
"""

import keras
import tensorflow as tf
from keras import layers, ops

from keras_dl.base import Model, Signature
from keras_dl.checks import check_shapes, check_size
from keras_dl.compat import inner_layers
from keras_dl.layers.embedding import Positions, TokenEmbedding
from keras_dl.layers.norm import LayerNormalization
from keras_dl.layers.transformer import TransformerBlock, check_stack, step_through
from keras_dl.ops import decoding
from keras_dl.tokens import check_ids, check_rank, check_token, check_tokens, key_mask, known_tokens

# Table 3, with the shared vocabulary of "about 37000 tokens" of section 5.1: 63,045,632 and 214,171,648 parameters by
# the paper's equations, in which attention has no biases. The table rounds to 65 and 213 million; no one vocabulary
# gives both (40,800 tokens would give the first, 35,900 the second).
PRESETS = {
    "base": dict(num_layers=6, hidden_dim=512, mlp_dim=2048, num_heads=8, dropout_rate=0.1),
    "big": dict(num_layers=6, hidden_dim=1024, mlp_dim=4096, num_heads=16, dropout_rate=0.3),
}


class SearchingModel(Model):
    """A model that decodes by `keras_dl.ops.decoding`. It has `start_token` and `end_token`."""

    def _search(self, tokens, beam_size):
        """`(step, state, max_length)`, as a search of `tokens` takes them."""
        raise NotImplementedError

    def _searched(self, tokens, beam_size, length_penalty):
        """A beam search as one graph, traced once for a shape of the tokens and a kind of search: `Hypotheses`."""

        def search(tokens, beam_size, length_penalty):
            step, state, length = self._search(tokens, beam_size)
            return decoding.beam_search(
                step, state, self.start_token, self.end_token, beam_size, length, length_penalty
            )

        # Not an attribute: TensorFlow would write it into every SavedModel.
        graphs = self.__dict__.setdefault("_graphs", {})
        if "search" not in graphs:
            graphs["search"] = tf.function(search, autograph=False)
        return graphs["search"](
            tokens, check_size("beam_size", beam_size), decoding.check_length_penalty(length_penalty)
        )

    def _greedy(self, tokens):
        """The tokens of the greedy search, inside the graph at hand."""
        step, state, length = self._search(tokens, 1)
        return {"tokens": decoding.greedy(step, state, self.start_token, self.end_token, length).tokens}


@keras.saving.register_keras_serializable(package="keras_dl")
class Transformer(SearchingModel):
    """Encoder and decoder, from tokens of a source to logits of the next token of a target.

    Token 0 is padding, at the end of a sequence; it is not attended to as a part of the source, and never decoded. A
    source of nothing but padding has a memory of nothing: it decodes to finite, meaningless tokens.

    Args:
        vocabulary_size: int. Tokens of the target, padding included; and of the source, if that has no own ones.
        source_vocabulary_size: int, or None for one vocabulary and one table for both.
        num_layers: int. Blocks of the encoder, and of the decoder.
        hidden_dim: int. Width, d.
        mlp_dim: int. Width of the MLPs' hidden layer.
        num_heads: int. Must divide `hidden_dim`.
        dropout_rate: float in [0, 1). Of each sublayer's result, and of embeddings with positions.
        attention_dropout_rate: float in [0, 1). Of attention weights.
        activation: "relu", "gelu" or "gelu_tanh".
        norm_first: bool. True for pre-norm.
        norm_epsilon: float. Added to variances.
        attention_bias: bool. Whether queries, keys, values and outputs of attention have biases.
        source_length: int. Tokens of a source at most.
        target_length: int. Tokens of a target at most; the size of the cache.
        start_token: int. The token before a target's first.
        end_token: int. A target's last token.

    Call arguments:
        inputs: dict of `source`: int, `(batch, n)`, and `target`: int, `(batch, m)`, which begins with `start_token`.
            An id outside of the vocabulary raises an error eagerly; in a graph it counts as padding.

    Returns:
        float32, `(batch, m, vocabulary_size)`: logits of the token after each of `target`.

    Raises:
        ValueError: if an argument is none of the above, or a sequence has no token or more than its length; it says
            which. A length that a graph does not know before it runs is its `InvalidArgumentError`.

    Example:

    >>> model = Transformer(50, num_layers=1, hidden_dim=16, mlp_dim=32, num_heads=2, source_length=8, target_length=6)
    >>> source = keras.ops.array([[5, 9, 7, 2, 0, 0]])
    >>> model({"source": source, "target": keras.ops.array([[1, 4, 4]])}).shape
    TensorShape([1, 3, 50])
    >>> model.translate(source, beam_size=2).shape
    TensorShape([1, 6])
    """

    presets = PRESETS

    def __init__(
        self,
        vocabulary_size=37_000,
        source_vocabulary_size=None,
        num_layers=6,
        hidden_dim=512,
        mlp_dim=2048,
        num_heads=8,
        dropout_rate=0.1,
        attention_dropout_rate=0.0,
        activation="relu",
        norm_first=False,
        norm_epsilon=1e-6,
        attention_bias=False,
        source_length=128,
        target_length=128,
        start_token=1,
        end_token=2,
        dtype=None,
        **kwargs,
    ):
        stack = check_stack(
            num_layers, hidden_dim, mlp_dim, num_heads, dropout_rate, attention_dropout_rate, activation
        )
        vocabulary_size = check_size("vocabulary_size", vocabulary_size, 3)
        if source_vocabulary_size is not None:
            source_vocabulary_size = check_size("source_vocabulary_size", source_vocabulary_size, 2)
        source_length = check_size("source_length", source_length)
        target_length = check_size("target_length", target_length)
        start_token = check_token("start_token", start_token, vocabulary_size)
        end_token = check_token("end_token", end_token, vocabulary_size)
        super().__init__(dtype=dtype, **kwargs)
        self.vocabulary_size = vocabulary_size
        self.source_vocabulary_size = source_vocabulary_size
        self.num_layers, self.hidden_dim, self.mlp_dim, self.num_heads = stack[:4]
        self.dropout_rate, self.attention_dropout_rate, self.activation = stack[4:]
        self.norm_first = norm_first
        self.norm_epsilon = norm_epsilon
        self.attention_bias = attention_bias
        self.source_length = source_length
        self.target_length = target_length
        self.start_token = start_token
        self.end_token = end_token

        shared = dict(dtype=self.dtype_policy)
        self.embedding = TokenEmbedding(vocabulary_size, hidden_dim, name="embedding", **shared)
        self.source_embedding = self.embedding
        if source_vocabulary_size is not None:
            self.source_embedding = TokenEmbedding(
                source_vocabulary_size, hidden_dim, name="source_embedding", **shared
            )
        self.source_positions = Positions(source_length, name="source_positions", **shared)
        self.positions = Positions(target_length, name="positions", **shared)
        self.dropout = layers.Dropout(dropout_rate, name="dropout", **shared)

        def block(name, cross_attention):
            return TransformerBlock(
                num_heads,
                mlp_dim,
                cross_attention,
                dropout_rate,
                attention_dropout_rate,
                activation,
                norm_first,
                norm_epsilon,
                attention_bias,
                name=name,
                **shared,
            )

        self.encoder = [block(f"encoder_{i}", False) for i in range(num_layers)]
        self.decoder = [block(f"decoder_{i}", True) for i in range(num_layers)]
        if norm_first:
            self.encoder_norm = LayerNormalization(epsilon=norm_epsilon, name="encoder_norm", **shared)
            self.decoder_norm = LayerNormalization(epsilon=norm_epsilon, name="decoder_norm", **shared)
        self.build({"source": (None, source_length), "target": (None, target_length)})

    def build(self, inputs_shape):
        """Makes all weights: their shapes depend on the arguments alone."""
        for layer in inner_layers(self):
            if not layer.built:
                layer.build((None, None) if isinstance(layer, TokenEmbedding) else (None, None, self.hidden_dim))

    def compute_output_shape(self, inputs_shape):
        return (*inputs_shape["target"], self.vocabulary_size)

    def call(self, inputs, training=False):
        memory, memory_mask = self.encode(inputs["source"], training)
        states = self._target_states(inputs["target"], training)
        for block in self.decoder:
            states = block(states, None, memory, memory_mask, causal=True, training=training)
        return self._logits(states)

    def encode(self, source, training=False):
        """The encoder.

        Args:
            source: int, `(batch, n)`.
            training: bool. Whether dropout is on.

        Returns:
            The memory, float `(batch, n, hidden_dim)`, and which of it may be attended to, bool `(batch, 1, n)`.
        """
        source = known_tokens("source", source, self.source_embedding.vocabulary_size)
        check_rank("source", source)
        mask = key_mask(source)
        states = self.dropout(self.source_positions(self.source_embedding(source)), training=training)
        for block in self.encoder:
            states = block(states, mask, training=training)
        return (self.encoder_norm(states) if self.norm_first else states), mask

    def _target_states(self, target, training=False):
        target = ops.convert_to_tensor(target)
        check_rank("target", target)
        return self.dropout(self.positions(self.embedding(target)), training=training)

    def _logits(self, states):
        return self.embedding.logits(self.decoder_norm(states) if self.norm_first else states)

    def alignment(self, source, target, layer=-1):
        """Where each position of the target looks in the source.

        Args:
            source: int, `(batch, n)`.
            target: int, `(batch, m)`, which begins with `start_token`.
            layer: int. Which block of the decoder.

        Returns:
            float, `(batch, heads, m, n)`: attention weights, whose rows sum to 1.

        Raises:
            ValueError: if there is no such layer, or tokens are of another shape.
        """
        if layer not in range(-self.num_layers, self.num_layers):
            raise ValueError(f"layer={layer} must be an integer from {-self.num_layers} to {self.num_layers - 1}.")
        memory, memory_mask = self.encode(source)
        states = self._target_states(target)
        blocks = self.decoder[: range(self.num_layers)[layer] + 1]
        for block in blocks[:-1]:
            states = block(states, None, memory, memory_mask, causal=True)
        return blocks[-1].memory_weights(states, memory, memory_mask)

    def begin(self, source):
        """What decoding starts from.

        Args:
            source: int, `(batch, n)`.

        Returns:
            dict of `memory_keys` and `memory_values`, float `(batch, num_layers * num_heads, n, head_dim)`, those of
            all blocks; `memory_mask`, float `(batch, 1, n)`, 1 where the source may be attended to; and the empty
            cache, `keys` and `values`, `(batch, num_layers * num_heads, target_length, head_dim)`.

        Raises:
            ValueError: if tokens are floats, none or too many, or one is not in the vocabulary.
        """
        memory, mask = self.encode(check_ids("source", source))
        pairs = [block.memory_attention.project(memory) for block in self.decoder]
        keys, values = (ops.concatenate(x, axis=1) for x in zip(*pairs, strict=True))
        # Zeros that are computed: an output that is a constant has no int8 form.
        empty = ops.minimum(ops.abs(keys[:, :, :1]), 0.0)
        empty = ops.pad(empty, ((0, 0), (0, 0), (0, self.target_length - 1), (0, 0)))
        return {
            "keys": empty,
            "values": empty,
            "memory_keys": keys,
            "memory_values": values,
            "memory_mask": ops.cast(mask, "float32"),
        }

    def decode_step(self, tokens, position, keys, values, memory_keys, memory_values, memory_mask):
        """The next token's log-probabilities, and the cache with the keys and values of this one.

        Args:
            tokens: int, `(batch,)`: the tokens before the next ones; `start_token` at first.
            position: int, `(batch,)`: how many tokens of each target have been decoded; less than `target_length`.
            keys, values, memory_keys, memory_values, memory_mask: as `begin` returns them.

        Returns:
            `log_probabilities`, float32 `(batch, vocabulary_size)`; and `keys` and `values`.

        Raises:
            ValueError: if the shapes are others, or do not go together, or tokens are floats.
        """
        heads, dim = self.num_layers * self.num_heads, self.hidden_dim // self.num_heads
        cache, memory = ("batch", heads, self.target_length, dim), ("batch", heads, "n", dim)
        check_shapes(
            "decode_step",
            dict(tokens=tokens, position=position, keys=keys, values=values)
            | dict(memory_keys=memory_keys, memory_values=memory_values, memory_mask=memory_mask),
            dict(tokens=("batch",), position=("batch",), keys=cache, values=cache)
            | dict(memory_keys=memory, memory_values=memory, memory_mask=("batch", 1, "n")),
            "start with begin(source)",
        )
        tokens = check_ids("tokens", tokens)
        position = ops.clip(ops.cast(position, "int32"), 0, self.target_length - 1)
        states = self.positions(self.embedding(ops.expand_dims(tokens, 1)), position)
        states, keys, values = step_through(
            self.decoder, states, keys, values, position, memory_keys, memory_values, memory_mask > 0.5
        )
        return ops.log_softmax(ops.squeeze(self._logits(states), 1)), keys, values

    def _search(self, source, beam_size):
        # The cache is the state; the memory, which does not change, stays outside of it.
        state = self.begin(source)
        cache = state.pop("keys"), state.pop("values")
        memory = decoding.repeat(state, beam_size) if beam_size > 1 else state

        def step(tokens, position, cache):
            log_p, *cache = self.decode_step(tokens, position, *cache, **memory)
            return log_p, tuple(cache)

        return step, cache, self.target_length

    def translate(self, source, beam_size=4, length_penalty=0.6):
        """The best target that a beam search finds; the defaults are the paper's (section 6.1).

        Args:
            source: int, `(batch, n)`.
            beam_size: int. 1 is the greedy search. May be larger than the vocabulary.
            length_penalty: float, at least 0.

        Returns:
            int32, `(batch, target_length)`: tokens, that of the end included where there is one; 0 follows.

        Raises:
            ValueError: if an argument is none of the above, a source too long, or an id not in the vocabulary.
        """
        return self.search(source, beam_size, length_penalty).tokens[:, 0]

    def search(self, source, beam_size=4, length_penalty=0.6):
        """As `translate`, with all that the search found: `keras_dl.ops.decoding.Hypotheses`, of static shapes."""
        source = check_tokens("source", source, self.source_embedding.vocabulary_size, self.source_length)
        return self._searched(source, beam_size, length_penalty)

    def serving_signatures(self, batch_size=1):
        """What a device runs: dict of `Signature`.

        `encode(tokens: int32, (batch_size, source_length))` returns what `begin` does. `decode_step(tokens: int32,
        (batch_size,); position: int32, (batch_size,); keys, values, memory_keys, memory_values, memory_mask)` returns
        `log_probabilities`, float32 `(batch_size, vocabulary_size)`, and the new `keys` and `values`;
        `keras_dl.export.beam_search` drives both. `translate(tokens: as encode)` is the whole greedy search:
        `{"tokens": int32, (batch_size, target_length)}`.
        """
        source = {"tokens": keras.KerasTensor((batch_size, self.source_length), "int32", name="tokens")}
        heads, dim = self.num_layers * self.num_heads, self.hidden_dim // self.num_heads

        def state(name, *shape):
            return keras.KerasTensor((batch_size, *shape), "float32", name=name)

        step = {name: keras.KerasTensor((batch_size,), "int32", name=name) for name in ("tokens", "position")}
        step |= {name: state(name, heads, self.target_length, dim) for name in ("keys", "values")}
        step |= {name: state(name, heads, self.source_length, dim) for name in ("memory_keys", "memory_values")}
        step["memory_mask"] = state("memory_mask", 1, self.source_length)

        def decode_step(**inputs):
            names = ("log_probabilities", "keys", "values")
            return dict(zip(names, self.decode_step(**inputs), strict=True))

        return {
            "encode": Signature(lambda tokens: self.begin(tokens), source),
            "decode_step": Signature(decode_step, step),
            "translate": Signature(self._greedy, source),
        }
