"""Faster R-CNN and Mask R-CNN with ResNet-50 against torchvision's: one training step, and inference.

Both have 91 classes of torchvision, frozen norms, and images of one shape, batch 2. docs/speed.md has the figures.
"""

import numpy as np

from keras_dl.benchmarks.contenders import Task
from keras_dl.benchmarks.devices import torch_descent, torchvision_models
from keras_dl.extras import require

SHAPE, BATCH, OBJECTS = (320, 320, 3), 2, 8
NETS = {"faster_rcnn": "fasterrcnn_resnet50_fpn", "mask_rcnn": "maskrcnn_resnet50_fpn"}


def ours(name):
    """A new model; its form of RoIAlign is the one that is faster for images of this size."""
    import keras_dl

    cls = {"faster_rcnn": keras_dl.FasterRCNN, "mask_rcnn": keras_dl.MaskRCNN}[name]
    return cls.from_preset(NETS[name], image_shape=SHAPE, norm_epsilon=1e-5, roi_form="gather")


def theirs(name):
    options = dict(weights=None, weights_backbone=None, num_classes=91, min_size=SHAPE[0], max_size=SHAPE[1])
    norm = require("torchvision.ops.misc", extra="benchmarks").FrozenBatchNorm2d
    return getattr(torchvision_models("detection"), NETS[name])(**options, norm_layer=norm)


def scenes():
    """Images in [0, 255], and for each `OBJECTS` boxes, classes and a map of instances."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH, *SHAPE)).astype("float32")
    corner = rng.uniform(0, 220, (BATCH, OBJECTS, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(20, 100, (BATCH, OBJECTS, 2))], -1).astype("float32")
    classes = rng.integers(0, 90, (BATCH, OBJECTS)).astype("int32")
    instance_map = np.zeros((BATCH, *SHAPE[:2]), "int32")
    for i, number in np.ndindex(BATCH, OBJECTS):
        x1, y1, x2, y2 = boxes[i, number].astype(int)
        instance_map[i, y1:y2, x1:x2] = number + 1
    return images, dict(boxes=boxes, classes=classes, instance_map=instance_map)


def keras_step(name, jit):
    """One `train_step` with SGD and momentum, compiled as `fit` compiles it."""

    def set_up():
        import keras
        import tensorflow as tf

        keras.utils.set_random_seed(0)
        model = ours(name)
        model.compile(keras.optimizers.SGD(1e-4, momentum=0.9), jit_compile=jit)
        model.optimizer.build(model.trainable_variables)
        images, targets = scenes()
        data = tf.constant(images), {key: tf.constant(targets[key]) for key in model.target_names}
        function = tf.function(model.train_step, jit_compile=jit, reduce_retracing=True)
        return lambda: float(function(data)["loss"])

    return set_up


def keras_detect(name):
    def set_up():
        import tensorflow as tf

        model = ours(name)
        images = tf.constant(scenes()[0])
        return lambda: model.detect(images).scores.numpy()

    return set_up


def torch_images(torch):
    return [torch.from_numpy(x / 255).permute(2, 0, 1) for x in scenes()[0]]


def torch_step(name):
    def set_up():
        torch = require("torch", extra="benchmarks")
        torch.manual_seed(0)
        model = theirs(name).train()
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-4, momentum=0.9)
        images, (_, arrays) = torch_images(torch), scenes()
        numbers = np.arange(1, OBJECTS + 1)[:, None, None]
        targets = [
            dict(
                boxes=torch.from_numpy(boxes),
                labels=torch.from_numpy(classes + 1).long(),
                masks=torch.from_numpy((instances == numbers).astype("uint8")),
            )
            for boxes, classes, instances in zip(*arrays.values(), strict=True)
        ]

        return torch_descent(optimizer, lambda: sum(model(images, targets).values()))

    return set_up


def torch_detect(name):
    def set_up():
        torch = require("torch", extra="benchmarks")
        model, images = theirs(name).eval(), torch_images(torch)

        def step():
            with torch.inference_mode():
                return [x["scores"].numpy() for x in model(images)]

        return step

    return set_up


TITLES = {"faster_rcnn": "Faster R-CNN", "mask_rcnn": "Mask R-CNN"}
TASKS = [
    task
    for name, title in TITLES.items()
    for task in (
        Task(
            f"{name}-train",
            f"{title}, ResNet-50, one training step, batch {BATCH}, 320x320x3, float32",
            {
                "keras_dl graph": keras_step(name, jit=False),
                "keras_dl xla": keras_step(name, jit=True),
                "torchvision eager": torch_step(name),
            },
            steps=3,
            warmup=1,
        ),
        Task(
            f"{name}-infer",
            f"{title}, ResNet-50, inference, batch {BATCH}, 320x320x3, float32",
            {"keras_dl graph": keras_detect(name), "torchvision eager": torch_detect(name)},
            steps=5,
            warmup=1,
        ),
    )
]
