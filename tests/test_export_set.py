"""An exported file, its companions and its report: what says that they are of one export, and what is replaced."""

import json

from keras_dl.export.file_set import complaint, open_seals, sha256


def _exported(folder, companions, content=b"one"):
    """A file with its report and the files of its target."""
    path = folder / "net.tflite"
    path.write_bytes(content)
    for name in companions:
        (folder / name).write_bytes(content)
    report = {"sha256": sha256(path), "target_report": {"files": companions}}
    (folder / "net.tflite.json").write_text(json.dumps(report))
    return path


def test_a_set_is_open_until_its_new_report_comes(tmp_path):
    path = _exported(tmp_path, ["net_vela.tflite"])
    assert complaint(path) is None
    open_seals({path: ["net_vela.tflite"]})
    assert complaint(path) == (
        "An export to net.tflite ended before all of its files had their names. Export it again."
    )
    assert (tmp_path / "net_vela.tflite").exists()
    _exported(tmp_path, ["net_vela.tflite"], b"two")
    assert complaint(path) is None


def test_files_of_the_old_target_do_not_stay_beside_the_new_file(tmp_path):
    """Only those that the old report names, in the same folder."""
    inside = tmp_path / "exports"
    inside.mkdir()
    (tmp_path / "letter.txt").touch()
    path = _exported(inside, ["net.c", "net.h"])
    (inside / "net.cc").touch()
    report = json.loads((inside / "net.tflite.json").read_text())
    report["target_report"]["files"] += ["../letter.txt", 3, ""]
    (inside / "net.tflite.json").write_text(json.dumps(report))
    open_seals({path: ["net.h"]})
    assert {x.name for x in inside.iterdir()} == {"net.tflite", "net.tflite.json", "net.h", "net.cc"}
    assert (tmp_path / "letter.txt").exists()


def test_a_report_of_something_else_is_not_that_of_its_file(tmp_path):
    path = _exported(tmp_path, [])
    for content in (b'{"sha256": 3}', b'{"target_report": 3}'):
        (tmp_path / "net.tflite.json").write_bytes(content)
        assert complaint(path) == "net.tflite.json is not the report of this net.tflite: its sha256 differs."
    for content in (b"{", b"[]", b"\xff", b"[" * 100_000):
        (tmp_path / "net.tflite.json").write_bytes(content)
        found = complaint(path)
        assert found.startswith(f"{tmp_path / 'net.tflite.json'} is not the report of an export: ")
        assert found.endswith(". Export the file again.")
        open_seals({path: []})
        assert "ended before" in complaint(path)
    (tmp_path / "net.tflite.json").unlink()
    assert complaint(path) is None


def test_a_first_export_needs_no_note(tmp_path):
    open_seals({tmp_path / "net.tflite": ["net.c"]})
    assert list(tmp_path.iterdir()) == []
