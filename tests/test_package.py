"""The house's rules: which way imports run, what is public, what is installed, and how long an import takes."""

import ast
import configparser
import importlib.metadata
import inspect
import pathlib
import re
import subprocess
import sys

import keras
import pytest
from cases import CASES
from packaging.requirements import Requirement

import keras_dl
from keras_dl.architectures import ARCHITECTURES

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUTERMOST = ("keras_dl", "keras_dl_cli")  # the other folders are installed as parts of keras_dl
SOURCES = [
    path for folder in (*OUTERMOST, "export", "recipes", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))
]

# Each part may import itself and what stands to its left; the files of keras_dl itself belong to all.
ORDER = ["ops", "layers", "diffusion", "models"]


def _imports(path):
    """The dotted names that a file imports anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports would break the two layouts"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    part = path.relative_to(ROOT).parts
    for name in _imports(path):
        parts = name.split(".")
        assert parts[0] not in ("export", "recipes", "benchmarks", "tests"), (
            f"{name}: say keras_dl.{name}, or two copies are loaded"
        )
        if parts[0] != "keras_dl" or len(parts) == 1:
            continue
        if part[0] == "export":
            assert parts[1] not in (*ORDER, "recipes", "benchmarks"), (
                f"export serves any model: it must not import {name}"
            )
        if part[0] == "export" or (part[0] == "keras_dl" and part[1:] != ("__init__.py",)):
            assert parts[1].islower(), f"{name} loads the whole package: name the module that holds it"
        if part[0] == "keras_dl":
            assert parts[1] not in ("export", "recipes", "benchmarks"), f"a model must not import {name}"
            if len(part) > 2 and parts[1] in ORDER:
                assert ORDER.index(parts[1]) <= ORDER.index(part[1]), f"{part[1]} must not import {name}"
            elif len(part) == 2 and part[1] != "__init__.py":
                assert parts[1] not in ORDER, f"{part[1]} is below the architectures and must not import {name}"


BASES = (keras_dl.FunctionalModel, keras_dl.Layer, keras_dl.Model)


def _public_classes():
    for name in keras_dl.__all__:
        value = getattr(keras_dl, name)
        if inspect.isclass(value) and issubclass(value, keras.Layer) and value not in BASES:
            yield value


@pytest.mark.parametrize("value", list(_public_classes()), ids=lambda value: value.__name__)
def test_public_class_is_whole(value):
    """It has a row in the table of architectures, a case, a docstring with its parts, and is registered.

    The case of a cell is that of the layer around it, which stands in the same module.
    """
    around = [value]
    if value.__name__.endswith("Cell"):
        around = [other for other in _public_classes() if other.__module__ == value.__module__]
    architectures = {architecture.name for architecture in ARCHITECTURES if value.__name__ in architecture.classes}
    assert architectures, f"{value.__name__} has no row in keras_dl/architectures.py"
    without = architectures - {case.architecture for case in CASES if case.model in around}
    assert not without, f"{value.__name__} has no case in tests/cases of {without}"
    for part in ("Args:", "Call arguments:", "Returns:", "Raises:", "Example:", ">>>"):
        assert part in value.__doc__, f"the docstring of {value.__name__} has no part {part}"
    assert keras.saving.get_registered_name(value) == f"keras_dl>{value.__name__}"


@pytest.mark.parametrize("module", [keras_dl.layers, keras_dl.ops], ids=lambda module: module.__name__)
def test_building_blocks_are_documented_and_registered(module):
    """All that `keras_dl.layers` and `keras_dl.ops` export. (test_docs.py runs the examples.)"""
    assert module.__all__
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isclass(value) and issubclass(value, Exception):
            assert value.__doc__, f"{name} has no docstring"
            continue
        parts = ["Args:", "Returns:", "Example:", ">>>"]
        if inspect.isclass(value):
            assert issubclass(value, keras.Layer)
            assert keras.saving.get_registered_name(value) == f"keras_dl>{name}"
            parts.append("Call arguments:")
        for part in parts:
            assert part in value.__doc__, f"the docstring of {name} has no part {part}"


def test_cases_have_names_of_their_own():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names) > 0


SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")


def test_every_package_is_installed():
    listed = set(SETUP["options"]["packages"].split())
    folders = [path.parent.relative_to(ROOT).parts for path in SOURCES]
    packages = {".".join(parts if parts[0] in OUTERMOST else ("keras_dl", *parts)) for parts in folders}
    assert packages == listed, "setup.cfg lists other packages than there are folders: mend [options] packages"


def _declared(*extras):
    """The names of the distributions that the package requires, and that the extras add."""
    lines = SETUP["options"]["install_requires"].splitlines()
    lines += [line for extra in extras for line in SETUP["options.extras_require"][extra].splitlines()]
    return {re.split(r"[^\w.-]", line)[0].lower().replace("_", "-") for line in lines if line[:1] not in ("", "#", "%")}


@pytest.mark.parametrize(
    ("system", "machine", "installed"),
    [("linux", "x86_64", True), ("darwin", "arm64", False), ("linux", "aarch64", False), ("win32", "AMD64", False)],
)
def test_all_can_be_installed_where_tflite_micro_has_no_wheel(system, machine, installed):
    (line,) = [x for x in SETUP["options.extras_require"]["edge"].splitlines() if x.startswith("tflite-micro")]
    marker = Requirement(line).marker
    assert marker.evaluate({"sys_platform": system, "platform_machine": machine}) is installed


EXTRAS = {
    "keras_dl": (),
    "keras_dl_cli": ("recipes",),
    "export": ("export", "edge"),
    "recipes": ("recipes",),
    "benchmarks": ("benchmarks", "edge"),
}


def test_every_import_is_declared():
    """Each part imports from `install_requires` and its own extra; `require` names an extra that has the module."""
    providers = importlib.metadata.packages_distributions()
    missing = set()
    for path in SOURCES:
        part = path.relative_to(ROOT).parts[0]
        imported = [(name, EXTRAS[part]) for name in _imports(path)]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require":
                (extra,) = (keyword.value.value for keyword in node.keywords if keyword.arg == "extra")
                if isinstance(node.args[0], ast.Constant):  # else a name that is known only when it runs
                    imported.append((node.args[0].value, (extra,)))
        for name, extras in imported:
            module = name.split(".")[0]
            if module in sys.stdlib_module_names or module in OUTERMOST:
                continue
            names = {other.lower().replace("_", "-") for other in providers.get(module, [module])}
            if not names & _declared(*extras):
                missing.add(f"{path.relative_to(ROOT)} imports {module}")
    assert not missing


OUTSIDE = ("keras_dl.tests", "keras_dl.docs", "keras_dl.keras_dl", "keras_dl.keras_dl.base", "keras_dl.keras_dl_cli")


@pytest.mark.parametrize("where", ["root", "elsewhere"])
def test_a_clone_has_one_copy_of_each_module(where, tmp_path):
    """Also where `python -m pytest` and `python -c` put the clone first: its other folders are no parts of keras_dl."""
    code = f"""
import importlib, sys
import keras_dl, keras_dl.export.targets, keras_dl.recipes.training.recipe, keras_dl.benchmarks
for name in {OUTSIDE}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{{name}} can be imported")
files = [module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "keras_dl"]
assert len(files) == len(set(files)), files
print(*files, sep="\\n")
"""
    run = _python(code, cwd=ROOT if where == "root" else tmp_path)
    assert run.returncode == 0, run.stderr
    assert all(pathlib.Path(line).is_relative_to(ROOT) for line in run.stdout.split())
    assert len(run.stdout.split()) > 50


def test_plain_models_stay_plain_beside_functional_ones():
    """Keras makes a class functional by changing the bases above it, which all classes of the package share."""
    keras_dl.MLP(4, 2)

    class Doubling(keras_dl.Model):
        def call(self, x):
            return 2 * x

    assert Doubling()(keras.ops.ones((1, 1))).numpy().item() == 2
    inputs = keras.Input((3,))
    assert keras_dl.Model(inputs, keras.layers.Dense(2)(inputs))(keras.ops.ones((1, 3))).shape == (1, 2)
    assert not issubclass(Doubling, keras.Model(inputs, inputs).__class__)
    Doubling()


def test_missing_extra_names_the_pip_command():
    from keras_dl.extras import require

    with pytest.raises(ImportError, match=r"pip install 'keras_dl\[recipes\]'"):
        require("no_such_module_anywhere", extra="recipes")


def _python(code, **options):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, **options)


def test_import_is_light():
    """`import keras_dl` adds less than 15% to the CPU time of `import keras`, and loads nothing of an extra."""
    code = (
        "import sys, time; start = time.process_time(); import keras; keras_seconds = time.process_time() - start;"
        "before = set(sys.modules); start = time.process_time();"  # Keras takes what it finds
        "import keras_dl; seconds = time.process_time() - start;"
        "import keras_dl.export, keras_dl.recipes.training.recipe;"
        "print(seconds / keras_seconds, *{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    run = _python(code)
    share, *loaded = run.stdout.split()
    assert float(share) < 0.15
    optional = {"tensorflow_datasets", "matplotlib", "sklearn", "onnxruntime", "tf2onnx", "ai_edge_litert", "click"}
    assert not optional & set(loaded)


def test_predict_is_imported_when_it_is_asked_for():
    code = (
        "import sys, keras_dl; assert 'keras_dl.recipes' not in sys.modules; assert 'predict' in dir(keras_dl);"
        "from keras_dl import predict; from keras_dl.recipes import prediction; assert predict is prediction.predict"
    )
    run = _python(code)
    assert run.returncode == 0, run.stderr
    with pytest.raises(AttributeError, match="module 'keras_dl' has no attribute 'foresee'"):
        keras_dl.foresee  # noqa: B018


def test_other_backends_are_refused():
    run = _python("import keras; keras.backend.backend = lambda: 'torch'; import keras_dl")
    assert run.returncode == 1
    assert "KERAS_BACKEND=tensorflow" in run.stderr


def test_ruff_is_clean():
    for command in (["check"], ["format", "--check"]):
        run = subprocess.run(
            [sys.executable, "-m", "ruff", *command, str(ROOT)], capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stdout + run.stderr


def test_python_runs_in_safe_processes_only():
    """Every process of Python leaves out modules of the user's folder: see `keras_dl.processes`."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr == "executable" and path.name != "processes.py":
                assert path.name == "wheels.py", f"{path}: use keras_dl.processes.python"  # it names it in a message
                assert "{sys.executable}" in path.read_text().splitlines()[node.lineno - 1], path
            if path.name in ("tarballs.py", "debs.py"):
                continue  # they run npm and apt, in a folder of their own
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("subprocess.run", "subprocess.Popen"):
                assert "processes import python" in path.read_text(), f"{path}: use keras_dl.processes.python"


def test_replacing_keeps_the_old_file_when_the_new_one_fails(tmp_path):
    from keras_dl.files import replacing

    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="interrupted"), replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("half of the n")
        raise RuntimeError("interrupted")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_replacing_swaps_whole_folders(tmp_path):
    from keras_dl.files import replacing

    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "old.txt").touch()
    with replacing(folder) as temporary:
        temporary.mkdir()
        (temporary / "new.txt").touch()
    assert [path.name for path in folder.iterdir()] == ["new.txt"]
    assert list(tmp_path.iterdir()) == [folder]
