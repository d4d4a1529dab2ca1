"""The sample pair that ships: registered in Slicer's module Sample Data, loaded from files, nothing downloaded."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
from masr_registration import demo
from slicer.i18n import tr as _

CATEGORY, SAMPLE = "MASR Registration", "MASR sample pair"
NAMES = {"fixed": "MASR sample T1", "moving": "MASR sample T2 moved"}


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


def load() -> tuple[Any, Any]:
    """The fixed T1 and the moving T2, moved by a known transform, as new nodes. Raises `ResourceError`."""
    nodes = []
    with tempfile.TemporaryDirectory() as folder:
        files = demo.prepare(Path(folder))
        for role, name in NAMES.items():
            node = slicer.util.loadVolume(files[role], {"name": name, "show": False})
            slicer.mrmlScene.RemoveNode(node.GetStorageNode())  # its file is gone in a moment
            nodes.append(node)
    return nodes[0], nodes[1]


def _loadForSampleData() -> None:
    with slicer.util.tryWithErrorDisplay(_("The sample pair could not be loaded."), waitCursor=True):
        fixed, moving = load()
        slicer.util.setSliceViewerLayers(background=fixed, foreground=moving, foregroundOpacity=0.5, fit=True)
