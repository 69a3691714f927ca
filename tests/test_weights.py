"""Torch's layouts against what the layers compute, and the safetensors format."""

import json

import keras
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from oracles import load_oracle, state_dict
from scipy import signal

from keras_dl import ResNet
from keras_dl.files import FileError
from keras_dl.weights import load_torch, read_safetensors


def arrays(*shapes):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype("float32") for shape in shapes]


def correlate(image, kernel):
    """2-D correlation of `(channels, h, w)` with `(channels, h, w)`, as torch defines its convolution."""
    return sum(signal.correlate2d(a, b, mode="valid") for a, b in zip(image, kernel, strict=True))


def test_convolution():
    weight, bias, image = arrays((5, 3, 2, 4), (5,), (3, 6, 7))
    layer = keras.layers.Conv2D(5, (2, 4))
    layer.build((None, 6, 7, 3))
    load_torch({"conv": layer}, {"conv.weight": weight, "conv.bias": bias})
    expected = np.stack([correlate(image, kernel) + b for kernel, b in zip(weight, bias, strict=True)], axis=-1)
    np.testing.assert_allclose(layer(image.transpose(1, 2, 0)[None])[0], expected, rtol=1e-4, atol=1e-5)


def test_depthwise_convolution():
    weight, bias, image = arrays((6, 1, 2, 3), (6,), (3, 5, 6))
    layer = keras.layers.DepthwiseConv2D((2, 3), depth_multiplier=2)
    layer.build((None, 5, 6, 3))
    load_torch({"conv": layer}, {"conv.weight": weight, "conv.bias": bias})
    # torch: group g of one input channel gives the output channels 2g and 2g + 1
    expected = np.stack([correlate(image[i // 2 : i // 2 + 1], weight[i]) + bias[i] for i in range(6)], axis=-1)
    np.testing.assert_allclose(layer(image.transpose(1, 2, 0)[None])[0], expected, rtol=1e-4, atol=1e-5)


def test_transposed_convolution():
    """torch: each input pixel adds its kernel, `weight[in, out]`, to the output."""
    weight, bias, image = arrays((3, 4, 2, 2), (4,), (3, 5, 6))
    layer = keras.layers.Conv2DTranspose(4, 2, strides=2)
    layer.build((None, 5, 6, 3))
    load_torch({"conv": layer}, {"conv.weight": weight, "conv.bias": bias})
    expected = np.einsum("ihw,iokl->hkwlo", image, weight).reshape(10, 12, 4) + bias
    np.testing.assert_allclose(layer(image.transpose(1, 2, 0)[None])[0], expected, rtol=1e-4, atol=1e-5)


def test_dense_after_flattened_maps():
    weight, bias, maps = arrays((5, 3 * 2 * 4), (5,), (3, 2, 4))
    layer = keras.layers.Dense(5)
    layer.build((None, 24))
    load_torch({"fc": layer}, {"fc.weight": weight, "fc.bias": bias}, flattened={"fc": (2, 4, 3)})
    expected = weight @ maps.ravel() + bias
    np.testing.assert_allclose(layer(maps.transpose(1, 2, 0).reshape(1, 24))[0], expected, rtol=1e-4, atol=1e-5)


def test_normalisation_and_embedding():
    layers = {"bn": keras.layers.BatchNormalization(), "ln": keras.layers.LayerNormalization()}
    for layer in layers.values():
        layer.build((None, 3))
    layers["table"] = keras.layers.Embedding(7, 3)
    layers["table"].build()
    names = ("bn.weight", "bn.bias", "bn.running_mean", "bn.running_var", "ln.weight", "ln.bias")
    weights = dict(zip(names, arrays(*[(3,)] * 6), strict=True))
    (weights["table.weight"],) = arrays((7, 3))
    load_torch(layers, weights | {"bn.num_batches_tracked": np.array(9)})
    for found, expected in zip([v for x in layers.values() for v in x.weights], weights.values(), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_layer_without_counterpart_is_named():
    layer = keras.layers.PReLU(name="slope")
    layer.build((None, 3))
    with pytest.raises(ValueError, match="layer='slope' has a weight 'alpha'"):
        load_torch({"act": layer}, {})


# safetensors.


def write_safetensors(path, tensors, **header_overrides):
    header, start = {"__metadata__": {"format": "pt"}}, 0
    names = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "bool": "BOOL"}
    for name, x in tensors.items():
        header[name] = {"dtype": names[x.dtype.name], "shape": x.shape, "data_offsets": [start, start + x.nbytes]}
        start += x.nbytes
    header = json.dumps(header | header_overrides).encode()
    data = b"".join(x.tobytes() for x in tensors.values())
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def test_a_resnet_from_a_safetensors_file(tmp_path):
    oracle = load_oracle("resnet_basic")
    path = tmp_path / "model.safetensors"
    write_safetensors(path, state_dict(oracle))
    models = [
        ResNet((45, 38, 3), 5, (2, 1, 1, 1), (4, 6, 8, 10), block="basic", mean=0.0, std=1.0, name="net")
        for _ in range(2)
    ]
    models[0].load_torchvision(path)
    models[1].load_torchvision(state_dict(oracle))
    for a, b in zip(models[0].variables, models[1].variables, strict=True):
        np.testing.assert_array_equal(a, b)


@given(
    st.dictionaries(
        st.text(min_size=1).filter(lambda name: name != "__metadata__"),
        st.sampled_from([np.float32, np.float16, ml_dtypes.bfloat16, np.int64, np.bool_]).flatmap(
            lambda dtype: st_numpy.arrays("int8", st_numpy.array_shapes(min_dims=0, max_dims=3)).map(
                lambda x: np.asarray(x).astype(dtype)
            )
        ),
        max_size=4,
    )
)
@settings(max_examples=50, deadline=None)
def test_safetensors_round_trip(tmp_path_factory, tensors):
    path = tmp_path_factory.mktemp("safetensors") / "x.safetensors"
    write_safetensors(path, tensors)
    found = read_safetensors(path)
    assert found.keys() == tensors.keys()
    for name, x in tensors.items():
        assert (found[name].dtype, found[name].shape) == (x.dtype, x.shape)
        np.testing.assert_array_equal(found[name], x)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"abc", "it has 3 bytes"),
        (b"\xff" * 16, "its header would be"),
        ((4).to_bytes(8, "little") + b"oops", "its header cannot be read: it is not JSON \\(Expecting value"),
        ((2).to_bytes(8, "little") + b"[]", "its header cannot be read: it holds no JSON object"),
        ((9).to_bytes(8, "little") + b'{"a": {}}', "its tensor 'a' cannot be read: KeyError 'dtype'"),
        ((90_005).to_bytes(8, "little") + b'{"a":' + b"[" * 90_000, "its header cannot be read: "),
        (b"PK\x03\x04" + bytes(20), r"a zip file\. A checkpoint of torch .*weights_only=True"),
        (b"\x80\x02}q\x00(X\x06" + bytes(20), r"a pickle, .*can run code.*safetensors\.torch\.save_file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(20), "an HDF5 file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
    ],
)
def test_a_foreign_file_is_refused(tmp_path, content, message):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(FileError, match=rf"x\.safetensors is .*{message}"):
        read_safetensors(path)


def test_a_folder_stands_for_the_weights_in_it(tmp_path):
    with pytest.raises(FileError, match=r"is a folder without model\.safetensors"):
        read_safetensors(tmp_path)
    write_safetensors(tmp_path / "model.safetensors", {"w": np.ones(2, "float32")})
    np.testing.assert_array_equal(read_safetensors(tmp_path)["w"], [1, 1])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}, "'w' of dtype F8_E4M3"),
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}, r"'w' .*\(3,\) does not fit its bytes \[0, 8\)"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}, r"does not fit its bytes \[4, 12\) of 8"),
        ({"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}, "must be natural numbers"),
        ({"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]}, "must be natural numbers"),
        ({"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}, "'w' cannot be read: unhashable type"),
        ({"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}, "'w' cannot be read"),
        (7, "'w' cannot be read"),
    ],
)
def test_a_damaged_header_is_refused(tmp_path, row, message):
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"w": np.zeros(2, "float32")}, w=row)
    with pytest.raises(FileError, match=rf"x\.safetensors .*{message}"):
        read_safetensors(path)
