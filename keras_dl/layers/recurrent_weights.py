"""Weights of `torch.nn.RNN`, `LSTM` and `GRU`, stacked and of both directions, for layers of this package.

    torch, layer l                      here
    weight_ih_l (gates units, inputs)   kernel (inputs, gates units), transposed
    weight_hh_l (gates units, units)    recurrent_kernel (units, gates units), transposed
    bias_ih_l, bias_hh_l                bias (gates units): their sum; of a GRU, bias (2, gates units): the two
    weight_hr_l (projection, units)     projection_kernel (units, projection), transposed

`_reverse` at the end of a name is the layer from the end to the beginning. The gates of an LSTM stand in the same order
in both: input, forget, new, output. Those of a GRU are reset, update, new in torch, and update, reset, new here.
"""

from collections.abc import Mapping

import keras
import numpy as np

from keras_dl.weights import Entry, Weights, check_built, load_entries, read_safetensors


def _as_it_is(gates):
    return gates


def _update_first(gates):
    """On the first axis."""
    reset, update, new = np.split(gates, 3)
    return np.concatenate([update, reset, new])


def torch_recurrent_entries(stack, prefix: str = "") -> dict[str, Entry]:
    """The checkpoint entries of recurrent layers on top of each other.

    Args:
        stack: list of built layers `keras_dl.SimpleRNN`, `LSTM` or `GRU`, or of `keras.layers.Bidirectional` around
            them, in order.
        prefix: str. What stands before each name in the checkpoint, with its dot: `"lstm."`.

    Returns:
        dict of `Entry` by name in the checkpoint.

    Raises:
        ValueError: if a layer computes what those of torch do not.
    """
    entries = {}
    for i, layer in enumerate(stack):
        ways = {"": layer}
        if isinstance(layer, keras.layers.Bidirectional):
            if layer.merge_mode != "concat":
                raise ValueError(f"layer={layer.name!r} has merge_mode={layer.merge_mode!r}, and torch has 'concat'.")
            ways = {"": layer.forward_layer, "_reverse": layer.backward_layer}
        for ending, one in ways.items():
            entries |= {f"{prefix}{name}_l{i}{ending}": entry for name, entry in _of_layer(one).items()}
    return entries


def _of_layer(layer):
    """The entries of one layer by the beginning of their names."""
    cell = layer.cell
    is_gru = isinstance(cell, keras.layers.GRUCell)
    for name, wanted in (("reset_after", True), ("peephole", False), ("layer_norm", False)):
        if getattr(cell, name, wanted) != wanted:
            raise ValueError(f"layer={layer.name!r} has {name}={not wanted}, and torch's is {name}={wanted}.")
    ordered = _update_first if is_gru else _as_it_is

    def transposed(variable, order=ordered):
        return Entry(variable, tuple(variable.shape)[::-1], lambda array: order(array).T)

    entries = {"weight_ih": transposed(cell.kernel), "weight_hh": transposed(cell.recurrent_kernel)}
    if cell.bias is not None:
        bias, width = cell.bias, (cell.bias.shape[-1],)

        def placed(array, row):
            return np.stack([ordered(array) * (i == row) for i in (0, 1)]) if is_gru else array

        # The second is added to the first, which `load_entries` has assigned before.
        entries["bias_ih"] = Entry(bias, width, lambda array: placed(array, 0))
        entries["bias_hh"] = Entry(bias, width, lambda array: bias.numpy() + placed(array, 1))
    if getattr(cell, "projection_units", None):
        entries["weight_hr"] = transposed(cell.projection_kernel, _as_it_is)
    return entries


def load_torch_recurrent(stack, weights: Weights, prefix: str = "") -> None:
    """Takes the weights of a `torch.nn.RNN`, `LSTM` or `GRU` with as many layers. It loads all entries or none.

    Args:
        stack: as `torch_recurrent_entries` takes it.
        weights: mapping from name to array, as `state_dict()` gives it, or the path of a `.safetensors` file.
        prefix: str. What stands before each name, with its dot: `"lstm."`. Other entries are left out; with "", there
            must be none.

    Raises:
        ValueError: if a layer is not built or computes what torch's does not, or names or shapes differ. The layers
            then keep their weights.

    Example:

    >>> from keras_dl import GRU
    >>> layer = GRU(2)
    >>> layer.build((None, 5, 3))
    >>> shapes = dict(weight_ih_l0=(6, 3), weight_hh_l0=(6, 2), bias_ih_l0=(6,), bias_hh_l0=(6,))
    >>> load_torch_recurrent([layer], {name: np.ones(shape) for name, shape in shapes.items()})
    >>> layer.get_weights()[2].shape
    (2, 6)
    """
    for layer in stack:
        check_built(layer)
    weights = weights if isinstance(weights, Mapping) else read_safetensors(weights)
    chosen = {name: array for name, array in weights.items() if name.startswith(prefix)}
    load_entries(torch_recurrent_entries(stack, prefix), chosen)
