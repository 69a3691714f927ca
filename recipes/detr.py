"""DETR finds digits in scenes as a set: no anchors, no suppression.

Paper:     Carion, Massa, Synnaeve, Usunier, Kirillov, Zagoruyko 2020, "End-to-End Object Detection with Transformers",
           arXiv:2005.12872: 42.0 AP on COCO after 500 epochs, from a ResNet-50 that was trained on ImageNet
Data:      digit_scenes/96_empty: 2,000 scenes of 1 to 6 digits for training, of which each tenth has none, scaled,
           cropped and colored anew in each epoch; 500 scenes of other digits for the test
Command:   keras-dl train detr
Aim:       0.8 mAP50
Baseline:  a threshold, connected components, and a classifier of digits: 0.617 mAP50
Reaches:   0.827 mAP50, 0.506 mAP, after 100 epochs and 5,019 s of training on two busy cores
Files:     float32 0.827, dynamic_int8 0.826 with 1.9 MB

The paper starts from a backbone that was trained on ImageNet. Here the backbone, and then the backbone, the encoder and
the heads, are trained on the scenes first, before the epochs that are counted: each place of the maps says which digit
covers it, and what its box is. Then the backbone's norms are frozen as in the paper, and its learning rate is half of
the transformer's, there a tenth.

`--dataset coco/2017` and `--dataset voc/2007` train the paper's network with its learning rates, from a new backbone;
load weights of a trained one for results like the paper's. Not measured.
"""

import keras
import numpy as np
import tensorflow as tf

import keras_dl
from keras_dl.compat import all_layers
from keras_dl.ops import box_area, box_giou, cxcywh_to_xyxy, xyxy_to_cxcywh, xyxy_to_ltrb
from keras_dl.optimizers import AdamW
from keras_dl.recipes.tasks import detection, detection_baseline, detection_pictures
from keras_dl.recipes.training import augment_objects, pictures
from keras_dl.recipes.training.progress import say
from keras_dl.recipes.training.recipe import DYNAMIC_INT8, FLOAT, Recipe, Task, run_as_script

SCENES = "digit_scenes/96_empty"
SIDE = 96
MAX_DIGITS = 6
COCO_CLASSES = 80
# What learns before the epochs that are counted, for how many epochs, and at which learning rate.
FIRST = (("backbone", 40, 2e-3), ("encoder", 15, 1e-3))
FIRST_CLASS_LOSS = 2.0
NO_OBJECT = 0.2  # weight of places without an object
BODY_FACTOR = 0.5  # of the learning rate; the paper has 0.1, with a backbone that saw ImageNet
SMALL = dict(
    num_blocks=(2, 2, 2),
    filters=(32, 64, 128),  # of stride 16
    block="basic",
    num_queries=20,
    hidden_dim=96,
    num_heads=4,
    mlp_dim=384,
    num_encoder_layers=3,
    num_decoder_layers=3,
    dropout_rate=0.0,
    max_detections=20,
    mean=127.5,
    std=64.0,
)
OWN, OWN_SIDE = "boxes", 128  # the form of own data, and the side of its images
PUBLISHED = {"coco/2017": ((800, 1066), 100), "voc/2007": ((800, 1066), 60)}  # sides and slots


def load_data(options, variant):
    if options.dataset == SCENES:
        return detection.objects(options, (SIDE, SIDE), MAX_DIGITS, change=changed_scene)
    if options.dataset == OWN:
        shape = (options.image_size or OWN_SIDE,) * 2
        moved = lambda sample, seed: augment_objects.jitter(sample, seed, shape, low=0.7, high=1.4)  # noqa: E731
        return detection.objects(options, shape, 0, change=moved)
    shape, slots = PUBLISHED[options.dataset]
    return detection.objects(options, shape, slots, change=lambda sample, seed: changed_photo(sample, seed, shape))


def changed_scene(sample, seed):
    """A scene at another scale and place, its colors exchanged and perhaps inverted. Digits are not turned over."""
    place, colors = tf.unstack(tf.random.split(seed, 2))
    sample = augment_objects.jitter(sample, place, (SIDE, SIDE), low=0.8, high=1.3)
    random = tf.random.stateless_uniform((4,), colors)
    image = tf.gather(sample["image"], tf.argsort(random[:3]), axis=-1)
    return sample | {"image": tf.where(random[3] < 0.5, 255.0 - image, image)}


def changed_photo(sample, seed, shape):
    """A photograph turned over or not, and at another scale."""
    turned, place = tf.unstack(tf.random.split(seed, 2))
    return augment_objects.jitter(augment_objects.flip(sample, turned), place, shape, low=0.6, high=1.5)


def build_model(data, options, variant):
    steps = data.steps(options)
    small = options.dataset not in PUBLISHED
    if small:
        slots = data.test.element_spec[1]["classes"].shape[-1]
        queries = dict.fromkeys(("num_queries", "max_detections"), max(SMALL["num_queries"], 2 * slots))
        model = keras_dl.DETR(data.input_shape, len(data.labels), **SMALL | queries)
        train_first(model, data, options)
        warmup = min(200, steps // 2)
        peak = options.rate(5e-4)
        rate = keras.optimizers.schedules.CosineDecay(0.0, steps - warmup, warmup_target=peak, warmup_steps=warmup)
    else:
        given = dict(image_shape=data.input_shape, num_classes=len(data.labels), frozen_norms=False)
        model = keras_dl.DETR.from_preset("detr_resnet50", **given)
        peak = options.rate(1e-4)
        rate = keras.optimizers.schedules.PiecewiseConstantDecay([steps * 4 // 5], [peak, peak / 10])
    factor = BODY_FACTOR if small else 0.1
    model.compile(AdamW(rate, 1e-4, rate_factors={model.BODY: factor}, global_clipnorm=0.1))
    return model


def train_first(model, data, options):
    """Trains the backbone, and then backbone, encoder and heads, to say of each place what covers it and its box.

    The backbone's norms are frozen afterwards.
    """
    labels, sides = len(data.labels), data.input_shape[:2]
    shape = model.backbone.output.shape[1:3]
    places, size = centers(sides, shape), [n / m for n, m in zip(sides, shape, strict=True)]
    for part, epochs, peak in FIRST:
        epochs = 1 if options.smoke else epochs
        say(f"detr  first, the {part} learns for {epochs} epochs which object covers each place, and its box")
        # Other changes than in the epochs that are counted.
        numbers = tf.data.Dataset.range(-1 - epochs, -1, output_type=tf.int32)
        batches = numbers.flat_map(data.train).map(
            lambda images, targets: (
                images,
                covering(targets["boxes"], targets["classes"], places, size, sides, labels),
            )
        )
        steps = data.num_train // options.batch_size
        warmup = min(200, epochs * steps // 2)
        rate = keras.optimizers.schedules.CosineDecay(
            0.0, epochs * steps - warmup, warmup_target=peak, warmup_steps=warmup
        )
        net = net_of_places(model, part, labels)
        net.compile(AdamW(rate, 1e-3), loss_of_places, jit_compile=False, metrics=[accuracy_of_objects])
        given = dict(epochs=epochs, steps_per_epoch=steps, callbacks=[Shown(epochs)], verbose=0, shuffle=False)
        net.fit(batches.prefetch(2), **given)
    for layer in all_layers(model.backbone):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False


def net_of_places(model, part, labels):
    """From images to the logits of classes and the box of each place, `(batch, places, labels + 1 + 4)`.

    The backbone alone has a dense layer of its own for them, which is dropped; the encoder has the model's heads.
    """
    images = keras.Input(model.image_shape)
    maps = model.backbone(model.pixels(images))
    if part == "encoder":
        memory, *_ = model.transformer.encode(maps)
        found = model.transformer.heads(memory)
        logits, boxes = found["logits"], found["boxes"]
    else:
        found = keras.layers.Reshape((-1, maps.shape[-1]))(maps)
        found = keras.layers.Dense(labels + 1 + 4)(found)
        logits, boxes = found[..., :-4], keras.ops.sigmoid(found[..., -4:])
    return keras.Model(images, keras.ops.concatenate([logits, boxes], axis=-1))


class Shown(keras.callbacks.Callback):
    """Shows the progress before the epochs that are counted."""

    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs

    def on_epoch_end(self, epoch, logs=None):
        loss, right = logs["loss"], logs["accuracy_of_objects"]
        say(f"detr  before {epoch + 1}/{self.epochs}  loss {loss:.4f}  classes of places with an object {right:.4f}")


def centers(image_shape, map_shape):
    """The centers of the places of maps: float32, `(height * width, 2)`, x and y in pixels of the image."""
    y, x = ((np.arange(n) + 0.5) * side / n for side, n in zip(image_shape, map_shape, strict=True))
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2).astype("float32")


def covering(boxes, classes, places, size, image_shape, none):
    """The object of each place: the smallest whose box holds the center of the place, or whose own center it holds.

    Args:
        boxes, classes: `(batch, slots, 4)` and `(batch, slots)`.
        places: `(places, 2)`.
        size: height and width of a place in pixels.
        image_shape: height and width of the image.
        none: int: the class of places without an object.

    Returns:
        float32, `(batch, places, 5)`: the class, and the box, cxcywh as shares of the image.
    """
    inside = tf.reduce_min(xyxy_to_ltrb(boxes[:, :, None], places), axis=-1) > 0  # (batch, slots, places)
    codes = xyxy_to_cxcywh(boxes)
    near = tf.reduce_all(tf.abs(codes[:, :, None, :2] - places) <= np.float32(size[::-1]) / 2, axis=-1)
    covers = (inside | near) & (classes >= 0)[:, :, None]
    smallest = tf.argmin(tf.where(covers, box_area(boxes)[:, :, None], np.inf), axis=1)  # (batch, places)
    label, box = tf.gather(classes, smallest, batch_dims=1), tf.gather(codes, smallest, batch_dims=1)
    label = tf.where(tf.reduce_any(covers, axis=1), label, none)
    return tf.concat([tf.cast(label, tf.float32)[..., None], box / np.float32(image_shape[::-1] * 2)], axis=-1)


def loss_of_places(targets, outputs):
    """Cross-entropy of the classes; L1 and GIoU of the boxes where an object covers the place. Weighted as DETR's."""
    label, none = tf.cast(targets[..., 0], tf.int32), outputs.shape[-1] - 5
    entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(label, outputs[..., :-4])
    covered = tf.cast(label < none, tf.float32)
    weights = covered + NO_OBJECT * (1.0 - covered)
    distance = tf.reduce_sum(tf.abs(targets[..., 1:] - outputs[..., -4:]), axis=-1)
    overlap = box_giou(cxcywh_to_xyxy(targets[..., 1:]), cxcywh_to_xyxy(outputs[..., -4:]))
    of_boxes = tf.reduce_sum((5 * distance + 2 * (1 - overlap)) * covered) / tf.maximum(tf.reduce_sum(covered), 1.0)
    return FIRST_CLASS_LOSS * tf.reduce_sum(weights * entropy) / tf.reduce_sum(weights) + of_boxes


def accuracy_of_objects(targets, outputs):
    """The share of the places with an object whose class, among those of objects, is right."""
    none = outputs.shape[-1] - 5
    covered = tf.cast(targets[..., 0] < none, tf.float32)
    right = keras.metrics.sparse_categorical_accuracy(targets[..., 0], outputs[..., :none])
    return tf.reduce_sum(right * covered) / tf.maximum(tf.reduce_sum(covered), 1.0)


def evaluate(serve, data):
    """The mean over the classes of the average precision at an IoU of 0.5; on COCO, that of IoUs from 0.5 to 0.95."""
    figures = detection.coco_figures(serve, data)
    return float(figures["box_AP" if len(data.labels) == COCO_CLASSES else "box_AP50"] or 0.0)


def baseline(outcome):
    return detection_baseline.components_and_classifier(outcome.data)


def figures(outcome):
    """The mean average precision over IoUs from 0.5 to 0.95, and that at 0.75."""
    found = detection.coco_figures(detection.serving(outcome.model), outcome.data)
    return {f"box {name}": found[f"box_{name}"] for name in ("AP", "AP75")}


def picture(outcome):
    """Test scenes with the worst mistakes, and the losses over the epochs."""
    whole = pictures.figure(12, 6.4)
    left, right = whole.subfigures(1, 2, width_ratios=(2.2, 1))
    detection_pictures.grid(left, detection.serving(outcome.model), outcome.data, rows=4, columns=7)
    upper, lower = right.subplots(2, 1)
    pictures.curves(upper, outcome.trained, "loss", label="training", color=pictures.COLORS[0])
    pictures.curves(upper, outcome.trained, "val_loss", label="test", color=pictures.COLORS[1])
    pictures.style(upper, "Loss of all decoder layers", "epoch")
    upper.legend(frameon=False)
    for color, name in zip(pictures.COLORS, keras_dl.DETR.loss_names, strict=False):
        pictures.curves(lower, outcome.trained, f"val_{name}_loss", label=name, color=color)
    pictures.style(lower, "Its parts, on the test", "epoch")
    lower.legend(frameon=False)
    return whole


RECIPE = Recipe(
    name="detr",
    model="DETR",
    summary="DETR finds digits in scenes as a set, without anchors",
    tasks={
        SCENES: Task(epochs=100, batch_size=16, metric="mAP50", aim=0.8, exports=(FLOAT, DYNAMIC_INT8)),
        "coco/2017": Task(epochs=300, batch_size=64, metric="mAP", aim=0.42),
        "voc/2007": Task(epochs=300, batch_size=64, metric="mAP50"),
    },
    own={OWN: Task(epochs=100, batch_size=8, metric="mAP50")},
    load_data=load_data,
    build_model=build_model,
    evaluate=evaluate,
    baseline=baseline,
    picture=picture,
    figures=figures,
    calibrate=detection.calibration,
)

if __name__ == "__main__":
    run_as_script("detr")
