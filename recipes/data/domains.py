"""Two sets of images between which a net translates. No image of one belongs to an image of the other.

FOLDER/trainA/1.jpg, FOLDER/trainB/1.jpg                   a split is made by seed; the sets are called A and B
FOLDER/trainA, FOLDER/trainB, FOLDER/testA, FOLDER/testB   the layout of CycleGAN's authors; `valA` and `valB` too
FOLDER/horse/1.jpg, FOLDER/zebra/1.jpg                     two folders, with their names; also in `train`, `test`
"""

import collections

import numpy as np

from keras_dl.extras import require
from keras_dl.files import FileError
from keras_dl.recipes.data.headers import SUFFIXES, header
from keras_dl.recipes.data.images import is_picture, of_files
from keras_dl.recipes.data.own import SPLITS, OwnData, by_seed, divided, mixed, split_folders, subfolders, with_test
from keras_dl.recipes.data.pictures import files_in

ORDER = ("train", "validation", "test")
LEAST = 2  # images of a set in each split: two to train on, and two for a distance of sets
LEAST_WHOLE = 8  # of a set without a test split, of which a fifth is two


def accepts(path):
    """Whether a folder holds two sets of pictures."""
    return path.is_dir() and (is_named(path) or all(len(_pictured(part)) == 2 for part in _parts(path).values()))


def is_named(path):
    """Whether a folder has `trainA` and `trainB`."""
    return path.is_dir() and {("train", "A"), ("train", "B")} <= set(_named(path))


def _named(path):
    """Folders by split and domain, of the layout of the authors: dict."""
    found = {}
    for folder in subfolders(path):
        split, domain = SPLITS.get(folder.name[:-1].rstrip("_- ").lower()), folder.name[-1].upper()
        if split and domain in "AB":
            if (split, domain) in found:
                raise FileError(folder, f"is the same set as {found[split, domain].name}. Give one of the two.")
            found[split, domain] = folder
    return found


def _parts(path):
    return split_folders(path) or {"train": path}


def _pictured(folder):
    """The folders in a folder that hold pictures."""
    return [one for one in subfolders(folder) if any(is_picture(file) for file in one.iterdir())]


def read(path, seed=0, target=None) -> OwnData:
    """Both sets. The label of an image is its set: 0 for A, 1 for B.

    Raises:
        FileError: if a set or a file is missing, is no picture, or a set has too few.
    """
    if is_named(path):
        names, parts = ("A", "B"), collections.defaultdict(dict)
        for (split, domain), folder in _named(path).items():
            parts[split][domain] = folder
    else:
        parts = {split: {one.name: one for one in _pictured(folder)} for split, folder in _parts(path).items()}
        names = tuple(sorted(parts["train"]))
    parts, ignored = with_test({split: parts[split] for split in sorted(parts, key=ORDER.index)}), []
    for split, folders in parts.items():
        if tuple(sorted(folders)) != names:
            has = " and ".join(sorted(folders)) or "none"
            raise FileError(path, f"has the sets {has} in {split}, and {' and '.join(names)} in train.")
    whole = "test" not in parts
    files = {split: [_pictures(parts[split][name], ignored) for name in names] for split in parts}
    for split, sets in files.items():
        for name, pictures in zip(names, sets, strict=True):
            least = LEAST_WHOLE if whole and split == "train" else LEAST
            if len(pictures) < least:
                why = ", and there is no test split" if least == LEAST_WHOLE else ""
                raise FileError(
                    parts[split][name],
                    f"has {len(pictures)} {'picture' if len(pictures) == 1 else 'pictures'}{why}. "
                    f"A set needs at least {least}.",
                )
    rows = {split: [(x, label) for label, part in enumerate(sets) for x in part] for split, sets in files.items()}
    if whole:
        labels = np.array([label for _, label in rows["train"]])
        order = dict(zip(("train", "test"), divided(labels, seed, names, path), strict=True))
        rows |= {split: [rows["train"][i] for i in numbers] for split, numbers in order.items()}
    else:
        rows = {split: [part[i] for i in mixed(len(part), seed)] for split, part in rows.items()}
    headers = {file: header(file) for part in rows.values() for file, _ in part}
    feature = require("tensorflow_datasets", extra="recipes").features.ClassLabel(names=names)
    columns = {
        split: {
            "image": np.array([str(file) for file, _ in part]),
            "label": np.array([label for _, label in part], "int64"),
        }
        for split, part in rows.items()
    }
    how = by_seed(seed) if whole else "as the folders have it"
    return of_files(path, "domains", columns, headers, ignored, how, {"label": feature}, names)


def _pictures(folder, ignored):
    """The pictures in a folder and in all folders in it. Files that are none are added to `ignored`."""
    files = list(files_in(folder))
    ignored += [x for x in files if not is_picture(x)]
    found = [x for x in files if is_picture(x)]
    if not found:
        raise FileError(folder, f"holds no picture ({', '.join(SUFFIXES)}).")
    return found
