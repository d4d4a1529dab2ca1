"""The Landmarks tab: points in both volumes, suggested counterparts, and how far apart the transform leaves them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import qt
import slicer
from masr_registration.errors import InputError, MasrError
from masr_registration.matching.features import FeaturePair
from slicer.i18n import tr as _

from ..mrml import landmarks, layouts
from ..mrml.evidence import toleranceSentence
from ..mrml.landmark_views import LandmarkViews
from ..mrml.matching import Matcher, Suggested, confidence
from ..mrml.pairs import SUGGESTED, points
from ..mrml.results import FIXED_ROLE, MOVING_ROLE, RegistrationResult, storedResult
from .feature_job import FeatureJob
from .messages import showError
from .tab import Tab

FILES = _("Landmarks (*.mrk.json *.csv)")
_MARKUPS = slicer.vtkMRMLMarkupsNode


class LandmarksTab(Tab):
    """`onPointsChanged` is called when the points that may pull a registration are others.

    Attributes:
    matcher: finds counterparts; None while there are no features of the chosen volumes.
    """

    file = "LandmarksTab.ui"

    def __init__(self, resourcePath: Callable[[str], str], onPointsChanged: Callable[[], None]) -> None:
        super().__init__(resourcePath)
        self._onPointsChanged = onPointsChanged
        self.matcher: Matcher | None = None
        self._job: FeatureJob | None = None
        self._views = LandmarkViews()
        self._observed: list[tuple[Any, list[int]]] = []
        self._waiting: tuple[int, bool] | None = (
            None  # row, and whether the suggestion lies in the moving volume
        )
        self._own = False  # the change of a list that is going on is ours
        ui = self.ui
        table = ui.landmarkTable
        heads = [_("Name"), _("Fixed (RAS)"), _("Moving (RAS)"), _("TRE before, mm"), _("TRE after, mm")]
        table.setColumnCount(len(heads))
        table.setHorizontalHeaderLabels(heads)
        table.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
        table.connect("cellClicked(int,int)", lambda row, column: self._jumpTo(row))
        ui.placeFixedButton.connect("clicked(bool)", lambda: self._place(inMoving=False))
        ui.placeMovingButton.connect("clicked(bool)", lambda: self._place(inMoving=True))
        ui.viewsButton.connect("clicked(bool)", self._show)
        ui.prepareButton.connect("clicked(bool)", self.onPrepare)
        ui.importFixedButton.connect("clicked(bool)", lambda: self._import(inMoving=False))
        ui.importMovingButton.connect("clicked(bool)", lambda: self._import(inMoving=True))
        ui.exportButton.connect("clicked(bool)", self._export)
        self._shortcuts = []
        for button, key, slot in (
            (ui.acceptButton, "Alt+A", self.onAccept),
            (ui.correctButton, "Alt+C", self.onCorrect),
            (ui.rejectButton, "Alt+R", self.onReject),
        ):
            button.connect("clicked(bool)", slot)
            shortcut = qt.QShortcut(self.widget)
            shortcut.setKey(qt.QKeySequence(key))
            shortcut.connect("activated()", slot)
            self._shortcuts.append(shortcut)
        self.update()

    # What the module tells

    def parametersChanged(self, parameters: Any) -> None:
        super().parametersChanged(parameters)
        if parameters is None:
            self._observe()
            self._forgetSuggestion()
        else:
            self._observe(parameters.fixedLandmarks, parameters.movingLandmarks, parameters.movingVolume)
            landmarks.follow(parameters.movingLandmarks, parameters.movingVolume)
            self._use(self.matcher)
        self.update()

    def resultArrived(self, result: RegistrationResult) -> None:
        nodes = [result.transformNode.GetNodeReference(role) for role in (FIXED_ROLE, MOVING_ROLE)]
        stored = storedResult(result.transformNode)
        if "features" in result.files and stored is not None and all(nodes):
            try:
                pair = FeaturePair.read(result.files["features"])
            except InputError:
                self.matcher = None
            else:
                toWorld = np.array(stored["scene"]["moving"]["parentToWorld"])
                self._use(Matcher(pair, *nodes, toWorld))
        self.update()

    def resultReverted(self) -> None:
        self._forgetSuggestion()
        self.update()

    def cleanup(self) -> None:
        if self._job is not None:
            self._job.abandon()
            self._job = None
        self._observe()
        self._views.close()

    def _use(self, matcher: Matcher | None) -> None:
        """Suggest by `matcher`, unless other volumes have been chosen since its features were asked for."""
        parameters = self.parameters
        fits = matcher and parameters and matcher.belongsTo(parameters.fixedVolume, parameters.movingVolume)
        self.matcher = matcher if fits else None

    # What the user does

    def onPrepare(self) -> None:
        """Make the features of the chosen volumes, in the background; pressed again, stop."""
        if self._job is not None:
            self._job.abandon()
            self._job = None
            self.update()
            return
        parameters = self.parameters

        def onProgress(fraction: float) -> None:
            text = _("Preparing suggestions: {percent} %")
            self.ui.suggestionLabel.text = text.format(percent=int(100 * fraction))

        def onEnd(matcher: Matcher | None, error: MasrError | None) -> None:
            self._job = None
            self._use(matcher)
            self.ui.suggestionLabel.text = ""
            self.update()
            if error is not None:
                showError(error)

        try:
            self._job = FeatureJob(
                parameters.fixedVolume, parameters.movingVolume, parameters.preset, onProgress, onEnd
            )
        except MasrError as error:
            showError(error)
        self.update()

    def onAccept(self) -> None:
        """The suggested point counts."""
        if self._waiting is not None:
            row, inMoving = self._waiting
            self._list(inMoving).SetNthControlPointDescription(row, "")
            self._forgetSuggestion()
            self.update()

    def onCorrect(self) -> None:
        """The counterpart is placed by hand."""
        if self._waiting is not None:
            row, inMoving = self._waiting
            self._forgetSuggestion()
            node = self._list(inMoving)
            self._own = True
            node.SetNthControlPointDescription(row, "")
            node.UnsetNthControlPointPosition(row)
            self._own = False
            self._startPlacing(node, row)
            self.update()

    def onReject(self) -> None:
        """Neither point stays."""
        if self._waiting is not None:
            row, _inMoving = self._waiting
            self._forgetSuggestion()
            self._own = True
            for node in (self._list(False), self._list(True)):
                if node is not None and row < node.GetNumberOfControlPoints():
                    node.RemoveNthControlPoint(row)
            self._own = False
            self.update()

    def update(self) -> None:
        """Show the table and what can be done."""
        ui, parameters = self.ui, self.parameters
        chosen = bool(parameters and parameters.fixedVolume and parameters.movingVolume)
        waiting = self._waiting is not None
        for button in (ui.placeFixedButton, ui.placeMovingButton, ui.viewsButton):
            button.enabled = chosen
        ui.importFixedButton.enabled = ui.importMovingButton.enabled = chosen
        for button in (ui.acceptButton, ui.correctButton, ui.rejectButton):
            button.enabled = waiting
        ui.prepareButton.visible = self.matcher is None
        ui.prepareButton.enabled = chosen
        ui.prepareButton.text = _("Stop preparing") if self._job is not None else _("Prepare suggestions")
        rows = self.rows()
        ui.exportButton.enabled = bool(rows)
        self._fill(rows)
        if parameters is not None and parameters.useLandmarks:
            self._onPointsChanged()
        after = [row.after for row in rows if row.after is not None]
        if not chosen:
            ui.resultLabel.text = _("Choose a fixed and a moving volume first.")
        elif after:
            ui.resultLabel.text = toleranceSentence(float(np.mean(after)), max(after))
        else:
            ui.resultLabel.text = _("Errors are shown for pairs of points, once there is a result.")

    def rows(self) -> list[landmarks.LandmarkError]:
        """The table's content."""
        parameters = self.parameters
        if parameters is None:
            return []
        return landmarks.errors(
            parameters.fixedLandmarks, parameters.movingLandmarks, self.transformNode, parameters.movingVolume
        )

    # Lists and their points

    def _list(self, inMoving: bool) -> Any:
        return self.parameters.movingLandmarks if inMoving else self.parameters.fixedLandmarks

    def _makeLists(self) -> None:
        for inMoving, name, colour in (
            (False, _("Fixed landmarks"), (1.0, 0.8, 0.1)),
            (True, _("Moving landmarks"), (0.2, 0.8, 1.0)),
        ):
            if self._list(inMoving) is None:
                node = landmarks.newList(name, colour)
                if inMoving:
                    landmarks.bind(node, self.parameters.movingVolume)
                    self.parameters.movingLandmarks = node
                else:
                    self.parameters.fixedLandmarks = node

    def _place(self, inMoving: bool) -> None:
        self._makeLists()
        self._show()
        self._startPlacing(self._list(inMoving))

    def _startPlacing(self, node: Any, index: int | None = None) -> None:
        if index is not None:
            node.SetControlPointPlacementStartIndex(index)
        logic = slicer.modules.markups.logic()
        logic.SetActiveList(node)
        logic.StartPlaceMode(False)

    def _observe(self, *nodes: Any) -> None:
        """Listen to these lists and volumes, and to no others."""
        wanted = [node for node in nodes if node is not None]
        if [node for node, _tags in self._observed] == wanted:
            return
        for node, tags in self._observed:
            for tag in tags:
                node.RemoveObserver(tag)
        self._observed = []
        for node in wanted:
            if not node.IsA("vtkMRMLMarkupsNode"):
                tag = node.AddObserver(node.TransformModifiedEvent, self._onVolumeMoved)
                self._observed.append((node, [tag]))
                continue
            events = (_MARKUPS.PointModifiedEvent, _MARKUPS.PointRemovedEvent, _MARKUPS.PointAddedEvent)
            tags = [node.AddObserver(event, self._onPoints) for event in events]
            tags.append(node.AddObserver(_MARKUPS.PointPositionDefinedEvent, self._onDefined))
            self._observed.append((node, tags))

    def _onPoints(self, caller: Any, event: str) -> None:
        """A point was dragged, added or removed."""
        if self._own or self.parameters is None:
            return
        if self._waiting is not None and caller is self._list(self._waiting[1]):
            self.onAccept()  # dragging a suggested point is correcting it
        self.update()

    def _onVolumeMoved(self, caller: Any, event: str) -> None:
        if self.parameters is not None:
            landmarks.follow(self.parameters.movingLandmarks, caller)
            self.update()

    def _onDefined(self, caller: Any, event: str) -> None:
        """A point has got its place: suggest its counterpart."""
        if self._own or self.parameters is None:
            return
        inMoving = caller is self.parameters.fixedLandmarks
        other = self._list(inMoving)
        row = caller.GetNumberOfControlPoints() - 1
        if other is None or other.GetNumberOfControlPoints() != row:
            return  # it completes a pair
        self._suggest(caller, row, inMoving)

    def _suggest(self, node: Any, row: int, inMoving: bool) -> None:
        place, other, label = points(node)[row], self._list(inMoving), self.ui.suggestionLabel
        name = str(row + 1)
        self._own = True
        try:
            node.SetNthControlPointLabel(row, name)
            if self.matcher is None:
                suggested = None
                label.text = _(
                    "No suggestion: press Prepare suggestions first. The result's own prediction is shown."
                )
                where = landmarks.counterpart(
                    self.transformNode, place, self.parameters.movingVolume, inMoving=inMoving
                )
            else:
                suggested = self.matcher.suggest(place, self.transformNode, inMoving=inMoving)
                where = suggested.place
                label.text = confidence(suggested)
        except InputError as error:
            label.text = str(error)
            self._own = False
            self.update()
            return
        landmarks.addPoint(other, where, name)
        other.SetNthControlPointDescription(row, SUGGESTED)
        self._own = False
        self._waiting = row, inMoving
        self._showHeat(suggested)
        self._jumpTo(row)
        self.update()

    def _showHeat(self, suggested: Suggested | None) -> None:
        if suggested is not None and self.matcher is not None:
            self._views.showHeat(self.matcher.heatVolume(suggested), suggested.inMoving)

    def _forgetSuggestion(self) -> None:
        self._waiting = None
        self._views.hideHeat()
        self.ui.suggestionLabel.text = ""

    # Views, table, files

    def _show(self) -> None:
        if self._views.open(self.parameters.fixedVolume, self.parameters.movingVolume):
            qt.QTimer.singleShot(0, lambda: layouts.fit(layouts.FIXED, layouts.MOVING))

    def _jumpTo(self, row: int) -> None:
        rows = self.rows()
        if 0 <= row < len(rows):
            self._views.jumpTo(rows[row].fixed, rows[row].moving)

    def _fill(self, rows: list[landmarks.LandmarkError]) -> None:
        table = self.ui.landmarkTable
        table.setRowCount(len(rows))
        for number, row in enumerate(rows):
            places = ["" if p is None else ", ".join(f"{x:.1f}" for x in p) for p in (row.fixed, row.moving)]
            values = ["" if v is None else f"{v:.2f}" for v in (row.before, row.after)]
            for column, text in enumerate([row.name, *places, *values]):
                item = table.item(number, column)
                if item is None:
                    table.setItem(number, column, qt.QTableWidgetItem(text))
                elif item.text() != text:
                    item.setText(text)

    def _import(self, inMoving: bool) -> None:
        path = qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), _("Import landmarks"), "", FILES)
        if not path:
            return
        self._makeLists()
        self._own = True
        try:
            landmarks.importFile(path, self._list(inMoving))
        except MasrError as error:
            showError(error)
        finally:
            self._own = False
        self.update()

    def _export(self) -> None:
        """Both lists, one file after the other."""
        for inMoving, title in ((False, _("Export fixed landmarks")), (True, _("Export moving landmarks"))):
            node = self._list(inMoving)
            if node is None:
                continue
            name = f"{node.GetName()}.mrk.json"
            path = qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), title, name, FILES)
            if not path:
                return
            try:
                landmarks.exportFile(path, node)
            except MasrError as error:
                showError(error)
                return
