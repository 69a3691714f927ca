"""The folder of a run, and the rules for starting, continuing and replacing it.

RUN/
  run.json           the options of the run, and whether XLA was chosen; written first
  checkpoints/       one file per variant, until the run is complete
  failure.json       after a loss that is not finite: the place, and the epoch of last_good.keras
  last_good.keras
  model.keras        the first variant
  vocabularies.json  for text: its tokenizers
  history.csv        the logs of Keras, one row per epoch and variant
  picture.png
  report.json        written last: with it, the run is complete
  tensorboard/       with --tensorboard
  exports/           files of `keras-dl export`
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil

from keras_dl.files import replacing
from keras_dl.recipes.training.progress import say
from keras_dl.recipes.training.recipe import OptionError, Options
from keras_dl.recipes.training.report import versions, write_json

# Options that may differ when a run is continued: the folder of the data does not change the result.
NOT_KEPT = ("data_dir",)


class RunFolder:
    """The folder of a run, which exists.

    Args:
        path: str or path.
        record: dict, the contents of `run.json`.
    """

    def __init__(self, path, record):
        self.path = pathlib.Path(path)
        self.record = record

    def __truediv__(self, name):
        return self.path / name

    @property
    def options(self):
        """The `Options` of the run."""
        return Options(**self.record["options"])

    @property
    def complete(self):
        return (self / "report.json").exists()

    def checkpoint(self, variant):
        """Path of a variant's checkpoint."""
        return self / "checkpoints" / f"{variant}.npz"

    def update(self, **entries):
        """Adds entries to run.json."""
        self.record = self.record | entries
        write_json(self / "run.json", self.record)

    def finish(self, report):
        """Writes the report, which makes the run complete, and removes what only an unfinished run needs."""
        write_json(self / "report.json", report)
        self.clean()

    def clean(self):
        """Removes what a complete run does not need: checkpoints, and the run that this one replaces."""
        shutil.rmtree(self / "checkpoints", ignore_errors=True)
        if self.record["replaces"]:
            shutil.rmtree(self.path.parent / self.record["replaces"], ignore_errors=True)


def open_run(path, options, resume=False, overwrite=False):
    """Makes the folder of a run, or opens it to continue the run.

    Args:
        path: str or path.
        options: `Options` of the run.
        resume: bool. Continues the run in the folder, which must have equal options; starts it if there is none.
        overwrite: bool. Replaces the run in the folder. The old one is kept as `NAME.previous` until the new one is
            complete.

    Returns:
        `RunFolder`.

    Raises:
        OptionError: if the folder exists and both are False; if it is not the folder of a run; if its run has other
            options; or if another process trains in it.
    """
    path = pathlib.Path(path)
    check(path, options, resume, overwrite)
    if _is_free(path):
        return _begin(path, options, replaces=None)
    with locked(path):  # fails if a process trains in it
        pass
    return _continue(path) if resume else _begin(path, options, replaces=_move_aside(path))


def check(path, options, resume=False, overwrite=False):
    """Raises the errors of `open_run`, and changes nothing."""
    path = pathlib.Path(path)
    if _is_free(path):
        return
    if not path.is_dir():
        raise OptionError(f"--output {path} is a file; a run needs a folder.")
    if not (path / "run.json").exists():
        raise OptionError(f"--output {path} exists and is not the folder of a run. Choose another --output.")
    if resume and overwrite:
        raise OptionError("--resume and --overwrite exclude each other.")
    if overwrite:
        previous = _previous(path)
        if previous.exists() and not (previous / "run.json").exists():
            raise OptionError(f"{previous} is in the way: move it, or choose another --output.")
    elif resume:
        for name, kept in read_run(path).record["options"].items():
            if getattr(options, name) != kept:
                raise OptionError(
                    f"--{name.replace('_', '-')} {getattr(options, name)} differs from {kept}, the value of the run in "
                    f"{path}. Leave the option out, or choose another --output."
                )
    else:
        raise OptionError(
            f"{path} exists. Continue it with --resume, replace it with --overwrite, or choose another --output."
        )


def read_run(path):
    """The `RunFolder` at `path`.

    Raises:
        OptionError: if it is not the folder of a run, or its run.json is damaged.
    """
    try:
        record = json.loads((pathlib.Path(path) / "run.json").read_text())
    except FileNotFoundError as error:
        raise OptionError(f"{path} is not the folder of a run: it has no run.json.") from error
    except ValueError as error:
        raise OptionError(f"{path} has a damaged run.json: {error}.") from error
    if not isinstance(record, dict) or "options" not in record:
        raise OptionError(f"{path} has a run.json that is not of a run: it holds no options.")
    return RunFolder(path, record)


def _is_free(path):
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))


def _begin(path, options, replaces):
    kept = {name: value for name, value in dataclasses.asdict(options).items() if name not in NOT_KEPT}
    record = {"options": kept, "versions": versions(), "jit": None, "resumed": 0, "replaces": replaces}
    with replacing(path) as temporary:  # the folder appears with run.json in it
        temporary.mkdir()
        write_json(temporary / "run.json", record)
    return RunFolder(path, record)


def _continue(path):
    folder = read_run(path)
    if folder.complete:
        folder.clean()
        return folder
    for package, version in folder.record["versions"].items():
        if versions().get(package) != version:
            say(f"{path} was started with {package} {version}, and this is {versions().get(package)}: bits may differ.")
    _drop_scratch(path)
    folder.update(resumed=folder.record["resumed"] + 1)
    return folder


def _previous(path):
    return path.with_name(f"{path.name}.previous")


def _move_aside(path):
    """Keeps the newest complete run as `NAME.previous`, and returns that name."""
    previous = _previous(path)
    if previous.exists():
        if not (path / "report.json").exists():  # a replacement that was interrupted
            shutil.rmtree(path)
            return previous.name
        shutil.rmtree(previous)
    os.replace(path, previous)
    return previous.name


def _drop_scratch(path):
    """Removes temporary files of writes that were interrupted by a kill."""
    for parent in (path, path / "checkpoints"):
        for scratch in parent.glob(".*.*"):
            if scratch.is_dir():
                shutil.rmtree(scratch)


@contextlib.contextmanager
def locked(path):
    """Reserves the folder of a run for one process, so that no two write to it. A kill releases it.

    Raises:
        OptionError: if another process trains in it.
    """
    try:
        import fcntl
    except ImportError:  # Windows has other locks: nothing is reserved there
        yield
        return
    with open(path / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OptionError(f"{path} is in use: another process trains there.") from error
        yield
