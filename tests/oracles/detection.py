"""Writes detection.npz: what torchvision's functions of boxes, anchors, matching, RoIAlign and masks return.

Made with torch 2.14.1, torchvision 0.29.1, in an environment of their own: python tests/oracles/detection.py

Arrays of a part begin with its name. Inputs are rounded, so that the file is small.
"""

import pathlib
from collections import OrderedDict

import numpy as np
import torch
from torchvision import ops
from torchvision.models.detection import _utils as utils
from torchvision.models.detection import roi_heads
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

RANDOM = np.random.default_rng(0)


def boxes(count, side=64.0, smallest=1.0):
    corner = RANDOM.uniform(-0.1 * side, 0.9 * side, (count, 2))
    size = smallest + RANDOM.exponential(0.2 * side, (count, 2))
    return torch.tensor(np.round(np.concatenate([corner, corner + size], 1), 2), dtype=torch.float32)


def overlaps(arrays):
    a, b = boxes(12), boxes(9)
    arrays |= {"overlap/a": a, "overlap/b": b, "overlap/iou": ops.box_iou(a, b)}
    arrays |= {"overlap/giou": ops.generalized_box_iou(a, b), "overlap/ciou": ops.complete_box_iou(a, b)}
    for name, loss in (("giou", ops.generalized_box_iou_loss), ("ciou", ops.complete_box_iou_loss)):
        x = a[:9].clone().requires_grad_()
        value = loss(x, b)
        arrays[f"overlap/{name}_loss"] = value
        (arrays[f"overlap/{name}_gradient"],) = torch.autograd.grad(value.sum(), [x])


def codes(arrays):
    a, b = boxes(8), boxes(8)
    coder = utils.BoxCoder((10.0, 10.0, 5.0, 5.0))
    encoded = coder.encode_single(a, b)
    raw = torch.tensor(RANDOM.normal(0, 12, (8, 4)).round(2), dtype=torch.float32)
    raw[0, 2], raw[1, 3] = 100.0, -100.0  # beyond the largest factor
    arrays |= {"codes/boxes": a, "codes/anchors": b, "codes/encoded": encoded, "codes/raw": raw}
    arrays["codes/decoded"] = coder.decode_single(raw, b)


def anchors(arrays):
    generator = AnchorGenerator(((32,), (64, 100)), ((0.5, 1.0, 2.0),) * 2)
    images = ImageList(torch.zeros(1, 3, 96, 128), [(96, 128)])
    (found,) = generator(images, [torch.zeros(1, 1, 12, 16), torch.zeros(1, 1, 5, 8)])
    arrays["anchors/all"] = found


def matching(arrays):
    objects, places = boxes(6), boxes(200)
    places[7], places[8] = objects[2], objects[2]  # ties
    iou = ops.box_iou(objects, places).round(decimals=2)
    arrays |= {"matching/iou": iou, "matching/rpn": utils.Matcher(0.7, 0.3, True)(iou)}
    arrays["matching/head"] = utils.Matcher(0.5, 0.5, False)(iou)


def suppression(arrays):
    centers = RANDOM.uniform(8, 56, (6, 2))[RANDOM.integers(0, 6, 60)]
    places = np.concatenate([centers - 6, centers + 6], 1) + RANDOM.normal(0, 2, (60, 4))
    places = torch.tensor(places.round(2), dtype=torch.float32)
    scores = torch.tensor(RANDOM.permutation(60) / 60, dtype=torch.float32)
    classes = torch.tensor(RANDOM.integers(0, 3, 60))
    arrays |= {"nms/boxes": places, "nms/scores": scores, "nms/classes": classes}
    arrays |= {"nms/one": ops.nms(places, scores, 0.5), "nms/each": ops.batched_nms(places, scores, classes, 0.5)}


def alignment(arrays):
    """Boxes of all sizes, some over the border, outside, and of no area."""
    sizes = [(16, 20), (8, 10), (4, 5)]  # of an image of 64x80: strides 4, 8 and 16
    maps = [torch.tensor(RANDOM.integers(-9, 10, (2, 3, h, w)), dtype=torch.float32) for h, w in sizes]
    places = torch.stack([boxes(14), boxes(14)])
    places[0, 0] = torch.tensor([5.0, 5.0, 5.0, 5.0])
    places[0, 1] = torch.tensor([100.0, 90.0, 130.0, 120.0])
    places[1, 0] = torch.tensor([-20.0, -10.0, 95.0, 75.0])
    arrays |= {f"roi_align/map{i}": x for i, x in enumerate(maps)} | {"roi_align/boxes": places}
    pool = ops.MultiScaleRoIAlign(["0", "1", "2"], (5, 7), 2, canonical_scale=16, canonical_level=3)
    for x in maps:
        x.requires_grad_()
    named = OrderedDict((str(i), x) for i, x in enumerate(maps))
    pooled = pool(named, list(places), [(64, 80)] * 2)
    arrays["roi_align/levels"] = pool.map_levels(list(places))
    weights = torch.tensor(RANDOM.integers(-3, 4, pooled.shape), dtype=torch.float32)
    gradients = torch.autograd.grad((weights * pooled).sum(), maps)
    arrays |= {"roi_align/pooled": pooled, "roi_align/weights": weights}
    arrays |= {f"roi_align/gradient{i}": x for i, x in enumerate(gradients)}
    for name, samples in (("aligned", 2), ("adaptive", -1)):
        arrays[f"roi_align/{name}"] = ops.roi_align(maps[0], list(places), (5, 7), 0.25, samples, aligned=True)


def masks(arrays):
    instance_map = np.zeros((40, 48), "int64")
    y, x = np.mgrid[:40, :48]
    for i, (cy, cx, r) in enumerate(((10, 12, 7), (25, 30, 11), (31, 9, 5), (18, 24, 4)), 1):
        instance_map[np.hypot(y - cy, x - cx) < r] = i
    places = torch.tensor(
        [[4.2, 3.1, 19.7, 17.6], [18.0, 13.5, 44.0, 37.0], [-3.0, 24.0, 16.0, 44.0], [20, 14, 28.4, 22.1]]
    )
    truth = torch.tensor(np.stack([instance_map == i for i in (1, 2, 3, 4)]), dtype=torch.uint8)
    targets = roi_heads.project_masks_on_boxes(truth, places, torch.arange(4), 14)
    arrays |= {"masks/map": instance_map.astype("uint8"), "masks/boxes": places, "masks/targets": targets}
    small = torch.tensor(RANDOM.integers(0, 65, (7, 1, 14, 14)) / 64, dtype=torch.float32)
    extra = torch.tensor([[30.3, 20.2, 30.9, 20.7], [-6.0, -4.0, 9.5, 8.5], [40.0, 33.0, 60.0, 52.0]])
    places = torch.cat([places, extra])
    arrays |= {"masks/small": (small[:, 0] * 64).to(torch.uint8), "masks/places": places}
    arrays["masks/pasted"] = roi_heads.paste_masks_in_image(small, places, (40, 48))[:, 0]


def main():
    arrays = {}
    for part in (overlaps, codes, anchors, matching, suppression, alignment, masks):
        part(arrays)
    arrays = {name: x.detach().numpy() if isinstance(x, torch.Tensor) else x for name, x in arrays.items()}
    arrays = {name: x.astype("int32") if x.dtype == np.int64 else x for name, x in arrays.items()}
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **arrays)


if __name__ == "__main__":
    main()
