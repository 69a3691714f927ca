"""The report of a run: its training and its results. `RUN/report.json` is written last.

Keys, all at the top level:

    recipe            str    name of the recipe
    model             str    public class of the model
    dataset           str    name in TensorFlow Datasets
    dataset_version   str
    licence           str    license of the data
    metric            str    name of the metric, measured on the test split
    value             float  of the run
    variants          dict   metric by variant; the first is model.keras
    means             dict   of variants that differ only in a number (gcn-0, gcn-1): mean, standard_error, trainings
    higher_is_better  bool
    baseline          str    the simpler method that the run must beat
    baseline_value    float
    aim               float or null
    aim_met           bool; null without an aim and for a smoke run
    parameters        int    weights of model.keras
    seconds           float  training of all variants, with validation; time lost by a kill is not counted
    epochs            int    of each variant; the largest number with early stopping
    batch_size        int
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
    command           str    command that repeats the run
"""

import importlib.metadata
import json
import os
import pathlib
import platform
import statistics

import tensorflow as tf

from keras_dl.files import read_json, replacing
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
    judged = task.aim is not None and not options.smoke
    return {
        "recipe": recipe.name,
        "model": type(outcome.model).__name__,
        "dataset": data.dataset,
        "dataset_version": data.version,
        "licence": data.licence,
        "metric": task.metric,
        "value": outcome.value,
        "variants": {variant: float(trained.value) for variant, trained in outcome.trained.items()},
        "means": means({variant: trained.value for variant, trained in outcome.trained.items()}),
        "higher_is_better": task.higher_is_better,
        "baseline": baseline[0],
        "baseline_value": float(baseline[1]),
        "aim": task.aim,
        "aim_met": task.reaches_aim(outcome.value) if judged else None,
        "parameters": outcome.model.count_params(),
        "seconds": round(sum(trained.seconds for trained in outcome.trained.values()), 2),
        "epochs": options.epochs,
        "batch_size": options.batch_size,
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
        "command": options.command,
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


_NUMBER, _NONE = (int, float), type(None)
# What `describe` reads of a report.
_SHOWN = {
    **dict.fromkeys(("recipe", "model", "dataset", "dataset_version", "metric", "baseline", "precision"), str),
    **dict.fromkeys(("value", "baseline_value", "seconds", "epochs", "seed", "cpus"), _NUMBER),
    **dict.fromkeys(("higher_is_better", "smoke", "jit"), bool),
    "variants": dict,
    "aim": (*_NUMBER, _NONE),
    "aim_met": (bool, _NONE),
}


def read(folder):
    """The report of the complete run in `folder`: dict.

    Raises:
        FileError: if report.json is damaged.
        FileNotFoundError: if the run is not complete.
    """
    path, cure = pathlib.Path(folder) / "report.json", "Run it again with --overwrite."
    return read_json(path, "the report of a run", cure, types=_SHOWN)


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
    lines.append(f"baseline, {report['baseline']:<20} {report['baseline_value']:.4f}")
    if report["aim_met"] is not None:
        lines.append(f"aim {report['aim']} {'met' if report['aim_met'] else 'NOT met'}")
    elif report["smoke"]:
        lines.append("a smoke run on a small part of the data: the aim is not judged")
    lines.append(
        f"{report['seconds']:.1f} s of training, {report['epochs']} epochs, seed {report['seed']}, "
        f"{'XLA' if report['jit'] else 'graph'}, {report['precision']}, {report['cpus']} cores"
    )
    return "\n".join(lines)
