"""Fixtures for tests that run on the harness; a conftest.py imports them. Importing this module boots the harness."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.slicerapp import Harness, boot

boot()  # at collection already: test files may import slicer, qt and ctk at their top, as in the application


@pytest.fixture(autouse=True)
def slicer_app() -> Iterator[Harness]:
    """An empty scene and no module widget. The test fails if a slot, timer or observer raised.

    A test that provokes such an exception empties slicer_app.slot_errors when it has looked at it.
    """
    harness = boot()
    harness.start()
    try:
        yield harness
    finally:
        harness.stop()
    assert not harness.slot_errors, f"raised in a slot: {harness.slot_errors!r}"
