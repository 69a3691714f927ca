"""Writes vit_torchvision.npz and vit_transformers.npz: tiny Vision Transformers and their outputs at two image sizes.

    python tests/oracles/vit.py

Made with torch 2.13.0, torchvision 0.28.0 and transformers 5.23.0 on CPU.
"""

import pathlib
import tempfile

import numpy as np
import torch

# torchvision's own operators, none of which a classifier uses, may not load beside a CPU build of torch.
library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from safetensors.torch import load_file  # noqa: E402
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings  # noqa: E402
from transformers import ViTConfig, ViTForImageClassification  # noqa: E402

FOLDER = pathlib.Path(__file__).parent
SIZES = dict(image_size=24, patch_size=8)
LARGER = 40


def randomise(model):
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        offset = 1.0 if weight.ndim == 1 and name.endswith("weight") else 0.0  # scales of normalisations
        weight.data = offset + 0.3 * torch.randn_like(weight)


def images_of(size, mean, std):
    torch.manual_seed(size)
    images = torch.randint(0, 256, (2, size, size, 3)).float()
    return images.numpy().astype("uint8"), ((images - mean) / std).permute(0, 3, 1, 2)


def torchvision():
    settings = dict(patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=24, num_classes=5)
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    model = VisionTransformer(image_size=24, **settings)
    randomise(model)
    images, inputs = images_of(24, mean, std)
    labels = torch.tensor([3, 1])
    logits = model(inputs)
    loss = torch.nn.functional.cross_entropy(logits, labels)
    loss.backward()
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}

    larger = VisionTransformer(image_size=LARGER, **settings).eval()
    larger.load_state_dict(interpolate_embeddings(LARGER, 8, dict(weights)))
    larger_images, larger_inputs = images_of(LARGER, mean, std)
    np.savez_compressed(
        FOLDER / "vit_torchvision.npz",
        images=images,
        labels=labels.numpy(),
        logits=logits.detach().numpy(),
        loss=loss.item(),
        larger_images=larger_images,
        larger_logits=larger(larger_inputs).detach().numpy(),
        **{f"weights/{name}": weight.numpy() for name, weight in weights.items()},
        **{f"gradients/{name}": weight.grad.numpy() for name, weight in model.named_parameters()},
    )


def transformers():
    config = ViTConfig(
        image_size=24,
        patch_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        hidden_size=16,
        intermediate_size=24,
        num_labels=5,
        attn_implementation="eager",
    )
    model = ViTForImageClassification(config).eval()
    randomise(model)
    images, inputs = images_of(24, 127.5, 127.5)
    larger_images, larger_inputs = images_of(LARGER, 127.5, 127.5)
    with torch.inference_mode():
        outputs = model(inputs, output_attentions=True)
        larger_logits = model(larger_inputs, interpolate_pos_encoding=True).logits
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        published = load_file(f"{folder}/model.safetensors")
    np.savez_compressed(
        FOLDER / "vit_transformers.npz",
        images=images,
        logits=outputs.logits.numpy(),
        attentions=torch.stack(outputs.attentions).numpy(),
        larger_images=larger_images,
        larger_logits=larger_logits.numpy(),
        **{f"weights/{name}": weight.numpy() for name, weight in model.state_dict().items()},
        **{f"published/{name}": weight.numpy() for name, weight in published.items()},
    )


torchvision()
transformers()
