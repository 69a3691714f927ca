"""FCN finds the nuclei of cells, pixel by pixel: with scores of stride 32, 16 and 8, each trained from the one before.

Paper:     Long, Shelhamer, Darrell 2014, "Fully Convolutional Networks for Semantic Segmentation", arXiv:1411.4038:
           mean IoU on VOC 2011 val of 63.6 with stride 32, 65.0 with 16 and 65.5 with 8, from the weights of VGG-16
Data:      hela_nuclei: 500 tiles of 128x128 pixels of HeLa cells under a microscope, of which each is mirrored, scaled
           and shifted at random in each epoch; 300 tiles of another part of the frames for the test
Command:   keras-dl train fcn
Aim:       mean IoU of 0.88 with stride 8, and less with 16 and with 32
Baseline:  Otsu's threshold of each tile: 0.879. The background everywhere: 0.443
Reaches:   0.934 with stride 8, 0.865 with 16 and 0.599 with 32, after 12 epochs each; 947 s for all on two busy cores
Files:     float32 0.934; int8 0.933, with 99.96% of the MACs on an Ethos-U55 of 128 MACs: of 63 ops, the enlargement by
           8 alone runs on the CPU

The net is VGG-16 of a quarter of its width, with batch normalization: from scratch, the published one learns nothing.
As in the paper, FCN-32s is trained first, FCN-16s starts from its weights, and FCN-8s from those of FCN-16s. So each of
the finer ones has seen more epochs than the one before.

`--dataset oxford_iiit_pet` has photos of pets; their borders are not judged. `--dataset voc/2012` has the paper's 20
classes. TensorFlow Datasets has no masks of it: give the folder that holds `VOCdevkit/VOC2012` by `--data-dir`. Both
train a net of half the width of VGG-16 on images of 224 pixels. Not measured.
"""

import keras
import numpy as np

import keras_dl
from keras_dl.losses import PixelCrossentropy
from keras_dl.metrics import MeanIoU
from keras_dl.recipes.tasks import segmentation
from keras_dl.recipes.training import pictures
from keras_dl.recipes.training.recipe import ETHOS_U55, FLOAT, INT8, Recipe, Task, run_as_script

NUCLEI, OWN = "hela_nuclei", "masks"
STRIDES = {"fcn8s": 8, "fcn16s": 16, "fcn32s": 32}
COARSER = {"fcn8s": "fcn16s", "fcn16s": "fcn32s"}
SIDE = {NUCLEI: 128, OWN: 128}  # of the images; others have 224, as VGG's
SMALL = dict(filters=(16, 32, 64, 128, 128), hidden_dim=128, dropout_rate=0.2)
LARGER = dict(filters=(32, 64, 128, 256, 256), hidden_dim=1024)


def load_data(options, variant):
    side = options.image_size or SIDE.get(options.dataset, 224)
    low, high = (0.75, 1.33) if options.dataset in (NUCLEI, OWN) else (0.5, 2.0)
    return segmentation.pixels(options, (side, side), low, high)


def build_model(data, options, variant):
    gray = dict(mean=40.0, std=50.0) if data.input_shape[-1] == 1 else {}
    model = keras_dl.FCN(
        data.input_shape,
        len(data.labels),
        stride=STRIDES[variant],
        batch_normalization=True,
        **gray,
        **(SMALL if options.dataset in (NUCLEI, OWN) else LARGER),
    )
    steps = data.steps(options)
    warmup = min(60, steps // 2)
    peak = options.rate(3e-3)
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps - warmup, warmup_target=peak, warmup_steps=warmup)
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=1e-3), PixelCrossentropy(), metrics=[MeanIoU(len(data.labels))]
    )
    return model


def begin(model, variant, earlier):
    """A finer net starts from the weights of the next coarser one, if that was trained."""
    if COARSER.get(variant) in earlier:
        model.take_weights(earlier[COARSER[variant]])


def evaluate(serve, data):
    return segmentation.mean_iou(serve, data)


def calibrate(serve, data, samples):
    """Both signatures take images."""
    rows = list(data.calibration(samples).as_numpy_iterator())
    return {"segment": rows, "logits": rows}


def baseline(outcome):
    if outcome.options.dataset == NUCLEI:
        return "Otsu's threshold", segmentation.by_threshold(outcome.data)
    return "the most frequent class", segmentation.by_majority(outcome.data)


def figures(outcome):
    """The mean IoU of the classes without the background, of each variant."""
    found = {}
    for variant, model in outcome.models.items():
        metric = MeanIoU(len(outcome.data.labels), background=False)
        for images, labels in outcome.data.test:
            metric.update_state(labels, model.predict_on_batch(images))
        found[f"{variant}, mean IoU without the background"] = float(metric.result())
    if outcome.options.dataset == NUCLEI and outcome.with_baseline:
        found["mean IoU of the background everywhere"] = segmentation.by_majority(outcome.data)
    return found


def picture(outcome):
    """The worst test images of the first net: the image, the truth, what each net finds; and the IoU over the epochs.

    White is right, red is found where nothing is, blue is missed, and gray is not judged. With more than two classes,
    red is another class.
    """
    data = outcome.data
    images, labels = (np.concatenate(x) for x in zip(*data.test.take(6).as_numpy_iterator(), strict=True))
    found = {
        name: np.concatenate(
            [model.predict_on_batch(part).argmax(-1) for part in np.array_split(images, -(-len(images) // 50))]
        )
        for name, model in ((name, outcome.models[name]) for name in outcome.trained)
    }
    first = next(iter(found.values()))
    judged = labels != segmentation.IGNORED
    wrong = ((first != labels) & judged).mean(axis=(1, 2))
    worst = np.argsort(-wrong, kind="stable")
    shown = [*worst[:5], *worst[len(worst) // 2 :][:2]]

    whole = pictures.figure(2 + 1.9 * len(shown), 3.4 + 1.9 * (2 + len(found)))
    upper, lower = whole.subfigures(2, 1, height_ratios=(1.9 * (2 + len(found)), 3.2))
    upper.suptitle(
        f"The five worst of {len(images)} test images of {next(iter(found))}, and two from the middle: wrong pixels",
        fontsize=11,
        color=pictures.INK,
        fontweight="bold",
    )
    rows = upper.subplots(2 + len(found), len(shown), squeeze=False)
    for column, i in zip(rows.T, shown, strict=True):
        pictures.show_image(column[0], images[i], cmap="gray")
        pictures.show_image(column[1], _classes(labels[i], len(data.labels)))
        for axis, of_net in zip(column[2:], found.values(), strict=True):
            share = ((of_net[i] != labels[i]) & judged[i]).mean()
            pictures.show_image(axis, _mistakes(of_net[i], labels[i]), f"{share:.1%}")
    for row, name in zip(rows, ("image", "truth", *found), strict=True):
        row[0].set_ylabel(name, fontsize=9, color=pictures.INK)
    axis = lower.subplots()
    pictures.curves(axis, outcome.trained, "val_mean_iou")
    pictures.style(axis, "Mean IoU of the test", "epoch")
    axis.legend(frameon=False)
    return whole


def _rgb(color):
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])


def _classes(labels, num_classes):
    """Labels as colors: black for the background, gray where nothing is judged."""
    palette = [np.zeros(3), *([np.full(3, 255)] if num_classes == 2 else [])]
    palette += [_rgb(pictures.COLORS[i % len(pictures.COLORS)]) for i in range(num_classes - len(palette))]
    return np.where(
        (labels == segmentation.IGNORED)[..., None], 128, np.array(palette)[np.minimum(labels, num_classes - 1)]
    )


def _mistakes(found, labels):
    """Right objects white, what is found wrongly red, and what is missed blue; gray where nothing is judged."""
    image = np.where((labels > 0)[..., None], 255, np.zeros(3))
    image = np.where(((found > 0) & (found != labels))[..., None], _rgb(pictures.COLORS[1]), image)
    image = np.where(((found == 0) & (labels > 0))[..., None], _rgb(pictures.COLORS[0]), image)
    return np.where((labels == segmentation.IGNORED)[..., None], 128, image)


NETS = dict(variants=tuple(STRIDES), order=tuple(reversed(STRIDES)), metric="mean IoU")

RECIPE = Recipe(
    name="fcn",
    model="FCN",
    summary="FCN finds the nuclei of cells, pixel by pixel, with strides of 32, 16 and 8",
    tasks={
        NUCLEI: Task(epochs=12, batch_size=16, aim=0.88, exports=(FLOAT, INT8, ETHOS_U55), **NETS),
        "oxford_iiit_pet": Task(epochs=30, batch_size=16, **NETS),
        "voc/2012": Task(epochs=100, batch_size=16, aim=0.627, **NETS),
    },
    own={OWN: Task(epochs=40, batch_size=8, **NETS)},
    load_data=load_data,
    build_model=build_model,
    evaluate=evaluate,
    baseline=baseline,
    picture=picture,
    takes_image_size=True,
    calibrate=calibrate,
    figures=figures,
    begin=begin,
)

if __name__ == "__main__":
    run_as_script("fcn")
