"""The forms of own data, and how the form of a path is found."""

import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

from keras_dl.recipes.data import (
    boxes,
    domains,
    images,
    masks,
    networks,
    pictures,
    points,
    scenes,
    series,
    solids,
    table,
    texts,
)
from keras_dl.recipes.data.own import OwnData
from keras_dl.recipes.training.recipe import OptionError


class Form(NamedTuple):
    """One form.

    Attributes:
        name: str.
        title: str. What it is, in words.
        layout: str. Where its files are.
        accepts: `accepts(path) -> bool`: whether a path looks like it.
        read: `read(path, seed, target) -> OwnData`.
    """

    name: str
    title: str
    layout: str
    accepts: Callable
    read: Callable


JSON = "PATH/annotations.json and PATH/images/*.jpg"
NETWORK = "PATH/nodes.csv and PATH/edges.csv"
MASKS = "PATH/images/*.jpg and PATH/masks/*.png"
MARKED = ("boxes", "masks", "scene")  # forms of folders of images that are not named by classes
UNMARKED = ("images", "pictures")
TABLES = ("table", "values")
TARGETED = (*TABLES, "graph")  # forms with columns to choose the target from
FORMS = {
    form.name: form
    for form in (
        Form("boxes", "images with boxes in COCO's JSON", JSON, boxes.accepts, boxes.read),
        Form("instances", "images with masks in COCO's JSON", JSON, boxes.accepts, boxes.read_instances),
        Form("masks", "images with masks of classes", MASKS, masks.accepts, masks.read),
        Form("scene", "views of a scene with their cameras", "PATH/transforms.json", scenes.accepts, scenes.read),
        Form("images", "images in folders by class", "PATH/CLASS/*.jpg", images.accepts, images.read),
        Form("domains", "two sets of images", "PATH/trainA/*.jpg and PATH/trainB/*.jpg", domains.accepts, domains.read),
        Form("graph", "a graph with classes of nodes", NETWORK, networks.accepts, networks.read),
        Form("table", "a table with classes to predict", "PATH.csv", table.accepts, table.read),
        Form("series", "series with a class each", "PATH.ts or PATH/CLASS/*.csv", series.accepts, series.read),
        Form("points", "clouds of points in folders by class", "PATH/CLASS/*.ply", points.accepts, points.read),
        Form("solids", "closed meshes", "PATH/*.ply or PATH/train/*.ply", solids.accepts, solids.read),
        Form("text", "a text in each line", "PATH.txt", texts.accepts_text, texts.read_text),
        Form("pictures", "images without classes", "PATH/*.jpg", pictures.accepts, pictures.read),
        Form("pairs", "pairs of texts with a tab between", "PATH.tsv", texts.accepts_pairs, texts.read_pairs),
        # The same reader, which finds out what the target is: it is never the form that a path looks like.
        Form("values", "a table with values to predict", "PATH.csv", lambda path: False, table.read),
    )
}


def find_form(path, wanted=None, who="keras-dl data check") -> Form:
    """The form that a path has.

    Args:
        path: `pathlib.Path`.
        wanted: sequence of names of forms; the first that fits is taken. None for all.
        who: str. Who wants them, for errors.

    Raises:
        OptionError: if there is nothing at the path, or it has another form.
    """
    if not path.exists():
        raise OptionError(f"--data {path} does not exist.")
    fitting = fitting_forms(path)
    names = list(FORMS) if wanted is None else list(wanted)
    for name in names:
        if FORMS[name] in fitting:
            return FORMS[name]
    takes = "; ".join(f"{FORMS[name].title} ({FORMS[name].layout})" for name in names)
    holds = f" It looks like {' or '.join(form.title for form in fitting)}." if fitting else ""
    holds = _without_classes(fitting, names) or holds or _without_form(path)
    raise OptionError(f"--data {path} does not have a form that {who} takes: {takes}.{holds} See docs/own_data.md.")


def fitting_forms(path) -> list[Form]:
    """The forms that a path looks like. Pictures that are marked by boxes or masks are not those of classes, too."""
    fitting = [form for form in FORMS.values() if form.accepts(path)]
    if any(form.name in MARKED for form in fitting):
        fitting = [form for form in fitting if form.name not in (*UNMARKED, "domains")]
    elif domains.is_named(path):
        fitting = [form for form in fitting if form.name not in UNMARKED]
    return fitting


def _without_classes(fitting, names):
    """What pictures lack that are not in folders by class, for recipes that want classes."""
    if "images" not in names or [form.name for form in fitting] != ["pictures"]:
        return ""
    return " It has pictures, but no folder for each class. Put the pictures of a class into a folder of its name."


def _without_form(path):
    """What a path of no form is, if it is something that users often have."""
    return " It is an empty folder." if path.is_dir() and not any(path.iterdir()) else ""


def open_data(path, form=None, seed=0, target=None, wanted=None, who="keras-dl data check") -> OwnData:
    """Reads own data.

    Args:
        path: str or path.
        form: str, one of `FORMS`; None to find it.
        seed: int. Of the split, where the data has none.
        target: str. The column to predict, for tables.
        wanted, who: as `find_form` takes them.

    Raises:
        OptionError: if there is no such form, or the path has another.
        FileError: if a file is wrong. The message begins with its name.
    """
    path = pathlib.Path(os.path.abspath(pathlib.Path(path).expanduser()))  # also without `..` in it
    if form is not None and form not in FORMS:
        raise OptionError(f"--form {form} must be one of {', '.join(FORMS)}.")
    if form is not None and not path.exists():
        raise OptionError(f"--data {path} does not exist.")
    chosen = find_form(path, wanted, who) if form is None else FORMS[form]
    if form is not None and not FORMS[TABLES[0] if form in TABLES else form].accepts(path):
        raise OptionError(f"{path} does not have the form {form}: {chosen.title} ({chosen.layout}).")
    if target is not None and chosen.name not in TARGETED:
        raise OptionError(f"--target {target} is for tables and graphs; {path} holds {chosen.title}.")
    return chosen.read(path, seed, target)
