"""Convolutional occupancy networks: the authors' outputs and gradients, pooling as a loop, the border, and files."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracles import load_oracle, state_dict
from reference import write_safetensors

from keras_dl import OccupancyNetwork, export
from keras_dl.models.scenes.occupancy_planes import (
    PLANES,
    CellPooling,
    PlaneCells,
    PlaneSampling,
    PlaneUNet,
    in_unit_square,
    whole,
)

TINY = dict(encoder="local_points", decoder="local", code_dim=6, hidden_dim=8, encoder_dim=7, cloud_size=40)
TINY |= dict(plane_resolution=8, unet_depth=3, unet_filters=4, num_points=20, grid_size=4)
NETS = {"planes": {}, "plane": dict(planes=("xz",)), "plain": dict(unet_depth=0)}
ALL = tuple(PLANES)


def made(name="planes", **overrides):
    return OccupancyNetwork(**TINY | NETS[name] | overrides)


def points(*shape, seed=1, side=1.1):
    return (side * (np.random.default_rng(seed).uniform(size=(*shape, 3)) - 0.5)).astype("float32")


@pytest.fixture(scope="module")
def oracle():
    return load_oracle("occupancy_planes")


@pytest.fixture(scope="module")
def net(oracle):
    model = made()
    model.load_torch(state_dict(oracle, "planes/weight"))
    return model


# The authors' code.


@pytest.mark.parametrize("preset", ["local_planes", "local_plane"])
def test_presets_have_the_count_of_the_authors_code(preset, oracle):
    with keras.StatelessScope(initialize_variables=False):  # shapes alone, no memory
        model = OccupancyNetwork.from_preset(preset)
        assert sum(np.prod(v.shape) for v in model.trainable_variables) == oracle["count"] == 1_978_209


@pytest.mark.parametrize("name", NETS)
def test_the_authors_weights_give_the_same_outputs(name, oracle, tmp_path):
    model = made(name)
    write_safetensors(tmp_path / "model.safetensors", state_dict(oracle, f"{name}/weight"))
    model.load_torch(tmp_path / "model.safetensors")
    inputs = {key: oracle[f"{name}/{key}"] for key in ("points", "cloud")}
    close = dict(rtol=1e-4, atol=2e-5)
    code = model.encode(inputs["cloud"])
    theirs = [oracle[f"{name}/code/{plane}"].transpose(0, 2, 3, 1) for plane in model.planes]
    assert code.shape[1:] == model.code_shape
    np.testing.assert_allclose(code, np.concatenate(theirs, axis=1), **close)
    np.testing.assert_allclose(model(inputs), oracle[f"{name}/logits"], **close)
    np.testing.assert_allclose(model.logits(inputs["points"], code), oracle[f"{name}/logits"], **close)


# The battery compares a training under XLA with one without.
@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_authors_training_step(jit, oracle):
    """Loss and every gradient of one step, read back through the mapping of the weights."""
    weights, gradients = (state_dict(oracle, f"planes/{kind}") for kind in ("weight", "gradient"))
    model, expected = made(), made()
    model.load_torch(weights)
    model.compile(keras.optimizers.SGD(1.0), jit_compile=jit, run_eagerly=not jit)
    inputs = {key: oracle[f"planes/{key}"] for key in ("points", "cloud")}
    found = model.train_on_batch(inputs, oracle["planes/occupancies"])
    np.testing.assert_allclose(found, oracle["planes/loss"], rtol=1e-4)
    expected.load_torch({key: x - gradients[key] for key, x in weights.items()})
    for ours, wanted in zip(model.weights, expected.weights, strict=True):
        error = np.abs(np.asarray(ours) - wanted).max() / np.abs(wanted).max()
        assert error < 1e-4, f"{wanted.path}: {error:.1e}"


def test_what_does_not_fit_is_refused_and_changes_nothing(net, oracle):
    weights = state_dict(oracle, "planes/weight")
    del weights["encoder.unet.up_convs.1.upconv.bias"]
    weights["decoder.fc_c.4.weight"] = weights["decoder.fc_c.4.weight"][:, :5]
    before = net.get_weights()
    with pytest.raises(ValueError, match="2 entries differ") as caught:
        net.load_torch(weights)
    assert "missing: encoder.unet.up_convs.1.upconv.bias (4,)" in str(caught.value)
    for old, new in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


# Cells, pooling and interpolation, as loops.


def cell_of(point, plane, resolution, padding):
    """Column and row of the cell, of a point that is inside of the cube."""
    return [int((point[axis] / (1 + padding + 1e-5) + 0.5) * resolution) for axis in PLANES[plane]]


def test_cells_and_pooling_are_those_of_loops():
    cloud, resolution, padding = points(2, 30), 4, 0.1
    features = np.random.default_rng(0).normal(size=(2, 30, 3)).astype("float32")
    cells = PlaneCells(ALL, resolution, padding)(cloud)
    back = np.asarray(CellPooling(3, resolution, back=True)(features, cells))
    means = np.asarray(CellPooling(3, resolution, back=False)(features, cells))
    assert (cells.shape, back.shape, means.shape) == ((2, 90), (2, 30, 3), (2, 12, 4, 3))
    expected_back, expected_means = np.zeros((2, 30, 3)), np.zeros((2, 3, 4, 4, 3))
    for row in range(2):
        for i, plane in enumerate(ALL):
            held = [cell_of(point, plane, resolution, padding) for point in cloud[row].astype("float64")]
            for n, cell in enumerate(held):
                together = [k for k, other in enumerate(held) if other == cell]
                assert cells[row, 30 * i + n] == 16 * i + 4 * cell[1] + cell[0]
                expected_back[row, n] += features[row, together].max(0)
                expected_means[row, i, cell[1], cell[0]] = features[row, together].mean(0)
    np.testing.assert_allclose(back, expected_back, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(means, expected_means.reshape(2, 12, 4, 3), rtol=1e-5, atol=1e-6)
    assert (expected_means == 0).all(-1).any()  # a cell without points


def test_a_cell_without_points_has_no_part_in_a_gradient():
    cells = np.array([[0, 0, 3]])
    features = keras.Variable([[[1.0], [5.0], [-2.0]]])
    with tf.GradientTape() as tape:
        back = keras.ops.sum(CellPooling(1, 2, back=True)(features.value, cells))
    np.testing.assert_array_equal(tape.gradient(back, features.value), [[[0], [2], [1]]])


def test_interpolation_is_that_of_a_loop_and_exact_for_what_is_linear():
    asked, r = points(2, 25), 5
    code = np.random.default_rng(0).normal(size=(2, 3 * r, r, 2)).astype("float32")
    found = np.asarray(PlaneSampling(ALL, 0.1)(asked, code))
    expected = np.zeros((2, 25, 2))
    for row, n in np.ndindex(2, 25):
        for i, plane in enumerate(ALL):
            x, y = ((asked[row, n, axis] / 1.10001 + 0.5) * (r - 1) for axis in PLANES[plane])
            a, b = int(x), int(y)
            grid = code[row, i * r : (i + 1) * r]
            upper = grid[b, a] * (1 - x + a) + grid[b, a + 1] * (x - a)
            lower = grid[b + 1, a] * (1 - x + a) + grid[b + 1, a + 1] * (x - a)
            expected[row, n] += upper * (1 - y + b) + lower * (y - b)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    # One plane that holds its own coordinates gives those of the points.
    line = np.linspace(-0.55, 0.55, r).astype("float32")
    code = np.stack(np.broadcast_arrays(line[None], line[:, None]), -1)[None]
    for plane, axes in PLANES.items():
        found = PlaneSampling((plane,), 0.1)(asked[:1], code)
        np.testing.assert_allclose(found, asked[:1][..., list(axes)], atol=1e-4)


def test_points_at_and_beyond_the_border_have_the_features_of_the_border(net):
    corners = np.array([[[-0.55, -0.55, -0.55], [0.55, 0.55, 0.55], [-0.55, 0.55, 0.1]]], "float32")
    beyond = np.array([[[-0.6, -3.0, -1e9], [0.6, 3.0, 1e9], [-9.0, 9.0, 0.1]]], "float32")
    layer, cells = PlaneSampling(ALL, 0.1), PlaneCells(ALL, 8, 0.1)
    code = net.encode(points(1, 40))
    np.testing.assert_allclose(layer(beyond, code), layer(corners, code), atol=2e-3)
    planes = np.asarray(code).reshape(3, 8, 8, -1)
    np.testing.assert_allclose(layer(corners, code)[0, :2], [planes[:, 0, 0].sum(0), planes[:, 7, 7].sum(0)], atol=2e-3)
    np.testing.assert_array_equal(cells(beyond), cells(corners))
    assert cells(corners)[0, :2].numpy().tolist() == [0, 63]
    assert in_unit_square(np.array([1e30], "float32"), 0.1).numpy() == np.float32(1 - 1e-5)
    assert whole(np.array([0.0, 2.9, 3.0, 4.0], "float32"), 2).numpy().tolist() == [0, 2, 2, 2]
    last = PlaneSampling(("xz",), 0.0)(np.full((1, 1, 3), 1e30), np.arange(9.0).reshape(1, 3, 3, 1))
    np.testing.assert_allclose(last, [[[8]]], atol=1e-4)


def test_a_unet_keeps_sides_and_adds_levels():
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    for depth in (1, 2, 4):
        layer = PlaneUNet(5, depth, 2)
        assert layer(images).shape == layer.compute_output_shape(images.shape) == (2, 8, 8, 5)
        assert len(layer.down) == len(layer.up) + 1 == depth
        assert layer.down[-1][1].filters == 2**depth


# What changes nothing, and what does.


def test_a_cloud_has_no_order_and_is_seen_where_it_is(net):
    inputs = {"points": points(2, 40), "cloud": points(2, 30, seed=2)}
    logits = np.asarray(net(inputs))
    mixed = inputs | {"cloud": inputs["cloud"][:, np.random.default_rng(0).permutation(30)]}
    np.testing.assert_allclose(net(mixed), logits, rtol=1e-4, atol=1e-4)
    twice = inputs | {"cloud": np.repeat(inputs["cloud"], 2, axis=1)}
    np.testing.assert_allclose(net(twice), logits, rtol=1e-4, atol=1e-4)
    some = inputs | {"points": inputs["points"][:, 7:11]}
    np.testing.assert_allclose(net(some), logits[:, 7:11], rtol=1e-4, atol=1e-4)
    # Without a U-Net and pooling, a point that moves changes the cells that it leaves and enters, and no others.
    plain = made("plain", encoder_blocks=1)
    cloud = points(1, 30)
    moved = cloud.copy()
    moved[0, 0] = -moved[0, 0]
    cells = PlaneCells(ALL, 8, 0.1)
    touched = {int(x[0, 30 * i]) for x in (cells(cloud), cells(moved)) for i in range(3)}
    before, after = (np.asarray(plain.encode(x)).reshape(192, -1) for x in (cloud, moved))
    changed = set(np.flatnonzero((before != after).any(-1)).tolist())
    assert changed
    assert changed <= touched


def test_half_precision_moves_no_point_to_another_cell():
    model = made(dtype="mixed_bfloat16")
    cloud = points(1, 40)
    encoder = model.get_layer("encoder")
    np.testing.assert_array_equal(
        encoder.cells(model.get_layer("checked_cloud")(cloud)), PlaneCells(ALL, 8, 0.1)(cloud)
    )
    assert model.encode(cloud).dtype == "bfloat16"


# Meshes and files.


def test_meshes_and_the_served_grid_follow_the_planes(net):
    cloud = points(2, 40)
    code = net.encode(cloud)
    logits = np.asarray(net.logits(points(2, 500), code))
    threshold = 1 / (1 + np.exp(-float(np.quantile(logits, 0.7))))
    meshes = net.meshes(code, threshold=threshold, resolution=8, steps=1)
    assert len(meshes) == 2
    assert all(len(mesh.faces) and np.isfinite(mesh.normals).all() for mesh in meshes)
    served = net.serving_signatures(2)["grid"]
    where = dict(center=np.zeros((2, 3), "float32"), side=np.full((2, 1), 1.1, "float32"))
    found = np.asarray(served.function(**where, code=code)["occupancies"])
    line = np.linspace(-0.55, 0.55, 4)
    grid = np.stack(np.meshgrid(line, line, line, indexing="ij"), -1).reshape(1, -1, 3).astype("float32")
    expected = net.logits(np.repeat(grid, 2, 0), code)
    np.testing.assert_allclose(found.reshape(2, -1), keras.ops.sigmoid(expected), atol=1e-4)


def test_an_integer_file_has_the_decoder_in_float(net, tmp_path):
    """Of sums of hundreds, eight bits would lose the logits at the surface, which are near 0."""
    code = np.asarray(net.encode(points(4, 40)))
    rows = {"occupancy": [{"points": points(1, 20, seed=i), "code": code[i : i + 1]} for i in range(4)]}
    path = tmp_path / "f.tflite"
    report = export.export(net, path, quantization="int8", signatures=["occupancy"], calibration=rows, verify=False)
    assert set(report.tensors["weights"]) == {"float32"}
    rows = {"encode": [{"cloud": points(1, 40, seed=i)} for i in range(4)]}
    report = export.export(net, path, quantization="int8", signatures=["encode"], calibration=rows, verify=False)
    assert report.tensors["weights"]["int8"] > 0
    assert set(report.tensors["float_layers"]) == set(net.float_layers)


# Wrong input.


def test_wrong_input_is_refused(net):
    for wrong in ("xz", (), ("xz", "xz"), ("zx",), None, 5, [["xz"]]):
        with pytest.raises(ValueError, match=r"planes=.* must be a sequence of some of 'xz', 'xy', 'yz', each once"):
            made(planes=wrong)
    with pytest.raises(ValueError, match="plane_resolution=6 must be a multiple of 4: unet_depth=3 halves it 2 times"):
        made(plane_resolution=6)
    for wrong in (dict(decoder="additive"), dict(encoder="points"), dict(encoder=None, latent_dim=2)):
        with pytest.raises(ValueError, match=r"encoder=.* and decoder=.* do not fit"):
            made(**wrong)
    with pytest.raises(ValueError, match="latent_dim=3 must be 0 with encoder='local_points'"):
        made(latent_dim=3)
    cloud = points(2, 30)
    cloud[1, 7, 2] = np.inf
    with pytest.raises(ValueError, match=r"cloud\[1, 7\] = .*inf\] is not finite"):
        net.encode(cloud)
    with pytest.raises(ValueError, match=r"cloud has the shape \(2, 0, 3\)"):
        net.encode(cloud[:, :0])
    with pytest.raises(ValueError, match=r"cloud has the shape \(30, 3\); it must be \(batch, any, 3\)"):
        net.encode(points(30))
    with pytest.raises(ValueError, match=r"cloud has the shape \(2, 30, 2\)"):
        net.encode(points(2, 30)[..., :2])
    with pytest.raises(ValueError, match="code is needed by a model with encoder='local_points'"):
        net.logits(points(1, 4))
    code = np.zeros((2, *net.code_shape), "float32")
    for wrong in (code[:, :16], code[0], np.zeros((2, 6))):
        with pytest.raises(ValueError, match=r"code has the shape .*; it must be \(batch, 24, 8, 6\)"):
            net.logits(points(2, 4), wrong)
    for rows in (1, 3):  # without a check, three shapes would be taken for the first two
        with pytest.raises(ValueError, match=rf"same number of rows; they have .*'code': {rows}"):
            net.logits(points(2, 4), np.zeros((rows, *net.code_shape)))
    with pytest.raises(ValueError, match=r"points has the shape \(4, 3\)"):
        net.logits(points(4), code)
    with pytest.raises(ValueError, match=r"points\[1, 7\] = .*inf\] is not finite"):
        net.logits(cloud, code)
    with pytest.raises(ValueError, match="latent_dim=0: the model infers no latents"):
        net.infer(points(2, 4), np.zeros((2, 4)), code)


def test_in_a_graph_a_point_that_is_not_a_number_spoils_only_its_own_logit(net):
    """An index of NaN would be out of range."""
    asked = points(2, 4)
    right = net.predict({"points": asked, "cloud": points(2, 30)}, verbose=0)
    asked[1, 2, 0] = np.nan
    found = net.predict({"points": asked, "cloud": points(2, 30)}, verbose=0)
    assert np.argwhere(np.isnan(found)).tolist() == [[1, 2]]
    np.testing.assert_allclose(found[0], right[0], rtol=1e-6)
    cloud = points(2, 30)
    cloud[0, 0] = np.nan
    assert np.isfinite(net.predict({"points": points(2, 4), "cloud": cloud}, verbose=0)[1]).all()
