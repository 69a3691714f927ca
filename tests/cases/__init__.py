"""The cases of all architectures: one file an architecture, each with a list `CASES`.

To add an architecture, add its file: the whole battery runs on it.
"""

import importlib
import pathlib

CASES = []
for _path in sorted(pathlib.Path(__file__).parent.glob("[a-z]*.py")):
    _found = importlib.import_module(f"cases.{_path.stem}").CASES
    assert _found, f"{_path} has no case"
    assert all(case.architecture == _path.stem for case in _found), f"{_path} has a case of another architecture"
    CASES += _found
