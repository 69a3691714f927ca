"""Writes recipes/presets.json, which `keras-dl list --presets` shows: the presets of every class, with their sizes.

python docs/presets.py            writes it
python docs/presets.py --check    fails if it differs from the classes

No weights are made: the shapes of a model give its number of parameters.
"""

import inspect
import json
import sys

import keras
import reports

import keras_dl
from keras_dl.architectures import ARCHITECTURES

FILE = "recipes/presets.json"


def presets() -> list[dict]:
    """The presets of every class, in the order of the table of architectures.

    Returns:
        list of dict: `architecture`, `model`, `preset`: str; `parameters`: int, the trainable ones, or None where the
        data set decides; `needs`: list of str, the arguments by which it does.
    """
    rows, seen = [], set()
    for architecture in ARCHITECTURES:
        for name in architecture.classes:
            if name in seen:
                continue
            seen.add(name)
            cls = getattr(keras_dl, name)
            for preset in getattr(cls, "presets", {}):
                row = {"architecture": architecture.name, "model": name, "preset": preset}
                needs = _required(cls, cls.presets[preset])
                rows.append(row | {"parameters": None if needs else _parameters(cls, preset), "needs": needs})
    return rows


def _required(cls, given):
    """The arguments of a constructor that have no default, and that a preset does not give."""
    parameters = inspect.signature(cls.__init__).parameters.values()
    named = [x for x in parameters if x.kind in (x.POSITIONAL_OR_KEYWORD, x.KEYWORD_ONLY) and x.name != "self"]
    return [x.name for x in named if x.default is x.empty and x.name not in given]


def _parameters(cls, preset):
    with keras.StatelessScope(initialize_variables=False):  # shapes alone, no memory
        model = cls.from_preset(preset)
        return sum(weight.shape.num_elements() for weight in model.trainable_weights)


def text() -> str:
    """The content of the file."""
    return json.dumps({"presets": presets()}, indent=1) + "\n"


if __name__ == "__main__":
    reports.write({FILE: text()}, "--check" in sys.argv[1:], "docs/presets.py")
