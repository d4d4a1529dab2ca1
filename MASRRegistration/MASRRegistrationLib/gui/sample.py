"""The sample pair that ships: registered in Slicer's module Sample Data, loaded from files, nothing downloaded.

The moving volume is made by a process in the background (some seconds), so that the window stays alive.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
import vtk
from masr_registration import demo
from masr_registration.errors import CancelledError, MasrError, ResourceError
from masr_registration.worker.jobfolder import JobFolder
from slicer.i18n import tr as _

from .process import ATTACHED, hasLeft, leaveBehind, slicerPython, startModule

CATEGORY, SAMPLE = "MASR Registration", "MASR sample pair"
NAMES = {"fixed": "MASR sample T1", "moving": "MASR sample T2 moved"}
SAMPLE_ATTRIBUTE = "MASR.Sample"
MODULE = "masr_registration.demo"
SECONDS_BETWEEN_EVENTS = 0.01
Pair = tuple[Any, Any]


def register(resourcePath: Callable[[str], str]) -> None:
    """Tell Sample Data of the pair; `resourcePath` finds the thumbnail."""
    import SampleData

    logic = SampleData.SampleDataLogic
    logic.registerCustomSampleDataCategory(CATEGORY, _("MASR Registration"))
    logic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName=SAMPLE,
        uris=Path(demo.__file__).with_name("data").joinpath("sample", "T1.nii.gz").as_uri(),
        fileNames="T1.nii.gz",
        nodeNames=NAMES["fixed"],
        thumbnailFileName=resourcePath("Icons/MASRSamplePair.png"),
        customDownloader=lambda source: _loadForSampleData(),
    )


def loaded() -> Pair | None:
    """A sample pair of the scene as it was loaded, out of whatever transform it was put under since; None without."""
    nodes = []
    for role in NAMES:
        for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
            mark = node.GetAttribute(SAMPLE_ATTRIBUTE)
            if mark is not None and mark == f"{role} {_fingerprint(node)}":
                nodes.append(node)
                break
        else:
            return None
    for node in nodes:
        node.SetAndObserveTransformNodeID(None)
    return nodes[0], nodes[1]


def load() -> Pair:
    """The fixed T1 and the moving T2, moved by a known transform, as new nodes; the window stays alive meanwhile.

    Raises `ResourceError`, `CancelledError` where the scene was closed.
    """
    ends: list[tuple[Pair | None, MasrError | None]] = []
    process = SampleProcess(lambda *end: ends.append(end))
    process.start()
    try:
        while not ends:
            slicer.app.processEvents()
            time.sleep(SECONDS_BETWEEN_EVENTS)
    finally:
        process.abandon()
    pair, error = ends[0]
    if pair is None:
        raise error or CancelledError
    return pair


class SampleProcess:
    """Makes the files of the pair in the background and loads them; `onEnd` gets the nodes or an error, once."""

    def __init__(self, onEnd: Callable[[Pair | None, MasrError | None], None]) -> None:
        self._onEnd: Callable[[Pair | None, MasrError | None], None] | None = onEnd
        self._process = process = qt.QProcess()
        process.connect("errorOccurred(QProcess::ProcessError)", self._onProcessError)
        process.connect("finished(int,QProcess::ExitStatus)", self._onFinished)

    def start(self) -> None:
        """Raises `ResourceError` when there is no PythonSlicer or no temporary folder."""
        python = slicerPython()
        self._folder = JobFolder.create()
        slicer.app.connect("aboutToQuit()", self.onQuit)
        self._scene = slicer.mrmlScene
        self._tag = self._scene.AddObserver(self._scene.StartCloseEvent, self._onSceneClose)
        startModule(self._process, python, ATTACHED, MODULE, str(self._folder.path))

    def abandon(self, *, quitting: bool = False) -> None:
        """Stop it, calling nobody."""
        if self._onEnd is not None:
            self._close()
            leaveBehind(self._process, self, quitting=quitting)
            self._folder.remove()

    def onQuit(self) -> None:
        """The application ends: nothing is left running."""
        self.abandon(quitting=True)

    def _onSceneClose(self, caller: Any, event: str) -> None:
        onEnd = self._onEnd
        self.abandon()
        if onEnd is not None:
            onEnd(None, CancelledError(_("The sample was not loaded because the scene was closed.")))

    def _onProcessError(self, error: int) -> None:
        if error == qt.QProcess.FailedToStart:  # `finished` never comes
            hasLeft(self)
            qt.QTimer.singleShot(0, lambda: self._end(None, _failed()))

    def _onFinished(self, exitCode: int, status: int) -> None:
        hasLeft(self)
        if self._onEnd is None:  # abandoned
            self._folder.remove()
            return
        log = self._process.readAllStandardError().data().decode("utf-8", "replace").strip()
        if exitCode != 0 or status == qt.QProcess.CrashExit:
            self._end(None, _failed(log))
            return
        try:
            with slicer.util.WaitCursor():
                pair = _nodes(self._folder.path)
        except RuntimeError as error:
            self._end(None, _failed(str(error)))
        else:
            self._end(pair, None)

    def _end(self, pair: Pair | None, error: MasrError | None) -> None:
        onEnd = self._onEnd
        if onEnd is not None:
            self._close()
            self._folder.remove()
            onEnd(pair, error)

    def _close(self) -> None:
        self._onEnd = None
        slicer.app.disconnect("aboutToQuit()", self.onQuit)
        self._scene.RemoveObserver(self._tag)


def _nodes(folder: Path) -> Pair:
    nodes = []
    for role, name in NAMES.items():
        node = slicer.util.loadVolume(str(folder / demo.FILES[role]), {"name": name, "show": False})
        slicer.mrmlScene.RemoveNode(node.GetStorageNode())  # its file is gone in a moment
        node.SetAttribute(SAMPLE_ATTRIBUTE, f"{role} {_fingerprint(node)}")
        nodes.append(node)
    return nodes[0], nodes[1]


def _fingerprint(node: Any) -> str:
    """Another one when the voxels or the grid of a volume node are others; empty without an image."""
    if node.GetImageData() is None:
        return ""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    grid = slicer.util.arrayFromVTKMatrix(matrix).round(4).tobytes()
    return f"{zlib.crc32(slicer.util.arrayFromVolume(node).tobytes(), zlib.crc32(grid)):08x}"


def _failed(log: str = "") -> ResourceError:
    error = ResourceError(_("The sample pair could not be made: is the disk of the temporary folder full?"))
    if log:
        error.add_note(log)
    return error


def _loadForSampleData() -> None:
    with slicer.util.tryWithErrorDisplay(_("The sample pair could not be loaded."), waitCursor=True):
        fixed, moving = load()
        slicer.util.setSliceViewerLayers(background=fixed, foreground=moving, foregroundOpacity=0.5, fit=True)
