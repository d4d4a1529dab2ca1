"""The Result section: how the result was made, moving things along with it, its inverse, and taking it back."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import qt
import slicer
from masr_registration.errors import InputError, MasrError
from slicer.i18n import tr as _

from ..mrml import applying, changes
from ..mrml.inverse import createInverse
from ..mrml.provenance import provenanceText, verdictText
from ..mrml.results import storedResult
from ..mrml.spatial_registration import exportSpatialRegistration, missingForExport
from .messages import plain, showError
from .tab import Tab

MILLISECONDS_BEFORE_PROGRESS = 1000
Steps = Generator[float, None, None]
"""How much is done, 0 to 1, a tenth of a second's work apart."""


class ResultPanel(Tab):
    """About the result in the parameter node's output transform.

    `onReverted` is told after it was taken back; `sampled` looks for the folds of a result, yielding how much is done.
    """

    file = "ResultPanel.ui"

    def __init__(
        self,
        resourcePath: Callable[[str], str],
        onReverted: Callable[[], None],
        sampled: Callable[[Any], Steps],
    ) -> None:
        super().__init__(resourcePath)
        self._onReverted, self._sampled = onReverted, sampled
        self._shown: tuple[Any, str | None] = (None, None)
        ui = self.ui
        ui.nodeList.connect("itemSelectionChanged()", self.update)
        ui.applyToButton.connect("clicked(bool)", self.onApplyTo)
        ui.inverseButton.connect("clicked(bool)", self.onInverse)
        ui.dicomButton.connect("clicked(bool)", self.onDicom)
        ui.revertButton.connect("clicked(bool)", self.onRevert)
        ui.copyButton.connect("clicked(bool)", self.onCopy)
        scene = slicer.mrmlScene
        self._sceneObservers = [
            scene.AddObserver(event, self._onNodesChanged)
            for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent)
        ]
        self._refresh = qt.QTimer()
        self._refresh.setSingleShot(True)
        self._refresh.connect("timeout()", self.update)
        self.update()

    def parametersChanged(self, parameters: Any) -> None:
        super().parametersChanged(parameters)
        self.update()

    def cleanup(self) -> None:
        self._refresh.stop()
        while self._sceneObservers:
            slicer.mrmlScene.RemoveObserver(self._sceneObservers.pop())

    def update(self) -> None:
        """Show the result, and what can be done with it; if nothing, why."""
        transformNode, ui = self.transformNode, self.ui
        self._showProvenance(transformNode)
        self._listNodes(transformNode)
        there = transformNode is not None
        ui.resultWidget.visible = there
        ui.revertButton.enabled = changes.ChangeRecord.of(transformNode) is not None
        ui.revertLabel.visible = there and not ui.revertButton.enabled
        ui.dicomButton.toolTip = self._dicomToolTip(transformNode)
        ui.applyToButton.enabled = bool(self._selectedNodes())
        ui.applyToLabel.text = "" if ui.applyToButton.enabled else _("Select above what is to be moved.")

    def onApplyTo(self) -> None:
        """Move the selected nodes along, after a question when the checks speak against the result."""
        transformNode, nodes = self.transformNode, self._selectedNodes()
        self.ui.appliedLabel.text = ""
        if not self._mayUse(_("The checks speak against this result. Move by it all the same?")):
            self.ui.appliedLabel.text = _("Cancelled: nothing was moved.")
            return
        harden, moved = self.parameters.hardenApplied, None
        try:
            application = applying.Application(transformNode)
            for node in nodes:
                application.check(node, harden)
            moved = self._apply(application, nodes, harden)
        except InputError as error:
            showError(error)
        self.update()
        if moved is not None:
            self.ui.appliedLabel.text = _movedText(moved, len(nodes))

    def onInverse(self) -> None:
        """Create the inverse, after a question when the checks speak against the result: where it folds there is
        none."""
        if self._mayUse(_("The checks speak against this result. Create its inverse all the same?")):
            with slicer.util.WaitCursor():
                createInverse(self.transformNode)

    def onDicom(self) -> None:
        """Write a spatial registration object into a folder of the user's choice, or say what is missing for it."""
        missing = missingForExport(self.transformNode)
        if missing:
            showError(InputError("\n".join(missing)))
            return
        folder = self.chooseFolder()
        if not folder:
            return
        try:
            with slicer.util.WaitCursor():
                path = exportSpatialRegistration(self.transformNode, folder)
        except MasrError as error:
            showError(error)
        else:
            slicer.util.infoDisplay(plain(_('"{name}" was written.').format(name=path.name)))

    def chooseFolder(self) -> str:
        """Empty when the user chose none."""
        folder: str = qt.QFileDialog.getExistingDirectory(self.widget, _("Folder for the DICOM file"))
        return folder

    def onRevert(self) -> None:
        """Ask, then put the scene back as it was before the registration."""
        transformNode = self.transformNode
        names = [node.GetName() for node in changes.ChangeRecord.of(transformNode).createdNodes()]
        question = _("The scene will be as before this registration.")
        if names:
            question += " " + _("This removes: {names}.").format(names=", ".join(names))
        if not slicer.util.confirmOkCancelDisplay(plain(question)):
            return
        with slicer.util.WaitCursor():
            before = changes.revert(transformNode)
        self.parameters.outputTransform, self.parameters.outputVolume = before
        self.ui.appliedLabel.text = ""
        self._onReverted()

    def onCopy(self) -> None:
        slicer.app.clipboard().setText(self.ui.provenanceEdit.toPlainText())

    def _mayUse(self, question: str) -> bool:
        """Look for folds where nobody has, then ask where a check speaks against the result."""
        transformNode = self.transformNode
        if not transformNode.IsLinear() and applying.fixedNode(transformNode) is not None:
            try:
                if not self._watched(_("Looking for folds…"), self._sampled(transformNode)):
                    return False
            except InputError as error:
                showError(error)
                return False
        reasons = applying.reasonsAgainst(transformNode)
        return not reasons or bool(slicer.util.confirmOkCancelDisplay(plain("\n".join([question, *reasons]))))

    def _apply(self, application: Any, nodes: list[Any], harden: bool) -> int:
        """Returns how many were moved before the user cancelled; what was under way is left as it was."""
        moved = 0

        def steps() -> Steps:
            nonlocal moved
            for node in nodes:
                for fraction in application.steps(node, harden):
                    moved += fraction >= 1
                    yield (moved + fraction % 1) / len(nodes)

        self._watched(_("Moving…"), steps())
        return moved

    @staticmethod
    def _watched(text: str, steps: Steps) -> bool:
        """Take the steps with a busy cursor, and where it takes long with progress and a way out; False if it was
        taken."""
        dialog = qt.QProgressDialog(text, _("Cancel"), 0, 100, slicer.util.mainWindow())
        dialog.windowModality = qt.Qt.WindowModal
        dialog.minimumDuration = MILLISECONDS_BEFORE_PROGRESS
        try:
            with slicer.util.WaitCursor():
                for fraction in steps:
                    dialog.value = int(100 * fraction)
                    slicer.app.processEvents()
                    if dialog.wasCanceled:
                        return False
        finally:
            steps.close()
            dialog.delete()
        return True

    @staticmethod
    def _dicomToolTip(transformNode: Any) -> str:
        missing = [] if transformNode is None else missingForExport(transformNode)
        return "\n".join(missing) or _(
            "A DICOM spatial registration object. It names the patient and refers to all images of both volumes."
        )

    def _showProvenance(self, transformNode: Any) -> None:
        content = storedResult(transformNode)
        text = "" if content is None else provenanceText(content)
        if text != self.ui.provenanceEdit.toPlainText():
            self.ui.provenanceEdit.setPlainText(text)
        self.ui.verdictLabel.text = _("There is no result yet.") if content is None else verdictText(content)

    def _listNodes(self, transformNode: Any) -> None:
        """What could be moved, in the order of the scene; the selection stays."""
        wanted = (
            [] if transformNode is None else [(n.GetName(), n.GetID()) for n in self._movable(transformNode)]
        )
        items = self._items()
        if [(item.text(), item.data(qt.Qt.UserRole)) for item in items] == wanted:
            return
        selected = {item.data(qt.Qt.UserRole) for item in items if item.isSelected()}
        nodeList = self.ui.nodeList
        blocked = nodeList.blockSignals(True)
        nodeList.clear()
        for name, nodeId in wanted:
            item = qt.QListWidgetItem(name, nodeList)
            item.setData(qt.Qt.UserRole, nodeId)
            item.setSelected(nodeId in selected)
        nodeList.blockSignals(blocked)

    def _movable(self, transformNode: Any) -> list[Any]:
        made = changes.ChangeRecord.of(transformNode)
        made = [] if made is None else made.createdNodes()
        outputs = [*made, self.parameters.outputVolume, applying.fixedNode(transformNode)]
        found = {
            node.GetID(): node
            for kind in applying.NODE_CLASSES
            for node in slicer.util.getNodesByClass(kind)
            if node not in outputs and not node.GetHideFromEditors()
        }
        return list(found.values())

    def _items(self) -> list[Any]:
        nodeList = self.ui.nodeList
        return [nodeList.item(row) for row in range(nodeList.count)]

    def _selectedNodes(self) -> list[Any]:
        ids = [item.data(qt.Qt.UserRole) for item in self._items() if item.isSelected()]
        return [node for node in map(slicer.mrmlScene.GetNodeByID, ids) if node is not None]

    def _onNodesChanged(self, caller: Any, event: str) -> None:
        self._refresh.start(0)


def _movedText(moved: int, wanted: int) -> str:
    if moved < wanted:
        return _("Cancelled: {moved} of {wanted} were moved, the others are as they were.").format(
            moved=moved, wanted=wanted
        )
    return _("{moved} moved.").format(moved=moved)
