"""Shared parts of the tests of recurrent layers."""

import contextlib
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracles import load_oracle

from keras_dl.layers import recurrent as loops

ORACLE = load_oracle("recurrent")
BATCH, STEPS, FEATURES, UNITS = 3, 7, 4, 5


def sequences(batch=BATCH, steps=STEPS, features=FEATURES, seed=0):
    return np.random.default_rng(seed).normal(size=(batch, steps, features)).astype("float32")


def holed_mask():
    """Row 0 has no step at all, row 1 begins with a masked one, row 2 has a hole."""
    mask = np.ones((BATCH, STEPS), bool)
    mask[0] = False
    mask[1, 0] = False
    mask[2, 3:5] = False
    return mask


def states(count, seed=1):
    return [np.random.default_rng(seed + i).normal(size=(BATCH, UNITS)).astype("float32") for i in range(count)]


def pair(ours, theirs, **options):
    """A layer and Keras's own, with the same random weights."""
    layers = [layer(UNITS, **options) for layer in (ours, theirs)]
    rng = np.random.default_rng(2)
    for layer in layers:
        layer.build((BATCH, STEPS, FEATURES))
    layers[1].set_weights([0.5 * rng.normal(size=w.shape) for w in layers[1].get_weights()])
    layers[0].set_weights(layers[1].get_weights())
    return layers


def outputs_and_gradients(layer, x, initial_state=None, compiled=None, **call):
    """Flat lists: what a layer returns, and the gradients of a weighted sum of it by input, weights and states.

    `compiled` is None for eager, False for a graph, True for XLA.
    """
    return differentiated(layer, compiled, **call)(x, initial_state)


def differentiated(layer, compiled=None, **call):
    """`outputs_and_gradients` as a function of the input and the states, which is traced and compiled once for all."""

    def run(x, initial_state):
        with tf.GradientTape() as tape:
            tape.watch((x, initial_state))
            found = keras.tree.flatten(layer(x, initial_state=initial_state or None, **call))
            total = sum(
                tf.reduce_sum(y * tf.cos(tf.reshape(tf.range(tf.cast(tf.size(y), tf.float32)), y.shape))) for y in found
            )
        weights = [v.value for v in layer.trainable_variables]
        return found, tape.gradient(total, [x, *weights, *initial_state])

    if compiled is not None:
        run = tf.function(run, jit_compile=compiled, autograph=False)

    def found(x, initial_state=None):
        results = run(tf.constant(x), [tf.constant(s) for s in initial_state or ()])
        return [np.asarray(y) for y in keras.tree.flatten(results)]

    return found


@contextlib.contextmanager
def loops_taken():
    """The names of the loops that layers take within it, as a set."""
    taken = set()

    def noted(name):
        loop = getattr(loops, name)

        def run(*arguments, **options):
            taken.add(name)
            return loop(*arguments, **options)

        return mock.patch.object(loops, name, run)

    with noted("scan"), noted("product_scan"):
        yield taken


def assert_equal(found, expected, tolerance=1e-5):
    """Within the rounding of float32, as a share of the largest value."""
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, np.abs(b).max()))


# Ways in which a layer is called: arguments of the constructor, of the call, and how it is compiled.
CALLS = {
    "last": (dict(), dict(training=True), None),
    "backwards": (dict(return_sequences=True, go_backwards=True), dict(training=True), False),
    "masked": (dict(return_sequences=True, return_state=True), dict(training=True, mask=holed_mask()), False),
    "masked_backwards": (
        dict(return_sequences=True, go_backwards=True, zero_output_for_mask=True),
        dict(training=True, mask=holed_mask()),
        True,
    ),
    "inference": (dict(return_state=True), dict(training=False, mask=holed_mask()), True),
    "unrolled": (dict(unroll=True, return_sequences=True), dict(training=True, mask=holed_mask()), False),
}


# `make test` leaves out the one that "masked_backwards" shows under a mask.
PARAMETERS = [pytest.param(x, marks=[pytest.mark.slow] if x == "backwards" else []) for x in CALLS]


def check_equals_keras(ours, theirs, num_states, call, **options):
    """Each call as `CALLS` has it, and in training under XLA too, where a layer may take another loop."""
    constructor, arguments, compiled = CALLS[call]
    mine, reference = pair(ours, theirs, **constructor, **options)
    x = sequences()
    for initial_state in (None, states(num_states)):
        expected = outputs_and_gradients(reference, x, initial_state, **arguments)
        modes = {compiled}
        if arguments["training"] and initial_state:  # one compilation a call: given states are the general case
            modes.add(True)
        for mode in modes:
            with loops_taken() as taken:
                found = outputs_and_gradients(mine, x, initial_state, mode, **arguments)
            assert_equal(found, expected)
            assert taken == {loop_of(mode, arguments["training"], **constructor, **options)}


def loop_of(compiled, training, unroll=False, reset_after=True, **others):
    """The loop with a backward pass of its own is for training under XLA, where only the products have weights."""
    return "product_scan" if compiled and training and not unroll and reset_after else "scan"


def check_dropout(ours, theirs, num_states):
    """Dropout alone, and recurrent dropout alone: Keras's numbers of a seed; under XLA one mask a sequence."""
    x, given = sequences(), states(num_states)
    for rate in ("dropout", "recurrent_dropout"):
        mine, reference = pair(ours, theirs, return_sequences=True, seed=3, **{rate: 0.5})
        expected = outputs_and_gradients(reference, x, given, training=True)
        assert_equal(outputs_and_gradients(mine, x, given, training=True), expected)
    mine, plain = (pair(ours, theirs, return_sequences=True, dropout=rate)[0] for rate in (0.5, 0.0))
    found, by_x, *by_weights = outputs_and_gradients(mine, x, compiled=True, training=True)
    assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in by_weights)
    dropped = by_x[:, 0] == 0  # what is dropped has no gradient
    assert 0 < dropped.mean() < 1
    np.testing.assert_array_equal(by_x == 0, np.repeat(dropped[:, None], STEPS, 1))
    assert_equal([found], [plain(x * np.where(dropped, 0, 2)[:, None].astype("float32"))])


def check_cell_dropout(cell, options):
    """Dropout in `keras.layers.RNN` drops, and changes nothing else: at a rate of almost 0, training is inference."""
    layer = keras.layers.RNN(cell(UNITS, dropout=1e-9, **options), return_sequences=True)
    x = sequences()
    layer.build(x.shape)
    rng = np.random.default_rng(0)
    layer.set_weights(
        [rng.normal(size=w.shape) if w.dtype == "float32" else w for w in layer.get_weights()]  # not the seed
    )
    assert_equal([layer(x, training=True)], [layer(x)], 1e-6)
    layer.cell.dropout = 0.5
    by_x = outputs_and_gradients(layer, x, compiled=False, training=True)[1]
    dropped = by_x[:, 0] == 0
    assert 0 < dropped.mean() < 1
    np.testing.assert_array_equal(by_x == 0, np.repeat(dropped[:, None], STEPS, 1))


def check_truncation(create):
    """The gradient by the input stops at block ends as if the state came from outside; the values stay."""
    whole, truncated = create(), create(bptt_steps=3)
    for layer in (whole, truncated):
        layer.build((BATCH, STEPS, FEATURES))
    truncated.set_weights(whole.get_weights())
    x = sequences()
    by_whole = outputs_and_gradients(whole, x, compiled=False)[1]
    assert np.abs(by_whole[:, :6]).min(axis=(1, 2)).max() > 0
    for training, compiled in ((True, True), (True, False), (False, False)):  # three loops
        assert_equal([truncated(x, training=training)], [whole(x, training=training)])
        by_input = outputs_and_gradients(truncated, x, compiled=compiled, training=training)[1]
        assert np.abs(by_input[:, :6]).max() == 0  # blocks are steps 0 to 2, 3 to 5, and 6, of which the last is seen
        assert np.abs(by_input[:, 6]).max() > 0
        assert_equal([by_input[:, 6]], [by_whole[:, 6]])


def check_carries_state(layer):
    """Two halves of a sequence, the second begun where the first ended, are the whole."""
    x = sequences()
    whole, *end = layer(x)
    first, *middle = layer(x[:, :3])
    second, *last = layer(x[:, 3:], initial_state=middle)
    assert_equal([np.concatenate([first, second], axis=1), *last], [whole, *end], 1e-6)


def check_equals_torch(name, layer, reorder=lambda w: w, biases=sum):
    """Outputs, last states, and gradients by input and weights.

    `reorder` puts the gates on the first axis in Keras's order; `biases` makes ours of PyTorch's two.
    """
    x = ORACLE["sequences"]
    layer.build(x.shape)

    def ours(prefix):
        kernel, recurrent, *both = (
            reorder(ORACLE[f"{name}/{prefix}{key}_l0"]) for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        return kernel.T, recurrent.T, both

    kernel, recurrent, both = ours("")
    projections = [ORACLE[f"{name}/weight_hr_l0"].T] if f"{name}/weight_hr_l0" in ORACLE else []
    layer.set_weights([kernel, recurrent, biases(both), *projections])
    with tf.GradientTape() as tape:
        features = tf.constant(x)
        tape.watch(features)
        output, *last = layer(features, training=True)
        loss = tf.reduce_sum(output * ORACLE[f"{name}/probe"])
    weights = [v.value for v in layer.trainable_variables]
    by_features, by_kernel, by_recurrent, by_bias, *_ = tape.gradient(loss, [features, *weights])
    assert_equal([output], [ORACLE[f"{name}/output"]])
    assert_equal(last, [ORACLE[f"{name}/{key}"][0] for key in "hc"[: len(last)]])
    d_kernel, d_recurrent, d_both = ours("gradient/")
    # The derivative by a sum of two biases is that by each; where ours are apart, each has its own.
    d_bias = np.stack(d_both) if biases is not sum else d_both[0]
    expected = [ORACLE[f"{name}/gradient/sequences"], d_kernel, d_recurrent, d_bias]
    assert_equal([by_features, by_kernel, by_recurrent, by_bias], expected)


def check_bad_input(layer, num_states):
    with pytest.raises(ValueError, match=r"\(3, 0, 4\).*no step"):
        layer(np.zeros((BATCH, 0, FEATURES), "float32"))
    with pytest.raises(ValueError, match=rf"initial_state.*\({BATCH}, {UNITS + 1}\).*must have"):
        layer(sequences(), initial_state=[np.zeros((BATCH, UNITS + 1), "float32")] * num_states)
    with pytest.raises(ValueError, match="initial_state"):
        layer(sequences(), initial_state=[np.zeros((BATCH, UNITS), "float32")] * (num_states + 1))
    nothing = layer(sequences(), mask=np.zeros((BATCH, STEPS), bool))
    np.testing.assert_array_equal(keras.tree.flatten(nothing)[0], 0)

    # In graphs of unknown batch and time; XLA has no assertions, and refuses the shapes itself.
    layer.return_sequences = True
    specs = [tf.TensorSpec((None, None, FEATURES)), *[tf.TensorSpec((None, UNITS))] * num_states]
    for training, compiled in ((False, False), (True, False), (False, True)):
        run = tf.function(
            lambda x, *s, training=training: layer(x, initial_state=list(s), training=training),
            input_signature=specs,
            jit_compile=compiled,
        )
        for rows, steps, message in ((BATCH, 0, "no step"), (1, STEPS, "initial_state.* rows"), (2, STEPS, "rows")):
            given = [np.zeros((rows, UNITS), "float32")] * num_states
            with pytest.raises(tf.errors.OpError, match=None if compiled else message):
                run(sequences()[:, :steps], *given)
        if not compiled:
            assert run(sequences(), *states(num_states)).shape == (BATCH, STEPS, UNITS)


def check_padding_may_be_anything(layer):
    """What stands at masked steps changes neither values nor gradients, and be it no number at all."""
    mask = holed_mask()
    layer.build((BATCH, STEPS, FEATURES))
    for training, compiled in ((True, True), (True, None), (False, None)):
        run = differentiated(layer, compiled, training=training, mask=mask)
        clean, dirty = (run(np.where(mask[..., None], sequences(), padding)) for padding in np.float32([1, np.nan]))
        assert_equal(dirty, clean, 0)
