"""Attention layers: several heads of scaled dot products, and the additive and multiplicative forms of alignment.

    head_h = attention(Q W_q^h + b_q^h, K W_k^h + b_k^h, V W_v^h + b_v^h)
    multi_head(Q, K, V) = [head_1; ...; head_n] W_o + b_o                    Vaswani et al. 2017, section 3.2.2

`attention` and its form of linear memory stand in `keras_dl.ops.attention`; `AdditiveAttention` and `LuongAttention`,
with their equations, in `keras_dl.layers.alignment`. In all of them a mask is bool, True = keep, and a query that may
look at nothing gets zeros.

Reference: Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762.

Deviations: the paper has no biases; `use_bias=False` gives its layer. A kernel's initial values are those of the matrix
`(width, heads x dim)` that it is; `keras.layers.MultiHeadAttention`, whose weights this layer takes, draws them as for
a convolution of `width` taps, which makes them smaller with more heads.
"""

import math
from collections.abc import Mapping

import keras
from keras import initializers, ops

from keras_dl.base import Layer
from keras_dl.checks import check_rate, check_size, shapes_agree
from keras_dl.layers.alignment import AdditiveAttention, LuongAttention
from keras_dl.ops.attention import chunked_attention, dot_product_attention
from keras_dl.weights import Entry, load_entries, read_safetensors

__all__ = ["AdditiveAttention", "LuongAttention", "MultiHeadAttention"]


@keras.saving.register_keras_serializable(package="keras_dl")
class MultiHeadAttention(Layer):
    """Multi-head attention on sequences, in the place of `keras.layers.MultiHeadAttention`; and `chunk_size`.

    `set_weights(keras_layer.get_weights())` makes the two equal, and `from_config(keras_layer.get_config())` makes this
    of that; `load_torch` takes the weights of `torch.nn.MultiheadAttention`. For decoding with a cache, `call` is made
    of two steps: `project` gives the keys and values of a source, which can be kept and appended to, and `attend` looks
    at them. A model of this layer alone leaves as a file: see the README, "Sequences and text".

    Args:
        num_heads: int.
        key_dim: int. Width of one head's queries and keys.
        value_dim: int. Width of one head's values; None for `key_dim`.
        dropout: float in [0, 1). Of the attention weights, in training.
        use_bias: bool. Of all four projections.
        output_shape: int, or a sequence of one. Width of the output; None for that of the query.
        kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer, kernel_constraint, bias_constraint:
            as Keras takes them; of all four projections.
        seed: int or None. Of the dropout.
        attention_axes, sliding_window, flash_attention, activity_regularizer, use_gate: arguments of Keras's layer that
            have to stay at its defaults (1 and (1,), the axis of a sequence, will do for the first).
        chunk_size: int. Looks at so many keys at a time, in memory that grows linearly with the length; None for all at
            once. No attention weights are then to be had, and a file has a loop, which int8 refuses.

    Call arguments:
        query: float, `(batch, queries, width)`.
        value: float, `(batch, keys, width)`: the query itself for self-attention. What the keys are made of, too,
            unless `key` is given.
        key: float, `(batch, keys, width)`.
        query_mask, value_mask, key_mask: bool, `(batch, length)`, True = keep. Keras gives them where a layer before
            made them, such as `Embedding(mask_zero=True)`. A query that is not kept looks at nothing.
        attention_mask: bool, `(queries, keys)`, `(batch, queries, keys)` or `(batch, heads, queries, keys)`, any of
            them 1 for all; True = keep. All masks hold together. Where nothing is kept the heads give zeros, and
            Keras's layer the mean of all values.
        return_attention_scores: bool.
        training: bool. Whether dropout is on.
        use_causal_mask: bool. Whether query i may look at the keys 0 to i alone.

    Returns:
        float, `(batch, queries, output width)`; with `return_attention_scores` also the attention weights before
        dropout, `(batch, heads, queries, keys)`, whose rows sum to 1, or to 0 where nothing is kept.

    Raises:
        ValueError: if an argument is out of its range, keys are not as many as values, a mask has another shape, or
            weights are asked of the chunked form; it says which and what it was.

    Example:

    >>> layer = MultiHeadAttention(num_heads=2, key_dim=4)
    >>> tokens = keras.random.normal((3, 5, 8))
    >>> output, weights = layer(tokens, tokens, use_causal_mask=True, return_attention_scores=True)
    >>> output.shape, weights.shape
    (TensorShape([3, 5, 8]), TensorShape([3, 2, 5, 5]))
    """

    def __init__(
        self,
        num_heads,
        key_dim,
        value_dim=None,
        dropout=0.0,
        use_bias=True,
        output_shape=None,
        attention_axes=None,
        sliding_window=None,
        flash_attention=None,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        use_gate=False,
        seed=None,
        chunk_size=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.supports_masking = True  # the query's mask goes on with the output
        self.num_heads = check_size("num_heads", num_heads)
        self.key_dim = check_size("key_dim", key_dim)
        self.value_dim = None if value_dim is None else check_size("value_dim", value_dim)
        self.dropout = check_rate("dropout", dropout)
        self.use_bias = use_bias
        self.output_shape = output_shape
        if output_shape is not None:
            sizes = output_shape if isinstance(output_shape, list | tuple) else [output_shape]
            if len(sizes) != 1:
                raise ValueError(f"output_shape={output_shape!r} must be one size: the output is of rank 3.")
            check_size("output_shape", sizes[0])
        self.attention_axes = attention_axes
        if attention_axes not in (None, 1, (1,), [1]):
            raise ValueError(f"attention_axes={attention_axes!r} must be None or 1, the axis of a sequence.")
        unknown = dict(sliding_window=sliding_window, activity_regularizer=activity_regularizer)
        for name, value in (unknown | dict(flash_attention=flash_attention, use_gate=use_gate)).items():
            if value:
                raise ValueError(f"{name}={value!r} is not to be had here: keras.layers.MultiHeadAttention has it.")
        self.sliding_window = sliding_window
        self.flash_attention = flash_attention
        self.kernel_initializer = kernel_initializer
        self.bias_initializer = bias_initializer
        self.kernel_regularizer = kernel_regularizer
        self.bias_regularizer = bias_regularizer
        self.activity_regularizer = None
        self.kernel_constraint = kernel_constraint
        self.bias_constraint = bias_constraint
        self.use_gate = use_gate
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed) if self.dropout else None
        self.chunk_size = None if chunk_size is None else check_size("chunk_size", chunk_size)

    def build(self, query_shape, value_shape, key_shape=None):
        key_shape = key_shape or value_shape
        output_dim = self.compute_output_shape(query_shape, value_shape, key_shape)[-1]
        value_dim = self.value_dim or self.key_dim
        # In the order in which keras.layers.MultiHeadAttention has them.
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
        # Not that of Keras's Layer, which would now go by the output's shape alone: there may be weights beside it, and
        # tracing the call finds a mask of another shape.
        return super(keras.layers.Layer, self).compute_output_spec(query, value, key, *args, **kwargs)

    def _projection(self, name, width, dim):
        shape = (self.num_heads, dim)
        return self._kernel(name, (width, *shape), width), self._bias(name, shape)

    def _kernel(self, name, shape, rows):
        """A weight of that shape, drawn as the matrix of `rows` rows that it is."""
        initializer = initializers.get(self.kernel_initializer)
        if isinstance(initializer, initializers.Initializer):
            initializer = initializer.clone()  # or the four kernels would be drawn alike

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

    def _heads(self, x, kernel, bias):
        """`(batch, length, width)` to `(batch, heads, length, dim)`, by one product of matrices."""
        width, heads, dim = kernel.shape
        x = ops.matmul(x, ops.reshape(kernel, (width, heads * dim)))
        if bias is not None:
            x = x + ops.reshape(bias, (heads * dim,))
        return ops.transpose(ops.reshape(x, (*_lead(x), heads, dim)), (0, 2, 1, 3))

    def project(self, source, value_source=None):
        """The keys and values of what is looked at, to be given to `attend`, now or later.

        Args:
            source: float, `(batch, length, width)`.
            value_source: float, `(batch, length, width)`, if the values are made of something else than the keys.

        Returns:
            Keys `(batch, heads, length, key_dim)` and values `(batch, heads, length, value_dim)`. Those of several
            sources joined on the axis `length` are those of the joined source.
        """
        value_source = source if value_source is None else value_source
        keys = self._heads(source, self.key_kernel, self.key_bias)
        return keys, self._heads(value_source, self.value_kernel, self.value_bias)

    def attend(
        self, query, keys, values, mask=None, use_causal_mask=False, return_attention_scores=False, training=False
    ):
        """Looks at keys and values that `project` gave.

        Args:
            query: float, `(batch, queries, width)`, not projected.
            keys, values: float, `(batch, heads, length, dim)`.
            mask: bool, True = keep, of any shape that `attention_mask` may have in `call`. A cache of fixed size masks
                with it what was not written yet.
            use_causal_mask, return_attention_scores, training: as in `call`.

        Returns:
            As `call`.
        """
        query = self._heads(query, self.query_kernel, self.query_bias)
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
        output = ops.transpose(output, (0, 2, 1, 3))
        output = ops.reshape(output, (*_lead(output), heads * dim))
        output = ops.matmul(output, ops.reshape(self.output_kernel, (heads * dim, width)))
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
        for padding, axis in ((query_mask, 2), (value_mask, 1), (key_mask, 1)):
            if padding is not None:
                padding = ops.expand_dims(ops.expand_dims(ops.cast(padding, "bool"), 1), axis + 1)
                mask = padding if mask is None else ops.logical_and(mask, padding)
        return self.attend(query, keys, values, mask, use_causal_mask, return_attention_scores, training)

    def load_torch(self, weights):
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
            ValueError: if the layer is not built, or names or shapes differ; the layer is then left as it was.
        """
        if not self.built:
            raise ValueError(f"layer={self.name!r} must be built before it takes weights: call it once.")
        weights = dict(weights if isinstance(weights, Mapping) else read_safetensors(weights))
        for whole, part in (("in_proj_weight", "{}_proj_weight"), ("in_proj_bias", "{}_proj_bias")):
            if whole in weights and len(weights[whole]) % 3 == 0:
                rows = weights.pop(whole)
                third = len(rows) // 3
                weights |= {part.format(x): rows[i * third : (i + 1) * third] for i, x in enumerate("qkv")}
        entries = {}
        names = {"q": "query", "k": "key", "v": "value"} | {"out": "output"}
        for prefix, name in names.items():
            kernel, bias = getattr(self, f"{name}_kernel"), getattr(self, f"{name}_bias")
            rows = math.prod(kernel.shape[:-1]) if prefix == "out" else kernel.shape[0]
            dot = "." if prefix == "out" else "_"
            shape = (math.prod(kernel.shape) // rows, rows)
            entries[f"{prefix}_proj{dot}weight"] = Entry(kernel, shape, _transposed(kernel.shape))
            if bias is not None:
                entries[f"{prefix}_proj{dot}bias"] = Entry(bias, (math.prod(bias.shape),), _reshaped(bias.shape))
        load_entries(entries, weights)


def _transposed(shape):
    return lambda array: array.T.reshape(shape)


def _reshaped(shape):
    return lambda array: array.reshape(shape)


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
        mask = ops.expand_dims(mask, 0)
    return ops.expand_dims(mask, 1) if len(mask.shape) == 3 else mask
