"""Features of two volumes by the background process, where no registration of this session left them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import slicer
from masr_registration.errors import MasrError
from masr_registration.matching.features import FeaturePair
from masr_registration.presets import Preset
from masr_registration.worker import client
from masr_registration.worker.jobfolder import JobFolder
from masr_registration.worker.messages import Message, Progress, Request

from ..mrml.inputs import InputVolume, checkRequest
from ..mrml.matching import Matcher
from . import dependencies
from .job import RunOptions
from .process import WorkerProcess


class FeatureJob:
    """Calls `onEnd` once, with a matcher, an error, or neither where the scene was closed; `onProgress` with the share
    that is done."""

    def __init__(
        self,
        fixedNode: Any,
        movingNode: Any,
        preset: Preset,
        options: RunOptions,
        onProgress: Callable[[float], None],
        onEnd: Callable[[Matcher | None, MasrError | None], None],
    ) -> None:
        """Starts it. Raises `InputError`, `ResourceError`, `CancelledError` (packages are missing and unwanted)."""
        checkRequest(fixedNode, movingNode)
        dependencies.ensure()
        self._volumes = InputVolume.of(fixedNode), InputVolume.of(movingNode)
        self._onProgress, self._onEnd = onProgress, onEnd
        self._folder = JobFolder.create()
        try:
            files = [self._folder.path / f"{name}.nrrd" for name in ("fixed", "moving")]
            for volume, file in zip(self._volumes, files, strict=True):
                volume.write(file)
            request = Request(
                fixed=str(files[0]),
                moving=str(files[1]),
                output=str(self._folder.path / "output"),
                preset=json.loads(preset.to_json()),
                device=options.device,
                threads=options.threads,
                seed=options.seed,
                features_only=True,
            )
            self._process = WorkerProcess(request, self._onMessage, lambda line: None, self._onOutcome)
            self._process.start()
        except BaseException:
            self._folder.remove()
            raise
        slicer.app.connect("aboutToQuit()", self.onQuit)
        self._scene = slicer.mrmlScene
        self._tag = self._scene.AddObserver(self._scene.StartCloseEvent, self._onSceneClose)

    def abandon(self, *, quitting: bool = False) -> None:
        """Kill the worker, calling nobody: it is not wanted any more, or the application is `quitting`."""
        self._process.abandon(quitting=quitting)
        self._close()

    def onQuit(self) -> None:
        """The application ends: nothing is left running."""
        self.abandon(quitting=True)

    def _onMessage(self, message: Message) -> None:
        if isinstance(message, Progress):
            self._onProgress(message.fraction)

    def _onOutcome(self, outcome: client.Outcome | None, error: MasrError | None) -> None:
        matcher = None
        try:
            if outcome is not None:
                fixed, moving = self._volumes
                pair = FeaturePair.read(outcome.files["features"])
                matcher = Matcher(pair, fixed.node, moving.node, moving.parentToWorld)
        except MasrError as problem:
            error = problem
        finally:
            self._close()
        self._onEnd(matcher, error)

    def _onSceneClose(self, caller: Any, event: str) -> None:
        self.abandon()
        self._onEnd(None, None)

    def _close(self) -> None:
        slicer.app.disconnect("aboutToQuit()", self.onQuit)
        self._folder.remove()
        self._scene.RemoveObserver(self._tag)
