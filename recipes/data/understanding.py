"""What own data holds, in words and numbers: `keras-dl data check`."""

import numpy as np

from keras_dl.recipes.data.forms import FORMS, fitting_forms, open_data


def understand(path, form=None, target=None, seed=0) -> dict:
    """Reads own data, all of its files, and says what it holds.

    Args:
        path: str or path.
        form: str, one of `FORMS`; None to find it.
        target: str. The column to predict, for tables.
        seed: int. Of the split, where the data has none.

    Returns:
        dict of `path`, `form`, `title`, `fingerprint`, `examples` by split, `split` in words, `classes`: the examples
        of each class by split, empty for none, `facts`, `notes`, `recipes` that take it, and `also`: dict of recipes
        by other forms that the path looks like.

    Raises:
        OptionError: if the path has no known form.
        FileError: if a file is wrong. The message begins with its name, and says what would do.
    """
    from keras_dl.recipes.training import recipe

    data = open_data(path, form, seed, target)
    if data.problem is not None and (problem := data.problem()):
        raise problem
    return {
        "path": str(data.path),
        "form": data.form,
        "title": FORMS[data.form].title,
        "fingerprint": data.fingerprint,
        "examples": data.counts,
        "split": data.how,
        "classes": classes(data),
        "facts": data.facts,
        "notes": data.notes,
        "recipes": list(recipe.takers(data.form)),
        "also": {x.name: list(recipe.takers(x.name)) for x in fitting_forms(data.path) if x.name != data.form},
    }


def classes(data) -> dict:
    """The examples of each class by split: dict of dicts of int. Of boxes, the objects."""
    found = {name: {} for name in data.labels}
    for split, columns in data.splits.items():
        column = next((columns[name] for name in ("label", "target") if name in columns), None)
        if not data.labels or column is None:
            return data.metadata.get("class_counts", {})
        counts = np.bincount(np.asarray(column, int), minlength=len(data.labels))
        for name, count in zip(data.labels, counts, strict=True):
            found[name][split] = int(count)
    return found


def as_text(document) -> str:
    """`understand`'s document for a person."""
    examples = ", ".join(f"{count:,} {split}" for split, count in document["examples"].items())
    lines = [f"{document['path']}: {document['title']}", f"examples   {examples} ({document['split']})"]
    lines += [f"{name:<10} {value}" for name, value in document["facts"].items()]
    if document["classes"]:
        lines.append(f"classes    {len(document['classes'])}")
        lines += [
            f"  {name:<20} {', '.join(f'{count:,} {split}' for split, count in counts.items())}"
            for name, counts in document["classes"].items()
        ]
    lines += [f"note       {note}" for note in document["notes"]]
    lines.append("all files could be read")
    lines.append(f"recipes    {', '.join(document['recipes']) or 'none'}")
    for form, names in document["also"].items():
        lines.append(f"also       {FORMS[form].title} (--form {form}): {', '.join(names) or 'none'}")
    return "\n".join(lines)


def in_one_line(data) -> str:
    """What a training says of its data."""
    counts = ", ".join(f"{count:,} {split}" for split, count in data.counts.items())
    labels = f", {len(data.labels)} classes: {_shortened(data.labels)}" if data.labels else ""
    return f"data: {FORMS[data.form].title} in {data.path}{labels}; examples: {counts} ({data.how})"


def _shortened(names, most=8):
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
