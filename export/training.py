"""Files that learn on a device: beside what the model serves, they have the signatures `train`, `save` and `restore`.

    train(inputs, labels, learning_rate) -> loss      one step of gradient descent: w <- w - learning_rate dL/dw
    save() -> weights                                 the weights that learn, by name
    restore(weights) -> restored                      puts them back

The weights that learn are variables of the file, which a runtime keeps between calls. All others are constants. All ops
are builtins. LiteRT has VAR_HANDLE, READ_VARIABLE and ASSIGN_VARIABLE; gradients that it does not have are written with
its other ops, those of convolutions and averages too. Layers compute as in inference: nothing is dropped, and
normalization keeps its statistics.

In LiteRT's guide to on-device training, `save` writes a checkpoint by an op that is no builtin. Here it returns the
weights, and an application writes them wherever it keeps its files.
"""

import contextlib
import logging
import os
import re
import tempfile
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from keras import KerasTensor

from keras_dl.export import graph, litert, quantize, saved_model, standard_metadata
from keras_dl.export.errors import ExportError
from keras_dl.export.exporter import quiet, versions
from keras_dl.export.file_set import open_seals, report_path, sha256
from keras_dl.export.inspection import inspect
from keras_dl.export.metadata import LEARNING, check_labels
from keras_dl.export.report import Report
from keras_dl.export.request import Request, loaded
from keras_dl.export.runners import load
from keras_dl.export.signatures import computing_in_float32, named_as_scopes
from keras_dl.export.source import LOG, Source
from keras_dl.export.verify import RELATIVE_TOLERANCE, errors, prove
from keras_dl.files import replacing
from keras_dl.interrupts import heard
from keras_dl.signatures import Signature
from keras_dl.version import __version__

_LEARNING = (keras.layers.Dense, keras.layers.BatchNormalization)  # their gradients are products and sums


# Gradients of ops for which those of TensorFlow have no builtin in LiteRT, by op.
_GRADIENTS = {"Relu": "KerasDlRelu", "Conv2D": "KerasDlConv2D", "AvgPool": "KerasDlAvgPool"}


@tf.RegisterGradient(_GRADIENTS["Relu"])
def _relu(op, gradient):
    return gradient * tf.cast(op.outputs[0] > 0, gradient.dtype)


@tf.RegisterGradient(_GRADIENTS["Conv2D"])
def _convolution(op, gradient):
    """By the inputs, a transposed convolution. By the kernel, a convolution in which batch and channels change places.

    A step from one output to the next is then one from a product to the next: strides and dilations change places, too.
    """
    (x, kernel), padding = op.inputs, op.get_attr("padding")
    strides, dilations = op.get_attr("strides"), op.get_attr("dilations")
    options = dict(strides=strides, padding=padding, dilations=dilations)
    by_inputs = tf.nn.conv2d_transpose(gradient, kernel, tf.shape(x), **options)
    if x.shape[-1] != kernel.shape[2]:  # groups: the converter will say that it has no such gradient
        sizes = tf.shape(kernel)
        return by_inputs, tf.raw_ops.Conv2DBackpropFilter(
            input=x, filter_sizes=sizes, out_backprop=gradient, **{**options, "padding": padding.decode()}
        )
    sides = kernel.shape[:2]
    if padding == b"SAME":
        pads = [(0, 0)]
        for i in (1, 2):
            reach = (gradient.shape[i] - 1) * strides[i] + (sides[i - 1] - 1) * dilations[i] + 1
            total = max(reach - x.shape[i], 0)
            pads.append((total // 2, total - total // 2))
        x = tf.pad(x, [*pads, (0, 0)])
    moved, filters = tf.transpose(x, (3, 1, 2, 0)), tf.transpose(gradient, (1, 2, 0, 3))
    products = tf.nn.conv2d(moved, filters, dilations, "VALID", dilations=strides)  # (in, height and more, width, out)
    return by_inputs, tf.transpose(products[:, : sides[0], : sides[1]], (1, 2, 0, 3))


@tf.RegisterGradient(_GRADIENTS["AvgPool"])
def _average(op, gradient):
    """Of windows side by side: each place of a window has its share. Of others, TensorFlow's."""
    window, strides, shape = op.get_attr("ksize"), op.get_attr("strides"), op.inputs[0].shape
    rows, columns = window[1:3]
    if window != strides or shape[1] % rows or shape[2] % columns:
        return tf.raw_ops.AvgPoolGrad(
            orig_input_shape=tf.shape(op.inputs[0]),
            grad=gradient,
            ksize=window,
            strides=strides,
            padding=op.get_attr("padding").decode(),
        )
    return tf.repeat(tf.repeat(gradient / (rows * columns), rows, 1), columns, 2)


def export_training(
    model: keras.Model | str | os.PathLike,
    path: str | os.PathLike,
    batch_size: int = 8,
    layers: Sequence[str] | None = None,
    metadata: dict | None = None,
) -> Report:
    """Writes a float LiteRT file that also learns, and proves a step of it against Keras.

    Its signatures are the one of the model for one example, and these:

    - `train` takes `batch_size` examples as the model's signature does; `labels`, int32 `(batch_size,)`, or for a
      regression `targets`, float32 `(batch_size, outputs)`; and `learning_rate`, float32 `()`. It changes the weights
      by one step of gradient descent, and returns `{"loss": float32 ()}`, that before the step: the mean cross-entropy,
      or the mean squared error.
    - `save` takes nothing, and returns the weights that learn by name.
    - `restore` takes these, and returns `{"restored": int32 ()}`, their number.

    Args:
        model: a classifier that returns logits `(batch, classes)` (`returns_logits`), or a model with
            `task="regression"` that returns `(batch, outputs)`, of one signature with one input; or the path of a
            `.keras` file.
        path: of the file, which ends with `.tflite`.
        batch_size: int, at least 1. Examples of a step.
        layers: names of the layers that learn. None for all, if all that have weights are dense or batch
            normalization, as those of an MLP; else for the last one, which is the head.
        metadata: dict, as `export` takes it.

    Returns:
        `Report`. Its `proof` has `training`: by `"loss"` and weight `keras_dl.export.verify.errors` after one step.

    Raises:
        TypeError: if an argument has a wrong type.
        ValueError: if an argument has a wrong value, or the model cannot be trained in this way.
        ExportError: if LiteRT has no builtin op for a gradient, or the file differs from Keras. No file is written.

    Example:

    >>> import keras_dl, tempfile
    >>> model = keras_dl.MLP(4, 3, hidden_dims=(8,))
    >>> report = export_training(model, tempfile.mkdtemp() + "/model.tflite")
    >>> list(report.signatures), report.flex_ops
    (['predict', 'train', 'save', 'restore'], 0)
    """
    model = loaded(model)
    request = Request(path, "litert", "none", "cpu", metadata, metric=None, verify=True, float_layers=())
    path, metadata = request.path, metadata or {}
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r} must be an int of at least 1.")
    source = Source(model)
    try:
        step = _Step(model, source.signatures, batch_size, _variables(model, layers))
        check_labels(metadata, step.outputs)
        # Closed in reverse order: the file gets its name first, and its report last.
        with quiet(), heard(), replacing(report_path(path)) as report_file, replacing(path) as file:
            LOG.info("Writing %s.", path.name)
            own = {"version": __version__, "model": model.name}
            own["training"] = {"batch_size": batch_size, "weights": list(step.names)}
            content = step.converted()
            content = standard_metadata.with_metadata(content, step.signatures, metadata, own, model.name)
            file.write_bytes(content)
            contents, artifact = inspect(file, trust=True), load(file, trust=True)
            if contents["flex_ops"] or contents["custom_ops"]:
                raise ExportError(f"The file holds ops that are not builtins: {contents['ops']}.")
            contents["tensors"] |= quantize.check(graph.read(file), "none", model)
            LOG.info("Comparing %s with the model.", path.name)
            served = [step.served]
            proof = prove(artifact, source.expected(served), source.proof_samples(served), "none", drawn=served)
            proof["training"] = step.prove(artifact)
            in_order = {name: contents["signatures"][name] for name in step.signatures}
            report = Report(
                **contents | {"path": str(path), "signatures": in_order},
                quantization="none",
                target="cpu",
                sha256=sha256(file),
                proof=proof,
                metric=None,
                latency_ms={},
                target_report={},
                versions=versions("litert"),
                warnings=["The proof ran on random inputs, which are unlike real ones."],
            )
            report.save(report_file)
            open_seals({path: ()})
        return report
    finally:
        source.close()


def _variables(model, names):
    """The variables that learn: list, in the order of their layers.

    Raises:
        TypeError: if `names` is one str.
        ValueError: if there is no such layer, or it has nothing to learn.
    """
    able = [layer for layer in model.layers if layer.trainable_variables]
    if not able:
        raise ValueError("model has no layer with weights that may learn: set `trainable` of one.")
    if isinstance(names, str):
        raise TypeError(f"layers={names!r} must be a sequence of names, not one str.")
    if names is None:
        chosen = able if all(isinstance(layer, _LEARNING) for layer in able) else able[-1:]
    else:
        unknown = sorted(set(names) - {layer.name for layer in able})
        if unknown or not names:
            known = ", ".join(layer.name for layer in able)
            raise ValueError(f"layers={list(names)!r} must name layers that have weights to learn: {known}.")
        chosen = [layer for layer in able if layer.name in names]
    return [variable for layer in chosen for variable in layer.trainable_variables]


class _Step:
    """The signatures of a file that learns, and the step that Keras takes.

    Args:
        model: the `keras.Model`.
        served: dict of its `Signature`.
        batch_size: int.
        variables: list of Keras's variables that learn.

    Attributes:
        served: str. The name of the model's own signature.
        names: tuple of str. Of the weights that learn, in the file.
        signatures: dict of `Signature` by name.
        outputs: list of `(shape, dtype)` of the model's answers.
    """

    def __init__(self, model, served, batch_size, variables):
        if len(served) > 1 or len(next(iter(served.values())).inputs) > 1 or set(served) & set(LEARNING):
            what = ", ".join(f"{name}({', '.join(x.inputs)})" for name, x in served.items())
            raise ValueError(f"model={model.name!r} serves {what}. A file that learns has one signature of one input.")
        self._classes = bool(getattr(model, "returns_logits", False))
        if not self._classes and getattr(model, "task", None) != "regression":
            raise ValueError(
                f"model={model.name!r} returns neither logits (returns_logits) nor values (task='regression'), so that "
                "its loss is unknown."
            )
        self._model, self._variables = model, variables
        ((self.served, signature),) = served.items()
        ((self._input, x),) = signature.inputs.items()
        outputs = model.compute_output_spec(KerasTensor((batch_size, *x.shape[1:]), "float32"))
        if len(getattr(outputs, "shape", ())) != 2:
            what = getattr(outputs, "shape", f"a {type(outputs).__name__}")
            raise ValueError(
                f"model={model.name!r} returns {what}. A file that learns needs one output (batch, classes), or "
                "(batch, values) of a regression."
            )
        outputs = outputs.shape
        self.outputs = [((1, outputs[-1]), "float32")]
        self.names = tuple(_distinct(variable.path for variable in variables))
        self._held = [tf.Variable(variable.value, name=f"learned_{name}") for name, variable in self._pairs()]
        learning = {id(variable) for variable in variables}
        # As numbers: inside of a graph, they cannot be read.
        self._constants = [(v, v.numpy()) for v in model.variables if id(v) not in learning]
        targets = ("labels", (batch_size,), "int32") if self._classes else ("targets", outputs, "float32")
        self._target = targets[0]
        if self._input in (self._target, "learning_rate"):
            raise ValueError(
                f"model={model.name!r} has an input named {self._input!r}, which is an argument of 'train' itself. "
                "Give the input another name."
            )
        weights = {name: KerasTensor(v.shape, "float32", name=name) for name, v in self._pairs()}
        given = {
            self._input: KerasTensor((batch_size, *x.shape[1:]), x.dtype, name=self._input),
            self._target: KerasTensor(*targets[1:], name=self._target),
            "learning_rate": KerasTensor((), "float32", name="learning_rate"),
        }
        self.signatures = {
            self.served: Signature(self._serving(signature.function), signature.inputs),
            "train": Signature(self._train, given),
            "save": Signature(self._save, {}),
            "restore": Signature(self._restore, weights),
        }

    def _pairs(self):
        return zip(self.names, self._variables, strict=True)

    def _reading(self, weights):
        """A block in which the model has these weights, and its others as constants."""
        learned = [(v, tf.cast(w, v.dtype)) for v, w in zip(self._variables, weights, strict=True)]
        return keras.StatelessScope([(v, tf.constant(x, v.dtype)) for v, x in self._constants] + learned)

    def _serving(self, function):
        def serve(**inputs):
            with self._reading([w.read_value() for w in self._held]):
                return function(**inputs)

        return serve

    def _loss(self, answers, targets):
        answers = tf.cast(answers, "float32")
        if not self._classes:
            return tf.reduce_mean(tf.square(answers - targets))
        chosen = tf.one_hot(targets, answers.shape[-1]) * tf.nn.log_softmax(answers)
        return -tf.reduce_mean(tf.reduce_sum(chosen, -1))

    def _train(self, learning_rate, **given):
        weights = [w.read_value() for w in self._held]
        override = tf.compat.v1.get_default_graph().gradient_override_map(_GRADIENTS)
        with self._reading(weights), override:
            answers = self._model(tf.cast(given[self._input], "float32"), training=False)
        loss = self._loss(answers, given[self._target])
        # Those of the graph, not of a tape: a tape does not ask for overridden gradients.
        for held, weight, gradient in zip(self._held, weights, tf.gradients(loss, weights), strict=True):
            held.assign(weight - learning_rate * gradient)
        return {"loss": loss}

    def _save(self):
        return {name: held.read_value() for name, held in zip(self.names, self._held, strict=True)}

    def _restore(self, **weights):
        for name, held in zip(self.names, self._held, strict=True):
            held.assign(weights[name])
        return {"restored": tf.constant(len(weights), tf.int32)}

    def converted(self):
        """The LiteRT file: bytes.

        Raises:
            ExportError: if LiteRT has no builtin op for a gradient.
        """
        model = self._model
        scratch = tempfile.TemporaryDirectory()
        with computing_in_float32(model), named_as_scopes(model), _without_gradients_of_gradients(), scratch as folder:
            traced = {name: saved_model.trace_signature(model, name, x) for name, x in self.signatures.items()}
            origins = {
                name: {key: saved_model.origin(y) for key, y in x.concrete.structured_outputs.items()}
                for name, x in traced.items()
            }
            litert.write(model, traced, folder)
            opened = litert.reader(folder, self.signatures)
            try:
                return litert.convert(model, opened, origins, experimental_enable_resource_variables=True)
            except ExportError as error:
                raise ExportError(f"{error} Or let other layers learn: layers names them.") from error

    def prove(self, artifact):
        """Takes a step in Keras and in the file, from random inputs: `keras_dl.export.verify.errors` by weight.

        Raises:
            ExportError: if loss or weights differ, nothing is learned, or `restore` does not bring the weights back.
        """
        random, given = np.random.default_rng(0), self.signatures["train"].inputs
        (shape, dtype), target = ((x.shape, x.dtype) for x in (given[self._input], given[self._target]))
        inputs = random.integers(0, 256, shape) if dtype == "uint8" else random.normal(size=shape)
        targets = random.normal(size=target[0])
        if self._classes:
            targets = random.integers(0, self.outputs[0][0][-1], target[0])
        inputs, targets = inputs.astype(dtype), targets.astype(target[1])
        with computing_in_float32(self._model), tf.GradientTape() as tape:
            answers = self._model(inputs.astype("float32"), training=False)
            loss = (
                keras.losses.sparse_categorical_crossentropy(targets, answers, from_logits=True)
                if self._classes
                else keras.losses.mean_squared_error(targets, answers)
            )
            loss = tf.reduce_mean(loss)
        gradients = tape.gradient(loss, [v.value for v in self._variables])
        gradients = [tf.convert_to_tensor(x).numpy() for x in gradients]  # those of an Embedding are IndexedSlices
        weights = [v.numpy() for v in self._variables]
        steepest = max(np.abs(x).max() for x in gradients)
        if not np.isfinite(steepest) or steepest == 0:
            raise ExportError(f"The gradients of the weights are {steepest} at most: the model cannot learn from them.")
        # So large a step that the changes are not lost in the rounding of the weights.
        rate = np.float32(max(1e-3, *(np.abs(x).max() for x in weights)) / steepest)
        expected = {"loss": np.asarray(loss)} | {
            name: weight - rate * gradient
            for name, weight, gradient in zip(self.names, weights, gradients, strict=True)
        }
        before = artifact.run("save", {})
        found = artifact.run("train", {self._input: inputs, self._target: targets, "learning_rate": rate})
        found |= artifact.run("save", {})
        proof = {name: errors(found[name], x) for name, x in expected.items()}
        for name, x in proof.items():
            if not x["max_rel_error"] <= RELATIVE_TOLERANCE["none"]:
                raise ExportError(f"After a step of training, {name!r} differs from that of Keras: {x}.")
        artifact.run("restore", before)
        for name, weight in artifact.run("save", {}).items():
            if not np.array_equal(weight, before[name]):
                raise ExportError(f"The signature restore does not bring {name!r} back.")
        return proof


@contextlib.contextmanager
def _without_gradients_of_gradients():
    """A block in which TensorFlow does not warn that it did not save the gradients above: they are in the graph."""
    log = logging.getLogger("absl")

    def wanted(record):
        return "unsaved custom gradients" not in str(record.msg)

    log.addFilter(wanted)
    try:
        yield
    finally:
        log.removeFilter(wanted)


def _distinct(paths):
    """Names of weights that a signature can have: `hidden_1_kernel`, from the ends of their paths."""
    names = []
    for path in paths:
        name = re.sub(r"\W", "_", "/".join(path.split("/")[-2:]))
        names.append(name if name not in names else f"{name}_{len(names)}")
    return names
