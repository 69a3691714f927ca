"""The transformer's decoder alone: a language model, in the layout of GPT-2.

    x_0    = table[t] + position[i]
    x      = x + dropout(sublayer(norm(x))) for causal self-attention and MLP, in every block
    logits = norm(x_L) table^T,   log P(text) = sum_t log P(t_i | t_<i)

A prompt fills a cache of static size in one pass; then each token is one step.

References: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"; Liu et al. 2018, "Generating
Wikipedia by Summarizing Long Sequences", arXiv:1801.10198, section 4.2.3, for the decoder without a memory.

Deviations: token 0 is padding, where GPT-2 has none, so that texts of several lengths make a batch. GPT-2 begins with
smaller weights in deeper residual branches; here all begin alike.
"""

import keras
from keras import layers, ops

from keras_dl.base import Signature
from keras_dl.checks import check_shapes, check_size
from keras_dl.compat import inner_layers
from keras_dl.layers.embedding import Positions, TokenEmbedding
from keras_dl.layers.norm import LayerNormalization
from keras_dl.layers.transformer import TransformerBlock, check_stack, step_through
from keras_dl.models.sequence.transformer import SearchingModel
from keras_dl.tokens import PADDING, check_ids, check_rank, check_token, check_tokens, known_tokens

# Parameters as those of the published checkpoints; the paper's table 2 rounds otherwise (117 and 345 million).
PRESETS = {
    "gpt2": dict(num_layers=12, hidden_dim=768, mlp_dim=3072, num_heads=12),  # 124,439,808
    "gpt2_medium": dict(num_layers=24, hidden_dim=1024, mlp_dim=4096, num_heads=16),  # 354,823,168
}


@keras.saving.register_keras_serializable(package="keras_dl")
class TransformerLM(SearchingModel):
    """Language model: from tokens of a text to logits of each next one.

    Token 0 is padding, at the end of a text; it is never generated. A prompt of nothing but padding counts as one token
    of it.

    Args:
        vocabulary_size: int. Tokens, padding included.
        max_length: int. Positions that there are; the size of the cache.
        num_layers: int. Blocks.
        hidden_dim: int. Width.
        mlp_dim: int. Width of the MLPs' hidden layer.
        num_heads: int. Must divide `hidden_dim`.
        dropout_rate: float in [0, 1). Of each sublayer's result, and of embeddings with positions.
        attention_dropout_rate: float in [0, 1). Of attention weights.
        activation: "gelu_tanh", "gelu" (exact) or "relu".
        norm_first: bool. True for pre-norm, with a layer norm at the end; False for post-norm.
        norm_epsilon: float. Added to variances.
        learned_positions: bool. False for sinusoids, with embeddings scaled by the root of the width.
        prompt_length: int. Tokens of a prompt on a device; less than `max_length`.
        end_token: int. A text's last token.

    Call arguments:
        tokens: int, `(batch, n)`. An id outside of the vocabulary raises an error eagerly; in a graph it counts as
            padding.

    Returns:
        float32, `(batch, n, vocabulary_size)`: logits of the token after each.

    Raises:
        ValueError: if an argument is none of the above, or a text has no token or more than `max_length`; it says
            which. A length that a graph does not know before it runs is its `InvalidArgumentError`.

    Example:

    >>> model = TransformerLM(50, 16, num_layers=1, hidden_dim=8, mlp_dim=16, num_heads=2, prompt_length=4)
    >>> model(keras.ops.array([[5, 9, 7]])).shape
    TensorShape([1, 3, 50])
    >>> model.generate(keras.ops.array([[5, 9, 7]])).shape
    TensorShape([1, 13])
    """

    presets = PRESETS

    def __init__(
        self,
        vocabulary_size=50_257,
        max_length=1024,
        num_layers=12,
        hidden_dim=768,
        mlp_dim=3072,
        num_heads=12,
        dropout_rate=0.1,
        attention_dropout_rate=0.1,
        activation="gelu_tanh",
        norm_first=True,
        norm_epsilon=1e-5,
        learned_positions=True,
        prompt_length=128,
        end_token=2,
        dtype=None,
        **kwargs,
    ):
        stack = check_stack(
            num_layers, hidden_dim, mlp_dim, num_heads, dropout_rate, attention_dropout_rate, activation
        )
        vocabulary_size = check_size("vocabulary_size", vocabulary_size, 3)
        max_length = check_size("max_length", max_length, 2)
        if check_size("prompt_length", prompt_length) >= max_length:
            raise ValueError(f"prompt_length={prompt_length} must be less than max_length={max_length}.")
        end_token = check_token("end_token", end_token, vocabulary_size)
        super().__init__(dtype=dtype, **kwargs)
        self.vocabulary_size = vocabulary_size
        self.max_length = max_length
        self.num_layers, self.hidden_dim, self.mlp_dim, self.num_heads = stack[:4]
        self.dropout_rate, self.attention_dropout_rate, self.activation = stack[4:]
        self.norm_first = norm_first
        self.norm_epsilon = norm_epsilon
        self.learned_positions = learned_positions
        self.prompt_length = prompt_length
        self.end_token = end_token

        shared = dict(dtype=self.dtype_policy)
        self.embedding = TokenEmbedding(
            vocabulary_size, hidden_dim, scaled=not learned_positions, name="embedding", **shared
        )
        self.positions = Positions(max_length, learned_positions, name="positions", **shared)
        self.dropout = layers.Dropout(dropout_rate, name="dropout", **shared)
        options = dict(activation=activation, norm_first=norm_first, norm_epsilon=norm_epsilon)
        options |= dict(dropout_rate=dropout_rate, attention_dropout_rate=attention_dropout_rate)
        self.blocks = [
            TransformerBlock(num_heads, mlp_dim, name=f"block_{i}", **options, **shared) for i in range(num_layers)
        ]
        self.norm = None
        if norm_first:
            self.norm = LayerNormalization(epsilon=norm_epsilon, name="norm", **shared)
        self.build((None, max_length))

    def build(self, tokens_shape):
        """Makes all weights: their shapes depend on the arguments alone."""
        for layer in inner_layers(self):
            if not layer.built:
                layer.build((None, None) if layer is self.embedding else (None, None, self.hidden_dim))

    def compute_output_shape(self, tokens_shape):
        return (*tokens_shape, self.vocabulary_size)

    def call(self, tokens, training=False):
        check_rank("tokens", tokens)
        states = self.dropout(self.positions(self.embedding(tokens)), training=training)
        for block in self.blocks:
            states = block(states, causal=True, training=training)
        return self._logits(states)

    def _logits(self, states):
        return self.embedding.logits(self.norm(states) if self.norm_first else states)

    def begin(self, tokens):
        """What decoding starts from, after a prompt.

        Args:
            tokens: int, `(batch, n)`, n less than `max_length`; padding at the end.

        Returns:
            dict of the cache, `keys` and `values`, float `(batch, num_layers * num_heads, max_length, head_dim)`;
            `length`, int32 `(batch,)`, the tokens of each prompt; and `log_probabilities`, float32 `(batch,
            vocabulary_size)`, of the token after it.

        Raises:
            ValueError: if tokens are floats, none or too many, or one is not in the vocabulary.
        """
        tokens = known_tokens("tokens", check_ids("tokens", tokens), self.vocabulary_size)
        check_rank("tokens", tokens)
        states = self.positions(self.embedding(tokens))
        pairs = []
        for block in self.blocks:
            states, *pair = block.prefill(states)
            pairs.append(pair)
        room = self.max_length - tokens.shape[1]
        cache = [
            ops.pad(ops.concatenate(x, axis=1), ((0, 0), (0, 0), (0, room), (0, 0))) for x in zip(*pairs, strict=True)
        ]
        places = ops.arange(1, tokens.shape[1] + 1, dtype="int32")
        length = ops.maximum(ops.max(ops.where(ops.not_equal(tokens, PADDING), places, 0), axis=1), 1)
        last = ops.cast(ops.expand_dims(ops.equal(places, ops.expand_dims(length, 1)), 2), states.dtype)
        logits = self._logits(ops.sum(states * last, axis=1))
        return {"keys": cache[0], "values": cache[1], "length": length, "log_probabilities": ops.log_softmax(logits)}

    def decode_step(self, tokens, position, keys, values):
        """The next token's log-probabilities, and the cache with the keys and values of this one.

        Args:
            tokens: int, `(batch,)`: the tokens before the next ones.
            position: int, `(batch,)`: how many tokens stand before those, the prompt's included; less than
                `max_length`.
            keys, values: as `begin` returns them.

        Returns:
            `log_probabilities`, float32 `(batch, vocabulary_size)`; and `keys` and `values`.

        Raises:
            ValueError: if the shapes are others, or do not go together, or tokens are floats.
        """
        cache = ("batch", self.num_layers * self.num_heads, self.max_length, self.hidden_dim // self.num_heads)
        check_shapes(
            "decode_step",
            dict(tokens=tokens, position=position, keys=keys, values=values),
            dict(tokens=("batch",), position=("batch",), keys=cache, values=cache),
            "start with begin(tokens)",
        )
        tokens = check_ids("tokens", tokens)
        position = ops.clip(ops.cast(position, "int32"), 0, self.max_length - 1)
        states = self.positions(self.embedding(ops.expand_dims(tokens, 1)), position)
        states, keys, values = step_through(self.blocks, states, keys, values, position)
        return ops.log_softmax(ops.squeeze(self._logits(states), 1)), keys, values

    def _search(self, tokens, beam_size):
        begun = self.begin(tokens)
        length = begun["length"]
        places = ops.arange(1, tokens.shape[1] + 1, dtype="int32")
        last = ops.sum(ops.where(ops.equal(places, ops.expand_dims(length, 1)), ops.cast(tokens, "int32"), 0), axis=1)

        def step(tokens, position, state):
            keys, values, length, last = state
            # A search begins with a start token. The prompt's last token stands in for it, once more at its own place.
            tokens = ops.where(ops.equal(position, 0), last, tokens)
            log_p, keys, values = self.decode_step(tokens, length - 1 + position, keys, values)
            return log_p, (keys, values, length, last)

        return step, (begun["keys"], begun["values"], length, last), self.max_length - tokens.shape[1]

    @property
    def start_token(self):
        """int. What a search is begun with; the prompt's last token takes its place."""
        return self.end_token

    def generate(self, tokens, beam_size=1, length_penalty=0.0):
        """Continues prompts with their most probable texts, as a beam search finds them.

        Args:
            tokens: int, `(batch, n)`, n less than `max_length`; padding at the end.
            beam_size: int. 1 is the greedy search. May be larger than the vocabulary.
            length_penalty: float, at least 0.

        Returns:
            int32, `(batch, max_length - n)`: what follows each prompt, the end token included where there is one; 0
            follows.

        Raises:
            ValueError: if an argument is none of the above, a prompt too long, or an id not in the vocabulary.
        """
        tokens = check_tokens("tokens", tokens, self.vocabulary_size, self.max_length - 1)
        return self._searched(tokens, beam_size, length_penalty).tokens[:, 0]

    def serving_signatures(self, batch_size=1):
        """What a device runs: dict of `Signature`.

        `prefill(tokens: int32, (batch_size, prompt_length))` returns what `begin` does. `decode_step(tokens: int32,
        (batch_size,); position: int32, (batch_size,); keys, values)` returns `log_probabilities`, float32 `(batch_size,
        vocabulary_size)`, and the new `keys` and `values`; the first position is the `length` of `prefill`.
        `generate(tokens: as prefill)` is the whole greedy search: `{"tokens": int32, (batch_size, max_length -
        prompt_length)}`.
        """
        prompt = {"tokens": keras.KerasTensor((batch_size, self.prompt_length), "int32", name="tokens")}
        cache = (batch_size, self.num_layers * self.num_heads, self.max_length, self.hidden_dim // self.num_heads)
        step = {name: keras.KerasTensor((batch_size,), "int32", name=name) for name in ("tokens", "position")}
        step |= {name: keras.KerasTensor(cache, "float32", name=name) for name in ("keys", "values")}

        def decode_step(**inputs):
            names = ("log_probabilities", "keys", "values")
            return dict(zip(names, self.decode_step(**inputs), strict=True))

        return {
            "prefill": Signature(lambda tokens: self.begin(tokens), prompt),
            "decode_step": Signature(decode_step, step),
            "generate": Signature(self._greedy, prompt),
        }
