"""The transformer's encoder alone, in the layout of BERT: vectors of tokens that have seen the whole text.

    x_0    = norm(table[t] + segment[s] + position[i])
    x      = norm(x + dropout(sublayer(x))) for self-attention and MLP with exact GELU, in every block
    pooled = tanh(x_L[first] W + b)
    embed  = mean of x_L over the tokens that are no padding, scaled to length 1           (Sentence-BERT)

References: Devlin et al. 2018, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding",
arXiv:1810.04805; Reimers, Gurevych 2019, "Sentence-BERT", arXiv:1908.10084, section 3; Turc et al. 2019, "Well-Read
Students Learn Better", arXiv:1908.08962, for the small presets; Wang et al. 2020, "MiniLM", arXiv:2002.10957.

Deviation: the heads of BERT's pre-training (masked words, next sentence) are left out.
"""

import json
import pathlib
from collections.abc import Mapping

import keras
import numpy as np
from keras import layers, ops

from keras_dl.base import Model, Signature
from keras_dl.checks import check_size
from keras_dl.compat import inner_layers
from keras_dl.layers.embedding import Positions, SegmentEmbedding, TokenEmbedding
from keras_dl.layers.norm import LayerNormalization
from keras_dl.layers.transformer import TransformerBlock, check_stack
from keras_dl.tokens import PADDING, check_rank, check_tokens, key_mask, known_tokens
from keras_dl.weights import Entry, load_entries, read_safetensors, torch_entries

# Parameters with the pooler, as transformers counts those of its BertModel.
_BERT = dict(vocabulary_size=30_522, max_length=512, num_segments=2, pooler=True)
PRESETS = {
    "bert_tiny": dict(num_layers=2, hidden_dim=128, mlp_dim=512, num_heads=2, **_BERT),  # 4,385,920
    "bert_mini": dict(num_layers=4, hidden_dim=256, mlp_dim=1024, num_heads=4, **_BERT),  # 11,170,560
    "minilm_l6": dict(num_layers=6, hidden_dim=384, mlp_dim=1536, num_heads=12, **_BERT),  # 22,713,216
    "bert_base": dict(num_layers=12, hidden_dim=768, mlp_dim=3072, num_heads=12, **_BERT),  # 109,482,240
    "bert_large": dict(num_layers=24, hidden_dim=1024, mlp_dim=4096, num_heads=16, **_BERT),  # 335,141,888
}

# Activations by their names in a config.json of transformers.
_ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}

# Entries of published checkpoints that are no weights of the encoder: a count from 0 on, and the heads of pre-training.
_PASSED_OVER = ("embeddings.position_ids", "cls.")


@keras.saving.register_keras_serializable(package="keras_dl")
class TransformerEncoder(Model):
    """Encoder of texts: a vector for each token, and one for the text.

    Token 0 is padding: no token attends to it. What stands at the places of padding in the result means nothing, and
    texts of nothing but padding have finite, meaningless vectors.

    Args:
        vocabulary_size: int. Tokens, padding included.
        max_length: int. Positions that there are.
        num_layers: int. Blocks.
        hidden_dim: int. Width of a vector.
        mlp_dim: int. Width of the MLPs' hidden layer.
        num_heads: int. Must divide `hidden_dim`.
        num_segments: int. Kinds of tokens, such as first and second sentence.
        pooler: bool. Whether there is one: a dense layer on the first token, with tanh.
        dropout_rate: float in [0, 1). Of each sublayer's result, and of what goes into the first block.
        attention_dropout_rate: float in [0, 1). Of attention weights.
        activation: "gelu" (exact), "gelu_tanh" or "relu".
        norm_first: bool. True for pre-norm, and a layer norm at the end.
        norm_epsilon: float. Added to variances.
        learned_positions: bool. False for sinusoids.
        serving_length: int. Tokens of a text on a device; at most `max_length`.

    Call arguments:
        inputs: dict of `tokens`: int, `(batch, n)`, and, if wanted, `segments`: int, `(batch, n)`, 0 where it is not
            given. Or the tokens alone. An id outside of the vocabulary raises an error eagerly; in a graph it counts
            as padding.

    Returns:
        float, `(batch, n, hidden_dim)`; with a pooler, a dict of it as `states`, and `pooled`, `(batch, hidden_dim)`.

    Raises:
        ValueError: if an argument is none of the above, or a text has no token or more than `max_length`; it says
            which. A length that a graph does not know before it runs is its `InvalidArgumentError`.

    Example:

    >>> model = TransformerEncoder(50, 16, num_layers=1, hidden_dim=8, mlp_dim=16, num_heads=2, serving_length=16)
    >>> model(keras.ops.array([[5, 9, 7, 0]])).shape
    TensorShape([1, 4, 8])
    >>> model.embed(keras.ops.array([[5, 9, 7, 0], [5, 9, 7, 2]])).shape
    TensorShape([2, 8])
    """

    presets = PRESETS

    def __init__(
        self,
        vocabulary_size=30_522,
        max_length=512,
        num_layers=12,
        hidden_dim=768,
        mlp_dim=3072,
        num_heads=12,
        num_segments=2,
        pooler=False,
        dropout_rate=0.1,
        attention_dropout_rate=0.1,
        activation="gelu",
        norm_first=False,
        norm_epsilon=1e-12,
        learned_positions=True,
        serving_length=128,
        dtype=None,
        **kwargs,
    ):
        stack = check_stack(
            num_layers, hidden_dim, mlp_dim, num_heads, dropout_rate, attention_dropout_rate, activation
        )
        vocabulary_size = check_size("vocabulary_size", vocabulary_size, 2)
        max_length = check_size("max_length", max_length)
        num_segments = check_size("num_segments", num_segments)
        if check_size("serving_length", serving_length) > max_length:
            raise ValueError(f"serving_length={serving_length} must be at most max_length={max_length}.")
        super().__init__(dtype=dtype, **kwargs)
        self.vocabulary_size = vocabulary_size
        self.max_length = max_length
        self.num_layers, self.hidden_dim, self.mlp_dim, self.num_heads = stack[:4]
        self.num_segments = num_segments
        self.pooler = pooler
        self.dropout_rate, self.attention_dropout_rate, self.activation = stack[4:]
        self.norm_first = norm_first
        self.norm_epsilon = norm_epsilon
        self.learned_positions = learned_positions
        self.serving_length = serving_length

        shared = dict(dtype=self.dtype_policy)
        self.embedding = TokenEmbedding(vocabulary_size, hidden_dim, scaled=False, name="embedding", **shared)
        self.segments = SegmentEmbedding(num_segments, name="segments", **shared)
        self.positions = Positions(max_length, learned_positions, name="positions", **shared)
        # Post-norm: of what goes into the first block. Pre-norm: of what comes out of the last.
        self.norm = LayerNormalization(epsilon=norm_epsilon, name="norm", **shared)
        self.dropout = layers.Dropout(dropout_rate, name="dropout", **shared)
        options = dict(activation=activation, norm_first=norm_first, norm_epsilon=norm_epsilon)
        options |= dict(dropout_rate=dropout_rate, attention_dropout_rate=attention_dropout_rate)
        self.blocks = [
            TransformerBlock(num_heads, mlp_dim, name=f"block_{i}", **options, **shared) for i in range(num_layers)
        ]
        self.pool = layers.Dense(hidden_dim, activation="tanh", name="pool", **shared) if pooler else None
        self.build({"tokens": (None, serving_length), "segments": (None, serving_length)})

    def build(self, inputs_shape):
        """Makes all weights: their shapes depend on the arguments alone."""
        for layer in inner_layers(self):
            if not layer.built:
                shapes = {self.embedding: (None, None), self.pool: (None, self.hidden_dim)}
                layer.build(shapes.get(layer, (None, None, self.hidden_dim)))

    def compute_output_shape(self, inputs_shape):
        shape = inputs_shape["tokens"] if isinstance(inputs_shape, dict) else inputs_shape
        states = (*shape, self.hidden_dim)
        return {"pooled": (shape[0], self.hidden_dim), "states": states} if self.pooler else states

    def call(self, inputs, training=False):
        states = self.encode(inputs, training)
        return {"pooled": self.pool(states[:, 0]), "states": states} if self.pooler else states

    def encode(self, inputs, training=False):
        """The vectors of the tokens: float, `(batch, n, hidden_dim)`. Arguments as of the call."""
        inputs = inputs if isinstance(inputs, Mapping) else {"tokens": inputs}
        tokens = known_tokens("tokens", inputs["tokens"], self.vocabulary_size)
        check_rank("tokens", tokens)
        mask = key_mask(tokens)
        states = self.positions(self.segments(self.embedding(tokens), inputs.get("segments")))
        states = self.dropout(states if self.norm_first else self.norm(states), training=training)
        for block in self.blocks:
            states = block(states, mask, training=training)
        return self.norm(states) if self.norm_first else states

    def embed(self, tokens):
        """One vector of length 1 for each text: the mean over its tokens.

        Args:
            tokens: int, `(batch, n)`.

        Returns:
            float32, `(batch, hidden_dim)`. The product of two is the cosine of their texts. Zeros for a text of nothing
            but padding.

        Raises:
            ValueError: if `tokens` is of another shape, a text too long, or an id not in the vocabulary.
        """
        return self._embed(check_tokens("tokens", tokens, self.vocabulary_size, self.max_length))

    def _embed(self, tokens):
        tokens = known_tokens("tokens", tokens, self.vocabulary_size)
        states = ops.cast(self.encode(tokens), "float32")
        weights = ops.expand_dims(ops.cast(ops.not_equal(tokens, PADDING), "float32"), 2)
        # Of the sum, not the mean: the length is divided out in any case.
        total = ops.sum(states * weights, axis=1)
        return total / ops.maximum(ops.sqrt(ops.sum(ops.square(total), axis=-1, keepdims=True)), 1e-12)

    def serving_signatures(self, batch_size=1):
        """What a device runs: dict of `Signature`.

        `embed(tokens: int32, (batch_size, serving_length))` returns `{"embedding": float32, (batch_size, hidden_dim)}`,
        of length 1; `encode(tokens, segments: int32, the same shape)` returns `states`, float32 `(batch_size,
        serving_length, hidden_dim)`, and with a pooler `pooled`.
        """
        shape = (batch_size, self.serving_length)
        inputs = {name: keras.KerasTensor(shape, "int32", name=name) for name in ("tokens", "segments")}

        def encode(tokens, segments):
            outputs = self.call({"tokens": tokens, "segments": segments})
            return outputs if self.pooler else {"states": outputs}

        return {
            "embed": Signature(lambda tokens: {"embedding": self._embed(tokens)}, {"tokens": inputs["tokens"]}),
            "encode": Signature(encode, inputs),
        }

    def load_bert(self, weights):
        """Takes the weights of transformers' BertModel, and of all that is laid out as it.

        Args:
            weights: mapping from transformers' names to NumPy arrays, or the path of a `.safetensors` file. Names may
                begin with `bert.`, as in checkpoints with a head. Heads of pre-training (`cls.`) are passed over.

        Raises:
            ValueError: if entries are missing, unknown or of another shape; the message lists all of them, and the
                model stays as it was.
        """
        weights = _as_bert(weights)
        entries = {}
        for name, layer in (("word", self.embedding), ("position", self.positions), ("token_type", self.segments)):
            (table,) = layer.weights
            entries[f"embeddings.{name}_embeddings.weight"] = Entry(table, tuple(table.shape), np.asarray)
        entries |= torch_entries("embeddings.LayerNorm", self.norm)
        for i, block in enumerate(self.blocks):
            modules = {
                "attention.output.LayerNorm": block.attention_norm,
                "intermediate.dense": block.expand,
                "output.dense": block.project,
                "output.LayerNorm": block.mlp_norm,
            }
            for name, layer in modules.items():
                entries |= torch_entries(f"encoder.layer.{i}.{name}", layer)
            entries |= _attention_entries(f"encoder.layer.{i}.attention", block.attention)
        if self.pooler:
            entries |= torch_entries("pooler.dense", self.pool)
        load_entries(entries, weights)

    @classmethod
    def from_bert(cls, weights, config=None, **overrides):
        """A model of the size of a published BERT, with its weights.

        Args:
            weights: as `load_bert` takes them, or the path of a folder that holds `model.safetensors`.
            config: mapping with the keys of transformers' BertConfig, or the path of a `config.json`; None for the one
                beside the weights. `num_attention_heads` is needed, for it does not show in the weights.
            overrides: arguments of the model that win over the config, such as `serving_length`.

        Returns:
            `TransformerEncoder`, with a pooler if the weights have one.

        Raises:
            FileNotFoundError: if a file is not there.
            ValueError: if no config says the number of heads, the config is no JSON or of something else than BERT, or
                the weights do not fit; it says what.
        """
        if not isinstance(weights, Mapping):
            weights = pathlib.Path(weights)
            folder = weights if weights.is_dir() else weights.parent
            if config is None and (folder / "config.json").exists():
                config = folder / "config.json"
            weights = folder / "model.safetensors" if weights.is_dir() else weights
        if config is not None and not isinstance(config, Mapping):
            path = pathlib.Path(config)
            try:
                config = json.loads(path.read_text())
            except ValueError as error:
                raise ValueError(f"config={str(path)!r} is no JSON document: {error}") from error
            if not isinstance(config, Mapping):
                raise ValueError(f"config={str(path)!r} must hold an object, not a {type(config).__name__}.")
        weights = _as_bert(weights)
        arguments = _sizes(weights) | _settings(config or {})
        arguments["serving_length"] = min(128, arguments["max_length"])
        arguments |= overrides
        if "num_heads" not in arguments:
            raise ValueError(
                "num_heads is not known: it does not show in the weights. Give a config with num_attention_heads, or "
                "num_heads itself."
            )
        model = cls(**arguments)
        model.load_bert(weights)
        return model


def _attention_entries(prefix, attention):
    """Of query, key, value and output: torch has matrices where the layer has an axis of heads."""
    entries = {}
    for name, place in (("query", "self"), ("key", "self"), ("value", "self"), ("output", "output")):
        kernel, bias = getattr(attention, f"{name}_kernel"), getattr(attention, f"{name}_bias")
        name = "output.dense" if place == "output" else f"self.{name}"
        width = kernel.shape[-1] if place == "output" else kernel.shape[0]  # the other two are heads and their width
        entries[f"{prefix}.{name}.weight"] = Entry(kernel, (width, width), _transposed(kernel.shape))
        entries[f"{prefix}.{name}.bias"] = Entry(bias, (width,), _reshaped(bias.shape))
    return entries


def _transposed(shape):
    return lambda array: array.T.reshape(shape)


def _reshaped(shape):
    return lambda array: array.reshape(shape)


def _as_bert(weights):
    """The entries of a checkpoint that the encoder takes, by their names in BertModel."""
    weights = weights if isinstance(weights, Mapping) else read_safetensors(weights)
    named = {}
    for name, array in weights.items():
        name = name.removeprefix("bert.")
        # Files that were converted from TensorFlow call a norm's weights by other names.
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        if not name.startswith(_PASSED_OVER):
            named[name] = array
    return named


def _sizes(weights):
    """The arguments that show in the weights' shapes."""
    names = ("word_embeddings", "position_embeddings", "token_type_embeddings")
    names = [f"embeddings.{name}.weight" for name in names] + ["encoder.layer.0.intermediate.dense.weight"]
    missing = [name for name in names if name not in weights]
    if missing:
        raise ValueError(f"weights are not laid out as BERT's: they have no {', '.join(missing)}.")
    words, positions, segments, expand = (np.shape(weights[name]) for name in names)
    layers_found = {name.split(".")[2] for name in weights if name.startswith("encoder.layer.")}
    return dict(
        vocabulary_size=words[0],
        max_length=positions[0],
        num_segments=segments[0],
        hidden_dim=words[1],
        mlp_dim=expand[0],
        num_layers=len(layers_found),
        pooler="pooler.dense.weight" in weights,
    )


def _settings(config):
    """The arguments that only a config says."""
    kind, positions = config.get("model_type", "bert"), config.get("position_embedding_type", "absolute")
    if (kind, positions) != ("bert", "absolute"):
        raise ValueError(f"config is of a {kind!r} with {positions!r} positions; only BERT with absolute ones fits.")
    activation = config.get("hidden_act", "gelu")
    if activation not in _ACTIVATIONS:
        raise ValueError(f"config has hidden_act={activation!r}; it must be one of {', '.join(_ACTIVATIONS)}.")
    settings = dict(
        activation=_ACTIVATIONS[activation],
        norm_epsilon=config.get("layer_norm_eps", 1e-12),
        dropout_rate=config.get("hidden_dropout_prob", 0.1),
        attention_dropout_rate=config.get("attention_probs_dropout_prob", 0.1),
    )
    return settings | ({"num_heads": config["num_attention_heads"]} if "num_attention_heads" in config else {})
