"""What every test shares: quiet, seeded, one thread for each of the workers, and a table of CPU seconds at the end."""

import ctypes
import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "PYTEST_XDIST_WORKER" in os.environ:  # two workers on two cores: more threads would only wait for each other
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

import cpu_seconds
import pytest

_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it


def pytest_configure(config):
    cpu_seconds.register(config)


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
