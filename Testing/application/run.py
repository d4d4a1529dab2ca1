"""Runs the tests of the module inside 3D Slicer; the exit code tells the result.

Slicer --testing --additional-module-paths MASRRegistration --python-script Testing/application/run.py
"""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from application.all_tests import MODULES

suite = unittest.TestSuite(unittest.defaultTestLoader.loadTestsFromModule(module) for module in MODULES)
result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
sys.exit(0 if result.wasSuccessful() else 1)
