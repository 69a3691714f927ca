"""Runs exported files, and the Keras model that they came from, through one interface.

TensorFlow is imported where it is used: a LiteRT file is read and run without it.
"""

import math
import os
import pathlib

import numpy as np

from keras_dl.export import graph
from keras_dl.export.errors import RuntimeFailure, SignatureError
from keras_dl.export.litert_process import SessionProcess
from keras_dl.export.litert_run import Session
from keras_dl.export.samples import batches
from keras_dl.extras import require
from keras_dl.files import FileError, parse_json, reason

Arrays = dict[str, np.ndarray]

_INTEGERS = ("int8", "uint8", "int16", "int32")  # that a scale may belong to


def quantize(values, scale, zero_point, dtype):
    """Real values as integers: `round(values / scale) + zero_point`, clipped to the range of `dtype`."""
    limits = np.iinfo(dtype)
    return np.clip(np.rint(np.asarray(values, "float64") / scale) + zero_point, limits.min, limits.max).astype(dtype)


def dequantize(integers, scale, zero_point):
    """Integers as real values, float32: `scale * (integers - zero_point)`."""
    return (scale * (integers.astype("float64") - zero_point)).astype("float32")


class Runner:
    """Runs the signatures of a model or file on any number of rows of real values.

    Attributes:
        signatures: dict by name of `{"inputs": {...}, "outputs": {...}}`, where each tensor is
            `{"shape": [...], "dtype": str, "scale": float, "zero_point": int}`; the last two only if quantized.
    """

    signatures: dict[str, dict]

    def run(self, name: str, arrays: Arrays) -> Arrays:
        """One call with arrays of exactly the shapes and dtypes in `signatures`; returns a dict of arrays."""
        raise NotImplementedError

    def run_all(self, name: str, batches: list[Arrays]) -> list[Arrays]:
        """Calls with several dicts of arrays, one after the other; returns a list of dicts of arrays."""
        return [self.run(name, arrays) for arrays in batches]

    def quantized(self, name: str, arrays: Arrays) -> Arrays:
        """The arrays as the inputs of signature `name` take them: integers where those are quantized, else cast."""
        inputs = self.signatures[name]["inputs"]
        return {
            key: quantize(x, inputs[key]["scale"], inputs[key]["zero_point"], inputs[key]["dtype"])
            if "scale" in inputs[key]
            else np.asarray(x).astype(inputs[key]["dtype"], copy=False)
            for key, x in arrays.items()
        }

    def serve(self, name: str, /, **arrays) -> Arrays:
        """Runs signature `name`.

        Args:
            arrays: one for each input, with the signature's static shape or any number of rows. Real values: quantized
                inputs and outputs are converted.

        Returns:
            dict of arrays with as many rows as the inputs.

        Raises:
            ValueError: if the signature is unknown, or an array does not fit it.
        """
        if name not in self.signatures:
            raise SignatureError(f"There is no signature {name!r}. Choose one of: {', '.join(self.signatures)}.")
        inputs, outputs = self.signatures[name]["inputs"], self.signatures[name]["outputs"]
        shapes = {key: (tuple(x["shape"]), None if "scale" in x else x["dtype"]) for key, x in inputs.items()}
        results = []
        given = batches(arrays, shapes, f"the inputs of {name!r}")
        served = self.run_all(name, [self.quantized(name, batch) for batch, _ in given])
        for (_, rows), result in zip(given, served, strict=True):
            result = {
                key: dequantize(x, outputs[key]["scale"], outputs[key]["zero_point"]) if "scale" in outputs[key] else x
                for key, x in result.items()
            }
            if rows is None:
                return result
            size = next(iter(shapes.values()))[0][0]
            for key, x in result.items():
                if x.ndim == 0 or len(x) != size:
                    raise ValueError(
                        f"The output {key!r} of {name!r} has shape {x.shape}: its rows are not those of the inputs. "
                        f"Serve arrays of the static shapes {[shape for shape, _ in shapes.values()]}."
                    )
            results.append({key: x[:rows] for key, x in result.items()})
        return {key: np.concatenate([result[key] for result in results]) for key in results[0]}


class KerasRunner(Runner):
    """Runs the signatures of a Keras model.

    Args:
        model: a built `keras.Model`.
        batch_size: int. The static batch of the signatures.
        signatures: names of those wanted; None for all.
        traced: dict of `keras_dl.export.saved_model.Traced` by signature. None to trace the model.
        entries: dict of `keras_dl.Signature` by name, among them those wanted. None for those that the model gives.

    Raises:
        TypeError, ValueError: as `keras_dl.export.signatures.collect`.
        ExportError: as `keras_dl.export.saved_model.trace_signature`.
    """

    def __init__(self, model, batch_size=1, signatures=None, traced=None, entries=None):
        from keras_dl.export.saved_model import trace_signature
        from keras_dl.export.signatures import collect, select

        self._functions = {}
        self.signatures = {}
        if entries is None:
            entries = collect(model, batch_size, signatures)
        elif signatures is not None:
            entries = select(entries, signatures)
        for name, signature in entries.items():
            graph_of = traced[name] if traced else trace_signature(model, name, signature)
            self._functions[name] = graph_of.concrete
            self.signatures[name] = {
                "inputs": {key: {"shape": list(x.shape), "dtype": x.dtype} for key, x in signature.inputs.items()},
                "outputs": _specs(self._functions[name].structured_outputs),
            }

    def run(self, name: str, arrays: Arrays) -> Arrays:
        import tensorflow as tf

        outputs = self._functions[name](**{key: tf.convert_to_tensor(x) for key, x in arrays.items()})
        return {key: x.numpy() for key, x in outputs.items()}


class LiteRTRunner(Runner):
    """Runs a LiteRT file on the CPU, through XNNPACK if it has a kernel. Each call begins with the states reset.

    A damaged file can end the process that runs it. So the file runs in a process of its own, whose death is an error.

    Args:
        path: str or path of a `.tflite` file.
        num_threads: int, or None for the runtime's default.
        trust: bool. Whether the file runs in this process, where a call is some 0.1 ms faster.

    Raises:
        FileError: if the file is not one that LiteRT loads. A ValueError.
        ImportError: if ai-edge-litert is missing.
    """

    def __init__(self, path, num_threads=None, trust=False):
        require("ai_edge_litert.interpreter", extra="export")
        self._path = str(path)
        try:
            self._session = (Session if trust else SessionProcess)(self._path, num_threads)
            self.signatures = self._session.signatures
            file = graph.read(path)  # after LiteRT, which checks the offsets in the file
            _check_scales(file, path)
            if file.stateful:
                self._session.reset_between_calls()
        except FileError:
            raise
        except (ValueError, RuntimeError) as error:
            raise FileError(path, f"is not a file that LiteRT can load: {reason(error)}.") from error

    def run(self, name: str, arrays: Arrays) -> Arrays:
        return self.run_all(name, [arrays])[0]

    def run_all(self, name: str, batches: list[Arrays]) -> list[Arrays]:
        try:
            return self._session.run(name, batches)
        except FileError as error:
            raise RuntimeFailure(self._path, error.problem) from error
        except RuntimeError as error:
            raise RuntimeFailure(self._path, f"cannot be run by LiteRT: {reason(error)}.") from error


def _check_scales(file, path):
    """Refuses numbers by which no integer can be converted. LiteRT computes with them, without an error.

    A file may have a scale of 0 where a tensor inside of it is all zeros.

    Args:
        file: `keras_dl.export.graph.Graph`.
        path: of the file.

    Raises:
        FileError: if there are such numbers.
    """
    cure = "It is damaged, or its converter has a fault: export the model again."
    for name, signature in file.signatures.items():
        for kind, tensors in (("input", signature.inputs), ("output", signature.outputs)):
            for key, x in tensors.items():
                if x.dtype not in _INTEGERS or not x.scales:
                    continue
                where = f"the {kind} {key!r} of signature {name!r}"
                limits = np.iinfo(x.dtype)
                if len(x.scales) > 1:
                    raise FileError(path, f"has {len(x.scales)} scales for {where}, which has one. {cure}")
                if not (math.isfinite(x.scales[0]) and x.scales[0] > 0):
                    raise FileError(path, f"has a scale of {x.scales[0]} for {where}, not a number above 0. {cure}")
                if not all(limits.min <= zero_point <= limits.max for zero_point in x.zero_points):
                    raise FileError(
                        path, f"has a zero point of {x.zero_points[0]} for {where}, which {x.dtype} cannot hold. {cure}"
                    )
    for op in file.ops:
        for x in (*op.inputs, *op.outputs):
            if x is not None and not all(math.isfinite(scale) and scale >= 0 for scale in x.scales):
                wrong = next(scale for scale in x.scales if not (math.isfinite(scale) and scale >= 0))
                raise FileError(path, f"has a scale of {wrong} for a tensor of {op}, not a number above 0. {cure}")


class OnnxRunner(Runner):
    """Runs an ONNX file, of one signature, in onnxruntime on the CPU.

    Args:
        path: str or path of an `.onnx` file.
        num_threads: int, or None for the runtime's default.

    Raises:
        FileError: if onnxruntime cannot load the file. A ValueError.
        ImportError: if onnxruntime is missing.
    """

    def __init__(self, path, num_threads=None):
        self._path = str(path)
        onnxruntime = require("onnxruntime", extra="export")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; warnings are about unused initializers
        if num_threads is not None:
            options.intra_op_num_threads = num_threads
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise FileError(path, f"is not a file that onnxruntime can load: {reason(error)}.") from error
        properties = self._session.get_modelmeta().custom_metadata_map
        name = properties.get("keras_dl.signature", "serve")
        what = "a whole file: the names of its states cannot be read"
        states = parse_json(properties.get("keras_dl.states", "[]"), path, what, "Export the model again.", list)
        names = {f"{state}_out": state for state in map(str, states)}
        self._outputs = {x.name: names.get(x.name, x.name) for x in self._session.get_outputs()}
        self.signatures = {
            name: {
                "inputs": {x.name: _onnx_tensor(x) for x in self._session.get_inputs()},
                "outputs": {self._outputs[x.name]: _onnx_tensor(x) for x in self._session.get_outputs()},
            }
        }

    def run(self, name: str, arrays: Arrays) -> Arrays:
        try:
            results = self._session.run(list(self._outputs), arrays)
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise RuntimeFailure(self._path, f"cannot be run by onnxruntime: {reason(error)}.") from error
        return dict(zip(self._outputs.values(), results, strict=True))


class SavedModelRunner(Runner):
    """Runs a SavedModel in TensorFlow.

    Args:
        path: str or path of the folder.
        trust: bool. Whether it may hold ops that read or write files, run Python or use a network: see
            `keras_dl.export.untrusted`.

    Raises:
        FileError: if TensorFlow cannot load the folder, or must not. A ValueError.
    """

    def __init__(self, path, trust=False):
        import tensorflow as tf

        from keras_dl.export.untrusted import check_saved_model

        self._path = str(path)
        if not trust:
            check_saved_model(path)
        try:
            self._loaded = tf.saved_model.load(str(path))
        except Exception as error:  # what TensorFlow raises for a damaged folder shares no base class
            raise FileError(path, f"is not a SavedModel that TensorFlow can load: {reason(error)}.") from error
        functions = dict(self._loaded.signatures)
        if len(functions) > 1:  # TensorFlow Serving's name for the first signature
            functions.pop("serving_default", None)
        self._functions = functions
        self.signatures = {
            name: {
                "inputs": _specs(function.structured_input_signature[1]),
                "outputs": _specs(function.structured_outputs),
            }
            for name, function in functions.items()
        }

    def run(self, name: str, arrays: Arrays) -> Arrays:
        import tensorflow as tf

        try:
            outputs = self._functions[name](**{key: tf.convert_to_tensor(x) for key, x in arrays.items()})
        except tf.errors.OpError as error:
            raise RuntimeFailure(self._path, f"cannot be run by TensorFlow: {reason(error)}.") from error
        return {key: x.numpy() for key, x in outputs.items()}

    def ops(self, name: str) -> list[str]:
        """list of the types of TensorFlow ops that signature `name` runs, its functions' included."""
        definition = self._functions[name].graph.as_graph_def()
        nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
        return [node.op for node in nodes]


def load(path: str | os.PathLike, num_threads: int | None = None, trust: bool = False) -> Runner:
    """Opens an exported file, or any other of these formats, to run it.

    Args:
        path: str or path of a `.tflite` or `.onnx` file, or of a SavedModel's folder.
        num_threads: int, or None for the runtime's default. A SavedModel runs on TensorFlow's own threads.
        trust: bool. False for files that others may have made or changed: a LiteRT file then runs in a process of its
            own, since a damaged one can end its process; and a SavedModel with ops that read or write files, run Python
            or use a network is refused. True runs it here, with all of its ops.

    Returns:
        `Runner`.

    Raises:
        FileNotFoundError: if the path does not exist.
        FileError: if it is not one of these, is damaged, or is refused without `trust`. A ValueError.

    Example:

    >>> import keras, tempfile
    >>> from keras_dl.export import export
    >>> model = keras.Sequential([keras.Input((2,), name="x"), keras.layers.Dense(1, kernel_initializer="ones")])
    >>> report = export(model, tempfile.mkdtemp() + "/model.tflite")
    >>> load(report.path).serve("serve", x=np.ones((3, 2)))["output_0"].tolist()
    [[2.0], [2.0], [2.0]]
    """
    match file_format(path):
        case "litert":
            return LiteRTRunner(path, num_threads, trust)
        case "onnx":
            return OnnxRunner(path, num_threads)
        case _:
            return SavedModelRunner(path, trust)


def file_format(path: str | os.PathLike) -> str:
    """The format of a file or folder, by its content: `"litert"`, `"onnx"` or `"saved_model"`.

    Raises:
        FileNotFoundError: if the path does not exist.
        FileError: if it is not one of these. A ValueError.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist.")
    if path.is_dir():
        if (path / "saved_model.pb").exists():
            return "saved_model"
        raise FileError(path, "is a folder without saved_model.pb: it is not a SavedModel.")
    with path.open("rb") as file:
        head = file.read(8)
    if head[4:8] == b"TFL3":
        return "litert"
    if path.suffix == ".onnx":  # protocol buffers have no identifier; onnxruntime refuses other files
        return "onnx"
    raise FileError(path, "is neither a LiteRT file, an ONNX file (.onnx) nor a SavedModel's folder.")


def _onnx_tensor(x):
    names = {"tensor(float)": "float32", "tensor(double)": "float64"}
    dtype = names.get(x.type, x.type.removeprefix("tensor(").removesuffix(")"))
    return {"shape": list(x.shape), "dtype": dtype}


def _specs(specs):
    return {name: {"shape": list(x.shape), "dtype": x.dtype.name} for name, x in specs.items()}
