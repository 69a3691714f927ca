"""Transformer: sequence to sequence by attention alone.

    memory  = encoder(sqrt(d) E(source) + P)
    logits  = decoder(sqrt(d) E(target) + P, memory) E^T          one table E for both languages and the softmax
    block   = norm(x + dropout(sublayer(x))) for each sublayer: self-attention, attention to the memory, MLP

Decoding takes one position per step. The keys and values of earlier positions are kept in a cache of static size; those
of the memory are computed once.

Reference: Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762: sections 3 and 5, table 3; the schedule
is `keras_dl.schedules.InverseSquareRoot`, the loss `keras_dl.losses.SmoothedCrossentropy`, the mean of the last
checkpoints `keras_dl.averaging`.

Matrices start at Glorot's uniform distribution and tables at a normal one with a deviation of `1 / sqrt(d)`, as in the
authors' code.

Deviations from the paper:
- `norm_first` offers pre-norm, which trains without a long warm-up; then both stacks end with a layer norm.
- The lengths of source and target are bounded, since a file has static shapes: `source_length`, `target_length`.
"""

import functools

import keras
from keras import KerasTensor, layers, ops

from keras_dl.arguments import AtLeast, Positive, Rate, Size, arguments
from keras_dl.base import Model
from keras_dl.checks import check_heads
from keras_dl.compat import inner_layers
from keras_dl.layers.embedding import Positions, TokenEmbedding
from keras_dl.layers.norm import LayerNormalization
from keras_dl.layers.transformer import Activation, TransformerBlock, step_through
from keras_dl.models.sequence.searching import SearchingModel, check_pair
from keras_dl.signatures import Signature
from keras_dl.tokens import check_sequences, check_token, check_tokens, key_mask, known_tokens

# Table 3, with the shared vocabulary of "about 37000 tokens" of section 5.1: 63,045,632 and 214,171,648 parameters by
# the paper's equations, in which attention has no biases. The table rounds to 65 and 213 million. No single vocabulary
# gives both: 40,800 tokens would give the first, 35,900 the second.
PRESETS = {
    "base": dict(num_layers=6, hidden_dim=512, mlp_dim=2048, num_heads=8, dropout_rate=0.1),
    "big": dict(num_layers=6, hidden_dim=1024, mlp_dim=4096, num_heads=16, dropout_rate=0.3),
}


@keras.saving.register_keras_serializable(package="keras_dl")
class Transformer(SearchingModel, Model):
    """Encoder and decoder: from tokens of a source to logits of the next token of a target.

    Token 0 is padding, at the end of a sequence. It is not attended to in the source, and is never decoded. A source of
    nothing but padding decodes to finite, meaningless tokens.

    The state of decoding (`encode`, `decode_step`) has these entries; a cache holds the heads of all blocks in order:

    - `position`: int32, `(batch,)`. How many tokens of each target have been decoded.
    - `keys`, `values`: float, `(batch, num_layers * num_heads, target_length, head_dim)`. The cache.
    - `memory_keys`, `memory_values`: float, `(batch, num_layers * num_heads, n, head_dim)`.
    - `memory_mask`: float, `(batch, 1, n)`. 1 where the source may be attended to.

    Args:
        vocabulary_size: int. Tokens of the target, padding included; also of the source, unless that has its own.
        source_vocabulary_size: int, or None for one vocabulary and one table for both.
        num_layers: int. Blocks of the encoder, and of the decoder.
        hidden_dim: int. Width, d.
        mlp_dim: int. Width of the MLPs' hidden layer.
        num_heads: int. Must divide `hidden_dim`.
        dropout_rate: float in [0, 1). For each sublayer's result, and for embeddings with positions.
        attention_dropout_rate: float in [0, 1). For attention weights.
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
            An id outside the vocabulary raises an error if called eagerly; in a graph it counts as padding.

    Returns:
        float32, `(batch, m, vocabulary_size)`: logits of the token after each of `target`.

    Raises:
        ValueError: if an argument is out of its range, or a sequence has no token or more than its length. A length
            that is known only when a graph runs raises `tf.errors.InvalidArgumentError`.

    Example:

    >>> model = Transformer(50, num_layers=1, hidden_dim=16, mlp_dim=32, num_heads=2, source_length=8, target_length=6)
    >>> source = ops.array([[5, 9, 7, 2, 0, 0]])
    >>> model({"source": source, "target": ops.array([[1, 4, 4]])}).shape
    TensorShape([1, 3, 50])
    >>> model.greedy(source).tokens.shape
    TensorShape([1, 6])
    >>> model.beam_search(source, beam_size=2, length_penalty=0.6).tokens.shape
    TensorShape([1, 2, 6])
    """

    presets = PRESETS
    constant_states = ("memory_keys", "memory_values", "memory_mask")

    @arguments
    def __init__(
        self,
        vocabulary_size: AtLeast(3) = 37_000,
        source_vocabulary_size: AtLeast(2) | None = None,
        num_layers: Size = 6,
        hidden_dim: Size = 512,
        mlp_dim: Size = 2048,
        num_heads: Size = 8,
        dropout_rate: Rate = 0.1,
        attention_dropout_rate: Rate = 0.0,
        activation: Activation = "relu",
        norm_first: bool = False,
        norm_epsilon: Positive = 1e-6,
        attention_bias: bool = False,
        source_length: Size = 128,
        target_length: Size = 128,
        start_token: Size = 1,
        end_token: Size = 2,
        dtype=None,
        **kwargs,
    ):
        check_heads(num_heads, hidden_dim)
        check_token("start_token", start_token, vocabulary_size)
        check_token("end_token", end_token, vocabulary_size)
        super().__init__(**kwargs)
        self.embedding = TokenEmbedding(vocabulary_size, hidden_dim, name="embedding")
        self.source_embedding = self.embedding
        if source_vocabulary_size is not None:
            self.source_embedding = TokenEmbedding(source_vocabulary_size, hidden_dim, name="source_embedding")
        self.source_positions = Positions(source_length, name="source_positions")
        self.positions = Positions(target_length, name="positions")
        self.dropout = layers.Dropout(dropout_rate, name="dropout")
        block = functools.partial(
            TransformerBlock,
            num_heads,
            mlp_dim,
            dropout_rate=dropout_rate,
            attention_dropout_rate=attention_dropout_rate,
            activation=activation,
            norm_first=norm_first,
            norm_epsilon=norm_epsilon,
            attention_bias=attention_bias,
        )
        self.encoder = [block(name=f"encoder_{i}") for i in range(num_layers)]
        self.decoder = [block(cross_attention=True, name=f"decoder_{i}") for i in range(num_layers)]
        if norm_first:
            self.encoder_norm = LayerNormalization(epsilon=norm_epsilon, name="encoder_norm")
            self.decoder_norm = LayerNormalization(epsilon=norm_epsilon, name="decoder_norm")
        self.build({"source": (None, source_length), "target": (None, target_length)})

    def build(self, inputs_shape):
        """Makes all weights: their shapes depend on the arguments only."""
        width = self.embedding.dim
        for layer in inner_layers(self):
            if not layer.built:
                layer.build((None, None) if isinstance(layer, TokenEmbedding) else (None, None, width))

    def compute_output_shape(self, inputs_shape):
        return (*inputs_shape["target"], self.vocabulary_size)

    def call(self, inputs, training=False):
        check_pair(self, inputs)
        memory, memory_mask = self._memory(inputs["source"], training)
        states = self._target_states(inputs["target"], training)  # (batch, m, hidden_dim)
        for block in self.decoder:
            states = block(states, None, memory, memory_mask, causal=True, training=training)
        return self._logits(states)  # (batch, m, vocabulary_size)

    def _memory(self, source, training=False):
        """The encoder's result, float `(batch, n, hidden_dim)`, and its mask, bool `(batch, 1, n)`."""
        source = known_tokens("source", source, self.source_embedding.vocabulary_size)
        check_sequences("source", source)
        mask = key_mask(source)  # (batch, 1, n)
        states = self.dropout(self.source_positions(self.source_embedding(source)), training=training)
        for block in self.encoder:
            states = block(states, mask, training=training)
        return (self.encoder_norm(states) if self.norm_first else states), mask

    def _target_states(self, target, training=False):
        """The inputs of the decoder's first block: float, `(batch, m, hidden_dim)`."""
        target = known_tokens("target", target, self.vocabulary_size)
        check_sequences("target", target)
        return self.dropout(self.positions(self.embedding(target)), training=training)

    def _logits(self, states):
        return self.embedding.logits(self.decoder_norm(states) if self.norm_first else states)

    def alignment(self, source, target, layer: int = -1):
        """Where each position of the target looks in the source.

        Args:
            source: int, `(batch, n)`.
            target: int, `(batch, m)`, which begins with `start_token`.
            layer: int. Which block of the decoder.

        Returns:
            float, `(batch, heads, m, n)`: attention weights, whose rows sum to 1.

        Raises:
            ValueError: if there is no such layer, or tokens have another shape.
        """
        if layer not in range(-self.num_layers, self.num_layers):
            raise ValueError(f"layer={layer} must be an integer from {-self.num_layers} to {self.num_layers - 1}.")
        memory, memory_mask = self._memory(source)
        states = self._target_states(target)
        blocks = self.decoder[: range(self.num_layers)[layer] + 1]
        for block in blocks[:-1]:
            states = block(states, None, memory, memory_mask, causal=True)
        return blocks[-1].memory_weights(states, memory, memory_mask)

    def _read(self, source):
        return check_tokens("source", source, self.source_embedding.vocabulary_size, self.source_length)

    def _room(self, source):
        return self.target_length, self.target_length

    def _begin(self, source):
        memory, mask = self._memory(source)
        pairs = [block.memory_attention.project(memory) for block in self.decoder]
        keys, values = (ops.concatenate(x, axis=1) for x in zip(*pairs, strict=True))  # (batch, heads of all, n, dim)
        # Zeros that are computed: an output that is a constant has no int8 form.
        empty = ops.minimum(ops.abs(keys[:, :, :1]), 0.0)
        # (batch, heads of all, target_length, head_dim)
        empty = ops.pad(empty, ((0, 0), (0, 0), (0, self.target_length - 1), (0, 0)))
        return {
            "position": ops.zeros_like(source[:, 0]),
            "keys": empty,
            "values": empty,
            "memory_keys": keys,
            "memory_values": values,
            "memory_mask": ops.cast(mask, "float32"),
        }

    def _step(self, tokens, state):
        position = ops.clip(ops.cast(state["position"], "int32"), 0, self.target_length - 1)
        states = self.positions(self.embedding(ops.expand_dims(tokens, 1)), position)  # (batch, 1, hidden_dim)
        memory = state["memory_keys"], state["memory_values"], state["memory_mask"] > 0.5
        states, keys, values = step_through(self.decoder, states, state["keys"], state["values"], position, *memory)
        log_probabilities = ops.log_softmax(ops.squeeze(self._logits(states), 1))  # (batch, vocabulary_size)
        return log_probabilities, state | {"position": position + 1, "keys": keys, "values": values}

    def _state_shapes(self, batch_size):
        heads, dim = self.num_layers * self.num_heads, self.hidden_dim // self.num_heads
        cache, memory = (batch_size, heads, self.target_length, dim), (batch_size, heads, "n", dim)
        return {
            "position": (batch_size,),
            "keys": cache,
            "values": cache,
            "memory_keys": memory,
            "memory_values": memory,
            "memory_mask": (batch_size, 1, "n"),
        }

    def serving_signatures(self, batch_size: int = 1) -> dict[str, Signature]:
        """The entry points of a device; `keras_dl.export.beam_search` drives the first two.

        - `encode(tokens: int32, (batch_size, source_length))` returns the state without `position`.
        - `decode_step(tokens: int32, (batch_size,); position: int32, (batch_size,); keys, values, memory_keys,
          memory_values, memory_mask)` returns `log_probabilities`, float32 `(batch_size, vocabulary_size)`, and the new
          `keys` and `values`.
        - `translate(tokens: as encode)` is the whole greedy search: `{"tokens": int32, (batch_size, target_length)}`.
        """
        source = {"tokens": KerasTensor((batch_size, self.source_length), "int32", name="tokens")}
        step = {"tokens": KerasTensor((batch_size,), "int32", name="tokens")}
        for name, shape in self._state_shapes(batch_size).items():
            shape = tuple(self.source_length if n == "n" else n for n in shape)
            step[name] = KerasTensor(shape, "int32" if name == "position" else "float32", name=name)

        def encode(tokens):
            state = self.encode(tokens)
            state.pop("position")
            return state

        def decode_step(tokens, **state):
            log_probabilities, state = self.decode_step(tokens, state)
            return {"log_probabilities": log_probabilities, "keys": state["keys"], "values": state["values"]}

        return {
            "encode": Signature(encode, source),
            "decode_step": Signature(decode_step, step),
            "translate": Signature(lambda tokens: {"tokens": self._served_greedy(tokens).tokens}, source),
        }
