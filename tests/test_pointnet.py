"""PointNet: order and repetition change nothing; how its transforms start; critical points; other code's outputs."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracles import load_oracle, state_dict
from reference import randomized, write_safetensors

from keras_dl import PointNet, PointNetSegmentation
from keras_dl.models.points.blocks import JoinedDense, TransformNet
from keras_dl.ops import fill_padding, unit_ball
from keras_dl.schedules import NormalizationMomentum

TINY = ((6, 10), (8,))
SIZES = dict(
    num_classes=5, point_dims=(8, 6), global_dims=(7, 24), head_dims=(12,), input_transform=TINY, feature_transform=TINY
)


def cloud(n=30, channels=3, batch=3, seed=1):
    return np.random.default_rng(seed).normal(size=(batch, n, channels)).astype("float32")


@pytest.fixture(scope="module")
def net():
    return randomized(PointNet(**SIZES))


@pytest.fixture(scope="module")
def masked_net(net):
    model = PointNet(**SIZES, masked=True)
    model.set_weights(net.get_weights())
    return model


# Counts.


def layer(inputs, outputs, norm=True):
    return inputs * outputs + (3 if norm else 1) * outputs


def authors_parts():
    """Layer by layer, as in part_seg/pointnet_part_seg.py of charlesq34/pointnet, without the head for objects."""
    input_net = layer(3, 64) + layer(64, 128) + layer(128, 1024) + layer(1024, 128) + layer(128, 128)
    feature_net = layer(128, 256) + layer(256, 1024) + layer(1024, 512) + layer(512, 256)
    encoder = layer(3, 64) + layer(64, 128) + layer(128, 128) + layer(128, 512) + layer(512, 2048)
    joined = 2048 + 16 + 64 + 128 + 128 + 512 + 2048
    head = layer(joined, 256) + layer(256, 256) + layer(256, 128) + layer(128, 50, norm=False)
    return input_net + layer(128, 9, norm=False) + feature_net + layer(256, 128**2, norm=False) + encoder + head


def authors_scenes():
    """As in sem_seg/model.py, which has no transforms."""
    encoder = layer(9, 64) + layer(64, 64) + layer(64, 64) + layer(64, 128) + layer(128, 1024)
    of_cloud = layer(1024, 256) + layer(256, 128)
    return encoder + of_cloud + layer(1024 + 128, 512) + layer(512, 256) + layer(256, 13, norm=False)


def fig_2():
    """The classifier up to its maximum, and models/pointnet_seg.py from there."""
    after = layer(1024, 512) + layer(512, 256) + layer(256, 40, norm=False)
    head = layer(64 + 1024, 512) + layer(512, 256) + layer(256, 128) + layer(128, 128) + layer(128, 50, norm=False)
    return 3_480_049 - after + head


@pytest.mark.parametrize(
    ("cls", "preset", "trained"),
    [
        (PointNet, "modelnet40", 3_480_049),
        (PointNet, "modelnet40_vanilla", 819_624),
        (PointNet, "modelnet40_torch", 3_471_473),
        (PointNet, "modelnet40_torch_normals", 3_471_857),
        (PointNetSegmentation, "paper", fig_2()),
        (PointNetSegmentation, "shapenet_part", authors_parts()),
        (PointNetSegmentation, "shapenet_part_torch", 8_342_395),
        (PointNetSegmentation, "shapenet_part_torch_normals", 8_342_779),
        (PointNetSegmentation, "s3dis", authors_scenes()),
        (PointNetSegmentation, "s3dis_torch", 3_529_558),
    ],
)
def test_presets_have_the_counts_of_their_code(cls, preset, trained):
    with keras.StatelessScope(initialize_variables=False):  # shapes alone, no memory
        assert sum(np.prod(v.shape) for v in cls.from_preset(preset).trainable_variables) == trained


# A set has no order.


def test_order_and_repetition_change_nothing(net):
    points = cloud()
    logits = net(points)
    assert np.abs(np.diff(logits, axis=0)).max() > 0.1  # the clouds themselves differ
    order = np.random.default_rng(0).permutation(30)
    np.testing.assert_allclose(net(points[:, order]), logits, atol=1e-5)
    np.testing.assert_allclose(net(points[:, np.arange(75) % 30]), logits, atol=1e-5)


def test_segmentation_follows_the_order():
    for local in ("transformed", "all", "last"):
        model = randomized(PointNetSegmentation(**SIZES, num_features=1, num_categories=2, local_features=local))
        inputs = dict(points=cloud(channels=4), category=np.array([0, 1, 1]))
        order = np.random.default_rng(0).permutation(30)
        moved = inputs | dict(points=inputs["points"][:, order])
        np.testing.assert_allclose(model(moved), np.asarray(model(inputs))[:, order], atol=1e-5)
        other = model(inputs | dict(category=np.array([1, 1, 1])))
        difference = np.abs(other - model(inputs)).max((1, 2))
        assert difference[0] > 1e-2
        assert not difference[1:].any()


def test_a_mask_is_the_smaller_cloud(net, masked_net):
    points = cloud()
    mask = np.random.default_rng(2).uniform(size=(3, 30)) < 0.5
    mask[:, 0] = False  # the first point too
    points[~mask] = 1e5
    expected = [net(row[kept][None])[0] for row, kept in zip(points, mask, strict=True)]
    np.testing.assert_allclose(masked_net(dict(points=points, mask=mask)), expected, atol=1e-5)
    filled = np.asarray(fill_padding(points, mask))
    np.testing.assert_array_equal(filled[mask], points[mask])
    for row, full, kept in zip(points, filled, mask, strict=True):
        assert (full[~kept] == row[kept][0]).all()


def test_joined_dense_is_dense_on_the_joined_features():
    layer = JoinedDense(4)
    parts = [cloud(channels=5)[:, 0], cloud(), cloud(channels=2)[:, 1], cloud(channels=4, seed=3)]
    layer(parts)
    layer.bias.assign(np.arange(4))
    joined = np.concatenate([x if x.ndim == 3 else np.repeat(x[:, None], 30, 1) for x in parts], -1)
    result = layer(parts)
    np.testing.assert_allclose(result, joined @ layer.kernel.numpy() + np.arange(4), atol=1e-5)
    assert result.shape == layer.compute_output_shape([x.shape for x in parts])


def test_unit_ball():
    points = 5 + 3 * cloud(channels=4)
    ball = np.asarray(unit_ball(points, 3))
    np.testing.assert_allclose(ball[..., :3].mean(1), 0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(ball[..., :3], axis=-1).max(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(ball[..., 3], points[..., 3])
    assert not np.asarray(unit_ball(np.ones((1, 5, 3), "float32"))).any()


# Transforms.


def test_a_transform_starts_as_the_identity():
    layer = TransformNet(3, (6, 10), (8,))
    points = cloud(channels=5)
    np.testing.assert_array_equal(layer(points), points)
    layer.last.bias.assign(np.arange(9.0))
    turned = np.asarray(layer(points))
    matrix = np.eye(3) + np.arange(9).reshape(3, 3)
    np.testing.assert_allclose(turned[..., :3], points[..., :3] @ matrix, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(turned[..., 3:], points[..., 3:])


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_the_regularizer_is_that_of_the_code(policy):
    """`0.001 * tf.nn.l2_loss(A A' - I)`: 0 for a rotation, for c I (c^2 - 1)^2 K / 2 for each cloud of the batch."""
    layer = TransformNet(6, (6, 10), (8,), orthogonality=1e-3, dtype=policy)
    points = cloud(channels=6)
    layer(points)
    assert float(layer.losses[0]) == 0
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
    for matrix, expected in ((rotation, 0), (1.5 * np.eye(6), 3 * 1e-3 * 6 * (1.5**2 - 1) ** 2 / 2)):
        layer.last.bias.assign((matrix - np.eye(6)).ravel())
        layer(points)
        (found,) = layer.losses
        assert found.dtype == "float32"
        assert float(found) == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_only_the_transform_of_features_is_regularized():
    points, labels = cloud(), np.array([0, 1, 2])
    losses = []
    for weight in (0.0, 1e-3):
        model = PointNet(**SIZES, orthogonality=weight)
        model.get_layer("input_transform").last.bias.assign(np.arange(9.0))
        model.get_layer("feature_transform").last.bias.assign((0.5 * np.eye(6)).ravel())
        keras.utils.set_random_seed(0)
        for variable in model.trainable_variables:
            if variable.name == "kernel" and "/last/" not in variable.path:
                variable.assign(np.random.default_rng(0).normal(size=variable.shape))
        model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        losses.append(model.evaluate(points, labels, batch_size=3, verbose=0))
    assert losses[1] - losses[0] == pytest.approx(3 * 1e-3 * 6 * (1.5**2 - 1) ** 2 / 2, rel=1e-2)


# Critical points.


def test_critical_points_alone_give_the_same_answer(net, masked_net):
    points = cloud(n=200)
    decided = net.critical_points(points)
    assert ((decided.sum(1) > 20) & (decided.sum(1) <= 10 + 10 + 24)).all()  # one for each channel that differs
    critical = decided > 0
    logits = np.asarray(net(points))
    np.testing.assert_allclose(masked_net(dict(points=points, mask=critical)), logits, atol=1e-5)
    for row, kept, expected in zip(points, critical, logits, strict=True):  # none of them is idle
        without = np.stack([row[np.arange(200) != i] for i in np.flatnonzero(kept)])
        assert (np.abs(np.asarray(net(without)) - expected).max(1) > 1e-6).mean() > 0.9


def test_what_the_upper_bound_holds_can_be_added(net):
    points, candidates = cloud(n=200), 1.5 * cloud(n=400, seed=5)
    inside = net.upper_bound(points, candidates)
    assert 0.05 < inside.mean() < 0.95
    assert net.upper_bound(points, points).all()
    for row, extra, kept in zip(points, candidates, inside, strict=True):
        logits = net(row[None])
        np.testing.assert_allclose(net(np.concatenate([row, extra[kept]])[None]), logits, atol=1e-5)
        assert np.abs(net(np.concatenate([row, extra[~kept]])[None]) - logits).max() > 1e-3


def test_critical_points_of_masked_and_of_equal_points(net):
    points = cloud()
    mask = np.arange(30) >= np.array([[0], [7], [29]])
    found = net.critical_points(np.where(mask[..., None], points, np.float32(1e5)), mask) > 0
    assert not found[~mask].any()
    np.testing.assert_array_equal(found[1, 7:], net.critical_points(points[1:2, 7:])[0] > 0)
    np.testing.assert_array_equal(found[2], mask[2])
    np.testing.assert_array_equal(net.critical_points(np.ones((1, 4, 3), "float32"))[0], [1, 0, 0, 0])


# Wrong input.


def test_wrong_clouds_are_refused(net, masked_net):
    points = cloud()
    with pytest.raises(ValueError, match=r"points has the shape \(3, 30, 4\); it must be \(batch, any, 3\)"):
        net(cloud(channels=4))
    with pytest.raises(ValueError, match=r"shape \(3, 0, 3\): a cloud needs at least one point"):
        net(points[:, :0])
    for value in (np.nan, np.inf):
        points[1, 4, 2] = value
        with pytest.raises(ValueError, match=r"points\[1, 4\] = .*(nan|inf)\] is not finite.*There are 1"):
            net(points)
        with pytest.raises(ValueError, match="is not finite"):
            net.critical_points(points)
    mask = np.ones((3, 30), bool)
    mask[2] = False
    with pytest.raises(ValueError, match=r"mask\[2\] is all False"):
        masked_net(dict(points=cloud(), mask=mask))
    model = PointNetSegmentation(**SIZES, num_categories=2)
    for number in (-1, 2):
        with pytest.raises(ValueError, match=rf"category\[1\] = {number} must be in \[0, 2\)"):
            model(dict(points=cloud(), category=np.array([1, number, 0])))


# The momentum of batch normalization.


def test_the_momentum_rises_as_in_the_code(net):
    """`min(0.99, 1 - 0.5 * 0.5 ** floor(samples / 200,000))`."""
    rule = NormalizationMomentum(decay_steps=200_000 // 32)
    for samples, expected in ((0, 0.5), (199_000, 0.5), (200_001, 0.75), (400_001, 0.875), (2_000_000, 0.99)):
        assert rule(samples // 32) == pytest.approx(expected)

    model = PointNet(**SIZES)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    norm = model.get_layer("point_mlp").norms[0]
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: seen.append([norm.moving_mean.numpy(), norm.momentum]),
        on_epoch_end=lambda epoch, logs: seen[-1].append(norm.moving_mean.numpy()),
    )
    model.get_layer("point_mlp").dense[0].trainable = False  # whose outputs then keep their mean
    model.get_layer("input_transform").trainable = False
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    callbacks = [NormalizationMomentum(decay_steps=2), watch]
    model.fit(cloud(), np.array([0, 1, 2]), batch_size=3, epochs=4, callbacks=callbacks, verbose=0)
    assert [momentum for _, momentum, _ in seen] == [0.5, 0.5, 0.75, 0.75]
    mean = 2 * seen[0][2] - seen[0][0]  # of the batch, from the first step
    for before, momentum, after in seen:
        np.testing.assert_allclose(after, momentum * before + (1 - momentum) * mean, atol=1e-6)


# Pointnet_Pointnet2_pytorch.


@pytest.fixture(scope="module")
def oracle():
    return load_oracle("pointnet")


def theirs(name):
    """A model with the widths of the oracle's network."""
    sizes = dict(
        input_transform=((4, 6, 12), (10, 8)),
        feature_transform=((4, 6, 12), (10, 8)),
        activate_last=False,
        dropout_rate=0.0,
        orthogonality=0.0,
        num_classes=5,
    )
    if name == "cls":
        return PointNet(num_features=3, point_dims=(4,), global_dims=(6, 12), head_dims=(10, 8), **sizes)
    if name == "sem":
        widths = dict(point_dims=(4,), global_dims=(6, 12), head_dims=(10, 8, 6))
        return PointNetSegmentation(num_features=6, **widths, **sizes)
    sizes |= dict(num_classes=7, num_categories=16, local_features="all")
    return PointNetSegmentation(point_dims=(4, 6, 6), global_dims=(10, 14), head_dims=(8, 8, 6), **sizes)


@pytest.mark.parametrize("name", ["cls", "part", "sem"])
def test_torch_weights_give_the_same_outputs(name, oracle, tmp_path):
    weights, points = state_dict(oracle, f"{name}/weight"), oracle[f"{name}/points"]
    model = theirs(name)
    write_safetensors(tmp_path / "model.safetensors", weights)
    model.load_torch(tmp_path / "model.safetensors")
    inputs = dict(points=points, category=oracle["part/category"]) if name == "part" else points
    found = keras.ops.log_softmax(model(inputs))
    np.testing.assert_allclose(found, oracle[f"{name}/log_probabilities"], rtol=1e-4, atol=2e-5)


# The battery compares a training under XLA with one without.
@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_torch_training_step(jit, oracle):
    """Loss, every gradient and every moving statistic of one step, read back through the mapping of the weights."""
    weights = state_dict(oracle, "cls/weight")
    model = theirs("cls")
    model.load_torch(weights)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1.0), loss, jit_compile=jit)
    found = model.train_on_batch(oracle["cls/points"], oracle["cls/labels"])
    np.testing.assert_allclose(found, oracle["cls/loss"], rtol=1e-4)
    gradients = state_dict(oracle, "cls/gradient")
    expected = theirs("cls")
    expected.load_torch(
        weights | {key: weights[key] - x for key, x in gradients.items()} | state_dict(oracle, "cls/after")
    )
    for ours, wanted in zip(model.weights, expected.weights, strict=True):
        error = np.abs(np.asarray(ours) - wanted).max() / np.abs(wanted).max()
        assert error < 1e-4, f"{wanted.path}: {error:.1e}"


def test_what_has_no_counterpart_is_refused(oracle):
    weights = state_dict(oracle, "cls/weight")
    with pytest.raises(ValueError, match="activate_last=True"):
        PointNet(**SIZES).load_torch(weights)
    with pytest.raises(ValueError, match="input_transform=None"):
        PointNet(**SIZES | dict(input_transform=None), activate_last=False).load_torch(weights)
    model = theirs("cls")
    before = model.get_weights()
    del weights["feat.fstn.bn5.running_var"]
    weights["feat.conv1.weight"] = weights["feat.conv1.weight"][..., 0]
    with pytest.raises(ValueError, match="2 entries differ") as caught:
        model.load_torch(weights)
    assert "missing: feat.fstn.bn5.running_var (8,)" in str(caught.value)
    assert "feat.conv1.weight is (4, 6), the model takes (4, 6, 1)" in str(caught.value)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_fused_normalization_of_points_is_that_of_keras():
    """In training, for clouds and for vectors; the moving variance is the unbiased one."""
    from keras_dl.layers import BatchNormalization

    for shape in ((4, 7, 3), (9, 3)):
        ours, plain = BatchNormalization(), keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)
        x = np.random.default_rng(0).normal(2.0, 3.0, shape).astype("float32")
        with tf.GradientTape(persistent=True) as tape:
            tensor = tf.constant(x)
            tape.watch(tensor)
            outputs = [layer(tensor, training=True) for layer in (ours, plain)]
            values = [tf.reduce_sum(y**3) for y in outputs]
        np.testing.assert_allclose(*outputs, atol=1e-5)
        gradients = [tape.gradient(value, tensor) for value in values]
        np.testing.assert_allclose(*gradients, atol=1e-4)
        np.testing.assert_allclose(ours.moving_mean, plain.moving_mean, rtol=1e-5)
        variance = 0.9 + 0.1 * x.reshape(-1, 3).var(0, ddof=1)
        np.testing.assert_allclose(ours.moving_variance, variance, rtol=1e-5)
