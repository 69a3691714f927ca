"""Published weights of GPT-2, by the names and layout of transformers' GPT2LMHeadModel, for `keras_dl.TransformerLM`.

Its linear layers have their kernels as `(inputs, outputs)`, unlike torch's, and one of them makes queries, keys and
values.
"""

from collections.abc import Mapping

import numpy as np

from keras_dl.weights import Entry, Weights, load_entries, read_safetensors, torch_entries

# Causal masks, and the table of words once more.
_PASSED_OVER = (".attn.bias", ".attn.masked_bias", "lm_head.weight")
_ATTENTION = ("query", "key", "value")


def load(model, weights: Weights) -> None:
    """`TransformerLM.load_transformers`."""
    if not model.norm_first or not model.learned_positions or model.activation != "gelu_tanh":
        raise ValueError(
            f"norm_first={model.norm_first}, learned_positions={model.learned_positions}, "
            f"activation={model.activation!r}: the weights are of a GPT-2, which has True, True and 'gelu_tanh'."
        )
    entries = {}
    for name, layer in (("wte", model.embedding), ("wpe", model.positions)):
        (table,) = layer.weights
        entries[f"{name}.weight"] = Entry(table, tuple(table.shape), np.asarray)
    entries |= torch_entries("ln_f", model.norm)
    for i, block in enumerate(model.blocks):
        modules = {"ln_1": block.attention_norm, "ln_2": block.mlp_norm}
        modules |= {"mlp.c_fc": block.expand, "mlp.c_proj": block.project}
        for name, layer in modules.items():
            entries |= torch_entries(f"h.{i}.{name}", layer)
        places = {name: f"h.{i}.attn.{name}" for name in _ATTENTION} | {"output": f"h.{i}.attn.c_proj"}
        entries |= block.attention.torch_entries(places)
    load_entries(entries, _as_linear(weights))


def _as_linear(weights):
    """The entries of a checkpoint as linear layers of torch, without what is no weight."""
    weights = weights if isinstance(weights, Mapping) else read_safetensors(weights)
    found = {}
    for name, array in weights.items():
        name = name.removeprefix("transformer.")
        if name.endswith(_PASSED_OVER):
            continue
        if ".c_" in name and name.endswith(".weight") and np.ndim(array) == 2:
            array = np.transpose(array)
        if ".attn.c_attn." in name and len(array) % 3 == 0:
            parts = np.split(np.asarray(array), 3)
            found |= {name.replace("c_attn", part): x for part, x in zip(_ATTENTION, parts, strict=True)}
        else:
            found[name] = array
    return found
