"""Predictions for inputs of users: pictures, tables, series and texts, by models, runs and files; and refusals."""

import json

import keras
import numpy as np
import pytest
from PIL import Image
from toy_detector import SIDE, Toy

import keras_dl
import keras_dl_cli
from keras_dl.export import export, export_training, load
from keras_dl.files import FileError
from keras_dl.ops import letterbox
from keras_dl.recipes.prediction import as_text, predict, reading
from keras_dl.recipes.prediction.drawing import draw, unletterboxed
from keras_dl.recipes.training import recipe, runner
from keras_dl.recipes.training.recipe import OptionError
from keras_dl.text import Subwords

LABELS = [f"digit {i}" for i in range(10)]


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype("uint8")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """An exported LeNet-5 with names of its classes."""
    path = tmp_path_factory.mktemp("files") / "lenet.tflite"
    export(keras_dl.LeNet5((28, 28, 1)), path, metadata={"labels": LABELS}, verify=False)
    return path


def test_a_picture_of_the_models_size_is_taken_as_it_is(classifier, tmp_path):
    image = pixels(28, 28)
    Image.fromarray(image).save(tmp_path / "digit.png")
    (answer,) = predict(classifier, [tmp_path / "digit.png"])
    expected = load(classifier).serve("classify", images=image[None, :, :, None])["probabilities"][0]
    best = np.argsort(-expected)[:3]
    assert [c["label"] for c in answer["classes"]] == [LABELS[i] for i in best]
    assert [c["probability"] for c in answer["classes"]] == pytest.approx(expected[best].tolist(), abs=1e-6)
    assert as_text([answer]).startswith(f"{tmp_path / 'digit.png'}: {LABELS[best[0]]} ")
    for one in (tmp_path / "digit.png", str(tmp_path / "digit.png")):
        assert keras_dl.predict(classifier, one) == [answer]


@pytest.mark.parametrize("kind", ["onnx", "training"])
def test_other_files_answer_as_the_model(kind, tmp_path):
    """An ONNX file, and one that also learns."""
    model, metadata = keras_dl.LeNet5((28, 28, 1)), {"labels": LABELS}
    path = tmp_path / ("lenet.onnx" if kind == "onnx" else "lenet.tflite")
    if kind == "onnx":
        export(model, path, format="onnx", metadata=metadata)
    else:
        export_training(model, path, metadata=metadata)
    image = pixels(28, 28)
    Image.fromarray(image).save(tmp_path / "digit.png")
    (answer,) = predict(path, [tmp_path / "digit.png"])
    expected = keras.ops.softmax(model(image[None, :, :, None])).numpy()[0]
    best = np.argsort(-expected)[:3]
    assert [c["label"] for c in answer["classes"]] == [LABELS[i] for i in best]
    assert [c["probability"] for c in answer["classes"]] == pytest.approx(expected[best].tolist(), abs=1e-5)


def test_a_photograph_is_scaled_and_its_middle_is_taken(tmp_path):
    ramp = np.add.outer(np.arange(28), np.arange(28)) * 4.0  # in [0, 216], smooth: a filter hardly changes it
    middle = np.repeat(np.repeat(ramp, 2, 0), 2, 1).astype("uint8")
    wide = np.concatenate([np.zeros((56, 20), "uint8"), middle, np.zeros((56, 20), "uint8")], axis=1)
    Image.fromarray(np.stack([wide] * 3, axis=-1)).save(tmp_path / "wide.png")
    (given,) = reading.pictures([tmp_path / "wide.png"], (28, 28, 1), whole=False)
    assert np.abs(given.value[0, 2:-2, 2:-2, 0] - ramp[2:-2, 2:-2]).max() <= 2


def test_a_run_and_its_model_answer_with_the_names_of_its_data(tmp_path):
    found = recipe.find("cnn")
    runner.train(found, found.options(smoke=True, epochs=1), tmp_path / "run")
    Image.fromarray(pixels(28, 28)).save(tmp_path / "digit.png")
    answers = [predict(path, [tmp_path / "digit.png"]) for path in (tmp_path / "run", tmp_path / "run" / "model.keras")]
    assert answers[0] == answers[1]
    assert len({c["label"] for c in answers[0][0]["classes"]} & set("0123456789")) == 3
    (tmp_path / "run" / "report.json").unlink()
    with pytest.raises(OptionError, match="is not finished"):
        predict(tmp_path / "run", [tmp_path / "digit.png"])


def test_boxes_are_in_pixels_of_the_picture(tmp_path):
    keras.utils.set_random_seed(0)
    model = Toy()
    model.save(tmp_path / "toy.keras")
    image = pixels(SIDE, 2 * SIDE, 3)
    Image.fromarray(image).save(tmp_path / "street.png")
    (answer,) = predict(tmp_path / "toy.keras", [tmp_path / "street.png"], output=tmp_path / "found.png")
    seen = np.rint(letterbox(image, (SIDE, SIDE))).astype("uint8")  # half as wide, below a gray bar of 8 pixels
    found = model.detect(seen[None])
    count = int(np.sum(found.scores[0] >= 0.25))
    assert len(answer["objects"]) == count > 0
    for i, one in enumerate(answer["objects"]):
        left, top, right, bottom = found.boxes[0, i].numpy()
        expected = np.clip([2 * left, 2 * (top - 8), 2 * right, 2 * (bottom - 8)], 0, [64, 32, 64, 32])
        assert one["box"] == pytest.approx(expected.tolist(), abs=0.01)
    assert Image.open(tmp_path / "found.png").size[0] > 500


def test_rows_of_a_table(tmp_path):
    model = keras_dl.MLP((3,), 2, hidden_dims=(4,))
    model.save(tmp_path / "mlp.keras")
    (tmp_path / "rows.csv").write_text("a,b,c\n1,2,3\n\n-1,0.5,1e2\n")
    answers = predict(tmp_path / "mlp.keras", [tmp_path / "rows.csv"])
    assert [a["input"].rsplit(":", 1)[1] for a in answers] == ["2", "4"]
    for row, answer in zip([[1, 2, 3], [-1, 0.5, 100]], answers, strict=True):
        expected = keras.ops.softmax(model(np.float32([row])))[0].numpy()
        assert answer["classes"][0]["probability"] == pytest.approx(expected.max(), abs=1e-5)
        assert answer["classes"][0]["label"] == str(expected.argmax())
    for text, message in (
        ("1,2,x\n4,5,6\n1,nan,3", "'nan' in line 3, column 2, which is no number"),
        ("1,2", "2 numbers in line 1; the model takes 3"),
        ("a,b,c\n", "no row of numbers"),
    ):
        (tmp_path / "rows.csv").write_text(text)
        with pytest.raises(FileError, match=message):
            predict(tmp_path / "mlp.keras", [tmp_path / "rows.csv"])


def test_a_text_is_translated(tmp_path):
    words = Subwords.learn(["My son, attend to my words; incline thine ear unto my sayings. Turn your"], 60)
    sizes = dict(num_layers=1, hidden_dim=16, mlp_dim=16, num_heads=2, source_length=16, target_length=16)
    model = keras_dl.Transformer(len(words), **sizes)
    paths = {}
    for name, signatures in dict(whole=["translate"], parts=["encode", "decode_step"]).items():
        paths[name] = tmp_path / f"{name}.tflite"
        metadata = {"vocabularies": {"subwords": words.to_json()}}
        export(model, paths[name], signatures=signatures, metadata=metadata, verify=False)
    (tmp_path / "lines.txt").write_text("my words\n\nmy son\n")
    tokens = words.encode(["my words"])
    tokens = np.pad(tokens, ((0, 0), (0, 16 - tokens.shape[1])))
    expected = words.decode(model.greedy(tokens).tokens)[0]
    for path in paths.values():
        direct, first, _ = predict(path, ["my words", tmp_path / "lines.txt"])
        assert direct == {"input": "my words", "text": expected}
        assert first == {"input": f"{tmp_path / 'lines.txt'}:1", "text": expected}
    with pytest.raises(ValueError, match="tokens; the model takes at most 16"):
        predict(paths["whole"], ["my words " * 20])


def test_what_cannot_be_answered_is_refused(classifier, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    for given, message in (
        (tmp_path / "text.png", "is no picture, or is damaged. Read are: .png"),
        (tmp_path, "is a folder. Name the files in it"),
    ):
        with pytest.raises(FileError, match=message):
            predict(classifier, [given])
    with pytest.raises(FileNotFoundError, match=r"missing\.png does not exist\."):
        predict(classifier, [tmp_path / "missing.png"])
    with pytest.raises(FileError, match=r"is a folder without run\.json: it is neither a run"):
        predict(tmp_path, [tmp_path / "text.png"])
    with pytest.raises(OptionError, match="There is no input"):
        predict(classifier, [])
    with pytest.raises(OptionError, match="inputs holds a ndarray; each must be a text, or the path"):
        predict(classifier, np.zeros((2, 28, 28, 1)))
    with pytest.raises(OptionError, match=r"--signature ask is not in .*: classify"):
        predict(classifier, [tmp_path / "text.png"], signature="ask")
    keras_dl.GAN((2,), 2, generator_dims=(4,), discriminator_dims=(4,)).save(tmp_path / "gan.keras")
    with pytest.raises(OptionError, match="none of them answers a question"):
        predict(tmp_path / "gan.keras", [tmp_path / "text.png"])


def test_the_command(classifier, tmp_path, capfd):
    Image.fromarray(pixels(28, 28)).save(tmp_path / "digit.png")

    def call(*arguments):
        with pytest.raises(SystemExit) as exit_:
            keras_dl_cli.main([str(x) for x in ("predict", classifier, *arguments)])
        return exit_.value.code, capfd.readouterr()

    code, (out, _) = call(tmp_path / "digit.png", "--json", "--output", tmp_path / "drawn.png")
    assert code == 0
    assert json.loads(out)["answers"] == predict(classifier, [tmp_path / "digit.png"])
    assert (tmp_path / "drawn.png").exists()
    code, (out, err) = call(tmp_path / "missing.png")
    assert (code, out) == (1, "")
    assert "missing.png" in err


def test_masks_lie_on_their_objects_in_the_original():
    """A wide picture of 40 x 80 in a letterbox of 32 x 32: 16 x 32 pixels, 8 rows from the top."""
    whole = np.zeros((1, 32, 32), bool)
    whole[0, 12:20, 8:24] = True
    boxes = np.float32([[8, 12, 24, 20]])
    expected = np.zeros((1, 40, 80), bool)
    expected[0, 10:30, 20:60] = True
    for masks in (whole, np.ones((1, 28, 28), "float32")):
        np.testing.assert_array_equal(unletterboxed(masks, boxes, (40, 80), (32, 32)), expected)


def test_masks_are_drawn(tmp_path):
    masks = np.zeros((1, 5, 32, 32), bool)
    masks[0, 0, 12:20, 8:24] = True
    outputs = {"masks": masks, "boxes": np.zeros((1, 5, 4), "float32")}
    answer = {"objects": [{"label": "b", "score": 0.9, "box": [20, 10, 60, 30]}]}
    image = np.full((40, 80, 3), 128, "uint8")
    for name, given in (("with", outputs), ("without", {})):
        draw(tmp_path / f"{name}.png", image, answer, given, ("a", "b"), (1, 32, 32, 3))
    drawn = [np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB"), int) for name in ("with", "without")]
    share = (np.abs(drawn[0] - drawn[1]).max(-1) > 30).mean()
    assert 0.1 < share < 0.25  # a quarter of the picture, which has a margin
