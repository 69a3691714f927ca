"""The decorator `arguments`: unknown keywords, validators, what is stored, and the dtype of the layers inside."""

import inspect
from typing import Annotated

import keras
import numpy as np
import pytest
import string_annotations
from reference import policy

import keras_dl
from keras_dl.arguments import (
    AtLeast,
    ImageShape,
    ImageShapeAtLeast,
    OddSize,
    OneOf,
    PerChannel,
    Positive,
    PositivePerChannel,
    Rate,
    Size,
    Sizes,
    SizesAtLeast,
    arguments,
    renamed_arguments,
)

CLASSES = [
    value
    for value in (getattr(keras_dl, name) for name in keras_dl.__all__)
    if inspect.isclass(value)
    and issubclass(value, keras.Layer)
    and value not in (keras_dl.FunctionalModel, keras_dl.Layer, keras_dl.Model)
]


def _misspelled(cls):
    """An argument of the constructor, and a misspelling of it."""
    parameters = inspect.signature(cls.__init__).parameters.values()
    names = [p.name for p in parameters if p.name != "self" and p.kind is p.POSITIONAL_OR_KEYWORD]
    longest = max(names, key=len)
    return longest, longest[:-2] + longest[-1]


# Unknown keywords.


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_an_unknown_keyword_is_refused_with_the_nearest_argument(cls):
    name, wrong = _misspelled(cls)
    parameters = inspect.signature(cls.__init__).parameters.values()
    required = {p.name: 4 for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD}
    del required["self"]
    with pytest.raises(TypeError, match=rf"{cls.__name__}\(\) got an unexpected keyword argument '{wrong}'") as caught:
        cls(**required | {wrong: 1})
    assert f"Did you mean {name!r}?" in str(caught.value)


@pytest.mark.parametrize(
    "cls", [keras_dl.ResNet, keras_dl.layers.PixelNormalization, keras_dl.losses.SmoothedCrossentropy]
)
def test_a_keyword_that_is_near_none_lists_the_arguments(cls):
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'qqqqqq'\. It takes: ") as caught:
        cls(qqqqqq=1)
    for name in inspect.signature(cls.__init__).parameters:
        assert name in ("self", "kwargs") or name in str(caught.value)
    assert "inputs" not in str(caught.value)
    listed = str(caught.value).partition("It takes: ")[2].rstrip(".").split(", ")
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize(
    ("cls", "old", "new"),
    [(keras_dl.VGG, "num_convs", "num_blocks"), (keras_dl.ConvNeXt, "depths", "num_blocks")],
)
def test_an_old_name_is_refused_with_the_new_one(cls, old, new):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{old}'. It is called '{new}' now."):
        cls(**{old: (1, 1)})


def test_keywords_of_keras_are_taken():
    layer = Doubling(3, name="three", trainable=False, dtype="float64", activity_regularizer="l2")
    assert (layer.name, layer.trainable, layer.dtype_policy.name) == ("three", False, "float64")
    assert isinstance(layer.activity_regularizer, keras.regularizers.L2)
    loss = keras_dl.losses.SmoothedCrossentropy(dtype="float64")
    assert loss.dtype == "float64"


# Validators.


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (Size, [(3, 3), (np.int64(3), 3)], [0, -1, 2.0, "3", None, True]),
        (AtLeast(0), [(0, 0)], [-1]),
        (OddSize, [(1, 1), (np.int32(5), 5)], [0, 4, -1, 3.0, True]),
        (Sizes, [([3, 4], (3, 4))], [(), (3, 0), 3, (2.5,), "ab", None]),
        (SizesAtLeast(2), [((2, 3), (2, 3))], [(1, 2), ()]),
        (SizesAtLeast(1, allow_empty=True), [((), ()), ([2], (2,))], [(0,)]),
        (Rate, [(0, 0.0), (0.5, 0.5)], [1, 1.0, -0.1, "0.5", None, float("nan")]),
        (Positive, [(2, 2.0)], [0, -1, float("inf"), float("nan"), True, None]),
        (PerChannel, [(3, 3.0), ([1, -2], (1.0, -2.0)), (np.ones(2), (1.0, 1.0))], [[[1.0]], float("nan")]),
        (PositivePerChannel, [(3, 3.0), ((1, 2), (1.0, 2.0))], [0, (1, 0), -1]),
        (ImageShape, [([4, 5, 1], (4, 5, 1))], [(4, 5), 4, (0, 4, 1), (4, 5, 0), (4.0, 5, 1)]),
        (ImageShapeAtLeast(8), [((8, 8, 1), (8, 8, 1))], [(8, 7, 1)]),
        (OneOf("a", None), [("a", "a"), (None, None)], ["b", 0]),
        (Size | None, [(None, None), (3, 3)], [0, "3"]),
        (None | Sizes, [(None, None), ([3], (3,))], [0, (0,)]),
        (Annotated[Sizes, lambda name, value: value[::-1]], [([1, 2], (2, 1))], [0]),
    ],
    ids=lambda value: None,  # the names of validators hold addresses, which differ between workers
)
def test_a_validator_keeps_good_values_and_names_bad_ones(kind, good, bad):
    class Kind(keras_dl.Layer):
        @arguments
        def __init__(self, value: kind = "none given", **kwargs):
            super().__init__(**kwargs)

    for given, kept in good:
        layer = Kind(given)
        assert layer.value == kept
        assert type(layer.value) is type(kept)
        assert layer.get_config()["value"] == kept
    for given in bad:
        with pytest.raises(ValueError, match="value="):
            Kind(given)


def test_a_default_is_checked_too():
    class Wrong(keras_dl.Layer):
        @arguments
        def __init__(self, factor: Size = 0, **kwargs):
            super().__init__(**kwargs)

    with pytest.raises(ValueError, match="factor=0 must be an integer of at least 1"):
        Wrong()


def test_values_are_checked_before_the_constructor_runs():
    ran = []

    class Late(keras_dl.Layer):
        @arguments
        def __init__(self, first: Size = 1, second: Size = 1, **kwargs):
            super().__init__(**kwargs)
            ran.append((first, second))

    with pytest.raises(ValueError, match="second=0"):
        Late(second=0)
    assert ran == []
    Late(np.int64(2))
    assert ran == [(2, 1)]
    assert type(ran[0][0]) is int


def test_annotations_that_are_strings_are_checked():
    """As of modules with `from __future__ import annotations`."""
    assert string_annotations.Scaled(np.int64(3)).factor == 3
    with pytest.raises(ValueError, match="factor=0 must be an integer of at least 1"):
        string_annotations.Scaled(0)


# What is stored.


class Doubling(keras_dl.Layer):
    @arguments
    def __init__(self, factor: Size = 2, offset=0.0, **kwargs):
        super().__init__(**kwargs)

    def call(self, x):
        return self.factor * x + self.offset


class Handing(Doubling):
    """Decorated: one argument of its own, one that it fixes, the rest is handed on."""

    @arguments
    def __init__(self, shift: Size = 1, **kwargs):
        super().__init__(offset=10.0 * shift, **kwargs)


class UndecoratedHanding(Doubling):
    def __init__(self, shift=1, **kwargs):
        super().__init__(offset=10.0 * shift, **kwargs)


class Options(Doubling):
    @arguments
    def __init__(self, shift: Size = 1, **options):
        super().__init__(offset=10.0 * shift, **options)


class HandingTwice(UndecoratedHanding):
    @arguments
    def __init__(self, more: Size = 1, **kwargs):
        super().__init__(**kwargs)


@pytest.mark.parametrize("cls", [Handing, UndecoratedHanding, Options])
def test_arguments_that_are_handed_on_are_in_the_config(cls):
    layer = cls(shift=3, factor=np.int64(5), name="handing")
    assert (layer.factor, layer.offset) == (5, 30.0)
    config = layer.get_config()
    assert {name: config[name] for name in ("shift", "factor", "name")} == dict(shift=3, factor=5, name="handing")
    assert "offset" not in config  # the constructor fixes it
    copy = cls.from_config(config)
    assert (copy.factor, copy.offset, copy.name) == (5, 30.0, "handing")
    assert copy.get_config() == config
    assert "factor" not in cls().get_config()


@pytest.mark.parametrize("cls", [Handing, UndecoratedHanding, Options])
def test_a_subclass_refuses_unknown_keywords_with_names_of_both(cls):
    for wrong, nearest in (("facto", "factor"), ("shif", "shift")):
        with pytest.raises(TypeError, match=rf"{cls.__name__}\(\).*'{wrong}'. Did you mean '{nearest}'\?"):
            cls(**{wrong: 1})
    with pytest.raises(ValueError, match="factor=0"):
        cls(factor=0)
    with pytest.raises(TypeError, match="multiple values for keyword argument 'offset'"):
        cls(offset=1.0)


def test_an_undecorated_functional_model_refuses_unknown_keywords():
    """keras.Model would ignore them."""

    class Linear(keras_dl.FunctionalModel):
        def __init__(self, width=2, **kwargs):
            inputs = keras.Input((2,))
            super().__init__(inputs=inputs, outputs=keras.layers.Dense(width)(inputs), **kwargs)

    assert Linear(name="line", trainable=False, dtype="float64").name == "line"
    for wrong, nearest in (("nmae", "name"), ("widht", "width")):
        with pytest.raises(TypeError, match=rf"Linear\(\).*'{wrong}'. Did you mean '{nearest}'\?"):
            Linear(**{wrong: 1})
    inputs = keras.Input((2,))
    with pytest.raises(TypeError, match=r"'nmae'\. Did you mean 'name'\?"):
        keras_dl.Model(inputs, inputs, nmae="line")


def test_arguments_are_handed_on_over_two_classes():
    layer = HandingTwice(2, shift=3, factor=5)
    config = layer.get_config()
    assert {name: config[name] for name in ("more", "shift", "factor")} == dict(more=2, shift=3, factor=5)
    assert HandingTwice.from_config(config).get_config() == config
    assert HandingTwice.from_config(config).offset == 30.0


def test_an_undecorated_model_hands_arguments_on():
    class Small(keras_dl.MLP):
        def __init__(self, width=3, **kwargs):
            super().__init__(4, hidden_dims=(width,), **kwargs)

    model = Small(width=5, num_outputs=2, dropout_rate=0.25, dtype="mixed_bfloat16")
    config = model.get_config()
    assert (config["width"], config["num_outputs"], config["dropout_rate"]) == (5, 2, 0.25)
    copy = Small.from_config(config)
    assert copy.hidden_dims == (5,)
    assert copy.get_config() == config
    assert copy.get_layer("head").dtype_policy.name == "mixed_bfloat16"


class ThreeTimes(Doubling):
    """Its argument has the name of one of its base class, and another value."""

    @arguments
    def __init__(self, factor: Size = 1, **kwargs):
        super().__init__(factor=3 * factor, **kwargs)


class UndecoratedThreeTimes(Doubling):
    def __init__(self, factor=1, **kwargs):
        super().__init__(factor=3 * factor, **kwargs)


class Overwritten(ThreeTimes):
    @arguments
    def __init__(self, factor: Size = 1, **kwargs):
        super().__init__(factor=factor, **kwargs)
        self.factor = 100 * factor


@pytest.mark.parametrize(
    ("cls", "factor"), [(ThreeTimes, 15), (UndecoratedThreeTimes, 15), (Overwritten, 500)], ids=lambda x: str(x)[-20:]
)
def test_an_argument_may_have_the_name_of_another_of_the_base_class(cls, factor):
    layer = cls(5)
    assert (layer.factor, layer.get_config()["factor"]) == (factor, 5)
    copy = cls.from_config(layer.get_config())
    assert (copy.factor, copy.get_config()) == (factor, layer.get_config())


def test_an_argument_that_is_not_stored_is_in_the_config():
    class Unstored(Doubling):
        def __init__(self, power=1, *, label="x", **kwargs):
            super().__init__(factor=2**power, **kwargs)

    config = Unstored(3, offset=1.0).get_config()
    assert (config["power"], config["label"], config["offset"]) == (3, "x", 1.0)
    assert Unstored.from_config(config).factor == 8


def test_positional_arguments_without_a_name_are_refused_by_the_config():
    class Bare(Doubling):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)

    assert Bare(factor=3).get_config()["factor"] == 3
    with pytest.raises(TypeError, match=r"Bare\(\) got \*args=\(3,\)\. A config needs the names"):
        Bare(3).get_config()


def test_what_the_constructor_sets_stays_and_so_do_properties():
    class Own(keras_dl.Layer):
        @arguments
        def __init__(self, sides: Size | tuple = 2, area=None, **kwargs):
            super().__init__(**kwargs)
            self.sides = (sides, sides)

        @property
        def area(self):
            return self.sides[0] * self.sides[1]

    layer = Own(3)
    assert (layer.sides, layer.area) == ((3, 3), 9)
    assert (layer.get_config()["sides"], layer.get_config()["area"]) == ((3, 3), 9)


def test_keyword_only_arguments_and_positions():
    class Order(keras_dl.Layer):
        @arguments
        def __init__(self, first: Size, *, second: Size = 2, **kwargs):
            super().__init__(**kwargs)

    layer = Order(4, second=5)
    assert (layer.first, layer.second) == (4, 5)
    assert Order.from_config(layer.get_config()).second == 5
    with pytest.raises(TypeError, match="positional"):
        Order(4, 5)
    with pytest.raises(TypeError, match="missing a required argument: 'first'"):
        Order()


def test_the_signature_and_the_docstring_stay():
    assert list(inspect.signature(Doubling.__init__).parameters) == ["self", "factor", "offset", "kwargs"]
    assert inspect.getfullargspec(Doubling.__init__).args == ["self", "factor", "offset"]


def test_a_signature_shows_plain_types_and_keeps_the_checks_for_those_that_take_its_arguments():
    class Kinds(keras_dl.Layer):
        @arguments
        def __init__(self, size: Size = 1, sizes: Sizes | None = None, kind: OneOf("a", None) = "a", **kwargs):
            super().__init__(**kwargs)

    class Like(keras_dl.Layer):
        @arguments(like=Kinds)
        def __init__(self, rate: Rate = 0.0, **kwargs):
            super().__init__()

    shown = "size: int = 1, sizes: tuple[int, ...] | None = None, kind: Literal['a', None] = 'a'"
    assert str(inspect.signature(Kinds)) == f"({shown}, **kwargs)"
    assert str(inspect.signature(Like)) == f"({shown}, rate: float = 0.0, **kwargs)"
    with pytest.raises(ValueError, match="size=0"):
        Like(size=0)
    public = [*CLASSES, *(getattr(keras_dl.layers, name) for name in keras_dl.layers.__all__)]
    assert not [cls for cls in public if "<" in str(inspect.signature(cls))]


def test_the_regularizer_of_activities_is_in_the_config():
    layer = Doubling(activity_regularizer=keras.regularizers.L2(0.5))
    copy = Doubling.from_config(layer.get_config())
    assert float(copy.activity_regularizer.l2) == 0.5
    assert "activity_regularizer" not in Doubling().get_config()


# Names of earlier versions.


class Renamed(Doubling):
    renamed_arguments = {"times": "factor", "old": "offset"}


class RenamedAgain(Renamed):
    renamed_arguments = {"plus": "offset"}


@pytest.mark.parametrize(("cls", "plus"), [(Renamed, "old"), (RenamedAgain, "plus"), (RenamedAgain, "old")])
def test_a_config_may_have_old_names(cls, plus):
    layer = cls.from_config({"times": 7, plus: 1.5})
    assert (layer.factor, layer.offset) == (7, 1.5)
    assert not {"times", plus} & layer.get_config().keys()


def test_old_names_have_new_ones_that_exist():
    renamed = {cls: renamed_arguments(cls) for cls in CLASSES}
    assert any(renamed.values())
    for cls, names in renamed.items():
        parameters = inspect.signature(cls.__init__).parameters
        assert set(names.values()) <= set(parameters)
        assert not set(names) & set(parameters)


# The dtype of the layers inside.


class Inside(keras_dl.FunctionalModel):
    @arguments
    def __init__(self, fail=False, dtype=None, **kwargs):
        inputs = keras.Input((3,))
        hidden = keras.layers.Dense(2, name="given", dtype="float32")(keras.layers.Dense(2, name="taken")(inputs))
        hidden = keras_dl.layers.Standardization(name="own")(hidden)
        if fail:
            raise RuntimeError("in the constructor")
        super().__init__(inputs=inputs, outputs=hidden, **kwargs)


class Around(keras_dl.FunctionalModel):
    @arguments
    def __init__(self, dtype=None, **kwargs):
        inputs = keras.Input((3,))
        inner, other = Inside(name="inner"), Inside(name="other", dtype="float64")
        super().__init__(inputs=inputs, outputs=[inner(inputs), other(inputs)], **kwargs)


def _policies(model, prefix=""):
    names = {f"{prefix}{layer.name}": layer.dtype_policy.name for layer in model.layers if layer.name != "input_layer"}
    return {name: policy for name, policy in names.items() if "input_layer" not in name}


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", keras.dtype_policies.DTypePolicy("mixed_bfloat16")])
def test_dtype_is_the_policy_of_the_layers_inside(dtype):
    model = Inside(dtype=dtype)
    assert _policies(model) == {"taken": "mixed_bfloat16", "given": "float32", "own": "mixed_bfloat16"}
    assert model.dtype_policy.name == "mixed_bfloat16"
    assert keras.config.dtype_policy().name == "float32"
    copy = Inside.from_config(model.get_config())
    assert (_policies(copy), copy.dtype_policy.name) == (_policies(model), "mixed_bfloat16")


def test_models_inside_models_have_the_policy_of_the_nearest():
    model = Around(dtype="mixed_bfloat16")
    inner, other = (model.get_layer(name) for name in ("inner", "other"))
    assert (inner.dtype_policy.name, other.dtype_policy.name) == ("mixed_bfloat16", "float64")
    assert _policies(inner)["taken"] == "mixed_bfloat16"
    assert _policies(other)["taken"] == "float64"
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize("error", [RuntimeError, ValueError])
def test_an_error_in_the_constructor_restores_the_global_policy(error):
    with pytest.raises(error):
        Inside(fail=True, dtype="mixed_float16") if error is RuntimeError else keras_dl.MLP(4, 0, dtype="mixed_float16")
    assert keras.config.dtype_policy().name == "float32"
    with pytest.raises(ValueError, match="float17"):
        Inside(dtype="float17")
    assert keras.config.dtype_policy().name == "float32"


def test_without_dtype_the_global_policy_holds():
    with policy("mixed_bfloat16"):
        model = Inside()
    assert (_policies(model)["taken"], model.dtype_policy.name) == ("mixed_bfloat16", "mixed_bfloat16")
    assert Inside.from_config(model.get_config()).get_layer("taken").dtype_policy.name == "mixed_bfloat16"
