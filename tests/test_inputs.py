"""Inputs of other names, shapes and dtypes: an error that names them, in a call, in fit and in predict."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_dl
from keras_dl import graphs
from keras_dl.inputs import as_integers
from keras_dl.layers.norm import BatchNormalization

IDS = np.array([[5, 7, 3], [4, 8, 2]], "int32")
PAIR = {"source": IDS, "target": IDS}
SIZES = dict(num_layers=1, hidden_dim=8, mlp_dim=8, num_heads=2, dropout_rate=0.0)
LOGITS_LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
GRAPH = graphs.pad([graphs.Graph(np.ones((3, 4)), [[0, 1], [1, 0]])] * 2)


def reading_models():
    """Each model that reads tokens, with its inputs and the name of those that are changed."""
    return (
        (keras_dl.Transformer(9, source_length=6, target_length=6, **SIZES), PAIR, "source"),
        (keras_dl.Seq2Seq(9, 9, 4, 4), PAIR, "target"),
        (keras_dl.TransformerEncoder(9, 8, **SIZES), {"tokens": IDS}, "tokens"),
        (keras_dl.TransformerEncoder(9, 8, **SIZES), {"tokens": IDS, "segments": IDS % 2}, "segments"),
        (keras_dl.TransformerLM(9, 8, **SIZES), IDS, "tokens"),
        (keras_dl.RecurrentLM(9, 4, hidden_dims=(4,)), IDS, "tokens"),
        (keras_dl.NodeClassifier(4, 2), GRAPH, "edges"),
    )


def changed(inputs, name, change):
    return inputs | {name: change(inputs[name])} if isinstance(inputs, dict) else change(inputs)


def test_floats_are_no_ids():
    """5.9 would be cut down to 5 without a word."""
    for model, inputs, name in reading_models():
        bad = changed(inputs, name, lambda x: x + np.float32(0.9))
        for call in (model, lambda x, m=model: m.predict(x, verbose=0), lambda x, m=model: tf.function(m)(x)):
            with pytest.raises(ValueError, match=rf"{name} has the dtype float(32|64); it must be int"):
                call(bad)


def test_fit_refuses_floats_before_it_casts_them():
    for model, data in (
        (keras_dl.Transformer(9, source_length=6, target_length=6, **SIZES), (PAIR, IDS)),
        (keras_dl.Seq2Seq(9, 9, 4, 4), (PAIR,)),
        (keras_dl.NodeClassifier(4, 2), (GRAPH, np.zeros((2, 3)))),
    ):
        model.compile("sgd", LOGITS_LOSS)
        name = "edges" if "edges" in data[0] else "source"
        with pytest.raises(ValueError, match=f"{name} has the dtype float"):
            model.fit(changed(data[0], name, lambda x: x + 0.9), *data[1:], verbose=0)


def test_ids_beyond_int32_are_not_those_that_a_cast_makes_of_them():
    for model, inputs, name in reading_models():
        far = changed(inputs, name, lambda x: x.astype("int64") + 2**32)
        with pytest.raises(ValueError, match=f"{name} holds.* (4294967|1099)"):
            model(far)


@pytest.mark.parametrize("jit", [False, True])
def test_a_graph_reads_an_id_beyond_int32_as_padding(jit):
    for model in (keras_dl.TransformerLM(9, 8, **SIZES), keras_dl.RecurrentLM(9, 4, hidden_dims=(4,))):
        graph = tf.function(model, jit_compile=jit)
        for dtype in ("int64", "uint64"):
            far = IDS.astype(dtype)
            far[0, 1] += 2**32
            padded = IDS.copy()
            padded[0, 1] = 0
            np.testing.assert_allclose(graph(tf.constant(far)), model(padded), rtol=1e-5, atol=1e-6)


def test_whole_numbers_become_int32():
    for dtype in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"):
        found = as_integers("x", IDS.astype(dtype))
        np.testing.assert_array_equal(found, IDS)
        assert found.dtype == "int32"
    lowest, highest = np.iinfo("int32").min, np.iinfo("int32").max
    extremes = tf.function(lambda x: as_integers("x", x))(tf.constant([-(2**40), lowest, highest, 2**40], "int64"))
    np.testing.assert_array_equal(extremes, [lowest, lowest, highest, highest])
    # Of a vocabulary larger than the dtype of the ids.
    model = keras_dl.TransformerLM(1000, 8, **SIZES)
    np.testing.assert_array_equal(model(IDS.astype("uint8")), model(IDS))


def test_edges_are_checked_by_the_values_that_were_given():
    for edges, message in (
        ([(0, 2**40)], "edges holds 1099511627776, which is beyond int32"),
        ([(0.5, 1)], "edges has the shape .* dtype float64; it must be .* of int"),
    ):
        with pytest.raises(ValueError, match=message):
            graphs.undirected(edges)
        with pytest.raises(ValueError, match="edges"):
            graphs.Graph(np.ones((2, 1)), edges).check()
    with pytest.raises(ValueError, match="edges has the dtype float64; it must be int"):
        graphs.check(GRAPH | {"edges": GRAPH["edges"] + 0.5})


def test_one_row_is_not_spread_over_others():
    for model, inputs, name in reading_models():
        if not isinstance(inputs, dict) or len(inputs) == 1:
            continue
        with pytest.raises(ValueError, match=r"number of rows; they have|must be that of the tokens"):
            model(changed(inputs, name, lambda x: x[:1]))


def test_names_that_a_model_does_not_take_are_refused():
    series = keras_dl.RecurrentNetwork(2, 3, hidden_dims=(4,), masked=True)
    inputs = {"features": np.ones((2, 5, 2)), "mask": np.ones((2, 5))}
    # Keras takes inputs in the order of their names, and `attention_mask` is the first.
    for given in (inputs | {"attention_mask": inputs["mask"]}, {"features": inputs["features"]}):
        with pytest.raises(ValueError, match=r"inputs has the keys .*; it must have 'features', 'mask'"):
            series(given)
    for given in ({"input_ids": IDS}, {"tokens": IDS, "attention_mask": IDS}, {"tokens": IDS, "token_type_ids": IDS}):
        encoder = keras_dl.TransformerEncoder(9, 8, **SIZES)
        for call in (encoder, encoder.encode, lambda x, m=encoder: m.predict(x, verbose=0)):
            with pytest.raises(
                ValueError, match=r"must have 'tokens', and may have 'mask', 'segments'.*attention_mask"
            ):
                call(given)
    with pytest.raises(ValueError, match=r"inputs must be a dict of 'source' and 'target', not a dict of .*'mask'"):
        keras_dl.Transformer(9, source_length=6, target_length=6, **SIZES)(PAIR | {"mask": IDS})


def test_an_axis_of_one_is_not_spread():
    """Keras takes gray images for images of colors, and one feature for several."""
    resnet = keras_dl.ResNet((8, 8, 3), 2, num_blocks=(1,), filters=(4,), stem="cifar", block="basic")
    gray = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1)).astype("float32")
    resnet.compile("sgd", LOGITS_LOSS)
    for call in (resnet, lambda x: resnet.predict(x, verbose=0), lambda x: resnet.fit(x, np.zeros(2), verbose=0)):
        with pytest.raises(ValueError, match=r"images has the shape .*1\); it must be \(batch, 8, 8, 3\).*np.repeat"):
            call(gray)
    np.testing.assert_array_equal(resnet(np.repeat(gray, 3, axis=-1)), resnet(np.concatenate([gray] * 3, axis=-1)))
    with pytest.raises(ValueError, match=r"features has the shape \(2, 1\); it must be \(batch, 4\)\.$"):
        keras_dl.MLP(4, 2)(np.ones((2, 1)))
    # What Keras adds and drops is no other value.
    one_channel = keras_dl.MLP((4, 4, 1), 2)
    image = np.random.default_rng(0).normal(size=(2, 4, 4, 1))
    np.testing.assert_array_equal(one_channel(image[..., 0]), one_channel(image))


def test_adapting_to_other_columns_is_refused():
    """Five columns read as four would mix them."""
    series = keras_dl.RecurrentNetwork(4, 2, hidden_dims=(3,))
    for features, mask in (
        (np.ones((4, 8, 5)), None),
        (np.ones((4, 8)), None),
        (np.ones((4, 8, 4)), np.ones((4, 7), bool)),
        (np.ones((4, 8, 5)), np.ones((4, 8), bool)),
    ):
        with pytest.raises(ValueError, match="num_features=4"):
            series.adapt(features, mask)
    table, image = keras_dl.MLP(4, 2, task="regression"), keras_dl.MLP((4, 4, 3), 2)
    for features, targets, message in (
        (np.ones((6, 5)), np.ones((6, 2)), r"features has the shape \(6, 5\); it must be n rows of feature_shape=4"),
        (np.ones((6, 4)), np.ones((6, 3)), r"targets has the shape \(6, 3\); it must be n rows of num_outputs=2"),
        (np.ones((6, 4)), np.ones(6), r"targets has the shape \(6,\)"),
    ):
        for rows in ((features, targets), (tf.data.Dataset.from_tensor_slices((features, targets)).batch(3),)):
            with pytest.raises(ValueError, match=message.replace("(6", "(.*")):
                table.adapt(*rows)
    with pytest.raises(ValueError, match=r"feature_shape=\(4, 4, 3\)"):
        image.adapt(np.ones((2, 5, 5, 3)))


def test_batch_normalization_trains_in_float64():
    layers = [keras.Input((4, 4, 2), dtype="float64"), BatchNormalization(dtype="float64")]
    x = np.random.default_rng(0).normal(3, 2, (8, 4, 4, 2))
    model = keras.Sequential(layers)
    found = model(x, training=True)
    assert found.dtype == "float64"
    np.testing.assert_allclose(found, (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5), rtol=1e-12)
    model.compile("sgd", "mse")
    assert np.isfinite(model.fit(x, x, verbose=0).history["loss"]).all()
