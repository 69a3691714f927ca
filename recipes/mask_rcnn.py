"""Mask R-CNN separates the nuclei of cells.

Paper:     He, Gkioxari, Dollár, Girshick 2017, "Mask R-CNN", arXiv:1703.06870: 34.6 mask AP and 37.9 box AP on COCO
           2017 with ResNet-50 in torchvision
Data:      hela_nuclei: 500 tiles of 128 x 128 pixels for training, turned over, scaled and shifted at random in each
           epoch; 300 of another part of the frames for the test
Command:   keras-dl train mask_rcnn
Aim:       0.9 mask AP at an IoU of 0.5
Baseline:  Otsu's threshold, and regions parted halfway between their centers: 0.918
Reaches:   0.975 after 16 epochs and 1,340 s of training on two very busy cores; 0.906 as the mean over IoUs of 0.5 to
           0.95, and 0.854 of boxes
Files:     float32 0.975; `raw` in int8 (0.5 MB), and `postprocess` of the float file: 0.975, and 0.906 as the mean over
           IoUs

The figures of the two files together are those of `judged` of

    lambda signature, images: whole.serve("postprocess", **raw.serve("raw", images=images))

with both opened by `keras_dl.export.load`.

The network is small: a ResNet of 32 to 128 maps from scratch, and a mask head of two convolutions of 32.

`--dataset digit_scenes/96_empty` draws the masks of digits, most of whose strokes are 2 to 4 pixels wide; not measured.
COCO has masks, but the set of TensorFlow Datasets has boxes alone, so that it is not among the data here.
"""

import keras
import numpy as np

import keras_dl
from keras_dl.extras import require
from keras_dl.recipes.faster_rcnn import own_anchors
from keras_dl.recipes.tasks import detection_pictures
from keras_dl.recipes.tasks.detection import calibration, coco_figures, objects, serving
from keras_dl.recipes.tasks.detection_baseline import padded
from keras_dl.recipes.training import augment_objects as augment
from keras_dl.recipes.training.recipe import FLOAT, INT8_RAW, Recipe, Task, run_as_script

METRIC = "mask AP at an IoU of 0.5"
SMALL = dict(
    num_blocks=(1, 1, 1),
    filters=(32, 64, 128),
    block="basic",
    pyramid_filters=64,
    head_dims=(128, 128),
    mask_dims=(32, 32),
    canonical_side=96,
    anchor_samples=64,
    box_samples=64,
    mask_samples=12,
    candidates=(200, 100),
    proposals=(200, 150),
    max_detections=30,
    roi_form="matrix",
    paste=True,
)
NUCLEI = dict(anchor_sizes=((14, 20), (26, 34), (44, 60)))
DIGITS = dict(anchor_sizes=((10, 16), (22, 30), (40, 56)), anchor_ratios=(1.0, 1.5, 2.5))


OWN, OWN_SIDE = "instances", 128  # the form of own data, and the side of its images


def load_data(options, variant):
    if options.dataset == OWN:
        shape = (options.image_size or OWN_SIDE,) * 2
        moved = lambda sample, seed: augment.jitter(sample, seed, shape, low=0.8, high=1.25)  # noqa: E731
        return objects(options, shape, 0, moved, masks=True)
    nuclei = options.dataset == "hela_nuclei"
    shape = (options.image_size or (128 if nuclei else 96),) * 2

    def change(sample, seed):
        sample = (augment.flip if nuclei else augment.recolor)(sample, seed)
        return augment.jitter(sample, seed + 1, shape, low=0.8, high=1.25)

    return objects(options, shape, max_boxes=16 if nuclei else 8, change=change, masks=True)


def build_model(data, options, variant):
    sizes = SMALL | (NUCLEI if options.dataset == "hela_nuclei" else DIGITS)
    sizes |= own_anchors(data.input_shape) if options.dataset == OWN else {}
    model = keras_dl.MaskRCNN(image_shape=data.input_shape, num_classes=len(data.labels), seed=options.seed, **sizes)
    steps = data.steps(options)
    warmup = min(100, steps // 2)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps - warmup, warmup_target=options.rate(2e-3), warmup_steps=warmup
    )
    model.compile(keras.optimizers.AdamW(rate, weight_decay=1e-2))
    return model


def judged(serve, data):
    return coco_figures(serve, data, masks=True)


def evaluate(serve, data):
    return judged(serve, data)["mask_AP50"]


def figures(outcome):
    """COCO's other figures of the model."""
    found = judged(serving(outcome.model), outcome.data)
    names = ("mask_AP", "mask_AP75", "box_AP", "box_AP50", "mask_AR")
    return {name: found[name] for name in names if found[name] is not None}


def baseline(outcome):
    """Otsu's threshold, and regions parted between their centers; all are of class 0."""
    data = outcome.data

    def serve(signature, images):
        found = [parted(image) for image in np.asarray(images)]
        result = padded([(boxes, scores, np.zeros(len(boxes), int)) for _, boxes, scores in found])
        result["masks"] = np.zeros((*result["scores"].shape, *images.shape[1:3]), bool)
        for i, (masks, _, _) in enumerate(found):
            result["masks"][i, : len(masks)] = masks
        return result

    name = "Otsu's threshold, parted between centers" + ("" if len(data.labels) == 1 else ", without classes")
    return name, float(judged(serve, data)["mask_AP50"] or 0.0)


SMALLEST = 30  # pixels of an object of the baseline
APART = 15  # pixels: a center is the deepest point of a square of this side. The better of 15 and 21 in training


def parted(image):
    """Objects as bright regions, of which those that touch are parted halfway between their centers.

    The threshold is Otsu's on the logarithm of the brightness, since some nuclei are four times as bright as others. A
    center is where the distance from the ground is largest.

    Args:
        image: `(height, width, 3)`, in [0, 255].

    Returns:
        masks: bool `(n, height, width)`.
        boxes: float32 `(n, 4)`, xyxy.
        scores: float32 `(n,)`: the share of the image, so that larger objects come first.
    """
    measure = require("scipy.ndimage", extra="recipes")
    gray = np.log1p(measure.gaussian_filter(np.asarray(image, "float32").mean(-1), 1.0))
    bright = measure.binary_opening(gray > otsu(gray))
    depth = measure.gaussian_filter(measure.distance_transform_edt(bright), 2.0)
    centers, count = measure.label((depth == measure.maximum_filter(depth, APART)) & bright, np.ones((3, 3)))
    rows, columns = measure.distance_transform_edt(centers == 0, return_distances=False, return_indices=True)
    nearest = centers[rows, columns]
    masks = np.array([(nearest == i) & bright for i in range(1, count + 1)], bool).reshape(-1, *gray.shape)
    masks = masks[masks.sum((1, 2)) >= SMALLEST]
    areas = masks.sum((1, 2))
    order = np.argsort(-areas, kind="stable")
    boxes = [measure.find_objects(mask.astype(int))[0] for mask in masks[order]]
    boxes = np.float32([[x.start, y.start, x.stop, y.stop] for y, x in boxes]).reshape(-1, 4)
    return masks[order], boxes, (areas[order] / gray.size).astype("float32")


def otsu(gray):
    """The threshold between two groups of pixels whose means are the furthest apart, weighted by their sizes.

    Reference: Otsu 1979, "A threshold selection method from gray-level histograms".
    """
    counts, edges = np.histogram(gray, 256)
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    total = np.cumsum(counts * middles)
    apart = total / np.maximum(below, 1) - (total[-1] - total) / np.maximum(above, 1)
    return middles[(below * above * apart**2).argmax()]


RECIPE = Recipe(
    name="mask_rcnn",
    model="MaskRCNN",
    summary="boxes and the mask of each object: nuclei under a microscope, digits in clutter",
    tasks={
        "hela_nuclei": Task(epochs=16, batch_size=8, metric=METRIC, aim=0.90, exports=(FLOAT, INT8_RAW)),
        "digit_scenes/96_empty": Task(epochs=24, batch_size=16, metric=METRIC, exports=(FLOAT, INT8_RAW)),
    },
    own={OWN: Task(epochs=40, batch_size=8, metric=METRIC)},
    takes_image_size=True,
    load_data=load_data,
    build_model=build_model,
    evaluate=evaluate,
    baseline=baseline,
    picture=detection_pictures.worst_and_losses,
    calibrate=calibration,
    figures=figures,
)

if __name__ == "__main__":
    run_as_script("mask_rcnn")
