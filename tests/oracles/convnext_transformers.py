"""Writes convnext_transformers.npz: a tiny ConvNeXt of transformers, its weights as published, and its outputs.

    python tests/oracles/convnext_transformers.py

Made with torch 2.14.1, transformers 5.24.0 and safetensors 0.8.0 on CPU.
"""

import pathlib
import tempfile

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import ConvNextConfig, ConvNextForImageClassification

MEAN, STD = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])

torch.manual_seed(0)
config = ConvNextConfig(num_stages=3, depths=[2, 1, 1], hidden_sizes=[8, 12, 16], patch_size=4, num_labels=5)
model = ConvNextForImageClassification(config).eval()
for name, weight in model.named_parameters():
    offset = 1.0 if weight.ndim == 1 and name.endswith("weight") else 0.0  # scales of normalisations
    weight.data = offset + 0.3 * torch.randn_like(weight)

images = torch.randint(0, 256, (3, 35, 42, 3)).float()  # sides that the strides do not divide
with torch.inference_mode():
    logits = model(((images - MEAN) / STD).permute(0, 3, 1, 2)).logits
with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    published = load_file(f"{folder}/model.safetensors")

np.savez_compressed(
    pathlib.Path(__file__).with_suffix(".npz"),
    images=images.numpy().astype("uint8"),
    logits=logits.numpy(),
    **{f"weights/{name}": weight.numpy() for name, weight in published.items()},
)
