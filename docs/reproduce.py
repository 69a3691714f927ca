"""Runs the recipes at full size, exports what they trained, and keeps the reports in docs/results.

    python docs/reproduce.py                  every recipe
    python docs/reproduce.py cnn mlp:diabetes these; a name, or a name and a dataset

A run goes to runs/NAME-DATASET and is resumed if it was broken off; a complete one is kept as it is.
"""

import pathlib
import shutil
import sys

from keras_dl.recipes.training import commands, recipe

DOCS = pathlib.Path(__file__).resolve().parent

# What the README shows of each run: the float file, the one for a microcontroller, and the one for its NPU. Names
# behind a target are those of the signatures that the file holds; else it has all.
EXPORTS = (("none", "cpu"), ("int8", "micro"), ("int8", "ethos-u55-128"))
OTHER_EXPORTS = {
    # Two hundred steps one after the other are thousands of ops.
    "rnn-adding_problem_100": (("none", "cpu"), ("int8", "cpu")),
    "gru-adding_problem_200": (("none", "cpu"), ("int8", "cpu")),
    # Of int8, the proof refuses the log-probabilities: those of unlikely characters are too far off.
    "lstm-bible": (("none", "cpu"), ("dynamic_int8", "cpu")),
    # The columns of a table share the one scale of an int8 input, which leaves nothing of the small ones.
    "mlp-breast_cancer": (("none", "cpu"), ("float16", "cpu")),
    "mlp-diabetes": (("none", "cpu"), ("float16", "cpu")),
    # tflite-micro has no GELU.
    "convnext-mnist_5k": (("none", "cpu"), ("int8", "cpu"), ("int8", "ethos-u55-128"), ("int8", "edgetpu")),
    # Not tried with tflite-micro.
    "neural_ode-mnist_5k": (("none", "cpu"), ("int8", "cpu"), ("int8", "ethos-u55-128"), ("int8", "edgetpu")),
    # Their steps are a loop, into which the calibration to int8 cannot look.
    "neural_ode-two_moons": (("none", "cpu"), ("dynamic_int8", "cpu")),
    "neural_ode-spirals": (("none", "cpu"), ("dynamic_int8", "cpu")),
    "vit-mnist_5k": (("none", "cpu"), ("int8", "cpu"), ("int8", "ethos-u55-128"), ("int8", "edgetpu")),
    "gcnn-rotated_mnist": (*EXPORTS, ("int8", "edgetpu")),
    # A graph's edges are gathered and scattered: no work for tflite-micro, which has no such kernels.
    "gnn-cora": (("none", "cpu"), ("int8", "cpu"), ("int8", "ethos-u55-128"), ("int8", "edgetpu")),
    "gnn-citeseer": (("none", "cpu"), ("int8", "cpu"), ("int8", "ethos-u55-128"), ("int8", "edgetpu")),
    "gnn-freesolv": (("none", "cpu"), ("int8", "cpu"), ("int8", "ethos-u55-128"), ("int8", "edgetpu")),
    # tflite-micro takes one signature a file.
    "autoencoder-mnist_5k": (("none", "cpu"), ("int8", "cpu"), ("int8", "ethos-u55-128"), ("int8", "edgetpu")),
    "attention-sequence_reversal": (("none", "cpu"), ("dynamic_int8", "cpu")),  # its loop cannot be calibrated
    **{
        f"tcn-{dataset}": (("none", "cpu"), ("int8", "cpu"), ("int8", "ethos-u55-128"))  # several signatures in a file
        for dataset in ("adding_problem_200", "adding_problem_600", "copy_memory", "mnist_5k")
    },
    # A whole translation is a loop, which an integer file cannot have.
    "seq2seq-cmudict": (("none", "cpu"), ("dynamic_int8", "cpu"), ("int8", "cpu", "encode", "decode_step")),
    "transformer-bible": (
        *(("none", "cpu"), ("float16", "cpu"), ("dynamic_int8", "cpu")),
        ("int8", "cpu", "encode", "decode_step"),
        ("int8", "ethos-u55-128", "encode", "decode_step"),
    ),
}

# The data sets of each recipe that need no download from a hub.
LOCAL = {
    "rnn": ("adding_problem/100", "japanese_vowels"),
    "lstm": ("adding_problem/200", "japanese_vowels", "bible"),
    "gru": ("adding_problem/200", "japanese_vowels"),
    "tcn": ("adding_problem/200", "adding_problem/600", "copy_memory", "mnist_5k"),
    "neural_ode": ("mnist_5k", "two_moons", "spirals"),
    "mlp": ("breast_cancer", "diabetes", "mnist_5k"),
    "gnn": ("cora", "citeseer", "freesolv"),
}


def reproduce(name, dataset):
    """Trains, exports, and copies the reports and the picture to docs/results/NAME-DATASET."""
    run = pathlib.Path("runs") / f"{name}-{dataset.replace('/', '_')}"
    if not (run / "report.json").exists():
        commands.train(name, dataset=dataset, output=run, resume=True)
    results = DOCS / "results" / run.name
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)
    for file in ("report.json", "history.csv", "picture.png"):
        shutil.copy(run / file, results / file)
    for quantization, target, *signatures in OTHER_EXPORTS.get(run.name, EXPORTS):
        report = commands.export(run, quantization=quantization, target=target, overwrite=True, signatures=signatures)
        shutil.copy(f"{report['path']}.json", results / f"{quantization}-{target}.json")


def main(wanted):
    for name in recipe.NAMES if not wanted else dict.fromkeys(w.split(":")[0] for w in wanted):
        default = next(iter(recipe.find(name).tasks))
        asked = [w.split(":")[1] if ":" in w else default for w in wanted if w.split(":")[0] == name]
        for dataset in asked or LOCAL.get(name, (default,)):
            reproduce(name, dataset)


if __name__ == "__main__":
    main(sys.argv[1:])
