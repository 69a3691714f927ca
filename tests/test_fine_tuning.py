"""Classifiers without a head, their backbones, and published weights for other classes."""

import keras
import numpy as np
import pytest
from oracles import load_oracle, state_dict
from reference import randomized
from test_pointnet import theirs as pointnet
from test_pointnet2 import theirs as pointnet2

from keras_dl import GCNN, VGG, AlexNet, ConvNeXt, GroupResNet, LeNet5, ODEClassifier, ResNet, ViT
from keras_dl.export import export, load

SMALL_VIT = dict(patch_size=8, hidden_dim=8, mlp_dim=16, num_layers=1, num_heads=2)
HEADLESS = {
    "lenet5": (LeNet5, dict(image_shape=(28, 28, 1)), 84),
    "alexnet": (AlexNet, dict(image_shape=(64, 64, 3), filters=(2, 4, 4, 4, 4), hidden_dim=6), 6),
    "vgg": (VGG, dict(image_shape=(8, 8, 3), num_blocks=(1, 1), filters=(2, 3), hidden_dim=6), 6),
    "resnet": (ResNet, dict(image_shape=(8, 8, 3), num_blocks=(1, 1), filters=(2, 4), stem="cifar"), 16),
    "gcnn": (GroupResNet, dict(image_shape=(8, 8, 3), group="p4", num_blocks=(1, 1), filters=(2, 3)), 3),
    "ode": (ODEClassifier, dict(image_shape=(8, 8, 3), filters=4, num_groups=2, num_steps=1), 4),
    "vit": (ViT, dict(image_shape=(16, 16, 3), **SMALL_VIT), 8),
    "convnext": (ConvNeXt, dict(image_shape=(8, 8, 3), num_blocks=(1, 1), filters=(4, 8), patch_size=2), 8),
}


def _images(shape, dtype="float32"):
    return np.random.default_rng(0).integers(0, 256, (2, *shape)).astype(dtype)


@pytest.mark.parametrize(("kind", "options", "width"), HEADLESS.values(), ids=HEADLESS)
def test_a_model_without_a_head_is_the_backbone_of_one_with_a_head(kind, options, width):
    whole = randomized(kind(num_classes=5, **options))
    headless = kind(num_classes=None, **options)
    assert (headless.output_shape, headless.returns_logits, whole.returns_logits) == ((None, width), False, True)
    assert [type(layer) for layer in headless.layers] == [type(layer) for layer in whole.layers[:-1]]
    headless.set_weights(whole.get_weights()[: len(headless.weights)])
    images = _images(whole.image_shape)
    np.testing.assert_array_equal(headless(images), whole.backbone(images))
    assert kind.from_config(headless.get_config()).num_classes is None

    whole.backbone.trainable = False
    assert [variable.path.split("/")[0] for variable in whole.trainable_variables] == ["head", "head"]
    reloaded = kind.from_config(whole.get_config())
    assert len(reloaded.trainable_variables) == 2


def test_p4cnn_without_its_last_convolution():
    """Its head has three layers, and its features turn with the image."""
    whole, headless = (GCNN((12, 12, 1), n, filters=2, num_layers=3) for n in (5, None))
    assert (headless.output_shape, headless.returns_logits) == ((None, 4, 4, 8), False)
    randomized(whole)
    headless.set_weights(whole.get_weights()[: len(headless.weights)])
    images = _images(whole.image_shape)
    np.testing.assert_array_equal(headless(images), whole.backbone(images))
    (served,) = headless.serving_signatures()
    assert served == "extract"


def test_lenet_has_bitmaps_of_digits_alone():
    with pytest.raises(ValueError, match="num_classes=None must be 10 with head='rbf'"):
        LeNet5(num_classes=None, head="rbf")


@pytest.mark.parametrize("name", ["resnet", "gcnn", "ode"])
def test_files_of_models_without_a_head_hold_features(tmp_path, name):
    kind, options, width = HEADLESS[name]
    model = randomized(kind(num_classes=None, **options))
    export(model, tmp_path / "file.tflite")
    images = _images(model.image_shape, "uint8")[:1]
    (features,) = load(tmp_path / "file.tflite").serve("extract", images=images).values()
    assert features.shape == (1, width)
    np.testing.assert_allclose(features, model(images.astype("float32")), rtol=1e-4, atol=1e-4)


def _alexnet(**classes):
    sizes = AlexNet.presets["alexnet_one_tower"]
    sizes = sizes | dict(filters=tuple(n // 32 for n in sizes["filters"]), hidden_dim=12)
    return AlexNet((96, 130, 3), **sizes, mean=0.0, std=1.0, **classes)


def _published(kind, image_shape, **sizes):
    return lambda **classes: kind(image_shape, **sizes, **classes)


TINY_VIT = dict(patch_size=8, hidden_dim=16, mlp_dim=24, num_layers=2, num_heads=2)
LOADERS = {
    "alexnet": (_alexnet, "load_torchvision", "alexnet", "weight"),
    "vgg": (
        lambda **classes: VGG(
            (64, 96, 3), num_blocks=(1, 1, 2, 2, 2), filters=(1, 2, 4, 8, 8), hidden_dim=12, **classes
        ),
        "load_torchvision",
        "vgg",
        "weight",
    ),
    "resnet": (
        _published(ResNet, (45, 38, 3), num_blocks=(1, 2, 1, 1), filters=(4, 4, 6, 8)),
        "load_torchvision",
        "resnet_bottleneck",
        "weight",
    ),
    "convnext": (
        _published(ConvNeXt, (35, 42, 3), num_blocks=(2, 1, 1), filters=(8, 12, 16)),
        "load_torchvision",
        "convnext",
        "weights",
    ),
    "convnext_transformers": (
        _published(ConvNeXt, (35, 42, 3), num_blocks=(2, 1, 1), filters=(8, 12, 16)),
        "load_transformers",
        "convnext_transformers",
        "weights",
    ),
    "vit": (_published(ViT, (24, 24, 3), **TINY_VIT), "load_torchvision", "vit_torchvision", "weights"),
    "vit_transformers": (_published(ViT, (24, 24, 3), **TINY_VIT), "load_transformers", "vit_transformers", "weights"),
}


@pytest.mark.parametrize(("make", "loader", "oracle", "prefix"), LOADERS.values(), ids=LOADERS)
def test_published_weights_serve_other_classes(make, loader, oracle, prefix):
    weights = state_dict(load_oracle(oracle), prefix)
    whole, other, headless = make(num_classes=5), make(num_classes=3), make(num_classes=None)
    getattr(whole, loader)(weights)
    fresh = [variable.numpy() for variable in other.get_layer("head").weights]
    with pytest.raises(ValueError, match=r"the model takes \(3"):
        getattr(other, loader)(weights)
    getattr(other, loader)(weights, head=False)
    getattr(headless, loader)(weights)
    for before, variable in zip(fresh, other.get_layer("head").weights, strict=True):
        np.testing.assert_array_equal(before, variable)
    images = _images(whole.image_shape)
    features = whole.backbone(images)
    np.testing.assert_array_equal(other.backbone(images), features)
    np.testing.assert_array_equal(headless(images), features)

    head = whole.get_layer("head").weights
    sizes = {tuple(variable.shape[::-1]) for variable in head}
    body = {name: array for name, array in weights.items() if array.shape not in sizes}
    assert len(body) == len(weights) - 2
    getattr(other, loader)(body, head=False)  # a file without a head
    with pytest.raises(ValueError, match="2 entries differ"):
        getattr(whole, loader)(body)
    del body[next(iter(body))]
    with pytest.raises(ValueError, match="1 entries differ"):
        getattr(other, loader)(body, head=False)


@pytest.mark.parametrize(("make", "oracle", "name"), [(pointnet, "pointnet", "cls"), (pointnet2, "pointnet2", "ssg")])
def test_published_weights_serve_other_classes_of_clouds(make, oracle, name, tmp_path):
    """The features are those of the cloud, in front of the hidden layers of the head, which are loaded."""
    file = load_oracle(oracle)
    weights, points = state_dict(file, f"{name}/weight"), file[f"{name}/points"]
    whole = make(name)
    other, headless = (type(whole).from_config(whole.get_config() | {"num_classes": n}) for n in (3, None))
    fresh = [variable.numpy() for variable in other.get_layer("head").weights]
    whole.load_torch(weights)
    with pytest.raises(ValueError, match=r"the model takes \(3"):
        other.load_torch(weights)
    other.load_torch(weights, head=False)
    headless.load_torch(weights)
    for before, variable in zip(fresh, other.get_layer("head").weights, strict=True):
        np.testing.assert_array_equal(before, variable)
    for ours, wanted in zip(other.weights[:-2], whole.weights[:-2], strict=True):
        np.testing.assert_array_equal(ours, wanted)
    assert (headless.output_shape, headless.returns_logits) == ((None, whole.global_dims[-1]), False)
    np.testing.assert_array_equal(headless(points), whole.backbone(points))

    export(headless, tmp_path / "file.tflite")
    row = headless.serving_signatures()["extract"].inputs["points"]
    sample = np.random.default_rng(0).normal(size=row.shape).astype("float32")
    (features,) = load(tmp_path / "file.tflite").serve("extract", points=sample).values()
    np.testing.assert_allclose(features, headless(sample), rtol=1e-4, atol=1e-5)


def test_a_frozen_backbone_stays_as_it_is():
    model = HEADLESS["resnet"][0](num_classes=5, **HEADLESS["resnet"][1])
    model.backbone.trainable = False
    body = [variable.numpy() for variable in model.backbone.variables]
    head = model.get_layer("head").get_weights()[0]
    model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(_images(model.image_shape), np.array([0, 1]), verbose=0)
    for before, variable in zip(body, model.backbone.variables, strict=True):  # moving statistics too
        np.testing.assert_array_equal(before, variable)
    assert np.abs(head - model.get_layer("head").get_weights()[0]).max() > 0


def _adaptive(maps, size):
    """The average of each cell of a grid, by its definition in torch: from the floor to the ceiling of its borders."""
    (_, height, width, _), result = maps.shape, np.zeros((len(maps), size, size, maps.shape[-1]))
    for i in range(size):
        for j in range(size):
            rows = slice(i * height // size, -(-(i + 1) * height // size))
            columns = slice(j * width // size, -(-(j + 1) * width // size))
            result[:, i, j] = maps[:, rows, columns].mean((1, 2))
    return result


@pytest.mark.parametrize(("kind", "side", "pool_size"), [(VGG, 64, 3), (VGG, 32, 2), (VGG, 96, 2), (AlexNet, 130, 2)])
def test_dense_layers_take_maps_of_one_size(kind, side, pool_size):
    """Larger ones and smaller ones."""
    options = dict(num_classes=5, filters=(2, 4, 4, 4, 4), hidden_dim=6, pool_size=pool_size)
    if kind is VGG:
        options["num_blocks"] = (1, 1, 1, 1, 1)
    model = kind((side, side, 3), **options)
    maps = keras.Model(model.input, model.get_layer("pool_5").output)(_images((side, side, 3)))
    flat = keras.Model(model.input, model.get_layer("flatten").input)(_images((side, side, 3)))
    assert maps.shape[1] != pool_size
    np.testing.assert_allclose(flat, _adaptive(np.asarray(maps), pool_size), rtol=1e-5, atol=1e-6)
    other = kind((side + 40, side, 3), **options)
    other.set_weights(model.get_weights())


def test_maps_that_have_the_size_are_left_alone():
    model = VGG((64, 64, 3), 5, (1, 1), (2, 3), hidden_dim=6, pool_size=16)
    assert "resize" not in {layer.name for layer in model.layers}
