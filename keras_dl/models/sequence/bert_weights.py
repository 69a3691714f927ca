"""Published weights of BERT, by the names and layout of transformers' BertModel, for `keras_dl.TransformerEncoder`."""

import pathlib
from collections.abc import Mapping

import numpy as np

from keras_dl.files import read_json, reading
from keras_dl.weights import Entry, Weights, load_entries, read_safetensors, torch_entries

# Activations by their names in a config.json of transformers.
_ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}

# Entries of published checkpoints that are not weights of the encoder: a range of numbers, and heads of pre-training.
_PASSED_OVER = ("embeddings.position_ids", "cls.")


def load(model, weights: Weights) -> None:
    """`TransformerEncoder.load_bert`."""
    if model.norm_first or not model.learned_positions:
        raise ValueError(
            f"norm_first={model.norm_first}, learned_positions={model.learned_positions}: the weights are of a BERT, "
            "which has norm_first=False and learned_positions=True."
        )
    entries = {}
    for name, layer in (("word", model.embedding), ("position", model.positions), ("token_type", model.segments)):
        (table,) = layer.weights
        entries[f"embeddings.{name}_embeddings.weight"] = Entry(table, tuple(table.shape), np.asarray)
    entries |= torch_entries("embeddings.LayerNorm", model.norm)
    for i, block in enumerate(model.blocks):
        modules = {
            "attention.output.LayerNorm": block.attention_norm,
            "intermediate.dense": block.expand,
            "output.dense": block.project,
            "output.LayerNorm": block.mlp_norm,
        }
        for name, layer in modules.items():
            entries |= torch_entries(f"encoder.layer.{i}.{name}", layer)
        places = {name: f"self.{name}" for name in ("query", "key", "value")} | {"output": "output.dense"}
        places = {name: f"encoder.layer.{i}.attention.{place}" for name, place in places.items()}
        entries |= block.attention.torch_entries(places)
    if model.pooler:
        entries |= torch_entries("pooler.dense", model.pool)
    load_entries(entries, _as_bert(weights))


def read(weights, config=None) -> tuple[dict, dict]:
    """Reads weights and config, as `TransformerEncoder.from_bert` takes them.

    Returns:
        The weights by their names in BertModel, and the model's arguments that they and the config say.
    """
    if not isinstance(weights, Mapping):
        weights = pathlib.Path(weights)
        folder = weights if weights.is_dir() else weights.parent
        if config is None and (folder / "config.json").exists():
            config = folder / "config.json"
        weights = folder / "model.safetensors" if weights.is_dir() else weights
    if config is None or isinstance(config, Mapping):
        settings = _settings(config or {})
    else:
        what, cure = "the config of a BERT", "Give the config.json that belongs to the weights."
        with reading(config, what, cure):
            settings = _settings(read_json(config, what, cure))
    weights = _as_bert(weights)
    return weights, _sizes(weights) | settings


def _as_bert(weights):
    """The entries of a checkpoint that the encoder takes, by their names in BertModel."""
    weights = weights if isinstance(weights, Mapping) else read_safetensors(weights)
    named = {}
    for name, array in weights.items():
        name = name.removeprefix("bert.")
        # Files that were converted from TensorFlow call a norm's weights by other names.
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        if not name.startswith(_PASSED_OVER):
            named[name] = array
    return named


def _sizes(weights):
    """The arguments that the weights' shapes show."""
    names = ("word_embeddings", "position_embeddings", "token_type_embeddings")
    names = [f"embeddings.{name}.weight" for name in names] + ["encoder.layer.0.intermediate.dense.weight"]
    missing = [name for name in names if name not in weights]
    if missing:
        raise ValueError(f"weights are not laid out as BERT's: they have no {', '.join(missing)}.")
    for name in names:
        if np.ndim(weights[name]) != 2:
            raise ValueError(f"weights are not laid out as BERT's: {name} has the shape {np.shape(weights[name])}.")
    words, positions, segments, expand = (np.shape(weights[name]) for name in names)
    blocks = {name.split(".")[2] for name in weights if name.startswith("encoder.layer.")}
    return dict(
        vocabulary_size=words[0],
        max_length=positions[0],
        num_segments=segments[0],
        hidden_dim=words[1],
        mlp_dim=expand[0],
        num_layers=len(blocks),
        pooler="pooler.dense.weight" in weights,
    )


def _settings(config):
    """The arguments that only a config says."""
    kind, positions = config.get("model_type", "bert"), config.get("position_embedding_type", "absolute")
    if (kind, positions) != ("bert", "absolute"):
        raise ValueError(f"config is of a {kind!r} with {positions!r} positions; only BERT with absolute ones fits.")
    if config.get("is_decoder"):
        raise ValueError("config has is_decoder=True: this model is an encoder, whose attention is not causal.")
    activation = config.get("hidden_act", "gelu")
    if activation not in tuple(_ACTIVATIONS):  # a list has no place among the keys of a dict
        raise ValueError(f"config has hidden_act={activation!r}; it must be one of {', '.join(_ACTIVATIONS)}.")
    settings = dict(
        activation=_ACTIVATIONS[activation],
        norm_epsilon=config.get("layer_norm_eps", 1e-12),
        dropout_rate=config.get("hidden_dropout_prob", 0.1),
        attention_dropout_rate=config.get("attention_probs_dropout_prob", 0.1),
    )
    names = {"num_attention_heads": "num_heads", "pad_token_id": "padding_token"}
    return settings | {ours: config[name] for name, ours in names.items() if config.get(name) is not None}
