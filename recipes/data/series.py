"""Series with a class each: files of the format `.ts`, or a CSV file for each series in folders by class.

    FILE.ts, or FOLDER/train.ts and FOLDER/test.ts, also NAME_TRAIN.ts and NAME_TEST.ts
    FOLDER/walking/1.csv, FOLDER/running/2.csv               a split is made by seed
    FOLDER/train/walking/1.csv, FOLDER/test/walking/2.csv    the split is given

A CSV file has a line for each step of time, and a column for each channel; a first line of names is left out. Series
may have unequal lengths.
"""

import csv

import numpy as np

from keras_dl.extras import require
from keras_dl.files import FileError
from keras_dl.recipes.data.own import SPLITS, OwnData, by_seed, divided, mixed, split_folders, subfolders, with_test
from keras_dl.recipes.data.table import MISSING, number


def accepts(path):
    """Whether a path is such a file, or a folder of such files."""
    if path.is_file():
        return path.suffix.lower() == ".ts"
    return path.is_dir() and bool(_ts_files(path) or _has_folders(path))


def _ts_files(folder):
    """dict of `.ts` files by split."""
    found = {}
    for file in sorted(folder.glob("*.ts")):
        if split := SPLITS.get(file.stem.lower().rpartition("_")[2]):
            found[split] = file
    return found if "train" in found else {}


def _has_folders(path):
    above = (split_folders(path) or {"": path}).values()
    return any(folder.is_dir() and any(folder.glob("*.csv")) for part in above for folder in subfolders(part))


def read(path, seed=0, target=None) -> OwnData:
    """Series and their classes.

    Raises:
        FileError: if a value is missing or no number, or a series has another number of channels. The message names the
            line.
    """
    files = {"train": path} if path.is_file() else _ts_files(path)
    if files:
        parts = {split: _read_ts(file) for split, file in files.items()}
        given = len(files) > 1
    else:
        folders = split_folders(path)
        parts = {split: _read_folders(folder) for split, folder in (folders or {"train": path}).items()}
        given = folders is not None and len(folders) > 1
    parts = with_test(parts)
    everything = [one for part in parts.values() for one in part]
    names = tuple(sorted({name for name, _, _ in everything}))
    if len(names) < 2:
        raise FileError(path, f"has the class {names[0]!r} alone. A classifier needs two.")
    channels = everything[0][1].shape[1]
    for _, sequence, where in everything:
        if sequence.shape[1] != channels:
            raise FileError(where[0], f"has {sequence.shape[1]} channels{where[1]}; the first series has {channels}.")
    known = {name for name, _, _ in parts["train"]}
    for name, _, where in everything:
        if name not in known:
            raise FileError(where[0], f"has the class {name!r}{where[1]}, which the training split does not have.")
    if "test" in parts:
        parts = {split: [part[i] for i in mixed(len(part), seed)] for split, part in parts.items()}
    else:
        train, test = divided(np.array([names.index(name) for name, _, _ in everything]), seed, names, path)
        parts |= {"train": [everything[i] for i in train], "test": [everything[i] for i in test]}
    lengths = [len(sequence) for _, sequence, _ in everything]
    features = require("tensorflow_datasets", extra="recipes").features
    span = f"{min(lengths)} to {max(lengths)}" if min(lengths) < max(lengths) else f"{max(lengths)}"
    return OwnData(
        path=path,
        form="series",
        features={
            "sequence": features.Tensor(shape=(None, channels), dtype=np.float32),
            "label": features.ClassLabel(names=names),
        },
        splits={
            split: {
                "sequence": [sequence for _, sequence, _ in part],
                "label": [np.int64(names.index(name)) for name, _, _ in part],
            }
            for split, part in parts.items()
        },
        files=sorted({where[0] for _, _, where in everything}),
        how="as the files have it" if given else by_seed(seed),
        labels=names,
        facts={"steps": span, "channels": str(channels)},
        metadata={"steps": max(lengths)},
    )


def _read_ts(file):
    """`[(class, sequence, (file, place in words))]` of a `.ts` file."""
    from keras_dl.recipes.datasets.series import read_ts

    try:
        lines = file.read_bytes().decode().splitlines()
    except UnicodeDecodeError as error:
        raise FileError(file, "is not in UTF-8.") from error
    start = next((i for i, line in enumerate(lines, 1) if line.strip().lower() == "@data"), None)
    if start is None:
        raise FileError(file, "has no line @data, after which the series of a .ts file begin.")
    found = []
    for i, line in enumerate(lines[start:], start + 1):
        if not line.strip():
            continue
        if ":" not in line:
            raise FileError(file, f"has no class in line {i}: it is behind the last colon.")
        try:
            (sequence,), (name,) = read_ts(f"@data\n{line}")
        except ValueError as error:
            raise FileError(file, f"has a wrong series in line {i}: {error}") from error
        found.append((name.strip(), sequence, (file, f" in line {i}")))
    if not found:
        raise FileError(file, "has no series.")
    return found


def _read_folders(folder):
    found = []
    for one in subfolders(folder):
        files = sorted(one.glob("*.csv"))
        if not files:
            raise FileError(one, "is the folder of a class, and holds no .csv file.")
        found += [(one.name, read_csv(file), (file, "")) for file in files]
    if not found:
        raise FileError(folder, "has no folder for each class with a .csv file for each series.")
    return found


def read_csv(file):
    """A series: float32 `(steps, channels)`.

    Raises:
        FileError: if a cell is no number, or a line has another length. The message names the line.
    """
    try:
        lines = file.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise FileError(file, "is not in UTF-8.") from error
    rows = []
    for i, cells in enumerate(csv.reader(lines), 1):
        if not any(cell.strip() for cell in cells):
            continue
        values = [number(cell) for cell in cells]
        if None in values:
            cell, column = cells[values.index(None)].strip(), values.index(None) + 1
            if not rows and not any(x is not None for x in values):
                continue  # names of channels
            what = "no value" if cell.lower() in MISSING else f"{cell!r}, which is no number,"
            raise FileError(file, f"has {what} in line {i}, column {column}.")
        if rows and len(values) != len(rows[0]):
            raise FileError(file, f"has {len(values)} cells in line {i}, and {len(rows[0])} before.")
        rows.append(values)
    if not rows:
        raise FileError(file, "has no row of numbers.")
    return np.array(rows, "float32")
