"""What every test shares: quiet, seeded, one thread for each of the workers, and the battery's seconds per case."""

import collections
import ctypes
import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "PYTEST_XDIST_WORKER" in os.environ:  # two workers on two cores: more threads would only wait for each other
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

import pytest

_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it

SECONDS_PER_CASE = 45  # 31 architectures have to fit into continuous integration


@pytest.fixture(scope="session")
def _imported():
    """What is imported stays: Python's collector, which would look through all of it again and again, leaves it out."""
    import keras

    gc.collect()
    gc.freeze()
    return keras


@pytest.fixture(autouse=True)
def _seeded(_imported):
    _imported.utils.set_random_seed(0)
    yield
    _imported.backend.clear_session()  # collects too, which with nothing frozen took 0.2 s a test
    if _trim:  # what XLA's compiler has freed would else add up to gigabytes a worker
        _trim(0)


def pytest_terminal_summary(terminalreporter):
    seconds = collections.Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            # What was deselected is among them, and took no time.
            if "test_battery.py::test_battery[" in getattr(report, "nodeid", "") and hasattr(report, "duration"):
                seconds[report.nodeid.split("[")[1].split("-")[0]] += report.duration
    if seconds:
        terminalreporter.section(f"battery: seconds per case (limit {SECONDS_PER_CASE})")
        for name, total in seconds.most_common():
            terminalreporter.line(f"{total:7.1f}  {name}{'  OVER THE LIMIT' if total > SECONDS_PER_CASE else ''}")
