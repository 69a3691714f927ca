"""DETR with a ResNet-50 against that of transformers: a training step with its matching, and inference.

Measured by `keras-dl benchmark detr`. The figures were not measured on an idle machine yet.
"""

import numpy as np

from keras_dl.benchmarks.contenders import Task
from keras_dl.benchmarks.devices import torch_descent
from keras_dl.extras import require

SHAPE, CLASSES, BATCH, OBJECTS = (320, 320, 3), 91, 2, 8


def batch():
    """Images, and `OBJECTS` objects in each: xyxy in pixels, and classes."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (BATCH, *SHAPE)).astype("float32")
    corner = random.uniform(0, 200, (BATCH, OBJECTS, 2))
    boxes = np.concatenate([corner, corner + random.uniform(20, 110, (BATCH, OBJECTS, 2))], -1).astype("float32")
    return images, boxes, random.integers(0, CLASSES, (BATCH, OBJECTS)).astype("int32")


def model():
    import keras

    import keras_dl

    keras.utils.set_random_seed(0)
    return keras_dl.DETR.from_preset("detr_resnet50", image_shape=SHAPE, frozen_stages=1)


def trained(jit):
    """One `train_step` of AdamW with two rates, as the paper's."""

    def set_up():
        import tensorflow as tf

        from keras_dl.optimizers import AdamW

        net = model()
        net.compile(AdamW(1e-4, 1e-4, rate_factors={net.BODY: 0.1}, global_clipnorm=0.1), jit_compile=jit)
        net.optimizer.build(net.trainable_variables)
        images, boxes, classes = map(tf.constant, batch())
        function = tf.function(net.train_step, jit_compile=jit)
        return lambda: float(function((images, {"boxes": boxes, "classes": classes}))["loss"])

    return set_up


def served(jit):
    def set_up():
        import tensorflow as tf

        net, images = model(), tf.constant(batch()[0])
        function = tf.function(net.raw, jit_compile=jit)
        return lambda: function(images)["logits"].numpy()

    return set_up


def peer():
    """transformers' DETR with its own ResNet-50: the same layers."""
    transformers, torch = require("transformers", extra="benchmarks"), require("torch", extra="benchmarks")
    torch.manual_seed(0)
    body = transformers.ResNetConfig(out_features=["stage4"])
    config = transformers.DetrConfig(
        use_timm_backbone=False, backbone_config=body, num_labels=CLASSES, auxiliary_loss=True
    )
    return transformers.DetrForObjectDetection(config)


def peer_trained():
    torch = require("torch", extra="benchmarks")
    net, (images, boxes, classes) = peer().train(), batch()
    body = [p for name, p in net.named_parameters() if "backbone" in name and p.requires_grad]
    others = [p for name, p in net.named_parameters() if "backbone" not in name]
    groups = [{"params": others}, {"params": body, "lr": 1e-5}]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, weight_decay=1e-4)

    def clip(*_):  # torch takes a result for new arguments of the step
        torch.nn.utils.clip_grad_norm_(net.parameters(), 0.1)

    optimizer.register_step_pre_hook(clip)
    pixels = torch.from_numpy((images.transpose(0, 3, 1, 2) - 116.0) / 57.5).float()
    boxes = boxes / SHAPE[0]
    codes = np.concatenate([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], -1)
    labels = [
        {"class_labels": torch.from_numpy(c).long(), "boxes": torch.from_numpy(b)}
        for c, b in zip(classes, codes, strict=True)
    ]

    return torch_descent(optimizer, lambda: net(pixels, labels=labels).loss)


def peer_served():
    torch = require("torch", extra="benchmarks")
    net, pixels = peer().eval(), torch.from_numpy((batch()[0].transpose(0, 3, 1, 2) - 116.0) / 57.5).float()

    def step():
        with torch.inference_mode():
            return net(pixels).logits.numpy()

    return step


TASKS = [
    Task(
        "detr-train",
        f"DETR, ResNet-50, one training step, batch {BATCH}, 320x320, {OBJECTS} objects an image, float32",
        {"keras_dl graph": trained(False), "keras_dl xla": trained(True), "transformers eager": peer_trained},
        steps=6,
        warmup=2,
    ),
    Task(
        "detr-infer",
        f"DETR, ResNet-50, inference, batch {BATCH}, 320x320, float32",
        {"keras_dl graph": served(False), "keras_dl xla": served(True), "transformers eager": peer_served},
        steps=10,
        warmup=2,
    ),
]
