"""Writes gnn.npz: the graph layers of PyTorch Geometric on one small directed graph.

Made with torch 2.13.0 (CPU) and torch_geometric 2.8.1, in an environment of their own: python tests/oracles/gnn.py

For each layer, its weights as `layer/name`, in PyTorch's layout, and its output as `layer/output`. The graph has an
isolated node, and node 6 has edges out of it alone.
"""

import pathlib

import numpy as np
import torch
import torch_geometric.nn as pyg

NODES, FEATURES, WIDTH, BONDS = 9, 5, 6, 3


def main():
    torch.manual_seed(0)
    edges = [(0, 1), (1, 0), (1, 2), (2, 1), (2, 3), (3, 0), (4, 5), (5, 4), (0, 5), (6, 0), (6, 2), (3, 5), (7, 5)]
    index = torch.tensor(edges).T
    nodes = torch.randn(NODES, FEATURES)
    bonds = torch.randn(len(edges), BONDS)
    arrays = {"nodes": nodes, "edges": torch.tensor(edges, dtype=torch.int32), "edge_features": bonds}

    def keep(name, module, *inputs):
        for parameter in module.parameters():  # biases start at zero, where they could not be told from none
            torch.nn.init.normal_(parameter, std=0.5)
        module.eval()
        output = module(*inputs)
        arrays[f"{name}/output"] = output
        arrays.update({f"{name}/{key}": value for key, value in module.state_dict().items()})
        return output

    keep("gcn", pyg.GCNConv(FEATURES, WIDTH), nodes, index)
    keep("sage_mean", pyg.SAGEConv(FEATURES, WIDTH, normalize=True), nodes, index)
    keep("sage_pool", pyg.SAGEConv(FEATURES, WIDTH, aggr="max", project=True), nodes, index)
    keep("gat_concat", pyg.GATConv(FEATURES, WIDTH, heads=3), nodes, index)
    keep("gat_mean", pyg.GATConv(FEATURES, WIDTH, heads=3, concat=False), nodes, index)
    mlp = torch.nn.Sequential(torch.nn.Linear(FEATURES, 7), torch.nn.ReLU(), torch.nn.Linear(7, WIDTH))
    keep("gin", pyg.GINConv(mlp, train_eps=True), nodes, index)
    keep("mpnn", EdgeNetwork(), nodes, index, bonds)
    # Three graphs: nodes 0 to 3, 4 to 7, and 8.
    keep("set2set", pyg.Set2Set(FEATURES, processing_steps=3), nodes, torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2]))

    path = pathlib.Path(__file__).with_suffix(".npz")
    np.savez_compressed(path, **{key: value.detach().numpy() for key, value in arrays.items()})


class EdgeNetwork(torch.nn.Module):
    """Two steps of NNConv without its root weight, each followed by a GRU."""

    def __init__(self):
        super().__init__()
        network = torch.nn.Sequential(torch.nn.Linear(BONDS, 8), torch.nn.ReLU(), torch.nn.Linear(8, FEATURES**2))
        self.convolution = pyg.NNConv(FEATURES, FEATURES, network, aggr="add", root_weight=False, bias=False)
        self.update = torch.nn.GRUCell(FEATURES, FEATURES)

    def forward(self, nodes, index, bonds):
        for _ in range(2):
            nodes = self.update(self.convolution(nodes, index, bonds), nodes)
        return nodes


if __name__ == "__main__":
    main()
