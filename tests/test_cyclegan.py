"""CycleGAN: counts, the receptive field, the history of images, the schedule, and a step of the authors' nets."""

import keras
import numpy as np
import pytest

from keras_dl.layers import InstanceNormalization

# Instance normalization.


def maps(shape=(3, 5, 4, 2), seed=0):
    return np.random.default_rng(seed).normal(2.0, 3.0, shape).astype("float32")


@pytest.mark.parametrize("affine", [False, True])
def test_instance_normalization_is_its_formula(affine):
    x = maps()
    layer = InstanceNormalization(epsilon=0.1, affine=affine)
    layer.build(x.shape)
    expected = (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 0.1)
    if affine:
        layer.gamma.assign([2.0, -1.0])
        layer.beta.assign([0.5, 3.0])
        expected = expected * [2.0, -1.0] + [0.5, 3.0]
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-5)
    assert len(layer.weights) == 2 * affine
    assert InstanceNormalization.from_config(layer.get_config()).get_config() == layer.get_config()


def test_instance_normalization_forgets_contrast_and_brightness():
    """Of each image and channel alone: so of what a generator sees, only the pattern matters."""
    x = maps()
    change = np.array([2.0, 0.5, 7.0], "float32")[:, None, None, None]
    layer = InstanceNormalization()
    np.testing.assert_allclose(layer(x * change + change), layer(x), atol=1e-4)
    np.testing.assert_allclose(layer(x)[:1], layer(x[:1]), atol=1e-6)


def test_instance_normalization_refuses_a_single_pixel():
    with pytest.raises(ValueError, match=r"images has the shape \(3, 1, 1, 2\); .* at least two pixels"):
        InstanceNormalization()(np.zeros((3, 1, 1, 2), "float32"))
    with pytest.raises(ValueError, match=r"images has the shape \(3, 2\)"):
        InstanceNormalization()(np.zeros((3, 2), "float32"))
    with pytest.raises(ValueError, match="epsilon=0 must be"):
        InstanceNormalization(epsilon=0)
    assert np.isfinite(InstanceNormalization()(np.ones((1, 1, 2, 1), "float32"))).all()


def test_instance_normalization_in_half_precision_has_statistics_in_float32():
    x = maps((1, 64, 64, 2)) * 100 + 1000  # whose squares no float16 holds
    found = InstanceNormalization(dtype="mixed_float16")(x)
    assert keras.backend.standardize_dtype(found.dtype) == "float16"
    np.testing.assert_allclose(found, InstanceNormalization()(x.astype("float16").astype("float32")), atol=4e-3)
