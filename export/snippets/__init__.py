"""Code that runs an exported LiteRT file on a device, right for its signatures, names, shapes, scales and labels.

A snippet is written beside the file, since it names it. It is one file that needs nothing of this package: a start for
an application, which its owner changes. So it is written when somebody asks for a language, and not with each export.
"""

import dataclasses
import os
from collections.abc import Callable

from keras_dl.export.snippets import cpp, facts, javascript, kotlin, python
from keras_dl.export.targets.c_array import identifier


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
    if language not in LANGUAGES:
        raise ValueError(f"language={language!r} is unknown. Choose one of: {', '.join(LANGUAGES)}.")
    found, chosen = facts.read(path), LANGUAGES[language]
    return chosen.name(found.stem), chosen.write(found)
