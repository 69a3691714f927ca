"""Published models by folder and by name: equal outputs, other heads, shards, the cache of the Hub, and refusals."""

import json
import shutil

import numpy as np
import pytest
from huggingface_hub import constants
from oracles import load_oracle, state_dict
from reference import write_safetensors

import keras_dl
from keras_dl.files import FileError
from keras_dl.layers.pixels import IMAGENET_MEAN, IMAGENET_STD
from keras_dl.models import pretrained

VIT = dict(
    model_type="vit",
    image_size=24,
    patch_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    hidden_size=16,
    intermediate_size=24,
)
CONVNEXT = dict(model_type="convnext", image_size=32)
UNET = dict(
    _class_name="UNet2DModel",
    sample_size=8,
    in_channels=2,
    out_channels=2,
    layers_per_block=1,
    block_out_channels=[4, 8],
    down_block_types=["DownBlock2D", "AttnDownBlock2D"],
    up_block_types=["AttnUpBlock2D", "UpBlock2D"],
    norm_num_groups=2,
    norm_eps=1e-6,
    downsample_padding=0,
    flip_sin_to_cos=False,
    freq_shift=1,
    attention_head_dim=None,
)


def publish(folder, config, weights, name="model", **files):
    """A folder as it is published."""
    folder.mkdir(exist_ok=True)
    for file, document in {"config": config, **files}.items():
        (folder / f"{file}.json").write_text(json.dumps(document))
    write_safetensors(folder / f"{name}.safetensors", {key: x.astype("float32") for key, x in weights.items()})
    return folder


def transformers(name):
    oracle = load_oracle("pretrained")
    oracle = {key.removeprefix(f"{name}/"): x for key, x in oracle.items() if key.startswith(f"{name}/")}
    return oracle, json.loads(str(oracle["config"])), state_dict(oracle, "weights")


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_a_resnet_of_transformers(tmp_path, block):
    oracle, config, weights = transformers(f"resnet_{block}")
    model = keras_dl.from_pretrained(publish(tmp_path, config, weights), image_shape=(32, 32, 3))
    assert isinstance(model, keras_dl.ResNet)
    assert model.num_classes == 3
    np.testing.assert_allclose(model(oracle["images"]), oracle["output"], rtol=1e-4, atol=1e-5)


DETR = dict(
    model_type="detr",
    backbone_config=dict(model_type="resnet", depths=[1, 2], hidden_sizes=[16, 24], layer_type="bottleneck"),
    num_queries=7,
    d_model=16,
    encoder_layers=2,
    decoder_layers=3,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    encoder_ffn_dim=24,
    decoder_ffn_dim=24,
)


def test_a_detr(tmp_path):
    oracle = load_oracle("detr")
    folder = publish(tmp_path, DETR, state_dict(oracle))
    shape = oracle["images"].shape[1:]
    model = keras_dl.from_pretrained(folder, image_shape=shape)
    found = model.raw(oracle["images"])
    for name in ("logits", "boxes"):
        np.testing.assert_allclose(found[name], oracle[f"plain/{name}"], rtol=1e-4, atol=1e-5)
    other = keras_dl.from_pretrained(folder, image_shape=shape, num_classes=2)
    again = other.raw(oracle["images"])
    assert again["logits"].shape == (2, 7, 3)
    np.testing.assert_allclose(again["boxes"], found["boxes"], rtol=1e-6)


def test_named_backbones_have_the_sizes_of_presets():
    found = pretrained._resnet_body(None, lambda name: {"backbone": "resnet101"}[name])
    assert found == dict(num_blocks=(3, 4, 23, 3), block="bottleneck")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(position_embedding_type="learned"), "position_embedding_type='learned'; DETR computes 'sine'"),
        (dict(decoder_ffn_dim=32), "decoder_ffn_dim=32; DETR computes 24"),
        (dict(backbone_config=None, backbone="tiny"), "backbone='tiny'; DETR has one of resnet18"),
        (dict(backbone_config=dict(model_type="swin")), "backbone_config of a 'swin'"),
    ],
)
def test_a_detr_of_another_kind_is_refused(tmp_path, change, message):
    folder = publish(tmp_path, DETR | change, state_dict(load_oracle("detr")))
    with pytest.raises(FileError, match=message):
        keras_dl.from_pretrained(folder)


def test_a_gpt2(tmp_path):
    oracle, config, weights = transformers("gpt2")
    # Published files of GPT-2 have no prefix, and the causal masks among the weights.
    bare = {name.removeprefix("transformer."): x for name, x in weights.items()}
    bare |= {"h.0.attn.bias": np.ones((1, 1, 12, 12), "float32")}
    for entries in (weights, bare):
        model = keras_dl.from_pretrained(publish(tmp_path, config, entries))
        assert (model.max_length, model.end_token, model.padding_token) == (12, 19, 19)
        np.testing.assert_allclose(model(oracle["tokens"]), oracle["output"], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="norm_first=False"):
        keras_dl.TransformerLM(
            20, 12, num_layers=2, hidden_dim=8, mlp_dim=32, num_heads=2, norm_first=False
        ).load_transformers(weights)


def vit_folder(path, prefix="published"):
    oracle = load_oracle("vit_transformers")
    return oracle, publish(path, VIT, state_dict(oracle, prefix))


def test_a_vit_with_its_head_another_and_none(tmp_path):
    oracle, folder = vit_folder(tmp_path)
    model = keras_dl.from_pretrained(folder)
    np.testing.assert_allclose(model(oracle["images"]), oracle["logits"], rtol=1e-4, atol=1e-5)
    assert model.norm_epsilon == 1e-12
    other = keras_dl.from_pretrained(folder, num_classes=7)
    assert other(oracle["images"]).shape == (2, 7)
    headless = keras_dl.from_pretrained(folder, num_classes=None)
    for backbone in (other.backbone, headless):
        np.testing.assert_array_equal(backbone(oracle["images"]), model.backbone(oracle["images"]))


def test_a_vit_that_was_published_without_a_head(tmp_path):
    oracle, whole = vit_folder(tmp_path / "whole")
    weights = {n.removeprefix("vit."): x for n, x in state_dict(oracle, "published").items() if n.startswith("vit.")}
    weights["pooler.dense.weight"] = np.zeros((16, 16), "float32")
    bare = keras_dl.from_pretrained(publish(tmp_path / "bare", VIT, weights))
    assert bare.num_classes is None
    np.testing.assert_array_equal(bare(oracle["images"]), keras_dl.from_pretrained(whole).backbone(oracle["images"]))


def test_a_convnext_with_the_pixels_of_its_preprocessor(tmp_path):
    oracle = load_oracle("convnext_transformers")
    weights = state_dict(oracle, "weights")
    blocks = {tuple(int(n.split(".")[i]) for i in (3, 5)) for n in weights if ".layers." in n}
    depths = [sum(stage == s for s, _ in blocks) for stage in range(1 + max(blocks)[0])]
    widths = [len(weights[f"convnext.encoder.stages.{s}.layers.0.dwconv.bias"]) for s in range(len(depths))]
    patch = weights["convnext.embeddings.patch_embeddings.weight"].shape[-1]
    config = CONVNEXT | dict(depths=depths, hidden_sizes=widths, patch_size=patch)
    preprocessor = dict(image_mean=[0.5, 0.25, 0.1], image_std=[0.2, 0.3, 0.4])
    folder = publish(tmp_path, config, weights, preprocessor_config=preprocessor)
    shape = oracle["images"].shape[1:]
    model = keras_dl.from_pretrained(folder, image_shape=shape)
    assert model.mean == (127.5, 63.75, 25.5)
    plain = keras_dl.from_pretrained(folder, image_shape=shape, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    np.testing.assert_allclose(plain(oracle["images"]), oracle["logits"], rtol=1e-4, atol=1e-5)


def test_a_bert(tmp_path):
    oracle = {k.removeprefix("bert/"): x for k, x in load_oracle("transformer").items() if k.startswith("bert/")}
    weights = state_dict(oracle, "weights")
    config = dict(model_type="bert", num_attention_heads=3, hidden_act="gelu", layer_norm_eps=1e-12)
    folder = publish(tmp_path, config, weights)
    model, same = keras_dl.from_pretrained(folder, serving_length=4), keras_dl.TransformerEncoder.from_bert(folder)
    assert model.serving_length == 4
    for a, b in zip(model.weights, same.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_unet_of_diffusers(tmp_path):
    weights = {n: x for n, x in state_dict(load_oracle("ddpm")).items() if "class_embedding" not in n}
    folder = publish(tmp_path, UNET, weights, "diffusion_pytorch_model")
    model = keras_dl.from_pretrained(folder, averaging=0.0)
    assert isinstance(model, keras_dl.DDPM)
    assert model.attention_sides == (4,)
    for name, value in dict(flip_sin_to_cos=True, num_class_embeds=3, attention_head_dim=4).items():
        publish(tmp_path, UNET | {name: value}, weights, "diffusion_pytorch_model")
        with pytest.raises(FileError, match=f"config.json has {name}={value}"):
            keras_dl.from_pretrained(folder)


def sharded(folder):
    """The same folder with its weights in two files."""
    oracle, folder = vit_folder(folder)
    weights = state_dict(oracle, "published")
    (folder / "model.safetensors").unlink()
    places = {name: f"model-{1 + i % 2}-of-2.safetensors" for i, name in enumerate(weights)}
    for file in set(places.values()):
        write_safetensors(folder / file, {name: x for name, x in weights.items() if places[name] == file})
    return oracle, folder, places


def test_shards(tmp_path):
    oracle, folder, places = sharded(tmp_path)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    model = keras_dl.from_pretrained(folder)
    np.testing.assert_allclose(model(oracle["images"]), oracle["logits"], rtol=1e-4, atol=1e-5)
    first = next(iter(places))
    for place, message in (
        ("../model.safetensors", "not a file beside it"),
        (3, "not a file beside it"),
        ("model-3-of-2.safetensors", "which is missing"),
        ("model-2-of-2.safetensors", "which it does not"),
    ):
        index.write_text(json.dumps({"weight_map": places | {first: place}}))
        with pytest.raises(FileError, match=message):
            keras_dl.from_pretrained(folder)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A cache of the Hub without a network, and a function that puts a folder into it."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def put(name, folder, commit="0" * 40, branch="main"):
        repository = cache / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True, exist_ok=True)
        (repository / "refs" / branch).write_text(commit)
        shutil.copytree(folder, repository / "snapshots" / commit)

    return put


def test_a_name_on_the_hub_is_taken_from_its_cache(hub, tmp_path):
    oracle, folder = vit_folder(tmp_path / "vit")
    hub("someone/tiny-vit", folder)
    _, config, weights = transformers("resnet_basic")
    hub("someone/tiny-vit", publish(tmp_path / "other", config, weights), commit="1" * 40, branch="next")
    model = keras_dl.from_pretrained("someone/tiny-vit")
    np.testing.assert_allclose(model(oracle["images"]), oracle["logits"], rtol=1e-4, atol=1e-5)
    assert isinstance(keras_dl.from_pretrained("someone/tiny-vit", revision="next"), keras_dl.ResNet)
    with pytest.raises(ValueError, match="source='someone/missing' is no folder here, and the Hugging Face Hub"):
        keras_dl.from_pretrained("someone/missing")
    with pytest.raises(ValueError, match="at revision 'other'"):
        keras_dl.from_pretrained("someone/tiny-vit", revision="other")


def test_what_is_no_published_model_is_refused(tmp_path):
    _, folder = vit_folder(tmp_path / "vit")
    for source, message in (
        ("nowhere at all", "neither a folder nor an id"),
        (folder / "model.safetensors", "is a file. Give the folder"),
        (tmp_path, "has no config.json"),
    ):
        with pytest.raises(ValueError, match=message):
            keras_dl.from_pretrained(source)
    with pytest.raises(ValueError, match="revision='main' was given"):
        keras_dl.from_pretrained(folder, revision="main")
    for change, message in (
        (dict(model_type="llama"), "is of a 'llama'; there are: UNet2DModel, bert"),
        (dict(hidden_act="relu"), "has hidden_act='relu'; ViT computes 'gelu'"),
        (dict(hidden_size=None), "has no 'hidden_size'"),
    ):
        (folder / "config.json").write_text(json.dumps(VIT | change))
        with pytest.raises(FileError, match=message):
            keras_dl.from_pretrained(folder)


def test_a_pickle_is_never_opened(tmp_path):
    _, folder = vit_folder(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(FileError, match=r"pytorch_model\.bin can run code(.|\n)*torch\.load(.|\n)*save_file"):
        keras_dl.from_pretrained(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(FileError, match="has no model"):
        keras_dl.from_pretrained(folder)
