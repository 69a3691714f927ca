"""Snippets: the code that is written for a file computes what the file does, in each language that can run here."""

import contextlib
import json
import os
import pathlib
import re
import runpy
import shutil
import subprocess
import sys

import export_models as models
import keras
import litert_files
import numpy as np
import pytest
from PIL import Image

import keras_dl
import keras_dl_cli
from keras_dl.export import Exporter, FileError, export_training, graph, load, snippet, snippets
from keras_dl.export.snippets import facts
from keras_dl.export.targets import c_array, micro

# What a snippet could end a string or a comment by.
LABELS = ['ant "1"', 'bee ${x} \\ */ ?"""\'', "Käfer\u2028\x07\U0001f41e\n"]
METADATA = {"labels": LABELS, "input_range": 'uint8 pixels in [0, 255] """ */'}
FILES = {"none": ("none", None), "int8": ("int8", None), "uint8": ("int8", "uint8"), "float32": ("int8", "float32")}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The paths of one classifier of pixels, by how it is quantized."""
    folder, rows = tmp_path_factory.mktemp("snippets"), models.pixels(120)
    with contextlib.closing(Exporter(models.Classifier(), [{"images": rows}])) as exporter:
        for name, (quantization, io) in FILES.items():
            exporter.export(folder / f"my-{name}.tflite", quantization=quantization, io=io, metadata=METADATA)
    return {name: folder / f"my-{name}.tflite" for name in FILES}


def written(path, language):
    """Writes a snippet beside its file, as an export does: its path."""
    (row,) = snippets.write(path, [language])
    assert (row["file"], row["language"], row["reason"]) == (str(path), language, None)
    return pathlib.Path(row["path"])


@pytest.mark.parametrize("name", FILES)
def test_python_computes_what_the_file_does(files, name):
    code = written(files[name], "python")
    assert code.name == f"my_{name}.py"
    module, pixels = runpy.run_path(str(code)), models.pixels(1, seed=3)
    results = module["classify"](pixels)
    expected = load(files[name], trust=True).serve("classify", images=pixels)
    assert set(results) == {"probabilities"}
    np.testing.assert_array_equal(results["probabilities"], expected["probabilities"])
    assert results["probabilities"].dtype == np.float32
    assert module["LABELS"] == LABELS


def test_python_reads_a_picture(files):
    code, pixels = written(files["int8"], "python"), models.pixels(1, seed=4)
    Image.fromarray(pixels[0, :, :, 0]).save(code.with_name("picture.png"))
    command = [sys.executable, str(code), str(code.with_name("picture.png"))]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONUTF8": "1"})
    assert run.returncode == 0, run.stderr
    values = load(files["int8"], trust=True).serve("classify", images=pixels)["probabilities"][0]
    first, rest = run.stdout.split("\n", 1)
    assert first == f"probabilities float32 (1, {len(LABELS)})"
    assert rest == f"{LABELS[values.argmax()]} {values.max()}\n"


def test_python_has_each_signature_of_a_file_without_labels(tmp_path):
    with contextlib.closing(Exporter(models.Autoencoder())) as exporter:
        exporter.export(tmp_path / "file.tflite")
    module = runpy.run_path(str(written(tmp_path / "file.tflite", "python")))
    inputs = {"encode": {"x": models.normal(1, 4)}, "decode": {"codes": models.normal(1, 6), "gains": np.ones((1, 1))}}
    runner = load(tmp_path / "file.tflite", trust=True)
    for name, arrays in inputs.items():
        results, expected = module[name](**arrays), runner.serve(name, **arrays)
        assert results.keys() == expected.keys()
        for key, values in expected.items():
            np.testing.assert_array_equal(results[key], values)
    assert "LABELS" not in module
    assert "image" not in module


def test_python_resets_states(tmp_path):
    """A fused LSTM continues from the last call, unless it is told not to."""
    lstm = keras_dl.LSTM(3, return_sequences=True)
    model = keras.Sequential([keras.Input((4, 2), name="x"), lstm])
    with contextlib.closing(Exporter(model)) as exporter:
        exporter.export(tmp_path / "file.tflite")
    assert graph.read(tmp_path / "file.tflite").stateful
    module, x = runpy.run_path(str(written(tmp_path / "file.tflite", "python"))), models.normal(1, 4, 2)
    first, second = (module["serve"](x) for _ in range(2))
    for key, values in first.items():
        np.testing.assert_array_equal(values, second[key])


# A stand-in for tflite-micro, whose outputs are its inputs, plus one.
STUBS = {
    "tensorflow/lite/micro/micro_mutable_op_resolver.h": """
#pragma once
#include <cstddef>
#include <cstdint>
enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 };
#define TF_LITE_ENSURE_STATUS(a) do { if ((a) != kTfLiteOk) return kTfLiteError; } while (false)
namespace tflite { template <unsigned int N> struct MicroMutableOpResolver { METHODS }; }
""",
    "tensorflow/lite/micro/micro_interpreter.h": """
#pragma once
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
namespace tflite {
struct Model {};
struct MicroInterpreter {
  template <typename Resolver>
  MicroInterpreter(const Model*, const Resolver&, uint8_t*, size_t) {}
  TfLiteStatus AllocateTensors() { return kTfLiteOk; }
  template <typename T> T* typed_input_tensor(int) { return static_cast<T*>(static_cast<void*>(buffer)); }
  template <typename T> T* typed_output_tensor(int) { return static_cast<T*>(static_cast<void*>(buffer)); }
  TfLiteStatus Invoke() { for (auto& byte : buffer) ++byte; return kTfLiteOk; }
  alignas(16) uint8_t buffer[4096] = {};
};
}
""",
    "tensorflow/lite/schema/schema_generated.h": """
#pragma once
#include "tensorflow/lite/micro/micro_interpreter.h"
namespace tflite { inline const Model* GetModel(const void*) { return nullptr; } }
""",
}


def _c_source(path):
    """Writes the C source of a file, as the target `micro` does: the methods that register its ops."""
    methods = micro.resolver_methods(graph.read(path))
    c_array.write(path.parent, path.stem, path.read_bytes(), methods, arena=4096)
    return methods


def _compiled(*arguments):
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    strict = ["-std=c++17", "-Wall", "-Wextra", "-Werror"]
    run = subprocess.run(["g++", *strict, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("name", ["int8", "uint8"])
def test_cpp_quantizes_as_the_file_says(files, name, tmp_path):
    """Compiled with stand-ins for tflite-micro's headers: the inputs are zeros, and each byte of them is one more."""
    path = files[name]
    with pytest.raises(FileError, match=rf"has no my-{name}.h beside it.*--target micro"):
        snippet(tmp_path / shutil.copy(path, tmp_path), "cpp")
    methods = "".join(f"  TfLiteStatus {method}() {{ return kTfLiteOk; }}\n" for method in _c_source(path))
    for stub, text in STUBS.items():
        (tmp_path / stub).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / stub).write_text(text.replace("METHODS", methods))
    code = written(path, "cpp")
    source = ["-DRUN_MAIN", "-I", tmp_path, code, "-x", "c++", path.with_name(f"my-{name}.c")]
    _compiled(*source, "-o", tmp_path / "run")
    run = subprocess.run([tmp_path / "run"], capture_output=True, check=True)
    served = load(path, trust=True).signatures["classify"]
    pixel, output = served["inputs"]["images"], served["outputs"]["probabilities"]
    integer = np.array([pixel["zero_point"] + 1], np.int64).astype(output["dtype"])  # of a real 0, plus one
    real = output["scale"] * (int(integer[0]) - output["zero_point"])
    lines = run.stdout.split(b"\n", models.CLASSES)
    assert [float(line) for line in lines[:-1]] == pytest.approx([real] * models.CLASSES)
    assert lines[-1].decode() == f"{LABELS[0]}\n"


@pytest.mark.slow  # half a minute: the headers of tflite-micro
def test_cpp_is_what_tflite_micro_takes(files):
    """With TFLITE_MICRO_INCLUDES=FOLDERS, those of tflite-micro, flatbuffers and gemmlowp, separated by `:`."""
    folders = os.environ.get("TFLITE_MICRO_INCLUDES")
    if not folders:
        pytest.skip("TFLITE_MICRO_INCLUDES does not name the folders of tflite-micro's headers")
    _c_source(files["int8"])
    code = written(files["int8"], "cpp")
    includes = [part for folder in folders.split(os.pathsep) for part in ("-isystem", folder)]
    _compiled("-fsyntax-only", "-DRUN_MAIN", "-DTF_LITE_STATIC_MEMORY", *includes, code)


def test_javascript_is_valid_and_holds_the_labels(files, tmp_path):
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    with pytest.raises(ValueError, match=r"LiteRT.js has no int8.*'images' of signature 'classify'.*io='uint8'"):
        snippet(files["int8"], "javascript")
    for name in ("none", "uint8", "float32"):
        code = written(files[name], "javascript")
        assert code.name == f"my-{name}.mjs"
        subprocess.run(["node", "--check", code], check=True)
    line = next(line for line in code.read_text().splitlines() if line.startswith("export const LABELS"))
    assert json.loads(line.partition("=")[2].rstrip(";")) == LABELS


# LiteRT.js is made for browsers. What it asks of one: a way to run scripts, and addresses to fetch from.
NODE = """
import fs from 'node:fs';
import http from 'node:http';
import {createRequire} from 'node:module';
import path from 'node:path';
import vm from 'node:vm';

const root = process.cwd();
const server = http.createServer((request, response) => {
  response.setHeader('Content-Type', request.url.endsWith('.wasm') ? 'application/wasm' : 'text/javascript');
  fs.createReadStream(path.join(root, request.url)).pipe(response);
});
await new Promise((ready) => server.listen(0, '127.0.0.1', ready));
const base = `http://127.0.0.1:${server.address().port}`;
globalThis.self = globalThis;
globalThis.require = createRequire(import.meta.url);
globalThis.__dirname = path.join(root, 'node_modules/@litertjs/core/wasm');  // where Node looks for WebAssembly
globalThis.__filename = path.join(__dirname, 'run.js');
globalThis.importScripts = (url) => {
  vm.runInThisContext(fs.readFileSync(path.join(root, new URL(url).pathname), 'utf8'));
};
const snippet = await import(path.join(root, process.argv[2]));
const model = await snippet.load(`${base}/${process.argv[3]}`, `${base}/node_modules/@litertjs/core/wasm/`);
const pixels = Uint8Array.from(fs.readFileSync('pixels.bin'));
const results = await snippet.classify(model, pixels);
fs.writeFileSync('results.json', JSON.stringify([Array.from(results.probabilities), snippet.label(results)]));
process.exit(0);
"""


@pytest.fixture(scope="module")
def litert_js(tmp_path_factory):
    """A folder with LiteRT.js."""
    folder = tmp_path_factory.mktemp("javascript")
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", folder, "@litertjs/core@2"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if run.returncode:
        pytest.skip(f"npm could not install @litertjs/core: {run.stderr.strip().splitlines()[-1:]}")
    (folder / "run.mjs").write_text(NODE)
    return folder


@pytest.mark.slow  # it installs LiteRT.js
@pytest.mark.parametrize("name", ["none", "uint8", "float32"])
def test_javascript_computes_what_the_file_does(files, litert_js, name):
    pixels = models.pixels(1, seed=5)
    for path in (written(files[name], "javascript"), files[name]):
        shutil.copy(path, litert_js)
    (litert_js / "pixels.bin").write_bytes(pixels.tobytes())
    command = ["node", "run.mjs", f"my-{name}.mjs", files[name].name]
    run = subprocess.run(command, cwd=litert_js, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stderr
    found, label = json.loads((litert_js / "results.json").read_text())
    output = load(files[name], trust=True).signatures["classify"]["outputs"]["probabilities"]
    expected = load(files[name], trust=True).serve("classify", images=pixels)["probabilities"][0]
    step = output.get("scale", 1 / 256 if name == "float32" else 1e-5)  # XNNPACK in WebAssembly may round otherwise
    np.testing.assert_allclose(found, expected, atol=step)
    assert label == LABELS[int(np.argmax(found))]


# Stand-ins for Android and for LiteRT 2, with the signatures of its CompiledModel and TensorBuffer. What `run` gives is
# what it gets, plus one.
ANDROID = {
    "Context.kt": "package android.content\nclass Context { val assets = android.content.res.AssetManager() }\n",
    "AssetManager.kt": "package android.content.res\nclass AssetManager\n",
    "LiteRT.kt": """
package com.google.ai.edge.litert
import android.content.res.AssetManager

enum class Accelerator { NONE, CPU, GPU, NPU }

abstract class JniHandle : AutoCloseable {
    var open = true
    final override fun close() { check(open); open = false }
}

class TensorBuffer : JniHandle() {
    var values = listOf<Number>()
    fun writeInt(data: IntArray) { values = data.toList() }
    fun writeFloat(data: FloatArray) { values = data.toList() }
    fun writeInt8(data: ByteArray) { values = data.toList() }
    fun writeBoolean(data: BooleanArray) { values = data.map { if (it) 1 else 0 } }
    fun writeLong(data: LongArray) { values = data.toList() }
    fun readInt(): IntArray = values.map { it.toInt() }.toIntArray()
    fun readFloat(): FloatArray = values.map { it.toFloat() }.toFloatArray()
    fun readInt8(): ByteArray = values.map { it.toByte() }.toByteArray()
    fun readBoolean(): BooleanArray = values.map { it.toInt() != 0 }.toBooleanArray()
    fun readLong(): LongArray = values.map { it.toLong() }.toLongArray()
}

class CompiledModel private constructor() : JniHandle() {
    class Options constructor(internal vararg val accelerators: Accelerator)

    fun createInputBuffer(inputName: String, signature: String? = null): TensorBuffer = TensorBuffer()
    fun createOutputBuffer(outputName: String, signature: String? = null): TensorBuffer = TensorBuffer()

    fun run(inputs: Map<String, TensorBuffer>, outputs: Map<String, TensorBuffer>, signature: String? = null) {
        outputs.values.forEach { it.values = inputs.values.first().values.map { x -> x.toDouble() + 1 } }
    }

    companion object {
        fun create(assetManager: AssetManager, assetName: String, options: Options): CompiledModel = CompiledModel()
    }
}
""",
    "Main.kt": """
fun main() {
    val context = android.content.Context()
    val pixels = floatArrayOf(0f, 100f, 250f)
    val models = listOf(MyNone(context), MyInt8(context), MyUint8(context), MyFloat32(context))
    println((models[0] as MyNone).classify(byteArrayOf(0, 100, 250.toByte())).probabilities.joinToString())
    println((models[1] as MyInt8).classify(pixels).probabilities.joinToString())
    println((models[2] as MyUint8).classify(pixels).probabilities.joinToString())
    println((models[3] as MyFloat32).classify(pixels).probabilities.joinToString())
    models.forEach { (it as AutoCloseable).close() }
    print(MyUint8.LABELS.joinToString("|"))
}
""",
}


@pytest.mark.slow  # half a minute: kotlinc
def test_kotlin_quantizes_as_the_file_says(files, tmp_path):
    """Compiled with stand-ins for Android's classes and LiteRT's, also the snippet of a file that learns."""
    for tool in ("kotlinc", "java"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed; Debian's package kotlin has the compiler")
    sources = [written(path, "kotlin") for path in files.values()]
    export_training(keras_dl.MLP(4, 3, hidden_dims=(4,)), tmp_path / "learning.tflite", batch_size=2)
    sources.append(written(tmp_path / "learning.tflite", "kotlin"))
    for name, text in ANDROID.items():
        (tmp_path / name).write_text(text)
        sources.append(tmp_path / name)
    command = ["kotlinc", "-include-runtime", "-d", tmp_path / "run.jar", *sources]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    command = ["java", "-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8", "-cp", tmp_path / "run.jar", "MainKt"]
    run = subprocess.run(command, capture_output=True, check=False)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.decode().split("\n", 4)
    pixels = np.array([0, 100, 250])
    for line, name in zip(lines, files, strict=False):
        signature = load(files[name], trust=True).signatures["classify"]
        given, got = signature["inputs"]["images"], signature["outputs"]["probabilities"]
        # Bytes of Kotlin have a sign, which the file does not see.
        expected = (pixels.astype("uint8").view("int8") if given["dtype"] == "uint8" else pixels) + 1.0
        if "scale" in given:
            integers = np.round(pixels / given["scale"]) + given["zero_point"] + 1
            integers = integers.astype(np.int64).astype(got["dtype"])  # a byte wraps around
            expected = got["scale"] * (integers.astype("int64") - got["zero_point"])
        assert [float(x) for x in line.split(", ")] == pytest.approx(expected, rel=1e-6), name
    assert lines[4] == "|".join(LABELS)


def test_kotlin_has_names_scales_and_labels(files):
    text = written(files["uint8"], "kotlin").read_text()
    output = graph.read(files["uint8"]).signatures["classify"].outputs["probabilities"]
    assert "class MyUint8(context: Context)" in text
    assert 'model.createInputBuffer("images", "classify")' in text
    assert "quantize(images, 1.0f, 0, 0, 255)" in text
    assert f".readInt8(), {output.scales[0]!r}f, {output.zero_points[0]}, false)" in text
    assert 'LABELS = listOf("ant \\"1\\"", "bee \\${x} \\\\ */ ?\\"\\"\\"\'", "K\\u00e4fer\\u2028\\u0007' in text
    assert all(text.count(opening) == text.count(closing) for opening, closing in ("()", "{}"))


def test_names_are_those_of_no_language():
    names = ["class", "a b", "a_b", "i", "3d", "val", "images"]
    found = facts._identifiers(names)
    assert list(found) == names
    assert list(found.values()) == ["class_", "a_b", "a_b_2", "i_", "model_3d", "val_", "images"]


def test_arguments_are_in_the_order_of_their_names(tmp_path):
    """Converters order them anew each time, and a call by place must not change its meaning."""
    with contextlib.closing(Exporter(models.Autoencoder())) as exporter:
        exporter.export(tmp_path / "file.tflite")
    for language in ("python", "kotlin", "javascript"):
        (text,) = re.findall(r"(?:def|fun|function) decode\((.*)\)", snippet(tmp_path / "file.tflite", language)[1])[:1]
        assert text.index("codes") < text.index("gains"), language


def test_what_has_no_snippet_is_one_error(files, tmp_path):
    with pytest.raises(
        ValueError, match=r"language=.rust. is unknown\. Choose one of: python, cpp, kotlin, javascript"
    ):
        snippet(files["none"], "rust")
    with pytest.raises(FileNotFoundError):
        snippet(tmp_path / "nowhere.tflite", "python")
    (tmp_path / "letter.txt").write_text("Dear reader")
    with pytest.raises(FileError, match="is not a LiteRT file"):
        snippet(tmp_path / "letter.txt", "python")
    from keras_dl.export import flatbuffer

    model = flatbuffer.unpacked(files["none"].read_bytes())
    model.signatureDefs = []
    (tmp_path / "bare.tflite").write_bytes(flatbuffer.packed(model))
    with pytest.raises(FileError, match="has no signature"):
        snippet(tmp_path / "bare.tflite", "python")


def test_the_command_writes_beside_the_file(tmp_path, capfd):
    """And does not replace what its owner may have changed."""
    assert set(keras_dl_cli.LANGUAGES) == set(snippets.LANGUAGES)
    file = litert_files.write_classifier(tmp_path / "le-net.tflite")

    def call(*arguments):
        with pytest.raises(SystemExit) as exit_:
            keras_dl_cli.main(["snippet", str(file), *arguments])
        return (exit_.value.code, *capfd.readouterr())

    code, out, err = call("--language", "python,javascript", "--json")
    assert code == 0, err
    paths = {row["language"]: pathlib.Path(row["path"]) for row in json.loads(out)["files"]}
    assert paths == {"python": tmp_path / "le_net.py", "javascript": tmp_path / "le-net.mjs"}
    assert paths["python"].read_text() == snippet(file, "python")[1]
    paths["python"].write_text("mine")
    code, _, err = call("--language", "python")
    assert code == 2
    assert "le_net.py exists. Replace it, and what you have changed in it: --overwrite" in err
    assert paths["python"].read_text() == "mine"
    assert call("--language", "python", "--overwrite")[0] == 0
    assert paths["python"].read_text() != "mine"
    code, _, err = call("--language", "cpp")
    assert code == 1
    assert "has no le-net.h beside it" in err
