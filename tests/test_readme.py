"""The README and the pages say what the reports say, and their links, commands and options exist."""

import json
import pathlib
import re
import sys

import keras
import pytest

import keras_dl
import keras_dl_cli
from keras_dl.architectures import ARCHITECTURES
from keras_dl.recipes.training import recipe

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))
import reports  # noqa: E402 - the folder holds scripts, not a package
import table  # noqa: E402

README = (ROOT / "README.md").read_text()
WRITTEN = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [*WRITTEN, *sorted((ROOT / "docs" / "results").rglob("*.md"))]
RESULTS = [path for path in (ROOT / "docs" / "results").iterdir() if (path / "report.json").exists()]


def name(path):
    return str(path.relative_to(ROOT))


def test_readme_is_short():
    assert len(README.splitlines()) < 150


def test_table_and_pages_are_made_of_the_reports():
    texts = table.texts()
    assert len(texts) == len(RESULTS) + 3  # a page for each, the index, the README, and the list of recipes
    reports.write(texts, check=True)


def test_what_differs_from_the_reports_is_named(capsys):
    page = "docs/results/cnn-mnist_5k/README.md"
    old = (ROOT / page).read_text()
    with pytest.raises(SystemExit, match=rf"{page}.*Run python docs/table.py"):
        reports.write(table.texts() | {page: old.replace("0.9870", "0.9970")}, check=True)
    assert (ROOT / page).read_text() == old


def test_table_has_all_31():
    text = table.table()
    built, _, planned = text.partition("\n\nPlanned: ")
    for architecture in ARCHITECTURES:
        assert (f"| {architecture.title}<br>" in built) == bool(architecture.classes)
        assert (architecture.title in planned[:-1].split(", ")) == (not architecture.classes)
        assert all(f"`{public}`" in built for public in architecture.classes)


@pytest.mark.parametrize("name", recipe.NAMES)
def test_every_recipe_was_measured(name):
    """At full size, on this version, with an artifact whose metric was measured again."""
    paths = list((ROOT / "docs" / "results").glob(f"{name}-*/report.json"))
    assert paths, f"run python docs/reproduce.py {name}"
    for path in paths:
        report = json.loads(path.read_text())
        assert report["smoke"] is False
        assert report["recipe"] == name
        exported = json.loads((path.parent / "none-cpu.json").read_text())
        assert exported["flex_ops"] == 0
        assert exported["metric"]["keras"] == pytest.approx(exported["metric"]["artifact"], abs=1e-3)


REQUIRED = {"gcn_cora": dict(num_features=1433, num_classes=7)}  # what the data set decides
WITH_PRESET = [architecture for architecture in ARCHITECTURES if architecture.preset]


@pytest.mark.parametrize("architecture", WITH_PRESET, ids=lambda architecture: architecture.name)
def test_best_known_presets_have_the_parameters_of_the_table(architecture):
    cls, preset = architecture.preset
    assert cls in architecture.classes
    with keras.StatelessScope(initialize_variables=False):  # counts without memory for the weights
        model = getattr(keras_dl, cls).from_preset(preset, **REQUIRED.get(preset, {}))
        assert sum(weight.shape.num_elements() for weight in model.trainable_weights) == architecture.parameters


def anchors(path):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_pictures_and_links_exist(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert linked.is_relative_to(ROOT)
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("page", WRITTEN, ids=name)
def test_figures_link_to_pages_that_a_person_can_read(page):
    assert not re.findall(r"\]\(([^)]+\.(?:json|csv))\)", page.read_text())


def test_every_page_is_linked():
    """From the index of the documentation or that of the results."""
    for index in (ROOT / "docs" / "README.md", ROOT / "docs" / "results" / "README.md"):
        linked = {(index.parent / target).resolve() for target in re.findall(r"\]\(([^)#]+)\)", index.read_text())}
        beside = [*index.parent.glob("*.md"), *index.parent.glob("*/README.md")]
        assert {path for path in beside if path != index} <= linked


def commands(page):
    """The calls of `keras-dl` on a page, as words. What `launch` starts is a call of its own."""
    lines = re.findall(r"^ {4}(?:\w+=\S+ |\.venv/bin/)*keras-dl (.*)", page.read_text(), re.MULTILINE)
    calls = [line.split("#")[0].split() for line in lines]
    calls += [line.split() for line in re.findall(r"`(?:\w+=\S+ )*keras-dl ([^`]*)`", page.read_text())]
    result = []
    for call in calls:
        end = call.index("train") if call[0] == "launch" and "train" in call else len(call)
        result += [part for part in (call[:end], call[end:]) if part]
    return result


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=name)
def test_commands_and_options_exist(page):
    for words in commands(page):
        command = keras_dl_cli.cli.commands.get(words[0])
        assert command, f"keras-dl {words[0]}"
        if hasattr(command, "commands"):
            command = command.commands[words[1]]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= known, words


def test_readme_has_the_four_commands():
    assert {"train", "evaluate", "export", "inspect"} <= {words[0] for words in commands(ROOT / "README.md")}
