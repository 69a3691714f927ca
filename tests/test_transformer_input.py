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


def test_bad_input_raises_or_has_a_defined_result(one_model):
    model = one_model
    outside = np.where(SOURCE == 5, 11, SOURCE)
    inputs = {"source": outside, "target": TARGET}
    with pytest.raises(ValueError, match="source holds the id 11"):
        model(inputs)
    with pytest.raises(ValueError, match="source holds the id -3"):
        model.greedy(np.where(SOURCE == 5, -3, SOURCE))
    padded = np.asarray(model({"source": np.where(SOURCE == 5, 0, SOURCE), "target": TARGET}))
    for jit in (False, True):  # in a graph, it counts as padding
        found = tf.function(lambda x: model(x), jit_compile=jit)({k: tf.constant(v) for k, v in inputs.items()})
        np.testing.assert_allclose(found, padded, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="8 tokens is longer than the 7 positions"):
        model({"source": np.ones((1, 8), "int32"), "target": TARGET[:1]})
    with pytest.raises(ValueError, match="1 to 7 tokens"):
        model.greedy(np.ones((1, 8), "int32"))
    with pytest.raises(ValueError, match="beam_size=0"):
        model.beam_search(SOURCE, beam_size=0)
    with pytest.raises(ValueError, match="length_penalty=-1"):
        model.beam_search(SOURCE, length_penalty=-1)
    with pytest.raises(ValueError, match="must be int"):
        model.greedy(SOURCE.astype("float32"))


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
    """Calls that take a sequence of tokens, with the name of its argument."""
    ids = np.ones((2, 3), "int32")
    language_model = TransformerLM(11, 9, serving_length=4, **PLAIN)
    return (
        (lambda x: model({"source": x, "target": ids}), "source"),
        (lambda x: model({"source": ids, "target": x}), "target"),
        (model.encode, "source"),
        (language_model, "tokens"),
        (language_model.encode, "source"),
        (TransformerEncoder(11, 7, serving_length=7, **PLAIN), "tokens"),
    )


def test_a_sequence_without_a_token_is_refused(one_model):
    for call, name in calls_with(one_model):
        with pytest.raises(
            ValueError, match=rf"{name} of shape \(2, 0\) has no place for a token. It needs at least one"
        ):
            call(np.zeros((2, 0), "int32"))


def test_tokens_that_are_floats_are_refused(one_model):
    ids = np.ones((2, 3), "int32")
    language_model = TransformerLM(11, 9, serving_length=4, **PLAIN)
    for model in (one_model, language_model):
        state = model.encode(ids)
        with pytest.raises(ValueError, match="source has the dtype float32; it must be int"):
            model.encode(ids.astype("float32"))
        with pytest.raises(ValueError, match="tokens has the dtype float32; it must be int"):
            model.decode_step(np.ones(2, "float32"), state)


def test_tokens_of_another_rank_are_refused(one_model):
    for call, name in calls_with(one_model):
        with pytest.raises(ValueError, match=rf"{name} of shape \(8,\) must be \(batch, n\)"):
            call(np.ones(8, "int32"))


def test_a_layer_that_there_is_not_has_no_alignment(one_model):
    for layer in (2, -3):
        with pytest.raises(ValueError, match=f"layer={layer} must be an integer from -2 to 1"):
            one_model.alignment(SOURCE, TARGET, layer=layer)


def test_a_step_takes_only_what_encode_returns(one_model):
    language_model = TransformerLM(11, 9, serving_length=4, **PLAIN)
    tokens = np.ones(3, "int32")
    for model, source in ((one_model, SOURCE), (language_model, SOURCE[:, :4])):
        state = model.encode(source)
        assert model.decode_step(tokens, state)[0].shape == (3, 11)
        for name, x in state.items():
            bad = [x[:1], x[:, None]] if x.ndim == 1 else [x[:1], x[..., :-1], x[:, :, :-1]]
            for wrong in ({name: y} for y in bad):
                with pytest.raises(ValueError, match=f"state.*{name}.*encode"):
                    model.decode_step(tokens, state | wrong)
        with pytest.raises(ValueError, match=r"tokens.*\(3, 1\)"):
            model.decode_step(tokens[:, None], state)


def test_nothing_but_padding_is_finite(model):
    nothing = np.zeros_like(SOURCE)
    assert np.isfinite(model({"source": nothing, "target": np.zeros_like(TARGET)})).all()


@pytest.mark.slow  # traces each search again
def test_nothing_but_padding_is_searched(one_model):
    model, language_model = one_model, tiny_language_model(False)
    nothing = np.zeros_like(SOURCE)
    found = model.beam_search(nothing, beam_size=30)  # wider than the vocabulary of 11
    assert not np.isnan(found.scores).any()
    assert np.isfinite(found.scores[:, 0]).all()
    state = language_model.encode(nothing[:, :4])
    assert np.isfinite(language_model.decode_step(np.zeros(3, "int32"), state)[0]).all()
    assert language_model.beam_search(nothing[:, :4], beam_size=12).tokens.shape == (3, 12, 5)
    encoder = TransformerEncoder(11, 7, serving_length=7, **PLAIN)
    np.testing.assert_array_equal(encoder.embed(nothing), 0)
    assert np.isfinite(encoder(nothing)).all()


def test_places_past_the_cache_count_as_the_last(model):
    state = model.encode(SOURCE)
    last, past = (
        model.decode_step(TARGET[:, 1], state | {"position": np.full(3, place, "int32")})[0] for place in (5, 50)
    )
    np.testing.assert_array_equal(last, past)


def test_a_search_writes_no_more_than_there_are_places_for(one_model):
    language_model = TransformerLM(11, 9, **PLAIN)
    assert one_model.greedy(SOURCE, max_length=2).tokens.shape == (3, 2)
    for search in (one_model.greedy, one_model.beam_search, one_model.sample):
        with pytest.raises(ValueError, match="max_length=7 must be at most 6"):
            search(SOURCE, max_length=7)
    with pytest.raises(ValueError, match="max_length=6 must be at most 5"):
        language_model.sample(SOURCE[:, :4], max_length=6)


def test_temperature_and_seed_are_checked(one_model):
    for options, message in (
        (dict(temperature=-0.1), "temperature=-0.1 must be a finite number of at least 0"),
        (dict(temperature=np.inf), "temperature=inf"),
        (dict(temperature="hot"), "temperature='hot'"),
        (dict(seed=-1), "seed=-1 must be an integer of at least 0"),
        (dict(seed=0.5), "seed=0.5"),
    ):
        with pytest.raises(ValueError, match=message):
            one_model.sample(SOURCE, **options)


def test_static_lengths_follow_the_number_of_positions():
    """Without a `serving_length`: at most 128, and room for a prompt and what follows it."""
    sizes = dict(vocabulary_size=11, num_layers=1, hidden_dim=4, mlp_dim=4, num_heads=1)
    for max_length, prompt, text in ((2, 1, 2), (16, 8, 16), (1024, 128, 128)):
        assert TransformerLM(max_length=max_length, **sizes).serving_length == prompt
        assert TransformerEncoder(max_length=max_length, **sizes).serving_length == text
    model = TransformerLM(max_length=16, **sizes)
    assert TransformerLM.from_config(model.get_config() | {"prompt_length": 5}).serving_length == 5  # of older files


def test_predicting_without_a_target_says_how_to_translate(one_model):
    for inputs in (SOURCE, {"source": SOURCE}, {"sources": SOURCE, "targets": TARGET}):
        for call in (one_model, lambda x: one_model.predict(x, verbose=0)):
            with pytest.raises(ValueError, match=r"must be a dict of 'source' and 'target'.*call greedy\(source\)"):
                call(inputs)
