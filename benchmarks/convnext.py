"""ConvNeXt-T against keras.applications and torchvision: one training step.

The figures are in docs/speed.md.
"""

from keras_dl.benchmarks.contenders import Task
from keras_dl.benchmarks.devices import keras_train, torch_train, torchvision_models

IMAGENET = (224, 224, 3)


def ours():
    import keras_dl

    return keras_dl.ConvNeXt.from_preset("convnext_tiny")


def theirs():
    import keras

    return keras.applications.ConvNeXtTiny(weights=None, classifier_activation=None)


def torchs():
    return torchvision_models("convnext").convnext_tiny()


TASKS = [
    Task(
        "convnext-tiny-train",
        "ConvNeXt-T, one training step, batch 8, 224x224x3, float32",
        {
            "keras_dl graph": keras_train(ours, IMAGENET, 1000, 8, jit=False),
            "keras.applications graph": keras_train(theirs, IMAGENET, 1000, 8, jit=False),
            "torchvision eager": torch_train(torchs, IMAGENET, 1000, 8),
        },
        steps=3,
        warmup=1,
    ),
]
