"""Graph layers against PyTorch Geometric, the symmetries of graphs, what 1-WL tells apart, padding, and bad input."""

import itertools
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import CASES
from keras import ops

from keras_dl import GraphPredictor, NodeClassifier, graphs
from keras_dl.graphs import Graph
from keras_dl.layers.graph import GATConv, GCNConv, GINConv, SAGEConv
from keras_dl.layers.message_passing import MPNNConv, Set2Set, SumReadout
from keras_dl.ops.segments import segment_softmax
from keras_dl.recipes.training import recipe, runner

ORACLE = dict(np.load(pathlib.Path(__file__).parent / "oracles" / "gnn.npz"))
NODES, EDGES, BONDS = (ORACLE[name][None] for name in ("nodes", "edges", "edge_features"))

LAYERS = {
    "gcn": lambda **options: GCNConv(6, **options),
    "sage_mean": lambda **options: SAGEConv(6, "mean", normalize=True, **options),
    "sage_pool": lambda **options: SAGEConv(6, "pool", **options),
    "gat_concat": lambda **options: GATConv(6, 3, **options),
    "gat_mean": lambda **options: GATConv(6, 3, concat=False, **options),
    "gin": lambda **options: GINConv(6, hidden_dim=7, **options),
    "mpnn": lambda **options: MPNNConv(num_steps=2, edge_hidden_dim=8, **options),
}

# Of each weight of MPNNConv, the reference's name and what becomes of it.
MPNN = {
    "expand/kernel": ("convolution.nn.0.weight", np.transpose),
    "expand/bias": ("convolution.nn.0.bias", None),
    "matrices/kernel": ("convolution.nn.2.weight", lambda w: _transposed_matrices(w).T),
    "matrices/bias": ("convolution.nn.2.bias", lambda b: _transposed_matrices(b)),
    "update/kernel": ("update.weight_ih", lambda w: _gru_order(w).T),
    "update/recurrent_kernel": ("update.weight_hh", lambda w: _gru_order(w).T),
}


def _transposed_matrices(rows):
    """The reference multiplies a row by the matrix of an edge, the layer the matrix by a column."""
    size = int(len(rows) ** 0.5)
    return np.swapaxes(rows.reshape(size, size, -1), 0, 1).reshape(rows.shape)


def _gru_order(rows):
    """PyTorch keeps the gates as reset, update, candidate; Keras as update, reset, candidate."""
    reset, update, candidate = np.split(rows, 3)
    return np.concatenate([update, reset, candidate])


def _inputs(name, nodes=NODES, edges=EDGES, bonds=BONDS):
    return (nodes, edges, bonds) if name == "mpnn" else (nodes, edges)


def _layer(name, **options):
    """A layer with the reference's weights."""
    layer = LAYERS[name](**options)
    layer(*_inputs(name))
    weights = {key.removeprefix(f"{name}/"): x for key, x in ORACLE.items() if key.startswith(f"{name}/")}
    del weights["output"]
    if name != "mpnn":
        layer.load_torch(weights)
        return layer
    for weight in layer.weights:
        key = weight.path.split("/", 1)[1]
        if key == "update/bias":
            weight.assign(np.stack([_gru_order(weights[f"update.bias_{kind}"]) for kind in ("ih", "hh")]))
            continue
        source, change = MPNN[key]
        weight.assign(change(weights[source]) if change else weights[source])
    return layer


@pytest.mark.parametrize("name", LAYERS)
def test_layer_equals_torch_geometric(name):
    found = _layer(name)(*_inputs(name))[0]
    np.testing.assert_allclose(found, ORACLE[f"{name}/output"], rtol=1e-5, atol=2e-6)


def test_weights_that_do_not_fit_are_refused():
    layer = LAYERS["gcn"]()
    with pytest.raises(ValueError, match="must be built before it takes weights"):
        layer.load_torch({})
    layer(NODES, EDGES)
    before = layer.get_weights()
    with pytest.raises(ValueError, match=r"missing: bias \(6,\)"):
        layer.load_torch({"lin.weight": ORACLE["gcn/lin.weight"]})
    np.testing.assert_array_equal(before[0], layer.get_weights()[0])


def test_set2set_equals_torch_geometric():
    ids = np.array([[0, 0, 0, 0, 1, 1, 1, 1, 2]], "int32")
    mask = np.ones((1, 9), bool)
    layer = Set2Set(num_steps=3, num_graphs=3)
    layer(NODES, mask, ids)
    gates = {name: ORACLE[f"set2set/lstm.{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    layer.set_weights([gates["weight_ih"].T, gates["weight_hh"].T, gates["bias_ih"] + gates["bias_hh"]])
    np.testing.assert_allclose(layer(NODES, mask, ids)[0], ORACLE["set2set/output"], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_relabelled_nodes_give_relabelled_outputs(name):
    layer = _layer(name)
    order = np.random.default_rng(0).permutation(NODES.shape[1])
    shuffled = np.random.default_rng(1).permutation(EDGES.shape[1])
    edges = np.argsort(order)[EDGES][:, shuffled].astype("int32")
    found = layer(*_inputs(name, NODES[:, order], edges, BONDS[:, shuffled]))
    np.testing.assert_allclose(found, ops.convert_to_numpy(layer(*_inputs(name)))[:, order], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_rows_of_a_batch_are_separate_graphs(name):
    layer = _layer(name)
    rng = np.random.default_rng(0)
    rows = [[rng.permutation(x[0]) for x in _inputs(name)] for _ in range(3)]
    together = layer(*(np.stack(x) for x in zip(*rows, strict=True)))
    for i, row in enumerate(rows):
        np.testing.assert_allclose(together[i], layer(*(x[None] for x in row))[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_masked_edges_are_no_edges(name):
    """Also where the masked ones are all that a node has, and where there is no edge at all."""
    layer = _layer(name)
    for kept in (9, 0):
        mask = (np.arange(EDGES.shape[1]) < kept)[None]
        found = layer(*_inputs(name), mask)
        expected = layer(*_inputs(name, NODES, EDGES[:, :kept], BONDS[:, :kept]))
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_layer_keeps_its_config(name):
    regular = {} if name == "mpnn" else dict(activation="tanh", kernel_regularizer=keras.regularizers.L2(0.5))
    layer = LAYERS[name](dtype="mixed_bfloat16", name="one", **regular)
    copy = keras.layers.deserialize(keras.layers.serialize(layer))
    assert type(copy) is type(layer)
    assert keras.layers.serialize(copy) == keras.layers.serialize(layer)


def test_gradient_of_softmax_over_neighbours():
    """Equal to that of the dense softmax, with scores that would overflow, a masked one and a segment of one."""
    scores = np.array([[100.0, 101.0, 99.5, 3.0, -1e4]], "float32")
    index, mask = np.array([[0, 0, 0, 1, 1]]), np.array([[True, True, True, True, False]])
    weights = np.array([[1.0, -2.0, 3.0, 4.0, 5.0]], "float32")
    with tf.GradientTape() as tape:
        x = tf.constant(scores)
        tape.watch(x)
        value = tf.reduce_sum(segment_softmax(x, index, 3, mask) * weights)
    p = np.exp(scores[0, :3] - 101) / np.exp(scores[0, :3] - 101).sum()
    expected = np.concatenate([p * (weights[0, :3] - (p * weights[0, :3]).sum()), [0, 0]])
    np.testing.assert_allclose(value, (p * weights[0, :3]).sum() + 4.0, rtol=1e-6)
    np.testing.assert_allclose(tape.gradient(value, x)[0], expected, atol=1e-6)


def test_half_precision_counts_a_hub():
    """5,000 neighbours of 1: float16 has no 2,049, bfloat16 no 257."""
    hub = np.stack([np.arange(1, 5001), np.zeros(5000)], axis=-1)[None].astype("int32")
    for policy in ("mixed_float16", "mixed_bfloat16"):
        mean = SAGEConv(1, dtype=policy)
        mean(np.ones((1, 5001, 1)), hub)
        mean.set_weights([np.zeros((1, 1)), np.ones((1, 1)), np.zeros(1)])
        assert float(mean(np.ones((1, 5001, 1)), hub)[0, 0, 0]) == 1.0


# What 1-WL sees


def _graph(edges):
    edges = graphs.undirected(edges)
    return Graph(np.ones((edges.max() + 1, 1)), edges)


def _colours(graph, rounds):
    """1-WL: the sorted colours of all nodes after some rounds of refinement."""
    colours = [0] * len(graph.nodes)
    for _ in range(rounds):
        seen = [[] for _ in colours]
        for source, target in graph.edges:
            seen[target].append(colours[source])
        colours = [hash((own, tuple(sorted(others)))) for own, others in zip(colours, seen, strict=True)]
    return tuple(sorted(colours))


def test_gin_tells_apart_what_1_wl_does_and_no_more():
    """All connected graphs of 5 nodes, and two pairs that no number of rounds tells apart."""
    pairs = list(itertools.combinations(range(5), 2))
    candidates = [
        _graph(chosen) for n in range(4, 11) for chosen in itertools.combinations(pairs, n) if _connects(chosen)
    ]
    distinct = list({_colours(g, 5): g for g in candidates}.values())
    assert len(distinct) == 21  # of connected graphs with 5 nodes there are 21, and 1-WL tells all of them apart

    hexagon = [(i, (i + 1) % 6) for i in range(6)]
    triangles = [(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3)]
    decalin = [*((i, i + 1) for i in range(9)), (9, 0), (0, 5)]
    bicyclopentyl = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0), (5, 6), (6, 7), (7, 8), (8, 9), (9, 5), (0, 5)]
    same = [(_graph(hexagon), _graph(triangles)), (_graph(decalin), _graph(bicyclopentyl))]

    model = GraphPredictor(1, 0, 8, layer="gin", hidden_dim=16, num_layers=4, readout="sum", num_nodes=10, num_edges=24)
    values = np.asarray(model(graphs.pad(distinct)))
    distances = np.abs(values[:, None] - values[None]).max(-1) + np.eye(len(distinct))
    assert distances.min() > 1e-4
    for left, right in same:
        assert _colours(left, 10) == _colours(right, 10)
        found = np.asarray(model(graphs.pad([left, right])))
        np.testing.assert_allclose(found[0], found[1], rtol=1e-5, atol=1e-6)


def _connects(edges):
    reached = {0}
    for _ in range(5):
        reached |= {node for edge in edges if reached & set(edge) for node in edge}
    return len(reached) == 5


def test_mean_of_neighbours_cannot_count_them():
    """Figure 3 of the GIN paper: a node of two equal neighbours, or of three. A sum tells them apart."""
    two, three = (Graph(np.ones((n + 1, 1)), [[i, 0] for i in range(1, n + 1)]) for n in (2, 3))
    rows = graphs.pad([two, three])
    inputs = rows["nodes"], rows["edges"], rows["edge_mask"]
    mean, total = SAGEConv(4)(*inputs), GINConv(4)(*inputs)
    np.testing.assert_allclose(mean[0, 0], mean[1, 0], rtol=1e-6)
    assert np.abs(total[0, 0] - total[1, 0]).max() > 1e-3


# Models


def _molecules(n, rng):
    made = []
    for _ in range(n):
        size = rng.integers(2, 7)
        edges = graphs.undirected([(i, rng.integers(0, i)) for i in range(1, size)])
        made.append(Graph(rng.normal(size=(size, 4)), edges, rng.normal(size=(len(edges), 2))))
    return made


@pytest.mark.parametrize(
    ("layer", "readout"), [("mpnn", "set2set"), ("gin", "sum"), ("gcn", "sum"), ("sage", "set2set")]
)
def test_padding_and_packing_change_nothing(layer, readout):
    molecules = _molecules(7, np.random.default_rng(0))
    bonds = 2 if layer == "mpnn" else 0
    if not bonds:
        molecules = [molecule._replace(edge_features=None) for molecule in molecules]
    arguments = dict(layer=layer, hidden_dim=8, readout=readout, edge_hidden_dim=8)
    model = GraphPredictor(4, bonds, 3, **arguments)
    alone = np.concatenate([model(graphs.pad([molecule])) for molecule in molecules])
    np.testing.assert_allclose(model(graphs.pad(molecules, 20, 40)), alone, rtol=1e-5, atol=1e-6)

    packed = GraphPredictor(4, bonds, 3, num_graphs=4, **arguments)
    packed.set_weights(model.get_weights())
    inputs, places = graphs.pack(molecules, num_nodes=20, num_edges=36, num_graphs=4)
    assert len(inputs["nodes"]) < len(molecules)
    found = np.asarray(packed(inputs))
    np.testing.assert_allclose(found[places[:, 0], places[:, 1]], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layer", ["gcn", "sage", "gat", "gin"])
def test_isolated_nodes_and_empty_graphs_are_finite_in_value_and_gradient(layer):
    model = NodeClassifier(4, 3, layer)
    lonely = Graph(np.ones((3, 4)), [[0, 1], [1, 0]])
    empty = Graph(np.zeros((0, 4)), np.zeros((0, 2), "int32"))
    with tf.GradientTape() as tape:
        loss = ops.sum(ops.square(model(graphs.pad([lonely, empty]))))
    assert np.isfinite(loss)
    assert all(np.isfinite(g).all() for g in tape.gradient(loss, model.trainable_variables))


@pytest.mark.parametrize("readout", ["set2set", "sum"])
def test_empty_molecule_reads_zeros(readout):
    nodes, mask = np.ones((1, 3, 4), "float32"), np.zeros((1, 3), bool)
    reading = Set2Set(num_steps=2, num_graphs=2) if readout == "set2set" else SumReadout(num_graphs=2)
    found = np.asarray(reading(nodes, mask))
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[..., -4:], 0.0)


@pytest.mark.parametrize(
    ("edge", "message"),
    [((0, 3), "not there"), ((-1, 0), "not there"), ((2, 0), "padding"), ((1, 1), "from a node to itself")],
    ids=str,
)
def test_wrong_edges_are_refused_when_called_eagerly(edge, message):
    inputs = graphs.pad([Graph(np.ones((2, 4)), [[0, 1], [1, 0]])], num_nodes=3)
    inputs["edges"][0, 1] = edge
    with pytest.raises(ValueError, match=rf"edges\[0, 1\] = .*{message}"):
        NodeClassifier(4, 3)(inputs)
    inputs["edge_mask"][0, 1] = False
    assert np.isfinite(NodeClassifier(4, 3)(inputs)).all()


def test_full_graph_is_fitted_with_sample_weights():
    """The loss is the mean over the labelled nodes, and the labels of the others do not matter."""
    rng = np.random.default_rng(0)
    inputs = graphs.pad(
        [Graph(rng.normal(size=(30, 4)), graphs.undirected(rng.integers(0, 30, (60, 2))))], num_nodes=40
    )
    labels = rng.integers(0, 3, (1, 40))
    weights = (np.arange(40) < 10)[None].astype("float32")
    losses = []
    for wrong in (0, 1):
        keras.utils.set_random_seed(0)
        model = NodeClassifier(4, 3, normalize_rows=False)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
        model.compile("adam", loss=loss, jit_compile=False)
        logits = np.asarray(model(inputs))[0, :10]
        expected = -np.log(np.asarray(ops.softmax(logits))[np.arange(10), labels[0, :10]]).mean()
        changed = np.where(weights > 0, labels, (labels + wrong) % 3)
        history = model.fit(inputs, changed, sample_weight=weights, epochs=3, batch_size=1, verbose=0).history["loss"]
        np.testing.assert_allclose(history[0], expected, rtol=1e-5)
        losses.append(history)
    assert losses[0] == losses[1]


@pytest.mark.parametrize("case", [case for case in CASES if case.architecture == "gnn"], ids=lambda case: case.name)
def test_trains_equally_under_xla_without_dropout(case):
    rates = {name: 0.0 for name in case.arguments if name.endswith("dropout_rate")}
    inputs, targets = case.data(8)
    losses = []
    for jit in (False, True):
        keras.utils.set_random_seed(0)
        model = case.create(**rates)
        model.compile("adam", jit_compile=jit, **case.compile)
        losses.append(model.fit(inputs, targets, epochs=3, shuffle=False, verbose=0).history["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_presets_have_the_counts_of_the_papers_nets():
    for name, count in (("gcn_cora", 23_040), ("gat_cora", 92_373)):
        assert NodeClassifier.from_preset(name, num_features=1433, num_classes=7).count_params() == count


def test_l2_is_that_of_the_papers():
    """Half the sum of squares of the kernels, the first layer's alone for GCN."""
    model = NodeClassifier.from_preset("gcn_cora", num_features=5, num_classes=3)
    kernel = np.asarray(model.get_layer("gcn_0").kernel)
    np.testing.assert_allclose(sum(model.losses), 5e-4 * (kernel**2).sum() / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("create", "arguments", "name"),
    [
        (NodeClassifier, dict(layer="transformer"), "layer='transformer'"),
        (NodeClassifier, dict(num_heads=2), "'gat'"),
        (NodeClassifier, dict(hidden_dims=()), r"hidden_dims=\(\)"),
        (NodeClassifier, dict(l2=(0.1,)), r"l2=\(0.1,\)"),
        (GATConv, dict(num_heads=0), "num_heads=0"),
        (SAGEConv, dict(aggregation="max"), "aggregation='max'"),
        (GINConv, dict(hidden_dim=0), "hidden_dim=0"),
    ],
    ids=lambda value: str(value),
)
def test_bad_arguments_are_named(create, arguments, name):
    positional = (4, 3) if create is NodeClassifier else (6,)
    with pytest.raises(ValueError, match=name):
        create(*positional, **arguments)


# The recipe


@pytest.mark.slow
def test_smoke_run_of_the_recipe_with_three_of_its_trainings(tmp_path):
    found = recipe.find("gnn")
    options = found.options(smoke=True, variants=("gcn-0", "gat-0", "mlp-0"), baseline=True)
    document = runner.train(found, options, tmp_path / "run")
    assert (document["train_examples"], document["test_examples"]) == (140, 1000)
    assert document["parameters"] == 23_040
    assert document["baseline_value"] == document["variants"]["mlp-0"]
    assert (tmp_path / "run" / "picture.png").stat().st_size > 20_000
