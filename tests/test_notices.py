"""The command line hides notices of libraries, and nothing else."""

import subprocess
import sys

START = """
import importlib, os, sys
import keras_dl_cli
hidden = keras_dl_cli._module("notices").hidden
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
