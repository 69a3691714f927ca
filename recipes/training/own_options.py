"""Options of runs on own data: from the command line, and from the metadata of exported files."""

import pathlib

from keras_dl.recipes.data.forms import open_data
from keras_dl.recipes.data.understanding import in_one_line
from keras_dl.recipes.training import folder, recipe
from keras_dl.recipes.training.progress import say
from keras_dl.recipes.training.recipe import OptionError


def options_of(chosen, given):
    """Options for own data: what is given, with the form, the fingerprint, and a size of batches that can be filled."""
    if given.get("dataset") is not None:
        raise OptionError(f"--dataset {given['dataset']} and --data {given['data']} exclude each other.")
    data = open_data(given["data"], None, given.get("seed") or 0, given.get("target"), chosen.own, chosen.name)
    data.check_unchanged(given.get("fingerprint"))
    say(in_one_line(data))
    for note in data.notes:
        say(f"data: {note}")
    if given.get("batch_size") is None:
        count = min(data.counts["train"], recipe.SMOKE_TRAIN) if given.get("smoke") else data.counts["train"]
        given["batch_size"] = batch_size(data.form, chosen.own[data.form], count)
    return given | {"data": str(data.path), "dataset": data.form, "fingerprint": data.fingerprint}


def batch_size(form, task, count) -> int:
    """A size of batches for so many training examples: at least ten steps in an epoch, if batches of eight allow it.

    A batch of a scene is of rays, of which each example, a view, has thousands.
    """
    return task.batch_size if form == "scene" else min(task.batch_size, max(count // 10, 8), count)


def options_of_file(path, metadata, data):
    """The options of the own data that a file was made from: at `data`, or where the run beside the file has it."""
    if "own_data" not in metadata:
        if data is not None:
            raise OptionError(f"--data: {path} is of the data set {metadata['dataset']}, not of own data.")
        return {}
    own = metadata["own_data"]
    if data is None and (run := path.absolute().parent.parent / "run.json").exists():
        data = folder.read_run(run.parent).options.data
    if data is None:
        raise OptionError(f"{path} was made from own data, {metadata['dataset']}. Give its place by --data PATH.")
    data = str(pathlib.Path(data).expanduser().absolute())
    return {"data": data, "dataset": own["form"], "target": own["target"], "fingerprint": own["fingerprint"]}
