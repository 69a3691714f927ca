"""The transformer of DETR: from maps of an image to a class and a box for each query.

    attention(x, y) = MultiHead(x + p(x), y + p(y), y)             positions in queries and keys, never in values

Encoder and decoder are post-norm. The encoder's positions are sines, the decoder's are learned: one for each query. The
decoder starts from zeros. One layer norm follows each of its layers, and the heads read all of them.

Reference: Carion et al. 2020, arXiv:2005.12872, section 3.2 and fig. 10.
"""

import keras
from keras import layers, ops

from keras_dl.arguments import AtLeast, Rate, Size, arguments
from keras_dl.base import Layer
from keras_dl.layers.norm import LayerNormalization
from keras_dl.layers.sine_positions import SinePositions
from keras_dl.layers.transformer import TransformerBlock

NORM_EPSILON = 1e-5
BOX_LAYERS = 3


@keras.saving.register_keras_serializable(package="keras_dl")
class PositionedBlock(TransformerBlock):
    """A transformer block whose attentions add positions to queries and keys, and not to values.

    Args:
        **kwargs: as `keras_dl.layers.TransformerBlock` takes them.

    Call arguments:
        states: float, `(batch, n, width)`.
        positions: float, `(batch or 1, n, width)`.
        attention_mask: bool, `(batch, 1, n)`. True = may be attended to. None for all.
        memory, memory_positions: float, `(batch, m, width)`, and `(batch or 1, m, width)`. Only with `cross_attention`.
        memory_mask: bool, `(batch, 1, m)`, or None.
        training: bool. Whether dropout is on.

    Returns:
        float, `(batch, n, width)`.

    Example:

    >>> block = PositionedBlock(num_heads=2, mlp_dim=16)
    >>> block(keras.ops.zeros((3, 5, 8)), keras.ops.ones((1, 5, 8))).shape
    TensorShape([3, 5, 8])
    """

    def call(
        self,
        states,
        positions,
        attention_mask=None,
        memory=None,
        memory_positions=None,
        memory_mask=None,
        training=False,
    ):
        def attend(x):
            placed = x + positions
            keys = self.attention.project(placed, x)
            return self.attention.attend(placed, *keys, attention_mask, training=training)

        def attend_to_memory(x):
            keys = self.memory_attention.project(memory + memory_positions, memory)
            return self.memory_attention.attend(x + positions, *keys, memory_mask, training=training)

        states = self._residual(states, self.attention_norm, attend, training)
        if self.cross_attention:
            states = self._residual(states, self.memory_norm, attend_to_memory, training)
        return self._feed_forward(states, training)


@keras.saving.register_keras_serializable(package="keras_dl")
class DETRTransformer(Layer):
    """Encoder, decoder and heads of DETR.

    Args:
        num_classes: int. Without the class for no object, which is added as the last one.
        num_queries: int.
        hidden_dim: int, a multiple of 4 and of `num_heads`.
        num_heads: int.
        mlp_dim: int.
        num_encoder_layers: int. 0 for a decoder alone.
        num_decoder_layers: int.
        dropout_rate: float in [0, 1). Of each sublayer, of attention weights, and inside of the MLPs.

    Call arguments:
        maps: float, `(batch, height, width, channels)`, with known sides.
        valid: bool, `(batch, height, width)`. False = padding, which nothing attends to. None for none.
        training: bool. Whether dropout is on.
        last: bool. Whether the result is that of the last decoder layer alone, without the axis `layers`.

    Returns:
        dict of `boxes`, float32 `(batch, layers, queries, 4)`, cxcywh in (0, 1); and `logits`, float32
        `(batch, layers, queries, num_classes + 1)`.

    Example:

    >>> net = DETRTransformer(3, 5, hidden_dim=8, num_heads=2, mlp_dim=16, num_encoder_layers=1, num_decoder_layers=2)
    >>> net(keras.ops.zeros((2, 3, 4, 6)))["logits"].shape
    TensorShape([2, 2, 5, 4])
    """

    @arguments
    def __init__(
        self,
        num_classes: Size,
        num_queries: Size = 100,
        hidden_dim: AtLeast(4) = 256,
        num_heads: Size = 8,
        mlp_dim: Size = 2048,
        num_encoder_layers: AtLeast(0) = 6,
        num_decoder_layers: Size = 6,
        dropout_rate: Rate = 0.1,
        **kwargs,
    ):
        super().__init__(**kwargs)

    def build(self, maps_shape):
        width, shared = self.hidden_dim, dict(dtype=self.dtype_policy)
        block = dict(num_heads=self.num_heads, mlp_dim=self.mlp_dim, norm_epsilon=NORM_EPSILON, mlp_dropout=True)
        block |= dict(dropout_rate=self.dropout_rate, attention_dropout_rate=self.dropout_rate, **shared)
        self.input_projection = layers.Conv2D(width, 1, name="input_projection", **shared)
        self.positions = SinePositions(width, name="positions", **shared)
        self.encoder = [PositionedBlock(**block, name=f"encoder_{i}") for i in range(self.num_encoder_layers)]
        block |= dict(cross_attention=True)
        self.decoder = [PositionedBlock(**block, name=f"decoder_{i}") for i in range(self.num_decoder_layers)]
        self.decoder_norm = LayerNormalization(epsilon=NORM_EPSILON, name="decoder_norm", **shared)
        self.class_head = layers.Dense(self.num_classes + 1, name="class_head", **shared)
        sizes = [width] * (BOX_LAYERS - 1) + [4]
        self.box_head = [layers.Dense(size, name=f"box_head_{i}", **shared) for i, size in enumerate(sizes)]
        normal = keras.initializers.RandomNormal(stddev=1.0)
        self.queries = self.add_weight(shape=(self.num_queries, width), initializer=normal, name="queries")
        self.input_projection.build(maps_shape)
        for layer in (*self.encoder, *self.decoder, self.decoder_norm, self.class_head, *self.box_head):
            layer.build((None, None, width))

    def call(self, maps, valid=None, training=False, last=False):
        memory, positions, mask = self.encode(maps, valid, training)
        queries = ops.expand_dims(ops.cast(self.queries, memory.dtype), 0)  # (1, queries, hidden_dim)
        states = ops.zeros((ops.shape(maps)[0], *self.queries.shape), memory.dtype)
        of_memory = dict(memory=memory, memory_positions=positions, memory_mask=mask)
        found = []
        for block in self.decoder:
            states = block(states, queries, **of_memory, training=training)
            found.append(states)
        return self.heads(states if last else ops.stack(found, axis=1))  # (batch, layers, queries, hidden_dim)

    def encode(self, maps, valid=None, training=False):
        """The encoder.

        Args:
            maps, valid, training: as of a call.

        Returns:
            `(memory, positions, mask)`: float `(batch, places, hidden_dim)`; float `(batch or 1, places, hidden_dim)`;
            and bool `(batch, 1, places)`, or None without `valid`.
        """
        height, width = maps.shape[1:3]

        def flat(x):
            return ops.reshape(x, (-1, height * width, x.shape[-1]))  # (batch, height * width, channels)

        positions = flat(self.positions(maps, valid))
        mask = None if valid is None else ops.reshape(valid, (-1, 1, height * width))
        memory = flat(self.input_projection(maps))
        for block in self.encoder:
            memory = block(memory, positions, attention_mask=mask, training=training)
        return memory, positions, mask

    def heads(self, states):
        """The class and the box of each state, float `(..., hidden_dim)`: a dict as of a call."""
        states = hidden = self.decoder_norm(states)
        for layer in self.box_head[:-1]:
            hidden = ops.relu(layer(hidden))
        boxes = ops.sigmoid(ops.cast(self.box_head[-1](hidden), "float32"))
        return {"boxes": boxes, "logits": ops.cast(self.class_head(states), "float32")}
