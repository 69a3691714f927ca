"""Transformers: causality, the cache, padding, beam search, and equality with torch, BERT and GPT-2."""

import itertools
import math
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from transformer_models import PLAIN, SOURCE, TARGET, shaken, tiny_language_model, tiny_transformer

from keras_dl import Transformer, TransformerEncoder, TransformerLM
from keras_dl.averaging import CheckpointAverage, mean_weights
from keras_dl.export import KerasRunner, beam_search, export, load
from keras_dl.layers.embedding import sinusoids
from keras_dl.layers.transformer import TransformerBlock, load_torch_stack
from keras_dl.losses import SmoothedCrossentropy
from keras_dl.schedules import InverseSquareRoot
from keras_dl.weights import Entry, load_entries, torch_entries

ORACLE = dict(np.load(pathlib.Path(__file__).parent / "oracles" / "transformer.npz"))


def oracle(part):
    return {name.removeprefix(f"{part}/"): x for name, x in ORACLE.items() if name.startswith(f"{part}/")}


@pytest.fixture(scope="module", params=[False, True], ids=["post-norm", "pre-norm"])
def model(request):
    return tiny_transformer(request.param)


@pytest.fixture(scope="module")
def one_model():
    """For what takes long, and is the same in both."""
    return tiny_transformer(False)


@pytest.fixture(scope="module")
def one_block():
    """For what is compiled or exported."""
    return tiny_transformer(False, num_layers=1)


@pytest.fixture(scope="module", params=[False, True], ids=["post-norm", "pre-norm"])
def language_model(request):
    return tiny_language_model(request.param)


# Searches do not know the blocks, whose caches are compared for both.
SEARCHED = [pytest.param(False, id="post-norm", marks=pytest.mark.slow), pytest.param(True, id="pre-norm")]


def test_presets_have_the_sizes_of_the_papers():
    """Vaswani et al. round to millions; BERT and GPT-2 are counted as their published checkpoints."""
    counts = {
        Transformer: dict(base=63_045_632, big=214_171_648),
        TransformerEncoder: dict(
            bert_tiny=4_385_920,
            bert_mini=11_170_560,
            minilm_l6=22_713_216,
            bert_base=109_482_240,
            bert_large=335_141_888,
        ),
        TransformerLM: dict(gpt2=124_439_808, gpt2_medium=354_823_168),
    }
    for cls, expected in counts.items():
        assert set(expected) == set(cls.presets)
        for name, count in expected.items():
            with keras.StatelessScope(initialize_variables=False):  # shapes only, no memory
                model = cls.from_preset(name)
                assert sum(weight.shape.num_elements() for weight in model.weights) == count
    for name, millions in (("base", 65), ("big", 213)):
        assert counts[Transformer][name] / 1e6 == pytest.approx(millions, rel=0.031)


def test_sinusoids_by_their_formula():
    table = sinusoids(50, 10)
    for place, i in itertools.product((0, 1, 7, 49), range(5)):
        angle = place / 10_000 ** (2 * i / 10)
        assert table[place, 2 * i] == pytest.approx(math.sin(angle), abs=1e-7)
        assert table[place, 2 * i + 1] == pytest.approx(math.cos(angle), abs=1e-7)
    # A shift is one rotation of each pair, whatever the place: the reason that the paper gives for them.
    for i in range(5):
        pairs = table[:, 2 * i : 2 * i + 2]
        angle = 3 / 10_000 ** (2 * i / 10)
        turn = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        np.testing.assert_allclose(pairs[:-3] @ turn, pairs[3:], atol=1e-5)
    assert sinusoids(3, 5).shape == (3, 5)


def test_weights_of_other_blocks_are_refused():
    blocks = [TransformerBlock(num_heads=3, mlp_dim=20)]
    with pytest.raises(ValueError, match="must be built before it takes weights"):
        load_torch_stack(blocks, {})
    blocks[0].build((None, None, 12))
    before = blocks[0].get_weights()
    with pytest.raises(ValueError, match=r"missing: layers.0.norm1.weight \(12,\)"):
        load_torch_stack(blocks, {"layers.0.linear1.bias": np.zeros(20)})
    for old, new in zip(before, blocks[0].get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


# References


@pytest.mark.parametrize("part", ["post", "pre"])
def test_equals_torch(part):
    """Logits, loss with smoothed labels, and the gradient of the table that all three uses share."""
    want = oracle(part)
    options = dict(norm_first=part == "pre", norm_epsilon=1e-5, attention_bias=True)
    model = Transformer(17, source_length=8, target_length=8, **PLAIN, **options)
    weights = {name.removeprefix("weights/"): x for name, x in want.items() if name.startswith("weights/")}
    load_torch_stack(model.encoder, weights, model.encoder_norm if part == "pre" else None, "encoder.")
    load_torch_stack(model.decoder, weights, model.decoder_norm if part == "pre" else None, "decoder.")
    model.embedding.embeddings.assign(want["table"])

    with tf.GradientTape() as tape:
        logits = model({"source": want["source"], "target": want["target"]}, training=True)
        loss = SmoothedCrossentropy(0.1)(want["labels"], logits)
    real = want["labels"] > 0
    np.testing.assert_allclose(np.asarray(logits)[real], want["logits"][real], rtol=1e-4, atol=2e-5)
    assert float(loss) == pytest.approx(float(want["loss"]), rel=1e-5)
    gradient = tf.convert_to_tensor(tape.gradient(loss, model.embedding.embeddings.value))
    np.testing.assert_allclose(gradient, want["table_gradient"], rtol=1e-3, atol=1e-5)


def test_equals_bert():
    want = oracle("bert")
    weights = {name.removeprefix("weights/"): x for name, x in want.items() if name.startswith("weights/")}
    model = TransformerEncoder.from_bert(weights, num_heads=3)
    assert (model.num_layers, model.max_length, model.pooler, model.serving_length) == (2, 8, True, 8)
    outputs = model({"tokens": want["tokens"], "segments": want["segments"]})
    real = want["tokens"] > 0
    np.testing.assert_allclose(np.asarray(outputs["states"])[real], want["states"][real], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(outputs["pooled"], want["pooled"], rtol=1e-4, atol=1e-5)


def test_equals_gpt2():
    want = oracle("gpt2")
    model = TransformerLM(17, 8, serving_length=4, **PLAIN)
    entries, weights = {}, {}
    for name, x in want.items():
        if not name.startswith("weights/"):
            continue
        name = name.removeprefix("weights/")
        weights[name] = x
    for name, layer in (("wte", model.embedding), ("wpe", model.positions)):
        (table,) = layer.weights
        entries[f"{name}.weight"] = Entry(table, tuple(table.shape), np.asarray)
    entries |= torch_entries("ln_f", model.norm)
    for i, block in enumerate(model.blocks):
        for name, norm in (("ln_1", block.attention_norm), ("ln_2", block.mlp_norm)):
            entries |= torch_entries(f"h.{i}.{name}", norm)
        # GPT-2's Conv1D keeps its matrices as Keras does.
        for name, layer in (("mlp.c_fc", block.expand), ("mlp.c_proj", block.project)):
            for kind, variable in (("weight", layer.kernel), ("bias", layer.bias)):
                entries[f"h.{i}.{name}.{kind}"] = Entry(variable, tuple(variable.shape), np.asarray)
        attention = {}
        for kind in ("weight", "bias"):
            attention[f"in_proj_{kind}"] = weights.pop(f"h.{i}.attn.c_attn.{kind}").T
            attention[f"out_proj.{kind}"] = weights.pop(f"h.{i}.attn.c_proj.{kind}").T
        block.attention.load_torch(attention)
    load_entries(entries, {name: x for name, x in weights.items() if not name.endswith("attn.bias")})
    np.testing.assert_allclose(model(want["tokens"]), want["logits"], rtol=1e-4, atol=2e-5)


# Causality, padding, the cache


def test_output_does_not_move_when_later_tokens_do(model):
    before = np.asarray(model({"source": SOURCE, "target": TARGET}))
    for place in range(1, 6):
        changed = TARGET.copy()
        changed[:, place] = changed[:, place] % 10 + 1
        after = np.asarray(model({"source": SOURCE, "target": changed}))
        np.testing.assert_array_equal(after[:, :place], before[:, :place])
        assert np.abs(after[:, place] - before[:, place]).min(-1).max() > 1e-3


def test_language_model_is_causal(language_model):
    before = np.asarray(language_model(TARGET))
    changed = TARGET.copy()
    changed[:, 3:] = 9
    after = np.asarray(language_model(changed))
    np.testing.assert_array_equal(after[:, :3], before[:, :3])
    assert np.abs(after[:, 3:] - before[:, 3:]).max() > 1e-3


def test_padding_changes_nothing(model):
    """Shorter arrays without the padding give the same logits where there is a token."""
    whole = np.asarray(model({"source": SOURCE, "target": TARGET}))
    for row, (source, target) in enumerate(((5, 6), (7, 6), (2, 3))):
        alone = model({"source": SOURCE[row : row + 1, :source], "target": TARGET[row : row + 1, :target]})
        np.testing.assert_allclose(alone[0], whole[row, :target], rtol=1e-4, atol=1e-5)


def test_padding_changes_no_embedding():
    encoder = shaken(TransformerEncoder(11, 7, serving_length=7, **PLAIN))
    whole = np.asarray(encoder.embed(SOURCE))
    for row, length in enumerate((5, 7, 2)):
        np.testing.assert_allclose(encoder.embed(SOURCE[row : row + 1, :length])[0], whole[row], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=-1), 1, rtol=1e-5)
    states = np.asarray(encoder(SOURCE))[0, :5].mean(0)
    np.testing.assert_allclose(whole[0], states / np.linalg.norm(states), rtol=1e-3, atol=1e-5)


def test_decoding_with_the_cache_is_decoding_without(model):
    full = ops.log_softmax(model({"source": SOURCE, "target": TARGET}))
    state = model.encode(SOURCE)
    garbage = dict(state, keys=state["keys"] + 1e3, values=state["values"] - 1e3)  # of places that are still to come
    for start in (state, garbage):
        now = start
        for place in range(6):
            log_p, now = model.decode_step(TARGET[:, place], now)
            np.testing.assert_allclose(log_p, full[:, place], rtol=1e-4, atol=2e-5)


def test_language_model_with_the_cache_is_that_without(language_model):
    """Prompts of several lengths in one batch: each row goes on from its own place."""
    full = np.asarray(ops.log_softmax(language_model(TARGET)))
    prompts = np.where(np.arange(4) < [[4], [2], [3]], TARGET[:, :4], 0)
    served = KerasRunner(language_model, 3, ["prefill"]).serve("prefill", tokens=prompts)
    np.testing.assert_array_equal(served["length"], [4, 2, 3])
    np.testing.assert_allclose(served["log_probabilities"], full[range(3), [3, 1, 2]], rtol=1e-4, atol=2e-5)
    state = language_model.encode(prompts)
    for i in range(3):  # the first step takes the last token of each prompt
        place = np.array([3, 1, 2]) + i
        np.testing.assert_array_equal(state["position"], place)
        log_p, state = language_model.decode_step(TARGET[range(3), place], state)
        np.testing.assert_allclose(log_p, full[range(3), place], rtol=1e-4, atol=2e-5)


def _greedy_without_cache(logits_of, end, length, rows=1):
    """Tokens of rows, from a function of all tokens so far to the next ones' logits; padding is never chosen."""
    tokens = np.zeros((rows, 0), "int32")
    for _ in range(length):
        chosen = np.asarray(logits_of(tokens))[:, 1:].argmax(-1) + 1
        ended = (tokens == end).any(1)
        tokens = np.concatenate([tokens, np.where(ended, 0, chosen)[:, None].astype("int32")], 1)
    return tokens


@pytest.mark.parametrize("model", SEARCHED, indirect=True)
def test_greedy_search_is_the_argmax_step_by_step(model):
    found = np.asarray(model.greedy(SOURCE).tokens)
    served = KerasRunner(model, 3, ["translate"]).serve("translate", tokens=SOURCE)["tokens"]
    np.testing.assert_array_equal(served, found)

    def logits(tokens):
        target = np.concatenate([np.ones((3, 1), "int32"), tokens], 1)
        return model({"source": SOURCE, "target": target})[:, -1]

    np.testing.assert_array_equal(found, _greedy_without_cache(logits, 2, 6, rows=3))


@pytest.mark.parametrize("language_model", SEARCHED, indirect=True)
def test_generation_goes_on_from_each_prompt(language_model):
    prompts = np.where(np.arange(4) < [[4], [2], [3]], TARGET[:, :4], 0)
    found = np.asarray(language_model.greedy(prompts).tokens)
    served = KerasRunner(language_model, 3, ["generate"]).serve("generate", tokens=prompts)["tokens"]
    np.testing.assert_array_equal(served, found)
    for row, length in enumerate((4, 2, 3)):

        def logits(tokens, row=row, length=length):
            return language_model(np.array([[*prompts[row, :length], *tokens[0]]], "int32"))[:, -1]

        np.testing.assert_array_equal(found[row], _greedy_without_cache(logits, 2, 5)[0])


def test_samples_are_scored_by_the_model(one_model):
    drawn = one_model.sample(SOURCE, temperature=0.7, seed=1)
    tokens = np.asarray(drawn.tokens)
    target = np.concatenate([np.ones((3, 1), "int32"), tokens[:, :-1]], 1)
    log_p = np.asarray(ops.log_softmax(one_model({"source": SOURCE, "target": target})))
    expected = (np.take_along_axis(log_p, tokens[..., None], -1)[..., 0] * (tokens > 0)).sum(1)
    np.testing.assert_allclose(drawn.log_probabilities, expected, rtol=1e-4, atol=1e-4)


def test_samples_of_a_language_model_go_on_from_each_prompt():
    language_model = tiny_language_model(True)
    prompts = np.where(np.arange(4) < [[4], [2], [3]], TARGET[:, :4], 0)
    drawn = language_model.sample(prompts, seed=1)
    assert drawn.tokens.shape == (3, 5)
    for row, length in enumerate((4, 2, 3)):
        tokens = np.asarray(drawn.tokens)[row][: int(drawn.lengths[row])]
        text = np.array([[*prompts[row, :length], *tokens]], "int32")
        log_p = np.asarray(ops.log_softmax(language_model(text)))[0, length - 1 : -1]
        expected = log_p[range(len(tokens)), tokens].sum()
        np.testing.assert_allclose(drawn.log_probabilities[row], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(language_model.sample(prompts, seed=1).tokens, drawn.tokens)
    np.testing.assert_array_equal(
        language_model.sample(prompts, temperature=0).tokens, language_model.greedy(prompts).tokens
    )


def test_beam_search_finds_the_best_of_all_sequences():
    """A beam as wide as there are sequences, against the scores of every one of them by the full model."""
    keras.utils.set_random_seed(1)
    model = shaken(Transformer(5, source_length=3, target_length=3, **PLAIN), scale=0.3)
    source = np.array([[3, 4, 2]], "int32")
    found = model.beam_search(source, beam_size=40, length_penalty=0.6)
    scores = {}
    for length in (1, 2, 3):
        bodies = list(itertools.product((1, 3, 4), repeat=length - 1))
        targets = np.array([(1, *body) for body in bodies], "int32")
        logits = ops.log_softmax(model({"source": np.repeat(source, len(bodies), 0), "target": targets}))
        for row, body in zip(np.asarray(logits), bodies, strict=True):
            tokens = (*body, 2)
            scores[tokens] = row[range(length), tokens].sum() / ((5 + length) / 6) ** 0.6
    best = max(scores, key=scores.get)
    np.testing.assert_array_equal(found.tokens[0, 0], [*best, *[0] * (3 - len(best))])
    assert float(found.scores[0, 0]) == pytest.approx(scores[best], rel=1e-4)
    assert np.isfinite(found.log_probabilities[0, : len(scores)]).all()


def test_artifact_decodes_as_the_model_does(one_block, tmp_path):
    report = export(one_block, tmp_path / "m.tflite")
    assert (report.flex_ops, report.custom_ops) == (0, 0)
    assert "WHILE" in report.ops
    file = load(tmp_path / "m.tflite")
    np.testing.assert_array_equal(file.serve("translate", tokens=SOURCE)["tokens"], one_block.greedy(SOURCE).tokens)
    options = dict(beam_size=4, max_length=6, length_penalty=0.6)
    by_file, by_model = beam_search(file, SOURCE, **options), one_block.beam_search(SOURCE, 4, length_penalty=0.6)
    np.testing.assert_array_equal(by_file.tokens, by_model.tokens)
    np.testing.assert_allclose(by_file.scores, by_model.scores, rtol=1e-4)
    with pytest.raises(ValueError, match="max_length=7 must be at most 6"):
        beam_search(file, SOURCE, **options | dict(max_length=7))


def test_a_prompt_is_no_source_of_a_beam_search():
    model = TransformerLM(11, num_layers=1, hidden_dim=8, mlp_dim=8, num_heads=2, max_length=6, serving_length=3)
    with pytest.raises(ValueError, match="encode='prefill' goes on from the prompt"):
        beam_search(KerasRunner(model, signatures=["prefill", "decode_step"]), SOURCE[:, :3], 2, 3, encode="prefill")


@pytest.mark.slow  # test_decoding.py compiles the searches
def test_searches_compile_under_xla(one_block):
    compiled = tf.function(lambda x: one_block.beam_search(x, 3).tokens, jit_compile=True)
    np.testing.assert_array_equal(compiled(tf.constant(SOURCE)), one_block.beam_search(SOURCE, 3).tokens)


# `make test` decodes in one half precision; the other traces the same loop again.
@pytest.mark.parametrize("policy", ["mixed_float16", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)])
def test_decodes_in_mixed_precision(policy):
    model = Transformer(11, source_length=7, target_length=6, dtype=policy, **PLAIN)
    found = model.beam_search(SOURCE, 2)
    assert np.isfinite(found.scores).all()
    assert found.log_probabilities.dtype == tf.float32


def test_alignment_is_the_attention_of_the_decoder(model):
    weights = np.asarray(model.alignment(SOURCE, TARGET))
    assert weights.shape == (3, 3, 6, 7)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    assert weights[0, ..., 5:].max() == 0  # padding
    first, last = model.alignment(SOURCE, TARGET, 0), model.alignment(SOURCE, TARGET, 1)
    np.testing.assert_array_equal(last, weights)
    assert np.abs(np.asarray(first) - weights).max() > 1e-3


# Training


def test_learning_rate_by_its_equation():
    rate = InverseSquareRoot(64, warmup_steps=10, scale=2.0)
    for step in (1, 5, 10, 11, 400):
        expected = 2.0 * 64**-0.5 * min(step**-0.5, step * 10**-1.5)
        assert float(rate(step - 1)) == pytest.approx(expected, rel=1e-6)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(rate))
    assert float(copy(7)) == float(rate(7))
    for bad in (dict(hidden_dim=0), dict(hidden_dim=8, warmup_steps=0), dict(hidden_dim=8, scale=0.0)):
        with pytest.raises(ValueError, match=list(bad)[-1]):
            InverseSquareRoot(**bad)


def test_padding_is_never_scored():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 4, 6)).astype("float32")
    tokens = np.array([[3, 5, 0, 0], [1, 2, 4, 0]])
    loss = SmoothedCrossentropy(0.1)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    each = [
        -0.9 * log_p[i, j, tokens[i, j]] - 0.1 * log_p[i, j].mean() for i, j in zip(*np.nonzero(tokens), strict=True)
    ]
    assert float(loss(tokens, logits)) == pytest.approx(np.mean(each), rel=1e-5)
    changed = np.where(tokens[..., None] == 0, 1e4 * rng.normal(size=logits.shape), logits)
    assert float(loss(tokens, changed)) == pytest.approx(float(loss(tokens, logits)), rel=1e-6)
    assert float(loss(np.zeros((2, 4)), logits)) == 0.0
    outside = np.where(tokens == 0, 99, tokens)
    assert float(loss(outside, logits)) == pytest.approx(float(loss(tokens, logits)), rel=1e-6)
    with tf.GradientTape() as tape:
        given = tf.constant(logits)
        tape.watch(given)
        value = loss(tokens, given)
    assert np.abs(tape.gradient(value, given).numpy()[tokens == 0]).max() == 0
    with pytest.raises(ValueError, match="smoothing=1"):
        SmoothedCrossentropy(1.0)


def test_checkpoint_average_is_the_mean_of_the_last_epochs():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    seen = []
    keep = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(model.get_weights()))
    x, y = np.random.default_rng(0).normal(size=(16, 3)), np.ones((16, 2))
    model.fit(x, y, epochs=4, callbacks=[keep, CheckpointAverage(3)], verbose=0)
    for found, *last in zip(model.get_weights(), *seen[1:], strict=True):
        np.testing.assert_allclose(found, np.mean(last, axis=0), rtol=1e-6)
        assert np.abs(found - last[-1]).max() > 1e-4
    with pytest.raises(ValueError, match="count=0"):
        CheckpointAverage(0)
    with pytest.raises(ValueError, match="2 models"):
        mean_weights([[np.zeros(2)], [np.zeros(3)]])


@pytest.mark.slow  # the battery compiles and runs a step; this compares trainings
def test_training_under_xla_equals_the_graph(one_model):
    losses = []
    for jit in (False, True):
        copy = Transformer.from_config(one_model.get_config())
        copy.set_weights(one_model.get_weights())
        copy.compile(keras.optimizers.SGD(0.01), SmoothedCrossentropy(), jit_compile=jit)
        inputs = {"source": SOURCE, "target": TARGET}
        losses.append(copy.fit(inputs, np.roll(TARGET, -1, 1), epochs=3, verbose=0).history["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


@pytest.mark.slow
def test_learns_to_reverse():
    """Learns a task that only attention to the right places solves."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    words = rng.integers(4, 14, (2048, 6))
    ends = np.full((2048, 1), 2)
    labels = np.concatenate([words[:, ::-1], ends], 1)
    inputs = {"source": words, "target": np.concatenate([0 * ends + 1, words[:, ::-1]], 1)}
    model = Transformer(
        14, num_layers=1, hidden_dim=32, mlp_dim=64, num_heads=4, dropout_rate=0.0, source_length=6, target_length=7
    )
    model.compile(
        keras.optimizers.Adam(InverseSquareRoot(32, 100), 0.9, 0.98, 1e-9), SmoothedCrossentropy(), jit_compile=True
    )
    model.fit(inputs, labels, batch_size=64, epochs=14, verbose=0)
    fresh = rng.integers(4, 14, (100, 6))
    found = np.asarray(model.greedy(fresh).tokens)
    assert np.mean((found[:, :6] == fresh[:, ::-1]).all(1)) > 0.9


# Padding of another id.


def test_presets_of_gpt2_end_with_its_end_of_text():
    """Token 0 is "!" there: it can be written. No token is lost to padding."""
    for name in TransformerLM.presets:
        arguments = TransformerLM.presets[name]
        assert (arguments["vocabulary_size"], arguments["end_token"], arguments["padding_token"]) == (
            50_257,
            50_256,
            50_256,
        )


# Sampling, which has all of the search's loop, is run by `make test`; the others trace it again.
@pytest.mark.parametrize(
    "name", ["sample", *(pytest.param(x, marks=pytest.mark.slow) for x in ("greedy", "beam_search"))]
)
def test_padding_that_is_the_end_token(name):
    model = TransformerLM(11, 9, serving_length=4, end_token=10, padding_token=10, **PLAIN)
    shaken(model)
    prompts = np.array([[3, 0, 10, 10], [0, 10, 10, 10], [4, 5, 0, 9], [10, 10, 10, 10]], "int32")
    search = getattr(model, name)
    lengths = [2, 1, 4, 1]
    found = model.sample(prompts, seed=3, temperature=2.0)
    assert (np.asarray(found.tokens) == 0).any()  # token 0 is written as any other
    for row, length in enumerate(lengths):
        alone = prompts[row : row + 1, :length]
        one, four = (model.greedy(x, max_length=5) for x in (alone, prompts[row : row + 1]))
        np.testing.assert_array_equal(one.tokens, four.tokens)
        np.testing.assert_allclose(one.scores, four.scores, rtol=1e-4, atol=1e-5)
    found = search(prompts, max_length=5)
    tokens, lengths, sums = (np.asarray(x) for x in (found.tokens, found.lengths, found.log_probabilities))
    rows = prompts.shape[0]
    for row in range(rows):
        written, count = (tokens[row], lengths[row]) if tokens.ndim == 2 else (tokens[row, 0], lengths[row, 0])
        total = sums[row] if sums.ndim == 1 else sums[row, 0]
        ends = np.flatnonzero(written == 10)
        assert count == (ends[0] + 1 if ends.size else 5)
        assert (written[count:] == 10).all()
        real = max(1, int((prompts[row] != 10).sum()))
        text = np.concatenate([prompts[row, :real], written[:count]])
        log_p = np.asarray(keras.ops.log_softmax(model(text[None, :-1])))[0, real - 1 :]
        assert total == pytest.approx(log_p[np.arange(count), written[:count]].sum(), rel=1e-3, abs=1e-3)
