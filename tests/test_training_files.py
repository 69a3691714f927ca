"""Files that learn on a device: their steps are Keras's, they learn, and their weights are kept elsewhere."""

import json

import keras
import numpy as np
import pytest

import keras_dl
import keras_dl_cli
from keras_dl.export import ExportError, FileError, export_training, inspect, load, snippet, training
from keras_dl.recipes.training import wording

BATCH = 8


def _clusters(model, count, seed=0):
    """Examples around a point for each class, and their classes."""
    random, shape = np.random.default_rng(seed), model.input_shape[1:]
    centers = np.random.default_rng(1).uniform(60, 195, (model.output_shape[-1], *shape))
    labels = random.integers(0, len(centers), count).astype("int32")
    return np.clip(centers[labels] + random.normal(0, 20, (count, *shape)), 0, 255), labels


def _mlp():
    model = keras_dl.MLP(6, 3, hidden_dims=(16, 8))
    model.adapt(_clusters(model, 64)[0])
    return model


def _accuracy(runner, name, key, rows, labels):
    dtype = runner.signatures[name]["inputs"][key]["dtype"]
    found = [runner.run(name, {key: row[None].astype(dtype)})["probabilities"].argmax() for row in rows]
    return np.mean(np.array(found) == labels)


def _learn(runner, key, rows, labels, steps, rate):
    """The losses of steps through all examples, again and again."""
    dtype = runner.signatures["train"]["inputs"][key]["dtype"]
    losses = []
    for step in range(steps):
        places = np.arange(step * BATCH, (step + 1) * BATCH) % len(rows)
        given = {key: rows[places].astype(dtype), "labels": labels[places], "learning_rate": np.float32(rate)}
        losses.append(float(runner.run("train", given)["loss"]))
    return losses


@pytest.fixture(scope="module")
def mlp(tmp_path_factory):
    """An MLP, its file and the report."""
    path, model = tmp_path_factory.mktemp("training") / "mlp.tflite", _mlp()
    metadata = {"labels": ["ant", "bee", "cat"], "input_range": "float32 columns"}
    return model, path, export_training(model, path, BATCH, metadata=metadata)


def test_a_file_learns_and_keeps_what_it_learned(mlp):
    """All layers of an MLP, with builtin ops alone; a second interpreter gets the weights of the first."""
    model, path, report = mlp
    assert list(report.signatures) == ["predict", "train", "save", "restore"]
    assert (report.flex_ops, report.custom_ops) == (0, 0)
    assert {"VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE"} <= set(report.ops)
    assert max(x["max_rel_error"] for x in report.proof["training"].values()) < 1e-5
    rows, labels = _clusters(model, 64, seed=2)
    first, second = load(path, trust=True), load(path, trust=True)
    before = _accuracy(first, "predict", "features", rows, labels)
    losses = _learn(first, "features", rows, labels, 120, 0.1)
    assert np.mean(losses[-8:]) < 0.2 * np.mean(losses[:8])
    after = _accuracy(first, "predict", "features", rows, labels)
    assert after > 0.95 > before
    assert _accuracy(second, "predict", "features", rows, labels) == before
    weights = first.run("save", {})
    assert set(weights) == {
        f"{layer}_{part}" for layer in ("hidden_1", "hidden_2", "head") for part in ("kernel", "bias")
    }
    assert int(second.run("restore", weights)["restored"]) == 6
    assert _accuracy(second, "predict", "features", rows, labels) == after


def test_steps_are_those_of_keras(mlp):
    """Several, one after the other, by Keras's own `fit`."""
    model, path, _ = mlp
    rows, labels = _clusters(model, 3 * BATCH, seed=3)
    other = keras.models.clone_model(model)
    other.set_weights(model.get_weights())
    other.compile(keras.optimizers.SGD(0.05), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    other.fit(rows, labels, BATCH, shuffle=False, verbose=0)
    runner = load(path, trust=True)
    _learn(runner, "features", rows, labels, 3, 0.05)
    weights = runner.run("save", {})
    for layer in ("hidden_1", "hidden_2", "head"):
        for part in ("kernel", "bias"):
            expected = getattr(other.get_layer(layer), part).numpy()
            np.testing.assert_allclose(weights[f"{layer}_{part}"], expected, atol=1e-5)


def test_snippets_learn_by_the_signatures_of_the_file(mlp):
    """In Python they run. In each language, a signature may take nothing, and weights have no range of inputs."""
    model, path, _ = mlp
    text = {language: snippet(path, language)[1] for language in ("python", "kotlin", "javascript")}
    module = {"__file__": str(path.with_name("snippet.py")), "__name__": "snippet"}
    exec(compile(text["python"], "snippet.py", "exec"), module)
    rows, labels = _clusters(model, BATCH, seed=4)
    before = module["save"]()
    first, second = (float(module["train"](rows, labels, 0.1)["loss"]) for _ in range(2))
    assert second < first
    module["restore"](**before)
    assert float(module["train"](rows, labels, 0.1)["loss"]) == first
    assert module["LABELS"][module["predict"](rows[:1])["probabilities"].argmax()] in ("ant", "bee", "cat")
    assert "learning_rate: float32 ()." in text["python"]
    assert "val arrays = mapOf<String, TensorBuffer>()\n" in text["kotlin"]
    assert "async function save(model) {\n  const arrays = {\n  };" in text["javascript"]
    for language, code in text.items():
        ranges = [line for line in code.splitlines() if "float32 columns" in line]
        assert len(ranges) == 2, language  # of features in predict and in train
        assert all("features" in line for line in ranges), language


def test_it_says_what_it_is(mlp):
    _, path, report = mlp
    document = inspect(path)["metadata"]
    assert document["labels"] == ["ant", "bee", "cat"]
    assert document["keras_dl"]["training"]["batch_size"] == BATCH
    assert json.loads((path.parent / "mlp.tflite.json").read_text())["sha256"] == report.sha256
    assert "head_bias after a step: largest error" in str(report)


def test_the_head_of_a_classifier_learns_digits_of_another_kind(tmp_path):
    model, path = keras_dl.LeNet5((28, 28, 1), 4), tmp_path / "lenet.tflite"
    report = export_training(model, path, BATCH)
    assert set(report.proof["training"]) == {"loss", "head_kernel", "head_bias"}
    rows, labels = _clusters(model, 32)
    runner = load(path, trust=True)
    losses = _learn(runner, "images", rows, labels, 40, 0.05)
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])


@pytest.mark.slow  # further classifiers of what LeNet-5 shows
@pytest.mark.parametrize(
    "make",
    [
        lambda: keras_dl.ViT((16, 16, 3), 3, patch_size=8, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=16),
        lambda: keras_dl.ResNet.from_preset("resnet20", num_blocks=(1, 1, 1), num_classes=3),
        lambda: keras_dl.ConvNeXt((32, 32, 3), 3, num_blocks=(1, 1), filters=(8, 16)),
        lambda: keras_dl.VGG.from_preset("vgg11", image_shape=(32, 32, 3), num_classes=3, hidden_dim=16),
        lambda: keras_dl.GCNN((22, 22, 1), 3),
    ],
    ids=["vit", "resnet", "convnext", "vgg", "gcnn"],
)
def test_the_heads_of_classifiers_learn(make, tmp_path):
    report = export_training(make(), tmp_path / "file.tflite", BATCH)
    assert (report.flex_ops, report.custom_ops) == (0, 0)
    runner = load(tmp_path / "file.tflite", trust=True)
    random = np.random.default_rng(0)
    shape = runner.signatures["train"]["inputs"]["images"]["shape"]
    rows, labels = random.integers(0, 256, shape), random.integers(0, 3, BATCH).astype("int32")
    losses = _learn(runner, "images", rows, labels, 30, 0.02)
    assert losses[-1] < losses[0]


@pytest.mark.slow  # another loss of what the classification shows
def test_values_are_learned(tmp_path):
    """Through normalization, and values in their own unit."""
    model = keras_dl.MLP(4, 2, hidden_dims=(8,), task="regression", normalization="batch", activation="tanh")
    random = np.random.default_rng(0)
    x = random.normal(size=(BATCH, 4)).astype("float32")
    y = (10 + 3 * x[:, :2]).astype("float32")
    model.adapt(x, y)
    export_training(model, tmp_path / "file.tflite", BATCH)
    runner = load(tmp_path / "file.tflite", trust=True)
    given = {"features": x, "targets": y, "learning_rate": np.float32(0.01)}
    losses = [float(runner.run("train", given)["loss"]) for _ in range(50)]
    assert losses[-1] < 0.2 * losses[0]


def _frozen():
    model = keras_dl.MLP(4, 2)
    model.trainable = False
    return model


def _other():
    x = keras.Input((4,), name="x")
    return keras.Model(x, keras.layers.Dense(2)(x), name="other")


def _classifier(shape, name):
    """Logits of 3 classes on the last axis."""
    x = keras.Input(shape, name=name)
    model = keras.Model(x, keras.layers.Dense(3, name="head")(x), name="classifier")
    model.returns_logits = True
    return model


@pytest.mark.parametrize(
    ("make", "given", "message"),
    [
        (_mlp, {"batch_size": 0}, "batch_size=0 must be an int of at least 1"),
        (_mlp, {"batch_size": True}, "batch_size=True must be an int of at least 1"),
        (_mlp, {"path": 5}, "path must be a str or path, not int"),
        (_mlp, {"layers": "head"}, "layers='head' must be a sequence of names, not one str"),
        (_mlp, {"metadata": 5}, "metadata must be a dict, not int"),
        (lambda: _classifier((4,), "labels"), {}, "model='classifier' has an input named 'labels'"),
        (lambda: _classifier((4, 2), "x"), {}, r"returns \(8, 4, 3\)\. .* needs one output \(batch, classes\)"),
        (_mlp, {"path": "file.onnx"}, "path='file.onnx' must end with .tflite"),
        (_mlp, {"layers": ["tail"]}, r"layers=\['tail'\] must name layers .*: hidden_1, hidden_2, head"),
        (_mlp, {"metadata": {"labels": ["a", "b"]}}, "metadata has 2 labels, and the outputs have 3"),
        (_frozen, {}, "model has no layer with weights that may learn"),
        (_other, {}, r"model='other' returns neither logits \(returns_logits\) nor values"),
        (lambda: keras_dl.TCN(2, 2), {}, r"serves sequence\(features\), step\(.*one signature of one input"),
        (lambda: keras_dl.LeNet5((28, 28, 1), None), {}, "returns neither logits"),
    ],
)
def test_what_cannot_learn_is_refused(make, given, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((TypeError, ValueError), match=message) as error:
        export_training(make(), **{"path": "file.tflite"} | given)
    assert not isinstance(error.value, FileError)
    assert not list(tmp_path.iterdir())


def test_what_is_there_stays_until_a_new_file_is_proven(tmp_path, monkeypatch):
    (tmp_path / "folder.tflite").mkdir()
    with pytest.raises(ValueError, match="is a folder; format='litert' writes a file"):
        export_training(_mlp(), tmp_path / "folder.tflite")
    (tmp_path / "mlp.tflite").write_text("old")
    (tmp_path / "mlp.tflite.json").write_text("{}")

    def interrupted(step):
        raise KeyboardInterrupt

    monkeypatch.setattr(training._Step, "converted", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_training(_mlp(), tmp_path / "mlp.tflite")
    left = {path.name: path.is_dir() or path.read_text() for path in tmp_path.iterdir()}
    assert left == {"folder.tflite": True, "mlp.tflite": "old", "mlp.tflite.json": "{}"}


def _convolutions():
    """Strides, dilations, both kinds of padding, a group, and averages."""
    x = keras.Input((9, 10, 2), name="images")
    hidden = keras.layers.Conv2D(4, 3, strides=2, padding="same", activation="relu", name="strided")(x)
    hidden = keras.layers.Conv2D(4, (3, 2), dilation_rate=(2, 1), padding="same", name="dilated")(hidden)
    hidden = keras.layers.Conv2D(3, 2, strides=2, name="valid")(hidden)
    hidden = keras.layers.AveragePooling2D(2, name="average")(hidden)
    model = keras.Model(x, keras.layers.Dense(3, name="head")(keras.layers.Flatten()(hidden)))
    model.returns_logits = True
    return model


def test_convolutions_learn(tmp_path, caplog):
    """The proof compares each gradient with that of Keras. TensorFlow warns of nothing."""
    report = export_training(_convolutions(), tmp_path / "file.tflite", BATCH, layers=["strided", "dilated", "valid"])
    kernels = [name for name in report.proof["training"] if name.endswith("kernel")]
    assert kernels == ["strided_kernel", "dilated_kernel", "valid_kernel"]
    assert max(x["max_rel_error"] for x in report.proof["training"].values()) < 1e-5
    assert "gradients" not in caplog.text


@pytest.mark.slow  # one more kind of gradient: by rows
def test_an_embedding_learns(tmp_path):
    x = keras.Input((6,), dtype="int32", name="tokens")
    hidden = keras.layers.Flatten()(keras.layers.Embedding(10, 4, name="table")(x))
    model = keras.Model(x, keras.layers.Dense(3, name="head")(hidden))
    model.returns_logits = True
    report = export_training(model, tmp_path / "file.tflite", BATCH, layers=["table", "head"])
    assert set(report.proof["training"]) == {"loss", "table_embeddings", "head_kernel", "head_bias"}


@pytest.mark.slow  # a larger file of what small convolutions show
def test_all_of_a_lenet_learns(tmp_path):
    model = keras_dl.LeNet5((28, 28, 1), 4)
    layers = [layer.name for layer in model.layers if layer.trainable_variables]
    report = export_training(model, tmp_path / "lenet.tflite", BATCH, layers=layers)
    assert len(report.proof["training"]) == 1 + len(model.trainable_variables)
    rows, labels = _clusters(model, 32)
    losses = _learn(load(tmp_path / "lenet.tflite", trust=True), "images", rows, labels, 40, 0.02)
    assert np.mean(losses[-4:]) < 0.5 * np.mean(losses[:4])


def test_gradients_that_litert_does_not_have_are_named(tmp_path):
    x = keras.Input((8, 8, 2), name="images")
    hidden = keras.layers.MaxPooling2D(2, name="largest")(keras.layers.Conv2D(4, 3, name="before")(x))
    model = keras.Model(x, keras.layers.Dense(3)(keras.layers.Flatten()(hidden)))
    model.returns_logits = True
    with pytest.raises(ExportError, match=r"no builtin op for MaxPoolGrad in layer 'largest'.*layers names them"):
        export_training(model, tmp_path / "file.tflite", layers=["before"])
    assert not list(tmp_path.iterdir())


def test_errors_of_the_export_name_options():
    """Words of errors that tests above and of quantization have, on the command line."""
    for message, expected in (
        ("Or let other layers learn: layers names them.", "Or let other layers learn: --training-layer names them."),
        ("layers=['a', 'b'] must name", "--training-layer a --training-layer b must name"),
        ("float_layers=['a', 'b'] computes", "--float-layer a --float-layer b computes"),
        ("float_layers=[...] computes layers", "--float-layer NAME computes layers"),
        ("float_layers=('a',) needs quantization='int8'", "--float-layer a needs --quantization int8"),
    ):
        assert wording.in_options(message) == expected


def test_the_command_exports_a_keras_file(tmp_path, capfd):
    _mlp().save(tmp_path / "mlp.keras")

    def call(*arguments):
        with pytest.raises(SystemExit) as exit_:
            keras_dl_cli.main(["export", str(tmp_path / "mlp.keras"), *arguments])
        return (exit_.value.code, *capfd.readouterr())

    code, out, err = call("--training", "4", "--training-layer", "head", "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["path"] == str(tmp_path / "mlp-none-cpu-training.tflite")
    assert set(report["proof"]["training"]) == {"loss", "head_kernel", "head_bias"}
    assert report["signatures"]["train"]["inputs"]["labels"]["shape"] == [4]
    for arguments, message in (
        (("--training-layer", "head"), "--training-layer is for a file that learns: give --training BATCH"),
        (("--training", "4", "--quantization", "int8"), "--quantization does not go with --training"),
        (("--training", "4", "--training-layer", "tail", "--overwrite"), "--training-layer tail must name layers"),
        (("--training", "0"), "--training 0 must be at least 1"),
        (("--training", "4", "--output", "file.onnx"), "--output file.onnx must end with .tflite"),
    ):
        code, _, err = call(*arguments)
        assert code != 0
        assert message in err
