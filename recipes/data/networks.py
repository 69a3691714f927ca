"""Graphs whose nodes have classes: a table of nodes and a table of edges.

    FOLDER/nodes.csv    a name in the first column, the class of those that are known, and columns of features
    FOLDER/edges.csv    the names of two nodes in the first two columns

An edge counts in both directions. Nodes without a class take part in the graph; their classes are what is asked for. A
column `split` with train, validation, test, or nothing, gives the split.
"""

import numpy as np

from keras_dl import graphs
from keras_dl.extras import require
from keras_dl.files import FileError
from keras_dl.recipes.data import table
from keras_dl.recipes.data.own import SPLITS, OwnData, by_seed, divided

NODES, EDGES, SPLIT = "nodes.csv", "edges.csv", "split"


def accepts(path):
    """Whether a path is a folder with both tables."""
    return path.is_dir() and (path / NODES).exists() and (path / EDGES).exists()


def read(path, seed=0, target=None) -> OwnData:
    """A graph.

    Raises:
        OptionError: if `target` is no column.
        FileError: if a cell is missing or wrong, a name is there twice, or an edge names no node; with the line.
    """
    nodes = table.read_rows(path / NODES, needed=())
    first, *others = nodes.names
    table.check_target(target, others, f"{nodes.path} with the classes")
    names = rows_by_name(nodes, first)
    known = np.array([cell.lower() not in table.MISSING for cell in nodes.column(target)])
    if not known.any():
        raise FileError(nodes.path, f"has no class in column {target!r}.")
    labels = table.class_names([cell for cell, has in zip(nodes.column(target), known, strict=True) if has])
    if len(labels) < 2:
        what = f"the one class {labels[0]!r}" if labels else "values, and not at least two classes,"
        raise FileError(nodes.path, f"has {what} in column {target!r}. Nodes are told apart by classes.")
    classes = np.array([labels.index(x) if has else -1 for x, has in zip(nodes.column(target), known, strict=True)])
    columns = [name for name in others if name not in (target, SPLIT)]
    if not columns:
        raise FileError(nodes.path, "has no column of features. Add one, such as the number of a node's edges.")
    columns, features = _features(nodes, columns)
    edges, notes = read_edges(path / EDGES, names)
    parts, how = _split(nodes, classes, labels, seed)
    tfds_features = require("tensorflow_datasets", extra="recipes").features
    return OwnData(
        path=path,
        form="graph",
        features={
            "node": tfds_features.Tensor(shape=(), dtype=np.int64),
            "label": tfds_features.ClassLabel(names=labels),
        },
        splits={split: {"node": rows, "label": classes[rows]} for split, rows in parts.items()},
        files=[path / NODES, path / EDGES],
        how=how,
        labels=labels,
        facts={
            "graph": f"{len(names):,} nodes, {len(edges) // 2:,} edges",
            "columns": table.described(columns),
            "unknown": f"{(~known).sum():,} nodes without a class",
        },
        notes=notes,
        metadata={"columns": columns, "features": features, "edges": edges, "classes": classes},
    )


def rows_by_name(nodes, first):
    """dict of row numbers by the names of nodes."""
    names = {}
    for row, name in enumerate(nodes.column(first)):
        if name.lower() in table.MISSING:
            raise nodes.error(row, first, "no name")
        if name in names:
            raise nodes.error(row, first, f"the name {name!r}, which line {nodes.lines[names[name]]} has too,")
        names[name] = row
    return names


def _features(nodes, names):
    """What the columns are, and the features of all nodes. Numbers are standardized: a GCN does not do so itself."""
    for name in names:
        for row, cell in enumerate(nodes.column(name)):
            if cell.lower() in table.MISSING:
                raise nodes.error(row, name, f"no value ({cell!r})")
    columns = [table.column_of(nodes, name, range(len(nodes.cells))) for name in names]
    for column in columns:
        if column["kind"] == "number":
            values = np.array(nodes.column(column["name"]), "float64")
            column |= {"mean": float(values.mean()), "std": float(values.std()) or 1.0}
    return columns, scaled(nodes, columns)


def scaled(nodes, columns, strict=False):
    """float32 `(nodes, features)`: numbers less their mean, over their deviation, and categories as 0 or 1.

    Args:
        nodes: `keras_dl.recipes.data.table.Rows`.
        columns: list of dicts, as the metadata of a run has them.
        strict: bool. As of `keras_dl.recipes.data.table.encoded`.
    """
    features, _ = table.encoded(nodes, columns, strict=strict)
    widths = [len(column.get("values", (None,))) for column in columns]
    mean, std = (
        np.repeat([column.get(name, other) for column in columns], widths) for name, other in (("mean", 0), ("std", 1))
    )
    return ((features - mean) / std).astype("float32")


def read_edges(path, names):
    """Edges in both directions, int32 `(2 * edges, 2)`, and notes about what was left out.

    Args:
        path: `pathlib.Path`.
        names: dict of row numbers by the names of nodes.
    """
    rows = table.read_rows(path, needed=())
    if len(rows.names) < 2:
        raise FileError(path, f"has the one column {rows.names[0]!r}. The names of two nodes are needed in each line.")
    ends = []
    for name in rows.names[:2]:
        for row, cell in enumerate(rows.column(name)):
            if cell not in names:
                raise rows.error(row, name, f"{cell!r}, which is no node of {NODES},")
        ends.append([names[cell] for cell in rows.column(name)])
    given = np.array(ends, "int32").T  # (edges, 2)
    edges = graphs.undirected(given)
    notes = []
    if dropped := len(given) - len(edges) // 2:
        notes.append(f"left out {dropped:,} edges that are there twice, or go from a node to itself")
    if len(rows.names) > 2:
        notes.append(f"left out the columns {', '.join(rows.names[2:])} of {path.name}")
    return edges, notes


def _split(nodes, classes, labels, seed):
    """dict of row numbers by split, and where it comes from, in words.

    Without a validation split, a fifth of the training nodes are one: trainings of graph networks stop by it.
    """
    if SPLIT not in nodes.names:
        known = np.flatnonzero(classes >= 0)
        train, test = (known[x] for x in divided(classes[known], seed, labels, nodes.path))
        parts, how = {"train": train, "test": test}, by_seed(seed)
    else:
        words = nodes.column(SPLIT)
        for row, word in enumerate(words):
            if word and word.lower() not in SPLITS:
                raise nodes.error(row, SPLIT, f"{word!r}, which is not train, validation, test or nothing,")
            if word and classes[row] < 0:
                raise nodes.error(row, SPLIT, f"{word!r} for a node without a class")
        found = np.array([SPLITS.get(word.lower(), "") for word in words])
        parts = {split: np.flatnonzero(found == split) for split in ("train", "validation", "test")}
        parts, how = {split: rows for split, rows in parts.items() if len(rows)}, "as the table has it"
        for split in ("train", "test"):
            if split not in parts:
                raise FileError(nodes.path, f"has no node with {split!r} in column {SPLIT!r}.")
    if "validation" not in parts:
        rows = parts["train"]
        train, validation = (rows[x] for x in divided(classes[rows], seed, labels, nodes.path))
        parts |= {"train": train, "validation": validation}
        how += "; a fifth of the rest to stop by"
    return parts, how
