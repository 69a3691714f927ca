"""Scenes: photographs of one place with their cameras, in the JSON of NeRF's synthetic scenes.

    FOLDER/transforms.json                                       a split is made by seed
    FOLDER/transforms_train.json, FOLDER/transforms_test.json    the split is given; transforms_val.json is a third part

Programs that find cameras from photographs write such files. The world is moved to the point that the cameras look at,
and scaled so that they are 4 units away from it on average, as in NeRF's synthetic scenes.
"""

import numpy as np

from keras_dl.extras import require
from keras_dl.files import FileError
from keras_dl.recipes.data.headers import header
from keras_dl.recipes.data.images import first_broken
from keras_dl.recipes.data.own import OwnData, by_seed, divided, with_test
from keras_dl.recipes.datasets.view_folders import read_transforms

SPLITS = {"train": "train", "val": "validation", "test": "test"}
DISTANCE = 4.0  # of the cameras from the middle of the scene
NEAR, FAR = 0.5, 1.5  # of the distance of the nearest and of the farthest camera
TRANSPARENT = ("RGBA", "LA", "PA")  # Pillow's modes
PARALLEL = 0.02  # the least eigenvalue of the equation of the middle; two cameras 16 degrees apart have it


def accepts(path):
    """Whether a path is a folder with such a file."""
    return path.is_dir() and any((path / name).exists() for name in ("transforms.json", "transforms_train.json"))


def read(path, seed=0, target=None) -> OwnData:
    """A scene.

    Raises:
        FileError: if a file of transforms is wrong, an image is missing, or the images differ in size.
    """
    whole = path / "transforms.json"
    if whole.exists():
        files = {"train": whole}
        if (path / "transforms_train.json").exists():
            raise FileError(whole, "is there beside transforms_train.json. Give one of the two.")
    else:
        files = {split: path / f"transforms_{name}.json" for name, split in SPLITS.items()}
        files = with_test({split: file for split, file in files.items() if file.exists()})
    parts = {split: read_transforms(file) for split, file in files.items()}
    first = parts["train"]
    for split, part in parts.items():
        if not np.isclose(part.focal_of_width, first.focal_of_width):
            raise FileError(files[split], "has another focal length than the training views. One camera is needed.")
    given = "test" in parts
    images = {split: list(map(str, part.files)) for split, part in parts.items()}
    files_of_images = sorted({file for part in parts.values() for file in part.files})
    (height, width), transparent = _common_size(files_of_images)
    cameras, bounds = _placed(files["train"], {split: part.cameras for split, part in parts.items()}, first.bounds)
    if not given:
        rows = dict(zip(("train", "test"), divided(len(first.cameras), seed, path=files["train"]), strict=True))
        images |= {split: [images["train"][i] for i in order] for split, order in reversed(rows.items())}
        cameras |= {split: cameras["train"][order] for split, order in reversed(rows.items())}
    features = require("tensorflow_datasets", extra="recipes").features
    return OwnData(
        path=path,
        form="scene",
        features={
            "image": features.Text(),  # a path: the recipe keeps all views in memory
            "camera": features.Tensor(shape=(3, 4), dtype=np.float32),
        },
        splits={split: {"image": images[split], "camera": list(cameras[split])} for split in images},
        files=[*files.values(), *files_of_images],
        how="as the files have it" if given else by_seed(seed),
        facts={
            "images": f"{width} x {height} pixels{', on white where they are transparent' if transparent else ''}",
            "focal": f"{first.focal_of_width * width:.1f} pixels",
            "depth": f"{bounds[0]:.2f} to {bounds[1]:.2f}, where cameras are {DISTANCE:g} from the middle on average",
        },
        metadata={"focal_of_width": first.focal_of_width, "bounds": bounds, "white": transparent},
        problem=lambda: first_broken(files_of_images),
    )


def _common_size(files):
    """`(height, width)` of all images, and whether they have transparency.

    Raises:
        FileError: if one is missing, is no image, or has another size. The message begins with its name.
    """
    headers = {}
    for file in files:
        if not file.exists():
            raise FileError(file, "is missing, and a frame of the transforms names it.")
        headers[file] = header(file)
    first = headers[files[0]]
    height, width = first.size
    for file, other in headers.items():
        if other.size != first.size:
            own = f"{other.size[1]} x {other.size[0]}"
            raise FileError(file, f"has {own} pixels, and {files[0].name} has {width} x {height}.")
    return first.size, first.mode in TRANSPARENT


def _placed(file, cameras, bounds):
    """Cameras around the origin, `DISTANCE` away on average, and the distances between which the scene is.

    Args:
        file: path, for errors.
        cameras: dict of arrays `(n, 3, 4)` by split.
        bounds: `(near, far)` in the units of the file, or None to take them from the distances of the cameras.
    """
    train = cameras["train"].astype("float64")
    centers, axes = train[:, :, 3], train[:, :, 2]
    axes = axes / np.linalg.norm(axes, axis=-1, keepdims=True)
    # The point p nearest to all axes: sum (I - a a') (p - c) = 0.
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]  # (n, 3, 3)
    if np.linalg.eigvalsh(across.mean(0))[0] < PARALLEL:
        raise FileError(
            file,
            "has cameras that look in one direction. A scene is seen from around; for forward-facing ones there is "
            "--dataset llff.",
        )
    middle = np.linalg.solve(across.sum(0), (across @ centers[:, :, None]).sum(0)[:, 0])
    distances = np.linalg.norm(centers - middle, axis=-1)
    scale = DISTANCE / distances.mean()
    near, far = bounds or (NEAR * distances.min(), FAR * distances.max())
    placed = {}
    for split, x in cameras.items():
        x = x.astype("float64")
        placed[split] = np.concatenate([x[:, :, :3], (x[:, :, 3:] - middle[:, None]) * scale], -1).astype("float32")
    return placed, (float(near * scale), float(far * scale))
