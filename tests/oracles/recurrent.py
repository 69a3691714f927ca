"""Writes recurrent.npz: torch.nn's RNN, LSTM (plain and projected) and GRU, and their gradients.

Made with torch 2.14.1 (CPU), in an environment of its own: python tests/oracles/recurrent.py

For each module its weights as `module/name`, in PyTorch's layout; the outputs at each step and the last states as
`module/output`, `module/h` and `module/c`; and of `sum(output * probe)` the gradients as `module/gradient/name`.
"""

import pathlib

import numpy as np
import torch

BATCH, STEPS, FEATURES, UNITS = 2, 5, 3, 4


def main():
    torch.manual_seed(0)
    sequences = torch.randn(BATCH, STEPS, FEATURES)
    arrays = {"sequences": sequences}
    shared = dict(batch_first=True)
    modules = {
        "rnn": torch.nn.RNN(FEATURES, UNITS, **shared),
        "lstm": torch.nn.LSTM(FEATURES, UNITS, **shared),
        "lstm_projected": torch.nn.LSTM(FEATURES, UNITS, proj_size=2, **shared),
        "gru": torch.nn.GRU(FEATURES, UNITS, **shared),
        "gru_both_ways": torch.nn.GRU(FEATURES, UNITS, bidirectional=True, **shared),
    }
    for name, module in modules.items():
        x = sequences.clone().requires_grad_()
        output, states = module(x)
        probe = torch.randn_like(output)
        (output * probe).sum().backward()
        states = states if isinstance(states, tuple) else (states,)
        arrays |= {f"{name}/output": output, f"{name}/probe": probe, f"{name}/gradient/sequences": x.grad}
        arrays |= {f"{name}/{key}": state for key, state in zip("hc", states, strict=False)}
        for key, weight in module.named_parameters():
            arrays |= {f"{name}/{key}": weight, f"{name}/gradient/{key}": weight.grad}
    path = pathlib.Path(__file__).with_suffix(".npz")
    np.savez_compressed(path, **{key: value.detach().numpy() for key, value in arrays.items()})


if __name__ == "__main__":
    main()
