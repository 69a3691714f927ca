"""A LiteRT file as C source, for microcontrollers without a file system to link into their flash."""

import re

BYTES_PER_LINE = 12
ALIGNMENT = 16  # bytes; tflite-micro reads the flatbuffer in place

HEADER = """\
/* The LiteRT file {stem}.tflite, {size} bytes, for tflite-micro. */
#ifndef {guard}
#define {guard}

#include <stddef.h>

#ifdef __cplusplus
extern "C" {{
#endif

/* The smallest tensor arena with which the model ran on a machine with {pointer_bits}-bit pointers and the
   reference kernels. Narrower pointers need less; optimized kernels (CMSIS-NN, Ethos-U) may need more. Align the arena
   to {alignment} bytes. */
#define {macro}_ARENA_BYTES {arena}

extern const unsigned char {name}[];
extern const size_t {name}_size;

#ifdef __cplusplus
}}
#endif

#endif  /* {guard} */
"""

SOURCE = """\
#include "{stem}.h"

#ifdef __cplusplus
alignas({alignment})
#else
_Alignas({alignment})
#endif
const unsigned char {name}[{size}] = {{
{rows}
}};
const size_t {name}_size = sizeof({name});
"""

OPS = """\
// The ops of {stem}.tflite, to be registered with tflite-micro:
//
//     {type} resolver;
//     if ({function}(resolver) != kTfLiteOk) {{ ... }}
//     tflite::MicroInterpreter interpreter(model, resolver, arena, {macro}_ARENA_BYTES);
#ifndef {guard}
#define {guard}

#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

using {type} = tflite::MicroMutableOpResolver<{count}>;

inline TfLiteStatus {function}({type}& resolver) {{
{calls}
  return kTfLiteOk;
}}

#endif  // {guard}
"""


def identifier(stem):
    """A C identifier for a file's name: `"le-net.int8"` becomes `le_net_int8`, `"3d"` becomes `model_3d`."""
    name = re.sub(r"\W", "_", stem, flags=re.ASCII)
    return name if re.match(r"[A-Za-z]", name) else f"model_{name}"


def write(folder, stem, content, methods, arena, pointer_bits=64):
    """Writes `<stem>.h`, `<stem>.c` (C11, or C++11 when compiled as such) and `<stem>_ops.h` (C++).

    Args:
        folder: path of an existing folder.
        stem: str. The name of the LiteRT file without its suffix.
        content: bytes of the LiteRT file.
        methods: list of str. The methods of `tflite::MicroMutableOpResolver` to call: `"AddConv2D"`, ...
        arena: int, bytes of the tensor arena.
        pointer_bits: int. Width of the pointers of the machine on which `arena` was measured.

    Returns:
        list of the names of the three files.
    """
    name = identifier(stem)
    macro = name.upper()
    camel = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    rows = (content[i : i + BYTES_PER_LINE] for i in range(0, len(content), BYTES_PER_LINE))
    texts = {
        f"{stem}.h": HEADER.format(
            stem=stem,
            size=len(content),
            guard=f"{macro}_H",
            name=name,
            macro=macro,
            arena=arena,
            pointer_bits=pointer_bits,
            alignment=ALIGNMENT,
        ),
        f"{stem}.c": SOURCE.format(
            stem=stem,
            name=name,
            size=len(content),
            alignment=ALIGNMENT,
            rows="\n".join("  " + ", ".join(f"0x{byte:02x}" for byte in row) + "," for row in rows),
        ),
        f"{stem}_ops.h": OPS.format(
            stem=stem,
            guard=f"{macro}_OPS_H",
            macro=macro,
            type=f"{camel}OpResolver",
            function=f"Register{camel}Ops",
            count=len(methods),
            calls="\n".join(f"  TF_LITE_ENSURE_STATUS(resolver.{method}());" for method in methods),
        ),
    }
    for file, text in texts.items():
        (folder / file).write_text(text, encoding="ascii")
    return list(texts)
