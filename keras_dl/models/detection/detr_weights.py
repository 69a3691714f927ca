"""Weights of DETR in the layouts of the authors' code and of transformers.

    here                         facebookresearch/detr                      transformers
    attention of an encoder      self_attn.in_proj_weight, .out_proj        self_attn.{q,k,v,o}_proj
    memory_attention             multihead_attn                             encoder_attn
    expand, project              linear1, linear2                           mlp.fc1, mlp.fc2
    attention_norm, mlp_norm     norm1, norm2; of a decoder norm3           self_attn_layer_norm, final_layer_norm
    memory_norm                  norm2                                      encoder_attn_layer_norm

Files of transformers before version 5 have `out_proj`, `fc1` and `fc2` for `o_proj`, `mlp.fc1` and `mlp.fc2`.
"""

import re
from collections.abc import Mapping

import numpy as np

from keras_dl.models.vision.resnet import torch_stages
from keras_dl.weights import Entry, Weights, load_entries, read_safetensors, stacked, torch_entries

PROJECTIONS = ("query", "key", "value")


def load_original(model, weights: Weights, head: bool = True) -> None:
    """Takes weights in the layout of the authors' code. See `DETR.load_original`."""
    net = model.transformer
    entries = _body(model, "backbone.0.body.")
    for part, blocks in (("encoder", net.encoder), ("decoder", net.decoder)):
        for i, block in enumerate(blocks):
            prefix = f"transformer.{part}.layers.{i}"
            layers = {"linear1": block.expand, "linear2": block.project, "norm1": block.attention_norm}
            entries |= _stacked_attention(f"{prefix}.self_attn", block.attention)
            if block.cross_attention:
                entries |= _stacked_attention(f"{prefix}.multihead_attn", block.memory_attention)
                layers |= {"norm2": block.memory_norm, "norm3": block.mlp_norm}
            else:
                layers |= {"norm2": block.mlp_norm}
            entries |= _of_layers(prefix, layers)
    entries |= torch_entries("transformer.decoder.norm", net.decoder_norm)
    entries |= _ends(net, "query_embed", "input_proj", "class_embed", "bbox_embed")
    load_entries(entries, weights, () if head else ("class_embed",))


def load_transformers(model, weights: Weights, head: bool = True) -> None:
    """Takes weights in the layouts of transformers. See `DETR.load_transformers`."""
    weights = dict(weights if isinstance(weights, Mapping) else read_safetensors(weights))
    net, older = model.transformer, any(".out_proj." in name for name in weights)
    output, mlp = ("out_proj", "") if older else ("o_proj", "mlp.")
    projections = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": output}
    entries = {}
    for part, blocks in (("encoder", net.encoder), ("decoder", net.decoder)):
        for i, block in enumerate(blocks):
            prefix = f"model.{part}.layers.{i}"
            attentions = {"self_attn": block.attention}
            layers = {f"{mlp}fc1": block.expand, f"{mlp}fc2": block.project}
            layers |= {"self_attn_layer_norm": block.attention_norm, "final_layer_norm": block.mlp_norm}
            if block.cross_attention:
                attentions["encoder_attn"] = block.memory_attention
                layers["encoder_attn_layer_norm"] = block.memory_norm
            for name, attention in attentions.items():
                names = {projection: f"{prefix}.{name}.{theirs}" for projection, theirs in projections.items()}
                entries |= attention.torch_entries(names)
            entries |= _of_layers(prefix, layers)
    entries |= torch_entries("model.decoder.layernorm", net.decoder_norm)
    entries |= _ends(
        net,
        "model.query_position_embeddings",
        "model.input_projection",
        "class_labels_classifier",
        "bbox_predictor",
    )
    load_entries(entries | _transformers_body(model, weights), weights, () if head else ("class_labels_classifier",))


def _transformers_body(model, weights):
    """The backbone in transformers: its own ResNet, or that of timm, whose names are torchvision's."""
    roots = [name[: match.start()] for name in weights if (match := _BODY.search(name))]
    root = min(roots, key=len, default=BACKBONE)
    if not any(name.startswith(f"{root}embedder.") for name in weights):
        return _body(model, root)
    entries = {}
    for name, entry in _body(model, "").items():
        entries[root + _transformers_name(name)] = entry
    return entries


BACKBONE = "model.backbone.model."
_BODY = re.compile(r"(?<=\.)(embedder\.embedder|conv1)\.")


def _transformers_name(name):
    """The name of an entry of torchvision's ResNet in transformers' own."""
    name = re.sub(r"^conv1\.", "embedder.embedder.convolution.", name)
    name = re.sub(r"^bn1\.", "embedder.embedder.normalization.", name)
    name = re.sub(r"^layer(\d)\.", lambda m: f"encoder.stages.{int(m[1]) - 1}.layers.", name)
    name = re.sub(r"downsample\.0", "shortcut.convolution", name)
    name = re.sub(r"downsample\.1", "shortcut.normalization", name)
    name = re.sub(r"\.conv(\d)", lambda m: f".layer.{int(m[1]) - 1}.convolution", name)
    return re.sub(r"\.bn(\d)", lambda m: f".layer.{int(m[1]) - 1}.normalization", name)


def _body(model, prefix):
    entries = {}
    for name, layer in torch_stages(model.backbone, model.num_blocks, prefix).items():
        entries |= torch_entries(name, layer)
    return entries


def _of_layers(prefix, layers):
    entries = {}
    for name, layer in layers.items():
        entries |= torch_entries(f"{prefix}.{name}", layer)
    return entries


def _stacked_attention(prefix, attention):
    """The entries of torch's `MultiheadAttention`: queries, keys and values in one array."""
    parts = attention.torch_entries({name: name for name in PROJECTIONS})
    return attention.torch_entries({"output": f"{prefix}.out_proj"}) | {
        f"{prefix}.in_proj_{kind}": stacked([parts[f"{name}.{kind}"] for name in PROJECTIONS])
        for kind in ("weight", "bias")
    }


def _ends(net, queries, projection, classes, boxes):
    """What is before the encoder and after the decoder."""
    entries = {f"{queries}.weight": Entry(net.queries, tuple(net.queries.shape), np.asarray)}
    entries |= torch_entries(projection, net.input_projection)
    entries |= torch_entries(classes, net.class_head)
    return entries | _of_layers(boxes, {f"layers.{i}": layer for i, layer in enumerate(net.box_head)})
