"""Runs the recipes at full size, exports what they trained, and keeps the reports in docs/results.

    python docs/reproduce.py                  every recipe
    python docs/reproduce.py cnn mlp:diabetes these; a name, or a name and a dataset

Each run goes to runs/NAME-DATASET. An interrupted run is resumed, and a complete one is kept as it is. Each recipe says
in its tasks which datasets are reproduced and which files are exported.
"""

import pathlib
import shutil
import sys

from keras_dl.recipes.training import commands, recipe

DOCS = pathlib.Path(__file__).resolve().parent


def reproduce(name, dataset):
    """Trains, exports, and copies the reports and the picture to docs/results/NAME-DATASET, if no file is refused."""
    run = pathlib.Path("runs") / f"{name}-{dataset.replace('/', '_')}"
    if not (run / "report.json").exists():
        commands.train(name, dataset=dataset, output=run, resume=True)
    copies = {file: run / file for file in ("report.json", "history.csv", "picture.png")}
    for file in recipe.find(name).tasks[dataset].exports:
        report = commands.export(run, **file._asdict(), overwrite=True)
        copies[f"{file.quantization}-{file.target}.json"] = f"{report['path']}.json"
    results = DOCS / "results" / run.name
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)
    for file, source in copies.items():
        shutil.copy(source, results / file)


def wanted_runs(words):
    """`[(name, dataset)]` for words `NAME` or `NAME:DATASET`; all that the recipes reproduce for no words."""
    if not words:
        return [(name, dataset) for name in recipe.NAMES for dataset in recipe.find(name).reproduced]
    pairs = [word.partition(":")[::2] for word in words]
    return [(name, dataset or next(iter(recipe.find(name).tasks))) for name, dataset in pairs]


def main(words):
    for name, dataset in wanted_runs(words):
        reproduce(name, dataset)


if __name__ == "__main__":
    main(sys.argv[1:])
