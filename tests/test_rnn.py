"""Elman's network equals Keras's and PyTorch's, carries its state past masked steps, and starts as a sum if asked."""

import inspect

import keras
import numpy as np
import pytest
import recurrent
import tensorflow as tf

import keras_dl
from keras_dl import LSTM, GRUCell, LSTMCell, RecurrentNetwork, SimpleRNN, SimpleRNNCell
from keras_dl.ops.recurrence import product_scan, scan
from keras_dl.recipes.training import recipe, runner


@pytest.mark.parametrize("call", recurrent.PARAMETERS)
def test_equals_keras(call):
    recurrent.check_equals_keras(SimpleRNN, keras.layers.SimpleRNN, 1, call)


@pytest.mark.parametrize("kind", ["", "Cell"])
@pytest.mark.parametrize("name", ["SimpleRNN", "LSTM", "GRU"])
def test_takes_the_arguments_of_keras(name, kind):
    """By name and by place, with its defaults and configs; its own come after them; and no others."""
    ours, theirs = getattr(keras_dl, name + kind), getattr(keras.layers, name + kind)
    known, expected = (list(inspect.signature(cls).parameters.values()) for cls in (ours, theirs))
    assert known[: len(expected) - 1] == expected[:-1]
    own = {"peephole", "projection_units", "layer_norm"} if name == "LSTM" else set()
    assert {p.name for p in known[len(expected) - 1 : -1]} == own | (set() if kind else {"bptt_steps"})

    config = theirs(3, "relu", dropout=0.25, recurrent_regularizer="l2", dtype="mixed_bfloat16", name="a").get_config()
    layer = ours.from_config(config)
    assert {key: layer.get_config()[key] for key in config} == config
    assert ours.from_config(layer.get_config()).get_config() == layer.get_config()
    cell = layer if kind else layer.cell
    assert (cell.activation, cell.dropout) == (keras.activations.relu, 0.25)
    assert cell.dtype_policy.name == layer.dtype_policy.name == "mixed_bfloat16"
    with pytest.raises(TypeError, match=r"'recurent_dropout'\. Did you mean 'recurrent_dropout'\?"):
        ours(3, recurent_dropout=0.1)
    with pytest.raises(ValueError, match="units"):
        ours(0)


def test_options_reach_the_cell_and_the_layer():
    layer = LSTM(3, implementation=1, zero_output_for_mask=True, trainable=False, activity_regularizer="l2", seed=7)
    assert (layer.cell.implementation, layer.zero_output_for_mask, layer.cell.seed) == (1, True, 7)
    assert not layer.trainable
    assert not layer.cell.trainable
    assert layer.activity_regularizer is not None
    with pytest.raises(ValueError, match="implementation=1 does not work with peephole"):
        LSTM(3, implementation=1, peephole=True)


def test_equals_torch():
    recurrent.check_equals_torch("rnn", SimpleRNN(4, return_sequences=True, return_state=True))


@pytest.mark.parametrize("keep_outputs", [True, False])
@pytest.mark.parametrize("additive", [True, False])
def test_both_loops_are_one_recurrence(additive, keep_outputs):
    """The loop with a backward pass of its own, and the one that TensorFlow's tape differentiates."""
    rng = np.random.default_rng(0)
    shapes = [(6, 2, 4), (4, 3), (3,), (3, 3), (3,), (2, 3), (2, 3)]
    tensors = x, w, a, r, b, h, c = [tf.constant(0.3 * rng.normal(size=shape)) for shape in shapes]  # float64
    mask = tf.constant(rng.random((6, 2)) < 0.7)

    def advance(*parts):
        *parts, h, c = parts
        c = c * tf.sigmoid(parts[-1]) + tf.tanh(parts[0])
        return tf.sin(c) + h * sum(parts), c

    def step(row, states):
        parts = row @ w + a, states[0] @ r + b
        return advance(*([sum(parts)] if additive else parts), *states)

    results = {}
    for truncate in (None, 2):
        options = dict(mask=mask, truncate=truncate, keep_outputs=keep_outputs)
        for fast in (True, False):
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                if fast:
                    outputs, last = product_scan(advance, x, (w, a), (r, b), [h, c], additive, **options)
                else:
                    outputs, last = scan(step, x, [h, c], **options)
                outputs = [outputs] if keep_outputs else []
                total = sum(tf.reduce_sum(tf.sin(y)) for y in (*outputs, *last))
            results[truncate, fast] = [*outputs, *last, *tape.gradient(total, tensors)]
        recurrent.assert_equal(results[truncate, True], results[truncate, False], 1e-12)
    assert np.abs(results[None, True][-1] - results[2, True][-1]).max() > 1e-3


def test_masked_steps_carry_the_state():
    """A row without its masked steps is that row with them."""
    layer = SimpleRNN(recurrent.UNITS, return_state=True)
    x, mask = recurrent.sequences(), recurrent.holed_mask()
    _, state = layer(x, mask=mask)
    for row in (1, 2):
        _, alone = layer(x[row : row + 1][:, mask[row]])
        recurrent.assert_equal([state[row : row + 1]], [alone], 1e-6)


def test_truncated_backpropagation():
    recurrent.check_truncation(lambda **options: SimpleRNN(recurrent.UNITS, **options))


def test_irnn_starts_as_a_sum():
    layer = SimpleRNN.irnn(3, use_bias=False, kernel_initializer="identity")
    x = np.abs(recurrent.sequences(features=3))
    recurrent.assert_equal([layer(x)], [x.sum(1)], 1e-6)
    drawn = SimpleRNN.irnn(50)
    drawn.build((None, None, 100))
    kernel, recurrent_kernel, bias = drawn.get_weights()
    assert 0.0008 < kernel.std() < 0.0012
    np.testing.assert_array_equal(recurrent_kernel, np.eye(50))
    assert not bias.any()


def test_starts_orthogonal():
    layer = SimpleRNN(16)
    layer.build((None, None, 3))
    kernel = layer.get_weights()[1]
    np.testing.assert_allclose(kernel @ kernel.T, np.eye(16), atol=1e-5)


def test_takes_the_place_of_keras_in_wrappers():
    x = recurrent.sequences()
    for wrap in (
        lambda rnn, cell: keras.layers.Bidirectional(rnn(5, return_sequences=True)),
        lambda rnn, cell: keras.layers.RNN(cell(5), return_sequences=True),
        lambda rnn, cell: keras.layers.RNN([cell(5), cell(4)]),
    ):
        ours = wrap(SimpleRNN, SimpleRNNCell)
        theirs = wrap(keras.layers.SimpleRNN, keras.layers.SimpleRNNCell)
        expected = theirs(x, mask=recurrent.holed_mask())
        ours.build(x.shape)
        ours.set_weights(theirs.get_weights())
        recurrent.assert_equal([ours(x, mask=recurrent.holed_mask())], [expected], 1e-6)


def test_cells_of_all_kinds_on_top_of_each_other(tmp_path):
    """In `keras.layers.RNN`, as the README has it: trained, saved and loaded with their options."""
    options = dict(peephole=True, projection_units=3, layer_norm=True, dropout=0.2)
    cells = [LSTMCell(8, **options), GRUCell(4, reset_after=False, dropout=0.2), SimpleRNNCell(3, dropout=0.2)]
    model = keras.Sequential([keras.Input((None, recurrent.FEATURES)), keras.layers.RNN(cells)])
    model.compile("sgd", "mse", jit_compile=False)
    x = recurrent.sequences()
    assert np.isfinite(model.train_on_batch(x, np.zeros((recurrent.BATCH, 3))))
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    assert [type(cell) for cell in copy.layers[0].cell.cells] == [LSTMCell, GRUCell, SimpleRNNCell]
    np.testing.assert_array_equal(copy(x), model(x))


def test_stateful_goes_on_where_it_ended():
    x = recurrent.sequences()
    layer = SimpleRNN(recurrent.UNITS, stateful=True)
    layer(x[:, :3])
    goes_on = layer(x[:, 3:])
    layer.reset_state()
    recurrent.assert_equal([layer(x)], [goes_on], 1e-6)


def test_stateful_has_the_gradient_of_the_states_it_began_with():
    """And not that of the states it ended with, which it holds when the gradient is computed."""
    x = recurrent.sequences()
    layer, plain = SimpleRNN(recurrent.UNITS, stateful=True), SimpleRNN(recurrent.UNITS)
    before = layer(x[:, :3]).numpy()
    plain.build(x.shape)
    plain.set_weights(layer.get_weights())
    found = recurrent.outputs_and_gradients(layer, x[:, 3:], training=True)
    expected = recurrent.outputs_and_gradients(plain, x[:, 3:], [before], training=True)
    recurrent.assert_equal(found, expected[: len(found)])


def test_dropout_in_time_is_one_mask_a_sequence():
    """With recurrent dropout, a state that only decays keeps its dropped units dropped."""
    keras.utils.set_random_seed(0)
    layer = SimpleRNN(64, activation="linear", recurrent_initializer="identity", recurrent_dropout=0.5)
    layer.build((1, 5, 2))
    found = np.asarray(
        layer(np.zeros((1, 5, 2), "float32"), initial_state=[np.ones((1, 64), "float32")], training=True)
    )
    assert {0.0, 2.0**5} == set(np.unique(found).tolist())


def test_dropout():
    recurrent.check_dropout(SimpleRNN, keras.layers.SimpleRNN, 1)


def test_dropout_of_the_cell():
    recurrent.check_cell_dropout(SimpleRNNCell, {})


def test_padding_may_be_anything():
    recurrent.check_padding_may_be_anything(SimpleRNN(recurrent.UNITS, return_sequences=True))


def test_bad_input():
    recurrent.check_bad_input(SimpleRNN(recurrent.UNITS), 1)


def test_network_ignores_padding_in_every_cell_and_pooling():
    x = recurrent.sequences(batch=2)
    mask = np.array([[True] * 7, [True] * 4 + [False] * 3])
    for cell in ("rnn", "lstm", "gru"):
        for bidirectional in (False, True):
            for pooling in ("last", "mean"):
                keras.utils.set_random_seed(0)
                model = RecurrentNetwork(
                    4, 3, cell=cell, hidden_dims=(5,), bidirectional=bidirectional, pooling=pooling, masked=True
                )
                padded = model({"features": x, "mask": mask})
                alone = model({"features": x[1:, :4], "mask": mask[1:, :4]})
                recurrent.assert_equal([padded[1:]], [alone], 1e-6)


def test_network_with_nothing_to_read():
    model = RecurrentNetwork(4, 3, masked=True)
    rows = {"features": recurrent.sequences(), "mask": np.zeros((3, 7), bool)}
    np.testing.assert_allclose(model(rows), np.tile(model.get_layer("head").bias, (3, 1)))
    with pytest.raises(ValueError, match="mask must be True up to"):
        model(rows | {"mask": recurrent.holed_mask()})
    with pytest.raises(ValueError, match="no step"):
        RecurrentNetwork(4, 3)(np.zeros((2, 0, 4), "float32"))
    with pytest.raises(ValueError, match="bidirectional=True"):
        RecurrentNetwork(4, 3, bidirectional=True).step(np.zeros((1, 4), "float32"), {})


def test_network_steps_from_its_own_states_alone():
    model = RecurrentNetwork(4, 3, hidden_dims=(5,))
    x, states = np.zeros((2, 4), "float32"), model.initial_states(2)
    assert model.step(x, states)[0].shape == (2, 3)
    for wrong, message in (
        ({"h": 1}, r"states.*'h': \(\).*'hidden_0': \(2, 5\).*initial_states"),
        ({"hidden_0": states["hidden_0"]}, r"states.*'cell_0': \(2, 5\)"),
        (model.initial_states(1), r"'hidden_0': \(1, 5\).*'hidden_0': \(2, 5\)"),
        ({name: np.zeros((2, 7), "float32") for name in states}, r"\(2, 7\).*\(2, 5\)"),
        ([], r"states.*list"),
    ):
        with pytest.raises(ValueError, match=message):
            model.step(x, wrong)
    with pytest.raises(ValueError, match=r"features.*\(4,\).*\(None, 4\)"):
        model.step(x[0], states)


def test_smoke_run(tmp_path):
    found = recipe.find("rnn")
    document = runner.train(found, found.options("japanese_vowels", smoke=True, baseline=True), tmp_path / "run")
    assert 0 < document["value"] <= 1
    assert document["baseline_value"] > 0.9
    assert (tmp_path / "run/picture.png").stat().st_size > 10_000
