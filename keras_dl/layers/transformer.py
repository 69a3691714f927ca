"""The block of all transformers.

    y      = norm(x + sublayer(x))              post-norm (Vaswani et al., section 3.1)
    y      = x + sublayer(norm(x))              pre-norm (Xiong et al.)
    mlp(x) = activation(x W1 + b1) W2 + b2      (Vaswani et al., eq. 2)

A block has two sublayers, self-attention and an MLP. A decoder's block has attention to a memory between them. A
decoder takes one position per call. It keeps the keys and values of earlier positions in a cache of static size.

References: Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762;
Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture", arXiv:2002.04745, for pre-norm.
"""

from collections.abc import Mapping

import keras
from keras import layers, ops

from keras_dl.arguments import OneOf, Positive, Rate, Size, arguments
from keras_dl.base import Layer
from keras_dl.checks import check_heads
from keras_dl.compat import inner_layers
from keras_dl.initializers import new_initializer
from keras_dl.layers.attention import MultiHeadAttention
from keras_dl.layers.norm import LayerNormalization
from keras_dl.ops.activations import gelu
from keras_dl.weights import Entry, Weights, check_built, load_entries, read_safetensors, stacked, torch_entries

# Functions of the hidden states and of whether it is training.
ACTIVATIONS = {
    "relu": lambda hidden, training: ops.relu(hidden),
    "gelu": gelu,
    "gelu_tanh": lambda hidden, training: ops.gelu(hidden, approximate=True),  # GPT-2's
}
Activation = OneOf(*ACTIVATIONS)


@keras.saving.register_keras_serializable(package="keras_dl")
class TransformerBlock(Layer):
    """Self-attention, attention to a memory if there is one, and an MLP, each with a residual and a layer norm.

    Args:
        num_heads: int. Must divide the width.
        mlp_dim: int. Width of the MLP's hidden layer.
        cross_attention: bool. Whether the block attends to a memory.
        dropout_rate: float in [0, 1). Dropout of each sublayer's result.
        attention_dropout_rate: float in [0, 1). Dropout of the attention weights.
        activation: "relu", "gelu" (exact) or "gelu_tanh".
        norm_first: bool. True for pre-norm, False for the paper's post-norm.
        norm_epsilon: float. Added to variances.
        attention_bias: bool. Whether queries, keys, values and outputs of attention have biases.
        mlp_dropout: bool. Whether the MLP's hidden layer has dropout of `dropout_rate` too.
        kernel_initializer: as Keras takes it, for all matrices.
        residual_initializer: as Keras takes it, for the matrices that end a sublayer, whose results are added to the
            states. None for `kernel_initializer`.
        mlp_bias_initializer: as Keras takes it, for both biases of the MLP.

    Call arguments:
        states: float, `(batch, n, width)`.
        mask: bool, `(batch or 1, n or 1, n)`: True = may be attended to. None for all.
        memory: float, `(batch, m, width)`. Only with `cross_attention`.
        memory_mask: bool, `(batch or 1, n or 1, m)`: True = may be attended to. None for all.
        causal: bool. Whether a position may attend only to itself and to earlier ones.
        training: bool. Whether dropout is on.

    Returns:
        float, `(batch, n, width)`.

    Raises:
        ValueError: if an argument is out of its range, or `num_heads` does not divide the width.

    Example:

    >>> block = TransformerBlock(num_heads=2, mlp_dim=16, norm_first=True)
    >>> block(keras.ops.ones((3, 5, 8)), causal=True).shape
    TensorShape([3, 5, 8])
    """

    attention_class = MultiHeadAttention

    @arguments
    def __init__(
        self,
        num_heads: Size,
        mlp_dim: Size,
        cross_attention: bool = False,
        dropout_rate: Rate = 0.0,
        attention_dropout_rate: Rate = 0.0,
        activation: Activation = "relu",
        norm_first: bool = False,
        norm_epsilon: Positive = 1e-6,
        attention_bias: bool = True,
        mlp_dropout: bool = False,
        kernel_initializer="glorot_uniform",
        residual_initializer=None,
        mlp_bias_initializer="zeros",
        **kwargs,
    ):
        super().__init__(**kwargs)

    def build(self, states_shape):
        width = states_shape[-1]
        check_heads(self.num_heads, width)
        shared = dict(dtype=self.dtype_policy)
        attention = dict(dropout=self.attention_dropout_rate, use_bias=self.attention_bias, **shared)
        attention |= dict(num_heads=self.num_heads, key_dim=width // self.num_heads)
        residual = self.kernel_initializer if self.residual_initializer is None else self.residual_initializer
        attention |= dict(kernel_initializer=self.kernel_initializer, output_initializer=residual)
        norm = dict(epsilon=self.norm_epsilon, **shared)

        self.attention = self.attention_class(**attention, name="attention")
        self.attention_norm = LayerNormalization(**norm, name="attention_norm")
        if self.cross_attention:
            self.memory_attention = self.attention_class(**attention, name="memory_attention")
            self.memory_norm = LayerNormalization(**norm, name="memory_norm")
        self.expand = self._dense(self.mlp_dim, self.kernel_initializer, "expand")
        self.project = self._dense(width, residual, "project")
        self.mlp_norm = LayerNormalization(**norm, name="mlp_norm")
        self.dropout = layers.Dropout(self.dropout_rate, **shared, name="dropout")

        states_shape = (None, None, width)
        for layer in inner_layers(self):
            if isinstance(layer, MultiHeadAttention):
                layer.build(states_shape, states_shape)
            else:
                layer.build((None, None, self.mlp_dim) if layer is self.project else states_shape)

    def torch_entries(self, prefix: str = "") -> dict[str, Entry]:
        """The entries of a `torch.nn.TransformerEncoderLayer`, or with `cross_attention` a `TransformerDecoderLayer`.

        Args:
            prefix: str. What stands before each name in the checkpoint, with its dot: `"layers.0."`.

        Returns:
            dict of `keras_dl.weights.Entry` by name in the checkpoint. The block must be built.
        """
        attentions, norms = {"self_attn": self.attention}, [self.attention_norm, self.mlp_norm]
        if self.cross_attention:
            attentions["multihead_attn"] = self.memory_attention
            norms.insert(1, self.memory_norm)
        entries = {}
        for name, attention in attentions.items():
            one = attention.torch_entries({"query": "q", "key": "k", "value": "v", "output": "out_proj"})
            for kind in ("weight", "bias")[: 1 + self.attention_bias]:
                parts = [one.pop(f"{part}.{kind}") for part in "qkv"]
                entries[f"{prefix}{name}.in_proj_{kind}"] = stacked(parts)
            entries |= {f"{prefix}{name}.{key}": entry for key, entry in one.items()}
        for i, norm in enumerate(norms, 1):
            entries |= torch_entries(f"{prefix}norm{i}", norm)
        for name, dense in (("linear1", self.expand), ("linear2", self.project)):
            entries |= torch_entries(f"{prefix}{name}", dense)
        return entries

    def _dense(self, units, kernel_initializer, name):
        return layers.Dense(
            units,
            kernel_initializer=new_initializer(kernel_initializer),
            bias_initializer=new_initializer(self.mlp_bias_initializer),
            dtype=self.dtype_policy,
            name=name,
        )

    def call(self, states, mask=None, memory=None, memory_mask=None, causal=False, training=False):
        def attend(x):
            return self.attention.attend_to_itself(x, mask, causal, training=training)

        states = self._residual(states, self.attention_norm, attend, training)
        pair = self.memory_attention.project(memory) if self.cross_attention else None
        return self._rest(states, pair, memory_mask, training)

    def prefill(self, states):
        """A causal call in inference, and the keys and values of each position for a cache.

        Args:
            states: float, `(batch, n, width)`.

        Returns:
            `(states, keys, values)`: the call's result, and float `(batch, heads, n, head_dim)`.
        """
        pair = []

        def attend(x):
            pair.extend(self.attention.project(x))
            return self.attention.attend(x, *pair, use_causal_mask=True)

        states = self._residual(states, self.attention_norm, attend, False)
        return self._rest(states, None, None, False), *pair

    def step(self, states, keys, values, position, memory=None, memory_mask=None):
        """One position of each row, in inference.

        Args:
            states: float, `(batch, 1, width)`.
            keys, values: float, `(batch, heads, length, head_dim)`: those of earlier positions. Entries at this
                position and later ones are ignored.
            position: int32, `(batch,)`, in `0 ... length - 1`: the position of each row.
            memory: None, or the keys and values of the memory, a pair of `(batch, heads, m, head_dim)`.
            memory_mask: bool, `(batch, 1, m)`, or None for all.

        Returns:
            `(states, keys, values)`, each in its shape, the keys and values with those of this position.
        """
        places = ops.expand_dims(ops.arange(keys.shape[2], dtype="int32"), 0)  # (1, length)
        position = ops.expand_dims(position, 1)  # (batch, 1)
        here = ops.expand_dims(ops.expand_dims(ops.equal(places, position), 1), 3)  # (batch, 1, length, 1)
        written = ops.expand_dims(places <= position, 1)  # (batch, 1, length)
        cache = []

        def attend(x):
            new = self.attention.project(x)  # a pair of (batch, heads, 1, head_dim)
            cache.extend(ops.where(here, one, old) for one, old in zip(new, (keys, values), strict=True))
            return self.attention.attend(x, *cache, written)

        states = self._residual(states, self.attention_norm, attend, False)
        return self._rest(states, memory, memory_mask, False), *cache

    def attention_weights(self, states, mask=None, causal=False):
        """The weights of self-attention, in inference: float, `(batch, heads, n, n)`. Arguments as in the call."""
        x = self.attention_norm(states) if self.norm_first else states
        return self.attention.attend_to_itself(x, mask, causal, return_attention_scores=True)[1]

    def memory_weights(self, states, memory, memory_mask):
        """The weights of a causal block's attention to its memory: float, `(batch, heads, n, m)`."""

        def attend(x):
            return self.attention.attend_to_itself(x, use_causal_mask=True)

        states = self._residual(states, self.attention_norm, attend, False)
        x = self.memory_norm(states) if self.norm_first else states
        pair = self.memory_attention.project(memory)
        return self.memory_attention.attend(x, *pair, memory_mask, return_attention_scores=True)[1]

    def _rest(self, states, memory, memory_mask, training):
        """The sublayers after self-attention. `memory` is a pair of keys and values."""

        def attend(x):
            return self.memory_attention.attend(x, *memory, memory_mask, training=training)

        if self.cross_attention:
            states = self._residual(states, self.memory_norm, attend, training)
        return self._feed_forward(states, training)

    def _feed_forward(self, states, training):
        """The last sublayer, the MLP."""

        def mlp(x):
            hidden = ACTIVATIONS[self.activation](self.expand(x), training)  # (batch, n, mlp_dim)
            if self.mlp_dropout:
                hidden = self.dropout(hidden, training=training)
            return self.project(hidden)  # (batch, n, width)

        return self._residual(states, self.mlp_norm, mlp, training)

    def _residual(self, states, norm, sublayer, training):
        if self.norm_first:
            return states + self.dropout(sublayer(norm(states)), training=training)
        return norm(states + self.dropout(sublayer(states), training=training))


def load_torch_stack(blocks, weights: Weights, norm=None, prefix: str = "") -> None:
    """Takes the weights of a `torch.nn.TransformerEncoder` or `TransformerDecoder`. It loads all entries or none.

    Their epsilon is 1e-5 and their activation relu, if they were made without others: give blocks the same.

    Args:
        blocks: list of built `TransformerBlock`, in order.
        weights: mapping from name to array, as `state_dict()` gives it, or the path of a `.safetensors` file.
        norm: the built normalization behind the last block, where torch's module has one.
        prefix: str. What stands before each name, with its dot: `"encoder."`. Other entries are left out; with "",
            there must be none.

    Raises:
        ValueError: if a block is not built, or names or shapes differ. The blocks then keep their weights.
    """
    for block in blocks:
        check_built(block)
    weights = weights if isinstance(weights, Mapping) else read_safetensors(weights)
    entries = {} if norm is None else torch_entries(f"{prefix}norm", norm)
    for i, block in enumerate(blocks):
        entries |= block.torch_entries(f"{prefix}layers.{i}.")
    load_entries(entries, {name: array for name, array in weights.items() if name.startswith(prefix)})


def step_through(blocks, states, keys, values, position, memory_keys=None, memory_values=None, memory_mask=None):
    """One position of each row through all blocks, in inference.

    Args:
        blocks: list of `TransformerBlock`, each with the same number of heads.
        states: float, `(batch, 1, width)`.
        keys, values: float, `(batch, len(blocks) * heads, length, head_dim)`: the caches of all blocks in order.
        position, memory_mask: as of `TransformerBlock.step`.
        memory_keys, memory_values: None, or the memory's, in the layout of `keys`.

    Returns:
        `(states, keys, values)`, each in its shape.
    """
    kept = [], []
    for i, block in enumerate(blocks):
        heads = slice(i * block.num_heads, (i + 1) * block.num_heads)
        memory = None if memory_keys is None else (memory_keys[:, heads], memory_values[:, heads])
        states, *pair = block.step(states, keys[:, heads], values[:, heads], position, memory, memory_mask)
        for all_blocks, x in zip(kept, pair, strict=True):
            all_blocks.append(x)
    return states, *(ops.concatenate(x, axis=1) for x in kept)
