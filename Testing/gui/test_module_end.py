"""Slicer quits, or a job is given up, while background processes work: nothing is left running or on disk."""

import os
import tempfile
from pathlib import Path
from unittest import mock

import pytest
import qt
import slicer
from harness.slicerapp import boot

MODULE_FOLDER = Path(__file__).resolve().parents[2] / "MASRRegistration"
boot().load_modules(MODULE_FOLDER)

from application.lifecycle_tests import alive  # noqa: E402
from application.module_case import addPair  # noqa: E402


def temporary_folders():
    return list(Path(tempfile.gettempdir()).glob(f"masr-*-{os.getpid()}-*"))


def processes(module):
    """Pids of the interpreters that run `module` for this process, launchers included."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) in _descendants():
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if module.encode() in words:
                found.append(int(entry.name))
    return found


def _descendants():
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found and pid not in found}:
        found |= more
    return found - {os.getpid()}


@pytest.fixture
def endless(tmp_path, monkeypatch):
    """Whatever imports torch or SimpleITK in a background process never comes back from it."""
    reached = tmp_path / "reached"
    code = f"import pathlib, time\npathlib.Path({str(reached)!r}).touch()\ntime.sleep(3600)\n"
    for name in ("torch.py", "SimpleITK.py"):
        (tmp_path / name).write_text(code, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return reached


@pytest.fixture
def tabs(slicer_app, endless):
    widget = slicer.util.getModuleWidget("MASRRegistration")
    slicer.modules.masrregistration.widgetRepresentation().enter()
    parameters = widget.tabs.binding.parameters
    parameters.fixedVolume, parameters.movingVolume = addPair()
    widget.tabs.reached = endless
    return widget.tabs


STARTS = {
    "masr_registration.diagnosis": lambda tabs: tabs.register.help.ui.diagnoseButton.click(),
    "masr_registration.worker": lambda tabs: tabs.register.ui.applyButton.click(),
    "features": lambda tabs: tabs.landmarks.ui.prepareButton.click(),
    "masr_registration.demo": lambda tabs: tabs.register.help.ui.sampleButton.click(),
}


def start(tabs, slicer_app, what):
    STARTS[what](tabs)
    module = "masr_registration.worker" if what == "features" else what
    slicer_app.wait_until(tabs.reached.exists)
    pids = processes(module)
    assert len(pids) == 2  # PythonSlicer and its child
    return pids


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes as Linux shows them")
@pytest.mark.parametrize("what", STARTS)
def test_nothing_is_left_when_slicer_quits(tabs, slicer_app, what):
    pids = start(tabs, slicer_app, what)
    slicer_app.quit()
    slicer_app.wait_until(lambda: not any(alive(pid) for pid in pids), timeout=30)
    assert temporary_folders() == []
    assert slicer_app.messages == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes as Linux shows them")
@pytest.mark.parametrize("what", STARTS)
def test_the_window_does_not_wait_for_what_is_given_up(tabs, slicer_app, what):
    pids = start(tabs, slicer_app, what)
    parts = {
        "masr_registration.diagnosis": tabs.register.help,
        "masr_registration.worker": tabs.register,
        "features": tabs.landmarks,
        "masr_registration.demo": tabs.register.help,
    }
    holders = {
        "masr_registration.diagnosis": lambda: tabs.register.help._process,
        "masr_registration.worker": lambda: tabs.register.job._process._process,
        "features": lambda: tabs.landmarks._job._process._process,
        "masr_registration.demo": lambda: tabs.register.help._sample._process,
    }
    process = holders[what]()
    parts[what].cleanup()
    assert process.state() != qt.QProcess.NotRunning  # its end was not waited for
    assert temporary_folders() == []
    slicer_app.wait_until(lambda: process.state() == qt.QProcess.NotRunning)
    slicer_app.wait_until(lambda: not any(alive(pid) for pid in pids), timeout=30)
    assert temporary_folders() == []


@pytest.fixture
def window(slicer_app, monkeypatch):
    """A main window, there before the module is opened."""
    window = qt.QMainWindow()
    monkeypatch.setattr("slicer.util.mainWindow", lambda: window)
    window.show()
    yield window
    window.close()


def test_closing_the_window_asks_while_a_registration_runs(window, tabs, slicer_app):
    answers, questions = [False, True], []

    def ask(text, *args, **options):
        questions.append(text)
        return answers.pop(0)

    with mock.patch("slicer.util.confirmOkCancelDisplay", ask):
        pids = start(tabs, slicer_app, "masr_registration.worker")
        job = tabs.register.job
        assert not window.close()  # no: nothing happens
        assert window.isVisible()
        assert job.running
        assert window.close()
        assert not window.isVisible()
    assert ["quitting ends it" in question for question in questions] == [True, True]
    slicer_app.quit()
    assert not job.running
    slicer_app.wait_until(lambda: not any(alive(pid) for pid in pids), timeout=30)


def test_closing_the_window_asks_nothing_while_nothing_runs(window, tabs, slicer_app):
    assert window.close()
    assert slicer_app.messages == []
