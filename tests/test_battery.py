"""Runs every check of the battery on every case."""

import pytest
from battery import CHECKS, SLOW
from cases import CASES
from reloading import Reloader


class Shared:
    """What the checks of one worker share: a scratch folder, the trained models of a case, and a process that reloads.

    Tracing a training step takes most of the time of a tiny model's training, so that checks share what is trained.
    """

    def __init__(self, folder):
        self.folder = folder
        self.reload = Reloader(folder)
        self._of, self._made = None, {}

    def once(self, make, case, *options):
        """What `make(case, *options)` returns, made once; of the last case alone."""
        if self._of != case.name:
            self._of, self._made = case.name, {}
        if (make, *options) not in self._made:
            self._made[make, *options] = make(case, *options)
        return self._made[make, *options]


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    shared = Shared(tmp_path_factory.mktemp("battery"))
    yield shared
    shared.reload.close()


def _parameters():
    for case in CASES:
        names = {check.__name__ for check in CHECKS}
        unknown = {*case.skips, *case.slow_checks} - names
        assert not unknown, f"{case.name} names checks that do not exist: {unknown}"
        for check in CHECKS:
            reason = case.skips.get(check.__name__)
            marks = [pytest.mark.skip(reason=reason)] if reason else []
            slow = case.slow or check in SLOW or check.__name__ in case.slow_checks
            marks += [pytest.mark.slow] if slow else []
            yield pytest.param(case, check, id=f"{case.name}-{check.__name__}", marks=marks)


@pytest.mark.parametrize(("case", "check"), list(_parameters()))
def test_battery(case, check, shared):
    check(case, shared)
