"""Surfaces of solids, reconstructed from clouds of points by an occupancy network."""

import pathlib

import numpy as np

from keras_dl.ops.isosurface import FORMATS, extract, marching_cubes, write_mesh
from keras_dl.recipes.data import points, solids
from keras_dl.recipes.datasets.solids import SIDE
from keras_dl.recipes.prediction import reading
from keras_dl.recipes.training.recipe import OptionError

SUFFIXES = tuple(dict.fromkeys(points.SUFFIXES + solids.SUFFIXES))
RECONSTRUCTING = {"encode", "occupancy"}
THRESHOLD = 0.2  # that of the paper's code, where a run has not found its own
LEAST = 1e-6  # probabilities of an integer file may be 0 and 1, whose log odds are infinite


def reconstructs(source):
    """Whether a source makes solids of clouds."""
    return set(source.inputs) >= RECONSTRUCTING and set(source.inputs["encode"]) == {"cloud"}


def reconstruct(source, words, output=None):
    """A mesh for each file of points, in the coordinates of the file.

    The points are moved and scaled as solids are in training: the longest side of their bounding box becomes 1.

    Args:
        source: `keras_dl.recipes.prediction.source.Source`.
        words: list of paths.
        output: path of a file for one input, or of a folder for several. None to write none.

    Returns:
        list of dicts of `input`, `vertices`, `(n, 3)`, and `faces`, `(m, 3)`, as lists, and `output`, the path that was
        written, if one was. A mesh of no faces is not written.

    Raises:
        OptionError: if `output` has another suffix, or the threshold of a file is none.
        FileError: if a file holds no points.
    """
    paths = _outputs(words, output)
    threshold = THRESHOLD if source.threshold is None else source.threshold
    if not isinstance(threshold, float) or not 0 < threshold < 1:
        raise OptionError(f"{source.path} names the threshold {threshold!r}; it must be between 0 and 1.")
    runner, answers = source.runner(sorted(RECONSTRUCTING)), []
    size = source.inputs["encode"]["cloud"][0][1]
    for word, path in zip(words, paths, strict=True):
        cloud = points.draw_points(reading.existing(word, SUFFIXES, "cloud of points"), size)
        low, high = cloud.min(0), cloud.max(0)
        middle, side = (low + high) / 2, float(np.max(high - low))
        code = runner.serve("encode", cloud=((cloud - middle) / side)[None].astype("float32"))["code"]
        mesh = _surface(runner, code, source.inputs["occupancy"]["points"][0][1], threshold)
        mesh = mesh._replace(vertices=(mesh.vertices * side + middle).astype("float32"))
        answer = {"input": str(word), "vertices": mesh.vertices.tolist(), "faces": mesh.faces.tolist()}
        if path is not None and len(mesh.faces):
            write_mesh(path, mesh)
            answer["output"] = str(path)
        answers.append(answer)
    return answers


def _outputs(words, output):
    """The file of each mesh; None for none."""
    if output is None:
        return [None] * len(words)
    path = pathlib.Path(output)
    paths = [path] if len(words) == 1 else [path / f"{pathlib.Path(word).stem}.ply" for word in words]
    if paths[0].suffix not in FORMATS:
        raise OptionError(f"--output {output} must end with one of {', '.join(FORMATS)}: a mesh is written there.")
    return paths


def _surface(runner, code, num_points, threshold):
    """The mesh of one code, in the unit cube."""

    def log_odds(places):
        pieces = -(-len(places) // num_points)
        rows = np.zeros((pieces * num_points, 3), "float32")
        rows[: len(places)] = places
        rows = rows.reshape(pieces, num_points, 3)
        found = runner.serve("occupancy", points=rows, code=np.repeat(code, pieces, 0))["occupancies"]
        found = np.clip(found.reshape(-1)[: len(places)].astype("float64"), LEAST, 1 - LEAST)
        return np.log(found) - np.log1p(-found)

    level = float(np.log(threshold) - np.log1p(-threshold))
    return marching_cubes(extract(log_odds, level, side=SIDE).values, level, SIDE)
