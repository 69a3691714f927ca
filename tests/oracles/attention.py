"""Writes attention.npz: torch.nn.MultiheadAttention, for one width and for keys and values of others, under masks.

Made with torch 2.14.1 (CPU), in an environment of its own: python tests/oracles/attention.py

For each layer, its weights as `layer/name`, its inputs, and its output and attention weights, averaged over no heads.
Masks are kept as True = keep, the opposite of torch's.
"""

import pathlib

import numpy as np
import torch


def main():
    torch.manual_seed(0)
    arrays = {}

    def keep(name, module, query, key, value, attention_mask=None, padding=None):
        for parameter in module.parameters():  # biases start at zero, where they could not be told from none
            torch.nn.init.normal_(parameter, std=0.4)
        module.eval()
        output, weights = module(
            *(query, key, value),
            attn_mask=None if attention_mask is None else ~attention_mask,
            key_padding_mask=None if padding is None else ~padding,
            average_attn_weights=False,
        )
        found = dict(query=query, key=key, value=value, output=output, weights=weights)
        if attention_mask is not None:
            found["attention_mask"] = attention_mask
        if padding is not None:
            found["padding"] = padding
        upstream = torch.randn_like(output)
        (output * upstream).sum().backward()
        found |= dict(upstream=upstream, query_gradient=query.grad, key_gradient=key.grad)
        arrays.update({f"{name}/{key}": x for key, x in found.items()})
        arrays.update({f"{name}/state/{key}": x for key, x in module.state_dict().items()})

    def normal(*shape):
        return torch.randn(*shape).requires_grad_()

    tokens = normal(2, 5, 8)
    keep("self", torch.nn.MultiheadAttention(8, 2, batch_first=True), tokens, tokens, tokens)
    causal = torch.tril(torch.ones(5, 5, dtype=torch.bool))
    tokens = normal(2, 5, 8)
    keep("causal", torch.nn.MultiheadAttention(8, 2, batch_first=True), tokens, tokens, tokens, causal)
    padding = torch.arange(6) < torch.tensor([[6], [4]])
    cross = torch.nn.MultiheadAttention(8, 4, kdim=3, vdim=7, bias=False, batch_first=True)
    keep("cross", cross, normal(2, 5, 8), normal(2, 6, 3), normal(2, 6, 7), padding=padding)

    path = pathlib.Path(__file__).with_suffix(".npz")
    np.savez_compressed(path, **{key: value.detach().numpy() for key, value in arrays.items()})


if __name__ == "__main__":
    main()
