"""The tests of `Testing/application` on the harness, and the module's names against the real application."""

from pathlib import Path

import harness.api
import pytest
from harness.slicerapp import boot

MODULE_FOLDER = Path(__file__).resolve().parents[2] / "MASRRegistration"
boot().load_modules(MODULE_FOLDER)

from application.lifecycle_tests import ChoiceTest, LifecycleTest  # noqa: E402
from application.workflow_tests import SampleTest, WorkflowTest  # noqa: E402

__all__ = ["ChoiceTest", "LifecycleTest", "SampleTest", "WorkflowTest"]

LifecycleTest.pytestmark = SampleTest.pytestmark = WorkflowTest.pytestmark = [pytest.mark.slow]


def test_the_module_uses_only_names_that_slicer_has() -> None:
    assert harness.api.check_names(MODULE_FOLDER) == []
