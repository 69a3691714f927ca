"""Mask R-CNN: the case of Faster R-CNN with masks."""

import numpy as np
from case import NO_MASK, WHOLE, Case, covered_by

import keras_dl
from cases import faster_rcnn


def targets(rng, n):
    instance_map = np.zeros((n, *faster_rcnn.SHAPE[:2]), "int32")
    for i in range(n):
        for slot, x, y, w, h in faster_rcnn.objects(i):
            instance_map[i, y : y + h, x : x + w] = slot + 1
    return faster_rcnn.targets(rng, n) | dict(instance_map=instance_map)


def prepare(model, images):
    """Also masks that cover most of their boxes: of a new net, all pixels are near the threshold."""
    faster_rcnn.prepare(model, images)
    layer = model.mask_head.get_layer("masks")
    layer.set_weights([layer.get_weights()[0], np.full(layer.filters, 2.0)])


CASES = [
    Case(
        name="mask_rcnn",
        architecture="mask_rcnn",
        model=keras_dl.MaskRCNN,
        arguments=faster_rcnn.ARGUMENTS | dict(mask_dims=(7,), mask_samples=3, paste=True),
        inputs=faster_rcnn.inputs,
        targets=targets,
        compile={},
        bad_arguments=((dict(mask_dims=()), "mask_dims"), (dict(mask_samples=0), "mask_samples")),
        served=dict(postprocess=faster_rcnn.outputs),
        whole_signatures=WHOLE,
        integer_signatures=("raw",),
        prepare=prepare,
        skips=NO_MASK,
        slow_checks=covered_by("faster_rcnn", but="the mask head, which tests/test_mask_rcnn.py checks")
        | {"trains_equally_under_xla": "13 CPU seconds; test_roi_align.py compiles the targets of masks"},
    )
]
