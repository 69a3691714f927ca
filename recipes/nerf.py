"""NeRF learns a scene from images with known cameras, and renders it from other places.

Paper:     Mildenhall, Srinivasan, Tancik, Barron, Ramamoorthi, Ng 2020, "NeRF: Representing Scenes as Neural Radiance
           Fields for View Synthesis", arXiv:2003.08934: 31.01 dB on the synthetic scenes, 32.54 dB on Lego, at 800x800
Data:      traced_scene: 60 ray-traced views of 64x64 pixels for training, 6 for validation, 12 for the test
Command:   keras-dl train nerf
Aim:       28 dB, the mean over the test views
Baseline:  the training view whose camera is nearest: 18.1 dB; the mean of the training views: 15.0 dB
Reaches:   29.0 dB, SSIM 0.961 and a median error of the depth of 0.042 where the objects are 2.7 wide, after 5 epochs;
           370 s of training on two busy cores

`--dataset blender --data-dir FOLDER` and `--dataset llff --data-dir FOLDER` train the networks of the paper on one
scene, which the user has, with the authors' settings: 1,024 and 4,096 rays, noise on the density and normalized device
coordinates for LLFF, and for the synthetic scenes 500 steps that see the middle of the images. Not measured.
`--data FOLDER` with `transforms.json`: your own scene, with the small networks of the default data.
"""

import keras
import numpy as np

import keras_dl
from keras_dl.metrics import PSNR
from keras_dl.ops.rays import orbit_cameras
from keras_dl.recipes.tasks import views
from keras_dl.recipes.training import pictures
from keras_dl.recipes.training.recipe import FLOAT, Export, Recipe, Task, run_as_script

SCENE, OWN = "traced_scene", "scene"
OWN_SIDE = 100  # pixels of the longer side of own images, which are shrunk to it
SMALL = dict(
    near=2.4,
    far=5.6,
    num_samples=16,
    num_fine_samples=24,
    point_frequencies=6,
    direction_frequencies=2,
    num_layers=4,
    hidden_dim=128,
    skips=(1,),
    density_activation="softplus",
    white_background=True,
    infinite_end=False,
    served_size=(32, 32),
)


def load_data(options, variant):
    if options.dataset == SCENE:
        return views.traced_scene(options, SMALL["near"], SMALL["far"])
    if options.dataset == OWN:
        return views.own(options, OWN_SIDE)
    return views.published(options, crop_steps=500 if options.dataset == "blender" else 0)


def settings(data):
    """The arguments of the small networks."""
    near, far = map(float, data.arrays["bounds"])
    return SMALL | dict(near=near, far=far, white_background=bool(data.arrays.get("white", True)))


def build_model(data, options, variant):
    steps = data.steps(options)
    if options.dataset in (SCENE, OWN):
        model = keras_dl.NeRF(**settings(data), seed=options.seed)
        warmup = min(100, steps // 2)
        rate = keras.optimizers.schedules.CosineDecay(
            0.0, steps - warmup, alpha=0.02, warmup_target=options.rate(3e-3), warmup_steps=warmup
        )
    else:
        near, far = map(float, data.arrays["bounds"])
        given = dict(near=near, far=far, seed=options.seed)
        if options.dataset == "llff":
            given |= dict(ndc=data.arrays["ndc"].tolist(), density_noise=1.0, white_background=False)
        model = keras_dl.NeRF.from_preset("blender", **given)
        decay = 250_000 if options.dataset == "llff" else 500_000
        rate = keras.optimizers.schedules.ExponentialDecay(options.rate(5e-4), decay, 0.1)
    model.compile(keras.optimizers.Adam(rate), metrics=[PSNR()])
    return model


def evaluate(serve, data):
    """The mean PSNR of the test views in dB."""
    return views.psnr(views.render_test_views(serve, data, settings(data)), data)


def baseline(outcome):
    """The better one of two: the mean image, and the nearest training view."""
    candidates = {"mean image": views.mean_image, "nearest training view": views.nearest_views}
    values = {name: views.psnr(render(outcome.data), outcome.data) for name, render in candidates.items()}
    return max(values.items(), key=lambda item: item[1])


def calibrate(serve, data, samples):
    return views.calibration(serve, data, samples, settings(data))


def picture(outcome):
    """Test views and their depth beside the truth, the error over the epochs, and views of a turntable."""
    data, model = outcome.data, outcome.model
    shown = np.linspace(0, len(data.arrays["test/images"]) - 1, 4).round().astype(int)
    targets, focal = data.arrays["test/images"], float(data.arrays["focal"])
    size = targets.shape[1:3]
    seen = model.render(data.arrays["test/cameras"], focal, size)
    whole = pictures.figure(12.5, 8.2)
    upper, lower = whole.subfigures(2, 1, height_ratios=(2.1, 1))
    left, right = upper.subfigures(1, 2, width_ratios=(2.1, 1))
    similar = views.ssim(seen["rgb"], data)
    left.suptitle(
        f"Test views: {views.psnr(seen['rgb'], data):.1f} dB, SSIM {similar:.3f}. Above true, below rendered", **TITLE
    )
    axes = left.subplots(2, len(shown), squeeze=False)
    for (above, below), i in zip(axes.T, shown, strict=True):
        pictures.show_image(above, targets[i])
        pictures.show_image(below, 255 * seen["rgb"][i], f"{views.psnr_of(seen['rgb'][i], targets[i]):.1f} dB")
    error, depth = right.subfigures(2, 1)
    axis = error.subplots()
    pictures.curves(axis, outcome.trained, "val_psnr" if data.validation is not None else "psnr")
    pictures.style(axis, "PSNR of the validation views, dB", "epoch")
    draw_depth(depth, data, seen, shown[0])
    turntable(lower, model, data, focal, size)
    return whole


TITLE = dict(fontsize=11, color=pictures.INK, fontweight="bold")
DEPTH = "viridis_r"


def draw_depth(figure, data, seen, view):
    """The depth of one test view, beside its truth if it is known."""
    near, far = data.arrays["bounds"]
    panels = {"rendered": seen["depth"][view]}
    title = "Depth"
    if "test/depth" in data.arrays:
        panels = {"true": np.minimum(data.arrays["test/depth"][view], far)} | panels
        title = f"Depth of the objects: median error {views.depth_error(seen, data):.3f}"
    figure.suptitle(title, **TITLE)
    for axis, (name, depth) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        axis.imshow(depth, cmap=DEPTH, vmin=near, vmax=far, interpolation="nearest")
        axis.set_xlabel(name, fontsize=8, color=pictures.INK)
        axis.set(xticks=[], yticks=[])


def turntable(figure, model, data, focal, size):
    """Colors and depth from eight places of a circle, or from eight training views where the scene has no middle."""
    near, far = data.arrays["bounds"]
    if "ndc" in data.arrays:
        cameras = data.arrays["train/cameras"][np.linspace(0, len(data.arrays["train/cameras"]) - 1, 8).astype(int)]
    else:
        distance = np.linalg.norm(data.arrays["train/cameras"][:, :, 3], axis=-1).mean()
        cameras = orbit_cameras(8, radius=0.85 * distance, height=0.5 * distance)
    seen = model.render(cameras, focal, size)
    figure.suptitle("A turntable: colors, and the depth of each place", **TITLE)
    for (above, below), rgb, depth in zip(figure.subplots(2, 8).T, seen["rgb"], seen["depth"], strict=True):
        pictures.show_image(above, 255 * rgb)
        below.imshow(depth, cmap=DEPTH, vmin=near, vmax=far, interpolation="nearest")
        below.set(xticks=[], yticks=[])


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
                # int8 is refused, also if all but the networks is float32: the cosine similarity of colors is 0.94.
                Export("dynamic_int8", "cpu", ("render_rays",)),
                Export("int8", "ethos-u55-128", ("coarse", "fine")),
            ),
        ),
        "blender": Task(epochs=8, batch_size=1024, metric="PSNR, dB", aim=31.01),
        "llff": Task(epochs=60, batch_size=4096, metric="PSNR, dB", aim=26.5),
    },
    own={OWN: Task(epochs=5, batch_size=512, metric="PSNR, dB")},
    load_data=load_data,
    build_model=build_model,
    evaluate=evaluate,
    baseline=baseline,
    picture=picture,
    calibrate=calibrate,
)

if __name__ == "__main__":
    run_as_script("nerf")
