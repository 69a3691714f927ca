"""PointNet++: what order, padding, repetition and translation change; its counts; other code's outputs."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracles import load_oracle, state_dict
from reference import randomized, write_safetensors

from keras_dl import PointNet2, PointNet2Segmentation
from keras_dl.models.points.abstraction import FeaturePropagation, GroupedDense, SetAbstraction
from keras_dl.ops import ball_query, farthest_points, take_points

# The groups of the first level hold all points of their balls.
LEVELS = ((10, ((0.8, 30, (6, 8)), (1.6, 30, (7,)))), (5, ((2.0, 10, (9,)),)))
SIZES = dict(num_classes=5, levels=LEVELS, global_dims=(7, 24))
BACK = dict(propagation_dims=((9,), (8,), (10, 7)), head_dims=(12,))


def cloud(n=30, channels=3, batch=3, seed=1):
    return np.random.default_rng(seed).normal(size=(batch, n, channels)).astype("float32")


@pytest.fixture(scope="module")
def net():
    return randomized(PointNet2(**SIZES))


@pytest.fixture(scope="module")
def masked_net(net):
    model = PointNet2(**SIZES, masked=True)
    model.set_weights(net.get_weights())
    return model


@pytest.fixture(scope="module")
def points_net():
    """It classifies points, with categories and a mask."""
    return randomized(PointNet2Segmentation(**SIZES, **BACK, num_categories=2, masked=True))


def inputs_of(points, mask=None, category=(0, 1, 1)):
    mask = np.ones(points.shape[:2], bool) if mask is None else mask
    return dict(points=points, mask=mask, category=np.array(category)[: len(points)])


# Counts.


@pytest.mark.parametrize(
    ("cls", "preset", "trained"),
    [
        (PointNet2, "modelnet40", 1_475_688),
        (PointNet2, "modelnet40_normals", 1_475_880),
        (PointNet2, "modelnet40_msg", 1_747_368),
        (PointNet2, "modelnet40_msg_normals", 1_747_848),
        (PointNet2Segmentation, "shapenet_part_torch", 1_411_250),
        (PointNet2Segmentation, "shapenet_part_torch_normals", 1_411_826),
        (PointNet2Segmentation, "shapenet_part_msg_torch", 1_740_958),
        (PointNet2Segmentation, "shapenet_part_msg_torch_normals", 1_741_822),
        (PointNet2Segmentation, "s3dis_torch", 968_269),
        (PointNet2Segmentation, "s3dis_msg_torch", 1_883_269),
        # The authors' code: coordinates are no features; with one scale no categories. ScanNet: no colors, 21 classes.
        (PointNet2Segmentation, "shapenet_part", 1_411_826 - 3 * 64 - (16 + 3) * 128),
        (PointNet2Segmentation, "shapenet_part_msg", 1_741_822 - 3 * (32 + 64 + 64) - 3 * 128),
        (PointNet2Segmentation, "scannet", 968_269 - 9 * 32 + 8 * 129),
    ],
)
def test_presets_have_the_counts_of_their_code(cls, preset, trained):
    with keras.StatelessScope(initialize_variables=False):  # shapes alone, no memory
        assert sum(np.prod(v.shape) for v in cls.from_preset(preset).trainable_variables) == trained


# What changes the answer, and what does not.


def test_order_repetition_and_translation_of_groups(net):
    points = cloud()
    logits = np.asarray(net(points))
    assert np.abs(np.diff(logits, axis=0)).max() > 0.1  # the clouds themselves differ
    order = np.r_[0, 1 + np.random.default_rng(0).permutation(29)]  # sampling starts at the first point
    np.testing.assert_allclose(net(points[:, order]), logits, atol=1e-5)
    np.testing.assert_allclose(net(np.concatenate([points, points[:, :1]], 1)), logits, atol=1e-5)
    level = net.get_layer("level_1")
    centers, _ = net.get_layer("sample")(points)
    shifted = level(points + 4, centers + 4, [])
    for found, expected in zip(shifted, level(points, centers, []), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(net(points + 4) - logits).max() > 0.1  # the last level has absolute coordinates


def test_segmentation_follows_the_order(points_net):
    points = cloud()
    order = np.r_[0, 1 + np.random.default_rng(0).permutation(29)]
    expected = np.asarray(points_net(inputs_of(points)))
    np.testing.assert_allclose(points_net(inputs_of(points[:, order])), expected[:, order], atol=1e-5)
    assert np.abs(expected[:, 1:] - expected[:, :1]).max() > 0.1
    difference = np.abs(points_net(inputs_of(points, category=(1, 1, 1))) - expected).max((1, 2))
    assert difference[0] > 1e-2
    assert not difference[1:].any()


def test_a_mask_is_the_smaller_cloud(net, masked_net, points_net):
    points = cloud()
    mask = np.random.default_rng(2).uniform(size=(3, 30)) < 0.5
    mask[:, 0] = False  # the first point, too
    mask[2] = np.arange(30) > 25  # fewer points than centers
    padded = np.where(mask[..., None], points, np.float32(1e5))
    small = [row[kept][None] for row, kept in zip(points, mask, strict=True)]
    expected = np.concatenate([net(row) for row in small])
    np.testing.assert_allclose(masked_net(dict(points=padded, mask=mask)), expected, rtol=1e-5, atol=1e-5)
    found = np.asarray(points_net(inputs_of(padded, mask)))
    for i, row in enumerate(small):
        alone = np.asarray(points_net(inputs_of(row, category=[(0, 1, 1)[i]])))[0]
        np.testing.assert_allclose(found[i, mask[i]], alone, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found[i, ~mask[i]], np.tile(alone[:1], ((~mask[i]).sum(), 1)), rtol=1e-5, atol=1e-5)


def test_all_levels_have_the_centers_of_a_sampling_of_their_own(net):
    points = cloud()
    first, second = net.get_layer("sample")(points)
    np.testing.assert_array_equal(first, take_points(points, farthest_points(points, 10)))
    np.testing.assert_array_equal(second, take_points(first, farthest_points(first, 5)))


def test_grouped_dense_is_dense_on_the_joined_features():
    points, parts = cloud(), [cloud(channels=4, seed=2), cloud(channels=2, seed=3)]
    indices, _ = ball_query(points, points[:, :7], 1.0, 6)
    offsets = take_points(points, indices) - points[:, :7, None]
    layer = GroupedDense(5)
    layer.build([offsets.shape, indices.shape, *(part.shape for part in parts)])
    layer.bias.assign(np.arange(5))
    joined = np.concatenate([offsets, *(take_points(part, indices) for part in parts)], -1)
    found = layer([offsets, indices, *parts])
    np.testing.assert_allclose(found, joined @ layer.kernel.numpy() + np.arange(5), atol=1e-5)
    assert found.shape == layer.compute_output_shape([offsets.shape, indices.shape, *(part.shape for part in parts)])


def test_abstraction_and_propagation_reach_the_points():
    """Gradients by the points and by the features of every part, under XLA as in eager mode."""
    points, part = tf.constant(cloud()), tf.constant(cloud(channels=4, seed=2))
    centers = take_points(points, farthest_points(points, 8))
    down, up = SetAbstraction([(1.0, 6, (5,)), (2.0, 9, (4, 6))]), FeaturePropagation((7,))

    def gradients(points, part):
        with tf.GradientTape() as tape:
            tape.watch([points, part])
            features = down(points, centers, [part])
            value = tf.reduce_sum(up(points, centers, features, [part]) ** 2)
        return tape.gradient(value, [points, part])

    expected = gradients(points, part)
    assert all(np.abs(x).min() >= 0 and np.abs(x).max() > 1e-3 for x in expected)
    for found, wanted in zip(tf.function(gradients, jit_compile=True)(points, part), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_half_precision_finds_the_same_groups():
    """Geometry stays in float32: points at 100 that differ by 0.1 are one point in float16."""
    points = 100 + cloud() / 10
    for policy in ("mixed_float16", "mixed_bfloat16"):
        model = PointNet2(**SIZES, dtype=policy)
        (centers, _), (expected, _) = (m.get_layer("sample")(points) for m in (model, PointNet2(**SIZES)))
        assert centers.dtype == "float32"
        np.testing.assert_array_equal(centers, expected)


# Wrong input.


def test_wrong_clouds_are_refused(net, masked_net, points_net):
    points = cloud()
    with pytest.raises(ValueError, match=r"points has the shape \(3, 30, 4\); it must be \(batch, any, 3\)"):
        net(cloud(channels=4))
    with pytest.raises(ValueError, match=r"shape \(3, 0, 3\): a cloud needs at least one point"):
        net(points[:, :0])
    points[1, 4, 2] = np.nan
    with pytest.raises(ValueError, match=r"points\[1, 4\] = .*nan\] is not finite.*There are 1"):
        net(points)
    mask = np.ones((3, 30), bool)
    mask[2] = False
    with pytest.raises(ValueError, match=r"mask\[2\] is all False"):
        masked_net(dict(points=cloud(), mask=mask))
    with pytest.raises(ValueError, match=r"category\[1\] = 2 must be in \[0, 2\)"):
        points_net(inputs_of(cloud(), category=(0, 2, 1)))


def test_one_point_and_equal_points_have_an_answer(net):
    """Fewer points than centers, duplicates: the cloud is that of its different points."""
    point = cloud(n=1)
    logits = np.asarray(net(point))
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(net(np.repeat(point, 40, 1)), logits, atol=1e-5)


def test_wrong_levels_say_what_is_wrong():
    with pytest.raises(ValueError, match=r"levels.*none may have more centers than the one before: \[4, 8\]"):
        PointNet2(levels=[(4, LEVELS[0][1]), (8, LEVELS[1][1])])
    with pytest.raises(ValueError, match=r"levels=\(\(8, \(0.3, 4\)\),\) must be a sequence of levels"):
        PointNet2(levels=((8, (0.3, 4)),))
    with pytest.raises(
        ValueError, match=r"propagation_dims.* must have 3 items: one for each of the 2 levels, and one"
    ):
        PointNet2Segmentation(**SIZES, propagation_dims=((9,), (8,)))
    with pytest.raises(ValueError, match="must have 2 items: one for each of the 2 levels"):
        PointNet2Segmentation(**SIZES | dict(global_dims=()), propagation_dims=((9,), (8,), (7,)))


# Pointnet_Pointnet2_pytorch.


@pytest.fixture(scope="module")
def oracle():
    return load_oracle("pointnet2")


def scaled(levels, centers, sizes):
    """The levels of a preset with the centers, group sizes and widths of the oracle."""
    return tuple(
        (count, tuple((radius, sizes[size], narrow(dims)) for radius, size, dims in scales))
        for count, (_, scales) in zip(centers, levels, strict=True)
    )


def narrow(dims):
    widths = {16: 3, 32: 4, 64: 5, 96: 6, 128: 7, 196: 8, 256: 9, 384: 10, 512: 11, 1024: 12}
    return tuple(widths[width] for width in dims)


def theirs(name):
    """A model with the sizes of the oracle's network."""
    cls, preset, centers = {
        "ssg": (PointNet2, "modelnet40_normals", (20, 8)),
        "msg": (PointNet2, "modelnet40_msg_normals", (20, 8)),
        "part": (PointNet2Segmentation, "shapenet_part_torch", (20, 8)),
        "part_msg": (PointNet2Segmentation, "shapenet_part_msg_torch", (20, 8)),
        "sem": (PointNet2Segmentation, "s3dis_torch", (24, 12, 6, 4)),
        "sem_msg": (PointNet2Segmentation, "s3dis_msg_torch", (24, 12, 6, 4)),
    }[name]
    plain = cls.from_preset(preset, num_classes=7 if "part" in name else 5)  # with the defaults
    changes = {key: narrow(getattr(plain, key)) for key in ("global_dims", "head_dims")}
    if cls is PointNet2Segmentation:
        changes["propagation_dims"] = tuple(map(narrow, plain.propagation_dims))
    levels = scaled(plain.levels, centers, {16: 3, 32: 4, 64: 5, 128: 6})
    return cls.from_preset(preset, num_classes=plain.num_classes, levels=levels, dropout_rate=0.0, **changes)


SLOW = pytest.mark.slow  # the layers of the other nets once more


@pytest.mark.parametrize(
    "name", ["ssg", "msg", "part", pytest.param("part_msg", marks=SLOW), "sem", pytest.param("sem_msg", marks=SLOW)]
)
def test_torch_weights_give_the_same_outputs(name, oracle, tmp_path):
    weights, points = state_dict(oracle, f"{name}/weight"), oracle[f"{name}/points"]
    model = theirs(name)
    write_safetensors(tmp_path / "model.safetensors", weights)
    model.load_torch(tmp_path / "model.safetensors")
    inputs = dict(points=points, category=oracle["part/category"]) if "part" in name else points
    found = keras.ops.log_softmax(model(inputs))
    np.testing.assert_allclose(found, oracle[f"{name}/log_probabilities"], rtol=1e-4, atol=2e-5)


def test_torch_finds_the_same_points(oracle):
    points = oracle["indices/points"]
    sampled = farthest_points(points, 20)
    np.testing.assert_array_equal(sampled, oracle["indices/sampled"])
    grouped, counts = ball_query(points, take_points(points, sampled), 0.2, 6)
    np.testing.assert_array_equal(grouped, oracle["indices/grouped"])
    assert set(range(1, 7)) <= set(np.unique(counts))


def test_torch_training_step(oracle):
    """Loss, every gradient and every moving statistic of one step, read back through the mapping of the weights."""
    weights = state_dict(oracle, "msg/weight")
    model = theirs("msg")
    model.load_torch(weights)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1.0), loss, run_eagerly=True)
    found = model.train_on_batch(oracle["msg/points"], oracle["msg/labels"])
    np.testing.assert_allclose(found, oracle["msg/loss"], rtol=1e-4)
    gradients = state_dict(oracle, "msg/gradient")
    expected = theirs("msg")
    expected.load_torch(
        weights | {key: weights[key] - x for key, x in gradients.items()} | state_dict(oracle, "msg/after")
    )
    for ours, wanted in zip(model.weights, expected.weights, strict=True):
        error = np.abs(np.asarray(ours) - wanted).max() / np.abs(wanted).max()
        assert error < 1e-4, f"{wanted.path}: {error:.1e}"


def test_wrong_weights_are_refused(oracle):
    weights = state_dict(oracle, "msg/weight")
    model = theirs("msg")
    before = model.get_weights()
    del weights["sa2.bn_blocks.1.0.running_var"]
    weights["sa1.conv_blocks.0.0.weight"] = weights["sa1.conv_blocks.0.0.weight"][..., 0]
    with pytest.raises(ValueError, match="2 entries differ") as caught:
        model.load_torch(weights)
    assert "missing: sa2.bn_blocks.1.0.running_var (7,)" in str(caught.value)
    assert "sa1.conv_blocks.0.0.weight is (4, 6, 1), the model takes (4, 6, 1, 1)" in str(caught.value)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
