"""Code that runs an exported LiteRT file on a device, right for its signatures, names, shapes, scales and labels.

A snippet is written beside the file, since it names it. It is one file that needs nothing of this package: a start for
an application, which its owner changes. So it is written when somebody asks for a language, and not with each export;
and one that exists is not replaced unasked.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable

from keras_dl.export.snippets import cpp, facts, javascript, kotlin, python
from keras_dl.export.targets.c_array import identifier
from keras_dl.files import replacing


@dataclasses.dataclass(frozen=True)
class _Language:
    """How a snippet of a language is written.

    Attributes:
        write: function of `facts.Facts`, which returns the text.
        name: function of the stem of the LiteRT file, which returns the name of the snippet.
    """

    write: Callable
    name: Callable


LANGUAGES = {
    "python": _Language(python.write, lambda stem: f"{identifier(stem)}.py"),  # it can be imported
    "cpp": _Language(cpp.write, lambda stem: f"{stem}_run.cc"),  # beside {stem}.c
    "kotlin": _Language(kotlin.write, lambda stem: f"{facts.camel(stem)}.kt"),
    "javascript": _Language(javascript.write, lambda stem: f"{stem}.mjs"),
}


def snippet(path: str | os.PathLike, language: str) -> tuple[str, str]:
    """The code that runs a LiteRT file in a language.

    Real values go in and come out: the code quantizes inputs, and dequantizes outputs. It names classes by the labels
    in the file's metadata.

    Args:
        path: str or path of a `.tflite` file with signatures.
        language: str: `"python"` (ai-edge-litert), `"cpp"` (tflite-micro), `"kotlin"` (LiteRT on Android) or
            `"javascript"` (LiteRT.js).

    Returns:
        two str: the name of the snippet's file, and its text.

    Raises:
        ValueError: if the language is unknown, or its runtime cannot take a dtype of the file.
        FileError: if it is not a LiteRT file with signatures of static shapes, or misses the C source that C++ needs.
    """
    _check(language)
    found, chosen = facts.read(path), LANGUAGES[language]
    return chosen.name(found.stem), chosen.write(found)


def place(path: str | os.PathLike, language: str) -> pathlib.Path:
    """Where the snippet of a LiteRT file in a language stands: beside it. The file need not be there yet."""
    _check(language)
    path = pathlib.Path(path)
    return path.with_name(LANGUAGES[language].name(path.stem))


def write(path: str | os.PathLike, languages: Iterable[str]) -> list[dict]:
    """Writes the snippets of a LiteRT file beside it, in the languages that can run it. It replaces those that exist.

    Args:
        path: str or path, as of `snippet`.
        languages: iterable of str, of `LANGUAGES`.

    Returns:
        list of dicts of str, one for each language: `file`, `language`, `path` of the snippet, which is None where the
        language cannot run the file, and `reason`, which is None where it can.

    Raises:
        FileError: if it is not a LiteRT file with signatures of static shapes.
    """
    facts.read(path)  # what is wrong with the file itself is an error, and not the reason of a language
    rows = []
    for language in languages:
        row = {"file": str(path), "language": language, "path": None, "reason": None}
        try:
            _, text = snippet(path, language)
        except ValueError as error:  # a FileError too
            row["reason"] = str(error)
        else:
            row["path"] = str(place(path, language))
            with replacing(row["path"]) as temporary:
                temporary.write_text(text, encoding="utf-8")
        rows.append(row)
    return rows


def _check(language):
    if language not in LANGUAGES:
        raise ValueError(f"language={language!r} is unknown. Choose one of: {', '.join(LANGUAGES)}.")
