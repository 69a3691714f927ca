"""The proof: it holds for what is right, and fails for what is not."""

import export_models as models
import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from keras import layers, ops

from keras_dl.export import ExportError, quantize, verify
from keras_dl.export import export as export_

NUMBERS = arrays("float64", st.integers(1, 8), elements=st.floats(-1e6, 1e6, allow_subnormal=False))


@given(NUMBERS)
def test_equal_arrays_have_no_error(values):
    assert verify.errors(values, values) == {
        "max_abs_error": 0,
        "mean_abs_error": 0,
        "max_rel_error": 0,
        "cosine": pytest.approx(1),
    }


@given(st.data(), NUMBERS)
def test_measures_of_error(data, a):
    b = data.draw(arrays("float64", a.shape, elements=st.floats(-1e6, 1e6, allow_subnormal=False)))
    found = verify.errors(a, b)
    assert found["max_abs_error"] == np.abs(a - b).max()
    assert 0 <= found["mean_abs_error"] <= found["max_abs_error"] * (1 + 1e-12)
    assert -1 <= found["cosine"] <= 1
    if b.any():
        assert found["max_rel_error"] == found["max_abs_error"] / np.abs(b).max()
    else:
        assert found["max_rel_error"] == a.any()
    if a.any() and b.any() and min(np.abs(a).max(), np.abs(b).max()) > 1e-100:
        naive = a @ b / np.sqrt(a @ a) / np.sqrt(b @ b)
        assert found["cosine"] == pytest.approx(naive, abs=1e-9)


@given(NUMBERS, st.floats(1e-3, 1e3))
def test_the_cosine_knows_direction_alone(values, factor):
    found = verify.errors(values * factor, values)
    assert found["cosine"] == pytest.approx(1)
    if values.any():
        assert found["max_rel_error"] == pytest.approx(abs(factor - 1), abs=1e-9)
        assert verify.errors(-values, values)["cosine"] == pytest.approx(-1)


def test_agreement_of_integers():
    found = verify.errors(np.array([1, 2, 3, 4]), np.array([1, 2, 0, 4]))
    assert found["agreement"] == 0.75
    assert "agreement" not in verify.errors(np.array([1.0]), np.array([1.0]))


CONVERT = quantize.to_litert


def altered(model, change):
    """Converts as ever, from other weights than the proof will see."""

    def convert_altered(*arguments):
        weights = model.get_weights()
        model.set_weights([change(w) for w in weights])
        try:
            return CONVERT(*arguments)
        finally:
            model.set_weights(weights)

    return convert_altered


@pytest.mark.parametrize("quantization", ["none", "float16", "dynamic_int8", "int8"])
@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda w: w * 0, "is constant in the file"), (lambda w: -w, "is off by|cosine similarity")],
)
def test_a_file_that_computes_something_else_fails(change, message, quantization, tmp_path, monkeypatch):
    model, path = models.dense(), tmp_path / "model.tflite"
    calibration = [{"features": models.normal(64, 4)}]
    export_(model, path, quantization=quantization, calibration=calibration)
    old = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    monkeypatch.setattr(quantize, "to_litert", altered(model, change))
    with pytest.raises(ExportError, match=message):
        export_(model, path, quantization=quantization, calibration=calibration)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == old


def test_a_file_that_is_not_finite_fails(tmp_path, monkeypatch):
    model = models.dense()
    monkeypatch.setattr(quantize, "to_litert", altered(model, lambda w: w * np.nan))
    with pytest.raises(ExportError, match="holds NaN or infinity, where Keras gives numbers"):
        export_(model, tmp_path / "model.tflite")
    assert list(tmp_path.iterdir()) == []


def test_float32_is_held_to_a_ten_thousandth(tmp_path, monkeypatch):
    model = models.dense()
    monkeypatch.setattr(quantize, "to_litert", altered(model, lambda w: w * (1 + 2e-4)))
    with pytest.raises(ExportError, match=r"off by 2\.\d+e-04 of its largest magnitude; 1e-04 is allowed"):
        export_(model, tmp_path / "model.tflite")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(quantize, "to_litert", altered(model, lambda w: w * (1 + 5e-5)))
    report = export_(model, tmp_path / "model.tflite")
    assert report.proof["signatures"]["serve"]["output_0"]["max_rel_error"] == pytest.approx(5e-5, rel=0.02)
    assert report.proof["tolerance"]["max_rel_error"] == 1e-4


def test_a_wrong_file_is_written_where_the_proof_is_off(tmp_path, monkeypatch):
    model = models.dense()
    monkeypatch.setattr(quantize, "to_litert", altered(model, lambda w: -w))
    export_(model, tmp_path / "model.tflite", verify=False)
    assert (tmp_path / "model.tflite").exists()


@pytest.mark.parametrize("verify", [True, False])
def test_a_file_that_the_runtime_cannot_run_fails(verify, tmp_path):
    """LiteRT loads this file, and refuses the scales of its int8 tensors when it is to compute with them."""
    model = keras.Sequential([keras.Input((2,), name="x"), layers.Dense(1)])
    model.set_weights([np.array([[0.0], [1.0]]), np.zeros(1)])
    calibration = [{"x": models.normal(16, 2) * np.array([1e6, 1.0], "float32")}]
    with pytest.raises(ExportError, match=r"refuses the exported file: model\.tflite cannot be run by LiteRT"):
        export_(model, tmp_path / "model.tflite", quantization="int8", calibration=calibration, verify=verify)
    assert list(tmp_path.iterdir()) == []


def test_keras_itself_must_be_finite(tmp_path):
    model = keras.Sequential([keras.Input((4,), name="x"), layers.Lambda(lambda x: ops.log(x - 100.0))])
    with pytest.raises(ExportError, match="Keras gives NaN or infinity for output 'output_0' of signature 'serve'"):
        export_(model, tmp_path / "model.tflite")


class Given:
    """A runner that returns what it was given."""

    signatures = {"serve": {"outputs": {"y": {}}}}

    def __init__(self, *results):
        self.results = list(results)

    def serve(self, name, **arrays):
        return {"y": np.asarray(self.results[int(arrays["i"])])}


SAMPLES = {"serve": [{"i": 0}, {"i": 1}]}


def prove(found, expected, quantization="int8"):
    return verify.prove(Given(*found), verify.reference(Given(*expected), SAMPLES), SAMPLES, quantization)


@pytest.mark.parametrize(
    ("found", "expected", "quantization", "message"),
    [
        ([[1.0], [2.0]], [[1.0, 1.0], [2.0, 2.0]], "none", r"has shape \(1,\); Keras gives \(2,\)"),
        ([[1.0], [np.inf]], [[1.0], [2.0]], "int8", "holds NaN or infinity"),
        ([[1.5], [1.5]], [[1.0], [2.0]], "int8", "is constant in the file"),
        ([[1.0, 0.0], [1.0, 0.1]], [[0.0, 1.0], [0.1, 1.0]], "int8", "cosine similarity of .*at least 0.95"),
        ([[1, 2, 3], [3, 3, 3]], [[1, 2, 3], [1, 2, 3]], "int8", "equals that of Keras in 66.7% of its values; .*80%"),
        ([[1, 2, 3], [1, 2, 3]], [[1, 2, 3], [1, 2, 4]], "none", "is constant in the file"),
        (
            [[1, 2, 3], [1, 2, 5]],
            [[1, 2, 3], [1, 2, 4]],
            "none",
            "differs from that of Keras in 16.67% of its integers",
        ),
        ([[70000], [70002]], [[70000], [70001]], "none", "differs from that of Keras in 50.00% of its integers"),
        (
            [[10.4], [10.0]],
            [[10.1], [10.7]],
            "int8",
            r"R2 = .* standard deviation is 0\.3; it must be at least 0\.9167",
        ),
        ([[1.0], [2.1]], [[1.0], [2.0]], "int16x8", r"R2 = 0\.98; it must be|R2 = 0\.98 .*at least 0\.9867"),
        (
            [[9] * 16 + [1] * 4, [9] * 20],
            [[9] * 20, [9] * 16 + [1] * 4],
            "int8",
            r"80\.0% of its values, most of which .*Beyond chance it is -0\.11 \(kappa\)",
        ),
    ],
)
def test_what_fails(found, expected, quantization, message):
    with pytest.raises(ExportError, match=f"^Output 'y' of signature 'serve' .*{message}"):
        prove(found, expected, quantization)


def test_what_holds():
    proof = prove([[1.0, 2.0], [3.0, 4.1]], [[1.0, 2.0], [3.0, 4.0]])
    assert proof["samples"] == {"serve": 2}
    bounds = {"cosine": 0.95, "agreement": 0.8, "kappa": 0.6, "r2": 11 / 12, "channel_r2": 2 / 3}
    assert proof["tolerance"] == pytest.approx(bounds)
    assert proof["signatures"]["serve"]["y"]["max_abs_error"] == pytest.approx(0.1)
    assert prove([[2.0], [2.0]], [[2.0], [2.0]], "none")["signatures"]["serve"]["y"]["max_rel_error"] == 0


def test_outputs_must_be_the_same():
    class Other(Given):
        def serve(self, name, **arrays):
            return {"z": np.zeros(1)}

    with pytest.raises(ExportError, match=r"has outputs \['z'\]; Keras has \['y'\]"):
        verify.prove(Other(), verify.reference(Given([1.0], [2.0]), SAMPLES), SAMPLES, "none")


def test_rounding_to_steps_has_the_error_that_the_bounds_come_from():
    values = np.random.default_rng(0).normal(size=(100_000, 1, 1))
    for quantization, step in verify.STEPS.items():
        found = verify.variation(np.rint(values / step) * step, values)
        assert 1 - found["r2"] == pytest.approx(step**2 / 12, rel=0.02), quantization


def test_channels_are_looked_at_one_by_one():
    rng = np.random.default_rng(0)
    expected = rng.normal(size=(64, 1, 20)) * np.array([100.0] * 18 + [0.1, 0.0]) + 7.0
    found = verify.variation(np.rint(expected), expected)
    assert found["r2"] > 0.9999
    assert (found["channels"], found["lost_channels"], found["worst_channel"]) == (19, 1, 18), "19 does not vary"
    assert found["worst_deviation"] == pytest.approx(0.1, rel=0.3)
    assert verify.variation(expected[:8], expected)["r2"] == 1.0
    assert verify.variation(expected * 0, expected * 0) == {}


def one_by_one(found, expected, quantization="int8", **arguments):
    """The proof of arrays `(samples, 1, channels)`."""
    samples = {"serve": [{"i": i} for i in range(len(expected))]}
    reference = verify.reference(Given(*expected), samples)
    proof = verify.prove(Given(*found), reference, samples, quantization, **arguments)
    return proof["signatures"]["serve"]["y"], verify.doubts(proof)


def test_few_lost_channels_are_named_and_many_refused():
    rng = np.random.default_rng(0)
    expected = rng.normal(size=(64, 1, 20)) * np.array([100.0] * 18 + [0.1, 0.1])
    found = np.rint(expected)
    result, (doubt,) = one_by_one(found, expected)
    assert result["lost_channels"] == 2
    assert "loses the variation of 2 of 20 channels" in doubt
    with pytest.raises(ExportError, match=r"loses 2 of 19 channels: of channel 1[78], "):
        one_by_one(found[..., 1:], expected[..., 1:])


def test_rare_classes_may_be_lost():
    """Of probabilities and their logarithms, whose steps mean the same in each channel, and not of other numbers."""
    logits = np.random.default_rng(0).normal(size=(64, 1, 8)) - np.array([0.0] * 4 + [9.0] * 4)
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    found = np.rint(expected * 256) / 256
    assert one_by_one(found, expected)[0]["lost_channels"] == 4
    with pytest.raises(ExportError, match="loses 4 of 8 channels"):
        one_by_one(found - 1, expected - 1)

    logits[..., 0] += 8
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    found = np.rint(expected * 16) / 16
    assert one_by_one(found, expected)[0]["lost_channels"] == 1
    with pytest.raises(ExportError, match="loses 1 of 8 channels: of channel 0"):
        one_by_one(found + 1, expected + 1)


def test_probabilities_that_vary_by_less_than_a_step_are_named(monkeypatch):
    monkeypatch.setattr(Given, "signatures", {"serve": {"outputs": {"y": {"scale": 1 / 256}}}})
    expected = 0.2 + 0.002 * np.random.default_rng(0).normal(size=(64, 1, 5))
    result, (doubt,) = one_by_one(np.rint(expected * 256) / 256, expected)
    assert result["r2"] < 11 / 12
    assert "this is the rounding of the output alone" in doubt
    with pytest.raises(ExportError, match="R2"):
        one_by_one(np.rint(expected * 64) / 64, expected)


def test_large_numbers_below_and_above_zero_are_no_probabilities():
    with np.errstate(over="raise"):
        assert not verify._probabilities(np.float32([[[-1e4, 800.0]]]))
        assert verify._probabilities(np.log(np.float32([[[0.25, 0.75]]])))
