"""From a SavedModel to LiteRT, with only builtin ops."""

import copy
import functools
import logging
import re
import time
import warnings

import tensorflow as tf

from keras_dl.compat import all_layers, change_before_quantizing, quantize_calibrated
from keras_dl.export import constants, fused_lstm, names, orders, ranges, reversals, saved_model, sums, zero_scales
from keras_dl.export.errors import ExportError

# The converter writes one line for each op for which it has no builtin:
# loc(...fused["Svd:", "model/layer/Svd@__inference_serve_41"]...): 'tf.Svd' op is neither a custom op nor a flex op
_UNSUPPORTED = re.compile(r"""fused\["[^"]*", "(?P<scopes>[^"@]+)@[^\n]*'tf\.(?P<op>\w+)' op is neither a custom""")
# Other errors of the converter begin with the place in its own form: "<unknown>:0: error: loc(...): ".
_LOCATION = re.compile(r"^\S*: error: (loc\(.*\): )?")
_PLACE = re.compile(r"""fused\["(?P<op>\w+):", "(?P<scopes>[^"@]+/[^"@]+)@""")
# What the quantizer of int16x8 says of integers that it takes for values.
_UNRANGED = re.compile(r"should be recorded during calibration: Failed for tensor (?P<tensor>[^\s:]+)")

# What would do, by the op that LiteRT does not have.
_CURES = {
    "Conv2DBackpropInput": "LiteRT transposes convolutions only without dilation, channels last: use dilation_rate=1 "
    "and data_format='channels_last', or UpSampling2D and Conv2D.",
    "Conv2DBackpropFilter": "LiteRT has no gradient of grouped convolutions.",
    "DenseBincount": "Add up keras.ops.one_hot instead.",
    **dict.fromkeys(
        ("MaxPool3D", "AvgPool3D"),
        "Pool two dimensions and then the third, each with a pool in 2-D between two reshapes.",
    ),
    "Conv3DBackpropInputV2": "Use UpSampling3D and Conv3D.",
    **dict.fromkeys(
        ("LookupTableFindV2", "LookupTableSizeV2", "HashTableV2", "MutableHashTableV2"),
        "Look up outside of the file: build a model from the input behind the lookup, and export that.",
    ),
}
_TABLES = (
    tf.lookup.StaticHashTable,
    tf.lookup.StaticVocabularyTable,
    tf.lookup.experimental.DenseHashTable,
    tf.lookup.experimental.MutableHashTable,
)
_SECONDS_BETWEEN_NOTES = 10
_INT16 = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
_LOG = logging.getLogger("keras_dl.export")


def write(model, traced, folder):
    """Writes traced signatures as a SavedModel that holds only what `convert` reads.

    Keras's own archive also holds the tree of layers, custom gradients and a second copy of each graph.

    Args:
        model: the `keras.Model` that the signatures belong to.
        traced: dict of `keras_dl.export.saved_model.Traced` by signature.
        folder: path of the new folder.

    Raises:
        ExportError: if a signature uses a resource, such as a table, that no layer holds as an attribute.
    """
    served = tf.Module()
    signatures = {name: x.concrete for name, x in traced.items()}
    served.held = [x for concrete in signatures.values() for x in concrete.graph.variables]
    served.tables = [x for layer in all_layers(model) for x in vars(layer).values() if isinstance(x, _TABLES)]
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    try:
        tf.saved_model.save(served, str(folder), signatures, options)
    except AssertionError as error:  # TensorFlow's, for what it does not find
        if "untracked" not in str(error):
            raise
        raise ExportError(
            "The model uses a table, or another resource of TensorFlow, that is not an attribute of one of its layers. "
            "Make it one."
        ) from error


def reader(folder, names):
    """Opens written signatures. The result can be given to `convert` several times.

    Args:
        folder: path of the folder that `write` made.
        names: names of the signatures, in order.

    Returns:
        `tf.lite.TFLiteConverter` with default settings.
    """
    return tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=list(names))


def convert(model, opened, origins, check=None, **settings):
    """Converts written signatures to one LiteRT file.

    Args:
        model: the `keras.Model` that the signatures belong to; errors name its layers.
        opened: the result of `reader`, which is not changed.
        origins: dict by signature of dicts by output: the names of the ops that compute them.
        check: function of the float file, bytes, which may raise an ExportError. It is called before the calibration.
        settings: attributes of `tf.lite.TFLiteConverter`; those of its `target_spec` as a dict `target_spec`.
            `keras_dl.compat.CALIBRATE_ONLY` gives the file that `quantize_all_but` takes.

    Returns:
        bytes: the flatbuffer.

    Raises:
        ExportError: if an op has no builtin in LiteRT; the message names each such op and its layer.
    """
    _LOG.info("Converting to LiteRT.")
    converter = copy.copy(opened)
    converter.target_spec = tf.lite.TargetSpec(supported_ops=[tf.lite.OpsSet.TFLITE_BUILTINS])
    for name, value in settings.pop("target_spec", {}).items():
        setattr(converter.target_spec, name, value)
    for name, value in settings.items():
        setattr(converter, name, value)
    if converter.representative_dataset is not None:
        converter.representative_dataset = functools.partial(_counted, converter.representative_dataset)
    # Calibration runs the float file, which clips cell states. After it, the weights no longer show which layer an LSTM
    # comes from, and outputs are no longer those of the last ops.
    change_before_quantizing(converter, lambda x: _float_mended(x, model.variables, origins, converter, check))
    try:
        with warnings.catch_warnings():
            # The converter's own calibrator uses the interpreter that TensorFlow has deprecated.
            warnings.filterwarnings("ignore", message=r"(?s).*tf\.lite\.Interpreter is deprecated")
            content = converter.convert()
    except ExportError:  # of the check
        raise
    except Exception as error:  # ConverterError, or what the calibrator raises; none has a public class
        # `from None`: the converter's own message is pages of its intermediate representation.
        raise ExportError(_explain(error, model)) from None
    if _INT16 in converter.target_spec.supported_ops:
        content = constants.joined(content)
    return names.outputs_named(_mended(content, model.variables), origins)


def _float_mended(content, variables, origins, converter, check):
    """The float file, as the converter's quantizer gets it."""
    content = names.outputs_named(fused_lstm.mended(content, variables), origins)
    if check is not None:
        check(content)
    if converter.representative_dataset is None:
        return content
    if _INT16 in converter.target_spec.supported_ops:
        content = constants.separated(sums.as_means(content))
    return ranges.separated(content)


def _counted(representative):
    """The samples of a calibration set. A long calibration says how far it is."""
    said = time.monotonic()
    for count, sample in enumerate(representative()):
        if time.monotonic() - said > _SECONDS_BETWEEN_NOTES:
            said = time.monotonic()
            _LOG.info("Calibrating: %d samples so far.", count)
        yield sample


def quantize_all_but(content, nodes, dtype):
    """Quantizes a calibrated file except for some of its ops, as TensorFlow's QuantizationDebugger does.

    Args:
        content: bytes: a flatbuffer with the ranges of its tensors, not quantized yet.
        nodes: list of str: names of the first outputs of the ops that stay in float32.
        dtype: `tf.DType` of inputs and outputs.

    Returns:
        bytes: the flatbuffer.
    """
    return _mended(quantize_calibrated(content, dtype, nodes))


def _mended(content, variables=()):
    """The converter's file, with repairs of faults that make it wrong, or that crash the runtime."""
    content = zero_scales.mended(reversals.mended(fused_lstm.mended(content, variables)))
    return orders.mended(ranges.requantized(content))


def _explain(error, model):
    message = str(error)
    matches = [match for match in _UNSUPPORTED.finditer(message) if match["op"] != "LookupTableImportV2"]
    unsupported = dict.fromkeys(saved_model.located(match["op"], match["scopes"], model) for match in matches)
    if unsupported:
        cures = dict.fromkeys(
            _CURES.get(match["op"], "Write that part of the model with other ops.") for match in matches
        )
        return f"LiteRT has no builtin op for {', '.join(unsupported)}. {' '.join(cures)}"
    if quantized := [layer.name for layer in all_layers(model) if getattr(layer, "quantization_mode", None)]:
        return (
            f"The layers {', '.join(quantized)} were quantized by Keras, with model.quantize, in a form that LiteRT "
            "does not have. Export the model as it was before, with quantization='int8' or 'dynamic_int8'."
        )
    if unranged := _UNRANGED.search(message):
        return (
            f"LiteRT cannot quantize in this way: it finds no range for the integers of {unranged['tensor']}. Choose "
            "int8 or dynamic_int8."
        )
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if not lines and isinstance(error, RuntimeError):  # the quantizer writes to standard error, past Python
        return (
            "LiteRT's quantizer failed. Its reason, with the name of an op, stands above this error. Keep the layer of "
            "that op in float with float_layers, or choose dynamic_int8."
        )
    if not lines:
        return f"The LiteRT converter failed with {type(error).__name__}, without a reason."
    place = _PLACE.search(message)
    where = f" at {saved_model.located(place['op'], place['scopes'], model)}" if place else ""
    said = _LOCATION.sub("", lines[0])
    cure = " Write that part of the model with other ops." if place else ""
    return f"The LiteRT converter failed{where}: {said.removesuffix('.')}.{cure}"
