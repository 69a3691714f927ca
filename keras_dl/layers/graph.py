"""Graph convolutions: layers that compute a new value of each node from its neighbors.

    GCN   h'_i = sum_{j in N(i) + i} h_j W / sqrt(d_i d_j) + b,  d_i = 1 + |N(i)|     Kipf and Welling, eq. 2
    SAGE  h'_i = h_i W_1 + mean_{j in N(i)} h_j W_2 + b                               Hamilton et al., alg. 1
    GAT   h'_i = sum_{j in N(i) + i} a_ij h_j W + b,
          a_ij = softmax_j(leaky_relu(u . h_j W + v . h_i W))                         Velickovic et al., eq. 3 and 4
    GIN   h'_i = MLP((1 + eps) h_i + sum_{j in N(i)} h_j)                             Xu et al., eq. 4.1

All layers take the format of `keras_dl.graphs`: `nodes`, `edges` as pairs (source, target), and `edge_mask`. N(i) are
the sources of the edges whose target is i. An undirected graph has each edge in both directions. No edge may go from a
node to itself: GCN and GAT add those. (The models check this; the layers do not look at the edges.) For a node without
neighbors, the sums and means above are 0. The cost grows linearly with the edges.

References: Kipf and Welling 2017, "Semi-Supervised Classification with Graph Convolutional Networks", arXiv:1609.02907.
Hamilton, Ying, Leskovec 2017, "Inductive Representation Learning on Large Graphs", arXiv:1706.02216.
Velickovic et al. 2018, "Graph Attention Networks", arXiv:1710.10903.
Xu, Hu, Leskovec, Jegelka 2019, "How Powerful are Graph Neural Networks?", arXiv:1810.00826.

Deviations: the paper's GIN has batch normalization inside its MLPs; here there is none. GAT's first code also applies
dropout to the transformed features; here, as its text says, dropout applies to the attention and (in the model) the
inputs. All kernels start at Glorot's uniform distribution; GIN's code has torch's defaults.
"""

import keras
import numpy as np
from keras import layers, ops

from keras_dl.arguments import Activation, Number, OneOf, Rate, Regularizer, Size, arguments
from keras_dl.base import Layer
from keras_dl.ops.segments import gather, segment_max, segment_softmax, segment_sum, size
from keras_dl.weights import Entry, Weights, check_built, load_entries


class _GraphConvolution(Layer):
    """Shared parts of the layers below: units, an activation, a bias and a regularizer of the kernels."""

    @arguments
    def __init__(
        self,
        units: Size,
        activation: Activation = None,
        use_bias: bool = True,
        kernel_regularizer: Regularizer = None,
        **kwargs,
    ):
        super().__init__(**kwargs)

    def _add_kernel(self, name, *shape):
        return self.add_weight(
            shape=shape, initializer="glorot_uniform", regularizer=self.kernel_regularizer, name=name
        )

    def _add_bias(self, size):
        self.bias = self.add_weight(shape=(size,), initializer="zeros", name="bias") if self.use_bias else None

    def load_torch(self, weights: Weights) -> None:
        """Takes the weights of the layer of this name in torch_geometric. It loads all entries or none.

            torch_geometric                  here
            GCNConv    lin.weight            kernel, transposed
            SAGEConv   lin_r, lin_l, lin     kernel, neighbor_kernel and bias, pool_kernel and pool_bias
            GATConv    lin, att_src, att_dst kernel, source_kernel, target_kernel
            GINConv    nn.0, nn.2, eps       hidden_kernel and hidden_bias, kernel and bias, epsilon

        Args:
            weights: mapping from name to array, as `state_dict()` gives it, or the path of a `.safetensors` file.

        Raises:
            ValueError: if the layer is not built, or names or shapes differ. The layer then keeps its weights.
        """
        check_built(self)
        load_entries(self._torch_entries(), weights)

    def _finish(self, hidden):
        return self.activation(hidden if self.bias is None else hidden + self.bias)

    def compute_output_shape(self, nodes_shape, edges_shape, edge_mask_shape=None):
        return (*nodes_shape[:-1], self.units)


def _transposed(variable):
    return Entry(variable, tuple(variable.shape)[::-1], np.transpose)


def _same(variable):
    return Entry(variable, tuple(variable.shape), np.asarray)


def _biases(variables):
    """The entries of those biases, by name, that the layer has."""
    return {name: _same(x) for name, x in variables.items() if x is not None}


@keras.saving.register_keras_serializable(package="keras_dl")
class GCNConv(_GraphConvolution):
    """Graph convolution with symmetric normalization and self-loops (GCN).

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
        ValueError: if an argument is out of its range; the message has its name and value.

    Example:

    >>> GCNConv(8)(ops.ones((1, 3, 4)), ops.array([[[0, 1], [1, 0]]])).shape
    TensorShape([1, 3, 8])
    """

    def build(self, nodes_shape, edges_shape, edge_mask_shape=None):
        self.kernel = self._add_kernel("kernel", nodes_shape[-1], self.units)
        self._add_bias(self.units)

    def _torch_entries(self):
        return {"lin.weight": _transposed(self.kernel)} | _biases({"bias": self.bias})

    def call(self, nodes, edges, edge_mask=None):
        source, target = edges[..., 0], edges[..., 1]
        num_nodes = size(nodes, 1)
        weights = _weights(target, edge_mask)  # (batch, edges)
        degree = 1.0 + segment_sum(weights, target, num_nodes)  # (batch, nodes)
        scale = ops.cast(ops.expand_dims(ops.rsqrt(degree), -1), self.compute_dtype)  # (batch, nodes, 1)

        hidden = scale * ops.matmul(nodes, self.kernel)  # (batch, nodes, units)
        messages = gather(hidden, source)  # (batch, edges, units)
        if edge_mask is not None:
            messages = messages * ops.cast(ops.expand_dims(weights, -1), messages.dtype)
        return self._finish(scale * (hidden + segment_sum(messages, target, num_nodes)))


@keras.saving.register_keras_serializable(package="keras_dl")
class SAGEConv(_GraphConvolution):
    """GraphSAGE: the node and the aggregate of its neighbors, each with a kernel of its own.

    Args:
        units: int. Width of the output.
        aggregation: "mean", or "pool": the maximum, unit by unit, of `relu(h_j W_pool + b_pool)`.
        normalize: bool. Scales each output to length 1 (algorithm 1, line 7).
        activation, use_bias, kernel_regularizer: as of `GCNConv`, by keyword.

    Call arguments:
        nodes: float, `(batch, nodes, features)`.
        edges: int, `(batch, edges, 2)`: (source, target), each in [0, nodes).
        edge_mask: bool, `(batch, edges)`, True = keep. Default: all.

    Returns:
        float, `(batch, nodes, units)`.

    Raises:
        ValueError: if an argument is out of its range; the message has its name and value.

    Example:

    >>> SAGEConv(8, "pool")(ops.ones((1, 3, 4)), ops.array([[[0, 1], [1, 0]]])).shape
    TensorShape([1, 3, 8])
    """

    @arguments
    def __init__(self, units: Size, aggregation: OneOf("mean", "pool") = "mean", normalize: bool = False, **kwargs):
        super().__init__(units, **kwargs)

    def build(self, nodes_shape, edges_shape, edge_mask_shape=None):
        features = nodes_shape[-1]
        self.kernel = self._add_kernel("kernel", features, self.units)
        self.neighbor_kernel = self._add_kernel("neighbor_kernel", features, self.units)
        self._add_bias(self.units)
        if self.aggregation == "pool":
            self.pool_kernel = self._add_kernel("pool_kernel", features, features)
            self.pool_bias = self.add_weight(shape=(features,), initializer="zeros", name="pool_bias")

    def _torch_entries(self):
        entries = {"lin_r.weight": _transposed(self.kernel), "lin_l.weight": _transposed(self.neighbor_kernel)}
        if self.aggregation == "pool":
            entries |= {"lin.weight": _transposed(self.pool_kernel), "lin.bias": _same(self.pool_bias)}
        return entries | _biases({"lin_l.bias": self.bias})

    def call(self, nodes, edges, edge_mask=None):
        source, target = edges[..., 0], edges[..., 1]
        num_nodes = size(nodes, 1)
        weights = ops.expand_dims(_weights(target, edge_mask), -1)  # (batch, edges, 1)
        if self.aggregation == "pool":
            messages = gather(ops.relu(ops.matmul(nodes, self.pool_kernel) + self.pool_bias), source)
            messages = messages * ops.cast(weights, messages.dtype)  # (batch, edges, features)
            # No message is negative: masked messages count as 0, and so does the maximum of none.
            neighbors = ops.maximum(segment_max(messages, target, num_nodes), 0.0)
        else:
            sums = segment_sum(gather(nodes, source) * ops.cast(weights, nodes.dtype), target, num_nodes)
            neighbors = ops.cast(sums, "float32") / ops.maximum(segment_sum(weights, target, num_nodes), 1.0)
        neighbors = ops.cast(neighbors, self.compute_dtype)  # (batch, nodes, features)
        # (batch, nodes, units)
        hidden = self._finish(ops.matmul(nodes, self.kernel) + ops.matmul(neighbors, self.neighbor_kernel))
        return ops.normalize(hidden, axis=-1) if self.normalize else hidden


@keras.saving.register_keras_serializable(package="keras_dl")
class GATConv(_GraphConvolution):
    """Graph attention: several heads, each of which weights the neighbors, and the node itself, by a softmax.

    Args:
        units: int. Width of one head.
        num_heads: int.
        concat: bool. Whether the heads are concatenated, or averaged as in a last layer.
        dropout_rate: float in [0, 1). Of the attention weights.
        negative_slope: float. Of the leaky ReLU on the scores.
        activation, use_bias, kernel_regularizer: as of `GCNConv`, by keyword.

    Call arguments:
        nodes: float, `(batch, nodes, features)`.
        edges: int, `(batch, edges, 2)`: (source, target), each in [0, nodes).
        edge_mask: bool, `(batch, edges)`, True = keep. Default: all.

    Returns:
        float, `(batch, nodes, num_heads * units)`, or `(batch, nodes, units)` without `concat`.

    Raises:
        ValueError: if an argument is out of its range; the message has its name and value.

    Example:

    >>> GATConv(8, num_heads=4)(ops.ones((1, 3, 5)), ops.array([[[0, 1], [1, 0]]])).shape
    TensorShape([1, 3, 32])
    """

    @arguments
    def __init__(
        self,
        units: Size,
        num_heads: Size = 1,
        concat: bool = True,
        dropout_rate: Rate = 0.0,
        negative_slope: Number = 0.2,
        **kwargs,
    ):
        super().__init__(units, **kwargs)
        self.dropout = layers.Dropout(dropout_rate, dtype=self.dtype_policy)

    def build(self, nodes_shape, edges_shape, edge_mask_shape=None):
        width = self.num_heads * self.units
        self.kernel = self._add_kernel("kernel", nodes_shape[-1], width)
        self.source_kernel = self._add_kernel("source_kernel", self.num_heads, self.units)
        self.target_kernel = self._add_kernel("target_kernel", self.num_heads, self.units)
        self._add_bias(width if self.concat else self.units)

    def _torch_entries(self):
        heads = {"att_src": self.source_kernel, "att_dst": self.target_kernel}
        entries = {name: Entry(x, (1, *x.shape), lambda array: array[0]) for name, x in heads.items()}
        return entries | {"lin.weight": _transposed(self.kernel)} | _biases({"bias": self.bias})

    def call(self, nodes, edges, edge_mask=None, training=False):
        num_nodes = size(nodes, 1)
        edges, edge_mask = with_self_loops(edges, edge_mask, num_nodes)
        source, target = edges[..., 0], edges[..., 1]

        hidden = ops.matmul(nodes, self.kernel)  # (batch, nodes, heads * units)
        # (batch, nodes, heads, units)
        hidden = ops.reshape(hidden, (size(hidden, 0), size(hidden, 1), self.num_heads, self.units))
        scores = gather(ops.sum(hidden * self.source_kernel, axis=-1), source)  # (batch, edges, heads)
        scores = scores + gather(ops.sum(hidden * self.target_kernel, axis=-1), target)
        scores = ops.leaky_relu(scores, self.negative_slope)
        attention = ops.cast(segment_softmax(scores, target, num_nodes, edge_mask), self.compute_dtype)
        attention = self.dropout(attention, training=training)

        # (batch, nodes, heads, units)
        attended = segment_sum(gather(hidden, source) * ops.expand_dims(attention, -1), target, num_nodes)
        if self.concat:
            # (batch, nodes, heads * units)
            attended = ops.reshape(attended, (size(attended, 0), num_nodes, self.num_heads * self.units))
        else:
            attended = ops.mean(attended, axis=2)  # (batch, nodes, units)
        return self._finish(attended)

    def compute_output_shape(self, nodes_shape, edges_shape, edge_mask_shape=None):
        return (*nodes_shape[:-1], self.num_heads * self.units if self.concat else self.units)


@keras.saving.register_keras_serializable(package="keras_dl")
class GINConv(_GraphConvolution):
    """Graph isomorphism layer: an MLP of the node plus the sum of its neighbors, as discriminative as the 1-WL test.

    Args:
        units: int. Width of the output.
        hidden_dim: int. Width of the MLP's hidden layer, with ReLU. Default: `units`.
        train_epsilon: bool. Whether eps is trained (GIN-eps), or stays 0 (GIN-0).
        activation, use_bias, kernel_regularizer: as of `GCNConv`, by keyword.

    Call arguments:
        nodes: float, `(batch, nodes, features)`.
        edges: int, `(batch, edges, 2)`: (source, target), each in [0, nodes).
        edge_mask: bool, `(batch, edges)`, True = keep. Default: all.

    Returns:
        float, `(batch, nodes, units)`.

    Raises:
        ValueError: if an argument is out of its range; the message has its name and value.

    Example:

    >>> GINConv(8)(ops.ones((1, 3, 5)), ops.array([[[0, 1], [1, 0]]])).shape
    TensorShape([1, 3, 8])
    """

    @arguments
    def __init__(self, units: Size, hidden_dim: Size | None = None, train_epsilon: bool = True, **kwargs):
        super().__init__(units, **kwargs)

    def build(self, nodes_shape, edges_shape, edge_mask_shape=None):
        hidden_dim = self.hidden_dim or self.units
        self.hidden_kernel = self._add_kernel("hidden_kernel", nodes_shape[-1], hidden_dim)
        self.hidden_bias = self.add_weight(shape=(hidden_dim,), initializer="zeros", name="hidden_bias")
        self.kernel = self._add_kernel("kernel", hidden_dim, self.units)
        self._add_bias(self.units)
        self.epsilon = self.add_weight(shape=(), initializer="zeros", trainable=self.train_epsilon, name="epsilon")

    def _torch_entries(self):
        entries = {"nn.0.weight": _transposed(self.hidden_kernel), "nn.2.weight": _transposed(self.kernel)}
        entries["eps"] = Entry(self.epsilon, (1,), np.squeeze)
        return entries | _biases({"nn.0.bias": self.hidden_bias, "nn.2.bias": self.bias})

    def call(self, nodes, edges, edge_mask=None):
        source, target = edges[..., 0], edges[..., 1]
        messages = gather(nodes, source)  # (batch, edges, features)
        if edge_mask is not None:
            messages = messages * ops.cast(ops.expand_dims(edge_mask, -1), messages.dtype)
        hidden = (1.0 + self.epsilon) * nodes + segment_sum(messages, target, size(nodes, 1))
        hidden = ops.relu(ops.matmul(hidden, self.hidden_kernel) + self.hidden_bias)  # (batch, nodes, hidden_dim)
        return self._finish(ops.matmul(hidden, self.kernel))  # (batch, nodes, units)


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
    loops = ops.tile(loops, (batch, 1, 1)) if edges.shape[0] != 1 else loops  # (batch, nodes, 2)
    if edge_mask is not None:
        edge_mask = ops.concatenate([edge_mask, ops.cast(ops.ones_like(loops[..., 0]), "bool")], axis=1)
    return ops.concatenate([edges, loops], axis=1), edge_mask


def _weights(target, edge_mask):
    """1 for each edge, 0 where it is masked: float32, `(batch, edges)`."""
    return ops.cast(ops.ones_like(target) if edge_mask is None else edge_mask, "float32")
