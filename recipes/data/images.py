"""Images in folders by class: the layout of `tfds.ImageFolder`, or without `train` and `test` above.

PATH/daisy/1.jpg, PATH/rose/2.jpg                          a split is made by seed
PATH/train/daisy/1.jpg, PATH/test/daisy/2.jpg              the split is given; `val` is a third part, or the test
"""

import collections

import numpy as np
import tensorflow as tf

from keras_dl.extras import require
from keras_dl.files import FileError
from keras_dl.recipes.data.headers import PLAIN, SUFFIXES, header
from keras_dl.recipes.data.own import OwnData, by_seed, divided, mixed, split_folders, subfolders, with_test

OTHERS = (".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2")
GRAY = ("1", "L", "LA", "I", "I;16", "F")  # Pillow's modes


def accepts(path):
    """Whether a folder holds folders of pictures."""
    if not path.is_dir():
        return False
    above = list((split_folders(path) or {"": path}).values())
    return any(is_picture(file) for part in above for folder in subfolders(part) for file in folder.iterdir())


def is_picture(file):
    """Whether a file has the ending of a picture, also of a kind that is not read."""
    return file.suffix.lower() in SUFFIXES + OTHERS and not file.name.startswith(".")


def read(path, seed=0, target=None) -> OwnData:
    """The images of a folder.

    Raises:
        FileError: if there are fewer than two classes, a class has no image, or a file is no image; the message has
            its name.
    """
    given = split_folders(path)
    parts = {split: _classes(folder) for split, folder in (given or {"train": path}).items()}
    names = tuple(sorted(set().union(*parts.values())))
    if len(names) < 2:
        raise FileError(
            path,
            f"has the class {names[0]!r} alone. A classifier needs two folders of pictures. What needs no classes "
            "reads it by --form pictures.",
        )
    for split, classes in parts.items():
        for name in classes.keys() - parts["train"].keys():
            raise FileError(given[split] / name, "is a class that the training split does not have.")
    parts = with_test(parts)
    rows = {split: _rows(classes, names) for split, classes in parts.items()}
    headers = {file: header(file) for part in rows.values() for file, _ in part}
    how = "as the folders have it"
    if "test" not in rows:
        labels = np.array([label for _, label in rows["train"]])
        train, test = divided(labels, seed, names, path)
        rows = {"train": [rows["train"][i] for i in train], "test": [rows["train"][i] for i in test]} | {
            split: part for split, part in rows.items() if split != "train"
        }
        how = by_seed(seed)
    else:
        rows = {split: [part[i] for i in mixed(len(part), seed)] for split, part in rows.items()}
    features = require("tensorflow_datasets", extra="recipes").features
    columns = {
        split: {
            "image": np.array([str(file) for file, _ in part]),
            "label": np.array([label for _, label in part], "int64"),
        }
        for split, part in rows.items()
    }
    ignored = [x for classes in parts.values() for files in classes.values() for x in files[1]]
    return of_files(
        path, "images", columns, headers, ignored, how, {"label": features.ClassLabel(names=names)}, labels=names
    )


def of_files(path, form, splits, headers, ignored, how, features=None, labels=(), notes=()) -> OwnData:
    """`OwnData` of images in files.

    Args:
        path, form, splits, how, labels: as of `OwnData`. The column `image` has the paths.
        headers: dict of `Header` by path, of all images.
        ignored: list of paths: files that are no pictures.
        features: dict of `tfds.features` of the other columns. None for no others.
        notes: list of str. What is said beside the ignored and the turned files.
    """
    image = require("tensorflow_datasets", extra="recipes").features.Image
    sizes = collections.Counter(one.seen for one in headers.values())
    channels = 1 if all(one.mode in GRAY for one in headers.values()) else 3
    turns = {str(file): one.turn for file, one in headers.items() if one.turn != PLAIN}
    height, width = next(iter(sizes)) if len(sizes) == 1 and not turns else (None, None)
    files = sorted(headers)
    turned = [f"turned {len(turns)} as their cameras say (EXIF)"] * bool(turns)
    return OwnData(
        path=path,
        form=form,
        features={"image": image(shape=(height, width, channels))} | (features or {}),
        splits=splits,
        files=files,
        how=how,
        labels=labels,
        facts=size_facts(sizes, channels),
        notes=[*notes, *ignored_note(ignored), *turned],
        metadata={"turns": turns},
        problem=lambda: first_broken(files, channels),
    )


def _classes(folder):
    """dict by class of `(pictures, other files)`."""
    found = {}
    for one in subfolders(folder):
        files = sorted(x for x in one.iterdir() if not x.name.startswith("."))
        pictures = [x for x in files if x.is_file() and is_picture(x)]
        if not pictures:
            inner = next(iter(subfolders(one)), None)
            why = (
                f" It has the folder {inner.name}: give --data {one}, if its folders are the classes." if inner else ""
            )
            raise FileError(one, f"is the folder of a class, and holds no picture ({', '.join(SUFFIXES)}).{why}")
        found[one.name] = (pictures, [x for x in files if x.is_file() and not is_picture(x)])
    if not found:
        raise FileError(folder, "has no folder for each class. Put the pictures of a class into a folder of its name.")
    return found


def _rows(classes, names):
    return [(file, names.index(name)) for name in sorted(classes) for file in classes[name][0]]


def first_broken(files, channels=3):
    """What is wrong with the first file that does not decode as training decodes it: a `FileError`, or None."""
    for file in files:
        try:
            tf.io.decode_image(tf.io.read_file(str(file)), channels=channels, expand_animations=False)
        except tf.errors.InvalidArgumentError:
            return FileError(file, "is damaged: it begins as a picture, and does not end as one. Save it again.")
        except tf.errors.NotFoundError:
            return FileError(file, "is missing.")
    return None


def size_facts(sizes, channels):
    """What is said of the sizes of images.

    Args:
        sizes: `Counter` of (height, width).
        channels: int.
    """
    heights, widths = zip(*sizes, strict=True)
    if len(sizes) == 1:
        size = f"{heights[0]} x {widths[0]} pixels, all of them"
    else:
        size = f"{min(heights)} to {max(heights)} pixels high, {min(widths)} to {max(widths)} wide"
    return {"sizes": size, "channels": "1, gray" if channels == 1 else "3, red, green and blue"}


def ignored_note(files):
    """A note about files that are no pictures: list of at most one str."""
    if not files:
        return []
    shown = ", ".join(sorted(x.name for x in files)[:3]) + (", ..." if len(files) > 3 else "")
    return [f"left out {len(files)} {'file that is' if len(files) == 1 else 'files that are'} no picture: {shown}"]
