"""A snippet in C++, for tflite-micro, beside the C source that the target `micro` writes."""

from keras_dl.export.snippets.facts import camel, plain
from keras_dl.export.targets.c_array import identifier
from keras_dl.files import FileError

# The dtypes of real and other values in C++.
_TYPES = {
    "float32": "float",
    "int8": "int8_t",
    "uint8": "uint8_t",
    "int16": "int16_t",
    "int32": "int32_t",
    "int64": "int64_t",
    "bool": "bool",
}

_TEXT = """\
// Runs {file} with tflite-micro.
//
// Compile it with {stem}.c, tflite-micro's sources and C++17. It has a `main` with -DRUN_MAIN.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>

#include "{stem}.h"
#include "{stem}_ops.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace {{

alignas(16) uint8_t arena[{macro}_ARENA_BYTES];
{labels}
// Sets the model up at the first call. A null pointer if that failed: the arena may be too small.
tflite::MicroInterpreter* SetUp() {{
  static {camel}OpResolver resolver;
  static const bool registered = Register{camel}Ops(resolver) == kTfLiteOk;
  static tflite::MicroInterpreter interpreter(tflite::GetModel({name}), resolver, arena, sizeof(arena));
  static const bool ready = registered && interpreter.AllocateTensors() == kTfLiteOk;
  return ready ? &interpreter : nullptr;
}}
{quantize}{dequantize}
}}  // namespace

// Runs the signature {signature}. Returns whether it did.
{arguments}
bool {function}({parameters}) {{
  tflite::MicroInterpreter* model = SetUp();
  if (model == nullptr) return false;
{inputs}
  if (model->Invoke() != kTfLiteOk) return false;
{outputs}{reset}
  return true;
}}

#ifdef RUN_MAIN
int main() {{
{arrays}
  if (!{function}({given})) return 1;
{printed}
  return 0;
}}
#endif
"""

_QUANTIZE = """
// A real value as an integer of the file.
template <typename T>
T Quantize(float value, float scale, int zero_point) {
  const float rounded = std::nearbyint(value / scale) + static_cast<float>(zero_point);
  const float low = std::numeric_limits<T>::min(), high = std::numeric_limits<T>::max();
  return static_cast<T>(std::min(std::max(rounded, low), high));
}
"""

_DEQUANTIZE = """
// An integer of the file as a real value.
template <typename T>
float Dequantize(T integer, float scale, int zero_point) {
  return scale * static_cast<float>(integer - zero_point);
}
"""


def write(facts):
    """The snippet of a file: str. It runs the first subgraph, as tflite-micro does.

    Raises:
        ValueError: if C++ has no such dtype.
        FileError: if the C source is not beside the file, or no signature is its first subgraph.
    """
    facts.check(_TYPES, "the snippet", "Export the file with other inputs and outputs.")
    entry = next((entry for entry in facts.entries if entry.first), None)
    if entry is None:
        raise FileError(facts.path, "has no signature that is its first subgraph, the one that tflite-micro runs.")
    for name in (f"{facts.stem}.h", f"{facts.stem}_ops.h"):
        if not facts.path.with_name(name).exists():
            raise FileError(
                facts.path, f"has no {name} beside it, which C++ needs. Export it with target='micro' (--target micro)."
            )
    values = [*entry.inputs, *entry.outputs]
    labels = f"\nconst char* const kLabels[] = {{{', '.join(map(_quoted, facts.labels))}}};\n"
    labelled = bool(facts.labels) and entry.classes is not None
    return _TEXT.format(
        file=plain(facts.file),
        stem=facts.stem,
        name=identifier(facts.stem),
        macro=identifier(facts.stem).upper(),
        camel=camel(facts.stem),
        labels=labels if labelled else "",
        quantize=_QUANTIZE if any(x.scale is not None for x in entry.inputs) else "",
        dequantize=_DEQUANTIZE if any(x.scale is not None for x in entry.outputs) else "",
        signature=plain(entry.name),
        arguments="\n".join(f"//   {x.identifier}: {x.described}." for x in values),
        function=camel(entry.identifier),
        parameters=", ".join(
            [f"const {_outer(x)}* {x.identifier}" for x in entry.inputs]
            + [f"{_outer(x)}* {x.identifier}" for x in entry.outputs]
        ),
        inputs="\n".join(_copied(x, reads=False) for x in entry.inputs),
        outputs="\n".join(_copied(x, reads=True) for x in entry.outputs),
        reset="\n  model->Reset();  // without it, the next call continues" * facts.stateful,
        arrays="\n".join(f"  static {_outer(x)} {x.identifier}[{x.size}];" for x in values),
        given=", ".join(x.identifier for x in values),
        printed="\n".join(_printed(x) for x in entry.outputs) + (_best(entry.classes) if labelled else ""),
    )


def _outer(x):
    """The type of a value as the caller has it."""
    return "float" if x.scale is not None else _TYPES[x.dtype]


def _copied(x, reads):
    """The loop that fills an input, or that reads an output."""
    type_, side = _TYPES[x.dtype], "output" if reads else "input"
    value = "tensor[i]" if reads else f"{x.identifier}[i]"
    if x.scale is not None:
        how = "Dequantize" if reads else f"Quantize<{type_}>"
        value = f"{how}({value}, {x.scale!r}f, {x.zero_point})"
    to = f"{x.identifier}[i]" if reads else "tensor[i]"
    const = "const " * reads
    return (
        f"  {{\n    {const}{type_}* tensor = model->typed_{side}_tensor<{type_}>({x.index});\n"
        f"    for (int i = 0; i < {x.size}; ++i) {to} = {value};\n  }}"
    )


def _printed(x):
    return f'  for (auto value : {x.identifier}) std::printf("%.9g\\n", static_cast<double>(value));'


def _best(x):
    place = f"std::max_element({x.identifier}, {x.identifier} + {x.size}) - {x.identifier}"
    return f'\n  std::printf("%s\\n", kLabels[{place}]);'


def _quoted(text):
    """A string literal of C++, in UTF-8."""
    plain_ = {ord(c) for c in map(chr, range(32, 127))} - set(b'"\\?')
    return '"' + "".join(chr(byte) if byte in plain_ else f"\\{byte:03o}" for byte in text.encode()) + '"'
