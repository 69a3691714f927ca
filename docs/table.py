"""Writes the table of architectures in the README, and the pages of the results, from the reports in docs/results; and
what `keras-dl list` shows, from the recipes.

python docs/table.py            writes them
python docs/table.py --check    fails if one of them differs from the reports
"""

import json
import sys

import pages
import reports
from reports import figure

from keras_dl.architectures import ARCHITECTURES, ROOMS
from keras_dl.recipes.training import commands

README = reports.ROOT / "README.md"
BEGIN, END = "<!-- table: made by docs/table.py -->", "<!-- end of table -->"
HEAD = ("Architecture", "Task", "Paper", "Parameters", "Result", "Baseline", "float32", "int8", "Runs")


def table() -> str:
    """A row for each architecture that has classes, and a line of those that are planned."""
    rows = [HEAD, *(_row(architecture) for architecture in ARCHITECTURES if architecture.classes)]
    planned = [architecture.title for architecture in ARCHITECTURES if not architecture.classes]
    return reports.markdown_table(rows) + (f"\n\nPlanned: {', '.join(planned)}." if planned else "")


def _row(architecture):
    described = (
        f"{architecture.title}<br>{', '.join(f'`{name}`' for name in architecture.classes)}",
        ROOMS[architecture.room],
        paper(architecture),
        f"`{architecture.preset[1]}`: {architecture.parameters:,}" if architecture.preset else "",
    )
    runs = reports.runs(architecture.recipe)
    if not runs:
        return (*described, *result(architecture), *[""] * 3)
    run = runs[0]
    return (
        *described,
        *result(architecture),
        reports.size_and_metric(run.files.get("none-cpu")),
        reports.size_and_metric(run.small_file),
        ", ".join(f"[{run.report['dataset']}]({run.page})" for run in runs),
    )


def result(architecture) -> tuple[str, str]:
    """The metric of the first run, and that of its baseline."""
    runs = reports.runs(architecture.recipe)
    if not runs:
        return "not measured", ""
    report = runs[0].report
    missed = ", aim missed" if report["aim_met"] is False else ""
    return (
        f"{report['metric']} {figure(report['value'])}{missed}",
        f"{figure(report['baseline_value'])} ({report['baseline']})",
    )


def paper(architecture) -> str:
    """First authors and year, with a link where the paper is on arXiv."""
    authors = architecture.authors.split(", ")
    text = f"{' and '.join(authors) if len(authors) < 3 else f'{authors[0]} et al.'} {architecture.year}"
    return f"[{text}](https://arxiv.org/abs/{architecture.arxiv})" if architecture.arxiv else text


def written(readme: str) -> str:
    """The README with the table in its place."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


def texts() -> dict[str, str]:
    """Everything that is made from the reports, by its path from the root of the repository."""
    listed = json.dumps(commands.recipes(), indent=2, ensure_ascii=False) + "\n"
    return {"README.md": written(README.read_text()), "recipes/recipes.json": listed, **pages.pages()}


if __name__ == "__main__":
    reports.write(texts(), check="--check" in sys.argv[1:])
