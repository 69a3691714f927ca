"""Names of tensors: short ones, and those of outputs.

The converter joins the names of all tensors that it merges.

If two hundred steps are unrolled, the names are most of the file. The int8 file of a GRU of 48 units over 200 steps was
2,236 kB with whole names, and is 607 kB with short ones.
"""

from keras_dl.export import flatbuffer

LONGEST = 80  # characters of joined names


def shortened(content):
    """A LiteRT file, as bytes, in which inner tensors keep only the first of names over `LONGEST` characters.

    The first name stays whole, because it says from which layer the tensor comes. A number after it makes it unique.
    Inputs and outputs keep their names. A file without long names is returned unchanged.
    """
    if not any(_long(tensor.Name()) for tensor in flatbuffer.tensors(content)):
        return content
    model = flatbuffer.unpacked(content)
    for subgraph in model.subgraphs:
        public = {*subgraph.inputs, *subgraph.outputs}
        for index, tensor in enumerate(subgraph.tensors):
            if _long(tensor.name) and index not in public:
                tensor.name = tensor.name.partition(b";")[0] + b";%d" % index
    return flatbuffer.packed(model, len(content))


def outputs_named(content, origins):
    """A LiteRT file, as bytes, whose outputs have the names of the ops that compute them before their own.

    The converter calls outputs `StatefulPartitionedCall:0` and so on, so that the last op would have lost its layer.

    Args:
        content: bytes. Returned unchanged if there is nothing to name.
        origins: dict by signature of dicts by output: the names of ops in the model's graph.
    """
    named = [x.Name() for x in flatbuffer.tensors(content)]
    if all(name is None or b"/" in name or not name.startswith(b"StatefulPartitionedCall") for name in named):
        return content
    model = flatbuffer.unpacked(content)
    for signature in model.signatureDefs or ():
        known = origins.get(signature.signatureKey.decode(), {})
        tensors = model.subgraphs[signature.subgraphIndex].tensors
        inputs = {x.tensorIndex for x in signature.inputs or ()}
        for output in signature.outputs or ():
            tensor, name = tensors[output.tensorIndex], known.get(output.name.decode(), "")
            if "/" in name and tensor.name is not None and b"/" not in tensor.name and output.tensorIndex not in inputs:
                tensor.name = name.encode() + b";" + tensor.name
    return flatbuffer.packed(model, len(content))


def _long(name):
    return name is not None and len(name) > LONGEST and b";" in name
