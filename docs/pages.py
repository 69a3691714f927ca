"""The pages of docs/results: one for each run, one for the benchmark of streams, and their index.

`python docs/table.py` writes them.
"""

import collections
import inspect
import json
import pathlib
import re

import reports
from reports import ROOT, figure, markdown_table

import keras_dl
from keras_dl.architectures import ARCHITECTURES
from keras_dl.recipes.datasets.catalogue import catalogue

GENERATED = "<!-- made by docs/table.py: do not edit -->"
MANY = 8  # trainings; of more than these, a page shows the means only


def pages() -> dict[str, str]:
    """The text of each page by its path from the root of the repository."""
    built = [architecture for architecture in ARCHITECTURES if architecture.classes]
    runs = [(architecture, run) for architecture in built for run in reports.runs(architecture.recipe)]
    return {
        "docs/results/README.md": _index(runs),
        "docs/results/streaming/README.md": _streaming(),
        **{run.page: _page(architecture, run) for architecture, run in runs},
    }


def _index(runs):
    rows = [("Run", "Trained", "Result", "Baseline", "Aim", "float32 file", "int8 file", "On Ethos-U55")]
    for architecture, run in runs:
        report, npu = run.report, run.files.get("int8-ethos-u55-128")
        rows.append(
            (
                f"[{architecture.name} on {report['dataset']}]({run.folder.name}/README.md)",
                *outcome(run),
                reports.size_and_metric(run.files.get("none-cpu")),
                reports.size_and_metric(run.small_file),
                f"{npu['target_report']['npu_op_share']:.0%} of ops" if npu else "",
            )
        )
    return f"""{GENERATED}

# Results

Each row is one run at full size on two CPU cores. Its page has the data, the command, the exported files and a picture.
`make reproduce` repeats all of them.

The file columns give the size of the file and the metric measured on that file. If a run has several trainings, the
exported model is the first one: fold 1, seed 0, or the network that the others are compared with.

{markdown_table(rows)}

[Streaming](streaming/README.md) compares the latency of the signatures `step` and `sequence`.
"""


def outcome(run) -> tuple[str, str, str, str]:
    """What was trained, its metric, that of the baseline, and the aim: cells of a table."""
    report = run.report
    return (
        f"`{report['model']}`",
        f"{report['metric']} {figure(report['value'])}",
        f"{figure(report['baseline_value'])} ({report['baseline']})",
        reports.aim(report),
    )


def _streaming():
    report = json.loads((reports.RESULTS / "streaming" / "report.json").read_text())
    lengths = list(next(iter(report["nets"].values()))["sequence_ms"])
    rows = [("Network", "Parameters", "`step`", *(f"`sequence` of {length}" for length in lengths))]
    for name, net in report["nets"].items():
        milliseconds = [f"{net['sequence_ms'][length]:.3g}" for length in lengths]
        rows.append((name.upper(), f"{net['parameters']:,}", f"{net['step_ms']:.3g}", *milliseconds))
    return f"""{GENERATED}

# Streaming

A network answers after every sample of a stream. The signature `step` takes one sample and carries the state.
`sequence` runs the whole window again. The table has the milliseconds to answer after one more sample: 8 features,
width 64, float32 LiteRT files, {report["threads"]} thread. They are medians of {report["rounds"]} rounds of
{report["calls"]} calls each.

![Milliseconds per sample against the length of the window, by step and by sequence](picture.png)

{markdown_table(rows)}

Command: `{report["command"]}`, on {report["platform"]}. The ranges of the ratios are in [report.json](report.json).
"""


def _page(architecture, run):
    report = run.report
    better = "higher is better" if report["higher_is_better"] else "lower is better"
    # The paragraphs that a page has; those that do not apply are empty.
    parts = [
        GENERATED,
        f"# {architecture.title} on {report['dataset']}",
        f"**{report['metric']}: {figure(report['value'])}** ({better}). "
        f"Baseline: {figure(report['baseline_value'])}, {report['baseline']}.{_aim(report)}",
        f"![{architecture.title} on {report['dataset']}: the picture that the recipe draws](picture.png)",
        "## Run",
        markdown_table([("", ""), *_facts(architecture, run)]),
        "## Training",
        markdown_table(_trainings(run)),
        "Every epoch of every training is in [history.csv](history.csv).",
        *_figures(report),
        "## Exported files",
        "The metric is measured on the Keras model and again on the file. Error is the largest absolute difference "
        "between the outputs of the file and of the Keras model in the [proof](../../glossary.md#proof), without token "
        "ids. Cosine is the lowest cosine similarity of an output. The last column is the latency of one call in "
        "milliseconds, on one thread of the CPU that exported the file.",
        markdown_table(files(run)),
        *_targets(run),
        *_warnings(run),
        "## Reports",
        f"The figures on this page come from {_links(run)}. The [glossary](../../glossary.md) explains the terms.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _figures(report):
    """What the recipe measures beside its metric."""
    found = report.get("figures") or {}
    if not found:
        return []
    rows = [(name.replace("_", " "), x if isinstance(x, str) else figure(x)) for name, x in found.items()]
    return ["## Other figures", markdown_table([("Figure", "Value"), *rows])]


def _aim(report):
    if report["aim"] is None:
        return ""
    aim = f"{'at least' if report['higher_is_better'] else 'at most'} {figure(report['aim'])}"
    return f" Aim: {aim}, {'met' if report['aim_met'] else 'missed'}."


def _facts(architecture, run):
    report = run.report
    model = getattr(keras_dl, report["model"])
    source = pathlib.Path(inspect.getsourcefile(model)).resolve().relative_to(ROOT)
    titles = {entry.name: entry.title for entry in catalogue()}
    title = titles.get(report["dataset"].split("/")[0], "")
    versions = report["versions"]
    yield (
        "Model",
        f"[`keras_dl.{report['model']}`](../../../{source}), {report['parameters']:,} parameters",
    )
    yield "Paper", architecture.citation
    yield "Recipe", f"[recipes/{report['recipe']}.py](../../../recipes/{report['recipe']}.py)"
    yield "Data", f"`{report['dataset']}` {report['dataset_version']}" + (f": {title}" if title else "")
    yield "Examples", f"{report['train_examples']:,} to train on, {report['test_examples']:,} to test on"
    yield "License of the data", report["license"]
    yield "Command", f"`{report['command']}`"
    compiled = "XLA" if report["jit"] else "TensorFlow graph, without XLA"
    yield "Training time", f"{report['seconds']:,.0f} s for all trainings, on {report['cpus']} CPU cores ({compiled})"
    named = ("keras_dl", "keras", "tensorflow")
    yield "Software", ", ".join(f"{name} {versions[name]}" for name in named) + f", Python {report['python']}"


def _trainings(run):
    report = run.report
    rows = [("Training", report["metric"], "Epochs", "Last `loss`", "Last `val_loss`")]
    means = report.get("means") or {}
    if len(report["variants"]) > MANY:
        rows = [(*rows[0][:2], "Trainings")]
        for name, mean in means.items():
            spread = f"{figure(mean['mean'])} ± {figure(mean['standard_error'])} (standard error)"
            rows.append((f"`{name}`, mean", spread, str(mean["trainings"])))
        return rows
    first = next(iter(report["variants"]))
    for variant, value in report["variants"].items():
        epochs = [row for row in run.history if row["variant"] == variant]
        exported = " (exported)" if variant == first else ""
        losses = [figure(float(epochs[-1][key])) if epochs[-1][key] else "" for key in ("loss", "val_loss")]
        rows.append((f"`{variant}`{exported}", figure(value), str(len(epochs)), *losses))
    return rows


def files(run) -> list[tuple]:
    """The exported files of a run: rows of a table, with the head."""
    metric = run.report["metric"]
    rows = [("Quantization", "Target", "Bytes", f"{metric}, Keras", f"{metric}, file", "Error", "Cosine", "ms")]
    for report in run.files.values():
        measured = report["metric"]
        errors = [
            (values["max_abs_error"], values["cosine"], f"`{signature}`, `{output}`")
            for signature, outputs in report["proof"]["signatures"].items()
            for output, values in outputs.items()
            if report["signatures"][signature]["outputs"][output]["dtype"] not in ("int32", "int64", "bool")
        ]
        worst = max(errors)
        where = f" ({worst[2]})" if len(errors) > 1 else ""
        rows.append(
            (
                f"`{report['quantization']}`",
                f"`{report['target']}`",
                f"{report['bytes']:,}",
                figure(measured["keras"]) if measured else "not measured",
                figure(measured["artifact"]) if measured else "not measured",
                f"{worst[0]:.2g}{where}",
                f"{min(cosine for _, cosine, _ in errors):.5f}",
                _latencies(report),
            )
        )
    return rows


def _latencies(report):
    one_thread = {name: signature["latency_ms"]["1"] for name, signature in report["signatures"].items()}
    if len(one_thread) == 1:
        return f"{next(iter(one_thread.values())):.3g}"
    return ", ".join(f"`{name}` {milliseconds:.3g}" for name, milliseconds in one_thread.items())


def _targets(run):
    """The reports of the targets, except that of the CPU: paragraphs."""
    described = {"micro": _micro, "ethos": _ethos_u, "edgetpu": _edge_tpu}
    for report in run.files.values():
        kind = report["target"].split("-")[0]
        if kind != "cpu":
            yield f"### `{report['quantization']}` on `{report['target']}`"
            yield from described[kind](report["target_report"])


def _micro(report):
    kernels = f"LiteRT's {report.get('kernels', 'reference')} kernels"
    differences = [
        f"`{output}` equals that of {kernels} bit for bit"
        if difference["equal"]
        else f"{difference['equal_share']:.0%} of the values of `{output}` equal those of {kernels}, "
        f"and the others differ by at most {difference['max_steps']} quantization step"
        + "s"
        * (difference["max_steps"] != 1)
        for output, difference in report["differences"].items()
    ]
    yield (
        f"Runs `{report['signature']}` in tflite-micro with an arena of {report['arena_bytes']:,} bytes "
        f"({report['arena_pointer_bits']}-bit pointers), with {len(report['resolver_methods'])} kinds of ops to "
        f"register. On {report['samples']} samples, {'; '.join(differences)}."
    )
    if report["not_run"]:
        yield f"tflite-micro runs the first signature only, so not {', '.join(f'`{n}`' for n in report['not_run'])}."


def _ethos_u(report):
    if report.get("refused"):
        yield f"{report['refused']}. The whole file runs on the CPU."
    else:
        yield (
            f"{report['npu_ops']} of {report['ops']} ops ({report['npu_op_share']:.0%}) and "
            f"{report['npu_mac_share']:.0%} of {report['macs']:,} MACs run on the NPU. "
            f"SRAM: {report['sram_bytes']:,} bytes; flash: {report['flash_bytes']:,} bytes. Vela "
            f"{report['versions']['ethos-u-vela']} estimates {report['estimated_ms']:.3g} ms at "
            f"{report['clock_mhz']:.0f} MHz ({report['system_config']}, {report['memory_mode']}) for the NPU's part."
        )
    yield _reasons(report["cpu_ops"])


def _edge_tpu(report):
    yield f"{report['delegated_ops']} of {report['ops']} ops delegated. {report['note']}"
    yield _reasons(report["not_delegated"])


# Names of layers and shapes in the reasons of targets, without which many ops have the same reason.
_DETAILS = (
    (r"it comes after .*: the compiler", "it comes after the first such op: the compiler"),
    (r"^'[^']*' is", "a tensor is"),
    (r"(DataType \w+|its output) \([^)]*\)", r"\1"),
)


def _reasons(ops):
    """A table of what stays on the CPU, with names of layers and shapes left out of the reasons."""
    groups = {}
    for entry in ops:
        reason = entry["reason"].removeprefix("None: ")
        for pattern, general in _DETAILS:
            reason = re.sub(pattern, general, reason)
        groups.setdefault(reason, collections.Counter())[entry["op"]] += 1
    if not groups:
        return ""
    rows = [("Stays on the CPU", "Why"), *((_counted(counter), reason) for reason, counter in groups.items())]
    return markdown_table(rows)


def _warnings(run):
    """The warnings of the exports, each with the files that have it: paragraphs."""
    files = {}
    for report in run.files.values():
        for warning in report["warnings"]:
            files.setdefault(warning, []).append(f"`{report['quantization']}` for `{report['target']}`")
    if files:
        yield "### Warnings"
        yield "\n".join(f"- {', '.join(named)}: {_shortened(warning)}" for warning, named in files.items())


def _shortened(warning):
    """A warning in which an op that is named several times is named once, with how often."""
    text, colon, items = warning.removesuffix(".").partition(": ")
    return text + colon + _counted(collections.Counter(items.split(", "))) + "." * warning.endswith(".")


def _counted(counter):
    return ", ".join(f"{count} × {name}" if count > 1 else name for name, count in counter.items())


def _links(run):
    names = ["report.json", *(f"{name}.json" for name in run.files)]
    return ", ".join(f"[{name}]({name})" for name in names)
