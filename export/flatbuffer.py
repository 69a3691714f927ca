"""LiteRT files as trees of objects that can be changed, and objects as files."""

import numpy as np

from keras_dl.extras import require


def unpacked(content):
    """The `ModelT` of a LiteRT file, given as bytes, with the data of all its buffers.

    In files with large weights, the converter's quantizer writes the data of buffers behind the flatbuffer, at offsets
    from the start of the file. The schema's classes do not read it there.

    Raises:
        IndexError: if the file ends before the data of a buffer.
    """
    model = require("ai_edge_litert.schema_py_generated", extra="export").ModelT.InitFromPackedBuf(content, 0)
    for number, buffer in enumerate(model.buffers or ()):
        if buffer.offset > 1:  # 1 is the place of an offset that was not written: the buffer is empty
            end = buffer.offset + buffer.size
            if end > len(content):
                raise IndexError(f"buffer {number} ends at byte {end}")
            buffer.data = np.frombuffer(content[buffer.offset : end], np.uint8)
            buffer.offset = buffer.size = 0
    return model


def tensors(content):
    """All tensors of a LiteRT file, read in place. This is faster than to unpack the file."""
    model = require("ai_edge_litert.schema_py_generated", extra="export").Model.GetRootAs(content, 0)
    graphs = (model.Subgraphs(i) for i in range(model.SubgraphsLength()))
    return (graph.Tensors(i) for graph in graphs for i in range(graph.TensorsLength()))


def op_code(model, name, version=1):
    """The index of an op among a file's kinds of ops. It is added if there is none.

    Args:
        model: `ModelT`.
        name: str, such as `"QUANTIZE"`.
        version: int. The first version of the op that does what is needed.
    """
    schema = require("ai_edge_litert.schema_py_generated", extra="export")
    number = getattr(schema.BuiltinOperator, name)
    for index, code in enumerate(model.operatorCodes):
        if code.builtinCode == number and code.version >= version:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = number
    code.version = version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def has_op(content, names):
    """Whether a LiteRT file, given as bytes, has one of these ops: tuple of str."""
    schema = require("ai_edge_litert.schema_py_generated", extra="export")
    head = schema.Model.GetRootAs(content, 0)
    codes = {head.OperatorCodes(i).BuiltinCode() for i in range(head.OperatorCodesLength())}
    return any(getattr(schema.BuiltinOperator, name) in codes for name in names)


def _drop_unused_codes(model):
    """Drops the kinds of ops that a file no longer has. A runtime may refuse a file for them."""
    operators = [op for subgraph in model.subgraphs or () for op in subgraph.operators or ()]
    used = sorted({op.opcodeIndex for op in operators})
    for op in operators:
        op.opcodeIndex = used.index(op.opcodeIndex)
    model.operatorCodes = [model.operatorCodes[index] for index in used]


def packed(model, size=0):
    """A LiteRT file: bytes. `model` may change: kinds of ops that it no longer has are dropped.

    Args:
        model: `ModelT`.
        size: int. The expected number of bytes.

    Returns:
        bytes. The data of tensors is aligned to 16 bytes. The schema asks for this (`force_align: 16`), and the kernels
        of microcontrollers need it.
    """
    flatbuffers = require("flatbuffers", extra="export")
    _drop_unused_codes(model)

    class AlignedBuilder(flatbuffers.Builder):
        def StartVector(self, element_size, count, alignment):
            return super().StartVector(element_size, count, 16 if element_size == 1 else alignment)

    builder = AlignedBuilder(size + 1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
