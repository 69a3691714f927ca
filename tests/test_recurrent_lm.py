"""The recurrent language model: what it computes, streamed and whole, and what it draws."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dl import RecurrentLM
from keras_dl.export import export, load
from keras_dl.losses import SmoothedCrossentropy

VOCABULARY = 12


@pytest.fixture
def model():
    return RecurrentLM(VOCABULARY, embedding_dim=8, hidden_dims=(16,), num_steps=6)


def some_tokens(rows=3, length=6):
    return np.random.default_rng(0).integers(3, VOCABULARY, (rows, length)).astype("int32")


def test_it_is_an_embedding_an_lstm_and_a_dense_layer(model):
    tokens = keras.Input((None,), dtype="int32")
    hidden = keras.layers.LSTM(16, return_sequences=True)(keras.layers.Embedding(VOCABULARY, 8)(tokens))
    reference = keras.Model(tokens, keras.layers.Dense(VOCABULARY)(hidden))
    table, *weights = model.get_weights()
    reference.set_weights([table * 8**0.5, *weights])
    np.testing.assert_allclose(model(some_tokens()), reference(some_tokens()), atol=1e-6)


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
    assert set(states) == {"hidden_1", "memory_1"}
    for t in range(tokens.shape[1]):
        after = runner.serve("step", tokens=tokens[:, t], **states)
        np.testing.assert_allclose(after.pop("log_probabilities"), whole[:, t], atol=1e-5)
        states = {name.removeprefix("next_"): state for name, state in after.items()}


def test_at_temperature_0_the_most_probable_token_follows(model):
    begun = some_tokens(2, 3)
    found = model.generate(begun, length=5, temperature=0.0, seed=1).numpy()
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
        found = model.generate(begun, length=1, temperature=temperature, seed=2).numpy()[:, 0]
        expected = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
        shares = np.bincount(found, minlength=VOCABULARY) / len(found)
        deviations = np.sqrt(expected * (1 - expected) / len(found))
        assert (np.abs(shares - expected) <= 4 * deviations).all()


def test_seeds_repeat_and_nothing_follows_an_end(model):
    begun = np.full((64, 1), model.start_token, "int32")
    first, again, other = (model.generate(begun, length=20, seed=seed).numpy() for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    ended = np.cumsum(first == model.end_token, axis=1) - (first == model.end_token) > 0
    assert ended.any()
    assert (first[ended] == 0).all()
    assert (first[~ended] > 1).all()


def test_drawing_compiles_under_xla(model):
    draw = tf.function(model._draw, jit_compile=True, autograph=False)
    found = draw(some_tokens(), 4, tf.constant(0.0), tf.constant([1, 0]))
    np.testing.assert_array_equal(found, model.generate(some_tokens(), 4, temperature=0.0))


def test_it_learns_what_follows_what():
    """A text that repeats itself: after training, each token but the first costs next to nothing."""
    model = RecurrentLM(VOCABULARY, embedding_dim=8, hidden_dims=(16,))
    texts = np.stack([np.resize(np.arange(3 + i, 9 + i), 13) for i in (0, 1, 2)] * 4).astype("int32")
    model.compile(keras.optimizers.Adam(0.03), SmoothedCrossentropy(0.0))
    model.fit(texts[:, :-1], texts[:, 1:], batch_size=12, epochs=120, verbose=0)
    logits = model(texts[:, :-1])[:, 1:]
    losses = keras.losses.sparse_categorical_crossentropy(texts[:, 2:], logits, from_logits=True)
    assert float(keras.ops.max(losses)) < 0.2
    np.testing.assert_array_equal(model.generate(texts[:3, :3], 6, temperature=0.0), texts[:3, 3:9])


@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [
        ([[1, VOCABULARY]], {}, "tokens holds 12, which is not in the vocabulary"),
        ([[1, 0]], {}, "tokens holds 0, which is padding"),
        ([[]], {}, "tokens of shape"),
        ([1, 2], {}, "tokens of shape"),
        ([[1, 2]], dict(length=0), "length"),
        ([[1, 2]], dict(temperature=-1.0), "temperature=-1.0"),
        ([[1, 2]], dict(temperature=float("nan")), "temperature=nan"),
    ],
)
def test_bad_input_of_generate(model, tokens, options, message):
    with pytest.raises(ValueError, match=message):
        model.generate(np.array(tokens, "int32"), **(dict(length=3) | options))


def test_ids_that_are_no_tokens(model):
    """An error called eagerly; in a graph they count as padding."""
    bad = np.array([[1, -1, 4]], "int32")
    with pytest.raises(ValueError, match="tokens holds -1"):
        model(bad)
    np.testing.assert_array_equal(tf.function(model)(tf.constant(bad)), tf.function(model)(tf.maximum(bad, 0)))
