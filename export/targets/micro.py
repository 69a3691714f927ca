"""Microcontrollers: runs the file in tflite-micro's interpreter, and writes it as C source.

tflite-micro runs the first subgraph of a file: the first signature. The other signatures stay in the file. Their ops
must be registered too, because the interpreter sets up every subgraph.

The kernels of tflite-micro come from LiteRT's reference kernels. As long as both compute alike, int8 outputs are equal
bit for bit. FULLY_CONNECTED with one scale per channel differs: LiteRT scales its sums in floating point, and
tflite-micro in fixed point. A value halfway between two steps may be rounded to either, which is not an error.
"""

import importlib.metadata
import pathlib
import platform
import re
import struct
import subprocess
import tempfile

import numpy as np

from keras_dl.export import graph, io_types
from keras_dl.export.errors import ExportError
from keras_dl.export.runners import quantize
from keras_dl.export.targets import c_array
from keras_dl.export.targets.base import Context, Target
from keras_dl.extras import require
from keras_dl.processes import python

# The methods of tflite::MicroMutableOpResolver for builtin ops, without "Add", as in
# tensorflow/lite/micro/micro_mutable_op_resolver.h of tflite-micro at commit 90b983c (August 2026).
_METHODS = """
    Abs Add AddN ArgMax ArgMin AssignVariable AveragePool2D BatchMatMul BatchToSpaceNd BroadcastArgs BroadcastTo
    CallOnce Cast Ceil Concatenation Conv2D Cos CumSum DepthToSpace DepthwiseConv2D Dequantize Div
    DynamicUpdateSlice Elu EmbeddingLookup Equal Exp ExpandDims Fill Floor FloorDiv FloorMod FullyConnected Gather
    GatherNd Greater GreaterEqual HardSwish If L2Normalization L2Pool2D LeakyRelu Less LessEqual Log LogicalAnd
    LogicalNot LogicalOr Logistic LogSoftmax Maximum MaxPool2D Mean Minimum MirrorPad Mul Neg NotEqual Pack Pad
    PadV2 Prelu Quantize ReadVariable ReduceAll ReduceMax ReduceMin Relu Relu6 Reshape ResizeBilinear
    ResizeNearestNeighbor ReverseV2 Round Rsqrt SelectV2 Shape Sin Slice Softmax SpaceToBatchNd SpaceToDepth Split
    SplitV Sqrt Square SquaredDifference Squeeze StridedSlice Sub Sum Svdf Tanh Transpose TransposeConv
    UnidirectionalSequenceLSTM Unpack VarHandle While ZerosLike
"""
_BY_OP = {method.upper(): f"Add{method}" for method in _METHODS.split()}  # the key of CONV_2D is CONV2D
# Node CAST (number 0) failed to invoke with status 1
_NODE = re.compile(r"Node \w+ \(number (?P<number>\d+)f?\)")

MAX_SAMPLES = 16
MAX_SECONDS = 600  # for all samples; files that fit a microcontroller take less than a second each
FLOAT_TOLERANCE = 1e-4  # relative to the largest output, as in the proof of float32 files
MAX_STEPS = 8  # different rounding in several layers stays below it; a wrong kernel does not


class Micro(Target):
    """Runs the file in tflite-micro, compares it with LiteRT's reference kernels, and writes its C source."""

    requires_quantization = ("none", "int8", "int16x8")
    requires = ("ai_edge_litert.interpreter", "tflite_micro")

    def check(self, format: str, quantization: str) -> None:
        try:
            super().check(format, quantization)
        except ImportError as error:
            system = (platform.system(), platform.machine())
            if error.name != "tflite_micro" or system == ("Linux", "x86_64"):
                raise
            raise ImportError(
                f"target={self.name!r} needs tflite-micro, which has wheels for Linux on x86-64 only, not for "
                f"{' on '.join(system)}. Export with target='cpu' here."
            ) from error

    def run(self, litert_path, context: Context) -> dict:
        path = pathlib.Path(litert_path)
        model = graph.read(path)
        methods = resolver_methods(model)
        served, others = _served(model)
        samples = _integers(model, served, context.samples.get(served, [])[:MAX_SAMPLES])
        if not samples:
            raise ValueError(f"target={self.name!r} needs at least one sample of the signature {served!r}.")
        arena, outputs = _run_micro(path, model, served, samples)
        kernels, expected = _run_litert(path, served, samples)
        differences = _compare(model, served, expected, outputs)
        pointer_bits = 8 * struct.calcsize("P")
        files = c_array.write(context.folder, path.stem, path.read_bytes(), methods, arena, pointer_bits)
        return {
            "signature": served,
            "arena_bytes": arena,
            "arena_pointer_bits": pointer_bits,
            "samples": len(samples),
            "kernels": kernels,
            "differences": differences,
            "equal": all(difference["equal"] for difference in differences.values()),
            "resolver_methods": methods,
            "not_run": others,
            "versions": {"tflite_micro": importlib.metadata.version("tflite_micro")},
            "summary": [
                f"Runs in tflite-micro with an arena of {arena:,} bytes (measured with {pointer_bits}-bit pointers).",
                *(_agreement(name, difference, len(samples), kernels) for name, difference in differences.items()),
                *(f"tflite-micro runs the first signature, {served!r}, and not {name!r}." for name in others),
                f"{len(methods)} ops to register, in {files[-1]}; the file as C source, in {files[1]}.",
            ],
            "files": files,
        }


def _agreement(name, difference, count, kernels):
    if difference["equal"]:
        how = "equal bit for bit"
    elif "max_steps" in difference:
        share = f"{difference['equal_share']:.1%} of the values are equal"
        how = f"{share}, the others at most {difference['max_steps']} quantization steps apart"
    else:
        how = f"at most {difference['max_abs_error']:.2e} apart"
    return f"{name} of tflite-micro against LiteRT's {kernels} kernels on {count} samples: {how}."


def resolver_methods(model):
    """The methods of `tflite::MicroMutableOpResolver` that register the ops of a `graph.Graph`, sorted.

    Raises:
        ExportError: if tflite-micro has no kernel for an op; the message names each such op and its layer.
    """
    missing = [op for op in model.ops if op.custom or _key(op) not in _BY_OP]
    if missing:
        raise ExportError(f"tflite-micro has no kernel for {'; '.join(dict.fromkeys(map(str, missing)))}.")
    return sorted({_BY_OP[_key(op)] for op in model.ops})


def _key(op):
    return op.name.replace("_", "")


def _served(model):
    """The name of the signature of subgraph 0, and the names of the others."""
    names = {signature.subgraph: name for name, signature in model.signatures.items()}
    if 0 not in names:
        raise ExportError("No signature of the file is its first subgraph, the one that tflite-micro runs.")
    served = names.pop(0)
    return served, list(names.values())


def _integers(model, served, samples):
    """The samples in the dtypes of the file."""
    inputs = model.signatures[served].inputs
    return [{name: _as_stored(array, inputs[name]) for name, array in sample.items()} for sample in samples]


def _as_stored(array, tensor):
    if tensor.scales:
        return quantize(array, tensor.scales[0], tensor.zero_points[0], tensor.dtype)
    return np.asarray(array, tensor.dtype)


def _run_micro(path, model, served, samples):
    """The smallest arena in bytes, and one dict of outputs by name for each sample."""
    signature, subgraph = model.signatures[served], model.subgraphs[0]
    with tempfile.TemporaryDirectory() as folder:
        inputs, outputs = pathlib.Path(folder, "inputs.npz"), pathlib.Path(folder, "outputs.npz")
        arrays = {
            f"{i}/{_index(subgraph.inputs, signature.inputs[name])}": array
            for i, sample in enumerate(samples)
            for name, array in sample.items()
        }
        np.savez(inputs, **arrays)
        script = pathlib.Path(__file__).with_name("micro_run.py")
        try:
            done = subprocess.run(
                python(script, path, inputs, outputs),
                capture_output=True,
                text=True,
                errors="replace",
                timeout=MAX_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            loops = (
                " A loop (WHILE) may never end there: unroll it." if any(op.name == "WHILE" for op in model.ops) else ""
            )
            raise ExportError(
                f"tflite-micro did not finish {len(samples)} samples of {path.name} in {MAX_SECONDS} s.{loops}"
            ) from error
        if done.returncode:
            raise ExportError(f"tflite-micro cannot run {path.name}: {_cause(done, subgraph.ops)}")
        results = np.load(outputs)
        return int(done.stdout.split()[-1]), [
            {name: results[f"{i}/{_index(subgraph.outputs, tensor)}"] for name, tensor in signature.outputs.items()}
            for i in range(len(samples))
        ]


def _index(tensors, tensor):
    return next(i for i, other in enumerate(tensors) if other is tensor)


def _cause(done, ops):
    """The interpreter's output before Python's traceback, with layers for nodes; or the signal that ended it."""
    if done.returncode < 0:
        small = "; ".join(str(op) for op in ops if _too_small(op))
        why = (
            f" The scale of the input of {small} is too small for its kernel: the logits hardly vary." if small else ""
        )
        return f"its interpreter was ended by signal {-done.returncode}.{why}"
    said = re.split(r"^Traceback", done.stderr, flags=re.MULTILINE)[0].strip().splitlines()
    cause = " ".join(dict.fromkeys(line.strip() for line in said)) or done.stderr.strip().splitlines()[-1]
    return _NODE.sub(lambda node: str(ops[int(node["number"])]) if int(node["number"]) < len(ops) else node[0], cause)


def _too_small(op):
    """Whether the kernel of a softmax ends the process: it asserts that `beta * scale * 2^26` is above 1."""
    return op.name == "SOFTMAX" and any(op.options.beta * scale <= 2.0**-26 for scale in op.inputs[0].scales)


def _run_litert(path, served, samples):
    """The kernels of LiteRT that ran, `"reference"` or `"optimized"`, and the outputs: one dict for each sample.

    The kernels of tflite-micro come from the reference kernels. LiteRT has no reference kernel for a few ops that
    tflite-micro has, such as ELU.
    """
    litert = require("ai_edge_litert.interpreter", extra="edge")
    types = litert.OpResolverType
    try:
        kernels, interpreter = "reference", _interpreter(litert, path, types.BUILTIN_REF)
    except ValueError as error:
        if "Didn't find op" not in str(error):
            raise
        kernels, interpreter = "optimized", _interpreter(litert, path, types.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    runner = interpreter.get_signature_runner(served)
    results = []
    for i, sample in enumerate(samples):
        if i:  # the first call allocates the variables, with zeros
            interpreter.reset_all_variables()
        results.append({name: np.array(array) for name, array in runner(**sample).items()})
    return kernels, results


def _interpreter(litert, path, resolver):
    return litert.Interpreter(str(path), experimental_op_resolver_type=resolver, num_threads=1)


def _known_fault(model):
    """What is known to be wrong in tflite-micro and is in the file: empty, or a sentence."""
    sums = [op for op in model.ops if op.name == "SUM" and op.outputs[0].dtype == "int8"]
    named = "; ".join(dict.fromkeys(map(str, sums)))
    return f" tflite-micro adds integers of 8 bits wrongly, in {named}." if sums else ""


def _compare(model, served, expected, actual):
    """Compares each output over all samples.

    Returns:
        dict by output: `equal` (bool, bit for bit), `equal_share` (of the values, in [0, 1]), and `max_steps` (int, of
        quantized and integer outputs) or `max_abs_error` (float).

    Raises:
        ExportError: if an output differs by more than `MAX_STEPS`, or relatively by more than `FLOAT_TOLERANCE`. Floats
            that come from integers may differ by as many steps of these.
    """
    differences, steps = {}, io_types.steps(model)[served]
    for name, tensor in model.signatures[served].outputs.items():
        a = np.stack([sample[name] for sample in expected])
        b = np.stack([sample[name] for sample in actual])
        error = np.abs(a.astype("float64") - b.astype("float64")).max(initial=0.0)
        if tensor.dtype.startswith("float"):
            allowed = MAX_STEPS * (steps[name] or 0.0), FLOAT_TOLERANCE * float(np.abs(a).max(initial=0.0))
            kind, value, limit = "max_abs_error", float(error), max(allowed)
        else:
            kind, value, limit = "max_steps", int(error), MAX_STEPS
        if not error <= limit:
            raise ExportError(
                f"tflite-micro and LiteRT disagree on the output {name!r} by {value:g}; {limit:g} is allowed ({kind})."
                f"{_known_fault(model)}"
            )
        differences[name] = {"equal": bool((a == b).all()), "equal_share": float((a == b).mean()), kind: value}
    return differences
