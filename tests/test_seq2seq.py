"""Encoder-decoders of recurrent nets: against torch.nn, a step at a time against all at once, searches, and padding."""

import itertools
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dl import Seq2Seq
from keras_dl.export import KerasRunner, beam_search, export, load
from keras_dl.layers.sequence_codec import CELLS
from keras_dl.models.sequence.seq2seq import PRESETS
from keras_dl.ops import decoding
from keras_dl.ops.attentive_recurrence import Memory, attentive_scan

ORACLE = pathlib.Path(__file__).parent / "oracles" / "seq2seq.npz"
SIZES = dict(source_vocabulary_size=9, target_vocabulary_size=8, embedding_dim=4, hidden_dim=5)
NETS = {
    "bahdanau": dict(cell="gru", bidirectional=True, attention="additive", attention_dim=3, maxout_dim=4),
    "sutskever": dict(cell="lstm", num_layers=2, reverse_source=True),
    "cho": dict(cell="gru", feed_context=True, maxout_dim=4),
}
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")


@pytest.fixture(scope="module")
def oracle():
    with np.load(ORACLE) as file:
        return dict(file)


def _gates(array, units):
    """PyTorch's order of the GRU's gates (reset, update, new) as Keras's (update, reset, new), on the first axis."""
    reset, update, new = np.split(array, 3)
    return np.concatenate([update, reset, new]) if len(array) == 3 * units else array


def _recurrent(arrays, name, cell, suffix=""):
    """The weights of one recurrent layer: kernel, recurrent kernel, bias."""
    weights = [arrays[f"{name}.{key}{suffix}"] for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    if cell == "lstm":
        return [weights[0].T, weights[1].T, weights[2] + weights[3]]
    weights = [_gates(w, 5) for w in weights]
    return [weights[0].T, weights[1].T, np.stack(weights[2:])]


def _dense(arrays, name):
    return [arrays[f"{name}.weight"].T, arrays[f"{name}.bias"]]


def _weights(model, arrays, net):
    """`[(variables, arrays)]`: the oracle's weights, or their gradients, where our model has them."""
    encoder, decoder = model.encoder, model.decoder
    found = [
        ([encoder.embedding.embeddings], [arrays["source.weight"]]),
        ([decoder.embedding.embeddings], [arrays["target.weight"]]),
        (decoder.readout.variables, _dense(arrays, "output")),
    ]
    for i, layer in enumerate(encoder.forward):
        found.append((layer.trainable_variables, _recurrent(arrays, "encoder", model.cell, f"_l{i}")))
    if net == "sutskever":
        for i, layer in enumerate(decoder.recurrent):
            found.append((layer.trainable_variables, _recurrent(arrays, "decoder", "lstm", f"_l{i}")))
        return found
    found += [
        (decoder.recurrent[0].trainable_variables, _recurrent(arrays, "cell", "gru")),
        (decoder.maxout.variables, _dense(arrays, "maxout")),
        (encoder.bridges["hidden_0"].variables, _dense(arrays, "bridge")),
    ]
    if net == "cho":
        return [*found, (encoder.summary.variables, _dense(arrays, "summary"))]
    attention = decoder.attention
    pairs = [
        (attention.query_kernel, arrays["query.weight"].T),
        (attention.memory_kernel, arrays["keys.weight"].T),
        (attention.bias, arrays["keys.bias"]),
        (attention.vector, arrays["score.weight"].T),
    ]
    backward = encoder.backward[0].trainable_variables, _recurrent(arrays, "encoder", "gru", "_l0_reverse")
    return [*found, backward, tuple(zip(*pairs, strict=True))]


def _of(oracle, prefix):
    return {key.removeprefix(prefix): value for key, value in oracle.items() if key.startswith(prefix)}


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_the_attentive_loop_has_the_gradients_of_its_equations(cell):
    """Against the same written out, which the tape differentiates; in float64, with a place and a row masked."""
    rng = np.random.default_rng(0)
    units, gates = 3, 3 * (4 if cell == "lstm" else 3)
    shapes = dict(rows=(5, 2, gates), values=(2, 4, 6), keys=(2, 4, 5), query_kernel=(units, 5), vector=(5, 1))
    shapes |= dict(context_kernel=(6, gates), r=(units, gates), b=(gates,), h=(2, units), c=(2, units))
    tensors = {name: tf.constant(rng.normal(size=shape)) for name, shape in shapes.items()}
    rows, r, b = (tensors[name] for name in ("rows", "r", "b"))
    memory = {name: tensors[name] for name in ("values", "keys", "query_kernel", "vector", "context_kernel")}
    keep = tf.constant([[True, True, True, False], [False] * 4])
    step = CELLS[cell](units, dtype="float64").cell.advance
    first = tuple(tensors[name] for name in "hc"[: 2 if cell == "lstm" else 1])

    def written_out():
        states, found = first, []
        for row in tf.unstack(rows):
            query = tf.expand_dims(states[0] @ memory["query_kernel"], 1)
            scores = tf.squeeze(tf.tanh(query + memory["keys"]) @ memory["vector"], -1)
            exponentials = tf.where(keep, tf.exp(scores), 0.0)
            weights = tf.math.divide_no_nan(exponentials, tf.reduce_sum(exponentials, 1, keepdims=True))
            context = tf.einsum("bs,bsm->bm", weights, memory["values"])
            parts = row + context @ memory["context_kernel"], states[0] @ r + b
            states = step(*([sum(parts)] if cell == "lstm" else parts), *states)
            found.append((states[0], context, weights))
        return [tf.stack(x) for x in zip(*found, strict=True)]

    def looped():
        return attentive_scan(step, rows, Memory(keep=keep, **memory), (r, b), first, additive=cell == "lstm")

    results = []
    for run in (looped, written_out):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            outputs = run()
            loss = sum(tf.reduce_sum(tf.sin(i + x)) for i, x in enumerate(outputs))
        results.append([*outputs, *(x for x in tape.gradient(loss, tensors).values() if x is not None)])
    assert len(results[0]) == len(results[1]) == 3 + len(tensors) - (cell == "gru")
    for found, wanted in zip(*results, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("net", NETS)
def test_equals_torch_in_outputs_loss_gradients_and_search(net, oracle):
    model = Seq2Seq(**SIZES, **NETS[net])
    arrays = _of(oracle, f"{net}/")
    pairs = _weights(model, arrays, net)
    assert sum(len(variables) for variables, _ in pairs) == len(model.trainable_variables)
    for variables, values in pairs:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    inputs = {name: tf.constant(oracle[f"{name}s"]) for name in ("source", "target")}
    there = oracle["targets"] > 0
    inputs, targets, weights = model._scored((inputs,))
    with tf.GradientTape() as tape:
        logits = model(inputs, training=True)
        loss = LOSS(targets, logits, weights)
    np.testing.assert_allclose(np.asarray(logits)[there], arrays["logits"][there], atol=2e-6)
    assert float(loss) == pytest.approx(float(arrays["loss"]), rel=1e-6)
    ours = tape.gradient(loss, model.trainable_variables)
    ours = {variable.path: gradient for variable, gradient in zip(model.trainable_variables, ours, strict=True)}
    gradients = _of(oracle, f"{net}/gradient/")
    if net == "sutskever":  # torch has two biases, whose gradients are equal; the sum of ours is one of them
        gradients = {key: value / (1 + ("bias_" in key)) for key, value in gradients.items()}
    for variables, values in _weights(model, gradients, net):
        for variable, value in zip(variables, values, strict=True):
            np.testing.assert_allclose(
                tf.convert_to_tensor(ours[variable.path]), value, atol=2e-6, err_msg=variable.path
            )
    found = decoding.greedy(
        lambda tokens, _, state: model.decode_step(tokens, state), model.encode(oracle["sources"]), 1, 2, 6
    )
    np.testing.assert_array_equal(found.tokens, arrays["greedy"])


def test_presets_have_the_sizes_of_the_papers():
    counts = dict(sutskever2014=384_112_000, cho2014=24_230_000, bahdanau2015=81_452_000)
    assert set(counts) == set(PRESETS)
    for name, count in counts.items():
        with keras.StatelessScope(initialize_variables=False):  # shapes alone, no memory
            assert Seq2Seq.from_preset(name).count_params() == count, name


@pytest.fixture(scope="module", params=NETS)
def model(request):
    return _drawn(request.param)


@pytest.fixture(scope="module")
def attentive():
    return _drawn("bahdanau")


def _drawn(net):
    """With large weights, so that what it writes depends on what it reads."""
    keras.utils.set_random_seed(4)
    model = Seq2Seq(**SIZES, **NETS[net], source_length=6, target_length=7)
    for variable in model.trainable_variables:
        variable.assign(3.0 * variable)
    return model


@pytest.fixture(scope="module")
def sources():
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, 9, (12, 6)).astype("int32")
    lengths = rng.integers(1, 7, (12, 1))
    return np.where(np.arange(6) < lengths, tokens, 0).astype("int32")


def _log_probabilities(model, sources, targets):
    logits = model({"source": sources, "target": targets})
    return np.asarray(keras.ops.log_softmax(logits))


def test_steps_are_the_whole_sequence(model, sources):
    targets = np.random.default_rng(1).integers(1, 8, (12, 5)).astype("int32")
    expected = _log_probabilities(model, sources, targets)
    state, token = model.encode(sources), np.full(12, 1)
    for t in range(5):
        found, state = model.decode_step(keras.ops.array(token), state)
        np.testing.assert_allclose(found, expected[:, t], atol=1e-5)
        token = targets[:, t]


def test_a_token_depends_on_those_before_it_alone(model, sources):
    targets = np.random.default_rng(1).integers(1, 8, (12, 5)).astype("int32")
    changed = targets.copy()
    changed[:, 2] = changed[:, 2] % 7 + 1
    one, other = (_log_probabilities(model, sources, t) for t in (targets, changed))
    np.testing.assert_array_equal(one[:, :3], other[:, :3])
    assert np.abs(one[:, 3:] - other[:, 3:]).max(axis=(1, 2)).min() > 1e-3


def test_padding_changes_nothing(model, sources):
    more = np.pad(sources, [(0, 0), (0, 5)])
    targets = np.array([[3, 2, 0]] * 12, "int32")
    longer = np.pad(targets, [(0, 0), (0, 4)])
    log_p = _log_probabilities(model, sources, targets)
    np.testing.assert_allclose(_log_probabilities(model, more, longer)[:, :3], log_p, atol=1e-5)
    model.compile("sgd", LOSS, weighted_metrics=["accuracy"], run_eagerly=True)
    scores = [
        model.evaluate({"source": s, "target": t}, verbose=0, return_dict=True)
        for s, t in ((sources, targets), (more, longer))
    ]
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)
    chosen = np.take_along_axis(log_p[:, :2], targets[:, :2, None], -1)
    assert scores[0]["loss"] == pytest.approx(-chosen.mean(), rel=1e-5)
    assert scores[0]["accuracy"] == pytest.approx((log_p.argmax(-1) == targets)[:, :2].mean())


def test_loss_is_a_mean_over_tokens_and_weights_count(sources):
    model = _drawn("cho")
    targets = np.array([[3, 4, 5, 2]] * 6 + [[2, 0, 0, 0]] * 6, "int32")
    model.compile("sgd", LOSS, jit_compile=False)
    weights = np.arange(12.0)
    # Keras leaves weights out where there are no targets beside the inputs.
    found = model.evaluate({"source": sources, "target": targets}, targets, sample_weight=weights, verbose=0)
    log_p = np.take_along_axis(_log_probabilities(model, sources, targets), targets[..., None], -1)[..., 0]
    each = (targets > 0) * weights[:, None]
    assert found == pytest.approx(-(log_p * each).sum() / each.sum(), rel=1e-5)


def test_beam_of_one_is_greedy_and_scores_are_log_probabilities(attentive, sources):
    model = attentive
    greedy, one = model.greedy(sources), model.beam_search(sources, 1, length_penalty=0.6)
    np.testing.assert_array_equal(one.tokens[:, 0], greedy.tokens)
    found = model.beam_search(sources, 5, length_penalty=0.6)
    tokens, lengths = np.asarray(found.tokens).reshape(60, -1), np.asarray(found.lengths)
    log_p = _log_probabilities(model, np.repeat(sources, 5, axis=0), tokens)
    sums = (np.take_along_axis(log_p, tokens[..., None], -1)[..., 0] * (tokens > 0)).sum(1).reshape(12, 5)
    np.testing.assert_allclose(found.log_probabilities, sums, atol=1e-4)
    np.testing.assert_allclose(found.scores, sums / ((5 + lengths) / 6) ** 0.6, atol=1e-4)
    assert len({tuple(row) for row in np.asarray(greedy.tokens)}) > 3


def test_a_wide_beam_finds_the_best_of_all_sequences(attentive, sources):
    """All sequences of at most 2 tokens, scored in one batch each by teacher forcing."""
    model = attentive
    every = [(2,), *itertools.product((1, 3, 4, 5, 6, 7), range(1, 8))]
    tokens = np.array([[*sequence, 0][:2] for sequence in every], "int32")
    found = model.beam_search(sources[:3], 60, max_length=2)
    for row in range(3):
        log_p = _log_probabilities(model, np.repeat(sources[row : row + 1], len(every), 0), tokens)
        sums = (np.take_along_axis(log_p, tokens[..., None], -1)[..., 0] * (tokens > 0)).sum(1)
        ended = (tokens == 2).any(1)
        order = np.lexsort((-sums, ~ended))
        np.testing.assert_allclose(found.scores[row, : len(every)], sums[order], atol=1e-4)
        np.testing.assert_array_equal(found.tokens[row, 0], tokens[order[0]])
        assert np.isneginf(found.scores[row, len(every) :]).all()


def test_searches_beside_the_interpreter_are_those_of_the_model(attentive, sources, tmp_path):
    model = attentive
    state = model.encode(sources)
    calibration = {name: [{"tokens": row[None]} for row in sources] for name in ("encode", "translate")}
    calibration["decode_step"] = [
        {"tokens": [3]} | {name: x[i : i + 1].numpy() for name, x in state.items()} for i in range(12)
    ]
    path = tmp_path / "model.tflite"
    report = export(model, path, calibration=calibration)
    assert report.flex_ops == report.custom_ops == 0
    expected = model.beam_search(sources, 4, length_penalty=1.0)
    for runner in (KerasRunner(model, 4), load(path)):
        found = beam_search(runner, sources, 4, 7, length_penalty=1.0)
        np.testing.assert_array_equal(found.tokens, expected.tokens)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4)
        np.testing.assert_array_equal(runner.serve("translate", tokens=sources)["tokens"], model.greedy(sources).tokens)


def test_samples_are_scored_by_the_model(attentive, sources):
    drawn = attentive.sample(sources, temperature=1.5, seed=3)
    tokens = np.asarray(drawn.tokens)
    log_p = np.take_along_axis(_log_probabilities(attentive, sources, tokens), tokens[..., None], -1)[..., 0]
    np.testing.assert_allclose(drawn.log_probabilities, (log_p * (tokens > 0)).sum(1), atol=1e-4)
    np.testing.assert_array_equal(attentive.sample(sources, temperature=1.5, seed=3).tokens, tokens)
    assert (np.asarray(attentive.sample(sources, temperature=1.5, seed=4).tokens) != tokens).any()
    np.testing.assert_array_equal(attentive.sample(sources, temperature=0).tokens, attentive.greedy(sources).tokens)


def test_what_an_alignment_is(sources):
    keras.utils.set_random_seed(2)
    model = Seq2Seq(**SIZES, **NETS["bahdanau"])
    targets = np.array([[3, 4, 2]] * 12)
    weights = np.asarray(model.alignment(sources, targets))
    assert weights.shape == (12, 3, 6)
    np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-6)
    assert not weights[np.broadcast_to((sources == 0)[:, None], weights.shape)].any()
    step = KerasRunner(model, signatures=["decode_step"]).signatures["decode_step"]["outputs"]
    assert step["alignment"]["shape"] == [1, 32]
    with pytest.raises(ValueError, match="attention=None"):
        Seq2Seq(**SIZES).alignment(sources, targets)


def test_an_empty_source_is_defined(model):
    empty = np.zeros((2, 6), "int32")
    state = model.encode(empty)
    for name, found in state.items():
        assert np.isfinite(np.asarray(found, "float32")).all(), name
        np.testing.assert_array_equal(found[0], found[1])
    log_p, _ = model.decode_step(np.array([1, 1]), state)
    assert np.isfinite(log_p).all()
    model.compile("adam", LOSS, run_eagerly=True)  # for one step each, faster than a graph
    data = {"source": empty, "target": np.array([[3, 2], [0, 0]])}
    assert np.isfinite(model.fit(data, verbose=0).history["loss"]).all()
    assert all(np.isfinite(v).all() for v in model.get_weights())
    nothing = {"source": empty, "target": np.zeros((2, 2), "int32")}
    assert model.evaluate(nothing, verbose=0, return_dict=True)["loss"] == 0.0  # no token, no loss


@pytest.mark.parametrize("wrong", [9, -1])
def test_ids_outside_of_the_vocabulary(wrong, attentive, sources):
    targets = np.array([[3, 2]] * 12)
    bad = sources.copy()
    bad[3, 0] = wrong
    for call in (
        lambda: attentive({"source": bad, "target": targets}),
        lambda: attentive.greedy(bad),
        lambda: attentive.beam_search(bad, 2),
    ):
        with pytest.raises(ValueError, match=f"source holds the id {wrong}; the vocabulary has the ids 0 to 8"):
            call()
    with pytest.raises(ValueError, match="target holds the id 8"):
        attentive({"source": sources, "target": targets + 5})
    # In a graph they are padding.
    serve = KerasRunner(attentive, 12, ["encode"]).serve
    clean = serve("encode", tokens=np.where(bad == wrong, 0, bad))
    for name, found in serve("encode", tokens=bad).items():
        np.testing.assert_array_equal(found, clean[name])


@pytest.mark.parametrize("net", NETS)
def test_a_step_takes_only_what_encode_returns(net):
    model = Seq2Seq(**SIZES, **NETS[net])
    tokens, state = np.array([1, 1]), model.encode(np.array([[3, 4], [5, 0]]))
    assert model.decode_step(tokens, state)[0].shape == (2, 8)
    for name, x in state.items():
        others = {key: value for key, value in state.items() if key != name}
        for wrong in (others, others | {name: x[:1]}, others | {name: x[:, :-1]}):
            with pytest.raises(ValueError, match=f"state.*'{name}'.*encode"):
                model.decode_step(tokens, wrong)
    with pytest.raises(ValueError, match=r"state.*'more': \(\)"):
        model.decode_step(tokens, state | {"more": 1})
    with pytest.raises(ValueError, match=r"tokens.*\(2, 1\)"):
        model.decode_step(tokens[:, None], state)


def test_predicting_without_a_target_says_how_to_translate(attentive, sources):
    attentive.compile("sgd", LOSS)
    for inputs in (sources, {"source": sources}, {"sources": sources, "targets": sources}):
        for call in (attentive, lambda x: attentive.predict(x, verbose=0), lambda x: attentive.fit(x, verbose=0)):
            with pytest.raises(ValueError, match=r"must be a dict of 'source' and 'target'.*call greedy\(source\)"):
                call(inputs)


def test_what_has_no_place_for_a_token_is_refused(attentive):
    with pytest.raises(ValueError, match=r"source of shape \(2, 0\)"):
        attentive.greedy(np.zeros((2, 0), "int32"))
    with pytest.raises(ValueError, match=r"source of shape \(2,\) must be"):
        attentive.greedy(np.zeros((2,), "int32"))
    for call in (attentive.greedy, attentive.beam_search, lambda x: attentive.alignment(x, np.ones((2, 3), "int32"))):
        with pytest.raises(ValueError, match="source has the dtype float32; it must be int"):
            call(np.full((2, 3), 5.5, "float32"))
    state = attentive.encode(np.ones((2, 3), "int32"))
    for name, call in (
        ("source", attentive.encode),
        ("target", lambda x: attentive.alignment(np.ones((2, 3), "int32"), x)),
        ("tokens", lambda x: attentive.decode_step(x[:, 0], state)),
    ):
        with pytest.raises(ValueError, match=f"{name} has the dtype float32; it must be int"):
            call(np.full((2, 3), 5.5, "float32"))
    with pytest.raises(ValueError, match="max_length=0"):
        attentive.greedy(np.ones((2, 3), "int32"), max_length=0)
    with pytest.raises(ValueError, match="beam_size=0"):
        attentive.beam_search(np.ones((2, 3), "int32"), beam_size=0)


@pytest.mark.parametrize("net", NETS)
def test_targets_without_a_place_are_refused(net):
    model = Seq2Seq(**SIZES, **NETS[net])
    sources, targets = np.array([[3, 4], [5, 0]], "int32"), np.zeros((2, 0), "int32")
    calls = [lambda: model({"source": sources, "target": targets})]
    calls += [lambda: model.alignment(sources, targets)] * bool(model.attention)
    for call in calls:
        with pytest.raises(ValueError, match=r"target of shape \(2, 0\) has no place for a token"):
            call()


@pytest.mark.slow  # the battery compiles and runs a step; this compares three epochs
def test_trains_equally_under_xla(sources):
    """Without dropout, whose draws differ there; and with batches of a length that is not known when it is traced."""
    losses = []
    for jit in (False, True):
        keras.utils.set_random_seed(5)
        model = Seq2Seq(**SIZES, **NETS["bahdanau"])
        model.compile(keras.optimizers.Adam(1e-2), LOSS, jit_compile=jit)
        data = {"source": sources, "target": np.where(sources > 0, sources % 5 + 3, 0)}
        losses.append(model.fit(data, batch_size=6, epochs=3, shuffle=False, verbose=0).history["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def _copies(rng, n, length=8, symbols=5):
    tokens = rng.integers(3, 3 + symbols, (n, length))
    return {"source": tokens, "target": np.concatenate([tokens, np.full((n, 1), 2)], axis=1)}


@pytest.mark.slow
def test_reversing_the_source_helps_on_copying():
    """Sutskever et al., section 3.3: the first tokens are then close to their copies."""
    data, held_out = _copies(np.random.default_rng(0), 1024), _copies(np.random.default_rng(1), 256)
    losses = {}
    for reverse in (False, True):
        keras.utils.set_random_seed(0)
        model = Seq2Seq(8, 8, 16, 48, reverse_source=reverse)
        model.compile(keras.optimizers.Adam(1e-2), LOSS, jit_compile=True)
        model.fit(data, batch_size=64, epochs=6, verbose=0)
        losses[reverse] = model.evaluate(held_out, verbose=0)
    assert losses[True] < 0.8 * losses[False], losses


def test_scheduled_sampling_mixes_in_what_the_model_writes(sources):
    keras.utils.set_random_seed(0)
    model = Seq2Seq(**SIZES, **NETS["cho"], sampling_rate=0.5, sampling_steps=10, seed=1)
    model.compile("sgd", LOSS)
    rng = np.random.default_rng(0)
    rows = np.repeat(sources, 40, axis=0)
    targets = np.where(rng.random((480, 10)) < 0.9, rng.integers(3, 8, (480, 10)), 0).astype("int32")
    inputs = {"source": tf.constant(rows), "target": tf.constant(targets)}
    np.testing.assert_array_equal(model._sampled(inputs), targets)  # the share begins at 0
    model.optimizer.iterations.assign(20)
    mixed = np.asarray(model._sampled(inputs))
    written = np.asarray(model(inputs)).argmax(-1)
    other = (written != targets) & (targets > 0)
    share = (mixed != targets)[other].mean()
    assert share == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / other.sum()))
    assert ((mixed == targets) | (mixed == written)).all()
    assert not mixed[targets == 0].any()
