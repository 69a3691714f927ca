"""Words and their phonemes, vocabularies of symbols, batches of like lengths, edits and the baseline of letters."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_dl.recipes import datasets
from keras_dl.recipes.datasets.cmudict import read_pronunciations
from keras_dl.recipes.tasks import translation
from keras_dl.recipes.training import recipe
from keras_dl.text import END, PADDING, REPLACEMENT, UNKNOWN, Symbols


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    builder = tfds.builder("cmudict", data_dir=tmp_path_factory.mktemp("tfds"))
    builder.download_and_prepare()
    return {
        split: {row["word"].decode(): [text.decode() for text in row["pronunciations"]] for row in rows}
        for split, rows in ((s, builder.as_dataset(split=s).as_numpy_iterator()) for s in builder.EXAMPLES)
    }


@pytest.mark.slow  # reads all words: 27 CPU seconds
def test_no_word_is_in_two_splits_and_none_is_lost(words):
    assert {split: len(found) for split, found in words.items()} == datasets.Cmudict.EXAMPLES
    every = set().union(*words.values())
    assert len(every) == sum(datasets.Cmudict.EXAMPLES.values()) == 126_052
    assert sum(len(texts) for found in words.values() for texts in found.values()) == 135_166  # lines of the source
    together = {word: texts for found in words.values() for word, texts in found.items()}
    assert together["read"] == ["R EH1 D", "R IY1 D"]
    assert together["d'artagnan"] == ["D AH0 R T AE1 NG Y AH0 N"]  # its line ends with a comment
    assert not any("(" in word for word in every)
    assert len({p for texts in together.values() for text in texts for p in text.split()}) == 69


def test_a_line_that_is_no_pronunciation_is_an_error():
    with pytest.raises(datasets.DataError, match=r"Line 2 of cmudict/data/cmudict\.dict is not a word"):
        read_pronunciations("a AH0\nb b\n")


def test_information_of_the_dictionary():
    (entry,) = (entry for entry in datasets.catalogue() if entry.name == "cmudict")
    info = tfds.builder("cmudict").info
    assert "GPL-3.0" in entry.licence
    assert entry.licence in info.description
    assert info.citation.startswith("@")


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text("abc'", max_size=9), min_size=1, max_size=5))
def test_letters_come_back(texts):
    vocabulary = Symbols.from_json(json.loads(json.dumps(Symbols("'abc").to_json())))
    tokens = vocabulary.encode(texts)
    assert tokens.dtype == "int32"
    assert tokens.shape == (len(texts), 1 + max(map(len, texts)))
    assert vocabulary.decode(tokens) == texts
    assert vocabulary.decode(vocabulary.encode(texts, 4)) == [text[:4] for text in texts]


def test_symbols_with_a_separator():
    vocabulary = Symbols.of(["K AA R", "AA K", "K"], " ")
    assert vocabulary.symbols == ("AA", "K", "R")
    assert len(vocabulary) == 7
    assert vocabulary.encode(["K AA", "ZH", ""]).tolist() == [[5, 4, END], [UNKNOWN, END, PADDING], [END, 0, 0]]
    assert vocabulary.decode([[5, 4, 6, END, 5], [1, UNKNOWN, 99, 0, 0]]) == ["K AA R", f"{REPLACEMENT} {REPLACEMENT}"]
    assert Symbols.of(["K AA R", "AA K", "K"], " ", size=2).symbols == ("AA", "K")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Symbols("aba"), "'a' more than once"),
        (lambda: Symbols(["AA"]), "'AA'; with separator='' each must be one character"),
        (lambda: Symbols(["A A"], " "), "text without ' '"),
        (lambda: Symbols([""], " "), "text without ' '"),
        (lambda: Symbols.from_json({"kind": "subwords"}), "not a vocabulary of symbols"),
    ],
)
def test_bad_vocabularies_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_batches_are_of_like_lengths_and_an_epoch_has_every_pair_once():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 21, (2, 2000, 1))
    number = np.arange(1, 2001)[:, None]
    sources, targets = (np.where(np.arange(20) < length, number, 0).astype("int32") for length in lengths)

    def epoch(key):
        return list(translation.batches_of_like_lengths(sources, targets, 32, key).as_numpy_iterator())

    batches = epoch((1, 2))
    assert len(batches) == 2000 // 32
    seen = [n for batch in batches for n in batch["source"][:, 0]]
    assert len(set(seen)) == len(seen) == 62 * 32
    places = 0
    for batch in batches:
        length = batch["source"].shape[1]
        assert batch["target"].shape == batch["source"].shape
        assert length % 4 == 0
        rows = batch["source"][:, 0] - 1
        for key, whole in (("source", sources), ("target", targets)):
            np.testing.assert_array_equal(batch[key], whole[rows, :length])
            assert not whole[rows, length:].any()
        places += length
    assert places < 0.85 * 20 * len(batches)
    assert len({batch["source"].shape[1] for batch in batches[:10]}) > 1  # not the short ones first
    again, other = epoch((1, 2)), epoch((1, 3))
    np.testing.assert_array_equal(batches[0]["source"], again[0]["source"])
    assert batches[0]["source"].shape != other[0]["source"].shape or (batches[0]["source"] != other[0]["source"]).any()


@settings(deadline=None, max_examples=60)
@given(*(st.text("ab", max_size=6) for _ in range(3)))
def test_edit_distance_is_a_metric(a, b, c):
    distance = translation.edit_distance
    assert distance(a, a) == 0
    assert (distance(a, b) == 0) == (a == b)
    assert distance(a, b) == distance(b, a)
    assert distance(a, c) <= distance(a, b) + distance(b, c)
    assert abs(len(a) - len(b)) <= distance(a, b) <= max(len(a), len(b))


def test_letters_are_aligned():
    """'x' stands for two phonemes, a silent 'e' for none."""
    pairs = [("ax", "AKS"), ("tax", "TAKS"), ("at", "AT"), ("ate", "AT"), ("te", "T"), ("xe", "KS")]
    assert translation.letter_baseline(pairs) == {"a": ("A",), "e": (), "t": ("T",), "x": ("K", "S")}


def test_the_papers_data_goes_through_the_same_pipeline(tmp_path):
    from keras_dl.export import KerasRunner

    found = recipe.find("seq2seq")
    with tfds.testing.mock_data(num_examples=8):
        options = found.options("wmt14_translate/fr-en", batch_size=2, data_dir=str(tmp_path))
        data = found.load_data(options, "attention")
        (batch, again, later) = (next(iter(data.train(tf.constant(epoch)))) for epoch in (0, 0, 1))
        test = next(iter(data.test))
    assert batch["source"].shape == batch["target"].shape == (2, 50)
    assert test["source"].shape == (8, 50)
    assert (data.num_train, data.num_test, len(data.arrays["answers"])) == (8, 8, 8)
    np.testing.assert_array_equal(batch["source"], again["source"])
    assert not np.array_equal(batch["source"], later["source"])
    english = Symbols.from_json(data.vocabularies["source"])
    assert all(english.decode(batch["source"]))
    assert json.dumps(data.vocabularies)
    model = found.build_model(data, options, "fixed")
    model.compile("adam", model.loss, jit_compile=False)
    assert np.isfinite(model.train_on_batch(batch)).all()
    assert found.evaluate(KerasRunner(model, 8, ["translate"]).serve, data) > 0


@pytest.mark.slow
def test_smoke_run_and_files_of_it(tmp_path):
    """Trains, exports a file of integers without the loop, and measures it by its steps."""
    from keras_dl.export import inspect
    from keras_dl.recipes.training import commands, runner

    found = recipe.find("seq2seq")
    run = tmp_path / "run"
    document = runner.train(found, found.options(smoke=True, variants=("attention", "fixed"), baseline=True), run)
    assert set(document["variants"]) == {"attention", "fixed"}
    assert 0.3 < document["baseline_value"] < 0.6
    assert json.loads((run / "vocabularies.json").read_text())["source"]["symbols"]
    chosen = dict(quantization="int8", signatures=["encode", "decode_step"], calibration_samples=40)
    report = commands.export(run, **chosen)
    assert set(report["signatures"]) == {"encode", "decode_step"}
    assert report["proof"]["inputs"] == {"encode": "held_out", "decode_step": "held_out"}
    assert report["metric"]["artifact"] == pytest.approx(report["metric"]["keras"], abs=0.1)
    assert inspect(report["path"])["metadata"]["vocabularies"]["target"]["separator"] == " "
