"""Greedy and beam search: against exhaustive search, under XLA, as a LiteRT loop, and in NumPy."""

import itertools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import keras_dl
from keras_dl.export import ExportError, KerasRunner, beam_search, export, load
from keras_dl.ops import decoding

END, VOCABULARY, CONTEXTS = 1, 5, 97
ALPHAS = (0.0, 0.6, 2.0)


@pytest.fixture(scope="module")
def table():
    """Log-probabilities of the next token in each of `CONTEXTS` contexts; padding is the most likely of all."""
    logits = 1.5 * np.random.default_rng(0).standard_normal((CONTEXTS, VOCABULARY))
    logits[:, decoding.PADDING] = 4.0
    return (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype("float32")


def following(context, token):
    """The context after a token: it depends on all tokens before."""
    return (7 * context + token + 1) % CONTEXTS


def step_of(table):
    def step(tokens, position, state):
        started = tf.greater(position, 0)
        context = tf.where(started, following(state["context"], tokens), state["context"])
        return tf.gather(table, context), {"context": context}

    return step


def enumerated(table, context, max_length, alpha):
    """All sequences: those that end, then those that are cut off, each by falling score: `[(score, sum, tokens)]`."""
    found = []
    for length in range(1, max_length + 1):
        for tokens in itertools.product(range(1, VOCABULARY), repeat=length):
            ended = tokens[-1] == END
            if END in tokens[:-1] or not (ended or length == max_length):
                continue
            total, place = 0.0, context
            for token in tokens:
                total += float(table[place, token])
                place = following(place, token)
            found.append((ended, total / ((5 + length) / 6) ** alpha, total, tokens))
    return [row[1:] for row in sorted(found, reverse=True)]


@pytest.mark.parametrize("alpha", ALPHAS)
def test_a_wide_beam_finds_what_exhaustive_search_finds(table, alpha):
    """Every sequence there is, in order, and nothing in the places left: the beam is far wider than the vocabulary."""
    contexts, beam_size, max_length = [3, 50, 96], 130, 4
    search = tf.function(
        lambda state: decoding.beam_search(step_of(table), state, 0, END, beam_size, max_length, alpha),
        jit_compile=True,
    )
    found = [x.numpy() for x in search({"context": tf.constant(contexts)})]
    for row, context in enumerate(contexts):
        expected = enumerated(table, context, max_length, alpha)
        tokens, lengths, sums, scores = (x[row] for x in found)
        assert len(expected) == 121
        for i, (score, total, sequence) in enumerate(expected):
            assert scores[i] == pytest.approx(score, abs=1e-5)
            assert sums[i] == pytest.approx(total, abs=1e-5)
            if lengths[i] != len(sequence) or tuple(tokens[i, : lengths[i]]) != sequence:  # two of one score
                assert min(abs(score - expected[j][0]) for j in (i - 1, i + 1)) < 1e-5
        assert {tuple(t[:n]) for t, n in zip(tokens, lengths, strict=True)} - {()} == {row[2] for row in expected}
        assert np.isneginf(scores[121:]).all()
        assert not tokens[121:].any()


def test_what_is_no_number_is_never_chosen():
    """Row 0 is as it would be if NaN were impossible, row 1 meets nothing else, row 2 does so after a token."""
    nan, certain = np.nan, np.log([1e-9, 1e-9, 0.1, 0.9])  # token 2 ends
    first = tf.constant([[nan, nan, *certain[2:]], [nan] * 4, certain], "float32")
    later = tf.constant([[nan, nan, 0.0, -9.0], [nan] * 4, [nan] * 4], "float32")

    def step(tokens, position, rows):
        return tf.where(position[:, None] == 0, tf.gather(first, rows), tf.gather(later, rows)), rows

    @tf.function(jit_compile=True)
    def search():
        rows = tf.range(3)
        return decoding.greedy(step, rows, 1, 2, 4), decoding.beam_search(step, rows, 1, 2, 2, 4)

    greedy, beams = search()
    np.testing.assert_array_equal(greedy.tokens, [[3, 2, 0, 0], [0, 0, 0, 0], [3, 0, 0, 0]])
    np.testing.assert_array_equal(np.isfinite(greedy.scores), [True, False, False])
    np.testing.assert_array_equal(beams.tokens[:, 0], [[3, 2, 0, 0], [0, 0, 0, 0], [2, 0, 0, 0]])
    np.testing.assert_array_equal(beams.tokens[:, 1], [[2, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(np.isfinite(beams.scores), [[True, True], [False, False], [True, False]])
    assert not np.isnan(beams.log_probabilities).any()


def test_nothing_possible_leaves_padding_of_any_id():
    def step(tokens, position, state):
        return tf.fill([2, 6], np.nan), state

    for padding, end in ((0, 2), (5, 2), (2, 2)):
        found = decoding.greedy(step, tf.zeros((2, 1)), 1, end, 3, padding=padding)
        np.testing.assert_array_equal(found.tokens, np.full((2, 3), padding))
        np.testing.assert_array_equal(found.lengths, [0, 0])
        assert np.isneginf(found.scores).all()


@pytest.mark.parametrize("alpha", ALPHAS)
def test_beam_of_one_is_greedy(table, alpha):
    state = {"context": tf.range(CONTEXTS)}
    greedy = decoding.greedy(step_of(table), state, 0, END, 7)
    beam = decoding.beam_search(step_of(table), state, 0, END, 1, 7, alpha)
    np.testing.assert_array_equal(beam.tokens[:, 0], greedy.tokens)
    np.testing.assert_array_equal(beam.lengths[:, 0], greedy.lengths)
    np.testing.assert_allclose(beam.log_probabilities[:, 0], greedy.log_probabilities, rtol=1e-6)
    assert len(set(np.asarray(greedy.lengths))) > 3


def probability_of(table, context, sequence, temperature):
    """Of a sequence that is drawn at a temperature; padding is never drawn."""
    p = 1.0
    for token in sequence:
        weights = np.exp(table[context, 1:].astype("float64") / temperature)
        p *= weights[token - 1] / weights.sum()
        context = following(context, token)
    return p


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_have_the_probabilities_of_the_model(table, temperature):
    """All sequences of at most 2 tokens. Of n draws, a frequency has the standard deviation sqrt(p (1 - p) / n); chance
    passes 5 of them once in 1.7 million times. Another temperature is beyond that."""
    rows, context = 40_000, 3
    state = {"context": tf.fill([rows], context)}
    drawn = decoding.sample(step_of(table), state, 0, END, 2, temperature, decoding.seed_pair(7))
    tokens = np.asarray(drawn.tokens)
    every = [(END,), *itertools.product(range(2, VOCABULARY), range(1, VOCABULARY))]
    frequencies = np.array([(tokens == [*s, 0][:2]).all(1).mean() for s in every])
    assert frequencies.sum() == pytest.approx(1)

    def deviations(temperature):
        p = np.array([probability_of(table, context, s, temperature) for s in every])
        assert p.sum() == pytest.approx(1)
        return np.abs(frequencies - p) / np.sqrt(p * (1 - p) / rows)

    assert deviations(temperature).max() < 5
    assert deviations(0.9 * temperature).max() > 5
    by_hand, place = np.zeros(rows), np.full(rows, context)  # of the model itself, whatever the temperature
    for token in tokens.T:
        by_hand += np.where(token > 0, table[place, token], 0.0)
        place = following(place, token)
    np.testing.assert_allclose(drawn.log_probabilities, by_hand, atol=1e-5)


def test_samples_of_temperature_0_are_the_greedy_search(table):
    """So are those of one so small that noise, between -4 and 17, cannot make up for the smallest difference."""
    ordered = np.sort(table[:, 1:], axis=1)
    smallest = (ordered[:, -1] - ordered[:, -2]).min()
    state = {"context": tf.range(CONTEXTS)}
    greedy = decoding.greedy(step_of(table), state, 0, END, 7)
    for temperature in (0.0, smallest / 25):
        drawn = decoding.sample(step_of(table), state, 0, END, 7, temperature, (5, 6))
        for a, b in zip(drawn, greedy, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


def test_equal_seeds_give_equal_samples(table):
    state = {"context": tf.range(CONTEXTS)}

    @tf.function(jit_compile=True)
    def compiled(seed):
        return decoding.sample(step_of(table), state, 0, END, 7, 1.0, seed)

    for sample in (lambda seed: decoding.sample(step_of(table), state, 0, END, 7, 1.0, seed), compiled):
        one, again, other = (np.asarray(sample(decoding.seed_pair(seed)).tokens) for seed in (1, 1, 2))
        np.testing.assert_array_equal(one, again)
        assert (one != other).any(axis=1).mean() > 0.5
        assert len({tuple(row) for row in one}) > CONTEXTS / 2  # rows do not share their noise
    keras.utils.set_random_seed(4)
    new = [decoding.seed_pair(None) for _ in range(2)]
    keras.utils.set_random_seed(4)
    np.testing.assert_array_equal(decoding.seed_pair(None), new[0])
    assert (new[0] != new[1]).numpy().any()


def test_a_token_before_the_first_may_differ_by_row(table):
    def step(tokens, position, state):  # the next token depends on the one before
        return tf.gather(table, tokens + 10), state

    rows = tf.constant([2, 4, 3])
    for search in (
        lambda state, start: decoding.greedy(step, state, start, END, 4),
        lambda state, start: decoding.beam_search(step, state, start, END, 3, 4),
    ):
        together = search(tf.zeros((3, 1)), rows)
        assert len({tuple(row) for row in np.asarray(together.tokens).reshape(3, -1)}) > 1
        for i, start in enumerate(rows.numpy()):
            for found, expected in zip(search(tf.zeros((1, 1)), int(start)), together, strict=True):
                np.testing.assert_allclose(found[0], expected[i], rtol=1e-6)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_scores_are_sums_of_log_probabilities_over_the_penalty(table, alpha):
    found = decoding.beam_search(step_of(table), {"context": tf.range(CONTEXTS)}, 0, END, 4, 7, alpha)
    assert not np.any(np.asarray(found.tokens) == VOCABULARY)
    for context, rows in enumerate(zip(*(np.asarray(x) for x in found), strict=True)):
        for tokens, length, total, score in zip(*rows, strict=True):
            place, by_hand = context, 0.0
            for token in tokens[:length]:
                by_hand += table[place, token]
                place = following(place, token)
            assert total == pytest.approx(by_hand, abs=1e-5)
            assert score == pytest.approx(total / ((5 + length) / 6) ** alpha, rel=1e-6)
            assert not tokens[length:].any()
            assert tokens[:length].all()  # never padding, though it is the most likely


def test_a_larger_penalty_gives_longer_sequences(table):
    state = {"context": tf.range(CONTEXTS)}
    lengths = [
        np.asarray(decoding.beam_search(step_of(table), state, 0, END, 8, 7, alpha).lengths[:, 0]).mean()
        for alpha in (0.0, 1.0, 4.0)
    ]
    assert lengths[0] < lengths[1] < lengths[2]


def test_a_row_does_not_depend_on_its_neighbours(table):
    """Some sequences are complete long before others: they must not change any more."""

    def search(contexts):
        return decoding.beam_search(step_of(table), {"context": tf.constant(contexts)}, 0, END, 3, 7, 0.6)

    together = search(list(range(20)))
    for context in range(20):
        for found, expected in zip(search([context]), together, strict=True):
            np.testing.assert_array_equal(found[0], expected[context])


def test_the_loop_ends_with_the_last_sequence(table):
    calls = []

    def ending(tokens, position, state):
        calls.append(int(position[0]))
        log_p = np.log([[1e-3, 0.4, 0.299, 0.2, 0.1]] if position[0] < 2 else [[1e-3, 0.96, 0.02, 0.01, 0.009]])
        return tf.repeat(tf.constant(log_p, "float32"), len(tokens), axis=0), state

    decoding.greedy(ending, tf.zeros((2, 1)), 0, END, 50)
    assert calls == [0]
    calls.clear()
    decoding.beam_search(ending, tf.zeros((2, 1)), 0, END, 3, 50)
    assert calls[-1] < 5


def test_searches_compile_and_equal_eager(table):
    state = {"context": tf.range(CONTEXTS)}
    for search in (
        lambda state: decoding.greedy(step_of(table), state, 0, END, 7),
        lambda state: decoding.beam_search(step_of(table), state, 0, END, 3, 7, 0.6),
    ):
        compiled = tf.function(search, jit_compile=True)
        for found, expected in zip(compiled(state), search(state), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-6)
        compiled(state)
        assert compiled.experimental_get_tracing_count() == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (dict(beam_size=0), "beam_size=0"),
        (dict(max_length=0), "max_length=0"),
        (dict(length_penalty=-1.0), "length_penalty=-1.0"),
        (dict(length_penalty=math.nan), "length_penalty=nan"),
        (dict(state={}), "state must hold"),
        (dict(step=lambda tokens, position, state: (tf.zeros((1, 1)), state)), "of 1 token"),
    ],
)
def test_bad_arguments_are_refused(table, overrides, message):
    arguments = dict(
        step=step_of(table), state={"context": tf.constant([0])}, start=0, end=END, beam_size=1, max_length=3
    )
    with pytest.raises(ValueError, match=message):
        decoding.beam_search(**arguments | overrides)


class Speller(keras_dl.Model):
    """A tiny decoder with a memory that never changes, a state that does, and a whole search in a signature."""

    def __init__(self, takes_position=True, **kwargs):
        super().__init__(**kwargs)
        self.takes_position = takes_position
        self.embedding = keras.layers.Embedding(VOCABULARY, 6, "normal")
        self.mix, self.readout = keras.layers.Dense(6, "tanh"), keras.layers.Dense(VOCABULARY)
        self.call(keras.ops.ones((1, 3), "int32"))
        self.built = True

    def call(self, tokens):
        state = self.encode(tokens)
        return self.decode_step(ops.ones_like(tokens[:, 0]), ops.zeros_like(tokens[:, 0]), **state)

    def encode(self, tokens):
        memory = ops.mean(3.0 * self.embedding(tokens), axis=1)
        return {"memory": memory, "hidden": ops.zeros_like(memory), "unused": memory}

    def decode_step(self, tokens, position, memory, hidden, unused=None):
        x = [5.0 * self.embedding(tokens), memory, hidden, 0.1 * ops.cast(ops.expand_dims(position, -1), "float32")]
        hidden = self.mix(ops.concatenate(x, axis=-1))
        return {"log_probabilities": ops.log_softmax(6.0 * self.readout(hidden)), "hidden": hidden}

    def step(self, tokens, position, state):
        outputs = self.decode_step(tokens, position, **state)
        return outputs["log_probabilities"], {**state, "hidden": outputs["hidden"]}

    def translate(self, tokens):
        state = self.encode(tokens)
        del state["unused"]
        found = decoding.greedy(self.step, state, 3, END, 9)
        return {"tokens": found.tokens, "lengths": found.lengths}

    def serving_signatures(self, batch_size=1):
        tokens = keras.KerasTensor((batch_size, 3), "int32", name="tokens")
        one = keras.KerasTensor((batch_size,), "int32")
        states = {name: keras.KerasTensor((batch_size, 6)) for name in ("memory", "hidden")}
        inputs = {"tokens": one, "position": one, **states}

        def without_position(tokens, memory, hidden):
            return self.decode_step(tokens, ops.zeros_like(tokens), memory, hidden)

        if not self.takes_position:
            inputs.pop("position")
        return {
            "encode": keras_dl.Signature(self.encode, {"tokens": tokens}),
            "decode_step": keras_dl.Signature(self.decode_step if self.takes_position else without_position, inputs),
            "translate": keras_dl.Signature(self.translate, {"tokens": tokens}),
        }


@pytest.fixture(scope="module")
def speller():
    keras.utils.set_random_seed(9)
    return Speller()


SOURCES = np.random.default_rng(2).integers(0, VOCABULARY, (12, 3)).astype("int32")


@pytest.fixture(scope="module")
def file(speller, tmp_path_factory):
    path = tmp_path_factory.mktemp("speller") / "speller.tflite"
    states = dict.fromkeys(("memory", "hidden"), np.ones((1, 6), "float32"))
    calibration = {name: [{"tokens": row[None]} for row in SOURCES] for name in ("encode", "translate")} | {
        "decode_step": [{"tokens": [i % 5], "position": [i], **states} for i in range(5)]
    }
    report = export(speller, path, calibration=calibration)
    assert (report.flex_ops, report.custom_ops) == (0, 0)
    assert report.ops["WHILE"] == 1
    return path


def test_a_whole_greedy_search_is_one_signature_of_a_file(speller, file):
    served = load(file).serve("translate", tokens=SOURCES)
    found = decoding.greedy(speller.step, _states(speller), 3, END, 9)
    np.testing.assert_array_equal(served["tokens"], found.tokens)
    np.testing.assert_array_equal(served["lengths"], found.lengths)
    assert len(set(served["lengths"])) > 1


def _states(speller):
    state = speller.encode(SOURCES)
    return {name: state[name] for name in ("memory", "hidden")}


@pytest.mark.parametrize("kind", ["keras", "litert"])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_beam_search_beside_the_interpreter_is_that_of_the_model(kind, alpha, speller, file):
    runner = KerasRunner(speller, batch_size=4) if kind == "keras" else load(file)
    found = beam_search(runner, SOURCES, 7, 9, start=3, end=END, length_penalty=alpha)
    expected = decoding.beam_search(speller.step, _states(speller), 3, END, 7, 9, alpha)
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_array_equal(found.lengths, expected.lengths)
    np.testing.assert_allclose(found.log_probabilities, expected.log_probabilities, rtol=1e-5)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)
    assert found.tokens.dtype == found.lengths.dtype == "int32"
    assert found.scores.dtype == found.log_probabilities.dtype == "float32"


def test_a_signature_may_need_no_position():
    keras.utils.set_random_seed(9)
    found = beam_search(KerasRunner(Speller(takes_position=False), 4), SOURCES, 2, 9, start=3, end=END)
    assert np.isfinite(found.scores).all()


def test_an_integer_file_of_a_loop_is_refused(speller, tmp_path):
    with pytest.raises(ExportError, match="cannot calibrate the loop"):
        export(
            speller,
            tmp_path / "model.tflite",
            quantization="int8",
            signatures="translate",
            calibration=[{"tokens": row[None]} for row in SOURCES],
        )


def test_a_metric_that_takes_more_than_the_file_has_is_left_out(speller, tmp_path):
    options = dict(calibration=[{"tokens": SOURCES[:1]}], metric=("sum", lambda serve: serve("translate")))
    report = export(speller, tmp_path / "model.tflite", signatures="encode", **options)
    assert report.metric is None
    assert any("'sum' is not measured" in warning and "'translate'" in warning for warning in report.warnings)


def test_what_does_not_fit_is_refused(speller):
    runner = KerasRunner(speller)
    for overrides, message in (
        (dict(beam_size=0), "beam_size=0"),
        (dict(max_length=1.5), "max_length=1.5"),
        (dict(length_penalty=-1), "length_penalty=-1"),
        (dict(encode="begin"), "no signature 'begin'"),
        (dict(decode_step="encode"), "'encode' has no output 'log_probabilities'"),
        (dict(tokens=SOURCES[0]), r"shape \(3,\)"),
        (dict(tokens=np.zeros((2, 0))), r"shape \(2, 0\)"),
        (dict(tokens=SOURCES + 0.5), "dtype float64"),
        (dict(start=VOCABULARY), f"start={VOCABULARY}"),
        (dict(end=0), "end=0"),
        (dict(encode="translate"), "takes hidden, memory, which 'translate' does not return"),
    ):
        with pytest.raises(ValueError, match=message):
            beam_search(**dict(runner=runner, tokens=SOURCES, beam_size=2, max_length=3) | overrides)
