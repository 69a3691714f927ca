"""P4CNN reads digits that are rotated by any angle, against a plain network with as many weights.

Paper:     Cohen, Welling 2016, "Group Equivariant Convolutional Networks", arXiv:1602.07576, section 8.1: 2.28% error
           on MNIST-rot for P4CNN against 5.03% for Z2CNN, after training on 12,000 digits
Data:      rotated_mnist: 4,000 rotated digits for training, without augmentation; 1,000 others for the test, at four
           angles each
Command:   keras-dl train gcnn
Aim:       95%
Baseline:  Z2CNN, the same network on plain convolutions with 5% more weights, trained in the same way: 91.0%, which is
           360 errors
Reaches:   95.5% after 20 epochs, which is 181 errors; 169 s of training for both networks on two busy cores
Files:     float32 95.48%, as the model; int8 95.55%, with all 14 ops on an Ethos-U55 of 128 MACs

`--dataset cifar10` trains p4m-ResNet44 (section 8.2: 6.46% error, against 9.45% for the plain ResNet44). Not measured.
"""

import keras
import numpy as np

import keras_dl
from keras_dl.layers.group_convolution import GroupPooling
from keras_dl.ops.groups import turn_pixels
from keras_dl.recipes.training import pictures, pipelines
from keras_dl.recipes.training.recipe import EDGETPU, ETHOS_U55, FLOAT, MICRO, Recipe, Task, run_as_script

# The smallest width with at least the 24,620 trained weights of P4CNN: 25,772.
Z2_FILTERS = 22
P4CNN_SIDE = 22  # pixels, at least


def load_data(options, variant):
    return pipelines.images(options, fits=_is_turnable)


def _is_turnable(shape):
    """Whether P4CNN takes own images as they are: squares of an even side."""
    height, width, _ = shape
    return height == width >= P4CNN_SIDE and height % 2 == 0


def build_model(data, options, variant):
    shape, classes = data.input_shape, len(data.labels)
    if options.dataset == "cifar10":
        model = keras_dl.GroupResNet.from_preset(variant, image_shape=shape, num_classes=classes)
    elif variant == "z2cnn":
        model = keras_dl.GCNN(shape, classes, group="z2", filters=Z2_FILTERS)
    else:
        model = keras_dl.GCNN.from_preset(variant, image_shape=shape, num_classes=classes)
    steps = data.steps(options)
    model.compile(
        keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(options.rate(4e-3), steps), weight_decay=1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def baseline(outcome):
    (name,) = outcome.task.baselines
    return f"{name}, of as many weights", outcome.trained[name].value


def picture(outcome):
    """Test images with all mistakes first, the error over the epochs, and feature maps that rotate with their image."""
    figure, turning = pictures.of_classifier(outcome, height=6, ratio=1)

    model = outcome.model
    image = next(outcome.data.test.as_numpy_iterator())[0][:1]
    images = np.concatenate([turn_pixels(image, turns) for turns in range(4)])
    relu = next(layer for layer in model.layers if isinstance(layer, keras.layers.ReLU))
    pooled = GroupPooling(model.group, "mean")(relu.output)
    features = np.asarray(keras.Model(model.input, pooled)(images))
    turning.suptitle("Quarter turns, and feature maps", fontsize=11, color=pictures.INK, fontweight="bold")
    for column, pixels, maps in zip(turning.subplots(2, 4).T, images, features, strict=True):
        pictures.show_image(column[0], pixels)
        column[1].imshow(maps[..., 0], cmap="magma", vmin=0, vmax=features[..., 0].max())
        column[1].set_axis_off()
    return figure


RECIPE = Recipe(
    name="gcnn",
    model="GCNN",
    summary="P4CNN reads rotated digits, against a plain network with as many weights",
    tasks={
        "rotated_mnist": Task(
            epochs=20,
            batch_size=64,
            aim=0.95,
            variants=("p4cnn", "z2cnn"),
            baselines=("z2cnn",),
            exports=(FLOAT, MICRO, ETHOS_U55, EDGETPU),
        ),
        "cifar10": Task(
            epochs=100,
            batch_size=128,
            aim=0.9354,
            variants=("p4m_resnet44", "z2_resnet44"),
            baselines=("z2_resnet44",),
        ),
    },
    own={"images": Task(epochs=30, batch_size=32, variants=("p4cnn", "z2cnn"), baselines=("z2cnn",))},
    takes_image_size=True,
    load_data=load_data,
    build_model=build_model,
    evaluate=pipelines.accuracy,
    baseline=baseline,
    picture=picture,
)

if __name__ == "__main__":
    run_as_script("gcnn")
