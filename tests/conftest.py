"""What every test shares: quiet, seeded, one thread for each of the workers, and a table of CPU seconds at the end."""

import contextlib
import ctypes
import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "PYTEST_XDIST_WORKER" in os.environ:  # two workers on two cores: more threads would only wait for each other
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

import changed
import cpu_seconds
import hypothesis
import psutil
import pytest

# The same examples in each run; `--hypothesis-profile=default` draws others.
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.load_profile("same")

GROWTH = 256 * 2**20  # bytes that a process of tests may gain before it collects
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it


def pytest_addoption(parser):
    parser.addoption(
        "--changed",
        nargs="?",
        const="",
        metavar="REVISION",
        help="only the tests that changes since a revision ask for; without one, since origin/main or the last tag",
    )


def pytest_configure(config):
    cpu_seconds.register(config)
    # The process that the user started asks git once, and tells its workers.
    if config.option.changed is not None and not hasattr(config, "workerinput"):
        try:
            config.option.changed_files = changed.changed_files(config.option.changed)
        except changed.NoBase as error:
            raise pytest.UsageError(f"--changed: {error}") from error


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """Of pytest-xdist: what a worker is given."""
    node.workerinput["changed_files"] = getattr(node.config.option, "changed_files", None)


def _changed_files(config):
    inputs = getattr(config, "workerinput", None)
    return getattr(config.option, "changed_files", None) if inputs is None else inputs["changed_files"]


def pytest_report_header(config):
    files = getattr(config.option, "changed_files", None)
    if files is not None:
        return f"changed files: {', '.join(files) or 'none'}"


def pytest_collection_modifyitems(config, items):
    files = _changed_files(config)
    if files is None:
        return
    selection = changed.Selection(files)
    kept, dropped = [], []
    for item in items:
        (kept if _wanted(item, selection) else dropped).append(item)
    config.hook.pytest_deselected(items=dropped)
    items[:] = kept


def _wanted(item, selection):
    values = item.callspec.params if hasattr(item, "callspec") else {}
    path = item.path.relative_to(changed.ROOT)
    if path.name != "test_battery.py":
        return selection.wants(path, values=tuple(values.values()))
    return selection.wants(path, values["case"].architecture, values["check"].__name__)


def pytest_sessionfinish(session, exitstatus):
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and session.config.option.changed is not None:
        session.exitstatus = pytest.ExitCode.OK  # no test is asked for


class _Memory:
    """Collects garbage when the process has grown. After each test, it would take a tenth of the time of all tests."""

    def __init__(self):
        self._process = psutil.Process()
        gc.set_threshold(10_000)  # Python's own collections, which look at less, but often
        self._collect()

    def _collect(self):
        gc.unfreeze()
        gc.collect()
        gc.freeze()  # what is in use: Python's own collections leave it out
        if _trim:  # what XLA's compiler has freed would else add up to gigabytes
            _trim(0)
        self._bytes = self._process.memory_info().rss

    def collect_if_grown(self):
        if self._process.memory_info().rss > self._bytes + GROWTH:
            self._collect()


@pytest.fixture(scope="session")
def _memory():
    import keras  # noqa: F401 - what is imported is frozen, too

    import keras_dl.notices

    keras_dl.notices.hidden = contextlib.nullcontext  # pytest keeps what is written, and the filter is a process
    return _Memory()


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef):
    """What several tests share is made before `_seeded`: it would hang on the tests before."""
    if fixturedef.scope != "function":
        import keras

        keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def _seeded(_memory):
    import keras

    keras.utils.set_random_seed(0)
    yield
    keras.backend.clear_session(free_memory=False)
    _memory.collect_if_grown()
