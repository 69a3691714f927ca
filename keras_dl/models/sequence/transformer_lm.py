"""The transformer's decoder alone: a language model, in the layout of GPT-2.

    x_0    = table[t] + position[i]
    x      = x + dropout(sublayer(norm(x))) for causal self-attention and MLP, in every block
    logits = norm(x_L) table^T,   log P(text) = sum_t log P(t_i | t_<i)

A prompt fills a cache of static size in one pass. Then each token is one step.

References: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"; Liu et al. 2018, "Generating
Wikipedia by Summarizing Long Sequences", arXiv:1801.10198, section 4.2.3, for the decoder without a memory.

Weights start as in the authors' code: normal with a deviation of 0.02, positions of 0.01, and biases at 0. As in the
paper (section 2.3), the matrices that end a residual branch are divided by the root of the number of branches. Without
learned positions the table starts as that of `keras_dl.Transformer`.

Deviation: a token of the vocabulary is padding, so that texts of several lengths can form a batch. GPT-2 has none. With
the presets it is the end token, as is usual for published GPT-2s.
"""

import math

import keras
from keras import KerasTensor, layers, ops
from keras.initializers import RandomNormal

from keras_dl.arguments import AtLeast, Positive, Rate, Size, arguments
from keras_dl.base import Model
from keras_dl.checks import check_heads
from keras_dl.compat import inner_layers
from keras_dl.layers.embedding import Positions, TokenEmbedding
from keras_dl.layers.norm import LayerNormalization
from keras_dl.layers.transformer import Activation, TransformerBlock, step_through
from keras_dl.models.sequence import gpt2_weights
from keras_dl.models.sequence.searching import SearchingModel
from keras_dl.signatures import Signature
from keras_dl.tokens import PADDING, check_sequences, check_token, check_tokens, known_tokens, last_tokens, lengths
from keras_dl.weights import Weights

# Parameters as those of the published checkpoints. The paper's table 2 rounds otherwise (117 and 345 million). Token
# 50,256 is <|endoftext|>, the last of the published vocabulary; token 0 is "!".
_GPT2 = dict(vocabulary_size=50_257, max_length=1024, end_token=50_256, padding_token=50_256)
PRESETS = {
    "gpt2": dict(num_layers=12, hidden_dim=768, mlp_dim=3072, num_heads=12, **_GPT2),  # 124,439,808
    "gpt2_medium": dict(num_layers=24, hidden_dim=1024, mlp_dim=4096, num_heads=16, **_GPT2),  # 354,823,168
}


@keras.saving.register_keras_serializable(package="keras_dl")
class TransformerLM(SearchingModel, Model):
    """Language model: from tokens of a text to logits of each next one.

    `padding_token`, by default token 0, is padding at the end of a text. It is never generated, unless it is the end
    token too. A prompt of nothing but padding counts as one token of it.

    The searches (`greedy`, `beam_search`, `sample`) return what follows each prompt, at most `max_length - n` tokens of
    a prompt of n. The state of decoding (`encode`, `decode_step`) has these entries:

    - `position`: int32, `(batch,)`. How many tokens stand before the one that `decode_step` gets next.
    - `keys`, `values`: float, `(batch, num_layers * num_heads, max_length, head_dim)`. The cache of earlier positions:
      the heads of all blocks in order.

    Args:
        vocabulary_size: int. Tokens, padding included.
        max_length: int. Number of positions; the size of the cache.
        num_layers: int. Blocks.
        hidden_dim: int. Width.
        mlp_dim: int. Width of the MLPs' hidden layer.
        num_heads: int. Must divide `hidden_dim`.
        dropout_rate: float in [0, 1). For each sublayer's result, and for embeddings with positions.
        attention_dropout_rate: float in [0, 1). For attention weights.
        activation: "gelu_tanh", "gelu" (exact) or "relu".
        norm_first: bool. True for pre-norm, with a layer norm at the end; False for post-norm.
        norm_epsilon: float. Added to variances.
        learned_positions: bool. False for sinusoids, with embeddings scaled by the root of the width.
        serving_length: int, less than `max_length`. Tokens of a prompt on a device. None for half of `max_length`, but
            at most 128.
        end_token: int. A text's last token.
        padding_token: int. Fills up prompts, and what follows the end of a text. It may be `end_token`: then padding at
            the end of a prompt cannot be told from an end token there.

    Call arguments:
        tokens: int, `(batch, n)`. An id outside the vocabulary raises an error if called eagerly; in a graph it counts
            as padding.

    Returns:
        float32, `(batch, n, vocabulary_size)`: logits of the token after each.

    Raises:
        ValueError: if an argument is out of its range, or a text has no token or more than `max_length`. A length that
            is known only when a graph runs raises `tf.errors.InvalidArgumentError`.

    Example:

    >>> model = TransformerLM(50, 16, num_layers=1, hidden_dim=8, mlp_dim=16, num_heads=2)
    >>> model(ops.array([[5, 9, 7]])).shape
    TensorShape([1, 3, 50])
    >>> model.greedy(ops.array([[5, 9, 7]])).tokens.shape
    TensorShape([1, 13])
    >>> model.sample(ops.array([[5, 9, 7]]), max_length=4, temperature=0.8, seed=0).tokens.shape
    TensorShape([1, 4])
    """

    presets = PRESETS
    renamed_arguments = {"prompt_length": "serving_length"}

    @arguments
    def __init__(
        self,
        vocabulary_size: AtLeast(3) = 50_257,
        max_length: AtLeast(2) = 1024,
        num_layers: Size = 12,
        hidden_dim: Size = 768,
        mlp_dim: Size = 3072,
        num_heads: Size = 12,
        dropout_rate: Rate = 0.1,
        attention_dropout_rate: Rate = 0.1,
        activation: Activation = "gelu_tanh",
        norm_first: bool = True,
        norm_epsilon: Positive = 1e-5,
        learned_positions: bool = True,
        serving_length: Size | None = None,
        end_token: AtLeast(0) = 2,
        padding_token: AtLeast(0) = PADDING,
        dtype=None,
        **kwargs,
    ):
        check_heads(num_heads, hidden_dim)
        check_token("end_token", end_token, vocabulary_size, minimum=0)
        check_token("padding_token", padding_token, vocabulary_size, minimum=0)
        if serving_length is not None and serving_length >= max_length:
            raise ValueError(f"serving_length={serving_length} must be less than max_length={max_length}.")
        super().__init__(**kwargs)
        self.serving_length = min(128, max_length // 2) if serving_length is None else serving_length
        self.embedding = TokenEmbedding(vocabulary_size, hidden_dim, scaled=not learned_positions, name="embedding")
        self.positions = Positions(max_length, learned_positions, RandomNormal(stddev=0.01), name="positions")
        self.dropout = layers.Dropout(dropout_rate, name="dropout")
        self.blocks = [
            TransformerBlock(
                num_heads,
                mlp_dim,
                dropout_rate=dropout_rate,
                attention_dropout_rate=attention_dropout_rate,
                activation=activation,
                norm_first=norm_first,
                norm_epsilon=norm_epsilon,
                kernel_initializer=RandomNormal(stddev=0.02),
                residual_initializer=RandomNormal(stddev=0.02 / math.sqrt(2 * num_layers)),
                name=f"block_{i}",
            )
            for i in range(num_layers)
        ]
        self.norm = LayerNormalization(epsilon=norm_epsilon, name="norm") if norm_first else None
        self.build((None, max_length))

    def build(self, tokens_shape):
        """Makes all weights: their shapes depend on the arguments only."""
        width = self.embedding.dim
        for layer in inner_layers(self):
            if not layer.built:
                layer.build((None, None) if layer is self.embedding else (None, None, width))

    def compute_output_shape(self, tokens_shape):
        return (*tokens_shape, self.vocabulary_size)

    def call(self, tokens, training=False):
        tokens = known_tokens("tokens", tokens, self.vocabulary_size, self.padding_token)
        check_sequences("tokens", tokens)
        states = self.dropout(self.positions(self.embedding(tokens)), training=training)  # (batch, n, hidden_dim)
        for block in self.blocks:
            states = block(states, causal=True, training=training)
        return self._logits(states)  # (batch, n, vocabulary_size)

    def _logits(self, states):
        return self.embedding.logits(self.norm(states) if self.norm_first else states)

    def _read(self, source):
        return check_tokens("source", source, self.vocabulary_size, self.max_length - 1, self.padding_token)

    def _room(self, source):
        room = self.max_length - source.shape[1]
        return room, room

    def _first_tokens(self, source):
        return last_tokens(source, self.padding_token)

    def _begin(self, source):
        # The last token of each prompt is decoded once more, at its own place.
        _, keys, values = self._prefill(source)
        return {"position": lengths(source, self.padding_token) - 1, "keys": keys, "values": values}

    def _prefill(self, tokens):
        """Reads a prompt.

        Returns:
            `(states, keys, values)`: float `(batch, n, hidden_dim)`, and the cache, `(batch, num_layers * num_heads,
            max_length, head_dim)`.
        """
        states = self.positions(self.embedding(tokens))
        pairs = []
        for block in self.blocks:
            states, *pair = block.prefill(states)
            pairs.append(pair)
        room = ((0, 0), (0, 0), (0, self.max_length - tokens.shape[1]), (0, 0))
        return states, *(ops.pad(ops.concatenate(x, axis=1), room) for x in zip(*pairs, strict=True))

    def _step(self, tokens, state):
        position = ops.clip(ops.cast(state["position"], "int32"), 0, self.max_length - 1)
        states = self.positions(self.embedding(ops.expand_dims(tokens, 1)), position)  # (batch, 1, hidden_dim)
        states, keys, values = step_through(self.blocks, states, state["keys"], state["values"], position)
        log_probabilities = ops.log_softmax(ops.squeeze(self._logits(states), 1))  # (batch, vocabulary_size)
        return log_probabilities, {"position": position + 1, "keys": keys, "values": values}

    def _state_shapes(self, batch_size):
        heads, dim = self.num_layers * self.num_heads, self.hidden_dim // self.num_heads
        cache = (batch_size, heads, self.max_length, dim)
        return {"position": (batch_size,), "keys": cache, "values": cache}

    def load_transformers(self, weights: Weights) -> None:
        """Takes the weights of transformers' GPT2LMHeadModel or GPT2Model of the same size.

        Args:
            weights: mapping from transformers' names to NumPy arrays, or the path of a `.safetensors` file. Names may
                begin with `transformer.`.

        Raises:
            ValueError: if entries are missing, unknown or of another shape. The message lists all of them, and the
                model stays as it was. Also if this model is not laid out as GPT-2.
        """
        gpt2_weights.load(self, weights)

    def serving_signatures(self, batch_size: int = 1) -> dict[str, Signature]:
        """The entry points of a device.

        - `prefill(tokens: int32, (batch_size, serving_length))` returns the cache, `keys` and `values`; `length`, int32
          `(batch_size,)`, the number of tokens of each prompt; and `log_probabilities`, float32 `(batch_size,
          vocabulary_size)`, of the token after it.
        - `decode_step(tokens: int32, (batch_size,); position: int32, (batch_size,); keys, values)` returns
          `log_probabilities` and the new `keys` and `values`. The first position is the `length` of `prefill`.
        - `generate(tokens: as prefill)` is the whole greedy search: `{"tokens": int32, (batch_size, max_length -
          serving_length)}`.
        """
        prompt = {"tokens": KerasTensor((batch_size, self.serving_length), "int32", name="tokens")}
        step = {"tokens": KerasTensor((batch_size,), "int32", name="tokens")}
        for name, shape in self._state_shapes(batch_size).items():
            step[name] = KerasTensor(shape, "int32" if name == "position" else "float32", name=name)

        def prefill(tokens):
            tokens = self._read(tokens)
            states, keys, values = self._prefill(tokens)
            length = lengths(tokens, self.padding_token)
            last = ops.equal(
                ops.arange(1, tokens.shape[1] + 1, dtype="int32"), ops.expand_dims(length, 1)
            )  # (batch, n)
            logits = self._logits(ops.sum(states * ops.cast(ops.expand_dims(last, 2), states.dtype), axis=1))
            return {"keys": keys, "values": values, "length": length, "log_probabilities": ops.log_softmax(logits)}

        def decode_step(tokens, **state):
            log_probabilities, state = self.decode_step(tokens, state)
            return {"log_probabilities": log_probabilities, "keys": state["keys"], "values": state["values"]}

        return {
            "prefill": Signature(prefill, prompt),
            "decode_step": Signature(decode_step, step),
            "generate": Signature(lambda tokens: {"tokens": self._served_greedy(tokens).tokens}, prompt),
        }
