"""A small ConvNeXt reads handwritten digits.

Paper:     Liu et al. 2022, "A ConvNet for the 2020s", arXiv:2201.03545, table 1: 82.1% of the validation images of
           ImageNet for ConvNeXt-T, after 300 epochs
Data:      mnist_5k: 4,000 digits for training, shifted, rotated, scaled and sheared at random in each epoch; 1,000 for
           the test
Command:   keras-dl train convnext
Aim:       97%
Baseline:  the label of the nearest training digit, by its pixels: 93.0%
Reaches:   98.0% in 30 epochs; 345 s on two very busy cores
Files:     float32 98.0%; int8 98.0%, with all ops on an Ethos-U55
"""

import keras
import numpy as np

import keras_dl
from keras_dl.recipes.training import pictures, pipelines
from keras_dl.recipes.training.baselines import nearest_neighbor
from keras_dl.recipes.training.recipe import EDGETPU, ETHOS_U55, FLOAT, INT8, Recipe, Task, run_as_script

SMALL = dict(patch_size=2, num_blocks=(2, 2, 2), filters=(24, 48, 96), stochastic_depth_rate=0.05)


def load_data(options, variant):
    return pipelines.augmented_images(options, pixels=2, degrees=12, zoom=0.12, shear=0.2)


def build_model(data, options, variant):
    settings = keras_dl.ConvNeXt.presets["convnext_tiny"] if options.dataset == "imagenet2012" else SMALL
    if data.input_shape[-1] == 1:
        settings = settings | dict(mean=33.0, std=79.0)
    model = keras_dl.ConvNeXt(data.input_shape, len(data.labels), **settings)
    steps, peak = data.steps(options), options.rate(4e-3)
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=peak, warmup_steps=steps // 10)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=0.05)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta", "scale"])
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def picture(outcome):
    """Test images with all mistakes first, the error over the epochs, and depthwise kernels of the first block."""
    figure, network = pictures.of_classifier(outcome, height=5.6, ratio=1.5)
    kernels = np.asarray(outcome.model.get_layer("stage_1_block_0").depthwise.kernel)
    pictures.kernels(network, kernels[..., :6, 0], "Depthwise kernels of the first block")
    return figure


RECIPE = Recipe(
    name="convnext",
    model="ConvNeXt",
    summary="a ConvNeXt reads handwritten digits",
    tasks={
        # tflite-micro has no GELU.
        "mnist_5k": Task(epochs=30, batch_size=64, aim=0.97, exports=(FLOAT, INT8, ETHOS_U55, EDGETPU)),
        "mnist": Task(epochs=20, batch_size=64, aim=0.99),
        "cifar10": Task(epochs=100, batch_size=128),
        "imagenet2012": Task(epochs=300, batch_size=4096, aim=0.821),
    },
    own={"images": Task(epochs=40, batch_size=32)},
    takes_image_size=True,
    load_data=load_data,
    build_model=build_model,
    evaluate=pipelines.accuracy,
    baseline=nearest_neighbor,
    picture=picture,
)

if __name__ == "__main__":
    run_as_script("convnext")
