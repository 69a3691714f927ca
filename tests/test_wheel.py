"""The wheel works outside the clone: built, installed into a new environment, and used from an empty folder."""

import pathlib
import subprocess
import sys
import venv
import zipfile

import keras
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

USE = """
import importlib, keras, keras_dl, keras_dl.export, keras_dl.recipes.training.recipe, keras_dl_cli, pathlib, sys
assert pathlib.Path(keras_dl.__file__).is_relative_to(sys.prefix), keras_dl.__file__
assert pathlib.Path(keras_dl.export.__file__).is_relative_to(sys.prefix), keras_dl.export.__file__
model = keras_dl.LeNet5((28, 28, 1), 10)
report = keras_dl.export.export(model, "lenet.tflite")
assert report.flex_ops == 0
assert len(keras_dl_cli.architectures()) == 31
for name in ("keras_dl.tests", "keras_dl.docs", "keras_dl.keras_dl.base"):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{name} can be imported")
print("used the wheel")
"""


def _run(*command, cwd):
    run = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"{command}\n{run.stdout}\n{run.stderr}"
    return run.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # By way of a source archive, so that nothing left in the clone by an earlier build gets in.
    _run(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_claims_no_other_names(wheel):
    """`export` and `recipes` go in as parts of keras_dl, and the command line's package bears its name.

    A wheel must not claim names such as `export` in site-packages.
    """
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"keras_dl", "keras_dl_cli"}


def test_wheel_says_that_it_has_types(wheel):
    """Type checkers read the annotations of a package only where it holds this marker."""
    assert "keras_dl/py.typed" in zipfile.ZipFile(wheel).namelist()


def test_wheel_has_the_lists_of_recipes_and_presets(wheel):
    """`keras-dl list` reads them."""
    assert {f"keras_dl/recipes/{name}.json" for name in ("recipes", "presets")} <= set(
        zipfile.ZipFile(wheel).namelist()
    )


def test_wheel_works_in_an_empty_folder(wheel, tmp_path):
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    # The dependencies are lent by the folder that holds Keras, as a plain path: an editable keras_dl in it stays out.
    (site,) = (environment / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(str(pathlib.Path(keras.__file__).parents[1]))
    empty = tmp_path / "empty"
    empty.mkdir()
    _run(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel, cwd=empty)
    assert "used the wheel" in _run(python, "-c", USE, cwd=empty)
    assert "train" in _run(environment / "bin" / "keras-dl", "--help", cwd=empty)
    assert "LeNet5" in _run(environment / "bin" / "keras-dl", "list", cwd=empty)
