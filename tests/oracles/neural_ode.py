"""Writes neural_ode.npz: solutions, adjoint gradients and log-densities by torchdiffeq.

Made with torch 2.14.1 (CPU) and torchdiffeq 0.2.5, in an environment of their own: python tests/oracles/neural_ode.py

All in float64 but the convolutional block. Arrays of a part begin with its name:
- `ode/`: a net `dy/dt = tanh(y A + t u + b) B` on 3 rows of 4, its solutions by each method, and the gradients of
  `sum(weights * solution)` by the adjoint method, for the initial state, the times and the weights of the net.
- `flow/`: FFJORD's layers on points of the plane; the trace is that of torch's autograd.
- `block/`: the ODE block of the authors' net for MNIST, from its description in torch's own layers.
"""

import pathlib

import numpy as np
import torch
from torchdiffeq import odeint, odeint_adjoint

# One step between any two times: torchdiffeq's "rk4" is Kutta's 3/8 rule.
FIXED = {"euler": "euler", "midpoint": "midpoint", "rk4_38": "rk4"}
EXACT = dict(method="dopri5", rtol=1e-10, atol=1e-10)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        shapes = dict(A=(4, 5), u=(5,), b=(5,), B=(5, 4))
        for name, shape in shapes.items():
            setattr(self, name, torch.nn.Parameter(0.7 * torch.randn(shape, dtype=torch.float64)))

    def forward(self, t, y):
        return torch.tanh(y @ self.A + t * self.u + self.b) @ self.B


def solutions(arrays):
    net = Net()
    y0 = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    times = torch.tensor(np.cumsum([0.1, 0.2, 0.3, 0.1, 0.4]), requires_grad=True)
    weights = torch.randn(5, 3, 4, dtype=torch.float64)
    arrays |= {"ode/y0": y0, "ode/times": times, "ode/weights": weights}
    arrays |= {f"ode/{name}": value for name, value in net.named_parameters()}
    for name, options in {**{n: dict(method=m) for n, m in FIXED.items()}, "dopri5": EXACT}.items():
        adjoint = dict(adjoint_rtol=1e-10, adjoint_atol=1e-10) if name == "dopri5" else {}
        solution = odeint_adjoint(net, y0, times, **options, **adjoint)
        arrays[f"ode/{name}/solution"] = solution
        sources = {"y0": y0, "times": times, **dict(net.named_parameters())}
        gradients = torch.autograd.grad((weights * solution).sum(), list(sources.values()))
        arrays |= {f"ode/{name}/d{key}": value for key, value in zip(sources, gradients, strict=True)}


def flow(arrays, dim=2, width=6, end=0.7):
    names = ("kernel", "bias", "gate_kernel", "gate_bias", "time_kernel")
    stack = []
    for i, (size, units) in enumerate(((dim, width), (width, width), (width, dim))):
        shapes = ((size, units), *[(units,)] * 4)
        stack.append([0.8 * torch.randn(shape, dtype=torch.float64) for shape in shapes])
        arrays |= {f"flow/{i}/{name}": value for name, value in zip(names, stack[-1], strict=True)}

    def velocity(t, z):
        for i, (kernel, bias, gate_kernel, gate_bias, time_kernel) in enumerate(stack):
            z = (z @ kernel + bias) * torch.sigmoid(t * gate_kernel + gate_bias) + t * time_kernel
            z = torch.tanh(z) if i < len(stack) - 1 else z
        return z

    def backward(s, state):
        with torch.enable_grad():
            z = state[0].detach().requires_grad_(True)
            found = velocity(end - s, z)
            trace = sum(torch.autograd.grad(found[:, i].sum(), z, retain_graph=True)[0][:, i] for i in range(dim))
        return -found.detach(), -trace

    points = torch.randn(7, dim, dtype=torch.float64)
    start = (points, torch.zeros(7, dtype=torch.float64))
    latents, change = (x[-1] for x in odeint(backward, start, torch.tensor([0.0, end], dtype=torch.float64), **EXACT))
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(latents).sum(-1)
    arrays |= {"flow/points": points, "flow/latents": latents, "flow/log_prob": normal + change}


class Block(torch.nn.Module):
    def __init__(self, channels=6, groups=3):
        super().__init__()
        self.norms = torch.nn.ModuleList(torch.nn.GroupNorm(groups, channels) for _ in range(3))
        self.convs = torch.nn.ModuleList(torch.nn.Conv2d(channels + 1, channels, 3, padding=1) for _ in range(2))

    def forward(self, t, x):
        x = torch.relu(self.norms[0](x))
        for conv, norm in zip(self.convs, self.norms[1:], strict=True):
            x = norm(conv(torch.cat([torch.ones_like(x[:, :1]) * t, x], 1)))
            x = torch.relu(x) if norm is self.norms[1] else x
        return x


def block(arrays):
    net = Block()
    for parameter in net.parameters():  # scales and shifts start at one and zero, where they could be mixed up
        torch.nn.init.normal_(parameter, mean=0.3, std=0.4)
    maps = torch.randn(2, 6, 5, 4)
    end = odeint(net, maps, torch.tensor([0.0, 0.5, 1.0]), method="midpoint")[-1]
    arrays |= {"block/maps": maps.permute(0, 2, 3, 1), "block/end": end.permute(0, 2, 3, 1)}
    for i, norm in enumerate(net.norms):
        arrays |= {f"block/norm_{i}/gamma": norm.weight, f"block/norm_{i}/beta": norm.bias}
    for i, conv in enumerate(net.convs):
        arrays |= {f"block/conv_{i}/kernel": conv.weight.permute(2, 3, 1, 0), f"block/conv_{i}/bias": conv.bias}


def main():
    torch.manual_seed(0)
    arrays = {}
    solutions(arrays)
    flow(arrays)
    block(arrays)
    path = pathlib.Path(__file__).with_suffix(".npz")
    np.savez_compressed(path, **{key: value.detach().numpy() for key, value in arrays.items()})


if __name__ == "__main__":
    main()
