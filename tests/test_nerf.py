"""NeRF: cameras and rays, sampling and compositing against closed forms, and what nerf-pytorch computes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracles import load_oracle, state_dict
from reference import write_safetensors

from keras_dl import NeRF, ops
from keras_dl.metrics import PSNR, SSIM
from keras_dl.models.scenes.radiance import RadianceField

TINY = dict(num_samples=8, num_fine_samples=4, num_layers=2, hidden_dim=8, skips=(), point_frequencies=2)


def random_rays(n, seed=0):
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(n, 3)).astype("float32")
    return dict(directions=directions, origins=rng.normal(size=(n, 3)).astype("float32"))


def rotation(seed=0):
    q = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    return q * np.linalg.det(q)


def test_presets_have_the_published_counts():
    """By appendix A: 63 channels, 8 layers of 256, the encoding again after the fifth; density; 283 to 128; color."""
    hidden = 63 * 256 + 256 + 6 * (256 * 256 + 256) + (63 + 256) * 256 + 256
    heads = (256 + 1) + (256 * 256 + 256) + (256 + 27) * 128 + 128 + 128 * 3 + 3
    assert hidden + heads == 595_844
    with keras.StatelessScope(initialize_variables=False):
        model = NeRF.from_preset("blender")
        for field in model.fields.values():
            assert sum(np.prod(v.shape) for v in field.trainable_variables) == 595_844
        assert len(NeRF.from_preset("blender", num_fine_samples=0).fields) == 1


# Cameras.


def test_a_point_is_hit_by_the_ray_of_its_pixel():
    """A pinhole camera of OpenCV at a known place sees a known point at a known pixel."""
    turn, center = rotation(), np.array([0.3, -1.0, 2.0])
    opencv = np.concatenate([turn, center[:, None]], axis=1)  # right, down, forward
    place = np.array([0.25, 0.1, 2.0])  # in the camera: to the right, below, in front
    focal, size = 8.0, (6, 10)
    x, y = focal * place[:2] / place[2] + np.array([5.0, 3.0])  # pixels from the top left corner: 6.0, 3.4
    column, row = int(x), int(y)
    camera = ops.convert_cameras(opencv, "opencv", "opengl")
    origins, directions = ops.camera_rays(camera, focal, size, center=(5.0 - (x - column - 0.5), 3.0 - (y - row - 0.5)))
    world = turn @ place + center
    np.testing.assert_allclose(origins[row, column] + 2.0 * directions[row, column], world, atol=1e-5)
    _, corners = ops.camera_rays(camera, focal, size, center=(5.0 - (x - column), 3.0 - (y - row)), pixel_offset=0.0)
    np.testing.assert_allclose(corners, directions, atol=1e-6)


def test_conventions_are_what_they_are_called():
    right, up, backward = rotation().T
    columns = dict(opengl=(right, up, backward), opencv=(right, -up, -backward), llff=(-up, right, backward))
    cameras = {name: np.stack([*axes, np.ones(3)], axis=-1) for name, axes in columns.items()}
    for source, camera in cameras.items():
        for target, expected in cameras.items():
            np.testing.assert_allclose(ops.convert_cameras(camera, source, target), expected, atol=1e-12)
            batch = np.concatenate([camera, [[0, 0, 0, 1]]])[None]
            np.testing.assert_allclose(ops.convert_cameras(batch, source, target)[0, :3], expected, atol=1e-12)
    with pytest.raises(ValueError, match="source='blender' must be one of 'opengl', 'opencv', 'llff'"):
        ops.convert_cameras(np.eye(4), "blender")
    with pytest.raises(ValueError, match=r"camera_to_world has the shape \(3, 3\)"):
        ops.convert_cameras(np.eye(3), "opencv")


def test_cameras_look_at_their_target():
    target = np.array([0.5, -1.0, 2.0])
    cameras = ops.orbit_cameras(5, radius=3.0, height=1.0, target=target)
    for camera in cameras:
        np.testing.assert_allclose(camera[:, :3] @ camera[:, :3].T, np.eye(3), atol=1e-6)
        assert np.linalg.det(camera[:, :3]) == pytest.approx(1)
        assert camera[2, 1] > 0  # up in the image is up in the world
        origins, directions = ops.camera_rays(camera, 5.0, (3, 3))
        distance = np.sqrt(10.0)
        np.testing.assert_allclose(origins[1, 1] + distance * directions[1, 1], target, atol=1e-5)
    with pytest.raises(ValueError, match="looks along up"):
        ops.look_at([0.0, 0.0, 2.0])
    with pytest.raises(ValueError, match="focal=0"):
        ops.camera_rays(cameras[0], 0, (3, 3))


def test_normalized_device_coordinates():
    """The plane goes to z = -1, infinity to z = 1, what the image shows to [-1, 1], and lines stay lines."""
    focal, size = 4.0, (6, 8)
    scale = (2 * focal / 8, 2 * focal / 6)
    camera = np.eye(4)[:3] + np.array([[0, 0, 0, 0.2], [0, 0, 0, -0.1], [0, 0, 0, 0.3]])
    world = [np.reshape(x, (-1, 3)) for x in ops.camera_rays(camera, focal, size)]
    origins, directions = map(np.asarray, ops.ndc_rays(*world, scale))
    np.testing.assert_allclose(origins[:, 2], -1, atol=1e-6)
    np.testing.assert_allclose((origins + directions)[:, 2], 1, atol=1e-6)
    places = world[0] + np.array([1.0, 2.5, 40.0])[:, None, None] * world[1]  # (3, rays, 3)
    places[..., 2] -= 0.4
    x, y, z = np.moveaxis(places, -1, 0)
    projected = np.stack([-scale[0] * x / z, -scale[1] * y / z, 1 + 2 / z], -1)
    start, way = map(np.asarray, ops.ndc_rays(world[0] - np.array([0, 0, 0.4]), world[1], scale))
    share = (projected[..., 2] - start[:, 2]) / way[:, 2]
    np.testing.assert_allclose(start + share[..., None] * way, projected, atol=1e-5)
    middle = np.asarray(ops.ndc_rays(*[np.reshape(x, (-1, 3)) for x in ops.camera_rays(np.eye(4), focal, size)], scale))
    assert np.abs(middle[0][:, :2]).max() < 1  # a camera at the origin: the image fills the square
    assert np.abs(middle[0][:, 0]).max() == pytest.approx(3.5 / 4)


def test_the_encoding_has_the_frequencies_of_the_code():
    x = np.array([[0.3, -0.7, 1.1]])
    found = np.asarray(ops.frequency_encoding(x, 3)).reshape(1, 7, 3)
    expected = [x, *(np.sin(2**k * x) for k in range(3)), *(np.cos(2**k * x) for k in range(3))]
    np.testing.assert_allclose(found, np.stack(expected, 1), atol=1e-6)
    periods = np.asarray(ops.frequency_encoding(x + 2 * np.pi, 3))[:, 3:]
    np.testing.assert_allclose(periods, found.reshape(1, -1)[:, 3:], atol=1e-5)
    np.testing.assert_array_equal(ops.frequency_encoding(x, 0), x.astype("float32"))


# Sampling.


def test_stratified_distances_stay_in_their_strata():
    noise = np.random.default_rng(0).uniform(size=(500, 5)).astype("float32")
    distances = np.asarray(ops.stratified_distances(2.0, 6.0, 5, noise))
    edges = np.array([2.0, 2.5, 3.5, 4.5, 5.5, 6.0])
    assert (distances >= edges[:-1] - 1e-6).all()
    assert (distances <= edges[1:] + 1e-6).all()
    np.testing.assert_allclose(distances.mean(0), (edges[1:] + edges[:-1]) / 2, atol=0.05)
    with pytest.raises(ValueError, match=r"near=6.0 must be below far=2.0"):
        ops.stratified_distances(6.0, 2.0, 5)


def inverse_distribution(edges, weights, places):
    """By NumPy, row by row."""
    density = (weights + 1e-5) / (weights + 1e-5).sum(-1, keepdims=True)
    steps = np.concatenate([np.zeros((len(edges), 1)), density.cumsum(-1)], -1)
    return np.stack([np.interp(p, s, e) for p, s, e in zip(places, steps, edges, strict=True)])


def test_importance_distances_follow_the_weights():
    rng = np.random.default_rng(0)
    edges, weights = np.sort(rng.uniform(size=(6, 9))), rng.uniform(size=(6, 8))
    weights[1] = 1.0
    weights[2], weights[2, 3] = 0.0, 1.0
    weights[3] = 0.0
    places = rng.uniform(size=(6, 400))
    found = np.asarray(ops.importance_distances(edges, weights, places))
    np.testing.assert_allclose(found, inverse_distribution(edges, weights, places), atol=2e-4)
    assert np.mean((found[2] >= edges[2, 3] - 1e-5) & (found[2] <= edges[2, 4] + 1e-5)) > 0.99  # one bin has it all
    share = np.asarray(ops.importance_distances(edges, weights, np.linspace(0, 1, 2001)[None]))
    counts = np.stack([np.histogram(row, bins)[0] for row, bins in zip(share, edges, strict=True)]) / 2001
    np.testing.assert_allclose(counts[0], weights[0] / weights[0].sum(), atol=2e-3)
    np.testing.assert_allclose(counts[3], 1 / 8, atol=2e-3)  # no weights: evenly over the bins
    np.testing.assert_allclose(share[:, 0], edges[:, 0], atol=1e-6)
    np.testing.assert_allclose(share[:, -1], edges[:, -1], atol=1e-6)


# Compositing.


@pytest.mark.parametrize("n", [2, 7, 64])
def test_a_constant_medium_has_its_closed_form(n):
    """`c (1 - exp(-density L))`, for any number of samples; the camera is inside of the medium."""
    color, density, near, far, length = np.array([0.2, 0.5, 0.9]), 0.7, 1.0, 3.5, 1.4
    distances = np.sort(np.random.default_rng(n).uniform(near, far, (3, n)))
    distances[:, 0] = near
    seen = ops.composite(np.tile(color, (3, n, 1)), np.full((3, n), density), distances, np.full((3, 1), length), far)
    opacity = 1 - np.exp(-density * (far - near) * length)
    np.testing.assert_allclose(seen["opacity"], opacity, rtol=1e-5)
    np.testing.assert_allclose(seen["rgb"], np.tile(opacity * color, (3, 1)), rtol=1e-5)
    np.testing.assert_allclose(seen["weights"].numpy().sum(-1), seen["opacity"], rtol=1e-5)


def test_depth_converges_to_that_of_the_medium():
    """The mean of an exponential distribution that is cut at its end."""
    density, near, far = 0.7, 1.0, 3.5
    distances = np.linspace(near, far, 4000)[None]
    seen = ops.composite(np.ones((1, 4000, 3)), np.full((1, 4000), density), distances, [[1.0]], far)
    assert float(seen["depth"][0]) == pytest.approx(near + (1 - np.exp(-density * (far - near))) / density, rel=1e-3)


def test_an_opaque_wall_hides_what_is_behind():
    colors = np.random.default_rng(0).uniform(size=(1, 5, 3))
    density = np.array([[0.0, 0.0, 1e6, 3.0, 1e6]])
    for far in (None, 7.0):
        seen = ops.composite(colors, density, np.arange(2.0, 7.0)[None], [[1.0]], far)
        np.testing.assert_allclose(seen["weights"], [[0, 0, 1, 0, 0]], atol=1e-6)
        np.testing.assert_allclose(seen["rgb"], colors[:, 2], atol=1e-6)
        assert float(seen["depth"][0]) == 4.0


def test_an_empty_ray_is_the_background():
    empty = np.zeros((2, 4)), np.tile(np.arange(1.0, 5.0), (2, 1)), np.ones((2, 1))
    for far in (None, 5.0):
        seen = ops.composite(np.ones((2, 4, 3)), *empty, far, background=1.0)
        np.testing.assert_array_equal(seen["rgb"], np.ones((2, 3)))
        np.testing.assert_array_equal(seen["opacity"], [0, 0])
        np.testing.assert_array_equal(seen["depth"], [4, 4])
        assert not np.asarray(ops.composite(np.ones((2, 4, 3)), *empty, far)["rgb"]).any()


def test_gradients_of_empty_and_of_opaque_rays_are_finite():
    for value in (0.0, 1e4):
        density = tf.Variable(np.full((1, 4), value, "float32"))
        with tf.GradientTape() as tape:
            seen = ops.composite(np.ones((1, 4, 3)), density, np.arange(1.0, 5.0)[None], [[1.0]])
            total = sum(tf.reduce_sum(x) for x in seen.values())
        assert np.isfinite(tape.gradient(total, density)).all()


# The model.


def test_order_and_company_of_rays_change_nothing():
    model, rays = NeRF(**TINY), random_rays(12)
    expected = {name: x.numpy() for name, x in model(rays).items()}
    order = np.random.default_rng(1).permutation(12)[:7]
    for name, x in model({name: x[order] for name, x in rays.items()}).items():
        np.testing.assert_allclose(x, expected[name][order], atol=1e-5, err_msg=name)


def test_color_depends_on_the_direction_and_density_does_not():
    keras.utils.set_random_seed(0)
    points, views = np.random.default_rng(0).normal(size=(2, 6, 15)).astype("float32"), np.ones((2, 9), "float32")
    field = RadianceField(3, 16, (0,), density_activation="softplus")
    color, density = field(points, views)
    other_color, other_density = field(points, -views)
    np.testing.assert_array_equal(density, other_density)
    assert np.abs(color - other_color).max() > 1e-3
    assert (np.asarray(density) > 0).all()
    model = NeRF(**TINY, view_dependent=False)
    assert list(model.serving_signatures()["fine"].inputs) == ["points"]


def test_softplus_neither_overflows_nor_dies():
    field = RadianceField(1, 4, (), density_activation="softplus")
    x = tf.Variable([-200.0, -79.0, -17.0, -1.0, 0.5, 1.5, 90.0, 3e4])
    with tf.GradientTape() as tape:
        y = field._activated(x)
    exact = x.numpy().astype("float64") - 1
    np.testing.assert_allclose(y[1:], np.logaddexp(0, exact)[1:], rtol=4e-7)
    assert float(y[0]) == 0
    slope = tape.gradient(y, x).numpy()
    np.testing.assert_allclose(slope[1:], 1 / (1 + np.exp(-exact[1:])), rtol=1e-6)


def test_a_file_keeps_the_digits_of_thin_samples():
    """Densities and weights that are small are as exact as large ones: fine samples lie where they say."""
    field = RadianceField(1, 4, (), density_activation="softplus")
    count = 400
    raw = np.linspace(-16, 6, count, dtype="float32")

    def small(raw):
        density = field._activated(raw)
        empty = tf.zeros((count, 1))
        seen = ops.composite(
            tf.ones((count, 2, 1)), tf.concat([density[:, None], empty], 1), [[0.0, 0.25]], [[1.0]], far=1.0
        )
        return {"density": density, "weight": seen["weights"][:, 0]}

    module = tf.Module()
    module.run = tf.function(small, input_signature=[tf.TensorSpec((count,), name="raw")])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.run.get_concrete_function()], module)
    interpreter = tf.lite.Interpreter(model_content=converter.convert())
    runner = interpreter.get_signature_runner()
    density = np.logaddexp(0, raw.astype("float64") - 1)
    exact = {"density": density, "weight": -np.expm1(-density / 4)}
    for found in (runner(raw=raw), module.run(raw)):
        for name, value in exact.items():
            np.testing.assert_allclose(found[name], value, rtol=2e-6, err_msg=name)


def test_draws_are_for_training_only_and_have_their_seed():
    rays = random_rays(5)
    models = [NeRF(**TINY, density_noise=1.0, seed=seed) for seed in (1, 1, 2)]
    for model in models[1:]:
        model.set_weights(models[0].get_weights())
    still = [model(rays, training=False)["rgb"].numpy() for model in models]
    np.testing.assert_array_equal(still[0], still[2])
    first, same, other = (model(rays, training=True)["rgb"].numpy() for model in models)
    np.testing.assert_array_equal(first, same)
    assert np.abs(first - other).max() > 1e-4
    assert np.abs(first - models[0](rays, training=True)["rgb"]).max() > 1e-4
    calm = NeRF(**TINY, perturb=False)
    np.testing.assert_array_equal(calm(rays, training=True)["rgb"], calm(rays)["rgb"])


def test_noise_has_the_given_deviation():
    field = RadianceField(1, 4, (), density_noise=2.0, seed=0)
    points = np.zeros((200, 50, 3), "float32")
    field(points)
    field.output_layer.bias.assign([0, 0, 0, 100.0])
    drawn = np.asarray(field(points, training=True)[1])
    assert drawn.mean() == pytest.approx(100, abs=0.1)
    assert drawn.std() == pytest.approx(2.0, rel=0.05)


def test_half_precision_keeps_coordinates_and_sums_in_float32():
    model = NeRF(**TINY | dict(point_frequencies=10), dtype="mixed_float16", infinite_end=True)
    assert model.fields["fine"].hidden[0].compute_dtype == "float16"
    rays = random_rays(6)
    points = model.get_layer("encoded_points")(rays["origins"], rays["directions"], np.full((6, 8), 5.9, "float32"))
    exact = rays["origins"].astype("float64") + 5.9 * rays["directions"].astype("float64")
    np.testing.assert_allclose(points[:, 0, -3:], np.cos(512 * exact), atol=1e-3)
    outputs = model(rays, training=True)
    assert {keras.backend.standardize_dtype(x.dtype) for x in outputs.values()} == {"float32"}
    assert all(np.isfinite(x).all() for x in outputs.values())


def test_the_loss_is_of_both_networks_and_metrics_are_of_the_fine_one():
    model, rays = NeRF(**TINY, perturb=False), random_rays(6)
    target = np.random.default_rng(3).uniform(size=(6, 3)).astype("float32")
    model.compile("sgd", metrics=[PSNR()])
    seen = model(rays)
    errors = {name: np.square(seen[name] - target).mean(-1) for name in ("coarse_rgb", "rgb")}
    found = model.evaluate(rays, target, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(sum(errors.values()).mean(), rel=1e-5)
    assert found["psnr"] == pytest.approx(-10 * np.log10(errors["rgb"].mean()), rel=1e-5)
    weight = np.array([0.0, 1, 2, 0, 0, 1])
    weighted = model.evaluate(rays, target, sample_weight=weight, verbose=0, return_dict=True)
    assert weighted["loss"] == pytest.approx((sum(errors.values()) * weight).mean(), rel=1e-5)


def test_rendering_in_chunks_is_rendering_at_once():
    """The graph sees `chunk` rays however large the image is, so that its memory does not grow."""
    model, camera = NeRF(**TINY), ops.look_at([3.0, 1.0, 1.0])
    whole = model.render(camera, 6.0, (5, 7), chunk=1000)
    seen = []
    inner = model._seen
    model._seen = lambda origins, directions: seen.append(origins.shape) or inner(origins, directions)
    parts = model.render(camera, 6.0, (5, 7), chunk=8)
    assert seen == [(8, 3)] * 5
    origins, directions = ops.camera_rays(camera, 6.0, (5, 7))
    direct = model({"origins": np.reshape(origins, (-1, 3)), "directions": np.reshape(directions, (-1, 3))})
    for name, x in whole.items():
        np.testing.assert_allclose(parts[name], x, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(np.reshape(direct[name], x.shape), x, atol=1e-5, err_msg=name)
    both = model.render(np.stack([camera, camera]), 6.0, (5, 7))
    assert (both["rgb"].shape, both["depth"].shape) == ((2, 5, 7, 3), (2, 5, 7))
    np.testing.assert_allclose(both["depth"][1], whole["depth"], atol=1e-5)


def test_a_served_image_is_the_rendered_one():
    model = NeRF(**TINY, served_size=(4, 3))
    cameras = ops.orbit_cameras(2, 3.0, 1.0)
    serve = model.serving_signatures(2)["render_image"].function
    seen = serve(tf.constant(cameras), tf.constant([[5.0], [6.0]]))
    for i, focal in enumerate((5.0, 6.0)):
        expected = model.render(cameras[i], focal, (4, 3))
        for name, x in expected.items():
            np.testing.assert_allclose(seen[name][i], x, atol=1e-5)


def test_rays_that_cannot_be_are_refused():
    model, rays = NeRF(**TINY), random_rays(4)
    for name, value, message in (
        ("origins", np.nan, "ray 2 is not finite"),
        ("directions", np.inf, "ray 2 is not finite"),
        ("directions", 0.0, "ray 2 has no direction"),
    ):
        wrong = {key: x.copy() for key, x in rays.items()}
        wrong[name][2] = value
        with pytest.raises(ValueError, match=message):
            model(wrong)
    front = NeRF(**TINY | dict(near=0.0, far=1.0), ndc=(1.0, 1.0))
    with pytest.raises(ValueError, match="does not look along -z, as rays with ndc must"):
        front(dict(origins=np.zeros((1, 3), "float32"), directions=np.ones((1, 3), "float32")))


# Metrics.


def test_psnr_and_ssim():
    metric = PSNR(max_value=255.0)
    target = np.zeros((2, 4, 4, 3))
    for i, error in enumerate((51.0, 25.5)):
        metric.update_state(target[i : i + 1], target[i : i + 1] + error)
    assert float(metric.result()) == pytest.approx(-10 * np.log10((0.2**2 + 0.1**2) / 2), rel=1e-5)
    metric.reset_state()
    metric.update_state(target, target)
    assert float(metric.result()) == 100
    assert type(metric).from_config(metric.get_config()).max_value == 255
    image = np.random.default_rng(0).uniform(size=(2, 16, 16, 3)).astype("float32")
    similarity = SSIM()
    similarity.update_state(image, 1 - image)
    assert float(similarity.result()) == pytest.approx(float(tf.reduce_mean(tf.image.ssim(image, 1 - image, 1.0))))
    assert type(similarity).from_config(similarity.get_config()).max_value == 1


# nerf-pytorch.


@pytest.fixture(scope="module")
def oracle():
    return load_oracle("nerf")


SIZES = dict(
    num_samples=6,
    num_fine_samples=5,
    point_frequencies=3,
    direction_frequencies=2,
    num_layers=4,
    hidden_dim=8,
    skips=(1,),
    perturb=False,
)
RENDERED = {
    "white": dict(near=0.5, far=3.0, white_background=True),
    "black": dict(near=0.0, far=1.0, ndc=(1.6, 8 / 3)),
    "plain": dict(near=0.5, far=3.0, white_background=True, num_fine_samples=0, view_dependent=False),
}


def theirs(name, oracle):
    model = NeRF(**SIZES | RENDERED[name])
    nets = ("plain",) if name == "plain" else ("coarse", "fine")
    model.load_torch(*(state_dict(oracle, f"{net}/weight") for net in nets))
    return model


def rays_of(oracle):
    origins, directions = np.split(oracle["render/rays"], 2, axis=1)
    return dict(directions=directions, origins=origins)


def test_rays_are_theirs(oracle):
    focal, size = float(oracle["camera/focal"]), tuple(oracle["camera/size"].tolist())
    origins, directions = ops.camera_rays(oracle["camera/pose"], focal, size, pixel_offset=0.0)
    np.testing.assert_allclose(origins, oracle["camera/origins"], atol=1e-6)
    np.testing.assert_allclose(directions, oracle["camera/directions"], atol=1e-6)
    rays = (oracle[f"camera/forward/{name}"] for name in ("origins", "directions"))
    for found, name in zip(ops.ndc_rays(*rays, (1.6, 8 / 3)), ("origins", "directions"), strict=True):
        np.testing.assert_allclose(found, oracle[f"camera/ndc/{name}"], rtol=1e-5, atol=1e-5)


def test_samples_are_theirs(oracle):
    bins, weights = oracle["pdf/bins"], oracle["pdf/weights"]
    found = ops.importance_distances(bins, weights, oracle["pdf/u"])
    np.testing.assert_allclose(found, oracle["pdf/samples"], atol=1e-5)
    evenly = ops.importance_distances(bins, weights, np.linspace(0, 1, 11)[None])
    np.testing.assert_allclose(evenly, oracle["pdf/evenly"], atol=1e-5)


@pytest.mark.parametrize("name", RENDERED)
def test_torch_weights_render_the_same(name, oracle):
    seen = theirs(name, oracle)(rays_of(oracle))
    through = 1 - oracle[f"render/{name}/opacity"]
    np.testing.assert_allclose(seen["opacity"], 1 - through, atol=1e-4)
    np.testing.assert_allclose(seen["rgb"], oracle[f"render/{name}/rgb"], atol=1e-4)
    # Theirs counts nothing for what passes through.
    depth = oracle[f"render/{name}/depth"] + through * RENDERED[name]["far"]
    np.testing.assert_allclose(seen["depth"], depth, atol=3e-4)
    if name != "plain":
        np.testing.assert_allclose(seen["coarse_rgb"], oracle[f"render/{name}/coarse_rgb"], atol=1e-4)


def test_torch_training_step(oracle):
    """The loss, and every gradient, read back through the mapping of the weights."""
    model = theirs("white", oracle)
    model.compile(keras.optimizers.SGD(1.0), run_eagerly=True)
    loss = model.train_on_batch(rays_of(oracle), oracle["step/target"])
    np.testing.assert_allclose(loss, oracle["step/loss"], rtol=1e-4)
    expected = theirs("white", oracle)
    after = []
    for net in ("coarse", "fine"):
        weights, gradients = state_dict(oracle, f"{net}/weight"), state_dict(oracle, f"step/{net}")
        after.append({name: x - gradients[name] for name, x in weights.items()})
    expected.load_torch(*after)
    for found, wanted in zip(model.trainable_variables, expected.trainable_variables, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=2e-5, err_msg=found.path)


def in_order(oracle):
    """Arrays as `get_weights` of the authors' network returns them."""
    return [x for _, x in sorted(state_dict(oracle, "keras").items())]


def test_weights_of_the_authors_code_and_of_files(oracle, tmp_path):
    arrays = in_order(oracle)
    model = NeRF(**SIZES | dict(num_fine_samples=0))
    model.load_keras(arrays)
    expected = NeRF(**SIZES | dict(num_fine_samples=0))
    write_safetensors(tmp_path / "model.safetensors", state_dict(oracle, "coarse/weight"))
    expected.load_torch(tmp_path / "model.safetensors")
    for found, wanted in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_weights_that_do_not_fit_are_refused(oracle):
    model, coarse = NeRF(**SIZES), state_dict(oracle, "coarse/weight")
    before = model.get_weights()
    with pytest.raises(ValueError, match="weights of coarse were given; the model has the networks coarse, fine"):
        model.load_torch(coarse)
    with pytest.raises(ValueError, match=r"missing: fine\.pts_linears\.0\.weight \(8, 21\)"):
        model.load_torch(coarse, {name: x for name, x in coarse.items() if name != "pts_linears.0.weight"})
    with pytest.raises(ValueError, match="weights has 15 arrays; a network of num_layers=4 has 16"):
        model.load_keras(in_order(oracle)[:15])
    with pytest.raises(ValueError, match="view_dependent=False"):
        theirs("plain", oracle).load_keras([])
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
