"""Fixtures of all tests, and the count of tests that had no development images."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("MASR_DATA") or ROOT.parent / "shared" / "data")


@pytest.fixture
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(autouse=True)
def _exact_small_numbers() -> Iterator[None]:
    """Training flushes denormal numbers to zero, for its whole process: no other test shall inherit that."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture(autouse=True)
def _own_numbers_of_threads() -> Iterator[None]:
    """What runs as in a process of its own says there how many threads to start: no other test shall inherit that.

    numba refuses to load a kernel once such a variable differs from the threads that it started.
    """
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture
def data_folder() -> Path:
    """The development images; tests that use it carry the mark `data` and are skipped without it."""
    return DATA


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    without_data = pytest.mark.skip(reason="needs the development images (set MASR_DATA)")
    for item in items:
        if item.get_closest_marker("data") and not DATA.is_dir():
            item.add_marker(without_data)
        if item.get_closest_marker("gpu") and not _cuda():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    for mark, what in (("data", "the development images"), ("gpu", "a CUDA device")):
        count = sum(mark in report.keywords for report in skipped)
        if count:
            terminalreporter.write_line(f"{count} tests skipped for want of {what}")


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()
