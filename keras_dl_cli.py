"""The command line `keras-dl`: its words, options and exit codes.

It is a module outside of the package because `import keras_dl` imports Keras and TensorFlow. That takes seconds, and
what needs neither must be fast: help, `--version`, `list`, `inspect` and errors of usage.
`keras_dl.recipes.training.commands` has the work of the other commands.
"""

import contextlib
import importlib
import importlib.util
import json
import logging
import os
import pathlib
import sys
import traceback
import types

try:
    import click
except ModuleNotFoundError:
    raise SystemExit("keras-dl needs click, which is not installed: pip install 'keras_dl[recipes]'") from None

DONE, FAILED, USAGE = 0, 1, 2
CONTEXT = dict(help_option_names=["-h", "--help"], max_content_width=100)


# As `keras_dl.export.targets` has them.
TARGETS = (
    "cpu",
    "micro",
    *(f"ethos-u55-{macs}" for macs in (32, 64, 128, 256)),
    *(f"ethos-u65-{macs}" for macs in (256, 512)),
    *(f"ethos-u85-{macs}" for macs in (128, 256, 512, 1024, 2048)),
    "edgetpu",
    "gpu",
)


@contextlib.contextmanager
def _without_keras():
    """Lets modules of keras_dl be imported alone: without what `keras_dl` imports, which is Keras and TensorFlow.

    Within it, `keras_dl` and `keras_dl.export` are empty packages. Afterwards they are as if nothing was imported. If
    they are there already, they stay.
    """
    if "keras_dl" in sys.modules:
        yield
        return
    try:
        for name in ("keras_dl", "keras_dl.export"):
            package = types.ModuleType(name)
            package.__path__ = list(importlib.util.find_spec(name).submodule_search_locations)
            sys.modules[name] = package
        yield
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "keras_dl"]:
            del sys.modules[name]


def _module(name):
    """A module of keras_dl that needs neither Keras nor TensorFlow."""
    with _without_keras():
        return importlib.import_module(f"keras_dl.{name}")


def architectures():
    """The rows of `keras_dl.architectures`."""
    with _without_keras():
        return importlib.import_module("keras_dl.architectures").ARCHITECTURES


def version():
    """The version of keras_dl: str."""
    with _without_keras():
        return importlib.import_module("keras_dl.version").__version__


def _show_version(context, option, wanted):
    if wanted:
        click.echo(f"keras-dl {version()}")
        context.exit()


@click.group(context_settings=CONTEXT)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
def cli():
    """Train, measure and export the architectures of keras_dl.

    \b
    Results go to stdout, progress to stderr. Exit codes: 0 done, 1 the work
    or a proof failed, 2 wrong usage.

    \b
    Start with:
      keras-dl list
      keras-dl train cnn
      keras-dl export runs/cnn --quantization int8 --target ethos-u55-128
      keras-dl export runs/cnn --quantization none,float16,int8
      keras-dl inspect runs/cnn/exports/cnn-int8-ethos-u55-128.tflite
    """


def command(group, name):
    """Turns a function that returns `(document, text)` into a command, with the options that all commands have."""

    def decorate(function):
        as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
        debug = click.option("--debug", is_flag=True, help="Show the traceback of an error, and notices of libraries.")

        def run(as_json, debug, **options):
            if debug:
                logging.getLogger("keras_dl.export").setLevel(logging.DEBUG)
            with contextlib.nullcontext() if debug else _module("notices").hidden(), _only_results_on_stdout():
                document, text = function(**options)
            click.echo(json.dumps(document, indent=2, allow_nan=False) if as_json else _printable(text))

        run.__doc__ = function.__doc__
        run.__click_params__ = getattr(function, "__click_params__", [])
        return group.command(name)(as_json(debug(run)))

    return decorate


data_dir_option = click.option(
    "--data-dir",
    type=click.Path(file_okay=False),
    help="Folder of TensorFlow Datasets. [default: ~/tensorflow_datasets]",
)


own_data_option = click.option(
    "--data",
    type=click.Path(),
    help="The own data of the run, if it is not where it was. Its files must be the same.",
)


trust_option = click.option(
    "--trust",
    is_flag=True,
    help="The file is from someone whom you trust: allow ops that touch files, run Python or use a network, and Python "
    "in Lambda layers.",
)


@command(cli, "list")
def list_recipes():
    """List the recipes that can be trained."""
    with _without_keras():
        (folder,) = importlib.util.find_spec("keras_dl.recipes").submodule_search_locations
    document = json.loads(pathlib.Path(folder, "recipes.json").read_text(encoding="utf-8"))
    rows = [("NAME", "MODEL", "DATASET", "AIM", "SUMMARY")]
    for row in document["recipes"]:
        aim = "" if row["aim"] is None else f"{row['metric']} {'>=' if row['higher_is_better'] else '<='} {row['aim']}"
        rows.append((row["name"], row["model"], row["dataset"], aim, row["summary"]))
    return document, _table(rows)


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
    return document, _table(rows)


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
    "--wait", type=click.FloatRange(1), metavar="SECONDS", help="How long to wait for other workers. [default: 300]"
)
@click.option(
    "--accumulate", type=int, help="Move the weights after so many batches, by the mean gradient. [default: 1]"
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

    smoke, variants = options.pop("smoke") or None, options.pop("variants") or None
    document = commands.train(smoke=smoke, variants=variants, **options)
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
    launching = _module("launching")
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


@command(cli, "evaluate")
@click.argument("path", type=click.Path(exists=True))
@data_dir_option
@own_data_option
@trust_option
def evaluate(path, data_dir, trust, data):
    """Measure the recipe's metric on PATH: the folder of a run, its model.keras, or a file exported from it.

    \b
    Examples:
      keras-dl evaluate runs/cnn
      keras-dl evaluate runs/cnn/exports/cnn-int8-cpu.tflite --json
    """
    from keras_dl.recipes.training import commands

    document = commands.evaluate(path, data_dir, trust, data)
    return document, (
        f"{document['path']}: {document['metric']} {document['value']:.4f} on {document['test_examples']:,} "
        f"test examples of {document['dataset']} {document['dataset_version']}"
    )


@command(cli, "predict")
@click.argument("path", type=click.Path(exists=True))
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--signature", help="The entry point that is asked. [default: the one that answers]")
@click.option("--output", type=click.Path(), help="A .png file, or a folder for several, to draw the answers in.")
@trust_option
def predict(path, **options):
    """Ask PATH, the folder of a run, a .keras file or an exported file, about each INPUT.

    An INPUT is a picture; a .csv file, with a sample in each row, or for a model of series a step in each row; a text,
    or a .txt file with a text in each line.

    \b
    Examples:
      keras-dl predict runs/cnn seven.png
      keras-dl predict runs/yolo/exports/yolo-none-cpu.tflite street.jpg --output found.png
      keras-dl predict runs/mlp rows.csv --json
      keras-dl predict runs/transformer "In the beginning"
    """
    from keras_dl.recipes import prediction

    answers = prediction.predict(path, **options)
    return {"answers": answers}, prediction.as_text(answers)


class OneOrMore(click.Choice):
    """One of the choices; or several with commas between them, which become a tuple."""

    def convert(self, value, param, ctx):
        names = tuple(super(OneOrMore, self).convert(name.strip(), param, ctx) for name in value.split(","))
        if len(set(names)) < len(names):
            self.fail(f"{value!r} names one of them twice.", param, ctx)
        return names if len(names) > 1 else names[0]


@command(cli, "export")
@click.argument("path", type=click.Path(exists=True))
@click.option("--format", type=click.Choice(["litert", "onnx", "saved_model"]), default="litert", show_default=True)
@click.option(
    "--quantization",
    type=OneOrMore(["none", "float16", "dynamic_int8", "int8", "int16x8", "weight_only_int8"]),
    default="none",
    show_default=True,
    help="int8: weights, activations, inputs and outputs. int16x8: 16-bit activations. The others: only weights. "
    "Several, with commas between them, give several files.",
)
@click.option(
    "--target",
    type=click.Choice(TARGETS),
    metavar="NAME",
    default="cpu",
    show_default=True,
    help="Device: cpu, micro, edgetpu, gpu, or an NPU such as ethos-u55-128, ethos-u65-256, ethos-u85-512.",
)
@click.option(
    "--signature",
    "signatures",
    multiple=True,
    help="Export only this signature of the model. May be repeated. [default: all]",
)
@click.option("--output", type=click.Path(), help="[default: RUN/exports/NAME-QUANTIZATION-TARGET.tflite]")
@click.option("--no-verify", is_flag=True, help="Skip the proof that the file computes the same as the model.")
@click.option("--calibration", type=click.Path(exists=True, dir_okay=False), help=".npz with one array per input.")
@click.option("--calibration-samples", type=int, default=200, show_default=True)
@click.option(
    "--float-layer",
    "float_layers",
    multiple=True,
    metavar="NAME",
    help="A layer that an int8 file keeps in float32, because int8 ruins its results. May be repeated.",
)
@click.option(
    "--input-shape",
    "input_shapes",
    multiple=True,
    metavar="NAME=SIZES",
    help="The shape of an input whose sizes a .keras file leaves open, the batch of 1 included: x=1,224,224,3. May be "
    "repeated.",
)
@click.option(
    "--import",
    "modules",
    multiple=True,
    metavar="MODULE",
    help="A Python module that registers layers of a .keras file. May be repeated.",
)
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
@data_dir_option
@own_data_option
@trust_option
def export(no_verify, **options):
    """Export PATH, the folder of a run or a .keras file, to a verified file for a device.

    A run is calibrated with its own training data, and its metric is measured again on the file.

    \b
    Examples:
      keras-dl export runs/cnn
      keras-dl export runs/cnn --quantization int8 --target ethos-u55-128
      keras-dl export runs/cnn --quantization none,float16,int8
      keras-dl export mine.keras --quantization int8 --calibration samples.npz
      keras-dl export runs/seq2seq --quantization int8 --signature encode --signature decode_step
    """
    from keras_dl.export import Report
    from keras_dl.recipes.training import commands

    document = commands.export(verify=not no_verify, **options)
    reports = document.get("files", [document])
    return document, "\n\n".join(str(Report(**report)) for report in reports)


@command(cli, "inspect")
@click.argument("artifact", type=click.Path(exists=True))
@trust_option
def inspect(artifact, trust):
    """Show the ops, signatures and metadata of ARTIFACT.

    \b
    Example:
      keras-dl inspect runs/cnn/exports/cnn-int8-cpu.tflite
    """
    with _without_keras():
        document = importlib.import_module("keras_dl.export.inspection").inspect(artifact, trust)
        reason = importlib.import_module("keras_dl.export.file_set").complaint(artifact)
    if reason:
        click.echo(f"Warning: {reason}", err=True)
    return document, _outline(document)


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
    return document, _outline(document)


@contextlib.contextmanager
def _only_results_on_stdout():
    """Sends all that is written to stdout to stderr, from Python and from libraries below it."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def _table(rows):
    """Rows of cells as text in columns; the first row is the header."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)] + [0]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _outline(value, depth=0):
    """A nested document as indented lines."""
    lines = []
    for key, entry in value.items():
        head = f"{'  ' * depth}{_in_line(key)}"
        if isinstance(entry, dict) and any(isinstance(v, dict) for v in entry.values()):
            lines += [head, _outline(entry, depth + 1)]
        elif isinstance(entry, dict):
            lines.append(f"{head}  " + _in_line(", ".join(f"{k} {v}" for k, v in entry.items()) or "none"))
        else:
            lines.append(f"{head}  {_in_line(entry)}")
    return "\n".join(lines)


def _in_line(value):
    """A value as text without line breaks, which would look like further entries."""
    return str(value).replace("\n", "\\n")


def _printable(text):
    """Text with escapes for what a terminal would obey: names and metadata come from files of others."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def main(arguments=None):
    """Runs the command line and exits with its code.

    Args:
        arguments: list of str. None for the arguments of the process.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    interrupts = _module("interrupts")
    try:
        with interrupts.terminating(), interrupts.heard():
            cli.main(arguments, prog_name="keras-dl", standalone_mode=False)
        code = DONE
    except click.exceptions.NoArgsIsHelpError as error:
        code = USAGE
        print(error.format_message(), file=sys.stderr)
    except click.ClickException as error:
        code = USAGE if isinstance(error, click.UsageError) else FAILED
        hint = "" if not getattr(error, "ctx", None) else f" See {error.ctx.command_path} --help."
        _complain(f"{error.format_message()}{hint}", arguments)
    except (click.Abort, KeyboardInterrupt, Exception) as error:
        # click makes an Abort of Ctrl-C, and also of the end of a damaged file.
        error = error.__cause__ if isinstance(error, click.Abort) and error.__cause__ else error
        code, message = _judge(error)
        if "--debug" in arguments:
            traceback.print_exception(error)
        _complain(message, arguments)
    sys.exit(code)


def _judge(error):
    """Exit code and message of an error. Errors that a user can cause need only their message.

    Those of the package go by their names, because importing their classes takes seconds.
    """
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return FAILED, "Ended by SIGTERM." if type(error).__name__ == "Terminated" else "Interrupted."
    names = {kind.__name__ for kind in type(error).__mro__ if kind.__module__.split(".")[0] == "keras_dl"}
    if "OptionError" in names:
        return USAGE, str(error)
    if names & {"ExportError", "Interrupted", "NonFiniteError", "DataError", "ClusterError"}:
        return FAILED, str(error)
    if isinstance(error, ImportError | OSError | ValueError):
        return FAILED, str(error)
    if "No space left on device" in str(error):  # TensorFlow's errors are not Python's
        return FAILED, f"No space left on device: {str(error).splitlines()[0]}"
    return FAILED, f"An error that should not occur: {type(error).__name__}: {error}. See where with --debug."


def _complain(message, arguments):
    """One line on stderr; with --json also a document on stdout."""
    print(f"keras-dl: {_printable(message)}", file=sys.stderr)
    if "--json" in arguments:
        print(json.dumps({"error": message}))


if __name__ == "__main__":
    main()
