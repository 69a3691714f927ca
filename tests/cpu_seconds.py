"""A pytest plugin: the CPU seconds of each architecture, of the other test files, and of all of them together.

CPU seconds are counted, not seconds on the clock, because other processes on the machine hardly change them. They still
depend on the machine: one that is half as fast needs twice as many. So a test run only shows what is over the budget,
and does not fail for it.
"""

import collections
import os
import pathlib
import time

import psutil
import pytest
from parts import ARCHITECTURES, part_of

# Of one architecture in `make test`: 31 of them have to fit into continuous integration.
BUDGET = 75
SHOWN = 40  # of the tests that used most


def used():
    """float: the CPU seconds of this process, and of all that it has started: what has ended, and what still runs."""
    own = os.times()
    total = time.process_time() + own.children_user + own.children_system
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:  # it ended meanwhile, and is among the children of its parent
            continue
        # Where the platform counts them: what the child itself started and waited for.
        total += times.user + times.system + getattr(times, "children_user", 0) + getattr(times, "children_system", 0)
    return total


class Counter:
    """In each process of tests: writes the CPU seconds of each phase of a test, and its part, into its report."""

    def __init__(self):
        self.mark = 0.0  # what the process had used before the first test: imports and collection
        self.before_tests = 0.0

    def _lap(self):
        now = used()
        seconds, self.mark = now - self.mark, now
        return seconds

    def pytest_collection_finish(self):
        self.before_tests = self._lap()

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item):
        outcome = yield
        report = outcome.get_result()
        report.cpu_seconds, report.part = self._lap(), _part(item)

    def overhead(self):
        """The CPU seconds that belong to no test: before the first one, and after the last."""
        return self.before_tests + self._lap()


def _part(item):
    """What a test belongs to: the architecture of its case, or what its file belongs to."""
    case = getattr(item, "callspec", None) and item.callspec.params.get("case")
    if hasattr(case, "architecture"):
        return case.architecture
    return part_of(pathlib.Path(item.nodeid.split("::")[0]).stem)


class Worker(Counter):
    """A worker of pytest-xdist hands its overhead to the process that it works for."""

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session):
        session.config.workeroutput["cpu_overhead"] = self.overhead()


class Table:
    """In the process that the user started: adds up what the reports say, and prints it."""

    def __init__(self, counter):
        self.counter = counter  # None where workers run the tests
        self.seconds, self.tests, self.overhead = collections.Counter(), collections.Counter(), 0.0

    def pytest_runtest_logreport(self, report):
        if hasattr(report, "part"):  # else xdist made it, for a worker that died
            self.seconds[report.part] += report.cpu_seconds
            self.tests[report.nodeid] += report.cpu_seconds

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node):
        self.overhead += getattr(node, "workeroutput", {}).get("cpu_overhead", 0.0)

    def pytest_terminal_summary(self, terminalreporter):
        # With workers, their processes are children of this one, and are counted where they count themselves.
        self.overhead += self.counter.overhead() if self.counter else time.process_time()
        if self.seconds:
            terminalreporter.section(f"tests that used most CPU seconds, of {len(self.tests)}")
            for name, seconds in self.tests.most_common(SHOWN):
                terminalreporter.line(f"{seconds:7.1f}  {name}")
            terminalreporter.section("CPU seconds")
            for line in table(self.seconds, self.overhead):
                terminalreporter.line(line)


def table(seconds, overhead):
    """The lines of the table.

    Args:
        seconds: dict of CPU seconds by part.
        overhead: CPU seconds outside of tests.

    Returns:
        list of str: architectures first, then the rest, each with the most expensive one first.

    Example:

    >>> print("\\n".join(table({"vit": 80.0, "export": 9.5}, 12.0)))
    Per architecture, its cases in the battery and its own tests together (budget 75):
       80.0  vit  OVER THE BUDGET
    Other test files:
        9.5  export
    Outside of tests (imports and collection, once in each process):
       12.0
      101.5  in all
    """
    ordered = sorted(seconds.items(), key=lambda item: -item[1])
    architectures = [item for item in ordered if item[0] in ARCHITECTURES]
    others = [item for item in ordered if item[0] not in ARCHITECTURES]
    lines = []
    if architectures:
        lines.append(f"Per architecture, its cases in the battery and its own tests together (budget {BUDGET}):")
        lines += [f"{x:7.1f}  {name}{'  OVER THE BUDGET' if x > BUDGET else ''}" for name, x in architectures]
    if others:
        lines.append("Other test files:")
        lines += [f"{x:7.1f}  {name}" for name, x in others]
    lines += ["Outside of tests (imports and collection, once in each process):", f"{overhead:7.1f}"]
    return [*lines, f"{sum(seconds.values()) + overhead:7.1f}  in all"]


def register(config):
    """Registers the plugin in the processes of a test run."""
    if hasattr(config, "workerinput"):
        config.pluginmanager.register(Worker(), "cpu-seconds")
        return
    distributed = bool(getattr(config.option, "numprocesses", None) or getattr(config.option, "tx", None))
    counter = None if distributed else Counter()
    if counter:
        config.pluginmanager.register(counter, "cpu-seconds")
    config.pluginmanager.register(Table(counter), "cpu-seconds-table")
