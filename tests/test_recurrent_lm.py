"""The recurrent language model: what it computes, streamed and whole, and what it draws."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dl import RecurrentLM
from keras_dl.export import export, load
from keras_dl.losses import SmoothedCrossentropy
from keras_dl.ops import decoding

VOCABULARY = 12


@pytest.fixture
def model():
    return RecurrentLM(VOCABULARY, embedding_dim=8, hidden_dims=(16,), serving_length=6)


def some_tokens(rows=3, length=6):
    return np.random.default_rng(0).integers(3, VOCABULARY, (rows, length)).astype("int32")


@pytest.mark.parametrize("initial_range", [None, 0.3])
@pytest.mark.parametrize("tied", [False, True])
def test_it_is_an_embedding_an_lstm_and_a_dense_layer(tied, initial_range):
    """The embedding scaled, but with an initial range; tied, its table is the kernel of the dense layer."""
    model = RecurrentLM(VOCABULARY, embedding_dim=8, hidden_dims=(8,), tied=tied, initial_range=initial_range)
    tokens = keras.Input((None,), dtype="int32")
    hidden = keras.layers.LSTM(8, return_sequences=True)(keras.layers.Embedding(VOCABULARY, 8)(tokens))
    reference = keras.Model(tokens, keras.layers.Dense(VOCABULARY)(hidden))
    model.get_layer("head").bias.assign(np.linspace(-1, 1, VOCABULARY))
    table, *lstm, bias = (w for w in model.get_weights() if w.shape != (8, VOCABULARY))
    kernel = table.T if tied else model.get_layer("head").kernel
    reference.set_weights([table * (1 if initial_range else 8**0.5), *lstm, kernel, bias])
    np.testing.assert_allclose(model(some_tokens()), reference(some_tokens()), atol=1e-6)
    assert model.count_params() == reference.count_params() - tied * VOCABULARY * 8


@pytest.mark.parametrize(
    ("name", "count"),
    [("zaremba_small", 4_651_600), ("zaremba_medium", 19_775_200), ("zaremba_large", 66_022_000)],
)
def test_presets_have_their_sizes(name, count):
    """Of TensorFlow's version: embedding, a kernel and one bias for the gates of each layer, softmax with a bias."""
    width = RecurrentLM.presets[name]["embedding_dim"]
    assert count == 10_000 * width + 2 * 4 * (2 * width * width + width) + (width + 1) * 10_000
    with keras.StatelessScope(initialize_variables=False):  # shapes alone, no memory
        assert RecurrentLM.from_preset(name).count_params() == count


def test_presets_begin_and_drop_as_published():
    model = RecurrentLM.from_preset("zaremba_medium", vocabulary_size=100, hidden_dims=(650, 60))
    for weight in model.weights:  # the biases of forget gates among them
        values = weight.numpy()
        assert np.abs(values).max() <= 0.05
        assert values.std() == pytest.approx(0.05 / 3**0.5, rel=0.15)
    drawn = [weight.numpy().ravel()[:60] for weight in model.weights]
    assert len({tuple(values) for values in drawn}) == len(drawn), "two weights began with the same numbers"
    names = ["tokens", "embedding", "dropout_0", "lstm_0", "dropout_1", "lstm_1", "dropout_2", "head"]
    assert [layer.name for layer in model.layers] == names
    assert {layer.rate for layer in model.layers if "dropout" in layer.name} == {0.5}
    identity = RecurrentLM(VOCABULARY, 8, "irnn", (8,), initial_range=0.05).get_layer("irnn_0").cell.recurrent_kernel
    np.testing.assert_array_equal(identity, np.eye(8))


def test_logits_do_not_look_ahead_and_padding_touches_nothing(model):
    tokens = some_tokens()
    changed = tokens.copy()
    changed[:, 4:] = 0
    np.testing.assert_array_equal(model(tokens)[:, :4], model(changed)[:, :4])
    assert np.abs(model(tokens)[:, 4:] - model(changed)[:, 4:]).max() > 1e-3


def test_a_file_streams_what_it_computes_at_once(model, tmp_path):
    """One fused op; and its signature `step`, token after token, gives what `sequence` gives."""
    tokens = some_tokens()
    report = export(model, tmp_path / "lm.tflite")
    assert report.ops["UNIDIRECTIONAL_SEQUENCE_LSTM"] == 1
    assert "WHILE" not in report.ops
    runner = load(report.path)
    whole = runner.serve("sequence", tokens=tokens)["log_probabilities"]
    np.testing.assert_allclose(whole, keras.ops.log_softmax(model(tokens)), atol=1e-5)
    np.testing.assert_allclose(np.exp(whole).sum(-1), 1.0, rtol=1e-5)
    states = {name: np.asarray(state) for name, state in model.initial_states(3).items()}
    assert set(states) == {"hidden_0", "cell_0"}
    for t in range(tokens.shape[1]):
        after = runner.serve("step", tokens=tokens[:, t], **states)
        np.testing.assert_allclose(after.pop("log_probabilities"), whole[:, t], atol=1e-5)
        states = {name.removeprefix("next_"): state for name, state in after.items()}


def stateful_pair(**options):
    """A model that carries its states on over batches of 3 rows, and one of the same weights that does not."""
    options = dict(embedding_dim=8, hidden_dims=(8, 8), initial_range=0.5) | options
    carrying = RecurrentLM(VOCABULARY, stateful_batch_size=3, **options)
    plain = RecurrentLM(VOCABULARY, **options)
    plain.set_weights(carrying.get_weights())
    return carrying, plain


@pytest.mark.parametrize("cell", ["irnn", "lstm", "gru"])
def test_carried_states_make_one_text_of_windows(cell):
    carrying, plain = stateful_pair(cell=cell)
    tokens = some_tokens()
    for _ in range(2):
        windows = [carrying(tokens[:, i : i + 2]) for i in (0, 2, 4)]
        np.testing.assert_allclose(np.concatenate(windows, 1), plain(tokens), atol=1e-6)
        assert np.abs(carrying(tokens[:, :2]) - windows[0]).max() > 1e-3
        carrying.reset_states()


@pytest.mark.parametrize(("training", "in_graph"), [(False, False), (True, False), (True, True)])
def test_windows_truncate_the_gradient(training, in_graph):
    """The second of two windows has the gradients of the whole text that `bptt_steps` cuts at its beginning."""
    carrying, cut = stateful_pair(bptt_steps=3)
    tokens = some_tokens()

    def gradients(model, tokens):
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(tf.sin(model(tokens, training=training)[:, -3:]))
        return [tf.convert_to_tensor(x) for x in tape.gradient(total, [v.value for v in model.trainable_variables])]

    carrying(tokens[:, :3])
    found = (tf.function(gradients, autograph=False) if in_graph else gradients)(carrying, tokens[:, 3:])
    expected = gradients(cut, tokens)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    whole = RecurrentLM.from_config(cut.get_config() | dict(bptt_steps=None))
    whole.set_weights(cut.get_weights())
    assert np.abs(gradients(whole, tokens)[1] - expected[1]).max() > 1e-3


def test_fit_and_evaluate_carry_the_states(tmp_path):
    """In the order of the batches; a model that is saved begins anew."""
    carrying, plain = stateful_pair()
    tokens = some_tokens(length=7)
    x, y = (np.concatenate([part[:, i : i + 2] for i in (0, 2, 4)]) for part in (tokens[:, :-1], tokens[:, 1:]))
    for model in (carrying, plain):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.0), loss, jit_compile=False)
    expected = plain.evaluate(tokens[:, :-1], tokens[:, 1:], verbose=0)
    anew = keras.callbacks.LambdaCallback(on_epoch_begin=lambda *_: carrying.reset_states())
    options = dict(batch_size=3, verbose=0)
    losses = carrying.fit(x, y, epochs=2, shuffle=False, callbacks=[anew], **options).history["loss"]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert abs(carrying.evaluate(x, y, **options) - expected) > 1e-4
    carrying.reset_states()
    assert carrying.evaluate(x, y, **options) == pytest.approx(expected, rel=1e-5)
    carrying.save(tmp_path / "lm.keras")
    assert keras.models.load_model(tmp_path / "lm.keras").evaluate(x, y, **options) == pytest.approx(expected, rel=1e-5)


def test_other_batches_than_those_of_the_states(model):
    carrying, _ = stateful_pair()
    with pytest.raises(ValueError, match=r"Expected batch size: 3\s.*\s*.*Received batch size: 2"):
        carrying(some_tokens(2))
    call = tf.function(carrying, input_signature=[tf.TensorSpec((None, 6), "int32")], autograph=False)
    assert call(some_tokens(3)).shape == (3, 6, VOCABULARY)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[1,6,8\] is not compatible with expected shape \[3,"):
        call(some_tokens(1))
    with pytest.raises(ValueError, match="stateful_batch_size=None"):
        model.reset_states()


def test_a_file_holds_one_table_and_no_carried_states(tmp_path):
    """Tied, a float file has the embedding's table once; its fused op begins with zeros, where the model does not."""
    options = dict(embedding_dim=8, hidden_dims=(8,), tied=True, serving_length=6)
    model = RecurrentLM(4000, stateful_batch_size=3, **options)
    plain = RecurrentLM(4000, **options)
    plain.set_weights(model.get_weights())
    model(some_tokens())
    before = [state.numpy() for state in model.get_layer("lstm_0").states]
    report = export(model, tmp_path / "lm.tflite", signatures=["sequence"])
    assert report.ops["UNIDIRECTIONAL_SEQUENCE_LSTM"] == 1
    assert report.bytes < 1.5 * 4 * 4000 * 8
    found = load(report.path).serve("sequence", tokens=some_tokens())["log_probabilities"]
    np.testing.assert_allclose(found, keras.ops.log_softmax(plain(some_tokens())), atol=1e-5)
    np.testing.assert_array_equal(model.get_layer("lstm_0").states, before)
    assert np.abs(before).max() > 0


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_what_keras_makes_of_a_tied_model_has_one_table_of_its_own(tmp_path, dtype):
    """A clone, and a saved functional model around the same tensors, both with the table tied inside of them."""
    options = dict(embedding_dim=8, hidden_dims=(8,), tied=True, dropout_rate=0.1, initial_range=0.3, dtype=dtype)
    model = RecurrentLM(VOCABULARY, **options)
    clone = keras.models.clone_model(model)
    around = keras.Model(model.input, model.output)
    around.save(tmp_path / "around.keras")
    loaded = keras.models.load_model(tmp_path / "around.keras")
    before = model(some_tokens()).numpy()
    for other in (clone, loaded):
        assert not {id(v) for v in other.weights} & {id(v) for v in model.weights}
        assert [w.shape for w in other.weights] == [w.shape for w in model.weights]
        other.set_weights(model.get_weights())
        found = other(some_tokens())
        assert found.dtype == "float32"
        np.testing.assert_array_equal(found, before)
        table = other.get_layer("embedding").embeddings
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(other(some_tokens())[..., 0])  # token 0 is not read: its row is the head's alone
        assert np.abs(tf.convert_to_tensor(tape.gradient(total, table.value))[0]).max() > 0
        table.assign(table + 1.0)
        assert np.abs(other(some_tokens()) - before).max() > 1e-2
    np.testing.assert_array_equal(model(some_tokens()), before)


def test_at_temperature_0_the_most_probable_token_follows(model):
    begun = some_tokens(2, 3)
    found = model.sample(begun, max_length=5, temperature=0.0, seed=1).tokens.numpy()
    np.testing.assert_array_equal(model.greedy(begun, max_length=5).tokens, found)
    np.testing.assert_array_equal(model.beam_search(begun, beam_size=1, max_length=5).tokens[:, 0], found)
    texts = begun
    for _ in range(5):
        logits = np.array(model(texts)[:, -1])
        logits[:, [0, model.start_token]] = -np.inf
        texts = np.concatenate([texts, logits.argmax(-1)[:, None].astype("int32")], axis=1)
    for row, expected in zip(found, texts[:, 3:], strict=True):
        ended = np.cumsum(expected == model.end_token) - (expected == model.end_token) > 0
        np.testing.assert_array_equal(row, np.where(ended, 0, expected))


def test_tokens_are_drawn_as_often_as_the_model_says(model):
    begun = np.full((20_000, 1), model.start_token, "int32")
    logits = np.array(model(begun[:1])[0, -1], "float64")
    logits[[0, model.start_token]] = -np.inf
    for temperature in (1.0, 0.25):
        found = model.sample(begun, max_length=1, temperature=temperature, seed=2).tokens.numpy()[:, 0]
        expected = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
        shares = np.bincount(found, minlength=VOCABULARY) / len(found)
        deviations = np.sqrt(expected * (1 - expected) / len(found))
        assert (np.abs(shares - expected) <= 4 * deviations).all()


def test_seeds_repeat_and_nothing_follows_an_end(model):
    begun = np.full((64, 1), model.start_token, "int32")
    first, again, other = (model.sample(begun, max_length=20, seed=seed).tokens.numpy() for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    ended = np.cumsum(first == model.end_token, axis=1) - (first == model.end_token) > 0
    assert ended.any()
    assert (first[ended] == 0).all()
    assert (first[~ended] > 1).all()


@pytest.mark.parametrize(
    "name",
    ["beam_search", "sample", pytest.param("greedy", marks=pytest.mark.slow)],  # the loop of sample, without draws
)
def test_searches_compile_under_xla(model, name):
    search, options = getattr(decoding, name), dict(beam_size=3) if name == "beam_search" else {}

    @tf.function(jit_compile=True, autograph=False)
    def compiled(source):
        return model._search(search, source, max_length=4, **options).tokens

    options |= dict(temperature=0.0) if name == "sample" else {}
    np.testing.assert_array_equal(
        compiled(some_tokens()), getattr(model, name)(some_tokens(), max_length=4, **options).tokens
    )


def test_beams_have_the_log_probabilities_of_their_tokens():
    """Each with the state of its own text, in the order of the scores."""
    model = RecurrentLM(VOCABULARY, embedding_dim=8, hidden_dims=(16, 8), initial_range=1.0)
    begun = some_tokens(2, 3)
    found = model.beam_search(begun, beam_size=4, max_length=5)
    for row in range(2):
        assert len({tuple(tokens) for tokens in found.tokens[row].numpy()}) == 4
        for tokens, length, total in zip(
            found.tokens[row], found.lengths[row], found.log_probabilities[row], strict=True
        ):
            written = tokens.numpy()[: int(length)]
            assert not {0, model.start_token} & set(written.tolist())
            text = np.concatenate([begun[row], written])[None]
            log_probabilities = keras.ops.log_softmax(model(text))[0, 2:-1].numpy()
            assert float(total) == pytest.approx(log_probabilities[np.arange(len(written)), written].sum(), abs=1e-4)


@pytest.mark.parametrize("cell", ["lstm", "gru", pytest.param("rnn", marks=pytest.mark.slow)])  # has gru's states
def test_prompts_of_several_lengths_are_continued_as_alone(cell):
    model = RecurrentLM(VOCABULARY, embedding_dim=8, cell=cell, hidden_dims=(16, 8), initial_range=0.5)
    prompts = some_tokens(3, 5)
    prompts[1, 2:] = 0
    prompts[2, 1:] = 0
    together = model.greedy(prompts, max_length=6)
    for row, length in enumerate((5, 2, 1)):
        alone = model.greedy(prompts[row : row + 1, :length], max_length=6)
        np.testing.assert_array_equal(together.tokens[row], alone.tokens[0])
        np.testing.assert_allclose(together.log_probabilities[row], alone.log_probabilities[0], rtol=1e-5)


def test_decoding_step_by_step_is_the_model(model):
    tokens = some_tokens()
    expected = keras.ops.log_softmax(model(tokens))
    state = model.initial_states(3)
    for t in range(tokens.shape[1]):
        log_probabilities, state = model.decode_step(tokens[:, t], state)
        np.testing.assert_allclose(log_probabilities, expected[:, t], atol=1e-5)
    log_probabilities, _ = model.decode_step(tokens[:, -1], model.encode(tokens))
    np.testing.assert_allclose(log_probabilities, expected[:, -1], atol=1e-5)


def test_carried_states_do_not_touch_searches():
    carrying, plain = stateful_pair()
    carrying(some_tokens())
    found, expected = (m.greedy(some_tokens(2, 3), max_length=5) for m in (carrying, plain))
    np.testing.assert_array_equal(found.tokens, expected.tokens)


def test_it_learns_what_follows_what():
    """A text that repeats itself: after training, each token but the first costs next to nothing."""
    model = RecurrentLM(VOCABULARY, embedding_dim=8, hidden_dims=(16,))
    texts = np.stack([np.resize(np.arange(3 + i, 9 + i), 13) for i in (0, 1, 2)] * 4).astype("int32")
    model.compile(keras.optimizers.Adam(0.03), SmoothedCrossentropy(0.0))
    often = np.tile(texts, (120, 1))  # an epoch that long is faster than 120 epochs
    model.fit(often[:, :-1], often[:, 1:], batch_size=12, verbose=0)
    logits = model(texts[:, :-1])[:, 1:]
    losses = keras.losses.sparse_categorical_crossentropy(texts[:, 2:], logits, from_logits=True)
    assert float(keras.ops.max(losses)) < 0.2
    np.testing.assert_array_equal(model.greedy(texts[:3, :3], max_length=6).tokens, texts[:3, 3:9])


@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [
        ([[1, VOCABULARY]], {}, "source holds the id 12; the vocabulary has the ids 0 to 11"),
        ([[]], {}, "source of shape"),
        ([1, 2], {}, "source of shape"),
        ([[1, 2]], dict(max_length=0), "max_length=0"),
        ([[1, 2]], dict(temperature=-1.0), "temperature=-1.0"),
        ([[1, 2]], dict(temperature=float("nan")), "temperature=nan"),
    ],
)
def test_bad_input_of_sample(model, tokens, options, message):
    with pytest.raises(ValueError, match=message):
        model.sample(np.array(tokens, "int32"), **(dict(max_length=3) | options))


def test_ids_that_are_no_tokens(model):
    """An error called eagerly; in a graph they count as padding."""
    bad = np.array([[1, -1, 4]], "int32")
    with pytest.raises(ValueError, match="tokens holds the id -1"):
        model(bad)
    with pytest.raises(ValueError, match="tokens has the dtype float32; it must be int"):
        model.decode_step(np.array([1.5, 4.0], "float32"), model.initial_states(2))
    with pytest.raises(ValueError, match=r"state.*'hidden_0': \(1, 16\).*'hidden_0': \(2, 16\)"):
        model.decode_step(np.array([1, 4]), model.initial_states(1))
    np.testing.assert_array_equal(tf.function(model)(tf.constant(bad)), tf.function(model)(tf.maximum(bad, 0)))
