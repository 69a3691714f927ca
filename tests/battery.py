"""The checks that every architecture has to pass. Each takes a case and what the session shares."""

import inspect
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dl.compat import all_layers, inner_layers
from keras_dl.export import Exporter
from keras_dl.export.signatures import collect
from keras_dl.recipes.training.resume import state_variables

BATCH = 8
# What a quantized file's detections have in common with those of Keras, as shares: sets, boxes and masks.
SETS = {"agreement", "mean_iou", "mean_mask_iou"}


def _compiled(case, jit=False, eager=False, optimizer=keras.optimizers.Adam, **overrides):
    keras.utils.set_random_seed(1)
    model = case.create(**overrides)
    model.compile(optimizer=optimizer(1e-3), jit_compile=jit, run_eagerly=eager, **case.compile)
    # Else the first step makes them, and `_Trainer` would not know them.
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    return model


class _Trainer:
    """A model in float32 whose training step is traced once, and which starts each training from its first values.

    `outputs` are those of the new model for a batch.
    """

    def __init__(self, case):
        self.model = _compiled(case)
        self.outputs = _predict(self.model, case.call_inputs(BATCH))
        self._variables = state_variables(self.model)
        self._values = [variable.numpy() for variable in self._variables]

    def fit(self, data, **options):
        """The loss of each epoch."""
        for variable, value in zip(self._variables, self._values, strict=True):
            variable.assign(value)
        keras.utils.set_random_seed(1)
        return self.model.fit(*data, batch_size=BATCH, verbose=0, **options).history["loss"]


def _first_training(case, shared):
    """Twelve epochs on one batch: the losses, and the trainable variables with their values before and after."""
    trainer = shared.once(_Trainer, case)
    before = [v.numpy() for v in trainer.model.trainable_variables]
    # Unshuffled, for noise is drawn by the place of a row in its batch, and the same training follows under XLA.
    losses = trainer.fit(case.data(BATCH), epochs=12, shuffle=False)
    return losses, [(v.path, old, v.numpy()) for v, old in zip(trainer.model.trainable_variables, before, strict=True)]


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
    model, _, _ = shared.once(_trained_in, case, "mixed_bfloat16")
    x = case.call_inputs(BATCH)
    path = shared.folder / f"{case.name}.keras"
    model.save(path)
    result = shared.reload(path, x)
    assert case.policy(model).name == "mixed_bfloat16"
    assert list(result["policies"]) == [layer.dtype_policy.name for layer in all_layers(model)]
    for i, expected in enumerate(_predict(model, x)):
        np.testing.assert_array_equal(result[f"output_{i}"], expected)
    assert sum(name.startswith("optimizer_") for name in result) == len(model.optimizer.variables) > 2
    for i, variable in enumerate(model.optimizer.variables):
        np.testing.assert_array_equal(result[f"optimizer_{i}"], variable.numpy())


def _trained_in(case, policy):
    """A model trained in this precision, its outputs before that, and its losses.

    float16 in a graph, which shows wrong types, and bfloat16 eagerly: for a few steps, a graph takes longer to trace
    than to run.
    """
    model = _compiled(case, eager=policy == "mixed_bfloat16", dtype=policy)
    outputs = _predict(model, case.call_inputs(BATCH))
    return model, outputs, model.fit(*case.data(BATCH), batch_size=BATCH, epochs=3, verbose=0).history["loss"]


def frozen_layers_stay_frozen(case, shared):
    """A model with a frozen layer, saved and loaded, trains on as one that was never saved."""
    model = _compiled(case)
    leaves = [
        layer
        for layer in all_layers(model)
        if layer.trainable_variables
        and (isinstance(layer, keras.layers.RNN) or not any(x.trainable_variables for x in inner_layers(layer)))
    ]
    assert len(leaves) > 1, "the case needs a layer to freeze and one to train"
    leaves[0].trainable = False
    # Eagerly, for a graph of one step takes longer to trace than to run.
    model.compile(optimizer=keras.optimizers.Adam(1e-3), run_eagerly=True, **case.compile)
    options = dict(batch_size=BATCH, shuffle=False, verbose=0)
    model.fit(*case.data(BATCH), **options)
    model.save(shared.folder / f"{case.name}.keras")
    copy = keras.models.load_model(shared.folder / f"{case.name}.keras")
    for a, b in zip(copy.variables, model.variables, strict=True):
        if "seed_generator" in b.path:  # Keras saves no states of random generators
            a.assign(b)
    for each in (model, copy):
        keras.utils.set_random_seed(2)
        each.fit(*case.data(BATCH, seed=1), **options)
    kinds = ("trainable_variables", "non_trainable_variables")
    found, expected = ([getattr(m, kind) for kind in kinds] + [m.optimizer.variables] for m in (copy, model))
    for of_copy, of_model in zip(found, expected, strict=True):
        for a, b in zip(of_copy, of_model, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=b.path)


def fit_lowers_the_loss_and_moves_every_weight(case, shared):
    losses, weights = shared.once(_first_training, case, shared)
    assert np.isfinite(losses).all()
    assert min(losses[-3:]) < losses[0], f"the loss went from {losses[0]} to {losses[-1]}"
    for path, old, new in weights:
        assert np.isfinite(new).all(), f"{path} is not finite"
        assert (new != old).any(), f"{path} got no gradient"


def compiles_under_xla(case, shared):
    """Inference compiles, traces once for a shape, and equals eager; a training step compiles, here or below."""
    # The optimizer with the fewest operations: its step is Keras's, and would take most of the time.
    model = _compiled(case, jit=True, optimizer=keras.optimizers.SGD)
    x = case.call_inputs(BATCH)
    compiled = tf.function(lambda batch: model(batch, training=False), jit_compile=True)
    tensors = keras.tree.map_structure(tf.convert_to_tensor, x)
    assert "HloModule" in compiled.experimental_get_compiler_ir(tensors)(stage="hlo")
    found = [np.asarray(t) for t in keras.tree.flatten(compiled(tensors))]
    compiled(tensors)
    assert compiled.experimental_get_tracing_count() == 1
    _assert_close(found, _predict(model, x), 1e-4, "compiled inference")

    # Else it is compiled there, which takes seconds.
    if "trains_equally_under_xla" in {*case.skips, *case.slow_checks}:
        assert np.isfinite(model.fit(*case.data(BATCH), batch_size=BATCH, verbose=0).history["loss"]).all()
        assert model.jit_compile is True


def trains_equally_under_xla(case, shared):
    expected, _ = shared.once(_first_training, case, shared)
    model = _compiled(case, jit=True)
    losses = model.fit(*case.data(BATCH), batch_size=BATCH, epochs=3, shuffle=False, verbose=0).history["loss"]
    assert model.jit_compile is True
    assert np.isfinite(losses).all()
    np.testing.assert_allclose(losses, expected[:3], rtol=1e-3)


def trains_in_mixed_precision(case, shared):
    expected = shared.once(_Trainer, case).outputs
    for policy, tolerance in (("mixed_float16", 2e-2), ("mixed_bfloat16", 1e-1)):
        model, outputs, losses = shared.once(_trained_in, case, policy)
        _assert_close(outputs, expected, tolerance, policy)
        assert case.policy(model).name == policy
        assert {keras.backend.standardize_dtype(v.dtype) for v in model.trainable_variables} == {"float32"}
        assert np.isfinite(losses).all(), f"{policy}: {losses}"


def trains_compiled_with_adam(case, shared):
    """In bfloat16 in a graph, and under XLA: the other checks train eagerly there, and with the simplest optimizer."""
    data = case.data(BATCH)
    models = [_compiled(case, dtype="mixed_bfloat16")]
    if "compiles_under_xla" not in case.skips:
        models.append(_compiled(case, jit=True))
    for model in models:
        assert np.isfinite(model.fit(*data, batch_size=BATCH, epochs=2, verbose=0).history["loss"]).all()


def declared_shape_is_the_real_shape(case, shared):
    """For any batch; the declared one leaves the batch open."""
    model = case.create()
    for n in (1, 3):
        x = case.call_inputs(n)
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
    """Rows for each signature: of `case.served` where it has them, else of the case's inputs, in order."""
    calibration = {}
    for name, signature in collect(model).items():
        if name in case.served:
            columns = case.served[name](np.random.default_rng(1), case.calibration)
        else:
            columns = dict(
                zip(signature.inputs, keras.tree.flatten(case.data(case.calibration, seed=1)[0]), strict=True)
            )
        calibration[name] = [
            {key: columns[key][i : i + 1].astype(spec.dtype) for key, spec in signature.inputs.items()}
            for i in range(case.calibration)
        ]
    return calibration


def _trained(case, shared):
    """A model after a short training on more examples than a batch."""
    shared.once(_first_training, case, shared)  # which no later check starts again
    trainer = shared.once(_Trainer, case)
    trainer.fit(case.data(4 * BATCH, seed=2), epochs=3)
    return trainer.model


def _exporter(case, shared):
    """What the checks of files share: a trained model, its calibration, traces, and what Keras computes."""
    model = _trained(case, shared)
    return Exporter(model, _calibration(case, model))


def exports(case, shared):
    """Every quantization holds its proof: no Flex op, no custom op, equal outputs within the case's tolerance.

    What of the file a GPU delegate (float32) or an Edge TPU (int8) would leave to the CPU has its reason.
    """
    exporter = shared.once(_exporter, case, shared)
    for quantization in ("none", "float16", "dynamic_int8", "int8"):
        path = shared.folder / f"{case.name}-{quantization}.tflite"
        names = case.integer_signatures if quantization == "int8" else None
        if quantization in ("float16", "dynamic_int8"):
            names = case.whole_signatures
        if names == ():
            continue
        target = {"none": "gpu", "int8": "edgetpu"}.get(quantization, "cpu")
        report = exporter.export(path, quantization=quantization, target=target, signatures=names)
        assert (report.flex_ops, report.custom_ops) == (0, 0)
        if target != "cpu":
            found, refused = report.target_report, report.target_report["not_delegated"]
            assert found["ops"] == found["delegated_ops"] + len(refused) > 0
            assert all(op["reason"] for op in refused)
        tolerance = 1e-4 if quantization == "none" else case.tolerance(quantization)
        sets = {} if quantization in ("none", "float16") else report.proof.get("detections", {})
        for signature, figures in sets.items():  # what rounding adds to a set, or takes away, has no partner to be near
            for measure in SETS & figures.keys():
                found = 1 - figures[measure]
                assert found <= tolerance, f"{quantization} {signature}: 1 - {measure} is {found:.1e}, over {tolerance}"
        for signature, outputs in report.proof["signatures"].items():
            if signature in sets:
                continue
            if signature == "step":  # a stream: what comes back as next_X is the next call's X
                given = report.signatures["step"]["inputs"].keys()
                assert not given & outputs.keys()
                assert {name.removeprefix("next_") for name in outputs if name.startswith("next_")} <= given
            for output, errors in outputs.items():
                if "agreement" in errors and quantization in case.agreements:
                    assert errors["agreement"] >= case.agreements[quantization], f"{quantization} {signature}.{output}"
                    continue
                found = errors["max_rel_error"]
                if output == "masks":  # a box that is rounded to whole pixels may move the edge of one
                    found = 1 - report.proof["detections"][signature]["mean_mask_iou"]
                assert found <= tolerance, f"{quantization} {signature}.{output}: {found:.1e} is over {tolerance:.0e}"


def exports_to_onnx(case, shared):
    """Each signature to a file of its own."""
    exporter = shared.once(_exporter, case, shared)
    for name in collect(exporter.model):
        path = shared.folder / f"{case.name}-{name}.onnx"
        report = exporter.export(path, format="onnx", signatures=[name])
        for outputs in report.proof["signatures"].values():
            assert all(errors["max_rel_error"] <= 1e-4 for errors in outputs.values())


CHECKS = [
    config_holds_every_argument,
    reloads_in_a_fresh_process,
    frozen_layers_stay_frozen,
    fit_lowers_the_loss_and_moves_every_weight,
    compiles_under_xla,
    trains_equally_under_xla,
    trains_in_mixed_precision,
    trains_compiled_with_adam,
    declared_shape_is_the_real_shape,
    masked_positions_change_nothing,
    refuses_bad_arguments,
    exports,
    exports_to_onnx,
]
# Checks that `make test-all` runs and `make test` does not: further compilations of what other checks compile.
SLOW = [trains_compiled_with_adam]
