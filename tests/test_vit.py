"""Vision Transformer: the paper's sizes, the references' outputs, other image sizes, attention roll-out."""

import keras
import numpy as np
import pytest
from oracles import load_oracle, state_dict
from reference import loss_and_gradients, write_safetensors

from keras_dl import ViT
from keras_dl.export import export
from keras_dl.layers.pixels import IMAGENET_MEAN, IMAGENET_STD
from keras_dl.models.vision.vit import ViTBlock, attention_rollout, resize_positions

TINY = dict(image_shape=(24, 24, 3), num_classes=5, patch_size=8, hidden_dim=16, mlp_dim=24, num_layers=2, num_heads=2)
IMAGENET = dict(mean=IMAGENET_MEAN, std=IMAGENET_STD)


@pytest.mark.parametrize(
    ("name", "count"), [("vit_b16", 86_567_656), ("vit_b32", 88_224_232), ("vit_l16", 304_326_632)]
)
def test_presets_have_the_published_counts(name, count):
    with keras.StatelessScope(initialize_variables=False):  # shapes alone, no memory
        assert ViT.from_preset(name).count_params() == count


def test_torchvision_weights_give_its_outputs_loss_and_gradients(tmp_path):
    oracle = load_oracle("vit_torchvision")
    model = ViT(**TINY, **IMAGENET)
    write_safetensors(tmp_path / "weights.safetensors", state_dict(oracle, "weights"))
    for weights in (state_dict(oracle, "weights"), tmp_path / "weights.safetensors"):
        for variable in model.variables:
            variable.assign(keras.ops.zeros_like(variable))
        model.load_torchvision(weights)
        np.testing.assert_allclose(model(oracle["images"]), oracle["logits"], rtol=1e-4, atol=1e-4)

    loss, gradients = loss_and_gradients(model, oracle["images"], oracle["labels"])
    np.testing.assert_allclose(loss, oracle["loss"], rtol=1e-5)
    model.load_torchvision(state_dict(oracle, "gradients"))  # with the same names and axes as the weights
    largest = {variable.path: np.abs(variable).max() for variable in model.trainable_variables}
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        # A bias of the keys adds the same to all scores of a query: its gradient is 0, up to rounding.
        scale = largest[variable.path.replace("key_bias", "query_bias")]
        error = np.abs(gradient - variable.numpy()).max() / scale
        assert error < 1e-4, f"{variable.path}: {error:.1e}"


@pytest.mark.parametrize("names", ["weights", "published"])
def test_transformers_weights_give_its_outputs_and_attentions(names, tmp_path):
    oracle = load_oracle("vit_transformers")
    model = ViT(**TINY, norm_epsilon=1e-12)
    write_safetensors(tmp_path / "weights.safetensors", state_dict(oracle, names))
    for weights in (state_dict(oracle, names), tmp_path / "weights.safetensors"):
        for variable in model.variables:
            variable.assign(keras.ops.zeros_like(variable))
        model.load_transformers(weights)
        np.testing.assert_allclose(model(oracle["images"]), oracle["logits"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(model.attentions(oracle["images"]), oracle["attentions"], rtol=1e-4, atol=1e-6)


def test_positions_for_another_image_size_are_those_of_the_references():
    larger = TINY | dict(image_shape=(40, 40, 3))
    oracle = load_oracle("vit_torchvision")
    model = ViT(**larger, **IMAGENET)
    model.load_torchvision(state_dict(oracle, "weights"))
    np.testing.assert_allclose(model(oracle["larger_images"]), oracle["larger_logits"], rtol=1e-4, atol=1e-4)

    oracle = load_oracle("vit_transformers")
    model = ViT(**larger, norm_epsilon=1e-12)
    model.load_transformers(state_dict(oracle, "published"))
    np.testing.assert_allclose(model(oracle["larger_images"]), oracle["larger_logits"], rtol=1e-4, atol=1e-4)

    small = ViT(**TINY, norm_epsilon=1e-12)
    small.load_transformers(state_dict(oracle, "published"))
    resized = small.resized((40, 40, 3))
    assert resized.get_config() == small.get_config() | dict(image_shape=(40, 40, 3))
    np.testing.assert_allclose(resized(oracle["larger_images"]), oracle["larger_logits"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("load", ["load_torchvision", "load_transformers"])
def test_a_grid_of_as_many_patches_takes_positions_as_they_are(load):
    """4 rows of 4 patches and 2 rows of 8 are both 16: the references do not resize those."""
    square = ViT(**TINY | dict(image_shape=(32, 32, 3)))
    oracle = load_oracle("vit_" + load.removeprefix("load_"))
    weights = state_dict(oracle, "weights")
    name = next(name for name in weights if "pos" in name)
    weights[name] = np.random.default_rng(0).normal(size=(1, 17, 16)).astype("float32")
    getattr(square, load)(weights)
    for shape in ((16, 64, 3), (64, 16, 3)):
        model = ViT(**TINY | dict(image_shape=shape))
        getattr(model, load)(weights)
        np.testing.assert_array_equal(model.get_layer("positions").positions, weights[name])
    # `resized` knows the grid.
    resized = square.resized((16, 64, 3)).get_layer("positions").positions
    np.testing.assert_array_equal(resized, resize_positions(weights[name], (2, 8), False, (4, 4)))
    assert np.abs(resized - weights[name]).max() > 0.1
    wide = model.resized((32, 32, 3)).resized((64, 16, 3)).get_layer("positions").positions
    assert wide.shape == (1, 17, 16)


def test_positions_of_a_grid_are_resized_along_its_axes():
    """Values by column stay so. A grid on its side gives a result on its side."""
    by_column = np.concatenate([[0.0], np.tile(np.arange(8.0) ** 2, 2)]).reshape(1, 17, 1)
    for align_corners in (False, True):
        found = resize_positions(by_column, (4, 16), align_corners, (2, 8))[0, 1:].reshape(4, 16)
        np.testing.assert_allclose(found, np.tile(found[:1], (4, 1)), rtol=1e-12)
        assert (np.diff(found[0, 1:-1]) > 0).all()

        grid = np.random.default_rng(0).normal(size=(2, 8, 3))
        lying, standing = (
            np.concatenate([np.ones((1, 1, 3)), x.reshape(1, 16, 3)], axis=1) for x in (grid, grid.swapaxes(0, 1))
        )
        lying = resize_positions(lying, (5, 6), align_corners, (2, 8))[0, 1:].reshape(5, 6, 3)
        standing = resize_positions(standing, (6, 5), align_corners, (8, 2))[0, 1:].reshape(6, 5, 3)
        np.testing.assert_allclose(lying, standing.swapaxes(0, 1), rtol=1e-12)


def test_resizing_keeps_constants_and_the_class_token():
    positions = np.concatenate([np.full((1, 1, 2), 7.0), np.full((1, 9, 2), 3.0)], axis=1)
    for align_corners in (False, True):
        resized = resize_positions(positions, (4, 7), align_corners)
        assert resized.shape == (1, 29, 2)
        np.testing.assert_allclose(resized[:, 0], 7)
        np.testing.assert_allclose(resized[:, 1:], 3, rtol=1e-12)
    assert resize_positions(positions, (3, 3), False) is positions
    with pytest.raises(ValueError, match="5 is not a square"):
        resize_positions(positions[:, :6], (2, 2), False)


@pytest.mark.parametrize("load", ["load_torchvision", "load_transformers"])
def test_weights_that_do_not_fit_change_nothing(load):
    oracle = load_oracle("vit_" + load.removeprefix("load_"))
    model = ViT(**TINY)
    before = [v.numpy() for v in model.variables]
    weights = state_dict(oracle, "weights")
    positions = next(name for name in weights if "pos" in name)
    weights[positions] = weights[positions][:, :8]
    lacking = next(name for name in weights if name.endswith("in_proj_bias") or name.endswith("k_proj.bias"))
    del weights[lacking]
    with pytest.raises(ValueError, match=rf"missing: {lacking}") as caught:
        getattr(model, load)(weights)
    assert f"of another shape: {positions} is (1, 8, 16)" in str(caught.value)
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, variable)


def test_all_of_it_runs_on_an_npu(tmp_path):
    """Normalisation, attention and GELU are made of what Vela and the Ethos-U55 take."""
    model = ViT(**TINY, norm_epsilon=1e-12)
    model.load_transformers(state_dict(load_oracle("vit_transformers"), "weights"))  # int8 fits them, not any draw
    images = np.random.default_rng(1).integers(0, 256, (8, 24, 24, 3)).astype("uint8")
    report = export(
        model, tmp_path / "vit.tflite", quantization="int8", target="ethos-u55-128", calibration=[{"images": images}]
    )
    assert report.target_report["cpu_ops"] == []
    assert report.tensors["float_ops"] == []
    assert report.ops["GELU"] == TINY["num_layers"]


def test_attention_starts_as_in_the_papers_code():
    """Glorot's deviation of each matrix `(width, width)`: of queries, keys, values and outputs alike."""
    block = ViTBlock(num_heads=4, mlp_dim=8)
    block.build((None, 5, 64))
    for name in ("query", "key", "value", "output"):
        deviation = np.std(getattr(block.attention, f"{name}_kernel"))
        np.testing.assert_allclose(deviation, 64**-0.5, rtol=0.05)


def test_trains_equally_under_xla():
    images = np.random.default_rng(0).integers(0, 256, (8, 24, 24, 3)).astype("float32")
    losses = []
    for jit_compile in (False, True):
        keras.utils.set_random_seed(1)
        model = ViT(**TINY)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(1e-3), loss, jit_compile=jit_compile)
        losses.append(model.fit(images, np.arange(8) % 5, epochs=3, shuffle=False, verbose=0).history["loss"])
    assert losses[0][2] < losses[0][0]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def test_logits_start_at_zero():
    images = np.random.default_rng(0).integers(0, 256, (2, 24, 24, 3))
    np.testing.assert_array_equal(ViT(**TINY)(images), np.zeros((2, 5)))


def test_without_positions_the_patches_are_a_set():
    """Swapping patches swaps nothing in the logits; positions are all that tells their order."""
    model = ViT(**TINY)
    model.get_layer("head").kernel.assign(np.random.default_rng(0).normal(size=(16, 5)))
    images = np.random.default_rng(1).integers(0, 256, (2, 24, 24, 3)).astype("float32")
    swapped = np.concatenate([images[:, 8:], images[:, :8]], axis=1)
    assert np.abs(model(images) - model(swapped)).max() > 1e-3
    positions = model.get_layer("positions").positions
    positions.assign(keras.ops.zeros_like(positions))
    np.testing.assert_allclose(model(images), model(swapped), atol=1e-5)


def test_rollout_on_known_attentions():
    """Uniform attention in each of two layers: A = (1/n + I)/2, and A A = (3/n + I)/4."""
    n = 5
    uniform = np.full((1, 3, n, n), 1 / n, "float32")
    np.testing.assert_allclose(attention_rollout([uniform, uniform])[0], (3 / n + np.eye(n)) / 4, rtol=1e-6)


def test_rollout_follows_the_order_of_the_layers():
    """Token 1 looks at 2 in the first layer, and 0 at 1 in the second: 0 saw a quarter of 2. Not so the other way."""
    first, second = np.eye(3, dtype="float32"), np.eye(3, dtype="float32")
    first[1], second[0] = [0, 0, 1], [0, 1, 0]
    layers = [x[None, None] for x in (first, second)]
    assert attention_rollout(layers)[0][0, 2] == 0.25
    assert attention_rollout(layers[::-1])[0][0, 2] == 0


def test_attention_map_is_the_class_tokens_share_of_each_patch():
    oracle = load_oracle("vit_transformers")
    model = ViT(**TINY, norm_epsilon=1e-12)
    model.load_transformers(state_dict(oracle, "weights"))
    expected = np.eye(10)
    for attention in oracle["attentions"]:
        expected = (0.5 * attention.mean(1) + 0.5 * np.eye(10)) @ expected
    np.testing.assert_allclose(expected.sum(-1), 1, rtol=1e-6)
    found = model.attention_map(oracle["images"])
    np.testing.assert_allclose(found, expected[:, 0, 1:].reshape(2, 3, 3), rtol=1e-4)
