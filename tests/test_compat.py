"""The private parts of TensorFlow and Keras do what `keras_dl.compat` says of them."""

import keras
import pytest
import tensorflow as tf

from keras_dl import compat

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
