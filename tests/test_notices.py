"""The command line and exports hide notices of libraries, and nothing else."""

import os
import subprocess
import sys

import pytest

START = """
import importlib, os, sys
from keras_dl_cli import light
hidden = light.module("notices").hidden
"""


def _run(code):
    return subprocess.run([sys.executable, "-c", START + code], capture_output=True, text=True, check=False)


def test_only_notices_are_hidden():
    done = _run("""
with hidden():
    os.write(2, b"fully_quantize: 0, inference_type: 6\\nW0000 00:00:1.5   12 port.cc:153] oneDNN\\n")
    os.write(2, b"E0000 00:00:1.5   12 executor.cc:1] broken\\nfully broken\\n")
    print("progress", end="", file=sys.stderr)
os.write(2, b"fully_quantize: 1\\n")
""")
    assert done.returncode == 0
    assert "progress" in done.stderr
    assert done.stderr.count("fully_quantize") == 1
    assert "oneDNN" not in done.stderr
    assert "executor.cc:1] broken\n" in done.stderr
    assert "fully broken\n" in done.stderr


def test_last_words_are_shown():
    done = _run("""
with hidden():
    os.write(2, b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\\nlast words")
    os.abort()
""")
    assert done.returncode < 0
    assert done.stderr == "last words"


EXPORT = """
import logging, os, sys
import keras
import numpy as np
import keras_dl.export
model = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(2, bias_initializer="ones")])
rows = np.random.default_rng(0).normal(size=(128, 4)).astype("float32")
if {debug}:
    logging.getLogger("keras_dl.export").setLevel(logging.DEBUG)
os.write(2, b"begin\\n")
keras_dl.export.export(model, {path!r}, quantization="int8", calibration={{"x": rows}})
os.write(2, b"end\\nfully_quantize: 1\\n")
"""


@pytest.mark.parametrize("debug", [False, True])
def test_an_export_from_python_shows_no_notices(tmp_path, debug):
    """Of one int8 file, the converter writes some 25 lines to stderr."""
    code = EXPORT.format(debug=debug, path=str(tmp_path / "model.tflite"))
    settings = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=settings)
    shown = done.stderr.partition("begin\n")[2].partition("end\n")
    assert bool(shown[0]) is debug, shown[0]
    assert shown[2] == "fully_quantize: 1\n"


def test_in_a_notebook_stderr_is_filtered_and_python_s_object_stays():
    done = _run("""
import io
sys.stderr = notebook = io.StringIO()  # it has no file
with hidden():
    assert sys.stderr is notebook
    with hidden():  # an export inside of the command line
        os.write(2, b"fully_quantize: 0, inference_type: 6\\nshown\\n")
os.write(2, b"fully_quantize: 1\\n")
""")
    assert (done.returncode, done.stderr) == (0, "shown\nfully_quantize: 1\n")
