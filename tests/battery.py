"""The checks that every architecture has to pass. Each takes a case and what the session shares."""

import inspect
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dl.export import export
from keras_dl.export.signatures import collect

BATCH = 8


def _rows(data, start, stop):
    return keras.tree.map_structure(lambda x: x[start:stop], data)


def _compiled(case, jit=False, **overrides):
    keras.utils.set_random_seed(1)
    model = case.create(**overrides)
    model.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=jit, **case.compile)
    return model


def _predict(model, inputs):
    return [np.asarray(keras.ops.cast(x, "float32")) for x in keras.tree.flatten(model(inputs, training=False))]


def _assert_close(found, expected, tolerance, what):
    """The largest error, as a share of the largest magnitude expected, is within the tolerance."""
    assert len(found) == len(expected), what
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape, what
        assert np.isfinite(b).all(), what
        error = np.abs(a - b).max() / max(np.abs(b).max(), 1e-6)
        assert error <= tolerance, f"{what}: relative error {error:.2e} is over {tolerance:.0e}"


def config_holds_every_argument(case, shared):
    """The case sets every argument to a value of its own, and a model made from the config has them all."""
    parameters = inspect.signature(case.model.__init__).parameters
    defaults = {name: p.default for name, p in parameters.items() if name not in ("self", "kwargs", "dtype", "name")}
    assert set(defaults) == set(case.arguments), "the case must set every argument of the constructor, and no other"
    for name, default in defaults.items():
        if name not in case.forced:
            assert case.arguments[name] != default, f"{name} is at its default: the check could not fail"
    config = json.loads(json.dumps(case.build(dtype="mixed_bfloat16", name="custom").get_config()))
    copy = case.model.from_config(config)
    assert copy.get_config() == case.build(dtype="mixed_bfloat16", name="custom").get_config()
    assert copy.dtype_policy.name == "mixed_bfloat16"
    assert copy.name == "custom"
    for name, value in case.arguments.items():
        kept = getattr(copy, name)
        plain = keras.saving.serialize_keras_object if not isinstance(value, list | tuple | dict) else _plain
        assert plain(kept) == plain(value), f"{name} was {value!r} and came back as {kept!r}"


def _plain(value):
    return json.loads(json.dumps(value))


def reloads_in_a_fresh_process(case, shared):
    """A trained model saved as `.keras` gives the same outputs in another process, optimizer state included."""
    model, _ = shared.once(_trained_in, case, "mixed_bfloat16")
    x, _ = case.data(BATCH)
    path = shared.folder / f"{case.name}.keras"
    model.save(path)
    result = shared.reload(path, x)
    assert case.policy(keras.models.load_model(path)).name == "mixed_bfloat16"
    for i, expected in enumerate(_predict(model, x)):
        np.testing.assert_array_equal(result[f"output_{i}"], expected)
    assert sum(name.startswith("optimizer_") for name in result) == len(model.optimizer.variables) > 2
    for i, variable in enumerate(model.optimizer.variables):
        np.testing.assert_array_equal(result[f"optimizer_{i}"], variable.numpy())


def _trained_in(case, policy):
    """A model trained in this precision, and its losses."""
    model = _compiled(case, dtype=policy)
    return model, model.fit(*case.data(BATCH), batch_size=BATCH, epochs=3, verbose=0).history["loss"]


def fit_lowers_the_loss_and_moves_every_weight(case, shared):
    model = _compiled(case)
    x, y = case.data(BATCH)
    before = [v.numpy() for v in model.trainable_variables]
    history = model.fit(x, y, batch_size=BATCH, epochs=12, verbose=0).history["loss"]
    assert np.isfinite(history).all()
    assert min(history[-3:]) < history[0], f"the loss went from {history[0]} to {history[-1]}"
    for old, variable in zip(before, model.trainable_variables, strict=True):
        new = variable.numpy()
        assert np.isfinite(new).all(), f"{variable.path} is not finite"
        assert (new != old).any(), f"{variable.path} got no gradient"


def compiles_under_xla(case, shared):
    """Inference compiles, traces once for a shape, and equals eager; a training step compiles, here or below."""
    model = _compiled(case, jit=True)
    x, y = case.data(BATCH)
    compiled = tf.function(lambda batch: model(batch, training=False), jit_compile=True)
    tensors = keras.tree.map_structure(tf.convert_to_tensor, x)
    assert "HloModule" in compiled.experimental_get_compiler_ir(tensors)(stage="hlo")
    found = [np.asarray(t) for t in keras.tree.flatten(compiled(tensors))]
    compiled(tensors)
    assert compiled.experimental_get_tracing_count() == 1
    _assert_close(found, _predict(model, x), 1e-4, "compiled inference")

    if "trains_equally_under_xla" in case.skips:  # else it is compiled there, which takes seconds
        assert np.isfinite(model.fit(x, y, batch_size=BATCH, verbose=0).history["loss"]).all()
        assert model.jit_compile is True


def trains_equally_under_xla(case, shared):
    x, y = case.data(BATCH)
    models = [_compiled(case, jit=jit) for jit in (False, True)]
    # Unshuffled, for noise is drawn by the place of a row in its batch.
    losses = [m.fit(x, y, batch_size=BATCH, epochs=3, shuffle=False, verbose=0).history["loss"] for m in models]
    assert models[1].jit_compile is True
    assert np.isfinite(losses[1]).all()
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)


def trains_in_mixed_precision(case, shared):
    x, _ = case.data(BATCH)
    reference = _predict(_compiled(case), x)
    for policy, tolerance in (("mixed_float16", 2e-2), ("mixed_bfloat16", 1e-1)):
        _assert_close(_predict(_compiled(case, dtype=policy), x), reference, tolerance, policy)
        model, losses = shared.once(_trained_in, case, policy)
        assert case.policy(model).name == policy
        assert {keras.backend.standardize_dtype(v.dtype) for v in model.trainable_variables} == {"float32"}
        assert np.isfinite(losses).all(), f"{policy}: {losses}"


def declared_shape_is_the_real_shape(case, shared):
    """For any batch; the declared one leaves the batch open."""
    model = case.create()
    for n in (1, 3):
        x, _ = case.data(n)
        declared = model.compute_output_shape(keras.tree.map_structure(lambda a: (None, *a.shape[1:]), x))
        declared = declared.values() if isinstance(declared, dict) else [declared]
        for output, shape in zip(_predict(model, x), declared, strict=True):
            assert shape[0] is None
            assert output.shape == (n, *shape[1:])


def masked_positions_change_nothing(case, shared):
    model = case.create()
    x, _ = case.data(4)
    _assert_close(_predict(model, case.padded(x)), _predict(model, x), 1e-6, "other values at masked positions")


def refuses_bad_arguments(case, shared):
    assert case.bad_arguments, "the case names no bad argument"
    for overrides, name in case.bad_arguments:
        with pytest.raises(ValueError, match=name) as caught:
            case.create(**overrides)
        assert str(overrides[name]) in str(caught.value), f"the message does not say what {name} was: {caught.value}"


def _calibration(case, model):
    """16 rows for each signature: of `case.served` where it has them, else of the case's inputs, in order."""
    calibration = {}
    for name, signature in collect(model).items():
        if name in case.served:
            columns = case.served[name](np.random.default_rng(1), 16)
        else:
            columns = dict(zip(signature.inputs, keras.tree.flatten(case.data(16, seed=1)[0]), strict=True))
        calibration[name] = [
            {key: columns[key][i : i + 1].astype(spec.dtype) for key, spec in signature.inputs.items()}
            for i in range(16)
        ]
    return calibration


def _trained(case):
    """A model after a short training on more examples than a batch: what the checks of files export."""
    model = _compiled(case)
    model.fit(*case.data(4 * BATCH, seed=2), batch_size=BATCH, epochs=3, verbose=0)
    return model


def exports(case, shared):
    """Every quantization holds its proof: no Flex op, no custom op, equal outputs within the case's tolerance.

    What of the file a GPU delegate (float32) or an Edge TPU (int8) would leave to the CPU has its reason.
    """
    model = shared.once(_trained, case)
    calibration = _calibration(case, model)
    for quantization in ("none", "float16", "dynamic_int8", "int8"):
        path = shared.folder / f"{case.name}-{quantization}.tflite"
        names = case.integer_signatures if quantization == "int8" else None
        samples = calibration if names is None else {name: calibration[name] for name in names}
        target = {"none": "gpu", "int8": "edgetpu"}.get(quantization, "cpu")
        options = dict(quantization=quantization, target=target, calibration=samples, signatures=names)
        report = export(model, path, **options)
        assert (report.flex_ops, report.custom_ops) == (0, 0)
        if target != "cpu":
            found, refused = report.target_report, report.target_report["not_delegated"]
            assert found["ops"] == found["delegated_ops"] + len(refused) > 0
            assert all(op["reason"] for op in refused)
        tolerance = 1e-4 if quantization == "none" else case.tolerance(quantization)
        for signature, outputs in report.proof["signatures"].items():
            if signature == "step":  # a stream: what comes back as next_X is the next call's X
                given = calibration["step"][0].keys()
                assert not given & outputs.keys()
                assert {name.removeprefix("next_") for name in outputs if name.startswith("next_")} <= given
            for output, errors in outputs.items():
                if "agreement" in errors and quantization in case.agreements:
                    assert errors["agreement"] >= case.agreements[quantization], f"{quantization} {signature}.{output}"
                    continue
                found = errors["max_rel_error"]
                assert found <= tolerance, f"{quantization} {signature}.{output}: {found:.1e} is over {tolerance:.0e}"


def exports_to_onnx(case, shared):
    """Each signature to a file of its own."""
    model = shared.once(_trained, case)
    for name, samples in _calibration(case, model).items():
        path = shared.folder / f"{case.name}-{name}.onnx"
        report = export(model, path, format="onnx", calibration={name: samples}, signatures=[name])
        for outputs in report.proof["signatures"].values():
            assert all(errors["max_rel_error"] <= 1e-4 for errors in outputs.values())


CHECKS = [
    config_holds_every_argument,
    reloads_in_a_fresh_process,
    fit_lowers_the_loss_and_moves_every_weight,
    compiles_under_xla,
    trains_equally_under_xla,
    trains_in_mixed_precision,
    declared_shape_is_the_real_shape,
    masked_positions_change_nothing,
    refuses_bad_arguments,
    exports,
    exports_to_onnx,
]
