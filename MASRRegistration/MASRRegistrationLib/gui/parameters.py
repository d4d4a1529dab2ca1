"""What the module remembers in the scene (and so in an .mrb)."""

from typing import Annotated, Union, get_args

from masr_registration import presets
from slicer import (
    vtkMRMLLabelMapVolumeNode,
    vtkMRMLMarkupsFiducialNode,
    vtkMRMLScalarVolumeNode,
    vtkMRMLSegmentationNode,
    vtkMRMLTransformNode,
)
from slicer.parameterNodeWrapper import Choice, Default, WithinRange, parameterNodeWrapper

from .settings import valuesOf

DEFAULT_PRESET = "general"
DEVICES = ("auto", "cpu", "cuda", "cuda:0", "cuda:1", "cuda:2", "cuda:3")
_DEFAULT = valuesOf(presets.load(DEFAULT_PRESET))
_Mask = Union[  # noqa: UP007 as the wrapper knows it; None is needed to choose nothing
    vtkMRMLSegmentationNode, vtkMRMLLabelMapVolumeNode, vtkMRMLScalarVolumeNode, None
]


@parameterNodeWrapper
class MASRRegistrationParameterNode:
    """Empty outputs are made by the registration.

    `preset` names one that ships or one of the user's own. What follows it up to `method` is taken from the
    preset and may be changed. `threads` 0 leaves the number to the computer. Segments are IDs, empty for all.
    """

    fixedVolume: vtkMRMLScalarVolumeNode
    movingVolume: vtkMRMLScalarVolumeNode
    fixedMask: _Mask
    fixedSegment: str
    movingMask: _Mask
    movingSegment: str
    initialTransform: vtkMRMLTransformNode
    outputTransform: vtkMRMLTransformNode
    outputVolume: vtkMRMLScalarVolumeNode
    preset: str = DEFAULT_PRESET
    linearModel: Annotated[str, Choice(get_args(presets.LinearModel)), Default(_DEFAULT["linearModel"])]
    discreteEnabled: Annotated[bool, Default(_DEFAULT["discreteEnabled"])]
    continuousEnabled: Annotated[bool, Default(_DEFAULT["continuousEnabled"])]
    workingSpacing: Annotated[float, WithinRange(0.2, 50.0), Default(_DEFAULT["workingSpacing"])]
    regularisation: Annotated[float, WithinRange(0.0, 10_000.0), Default(_DEFAULT["regularisation"])]
    landmarkWeight: Annotated[float, WithinRange(0.0, 10_000.0), Default(_DEFAULT["landmarkWeight"])]
    representation: Annotated[
        str, Choice(get_args(presets.Representation)), Default(_DEFAULT["representation"])
    ]
    method: Annotated[str, Choice(get_args(presets.Method)), Default(_DEFAULT["method"])]
    device: Annotated[str, Choice(DEVICES), Default("auto")]
    threads: Annotated[int, WithinRange(0, 1024), Default(0)]
    seed: Annotated[int, WithinRange(0, 2**31 - 1), Default(0)]
    keepFiles: bool = False
    hardenApplied: bool = False
    fixedSegmentation: vtkMRMLSegmentationNode
    movingSegmentation: vtkMRMLSegmentationNode
    fixedLandmarks: vtkMRMLMarkupsFiducialNode
    movingLandmarks: vtkMRMLMarkupsFiducialNode
    useLandmarks: bool = False
