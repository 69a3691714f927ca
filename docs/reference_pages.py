"""The reference: a page for each folder of the package, which mkdocstrings fills with the docstrings of its modules.

The site has them (`make docs`); they are no files of docs/.
"""

import ast
import configparser

from reports import ROOT

from keras_dl.architectures import ROOMS

FOLDER = "docs/reference"
MODELS = "keras_dl.models."

SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
PACKAGES = SETUP["options"]["packages"].split()
PLACES = dict(line.split(" = ") for line in SETUP["options"]["package_dir"].strip().splitlines())


def texts() -> dict[str, str]:
    """The text of each page by its path, as if it were a file of the repository."""
    return {f"{FOLDER}/README.md": _index(), **{path(package): _page(package) for package in PACKAGES}}


def path(package: str) -> str:
    """Where the page of a package would stand in the repository."""
    return f"{FOLDER}/{package}.md"


def navigation() -> list:
    """The index, and a page for each package, as `nav` of MkDocs has them."""
    entries = [{_title(package): path(package).removeprefix("docs/")} for package in PACKAGES]
    return [f"{FOLDER.removeprefix('docs/')}/README.md", *entries]


def module(file: str) -> str | None:
    """The name by which a Python file of the repository, such as `recipes/cnn.py`, is imported; None if it is not."""
    for name, folder in PLACES.items():
        if file.startswith(f"{folder}/") and file.endswith(".py"):
            return (name + file.removeprefix(folder).removesuffix(".py").replace("/", ".")).removesuffix(".__init__")
    return None


def folder(package: str):
    """The folder of a package."""
    name = max((name for name in PLACES if f"{package}.".startswith(f"{name}.")), key=len)
    return ROOT / PLACES[name] / package.removeprefix(name).replace(".", "/").lstrip("/")


def _title(package):
    room = package.removeprefix(MODELS)
    return f"{package}: {ROOMS[room]}" if room in ROOMS else package


def _index():
    lines = [f"- [{_title(package)}]({package}.md)" for package in PACKAGES]
    return "\n".join(
        [
            "# Reference",
            "",
            "The docstrings of all modules. Models have a page for each room: what goes in and comes out. All classes "
            "of models are names of `keras_dl` itself, such as `keras_dl.ResNet`.",
            "",
            *lines,
            "",
        ]
    )


def _page(package):
    modules = sorted(file.stem for file in folder(package).glob("*.py") if _described(file))
    names = [package if stem == "__init__" else f"{package}.{stem}" for stem in modules]
    return "\n\n".join([f"# {_title(package)}", *(_entry(name) for name in names)]) + "\n"


def _described(file):
    if file.stem == "__init__":
        return bool(ast.get_docstring(ast.parse(file.read_text())))
    return file.stem != "__main__"


def _entry(name):
    return f"::: {name}" + ("\n    options: {members: false}" if name in PACKAGES else "")
