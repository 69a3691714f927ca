"""What predictions come from: a run, a Keras model or an exported file, with the names of its classes."""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

from keras_dl.export import KerasRunner, Runner, inspect, load
from keras_dl.export.signatures import collect
from keras_dl.files import FileError, reading
from keras_dl.loading import load_model
from keras_dl.recipes.training.folder import read_run
from keras_dl.recipes.training.recipe import OptionError
from keras_dl.recipes.training.report import read_json
from keras_dl.text import Subwords, Symbols, read_vocabularies, tokenizers


class Source(NamedTuple):
    """A model, however it is kept.

    Attributes:
        path: `pathlib.Path`.
        inputs: dict by signature of dicts by input of the shape, with one row, and the dtype.
        runner: `runner(names)` returns a `keras_dl.export.Runner` with at least these signatures.
        labels: tuple of str. Names of the classes; empty if they are not known.
        vocabularies: dict of tokenizers by name.
        columns: list of dicts: the columns of an own table, as `keras_dl.recipes.data.table` has them; empty for none.
        domains: tuple of str. Names of the two sets of images that are translated into each other; empty if they are
            not known.
        threshold: float. The probability from which on a point is inside a solid; None if it is not known.
    """

    path: pathlib.Path
    inputs: dict[str, dict[str, tuple[tuple[int, ...], str]]]
    runner: Callable[[list[str]], Runner]
    labels: tuple[str, ...] = ()
    vocabularies: dict[str, Symbols | Subwords] = {}
    columns: tuple[dict, ...] = ()
    domains: tuple[str, ...] = ()
    threshold: float | None = None


def open_source(path, trust=False) -> Source:
    """Opens a run's folder, a `.keras` file, or an exported file.

    Args:
        path: str or path.
        trust: bool. As `keras_dl.export.load` and `keras_dl.loading.load_model` take it.

    Raises:
        OptionError: if a run is not finished.
        FileError: if a file is damaged, or is refused without `trust`; or if a folder holds no run. A ValueError.
        FileNotFoundError: if there is no such file.
    """
    path = pathlib.Path(path)
    run = path.parent if path.name == "model.keras" else path
    if (run / "run.json").exists():
        return _of_run(run)
    if path.suffix == ".keras":
        return _of_model(path, load_model(path, trust=trust), {})
    if path.is_dir() and not (path / "saved_model.pb").exists():
        raise FileError(path, "is a folder without run.json: it is neither a run of keras-dl train nor a SavedModel.")
    metadata = inspect(path, trust)["metadata"]
    runner = load(path, trust=trust)
    shapes = {
        name: {key: (tuple(x["shape"]), "float32" if "scale" in x else x["dtype"]) for key, x in s["inputs"].items()}
        for name, s in runner.signatures.items()
    }
    with reading(path, "a whole file: its vocabularies cannot be read", "Export the model again."):
        vocabularies = tokenizers(metadata.get("vocabularies", {}))
    return Source(path, shapes, lambda names: runner, vocabularies=vocabularies, **_known(metadata))


def _known(document):
    """What a run's report, or the metadata of a file, says of the meaning of outputs: arguments of `Source`."""
    lists = {name: tuple(document.get(name, ())) for name in ("labels", "columns", "domains")}
    return lists | {"threshold": document.get("threshold")}


def _of_run(path):
    run = read_run(path)
    if not run.complete:
        raise OptionError(f"{path} is not finished. Finish the run with --resume.")
    report = read_json(path / "report.json", {"recipe": str})
    known = path / "vocabularies.json"
    vocabularies = read_vocabularies(known) if known.exists() else {}
    return _of_model(path, load_model(path / "model.keras"), report | report.get("figures", {}), vocabularies)


def _of_model(path, model, document, vocabularies=None):
    entries = collect(model)
    shapes = {
        name: {key: (tuple(x.shape), x.dtype) for key, x in entry.inputs.items()} for name, entry in entries.items()
    }
    runner = lambda names: KerasRunner(model, 1, names)  # noqa: E731
    return Source(path, shapes, runner, vocabularies=vocabularies or {}, **_known(document))
