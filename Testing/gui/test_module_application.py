"""The tests of `Testing/application` on the harness, and the module's names against the real application."""

import os
import subprocess
import sys
import unittest
from collections.abc import Iterator
from pathlib import Path

import harness.api
import pytest
import qt
from harness.slicerapp import boot

MODULE_FOLDER = Path(__file__).resolve().parents[2] / "MASRRegistration"
boot().load_modules(MODULE_FOLDER)

from application import module_case, tutorial_tests  # noqa: E402
from application.all_tests import MODULES  # noqa: E402
from application.batch_tests import BatchTest  # noqa: E402
from application.button_tests import ButtonTest  # noqa: E402
from application.check_tests import CheckTest  # noqa: E402
from application.cookbook_tests import CookbookTest, DicomButtonTest  # noqa: E402
from application.help_tests import HelpTest  # noqa: E402
from application.landmark_tests import LandmarksTest  # noqa: E402
from application.lifecycle_tests import ChoiceTest, LifecycleTest  # noqa: E402
from application.result_tests import ResultTest  # noqa: E402
from application.settings_tests import SettingsTest  # noqa: E402
from application.workflow_tests import SampleTest, WorkflowTest  # noqa: E402


class TutorialTest(tutorial_tests.TutorialTest):
    """The restart is a real one: the last steps are done in a new process as well."""

    def restart(self):
        super().restart()
        path = os.pathsep.join([str(MODULE_FOLDER.parent / "Testing"), str(MODULE_FOLDER)])
        done = subprocess.run(
            [sys.executable, "-c", AFTER_THE_RESTART, str(MODULE_FOLDER), self.path, self.verdict],
            env={**os.environ, "QT_QPA_PLATFORM": "offscreen", "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]


AFTER_THE_RESTART = """
import sys, unittest
from harness.slicerapp import boot
harness = boot()
harness.load_modules(sys.argv[1])
harness.start()
from application import tutorial_tests

class LastSteps(tutorial_tests.TutorialTest):
    def test(self):
        self.path, self.verdict = sys.argv[2:4]
        self.reopen()
        with unittest.mock.patch("slicer.util.confirmOkCancelDisplay", return_value=True):
            self.revert()
        self.assertEqual(self.errors, [])

result = unittest.TestResult()
with harness.mrml.layout():
    LastSteps("test").run(result)
for _case, text in result.errors + result.failures:
    print(text, file=sys.stderr)
harness.stop()
sys.exit(0 if result.testsRun == 1 and result.wasSuccessful() else 1)
"""

__all__ = [
    "BatchTest",
    "ButtonTest",
    "CheckTest",
    "ChoiceTest",
    "CookbookTest",
    "DicomButtonTest",
    "HelpTest",
    "LandmarksTest",
    "LifecycleTest",
    "ResultTest",
    "SampleTest",
    "SettingsTest",
    "TutorialTest",
    "WorkflowTest",
]


@pytest.fixture
def views(slicer_app) -> Iterator[None]:
    """As with a main window."""
    with slicer_app.mrml.layout():
        yield


for case in (ButtonTest, CheckTest, LandmarksTest, TutorialTest):
    case.pytestmark = [pytest.mark.usefixtures("views"), pytest.mark.slow]
for case in (BatchTest, CookbookTest, DicomButtonTest, LifecycleTest, SampleTest, WorkflowTest):
    case.pytestmark = [pytest.mark.slow]


def test_every_case_that_runs_in_slicer_runs_here() -> None:
    loader = unittest.TestLoader()
    for module in MODULES:
        for suite in loader.loadTestsFromModule(module):
            for test in suite:
                assert type(test).__name__ in __all__


def test_the_module_uses_only_names_that_slicer_has() -> None:
    assert harness.api.check_names(MODULE_FOLDER) == []


def test_an_exception_in_a_slot_fails_a_test_that_runs_in_slicer(slicer_app) -> None:
    """Inside the application, where nothing else would: PythonQt only prints it."""

    class Broken(module_case.ModuleCase):
        def test(self) -> None:
            qt.QTimer.singleShot(0, lambda: self.missing)
            self.waitUntil(lambda: self.slotErrors)

    result = unittest.TestResult()
    Broken("test").run(result)
    ((_case, text),) = result.failures
    assert "AttributeError" in text
    slicer_app.slot_errors.clear()
