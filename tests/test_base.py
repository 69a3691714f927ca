"""The base classes: models from inputs and outputs, and what users change in the layers inside a model.

Frozen layers, dtype policies, quantized layers and low-rank adapters must survive a file, a copy and a config.
"""

import copy

import keras
import numpy as np
import pytest
from cases import CASES

import keras_dl
from keras_dl import sublayers
from keras_dl.arguments import Size, arguments
from keras_dl.models.vision.classifier import ImageClassifier
from keras_dl.models.vision.convnext import ConvNeXtBlock
from keras_dl.models.vision.resnet import ResidualBlock

MODELS = ["resnet_basic", "mlp_classifier", "vit", "gru_network", "seq2seq_attention", "transformer_encoder"]
WAYS = ["saved", "copied", "configured"]


def _case(name):
    (case,) = (case for case in CASES if case.name == name)
    return case


def _built(name, **overrides):
    """A tiny model of the case, built, and four of its inputs."""
    case = _case(name)
    model = case.create(**overrides)
    x, _ = case.data(4)
    model(x)
    return model, x


def _through(model, way, folder, x=None):
    """The model after a file, a deep copy, or a config (with the weights set again)."""
    if way == "saved":
        model.save(folder / "model.keras")
        return keras.models.load_model(folder / "model.keras")
    if way == "copied":
        return copy.deepcopy(model)
    other = type(model).from_config(model.get_config())
    if x is not None:
        other(x)
    other.set_weights(model.get_weights())
    return other


def _outputs(model, x):
    return [keras.ops.convert_to_numpy(keras.ops.cast(y, "float32")) for y in keras.tree.flatten(model(x))]


def _assert_same(outputs, expected):
    assert len(outputs) == len(expected) > 0
    for output, wanted in zip(outputs, expected, strict=True):
        np.testing.assert_array_equal(output, wanted)


def _trainable(model):
    return {path: layer.trainable for path, layer in sublayers.walk(model).items()}


def _policies(model):
    return {path: layer.dtype_policy.name for path, layer in sublayers.walk(model).items()}


def _freeze(model):
    """Freezes every second layer that has weights of its own, at any depth, but not the last."""
    own = [layer for layer in sublayers.walk(model).values() if layer.weights and not sublayers.walk(layer)]
    for layer in own[:-1][::2]:
        layer.trainable = False
    assert 0 < len(model.trainable_variables) < len(model.weights)


# Frozen layers.


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MODELS)
def test_frozen_layers_stay_frozen(name, way, tmp_path):
    model, x = _built(name)
    _freeze(model)
    other = _through(model, way, tmp_path, x)
    assert type(other) is type(model)
    assert _trainable(other) == _trainable(model)
    assert [v.shape for v in other.trainable_variables] == [v.shape for v in model.trainable_variables]
    _assert_same(_outputs(other, x), _outputs(model, x))
    assert other.get_config() == model.get_config()


@pytest.mark.parametrize("way", WAYS)
def test_a_model_that_is_frozen_as_a_whole_but_for_its_head(way, tmp_path):
    model, x = _built("resnet_basic")
    model.trainable = False
    model.get_layer("head").trainable = True
    other = _through(model, way, tmp_path, x)
    assert (other.trainable, len(other.trainable_variables)) == (False, len(model.trainable_variables))
    assert _trainable(other) == _trainable(model)


# Dropout would draw other numbers: the state of its generator is not in a file.
QUIET = {
    "resnet_basic": {},
    "mlp_classifier": dict(dropout_rate=0.0),
    "vit": dict.fromkeys(("dropout_rate", "attention_dropout_rate", "stochastic_depth_rate"), 0.0),
    "gru_network": dict.fromkeys(("dropout_rate", "recurrent_dropout_rate"), 0.0),
    "seq2seq_attention": dict(dropout_rate=0.0, sampling_rate=0.0),
    "transformer_encoder": dict.fromkeys(("dropout_rate", "attention_dropout_rate"), 0.0),
}


@pytest.mark.parametrize("name", MODELS)
def test_training_goes_on_as_if_it_had_not_been_saved(name, tmp_path):
    """With frozen layers: the optimizer's state is kept, and the weights are the same after further steps."""
    case = _case(name)
    model, _ = _built(name, **{key: value for key, value in QUIET[name].items() if key in case.arguments})
    _freeze(model)
    frozen = [layer for layer in sublayers.walk(model).values() if not layer.trainable]
    model.compile(keras.optimizers.Adam(1e-2), **case.compile)
    options = dict(batch_size=4, epochs=2, shuffle=False, verbose=0)
    data = case.data(8)
    before = [v.numpy() for v in model.trainable_variables]
    model.fit(*data, **options)
    assert any((v.numpy() != old).any() for v, old in zip(model.trainable_variables, before, strict=True))

    other = _through(model, "saved", tmp_path)
    assert len(other.optimizer.variables) == len(model.optimizer.variables) > 2
    for a, b in zip(other.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    still = [[w.numpy() for w in layer.trainable_weights] for layer in frozen]
    for one in (model, other):
        one.fit(*data, **options)
    for a, b in zip(other.weights, model.weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=b.path)
    assert [[w.numpy() for w in layer.trainable_weights] for layer in frozen] == still


class Frozen(keras_dl.FunctionalModel):
    """The constructor freezes one layer, and a layer inside another."""

    @arguments
    def __init__(self, width: Size = 3, dtype=None, **kwargs):
        inputs = keras.Input((5, 5, 2))
        maps = keras.layers.Conv2D(width, 1, name="first", trainable=False)(inputs)
        block = ResidualBlock(width, block="basic", name="block")
        maps = block(maps)
        block.convs[0].trainable = False
        outputs = keras.layers.Dense(1, name="last")(maps)
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("unfrozen", [(), ("first",), ("block",), ("first", "block")])
def test_layers_frozen_by_the_constructor_can_be_unfrozen(unfrozen, way, tmp_path):
    with keras.utils.custom_object_scope({"Frozen": Frozen}):
        model = Frozen(4)
        if "first" in unfrozen:
            model.get_layer("first").trainable = True
        if "block" in unfrozen:
            model.get_layer("block").convs[0].trainable = True
        other = _through(model, way, tmp_path)
    assert other.get_layer("first").trainable == ("first" in unfrozen)
    assert other.get_layer("block").convs[0].trainable == ("block" in unfrozen)
    assert _trainable(other) == _trainable(model)


# Policies, quantized layers, adapters.


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MODELS)
def test_dtype_policies_of_layers_are_kept(name, way, tmp_path):
    """The model is in bfloat16; one layer inside was set back to float32."""
    model, x = _built(name, dtype="mixed_bfloat16")
    dense = [layer for layer in sublayers.walk(model).values() if isinstance(layer, keras.layers.Dense)]
    dense[-1].dtype_policy = "float32"
    other = _through(model, way, tmp_path, x)
    assert _policies(other) == _policies(model)
    assert {"float32", "mixed_bfloat16"} <= set(_policies(other).values())
    _assert_same(_outputs(other, x), _outputs(model, x))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MODELS)
def test_quantized_layers_stay_quantized(name, way, tmp_path):
    model, x = _built(name)
    model.quantize("int8")
    quantized = [path for path, policy in _policies(model).items() if policy == "int8_from_float32"]
    assert quantized
    other = _through(model, way, tmp_path, x)
    assert _policies(other) == _policies(model)
    assert [v.dtype for v in other.weights] == [v.dtype for v in model.weights]
    assert any(v.dtype == "int8" for v in other.weights)
    _assert_same(_outputs(other, x), _outputs(model, x))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MODELS)
def test_low_rank_adapters_are_kept(name, way, tmp_path):
    model, x = _built(name)
    dense = [layer for layer in sublayers.walk(model).values() if isinstance(layer, keras.layers.Dense)]
    for i, layer in enumerate(dense):
        layer.enable_lora(2, lora_alpha=1 + i)
        layer.lora_kernel_b.assign(keras.random.normal(layer.lora_kernel_b.shape))
    other = _through(model, way, tmp_path, x)
    adapted = [layer for layer in sublayers.walk(other).values() if getattr(layer, "lora_enabled", False)]
    assert [(layer.lora_rank, layer.lora_alpha) for layer in adapted] == [(2, 1 + i) for i in range(len(dense))]
    assert [v.shape for v in other.trainable_variables] == [v.shape for v in model.trainable_variables]
    assert len(other.trainable_variables) < len(other.weights)
    _assert_same(_outputs(other, x), _outputs(model, x))


def test_a_plain_model_has_no_state_of_sublayers():
    model, _ = _built("resnet_basic")
    assert model.get_config()["sublayers"] == {}


def test_state_of_a_layer_that_is_not_there_is_refused():
    config = keras_dl.MLP(4, 2).get_config()
    with pytest.raises(ValueError, match="has state of 'Dense_9', which the model does not have"):
        keras_dl.MLP.from_config(config | dict(sublayers={"Dense_9": dict(trainable=False)}))


@keras.saving.register_keras_serializable(package="test_base")
class WithoutBuild(keras_dl.Model):
    """A user's model: Keras builds it by its call, when it loads a file."""

    def __init__(self, units=3, **kwargs):
        super().__init__(**kwargs)
        self.hidden = keras.layers.Dense(units)
        self.last = keras.layers.Dense(2)

    def call(self, x):
        return self.last(self.hidden(x))


def test_a_model_without_build_has_its_frozen_layers_before_its_first_call(tmp_path):
    """Else its optimizer has variables for all layers, and training begins anew."""
    model, x = WithoutBuild(), np.ones((4, 5), "float32")
    model(x)
    model.hidden.trainable = False
    model.compile(keras.optimizers.Adam(), "mse")
    model.fit(x, np.ones((4, 2)), verbose=0)
    other = _through(model, "saved", tmp_path)
    assert _trainable(other) == {"Dense": False, "Dense_1": True}
    assert other.optimizer.iterations == 1
    assert [v.shape for v in other.optimizer.variables] == [v.shape for v in model.optimizer.variables]


def test_a_model_without_build_has_the_policies_of_its_layers_at_its_first_call(tmp_path):
    model, x = WithoutBuild(), np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
    model(x)
    model.hidden.dtype_policy = "mixed_bfloat16"
    model.last.enable_lora(1)
    other = _through(model, "saved", tmp_path)
    assert _policies(other) == {"Dense": "mixed_bfloat16", "Dense_1": "float32"}
    _assert_same(_outputs(other, x), _outputs(model, x))


# Layers of the package in plain models of Keras.


def _plain_functional(layer):
    inputs = keras.Input((6, 6, 4))
    return keras.Model(inputs, keras.layers.Dense(2)(layer(inputs)))


def _plain_sequential(layer):
    return keras.Sequential([keras.Input((6, 6, 4)), layer, keras.layers.Dense(2)])


@keras.saving.register_keras_serializable(package="tests")
class Plain(keras.Model):
    """A subclass of `keras.Model` that is given its layer."""

    def __init__(self, layer, **kwargs):
        super().__init__(**kwargs)
        self.layer = layer
        self.last = keras.layers.Dense(2)

    def call(self, x):
        return self.last(self.layer(x))

    def get_config(self):
        return super().get_config() | {"layer": keras.saving.serialize_keras_object(self.layer)}

    @classmethod
    def from_config(cls, config):
        return cls(**config | {"layer": keras.saving.deserialize_keras_object(config["layer"])})


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("around", [_plain_functional, _plain_sequential, Plain])
@pytest.mark.parametrize("create", [lambda: ResidualBlock(4, block="basic", shortcut="A"), ConvNeXtBlock])
def test_a_frozen_part_of_a_layer_in_a_plain_model(create, around, way, tmp_path):
    layer = create()
    model = around(layer)
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 4)).astype("float32")
    model(x)
    part = layer.convs[1] if isinstance(layer, ResidualBlock) else layer.expand
    part.trainable = False
    other = _through(model, way, tmp_path, x)
    assert [v.shape for v in other.trainable_variables] == [v.shape for v in model.trainable_variables]
    (copied,) = (inner for inner in other.layers if type(inner) is type(layer))
    assert _trainable(copied) == _trainable(layer)
    assert False in _trainable(copied).values()
    _assert_same(_outputs(other, x), _outputs(model, x))


def test_a_part_frozen_before_the_layer_is_built():
    block = ConvNeXtBlock()
    block.depthwise.trainable = False
    other = ConvNeXtBlock.from_config(block.get_config())
    other.build((None, 6, 6, 4))
    assert (other.depthwise.trainable, other.expand.trainable) == (False, True)
    assert "sublayers_before_build" not in ConvNeXtBlock().get_config()


# Models from inputs and outputs.


def _inputs_and_outputs():
    inputs = {"a": keras.Input((3,), name="a"), "b": keras.Input((2,), name="b")}
    joined = keras.layers.Concatenate()(list(inputs.values()))
    return inputs, {"sum": keras.layers.Dense(2, name="sum")(joined), "same": joined}


@pytest.mark.parametrize("cls", [keras_dl.Model, keras_dl.FunctionalModel])
@pytest.mark.parametrize("by", ["position", "keyword"])
@pytest.mark.parametrize("options", [{}, dict(name="net"), dict(name="net", trainable=False)])
def test_a_model_from_inputs_and_outputs(cls, by, options, tmp_path):
    inputs, outputs = _inputs_and_outputs()
    model = cls(inputs, outputs, **options) if by == "position" else cls(inputs=inputs, outputs=outputs, **options)
    reference = keras.Model(inputs, outputs)
    x = {"a": np.ones((4, 3), "float32"), "b": np.ones((4, 2), "float32")}
    assert isinstance(model, keras_dl.FunctionalModel)
    assert model.name == options.get("name", model.name)
    assert model.trainable == options.get("trainable", True)
    expected = _outputs(reference, x)
    _assert_same(_outputs(model, x), expected)

    model.get_layer("sum").trainable = False
    for way in WAYS:
        other = _through(model, way, tmp_path)
        assert type(other) is keras_dl.FunctionalModel
        assert other.name == model.name
        _assert_same(_outputs(other, x), expected)
        assert other.get_layer("sum").trainable is False
    cloned = keras.models.clone_model(model)
    cloned.set_weights(model.get_weights())
    _assert_same(_outputs(cloned, x), expected)

    (signature,) = model.serving_signatures(4).values()
    assert {name: spec.shape for name, spec in signature.inputs.items()} == {"a": (4, 3), "b": (4, 2)}
    served = signature.function(**x)
    assert list(served) == ["sum", "same"]
    _assert_same([served["sum"], served["same"]], [np.asarray(reference(x)[name]) for name in ("sum", "same")])


def test_a_model_from_inputs_and_outputs_trains_and_exports(tmp_path):
    from keras_dl.export import export

    inputs = keras.Input((3,), name="x")
    model = keras_dl.Model(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(32, 3)).astype("float32")
    losses = model.fit(x, x.sum(-1), epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    report = export(model, tmp_path / "model.tflite")
    assert report.flex_ops == 0


def test_a_subclass_of_model_stays_a_subclass():
    class Doubling(keras_dl.Model):
        def call(self, x):
            return 2 * x

    model = Doubling(name="twice")
    assert type(model) is Doubling
    assert not isinstance(model, keras_dl.FunctionalModel)
    assert model(np.ones((1, 2))).numpy().tolist() == [[2.0, 2.0]]
    assert Doubling.from_config(model.get_config()).name == "twice"


def test_clones_of_a_model_are_independent():
    model = keras_dl.MLP(4, 2)
    cloned = keras.models.clone_model(model)
    cloned.set_weights(model.get_weights())
    x = np.ones((2, 4), "float32")
    _assert_same(_outputs(cloned, x), _outputs(model, x))
    cloned.get_layer("head").bias.assign([5.0, 5.0])
    assert (model.get_layer("head").bias.numpy() == 0).all()
    other = copy.deepcopy(model)
    other.get_layer("head").bias.assign([5.0, 5.0])
    assert (model.get_layer("head").bias.numpy() == 0).all()


@keras.saving.register_keras_serializable(package="test_base")
class SameIds(keras_dl.FunctionalModel):
    """Makes layers as `keras.layers.Bidirectional` does, under an `id` that Python has given twice."""

    def __init__(self, **kwargs):
        config = keras.saving.serialize_keras_object(keras.layers.Dense(2)) | {"shared_object_id": 1}
        first, second = (keras.saving.deserialize_keras_object(config) for _ in range(2))
        first.name, second.name = "first", "second"
        inputs = keras.Input((2,))
        super().__init__(inputs=inputs, outputs=second(first(inputs)), **kwargs)


def test_layers_made_by_a_constructor_are_not_taken_for_one_in_a_file(tmp_path):
    """Else a bidirectional network of several layers failed to load now and then."""
    model = SameIds()
    assert len(model.weights) == 4
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert len(loaded.weights) == 4
    _assert_same(_outputs(loaded, np.ones((1, 2))), _outputs(model, np.ones((1, 2))))


def test_presets():
    with pytest.raises(ValueError, match=r"ResNet has no preset 'resnet51'. Choose one of: resnet18, "):
        keras_dl.ResNet.from_preset("resnet51")
    model = keras_dl.ResNet.from_preset("resnet20", num_classes=3)
    assert (model.num_classes, model.num_blocks) == (3, (3, 3, 3))


def test_a_training_step_is_traced_once():
    """A step that creates the optimizer's variables would be traced again without them."""
    traces = []

    class Traced(keras_dl.FunctionalModel):
        def train_step(self, data):
            traces.append(data)
            return super().train_step(data)

    x = keras.Input((2,))
    model = Traced(x, keras.layers.Dense(1)(x))
    model.layers[-1].trainable = False
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss="mse")
    model.layers[-1].trainable = True  # the optimizer has variables for what is trained when the training begins
    rows = np.random.default_rng(0).normal(size=(8, 2)), np.ones((8, 1))
    history = model.fit(*rows, batch_size=4, epochs=3, verbose=0).history["loss"]
    assert history[-1] < history[0]
    assert len(traces) == 1
    assert len(model.optimizer.variables) == 4  # iterations, learning rate, and two of momentum


def test_a_model_without_known_inputs_has_no_default_signature():
    class Doubling(keras_dl.Model):
        def call(self, x):
            return 2 * x

    with pytest.raises(ValueError, match="has no known inputs"):
        Doubling().serving_signatures()


# One vocabulary.


@pytest.mark.parametrize("name", [case.name for case in CASES if issubclass(case.model, ImageClassifier)])
def test_image_classifiers_have_a_head_that_takes_their_features(name):
    """`head` is the last layer that is trained, but for the head of LeNet-5's bitmaps, which has no weights."""
    model = _case(name).create()
    head, features = model.get_layer("head"), model.get_layer("features")
    assert head.input is features.output
    with_weights = [layer for layer in model.layers if layer.weights]
    assert with_weights[-1] is head or not head.weights
    assert not any(layer.weights for layer in model.layers[model.layers.index(head) + 1 :])
