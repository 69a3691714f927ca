"""Faster R-CNN. Its call returns maps; what is chosen of them is served, and trained with."""

import numpy as np
from case import NO_MASK, WHOLE, Case

import keras_dl

SHAPE = (24, 28, 3)  # padded to 24 x 32
MAPS = {2: (6, 8), 3: (3, 4), 4: (2, 2)}  # sides by level
CLASSES, CHANNELS, ANCHORS = 3, 6, 2
PLACES = 15  # images that differ by more than noise
ARGUMENTS = dict(
    image_shape=SHAPE,
    num_classes=CLASSES,
    num_blocks=(1, 1),
    filters=(6, 8),
    block="basic",
    pyramid_filters=CHANNELS,
    head_dims=(12,),
    anchor_sizes=((7,), (11,), (18,)),
    anchor_ratios=(0.7, 1.4),
    canonical_side=40.0,
    anchor_samples=24,
    box_samples=16,
    candidates=(20, 100),
    proposals=(14, 100),
    score_threshold=0.35,
    iou_threshold=0.8,
    max_detections=101,
    class_weights=(1.0, 2.0, 0.5),
    frozen_norms=True,
    norm_epsilon=1e-3,
    conventions="torchvision",
    roi_form="matrix",
    mean=60.0,
    std=50.0,
    seed=3,
)
BAD_ARGUMENTS = (
    (dict(num_classes=0), "num_classes"),
    (dict(num_blocks=(1, 1, 1)), "num_blocks"),
    (dict(anchor_sizes=((8.0,),)), "anchor_sizes"),
    (dict(anchor_sizes=((8, 0), (10, 12))), "anchor_sizes"),
    (dict(anchor_ratios=()), "anchor_ratios"),
    (dict(canonical_side=0.0), "canonical_side"),
    (dict(candidates=(10,)), "candidates"),
    (dict(proposals=(0, 5)), "proposals"),
    (dict(score_threshold=1.5), "score_threshold"),
    (dict(class_weights=(1.0, 2.0)), "class_weights"),
    (dict(norm_epsilon=-1.0), "norm_epsilon"),
    (dict(conventions="detectron2"), "conventions"),
    (dict(roi_form="crop"), "roi_form"),
)


def objects(i):
    """The boxes of example `i`: one or two; none in each fifth.

    They repeat, so that integers are calibrated for what the proof looks at: values beyond are cut, and not rounded.
    """
    height, width, _ = SHAPE
    i %= PLACES
    random = np.random.default_rng(i)
    for slot in range(0 if i % 5 == 4 else 1 + i % 2):
        w, h = random.integers(7, 12, 2)
        x, y = slot * width // 2 + random.integers(0, width // 2 - w), random.integers(0, height - h)
        yield slot, x, y, w, h


def inputs(rng, n):
    """Bright rectangles on noise; the channel says which class."""
    images = rng.integers(0, 30, (n, *SHAPE))
    for i in range(n):
        for slot, x, y, w, h in objects(i):
            images[i, y : y + h, x : x + w, slot] += 150
    return images.astype("float32")


def targets(rng, n):
    boxes, classes = np.zeros((n, 3, 4), "float32"), np.full((n, 3), -1, "int32")
    for i in range(n):
        for slot, x, y, w, h in objects(i):
            boxes[i, slot], classes[i, slot] = (x, y, x + w, y + h), slot
    return dict(boxes=boxes, classes=classes)


def outputs(rng, n):
    """What `raw` returns: maps, scores and codes."""
    rows = {}
    for level, sides in MAPS.items():
        if level < 4:
            rows[f"maps_{level}"] = 0.3 * rng.normal(size=(n, *sides, CHANNELS))
        rows[f"objectness_{level}"] = rng.normal(size=(n, *sides, ANCHORS))
        rows[f"codes_{level}"] = 0.002 * rng.normal(size=(n, *sides, 4 * ANCHORS))
    return {name: x.astype("float32") for name, x in rows.items()}


def prepare(model, images):
    """Statistics that frozen norms could have been loaded with; and proposals are detections of the first class.

    No score is near the threshold, and few boxes are suppressed. Else a rounding that moves one box would let another
    one appear, and sets of files could not agree. For the same reason, no two anchors of a place overlap by about 0.7,
    the threshold of proposals, and no set is cut.
    """
    random = np.random.default_rng(0)
    for variable in model.non_trainable_variables:
        if variable.name == "moving_mean":
            variable.assign(0.1 * random.normal(size=variable.shape))
    layers = {layer: model.net.get_layer(layer) for layer in ("rpn_conv", "rpn_objectness", "rpn_codes")}
    layers |= {layer: model.box_head.get_layer(layer) for layer in ("classes", "codes")}
    scales = dict(rpn_conv=0.2, rpn_objectness=1.0, rpn_codes=0.01, classes=0.1, codes=0.005)
    for name, layer in layers.items():
        kernel, bias = layer.get_weights()
        layer.set_weights([scales[name] * random.normal(size=kernel.shape), bias])
    layers["classes"].bias.assign([3.0, 0.0, 0.0, -1.5])


CASES = [
    Case(
        name="faster_rcnn",
        architecture="faster_rcnn",
        model=keras_dl.FasterRCNN,
        arguments=ARGUMENTS,
        inputs=inputs,
        targets=targets,
        compile={},
        bad_arguments=BAD_ARGUMENTS,
        served=dict(postprocess=outputs),
        whole_signatures=WHOLE,
        integer_signatures=("raw",),
        prepare=prepare,
        skips=NO_MASK,
        slow_checks={
            "exports_to_onnx": "10 CPU seconds; test_detection_files.py has RoIAlign and suppression in such a file"
        },
    )
]
