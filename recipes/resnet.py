"""Residual networks: deeper networks get better, where plain ones get worse.

Paper:     He, Zhang, Ren, Sun 2015, "Deep Residual Learning for Image Recognition", arXiv:1512.03385, section 4.2 and
           fig. 6: 20 and 56 layers on CIFAR-10, with and without shortcuts
Data:      mnist_5k: 4,000 digits for training, shifted and rotated at random in each epoch; 1,000 for the test
Command:   keras-dl train resnet
Aim:       98%
Baseline:  the plain network of 20 layers: 98.7%. At this depth there is nothing to cure yet.
Reaches:   98.7% with 20 layers and 98.9% with 56; the plain networks fall from 98.7% to 93.0%. Training accuracy: 99.6%
           and 99.6%, plain 99.2% and 92.9%. 16 min for all four on two busy CPU cores.

`--dataset cifar10` trains the four networks with the paper's augmentation, batch size and number of epochs (there
91.25% with 20 layers); `--dataset imagenet2012` trains ResNet-50. Not measured. Unlike in the paper, the learning rate
warms up and then falls along a cosine.
"""

import keras

import keras_dl
from keras_dl.recipes.training import pictures, pipelines
from keras_dl.recipes.training.recipe import Recipe, Task, run_as_script

GRAY = dict(mean=33.0, std=79.0)  # pixels of MNIST; the presets hold those of CIFAR-10 and ImageNet
DEPTHS = dict(variants=("resnet20", "resnet56", "plain20", "plain56"), baselines=("plain20", "plain56"))


def load_data(options, variant):
    return pipelines.augmented_images(options, pixels=2, degrees=12)


def build_model(data, options, variant):
    model = keras_dl.ResNet.from_preset(
        variant.replace("plain", "resnet"),
        image_shape=data.input_shape,
        num_classes=len(data.labels),
        residual=variant.startswith("resnet"),
        **(GRAY if data.input_shape[-1] == 1 else {}),
    )
    steps = data.steps(options)
    # Deep networks diverge or stall when started at the full rate: the paper warms up 110 layers (section 4.2).
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=steps - steps // 10, warmup_target=options.rate(0.1), warmup_steps=steps // 10
    )
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.9, weight_decay=1e-4),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def baseline(outcome):
    if "plain20" in outcome.trained:
        return "plain net of 20 layers", outcome.trained["plain20"].value
    return "guessing", 1 / len(outcome.data.labels)


def picture(outcome):
    """Training and test error as in fig. 6 of the paper: plain networks left, residual networks right."""
    figure = pictures.figure(11, 4.6)
    kinds = [kind for kind in ("plain", "resnet") if any(name.startswith(kind) for name in outcome.trained)]
    axes = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axis, kind in zip(axes, kinds, strict=True):
        nets = {name: trained for name, trained in outcome.trained.items() if name.startswith(kind)}
        for key, look in (("accuracy", dict(linestyle=":", linewidth=1.1, label=None)), ("val_accuracy", {})):
            pictures.curves(axis, nets, key, lambda accuracy: 100 * (1 - accuracy), **look)
        pictures.style(
            axis,
            f"{'Plain' if kind == 'plain' else 'Residual'} nets: error, %",
            "epoch (dotted: training, solid: test)",
        )
        axis.legend(frameon=False)
    return figure


RECIPE = Recipe(
    name="resnet",
    model="ResNet",
    summary="20 and 56 layers, plain and residual: the degradation of plain networks, and its cure",
    tasks={
        "mnist_5k": Task(epochs=15, batch_size=64, aim=0.98, **DEPTHS),
        "mnist": Task(epochs=20, batch_size=128, **DEPTHS),
        "fashion_mnist": Task(epochs=40, batch_size=128, **DEPTHS),
        "cifar10": Task(epochs=164, batch_size=128, aim=0.9125, **DEPTHS),
        "imagenet2012": Task(epochs=90, batch_size=256, aim=0.76, variants=("resnet50",)),
    },
    own={"images": Task(epochs=40, batch_size=32, variants=("resnet20",))},
    takes_image_size=True,
    load_data=load_data,
    build_model=build_model,
    evaluate=pipelines.accuracy,
    baseline=baseline,
    picture=picture,
)

if __name__ == "__main__":
    run_as_script("resnet")
