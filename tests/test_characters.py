"""Character models: the trigram baseline, and texts on their way to the recipe."""

import collections

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_dl.recipes.tasks import characters
from keras_dl.recipes.training import recipe
from keras_dl.recipes.training.baselines import trigram_bits
from keras_dl.text import END, START, Symbols

SIZE = 8


def witten_bell(train):
    """`probability(token, history)`, by the recursion as it is written."""
    counts = collections.defaultdict(collections.Counter)
    for text in train:
        tokens = [START, START, *text]
        for i in range(2, len(tokens)):
            for n in (0, 1, 2):
                counts[tuple(tokens[i - n : i])][tokens[i]] += 1

    def probability(token, history):
        shorter = probability(token, history[1:]) if history else 1 / (SIZE - 2)
        seen = counts[tuple(history)]
        if not seen:
            return shorter
        return (seen[token] + len(seen) * shorter) / (seen.total() + len(seen))

    return probability


TEXTS = st.lists(st.lists(st.integers(3, SIZE - 1), max_size=6).map(lambda text: [*text, END]), min_size=1, max_size=5)


def rows(texts):
    return np.array([text + [0] * (7 - len(text)) for text in texts])


@settings(deadline=None, max_examples=50)
@given(TEXTS, TEXTS)
def test_trigrams_are_those_of_the_recursion(train, test):
    probability = witten_bell(train)
    bits = []
    for text in test:
        tokens = [START, START, *text]
        bits += [-np.log2(probability(tokens[i], tokens[i - 2 : i])) for i in range(2, len(tokens))]
    assert trigram_bits(rows(train), rows(test), SIZE) == pytest.approx(np.mean(bits))


def test_trigrams_are_a_distribution():
    probability = witten_bell([[3, 4, 3, END], [5, END]])
    for history in ((START, START), (3, 4), (7, 7)):
        assert sum(probability(token, history) for token in range(2, SIZE)) == pytest.approx(1.0)


@pytest.mark.parametrize("counted", [100, 4])
def test_sentences_go_through_the_same_pipeline(counted, tmp_path, monkeypatch):
    """At hand, and streamed where there are more texts than are counted."""
    monkeypatch.setattr(characters, "COUNTED", counted)
    found = recipe.find("lstm")
    with tfds.testing.mock_data(num_examples=8):
        options = found.options("lm1b", batch_size=2, data_dir=str(tmp_path))
        data = found.load_data(options, "lstm")
        batches, again, later = (list(data.train(tf.constant(epoch))) for epoch in (0, 0, 1))
    assert (data.num_train, data.num_test, len(batches)) == (8, 8, 4)
    symbols = Symbols.from_json(data.vocabularies["characters"])
    for (tokens, targets), (same, _) in zip(batches, again, strict=True):
        assert tokens.shape == targets.shape
        assert targets.shape[1] % 64 == 0
        np.testing.assert_array_equal(tokens[:, 0], [START] * 2)
        np.testing.assert_array_equal(tokens[:, 1:], targets[:, :-1])
        np.testing.assert_array_equal(tokens, same)
        assert all(symbols.decode(targets))
    assert any(not np.array_equal(a[0], b[0]) for a, b in zip(batches, later, strict=True))


def test_bits_are_those_of_the_loss_and_do_not_count_padding():
    model = keras.Sequential([keras.layers.Embedding(9, 4), keras.layers.Dense(9)])
    texts = np.array([[4, 5, END, 0, 0], [6, 7, 8, 5, END]], "int32")

    def serve(name, tokens):
        assert name == "sequence"
        # What a quantized file returns does not sum to 1, and must gain nothing from that.
        return {"log_probabilities": np.asarray(keras.ops.log_softmax(model(tokens))) + 0.5}

    losses = keras.losses.sparse_categorical_crossentropy(texts, model(characters.shifted(texts)), from_logits=True)
    found = characters.bits(serve, texts)
    np.testing.assert_allclose(found, np.where(texts > 0, losses, 0) / np.log(2), rtol=1e-5)
