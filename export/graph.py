"""Reading a LiteRT file: its ops, tensors and signatures, as plain Python values.

The layout of the file is the flatbuffer schema of LiteRT (`tflite/schema/schema.fbs`), read with the
classes that ai-edge-litert ships.
"""

import dataclasses
import functools
import math
import pathlib

import numpy as np

from keras_dl.export import flatbuffer
from keras_dl.extras import require
from keras_dl.files import FileError, reading


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a subgraph.

    Attributes:
        name: str. Begins with the scopes of the Keras model and layers that made it; the tensors of fused
            ops have several names, separated by `;`.
        shape: tuple of int, -1 where it is only known at run time; None if even the rank is unknown.
        dtype: str: `"float32"`, `"int8"`, ...
        constant: bool. Whether its values are in the file.
        scales, zero_points: tuples: one value, one per channel, or none if the tensor is not quantized.
        public: str. Its name in the signature, if it is an input or output of one; else empty.
        variable: bool. Whether it keeps its values between calls, as the state of a fused LSTM does.
        data: bytes of its values if it is constant, else None.
    """

    name: str
    shape: tuple[int, ...] | None
    dtype: str
    constant: bool
    scales: tuple[float, ...] = ()
    zero_points: tuple[int, ...] = ()
    public: str = ""
    variable: bool = False
    data: bytes | None = dataclasses.field(default=None, repr=False)

    @property
    def values(self):
        """Array of the values in the file, in the tensor's dtype and shape; None if it is not constant."""
        return None if self.data is None else np.frombuffer(self.data, self.dtype).reshape(self.shape)

    @property
    def rank(self):
        return None if self.shape is None else len(self.shape)

    @property
    def dynamic(self):
        """bool. Whether a dimension, or the rank, is only known at run time."""
        return self.shape is None or -1 in self.shape


@dataclasses.dataclass(frozen=True)
class Op:
    """One operator of a subgraph.

    Attributes:
        name: str. Its name in the schema (`"CONV_2D"`); a custom op has its own name.
        custom: bool. Whether it is not one of LiteRT's builtin ops.
        inputs: list of `Tensor`, or None where an optional input is absent.
        outputs: list of `Tensor`.
        options: the schema's object for the op's options (`strideH`, ...), or None.
    """

    name: str
    custom: bool
    inputs: list[Tensor | None]
    outputs: list[Tensor]
    options: object = None

    @property
    def layer(self):
        """str. The scopes of the Keras layer that the op comes from. If they are not known, its output's name."""
        inputs = [x for x in self.inputs if x is not None]
        # The state of a fused LSTM is a variable. It may be the only one of its tensors that has a name.
        named = [*self.outputs, *(x for x in inputs if x.constant), *(x for x in inputs if x.variable)]
        for tensor in named:
            scopes, separator, _ = tensor.name.split(";")[0].rpartition("/")
            if separator:
                return scopes
        return next((x.public or x.name for x in self.outputs), self.name)

    @property
    def macs(self):
        """int. Multiply-accumulates of one run: of convolutions, matrix products and LSTMs; 0 for other ops."""
        x, w = (*self.inputs, None, None)[:2]
        out = self.outputs[0] if self.outputs else None
        match self.name:
            case "CONV_2D":  # filter (out, height, width, in)
                return _size(out) * math.prod(w.shape[1:])
            case "DEPTHWISE_CONV_2D":  # filter (1, height, width, out)
                return _size(out) * math.prod(w.shape[1:3])
            case "CONV_3D":  # filter (depth, height, width, in, out)
                return _size(out) * math.prod(w.shape[:4])
            case "TRANSPOSE_CONV":  # inputs: output shape, filter (out, height, width, in), x
                return _size(self.inputs[2]) * math.prod(w.shape[:3])
            case "FULLY_CONNECTED":  # weights (units, in)
                return _size(out) * w.shape[-1]
            case "BATCH_MATMUL":
                return _size(out) * x.shape[-2 if self.options.adjX else -1]
            case "UNIDIRECTIONAL_SEQUENCE_LSTM":  # x (batch, steps, in); inputs 1 to 8: one matrix per gate
                return _size(x, x.shape[:-1]) * sum(_size(matrix) for matrix in self.inputs[1:9] if matrix is not None)
        return 0

    def __str__(self):
        return f"{self.name} in {self.layer!r}"


@dataclasses.dataclass(frozen=True)
class Subgraph:
    """A function of the file: the body of a signature, of a WHILE or of an IF."""

    name: str
    inputs: list[Tensor]
    outputs: list[Tensor]
    ops: list[Op]


@dataclasses.dataclass(frozen=True)
class Signature:
    """A named entry point: the index of its subgraph, and its tensors by their public names."""

    subgraph: int
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Graph:
    """A LiteRT file: its subgraphs, and its signatures by name (empty for a file that names none)."""

    subgraphs: list[Subgraph]
    signatures: dict[str, Signature]

    @property
    def ops(self):
        """list of `Op`: those of all subgraphs."""
        return [op for subgraph in self.subgraphs for op in subgraph.ops]

    @property
    def stateful(self):
        """list of `Op`: those that keep their state between calls, unless the runtime resets its variables."""
        return [op for op in self.ops if any(x is not None and x.variable for x in op.inputs)]


def read(path: str | pathlib.Path) -> Graph:
    """Reads a LiteRT file.

    Args:
        path: str or path of a `.tflite` file.

    Returns:
        `Graph`.

    Raises:
        FileError: if the file is not a LiteRT file, or is cut off. A ValueError.
        ImportError: if ai-edge-litert is missing.
    """
    return parse(pathlib.Path(path).read_bytes(), path)


def parse(content: bytes, path="The content") -> Graph:
    """Reads a LiteRT file that is in memory, as `read` does.

    Args:
        content: bytes.
        path: the name of the file in errors.
    """
    if content[4:8] != b"TFL3":
        raise FileError(path, "is not a LiteRT file: it lacks the identifier TFL3.")
    with reading(path, "a whole LiteRT file", f"It has {len(content)} bytes."):
        return _parsed(bytes(content))


@functools.lru_cache(maxsize=1)  # an export reads its file several times
def _parsed(content):
    return _graph(flatbuffer.unpacked(content))


def _graph(model):
    codes = [_op_code(code) for code in _list(model.operatorCodes)]
    public = {
        (signature.subgraphIndex, x.tensorIndex): _text(x.name)
        for signature in _list(model.signatureDefs)
        for x in (*_list(signature.inputs), *_list(signature.outputs))
    }
    subgraphs, tensors_of = [], []
    for index, subgraph in enumerate(model.subgraphs):
        tensors = [
            _tensor(tensor, model.buffers, public.get((index, i), ""))
            for i, tensor in enumerate(_list(subgraph.tensors))
        ]
        ops = [_op(op, codes, tensors) for op in _list(subgraph.operators)]
        tensors_of.append(tensors)
        subgraphs.append(
            Subgraph(
                _text(subgraph.name),
                [tensors[i] for i in _list(subgraph.inputs)],
                [tensors[i] for i in _list(subgraph.outputs)],
                ops,
            )
        )
    signatures = {}
    for signature in _list(model.signatureDefs):
        tensors = tensors_of[signature.subgraphIndex]
        signatures[_text(signature.signatureKey)] = Signature(
            signature.subgraphIndex,
            {_text(x.name): tensors[x.tensorIndex] for x in _list(signature.inputs)},
            {_text(x.name): tensors[x.tensorIndex] for x in _list(signature.outputs)},
        )
    return Graph(subgraphs, signatures)


@functools.cache
def _schema():
    return require("ai_edge_litert.schema_py_generated", extra="export")


@functools.cache
def _names(enum):
    return {value: name for name, value in vars(getattr(_schema(), enum)).items() if not name.startswith("_")}


def _op_code(code):
    number = max(code.builtinCode, code.deprecatedBuiltinCode)  # files older than the wider field use the narrow one
    name = _names("BuiltinOperator").get(number, f"BUILTIN_{number}")
    return (_text(code.customCode), True) if name == "CUSTOM" else (name, False)


def _tensor(tensor, buffers, public):
    shape = tensor.shapeSignature if tensor.shapeSignature is not None else tensor.shape
    quantization = tensor.quantization
    buffer = buffers[tensor.buffer]
    return Tensor(
        name=_text(tensor.name),
        shape=None if shape is None and not tensor.hasRank else tuple(int(size) for size in _list(shape)),
        dtype=_names("TensorType").get(tensor.type, f"TYPE_{tensor.type}").lower(),
        constant=buffer.data is not None or buffer.offset > 1,  # a file over 2 GB keeps data behind the flatbuffer
        scales=tuple(float(x) for x in _list(quantization.scale)) if quantization else (),
        zero_points=tuple(int(x) for x in _list(quantization.zeroPoint)) if quantization else (),
        public=public,
        variable=bool(tensor.isVariable),
        data=None if buffer.data is None else bytes(buffer.data),
    )


def _op(op, codes, tensors):
    name, custom = codes[op.opcodeIndex]
    inputs = [tensors[i] if i >= 0 else None for i in _list(op.inputs)]
    return Op(name, custom, inputs, [tensors[i] for i in _list(op.outputs)], op.builtinOptions)


def _size(tensor, shape=None):
    """Number of elements of a tensor. A dimension that is only known at run time counts as 1."""
    return math.prod(abs(size) for size in (tensor.shape if shape is None else shape))


def _list(vector):
    return [] if vector is None else list(vector)


def _text(name):
    return "" if name is None else name.decode() if isinstance(name, bytes) else name
