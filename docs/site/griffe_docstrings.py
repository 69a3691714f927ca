"""An extension of Griffe, which reads the docstrings for mkdocstrings."""

import pathlib
import sys

import griffe

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from docstrings import markdown


class Docstrings(griffe.Extension):
    """Applies `docstrings.markdown` to each docstring as it is read."""

    def on_instance(self, *, obj, **_):
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)
