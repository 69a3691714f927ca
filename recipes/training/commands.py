"""The commands of `keras-dl`. Each returns a document that can be written as JSON, and reports progress on stderr.

Options, help texts and exit codes are in `keras_dl_cli`, which needs no TensorFlow.
"""

import dataclasses
import pathlib

from keras_dl.files import FileError
from keras_dl.recipes.training import folder, own_options, recipe, runner
from keras_dl.recipes.training.batches import naming_damaged_data
from keras_dl.recipes.training.exporting import export
from keras_dl.recipes.training.opened import foreign, has_data, model_of, options_of, parts, run_of
from keras_dl.recipes.training.progress import say
from keras_dl.recipes.training.recipe import OptionError

__all__ = ["benchmark", "check_data", "datasets", "evaluate", "export", "prepare", "recipes", "train"]


def recipes():
    """The recipes that can be trained: `{"recipes": [...]}`. `docs/table.py` writes it to recipes/recipes.json."""
    rows = []
    for name in recipe.NAMES:
        chosen = recipe.find(name)
        dataset, task = next(iter(chosen.tasks.items()))
        rows.append(
            {
                "name": name,
                "model": chosen.model,
                "summary": chosen.summary,
                "dataset": dataset,
                "datasets": list(chosen.tasks),
                "own_data": list(chosen.own),
                "metric": task.metric,
                "aim": task.aim,
                "higher_is_better": task.higher_is_better,
                "epochs": task.epochs,
                "batch_size": task.batch_size,
                "variants": list(task.variants),
                "baselines": list(task.baselines),
            }
        )
    return {"recipes": rows}


def datasets():
    """The data sets of this package: `{"datasets": [...]}`."""
    from keras_dl.recipes.datasets import catalogue

    rows = [entry._asdict() for entry in catalogue()]
    return {"datasets": [{"license" if key == "licence" else key: x for key, x in row.items()} for row in rows]}


def prepare(name, data_dir=None):
    """Downloads and builds one data set.

    Raises:
        OptionError: if there is no such data set.
        DataError: if it is not available.
    """
    from keras_dl.recipes import datasets as data

    try:
        builder = data.prepare(name, data_dir=data_dir)
    except ValueError as error:
        raise OptionError(str(error)) from error
    return {
        "name": name,
        "version": str(builder.version),
        "path": str(builder.data_dir),
        "examples": {split: info.num_examples for split, info in builder.info.splits.items()},
        "bytes": int(builder.info.dataset_size),
    }


@naming_damaged_data()
def train(
    name,
    output=None,
    resume=False,
    overwrite=False,
    tensorboard=False,
    distribute=None,
    wait=None,
    services=(),
    **given,
):
    """Trains a recipe and returns its report (see `keras_dl.recipes.training.report`), with the folder as `output`.

    A worker that is not the first returns only `{"worker": its number}`. With `resume`, an option that is None or
    missing is taken from the run.

    Raises:
        OptionError: if an option does not fit, the recipe takes no own data of such a form, or the data of the run that
            is resumed has changed.
        FileError: if a file of own data is wrong. The message begins with its name.
    """
    chosen = recipe.find(name)
    path = pathlib.Path(output or pathlib.Path("runs") / name)
    if resume and (path / "run.json").exists():
        begun = dataclasses.asdict(folder.read_run(path).options)
        if begun["recipe"] != name:
            raise OptionError(f"{path} holds a run of {begun['recipe']}, not of {name}.")
        if begun["data"] is None and begun["dataset"] not in chosen.tasks:
            raise OptionError(
                f"{path / 'run.json'} names the data set {begun['dataset']!r}, which {name} does not have."
            )
        if begun["data"] is None and given.get("data") is not None:
            raise OptionError(
                f"--data: the run in {path} is of the data set {begun['dataset']}. Choose another --output."
            )
        if begun["data"] is not None:
            begun["dataset"] = None  # it is found again, by its form
        del begun["recipe"]
        given = begun | {key: value for key, value in given.items() if value is not None}
    if given.get("data") is not None:
        given = own_options.options_of(chosen, given)
    defaults = {"seed": 0, "jit": "auto", "precision": "float32", "smoke": False, "variants": (), "accumulate": 1}
    defaults |= {"shards": False}
    given = {key: defaults.get(key) if value is None else value for key, value in given.items()}
    options = chosen.options(**given)
    document = runner.train(chosen, options, path, resume, overwrite, tensorboard, distribute, wait, services)
    return document if "worker" in document else document | {"output": str(path)}


def check_data(path, form=None, target=None, seed=0):
    """What own data holds: the document of `keras_dl.recipes.data.understand`."""
    from keras_dl.recipes.data import understand

    return understand(path, form, target, seed)


@naming_damaged_data()
def evaluate(path, data_dir=None, trust=False, data=None):
    """Measures a recipe's metric on a run's model or on an exported file.

    Args:
        path: the folder of a run, its model.keras, or a file that `keras-dl export` made from a run.
        data_dir: folder of TFDS.
        trust: bool. As `keras_dl.export.load` takes it, of an exported file.
        data: path of the own data of the run, if it is not where it was. Its files must be the same.

    Returns:
        dict of `path, recipe, dataset, dataset_version, metric, value, test_examples`.

    Raises:
        OptionError: if the file does not say which recipe it comes from.
        FileError: if the file is damaged, or is refused without `trust`.
    """
    from keras_dl.export import KerasRunner, inspect, load
    from keras_dl.export.metadata import check_labels

    path = pathlib.Path(path)
    if run_of(path):
        options = options_of(path, data_dir, data)
        if not has_data(options):
            raise OptionError(f"{foreign(path, options)} Measure model.keras on your own data with Keras.")
        model, labels = model_of(path), None
        serve = KerasRunner(model, runner.EVALUATION_BATCH).serve
    elif path.suffix == ".keras":
        raise OptionError(f"{path} is not in the folder of a run, so that its recipe is unknown.")
    else:
        contents = inspect(path, trust)
        metadata = contents["metadata"]
        names = ("dataset", "seed", "smoke")
        if not {"recipe", *names} <= set(metadata):
            raise OptionError(f"{path} does not name its recipe: it was not exported from the folder of a run.")
        _compare_with_report(path)
        given = {name: metadata[name] for name in names} | {"variants": metadata.get("variants", ())}
        given["image_size"] = metadata.get("image_size")
        given |= own_options.options_of_file(path, metadata, data)
        options = recipe.find(metadata["recipe"]).options(**given, data_dir=data_dir)
        labels = metadata.get("labels")
        outputs = [x for signature in contents["signatures"].values() for x in signature["outputs"].values()]
        try:
            check_labels(metadata, [(x["shape"], x["dtype"] if "scale" not in x else "float32") for x in outputs])
        except ValueError as error:
            raise FileError(path, f"cannot be measured: its {error}") from error
        serve = load(path, trust=trust).serve
    chosen, task, data = parts(options)
    if labels is not None and labels != list(data.labels):
        raise FileError(
            path,
            f"has the labels {labels}, and {data.dataset} has {list(data.labels)}: what it was measured on would not "
            "be what it was trained for.",
        )
    return {
        "path": str(path),
        "recipe": chosen.name,
        "dataset": data.dataset,
        "dataset_version": data.version,
        "metric": task.metric,
        "value": float(chosen.evaluate(serve, data)),
        "test_examples": data.num_test,
    }


def benchmark(name, rounds=3, only=None):
    """Runs a benchmark: see `keras_dl.benchmarks.paired.run_benchmark`."""
    from keras_dl.benchmarks.paired import run_benchmark

    try:
        return run_benchmark(name, rounds=rounds, only=only or None, progress=say)
    except ValueError as error:
        raise OptionError(str(error)) from error


def _compare_with_report(path):
    """Warns if the report beside an exported file is not that of the file."""
    from keras_dl.export.file_set import complaint

    if reason := complaint(path):
        say(f"Warning: {reason}")
