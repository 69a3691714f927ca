"""From a SavedModel to LiteRT, with only builtin ops."""

import copy
import re
import warnings

import tensorflow as tf

from keras_dl.compat import change_before_quantizing, quantize_calibrated
from keras_dl.export import fused_lstm, reversals, saved_model, zero_scales
from keras_dl.export.errors import ExportError

# The converter writes one line for each op for which it has no builtin:
# loc(...fused["Svd:", "model/layer/Svd@__inference_serve_41"]...): 'tf.Svd' op is neither a custom op nor a flex op
_UNSUPPORTED = re.compile(r"""fused\["[^"]*", "(?P<scopes>[^"@]+)@[^\n]*'tf\.(?P<op>\w+)' op is neither a custom""")


def write(traced, folder):
    """Writes traced signatures as a SavedModel that holds only what `convert` reads.

    Keras's own archive also holds the tree of layers, custom gradients and a second copy of each graph.

    Args:
        traced: dict of `keras_dl.export.saved_model.Traced` by signature.
        folder: path of the new folder.
    """
    served = tf.Module()
    signatures = {name: concrete for name, (_, concrete) in traced.items()}
    served.held = [x for concrete in signatures.values() for x in concrete.graph.variables]
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(served, str(folder), signatures, options)


def reader(folder, names):
    """Opens written signatures. The result can be given to `convert` several times.

    Args:
        folder: path of the folder that `write` made.
        names: names of the signatures, in order.

    Returns:
        `tf.lite.TFLiteConverter` with default settings.
    """
    return tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=list(names))


def convert(model, opened, **settings):
    """Converts written signatures to one LiteRT file.

    Args:
        model: the `keras.Model` that the signatures belong to; errors name its layers.
        opened: the result of `reader`, which is not changed.
        settings: attributes of `tf.lite.TFLiteConverter`; those of its `target_spec` as a dict `target_spec`.
            `keras_dl.compat.CALIBRATE_ONLY` gives the file that `quantize_all_but` takes.

    Returns:
        bytes: the flatbuffer.

    Raises:
        ExportError: if an op has no builtin in LiteRT; the message names each such op and its layer.
    """
    converter = copy.copy(opened)
    converter.target_spec = tf.lite.TargetSpec(supported_ops=[tf.lite.OpsSet.TFLITE_BUILTINS])
    for name, value in settings.pop("target_spec", {}).items():
        setattr(converter.target_spec, name, value)
    for name, value in settings.items():
        setattr(converter, name, value)
    # Calibration runs the float file, which clips cell states. After it, the weights no longer show which layer an LSTM
    # comes from.
    change_before_quantizing(converter, lambda content: fused_lstm.mended(content, model.variables))
    try:
        with warnings.catch_warnings():
            # The converter's own calibrator uses the interpreter that TensorFlow has deprecated.
            warnings.filterwarnings("ignore", message=r"(?s).*tf\.lite\.Interpreter is deprecated")
            content = converter.convert()
    except Exception as error:  # ConverterError, or what the calibrator raises; none has a public class
        # `from None`: the converter's own message is pages of its intermediate representation.
        raise ExportError(_explain(str(error), model)) from None
    return _mended(content, model.variables)


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
    return zero_scales.mended(reversals.mended(fused_lstm.mended(content, variables)))


def _explain(message, model):
    unsupported = [saved_model.located(match["op"], match["scopes"], model) for match in _UNSUPPORTED.finditer(message)]
    if unsupported:
        ops = ", ".join(dict.fromkeys(unsupported))
        return f"LiteRT has no builtin op for {ops}. Write that part of the model with other ops."
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return f"The LiteRT converter failed: {lines[0] if lines else 'it gave no reason'}"
