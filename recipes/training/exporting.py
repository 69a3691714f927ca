"""`keras-dl export`: files of a run's model with its metric, or of any Keras file."""

import importlib
import os
import pathlib
import re
import sys

from keras_dl.files import FileError, read_arrays
from keras_dl.recipes.training import folder, report, runner
from keras_dl.recipes.training.batches import naming_damaged_data
from keras_dl.recipes.training.opened import foreign, has_data, load_model, model_of, options_of, parts, run_of
from keras_dl.recipes.training.progress import say
from keras_dl.recipes.training.recipe import OptionError
from keras_dl.recipes.training.wording import worded
from keras_dl.version import __version__

SUFFIXES = {"litert": ".tflite", "onnx": ".onnx", "saved_model": ""}


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
    run = run_of(path)
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
    settings = options_of(path, data_dir, data) if run else None
    if data is not None and not run:
        raise OptionError(f"--data is for the run of a recipe; {path} is none.")
    if not run:
        _import(modules)
    model = model_of(path) if run else load_model(path, trust)
    if training is not None:
        metadata = {"keras_dl": __version__, "source": path.name}
        if run and has_data(settings):
            chosen, _, examples = parts(settings)
            metadata = _metadata(chosen, model, settings, examples, run)
        learning = dict(batch_size=training, layers=training_layers or None, metadata=metadata)
        with worded(quantization):
            document = keras_dl.export.export_training(model, paths[quantization], **learning).to_dict()
        return document | coding.written()
    if run and not has_data(settings):
        say(f"{foreign(path, settings)} The file is calibrated with --calibration, and no metric is measured.")
    if run and has_data(settings):
        if calibration:
            raise OptionError("--calibration is for a Keras file; a run is calibrated with its own training data.")
        chosen, task, examples = parts(settings)
        options["calibration"] = _calibration(chosen, model, examples, calibration_samples, signatures)
        options["metric"] = (task.metric, lambda serve: chosen.evaluate(serve, examples))
        options["metadata"] = _metadata(chosen, model, settings, examples, run)
    else:
        options["metadata"] = {"keras_dl": __version__, "source": path.name}
        if calibration:
            options["calibration"] = read_calibration(calibration, calibration_samples)
    with worded(quantization):
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


def read_calibration(path, samples):
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
