"""Writes tcn.npz: a tiny temporal convolutional network of torch's Conv1d under its weight_norm, with gradients.

Made with torch 2.14.1 (CPU), in an environment of its own: python tests/oracles/tcn.py

Weights are `state/name` in torch's layout, kernels (out, in, k) as `original0` (g) and `original1` (v).
"""

import pathlib

import numpy as np
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

FEATURES, WIDTHS, KERNEL, OUTPUTS, LENGTH = 3, (6, 6, 4), 3, 2, 20


class Block(nn.Module):
    def __init__(self, before, width, dilation):
        super().__init__()
        self.reach = (KERNEL - 1) * dilation
        self.first = weight_norm(nn.Conv1d(before, width, KERNEL, dilation=dilation))
        self.second = weight_norm(nn.Conv1d(width, width, KERNEL, dilation=dilation))
        self.shortcut = nn.Conv1d(before, width, 1) if before != width else nn.Identity()

    def forward(self, x):
        hidden = x
        for convolution in (self.first, self.second):
            hidden = convolution(nn.functional.pad(hidden, (self.reach, 0))).relu()
        return (hidden + self.shortcut(x)).relu()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        widths = (FEATURES, *WIDTHS)
        self.blocks = nn.Sequential(*(Block(a, b, 2**i) for i, (a, b) in enumerate(zip(widths, WIDTHS, strict=False))))
        self.head = nn.Linear(WIDTHS[-1], OUTPUTS)

    def forward(self, x):
        return self.head(self.blocks(x.transpose(1, 2)).transpose(1, 2))


def main():
    torch.manual_seed(0)
    net = Net()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("original0"):  # at first it is the norm of v, and could not be told from none
                parameter.mul_(1 + torch.rand_like(parameter))
    x = torch.randn(2, LENGTH, FEATURES, requires_grad=True)
    output = net(x)
    output.square().sum().backward()
    arrays = {"x": x, "output": output, "x_gradient": x.grad}
    arrays |= {f"state/{name}": value for name, value in net.state_dict().items()}
    arrays |= {f"gradient/{name}": parameter.grad for name, parameter in net.named_parameters()}
    path = pathlib.Path(__file__).with_suffix(".npz")
    np.savez_compressed(path, **{key: value.detach().numpy() for key, value in arrays.items()})


if __name__ == "__main__":
    main()
