"""Own data as `tf.data` for `fit`: the reader in code."""

from typing import Any, NamedTuple

import tensorflow as tf

from keras_dl.recipes.data.forms import TABLES, open_data
from keras_dl.recipes.training.recipe import OptionError

PREFETCHED = 2


class Folder(NamedTuple):
    """Own data for `fit`.

    Attributes:
        train: `tf.data.Dataset` of batches `(inputs, targets)`, in another order in each epoch.
        test: the same of the test split, in a fixed order.
        validation: the same of the validation split; None if the data has none.
        labels: tuple of str. Names of the classes. Empty for regression.
        input_shape: tuple of int. Shape of one input.
        notes: list of str. How the data was split, and what was left out.
    """

    train: Any
    test: Any
    validation: Any
    labels: tuple[str, ...]
    input_shape: tuple[int, ...]
    notes: list[str]


def from_folder(path, *, image_size=None, batch_size=32, seed=0, target=None, form=None) -> Folder:
    """Images in folders by class, or a table, as `tf.data` for `fit`: as `keras-dl train --data PATH` reads them.

    Args:
        path: str or path.
        image_size: int, or `(height, width)`. None for the images' own size, if all have one of at most 64 pixels,
            else 64 x 64. Images are scaled to cover it, and cropped in the middle.
        batch_size: int.
        seed: int. Of the split, where the data has none, and of the order.
        target: str. The column to predict, of a table.
        form: "images" or "table"; None to find it.

    Returns:
        `Folder`. Images are uint8 `(batch, height, width, channels)`, rows float32 `(batch, columns)`. Targets are
        int64 classes `(batch,)`, or float32 values for regression.

    Raises:
        OptionError: if the path has another form. A ValueError.
        FileError: if a file is wrong. The message begins with its name. A ValueError.

    Example:

    >>> from PIL import Image
    >>> import pathlib
    >>> for name, level in (("dark", 40), ("light", 200)):
    ...     pathlib.Path("photos", name).mkdir(parents=True)
    ...     for i in range(5):
    ...         Image.new("RGB", (30, 20), (level + i,) * 3).save(f"photos/{name}/{i}.png")
    >>> data = from_folder("photos", image_size=16, batch_size=4)
    >>> data.labels, data.input_shape, data.notes
    (('dark', 'light'), (16, 16, 3), ['a fifth for the test, by the seed 0'])
    >>> images, labels = next(iter(data.train))
    >>> images.shape, images.dtype.name
    (TensorShape([4, 16, 16, 3]), 'uint8')
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise OptionError(f"batch_size={batch_size} must be an int of at least 1.")
    data = open_data(path, form, seed, target, ("images", "table"), "from_folder")
    if data.form not in ("images", *TABLES):
        raise OptionError(f"form={form!r} must be 'images' or 'table'; the recipes take the other forms.")
    read, shape = _images(data, image_size) if data.form == "images" else _rows(data, image_size)

    def split(name):
        if name not in data.counts:
            return None
        rows = data.rows(name)
        if name == "train":
            rows = rows.shuffle(data.counts[name], seed=seed, reshuffle_each_iteration=True)
        return rows.map(read, tf.data.AUTOTUNE).batch(batch_size).prefetch(PREFETCHED)

    parts = {name: split(name) for name in ("train", "test", "validation")}
    return Folder(**parts, labels=data.labels, input_shape=shape, notes=[data.how, *data.notes])


def _images(data, image_size):
    from keras_dl.recipes.training import pipelines  # which reads own data itself

    shape = pipelines.own_shape(data.features["image"].shape)
    if image_size is not None:
        sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
            raise OptionError(f"image_size={image_size} must be an int, or a height and a width, of at least 1.")
        shape = (*sides, shape[-1])

    def read(row):
        return pipelines.resize_and_crop(data.decode("image", row["image"]), shape, margin=0), row["label"]

    return read, shape


def _rows(data, image_size):
    if image_size is not None:
        raise OptionError(f"image_size={image_size} is for images; {data.path} is a table.")
    answer = "label" if data.labels else "target"
    return lambda row: (row["features"], row[answer]), data.splits["train"]["features"].shape[1:]
