"""Writes rcnn.npz: torchvision's Mask R-CNN of tiny width, with random weights: losses, proposals and detections.

Its box part alone is Faster R-CNN, so that one net serves both.

Made with torch 2.14.1, torchvision 0.29.1, in an environment of their own: python tests/oracles/rcnn.py

    weight/...            the state dict
    images                uint8 (2, 75, 100, 3): no side is a multiple of 32
    boxes, labels, map    the objects of the first image: float32 (3, 4), int (3,), from 1; uint8 (75, 100), from 1
    keys/region, keys/box what the samplers choose by: the anchors of the lowest keys
    loss/NAME             in training; the second image has no object
    gradient/NAME         the length of the gradient of the sum of losses, by the name of the weight
    training/proposals_I  float32 (n, 4), of image I in training; without `training/`, in inference
    boxes_I, scores_I, labels_I, masks_I    detections of image I; masks (n, 28, 28) in 255ths, and pasted_I, bits
    even/...              detections of images of 64 x 96, the upper left corner of the others
"""

import pathlib

import numpy as np
import torch
from torch import nn
from torchvision.models import _utils, resnet
from torchvision.models.detection import faster_rcnn, mask_rcnn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign, feature_pyramid_network, misc

RANDOM = np.random.default_rng(0)
PLANES, CHANNELS, CLASSES, EPSILON = (8, 8, 12, 16), 8, 4, 1e-3
SLOTS, OBJECTS = 50, 4  # of proposals in training, and of objects, which have keys
REGIONS, BOXES = 40, 32  # that are sampled of an image


class TinyResNet(resnet.ResNet):
    """torchvision's ResNet with one basic block a stage, and other widths than 64 to 512."""

    def __init__(self):
        nn.Module.__init__(self)
        self._norm_layer = lambda width: misc.FrozenBatchNorm2d(width, EPSILON)
        self.groups, self.base_width, self.dilation, self.inplanes = 1, 64, 1, PLANES[0]
        self.conv1 = nn.Conv2d(3, self.inplanes, 7, 2, 3, bias=False)
        self.bn1 = self._norm_layer(self.inplanes)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for i, width in enumerate(PLANES, start=1):
            setattr(self, f"layer{i}", self._make_layer(resnet.BasicBlock, width, 1, stride=1 if i == 1 else 2))


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = _utils.IntermediateLayerGetter(TinyResNet(), {f"layer{i + 1}": str(i) for i in range(4)})
        pool = feature_pyramid_network.LastLevelMaxPool()
        self.fpn = FeaturePyramidNetwork(list(PLANES), CHANNELS, pool)
        self.out_channels = CHANNELS

    def forward(self, x):
        return self.fpn(self.body(x))


class Sampler:
    """Takes the positive and negative ones of the lowest keys."""

    def __init__(self, keys, size, share):
        self.keys, self.size, self.share = keys, size, share

    def __call__(self, labels):
        found = [], []
        for i, of_image in enumerate(labels):
            keys = torch.tensor(self.keys_of(i, len(of_image)))
            most = int(self.size * self.share)
            for part, mask in zip(found, (of_image >= 1, of_image == 0), strict=True):
                places = torch.where(mask)[0]
                places = places[keys[places].argsort(stable=True)][:most]
                most = self.size - len(places)
                part.append(torch.zeros(len(of_image), dtype=torch.uint8).scatter(0, places, 1))
        return found

    def keys_of(self, i, count):
        return self.keys[i]


class BoxSampler(Sampler):
    objects = (3, 0)

    def keys_of(self, i, count):
        """Without the keys of slots that hold no proposal."""
        proposals = count - self.objects[i]
        return np.concatenate([self.keys[i, :proposals], self.keys[i, SLOTS : SLOTS + self.objects[i]]])


def build(side):
    levels = ["0", "1", "2", "3"]
    net = mask_rcnn.MaskRCNN(
        Backbone(),
        num_classes=None,
        min_size=side[0],
        max_size=side[1],
        rpn_anchor_generator=AnchorGenerator(((8,), (16,), (32,), (64,), (128,)), ((0.5, 1.0, 2.0),) * 5),
        rpn_pre_nms_top_n_train=60,
        rpn_pre_nms_top_n_test=40,
        rpn_post_nms_top_n_train=SLOTS,
        rpn_post_nms_top_n_test=30,
        rpn_batch_size_per_image=REGIONS,
        box_batch_size_per_image=BOXES,
        box_roi_pool=MultiScaleRoIAlign(levels, 7, 2, canonical_scale=40, canonical_level=4),
        box_head=faster_rcnn.TwoMLPHead(CHANNELS * 49, 16),
        box_predictor=faster_rcnn.FastRCNNPredictor(16, CLASSES),
        box_score_thresh=0.2,
        box_detections_per_img=12,
        mask_roi_pool=MultiScaleRoIAlign(levels, 14, 2, canonical_scale=40, canonical_level=4),
        mask_head=mask_rcnn.MaskRCNNHeads(CHANNELS, (8, 8), 1),
        mask_predictor=mask_rcnn.MaskRCNNPredictor(8, 8, CLASSES),
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if tensor.ndim > 1:
                tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
            elif name.endswith("running_var") or ("bn" in name and name.endswith("weight")):
                tensor.uniform_(0.5, 1.5, generator=generator)
            else:
                tensor.normal_(0, 0.3, generator=generator)
        for part in (net.rpn.head.cls_logits, net.rpn.head.bbox_pred, net.roi_heads.box_predictor.bbox_pred):
            part.weight *= 0.2  # so that scores differ and boxes stay in the image
    return net


def scene():
    """Two images, and the objects of the first."""
    images = RANDOM.integers(0, 80, (2, 75, 100, 3))
    places = np.float32([[12, 9, 41, 33], [50, 20, 92, 71], [5, 45, 22, 70]])
    instance_map = np.zeros((75, 100), "uint8")
    y, x = np.mgrid[:75, :100] + 0.5
    for i, (x1, y1, x2, y2) in enumerate(places, start=1):
        disk = ((2 * x - x1 - x2) / (x2 - x1)) ** 2 + ((2 * y - y1 - y2) / (y2 - y1)) ** 2 < 1
        instance_map[disk] = i
        images[0][disk] += RANDOM.integers(60, 160, 3)
    images[1, 20:60, 30:70] += 90
    return images.astype("uint8"), places, np.int64([1, 3, 2]), instance_map


def detections(net, images, prefix):
    found = {}
    proposals = []
    handle = net.rpn.register_forward_hook(lambda module, inputs, outputs: proposals.extend(outputs[0]))
    outputs = net(images)
    handle.remove()
    for i, (image, output) in enumerate(zip(images, outputs, strict=True)):
        found[f"{prefix}proposals_{i}"] = proposals[i]
        found |= {f"{prefix}{name}_{i}": output[name] for name in ("boxes", "scores", "labels")}
        found[f"{prefix}pasted_{i}"] = np.packbits(output["masks"][:, 0].numpy() >= 0.5)
        assert output["masks"].shape[-2:] == image.shape[-2:]
    return found


def small_masks(net, images):
    """The masks before they are pasted."""
    found = []
    paste = net.transform.postprocess
    net.transform.postprocess = lambda result, *sizes: result
    for i, output in enumerate(net(images)):
        found.append((f"masks_{i}", (output["masks"][:, 0] * 255).round().to(torch.uint8)))
    net.transform.postprocess = paste
    return dict(found)


def main():
    images, places, labels, instance_map = scene()
    tensors = [torch.tensor(x / 255, dtype=torch.float32).permute(2, 0, 1) for x in images]
    net = build((75, 100))
    anchors = 3 * sum(h * w for h, w in [(24, 32), (12, 16), (6, 8), (3, 4), (2, 2)])
    keys = {"region": RANDOM.random((2, anchors)).round(4), "box": RANDOM.random((2, SLOTS + OBJECTS))}
    keys = {name: value.astype("float32") for name, value in keys.items()}
    net.rpn.fg_bg_sampler = Sampler(keys["region"], REGIONS, 0.5)
    net.roi_heads.fg_bg_sampler = BoxSampler(keys["box"], BOXES, 0.25)
    masks = torch.tensor(instance_map == np.arange(1, 4)[:, None, None], dtype=torch.uint8)
    empty = torch.zeros((0, 4)), torch.zeros(0, dtype=torch.int64), torch.zeros((0, 75, 100), dtype=torch.uint8)
    truth = (torch.tensor(places), torch.tensor(labels), masks)
    targets = [dict(zip(("boxes", "labels", "masks"), x, strict=True)) for x in (truth, empty)]

    rows = {f"weight/{name}": value for name, value in net.state_dict().items()}
    rows |= {"images": images, "boxes": places, "labels": labels, "map": instance_map}
    rows |= {f"keys/{name}": value for name, value in keys.items()}
    net.train()
    proposals = []
    net.rpn.register_forward_hook(lambda module, inputs, outputs: proposals.extend(outputs[0]))
    losses = net(tensors, targets)
    sum(losses.values()).backward()
    rows |= {f"loss/{name}": value for name, value in losses.items()}
    rows |= {f"training/proposals_{i}": value for i, value in enumerate(proposals)}
    rows |= {f"gradient/{name}": value.grad.norm() for name, value in net.named_parameters()}
    net.eval()
    with torch.no_grad():
        rows |= detections(net, tensors, "") | small_masks(net, tensors)
        even = build((64, 96)).eval()
        rows |= detections(even, [x[:, :64, :96] for x in tensors], "even/")
    arrays = {name: x.detach().numpy() if isinstance(x, torch.Tensor) else x for name, x in rows.items()}
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **arrays)
    for name, x in arrays.items():
        if not name.startswith(("weight", "gradient")):
            print(name, x.shape, x if x.ndim == 0 else "")


if __name__ == "__main__":
    main()
