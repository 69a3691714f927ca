"""What a SavedModel may do when it is loaded and run, read from its graph before it is loaded.

A SavedModel is a program: TensorFlow runs some of its ops when it is loaded, and any of them when it is called. This
refuses ops that no model needs to compute its outputs. It is no sandbox: run files of people whom you do not trust in a
container.
"""

import re

from keras_dl.compat import saved_model_proto
from keras_dl.files import FileError, reason

# Ops by what they do. Versions (`V2`) and `Experimental` before a name are left out.
_FILES = """
    CSVDataset CacheDataset CalibrationStatisticsSaver CreateSummaryDbWriter CreateSummaryFileWriter DTensorRestore
    DatasetToTFRecord DumpTensor FileSystemSetConfiguration FixedLengthRecordDataset FixedLengthRecordReader
    FixedUnigramCandidateSampler GenerateVocabRemapping InitializeTableFromTextFile LMDBDataset LMDBReader
    ListSnapshotChunksDataset LoadAndRemapMatrix LoadDataset MatchingFiles MatchingFilesDataset MergeCheckpoints
    ReadFile RecordInput Restore RestoreSlice Save SaveDataset SaveSlices Skipgram SnapshotChunkDataset SnapshotDataset
    SnapshotDatasetReader SnapshotNestedDatasetReader SqlDataset TFRecordDataset TFRecordReader TextLineDataset
    TextLineReader WholeFileReader WriteFile
"""
_PYTHON = "EagerPyFunc PyFunc PyFuncStateless"
_NETWORK = """
    DataServiceDataset DebugIdentity DebugNanCount DebugNumericSummary DistributedSave RegisterDataset RemoteCall
    RpcCall RpcClient RpcGetValue RpcServer RpcServerRegister RpcServerStart
"""
_GRAPHS = "DatasetFromGraph"
DOES = {
    **dict.fromkeys(_FILES.split(), "reads or writes files"),
    **dict.fromkeys(_PYTHON.split(), "runs Python"),
    **dict.fromkeys(_NETWORK.split(), "can reach a network"),
    **dict.fromkeys(_GRAPHS.split(), "runs a graph that is hidden in a tensor"),
}

# What TensorFlow writes into each SavedModel to save and restore its variables. It does not run it in loading.
_SAVER = ("Save", "Restore", "MergeCheckpoints")


def check_saved_model(folder) -> None:
    """Refuses a SavedModel with ops that read or write files, run Python or can reach a network.

    Args:
        folder: str or path.

    Raises:
        FileError: if it has such ops, whose names the message has, or cannot be read.

    Example:

    >>> import tempfile
    >>> import tensorflow as tf
    >>> module, folder = tf.Module(), tempfile.mkdtemp()
    >>> module.read = tf.function(tf.io.read_file, input_signature=[tf.TensorSpec((), tf.string)])
    >>> tf.saved_model.save(module, folder)
    >>> check_saved_model(folder)
    Traceback (most recent call last):
    ...
    keras_dl.files.FileError: ... holds ops that a model does not need: ReadFile (reads or writes files). ...
    """
    try:
        proto = saved_model_proto(folder)
    except Exception as error:  # OSError, or what its parsers of text raise
        raise FileError(folder, f"is not a SavedModel that TensorFlow can read: {reason(error)}.") from error
    found = sorted({refusal for graph in proto.meta_graphs for refusal in _refused(graph)})
    if found:
        ops = ", ".join(f"{op} ({does})" for op, does in found)
        raise FileError(
            folder,
            f"holds ops that a model does not need: {ops}. If you trust the one who made it, load it with trust=True, "
            "or --trust on the command line.",
        )


def family(op):
    """The name of an op without its version: `"Save"` of `"SaveV2"`, `"MergeCheckpoints"` of `"MergeV2Checkpoints"`."""
    return re.sub(r"V\d+(?=$|[A-Z])", "", op.removeprefix("Experimental"))


def _refused(graph):
    """Yields the ops of a `MetaGraphDef` that are refused, each with what it does."""
    functions = {function.signature.name: function.node_def for function in graph.graph_def.library.function}
    saver = {tensor.partition(":")[0] for tensor in (graph.saver_def.save_tensor_name, graph.saver_def.restore_op_name)}
    only_saver = _reached((node for node in graph.graph_def.node if node.name in saver), functions)
    only_saver -= _reached((node for node in graph.graph_def.node if node.name not in saver), functions)
    objects = graph.object_graph_def
    called = {*objects.concrete_functions}
    for node in objects.nodes:
        called |= {*node.function.concrete_functions, node.bare_concrete_function.concrete_function_name}
    for name in called & functions.keys():
        only_saver -= {name} | _reached(functions[name], functions)
    for node in graph.graph_def.node:
        yield from _judged(node)
    for name, nodes in functions.items():
        for node in nodes:
            if not (name in only_saver and family(node.op) in _SAVER):
                yield from _judged(node)


def _judged(node):
    does = DOES.get(family(node.op))
    if node.op == "PrintV2" and node.attr["output_stream"].s.startswith(b"file:"):
        does = "writes a file"
    if does:
        yield node.op, does


def _reached(nodes, functions):
    """The names of the functions that nodes call, and that these call: a set."""
    found, waiting = set(), list(nodes)
    while waiting:
        node = waiting.pop()
        values = node.attr.values()
        named = {node.op, *(x.func.name for x in values), *(x.name for value in values for x in value.list.func)}
        for name in (named & functions.keys()) - found:
            found.add(name)
            waiting += functions[name]
    return found
