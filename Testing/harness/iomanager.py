"""slicer.app.ioManager(): what slicer.util.load... and save... need, on real storage nodes and module logics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import vtk
from PySide6 import QtCore

from harness.mrml import Mrml

_FILE_TYPES = {  # tried in this order
    "SegmentationFile": (".seg.nrrd", ".seg.nhdr"),
    "MarkupsFile": (".mrk.json", ".fcsv"),
    "VolumeFile": (".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd"),
    "TransformFile": (".h5", ".tfm", ".txt", ".mat"),
    "ModelFile": (".vtk", ".vtp", ".stl", ".ply", ".obj"),
    "TableFile": (".csv", ".tsv"),
    "SceneFile": (".mrb", ".mrml"),
}


class qSlicerCoreIOManager(QtCore.QObject):
    is_cpp_stand_in = True

    def __init__(self, mrml: Mrml) -> None:
        super().__init__()
        self._mrml = mrml

    def fileType(self, path: str) -> str:
        lower = str(path).lower()
        return next((kind for kind, endings in _FILE_TYPES.items() if lower.endswith(endings)), "NoFile")

    def fileWriterFileType(self, node: Any) -> str:
        return f"{node.GetClassName()}File"

    def loadNodes(
        self, fileType: str, properties: dict[str, Any], loaded: Any = None, messages: Any = None
    ) -> bool:
        path = properties["fileName"]
        if not Path(path).exists():
            if messages is not None:
                messages.AddMessage(vtk.vtkCommand.ErrorEvent, f"File not found: {path}")
            return False
        if fileType == "SceneFile":
            return self._load_scene(path, bool(properties.get("clear")), messages)
        name = properties.get("name") or _stem(path, fileType)
        logics, scene = self._mrml.logics, self._mrml.scene
        if fileType == "VolumeFile":
            flags = ("labelmap", 1), ("center", 2), ("singleFile", 4)
            options = sum(bit for key, bit in flags if properties.get(key))
            node = logics["Volumes"].AddArchetypeVolume(path, name, options)
        elif fileType == "TransformFile":
            node = logics["Transforms"].AddTransform(path, scene)
        elif fileType == "SegmentationFile":
            node = logics["Segmentations"].LoadSegmentationFromFile(path, True)
        elif fileType == "MarkupsFile":
            node_id = logics["Markups"].LoadMarkups(path, name, messages)
            node = scene.GetNodeByID(node_id) if node_id else None
        elif fileType == "ModelFile":
            node = logics["Models"].AddModel(path, properties.get("coordinateSystem", 1))
        elif fileType == "TableFile":
            node = logics["Tables"].AddTable(path, name)
        else:
            return False
        if node is not None and loaded is not None:
            loaded.AddItem(node)
        return node is not None

    def saveNodes(self, fileType: str, properties: dict[str, Any], messages: Any = None) -> bool:
        path, scene = str(properties["fileName"]), self._mrml.scene
        if fileType == "SceneFile":
            scene.SetRootDirectory(str(Path(path).parent))
            return bool(
                scene.WriteToMRB(path, None, messages)
                if path.endswith(".mrb")
                else scene.Commit(path, messages)
            )
        node = scene.GetNodeByID(properties["nodeID"])
        if node.GetStorageNode() is None:
            node.AddDefaultStorageNode()
        storage = node.GetStorageNode()
        storage.SetFileName(path)
        if "useCompression" in properties:
            storage.SetUseCompression(int(properties["useCompression"]))
        return bool(storage.WriteData(node))

    def _load_scene(self, path: str, clear: bool, messages: Any) -> bool:
        scene = self._mrml.scene
        if path.endswith(".mrb"):
            return bool(scene.ReadFromMRB(path, clear))
        scene.SetURL(path)
        return bool(scene.Connect(messages) if clear else scene.Import(messages))


def _stem(path: str, file_type: str) -> str:
    name = Path(path).name
    ending = max((end for end in _FILE_TYPES[file_type] if name.lower().endswith(end)), key=len, default="")
    return name.removesuffix(name[len(name) - len(ending) :]) if ending else name
