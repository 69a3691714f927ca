"""The data sets that are made by a formula: copy memory, and sequences to be reversed."""

import hashlib

import numpy as np
import pytest
import tensorflow_datasets as tfds

from keras_dl.recipes import datasets


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")

    def read(name):
        builder = tfds.builder(name, data_dir=folder)
        builder.download_and_prepare()
        splits = {split: builder.as_dataset(split=split, batch_size=-1) for split in ("train", "test")}
        return builder, {split: {name: x.numpy() for name, x in rows.items()} for split, rows in splits.items()}

    return read


def fingerprint(array):
    """Of the rows in an order that does not depend on TFDS's."""
    return hashlib.sha256(b"".join(sorted(row.tobytes() for row in array))).hexdigest()[:16]


@pytest.mark.parametrize("name", ["copy_memory", "sequence_reversal"])
def test_information_is_complete_and_splits_share_nothing(name, prepared):
    builder, rows = prepared(name)
    entry = next(entry for entry in datasets.catalogue() if entry.name == name)
    assert (entry.source, entry.size) == ("formula", 0)
    assert entry.licence in builder.info.description
    assert "Generated" in builder.info.description
    assert builder.info.citation.startswith("@")
    assert {split: len(next(iter(x.values()))) for split, x in rows.items()} == entry.examples
    key = builder.info.supervised_keys[0]
    seen = [{row.tobytes() for row in x[key]} for x in rows.values()]
    assert not seen[0] & seen[1]


def test_copy_memory_is_the_formula(prepared):
    _, rows = prepared("copy_memory")
    for split in rows.values():
        inputs, targets = split["inputs"], split["targets"]
        assert inputs.shape[1] == targets.shape[1] == 520
        np.testing.assert_array_equal(inputs[:, :10], targets[:, -10:])
        np.testing.assert_array_equal(np.unique(inputs[:, :10]), np.arange(1, 9))
        assert not inputs[:, 10:509].any()
        assert (inputs[:, 509:] == 9).all()
        assert not targets[:, :510].any()


def test_reversal_is_the_formula(prepared):
    _, rows = prepared("sequence_reversal")
    for split in rows.values():
        np.testing.assert_array_equal(split["source"][:, ::-1], split["target"])
        np.testing.assert_array_equal(np.unique(split["source"]), np.arange(10))


@pytest.mark.parametrize(
    ("name", "key", "expected"),
    [("copy_memory", "inputs", "182b86d730b70275"), ("sequence_reversal", "source", "9bbe7f14c0e6f117")],
)
def test_the_numbers_never_change(name, key, expected, prepared):
    assert fingerprint(prepared(name)[1]["test"][key]) == expected
