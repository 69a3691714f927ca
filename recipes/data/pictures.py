"""Images whose classes do not matter: the pictures in a folder, and in all folders in it.

PATH/1.jpg, PATH/summer/2.jpg                   a split is made by seed
PATH/train/1.jpg, PATH/test/summer/2.jpg        the split is given; `val` is a third part, or the test
"""

import numpy as np

from keras_dl.files import FileError
from keras_dl.recipes.data.headers import SUFFIXES, header
from keras_dl.recipes.data.images import is_picture, of_files
from keras_dl.recipes.data.own import OwnData, by_seed, divided, mixed, split_folders, subfolders, with_test

LEAST = {"train": 8, "test": 2}  # images: a batch is of 8 or more, and two have a variance
FEW = 200  # images for the test; the thumbnails that are compared have 192 numbers


def accepts(path):
    """Whether a folder, or a folder in it, holds a picture."""
    return path.is_dir() and any(is_picture(file) for file in files_in(path))


def files_in(folder, above=()):
    """The files in a folder and in the folders in it, by name, without hidden ones.

    Args:
        folder: `pathlib.Path`.
        above: tuple of resolved paths: folders that are being read. A link to one of them is not followed.
    """
    real = folder.resolve()
    if real in above:
        return
    yield from sorted(x for x in folder.iterdir() if x.is_file() and not x.name.startswith("."))
    for inner in subfolders(folder):
        yield from files_in(inner, (*above, real))


def read(path, seed=0, target=None) -> OwnData:
    """The images of a folder, in one class.

    Raises:
        FileError: if there are too few, or a file is no image; the message has its name.
    """
    given = split_folders(path)
    found = with_test({split: list(files_in(folder)) for split, folder in (given or {"train": path}).items()})
    parts = {split: [x for x in files if is_picture(x)] for split, files in found.items()}
    for split, files in parts.items():
        if not files:
            raise FileError((given or {"train": path}).get(split, path), f"holds no picture ({', '.join(SUFFIXES)}).")
    headers = {file: header(file) for files in parts.values() for file in files}
    how = "as the folders have it"
    if "test" in parts:
        parts = {split: [files[i] for i in mixed(len(files), seed)] for split, files in parts.items()}
    else:
        files = parts["train"]
        rows = divided(len(files), seed, path=path)
        parts |= {split: [files[i] for i in part] for split, part in zip(("train", "test"), rows, strict=True)}
        how = by_seed(seed)
    for split, least in LEAST.items():
        if (count := len(parts[split])) < least:
            total = "" if given else f" of its {len(headers)}"
            raise FileError(
                path,
                f"has {count}{total} images in the {split} split ({how}). {LEAST['train']} to train on and "
                f"{LEAST['test']} for the test are the least.",
            )
    beside = [] if given is None else [x for x in files_in(path) if is_picture(x) and x not in headers]
    notes = [f"left out {len(beside)} pictures that are in no folder of a split, such as {x}" for x in beside[:1]]
    if (count := len(parts["test"])) < FEW:
        notes.append(f"{count} images for the test are few: a Frechet distance of less than {FEW} says little")
    return of_files(
        path,
        "pictures",
        {split: {"image": np.array([str(file) for file in files])} for split, files in parts.items()},
        headers,
        [x for files in found.values() for x in files if not is_picture(x)],
        how,
        notes=notes,
    )
