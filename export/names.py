"""Short names for tensors: the converter joins the names of all tensors that it merges.

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


def _long(name):
    return name is not None and len(name) > LONGEST and b";" in name
