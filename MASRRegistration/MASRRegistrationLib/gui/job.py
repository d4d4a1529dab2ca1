"""One registration from nodes to nodes: images out, background process, results in."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import slicer
from masr_registration import presets
from masr_registration.errors import CancelledError, MasrError, ResourceError
from masr_registration.worker import client
from masr_registration.worker.jobfolder import JobFolder
from masr_registration.worker.messages import Message, Progress, Request, Warn
from slicer.i18n import tr as _

from ..mrml.inputs import InputVolume, checkRequest
from ..mrml.results import RegistrationResult, deliver
from .process import WorkerProcess

ProgressCallback = Callable[[str, float, float | None], None]
FinishedCallback = Callable[[RegistrationResult | None, MasrError | None], None]


class RegistrationJob:
    """A job that runs while the application goes on.

    Attributes:
        running: until `onFinished` is about to be called.
        cancelling: it was asked to stop.
        result, error: one of them, once the job is over.
    """

    def __init__(
        self,
        fixedNode: Any,
        movingNode: Any,
        presetName: str = "general",
        outputTransformNode: Any = None,
        outputVolumeNode: Any = None,
        onProgress: ProgressCallback | None = None,
        onFinished: FinishedCallback | None = None,
        onLog: Callable[[str], None] | None = None,
    ) -> None:
        """Raises `InputError` when these nodes or this preset cannot be used."""
        checkRequest(fixedNode, movingNode, outputTransformNode, outputVolumeNode)
        self._inputs = InputVolume.of(fixedNode), InputVolume.of(movingNode)
        self.preset = presets.load(presetName)
        self.running = self.cancelling = False
        self.result: RegistrationResult | None = None
        self.error: MasrError | None = None
        self._outputs = outputTransformNode, outputVolumeNode
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
            fixed, moving = (self._folder.path / f"{name}.nrrd" for name in ("fixed", "moving"))
            for volume, file in zip(self._inputs, (fixed, moving), strict=True):
                volume.write(file)
            request = Request(
                fixed=str(fixed),
                moving=str(moving),
                output=str(self._folder.path / "output"),
                preset=json.loads(self.preset.to_json()),
                report=False,
            )
            self._process = WorkerProcess(request, self._onMessage, self._log, self._onEnd)
            self._process.start()
        except BaseException:
            self._folder.remove()
            raise
        self.running = True
        slicer.app.connect("aboutToQuit()", self.abandon)
        self._scene = slicer.mrmlScene
        self._sceneObserver = self._scene.AddObserver(self._scene.StartCloseEvent, self._onSceneClose)

    def cancel(self) -> None:
        """Ask the worker to stop; `onFinished` gets a `CancelledError` within about two seconds."""
        if self.running:
            self.cancelling = True
            self._process.cancel()

    def abandon(self) -> None:
        """Kill the worker and forget the job, calling nobody: the application or the module goes away."""
        if self.running:
            self._process.abandon()
            self._close()
            self._folder.remove()

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
            self.result = deliver(outcome, *self._inputs, *self._outputs)
        except MasrError as problem:
            self.error = problem
        except Exception as problem:
            logging.exception("The result could not be put into the scene")
            self.error = MasrError(_("The result could not be put into the scene."))
            self.error.__cause__ = problem
        finally:
            self._close()
        if self.error is not None:
            self._folder.remove()
        try:
            if self._onFinished is not None:
                self._onFinished(self.result, self.error)
        finally:
            self._folder.remove()

    def _close(self) -> None:
        self.running = False
        slicer.app.disconnect("aboutToQuit()", self.abandon)
        self._scene.RemoveObserver(self._sceneObserver)
        del self._inputs, self._outputs  # whoever keeps the job does not keep large nodes of a closed scene


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
