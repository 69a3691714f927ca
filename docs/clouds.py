"""How much a cloud of points tells of a solid: the IoU of what uses its true normals, beside that of a trained network.

    python docs/clouds.py                                      the test shapes of analytic_solids, by the normals alone
    python docs/clouds.py runs/occupancy_network-analytic_solids       and by the network of a run

A point p is inside by the normals if the sum of `(p - q) . n / |p - q|` over the three nearest points q of the cloud is
negative. No network is given the normals.
"""

import pathlib
import sys

import numpy as np
from scipy.spatial import cKDTree

from keras_dl.ops.meshes import volume_iou
from keras_dl.recipes.datasets.solids import KINDS
from keras_dl.recipes.tasks import solids
from keras_dl.recipes.training import recipe, report
from keras_dl.recipes.training.batches import open_dataset, read
from keras_dl.recipes.training.opened import model_of

POINTS = 2048  # of each shape that are asked about
CLOUDS = ((300, 0.005), (300, 0.0), (1000, 0.005), (3000, 0.005))  # points, and standard deviation of their noise


def by_normals(shape, cloud, normals):
    """Which points are inside, by the nearest points of the cloud: bool `(POINTS,)`."""
    distances, nearest = cKDTree(cloud).query(shape.points[:POINTS], k=3)
    away = shape.points[:POINTS, None] - cloud[nearest]  # (points, 3, 3)
    sides = np.sum(away * normals[nearest], -1) / np.maximum(distances, 1e-6)
    return sides.sum(-1) < 0


def by_network(model, threshold, shape, cloud):
    """The same by a trained `OccupancyNetwork`, at the threshold of its run."""
    code = model.encode(cloud[None].astype("float32"))
    logits = np.asarray(model.logits(shape.points[None, :POINTS].astype("float32"), code))[0]
    return logits > np.log(threshold / (1 - threshold))


def main(words):
    """Prints the mean IoU over the shapes, and that of each kind."""
    options = recipe.find("occupancy_network").options("analytic_solids")
    split = solids.in_memory(read(open_dataset(options), "test", options))
    shapes = [split.shape(row, None) for row in range(split.count)]
    run = pathlib.Path(words[0]) if words else None
    model, threshold = (model_of(run), report.read(run)["figures"]["threshold"]) if run else (None, None)
    for count, noise in CLOUDS:
        random, found = np.random.default_rng(1), {"true normals": []} | ({"network": []} if model else {})
        for shape in shapes:
            chosen = random.integers(0, len(shape.cloud), count)
            cloud = shape.cloud[chosen] + noise * random.normal(size=(count, 3))
            occupied = shape.occupied[:POINTS]
            found["true normals"].append(volume_iou(by_normals(shape, cloud, shape.normals[chosen]), occupied))
            if model:
                found["network"].append(volume_iou(by_network(model, threshold, shape, cloud), occupied))
        for name, values in found.items():
            kinds = ", ".join(f"{kind} {np.mean(values[i :: len(KINDS)]):.3f}" for i, kind in enumerate(KINDS))
            print(f"{count} points, noise {noise}, {name}: {np.mean(values):.3f}   ({kinds})", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
