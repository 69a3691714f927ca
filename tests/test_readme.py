"""The README says what the reports say, and its commands exist."""

import json
import pathlib
import re
import sys

import pytest

import keras_dl_cli
from keras_dl.recipes.training import recipe

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))
import table  # noqa: E402 - the folder holds scripts, not a package

README = (ROOT / "README.md").read_text()


def test_table_is_made_of_the_reports():
    assert table.written(README) == README, "run python docs/table.py"


def test_table_has_all_31():
    rows = re.findall(r"^\| ([a-z_0-9]+) \|", table.table(), re.MULTILINE)
    assert len(set(rows)) == 31
    assert set(recipe.NAMES) <= set(rows)


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


def test_pictures_and_links_exist():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_commands_exist():
    commands = re.findall(r"^ +keras-dl (\w+)", README, re.MULTILINE)
    assert {"list", "train", "evaluate", "export", "inspect"} <= set(commands)
    assert set(commands) <= set(keras_dl_cli.cli.commands)


def test_options_exist():
    known = {o for command in keras_dl_cli.cli.commands.values() for p in command.params for o in p.opts}
    for line in re.findall(r"^ +keras-dl .*", README, re.MULTILINE):
        assert set(re.findall(r"--[a-z-]+", line.split("#")[0])) <= known, line
