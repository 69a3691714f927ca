"""Graph neural networks: stacks of graph convolutions that classify the nodes of a graph, or read a whole graph.

    NodeClassifier   H_0 = X,  H_l = act(conv_l(dropout(H_{l-1}))),  logits = H_L
    GraphPredictor   H_0 = X W,  H_L by message passing,  y = MLP(readout(H_L))

The layers and their equations are in `keras_dl.layers.graph` and `keras_dl.layers.message_passing`. The format of the
inputs, its padding and its helpers are in `keras_dl.graphs`.

References: Kipf and Welling 2017, arXiv:1609.02907 (GCN). Velickovic et al. 2018, arXiv:1710.10903 (GAT). Gilmer et al.
2017, arXiv:1704.01212 (MPNN). Xu et al. 2019, arXiv:1810.00826 (GIN).

Deviations: the paper's GIN reads out every layer; here, as for the other layers, only the last one is read out. GAT's
dropout of the inputs is drawn once for all heads.
"""

from typing import Annotated

import keras
from keras import layers, ops

from keras_dl import graphs
from keras_dl.arguments import AtLeast, Number, OneOf, Positive, Rate, Size, Sizes, arguments
from keras_dl.base import FunctionalModel, Layer
from keras_dl.checks import check_number
from keras_dl.compat import is_eager
from keras_dl.inputs import as_integers
from keras_dl.layers.graph import GATConv, GCNConv, GINConv, SAGEConv
from keras_dl.layers.message_passing import MPNNConv, Set2Set, SumReadout
from keras_dl.signatures import Signature

CONVOLUTIONS = {"gcn": GCNConv, "sage": SAGEConv, "gat": GATConv, "gin": GINConv}


def _check_l2(name, value):
    return (
        tuple(check_number(name, x, 0) for x in value)
        if isinstance(value, list | tuple)
        else check_number(name, value, 0)
    )


# A number of at least 0, or one per layer.
L2 = Annotated[float | tuple[float, ...], _check_l2]

# The nets of the papers for Cora, with 1,433 features and 7 classes: 23,040 and 92,373 weights. Kipf and Welling,
# section 5.2, and their code, which has no bias; Velickovic et al., section 3.3.
PRESETS = {
    "gcn_cora": dict(layer="gcn", hidden_dims=(16,), dropout_rate=0.5, l2=(5e-4, 0.0), use_bias=False),
    "gat_cora": dict(
        layer="gat", hidden_dims=(8,), num_heads=8, dropout_rate=0.6, attention_dropout_rate=0.6, l2=(5e-4, 5e-4)
    ),
}


@keras.saving.register_keras_serializable(package="keras_dl")
class CleanGraph(Layer):
    """Sets padding to 0, so that its values change nothing. Called eagerly, it also checks the edges.

    Args:
        normalize_rows: bool. Divides the features of each node by their sum, where that is not 0.

    Call arguments:
        nodes, node_mask, edges, edge_mask: as in `keras_dl.graphs`. Padding can be any finite numbers.

    Returns:
        nodes: float, the layer's compute dtype.
        edges: int32, `(batch, edges, 2)`.

    Raises:
        ValueError: if edges are not int. If called eagerly, also if an edge names a node that is not there or is
            padding, or goes from a node to itself.
    """

    @arguments
    def __init__(self, normalize_rows: bool = False, **kwargs):
        super().__init__(autocast=False, **kwargs)

    def call(self, nodes, node_mask, edges, edge_mask):
        edges = as_integers("edges", edges)
        if all(is_eager(x) for x in (edges, edge_mask, node_mask)):
            graphs.check({"edges": edges, "edge_mask": edge_mask, "node_mask": node_mask})
        nodes = ops.where(ops.expand_dims(node_mask, -1), ops.cast(nodes, "float32"), 0.0)
        if self.normalize_rows:
            sums = ops.sum(nodes, axis=-1, keepdims=True)  # (batch, nodes, 1)
            nodes = nodes / ops.where(sums == 0.0, 1.0, sums)
        edges = ops.where(ops.expand_dims(edge_mask, -1), edges, 0)
        return ops.cast(nodes, self.compute_dtype), edges

    def compute_output_shape(self, nodes_shape, node_mask_shape, edges_shape, edge_mask_shape):
        return nodes_shape, edges_shape


@keras.saving.register_keras_serializable(package="keras_dl")
class NodeClassifier(FunctionalModel):
    """Classifies the nodes of a graph.

    Args:
        num_features: int. Features of a node.
        num_classes: int.
        layer: "gcn", "sage", "gat" or "gin": `keras_dl.layers.graph`.
        hidden_dims: sequence of int. Width of each hidden layer; of one head for "gat".
        num_heads: int. Heads of each hidden layer, concatenated. Only for "gat".
        output_heads: int. Heads of the last layer, averaged. Only for "gat".
        dropout_rate: float in [0, 1). Of the inputs of each layer.
        attention_dropout_rate: float in [0, 1). Of the attention. Only for "gat".
        l2: float, or one per layer. Adds `l2 / 2` times the sum of squares of a layer's kernels to the loss.
        use_bias: bool.
        normalize_rows: bool. Divides the features of each node by their sum, as the papers do with words.
        num_nodes: int. Nodes, padding included, of the graph that a device takes. Training takes any number.
        num_edges: int. Edges, padding included, of that graph.

    Call arguments:
        inputs: dict of `nodes`, `node_mask`, `edges` and `edge_mask`, as in `keras_dl.graphs`.

    Returns:
        float, `(batch, nodes, num_classes)`: logits. Those at padding have no meaning; give them the sample weight 0.

    Raises:
        ValueError: if an argument is out of its range; and if, called eagerly, an edge names a node that is not
            there or is padding, or goes from a node to itself.

    Example:

    >>> model = NodeClassifier.from_preset("gcn_cora", num_features=1433, num_classes=7)
    >>> model.count_params()
    23040
    >>> import numpy as np
    >>> row = graphs.pad([graphs.Graph(np.ones((3, 1433)), [[0, 1], [1, 0]])])
    >>> model(row).shape
    TensorShape([1, 3, 7])
    """

    presets = PRESETS
    returns_logits = True

    @arguments
    def __init__(
        self,
        num_features: Size,
        num_classes: Size,
        layer: OneOf(*CONVOLUTIONS) = "gcn",
        hidden_dims: Sizes = (16,),
        num_heads: Size = 1,
        output_heads: Size = 1,
        dropout_rate: Rate = 0.0,
        attention_dropout_rate: Rate = 0.0,
        l2: L2 = 0.0,
        use_bias: bool = True,
        normalize_rows: bool = True,
        num_nodes: Size = 64,
        num_edges: Size = 256,
        dtype=None,
        **kwargs,
    ):
        if layer != "gat" and (num_heads, output_heads, attention_dropout_rate) != (1, 1, 0.0):
            raise ValueError(f"layer={layer!r} has no attention: only 'gat' takes heads and dropout of attention.")
        num_layers = len(hidden_dims) + 1
        rates = l2 if isinstance(l2, tuple) else (l2,) * num_layers
        if len(rates) != num_layers:
            raise ValueError(f"l2={l2!r} must be one number, or {num_layers}, one for each layer.")
        attention = dict(dropout_rate=attention_dropout_rate) if layer == "gat" else {}
        activation = "elu" if layer == "gat" else "relu"

        inputs = graph_inputs(num_features)
        mask = inputs["edge_mask"]
        hidden, edges = CleanGraph(normalize_rows, name="clean")(
            inputs["nodes"], inputs["node_mask"], inputs["edges"], mask
        )
        for i, units in enumerate((*hidden_dims, num_classes)):
            last = i == len(hidden_dims)
            heads = dict(num_heads=output_heads if last else num_heads, concat=not last) if layer == "gat" else {}
            hidden = layers.Dropout(dropout_rate)(hidden)
            hidden = CONVOLUTIONS[layer](  # (batch, nodes, units), or num_heads * units before the last layer
                units,
                activation=None if last else activation,
                use_bias=use_bias,
                kernel_regularizer=keras.regularizers.L2(rates[i] / 2) if rates[i] else None,
                name="head" if last else f"{layer}_{i}",
                **heads,
                **attention,
            )(hidden, edges, mask)
        super().__init__(inputs=inputs, outputs=hidden, **kwargs)

    def serving_signatures(self, batch_size: int = 1) -> dict[str, Signature]:
        """The entry points of a device: dict of one `Signature`, `classify_nodes`.

        It takes the model's inputs at `num_nodes` nodes and `num_edges` edges, and returns
        `{"probabilities": float32, (batch_size, num_nodes, num_classes)}`.
        """

        def classify_nodes(**inputs):
            return {"probabilities": ops.softmax(ops.cast(self(inputs, training=False), "float32"))}

        return {"classify_nodes": Signature(classify_nodes, _served_inputs(self, batch_size))}


@keras.saving.register_keras_serializable(package="keras_dl")
class GraphPredictor(FunctionalModel):
    """Predicts values of whole graphs, such as properties of molecules.

    Args:
        num_features: int. Features of a node.
        num_edge_features: int. Features of an edge. 0 for layers other than "mpnn", which do not use them.
        num_outputs: int. Values per graph.
        layer: "mpnn", "gcn", "sage" or "gin".
        hidden_dim: int. Width of a node from the first layer on.
        num_layers: int. Message-passing steps. Those of "mpnn" share their weights; other layers have their own.
        edge_hidden_dim: int. Hidden width of the edge network. For "mpnn".
        readout: "set2set" or "sum".
        readout_steps: int. Reading steps of "set2set".
        dropout_rate: float in [0, 1). Before the last layer.
        output_mean: float. Mean of the targets. The last layer learns `(target - mean) / std`.
        output_std: float, positive. Standard deviation of the targets.
        num_graphs: int. Graphs in a row. More than 1 adds the input `graph_ids` (`keras_dl.graphs.pack`).
        num_nodes: int. Nodes, padding included, of the row that a device takes. Training takes any number.
        num_edges: int. Edges, padding included, of that row.

    Call arguments:
        inputs: dict of `nodes`, `node_mask`, `edges`, `edge_mask`, and `edge_features` and `graph_ids` where the
            arguments ask for them, as in `keras_dl.graphs`.

    Returns:
        float32, `(batch, num_outputs)`, or `(batch, num_graphs, num_outputs)` for several graphs in a row. For an
        empty graph, the last layers get zeros.

    Raises:
        ValueError: if an argument is out of its range; and if, called eagerly, an edge names a node that is not
            there or is padding, or goes from a node to itself.

    Example:

    >>> import numpy as np
    >>> model = GraphPredictor(num_features=4, num_edge_features=2, num_outputs=1, hidden_dim=8)
    >>> pair = graphs.Graph(np.ones((2, 4)), [[0, 1], [1, 0]], np.ones((2, 2)))
    >>> model(graphs.pad([pair, pair], num_nodes=5)).shape
    TensorShape([2, 1])
    """

    @arguments
    def __init__(
        self,
        num_features: Size,
        num_edge_features: AtLeast(0),
        num_outputs: Size,
        layer: OneOf("mpnn", "gcn", "sage", "gin") = "mpnn",
        hidden_dim: Size = 64,
        num_layers: Size = 3,
        edge_hidden_dim: Size = 128,
        readout: OneOf("set2set", "sum") = "set2set",
        readout_steps: Size = 3,
        dropout_rate: Rate = 0.0,
        output_mean: Number = 0.0,
        output_std: Positive = 1.0,
        num_graphs: Size = 1,
        num_nodes: Size = 32,
        num_edges: Size = 64,
        dtype=None,
        **kwargs,
    ):
        if (num_edge_features > 0) != (layer == "mpnn"):
            needed = "at least 1" if layer == "mpnn" else "0"
            raise ValueError(f"num_edge_features={num_edge_features} must be {needed} with layer={layer!r}.")

        inputs = graph_inputs(num_features, num_edge_features, num_graphs > 1)
        mask = inputs["edge_mask"]
        nodes, edges = CleanGraph(name="clean")(inputs["nodes"], inputs["node_mask"], inputs["edges"], mask)
        hidden = layers.Dense(hidden_dim, activation="relu", name="embed")(nodes)  # (batch, nodes, hidden_dim)
        if layer == "mpnn":
            hidden = MPNNConv(num_layers, edge_hidden_dim, name="mpnn")(hidden, edges, inputs["edge_features"], mask)
        else:
            for i in range(num_layers):
                convolution = CONVOLUTIONS[layer](hidden_dim, activation="relu", name=f"{layer}_{i}")
                hidden = convolution(hidden, edges, mask)

        if readout == "set2set":
            read = Set2Set(readout_steps, num_graphs, name="readout")
        else:
            read = SumReadout(num_graphs, name="readout")
        vectors = read(hidden, inputs["node_mask"], inputs.get("graph_ids"))  # (batch, num_graphs, width)
        if num_graphs == 1:
            vectors = layers.Flatten()(vectors)  # (batch, width)
        vectors = layers.Dense(hidden_dim, activation="relu", name="dense")(vectors)  # (..., hidden_dim)
        vectors = layers.Dropout(dropout_rate)(vectors)
        values = layers.Dense(num_outputs, dtype="float32", name="head")(vectors)  # (..., num_outputs)
        values = layers.Rescaling(output_std, output_mean, dtype="float32", name="rescale")(values)
        super().__init__(inputs=inputs, outputs=values, **kwargs)

    def serving_signatures(self, batch_size: int = 1) -> dict[str, Signature]:
        """The entry points of a device: dict of one `Signature`, `predict`.

        It takes the model's inputs at `num_nodes` nodes and `num_edges` edges, and returns
        `{"values": float32}` in the model's output shape.
        """

        def predict(**inputs):
            return {"values": self(inputs, training=False)}

        return {"predict": Signature(predict, _served_inputs(self, batch_size))}


def graph_inputs(num_features, num_edge_features=0, packed=False) -> dict[str, keras.KerasTensor]:
    """The model's inputs by name, for any number of nodes and edges."""
    inputs = {
        "edge_mask": keras.Input((None,), dtype="bool", name="edge_mask"),
        "edges": keras.Input((None, 2), dtype="int32", name="edges"),
        "node_mask": keras.Input((None,), dtype="bool", name="node_mask"),
        "nodes": keras.Input((None, num_features), name="nodes"),
    }
    if num_edge_features:
        inputs["edge_features"] = keras.Input((None, num_edge_features), name="edge_features")
    if packed:
        inputs["graph_ids"] = keras.Input((None,), dtype="int32", name="graph_ids")
    return dict(sorted(inputs.items()))


def _served_inputs(model, batch_size):
    """The model's inputs, at the sizes that a device takes."""
    sizes = {name: model.num_edges if name.startswith("edge") else model.num_nodes for name in model.input}
    return {
        name: keras.KerasTensor((batch_size, sizes[name], *x.shape[2:]), x.dtype, name=name)
        for name, x in model.input.items()
    }
