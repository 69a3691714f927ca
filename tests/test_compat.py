"""The private parts of TensorFlow and Keras do what `keras_dl.compat` says of them."""

import contextlib
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dl import compat
from keras_dl.export import graph

VERSIONS = f"with TensorFlow {tf.__version__} and Keras {keras.__version__}"


def test_is_eager():
    assert compat.is_eager(tf.constant(1)), VERSIONS
    assert not compat.is_eager(keras.KerasTensor((1,))), VERSIONS
    seen = []
    tf.function(lambda x: seen.append(compat.is_eager(x)))(tf.constant(1))
    assert seen == [False], VERSIONS


def test_is_recording():
    assert not compat.is_recording(), VERSIONS
    with tf.GradientTape() as tape:
        assert compat.is_recording(), VERSIONS
        with tape.stop_recording():
            assert not compat.is_recording(), VERSIONS


@pytest.mark.parametrize("compiled", [True, False])
def test_in_xla(compiled):
    seen = []

    @tf.function(jit_compile=compiled)
    def traced(x):
        seen.append(compat.in_xla())
        return tf.while_loop(lambda i: i < 1, lambda i: (seen.append(compat.in_xla()), i + 1)[1:], (x,))

    traced(tf.constant(0))
    assert len(seen) >= 2, VERSIONS
    assert set(seen) == {compiled}, VERSIONS


@pytest.mark.parametrize("mixins", [(), (compat.NoDropoutMasksInInference,)])
def test_dropout_masks_in_inference(mixins):
    """Keras draws them, and advances the state of its generator; with the mixin nothing is drawn."""
    layer = type("Layer", (*mixins, keras.layers.LSTM), {})(2, dropout=0.5, seed=1)
    layer.build((1, 3, 2))
    before = layer.cell.seed_generator.state.numpy()
    layer(tf.ones((1, 3, 2)), training=False)
    assert (before == layer.cell.seed_generator.state.numpy()).all() == bool(mixins), VERSIONS


def test_layers_inside_a_layer():
    class Outer(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.first = keras.layers.Dense(1)
            self.rest = [keras.layers.ReLU(), keras.Sequential([keras.layers.Dense(2)])]

    outer = Outer()
    assert compat.inner_layers(outer) == [outer.first, *outer.rest], VERSIONS
    assert compat.all_layers(outer)[0] is outer, VERSIONS
    assert set(compat.all_layers(outer)) >= {outer.first, *outer.rest, outer.rest[1].layers[0]}, VERSIONS


def test_path_of_a_layer_in_a_file(tmp_path):
    paths = []

    class Dense(keras.layers.Dense):
        def load_own_variables(self, store):
            paths.append((compat.saved_path(store), store.has_path("layers/dense")))
            super().load_own_variables(store)

    model = keras.Sequential([keras.Input((2,)), Dense(1)])
    model.save_weights(tmp_path / "model.weights.h5")
    model.load_weights(tmp_path / "model.weights.h5")
    assert paths == [("layers/dense", True)], VERSIONS
    assert compat.saved_path({}) is None


def test_variables_of_a_renamed_class(tmp_path):
    class Old(keras.layers.Dense):
        pass

    class New(keras.layers.Dense):
        def load_own_variables(self, store):
            super().load_own_variables(store if len(store) else compat.variables_of_class(store, "old"))

    def model(layer):
        return keras.Sequential([keras.Input((2,)), layer(2), layer(1, bias_initializer="ones")])

    path = tmp_path / "old.weights.h5"
    before, after = model(Old), model(New)
    before.save_weights(path)
    after.load_weights(path)
    for a, b in zip(after.get_weights(), before.get_weights(), strict=True):
        assert (a == b).all(), VERSIONS


@pytest.mark.parametrize("apart", [False, True])
def test_shared_objects(apart):
    """What Keras shares while it loads a file, it does not share in the block, and shares again after it."""
    config = keras.saving.serialize_keras_object(keras.layers.ReLU()) | {"shared_object_id": 1}
    with keras.src.saving.serialization_lib.ObjectSharingScope():
        first = keras.saving.deserialize_keras_object(config)
        with compat.no_shared_objects() if apart else contextlib.nullcontext():
            second = keras.saving.deserialize_keras_object(config)
        assert (second is not first) == apart, VERSIONS
        assert keras.saving.deserialize_keras_object(config) is first, VERSIONS


def test_renamed_variables():
    """TensorFlow saves a variable by the name that it has in the block, and it has its own name again after it."""
    layer = keras.layers.Dense(1, name="a b")
    layer.build((None, 2))
    plain, odd = tf.Variable(1.0, name="plain"), layer.kernel.value
    with compat.renamed([plain, odd], lambda name: name.replace(" ", "_")):
        assert odd.name == "a_b/kernel:0", VERSIONS
        assert plain.name == "plain:0", VERSIONS
    assert odd.name == "a b/kernel:0", VERSIONS


def _converter():
    function = tf.function(lambda x: tf.matmul(x, tf.ones((4, 4)), name="product"), autograph=False)
    concrete = function.get_concrete_function(x=tf.TensorSpec((1, 4)))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: [[tf.ones((1, 4))]]
    return converter


def test_a_change_before_quantization():
    converter, seen = _converter(), []
    compat.change_before_quantizing(converter, lambda content: seen.append(content) or content)
    content = converter.convert()
    (before,) = seen
    assert graph.parse(before).ops[0].inputs[0].dtype == "float32", VERSIONS
    assert "int8" in {x.dtype for op in graph.parse(content).ops for x in op.outputs}, VERSIONS


def test_a_calibrated_file_is_quantized_except_some_ops():
    converter = _converter()
    setattr(converter, compat.CALIBRATE_ONLY, True)
    calibrated = converter.convert()
    (op,) = graph.parse(calibrated).ops
    assert op.outputs[0].dtype == "float32", VERSIONS
    for nodes, dtype in (([], "int8"), ([op.outputs[0].name], "float32")):
        ops = graph.parse(compat.quantize_calibrated(calibrated, tf.int8, nodes)).ops
        (product,) = [x for x in ops if x.name == "FULLY_CONNECTED"]
        assert product.outputs[0].dtype == dtype, VERSIONS
        assert ops[0].inputs[0].dtype == "int8", VERSIONS


def test_bare_operations():
    x = keras.Input((4,), name="x")
    inner = keras.Model(x, keras.ops.tanh(keras.layers.Dense(2, name="dense")(x)))
    y = keras.Input((4,), name="y")
    model = keras.Model(y, keras.ops.add(inner(y), 1.0))
    operations = compat.bare_operations(model)
    assert [type(x).__name__ for x in operations] == ["Add", "Tanh"], VERSIONS
    assert [x.name for x in compat.operations_before(operations[1])] == ["dense"], VERSIONS
    with compat.in_named_scopes(operations, lambda name: f"{name}.call"):
        concrete = tf.function(model).get_concrete_function(tf.TensorSpec((1, 4)))
    names = [op.name for op in concrete.graph.get_operations() if op.type in ("Tanh", "AddV2")]
    assert [name.split("/")[-2] for name in names] == [f"{x.name}.call" for x in reversed(operations)], VERSIONS
    assert not any("call" in vars(x) for x in operations)


@pytest.mark.parametrize("axis", [None, 0, -1])
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int32"])
def test_plain_argmax(axis, keepdims, dtype):
    x = keras.ops.cast([[1, 3, 2], [0, 3, 5]], dtype)
    expected = [f(x, axis=axis, keepdims=keepdims) for f in (keras.ops.argmax, keras.ops.argmin)]
    with compat.plain_argmax():
        found = [f(x, axis=axis, keepdims=keepdims) for f in (keras.ops.argmax, keras.ops.argmin)]
        concrete = tf.function(keras.ops.argmax).get_concrete_function(tf.TensorSpec((2, 3)))
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype == tf.int32, VERSIONS
        assert a.shape == b.shape
        assert bool(tf.reduce_all(a == b))
    assert not [op.type for op in concrete.graph.get_operations() if op.type in ("Bitcast", "BitwiseAnd", "SelectV2")]


def test_without_xla():
    held = tf.Variable([2.0, 3.0])

    @tf.function(jit_compile=True)
    def compiled(x):
        return x * held

    specs = [tf.TensorSpec((2,), name="x")]
    concrete = tf.function(lambda x: {"y": compiled(x) + compiled(x + 1.0)}).get_concrete_function(*specs)
    plain = compat.without_xla(concrete, specs)
    definition = plain.graph.as_graph_def()
    nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
    assert not any("_XlaMustCompile" in node.attr for node in nodes), VERSIONS
    x = tf.constant([1.0, 5.0])
    assert bool(tf.reduce_all(plain(x)["y"] == concrete(x)["y"])), VERSIONS
    other = tf.function(lambda x: {"y": x + 1.0}).get_concrete_function(*specs)
    assert compat.without_xla(other, specs) is other


@pytest.mark.parametrize("name", ["saved_model.pb", "saved_model.pbtxt"])
def test_a_saved_model_is_read_without_loading_it(tmp_path, name):
    """From the file that TensorFlow loads: the binary one if there are both."""
    module = tf.Module()
    module.square = tf.function(tf.square, input_signature=[tf.TensorSpec(())])
    tf.saved_model.save(module, tmp_path)
    proto = compat.saved_model_proto(tmp_path)
    (tmp_path / "saved_model.pbtxt").write_text(str(proto) if name.endswith("pbtxt") else "")
    if name.endswith("pbtxt"):
        (tmp_path / "saved_model.pb").unlink()
    (graph,) = compat.saved_model_proto(tmp_path).meta_graphs
    nodes = [node.op for function in graph.graph_def.library.function for node in function.node_def]
    assert "Square" in nodes, VERSIONS
    assert tf.saved_model.load(str(tmp_path)).square(3.0) == 9, VERSIONS


@pytest.mark.parametrize("sequential", [True, False])
def test_taking_other_dtypes(sequential):
    inner = keras.Sequential([keras.Input((3,), dtype="uint8"), keras.layers.Rescaling(0.5)])
    x = keras.Input((3,), dtype="uint8")
    model = inner if sequential else keras.Model(x, inner(x))
    with compat.taking(model, {"uint8": "float32"}):
        concrete = tf.function(lambda x: model(x)).get_concrete_function(tf.TensorSpec((1, 3), "float32"))
    assert "Cast" not in {node.op for node in concrete.graph.as_graph_def().node}, VERSIONS
    assert model(np.array([[1.9, 2.0, 3.0]])).numpy().tolist() == [[0.5, 1.0, 1.5]], VERSIONS


def test_plain_lookups():
    table = keras.layers.Embedding(4, 2)
    expected = table(np.array([1, 3]))
    with compat.plain_lookups():
        concrete = tf.function(table).get_concrete_function(tf.TensorSpec((2,), "int32"))
    assert not {"SelectV2", "Less"} & {node.op for node in concrete.graph.as_graph_def().node}, VERSIONS
    np.testing.assert_array_equal(concrete(np.array([1, 3], "int32")), expected)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_bounded_masks(dropout):
    """The same attention without large numbers. A mask that is given, and one that is known when the graph is made."""
    layer = keras.layers.MultiHeadAttention(2, 3, dropout=dropout)
    x = np.random.default_rng(0).normal(size=(1, 5, 4)).astype("float32")
    mask = np.tri(5, dtype="bool")[None]

    def attend(options, x):
        return layer(x, x, **options)

    for options in ({"use_causal_mask": True}, {"attention_mask": mask}):
        expected = layer(x, x, **options)
        with compat.bounded_masks():
            concrete = tf.function(functools.partial(attend, options)).get_concrete_function(tf.TensorSpec(x.shape))
        nodes = concrete.graph.as_graph_def().node
        values = [tf.make_ndarray(node.attr["value"].tensor) for node in nodes if node.op == "Const"]
        assert min(value.min() for value in values if value.dtype == "float32") > -100, VERSIONS
        np.testing.assert_allclose(concrete(tf.constant(x)), expected, atol=1e-6)


def test_number_of_a_variable():
    """Also of the variable of TensorFlow, which an update step gets."""
    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    optimizer = keras.optimizers.Adam()
    optimizer.build(layer.trainable_variables)
    for i, variable in enumerate(layer.trainable_variables):
        assert compat.variable_index(optimizer, variable) == i, VERSIONS
        assert compat.variable_index(optimizer, variable.value) == i, VERSIONS
