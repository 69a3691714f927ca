"""Images with known cameras as rays with colors, and images that are rendered from rays."""

import functools
import pathlib

import numpy as np
import tensorflow as tf

from keras_dl.export.errors import SignatureError
from keras_dl.metrics import PSNR, SSIM
from keras_dl.ops.rays import (
    camera_rays,
    composite,
    frequency_encoding,
    importance_distances,
    stratified_distances,
)
from keras_dl.recipes.datasets import view_folders
from keras_dl.recipes.datasets.view_folders import Views
from keras_dl.recipes.datasets.wheels import DataError
from keras_dl.recipes.training.batches import fold_in, open_dataset, origin, read
from keras_dl.recipes.training.recipe import Data, OptionError

TEST_BATCH = 512
SMOKE_VIEWS = 3
SMALLEST = 11  # pixels of a side: the window of SSIM
MOST_BATCHES = 48  # of what the networks see, which takes 4 MB each


def traced_scene(options, near: float, far: float) -> Data:
    """`Data` of the set `traced_scene`."""
    builder = open_dataset(options)
    splits = {}
    for split in ("train", "validation", "test"):
        rows = read(builder, split, options)
        columns = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        focal = float(columns["focal"][0])
        splits[split] = Views(columns["image"], columns["camera_to_world"], focal, near, far, depth=columns["depth"])
    return from_memory(options, splits, **origin(builder))


def published(options, crop_steps: int = 0) -> Data:
    """`Data` of a scene in the folder `--data-dir`, of the layout that the data set names: `blender` or `llff`.

    Raises:
        DataError: if there is no such folder, or it does not hold what it must.
    """
    if options.data_dir is None:
        raise DataError(f"{options.dataset} is not downloaded. Give the folder of one scene by --data-dir.")
    splits = getattr(view_folders, options.dataset)(options.data_dir)
    if "test" not in splits:
        raise DataError(f"{options.data_dir} has no transforms_test.json.")
    splits = {"validation" if split == "val" else split: views for split, views in splits.items()}
    origin_of = dict(dataset=options.dataset, version="folder", licence="see its authors' terms")
    return from_memory(options, splits, crop_steps, **origin_of)


def own(options, longest: int) -> Data:
    """`Data` of an own scene, with the longer side of the images at most `longest` pixels, or `--image-size`.

    Raises:
        OptionError: if the shorter side would be too small for SSIM.
    """
    builder = open_dataset(options)
    longest = options.image_size or longest
    near, far = builder.metadata["bounds"]
    splits = {}
    for split, columns in builder.splits.items():
        images = view_folders.read_images(list(map(pathlib.Path, columns["image"])), named_by=builder.path)
        focal = builder.metadata["focal_of_width"] * images.shape[2]
        whole = Views(images, np.stack(columns["camera"]), focal, near, far)
        splits[split] = whole.shrunk(-(-max(images.shape[1:3]) // longest))
        if min(splits[split].images.shape[1:3]) < SMALLEST:
            size = " x ".join(map(str, splits[split].images.shape[1:3]))
            raise OptionError(f"--image-size {longest}: images would have {size} pixels; each side needs {SMALLEST}.")
    data = from_memory(options, splits, **origin(builder))
    data.arrays["white"] = np.array(builder.metadata["white"])
    return data


def from_memory(options, splits: dict[str, Views], crop_steps: int = 0, **origin_of) -> Data:
    """`Data` of views in memory: a batch holds rays of any training views, drawn with replacement.

    Args:
        options: `Options`.
        splits: dict of `Views` by "train" and "test", and "validation" if there is one. Of that, a sixteenth of the
            pixels is measured after each epoch.
        crop_steps: int. So many steps of the first epoch see the middle of the images only, of half the height and
            width, so that the network does not begin with the background.
        origin_of: arguments of `Data`: `dataset`, `version` and `licence`.
    """
    if options.smoke:
        shorter = min(splits["train"].images.shape[1:3])
        factor = max(1, min(4, shorter // SMALLEST))
        splits = {split: views.take(slice(SMOKE_VIEWS)).shrunk(factor) for split, views in splits.items()}
    train = splits["train"]
    count, height, width = train.images.shape[:3]

    def epoch(number):
        key = fold_in(options.seed, number)

        def batch(index):
            seeds = tf.unstack(tf.random.split(tf.random.fold_in(key, tf.cast(index, tf.int32)), 3))
            cropped = tf.logical_and(tf.equal(number, 0), index < crop_steps)

            def places(size, seed):
                """Rows or columns of pixels, of all of them or of the half in the middle."""
                low, high = tf.where(cropped, size // 4, 0), tf.where(cropped, size - size // 4, size)
                return tf.random.stateless_uniform((options.batch_size,), seed, low, high, tf.int32)

            view = tf.random.stateless_uniform((options.batch_size,), seeds[0], 0, count, tf.int32)
            pixel = places(height, seeds[1]) * width + places(width, seeds[2])
            return pixels_in_graph(train, view, pixel)

        steps = count * height * width // options.batch_size
        return tf.data.Dataset.range(steps).map(batch, tf.data.AUTOTUNE)

    def measured(views, stride=1):
        """Each `stride`-th pixel of each `stride`-th row of all views, which may be too many for the memory."""
        numbers = np.arange(height * width, dtype="int32").reshape(height, width)[::stride, ::stride].reshape(-1)

        def rays_of(view):
            return pixels_in_graph(views, tf.fill(numbers.shape, view), numbers)

        views_of = tf.data.Dataset.range(len(views.images), output_type=tf.int32).map(rays_of)
        rows = views_of.flat_map(lambda *rows: tf.data.Dataset.from_tensor_slices(rows))
        # Keras warns of data that ends, if its length is not known.
        rows = rows.apply(tf.data.experimental.assert_cardinality(len(views.images) * len(numbers)))
        return rows.batch(TEST_BATCH)

    arrays = {
        f"{split}/{name}": x
        for split, views in splits.items()
        for name, x in views._asdict().items()
        if name in ("images", "cameras", "depth") and x is not None
    }
    arrays["focal"], arrays["bounds"] = np.float32(train.focal), np.array([train.near, train.far], "float32")
    if train.ndc is not None:
        arrays["ndc"] = np.array(train.ndc, "float32")
    validation = splits.get("validation")
    return Data(
        train=epoch,
        test=measured(splits["test"]),
        num_train=count * height * width,
        num_test=len(splits["test"].images) * height * width,
        calibration=lambda rows: random_rays(train, rows, options.seed),
        labels=(),
        input_shape=(3,),
        input_range="float32 rays in the units of the scene",
        arrays=arrays,
        validation=None if validation is None else measured(validation, 4),
        **origin_of,
    )


def pixel_rays(views: Views, view, pixel):
    """The rays and the colors of pixels, each by the number of its view and its own number, row by row.

    Returns:
        directions, origins, colors: float32, `(n, 3)`.
    """
    cameras, plane = views.cameras[view], _plane(views.focal, views.images.shape[1:3])
    directions = np.einsum("nij,nj->ni", cameras[:, :, :3], plane[pixel]).astype("float32")
    colors = views.images.reshape(len(views.images), -1, 3)[view, pixel].astype("float32") / np.float32(255)
    return directions, cameras[:, :, 3], colors


@functools.lru_cache(maxsize=8)
def _plane(focal, size):
    """The directions of all pixels for a camera whose axes are those of the world: float32, `(pixels, 3)`."""
    return np.reshape(camera_rays(np.eye(4)[:3], focal, size)[1], (-1, 3))


def pixels_in_graph(views: Views, view, pixel):
    """The same in a graph, as `(inputs, targets)`. The views are too large to be constants of it."""
    found = tf.numpy_function(lambda *rows: pixel_rays(views, *rows), [view, pixel], [tf.float32] * 3, stateful=False)
    directions, origins, colors = (tf.ensure_shape(x, (view.shape[0], 3)) for x in found)
    return {"directions": directions, "origins": origins}, colors


def random_rays(views: Views, rows: int, seed: int):
    """Rays of random pixels: a dict of `directions` and `origins`, float32, `(rows, 3)`."""
    random = np.random.default_rng(seed)
    count, height, width = views.images.shape[:3]
    directions, origins, _ = pixel_rays(
        views, random.integers(count, size=rows), random.integers(height * width, size=rows)
    )
    return {"directions": directions, "origins": origins}


def render_test_views(serve, data, model):
    """The test views as a model or its file renders them: float32, `(views, height, width, 3)`.

    Args:
        serve: as `Recipe.evaluate` takes it. Of a file that holds only the networks, what is between them is computed
            here.
        data: `Data`, of `from_memory`.
        model: dict of the arguments of `NeRF` that the recipe sets.
    """
    images = []
    for camera, image in zip(data.arrays["test/cameras"], data.arrays["test/images"], strict=True):
        rays = zip(("origins", "directions"), camera_rays(camera, data.arrays["focal"], image.shape[:2]), strict=True)
        rays = {name: np.reshape(x, (-1, 3)) for name, x in rays}
        try:
            colors = serve("render_rays", **rays)["rgb"]
        except SignatureError:
            colors = by_networks(serve, rays, model)
        images.append(np.reshape(colors, image.shape))
    return np.stack(images)


def by_networks(serve, rays, model, chunk=2048):
    """The colors of rays, by the signatures `coarse` and `fine` of a `NeRF` and the functions of `keras_dl.ops`.

    Args:
        serve: as of `render_test_views`.
        rays: dict of `directions` and `origins`, float32, `(n, 3)`.
        model: dict of the arguments of `NeRF`, with all that is read here.
        chunk: int. Rays that are computed at once.
    """
    far = None if model["infinite_end"] else model["far"]
    colors = []
    for start in range(0, len(rays["origins"]), chunk):
        origins, directions = (rays[name][start : start + chunk] for name in ("origins", "directions"))
        lengths = np.linalg.norm(directions, axis=-1, keepdims=True)
        views = np.asarray(frequency_encoding(directions / lengths, model["direction_frequencies"]))
        distances = stratified_distances(model["near"], model["far"], model["num_samples"])
        distances = np.repeat(np.asarray(distances), len(origins), axis=0)
        places = np.linspace(0.0, 1.0, model["num_fine_samples"], dtype="float32")[None]
        for name in ("coarse", "fine"):
            points = origins[:, None] + distances[..., None] * directions[:, None]
            encoded = np.asarray(frequency_encoding(points, model["point_frequencies"]))
            field = serve(name, directions=views, points=encoded)
            background = float(model["white_background"])
            seen = composite(field["colors"], field["density"], distances, lengths, far, background)
            if name == "coarse":
                middle = (distances[:, 1:] + distances[:, :-1]) / 2
                further = importance_distances(middle, np.asarray(seen["weights"])[:, 1:-1], places)
                distances = np.sort(np.concatenate([distances, further], -1), -1)
        colors.append(np.asarray(seen["rgb"]))
    return np.concatenate(colors)


def calibration(serve, data, samples: int, model) -> dict:
    """Calibration data of all signatures of a `NeRF`. The networks get what rays of the training views ask of them.

    Args:
        serve, model: as of `render_test_views`.
        data: `Data`, of `from_memory`.
        samples: int. Batches of 256 rays; for the networks `MOST_BATCHES`, which take much memory, at the most.

    Returns:
        dict of lists of dicts of arrays by signature.
    """
    rays = data.calibration(256 * samples)
    batches = [{name: x[i : i + 256] for name, x in rays.items()} for i in range(0, 256 * samples, 256)]
    given = {"render_rays": batches, "coarse": [], "fine": []}

    def watched(name, **arrays):
        given[name].append(arrays)
        return serve(name, **arrays)

    for batch in batches[:MOST_BATCHES]:
        by_networks(watched, batch, model)
    cameras = data.arrays["train/cameras"][:samples]
    focal = data.arrays["focal"] * model["served_size"][1] / data.arrays["train/images"].shape[2]
    focal = np.full((1, 1), focal, "float32")
    given["render_image"] = [{"camera_to_world": camera[None], "focal": focal} for camera in cameras]
    return given


def psnr(images, data) -> float:
    """Of rendered test views, in dB: the mean over the views, as papers report it."""
    return float(np.mean([psnr_of(*pair) for pair in zip(images, data.arrays["test/images"], strict=True)]))


def psnr_of(image, target) -> float:
    """Of one view in [0, 1] against its pixels in [0, 255], in dB."""
    metric = PSNR()
    metric.update_state(target[None] / np.float32(255), image[None])
    return float(metric.result())


def ssim(images, data) -> float:
    """Of rendered test views: the mean over the views."""
    metric = SSIM()
    metric.update_state(data.arrays["test/images"] / np.float32(255), images)
    return float(metric.result())


def depth_error(seen, data) -> float:
    """The median error of the depth of the test views, where they show an object, in units of the scene.

    The mean would be decided by the few pixels at the edges of objects, which see both the object and what is behind.

    Args:
        seen: dict, of `NeRF.render`, of all test views.
        data: `Data` with the true depth.
    """
    depth = data.arrays["test/depth"]
    objects = np.isfinite(depth)
    return float(np.median(np.abs(seen["depth"] - depth)[objects]))


def mean_image(data):
    """A baseline: every test view is the mean of the training views."""
    return np.repeat(data.arrays["train/images"].mean(0, keepdims=True) / 255, len(data.arrays["test/images"]), axis=0)


def nearest_views(data):
    """A baseline: every test view is the training view whose camera is nearest."""
    centers, others = (data.arrays[f"{split}/cameras"][:, :, 3] for split in ("test", "train"))
    nearest = np.linalg.norm(centers[:, None] - others, axis=-1).argmin(1)
    return data.arrays["train/images"][nearest] / 255
