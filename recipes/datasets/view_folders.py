"""Images of scenes with their cameras, read from the folders of two published layouts.

    NeRF's synthetic scenes         transforms_train.json, transforms_val.json, transforms_test.json, with
                                    `camera_angle_x` and, for each frame, `file_path` and `transform_matrix`; RGBA
    LLFF's forward-facing scenes    poses_bounds.npy, images/, and smaller ones in images_2/, images_4/, images_8/

All cameras come back in the convention "opengl" of `keras_dl.ops.convert_cameras`.
"""

import pathlib
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_dl.files import read_json, reading
from keras_dl.ops.rays import convert_cameras
from keras_dl.recipes.datasets.wheels import DataError

SUFFIXES = (".png", ".jpg", ".jpeg")
LENS = ("k1", "k2", "k3", "k4", "p1", "p2")  # coefficients of distortion


class Views(NamedTuple):
    """Images of one size, and where they were taken.

    Attributes:
        images: uint8, `(n, height, width, 3)`.
        cameras: float32, `(n, 3, 4)`: from the camera to the world, with the axes right, up, backward.
        focal: float. The focal length in pixels.
        near, far: float. The distances on a ray between which the scene is.
        ndc: pair of float, or None: the scale of normalized device coordinates, where `near` and `far` count.
        depth: float32, `(n, height, width)`, along the axis of the camera; or None.
    """

    images: np.ndarray
    cameras: np.ndarray
    focal: float
    near: float
    far: float
    ndc: tuple[float, float] | None = None
    depth: np.ndarray | None = None

    def take(self, rows):
        """The views with these numbers."""
        depth = None if self.depth is None else self.depth[rows]
        return self._replace(images=self.images[rows], cameras=self.cameras[rows], depth=depth)

    def shrunk(self, factor: int):
        """The views at 1 / `factor` of the size: each pixel is the mean of a square, its depth that of the first."""
        height, width = (n // factor for n in self.images.shape[1:3])
        blocks = self.images[:, : factor * height, : factor * width].reshape(-1, height, factor, width, factor, 3)
        images = np.rint(blocks.mean((2, 4))).astype("uint8")
        depth = None if self.depth is None else self.depth[:, : factor * height : factor, : factor * width : factor]
        return self._replace(images=images, focal=self.focal / factor, depth=depth)


def blender(folder, half=False, test_skip=1) -> dict[str, Views]:
    """A scene of the layout of NeRF's synthetic scenes: the views of each split whose file is there.

    Images with transparency are laid on white.

    Args:
        folder: str or path, with `transforms_train.json`.
        half: bool. Half the size: each pixel is the mean of four, as in the authors' config for their figures of 400
            pixels.
        test_skip: int. Only each so-manieth view of the splits `val` and `test`. The authors' config has 8.

    Returns:
        dict of `Views` by "train", "val" and "test". The scene lies between the distances `near` and `far` of the
        file, by default 2 and 6, as in these sets.

    Raises:
        DataError: if there is no such file, an image is missing or cannot be read, or images differ in size.
        FileError: if a file of transforms does not hold what it must. A ValueError.
    """
    folder = pathlib.Path(folder)
    found = {}
    for split in ("train", "val", "test"):
        path = folder / f"transforms_{split}.json"
        if path.exists():
            found[split] = _transforms(path, half, 1 if split == "train" else test_skip)
    if "train" not in found:
        raise DataError(
            f"{folder} has no transforms_train.json: it is no scene of the layout of NeRF's synthetic ones."
        )
    return found


class Transforms(NamedTuple):
    """What a file of transforms says.

    Attributes:
        files: list of paths of images.
        cameras: float32, `(n, 3, 4)`.
        focal_of_width: float. The focal length over the width of an image.
        bounds: `(near, far)`, if the file has these numbers; else None.
    """

    files: list
    cameras: np.ndarray
    focal_of_width: float
    bounds: tuple[float, float] | None


def read_transforms(path, skip=1) -> Transforms:
    """Reads a file of transforms; each `skip`-th of its frames.

    The angle is `camera_angle_x` in radians, or comes from `fl_x` and `w` in pixels, which other programs write.

    Raises:
        FileError: if it does not hold what it must, or its images are distorted by a lens. A ValueError.
    """
    layout = "Its layout is that of NeRF's synthetic scenes."
    document = read_json(path, "a file of transforms", layout, types={"frames": list})
    frames = document["frames"][::skip]
    with reading(path, "a file of transforms"):
        if not frames:
            raise ValueError("it has no frames")
        if "camera_angle_x" in document:
            angle = float(document["camera_angle_x"])
        elif {"fl_x", "w"} <= set(document):
            angle = 2 * np.arctan(0.5 * float(document["w"]) / float(document["fl_x"]))
        else:
            raise ValueError("it has no camera_angle_x, and no fl_x and w")
        if not 0 < angle < np.pi:
            raise ValueError(f"its camera_angle_x is {angle}, which is not in (0, pi)")
        if bent := [name for name in LENS if document.get(name)]:
            raise ValueError(f"its images are distorted ({bent[0]} = {document[bent[0]]}): straighten them before")
        bounds = None
        if {"near", "far"} & set(document):
            bounds = float(document["near"]), float(document["far"])
            if not 0 < bounds[0] < bounds[1]:
                raise ValueError(f"its near and far are {bounds}; they must be positive, and near the smaller one")
        cameras = np.array([frame["transform_matrix"] for frame in frames], "float32")
        files = [path.parent / frame["file_path"] for frame in frames]
        if cameras.shape[1:] not in ((3, 4), (4, 4)) or not np.isfinite(cameras).all():
            raise ValueError(f"its matrices have the shape {cameras.shape[1:]}, or a number that is not finite")
    files = [file if file.suffix.lower() in SUFFIXES else file.with_name(f"{file.name}.png") for file in files]
    return Transforms(files, cameras[:, :3], float(0.5 / np.tan(0.5 * angle)), bounds)


def _transforms(path, half, skip):
    found = read_transforms(path, skip)
    images = read_images(found.files, named_by=path)
    near, far = found.bounds or (2.0, 6.0)
    views = Views(images, found.cameras, found.focal_of_width * images.shape[2], near, far)
    return views.shrunk(2) if half else views


def llff(folder, factor=8, hold_out=8) -> dict[str, Views]:
    """A forward-facing scene of the layout of LLFF, in normalized device coordinates.

    The world is turned to the mean of the cameras, and scaled so that the nearest point is 4/3 away, as in the authors'
    code. Scenes that are seen from all around are not such scenes.

    Args:
        folder: str or path, with `poses_bounds.npy`.
        factor: int. The images in `images_FACTOR` are read; 1 for those in `images`.
        hold_out: int. Each so-manieth view, from the first, is of the test.

    Returns:
        dict of `Views` by "train" and "test".

    Raises:
        DataError: if a file or folder is missing, or there are not as many images as poses.
        FileError: if `poses_bounds.npy` does not hold what it must. A ValueError.
    """
    folder = pathlib.Path(folder)
    path = folder / "poses_bounds.npy"
    images_folder = folder / (f"images_{factor}" if factor > 1 else "images")
    for needed in (path, images_folder):
        if not needed.exists():
            raise DataError(f"{needed} is missing. See keras_dl.recipes.datasets.view_folders for the layout.")
    with reading(path, "a table of poses and bounds"):
        table = np.load(path, allow_pickle=False).astype("float64")
        if table.ndim != 2 or table.shape[1] != 17 or not len(table) or not np.isfinite(table).all():
            raise ValueError(f"it has the shape {table.shape}, or a number that is not finite; it must have 17 columns")
        bounds = table[:, 15:]
        if not (bounds[:, 0] > 0).all() or not (bounds[:, 0] < bounds[:, 1]).all():
            raise ValueError("its bounds must be positive, the near one below the far one")
    files = sorted(file for file in images_folder.iterdir() if file.suffix.lower() in SUFFIXES)
    if len(files) != len(table):
        raise DataError(f"{images_folder} has {len(files)} images, and {path} has {len(table)} poses.")
    images = read_images(files, named_by=images_folder)
    height, width = images.shape[1:3]
    poses = table[:, :15].reshape(-1, 3, 5)  # the last column: height, width and focal length of the original images
    focal = float(poses[0, 2, 4] * width / poses[0, 1, 4])
    cameras = convert_cameras(poses[:, :, :4], "llff")
    cameras[:, :, 3] /= 0.75 * bounds[:, 0].min()
    cameras = recentered(cameras).astype("float32")
    views = Views(images, cameras, focal, near=0.0, far=1.0, ndc=(2 * focal / width, 2 * focal / height))
    test = np.arange(len(images)) % hold_out == 0
    if test.all():
        raise DataError(f"{folder} has {len(images)} views: with hold_out={hold_out} none is left for training.")
    return {"train": views.take(~test), "test": views.take(test)}


def recentered(cameras):
    """Cameras in a world whose axes and origin are those of the mean camera.

    Args:
        cameras: float, `(n, 3, 4)`.

    Returns:
        float64, `(n, 3, 4)`.
    """
    cameras = np.asarray(cameras, "float64")
    backward = _unit(cameras[:, :, 2].sum(0))
    right = _unit(np.cross(cameras[:, :, 1].sum(0), backward))
    axes = np.stack([right, np.cross(backward, right), backward])  # rows: the new axes
    moved = cameras.copy()
    moved[:, :, 3] -= cameras[:, :, 3].mean(0)
    return axes @ moved


def _unit(x):
    return x / np.linalg.norm(x)


def read_images(files, named_by):
    """Images of one size. Those with transparency are laid on white, where it is not the whole image that lacks it.

    Args:
        files: list of paths.
        named_by: path, of what names them, for errors.

    Returns:
        uint8, `(n, height, width, 3)`.

    Raises:
        DataError: if files are missing or cannot be read, or images differ in size.
    """
    missing = [file for file in files if not file.exists()]
    if missing:
        raise DataError(f"{missing[0]} is missing, which {named_by} names; {len(missing)} of {len(files)} images are.")
    images = [_read_image(file) for file in files]
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            raise DataError(
                f"{file} has the shape {image.shape}, and {files[0]} has {images[0].shape}: they must agree."
            )
    return np.stack(images)


def _read_image(file):
    try:
        image = tf.io.decode_image(tf.io.read_file(str(file)), expand_animations=False).numpy()
    except tf.errors.OpError as error:
        raise DataError(f"{file} is not an image that can be read: {str(error).splitlines()[0]}") from error
    if image.shape[-1] in (2, 4):
        alpha = image[..., -1:] / 255.0
        image = np.rint(image[..., :-1] * alpha + 255.0 * (1.0 - alpha)).astype("uint8")
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image
