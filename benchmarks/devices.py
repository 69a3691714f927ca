"""Steps that several benchmarks share: training and inference in Keras and torch, and calls of exported files."""

import pathlib
import tempfile

import numpy as np

from keras_dl.extras import require


def keras_train(create, shape, num_classes, batch, jit):
    """One `train_step` of a Keras model with SGD and momentum, compiled as `fit` compiles it."""

    def set_up():
        import keras
        import tensorflow as tf

        keras.utils.set_random_seed(0)
        model = create()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss, jit_compile=jit)
        images, labels = _batch(shape, num_classes, batch)
        data = tf.constant(images), tf.constant(labels)
        function = tf.function(model.train_step, jit_compile=jit, reduce_retracing=True)
        model.optimizer.build(model.trainable_variables)
        return lambda: float(function(data)["loss"])

    return set_up


def keras_infer(create, shape, batch, jit=False):
    """One compiled call in inference."""

    def set_up():
        import keras
        import tensorflow as tf

        keras.utils.set_random_seed(0)
        model = create()
        images = tf.constant(_batch(shape, 10, batch)[0])
        function = tf.function(lambda x: model(x, training=False), jit_compile=jit)
        return lambda: function(images).numpy()

    return set_up


def torch_train(create, shape, num_classes, batch):
    """The same step in torch: eager, channels last, one thread per core."""
    images, labels = _batch(shape, num_classes, batch)

    def cross_entropy(torch, outputs):
        return torch.nn.functional.cross_entropy(outputs, torch.from_numpy(labels))

    return torch_step(create, images, cross_entropy)


def torch_step(create, images, loss):
    """A training step in torch with SGD and momentum: eager, channels last, one thread per core.

    Args:
        create: function that makes the module.
        images: float32, channels last.
        loss: `loss(torch, outputs)`, a scalar tensor.
    """

    def set_up():
        torch = require("torch", extra="benchmarks")
        torch.manual_seed(0)
        model = create().to(memory_format=torch.channels_last).train()
        optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
        inputs = torch.from_numpy(images).permute(0, 3, 1, 2)  # channels last in memory

        return torch_descent(optimizer, lambda: loss(torch, model(inputs)))

    return set_up


def torch_descent(optimizer, loss):
    """A function that takes one step of an optimizer of torch, and returns the loss.

    `loss()` is a scalar tensor. What else belongs to a step is a hook of the optimizer.
    """

    def step():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        return value.item()

    return step


def torch_infer(create, shape, batch, result=lambda outputs: outputs.numpy()):
    """Inference in torch. `result` makes arrays of the outputs."""

    def set_up():
        torch = require("torch", extra="benchmarks")
        model = create().to(memory_format=torch.channels_last).eval()
        images = torch.from_numpy(_batch(shape, 10, batch)[0]).permute(0, 3, 1, 2)  # channels last in memory

        def step():
            with torch.inference_mode():
                return result(model(images))

        return step

    return set_up


def exported(create, shape, format, threads=2, dtype="uint8", signature=None):
    """One call of the exported file with batch 1: by a LiteRT signature, by default the only one, or by onnxruntime."""

    def set_up():
        from keras_dl.export import export

        folder = tempfile.TemporaryDirectory()
        suffix = {"litert": "tflite", "onnx": "onnx"}[format]
        path = str(pathlib.Path(folder.name) / f"model.{suffix}")
        export(create(), path, format=format, verify=False, signatures=signature and [signature])
        images = _batch(shape, 10, 1)[0].astype(dtype)
        step = {"litert": _litert, "onnx": _onnx}[format](path, images, threads)
        folder.cleanup()
        return step

    return set_up


def litert_runner(path, threads, signature=None):
    """A function from the inputs to the outputs of a file's signature. By default the file must have only one."""
    Interpreter = require("ai_edge_litert.interpreter", extra="export").Interpreter
    return Interpreter(path, num_threads=threads).get_signature_runner(signature)


def _litert(path, images, threads):
    runner = litert_runner(path, threads)
    (name,) = runner.get_input_details()
    return lambda: runner(**{name: images})


def _onnx(path, images, threads):
    onnxruntime = require("onnxruntime", extra="export")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (inputs,) = session.get_inputs()
    return lambda: session.run(None, {inputs.name: images})


def _batch(shape, num_classes, batch):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (batch, *shape)).astype("float32"), rng.integers(0, num_classes, batch)


def torchvision_models(module):
    """The module `torchvision.models.<module>`."""
    return require(f"torchvision.models.{module}", extra="benchmarks")


def torch_call(function, *shape):
    """Inference of torch: `function` makes what is called, with uniform random numbers of this shape."""

    def set_up():
        torch = require("torch", extra="benchmarks")
        call, points = function(), torch.rand(*shape)

        def step():
            with torch.inference_mode():
                return call(points).numpy()

        return step

    return set_up
