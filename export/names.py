"""Names of tensors, which the converter joins of all that it has merged.

Where two hundred steps stand one after the other, they are most of the file: the int8 file of a GRU of 48 units over so
many steps was 2,236 kB with whole names, and is 607 kB.
"""

from keras_dl.export import flatbuffer

LONGEST = 80  # characters of joined names


def shortened(content):
    """A LiteRT file, bytes, whose inner tensors have one name each where the joined ones exceed `LONGEST` characters.

    The first of them stays as it is, however long, for it says from which layer the tensor comes; a number after it
    keeps it apart from others. Inputs and outputs keep theirs. A file without such names comes back as it is.
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
