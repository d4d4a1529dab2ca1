"""The Landmarks tab: points in both volumes, suggested counterparts, and how far apart the transform leaves them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import qt
import slicer
from masr_registration.errors import InputError, MasrError
from masr_registration.matching.features import FeaturePair
from masr_registration.presets import Preset
from slicer.i18n import tr as _

from ..mrml import landmarks, layouts
from ..mrml.evidence import toleranceSentence
from ..mrml.landmark_views import LandmarkViews
from ..mrml.matching import Matcher, Suggested, confidence
from ..mrml.pairing import Row, forget, join, newName, remember, rows
from ..mrml.pairs import SUGGESTED, points, suggestionIn
from ..mrml.results import FIXED_ROLE, MOVING_ROLE, RegistrationResult, storedResult
from .feature_job import FeatureJob
from .job import RunOptions
from .landmark_files import chosenFile, exportLists, fillTable
from .messages import showError
from .tab import Tab
from .views import Settling

_MARKUPS = slicer.vtkMRMLMarkupsNode


class LandmarksTab(Tab):
    """`onPointsChanged` is called when the points that may pull a registration are others; `request` gives the preset
    and the options as they are chosen, and raises `InputError`.

    Attributes:
        matcher: finds counterparts; None while there are no features of the chosen volumes.
    """

    file = "LandmarksTab.ui"

    def __init__(
        self,
        resourcePath: Callable[[str], str],
        onPointsChanged: Callable[[], None],
        request: Callable[[], tuple[Preset, RunOptions]],
    ) -> None:
        super().__init__(resourcePath)
        self._onPointsChanged, self._request = onPointsChanged, request
        self.matcher: Matcher | None = None
        self._job: FeatureJob | None = None
        self._views = LandmarkViews()
        self._settling = Settling(lambda: None, layouts.FIXED, layouts.MOVING)
        self._observed: list[tuple[Any, list[int]]] = []
        self._suggested: dict[tuple[str, str], list[float]] = {}
        """Where suggestions were when they were first seen: dragging one away from there is correcting it."""
        self._own = False  # the change of a list that is going on is ours
        ui = self.ui
        table = ui.landmarkTable
        heads = [_("Name"), _("Fixed (RAS)"), _("Moving (RAS)"), _("TRE before, mm"), _("TRE after, mm")]
        table.setColumnCount(len(heads))
        table.setHorizontalHeaderLabels(heads)
        table.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
        table.connect("cellClicked(int,int)", lambda row, column: self._onRow(row))
        ui.placeFixedButton.connect("clicked(bool)", lambda: self._place(inMoving=False))
        ui.placeMovingButton.connect("clicked(bool)", lambda: self._place(inMoving=True))
        ui.viewsButton.connect("clicked(bool)", self._show)
        ui.prepareButton.connect("clicked(bool)", self.onPrepare)
        ui.importFixedButton.connect("clicked(bool)", lambda: self._import(inMoving=False))
        ui.importMovingButton.connect("clicked(bool)", lambda: self._import(inMoving=True))
        ui.exportButton.connect("clicked(bool)", lambda: exportLists(self._list(False), self._list(True)))
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
            self._suggested.clear()
        else:
            self._observe(parameters.fixedLandmarks, parameters.movingLandmarks, parameters.movingVolume)
            landmarks.follow(parameters.movingLandmarks, parameters.movingVolume)
            self._use(self.matcher)
            self._noteSuggestions()
            if self.waiting is None:
                self._forgetSuggestion()
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
        self._settling.stop()
        self._views.close()

    def _use(self, matcher: Matcher | None) -> None:
        """Suggest by `matcher`, unless other volumes have been chosen since its features were asked for; while the
        module is not shown nobody knows."""
        parameters = self.parameters
        chosen = parameters and (parameters.fixedVolume, parameters.movingVolume)
        self.matcher = matcher if matcher and (chosen is None or matcher.belongsTo(*chosen)) else None

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
            preset, options = self._request()
            with slicer.util.WaitCursor():
                self._job = FeatureJob(
                    parameters.fixedVolume, parameters.movingVolume, preset, options, onProgress, onEnd
                )
        except MasrError as error:
            showError(error)
        self.update()

    def onAccept(self) -> None:
        """The suggested point counts."""
        if self.waiting is not None:
            row, inMoving = self.waiting
            self._settle(self._list(inMoving), row.index(inMoving))
            self.update()

    def onCorrect(self) -> None:
        """The counterpart is placed by hand."""
        if self.waiting is not None:
            row, inMoving = self.waiting
            node, index = self._list(inMoving), row.index(inMoving)
            self._settle(node, index)
            with self._ownChange():
                node.UnsetNthControlPointPosition(index)
            self._startPlacing(node, index)
            self.update()

    def onReject(self) -> None:
        """Neither point stays."""
        if self.waiting is not None:
            row, _inMoving = self.waiting
            self._forgetSuggestion()
            with self._ownChange():
                for inMoving in (False, True):
                    self._list(inMoving).RemoveNthControlPoint(row.index(inMoving))
            self.update()

    @property
    def waiting(self) -> tuple[Row, bool] | None:
        """The pair whose suggestion waits for an answer, and whether that lies in the moving volume: the chosen row's,
        or the last one. It is read from the lists, so it is there again when they are."""
        if self.parameters is None:
            return None
        lists = self._list(False), self._list(True)
        found = {}
        for number, row in enumerate(rows(*lists)):
            inMoving = suggestionIn(row, *lists)
            if inMoving is not None and None not in (row.fixed, row.moving):
                found[number] = row, inMoving
        if not found:
            return None
        chosen = self.ui.landmarkTable.currentRow()
        return found.get(chosen, found[max(found)])

    def update(self) -> None:
        """Show the table and what can be done."""
        ui, parameters = self.ui, self.parameters
        chosen = bool(parameters and parameters.fixedVolume and parameters.movingVolume)
        waiting = self.waiting is not None
        for button in (ui.placeFixedButton, ui.placeMovingButton, ui.viewsButton):
            button.enabled = chosen
        ui.importFixedButton.enabled = ui.importMovingButton.enabled = chosen
        for button in (ui.acceptButton, ui.correctButton, ui.rejectButton):
            button.enabled = waiting
        ui.prepareButton.visible = self.matcher is None
        ui.prepareButton.enabled = chosen
        ui.prepareButton.text = _("Stop preparing") if self._job is not None else _("Prepare suggestions")
        if chosen:
            remember(self._list(False), self._list(True))
        errors = self.rows()
        ui.exportButton.enabled = bool(errors)
        fillTable(ui.landmarkTable, errors)
        if parameters is not None and parameters.useLandmarks:
            self._onPointsChanged()
        after = [row.after for row in errors if row.after is not None]
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
        self._noteSuggestions()
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
        if other is None:
            return
        found = rows(self._list(False), self._list(True))
        mine = [row.index(not inMoving) for row in found if row.index(inMoving) is None]
        open_ = [row.index(inMoving) for row in found if row.index(not inMoving) is None]
        placed = [index for index in mine if index is not None and points(caller)[index] is not None]
        if placed and open_:
            # it completes a pair that has lost, or never had, this side
            self._join(placed[-1], open_[0], inMoving)
            self.update()
        elif placed:
            self._suggest(caller, placed[-1], inMoving)

    def _join(self, index: int, otherIndex: int, inMoving: bool) -> None:
        """The point `index` of the list on the other side of `inMoving`, and `otherIndex` of that one."""
        fixed, moving = (index, otherIndex) if inMoving else (otherIndex, index)
        join(self._list(False), fixed, self._list(True), moving)

    def _suggest(self, node: Any, index: int, inMoving: bool) -> None:
        place, other, label = points(node)[index], self._list(inMoving), self.ui.suggestionLabel
        name = newName(self._list(False), self._list(True))
        with self._ownChange():
            node.SetNthControlPointLabel(index, name)
        try:
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
            self.update()
            return
        with self._ownChange():
            otherIndex = landmarks.addPoint(other, where, name)
            other.SetNthControlPointDescription(otherIndex, SUGGESTED)
        self._join(index, otherIndex, inMoving)
        self._noteSuggestions()
        self.update()
        number = [row.index(not inMoving) for row in rows(self._list(False), self._list(True))].index(index)
        self.ui.landmarkTable.setCurrentCell(number, 0)
        self._showHeat(suggested)
        self._jumpTo(number)
        self.update()

    def _noteSuggestions(self) -> None:
        """Remember where suggestions are; one that is somewhere else than it was is corrected, and so accepted."""
        for inMoving in (False, True):
            node = self._list(inMoving)
            for index in range(0 if node is None else node.GetNumberOfControlPoints()):
                if node.GetNthControlPointDescription(index) != SUGGESTED:
                    continue
                place = list(node.GetNthControlPointPosition(index))
                key = node.GetID(), node.GetNthControlPointID(index)
                if not np.allclose(self._suggested.setdefault(key, place), place, rtol=0, atol=1e-3):
                    self._settle(node, index)

    def _settle(self, node: Any, index: int) -> None:
        """This suggested point counts from now on."""
        self._suggested.pop((node.GetID(), node.GetNthControlPointID(index)), None)
        with self._ownChange():
            node.SetNthControlPointDescription(index, "")
        self._forgetSuggestion()

    @contextmanager
    def _ownChange(self) -> Iterator[None]:
        """What happens to the lists meanwhile is not the user's doing."""
        before, self._own = self._own, True
        try:
            yield
        finally:
            self._own = before

    def _showHeat(self, suggested: Suggested | None) -> None:
        if suggested is not None and self.matcher is not None:
            self._views.showHeat(self.matcher.heatVolume(suggested), suggested.inMoving)

    def _forgetSuggestion(self) -> None:
        """Nothing more is shown of it; whether it waits stands in the lists."""
        self._views.hideHeat()
        self.ui.suggestionLabel.text = ""

    # Views, table, files

    def _show(self) -> None:
        if self._views.open(self.parameters.fixedVolume, self.parameters.movingVolume):
            self._settling.start()

    def _onRow(self, row: int) -> None:
        self._jumpTo(row)
        self.update()

    def _jumpTo(self, row: int) -> None:
        errors = self.rows()
        if 0 <= row < len(errors):
            self._views.jumpTo(errors[row].fixed, errors[row].moving)

    def _import(self, inMoving: bool) -> None:
        path = chosenFile()
        if not path:
            return
        self._makeLists()
        try:
            with self._ownChange():
                landmarks.importFile(path, self._list(inMoving))
            forget(self._list(False))
        except MasrError as error:
            showError(error)
        self.update()
