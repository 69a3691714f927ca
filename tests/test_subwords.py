"""Vocabularies of subwords: there and back, the same each time, beside TensorFlow in one process."""

import json

import numpy as np
import pytest
import tensorflow as tf

from keras_dl.text import Subwords

TEXTS = [
    "In the beginning God created the heaven and the earth.",
    "And the earth was without form, and void; and darkness was upon the face of the deep.",
    "And God said, Let there be light: and there was light.",
    "And God called the light Day, and the darkness he called Night.",
] * 3


@pytest.fixture(scope="module")
def words():
    return Subwords.learn(TEXTS, 90)


def test_texts_go_there_and_back(words):
    assert len(words) == 90
    tokens = words.encode(TEXTS)
    assert tokens.dtype == np.int32
    assert words.decode(tokens) == TEXTS
    assert tokens.max() < 90
    assert (tokens.max(1) > 3).all()
    for row, text in zip(tokens, TEXTS, strict=True):
        (end,) = np.flatnonzero(row == 2)
        assert (row[:end] > 3).all()
        assert (row[end + 1 :] == 0).all()
        assert end < len(text) / 2  # or it would be no vocabulary of words


def test_learning_repeats_and_travels_as_json(words):
    assert Subwords.learn(TEXTS, 90).model == words.model
    copy = Subwords.from_json(json.loads(json.dumps(words.to_json())))
    np.testing.assert_array_equal(copy.encode(TEXTS), words.encode(TEXTS))
    with pytest.raises(ValueError, match="not a vocabulary of subwords"):
        Subwords.from_json({"kind": "symbols"})
    with pytest.raises(ValueError, match="not a model file"):
        Subwords(b"something else")


def test_what_is_too_long_is_cut_and_has_no_end(words):
    whole = words.encode(TEXTS[:1])[0]
    np.testing.assert_array_equal(words.encode(TEXTS[:1], 5)[0], whole[:5])
    padded = words.encode(TEXTS[:1], 100)[0]
    np.testing.assert_array_equal(padded[: len(whole)], whole)
    assert not padded[len(whole) :].any()
    assert words.encode([]).shape == (0, 0)


def test_unknown_characters_and_ids_have_a_defined_text(words):
    tokens = words.encode(["And 9"])[0]
    assert 3 in tokens
    assert words.decode([[*tokens[:1], 0, 1, 2, 9]]) == words.decode([tokens[:1]])
    assert words.decode([[10_000], [-5]]) == words.decode([[3], [3]])
    assert words.decode([[0, 0, 0]]) == [""]


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="no text"):
        Subwords.learn(["", " "], 50)
    with pytest.raises(ValueError, match="vocabulary_size=6"):
        Subwords.learn(TEXTS, 6)


def test_library_and_tensorflow_share_a_process(words):
    """Both bring a protobuf of their own."""
    before = words.encode(TEXTS)
    graph = tf.function(lambda x: tf.reduce_sum(x)).get_concrete_function(tf.TensorSpec((2,), tf.float32)).graph
    assert len(graph.as_graph_def().SerializeToString()) > 0
    np.testing.assert_array_equal(Subwords(words.model).encode(TEXTS), before)
