"""The block of all transformers.

    y             = norm(x + sublayer(x))                               post-norm (section 3.1)
    y             = x + sublayer(norm(x))                               pre-norm
    mlp(x)        = act(x W1 + b1) W2 + b2                              (eq. 2)

A block is self-attention, attention to a memory (in decoders that have one), and an MLP, each such a sublayer. In
decoding, a block takes one position a call, and the keys and values of the earlier ones from a cache of static size.

References: Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762;
Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture", arXiv:2002.04745, for pre-norm.
"""

import keras
from keras import layers, ops

from keras_dl.arguments import OneOf
from keras_dl.base import Layer
from keras_dl.checks import check_choice, check_heads, check_rate, check_size
from keras_dl.layers import attention as attentions
from keras_dl.layers.norm import LayerNormalization

ACTIVATIONS = {
    "relu": ops.relu,
    "gelu": lambda x: ops.gelu(x, approximate=False),
    "gelu_tanh": lambda x: ops.gelu(x, approximate=True),  # GPT-2's
}
Activation = OneOf(*ACTIVATIONS)


@keras.saving.register_keras_serializable(package="keras_dl")
class TransformerBlock(Layer):
    """Self-attention, attention to a memory if there is one, and an MLP, each with a residual and a layer norm.

    Args:
        num_heads: int. Must divide the width.
        mlp_dim: int. Width of the MLP's hidden layer.
        cross_attention: bool. Whether it attends to a memory.
        dropout_rate: float in [0, 1). Of each sublayer's result.
        attention_dropout_rate: float in [0, 1). Of the attention weights.
        activation: "relu", "gelu" (exact) or "gelu_tanh".
        norm_first: bool. True for pre-norm, False for the paper's post-norm.
        norm_epsilon: float. Added to variances.
        attention_bias: bool. Whether queries, keys, values and outputs of attention have biases.

    Call arguments:
        states: float, `(batch, n, width)`.
        mask: bool, `(batch or 1, n or 1, n)`: True = may be attended to. None for all.
        memory: float, `(batch, m, width)`; only with `cross_attention`.
        memory_mask: bool, `(batch or 1, n or 1, m)`.
        causal: bool. Whether a position may attend to itself and earlier ones alone.
        training: bool. Whether dropout is on.

    Returns:
        float, `(batch, n, width)`.

    Raises:
        ValueError: if `num_heads` does not divide the width.
    """

    def __init__(
        self,
        num_heads,
        mlp_dim,
        cross_attention=False,
        dropout_rate=0.0,
        attention_dropout_rate=0.0,
        activation="relu",
        norm_first=False,
        norm_epsilon=1e-6,
        attention_bias=True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.mlp_dim = mlp_dim
        self.cross_attention = cross_attention
        self.dropout_rate = dropout_rate
        self.attention_dropout_rate = attention_dropout_rate
        self.activation = activation
        self.norm_first = norm_first
        self.norm_epsilon = norm_epsilon
        self.attention_bias = attention_bias

    def build(self, states_shape):
        width = states_shape[-1]
        shared = dict(dtype=self.dtype_policy)

        def norm(name):
            layer = LayerNormalization(epsilon=self.norm_epsilon, name=name, **shared)
            layer.build((None, None, width))
            return layer

        def attention(name):
            layer = attentions.MultiHeadAttention(
                self.num_heads,
                width // self.num_heads,
                dropout=self.attention_dropout_rate,
                use_bias=self.attention_bias,
                name=name,
                **shared,
            )
            layer.build((None, None, width), (None, None, width))
            return layer

        self.attention, self.attention_norm = attention("attention"), norm("attention_norm")
        if self.cross_attention:
            self.memory_attention, self.memory_norm = attention("memory_attention"), norm("memory_norm")
        self.expand = layers.Dense(self.mlp_dim, name="expand", **shared)
        self.expand.build((None, None, width))
        self.project = layers.Dense(width, name="project", **shared)
        self.project.build((None, None, self.mlp_dim))
        self.mlp_norm = norm("mlp_norm")
        self.dropout = layers.Dropout(self.dropout_rate, name="dropout", **shared)

    def call(self, states, mask=None, memory=None, memory_mask=None, causal=False, training=False):
        def attend(x):
            return self.attention.attend(x, *self.attention.project(x), mask, causal, training=training)

        states = self._residual(states, self.attention_norm, attend, training)
        pairs = self.memory_attention.project(memory) if self.cross_attention else None
        return self._rest(states, pairs, memory_mask, training)

    def prefill(self, states):
        """A causal call in inference, and what it leaves in a cache.

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
            keys, values: float, `(batch, heads, length, head_dim)`: those of earlier positions; what stands at this
                one or later does not matter.
            position: int32, `(batch,)`. Where each row is: `0 ... length - 1`.
            memory: None, or the pair of keys and values, `(batch, heads, m, head_dim)`, of the memory.
            memory_mask: bool, `(batch, 1, m)`, or None for all.

        Returns:
            `(states, keys, values)`, each in its shape, the keys and values with those of this position.
        """
        places = ops.expand_dims(ops.arange(keys.shape[2], dtype="int32"), 0)
        position = ops.expand_dims(position, 1)
        here = ops.expand_dims(ops.expand_dims(ops.equal(places, position), 1), 3)  # (batch, 1, length, 1)
        cache = []

        def attend(x):
            cache.extend(
                ops.where(here, new, old) for new, old in zip(self.attention.project(x), (keys, values), strict=True)
            )
            return self.attention.attend(x, *cache, ops.expand_dims(places <= position, 1))

        states = self._residual(states, self.attention_norm, attend, False)
        return self._rest(states, memory, memory_mask, False), *cache

    def memory_weights(self, states, memory, memory_mask):
        """The weights of a causal block's attention to its memory: float, `(batch, heads, n, m)`."""

        def attend(x):
            return self.attention.attend(x, *self.attention.project(x), use_causal_mask=True)

        states = self._residual(states, self.attention_norm, attend, False)
        if self.norm_first:
            states = self.memory_norm(states)
        pair = self.memory_attention.project(memory)
        return self.memory_attention.attend(states, *pair, memory_mask, return_attention_scores=True)[1]

    def _rest(self, states, memory, memory_mask, training):
        if self.cross_attention:
            states = self._residual(
                states,
                self.memory_norm,
                lambda x: self.memory_attention.attend(x, *memory, memory_mask, training=training),
                training,
            )
        return self._residual(states, self.mlp_norm, self._mlp, training)

    def _mlp(self, states):
        return self.project(ACTIVATIONS[self.activation](self.expand(states)))

    def _residual(self, states, norm, sublayer, training):
        if self.norm_first:
            return states + self.dropout(sublayer(norm(states)), training=training)
        return norm(states + self.dropout(sublayer(states), training=training))


def step_through(blocks, states, keys, values, position, memory_keys=None, memory_values=None, memory_mask=None):
    """One position of each row through all blocks, in inference.

    Args:
        blocks: list of `TransformerBlock` of as many heads each.
        states: float, `(batch, 1, width)`.
        keys, values: float, `(batch, len(blocks) * heads, length, head_dim)`: the caches of all blocks in order.
        position, memory_mask: as of `TransformerBlock.step`.
        memory_keys, memory_values: None, or the memory's, laid out as `keys`.

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


def check_stack(num_layers, hidden_dim, mlp_dim, num_heads, dropout_rate, attention_dropout_rate, activation):
    """The arguments that all three models share, checked, as a tuple in the same order.

    Raises:
        ValueError: naming the argument and its value.
    """
    hidden_dim, num_heads = check_size("hidden_dim", hidden_dim), check_size("num_heads", num_heads)
    check_heads(num_heads, hidden_dim)
    return (
        check_size("num_layers", num_layers),
        hidden_dim,
        check_size("mlp_dim", mlp_dim),
        num_heads,
        check_rate("dropout_rate", dropout_rate),
        check_rate("attention_dropout_rate", attention_dropout_rate),
        check_choice("activation", activation, tuple(ACTIVATIONS)),
    )
