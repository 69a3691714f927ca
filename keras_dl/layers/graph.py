"""Graph convolutions: layers that compute each node anew from its neighbours.

    GCN   h'_i = sum_{j in N(i) + i} h_j W / sqrt(d_i d_j) + b,  d_i = 1 + |N(i)|     Kipf and Welling, eq. 2
    SAGE  h'_i = h_i W_1 + mean_{j in N(i)} h_j W_2 + b                               Hamilton et al., alg. 1
    GAT   h'_i = sum_{j in N(i) + i} a_ij h_j W + b,
          a_ij = softmax_j(leaky_relu(u . h_j W + v . h_i W))                         Velickovic et al., eq. 3 and 4
    GIN   h'_i = MLP((1 + eps) h_i + sum_{j in N(i)} h_j)                             Xu et al., eq. 4.1

All take the one format of `keras_dl.graphs`: `nodes`, `edges` as pairs (source, target), and `edge_mask`. N(i) are the
sources of the edges whose target is i; an undirected graph has each edge in both directions. There must be no edge from
a node to itself: GCN and GAT add those. A node without neighbours is what the equations give for an empty sum or mean:
0. The cost grows linearly with the edges.

References: Kipf and Welling 2017, "Semi-Supervised Classification with Graph Convolutional Networks", arXiv:1609.02907.
Hamilton, Ying, Leskovec 2017, "Inductive Representation Learning on Large Graphs", arXiv:1706.02216.
Velickovic et al. 2018, "Graph Attention Networks", arXiv:1710.10903.
Xu, Hu, Leskovec, Jegelka 2019, "How Powerful are Graph Neural Networks?", arXiv:1810.00826.

Deviations: the paper's GIN normalises inside its MLPs over the batch; here there is no normalisation. GAT's first code
also drops the transformed features; here, as its text says, the attention and (in the model) the inputs are dropped.
"""

import keras
from keras import activations, layers, ops, regularizers

from keras_dl.base import Layer
from keras_dl.ops.segments import gather, segment_max, segment_softmax, segment_sum, size


class _GraphConvolution(Layer):
    """What the layers below share: units, an activation, a bias and a regularizer of the kernels."""

    def __init__(self, units, activation=None, use_bias=True, kernel_regularizer=None, **kwargs):
        super().__init__(**kwargs)
        if units < 1:
            raise ValueError(f"units={units} must be at least 1.")
        self.units = units
        self.activation = activations.get(activation)
        self.use_bias = use_bias
        self.kernel_regularizer = regularizers.get(kernel_regularizer)

    def _add_kernel(self, name, *shape):
        return self.add_weight(
            shape=shape, initializer="glorot_uniform", regularizer=self.kernel_regularizer, name=name
        )

    def _add_bias(self, size):
        self.bias = self.add_weight(shape=(size,), initializer="zeros", name="bias") if self.use_bias else None

    def _finish(self, hidden):
        return self.activation(hidden if self.bias is None else hidden + self.bias)

    def compute_output_shape(self, nodes_shape, edges_shape, edge_mask_shape=None):
        return (*nodes_shape[:-1], self.units)


@keras.saving.register_keras_serializable(package="keras_dl")
class GCNConv(_GraphConvolution):
    """Graph convolution with symmetric normalisation and self-loops (GCN).

    Args:
        units: int. Width of the output.
        activation: name or function. Default: none.
        use_bias: bool.
        kernel_regularizer: of the kernel, as Keras takes it. Default: none.

    Call arguments:
        nodes: float, `(batch, nodes, features)`.
        edges: int, `(batch, edges, 2)`: (source, target), each in [0, nodes).
        edge_mask: bool, `(batch, edges)`, True = keep. Default: all.

    Returns:
        float, `(batch, nodes, units)`.

    Raises:
        ValueError: if `units` is less than 1.

    Example:

    >>> GCNConv(8)(ops.ones((1, 3, 4)), ops.array([[[0, 1], [1, 0]]])).shape
    TensorShape([1, 3, 8])
    """

    def build(self, nodes_shape, edges_shape, edge_mask_shape=None):
        self.kernel = self._add_kernel("kernel", nodes_shape[-1], self.units)
        self._add_bias(self.units)

    def call(self, nodes, edges, edge_mask=None):
        source, target = edges[..., 0], edges[..., 1]
        num_nodes = size(nodes, 1)
        weights = _weights(target, edge_mask)
        degree = 1.0 + segment_sum(weights, target, num_nodes)
        scale = ops.cast(ops.expand_dims(ops.rsqrt(degree), -1), self.compute_dtype)

        hidden = scale * ops.matmul(nodes, self.kernel)
        messages = gather(hidden, source)
        if edge_mask is not None:
            messages = messages * ops.cast(ops.expand_dims(weights, -1), messages.dtype)
        return self._finish(scale * (hidden + segment_sum(messages, target, num_nodes)))


@keras.saving.register_keras_serializable(package="keras_dl")
class SAGEConv(_GraphConvolution):
    """GraphSAGE: the node and the aggregate of its neighbours, each with a kernel of its own.

    Args:
        units: int. Width of the output.
        aggregation: "mean", or "pool": the largest, unit by unit, of `relu(h_j W_pool + b_pool)`.
        normalize: bool. Scales each output to length 1 (algorithm 1, line 7).
        activation: name or function. Default: none.
        use_bias: bool.
        kernel_regularizer: of the kernels, as Keras takes it. Default: none.

    Call arguments:
        nodes: float, `(batch, nodes, features)`.
        edges: int, `(batch, edges, 2)`: (source, target), each in [0, nodes).
        edge_mask: bool, `(batch, edges)`, True = keep. Default: all.

    Returns:
        float, `(batch, nodes, units)`.

    Raises:
        ValueError: if `units` is less than 1, or `aggregation` is unknown.

    Example:

    >>> SAGEConv(8, "pool")(ops.ones((1, 3, 4)), ops.array([[[0, 1], [1, 0]]])).shape
    TensorShape([1, 3, 8])
    """

    def __init__(
        self,
        units,
        aggregation="mean",
        normalize=False,
        activation=None,
        use_bias=True,
        kernel_regularizer=None,
        **kwargs,
    ):
        super().__init__(units, activation, use_bias, kernel_regularizer, **kwargs)
        if aggregation not in ("mean", "pool"):
            raise ValueError(f"aggregation={aggregation!r} must be 'mean' or 'pool'.")
        self.aggregation = aggregation
        self.normalize = normalize

    def build(self, nodes_shape, edges_shape, edge_mask_shape=None):
        features = nodes_shape[-1]
        self.kernel = self._add_kernel("kernel", features, self.units)
        self.neighbour_kernel = self._add_kernel("neighbour_kernel", features, self.units)
        self._add_bias(self.units)
        if self.aggregation == "pool":
            self.pool_kernel = self._add_kernel("pool_kernel", features, features)
            self.pool_bias = self.add_weight(shape=(features,), initializer="zeros", name="pool_bias")

    def call(self, nodes, edges, edge_mask=None):
        source, target = edges[..., 0], edges[..., 1]
        num_nodes = size(nodes, 1)
        weights = ops.expand_dims(_weights(target, edge_mask), -1)
        if self.aggregation == "pool":
            messages = gather(ops.relu(ops.matmul(nodes, self.pool_kernel) + self.pool_bias), source)
            messages = messages * ops.cast(weights, messages.dtype)
            # No message is negative: 0 stands for masked ones, and for the largest of none.
            neighbours = ops.maximum(segment_max(messages, target, num_nodes), 0.0)
        else:
            sums = segment_sum(gather(nodes, source) * ops.cast(weights, nodes.dtype), target, num_nodes)
            neighbours = ops.cast(sums, "float32") / ops.maximum(segment_sum(weights, target, num_nodes), 1.0)
        neighbours = ops.cast(neighbours, self.compute_dtype)
        hidden = self._finish(ops.matmul(nodes, self.kernel) + ops.matmul(neighbours, self.neighbour_kernel))
        return ops.normalize(hidden, axis=-1) if self.normalize else hidden


@keras.saving.register_keras_serializable(package="keras_dl")
class GATConv(_GraphConvolution):
    """Graph attention: several heads, each of which weighs the neighbours, and the node itself, by a softmax.

    Args:
        units: int. Width of one head.
        num_heads: int.
        concat: bool. Whether the heads stand side by side, or are averaged as in a last layer.
        dropout_rate: float in [0, 1). Of the attention weights.
        negative_slope: float. Of the leaky ReLU on the scores.
        activation: name or function. Default: none.
        use_bias: bool.
        kernel_regularizer: of the kernels, as Keras takes it. Default: none.

    Call arguments:
        nodes: float, `(batch, nodes, features)`.
        edges: int, `(batch, edges, 2)`: (source, target), each in [0, nodes).
        edge_mask: bool, `(batch, edges)`, True = keep. Default: all.

    Returns:
        float, `(batch, nodes, num_heads * units)`, or `(batch, nodes, units)` without `concat`.

    Raises:
        ValueError: if `units` or `num_heads` is less than 1.

    Example:

    >>> GATConv(8, num_heads=4)(ops.ones((1, 3, 5)), ops.array([[[0, 1], [1, 0]]])).shape
    TensorShape([1, 3, 32])
    """

    def __init__(
        self,
        units,
        num_heads=1,
        concat=True,
        dropout_rate=0.0,
        negative_slope=0.2,
        activation=None,
        use_bias=True,
        kernel_regularizer=None,
        **kwargs,
    ):
        super().__init__(units, activation, use_bias, kernel_regularizer, **kwargs)
        if num_heads < 1:
            raise ValueError(f"num_heads={num_heads} must be at least 1.")
        self.num_heads = num_heads
        self.concat = concat
        self.dropout_rate = dropout_rate
        self.negative_slope = negative_slope
        self.dropout = layers.Dropout(dropout_rate, dtype=self.dtype_policy)

    def build(self, nodes_shape, edges_shape, edge_mask_shape=None):
        width = self.num_heads * self.units
        self.kernel = self._add_kernel("kernel", nodes_shape[-1], width)
        self.source_kernel = self._add_kernel("source_kernel", self.num_heads, self.units)
        self.target_kernel = self._add_kernel("target_kernel", self.num_heads, self.units)
        self._add_bias(width if self.concat else self.units)

    def call(self, nodes, edges, edge_mask=None, training=False):
        num_nodes = size(nodes, 1)
        edges, edge_mask = with_self_loops(edges, edge_mask, num_nodes)
        source, target = edges[..., 0], edges[..., 1]

        hidden = ops.matmul(nodes, self.kernel)
        hidden = ops.reshape(hidden, (size(hidden, 0), size(hidden, 1), self.num_heads, self.units))
        scores = gather(ops.sum(hidden * self.source_kernel, axis=-1), source)  # (batch, edges, heads)
        scores = scores + gather(ops.sum(hidden * self.target_kernel, axis=-1), target)
        scores = ops.leaky_relu(scores, self.negative_slope)
        attention = ops.cast(segment_softmax(scores, target, num_nodes, edge_mask), self.compute_dtype)
        attention = self.dropout(attention, training=training)

        attended = segment_sum(gather(hidden, source) * ops.expand_dims(attention, -1), target, num_nodes)
        if self.concat:
            attended = ops.reshape(attended, (size(attended, 0), num_nodes, self.num_heads * self.units))
        else:
            attended = ops.mean(attended, axis=2)
        return self._finish(attended)

    def compute_output_shape(self, nodes_shape, edges_shape, edge_mask_shape=None):
        return (*nodes_shape[:-1], self.num_heads * self.units if self.concat else self.units)


@keras.saving.register_keras_serializable(package="keras_dl")
class GINConv(_GraphConvolution):
    """Graph isomorphism layer: an MLP of the node plus the sum of its neighbours, as sharp as the 1-WL test.

    Args:
        units: int. Width of the output.
        hidden_dim: int. Width of the MLP's hidden layer, with ReLU. Default: `units`.
        train_epsilon: bool. Whether eps is trained (GIN-eps), or stays 0 (GIN-0).
        activation: name or function. Default: none.
        use_bias: bool.
        kernel_regularizer: of the kernels, as Keras takes it. Default: none.

    Call arguments:
        nodes: float, `(batch, nodes, features)`.
        edges: int, `(batch, edges, 2)`: (source, target), each in [0, nodes).
        edge_mask: bool, `(batch, edges)`, True = keep. Default: all.

    Returns:
        float, `(batch, nodes, units)`.

    Raises:
        ValueError: if `units` or `hidden_dim` is less than 1.

    Example:

    >>> GINConv(8)(ops.ones((1, 3, 5)), ops.array([[[0, 1], [1, 0]]])).shape
    TensorShape([1, 3, 8])
    """

    def __init__(
        self,
        units,
        hidden_dim=None,
        train_epsilon=True,
        activation=None,
        use_bias=True,
        kernel_regularizer=None,
        **kwargs,
    ):
        super().__init__(units, activation, use_bias, kernel_regularizer, **kwargs)
        if hidden_dim is not None and hidden_dim < 1:
            raise ValueError(f"hidden_dim={hidden_dim} must be at least 1.")
        self.hidden_dim = hidden_dim
        self.train_epsilon = train_epsilon

    def build(self, nodes_shape, edges_shape, edge_mask_shape=None):
        hidden_dim = self.hidden_dim or self.units
        self.hidden_kernel = self._add_kernel("hidden_kernel", nodes_shape[-1], hidden_dim)
        self.hidden_bias = self.add_weight(shape=(hidden_dim,), initializer="zeros", name="hidden_bias")
        self.kernel = self._add_kernel("kernel", hidden_dim, self.units)
        self._add_bias(self.units)
        self.epsilon = self.add_weight(shape=(), initializer="zeros", trainable=self.train_epsilon, name="epsilon")

    def call(self, nodes, edges, edge_mask=None):
        source, target = edges[..., 0], edges[..., 1]
        messages = gather(nodes, source)
        if edge_mask is not None:
            messages = messages * ops.cast(ops.expand_dims(edge_mask, -1), messages.dtype)
        hidden = (1.0 + self.epsilon) * nodes + segment_sum(messages, target, size(nodes, 1))
        hidden = ops.relu(ops.matmul(hidden, self.hidden_kernel) + self.hidden_bias)
        return self._finish(ops.matmul(hidden, self.kernel))


def with_self_loops(edges, edge_mask, num_nodes):
    """Appends an edge from each node to itself.

    Args:
        edges: int, `(batch, edges, 2)`.
        edge_mask: bool, `(batch, edges)`, or None for all True.
        num_nodes: int.

    Returns:
        edges: `(batch, edges + num_nodes, 2)`.
        edge_mask: bool, `(batch, edges + num_nodes)`, or None.
    """
    ids = ops.arange(num_nodes, dtype=edges.dtype)
    loops = ops.expand_dims(ops.stack([ids, ids], axis=-1), 0)  # (1, nodes, 2)
    batch = size(edges, 0)
    loops = ops.tile(loops, (batch, 1, 1)) if edges.shape[0] != 1 else loops
    if edge_mask is not None:
        edge_mask = ops.concatenate([edge_mask, ops.cast(ops.ones_like(loops[..., 0]), "bool")], axis=1)
    return ops.concatenate([edges, loops], axis=1), edge_mask


def _weights(target, edge_mask):
    """1 for each edge, 0 where it is masked: float32, `(batch, edges)`."""
    return ops.cast(ops.ones_like(target) if edge_mask is None else edge_mask, "float32")
