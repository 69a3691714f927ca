"""Runs a LiteRT file, also in a process of its own: a damaged file ends its interpreter's process by a signal.

    python litert_run.py MODEL [THREADS]

reads requests from stdin and writes answers to stdout. Each is a frame: the length of a JSON document in eight bytes,
the document, and the bytes of the arrays that the document lists. This file imports nothing of keras_dl, which would
import TensorFlow.
"""

import json
import os
import signal
import sys

import numpy as np


class Session:
    """A LiteRT file in this process.

    Args:
        path: str.
        num_threads: int, or None for the runtime's default.

    Attributes:
        signatures: dict as `keras_dl.export.Runner` has it.

    Raises:
        ValueError, RuntimeError: if LiteRT cannot load the file.
    """

    def __init__(self, path, num_threads=None):
        from ai_edge_litert import interpreter as litert  # here, because an extra provides it

        self._interpreter = litert.Interpreter(path, num_threads=num_threads)
        names = list(self._interpreter.get_signature_list())
        self._runners = {name: self._interpreter.get_signature_runner(name) for name in names}
        self._stateful = False
        self.signatures = {
            name: {
                "inputs": {key: _tensor(x) for key, x in runner.get_input_details().items()},
                "outputs": {key: _tensor(x) for key, x in runner.get_output_details().items()},
            }
            for name, runner in self._runners.items()
        }

    def reset_between_calls(self):
        """From now on, each call begins with the states reset. The first call, with zeros, allocates them."""
        for name, runner in self._runners.items():
            inputs = self.signatures[name]["inputs"]
            runner(**{key: np.zeros(x["shape"], x["dtype"]) for key, x in inputs.items()})
        self._stateful = True

    def run(self, name, batches):
        """The outputs of signature `name` for each of a list of dicts of arrays: list of dicts of arrays."""
        outputs = []
        for batch in batches:
            if self._stateful:
                self._interpreter.reset_all_variables()
            # Copies, because a view of one of its tensors blocks the interpreter.
            outputs.append({key: np.array(x) for key, x in self._runners[name](**batch).items()})
        return outputs


def _tensor(details):
    dtype = np.dtype(details["dtype"])
    tensor = {"shape": details["shape"].tolist(), "dtype": dtype.name}
    scales, zero_points = (details["quantization_parameters"][key] for key in ("scales", "zero_points"))
    if len(scales) and len(zero_points) and dtype.kind in "iu":
        tensor |= {"scale": float(scales[0]), "zero_point": int(zero_points[0])}
    return tensor


def send(file, document, batches=()):
    """Writes a frame with a document and a list of dicts of arrays."""
    rows, contents = [], []
    for batch in batches:
        arrays = {key: _sendable(np.asarray(x)) for key, x in batch.items()}
        rows.append({key: [_dtype_name(x.dtype), list(x.shape)] for key, x in arrays.items()})
        contents += [x.tobytes() for x in arrays.values()]
    header = json.dumps({**document, "batches": rows}).encode()
    file.write(len(header).to_bytes(8, "little") + header)
    for content in contents:
        file.write(content)
    file.flush()


def receive(file):
    """Reads a frame: `(document, batches)`. EOFError if it ends before its end."""
    document = json.loads(_read(file, int.from_bytes(_read(file, 8), "little")))
    batches = []
    for row in document.pop("batches"):
        batch = {}
        for key, (name, shape) in row.items():
            dtype = np.dtype(name)
            content = _read(file, dtype.itemsize * int(np.prod(shape, dtype=object)))
            batch[key] = np.frombuffer(bytearray(content), dtype).reshape(shape)
        batches.append(batch)
    return document, batches


def _sendable(array):
    """The array; of objects, which are the strings of LiteRT, their bytes."""
    return array.astype("S") if array.dtype.hasobject else array


def _dtype_name(dtype):
    """A name that `np.dtype` reads; that of bfloat16 says only that it has two bytes."""
    return dtype.name if dtype.kind == "V" else dtype.str


def _read(file, size):
    content = file.read(size)
    if len(content) < size:
        raise EOFError
    return content


def main(path, num_threads=None):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the process that asks, and it ends this one
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    try:
        session = Session(path, num_threads and int(num_threads))
        send(answers, {"signatures": session.signatures})
        while True:
            request, batches = receive(requests)
            try:
                if request["name"] is None:
                    session.reset_between_calls()
                    send(answers, {})
                else:
                    send(answers, {}, session.run(request["name"], batches))
            except (ValueError, RuntimeError) as error:
                send(answers, {"error": str(error)})
    except EOFError:  # the process that asks has ended
        return
    except (ValueError, RuntimeError) as error:
        send(answers, {"error": str(error)})


if __name__ == "__main__":
    main(*sys.argv[1:])
