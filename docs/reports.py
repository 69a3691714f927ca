"""Shared parts of docs/table.py and docs/pages.py: reading the reports in docs/results, writing figures and files."""

import csv
import dataclasses
import functools
import json
import pathlib
import sys

from keras_dl.files import replacing
from keras_dl.recipes.training import report
from keras_dl.recipes.training.recipe import find

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"

QUANTIZATIONS = ("none", "float16", "weight_only_int8", "dynamic_int8", "int16x8", "int8")
TARGETS = ("cpu", "micro", "ethos", "edgetpu", "gpu")


@dataclasses.dataclass(frozen=True)
class Run:
    """One run at full size: `docs/results/NAME-DATASET`.

    Attributes:
        folder: path.
        report: dict, as `keras_dl.recipes.training.report` describes it.
        files: dict of the reports of the exported files, by "QUANTIZATION-TARGET".
        history: list of one dict of str per epoch and variant.
    """

    folder: pathlib.Path
    report: dict
    files: dict[str, dict]
    history: list[dict[str, str]]

    @property
    def page(self) -> str:
        """Path of the run's page, from the root of the repository."""
        return f"docs/results/{self.folder.name}/README.md"

    @property
    def small_file(self) -> dict | None:
        """Report of the int8 file for microcontrollers, or else for CPUs."""
        return self.files.get("int8-micro") or self.files.get("int8-cpu")


@functools.cache
def runs(recipe: str) -> tuple[Run, ...]:
    """The runs of one recipe: the one on its default data set first, the others by name."""
    default = next(iter(find(recipe).tasks))
    found = [_read(path.parent) for path in RESULTS.glob(f"{recipe}-*/report.json")]
    return tuple(sorted(found, key=lambda run: (run.report["dataset"] != default, run.folder.name)))


def _read(folder):
    files = {path.stem: json.loads(path.read_text()) for path in folder.glob("*-*.json")}
    files = dict(sorted(files.items(), key=_order))
    with (folder / "history.csv").open(newline="") as file:
        history = list(csv.DictReader(file))
    return Run(folder, report.read(folder), dict(sorted(files.items(), key=_order)), history)


def _order(item):
    quantization, target = item[0].split("-", 1)
    return QUANTIZATIONS.index(quantization), TARGETS.index(target.split("-")[0]), target


def figure(value: float) -> str:
    """A measured value as text, to about four digits."""
    if 0 < abs(value) < 0.001:
        return f"{value:.1e}"
    return f"{value:.4f}" if abs(value) < 1 else f"{value:,.2f}"


def aim(report: dict) -> str:
    """The aim of a run and whether it was met, as text; empty where there is none."""
    if report["aim"] is None:
        return ""
    sign = "≥" if report["higher_is_better"] else "≤"
    return f"{sign} {figure(report['aim'])}" + ("" if report["aim_met"] else ", missed")


def size_and_metric(report: dict | None) -> str:
    """Size of an exported file, and the metric measured on it."""
    if not report:
        return ""
    metric = f", {figure(report['metric']['artifact'])}" if report["metric"] else ""
    return f"{report['bytes'] / 1000:,.0f} kB{metric}"


def markdown_table(rows: list) -> str:
    """Rows of cells as a table in Markdown; the first row is the head."""
    head, *rest = rows
    lines = [head, ["---"] * len(head), *rest]
    return "\n".join("| " + " | ".join(cell or " " for cell in line) + " |" for line in lines)


def write(texts: dict[str, str], check: bool, script: str = "docs/table.py") -> None:
    """Writes the texts that differ from their files; with `check`, only names them, and exits with an error.

    Args:
        texts: dict of texts by path from the root of the repository.
        check: bool.
        script: str. What writes them.
    """
    files = {path: ROOT / path for path in texts}
    stale = [path for path, file in files.items() if not file.exists() or file.read_text() != texts[path]]
    if check and stale:
        sys.exit(f"{', '.join(stale)}: not up to date. Run python {script}")
    for path in stale:
        with replacing(files[path]) as temporary:
            temporary.write_text(texts[path])
