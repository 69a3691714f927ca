"""Makes resnet_basic.npz, resnet_bottleneck.npz, vgg.npz and alexnet.npz: torchvision's nets at tiny widths.

Every layer, every name and the order of the computation are torchvision's; only the widths are small. Weights and
statistics of batch normalisation are random, so that no term drops out.

    keys        what
    weight/...  the state dict
    images      float32, (batch, channels, height, width), normalised
    logits      float32, (batch, classes), in inference
    loss        float32: mean softmax cross-entropy of one training step on `labels`      (resnet_bottleneck alone)
    gradient/.. its gradient by each parameter
    after/...   the buffers after that step

Run it in an environment of its own, from any folder:

    pip install numpy pillow torch==2.13.0
    pip install --no-deps torchvision==0.28.0
    python tests/oracles/torchvision_nets.py
"""

import pathlib

import numpy as np
import torch
from torch import nn

# torchvision registers fake kernels for operations of its compiled half, which needs the very build of torch
# that it was made with. The nets use none of them: declaring them is enough to import it.
library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(f"{name}(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")

import torchvision  # noqa: E402
from torchvision.models import AlexNet, resnet, vgg  # noqa: E402

VERSIONS = {"torch": "2.13.0", "torchvision": "0.28.0"}
FOLDER = pathlib.Path(__file__).parent


class TinyResNet(resnet.ResNet):
    """torchvision's ResNet with other widths than 64 to 512."""

    def __init__(self, block, blocks, planes, num_classes):
        nn.Module.__init__(self)
        self._norm_layer, self.groups, self.base_width, self.dilation = nn.BatchNorm2d, 1, 64, 1
        self.inplanes = planes[0]
        self.conv1 = nn.Conv2d(3, self.inplanes, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(self.inplanes)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for i, (n, width) in enumerate(zip(blocks, planes, strict=True), start=1):
            setattr(self, f"layer{i}", self._make_layer(block, width, n, stride=1 if i == 1 else 2))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(planes[-1] * block.expansion, num_classes)


def shrunk(net, divisor, num_classes, flattened):
    """The same layers with fewer maps, and no pooling to a fixed size before the dense layers."""
    convs = [m for m in net.features if isinstance(m, nn.Conv2d)]
    for i, m in enumerate(net.features):
        if isinstance(m, nn.Conv2d):
            channels = 3 if m is convs[0] else m.in_channels // divisor
            net.features[i] = nn.Conv2d(channels, m.out_channels // divisor, m.kernel_size, m.stride, m.padding)
    net.avgpool = nn.Identity()
    linear = [i for i, m in enumerate(net.classifier) if isinstance(m, nn.Linear)]
    sizes = (flattened, 12, 12, num_classes)
    for i, n_in, n_out in zip(linear, sizes[:-1], sizes[1:], strict=True):
        net.classifier[i] = nn.Linear(n_in, n_out)
    return net


def randomise(net, generator):
    """Random weights of the usual size; scales, variances and means of batch normalisation away from 1 and 0."""
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


def write(name, net, image_shape, generator, step=False):
    randomise(net, generator)
    net.eval()
    images = torch.randn((2, *image_shape), generator=generator)
    rows = {f"weight/{key}": value.clone() for key, value in net.state_dict().items()}
    rows |= {"images": images, "logits": net(images)}
    if step:
        labels = torch.tensor([1, 3])
        net.train()
        loss = nn.functional.cross_entropy(net(images), labels)
        loss.backward()
        rows |= {"labels": labels, "loss": loss}
        rows |= {f"gradient/{key}": p.grad for key, p in net.named_parameters()}
        rows |= {f"after/{key}": b for key, b in net.named_buffers() if not key.endswith("num_batches_tracked")}
    np.savez_compressed(FOLDER / f"{name}.npz", **{key: value.detach().numpy() for key, value in rows.items()})


def main():
    found = {"torch": torch.__version__.split("+")[0], "torchvision": torchvision.__version__.split("+")[0]}
    if found != VERSIONS:
        raise SystemExit(f"This needs {VERSIONS}, and found {found}.")
    generator = torch.Generator().manual_seed(0)
    basic = TinyResNet(resnet.BasicBlock, (2, 1, 1, 1), (4, 6, 8, 10), num_classes=5)
    write("resnet_basic", basic, (3, 45, 38), generator)
    bottleneck = TinyResNet(resnet.Bottleneck, (1, 2, 1, 1), (4, 4, 6, 8), num_classes=5)
    write("resnet_bottleneck", bottleneck, (3, 45, 38), generator, step=True)
    # Maps of 2x3 pixels are flattened in both, so that a wrong order would show.
    net = shrunk(vgg.VGG(vgg.make_layers(vgg.cfgs["A"]), init_weights=False), 64, 5, flattened=8 * 2 * 3)
    write("vgg", net, (3, 64, 96), generator)
    net = shrunk(AlexNet(), 32, 5, flattened=8 * 2 * 3)
    write("alexnet", net, (3, 96, 130), generator)


if __name__ == "__main__":
    main()
