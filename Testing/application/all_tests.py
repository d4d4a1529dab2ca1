"""The tests of the module, all files of them: for `run.py` inside 3D Slicer and for the harness."""

from application import (
    batch_tests,
    button_tests,
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

MODULES = (
    batch_tests,
    button_tests,
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
