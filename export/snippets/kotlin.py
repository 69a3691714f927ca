"""A snippet in Kotlin, for LiteRT on Android: by the API of LiteRT 2, whose classes its tests have stand-ins for."""

from keras_dl.export.snippets.facts import camel, plain, quoted

# By dtype: the array of Kotlin, and what the methods of `TensorBuffer` end with. Bytes hold uint8, too.
_ARRAYS = {
    "float32": ("FloatArray", "Float"),
    "int8": ("ByteArray", "Int8"),
    "uint8": ("ByteArray", "Int8"),
    "int32": ("IntArray", "Int"),
    "int64": ("LongArray", "Long"),
    "bool": ("BooleanArray", "Boolean"),
}

_HEAD = """\
// Runs {file} with LiteRT on Android. Copy the file to src/main/assets.
//
//     dependencies {{ implementation("com.google.ai.edge.litert:litert:2.1.0") }}  // or later
//
//     {camel}(context).use {{ model -> model.{method}({given}) }}
//
// This snippet was written by the API of LiteRT 2. It was not run on a device.{continues}
import android.content.Context
import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel
import com.google.ai.edge.litert.TensorBuffer
{round}
class {camel}(context: Context) : AutoCloseable {{
    private val model =
        CompiledModel.create(context.assets, {file_literal}, CompiledModel.Options(Accelerator.CPU))

    override fun close() = model.close()
"""

_ENTRY = """
    /** What the signature {name} gives: {results}. */
    class {camel}Results({fields})

    /**
     * Runs the signature {name}.{arguments}
     */
    fun {identifier}({parameters}): {camel}Results {{
        val arrays = mapOf<String, TensorBuffer>({inputs})
        val found = mapOf({buffers})
        try {{{written}
            model.run(arrays, found, {key})
            return {camel}Results({outputs})
        }} finally {{
            (arrays.values + found.values).forEach {{ it.close() }}
        }}
    }}
"""

_QUANTIZE = """
    // Real values as the integers of the file.
    private fun quantize(values: FloatArray, scale: Float, zeroPoint: Int, low: Int, high: Int) =
        ByteArray(values.size) {{ (round(values[it] / scale).toInt() + zeroPoint).coerceIn(low, high).toByte() }}
"""

_DEQUANTIZE = """
    // Integers of the file as real values.
    private fun dequantize(integers: ByteArray, scale: Float, zeroPoint: Int, signed: Boolean) =
        FloatArray(integers.size) {{
            val integer = integers[it].toInt()
            scale * ((if (signed) integer else integer and 0xFF) - zeroPoint)
        }}
"""

_LABELS = """
    companion object {{
        val LABELS = listOf({labels})
    }}
"""


def write(facts):
    """The snippet of a file: str.

    Raises:
        ValueError: if Kotlin's buffers have no such dtype.
    """
    facts.check(_ARRAYS, "LiteRT in Kotlin", "Export the file with inputs and outputs of one of these.")
    first, values = facts.entries[0], facts.values
    inputs = {x for entry in facts.entries for x in entry.inputs}
    quantizes = any(x.scale is not None for x in inputs)
    text = _HEAD.format(
        file=plain(facts.file),
        camel=camel(facts.stem),
        method=first.identifier,
        given=", ".join(x.identifier for x in first.inputs),
        continues="\n// LiteRT keeps states: a call continues from the last one." * facts.stateful,
        round="import kotlin.math.round\n" * quantizes,
        file_literal=_quoted(facts.file),
    )
    text += _QUANTIZE.format() * quantizes
    text += _DEQUANTIZE.format() * any(x.scale is not None for x in values if x not in inputs)
    text += "".join(_entry(entry, facts) for entry in facts.entries)
    labels = ", ".join(map(_quoted, facts.labels))
    return text + (_LABELS.format(labels=labels) if facts.labels else "") + "}\n"


def _entry(entry, facts):
    return _ENTRY.format(
        name=plain(entry.name),
        camel=camel(entry.identifier),
        identifier=entry.identifier,
        results="; ".join(f"{x.identifier}, {x.described}" for x in entry.outputs),
        fields=", ".join(f"val {x.identifier}: {_outer(x)}" for x in entry.outputs),
        arguments="".join(f"\n     * @param {x.identifier} {x.described}" for x in entry.inputs),
        parameters=", ".join(f"{x.identifier}: {_outer(x)}" for x in entry.inputs),
        inputs=_buffers(entry, entry.inputs, "Input"),
        buffers=_buffers(entry, entry.outputs, "Output"),
        written="".join(
            f"\n            arrays.getValue({_quoted(x.name)}).write{_ARRAYS[x.dtype][1]}({_given(x)})"
            for x in entry.inputs
        ),
        key=_quoted(entry.name),
        outputs=", ".join(map(_real, entry.outputs)),
    )


def _buffers(entry, values, side):
    made = (f"{_quoted(x.name)} to model.create{side}Buffer({_quoted(x.name)}, {_quoted(entry.name)})" for x in values)
    return ", ".join(made)


def _outer(x):
    """The type of a value as the caller has it."""
    return "FloatArray" if x.scale is not None else _ARRAYS[x.dtype][0]


def _given(x):
    if x.scale is None:
        return x.identifier
    low, high = (-128, 127) if x.dtype == "int8" else (0, 255)
    return f"quantize({x.identifier}, {x.scale!r}f, {x.zero_point}, {low}, {high})"


def _real(x):
    found = f"found.getValue({_quoted(x.name)}).read{_ARRAYS[x.dtype][1]}()"
    if x.scale is None:
        return found
    return f"dequantize({found}, {x.scale!r}f, {x.zero_point}, {str(x.dtype == 'int8').lower()})"


def _quoted(text):
    """A string literal of Kotlin."""
    return quoted(text).replace("$", "\\$").replace("\\f", "\\u000c")
