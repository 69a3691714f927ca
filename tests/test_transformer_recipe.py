"""The Bible in two versions, and the recipe that brings one into the other: splits, measure, the paper's data."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_dl.export import KerasRunner
from keras_dl.export.errors import SignatureError
from keras_dl.recipes import datasets, transformer
from keras_dl.recipes.datasets.bible import read_verses, split_of
from keras_dl.recipes.tasks import translation
from keras_dl.recipes.training import recipe, runner


@pytest.fixture(scope="module")
def verses(tmp_path_factory):
    builder = tfds.builder("bible", data_dir=tmp_path_factory.mktemp("tfds"))
    builder.download_and_prepare()
    return {split: list(builder.as_dataset(split=split).as_numpy_iterator()) for split in builder.EXAMPLES}


@pytest.mark.slow  # reads all verses
def test_no_verse_is_in_two_splits_and_none_is_lost(verses):
    assert {split: len(rows) for split, rows in verses.items()} == datasets.Bible.EXAMPLES
    numbers = [int(row["verse"]) for rows in verses.values() for row in rows]
    assert len(numbers) == len(set(numbers)) == 31_099
    texts = [{row["kjv"] for row in rows} for rows in verses.values()]
    assert sum(map(len, texts)) == len(set().union(*texts)) == 30_831  # some verses are repeated, in one split each
    by_number = {int(row["verse"]): row for rows in verses.values() for row in rows}
    assert by_number[43_011_035]["kjv"] == by_number[43_011_035]["modern"] == b"Jesus wept."
    assert by_number[19_023_001]["kjv"] == b"The LORD is my shepherd; I shall not want."
    assert by_number[19_023_001]["modern"] == b"Yahweh is my shepherd: I shall lack nothing."
    assert not any(
        sign in row[side] for row in by_number.values() for side in ("kjv", "modern") for sign in (b"[", b"`")
    )
    assert all(split_of(row["kjv"].decode()) == split for split, rows in verses.items() for row in rows)


def test_information_of_the_bible():
    (entry,) = (entry for entry in datasets.catalogue() if entry.name == "bible")
    info = tfds.builder("bible").info
    assert entry.licence in info.description
    assert "public domain" in entry.licence
    assert info.citation.startswith("@")


@pytest.mark.parametrize("source", ["x =", "bible = 3", "bible = Bible(V, 'text', {1: 0}, {2: 4})", "import os"])
def test_a_module_that_is_no_version_is_an_error(source):
    with pytest.raises(datasets.DataError, match="not a module of pythonbible"):
        read_verses(source)


@pytest.mark.slow
def test_smoke_run_keeps_its_words(tmp_path):
    found = recipe.find("transformer")
    document = runner.train(found, found.options(smoke=True, jit="off", baseline=True), tmp_path / "run")
    assert document["baseline_value"] > 40
    kept = json.loads((tmp_path / "run/vocabularies.json").read_text())
    assert kept["subwords"]["library"] == "sentencepiece"
    assert min(tf.io.decode_png((tmp_path / "run/picture.png").read_bytes()).shape[:2]) >= 600


def test_measure_is_that_of_the_texts():
    found = recipe.find("transformer")
    data = found.load_data(found.options(smoke=True), "model")
    words = transformer.vocabulary(data)
    sources, targets = ([pair[i] for pair in data.arrays["texts"]] for i in range(2))
    pairs = list(zip(words.decode(data.arrays["source"]), sources, strict=False))
    known = [found == text for found, text in pairs if "\N{DOUBLE QUESTION MARK}" not in found]
    assert all(known)
    assert len(known) > 0.9 * len(pairs)  # the words of a smoke run are learned from a few texts

    def writes(texts):
        return lambda name, tokens: {"tokens": words.encode(texts, 40)}

    assert found.evaluate(writes(targets), data) == pytest.approx(100, abs=1)
    copied = found.evaluate(writes(sources), data)
    assert 40 < copied < 60
    assert copied == pytest.approx(transformer.bleu(sources, targets), abs=1)
    batches = list(data.train(tf.constant(0)))
    for inputs, labels in batches:
        assert inputs["source"].shape == labels.shape
        np.testing.assert_array_equal(inputs["target"][:, 1:], labels[:, :-1])
        assert set(np.unique(inputs["target"][:, 0])) == {1}
        assert ((np.asarray(labels) == 2).sum(1) == 1).all()  # every text has its end


@pytest.mark.slow  # trains subword tokenizers; the default data goes the same way
def test_the_papers_data_goes_through_the_same_pipeline(tmp_path, monkeypatch):
    small = dict(transformer.SETUPS["wmt14_translate/de-en"], length=30, model=dict(transformer.SMALL, num_layers=1))
    monkeypatch.setitem(transformer.SETUPS, "wmt14_translate/de-en", small)
    found = recipe.find("transformer")
    with tfds.testing.mock_data(num_examples=8):
        options = found.options("wmt14_translate/de-en", batch_size=2, data_dir=str(tmp_path))
        data = found.load_data(options, "model")
    assert (data.num_train, data.num_test) == (8, 8)
    inputs, labels = next(iter(data.train(tf.constant(0))))
    assert inputs["source"].shape[0] == 2
    model = found.build_model(data, options, "model")
    assert np.isfinite(model.train_on_batch(inputs, labels)).all()
    serve = KerasRunner(model, 8).serve
    assert found.evaluate(serve, data) >= 0
    steps = found.calibrate(serve, data, 8)["decode_step"]
    assert [int(step["position"][0]) for step in steps] == list(range(8))
    for position, step in enumerate(steps):  # the keys of all tokens before, and no others
        np.testing.assert_array_equal(np.any(step["keys"] != 0, axis=(0, 1, 3)), np.arange(30) < position)

    def without_loop(name, **arrays):
        if name == "translate":
            raise SignatureError("There is no signature 'translate'.")
        return serve(name, **arrays)

    tokens = data.arrays["source"]
    stepped = translation.translated(without_loop, tokens, 4, takes_position=True)
    np.testing.assert_array_equal(stepped, translation.translated(serve, tokens, 4)[:4])
