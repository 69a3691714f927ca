"""Writes the table of architectures in the README from the reports in docs/results.

python docs/table.py            writes it
python docs/table.py --check    fails if the README differs from the reports
"""

import json
import pathlib
import sys

from keras_dl.architectures import ARCHITECTURES
from keras_dl.files import replacing

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
BEGIN, END = "<!-- table: made by docs/table.py -->", "<!-- end of table -->"

HEAD = ("Architecture", "Classes", "Recipe", "Measured", "Baseline", "Aim", "float32 file", "int8 file", "On Ethos-U55")


def table():
    """The whole table: str of Markdown. A row for each report, and one for each architecture that has none yet."""
    rows = [HEAD, ["---"] * len(HEAD)]
    for architecture in ARCHITECTURES:
        name, classes = architecture.name, ", ".join(f"`{c}`" for c in architecture.classes)
        reports = sorted(RESULTS.glob(f"{name}-*/report.json"), key=lambda path: path.parent.name)
        rows += [_row(name, classes, path) for path in reports]
        if not reports:
            status = "not measured" if classes else "planned"
            rows.append([name, classes, status, *[""] * (len(HEAD) - 3)])
    return "\n".join("| " + " | ".join(cell or " " for cell in row) + " |" for row in rows)


def _row(name, classes, path):
    report = json.loads(path.read_text())
    files = {file.stem: json.loads(file.read_text()) for file in path.parent.glob("*-*.json")}
    flat, npu = files.get("none-cpu"), files.get("int8-ethos-u55-128")
    small = files.get("int8-micro") or files.get("int8-cpu")
    aim = "" if report["aim"] is None else f"{'≥' if report['higher_is_better'] else '≤'} {_figure(report['aim'])}"
    if report["aim_met"] is False:
        aim += ", missed"
    return [
        name,
        classes,
        f"[{report['dataset']}](docs/results/{path.parent.name}/report.json)",
        f"{report['metric']} {_figure(report['value'])}",
        f"{_figure(report['baseline_value'])} ({report['baseline']})",
        aim,
        _file(flat),
        _file(small),
        f"{npu['target_report']['npu_op_share']:.0%} of ops" if npu else "",
    ]


def _file(report):
    """Size, and the metric measured on the file."""
    if not report:
        return ""
    metric = f", {_figure(report['metric']['artifact'])}" if report["metric"] else ""
    return f"{report['bytes'] / 1000:,.0f} kB{metric}"


def _figure(value):
    if 0 < abs(value) < 0.001:
        return f"{value:.1e}"
    return f"{value:.4f}" if abs(value) < 1 else f"{value:,.2f}"


def written(readme):
    """The README with the table in its place."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


def main(check):
    path = ROOT / "README.md"
    old = path.read_text()
    new = written(old)
    if check and new != old:
        sys.exit("README.md differs from docs/results: run python docs/table.py")
    if new != old:
        with replacing(path) as temporary:
            temporary.write_text(new)


if __name__ == "__main__":
    main("--check" in sys.argv[1:])
