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
from keras_dl.recipes.tasks import detection_pictures
from keras_dl.recipes.tasks.detection import calibration, coco_figures, objects, serving
from keras_dl.recipes.tasks.detection_baseline import components_and_classifier
from keras_dl.recipes.training import augment_objects as augment
from keras_dl.recipes.training.recipe import FLOAT, INT8_RAW, Recipe, Task, run_as_script

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


OWN, OWN_SIDE = "boxes", 192  # the form of own data, and the side of its images


def own_anchors(image_shape):
    """Anchors from a twelfth to two thirds of the images' shorter side, for objects of which nothing is known."""
    side = min(image_shape[:2])
    levels = ((1 / 12, 1 / 8), (1 / 6, 1 / 4), (3 / 8, 5 / 8))
    sizes = tuple(tuple(max(round(side * share), 1) for share in level) for level in levels)
    return dict(anchor_sizes=sizes, anchor_ratios=(0.5, 1.0, 2.0), canonical_side=side * 0.4)


def load_data(options, variant):
    if options.dataset == OWN:
        shape = (options.image_size or OWN_SIDE,) * 2
        return objects(options, shape, 0, lambda sample, seed: augment.jitter(sample, seed, shape, low=0.7, high=1.4))
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
        rate = options.rate(0.02)  # for 16 images
        schedule |= dict(warmup_target=rate, decay_steps=steps - warmup)
        schedule = keras.optimizers.schedules.CosineDecay(0.0, **schedule)
        optimizer = keras.optimizers.SGD(schedule, momentum=0.9, weight_decay=1e-4)
    else:
        sizes = SMALL | (TREES if options.dataset == "tree_crowns" else DIGITS)
        sizes |= own_anchors(data.input_shape) if options.dataset == OWN else {}
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


RECIPE = Recipe(
    name="faster_rcnn",
    model="FasterRCNN",
    summary="proposes boxes, then classifies the features of each: digits in clutter, tree crowns",
    tasks={
        "digit_scenes/96_empty": Task(epochs=20, batch_size=16, metric=METRIC, aim=0.92, exports=(FLOAT, INT8_RAW)),
        "tree_crowns": Task(epochs=60, batch_size=4, metric=METRIC, exports=(FLOAT, INT8_RAW)),
        "coco/2017": Task(epochs=26, batch_size=16, metric=METRIC, exports=(FLOAT,)),
        "voc/2007": Task(epochs=50, batch_size=16, metric=METRIC, exports=(FLOAT,)),
    },
    own={OWN: Task(epochs=60, batch_size=8, metric=METRIC)},
    takes_image_size=True,
    load_data=load_data,
    build_model=build_model,
    evaluate=evaluate,
    baseline=lambda outcome: components_and_classifier(outcome.data),
    picture=detection_pictures.worst_and_losses,
    calibrate=calibration,
    figures=figures,
)

if __name__ == "__main__":
    run_as_script("faster_rcnn")
