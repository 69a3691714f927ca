"""A page for each architecture, from the docstrings of its classes, the header of its recipe, and its reports.

The site has them (`make docs`); they are no files of docs/.
"""

import ast
import doctest
import importlib
import inspect
import re

import pages
import reports
import table
from docstrings import lists
from reports import ROOT, markdown_table

import keras_dl
from keras_dl.architectures import ARCHITECTURES, ROOMS
from keras_dl.recipes.training.recipe import find

FOLDER = "docs/architectures"
BUILT = [architecture for architecture in ARCHITECTURES if architecture.classes]


def texts() -> dict[str, str]:
    """The text of each page by its path, as if it were a file of the repository: links are relative to that."""
    return {f"{FOLDER}/README.md": _index()} | {path(architecture): page(architecture) for architecture in BUILT}


def path(architecture) -> str:
    """Where the page of an architecture would stand in the repository."""
    return f"{FOLDER}/{architecture.name}.md"


def navigation() -> list:
    """The index, and the pages by room, as `nav` of MkDocs has them."""
    rooms = {}
    for architecture in BUILT:
        entry = {architecture.title: path(architecture).removeprefix("docs/")}
        rooms.setdefault(ROOMS[architecture.room], []).append(entry)
    return [f"{FOLDER.removeprefix('docs/')}/README.md", *({room: entries} for room, entries in rooms.items())]


def _index():
    rows = [("Architecture", "Task", "Paper", "Result", "Baseline")]
    for architecture in BUILT:
        rows.append(
            (
                f"[{architecture.title}]({architecture.name}.md)",
                ROOMS[architecture.room],
                table.paper(architecture),
                *table.result(architecture),
            )
        )
    return f"""# Architectures

A page for each: idea, equations, paper, use, training, results, files and deviations from the paper. Results are those
of the first run on a page.

{markdown_table(rows)}
"""


def page(architecture) -> str:
    """The text of one page."""
    runs = reports.runs(architecture.recipe)
    described = {names: _parts(module.__doc__) for module, names in modules(architecture)}
    parts = [
        f"# {architecture.title}",
        f"{table.paper(architecture)}: *{architecture.paper}*.",
        *_pictures(architecture, runs),
        "## Idea and equations",
        *_sections(described, "idea"),
        "## Paper",
        *_sections(described, "references"),
        "## Use",
        *_use(architecture),
        "## Train",
        *_train(architecture),
        "## Results",
        *_results(runs),
        "## Files and devices",
        *_files(runs),
        "## Deviations from the paper",
        *_sections(described, "deviations"),
    ]
    return "\n\n".join(parts) + "\n"


def modules(architecture) -> list[tuple]:
    """The modules of an architecture's classes, each with the names of its classes."""
    names = {}
    for name in architecture.classes:
        names.setdefault(inspect.getmodule(getattr(keras_dl, name)), []).append(name)
    return [(module, tuple(of)) for module, of in names.items()]


def _parts(docstring):
    """The parts of a model's docstring: what stands before the references, the references, and the deviations."""
    parts = {"idea": [], "references": [], "deviations": []}
    part = "idea"
    for paragraph in re.split(r"\n\n|\n(?=References?:|Deviations?\b)", docstring.strip()):
        if paragraph.startswith(("Reference:", "References:")):
            part, paragraph = "references", _without_head(paragraph)
        elif re.match(r"Deviations?\b", paragraph):
            part, paragraph = "deviations", _without_head(paragraph)
        parts[part].append(paragraph)
    return {name: lists("\n\n".join(paragraphs)) for name, paragraphs in parts.items()}


def _without_head(paragraph):
    """A paragraph without "References:" or "Deviations from the paper:", which the heading of the page says."""
    text = re.sub(r"^(References?|Deviations?)( from the papers?)?:\s*", "", paragraph)
    return text[:1].upper() + text[1:]


def _sections(described, part):
    """This part of each module, under the names of its classes where there are several modules."""
    found = {names: parts[part] for names, parts in described.items() if parts[part]}
    for names, text in found.items():
        if len(described) > 1:
            yield f"### {', '.join(f'`{name}`' for name in names)}"
        yield text
    if not found:
        yield "None is named."


def _pictures(architecture, runs):
    for run in runs[:1]:
        yield f"![{architecture.title} on {run.report['dataset']}]({_from_here(run)}/picture.png)"


def _from_here(run):
    return f"../results/{run.folder.name}"


def _use(architecture):
    for name in architecture.classes:
        cls = getattr(keras_dl, name)
        source = inspect.getsourcefile(cls).removeprefix(f"{ROOT}/")
        yield f"### `keras_dl.{name}`"
        yield f"{inspect.getdoc(cls).splitlines()[0]} [Arguments, shapes and methods](../../{source})."
        yield f"```python\n{_example(cls)}\n```"
        presets = getattr(cls, "presets", {})
        if presets:
            yield f"Presets: {', '.join(f'`{preset}`' for preset in presets)}."


def _example(cls):
    """The example of a class as a program: with the imports that its module has, and answers as comments."""
    examples = doctest.DocTestParser().get_examples(inspect.getdoc(cls))
    known = vars(inspect.getmodule(cls))
    nodes = [node for example in examples for node in ast.walk(ast.parse(example.source))]
    names = sorted({node.id for node in nodes if isinstance(node, ast.Name) and node.id in known})
    lines = [_import(name, known[name]) for name in names]
    for example in examples:
        lines.append(example.source.rstrip())
        lines += [f"# {line}" for line in example.want.splitlines()]
    return "\n".join(lines)


def _import(name, value):
    if inspect.ismodule(value):
        return f"import {name}" if value.__name__ == name else f"import {value.__name__} as {name}"
    return f"from {'keras_dl' if hasattr(keras_dl, name) else value.__module__} import {name}"


def _train(architecture):
    recipe = find(architecture.recipe)
    header = inspect.getdoc(importlib.import_module(f"keras_dl.recipes.{architecture.recipe}"))
    summary, facts, rest = re.fullmatch(r"(.*?)\n\n(Paper:.*?)(?:\n\n(.*))?", header, re.DOTALL).groups()
    yield summary
    yield f"    keras-dl train {recipe.name}"
    facts = re.findall(r"^(\w+): +(.*(?:\n .*)*)", facts, re.MULTILINE)
    yield markdown_table([("", ""), *((name, re.sub(r"\s+", " ", text)) for name, text in facts)])
    if rest:
        yield rest
    yield (
        f"The recipe is [recipes/{recipe.name}.py](../../recipes/{recipe.name}.py). Its data sets are "
        f"{', '.join(f'`{dataset}`' for dataset in recipe.tasks)}. It takes [own data](../own_data.md) of the forms "
        f"{', '.join(f'`{form}`' for form in recipe.own)}."
    )


def _results(runs):
    if not runs:
        yield "Not measured at full size."
        return
    rows = [("Data", "Trained", "Result", "Baseline", "Aim")]
    for run in runs:
        trained, result, baseline, aim = pages.outcome(run)
        rows.append((f"[{run.report['dataset']}]({_from_here(run)}/README.md)", trained, result, baseline, aim))
    yield markdown_table(rows)


def _files(runs):
    if not any(run.files for run in runs):
        yield "Not measured: no file of a run at full size is proven yet."
        return
    for run in runs:
        if run.files:
            yield f"### {run.report['dataset']}"
            yield markdown_table(pages.files(run))
            yield f"[The run's page]({_from_here(run)}/README.md#exported-files) says more of each target."
    yield (
        f"The columns are explained [there]({_from_here(runs[0])}/README.md#exported-files), and the terms in the "
        "[glossary](../glossary.md). [Exporting](../export.md) and [Targets](../targets.md) have the commands."
    )
