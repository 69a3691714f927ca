"""Boxes, and masks of objects, in COCO's JSON.

    FOLDER/annotations.json, FOLDER/images/1.jpg                          a split is made by seed
    FOLDER/train/_annotations.coco.json, FOLDER/train/1.jpg, FOLDER/valid/...
    FOLDER/annotations/instances_train2017.json, FOLDER/train2017/1.jpg, ...

Boxes are left, top, width and height in pixels. They are cut at the edges of their image. A box without an area in its
image is left out, and counted. `iscrowd` marks a region that is neither learned nor judged. An image without
annotations is an image without objects.
"""

import collections
import json
import os
import pathlib

import numpy as np

from keras_dl.extras import require
from keras_dl.files import FileError, read_json
from keras_dl.recipes.data.headers import header
from keras_dl.recipes.data.images import first_broken, size_facts
from keras_dl.recipes.data.own import SPLITS, OwnData, by_seed, divided, mixed, with_test

LISTS = {"images": list, "annotations": list, "categories": list}
MOST_OBJECTS = 100  # slots of an image at most; further objects are cut


def accepts(path):
    """Whether a folder holds a JSON file as COCO has it."""
    return path.is_dir() and bool(documents(path))


def documents(path):
    """The JSON files of annotations: list of paths."""
    places = [path, path / "annotations"]
    places += [x for x in sorted(path.iterdir()) if x.is_dir() and x.name.lower() in SPLITS]
    files = [file for place in places if place.is_dir() for file in sorted(place.glob("*.json"))]
    return [file for file in files if _looks_like_coco(file)]


def _looks_like_coco(file):
    """By its keys; a file that is no JSON may be one that was damaged."""
    try:
        document = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return True
    return isinstance(document, dict) and bool({"images", "annotations", "categories"} & set(document))


def read(path, seed=0, target=None) -> OwnData:
    """Images with boxes.

    Raises:
        FileError: if an annotation is wrong, or an image is missing. The message names the annotation.
    """
    return _read(path, seed, masks=False)


def read_instances(path, seed=0, target=None) -> OwnData:
    """Images with boxes and masks: as `read`, where each object must have a segmentation."""
    return _read(path, seed, masks=True)


def _read(path, seed, masks):
    files = documents(path)
    given = _by_split(path, files)
    contents = {
        split: read_json(file, "COCO's JSON of annotations", "Export it again.", types=LISTS)
        for split, file in given.items()
    }
    names = _categories(contents, given)
    notes, rows = collections.Counter(), {}
    for split, document in contents.items():
        rows[split] = _images(path, given[split], document, names, notes, masks)
    used = sorted({number for part in rows.values() for row in part for number in row["classes"]})
    if not used:
        raise FileError(next(iter(given.values())), "has no object with a box that has an area.")
    labels = tuple(list(names.values())[number] for number in used)
    for part in rows.values():
        for row in part:
            row["classes"] = np.searchsorted(used, row["classes"]).astype("int32")
    if "test" in rows:
        rows = {split: [part[i] for i in mixed(len(part), seed)] for split, part in rows.items()}
    else:
        train, test = divided(len(rows["train"]), seed, path=path)
        rows["test"], rows["train"] = ([rows["train"][i] for i in part] for part in (test, train))
    everything = [row for part in rows.values() for row in part]
    for number, row in enumerate(everything):
        row["number"] = np.int32(number)
    most = max(len(row["classes"]) for row in everything)
    if most > MOST_OBJECTS:
        notes[f"images have more than {MOST_OBJECTS} objects, of which the first are taken"] = sum(
            len(row["classes"]) > MOST_OBJECTS for row in everything
        )
    if unused := len(names) - len(labels):
        notes["categories have no object, and are no classes"] = unused
    features = require("tensorflow_datasets", extra="recipes").features
    columns = ("image", "image/filename", "sides", "boxes", "classes", "crowd", "number")
    images = sorted({row["image"] for row in everything})
    sizes = collections.Counter(tuple(int(side) for side in row["sides"]) for row in everything)
    segmented = sum(x is not None for row in everything for x in row["segmentations"])
    objects = sum(len(row["classes"]) for row in everything)
    data = OwnData(
        path=path,
        form="instances" if masks else "boxes",
        features={
            "image": features.Image(shape=(None, None, 3)),
            "objects": features.Sequence({"label": features.ClassLabel(names=labels)}),
        },
        splits={split: {name: [row[name] for row in part] for name in columns} for split, part in rows.items()},
        files=[*given.values(), *images],
        how="as the files have it" if len(given) > 1 else by_seed(seed),
        labels=labels,
        facts={
            **size_facts(sizes, 3),
            "objects": f"{objects:,}, at most {most} in an image",
            "masks": "all objects have one: mask_rcnn takes them too" if segmented == objects else "not of all objects",
        },
        notes=[f"{count:,} {what}" for what, count in notes.items()],
        metadata={
            "most": min(most, MOST_OBJECTS),
            "class_counts": _counts(rows, labels),
            "map_of": lambda number: instance_map(everything[number]),
        },
        problem=lambda: first_broken(images),
    )
    return data


def _by_split(path, files):
    """The one file as `train`, or files by split: dict."""
    if len(files) == 1 and files[0].parent.name.lower() not in SPLITS:
        return {"train": files[0]}
    found = {}
    for file in files:
        split = SPLITS.get(file.parent.name.lower()) or _in_name(file.stem.lower())
        if split is None:
            raise FileError(file, "names no split. Beside other files, its name must hold train, val or test.")
        if split in found:
            raise FileError(file, f"is the same split as {found[split]}. Give one of the two.")
        found[split] = file
    if "train" not in found:
        raise FileError(path, f"has annotations of {', '.join(found)} alone, and none to train on.")
    return with_test(found)


def _in_name(stem):
    return next((split for word, split in SPLITS.items() if word in stem), None)


def _categories(contents, given):
    """Names of the categories of all files by id, in the order of the ids: dict."""
    names = {}
    for split, document in contents.items():
        for category in document["categories"]:
            if not isinstance(category, dict) or not {"id", "name"} <= set(category):
                raise FileError(given[split], f"has a category without id or name: {str(category)[:60]}.")
            number, name = category["id"], str(category["name"])
            if names.setdefault(number, name) != name:
                raise FileError(given[split], f"calls the category {number} {name!r}, and elsewhere {names[number]!r}.")
    return dict(sorted(names.items()))


def _images(path, file, document, names, notes, masks):
    """Rows of a file: list of dicts."""
    rows = {}
    for entry in document["images"]:
        if not isinstance(entry, dict) or not {"id", "file_name"} <= set(entry):
            raise FileError(file, f"has an image without id or file_name: {str(entry)[:60]}.")
        image = _found(path, file, str(entry["file_name"]))
        height, width = header(image).size
        stated = (entry.get("height", height), entry.get("width", width))
        if stated != (height, width):
            raise FileError(
                image,
                f"has {height} x {width} pixels, and {file.name} says {stated[0]} x {stated[1]}. If a camera turned it "
                "(EXIF), save it turned; else label it again.",
            )
        if entry["id"] in rows:
            raise FileError(file, f"has two images with the id {entry['id']}.")
        rows[entry["id"]] = {
            "image": str(image),
            "image/filename": str(entry["file_name"]),
            "sides": np.array([height, width], "int32"),
            "boxes": [],
            "classes": [],
            "crowd": [],
            "segmentations": [],
        }
    if not rows:
        raise FileError(file, "has no image.")
    for annotation in document["annotations"]:
        _add(rows, file, annotation, names, notes, masks)
    if empty := sum(not row["boxes"] for row in rows.values()):
        notes["images without an object"] += empty
    for row in rows.values():
        row["boxes"] = np.array(row["boxes"], "float32").reshape(-1, 4)
        row["crowd"] = np.array(row["crowd"], bool)
    found = list(rows.values())
    if (boxes := np.concatenate([row["boxes"] for row in found])).size and boxes.max() <= 1:
        raise FileError(file, "has boxes within one pixel. COCO's are in pixels, not in shares of the image.")
    return found


def _found(path, file, name):
    """Where an image is, that a file names."""
    split = SPLITS.get(file.parent.name.lower()) or _in_name(file.stem.lower()) or ""
    folders = [x for x in sorted(path.iterdir()) if x.is_dir() and split and x.name.lower().startswith(split)]
    places = [
        file.parent,
        file.parent / "images",
        path,
        path / "images",
        *folders,
        *((path / "images" / split,) if split else ()),
    ]
    # Some tools write the path of the machine that labeled, of which the last part counts. No file of another folder.
    for place in places:
        for word in dict.fromkeys((name, name.replace("\\", "/").rpartition("/")[2])):
            found = pathlib.Path(os.path.normpath(place / word))
            if found.is_relative_to(path) and found.is_file():
                return found
    looked = ", ".join(str(place) for place in dict.fromkeys(places))
    raise FileError(file, f"names the image {name}, which is not there. It was looked for in {looked}.")


def _add(rows, file, annotation, names, notes, masks):
    """One annotation to the row of its image."""
    what = f"the annotation {annotation.get('id', '') if isinstance(annotation, dict) else annotation}"
    if not isinstance(annotation, dict) or not {"image_id", "category_id", "bbox"} <= set(annotation):
        raise FileError(file, f"has {what} without image_id, category_id or bbox.")
    row = rows.get(annotation["image_id"])
    if row is None:
        raise FileError(file, f"has {what} of the image {annotation['image_id']!r}, which it does not list.")
    if annotation["category_id"] not in names:
        raise FileError(file, f"has {what} of the category {annotation['category_id']!r}, which it does not list.")
    what += f" of {row['image/filename']}"
    bbox = annotation["bbox"]
    numbers = isinstance(bbox, list) and len(bbox) == 4 and all(isinstance(x, int | float) for x in bbox)
    if not numbers or not np.isfinite(bbox).all():
        raise FileError(file, f"has {what} with the bbox {str(bbox)[:60]}. It must be left, top, width and height.")
    height, width = row["sides"]
    left, top, right, bottom = bbox[0], bbox[1], bbox[0] + bbox[2], bbox[1] + bbox[3]
    box = np.clip(np.float32([left, top, right, bottom]), 0, np.float32([width, height, width, height]))
    if bbox[2] <= 0 or bbox[3] <= 0 or box[2] <= box[0] or box[3] <= box[1]:
        notes["boxes without an area in their image are left out"] += 1
        return
    segmentation = annotation.get("segmentation") or None
    if masks:
        _check(segmentation, file, what)
    row["boxes"].append(box)
    row["classes"].append(list(names).index(annotation["category_id"]))
    row["crowd"].append(bool(annotation.get("iscrowd", 0)))
    row["segmentations"].append(segmentation)


def _check(segmentation, file, what):
    if segmentation is None:
        raise FileError(file, f"has {what} without a segmentation. Masks need one for each object.")
    if isinstance(segmentation, dict) and {"counts", "size"} <= set(segmentation):
        return
    good = isinstance(segmentation, list) and all(
        isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0 for part in segmentation
    )
    if not good:
        how = "It must be polygons of three or more points, or run lengths (counts and size)."
        raise FileError(file, f"has {what} with a wrong segmentation. {how}")


def instance_map(row):
    """The number of the object of each pixel, from 1, and 0 for none: int32 `(height, width)`. Later ones lie above."""
    mask = require("pycocotools.mask", extra="detection")
    height, width = (int(side) for side in row["sides"])
    found = np.zeros((height, width), "int32")
    for number, segmentation in enumerate(row["segmentations"], 1):
        if isinstance(segmentation, list):
            lengths = mask.merge(mask.frPyObjects(segmentation, height, width))
        elif isinstance(segmentation["counts"], list):
            lengths = mask.frPyObjects(segmentation, height, width)
        else:
            lengths = segmentation
        found[mask.decode(lengths).astype(bool)] = number
    return found


def _counts(rows, labels):
    """Objects of each class by split, without crowds: dict of dicts of int."""
    found = {name: {} for name in labels}
    for split, part in rows.items():
        counts = np.zeros(len(labels), int)
        for row in part:
            np.add.at(counts, row["classes"][~row["crowd"]], 1)
        for name, count in zip(labels, counts, strict=True):
            found[name][split] = int(count)
    return found
