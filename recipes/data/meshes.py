"""Files of meshes and of points, by trimesh."""

import numpy as np

from keras_dl.extras import require
from keras_dl.files import FileError

CURE = "Export it again."


def read_mesh(file):
    """Vertices and triangles of a file; the parts of a scene are joined, each at its place.

    Args:
        file: `pathlib.Path`.

    Returns:
        `(vertices, triangles)`: float64 `(n, 3)`, and int `(m, 3)`, of no row for a cloud of points.

    Raises:
        FileError: if it cannot be read.
    """
    trimesh = require("trimesh", extra="meshes")
    try:
        loaded = trimesh.load(file, process=False)
        loaded = loaded.to_geometry() if isinstance(loaded, trimesh.Scene) else loaded
        triangles = np.array(getattr(loaded, "faces", ()), int).reshape(-1, 3)
        return np.array(loaded.vertices, float).reshape(-1, 3), triangles
    except Exception as error:  # of its readers, each has its own
        kind = file.suffix[1:].upper()
        why = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
        raise FileError(file, f"cannot be read as {kind}: {why}. {CURE}") from error
