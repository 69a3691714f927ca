"""NeRF learns a scene from images with known cameras, and renders it from other places.

Paper:     Mildenhall, Srinivasan, Tancik, Barron, Ramamoorthi, Ng 2020, "NeRF: Representing Scenes as Neural Radiance
           Fields for View Synthesis", arXiv:2003.08934: 31.01 dB on the synthetic scenes, 32.54 dB on Lego, at 800x800
Data:      traced_scene: 60 ray-traced views of 64x64 pixels for training, 6 for validation, 12 for the test
Command:   keras-dl train nerf
Aim:       28 dB, the mean over the test views
"""

import keras
import numpy as np

import keras_dl
from keras_dl.metrics import PSNR
from keras_dl.ops.rays import orbit_cameras
from keras_dl.recipes.tasks import views
from keras_dl.recipes.training import pictures
from keras_dl.recipes.training.recipe import FLOAT, Export, Recipe, Task, run_as_script

SCENE = "traced_scene"
SMALL = dict(
    near=2.4,
    far=5.6,
    num_samples=32,
    num_fine_samples=32,
    point_frequencies=8,
    direction_frequencies=2,
    num_layers=4,
    hidden_dim=128,
    skips=(1,),
    density_activation="softplus",
    white_background=True,
    infinite_end=True,
    served_size=(32, 32),
)
# All layers but the networks: coordinates and distances do not fit into 8 bits.
BETWEEN = (
    "rays",
    "encoded_directions",
    "encoded_points",
    "coarse_distances",
    "coarse_composite",
    "fine_distances",
    "fine_composite",
)


def load_data(options, variant):
    if options.dataset == SCENE:
        return views.traced_scene(options, SMALL["near"], SMALL["far"])
    return views.published(options, crop_steps=500 if options.dataset == "blender" else 0)


def build_model(data, options, variant):
    steps = data.steps(options)
    if options.dataset == SCENE:
        model = keras_dl.NeRF(**SMALL, seed=options.seed)
        warmup = min(100, steps // 2)
        rate = keras.optimizers.schedules.CosineDecay(
            0.0, steps - warmup, alpha=0.02, warmup_target=options.rate(3e-3), warmup_steps=warmup
        )
    else:
        near, far = map(float, data.arrays["bounds"])
        settings = dict(near=near, far=far, seed=options.seed)
        if options.dataset == "llff":
            settings |= dict(ndc=data.arrays["ndc"].tolist(), density_noise=1.0, white_background=False)
        model = keras_dl.NeRF.from_preset("blender", **settings)
        decay = 250_000 if options.dataset == "llff" else 500_000
        rate = keras.optimizers.schedules.ExponentialDecay(options.rate(5e-4), decay, 0.1)
    model.compile(keras.optimizers.Adam(rate), metrics=[PSNR()])
    return model


def evaluate(serve, data):
    """The mean PSNR of the test views in dB."""
    return views.psnr(views.render_test_views(serve, data, SMALL), data)


def baseline(outcome):
    """The better one of two: the mean image, and the nearest training view."""
    candidates = {"mean image": views.mean_image, "nearest training view": views.nearest_views}
    values = {name: views.psnr(render(outcome.data), outcome.data) for name, render in candidates.items()}
    return max(values.items(), key=lambda item: item[1])


def calibrate(serve, data, samples):
    return views.calibration(serve, data, samples, SMALL)


def picture(outcome):
    """Test views beside their truth, depth beside its truth, the error over the epochs, and a turntable."""
    return None


RECIPE = Recipe(
    name="nerf",
    model="NeRF",
    summary="NeRF learns a scene from images, and renders it from other places",
    tasks={
        SCENE: Task(
            epochs=5,
            batch_size=512,
            metric="PSNR, dB",
            aim=28.0,
            exports=(
                FLOAT,
                Export("int8", "cpu", ("render_rays",), BETWEEN),
                Export("int8", "ethos-u55-128", ("coarse", "fine")),
            ),
        ),
        "blender": Task(epochs=8, batch_size=1024, metric="PSNR, dB", aim=31.01),
        "llff": Task(epochs=60, batch_size=4096, metric="PSNR, dB", aim=26.5),
    },
    load_data=load_data,
    build_model=build_model,
    evaluate=evaluate,
    baseline=baseline,
    picture=picture,
    calibrate=calibrate,
)

if __name__ == "__main__":
    run_as_script("nerf")
