"""LeNet-5, AlexNet and VGG: published sizes, translation, the parts that only they have, torchvision's outputs."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracles import load_oracle, state_dict

from keras_dl import VGG, AlexNet, LeNet5
from keras_dl.losses import RejectionCrossentropy
from keras_dl.models.vision.alexnet import LocalResponseNormalization, TowerConv2D
from keras_dl.models.vision.lenet import (
    C3_INPUTS,
    DigitCodes,
    TableConv2D,
    TrainableSubsampling,
    digit_codes,
    scaled_tanh,
)

TINY_ALEXNET = dict(image_shape=(64, 64, 3), num_classes=5, filters=(8, 8, 16, 8, 8), hidden_dim=16)
TINY_VGG = dict(image_shape=(32, 32, 3), num_classes=5, filters=(4, 4, 8, 8, 8), hidden_dim=16)


def num_trainable(model):
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def random_maps(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def nhwc(images):
    return images.transpose(0, 2, 3, 1)


# Sizes.


def test_lenet_has_the_papers_layers():
    model = LeNet5(head="rbf")
    sizes = {"c1": 156, "s2": 12, "c3": 1516, "s4": 32, "c5": 48120, "f6": 10164, "head": 0}
    assert {name: model.get_layer(name).count_params() for name in sizes} == sizes
    assert model.count_params() == num_trainable(model) == 60_000
    shapes = {"c1": (28, 28, 6), "s2": (14, 14, 6), "c3": (10, 10, 16), "s4": (5, 5, 16), "c5": (1, 1, 120)}
    assert {name: model.get_layer(name).output.shape[1:] for name in shapes} == shapes
    assert num_trainable(LeNet5()) == 60_850


@pytest.mark.parametrize(
    ("cls", "name", "size"),
    [
        (AlexNet, "alexnet", 60_965_224),
        (AlexNet, "alexnet_one_tower", 61_100_840),
        (VGG, "vgg11", 132_863_336),
        (VGG, "vgg13", 133_047_848),
        (VGG, "vgg16", 138_357_544),
        (VGG, "vgg19", 143_667_240),
    ],
)
def test_presets_have_the_published_sizes(cls, name, size):
    with keras.StatelessScope(initialize_variables=False):  # shapes alone, no memory
        assert num_trainable(cls.from_preset(name)) == size


# Translation: moving the image moves the maps.


def moved(images, pixels):
    return np.roll(images, pixels, axis=(1, 2))


@pytest.mark.parametrize(
    ("create", "layer", "stride"),
    [
        (lambda: LeNet5((32, 32, 1)), "s2", 2),
        (lambda: AlexNet(**TINY_ALEXNET | dict(image_shape=(128, 128, 3))), "pool_1", 8),
        (lambda: VGG(**TINY_VGG | dict(image_shape=(128, 128, 3))), "pool_3", 8),
    ],
    ids=["lenet5", "alexnet", "vgg"],
)
def test_translation_of_the_image_shifts_the_maps(create, layer, stride):
    """By a whole stride, with ink in the middle and a border that no kernel reaches across."""
    model = create()
    maps = keras.Model(model.input, model.get_layer(layer).output)
    side = model.image_shape[0]
    images = np.zeros((1, *model.image_shape), "float32")
    size = side // 8
    images[:, 3 * size : 5 * size, 3 * size : 5 * size] = 255 * np.random.default_rng(0).random(
        (1, 2 * size, 2 * size, model.image_shape[2])
    )
    before, after = (np.asarray(maps(x)) for x in (images, moved(images, stride)))
    inner = slice(4, -4)  # maps at the rim see the zeros around the image
    np.testing.assert_allclose(moved(before, 1)[:, inner, inner], after[:, inner, inner], rtol=1e-4, atol=1e-5)
    assert np.abs(before - after)[:, inner, inner].max() > 1e-2


# LeNet-5.


def test_connection_table_is_table_1():
    sizes = [len(row) for row in C3_INPUTS]
    assert sizes == [3] * 6 + [4] * 9 + [6]
    assert len(set(C3_INPUTS)) == 16
    counts = np.bincount([source for row in C3_INPUTS for source in row])
    np.testing.assert_array_equal(counts, [10] * 6)  # every row of the table has ten crosses


def test_a_map_of_c3_sees_its_inputs_alone():
    layer = TableConv2D(5, C3_INPUTS)
    maps = random_maps(1, 9, 8, 6)
    before = np.asarray(layer(maps))
    for source in range(6):
        changed = maps.copy()
        changed[..., source] += 1.0
        moves = np.abs(layer(changed) - before).max(axis=(0, 1, 2)) > 1e-3
        assert moves.tolist() == [source in row for row in C3_INPUTS]


def test_table_of_everything_is_a_convolution():
    layer = TableConv2D(3, [(0, 1)] * 4)
    plain = keras.layers.Conv2D(4, 3)
    maps = random_maps(2, 7, 6, 2)
    layer.build(maps.shape)
    plain.build(maps.shape)
    # pairs are ordered by output map, then by input map
    plain.kernel.assign(np.asarray(layer.kernel).reshape(3, 3, 4, 2).transpose(0, 1, 3, 2))
    np.testing.assert_allclose(layer(maps), plain(maps), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("row", [(), (0, 0), (0, 2), (-1,)])
def test_table_must_name_maps_that_exist(row):
    with pytest.raises(ValueError, match="table has a row"):
        TableConv2D(3, [(0,), row]).build((None, 8, 8, 2))


def test_subsampling_adds_four_and_scales():
    layer = TrainableSubsampling()
    maps = random_maps(2, 6, 8, 3)
    layer.build(maps.shape)
    layer.coefficient.assign([0.5, -1.0, 2.0])
    layer.bias.assign([0.1, 0.2, 0.3])
    sums = maps.reshape(2, 3, 2, 4, 2, 3).sum(axis=(2, 4))
    np.testing.assert_allclose(layer(maps), sums * [0.5, -1.0, 2.0] + [0.1, 0.2, 0.3], rtol=1e-4, atol=1e-5)


def test_scaled_tanh():
    """f(1) = 1 and f(-1) = -1, where the second derivative is largest (appendix A)."""
    np.testing.assert_allclose(scaled_tanh(np.float32([-1, 0, 1])), [-1, 0, 1], atol=2e-5)
    x = np.linspace(0.01, 3, 2000)
    bend = np.gradient(np.gradient(1.7159 * np.tanh(2 * x / 3), x), x)
    assert abs(x[np.abs(bend).argmax()] - 1) < 0.02


def test_pixels_are_the_papers():
    """-0.1 for ground and 1.175 for ink, the image in the middle of 32x32."""
    model = LeNet5((28, 28, 1))
    found = np.asarray(keras.Model(model.input, model.get_layer("pixels").output)(np.full((1, 28, 28, 1), 255.0)))
    expected = np.full((1, 32, 32, 1), -0.1)
    expected[:, 2:30, 2:30] = 1.175
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_rbf_output_is_a_distance():
    codes = digit_codes()
    assert codes.shape == (10, 84)
    assert set(np.unique(codes)) == {-1.0, 1.0}
    differing = (codes[:, None] != codes).sum(-1)
    assert differing[~np.eye(10, dtype=bool)].min() >= 19  # bits between the nearest two digits
    layer = DigitCodes()
    np.testing.assert_allclose(layer(codes), -4.0 * differing, atol=1e-4)
    x = random_maps(3, 84)
    np.testing.assert_allclose(layer(x), -((x[:, None] - codes) ** 2).sum(-1), rtol=1e-5)


def test_rejection_crossentropy_is_equation_9():
    penalties = np.random.default_rng(0).uniform(0, 20, (6, 10))
    labels = np.arange(6)
    expected = penalties[labels, labels] + np.log(np.exp(-4.0) + np.exp(-penalties).sum(-1))
    loss = RejectionCrossentropy(penalty=4.0, reduction=None)
    np.testing.assert_allclose(loss(labels, -penalties.astype("float32")), expected, rtol=1e-5)
    copy = keras.losses.deserialize(keras.losses.serialize(loss))
    assert copy.penalty == 4.0


def test_rejection_crossentropy_draws_the_code_to_the_bitmap():
    """Far from every bitmap it pulls at the right one as the squared distance does; plain cross-entropy pulls less."""
    code = tf.Variable(np.zeros((1, 84), "float32"))
    gradients = []
    for loss in (RejectionCrossentropy(10.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True)):
        with tf.GradientTape() as tape:
            value = loss(np.array([3]), DigitCodes()(code))
        gradients.append(tape.gradient(value, code).numpy()[0])
    np.testing.assert_allclose(gradients[0], -2.0 * digit_codes()[3], rtol=1e-4, atol=1e-4)
    assert np.abs(gradients[1]).sum() < 0.9 * np.abs(gradients[0]).sum()


# AlexNet and VGG.


def test_response_normalisation_is_tensorflows():
    maps = 30.0 * random_maps(2, 5, 4, 9)
    expected = tf.nn.local_response_normalization(maps, 2, 2.0, 1e-4, 0.75)
    np.testing.assert_allclose(LocalResponseNormalization()(maps), expected, rtol=1e-5)
    expected = tf.nn.local_response_normalization(maps, 1, 1.0, 1e-2, 0.75)
    np.testing.assert_allclose(LocalResponseNormalization(1, 1.0, 1e-2)(maps), expected, rtol=1e-5)


def test_response_normalisation_survives_half_precision():
    """300 squared is infinite in float16."""
    maps = np.full((1, 2, 2, 3), 300.0, "float16")
    found = LocalResponseNormalization(dtype="float16")(maps)
    assert found.dtype == "float16"
    expected = tf.nn.local_response_normalization(tf.cast(maps, "float32"), 2, 2.0, 1e-4, 0.75)
    np.testing.assert_allclose(keras.ops.cast(found, "float32"), expected, rtol=1e-3)


def test_towers_are_a_grouped_convolution():
    maps = random_maps(2, 6, 5, 4)
    towers, grouped = TowerConv2D(6, 3, towers=2), keras.layers.Conv2D(6, 3, padding="same", groups=2)
    towers.build(maps.shape)
    grouped.build(maps.shape)
    grouped.kernel.assign(np.concatenate([conv.kernel for conv in towers.convs], axis=-1))
    np.testing.assert_allclose(towers(maps), keras.ops.relu(grouped(maps)), rtol=1e-5, atol=1e-6)


def test_towers_must_divide_the_maps():
    with pytest.raises(ValueError, match="towers=2 must divide filters=5"):
        TowerConv2D(5, 3, towers=2)
    with pytest.raises(ValueError, match="towers=2 must divide the 3 maps"):
        TowerConv2D(4, 3, towers=2).build((None, 8, 8, 3))


def test_torchvision_vgg():
    oracle = load_oracle("vgg")
    model = VGG((64, 96, 3), 5, (1, 1, 2, 2, 2), (1, 2, 4, 8, 8), hidden_dim=12, mean=0.0, std=1.0)
    model.load_torchvision(state_dict(oracle))
    np.testing.assert_allclose(model(nhwc(oracle["images"])), oracle["logits"], rtol=1e-5, atol=1e-5)


def test_torchvision_alexnet():
    oracle = load_oracle("alexnet")
    preset = AlexNet.presets["alexnet_one_tower"]
    filters = tuple(n // 32 for n in preset["filters"])
    model = AlexNet((96, 130, 3), 5, **preset | dict(filters=filters), hidden_dim=12, mean=0.0, std=1.0)
    model.load_torchvision(state_dict(oracle))
    np.testing.assert_allclose(model(nhwc(oracle["images"])), oracle["logits"], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="towers=2 with response_normalization=True has no counterpart"):
        AlexNet(**TINY_ALEXNET).load_torchvision({})


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (LeNet5, dict(image_shape=(33, 28, 1)), r"image_shape=\(33, 28, 1\) must have sides of at most 32"),
        (LeNet5, dict(image_shape=28), "image_shape=28"),
        (LeNet5, dict(head="linear"), "head='linear' must be one of 'softmax', 'rbf'"),
        (LeNet5, dict(head="rbf", num_classes=26), "num_classes=26 must be 10"),
        (LeNet5, dict(mean=(1.0, 2.0)), r"mean=\(1.0, 2.0\) has 2 values for images of 1 channels"),
        (AlexNet, TINY_ALEXNET | dict(image_shape=(62, 64, 3)), r"image_shape=\(62, 64, 3\).*at least 63"),
        (AlexNet, TINY_ALEXNET | dict(filters=(8, 8)), r"filters=\(8, 8\) must have one value for each of five"),
        (AlexNet, TINY_ALEXNET | dict(towers=3), "towers=3 must be one of 1, 2"),
        (AlexNet, TINY_ALEXNET | dict(hidden_dim=0), "hidden_dim=0"),
        (VGG, TINY_VGG | dict(image_shape=(32, 31, 3)), r"image_shape=\(32, 31, 3\).*at least 32"),
        (VGG, TINY_VGG | dict(num_blocks=(1, 1)), r"num_blocks=\(1, 1\) and filters"),
        (VGG, TINY_VGG | dict(dropout_rate=-0.1), "dropout_rate=-0.1"),
    ],
)
def test_bad_arguments(cls, arguments, message):
    with pytest.raises(ValueError, match=message):
        cls(**arguments)
