"""The examples in the docstrings, the README and the pages of docs/ are run."""

import doctest
import importlib
import json
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import own
import pytest
from oracles import load_oracle, state_dict
from reference import write_safetensors

import keras_dl
from keras_dl import weights
from keras_dl.export import export
from keras_dl.models.vision import resnet
from keras_dl.text import Subwords

ROOT = pathlib.Path(__file__).resolve().parent.parent


def _modules():
    for folder, prefix in (("keras_dl", ""), ("export", "keras_dl."), ("recipes", "keras_dl.")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if ">>> " in path.read_text():
                yield prefix + ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("name", list(_modules()))
def test_examples_of(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = doctest.testmod(
        importlib.import_module(name), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )
    assert results.attempted > 0
    assert results.failed == 0


# The README and the pages. Each function makes what the page takes as given: files in the working folder, and values by
# name. The blocks of a page then run in its order, in one namespace.


def _integers(high, *shape, dtype="uint8"):
    return np.random.default_rng(0).integers(0, high, shape).astype(dtype)


def _readme(monkeypatch):
    return dict(images=_integers(256, 8, 32, 32, 3), labels=_integers(10, 8))


def _resnet18(monkeypatch):
    """Weights in torch's names and layout, as published ones, but random."""
    modules = {}
    with monkeypatch.context() as patch, keras.StatelessScope(initialize_variables=False):
        patch.setattr(resnet, "load_torch", lambda found, weights, without: modules.update(found))
        keras_dl.ResNet.from_preset("resnet18").load_torchvision({})
        entries = [weights.torch_entries(prefix, layer) for prefix, layer in modules.items()]
    rng = np.random.default_rng(0)
    arrays = {
        name: np.ones(entry.shape, "float32") if name.endswith("running_var") else rng.normal(0, 0.02, entry.shape)
        for part in entries
        for name, entry in part.items()
    }
    write_safetensors(pathlib.Path("resnet18.safetensors"), {name: x.astype("float32") for name, x in arrays.items()})


def _training(monkeypatch):
    """With published weights."""
    _resnet18(monkeypatch)
    vit = state_dict(load_oracle("vit_transformers"), "published")
    pathlib.Path("folder").mkdir()
    write_safetensors(pathlib.Path("folder/model.safetensors"), vit)
    config = dict(model_type="vit", image_size=24, patch_size=8, num_hidden_layers=2, num_attention_heads=2)
    pathlib.Path("folder/config.json").write_text(json.dumps(config | dict(hidden_size=16, intermediate_size=24)))
    pictures = dict(images=_integers(256, 8, 32, 32, 3), classes=_integers(10, 8))
    return pictures | dict(features=np.random.default_rng(0).normal(size=(32, 30)), labels=_integers(2, 32))


def _sequences(monkeypatch):
    """With a file that translates, of an untrained model, and a folder of BERT's."""
    subwords = Subwords.learn(["My son, attend to my words; incline thine ear unto my sayings. Turn your"], 60)
    sizes = dict(num_layers=1, hidden_dim=16, mlp_dim=16, num_heads=2, source_length=32, target_length=32)
    vocabularies = {"subwords": subwords.to_json()}
    folder = pathlib.Path("runs/transformer/exports")
    folder.mkdir(parents=True)
    export(
        keras_dl.Transformer(len(subwords), **sizes),
        folder / "transformer-none-cpu.tflite",
        signatures=["encode", "decode_step"],
        metadata={"vocabularies": vocabularies},
        verify=False,
    )
    oracle = np.load(ROOT / "tests" / "oracles" / "transformer.npz")
    begin = "bert/weights/"
    bert = {name.removeprefix(begin): x.astype("float32") for name, x in oracle.items() if name.startswith(begin)}
    pathlib.Path("folder").mkdir()
    write_safetensors(pathlib.Path("folder/model.safetensors"), bert)
    _lstm()
    pathlib.Path("folder/config.json").write_text(json.dumps({"model_type": "bert", "num_attention_heads": 3}))
    return dict(token_ids=_integers(17, 2, 6, dtype="int32"))


def _lstm():
    """Weights in the names of torch's LSTM, and of a linear layer."""
    arrays, width = {"fc.weight": (2, 16), "fc.bias": (2,)}, 3
    for layer in (0, 1):
        for way in ("", "_reverse"):
            shapes = dict(weight_ih=(32, width), weight_hh=(32, 8), bias_ih=(32,), bias_hh=(32,))
            arrays |= {f"lstm.{name}_l{layer}{way}": shape for name, shape in shapes.items()}
        width = 16
    write_safetensors(pathlib.Path("lstm.safetensors"), {name: np.ones(x, "float32") for name, x in arrays.items()})


def _images_model(monkeypatch):
    """A small model whose input is called images, and batches of real ones."""
    images = keras.Input((28, 28, 1), name="images")
    hidden = keras.layers.Conv2D(4, 3, strides=2, activation="relu", name="convolution")(images / 255)
    model = keras.Model(images, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(hidden)))
    brightness = np.linspace(0.1, 1.0, 120).reshape(-1, 1, 1, 1)
    digits = (_integers(256, 120, 28, 28, 1) * np.roll(brightness, 7, axis=0)).astype("uint8")
    return dict(model=model, digits=digits, real_images=digits[:, None].astype("float32"))


def _own_forms(monkeypatch):
    """Small data in each form."""
    own.write_forms(pathlib.Path())
    return {}


def _own_data(monkeypatch):
    """With a folder of drawn pictures."""
    own.write_pictures(pathlib.Path("photos"), 12)
    own.picture("ring", 99, (80, 100)).save("new.jpg")
    return {}


def _fine_tuning(monkeypatch):
    """With published weights and a folder of drawn pictures."""
    _resnet18(monkeypatch)
    return _own_data(monkeypatch)


def _small_data(monkeypatch):
    """A table with classes, and series."""
    rng = np.random.default_rng(0)
    rows, series = rng.normal(size=(32, 30)), rng.normal(size=(4, 10, 3)).astype("float32")
    return dict(features=rows, labels=_integers(2, 32), series=series)


def _device(monkeypatch):
    """A small model, and real images for its calibration."""
    given = _images_model(monkeypatch)
    return dict(model=given["model"], digits=given["digits"].astype("float32"))


def _few_rows(monkeypatch):
    """A batch for the device."""
    return dict(
        features=np.random.default_rng(0).normal(size=(8, 4)).astype("float32"), labels=_integers(3, 8, dtype="int32")
    )


def _nothing(monkeypatch):
    return {}


GIVEN = {
    "README.md": _readme,
    "docs/detection.md": _nothing,
    "docs/devices.md": _few_rows,
    "docs/export.md": _images_model,
    "docs/fine_tuning.md": _fine_tuning,
    "docs/microcontroller.md": _device,
    "docs/own_data.md": _own_forms,
    "docs/precision.md": _small_data,
    "docs/quantization.md": _images_model,
    "docs/resuming.md": _small_data,
    "docs/sequences.md": _sequences,
    "docs/several_machines.md": _nothing,
    "docs/start.md": _own_data,
    "docs/streaming.md": _small_data,
    "docs/text_to_text.md": _nothing,
    "docs/training.md": _training,
    "docs/troubleshooting.md": _nothing,
}


def _blocks(page):
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def test_every_page_with_code_is_run():
    pages = [path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))]
    assert {page for page in pages if _blocks(page)} == set(GIVEN)


# A ResNet-18 that is trained twice and exported, a Transformer, and a model of each form of own data. Their parts have
# cheaper tests of their own.
SLOW = ("docs/fine_tuning.md", "docs/own_data.md", "docs/text_to_text.md")


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.slow] if page in SLOW else []) for page in GIVEN]
)
def test_code_of_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = GIVEN[page](monkeypatch)
    for code in _blocks(page):
        exec(compile(code, page, "exec"), names)


@pytest.mark.slow  # it trains for all epochs of a recipe
def test_the_commands_of_the_first_page_lead_from_pictures_to_an_answer(tmp_path):
    """Word by word, with photographs of several sizes."""
    page = (ROOT / "docs" / "start.md").read_text()
    commands = [line.split() for line in re.findall(r"^    (keras-dl .*)", page, re.MULTILINE)]
    assert [words[1] for words in commands] == ["train", "export", "predict"]
    own.write_pictures(tmp_path / "photos", 30, sides=lambda i: (70 + i, 90 - i))
    own.picture("ring", 99, (80, 100)).save(tmp_path / "new.jpg")
    for _, *words in commands:
        command = [sys.executable, "-m", "keras_dl", *words]
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("new.jpg: ring ")


def test_table_of_scaling():
    subprocess.run([sys.executable, ROOT / "docs" / "scaling.py", "--check"], check=True)
