"""slicer.app and the rest of the slicer package around real MRML, and the object tests use to control them."""

from __future__ import annotations

import atexit
import importlib
import logging
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import slicer
import slicer.util
from PySide6 import QtCore, QtWidgets

from harness import api, mrml, signals, uiloader
from harness.iomanager import qSlicerCoreIOManager
from harness.modules import qSlicerModuleManager
from harness.widgets import prop

_HERE = Path(__file__).parent
_LAUNCHER = """#!/bin/sh
# A launcher, like the real one: it waits for a child, and whoever kills it leaves the child alive.
"{python}" "$@"
exit $?
"""
_APPLICATION = """#!/bin/sh
echo "This is the Slicer application and not a Python interpreter: $*" >&2
exit 70
"""


class qSlicerApplication(QtWidgets.QApplication):
    """slicer.app. Only attributes of the real slicer.app can be read (harness.api has the list)."""

    is_cpp_stand_in = True
    startupCompleted = QtCore.Signal()

    temporaryPath = prop("")
    cachePath = prop("")
    extensionsInstallPath = prop("")
    defaultScenePath = prop("")

    def __init__(self, folder: Path) -> None:
        super().__init__([])
        self.setOrganizationName("NA-MIC")
        self.setApplicationName("Slicer")
        self.setApplicationVersion(api.data()["versions"]["slicer"])
        self._folder = folder
        self.temporaryPath = self.cachePath = self.defaultScenePath = str(folder)
        self._mrml = mrml.boot(str(folder))
        self._io = qSlicerCoreIOManager(self._mrml)
        self._modules: Any = None
        self._settings = QtCore.QSettings()
        self._revision_settings = QtCore.QSettings(str(folder / "Slicer-0.ini"), QtCore.QSettings.IniFormat)

    slicerHome = QtCore.Property(str, lambda self: str(self._folder / "Slicer"))
    slicerUserSettingsFilePath = QtCore.Property(str, lambda self: self._settings.fileName())
    startupWorkingPath = QtCore.Property(str, lambda self: str(Path.cwd()))
    majorVersion = QtCore.Property(int, lambda self: 5)
    minorVersion = QtCore.Property(int, lambda self: 12)
    revision = QtCore.Property(str, lambda self: "0")
    mainApplicationName = QtCore.Property(str, lambda self: "Slicer")
    documentationBaseUrl = QtCore.Property(str, lambda self: "https://slicer.readthedocs.io/en/latest/")
    isInstalled = QtCore.Property(bool, lambda self: True)

    def mrmlScene(self) -> Any:
        return self._mrml.scene

    def applicationLogic(self) -> Any:
        return self._mrml.application_logic

    def moduleLogic(self, name: str) -> Any:
        return self._mrml.application_logic.GetModuleLogic(name)

    def moduleManager(self) -> Any:
        return self._modules

    def ioManager(self) -> qSlicerCoreIOManager:
        return self._io

    coreIOManager = ioManager

    def layoutManager(self) -> None:
        """None, as when the application runs without a main window."""

    def settings(self) -> QtCore.QSettings:
        return self._settings

    userSettings = settings

    def revisionUserSettings(self) -> QtCore.QSettings:
        return self._revision_settings

    def testingEnabled(self) -> bool:
        return True

    def moduleDocumentationUrl(self, name: str) -> str:
        return f"{self.documentationBaseUrl}user_guide/modules/{name.lower()}.html"

    def environment(self) -> QtCore.QProcessEnvironment:
        return QtCore.QProcessEnvironment.systemEnvironment()

    startupEnvironment = environment

    def pauseRender(self) -> None:
        pass

    def resumeRender(self) -> None:
        pass


class Harness:
    """The running stand-in application. Tests get it from the fixture slicer_app; there is one per process."""

    def __init__(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="slicer-harness-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        QtCore.QSettings.setDefaultFormat(
            QtCore.QSettings.IniFormat
        )  # qt.QSettings() must not touch the user's
        QtCore.QSettings.setPath(QtCore.QSettings.IniFormat, QtCore.QSettings.UserScope, str(folder))
        self.bin_folder = folder / "bin"
        self.python_slicer = _script(
            self.bin_folder / "PythonSlicer", _LAUNCHER.format(python=sys.executable)
        )
        self.application = _script(self.bin_folder / "SlicerApp-real", _APPLICATION)
        self.messages: list[tuple[str, str]] = []
        """(level, text) of what slicer.util would have shown to the user; levels as in logging, lower case."""
        self.slot_errors = signals.slot_errors
        self._saved: dict[str, Any] | None = None
        _trim_slicer_package()
        self.app = slicer.app = qSlicerApplication(folder)
        slicer.modules, slicer.moduleNames = ModuleType("slicer.modules"), ModuleType("slicer.moduleNames")
        sys.modules |= {"slicer.modules": slicer.modules, "slicer.moduleNames": slicer.moduleNames}
        self.app._modules = qSlicerModuleManager(self.app._mrml.logics)
        slicer.mrmlScene = self.app.mrmlScene()
        for name in ("i18n", "ScriptedLoadableModule", "parameterNodeWrapper"):
            setattr(slicer, name, importlib.import_module(f"slicer.{name}"))
        slicer.util._messageDisplay, slicer.util.messageBox = self._message_display, self._message_box
        slicer.util.delayDisplay = _delay_display

    @property
    def mrml(self) -> mrml.Mrml:
        return self.app._mrml

    def start(self) -> None:
        """Make this the surroundings of a test: interpreter, PATH, exception hook, an empty scene."""
        self._saved = {
            "path": os.environ["PATH"],
            "executable": sys.executable,
            "hook": sys.excepthook,
            "scene": slicer.mrmlScene,
        }
        os.environ["PATH"] = f"{self.bin_folder}{os.pathsep}{os.environ['PATH']}"
        sys.executable = str(self.python_slicer)
        sys.excepthook = signals.record_error
        slicer.mrmlScene = self.app.mrmlScene()
        slicer.mrmlScene.Clear(False)
        slicer.mrmlScene.SetRootDirectory(
            ""
        )  # saving a scene sets it, and relative file names are meant from there
        self.slot_errors.clear()
        self.messages.clear()

    def stop(self) -> None:
        """Close module widgets and the scene, and put the surroundings back."""
        assert self._saved is not None
        try:
            self.app._modules._close_widgets()
            for node in slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode"):
                slicer.mrmlScene.RemoveNode(node)  # singletons, which Clear would keep
            slicer.mrmlScene.Clear(False)
            self.app.processEvents()
        finally:
            os.environ["PATH"], sys.executable = self._saved["path"], self._saved["executable"]
            sys.excepthook, slicer.mrmlScene = self._saved["hook"], self._saved["scene"]

    def load_modules(self, folder: str | Path) -> list[Any]:
        """Load every .py in the folder as a scripted module, as --additional-module-paths does, and finish start-up.

        While modules are being loaded sys.executable is the application, not Python: a fact of the real one.
        A module stays loaded for the rest of the process; its widget lives until the end of the test.
        """
        folder = Path(folder).resolve()
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
        before, sys.executable = sys.executable, str(self.application)
        try:
            modules = [self.app._modules._load(file) for file in sorted(folder.glob("*.py"))]
        finally:
            sys.executable = before
        self.app.startupCompleted.emit()
        signals.disconnect(self.app, "startupCompleted()")  # it comes once in a module's life
        return modules

    def wait_until(self, condition: Callable[[], Any], timeout: float = 300.0) -> None:
        """Run the event loop until the condition holds; TimeoutError after `timeout` seconds."""
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"the condition did not hold within {timeout} s")
            self.app.processEvents()
            time.sleep(0.002)

    def quit(self) -> None:
        """What the application does when it ends: it says so, then module widgets are closed."""
        self.app.aboutToQuit.emit()
        self.app._modules._close_widgets()

    def _message_display(self, level: int, text: str, answer: Any, *args: Any, **keywords: Any) -> Any:
        self.messages.append((logging.getLevelName(level).lower(), text))
        return answer

    def _message_box(self, text: str, *args: Any, **keywords: Any) -> Any:
        self.messages.append(("message", text))
        return QtWidgets.QMessageBox.Ok


def _delay_display(message: str, *args: Any, **keywords: Any) -> None:
    logging.info(message)
    QtWidgets.QApplication.processEvents()


def _script(path: Path, content: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(content, encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def _trim_slicer_package() -> None:
    """Leave in `slicer` what the application has there, and let it find the stand-ins of its missing parts."""
    slicer.util = sys.modules["slicer.util"]
    known = api.data()["slicer"]
    for name in dir(slicer):
        if not name.startswith(("_", "vtk")) and name not in known:
            delattr(slicer, name)
    slicer.util.__dict__.pop("LazyImport", None)  # newer than 5.12.3
    slicer.__path__.append(str(_HERE / "slicer_stubs"))
    sys.path.append(str(_HERE / "slicer_modules"))


_harness: Harness | None = None


def boot() -> Harness:
    """The one Harness of this process."""
    global _harness
    if _harness is None:
        assert uiloader.QUiLoader
        _harness = Harness()
    return _harness
