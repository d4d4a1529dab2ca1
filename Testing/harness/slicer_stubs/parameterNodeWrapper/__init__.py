"""Stand-in for slicer.parameterNodeWrapper: typed parameters in a vtkMRMLScriptedModuleNode.

Parameters may be int, float, bool, str, an Enum, a pathlib type, a MRML node, or a union of these (Optional). They
are stored under the same names and in the same text form as by the application, so that a scene saved here loads
there. Not covered, and refused: lists, tuples, dicts, parameter packs, colours, typing.Any, custom serializers.
"""

from slicer.parameterNodeWrapper.annotations import (
    Choice,
    Decimals,
    Default,
    Exclude,
    IsInstance,
    Maximum,
    Minimum,
    NotNone,
    SingleStep,
    Validator,
    WithinRange,
)
from slicer.parameterNodeWrapper.wrapper import (
    SlicerParameterNamePropertyName,
    findChildWidgetForParameter,
    isParameterNodeWrapper,
    parameterNodeWrapper,
)

__all__ = [
    "Choice",
    "Decimals",
    "Default",
    "Exclude",
    "IsInstance",
    "Maximum",
    "Minimum",
    "NotNone",
    "SingleStep",
    "SlicerParameterNamePropertyName",
    "Validator",
    "WithinRange",
    "findChildWidgetForParameter",
    "isParameterNodeWrapper",
    "parameterNodeWrapper",
]
