"""ResNet and the residual MLP: published sizes, what their parts compute, torchvision's outputs."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracles import load_oracle, state_dict

from keras_dl import ResidualMLP, ResNet
from keras_dl.layers import BatchNormalization
from keras_dl.models.vision.resnet import ResidualBlock

PUBLISHED = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
}
TINY = dict(image_shape=(32, 32, 3), num_classes=5, num_blocks=(1, 2), filters=(4, 8))


def num_trainable(model):
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def random_maps(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_have_the_published_sizes(name):
    assert set(ResNet.presets) == set(PUBLISHED)
    with keras.StatelessScope(initialize_variables=False):  # shapes alone, no memory
        assert num_trainable(ResNet.from_preset(name)) == PUBLISHED[name]


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_cifar_sizes_follow_from_the_description(depth):
    """Section 4.2: 3x3 convolutions of 16, 32, 64 maps, 2n each; two scales a map; 64 features to 10 classes."""
    n = (depth - 2) // 6
    convs = 9 * (3 * 16 + 2 * n * 16 * 16 + 16 * 32 + (2 * n - 1) * 32 * 32 + 32 * 64 + (2 * n - 1) * 64 * 64)
    scales = 2 * (16 + 2 * n * (16 + 32 + 64))
    assert convs + scales + 65 * 10 == PUBLISHED[f"resnet{depth}"]


@pytest.mark.parametrize("version", ["v1", "v1.5", "v2"])
def test_versions_halve_where_they_say(version):
    block = ResidualBlock(4, strides=2, version=version)
    block.build((None, 8, 8, 6))
    assert [conv.strides[0] for conv in block.convs] == ([2, 1, 1] if version == "v1" else [1, 2, 1])
    assert not any(conv.use_bias for conv in block.convs)


@pytest.mark.parametrize("version", ["v1", "v1.5", "v2"])
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_a_residual_branch_that_starts_at_zero_is_the_identity(version, block):
    layer = ResidualBlock(8 if block == "basic" else 2, block=block, version=version, zero_init_residual=True)
    maps = random_maps(2, 5, 6, 8)
    expected = maps if version == "v2" else np.maximum(maps, 0)  # v1 ends in relu: the identity of what relu gave
    np.testing.assert_array_equal(layer(maps, training=True), expected)


@pytest.mark.parametrize("version", ["v1.5", "v2"])
def test_a_residual_branch_that_starts_at_zero_learns(version):
    layer = ResidualBlock(4, block="basic", version=version, zero_init_residual=True)
    maps = random_maps(2, 5, 6, 4)
    with tf.GradientTape() as tape:
        loss = keras.ops.sum(layer(maps, training=True) ** 2)
    last = layer.norms[-1].gamma if version != "v2" else layer.convs[-1].kernel
    assert np.abs(tape.gradient(loss, last.value)).min() > 0


def test_he_fan_out():
    """Standard deviation sqrt(2 / (k k out)), of a strided 3x3 convolution that widens the maps."""
    block = ResidualBlock(256, strides=2, block="basic")
    block.build((None, 8, 8, 128))
    kernel = np.asarray(block.convs[0].kernel)
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 256)), rtol=0.01)  # 295k samples: 0.13% standard error
    assert np.abs(kernel).max() > 3.5 * kernel.std(), "the normal distribution must not be cut off"


@pytest.mark.parametrize("version", ["v1.5", "v2"])
def test_shortcut_a_takes_every_second_pixel_and_adds_zeros(version):
    layer = ResidualBlock(6, 2, "basic", version, shortcut="A", zero_init_residual=True)
    maps = random_maps(2, 7, 6, 4)
    found = np.asarray(layer(maps))
    if version == "v2":
        maps = np.asarray(keras.ops.relu(layer.norms[0](maps)))  # a unit that changes the shape shares its first relu
    expected = np.concatenate([maps[:, ::2, ::2], np.zeros((2, 4, 3, 2))], axis=-1)
    np.testing.assert_array_equal(found, expected if version == "v2" else np.maximum(expected, 0))
    assert layer.projection is None


def test_shortcut_b_projects():
    layer = ResidualBlock(6, 2, "basic", zero_init_residual=True)
    maps = random_maps(2, 7, 6, 4)
    found = layer(maps)
    projected = np.einsum("bhwi,io->bhwo", maps[:, ::2, ::2], np.asarray(layer.projection.kernel)[0, 0])
    np.testing.assert_allclose(found, np.maximum(projected / np.sqrt(1 + 1e-5), 0), rtol=1e-5, atol=1e-6)


def test_a_plain_network_has_no_shortcut():
    plain, residual = (ResNet(**TINY, residual=residual) for residual in (False, True))
    assert not any("projection" in v.path for v in plain.variables)
    assert num_trainable(residual) - num_trainable(plain) == 4 * 16 + 16 * 32 + 2 * (16 + 32)
    block = ResidualBlock(8, block="basic", residual=False, zero_init_residual=True)
    np.testing.assert_array_equal(block(random_maps(1, 4, 4, 8)), 0.0)


def test_halving_is_symmetric():
    """A strided convolution puts as many zeros before a map as after it: mirroring in mirrors the output."""
    block = ResidualBlock(3, 2, "basic", residual=False)
    maps = random_maps(1, 9, 9, 2)
    block.build(maps.shape)
    before = block(maps)
    for conv in block.convs:
        conv.kernel.assign(conv.kernel[::-1, ::-1])
    np.testing.assert_allclose(block(maps[:, ::-1, ::-1])[:, ::-1, ::-1], before, rtol=1e-5, atol=1e-6)


def test_the_first_convolution_sees_normalised_pixels():
    model = ResNet(**TINY, mean=(10.0, 20.0, 30.0), std=(2.0, 4.0, 5.0))
    images = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3))
    found = keras.Model(model.input, model.get_layer("pixels").output)(images)
    np.testing.assert_allclose(found, (images - [10, 20, 30]) / np.array([2, 4, 5]), rtol=1e-6)


def test_serving_takes_uint8_and_gives_probabilities():
    model = ResNet(**TINY)
    signature = model.serving_signatures(2)["classify"]
    assert (signature.inputs["images"].shape, signature.inputs["images"].dtype) == ((2, 32, 32, 3), "uint8")
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("uint8")
    found = signature.function(images=tf.constant(images))["probabilities"]
    np.testing.assert_allclose(found, keras.ops.softmax(model(images.astype("float32"))), rtol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (dict(image_shape=(32, 32)), r"image_shape=\(32, 32\)"),
        (dict(num_classes=2.5), "num_classes=2.5"),
        (dict(num_blocks=(1, 0)), r"num_blocks=\(1, 0\)"),
        (dict(num_blocks=(1,)), r"num_blocks=\(1,\) and filters"),
        (dict(block="wide"), "block='wide' must be one of 'basic', 'bottleneck'"),
        (dict(version=2), "version=2 must be one of"),
        (dict(stem="patch"), "stem='patch'"),
        (dict(shortcut="C"), "shortcut='C'"),
        (dict(mean=(1.0, 2.0)), r"mean=\(1.0, 2.0\) has 2 values for images of 3 channels"),
        (dict(std=0), "std=0 must be positive"),
        (dict(filters=(64, 8), shortcut="A"), "shortcut='A' cannot go from 256 maps to 32"),
    ],
)
def test_bad_arguments(overrides, message):
    with pytest.raises(ValueError, match=message):
        ResNet(**TINY | overrides)


# Batch normalisation.


def test_fused_batch_normalisation_is_keras_own():
    """Outputs, gradients and the moving mean; the moving variance follows the unbiased variance of the batch."""
    maps = 3.0 + 2.0 * random_maps(4, 5, 6, 7)
    ours, theirs = BatchNormalization(), keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)
    results = []
    for layer in (ours, theirs):
        layer.build(maps.shape)
        layer.set_weights([np.linspace(0.5, 1.5, 7), np.linspace(-1, 1, 7), np.zeros(7), np.ones(7)])
        x = tf.Variable(maps)
        with tf.GradientTape() as tape:
            y = layer(x, training=True)
            loss = tf.reduce_sum(tf.sin(y))
        gradients = tape.gradient(loss, [x, layer.gamma.value, layer.beta.value])
        results.append([y, *gradients, layer.moving_mean, layer(maps, training=False).shape])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    n = 4 * 5 * 6
    unbiased = maps.reshape(-1, 7).var(axis=0, ddof=1)
    np.testing.assert_allclose(ours.moving_variance, 0.9 + 0.1 * unbiased, rtol=1e-5)
    np.testing.assert_allclose(theirs.moving_variance, 0.9 + 0.1 * unbiased * (n - 1) / n, rtol=1e-5)


def test_frozen_batch_normalisation_keeps_its_statistics():
    layer = BatchNormalization()
    layer.build((None, 4, 4, 3))
    layer.trainable = False
    maps = 5.0 + random_maps(2, 4, 4, 3)
    np.testing.assert_allclose(layer(maps, training=True), maps / np.sqrt(1 + 1e-5), rtol=1e-6)
    np.testing.assert_array_equal(layer.moving_mean, 0)


def test_only_training_uses_the_fused_operation():
    """In inference oneDNN merges it into the convolution, and a call of ResNet-20 took 41 ms instead of 8."""
    layer = BatchNormalization()
    layer.build((None, 4, 4, 3))
    for training in (False, True):
        call = tf.function(lambda x, training=training: layer(x, training=training), autograph=False)
        graph = call.get_concrete_function(tf.TensorSpec((2, 4, 4, 3))).graph
        assert any(op.type == "FusedBatchNormV3" for op in graph.get_operations()) is training


# torchvision.


@pytest.fixture
def bottleneck():
    return ResNet((45, 38, 3), 5, (1, 2, 1, 1), (4, 4, 6, 8), mean=0.0, std=1.0)


def basic():
    return ResNet((45, 38, 3), 5, (2, 1, 1, 1), (4, 6, 8, 10), block="basic", mean=0.0, std=1.0)


def nhwc(images):
    return images.transpose(0, 2, 3, 1)


def test_torchvision_basic_blocks():
    oracle = load_oracle("resnet_basic")
    model = basic()
    model.load_torchvision(state_dict(oracle))
    np.testing.assert_allclose(model(nhwc(oracle["images"])), oracle["logits"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_maps_may_shrink_to_one_pixel(block):
    """Padding leaves enough for the last strided convolution, as in torchvision."""
    model = ResNet((32, 32, 3), 5, (1, 1, 1, 1), (2, 2, 2, 2), block=block)
    assert model.get_layer("stage_4_block_0").output.shape[1:3] == (1, 1)
    assert model(np.zeros((1, 32, 32, 3))).shape == (1, 5)


def test_torchvision_bottlenecks(bottleneck):
    oracle = load_oracle("resnet_bottleneck")
    bottleneck.load_torchvision(state_dict(oracle))
    np.testing.assert_allclose(bottleneck(nhwc(oracle["images"])), oracle["logits"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("jit", [False, True])
def test_torchvision_training_step(bottleneck, jit):
    """Loss, every gradient and every moving statistic of one step, read back through the mapping of the weights."""
    oracle = load_oracle("resnet_bottleneck")
    bottleneck.load_torchvision(state_dict(oracle))
    bottleneck.compile(
        optimizer=keras.optimizers.SGD(1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit,
    )
    loss = bottleneck.train_on_batch(nhwc(oracle["images"]), oracle["labels"])
    np.testing.assert_allclose(loss, oracle["loss"], rtol=1e-5)

    expected = ResNet.from_config(bottleneck.get_config())  # weights after a step of SGD with a learning rate of 1
    expected.load_torchvision(
        state_dict(oracle)
        | {key: oracle[f"weight/{key}"] - value for key, value in state_dict(oracle, "gradient").items()}
        | state_dict(oracle, "after")
    )
    for found, wanted in zip(bottleneck.variables[: len(expected.variables)], expected.variables, strict=True):
        error = np.abs(np.asarray(found) - wanted).max() / np.abs(wanted).max()
        # From another order of the sums: 1.2e-5 on one processor, 4.0e-5 under XLA on one with AVX-512.
        assert error < 1e-4, f"{wanted.path}: {error:.1e}"


def test_a_checkpoint_that_does_not_fit_is_refused_whole(bottleneck):
    weights = state_dict(load_oracle("resnet_bottleneck"))
    before = bottleneck.get_weights()
    del weights["layer2.0.bn2.running_var"]
    weights["fc.weight"] = weights["fc.weight"][:4]
    weights["layer9.conv1.weight"] = np.zeros((1, 2, 3, 3))
    with pytest.raises(ValueError, match="3 entries differ") as caught:
        bottleneck.load_torchvision(weights)
    for line in (
        "missing: layer2.0.bn2.running_var (4,)",
        "unknown: layer9.conv1.weight (1, 2, 3, 3)",
        "of another shape: fc.weight is (4, 32), the model takes (5, 32)",
    ):
        assert line in str(caught.value)
    for old, new in zip(before, bottleneck.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_what_computes_otherwise_takes_no_weights_of_torchvision():
    """Bottlenecks of v1 have weights of the same shapes, and strides in another convolution."""
    weights = state_dict(load_oracle("resnet_bottleneck"))
    sizes = ((45, 38, 3), 5, (1, 2, 1, 1), (4, 4, 6, 8))
    for options, message in (
        (dict(version="v1"), "version='v1' of bottleneck blocks has no counterpart.*version='v1.5'"),
        (dict(version="v2"), "version='v2' of bottleneck blocks has no counterpart"),
        (dict(residual=False), "residual=False has no counterpart"),
    ):
        with pytest.raises(ValueError, match=message):
            ResNet(*sizes, **options).load_torchvision(weights)
    oracle = load_oracle("resnet_basic")
    v1 = ResNet((45, 38, 3), 5, (2, 1, 1, 1), (4, 6, 8, 10), block="basic", version="v1", mean=0.0, std=1.0)
    v1.load_torchvision(state_dict(oracle))  # a basic block is the same in both
    np.testing.assert_allclose(v1(nhwc(oracle["images"])), oracle["logits"], rtol=1e-5, atol=1e-5)


# Residual MLP.


def test_residual_mlp_is_its_formula():
    model = ResidualMLP(3, 2, hidden_dim=4, mlp_dim=5, num_blocks=2, normalization="layer")
    x = np.random.default_rng(0).normal(2.0, 3.0, (50, 3)).astype("float32")
    model.adapt(x)

    def dense(name, h):
        kernel, bias = (np.asarray(w) for w in model.get_layer(name).weights)
        return h @ kernel + bias

    def norm(h):
        return (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-5)

    h = dense("embed", (x - x.mean(0)) / x.std(0))
    for i in range(2):
        h = h + dense(f"block_{i}_project", np.maximum(dense(f"block_{i}_expand", norm(h)), 0))
    np.testing.assert_allclose(model(x), dense("head", np.maximum(norm(h), 0)), rtol=1e-4, atol=1e-5)
