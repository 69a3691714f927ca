"""Faster R-CNN finds digits on cluttered canvases.

Paper:     Ren, He, Girshick, Sun 2015, "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal
           Networks", arXiv:1506.01497; with the pyramid of Lin et al. 2016, arXiv:1612.03144: 37.0 box AP on COCO 2017
           with ResNet-50 in torchvision
Data:      digit_scenes/96_empty: 2,000 scenes of one to six digits among fragments of digits, of which each tenth is
           without a digit, scaled, shifted and recolored at random in each epoch; 500 for the test
Command:   keras-dl train faster_rcnn
Aim:       0.92 box AP at an IoU of 0.5
Baseline:  components of a threshold, and a classifier of digits: 0.617
Reaches:   0.929 after 20 epochs and 825 s of training on two busy cores; 0.655 as the mean over IoUs of 0.5 to 0.95
Files:     float32 0.929, with the same 1,417 detections in 64 images as Keras; `raw` in int8 (0.5 MB), and
           `postprocess` of the float file: 0.929, and 0.653 as the mean over IoUs

The figures of the two files together are those of `coco_figures` of

    lambda signature, images: whole.serve("postprocess", **raw.serve("raw", images=images))

with both opened by `keras_dl.export.load`.

The network is small: a ResNet of 32 to 128 maps from scratch, a pyramid of 64, and anchors of 10 to 56 pixels, which
fit the digits (`keras_dl.ops.coverage`).

`--dataset tree_crowns` finds trees in aerial images. `--dataset coco/2017` and `voc/2007` train ResNet-50 as
torchvision does, but from scratch, for no file of weights comes with this package; not measured.
"""

import keras

import keras_dl
from keras_dl.export import KerasRunner
from keras_dl.recipes.tasks.detection import calibration, coco_figures, objects
from keras_dl.recipes.tasks.detection_baseline import components_and_classifier
from keras_dl.recipes.tasks.detection_pictures import grid
from keras_dl.recipes.training import augment_objects as augment
from keras_dl.recipes.training import pictures
from keras_dl.recipes.training.recipe import FLOAT, Export, Recipe, Task, run_as_script
from keras_dl.recipes.training.runner import EVALUATION_BATCH

METRIC = "box AP at an IoU of 0.5"
PAPERS = ("coco/2017", "voc/2007")
SMALL = dict(
    num_blocks=(1, 1, 1),
    filters=(32, 64, 128),
    block="basic",
    pyramid_filters=64,
    head_dims=(256, 256),
    anchor_samples=64,
    box_samples=64,
    candidates=(200, 100),
    proposals=(300, 100),
    score_threshold=0.01,
    roi_form="matrix",
)
# Sizes, and the side of the objects that the middle level pools.
DIGITS = dict(anchor_sizes=((10, 16), (22, 30), (40, 56)), anchor_ratios=(1.0, 1.5, 2.5), canonical_side=96)
TREES = dict(anchor_sizes=((14, 20), (28, 40), (56, 80)), canonical_side=80)


def load_data(options, variant):
    if options.dataset in PAPERS:
        side = options.image_size or 800
        return objects(options, (side, side), max_boxes=100, change=augment.flip)
    if options.dataset == "tree_crowns":
        shape = (options.image_size or 200,) * 2

        def change(sample, seed):
            return augment.jitter(augment.flip(sample, seed), seed + 1, shape, low=0.8, high=1.25)

        return objects(options, shape, max_boxes=40, change=change)
    shape = (options.image_size or 96,) * 2

    def change_scene(sample, seed):
        return augment.jitter(augment.recolor(sample, seed), seed + 1, shape, low=0.8, high=1.25)

    return objects(options, shape, max_boxes=8, change=change_scene)


def build_model(data, options, variant):
    steps = data.steps(options)
    warmup = min(1000 if options.dataset in PAPERS else 100, steps // 2)
    schedule = dict(warmup_steps=warmup)
    if options.dataset in PAPERS:
        model = keras_dl.FasterRCNN(data.input_shape, len(data.labels), seed=options.seed)
        rate = options.rate(0.02 * options.batch_size / 16)
        schedule |= dict(warmup_target=rate, decay_steps=steps - warmup)
        schedule = keras.optimizers.schedules.CosineDecay(0.0, **schedule)
        optimizer = keras.optimizers.SGD(schedule, momentum=0.9, weight_decay=1e-4)
    else:
        sizes = SMALL | (TREES if options.dataset == "tree_crowns" else DIGITS)
        model = keras_dl.FasterRCNN(data.input_shape, len(data.labels), seed=options.seed, **sizes)
        schedule |= dict(warmup_target=options.rate(2e-3), decay_steps=steps - warmup)
        schedule = keras.optimizers.schedules.CosineDecay(0.0, **schedule)
        optimizer = keras.optimizers.AdamW(schedule, weight_decay=1e-2)
    model.compile(optimizer)
    return model


def evaluate(serve, data):
    return coco_figures(serve, data)["box_AP50"]


def figures(outcome):
    """COCO's other figures of the model."""
    found = coco_figures(serving(outcome.model), outcome.data)
    return {name: found[name] for name in ("box_AP", "box_AP75", "box_AR") if found[name] is not None}


def serving(model):
    return KerasRunner(model, EVALUATION_BATCH).serve


def picture(outcome):
    """The worst mistakes, and the losses over the epochs."""
    whole = pictures.figure(13, 7.4)
    left, right = whole.subfigures(1, 2, width_ratios=(3, 1))
    grid(left, serving(outcome.model), outcome.data, rows=4, columns=6)
    losses(right.subplots(), outcome)
    return whole


def losses(axis, outcome):
    """Each loss on the test split over the epochs."""
    (trained,) = outcome.trained.values()
    epochs = range(1, len(trained.history) + 1)
    for color, name in zip(pictures.COLORS, outcome.model.loss_names, strict=False):
        values = [row[f"val_{name}_loss"] for row in trained.history]
        axis.plot(epochs, values, color=color, linewidth=1.8, label=name.replace("_", " "))
    pictures.style(axis, "Losses on the test images", "epoch")
    axis.set_yscale("log")
    axis.legend(frameon=False)


RAW = Export("int8", "cpu", ("raw",))
RECIPE = Recipe(
    name="faster_rcnn",
    model="FasterRCNN",
    summary="proposes boxes, then classifies the features of each: digits in clutter, tree crowns",
    tasks={
        "digit_scenes/96_empty": Task(epochs=20, batch_size=16, metric=METRIC, aim=0.92, exports=(FLOAT, RAW)),
        "tree_crowns": Task(epochs=60, batch_size=4, metric=METRIC, exports=(FLOAT, RAW)),
        "coco/2017": Task(epochs=26, batch_size=16, metric=METRIC, exports=(FLOAT,)),
        "voc/2007": Task(epochs=50, batch_size=16, metric=METRIC, exports=(FLOAT,)),
    },
    takes_image_size=True,
    load_data=load_data,
    build_model=build_model,
    evaluate=evaluate,
    baseline=lambda outcome: components_and_classifier(outcome.data),
    picture=picture,
    calibrate=calibration,
    figures=figures,
)

if __name__ == "__main__":
    run_as_script("faster_rcnn")
