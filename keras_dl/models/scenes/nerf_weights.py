"""The layouts of NeRF's weights in nerf-pytorch and in the authors' code.

Both have sines and cosines of one frequency side by side, where `frequency_encoding` has all sines before all cosines.
"""

import numpy as np

from keras_dl.weights import Entry, Weights, load_entries, read_safetensors, torch_entries


def load_torch(model, coarse: Weights, fine: Weights | None) -> None:
    """As `NeRF.load_torch`."""
    given = {"coarse": coarse} | ({} if fine is None else {"fine": fine})
    if set(given) != set(model.fields):
        raise ValueError(f"weights of {', '.join(given)} were given; the model has the networks {_listed(model)}.")
    entries, weights = {}, {}
    for name, arrays in given.items():
        arrays = arrays if hasattr(arrays, "keys") else read_safetensors(arrays)
        # nerf-pytorch keeps the layer behind the direction where nothing uses it.
        unused = () if model.view_dependent else ("views_linears.",)
        weights |= {f"{name}.{key}": x for key, x in arrays.items() if not key.startswith(unused)}
        entries |= {f"{name}.{key}": x for key, x in _entries(model, model.fields[name]).items()}
    load_entries(entries, weights)


def load_keras(model, coarse, fine) -> None:
    """As `NeRF.load_keras`."""
    if not model.view_dependent:
        raise ValueError("view_dependent=False: the authors' code has no fixed order of these weights.")
    layers = [f"pts_linears.{i}" for i in range(model.num_layers)]
    layers += ["feature_linear", "views_linears.0", "rgb_linear", "alpha_linear"]
    named = []
    for arrays in (coarse, fine):
        if arrays is not None and len(arrays) != 2 * len(layers):
            raise ValueError(
                f"weights has {len(arrays)} arrays; a network of num_layers={model.num_layers} has {2 * len(layers)}."
            )
        named.append(
            None
            if arrays is None
            else {
                f"{layer}.{kind}": np.asarray(x).T
                for layer, pair in zip(layers, zip(arrays[::2], arrays[1::2], strict=True), strict=True)
                for kind, x in zip(("weight", "bias"), pair, strict=True)
            }
        )
    load_torch(model, *named)


def _listed(model):
    return ", ".join(model.fields)


def _columns(size, num_frequencies):
    """For each channel of `frequency_encoding`, its place in the encoding of the authors' code."""
    blocks = np.arange(2 * num_frequencies).reshape(-1, 2).T.reshape(-1)  # sines, then cosines
    return np.concatenate([np.arange(size), (size + size * blocks[:, None] + np.arange(size)).reshape(-1)]).astype(int)


def _entries(model, field):
    points = _columns(3, model.point_frequencies)
    hidden = len(points) + np.arange(model.hidden_dim)
    order = {"pts_linears.0": points} | {f"pts_linears.{i + 1}": np.concatenate([points, hidden]) for i in model.skips}
    layers = {f"pts_linears.{i}": layer for i, layer in enumerate(field.hidden)}
    if not model.view_dependent:
        kernel = field.output_layer.kernel
        return _layer_entries(layers, order) | {
            # Five values, of which nothing reads the last.
            "output_linear.weight": Entry(kernel, (5, model.hidden_dim), lambda x: x[:4].T),
            "output_linear.bias": Entry(field.output_layer.bias, (5,), lambda x: x[:4]),
        }
    views = model.hidden_dim + _columns(3, model.direction_frequencies)
    order["views_linears.0"] = np.concatenate([np.arange(model.hidden_dim), views])
    layers |= {"feature_linear": field.feature, "views_linears.0": field.view}
    layers |= {"rgb_linear": field.color, "alpha_linear": field.density_layer}
    return _layer_entries(layers, order)


def _layer_entries(layers, order):
    entries = {}
    for name, layer in layers.items():
        entries |= torch_entries(name, layer)
        if name in order:
            rows, weight = order[name], entries[f"{name}.weight"]
            entries[f"{name}.weight"] = weight._replace(convert=lambda x, rows=rows: x.T[rows])
    return entries
