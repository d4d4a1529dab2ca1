"""Loads scripted modules the way the application does, and hands out their widgets."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import shiboken6
import slicer
from PySide6 import QtCore, QtGui, QtWidgets

from harness.widgets import prop, qSlicerWidget, stand_in


class ModuleError(RuntimeError):
    """The application would refuse to start with this module folder."""


@stand_in
class qSlicerScriptedLoadableModuleWidget(qSlicerWidget):
    """The widget in the module panel; self() is the Python object that fills it."""

    def __init__(self, module: qSlicerScriptedLoadableModule) -> None:
        super().__init__()
        self._module = module
        self._entered = False
        QtWidgets.QVBoxLayout(self)
        self.objectName = f"{module.name}ModuleWidget"

    isEntered = QtCore.Property(bool, lambda this: this._entered)

    def self(this) -> Any:  # noqa: N805
        return this._python

    def setup(self) -> None:
        self._python.setup()

    def enter(self) -> None:
        self._entered = True
        getattr(self._python, "enter", lambda: None)()

    def exit(self) -> None:
        self._entered = False
        getattr(self._python, "exit", lambda: None)()

    def reload(self) -> None:
        """Make the Python object anew from the class as it is now (slicer.util.reloadScriptedModule)."""
        name = f"{self._module.name}Widget"
        self._python = getattr(sys.modules[self._module.name], name)(self)
        setattr(slicer.modules, name, self._python)
        self.setup()


@stand_in
class qSlicerScriptedLoadableModule(QtCore.QObject):
    """What a ScriptedLoadableModule gets as `parent`."""

    title = prop("")
    categories = prop([])
    contributors = prop([])
    dependencies = prop([])
    associatedNodeTypes = prop([])
    helpText = prop("")
    acknowledgementText = prop("")
    hidden = prop(False)
    index = prop(-1)
    widgetRepresentationCreationEnabled = prop(True)

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._icon = QtGui.QIcon()
        self._widget: Any = None
        self._logic = slicer.vtkSlicerScriptedLoadableModuleLogic()
        self._logic.SetMRMLApplicationLogic(slicer.app.applicationLogic())
        self._logic.SetMRMLScene(slicer.mrmlScene)

    def _setIcon(self, icon: QtGui.QIcon) -> None:
        self._icon = icon

    icon = QtCore.Property(QtGui.QIcon, lambda self: self._icon, _setIcon)
    path = QtCore.Property(str, lambda self: str(self._path))
    name = QtCore.Property(str, lambda self: self._path.stem)

    def logic(self) -> Any:
        """The module's (empty) C++ logic; slicer.util.getModuleLogic gives the Python logic of the widget."""
        return self._logic

    def widgetRepresentation(self) -> Any:
        if self._widget is None and self.widgetRepresentationCreationEnabled:
            self._widget = qSlicerScriptedLoadableModuleWidget(self)
            self._widget.reload()
            self._widget.setMRMLScene(slicer.mrmlScene)  # after setup(), as in the application
        return self._widget

    def _close_widget(self) -> None:
        """Leave and delete the widget, as when the application quits."""
        if self._widget is None:
            return
        if self._widget.isEntered:
            self._widget.exit()
        slicer.app.moduleManager().moduleAboutToBeUnloaded.emit(self.name)  # the Python widget's cleanup()
        widget, self._widget = self._widget, None
        if hasattr(slicer.modules, f"{self.name}Widget"):
            delattr(slicer.modules, f"{self.name}Widget")
        shiboken6.delete(widget)


class _BuiltInModule:
    """A loadable module of the application, reduced to its logic."""

    def __init__(self, name: str, logic: Any) -> None:
        self.name = self.title = name
        self._logic = logic

    def logic(self) -> Any:
        return self._logic


class _FactoryManager:
    def __init__(self, manager: qSlicerModuleManager) -> None:
        self._manager = manager

    def loadedModuleNames(self) -> tuple[str, ...]:
        return self._manager.modulesNames()

    def isLoaded(self, name: str) -> bool:
        return name in self._manager.modulesNames()


class qSlicerModuleManager(QtCore.QObject):
    is_cpp_stand_in = True
    moduleLoaded = QtCore.Signal(str)
    moduleAboutToBeUnloaded = QtCore.Signal(str)

    def __init__(self, logics: dict[str, Any]) -> None:
        super().__init__()
        self._scripted: dict[str, qSlicerScriptedLoadableModule] = {}
        self._factories = _FactoryManager(self)
        for name, logic in logics.items():
            self._register(name, _BuiltInModule(name, logic))

    def factoryManager(self) -> _FactoryManager:
        return self._factories

    def modulesNames(self) -> tuple[str, ...]:
        return tuple(name for name in vars(slicer.moduleNames) if not name.startswith("_"))

    def module(self, name: str) -> Any:
        return getattr(slicer.modules, name.lower(), None)

    def _register(self, name: str, module: Any) -> None:
        setattr(slicer.modules, name.lower(), module)
        setattr(slicer.moduleNames, name, name)

    def _load(self, file: Path) -> qSlicerScriptedLoadableModule:
        """Every .py directly in a module folder is loaded as a module; one that is none aborts the start."""
        name = file.stem
        if name in self._scripted:
            return self._scripted[name]
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        python = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(python)
        if not hasattr(python, name):
            del sys.modules[name]
            raise ModuleError(
                f"{file.name} lies in a module folder but has no class {name}; helpers go into packages"
            )
        module = qSlicerScriptedLoadableModule(file)
        setattr(slicer.modules, f"{name}Instance", getattr(python, name)(module))
        module.widgetRepresentationCreationEnabled = hasattr(python, f"{name}Widget")
        self._register(name, module)
        self._scripted[name] = module
        self.moduleLoaded.emit(name)
        return module

    def _close_widgets(self) -> None:
        for module in self._scripted.values():
            module._close_widget()
