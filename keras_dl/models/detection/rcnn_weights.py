"""Weights of torchvision's Faster R-CNN and Mask R-CNN.

torchvision counts the background first, and it comes last here. Files of versions before 0.13 have shorter names for
some layers.
"""

import re
from collections.abc import Mapping

import numpy as np

from keras_dl.models.vision.resnet import torch_stages
from keras_dl.weights import Weights, load_torch, read_safetensors

# Old names, and what they are now.
_RENAMED = (
    (r"(backbone\.fpn\.\w+_blocks\.\d+)\.(weight|bias)", r"\1.0.\2"),
    (r"rpn\.head\.conv\.(weight|bias)", r"rpn.head.conv.0.0.\1"),
    (r"roi_heads\.mask_head\.mask_fcn(\d+)\.(weight|bias)", lambda m: f"{_MASK}.{int(m[1]) - 1}.0.{m[2]}"),
)
_MASK = "roi_heads.mask_head"
# Layers with outputs for each class, and the rows of one.
_BY_CLASS = {
    "roi_heads.box_predictor.cls_score": 1,
    "roi_heads.box_predictor.bbox_pred": 4,
    "roi_heads.mask_predictor.mask_fcn_logits": 1,
}


def load_torchvision(model, weights: Weights, head: bool = True) -> None:
    """Loads the weights of a net of torchvision into a `FasterRCNN` or a model with masks.

    Args:
        model: `FasterRCNN`, or a subclass.
        weights: mapping from name to array, or the path of a `.safetensors` file.
        head: bool. Whether the layers whose outputs belong to classes are loaded.

    Raises:
        ValueError: if entries are missing, unknown or of another shape. Then the model stays as it was.
    """
    if not isinstance(weights, Mapping):
        weights = read_safetensors(weights)
    modules = modules_of(model)
    without = () if head else tuple(_BY_CLASS)
    modules = {name: layer for name, layer in modules.items() if name not in without}
    height, width, channels = model.pooled_shape
    flattened = {"roi_heads.box_head.fc6": (height, width, channels)}
    load_torch(modules, converted(weights), flattened, without)


def converted(weights: Mapping) -> dict[str, np.ndarray]:
    """The arrays by their names today, with the background last."""
    found = {}
    for name, array in weights.items():
        for old, new in _RENAMED:
            name = re.sub(rf"^{old}$", new, name)
        rows = _BY_CLASS.get(name.rpartition(".")[0])
        found[name] = array if rows is None else np.roll(np.asarray(array), -rows, axis=0)
    return found


def modules_of(model) -> dict:
    """The layers by their names in torchvision."""
    net, head = model.net, model.box_head
    modules = torch_stages(net, model.num_blocks, "backbone.body.")
    modules |= net.get_layer("pyramid").torch_modules("backbone.fpn")
    rpn = {"conv.0.0": "rpn_conv", "cls_logits": "rpn_objectness", "bbox_pred": "rpn_codes"}
    modules |= {f"rpn.head.{theirs}": net.get_layer(ours) for theirs, ours in rpn.items()}
    for i in range(len(model.head_dims)):
        modules[f"roi_heads.box_head.fc{6 + i}"] = head.get_layer(f"fc_{i}")
    modules["roi_heads.box_predictor.cls_score"] = head.get_layer("classes")
    modules["roi_heads.box_predictor.bbox_pred"] = head.get_layer("codes")
    mask_head = getattr(model, "mask_head", None)
    if mask_head is not None:
        for i in range(len(model.mask_dims)):
            modules[f"{_MASK}.{i}.0"] = mask_head.get_layer(f"conv_{i}")
        modules["roi_heads.mask_predictor.conv5_mask"] = mask_head.get_layer("enlarge")
        modules["roi_heads.mask_predictor.mask_fcn_logits"] = mask_head.get_layer("masks")
    return modules
