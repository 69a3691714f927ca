"""Graph neural networks: stacks of graph convolutions that classify the nodes of a graph, or read a whole graph.

    NodeClassifier   H_0 = X,  H_l = act(conv_l(dropout(H_{l-1}))),  logits = H_L
    GraphPredictor   H_0 = X W,  H_L by message passing,  y = MLP(readout(H_L))

The layers and their equations are in `keras_dl.layers.graph` and `keras_dl.layers.message_passing`; the format of the
inputs, its padding and its helpers are in `keras_dl.graphs`.

References: Kipf and Welling 2017, arXiv:1609.02907 (GCN). Velickovic et al. 2018, arXiv:1710.10903 (GAT). Gilmer et al.
2017, arXiv:1704.01212 (MPNN). Xu et al. 2019, arXiv:1810.00826 (GIN).

Deviations: the paper's GIN reads every layer; here, as in the others, the last one is read. GAT's dropout of the inputs
is drawn once for all heads.
"""

import keras
from keras import layers, ops

from keras_dl import graphs
from keras_dl.base import FunctionalModel, Layer, Signature
from keras_dl.compat import is_eager
from keras_dl.layers.graph import GATConv, GCNConv, GINConv, SAGEConv
from keras_dl.layers.message_passing import MPNNConv, Set2Set, SumReadout

NODE_LAYERS = ("gcn", "sage", "gat", "gin")
GRAPH_LAYERS = ("mpnn", "gcn", "sage", "gin")
READOUTS = ("set2set", "sum")

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
    """Sets what padding holds to 0, so that it changes nothing; called eagerly, it checks the edges too.

    Args:
        normalize_rows: bool. Divides the features of each node by their sum, where that is not 0.

    Call arguments:
        nodes, node_mask, edges, edge_mask: as in `keras_dl.graphs`. Nothing but finite numbers is asked of padding.

    Returns:
        nodes: float, the layer's compute dtype.
        edges: int32, `(batch, edges, 2)`.

    Raises:
        ValueError: if, called eagerly, an edge names a node that is not there or is padding.
    """

    def __init__(self, normalize_rows=False, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.normalize_rows = normalize_rows

    def call(self, nodes, node_mask, edges, edge_mask):
        if all(is_eager(x) for x in (edges, edge_mask, node_mask)):
            graphs.check({"edges": edges, "edge_mask": edge_mask, "node_mask": node_mask})
        nodes = ops.where(ops.expand_dims(node_mask, -1), ops.cast(nodes, "float32"), 0.0)
        if self.normalize_rows:
            sums = ops.sum(nodes, axis=-1, keepdims=True)
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
        num_heads: int. Heads of each hidden layer, side by side. For "gat" alone.
        output_heads: int. Heads of the last layer, averaged. For "gat" alone.
        dropout_rate: float in [0, 1). Of the inputs of each layer.
        attention_dropout_rate: float in [0, 1). Of the attention. For "gat" alone.
        l2: float, or one for each layer. Adds `l2 / 2` times the sum of squares of a layer's kernels to the loss.
        use_bias: bool.
        normalize_rows: bool. Divides the features of each node by their sum, as the papers do with words.
        num_nodes: int. Nodes, padding included, of the graph that a device takes. Training takes any number.
        num_edges: int. The same of edges.

    Call arguments:
        inputs: dict of `nodes`, `node_mask`, `edges` and `edge_mask`, as in `keras_dl.graphs`.

    Returns:
        float, `(batch, nodes, num_classes)`: logits. At padding they mean nothing; give it the sample weight 0.

    Raises:
        ValueError: if an argument is out of its range; and if, called eagerly, an edge names a node that is not
            there or is padding.

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

    def __init__(
        self,
        num_features,
        num_classes,
        layer="gcn",
        hidden_dims=(16,),
        num_heads=1,
        output_heads=1,
        dropout_rate=0.0,
        attention_dropout_rate=0.0,
        l2=0.0,
        use_bias=True,
        normalize_rows=True,
        num_nodes=64,
        num_edges=256,
        dtype=None,
        **kwargs,
    ):
        hidden_dims = tuple(hidden_dims)
        if layer not in NODE_LAYERS:
            raise ValueError(f"layer={layer!r} must be one of {', '.join(NODE_LAYERS)}.")
        if layer != "gat" and (num_heads, output_heads, attention_dropout_rate) != (1, 1, 0.0):
            raise ValueError(f"layer={layer!r} has no attention: only 'gat' takes heads and dropout of attention.")
        rates = (l2,) * (len(hidden_dims) + 1) if isinstance(l2, int | float) else tuple(l2)
        if len(rates) != len(hidden_dims) + 1 or min(rates) < 0:
            raise ValueError(
                f"l2={l2!r} must be at least 0: one number, or {len(hidden_dims) + 1}, one for each layer."
            )
        if not hidden_dims or min(hidden_dims) < 1:
            raise ValueError(f"hidden_dims={hidden_dims} must be one or more positive widths.")
        _check_positive(
            num_features=num_features,
            num_classes=num_classes,
            num_heads=num_heads,
            output_heads=output_heads,
            num_nodes=num_nodes,
            num_edges=num_edges,
        )
        _check_rates(dropout_rate=dropout_rate, attention_dropout_rate=attention_dropout_rate)

        def convolution(units, i, heads, last):
            shared = dict(use_bias=use_bias, dtype=dtype, name=f"{layer}_{i}")
            shared["kernel_regularizer"] = keras.regularizers.L2(rates[i] / 2) if rates[i] else None
            shared["activation"] = None if last else "elu" if layer == "gat" else "relu"
            if layer == "gat":
                return GATConv(units, heads, concat=not last, dropout_rate=attention_dropout_rate, **shared)
            return {"gcn": GCNConv, "sage": SAGEConv, "gin": GINConv}[layer](units, **shared)

        inputs = _inputs(num_features)
        hidden, edges = CleanGraph(normalize_rows, dtype=dtype, name="clean")(
            *(inputs[name] for name in ("nodes", "node_mask", "edges", "edge_mask"))
        )
        for i, units in enumerate(hidden_dims):
            hidden = layers.Dropout(dropout_rate, dtype=dtype)(hidden)
            hidden = convolution(units, i, num_heads, last=False)(hidden, edges, inputs["edge_mask"])
        hidden = layers.Dropout(dropout_rate, dtype=dtype)(hidden)
        logits = convolution(num_classes, len(hidden_dims), output_heads, last=True)(hidden, edges, inputs["edge_mask"])
        super().__init__(inputs=inputs, outputs=logits, dtype=dtype, **kwargs)

        self.num_features = num_features
        self.num_classes = num_classes
        self.layer = layer
        self.hidden_dims = hidden_dims
        self.num_heads = num_heads
        self.output_heads = output_heads
        self.dropout_rate = dropout_rate
        self.attention_dropout_rate = attention_dropout_rate
        self.l2 = l2 if isinstance(l2, int | float) else rates
        self.use_bias = use_bias
        self.normalize_rows = normalize_rows
        self.num_nodes = num_nodes
        self.num_edges = num_edges

    def serving_signatures(self, batch_size=1):
        """What a device runs: dict of one `Signature`, `classify_nodes`.

        It takes the model's inputs at `num_nodes` nodes and `num_edges` edges, and returns
        `{"probabilities": float32, (batch_size, num_nodes, num_classes)}`.
        """

        def classify_nodes(**inputs):
            return {"probabilities": ops.softmax(ops.cast(self(inputs, training=False), "float32"))}

        return {"classify_nodes": Signature(classify_nodes, _static(self, batch_size))}


@keras.saving.register_keras_serializable(package="keras_dl")
class GraphPredictor(FunctionalModel):
    """Predicts values of whole graphs, such as properties of molecules.

    Args:
        num_features: int. Features of a node.
        num_edge_features: int. Features of an edge; 0 for layers other than "mpnn", which do not look at them.
        num_outputs: int. Values of a graph.
        layer: "mpnn", "gcn", "sage" or "gin".
        hidden_dim: int. Width of a node from the first layer on.
        num_layers: int. Message-passing steps. Those of "mpnn" share their weights, the others have their own.
        edge_hidden_dim: int. Hidden width of the edge network. For "mpnn".
        readout: "set2set" or "sum".
        readout_steps: int. How often "set2set" reads.
        dropout_rate: float in [0, 1). Before the last layer.
        output_mean: float. Of the targets: the net learns `(target - mean) / std`, and gives targets.
        output_std: float, positive.
        num_graphs: int. Graphs in a row. More than 1 adds the input `graph_ids` (`keras_dl.graphs.pack`).
        num_nodes: int. Nodes, padding included, of the row that a device takes. Training takes any number.
        num_edges: int. The same of edges.

    Call arguments:
        inputs: dict of `nodes`, `node_mask`, `edges`, `edge_mask`, and `edge_features` and `graph_ids` where the
            arguments ask for them, as in `keras_dl.graphs`.

    Returns:
        float32, `(batch, num_outputs)`, or `(batch, num_graphs, num_outputs)` for several graphs in a row. An empty
        graph gets what the last layers make of zeros.

    Raises:
        ValueError: if an argument is out of its range; and if, called eagerly, an edge names a node that is not
            there or is padding.

    Example:

    >>> import numpy as np
    >>> model = GraphPredictor(num_features=4, num_edge_features=2, num_outputs=1, hidden_dim=8)
    >>> pair = graphs.Graph(np.ones((2, 4)), [[0, 1], [1, 0]], np.ones((2, 2)))
    >>> model(graphs.pad([pair, pair], num_nodes=5)).shape
    TensorShape([2, 1])
    """

    def __init__(
        self,
        num_features,
        num_edge_features,
        num_outputs,
        layer="mpnn",
        hidden_dim=64,
        num_layers=3,
        edge_hidden_dim=128,
        readout="set2set",
        readout_steps=3,
        dropout_rate=0.0,
        output_mean=0.0,
        output_std=1.0,
        num_graphs=1,
        num_nodes=32,
        num_edges=64,
        dtype=None,
        **kwargs,
    ):
        if layer not in GRAPH_LAYERS:
            raise ValueError(f"layer={layer!r} must be one of {', '.join(GRAPH_LAYERS)}.")
        if readout not in READOUTS:
            raise ValueError(f"readout={readout!r} must be one of {', '.join(READOUTS)}.")
        if (num_edge_features > 0) != (layer == "mpnn"):
            wanted = "at least 1" if layer == "mpnn" else "0"
            raise ValueError(f"num_edge_features={num_edge_features} must be {wanted} with layer={layer!r}.")
        _check_positive(
            num_features=num_features,
            num_outputs=num_outputs,
            hidden_dim=hidden_dim,
            num_layers=num_layers,
            edge_hidden_dim=edge_hidden_dim,
            readout_steps=readout_steps,
            output_std=output_std,
            num_graphs=num_graphs,
            num_nodes=num_nodes,
            num_edges=num_edges,
        )
        _check_rates(dropout_rate=dropout_rate)

        inputs = _inputs(num_features, num_edge_features, num_graphs > 1)
        mask = inputs["edge_mask"]
        nodes, edges = CleanGraph(dtype=dtype, name="clean")(
            inputs["nodes"], inputs["node_mask"], inputs["edges"], mask
        )
        hidden = layers.Dense(hidden_dim, activation="relu", dtype=dtype, name="embed")(nodes)
        if layer == "mpnn":
            hidden = MPNNConv(num_layers, edge_hidden_dim, dtype=dtype, name="mpnn")(
                hidden, edges, inputs["edge_features"], mask
            )
        else:
            convolution = {"gcn": GCNConv, "sage": SAGEConv, "gin": GINConv}[layer]
            for i in range(num_layers):
                hidden = convolution(hidden_dim, activation="relu", dtype=dtype, name=f"{layer}_{i}")(
                    hidden, edges, mask
                )

        if readout == "set2set":
            reading = Set2Set(readout_steps, num_graphs, dtype=dtype, name="readout")
        else:
            reading = SumReadout(num_graphs, dtype=dtype, name="readout")
        vectors = reading(hidden, inputs["node_mask"], inputs.get("graph_ids"))  # (batch, num_graphs, width)
        if num_graphs == 1:
            vectors = layers.Flatten(dtype=dtype)(vectors)
        vectors = layers.Dense(hidden_dim, activation="relu", dtype=dtype, name="dense")(vectors)
        vectors = layers.Dropout(dropout_rate, dtype=dtype)(vectors)
        values = layers.Dense(num_outputs, dtype="float32", name="values")(vectors)
        values = layers.Rescaling(output_std, output_mean, dtype="float32", name="rescale")(values)
        super().__init__(inputs=inputs, outputs=values, dtype=dtype, **kwargs)

        self.num_features = num_features
        self.num_edge_features = num_edge_features
        self.num_outputs = num_outputs
        self.layer = layer
        self.hidden_dim = hidden_dim
        self.num_layers = num_layers
        self.edge_hidden_dim = edge_hidden_dim
        self.readout = readout
        self.readout_steps = readout_steps
        self.dropout_rate = dropout_rate
        self.output_mean = output_mean
        self.output_std = output_std
        self.num_graphs = num_graphs
        self.num_nodes = num_nodes
        self.num_edges = num_edges

    def serving_signatures(self, batch_size=1):
        """What a device runs: dict of one `Signature`, `predict`.

        It takes the model's inputs at `num_nodes` nodes and `num_edges` edges, and returns
        `{"values": float32}` in the model's output shape.
        """

        def predict(**inputs):
            return {"values": self(inputs, training=False)}

        return {"predict": Signature(predict, _static(self, batch_size))}


def _inputs(num_features, num_edge_features=0, packed=False):
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


def _static(model, batch_size):
    """The model's inputs with the sizes that a device takes."""
    sizes = {name: model.num_edges if name.startswith("edge") else model.num_nodes for name in model.input}
    return {
        name: keras.KerasTensor((batch_size, sizes[name], *x.shape[2:]), x.dtype, name=name)
        for name, x in model.input.items()
    }


def _check_positive(**values):
    for name, value in values.items():
        if value <= 0:
            raise ValueError(f"{name}={value} must be positive.")


def _check_rates(**values):
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name}={value} must be in [0, 1).")
