"""The report of a run: its training and its results. `RUN/report.json` is written last.

Keys, all at the top level:

    recipe            str    name of the recipe
    model             str    public class of the model
    dataset           str    name in TensorFlow Datasets, or of the folder or file of own data
    dataset_version   str    of own data its fingerprint
    data              str    path of own data, null without; this and the next two are missing before version 0.2
    form              str    of own data, null without
    target            str    column that is predicted, given with --target, null without
    columns           list   of dicts, the columns of a table with names; empty for other data
    domains           list   of str, names of two sets of images that are translated into each other; else empty
    license           str    of the data
    labels            list   of str, names of the classes; empty without classes, missing before version 0.2
    metric            str    name of the metric, measured on the test split
    value             float  of the run
    variants          dict   metric by variant; the first is model.keras
    means             dict   of variants that differ only in a number (gcn-0, gcn-1): mean, standard_error, trainings
    figures           dict   of float or str by name: what the recipe measures beside the metric; empty for most
    higher_is_better  bool
    baseline          str    the simpler method that the run must beat; null with --no-baseline and for a smoke run
    baseline_value    float or null
    aim               float or null
    aim_met           bool; null without an aim, for a smoke run, and where --variant left some out
    parameters        int    weights of model.keras
    seconds           float  training of all variants, with validation; time lost by a kill is not counted
    epochs            int    of each variant; the largest number with early stopping
    batch_size        int
    learning_rate     float  given with --learning-rate, null for the recipe's own
    image_size        int    given with --image-size, null for the recipe's own
    seed              int
    smoke             bool
    precision         str    Keras's dtype policy
    jit               bool   whether XLA compiled the training step
    jit_option        str    auto, on or off
    jit_ms            float  median training step with XLA, null where nothing was timed
    graph_ms          float  the same without XLA, null where nothing was timed
    jit_compile_s     float  first step with XLA, null where nothing was timed
    graph_compile_s   float  first step without, null where nothing was timed
    train_examples    int
    test_examples     int
    resumed           int    number of times that the run was continued
    versions          dict   of str by package
    python            str
    platform          str    system and processor architecture
    cpus              int    cores that the process can use
    devices           list   of str, accelerators that TensorFlow saw
    command           str    command that repeats the run, with the choice that --jit auto made
"""

import importlib.metadata
import json
import os
import pathlib
import platform
import statistics

import tensorflow as tf

from keras_dl import files
from keras_dl.files import replacing
from keras_dl.recipes.training.recipe import OptionError
from keras_dl.version import __version__

PACKAGES = ("keras", "numpy", "scikit-learn", "tensorflow", "tensorflow-datasets")


def build(recipe, outcome, baseline, jit, resumed):
    """The report of a finished run: dict as above.

    Args:
        recipe: `Recipe`.
        outcome: `Outcome`.
        baseline: `(name, value)`.
        jit: dict as `keras_dl.recipes.training.jit.choose` returns it.
        resumed: int.
    """
    options, task, data = outcome.options, outcome.task, outcome.data
    whole = set(task.variants) - set(task.baselines) <= set(outcome.trained)
    judged = task.aim is not None and whole and not options.smoke
    return {
        "recipe": recipe.name,
        "model": type(outcome.model).__name__,
        "dataset": data.dataset,
        "dataset_version": data.version,
        "data": options.data,
        "form": None if options.data is None else options.dataset,
        "target": options.target,
        "columns": data.columns,
        "domains": list(data.domains),
        "license": data.licence,
        "labels": list(data.labels),
        "metric": task.metric,
        "value": outcome.value,
        "variants": {variant: float(trained.value) for variant, trained in outcome.trained.items()},
        "means": means({variant: trained.value for variant, trained in outcome.trained.items()}),
        "figures": {} if recipe.figures is None else recipe.figures(outcome),
        "higher_is_better": task.higher_is_better,
        "baseline": baseline[0],
        "baseline_value": None if baseline[1] is None else float(baseline[1]),
        "aim": task.aim,
        "aim_met": task.reaches_aim(outcome.value) if judged else None,
        "parameters": outcome.model.count_params(),
        "seconds": round(sum(trained.seconds for trained in outcome.trained.values()), 2),
        "epochs": options.epochs,
        "batch_size": options.batch_size,
        "learning_rate": options.learning_rate,
        "image_size": options.image_size,
        "seed": options.seed,
        "smoke": options.smoke,
        "precision": options.precision,
        "jit": jit["jit"],
        "jit_option": options.jit,
        "jit_ms": jit["jit_ms"],
        "graph_ms": jit["graph_ms"],
        "jit_compile_s": jit["jit_compile_s"],
        "graph_compile_s": jit["graph_compile_s"],
        "train_examples": data.num_train,
        "test_examples": data.num_test,
        "resumed": resumed,
        **surroundings(),
        "command": options.command(jit["jit"]),
    }


def means(variants):
    """Means over trainings whose names differ only in a number.

    Args:
        variants: dict of float by variant.

    Returns:
        dict as `means` in the report.

    Example:

    >>> means({"gcn-0": 0.5, "gcn-1": 0.75, "mlp": 0.25})
    {'gcn': {'mean': 0.625, 'standard_error': 0.125, 'trainings': 2}}
    """
    groups = {}
    for variant, value in variants.items():
        stem, _, number = variant.rpartition("-")
        if stem and number.isdigit():
            groups.setdefault(stem, []).append(value)
    return {
        stem: {
            "mean": statistics.fmean(values),
            "standard_error": statistics.stdev(values) / len(values) ** 0.5,
            "trainings": len(values),
        }
        for stem, values in groups.items()
        if len(values) > 1
    }


def versions():
    """dict of str: the versions of packages that can change a result."""
    installed = {d.metadata["Name"].lower(): d.version for d in importlib.metadata.distributions()}
    return {"keras_dl": __version__, **{name: installed[name] for name in PACKAGES if name in installed}}


def surroundings():
    """dict: software and machine, without names of the machine or its user."""
    return {
        "versions": versions(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "devices": [d.device_type for d in tf.config.list_physical_devices() if d.device_type != "CPU"],
    }


def write_json(path, document):
    """Writes `document` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n")


def read_json(path, types):
    """The document that `write_json` wrote to `path`: dict.

    Args:
        path: path.
        types: dict of the type, or the tuple of types, of each key that the document must have.

    Raises:
        OptionError: if it is damaged. The message names the file.
    """
    try:
        return files.read_json(path, "whole", types=types)
    except files.FileError as error:
        raise OptionError(f"{path} is damaged: {error.problem.removeprefix('is not whole: ')}") from error


_RENAMED = {"licence": "license"}
_NUMBER, _NONE = (int, float), type(None)
_SHOWN = {
    **dict.fromkeys(("recipe", "model", "dataset", "dataset_version", "metric", "precision", "command"), str),
    **dict.fromkeys(("value", "seconds", "epochs", "seed", "cpus"), _NUMBER),
    "variants": dict,
    **dict.fromkeys(("higher_is_better", "smoke", "jit"), bool),
    "baseline": (str, _NONE),
    "baseline_value": (*_NUMBER, _NONE),
    "aim": (*_NUMBER, _NONE),
    "aim_met": (bool, _NONE),
}


def read(folder):
    """The report of the complete run in `folder`: dict. One of an earlier version is brought to the form of this one.

    Raises:
        OptionError: if it is damaged.
    """
    document = read_json(pathlib.Path(folder) / "report.json", _SHOWN)
    made = "on" if document["jit"] else "off"
    document["command"] = document["command"].replace("--jit auto", f"--jit {made}")
    return {_RENAMED.get(key, key): value for key, value in document.items()}


def describe(report):
    """The report for a person: str of a few lines."""
    lines = [f"{report['recipe']} ({report['model']}) on {report['dataset']} {report['dataset_version']}"]
    for variant, value in report["variants"].items() if len(report["variants"]) > 1 else ():
        lines.append(f"  {variant:<28} {report['metric']} {value:.4f}")
    for stem, row in report.get("means", {}).items():
        spread = f"+- {row['standard_error']:.4f}, standard error of {row['trainings']}"
        lines.append(f"  {stem + ', mean':<28} {report['metric']} {row['mean']:.4f} {spread}")
    better = "higher is better" if report["higher_is_better"] else "lower is better"
    lines.append(f"{report['metric']:<30} {report['value']:.4f}  ({better})")
    if report["baseline"] is not None:
        lines.append(f"baseline, {report['baseline']:<20} {report['baseline_value']:.4f}")
    for name, value in report.get("figures", {}).items():
        lines.append(f"  {name:<38} {value if isinstance(value, str) else f'{value:.4f}'}")
    if report["aim_met"] is not None:
        lines.append(f"aim {report['aim']} {'met' if report['aim_met'] else 'NOT met'}")
    elif report["smoke"]:
        lines.append("a smoke run of one variant on a small part of the data: neither the aim nor a baseline is judged")
    lines.append(
        f"{report['seconds']:.1f} s of training, {report['epochs']} epochs, seed {report['seed']}, "
        f"{'XLA' if report['jit'] else 'graph'}, {report['precision']}, {report['cpus']} cores"
    )
    return "\n".join(lines)
