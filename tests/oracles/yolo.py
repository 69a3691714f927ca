"""Makes yolo.npz: what the net of kyolo 0.1.5 (Apache-2.0), with Keras 3.15 on torch, computes from given weights.

    python tests/oracles/yolo.py        where kyolo and torch are installed

The net is a small one of its class `YOLOv8`. The weights are not stored: `weight` makes each from its name.
"""

import os
import pathlib
import zlib

import numpy as np

SHAPE, CLASSES = (64, 96, 3), 5
DEPTH, WIDTH, MAX_CHANNELS = 0.67, 0.1, 512


def weight(name, shape):
    """A weight by its name in torch and its shape in Keras: seeded by the name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if len(shape) == 4:
        return rng.normal(0, np.sqrt(2 / np.prod(shape[:3])), shape).astype("float32")
    if name.endswith((".bn.weight", "running_var")):
        return rng.uniform(0.5, 1.5, shape).astype("float32")
    return rng.normal(0, 0.3, shape).astype("float32")


def image():
    """`(1, *SHAPE)`, uint8."""
    return np.random.default_rng(0).integers(0, 256, (1, *SHAPE), "uint8")


def main():
    os.environ["KERAS_BACKEND"] = "torch"
    from kyolo.models import yolov8

    yolov8.YOLOV8_CONFIG["small"] = (DEPTH, WIDTH, MAX_CHANNELS)
    model = yolov8.YOLOv8("small", nc=CLASSES, input_shape=SHAPE)
    names = {"kernel": "weight", "gamma": "weight", "moving_mean": "running_mean", "moving_variance": "running_var"}
    names |= {"bias": "bias", "beta": "bias"}
    for layer in model.layers:
        prefix = layer.name.replace("-", ".")
        layer.set_weights([weight(f"{prefix}.{names[x.name]}", tuple(x.shape)) for x in layer.weights])
    outputs = model.predict_on_batch(image().astype("float32") / 255)
    arrays = {f"level_{stride}": x for stride, x in zip((8, 16, 32), outputs, strict=True)}
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **arrays, entries=len(model.weights))
    print({name: (x.shape, float(np.abs(x).max())) for name, x in arrays.items()})


if __name__ == "__main__":
    main()
