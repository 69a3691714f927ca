"""Cameras, rays through their pixels, distances on rays, and what a ray sees: the parts of volume rendering.

A camera is a matrix from its own coordinates to those of the world, `(3, 4)` or `(4, 4)`: the columns are its axes, and
the place of its center. Three conventions of the axes are in use:

    convention   x       y      z          of
    "opengl"     right   up     backward   Blender and its transforms.json; all functions here
    "opencv"     right   down   forward    OpenCV, COLMAP
    "llff"       down    right  backward   poses_bounds.npy

`convert_cameras` goes from one to another. A place on a ray is `origin + distance * direction`. Directions are not
normalized, so that the distance of all points of a plane in front of the camera is the same.

Reference: Mildenhall et al. 2020, "NeRF: Representing Scenes as Neural Radiance Fields for View Synthesis",
arXiv:2003.08934.
"""

import numpy as np
import tensorflow as tf
from keras import ops

from keras_dl.checks import check_choice, check_positive, check_size, shape_of

# The axes "right, up, backward" in terms of the columns of each convention: numbers of columns, and their signs.
CONVENTIONS = {
    "opengl": ((0, 1, 2), (1, 1, 1)),
    "opencv": ((0, 1, 2), (1, -1, -1)),
    "llff": ((1, 0, 2), (1, -1, 1)),
}


def convert_cameras(camera_to_world, source: str, target: str = "opengl"):
    """Cameras in another convention of their axes. The world and the places of the cameras stay as they are.

    Args:
        camera_to_world: float, `(..., 3, 4)` or `(..., 4, 4)`.
        source: "opengl", "opencv" or "llff". The convention of `camera_to_world`.
        target: the same. The convention of the result.

    Returns:
        NumPy array, the shape and dtype of `camera_to_world`.

    Raises:
        ValueError: if a convention is unknown, or the matrices have another shape.

    Example:

    >>> camera = np.eye(4)[:3]
    >>> convert_cameras(camera, "opencv")[:, :3].tolist()
    [[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, -1.0]]
    """
    columns, signs = CONVENTIONS[check_choice("source", source, CONVENTIONS)]
    places, target_signs = CONVENTIONS[check_choice("target", target, CONVENTIONS)]
    cameras = np.asarray(camera_to_world)
    _check_cameras(cameras)
    result = cameras.copy()
    for axis in range(3):
        # The signs of a convention belong to its axes right, up and backward.
        result[..., places[axis]] = signs[axis] * target_signs[axis] * cameras[..., columns[axis]]
    return result + result.dtype.type(0)  # no -0.0


def look_at(positions, target=(0.0, 0.0, 0.0), up=(0.0, 0.0, 1.0)):
    """Cameras at given places that look at a point, in the convention "opengl".

    Args:
        positions: float, `(..., 3)`.
        target: float, `(3,)` or `(..., 3)`.
        up: float, `(3,)`. What is above in the image.

    Returns:
        NumPy array of float32, `(..., 3, 4)`.

    Raises:
        ValueError: if a camera is at its target, or looks along `up`.

    Example:

    >>> look_at([0.0, -2.0, 0.0]).tolist()
    [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, -2.0], [0.0, 1.0, 0.0, 0.0]]
    """
    positions = np.asarray(positions, "float64")
    backward = positions - np.asarray(target, "float64")
    right = np.cross(np.asarray(up, "float64"), backward)
    lengths = np.linalg.norm(right, axis=-1)
    if not (lengths > 1e-9 * np.maximum(np.linalg.norm(backward, axis=-1), 1e-30)).all():
        raise ValueError(f"positions={positions.tolist()} has a camera at its target, or one that looks along up={up}.")
    backward, right = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (backward, right))
    above = np.cross(backward, right)
    return np.stack([right, above, backward, positions], axis=-1).astype("float32") + np.float32(0)  # no -0.0


def orbit_cameras(num_views: int, radius: float, height: float, target=(0.0, 0.0, 0.0)):
    """Cameras on a level circle around a point, which look at it: the views of a turntable. z is up.

    Args:
        num_views: int, at least 1.
        radius: float, positive. Of the circle.
        height: float. Of the circle above the target.
        target: float, `(3,)`.

    Returns:
        NumPy array of float32, `(num_views, 3, 4)`, in the convention "opengl".

    Raises:
        ValueError: if `num_views` or `radius` is not positive.

    Example:

    >>> orbit_cameras(4, radius=2.0, height=1.0)[:, :, 3].round().astype(int).tolist()
    [[2, 0, 1], [0, 2, 1], [-2, 0, 1], [0, -2, 1]]
    """
    angles = 2 * np.pi * np.arange(check_size("num_views", num_views)) / num_views
    radius = check_positive("radius", radius)
    circle = np.stack([radius * np.cos(angles), radius * np.sin(angles), np.full(num_views, height)], axis=-1)
    return look_at(np.asarray(target) + circle, target)


def camera_rays(camera_to_world, focal, size, center=None, pixel_offset: float = 0.5):
    """The rays through all pixels of pinhole cameras, row by row from the top left.

    Args:
        camera_to_world: float, `(3, 4)` or `(4, 4)`, or with a batch before it: in the convention "opengl".
        focal: float, or `(batch,)`: the focal length in pixels.
        size: `(height, width)`: int.
        center: `(x, y)`, float: the principal point in pixels, from the top left corner of the image. Default: the
            middle of the image.
        pixel_offset: float. Where in a pixel its ray goes through: 0.5 is the middle. 0 is the top left corner, as in
            the authors' code.

    Returns:
        origins, directions: float32, `(height, width, 3)`, with the batch before it if there was one. The component of
        a direction along the camera's axis has the length 1.

    Raises:
        ValueError: if a shape does not fit, or the focal length or the size is not positive.

    Example:

    >>> origins, directions = camera_rays(np.eye(4)[:3], focal=10.0, size=(3, 3))
    >>> directions[1, 1].numpy().tolist()  # through the middle: forward is -z
    [0.0, 0.0, -1.0]
    """
    height, width = (check_size("size", n) for n in size)
    if isinstance(focal, int | float):
        check_positive("focal", focal)
    _check_cameras(camera_to_world)
    center_x, center_y = (width / 2, height / 2) if center is None else center
    x, y = np.meshgrid(np.arange(width) + pixel_offset - center_x, center_y - pixel_offset - np.arange(height))
    x, y = (plane.reshape(1, -1, 1).astype("float32") for plane in (x, y))  # (1, pixels, 1), in pixels, y up

    camera = ops.cast(camera_to_world, "float32")
    batched = len(camera.shape) > 2
    camera = ops.reshape(camera, (-1, *camera.shape[-2:]))  # (batch, 3 or 4, 4)
    focal = ops.reshape(ops.cast(focal, "float32"), (-1, 1, 1))
    right, up, backward = (ops.reshape(camera[:, :3, i], (-1, 1, 3)) for i in range(3))
    # Not a product of matrices, which each runtime rounds in its own way: at the edge of an object, a network makes
    # hundreds of times as much of it.
    directions = x / focal * right + y / focal * up - backward  # (batch, pixels, 3)
    origins = ops.zeros_like(directions) + ops.reshape(camera[:, :3, 3], (-1, 1, 3))
    shape = (-1, height, width, 3) if batched else (height, width, 3)
    return ops.reshape(origins, shape), ops.reshape(directions, shape)


def ndc_rays(origins, directions, scale, near: float = 1.0):
    """Rays in normalized device coordinates, for cameras that all look along -z at a scene without an end.

    The part of space that a camera at the origin sees beyond the plane `z = -near` becomes the cube [-1, 1]^3. Straight
    lines stay straight. The distance 0 on a new ray is the plane, and 1 is at infinity.

    Args:
        origins, directions: float, `(..., 3)`. Each direction has a z below 0.
        scale: `(x, y)`, float: the focal length divided by half the width, and by half the height, of the image.
        near: float, positive. The place of the plane.

    Returns:
        origins, directions: float32, `(..., 3)`.

    Example:

    >>> start, direction = ndc_rays(np.array([[0.0, 0.0, 0.0]]), np.array([[0.5, 0.0, -1.0]]), scale=(2.0, 2.0))
    >>> start.numpy().tolist(), (start + direction).numpy().tolist()
    ([[1.0, 0.0, -1.0]], [[1.0, 0.0, 1.0]])

    Reference: Mildenhall et al. 2020, appendix C.
    """
    origins, directions = ops.cast(origins, "float32"), ops.cast(directions, "float32")
    dx, dy, dz = (directions[..., i : i + 1] for i in range(3))
    start = origins - (near + origins[..., 2:]) / dz * directions  # on the plane
    x, y, z = (start[..., i : i + 1] for i in range(3))
    scale_x, scale_y = scale
    place = [-scale_x * x / z, -scale_y * y / z, 1.0 + 2.0 * near / z]
    way = [-scale_x * (dx / dz - x / z), -scale_y * (dy / dz - y / z), -2.0 * near / z]
    return ops.concatenate(place, axis=-1), ops.concatenate(way, axis=-1)


def frequency_encoding(x, num_frequencies: int):
    """Sines and cosines of the coordinates at rising frequencies, behind the coordinates themselves.

        [x, sin(x), sin(2 x), ..., sin(2^(L-1) x), cos(x), cos(2 x), ..., cos(2^(L-1) x)]

    The authors' code has sines and cosines of one frequency side by side. The paper's eq. 4 has pi as a factor, their
    code has none.

    Args:
        x: float, `(..., n)`.
        num_frequencies: int, at least 0: L.

    Returns:
        float32, `(..., n + 2 n L)`.

    Example:

    >>> frequency_encoding(np.array([[1.0]]), 2).numpy().round(3).tolist()
    [[1.0, 0.8410000205039978, 0.9089999794960022, 0.5400000214576721, -0.41600000858306885]]
    """
    x = ops.cast(x, "float32")
    if not num_frequencies:
        return x
    factors = np.repeat(2.0 ** np.arange(num_frequencies), x.shape[-1]).astype("float32")
    angles = ops.concatenate([x] * num_frequencies, axis=-1) * factors  # powers of two: no rounding
    return ops.concatenate([x, ops.sin(angles), ops.cos(angles)], axis=-1)


def stratified_distances(near: float, far: float, num_samples: int, noise=None):
    """Distances from `near` to `far`, both included, or one at random in each of `num_samples` strata.

    A stratum ends half way to the neighboring distance.

    Args:
        near, far: float.
        num_samples: int, at least 2.
        noise: float, `(rays, num_samples)`, in [0, 1): the place in its stratum. None for the same distances on all
            rays.

    Returns:
        float32, `(rays, num_samples)`, or `(1, num_samples)` without noise: not decreasing.

    Raises:
        ValueError: if `far` is not above `near`, or there are fewer than 2 samples.

    Example:

    >>> stratified_distances(2.0, 6.0, 5).numpy().tolist()
    [[2.0, 3.0, 4.0, 5.0, 6.0]]

    Reference: Mildenhall et al. 2020, eq. 2.
    """
    if not near < far:
        raise ValueError(f"near={near} must be below far={far}.")
    check_size("num_samples", num_samples, minimum=2)
    evenly = np.linspace(near, far, num_samples, dtype="float32")[None]
    if noise is None:
        return ops.convert_to_tensor(evenly)
    middle = (evenly[:, 1:] + evenly[:, :-1]) / 2
    lower = np.concatenate([evenly[:, :1], middle], axis=1)
    upper = np.concatenate([middle, evenly[:, -1:]], axis=1)
    return lower + (upper - lower) * ops.cast(noise, "float32")


def importance_distances(edges, weights, places):
    """Distances that follow a piecewise constant density: the inverse of its distribution function.

    The way through the bins is the sum of the ways through each of them. So there is no search in a table, which files
    for devices cannot hold.

    Args:
        edges: float, `(rays, bins + 1)`, not decreasing: the ends of the bins.
        weights: float, `(rays, bins)`, at least 0: what each bin counts. 1e-5 is added to each.
        places: float, `(rays, n)` or `(1, n)`, in [0, 1]: values of the distribution function.

    Returns:
        float32, `(rays, n)`.

    Example:

    >>> distances = importance_distances([[0.0, 1.0, 2.0]], [[1.0, 3.0]], [[0.0, 0.25, 1.0]])
    >>> distances.numpy().round(4).tolist()
    [[0.0, 1.0, 2.0]]

    Reference: Mildenhall et al. 2020, eq. 5.
    """
    edges, weights, places = (ops.cast(x, "float32") for x in (edges, weights, places))
    weights = weights + 1e-5
    density = weights / ops.sum(weights, axis=-1, keepdims=True)  # (rays, bins)
    before = tf.cumsum(density, axis=-1, exclusive=True)
    behind = tf.cumsum(density, axis=-1, exclusive=True, reverse=True)
    width = edges[:, 1:] - edges[:, :-1]
    density, before, behind, width = (ops.expand_dims(x, 1) for x in (density, before, behind, width))
    places = ops.expand_dims(places, -1)  # (rays, n, 1)
    # From the nearer end: a bin of little weight would make much of the rounding of a sum that is almost 1.
    share = ops.where(before < 0.5, places - before, density + behind - (1.0 - places)) / density
    way = ops.clip(share, 0.0, 1.0)  # (rays, n, bins)
    return edges[:, :1] + ops.sum(way * width, axis=-1)


def composite(colors, density, distances, lengths, far=None, background: float = 0.0):
    """What a ray sees of a medium that emits light and absorbs it, constant between two neighboring distances.

        alpha_i = 1 - exp(-density_i delta_i),   w_i = alpha_i exp(-sum_{j<i} density_j delta_j)

    `delta_i` is the distance to the next sample, times the length of the direction.

    Args:
        colors: float, `(rays, n, channels)`.
        density: float, `(rays, n)`, at least 0, per unit of length.
        distances: float, `(rays, n)`, not decreasing.
        lengths: float, `(rays, 1)`: of the directions.
        far: float. Where the medium behind the last sample ends. None: it has no end, so that the last sample is opaque
            if its density is positive at all, as in the authors' code.
        background: float. The color of what is behind.

    Returns:
        dict of float32: `"rgb"`, `(rays, channels)`; `"depth"`, `(rays,)`, the expected distance, where what passes
        through everything counts as the last distance; `"opacity"`, `(rays,)`, in [0, 1]: what does not pass through;
        `"weights"`, `(rays, n)`, whose sum is the opacity.

    Example:

    >>> seen = composite(np.ones((1, 2, 3)), [[0.0, np.log(2.0)]], [[1.0, 2.0]], [[1.0]], far=3.0)
    >>> {name: x.numpy().round(3).tolist() for name, x in seen.items()}
    {'rgb': [[0.5, 0.5, 0.5]], 'depth': [2.0], 'opacity': [0.5], 'weights': [[0.0, 0.5]]}

    Reference: Mildenhall et al. 2020, eq. 3.
    """
    colors, density, distances, lengths = (ops.cast(x, "float32") for x in (colors, density, distances, lengths))
    thickness = density[:, :-1] * (distances[:, 1:] - distances[:, :-1]) * lengths  # (rays, n - 1)
    if far is None:
        last = ops.cast(density[:, -1:] > 0, "float32")
    else:
        last = _absorbed(density[:, -1:] * (far - distances[:, -1:]) * lengths)
    alpha = ops.concatenate([_absorbed(thickness), last], axis=-1)  # (rays, n)
    in_front = ops.concatenate([ops.zeros_like(last), ops.cumsum(thickness, axis=-1)], axis=-1)
    weights = alpha * ops.exp(-in_front)
    opacity = ops.sum(weights, axis=-1)
    through = ops.maximum(1.0 - opacity, 0.0)
    rgb = ops.sum(ops.expand_dims(weights, -1) * colors, axis=1)
    depth = ops.sum(weights * distances, axis=-1) + through * distances[:, -1]
    return {
        "rgb": rgb + background * ops.expand_dims(through, -1) if background else rgb,
        "depth": depth,
        "opacity": 1.0 - through,  # an output of its own, which an integer file can quantize
        "weights": weights,
    }


def _absorbed(thickness):
    """`1 - exp(-thickness)` to the last digits, by a hyperbolic tangent: files for devices have no `expm1`.

    A difference to 1 has an error of 6e-8, which is much of a thin sample. Its share of the weights says where the fine
    samples are, and each runtime would put them elsewhere.
    """
    half = ops.tanh(0.5 * thickness)
    return 2.0 * half / (1.0 + half)


def _check_cameras(cameras):
    shape = shape_of(cameras)
    if len(shape) < 2 or shape[-2:] not in ((3, 4), (4, 4)):
        raise ValueError(f"camera_to_world has the shape {shape}; it must end in (3, 4) or (4, 4).")
