"""The command line: what goes to stdout, exit codes, one line for each error, and the way from a run to a file."""

import json
import logging
import os
import pathlib
import runpy
import subprocess
import sys

import keras
import litert_files
import numpy as np
import pytest
import tensorflow as tf
import toy

import keras_dl.export
import keras_dl_cli
from keras_dl.architectures import ARCHITECTURES
from keras_dl.export.targets import target_names
from keras_dl.recipes.training import folder, recipe, runner

ROOT = pathlib.Path(__file__).resolve().parent.parent
COMMANDS = (
    ["list"],
    ["data", "list"],
    ["data", "prepare"],
    ["train"],
    ["evaluate"],
    ["export"],
    ["inspect"],
    ["snippet"],
)


@pytest.fixture
def call(capfd):
    """Calls `keras-dl`: `(exit code, stdout, stderr)`, as another process would see them."""

    def run(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_:
            keras_dl_cli.main([str(argument) for argument in arguments])
        return (exit_.value.code, *capfd.readouterr())

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a smoke run of LeNet-5."""
    path = tmp_path_factory.mktemp("runs") / "cnn"
    found = recipe.find("cnn")
    runner.train(found, found.options(smoke=True), path)
    return path


@pytest.mark.parametrize(
    "words",
    [
        ["export", "runs/cnn", "--quantization", "none", "--quantization", "int8"],
        ["train", "cnn", "--epochs", "3", "--seed", "1", "--epochs=4"],
    ],
)
def test_an_option_of_one_value_is_given_once(call, words):
    """The second value would replace the first one without a word."""
    code, out, error = call(*words)
    assert (code, out) == (2, "")
    assert "is given 2 times; it takes one value" in error


def _process(*arguments, **options):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, env=environment, **options
    )


def test_help_does_not_import_tensorflow():
    code = (
        "import sys, keras_dl_cli\n"
        "try: keras_dl_cli.main(['train', '--help'])\n"
        "except SystemExit as exit_: assert exit_.code == 0\n"
        "assert not {'tensorflow', 'keras', 'keras_dl'} & set(sys.modules)\n"
    )
    run = _process("-c", code)
    assert run.returncode == 0, run.stderr
    assert "--resume" in run.stdout


def test_what_needs_no_model_does_not_import_tensorflow(tmp_path):
    """Seconds of each call. The modules that were imported for it alone are gone afterwards."""
    file = litert_files.write_classifier(tmp_path / "file.tflite")
    (tmp_path / "broken.tflite").write_bytes(b"\x1c\x00\x00\x00TFL3" + b"\xff" * 64)
    calls = {
        ("--version",): 0,
        ("list", "--json"): 0,
        ("inspect", str(file), "--json"): 0,
        ("snippet", str(file), "--language", "python"): 0,
        ("inspect", str(tmp_path / "broken.tflite")): 1,
        ("export", str(file), "--target", "toaster"): 2,
        ("train", "--dataset"): 2,
    }
    code = (
        "import sys, keras_dl_cli\n"
        f"for arguments, code in {calls!r}.items():\n"
        "    try: keras_dl_cli.main(arguments)\n"
        "    except SystemExit as exit_: assert exit_.code == code, (arguments, exit_.code)\n"
        "    assert not {'tensorflow', 'keras', 'keras_dl'} & set(sys.modules), arguments\n"
        "import keras_dl.export, keras_dl.recipes.training.recipe\n"
        "assert keras_dl.LeNet5 and keras_dl.export.export\n"
    )
    run = _process("-c", code)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(f"keras-dl {keras_dl.__version__}\n")
    assert '"CONV_2D": ' in run.stdout
    assert "'toaster' is not one of 'cpu', 'micro', 'ethos-u55-32'" in run.stderr


def test_the_first_line_comes_before_the_slow_imports(tmp_path):
    """Here `keras` is a module that says when it is imported."""
    (tmp_path / "keras.py").write_text(
        "import sys\nprint('importing', file=sys.stderr)\nraise ImportError('no more')\n"
    )
    start = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import keras_dl_cli"
    run = _process("-c", f"{start}; keras_dl_cli.main(['data', 'check', 'photos'])")
    assert run.returncode == 1
    assert run.stderr.splitlines() == ["Loading TensorFlow.", "importing", "keras-dl: no more"]


def test_the_package_runs_as_a_module(tmp_path):
    run = _process("-m", "keras_dl", "train", "perceptron", cwd=tmp_path)
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1].startswith("keras-dl: There is no recipe 'perceptron'.")


def test_targets_are_those_of_the_exporter():
    assert set(keras_dl_cli.TARGETS) == set(target_names())
    assert len(keras_dl_cli.TARGETS) == len(target_names())


def test_missing_click_is_one_line(tmp_path):
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError(name='click')")
    run = _process("-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import keras_dl_cli")
    assert run.returncode == 1
    assert run.stderr == "keras-dl needs click, which is not installed: pip install 'keras_dl[recipes]'\n"


@pytest.mark.parametrize("command", [*COMMANDS, ["benchmark"]], ids=" ".join)
def test_help_is_enough_to_use_a_command(call, command):
    code, out, _ = call(*command, "--help")
    assert code == 0
    assert "--json" in out
    assert command[-1] == "list" or f"keras-dl {' '.join(command)} " in out.split("Options:")[0].split("Example")[1]


def test_list_names_every_recipe(call):
    code, out, _ = call("list", "--json")
    rows = {row["name"]: row for row in json.loads(out)["recipes"]}
    assert code == 0
    assert tuple(rows) == recipe.NAMES
    assert (rows["cnn"]["model"], rows["cnn"]["dataset"], rows["cnn"]["aim"]) == ("LeNet5", "mnist_5k", 0.98)
    code, out, _ = call("list")
    assert [line.split()[0] for line in out.splitlines()] == ["NAME", *recipe.NAMES]


def test_list_names_every_preset(call):
    """With the counts of the table of architectures, and without TensorFlow's seconds for each call."""
    code, out, _ = call("list", "--presets", "--json")
    assert code == 0
    found = {(row["model"], row["preset"]): row for row in json.loads(out)["presets"]}
    classes = {name for architecture in ARCHITECTURES for name in architecture.classes}
    presets = {name: getattr(getattr(keras_dl, name), "presets", {}) for name in classes}
    assert set(found) == {(name, preset) for name, rows in presets.items() for preset in rows}
    for architecture in ARCHITECTURES:
        if architecture.preset and not (row := found[architecture.preset])["needs"]:
            assert row["parameters"] == architecture.parameters, architecture.preset
    lines = [line.split() for line in call("list", "--presets")[1].splitlines()]
    assert ["cnn", "VGG", "vgg16", "138,357,544", "553.4", "MB", "138.4", "MB"] in lines
    assert ["gnn", "NodeClassifier", "gcn_cora", "by", "num_features,", "num_classes"] in lines


@pytest.mark.slow  # a minute: it traces every preset
def test_the_sizes_of_presets_are_as_listed():
    run = _process(str(ROOT / "docs" / "presets.py"), "--check")
    assert run.returncode == 0, run.stderr


def test_data_list_names_licenses(call):
    rows = json.loads(call("data", "list", "--json")[1])["datasets"]
    assert {"mnist_5k", "breast_cancer", "diabetes"} <= {row["name"] for row in rows}
    assert all(row["license"] and row["title"] for row in rows)
    assert "BSD-3-Clause" in call("data", "list")[1]


def test_data_prepare(call):
    code, out, _ = call("data", "prepare", "breast_cancer", "--json")
    assert code == 0
    assert json.loads(out)["examples"] == {"train": 569}
    code, out, err = call("data", "prepare", "breast_canser")
    assert (code, out) == (2, "")
    assert "Did you mean breast_cancer" in err


def test_train_prints_one_document(call, tmp_path):
    arguments = ("train", "mlp", "--smoke", "--seed", 3, "--output", tmp_path / "run")
    code, out, err = call(*arguments, "--json")
    assert code == 0
    document = json.loads(out)
    assert (document["recipe"], document["seed"], document["output"]) == ("mlp", 3, str(tmp_path / "run"))
    assert "mlp  epoch 2/2" in err

    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert "exists. Continue it with --resume" in err
    assert json.loads(call(*arguments, "--resume", "--json")[1]) == document


def test_evaluate_and_export_measure_what_the_run_did(call, trained):
    value = json.loads((trained / "report.json").read_text())["variants"]["lenet5"]
    for path in (trained, trained / "model.keras"):
        code, out, _ = call("evaluate", path, "--json")
        assert code == 0
        assert json.loads(out)["value"] == value
    assert f"accuracy {value:.4f} on 128 test examples" in call("evaluate", trained)[1]

    code, out, _ = call("export", trained, "--json")
    assert code == 0
    report = json.loads(out)
    file = trained / "exports/cnn-none-cpu.tflite"
    assert (report["path"], report["flex_ops"]) == (str(file), 0)
    assert report["metric"] == {"name": "accuracy", "keras": value, "artifact": value}
    assert report["proof"]["inputs"] == {"classify": "calibration"}
    assert json.loads(call("evaluate", file, "--json")[1])["value"] == value

    metadata = json.loads(call("inspect", file, "--json")[1])["metadata"]
    assert (metadata["recipe"], metadata["dataset"], metadata["smoke"]) == ("cnn", "mnist_5k", True)
    assert metadata["labels"] == [str(digit) for digit in range(10)]
    assert "BSD-3" in metadata["license"]
    assert "CONV_2D" in call("inspect", file)[1]

    code, _, err = call("export", trained)
    assert code == 2
    assert "exists. Replace it with --overwrite" in err


def test_names_and_metadata_cannot_command_the_terminal(call, tmp_path):
    """Nor look like further lines: they come from files of others."""
    hostile = {"labels": ["\x1b[2J\u202ea"], "title": "\x1b]0;b\x07\rc\nops  none", "licence": "Größe"}
    model = keras.Sequential([keras.Input((2,), name="x"), keras.layers.Dense(1)])
    keras_dl.export.export(model, tmp_path / "m.tflite", metadata=hostile)
    code, out, _ = call("inspect", tmp_path / "m.tflite")
    assert code == 0
    assert r"title  \x1b]0;b\x07\rc\nops  none" in out
    assert r"\x1b[2J" in out
    assert "licence  Größe" in out
    assert all(c.isprintable() or c == "\n" for c in out)
    assert sum(line.strip().startswith("ops") for line in out.splitlines()) == 1
    assert json.loads(call("inspect", tmp_path / "m.tflite", "--json")[1])["metadata"]["title"] == hostile["title"]
    code, _, err = call("inspect", tmp_path / "\x1b[2J.tflite")
    assert code == 2
    assert "\x1b" not in err


def test_a_saved_model_with_other_ops_needs_trust(call, tmp_path):
    module = tf.Module()
    serve = tf.function(lambda x: {"y": tf.io.read_file(x)}, input_signature=[tf.TensorSpec((), tf.string, name="x")])
    tf.saved_model.save(module, tmp_path / "saved", signatures={"serve": serve})
    code, _, err = call("inspect", tmp_path / "saved")
    assert code == 1
    assert "holds ops that a model does not need: ReadFile (reads or writes files)" in err
    code, out, _ = call("inspect", tmp_path / "saved", "--trust", "--json")
    assert code == 0
    assert "ReadFile" in json.loads(out)["ops"]


def test_export_int8_is_calibrated_on_the_training_data(call, trained, tmp_path):
    output = tmp_path / "lenet.tflite"
    options = ("--quantization", "int8", "--calibration-samples", 50, "--output", output, "--json")
    code, out, _ = call("export", trained, *options)
    assert code == 0
    report = json.loads(out)
    assert report["signatures"]["classify"]["inputs"]["images"]["dtype"] == "int8"
    assert abs(report["metric"]["artifact"] - report["metric"]["keras"]) <= 0.05
    assert json.loads(call("evaluate", output, "--json")[1])["value"] == report["metric"]["artifact"]


def test_export_of_a_keras_file(call, tmp_path):
    model = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(2)])
    model.save(tmp_path / "mine.keras")
    root, shown = logging.getLogger(), logging.StreamHandler(sys.stderr)  # as libraries add one for all logs
    root.addHandler(shown)
    try:
        code, out, err = call("export", tmp_path / "mine.keras")
    finally:
        root.removeHandler(shown)
    assert code == 0
    assert (tmp_path / "mine-none-cpu.tflite").exists()
    assert "mine-none-cpu.tflite" in out
    steps = ("Tracing 'serve'.", "Converting to LiteRT.", "Comparing mine-none-cpu.tflite with the model.")
    assert [line for line in err.splitlines() if line in steps] == list(steps)
    assert err.count("Tracing") == 1

    code, _, err = call("export", tmp_path / "mine.keras", "--quantization", "int8")
    assert code == 2
    assert "--quantization int8 needs real inputs: --calibration FILE.npz" in err
    assert "x float32 (1, 4)" in err
    np.savez(tmp_path / "samples.npz", x=np.random.default_rng(0).normal(size=(20, 4)).astype("float32"))
    arguments = ("export", tmp_path / "mine.keras", "--quantization", "int8", "--calibration")
    assert call(*arguments, tmp_path / "samples.npz")[0] == 0
    assert call(*arguments, tmp_path / "samples.npz", "--io", "uint8")[0] == 0
    assert (tmp_path / "mine-int8-cpu-uint8.tflite").exists()
    np.savez(tmp_path / "wrong.npz", x=np.zeros((20, 5), "float32"))
    code, _, err = call(*arguments, tmp_path / "wrong.npz", "--overwrite")
    assert code == 2
    assert "'x' has shape" in err
    (tmp_path / "junk.npz").write_text("not an npz")
    code, _, err = call(*arguments, tmp_path / "junk.npz", "--overwrite")
    assert code == 2
    assert "is not an .npz" in err


def test_errors_of_the_export_name_options(call, tmp_path):
    model = keras_dl.RecurrentNetwork(num_features=2, num_outputs=2, hidden_dims=(3,), serving_length=4)
    model.save(tmp_path / "mine.keras")
    code, _, err = call("export", tmp_path / "mine.keras", "--format", "onnx")
    assert code == 2
    assert "--signature sequence" in err
    assert "signatures=" not in err


def test_open_shapes_are_given_by_an_option(call, tmp_path):
    images = keras.Input((None, None, 3), name="images")
    keras.Model(images, keras.layers.GlobalAveragePooling2D()(images)).save(tmp_path / "mine.keras")
    code, _, err = call("export", tmp_path / "mine.keras")
    assert code == 2
    assert "give --input-shape images=1,224,224,3 with" in err
    for shape, message in {"images": "must be NAME=SIZES", "images=1,8,8,4": "the model takes"}.items():
        code, _, err = call("export", tmp_path / "mine.keras", "--input-shape", shape)
        assert code == 2
        assert message in err
    code, out, _ = call("export", tmp_path / "mine.keras", "--input-shape", "images=1,8,9,3", "--json")
    assert code == 0
    assert json.loads(out)["signatures"]["serve"]["inputs"]["images"]["shape"] == [1, 8, 9, 3]


MODULE = """
import keras

@keras.saving.register_keras_serializable(package="mine")
class Twice(keras.layers.Layer):
    def call(self, x):
        return 2 * x
"""


def test_a_module_of_layers_is_imported(call, tmp_path, monkeypatch):
    (tmp_path / "layers_of_mine.py").write_text(MODULE)
    code = """
import layers_of_mine as mine, keras
keras.Sequential([keras.Input((4,)), keras.layers.Dense(2), mine.Twice()]).save("mine.keras")
"""
    saved = _process("-c", code, cwd=tmp_path)
    assert saved.returncode == 0, saved.stderr
    run = call("export", tmp_path / "mine.keras")
    assert run[0] == 1
    assert "has the class Twice" in run[2]
    assert "--import MODULE" in run[2]
    code, _, err = call("export", tmp_path / "mine.keras", "--import", "nothing_of_mine")
    assert code == 2
    assert "--import nothing_of_mine: No module named" in err
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "broken_layers.py").write_text("raise RuntimeError('no such device')")
    code, _, err = call("export", "mine.keras", "--import", "broken_layers")
    assert code == 2
    assert "--import broken_layers: RuntimeError: no such device" in err
    code, _, err = call("export", "mine.keras", "--import", "layers_of_mine")
    assert code == 0, err
    assert (tmp_path / "mine-none-cpu.tflite").exists()


def test_export_of_several_quantizations(call, tmp_path):
    keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(2)]).save(tmp_path / "mine.keras")
    arguments = ("export", tmp_path / "mine.keras", "--quantization")
    code, out, _ = call(*arguments, "none, float16", "--json")
    assert code == 0
    files = json.loads(out)["files"]
    assert [report["quantization"] for report in files] == ["none", "float16"]
    paths = [tmp_path / f"mine-{name}-cpu.tflite" for name in ("none", "float16")]
    assert [report["path"] for report in files] == [str(path) for path in paths]
    assert all(path.exists() for path in paths)

    code, _, err = call(*arguments, "dynamic_int8,float16")
    assert code == 2
    assert "mine-float16-cpu.tflite exists" in err
    code, out, _ = call(*arguments, "weight_only_int8,float16", "--output", tmp_path / "other.tflite")
    assert code == 0
    assert out.index("other-weight_only_int8.tflite") < out.index("other-float16.tflite")
    for names, message in {"none,none": "names one of them twice", "none,int4": "'int4' is not one of"}.items():
        code, _, err = call(*arguments, names)
        assert code == 2
        assert message in err


def test_export_with_snippets(call, tmp_path):
    keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(2)]).save(tmp_path / "mine.keras")
    code, out, _ = call("export", tmp_path / "mine.keras", "--snippet", "all", "--json")
    assert code == 0
    rows = {row["language"]: row for row in json.loads(out)["snippets"]}
    assert list(rows) == ["python", "cpp", "kotlin", "javascript"]
    assert rows["cpp"]["path"] is None
    assert "has no mine-none-cpu.h beside it" in rows["cpp"]["reason"]
    assert not (tmp_path / "mine-none-cpu_run.cc").exists()
    file, x = tmp_path / "mine-none-cpu.tflite", np.float32([[1, 2, 3, 4]])
    answers = runpy.run_path(rows.pop("python")["path"])["serve"](x)
    for key, values in keras_dl.export.load(file).serve("serve", x=x).items():
        np.testing.assert_array_equal(answers[key], values)

    (tmp_path / "mine_none_cpu.py").write_text("changed")
    code, _, err = call("export", tmp_path / "mine.keras", "--overwrite")
    assert code == 0
    for language, name in (("python", "mine_none_cpu.py"), ("kotlin", "MineNoneCpu.kt")):
        assert f"{name} was not written for this file: its scales may be others. keras-dl snippet" in err
        assert f"--language {language} --overwrite" in err
    assert (tmp_path / "mine_none_cpu.py").read_text() == "changed"
    file.unlink()
    code, _, err = call("export", tmp_path / "mine.keras", "--snippet", "kotlin,python")
    assert code == 2
    assert "MineNoneCpu.kt exists. Replace it, and what you have changed in it: --overwrite" in err
    assert not file.exists()
    code, out, err = call("export", tmp_path / "mine.keras", "--snippet", "python,cpp", "--overwrite")
    assert code == 0
    assert f"python      {tmp_path / 'mine_none_cpu.py'}" in out
    assert f"cpp         none: {file} has no mine-none-cpu.h beside it" in out
    assert "changed" not in (tmp_path / "mine_none_cpu.py").read_text()
    assert err.count("was not written for this file") == 2  # kotlin and javascript
    for arguments, message in (
        (("--format", "onnx", "--snippet", "all"), "--snippet is for LiteRT files, and --format is onnx"),
        (("--snippet", "rust"), "'rust' is not one of 'python', 'cpp', 'kotlin', 'javascript', 'all'"),
    ):
        code, _, err = call("export", tmp_path / "mine.keras", *arguments)
        assert code == 2
        assert message in err


def test_calibration_file_is_checked(call, tmp_path):
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "mine.keras")
    np.savez(tmp_path / "uneven.npz", a=np.zeros((3, 2)), b=np.zeros((2, 2)))
    np.savez(tmp_path / "scalar.npz", a=np.float32(1))
    np.savez(tmp_path / "none.npz")
    np.save(tmp_path / "array.npy", np.zeros((3, 2)))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "uneven.npz").read_bytes()[:60])
    (tmp_path / "empty.npz").touch()
    for name, message in {
        "uneven.npz": "not {'a': 3, 'b': 2}",
        "scalar.npz": "not {'a': 0}",
        "none.npz": "not {}",
        "array.npy": "is not an .npz",
        "cut.npz": "is not an .npz",
        "empty.npz": "is not an .npz",
    }.items():
        code, _, err = call("export", tmp_path / "mine.keras", "--calibration", tmp_path / name)
        assert code == 2, name
        assert message in err, name


def test_a_run_that_trains_is_not_replaced(call, tmp_path):
    run = tmp_path / "run"
    with folder.open_run(run, recipe.find("cnn").options(smoke=True)):
        for how in ("--overwrite", "--resume"):
            code, _, err = call("train", "cnn", "--smoke", "--output", run, how)
            assert code == 2
            assert "is in use: another process trains there" in err
    assert folder.read_run(run).record["resumed"] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


RECORD = {
    "options": {"recipe": "cnn", "dataset": "mnist_5k", "epochs": 1, "batch_size": 64},
    "versions": {},
    "jit": None,
    "resumed": 0,
    "replaces": None,
}


def _record(**options):
    return json.dumps(RECORD | {"options": RECORD["options"] | options}).encode()


DAMAGED_RUNS = {
    "no JSON": (b"{", "it is not JSON"),
    "no text": (b"\xff\xfe", "it is not JSON"),
    "deep brackets": (b"[" * 100_000, "it is not JSON"),
    "no object": (b"[]", "it holds no JSON object"),
    "empty": (b"{}", "it has no 'options'"),
    "options of another type": (json.dumps(RECORD | {"options": [1]}).encode(), "its 'options' is [1]"),
    "choice of another type": (json.dumps(RECORD | {"jit": {"jit": True}}).encode(), "'jit' has the keys jit, not"),
    "a foreign key": (_record(color="red"), "unknown options: color"),
    "no recipe": (json.dumps(RECORD | {"options": {}}).encode(), "missing 4 required positional arguments: 'recipe'"),
    "a word for a number": (_record(epochs="ten"), "--epochs 'ten' must be of type int"),
    "a list for a word": (_record(dataset=["mnist"]), "--dataset ['mnist'] must be of type str"),
    "a number for words": (_record(variants=3), "'int' object is not iterable"),
    "a huge number": (_record(batch_size=10**20), "--batch-size 100000000000000000000 must be at most"),
    "an unknown data set": (_record(dataset="coco"), "coco"),
}


@pytest.mark.parametrize(("content", "reason"), DAMAGED_RUNS.values(), ids=DAMAGED_RUNS)
def test_damaged_run(call, tmp_path, content, reason):
    (tmp_path / "run.json").write_bytes(content)
    (tmp_path / "model.keras").touch()
    for command in (("train", "cnn", "--resume", "--output", tmp_path), ("evaluate", tmp_path)):
        code, out, err = call(*command)
        assert (code, out) == (2, "")
        assert f"{tmp_path}/run.json" in err
        assert reason in err


@pytest.mark.parametrize("content", [b"{", b"[]", b"\x80", b'{"recipe": "cnn"}', b'{"recipe": 3}'], ids=repr)
def test_damaged_report_of_a_complete_run(call, tmp_path, content):
    with folder.open_run(tmp_path / "run", recipe.find("cnn").options(smoke=True)):
        pass
    (tmp_path / "run/report.json").write_bytes(content)
    code, out, err = call("train", "cnn", "--resume", "--smoke", "--output", tmp_path / "run")
    assert (code, out) == (2, "")
    assert f"{tmp_path}/run/report.json is damaged: " in err


def test_folder_that_is_no_run_is_not_exported(call, tmp_path):
    code, _, err = call("export", tmp_path)
    assert code == 2
    assert "has no run.json" in err


def test_no_command_shows_the_help(call):
    code, out, err = call()
    assert (code, out) == (2, "")
    assert err.startswith("Usage: keras-dl")


def test_data_that_only_the_user_can_get(call, tmp_path):
    code, out, _ = call("data", "prepare", "imagenet2012", "--data-dir", tmp_path, "--json")
    assert code == 1
    assert json.loads(out)["error"].startswith("imagenet2012 could not be prepared: Manual directory")


def test_proof_that_does_not_hold_is_exit_code_1(call, trained, tmp_path, monkeypatch):
    import keras_dl.export

    def fail(*args, **options):
        raise keras_dl.export.ExportError("classify: the error is too large")

    monkeypatch.setattr(keras_dl.export, "export", fail)
    code, out, err = call("export", trained, "--output", tmp_path / "file.tflite", "--json")
    assert code == 1
    assert json.loads(out) == {"error": "classify: the error is too large"}
    assert err.endswith("keras-dl: classify: the error is too large\n")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("train", "perceptron"), 2, "There is no recipe 'perceptron'. Choose one of: mlp, cnn, rnn, "),
        (("train", "cnn", "--dataset", "coco"), 2, "--dataset coco must be one of mnist_5k"),
        (("train", "cnn", "--epochs", "0"), 2, "--epochs 0 must be at least 1"),
        (("train", "cnn", "--epochs", "9" * 20), 2, "must be at most 1000000"),
        (("train", "cnn", "--output", "letter.txt/sub"), 2, "--output letter.txt/sub: letter.txt is a file"),
        (("train", "resnet", "--variant", "resnet21"), 2, "--variant resnet21 must be one of resnet20, resnet56, "),
        (("train", "transformer", "--learning-rate", "1"), 2, "the schedule of transformer has none to set"),
        (("data", "prepare", "mnist_5k:9.9.9"), 2, "mnist_5k cannot be loaded at version 9.9.9, only: 1.0.0."),
        (("data", "prepare", "mnist_5k/foo"), 2, "BuilderConfig foo not found"),
        (("data", "prepare", ""), 2, "There is no data set name=''"),
        (("train", "cnn", "--jit", "maybe"), 2, "'maybe' is not one of"),
        (("train", "cnn", "--batch-size", "5000"), 2, "--batch-size 5000 is more than the 4000 training examples"),
        (("train",), 2, "Missing argument 'NAME'"),
        (("trian",), 2, "No such command 'trian'"),
        (("evaluate", "nowhere"), 2, "'nowhere' does not exist"),
        (("inspect", "nowhere.tflite"), 2, "'nowhere.tflite' does not exist"),
        (("benchmark", "abacus"), 2, "there is no benchmark 'abacus'"),
        (("evaluate", "foreign.keras"), 2, "its recipe is unknown"),
        (("export", "foreign.keras", "--target", "toaster"), 2, "toaster"),
        (("export", "foreign.keras", "--calibration-samples", "0"), 2, "must be at least 1"),
        (
            ("export", "foreign.keras", "--io", "uint8"),
            2,
            "--io uint8 does not fit --quantization none. It is the dtype",
        ),
        (("export", "foreign.keras", "--io", "int16"), 2, "'int16' is not one of 'int8', 'uint8', 'float32'"),
        (("snippet", "letter.txt", "--language", "python"), 1, "letter.txt is not a LiteRT file"),
        (("snippet", "letter.txt", "--language", "rust"), 2, "'rust' is not one of 'python', 'cpp', 'kotlin'"),
        (("export", "corrupt.keras"), 1, "corrupt.keras is not a model that Keras can load"),
        (("inspect", "corrupt.tflite"), 1, "corrupt.tflite"),
        (("evaluate", "corrupt.tflite"), 1, "corrupt.tflite"),
        (("inspect", "letter.txt"), 1, "letter.txt is neither"),
    ],
)
def test_an_error_is_one_line(call, tmp_path, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corrupt.keras").write_bytes(b"PK but not really")
    (tmp_path / "corrupt.tflite").write_bytes(b"\x1c\x00\x00\x00TFL3" + b"\xff" * 64)
    (tmp_path / "letter.txt").write_text("Dear reader")
    if "foreign.keras" in arguments:
        keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "foreign.keras")
    found, out, err = call(*arguments)
    assert (found, out) == (code, "")
    (line,) = [line for line in err.splitlines() if line.startswith("keras-dl: ")]
    assert message in line
    assert "Traceback" not in err
    found, out, _ = call(*arguments, "--json")
    assert found == code
    assert message in json.loads(out)["error"]


def test_divergence_is_exit_code_1(call, tmp_path, monkeypatch):
    def diverge(found, options, *rest):
        raise runner.NonFiniteError("toy: the loss is nan in epoch 2, step 3.", 2, 3, float("nan"))

    monkeypatch.setattr(runner, "train", diverge)
    code, _, err = call("train", "cnn", "--output", tmp_path / "run")
    assert (code, err) == (1, "keras-dl: toy: the loss is nan in epoch 2, step 3.\n")


def test_what_should_not_occur_shows_its_traceback_on_demand(call, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "train", lambda *arguments: {}["missing"])
    code, _, err = call("train", "cnn", "--output", tmp_path / "run")
    assert code == 1
    assert err == "keras-dl: An error that should not occur: KeyError: 'missing'. See where with --debug.\n"
    assert "Traceback" in call("train", "cnn", "--output", tmp_path / "run", "--debug")[2]


def test_the_end_of_a_file_is_no_interruption(call, tmp_path, monkeypatch):
    def end(*arguments):
        raise EOFError("no data left")

    monkeypatch.setattr(runner, "train", end)
    code, _, err = call("train", "cnn", "--output", tmp_path / "run")
    assert code == 1
    assert "EOFError: no data left" in err


def test_a_full_disk_is_said(call, tmp_path, monkeypatch):
    def full(*arguments):
        raise tf.errors.ResourceExhaustedError(None, None, "model.keras; No space left on device\nmore")

    monkeypatch.setattr(runner, "train", full)
    code, _, err = call("train", "cnn", "--output", tmp_path / "run")
    assert (code, err) == (1, "keras-dl: No space left on device: model.keras; No space left on device\n")


def test_an_export_that_ended_among_its_renames_is_said(call, tmp_path, monkeypatch):
    """Until it is exported again, its files may belong to two exports."""
    keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(2)]).save(tmp_path / "mine.keras")
    arguments = ("export", tmp_path / "mine.keras", "--output", tmp_path / "file.tflite", "--overwrite")
    assert call(*arguments)[0] == 0
    assert "Warning" not in call("inspect", tmp_path / "file.tflite")[2]
    original, renamed = os.replace, []

    def broken(source, path):
        if len(renamed) == 2:  # the note in place of the old report, and the file
            raise OSError("broken off")
        renamed.append(path)
        original(source, path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", broken)
        assert call(*arguments)[0] == 1
    assert renamed == [tmp_path / "file.tflite.json", tmp_path / "file.tflite"]
    assert "An export to file.tflite ended before all" in call("inspect", tmp_path / "file.tflite")[2]
    assert call(*arguments)[0] == 0
    assert "Warning" not in call("inspect", tmp_path / "file.tflite")[2]
    (tmp_path / "other.tflite").write_bytes((tmp_path / "file.tflite").read_bytes() + b"\0")
    (tmp_path / "other.tflite.json").write_bytes((tmp_path / "file.tflite.json").read_bytes())
    assert "is not the report of this other.tflite: its sha256 differs" in call("inspect", tmp_path / "other.tflite")[2]


def test_noise_on_stdout_goes_to_stderr(call, tmp_path, monkeypatch):
    def noisy(outcome):
        print("from Python")
        os.write(1, b"from below Python\n")
        return toy.picture(outcome)

    monkeypatch.setattr(recipe, "find", lambda name: toy.RECIPE)
    object.__setattr__(toy.RECIPE, "picture", noisy)
    try:
        arguments = ("train", "toy", "--epochs", 1, "--jit", "off", "--output", tmp_path / "run", "--json")
        code, out, err = call(*arguments)
    finally:
        object.__setattr__(toy.RECIPE, "picture", toy.picture)
    assert code == 0
    json.loads(out)
    assert "from Python" in err
    assert "from below Python" in err


def test_a_recipe_runs_as_a_script(tmp_path):
    run = _process(str(ROOT / "recipes" / "cnn.py"), "--epochs", "0", cwd=tmp_path)
    assert run.returncode == 2
    assert run.stderr.endswith("keras-dl: --epochs 0 must be at least 1.\n")
