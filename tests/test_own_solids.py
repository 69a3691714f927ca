"""Own closed meshes: how they are read, what is refused, and the way from a folder to a reconstructed mesh."""

import numpy as np
import own
import pytest
import trimesh

from keras_dl.files import FileError
from keras_dl.ops.meshes import check_watertight, is_inside
from keras_dl.recipes import occupancy_network
from keras_dl.recipes.data import as_text as as_text_of_data
from keras_dl.recipes.data import open_data, understand
from keras_dl.recipes.datasets import solids
from keras_dl.recipes.prediction import as_text, predict, surfaces
from keras_dl.recipes.prediction.source import Source
from keras_dl.recipes.training import commands, recipe
from keras_dl.recipes.training.recipe import OptionError

RECIPE = recipe.find("occupancy_network")


def options(folder, **others):
    return RECIPE.options("solids", data=str(folder), batch_size=2, **others)


def test_meshes_of_five_formats(tmp_path):
    own.write_solids(tmp_path, 10)
    (tmp_path / "notes.txt").write_text("no mesh")
    data = open_data(tmp_path)
    assert (data.form, data.counts) == ("solids", {"train": 6, "test": 2, "validation": 2})
    assert data.how == "a fifth for the test and a fifth of the rest for the validation, by the seed 0"
    assert data.facts["triangles"] == "120, 12 to 12 in a mesh; all meshes are watertight"
    assert data.notes == []
    files = [file for columns in data.splits.values() for file in columns["mesh"]]
    assert len(set(files)) == 10
    document = understand(tmp_path)
    assert document["recipes"] == ["occupancy_network"]
    assert "closed meshes\nexamples   6 train, 2 test, 2 validation" in as_text_of_data(document)
    found = RECIPE.load_data(options(tmp_path), "model")
    for split in ("validation", "test"):
        for file, mesh, points, occupied in zip(
            data.splits[split]["mesh"],
            found.arrays[f"{split}/meshes"],
            found.arrays[f"{split}/points"],
            found.arrays[f"{split}/occupied"],
            strict=True,
        ):
            corners, _ = own.cuboid(int(file.rpartition("/")[2][0]))
            half = np.ptp(corners, axis=0) / np.ptp(corners, axis=0).max() / 2
            np.testing.assert_allclose(np.ptp(mesh[0], axis=0), 2 * half, atol=1e-6)
            near = (np.abs(np.abs(points) - half) < 1e-4).any(1)
            np.testing.assert_array_equal(occupied[~near], (np.abs(points) < half).all(1)[~near])
    batch, occupied = next(found.train(0).as_numpy_iterator())
    assert (batch["cloud"].shape, batch["points"].shape, occupied.shape) == ((2, 300, 3), (2, 256, 3), (2, 256))
    assert RECIPE.load_data(options(tmp_path, smoke=True), "model").num_train == 6  # not solids by formula


def test_folders_of_splits_and_of_kinds(tmp_path):
    for split, count in (("train", 5), ("val", 2), ("test", 1)):
        own.write_solids(tmp_path / split / "any/boxes", count, (".ply",))
    data = open_data(tmp_path, "solids")
    assert (data.counts, data.how) == ({"train": 5, "validation": 2, "test": 1}, "as the folders have it")
    assert {file.rsplit("/", 2)[1] for file in data.splits["train"]["mesh"]} == {"boxes"}
    before = data.fingerprint
    own.write_solids(tmp_path / "more", 2)
    note = "left out 2 meshes that are in no folder of a split, such as "
    assert open_data(tmp_path, "solids").notes == [f"{note}{tmp_path / 'more/0.ply'}"]
    own.write_mesh(tmp_path / "train/any/boxes/0.ply", *own.cuboid(99))
    assert open_data(tmp_path, "solids").fingerprint != before
    own.write_solids(tmp_path / "others/train", 5)
    own.write_solids(tmp_path / "others/test", 2)
    data = open_data(tmp_path / "others")
    assert (data.counts, data.how) == (
        {"train": 4, "test": 2, "validation": 1},
        "a fifth of the training split for the validation, by the seed 0",
    )


def test_faces_that_look_inwards_are_turned_around_and_said(tmp_path):
    own.write_solids(tmp_path, 5)
    vertices, faces = own.cuboid(0)
    own.write_mesh(tmp_path / "0.ply", vertices, faces[:, ::-1])
    data = open_data(tmp_path)
    assert data.notes == ["1 of the meshes had faces that look inwards, and were turned around"]
    found = RECIPE.load_data(options(tmp_path), "model")
    for mesh in found.arrays["train/meshes"] + found.arrays["test/meshes"]:
        check_watertight(*mesh)


def test_thin_solids_are_said(tmp_path):
    own.write_solids(tmp_path, 5)
    own.write_mesh(tmp_path / "0.ply", own.CORNERS * [1, 1, 5e-4], own.CUBOID)
    assert open_data(tmp_path).notes == ["1 of the solids are so thin that their IoU says little"]


def hole(file):
    own.write_mesh(file, own.CORNERS, own.CUBOID[1:])


def wound(file):
    faces = own.CUBOID.copy()
    faces[0] = faces[0, ::-1]
    own.write_mesh(file, own.CORNERS, faces)


def flat(file):
    own.write_mesh(file, own.CORNERS * [1, 1, 0], own.CUBOID)


def cloud(file):
    trimesh.PointCloud(own.CORNERS).export(file)


def damaged(file):
    file.write_bytes(b"ply\nformat ascii 1.0\nelement vertex x")


def lost(file):
    file.write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n")


@pytest.mark.parametrize(
    ("spoil", "name", "message"),
    [
        (hole, "0.ply", r"not watertight: 3 of its 18 edges .* first between \(0, 0, 0\) and .*fill_holes"),
        (wound, "0.ply", "faces that are wound in opposite ways: 3 of its 18 edges.*fix_normals"),
        (flat, "0.ply", "is flat: it encloses no volume"),
        (cloud, "0.ply", "has no triangles. Which points are inside is known of closed meshes alone"),
        (damaged, "0.ply", "cannot be read as PLY: .*Export it again"),
        (lost, "1.off", "(is no mesh|cannot be read as OFF)"),
    ],
)
def test_wrong_meshes_are_named(spoil, name, message, tmp_path):
    own.write_solids(tmp_path, 5)
    spoil(tmp_path / name)
    with pytest.raises(FileError, match=message) as error:
        open_data(tmp_path)
    assert error.value.path == str(tmp_path / name)


def test_all_wrong_meshes_are_named_at_once(tmp_path):
    own.write_solids(tmp_path, 9, (".ply",))
    for i in (1, 4, 6):
        hole(tmp_path / f"{i}.ply")
    with pytest.raises(FileError, match=r"1.ply is not .* 2 of the other 8 files .*: 4.ply, 6.ply\.$"):
        open_data(tmp_path)


@pytest.mark.parametrize(("count", "splits"), [(2, ("",)), (1, ("train", "test"))])
def test_too_few_solids_are_refused(count, splits, tmp_path):
    for split in splits:
        own.write_solids(tmp_path / split, count)
    with pytest.raises(FileError, match=f"has {count} solids to train on and no split .* Three are needed at least"):
        open_data(tmp_path, "solids")


def test_a_split_without_a_mesh_is_named(tmp_path):
    own.write_solids(tmp_path / "train", 4)
    (tmp_path / "test").mkdir()
    with pytest.raises(FileError, match="has no mesh in its split test"):
        open_data(tmp_path)


def test_from_meshes_to_a_mesh(tmp_path, monkeypatch):
    """The whole way, with a tiny net: train, resume, evaluate, export, and reconstruct a cloud."""
    tiny = dict(code_dim=4, hidden_dim=8, encoder_dim=8, num_blocks=1, plane_resolution=8, unet_depth=2, unet_filters=4)
    monkeypatch.setattr(occupancy_network, "SMALL", occupancy_network.SMALL | tiny)
    monkeypatch.setattr(occupancy_network, "SERVED", 4096)
    monkeypatch.setattr(solids, "POINTS", 4096)
    folder, run = own.write_solids(tmp_path / "boxes", 6, (".ply",)), tmp_path / "run"
    report = commands.train("occupancy_network", data=folder, output=run, epochs=1, jit="off")
    assert (report["form"], report["dataset"], report["metric"]) == ("solids", "boxes", "IoU")
    assert report["baseline"] in ("convex hull of the cloud", "nearest training shape")
    threshold = report["figures"]["threshold"]
    assert threshold in occupancy_network.THRESHOLDS
    assert commands.train("occupancy_network", output=run, resume=True)["value"] == report["value"]
    file = commands.export(run, signatures=["encode", "occupancy"], verify=False)["path"]
    assert commands.evaluate(file)["value"] == pytest.approx(report["value"], abs=1e-3)
    points = np.random.default_rng(0).uniform(size=(400, 3)) * [4, 2, 2] + 7
    np.save(tmp_path / "scan.npy", points)
    answers = {}
    for source in (run, file):
        (answers[source],) = predict(source, [tmp_path / "scan.npy"], output=tmp_path / "found.ply")
    first, second = answers.values()
    assert np.array(first["faces"]).shape == np.array(second["faces"]).shape
    vertices = np.array(first["vertices"])  # in the cube around the cloud, whose side is 4.4
    assert np.abs(vertices - [9, 8, 8]).max() < 2.25
    written = trimesh.load(tmp_path / "found.ply", process=False)
    assert len(written.faces) == len(second["faces"]) > 0
    check_watertight(written.vertices, written.faces)
    assert as_text([second]).endswith(f"triangles, in {tmp_path / 'found.ply'}")


def test_a_cloud_becomes_a_mesh_in_its_own_coordinates(tmp_path):
    """By a source whose probabilities are those of a ball of the diameter of the cloud."""

    class Ball:
        def serve(self, name, **arrays):
            if name == "encode":
                assert np.ptp(arrays["cloud"], axis=1).max() == pytest.approx(1)
                return {"code": np.zeros((1, 2), "float32")}
            assert arrays["code"].shape == (len(arrays["points"]), 2)
            return {"occupancies": 1 / (1 + np.exp(100 * (np.linalg.norm(arrays["points"], axis=-1) - 0.5)))}

    inputs = {
        "encode": {"cloud": ((1, 300, 3), "float32")},
        "occupancy": {"points": ((1, 2048, 3), "float32"), "code": ((1, 2), "float32")},
    }
    source = Source(tmp_path, inputs, lambda names: Ball(), threshold=0.5)
    sphere = np.random.default_rng(0).normal(size=(5000, 3))
    sphere = 30 * sphere / np.linalg.norm(sphere, axis=-1, keepdims=True) + [100, -200, 7]
    np.save(tmp_path / "scan.npy", sphere)
    (answer,) = surfaces.reconstruct(source, [tmp_path / "scan.npy"], tmp_path / "ball.obj")
    assert answer["output"] == str(tmp_path / "ball.obj")
    vertices = np.array(answer["vertices"])
    np.testing.assert_allclose(np.linalg.norm(vertices - [100, -200, 7], axis=-1), 30, atol=1.5)
    assert is_inside([[100, -200, 7]], vertices, np.array(answer["faces"])).all()
    many = surfaces.reconstruct(source, [tmp_path / "scan.npy"] * 2, tmp_path / "both")
    assert many[0]["output"] == str(tmp_path / "both/scan.ply")
    with pytest.raises(OptionError, match=r"--output ball.png must end with one of .ply, .obj, .glb"):
        surfaces.reconstruct(source, [tmp_path / "scan.npy"], "ball.png")
    with pytest.raises(OptionError, match="names the threshold 'x'; it must be between 0 and 1"):
        surfaces.reconstruct(source._replace(threshold="x"), [tmp_path / "scan.npy"])
    (tmp_path / "scan.txt").write_text("0 0 0")
    with pytest.raises(FileError, match=r"is no cloud of points\. Read are: \.npy, \.ply"):
        surfaces.reconstruct(source, [tmp_path / "scan.txt"])
