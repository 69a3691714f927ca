"""YOLO finds digits in cluttered scenes: the anchor-free generation; and the net of 2015 on VOC.

Paper:     Redmon, Divvala, Girshick, Farhadi 2015, "You Only Look Once", arXiv:1506.02640: 63.4 mAP on VOC 2007. The
           anchor-free generation of 2023 has no paper; its sizes n to x are reported with 37.3 to 53.9 mAP on COCO
Data:      digit_scenes/96_empty: 2,000 scenes of 96 x 96 pixels with 1 to 6 digits among fragments of others, and each
           tenth without a digit; 500 of other digits for the test. In each epoch, scenes are stretched, shifted,
           colored anew and, but in the last ten epochs, joined to mosaics of four
Command:   keras-dl train yolo --jit off
Aim:       mAP50 0.95
Baseline:  a threshold, connected components, and a classifier of digits: 0.617
Reaches:   mAP50 0.955, mAP50-95 0.809 after 70 epochs and 1,809 s on a very busy machine of two cores
Files:     float32 has the same mAP50; int8 of `raw` 0.955, all of it on an Ethos-U55 of 128 MACs

`--dataset tree_crowns` finds trees in aerial images, `--dataset coco/2017` trains YOLO n, and `--dataset voc/2007` the
net of 2015 (YOLOv1) with the paper's schedule, but without the weights of ImageNet that it starts from. Not measured.
"""

import keras
import tensorflow as tf

import keras_dl
from keras_dl.averaging import RampedAdamW, RampedSGD
from keras_dl.export.errors import SignatureError
from keras_dl.recipes.tasks import detection_pictures
from keras_dl.recipes.tasks.detection import calibration, coco_figures, objects, serving
from keras_dl.recipes.tasks.detection_baseline import components_and_classifier
from keras_dl.recipes.training import augment_objects as augment
from keras_dl.recipes.training import pictures
from keras_dl.recipes.training.recipe import FLOAT, INT8_RAW, Recipe, Task, run_as_script

DIGITS, TREES, COCO, VOC = "digit_scenes/96_empty", "tree_crowns", "coco/2017", "voc/2007"
OWN = "boxes"  # the form of own data
SIDES = {DIGITS: 96, TREES: 224, COCO: 640, VOC: 448, OWN: 224}
MAX_BOXES = {DIGITS: 6, TREES: 64, COCO: 100, VOC: 64, OWN: 100}
VISIBLE = 0.6  # of a digit that is cut: fragments of digits are no objects of the scenes
MOSAICS = {DIGITS: 0.25, TREES: 1.0, COCO: 1.0, VOC: 0.0, OWN: 1.0}  # the share of training images
SMALL = dict(depth=0.33, width=0.25, bins=8, max_detections=100)
MODELS = {
    DIGITS: SMALL | dict(strides=(4, 8)),  # digits are of 15 to 42 pixels
    TREES: SMALL | dict(bins=16),
    COCO: keras_dl.YOLO.presets["n"],
    OWN: SMALL | dict(bins=16),
}


def load_data(options, variant):
    dataset = options.dataset
    shape = (options.image_size or SIDES[dataset],) * 2

    def change(sample, seed):
        seeds = tf.random.split(seed, 3)
        if dataset == DIGITS:
            return augment.recolor(stretched(sample, seeds[0], shape), seeds[1])
        sample = sample if dataset == OWN else augment.flip(sample, seeds[0])
        sample = augment.jitter(sample, seeds[1], shape, *((0.8, 1.2) if dataset == VOC else (0.5, 1.5)))
        return sample | {"image": tinted(sample["image"], seeds[2])}

    large = dict(low=1.2, high=2.0, min_visible=VISIBLE) if dataset == DIGITS else None
    return objects(options, shape, MAX_BOXES[dataset], change, MOSAICS[dataset], mosaic_options=large)


def stretched(sample, seed, shape, most=1.25, ratio=1.15):
    """A scene with a random factor of its sides, of which one is longer than the other, at a random place."""
    random = tf.random.stateless_uniform((4,), seed, -1.0, 1.0)
    factor = tf.exp(random[0] * tf.math.log(most) + tf.stack([0.5, -0.5]) * random[1] * tf.math.log(ratio))
    space = tf.constant(shape, tf.float32) * (1 - factor)
    return augment.place(sample, factor, (0.5 + 0.5 * random[2:]) * space, shape, min_visible=VISIBLE)


def tinted(image, seed, saturation=0.5, brightness=0.5):
    """A photograph with other saturation and brightness: factors of up to 1 + these numbers, or their inverse."""
    limits = tf.math.log(1 + tf.constant([saturation, brightness]))
    factors = tf.exp(tf.random.stateless_uniform((2,), seed, -1.0, 1.0) * limits)
    gray = tf.reduce_mean(image, -1, keepdims=True)
    return tf.clip_by_value((gray + (image - gray) * factors[0]) * factors[1], 0.0, 255.0)


def net(data, dataset):
    """An untrained model for the data."""
    sizes = dict(image_shape=data.input_shape, num_classes=len(data.labels))
    return keras_dl.YOLOv1(**sizes) if dataset == VOC else keras_dl.YOLO(**sizes, **MODELS[dataset])


def build_model(data, options, variant):
    model, steps = net(data, options.dataset), data.steps(options)
    each = max(steps // options.epochs, 1)  # steps of an epoch
    if options.dataset == VOC:
        # 1e-3 rises to 1e-2 in the first epochs, for 75 epochs of 135; then 30 of 1e-3 and 30 of 1e-4.
        ends = [round(steps * epoch / 135) for epoch in (2, 75, 105)]
        peak = options.rate(1e-2)
        rate = keras.optimizers.schedules.PiecewiseConstantDecay(ends, [peak / 10, peak, peak / 10, peak / 100])
        optimizer = keras.optimizers.SGD(rate, momentum=0.9, weight_decay=5e-4, global_clipnorm=10.0)
    else:
        warmup = min(each * 3, steps // 2)
        cosine = dict(alpha=0.01, warmup_steps=warmup)
        schedule = keras.optimizers.schedules.CosineDecay
        if options.dataset == COCO:
            rate = schedule(0.0, steps - warmup, warmup_target=options.rate(0.01), **cosine)
            optimizer = RampedSGD(rate, momentum=0.937, nesterov=True, weight_decay=5e-4)
        else:
            rate = schedule(0.0, steps - warmup, warmup_target=options.rate(4e-3), **cosine)
            optimizer = RampedAdamW(rate, weight_decay=1e-3, ramp=500, ema_momentum=0.998, global_clipnorm=10.0)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    model.compile(optimizer)
    return model


def whole(serve, data):
    """`serve` with the signature `detect`, also of a file that holds `raw` alone: float32 does the rest."""

    def served(signature, images):
        try:
            return serve(signature, images=images)
        except SignatureError:
            model = net(data, data.dataset if data.dataset in MODELS else OWN)  # its weights are not used
            found = model.postprocess(**serve("raw", images=images))
            return {name: x.numpy() for name, x in found._asdict().items()}

    return served


def evaluate(serve, data):
    """Mean average precision at an IoU of 0.5."""
    return float(coco_figures(whole(serve, data), data)["box_AP50"] or 0.0)


def figures(outcome):
    """COCO's figure, the mean over thresholds of the IoU, and that at 0.75."""
    found = coco_figures(serving(outcome.model), outcome.data)
    return {"mAP50-95": found["box_AP"] or 0.0, "mAP75": found["box_AP75"] or 0.0}


def baseline(outcome):
    return components_and_classifier(outcome.data)


def picture(outcome):
    """Test images with boxes, the worst mistakes first; and the losses over the epochs."""
    figure = pictures.figure(13, 6.4)
    left, right = figure.subfigures(1, 2, width_ratios=(2.6, 1))
    detection_pictures.grid(left, serving(outcome.model), outcome.data, rows=4, columns=6)
    axes = right.subplots(len(outcome.model.loss_names), 1, sharex=True)
    for axis, name in zip(axes, outcome.model.loss_names, strict=True):
        for key, look in ((f"{name}_loss", "-"), (f"val_{name}_loss", "--")):
            pictures.curves(axis, outcome.trained, key, linestyle=look)
        pictures.style(axis, f"Loss: {name}; dashed: of the test", "epoch" if axis is axes[-1] else None)
        axis.set_yscale("log")
    return figure


DETECTION = dict(metric="mAP50", exports=(FLOAT,))
RECIPE = Recipe(
    name="yolo",
    model="YOLO",
    summary="YOLO finds digits in cluttered scenes, without anchors",
    tasks={
        DIGITS: Task(
            epochs=70,
            batch_size=16,
            aim=0.95,
            metric="mAP50",
            exports=(FLOAT, INT8_RAW, INT8_RAW._replace(target="ethos-u55-128")),
        ),
        TREES: Task(epochs=60, batch_size=8, **DETECTION),
        COCO: Task(epochs=500, batch_size=16, **DETECTION),
        VOC: Task(epochs=135, batch_size=64, **DETECTION),
    },
    own={OWN: Task(epochs=60, batch_size=8, **DETECTION)},
    load_data=load_data,
    build_model=build_model,
    evaluate=evaluate,
    baseline=baseline,
    picture=picture,
    figures=figures,
    calibrate=calibration,
)

if __name__ == "__main__":
    run_as_script("yolo")
