"""Multi-head attention, and the public attention layers together.

    head_h = attention(Q W_q^h + b_q^h, K W_k^h + b_k^h, V W_v^h + b_v^h)
    multi_head(Q, K, V) = [head_1; ...; head_n] W_o + b_o                    Vaswani et al. 2017, section 3.2.2

`attention` and its form of linear memory are in `keras_dl.ops.attention`. `AdditiveAttention` and `LuongAttention` are
in `keras_dl.layers.alignment`, with their equations. All of them take masks of bool, True = keep. A query whose keys
are all masked gets zeros.

Reference: Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762.

Deviations:
- The paper has no biases; `use_bias=False` gives its layer.
- A kernel is initialized as the matrix `(width, heads * dim)` that it is. `keras.layers.MultiHeadAttention`, whose
  weights this layer takes, initializes it as a convolution of `width` taps, so its values get smaller with more heads.
"""

import math
from collections.abc import Mapping
from typing import Annotated

import keras
import numpy as np
from keras import ops

from keras_dl.arguments import Rate, Size, arguments
from keras_dl.base import Layer
from keras_dl.checks import check_size, shapes_agree
from keras_dl.initializers import new_initializer
from keras_dl.layers.alignment import AdditiveAttention, LuongAttention
from keras_dl.ops.attention import chunked_attention, dot_product_attention
from keras_dl.weights import Entry, Weights, check_built, load_entries, read_safetensors

__all__ = ["AdditiveAttention", "LuongAttention", "MultiHeadAttention"]


def _check_output_shape(name, value):
    sizes = value if isinstance(value, list | tuple) else [value]
    if len(sizes) != 1:
        raise ValueError(f"{name}={value!r} must be one size: the output is of rank 3.")
    check_size(name, sizes[0])
    return value


def _check_axes(name, value):
    if value not in (1, (1,), [1]):
        raise ValueError(f"{name}={value!r} must be None or 1, the axis of a sequence.")
    return value


def _check_unsupported(name, value):
    if value:
        raise ValueError(f"{name}={value!r} is not supported here. keras.layers.MultiHeadAttention supports it.")
    return value


OutputShape = Annotated[int | tuple[int], _check_output_shape]
Axes = Annotated[int | tuple[int], _check_axes]
Unsupported = Annotated[object, _check_unsupported]


@keras.saving.register_keras_serializable(package="keras_dl")
class MultiHeadAttention(Layer):
    """Multi-head attention on sequences, a substitute for `keras.layers.MultiHeadAttention` that adds `chunk_size`.

    `set_weights(keras_layer.get_weights())` makes the two equal, and `from_config(keras_layer.get_config())` makes this
    layer of that one. `load_torch` takes the weights of `torch.nn.MultiheadAttention`.

    For decoding with a cache, `call` has two steps. `project` returns the keys and values of a source, which can be
    kept and appended to. `attend` takes them. A model of only this layer can be exported: see docs/sequences.md.

    Args:
        num_heads: int.
        key_dim: int. Width of one head's queries and keys.
        value_dim: int. Width of one head's values; None for `key_dim`.
        dropout: float in [0, 1). Dropout of the attention weights, in training.
        use_bias: bool. Whether the four projections have biases.
        output_shape: int, or a sequence of one. Width of the output; None for that of the query.
        attention_axes: None, 1 or (1,): the axis of a sequence. Keras's layer also takes others.
        sliding_window, flash_attention, activity_regularizer, use_gate: arguments of Keras's layer that must keep their
            defaults here.
        kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer, kernel_constraint, bias_constraint:
            as Keras takes them; for all four projections.
        seed: int or None. Seed of the dropout.
        chunk_size: int. Number of keys that are computed together, in memory that grows linearly with the length; None
            for all of them at once. With chunks there are no attention weights to return, and an exported file has a
            loop, which int8 does not support.
        output_initializer: as Keras takes it, for the kernel of the output; None for `kernel_initializer`.

    Call arguments:
        query: float, `(batch, queries, width)`.
        value: float, `(batch, keys, width)`: the query itself for self-attention. The keys are made of it too, unless
            `key` is given.
        key: float, `(batch, keys, width)`.
        query_mask, value_mask, key_mask: bool, `(batch, length)`, True = keep. Keras passes them where an earlier layer
            made them, such as `Embedding(mask_zero=True)`. A query that is not kept gets zeros from its heads.
        attention_mask: bool, `(queries, keys)`, `(batch, queries, keys)` or `(batch, heads, queries, keys)`, any of
            them 1 for all; True = keep. A key is kept where all masks keep it. Where nothing is kept the heads give
            zeros, and Keras's layer the mean of all values.
        return_attention_scores: bool.
        training: bool. Whether dropout is on.
        use_causal_mask: bool. Whether query i may attend only to the keys 0 to i.

    Returns:
        float, `(batch, queries, output width)`; with `return_attention_scores` also the attention weights before
        dropout, `(batch, heads, queries, keys)`, whose rows sum to 1, or to 0 where nothing is kept.

    Raises:
        ValueError: if an argument is out of its range, the number of keys is not that of values, a mask has another
            shape, or weights are asked of the chunked form.

    Example:

    >>> layer = MultiHeadAttention(num_heads=2, key_dim=4)
    >>> tokens = keras.random.normal((3, 5, 8))
    >>> output, weights = layer(tokens, tokens, use_causal_mask=True, return_attention_scores=True)
    >>> output.shape, weights.shape
    (TensorShape([3, 5, 8]), TensorShape([3, 2, 5, 5]))
    """

    @arguments
    def __init__(
        self,
        num_heads: Size,
        key_dim: Size,
        value_dim: Size | None = None,
        dropout: Rate = 0.0,
        use_bias: bool = True,
        output_shape: OutputShape | None = None,
        attention_axes: Axes | None = None,
        sliding_window: Unsupported = None,
        flash_attention: Unsupported = None,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        activity_regularizer: Unsupported = None,
        kernel_constraint=None,
        bias_constraint=None,
        use_gate: Unsupported = False,
        seed: int | None = None,
        chunk_size: Size | None = None,
        output_initializer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.supports_masking = True  # the output has the query's mask
        self.seed_generator = keras.random.SeedGenerator(seed) if dropout else None

    def build(self, query_shape, value_shape, key_shape=None):
        key_shape = key_shape or value_shape
        output_dim = self.compute_output_shape(query_shape, value_shape, key_shape)[-1]
        value_dim = self.value_dim or self.key_dim
        # In the order of keras.layers.MultiHeadAttention.
        self.query_kernel, self.query_bias = self._projection("query", query_shape[-1], self.key_dim)
        self.key_kernel, self.key_bias = self._projection("key", key_shape[-1], self.key_dim)
        self.value_kernel, self.value_bias = self._projection("value", value_shape[-1], value_dim)
        self.output_kernel = self._kernel("output", (self.num_heads, value_dim, output_dim), self.num_heads * value_dim)
        self.output_bias = self._bias("output", (output_dim,))

    def compute_output_shape(self, query_shape, value_shape, key_shape=None):
        key_shape = key_shape or value_shape
        for name, shape in (("query", query_shape), ("value", value_shape), ("key", key_shape)):
            if len(shape) != 3 or shape[-1] is None:
                raise ValueError(f"{name} of shape {tuple(shape)} must be (batch, length, width) with a known width.")
        if not shapes_agree(key_shape[1:2], value_shape[1:2]):
            raise ValueError(
                f"key of shape {tuple(key_shape)} and value of shape {tuple(value_shape)} must have the same length."
            )
        given = self.output_shape
        width = query_shape[-1] if given is None else given[0] if isinstance(given, list | tuple) else given
        return (*query_shape[:-1], width)

    def compute_output_spec(self, query, value, key=None, *args, **kwargs):
        self.compute_output_shape(query.shape, value.shape, None if key is None else key.shape)
        # Keras's Layer would go only by the shape of the output. But there may be weights beside it, and a trace of the
        # call checks the shape of a mask.
        return super(keras.layers.Layer, self).compute_output_spec(query, value, key, *args, **kwargs)

    def _projection(self, name, width, dim):
        shape = (self.num_heads, dim)
        return self._kernel(name, (width, *shape), width), self._bias(name, shape)

    def _kernel(self, name, shape, rows):
        """A weight of that shape, drawn as the matrix of `rows` rows that it is."""
        own = self.output_initializer if name == "output" else None
        initializer = new_initializer(self.kernel_initializer if own is None else own)

        def draw(shape, dtype=None):
            return ops.reshape(initializer((rows, math.prod(shape) // rows), dtype), shape)

        return self._weight(f"{name}_kernel", shape, draw, "kernel")

    def _bias(self, name, shape):
        if not self.use_bias:
            return None
        return self._weight(f"{name}_bias", shape, self.bias_initializer, "bias")

    def _weight(self, name, shape, initializer, kind):
        options = {key: getattr(self, f"{kind}_{key}") for key in ("regularizer", "constraint")}
        return self.add_weight(shape=shape, initializer=initializer, name=name, **options)

    def _projected(self, x, *names):
        """The projections of `x` of these names, each `(batch, heads, length, dim)`, by one product of matrices."""
        kernels = [getattr(self, f"{name}_kernel") for name in names]  # (width, heads, dim) each
        x = ops.matmul(x, _joined([ops.reshape(kernel, (kernel.shape[0], -1)) for kernel in kernels]))
        if self.use_bias:
            x = x + _joined([ops.reshape(getattr(self, f"{name}_bias"), (-1,)) for name in names])
        ends = np.cumsum([math.prod(kernel.shape[1:]) for kernel in kernels]).tolist()
        parts = ops.split(x, ends[:-1], axis=-1) if len(names) > 1 else [x]  # (batch, length, heads * dim) each
        parts = [ops.reshape(x, (*_lead(x), *kernel.shape[1:])) for x, kernel in zip(parts, kernels, strict=True)]
        return [ops.transpose(x, (0, 2, 1, 3)) for x in parts]

    def project(self, source, value_source=None):
        """The keys and values of a source, for `attend` now or later.

        Args:
            source: float, `(batch, length, width)`.
            value_source: float, `(batch, length, width)`, if the values are made of another tensor than the keys.

        Returns:
            Keys `(batch, heads, length, key_dim)` and values `(batch, heads, length, value_dim)`. Keys of several
            sources can be concatenated on the axis `length`: they equal the keys of the concatenated sources. So can
            values.
        """
        value_source = source if value_source is None else value_source
        (keys,), (values,) = self._projected(source, "key"), self._projected(value_source, "value")
        return keys, values

    def attend(
        self, query, keys, values, mask=None, use_causal_mask=False, return_attention_scores=False, training=False
    ):
        """Attention to keys and values that `project` returned.

        Args:
            query: float, `(batch, queries, width)`, not projected.
            keys, values: float, `(batch, heads, length, dim)`.
            mask: bool, True = keep, of any shape that `attention_mask` may have in `call`. With a cache of fixed size,
                it masks the entries that are not written yet.
            use_causal_mask, return_attention_scores, training: as in `call`.

        Returns:
            As `call`.
        """
        (query,) = self._projected(query, "query")  # (batch, heads, queries, key_dim)
        return self._attend(query, keys, values, mask, use_causal_mask, return_attention_scores, training)

    def attend_to_itself(self, x, mask=None, use_causal_mask=False, return_attention_scores=False, training=False):
        """Self-attention: `attend(x, *project(x))`.

        In training, one product makes queries, keys and values. On a CPU under XLA it saves 3% of the training step of
        a transformer block. In inference three products are faster.

        Args:
            x: float, `(batch, length, width)`.
            mask, use_causal_mask, return_attention_scores, training: as in `attend`.

        Returns:
            As `call`.
        """
        if not training:
            return self.attend(x, *self.project(x), mask, use_causal_mask, return_attention_scores)
        projected = self._projected(x, "query", "key", "value")
        return self._attend(*projected, mask, use_causal_mask, return_attention_scores, training)

    def _attend(self, query, keys, values, mask, use_causal_mask, return_attention_scores, training):
        """`attend` of a projected query."""
        options = dict(mask=_rank_4(mask), causal=use_causal_mask)
        if training and self.dropout:
            options.update(dropout_rate=self.dropout, seed=self.seed_generator)
        if self.chunk_size is None:
            output, weights = dot_product_attention(query, keys, values, **options)
        elif return_attention_scores:
            raise ValueError(
                f"return_attention_scores=True needs chunk_size=None; chunk_size={self.chunk_size} has none."
            )
        else:
            output = chunked_attention(query, keys, values, chunk_size=self.chunk_size, **options)
        heads, dim, width = self.output_kernel.shape
        output = ops.transpose(output, (0, 2, 1, 3))  # (batch, queries, heads, value_dim)
        output = ops.reshape(output, (*_lead(output), heads * dim))  # (batch, queries, heads * value_dim)
        output = ops.matmul(output, ops.reshape(self.output_kernel, (heads * dim, width)))  # (batch, queries, width)
        if self.output_bias is not None:
            output = output + self.output_bias
        return (output, weights) if return_attention_scores else output

    def call(
        self,
        query,
        value,
        key=None,
        query_mask=None,
        value_mask=None,
        key_mask=None,
        attention_mask=None,
        return_attention_scores=False,
        training=False,
        use_causal_mask=False,
    ):
        keys, values = self.project(value if key is None else key, value)
        mask = _rank_4(attention_mask)
        # (batch, 1, queries, 1) of a mask of queries, (batch, 1, 1, keys) of one of keys
        for padding, axis in ((query_mask, 3), (value_mask, 2), (key_mask, 2)):
            if padding is not None:
                padding = ops.expand_dims(ops.expand_dims(ops.cast(padding, "bool"), 1), axis)
                mask = padding if mask is None else ops.logical_and(mask, padding)
        return self.attend(query, keys, values, mask, use_causal_mask, return_attention_scores, training)

    def load_torch(self, weights: Weights) -> None:
        """Takes the weights of a `torch.nn.MultiheadAttention(num_heads * key_dim, num_heads)`.

            torch                                       here
            in_proj_weight (3 width, width)             query, key, value kernels (width, heads, dim), each transposed
            q_, k_, v_proj_weight (width, other width)  the same, of a layer with kdim or vdim
            in_proj_bias (3 width)                      query, key, value biases (heads, dim)
            out_proj.weight (width, width)              output kernel (heads, dim, width), transposed
            out_proj.bias (width)                       output bias

        Args:
            weights: mapping from name to array, as `state_dict()` gives it, or the path of a `.safetensors` file.

        Raises:
            ValueError: if the layer is not built, or names or shapes differ. The layer then keeps its weights.
        """
        check_built(self)
        weights = dict(weights if isinstance(weights, Mapping) else read_safetensors(weights))
        for whole, part in (("in_proj_weight", "{}_proj_weight"), ("in_proj_bias", "{}_proj_bias")):
            if whole in weights and len(weights[whole]) % 3 == 0:
                rows = weights.pop(whole)
                third = len(rows) // 3
                weights |= {part.format(x): rows[i * third : (i + 1) * third] for i, x in enumerate("qkv")}
        entries = self.torch_entries({"query": "q_proj", "key": "k_proj", "value": "v_proj"})
        entries = {name.replace(".", "_"): entry for name, entry in entries.items()}
        load_entries(entries | self.torch_entries({"output": "out_proj"}), weights)

    def torch_entries(self, names: Mapping[str, str]) -> dict[str, Entry]:
        """The checkpoint entries of projections that are linear layers in torch, for `keras_dl.weights.load_entries`.

        Args:
            names: mapping from "query", "key", "value" or "output" to the name of the module in torch.

        Returns:
            dict of `Entry` by name in the checkpoint. The layer must be built.

        Example:

        >>> layer = MultiHeadAttention(num_heads=2, key_dim=4, use_bias=False)
        >>> layer.build((None, 3, 6), (None, 3, 6))
        >>> {name: entry.shape for name, entry in layer.torch_entries({"query": "attention.q"}).items()}
        {'attention.q.weight': (8, 6)}
        """
        entries = {}
        for projection, name in names.items():
            kernel, bias = getattr(self, f"{projection}_kernel"), getattr(self, f"{projection}_bias")
            inputs = math.prod(kernel.shape[:-1] if projection == "output" else kernel.shape[:1])
            shape = (math.prod(kernel.shape) // inputs, inputs)
            entries[f"{name}.weight"] = Entry(kernel, shape, _from_torch(kernel.shape))
            if bias is not None:
                entries[f"{name}.bias"] = Entry(bias, (math.prod(bias.shape),), _from_torch(bias.shape))
        return entries


def _joined(parts):
    """Arrays side by side, on the last axis."""
    return ops.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]


def _from_torch(shape):
    return lambda array: array.T.reshape(shape)


def _lead(x):
    """The first two axes of `x` for `reshape`: -1 for the batch where the length is known."""
    return (-1, x.shape[1]) if x.shape[1] is not None else ops.shape(x)[:2]


def _rank_4(mask):
    """A mask as bool `(batch, heads, queries, keys)`, any of them 1 for all; None for None."""
    if mask is None:
        return None
    mask = ops.cast(mask, "bool")
    if len(mask.shape) not in (2, 3, 4):
        raise ValueError(
            f"attention_mask of shape {tuple(mask.shape)} must be (queries, keys), (batch, queries, keys) or "
            "(batch, heads, queries, keys)."
        )
    if len(mask.shape) == 2:
        mask = ops.expand_dims(mask, 0)  # (1, queries, keys)
    return ops.expand_dims(mask, 1) if len(mask.shape) == 3 else mask
