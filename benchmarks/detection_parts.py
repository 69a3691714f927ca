"""RoIAlign, suppression and matching alone, against torchvision and scipy.

Measured by `keras-dl benchmark detection_parts`. docs/speed.md has the figures.

torchvision's compiled half needs the very build of torch that it was made with.
"""

import functools

import numpy as np

from keras_dl.benchmarks.contenders import Task
from keras_dl.extras import require

SIDE, STRIDES, CHANNELS, ROIS = 320, (4, 8, 16, 32), 256, 64
BATCH, BOXES, KEPT = 2, 1000, 100
MATRICES, OBJECTS, QUERIES = 16, 8, 100


def boxes(count):
    """float32, `(BATCH, count, 4)`."""
    random = np.random.default_rng(0)
    corner = random.uniform(0, 0.8 * SIDE, (BATCH, count, 2))
    return np.concatenate([corner, corner + random.uniform(8, 0.4 * SIDE, (BATCH, count, 2))], -1).astype("float32")


def maps():
    """float32, one `(BATCH, height, width, CHANNELS)` for each stride."""
    random = np.random.default_rng(1)
    return [random.normal(size=(BATCH, SIDE // s, SIDE // s, CHANNELS)).astype("float32") for s in STRIDES]


def pooled(form):
    """Forward and backward of RoIAlign, compiled by XLA."""

    def set_up():
        import tensorflow as tf

        from keras_dl.ops.roi_align import roi_align

        given, places = [tf.constant(x) for x in maps()], tf.constant(boxes(ROIS))

        @tf.function(jit_compile=True)
        def step(places, *given):
            with tf.GradientTape() as tape:
                tape.watch(given)
                loss = tf.reduce_sum(roi_align(given, places, 7, STRIDES, form=form) ** 2)
            return tape.gradient(loss, given)

        return lambda: [tf.convert_to_tensor(x).numpy() for x in step(places, *given)]

    return set_up


def torchvision_pooled():
    torch, ops = require("torch", extra="benchmarks"), require("torchvision.ops", extra="benchmarks")
    pool = ops.MultiScaleRoIAlign([str(i) for i in range(len(STRIDES))], 7, 2)
    given = {str(i): torch.tensor(x).permute(0, 3, 1, 2).requires_grad_() for i, x in enumerate(maps())}
    places = list(torch.tensor(boxes(ROIS)))

    def step():
        loss = (pool(given, places, [(SIDE, SIDE)] * BATCH) ** 2).sum()
        return [x.numpy() for x in torch.autograd.grad(loss, list(given.values()))]

    return step


def scores():
    return np.random.default_rng(2).uniform(size=(BATCH, BOXES)).astype("float32")


def suppressed(jit_compile):
    def set_up():
        import tensorflow as tf

        from keras_dl.ops.nms import nms

        function = tf.function(functools.partial(nms, iou_threshold=0.5, max_boxes=KEPT), jit_compile=jit_compile)
        given = tf.constant(boxes(BOXES)), tf.constant(scores())
        return lambda: function(*given).count.numpy()

    return set_up


def torchvision_suppressed():
    torch, ops = require("torch", extra="benchmarks"), require("torchvision.ops", extra="benchmarks")
    given = list(zip(torch.tensor(boxes(BOXES)), torch.tensor(scores()), strict=True))
    return lambda: [ops.nms(*x, 0.5)[:KEPT].numpy() for x in given]


def costs():
    return np.random.default_rng(3).normal(size=(MATRICES, OBJECTS, QUERIES)).astype("float32")


def matched():
    import tensorflow as tf

    from keras_dl.ops.assignment import linear_assignment

    function, given = tf.function(linear_assignment, jit_compile=True), tf.constant(costs())
    return lambda: function(given).numpy()


def scipy_matched():
    optimize = require("scipy.optimize", extra="meshes")
    given = costs()
    return lambda: [optimize.linear_sum_assignment(x) for x in given]


TASKS = [
    Task(
        "roi-align",
        f"RoIAlign 7x7, forward and backward, batch {BATCH}, {ROIS} boxes an image, {CHANNELS} maps, {SIDE}x{SIDE}",
        {"gather, xla": pooled("gather"), "matrix, xla": pooled("matrix"), "torchvision": torchvision_pooled},
    ),
    Task(
        "nms",
        f"Suppression, batch {BATCH}, {BOXES:,} boxes to {KEPT}",
        {"xla": suppressed(True), "graph": suppressed(False), "torchvision": torchvision_suppressed},
        steps=30,
    ),
    Task(
        "matching",
        f"Linear assignment of {MATRICES} matrices of {OBJECTS}x{QUERIES}",
        {"xla": matched, "scipy, one after the other": scipy_matched},
        steps=30,
    ),
]
