"""FCN-ResNet50 against torchvision's: one training step with both heads, and inference.

docs/speed.md has the figures.
"""

import numpy as np

from keras_dl.benchmarks.contenders import Task
from keras_dl.benchmarks.devices import keras_infer, torch_infer, torch_step, torchvision_models

SHAPE, CLASSES, BATCH = (320, 320, 3), 21, 2


def ours():
    import keras_dl

    return keras_dl.FCNResNet.from_preset("fcn_resnet50")


def torchs():
    segmentation = torchvision_models("segmentation")
    return segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True)


def batch():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH, *SHAPE)).astype("float32")
    return images, rng.integers(0, CLASSES, (BATCH, *SHAPE[:2]))


def keras_step(jit):
    """One `train_step` with SGD and momentum, compiled as `fit` compiles it."""

    def set_up():
        import keras
        import tensorflow as tf

        from keras_dl.losses import PixelCrossentropy

        keras.utils.set_random_seed(0)
        model = ours()
        model.compile(keras.optimizers.SGD(0.01, momentum=0.9), PixelCrossentropy(), jit_compile=jit)
        model.optimizer.build(model.trainable_variables)
        data = tuple(tf.constant(x) for x in batch())
        function = tf.function(model.train_step, jit_compile=jit, reduce_retracing=True)
        return lambda: float(function(data)["loss"])

    return set_up


def torch_loss(torch, outputs):
    """Cross-entropy of the head, and half of that of the auxiliary head, without label 255."""
    labels = torch.from_numpy(batch()[1])
    return sum(
        weight * torch.nn.functional.cross_entropy(outputs[name], labels, ignore_index=255)
        for name, weight in (("out", 1.0), ("aux", 0.5))
    )


def ours_infer():
    """The head alone, as in torchvision's inference only the result of the head is read."""
    import keras

    model = ours()
    return keras.Model(model.input, model.output["logits"])


TASKS = [
    Task(
        "fcn-resnet50-train",
        f"FCN-ResNet50, one training step, batch {BATCH}, 320x320x3, float32",
        {
            "keras_dl graph": keras_step(jit=False),
            "keras_dl xla": keras_step(jit=True),
            "torchvision eager": torch_step(torchs, batch()[0], torch_loss),
        },
        steps=4,
        warmup=1,
    ),
    Task(
        "fcn-resnet50-infer",
        f"FCN-ResNet50, inference, batch {BATCH}, 320x320x3, float32",
        {
            "keras_dl graph": keras_infer(ours_infer, SHAPE, BATCH),
            "torchvision eager": torch_infer(torchs, SHAPE, BATCH, lambda outputs: outputs["out"].numpy()),
        },
        steps=8,
        warmup=2,
    ),
]
