"""First steps and trouble: the sample pair, and a diagnosis as text that can be copied."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib import metadata
from typing import Any

import qt
import slicer
from masr_registration import demo
from masr_registration.diagnosis import ATTACHED
from masr_registration.errors import MasrError
from slicer.i18n import tr as _

from . import dependencies, sample
from .messages import showError
from .process import hasLeft, leaveBehind, startModule
from .tab import Tab

MODULE = "masr_registration.diagnosis"


class HelpPanel(Tab):
    """`register` starts the registration of what the parameters say."""

    file = "HelpPanel.ui"

    def __init__(self, resourcePath: Callable[[str], str], register: Callable[[], None]) -> None:
        super().__init__(resourcePath)
        self._register = register
        self._process: Any = None  # also when it has ended: it must not be deleted in its own signals
        self._abandoned = False
        ui = self.ui
        ui.sampleButton.connect("clicked(bool)", self.onSample)
        ui.diagnoseButton.connect("clicked(bool)", self.onDiagnose)
        ui.copyDiagnosisButton.connect("clicked(bool)", self.onCopy)
        self._showDiagnosis("")
        slicer.app.connect("aboutToQuit()", self.onQuit)

    def setBusy(self, busy: bool) -> None:
        """A registration runs: no other is begun from here."""
        self.ui.sampleButton.enabled = not busy

    def cleanup(self) -> None:
        slicer.app.disconnect("aboutToQuit()", self.onQuit)
        self._abandon(quitting=False)

    def onQuit(self) -> None:
        """The application ends: nothing is left running."""
        self._abandon(quitting=True)

    def onSample(self) -> None:
        """Load the sample pair and register it."""
        try:
            with slicer.util.WaitCursor():
                fixed, moving = sample.load()
        except MasrError as error:
            showError(error)
            return
        parameters = self.parameters
        parameters.fixedVolume, parameters.movingVolume, parameters.preset = fixed, moving, demo.PRESET
        for name in ("fixedMask", "movingMask", "initialTransform", "outputTransform", "outputVolume"):
            setattr(parameters, name, None)
        self._register()

    def onDiagnose(self) -> None:
        """Ask the interpreter of the background process; it needs some seconds."""
        self.ui.diagnoseButton.enabled = False
        self._showDiagnosis(_("Looking…"))
        python = shutil.which("PythonSlicer")
        if python is None:
            self._onDiagnosed(_("PythonSlicer was not found; is Slicer complete?"))
            return
        self._process = process = qt.QProcess()
        process.connect("finished(int,QProcess::ExitStatus)", self._onFinished)
        process.connect("errorOccurred(QProcess::ProcessError)", self._onProcessError)
        startModule(process, python, MODULE, ATTACHED)

    def onCopy(self) -> None:
        slicer.app.clipboard().setText(self.ui.diagnosisEdit.toPlainText())

    def _onProcessError(self, error: int) -> None:
        if error == qt.QProcess.FailedToStart and not self._abandoned:  # `finished` never comes
            self._onDiagnosed(_("PythonSlicer could not be started."))

    def _onFinished(self, exitCode: int, status: int) -> None:
        if self._abandoned:
            hasLeft(self)
            return
        process = self._process
        lines = process.readAllStandardOutput().data().decode("utf-8", "replace").splitlines()
        log = process.readAllStandardError().data().decode("utf-8", "replace").strip()
        try:
            self._onDiagnosed(diagnosisText(json.loads(lines[-1])))
        except (IndexError, ValueError):
            sentence = _("The background process ended without an answer (exit code {code}).")
            self._onDiagnosed("\n".join([sentence.format(code=exitCode), log]))

    def _abandon(self, *, quitting: bool) -> None:
        if self._process is not None and not self._abandoned:
            self._abandoned = True
            leaveBehind(self._process, self, quitting=quitting)

    def _onDiagnosed(self, text: str) -> None:
        self.ui.diagnoseButton.enabled = True
        self._showDiagnosis("\n".join([*_slicerLines(), "", text]))

    def _showDiagnosis(self, text: str) -> None:
        ui = self.ui
        ui.diagnosisEdit.setPlainText(text)
        ui.diagnosisEdit.visible = ui.copyDiagnosisButton.visible = bool(text)


def diagnosisText(found: dict[str, Any]) -> str:
    """What the background process found, a line each."""
    lines = [f"MASR Registration {found['masr_version']}, Python {found['python']}, {found['platform']}"]
    lines += [f"{name}: {version or _('missing')}" for name, version in found["packages"].items()]
    lines.append(f"torch and numpy: {found['torch_and_numpy']}")
    devices = found["devices"]
    lines += [f"device: {device}" for device in (devices if isinstance(devices, list) else [devices])]
    lines.append(f"usable memory: {found['free_memory_mb']} MB")
    weights = found["weights"]
    lines += (
        [f"weights {name}: {state}" for name, state in weights.items()]
        if isinstance(weights, dict)
        else [f"weights: {weights}"]
    )
    lines.append(f"self-test: {found['self_test']}")
    return "\n".join(lines)


def _slicerLines() -> list[str]:
    """About the application's own process."""
    try:
        metadata.version("light-the-torch")
        installer = _("was used")
    except metadata.PackageNotFoundError:
        installer = _("was not used yet")
    absent = [package.name for package in dependencies.missing()]
    return [
        f"3D Slicer {slicer.app.applicationVersion}, {slicer.app.revision}",
        _("Installer of the extension PyTorch: {state}").format(state=installer),
        _("Packages that are missing in Slicer: {names}").format(names=", ".join(absent) or _("none")),
    ]
