"""Images with a class for each pixel: a folder of images and one of masks.

    FOLDER/images/1.jpg, FOLDER/masks/1.png                 a split is made by seed
    FOLDER/train/images/1.jpg, FOLDER/train/masks/1.png     the split is given; `val` is a third part, or the test
    FOLDER/classes.txt                                      names of the classes, the background first; may be missing

A mask is a PNG with a palette or gray values, which are the classes: 0 is the background. 255 is not judged, unless no
mask has another value than 0 and 255: then 255 is the one class beside the background.
"""

import collections
import functools

import numpy as np

from keras_dl.extras import require
from keras_dl.files import FileError
from keras_dl.recipes.data.headers import PLAIN, SUFFIXES, header
from keras_dl.recipes.data.images import first_broken, size_facts
from keras_dl.recipes.data.own import OwnData, by_seed, divided, mixed, split_folders, subfolders, with_test

IMAGES, MASKS = ("images", "image", "imgs"), ("masks", "mask", "labels")
IGNORED = 255


def accepts(path):
    """Whether a folder holds images and masks."""
    if not path.is_dir():
        return False
    return all(_folder(part, IMAGES) and _folder(part, MASKS) for part in (split_folders(path) or {"": path}).values())


def _folder(path, names):
    return next((folder for folder in subfolders(path) if folder.name.lower() in names), None)


def read(path, seed=0, target=None) -> OwnData:
    """Images and their masks.

    Raises:
        FileError: if an image has no mask, or a mask is wrong. The message begins with its name.
    """
    given = split_folders(path)
    pairs = {split: _pairs(folder) for split, folder in with_test(given or {"train": path}).items()}
    everything = [pair for part in pairs.values() for pair in part]
    values, sizes, found = set(), collections.Counter(), {}
    for image, mask in everything:
        first, found[mask] = header(image), _values(mask, mask.stat().st_mtime_ns)
        if found[mask][0] != first.size:
            shape, size = (" x ".join(map(str, x)) for x in (found[mask][0], first.size))
            turned = " A camera turned the image (EXIF): save it as it is seen." if first.turn != PLAIN else ""
            raise FileError(mask, f"has {shape} pixels, and its image {size}.{turned}")
        sizes[first.size] += 1
        values |= set(found[mask][1])
    binary = values == {0, IGNORED}
    names = _names(path)
    most = 1 if binary else max(values - {IGNORED}, default=0)
    if most == 0:
        raise FileError(path, "has masks of the background alone. A class is a value of 1 or more.")
    labels = names or ("background", *(f"class {i}" for i in range(1, most + 1)))
    if most >= len(labels):
        mask = next(mask for mask, (_, own) in found.items() if most in own)
        raise FileError(mask, f"has the class {most}, and classes.txt names {len(labels)}, from 0 on.")
    if "test" in pairs:
        pairs = {split: [part[i] for i in mixed(len(part), seed)] for split, part in pairs.items()}
    else:
        train, test = divided(len(everything), seed, path=path)
        pairs |= {"train": [everything[i] for i in train], "test": [everything[i] for i in test]}
    notes = ["masks have the values 0 and 255 alone: 255 is the class beside the background"] if binary else []
    images = [image for image, _ in everything]
    listed = [path / "classes.txt"] if names else []
    return OwnData(
        path=path,
        form="masks",
        features={"image": require("tensorflow_datasets", extra="recipes").features.Image(shape=(None, None, 3))},
        splits={
            split: {name: np.array([str(pair[i]) for pair in rows]) for i, name in enumerate(("image", "mask"))}
            for split, rows in pairs.items()
        },
        files=[file for pair in everything for file in pair] + listed,
        how="as the folders have it" if given else by_seed(seed),
        labels=tuple(labels),
        facts={**size_facts(sizes, 3), "classes": ", ".join(labels)},
        notes=notes,
        metadata={"read_mask": functools.partial(read_mask, binary=binary)},
        problem=lambda: first_broken(images),
    )


def _pairs(folder):
    """`[(image, mask)]` of a folder."""
    images, masks = _folder(folder, IMAGES), _folder(folder, MASKS)
    if images is None or masks is None:
        raise FileError(folder, f"has no folder {'images' if images is None else 'masks'}.")
    found = []
    for image in sorted(images.iterdir()):
        if image.suffix.lower() not in SUFFIXES or image.name.startswith("."):
            continue
        names = [f"{image.stem}.png", f"{image.stem}_mask.png", f"{image.name}.png"]
        mask = next((masks / name for name in names if (masks / name).is_file()), None)
        if mask is None:
            raise FileError(image, f"has no mask: there is no {masks / names[0]}.")
        found.append((image, mask))
    if not found:
        raise FileError(images, f"holds no picture ({', '.join(SUFFIXES)}).")
    return found


def _names(path):
    """The names in classes.txt: tuple of str; empty without the file."""
    file = path / "classes.txt"
    if not file.exists():
        return ()
    names = tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    if len(set(names)) < max(len(names), 2):
        raise FileError(file, "must name two classes or more, each in a line of its own, the background first.")
    return names


@functools.cache
def _values(path, changed):
    """`((height, width), values)` of a mask; `changed` is its time, so that another file is read again."""
    mask = _pixels(path)
    return mask.shape, tuple(int(value) for value in np.unique(mask))


def _pixels(path):
    image = require("PIL.Image", extra="recipes")
    try:
        with image.open(path) as file:
            mask, mode = np.array(file), file.mode
    except (OSError, SyntaxError, ValueError) as error:
        raise FileError(path, "is no picture. Save the mask again, as PNG.") from error
    if mode not in ("1", "L", "P"):
        raise FileError(path, f"is of the mode {mode}. A mask has a palette (P) or gray values (L), which are classes.")
    return mask


def read_mask(path, binary=False):
    """The class of each pixel: int32 `(height, width)`.

    Args:
        path: str or bytes.
        binary: bool. Whether 255 is class 1.
    """
    mask = _pixels(path.decode() if isinstance(path, bytes) else path).astype("int32")
    return np.minimum(mask, 1) if binary else mask
