"""Sequences as data sets: the adding problem by its formula, and series of the UCR and UEA archives."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from keras_dl.recipes import datasets
from keras_dl.recipes.datasets import adding_problem, series

NAMES = ("japanese_vowels", "basic_motions", "gun_point", "italy_power_demand")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("tfds")


@pytest.mark.parametrize("name", NAMES)
def test_series_have_their_split_and_shapes(name, data_dir):
    builder = datasets.prepare(name, data_dir=data_dir, quiet=True)
    seen = set()
    for split, count in builder.EXAMPLES.items():
        examples = list(builder.as_dataset(split=split).as_numpy_iterator())
        assert len(examples) == count
        content = {example["sequence"].tobytes() for example in examples}
        assert not content & seen
        seen |= content
        assert {example["sequence"].shape[1] for example in examples} == {builder.CHANNELS}
        assert {int(example["label"]) for example in examples} == set(range(len(builder.CLASSES)))
    longest = max(len(e["sequence"]) for s in builder.EXAMPLES for e in builder.as_dataset(split=s).as_numpy_iterator())
    assert longest == builder.STEPS
    assert builder.LICENCE in builder.info.description


def test_missing_values_are_an_error():
    with pytest.raises(ValueError, match="class 2 has missing values"):
        series.read_ts("@data\n1,2:1\n1,NaN:2\n")


def test_adding_problem_follows_its_formula(data_dir):
    builder = tfds.builder("adding_problem/100", data_dir=data_dir)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(max_examples_per_split=300))
    examples = list(builder.as_dataset(split="train").as_numpy_iterator())
    sequences, targets = (np.stack([e[key] for e in examples]) for key in ("sequence", "target"))
    numbers, marks = sequences[..., 0], sequences[..., 1]
    np.testing.assert_array_equal([marks[:, :50].sum(1), marks[:, 50:].sum(1)], 1)
    np.testing.assert_allclose((numbers * marks).sum(1), targets, rtol=1e-6)
    assert 0 <= numbers.min() < numbers.max() < 1
    assert [config.length for config in adding_problem.AddingProblem.BUILDER_CONFIGS] == [100, 200, 400, 600]
    assert next(e for e in datasets.catalogue() if e.name == "adding_problem").source == "formula"


def test_adding_problem_has_the_variance_it_says():
    _, targets = adding_problem.draw(np.random.RandomState(0), 20_000, 10)
    assert np.var(targets) == pytest.approx(1 / 6, rel=0.03)
