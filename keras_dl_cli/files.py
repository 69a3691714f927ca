"""The commands about runs and files: evaluate, predict, export, snippet and inspect."""

import importlib
import pathlib

import click

from keras_dl_cli import light
from keras_dl_cli.group import cli, command, data_dir_option, own_data_option, trust_option
from keras_dl_cli.output import outline

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

# As `keras_dl.export.snippets` has them.
LANGUAGES = ("python", "cpp", "kotlin", "javascript")


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
@click.option(
    "--output",
    type=click.Path(),
    help="A .png file, or a folder for several, to draw the answers or write translated pictures in. Of solids a .ply, "
    ".obj or .glb file, or a folder.",
)
@trust_option
def predict(path, **options):
    """Ask PATH, the folder of a run, a .keras file or an exported file, about each INPUT.

    An INPUT is a picture; a .csv file, with a sample in each row, or for a model of series a step in each row; a cloud
    of points; a text, or a .txt file with a text in each line.

    \b
    Examples:
      keras-dl predict runs/cnn seven.png
      keras-dl predict runs/yolo/exports/yolo-none-cpu.tflite street.jpg --output found.png
      keras-dl predict runs/cyclegan horse.jpg --output zebra.png
      keras-dl predict runs/cyclegan zebra.jpg --signature b_to_a --output horse.png
      keras-dl predict runs/occupancy_network scan.ply --output solid.ply
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
@click.option("--batch-size", type=int, default=1, show_default=True, help="Rows that the file takes in a call.")
@click.option(
    "--output",
    type=click.Path(),
    help="[default: RUN/exports/NAME-QUANTIZATION-TARGET.tflite, with -IO or -training if these are given]",
)
@click.option(
    "--io",
    type=click.Choice(["int8", "uint8", "float32"]),
    help="Dtype of the inputs and outputs of an integer file: uint8 or float32 for MediaPipe, float32 for LiteRT.js. "
    "[default: int8, or int16 for int16x8]",
)
@click.option(
    "--training",
    type=int,
    metavar="BATCH",
    help="A file that also learns on the device, by steps of BATCH examples: with the signatures train, save and "
    "restore.",
)
@click.option(
    "--training-layer",
    "training_layers",
    multiple=True,
    metavar="NAME",
    help="A layer that learns. May be repeated. [default: all, if all are dense; else the last one]",
)
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
    help="The shape of an input whose sizes a .keras file leaves open, the batch included: x=1,224,224,3. May be "
    "repeated.",
)
@click.option(
    "--import",
    "modules",
    multiple=True,
    metavar="MODULE",
    help="A Python module that registers layers of a .keras file. May be repeated.",
)
@click.option(
    "--snippet",
    "snippets",
    type=OneOrMore([*LANGUAGES, "all"]),
    metavar="LANGUAGE",
    help=f"Also write code that runs the file, beside it: {', '.join(LANGUAGES)}, several with commas between them, or "
    "all.",
)
@click.option("--overwrite", is_flag=True, help="Replace the file, and the code of --snippet, if they exist.")
@data_dir_option
@own_data_option
@trust_option
def export(no_verify, snippets, **options):
    """Export PATH, the folder of a run or a .keras file, to a verified file for a device.

    A run is calibrated with its own training data, and its metric is measured again on the file.

    \b
    Examples:
      keras-dl export runs/cnn
      keras-dl export runs/cnn --quantization int8 --target ethos-u55-128
      keras-dl export runs/cnn --quantization none,float16,int8
      keras-dl export runs/cnn --quantization int8 --io uint8
      keras-dl export runs/cnn --training 8
      keras-dl export runs/cnn --snippet all
      keras-dl export mine.keras --quantization int8 --calibration samples.npz
      keras-dl export runs/seq2seq --quantization int8 --signature encode --signature decode_step
    """
    from keras_dl.export import Report
    from keras_dl.recipes.training import commands

    languages = () if snippets is None else (snippets,) if isinstance(snippets, str) else snippets
    languages = LANGUAGES if "all" in languages else languages
    document = commands.export(verify=not no_verify, snippets=languages, **options)
    reports = document.get("files", [{name: x for name, x in document.items() if name != "snippets"}])
    parts = [str(Report(**report)) for report in reports]
    if rows := document.get("snippets"):
        parts.append("\n".join(f"{row['language']:<11} {row['path'] or 'none: ' + row['reason']}" for row in rows))
    return document, "\n\n".join(parts)


@command(cli, "snippet")
@click.argument("path", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--language",
    "languages",
    type=OneOrMore(LANGUAGES),
    required=True,
    help="python for ai-edge-litert, cpp for tflite-micro, kotlin for LiteRT on Android, javascript for LiteRT.js. "
    "Several, with commas between them, give several files.",
)
@click.option("--overwrite", is_flag=True, help="Replace a snippet that exists, and what you have changed in it.")
def snippet(path, languages, overwrite):
    """Write code that runs PATH, a LiteRT file, on a device: with its names, shapes, scales and labels.

    It is written beside the file.

    \b
    Examples:
      keras-dl snippet runs/cnn/exports/cnn-int8-cpu.tflite --language python
      keras-dl snippet runs/cnn/exports/cnn-int8-micro.tflite --language cpp
      keras-dl snippet runs/cnn/exports/cnn-none-cpu.tflite --language kotlin,javascript
    """
    with light.without_keras():
        snippets = importlib.import_module("keras_dl.export.snippets")
        files = importlib.import_module("keras_dl.files")
        languages = (languages,) if isinstance(languages, str) else languages
        texts = {language: snippets.snippet(path, language) for language in languages}
        paths = {language: pathlib.Path(path).with_name(name) for language, (name, _) in texts.items()}
        for written in paths.values():
            if written.exists() and not overwrite:
                raise click.UsageError(f"{written} exists. Replace it, and what you have changed in it: --overwrite.")
        for language, written in paths.items():
            with files.replacing(written) as temporary:
                temporary.write_text(texts[language][1], encoding="utf-8")
    document = {"files": [{"language": language, "path": str(written)} for language, written in paths.items()]}
    return document, "\n".join(f"{language}: {written}" for language, written in paths.items())


@command(cli, "inspect")
@click.argument("artifact", type=click.Path(exists=True))
@trust_option
def inspect(artifact, trust):
    """Show the ops, signatures and metadata of ARTIFACT.

    \b
    Example:
      keras-dl inspect runs/cnn/exports/cnn-int8-cpu.tflite
    """
    with light.without_keras():
        document = importlib.import_module("keras_dl.export.inspection").inspect(artifact, trust)
        reason = importlib.import_module("keras_dl.export.file_set").complaint(artifact)
    if reason:
        click.echo(f"Warning: {reason}", err=True)
    return document, outline(document)
