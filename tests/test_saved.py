"""`.keras` files of earlier versions load and predict the same: see tests/saved/make.py."""

import pathlib

import keras
import numpy as np
import pytest

import keras_dl  # noqa: F401 - registers the classes

FOLDER = pathlib.Path(__file__).parent / "saved"
FILES = sorted(FOLDER.glob("*.keras"))
# Inputs that have another name now, by the class of the model.
RENAMED = {"Seq2Seq": {"sources": "source", "targets": "target"}}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_saved_model_predicts_the_same(path):
    model = keras.models.load_model(path)
    with np.load(path.with_suffix(".npz")) as arrays:
        inputs = {name.removeprefix("input_"): x for name, x in arrays.items() if name.startswith("input_")}
        expected = [x for name, x in arrays.items() if name.startswith("output_")]
    if list(inputs) == ["0"]:
        (inputs,) = inputs.values()
    else:
        renamed = RENAMED.get(type(model).__name__, {})
        inputs = {renamed.get(name, name): x for name, x in inputs.items()}
    outputs = keras.tree.flatten(model(inputs, training=False))
    assert len(outputs) == len(expected) > 0
    for output, wanted in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(
            keras.ops.cast(output, "float32"), wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max()
        )


def test_each_public_model_has_a_file():
    saved = {type(keras.models.load_model(path)).__name__ for path in FILES}
    assert saved >= {
        "AlexNet",
        "Autoencoder",
        "ContinuousFlow",
        "ConvNeXt",
        "GCNN",
        "GraphPredictor",
        "GroupResNet",
        "LatentODE",
        "LeNet5",
        "MLP",
        "NodeClassifier",
        "ODEClassifier",
        "RecurrentLM",
        "RecurrentNetwork",
        "ResNet",
        "ResidualMLP",
        "Seq2Seq",
        "TCN",
        "Transformer",
        "TransformerEncoder",
        "TransformerLM",
        "VAE",
        "VGG",
        "ViT",
    }
