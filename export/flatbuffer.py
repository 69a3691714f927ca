"""LiteRT files as trees of objects that can be changed, and objects as files."""

from keras_dl.extras import require


def unpacked(content):
    """The `ModelT` of a LiteRT file, given as bytes."""
    return require("ai_edge_litert.schema_py_generated", extra="export").ModelT.InitFromPackedBuf(content, 0)


def tensors(content):
    """All tensors of a LiteRT file, read in place. This is faster than to unpack the file."""
    model = require("ai_edge_litert.schema_py_generated", extra="export").Model.GetRootAs(content, 0)
    graphs = (model.Subgraphs(i) for i in range(model.SubgraphsLength()))
    return (graph.Tensors(i) for graph in graphs for i in range(graph.TensorsLength()))


def packed(model, size=0):
    """A LiteRT file: bytes.

    Args:
        model: `ModelT`.
        size: int. The expected number of bytes.

    Returns:
        bytes. The data of tensors is aligned to 16 bytes. The schema asks for this (`force_align: 16`), and the kernels
        of microcontrollers need it.
    """
    flatbuffers = require("flatbuffers", extra="export")

    class AlignedBuilder(flatbuffers.Builder):
        def StartVector(self, element_size, count, alignment):
            return super().StartVector(element_size, count, 16 if element_size == 1 else alignment)

    builder = AlignedBuilder(size + 1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
