"""The layout of PointNet++'s weights in Pointnet_Pointnet2_pytorch."""

import numpy as np

from keras_dl.models.points.pointnet_weights import classifier_head, without_head
from keras_dl.weights import Weights, load_entries, torch_entries


def load_classifier(model, weights: Weights, head: bool) -> None:
    """As `PointNet2.load_torch`."""
    load_entries(_levels(model) | classifier_head(model), weights, without_head(model, head))


def load_segmentation(model, weights: Weights, head: bool) -> None:
    """As `PointNet2Segmentation.load_torch`."""
    entries = _levels(model)
    count = len(model.propagation_dims)
    for i in range(1, count + 1):
        back = model.get_layer(f"back_{i}")
        mlp = back if i == 1 and model.global_dims else back.mlp
        entries |= _mlp(mlp, f"fp{count + 1 - i}.mlp_convs", f"fp{count + 1 - i}.mlp_bns", kernel_axes=1)
    for i in range(1, len(model.head_dims) + 1):
        entries |= torch_entries(f"conv{i}", model.get_layer(f"head_{i}"), kernel_axes=1)
        entries |= torch_entries(f"bn{i}", model.get_layer(f"head_{i}_norm"))
    last = f"conv{len(model.head_dims) + 1}"
    entries |= torch_entries(last, model.get_layer("head"), kernel_axes=1)
    load_entries(entries, weights, () if head else (last,))


def _levels(model):
    entries = {}
    for i in range(1, len(model.levels) + 1):
        mlps = model.get_layer(f"level_{i}").mlps
        if len(mlps) == 1:
            entries |= _mlp(mlps[0], f"sa{i}.mlp_convs", f"sa{i}.mlp_bns", kernel_axes=2)
            continue
        for j, mlp in enumerate(mlps):
            found = _mlp(mlp, f"sa{i}.conv_blocks.{j}", f"sa{i}.bn_blocks.{j}", kernel_axes=2)
            name = f"sa{i}.conv_blocks.{j}.0.weight"
            found[name] = _coordinates_last(found[name], model.num_coordinates)
            entries |= found
    if model.global_dims:
        prefix = f"sa{len(model.levels) + 1}"
        entries |= _mlp(model.get_layer("global_mlp"), f"{prefix}.mlp_convs", f"{prefix}.mlp_bns", kernel_axes=2)
    return entries


def _mlp(mlp, dense_prefix, norm_prefix, kernel_axes):
    entries = {}
    for i, (dense, norm) in enumerate(zip(mlp.dense, mlp.norms, strict=True)):
        entries |= torch_entries(f"{dense_prefix}.{i}", dense, kernel_axes=kernel_axes)
        entries |= torch_entries(f"{norm_prefix}.{i}", norm)
    return entries


def _coordinates_last(entry, count):
    """With several scales, the relative coordinates come after the features in torch, and before them here."""
    return entry._replace(convert=lambda array: entry.convert(np.roll(array, count, axis=1)))
