"""An exported file, the files of its target and its report: one set, which the report seals.

Each file is renamed by itself, so that a process that dies among the renames leaves files of two exports side by side.
Before the first rename, the old report is replaced by a note that says so. The new report comes last.
"""

import hashlib
import json
import pathlib

from keras_dl.files import FileError, read_json, replacing

_NOTE = "unfinished"


def report_path(path):
    """The path of a file's report: `<path>.json`."""
    path = pathlib.Path(path)
    return path.with_name(f"{path.name}.json")


def sha256(path):
    """The sha256 that seals a file; of a SavedModel's folder, that of `saved_model.pb`."""
    path = pathlib.Path(path)
    path = path / "saved_model.pb" if path.is_dir() else path
    return hashlib.sha256(path.read_bytes()).hexdigest()


def open_seals(sets):
    """Replaces the reports of existing files by a note, and removes files of old sets that the new ones do not replace.

    Args:
        sets: dict of the names of the target's files, by the path of the exported file.
    """
    for path, names in sets.items():
        try:
            old = _read(path)
        except FileError:  # it says nothing of other files, and is replaced
            old = {}
        if old is None and not path.exists():
            continue
        with replacing(report_path(path)) as temporary:
            text = f"An export to {path.name} ended before all of its files had their names. Export it again."
            temporary.write_text(json.dumps({_NOTE: text}, indent=2) + "\n", encoding="utf-8")
        for name in set(_companions(old)) - set(names):
            path.with_name(name).unlink(missing_ok=True)


def complaint(path):
    """Why a file and the report beside it are not of one export: str; None if they are, or if there is no report."""
    path = pathlib.Path(path)
    try:
        report = _read(path)
    except FileError as error:
        return str(error)
    if report is None:
        return None
    if _NOTE in report:
        return str(report[_NOTE])
    if report.get("sha256") != sha256(path):
        return f"{report_path(path).name} is not the report of this {path.name}: its sha256 differs."
    return None


def _read(path):
    """The report of a file: dict; None if there is none."""
    try:
        return read_json(report_path(path), "the report of an export", "Export the file again.")
    except FileNotFoundError:
        return None


def _companions(report):
    """The names of the target's files in a report; names with a folder in them are none."""
    target = (report or {}).get("target_report")
    names = target.get("files") if isinstance(target, dict) else None
    names = names if isinstance(names, list) else []
    return [name for name in names if isinstance(name, str) and name and pathlib.PurePath(name).name == name]
