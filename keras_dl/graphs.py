"""The format of graphs: arrays of a fixed size, with masks that mark the padding.

A `Graph` is one graph of any size. A model takes rows of equal size, a dict of arrays:

    nodes          float32  (rows, num_nodes, features)         0 at padding
    node_mask      bool     (rows, num_nodes)                   True = a node of the graph
    edges          int32    (rows, num_edges, 2)                (source, target); (0, 0) at padding
    edge_mask      bool     (rows, num_edges)                   True = an edge of the graph
    edge_features  float32  (rows, num_edges, edge features)    only if edges have features; 0 at padding
    graph_ids      int32    (rows, num_nodes)                   only if a row holds several graphs

A row is one graph (`pad`), or several graphs without edges between them (`pack`), which need less padding. A message
goes from source to target: an undirected graph has each edge in both directions (`undirected`). No edge goes from a
node to itself: the layers that need such edges add them. One large graph is a batch of one row. Its nodes are split by
sample weights: `model.fit(inputs, labels, sample_weight=mask)`, with
`keras.losses.SparseCategoricalCrossentropy(..., reduction="mean_with_sample_weight")`.

Values are checked here, in NumPy, and by the models when they are called eagerly. A compiled graph (`fit`, `predict`,
an exported file) does not look at the values: the result of an edge that the checks refuse is undefined there.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_dl.checks import check_size
from keras_dl.inputs import as_integers


class Graph(NamedTuple):
    """One graph, without padding.

    Attributes:
        nodes: float, `(n, features)`. n may be 0.
        edges: int, `(m, 2)`: (source, target), each in [0, n). m may be 0.
        edge_features: float, `(m, edge features)`, or None.
    """

    nodes: np.ndarray
    edges: np.ndarray
    edge_features: np.ndarray | None = None

    def check(self) -> "Graph":
        """The same graph, of arrays with the dtypes of the format.

        Raises:
            ValueError: if a shape is wrong, an edge names a node that is not there or goes from a node to itself, or a
                feature is not finite.
        """
        nodes = np.asarray(self.nodes, "float32")
        edges = _pairs(self.edges)
        if nodes.ndim != 2:
            raise ValueError(f"nodes has the shape {nodes.shape}; it must be (nodes, features).")
        features = self.edge_features
        if features is not None:
            features = np.asarray(features, "float32")
            if features.ndim != 2 or len(features) != len(edges):
                raise ValueError(f"edge_features has the shape {features.shape}; it must be ({len(edges)}, features).")
        for name, values in (("nodes", nodes), ("edge_features", features)):
            if values is not None and not np.isfinite(values).all():
                raise ValueError(f"{name} holds a value that is not finite, in row {_first(~np.isfinite(values))}.")
        wrong = (edges < 0) | (edges >= len(nodes))
        if wrong.any():
            edge = _first(wrong)
            raise ValueError(
                f"edges[{edge}] = {tuple(edges[edge].tolist())} names a node that is not there: "
                f"the graph has {len(nodes)} nodes, and indices must be in [0, {len(nodes)})."
            )
        loops = edges[:, 0] == edges[:, 1]
        if loops.any():
            edge = _first(loops)
            raise ValueError(f"edges[{edge}] = {tuple(edges[edge].tolist())} {_LOOP}.")
        return Graph(nodes, edges, features)


_LOOP = "goes from a node to itself: leave it out, as `undirected` does; the layers that need such edges add them"


def undirected(edges) -> np.ndarray:
    """Each edge once in both directions, sorted, without edges from a node to itself.

    Args:
        edges: int, `(m, 2)`.

    Returns:
        int32, `(2 * links, 2)`.

    Raises:
        ValueError: if `edges` has another shape, is not of int, or holds a number beyond int32.

    Example:

    >>> undirected([[0, 1], [1, 0], [2, 2], [2, 1]]).tolist()
    [[0, 1], [1, 0], [1, 2], [2, 1]]
    """
    edges = _pairs(edges)
    edges = edges[edges[:, 0] != edges[:, 1]]
    return np.unique(np.concatenate([edges, edges[:, ::-1]]), axis=0)


def pad(graphs, num_nodes: int | None = None, num_edges: int | None = None) -> dict[str, np.ndarray]:
    """One graph per row.

    Args:
        graphs: sequence of `Graph`, at least one.
        num_nodes: int. Nodes of a row, padding included. Default: as many as the largest graph has.
        num_edges: int. Edges of a row, padding included. Default: as many as the largest graph has.

    Returns:
        dict of arrays: the format above.

    Raises:
        ValueError: as `Graph.check`, and if a graph does not fit into a row, or some graphs have edge features and
            others have none; the message names the graph by its number.

    Example:

    >>> row = pad([Graph(np.ones((2, 4)), [[0, 1], [1, 0]])], num_nodes=3, num_edges=4)
    >>> {name: values.shape for name, values in row.items()}
    {'nodes': (1, 3, 4), 'node_mask': (1, 3), 'edges': (1, 4, 2), 'edge_mask': (1, 4)}
    """
    graphs = _checked(graphs)
    num_nodes = max(1, *(len(g.nodes) for g in graphs)) if num_nodes is None else num_nodes
    num_edges = max(1, *(len(g.edges) for g in graphs)) if num_edges is None else num_edges
    for number, graph in enumerate(graphs):
        _must_fit(number, graph, num_nodes, num_edges)
    return _fill([[(graph, 0)] for graph in graphs], num_nodes, num_edges)


def pack(graphs, num_nodes: int, num_edges: int, num_graphs: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Several graphs per row, in order: a row takes the next graph as long as it has room for it.

    Args:
        graphs: sequence of `Graph`, at least one.
        num_nodes: int. Nodes of a row, padding included.
        num_edges: int. Edges of a row, padding included.
        num_graphs: int. Graphs of a row, at most.

    Returns:
        inputs: dict of arrays: the format above, with `graph_ids`.
        places: int, `(graphs, 2)`: the row of each graph, and its number in that row. Targets go to
            `targets[places[:, 0], places[:, 1]]`, and the same places of the sample weights are 1, all others 0.

    Raises:
        ValueError: as `pad`.

    Example:

    >>> inputs, places = pack([Graph(np.ones((2, 4)), [[0, 1], [1, 0]])] * 3, num_nodes=5, num_edges=4, num_graphs=8)
    >>> inputs["graph_ids"].tolist(), places.tolist()
    ([[0, 0, 1, 1, 0], [0, 0, 0, 0, 0]], [[0, 0], [0, 1], [1, 0]])
    """
    check_size("num_graphs", num_graphs)
    rows, places, nodes, edges = [], [], 0, 0
    for number, graph in enumerate(graphs := _checked(graphs)):
        _must_fit(number, graph, num_nodes, num_edges)
        full = nodes + len(graph.nodes) > num_nodes or edges + len(graph.edges) > num_edges
        if not rows or full or len(rows[-1]) == num_graphs:
            rows.append([])
            nodes = edges = 0
        places.append((len(rows) - 1, len(rows[-1])))
        rows[-1].append((graph, nodes))
        nodes, edges = nodes + len(graph.nodes), edges + len(graph.edges)
    inputs = _fill(rows, num_nodes, num_edges)
    inputs["graph_ids"] = np.zeros(inputs["node_mask"].shape, "int32")
    for row, placed in enumerate(rows):
        for number, (graph, start) in enumerate(placed):
            inputs["graph_ids"][row, start : start + len(graph.nodes)] = number
    return inputs, np.asarray(places, "int32")


def batches(
    graphs,
    targets,
    batch_size: int,
    num_nodes: int | None = None,
    num_edges: int | None = None,
    seed: int | None = None,
) -> tf.data.Dataset:
    """A pipeline of padded batches, all of one size: one graph per row.

    Args:
        graphs: sequence of `Graph`.
        targets: array, `(graphs, ...)`.
        batch_size: int. The last batch is filled up with empty graphs of sample weight 0.
        num_nodes: int. As `pad`.
        num_edges: int. As `pad`.
        seed: int. Shuffles again in each pass, in an order given by the seed. Default: keeps the order.

    Returns:
        `tf.data.Dataset` of `(inputs, targets, sample_weight)`, as `model.fit` takes them.

    Raises:
        ValueError: as `pad`, and if `targets` has another length than `graphs`.

    Example:

    >>> pairs = [Graph(np.ones((2, 4)), [[0, 1], [1, 0]])] * 5
    >>> [weights.numpy().tolist() for _, _, weights in batches(pairs, np.zeros(5), batch_size=3)]
    [[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]
    """
    targets = np.asarray(targets)
    inputs = pad(graphs, num_nodes, num_edges)
    count = len(inputs["nodes"])
    if len(targets) != count:
        raise ValueError(f"targets has {len(targets)} rows for {count} graphs.")
    check_size("batch_size", batch_size)
    arrays = (inputs, targets, np.ones(count, "float32"))
    dataset = tf.data.Dataset.from_tensor_slices(arrays)
    if seed is not None:
        dataset = dataset.shuffle(count, seed=seed)
    empty = tf.nest.map_structure(lambda x: np.zeros((-count % batch_size, *x.shape[1:]), x.dtype), arrays)
    dataset = dataset.concatenate(tf.data.Dataset.from_tensor_slices(empty))
    return dataset.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def check(inputs) -> None:
    """Checks rows of the format.

    Args:
        inputs: dict of arrays or eager tensors.

    Raises:
        ValueError: if edges are not of int, or one that is not masked names a node that is not there or is padding, or
            goes from a node to itself.
    """
    edges, edge_mask, node_mask = (np.asarray(inputs[name]) for name in ("edges", "edge_mask", "node_mask"))
    edges = as_integers("edges", edges)
    num_nodes = node_mask.shape[1]

    def refuse(wrong, problem):  # wrong: bool, (rows, num_edges)
        wrong = wrong & edge_mask
        if wrong.any():
            row, edge = np.argwhere(wrong)[0].tolist()
            raise ValueError(f"edges[{row}, {edge}] = {tuple(edges[row, edge].tolist())} {problem}.")

    outside = ((edges < 0) | (edges >= num_nodes)).any(-1)
    refuse(outside, f"names a node that is not there: indices must be in [0, {num_nodes})")
    rows = np.arange(len(edges))[:, None, None]
    padding = ~node_mask[rows, np.where(edge_mask[..., None], edges, 0)].all(-1)
    refuse(padding, "names padding: node_mask is False there")
    refuse(edges[..., 0] == edges[..., 1], _LOOP)


def _pairs(edges):
    """`edges` as an array `(edges, 2)` of int."""
    edges = np.asarray(edges)
    if edges.size == 0:
        edges = edges.reshape(0, 2).astype("int32")
    if edges.ndim != 2 or edges.shape[1] != 2 or edges.dtype.kind not in "iu":
        raise ValueError(f"edges has the shape {edges.shape} and dtype {edges.dtype}; it must be (edges, 2) of int.")
    return as_integers("edges", edges)


def _checked(graphs):
    graphs = list(graphs)
    if not graphs:
        raise ValueError("graphs is empty; there must be at least one.")
    checked = []
    for number, graph in enumerate(graphs):
        try:
            checked.append(graph.check())
        except ValueError as error:
            raise ValueError(f"graphs[{number}]: {error}") from error
    for number, graph in enumerate(checked):
        for name in ("nodes", "edge_features"):
            width, first = (
                None if x is None else x.shape[1] for x in (getattr(graph, name), getattr(checked[0], name))
            )
            if width != first:
                raise ValueError(f"graphs[{number}]: {name} has {width} columns, and that of graphs[0] has {first}.")
    return checked


def _must_fit(number, graph, num_nodes, num_edges):
    for name, size, room in (("num_nodes", len(graph.nodes), num_nodes), ("num_edges", len(graph.edges), num_edges)):
        check_size(name, room)
        if size > room:
            raise ValueError(f"{name}={room} is too small for graphs[{number}], which has {size}.")


def _fill(rows, num_nodes, num_edges):
    """Arrays of the format from rows of pairs `(graph, its first node)`."""
    example = rows[0][0][0]
    inputs = {
        "nodes": np.zeros((len(rows), num_nodes, example.nodes.shape[1]), "float32"),
        "node_mask": np.zeros((len(rows), num_nodes), "bool"),
        "edges": np.zeros((len(rows), num_edges, 2), "int32"),
        "edge_mask": np.zeros((len(rows), num_edges), "bool"),
    }
    if example.edge_features is not None:
        inputs["edge_features"] = np.zeros((len(rows), num_edges, example.edge_features.shape[1]), "float32")
    for row, placed in enumerate(rows):
        first_edge = 0
        for graph, start in placed:
            nodes = slice(start, start + len(graph.nodes))
            edges = slice(first_edge, first_edge + len(graph.edges))
            inputs["nodes"][row, nodes] = graph.nodes
            inputs["node_mask"][row, nodes] = True
            inputs["edges"][row, edges] = graph.edges + start
            inputs["edge_mask"][row, edges] = True
            if graph.edge_features is not None:
                inputs["edge_features"][row, edges] = graph.edge_features
            first_edge = edges.stop
    return inputs


def _first(wrong):
    """The row of the first True."""
    return int(np.argwhere(wrong)[0][0])
