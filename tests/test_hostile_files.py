"""Files that were made to do harm: they run nothing, write nothing, reach nothing and do not fill the memory."""

import inspect as python_inspect
import json
import os
import re
import zipfile

import h5py
import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf

from keras_dl.export import export, inspect, load
from keras_dl.export.untrusted import DOES, check_saved_model, family
from keras_dl.files import LARGE, FileError, read_arrays
from keras_dl.loading import load_model


@pytest.fixture
def mark(tmp_path, monkeypatch):
    """The path of a file that exists only if a hostile file has run something."""
    path = tmp_path / "mark"
    monkeypatch.setenv("KERAS_DL_MARK", str(path))
    return path


def with_lambda():
    """A model with a Lambda layer that makes the marked file. Its Python is in the file of the model."""

    hostile = lambda x: (__import__("pathlib").Path(__import__("os").environ["KERAS_DL_MARK"]).touch(), x)[1]  # noqa: E731
    x = keras.Input((2,))
    return keras.Model(x, keras.layers.Lambda(hostile, output_shape=(2,))(x))


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_lambda_layers_do_not_run(mark, tmp_path, name):
    with_lambda().save(tmp_path / name)
    assert not mark.exists()
    with pytest.raises(FileError, match=rf"{name} is not a model that Keras can load: .*Lambda"):
        load_model(tmp_path / name)
    with pytest.raises(
        FileError, match=r"load it with keras_dl\.loading\.load_model\(path, trust=True\), or with --trust"
    ) as error:
        export(tmp_path / name, tmp_path / "model.tflite")
    assert "safe_mode" not in str(error.value)
    assert "layers of your own" not in str(error.value)
    assert not mark.exists()
    load_model(tmp_path / name, trust=True)(np.ones((1, 2)))
    assert mark.exists()


def plain(path):
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="dense")]).save(path)


def repacked(path, change=None, compression=zipfile.ZIP_STORED, **members):
    """Writes a `.keras` file again, with a changed config and further members."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    if change:
        config = json.loads(contents["config.json"])
        change(config)
        contents["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in {**contents, **members}.items():
            archive.writestr(name, content)


@pytest.mark.parametrize(
    ("module", "name", "config"),
    [
        ("os", "system", {"command": "touch $KERAS_DL_MARK"}),
        ("subprocess", "run", {"args": "touch $KERAS_DL_MARK", "shell": True}),
        ("builtins", "exec", {"source": "open(__import__('os').environ['KERAS_DL_MARK'], 'w')"}),
        ("keras.src.utils.file_utils", "makedirs", {"path": "mark"}),
        ("tensorflow", "io.write_file", {"filename": "mark", "contents": "x"}),
        ("hostile_module", "Layer", {}),
    ],
)
@pytest.mark.parametrize("place", ["layer", "initializer"])
def test_modules_that_a_config_names_do_not_run(mark, tmp_path, monkeypatch, module, name, config, place):
    (tmp_path / "hostile_module.py").write_text("open(__import__('os').environ['KERAS_DL_MARK'], 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "model.keras"
    plain(path)

    def change(document):
        layer = document["config"]["layers"][1]
        entry = layer if place == "layer" else layer["config"]["kernel_initializer"]
        entry |= {"module": module, "class_name": name, "config": config, "registered_name": None}

    repacked(path, change)
    with pytest.raises(FileError, match=r"model\.keras is not a model that Keras can load"):
        load_model(path)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["../escaped", "assets/../../escaped", "{absolute}"])
def test_paths_in_a_zip_file_do_not_climb(tmp_path, name):
    folder = tmp_path / "inner"
    folder.mkdir()
    plain(folder / "model.keras")
    name = name.format(absolute=tmp_path / "escaped")
    repacked(folder / "model.keras", **{name: b"hostile", "assets/a": b"a"})
    try:
        load_model(folder / "model.keras")
    except FileError as error:
        assert "model.keras" in str(error)  # noqa: PT017  it may be loaded without the member, or refused
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inner"]
    assert [path.name for path in folder.iterdir()] == ["model.keras"]


def test_files_that_unpack_to_far_more_than_their_size(tmp_path):
    path, zeros = tmp_path / "model.keras", bytes(LARGE + 1)
    plain(path)
    repacked(path, compression=zipfile.ZIP_DEFLATED)  # packed by another program
    load_model(path)
    for member in ("model.weights.h5", "config.json", "assets/a"):
        plain(path)
        repacked(path, compression=zipfile.ZIP_DEFLATED, **{member: zeros})
        with pytest.raises(
            FileError, match=rf"model\.keras would unpack .* bytes to 67,108,865 \({member}\)\. At most"
        ):
            load_model(path)
    plain(path)  # small members, but many
    repacked(path, compression=zipfile.ZIP_DEFLATED, **{f"assets/{i}": zeros[: LARGE // 2] for i in range(3)})
    with pytest.raises(FileError, match=r"model\.keras would unpack .* bytes to 1\d\d,\d{3},\d{3} \(all members\)"):
        load_model(path)
    np.savez_compressed(tmp_path / "rows.npz", x=np.frombuffer(zeros, "uint8"))
    with pytest.raises(FileError, match=r"rows\.npz would unpack .*x\.npy.* pack its members without compression"):
        read_arrays(tmp_path / "rows.npz", "an .npz")


def test_an_array_whose_header_lies_about_its_size(tmp_path):
    path = tmp_path / "rows.npz"
    np.savez(path, x=np.zeros((2, 3), "float32"))
    with zipfile.ZipFile(path) as archive:
        content = archive.read("x.npy")
    for shape in (b"(2, 3000000)", b"(2000, 3000)"):
        changed = content.replace(b"(2, 3), }" + b" " * len(shape[6:]), shape + b", }")
        assert changed != content
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", changed)
        with pytest.raises(FileError, match=r"rows\.npz is not an \.npz: its array x\.npy has another size"):
            read_arrays(path, "an .npz")


def test_pickles_in_arrays_do_not_run(mark, tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(mark),)

    np.savez(tmp_path / "rows.npz", x=np.array([Hostile()], dtype=object))
    with pytest.raises(FileError, match=r"rows\.npz is not an \.npz: its array x\.npy holds pickled objects"):
        read_arrays(tmp_path / "rows.npz", "an .npz")
    assert not mark.exists()


def _zeros(file):
    file.create_dataset("bomb", data=np.zeros(LARGE + 1, "int8"), compression="gzip", chunks=(1 << 20,))


def _virtual(file):
    layout = h5py.VirtualLayout((1,), "float32")
    layout[0] = h5py.VirtualSource("other.h5", "x", (1,))[0]
    file.create_virtual_dataset("virtual", layout)


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (_zeros, r"would unpack .* bytes to 67,108,865 \('bomb'\)"),
        (_virtual, "has the array 'virtual' in another file"),
        (
            lambda file: file.create_dataset("raw", (1,), "float32", external=[("/etc/hostname", 0, 4)]),
            "has the array 'raw' in another file",
        ),
        (lambda file: file.__setitem__("link", h5py.ExternalLink("other.h5", "/x")), "has 'link' in another file"),
    ],
)
@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_arrays_of_hdf5_files_stay_in_them_and_are_no_larger(tmp_path, add, message, name):
    path = tmp_path / name
    plain(path)
    weights = path
    if name == "model.keras":
        weights = tmp_path / "model.weights.h5"
        with zipfile.ZipFile(path) as archive:
            archive.extract("model.weights.h5", tmp_path)
    with h5py.File(weights, "a") as file:
        add(file)
    if name == "model.keras":
        repacked(path, **{"model.weights.h5": weights.read_bytes()})
    with pytest.raises(FileError, match=rf"{name} {message}"):
        load_model(path)


class Initializer(tf.saved_model.experimental.TrackableResource):
    """A resource that TensorFlow initializes when it loads the file."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def _create_resource(self):
        return tf.raw_ops.MutableHashTableV2(key_dtype=tf.string, value_dtype=tf.int64)

    def _initialize(self):
        tf.io.write_file(self.path, "hostile")

    def _destroy_resource(self):
        pass


def test_a_saved_model_does_not_write_files_when_it_is_loaded(tmp_path):
    mark = tmp_path / "mark"

    class Module(tf.Module):
        def __init__(self):
            super().__init__()
            self.resource = Initializer(str(mark))

        @tf.function(input_signature=[tf.TensorSpec((1,), name="x")])
        def serve(self, x):
            return {"y": x + 0 * tf.cast(tf.shape(self.resource.resource_handle[None])[0], tf.float32)}

    module = Module()
    tf.saved_model.save(module, tmp_path / "saved", signatures={"serve": module.serve})
    mark.unlink(missing_ok=True)
    for read in (load, inspect):
        message = r"saved holds ops that a model does not need: WriteFile \(reads or writes files\)\. .*trust=True"
        with pytest.raises(FileError, match=message):
            read(tmp_path / "saved")
        assert not mark.exists()
    assert load(tmp_path / "saved", trust=True).serve("serve", x=np.ones(1))["y"].tolist() == [1]
    assert mark.exists()


@pytest.mark.parametrize(
    ("function", "op"),
    [
        (lambda x: tf.io.read_file("/etc/hostname"), "ReadFile"),
        (lambda x: tf.py_function(lambda: 1.0, [], tf.float32), "EagerPyFunc"),
        (lambda x: tf.numpy_function(lambda: 1.0, [], tf.float32), "PyFunc"),
        (lambda x: tf.raw_ops.SaveV2(prefix="mark", tensor_names=["x"], shape_and_slices=[""], tensors=[x]), "SaveV2"),
        (lambda x: tf.raw_ops.RestoreV2(prefix="a", tensor_names=["x"], shape_and_slices=[""], dtypes=[x.dtype])[0],
         "RestoreV2"),
        (lambda x: tf.print(x, output_stream="file://mark"), "PrintV2"),
        (lambda x: tf.cond(x[0] > 0, lambda: tf.io.matching_files("/*"), lambda: tf.constant(["a"])), "MatchingFiles"),
        (lambda x: tf.data.TFRecordDataset("a").reduce(0, lambda count, _: count + 1), "TFRecordDataset"),
    ],
)  # fmt: skip
def test_ops_that_a_model_does_not_need_are_named(tmp_path, function, op):
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec((1,), name="x")])
    def serve(x):
        result = function(x)
        return {"y": tf.identity(x) if result is None or isinstance(result, tf.Operation) else result}

    tf.saved_model.save(module, tmp_path / "saved", signatures={"serve": serve})
    with pytest.raises(FileError, match=rf"does not need: {op} \("):
        check_saved_model(tmp_path / "saved")


def test_a_saver_that_a_signature_calls_is_refused(tmp_path):
    """TensorFlow writes the same ops into each SavedModel, in functions that only its saver calls."""
    module = tf.Module()
    module.v = tf.Variable([1.0])
    serve = tf.function(lambda x: {"y": x + module.v}).get_concrete_function(tf.TensorSpec((1,), name="x"))
    tf.saved_model.save(module, tmp_path / "saved", signatures={"serve": serve})
    check_saved_model(tmp_path / "saved")
    path = tmp_path / "saved/saved_model.pb"
    from keras_dl.compat import saved_model_proto

    proto = saved_model_proto(tmp_path / "saved")
    graph = proto.meta_graphs[0].graph_def
    saver = proto.meta_graphs[0].saver_def.save_tensor_name.partition(":")[0]
    (node,) = [node for node in graph.node if node.name == saver]
    graph.node.add().CopyFrom(node)
    graph.node[-1].name = "called_by_a_signature"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(FileError, match=r"SaveV2 \(reads or writes files\)"):
        check_saved_model(tmp_path / "saved")


# Ops with an input or attribute of such a name that only handle text, or start nothing.
HARMLESS = {"AudioSummary", "CTCBeamSearchDecoder", "ShardedFilename", "ShardedFilespec", "TensorSliceDataset"}


def test_no_op_of_tensorflow_with_a_path_or_address_is_forgotten():
    """A new version of TensorFlow may bring new ops."""
    word = re.compile(
        r"(^|_)(files?|filenames?|path|paths|directory|logdir|dir|address|urls?|uri|addresses|py_?func)($|_)|^token$"
    )
    found = set()
    for name in (name for name in dir(tf.raw_ops) if not name.startswith("_")):
        arguments = python_inspect.signature(getattr(tf.raw_ops, name)).parameters
        if any(word.search(argument) for argument in arguments) and family(name) not in DOES:
            found.add(name)
    assert found - HARMLESS == set()
    assert {family(name) for name in DOES} == set(DOES)


@pytest.mark.parametrize("location", ["../secret", "{absolute}"])
def test_weights_of_an_onnx_file_outside_of_its_folder_are_not_read(tmp_path, location):
    (tmp_path / "inner").mkdir()
    (tmp_path / "secret").write_bytes(b"ABCDEFGH")
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.UINT8, dims=[8], data_location="EXTERNAL")
    for key, value in {"location": location.format(absolute=tmp_path / "secret"), "offset": "0", "length": "8"}.items():
        tensor.external_data.add(key=key, value=value)
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.UINT8, [8])
    node = onnx.helper.make_node("Identity", ["w"], ["y"])
    opset = onnx.helper.make_opsetid("", 18)
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [output], [tensor]), opset_imports=[opset])
    model.ir_version = 9
    path = tmp_path / "inner/model.onnx"
    path.write_bytes(model.SerializeToString())
    for read in (load, inspect):
        with pytest.raises(FileError, match=r"model\.onnx is not a file that onnxruntime can load: .*xternal data"):
            read(path)
