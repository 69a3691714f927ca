"""Writes fcn.npz: torchvision's FCN on a ResNet of tiny width, with random weights: outputs of both heads.

Made with torch 2.14.1, torchvision 0.29.1, in an environment of their own: python tests/oracles/fcn.py

    weight/...   the state dict
    images       float32, (batch, channels, height, width), normalized
    out, aux     float32, (batch, classes, height, width), in inference
    labels, loss int, and float32: the cross-entropy with ignored pixels (255) of `out`, plus half of that of `aux`
"""

import pathlib

import numpy as np
import torch
from torch import nn
from torchvision.models import _utils, resnet
from torchvision.models.segmentation import fcn


class TinyResNet(resnet.ResNet):
    """torchvision's dilated ResNet with other widths than 64 to 512."""

    def __init__(self, blocks, planes):
        nn.Module.__init__(self)
        self._norm_layer, self.groups, self.base_width, self.dilation = nn.BatchNorm2d, 1, 64, 1
        self.inplanes = planes[0]
        self.conv1 = nn.Conv2d(3, self.inplanes, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(self.inplanes)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for i, (n, width) in enumerate(zip(blocks, planes, strict=True), start=1):
            options = dict(stride=1 if i == 1 else 2, dilate=i > 2)
            setattr(self, f"layer{i}", self._make_layer(resnet.Bottleneck, width, n, **options))


def main():
    generator = torch.Generator().manual_seed(0)
    body = _utils.IntermediateLayerGetter(TinyResNet((1, 1, 2, 2), (4, 4, 4, 6)), {"layer4": "out", "layer3": "aux"})
    net = fcn.FCN(body, fcn.FCNHead(24, 3), fcn.FCNHead(16, 3))
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name.endswith("num_batches_tracked"):
                continue
            if tensor.ndim > 1:
                tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
            elif name.endswith("running_var") or (name.endswith("weight") and tensor.ndim == 1):
                tensor.uniform_(0.5, 1.5, generator=generator)
            else:
                tensor.normal_(0, 0.3, generator=generator)
    net.eval()
    images = torch.randn((1, 3, 45, 38), generator=generator)
    outputs = net(images)
    labels = torch.randint(0, 3, (1, 45, 38), generator=generator)
    labels[:, :9] = 255
    losses = {key: nn.functional.cross_entropy(x, labels, ignore_index=255) for key, x in outputs.items()}
    rows = {f"weight/{key}": value for key, value in net.state_dict().items()}
    rows |= {"images": images, "labels": labels.to(torch.uint8), "loss": losses["out"] + 0.5 * losses["aux"]}
    arrays = {key: value.detach().numpy() for key, value in (rows | dict(outputs)).items()}
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **arrays)


if __name__ == "__main__":
    main()
