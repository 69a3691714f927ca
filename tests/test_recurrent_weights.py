"""Weights of torch's recurrent modules: one layer by torch's own outputs, several by equations that equal those."""

import keras
import numpy as np
import pytest
import recurrent
from reference import write_safetensors

import keras_dl
from keras_dl.layers.recurrent_weights import load_torch_recurrent

LAYERS = {"rnn": keras_dl.SimpleRNN, "lstm": keras_dl.LSTM, "gru": keras_dl.GRU}
GATES = {"rnn": 1, "lstm": 4, "gru": 3}
FEATURES, UNITS = 3, 4


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _step(kind, gates_x, gates_h, states):
    """The equations in the documentation of torch.nn.RNN, LSTM and GRU: the new states."""
    if kind == "rnn":
        return [np.tanh(gates_x + gates_h)]
    if kind == "lstm":
        i, f, g, o = np.split(gates_x + gates_h, 4, axis=-1)
        c = _sigmoid(f) * states[1] + _sigmoid(i) * np.tanh(g)
        return [_sigmoid(o) * np.tanh(c), c]
    (r_x, z_x, n_x), (r_h, z_h, n_h) = np.split(gates_x, 3, axis=-1), np.split(gates_h, 3, axis=-1)
    r, z = _sigmoid(r_x + r_h), _sigmoid(z_x + z_h)
    return [(1 - z) * np.tanh(n_x + r * n_h) + z * states[0]]


def _direction(kind, weights, ending, x):
    units = weights[f"weight_hh{ending}"].shape[0] // GATES[kind]
    states, outputs = [np.zeros((len(x), units)), np.zeros((len(x), units))], []
    if f"weight_hr{ending}" in weights:
        states[0] = np.zeros((len(x), weights[f"weight_hr{ending}"].shape[0]))
    for row in x.swapaxes(0, 1):
        gates_x = row @ weights[f"weight_ih{ending}"].T + weights.get(f"bias_ih{ending}", 0)
        gates_h = states[0] @ weights[f"weight_hh{ending}"].T + weights.get(f"bias_hh{ending}", 0)
        states = _step(kind, gates_x, gates_h, states)
        if f"weight_hr{ending}" in weights:
            states[0] = states[0] @ weights[f"weight_hr{ending}"].T
        outputs.append(states[0])
    return np.stack(outputs, 1)


def _torch(kind, weights, x):
    """The outputs of a stack at each step, `(batch, time, units)`; of both directions side by side."""
    weights = {name: np.asarray(array, "float64") for name, array in weights.items()}
    for i in range(sum(name.startswith("weight_ih") and not name.endswith("_reverse") for name in weights)):
        ways = [_direction(kind, weights, f"_l{i}", x)]
        if f"weight_ih_l{i}_reverse" in weights:
            ways.append(_direction(kind, weights, f"_l{i}_reverse", x[:, ::-1])[:, ::-1])
        x = np.concatenate(ways, -1)
    return x


def _oracle(name):
    start = f"{name}/"
    found = {key.removeprefix(start): recurrent.ORACLE[key] for key in recurrent.ORACLE if key.startswith(start)}
    return {key: x for key, x in found.items() if key.startswith(("weight", "bias"))}, found["output"]


def _random(kind, layers, bidirectional, bias=True):
    random, weights, width = np.random.default_rng(0), {}, FEATURES
    for i in range(layers):
        for ending in ("", "_reverse")[: 1 + bidirectional]:
            rows = GATES[kind] * UNITS
            shapes = {"weight_ih": (rows, width), "weight_hh": (rows, UNITS)}
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)} if bias else {}
            for name, shape in shapes.items():
                weights[f"{name}_l{i}{ending}"] = random.normal(0, 0.5, shape).astype("float32")
        width = UNITS * (1 + bidirectional)
    return weights


@pytest.mark.parametrize("name", ["rnn", "lstm", "lstm_projected", "gru", "gru_both_ways"])
def test_one_layer_equals_torch(name):
    """And so do the equations that the other tests compare with."""
    weights, output = _oracle(name)
    kind, x = name.partition("_")[0], recurrent.ORACLE["sequences"]
    options = {"projection_units": 2} if name == "lstm_projected" else {}
    layer = LAYERS[kind](UNITS, return_sequences=True, **options)
    layer = keras.layers.Bidirectional(layer) if name == "gru_both_ways" else layer
    layer.build(x.shape)
    load_torch_recurrent([layer], weights)
    np.testing.assert_allclose(layer(x), output, atol=1e-6)
    np.testing.assert_allclose(_torch(kind, weights, x), output, atol=1e-6)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_stacked_layers_equal_the_equations(kind, bidirectional, tmp_path):
    """With the linear layer behind them, from a file."""
    weights = _random(kind, 3, bidirectional)
    random, width = np.random.default_rng(1), UNITS * (1 + bidirectional)
    head = {"weight": random.normal(size=(2, width)), "bias": random.normal(size=2)}
    whole = {f"encoder.{name}": x for name, x in weights.items()} | {f"out.{name}": x for name, x in head.items()}
    write_safetensors(tmp_path / "model.safetensors", {name: x.astype("float32") for name, x in whole.items()})
    sizes = dict(hidden_dims=(UNITS,) * 3, bidirectional=bidirectional, pooling=None, standardize=False)
    model = keras_dl.RecurrentNetwork(FEATURES, 2, cell=kind, **sizes)
    model.load_torch(tmp_path / "model.safetensors", {"layers": "encoder", "head": "out"})
    x = recurrent.ORACLE["sequences"]
    expected = _torch(kind, weights, x) @ head["weight"].T + head["bias"]
    np.testing.assert_allclose(model(x), expected, atol=1e-5)
    other = keras_dl.RecurrentNetwork(FEATURES, 5, cell=kind, **sizes)
    before = other.get_layer("head").get_weights()
    other.load_torch(tmp_path / "model.safetensors", {"layers": "encoder"})
    for old, new in zip(before, other.get_layer("head").get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(other.get_weights()[0], model.get_weights()[0])


def test_layers_without_biases():
    weights = _random("gru", 1, False, bias=False)
    layer = keras_dl.GRU(UNITS, use_bias=False, return_sequences=True)
    layer.build((None, None, FEATURES))
    load_torch_recurrent([layer], {f"gru.{name}": x for name, x in weights.items()} | {"other": 0}, "gru.")
    x = recurrent.ORACLE["sequences"]
    np.testing.assert_allclose(layer(x), _torch("gru", weights, x), atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "changed", "message"),
    [
        (keras_dl.GRU(UNITS, reset_after=False), {}, "has reset_after=False, and torch's is reset_after=True"),
        (keras_dl.LSTM(UNITS, peephole=True), {}, "has peephole=True, and torch's is peephole=False"),
        (keras.layers.Bidirectional(keras_dl.GRU(UNITS), "sum"), {}, "merge_mode='sum', and torch has 'concat'"),
        (keras_dl.GRU(UNITS), {"bias_hh_l0": None}, r"missing: bias_hh_l0 \(12,\)"),
        (keras_dl.GRU(UNITS), {"weight_ih_l1": np.zeros((12, 4))}, r"unknown: weight_ih_l1 \(12, 4\)"),
        (keras_dl.GRU(UNITS), {"weight_hh_l0": np.zeros((16, 4))}, r"weight_hh_l0 is \(16, 4\), the model takes"),
        (keras_dl.GRU(UNITS), "unbuilt", "must be built before it takes weights"),
    ],
)
def test_what_does_not_fit_is_refused(layer, changed, message):
    if changed != "unbuilt":
        layer.build((None, None, FEATURES))
    before = layer.get_weights()
    given = _random("gru", 1, False) | (changed if changed != "unbuilt" else {})
    given = {name: x for name, x in given.items() if x is not None}
    with pytest.raises(ValueError, match=message):
        load_torch_recurrent([layer], given)
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
