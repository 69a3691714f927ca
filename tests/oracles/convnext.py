"""Writes convnext.npz: a tiny ConvNeXt of torchvision, its outputs, its loss and the gradients of the loss.

    python tests/oracles/convnext.py

Made with torch 2.13.0 and torchvision 0.28.0 on CPU, without stochastic depth.
"""

import pathlib

import numpy as np
import torch

# torchvision's own operators, none of which a classifier uses, may not load beside a CPU build of torch.
library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from torchvision.models.convnext import CNBlockConfig, ConvNeXt  # noqa: E402

MEAN, STD = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])

torch.manual_seed(0)
model = ConvNeXt([CNBlockConfig(8, 12, 2), CNBlockConfig(12, 16, 1), CNBlockConfig(16, None, 1)], num_classes=5)
for name, weight in model.named_parameters():
    offset = 1.0 if weight.ndim == 1 and name.endswith("weight") else 0.0  # scales of normalisations
    weight.data = offset + 0.3 * torch.randn_like(weight)
model.train()

images = torch.randint(0, 256, (3, 35, 42, 3)).float()  # sides that the strides do not divide
labels = torch.tensor([0, 4, 2])
logits = model(((images - MEAN) / STD).permute(0, 3, 1, 2))
loss = torch.nn.functional.cross_entropy(logits, labels)
loss.backward()

np.savez_compressed(
    pathlib.Path(__file__).with_suffix(".npz"),
    images=images.numpy().astype("uint8"),
    labels=labels.numpy(),
    logits=logits.detach().numpy(),
    loss=loss.item(),
    **{f"weights/{name}": weight.numpy() for name, weight in model.state_dict().items()},
    **{f"gradients/{name}": weight.grad.numpy() for name, weight in model.named_parameters()},
)
