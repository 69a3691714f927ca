"""A snippet in Python, for ai-edge-litert."""

from keras_dl.export.snippets.facts import plain
from keras_dl.export.targets.c_array import identifier

_HEAD = '''"""Runs {file} with LiteRT.

    pip install ai-edge-litert numpy{pillow}
    python {name}.py{picture}
"""

import pathlib
{sys}
import numpy as np
from ai_edge_litert.interpreter import Interpreter

MODEL = pathlib.Path(__file__).with_name({path})
{labels}
interpreter = Interpreter(str(MODEL))
'''

_QUANTIZE = '''

def quantize(values, scale, zero_point, dtype):
    """Real values as the integers of the file."""
    limits = np.iinfo(dtype)
    return np.clip(np.rint(np.asarray(values) / scale) + zero_point, limits.min, limits.max).astype(dtype)
'''

_DEQUANTIZE = '''

def dequantize(integers, scale, zero_point):
    """Integers of the file as real values."""
    return (scale * (integers.astype("float64") - zero_point)).astype("float32")
'''

_IMAGE = '''

def image(path):
    """A picture as the file takes it: float32 ({shape})."""
    from PIL import Image

    pixels = np.asarray(Image.open(path).convert({mode!r}).resize(({width}, {height})), "float32")
    return (pixels.reshape({shape}) - {mean!r}) / {std!r}
'''

_ENTRY = '''

def {identifier}({parameters}):
    """Runs the signature {name}.

{arguments}    Returns:
        dict of arrays: {results}.
    """
    arrays = {inputs}
    found = interpreter.get_signature_runner({key})(**arrays){reset}
    return {{
{outputs}
    }}
'''

_MAIN = """

if __name__ == "__main__":
    results = {identifier}({given})
    for name, values in results.items():
        print(name, values.dtype, values.shape)
"""

_BEST = """    best = results[{key}][0].argmax()
    print(LABELS[best], results[{key}][0, best])
"""


def write(facts):
    """The snippet of a file: str."""
    first = facts.entries[0]
    text = _HEAD.format(
        file=plain(facts.file),
        name=identifier(facts.stem),
        path=ascii(facts.file),
        labels=f"LABELS = {facts.labels!a}" if facts.labels else "",
        pillow=" pillow" if facts.pixels else "",
        picture=" PICTURE" if facts.pixels else "",
        sys="import sys\n" if facts.pixels else "",
    )
    text += _QUANTIZE if any(x.scale is not None for entry in facts.entries for x in entry.inputs) else ""
    text += _DEQUANTIZE if any(x.scale is not None for entry in facts.entries for x in entry.outputs) else ""
    if facts.pixels:
        _, height, width, channels = first.inputs[0].shape
        shape, mode = f"1, {height}, {width}, {channels}", "RGB" if channels == 3 else "L"
        mean, std = facts.pixels
        text += _IMAGE.format(shape=shape, mode=mode, width=width, height=height, mean=mean, std=std)
    text += "".join(_entry(entry, facts) for entry in facts.entries)
    given = "image(sys.argv[1])" if facts.pixels else ", ".join(f"np.zeros({x.shape})" for x in first.inputs)
    text += _MAIN.format(identifier=first.identifier, given=given)
    return text + (_BEST.format(key=ascii(first.classes.name)) if first.classes else "")


def _entry(entry, facts):
    inputs = "".join(f"        {x.name!a}: {_given(x)},\n" for x in entry.inputs)
    arguments = "".join(f"        {x.identifier}: {x.described}.\n" for x in entry.inputs)
    outputs = [f"        {x.name!a}: {_real(x)}," for x in entry.outputs]
    return _ENTRY.format(
        identifier=entry.identifier,
        parameters=", ".join(x.identifier for x in entry.inputs),
        name=plain(entry.name),
        arguments=f"    Args:\n{arguments}\n" if arguments else "",
        results="; ".join(f"{plain(x.name)}, {x.described}" for x in entry.outputs),
        inputs=f"{{\n{inputs}    }}" if inputs else "{}",
        outputs="\n".join(outputs),
        key=ascii(entry.name),
        reset="\n    interpreter.reset_all_variables()  # without it, the next call continues" * facts.stateful,
    )


def _given(x):
    if x.scale is not None:
        return f"quantize({x.identifier}, {x.scale!r}, {x.zero_point}, {x.dtype!r})"
    return f"np.asarray({x.identifier}, {x.dtype!r})"


def _real(x):
    found = f"found[{x.name!a}]"
    return found if x.scale is None else f"dequantize({found}, {x.scale!r}, {x.zero_point})"
