"""A snippet in JavaScript, for LiteRT.js (npm `@litertjs/core`)."""

from keras_dl.export.snippets.facts import plain, quoted

# The dtypes of LiteRT.js 2.5, with its arrays.
_ARRAYS = {"float32": "Float32Array", "int32": "Int32Array", "uint8": "Uint8Array"}

_HEAD = """\
// Runs {file} with LiteRT.js.
//
//     npm install @litertjs/core
//
//     import {{load, {identifier}}} from './{module}';
//     const model = await load();
//     console.log(await {identifier}(model, {given}));
//
// Serve node_modules/@litertjs/core/wasm at the address `wasm`.{continues}
import {{getGlobalLiteRtPromise, loadAndCompile, loadLiteRt, Tensor}} from '@litertjs/core';
{labels}
const WASM = '/node_modules/@litertjs/core/wasm/';

export async function load(model = new URL({file_literal}, import.meta.url).href, wasm = WASM) {{
  await (getGlobalLiteRtPromise() ?? loadLiteRt(wasm)); // once for all files
  return loadAndCompile(model, {{accelerator: 'wasm'}});
}}
"""

_QUANTIZE = """
// Real values as the integers of the file. The array rounds to even numbers and clips.
function quantize(values, scale, zeroPoint) {
  return Uint8Array.from(Uint8ClampedArray.from(values, (value) => value / scale + zeroPoint));
}
"""

_DEQUANTIZE = """
// Integers of the file as real values.
function dequantize(integers, scale, zeroPoint) {
  return Float32Array.from(integers, (integer) => scale * (integer - zeroPoint));
}
"""

_ENTRY = """
// Runs the signature {name}.{arguments}
// Gives {results}.
export async function {identifier}({parameters}) {{
  const arrays = {{{inputs}
  }};
  const outputs = await model.run({key}, arrays);
  const results = {{
{outputs}
  }};
  for (const tensor of [...Object.values(arrays), ...Object.values(outputs)]) tensor.delete();
  return results;
}}
"""

_BEST = """
// The label of the most probable class of the results.
export function label(results) {{
  const values = results[{key}];
  return LABELS[values.indexOf(Math.max(...values))];
}}
"""


def write(facts):
    """The snippet of a file: str.

    Raises:
        ValueError: if LiteRT.js has no such dtype.
    """
    facts.check(_ARRAYS, "LiteRT.js", "Export an integer file with io='uint8' or 'float32' (--io).")
    first = facts.entries[0]
    text = _HEAD.format(
        file=plain(facts.file),
        module=f"{plain(facts.stem)}.mjs",
        identifier=first.identifier,
        given=", ".join(f"new {_ARRAYS[_outer(x)]}({x.size})" for x in first.inputs),
        file_literal=quoted(facts.file),
        labels=f"\nexport const LABELS = {quoted(facts.labels)};\n" if facts.labels else "",
        continues="\n// LiteRT.js keeps states: a call continues from the last one." * facts.stateful,
    )
    text += _QUANTIZE if any(x.scale is not None for entry in facts.entries for x in entry.inputs) else ""
    text += _DEQUANTIZE if any(x.scale is not None for entry in facts.entries for x in entry.outputs) else ""
    text += "".join(_entry(entry, facts) for entry in facts.entries)
    return text + (_BEST.format(key=quoted(first.classes.name)) if first.classes else "")


def _entry(entry, facts):
    return _ENTRY.format(
        identifier=entry.identifier,
        name=plain(entry.name),
        arguments="".join(f"\n//   {x.identifier}: {x.described}, in one array." for x in entry.inputs),
        results="; ".join(f"{plain(x.name)}, {x.described}" for x in entry.outputs),
        parameters=", ".join(["model", *(x.identifier for x in entry.inputs)]),
        inputs="".join(f"\n    {quoted(x.name)}: new Tensor({_given(x)}, {list(x.shape)})," for x in entry.inputs),
        outputs="\n".join(f"    {quoted(x.name)}: {_real(x)}," for x in entry.outputs),
        key=quoted(entry.name),
    )


def _outer(x):
    """The dtype of a value as the caller has it."""
    return "float32" if x.scale is not None else x.dtype


def _given(x):
    if x.scale is not None:
        return f"quantize({x.identifier}, {x.scale!r}, {x.zero_point})"
    return f"{_ARRAYS[x.dtype]}.from({x.identifier})"


def _real(x):
    found = f"await outputs[{quoted(x.name)}].data()"
    # A copy, since the memory of a tensor is freed.
    return f"({found}).slice()" if x.scale is None else f"dequantize({found}, {x.scale!r}, {x.zero_point})"
