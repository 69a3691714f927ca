"""Furniture: Debian packages, the catalog of Sweet Home 3D, the table of classes, and the recipe's folds and metric."""

import hashlib
import io
import subprocess
import tarfile
import types
import zipfile

import numpy as np
import pytest
import tensorflow as tf

from keras_dl.recipes import datasets, pointnet
from keras_dl.recipes.datasets import DataError, Deb, debs, furniture
from keras_dl.recipes.datasets.furniture import CLASSES, Furniture
from keras_dl.recipes.tasks import clouds
from keras_dl.recipes.training import recipe

RECIPE = recipe.find("pointnet")


# Packages of Debian.


def pack(path, files, data="data.tar.xz"):
    """A `.deb` of files, and the `Deb` of it. A member of an odd size comes first."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:xz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    content = b"!<arch>\n"
    for name, member in {"debian-binary": b"2.0", data: inner.getvalue()}.items():
        content += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(member):<10}`\n".encode()
        content += member + b"\n" * (len(member) % 2)
    path.write_bytes(content)
    return Deb(path.name, hashlib.sha256(content).hexdigest(), "CC0", len(content))


@pytest.fixture
def apt(tmp_path, monkeypatch):
    """A cache of the test alone, and an apt-get that copies from the folder `archive`: returns that folder."""
    monkeypatch.setenv("KERAS_DL_CACHE", str(tmp_path / "cache"))
    archive = tmp_path / "archive"
    archive.mkdir()

    def run(command, cwd, **options):
        assert command[1] == "download"
        file = archive / (command[2].replace("=", "_") + "_all.deb")
        if not file.exists():
            return subprocess.CompletedProcess(command, 100, "", "E: Version '1.0' for 'none' was not found")
        (cwd / file.name).write_bytes(file.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(debs.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(debs.subprocess, "run", run)
    return archive


def test_a_debian_package_is_downloaded_once_and_read(apt, monkeypatch):
    package = pack(apt / "two-parts_1.2-1_all.deb", {"usr/a/x.txt": b"x", "usr/a/b/y.txt": b"y", "usr/z": b"z"})
    assert (package.distribution, package.version, package.requirement) == ("two-parts", "1.2-1", "two-parts=1.2-1")
    assert dict(package.members("usr/a")) == {"x.txt": b"x"}
    monkeypatch.setattr(debs.subprocess, "run", None)
    assert dict(package.members("usr/a/b")) == {"y.txt": b"y"}
    with pytest.raises(DataError, match=r"two-parts_1.2-1_all.deb has no files in 'usr/c'"):
        dict(package.members("usr/c"))


def test_a_debian_package_that_cannot_be_had_or_read(apt, monkeypatch):
    package = pack(apt / "toy_1.0_all.deb", {"a": b"a"})
    with pytest.raises(DataError, match=r"from the Debian archive has the sha256 .*It was not kept"):
        package._replace(sha256=64 * "0").fetch()
    assert not package.path().exists()
    with pytest.raises(DataError, match=r"apt-get could not download none=1.0.*was not found.*by hand"):
        package._replace(filename="none_1.0_all.deb").fetch()
    with pytest.raises(DataError, match=r"empty_1_all.deb has no data.tar"):
        dict(pack(apt / "empty_1_all.deb", {"a": b"a"}, data="other").members("a"))
    (apt / "text_1_all.deb").write_text("a text")
    digest = hashlib.sha256(b"a text").hexdigest()
    with pytest.raises(DataError, match=r"text_1_all.deb is no Debian package"):
        dict(package._replace(filename="text_1_all.deb", sha256=digest).members("a"))
    monkeypatch.setattr(debs.shutil, "which", lambda name: None)
    with pytest.raises(DataError, match=r"there is none.*put toy_1.0_all.deb into .*by hand"):
        package.fetch()


# The data set.


def box(x, y, z):
    """An OBJ file of a box, with polygons of four corners."""
    corners = [(i, j, k) for i in (0, x) for j in (0, y) for k in (0, z)]
    faces = ("1 2 4 3", "5 7 8 6", "1 5 6 2", "3 4 8 7", "1 3 7 5", "2 6 8 4")
    lines = [f"v {a} {b} {c}" for a, b, c in corners] + [f"f {face}" for face in faces]
    return "\n".join(lines)


def library(entries, missing=()):
    """A `.sh3f` of entries `(name, model, further lines of the catalog)`."""
    text, models = "id=Toys\n", {model for _, model, _ in entries}
    for number, (name, model, further) in enumerate(entries, 1):
        lines = {"name": name, "model": f"/{model}", "creator": "A. Nyone"} | further
        text += "".join(f"{key}#{number} = {value}\n" for key, value in lines.items())
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("PluginFurnitureCatalog.properties", text.encode("latin-1"))
        for i, model in enumerate(sorted(models - {*missing})):
            archive.writestr(model, box(1, 2 + i, 3))
    return content.getvalue()


@pytest.fixture
def toys(apt, monkeypatch):
    """Five objects of each of three classes, another entry of a model, and an object of no class."""
    entries = [(name, f"{name}{i}.obj", {}) for name in ("Bed", "Chair", "Desk") for i in range(5)]
    entries += [("Chair", "Bed0.obj", {}), ("Steak", "steak.obj", {})]
    content = library(entries)
    monkeypatch.setattr(Furniture, "SOURCE", pack(apt / "toys_1_all.deb", {f"{furniture.FOLDER}/Toys.sh3f": content}))


def test_furniture(toys, tmp_path):
    builder = datasets.prepare("furniture", data_dir=tmp_path / "data", quiet=True)
    rows = list(builder.as_dataset(split="train").as_numpy_iterator())
    assert len(rows) == 15
    assert {row["author"] for row in rows} == {b"A. Nyone"}
    names = builder.info.features["label"].names
    assert sorted((row["name"].decode(), names[row["label"]]) for row in rows) == sorted(
        (name, kind) for name, kind in (("Bed", "bed"), ("Chair", "chair"), ("Desk", "table")) for _ in range(5)
    )
    for row in rows:
        assert row["points"].shape == (2048, 3)
        np.testing.assert_allclose(np.linalg.norm(row["points"], axis=-1).max(), 1, rtol=1e-5)
        np.testing.assert_allclose(row["points"].mean(0), 0, atol=1e-5)
    first = next(row for row in rows if row["file"] == b"Toys/Bed0.obj")
    sides = np.ptp(first["points"], axis=0)
    np.testing.assert_allclose(sides / sides[0], [1, 2, 3], rtol=1e-2)
    assert Furniture.LICENCE in builder.info.description

    options = RECIPE.options("furniture", batch_size=4, data_dir=str(tmp_path / "data"))
    tested = []
    for variant in recipe.FOLDS:
        data = RECIPE.load_data(options, variant)
        assert (data.num_train, data.num_test, data.dataset) == (12, 3, "furniture")
        targets = data.arrays["test/target"]
        assert sorted(names[target] for target in targets) == ["bed", "chair", "table"]
        tested += [x.tobytes() for x in data.arrays["test/points"]]
    assert len(set(tested)) == 15  # each object is tested once
    inputs, _ = next(iter(data.train(tf.constant(0))))
    assert inputs.shape == (4, 512, 3)

    def serve(name, points):
        return {"probabilities": np.eye(10)[np.where(np.arange(3) == 0, targets, 0)]}  # the first alone is right

    right = (targets[1:] == 0).sum() + 1
    assert RECIPE.evaluate(serve, data) == pytest.approx(right / 3)


def test_meshes_are_turned_as_the_catalog_says(apt):
    lines = {"modelRotation": "1 0 0 0 0 1 0 -1 0"}  # z becomes y
    content = library([("Bed", "a.obj", {}), ("Bed", "b.obj", lines)])
    package = pack(apt / "toys_1_all.deb", {f"{furniture.FOLDER}/Toys.sh3f": content})
    (_, _, plain, faces), (key, entry, turned, _) = furniture.read_meshes(package)
    assert (key, entry["name"], faces.shape) == ("Toys/b.obj", "Bed", (12, 3))
    np.testing.assert_array_equal(np.ptp(plain, axis=0), [1, 2, 3])
    np.testing.assert_array_equal(np.ptp(turned, axis=0), [1, 3, 3])
    content = library([("Bed", "a.obj", {})], missing=["a.obj"])
    package = pack(apt / "less_1_all.deb", {f"{furniture.FOLDER}/Toys.sh3f": content})
    with pytest.raises(DataError, match=r"Toys.sh3f of less_1_all.deb has no a.obj"):
        list(furniture.read_meshes(package))


def test_a_name_has_one_class():
    names = [" ".join(name.split()) for names in CLASSES.values() for name in names.split(",")]
    assert len(names) == len(set(names)) == len(furniture.CLASS_OF)
    assert furniture.CLASS_OF["Captain's bed"] == "bed"
    assert furniture.CLASS_OF["Desk"] == "table"
    assert "Table fan" not in furniture.CLASS_OF
    entry = next(entry for entry in datasets.catalogue() if entry.name == "furniture")
    assert (entry.source, entry.size) == ("sweethome3d-furniture 1.8-1", 119_782_356)
    assert list(entry.examples) == ["train"]


# The baseline.


def test_shape_distributions_tell_balls_from_sticks(monkeypatch):
    rng = np.random.default_rng(0)
    balls, sticks = rng.normal(size=(2, 8, 200, 3))
    balls /= np.linalg.norm(balls, axis=-1, keepdims=True)
    sticks = np.clip(sticks * [0, 0, 0.3], -1, 1)
    points, targets = np.concatenate([balls, sticks]), np.repeat([0, 1], 8)
    found = clouds.shape_distributions(points)
    np.testing.assert_allclose(found.sum(-1), 1)
    # On a sphere, the mean distance of two points is 4/3.
    middle = (np.arange(64) + 0.5) / 32
    np.testing.assert_allclose(found[:8] @ middle, 4 / 3, atol=1 / 32)  # a bin

    data = types.SimpleNamespace(
        train=lambda epoch: tf.data.Dataset.from_tensor_slices((points, targets)).batch(4),
        arrays={"test/points": points[::3], "test/target": targets[::3]},
    )
    trained = {"fold-1": types.SimpleNamespace(data=data)}
    outcome = types.SimpleNamespace(trained=trained, task=RECIPE.tasks["furniture"])
    assert pointnet.shape_distribution(outcome) == ("shape distribution", 1.0)
