"""Own texts: lines for a language model, pairs for a translator, their pipelines, and what is refused."""

import numpy as np
import pytest

from keras_dl.files import FileError
from keras_dl.recipes import attention, seq2seq, transformer
from keras_dl.recipes.data import open_data, understand
from keras_dl.recipes.prediction import predict
from keras_dl.recipes.tasks import characters
from keras_dl.recipes.training import commands, recipe
from keras_dl.recipes.training.recipe import OptionError
from keras_dl.text import Symbols

NUMBERS = ("one", "two", "three", "four", "five", "six")
WORDS = dict(zip(NUMBERS, ("eins", "zwei", "drei", "vier", "fünf", "sechs"), strict=True))


def write_pairs(file, count=60):
    random = np.random.default_rng(0)
    lines = []
    for _ in range(count):
        words = random.choice(NUMBERS, random.integers(1, 5))
        lines.append(f"{' '.join(words)}\t{' '.join(WORDS[word] for word in words)}")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def options(name, form, file, **others):
    return recipe.find(name).options(form, data=str(file), batch_size=4, **others)


def test_lines_of_a_text(tmp_path):
    file = tmp_path / "verses.txt"
    long = " ".join(["word"] * 100)
    file.write_text("\n\n".join([*("word " + "ä" * i for i in range(1, 19)), long]) + "\n", encoding="utf-8")
    data = open_data(file)
    assert (data.form, data.counts) == ("text", {"train": 16, "test": 4})
    texts = sorted(text for columns in data.splits.values() for text in columns["text"])
    assert [len(text) for text in texts if text.startswith("word word")] == [244, 254]
    assert understand(file)["recipes"] == ["lstm"]
    found = characters.load_data(options("lstm", "text", file), "lstm")
    assert (found.num_train, found.num_test, found.input_shape) == (16, 4, (256,))
    symbols = Symbols.from_json(found.vocabularies["characters"])
    assert set(symbols.decode(found.arrays["test"])) == set(data.splits["test"]["text"])
    inputs, targets = next(found.train(0).as_numpy_iterator())
    np.testing.assert_array_equal(inputs[:, 1:], targets[:, :-1])


def test_pairs_of_texts(tmp_path):
    file = write_pairs(tmp_path / "numbers.tsv")
    with pytest.raises(OptionError, match="If it holds pairs of texts, check it with --form pairs"):
        open_data(file)
    data = open_data(file, "pairs")
    assert (data.form, data.counts) == ("pairs", {"train": 48, "test": 12})
    for source, target in zip(data.splits["test"]["source"], data.splits["test"]["target"], strict=True):
        assert " ".join(WORDS[word] for word in source.split()) == target
    found = transformer.load_data(options("transformer", "pairs", file), "model")
    assert (found.num_train, found.num_test, found.input_shape) == (48, 12, (64,))
    words = transformer.vocabulary(found)
    inputs, labels = next(found.test.as_numpy_iterator())
    assert set(words.decode(inputs["source"])) == set(data.splits["test"]["source"])
    assert set(words.decode(labels)) == set(data.splits["test"]["target"])


def test_pairs_that_are_too_long_are_left_out_and_counted(tmp_path, capfd):
    file = write_pairs(tmp_path / "numbers.tsv", 20)
    file.write_text(file.read_text() + "one " * 99 + "\tviele\n")
    data = transformer.load_data(options("transformer", "pairs", file), "model")
    assert data.num_train + data.num_test == 20
    assert "1 pairs have a text of more than 64 tokens, and are left out" in capfd.readouterr().err


def test_pairs_for_a_recurrent_translator(tmp_path, capfd):
    """The tokens of a side are its words where most texts have several, else its letters."""
    file = write_pairs(tmp_path / "numbers.tsv", 20)
    file.write_text(file.read_text() + "one " * 40 + "\tviele\n")
    found = seq2seq.load_data(options("seq2seq", "pairs", file), "attention")
    assert "1 test pairs have a text of more than 40 tokens" in capfd.readouterr().err
    source, target = (Symbols.from_json(found.vocabularies[side]) for side in ("source", "target"))
    assert (set(source.symbols), set(target.symbols)) == (set(NUMBERS), set(WORDS.values()))
    assert (found.num_train, found.input_shape) == (17, (40,))
    for text, answers in zip(source.decode(found.arrays["tested"]), found.arrays["answers"], strict=True):
        assert target.decode(answers) == [" ".join(WORDS[word] for word in text.split())] * len(answers)
    batch = next(found.train(0).as_numpy_iterator())
    for text, translation in zip(source.decode(batch["source"]), target.decode(batch["target"]), strict=True):
        assert translation == " ".join(WORDS[word] for word in text.split())
    file.write_text("".join(f"{a}\t{' '.join(b)}\n" for a, b in WORDS.items()))
    found = seq2seq.load_data(options("seq2seq", "pairs", file), "attention")
    letters, sounds = (Symbols.from_json(found.vocabularies[side]) for side in ("source", "target"))
    assert (letters.separator, sounds.separator) == ("", " ")


def test_own_pairs_that_are_all_too_long_are_refused(tmp_path):
    file = tmp_path / "long.tsv"
    file.write_text("\n".join(["one " * 50 + "\teins"] * 5))
    with pytest.raises(recipe.OptionError, match="no train pair has texts of at most 40 tokens"):
        seq2seq.load_data(options("seq2seq", "pairs", file), "attention")


def test_pairs_for_attention_are_those_of_seq2seq(tmp_path):
    file = write_pairs(tmp_path / "numbers.tsv", 20)
    found = attention.load_data(options("attention", "pairs", file), "attention")
    other = seq2seq.load_data(options("seq2seq", "pairs", file), "attention")
    assert (found.vocabularies, found.num_train, found.form) == (other.vocabularies, 16, "pairs")
    for batches in zip(*(data.train(1).as_numpy_iterator() for data in (found, other)), strict=True):
        np.testing.assert_array_equal(batches[0]["source"], batches[1]["source"])
    answers = found.arrays["answers"]

    def serve(name, tokens):  # the right translation of all but the first text
        rows = [(*answer[0], 2, 0)[:40] for answer in answers]
        rows[0] = (2, 0)
        return {"tokens": np.stack([np.pad(np.array(row), (0, 40 - len(row))) for row in rows])}

    lengths = [len(answer[0]) for answer in answers]
    assert attention.evaluate(serve, found) == pytest.approx(lengths[0] / sum(lengths))
    for variant, has_attention in (("attention", True), ("fixed", False)):
        model = attention.build_model(found, options("attention", "pairs", file), variant)
        assert bool(model.attention) == has_attention
        assert model.target_vocabulary_size == len(Symbols.from_json(found.vocabularies["target"]))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", b"one\teins\ntwo zwei\n", "has 0 tabs in line 2; it must be a text, a tab, a text"),
        ("a.tsv", b"one\teins\tuno\n", "has 2 tabs in line 1"),
        ("a.tsv", b"one\teins\n\n\tzwei\n", "has no text before the tab in line 3"),
        ("a.tsv", b"one\teins\n", "has one example, and no test split"),
        ("a.txt", b"one\ntw\xff\n", "is not in UTF-8: line 2 has other bytes"),
        ("a.txt", b"\n \n", "has no text"),
    ],
)
def test_wrong_texts_are_named_with_their_line(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FileError, match=message):
        open_data(tmp_path / name, "pairs" if name.endswith("tsv") else None)


@pytest.mark.slow  # two networks are traced, and a translator searches
def test_from_texts_to_an_answer(tmp_path):
    file, run = write_pairs(tmp_path / "numbers.tsv", 200), tmp_path / "pairs"
    report = commands.train("transformer", data=file, output=run, jit="off", smoke=True, baseline=True)
    assert (report["form"], report["dataset"]) == ("pairs", "numbers")
    exported = commands.export(run, signatures=["translate"], verify=False)["path"]
    (answer,) = predict(exported, ["one two"])
    assert isinstance(answer["text"], str)
    report = commands.train("seq2seq", data=file, output=tmp_path / "rnn", jit="off", smoke=True, baseline=True)
    assert report["metric"] == "token error rate"
    (answer,) = predict(commands.export(tmp_path / "rnn", verify=False)["path"], ["one two"])
    assert set(answer["text"].split()) <= set(WORDS.values())
    report = commands.train("attention", data=file, output=tmp_path / "align", jit="off", smoke=True, baseline=True)
    assert (report["metric"], report["baseline"]) == ("token error rate", "encoder-decoder without attention")
    exported = commands.export(tmp_path / "align", verify=False)["path"]
    assert commands.evaluate(exported)["value"] == pytest.approx(report["value"], abs=1e-3)
    (answer,) = predict(exported, ["one two"])
    assert set(answer["text"].split()) <= set(WORDS.values())
    with pytest.raises(OptionError, match=r"--output a\.png: answers about texts are not drawn"):
        predict(exported, ["one two"], output="a.png")
    (tmp_path / "lines.txt").write_text("\n".join(f"line {i} of a text" for i in range(80)))
    report = commands.train("lstm", data=tmp_path / "lines.txt", output=tmp_path / "text", jit="off", smoke=True)
    assert report["metric"] == "bits per character"
