"""Data files out of wheels: what pip fetches is checked, kept and read; each failure says what to do.

The wheels are made here and served from a folder, so that no test needs a network.
"""

import concurrent.futures
import gzip
import hashlib
import os
import subprocess
import sys
import zipfile

import pytest

from keras_dl.recipes.datasets import DataError, Wheel, cache_dir, wheels

MEMBERS = {
    "toy/images/mask.tif": b"II*\x00\x08\x00\x00\x00",
    "toy/data/table.csv.gz": gzip.compress(b"1,2\n", mtime=0),
    "toy/data/brain.nii.gz": gzip.compress(bytes(348), mtime=0),
    "toy/verses.py": b"verses = {1: 'In the beginning'}\n",
    "toy/words.dict": "caf\xe9 K AE0 F EY1\n".encode("latin-1"),
}


@pytest.fixture(autouse=True)
def index(tmp_path, monkeypatch):
    """An index that is a folder, and an empty cache. Returns the folder."""
    monkeypatch.setenv("KERAS_DL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    folder = tmp_path / "index"
    folder.mkdir()
    return folder


def make_wheel(folder, filename="toy-1.0-py3-none-any.whl", members=MEMBERS, requires_python=">=3.8"):
    """Writes a wheel that pip accepts; returns what a builder would say of it."""
    distribution, version, *tags = filename.removesuffix(".whl").split("-")
    info = f"{distribution}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\nRequires-Python: {requires_python}\n"
    with zipfile.ZipFile(folder / filename, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr(f"{info}/METADATA", metadata + "Requires-Dist: no-such-dependency\n")
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {'-'.join(tags)}\n")
        archive.writestr(f"{info}/RECORD", "")
    content = (folder / filename).read_bytes()
    return Wheel(filename, hashlib.sha256(content).hexdigest(), "MIT", len(content))


def no_pip(*arguments, **options):
    raise AssertionError("pip was run")


def test_members_come_out_as_they_went_in(index):
    wheel = make_wheel(index)
    assert {name: wheel.read(name) for name in MEMBERS} == MEMBERS


def test_modules_in_the_working_folder_are_not_run(index, tmp_path, monkeypatch):
    """`python -m pip` would run a pip.py of the user, and import a zipfile.py."""
    for name in ("pip", "zipfile", "ssl"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')\nraise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    assert make_wheel(index).fetch().exists()
    assert not (tmp_path / "run").exists()


def test_an_index_out_of_reach_is_the_reason_given(monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(DataError, match=r"no connection to the index \(.*refused"):
        Wheel("toy-1.0-py3-none-any.whl", 64 * "0", "MIT", 1).fetch()


def test_a_kept_wheel_is_not_fetched_again(index, monkeypatch):
    wheel = make_wheel(index)
    path = wheel.fetch()
    monkeypatch.setattr(subprocess, "run", no_pip)
    assert wheel.fetch() == path == cache_dir() / wheel.filename
    assert [p.name for p in cache_dir().iterdir()] == [wheel.filename]


def test_a_wheel_put_into_the_cache_by_hand_is_used(index, monkeypatch):
    cache_dir().mkdir(parents=True)
    wheel = make_wheel(cache_dir())
    monkeypatch.setattr(subprocess, "run", no_pip)
    assert wheel.read("toy/verses.py") == MEMBERS["toy/verses.py"]


@pytest.mark.parametrize(
    "tags",
    [
        "cp310-cp310-manylinux1_x86_64",
        "cp27-cp27mu-manylinux_2_17_x86_64.manylinux2014_x86_64",
        "cp39-abi3-macosx_11_0_arm64",
        "py3-none-win_amd64",
    ],
)
def test_wheels_for_other_interpreters_and_platforms_are_fetched(index, tags):
    wheel = make_wheel(index, f"toy-1.0-{tags}.whl", requires_python="<3")
    assert wheel.read("toy/words.dict") == MEMBERS["toy/words.dict"]


def test_at_once(index):
    wheel = make_wheel(index)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: wheel.fetch(), range(4)))
    assert set(paths) == {wheel.path()}
    assert [p.name for p in cache_dir().iterdir()] == [wheel.filename]


def test_a_wish_to_install_only_into_virtual_environments_does_not_forbid_reading(index, monkeypatch):
    monkeypatch.setenv("PIP_REQUIRE_VIRTUALENV", "1")
    run, environments = subprocess.run, []

    def record(*arguments, **options):
        environments.append(options["env"])
        return run(*arguments, **options)

    monkeypatch.setattr(subprocess, "run", record)
    assert make_wheel(index).fetch().exists()
    assert environments[0]["PIP_REQUIRE_VIRTUALENV"] == "0"  # the tests may run in such an environment themselves


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_DL_CACHE", "~/elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "elsewhere" / "wheels"
    monkeypatch.delenv("KERAS_DL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "keras_dl" / "wheels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == tmp_path / ".cache" / "keras_dl" / "wheels"


def test_not_found_says_how_to_go_on_without_a_network():
    wheel = Wheel("toy-1.0-py3-none-any.whl", "0" * 64, "MIT", 0)
    with pytest.raises(DataError) as error:
        wheel.fetch()
    assert "could not download toy==1.0" in str(error.value)
    assert "No matching distribution found for toy==1.0" in str(error.value)
    assert f"put {wheel.filename} into {cache_dir()} by hand" in str(error.value)
    assert not list(cache_dir().iterdir())


def test_another_wheel_of_the_same_version_is_refused(index):
    make_wheel(index, "toy-1.0-py2.py3-none-any.whl")
    wheel = Wheel("toy-1.0-py3-none-any.whl", "0" * 64, "MIT", 0)
    with pytest.raises(DataError, match=r"pip downloaded toy-1\.0-py2\.py3-none-any\.whl .*, not toy-1\.0-py3-none"):
        wheel.fetch()
    assert not list(cache_dir().iterdir())


def test_a_download_with_a_wrong_hash_is_not_kept(index):
    wheel = make_wheel(index)
    with pytest.raises(DataError) as error:
        wheel._replace(sha256="0" * 64).fetch()
    assert wheel.sha256 in str(error.value)
    assert "0" * 64 in str(error.value)
    assert not list(cache_dir().iterdir())


def test_a_damaged_file_in_the_cache_is_an_error_and_stays(index):
    wheel = make_wheel(index)
    path = wheel.fetch()
    path.write_bytes(b"damaged")
    with pytest.raises(DataError) as error:
        wheel.read("toy/verses.py")
    for part in (str(path), wheel.sha256, hashlib.sha256(b"damaged").hexdigest(), "Delete it"):
        assert part in str(error.value)
    assert path.read_bytes() == b"damaged"


def test_a_missing_member_lists_near_names(index):
    with pytest.raises(DataError, match=r"no member 'toy/table.csv.gz'\. Near names: toy/data/table.csv.gz, "):
        make_wheel(index).read("toy/table.csv.gz")


def test_a_cache_that_cannot_be_written(index, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KERAS_DL_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"written to the cache .*file/wheels: Not a directory.*KERAS_DL_CACHE"):
        make_wheel(index).fetch()


def test_python_without_pip(index, monkeypatch):
    wheel = make_wheel(index)
    monkeypatch.setattr(wheels.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError) as error:
        wheel.fetch()
    assert f"{sys.executable} -m ensurepip" in str(error.value)
    assert f"put {wheel.filename} into {cache_dir()} by hand" in str(error.value)
