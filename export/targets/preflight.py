"""Shared parts of the checks for delegates: one verdict per op, and the report of the verdicts.

A check reads the file and knows the rules of a delegate. Nothing is compiled or run. It can say that an op will not be
delegated. It cannot say that the driver of a certain device will accept all others.
"""

from keras_dl.export import graph
from keras_dl.export.targets.base import on_the_cpu


def check(path, refuse, seen=lambda ops: ops):
    """Asks `refuse` for its verdict on each op of a file.

    Args:
        path: path of a LiteRT file.
        refuse: function of a `graph.Op`, which returns the reason (str) why the op is not delegated, or None.
        seen: function from the list of the ops of a subgraph to that of the ops that the delegate sees.

    Returns:
        list of lists, one per subgraph: `(op, reason or None)` in the order of execution.
    """
    return [[(op, refuse(op)) for op in seen(subgraph.ops)] for subgraph in graph.read(path).subgraphs]


def report(verdicts, sources, note):
    """The report of a check.

    Args:
        verdicts: as `check` returns them.
        sources: list of str. Where the rules come from.
        note: str. An explanation of the figures.

    Returns:
        dict: `ops` and `delegated_ops` (int), `delegated_share` in [0, 1], `not_delegated` (list of dicts with
        `op`, `layer` and `reason`), `sources`, `note`, `summary`, `files`.
    """
    flat = [verdict for subgraph in verdicts for verdict in subgraph]
    refused = [{"op": op.name, "layer": op.layer, "reason": reason} for op, reason in flat if reason]
    return {
        "ops": len(flat),
        "delegated_ops": len(flat) - len(refused),
        "delegated_share": 1 - len(refused) / len(flat) if flat else 1.0,
        "not_delegated": refused,
        "sources": sources,
        "note": note,
        "summary": [
            f"{len(flat) - len(refused)} of {len(flat)} ops delegated. {note}",
            *on_the_cpu(refused),
        ],
        "files": [],
    }


def parts(verdicts):
    """The parts of one subgraph that a delegate can run, each as one op.

    LiteRT partitions a graph so: all ops of one kind (delegated or not) whose inputs are ready, then all of the other
    kind, until none is left (`PartitionGraphIntoIndependentNodeSubsets`, `tflite/graph_info.h`).

    Args:
        verdicts: list of `(op, reason or None)` of one subgraph.

    Returns:
        list of lists of indices into `verdicts`: the delegated parts.
    """
    waiting = {id(tensor) for op, _ in verdicts for tensor in op.outputs}
    left = list(range(len(verdicts)))
    stretches = []
    while left:
        kind, stretch = None, []
        for i in left:
            op, reason = verdicts[i]
            if any(id(tensor) in waiting for tensor in op.inputs) or kind not in (None, reason is None):
                continue
            kind = reason is None
            stretch.append(i)
            waiting.difference_update(id(tensor) for tensor in op.outputs)
        left = [i for i in left if i not in stretch]
        if kind:
            stretches.append(stretch)
    return stretches


def runtime(tensors):
    """The `tensors` that are present and computed when the model runs."""
    return [tensor for tensor in tensors if tensor is not None and not tensor.constant]


def present(op):
    """The input and output tensors of `op`."""
    return [tensor for tensor in (*op.inputs, *op.outputs) if tensor is not None]


def dynamic(op):
    """A reason if a shape of `op` is only known at run time, else None."""
    for tensor in present(op):
        if tensor.dynamic:
            return f"{tensor.name!r} has the dynamic shape {tensor.shape}; every size must be static"
    return None


def constant(op, index):
    """The values of input `index` of `op` as a flat list. None if it is absent or not constant."""
    tensor = op.inputs[index] if index < len(op.inputs) else None
    return None if tensor is None or tensor.values is None else tensor.values.ravel().tolist()
