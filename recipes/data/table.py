"""Tables: a CSV file with names of columns in its first line, numbers and categories, and a column to predict.

    table.csv                           a split is made by seed
    FOLDER/train.csv, FOLDER/test.csv   the split is given; `val.csv` is a third part, or the test

A column whose cells are all numbers is one input. Any other is a category, and becomes an input of 0 or 1 for each of
its values in the training split. The column to predict is a class if it has texts, or at most 20 different integers;
otherwise it is a value.
"""

import csv
import pathlib
from typing import NamedTuple

import numpy as np

from keras_dl.extras import require
from keras_dl.files import FileError
from keras_dl.recipes.data.own import SPLITS, OwnData, by_seed, divided, mixed, with_test
from keras_dl.recipes.training.recipe import OptionError

SUFFIXES = (".csv", ".tsv")
MISSING = ("", "?", "na", "n/a", "nan", "null", "none")
MOST_CLASSES = 20  # different integers of a column that are classes
MOST_VALUES = 100  # of a category
TYPICAL = 0.9  # share of numbers in a column from which on a text is a mistake


class Rows(NamedTuple):
    """A table in text.

    Attributes:
        path: `pathlib.Path`.
        names: list of str. The columns.
        lines: list of int. The line of each row in the file.
        cells: list of lists of str.
    """

    path: pathlib.Path
    names: list
    lines: list
    cells: list

    def column(self, name):
        """The cells of a column: list of str."""
        i = self.names.index(name)
        return [row[i] for row in self.cells]

    def error(self, row, name, problem):
        """A `FileError` about one cell."""
        return FileError(self.path, f"has {problem} in line {self.lines[row]}, column {name!r}.")


def accepts(path):
    """Whether a path is such a file, or a folder with `train.csv`."""
    return path.suffix.lower() in SUFFIXES if path.is_file() else path.is_dir() and "train" in split_files(path)


def split_files(folder, suffixes=SUFFIXES):
    """dict of files by split: those whose names, without the suffix, are those of splits."""
    found = {}
    for file in sorted(folder.iterdir()):
        split = SPLITS.get(file.stem.lower()) if file.suffix.lower() in suffixes else None
        if split in found:
            raise FileError(file, f"is the same split as {found[split].name}. Give one of the two.")
        if split and file.is_file():
            found[split] = file
    return found


def read(path, seed=0, target=None) -> OwnData:
    """A table.

    Raises:
        OptionError: if `target` is no column.
        FileError: if a value is missing or wrong. The message names the line and the column.
    """
    files = with_test(split_files(path)) if path.is_dir() else {"train": path}
    tables = {split: read_rows(file) for split, file in files.items()}
    train = tables["train"]
    pairs = train.path.suffix == ".tsv" and len(train.names) == 2
    hint = " If it holds pairs of texts, check it with --form pairs." if pairs else ""
    check_target(target, train.names, f"{train.path} to predict", hint)
    for table in tables.values():
        for name in train.names:
            if name not in table.names:
                raise FileError(table.path, f"has no column {name!r}, which {train.path.name} has.")
    labels = class_names(train.column(target))
    answers = {split: _answers(table, target, labels) for split, table in tables.items()}
    if len(tables) == 1:
        rows = divided(answers["train"] if labels else len(train.cells), seed, labels, path)
        parts = {split: ("train", order) for split, order in zip(("train", "test"), rows, strict=True)}
    else:
        parts = {split: (split, mixed(len(table.cells), seed)) for split, table in tables.items()}
    columns = [column_of(train, name, parts["train"][1]) for name in train.names if name != target]
    if not columns:
        raise FileError(train.path, f"has no column but {target!r}, the one to predict.")
    splits, notes = {}, []
    for split, (of, order) in parts.items():
        features, unknown = encoded(tables[of], columns, order)
        splits[split] = {"features": features, "label" if labels else "target": answers[of][order]}
        if unknown:
            notes.append(f"{split}: {unknown} cells have a category that the training split does not have; all 0")
    features = require("tensorflow_datasets", extra="recipes").features
    answer = features.ClassLabel(names=labels) if labels else features.Tensor(shape=(), dtype=np.float32)
    width = splits["train"]["features"].shape[1]
    inputs = features.Tensor(shape=(width,), dtype=np.float32)
    return OwnData(
        path=path,
        form="table" if labels else "values",
        features={"features": inputs, "label" if labels else "target": answer},
        splits=splits,
        files=list(files.values()),
        how=by_seed(seed) if len(tables) == 1 else "as the files have it",
        labels=labels,
        facts={"columns": described(columns), "target": f"{target}, {_kind(labels, answers['train'])}"},
        notes=notes,
        metadata={"columns": columns},
    )


def check_target(target, names, of, hint=""):
    """Refuses a column to predict that is not named, or not there.

    Args:
        target: str or None.
        names: the columns.
        of: str. Which column is asked for, in words.
        hint: str. What else the file may be, for the error.

    Raises:
        OptionError: if it is none of them.
    """
    if target not in names:
        given = "" if target is None else f"--target {target}: there is no such column. "
        raise OptionError(f"{given}Name the column of {of} by --target: {', '.join(names)}.{hint}")


def read_rows(path, needed=None) -> Rows:
    """The cells of a file.

    Args:
        path: `pathlib.Path`.
        needed: names of the columns in which each cell must have a value; None for all.

    Raises:
        FileError: if it is no table, has no names, a row is of another length, or a value is missing.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise FileError(path, f"is not in UTF-8: line {line} has other bytes. Save it as UTF-8.") from error
    first = text.partition("\n")[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=first.count)
    reader = csv.reader(text.splitlines(keepends=True), delimiter=delimiter, strict=True)
    table = Rows(path, [], [], [])
    try:
        for cells in reader:
            _add(table, [cell.strip() for cell in cells], reader.line_num, needed)
    except csv.Error as error:
        raise FileError(path, f"is no table: {error}, in line {reader.line_num}.") from error
    if not table.cells:
        raise FileError(path, "has no row below the names of its columns.")
    return table


def _add(table, cells, line, needed):
    if not any(cells):
        return
    if not table.names:
        if all(number(cell) is not None for cell in cells):
            raise FileError(table.path, f"has no names of columns in line {line}, but numbers. Add a line of names.")
        if twice := sorted({name for name in cells if cells.count(name) > 1 or not name}):
            problem = f"has the column {twice[0]!r} twice" if twice[0] else "has a column without a name"
            raise FileError(table.path, f"{problem}, in line {line}.")
        table.names.extend(cells)
        return
    if len(cells) != len(table.names):
        raise FileError(table.path, f"has {len(cells)} cells in line {line}, and {len(table.names)} columns.")
    for name, cell in zip(table.names, cells, strict=True):
        if cell.lower() in MISSING and (needed is None or name in needed):
            how = "Fill it in, or leave the row out."
            raise FileError(table.path, f"has no value in line {line}, column {name!r} ({cell!r}). {how}")
    table.lines.append(line)
    table.cells.append(cells)


def number(cell):
    """The finite number that a cell holds, or None."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def class_names(cells):
    """Names of the classes of the column to predict; none for values."""
    different = set(cells)
    if any(number(cell) is None for cell in different):
        return tuple(sorted(different))
    integers = all(cell.lstrip("+-").isdigit() for cell in different)
    return tuple(sorted(different, key=int)) if integers and len(different) <= MOST_CLASSES else ()


def _answers(table, target, labels):
    cells = table.column(target)
    for row, cell in enumerate(cells):
        if labels and cell not in labels:
            raise table.error(row, target, f"the class {cell!r}, which the training split does not have,")
        if not labels and number(cell) is None:
            raise table.error(row, target, f"{cell!r}, which is no number,")
    if len(labels) == 1:
        raise FileError(table.path, f"has the one class {labels[0]!r} in column {target!r}. Two are needed.")
    return np.array([labels.index(cell) for cell in cells], "int64") if labels else np.array(cells, "float32")


def column_of(table, name, order):
    """What a column is: dict of `name`, `kind` "number" or "category", and `values` of a category."""
    cells = table.column(name)
    numbers = [number(cell) is not None for cell in cells]
    if all(numbers):
        return {"name": name, "kind": "number"}
    if np.mean(numbers) >= TYPICAL:
        row = numbers.index(False)
        raise table.error(row, name, f"{cells[row]!r}, where other rows have numbers,")
    values = sorted({cells[row] for row in order})
    if len(values) > MOST_VALUES:
        how = "A category has few. Delete the column, or write numbers."
        raise FileError(table.path, f"has {len(values)} different texts in column {name!r}. {how}")
    return {"name": name, "kind": "category", "values": values}


def encoded(table, columns, order=None, strict=False):
    """Inputs of a model for rows of a table.

    Args:
        table: `Rows`.
        columns: list of dicts, as the metadata of a run has them.
        order: int array of row numbers; None for all.
        strict: bool. Whether a category of another value is an error; else all of its inputs are 0.

    Returns:
        float32 `(rows, inputs)`, and the number of cells with another category.

    Raises:
        FileError: if a column is missing, or a cell is wrong.
    """
    order = np.arange(len(table.cells)) if order is None else order
    parts, unknown = [], 0
    for column in columns:
        name = column["name"]
        if name not in table.names:
            raise FileError(table.path, f"has no column {name!r}. The model takes {', '.join(names_of(columns))}.")
        cells = table.column(name)
        if column["kind"] == "number":
            for row in order:
                if number(cells[row]) is None:
                    raise table.error(row, name, f"{cells[row]!r}, which is no number,")
            parts.append(np.array([cells[row] for row in order], "float32")[:, None])
            continue
        values = np.array([[cells[row] == value for value in column["values"]] for row in order], "float32")
        for row, known in zip(order, values.any(1), strict=True):
            if strict and not known:
                choices = ", ".join(column["values"])
                raise table.error(row, name, f"{cells[row]!r}, which is none of {choices},")
        unknown += int((~values.any(1)).sum())
        parts.append(values)
    return np.concatenate(parts, axis=1), unknown


def names_of(columns):
    """The names of columns: list of str."""
    return [column["name"] for column in columns]


def described(columns):
    """Columns in words."""
    numbers = [column["name"] for column in columns if column["kind"] == "number"]
    parts = [f"{len(numbers)} of numbers: {', '.join(numbers)}"] if numbers else []
    for column in columns:
        if column["kind"] == "category":
            shown = ", ".join(column["values"][:6]) + (", ..." if len(column["values"]) > 6 else "")
            parts.append(f"{column['name']}, a category of {len(column['values'])}: {shown}")
    return "; ".join(parts)


def _kind(labels, answers):
    if labels:
        return f"{len(labels)} classes"
    return f"a value from {answers.min():g} to {answers.max():g}"
