"""The module against surroundings that a real Slicer cannot easily be given: broken workers, no torch, the end."""

import gc
import os
import sys
import tempfile
import textwrap
import weakref
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
from masr_registration.errors import CancelledError, MasrError, ResourceError  # noqa: E402
from masr_registration.worker.messages import Hello, request_from  # noqa: E402
from MASRRegistrationLib.gui import preset_library  # noqa: E402
from MASRRegistrationLib.gui.messages import plain  # noqa: E402
from MASRRegistrationLib.gui.process import WorkerProcess  # noqa: E402
from MASRRegistrationLib.gui.register_tab import remainingTime  # noqa: E402


def temporary_folders():
    return list(Path(tempfile.gettempdir()).glob(f"masr-*-{os.getpid()}-*"))


PREAMBLE = """
import json, os, sys, time
def send(type, **fields):
    print(json.dumps({"type": type, **fields}), flush=True)
def hello():
    send("hello", pid=os.getpid(), device="cpu", version="0")
def result(path):
    send("result", files={"f": path}, metrics={"x": 1}, warnings=[], verdict={}, provenance={}, timings={})
request = json.loads(sys.stdin.readline())
"""


class FakeWorker:
    """Runs a Python source as the worker; collects what the process reports."""

    def __init__(self, folder, monkeypatch, app):
        self.folder, self.app = folder, app
        self.messages, self.log, self.ends = [], [], []
        monkeypatch.setenv("PYTHONPATH", str(folder))
        monkeypatch.setenv("TMPDIR", str(folder))
        monkeypatch.setattr("tempfile.tempdir", None)

    def start(self, source):
        (self.folder / "fake_worker.py").write_text(PREAMBLE + textwrap.dedent(source), encoding="utf-8")
        paths = {name: str(self.folder / name) for name in ("fixed", "moving", "output")}
        self.process = WorkerProcess(
            request_from({**paths, "preset": {}}),
            self.messages.append,
            self.log.append,
            lambda *end: self.ends.append(end),
            module="fake_worker",
        )
        self.process.start()

    def end(self):
        """(outcome, error)"""
        self.app.wait_until(lambda: self.ends)
        assert list(self.folder.glob("masr-*")) == []
        assert len(self.ends) == 1
        return self.ends[0]


@pytest.fixture
def worker(tmp_path, monkeypatch, slicer_app):
    return FakeWorker(tmp_path, monkeypatch, slicer_app)


@pytest.mark.parametrize(
    ("source", "kind", "sentence"),
    [
        ("sys.exit(0)", MasrError, "without a result"),
        ("sys.exit(7)", MasrError, "crashed (exit code 7)"),
        ("print('not json'); print('[]'); send('news'); sys.exit(3)", MasrError, "crashed"),
        ("os.kill(os.getpid(), 9)", ResourceError, "killed from outside"),
        ("os.kill(os.getpid(), 11)", MasrError, "crashed (SIGSEGV)"),
        ("os.kill(os.getppid(), 9); time.sleep(60)", ResourceError, "killed from outside"),
        ("send('error', code='resources', message='Too small.')", ResourceError, "Too small"),
        ("result('/none')", MasrError, "not there: f"),
        ("result(__file__); sys.exit(1)", MasrError, "after its result"),
    ],
)
def test_every_end_is_one_sentence(worker, source, kind, sentence):
    worker.start("hello()\n" + source)
    outcome, error = worker.end()
    assert outcome is None
    assert isinstance(error, kind)
    assert sentence in str(error)


def test_success(worker):
    worker.start(
        """
        hello()
        sys.stdout.buffer.write(b'{"type": "progress", "stage": "line')
        sys.stdout.flush()
        time.sleep(0.1)
        sys.stdout.buffer.write(b'ar", "fraction": 0.5}\\n')
        print("a log line", file=sys.stderr)
        result(__file__)
        """
    )
    outcome, error = worker.end()
    assert error is None
    assert outcome.metrics == {"x": 1}
    assert [type(m).__name__ for m in worker.messages] == ["Hello", "Progress", "Result"]
    assert worker.log == ["a log line"]


def test_listeners_that_raise_do_not_hide_the_end(worker, slicer_app):
    worker.messages = worker.log = mock.Mock(append=mock.Mock(side_effect=ValueError("broken listener")))
    worker.start(
        "hello()\nprint('log', file=sys.stderr)\nsend('progress', stage='linear', fraction=0.5)\nresult(__file__)"
    )
    outcome, error = worker.end()
    assert error is None
    assert outcome.metrics == {"x": 1}
    assert [str(e) for e in slicer_app.slot_errors] == ["broken listener"] * 4
    slicer_app.slot_errors.clear()


def test_a_worker_that_does_not_obey_is_killed(worker):
    worker.start("hello()\nwhile True: time.sleep(1)")
    worker.app.wait_until(lambda: worker.process.pid)
    pid = worker.process.pid
    worker.process.cancel()
    outcome, error = worker.end()
    assert (outcome, type(error)) == (None, CancelledError)
    worker.app.wait_until(lambda: not alive(pid))


def test_a_worker_that_obeys_is_not_killed(worker, monkeypatch):
    for deadline in ("OBEY", "LEAVE"):
        monkeypatch.setattr(f"MASRRegistrationLib.gui.process.MILLISECONDS_TO_{deadline}", 600_000)
    worker.start(
        """
        hello()
        wanted = [json.loads(sys.stdin.readline())]
        send("cancelled")
        wanted += sys.stdin.readlines()
        print(wanted, file=sys.stderr)
        """
    )
    worker.app.wait_until(lambda: worker.messages)
    worker.process.cancel()
    worker.process.cancel()
    worker.app.wait_until(lambda: len(worker.messages) == 2)
    worker.process._process.closeWriteChannel()
    outcome, error = worker.end()
    assert (outcome, type(error)) == (None, CancelledError)
    assert worker.log == ["[{'type': 'cancel'}]"]


def test_abandoned(worker):
    worker.start("hello()\nwhile True: time.sleep(1)")
    worker.app.wait_until(lambda: worker.messages)
    assert isinstance(worker.messages[0], Hello)
    worker.process.abandon()
    worker.app.wait_until(lambda: not alive(worker.messages[0].pid))
    qt.QTimer.singleShot(200, lambda: worker.log.append("later"))
    worker.app.wait_until(lambda: worker.log)
    assert worker.ends == []
    assert list(worker.folder.glob("masr-*")) == []


@pytest.fixture
def module(slicer_app):
    widget = slicer.util.getModuleWidget("MASRRegistration")
    slicer.modules.masrregistration.widgetRepresentation().enter()
    for selector, node in zip(
        (widget.tabs.register.ui.fixedSelector, widget.tabs.register.ui.movingSelector),
        addPair(),
        strict=True,
    ):
        selector.setCurrentNode(node)
    return widget


def test_without_torch(module, slicer_app, tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n", encoding="utf-8"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    module.tabs.register.ui.applyButton.click()
    slicer_app.wait_until(lambda: not module.tabs.register.running)
    assert [(level, "PyTorch is not installed" in text) for level, text in slicer_app.messages] == [
        ("error", True)
    ]
    assert "torch" in module.tabs.register.ui.logEdit.toPlainText()


def test_quitting_ends_the_worker(module, slicer_app):
    module.tabs.register.ui.applyButton.click()
    job = module.tabs.register.job
    slicer_app.wait_until(lambda: job.workerPid)
    pid = job.workerPid
    slicer_app.quit()
    assert not job.running
    slicer_app.wait_until(lambda: not alive(pid))
    assert slicer_app.messages == []


def test_interrupted_while_waiting(module, monkeypatch):
    monkeypatch.setattr("time.sleep", mock.Mock(side_effect=KeyboardInterrupt))
    fixed, moving = (
        module.tabs.register.ui.fixedSelector.currentNode(),
        module.tabs.register.ui.movingSelector.currentNode(),
    )
    with pytest.raises(KeyboardInterrupt):
        module.logic.register(fixed, moving)
    assert not module.logic.job.running
    assert temporary_folders() == []


def test_the_panel_is_up_to_date_while_an_error_message_is_open(module, monkeypatch):
    seen = []
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(
        "slicer.util.errorDisplay", lambda *a, **k: seen.append(module.tabs.register.ui.applyButton.text)
    )
    module.tabs.register.ui.applyButton.click()
    monkeypatch.setattr("shutil.which", lambda name: "/no/PythonSlicer")
    module.tabs.register.ui.applyButton.click()
    module.tabs.register.job._process._process.waitForFinished()
    slicer.app.processEvents()
    assert seen == ["Register", "Register"]
    assert module.tabs.register.ui.progressBar.isHidden()


def test_nothing_is_kept_of_parameters_that_are_disconnected(module):
    first = weakref.ref(module.tabs.binding.parameters)
    for _ in range(3):
        slicer.modules.masrregistration.widgetRepresentation().exit()
        slicer.modules.masrregistration.widgetRepresentation().enter()
    gc.collect()
    assert first() is None
    assert module.tabs.binding.parameters.fixedVolume.GetName() == "T1"


def test_a_closed_scene_is_not_kept_in_memory(module, slicer_app, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: "/no/PythonSlicer")
    volume = weakref.ref(module.tabs.register.ui.movingSelector.currentNode())
    module.tabs.register.ui.applyButton.click()
    job = weakref.ref(module.tabs.register.job)
    slicer_app.wait_until(lambda: not module.tabs.register.running)
    slicer.mrmlScene.Clear(False)
    gc.collect()
    assert (job(), volume()) == (None, None)


def test_reload(module, slicer_app):
    module.tabs.register.ui.applyButton.click()
    job = module.tabs.register.job
    with mock.patch.dict(sys.modules):
        code = sys.modules["MASRRegistrationLib.gui.register_tab"]
        module.onReload()
        assert sys.modules["MASRRegistrationLib.gui.register_tab"] is not code
    again = slicer.util.getModuleWidget("MASRRegistration")
    assert again is not module
    assert not job.running
    assert temporary_folders() == []
    assert again.tabs.register.ui.fixedSelector.currentNode().GetName() == "T1"
    assert again.tabs.register.ui.applyButton.enabled
    assert slicer_app.messages == []


def test_own_presets_lie_in_the_folder_of_the_users_settings():
    settings = Path(slicer.app.slicerUserSettingsFilePath)
    assert preset_library.folder() == settings.parent / "MASRRegistration" / "presets"
    assert preset_library.own() == []


def test_the_modules_own_test(module):
    slicer.selfTests["MASRRegistration"]()


def test_the_module_is_described(module):
    """What the generic tests of Slicer's build ask for, and the texts of the template replaced."""
    described = slicer.modules.masrregistration
    assert (described.name, described.title) == ("MASRRegistration", "MASR Registration")
    assert described.categories == ("Registration",)
    assert described.contributors == ("MASR Registration maintainers",)
    assert "not a medical device" in described.helpText
    assert "Mok et al., CVPR 2024" in described.acknowledgementText
    assert described.widgetRepresentation() is described.widgetRepresentation()


def test_names_in_messages_are_not_taken_for_html():
    assert plain('"A&B" is.') == '"A&B" is.'
    assert plain('"<b>x</b>" is.') == "<p>&quot;&lt;b&gt;x&lt;/b&gt;&quot; is.</p>"


def test_remaining_time():
    assert [remainingTime(s) for s in (None, 0.2, 30, 150)] == [
        "",
        " – about 1 s left",
        " – about 30 s left",
        " – about 2 min left",
    ]
