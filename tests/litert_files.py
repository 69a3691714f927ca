"""Small LiteRT files for the tests of the device targets, made by TensorFlow's converter alone."""

import pathlib
import tempfile
import warnings

import keras
import numpy as np
import tensorflow as tf
from keras import layers

IMAGE = (1, 12, 12, 1)


def convolutional(last=None):
    """A small classifier of raw pixels, with the layer `last` before its softmax; the same weights each time.

    All its weights are in convolutions, which LiteRT's reference kernels and tflite-micro compute alike.
    """
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input(IMAGE[1:], name="images"),
            layers.Rescaling(1 / 255, name="rescale"),
            layers.Conv2D(4, 3, activation="tanh", padding="same", name="first"),
            layers.AveragePooling2D(2, name="average"),
            layers.Conv2D(8, 3, activation="relu", name="second"),
            layers.MaxPooling2D(2, name="maximum"),
            layers.Conv2D(6, 2, name="head"),
            layers.Flatten(name="flatten"),
            *([last] if last else []),
            layers.Softmax(name="softmax"),
        ]
    )


def images(count, shape=IMAGE):
    """`count` samples of raw pixels, float32."""
    generator = np.random.default_rng(0)
    return [{"images": generator.integers(0, 256, shape).astype("float32")} for _ in range(count)]


def write(path, signatures, quantization="none", shape=IMAGE, model=None):
    """Writes a LiteRT file.

    Args:
        path: path of the file.
        signatures: dict by name of functions of one tensor `images`, each returning a dict of tensors.
        quantization: str: `"none"`, `"int8"` or `"int16x8"`.
        shape: shape of `images`.
        model: the `keras.Model` whose weights the functions use.
    """
    archive = keras.export.ExportArchive()
    if model is not None:
        archive.track(model)
    for name, function in signatures.items():
        archive.add_endpoint(name, function, input_signature=[tf.TensorSpec(shape, tf.float32, name="images")])
    with tempfile.TemporaryDirectory() as folder:
        archive.write_out(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(signatures))
        if quantization != "none":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            only = len(signatures) == 1
            converter.representative_dataset = lambda: (
                sample if only else (name, sample) for name in signatures for sample in images(8, shape)
            )
            dtype = tf.int8 if quantization == "int8" else tf.int16
            converter.inference_input_type = converter.inference_output_type = dtype
        if quantization == "int16x8":
            converter.target_spec.supported_ops = [
                tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
            ]
        with warnings.catch_warnings():  # the converter calibrates with an interpreter that TensorFlow has deprecated
            warnings.filterwarnings("ignore", message=r"(?s).*tf\.lite\.Interpreter is deprecated")
            pathlib.Path(path).write_bytes(converter.convert())
    return pathlib.Path(path)


def write_classifier(path, quantization="none", last=None):
    """Writes `convolutional(last)` with the signature `classify`."""
    model = convolutional(last)
    return write(path, {"classify": lambda images: {"probabilities": model(images)}}, quantization, model=model)
