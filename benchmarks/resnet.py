"""ResNet-50 and ResNet-20 against keras.applications and torchvision, and the LiteRT file against onnxruntime.

The figures are in docs/speed.md.
"""

from keras_dl.benchmarks.contenders import Task
from keras_dl.benchmarks.devices import (
    exported,
    keras_infer,
    keras_train,
    torch_infer,
    torch_train,
    torchvision_models,
)

IMAGENET = (224, 224, 3)
CIFAR = (32, 32, 3)


def ours50():
    import keras_dl

    return keras_dl.ResNet.from_preset("resnet50")


def ours20():
    import keras_dl

    return keras_dl.ResNet.from_preset("resnet20")


def keras50():
    import keras

    return keras.applications.ResNet50(weights=None, classifier_activation=None)


def torch50():
    return torchvision_models("resnet").resnet50()


def torch20():
    """The paper's network for CIFAR-10, built from torchvision's blocks. torchvision does not have the network."""
    from torch import nn

    resnet = torchvision_models("resnet")

    def stage(inputs, outputs, stride):
        shortcut = None
        if stride != 1:
            shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        first = resnet.BasicBlock(inputs, outputs, stride, shortcut)
        return nn.Sequential(first, resnet.BasicBlock(outputs, outputs), resnet.BasicBlock(outputs, outputs))

    stem = (nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    stages = (stage(16, 16, 1), stage(16, 32, 2), stage(32, 64, 2))
    return nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


TASKS = [
    Task(
        "resnet50-train",
        "ResNet-50, one training step, batch 8, 224x224x3, float32",
        {
            "keras_dl graph": keras_train(ours50, IMAGENET, 1000, 8, jit=False),
            "keras_dl xla": keras_train(ours50, IMAGENET, 1000, 8, jit=True),
            "keras.applications graph": keras_train(keras50, IMAGENET, 1000, 8, jit=False),
            "keras.applications xla": keras_train(keras50, IMAGENET, 1000, 8, jit=True),
            "torchvision eager": torch_train(torch50, IMAGENET, 1000, 8),
        },
        steps=6,
        warmup=2,
    ),
    Task(
        "resnet20-train",
        "ResNet-20, one training step, batch 128, 32x32x3, float32",
        {
            "keras_dl graph": keras_train(ours20, CIFAR, 10, 128, jit=False),
            "keras_dl xla": keras_train(ours20, CIFAR, 10, 128, jit=True),
            "torchvision blocks, eager": torch_train(torch20, CIFAR, 10, 128),
        },
        steps=12,
    ),
    Task(
        "resnet50-infer",
        "ResNet-50, inference, batch 1, 224x224x3, float32, two threads",
        {
            "LiteRT file": exported(ours50, IMAGENET, "litert"),
            "onnxruntime file": exported(ours50, IMAGENET, "onnx"),
            "keras_dl graph": keras_infer(ours50, IMAGENET, 1),
            "keras.applications graph": keras_infer(keras50, IMAGENET, 1),
            "torchvision eager": torch_infer(torch50, IMAGENET, 1),
        },
        steps=20,
    ),
    Task(
        "resnet20-infer",
        "ResNet-20, inference, batch 1, 32x32x3, float32, two threads",
        {
            "LiteRT file": exported(ours20, CIFAR, "litert"),
            "onnxruntime file": exported(ours20, CIFAR, "onnx"),
            "keras_dl graph": keras_infer(ours20, CIFAR, 1),
            "torchvision blocks, eager": torch_infer(torch20, CIFAR, 1),
        },
        steps=200,
        warmup=20,
    ),
]
