"""What a command opens: the folder of a run with its options, model and data, or a Keras file."""

import dataclasses
import pathlib
import re

from keras_dl import loading
from keras_dl.files import FileError
from keras_dl.recipes.training import folder, recipe
from keras_dl.recipes.training.recipe import OptionError


def run_of(path):
    """The folder of the run that `path`, a folder or its model.keras, belongs to; None if there is none."""
    run = path.parent if path.name == "model.keras" else path
    return run if (run / "run.json").exists() else None


def options_of(path, data_dir, data=None):
    """The `Options` of a run, with its own data at the path `data` if that is given."""
    options = folder.read_run(run_of(path)).options
    if data is not None and options.data is None:
        raise OptionError(f"--data: the run in {run_of(path)} is of the data set {options.dataset}, not of own data.")
    data = options.data if data is None else str(pathlib.Path(data).expanduser().absolute())
    return dataclasses.replace(options, data_dir=data_dir, data=data)


def model_of(path):
    """The model of a run."""
    run = folder.read_run(run_of(path))
    if not (run / "model.keras").exists():
        raise OptionError(f"{run.path} has no model.keras yet. Finish the run with --resume.")
    return load_model(run / "model.keras")


def has_data(options):
    """Whether the recipe of a run is one of this package, with the data set of the run."""
    try:
        recipe.find(options.recipe).check(options)
    except OptionError:
        return False
    return True


def foreign(path, options):
    """What `has_data` found, in words."""
    names = f"the recipe {options.recipe!r} and the data set {options.dataset!r}"
    return f"{run_of(path)}/run.json names {names}, which keras_dl does not have together."


def load_model(path, trust=False):
    """The Keras model in a file: see `keras_dl.loading.load_model`.

    Raises:
        OptionError: if it is a folder.
        FileError: if it is not a model, or is damaged.
    """
    if path.is_dir():
        raise OptionError(
            f"{path} is not the folder of a run: it has no run.json. Give the folder of a run, or a .keras file."
        )
    try:
        return loading.load_model(path, trust=trust)
    except FileError as error:
        unknown = re.search(r"Could not locate class '(\w+)'", str(error.__cause__))
        if unknown:
            how = "Name the module that registers it with --import MODULE."
            raise FileError(path, f"has the class {unknown[1]}, which is not one of Keras. {how}") from error
        raise


def parts(options):
    """`(recipe, task, data)`, with the data of the variant that was saved."""
    chosen = recipe.find(options.recipe)
    return chosen, chosen.task(options), chosen.load_data(options, chosen.variants(options)[0])
