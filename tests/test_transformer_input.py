"""Transformers with bad input: an error that names it, or a result that is defined."""

import numpy as np
import pytest
import tensorflow as tf
from transformer_models import PLAIN, SOURCE, TARGET, tiny_language_model, tiny_transformer

from keras_dl import TransformerEncoder, TransformerLM


@pytest.fixture(scope="module", params=[False, True], ids=["post-norm", "pre-norm"])
def model(request):
    return tiny_transformer(request.param)


@pytest.fixture(scope="module")
def one_model():
    """For what takes long, and is the same in both."""
    return tiny_transformer(False)


@pytest.fixture(scope="module", params=[False, True], ids=["post-norm", "pre-norm"])
def language_model(request):
    return tiny_language_model(request.param)


def test_bad_input_raises_or_has_a_defined_result(model):
    outside = np.where(SOURCE == 5, 11, SOURCE)
    inputs = {"source": outside, "target": TARGET}
    with pytest.raises(ValueError, match="source holds the id 11"):
        model(inputs)
    with pytest.raises(ValueError, match="source holds the id -3"):
        model.translate(np.where(SOURCE == 5, -3, SOURCE))
    padded = np.asarray(model({"source": np.where(SOURCE == 5, 0, SOURCE), "target": TARGET}))
    for jit in (False, True):  # in a graph, it counts as padding
        found = tf.function(lambda x: model(x), jit_compile=jit)({k: tf.constant(v) for k, v in inputs.items()})
        np.testing.assert_allclose(found, padded, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="8 tokens is longer than the 7 positions"):
        model({"source": np.ones((1, 8), "int32"), "target": TARGET[:1]})
    with pytest.raises(ValueError, match="1 to 7 tokens"):
        model.translate(np.ones((1, 8), "int32"))
    with pytest.raises(ValueError, match="beam_size=0"):
        model.translate(SOURCE, beam_size=0)
    with pytest.raises(ValueError, match="length_penalty=-1"):
        model.translate(SOURCE, length_penalty=-1)
    with pytest.raises(ValueError, match="must be int"):
        model.translate(SOURCE.astype("float32"))


def test_a_length_that_no_position_is_for_is_said_in_a_graph_too(one_model):
    ids = tf.TensorSpec((None, None), "int32")
    translate = tf.function(lambda source, target: one_model({"source": source, "target": target}))
    translate = translate.get_concrete_function(ids, ids)
    assert translate(tf.ones((2, 7), "int32"), tf.ones((2, 6), "int32")).shape == (2, 6, 11)
    for call, message in (
        (lambda: translate(tf.ones((2, 8), "int32"), tf.ones((2, 6), "int32")), "7 positions of source_positions"),
        (lambda: translate(tf.ones((2, 7), "int32"), tf.ones((2, 7), "int32")), "6 positions of positions"),
        (lambda: translate(tf.ones((2, 0), "int32"), tf.ones((2, 6), "int32")), "7 positions of source_positions"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"longer than the {message}"):
            call()
    # XLA has no assertions, and refuses the shapes itself.
    compiled = tf.function(
        lambda x: one_model.source_positions(x), jit_compile=True, input_signature=[tf.TensorSpec((None, None, 12))]
    )
    assert compiled(tf.zeros((2, 7, 12))).shape == (2, 7, 12)
    with pytest.raises(tf.errors.InvalidArgumentError):
        compiled(tf.zeros((2, 8, 12)))


def calls_with(model):
    """What takes a sequence of tokens, with the names of its argument and of its positions."""
    ids = np.ones((2, 3), "int32")
    language_model = TransformerLM(11, 9, prompt_length=4, **PLAIN)
    return (
        (lambda x: model({"source": x, "target": ids}), "source", "source_positions"),
        (lambda x: model({"source": ids, "target": x}), "target", "positions"),
        (model.begin, "source", "source_positions"),
        (language_model, "tokens", "positions"),
        (language_model.begin, "tokens", "positions"),
        (TransformerEncoder(11, 7, serving_length=7, **PLAIN), "tokens", "positions"),
    )


def test_a_sequence_without_a_token_is_refused(one_model):
    for call, _, positions in calls_with(one_model):
        with pytest.raises(ValueError, match=f"no place for a token; {positions} needs one at least"):
            call(np.zeros((2, 0), "int32"))


def test_tokens_that_are_floats_are_refused(one_model):
    ids = np.ones((2, 3), "int32")
    language_model = TransformerLM(11, 9, prompt_length=4, **PLAIN)
    for model, name in ((one_model, "source"), (language_model, "tokens")):
        begun = model.begin(ids)
        cache = {key: x for key, x in begun.items() if key not in ("length", "log_probabilities")}
        with pytest.raises(ValueError, match=f"{name} has the dtype float32; it must be int"):
            model.begin(ids.astype("float32"))
        with pytest.raises(ValueError, match="tokens has the dtype float32; it must be int"):
            model.decode_step(np.ones(2, "float32"), np.zeros(2, "int32"), **cache)


def test_tokens_of_another_rank_are_refused(one_model):
    for call, name, _ in calls_with(one_model):
        with pytest.raises(ValueError, match=rf"{name} of shape \(8,\) must be \(batch, n\)"):
            call(np.ones(8, "int32"))


def test_a_layer_that_there_is_not_has_no_alignment(one_model):
    for layer in (2, -3):
        with pytest.raises(ValueError, match=f"layer={layer} must be an integer from -2 to 1"):
            one_model.alignment(SOURCE, TARGET, layer=layer)


def test_a_step_takes_what_begin_gives_alone(one_model):
    language_model = TransformerLM(11, 9, prompt_length=4, **PLAIN)
    state, prompt = one_model.begin(SOURCE), language_model.begin(SOURCE[:, :4])
    tokens = np.ones(3, "int32")
    for model, rest in ((one_model, state), (language_model, {name: prompt[name] for name in ("keys", "values")})):
        given = dict(tokens=tokens, position=tokens, **rest)
        assert model.decode_step(**given)[0].shape == (3, 11)
        for name, x in given.items():
            bad = [x[:1], x[:, None]] if x.ndim == 1 else [x[:1], x[..., :-1], x[:, :, :-1]]
            for wrong in bad[1:] if name == "tokens" else bad:  # the tokens say how many rows there are
                with pytest.raises(ValueError, match=f"{name}.*begin"):
                    model.decode_step(**given | {name: wrong})


def test_nothing_but_padding_is_finite(model, language_model):
    nothing = np.zeros_like(SOURCE)
    assert np.isfinite(model({"source": nothing, "target": np.zeros_like(TARGET)})).all()
    found = model.search(nothing, beam_size=30)  # wider than the vocabulary of 11
    assert not np.isnan(found.scores).any()
    assert np.isfinite(found.scores[:, 0]).all()
    assert np.isfinite(language_model.begin(nothing[:, :4])["log_probabilities"]).all()
    assert language_model.generate(nothing[:, :4], beam_size=12).shape == (3, 5)
    encoder = TransformerEncoder(11, 7, serving_length=7, **PLAIN)
    np.testing.assert_array_equal(encoder.embed(nothing), 0)
    assert np.isfinite(encoder(nothing)).all()


def test_places_past_the_cache_count_as_the_last(model):
    state = model.begin(SOURCE)
    last, past = (model.decode_step(TARGET[:, 1], np.full(3, place, "int32"), **state)[0] for place in (5, 50))
    np.testing.assert_array_equal(last, past)
