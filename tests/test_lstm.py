"""The LSTM equals Keras's, PyTorch's, and TensorFlow's with peepholes. It exports to one fused op."""

import keras
import numpy as np
import pytest
import recurrent
import tensorflow as tf

from keras_dl import LSTM, LSTMCell, RecurrentNetwork
from keras_dl.export import export, load


@pytest.mark.parametrize("call", recurrent.PARAMETERS)
def test_equals_keras(call):
    recurrent.check_equals_keras(LSTM, keras.layers.LSTM, 2, call)


def test_equals_torch():
    recurrent.check_equals_torch("lstm", LSTM(4, return_sequences=True, return_state=True))


def test_projection_equals_torch():
    layer = LSTM(4, projection_units=2, return_sequences=True, return_state=True)
    recurrent.check_equals_torch("lstm_projected", layer)


def test_peepholes_equal_tensorflows():
    """TensorFlow's own BlockLSTM, whose gates are in the order i, c, f, o."""
    layer = LSTM(recurrent.UNITS, peephole=True, return_sequences=True, unit_forget_bias=False)
    x = recurrent.sequences()
    layer.build(x.shape)
    rng = np.random.default_rng(0)
    layer.set_weights([0.5 * rng.normal(size=w.shape) for w in layer.get_weights()])
    kernel, recurrent_kernel, bias, peepholes = layer.get_weights()

    def reordered(w):
        i, f, g, o = np.split(w, 4, axis=-1)
        return np.concatenate([i, g, f, o], axis=-1)

    zeros = np.zeros((recurrent.BATCH, recurrent.UNITS), "float32")
    expected = tf.raw_ops.BlockLSTM(
        seq_len_max=tf.constant(recurrent.STEPS, tf.int64),
        x=x.transpose(1, 0, 2),
        cs_prev=zeros,
        h_prev=zeros,
        w=reordered(np.concatenate([kernel, recurrent_kernel])),
        wci=peepholes[0],
        wcf=peepholes[1],
        wco=peepholes[2],
        b=reordered(bias),
        forget_bias=0.0,
        cell_clip=-1.0,
        use_peephole=True,
    )
    recurrent.assert_equal([layer(x)], [np.transpose(expected.h, (1, 0, 2))])


def test_layer_normalization_by_the_equations():
    """Ba et al., eq. 20 to 22, in NumPy."""
    layer = LSTM(recurrent.UNITS, layer_norm=True, return_state=True)
    x = recurrent.sequences()
    layer.build(x.shape)
    rng = np.random.default_rng(0)
    layer.set_weights([0.5 * rng.normal(size=w.shape) for w in layer.get_weights()])
    w, u, b, gain_x, shift_x, gain_h, shift_h, gain_c, shift_c = layer.get_weights()

    def normalized(a, gain, shift):
        return (a - a.mean(-1, keepdims=True)) / np.sqrt(a.var(-1, keepdims=True) + 1e-5) * gain + shift

    def sigmoid(a):
        return 1 / (1 + np.exp(-a))

    h = c = np.zeros((recurrent.BATCH, recurrent.UNITS))
    for t in range(recurrent.STEPS):
        gates = normalized(x[:, t] @ w, gain_x, shift_x) + normalized(h @ u, gain_h, shift_h) + b
        i, f, g, o = np.split(gates, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(normalized(c, gain_c, shift_c))
    recurrent.assert_equal(layer(x), [h, h, c])


def test_forget_gate_starts_open():
    layer = LSTM(3)
    layer.build((None, None, 2))
    np.testing.assert_array_equal(layer.get_weights()[2], [0] * 3 + [1] * 3 + [0] * 6)


@pytest.mark.parametrize(
    "options",
    [{}, pytest.param({"peephole": True, "layer_norm": True}, marks=pytest.mark.slow)],  # the same loops
)
def test_truncated_backpropagation(options):
    recurrent.check_truncation(lambda **others: LSTM(recurrent.UNITS, **options, **others))


@pytest.mark.parametrize("options", [{}, {"peephole": True, "projection_units": 2, "layer_norm": True}])
def test_halves_are_the_whole(options):
    recurrent.check_carries_state(LSTM(recurrent.UNITS, return_sequences=True, return_state=True, **options))


def test_cell_with_options_in_keras_rnn():
    options = dict(peephole=True, projection_units=2, layer_norm=True)
    layer = LSTM(recurrent.UNITS, return_state=True, **options)
    x = recurrent.sequences()
    expected = layer(x)
    wrapped = keras.layers.RNN(LSTMCell(recurrent.UNITS, **options), return_state=True)
    wrapped.build(x.shape)
    wrapped.set_weights(layer.get_weights())
    recurrent.assert_equal(wrapped(x), expected, 1e-6)


def test_dropout():
    recurrent.check_dropout(LSTM, keras.layers.LSTM, 2)


@pytest.mark.parametrize("options", [{}, {"peephole": True}, {"layer_norm": True}, {"projection_units": 2}])
def test_dropout_of_the_cell(options):
    recurrent.check_cell_dropout(LSTMCell, options)


def test_padding_may_be_anything():
    recurrent.check_padding_may_be_anything(LSTM(recurrent.UNITS, return_sequences=True))


def test_bad_input():
    recurrent.check_bad_input(LSTM(recurrent.UNITS), 2)


@pytest.fixture(scope="module")
def stacked():
    """Two layers and an answer at every step."""
    steps = 12
    keras.utils.set_random_seed(0)
    model = RecurrentNetwork(32, 3, hidden_dims=(32, 32), pooling=None, serving_length=steps)
    x = recurrent.sequences(16, steps, 32)
    model.adapt(x)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    y = np.random.default_rng(0).integers(0, 3, (16, steps))
    model.fit(np.tile(x, (30, 1, 1)), np.tile(y, (30, 1)), batch_size=16, verbose=0)
    return model, x


def test_fused_in_a_file_and_streamed_step_by_step(stacked, tmp_path):
    """A fused op a layer; and the signature `step`, called step after step, gives what `sequence` gives at once."""
    model, x = stacked
    report = export(model, tmp_path / "lstm.tflite")
    assert report.ops["UNIDIRECTIONAL_SEQUENCE_LSTM"] == 2
    assert "WHILE" not in report.ops
    runner = load(report.path)
    for _ in range(2):  # the fused op forgets between calls
        whole = runner.serve("sequence", features=x[:2])["probabilities"]
    logits = model(x[:2])
    recurrent.assert_equal([whole], [keras.ops.softmax(logits)])
    states = {name: np.asarray(state) for name, state in model.initial_states(2).items()}
    for t in range(x.shape[1]):
        after = runner.serve("step", features=x[:2, t], **states)
        recurrent.assert_equal([after.pop("probabilities")], [whole[:, t]])
        states = {name.removeprefix("next_"): state for name, state in after.items()}


def test_fused_in_int8(stacked, tmp_path):
    model, x = stacked
    rows = [{"features": x[i : i + 1]} for i in range(16)]
    report = export(
        model, tmp_path / "lstm.tflite", quantization="int8", calibration=rows, signatures=["sequence"], target="micro"
    )
    assert report.ops["UNIDIRECTIONAL_SEQUENCE_LSTM"] == 2
    assert report.tensors["weights"] == {"int8": 17}
    assert report.target_report["arena_bytes"] < 32_000


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_large_cell_states_are_not_clipped(quantization, tmp_path):
    """The converter has LiteRT clip them at 10. Here one counts up to 20 and down again, to 0 and not to -10."""
    model = RecurrentNetwork(
        1, 1, hidden_dims=(1,), task="regression", pooling=None, standardize=False, serving_length=40
    )
    opened = 20.0  # of the gates: input, forget, cell, output
    kernel, bias = np.array([[0.01, 0.01, 10.0, 0.01]]), np.array([opened, opened, 0, opened])
    model.set_weights([kernel, np.full((1, 4), 0.01), bias, np.ones((1, 1)), np.zeros(1)])
    x = np.repeat([1.0, -1.0], 20).reshape(1, 40, 1).astype("float32")
    cells = keras.layers.RNN(model.layers[1].cell, return_state=True)(x[:, :20])[2]
    assert float(cells[0, 0]) == pytest.approx(20.0)
    options = dict(quantization=quantization, signatures=["sequence"], calibration=[{"features": x}])
    report = export(model, tmp_path / "lstm.tflite", **options)
    assert report.ops["UNIDIRECTIONAL_SEQUENCE_LSTM"] == 1
    errors = report.proof["signatures"]["sequence"]["values"]
    # Clipped, it would be off by 1. The gates of int8 open to sigmoid(8), so that 0.14 of 20 leak away: tanh of that.
    assert errors["max_abs_error"] < (1e-5 if quantization == "none" else 0.1)


def test_a_file_says_which_layer_keeps_its_state(tmp_path):
    x = keras.Input((5, 3), name="x")
    report = export(keras.Model(x, LSTM(4, name="reader")(x)), tmp_path / "lstm.tflite")
    (warning,) = (warning for warning in report.warnings if "last call" in warning)
    assert "in layer 'reader'" in warning


def test_small_cell_states_in_int8(tmp_path):
    """Left as the converter makes it, their scale is one that LiteRT's kernel computes wrongly: 0.03 off."""
    keras.utils.set_random_seed(3)
    model = RecurrentNetwork(12, 9, hidden_dims=(64,), standardize=False, serving_length=29)
    x = np.random.default_rng(0).normal(0, 0.5, (8, 29, 12)).astype("float32")
    cells = keras.layers.RNN(model.layers[1].cell, return_state=True)(x)[2]
    assert np.abs(cells).max() < 0.5
    rows = [{"features": x[i : i + 1]} for i in range(8)]
    report = export(model, tmp_path / "lstm.tflite", quantization="int8", calibration=rows, signatures=["sequence"])
    assert report.proof["signatures"]["sequence"]["probabilities"]["max_abs_error"] < 4e-3  # a step of int8


def test_side_by_side_in_int8(tmp_path):
    """A concatenation gives all that it joins one scale, which an LSTM and a reversal have to be told of."""
    keras.utils.set_random_seed(2)
    x = np.random.default_rng(0).normal(size=(32, 7, 3)).astype("float32")
    features = keras.Input(x.shape[1:], name="features")
    both = keras.layers.Bidirectional(LSTM(8, return_sequences=True))(features)
    model = keras.Model(features, {"steps": both, "last": keras.layers.Bidirectional(LSTM(8))(both)})
    rows = [{"features": row[None]} for row in x]
    report = export(model, tmp_path / "lstm.tflite", quantization="int8", calibration=rows, target="micro")
    (errors,) = report.proof["signatures"].values()
    for output in ("steps", "last"):  # of values up to 0.5; without it, 0.06 and more
        assert errors[output]["max_abs_error"] < 0.012


def test_padded_sequences_run_on_an_npu(tmp_path):
    model = RecurrentNetwork(4, 3, hidden_dims=(8,), masked=True, serving_length=7)
    rng = np.random.default_rng(0)
    x, lengths = rng.normal(size=(8, 7, 4)).astype("float32"), rng.integers(1, 8, 8)
    mask = np.arange(7) < lengths[:, None]
    model.adapt(x, mask)
    rows = [{"features": x[i : i + 1], "mask": mask[i : i + 1].astype("float32")} for i in range(8)]
    options = dict(quantization="int8", calibration=rows, signatures=["sequence"], target="ethos-u55-128")
    report = export(model, tmp_path / "lstm.tflite", **options)
    assert report.target_report["npu_op_share"] == 1.0
    assert report.target_report["npu_mac_share"] == 1.0


def test_what_cannot_be_fused_is_a_loop_and_is_said_so(tmp_path):
    x = keras.Input((5, 3), name="x")
    readers = {"peeping": {"peephole": True}, "telling": {"return_state": True}, "soft": {"activation": "softsign"}}
    outputs = [keras.tree.flatten(LSTM(4, name=name, **options)(x))[0] for name, options in readers.items()]
    report = export(keras.Model(x, outputs), tmp_path / "lstm.tflite")
    assert "UNIDIRECTIONAL_SEQUENCE_LSTM" not in report.ops
    assert report.ops["WHILE"] == 3
    (warning,) = (warning for warning in report.warnings if "WHILE" in warning)
    for name in readers:
        assert f"WHILE in layer '{name}'" in warning
