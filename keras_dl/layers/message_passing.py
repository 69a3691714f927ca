"""Message passing along edges with features, and readouts: from the nodes of a graph to one vector for the graph.

    m_i = sum_{(j, i)} A(e_ji) h_j,    h_i <- GRU(h_i, m_i)          T times with the same weights; A an edge network
    q_t = LSTM(q*_{t-1}),  a_i = softmax_i(h_i . q_t),  r_t = sum_i a_i h_i,  q*_t = [q_t, r_t]          Set2Set

References: Gilmer et al. 2017, "Neural Message Passing for Quantum Chemistry", arXiv:1704.01212, section 5 (edge
network, GRU as in GG-NN, Set2Set). Vinyals, Bengio, Kudlur 2016, "Order Matters: Sequence to sequence for sets",
arXiv:1511.06391, eq. 3 to 7.

Initial values are Keras's. They are not in the papers.
"""

import keras
from keras import layers, ops

from keras_dl.arguments import Size, arguments
from keras_dl.base import Layer
from keras_dl.ops.segments import gather, segment_softmax, segment_sum, size


@keras.saving.register_keras_serializable(package="keras_dl")
class MPNNConv(Layer):
    """Message passing with an edge network and a GRU (the MPNN of the paper's section 5).

    An edge with features e sends `A(e) h_j`. The network A has one hidden layer with ReLU and returns a square matrix.
    The matrices do not change from step to step. They take `edges * width**2` numbers.

    Args:
        num_steps: int. Steps of message passing (T).
        edge_hidden_dim: int. Width of the hidden layer of the edge network.

    Call arguments:
        nodes: float, `(batch, nodes, width)`.
        edges: int, `(batch, edges, 2)`: (source, target), each in [0, nodes).
        edge_features: float, `(batch, edges, edge features)`.
        edge_mask: bool, `(batch, edges)`, True = keep. Default: all.

    Returns:
        float, `(batch, nodes, width)`.

    Raises:
        ValueError: if an argument is out of its range; the message has its name and value.

    Example:

    >>> edges, bonds = ops.array([[[0, 1], [1, 0]]]), ops.ones((1, 2, 4))
    >>> MPNNConv(num_steps=2, edge_hidden_dim=8)(ops.ones((1, 3, 5)), edges, bonds).shape
    TensorShape([1, 3, 5])
    """

    @arguments
    def __init__(self, num_steps: Size = 3, edge_hidden_dim: Size = 128, **kwargs):
        super().__init__(**kwargs)

    def build(self, nodes_shape, edges_shape, edge_features_shape, edge_mask_shape=None):
        width = nodes_shape[-1]
        self.expand = layers.Dense(self.edge_hidden_dim, "relu", dtype=self.dtype_policy, name="expand")
        self.matrices = layers.Dense(width * width, dtype=self.dtype_policy, name="matrices")
        self.update = layers.GRUCell(width, dtype=self.dtype_policy, name="update")
        self.expand.build(edge_features_shape)
        self.matrices.build((*edge_features_shape[:-1], self.edge_hidden_dim))
        self.update.build((None, width))

    def call(self, nodes, edges, edge_features, edge_mask=None):
        source, target = edges[..., 0], edges[..., 1]
        width = nodes.shape[-1]
        batch, num_nodes = size(nodes, 0), size(nodes, 1)
        matrices = self.matrices(self.expand(edge_features))  # (batch, edges, width * width)
        if edge_mask is not None:
            matrices = matrices * ops.cast(ops.expand_dims(edge_mask, -1), matrices.dtype)
        matrices = ops.reshape(matrices, (batch, size(edges, 1), width, width))  # (batch, edges, width, width)
        for _ in range(self.num_steps):
            # (batch, edges, width)
            messages = ops.squeeze(ops.matmul(matrices, ops.expand_dims(gather(nodes, source), -1)), -1)
            received = segment_sum(messages, target, num_nodes)  # (batch, nodes, width)
            # The cell takes rows: each node is one.
            state = ops.reshape(nodes, (batch * num_nodes, width))  # (batch * nodes, width)
            state, _ = self.update(ops.reshape(received, (batch * num_nodes, width)), [state])
            nodes = ops.reshape(state, (batch, num_nodes, width))  # (batch, nodes, width)
        return nodes

    def compute_output_shape(self, nodes_shape, edges_shape, edge_features_shape, edge_mask_shape=None):
        return nodes_shape


@keras.saving.register_keras_serializable(package="keras_dl")
class SumReadout(Layer):
    """The sum of the nodes of each graph; 0 for a graph without nodes.

    Args:
        num_graphs: int. Graphs in a row of the batch.

    Call arguments:
        nodes: float, `(batch, nodes, width)`.
        node_mask: bool, `(batch, nodes)`, True = keep.
        graph_ids: int, `(batch, nodes)`, in [0, num_graphs): the graph of each node. Default: all of graph 0.

    Returns:
        float, `(batch, num_graphs, width)`.

    Raises:
        ValueError: if `num_graphs` is not an integer of at least 1.

    Example:

    >>> SumReadout()(ops.array([[[1.0], [2.0], [4.0]]]), ops.array([[True, True, False]])).numpy()
    array([[[3.]]], dtype=float32)
    """

    @arguments
    def __init__(self, num_graphs: Size = 1, **kwargs):
        super().__init__(**kwargs)

    def call(self, nodes, node_mask, graph_ids=None):
        nodes = nodes * ops.cast(ops.expand_dims(node_mask, -1), nodes.dtype)
        return segment_sum(nodes, _ids(node_mask, graph_ids), self.num_graphs)

    def compute_output_shape(self, nodes_shape, node_mask_shape=None, graph_ids_shape=None):
        return nodes_shape[0], self.num_graphs, nodes_shape[-1]


@keras.saving.register_keras_serializable(package="keras_dl")
class Set2Set(Layer):
    """Reads the nodes of each graph several times, by attention from an LSTM, in no order.

    A graph without nodes reads zeros.

    Args:
        num_steps: int. How often the set is read.
        num_graphs: int. Graphs in a row of the batch.

    Call arguments:
        nodes: float, `(batch, nodes, width)`.
        node_mask: bool, `(batch, nodes)`, True = keep.
        graph_ids: int, `(batch, nodes)`, in [0, num_graphs): the graph of each node. Default: all of graph 0.

    Returns:
        float, `(batch, num_graphs, 2 * width)`.

    Raises:
        ValueError: if an argument is out of its range; the message has its name and value.

    Example:

    >>> Set2Set(num_steps=2)(ops.ones((1, 3, 5)), ops.array([[True, True, False]])).shape
    TensorShape([1, 1, 10])
    """

    @arguments
    def __init__(self, num_steps: Size = 3, num_graphs: Size = 1, **kwargs):
        super().__init__(**kwargs)

    def build(self, nodes_shape, node_mask_shape=None, graph_ids_shape=None):
        width = nodes_shape[-1]
        # PyTorch's LSTM, and the paper's, has no extra bias of 1 at the forget gate.
        self.cell = layers.LSTMCell(width, unit_forget_bias=False, dtype=self.dtype_policy, name="cell")
        self.cell.build((None, 2 * width))

    def call(self, nodes, node_mask, graph_ids=None):
        width, batch = nodes.shape[-1], size(nodes, 0)
        index = _ids(node_mask, graph_ids)
        rows = batch * self.num_graphs
        # The first query comes from zeros: it depends only on the LSTM's bias, and is the same for all. It is written
        # out, since quantization would take a product or a GATHER of constants for weights.
        gate, _, candidate, output = ops.split(ops.expand_dims(self.cell.bias, 0), 4, axis=-1)
        carry = ops.sigmoid(gate) * ops.tanh(candidate)
        query = ops.sigmoid(output) * ops.tanh(carry)
        state = [ops.tile(x, (rows, 1)) for x in (query, carry)]  # each (batch * num_graphs, width)
        queries = ops.expand_dims(query, 0)  # (1, 1, width)
        for step in range(self.num_steps):
            # (batch, nodes, 1)
            weights = segment_softmax(ops.sum(nodes * queries, -1, keepdims=True), index, self.num_graphs, node_mask)
            # (batch, num_graphs, width)
            attended = segment_sum(ops.cast(weights, nodes.dtype) * nodes, index, self.num_graphs)
            # (batch * num_graphs, 2 * width)
            read = ops.concatenate([state[0], ops.reshape(attended, (rows, width))], axis=-1)
            if step < self.num_steps - 1:
                query, state = self.cell(read, state)
                queries = gather(ops.reshape(query, (batch, self.num_graphs, width)), index)  # (batch, nodes, width)
        return ops.reshape(read, (batch, self.num_graphs, 2 * width))

    def compute_output_shape(self, nodes_shape, node_mask_shape=None, graph_ids_shape=None):
        return nodes_shape[0], self.num_graphs, 2 * nodes_shape[-1]


def _ids(node_mask, graph_ids):
    return ops.cast(ops.zeros_like(node_mask), "int32") if graph_ids is None else graph_ids
