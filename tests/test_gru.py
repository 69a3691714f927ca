"""Gated recurrent units equal Keras's in both conventions, and PyTorch's."""

import keras
import numpy as np
import pytest
import recurrent

from keras_dl import GRU, GRUCell, RecurrentNetwork
from keras_dl.export import export, graph, load


@pytest.mark.parametrize("call", recurrent.PARAMETERS)
@pytest.mark.parametrize("reset_after", [True, False])
def test_equals_keras(call, reset_after):
    recurrent.check_equals_keras(GRU, keras.layers.GRU, 1, call, reset_after=reset_after)


def keras_order(w):
    """PyTorch's gates are reset, update, new."""
    reset, update, new = np.split(w, 3)
    return np.concatenate([update, reset, new])


def test_equals_torch():
    recurrent.check_equals_torch("gru", GRU(4, return_sequences=True, return_state=True), keras_order, np.stack)


def test_both_ways_equal_torch():
    layer = keras.layers.Bidirectional(GRU(4, return_sequences=True))
    x = recurrent.ORACLE["sequences"]
    layer.build(x.shape)
    weights = []
    for way in ("l0", "l0_reverse"):
        kernel, product, *biases = (
            keras_order(recurrent.ORACLE[f"gru_both_ways/{key}_{way}"])
            for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        weights += [kernel.T, product.T, np.stack(biases)]
    layer.set_weights(weights)
    recurrent.assert_equal([layer(x)], [recurrent.ORACLE["gru_both_ways/output"]])


def test_conventions_differ_where_the_reset_gate_works():
    """They agree on one unit without biases, where the gate may stand on either side of the product."""
    x = recurrent.sequences()
    for units, same in ((1, True), (5, False)):
        one = GRU(units, reset_after=True, use_bias=False)
        other = GRU(units, reset_after=False, use_bias=False)
        expected = one(x)
        other.build(x.shape)
        other.set_weights(one.get_weights())
        assert np.allclose(other(x), expected, atol=1e-6) == same


@pytest.mark.parametrize("reset_after", [True, False])
def test_truncated_backpropagation(reset_after):
    recurrent.check_truncation(lambda **options: GRU(recurrent.UNITS, reset_after=reset_after, **options))


def test_halves_are_the_whole():
    recurrent.check_carries_state(GRU(recurrent.UNITS, return_sequences=True, return_state=True))


def test_cell_in_keras_rnn():
    layer, x = GRU(recurrent.UNITS), recurrent.sequences()
    expected = layer(x, mask=recurrent.holed_mask())
    wrapped = keras.layers.RNN(GRUCell(recurrent.UNITS))
    wrapped.build(x.shape)
    wrapped.set_weights(layer.get_weights())
    recurrent.assert_equal([wrapped(x, mask=recurrent.holed_mask())], [expected], 1e-6)


def test_dropout():
    recurrent.check_dropout(GRU, keras.layers.GRU, 1)


@pytest.mark.parametrize("options", [{}, {"reset_after": False}])
def test_dropout_of_the_cell(options):
    recurrent.check_cell_dropout(GRUCell, options)


def test_padding_may_be_anything():
    recurrent.check_padding_may_be_anything(GRU(recurrent.UNITS, return_sequences=True))


def test_bad_input():
    recurrent.check_bad_input(GRU(recurrent.UNITS), 1)


def test_streams_from_a_file(tmp_path):
    """The signature `step`, called step after step, gives what `sequence` gives at once."""
    model = RecurrentNetwork(4, 3, cell="gru", hidden_dims=(5, 6), serving_length=7)
    report = export(model, tmp_path / "gru.tflite")
    assert "WHILE" not in report.ops
    x, runner = recurrent.sequences(1), load(report.path)
    states = {name: np.asarray(state) for name, state in model.initial_states().items()}
    for t in range(7):
        after = runner.serve("step", features=x[:, t], **states)
        answer = after.pop("probabilities")
        states = {name.removeprefix("next_"): state for name, state in after.items()}
    recurrent.assert_equal([answer], [runner.serve("sequence", features=x)["probabilities"]])


@pytest.mark.parametrize("reset_after", [True, False])
def test_activations_of_16_bits(reset_after, tmp_path):
    """The first state, zeros, had the scale 0 in the file, which ended the process that ran it."""
    x = keras.Input((6, 3), name="x")
    model = keras.Model(x, GRU(4, unroll=True, reset_after=reset_after, name="gru")(x))
    # Repeated, so that calibration has seen the rows of the proof: others may leave the ranges, and are cut off.
    rows = np.tile(np.random.default_rng(0).normal(size=(31, 6, 3)).astype("float32"), (4, 1, 1))
    report = export(model, tmp_path / "gru.tflite", quantization="int16x8", calibration={"x": rows})
    tensors = [x for op in graph.read(report.path).ops for x in (*op.inputs, *op.outputs) if x]
    (state,) = {x.scales for x in tensors if x.dtype == "int16" and x.constant}
    assert state[0] > 0
    assert all(scale > 0 for x in tensors for scale in x.scales)
    assert report.proof["signatures"]["serve"]["gru"]["max_rel_error"] < 0.01  # found: 0.004
