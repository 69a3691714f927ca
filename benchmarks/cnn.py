"""LeNet-5: a training step, and inference by the LiteRT file, onnxruntime and Keras."""

from keras_dl.benchmarks.contenders import Task
from keras_dl.benchmarks.devices import exported, keras_infer, keras_train

DIGITS = (28, 28, 1)


def lenet5():
    import keras_dl

    return keras_dl.LeNet5(DIGITS, 10)


TASKS = [
    Task(
        "lenet5-train",
        "LeNet-5, one training step, batch 64, 28x28x1, float32",
        {
            "graph": keras_train(lenet5, DIGITS, 10, 64, jit=False),
            "xla": keras_train(lenet5, DIGITS, 10, 64, jit=True),
        },
        steps=50,
        warmup=5,
    ),
    Task(
        "lenet5-infer",
        "LeNet-5, inference, batch 1, 28x28x1, float32, two threads",
        {
            "LiteRT file": exported(lenet5, DIGITS, "litert"),
            "onnxruntime file": exported(lenet5, DIGITS, "onnx"),
            "keras_dl graph": keras_infer(lenet5, DIGITS, 1),
        },
        steps=500,
        warmup=50,
    ),
]
