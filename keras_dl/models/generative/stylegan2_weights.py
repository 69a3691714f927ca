"""Weights of stylegan2-ada-pytorch for a `StyleGAN2`: their names and axes."""

import numpy as np

from keras_dl.models.generative.style_based import FIRST_SIDE, sides
from keras_dl.ops.resampling import fir_filter
from keras_dl.weights import Entry, load_entries, read_safetensors


def load_nvidia(model, generator, discriminator):
    """Assigns the weights of one side or of both, after it has checked all of them: see `StyleGAN2.load_torch`."""
    entries, weights = {}, {}
    for side, given, found in (
        ("generator", generator, generator_entries),
        ("discriminator", discriminator, discriminator_entries),
    ):
        if given is not None:
            given = given if hasattr(given, "keys") else read_safetensors(given)
            given = _without_filters(model, given)
            entries |= {f"{side}: {name}": entry for name, entry in found(model).items()}
            weights |= {f"{side}: {name}": array for name, array in given.items()}
    load_entries(entries, weights)


def _without_filters(model, weights):
    wanted = fir_filter(model.fir)
    for name, array in weights.items():
        if name.endswith("resample_filter") and not np.allclose(array, wanted, atol=1e-6):
            raise ValueError(f"fir={model.fir} is not the filter of the weights, {name} = {np.asarray(array)}.")
    return {name: array for name, array in weights.items() if not name.endswith("resample_filter")}


def generator_entries(model):
    entries = {"mapping.w_avg": _same(model.mean_style)}
    for i in range(model.mapping_layers):
        entries |= _dense(f"mapping.fc{i}", model.mapping.get_layer(f"dense_{i}"))
    get = model.synthesis.get_layer
    maps = iter(model.noise_maps)
    for side in sides(model.image_shape):
        block = f"synthesis.b{side}"
        if side == FIRST_SIDE:
            constant = get("constant").maps
            shape = (constant.shape[3], FIRST_SIDE, FIRST_SIDE)
            entries[f"{block}.const"] = Entry(constant, shape, lambda array: array.transpose(1, 2, 0)[None])
        else:
            entries |= _modulated(f"{block}.conv0", get(f"up_{side}"), next(maps))
        entries |= _modulated(f"{block}.conv1", get(f"conv_{side}"), next(maps))
        entries |= _modulated(f"{block}.torgb", get(f"rgb_{side}"))
    return entries


def discriminator_entries(model):
    get = model.discriminator.get_layer
    entries = _conv(f"b{model.image_shape[0]}.fromrgb", get("from_rgb"))
    for side in sides(model.image_shape)[1:]:
        for name, layer in (("conv0", "conv"), ("conv1", "down"), ("skip", "skip")):
            entries |= _conv(f"b{side}.{name}", get(f"{layer}_{side}"))
    dense = get("last_dense")
    width = dense.kernel.shape[1]

    def from_channels_first(array):
        maps = array.reshape(width, width, FIRST_SIDE, FIRST_SIDE)
        return maps.transpose(2, 3, 1, 0).reshape(-1, width)

    entries |= _conv("b4.conv", get("last_conv")) | _dense("b4.out", get("logit"))
    kernel = Entry(dense.kernel, tuple(dense.kernel.shape[::-1]), from_channels_first)
    return entries | {"b4.fc.weight": kernel, "b4.fc.bias": _same(dense.bias)}


def _same(variable):
    return Entry(variable, tuple(variable.shape), np.asarray)


def _dense(name, layer):
    kernel = Entry(layer.kernel, tuple(layer.kernel.shape[::-1]), np.transpose)
    return {f"{name}.weight": kernel, f"{name}.bias": _same(layer.bias)}


def _conv(name, layer):
    height, width, channels, filters = layer.kernel.shape
    shape = (filters, channels, height, width)
    entries = {f"{name}.weight": Entry(layer.kernel, shape, lambda array: array.transpose(2, 3, 1, 0))}
    return entries if layer.bias is None else entries | {f"{name}.bias": _same(layer.bias)}


def _modulated(name, layer, noise_map=None):
    entries = _conv(name, layer) | _dense(f"{name}.affine", layer.affine)
    if noise_map is not None:
        shape = tuple(noise_map.shape[1:3])
        entries[f"{name}.noise_const"] = Entry(noise_map, shape, lambda array: array[None, ..., None])
        entries[f"{name}.noise_strength"] = _same(layer.strength)
    return entries
