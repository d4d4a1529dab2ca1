"""What the module remembers in the scene (and so in an .mrb)."""

from typing import Annotated

from masr_registration import presets
from slicer import vtkMRMLScalarVolumeNode, vtkMRMLTransformNode
from slicer.parameterNodeWrapper import Choice, parameterNodeWrapper

DEFAULT_PRESET = "general"


@parameterNodeWrapper
class MASRRegistrationParameterNode:
    """Empty outputs are made by the registration. A preset file is not kept: scenes hold no paths."""

    fixedVolume: vtkMRMLScalarVolumeNode
    movingVolume: vtkMRMLScalarVolumeNode
    preset: Annotated[str, Choice(presets.names())] = DEFAULT_PRESET
    outputTransform: vtkMRMLTransformNode
    outputVolume: vtkMRMLScalarVolumeNode
    hardenApplied: bool = False
