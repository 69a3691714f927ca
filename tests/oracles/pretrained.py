"""Writes pretrained.npz: tiny ResNets and a GPT-2 of transformers as they are published, and their outputs.

    python tests/oracles/pretrained.py        with transformers 5.24.0 and torch 2.14.1

For each: the config.json, the entries of model.safetensors, an input, and the output.
"""

import json
import pathlib
import tempfile

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, ResNetConfig, ResNetForImageClassification

FOUND = {}


def add(name, model, output, **inputs):
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        config = json.loads((pathlib.Path(folder) / "config.json").read_text())
        weights = load_file(f"{folder}/model.safetensors")
    FOUND[f"{name}/config"] = json.dumps(config)
    FOUND[f"{name}/output"] = output.numpy()
    FOUND.update({f"{name}/weights/{key}": x.numpy() for key, x in weights.items()})
    FOUND.update({f"{name}/{key}": x for key, x in inputs.items()})


def randomized(model):
    torch.manual_seed(0)
    for key, x in [*model.named_parameters(), *model.named_buffers()]:
        if x.dtype.is_floating_point:
            noise = torch.randn_like(x)
            scale = "norm" in key and key.endswith("weight")
            x.data = 1 + 0.1 * noise.abs() if scale or key.endswith("running_var") else 0.2 * noise
    return model.eval()


@torch.inference_mode()
def resnet(block):
    widths = [16, 32] if block == "bottleneck" else [4, 8]
    config = ResNetConfig(embedding_size=4, hidden_sizes=widths, depths=[1, 2], layer_type=block, num_labels=3)
    model = randomized(ResNetForImageClassification(config))
    images = torch.randint(0, 256, (2, 32, 32, 3))
    mean, std = (255 * torch.tensor(x) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pixels = ((images - mean) / std).permute(0, 3, 1, 2)
    add(f"resnet_{block}", model, model(pixels).logits, images=images.numpy().astype("uint8"))


@torch.inference_mode()
def gpt2():
    config = GPT2Config(vocab_size=20, n_positions=12, n_embd=8, n_layer=2, n_head=2, eos_token_id=19, bos_token_id=19)
    model = randomized(GPT2LMHeadModel(config))
    tokens = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 0]])
    add("gpt2", model, model(tokens).logits, tokens=tokens.numpy().astype("int32"))


resnet("basic")
resnet("bottleneck")
gpt2()
np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **FOUND)
