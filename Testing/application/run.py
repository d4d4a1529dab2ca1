"""Runs the tests of the module inside 3D Slicer; the exit code tells the result.

Slicer --testing --additional-module-paths MASRRegistration --python-script Testing/application/run.py
"""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from application import (
    batch_tests,
    check_tests,
    cookbook_tests,
    help_tests,
    landmark_tests,
    lifecycle_tests,
    result_tests,
    settings_tests,
    tutorial_tests,
    workflow_tests,
)

suite = unittest.TestSuite(
    unittest.defaultTestLoader.loadTestsFromModule(module)
    for module in (
        batch_tests,
        check_tests,
        cookbook_tests,
        help_tests,
        landmark_tests,
        lifecycle_tests,
        result_tests,
        settings_tests,
        tutorial_tests,
        workflow_tests,
    )
)
result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
sys.exit(0 if result.wasSuccessful() else 1)
