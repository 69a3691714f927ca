"""A process that has never seen the models which it loads.

Reads requests from standard input, one JSON object a line: `model` (a .keras file),
`inputs` (an .npz file) and `result`, where it writes an .npz file with the model's
outputs, its optimizer's variables and its layers' dtype policies. Answers each with one line: "done" or an error.
"""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np


def serve():
    import keras

    from keras_dl.compat import all_layers  # `import keras_dl` registers the classes: all that a user has to import

    for line in sys.stdin:
        request = json.loads(line)
        try:
            model = keras.models.load_model(request["model"])
            with np.load(request["inputs"]) as inputs:
                outputs = model(inputs["0"] if list(inputs) == ["0"] else dict(inputs), training=False)
            arrays = {f"output_{i}": np.asarray(x, "float32") for i, x in enumerate(keras.tree.flatten(outputs))}
            arrays |= {f"optimizer_{i}": np.asarray(v) for i, v in enumerate(model.optimizer.variables)}
            arrays["policies"] = [layer.dtype_policy.name for layer in all_layers(model)]
            np.savez(request["result"], **arrays)
        except Exception as error:  # reported to the test, which fails with it
            print(f"{type(error).__name__}: {error}".replace("\n", " "), flush=True)
        else:
            print("done", flush=True)


class Reloader:
    """The other end: starts the process, asks it to load a model, returns what it found."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ,
        )

    def __call__(self, model_path, inputs):
        inputs = inputs if isinstance(inputs, dict) else {"0": inputs}
        np.savez(self.folder / "inputs.npz", **inputs)
        request = {"model": str(model_path), "inputs": str(self.folder / "inputs.npz")}
        request["result"] = str(self.folder / "result.npz")
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        assert answer == "done", f"a fresh process could not load the model: {answer or 'it died'}"
        with np.load(request["result"]) as result:
            return dict(result)

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=30)


if __name__ == "__main__":
    serve()
