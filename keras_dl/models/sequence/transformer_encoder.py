"""The transformer's encoder alone, in the layout of BERT: vectors of tokens that have seen the whole text.

    x_0    = norm(table[t] + segment[s] + position[i])
    x      = norm(x + dropout(sublayer(x))) for self-attention and MLP with exact GELU, in every block
    pooled = tanh(x_L[first] W + b)
    embed  = mean of x_L over the tokens that are not padding, scaled to length 1          (Sentence-BERT)

References: Devlin et al. 2018, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding",
arXiv:1810.04805; Reimers, Gurevych 2019, "Sentence-BERT", arXiv:1908.10084, section 3; Turc et al. 2019, "Well-Read
Students Learn Better", arXiv:1908.08962, for the small presets; Wang et al. 2020, "MiniLM", arXiv:2002.10957.

Weights start as in the authors' code: normal with a deviation of 0.02, cut at two deviations, which leaves 0.0176.
Biases start at 0.

Deviations: the heads of BERT's pre-training (masked words, next sentence) are left out. BERT masks by an input alone;
here a token, `padding_token`, is masked in any case.
"""

from collections.abc import Mapping

import keras
from keras import KerasTensor, layers, ops
from keras.initializers import TruncatedNormal

from keras_dl.arguments import AtLeast, Positive, Rate, Size, arguments
from keras_dl.base import Model
from keras_dl.checks import check_heads
from keras_dl.compat import inner_layers
from keras_dl.inputs import check_names
from keras_dl.layers.embedding import Positions, SegmentEmbedding, TokenEmbedding
from keras_dl.layers.norm import LayerNormalization
from keras_dl.layers.transformer import Activation, TransformerBlock
from keras_dl.models.sequence import bert_weights
from keras_dl.signatures import Signature
from keras_dl.tokens import (
    PADDING,
    check_mask,
    check_same_shape,
    check_sequences,
    check_token,
    check_tokens,
    key_mask,
    known_tokens,
)
from keras_dl.weights import Weights

# Parameters with the pooler, as transformers counts those of its BertModel.
_BERT = dict(vocabulary_size=30_522, max_length=512, num_segments=2, pooler=True)
PRESETS = {
    "bert_tiny": dict(num_layers=2, hidden_dim=128, mlp_dim=512, num_heads=2, **_BERT),  # 4,385,920
    "bert_mini": dict(num_layers=4, hidden_dim=256, mlp_dim=1024, num_heads=4, **_BERT),  # 11,170,560
    "minilm_l6": dict(num_layers=6, hidden_dim=384, mlp_dim=1536, num_heads=12, **_BERT),  # 22,713,216
    "bert_base": dict(num_layers=12, hidden_dim=768, mlp_dim=3072, num_heads=12, **_BERT),  # 109,482,240
    "bert_large": dict(num_layers=24, hidden_dim=1024, mlp_dim=4096, num_heads=16, **_BERT),  # 335,141,888
}


_PUBLISHED_NAMES = " Published tokenizers call them input_ids, token_type_ids (segments) and attention_mask (mask)."


@keras.saving.register_keras_serializable(package="keras_dl")
class TransformerEncoder(Model):
    """Encoder of texts: a vector for each token, and one for the text.

    No token attends to `padding_token`, nor to a token that the mask leaves out. Vectors at such places mean nothing.
    Texts of nothing but padding have finite, meaningless vectors.

    Args:
        vocabulary_size: int. Tokens, padding included.
        max_length: int. Number of positions.
        num_layers: int. Blocks.
        hidden_dim: int. Width of a vector.
        mlp_dim: int. Width of the MLPs' hidden layer.
        num_heads: int. Must divide `hidden_dim`.
        num_segments: int. Kinds of tokens, such as first and second sentence.
        pooler: bool. Whether there is a pooler: a dense layer on the first token, with tanh.
        dropout_rate: float in [0, 1). For each sublayer's result, and for what goes into the first block.
        attention_dropout_rate: float in [0, 1). For attention weights.
        activation: "gelu" (exact), "gelu_tanh" or "relu".
        norm_first: bool. True for pre-norm, and a layer norm at the end.
        norm_epsilon: float. Added to variances.
        learned_positions: bool. False for sinusoids.
        serving_length: int, at most `max_length`. Tokens of a text on a device. None for `max_length`, but at most 128.
        padding_token: int. Fills up texts.

    Call arguments:
        inputs: dict of `tokens`: int, `(batch, n)`, and optionally `segments`: int, `(batch, n)`, by default 0, and
            `mask`: bool, or 0 and 1, `(batch, n)`, True = may be attended to. Or only the tokens. Published tokenizers
            call the three `input_ids`, `token_type_ids` and `attention_mask`. An id outside the vocabulary raises an
            error if called eagerly; in a graph it counts as padding.

    Returns:
        float, `(batch, n, hidden_dim)`. With a pooler, a dict of it as `states`, and `pooled`, `(batch, hidden_dim)`.

    Raises:
        ValueError: if an argument is out of its range, a text has no token or more than `max_length`, or inputs have
            other names, shapes or dtypes. A length that is known only when a graph runs raises
            `tf.errors.InvalidArgumentError`.

    Example:

    >>> model = TransformerEncoder(50, 16, num_layers=1, hidden_dim=8, mlp_dim=16, num_heads=2)
    >>> model(ops.array([[5, 9, 7, 0]])).shape
    TensorShape([1, 4, 8])
    >>> model.embed(ops.array([[5, 9, 7, 0], [5, 9, 7, 2]])).shape
    TensorShape([2, 8])
    """

    presets = PRESETS

    @arguments
    def __init__(
        self,
        vocabulary_size: AtLeast(2) = 30_522,
        max_length: Size = 512,
        num_layers: Size = 12,
        hidden_dim: Size = 768,
        mlp_dim: Size = 3072,
        num_heads: Size = 12,
        num_segments: Size = 2,
        pooler: bool = False,
        dropout_rate: Rate = 0.1,
        attention_dropout_rate: Rate = 0.1,
        activation: Activation = "gelu",
        norm_first: bool = False,
        norm_epsilon: Positive = 1e-12,
        learned_positions: bool = True,
        serving_length: Size | None = None,
        padding_token: AtLeast(0) = PADDING,
        dtype=None,
        **kwargs,
    ):
        check_heads(num_heads, hidden_dim)
        check_token("padding_token", padding_token, vocabulary_size, minimum=0)
        if serving_length is not None and serving_length > max_length:
            raise ValueError(f"serving_length={serving_length} must be at most max_length={max_length}.")
        super().__init__(**kwargs)
        self.serving_length = min(128, max_length) if serving_length is None else serving_length
        normal = TruncatedNormal(stddev=0.02)
        self.embedding = TokenEmbedding(vocabulary_size, hidden_dim, False, normal, name="embedding")
        self.segments = SegmentEmbedding(num_segments, normal, name="segments")
        self.positions = Positions(max_length, learned_positions, normal, name="positions")
        # Post-norm: of what goes into the first block. Pre-norm: of what comes out of the last.
        self.norm = LayerNormalization(epsilon=norm_epsilon, name="norm")
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
                kernel_initializer=normal,
                name=f"block_{i}",
            )
            for i in range(num_layers)
        ]
        self.pool = layers.Dense(hidden_dim, "tanh", kernel_initializer=normal.clone(), name="pool") if pooler else None
        self.build({"tokens": (None, max_length), "segments": (None, max_length)})

    def build(self, inputs_shape):
        """Makes all weights: their shapes depend on the arguments only."""
        width = self.embedding.dim
        shapes = {self.embedding: (None, None), self.pool: (None, width)}
        for layer in inner_layers(self):
            if not layer.built:
                layer.build(shapes.get(layer, (None, None, width)))

    def compute_output_shape(self, inputs_shape):
        shape = inputs_shape["tokens"] if isinstance(inputs_shape, dict) else inputs_shape
        states = (*shape, self.hidden_dim)
        return {"pooled": (shape[0], self.hidden_dim), "states": states} if self.pooler else states

    def call(self, inputs, training=False):
        states = self.encode(inputs, training)  # (batch, n, hidden_dim)
        return {"pooled": self.pool(states[:, 0]), "states": states} if self.pooler else states

    def encode(self, inputs, training=False):
        """The vectors of the tokens: float, `(batch, n, hidden_dim)`. Arguments as for the call."""
        inputs = inputs if isinstance(inputs, Mapping) else {"tokens": inputs}
        check_names(inputs, ["tokens"], ["mask", "segments"], _PUBLISHED_NAMES)
        tokens, mask = self._tokens(inputs["tokens"], inputs.get("mask"))
        segments = inputs.get("segments")
        if segments is not None:
            check_same_shape("segments", segments, tokens)
        states = self.positions(self.segments(self.embedding(tokens), segments))  # (batch, n, hidden_dim)
        states = self.dropout(states if self.norm_first else self.norm(states), training=training)
        for block in self.blocks:
            states = block(states, mask, training=training)
        return self.norm(states) if self.norm_first else states

    def _tokens(self, tokens, mask):
        """The tokens, checked, and the mask of those that may be attended to, bool `(batch, 1, n)`."""
        tokens = known_tokens("tokens", tokens, self.vocabulary_size, self.padding_token)
        check_sequences("tokens", tokens)
        kept = key_mask(tokens, self.padding_token)  # (batch, 1, n)
        if mask is None:
            return tokens, kept
        mask = check_mask("mask", mask, tokens)
        return tokens, ops.logical_and(kept, ops.expand_dims(mask, 1))

    def embed(self, tokens, mask=None):
        """One vector of length 1 for each text: the mean over its tokens.

        Args:
            tokens: int, `(batch, n)`.
            mask: bool, or 0 and 1, `(batch, n)`: which tokens take part. None for all but padding.

        Returns:
            float32, `(batch, hidden_dim)`. The product of two is the cosine of their texts. Zeros for a text of nothing
            but padding.

        Raises:
            ValueError: if `tokens` or `mask` has another shape, a text is too long, or an id is not in the vocabulary.
        """
        return self._embed(
            check_tokens("tokens", tokens, self.vocabulary_size, self.max_length, self.padding_token), mask
        )

    def _embed(self, tokens, mask=None):
        tokens, kept = self._tokens(tokens, mask)
        inputs = {"tokens": tokens} if mask is None else {"tokens": tokens, "mask": mask}
        states = ops.cast(self.encode(inputs), "float32")
        weights = ops.cast(ops.transpose(kept, (0, 2, 1)), "float32")  # (batch, n, 1)
        # Of the sum, not the mean: the length is divided out in any case.
        total = ops.sum(states * weights, axis=1)  # (batch, hidden_dim)
        return total / ops.maximum(ops.sqrt(ops.sum(ops.square(total), axis=-1, keepdims=True)), 1e-12)

    def serving_signatures(self, batch_size: int = 1) -> dict[str, Signature]:
        """The entry points of a device.

        - `embed(tokens: int32, (batch_size, serving_length))` returns `{"embedding": float32, (batch_size,
          hidden_dim)}`, of length 1.
        - `encode(tokens, segments: int32, the same shape)` returns `states`, float32 `(batch_size, serving_length,
          hidden_dim)`, and with a pooler `pooled`.
        """
        shape = (batch_size, self.serving_length)
        inputs = {name: KerasTensor(shape, "int32", name=name) for name in ("tokens", "segments")}

        def encode(tokens, segments):
            outputs = self.call({"tokens": tokens, "segments": segments})
            return outputs if self.pooler else {"states": outputs}

        return {
            "embed": Signature(lambda tokens: {"embedding": self._embed(tokens)}, {"tokens": inputs["tokens"]}),
            "encode": Signature(encode, inputs),
        }

    def load_bert(self, weights: Weights) -> None:
        """Takes the weights of transformers' BertModel, and of all models with its layout.

        Args:
            weights: mapping from transformers' names to NumPy arrays, or the path of a `.safetensors` file. Names may
                begin with `bert.`, as in checkpoints with a head. Heads of pre-training (`cls.`) are passed over.

        Raises:
            ValueError: if entries are missing, unknown or of another shape. The message lists all of them, and the
                model stays as it was. Also if this model is not laid out as BERT: post-norm, with learned positions.
        """
        bert_weights.load(self, weights)

    @classmethod
    def from_bert(cls, weights: Weights, config=None, **overrides) -> "TransformerEncoder":
        """A model of the size of a published BERT, with its weights.

        Args:
            weights: as for `load_bert`, or the path of a folder that holds `model.safetensors`.
            config: mapping with the keys of transformers' BertConfig, or the path of a `config.json`. None for the one
                beside the weights. It must have `num_attention_heads`, which the weights do not show. Its
                `pad_token_id` becomes `padding_token`.
            overrides: arguments of the model that win over the config, such as `serving_length`.

        Returns:
            `TransformerEncoder`, with a pooler if the weights have one.

        Raises:
            FileNotFoundError: if a file does not exist.
            ValueError: if no config has the number of heads, the config is not JSON or not of a BERT's encoder, or the
                weights do not fit.
        """
        weights, options = bert_weights.read(weights, config)
        options |= overrides
        if "num_heads" not in options:
            raise ValueError(
                "num_heads is not known: it does not show in the weights. Give a config with num_attention_heads, or "
                "num_heads itself."
            )
        model = cls(**options)
        model.load_bert(weights)
        return model
