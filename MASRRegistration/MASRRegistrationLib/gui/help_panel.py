"""First steps and trouble: the sample pair, and a diagnosis as text that can be copied."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib import metadata
from typing import Any

import qt
import slicer
from masr_registration import demo, presets
from masr_registration.errors import CancelledError, MasrError
from slicer.i18n import tr as _

from . import dependencies, sample, settings
from .messages import showError
from .process import ATTACHED, hasLeft, leaveBehind, startModule
from .tab import Tab

MODULE = "masr_registration.diagnosis"


class HelpPanel(Tab):
    """`register` starts the registration of what the parameters say."""

    file = "HelpPanel.ui"

    def __init__(self, resourcePath: Callable[[str], str], register: Callable[[], None]) -> None:
        super().__init__(resourcePath)
        self._register = register
        self._process: Any = None  # also when it has ended: it must not be deleted in its own signals
        self._abandoned = self._busy = False
        self._sample: sample.SampleProcess | None = None
        ui = self.ui
        ui.sampleButton.connect("clicked(bool)", self.onSample)
        ui.diagnoseButton.connect("clicked(bool)", self.onDiagnose)
        ui.copyDiagnosisButton.connect("clicked(bool)", self.onCopy)
        self._showDiagnosis("")
        slicer.app.connect("aboutToQuit()", self.onQuit)

    def setBusy(self, busy: bool) -> None:
        """A registration runs: no other is begun from here."""
        self._busy = busy
        self._updateSample()

    def cleanup(self) -> None:
        slicer.app.disconnect("aboutToQuit()", self.onQuit)
        self._abandon(quitting=False)

    def onQuit(self) -> None:
        """The application ends: nothing is left running."""
        self._abandon(quitting=True)

    def onSample(self) -> None:
        """Load the sample pair, unless it is there, and register it, with nothing left of what was chosen before."""
        pair = sample.loaded()
        if pair is not None:
            self._registerSample(pair)
            return
        process = sample.SampleProcess(self._onSampleLoaded)
        try:
            process.start()
        except MasrError as error:
            showError(error)
            return
        self._sample = process
        self._updateSample()

    def _onSampleLoaded(self, pair: Any, error: MasrError | None) -> None:
        self._sample = None
        self._updateSample()
        if pair is not None and self.parameters is not None:  # the module is still shown
            self._registerSample(pair)
        elif error is not None and not isinstance(error, CancelledError):
            showError(error)

    def _registerSample(self, pair: sample.Pair) -> None:
        parameters = self.parameters
        settings.clean(parameters)
        parameters.fixedVolume, parameters.movingVolume = pair
        parameters.preset = demo.PRESET
        settings.fill(parameters, presets.load(demo.PRESET))
        self._register()

    def _updateSample(self) -> None:
        ui, loading = self.ui, self._sample is not None
        ui.sampleButton.enabled = not loading and not self._busy
        ui.sampleButton.text = _("Loading the sample…") if loading else _("Load sample and register")

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
        startModule(process, python, ATTACHED, MODULE)

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
        if self._sample is not None:
            self._sample.abandon(quitting=quitting)
            self._sample = None
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
