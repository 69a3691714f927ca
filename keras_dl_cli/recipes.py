"""The commands about recipes and their data: list, data, train, launch, demo and benchmark."""

import importlib.util
import json
import pathlib
import socket

import click

from keras_dl_cli import light
from keras_dl_cli.group import cli, command, data_dir_option
from keras_dl_cli.output import outline, table


@command(cli, "list")
@click.option("--presets", is_flag=True, help="List the published models that `from_preset` builds, with their sizes.")
def list_recipes(presets):
    """List the recipes that can be trained, or the presets of every model."""
    return _presets() if presets else _recipes()


def _recipes():
    document = _written("recipes.json")
    rows = [("NAME", "MODEL", "DATASET", "AIM", "SUMMARY")]
    for row in document["recipes"]:
        aim = "" if row["aim"] is None else f"{row['metric']} {'>=' if row['higher_is_better'] else '<='} {row['aim']}"
        rows.append((row["name"], row["model"], row["dataset"], aim, row["summary"]))
    return document, table(rows)


def _presets():
    """The presets that `docs/presets.py` has counted. The sizes are those of the weights alone."""
    document = _written("presets.json")
    rows = [("ARCHITECTURE", "MODEL", "PRESET", "PARAMETERS", "FLOAT32", "INT8")]
    for row in document["presets"]:
        count = row["parameters"]
        sizes = ("", "") if count is None else (f"{4 * count / 1e6:,.1f} MB", f"{count / 1e6:,.1f} MB")
        counted = f"by {', '.join(row['needs'])}" if count is None else f"{count:,}"
        rows.append((row["architecture"], row["model"], row["preset"], counted, *sizes))
    return document, table(rows)


def _written(name):
    """A list that stands among the recipes, since to make it takes minutes: dict."""
    with light.without_keras():
        (folder,) = importlib.util.find_spec("keras_dl.recipes").submodule_search_locations
    return json.loads(pathlib.Path(folder, name).read_text(encoding="utf-8"))


@cli.group("data")
def data_group():
    """List and prepare data sets, and check your own data."""


@command(data_group, "list")
def data_list():
    """List the data sets that need no download from a hub, with their licenses."""
    from keras_dl.recipes.training import commands

    document = commands.datasets()
    rows = [("NAME", "DOWNLOAD", "EXAMPLES", "SOURCE", "LICENSE", "TITLE")]
    for row in document["datasets"]:
        examples = " + ".join(f"{n:,}" for n in row["examples"].values())
        size = f"{row['size'] / 1e6:.1f} MB" if row["size"] else "none"
        rows.append((row["name"], size, examples, row["source"], row["license"], row["title"]))
    return document, table(rows)


@command(data_group, "prepare")
@click.argument("name")
@data_dir_option
def data_prepare(name, data_dir):
    """Download and build the data set NAME: one of `keras-dl data list`, or any in TensorFlow Datasets.

    \b
    Examples:
      keras-dl data prepare mnist_5k
      keras-dl data prepare cifar10 --data-dir /data
    """
    from keras_dl.recipes.training import commands

    document = commands.prepare(name, data_dir)
    examples = ", ".join(f"{n:,} {split}" for split, n in document["examples"].items())
    return document, f"{document['name']} {document['version']} in {document['path']}: {examples}"


@command(data_group, "check")
@click.argument("path", type=click.Path())
@click.option("--form", help="What PATH holds: images, table, boxes, ... [default: found by its files]")
@click.option("--target", help="The column to predict, of a table.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the split, where the data has none.")
def data_check(path, **options):
    """Say what your own data in PATH holds: form, classes, counts, sizes, and the first file that is broken.

    \b
    Examples:
      keras-dl data check photos
      keras-dl data check plants.csv --target species
    """
    from keras_dl.recipes.training import commands

    document = commands.check_data(path, **options)
    from keras_dl.recipes.data import as_text

    return document, as_text(document)


@command(data_group, "serve")
@click.option(
    "--port", type=click.IntRange(1, 65534), default=5050, show_default=True, help="The next one is used, too."
)
@click.option("--host", help="Name or address by which trainings reach this machine. [default: its name]")
def data_serve(port, host):
    """Prepare batches for trainings on other machines, which name this one by --data-service. Ctrl-C ends it.

    The data set must be at the same path as on those machines.

    \b
    Examples:
      keras-dl data serve --port 5050
      keras-dl train resnet --data-service grpc://localhost:5050
    """
    from keras_dl.recipes.training import service

    address = service.serve(port, host or socket.gethostname())
    return {"address": address}, f"{address} has ended"


@command(cli, "train")
@click.argument("name")
@click.option("--dataset", help="Data set of the recipe, by its name in TensorFlow Datasets. [default: its first]")
@click.option("--data", type=click.Path(), help="Your own data: a folder or file. docs/own_data.md has the forms.")
@click.option("--target", help="The column to predict, of a table.")
@click.option("--epochs", type=int, help="[default: the recipe's]")
@click.option("--batch-size", type=int, help="[default: the recipe's]")
@click.option("--learning-rate", type=float, help="Peak of the recipe's schedule. [default: the recipe's]")
@click.option("--image-size", type=int, help="Height and width that images are scaled to. [default: the recipe's]")
@click.option(
    "--variant",
    "variants",
    multiple=True,
    metavar="NAME",
    help="Train only this variant of the recipe; the first one is saved as model.keras. May be repeated. "
    "`keras-dl list --json` names them. [default: all; with --smoke the first]",
)
@click.option(
    "--baseline/--no-baseline",
    default=None,
    help="Whether to measure the baseline, and to train variants that only serve as one. "
    "[default: yes; with --smoke no]",
)
@click.option("--seed", type=int, help="Seed of weights, data order, augmentation and dropout. [default: 0]")
@click.option(
    "--jit",
    type=click.Choice(["auto", "on", "off"]),
    help="Compile with XLA. auto times a few steps with and without it, and takes the faster. The weights differ: XLA "
    "draws other random numbers. [default: auto]",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "mixed_float16", "mixed_bfloat16"]),
    help="Dtype policy of Keras. [default: float32]",
)
@click.option("--output", type=click.Path(), help="Folder of the run. [default: runs/NAME]")
@click.option("--resume", is_flag=True, help="Continue the run in the folder, or start it if there is none.")
@click.option(
    "--overwrite", is_flag=True, help="Replace the run in the folder. It is kept until the new one is complete."
)
@click.option(
    "--smoke",
    is_flag=True,
    help="Seconds, to see that everything works: one variant on a small part of the data, without a baseline.",
)
@click.option("--tensorboard", is_flag=True, help="Write curves to tensorboard/ in the folder.")
@click.option(
    "--distribute",
    type=click.Choice(["mirrored", "multi_worker"]),
    help="mirrored: on all GPUs of this machine. multi_worker: on the processes that TF_CONFIG or Slurm names. The "
    "batch size is that of all together. [default: one device]",
)
@click.option(
    "--wait",
    type=click.FloatRange(1),
    metavar="SECONDS",
    help="How long to wait for other workers and for data services. [default: 300]",
)
@click.option(
    "--accumulate", type=int, help="Move the weights after so many batches, by the mean gradient. [default: 1]"
)
@click.option(
    "--scale-rate",
    type=click.Choice(["linear", "square-root"]),
    help="Scale the recipe's learning rate with the batch that moves the weights, over five epochs: linear for SGD, "
    "square-root for Adam. [default: the recipe's rate, and a warning]",
)
@click.option(
    "--shards",
    is_flag=True,
    help="With multi_worker: each worker reads its own part of the files. The order of the rows is another one.",
)
@click.option(
    "--data-service",
    "services",
    multiple=True,
    metavar="grpc://HOST:PORT",
    help="Let `keras-dl data serve` there prepare the batches. May be repeated: each prepares a part of the rows.",
)
@data_dir_option
def train(**options):
    """Train the recipe NAME. Writes a folder with the model, a report, the history and a picture.

    --resume continues a run that was interrupted or killed; it ends with the same weights.

    \b
    Examples:
      keras-dl train cnn
      keras-dl train cnn --seed 1 --output runs/cnn-1 --json
      keras-dl train cnn --resume
      keras-dl train mlp --dataset diabetes --output runs/diabetes
      keras-dl train cnn --data photos --output runs/photos
      keras-dl train mlp --data plants.csv --target species
      keras-dl train resnet --variant resnet20 --no-baseline --learning-rate 0.05
    """
    from keras_dl.recipes.training import commands, report

    options |= {name: options[name] or None for name in ("smoke", "variants", "shards")}  # None: as the run has it
    document = commands.train(**options)
    if "worker" in document:
        return document, f"worker {document['worker']} is done; worker 0 writes the run"
    return document, f"{report.describe(document)}\nin {document['output']}"


@cli.command("launch", context_settings=dict(ignore_unknown_options=True, allow_interspersed_args=False))
@click.option("--workers", type=click.IntRange(1, 64), default=2, show_default=True)
@click.argument("arguments", nargs=-1, required=True, type=click.UNPROCESSED, metavar="train NAME [OPTIONS]...")
def launch(workers, arguments):
    """Start a training in several processes on this machine, to try out what runs on several.

    When one of them ends with an error, all are ended.

    \b
    Example:
      keras-dl launch --workers 2 train mlp --smoke
    """
    launching = light.module("launching")
    try:
        code = launching.launch(workers, list(arguments))
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if code:
        raise SystemExit(code)


@command(cli, "demo")
@click.option("--output", type=click.Path(), default="runs/demo", show_default=True, help="Folder of the run.")
@click.option("--smoke", is_flag=True, help="Seconds on a small part of the data, to see that everything works.")
@data_dir_option
def demo(output, smoke, data_dir):
    """Train a CNN on real digits, export it in int8 for an NPU, and prove the file.

    A demo that is already in the folder is replaced when the new one is complete.
    """
    from keras_dl.recipes.training import demo

    document = demo.run(output, smoke, data_dir)
    return document, demo.summary(output, **document)


@command(cli, "benchmark")
@click.argument("name")
@click.option("--rounds", type=int, default=3, show_default=True, help="How many times each contender is measured.")
@click.option("--task", "only", multiple=True, help="Run only this task of the benchmark. May be repeated.")
def benchmark(name, rounds, only):
    """Measure NAME and its peers side by side, in separate processes that take turns.

    \b
    Example:
      keras-dl benchmark resnet --rounds 5
    """
    from keras_dl.recipes.training import commands

    document = commands.benchmark(name, rounds, only)
    return document, outline(document)
