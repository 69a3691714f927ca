"""The layout of PointNet's weights in Pointnet_Pointnet2_pytorch."""

from keras_dl.weights import Weights, load_entries, torch_entries


def load_classifier(model, weights: Weights, head: bool) -> None:
    """As `PointNet.load_torch`."""
    _must_fit(model)
    entries = _encoder(model, "feat.") | classifier_head(model)
    load_entries(entries, weights, without_head(model, head))


def classifier_head(model):
    """The entries of the layers behind the features, also of PointNet++; none without a head."""
    if model.num_classes is None:
        return {}
    last = len(model.head_dims) + 1
    return _mlp(model, "head", "fc", "bn", last - 1) | torch_entries(f"fc{last}", model.get_layer("head"))


def without_head(model, head):
    """The modules of a classifier's checkpoint that are not read, also of PointNet++."""
    last = len(model.head_dims) + 1
    if model.num_classes is None:
        return tuple(f"{name}{i}" for i in range(1, last + 1) for name in ("fc", "bn"))
    return () if head else (f"fc{last}",)


def load_segmentation(model, weights: Weights, head: bool) -> None:
    """As `PointNetSegmentation.load_torch`."""
    _must_fit(model)
    last = len(model.head_dims) + 1
    if model.num_categories:
        entries = _encoder(model, "") | _mlp(model, "head", "convs", "bns", last - 1, 1)
        name = f"convs{last}"
    else:
        entries = _encoder(model, "feat.") | _mlp(model, "head", "conv", "bn", last - 1, 1)
        name = f"conv{last}"
    entries |= torch_entries(name, model.get_layer("head"), kernel_axes=1)
    load_entries(entries, weights, () if head else (name,))


def _must_fit(model):
    for name in ("input_transform", "feature_transform"):
        if getattr(model, name) is None:
            raise ValueError(f"{name}=None has no counterpart in Pointnet_Pointnet2_pytorch, whose nets have both.")
    if model.activate_last:
        raise ValueError("activate_last=True has no counterpart in Pointnet_Pointnet2_pytorch: build with False.")


def _encoder(model, prefix):
    entries = _transform(model.get_layer("input_transform"), f"{prefix}stn")
    entries |= _transform(model.get_layer("feature_transform"), f"{prefix}fstn")
    layers = [
        (dense, norm)
        for name in ("point_mlp", "global_mlp")
        for dense, norm in zip(model.get_layer(name).dense, model.get_layer(name).norms, strict=True)
    ]
    for i, (dense, norm) in enumerate(layers, start=1):
        entries |= torch_entries(f"{prefix}conv{i}", dense, kernel_axes=1) | torch_entries(f"{prefix}bn{i}", norm)
    return entries


def _transform(layer, prefix):
    entries = {}
    for i, (dense, norm) in enumerate(zip(layer.mlp.dense, layer.mlp.norms, strict=True), start=1):
        entries |= torch_entries(f"{prefix}.conv{i}", dense, kernel_axes=1) | torch_entries(f"{prefix}.bn{i}", norm)
    pooled = len(layer.mlp.dense)
    for i, (dense, norm) in enumerate(zip(layer.head.dense, layer.head.norms, strict=True), start=1):
        entries |= torch_entries(f"{prefix}.fc{i}", dense) | torch_entries(f"{prefix}.bn{pooled + i}", norm)
    return entries | torch_entries(f"{prefix}.fc{len(layer.head.dense) + 1}", layer.last)


def _mlp(model, ours, theirs, norms, count, kernel_axes=0):
    entries = {}
    for i in range(1, count + 1):
        entries |= torch_entries(f"{theirs}{i}", model.get_layer(f"{ours}_{i}"), kernel_axes=kernel_axes)
        entries |= torch_entries(f"{norms}{i}", model.get_layer(f"{ours}_{i}_norm"))
    return entries
