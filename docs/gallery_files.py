"""Exports the files of docs/gallery.md, and writes the code that runs them.

    python docs/gallery_files.py

The runs are those of docs/reproduce.py: `python docs/reproduce.py cnn:mnist_5k tcn:mnist_5k gan:gaussian_ring`. An
argument names another folder of runs than `runs`.
"""

import contextlib
import pathlib
import sys

from keras_dl.export import snippet
from keras_dl.recipes.training import commands

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = pathlib.Path("docs/gallery")  # from ROOT, as the reports have it
# The run, the quantization, and the dtype of inputs and outputs of each file.
FILES = {
    "lenet": ("cnn-mnist_5k", "int8", "uint8"),
    "tcn": ("tcn-mnist_5k", "none", None),
    "gan": ("gan-gaussian_ring", "none", None),
}


def write(name, runs):
    """Exports one file into docs/gallery, with its report and its snippet."""
    run, quantization, io = FILES[name]
    path = FOLDER / f"{name}.tflite"
    with contextlib.chdir(ROOT):
        commands.export(runs / run, quantization=quantization, io=io, output=path, overwrite=True)
        file, text = snippet(path, "javascript")
        (FOLDER / file).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    for name in FILES:
        write(name, pathlib.Path(*sys.argv[1:] or ["runs"]).absolute())
