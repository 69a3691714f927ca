"""Inputs that users have, as a model takes them: pictures, rows of tables, series, and texts.

Each reader returns a list of `Given`: one for each picture, row, series or line of text.
"""

import csv
import pathlib
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_dl import graphs
from keras_dl.files import FileError
from keras_dl.ops.letterbox import letterbox
from keras_dl.recipes.data import headers, networks, points
from keras_dl.recipes.data import table as own_table
from keras_dl.recipes.training.pipelines import resize_and_crop

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")


class Given(NamedTuple):
    """One input.

    Attributes:
        name: str. The file, or the text itself; with the row or line where a file has several.
        value: what the model takes, with a first axis of 1.
        original: the picture as it is in the file, `(height, width, channels)`, uint8; None for what is no picture.
        further: dict of further inputs by name; None for none.
    """

    name: str
    value: Any
    original: np.ndarray | None = None
    further: dict | None = None


def pictures(words, shape, whole):
    """Pictures of files.

    Args:
        words: list of paths.
        shape: `(height, width, channels)` that the model takes.
        whole: bool. True scales a picture until it fits, between gray bars (a letterbox); False scales it until it
            covers the model's sides, and keeps the middle.

    Raises:
        FileError: if a file is no picture. FileNotFoundError: if there is none.
    """
    found = []
    for path in map(pathlib.Path, words):
        content = _content(path)
        try:
            image = tf.io.decode_image(content, channels=3, expand_animations=False).numpy()
        except tf.errors.InvalidArgumentError as error:
            raise FileError(path, f"is no picture, or is damaged. Read are: {', '.join(PICTURES)}.") from error
        if path.suffix.lower() in headers.SUFFIXES:
            image = headers.upright(image, headers.header(path).turn).numpy()
        fitted = _with_channels(image, shape[-1])
        fitted = letterbox(fitted, shape[:2]) if whole else resize_and_crop(tf.constant(fitted), shape, margin=0)
        found.append(Given(str(path), np.asarray(tf.cast(tf.round(fitted), tf.uint8))[None], image))
    return found


def _with_channels(image, channels):
    if channels == 3:
        return image
    if channels == 1:
        return tf.cast(tf.round(tf.image.rgb_to_grayscale(tf.cast(image, "float32"))), "uint8").numpy()
    raise ValueError(f"The model takes images of {channels} channels. Pictures of files have 1 or 3.")


def rows(words, width):
    """Rows of `.csv` files, each a sample of `width` numbers. A first line of names is left out.

    Raises:
        FileError: if a cell is no number, or a row has another length. The message has its line.
    """
    return [
        Given(f"{path}:{line}", np.float32([row])) for path in words for line, row in _table(pathlib.Path(path), width)
    ]


def table(words, columns):
    """Rows of `.csv` files with the names of columns in the first line, as the model was trained on them.

    Args:
        words: list of paths.
        columns: list of dicts, as of `keras_dl.recipes.prediction.source.Source`. Other columns are left out.

    Raises:
        FileError: if a column or a value is missing, or a category is none of the training. The message has the line.
    """
    found = []
    for path in map(pathlib.Path, words):
        _content(path)
        rows = own_table.read_rows(path, own_table.names_of(columns))
        values, _ = own_table.encoded(rows, columns, strict=True)
        found += [Given(f"{path}:{line}", row[None]) for line, row in zip(rows.lines, values, strict=True)]
    return found


def network(words, columns, num_nodes, num_edges):
    """Graphs of folders with `nodes.csv` and `edges.csv`: inputs of a model of nodes, and the names of their nodes.

    Args:
        words: list of paths.
        columns: list of dicts, as of `keras_dl.recipes.prediction.source.Source`. Other columns are left out.
        num_nodes, num_edges: int. What the model takes, edges in both directions.

    Raises:
        FileError: if a column or a value is missing or wrong, or a graph is too large.
    """
    found = []
    for path in map(pathlib.Path, words):
        if not networks.accepts(path):
            raise FileError(path, f"is no folder with {networks.NODES} and {networks.EDGES}.")
        nodes = own_table.read_rows(path / networks.NODES, own_table.names_of(columns))
        names = networks.rows_by_name(nodes, nodes.names[0])
        edges, _ = networks.read_edges(path / networks.EDGES, names)
        graph = graphs.Graph(networks.scaled(nodes, columns, strict=True), edges)
        if len(names) > num_nodes or len(edges) > num_edges:
            sizes = f"{len(names)} nodes and {len(edges) // 2} edges; the model takes {num_nodes} and {num_edges // 2}"
            raise FileError(path, f"has {sizes}.")
        found.append((list(names), graphs.pad([graph], num_nodes, num_edges)))
    return found


def series(words, length, width, padded=False):
    """One series of each `.csv` file: a line for each step of time, `width` numbers in a line.

    Args:
        words: list of paths.
        length: int. Steps that the model takes. A longer series is an error.
        width: int.
        padded: bool. Whether the model takes a mask, and with it shorter series, which are an error else.
    """
    found = []
    for path in words:
        values = [row for _, row in _table(pathlib.Path(path), width)]
        if len(values) > length or (len(values) < length and not padded):
            raise FileError(path, f"has {len(values)} steps of time; the model takes {'at most ' * padded}{length}.")
        rest = length - len(values)
        mask = {"mask": np.arange(length)[None] < len(values)} if padded else None
        found.append(Given(str(path), np.pad(np.float32([values]), ((0, 0), (0, rest), (0, 0))), further=mask))
    return found


def clouds(words, num_points, width):
    """Clouds of `.npy`, `.ply`, `.off` and `.obj` files, moved and scaled as in training.

    Raises:
        FileError: if a file is none, or holds no points.
    """
    found = []
    for word in words:
        path = existing(word, points.SUFFIXES if width == 3 else (), f"cloud of points of {width} coordinates")
        found.append(Given(str(path), points.read_cloud(path, points.POINTS)[None, :num_points]))
    return found


def existing(word, suffixes, what):
    """The path of a file of one of some kinds.

    Raises:
        FileError: if it is of another kind. FileNotFoundError: if there is none.
    """
    path = pathlib.Path(word)
    _content(path)
    if path.suffix.lower() not in suffixes:
        raise FileError(path, f"is no {what}. Read are: {', '.join(suffixes) or 'none'}.")
    return path


def texts(words):
    """The lines of `.txt` files; what is no such file is a text itself."""
    found = []
    for word in words:
        path = pathlib.Path(word)
        if path.suffix == ".txt":
            lines = _content(path).decode("utf-8", errors="replace").splitlines()
            found += [Given(f"{path}:{i}", line) for i, line in enumerate(lines, 1) if line.strip()]
        else:
            found.append(Given(word, word))
    return found


def _content(path):
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist.")
    if path.is_dir():
        raise FileError(path, "is a folder. Name the files in it.")
    return path.read_bytes()


def _table(path, width):
    """`[(line, [float])]` of a table."""
    lines = _content(path).decode("utf-8-sig", errors="replace").splitlines()
    found = []
    for number, cells in enumerate(csv.reader(lines), 1):
        if not cells:
            continue
        values = [_number(cell) for cell in cells]
        if number == 1 and None in values:
            continue  # the names of columns
        if None in values:
            column = values.index(None)
            raise FileError(path, f"has {cells[column]!r} in line {number}, column {column + 1}, which is no number.")
        if len(values) != width:
            raise FileError(path, f"has {len(values)} numbers in line {number}; the model takes {width}.")
        found.append((number, values))
    if not found:
        raise FileError(path, "has no row of numbers.")
    return found


def _number(cell):
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if np.isfinite(value) else None
