"""The Check tab: whether to trust the result, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import qt
import slicer
from masr_registration.errors import InputError, ResourceError
from slicer.i18n import tr as _

from ..mrml import check_report, comparison, landmarks, layouts
from ..mrml.comparison import Comparison
from ..mrml.deformation import DeformationMap
from ..mrml.evidence import verdictSentences
from ..mrml.inputs import InputVolume
from ..mrml.overlap import Overlap, overlaps
from ..mrml.results import MOVING_ROLE, RegistrationResult, storedResult
from .messages import showError
from .tab import Tab

CONTENTS = (comparison.IMAGES, comparison.CHECKERBOARD, comparison.DISPLACEMENT, comparison.JACOBIAN)
"""In the order of the combo box."""
FLICKER_MS = 600
MOST_FOLDS_LISTED = 100


class CheckTab(Tab):
    """Attributes:
    comparison: what the views show; None without a result, and until the views are opened.
    """

    file = "CheckTab.ui"

    def __init__(self, resourcePath: Callable[[str], str]) -> None:
        super().__init__(resourcePath)
        self.comparison: Comparison | None = None
        self._overlaps: list[Overlap] = []
        self._steps: Iterator[float] | None = None
        self._sampling, self._flicker = qt.QTimer(), qt.QTimer()
        self._sampling.setInterval(0)
        self._sampling.connect("timeout()", self._onSample)
        self._flicker.setInterval(FLICKER_MS)
        self._flicker.connect("timeout()", self._onFlicker)
        ui = self.ui
        ui.compareButton.connect("clicked(bool)", lambda: self._show(layouts.COMPARE))
        ui.oneUpButton.connect("clicked(bool)", lambda: self._show(layouts.ONE_UP))
        ui.closeButton.connect("clicked(bool)", self.closeViews)
        ui.contentComboBox.connect("currentIndexChanged(int)", lambda index: self._onContent())
        ui.fadeSlider.connect("valueChanged(double)", self._onFade)
        ui.flickerCheckBox.connect("toggled(bool)", self._onFlickerToggled)
        ui.gridCheckBox.connect("toggled(bool)", self._onGrid)
        ui.foldsList.connect("currentRowChanged(int)", self._onFold)
        ui.measureButton.connect("clicked(bool)", self._onMeasure)
        ui.reportButton.connect("clicked(bool)", self.onReport)
        table = ui.overlapTable
        heads = [_("Segment"), _("Dice before"), _("Dice after"), _("HD95 before, mm"), _("HD95 after, mm")]
        table.setColumnCount(len(heads))
        table.setHorizontalHeaderLabels(heads)
        self.parametersChanged(None)

    def parametersChanged(self, parameters: Any) -> None:
        super().parametersChanged(parameters)
        transformNode = self.transformNode
        if self.comparison is not None and self.comparison.transformNode is not transformNode:
            self.closeViews()
        content = storedResult(transformNode)
        self.ui.checkWidget.visible = content is not None
        self.ui.resultLabel.text = (
            _("There is no result to check yet; register two volumes first.")
            if content is None
            else "\n".join(verdictSentences(content))
        )
        sides = parameters and (parameters.fixedSegmentation, parameters.movingSegmentation)
        self.ui.measureButton.enabled = bool(sides and sides[0] and sides[1])
        self._showFolds()

    def resultArrived(self, result: RegistrationResult) -> None:
        self.closeViews()
        self._open(result.transformNode, result.volumeNode, layouts.COMPARE)

    def resultReverted(self) -> None:
        self.closeViews()

    def cleanup(self) -> None:
        self.closeViews()

    def closeViews(self) -> None:
        """The layout as before; nothing is left in the scene."""
        self._sampling.stop()
        self._steps = None
        self.ui.flickerCheckBox.checked = self.ui.gridCheckBox.checked = False
        self.ui.contentComboBox.currentIndex = 0
        self.ui.mapLabel.text = ""
        if self.comparison is not None:
            self.comparison.close()
            self.comparison = None
        self._overlaps = []
        self.ui.overlapTable.setRowCount(0)
        self._showFolds()

    def onReport(self) -> None:
        """Save the page where the user wants it, and open it in the browser."""
        name = f"{self.transformNode.GetName()}.html".replace("/", "-")
        path = qt.QFileDialog.getSaveFileName(
            slicer.util.mainWindow(), _("Save report"), name, _("Web page (*.html)")
        )
        if not path:
            return
        if self.comparison is None:
            self._show(layouts.COMPARE)
        with slicer.util.WaitCursor():
            page = check_report.reportPage(
                self.transformNode,
                check_report.pictures(),
                self._folds(),
                self._overlaps,
                landmarks.errors(*self._landmarkLists(), self.transformNode, self._movingNode()),
            )
            try:
                Path(path).write_text(page, encoding="utf-8")
            except OSError:
                showError(ResourceError(_("The report could not be written: is the folder read-only?")))
                return
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(path))

    def _show(self, layout: int) -> None:
        if self.comparison is None:
            self._open(self.transformNode, self.parameters.outputVolume, layout)
        else:
            self.comparison.open(layout)
            self._fitSoon()

    def _open(self, transformNode: Any, volumeNode: Any, layout: int) -> None:
        """Show the result, and begin to sample its deformation, a piece at a time."""
        self.comparison = Comparison(transformNode, volumeNode)
        self.comparison.setOpacity(self.ui.fadeSlider.value)
        self.comparison.open(layout)
        self._fitSoon()
        if self.comparison.fixedNode is None:
            self.ui.mapLabel.text = _("The fixed volume was deleted: the deformation cannot be shown.")
            return
        try:
            InputVolume.of(self.comparison.fixedNode)
        except InputError as error:
            self.ui.mapLabel.text = str(error)
            return
        self._map = DeformationMap(transformNode, self.comparison.fixedNode)
        self._steps = self._map.steps()
        self._sampling.start()

    def _fitSoon(self) -> None:
        """New views get their size when the layout is drawn."""
        qt.QTimer.singleShot(0, lambda: layouts.fit(layouts.BEFORE, layouts.AFTER))

    def _onSample(self) -> None:
        if self._steps is None or self.comparison is None:
            self._sampling.stop()
            return
        fraction = next(self._steps)
        self.ui.mapLabel.text = _("Sampling the deformation: {percent} %").format(percent=int(100 * fraction))
        if fraction >= 1:
            self._sampling.stop()
            self._steps = None
            self.ui.mapLabel.text = ""
            self.comparison.setMap(self._map)
            self._showFolds()

    def _onContent(self) -> None:
        if self.comparison is not None:
            with slicer.util.WaitCursor():
                self.comparison.setContent(CONTENTS[self.ui.contentComboBox.currentIndex])

    def _onFade(self, opacity: float) -> None:
        if self.comparison is not None:
            self.comparison.setOpacity(opacity)

    def _onFlickerToggled(self, on: bool) -> None:
        self.ui.fadeSlider.enabled = not on
        if on and self.comparison is not None:
            self._shown = 1.0
            self._flicker.start()
        else:
            self._flicker.stop()
            self._onFade(self.ui.fadeSlider.value)

    def _onFlicker(self) -> None:
        self._shown = 1.0 - self._shown
        self._onFade(self._shown)

    def _onGrid(self, visible: bool) -> None:
        if self.comparison is not None:
            self.comparison.setGrid(visible)

    def _folds(self) -> Any:
        """None while nobody has looked for them."""
        shown = self.comparison
        return None if shown is None or shown.map is None else shown.map.folds

    def _showFolds(self) -> None:
        folds, ui = self._folds(), self.ui
        ui.foldsList.clear()
        ui.foldsList.visible = bool(folds)
        if folds is None:
            ui.foldsLabel.text = _("Open the views to look for folds.")
        elif not folds:
            ui.foldsLabel.text = _("No fold was found at the sampled points.")
        else:
            ui.foldsLabel.text = _("The transform is not one-to-one in {count} places:").format(
                count=len(folds)
            )
        for fold in (folds or [])[:MOST_FOLDS_LISTED]:
            place = ", ".join(f"{x:.1f}" for x in fold.place)
            ui.foldsList.addItem(
                _("{cells} cells around R, A, S = {place}").format(cells=fold.cells, place=place)
            )

    def _onFold(self, row: int) -> None:
        folds = self._folds()
        if folds and 0 <= row < len(folds):
            layouts.jumpTo(folds[row].place)

    def _onMeasure(self) -> None:
        parameters = self.parameters
        try:
            with slicer.util.WaitCursor():
                self._overlaps = overlaps(
                    self.transformNode, parameters.fixedSegmentation, parameters.movingSegmentation
                )
        except InputError as error:
            showError(error)
            return
        table = self.ui.overlapTable
        table.setRowCount(len(self._overlaps))
        for row, o in enumerate(self._overlaps):
            values = (o.diceBefore, o.diceAfter, o.hd95Before, o.hd95After)
            texts = [o.name, *("–" if value is None else f"{value:.2f}" for value in values)]
            for column, text in enumerate(texts):
                table.setItem(row, column, qt.QTableWidgetItem(text))

    def _landmarkLists(self) -> tuple[Any, Any]:
        return self.parameters.fixedLandmarks, self.parameters.movingLandmarks

    def _movingNode(self) -> Any:
        return self.transformNode.GetNodeReference(MOVING_ROLE)
