"""Makes detr.npz: transformers' DETR at a tiny size.

    python tests/oracles/detr.py

Weights and statistics of batch normalization are random, so that no term drops out. Box logits spread, so that costs of
the matching are well apart.

    keys                          what
    weight/...                    the state dict, in the layout of transformers 5
    original/...                  the same in the layout of facebookresearch/detr: projections of an attention stacked
    images, mask                  uint8 (2, 40, 56, 3); bool (2, 40, 56), False in padding
    boxes, classes                targets: (2, 4, 4) xyxy in pixels, (2, 4), -1 in slots of no object
    plain/..., masked/...         without and with the mask: logits and boxes of the last layer; loss_ce, loss_bbox and
                                  loss_giou of each layer; matching, the query of each object
    matcher/...                   HungarianMatcher on its own: logits, boxes, targets and classes, and its total costs
    positions/mask, positions     DetrSinePositionEmbedding of a mask

With `auxiliary_loss=True`, transformers feeds the normalized states of each decoder layer to the next one, and gives
other outputs than without, and than the authors' code. So the layers are run without it, and its losses are those of
their states.

Made with transformers 5.24.0 and torch 2.14.1 on CPU, in an environment of its own.
"""

import pathlib

import numpy as np
import torch
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig
from transformers.loss.loss_for_object_detection import HungarianMatcher, generalized_box_iou
from transformers.models.detr.modeling_detr import DetrSinePositionEmbedding

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
CLASSES, QUERIES, WIDTH, FILTERS, BLOCKS = 5, 7, 16, (4, 6), (1, 2)


def corners(boxes):
    return torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1)


def make_model():
    body = ResNetConfig(
        embedding_size=FILTERS[0],
        hidden_sizes=[4 * n for n in FILTERS],
        depths=list(BLOCKS),
        layer_type="bottleneck",
        out_features=[f"stage{len(BLOCKS)}"],
    )
    config = DetrConfig(
        use_timm_backbone=False,
        backbone_config=body,
        num_queries=QUERIES,
        num_labels=CLASSES,
        d_model=WIDTH,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
    )
    model = DetrForObjectDetection(config).eval()
    for name, tensor in model.state_dict().items():
        if "running_var" in name:
            tensor.uniform_(0.5, 1.5)
        elif "running_mean" in name or name.endswith("bias"):
            tensor.normal_(0.0, 0.3)
        elif tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5)
        elif "bbox_predictor.layers.2" in name or "class_labels" in name or "query" in name:
            tensor.normal_(0.0, 1.0)
        elif tensor.is_floating_point():
            tensor.normal_(0.0, (1.5 / tensor[0].numel()) ** 0.5)
    return model


def original(weights):
    """The state dict in the layout of facebookresearch/detr."""
    result, names = {}, {"self_attn": "self_attn", "encoder_attn": "multihead_attn"}
    for part, count in (("encoder", 2), ("decoder", 3)):
        for i in range(count):
            ours, theirs = f"model.{part}.layers.{i}", f"transformer.{part}.layers.{i}"
            for name, other in names.items():
                if f"{ours}.{name}.q_proj.weight" not in weights:
                    continue
                for kind in ("weight", "bias"):
                    parts = [weights[f"{ours}.{name}.{x}_proj.{kind}"] for x in "qkv"]
                    result[f"{theirs}.{other}.in_proj_{kind}"] = np.concatenate(parts)
                    result[f"{theirs}.{other}.out_proj.{kind}"] = weights[f"{ours}.{name}.o_proj.{kind}"]
            norms = ["self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"]
            norms = [name for name in norms if f"{ours}.{name}.weight" in weights]
            renamed = {"mlp.fc1": "linear1", "mlp.fc2": "linear2"}
            renamed |= {name: f"norm{j}" for j, name in enumerate(norms, 1)}
            for name, other in renamed.items():
                for kind in ("weight", "bias"):
                    result[f"{theirs}.{other}.{kind}"] = weights[f"{ours}.{name}.{kind}"]
    renamed = {
        "model.decoder.layernorm": "transformer.decoder.norm",
        "model.query_position_embeddings": "query_embed",
        "model.input_projection": "input_proj",
        "class_labels_classifier": "class_embed",
        "bbox_predictor": "bbox_embed",
    }
    for name, array in weights.items():
        for start, other in renamed.items():
            if name.startswith(f"{start}."):
                result[other + name[len(start) :]] = array
    return result


def run(model, pixels, mask, boxes, classes):
    """Outputs and losses. Boxes are shares of the frame, which is at the upper left."""
    labels = []
    for i in range(len(pixels)):
        kept = classes[i] >= 0
        rows, columns = mask[i].any(1).sum(), mask[i].any(0).sum()
        size = torch.tensor([columns, rows, columns, rows])
        xyxy = boxes[i][kept] / size
        center = torch.cat([(xyxy[:, :2] + xyxy[:, 2:]) / 2, xyxy[:, 2:] - xyxy[:, :2]], -1)
        labels.append({"class_labels": classes[i][kept], "boxes": center})
    collected = []
    hooks = [x.register_forward_hook(lambda *given: collected.append(given[-1])) for x in model.model.decoder.layers]
    with torch.no_grad():
        found = model(pixels * mask[:, None], pixel_mask=mask.long())
        for hook in hooks:
            hook.remove()
        states = torch.stack([model.model.decoder.layernorm(x) for x in collected])
        logits, coordinates = model.class_labels_classifier(states), model.bbox_predictor(states).sigmoid()
        if not torch.allclose(logits[-1], found.logits, atol=1e-5):
            raise ValueError("the last decoder layer does not give the model's logits")
        model.config.auxiliary_loss = True
        loss, losses, _ = model.loss_function(
            found.logits, labels, "cpu", found.pred_boxes, model.config, logits, coordinates
        )
        model.config.auxiliary_loss = False
    matcher = HungarianMatcher(class_cost=1, bbox_cost=5, giou_cost=2)
    pairs = matcher({"logits": found.logits, "pred_boxes": found.pred_boxes}, labels)
    matching = torch.full(classes.shape, -1)
    for i, (queries, objects) in enumerate(pairs):
        matching[i, torch.nonzero(classes[i] >= 0)[:, 0][objects]] = queries
    result = {"logits": found.logits, "boxes": found.pred_boxes, "matching": matching.int(), "loss": loss}
    layers = len(states)
    for name in ("loss_ce", "loss_bbox", "loss_giou"):
        of_layers = [losses[f"{name}_{i}"] for i in range(layers - 1)] + [losses[name]]
        result[name] = torch.stack(of_layers)
    return result


def matcher_alone():
    """20 images of 1 to 9 objects and 12 queries."""
    logits, boxes = torch.randn(20, 12, CLASSES + 1), torch.rand(20, 12, 4) * 0.5 + 0.1
    targets, classes = torch.rand(20, 9, 4) * 0.5 + 0.1, torch.randint(0, CLASSES, (20, 9))
    classes[torch.arange(9)[None] > torch.randint(0, 9, (20, 1))] = -1
    totals = []
    for i in range(20):
        kept = classes[i] >= 0
        labels = [{"class_labels": classes[i][kept], "boxes": targets[i][kept]}]
        matcher = HungarianMatcher(class_cost=1, bbox_cost=5, giou_cost=2)
        ((queries, objects),) = matcher({"logits": logits[i : i + 1], "pred_boxes": boxes[i : i + 1]}, labels)
        cost = -logits[i].softmax(-1)[:, classes[i][kept]] + 5 * torch.cdist(boxes[i], targets[i][kept], p=1)
        cost -= 2 * generalized_box_iou(corners(boxes[i]), corners(targets[i][kept]))
        totals.append(cost[queries, objects].sum())
    return {
        "logits": logits,
        "boxes": boxes,
        "targets": corners(targets),
        "classes": classes.int(),
        "totals": torch.stack(totals),
    }


def main():
    torch.manual_seed(0)
    model = make_model()
    arrays = {f"weight/{name}": x.numpy() for name, x in model.state_dict().items() if "num_batches" not in name}
    weights = {name.removeprefix("weight/"): x for name, x in arrays.items()}
    arrays |= {f"original/{name}": x for name, x in original(weights).items()}
    images = torch.randint(0, 256, (2, 40, 56, 3), dtype=torch.uint8)
    mask = torch.ones(2, 40, 56, dtype=torch.bool)
    mask[0, 32:], mask[0, :, 40:], mask[1, :, 48:] = False, False, False
    boxes = torch.tensor(
        [[[2, 3, 20, 28], [20, 10, 38, 30], [1, 1, 12, 9], [0, 0, 0, 0]], [[5, 6, 40, 30]] + [[0] * 4] * 3]
    )
    classes = torch.tensor([[3, 0, 3, -1], [4, -1, -1, -1]])
    pixels = ((images.float() - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2)
    arrays |= {"images": images.numpy(), "mask": mask.numpy()}
    arrays |= {"boxes": boxes.float().numpy(), "classes": classes.int().numpy()}
    for name, valid in (("plain", torch.ones_like(mask)), ("masked", mask)):
        arrays |= {f"{name}/{key}": x.numpy() for key, x in run(model, pixels, valid, boxes, classes).items()}
    arrays |= {f"matcher/{key}": x.numpy() for key, x in matcher_alone().items()}
    valid = torch.ones(2, 5, 7, dtype=torch.bool)
    valid[0, :, :2], valid[1, 3:] = False, False
    positions = DetrSinePositionEmbedding(8, normalize=True)
    found = positions(torch.Size((2, 16, 5, 7)), torch.device("cpu"), torch.float32, valid)
    found = found.reshape(2, 5, 7, 16) if found.ndim == 3 else found.permute(0, 2, 3, 1)
    arrays |= {"positions/mask": valid.numpy(), "positions": found.numpy()}
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **arrays)


if __name__ == "__main__":
    main()
