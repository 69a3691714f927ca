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
  .lock              held by the process that trains

RUN.previous/        the run that this one replaces, until this one is complete
"""

import contextlib
import dataclasses
import os
import pathlib
import shutil

from keras_dl import scratch
from keras_dl.recipes.training.progress import say
from keras_dl.recipes.training.recipe import OptionError, Options, flag
from keras_dl.recipes.training.report import read_json, versions, write_json

# Options that may differ when a run is continued: the folder of the data does not change the result.
NOT_KEPT = ("data_dir",)
MAY_DIFFER = (*NOT_KEPT, "data")  # own data may have moved; its fingerprint stays

_RECORD = {"options": dict, "versions": dict, "jit": (dict, type(None)), "resumed": int, "replaces": (str, type(None))}
_JIT = ("jit", "jit_ms", "graph_ms", "jit_compile_s", "graph_compile_s")


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
        if (self / "checkpoints").exists():
            scratch.remove(self / "checkpoints")
        if self.record["replaces"] and _is_replaced(_previous(self.path), self.path):
            scratch.remove(_previous(self.path))


@contextlib.contextmanager
def open_run(path, options, resume=False, overwrite=False):
    """Makes the folder of a run, or opens it to continue the run. Until the end, no other process can open it.

    Args:
        path: str or path.
        options: `Options` of the run.
        resume: bool. Continues the run in the folder, which must have equal options; starts it if there is none.
        overwrite: bool. Replaces the run in the folder. The old one is kept as `NAME.previous` until the new one is
            complete.

    Yields:
        `RunFolder`.

    Raises:
        OptionError: if the folder exists and both are False; if it is not the folder of a run; if its run has other
            options; or if another process trains in it.
    """
    path = pathlib.Path(path)
    clear(path)
    check(path, options, resume, overwrite)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"--output {path} cannot be made: {error.strerror}.") from error
    with contextlib.ExitStack() as held:
        held.enter_context(locked(path))
        check(path, options, resume, overwrite)  # another process may have begun before this one held the lock
        if _is_free(path):
            folder = _begin(path, options)
        elif resume:
            folder = _continue(path)
            if options.data != folder.options.data:  # own data that has moved
                folder.update(options=folder.record["options"] | {"data": options.data})
        else:
            _move_aside(path)
            path.mkdir(exist_ok=True)
            held.enter_context(locked(path))
            if not _is_free(path):
                raise OptionError(f"{path} is in use: another process began a run there.")
            folder = _begin(path, options)
        yield folder


def clear(path):
    """Removes what processes that were killed have left at the folder of a run, unless another process uses it."""
    path = pathlib.Path(path)
    scratch.clear(path.parent)
    left = (path / "checkpoints").exists() or _previous(path).exists()
    if left and (path / "report.json").exists() and (path / "run.json").exists():
        with contextlib.suppress(OptionError), locked(path):  # damaged, or in use: `check` says so
            read_run(path).clean()


def check(path, options, resume=False, overwrite=False):
    """Raises the errors of `open_run`, and changes nothing."""
    path = pathlib.Path(path)
    for folder in (path, *path.parents):
        if folder.exists() and not folder.is_dir():
            raise OptionError(f"--output {path}: {folder} is a file; a run needs a folder.")
    if _is_free(path):
        return
    if not (path / "run.json").exists():
        raise OptionError(f"--output {path} exists and is not the folder of a run. Choose another --output.")
    if resume and overwrite:
        raise OptionError("--resume and --overwrite exclude each other.")
    if overwrite:
        previous = _previous(path)
        if previous.exists() and not _is_replaced(previous, path):
            raise OptionError(f"{previous} is in the way: move it, or choose another --output.")
    elif resume:
        begun = read_run(path).options
        for name in (field.name for field in dataclasses.fields(Options) if field.name not in MAY_DIFFER):
            kept, given = getattr(begun, name), getattr(options, name)
            if given != kept:
                raise OptionError(
                    f"{flag(name)} {_shown(given)} differs from {_shown(kept)}, the value of the run in {path}. "
                    f" Leave the option out, or choose another --output."
                )
    else:
        raise OptionError(
            f"{path} exists. Continue it with --resume, replace it with --overwrite, or choose another --output."
        )


def _shown(value):
    return ", ".join(value) or "none" if isinstance(value, tuple) else value


def read_run(path):
    """The `RunFolder` at `path`.

    Raises:
        OptionError: if it is not the folder of a run, or its run.json is damaged.
    """
    file = pathlib.Path(path) / "run.json"
    if not file.exists():
        raise OptionError(f"{path} is not the folder of a run: it has no run.json.")
    record = read_json(file, _RECORD)
    if record["jit"] is not None and set(record["jit"]) != set(_JIT):
        raise OptionError(f"{file} is damaged: 'jit' has the keys {', '.join(record['jit'])}, not {', '.join(_JIT)}.")
    known = {field.name for field in dataclasses.fields(Options)}
    if foreign := sorted(set(record["options"]) - known):
        raise OptionError(f"{file} has unknown options: {', '.join(foreign)}. Another version of keras_dl wrote it.")
    try:
        Options(**record["options"])
    except (TypeError, OptionError) as error:
        raise OptionError(f"{file} has wrong options: {error}") from error
    return RunFolder(path, record)


def _is_free(path):
    """Whether nothing is there, or an empty folder; what a process left that was killed before it began counts not."""
    return not path.exists() or all(x.name == ".lock" or x.name.endswith(scratch.SUFFIX) for x in path.iterdir())


def _begin(path, options):
    kept = {name: value for name, value in dataclasses.asdict(options).items() if name not in NOT_KEPT}
    # Also if a process was killed between moving the old run aside and this.
    replaces = _previous(path).name if _is_replaced(_previous(path), path) else None
    record = {"options": kept, "versions": versions(), "jit": None, "resumed": 0, "replaces": replaces}
    write_json(path / "run.json", record)
    return RunFolder(path, record)


def _continue(path):
    folder = read_run(path)
    if folder.complete:
        return folder
    for package, version in folder.record["versions"].items():
        if versions().get(package) != version:
            say(f"{path} was started with {package} {version}, and this is {versions().get(package)}: bits may differ.")
    _drop_scratch(path)
    folder.update(resumed=folder.record["resumed"] + 1)
    return folder


def note_replicas(folder, replicas, workers=1):
    """Keeps the numbers of replicas and workers that train the run, and says if they were others before.

    Raises:
        OptionError: if each worker reads files of its own, and there were as many parts as other workers.
    """
    had = folder.record.get("workers", workers)
    if folder.options.shards and had != workers:
        raise OptionError(
            f"{folder.path} was trained by {had} workers with --shards, and these are {workers}: each would read other "
            "files than before. Start as many as before."
        )
    if folder.record.get("workers", 1) != workers:
        folder.update(workers=workers)
    before = folder.record.get("replicas", 1)
    if folder.record["resumed"] and before != replicas:
        say(f"{folder.path} was trained on {before} replicas so far, and goes on with {replicas}: bits differ.")
    if before != replicas:
        folder.update(replicas=replicas)


def _previous(path):
    return path.with_name(f"{path.name}.previous")


def _is_replaced(previous, path):
    """Whether `previous` is a run that was moved aside for one at `path`, and no run that a user named so."""
    return (previous / "run.json").exists() and read_run(previous).record.get("replaced_by") == path.name


def _move_aside(path):
    """Keeps the newest complete run as `NAME.previous`."""
    previous = _previous(path)
    if previous.exists():
        if not (path / "report.json").exists():  # a replacement that was interrupted
            scratch.remove(path)
            return
        scratch.remove(previous)
    read_run(path).update(replaced_by=path.name)
    os.replace(path, previous)


def _drop_scratch(path):
    """Removes temporary files of writes that were interrupted by a kill."""
    for parent in (path, path / "checkpoints"):
        for left in parent.glob(".*.*"):
            if left.is_dir():
                shutil.rmtree(left)


@contextlib.contextmanager
def locked(path):
    """Reserves the folder of a run for one process, so that no two write to it. A kill releases it.

    Raises:
        OptionError: if another process trains in it.
    """
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(scratch.locked(pathlib.Path(path) / ".lock"))
        except (BlockingIOError, FileNotFoundError) as error:
            raise OptionError(f"{path} is in use: another process trains there.") from error
        yield
