"""The commands of `keras-dl`. Each returns a document that can be written as JSON, and reports progress on stderr.

Options, help texts and exit codes are in `keras_dl_cli`, which needs no TensorFlow.
"""

import contextlib
import dataclasses
import functools
import importlib
import logging
import os
import pathlib
import re
import sys

from keras_dl.files import FileError, read_arrays
from keras_dl.loading import load_model
from keras_dl.recipes.training import folder, own_options, recipe, report, runner
from keras_dl.recipes.training.batches import naming_damaged_data
from keras_dl.recipes.training.progress import say
from keras_dl.recipes.training.recipe import OptionError
from keras_dl.version import __version__

SUFFIXES = {"litert": ".tflite", "onnx": ".onnx", "saved_model": ""}


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
    if _run_of(path):
        options = _options_of(path, data_dir, data)
        if not _has_data(options):
            raise OptionError(f"{_foreign(path, options)} Measure model.keras on your own data with Keras.")
        model, labels = _model_of(path), None
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
    chosen, task, data = _parts(options)
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


@naming_damaged_data()
def export(
    path,
    format="litert",
    quantization="none",
    target="cpu",
    output=None,
    verify=True,
    calibration=None,
    calibration_samples=200,
    overwrite=False,
    data_dir=None,
    signatures=None,
    float_layers=(),
    modules=(),
    input_shapes=(),
    trust=False,
    data=None,
    io=None,
    training=None,
    training_layers=(),
    snippets=(),
    batch_size=1,
):
    """Exports a run's model, or any Keras file, and returns the export's report; of several files, `{"files": [...]}`.

    A run has its own calibration data and metric. A Keras file, and a run on data that its recipe does not have, takes
    `calibration`, an `.npz` with one array `(samples, ...)` per input. A Keras file also takes `input_shapes`, texts
    `NAME=SIZE,SIZE,...`, and `modules`, which are imported before it is loaded, since they register its layers.
    `signatures` names those that the file holds; empty or None for all. `batch_size` is the static batch of its inputs.
    `quantization` is one name, or a tuple of several, each for a file of its own; the file names are then `output` with
    each quantization added. `trust` allows a Keras file to have Lambda layers, whose Python is in the file.
    `data` is the path of the own data of the run, if it is not where it was. `io` is the dtype of the inputs and
    outputs of integer files, whose names then end with it. `training` is None, or the number of examples of a step: the
    file then learns, and its name ends with `training`; `training_layers` are as `layers` of
    `keras_dl.export.export_training`. `snippets` names languages of `keras_dl.export.snippets.LANGUAGES`: code that
    runs a file is written beside it, and the document has `snippets`, the list of `keras_dl.export.snippets.write`.

    Raises:
        OptionError: if the options do not fit together, or the output or a snippet exists and `overwrite` is False.
        ExportError: if the proof fails.
    """
    import keras_dl.export
    from keras_dl.export.io_types import IO

    path = pathlib.Path(path)
    for name, value in {"calibration-samples": calibration_samples, "batch-size": batch_size}.items():
        if value < 1:
            raise OptionError(f"--{name} {value} must be at least 1.")
    if format not in SUFFIXES:
        raise OptionError(f"--format {format} must be one of {', '.join(SUFFIXES)}.")
    run = _run_of(path)
    name = folder.read_run(run).options.recipe if run else path.stem
    where = run / "exports" if run else path.parent
    several = not isinstance(quantization, str)
    if training is None and training_layers:
        raise OptionError("--training-layer is for a file that learns: give --training BATCH, too.")
    if training is not None:
        if training < 1:
            raise OptionError(f"--training {training} must be at least 1.")
        given = {
            "format": format != "litert",
            "quantization": quantization != "none",
            "target": target != "cpu",
            "no-verify": not verify,
            "io": io is not None,
            "batch-size": batch_size != 1,
        }
        others = {"signature": signatures, "calibration": calibration, "float-layer": float_layers}
        given |= {name: bool(value) for name, value in others.items()} | {"input-shape": bool(input_shapes)}
        if wrong := [name for name, is_given in given.items() if is_given]:
            raise OptionError(
                f"--{wrong[0]} does not go with --training: a file that learns is a LiteRT file in float32, with all "
                "signatures and a proof."
            )
    paths = {}
    for one in quantization if several else (quantization,):
        ending = f"-{io}" if io and one in IO else "-training" if training is not None else ""
        file = pathlib.Path(output or where / f"{name}-{one}-{target}{ending}{SUFFIXES[format]}")
        paths[one] = file.with_name(f"{file.stem}-{one}{file.suffix}") if output and several else file
        if paths[one].exists() and not overwrite:
            raise OptionError(f"{paths[one]} exists. Replace it with --overwrite, or choose another --output.")
    coding = _Snippets(paths.values(), snippets, format, overwrite)
    options = dict(format=format, quantization=quantization, target=target, verify=verify)
    options |= dict(signatures=signatures or None, float_layers=float_layers, io=io, batch_size=batch_size)
    options["input_shapes"] = dict(map(_input_shape, input_shapes)) or None
    settings = _options_of(path, data_dir, data) if run else None
    if data is not None and not run:
        raise OptionError(f"--data is for the run of a recipe; {path} is none.")
    if not run:
        _import(modules)
    model = _model_of(path) if run else _load_model(path, trust)
    if training is not None:
        metadata = {"keras_dl": __version__, "source": path.name}
        if run and _has_data(settings):
            chosen, _, examples = _parts(settings)
            metadata = _metadata(chosen, model, settings, examples, run)
        learning = dict(batch_size=training, layers=training_layers or None, metadata=metadata)
        with _worded(quantization):
            document = keras_dl.export.export_training(model, paths[quantization], **learning).to_dict()
        return document | coding.written()
    if run and not _has_data(settings):
        say(f"{_foreign(path, settings)} The file is calibrated with --calibration, and no metric is measured.")
    if run and _has_data(settings):
        if calibration:
            raise OptionError("--calibration is for a Keras file; a run is calibrated with its own training data.")
        chosen, task, examples = _parts(settings)
        options["calibration"] = _calibration(chosen, model, examples, calibration_samples, signatures)
        options["metric"] = (task.metric, lambda serve: chosen.evaluate(serve, examples))
        options["metadata"] = _metadata(chosen, model, settings, examples, run)
    else:
        options["metadata"] = {"keras_dl": __version__, "source": path.name}
        if calibration:
            options["calibration"] = _read_calibration(calibration, calibration_samples)
    with _worded(quantization):
        reports = keras_dl.export.export(model, paths if several else paths[quantization], **options)
    document = {"files": [report.to_dict() for report in reports.values()]} if several else reports.to_dict()
    return document | coding.written()


class _Snippets:
    """The snippets of the files of an export, which are not there yet.

    Args:
        files: paths of the exported files.
        languages: names of languages.
        format, overwrite: as of `export`.

    Raises:
        OptionError: if there is none of the format, or a snippet exists that may not be replaced.
    """

    def __init__(self, files, languages, format, overwrite):
        from keras_dl.export import snippets

        if languages and format != "litert":
            raise OptionError(f"--snippet is for LiteRT files, and --format is {format}.")
        self.files, self.languages = list(files) if format == "litert" else [], tuple(languages)
        for file in self.files:
            for language in self.languages:
                if (place := snippets.place(file, language)).exists() and not overwrite:
                    raise OptionError(f"{place} exists. Replace it, and what you have changed in it: --overwrite.")

    def written(self):
        """Writes them: `{"snippets": [...]}`, or an empty dict without languages. Warns of others, of earlier files."""
        from keras_dl.export import snippets

        rows = [row for file in self.files for row in snippets.write(file, self.languages)]
        written = {row["path"] for row in rows}
        for file in self.files:
            for language in snippets.LANGUAGES:
                place = snippets.place(file, language)
                if place.exists() and str(place) not in written:
                    how = f"keras-dl snippet {file} --language {language} --overwrite"
                    say(f"Warning: {place} was not written for this file: its scales may be others. {how}")
        return {"snippets": rows} if self.languages else {}


@contextlib.contextmanager
def _worded(quantization):
    """Inside the block, an export says how far it is, and its errors name options."""
    from keras_dl.export.errors import CalibrationMissing, ExportError

    try:
        with _shown(logging.getLogger("keras_dl.export")):
            yield
    except CalibrationMissing as error:
        raise OptionError(
            f"--quantization {quantization} needs real inputs: --calibration FILE.npz, with an array (samples, ...) "
            f"for each input. {error}"
        ) from error
    except ValueError as error:
        raise OptionError(_in_options(str(error))) from error
    except ExportError as error:
        if (message := _in_options(str(error))) == str(error):
            raise
        raise ExportError(message) from error


@contextlib.contextmanager
def _shown(log):
    """Inside the block, what a log says of its progress goes to stderr."""
    handler, level, propagate = logging.Handler(), log.level, log.propagate
    handler.emit = lambda record: say(record.getMessage())
    log.addHandler(handler)
    log.setLevel(logging.DEBUG if level == logging.DEBUG else logging.INFO)
    log.propagate = False  # a handler of the root, such as absl's, would say it a second time
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate


def _in_options(message):
    """The message of an error of the export, with options in the place of arguments."""
    options = {"path": "output", "signatures": "signature", "float_layers": "float-layer"}
    names = "|".join(("format", "quantization", "target", "io", *options))
    shape = r"input_shapes=\{'(\w+)': \(([\d, ]+)\)\}"
    for name, option in (("float_layers", "float-layer"), ("layers", "training-layer")):
        message = message.replace(f"{name}=[...]", f"--{option} NAME").replace(f" {name} names", f" --{option} names")
        message = re.sub(rf"\b{name}=[\[(](.*?)[\])]", functools.partial(_repeated, option), message)
    message = re.sub(shape, lambda x: f"--input-shape {x[1]}={x[2].replace(' ', '')}", message)
    return re.sub(rf"\b({names})='([^']*)'", lambda x: f"--{options.get(x[1], x[1])} {x[2]}", message)


def _repeated(option, found):
    """`--option NAME` for each name of a list in a message."""
    return " ".join(f"--{option} {name}" for name in re.findall(r"'(.*?)'", found[1])) or f"--{option}"


def _input_shape(text):
    """`"x=1,8"` as `("x", (1, 8))`."""
    name, _, sizes = text.partition("=")
    if not name or not re.fullmatch(r"\d+(,\d+)*", sizes):
        raise OptionError(f"--input-shape {text} must be NAME=SIZES, such as x=1,224,224,3.")
    return name, tuple(map(int, sizes.split(",")))


def _import(modules):
    """Imports the modules that register layers of one's own. The working folder is searched last."""
    if modules and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise OptionError(f"--import {name}: {error}") from error
        except Exception as error:  # the module runs here, and may raise anything
            raise OptionError(f"--import {name}: {type(error).__name__}: {error}") from error


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


def _run_of(path):
    """The folder of the run that `path`, a folder or its model.keras, belongs to; None if there is none."""
    run = path.parent if path.name == "model.keras" else path
    return run if (run / "run.json").exists() else None


def _options_of(path, data_dir, data=None):
    """The `Options` of a run, with its own data at the path `data` if that is given."""
    options = folder.read_run(_run_of(path)).options
    if data is not None and options.data is None:
        raise OptionError(f"--data: the run in {_run_of(path)} is of the data set {options.dataset}, not of own data.")
    data = options.data if data is None else str(pathlib.Path(data).expanduser().absolute())
    return dataclasses.replace(options, data_dir=data_dir, data=data)


def _model_of(path):
    """The model of a run."""
    run = folder.read_run(_run_of(path))
    if not (run / "model.keras").exists():
        raise OptionError(f"{run.path} has no model.keras yet. Finish the run with --resume.")
    return _load_model(run / "model.keras")


def _has_data(options):
    """Whether the recipe of a run is one of this package, with the data set of the run."""
    try:
        recipe.find(options.recipe).check(options)
    except OptionError:
        return False
    return True


def _foreign(path, options):
    """What `_has_data` found, in words."""
    names = f"the recipe {options.recipe!r} and the data set {options.dataset!r}"
    return f"{_run_of(path)}/run.json names {names}, which keras_dl does not have together."


def _load_model(path, trust=False):
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
        return load_model(path, trust=trust)
    except FileError as error:
        unknown = re.search(r"Could not locate class '(\w+)'", str(error.__cause__))
        if unknown:
            how = "Name the module that registers it with --import MODULE."
            raise FileError(path, f"has the class {unknown[1]}, which is not one of Keras. {how}") from error
        raise


def _parts(options):
    """`(recipe, task, data)`, with the data of the variant that was saved."""
    chosen = recipe.find(options.recipe)
    return chosen, chosen.task(options), chosen.load_data(options, chosen.variants(options)[0])


def _metadata(chosen, model, options, data, run):
    """The metadata of a file that is exported from a run: its origin, and the meaning of its inputs and outputs."""
    metadata = {
        "keras_dl": __version__,
        "recipe": chosen.name,
        "model": type(model).__name__,
        "dataset": options.dataset if options.data is None else data.dataset,
        "dataset_version": data.version,
        "license": data.licence,
        "labels": list(data.labels),
        "input_range": data.input_range,
        "seed": options.seed,
        "smoke": options.smoke,
        "variants": list(options.variants),
        "image_size": options.image_size,
    }
    if options.data is not None:  # not its path, which is nobody's business where the file goes
        own = {"form": options.dataset, "target": options.target, "fingerprint": options.fingerprint}
        metadata["own_data"] = own
    if data.columns:
        metadata["columns"] = data.columns
    if data.domains:
        metadata["domains"] = list(data.domains)
    figures = report.read(run).get("figures", {}) if (run / "report.json").exists() else {}
    if "threshold" in figures:
        metadata["threshold"] = figures["threshold"]
    return metadata | ({"vocabularies": data.vocabularies} if data.vocabularies else {})


def _calibration(chosen, model, data, samples, signatures):
    """The calibration data of a run, for the given signatures."""
    from keras_dl.export import KerasRunner
    from keras_dl.export.signatures import collect

    if chosen.calibrate is None:
        calibration = data.calibration(samples)
    else:
        calibration = chosen.calibrate(KerasRunner(model, runner.EVALUATION_BATCH).serve, data, samples)
    if not isinstance(calibration, dict):
        return calibration
    names = signatures or collect(model)  # not every variant of a recipe has all of them
    return {name: data for name, data in calibration.items() if name in names}


def _read_calibration(path, samples):
    """Single rows of the arrays in an `.npz`, as `keras_dl.export.export` takes them."""
    try:
        arrays = read_arrays(path, "an .npz with one array per input", "Write it with numpy.savez.")
    except FileError as error:
        raise OptionError(f"--calibration {error}") from error
    counts = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise OptionError(
            f"--calibration {path} needs the same number of samples for each input, at least one, not {counts}."
        )
    count = min(samples, *counts.values())
    return [{name: array[i : i + 1] for name, array in arrays.items()} for i in range(count)]
