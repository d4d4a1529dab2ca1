"""One registration from nodes to nodes: images out, background process, results in."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slicer
from masr_registration.errors import CancelledError, MasrError, ResourceError
from masr_registration.presets import Preset
from masr_registration.worker import client
from masr_registration.worker.jobfolder import JobFolder
from masr_registration.worker.messages import Message, Progress, Request, Warn
from slicer.i18n import tr as _

from ..mrml.inputs import InputVolume
from ..mrml.results import RegistrationResult, deliver
from ..mrml.setup import RegistrationSetup
from .process import WorkerProcess

ProgressCallback = Callable[[str, float, float | None], None]
FinishedCallback = Callable[[RegistrationResult | None, MasrError | None], None]


@dataclass(frozen=True)
class RunOptions:
    """How a registration is run: device (auto, cpu, cuda, cuda:N), CPU threads (None: as many as suit), seed, and
    whether the files that go to and fro are kept."""

    device: str = "auto"
    threads: int | None = None
    seed: int = 0
    keepFiles: bool = False


class RegistrationJob:
    """A job that runs while the application goes on.

    Attributes:
        running: until `onFinished` is about to be called.
        cancelling: it was asked to stop.
        result, error: one of them, once the job is over.
    """

    def __init__(
        self,
        setup: RegistrationSetup,
        preset: Preset,
        options: RunOptions,
        onProgress: ProgressCallback | None = None,
        onFinished: FinishedCallback | None = None,
        onLog: Callable[[str], None] | None = None,
    ) -> None:
        """Raises `InputError` when this cannot be registered."""
        setup.check()
        self._setup: RegistrationSetup | None = setup
        self._inputs = self._read(setup)
        self.preset, self.options = preset, options
        self.running = self.cancelling = False
        self.result: RegistrationResult | None = None
        self.error: MasrError | None = None
        self._onProgress, self._onFinished, self._onLog = onProgress, onFinished, onLog
        self._sceneObserver: int | None = None
        self._sceneClosed = False

    @property
    def workerPid(self) -> int | None:
        """The process to look at or to kill; None before it has said hello and after its end."""
        return self._process.pid

    def start(self) -> None:
        """Hand the images over and start the process. Raises `ResourceError`; nothing is left then."""
        self._folder = JobFolder.create()
        try:
            assert self._setup is not None
            request = Request(
                **self._setup.write(*self._inputs, self._folder.path),
                output=str(self._folder.path / "output"),
                preset=json.loads(self.preset.to_json()),
                device=self.options.device,
                threads=self.options.threads,
                seed=self.options.seed,
                report=False,
                features=True,
            )
            self._process = WorkerProcess(request, self._onMessage, self._log, self._onEnd)
            self._process.start()
        except BaseException:
            self._folder.remove()
            raise
        self.running = True
        slicer.app.connect("aboutToQuit()", self.onQuit)
        self._scene = slicer.mrmlScene
        self._sceneObserver = self._scene.AddObserver(self._scene.StartCloseEvent, self._onSceneClose)

    def cancel(self) -> None:
        """Ask the worker to stop; `onFinished` gets a `CancelledError` within about two seconds."""
        if self.running:
            self.cancelling = True
            self._process.cancel()

    def abandon(self, *, quitting: bool = False) -> None:
        """Kill the worker and forget the job, calling nobody: the module goes away or the application is `quitting`."""
        if self.running:
            self._process.abandon(quitting=quitting)
            self._close()
            self._removeFiles()

    def onQuit(self) -> None:
        """The application ends: nothing is left running."""
        self.abandon(quitting=True)

    def keptFolder(self) -> Path:
        """Where the files go if they are to be kept."""
        return Path(slicer.app.temporaryPath) / self._folder.path.name.replace("masr", "MASR-kept", 1)

    def _read(self, setup: Any) -> tuple[InputVolume, ...]:
        """What is handed over, as it is now. Raises `InputError`."""
        return InputVolume.of(setup.fixedVolume), InputVolume.of(setup.movingVolume)

    def _deliver(self, outcome: client.Outcome, setup: Any) -> Any:
        """Put the files of a success into the scene."""
        return deliver(outcome, *self._inputs, setup)

    def _onSceneClose(self, caller: Any, event: str) -> None:
        self._sceneClosed = True
        self.cancel()

    def _onMessage(self, message: Message) -> None:
        if isinstance(message, Warn):
            self._log(message.message)
        if isinstance(message, Progress) and self._onProgress is not None and not self.cancelling:
            self._onProgress(message.stage, message.fraction, message.eta_s)

    def _log(self, line: str) -> None:
        if self._onLog is not None:
            self._onLog(line)

    def _onEnd(self, outcome: client.Outcome | None, error: MasrError | None) -> None:
        try:
            if self._sceneClosed:
                raise CancelledError(_("The registration was cancelled because the scene was closed."))
            if error is not None:
                raise _explained(error)
            if self.cancelling:
                raise CancelledError
            assert outcome is not None
            assert self._setup is not None
            with slicer.util.WaitCursor():
                self.result = self._deliver(outcome, self._setup)
        except MasrError as problem:
            self.error = problem
        except Exception as problem:
            logging.exception("The result could not be put into the scene")
            self.error = MasrError(_("The result could not be put into the scene."))
            self.error.__cause__ = problem
        finally:
            self._close()
        if self.error is not None:
            self._removeFiles()
        try:
            if self._onFinished is not None:
                self._onFinished(self.result, self.error)
        finally:
            self._removeFiles()

    def _removeFiles(self) -> None:
        """Or, if that was wished, put them where no later start sweeps them away."""
        if self.options.keepFiles and self._folder.path.is_dir():
            kept = self.keptFolder()
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(str(self._folder.path), str(kept))
            self._log(_("The files of this run are kept in {folder}").format(folder=kept))
        self._folder.remove()

    def _close(self) -> None:
        self.running = False
        slicer.app.disconnect("aboutToQuit()", self.onQuit)
        self._scene.RemoveObserver(self._sceneObserver)
        self._setup = None
        del self._inputs  # whoever keeps the job does not keep large nodes of a closed scene


def _explained(error: MasrError) -> MasrError:
    """The error itself, or what it means in 3D Slicer."""
    notes = "\n".join(getattr(error, "__notes__", []))
    if "No module named 'torch'" in notes or "No module named torch" in notes:
        known = ResourceError(
            _(
                "PyTorch is not installed in 3D Slicer. Install the extension PyTorch, and with its module "
                "PyTorch Utils the package itself."
            )
        )
        known.add_note(notes)
        return known
    return error
