"""A small Vision Transformer reads handwritten digits.

Paper:     Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words", arXiv:2010.11929. It has no result without
           pre-training on millions of images: with little data, transformers are worse than convolutions (section 4.3).
Data:      mnist_5k: 4,000 digits for training, shifted, rotated, scaled and sheared at random in each epoch; 1,000 for
           the test
Command:   keras-dl train vit
Aim:       95%
Baseline:  the label of the nearest training digit, by its pixels: 93.0%
Reaches:   96.4% in 40 epochs; 286 s on two busy cores
Files:     float32 96.4%; int8 95.9%, with all ops on an Ethos-U55
"""

import keras
import numpy as np

import keras_dl
from keras_dl.recipes.training import pictures, pipelines
from keras_dl.recipes.training.baselines import nearest_neighbor
from keras_dl.recipes.training.recipe import EDGETPU, ETHOS_U55, FLOAT, INT8, Recipe, Task, run_as_script

SMALL = dict(patch_size=4, hidden_dim=64, mlp_dim=128, num_layers=4, num_heads=4)


def load_data(options, variant):
    changes = dict(pixels=1, degrees=10, zoom=0.1, shear=0.15)
    return pipelines.augmented_images(options, fits=_is_of_patches, **changes)


def _is_of_patches(shape):
    return not any(side % SMALL["patch_size"] for side in shape[:2])


def build_model(data, options, variant):
    settings = keras_dl.ViT.presets["vit_b16"] if options.dataset == "imagenet2012" else SMALL
    if data.input_shape[-1] == 1:
        settings = settings | dict(mean=0.0, std=255.0)  # the token of a black patch is only its position
    model = keras_dl.ViT(data.input_shape, len(data.labels), **settings)
    steps, peak = data.steps(options), options.rate(1e-3)
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=peak, warmup_steps=steps // 10)
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=0.05, global_clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def picture(outcome):
    """Test images with all mistakes first, the error over the epochs, and the attention of the class token."""
    figure, looks = pictures.of_classifier(outcome, height=6, ratio=1)

    images = next(outcome.data.test.as_numpy_iterator())[0][:6]
    maps = np.asarray(outcome.model.attention_map(images))
    looks.suptitle("Attention roll-out of the class token", fontsize=11, color=pictures.INK, fontweight="bold")
    for column, (image, shares) in zip(
        looks.subplots(2, len(images), squeeze=False).T, zip(images, maps, strict=True), strict=True
    ):
        pictures.show_image(column[0], image)
        column[1].imshow(shares, cmap="magma", vmin=0)
        column[1].set_axis_off()
    return figure


RECIPE = Recipe(
    name="vit",
    model="ViT",
    summary="a Vision Transformer reads handwritten digits, and shows its attention",
    tasks={
        # tflite-micro has no GELU.
        "mnist_5k": Task(epochs=40, batch_size=32, aim=0.95, exports=(FLOAT, INT8, ETHOS_U55, EDGETPU)),
        "mnist": Task(epochs=20, batch_size=64, aim=0.98),
        "cifar10": Task(epochs=100, batch_size=128),
        "imagenet2012": Task(epochs=300, batch_size=1024),
    },
    own={"images": Task(epochs=60, batch_size=32)},
    takes_image_size=True,
    load_data=load_data,
    build_model=build_model,
    evaluate=pipelines.accuracy,
    baseline=nearest_neighbor,
    picture=picture,
)

if __name__ == "__main__":
    run_as_script("vit")
