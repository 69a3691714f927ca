"""Which tests a change asks for, by the imports of each test: what `make test-changed` runs.

A test file is asked for if it changed, or a module that it imports, or one that those import, and so on; a case of the
battery, if its file of cases or a module that the case needs did. `import keras_dl` alone means no module of it, and
`keras_dl.ViT` means the module of `ViT`: else each change would ask for all tests. `recipe.find("vit")` means the
recipe of that name. What no rule knows asks for all.
"""

import ast
import functools
import pathlib
import re
import subprocess

from parts import part_of

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUTERMOST = ("keras_dl", "keras_dl_cli")
PACKAGES = {
    **{name: name for name in OUTERMOST},
    **{name: f"keras_dl.{name}" for name in ("export", "recipes", "benchmarks")},
}

# Changes to these ask for all tests.
ALL = ("setup.cfg", "pyproject.toml", "constraints.txt", "tests/conftest.py")
# Changes to these ask for no test but those in ALWAYS.
NONE = (
    "Makefile",
    "ruff.toml",
    ".gitignore",
    ".ci/",
    "docs/",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "README.md",
)
# Quick tests that read all files.
ALWAYS = ("test_package", "test_readme")
# The checks of the battery that export.
FILE_CHECKS = ("exports", "exports_to_onnx")


class NoBase(Exception):
    """There is no revision to compare with."""


def changed_files(base=None, root=ROOT):
    """The files that differ from a revision: committed since it branched off, changed, or new.

    Args:
        base: str: a revision; None for origin/main, or the last tag where there is no such branch.
        root: path of the clone.

    Returns:
        list of str: paths from `root`; those of deleted files too.

    Raises:
        NoBase: if there is no such revision.
    """
    base = base or _default_base(root)
    fork = _git(root, "merge-base", base, "HEAD")
    if fork is None:
        raise NoBase(f"{base!r} is no revision of this repository: name another by BASE=.")
    differing = _git(root, "diff", "--name-only", "--no-renames", fork.strip())
    new = _git(root, "ls-files", "--others", "--exclude-standard")
    return sorted({*differing.splitlines(), *new.splitlines()})


def _default_base(root):
    if _git(root, "rev-parse", "--verify", "--quiet", "origin/main") is not None:
        return "origin/main"
    tag = _git(root, "describe", "--tags", "--abbrev=0")
    if tag is None:
        raise NoBase("there is neither origin/main nor a tag to compare with: name a revision by BASE=.")
    return tag.strip()


def _git(root, *arguments):
    """What git prints; None if it fails."""
    run = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    return run.stdout if run.returncode == 0 else None


class Imports:
    """The modules of a clone and what each of them needs.

    Args:
        root: path of the clone.
    """

    def __init__(self, root=ROOT):
        self.root = pathlib.Path(root)
        self.files = {}  # path by the name of the module
        for folder, package in PACKAGES.items():
            for path in (self.root / folder).rglob("*.py"):
                self.files[_dotted(package, path.relative_to(self.root / folder))] = path
        for path in (self.root / "tests").rglob("*.py"):
            self.files[_dotted("", path.relative_to(self.root / "tests"))] = path
        for folder in (self.root, self.root / "docs"):
            for path in folder.glob("*.py"):
                self.files[path.stem] = path
        self.needs = functools.cache(self._needs)

    def module(self, path):
        """The name of the module in a file, given by its path from the root; None if it holds none."""
        return next((name for name, file in self.files.items() if file == self.root / path), None)

    def closure(self, name):
        """set of str: a module and all that it needs, near or far."""
        seen, open_ = set(), [name]
        while open_:
            if (current := open_.pop()) not in seen:
                seen.add(current)
                open_ += self.needs(current)
        return seen

    def public(self):
        """set of str: the modules of all that `keras_dl` has."""
        return {self._resolved(dotted) for dotted in self._lent("keras_dl").values()} & set(self.files)

    def _needs(self, name):
        """set of str: the modules that one needs itself. A package needs none: who needs it, needs parts of it."""
        path = self.files.get(name)
        if path is None or path.name == "__init__.py":
            return set()
        return {self._resolved(dotted) for dotted in _names(path)} & set(self.files)

    def _resolved(self, dotted):
        """The module in which a name is defined; a package's own name where it only stands there."""
        parts = dotted.split(".")
        for end in range(len(parts), 0, -1):
            module = ".".join(parts[:end])
            if module in self.files:
                rest = parts[end] if end < len(parts) else None
                inside = self._lent(module).get(rest)
                return self._resolved(inside) if inside and inside != dotted else module
        return dotted

    @functools.cache  # noqa: B019 - one object a run
    def _lent(self, package):
        """What a package's `__init__.py` imports from elsewhere: full names by the name that it has there."""
        path = self.files[package]
        if path.name != "__init__.py":
            return {}
        tree = ast.parse(path.read_text())
        found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
        return {x.asname or x.name: f"{node.module}.{x.name}" for node in found for x in node.names}


def _dotted(package, path):
    parts = [*package.split("."), *path.with_suffix("").parts]
    return ".".join(part for part in parts if part and part != "__init__")


def _names(path):
    """The dotted names that a file imports or writes out, `keras_dl.export.load`, and those of recipes it finds."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and (written := _written(node)):
            yield written
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "recipe.find":
            yield from (f"keras_dl.recipes.{x.value}" for x in node.args if isinstance(x, ast.Constant))


def _written(node):
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) and node.id in OUTERMOST else None


_imports = functools.cache(Imports)


class Selection:
    """Says of a test whether changes ask for it.

    Args:
        files: list of str: paths of the changed files from the root.
        root: path of the clone.

    Attributes:
        all: bool. Whether they ask for all tests.
    """

    def __init__(self, files, root=ROOT):
        self._imports = _imports(root)
        self._modules, self._data = set(), []
        self.all = False
        for file in files:
            module = self._imports.module(file)
            if file in ALL:
                self.all = True
            elif module is not None:
                self._modules.add(module)
            elif file.startswith("tests/"):
                self._data.append(pathlib.PurePath(file))
            elif not file.endswith(".py") and not file.startswith(NONE):
                self.all = True
        self._recipes = {name.split(".")[2] for name in self._modules if re.fullmatch(r"keras_dl\.recipes\.\w+", name)}
        self._touched = functools.cache(self._touches)

    def wants(self, path, architecture=None, check=None, values=()):
        """Whether changes ask for a test.

        Args:
            path: of its file, from the root.
            architecture, check: str, of a test of the battery.
            values: the values of its parameters.
        """
        if self.all:
            return True
        stem = pathlib.PurePath(path).stem
        if architecture is not None:
            machinery = {name for name in self._imports.closure(stem) if not name.startswith("keras_dl")}
            if machinery & self._modules or self._touched(f"cases.{architecture}"):
                return True
            return check in FILE_CHECKS and self._touched("battery")
        if stem == "test_docs":  # the examples of a module
            return any(self._touched(name) for name in values if isinstance(name, str))
        if stem == "test_saved":  # files of all classes
            return any(self._touched(name) for name in {stem} | self._imports.public())
        if stem in ALWAYS or self._touched(stem) or self._reads_data(stem):
            return True
        if stem == "test_recipes":  # finds recipes by their names
            return any(self._touched(f"keras_dl.recipes.{x}") for x in values if isinstance(x, str))
        return part_of(stem) in self._recipes

    def _touches(self, module):
        return bool(self._imports.closure(module) & self._modules)

    def _reads_data(self, stem):
        """Whether the test names one of the changed files that are no modules, such as an oracle."""
        path = self._imports.files.get(stem)
        source = "" if path is None else path.read_text()
        return any(file.name in source or f'"{file.stem}"' in source for file in self._data)
