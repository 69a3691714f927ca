"""YOLO: the anchor-free generation, and the net of 2015."""

import numpy as np
from case import NO_MASK, WHOLE, Case, images

import keras_dl

CLASSES, BINS = 3, 6
LEVELS = {8: (8, 12), 16: (4, 6)}  # of 64 x 96 pixels


def objects(height, width, slots=3):
    """Boxes in pixels; in each third image there is none."""

    def make(rng, n):
        corners = rng.uniform(0, 0.5, (n, slots, 2)) * [width, height]
        sides = rng.uniform(0.2, 0.5, (n, slots, 2)) * [width, height]
        classes = rng.integers(0, CLASSES, (n, slots)).astype("int32")
        classes[np.arange(n) % 3 == 2] = -1
        classes[:, -1] = -1
        boxes = np.where(classes[..., None] >= 0, np.concatenate([corners, corners + sides], -1), 0)
        return {"boxes": boxes.astype("float32"), "classes": classes}

    return make


def maps(rng, n):
    """What `raw` returns, with scores well apart."""
    found = {}
    for stride, sides in LEVELS.items():
        found[f"boxes_{stride}"] = rng.normal(size=(n, *sides, 4 * BINS)).astype("float32")
        found[f"classes_{stride}"] = rng.normal(-2, 3, (n, *sides, CLASSES)).astype("float32")
    return found


def cells(rng, n):
    """What `raw` of the net of 2015 returns."""
    shapes = {"boxes": (1, 2, 3, 4), "confidences": (1, 2, 3), "classes": (1, 2, CLASSES)}
    return {name: rng.uniform(0.1, 1, (n, *shape)).astype("float32") for name, shape in shapes.items()}


def warmed(model, inputs):
    """Statistics of the data, without which maps of a new net hardly vary; and scores that are not all of 1e-5.

    Scales and offsets that leave relu linear but for one value in a hundred: else each of the 53 layers of a new net
    enlarges what rounding does, as those of a trained one do not.
    """
    norms = [layer for layer in model.net.layers if layer.name.endswith(".bn")]
    for layer in norms:
        layer.momentum = 0.0
        layer.gamma.assign(np.full(layer.gamma.shape, 0.4))
        layer.beta.assign(np.ones(layer.beta.shape))
    model(inputs, training=True)
    rng = np.random.default_rng(0)
    for layer in norms:
        layer.momentum = 0.97
    for layer in model.net.layers:
        if layer.name.startswith("model.19.cv3") and layer.name.endswith(".2"):
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel, rng.uniform(-3, 0, bias.shape)])


def large(model, inputs):
    """Boxes of half of the sides, where those of a new net have no area."""
    layer = model.net.get_layer("boxes")
    layer.set_weights([layer.get_weights()[0], np.full(layer.units, 0.7)])


UNLIKE_UNDER_XLA = {
    "trains_equally_under_xla": "which places learn an object hangs on rounding; "
    "test_yolo.py::test_losses_are_the_same_under_xla compares the losses and their gradients"
}
SLOW = {
    "compiles_under_xla": "a step of 53 normalized convolutions compiles for 26 CPU seconds; yolo_v1 compiles one, "
    "test_yolo.py::test_losses_are_the_same_under_xla these losses",
    "trains_in_mixed_precision": "12 CPU seconds; yolo_v1 trains in it, and test_yolo.py computes losses of half maps",
    "frozen_layers_stay_frozen": "6 CPU seconds, of layers that ResNet's case has, too",
    "exports_to_onnx": "6 CPU seconds; test_detection_files.py has the ops of detections in such a file",
}
REFUSED_BY_BOTH = (
    (dict(image_shape=(64, 100, 1)), "image_shape"),
    (dict(num_classes=0), "num_classes"),
    (dict(class_weights=(1.0, 2.0)), "class_weights"),
    (dict(iou_threshold=1.5), "iou_threshold"),
)
COVERED = ("trains_equally_under_xla", "frozen_layers_stay_frozen", "exports_to_onnx")

CASES = [
    Case(
        name="yolo",
        architecture="yolo",
        model=keras_dl.YOLO,
        arguments=dict(
            image_shape=(64, 96, 1),
            num_classes=CLASSES,
            depth=0.1,
            width=0.09,
            max_channels=256,
            strides=tuple(LEVELS),
            bins=BINS,
            activation="relu",
            box_weight=5.0,
            class_weight=1.0,
            dfl_weight=1.0,
            class_weights=(1.0, 2.0, 0.5),
            positives=80,
            score_power=1.0,
            overlap_power=4.0,
            smallest_side=8.0,
            score_threshold=0.3,
            iou_threshold=0.8,  # those of neighboring places, with an IoU of about 0.67 and 0.47, are kept
            several=True,
            candidates=350,
            max_detections=250,  # no set is cut, which noise would cut elsewhere
        ),
        inputs=images(64, 96, 1),
        targets=objects(64, 96),
        compile={},
        prepare=warmed,
        served={"postprocess": maps},
        integer_signatures=("raw",),
        whole_signatures=WHOLE,
        bad_arguments=(
            *REFUSED_BY_BOTH,
            (dict(bins=1), "bins"),
            (dict(strides=(8, 32)), "strides"),
            (dict(activation="no"), "activation"),
        ),
        skips=NO_MASK | UNLIKE_UNDER_XLA,
        slow_checks=SLOW,
    ),
    Case(
        name="yolo_v1",
        architecture="yolo",
        model=keras_dl.YOLOv1,
        arguments=dict(
            image_shape=(64, 128, 1),
            num_classes=CLASSES,
            boxes_per_cell=3,
            width=0.06,  # four filters at first: of one, int8 loses 0.26 in 24 layers
            hidden_dim=12,
            dropout_rate=0.0,
            slope=0.2,
            box_weight=3.0,
            empty_weight=0.4,
            class_weights=(1.0, 2.0, 0.5),
            score_threshold=0.05,
            iou_threshold=0.4,
            max_detections=9,
        ),
        inputs=images(64, 128, 1),
        targets=objects(64, 128),
        compile={},
        prepare=large,
        served={"postprocess": cells},
        integer_signatures=("raw",),
        whole_signatures=WHOLE,
        bad_arguments=(
            *REFUSED_BY_BOTH,
            (dict(boxes_per_cell=0), "boxes_per_cell"),
            (dict(dropout_rate=1.0), "dropout_rate"),
        ),
        skips=NO_MASK,
        slow_checks=dict.fromkeys(COVERED, "convolutions and dense layers, as of the cases of cnn"),
    ),
]
