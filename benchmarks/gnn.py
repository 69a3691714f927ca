"""Graph layers on random graphs: the time of a training step grows linearly with the number of edges.

Medians of 8 steps in milliseconds, one round, on two cores that other jobs used too (`keras-dl benchmark gnn`):

    edges        GCN    SAGE   GAT    GIN
    62,500       11     6      22     6
    250,000      53     19     113    43
    1,000,000    214    118    510    109
"""

import functools

from keras_dl.benchmarks.contenders import Task

WIDTH = 16
EDGES_PER_NODE = 10


def training_step(kind, num_edges):
    """One forward and one backward pass of one layer, in a graph without XLA."""
    import keras
    import numpy as np
    import tensorflow as tf

    from keras_dl.layers import GATConv, GCNConv, GINConv, SAGEConv

    rng = np.random.default_rng(0)
    num_nodes = num_edges // EDGES_PER_NODE
    nodes = tf.constant(rng.normal(size=(1, num_nodes, WIDTH)), tf.float32)
    edges = tf.constant(rng.integers(0, num_nodes, (1, num_edges, 2)), tf.int32)
    layer = {"gcn": GCNConv, "sage": SAGEConv, "gat": GATConv, "gin": GINConv}[kind](WIDTH)
    layer(nodes[:, :2], edges[:, :0])

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = keras.ops.sum(layer(nodes, edges) ** 2)
        return tape.gradient(loss, layer.trainable_variables)

    return lambda: [gradient.numpy() for gradient in step()]


TASKS = [
    Task(
        f"{kind}-edges",
        f"{kind.upper()} layer, width {WIDTH}, forward and backward, {EDGES_PER_NODE} edges per node, float32",
        {f"{n:,} edges": functools.partial(training_step, kind, n) for n in (62_500, 250_000, 1_000_000)},
        steps=8,
        warmup=3,
    )
    for kind in ("gcn", "sage", "gat", "gin")
]
