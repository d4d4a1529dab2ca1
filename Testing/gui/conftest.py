"""Everything in this folder runs on the harness."""

import os
import sys
from pathlib import Path

os.environ["QT_QPA_PLATFORM"] = "offscreen"
sys.path.insert(0, str(Path(__file__).parents[1]))

from harness.pytest_plugin import slicer_app

__all__ = ["slicer_app"]
