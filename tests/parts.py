"""Which part of the package a test file belongs to: an architecture, or the rest by its file's name."""

import pathlib

_TESTS = pathlib.Path(__file__).parent
ARCHITECTURES = tuple(sorted(path.stem for path in (_TESTS / "cases").glob("[a-z]*.py")))

# Test files whose names do not begin with the name of their architecture.
_BELONGS_TO = {
    "test_characters": "lstm",
    "test_odeint": "neural_ode",
    "test_recurrent_lm": "lstm",
    "test_recurrent_weights": "lstm",
}


def part_of(stem):
    """The architecture of a test file, else its name without `test_`.

    Args:
        stem: str. The name of the file without its suffix.

    Example:

    >>> part_of("test_transformer_input"), part_of("test_recurrent_lm"), part_of("test_export_files")
    ('transformer', 'lstm', 'export_files')
    """
    if stem in _BELONGS_TO:
        return _BELONGS_TO[stem]
    name = stem.removeprefix("test_")
    own = [x for x in ARCHITECTURES if name == x or name.startswith(f"{x}_")]
    return max(own, key=len, default=name)
