"""Exports each model of tests/foreign_models.py in all quantizations, and writes docs/keras_layers.md.

python docs/keras_layers.py            exports them all, and writes docs/keras_layers.json and the page
python docs/keras_layers.py GRU LSTM   exports these alone, and keeps the rest of the report
python docs/keras_layers.py --page     writes the page from the report
python docs/keras_layers.py --check    fails if the page differs from the report
"""

import argparse
import importlib.metadata
import json
import pathlib
import sys
import tempfile
import textwrap

import reports

sys.path.append(str(reports.ROOT / "tests"))

from foreign import FILES, measure
from foreign_models import FOREIGN, NOT_SHOWN

REPORT = reports.ROOT / "docs" / "keras_layers.json"
PAGE = reports.ROOT / "docs" / "keras_layers.md"
PACKAGES = ("keras", "tensorflow", "ai-edge-litert", "ai-edge-quantizer", "tflite-micro", "ethos-u-vela")
TARGETS = {"micro": "tflite-micro", "ethos-u55-128": "Ethos-U55", "edgetpu": "Edge TPU", "gpu": "GPU"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="a row of the table; none for all")
    parser.add_argument("--page", action="store_true", help="only write the page")
    parser.add_argument("--check", action="store_true", help="only compare the page with the report")
    options = parser.parse_args()
    if unknown := [name for name in options.models if name not in FOREIGN]:
        parser.error(f"{unknown[0]!r} is not in tests/foreign_models.py")
    if options.check:
        if PAGE.read_text() != page(json.loads(REPORT.read_text())):
            sys.exit(f"{PAGE.name} differs from the report. Run: python docs/keras_layers.py --page")
        return
    if not options.page:
        REPORT.write_text(json.dumps(_report(options.models), indent=1) + "\n")
    PAGE.write_text(page(json.loads(REPORT.read_text())))


def _report(chosen):
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    kept = json.loads(REPORT.read_text()) if chosen else {"versions": versions, "models": {}}
    if kept["versions"] != versions:
        sys.exit(f"{REPORT.name} was made with other versions: {kept['versions']}. Measure all models again.")
    models = {}
    for name, foreign in FOREIGN.items():
        if chosen and name not in chosen:
            models[name] = kept["models"][name]
            continue
        with tempfile.TemporaryDirectory() as folder:
            models[name] = rounded(measure(foreign, pathlib.Path(folder)))
        print(name, *(x.get("error", "refused") for x in models[name]["files"].values()), flush=True)
    return {"versions": versions, "models": models}


def rounded(value):
    if isinstance(value, dict):
        return {key: rounded(x) for key, x in value.items()}
    return float(f"{value:.2g}") if isinstance(value, float) else value


def page(report: dict) -> str:
    """The text of docs/keras_layers.md."""
    refusals = {}
    rows = [("Model", *(f"`{x}`" for x in reports.QUANTIZATIONS), *(TARGETS[name] for name in FILES))]
    for name, result in report["models"].items():
        files = (_file(result["files"][x], refusals) for x in reports.QUANTIZATIONS)
        rows.append((name, *files, *(_target(result["targets"][x], refusals) for x in FILES)))
    notes = "\n".join(f"{number}. {text}" for text, number in refusals.items())
    others = "\n".join(f"- {why}: {', '.join(names.split())}" for why, names in NOT_SHOWN.items())
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return f"""<!-- made by docs/keras_layers.py: do not edit -->

# Keras's layers

`export` takes any built Keras model. This table shows what it does with each layer of Keras that a device can run, and
with some small networks. Each layer stands behind a dense layer or a 1x1 convolution.

A number means that the file was exported, and how far its outputs are from Keras's on 128 inputs that the
calibration never saw. `none`, `float16`: the largest error, as a share of the largest output. The others: the root mean
square of the errors, as a share of the outputs' standard deviation. Weights and inputs are random, so trained networks
differ.

The targets show the share of ops that run on the device: Ethos-U55-128 and Edge TPU for the `int8` file, the GPU
delegate for the `none` file. tflite-micro runs the `int8` file, or else the `none` file. Edge TPU and GPU are checks by
published rules, not runs.

A number in parentheses is a note below the table.

{reports.markdown_table(rows)}

## Notes

{notes}

## Layers that are not in the table

{others}

## Versions

{versions}

Made by `python docs/keras_layers.py`. `make test-all` measures each model again.
"""


def _note(text, refusals):
    text = textwrap.shorten(text, 320, placeholder=" ...").replace("|", "\\|").replace("<", "&lt;")
    return f"({refusals.setdefault(text, len(refusals) + 1)})"


def _file(result, refusals):
    return f"{result['error']:.2g}" if "error" in result else _note(result["refused"], refusals)


def _target(share, refusals):
    if isinstance(share, str):
        return "" if share == "no file" else _note(share, refusals)
    return f"{share:.0%}"


if __name__ == "__main__":
    main()
