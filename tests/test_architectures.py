"""One table of architectures feeds every list of them, and its facts hold together."""

import ast
import inspect
import pathlib
import re
import subprocess
import sys

import pytest
from cases import CASES

import keras_dl
import keras_dl_cli
from keras_dl.architectures import ARCHITECTURES, ROOMS
from keras_dl.recipes.training import recipe

ROOT = pathlib.Path(__file__).resolve().parent.parent
TABLE = ROOT / "keras_dl" / "architectures.py"
READY = [architecture for architecture in ARCHITECTURES if architecture.classes]
NAMES = {architecture.name for architecture in ARCHITECTURES}


def test_names_are_unique():
    assert len(NAMES) == len(ARCHITECTURES) >= 31


@pytest.mark.parametrize("architecture", READY, ids=lambda architecture: architecture.name)
def test_classes_that_return_logits_say_so(architecture):
    """Else `compile` takes a loss of probabilities, and no file of the class can learn."""
    for name in architecture.classes:
        of = getattr(keras_dl, name)
        returned = re.search(r"\nReturns:\n(.*?)\n\n\w", inspect.getdoc(of), re.DOTALL)
        if returned and returned[1].lstrip().startswith("float") and "logits" in returned[1]:
            assert of.returns_logits, name  # a property, or True


def test_the_page_of_weights_names_each_class_that_loads_some():
    rows = re.findall(r"^\| .*`load_.*", (ROOT / "docs" / "training.md").read_text(), re.MULTILINE)
    own = re.compile(r"load_(torch|torchvision|transformers|diffusers|bert|tensors|keras)")
    loaders = [
        (name, method)
        for name in dir(keras_dl)
        if inspect.isclass(getattr(keras_dl, name))
        for method in filter(own.fullmatch, dir(getattr(keras_dl, name)))
    ]
    assert loaders
    missing = [x for x in loaders if not any(f"`{x[0]}`" in row and f"`{x[1]}`" in row for row in rows)]
    assert not missing


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda architecture: architecture.name)
def test_rows_are_whole(architecture):
    assert architecture.name.isidentifier()
    assert architecture.name.islower()
    assert architecture.room in ROOMS
    assert all((architecture.title, architecture.authors, architecture.paper))
    assert 1950 < architecture.year < 2030
    if architecture.arxiv:  # a number begins with the year and the month of the first version
        assert re.fullmatch(r"\d{4}\.\d{4,5}", architecture.arxiv)
        assert architecture.year == 2000 + int(architecture.arxiv[:2])
    assert architecture.citation.startswith(f"{architecture.authors} {architecture.year}")
    assert architecture.recipe == (architecture.name if architecture.classes else None)


@pytest.mark.parametrize("architecture", READY, ids=lambda architecture: architecture.name)
def test_an_architecture_has_its_files(architecture):
    """Its model, case, test and recipe; all of them stand under its name."""
    assert (ROOT / "tests" / "cases" / f"{architecture.name}.py").exists()
    assert (ROOT / "tests" / f"test_{architecture.name}.py").exists()
    assert (ROOT / "recipes" / f"{architecture.name}.py").exists()
    classes = [getattr(keras_dl, name) for name in architecture.classes]
    rooms = {value.__module__.split(".")[2] for value in classes if value.__module__.startswith("keras_dl.models.")}
    assert architecture.room in rooms or not rooms  # the classes of attention are layers
    assert recipe.find(architecture.name).name == architecture.name
    names = {value.__name__ for value in classes}
    assert {case.model.__name__ for case in CASES if case.architecture == architecture.name} <= names
    trained = recipe.find(architecture.name).model
    assert trained in names, f"recipes/{architecture.name}.py trains {trained}, which is not in its row"


def test_the_table_is_the_only_list():
    """No other file lists architectures in a tuple, list, set or dict, which one more would have to join."""
    sources = [*ROOT.glob("*.py"), *(path for part in FOLDERS for path in (ROOT / part).rglob("*.py"))]
    assert TABLE in sources
    lists = {
        f"{path.relative_to(ROOT)}:{node.lineno}": sorted(_listed(node))
        for path in sources
        if path != TABLE
        for node in ast.walk(ast.parse(path.read_text()))
        if len(_listed(node)) > MOST
    }
    assert not lists, "derive these lists from keras_dl/architectures.py"
    setup = (ROOT / "setup.cfg").read_text()
    assert not [name for name in NAMES if re.search(rf"^ *{name}\b", setup, re.MULTILINE)]


def test_a_list_beside_the_table_would_be_noticed():
    tuple_ = 'x = (*("mlp", "cnn"), "vit", "gan", "tcn")'
    dict_ = 'x = {"mlp": 1, "cnn": 2, "vit": 3, "gan": 4, "tcn": 5}'
    for code in (tuple_, dict_):
        nodes = list(ast.walk(ast.parse(code)))
        assert max(len(_listed(node)) for node in nodes) == MOST + 1


FOLDERS = ("keras_dl", "keras_dl_cli", "export", "recipes", "benchmarks", "docs", "tests")
MOST = 4  # the recipe of the TCN compares it with three others


def _listed(node):
    """The names of architectures that stand in a literal collection itself, or are its keys."""
    entries = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", ())
    entries = [part for entry in entries for part in getattr(getattr(entry, "value", None), "elts", (entry,))]
    strings = {entry.value for entry in entries if isinstance(entry, ast.Constant) and isinstance(entry.value, str)}
    return NAMES & strings


def test_recipes_are_those_of_the_table():
    files = {path.stem for path in (ROOT / "recipes").glob("*.py") if "\nRECIPE = " in path.read_text()}
    assert files == set(recipe.NAMES) == {architecture.name for architecture in READY}
    assert {path.stem for path in (ROOT / "recipes").glob("*.py")} == {*files, "__init__"}


def test_cases_are_those_of_the_table():
    assert {case.architecture for case in CASES} == {architecture.name for architecture in READY}


def test_the_table_is_read_without_tensorflow():
    code = (
        "import sys, keras_dl_cli\n"
        "print(*(row.name for row in keras_dl_cli.architectures()))\n"
        "assert not {'tensorflow', 'keras', 'keras_dl'} & set(sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [architecture.name for architecture in ARCHITECTURES]
    assert keras_dl_cli.architectures()[0] == tuple(ARCHITECTURES[0])
