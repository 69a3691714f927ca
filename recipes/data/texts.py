"""Texts for language models, and pairs of texts for translators.

    FILE.txt, or FOLDER/train.txt and FOLDER/test.txt      a text in each line
    FILE.tsv, or FOLDER/train.tsv and FOLDER/test.tsv      a text, a tab, and its translation in each line

Files are in UTF-8. Empty lines are left out. A line of a language model that is longer than it reads is cut at spaces.
"""

import textwrap

import numpy as np

from keras_dl.extras import require
from keras_dl.files import FileError
from keras_dl.recipes.data.own import OwnData, by_seed, divided, mixed, with_test
from keras_dl.recipes.data.table import split_files

LONGEST = 255  # characters of a text, so that its end is the 256th token


def accepts_text(path):
    """Whether a path is a `.txt` file, or a folder with `train.txt`."""
    return _accepts(path, ".txt")


def accepts_pairs(path):
    """Whether a path is a `.tsv` file, or a folder with `train.tsv`."""
    return _accepts(path, ".tsv")


def _accepts(path, suffix):
    if path.is_file():
        return path.suffix.lower() == suffix
    return path.is_dir() and "train" in split_files(path, (suffix,))


def read_text(path, seed=0, target=None) -> OwnData:
    """The lines of a text.

    Raises:
        FileError: if a file is not in UTF-8, or has too few lines.
    """

    def pieces(file):
        lines = [line for _, line in _lines(file)]
        return [(piece,) for line in lines for piece in textwrap.wrap(line, LONGEST) if piece]

    return _data(path, seed, "text", ".txt", pieces, ("text",))


def read_pairs(path, seed=0, target=None) -> OwnData:
    """Pairs of texts.

    Raises:
        FileError: if a line has not two texts with a tab between. The message names the line.
    """

    def pairs(file):
        found = []
        for number, line in _lines(file):
            cells = [cell.strip() for cell in line.split("\t")]
            if len(cells) != 2:
                raise FileError(file, f"has {len(cells) - 1} tabs in line {number}; it must be a text, a tab, a text.")
            if not all(cells):
                raise FileError(file, f"has no text {'before' if cells[1] else 'behind'} the tab in line {number}.")
            found.append(tuple(cells))
        return found

    return _data(path, seed, "pairs", ".tsv", pairs, ("source", "target"))


def _lines(file):
    """`[(number, line)]` of the lines that are not empty."""
    content = file.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise FileError(file, f"is not in UTF-8: line {line} has other bytes. Save it as UTF-8.") from error
    # As editors count: splitlines would also part at form feeds and other signs.
    return [(i, line.rstrip("\r")) for i, line in enumerate(text.split("\n"), 1) if line.strip()]


def _data(path, seed, form, suffix, reader, names):
    files = with_test(split_files(path, (suffix,))) if path.is_dir() else {"train": path}
    rows = {split: reader(file) for split, file in files.items()}
    for split, part in rows.items():
        if not part:
            raise FileError(files[split], "has no text.")
    if len(files) == 1:
        train, test = divided(len(rows["train"]), seed, path=path)
        rows = {split: [rows["train"][i] for i in part] for split, part in (("train", train), ("test", test))}
    else:
        rows = {split: [part[i] for i in mixed(len(part), seed)] for split, part in rows.items()}
    text = require("tensorflow_datasets", extra="recipes").features.Text()
    columns = {
        split: {name: np.array([row[i] for row in part]) for i, name in enumerate(names)}
        for split, part in rows.items()
    }
    longest = {name: max(len(row[i]) for part in rows.values() for row in part) for i, name in enumerate(names)}
    return OwnData(
        path=path,
        form=form,
        features=dict.fromkeys(names, text),
        splits=columns,
        files=list(files.values()),
        how=by_seed(seed) if len(files) == 1 else "as the files have it",
        facts={"longest": ", ".join(f"{name} {length} characters" for name, length in longest.items())},
    )
